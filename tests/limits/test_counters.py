from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from socketguard.connection import address_key
from socketguard.errors import ConfigurationError
from socketguard.limits.counters import Ledger, Limits, Refusals
from socketguard.limits.rates import Rate

# Limits

NUMBERS = [
    "lookups",
    "connections", "pending_sessions", "connections_per_subject", "connections_per_address", "sessions_per_address",
    "repeats_per_namespace", "namespaces_per_session", "connect_packet_bytes", "queue_bytes",
]  # fmt: skip
RATE_NAMES = ["failures_per_address", "refreshes_per_connection"]
NAN = math.nan


def test_the_defaults_are_described_for_a_log_line() -> None:
    assert Limits().describe() == {
        "connections": 20_000,
        "pending_sessions": 5_000,
        "connections_per_subject": 100,
        "connections_per_address": 5_000,
        "sessions_per_address": 5_000,
        "failures_per_address": "30/minute",
        "repeats_per_namespace": 10,
        "namespaces_per_session": 16,
        "connect_packet_bytes": 16_384,
        "queue_bytes": 1_048_576,
        "send_timeout": 30.0,
        "refreshes_per_connection": "10/minute",
        "lookups": 16,
    }
    assert Limits().failure_rate == Rate(30, 60.0)
    assert Limits().refresh_rate == Rate(10, 60.0)


def test_each_limit_can_be_turned_off() -> None:
    names = [field.name for field in dataclasses.fields(Limits)]
    assert sorted([*NUMBERS, *RATE_NAMES, "send_timeout"]) == sorted(names)
    off = Limits(**dict.fromkeys(names))
    assert off.describe() == dict.fromkeys(names)
    assert off.failure_rate is None
    assert off.refresh_rate is None


def test_limits_that_are_right_are_taken_as_they_are() -> None:
    given = {"connections": 1, "send_timeout": 2, "failures_per_address": "1/day", "refreshes_per_connection": "2/hour"}
    limits = Limits(**given)
    assert limits.describe() == {**Limits().describe(), **given}
    assert limits.failure_rate == Rate(1, 86400.0)
    assert limits.refresh_rate == Rate(2, 3600.0)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        *(
            (name, value, "whole number of at least 1")
            for name in NUMBERS
            for value in (0, -1, True, 1.0, "5", math.inf)
        ),
        *(
            ("send_timeout", value, "seconds greater than 0, such as 30.0")
            for value in (0, -1, True, "5", math.inf, NAN)
        ),
        *((name, value, "'30/minute'") for name in RATE_NAMES for value in ("30", 30, "", True, 0)),
    ],
)
def test_a_wrong_limit_is_an_error_that_names_it(name: str, value: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{name: value})
    assert caught.value.option == f"limits.{name}"
    assert str(caught.value).startswith(f"limits.{name} is {value!r}; write ")
    assert advice in str(caught.value)


def test_limits_are_values() -> None:
    assert Limits(connections=5) == Limits(connections=5) != Limits()
    assert len({Limits(), Limits()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().connections = 5  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match="write the options by their names: connections="):
        Limits(5)  # type: ignore[call-arg]


# Ledger

ANNA, BORIS = ("https://issuer.example", "anna"), (None, "boris")
ANOTHER_ANNA = (None, "anna")


def contents(ledger: Ledger) -> dict[str, Any]:
    return {name: value for name, value in vars(ledger).items() if name not in ("_limits", "exempt")}


EMPTY = contents(Ledger(Limits()))


def test_an_empty_ledger_is_empty() -> None:
    assert not any(EMPTY.values())


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (Limits(connections=2, connections_per_subject=2, connections_per_address=2), "connections"),
        (Limits(connections_per_subject=2, connections_per_address=2), "connections_per_subject"),
        (Limits(connections_per_address=2), "connections_per_address"),
    ],
)
def test_the_limit_that_is_full_is_named_and_nothing_is_taken(limits: Limits, problem: str) -> None:
    ledger = Ledger(limits)
    assert ledger.take(ANNA, "2001:db8::1") is None
    assert ledger.take(ANNA, "2001:db8::2") is None
    before = repr(contents(ledger))
    assert ledger.take(ANNA, "2001:db8::3") == problem
    assert repr(contents(ledger)) == before
    ledger.release(ANNA, "2001:db8::1")
    assert ledger.take(ANNA, "2001:db8::3") is None


def test_the_limit_that_another_session_would_pass_is_named() -> None:
    ledger = Ledger(Limits(connections=1, pending_sessions=2, sessions_per_address=1))
    ledger.wait("203.0.113.9")
    assert ledger.session_problem("203.0.113.7") is None
    ledger.open_session("203.0.113.7")
    assert ledger.session_problem("203.0.113.7") == "sessions_per_address"
    assert ledger.session_problem("203.0.113.8") is None
    ledger.wait("203.0.113.7")
    assert ledger.session_problem("203.0.113.7") == "pending_sessions"
    ledger.take(ANNA, "203.0.113.7")
    assert ledger.session_problem("203.0.113.7") == "connections"
    ledger.release(ANNA, "203.0.113.7")
    ledger.close_session("203.0.113.7")
    ledger.settle("203.0.113.7")
    assert ledger.session_problem("203.0.113.7") is None


