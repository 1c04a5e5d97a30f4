"""Clients that don't read what is sent to them are dropped; those that read, however much it is, are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from socketguard import Limits
from socketguard.server.sessions import BURST, GRACE, SWEEPS, Sessions
from socketguard.server.websocket import WebSocket
from socketguard.testing import Wire, capture_events
from tests.core.driver import (
    UNLIMITED,
    Guarded,
    Polling,
    a_session,
    connect_packet,
    guarded,
    joined_wire,
    nothing_left,
    open_wire,
    until,
)

LIMIT = 1000


class Later:
    """Stands in for the timers by which slow clients are found: they run when a test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, callback: Callable[..., None], *args: Any) -> Any:
        entry = (seconds, lambda: callback(*args))
        self.calls.append(entry)
        return SimpleNamespace(cancel=lambda: self.calls.remove(entry))

    def run(self, seconds: float) -> None:
        """Run those that wait for so many seconds."""
        due = [entry for entry in self.calls if entry[0] == seconds]
        assert due, f"nobody looks after {seconds} s: {self.calls}"
        self.calls = [entry for entry in self.calls if entry not in due]
        for _, call in due:
            call()

    @property
    def watched(self) -> int:
        """How many sessions hold more than they should."""
        return sum(seconds == GRACE for seconds, _ in self.calls)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    made = Later()
    monkeypatch.setattr(Sessions, "_later", staticmethod(made))
    # Some clients here never read a close frame either.
    monkeypatch.setattr("socketguard.server.websocket.CLOSE_TIMEOUT", 0.02)
    return made


class Line:
    """An application behind a line that can be cut: what is sent then waits, and nothing is lost."""

    def __init__(self, app: Any, *, all_of_it: bool = False) -> None:
        self.app = app
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0
        self._kinds = ("websocket.send", "websocket.close") if all_of_it else ("websocket.send",)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: dict[str, Any]) -> None:
            if message["type"] in self._kinds:
                self.waiting += 1
                await self.open.wait()
                self.waiting -= 1
            await send(message)

        await self.app(scope, receive, slowly)


def limited(**limits: Any) -> Guarded:
    values = {"queue_bytes": LIMIT, "send_timeout": 30.0, **limits}
    return guarded("/messages", "/other", limits=Limits(**values))


async def emit(case: Guarded, size: int, *, count: int = 1, **options: Any) -> None:
    """Emit packets of exactly so many characters."""
    overhead = len('2/messages,["x",""]')
    for _ in range(count):
        await case.server.emit("x", "y" * (size - overhead), namespace="/messages", **options)


async def burst(case: Guarded, size: int, count: int) -> None:
    """Hand packets of so many characters to python-engineio within one turn of the loop; `emit` takes several."""
    packet = '2/messages,["x","' + "y" * (size - len('2/messages,["x",""]')) + '"]'
    for _ in range(count):
        await case.server.eio.send(only_session(case).eio_sid, packet)


def only_session(case: Guarded) -> Any:
    (session,) = case.seam.sessions.open
    return session


def lines(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == f"socketguard.{name}"]


async def frames_until_closed(wire: Wire) -> tuple[list[str], int | None]:
    frames: list[str] = []
    with contextlib.suppress(ConnectionError):
        while True:
            frames.append(str(await wire.frame()))
    return frames, wire.close_code


# WebSocket


async def test_a_websocket_that_takes_nothing_is_dropped(later: Later) -> None:
    case = limited()
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    await wire.send(connect_packet("/other"))
    assert str(await wire.frame()).startswith("40/other,")
    line.open.clear()
    with capture_events() as events:
        await emit(case, 600, count=3)
        await until(lambda: line.waiting == 1)
        assert later.watched == 1
        assert not lines(events, "connection.closed")
        later.run(GRACE)
        frames, code = await frames_until_closed(wire)
        await until(lambda: not case.seam.sessions.open)
        await wire.close()
    assert (frames, code) == ([], 4413)
    closed = lines(events, "connection.closed")
    assert {line["namespace"] for line in closed} == {"/messages", "/other"}
    assert {line["reason"] for line in closed} == {"slow_consumer"}
    assert not lines(events, "session.ended"), "the canonical lines say it"
    nothing_left(case)


