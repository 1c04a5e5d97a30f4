"""Patterns over time that no single connection shows: proxies that cut, upgrades that fail, lost stickiness.

Everything is kept in summaries of bounded size, and nothing is judged before `Patterns.tick`. A pattern is told twice,
when it begins to stand and when it ends. This module is pure: it has no clock and writes no log.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from socketguard.connection import Session
from socketguard.proxies.heartbeat import Heartbeat
from socketguard.proxies.profiles import PROFILES, LimitKind, number, where

__all__ = [
    "BUCKET_S",
    "FIRST_PING_UNANSWERED",
    "LEAST_AGE_S",
    "MASS_DISCONNECT",
    "NEVER_UPGRADED",
    "PATTERNS",
    "REACH_S",
    "RECONNECT_LOOP",
    "SAME_IDLE_AGE",
    "SAME_TOTAL_AGE",
    "SESSIONS_ELSEWHERE",
    "SHORT_S",
    "UPGRADES_FAIL",
    "Elsewhere",
    "Loops",
    "Mass",
    "PatternWatch",
    "Patterns",
    "Peak",
    "Share",
]

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


SAME_IDLE_AGE = "same_idle_age"
"""Connections break after the same time without a packet: an idle limit on the path."""
SAME_TOTAL_AGE = "same_total_age"
"""Connections break at the same age, busy or not: a lifetime limit on the path."""
FIRST_PING_UNANSWERED = "first_ping_unanswered"
"""Clients are gone at their first ping: something drops quiet connections without a word."""
NEVER_UPGRADED = "never_upgraded"
"""Clients stay on polling though the server offers WebSocket."""
UPGRADES_FAIL = "upgrades_fail"
"""Clients begin the upgrade to WebSocket and don't finish it."""
RECONNECT_LOOP = "reconnect_loop"
"""One client connects again and again."""
MASS_DISCONNECT = "mass_disconnect"
"""Most connections broke within seconds: a proxy was reloaded or replaced."""
SESSIONS_ELSEWHERE = "sessions_elsewhere"
"""Requests name sessions of other processes: several workers without sticky sessions."""

PATTERNS = frozenset(
    {
        SAME_IDLE_AGE,
        SAME_TOTAL_AGE,
        FIRST_PING_UNANSWERED,
        NEVER_UPGRADED,
        UPGRADES_FAIL,
        RECONNECT_LOOP,
        MASS_DISCONNECT,
        SESSIONS_ELSEWHERE,
    }
)
"""Every name that is ever told."""

Tell = Callable[[str, bool, dict[str, Any]], None]

# python-engineio's words for a connection that nobody ended on purpose.
_BROKEN = frozenset({"transport close", "transport error", "ping timeout"})


