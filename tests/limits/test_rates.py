from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
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


# AddressBudget


def test_without_a_rate_or_an_address_nothing_is_counted() -> None:
    counting = AddressBudget(Rate(1, 60.0), clock=Clock())
    for budget, address in ((AddressBudget(None), "203.0.113.7"), (counting, None)):
        for _ in range(10):
            budget.fail(address)
        assert budget.wait(address) == 0.0
        assert len(budget) == 0
        assert [budget.exempt("10.0.0.1"), budget.exempt("10.0.0.1")] == [True, False]
    counting.fail("203.0.113.7")
    assert (counting.wait("203.0.113.7"), counting.wait(None)) == (60.0, 0.0)


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
    # One comes and three go, until only the new ones are left.
    assert sizes == [max(100 - 3 * number, 0) + number for number in range(1, 101)]


def test_what_is_tried_again_has_a_budget_of_its_own() -> None:
    clock = Clock()
    budget = AddressBudget(Rate(2, 60.0), clock=clock)
    for _ in range(2):
        budget.fail("203.0.113.7", 1)
        budget.fail("2001:db8::1", 1)
    assert [budget.wait("203.0.113.7", what) for what in (None, 1, 2)] == [0.0, 30.0, 0.0]
    assert budget.wait("2001:db8::2", 1) == 30.0, "an address of the same network"
    budget.fail("203.0.113.7", 2)
    assert budget.wait("203.0.113.7") == 30.0, "the first time it counts for the address"
    clock.now += 60
    assert [budget.wait("203.0.113.7", what) for what in (None, 1, 2)] == [0.0] * 3
    assert len(budget) == 0


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
