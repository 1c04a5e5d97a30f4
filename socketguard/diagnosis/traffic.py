"""Patterns over time that no single connection shows: proxies that cut, upgrades that fail, lost stickiness.

Everything is kept in summaries of bounded size, and judged about once a second, in `Patterns.due`. A pattern is told
twice, when it begins to stand and when it ends. While requests name sessions of other processes, none begins that lost
stickiness explains as well: what polls, upgrades, comes again at once or breaks together.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from socketguard.connection import Session
from socketguard.proxies.heartbeat import Heartbeat
from socketguard.proxies.profiles import PROFILES, LimitKind, number, where

__all__ = ["Patterns", "Told"]

# The names of the patterns.
SAME_IDLE_AGE = "same_idle_age"  # connections break after the same time without a packet: an idle limit on the path
SAME_TOTAL_AGE = "same_total_age"  # connections break at the same age, busy or not: a lifetime limit on the path
FIRST_PING_UNANSWERED = "first_ping_unanswered"  # something drops quiet connections without a word
NEVER_UPGRADED = "never_upgraded"  # clients stay on polling though the server offers WebSocket
UPGRADES_FAIL = "upgrades_fail"  # clients begin the upgrade to WebSocket and don't finish it
RECONNECT_LOOP = "reconnect_loop"  # one client connects again and again
MASS_DISCONNECT = "mass_disconnect"  # most connections broke within seconds: a proxy was reloaded or replaced
SESSIONS_ELSEWHERE = "sessions_elsewhere"  # requests name sessions of other processes: workers without stickiness

Told: TypeAlias = tuple[str, bool, dict[str, Any]]
"""A pattern, whether it stands from now on (or has ended), and figures; with each beginning ``text`` and ``fix``."""

# python-engineio's words for a connection that nobody ended on purpose.
_BROKEN = frozenset({"transport close", "transport error", "ping timeout"})


# --- ages ------------------------------------------------------------------------------------------------------------

_REACH_S = 2  # seconds: what lies this close together is the same age
_BESIDE_S = 15  # seconds on either side with which a heap is compared
_LEAST = 13  # values that make a heap, …
_DENSER = 3  # … and so many times as many as lie beside it: a hump of natural lifetimes is not
_LEAST_AGE_S = 10  # seconds; no proxy has shorter limits, and whoever only looks in leaves before that
_AT_ONCE = 5  # values in the same second since the last call; more may have one cause
_VALUES = 512
_SECONDS_AT_ONCE = 256
_MEMORY_S = 12 * 3600.0
_LEAST_SILENCE_S = 1800.0  # without one more cut, a pattern has ended


class Peak:
    """Finds the second at which values heap up.

    The rule was measured with random lifetimes of five shapes: no warning in 1,000 runs, and each limit on the path was
    told within 20 cuts (``tests/diagnosis/test_traffic.py``).
    """

    def __init__(self) -> None:
        # When it came, the second, and whether it may belong to a heap or can only lie beside one.
        self._values: deque[tuple[float, int, bool]] = deque(maxlen=_VALUES)
        self._new: Counter[tuple[int, bool]] = Counter()
        self._began: float | None = None
        self.at: int | None = None  # the second; None while there is no heap
        self.hits = 0  # how many values lie there
        self._misses = self._misses_borne = 0
        self._last_hit = 0.0

    @property
    def total(self) -> int:
        return len(self._values)

    def add(self, seconds: float, *, counts: bool = True) -> None:
        """A value; with ``counts=False`` it makes no heap, but may hide one."""
        value = (int(seconds + 0.5), counts)
        if self._new[value] < _AT_ONCE and len(self._new) < _SECONDS_AT_ONCE:
            self._new[value] += 1

    def changed(self, now: float, *, together: bool) -> bool | None:
        """True when a heap stands from now on, False when it has ended, else None.

        When so many ended ``together`` since the last call that they had one cause (a proxy was reloaded), each second
        counts once, or all those that had begun together would make a heap.
        """
        if self._began is None:
            self._began = now
        if not self._new and self.at is None:
            return None
        new, self._new = self._new, Counter()
        if together:
            new = Counter(new.keys())
        self._values.extend((now, *value) for value in new.elements())
        while self._values and now - self._values[0][0] > _MEMORY_S:
            self._values.popleft()
        if self.at is None:
            return self._find({second for second, counts in new if counts}, now) or None
        hits = sum(times for (second, counts), times in new.items() if counts and abs(second - self.at) <= _REACH_S)
        self._misses += new.total() - hits
        if hits:
            self.hits += hits
            self._misses, self._last_hit = 0, now
        if self._misses <= self._misses_borne and now - self._last_hit <= max(_LEAST_SILENCE_S, 3.0 * self.at):
            return None
        return False

    def forget(self) -> None:
        """Begin anew, so that a heap can't come back from old values."""
        self._values.clear()
        self.at = None

    def largest(self) -> int:
        """The largest number of values that lie close together."""
        cuts = Counter(second for _, second, counts in self._values if counts)
        return max((_within(cuts, second - _REACH_S, second + _REACH_S) for second in cuts), default=0)

    def _find(self, new: Collection[int], now: float) -> bool:
        """Only where something was added can a heap have arisen, and only where longer times could be seen as well."""
        if not new:
            return False
        cuts = Counter(second for _, second, counts in self._values if counts)
        every = Counter(second for _, second, _ in self._values)
        seen = now - (now if self._began is None else self._began)
        best, best_first = 0, 0
        for first in {second - offset for second in new for offset in range(2 * _REACH_S + 1)}:
            last = first + 2 * _REACH_S
            hits = _within(cuts, first, last)
            if hits < max(_LEAST, best + 1) or first < _LEAST_AGE_S or last + _BESIDE_S > seen:
                continue
            beside = _within(every, first - _BESIDE_S, first - 1) + _within(every, last + 1, last + _BESIDE_S)
            if hits >= _DENSER * beside:
                best, best_first = hits, first
        if not best:
            return False
        self.at = max(range(best_first, best_first + 2 * _REACH_S + 1), key=cuts.__getitem__)
        self.hits, self._misses, self._last_hit = best, 0, now
        self._misses_borne = 20 + 10 * len(self._values) // best
        return True