@pytest.mark.parametrize(("attackers", "each"), [(1, 50), (2, 33), (3, 25), (9, 10)])
def test_no_address_takes_all_that_wait(attackers: int, each: int) -> None:
    ledger = Ledger(Limits(pending_sessions=100))
    addresses = [f"203.0.113.{number}" for number in range(attackers)]
    for _ in range(100):
        for address in addresses:
            if ledger.session_problem(address) is None:
                ledger.wait(address)
    assert {ledger.session_problem(address) for address in addresses} == {"pending_sessions_per_address"}
    assert all(abs(ledger.pending_by_address[address] - each) <= 1 for address in addresses)
    assert ledger.session_problem("198.51.100.1") is None
    ledger.settle(addresses[0])
    assert ledger.session_problem(addresses[0]) is None
    ledger.exempt.add(addresses[-1])
    assert ledger.session_problem(addresses[-1]) is None
    assert ledger.session_problem(None) is None


@pytest.mark.parametrize(
    ("exempt", "address"), [("10.0.0.1", "::ffff:10.0.0.1"), ("fd00::1", "fd00::1"), ("fd00::/64", "fd00::2")]
)
def test_the_address_of_a_proxy_has_no_limit_but_is_counted(exempt: str, address: str) -> None:
    ledger = Ledger(Limits(connections_per_address=1, sessions_per_address=1, connections_per_subject=3))
    assert ledger.take(ANNA, address) is None
    ledger.open_session(address)
    assert ledger.take(BORIS, address) == "connections_per_address"
    assert ledger.session_problem(address) == "sessions_per_address"
    ledger.exempt.add(exempt)
    assert ledger.take(BORIS, address) is None
    assert ledger.session_problem(address) is None
    assert ledger.take(BORIS, "203.0.113.7") is None
    assert ledger.take(BORIS, "203.0.113.7") == "connections_per_address"
    ledger.exempt.clear()
    assert ledger.take(BORIS, address) == "connections_per_address"


SUBJECTS = st.sampled_from([None, ANNA, BORIS, ANOTHER_ANNA])
ADDRESSES = st.sampled_from([None, "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "2001:db8::2"])


def small(low: int, high: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(low, high)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside plain lists of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[tuple[str | None, str] | None, str | None]] = []
        self.sessions: list[str | None] = []
        self.pending: list[str | None] = []

    @initialize(
        limits=st.builds(
            Limits,
            connections=small(1, 8),
            connections_per_subject=small(1, 4),
            connections_per_address=small(1, 4),
            pending_sessions=small(1, 3),
            sessions_per_address=small(1, 4),
        )
    )
    def start(self, limits: Limits) -> None:
        self.limits, self.ledger = limits, Ledger(limits)

    @staticmethod
    def key(address: str | None) -> str | None:
        return None if address is None else address_key(address)

    def first_full(self, **counts: int) -> str | None:
        """The first limit, of the given ones, that a count has reached."""
        limits = self.limits.describe()
        return next(
            (name for name, count in counts.items() if limits[name] is not None and count >= limits[name]), None
        )

    def exempt(self, address: str | None) -> bool:
        return address is None or address in self.ledger.exempt or address_key(address) in self.ledger.exempt

    @rule(subject=SUBJECTS, address=ADDRESSES)
    def take(self, subject: tuple[str | None, str] | None, address: str | None) -> None:
        of_subject = sum(other == subject for other, _ in self.held)
        of_address = sum(self.key(other) == self.key(address) for _, other in self.held)
        counts = {"connections": len(self.held)}
        if subject is not None:
            counts["connections_per_subject"] = of_subject
        if not self.exempt(address):
            counts["connections_per_address"] = of_address
        expected = self.first_full(**counts)
        assert self.ledger.take(subject, address) == expected
        if expected is None:
            self.held.append((subject, address))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            self.ledger.release(*self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule(subject=SUBJECTS, address=ADDRESSES)
    def release_what_is_not_held(self, subject: tuple[str | None, str] | None, address: str | None) -> None:
        if subject not in [other for other, _ in self.held] or self.key(address) not in [
            self.key(other) for _, other in self.held
        ]:
            self.ledger.release(subject, address)

    @rule(address=ADDRESSES)
    def open_session(self, address: str | None) -> None:
        self.ledger.open_session(address)
        self.sessions.append(address)

    @rule(data=st.data())
    def close_session(self, data: st.DataObject) -> None:
        if self.sessions:
            self.ledger.close_session(self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1))))

    @rule(address=ADDRESSES)
    def close_a_session_that_is_not_open(self, address: str | None) -> None:
        if self.key(address) not in map(self.key, self.sessions):
            self.ledger.close_session(address)

    @rule(address=ADDRESSES.filter(bool), all_of_its_network=st.booleans())
    def make_exempt(self, address: str, all_of_its_network: bool) -> None:
        self.ledger.exempt.add(address_key(address) if all_of_its_network else address)

    @rule()
    def make_none_exempt(self) -> None:
        self.ledger.exempt.clear()

    @rule(address=ADDRESSES)
    def wait(self, address: str | None) -> None:
        self.ledger.wait(address)
        self.pending.append(address)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.pending:
            self.ledger.settle(self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1))))

    @rule(address=ADDRESSES)
    def ask(self, address: str | None) -> None:
        of_address = sum(self.key(other) == self.key(address) for other in self.sessions)
        counts = {"connections": len(self.held), "pending_sessions": len(self.pending)}
        if not self.exempt(address):
            counts["sessions_per_address"] = of_address
        expected = self.first_full(**counts)
        most = self.ledger._limits.pending_sessions
        if expected is None and most is not None and not self.exempt(address):
            waiting = sum(self.key(other) == self.key(address) for other in self.pending)
            if waiting >= most - len(self.pending):
                expected = "pending_sessions_per_address"
        assert self.ledger.session_problem(address) == expected

    @invariant()
    def counts_what_is_held(self) -> None:
        counts = contents(self.ledger)
        assert self.ledger.connections == len(self.held)
        assert self.ledger.sessions == len(self.sessions)
        assert counts["by_subject"] == Counter(subject for subject, _ in self.held)
        assert counts["by_address"] == Counter(self.key(address) for _, address in self.held)
        assert counts["sessions_by_address"] == Counter(map(self.key, self.sessions))
        assert counts["pending_by_address"] == Counter(map(self.key, self.pending))
        assert self.ledger.pending == len(self.pending)
        tables = ("by_subject", "by_address", "sessions_by_address", "pending_by_address")
        assert all(count > 0 for table in tables for count in counts[table].values())

    def teardown(self) -> None:
        for connection in self.held:
            self.ledger.release(*connection)
        for address in self.sessions:
            self.ledger.close_session(address)
        for address in self.pending:
            self.ledger.settle(address)
        assert contents(self.ledger) == EMPTY


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=40)


