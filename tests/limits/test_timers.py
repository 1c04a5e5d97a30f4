"""Many moments in one heap: in which order they come, how they are taken back, and what is kept."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.limits.timers import Timers


def take(timers: Timers, now: float, most: int = 1_000_000) -> list[Any]:
    return list(timers.due(now, most))


def test_an_entry_is_due_at_its_moment_and_not_before() -> None:
    timers = Timers()
    timers.set(10, "x")
    assert (len(timers), timers.next) == (1, 10)
    assert take(timers, 9.999) == []
    assert take(timers, 10) == ["x"]
    assert (len(timers), timers.next) == (0, math.inf)
    assert take(timers, 1e9) == []


def test_entries_of_one_moment_come_in_the_order_in_which_they_were_set() -> None:
    timers = Timers()
    items = [object() for _ in range(50)]  # They can't be compared.
    for item in items:
        timers.set(10, item)
    assert take(timers, 10) == items


@pytest.mark.parametrize("when", [-math.inf, -1e300, -1, 0, -(10**400)])
def test_what_lies_in_the_past_is_due_at_once(when: float) -> None:
    timers = Timers()
    timers.set(when, "x")
    assert take(timers, 0) == ["x"]


@pytest.mark.parametrize("when", [1e18, 1e300, math.inf, 10**400])
def test_what_lies_years_ahead_is_not_due(when: float) -> None:
    timers = Timers()
    timers.set(when, "x")
    assert take(timers, 1e12) == []
    assert len(timers) == 1


def test_nan_is_refused_and_by_a_clock_of_nan_nothing_is_due() -> None:
    timers = Timers()
    with pytest.raises(ValueError, match="NaN"):
        timers.set(math.nan, "x")
    assert len(timers) == 0
    timers.set(-math.inf, "y")
    assert take(timers, math.nan) == []
    assert take(timers, 0) == ["y"]


def test_a_clock_that_goes_back_delays_what_is_set() -> None:
    timers = Timers()
    timers.set(100, "x")
    assert take(timers, 50) == []
    timers.set(20, "y")
    assert take(timers, 30) == ["y"]
    assert take(timers, 100) == ["x"]


def test_a_cancelled_entry_is_never_due_and_lets_go_of_its_item() -> None:
    class Item:
        pass

    timers = Timers()
    item = Item()
    gone = weakref.ref(item)
    entry = timers.set(10, item)
    kept = timers.set(11, "kept")
    timers.set(12, "more")
    del item
    for _ in range(2):
        timers.cancel(entry)
    gc.collect()
    assert gone() is None
    assert len(timers) == 2
    assert take(timers, 11) == ["kept"]
    timers.cancel(kept)
    timers.cancel(None)
    assert len(timers) == 1
    assert take(timers, 1e9) == ["more"]


def test_cancelling_the_last_entry_forgets_it() -> None:
    timers = Timers()
    timers.cancel(timers.set(10, "x"))
    assert (len(timers), timers.next) == (0, math.inf)
    timers.set(20, "y")
    assert timers.next == 20


def test_dead_entries_are_dropped_and_the_order_survives() -> None:
    timers = Timers()
    entries = {number: timers.set(number, number) for number in range(1000)}
    for number, entry in entries.items():
        if number % 5:
            timers.cancel(entry)
    assert len(timers) == 200
    assert take(timers, 1e9, 464) == list(range(0, 1000, 5))  # Of 1,000 entries at most 2 × 200 + 64 are left.
    assert take(timers, 1e9) == []


def test_dead_entries_count_in_a_batch() -> None:
    timers = Timers()
    dead = [timers.set(1, "dead") for _ in range(8)]
    for number in range(20):
        timers.set(2, number)
    for entry in dead:
        timers.cancel(entry)
    assert take(timers, 2, 10) == [0, 1]
    assert take(timers, 2, 10) == list(range(2, 12))


def test_whoever_acts_may_set_and_cancel_and_clear() -> None:
    timers = Timers()
    second = timers.set(2, "cancelled")
    timers.set(1, "first")
    timers.set(3, "third")
    found = []
    for item in timers.due(10, 100):
        found.append(item)
        if item == "first":
            timers.cancel(second)
            timers.set(5, "late")
        if item == "late":
            timers.set(6, "never")
            timers.clear()
    assert found == ["first", "third", "late"]
    assert (len(timers), timers.next) == (0, math.inf)


def test_what_raises_does_not_lose_those_behind_it() -> None:
    timers = Timers()
    for number in range(5):
        timers.set(number, number)

    def act() -> None:
        for item in timers.due(10, 100):
            if item == 2:
                raise LookupError(item)

    with pytest.raises(LookupError):
        act()
    assert take(timers, 10) == [3, 4]


def test_clear_forgets_everything_and_may_be_followed_by_more() -> None:
    timers = Timers()
    old = timers.set(1, "x")
    timers.clear()
    timers.cancel(old)
    assert (len(timers), take(timers, 10)) == (0, [])
    timers.set(2, "y")
    assert take(timers, 10) == ["y"]


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.booleans()), max_size=300), st.integers(1, 50))
def test_whatever_is_set_and_not_cancelled_comes_once_and_in_order(
    moments: list[tuple[float, bool]], most: int
) -> None:
    timers = Timers()
    entries = [timers.set(when, number) for number, (when, _) in enumerate(moments)]
    for entry, (_, dead) in zip(entries, moments, strict=True):
        if dead:
            timers.cancel(entry)
    expected = sorted((when, number) for number, (when, dead) in enumerate(moments) if not dead)
    assert len(timers) == len(expected)
    found: list[int] = []
    for _ in range(len(moments) + 1):
        found += take(timers, math.inf, most)
    assert found == [number for _, number in expected]
