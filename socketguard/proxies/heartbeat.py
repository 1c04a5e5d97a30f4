"""`Heartbeat`: how often the server pings, how long it waits, and whether that survives the proxies on the path.

Engine.IO v4: the server sends a ping every *interval* seconds (python-engineio: counted from the last pong), and the
client has to answer within *timeout* seconds. A client gives the server up after interval + timeout without a ping.
Over long-polling the server holds a GET until there is something to send, so up to the interval, and never longer than
interval + timeout. Hence the rules, for the smallest idle limit P, the smallest limit F of an answer over polling, and
the smallest lifetime L of a connection:

- interval < P, and interval < F: otherwise the proxy cuts a healthy connection;
- interval + timeout <= P - 5: otherwise the proxy may cut a dead connection before Engine.IO notices, and the log says
  "transport close" where it should say "ping timeout" (the Socket.IO documentation asks for interval + timeout < P);
- interval + timeout <= F;
- nothing helps against L.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from socketguard.check import called, listed, names
from socketguard.errors import ConfigurationError
from socketguard.findings import Finding, finding

from .profiles import (
    PROFILES,
    Limit,
    LimitKind,
    canonical_name,
    check_idle_timeout,
    describe_path,
    limits_on_path,
    number,
    where,
)

__all__ = ["Heartbeat", "findings_for_server", "recommend"]

_TRANSPORTS = ("polling", "websocket")
_RESPONSE_KINDS = frozenset({LimitKind.FIRST_BYTE, LimitKind.RESPONSE_LIFETIME, LimitKind.LIFETIME})
_MARGIN = 5  # seconds between interval + timeout and an idle limit
_UVICORN_PINGS = (20, 20)  # uvicorn's defaults of ws_ping_interval and ws_ping_timeout


@called("Heartbeat")
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The heartbeat of a server, and the path for which it was chosen.

    Attributes:
        interval: seconds between a pong and the next ping; python-socketio's ``ping_interval``.
        timeout: seconds in which the pong has to come; python-socketio's ``ping_timeout``.
        proxies: the proxies on the path, against which `findings` checks. Stored under their canonical names.
        idle_timeout: the smallest idle limit really configured on the path, in seconds. It replaces the defaults of
            the proxies.

    Raises:
        ConfigurationError: a value that can't work.
    """

    interval: int = 25
    timeout: int = 20
    proxies: tuple[str, ...] = field(default=(), kw_only=True)
    idle_timeout: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_seconds("interval", self.interval)
        _check_seconds("timeout", self.timeout)
        given = listed(self.proxies, "proxies", example="('nginx',)")
        object.__setattr__(self, "proxies", tuple(dict.fromkeys(map(canonical_name, given))))
        if self.idle_timeout is not None:
            check_idle_timeout(self.idle_timeout)

    @classmethod
    @called("Heartbeat.behind")
    def behind(cls, *proxies: str, idle_timeout: float | None = None) -> Self:
        """Choose a heartbeat for the proxies on the path.

        Args:
            proxies: every hop between the client and the server, in any order; `docs/heartbeat.md` lists them.
                ``"easypanel"`` is Traefik.
            idle_timeout: the smallest idle limit really configured on the path, in seconds, when it is not the
                default of the products.

        Raises:
            ConfigurationError: an unknown proxy, no proxy and no limit, or a limit too small for any heartbeat.
        """
        if not proxies and idle_timeout is None:
            raise ConfigurationError(
                "Heartbeat.behind() needs the name of at least one proxy, such as behind('nginx'); without any proxy "
                "write Heartbeat().",
                option="proxies",
            )
        path = cls(proxies=proxies, idle_timeout=idle_timeout)
        interval, timeout = path._recommended()
        return cls(interval, timeout, proxies=path.proxies, idle_timeout=idle_timeout)

    @classmethod
    @called("Heartbeat.for_idle_timeout")
    def for_idle_timeout(cls, seconds: float) -> Self:
        """Choose a heartbeat for a path on which a connection is cut after so many seconds without a byte.

        Raises:
            ConfigurationError: the limit is no number of seconds, or too small for any heartbeat.
        """
        check_idle_timeout(seconds)
        return cls.behind(idle_timeout=seconds)

    def findings(self, *, transports: Collection[str] = _TRANSPORTS) -> list[Finding]:
        """Check the heartbeat against the limits of the path.

        Args:
            transports: the transports that the server allows, ``"polling"`` and ``"websocket"``.

        Returns:
            What was found, by id: SG001, SG002, SG003, SG007 and SG009.

        Raises:
            ConfigurationError: `transports` is something else.
        """
        allowed = names(transports, "transports", example="['polling', 'websocket']")
        if not allowed or not set(allowed) <= set(_TRANSPORTS):
            raise ConfigurationError(
                "transports has to be a list with 'polling', 'websocket' or both.", option="transports"
            )
        return sorted(self._judge(allowed), key=lambda found: found.id)

    def server_ping_findings(self, *, ping_interval: float | None, ping_timeout: float | None) -> list[Finding]:
        """Check uvicorn's own WebSocket pings against this heartbeat.

        uvicorn closes a WebSocket with 1011 when one of its pings has no pong in time. None, or an interval of 0,
        switches its pings off; a timeout of None switches only the closing off. A timeout of 0 does not: it closes
        every WebSocket at its first ping (measured with uvicorn 0.54).

        Args:
            ping_interval: uvicorn's ``ws_ping_interval``, in seconds.
            ping_timeout: uvicorn's ``ws_ping_timeout``, in seconds.

        Returns:
            SG008 when they end a connection that the heartbeat would keep. uvicorn's defaults, 20 and 20, go well with
            the default heartbeat.
        """
        if ping_interval is None or ping_interval <= 0 or ping_timeout is None:
            return []
        if ping_timeout <= 0:
            case = "zero"
        elif ping_timeout < self.timeout:
            case = "impatient"
        elif ping_interval + ping_timeout <= self.interval:
            case = "early"
        else:
            return []
        wait, total = number(ping_timeout), number(ping_interval + ping_timeout)
        return [finding("SG008", case, timeout=self.timeout, interval=self.interval, ping_timeout=wait, total=total)]

    def describe(self) -> dict[str, Any]:
        """The heartbeat as plain values for a log line, all durations in seconds."""
        idle, response, lifetime = self._smallest(_TRANSPORTS)
        return {
            "interval": self.interval,
            "timeout": self.timeout,
            "proxies": list(self.proxies),
            "idle_limit": idle and idle.seconds,
            "response_limit": response and response.seconds,
            "lifetime_limit": lifetime and lifetime.seconds,
            "detection_websocket": self.interval + self.timeout,
            "detection_polling": self.interval + 2 * self.timeout,
        }

    def explain(self) -> str:
        """Say in words what was chosen and why: the hops, their limits and sources, the rules, the detection times."""
        total = self.interval + self.timeout
        lines = [
            f"Heartbeat: a ping every {self.interval} s, and {self.timeout} s for its pong.",
            "",
            *describe_path(self.proxies, self.idle_timeout),
            "",
            *self._rules(),
            "",
            f"A client gives up a dead server {total} s after the last ping. The server gives up a dead client {total} "
            f"s after its last packet over WebSocket, and within {total + self.timeout} s over polling.",
            "",
            *self._uvicorn(),
        ]
        for found in self.findings():
            lines += ["", f"{found.id}: {found.text}", f"  Fix: {found.fix}"]
        return "\n".join(lines)

    def _rules(self) -> Iterable[str]:
        idle, response, lifetime = self._smallest(_TRANSPORTS)
        total = self.interval + self.timeout
        yield f"P, smallest idle limit: {where(idle)}"
        yield f"F, smallest limit of an answer over polling: {where(response)}"
        yield f"L, smallest lifetime of a connection: {where(lifetime)}"
        rules: list[tuple[str, bool]] = []
        if idle:
            limit = _seconds(idle)
            rules.append((f"interval {self.interval} < P {number(limit)}", self.interval < limit))
            limit -= _MARGIN
            rules.append((f"interval + timeout {total} <= P - {_MARGIN} = {number(limit)}", total <= limit))
        if response:
            limit = _seconds(response)
            rules.append((f"interval {self.interval} < F {number(limit)}", self.interval < limit))
            rules.append((f"interval + timeout {total} <= F {number(limit)}", total <= limit))
        for rule, holds in rules:
            yield f"  {rule}: {'holds' if holds else 'does not hold'}"
        if not self.proxies and self.idle_timeout is None:
            return
        interval, timeout = self._recommended()
        if (interval, timeout) == (self.interval, self.timeout):
            yield "These are the recommended values for this path."
        else:
            yield f"Recommended for this path: Heartbeat({interval}, {timeout})."
        if self._recommended(("websocket",)) != (interval, timeout):
            interval, timeout = self._recommended(("websocket",))
            yield f"With transports=['websocket'] it would be Heartbeat({interval}, {timeout})."

    def _uvicorn(self) -> Iterable[str]:
        every, wait = _UVICORN_PINGS
        yield (
            f"uvicorn sends WebSocket pings of its own, by default every {every} s with {wait} s for the pong. They "
            "are traffic for the proxies, over WebSocket only. The client's WebSocket library answers them, so they "
            "say nothing about the Socket.IO client. A peer that answers nothing is closed by uvicorn (1011) after "
            f"{every + wait} s and by the heartbeat after {self.interval + self.timeout} s; when uvicorn is first, the "
            'reason in the log is "transport close". ws_ping_interval=None leaves it to the heartbeat.'
        )
        for found in self.server_ping_findings(ping_interval=every, ping_timeout=wait):
            yield f"With these defaults, {found.id}: {found.text} Fix: {found.fix}"

    def _smallest(self, transports: tuple[str, ...]) -> tuple[Limit | None, Limit | None, Limit | None]:
        """P, F and L for these transports."""
        acting = [limit for limit in limits_on_path(self.proxies, self.idle_timeout) if limit.acts_on(transports)]
        polled = [limit for limit in acting if "polling" in transports and limit.polling]
        return (
            min((limit for limit in acting if limit.kind is LimitKind.IDLE), key=_seconds, default=None),
            min((limit for limit in polled if limit.kind in _RESPONSE_KINDS), key=_seconds, default=None),
            min((limit for limit in acting if limit.kind is LimitKind.LIFETIME), key=_seconds, default=None),
        )

    def _recommended(self, transports: tuple[str, ...] = _TRANSPORTS) -> tuple[int, int]:
        idle, response, _ = self._smallest(transports)
        return recommend(_seconds(idle), _seconds(response))

    def _judge(self, transports: tuple[str, ...]) -> Iterable[Finding]:
        idle, response, _ = self._smallest(transports)
        total = self.interval + self.timeout
        if idle and self.interval >= _seconds(idle):
            yield finding("SG001", interval=self.interval, limit=where(idle), fix=self._fix(idle, total + _MARGIN))
        elif idle and total > _seconds(idle) - _MARGIN:
            yield finding("SG007", total=total, margin=_MARGIN, limit=where(idle), fix=self._fix(idle, total + _MARGIN))
        if response and self.interval >= _seconds(response):
            yield finding("SG002", interval=self.interval, limit=where(response), fix=self._fix(response, total))
        elif response and total > _seconds(response):
            yield finding("SG002", "timeout", total=total, limit=where(response), fix=self._fix(response, total))
        for limit in limits_on_path(self.proxies, self.idle_timeout):
            if limit.kind is LimitKind.LIFETIME and limit.acts_on(transports):
                yield finding("SG003", limit=where(limit), setting=limit.setting, product=limit.product)
        for name in self.proxies:
            profile = PROFILES[name]
            if not profile.socketio:
                yield finding("SG009", "socketio", product=name, note=profile.note)
            elif not profile.polling and "polling" in transports:
                yield finding("SG009", product=name, note=profile.note)

    def _fix(self, limit: Limit, enough: float) -> str:
        interval, timeout = self._recommended()
        raised = "the limit" if limit.product == "configured" else f"{limit.setting} of {limit.product}"
        if (interval, timeout) == (self.interval, self.timeout):
            return f"Raise {raised} to {number(enough)} s or more."
        return f"Heartbeat({interval}, {timeout}), or raise {raised} to {number(enough)} s or more."


