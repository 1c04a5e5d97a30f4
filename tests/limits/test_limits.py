from __future__ import annotations

import dataclasses
import ipaddress
import math
import tracemalloc
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from socketguard.connection import address_key
from socketguard.errors import ConfigurationError
from socketguard.limits.counters import Ledger, Limits, Refusals
from socketguard.limits.rates import AddressBudget, Bucket, Rate

PER_MINUTE = Rate(30, 60.0)
RATES = st.builds(Rate, st.integers(1, 1000), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))
# Rates and times whose products are exact in binary.
EXACT_RATES = st.sampled_from([Rate(1, 1.0), Rate(4, 1.0), Rate(30, 60.0), Rate(15, 60.0), Rate(225, 3600.0)])


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# Rate


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("30/minute", 30, 60), ("1/second", 1, 1), ("9999999/hour", 9_999_999, 3600), ("7/day", 7, 86400)],
)
def test_a_rate_is_read_and_written(text: str, count: int, seconds: float) -> None:
    rate = Rate.parse(text, option="rate")
    assert (rate.count, rate.seconds) == (count, seconds)
    assert str(rate) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "30", "minute", "/minute", "0/minute", "-1/minute", "+1/minute", "030/minute", "1.5/minute", "1e3/second",
        "10000000/second", "30/minutes", "30/10 seconds", "30 / minute", " 30/minute", "30/minute\n", "30/Minute",
        "٣/minute", "30 per minute", 30, 30.0, None, b"30/minute", ["30/minute"],
    ],
)  # fmt: skip
def test_what_is_no_rate_is_an_error_that_names_the_option(text: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rate.parse(text, option="rate of an event")
    assert caught.value.option == "rate of an event"
    assert str(caught.value).startswith(f"rate of an event is {text!r}; write ")
    assert "'30/minute'" in str(caught.value)


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(0, 60.0), (-1, 60.0), (True, 60.0), (1.0, 60.0), (10_000_000, 1.0), (1, 30.0), (1, math.nan)],
)
def test_a_rate_made_by_hand_is_checked_too(count: Any, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="count is a whole number from 1 to 9999999, seconds is 1") as caught:
        Rate(count, seconds)
    assert caught.value.option == "rate"


@given(RATES)
def test_a_rate_survives_its_text(rate: Rate) -> None:
    assert Rate.parse(str(rate), option="rate") == rate


# Limits

NUMBERS = [
    "connections", "pending_sessions", "connections_per_subject", "connections_per_address", "sessions_per_address",
    "repeats_per_namespace", "namespaces_per_session", "connect_packet_bytes", "queue_bytes",
]  # fmt: skip
RATE_NAMES = ["failures_per_address", "refreshes_per_connection"]


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
    limits = Limits(connections=1, send_timeout=2, failures_per_address="1/day", refreshes_per_connection="2/hour")
    assert limits.describe() == {
        **Limits().describe(),
        "connections": 1,
        "send_timeout": 2,
        "failures_per_address": "1/day",
        "refreshes_per_connection": "2/hour",
    }
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
            for value in (0, -1, True, "5", math.inf, math.nan)
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
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[call-arg]


# Bucket


