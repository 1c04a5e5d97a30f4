"""What python-engineio and uvicorn would stumble over, and that a server always ends when it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
import websockets
import websockets.exceptions

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, JavaScript, Server, new_address, wait_until

TOKEN = mint("u-1", tenant_id="acme")
HANDSHAKE_REJECTED = "socketguard.handshake.rejected"


class Polling:
    """A polling session by hand."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = new_address()
        self.path = "/socket.io/?EIO=4&transport=polling"
        status, body = self.get()
        assert status == 200
        self.path += "&sid=" + json.loads(body[1:])["sid"]

    def _request(self, method: str, body: Any = None, **options: Any) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, self.path, body, {"X-Forwarded-For": self.address}, **options)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def get(self) -> tuple[int, str]:
        return self._request("GET")

    def post(self, body: str) -> tuple[int, str]:
        return self._request("POST", body.encode())

    def post_chunked(self, *chunks: bytes) -> tuple[int, str]:
        return self._request("POST", iter(chunks), encode_chunked=True)

    def join(self) -> None:
        assert self.post(f'40/messages,{{"token":"{TOKEN}"}}') == (200, "OK")
        status, body = self.get()
        assert (status, body[:12]) == (200, "40/messages,")

    def refusal(self) -> dict[str, Any]:
        return self.server.wait_for_event(HANDSHAKE_REJECTED, client_address=self.address)


def ends_well(server: Server) -> None:
    # When all is done, uvicorn raises the signal that it caught once more.
    assert server.terminate() == -signal.SIGTERM
    assert "Application shutdown complete" in server.output()


def ws(server: Server, path: str = "/socket.io/", **headers: str) -> Any:
    url = f"ws://127.0.0.1:{server.port}{path}?EIO=4&transport=websocket"
    return websockets.connect(url, additional_headers=headers, proxy=None)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("how", ["with its length", "in chunks"])
def test_an_oversize_post_is_answered_and_holds_up_nothing(
    serve: Callable[..., Server], joined: bool, how: str
) -> None:
    server = serve()
    session = Polling(server)
    if joined:
        session.join()
    limit = 1_000_000 if joined else 16_384
    body = '42/messages,["echo","' + "x" * limit + '"]'
    if how == "in chunks":
        status, answer = session.post_chunked(
            *(body[start : start + 4096].encode() for start in range(0, len(body), 4096))
        )
    else:
        status, answer = session.post(body)
    assert status == 413
    line = session.refusal()
    assert json.loads(answer) == {
        "code": "body_too_large",
        "message": "Payload too large",
        "retry": "never",
        "ref": line["ref"],
    }
    assert (line["reason"], line["status"]) == ("body_too_large", 413)
    server.wait_until_empty()
    ends_well(server)


def test_a_member_may_send_as_much_as_the_server_takes(crm: Server) -> None:
    session = Polling(crm)
    session.join()
    text = "x" * 900_000
    assert session.post(f'42/messages,1["echo","{text}"]') == (200, "OK")
    status, body = session.get()
    assert status == 200
    assert body == f'43/messages,1["{text}"]'
    session.post("1")


def test_a_post_without_a_length(crm: Server) -> None:
    session = Polling(crm)
    packet = f'40/messages,{{"token":"{TOKEN}"}}'.encode()
    assert session.post_chunked(packet[:10], packet[10:]) == (200, "OK")
    assert session.get()[1].startswith('40/messages,{"sid":')
    assert session.post_chunked(b'42/messages,7["echo","in chunks"]') == (200, "OK")
    assert session.get() == (200, '43/messages,7["in chunks"]')
    session.post("1")


def test_seventeen_packets_in_one_post_are_refused_with_the_reason(crm: Server) -> None:
    session = Polling(crm)
    session.join()
    status, answer = session.post("\x1e".join([f'42/messages,{number}["echo"]' for number in range(17)]))
    line = session.refusal()
    assert status == 400
    assert json.loads(answer) == {
        "code": "too_many_packets",
        "message": "Too many packets",
        "retry": "backoff",
        "ref": line["ref"],
    }
    assert "17 packets" in line["hint"]
    closed = crm.wait_for_event("socketguard.connection.closed", client_address=session.address)
    assert closed["reason"] == "parse error"


def test_sixteen_packets_in_one_post_are_fine(crm: Server) -> None:
    session = Polling(crm)
    session.join()
    body = "\x1e".join(f'42/messages,{number}["echo",{number}]' for number in range(16))
    assert session.post(body) == (200, "OK")
    answers: list[str] = []
    while len(answers) < 16:
        answers += session.get()[1].split("\x1e")
    assert sorted(answers) == sorted(f"43/messages,{number}[{number}]" for number in range(16))
    session.post("1")