def _within(counted: Counter[int], first: int, last: int) -> int:
    return sum(counted[second] for second in range(first, last + 1))


def _defaults(kind: LimitKind, seconds: int) -> str:
    """Which limits are by default what was seen; empty when none is."""
    found = [
        where(limit)
        for profile in PROFILES.values()
        for limit in profile.limits
        if limit.kind is kind and limit.websocket and limit.seconds and abs(limit.seconds - seconds) <= _REACH_S
    ]
    return f". By default that is {', '.join(found)}" if found else ""


# --- shares ----------------------------------------------------------------------------------------------------------


class Share:
    """How often something is so, among the last 51 to 100 times; the pattern stands from a share on, until 0.4 less."""

    def __init__(self, pattern: str, begins: float, text: str, fix: str) -> None:
        self._pattern, self._text, self._fix = pattern, text, fix
        self._begins, self._ends = begins, begins - 0.4
        self._counts, self._old_counts = (0, 0), (0, 0)
        self._is_new = False
        self._stands = False

    def add(self, hit: bool) -> None:
        hits, of = self._counts
        if of == 50:
            self._old_counts, (hits, of) = self._counts, (0, 0)
        self._counts = (hits + hit, of + 1)
        self._is_new = True

    def changes(self, *, hold: bool = False) -> Iterator[Told]:
        """``hold`` when what was added has another cause: then none of it counts for a beginning."""
        if hold and not self._stands:
            self._counts = self._old_counts = (0, 0)
            return
        if not self._is_new:
            return
        self._is_new = False
        count, of = (new + old for new, old in zip(self._counts, self._old_counts, strict=True))
        if of < 20 or (count > self._ends * of if self._stands else count < self._begins * of):
            return
        self._stands = not self._stands
        advice = {"text": f"{count} of {of} {self._text}", "fix": self._fix} if self._stands else {}
        yield self._pattern, self._stands, {"count": count, "of": of, **advice}


# --- loops of one client ---------------------------------------------------------------------------------------------

_SHORT_S = 20.0  # a session of a loop is shorter
_LOOP = 20  # so many short sessions, one after the other
_PAUSE_S = 60.0  # after so long without a new session, a loop has ended
_ADDRESSES = 1024
_LOOPS_TOLD = 8  # loops that stand at once; an attacker with many addresses must not fill the log


@dataclass(slots=True)
class Client:
    """The sessions of one address."""

    last_opened: float
    who: int | None = None  # stands for the browser and the subject of the last of them
    living: int = 0
    run: int = 0  # short ones in a row