def findings_for_server(interval: Any, timeout: Any, grace: Any = 0) -> list[Finding]:
    """What is wrong with the raw values of a python-engineio server: SG004, SG005 and SG006.

    python-engineio accepts anything here. It announces ``int(interval + grace)`` seconds to the client, so a fraction
    is lost; the timeout is announced to the millisecond, so only one below a second is worth a finding.
    """
    faults = (
        _fault("ping_interval", interval),
        _fault("ping_timeout", timeout),
        _fault("the grace period of ping_interval", grace, zero=True),
    )
    findings = [fault for fault in faults if fault]
    if findings:
        return findings
    announced = interval + grace
    if announced != int(announced):
        told = f"{number(interval)} s" if not grace else f"{number(interval)} s with a grace of {number(grace)} s"
        findings.append(finding("SG004", "interval", told=told, announced=int(announced), whole=math.ceil(interval)))
    if timeout < 1:
        findings.append(finding("SG004", "timeout", timeout=number(timeout)))
    return findings


def _fault(name: str, value: object, *, zero: bool = False) -> Finding | None:
    """What makes a value no number of seconds at all; fractions are judged elsewhere."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return finding("SG004", name=name, value=f"a {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        return finding("SG004", name=name, value=value)
    if value < 0 or (value == 0 and not zero):
        return finding("SG005", name=name, value="negative" if value else "zero")
    if value > 86_400_000:
        return finding("SG006", "day", name=name)
    if value >= 1000:
        return finding("SG006", name=name, value=number(value), seconds=max(1, round(value / 1000)))
    return None


def _check_seconds(option: str, value: object) -> None:
    fault = _fault(option, value)
    if fault:
        raise ConfigurationError(f"{fault.text} {fault.fix}", option=option)
    if isinstance(value, float):
        raise ConfigurationError(
            f"{option} is {value!r}; write whole seconds as an int, such as {max(1, round(value))}: python-engineio "
            "cuts fractions off when it announces the interval, and clients then give up at the wrong time.",
            option=option,
        )


def recommend(idle: float, response: float) -> tuple[int, int]:
    """Interval and timeout for the smallest idle limit P and limit of answers F, in seconds or infinite.

    interval = min(25, P/2, F/2), interval + timeout within P - 5 and F, timeout at most 20 and at least 5. The shorter
    the limit, the lower the ceilings, so that the figures stay those that are usual for 30 s (10/10) and 15 s (7/5).
    Below 15 s a margin of 5 s would eat the heartbeat up: there it is a third of the limit.
    """
    smallest = min(idle, response)
    longest_interval, longest_timeout = (25, 20) if smallest > 30 else (10, 10) if smallest >= 20 else (10, 5)
    budget = min(idle - min(_MARGIN, idle / 3), response)
    interval = math.floor(min(longest_interval, smallest / 2))
    timeout = math.floor(min(longest_timeout, budget - interval))
    if timeout < 5:
        # An impatient timeout loses live clients, a short interval only costs traffic: the interval gives way.
        timeout = min(5, math.ceil(math.floor(budget) / 2))
        interval = min(interval, math.floor(budget) - timeout)
    return interval, timeout


def _seconds(limit: Limit | None) -> float:
    return math.inf if limit is None or limit.seconds is None else limit.seconds
