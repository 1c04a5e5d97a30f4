"""Summaries of bounded size in which a pattern over time shows itself. This module is pure and has no clock.

Each has a method ``settle`` that says True when a pattern stands from now on, False when it has ended, and None as long
as nothing changes. Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping

__all__ = ["BUCKET_S", "LEAST_AGE_S", "REACH_S", "SHORT_S", "Elsewhere", "Loops", "Mass", "Peak", "Share"]

REACH_S = 2  # seconds: what lies this close together is the same age
_FLANK = 15  # seconds on either side with which a peak is compared
_CONTRAST = 4  # how much denser a peak is than its neighbours: a hump of natural lifetimes is not
_EVIDENCE = 20.0  # e**-20 = 2e-9, per look: how likely chance alone may make a peak
LEAST_AGE_S = 10  # seconds; no proxy has shorter limits, and whoever only looks in leaves before that
_AT_ONCE = 5  # values in the same second since the last call; more may have one cause
_GENERATION = 256  # values; the histogram holds at most two generations
_GENERATION_S = 6 * 3600.0
_LEAST_SILENCE_S = 1800.0  # without one more cut, a pattern has ended


class Peak:
    """Finds the second at which values heap up, in a histogram of bounded size.

    A value that may belong to a peak is kept under its second, one that can only be a neighbour under ``~second``.
    """

    __slots__ = (
        "_began",
        "_fresh",
        "_fresh_count",
        "_gap",
        "_last_hit",
        "_misses",
        "_old",
        "_pending",
        "_since",
        "at",
        "hits",
    )

    def __init__(self) -> None:
        self._pending: dict[int, int] = {}
        self._began: float | None = None
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        self._fresh: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._fresh_count = 0
        self._since = now
        self.at: int | None = None
        self.hits = 0
        self._misses = 0
        self._gap = 1.0
        self._last_hit = now

    def add(self, seconds: float, *, counts: bool = True) -> None:
        """Take in a value; with ``counts=False`` it makes no peak, but may hide one."""
        second = int(seconds + 0.5) if counts else ~int(seconds + 0.5)
        count = self._pending.get(second, 0)
        if count < _AT_ONCE and len(self._pending) < _GENERATION:
            self._pending[second] = count + 1

    @property
    def total(self) -> int:
        return self._fresh_count + sum(self._old.values())

    def settle(self, now: float, *, together: bool) -> bool | None:
        """Take in what was added since the last call.

        Args:
            now: seconds.
            together: whether so many ended since the last call that they had one cause (a proxy was reloaded): then
                each second counts once, or all those that had begun together would make a peak.

        Returns:
            True when a peak stands from now on (see `at` and `hits`), False when it has ended, else None.
        """
        if self._began is None:
            self._began = now
        new = self._pending
        if new:
            self._pending = {}
            if together:
                new = dict.fromkeys(new, 1)
            self._take(new, now)
        if self.at is None:
            return self._find(new, now) or None
        for value, count in new.items():
            if abs(value - self.at) <= REACH_S:
                self.hits += count
                self._misses = 0
                self._last_hit = now
            else:
                self._misses += count
        silence = max(_LEAST_SILENCE_S, 3.0 * self.at)
        if self._misses <= 20 + 10 * self._gap and now - self._last_hit <= silence:
            return None
        return False

    def end(self, now: float) -> None:
        """Begin anew, so that an old peak can't come back from old values."""
        self._forget(now)

    def top(self) -> int:
        """The largest number of values that lie close together."""
        return max((self._window(value) for value in (*self._fresh, *self._old) if value >= 0), default=0)

    def _take(self, new: Mapping[int, int], now: float) -> None:
        if self._fresh_count >= _GENERATION or now - self._since > _GENERATION_S:
            self._old, self._fresh = self._fresh, {}
            self._fresh_count, self._since = 0, now
        for value, count in new.items():
            self._fresh[value] = self._fresh.get(value, 0) + count
            self._fresh_count += count

    def _count(self, second: int) -> int:
        return self._fresh.get(second, 0) + self._old.get(second, 0)

    def _count_all(self, second: int) -> int:
        return self._count(second) + self._count(~second)

    def _window(self, centre: int) -> int:
        return sum(map(self._count, range(centre - REACH_S, centre + REACH_S + 1)))

    def _beside(self, first: int, last: int) -> int:
        return sum(map(self._count_all, range(max(0, first), last + 1)))

    def _find(self, new: Collection[int], now: float) -> bool:
        """Only where something was added can a peak have arisen, and only where longer times could be seen as well."""
        best, best_centre = 0, 0
        seen = now - (now if self._began is None else self._began)
        for value in new:
            # Empty for the negative numbers of those that can only be neighbours.
            for centre in range(max(LEAST_AGE_S + REACH_S, value - REACH_S), value + REACH_S + 1):
                count = self._window(centre)
                if count > best and centre + REACH_S + _FLANK <= seen and self._stands_out(centre, count):
                    best, best_centre = count, centre
        if not best:
            return False
        self.at = max(range(best_centre - REACH_S, best_centre + REACH_S + 1), key=self._count)
        self.hits, self._misses, self._last_hit = best, 0, now
        self._gap = self.total / best
        return True

    def _stands_out(self, centre: int, count: int) -> bool:
        """Whether chance alone hardly puts so many values here, given how many lie beside.

        If the values were spread evenly over peak and flanks, their number in the peak would be binomial; its tail is
        at most exp(-n D), where D is the relative entropy (Chernoff's bound).
        """
        low, high = centre - REACH_S, centre + REACH_S
        width = high - low + 1
        nearest = max(self._beside(low - width, low - 1), self._beside(high + 1, high + width))
        if count < 2 * width or count < _CONTRAST * nearest:
            return False
        n = count + self._beside(low - _FLANK, low - 1) + self._beside(high + 1, high + _FLANK)
        flanks = min(_FLANK, low) + _FLANK
        expected = width / (width + flanks)
        share = count / n
        if share <= expected:
            return False
        entropy = share * math.log(share / expected)
        if share < 1:
            entropy += (1 - share) * math.log((1 - share) / (1 - expected))
        return n * entropy >= _EVIDENCE