async def test_nothing_is_kept_for_a_client_that_is_being_dropped(later: Later) -> None:
    case = limited()
    line = Line(case.app, all_of_it=True)
    wire, _ = await joined_wire(line)
    line.open.clear()
    socket = next(iter(case.server.eio.sockets.values()))
    session = only_session(case)
    await burst(case, LIMIT, BURST + 1)
    assert session.ending is None
    await burst(case, LIMIT, 1)
    assert session.ending == "slow_consumer"
    # Whoever goes on emitting in the same turn fills no memory.
    before = socket.queue.qsize()
    assert before <= BURST + 1
    await burst(case, LIMIT, 20)
    assert socket.queue.qsize() == before
    await until(lambda: not socket.queue.qsize() or socket.queue._queue[0] is None)
    await until(lambda: not case.seam.sessions.open)
    await wire.close()
    nothing_left(case)


@pytest.mark.parametrize("all_of_it", [True, False])
async def test_a_client_that_stalls_for_send_timeout_is_dropped(later: Later, all_of_it: bool) -> None:
    case = limited()
    line = Line(case.app, all_of_it=all_of_it)
    wire, _ = await joined_wire(line)
    line.open.clear()
    with capture_events() as events:
        await emit(case, 100)
        await until(lambda: line.waiting == 1)
        for _ in range(SWEEPS):
            later.run(10.0)
            assert only_session(case).ending is None
        later.run(10.0)
        await until(lambda: not case.seam.sessions.open)
        await wire.close()
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == "slow_consumer"
    nothing_left(case)


async def test_a_stalled_client_that_has_joined_nothing_has_a_line_too(later: Later) -> None:
    case = limited()
    line = Line(case.app)
    wire = await open_wire(line)
    line.open.clear()
    with capture_events() as events:
        await wire.send(connect_packet(token=None))
        await until(lambda: line.waiting == 1)
        for _ in range(SWEEPS + 1):
            later.run(10.0)
        assert (await frames_until_closed(wire))[1] == 4413
        await wire.close()
    (ended,) = lines(events, "session.ended")
    assert ended["reason"] == "slow_consumer"
    assert "does not read" in ended["hint"]
    nothing_left(case)


async def test_a_line_that_is_slow_but_moves_is_borne(later: Later) -> None:
    case = limited()
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    await emit(case, 600, count=4)
    await until(lambda: line.waiting == 1)
    line.open.set()
    assert str(await wire.frame()).startswith('42/messages,["x"')
    line.open.clear()
    later.run(GRACE)
    assert only_session(case).ending is None
    line.open.set()
    for _ in range(3):
        assert str(await wire.frame()).startswith('42/messages,["x"')
    if later.watched:
        later.run(GRACE)
    assert later.watched == 0
    assert only_session(case).ending is None
    await wire.close()
    nothing_left(case)


async def test_a_burst_that_a_healthy_client_takes(later: Later) -> None:
    case = limited()
    wire, _ = await joined_wire(case.app)
    await burst(case, LIMIT, BURST + 1)
    assert later.watched == 1
    for _ in range(BURST + 1):
        assert len(str(await wire.frame())) == LIMIT + 1
    session = only_session(case)
    await until(lambda: session.handed == session.done)
    later.run(GRACE)
    for _ in range(2 * SWEEPS):
        later.run(10.0)
    assert (session.ending, later.watched) == (None, 0)
    await wire.close()
    nothing_left(case)


async def test_more_than_anybody_can_take_at_once_is_too_much_for_a_healthy_client_too(later: Later) -> None:
    case = limited()
    wire, _ = await joined_wire(case.app)
    with capture_events() as events:
        await burst(case, LIMIT, BURST + 2)
        assert only_session(case).ending == "slow_consumer"
        assert (await frames_until_closed(wire))[1] == 4413
        await wire.close()
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == "slow_consumer"
    nothing_left(case)


