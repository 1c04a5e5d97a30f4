"""Leaving well: clients are sent away and come back by themselves, and SIGTERM ends the server whatever clients do."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import websockets
import websockets.exceptions

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Polling, Server, free_port, wait_until

ACCEPTED, CLOSED = "socketguard.connection.accepted", "socketguard.connection.closed"
STARTED, FINISHED = "socketguard.drain.started", "socketguard.drain.finished"
CLOSING = "event:socketguard:closing"
DRAINING = {"code": "draining", "message": "Server is restarting", "retry": "backoff"}
TOKEN = mint("u-1", tenant_id="acme")
JOINED = {"more": {"kind": "connect"}}
CLIENTS = 50


def ws(server: Server, query: str = "", **options: Any) -> Any:
    url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket{query}"
    return websockets.connect(url, proxy=None, **options)


def test_fifty_clients_are_sent_away_and_come_back(js: JavaScript, serve: Callable[..., Server]) -> None:
    port = str(free_port())
    server = serve("--port", port)
    kinds = [list(TRANSPORTS)[number % len(TRANSPORTS)] for number in range(CLIENTS)]
    clients = [
        js.start(
            server.url,
            transports=transports,
            token=mint(f"u-{number}"),
            reconnection=True,
            reconnectionDelayMax=1000,
            steps=[*([{"wait": "upgrade"}] if transports == "upgrade" else []), {"wait": "connect"}, JOINED, JOINED],
        )
        for number, transports in enumerate(kinds)
    ]
    wait_until(lambda: len(server.events(ACCEPTED)) == CLIENTS, server.output)
    upgraded = "socketguard.transport.upgraded"
    wait_until(lambda: len(server.events(upgraded)) == kinds.count("upgrade"), server.output)

    assert json.loads(server.post("/control/drain?over=1.5")) == CLIENTS
    assert server.wait_for_event(STARTED)["sessions"] == CLIENTS
    finished = server.wait_for_event(FINISHED)
    assert finished["ended"] == CLIENTS
    assert 1.5 <= finished["duration_s"] < 1.5 + PATIENCE
    assert {line["reason"] for line in server.events(CLOSED)} == {"draining"}
    assert len(server.events(CLOSED)) == CLIENTS
    status = json.loads(server.request("/control/status"))
    assert (status["draining"], status["connections"]["open"], status["sessions"]["open"]) == (True, 0, 0)
    # Nobody gets in meanwhile.
    answer, headers, body = Polling(server, None).answer
    assert (answer, json.loads(body)["code"]) == (503, "draining")
    assert int(headers["retry-after"]) == json.loads(body)["retry_after"]
    assert server.terminate() == -signal.SIGTERM

    after = serve("--port", port)
    for number, (transports, client) in enumerate(zip(kinds, clients, strict=True)):
        result = client.result(3 * PATIENCE)
        notes = [note for note in result["seen"] if note["kind"] in ("connect", CLOSING, "disconnect")]
        assert [note["kind"] for note in notes] == ["connect", CLOSING, "disconnect", "connect"], number
        assert notes[1]["args"] == [DRAINING]
        assert notes[2]["active"] is True
        if transports == "polling":
            assert notes[2]["reason"] in ("transport close", "transport error")
        else:
            assert (notes[2]["reason"], notes[2]["code"]) == ("transport close", 1012)
    assert len(after.events(ACCEPTED)) == CLIENTS
    after.wait_until_empty()


async def test_a_session_that_is_being_upgraded_is_closed_with_the_code(serve: Callable[..., Server]) -> None:
    # Once its probe is answered, socket.io-client has stopped polling: only a WebSocket that is closed after the
    # upgrade tells it anything.
    server = await asyncio.to_thread(serve)
    session = await asyncio.to_thread(Polling, server, TOKEN)
    assert (await asyncio.to_thread(session.get))[2].startswith("40/messages,")
    async with ws(server, session.path.partition("transport=polling")[2]) as wire:
        await wire.send("2probe")
        assert await wire.recv() == "3probe"
        draining = asyncio.create_task(asyncio.to_thread(server.post, "/control/drain?over=0"))
        await asyncio.to_thread(server.wait_for_event, STARTED)
        await wire.send("5")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            while True:
                await asyncio.wait_for(wire.recv(), PATIENCE)
        await draining
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "draining")
    await asyncio.to_thread(server.wait_until_empty)


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_sigterm_sends_clients_away_before_the_server_ends(
    js: JavaScript, serve: Callable[..., Server], transports: str
) -> None:
    server = serve(drain_on_sigterm=0.2)
    steps: list[dict[str, Any]] = [{"wait": "connect"}, {"wait": "disconnect"}]
    if transports == "upgrade":
        steps.insert(1, {"wait": "upgrade"})
    client = js.start(server.url, transports=transports, token=TOKEN, steps=steps)
    server.wait_for_event(ACCEPTED)
    if transports == "upgrade":
        server.wait_for_event("socketguard.transport.upgraded")
    ends(server)
    result = client.result(60)
    assert [note["args"] for note in result["seen"] if note["kind"] == CLOSING] == [[DRAINING]]
    if transports != "polling":
        assert (result["steps"][-1]["reason"], result["steps"][-1]["code"]) == ("transport close", 1012)


def ends(server: Server) -> float:
    """SIGTERM; returns how many seconds the process took to end, which it did as ever."""
    begun = time.monotonic()
    # When all is done, uvicorn raises the signal that it caught once more.
    assert server.terminate() == -signal.SIGTERM, server.output()
    took = time.monotonic() - begun
    assert len(server.events(STARTED)) == len(server.events(FINISHED)) == 1
    assert "Application shutdown complete" in server.output()
    return took


async def test_sigterm_ends_the_server_whatever_clients_do(js: JavaScript, serve: Callable[..., Server]) -> None:
    # Nothing else may end the slow consumer here.
    unlimited = {"queue_bytes": None, "send_timeout": None}
    server = await asyncio.to_thread(serve, drain_on_sigterm=1, limits=unlimited)
    steps = [{"wait": "connect"}, {"wait": "disconnect"}]
    idle = js.start(server.url, transports="polling", token=TOKEN, steps=steps)
    # One that has joined and never polls again, and one that never joined.
    await asyncio.to_thread(Polling, server, TOKEN)
    await asyncio.to_thread(Polling, server, None)
    # One that has sent half of a body.
    half = await asyncio.to_thread(Polling, server, TOKEN)
    with socket.create_connection(("127.0.0.1", server.port)) as half_sent:
        head = f"POST {half.path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000\r\n\r\n"
        half_sent.sendall(head.encode() + b'42/messages,["echo","')
        # One that has opened a connection and sent nothing, and one with half of a request's head.
        with (
            socket.create_connection(("127.0.0.1", server.port)),
            socket.create_connection(("127.0.0.1", server.port)) as half_head,
        ):
            half_head.sendall(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: ")
            # One that reads nothing, with much on its way.
            async with ws(server, max_queue=1, ping_interval=None, compression=None, close_timeout=0.1) as wire:
                await wire.recv()
                await wire.send(f'40/messages,{{"token":"{TOKEN}"}}')
                sid = json.loads((await wire.recv()).removeprefix("40/messages,"))["sid"]
                path = f"/control/pour?namespace=/messages&sid={sid}&size={512 * 1024}&times=64"
                assert await asyncio.to_thread(server.post, path) == "poured"
                await asyncio.to_thread(wait_until, lambda: len(server.events(ACCEPTED)) == 4, server.output)
                took = await asyncio.to_thread(ends, server)
                assert took < 8
    [started], [finished] = server.events(STARTED), server.events(FINISHED)
    assert (started["sessions"], started["over_s"], finished["ended"]) == (5, 1, 5)
    assert 1 <= finished["duration_s"] < 8
    closed = server.events(CLOSED)
    assert [line["reason"] for line in closed] == ["draining"] * 4
    result = await asyncio.to_thread(idle.result, 60)
    assert [note["args"] for note in result["seen"] if note["kind"] == CLOSING] == [[DRAINING]]
