"""Clients that don't read what is sent to them are dropped; those that read, however much it is, are not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketguard import Limits
from socketguard.server.socket import BURST
from tests.scripted import (
    UNLIMITED,
    Client,
    Clock,
    Events,
    Guarded,
    Line,
    Socket,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    rest,
    until,
)

LIMIT = 1000
GRACE = 5
"""Seconds that a client has to take something when more than the limit waits for it."""
SEND_TIMEOUT, ROUNDS = 30, 3
"""Seconds within which something must be taken, and how often that is looked at."""


def limited(**limits: Any) -> Guarded:
    values = {"queue_bytes": LIMIT, "send_timeout": float(SEND_TIMEOUT), **limits}
    return guarded("/messages", "/other", limits=Limits(**values))


async def cut_off(case: Guarded | None = None, **limits: Any) -> tuple[Guarded, Line, Socket]:
    """A WebSocket that has joined and takes nothing more: its line is cut."""
    case = case or limited(**limits)
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    return case, line, wire


async def emit(case: Guarded, *sizes: int) -> None:
    """Emit packets of exactly so many characters."""
    for size in sizes:
        await case.server.emit("x", "y" * (size - len('2/messages,["x",""]')), namespace="/messages")


async def burst(case: Guarded, *sizes: int) -> None:
    """Hand packets to python-engineio within one turn of the loop; `emit` takes several."""
    for size in sizes:
        text = '2/messages,["x","' + "y" * (size - len('2/messages,["x",""]')) + '"]'
        await case.server.eio.send(case.eio_sid, text)


TICK = 1
"""Seconds within which what was too much at once is seen."""


async def kept(case: Guarded, clock: Clock, *, seconds: float = 0, times: int = 1) -> bool:
    """Whether the session is still served after a while, which may pass several times."""
    for _ in range(times):
        if seconds:
            clock.passes(seconds)
        await rest()
        status = case.guard.status()
        if not status["sessions"]["open"] or status["timers"]["ending"]:
            return False
    return True


async def dropped(case: Guarded, clock: Clock, wire: Socket | None = None) -> None:
    """The session is ended; some clients never read the close frame either."""
    await rest()
    clock.passes(GRACE)
    if wire is not None:
        await wire.close()
    await until(lambda: not case.guard.status()["sessions"]["open"])


# WebSocket


async def test_a_websocket_that_takes_nothing_is_dropped(clock: Clock, events: Events) -> None:
    case = limited()
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    await wire.join("/other")
    line.open.clear()
    await emit(case, 600, 600, 600)
    assert await kept(case, clock, seconds=GRACE - 0.5)
    assert not lines(events, "connection.closed")
    clock.passes(0.5)
    assert await wire.closed() == ([], 4413)
    await dropped(case, clock, wire)
    closed = lines(events, "connection.closed")
    assert {line["namespace"] for line in closed} == {"/messages", "/other"}
    assert {line["reason"] for line in closed} == {"slow_consumer"}
    assert not lines(events, "session.ended"), "the canonical lines say it"


async def test_nothing_is_kept_for_a_client_that_is_being_dropped(clock: Clock, events: Events) -> None:
    case = limited()
    line = Line(case.app, all_of_it=True)
    wire, _ = await joined_wire(line)
    line.open.clear()
    socket = case.server.eio.sockets[case.eio_sid]
    await burst(case, *[LIMIT] * (BURST + 1))
    assert await kept(case, clock, seconds=TICK)
    # Whoever goes on emitting fills no memory.
    held = socket.size
    await burst(case, *[LIMIT] * 20)
    assert socket.size == held == LIMIT * (BURST + 1)
    clock.passes(TICK)
    await dropped(case, clock, wire)
    assert lines(events, "connection.closed")[0]["reason"] == "slow_consumer"


@pytest.mark.parametrize("all_of_it", [True, False])
async def test_a_client_that_stalls_for_send_timeout_is_dropped(all_of_it: bool, clock: Clock, events: Events) -> None:
    case = limited()
    line = Line(case.app, all_of_it=all_of_it)
    wire, _ = await joined_wire(line)
    line.open.clear()
    await emit(case, 100)
    await until(lambda: line.waiting == 1)
    for _ in range(ROUNDS):
        assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS)
    clock.passes(SEND_TIMEOUT / ROUNDS)
    await dropped(case, clock, wire)
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == "slow_consumer"


async def test_a_stalled_client_that_has_joined_nothing_has_a_line_too(clock: Clock, events: Events) -> None:
    case = guarded(limits=Limits(queue_bytes=LIMIT), connect_timeout=None)
    line = Line(case.app)
    wire = await open_wire(line)
    line.open.clear()
    await wire.send(connect_packet(token=None))
    await until(lambda: line.waiting == 1)
    for _ in range(ROUNDS + 1):
        clock.passes(SEND_TIMEOUT / ROUNDS)
        await rest()
    assert (await wire.closed())[1] == 4413
    await wire.close()
    (ended,) = lines(events, "session.ended")
    assert ended["reason"] == "slow_consumer"
    assert "does not read" in ended["hint"]


@pytest.mark.parametrize("stalls", [False, True])
async def test_a_line_that_is_slow_but_moves_is_borne(stalls: bool, clock: Clock) -> None:
    case, line, wire = await cut_off()
    await emit(case, *[600] * 6)
    for _ in range(2):
        await rest()
        line.open.set()
        assert str(await wire.frame()).startswith('42/messages,["x"')
        line.open.clear()
        assert await kept(case, clock, seconds=GRACE)
    if stalls:
        clock.passes(GRACE)
        await dropped(case, clock, wire)
        return
    line.open.set()
    while len(await wire.frames()):
        pass
    assert await kept(case, clock, seconds=3 * GRACE)


@pytest.mark.parametrize(
    ("sizes", "at_once", "later"),
    [
        ([100, LIMIT], True, True),
        ([LIMIT] * (BURST + 1), True, False),
        ([LIMIT] * (BURST + 1) + [100], False, False),
        # One packet alone may be as large as it likes, and python-socketio sends a small one before an attachment.
        ([20 * LIMIT], True, True),
        ([400, 20 * LIMIT], True, True),
        # Small ones that pile up behind a large one.
        ([20 * LIMIT, 600, 600], True, False),
    ],
)
async def test_how_much_may_wait(sizes: list[int], at_once: bool, later: bool, clock: Clock) -> None:
    case, line, wire = await cut_off(send_timeout=None)
    await burst(case, *sizes)
    assert await kept(case, clock, seconds=TICK) is at_once
    if at_once:
        assert await kept(case, clock, seconds=GRACE) is later
    if at_once and later:
        line.open.set()
        for size in sizes:
            assert len(str(await wire.frame())) == size + 1
        # All has been read: what was large counts no more.
        assert await kept(case, clock, seconds=GRACE)
        line.open.clear()
        await burst(case, *[LIMIT] * 3)
        assert await kept(case, clock, seconds=GRACE) is False
    await dropped(case, clock, wire)


async def test_a_burst_that_a_healthy_client_takes(clock: Clock) -> None:
    case = limited()
    wire, _ = await joined_wire(case.app)
    for _ in range(2):
        await burst(case, *[LIMIT] * BURST)
        for _ in range(BURST):
            assert len(str(await wire.frame())) == LIMIT + 1
        assert await kept(case, clock, seconds=GRACE)
    assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS, times=2 * ROUNDS)


async def test_a_binary_event_may_be_larger_than_the_queue(clock: Clock) -> None:
    case = limited()
    wire, _ = await joined_wire(case.app)
    await case.server.emit("x", b"\0" * 20 * LIMIT, namespace="/messages")
    assert str(await wire.frame()).startswith("451-/messages,")
    assert len(await wire.frame()) == 20 * LIMIT
    await emit(case, 100)
    assert len(str(await wire.frame())) == 101
    assert await kept(case, clock, seconds=GRACE)


@pytest.mark.parametrize("what", ["nothing", "heartbeats", "some of it"])
async def test_a_client_that_reads_is_left_alone(what: str, clock: Clock) -> None:
    interval = {"ping_interval": 1, "ping_timeout": 10_000} if what == "heartbeats" else {}
    case = guarded(limits=Limits(queue_bytes=LIMIT), server_options=interval)
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    assert await wire.alive()
    await rest()
    line.open.clear()
    if what == "some of it":
        await emit(case, *[10] * 2 * ROUNDS)
    for _ in range(2 * ROUNDS):
        # That a client answers no ping is python-engineio's to find.
        assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS)
        if what == "some of it":
            line.open.set()
            await wire.frame()
            line.open.clear()
    line.open.set()


async def test_a_healthy_client_is_not_made_to_pay_for_another_one(clock: Clock) -> None:
    case = limited()
    line = Line(case.app)
    slow, _ = await joined_wire(line)
    healthy, _ = await joined_wire(case.app)
    line.open.clear()
    for _ in range(3):
        await emit(case, 600)
        assert len(str(await healthy.frame())) == 601
    clock.passes(GRACE)
    assert (await slow.closed())[1] == 4413
    await emit(case, 100)
    assert len(str(await healthy.frame())) == 101


async def test_without_limits_nobody_is_dropped(clock: Clock) -> None:
    case, line, wire = await cut_off(guarded(limits=UNLIMITED))
    await emit(case, *[100_000] * 50)
    for _ in range(3 * ROUNDS):
        assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS)
    line.open.set()
    for _ in range(50):
        assert len(str(await wire.frame())) == 100_001


@pytest.mark.parametrize("limits", [{"queue_bytes": None}, {"send_timeout": None}])
async def test_each_limit_can_be_turned_off_alone(limits: dict[str, Any], clock: Clock) -> None:
    case, _line, wire = await cut_off(**limits)
    if "queue_bytes" in limits:
        await emit(case, *[100_000] * 50)
        assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS, times=ROUNDS)
        clock.passes(SEND_TIMEOUT / ROUNDS)
    else:
        await emit(case, 600)
        assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS, times=2 * ROUNDS)
        await emit(case, 600, 600, 600)
        clock.passes(GRACE)
    await dropped(case, clock, wire)


# Polling


@pytest.mark.parametrize(
    ("sizes", "seconds", "times"), [([600, 600, 600], GRACE, 1), ([100], SEND_TIMEOUT / ROUNDS, ROUNDS + 1)]
)
async def test_a_client_that_never_polls_is_dropped(
    sizes: list[int], seconds: float, times: int, clock: Clock, events: Events
) -> None:
    case = limited()
    client, _ = await joined_client(case, kind="polling")
    await emit(case, *sizes)
    for _ in range(times):
        clock.passes(seconds)
        await rest()
    await until(lambda: not case.server.eio.sockets)
    (closed,) = lines(events, "connection.closed")
    assert (closed["reason"], closed["transport"]) == ("slow_consumer", "polling")
    assert (await client.http("GET")).json["code"] == "session_unknown"


async def test_a_poll_takes_all_that_waits(clock: Clock) -> None:
    case = limited()
    client, _ = await joined_client(case, kind="polling")
    for _ in range(3):
        await emit(case, *[600] * 4)
        assert len(await client.poll()) == 4
        assert await kept(case, clock, seconds=GRACE)
    assert await kept(case, clock, seconds=SEND_TIMEOUT / ROUNDS, times=2 * ROUNDS)


@pytest.mark.parametrize("read", [True, False])
async def test_an_answer_that_is_not_read_is_not_done(read: bool, clock: Clock) -> None:
    case = limited()
    client, _ = await joined_client(case, kind="polling")
    line = Line(case.app)
    line.open.clear()
    stalled = Client(line, "polling")
    stalled.sid = client.sid
    await emit(case, 600)
    poll = asyncio.ensure_future(stalled.poll())
    await until(lambda: line.waiting)
    await emit(case, 600, 600, 600)
    if read:
        line.open.set()
        assert len(await poll) == 1
    assert await kept(case, clock, seconds=GRACE) is read
    line.open.set()
    if read:
        assert len(await client.poll()) == 3
        await client.close()
    else:
        assert len(await poll) == 1


async def test_what_was_taken_over_polling_counts_after_the_upgrade(clock: Clock) -> None:
    case = limited()
    line = Line(case.app)
    client, _ = await joined_client(line, kind="polling")
    await emit(case, 600)
    assert len(await client.poll()) == 1
    wire = await client.upgrade()
    await emit(case, 600)
    assert str(await client.frame()).startswith("42")
    assert await kept(case, clock, seconds=GRACE)
    # And it is dropped like any other WebSocket.
    line.open.clear()
    await emit(case, *[600] * 4)
    clock.passes(GRACE)
    await dropped(case, clock, wire)


async def test_the_application_hears_of_it_once(clock: Clock) -> None:
    heard: list[str] = []

    async def disconnect(sid: str, reason: str) -> None:
        heard.append(reason)

    case, _, wire = await cut_off(guarded(handlers={"disconnect": disconnect}, limits=Limits(queue_bytes=LIMIT)))
    await emit(case, *[600] * 50)
    clock.passes(GRACE)
    await until(lambda: heard)
    await dropped(case, clock, wire)
    assert len(heard) == 1


@pytest.mark.parametrize("way", ["goes", "draining"])
async def test_a_client_that_goes_while_it_is_watched_is_not_ended_twice(
    way: str, clock: Clock, events: Events
) -> None:
    case, line, wire = await cut_off()
    await emit(case, 600, 600, 600)
    line.open.set()
    if way == "goes":
        await wire.close()
    else:
        assert await case.guard.drain(0) == 1
        await wire.close()
    clock.passes(GRACE)
    await rest()
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == {"goes": "transport close"}.get(way, way)
