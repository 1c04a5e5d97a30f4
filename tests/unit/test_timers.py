"""Many moments on one timer of the event loop: order, batches, clocks that jump, and what goes wrong in between."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from socketguard.limits.timers import _FEW as FEW
from socketguard.limits.timers import Timers

START = 1_700_000_000.0


class Clock:
    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Alarm:
    """A call that the code under test has asked a `Loop` for."""

    def __init__(self, at: float, callback: Callable[[], None], context: contextvars.Context) -> None:
        self.at = at
        self.callback = callback
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The part of an event loop that timers use, with a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.asked: list[Alarm] = []
        self.errors: list[dict[str, Any]] = []
        self.closed = False

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], *, context: contextvars.Context) -> Alarm:
        assert math.isfinite(when)
        self.asked.append(Alarm(when, callback, context))
        return self.asked[-1]

    def call_soon(self, callback: Callable[[], None], *, context: contextvars.Context) -> Alarm:
        return self.call_at(self.now, callback, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def is_closed(self) -> bool:
        return self.closed

    @property
    def alarms(self) -> list[Alarm]:
        self.asked = [alarm for alarm in self.asked if not alarm.cancelled]
        return self.asked

    @property
    def delays(self) -> list[float]:
        """Seconds until each call that is still wanted."""
        return [alarm.at - self.now for alarm in self.alarms]

    def turn(self) -> bool:
        """One turn: run what is due by the loop's own clock; False when nothing was."""
        due = [alarm for alarm in self.alarms if alarm.at <= self.now]
        for alarm in due:
            self.asked.remove(alarm)
        for alarm in due:
            alarm.context.run(alarm.callback)
        return bool(due)

    def settle(self) -> int:
        """Turn until nothing is due any more, and tell how many turns that took."""
        turns = 0
        while self.turn():
            turns += 1
        return turns


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    fake = Loop()
    monkeypatch.setattr("socketguard.limits.timers.asyncio.get_running_loop", lambda: fake)
    return fake