class Share:
    """How often something is so, among the last 51 to 100 times.

    Args:
        begins: the share from which the pattern stands.
        ends: the share from which it no longer does.
    """

    __slots__ = ("_begins", "_changed", "_ends", "_hits", "_n", "_old_hits", "_old_n", "stands")

    def __init__(self, begins: float, ends: float) -> None:
        self._begins = begins
        self._ends = ends
        self._hits = self._n = self._old_hits = self._old_n = 0
        self._changed = False
        self.stands = False

    def add(self, hit: bool) -> None:
        if self._n == 50:
            self._old_hits, self._old_n = self._hits, self._n
            self._hits = self._n = 0
        self._hits += hit
        self._n += 1
        self._changed = True

    @property
    def counts(self) -> tuple[int, int]:
        return self._hits + self._old_hits, self._n + self._old_n

    def settle(self) -> bool | None:
        """True when the pattern stands from now on, False when it has ended, else None."""
        if not self._changed:
            return None
        self._changed = False
        hits, n = self.counts
        if n < 20 or not (hits <= self._ends * n if self.stands else hits >= self._begins * n):
            return None
        self.stands = not self.stands
        return self.stands


SHORT_S = 20.0  # a session of a loop is shorter
_LOOP = 20  # so many short sessions, one after the other
_PAUSE_S = 60.0  # after so long without a new session, a loop has ended
_ADDRESSES = 1024
_LOOPS_TOLD = 8  # loops that stand at once; an attacker with many addresses must not fill the log


class Loops:
    """Clients that connect again and again: addresses with one short session after the other, never two at once.

    An address behind which there are many clients (an office, a proxy) has several sessions at a time.
    """

    __slots__ = ("_table", "due", "now", "standing")

    def __init__(self) -> None:
        # Live sessions, short sessions in a row, last seen; in the order of the last session.
        self._table: dict[str, list[float]] = {}
        self.due: set[str] = set()
        self.standing: set[str] = set()
        self.now = 0.0

    def opened(self, address: str) -> None:
        entry = self._table.pop(address, None)
        if entry is None:
            if len(self._table) >= _ADDRESSES:
                del self._table[next(iter(self._table))]
            entry = [0, 0, self.now]
        self._table[address] = entry
        entry[0] += 1
        if entry[0] > 1 or self.now - entry[2] > _PAUSE_S:
            entry[1] = 0
        entry[2] = self.now

    def closed(self, address: str, age_s: float) -> None:
        entry = self._table.get(address)
        if entry is None:
            return
        entry[0] = max(0, entry[0] - 1)
        entry[1] = entry[1] + 1 if age_s < SHORT_S else 0
        if entry[1] >= _LOOP and address not in self.standing and len(self.standing) + len(self.due) < _LOOPS_TOLD:
            self.due.add(address)

    def run(self, address: str) -> int:
        """How many short sessions it has had in a row; 0 when it is no longer in a loop."""
        entry = self._table.get(address)
        return 0 if entry is None or self.now - entry[2] > _PAUSE_S else int(entry[1])