class Loops:
    """Clients that connect again and again: addresses with one short session after the other, never two at once.

    An address behind which there are many clients (an office, a proxy) has several sessions at a time, or sessions of
    different browsers or subjects.
    """

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}  # in the order of the last session
        self._found: set[str] = set()
        self._told: set[str] = set()
        self._now = 0.0

    def opened(self, address: str) -> None:
        client = self._clients.pop(address, None)
        if client is None:
            if len(self._clients) >= _ADDRESSES:
                del self._clients[next(iter(self._clients))]
            client = Client(self._now)
        self._clients[address] = client
        client.living += 1
        if client.living > 1 or self._now - client.last_opened > _PAUSE_S:
            client.run = 0
        client.last_opened = self._now

    def closed(self, address: str, who: int, age_s: float) -> None:
        client = self._clients.get(address)
        if client is None:
            return
        client.living = max(0, client.living - 1)
        if client.who != who:
            client.who, client.run = who, 0
        client.run = client.run + 1 if age_s < _SHORT_S else 0
        if client.run >= _LOOP and len(self._told | self._found) < _LOOPS_TOLD:
            self._found.add(address)

    def changes(self, now: float, *, hold: bool) -> Iterator[Told]:
        self._now = now
        if hold:
            self._found.clear()
        if not self._told and not self._found:
            return
        for address in sorted(self._told):
            if not self._run(address):
                self._told.discard(address)
                yield RECONNECT_LOOP, False, {"client_address": address}
        for address in sorted(self._found - self._told):
            if run := self._run(address):
                self._told.add(address)
                fields = {
                    "client_address": address,
                    "count": run,
                    "text": f"a client at {address} has had {run} sessions one after the other, each shorter than "
                    f"{number(_SHORT_S)} s",
                    "fix": "the lines about this address say why its sessions end; a client must not connect again at "
                    "once after an answer whose retry is 'never' or 'login'",
                }
                yield RECONNECT_LOOP, True, fields
        self._found.clear()

    def _run(self, address: str) -> int:
        """How many short sessions it has had in a row; 0 when it is no longer in a loop."""
        client = self._clients.get(address)
        return 0 if client is None or self._now - client.last_opened > _PAUSE_S else client.run


# --- many at once ----------------------------------------------------------------------------------------------------

_BUCKET_S = 5.0
_MASS = 20  # connections, and at least half of all
_RETURN_S = 120.0  # after which nobody else is expected to come back


class Mass:
    """Most connections broke within seconds, and few before."""

    def __init__(self) -> None:
        self._broken = self._old_enough = 0  # in the current bucket
        # The four before: how many broke, and how many of them were old enough to count.
        self._buckets: deque[tuple[int, int]] = deque([(0, 0)] * 4, maxlen=4)
        self._bucket_ends = 0.0
        self._lost = self._of = 0
        self._gone_by = 0.0

    def broke(self, age_s: float) -> None:
        self._broken += 1
        self._old_enough += age_s >= _LEAST_AGE_S

    def changes(self, now: float, living: int, *, hold: bool) -> Iterator[Told]:
        if now >= self._bucket_ends:
            self._buckets.append((self._broken, self._old_enough))
            self._broken = self._old_enough = 0
            self._bucket_ends = now + _BUCKET_S
            if not self._lost:
                if not hold:
                    yield from self._find(now, living)
                return
        if self._lost and (living >= 0.8 * self._of or now >= self._gone_by):
            self._buckets.extend([(0, 0)] * 4)
            fields = {"count": self._lost, "of": self._of, "living": living}
            self._lost = 0
            yield MASS_DISCONNECT, False, fields

    def _find(self, now: float, living: int) -> Iterator[Told]:
        """A burst may lie across two buckets, hence two against the two before."""
        first, second, third, fourth = self._buckets
        lost = third[1] + fourth[1]
        if lost < _MASS or lost < living or lost < 4 * (first[0] + second[0]):
            return
        self._lost, self._of = lost, living + lost
        self._gone_by = now + _RETURN_S
        fields = {
            "count": lost,
            "of": self._of,
            "living": living,
            "text": f"{lost} of {self._of} connections broke within {number(2 * _BUCKET_S)} s: a proxy in front was "
            "reloaded, replaced or restarted",
            "fix": "let the proxy keep its connections over a reload (Caddy: stream_close_delay; Traefik: "
            "lifeCycle.graceTimeOut; ingress-nginx: worker-shutdown-timeout)",
        }
        yield MASS_DISCONNECT, True, fields


# --- several workers -------------------------------------------------------------------------------------------------

_WINDOWS = 4