class Patterns:
    """Watches the sessions of one process and tells what they show together.

    A session is an Engine.IO session, whatever namespaces it joined.

    Args:
        tell: called with the name of the pattern, whether it stands from now on (or has ended), and fields: figures,
            and with each beginning ``text`` (what was seen) and ``fix``.
        interval: of the heartbeat, in seconds.
        timeout: of the heartbeat, in seconds.
        transports: those that the server offers.
    """

    __slots__ = (
        "_age",
        "_broken",
        "_elsewhere",
        "_idle",
        "_living",
        "_loops",
        "_mass",
        "_no_pong",
        "_polling",
        "_tell",
        "_upgrades",
        "interval",
        "timeout",
        "transports",
    )

    def __init__(
        self,
        tell: Tell,
        *,
        interval: float,
        timeout: float,
        transports: Collection[str] = ("polling", "websocket"),
    ) -> None:
        self._tell = tell
        self.interval = interval
        self.timeout = timeout
        self.transports = transports
        self._living = 0
        self._broken = 0  # since the last tick
        self._idle = Peak()
        self._age = Peak()
        self._no_pong = Share(0.8, 0.4)
        self._polling = Share(0.9, 0.5)
        self._upgrades = Share(0.8, 0.4)
        self._loops = Loops()
        self._mass = Mass()
        self._elsewhere = Elsewhere()

    def opened(self, address: str | None) -> None:
        """A session was opened.

        Args:
            address: of the client, None when it is not known.
        """
        self._living += 1
        self._elsewhere.opened += 1
        if address is not None:
            self._loops.opened(address)

    def closed(
        self,
        reason: str,
        transport: str,
        age_s: float,
        idle_s: float,
        upgraded: bool,
        *,
        pinged: bool | None = None,
        address: str | None = None,
    ) -> None:
        """A session has ended.

        Args:
            reason: python-engineio's or the guard's. Only ``transport close``, ``transport error`` and ``ping
                timeout`` say that nobody meant it.
            transport: the last one.
            age_s: seconds since the session was opened.
            idle_s: seconds since the last packet, sent or received.
            upgraded: whether it went from polling to WebSocket.
            pinged: whether a ping was still unanswered: then its client was gone already, and the time says nothing
                about the path. None when that isn't known: it is then read from the times of the heartbeat.
            address: the same as in `opened`.
        """
        if self._living:
            self._living -= 1
        if address is not None:
            self._loops.closed(address, age_s)
        if age_s >= LEAST_AGE_S:
            self._polling.add(transport == "polling" and not upgraded)
        if reason not in _BROKEN:
            return
        self._broken += 1
        self._mass.broke(age_s)
        interval, timeout = self.interval, self.timeout
        if pinged is None:
            # The last packet is the ping or, where only received ones are counted, the pong before it.
            pinged = reason == "ping timeout" or min(abs(idle_s - timeout), abs(idle_s - interval - timeout)) <= REACH_S
        if transport == "polling":
            return  # Nobody sees when such a client goes: it is always the heartbeat that ends it.
        if age_s > interval:
            self._no_pong.add(pinged and age_s < interval + 2 * timeout + REACH_S)
        self._idle.add(idle_s, counts=not pinged)
        # Of a connection that has been quiet from its beginning the two can't be told apart.
        self._age.add(age_s, counts=not pinged and age_s - idle_s > 2 * REACH_S)

    def upgraded(self) -> None:
        """A session went from polling to WebSocket."""
        self._upgrades.add(False)
        self._polling.add(False)

    def upgrade_failed(self) -> None:
        """A session began to upgrade and did not get through; it goes on over polling, or ended."""
        self._upgrades.add(True)

    def unknown_session(self, issued_here: bool) -> None:
        """A POST named a session that this process does not know.

        To be called for POSTs only: JavaScript clients send a GET beside each.

        Args:
            issued_here: whether the id came from this process. Then the session has just ended, which says nothing.
        """
        if not issued_here:
            self._elsewhere.unknown += 1

    def tick(self, now: float) -> None:
        """Judge, and tell what has changed. To be called about once a second.

        Args:
            now: seconds of a clock that never goes back.
        """
        self._loops.now = now
        self._tick_ages(now)
        self._tick_shares()
        self._tick_loops()
        self._tick_mass(now)
        self._tick_elsewhere(now)

    def _tick_ages(self, now: float) -> None:
        together = self._broken >= 3 and self._broken >= 0.1 * (self._living + self._broken)
        self._broken = 0
        changed = self._age.settle(now, together=together)
        if changed is not None:
            self._tell_peak(SAME_TOTAL_AGE, self._age, changed, now)
        changed = self._idle.settle(now, together=together)
        if changed and self._age.top() >= 0.7 * self._idle.hits:
            # A lifetime of 60 s with a ping every 25 s ends each quiet connection 10 s after a packet.
            self._idle.at = None
        elif changed is not None:
            self._tell_peak(SAME_IDLE_AGE, self._idle, changed, now)

    def _tell_peak(self, pattern: str, peak: Peak, stands: bool, now: float) -> None:
        assert peak.at is not None  # noqa: S101 - narrows the type: a peak that changed has a place
        fields: dict[str, Any] = {"after_s": peak.at, "cuts": peak.hits}
        if stands:
            fields |= {"connections": peak.total, "interval_s": self.interval, "timeout_s": self.timeout}
            fields |= (self._idle_advice if pattern == SAME_IDLE_AGE else self._age_advice)(peak)
        else:
            peak.end(now)
        self._tell(pattern, stands, fields)

    def _idle_advice(self, peak: Peak) -> dict[str, str]:
        after = peak.at or 0
        better = Heartbeat.for_idle_timeout(after)
        return {
            "text": f"{peak.hits} of {peak.total} connections that broke did so after {after} s without a packet: a "
            f"proxy in front cuts idle connections after {after} s, and the interval of the heartbeat is "
            f"{number(self.interval)} s",
            "fix": f"write heartbeat=Heartbeat.for_idle_timeout({after}), that is a ping every {better.interval} s, or "
            f"raise the limit of the proxy above {number(self.interval + self.timeout + 5)} s"
            f"{_defaults(LimitKind.IDLE, after)}",
        }

    def _age_advice(self, peak: Peak) -> dict[str, str]:
        after = peak.at or 0
        return {
            "text": f"{peak.hits} of {peak.total} connections that broke did so at an age of {after} s, busy or not: a "
            f"proxy or platform in front ends connections after {after} s, or the pages reload themselves",
            "fix": "no heartbeat helps: raise that limit, or let clients come back and take up where they were"
            f"{_defaults(LimitKind.LIFETIME, after)}",
        }

    def _tick_shares(self) -> None:
        both = "websocket" in self.transports and "polling" in self.transports
        for pattern, share, counted, text, fix in (
            (
                FIRST_PING_UNANSWERED,
                self._no_pong,
                True,
                "WebSockets that broke were gone at the first ping of the heartbeat, after {interval} s: a firewall "
                "or NAT drops quiet connections without a word, or the clients speak no Engine.IO 4",
                "send pings more often, such as heartbeat=Heartbeat.for_idle_timeout({idle}), and look for a limit of "
                "less than {interval} s on the path",
            ),
            (
                NEVER_UPGRADED,
                self._polling,
                both,
                "sessions stayed on polling to their end, though the server offers WebSocket: a proxy in front drops "
                "the Upgrade header, or the origin of WebSockets is refused",
                "let each proxy pass the headers Upgrade and Connection on, over HTTP/1.1; when the clients are made "
                "with transports: ['polling'], let the server offer that only",
            ),
            (
                UPGRADES_FAIL,
                self._upgrades,
                both,
                "upgrades to WebSocket were begun and not finished: something in front opens WebSockets, but does not "
                "carry their frames",
                "look for a proxy or a filter that buffers or inspects WebSockets; clients connect sooner with "
                "transports: ['polling'] until it is found",
            ),
        ):
            changed = share.settle() if counted else None
            if changed is None:
                continue
            hits, n = share.counts
            fields: dict[str, Any] = {"count": hits, "of": n}
            if changed:
                figures = {"interval": number(self.interval), "idle": max(LEAST_AGE_S, int(self.interval))}
                fields |= {"text": f"{hits} of {n} {text.format(**figures)}", "fix": fix.format(**figures)}
            self._tell(pattern, changed, fields)

    def _tick_loops(self) -> None:
        loops = self._loops
        for address in sorted(loops.standing):
            if not loops.run(address):
                loops.standing.discard(address)
                self._tell(RECONNECT_LOOP, False, {"client_address": address})
        for address in sorted(loops.due):
            run = loops.run(address)
            if run:
                loops.standing.add(address)
                fields = {
                    "client_address": address,
                    "count": run,
                    "text": f"a client at {address} has had {run} sessions one after the other, each shorter than "
                    f"{number(SHORT_S)} s",
                    "fix": "the lines about this address say why its sessions end; a client must not connect again at "
                    "once after an answer whose retry is 'never' or 'login'",
                }
                self._tell(RECONNECT_LOOP, True, fields)
        loops.due.clear()

    def _tick_mass(self, now: float) -> None:
        mass = self._mass
        changed = mass.settle(now, self._living)
        if changed is None:
            return
        fields: dict[str, Any] = {"count": mass.lost, "of": mass.of, "living": self._living}
        if changed:
            fields |= {
                "text": f"{mass.lost} of {mass.of} connections broke within {number(2 * BUCKET_S)} s: a proxy in "
                "front was reloaded, replaced or restarted",
                "fix": "let the proxy keep its connections over a reload (Caddy: stream_close_delay; Traefik: "
                "lifeCycle.graceTimeOut; ingress-nginx: worker-shutdown-timeout)",
            }
        else:
            mass.lost = 0
        self._tell(MASS_DISCONNECT, changed, fields)

    def _tick_elsewhere(self, now: float) -> None:
        changed = self._elsewhere.settle(now, self.interval + self.timeout)
        if changed is None:
            return
        unknown, opened = self._elsewhere.counts
        fields: dict[str, Any] = {"count": unknown, "of": opened}
        if changed:
            share = unknown / opened
            # With n workers the share is (n-1)/n; near 1 it says no more than that there are several.
            workers = round(1 / (1 - share)) if share < 0.9 else None
            guess = "several workers" if workers is None else f"about {max(2, workers)} workers"
            if workers is not None:
                fields["workers"] = max(2, workers)
            fields |= {
                "text": f"{unknown} requests named sessions that another process opened, while this one opened "
                f"{opened}: there are {guess}, and the proxy in front spreads the requests of one session over them",
                "fix": "switch on sticky sessions in the proxy, let clients use transports: ['websocket'], or run one "
                "worker; several workers also need a client manager such as socketio.AsyncRedisManager",
            }
        self._tell(SESSIONS_ELSEWHERE, changed, fields)


def _defaults(kind: LimitKind, seconds: int) -> str:
    """Which limits are by default what was seen; empty when none is."""
    found = [
        where(limit)
        for profile in PROFILES.values()
        for limit in profile.limits
        if limit.kind is kind and limit.websocket and limit.seconds and abs(limit.seconds - seconds) <= REACH_S
    ]
    return f". By default that is {', '.join(found)}" if found else ""


_EVERY = 1.0


class PatternWatch:
    """Watches the sessions of a server together.

    Args:
        patterns: what is fed.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def opened(self, session: Session) -> None:
        """A session was made."""
        self.patterns.opened(session.client_address)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._later(loop)

    def closed(self, session: Session, *, pinged: bool) -> None:
        """A session has ended."""
        now = time.monotonic()
        self.patterns.closed(
            session.ending or session.left_by or "transport close",
            session.transport,
            now - session.started,
            now - session.active,
            session.carrier is not None,
            pinged=pinged,
            address=session.client_address,
        )

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_EVERY, self._tick, loop, context=contextvars.Context())

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.patterns.tick(time.monotonic())
        self._later(loop)