@pytest.mark.parametrize("binary", [False, True])
async def test_one_packet_may_be_larger_than_the_queue(later: Later, binary: bool) -> None:
    case = limited()
    wire, _ = await joined_wire(case.app)
    size = 20 * LIMIT
    if binary:
        await case.server.emit("x", b"\0" * size, namespace="/messages")
        assert str(await wire.frame()).startswith("451-/messages,")
        assert len(await wire.frame()) == size
    else:
        await emit(case, size)
        assert len(str(await wire.frame())) == size + 1
    await emit(case, 100)
    assert len(str(await wire.frame())) == 101
    session = only_session(case)
    await until(lambda: session.handed == session.done)
    assert session.ending is None
    await wire.close()
    nothing_left(case)


async def test_heartbeats_count_nothing(later: Later) -> None:
    case = limited()
    case.server.eio.ping_interval = 0.001
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    session = only_session(case)
    await wire.send("3")
    await wire.send('42/messages,1["echo",1]')
    assert await wire.frame() == "43/messages,1[1]"
    await until(lambda: session.handed == session.done)
    line.open.clear()
    for _ in range(2 * SWEEPS):
        later.run(10.0)
    assert session.ending is None, "that a client answers no ping is python-engineio's to find"
    line.open.set()
    await wire.close()
    nothing_left(case)


async def test_a_healthy_client_is_not_made_to_pay_for_another_one(later: Later) -> None:
    case = limited()
    line = Line(case.app)
    slow, _ = await joined_wire(line)
    healthy, _ = await joined_wire(case.app)
    line.open.clear()
    for _ in range(3):
        await emit(case, 600)
        assert len(str(await healthy.frame())) == 601
    later.run(GRACE)
    assert (await frames_until_closed(slow))[1] == 4413
    await emit(case, 100)
    assert len(str(await healthy.frame())) == 101
    for wire in (slow, healthy):
        await wire.close()
    nothing_left(case)


async def test_without_limits_nobody_is_dropped(later: Later) -> None:
    case = guarded(limits=UNLIMITED)
    assert case.server.eio.send_packet.__func__ is type(case.server.eio).send_packet
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    await emit(case, 100_000, count=50)
    assert later.calls == []
    line.open.set()
    for _ in range(50):
        assert len(str(await wire.frame())) == 100_001
    await wire.close()
    nothing_left(case)


@pytest.mark.parametrize("limits", [{"queue_bytes": None}, {"send_timeout": None}])
async def test_each_limit_can_be_turned_off_alone(later: Later, limits: dict[str, Any]) -> None:
    case = limited(**limits)
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    if "queue_bytes" in limits:
        await emit(case, 100_000, count=50)
        assert later.watched == 0
        for _ in range(SWEEPS + 1):
            later.run(10.0)
    else:
        await emit(case, 600, count=4)
        assert [seconds for seconds, _ in later.calls] == [GRACE]
        later.run(GRACE)
    await until(lambda: not case.seam.sessions.open)
    await wire.close()
    nothing_left(case)


# A WebSocket alone


def a_websocket(send: Callable[[Any], Any]) -> WebSocket:
    frames = WebSocket.__new__(WebSocket)
    for name in WebSocket.__slots__:
        setattr(frames, name, None)
    frames._closing, frames._accepted, frames._send, frames._session = False, True, send, a_session()
    return frames


async def test_a_session_may_be_dropped_before_anybody_reads_or_writes() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    frames = a_websocket(send)
    frames._session.ending = "slow_consumer"
    await frames.end(at_once=True)
    assert sent == [{"type": "websocket.close", "code": 4413, "reason": "slow_consumer"}]


async def test_a_close_frame_whose_sending_is_cancelled_harms_nobody() -> None:
    async def send(message: Any) -> None:
        raise asyncio.CancelledError

    frames = a_websocket(send)
    await asyncio.wait_for(frames.close(1000), 5)
    assert frames._closing


# Polling


