"""Expiry and notice of connections: when they come, how often, and what a fresh token changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import ANONYMOUS, Connection, Identity, Session
from socketguard.limits.expiry import Expiry

START = 1_700_000_000.0


def connection_until(expires_at: float | None) -> Connection:
    session = Session(
        client_address="192.0.2.1", origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    return Connection(session, "/messages", Identity(subject="ann", expires_at=expires_at))


class Rig:
    """Expiry by a clock that the test moves."""

    is_on_real_time = True

    def __init__(self, *, notice: float | None = 30.0, leeway: float = 0.0) -> None:
        self.time = START
        self.leeway = leeway
        self.expiry = Expiry(self, notice)

    def now(self) -> float:
        return self.time

    def ends_at(self, identity: Identity) -> float | None:
        return None if identity.expires_at is None else identity.expires_at + self.leeway

    def at(self, seconds: float) -> list[tuple[Any, ...]]:
        """Move the clock to so many seconds after the start, and return what is due."""
        self.time = START + seconds
        return [
            ("end", connection) if left is None else ("notice", connection, left)
            for connection, left in self.expiry.due(100)
        ]


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- notice and end ----------------------------------------------------------------------------------------------


def test_first_the_notice_then_the_end_each_once(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(69.9) == []
    assert rig.at(70) == [("notice", connection, 30)]
    assert len(rig.expiry) == 1
    assert rig.at(99.9) == []
    assert rig.at(100) == [("end", connection)]
    assert connection.timer is None
    assert len(rig.expiry) == 0
    assert rig.at(1000) == []


def test_the_end_is_what_ends_at_says() -> None:
    rig = Rig(leeway=5.0)
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(74.9) == []
    assert rig.at(75) == [("notice", connection, 30)]
    assert rig.at(104.9) == []
    assert rig.at(105) == [("end", connection)]


def test_seconds_are_rounded_since_a_timer_is_always_a_little_late(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(70.004) == [("notice", connection, 30)]


def test_without_notice_only_the_end_comes() -> None:
    rig = Rig(notice=None)
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(99.9) == []
    assert rig.at(100) == [("end", connection)]


def test_less_time_than_the_notice_gives_notice_at_once_though_not_within_begin(rig: Rig) -> None:
    connection = connection_until(START + 12)
    rig.expiry.begin(connection)
    assert rig.at(0) == [("notice", connection, 12)]
    assert rig.at(11.9) == []
    assert rig.at(12) == [("end", connection)]


@pytest.mark.parametrize("left", [0, -1, -1e9, -math.inf])
def test_an_end_that_has_passed_comes_at_once_without_notice(rig: Rig, left: float) -> None:
    connection = connection_until(START + left)
    rig.expiry.begin(connection)
    assert rig.at(0) == [("end", connection)]


@pytest.mark.parametrize("identity", [ANONYMOUS, Identity(subject="ann")])
def test_what_has_no_end_is_not_watched(rig: Rig, identity: Identity) -> None:
    connection = connection_until(None)
    connection.identity = identity
    rig.expiry.begin(connection)
    assert connection.timer is None
    assert len(rig.expiry) == 0
    assert rig.at(1e12) == []


@pytest.mark.parametrize("end", [1e15, math.inf])
def test_an_end_that_is_out_of_reach(rig: Rig, end: float) -> None:
    connection = connection_until(end)
    rig.expiry.begin(connection)
    assert rig.at(1e9) == []
    assert len(rig.expiry) == 1


def test_an_end_that_is_no_number_is_refused(rig: Rig) -> None:
    connection = connection_until(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        rig.expiry.begin(connection)
    assert len(rig.expiry) == 0


def test_to_begin_again_starts_over(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    rig.expiry.begin(connection)
    assert len(rig.expiry) == 1
    assert rig.at(70) == [("notice", connection, 30)]
    assert rig.at(100) == [("end", connection)]


def test_each_connection_has_its_own_end(rig: Rig) -> None:
    connections = [connection_until(START + seconds) for seconds in (300, 100, 200)]
    for connection in connections:
        rig.expiry.begin(connection)
    assert rig.at(150) == [("end", connections[1])]
    assert rig.at(170) == [("notice", connections[2], 30)]
    assert rig.at(300) == [("end", connections[2]), ("end", connections[0])]


# --- clocks ------------------------------------------------------------------------------------------------------


def test_a_jump_beyond_the_end_ends_without_notice(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(1e6) == [("end", connection)]


def test_a_jump_backwards_after_the_notice_gives_no_second_one(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(80) == [("notice", connection, 20)]
    assert rig.at(-3600) == []
    assert rig.at(99) == []
    assert rig.at(100) == [("end", connection)]


@pytest.mark.parametrize(
    ("reading", "ended"),
    [(START + 99.5, False), (START + 100, True), (math.nan, True)],
    ids=["gone back", "stood still", "broken"],
)
def test_what_the_clock_says_when_the_end_has_come_decides(reading: float, ended: bool) -> None:
    class Broken(Rig):
        def ends_at(self, identity: Identity) -> float | None:
            if self.time == START + 100:
                # The entry is due; the next reading of the clock is this one.
                self.time = reading
            return super().ends_at(identity)

    rig = Broken(notice=None)
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(100) == ([("end", connection)] if ended else [])
    assert len(rig.expiry) == (0 if ended else 1)
    assert rig.at(101) == ([] if ended else [("end", connection)])


# --- renewal -----------------------------------------------------------------------------------------------------


def test_a_fresh_token_moves_notice_and_end(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(70) == [("notice", connection, 30)]
    connection.identity = Identity(subject="ann", expires_at=START + 200)
    rig.expiry.renew(connection)
    assert len(rig.expiry) == 1
    assert rig.at(169.9) == []
    assert rig.at(170) == [("notice", connection, 30)]
    assert rig.at(200) == [("end", connection)]


def test_a_fresh_token_that_ends_earlier_counts(rig: Rig) -> None:
    connection = connection_until(START + 1000)
    rig.expiry.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 100)
    rig.expiry.renew(connection)
    assert rig.at(70) == [("notice", connection, 30)]
    assert rig.at(100) == [("end", connection)]


def test_a_fresh_token_without_an_end_ends_nothing(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    connection.identity = Identity(subject="ann")
    rig.expiry.renew(connection)
    assert len(rig.expiry) == 0
    assert rig.at(1000) == []


def test_a_connection_without_an_end_may_get_one(rig: Rig) -> None:
    connection = connection_until(None)
    rig.expiry.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 100)
    rig.expiry.renew(connection)
    assert rig.at(70) == [("notice", connection, 30)]
    assert rig.at(100) == [("end", connection)]


def test_a_token_that_has_expired_meanwhile_ends_the_connection(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START)
    rig.expiry.renew(connection)
    assert rig.at(0) == [("end", connection)]


def test_renewal_without_notice() -> None:
    rig = Rig(notice=None)
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    connection.identity = Identity(subject="ann", expires_at=START + 200)
    rig.expiry.renew(connection)
    assert rig.at(199.9) == []
    assert rig.at(200) == [("end", connection)]


def test_tokens_that_live_shorter_than_the_notice_are_not_refreshed_in_a_circle(rig: Rig) -> None:
    connection = connection_until(START + 20)
    rig.expiry.begin(connection)
    assert rig.at(0) == [("notice", connection, 20)]
    for start in (0, 10, 20, 30):
        connection.identity = Identity(subject="ann", expires_at=START + start + 20)
        rig.expiry.renew(connection)
        assert rig.at(start + 9.9) == []
        assert rig.at(start + 10) == [("notice", connection, 10)]


def test_a_client_that_sends_the_same_token_again_gets_few_notices(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    assert rig.at(70) == [("notice", connection, 30)]
    moments: list[float] = []
    for tenth in range(701, 1000):
        if calls := rig.at(tenth / 10):
            assert [call[0] for call in calls] == ["notice"]
            moments.append(tenth / 10)
        if calls or tenth == 701:
            rig.expiry.renew(connection)
    assert moments == [85.1, 92.6, 96.3, 98.2]
    assert rig.at(100) == [("end", connection)]


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
def test_what_is_left(rig: Rig, end: float | None, over: bool, left: int | None) -> None:
    connection = connection_until(end)
    assert rig.expiry.seconds_left(connection) == left
    rig.expiry.begin(connection)
    # Before the timer could fire.
    assert rig.expiry.is_over(connection) is over
    assert rig.expiry.seconds_left(connection) == left
    rig.expiry.clear()


def test_by_a_clock_of_nan_nothing_is_left(rig: Rig) -> None:
    rig.time = math.nan
    connection = connection_until(START + 30)
    rig.expiry.begin(connection)
    assert rig.expiry.is_over(connection)
    assert rig.expiry.seconds_left(connection) == 0
    rig.expiry.clear()


# --- leaving, and what callbacks do ------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 80])
def test_a_connection_that_has_left_is_not_called(rig: Rig, seconds: float) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    rig.at(seconds)
    for _ in range(2):
        rig.expiry.end(connection)
        assert connection.timer is None
        assert len(rig.expiry) == 0
    assert rig.at(1000) == []


def test_to_end_what_never_began_does_nothing(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.end(connection)
    assert len(rig.expiry) == 0


def test_close_forgets_every_connection(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    rig.expiry.clear()
    assert len(rig.expiry) == 0
    assert rig.at(1000) == []
    rig.expiry.end(connection)
    assert len(rig.expiry) == 0


def test_an_identity_that_lost_its_end_without_renewal_is_left_alone(rig: Rig) -> None:
    connection = connection_until(START + 100)
    rig.expiry.begin(connection)
    connection.identity = ANONYMOUS
    assert rig.at(1000) == []
    assert len(rig.expiry) == 0


def test_whoever_acts_may_end_and_renew(rig: Rig) -> None:
    connections = [connection_until(START + 100) for _ in range(3)]
    for connection in connections:
        rig.expiry.begin(connection)
    rig.time = START + 70
    taken = []
    for connection, left in rig.expiry.due(100):
        taken.append((connection, left))
        if len(taken) == 1:
            connection.identity = Identity(subject="ann", expires_at=START + 200)
            rig.expiry.renew(connection)
            rig.expiry.end(connections[1])
    assert taken == [(connections[0], 30), (connections[2], 30)]
    assert rig.at(100) == [("end", connections[2])]
    assert rig.at(169) == []
    assert rig.at(170) == [("notice", connections[0], 30)]
    rig.expiry.end(connections[0])
    assert rig.at(1000) == []


def test_a_notice_that_fails_neither_prolongs_anything_nor_loses_others(rig: Rig) -> None:
    connections = [connection_until(START + 100) for _ in range(2)]
    for connection in connections:
        rig.expiry.begin(connection)
    rig.time = START + 70

    def act() -> None:
        for _ in rig.expiry.due(100):
            raise LookupError("no such sid")

    with pytest.raises(LookupError):
        act()
    assert rig.at(70) == [("notice", connections[1], 30)]
    assert sorted(rig.at(100), key=lambda call: connections.index(call[1])) == [("end", each) for each in connections]


def test_so_much_at_once(rig: Rig) -> None:
    connections = [connection_until(START) for _ in range(5)]
    for connection in connections:
        rig.expiry.begin(connection)
    assert rig.expiry.wait <= 0
    assert [connection for connection, _ in rig.expiry.due(3)] == connections[:3]
    assert [connection for connection, _ in rig.expiry.due(3)] == connections[3:]
    assert rig.expiry.wait == math.inf


def test_the_wait_is_until_the_first_notice(rig: Rig) -> None:
    assert rig.expiry.wait == math.inf
    rig.expiry.begin(connection_until(START + 100))
    assert rig.expiry.wait == 70
    rig.at(80)
    assert rig.expiry.wait == 20


def test_a_clock_that_is_moved_by_hand_is_looked_at_often(rig: Rig) -> None:
    rig.is_on_real_time = False
    assert rig.expiry.wait == math.inf
    rig.expiry.begin(connection_until(START + 100))
    assert rig.expiry.wait == 0.01
    rig.time = START + 1000
    assert rig.expiry.wait < 0


def test_without_an_authority_nothing_ends() -> None:
    expiry = Expiry(None, 30.0)
    connection = connection_until(1.0)
    expiry.begin(connection)
    assert (len(expiry), list(expiry.due(10)), expiry.is_over(connection)) == (0, [], False)
    assert expiry.seconds_left(connection) is None


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
    rig = Rig(notice=notice)
    connection = connection_until(START + life)
    rig.expiry.begin(connection)
    noticed = False
    for seconds in steps:
        calls = rig.at(seconds)
        end = connection.identity.expires_at
        assert end is not None
        if ("end", connection) in calls:
            assert rig.time >= end
            assert calls == [("end", connection)]
            return
        assert rig.time < end
        assert len(calls) <= 1
        if calls:
            assert notice is not None
            assert not noticed
            assert 0 <= calls[0][2] <= round(end - rig.time)
            noticed = True
        elif renewals:
            connection.identity = Identity(subject="ann", expires_at=START + renewals.pop())
            rig.expiry.renew(connection)
            noticed = False
    assert len(rig.expiry) == 1
