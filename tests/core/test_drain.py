"""Leaving well: everybody is sent away so that they come back by themselves, whatever they are doing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from socketguard import ConfigurationError
from socketguard.server import drain
from socketguard.testing import Refused, Wire, capture_events
from tests.core.driver import (
    Answer,
    Guarded,
    Polling,
    connect_packet,
    guarded,
    http,
    joined_wire,
    nothing_left,
    open_wire,
    until,
)

OPEN = "EIO=4&transport=polling"
CLOSING = '["socketguard:closing",{"code":"draining","message":"Server is restarting","retry":"backoff"}]'


class Naps:
    """Stands in for the pauses of a drain: each lasts until a test says so."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.free = False
        self._awake = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        if self.free or not seconds:
            await asyncio.sleep(0)
        else:
            await self._awake.acquire()

    def wake(self) -> None:
        """Let one pause end."""
        self._awake.release()

    def wake_all(self) -> None:
        self.free = True
        for _ in range(1000):
            self._awake.release()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    made = Naps()
    monkeypatch.setattr(drain, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": made.sleep}))
    return made


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and handlers that hang are not waited for as long as usual."""
    monkeypatch.setattr(drain, "_LAST_WORDS", 0.05)
    monkeypatch.setattr("socketguard.server.websocket.CLOSE_TIMEOUT", 0.02)


def lines(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == f"socketguard.{name}"]


async def closed(wire: Wire) -> tuple[list[str], int | None]:
    frames: list[str] = []
    with contextlib.suppress(ConnectionError):
        while True:
            frames.append(str(await wire.frame()))
    return frames, wire.close_code


async def waiting_poll(case: Guarded, client: Polling) -> asyncio.Task[list[str]]:
    poll = asyncio.ensure_future(client.poll())
    await until(lambda: case.server.eio.sockets[client.sid].queue._getters)
    return poll


async def begun(case: Guarded, over: float = 8.0) -> asyncio.Task[int]:
    """A drain that has begun."""
    task = asyncio.ensure_future(case.guard.drain(over))
    await until(lambda: case.guard.status()["draining"])
    return task


# What clients see


async def test_everybody_is_sent_away_and_told_why() -> None:
    case = guarded("/messages", "/other")
    wire, _ = await joined_wire(case.app)
    await wire.send(connect_packet("/other"))
    await wire.frame()
    stranger = await open_wire(case.app)
    client = await Polling(case.app).open()
    await client.join()
    poll = await waiting_poll(case, client)
    with capture_events() as events:
        assert await case.guard.drain(0) == 3
        packets = await poll
        frames, code = await closed(wire)
        stranger_frames, stranger_code = await closed(stranger)
        for each in (wire, stranger):
            await each.close()
    assert (frames, code) == ([f"42/messages,{CLOSING}", f"42/other,{CLOSING}"], 1012)
    assert (stranger_frames, stranger_code) == ([], 1012)
    # No namespace is disconnected ("41"), nor does Engine.IO say goodbye ("1"): stock clients would not come back.
    assert packets == [f"42/messages,{CLOSING}"]
    (started,) = lines(events, "drain.started")
    assert (started["level"], started["sessions"], started["over_s"]) == ("info", 3, 0)
    (finished,) = lines(events, "drain.finished")
    assert (finished["level"], finished["ended"]) == ("info", 3)
    assert finished["duration_s"] >= 0
    canonical = lines(events, "connection.closed")
    assert [line["reason"] for line in canonical] == ["draining"] * 3
    (ended,) = lines(events, "session.ended")
    assert (ended["reason"], ended["transport"]) == ("draining", "websocket")
    status = case.guard.status()
    assert status["draining"] is True
    assert status["sessions"]["open"] == status["connections"]["open"] == 0
    nothing_left(case)


async def test_an_empty_server_is_drained_at_once() -> None:
    case = guarded()
    with capture_events() as events:
        assert await asyncio.wait_for(case.guard.drain(), 5) == 0
    assert lines(events, "drain.started")[0]["over_s"] == 8.0
    assert lines(events, "drain.finished")[0]["ended"] == 0


async def test_new_sessions_are_refused_and_polls_too(naps: Naps) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    await client.join()
    task = await begun(case)
    with capture_events() as events:
        answer = await http(case.app, "GET", OPEN)
        with pytest.raises(Refused) as caught:
            await open_wire(case.app)
        # Who has not been sent away yet may go on.
        await client.post('42/messages,1["echo",1]')
        assert await client.frame() == "43/messages,1[1]"
        naps.wake_all()
        assert await task == 1
        polled = await http(case.app, "GET", client.query)
        posted = await http(case.app, "POST", client.query, b"3")
    for each in (answer, polled, posted):
        assert each.status == 503
        assert each.header("retry-after") == ["5"]
        assert each.json["code"] == "draining"
        assert each.json["message"] == "Server is restarting"
        assert each.json["retry"] == "backoff"
        assert each.json["retry_after"] == 5
    assert (caught.value.status, caught.value.code) == (503, "draining")
    line = lines(events, "handshake.rejected")[0]
    assert (line["reason"], line["status"], line["retry_after"]) == ("draining", 503, 5)
    assert "socketguard.drain" in line["hint"]
    nothing_left(case)


async def test_a_connect_during_the_drain_ends_its_session(naps: Naps) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    client = await Polling(case.app).open()
    task = await begun(case)
    with capture_events() as events:
        await wire.send(connect_packet())
        assert await closed(wire) == ([], 1012)
        await wire.close()
        await client.post(connect_packet())
        await until(lambda: not case.server.eio.sockets)
        naps.wake_all()
        await task
    assert [line["reason"] for line in lines(events, "session.ended")] == ["draining"] * 2
    assert not lines(events, "connection.accepted")
    nothing_left(case)


async def test_sessions_are_spread_over_the_period_in_random_order(naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
    # Any order will do, as long as it is that of shuffle().
    shuffled: list[Any] = []

    def shuffle(sessions: list[Any]) -> None:
        sessions.sort(key=lambda session: session.client_address, reverse=True)
        shuffled.extend(sessions)

    monkeypatch.setattr(drain.random, "shuffle", shuffle)
    case = guarded()
    addresses = [f"203.0.113.{number}" for number in range(4)]
    wires = {address: (await joined_wire(case.app, client=(address, 1)))[0] for address in addresses}
    task = await begun(case, 8000.0)
    for number, address in enumerate(reversed(addresses), 1):
        await until(lambda number=number: len(naps.taken) == number)
        # Not yet: it is neither told nor closed.
        assert wires[address]._from_app.empty()
        assert case.guard.status()["sessions"]["open"] == 5 - number
        naps.wake()
        assert await closed(wires[address]) == ([f"42/messages,{CLOSING}"], 1012)
        await wires[address].close()
        await until(lambda number=number: case.guard.status()["sessions"]["open"] == 4 - number)
    assert await task == 4
    assert [round(seconds, -2) for seconds in naps.taken] == [2000, 4000, 6000, 8000]
    assert len(shuffled) == 4
    nothing_left(case)


async def test_many_sessions_at_once_leave_the_loop_its_turns(naps: Naps) -> None:
    case = guarded()
    wires = [await open_wire(case.app) for _ in range(60)]
    assert await case.guard.drain(0) == 60
    assert naps.taken == [0, 0]
    for wire in wires:
        await wire.close()
    nothing_left(case)


async def test_a_second_call_waits_for_the_first(naps: Naps) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    with capture_events() as events:
        first = await begun(case)
        second = asyncio.ensure_future(case.guard.drain(0))
        third = asyncio.ensure_future(case.guard.drain(0))
        await until(lambda: naps.taken)
        assert not first.done()
        # Whoever gives up waiting stops nothing.
        third.cancel()
        await asyncio.wait((third,))
        assert not second.done()
        naps.wake_all()
        assert await first == await second == 1
        assert await case.guard.drain() == 1
    assert len(lines(events, "drain.started")) == len(lines(events, "drain.finished")) == 1
    await wire.close()
    nothing_left(case)


async def test_a_client_that_leaves_by_itself_is_not_said_to_have_been_sent_away(naps: Naps) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    with capture_events() as events:
        task = await begun(case)
        await until(lambda: naps.taken)
        await wire.close()
        assert not case.seam.sessions.open
        naps.wake_all()
        assert await task == 0
    (line,) = lines(events, "connection.closed")
    assert line["reason"] == "transport close"
    assert not lines(events, "session.ended")
    assert lines(events, "drain.finished")[0]["ended"] == 0
    nothing_left(case)


# Clients that make it hard


async def hanging_request(case: Guarded, client: Polling, method: str, *pieces: bytes) -> tuple[Any, list[Any]]:
    """A request of which only so much arrives. Returns its task and the messages of the answer."""
    asked = asyncio.Event()
    sent: list[Any] = []
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def receive() -> Any:
        if left:
            return left.pop(0)
        asked.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/socket.io/",
        "raw_path": b"/socket.io/",
        "root_path": "",
        "query_string": client.query.encode(),
        "headers": [(b"host", b"testserver"), (b"content-length", b"1000")],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        "state": {},
    }
    task = asyncio.ensure_future(case.app(scope, receive, send))
    await asyncio.wait_for(asked.wait(), 5)
    return task, sent


@pytest.mark.parametrize(
    ("method", "pieces"), [("GET", ()), ("POST", ()), ("POST", (b"4",)), ("POST", (b"42/messages,", b'["echo"'))]
)
async def test_a_body_of_which_half_has_come_holds_nothing_up(method: str, pieces: tuple[bytes, ...]) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    await client.join()
    task, sent = await hanging_request(case, client, method, *pieces)
    assert await asyncio.wait_for(case.guard.drain(0), 5) == 1
    await asyncio.wait_for(task, 5)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert b'"draining"' in sent[1]["body"]
    nothing_left(case)


async def test_a_half_sent_body_of_a_session_that_ends_otherwise_is_answered_too() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    await client.join()
    task, sent = await hanging_request(case, client, "POST", b"4")
    session = next(iter(case.seam.sessions.open))
    case.seam.end(session, "slow_consumer")
    await asyncio.wait_for(task, 5)
    assert sent[0]["status"] == 400
    assert b'"session_unknown"' in sent[1]["body"]
    await until(lambda: not case.server.eio.sockets)
    nothing_left(case)


async def test_a_server_that_cancels_a_half_sent_body_is_not_held_up() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    await client.join()
    task, sent = await hanging_request(case, client, "POST", b"4")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sent == []
    (session,) = case.seam.sessions.open
    assert not session.reading
    # Cancelled by both at once: the server's word counts.
    task, sent = await hanging_request(case, client, "POST", b"4")
    task.cancel()
    session.ending = "draining"
    case.seam.sessions.closed(session)
    for each in tuple(session.reading):
        each.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sent == []
    await case.seam.end_session(client.sid, "draining")
    nothing_left(case)


async def test_a_websocket_in_the_middle_of_its_upgrade(naps: Naps) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    await client.join()
    wire = Wire(case.app, query=f"&sid={client.sid}")
    await wire.open()
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    naps.wake_all()
    assert await asyncio.wait_for(case.guard.drain(0), 5) == 1
    assert (await closed(wire))[1] == 1012
    await wire.close()
    await until(lambda: not case.server.eio.sockets)
    nothing_left(case)


async def test_a_client_that_does_not_read_is_not_waited_for(brief: None) -> None:
    case = guarded()
    read = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: dict[str, Any]) -> None:
            if message["type"] in ("websocket.send", "websocket.close") and cut:
                await read.wait()
            await send(message)

        await case.app(scope, receive, slowly)

    cut = False
    wire, _ = await joined_wire(app)
    cut = True
    await case.server.emit("x", "y", namespace="/messages")
    assert await asyncio.wait_for(case.guard.drain(0), 5) == 1
    await until(lambda: not case.seam.sessions.open)
    read.set()
    await wire.close()
    nothing_left(case)


async def client_polls_until_refused(case: Guarded, client: Polling) -> Answer:
    for _ in range(3):
        answer = await http(case.app, "GET", client.query)
        if answer.status != 200:
            return answer
    raise AssertionError("polled on and on")


@pytest.mark.parametrize("event", ["connect", "disconnect"])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_handler_that_hangs_holds_nothing_up(event: str, transport: str, brief: None) -> None:
    go, running = asyncio.Event(), asyncio.Event()

    async def handler(*args: Any) -> None:
        running.set()
        await go.wait()

    case = guarded(
        prepare=lambda server: server.on(event, handler, namespace="/messages"),
        connect_timeout=None,
    )
    wire = client = posting = None
    if transport == "websocket":
        wire = await open_wire(case.app)
        await wire.send(connect_packet())
    else:
        client = await Polling(case.app).open()
        posting = asyncio.ensure_future(client.post(connect_packet()))
    if event == "connect":
        await asyncio.wait_for(running.wait(), 5)
    else:
        await until(lambda: case.guard.status()["connections"]["open"])
    assert await asyncio.wait_for(case.guard.drain(0), 5) == 1
    if client is not None and event == "disconnect":
        # It has been told; what it is still asked for on its way out is nobody's business.
        polled = await client_polls_until_refused(case, client)
        assert (polled.status, polled.json["code"]) == (503, "draining")
    go.set()
    if posting is not None:
        assert (await posting).status in (200, 503)
    if wire is not None:
        assert (await closed(wire))[1] == 1012
        await wire.close()
    await until(lambda: not case.server.eio.sockets)
    await until(lambda: not case.seam.pending)
    assert case.guard.status()["connections"]["open"] == 0
    nothing_left(case)


async def test_a_session_that_was_being_made_when_it_began_is_ended_too(naps: Naps) -> None:
    case = guarded()
    first = await open_wire(case.app)
    late = Wire(case.app)
    # The request is there, its first message is not.
    late._task = asyncio.ensure_future(case.app(late.scope, late._to_app.get, late._from_app.put))
    await until(lambda: late._to_app._getters)  # type: ignore[attr-defined]
    with capture_events() as events:
        task = await begun(case)
        await until(lambda: naps.taken)
        late._to_app.put_nowait({"type": "websocket.connect"})
        await until(lambda: len(case.seam.sessions.open) == 2)
        naps.wake_all()
        assert await task == 2
    assert (await closed(late))[1] == 1012
    for wire in (first, late):
        await wire.close()
    assert lines(events, "drain.started")[0]["sessions"] == 1
    assert lines(events, "drain.finished")[0]["ended"] == 2
    nothing_left(case)


# How long


@pytest.mark.parametrize("over", [-1, True, False, "8", None, float("nan"), float("inf"), [8]])
async def test_a_period_that_is_none(over: Any) -> None:
    case = guarded()
    with pytest.raises(ConfigurationError, match=r"over is .*; write seconds, such as over=8") as caught:
        await case.guard.drain(over)
    assert caught.value.option == "over"
    with pytest.raises(ConfigurationError) as caught:
        case.guard.drain_on_sigterm(over)
    assert caught.value.option == "over"
    assert case.guard.status()["draining"] is False


@pytest.mark.parametrize(("over", "warned"), [(0, False), (8, False), (8.5, True), (25, True)])
async def test_a_drain_that_outlasts_the_patience_of_container_runtimes_is_warned_about(
    over: float, warned: bool, handlers: None
) -> None:
    case = guarded()
    with capture_events() as events:
        await case.guard.drain(over)
    found = [line for line in lines(events, "config.warning") if line["id"] == "SG052"]
    assert len(found) == warned
    if warned:
        assert f"{over:g} s" in found[0]["text"]
        assert "write over=8 or less" in found[0]["fix"]
        assert "terminationGracePeriodSeconds" in found[0]["fix"]
    other = guarded()
    with capture_events() as events:
        other.guard.drain_on_sigterm(over)
    assert len([line for line in lines(events, "config.warning") if line["id"] == "SG052"]) == warned


# SIGTERM


class ASGIServer:
    """What the guard finds behind uvicorn's handler of SIGTERM: see uvicorn.Server.handle_exit."""

    def __init__(self, timeout: float | None = None) -> None:
        self.called: list[tuple[int, Any]] = []
        self.config = SimpleNamespace(timeout_graceful_shutdown=timeout)

    def handle_exit(self, number: int, frame: Any) -> None:
        self.called.append((number, frame))


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handler of SIGTERM back."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


async def lifespan(case: Guarded) -> None:
    """What an ASGI server sends when it starts; the application has no lifespan of its own."""

    async def receive() -> Any:
        return {"type": "lifespan.startup"} if not sent else {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    await case.app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


def ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_at_sigterm_clients_are_sent_away_before_the_server_ends(handlers: None, naps: Naps) -> None:
    server = ASGIServer()
    signal.signal(signal.SIGTERM, server.handle_exit)
    case = guarded()
    case.guard.drain_on_sigterm(over=8)
    wire, _ = await joined_wire(case.app)
    ask_to_end()
    await until(lambda: naps.taken)
    assert case.guard.status()["draining"] is True
    assert server.called == []
    naps.wake()
    assert await closed(wire) == ([f"42/messages,{CLOSING}"], 1012)
    await until(lambda: server.called)
    assert server.called == [(signal.SIGTERM, None)]
    # It would wait for connections for ever.
    assert server.config.timeout_graceful_shutdown == drain._PATIENCE
    await wire.close()
    nothing_left(case)


@pytest.mark.parametrize(("own", "expected"), [(0.1, 0.1), (30, drain._PATIENCE)])
async def test_the_servers_own_patience_counts_when_it_is_shorter(handlers: None, own: float, expected: float) -> None:
    server = ASGIServer(own)
    signal.signal(signal.SIGTERM, server.handle_exit)
    case = guarded()
    case.guard.drain_on_sigterm(over=0)
    ask_to_end()
    await until(lambda: server.called)
    assert server.config.timeout_graceful_shutdown == expected


async def test_whoever_asks_twice_does_not_want_to_wait(handlers: None, naps: Naps) -> None:
    server = ASGIServer()
    signal.signal(signal.SIGTERM, server.handle_exit)
    case = guarded()
    case.guard.drain_on_sigterm()
    wire, _ = await joined_wire(case.app)
    ask_to_end()
    await until(lambda: naps.taken)
    ask_to_end()
    await until(lambda: server.called)
    assert server.called[0][0] == signal.SIGTERM
    assert server.called[0][1] is not None, "called at once, as Python calls a handler"
    naps.wake_all()
    await until(lambda: len(server.called) == 2)
    await wire.close()
    nothing_left(case)


async def test_at_sigterm_a_drain_that_runs_already_is_left_to_whoever_began_it(handlers: None, naps: Naps) -> None:
    server = ASGIServer()
    signal.signal(signal.SIGTERM, server.handle_exit)
    case = guarded()
    case.guard.drain_on_sigterm()
    wire, _ = await joined_wire(case.app)
    task = await begun(case)
    ask_to_end()
    await until(lambda: server.called)
    naps.wake_all()
    assert await task == 1
    await wire.close()
    nothing_left(case)


@pytest.mark.parametrize("previous", [signal.SIG_IGN, "function"])
async def test_handlers_that_are_no_servers_are_called_too(handlers: None, previous: Any) -> None:
    called: list[Any] = []
    if previous == "function":
        signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    case = guarded()
    with capture_events() as events:
        case.guard.drain_on_sigterm(over=0)
        ask_to_end()
        await until(lambda: lines(events, "drain.finished"))
        await until(lambda: case.seam.owner.drain._leaving.done())
    assert called == ([signal.SIGTERM] if previous == "function" else [])


async def test_where_nobody_had_a_handler_the_process_ends(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raised: list[tuple[int, Any]] = []
    monkeypatch.setattr(
        drain.signal, "raise_signal", lambda number: raised.append((number, signal.getsignal(signal.SIGTERM)))
    )
    case = guarded()
    case.guard.drain_on_sigterm(over=0)
    ask_to_end()
    await until(lambda: raised)
    assert raised == [(signal.SIGTERM, signal.SIG_DFL)]


async def test_it_is_chained_once(handlers: None) -> None:
    server = ASGIServer()
    signal.signal(signal.SIGTERM, server.handle_exit)
    case = guarded()
    case.guard.drain_on_sigterm(over=0)
    chained = signal.getsignal(signal.SIGTERM)
    assert chained != server.handle_exit
    case.guard.drain_on_sigterm(over=0)
    await lifespan(case)
    assert signal.getsignal(signal.SIGTERM) is chained
    ask_to_end()
    await until(lambda: server.called)
    assert len(server.called) == 1


def test_before_the_loop_runs_it_waits_for_the_application_to_start(handlers: None) -> None:
    server = ASGIServer()
    case = guarded()
    before = signal.getsignal(signal.SIGTERM)
    case.guard.drain_on_sigterm(over=0)
    assert signal.getsignal(signal.SIGTERM) is before
    # Only now does the ASGI server put its own handler in place.
    signal.signal(signal.SIGTERM, server.handle_exit)

    async def serve() -> None:
        await lifespan(case)
        assert signal.getsignal(signal.SIGTERM) != server.handle_exit
        ask_to_end()
        await until(lambda: server.called)

    asyncio.run(serve())
    assert len(server.called) == 1
    # The loop has gone: whoever asks now is not made to wait for it.
    ask_to_end()
    assert len(server.called) == 2


async def test_the_first_request_does_it_where_there_is_no_lifespan(handlers: None) -> None:
    case = guarded()

    def ask() -> None:
        case.guard.drain_on_sigterm(over=0)

    await asyncio.to_thread(ask)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    wire = await open_wire(case.app)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    ask_to_end()
    assert (await closed(wire))[1] == 1012
    await wire.close()
    await until(lambda: case.seam.owner.drain._leaving.done())


async def test_without_being_asked_for_nothing_is_chained(handlers: None) -> None:
    case = guarded()
    await lifespan(case)
    wire = await open_wire(case.app)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    await wire.close()


async def test_outside_the_main_thread_nothing_can_be_chained(handlers: None) -> None:
    case = guarded()
    failed: list[BaseException] = []

    def run(work: Callable[[], Any]) -> None:
        async def work_in_a_loop() -> None:
            work()

        try:
            asyncio.run(work_in_a_loop())
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=run, args=(case.guard.drain_on_sigterm,))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert failed == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


async def test_a_process_without_a_server_of_its_own_ends_by_the_signal() -> None:
    program = """
    import asyncio, signal, sys
    import socketio
    from socketguard import SocketGuard
    from socketguard.testing import make_auth, mint
    from tests.core.driver import joined_wire

    async def main():
        server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
        server.on("echo", lambda sid: None, namespace="/messages")
        app = socketio.ASGIApp(server)
        guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
        guard.drain_on_sigterm(over=0.01)
        wire, _ = await joined_wire(app)
        print("ready", flush=True)
        try:
            while True:
                print(await wire.frame(), flush=True)
        except ConnectionError:
            print(wire.close_code, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        first = await asyncio.wait_for(process.stdout.readline(), 30)
        assert first == b"ready\n", await process.stderr.read()
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == -signal.SIGTERM, err
    assert out.decode().splitlines() == [f"42/messages,{CLOSING}", "1012"]