async def test_a_client_that_never_polls_is_dropped(later: Later) -> None:
    case = limited()
    client = await Polling(case.app).open()
    await client.join()
    with capture_events() as events:
        await emit(case, 600, count=3)
        assert later.watched == 1
        later.run(GRACE)
        await until(lambda: not case.server.eio.sockets)
    (closed,) = lines(events, "connection.closed")
    assert (closed["reason"], closed["transport"]) == ("slow_consumer", "polling")
    with pytest.raises(AssertionError, match="session_unknown"):
        await client.poll()
    nothing_left(case)


async def test_a_client_that_polls_too_seldom_is_dropped_after_send_timeout(later: Later) -> None:
    case = limited()
    client = await Polling(case.app).open()
    await client.join()
    await emit(case, 100)
    for _ in range(SWEEPS + 1):
        later.run(10.0)
    await until(lambda: not case.server.eio.sockets)
    nothing_left(case)


async def test_a_poll_takes_all_that_waits(later: Later) -> None:
    case = limited()
    client = await Polling(case.app).open()
    await client.join()
    for _ in range(3):
        await emit(case, 600, count=4)
        assert later.watched == 1
        assert len(await client.poll()) == 4
        later.run(GRACE)
        assert later.watched == 0
    session = only_session(case)
    assert session.handed == session.done
    for _ in range(2 * SWEEPS):
        later.run(10.0)
    assert session.ending is None
    await client.close()
    nothing_left(case)


async def test_an_answer_that_is_not_read_is_not_done(later: Later) -> None:
    case = limited()
    client = await Polling(case.app).open()
    await client.join()
    session = only_session(case)
    done = session.done
    read = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await read.wait()
            await send(message)

        await case.app(scope, receive, slowly)

    await emit(case, 600)
    stalled = Polling(app)
    stalled.sid = client.sid
    poll = asyncio.ensure_future(stalled.poll())
    await until(lambda: not case.seam.has_queue(client.sid))
    await emit(case, 600, count=3)
    assert session.done == done
    assert later.watched == 1
    read.set()
    assert len(await poll) == 1
    await until(lambda: session.done == done + 600)
    later.run(GRACE)
    assert session.ending is None
    assert len(await client.poll()) == 3
    await client.close()
    nothing_left(case)


async def test_what_was_taken_over_polling_counts_after_the_upgrade(later: Later) -> None:
    case = limited()
    client = await Polling(case.app).open()
    await client.join()
    await emit(case, 600)
    assert len(await client.poll()) == 1
    line = Line(case.app)
    wire = Wire(line, query=f"&sid={client.sid}")
    await wire.open()
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    assert await client.poll() == ["6"]
    await wire.send("5")
    await emit(case, 600)
    frame = ""
    while not frame.startswith("42"):
        frame = str(await wire.frame())
    session = only_session(case)
    await until(lambda: session.handed == session.done)
    assert session.ending is None
    # And it is dropped like any other WebSocket.
    line.open.clear()
    await emit(case, 600, count=4)
    later.run(GRACE)
    assert session.ending == "slow_consumer"
    await until(lambda: not case.seam.sessions.open)
    await wire.close()
    nothing_left(case)


async def test_the_application_hears_of_it(later: Later) -> None:
    heard: list[str] = []

    async def disconnect(sid: str, reason: str) -> None:
        heard.append(reason)

    case = guarded(
        prepare=lambda server: server.on("disconnect", disconnect, namespace="/messages"),
        limits=Limits(queue_bytes=LIMIT),
    )
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    await emit(case, 600, count=50)
    await until(lambda: heard)
    await wire.close()
    assert len(heard) == 1
    nothing_left(case)


async def test_a_client_that_goes_while_it_is_watched_leaves_nothing(later: Later) -> None:
    case = limited()
    line = Line(case.app)
    wire, _ = await joined_wire(line)
    line.open.clear()
    with capture_events() as events:
        await emit(case, 600, count=3)
        line.open.set()
        await wire.close()
        later.run(GRACE)
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == "transport close"
    nothing_left(case)