BUCKET_S = 5.0
_MASS = 20  # connections, and at least half of all
_RETURN_S = 120.0  # after which nobody else is expected to come back


class Mass:
    """Most connections broke within seconds, and few before."""

    __slots__ = ("_bucket_ends", "_buckets", "_gone_by", "_old_enough", "all", "lost", "of")

    def __init__(self) -> None:
        self.all = 0  # in the current bucket
        self.lost = 0
        self.of = 0
        self._old_enough = 0
        self._buckets: deque[tuple[int, int]] = deque(maxlen=4)
        self._bucket_ends = 0.0
        self._gone_by = 0.0

    def broke(self, age_s: float) -> None:
        self.all += 1
        self._old_enough += age_s >= LEAST_AGE_S

    def settle(self, now: float, living: int) -> bool | None:
        """True when it has happened, False when most are back or won't come any more, else None."""
        if now >= self._bucket_ends:
            self._buckets.append((self._old_enough, self.all))
            self._old_enough = self.all = 0
            self._bucket_ends = now + BUCKET_S
            if not self.lost:
                return self._happened(now, living)
        if not self.lost or (living < 0.8 * self.of and now < self._gone_by):
            return None
        self._buckets.clear()
        return False

    def _happened(self, now: float, living: int) -> bool | None:
        """A burst may lie across two buckets, hence two against the two before."""
        buckets = [*[(0, 0)] * (4 - len(self._buckets)), *self._buckets]
        broken = buckets[2][0] + buckets[3][0]
        before = buckets[0][1] + buckets[1][1]
        if broken < _MASS or broken < living or broken < 4 * before:
            return None
        self.lost, self.of = broken, living + broken
        self._gone_by = now + _RETURN_S
        return True


_WINDOWS = 4


class Elsewhere:
    """Requests that name sessions of other processes, against the sessions that this process opens.

    With n workers and no stickiness, of the clients whose handshake came here 1/n send their next request here too; by
    symmetry, for each session that is opened here (n-1)/n requests come from sessions of the others.

    After a restart, of this process or of another one, each client comes with its old session once and within interval
    + timeout (python-engineio's clients notice by then), hence the time before the first window and the number of
    windows.
    """

    __slots__ = ("_ends", "_restarted", "_windows", "opened", "stands", "unknown")

    def __init__(self) -> None:
        self.unknown = 0
        self.opened = 0
        self.stands = False
        self._ends: float | None = None
        self._restarted = True
        self._windows: deque[tuple[int, int]] = deque(maxlen=_WINDOWS)

    @property
    def counts(self) -> tuple[int, int]:
        return sum(unknown for unknown, _ in self._windows), sum(opened for _, opened in self._windows)

    def settle(self, now: float, detection_s: float) -> bool | None:
        if self._ends is None:
            self._ends = now + detection_s
        if now < self._ends:
            if self._restarted:
                self.unknown = self.opened = 0
            return None
        self._restarted = False
        self._windows.append((self.unknown, self.opened))
        self.unknown = self.opened = 0
        self._ends = now + detection_s / 2
        if len(self._windows) < _WINDOWS:
            return None
        unknown, opened = self.counts
        if self.stands:
            changed = unknown < 3 or unknown < 0.1 * opened
        else:
            # A client that repeats one dead session for ever opens none; so does no client of Socket.IO.
            steady = all(one >= 3 for one, _ in self._windows)
            changed = steady and unknown >= 12 and opened >= 8 and 0.35 * opened <= unknown <= 2.5 * opened
        if not changed:
            return None
        self.stands = not self.stands
        return self.stands
