"""Expiry and notice of connections: when they come, how often, and what a fresh token changes."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import ANONYMOUS, Connection, Identity, Session
from socketguard.limits.expiry import Lifetime

START = 1_700_000_000.0


def connection_until(expires_at: float | None) -> Connection:
    session = Session(
        client_address="192.0.2.1", origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    return Connection(session, "/messages", Identity(subject="ann", expires_at=expires_at))


class Rig:
    """A lifetime with a clock that the test moves, and what it has called."""

    def __init__(self, *, notice: float | None = 30.0, leeway: float = 0.0) -> None:
        self.now = START
        self.leeway = leeway
        self.calls: list[tuple[Any, ...]] = []
        self.lifetime = Lifetime(
            ends_at=self.ends_at,
            clock=lambda: self.now,
            notice=notice,
            notify=lambda connection, seconds: self.calls.append(("notice", connection, seconds)),
            expire=lambda connection: self.calls.append(("end", connection)),
        )

    def ends_at(self, identity: Identity) -> float | None:
        return None if identity.expires_at is None else identity.expires_at + self.leeway

    async def at(self, seconds: float) -> list[tuple[Any, ...]]:
        """Move the clock to so many seconds after the start, and return what has been called since the last time."""
        self.now = START + seconds
        self.lifetime.wake()
        await asyncio.sleep(0)
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
async def rig() -> Rig:
    return Rig()


# --- notice and end ----------------------------------------------------------------------------------------------


async def test_first_the_notice_then_the_end_each_once(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(69.9) == []
    assert await rig.at(70) == [("notice", connection, 30)]
    assert len(rig.lifetime) == 1
    assert await rig.at(99.9) == []
    assert await rig.at(100) == [("end", connection)]
    assert connection.timer is None
    assert len(rig.lifetime) == 0
    assert await rig.at(1000) == []


async def test_the_end_is_what_ends_at_says() -> None:
    rig = Rig(leeway=5.0)
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(74.9) == []
    assert await rig.at(75) == [("notice", connection, 30)]
    assert await rig.at(104.9) == []
    assert await rig.at(105) == [("end", connection)]


async def test_seconds_are_rounded_since_a_timer_is_always_a_little_late(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(70.004) == [("notice", connection, 30)]


async def test_without_notice_only_the_end_comes() -> None:
    rig = Rig(notice=None)
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(99.9) == []
    assert await rig.at(100) == [("end", connection)]


async def test_less_time_than_the_notice_gives_notice_at_once_though_not_within_begin(rig: Rig) -> None:
    connection = connection_until(START + 12)
    rig.lifetime.begin(connection)
    assert rig.calls == []
    assert await rig.at(0) == [("notice", connection, 12)]
    assert await rig.at(11.9) == []
    assert await rig.at(12) == [("end", connection)]


@pytest.mark.parametrize("left", [0, -1, -1e9, -math.inf])
async def test_an_end_that_has_passed_comes_at_once_without_notice(rig: Rig, left: float) -> None:
    connection = connection_until(START + left)
    rig.lifetime.begin(connection)
    assert rig.calls == []
    assert await rig.at(0) == [("end", connection)]


@pytest.mark.parametrize("identity", [ANONYMOUS, Identity(subject="ann")])
async def test_what_has_no_end_is_not_watched(rig: Rig, identity: Identity) -> None:
    connection = connection_until(None)
    connection.identity = identity
    rig.lifetime.begin(connection)
    assert connection.timer is None
    assert len(rig.lifetime) == 0
    assert await rig.at(1e12) == []


@pytest.mark.parametrize("end", [1e15, math.inf])
async def test_an_end_that_is_out_of_reach(rig: Rig, end: float) -> None:
    connection = connection_until(end)
    rig.lifetime.begin(connection)
    assert await rig.at(1e9) == []
    assert len(rig.lifetime) == 1


async def test_an_end_that_is_no_number_is_refused(rig: Rig) -> None:
    connection = connection_until(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        rig.lifetime.begin(connection)
    assert len(rig.lifetime) == 0


async def test_to_begin_again_starts_over(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    rig.lifetime.begin(connection)
    assert len(rig.lifetime) == 1
    assert await rig.at(70) == [("notice", connection, 30)]
    assert await rig.at(100) == [("end", connection)]


async def test_each_connection_has_its_own_end(rig: Rig) -> None:
    connections = [connection_until(START + seconds) for seconds in (300, 100, 200)]
    for connection in connections:
        rig.lifetime.begin(connection)
    assert await rig.at(150) == [("end", connections[1])]
    assert await rig.at(170) == [("notice", connections[2], 30)]
    assert await rig.at(300) == [("end", connections[2]), ("end", connections[0])]


# --- clocks ------------------------------------------------------------------------------------------------------


async def test_a_jump_beyond_the_end_ends_without_notice(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(1e6) == [("end", connection)]


async def test_a_jump_backwards_after_the_notice_gives_no_second_one(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(80) == [("notice", connection, 20)]
    assert await rig.at(-3600) == []
    assert await rig.at(99) == []
    assert await rig.at(100) == [("end", connection)]


@pytest.mark.parametrize(
    ("reading", "ended"),
    [(START + 99.5, False), (START + 100, True), (math.nan, True)],
    ids=["gone back", "stood still", "broken"],
)
async def test_what_the_clock_says_when_the_end_has_come_decides(reading: float, ended: bool) -> None:
    now = START
    calls: list[tuple[Any, ...]] = []

    def ends_at(identity: Identity) -> float | None:
        nonlocal now
        if now == START + 100:
            # The timer is due; the next reading of the clock is this one.
            now = reading
        return identity.expires_at

    lifetime = Lifetime(
        ends_at=ends_at,
        clock=lambda: now,
        notice=None,
        notify=lambda connection, seconds: calls.append(("notice", connection, seconds)),
        expire=lambda connection: calls.append(("end", connection)),
    )
    connection = connection_until(START + 100)
    lifetime.begin(connection)
    now = START + 100
    lifetime.wake()
    await asyncio.sleep(0)
    assert calls == ([("end", connection)] if ended else [])
    assert len(lifetime) == (0 if ended else 1)
    now = START + 101
    lifetime.wake()
    await asyncio.sleep(0)
    assert calls == [("end", connection)]


# --- renewal -----------------------------------------------------------------------------------------------------


async def test_a_fresh_token_moves_notice_and_end(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(70) == [("notice", connection, 30)]
    connection.identity = Identity(subject="ann", expires_at=START + 200)
    rig.lifetime.renew(connection)
    assert len(rig.lifetime) == 1
    assert await rig.at(169.9) == []
    assert await rig.at(170) == [("notice", connection, 30)]
    assert await rig.at(200) == [("end", connection)]


async def test_a_fresh_token_that_ends_earlier_counts(rig: Rig) -> None:
    connection = connection_until(START + 1000)
    rig.lifetime.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 100)
    rig.lifetime.renew(connection)
    assert await rig.at(70) == [("notice", connection, 30)]
    assert await rig.at(100) == [("end", connection)]


async def test_a_fresh_token_without_an_end_ends_nothing(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    connection.identity = Identity(subject="ann")
    rig.lifetime.renew(connection)
    assert len(rig.lifetime) == 0
    assert await rig.at(1000) == []


async def test_a_connection_without_an_end_may_get_one(rig: Rig) -> None:
    connection = connection_until(None)
    rig.lifetime.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 100)
    rig.lifetime.renew(connection)
    assert await rig.at(70) == [("notice", connection, 30)]
    assert await rig.at(100) == [("end", connection)]


async def test_a_token_that_has_expired_meanwhile_ends_the_connection(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START)
    rig.lifetime.renew(connection)
    assert await rig.at(0) == [("end", connection)]


async def test_renewal_without_notice() -> None:
    rig = Rig(notice=None)
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 200)
    rig.lifetime.renew(connection)
    assert await rig.at(199.9) == []
    assert await rig.at(200) == [("end", connection)]


async def test_tokens_that_live_shorter_than_the_notice_are_not_refreshed_in_a_circle(rig: Rig) -> None:
    connection = connection_until(START + 20)
    rig.lifetime.begin(connection)
    assert await rig.at(0) == [("notice", connection, 20)]
    for start in (0, 10, 20, 30):
        connection.identity = Identity(subject="ann", expires_at=START + start + 20)
        rig.lifetime.renew(connection)
        assert await rig.at(start + 9.9) == []
        assert await rig.at(start + 10) == [("notice", connection, 10)]


async def test_a_client_that_sends_the_same_token_again_gets_few_notices(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    assert await rig.at(70) == [("notice", connection, 30)]
    moments: list[float] = []
    for tenth in range(701, 1000):
        if calls := await rig.at(tenth / 10):
            assert [call[0] for call in calls] == ["notice"]
            moments.append(tenth / 10)
        if calls or tenth == 701:
            rig.lifetime.renew(connection)
    assert moments == [85.1, 92.6, 96.3, 98.2]
    assert await rig.at(100) == [("end", connection)]


# --- what the clock says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "over", "left"),
    [
        (START + 30, False, 30),
        (START + 29.996, False, 30),
        (START + 0.25, False, 0),
        (START, True, 0),
        (START - 1, True, 0),
        (-math.inf, True, 0),
        (1e15, False, 1e15 - START),
        (math.inf, False, None),
        (None, False, None),
    ],
)
async def test_what_is_left(rig: Rig, end: float | None, over: bool, left: int | None) -> None:
    connection = connection_until(end)
    assert rig.lifetime.seconds_left(connection) == left
    rig.lifetime.begin(connection)
    # Before the timer could fire.
    assert rig.lifetime.is_over(connection) is over
    assert rig.lifetime.seconds_left(connection) == left
    assert rig.calls == []
    rig.lifetime.close()


async def test_by_a_clock_of_nan_nothing_is_left(rig: Rig) -> None:
    rig.now = math.nan
    connection = connection_until(START + 30)
    rig.lifetime.begin(connection)
    assert rig.lifetime.is_over(connection)
    assert rig.lifetime.seconds_left(connection) == 0
    rig.lifetime.close()


# --- leaving, and what callbacks do ------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 80])
async def test_a_connection_that_has_left_is_not_called(rig: Rig, seconds: float) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    await rig.at(seconds)
    for _ in range(2):
        rig.lifetime.end(connection)
        assert connection.timer is None
        assert len(rig.lifetime) == 0
    assert await rig.at(1000) == []


async def test_to_end_what_never_began_does_nothing(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.end(connection)
    assert len(rig.lifetime) == 0


async def test_close_forgets_every_connection(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    rig.lifetime.close()
    assert len(rig.lifetime) == 0
    assert await rig.at(1000) == []
    rig.lifetime.end(connection)
    assert len(rig.lifetime) == 0


async def test_an_identity_that_lost_its_end_without_renewal_is_left_alone(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.lifetime.begin(connection)
    connection.identity = ANONYMOUS
    assert await rig.at(1000) == []
    assert len(rig.lifetime) == 0


async def test_callbacks_may_end_and_renew() -> None:
    now = START
    calls: list[str] = []

    def notify(connection: Connection, seconds: int) -> None:
        calls.append("notice")
        if len(calls) == 1:
            connection.identity = Identity(subject="ann", expires_at=START + 200)
            lifetime.renew(connection)
        else:
            lifetime.end(connection)

    lifetime = Lifetime(
        ends_at=lambda identity: identity.expires_at,
        clock=lambda: now,
        notice=30.0,
        notify=notify,
        expire=lambda connection: calls.append("end"),
    )
    lifetime.begin(connection_until(START + 100))
    for seconds, expected in ((70, 1), (100, 1), (169, 1), (170, 2), (1000, 2)):
        now = START + seconds
        lifetime.wake()
        await asyncio.sleep(0)
        assert calls == ["notice"] * expected
    assert len(lifetime) == 0


async def test_a_notice_that_fails_does_not_prolong_anything() -> None:
    now = START
    ended: list[Connection] = []
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    error = LookupError("no such sid")

    def notify(connection: Connection, seconds: int) -> None:
        raise error

    lifetime = Lifetime(
        ends_at=lambda identity: identity.expires_at,
        clock=lambda: now,
        notice=30.0,
        notify=notify,
        expire=ended.append,
    )
    connection = connection_until(START + 100)
    lifetime.begin(connection)
    for seconds in (70, 100):
        now = START + seconds
        lifetime.wake()
        await asyncio.sleep(0)
    assert reported == [error]
    assert ended == [connection]


# --- whatever the numbers are ------------------------------------------------------------------------------------


@given(
    life=st.floats(-10, 1e6),
    notice=st.one_of(st.none(), st.floats(0.001, 1e6)),
    steps=st.lists(st.floats(-1e5, 1e6), max_size=20),
    renewals=st.lists(st.floats(-10, 1e6), max_size=3),
)
def test_never_open_past_the_end_and_never_ended_before_it(
    life: float, notice: float | None, steps: list[float], renewals: list[float]
) -> None:
    async def run() -> None:
        rig = Rig(notice=notice)
        connection = connection_until(START + life)
        rig.lifetime.begin(connection)
        noticed = False
        for seconds in steps:
            calls = await rig.at(seconds)
            end = connection.identity.expires_at
            assert end is not None
            if ("end", connection) in calls:
                assert rig.now >= end
                assert calls == [("end", connection)]
                return
            assert rig.now < end
            assert len(calls) <= 1
            if calls:
                assert notice is not None
                assert not noticed
                assert 0 <= calls[0][2] <= round(end - rig.now)
                noticed = True
            elif renewals:
                connection.identity = Identity(subject="ann", expires_at=START + renewals.pop())
                rig.lifetime.renew(connection)
                noticed = False
        assert len(rig.lifetime) == 1

    asyncio.run(run())
