"""Deadlines and limits on the wire: who joins nothing, who is refused too often, and who does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import websockets
import websockets.exceptions

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Polling, Server, seen, wait_until

CLOSED, REJECTED = "socketguard.connection.closed", "socketguard.connection.rejected"
SESSION_ENDED = "socketguard.session.ended"
HANDSHAKE_REJECTED = "socketguard.handshake.rejected"
GOOD, BAD = mint("u-1", tenant_id="acme"), "garbage"


def ws(server: Server, **options: Any) -> Any:
    url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
    return websockets.connect(url, proxy=None, **options)


async def frames(wire: Any) -> tuple[list[str], websockets.exceptions.ConnectionClosed]:
    """All frames but pings until the server closes, and how it does."""
    found = []
    try:
        while True:
            frame = await asyncio.wait_for(wire.recv(), PATIENCE)
            if frame == "2":
                await wire.send("3")
            else:
                found.append(frame)
    except websockets.exceptions.ConnectionClosed as closed:
        return found, closed


def close_of(closed: websockets.exceptions.ConnectionClosed) -> tuple[int, str]:
    assert closed.rcvd is not None
    return closed.rcvd.code, closed.rcvd.reason


# A session without a namespace

TIMED_OUT = {"code": "connect_timeout", "message": "No namespace was joined in time", "retry": "backoff"}


def closing(frame: str) -> Any:
    """What a ``socketguard:closing`` of the main namespace says."""
    assert frame[:2] == "42"
    event, data = json.loads(frame[2:])
    assert event == "socketguard:closing"
    return data


@pytest.mark.parametrize("before", ["nothing", "refused", "left"])
async def test_a_websocket_that_joins_nothing(serve: Callable[..., Server], before: str) -> None:
    server = serve(options={"connect_timeout": 0.5})
    async with ws(server) as wire:
        assert (await wire.recv())[0] == "0"
        if before == "refused":
            await wire.send(f'40/messages,{{"token":"{BAD}"}}')
            assert (await wire.recv()).startswith('44/messages,{"message":"Malformed token"')
        elif before == "left":
            await wire.send(f'40/messages,{{"token":"{GOOD}"}}')
            assert (await wire.recv()).startswith("40/messages,")
            await wire.send("41/messages,")
        [frame], closed = await frames(wire)
    assert closing(frame) == TIMED_OUT
    assert close_of(closed) == (4408, "connect_timeout")
    line = server.wait_for_event(SESSION_ENDED)
    assert (line["reason"], line["level"]) == ("connect_timeout", "warning")
    await asyncio.to_thread(server.wait_until_empty)


def test_a_polling_session_that_joins_nothing(serve: Callable[..., Server]) -> None:
    server = serve(options={"connect_timeout": 0.5})
    session = Polling(server, None)
    status, _, body = session.get()
    # The waiting poll is answered, with the reason and perhaps with the CLOSE of Engine.IO.
    packets = body.split("\x1e")
    assert (status, packets[1:]) in ((200, []), (200, ["1"]))
    assert closing(packets[0]) == TIMED_OUT
    if packets[1:] != ["1"]:
        status, _, body = session.get()
        assert (status, body) == (200, "1") or (status, json.loads(body)["code"]) == (400, "session_unknown")
    assert session.get()[0] == 400
    assert server.wait_for_event(SESSION_ENDED)["reason"] == "connect_timeout"
    server.wait_until_empty()


# A source of failures


async def test_the_same_refused_connect_again_and_again(serve: Callable[..., Server]) -> None:
    server = serve(limits={"repeats_per_namespace": 3})
    async with ws(server) as wire:
        await wire.recv()
        for _ in range(4):
            await wire.send(f'40/messages,{{"token":"{BAD}"}}')
        found, closed = await frames(wire)
    assert [frame[:12] for frame in found[:3]] == ["44/messages,"] * 3
    assert close_of(closed) == (4429, "too_many_failures")
    assert server.wait_for_event(SESSION_ENDED)["reason"] == "too_many_failures"


def test_a_flood_of_bad_tokens(js: JavaScript, serve: Callable[..., Server]) -> None:
    # No proxy is trusted, so that the addresses are those of the connections. An hour, so that no budget grows
    # meanwhile.
    server = serve(trusted_proxies=[], limits={"failures_per_address": "10/hour"})
    steps = [{"wait": "connect"}, {"signal": f"flooded-{server.port}"}, {"call": ["whoami"]}]
    inside = js.start(server.url, token=GOOD, steps=steps)
    server.wait_for_event("socketguard.connection.accepted")
    for number in range(10):
        transports = list(TRANSPORTS)[number % 3]
        assert js.outcome(server.url, transports=transports, token=BAD)["data"]["code"] == "token_malformed"

    # From now on there is no session for this address, whatever its token.
    session = Polling(server, None)
    status, headers, body = session.answer
    refusal = json.loads(body)
    assert status == 429
    assert (refusal["code"], refusal["message"], refusal["retry"]) == ("rate_limited", "Too many attempts", "backoff")
    assert int(headers["retry-after"]) == refusal["retry_after"]
    assert 1 <= refusal["retry_after"] <= 360
    for transports in ("polling", "websocket"):
        error = js.outcome(server.url, transports=transports, token=GOOD, reconnection=True)
        assert error["kind"] == "connect_error"
        # It tries again by itself, more and more rarely.
        assert error["active"] is True
        if transports == "polling":
            assert (error["message"], error["description"]) == ("xhr poll error", 429)
            assert json.loads(error["body"])["code"] == "rate_limited"
        else:
            # Only the first ones get a status of their own over WebSocket: uvicorn logs an error for each.
            assert error["message"] == "websocket error"
            assert error["description"] in {f"Unexpected server response: {status}" for status in (403, 429)}
    line = server.wait_for_event(HANDSHAKE_REJECTED, reason="rate_limited")
    assert (line["status"], line["client_address"]) == (429, "127.0.0.1")
    assert "failures_per_address" in line["hint"]

    # Others don't notice.
    for transports in TRANSPORTS:
        found = js.play(
            server.url,
            transports=transports,
            token=GOOD,
            local_address="127.0.0.2",
            steps=[{"wait": ["connect", "connect_error"]}, {"call": ["whoami"]}],
        )
        assert found["steps"][-1]["client_address"] == "127.0.0.2"
    js.signal(f"flooded-{server.port}")
    assert inside.result(60)["steps"][-1]["client_address"] == "127.0.0.1"
    status = json.loads(server.request("/control/status"))
    assert status["refused"]["token_malformed"] == 10
    server.wait_until_empty()


# Clients that don't read

POURED = 128 * 1024 * 1024
MEMORY = 48 * 1024 * 1024
"""What a server may need for it, with one message of 256 KiB in many places at once."""


async def slow_websocket(server: Server) -> tuple[Any, str]:
    """A client that has joined and reads nothing any more."""
    # Compressed, all of it would fit into the buffers of the kernel.
    wire = await ws(server, max_queue=1, ping_interval=None, compression=None)
    await wire.recv()
    await wire.send(f'40/messages,{{"token":"{GOOD}"}}')
    return wire, sid_of(await wire.recv())


def slow_polling(server: Server) -> tuple[Polling, str]:
    session = Polling(server, GOOD)
    return session, sid_of(session.get()[2])


def sid_of(frame: str) -> str:
    return str(json.loads(frame.removeprefix("40/messages,"))["sid"])


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_client_that_does_not_read(js: JavaScript, serve: Callable[..., Server], transport: str) -> None:
    server = await asyncio.to_thread(serve)
    size, times = 256 * 1024, POURED // (256 * 1024)
    readers = [
        js.start(
            server.url,
            transports=transports,
            token=mint("reader"),
            steps=[{"wait": "connect"}, {"more": {"kind": "event:tick", "times": times}}, {"call": ["whoami"]}],
        )
        for transports in TRANSPORTS
    ]
    accepted = "socketguard.connection.accepted"
    await asyncio.to_thread(wait_until, lambda: len(server.events(accepted, subject="reader")) == 3, server.output)
    if transport == "websocket":
        slow, sid = await slow_websocket(server)
    else:
        slow, sid = await asyncio.to_thread(slow_polling, server)
    before = server.memory()
    path = f"/control/pour?namespace=/messages&sid={sid}&size={size}&times={times}"
    assert await asyncio.to_thread(server.post, path) == "poured"
    closed = await asyncio.to_thread(server.wait_for_event, CLOSED, sid=sid)
    assert closed["reason"] == "slow_consumer"
    grown = server.memory() - before
    assert grown < MEMORY
    # The others got everything.
    for reader in readers:
        result = await asyncio.to_thread(reader.result, 3 * PATIENCE)
        assert [note["args"][0] for note in seen(result, "event:tick")] == list(range(times))
        assert not seen(result, "disconnect")
        assert result["steps"][-1]["subject"] == "reader"
    if transport == "websocket":
        # What was on the way when it was dropped; then the end, without or with a close frame.
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            while True:
                await asyncio.wait_for(slow.recv(), PATIENCE)
    else:
        assert (await asyncio.to_thread(slow.get))[0] == 400
    await asyncio.to_thread(server.wait_until_empty)


async def test_a_client_that_takes_nothing_for_long(serve: Callable[..., Server]) -> None:
    # Less than queue_bytes waits for it, so only the time tells.
    server = await asyncio.to_thread(serve, limits={"queue_bytes": 64 * 1024 * 1024, "send_timeout": 0.9})
    wire, sid = await slow_websocket(server)
    path = f"/control/pour?namespace=/messages&sid={sid}&size={512 * 1024}&times=32"
    assert await asyncio.to_thread(server.post, path) == "poured"
    closed = await asyncio.to_thread(server.wait_for_event, CLOSED, sid=sid)
    assert closed["reason"] == "slow_consumer"
    with pytest.raises(websockets.exceptions.ConnectionClosed):
        while True:
            await asyncio.wait_for(wire.recv(), PATIENCE)
    await asyncio.to_thread(server.wait_until_empty)