class Rig:
    """Timers with a clock, and what they have fired."""

    def __init__(self, loop: Loop, **options: Any) -> None:
        self.loop = loop
        self.clock = Clock()
        self.fired: list[Any] = []
        self.timers = Timers(self.fired.append, clock=self.clock, **options)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks alike."""
        self.clock.now += seconds
        self.loop.now += seconds
        self.loop.settle()


@pytest.fixture
def rig(loop: Loop) -> Rig:
    return Rig(loop)


# --- the real loop -----------------------------------------------------------------------------------------------


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_fires_on_a_real_loop_by_itself() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    timers = Timers(done.set_result, clock=loop.time)
    timers.set(loop.time() + 0.01, "item")
    assert await asyncio.wait_for(done, 30) == "item"
    assert len(timers) == 0


async def test_a_hundred_thousand_at_once_fire_in_order_in_batches_and_without_a_task() -> None:
    clock = Clock()
    fired: list[int] = []
    timers = Timers(fired.append, clock=clock, batch=25)
    order = list(range(100_000))
    random.Random(1).shuffle(order)
    for number in order:
        timers.set(START + 1 + number / 1e6, number)
    before = asyncio.all_tasks()

    clock.now = START + 10
    timers.wake()
    assert fired == []
    for done in range(25, 501, 25):
        await turns()
        assert len(fired) == done
    assert len(timers) == 99_500
    assert asyncio.all_tasks() == before
    await turns(4000)
    assert fired == list(range(100_000))
    assert len(timers) == 0


async def test_the_loop_does_other_work_between_batches() -> None:
    clock = Clock()
    seen: list[int] = []
    fired: list[int] = []
    timers = Timers(fired.append, clock=clock, batch=10)
    for number in range(100):
        timers.set(START, number)

    def look() -> None:
        seen.append(len(fired))
        if len(fired) < 100:
            asyncio.get_running_loop().call_soon(look)

    look()
    await turns(12)
    assert seen == list(range(0, 101, 10))


def test_entries_of_a_loop_that_was_closed_fire_on_the_next() -> None:
    clock = Clock()
    fired: list[str] = []
    timers = Timers(fired.append, clock=clock)

    async def first() -> None:
        timers.set(START + 5, "first")
        timers.set(START + 6, "cancelled later")

    async def second() -> None:
        clock.now = START + 8
        # Not the earliest entry: it is the new loop that makes it ask for a call.
        timers.set(START + 7, "second")
        await turns(2)

    asyncio.run(first())
    assert len(timers) == 2
    asyncio.run(second())
    assert fired == ["first", "cancelled later", "second"]


def test_cancelling_the_last_entry_after_its_loop_was_closed() -> None:
    timers = Timers(print, clock=Clock())

    async def arm() -> list[Any]:
        return timers.set(START + 5, "item")

    timers.cancel(asyncio.run(arm()))
    assert len(timers) == 0


def test_without_a_running_loop_nothing_is_set() -> None:
    timers = Timers(print, clock=Clock())
    with pytest.raises(RuntimeError, match="no running event loop"):
        timers.set(START, "item")
    assert len(timers) == 0
    with pytest.raises(RuntimeError, match="no running event loop"):
        timers.wake()


async def test_what_the_setter_has_bound_does_not_reach_fire() -> None:
    bound: contextvars.ContextVar[str] = contextvars.ContextVar("bound", default="nobody")
    clock = Clock()
    seen: list[str] = []
    timers = Timers(lambda item: seen.append(bound.get()), clock=clock)
    bound.set("the client of the setter")
    timers.set(START, "soon")
    timers.set(START + 0.001, "later")
    await turns(2)
    clock.now += 1
    timers.wake()
    await turns(2)
    assert seen == ["nobody", "nobody"]


# --- order and moments -------------------------------------------------------------------------------------------


def test_it_fires_at_the_moment_and_not_before(rig: Rig) -> None:
    rig.timers.set(START + 10, "item")
    assert rig.loop.delays == [10.0]
    rig.advance(9.999)
    assert rig.fired == []
    rig.advance(0.001)
    assert rig.fired == ["item"]
    assert rig.loop.alarms == []


def test_entries_of_one_moment_fire_in_the_order_in_which_they_were_set(rig: Rig) -> None:
    # Items that can't be compared, too.
    items: list[Any] = [{"a": 1}, object(), None, {"a": 1}]
    for item in items:
        rig.timers.set(START + 1, item)
    rig.advance(1)
    assert rig.fired == items


def test_there_is_one_call_of_the_loop_for_all_entries(rig: Rig) -> None:
    for seconds in (20, 25, 10, 15, 5, 29):
        rig.timers.set(START + seconds, seconds)
        assert len(rig.loop.alarms) == 1
    assert rig.loop.delays == [5.0]
    for passed in (5, 5, 5):
        rig.advance(passed)
        assert rig.loop.delays == [5.0]
    assert rig.fired == [5, 10, 15]


@pytest.mark.parametrize("when", [START, START - 1, 0, -1e300, -math.inf, -(10**400)])
def test_what_lies_in_the_past_fires_in_the_next_turn(rig: Rig, when: float) -> None:
    rig.timers.set(when, "item")
    assert rig.fired == []
    assert rig.loop.settle() == 1
    assert rig.fired == ["item"]


@pytest.mark.parametrize("when", [1e15, 1e308, math.inf, 10**400])
def test_what_lies_years_ahead_neither_fires_nor_overflows(rig: Rig, when: float) -> None:
    rig.timers.set(when, "item")
    for _ in range(10):
        assert rig.loop.delays == [30.0]
        rig.advance(30)
    assert rig.fired == []
    assert len(rig.timers) == 1


def test_nan_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="NaN"):
        rig.timers.set(math.nan, "item")
    assert len(rig.timers) == 0
    assert rig.loop.alarms == []


# --- clocks ------------------------------------------------------------------------------------------------------


def test_a_jump_forwards_is_noticed_within_recheck_seconds(loop: Loop) -> None:
    rig = Rig(loop, recheck=7.0)
    rig.timers.set(START + 3600, "item")
    rig.advance(2)
    rig.clock.now += 86_400
    loop.now += 4.999
    assert not loop.turn()
    loop.now += 0.001
    loop.settle()
    assert rig.fired == ["item"]


def test_a_jump_backwards_delays_what_is_set_and_not_what_follows(rig: Rig) -> None:
    rig.timers.set(START + 10, "before")
    rig.clock.now -= 3600
    rig.timers.set(rig.clock.now + 4, "after")
    assert rig.loop.delays == [4.0]
    rig.advance(4)
    assert rig.fired == ["after"]
    assert rig.loop.delays == [30.0]
    rig.advance(6)
    assert rig.fired == ["after"]
    rig.clock.now += 3600
    rig.advance(24)
    assert rig.fired == ["after", "before"]


def test_wake_notices_a_jump_at_once(rig: Rig) -> None:
    rig.timers.wake()
    assert rig.loop.alarms == []
    rig.timers.set(START + 3600, "item")
    rig.timers.wake()
    assert rig.loop.delays == [30.0]
    rig.clock.now += 3600
    rig.timers.wake()
    rig.timers.wake()
    assert rig.fired == []
    assert rig.loop.delays == [0.0]
    rig.loop.settle()
    assert rig.fired == ["item"]


def test_a_clock_that_stands_still_does_not_make_the_loop_spin(rig: Rig) -> None:
    rig.timers.set(math.nextafter(START, math.inf), "item")
    assert rig.loop.delays == [pytest.approx(0.001)]
    rig.loop.now += 0.002
    assert rig.loop.settle() == 1
    assert rig.loop.delays == [pytest.approx(0.001)]
    assert rig.fired == []


def test_nothing_is_due_by_a_clock_of_nan(rig: Rig) -> None:
    rig.timers.set(START + 5, "item")
    rig.clock.now = math.nan
    rig.loop.now += 5
    assert rig.loop.settle() == 1
    assert rig.fired == []
    rig.clock.now = START + 5
    rig.loop.now += 30
    rig.loop.settle()
    assert rig.fired == ["item"]


# --- cancelling --------------------------------------------------------------------------------------------------


def test_a_cancelled_entry_does_not_fire(rig: Rig) -> None:
    kept = rig.timers.set(START + 2, "kept")
    also = rig.timers.set(START + 3, "also kept")
    entry = rig.timers.set(START + 1, "cancelled")
    rig.timers.cancel(entry)
    assert len(rig.timers) == 2
    for _ in range(3):
        rig.timers.cancel(entry)
        rig.timers.cancel(None)
    assert len(rig.timers) == 2
    rig.advance(3)
    assert rig.fired == ["kept", "also kept"]
    rig.timers.cancel(kept)
    rig.timers.cancel(also)
    assert len(rig.timers) == 0


def test_a_cancelled_entry_lets_go_of_its_item_at_once(rig: Rig) -> None:
    class Item:
        pass

    entry = rig.timers.set(START + 1, Item())
    rig.timers.set(START + 2, "kept")
    rig.timers.cancel(entry)
    assert not any(isinstance(part, Item) for part in entry)


def test_cancelling_the_last_entry_forgets_it_and_the_call_of_the_loop_is_used_again(rig: Rig) -> None:
    for _ in range(3):
        rig.timers.cancel(rig.timers.set(START + 1, "item"))
        assert rig.timers._heap == []
        assert len(rig.loop.alarms) == 1
    rig.advance(2)
    assert rig.fired == []
    assert rig.loop.alarms == []


def test_the_heap_stays_within_twice_the_live_entries_and_a_few(rig: Rig) -> None:
    live = [rig.timers.set(START + 1 + number, number) for number in range(50)]
    for _ in range(2000):
        rig.timers.cancel(rig.timers.set(START + 1e6, "gone"))
        assert len(rig.timers._heap) <= 50 + FEW + 2
    assert len(rig.timers) == 50
    for entry in live[:40]:
        rig.timers.cancel(entry)
    assert len(rig.timers._heap) <= 10 + FEW + 1
    rig.advance(100)
    assert rig.fired == list(range(40, 50))


def test_the_order_survives_compaction(rig: Rig) -> None:
    numbers = list(range(1000))
    shuffled = random.Random(2)
    shuffled.shuffle(numbers)
    entries = {number: rig.timers.set(START + 1 + number / 1000, number) for number in numbers}
    shuffled.shuffle(numbers)
    for number in numbers[:700]:
        rig.timers.cancel(entries[number])
    rig.advance(0.5)
    for thousandth in range(1000):
        rig.clock.now = START + 1 + thousandth / 1000
        rig.timers.wake()
        rig.loop.settle()
        assert len(rig.fired) == sum(number <= thousandth for number in numbers[700:])
    assert rig.fired == sorted(numbers[700:])


def test_a_call_that_comes_earlier_is_kept(rig: Rig) -> None:
    rig.timers.set(START + 10, "item")
    rig.loop.now += 4
    first = rig.loop.alarms
    rig.timers.wake()
    assert rig.loop.alarms == first
    assert rig.loop.delays == [6.0]


def test_dead_entries_are_dropped_when_the_live_ones_have_fired(rig: Rig) -> None:
    for number in range(10):
        rig.timers.set(START + 1, number)
    for entry in [rig.timers.set(START + 1e6, "dead") for _ in range(9)]:
        rig.timers.cancel(entry)
    rig.advance(1)
    assert rig.fired == list(range(10))
    assert rig.timers._heap == []
    assert rig.loop.alarms == []


def test_dead_entries_count_in_a_batch(loop: Loop) -> None:
    rig = Rig(loop, batch=10)
    dead = [rig.timers.set(START, "dead") for _ in range(45)]
    for number in range(55):
        rig.timers.set(START, number)
    for entry in dead:
        rig.timers.cancel(entry)
    for _ in range(4):
        loop.turn()
    assert rig.fired == []
    assert loop.settle() == 6
    assert rig.fired == list(range(55))


def test_close_forgets_everything_and_may_be_followed_by_more(rig: Rig) -> None:
    entry = rig.timers.set(START + 1, "old")
    rig.timers.cancel(rig.timers.set(START + 2, "older"))
    rig.timers.close()
    assert len(rig.timers) == 0
    assert rig.loop.alarms == []
    rig.timers.cancel(entry)
    assert len(rig.timers) == 0
    rig.timers.set(START + 3, "new")
    rig.advance(10)
    assert rig.fired == ["new"]
    rig.timers.close()


# --- inside fire() -----------------------------------------------------------------------------------------------


def test_fire_may_cancel_what_is_due_in_the_same_batch(loop: Loop) -> None:
    fired: list[int] = []
    entries: list[list[Any]] = []

    def fire(item: int) -> None:
        fired.append(item)
        # Itself as well, and most of what follows, so that the heap is compacted meanwhile.
        for entry in entries[item : item + 15]:
            timers.cancel(entry)

    clock = Clock()
    timers = Timers(fire, clock=clock, batch=4)
    entries += [timers.set(START, number) for number in range(40)]
    loop.settle()
    assert fired == [0, 15, 30]
    assert len(timers) == 0
    assert loop.alarms == []


def test_fire_may_set_more(loop: Loop) -> None:
    fired: list[str] = []

    def fire(item: str) -> None:
        fired.append(item)
        if item == "first":
            timers.set(START - 1, "in the past")
            timers.set(START + 5, "soon")

    clock = Clock()
    timers = Timers(fire, clock=clock)
    timers.set(START, "first")
    timers.set(START, "second")
    loop.settle()
    assert fired == ["first", "in the past", "second"]
    assert loop.delays == [5.0]


def test_setting_the_past_for_ever_does_not_keep_the_loop(loop: Loop) -> None:
    fired: list[int] = []

    def fire(item: int) -> None:
        fired.append(item)
        timers.set(START - 1, item + 1)

    timers = Timers(fire, clock=Clock(), batch=5)
    timers.set(START, 0)
    for count in (5, 10, 15):
        loop.turn()
        assert fired == list(range(count))


def test_fire_may_close(loop: Loop) -> None:
    fired: list[str] = []

    def fire(item: str) -> None:
        fired.append(item)
        timers.close()

    timers = Timers(fire, clock=Clock())
    timers.set(START, "first")
    timers.set(START, "second")
    loop.settle()
    assert fired == ["first"]
    assert loop.alarms == []


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError(), GeneratorExit()])
def test_an_item_that_raises_is_reported_and_the_others_fire(loop: Loop, error: BaseException) -> None:
    fired: list[int] = []

    def fire(item: int) -> None:
        if item % 2:
            raise error
        fired.append(item)

    timers = Timers(fire, clock=Clock(), batch=3)
    for number in range(8):
        timers.set(START, number)
    loop.settle()
    assert fired == [0, 2, 4, 6]
    assert [context["exception"] for context in loop.errors] == [error] * 4
    assert "timer" in loop.errors[0]["message"]
    assert len(timers) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_what_ends_the_process_passes_and_the_others_still_fire(loop: Loop, error: BaseException) -> None:
    fired: list[int] = []

    def fire(item: int) -> None:
        if item == 1:
            raise error
        fired.append(item)

    timers = Timers(fire, clock=Clock())
    for number in range(4):
        timers.set(START, number)
    with pytest.raises(type(error)):
        loop.turn()
    assert loop.errors == []
    loop.settle()
    assert fired == [0, 2, 3]


# --- against a model ---------------------------------------------------------------------------------------------


class TimersMachine(RuleBasedStateMachine):
    """Timers against a sorted list of (when, number), with clocks that jump and a fire() that sets and cancels."""

    BATCH = 3
    RECHECK = 30.0

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = Loop()
        self.patch.setattr("socketguard.limits.timers.asyncio.get_running_loop", lambda: self.loop)
        self.clock = Clock(1000.0)
        self.timers = Timers(self.fire, clock=self.clock, recheck=self.RECHECK, batch=self.BATCH)
        self.model: list[tuple[float, int]] = []
        self.entries: dict[int, list[Any]] = {}
        self.in_fire: dict[int, tuple[str, float]] = {}
        self.count = 0
        self.fired = 0

    def teardown(self) -> None:
        self.patch.undo()

    def fire(self, number: int) -> None:
        self.fired += 1
        assert self.model, "something fired that was not set, or twice"
        when, first = heapq.heappop(self.model)
        assert first == number
        assert when <= self.clock.now
        action, seconds = self.in_fire.pop(number)
        if action == "set":
            self.add(self.clock.now + seconds, "nothing", 0.0)
        elif action == "cancel" and self.model:
            self.remove(self.model[int(seconds) % len(self.model)][1])
        elif action == "raise":
            raise LookupError(number)

    def add(self, when: float, action: str, seconds: float) -> None:
        self.count += 1
        self.in_fire[self.count] = (action, seconds)
        heapq.heappush(self.model, (when, self.count))
        self.entries[self.count] = self.timers.set(when, self.count)

    def remove(self, number: int) -> None:
        self.model = [pair for pair in self.model if pair[1] != number]
        heapq.heapify(self.model)
        self.timers.cancel(self.entries[number])

    @rule(
        seconds=st.one_of(st.integers(-50, 200), st.sampled_from([math.inf, -math.inf, 1e15, 0.5])),
        action=st.sampled_from(["nothing", "nothing", "set", "cancel", "raise"]),
        more=st.integers(-5, 60),
        copies=st.integers(1, 8),
    )
    def set(self, seconds: float, action: str, more: int, copies: int) -> None:
        for _ in range(copies):
            self.add(self.clock.now + seconds, action, float(more))

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), copies=st.integers(1, 8))
    def cancel(self, data: st.DataObject, copies: int) -> None:
        # Any entry there ever was: also one that has fired or was cancelled.
        numbers = st.sampled_from(sorted(self.entries))
        for number in data.draw(st.lists(numbers, min_size=1, max_size=copies)):
            self.remove(number)

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds
        self.loop.now += seconds

    @rule(seconds=st.integers(-500, 500), wake=st.booleans())
    def clock_jumps(self, seconds: int, wake: bool) -> None:
        self.clock.now += seconds
        if wake:
            self.timers.wake()
            due = bool(self.model) and self.model[0][0] <= self.clock.now
            assert not due or any(delay <= 0 for delay in self.loop.delays)

    @rule()
    def turn(self) -> None:
        before = self.fired
        self.loop.turn()
        assert self.fired - before <= self.BATCH

    @rule()
    def settle(self) -> None:
        self.loop.now += self.RECHECK
        self.loop.settle()
        assert not self.model or self.model[0][0] > self.clock.now

    @rule()
    def close(self) -> None:
        self.timers.close()
        self.model.clear()

    @invariant()
    def as_many_as_in_the_model(self) -> None:
        assert len(self.timers) == len(self.model)

    @invariant()
    def one_call_soon_enough_when_there_is_something_to_wait_for(self) -> None:
        if self.model:
            assert len(self.loop.alarms) == 1
            assert self.loop.delays[0] <= self.RECHECK
        else:
            assert len(self.loop.alarms) <= 1

    @invariant()
    def the_heap_is_bounded(self) -> None:
        assert len(self.timers._heap) <= max(2 * len(self.model), len(self.model) + FEW)


TestTimersMachine = TimersMachine.TestCase
TestTimersMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