def test_a_bucket_starts_full_and_fills_up_again() -> None:
    bucket, rate = Bucket(), Rate(3, 60.0)
    assert [bucket.take(rate, 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]
    assert bucket.take(rate, 110.0) == 10.0
    assert bucket.take(rate, 120.0) == 0.0
    assert bucket.take(rate, 120.0) == 20.0
    assert [bucket.take(rate, 10_000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]


def test_a_bucket_bears_a_clock_that_is_set_back() -> None:
    bucket, rate = Bucket(), Rate(2, 60.0)
    assert bucket.take(rate, 1e9) == 0.0
    assert bucket.take(rate, 10.0) == 0.0
    assert bucket.take(rate, 10.0) == 30.0
    assert bucket.take(rate, 0.0) == 30.0
    assert bucket.take(rate, -1e9) == 30.0
    assert bucket.take(rate, -1e9 + 30) == 0.0


@given(RATES, st.lists(st.floats(-2e9, 2e9), min_size=1, max_size=30))
def test_whatever_the_clock_does_the_wait_is_that_for_one_token(rate: Rate, times: list[float]) -> None:
    bucket = Bucket()
    for now in times:
        assert 0.0 <= bucket.take(rate, now) <= rate.seconds / rate.count * 1.01


@given(RATES, st.floats(0, 2e9), st.lists(st.floats(0, 0.9), max_size=2))
@example(Rate(1000, 1.0), 1.9e9, [])
def test_who_waits_as_long_as_told_is_served(rate: Rate, now: float, parts: list[float]) -> None:
    bucket = Bucket()
    for _ in range(rate.count):
        assert bucket.take(rate, now) == 0.0
    for part in [*parts, 1.0]:
        wait = bucket.take(rate, now)
        assert wait > 0.0
        now += wait * part
    assert bucket.take(rate, now) == 0.0


@given(RATES, st.lists(st.floats(0, 100), max_size=200))
def test_no_more_is_given_than_the_rate_allows(rate: Rate, steps: list[float]) -> None:
    bucket, now, given_out = Bucket(), 0.0, 0
    for step in steps:
        now += step
        given_out += bucket.take(rate, now) == 0.0
        assert given_out <= rate.count + now * rate.count / rate.seconds + 0.01


# address_key


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:cb00:7107", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:0001:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("testclient", "testclient"),
        ("unix:", "unix:"),
        ("203.0.113.7:80", "203.0.113.7:80"),
        (":" * 100, ":" * 64),
        ("x" * 100, "x" * 64),
        ("::1%" + "z" * 100, "::/64"),
    ],
)
def test_one_source_has_one_key(address: str, key: str) -> None:
    assert address_key(address) == key


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_the_network_of_an_ipv6_address_decides(address: ipaddress.IPv6Address, host: int) -> None:
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    stranger = ipaddress.IPv6Address(int(address) ^ 1 << 64)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert address_key(str(neighbour)) == address_key(address.exploded)
    assert address_key(str(stranger)) != address_key(str(address))


@given(st.text() | st.text(alphabet="0123456789abcdef:.%", max_size=80))
def test_any_text_has_a_short_key(address: str) -> None:
    assert len(address_key(address)) <= 64


# AddressBudget


def test_a_budget_is_used_up_and_comes_back() -> None:
    clock = Clock()
    budget = AddressBudget(Rate(3, 60.0), clock=clock)
    assert budget.wait("203.0.113.7") == 0.0
    for _ in range(2):
        budget.fail("203.0.113.7")
        assert budget.wait("203.0.113.7") == 0.0
    budget.fail("203.0.113.7")
    assert budget.wait("203.0.113.7") == 20.0
    assert budget.wait("203.0.113.8") == 0.0
    clock.now += 15
    assert budget.wait("203.0.113.7") == 5.0
    clock.now += 5
    assert budget.wait("203.0.113.7") == 0.0
    budget.fail("203.0.113.7")
    assert budget.wait("203.0.113.7") == 20.0


def test_failures_beyond_the_budget_are_not_owed() -> None:
    clock = Clock()
    budget = AddressBudget(Rate(3, 60.0), clock=clock)
    for _ in range(1000):
        budget.fail("203.0.113.7")
    assert budget.wait("203.0.113.7") == 20.0


def test_all_of_an_ipv6_network_shares_a_budget() -> None:
    budget = AddressBudget(Rate(2, 60.0), clock=Clock())
    budget.fail("2001:db8::1")
    budget.fail("2001:db8::2")
    assert budget.wait("2001:db8::ffff") == 30.0
    assert budget.wait("2001:db8:0:1::1") == 0.0
    assert len(budget) == 1


