"""What is held back when there is much of it, and how it is counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.logs import events
from socketguard.logs.floods import Floods
from socketguard.logs.sink import EventLog


class Written:
    """A host's logger, as far as it is used: keeps the fields of each line."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    debug = info = error = warning


class Case:
    """Floods with a clock of its own; `refuse` writes a numbered line."""

    def __init__(self, **options: Any) -> None:
        self.log = Written()
        self.floods = Floods(EventLog(self.log), **{"burst": 1, "window": 60, **options})
        self.now = 1000.0
        self.number = 0

    def refuse(self, source: str | None = "10.0.0.1", reason: str = "r", *, times: int = 1) -> list[bool]:
        written = []
        for _ in range(times):
            written.append(self.floods.emit(events.REJECTED, source, reason, {"n": self.number}, now=self.now))
            self.number += 1
        return written

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.floods.due(self.now)

    @property
    def lines(self) -> list[tuple[int, int | None, bool]]:
        """Of each line its number, how many it stands for beside itself, and whether it is a summary."""
        assert {line["event"] for line in self.log.lines} <= {events.REJECTED}
        return [(line["n"], line.get("suppressed"), line.get("summary", False)) for line in self.log.lines]


def test_a_burst_passes_and_the_first_line_after_the_window_carries_the_count() -> None:
    case = Case(burst=2)
    assert case.refuse(times=5) == [True, True, False, False, False]
    case.passes(59.9)
    assert case.refuse() == [False]
    assert case.floods.held_back
    case.now += 0.1
    assert case.refuse(times=3) == [True, True, False]
    assert case.lines == [(0, None, False), (1, None, False), (6, 4, False), (7, None, False)]


def test_a_flood_that_stops_is_told_at_the_end_of_its_window_and_no_other() -> None:
    case = Case()
    case.refuse(times=3)
    case.now += 30
    case.refuse("10.0.0.2", times=4)
    case.refuse("10.0.0.3")
    case.passes(0)
    assert len(case.lines) == 3
    case.passes(30)
    case.passes(0)
    assert case.lines[3:] == [(2, 2, True)]
    assert case.floods.held_back
    case.passes(30)
    assert case.lines[4:] == [(6, 3, True)]
    assert not case.floods.held_back
    assert case.refuse("10.0.0.2") == [True]
    assert case.lines[5:] == [(8, None, False)]


def test_the_end_writes_all_counts_once() -> None:
    case = Case()
    case.refuse(times=3)
    case.floods.close()
    case.floods.close()
    assert case.lines == [(0, None, False), (2, 2, True)]


@pytest.mark.parametrize(("window", "written"), [(1e-9, [True, True, True]), (60, [True, False, False])])
def test_without_a_given_time_the_clock_of_the_process_counts(window: float, written: list[bool]) -> None:
    floods = Floods(EventLog(Written()), burst=1, window=window)
    assert [floods.emit(events.REJECTED, None, "r", {}) for _ in range(3)] == written


def test_sources_and_reasons_are_told_apart() -> None:
    case = Case()
    for source, reason in (("10.0.0.1", "a"), ("10.0.0.1", "b"), ("10.0.0.2", "a"), (None, "a")):
        assert case.refuse(source, reason, times=2) == [True, False]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("unix:a", "unix:b", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_ipv6_source_is_its_network(one: str, other: str, same: bool) -> None:
    case = Case()
    assert case.refuse(one) == [True]
    assert case.refuse(other) == [not same]


def test_when_full_the_oldest_window_that_has_ended_goes_and_its_count_is_told_at_once() -> None:
    case = Case(max_sources=2)
    case.refuse("a", times=3)
    case.refuse("b")
    case.now += 60
    assert case.refuse("c", times=2) == [True, False]
    assert case.lines == [(0, None, False), (3, None, False), (2, 2, True), (4, None, False)]
    assert case.refuse("d", times=2) == [True, False]


def test_a_window_that_begins_anew_is_the_youngest() -> None:
    case = Case(max_sources=2)
    for source, seconds in (("a", 10), ("b", 50), ("a", 10)):
        case.refuse(source)
        case.now += seconds
    assert case.refuse("c", times=2) == [True, False]
    assert case.refuse("a") == [False]


def test_when_none_has_ended_the_new_share_one_count_for_each_reason() -> None:
    case = Case(burst=2, max_sources=1)
    case.refuse("first")
    assert [case.refuse(f"10.0.0.{n}")[0] for n in range(4)] == [True, True, False, False]
    assert case.refuse("10.0.0.9", "other") == [True]
    assert case.refuse("first") == [True]
    case.passes(60)
    assert case.lines[-1] == (4, 2, True)


def test_the_part_of_a_reason_after_a_colon_does_not_make_the_shared_counts_grow() -> None:
    case = Case(max_sources=1)
    case.refuse("first")
    assert case.refuse("x", "invalid_namespace:/a") == [True]
    assert case.refuse("x", "invalid_namespace:/b") == [False]
    for n in range(500):
        case.refuse("x", f"reason-{n}", times=2)
    assert case.refuse("x", "reason-499") == [False]
    written = len(case.lines)
    case.floods.close()
    assert len(case.lines) - written <= 65


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["a", "b"]), st.sampled_from([0, 0, 1, 30, 60])), max_size=80)
)
def test_no_line_is_lost_and_memory_is_bounded(steps: list[tuple[int, str, int]]) -> None:
    case = Case(burst=2, max_sources=3)
    written = 0
    for source, reason, wait in steps:
        case.now += wait
        written += sum(case.refuse(f"10.0.0.{source}", reason))
    before = len(case.lines)
    case.passes(0)
    case.floods.close()
    assert len(case.lines) - before <= 3 + 2
    assert not case.floods.held_back
    assert written + sum(count or 0 for _, count, _ in case.lines) == len(steps)
