"""Patterns over time that no single connection shows: proxies that cut, upgrades that fail, lost stickiness.

Everything is kept in summaries of bounded size, and nothing is judged before `Patterns.tick`. A pattern is told twice,
when it begins to stand and when it ends. This module is pure: it has no clock and writes no log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .proxies.heartbeat import Heartbeat
from .proxies.profiles import PROFILES, LimitKind, number, where
from .summaries import BUCKET_S, LEAST_AGE_S, REACH_S, SHORT_S, Elsewhere, Loops, Mass, Peak, Share

__all__ = [
    "FIRST_PING_UNANSWERED",
    "MASS_DISCONNECT",
    "NEVER_UPGRADED",
    "PATTERNS",
    "RECONNECT_LOOP",
    "SAME_IDLE_AGE",
    "SAME_TOTAL_AGE",
    "SESSIONS_ELSEWHERE",
    "UPGRADES_FAIL",
    "Patterns",
]

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
