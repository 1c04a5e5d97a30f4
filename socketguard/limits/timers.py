"""Many moments in one heap. What is due is pulled: nothing here waits, and nothing calls anybody."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

__all__ = ["Timers"]

# An entry is [when, number, item]. The number keeps entries of one moment in the order in which they were set, and
# keeps the heap from comparing items.
_WHEN, _ITEM = 0, 2
_DEAD: Any = object()

# So many dead entries are left where they are until they are due: to sort a small heap again and again costs more.
_FEW = 64


class Timers:
    """Entries by their moment, in seconds of whatever clock the caller counts by."""

    __slots__ = ("_dead", "_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        self._dead = 0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How many entries are neither due and taken nor cancelled."""
        return len(self._heap) - self._dead

    @property
    def next(self) -> float:
        """No entry is due before this moment; infinity when there is none."""
        return self._heap[0][_WHEN] if self._heap else math.inf

    def set(self, when: float, item: Any) -> list[Any]:
        """Add an entry and return it, for `cancel`. A moment in the past is due at once, infinity never."""
        # math.isnan() refuses integers beyond the range of a float.
        if when != when:
            raise ValueError("when is NaN; give a moment in seconds of the clock")
        entry = [when, next(self._numbers), item]
        heappush(self._heap, entry)
        return entry

    def cancel(self, entry: list[Any] | None) -> None:
        """Take an entry back; one that was taken or cancelled before, and None, are left alone."""
        if entry is not None and entry[_ITEM] is not _DEAD:
            entry[_ITEM] = _DEAD
            self._dead += 1
            self._compact()

    def due(self, now: float, most: int) -> Iterator[Any]:
        """Take off the items whose moment has come, at most so many: thousands at once would stall the loop.

        An item is taken when it is handed out, so that those behind one that raises are not lost. By a clock of NaN
        nothing is due.
        """
        # Dead entries count as well: taking off thousands of them takes its time, too.
        for _ in range(most):
            if not self._heap or not self._heap[0][_WHEN] <= now:
                return
            entry = heappop(self._heap)
            item = entry[_ITEM]
            if item is _DEAD:
                self._dead -= 1
            else:
                entry[_ITEM] = _DEAD
                yield item

    def clear(self) -> None:
        """Forget all entries."""
        for entry in self._heap:
            entry[_ITEM] = _DEAD
        self._heap.clear()
        self._dead = 0

    def _compact(self) -> None:
        heap = self._heap
        if self._dead == len(heap):
            heap.clear()
            self._dead = 0
        elif self._dead * 2 > len(heap) and self._dead > _FEW:
            heap[:] = [entry for entry in heap if entry[_ITEM] is not _DEAD]
            heapify(heap)
            self._dead = 0
