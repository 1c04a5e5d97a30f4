"""Leaving well: clients are sent away and come back by themselves, and SIGTERM ends the server whatever clients do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    CLOSING,
    TRANSPORTS,
    UPGRADED,
    JavaScript,
    Polling,
    Server,
    free_port,
    joining,
    seen,
    until,
    wait_until,
    wait_until_joined,
    wire,
)

STARTED, FINISHED = "socketguard.drain.started", "socketguard.drain.finished"
DRAINING = {"code": "draining", "message": "Server is restarting", "retry": "backoff"}
TOKEN = mint("u-1", tenant_id="acme")
JOINED = {"more": {"kind": "connect"}}
CLIENTS = 50


def test_fifty_clients_are_sent_away_and_come_back(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(port=free_port())
    kinds = [list(TRANSPORTS)[number % len(TRANSPORTS)] for number in range(CLIENTS)]
    clients = [
        js.start(
            server,
            transports=transports,
            token=mint(f"u-{number}"),
            reconnection=True,
            reconnectionDelayMax=1000,
            steps=[*joining(transports), JOINED, JOINED],
        )
        for number, transports in enumerate(kinds)
    ]
    wait_until(lambda: len(server.events(ACCEPTED)) == CLIENTS, server.output)
    wait_until(lambda: len(server.events(UPGRADED)) == kinds.count("upgrade"), server.output)

    assert server.ask("/control/drain?over=1.5") == CLIENTS
    assert server.wait_for_event(STARTED)["sessions"] == CLIENTS
    finished = server.wait_for_event(FINISHED)
    assert finished["ended"] == CLIENTS
    assert finished["duration_s"] >= 1.5
    assert {line["reason"] for line in server.events(CLOSED)} == {"draining"}
    assert len(server.events(CLOSED)) == CLIENTS
    status = server.ask("/control/status", "GET")
    assert (status["draining"], status["connections"]["open"], status["sessions"]["open"]) == (True, 0, 0)
    # Nobody gets in meanwhile.
    refused = Polling(server).answer
    assert (refused.status, refused.json["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) == refused.json["retry_after"]
    server.ends_well()

    after = serve(port=server.port)
    for number, (transports, client) in enumerate(zip(kinds, clients, strict=True)):
        result = client.result()
        notes = seen(result, "connect", CLOSING, "disconnect")
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
    server = serve()
    session = Polling(server, TOKEN)
    async with wire(server.url, query=session.path.partition("transport=polling")[2]) as found:
        await found.send("2probe")
        assert await found.frame() == "3probe"
        draining = asyncio.create_task(asyncio.to_thread(server.post, "/control/drain?over=0"))
        await server.event(STARTED)
        await found.send("5")
        assert (await found.end())[1] == (1012, "draining")
        await draining
    await asyncio.to_thread(server.wait_until_empty)


def ends(server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
    """SIGTERM; returns the lines with which the drain began and ended."""
    server.ends_well()
    [started], [finished] = server.events(STARTED), server.events(FINISHED)
    return started, finished


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_sigterm_sends_clients_away_before_the_server_ends(
    js: JavaScript, serve: Callable[..., Server], transports: str
) -> None:
    server = serve(drain_on_sigterm=0.2)
    client = js.start(server, transports=transports, token=TOKEN, steps=[*joining(transports), {"wait": "disconnect"}])
    wait_until_joined(server, transports)
    ends(server)
    result = client.result()
    assert [note["args"] for note in seen(result, CLOSING)] == [[DRAINING]]
    if transports != "polling":
        assert (result["steps"][-1]["reason"], result["steps"][-1]["code"]) == ("transport close", 1012)


def test_its_listeners_are_closed_before_anybody_is_sent_away(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(drain_on_sigterm=4)
    client = js.start(server, token=TOKEN, steps=[*joining("websocket"), {"wait": "disconnect"}])
    wait_until_joined(server, "websocket")
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_event(STARTED)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port)).close()
    assert server.events(CLOSED) == []
    assert client.result()["steps"][-1]["code"] == 1012
    assert server._reap() == -signal.SIGTERM


async def test_sigterm_ends_the_server_whatever_clients_do(js: JavaScript, serve: Callable[..., Server]) -> None:
    # Nothing but the drain ends them before the patience of this test does: no limit, no heartbeat, no ping of uvicorn.
    limits = {"queue_bytes": None, "send_timeout": None}
    server = serve("--ws-ping-interval", "240", drain_on_sigterm=1, limits=limits)
    steps = [{"wait": "connect"}, {"wait": "disconnect"}]
    idle = js.start(server, transports="polling", token=TOKEN, steps=steps)
    # One that has joined and never polls again, and one that never joined.
    Polling(server, TOKEN)
    Polling(server)
    # One that has sent half of a body.
    half = Polling(server, TOKEN)
    body = b'42/messages,["echo","'
    head = f"POST {half.path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000\r\n\r\n"
    # One that has opened a connection and sent nothing, and one with half of a request's head.
    with contextlib.ExitStack() as stack:
        for sent in (head.encode() + body, b"", b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: "):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(sent)
        # One that reads nothing, with much on its way.
        unread = {"max_queue": 1, "ping_interval": None, "compression": None, "close_timeout": 0.1}
        async with wire(server.url, **unread) as slow:
            sid = await slow.join(TOKEN)
            path = f"/control/pour?namespace=/messages&sid={sid}&size={512 * 1024}&times=64"
            assert await asyncio.to_thread(server.post, path) == "poured"
            await until(lambda: len(server.events(ACCEPTED)) == 4, server.output)
            started, finished = await asyncio.to_thread(ends, server)
    assert (started["sessions"], started["over_s"], finished["ended"]) == (5, 1, 5)
    assert finished["duration_s"] >= 1
    assert [line["reason"] for line in server.events(CLOSED)] == ["draining"] * 4
    result = await asyncio.to_thread(idle.result)
    assert [note["args"] for note in seen(result, CLOSING)] == [[DRAINING]]
