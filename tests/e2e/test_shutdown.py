"""What python-engineio and uvicorn would stumble over, and that a server always ends when it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websockets.exceptions

from socketguard.testing import mint
from tests.e2e.support import (
    CLOSED,
    HANDSHAKE_REJECTED,
    Answer,
    JavaScript,
    Polling,
    Server,
    joining,
    new_address,
    wait_until_joined,
    wire,
)

TOKEN = mint("u-1", tenant_id="acme")


@pytest.fixture(scope="module")
def lasting(folder: Any) -> Iterator[Server]:
    """A server that ends well after all tests that used it."""
    with Server(folder, {}) as server:
        yield server
        server.wait_until_empty()
        server.ends_well()
        assert "Traceback" not in server.output()


def check_refusal(server: Server, session: Polling, answer: Answer, told: dict[str, Any]) -> dict[str, Any]:
    """What is said of a refused body, to the client and in the log."""
    line = server.wait_for_event(HANDSHAKE_REJECTED, client_address=session.address)
    assert answer.json == {**told, "ref": line["ref"]}
    assert (line["reason"], line["status"]) == (told["code"], answer.status)
    return line


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("how", ["with its length", "in chunks"])
def test_an_oversize_post_is_answered(lasting: Server, joined: bool, how: str) -> None:
    session = Polling(lasting, TOKEN if joined else None)
    body = '42/messages,["echo","' + "x" * (1_000_000 if joined else 16_384) + '"]'
    pieces = (body[start : start + 4096].encode() for start in range(0, len(body), 4096))
    answer = session.post(pieces if how == "in chunks" else body)
    assert answer.status == 413
    told = {"code": "body_too_large", "message": "Payload too large", "retry": "never"}
    check_refusal(lasting, session, answer, told)


def test_a_member_may_send_as_much_as_the_server_takes(crm: Server) -> None:
    session = Polling(crm, TOKEN)
    text = "x" * 900_000
    assert session.post(f'42/messages,1["echo","{text}"]')[:2] == (200, "ok")
    assert session.get()[:2] == (200, f'43/messages,1["{text}"]')
    session.post("1")


def test_a_post_without_a_length(crm: Server) -> None:
    session = Polling(crm)
    packet = f'40/messages,{{"token":"{TOKEN}"}}'.encode()
    assert session.post(iter((packet[:10], packet[10:])))[:2] == (200, "ok")
    assert session.get().body.startswith('40/messages,{"sid":')
    assert session.post(iter((b'42/messages,7["echo","in chunks"]',)))[:2] == (200, "ok")
    assert session.get()[:2] == (200, '43/messages,7["in chunks"]')
    session.post("1")


def test_seventeen_packets_in_one_post_are_refused_and_sixteen_are_fine(crm: Server) -> None:
    def packets(count: int) -> str:
        return "\x1e".join(f'42/messages,{number}["echo",{number}]' for number in range(count))

    session = Polling(crm, TOKEN)
    assert session.post(packets(16))[:2] == (200, "ok")
    answers: list[str] = []
    while len(answers) < 16:
        answers += session.get().body.split("\x1e")
    assert sorted(answers) == sorted(f"43/messages,{number}[{number}]" for number in range(16))
    answer = session.post(packets(17))
    assert answer.status == 400
    told = {"code": "too_many_packets", "message": "Too many packets", "retry": "backoff"}
    assert "17 packets" in check_refusal(crm, session, answer, told)["hint"]
    assert crm.wait_for_event(CLOSED, client_address=session.address)["reason"] == "parse error"


@pytest.mark.parametrize("path", ["/ws/", "/", "/health"])
async def test_a_websocket_to_a_wrong_path(lasting: Server, path: str) -> None:
    address = new_address()
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with wire(lasting.url, path=path, additional_headers={"X-Forwarded-For": address}):
            pass
    answer = refused.value.response
    [line] = lasting.events(HANDSHAKE_REJECTED, client_address=address)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    told = {"code": "wrong_path", "message": "Not found", "retry": "never", "ref": line["ref"]}
    assert json.loads(answer.body) == told
    assert line["reason"] == "wrong_path"
    assert path in line["hint"]
    assert "'/socket.io/'" in line["hint"]


def test_polling_on_a_wrong_path(js: JavaScript, crm: Server) -> None:
    error = js.outcome(crm, path="/ws", transports="polling", address=new_address())
    assert (error["message"], error["description"]) == ("xhr poll error", 404)
    assert json.loads(error["body"])["code"] == "wrong_path"


@pytest.mark.parametrize("frame", ["hello", "٠/messages,", "44{"])
@pytest.mark.parametrize("joined", [False, True])
async def test_frames_that_are_no_packets_close_with_1003(crm: Server, frame: str, joined: bool) -> None:
    address = new_address()
    async with wire(crm.url, additional_headers={"X-Forwarded-For": address}) as session:
        if joined:
            await session.join(TOKEN)
        await session.send(frame)
        found, closed = await session.end()
    assert (found, closed and closed[0]) == ([], 1003)
    line = crm.wait_for_event("socketguard.packet.rejected", client_address=address)
    assert line["reason"] == "packet_malformed"
    if joined:
        assert crm.wait_for_event(CLOSED, client_address=address)["reason"] == "parse error"


async def test_an_oversize_frame_closes_with_1009(crm: Server) -> None:
    async with wire(crm.url) as session:
        await session.send("40/messages," + json.dumps({"token": "x" * 20_000}))
        found, closed = await session.end()
    assert (found, closed and closed[0]) == ([], 1009)


@pytest.mark.parametrize("joined", [False, True])
async def test_a_connect_after_the_engine_was_closed_leaves_nothing(crm: Server, joined: bool) -> None:
    async with wire(crm.url) as session:
        if joined:
            await session.join(TOKEN, "/attendances")
        await session.send("1")
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            await session.send(f'40/messages,{{"token":"{TOKEN}"}}')
        await session.end()
    await asyncio.to_thread(crm.wait_until_empty)


def test_a_session_that_has_ended_is_unknown(crm: Server) -> None:
    session = Polling(crm)
    session.post("1")
    answer = session.get()
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (400, "session_unknown", "now")


@pytest.mark.parametrize("transports", ["websocket", "upgrade"])
def test_sigterm_with_clients_connected(js: JavaScript, serve: Callable[..., Server], transports: str) -> None:
    server = serve()
    client = js.start(server, transports=transports, token=TOKEN, steps=[*joining(transports), {"wait": "disconnect"}])
    wait_until_joined(server, transports)
    server.ends_well()
    assert client.result()["steps"][-1]["reason"] == "transport close"
    server.wait_for_event(CLOSED)


@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_polling_client_that_leaves_holds_up_nothing(
    js: JavaScript, serve: Callable[..., Server], token: str | None
) -> None:
    # A client that leaves sends Engine.IO's CLOSE in a POST and gives up its waiting GET.
    server = serve()
    js.outcome(server, transports="polling", token=token)
    server.wait_until_empty()
    server.ends_well()
    # To leave is no refusal.
    assert server.events(HANDSHAKE_REJECTED) == []