class Elsewhere:
    """Requests that name sessions of other processes, against the sessions that this process opens.

    With n workers and no stickiness, of the clients whose handshake came here 1/n send their next request here too; by
    symmetry, for each session that is opened here (n-1)/n requests come from sessions of the others.

    After a restart, of this process or of another one, each client comes with its old session once and within interval
    + timeout (python-engineio's clients notice by then), hence the time before the first window and the number of
    windows.
    """

    def __init__(self, detection_s: float) -> None:
        self.unknown = self.opened = 0
        self._detection_s = detection_s
        self._ends: float | None = None
        self._restarted = True
        self._last = 0, 0
        self._windows: deque[tuple[int, int]] = deque(maxlen=_WINDOWS)
        self._stands = False

    @property
    def suspected(self) -> bool:
        """Whether requests have named sessions of others not long ago, more of them than chance explains."""
        unknown, opened = self._last
        return self._stands or not _few(unknown + self.unknown, opened + self.opened)

    def changes(self, now: float) -> Iterator[Told]:
        if self._ends is None:
            self._ends = now + self._detection_s
        if now < self._ends:
            return
        self._last = self.unknown, self.opened
        self._windows.append((0, 0) if self._restarted else self._last)
        self._restarted = False
        self.unknown = self.opened = 0
        self._ends = now + self._detection_s / 2
        unknown, opened = (sum(counts) for counts in zip(*self._windows, strict=True))
        if len(self._windows) < _WINDOWS:
            return
        if self._stands:
            changed = _few(unknown, opened)
        else:
            # A client that repeats one dead session for ever opens none; so does no client of Socket.IO.
            steady = all(one >= 3 for one, _ in self._windows)
            changed = steady and unknown >= 12 and opened >= 8 and 0.35 * opened <= unknown <= 2.5 * opened
        if not changed:
            return
        self._stands = not self._stands
        fields: dict[str, Any] = {"count": unknown, "of": opened}
        if self._stands:
            guess, share = "several workers", unknown / opened
            # With n workers the share is (n-1)/n; near 1 it says no more than that there are several.
            if share < 0.9:
                fields["workers"] = max(2, round(1 / (1 - share)))
                guess = f"about {fields['workers']} workers"
            fields |= {
                "text": f"{unknown} requests named sessions that another process opened, while this one opened "
                f"{opened}: there are {guess}, and the proxy in front spreads the requests of one session over them",
                "fix": "switch on sticky sessions in the proxy, let clients use transports: ['websocket'], or run one "
                "worker; several workers also need a client manager such as socketio.AsyncRedisManager",
            }
        yield SESSIONS_ELSEWHERE, self._stands, fields


def _few(unknown: int, opened: int) -> bool:
    return unknown < 3 or unknown < 0.1 * opened


# --- all -------------------------------------------------------------------------------------------------------------


