"""Deadlines and limits on the wire: who joins nothing, who is refused too often, and who does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from socketguard.server.endpoint import ON_PROBATION
from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    HANDSHAKE_REJECTED,
    SESSION_ENDED,
    TRANSPORTS,
    JavaScript,
    Polling,
    Server,
    seen,
    until,
    wire,
)

GOOD, BAD = mint("u-1", tenant_id="acme"), "garbage"


def closing(frame: str) -> Any:
    """What a ``socketguard:closing`` of the main namespace says."""
    assert frame[:2] == "42"
    event, data = json.loads(frame[2:])
    assert event == "socketguard:closing"
    return data


# A session without a namespace

TIMED_OUT = {"code": "connect_timeout", "message": "No namespace was joined in time", "retry": "backoff"}


@pytest.mark.parametrize("before", ["nothing", "refused", "left"])
async def test_a_websocket_that_joins_nothing(serve: Callable[..., Server], before: str) -> None:
    server = serve(options={"connect_timeout": 0.5})
    async with wire(server.url) as session:
        if before == "refused":
            await session.send(f'40/messages,{{"token":"{BAD}"}}')
        elif before == "left":
            await session.send(f'40/messages,{{"token":"{GOOD}"}}')
            await session.send("41/messages,")
        [*answers, frame], closed = await session.end()
    # On a machine that is too slow for them, the deadline comes before the answers.
    expected = {"nothing": "", "refused": '44/messages,{"message":"Malformed token"', "left": '40/messages,{"sid":'}
    assert all(answer.startswith(expected[before]) for answer in answers)
    assert len(answers) <= (before != "nothing")
    assert closing(frame) == TIMED_OUT
    assert closed == (4408, "connect_timeout")
    line = server.wait_for_event(SESSION_ENDED)
    assert (line["reason"], line["level"]) == ("connect_timeout", "warning")
    await asyncio.to_thread(server.wait_until_empty)


def test_a_polling_session_that_joins_nothing(serve: Callable[..., Server]) -> None:
    server = serve(options={"connect_timeout": 0.5})
    session = Polling(server)
    status, body, _ = session.get()
    # The waiting poll is answered, with the reason and perhaps with the CLOSE of Engine.IO.
    packets = body.split("\x1e")
    assert (status, packets[1:]) in ((200, []), (200, ["1"]))
    assert closing(packets[0]) == TIMED_OUT
    if packets[1:] != ["1"]:
        status, body, _ = session.get()
        assert (status, body) == (200, "1") or (status, json.loads(body)["code"]) == (400, "session_unknown")
    assert session.get().status == 400
    assert server.wait_for_event(SESSION_ENDED)["reason"] == "connect_timeout"
    server.wait_until_empty()


# A source of failures


async def test_the_same_refused_connect_again_and_again(serve: Callable[..., Server]) -> None:
    server = serve(limits={"repeats_per_namespace": 3})
    async with wire(server.url) as session:
        for _ in range(4):
            await session.send(f'40/messages,{{"token":"{BAD}"}}')
        found, closed = await session.end()
    assert [frame[:12] for frame in found[:3]] == ["44/messages,"] * 3
    assert closed == (4429, "too_many_failures")
    assert server.wait_for_event(SESSION_ENDED)["reason"] == "too_many_failures"


def test_a_flood_of_bad_tokens(js: JavaScript, serve: Callable[..., Server]) -> None:
    # No proxy is trusted, so that the addresses are those of the connections. An hour, so that no budget grows
    # meanwhile.
    server = serve(trusted_proxies=[], limits={"failures_per_address": "10/hour"}, options={"connect_timeout": 300.0})
    steps = [{"wait": "connect"}, {"signal": f"flooded-{server.port}"}, {"call": ["whoami"]}]
    inside = js.start(server, token=GOOD, steps=steps)
    server.wait_for_event(ACCEPTED)
    for number in range(10):
        transports = list(TRANSPORTS)[number % 3]
        assert js.outcome(server, transports=transports, token=f"{BAD}{number}")["data"]["code"] == "token_malformed"

    # From now on only valid tokens get in from this address,
    for transports in TRANSPORTS:
        assert js.outcome(server, transports=transports, token=BAD)["data"]["code"] == "rate_limited"
        js.play(server, transports=transports, token=GOOD, steps=[{"wait": "connect"}])
    # and only so many may try at a time.
    waiting = [Polling(server, headers={}) for _ in range(ON_PROBATION)]
    assert [session.answer.status for session in waiting] == [200] * ON_PROBATION
    status, body, headers = Polling(server, headers={}).answer
    refusal = json.loads(body)
    assert status == 429
    assert (refusal["code"], refusal["message"], refusal["retry"]) == ("rate_limited", "Too many attempts", "backoff")
    assert int(headers["retry-after"]) == refusal["retry_after"]
    assert 1 <= refusal["retry_after"] <= 360
    for transports in ("polling", "websocket"):
        error = js.outcome(server, transports=transports, token=GOOD, reconnection=True)
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
            server,
            transports=transports,
            token=GOOD,
            local_address="127.0.0.2",
            steps=[{"wait": ["connect", "connect_error"]}, {"call": ["whoami"]}],
        )
        assert found["steps"][-1]["client_address"] == "127.0.0.2"
    js.signal(f"flooded-{server.port}")
    for session in waiting:
        assert session.post("1").status == 200
    assert inside.result()["steps"][-1]["client_address"] == "127.0.0.1"
    status = server.ask("/control/status", "GET")
    assert status["refused"]["token_malformed"] == 10
    server.wait_until_empty()


# Clients that don't read

POURED = 128 * 1024 * 1024
MEMORY = 48 * 1024 * 1024
"""What a server may need for it, with one message of 256 KiB in many places at once."""


# Compressed, all of it would fit into the buffers of the kernel.
UNREAD: dict[str, Any] = {"max_queue": 1, "ping_interval": None, "compression": None}


async def pour(server: Server, sid: str, size: int, times: int) -> None:
    path = f"/control/pour?namespace=/messages&sid={sid}&size={size}&times={times}"
    assert await asyncio.to_thread(server.post, path) == "poured"
    assert (await server.event(CLOSED, sid=sid))["reason"] == "slow_consumer"


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_client_that_does_not_read(js: JavaScript, serve: Callable[..., Server], transport: str) -> None:
    # Nobody is called slow for a pause, only for what waits for him.
    server = serve(limits={"send_timeout": 240})
    size, times = 256 * 1024, POURED // (256 * 1024)
    steps = [{"wait": "connect"}, {"more": {"kind": "event:tick", "times": times}}, {"call": ["whoami"]}]
    readers = [js.start(server, transports=each, token=mint("reader"), steps=steps) for each in TRANSPORTS]
    await until(lambda: len(server.events(ACCEPTED, subject="reader")) == 3, server.output)
    if transport == "websocket":
        async with wire(server.url, **UNREAD) as slow:
            sid, before = await slow.join(GOOD), server.memory()
            await pour(server, sid, size, times)
            # What was on the way when it was dropped; then the end, without or with a close frame.
            await slow.end()
    else:
        session = Polling(server, GOOD)
        before = server.memory()
        await pour(server, session.sid, size, times)
        assert session.get().status == 400
    assert server.memory() - before < MEMORY
    # The others got everything.
    for reader in readers:
        result = await asyncio.to_thread(reader.result)
        assert [note["args"][0] for note in seen(result, "event:tick")] == list(range(times))
        assert not seen(result, "disconnect")
        assert result["steps"][-1]["subject"] == "reader"
    await asyncio.to_thread(server.wait_until_empty)


async def test_a_client_that_takes_nothing_for_long(serve: Callable[..., Server]) -> None:
    # Less than queue_bytes waits for it, so only the time tells.
    server = serve(limits={"queue_bytes": 64 * 1024 * 1024, "send_timeout": 0.9})
    async with wire(server.url, **UNREAD) as slow:
        await pour(server, await slow.join(GOOD), 512 * 1024, 32)
        await slow.end()
    await asyncio.to_thread(server.wait_until_empty)
