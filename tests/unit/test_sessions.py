"""The open sessions: their number, those that join nothing, those that don't read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from socketguard.connection import Connection, Session
from socketguard.limits.counters import Ledger, Limits
from socketguard.server import sessions as module
from socketguard.server.sessions import BURST, GRACE, SWEEPS, Sessions


class Later:
    """Stands in for the loop's timers: what is to be done later is kept, and done when a test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, callback: Callable[..., None], *args: Any) -> Any:
        entry = (seconds, lambda: callback(*args))
        self.calls.append(entry)
        return SimpleNamespace(cancel=lambda: self.calls.remove(entry))

    def run(self) -> list[float]:
        """Do all that was there; returns the seconds that it would have waited."""
        calls, self.calls = self.calls, []
        for _, call in calls:
            call()
        return [seconds for seconds, _ in calls]


class Case:
    """Sessions whose clock and timers a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, connect_timeout: float | None = 15.0, **limits: Any) -> None:
        self.now = 1000.0
        self.later = Later()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(Sessions, "_later", staticmethod(self.later))
        self.overdue: list[Session] = []
        self.slow: list[Session] = []
        self.limits = Limits(**{"send_timeout": None, **limits})
        self.ledger = Ledger(self.limits)
        self.sessions = Sessions(
            self.limits,
            self.ledger,
            connect_timeout=connect_timeout,
            overdue=self.overdue.append,
            slow=self.slow.append,
        )

    def open(self, address: str = "203.0.113.7") -> Session:
        session = Session(
            client_address=address, origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
        )
        self.sessions.opened(session)
        return session

    async def move(self, seconds: float) -> None:
        self.now += seconds
        self.sessions._timers.wake()
        # One turn for the timers, one for what they have set in turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def hand(self, session: Session, size: int) -> bool:
        """What the seam does with a packet for a client."""
        session.handed += size
        limit = self.limits.queue_bytes
        return limit is not None and session.handed - session.done > limit and self.sessions.too_much(session, size)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    return lambda **options: Case(monkeypatch, **options)


Make = Callable[..., Case]


# Joining nothing


async def test_a_session_that_joins_nothing_is_overdue(make: Make) -> None:
    case = make()
    session = case.open()
    assert (case.sessions.pending, case.sessions.timers, case.ledger.sessions) == (1, 1, 1)
    await case.move(14.9)
    assert case.overdue == []
    await case.move(0.1)
    assert case.overdue == [session]
    assert case.sessions.timers == 0
    assert case.sessions.pending == 1, "until it has really gone"
    case.sessions.closed(session)
    assert (case.sessions.pending, case.sessions.open, case.ledger.sessions) == (0, set(), 0)


async def test_a_session_that_has_joined_has_no_deadline_until_it_leaves_its_last_namespace(make: Make) -> None:
    case = make()
    session = case.open()
    case.sessions.joined(session)
    case.sessions.joined(session)
    assert (case.sessions.pending, case.sessions.timers, session.joined) == (0, 0, 2)
    case.sessions.left(session)
    await case.move(1000)
    assert (case.sessions.pending, case.overdue) == (0, [])
    case.sessions.left(session)
    assert (case.sessions.pending, case.sessions.timers) == (1, 1)
    await case.move(14.9)
    assert case.overdue == []
    await case.move(0.1)
    assert case.overdue == [session]
    case.sessions.closed(session)


async def test_a_session_that_joins_again_in_time_goes_on(make: Make) -> None:
    case = make()
    session = case.open()
    case.sessions.joined(session)
    case.sessions.left(session)
    case.sessions.joined(session)
    await case.move(1000)
    assert case.overdue == []
    case.sessions.closed(session)
    assert (case.sessions.pending, case.sessions.timers) == (0, 0)


async def test_a_connect_that_is_being_decided_is_not_cut_off(make: Make) -> None:
    case = make()
    session = case.open()
    session.connections["/messages"] = Connection(session, "/messages")
    await case.move(15)
    await case.move(14.9)
    assert case.overdue == []
    assert case.sessions.timers == 1
    session.connections.clear()
    await case.move(0.1)
    assert case.overdue == [session]
    case.sessions.closed(session)


async def test_no_deadline(make: Make) -> None:
    case = make(connect_timeout=None)
    session = case.open()
    assert (case.sessions.pending, case.sessions.timers) == (1, 0)
    await case.move(1e9)
    assert case.overdue == []
    case.sessions.joined(session)
    case.sessions.left(session)
    assert (case.sessions.pending, case.sessions.timers) == (1, 0)
    case.sessions.closed(session)
    assert case.sessions.pending == 0


async def test_a_session_that_ends_while_it_is_in_a_namespace(make: Make) -> None:
    case = make()
    session = case.open()
    case.sessions.joined(session)
    case.sessions.closed(session)
    assert (case.sessions.pending, case.ledger.sessions) == (0, 0)
    # Its namespace ends after it: nothing waits for a session that is not there.
    case.sessions.left(session)
    assert (case.sessions.pending, case.sessions.timers) == (0, 0)
    case.sessions.closed(session)
    assert (case.sessions.pending, case.ledger.sessions) == (0, 0)


async def test_all_are_forgotten(make: Make) -> None:
    case = make(send_timeout=30.0)
    sessions = [case.open(f"203.0.113.{number}") for number in range(5)]
    case.sessions.joined(sessions[0])
    assert len(case.later.calls) == 1
    case.sessions.clear()
    assert case.sessions.open == set()
    assert (case.sessions.pending, case.sessions.timers, case.ledger.sessions) == (0, 0, 0)
    assert case.later.calls == []
    case.sessions.clear()
    await case.move(1000)
    assert case.overdue == []


# More waits than queue_bytes


async def test_a_client_that_takes_nothing_of_too_much_is_slow(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    assert not case.hand(session, 100)
    assert case.later.calls == []
    assert not case.hand(session, 60)
    assert not case.hand(session, 60)
    assert len(case.later.calls) == 1, "watched already"
    assert case.slow == []
    assert case.later.run() == [GRACE]
    assert case.slow == [session]
    assert case.later.calls == []


async def test_a_client_that_takes_something_gets_more_time(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for _ in range(4):
        case.hand(session, 60)
    session.done = 10
    assert case.later.run() == [GRACE]
    assert case.slow == []
    session.done = 20
    assert case.later.run() == [GRACE]
    assert case.slow == []
    assert case.later.run() == [GRACE]
    assert case.slow == [session]


async def test_a_burst_that_a_healthy_client_takes(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for _ in range(BURST + 1):
        assert not case.hand(session, 100)
    session.done = session.handed
    case.later.run()
    assert (case.slow, case.later.calls) == ([], [])
    # And the next one finds it watched again.
    for _ in range(4):
        case.hand(session, 60)
    assert case.later.run() == [GRACE]
    assert case.slow == [session]


async def test_what_is_left_may_be_exactly_the_limit(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for _ in range(4):
        case.hand(session, 60)
    session.done = 140
    case.later.run()
    assert (case.slow, case.later.calls) == ([], [])


async def test_far_too_much_is_too_much_at_once(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for _ in range(BURST + 1):
        assert not case.hand(session, 100)
    assert case.hand(session, 1)


async def test_one_packet_alone_may_be_as_large_as_it_likes(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    assert not case.hand(session, 10_000)
    # A line may be so slow that it is not through yet; that is for send_timeout.
    assert case.later.run() == [GRACE]
    assert case.slow == []
    session.done = session.handed
    assert case.later.run() == [GRACE]
    assert (case.slow, case.later.calls) == ([], [])
    assert not case.hand(session, 10_000)


async def test_a_large_packet_does_not_make_the_small_ones_behind_it_too_much(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    case.hand(session, 10_000)
    for _ in range(BURST):
        assert not case.hand(session, 100), "the client has had no time to read the first"
    assert case.hand(session, 1)


async def test_small_packets_pile_up_behind_a_large_one(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for size in (10_000, 60, 60):
        case.hand(session, size)
    assert case.later.run() == [GRACE]
    assert case.slow == [session]


async def test_a_large_packet_may_follow_a_small_one(make: Make) -> None:
    # python-socketio sends a binary event as one small text and its attachments, all at once.
    case = make(queue_bytes=100)
    session = case.open()
    case.hand(session, 40)
    assert not case.hand(session, 10_000)


async def test_what_was_large_does_not_count_once_all_has_been_read(make: Make) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    case.hand(session, 10_000)
    session.done = session.handed
    case.later.run()
    for _ in range(BURST + 1):
        assert not case.hand(session, 100)
    assert case.hand(session, 1)


@pytest.mark.parametrize("how", ["closed", "ending"])
async def test_a_session_that_ends_while_it_is_watched_is_not_ended_twice(make: Make, how: str) -> None:
    case = make(queue_bytes=100)
    session = case.open()
    for _ in range(4):
        case.hand(session, 60)
    if how == "closed":
        case.sessions.closed(session)
    else:
        session.ending = "draining"
    case.later.run()
    assert (case.slow, case.later.calls) == ([], [])


async def test_no_limit_of_bytes(make: Make) -> None:
    case = make(queue_bytes=None)
    session = case.open()
    for _ in range(100):
        session.handed += 10**9
        assert not case.sessions.too_much(session, 10**9)
    case.later.run()
    assert (case.slow, case.later.calls) == ([], [])


# Nothing leaves for send_timeout


async def test_a_client_that_stalls_is_found_after_send_timeout(make: Make) -> None:
    case = make(send_timeout=30.0)
    session = case.open()
    session.handed = 10
    for number in range(SWEEPS):
        assert case.later.run() == [10.0]
        assert case.slow == [], number
    assert case.later.run() == [10.0]
    assert case.slow == [session]
    # Whoever ends it says so; until it is gone it is not named again.
    session.ending = "slow_consumer"
    for _ in range(2 * SWEEPS):
        case.later.run()
    assert case.slow == [session]


@pytest.mark.parametrize("what", ["idle", "takes", "takes all"])
async def test_a_client_that_reads_is_left_alone(make: Make, what: str) -> None:
    case = make(send_timeout=30.0)
    session = case.open()
    for _ in range(5 * SWEEPS):
        if what == "takes":
            session.handed += 10
            session.done += 1
        elif what == "takes all":
            session.handed += 10
            session.done = session.handed
        case.later.run()
    assert case.slow == []


async def test_a_client_that_begins_to_read_again_is_left_alone(make: Make) -> None:
    case = make(send_timeout=30.0)
    session = case.open()
    session.handed = 10
    for _ in range(SWEEPS):
        case.later.run()
    session.done = 1
    for _ in range(SWEEPS):
        case.later.run()
    assert case.slow == []
    case.later.run()
    assert case.slow == [session]


async def test_nobody_looks_while_there_is_nobody(make: Make) -> None:
    case = make(send_timeout=30.0)
    first, second = case.open(), case.open()
    assert len(case.later.calls) == 1, "one for all"
    case.sessions.closed(first)
    case.later.run()
    assert len(case.later.calls) == 1
    case.sessions.closed(second)
    case.later.run()
    assert case.later.calls == []
    case.open()
    assert len(case.later.calls) == 1


async def test_no_limit_of_time(make: Make) -> None:
    case = make(send_timeout=None)
    session = case.open()
    session.handed = 10
    assert case.later.calls == []


async def test_timers_hold_no_context_of_the_application() -> None:
    # The context of a handler would keep its connection alive.
    seen: list[Any] = []
    done = asyncio.Event()

    def look() -> None:
        from socketguard.connection import bound_connection

        seen.append(bound_connection.get())
        done.set()

    from socketguard.connection import bound_connection

    session = Session(
        client_address=None, origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    token = bound_connection.set(Connection(session, "/"))
    try:
        Sessions._later(0.0, look)
        await asyncio.wait_for(done.wait(), 5)
    finally:
        bound_connection.reset(token)
    assert seen == [None]