# Refusals

EXPIRED, SCOPE = "token_expired", "insufficient_scope"


def numbered(count: int, of: int) -> list[tuple[str, str]]:
    return [(EXPIRED, f"/{number % of}") for number in range(count)]


@pytest.mark.parametrize(
    ("repeats", "namespaces", "calls", "costs", "too_many"),
    [
        # Three namespaces refused for one token are one failure.
        (10, 16, [(EXPIRED, "/a"), (EXPIRED, "/b"), (EXPIRED, "/c")], [1, 0, 0], [0] * 3),
        # To ask again costs each time, and so does another code.
        (3, 16, [*[(EXPIRED, "/a")] * 5, (EXPIRED, "/b")], [1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0]),
        (
            10,
            16,
            [(EXPIRED, "/a"), (SCOPE, "/b"), (SCOPE, "/c"), (EXPIRED, "/d"), (SCOPE, "/a")],
            [1, 1, 1, 0, 1],
            [0] * 5,
        ),
        # All of a session's refusals have a limit too.
        (2, 3, numbered(8, 8), [1] + [0] * 7, [0] * 6 + [1] * 2),
        (2, None, numbered(150, 50), [1] + [0] * 49 + [1] * 100, [0] * 100 + [1] * 50),
        (None, 1, numbered(1000, 100), [1] + [0] * 63 + [1] * 936, [0] * 1000),
        # Names beyond those that are told apart share a count, and cost.
        (3, None, [*numbered(69, 69), (EXPIRED, "/0")], [1] + [0] * 63 + [1] * 6, [0] * 67 + [1] * 2 + [0]),
    ],
)
def test_which_refusals_cost_and_when_there_are_too_many(
    repeats: int | None, namespaces: int | None, calls: list[tuple[str, str]], costs: list[bool], too_many: list[bool]
) -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=repeats, namespaces_per_session=namespaces)
    assert [refusals.count(*call, limits) for call in calls] == list(zip(costs, too_many, strict=True))


def test_the_refusals_of_a_session_stay_small_whatever_names_it_sends() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=None)
    tracemalloc.start()
    try:
        for number in range(2000):
            refusals.count(EXPIRED, f"/{number}" + "x" * 16_000, limits)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 16_384


@given(
    st.lists(
        st.tuples(st.sampled_from([EXPIRED, SCOPE, "token_invalid"]), st.sampled_from(["/", "/a", "/b", "/ü\ud800"]))
    ),
    small(1, 5),
    small(1, 5),
)
def test_refusals_are_counted_as_in_a_list(
    calls: list[tuple[str, str]], repeats: int | None, names: int | None
) -> None:
    limits = Limits(repeats_per_namespace=repeats, namespaces_per_session=names)
    refusals, earlier = Refusals(), list[tuple[str, str]]()
    for code, name in calls:
        before = [other for _, other in earlier]
        costs = not earlier or name in before or code != earlier[0][0]
        too_many = repeats is not None and (
            before.count(name) + 1 > repeats or (names is not None and len(earlier) + 1 > repeats * names)
        )
        assert refusals.count(code, name, limits) == (costs, too_many)
        earlier.append((code, name))