def test_without_a_rate_or_an_address_nothing_is_counted() -> None:
    for budget, address in ((AddressBudget(None), "203.0.113.7"), (AddressBudget(Rate(1, 86400.0)), None)):
        for _ in range(10):
            budget.fail(address)
        assert budget.wait(address) == 0.0
        assert len(budget) == 0


def test_nobody_without_an_address_waits_for_somebody_with_one() -> None:
    budget = AddressBudget(Rate(1, 60.0), clock=Clock())
    budget.fail("203.0.113.7")
    assert budget.wait(None) == 0.0


def test_an_exempt_address_is_never_counted_again() -> None:
    budget = AddressBudget(Rate(1, 60.0), clock=Clock())
    budget.fail("10.0.0.1")
    assert budget.wait("10.0.0.1") > 0.0
    assert budget.exempt("10.0.0.1") is True
    assert budget.wait("10.0.0.1") == 0.0
    assert budget.exempt("::ffff:10.0.0.1") is False
    for address in ("10.0.0.1", "203.0.113.7"):
        budget.fail(address)
    assert budget.wait("10.0.0.1") == 0.0
    assert budget.wait("203.0.113.7") == 60.0
    assert len(budget) == 1


def test_exempt_addresses_are_told_without_a_rate_too() -> None:
    budget = AddressBudget(None)
    assert [budget.exempt("10.0.0.1"), budget.exempt("10.0.0.1")] == [True, False]


def test_the_number_of_exempt_addresses_is_bounded() -> None:
    budget = AddressBudget(Rate(1, 60.0), clock=Clock())
    new = [budget.exempt(f"10.1.{number >> 8}.{number & 255}") for number in range(5000)]
    assert new == [True] * 4096 + [False] * 904
    budget.fail("10.1.0.0")
    budget.fail("10.1.19.135")
    assert budget.wait("10.1.0.0") == 0.0
    assert budget.wait("10.1.19.135") == 60.0


def test_memory_is_given_back_a_while_after_the_last_failure() -> None:
    clock = Clock()
    budget = AddressBudget(PER_MINUTE, clock=clock)
    for number in range(1000):
        budget.fail(f"198.51.{number >> 8}.{number & 255}")
    clock.now += 59.5
    budget.wait("203.0.113.7")
    assert len(budget) == 1000
    clock.now += 0.5
    for _ in range(500):
        budget.wait("203.0.113.7")
    assert len(budget) == 0


def test_new_failures_push_out_what_is_over() -> None:
    clock = Clock()
    budget = AddressBudget(PER_MINUTE, clock=clock)
    for number in range(100):
        budget.fail(f"198.51.100.{number}")
    clock.now += 60
    sizes = []
    for number in range(100):
        budget.fail(f"203.0.113.{number}")
        sizes.append(len(budget))
    # One comes and two go, until only the new ones are left.
    assert sizes == [*range(99, 49, -1), *range(51, 101)]


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    clock = Clock(1e9)
    budget = AddressBudget(Rate(2, 60.0), clock=clock)
    budget.fail("203.0.113.7")
    budget.fail("203.0.113.7")
    clock.now = 0.0
    assert budget.wait("203.0.113.7") == 30.0
    clock.now = 30.0
    assert budget.wait("203.0.113.7") == 0.0
    budget.fail("203.0.113.7")
    assert budget.wait("203.0.113.7") == 30.0


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_budget_needs_room(capacity: int) -> None:
    with pytest.raises(ConfigurationError, match=r"capacity is .*; write a whole number of at least 1") as caught:
        AddressBudget(PER_MINUTE, capacity=capacity)
    assert caught.value.option == "capacity"


@pytest.mark.parametrize("capacity", [1, 2, 511])
def test_no_number_of_addresses_passes_the_capacity(capacity: int) -> None:
    clock = Clock()
    budget = AddressBudget(PER_MINUTE, clock=clock, capacity=capacity)
    largest = 0
    for number in range(20_000):
        clock.now += 0.0001
        budget.fail(f"2001:db8:{number:x}::1" if number % 4 == 0 else f"198.51.{number >> 8}.{number & 255}")
        largest = max(largest, len(budget))
    assert largest == capacity


