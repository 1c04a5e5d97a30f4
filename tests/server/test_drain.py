"""Leaving well: everybody is sent away so that they come back by themselves, whatever they are doing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from socketguard import ConfigurationError, JWTAuth, Limits
from socketguard.server.socket import UPGRADE_PATIENCE
from socketguard.testing import Refused, capture_events
from tests.scripted import (
    Client,
    Clock,
    Events,
    Guarded,
    Line,
    Pause,
    Socket,
    connect_packet,
    guarded,
    http,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    rest,
    until,
    within,
)

OPEN = "EIO=4&transport=polling"
PATIENCE_OF_SERVERS = 0.2
"""Seconds for which the ASGI server may wait for connections after a drain."""

CLOSING = '["socketguard:closing",{"code":"draining","message":"Server is restarting","retry":"backoff"}]'


async def begun(case: Guarded, over: float = 8.0) -> asyncio.Task[int]:
    """A drain that has begun."""
    task = asyncio.ensure_future(case.guard.drain(over))
    await until(lambda: case.guard.status()["draining"])
    return task


# What clients see


async def test_everybody_is_sent_away_and_told_why(events: Events) -> None:
    case = guarded("/messages", "/other")
    wire, _ = await joined_wire(case.app)
    await wire.join("/other")
    stranger = await open_wire(case.app)
    client, _ = await joined_client(case, kind="polling")
    poll = await client.waiting()
    assert await case.guard.drain(0) == 3
    packets = await poll
    frames, code = await wire.closed()
    stranger_frames, stranger_code = await stranger.closed()
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


async def test_an_empty_server_is_drained_at_once(events: Events) -> None:
    case = guarded()
    assert await within(case.guard.drain()) == 0
    assert lines(events, "drain.started")[0]["over_s"] == 8.0
    assert lines(events, "drain.finished")[0]["ended"] == 0


async def test_new_sessions_are_refused_and_polls_too(clock: Clock, events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    task = await begun(case)
    answer = await http(case.app, "GET", OPEN)
    with pytest.raises(Refused) as caught:
        await open_wire(case.app)
    # Who has not been sent away yet may go on.
    await client.post('42/messages,1["echo",1]')
    assert await client.frame() == "43/messages,1[1]"
    clock.passes(8)
    assert await task == 1
    polled = await http(case.app, "GET", client.query)
    posted = await http(case.app, "POST", client.query, b"3")
    said = {"code": "draining", "message": "Server is restarting", "retry": "backoff", "retry_after": 5}
    for each in (answer, polled, posted):
        assert (each.status, each.header("retry-after")) == (503, ["5"])
        assert said.items() <= each.json.items()
    assert (caught.value.status, caught.value.code) == (503, "draining")
    line = lines(events, "handshake.rejected")[0]
    assert (line["reason"], line["status"], line["retry_after"]) == ("draining", 503, 5)
    assert "socketguard.drain" in line["hint"]


async def test_over_websocket_everybody_gets_the_503_also_in_a_storm(events: Events) -> None:
    case = guarded()
    await case.guard.drain(0)
    for _ in range(200):
        with pytest.raises(Refused) as caught:
            await open_wire(case.app)
        assert caught.value.status == 503
    assert len(lines(events, "handshake.rejected")) < 200


async def test_ready_is_for_balancers(events: Events) -> None:
    case = guarded(auth=broken_keys())
    app = Starlette(routes=[Route("/ready", case.guard.ready)])
    client = TestClient(app)

    def answered() -> tuple[int, str, bool]:
        found = client.get("/ready")
        assert found.headers["cache-control"] == "no-store"
        return found.status_code, found.text, case.guard.ready()

    # A key server that is out takes nobody out of the balancer.
    assert answered() == (200, "ready\n", True)
    await case.guard.drain(0)
    assert answered() == (503, "draining\n", False)


async def test_ready_is_no_websocket() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await guarded().guard.ready({"type": "websocket"}, None, send)
    assert sent == []


async def test_the_listeners_of_the_server_are_closed_first(events: Events) -> None:
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    case = guarded()
    client, _ = await joined_client(case)
    draining = asyncio.ensure_future(case.guard._parts.drain.run(0, SimpleNamespace(servers=[listener])))
    await asyncio.sleep(0)
    assert not listener.is_serving()
    assert await draining == 1
    await client.told("/messages", "draining")
    await listener.wait_closed()


def broken_keys() -> JWTAuth:
    async def fetch(url: str) -> bytes:
        raise OSError

    return JWTAuth(
        jwks_url="https://k.example/", fetch=fetch, algorithms=["RS256"], issuer="https://k.example/", audience="crm"
    )


async def test_a_connect_during_the_drain_ends_its_session(clock: Clock, events: Events) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    client = await Client(case.app, "polling").open()
    task = await begun(case)
    await wire.send(connect_packet())
    assert await wire.closed() == ([], 1012)
    await wire.close()
    await client.post(connect_packet())
    await until(lambda: not case.server.eio.sockets)
    clock.passes(8)
    await task
    assert [line["reason"] for line in lines(events, "session.ended")] == ["draining"] * 2
    assert not lines(events, "connection.accepted")


async def test_sessions_are_spread_over_the_period_in_random_order(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any order will do, as long as it is that of shuffle().
    shuffled: list[Any] = []

    def shuffle(sessions: list[Any]) -> None:
        sessions.sort(key=lambda session: session.client_address)
        shuffled.extend(sessions)

    monkeypatch.setattr(random, "shuffle", shuffle)
    case = guarded()
    addresses = [f"203.0.113.{number}" for number in range(4)]
    wires = {address: (await joined_wire(case.app, client=(address, 1)))[0] for address in addresses}
    task = await begun(case, 80.0)
    for number, address in enumerate(reversed(addresses), 1):
        clock.passes(19)
        await rest()
        # Not yet: it is neither told nor closed.
        assert wires[address].outbox.empty()
        assert case.guard.status()["sessions"]["open"] == 5 - number
        clock.passes(1)
        assert await wires[address].closed() == ([f"42/messages,{CLOSING}"], 1012)
        await wires[address].close()
        await until(lambda number=number: case.guard.status()["sessions"]["open"] == 4 - number)
    assert await task == 4
    assert len(shuffled) == 4


async def test_many_sessions_at_once_leave_the_loop_its_turns() -> None:
    case = guarded()
    [await open_wire(case.app) for _ in range(60)]
    found = [60]

    async def count() -> None:
        while found[-1]:
            await asyncio.sleep(0)
            found.append(case.guard.status()["sessions"]["open"])

    counting = asyncio.ensure_future(count())
    assert await case.guard.drain(0) == 60
    await counting
    assert max(before - after for before, after in pairwise(found)) <= 25, "ended within one turn"


async def test_what_fails_while_sessions_are_ended_holds_nothing_up() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    case = guarded()
    case.leaves = True  # Of one, nobody has told python-socketio.
    wires = [(await joined_wire(case.app))[0] for _ in range(3)]
    engine = next(iter(case.server.eio.sockets.values())).engine
    trigger, failing = engine.trigger, [ValueError("no")]

    async def broken(event: str, *args: Any) -> Any:
        if event == "disconnect" and failing:
            raise failing.pop()
        return await trigger(event, *args)

    engine.trigger = broken
    assert await case.guard.drain(0) == 3
    for wire in wires:
        await wire.frames()
    assert [wire.close_code for wire in wires].count(1012) == 3
    for wire in wires:
        await wire.close()
    assert [type(error) for error in reported] == [ValueError]


async def test_a_second_call_waits_for_the_first(clock: Clock, events: Events) -> None:
    case = guarded()
    await joined_wire(case.app)
    first = await begun(case)
    second = asyncio.ensure_future(case.guard.drain(0))
    third = asyncio.ensure_future(case.guard.drain(0))
    await rest()
    assert not first.done()
    # Whoever gives up waiting stops nothing.
    third.cancel()
    await asyncio.wait((third,))
    assert not second.done()
    clock.passes(8)
    assert await first == await second == 1
    assert await case.guard.drain() == 1
    assert len(lines(events, "drain.started")) == len(lines(events, "drain.finished")) == 1


async def test_a_client_that_leaves_by_itself_is_not_said_to_have_been_sent_away(clock: Clock, events: Events) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    task = await begun(case)
    await rest()
    await wire.close()
    assert not case.guard.status()["sessions"]["open"]
    clock.passes(8)
    assert await task == 0
    (line,) = lines(events, "connection.closed")
    assert line["reason"] == "transport close"
    assert not lines(events, "session.ended")
    assert lines(events, "drain.finished")[0]["ended"] == 0


# Clients that make it hard


@pytest.mark.parametrize("pieces", [(), (b"4",), (b"42/messages,", b'["echo"')])
async def test_a_body_of_which_half_has_come_holds_nothing_up(pieces: tuple[bytes, ...]) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    task, request = await client.begin("POST", *(pieces or (b"",)))
    assert await within(case.guard.drain(0)) == 1
    await within(task)
    answer = request.answer
    assert (answer.status, answer.header("retry-after"), answer.json["code"]) == (503, ["5"], "draining")


async def test_a_half_sent_body_of_a_session_that_ends_otherwise_is_answered_too() -> None:
    case = guarded(limits=Limits(queue_bytes=100))
    client, _ = await joined_client(case, kind="polling")
    task, request = await client.begin("POST", b"4")
    for _ in range(20):  # More than sixteen times the limit is too much at once.
        await case.server.emit("news", "x" * 90, namespace="/messages")
    await within(task)
    assert (request.answer.status, request.answer.json["code"]) == (400, "session_unknown")
    await until(lambda: not case.server.eio.sockets)


@pytest.mark.parametrize("draining", [False, True])
async def test_a_server_that_cancels_a_half_sent_body_is_not_held_up(draining: bool) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    task, request = await client.begin("POST", b"4")
    if draining:  # Cancelled by both at once: the server's word counts.
        ending = asyncio.ensure_future(case.guard.drain(0))
        await until(task.cancelling)  # type: ignore[attr-defined]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.answer.status == 0
    if draining:
        assert await ending == 1
    else:
        await client.close()


async def test_a_websocket_in_the_middle_of_its_upgrade(clock: Clock) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await client.probe()
    task = await begun(case, 0)
    await rest()
    clock.passes(UPGRADE_PATIENCE)
    assert await task == 1
    assert (await wire.closed())[1] == 1012


async def test_a_client_that_does_not_read_is_not_waited_for() -> None:
    case = guarded()
    line = Line(case.app, all_of_it=True)
    await joined_wire(line)
    line.open.clear()
    await case.server.emit("x", "y", namespace="/messages")
    assert await within(case.guard.drain(0)) == 1
    await until(lambda: not case.guard.status()["sessions"]["open"])
    line.open.set()


@pytest.mark.parametrize("event", ["connect", "disconnect"])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_handler_that_hangs_holds_nothing_up(event: str, transport: str) -> None:
    pause = Pause()
    case = guarded(handlers={event: pause.wait}, connect_timeout=None)
    client = await Client(case, transport).open()
    joining = asyncio.ensure_future(client.send(connect_packet()))
    if event == "connect":
        await within(pause.entered.wait())
    else:
        await until(lambda: case.guard.status()["connections"]["open"])
    assert await within(case.guard.drain(0)) == 1
    if client.wire is None and event == "disconnect":
        # It has been told; what it is still asked for on its way out is nobody's business.
        while (polled := await client.http("GET")).status == 200:
            pass
        assert (polled.status, polled.json["code"]) == (503, "draining")
    pause.release.set()
    await asyncio.gather(joining, return_exceptions=True)  # Over polling it may hear 503.
    if client.wire is not None:
        assert (await client.wire.closed())[1] == 1012
        await client.close()
    await until(lambda: not case.server.eio.sockets)
    await until(lambda: not case.guard.status()["connections"]["being_admitted"])
    assert case.guard.status()["connections"]["open"] == 0


async def test_a_session_that_was_being_made_when_it_began_is_ended_too(clock: Clock, events: Events) -> None:
    case = guarded()
    first = await open_wire(case.app)
    late = Socket(case.app)
    late.start()  # The request is there, its first message is not.
    await rest()
    task = await begun(case)
    await rest()
    late.put("websocket.connect")
    await until(lambda: case.guard.status()["sessions"]["open"] == 2)
    clock.passes(8)
    assert await task == 2
    assert (await late.closed())[1] == 1012
    for wire in (first, late):
        await wire.close()
    assert lines(events, "drain.started")[0]["sessions"] == 1
    assert lines(events, "drain.finished")[0]["ended"] == 2


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

    def __init__(self) -> None:
        self.called: list[tuple[int, Any]] = []
        self.config = SimpleNamespace(timeout_graceful_shutdown=None)

    def handle_exit(self, number: int, frame: Any) -> None:
        self.called.append((number, frame))


@pytest.fixture
def server(handlers: None) -> ASGIServer:
    """An ASGI server that handles SIGTERM."""
    found = ASGIServer()
    signal.signal(signal.SIGTERM, found.handle_exit)
    return found


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


async def test_at_sigterm_clients_are_sent_away_before_the_server_ends(server: ASGIServer, clock: Clock) -> None:
    case = guarded()
    case.guard.drain_on_sigterm(over=8)
    wire, _ = await joined_wire(case.app)
    ask_to_end()
    await rest()
    assert case.guard.status()["draining"] is True
    assert server.called == []
    clock.passes(8)
    assert await wire.closed() == ([f"42/messages,{CLOSING}"], 1012)
    await until(lambda: server.called)
    assert server.called == [(signal.SIGTERM, None)]
    # It would wait for connections for ever.
    assert server.config.timeout_graceful_shutdown == PATIENCE_OF_SERVERS


@pytest.mark.parametrize(("own", "expected"), [(0.1, 0.1), (30, PATIENCE_OF_SERVERS)])
async def test_the_servers_own_patience_counts_when_it_is_shorter(
    server: ASGIServer, own: float, expected: float
) -> None:
    server.config.timeout_graceful_shutdown = own
    guarded().guard.drain_on_sigterm(over=0)
    ask_to_end()
    await until(lambda: server.called)
    assert server.config.timeout_graceful_shutdown == expected


async def test_whoever_asks_twice_does_not_want_to_wait(server: ASGIServer, clock: Clock) -> None:
    case = guarded()
    case.guard.drain_on_sigterm()
    await joined_wire(case.app)
    ask_to_end()
    await rest()
    ask_to_end()
    await until(lambda: server.called)
    assert server.called[0][0] == signal.SIGTERM
    assert server.called[0][1] is not None, "called at once, as Python calls a handler"
    clock.passes(8)
    await until(lambda: len(server.called) == 2)


async def test_at_sigterm_a_drain_that_runs_already_is_left_to_whoever_began_it(
    server: ASGIServer, clock: Clock
) -> None:
    case = guarded()
    case.guard.drain_on_sigterm()
    await joined_wire(case.app)
    task = await begun(case)
    ask_to_end()
    await until(lambda: server.called)
    clock.passes(8)
    assert await task == 1


@pytest.mark.parametrize("previous", [signal.SIG_IGN, "function"])
async def test_handlers_that_are_no_servers_are_called_too(handlers: None, previous: Any, events: Events) -> None:
    called: list[Any] = []
    if previous == "function":
        signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    case = guarded()
    case.guard.drain_on_sigterm(over=0)
    ask_to_end()
    await until(lambda: lines(events, "drain.finished"))
    await rest()
    assert called == ([signal.SIGTERM] if previous == "function" else [])


async def test_where_nobody_had_a_handler_the_process_ends(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raised: list[tuple[int, Any]] = []
    monkeypatch.setattr(
        signal, "raise_signal", lambda number: raised.append((number, signal.getsignal(signal.SIGTERM)))
    )
    case = guarded()
    case.guard.drain_on_sigterm(over=0)
    ask_to_end()
    await until(lambda: raised)
    assert raised == [(signal.SIGTERM, signal.SIG_DFL)]


async def test_it_is_chained_once(server: ASGIServer) -> None:
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
    await asyncio.to_thread(case.guard.drain_on_sigterm, over=0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    wire = await open_wire(case.app)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    ask_to_end()
    assert (await wire.closed())[1] == 1012
    await wire.close()
    await rest()


async def test_without_being_asked_for_nothing_is_chained(handlers: None) -> None:
    case = guarded()
    await lifespan(case)
    await open_wire(case.app)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


async def test_outside_the_main_thread_nothing_can_be_chained(handlers: None) -> None:
    case = guarded()

    async def work_in_a_loop() -> None:
        case.guard.drain_on_sigterm()

    await asyncio.to_thread(asyncio.run, work_in_a_loop())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


async def test_a_process_without_a_server_of_its_own_ends_by_the_signal() -> None:
    program = """
    import asyncio, signal, sys
    import socketio
    from socketguard import SocketGuard
    from socketguard.testing import make_auth, mint
    from tests.scripted import joined_wire

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
