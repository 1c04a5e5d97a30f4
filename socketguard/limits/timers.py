"""Many moments, one timer of the event loop: a heap, no task.

A timer of the loop per entry would not do: the loop counts on the monotonic clock, whereas tokens end by the wall
clock, which is set, slewed and resumed from suspension. This module is pure.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

__all__ = ["Timers"]

# An entry is [when, number, item]. The number keeps entries of one moment in the order in which they were set, and
# keeps the heap from comparing items.
_WHEN, _ITEM = 0, 2
_DEAD: Any = object()

# A clock that stands still just before a moment (a coarse one, or one under test) must not make the loop spin.
_SHORTEST = 0.001

# So many dead entries are left where they are until they are due: to sort a small heap again and again costs more.
_FEW = 64


class Timers:
    """Calls ``fire(item)`` once the clock has reached the moment of an entry.

    Everything happens in one event loop. ``fire`` is never called from within `set`, `cancel` or `wake`, and runs in an
    empty `contextvars.Context`: what the code that set an entry had bound there does not reach it.
    """

    __slots__ = ("_at", "_batch", "_clock", "_dead", "_fire", "_handle", "_heap", "_loop", "_numbers", "_recheck")

    def __init__(
        self,
        fire: Callable[[Any], None],
        *,
        clock: Callable[[], float],
        recheck: float = 30.0,
        batch: int = 10,
    ) -> None:
        """
        Args:
            fire: called with the item of each entry whose moment has come. What it raises goes to the exception handler
                of the loop, and the other entries are not affected.
            clock: tells the time, in seconds. It may jump in both directions.
            recheck: seconds after which the clock is looked at again at the latest; so late a jump of it is noticed.
            batch: how many entries are taken off in one turn of the loop, so that many at once don't stall it.
        """
        self._fire = fire
        self._clock = clock
        self._recheck = recheck
        self._batch = batch
        self._heap: list[list[Any]] = []
        self._dead = 0
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.Handle | None = None
        self._at = 0.0

    def __len__(self) -> int:
        """How many entries have neither fired nor been cancelled."""
        return len(self._heap) - self._dead

    def set(self, when: float, item: Any) -> list[Any]:
        """Add an entry.

        Args:
            when: its moment, in seconds of the clock. One in the past fires in the next turn of the loop, infinity
                never.
            item: what ``fire`` is called with.

        Returns:
            The entry, for `cancel`.

        Raises:
            ValueError: ``when`` is NaN.
            RuntimeError: no event loop is running.
        """
        # math.isnan() refuses integers beyond the range of a float.
        if when != when:
            raise ValueError("when is NaN; give a moment in seconds of the clock")
        loop = asyncio.get_running_loop()
        entry = [when, next(self._numbers), item]
        heappush(self._heap, entry)
        if self._heap[0] is entry or loop is not self._loop:
            self._arm(loop)
        return entry

    def cancel(self, entry: list[Any] | None) -> None:
        """Take an entry back. One that has fired or was cancelled before, and None, are left alone.

        Args:
            entry: what `set` returned.
        """
        if entry is None or entry[_ITEM] is _DEAD:
            return
        entry[_ITEM] = _DEAD
        self._dead += 1
        self._compact()

    def wake(self) -> None:
        """Look at the clock now, after it was moved by hand: what is due fires in the next turns of the loop.

        Raises:
            RuntimeError: no event loop is running.
        """
        self._arm(asyncio.get_running_loop())

    def close(self) -> None:
        """Forget all entries. New ones may be set afterwards."""
        for entry in self._heap:
            entry[_ITEM] = _DEAD
        self._heap.clear()
        self._dead = 0
        self._disarm()

    def _compact(self) -> None:
        heap = self._heap
        if self._dead == len(heap):
            # The call of the loop stays: to take it back and ask for it anew costs more than one that finds nothing.
            heap.clear()
            self._dead = 0
            return
        if self._dead * 2 <= len(heap) or self._dead <= _FEW:
            return
        # In place, since _turn() holds on to the list while a fire() cancels.
        heap[:] = [entry for entry in heap if entry[_ITEM] is not _DEAD]
        heapify(heap)
        self._dead = 0

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have `_turn` called when the first entry is due, or after ``recheck`` seconds; never later than it is now."""
        if loop is not self._loop:
            self._disarm()
            self._loop = loop
        if not self._heap:
            self._disarm()
            return
        when, now = self._heap[0][_WHEN], self._clock()
        # Compared before it is subtracted: `when` may be infinite or years ahead, and a loop refuses long delays.
        if when <= now:
            at = -math.inf
        elif when < now + self._recheck:
            at = loop.time() + max(when - now, _SHORTEST)
        else:
            at = loop.time() + self._recheck
        if self._handle is not None:
            if self._at <= at:
                return
            self._disarm()
        self._at = at
        # The context of the caller belongs to one client; the turn serves all of them.
        context = contextvars.Context()
        if at == -math.inf:
            self._handle = loop.call_soon(self._turn, context=context)
        else:
            self._handle = loop.call_at(at, self._turn, context=context)

    def _disarm(self) -> None:
        handle, self._handle = self._handle, None
        # A closed loop has dropped its handles already.
        if handle is not None and self._loop is not None and not self._loop.is_closed():
            handle.cancel()

    def _turn(self) -> None:
        self._handle = None
        loop = asyncio.get_running_loop()
        heap, now = self._heap, self._clock()
        try:
            # Dead entries count as well: taking off thousands of them takes its time, too.
            for _ in range(self._batch):
                # Written so that nothing is due by a clock of NaN.
                if not heap or not heap[0][_WHEN] <= now:
                    break
                entry = heappop(heap)
                item = entry[_ITEM]
                if item is _DEAD:
                    self._dead -= 1
                    continue
                entry[_ITEM] = _DEAD
                try:
                    self._fire(item)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    loop.call_exception_handler({"message": "Exception in a callback of a timer", "exception": exc})
        finally:
            self._compact()
            self._arm(loop)