def test_those_are_forgotten_that_have_not_failed_for_the_longest_time() -> None:
    budget = AddressBudget(Rate(1, 60.0), clock=Clock(), capacity=3)
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.1", "203.0.113.4"):
        budget.fail(address)
        budget.wait("203.0.113.2")
    assert [budget.wait(f"203.0.113.{number}") for number in (1, 2, 3, 4)] == [60.0, 0.0, 60.0, 60.0]


def test_memory_does_not_grow_with_the_number_of_addresses() -> None:
    clock = Clock()
    budget = AddressBudget(PER_MINUTE, clock=clock, capacity=500)

    def flood(first: int) -> int:
        for number in range(first, first + 10_000):
            clock.now += 0.001
            address = (
                f"2001:db8:{number:x}::1" if number % 2 else f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            )
            budget.fail(address)
            budget.wait(address)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = flood(0)
        after = flood(10_000)
    finally:
        tracemalloc.stop()
    assert after - before < 100_000  # 10,000 addresses more would be 1 MB at the least


# The source behind each address of the model.
SOURCES = {
    "203.0.113.7": "a",
    "::ffff:203.0.113.7": "a",
    "203.0.113.8": "b",
    "2001:db8::1": "c",
    "2001:db8::2": "c",
    "2001:db8:0:1::1": "d",
    "somewhere": "e",
}


