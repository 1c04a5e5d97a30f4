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
END = "end"


def until(end: float | None) -> Identity:
    """An identity that ends so many seconds after the start."""
    return Identity(subject="ann", expires_at=None if end is None else START + end)


class Rig:
    """Expiry by a clock that the test moves."""

    moves_by_hand = False

    def __init__(self, *, notice: float | None = 30.0, leeway: float = 0.0) -> None:
        self.time = START
        self.leeway = leeway
        self.expiry = Expiry(self, notice)

    def now(self) -> float:
        return self.time

    def ends_at(self, identity: Identity) -> float | None:
        return None if identity.expires_at is None else identity.expires_at + self.leeway

    def begin(self, end: float | None) -> Connection:
        """Watch over a connection that ends so many seconds after the start."""
        session = Session(
            client_address="192.0.2.1",
            origin=None,
            user_agent=None,
            transport="websocket",
            headers=[],
            query_string=b"",
        )
        connection = Connection(session, "/messages", until(end))
        self.expiry.begin(connection)
        return connection

    def renew(self, connection: Connection, end: float | None) -> None:
        connection.identity = until(end)
        self.expiry.renew(connection)

    def at(self, seconds: float) -> list[tuple[Connection, Any]]:
        """Move the clock to so many seconds after the start, and return what is due."""
        self.time = START + seconds
        return [(connection, END if left is None else left) for connection, left in self.expiry.due(100)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


# What a connection lives through: moments with what is due then (seconds of a notice, or the end), and fresh tokens.
STORIES: dict[str, tuple[dict[str, Any], float | None, list[Any]]] = {
    "the notice, then the end, each once": ({}, 100, [(69.9, None), (70, 30), (99.9, None), (100, END), (1000, None)]),
    "the end is what ends_at says": ({"leeway": 5.0}, 100, [(74.9, None), (75, 30), (104.9, None), (105, END)]),
    "seconds are rounded, since a timer is always a little late": ({}, 100, [(70.004, 30)]),
    "without notice only the end comes": ({"notice": None}, 100, [(99.9, None), (100, END)]),
    "less time than the notice": ({}, 12, [(0, 12), (11.9, None), (12, END)]),
    "an end just now": ({}, 0, [(0, END)]),
    "an end that has passed": ({}, -1, [(0, END)]),
    "an end long ago": ({}, -1e9, [(0, END)]),
    "an end before all time": ({}, -math.inf, [(0, END)]),
    "no end": ({}, None, [(1e12, None)]),
    "an end that is out of reach": ({}, 1e15, [(1e9, None)]),
    "an end that never comes": ({}, math.inf, [(1e9, None)]),
    "a jump beyond the end": ({}, 100, [(1e6, END)]),
    "a jump back gives no second notice": ({}, 100, [(80, 20), (-3600, None), (99, None), (100, END)]),
    "a fresh token moves both": ({}, 100, [(70, 30), "renew", 200, (169.9, None), (170, 30), (200, END)]),
    "a fresh token that ends earlier": ({}, 1000, ["renew", 100, (70, 30), (100, END)]),
    "a fresh token without an end": ({}, 100, ["renew", None, (1000, None)]),
    "a first end by a fresh token": ({}, None, ["renew", 100, (70, 30), (100, END)]),
    "a fresh token that has expired": ({}, 100, ["renew", 0, (0, END)]),
    "a fresh token without notice": ({"notice": None}, 100, ["renew", 200, (199.9, None), (200, END)]),
    # Otherwise a client would refresh in a circle.
    "tokens that live shorter than the notice": (
        {},
        20,
        [
            *((0, 20), "renew", 20, (9.9, None), (10, 10), "renew", 30, (19.9, None), (20, 10)),
            *("renew", 40, (29.9, None), (30, 10), "renew", 50, (39.9, None), (40, 10)),
        ],
    ),
}


@pytest.mark.parametrize(("options", "end", "steps"), STORIES.values(), ids=STORIES)
def test_what_a_connection_lives_through(options: dict[str, Any], end: float | None, steps: list[Any]) -> None:
    rig = Rig(**options)
    connection = rig.begin(end)
    watched, steps = end is not None, iter(steps)
    for step in steps:
        assert len(rig.expiry) == watched
        assert (connection.timer is not None) is watched
        if step == "renew":
            end = next(steps)
            rig.renew(connection, end)
            watched = end is not None
        else:
            moment, due = step
            assert rig.at(moment) == ([] if due is None else [(connection, due)])
            watched = watched and due != END
    assert len(rig.expiry) == watched


def test_an_end_that_is_no_number_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="NaN"):
        rig.begin(math.nan)
    assert len(rig.expiry) == 0


def test_to_begin_again_starts_over(rig: Rig) -> None:
    connection = rig.begin(100)
    rig.expiry.begin(connection)
    assert len(rig.expiry) == 1
    assert rig.at(70) == [(connection, 30)]
    assert rig.at(100) == [(connection, END)]


def test_each_connection_has_its_own_end(rig: Rig) -> None:
    connections = [rig.begin(end) for end in (300, 100, 200)]
    assert rig.at(150) == [(connections[1], END)]
    assert rig.at(170) == [(connections[2], 30)]
    assert rig.at(300) == [(connections[2], END), (connections[0], END)]


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
    connection = rig.begin(100)
    assert rig.at(100) == ([(connection, END)] if ended else [])
    assert len(rig.expiry) == (0 if ended else 1)
    assert rig.at(101) == ([] if ended else [(connection, END)])