@pytest.mark.parametrize("path", ["/ws/", "/", "/health"])
async def test_a_websocket_to_a_wrong_path(serve: Callable[..., Server], path: str) -> None:
    server = serve()
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await ws(server, path)
    answer = refused.value.response
    [line] = server.events(HANDSHAKE_REJECTED)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "code": "wrong_path",
        "message": "Not found",
        "retry": "never",
        "ref": line["ref"],
    }
    assert line["reason"] == "wrong_path"
    assert path in line["hint"]
    assert "'/socket.io/'" in line["hint"]
    ends_well(server)
    assert "Traceback" not in server.output()


def test_polling_on_a_wrong_path(js: JavaScript, crm: Server) -> None:
    error = js.outcome(crm.url, path="/ws", transports="polling", address=new_address())
    assert (error["message"], error["description"]) == ("xhr poll error", 404)
    assert json.loads(error["body"])["code"] == "wrong_path"


@pytest.mark.parametrize("frame", ["", "hello", "7", "٠/messages,", "44{", "4hello"])
@pytest.mark.parametrize("joined", [False, True])
async def test_frames_that_are_no_packets_close_with_1003(crm: Server, frame: str, joined: bool) -> None:
    address = new_address()
    async with ws(crm, **{"X-Forwarded-For": address}) as wire:
        await wire.recv()
        if joined:
            await wire.send(f'40/messages,{{"token":"{TOKEN}"}}')
            await wire.recv()
        await wire.send(frame)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            await asyncio.wait_for(wire.recv(), PATIENCE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003
    line = crm.wait_for_event("socketguard.packet.rejected", client_address=address)
    assert line["reason"] == "packet_malformed"
    if joined:
        end = crm.wait_for_event("socketguard.connection.closed", client_address=address)
        assert end["reason"] == "parse error"


async def test_an_oversize_frame_closes_with_1009(crm: Server) -> None:
    async with ws(crm, **{"X-Forwarded-For": new_address()}) as wire:
        await wire.recv()
        await wire.send("40/messages," + json.dumps({"token": "x" * 20_000}))
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            await asyncio.wait_for(wire.recv(), PATIENCE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize("joined", [False, True])
async def test_a_connect_after_the_engine_was_closed_leaves_nothing(crm: Server, joined: bool) -> None:
    async with ws(crm, **{"X-Forwarded-For": new_address()}) as wire:
        await wire.recv()
        if joined:
            await wire.send(f'40/attendances,{{"token":"{TOKEN}"}}')
            await wire.recv()
        await wire.send("1")
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            await wire.send(f'40/messages,{{"token":"{TOKEN}"}}')
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            while True:
                await asyncio.wait_for(wire.recv(), PATIENCE)
    await asyncio.to_thread(wait_until, lambda: not crm.state().get("environ"), crm.output)
    await asyncio.to_thread(crm.wait_until_empty)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_an_unknown_session(crm: Server, transport: str) -> None:
    session = Polling(crm)
    session.post("1")
    session.path = f"/socket.io/?EIO=4&transport=polling&sid={'x' * 20}"
    status, body = session.get()
    assert (status, json.loads(body)["code"], json.loads(body)["retry"]) == (400, "session_unknown", "now")


@pytest.mark.parametrize("transports", ["websocket", "upgrade"])
def test_sigterm_with_clients_connected(js: JavaScript, serve: Callable[..., Server], transports: str) -> None:
    server = serve()
    steps: list[dict[str, Any]] = [{"wait": "connect"}]
    if transports == "upgrade":
        steps.append({"wait": "upgrade"})
    future = js.start(server.url, transports=transports, token=TOKEN, steps=[*steps, {"wait": "disconnect"}])
    server.wait_for_event("socketguard.connection.accepted")
    if transports == "upgrade":
        server.wait_for_event("socketguard.transport.upgraded")
    ends_well(server)
    assert future.result(60)["steps"][-1]["reason"] == "transport close"
    server.wait_for_event("socketguard.connection.closed")


@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_polling_client_that_leaves_holds_up_nothing(
    js: JavaScript, serve: Callable[..., Server], token: str | None
) -> None:
    # A client that leaves sends Engine.IO's CLOSE in a POST and gives up its waiting GET.
    server = serve()
    js.outcome(server.url, transports="polling", token=token)
    server.wait_until_empty()
    ends_well(server)
    # To leave is no refusal.
    assert server.events(HANDSHAKE_REJECTED) == []