class Model:
    """The failures of each source, all of them kept, and what follows from them."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.failures: dict[str, list[Fraction]] = {}

    def fail(self, address: str, now: float) -> None:
        self.failures.setdefault(SOURCES[address], []).append(Fraction(now))

    def wait(self, address: str, now: float) -> float:
        count = Fraction(self.rate.count)
        per_token = Fraction(self.rate.seconds) / count
        tokens, before = count, Fraction(0)
        for then in self.failures.get(SOURCES[address], []):
            tokens = max(min(count, tokens + (then - before) / per_token) - 1, Fraction(0))
            before = then
        tokens = min(count, tokens + (Fraction(now) - before) / per_token)
        return float(max(1 - tokens, Fraction(0)) * per_token)


FAILURES = st.tuples(st.just("fail"), st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=8))
PAUSE = st.tuples(st.just("time"), st.integers(1, 8) | st.integers(1, 400))
EXEMPTION = st.tuples(st.just("exempt"), st.sampled_from(sorted(SOURCES)))


@given(EXACT_RATES, st.lists(FAILURES | PAUSE | EXEMPTION, max_size=50))
def test_a_budget_does_what_its_model_does(rate: Rate, steps: list[tuple[str, Any]]) -> None:
    clock = Clock(0.0)
    budget, model = AddressBudget(rate, clock=clock), Model(rate)
    exempt: set[str] = set()
    for step, argument in steps:
        if step == "time":
            clock.now += argument / 4
        elif step == "exempt":
            assert budget.exempt(argument) is (SOURCES[argument] not in exempt)
            exempt.add(SOURCES[argument])
        else:
            for address in argument:
                budget.fail(address)
                model.fail(address, clock.now)
        for address, source in SOURCES.items():
            assert budget.wait(address) == (0.0 if source in exempt else model.wait(address, clock.now))
        assert len(budget) <= len(set(SOURCES.values()) - exempt)


@given(
    st.sampled_from([Rate(1, 1.0), Rate(2, 1.0), Rate(4, 1.0)]),
    st.integers(1, 4),
    st.lists(FAILURES | PAUSE, max_size=30),
)
def test_a_budget_without_enough_room_forgets_in_favour_of_the_client(
    rate: Rate, capacity: int, steps: list[tuple[str, Any]]
) -> None:
    clock = Clock(0.0)
    budget, model = AddressBudget(rate, clock=clock, capacity=capacity), Model(rate)
    recent: list[str] = []  # the sources that failed last, the last one first
    remembered: set[str] = set()
    for step, argument in steps:
        if step == "time":
            clock.now += argument / 4
        for address in argument if step == "fail" else ():
            budget.fail(address)
            model.fail(address, clock.now)
            source = SOURCES[address]
            recent = [source, *(other for other in recent if other != source)]
            # Whoever was pushed out once began anew, and has a budget that the model does not know.
            remembered &= set(recent[:capacity])
            if len(model.failures[source]) == 1:
                remembered.add(source)
        assert len(budget) <= capacity
        for address, source in SOURCES.items():
            wait = budget.wait(address)
            assert 0.0 <= wait <= model.wait(address, clock.now)
            if source in remembered:
                assert wait == model.wait(address, clock.now)
            if source not in recent[:capacity]:
                assert wait == 0.0


# Ledger

ANNA, BORIS = ("https://issuer.example", "anna"), (None, "boris")


def contents(ledger: Ledger) -> dict[str, Any]:
    return {name: getattr(ledger, name) for name in Ledger.__slots__ if name not in ("_limits", "exempt")}


EMPTY = contents(Ledger(Limits()))


def test_an_empty_ledger_is_empty() -> None:
    assert sorted(map(repr, EMPTY.values())) == ["0", "0", "{}", "{}", "{}"]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (Limits(connections=2), "connections"),
        (Limits(connections_per_subject=2), "connections_per_subject"),
        (Limits(connections_per_address=2), "connections_per_address"),
        (Limits(connections=2, connections_per_subject=2, connections_per_address=2), "connections"),
        (Limits(connections_per_subject=2, connections_per_address=2), "connections_per_subject"),
    ],
)
def test_the_limit_that_is_full_is_named_and_nothing_is_taken(limits: Limits, problem: str) -> None:
    ledger = Ledger(limits)
    assert ledger.take(ANNA, "2001:db8::1") is None
    assert ledger.take(ANNA, "2001:db8::2") is None
    before = {name: repr(value) for name, value in contents(ledger).items()}
    assert ledger.take(ANNA, "2001:db8::3") == problem
    assert {name: repr(value) for name, value in contents(ledger).items()} == before
    assert ledger.connections == 2
    ledger.release(ANNA, "2001:db8::1")
    assert ledger.take(ANNA, "2001:db8::3") is None


def test_subjects_of_two_issuers_are_two() -> None:
    ledger = Ledger(Limits(connections_per_subject=1))
    assert [ledger.take((issuer, "anna"), None) for issuer in ("one", "two", None, "one")] == [
        None,
        None,
        None,
        "connections_per_subject",
    ]


def test_the_anonymous_and_those_without_an_address_have_no_limit_of_their_own() -> None:
    ledger = Ledger(Limits(connections=5, connections_per_subject=1, connections_per_address=1, sessions_per_address=1))
    assert [ledger.take(None, None) for _ in range(6)] == [None] * 5 + ["connections"]
    ledger.release(None, None)
    for _ in range(3):
        assert ledger.session_problem(None, 0) is None
        ledger.open_session(None)


def test_all_limits_off_means_no_limit() -> None:
    ledger = Ledger(Limits(**dict.fromkeys(Limits().describe())))
    for _ in range(10):
        assert ledger.take(ANNA, "203.0.113.7") is None
        ledger.open_session("203.0.113.7")
    assert ledger.session_problem("203.0.113.7", 10**9) is None
    assert (ledger.connections, ledger.sessions) == (10, 10)


@pytest.mark.parametrize(
    ("exempt", "address"), [("10.0.0.1", "::ffff:10.0.0.1"), ("fd00::1", "fd00::1"), ("fd00::/64", "fd00::2")]
)
def test_the_address_of_a_proxy_has_no_limit_but_is_counted(exempt: str, address: str) -> None:
    ledger = Ledger(Limits(connections_per_address=1, sessions_per_address=1, connections_per_subject=3))
    assert ledger.take(ANNA, address) is None
    ledger.open_session(address)
    assert ledger.take(BORIS, address) == "connections_per_address"
    assert ledger.session_problem(address, 0) == "sessions_per_address"
    ledger.exempt.add(exempt)
    assert ledger.take(BORIS, address) is None
    assert ledger.session_problem(address, 0) is None
    assert ledger.take(BORIS, "203.0.113.7") is None
    assert ledger.take(BORIS, "203.0.113.7") == "connections_per_address"
    ledger.exempt.clear()
    assert ledger.take(BORIS, address) == "connections_per_address"


def test_the_limit_that_another_session_would_pass_is_named() -> None:
    ledger = Ledger(Limits(connections=1, pending_sessions=2, sessions_per_address=2))
    assert ledger.session_problem("203.0.113.7", 1) is None
    assert ledger.session_problem("203.0.113.7", 2) == "pending_sessions"
    ledger.open_session("203.0.113.7")
    assert ledger.session_problem("203.0.113.7", 1) is None
    ledger.open_session("203.0.113.7")
    assert ledger.session_problem("203.0.113.7", 1) == "sessions_per_address"
    assert ledger.session_problem("203.0.113.8", 1) is None
    assert ledger.session_problem("203.0.113.7", 2) == "pending_sessions"
    ledger.take(ANNA, "203.0.113.7")
    assert ledger.session_problem("203.0.113.7", 2) == "connections"
    ledger.release(ANNA, "203.0.113.7")
    ledger.close_session("203.0.113.7")
    assert ledger.session_problem("203.0.113.7", 1) is None


SUBJECTS = st.sampled_from([None, ANNA, BORIS])
ADDRESSES = st.sampled_from([None, "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "2001:db8::2"])


def small(low: int, high: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(low, high)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside plain lists of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[tuple[str | None, str] | None, str | None]] = []
        self.sessions: list[str | None] = []

    @initialize(total=small(1, 8), subject=small(1, 4), address=small(1, 4), pending=small(1, 3), sessions=small(1, 4))
    def start(self, **numbers: int | None) -> None:
        self.limits = Limits(
            connections=numbers["total"],
            connections_per_subject=numbers["subject"],
            connections_per_address=numbers["address"],
            pending_sessions=numbers["pending"],
            sessions_per_address=numbers["sessions"],
        )
        self.ledger = Ledger(self.limits)

    @staticmethod
    def key(address: str | None) -> str | None:
        return None if address is None else address_key(address)

    @staticmethod
    def full(count: int, limit: int | None) -> bool:
        return limit is not None and count >= limit

    def exempt(self, address: str | None) -> bool:
        return address is None or address in self.ledger.exempt or address_key(address) in self.ledger.exempt

    @rule(subject=SUBJECTS, address=ADDRESSES)
    def take(self, subject: tuple[str | None, str] | None, address: str | None) -> None:
        of_subject = sum(other == subject for other, _ in self.held)
        of_address = sum(self.key(other) == self.key(address) for _, other in self.held)
        if self.full(len(self.held), self.limits.connections):
            expected = "connections"
        elif subject is not None and self.full(of_subject, self.limits.connections_per_subject):
            expected = "connections_per_subject"
        elif not self.exempt(address) and self.full(of_address, self.limits.connections_per_address):
            expected = "connections_per_address"
        else:
            expected = None
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

    @rule(address=ADDRESSES.filter(bool))
    def make_exempt(self, address: str) -> None:
        self.ledger.exempt.add(address)

    @rule(address=ADDRESSES, pending=st.integers(0, 4))
    def ask(self, address: str | None, pending: int) -> None:
        of_address = sum(self.key(other) == self.key(address) for other in self.sessions)
        if self.full(len(self.held), self.limits.connections):
            expected = "connections"
        elif self.full(pending, self.limits.pending_sessions):
            expected = "pending_sessions"
        elif not self.exempt(address) and self.full(of_address, self.limits.sessions_per_address):
            expected = "sessions_per_address"
        else:
            expected = None
        assert self.ledger.session_problem(address, pending) == expected

    @invariant()
    def counts_what_is_held(self) -> None:
        counts = contents(self.ledger)
        assert self.ledger.connections == len(self.held)
        assert self.ledger.sessions == len(self.sessions)
        assert counts["_by_subject"] == Counter(subject for subject, _ in self.held)
        assert counts["_by_address"] == Counter(self.key(address) for _, address in self.held)
        assert counts["_sessions_by_address"] == Counter(map(self.key, self.sessions))

    def teardown(self) -> None:
        for connection in self.held:
            self.ledger.release(*connection)
        for address in self.sessions:
            self.ledger.close_session(address)
        assert contents(self.ledger) == EMPTY


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "release", "open_session", "close_session"]), SUBJECTS, ADDRESSES),
        max_size=60,
    )
)
def test_no_order_of_calls_makes_a_count_negative(calls: list[tuple[str, Any, Any]]) -> None:
    ledger = Ledger(Limits(connections=10))
    for name, subject, address in calls:
        getattr(ledger, name)(*((subject, address) if name in ("take", "release") else (address,)))
        counts = contents(ledger)
        assert ledger.connections == sum(counts["_by_subject"].values()) == sum(counts["_by_address"].values()) >= 0
        assert ledger.sessions == sum(counts["_sessions_by_address"].values()) >= 0
        for table in ("_by_subject", "_by_address", "_sessions_by_address"):
            assert all(count > 0 for count in counts[table].values())


# Refusals

EXPIRED, SCOPE = "token_expired", "insufficient_scope"


def test_three_namespaces_refused_for_one_token_are_one_failure() -> None:
    refusals, limits = Refusals(), Limits()
    assert [refusals.count(EXPIRED, name, limits) for name in ("/a", "/b", "/c")] == [
        (True, False),
        (False, False),
        (False, False),
    ]


def test_to_ask_again_costs_each_time() -> None:
    refusals, limits = Refusals(), Limits()
    answers = [refusals.count(EXPIRED, name, limits) for name in ("/a", "/a", "/b", "/b", "/a")]
    assert [costs for costs, _ in answers] == [True, True, False, True, True]


def test_another_code_costs_each_time() -> None:
    refusals, limits = Refusals(), Limits()
    calls = [(EXPIRED, "/a"), (SCOPE, "/b"), (SCOPE, "/c"), (EXPIRED, "/d"), (SCOPE, "/a")]
    assert [refusals.count(*call, limits)[0] for call in calls] == [True, True, True, False, True]


def test_one_namespace_is_refused_so_often_and_no_more() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=3)
    assert [refusals.count(EXPIRED, "/a", limits)[1] for _ in range(5)] == [False, False, False, True, True]
    assert refusals.count(EXPIRED, "/b", limits)[1] is False


def test_all_namespaces_together_are_refused_so_often_and_no_more() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=2, namespaces_per_session=3)
    assert [refusals.count(EXPIRED, f"/{number}", limits)[1] for number in range(8)] == [False] * 6 + [True] * 2


def test_without_a_limit_of_namespaces_each_has_its_own_count() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=2, namespaces_per_session=None)
    answers = [refusals.count(EXPIRED, f"/{number % 50}", limits)[1] for number in range(150)]
    assert answers == [False] * 100 + [True] * 50


def test_without_a_limit_of_repeats_there_are_never_too_many() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=None, namespaces_per_session=1)
    assert not any(refusals.count(EXPIRED, f"/{number % 100}", limits)[1] for number in range(1000))


def test_names_beyond_those_that_are_told_apart_share_a_count_and_cost() -> None:
    refusals, limits = Refusals(), Limits(repeats_per_namespace=3, namespaces_per_session=None)
    answers = [refusals.count(EXPIRED, f"/{number}", limits) for number in range(69)]
    assert answers == [(True, False)] + [(False, False)] * 63 + [(True, False)] * 3 + [(True, True)] * 2
    assert refusals.count(EXPIRED, "/0", limits) == (True, False)


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


@settings(deadline=None)
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