class Patterns:
    """What the sessions of one process show together; a session is an Engine.IO session, whatever it joined."""

    def __init__(
        self, *, interval: float, timeout: float, transports: Collection[str] = ("polling", "websocket")
    ) -> None:
        # What is no number is a finding of its own, and nothing can be learnt from it here.
        self._interval = interval = _seconds(interval, 25)
        self._timeout = timeout = _seconds(timeout, 20)
        self._living = 0
        self._broken = 0  # since the last look
        self._idle = Peak()
        self._age = Peak()
        every = number(interval)
        self._unanswered = Share(
            FIRST_PING_UNANSWERED,
            0.8,
            f"WebSockets that broke were gone at the first ping of the heartbeat, after {every} s: a firewall or NAT "
            "drops quiet connections without a word, or the clients speak no Engine.IO 4",
            "send pings more often, such as heartbeat=Heartbeat.for_idle_timeout"
            f"({max(_LEAST_AGE_S, int(interval))}), and look for a limit of less than {every} s on the path",
        )
        self._polling = Share(
            NEVER_UPGRADED,
            0.9,
            "sessions stayed on polling to their end, though the server offers WebSocket: a proxy in front drops the "
            "Upgrade header, or the origin of WebSockets is refused",
            "let each proxy pass the headers Upgrade and Connection on, over HTTP/1.1; when the clients are made with "
            "transports: ['polling'], let the server offer that only",
        )
        self._upgrades = Share(
            UPGRADES_FAIL,
            0.8,
            "upgrades to WebSocket were begun and not finished: something in front opens WebSockets, but does not "
            "carry their frames",
            "look for a proxy or a filter that buffers or inspects WebSockets; clients connect sooner with "
            "transports: ['polling'] until it is found",
        )
        upgrading = "websocket" in transports and "polling" in transports
        self._of_polling = [self._polling, self._upgrades] if upgrading else []
        self._loops = Loops()
        self._mass = Mass()
        self._elsewhere = Elsewhere(interval + timeout)

    def opened(self, session: Session) -> None:
        """A session was opened."""
        self._living += 1
        self._elsewhere.opened += 1
        if session.client_address is not None:
            self._loops.opened(session.client_address)

    def closed(self, session: Session, *, pinged: bool, now: float | None = None) -> None:
        """A session has ended; ``pinged`` when a ping was still unanswered.

        Then its client was gone already, and the time says nothing about the path. Of the reasons only
        ``transport close``, ``transport error`` and ``ping timeout`` say that nobody meant it.
        """
        now = time.monotonic() if now is None else now
        age_s, idle_s = now - session.started, now - session.active
        reason = session.ending or session.left_by or "transport close"
        self._living = max(0, self._living - 1)
        if session.client_address is not None:
            self._loops.closed(session.client_address, hash((session.user_agent, session.who)), age_s)
        if age_s >= _LEAST_AGE_S:
            self._polling.add(session.transport == "polling")
        if reason not in _BROKEN:
            return
        self._broken += 1
        self._mass.broke(age_s)
        if session.transport == "polling":
            return  # Nobody sees when such a client goes: it is always the heartbeat that ends it.
        if age_s > self._interval:
            self._unanswered.add(pinged and age_s < self._interval + 2 * self._timeout + _REACH_S)
        self._idle.add(idle_s, counts=not pinged)
        # Of a connection that has been quiet from its beginning the two can't be told apart.
        self._age.add(age_s, counts=not pinged and age_s - idle_s > 2 * _REACH_S)

    def upgraded(self) -> None:
        """A session went from polling to WebSocket."""
        self._upgrades.add(False)
        self._polling.add(False)

    def upgrade_failed(self) -> None:
        """A session began to upgrade and did not get through; it goes on over polling, or ended."""
        self._upgrades.add(True)

    def unknown_session(self, issued_here: bool | None) -> None:
        """A POST (JavaScript clients send a GET beside each) named a session that this process does not know.

        One whose id came from this process, as far as that can be told, has just ended, which says nothing.
        """
        if issued_here is False:
            self._elsewhere.unknown += 1

    def due(self, now: float) -> list[Told]:
        """What has changed since the last call; to be called about once a second, with `time.monotonic`."""
        elsewhere = list(self._elsewhere.changes(now))
        hold = self._elsewhere.suspected
        return [
            *self._changes_of_ages(now),
            *self._unanswered.changes(),
            *(told for share in self._of_polling for told in share.changes(hold=hold)),
            *self._loops.changes(now, hold=hold),
            *self._mass.changes(now, self._living, hold=hold),
            *elsewhere,
        ]

    def _changes_of_ages(self, now: float) -> Iterator[Told]:
        together = self._broken >= 3 and self._broken >= 0.1 * (self._living + self._broken)
        self._broken = 0
        changed = self._age.changed(now, together=together)
        if changed is not None:
            yield self._told_of(SAME_TOTAL_AGE, self._age, changed)
        changed = self._idle.changed(now, together=together)
        if changed and self._age.largest() >= 0.7 * self._idle.hits:
            # A lifetime of 60 s with a ping every 25 s ends each quiet connection 10 s after a packet.
            self._idle.at = None
        elif changed is not None:
            yield self._told_of(SAME_IDLE_AGE, self._idle, changed)

    def _told_of(self, pattern: str, peak: Peak, stands: bool) -> Told:
        after = peak.at or 0
        fields: dict[str, Any] = {"after_s": after, "cuts": peak.hits}
        if not stands:
            peak.forget()
            return pattern, False, fields
        fields |= {"connections": peak.total, "interval_s": self._interval, "timeout_s": self._timeout}
        begin = f"{peak.hits} of {peak.total} connections that broke did so"
        if pattern == SAME_TOTAL_AGE:
            fields["text"] = (
                f"{begin} at an age of {after} s, busy or not: a proxy or platform in front ends connections after "
                f"{after} s, or the pages reload themselves"
            )
            fields["fix"] = (
                "no heartbeat helps: raise that limit, or let clients come back and take up where they were"
                f"{_defaults(LimitKind.LIFETIME, after)}"
            )
        else:
            fields["text"] = (
                f"{begin} after {after} s without a packet: a proxy in front cuts idle connections after {after} s, "
                f"and the interval of the heartbeat is {number(self._interval)} s"
            )
            fields["fix"] = (
                f"write heartbeat=Heartbeat.for_idle_timeout({after}), that is a ping every "
                f"{Heartbeat.for_idle_timeout(after).interval} s, or raise the limit of the proxy above "
                f"{number(self._interval + self._timeout + 5)} s{_defaults(LimitKind.IDLE, after)}"
            )
        return pattern, True, fields


def _seconds(value: object, otherwise: float) -> float:
    return value if isinstance(value, int | float) else otherwise