def test_a_client_that_sends_the_same_token_again_gets_few_notices(rig: Rig) -> None:
    connection = rig.begin(100)
    assert rig.at(70) == [(connection, 30)]
    moments: list[float] = []
    for tenth in range(701, 1000):
        if calls := rig.at(tenth / 10):
            assert END not in calls[0]
            moments.append(tenth / 10)
        if calls or tenth == 701:
            rig.expiry.renew(connection)
    assert moments == [85.1, 92.6, 96.3, 98.2]
    assert rig.at(100) == [(connection, END)]


@pytest.mark.parametrize(
    ("end", "over", "left"),
    [
        (30, False, 30),
        (29.996, False, 30),
        (0.25, False, 0),
        (0, True, 0),
        (-1, True, 0),
        (-math.inf, True, 0),
        (1e15, False, 1e15),
        (math.inf, False, None),
        (None, False, None),
    ],
)
def test_what_is_left_before_the_timer_could_fire(rig: Rig, end: float | None, over: bool, left: int | None) -> None:
    connection = rig.begin(end)
    assert rig.expiry.is_over(connection) is over
    assert rig.expiry.seconds_left(connection) == left
    rig.expiry.clear()
    assert rig.expiry.seconds_left(connection) == left


def test_by_a_clock_of_nan_nothing_is_left(rig: Rig) -> None:
    rig.time = math.nan
    connection = rig.begin(30)
    assert rig.expiry.is_over(connection)
    assert rig.expiry.seconds_left(connection) == 0


@pytest.mark.parametrize("seconds", [None, 0, 80])
def test_a_connection_that_has_left_is_not_told(rig: Rig, seconds: float | None) -> None:
    connection = rig.begin(100)
    if seconds is None:
        rig.expiry.clear()
    else:
        rig.at(seconds)
    for _ in range(2):
        rig.expiry.end(connection)
        assert connection.timer is None
        assert len(rig.expiry) == 0
    assert rig.at(1000) == []


def test_an_identity_that_lost_its_end_without_renewal_is_left_alone(rig: Rig) -> None:
    connection = rig.begin(100)
    connection.identity = ANONYMOUS
    assert rig.at(1000) == []
    assert len(rig.expiry) == 0


def test_whoever_acts_may_end_and_renew(rig: Rig) -> None:
    connections = [rig.begin(100) for _ in range(3)]
    rig.time = START + 70
    taken = []
    for connection, left in rig.expiry.due(100):
        taken.append((connection, left))
        if len(taken) == 1:
            rig.renew(connection, 200)
            rig.expiry.end(connections[1])
    assert taken == [(connections[0], 30), (connections[2], 30)]
    assert rig.at(100) == [(connections[2], END)]
    assert rig.at(169) == []
    assert rig.at(170) == [(connections[0], 30)]
    rig.expiry.end(connections[0])
    assert rig.at(1000) == []


def test_a_notice_that_fails_neither_prolongs_anything_nor_loses_others(rig: Rig) -> None:
    connections = [rig.begin(100) for _ in range(2)]
    rig.time = START + 70

    def act() -> None:
        for _ in rig.expiry.due(100):
            raise LookupError("no such sid")

    with pytest.raises(LookupError):
        act()
    assert rig.at(70) == [(connections[1], 30)]
    assert sorted(rig.at(100), key=lambda due: connections.index(due[0])) == [(each, END) for each in connections]


def test_so_much_at_once(rig: Rig) -> None:
    connections = [rig.begin(0) for _ in range(5)]
    assert rig.expiry.wait <= 0
    assert [connection for connection, _ in rig.expiry.due(3)] == connections[:3]
    assert [connection for connection, _ in rig.expiry.due(3)] == connections[3:]
    assert rig.expiry.wait == math.inf


def test_the_wait_is_until_the_first_notice(rig: Rig) -> None:
    assert rig.expiry.wait == math.inf
    rig.begin(100)
    assert rig.expiry.wait == 70
    rig.at(80)
    assert rig.expiry.wait == 20


def test_a_clock_that_is_moved_by_hand_is_looked_at_often(rig: Rig) -> None:
    rig.moves_by_hand = True
    assert rig.expiry.wait == math.inf
    rig.begin(100)
    assert rig.expiry.wait == 0.01
    rig.time = START + 1000
    assert rig.expiry.wait < 0


def test_without_an_authority_nothing_ends(rig: Rig) -> None:
    connection, expiry = rig.begin(-1), Expiry(None, 30.0)
    rig.expiry.end(connection)
    expiry.begin(connection)
    assert (len(expiry), list(expiry.due(10)), expiry.is_over(connection)) == (0, [], False)
    assert expiry.seconds_left(connection) is None


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
    connection = rig.begin(life)
    noticed = False
    for seconds in steps:
        due = rig.at(seconds)
        end = connection.identity.expires_at
        assert end is not None
        if (connection, END) in due:
            assert rig.time >= end
            assert due == [(connection, END)]
            return
        assert rig.time < end
        assert len(due) <= 1
        if due:
            assert notice is not None
            assert not noticed
            assert 0 <= due[0][1] <= round(end - rig.time)
            noticed = True
        elif renewals:
            rig.renew(connection, renewals.pop())
            noticed = False
    assert len(rig.expiry) == 1
