"""The checks in their order, and how they are run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from . import probes
from .network import Network
from .observations import Crash, Failure, Observations, opens
from .probes import Examination, Line
from .render import Terminal
from .target import Target

__all__ = ["CHECKS", "Check", "Options", "examine"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what is asked, what it can find, which checks come before it, and whether it must be named to run."""

    title: str
    ask: Callable[[Examination], Awaitable[Line]]
    symptoms: tuple[str, ...]
    needs: tuple[str, ...] = ()
    on_request: bool = False


_OPENING = ("dns", "tcp", "tls", "polling")
_OPEN = (*_OPENING, "websocket")

CHECKS: Mapping[str, Check] = {
    "url": Check("URL", probes.url, ("S-19", "S-36")),
    "token": Check("Token", probes.token, ("S-34",)),
    "dns": Check("Name", probes.dns, ("S-02",)),
    "tcp": Check("Port", probes.tcp, ("S-01", "S-02"), ("dns",)),
    "tls": Check("TLS", probes.tls, ("S-02", "S-30", "S-35"), ("dns", "tcp")),
    "page": Check("Page", probes.page, ("S-19", "S-33"), ("dns", "tcp", "tls")),
    "polling": Check(
        "Handshake over polling",
        probes.polling,
        (
            *("S-01", "S-03", "S-04", "S-08", "S-09", "S-10", "S-11", "S-16", "S-17", "S-18"),
            *("S-22", "S-23", "S-27", "S-28", "S-30", "S-37", "S-38", "S-39", "S-41", "S-42"),
        ),
        ("dns", "tcp", "tls"),
    ),
    "preflight": Check("Preflight of CORS", probes.preflight, ("S-22",), _OPENING),
    "websocket": Check(
        "Handshake over WebSocket",
        probes.websocket,
        ("S-05", "S-06", "S-07", "S-08", "S-09", "S-11", "S-28", "S-39", "S-40"),
        _OPENING,
    ),
    "sticky": Check("Requests of one session", probes.sticky, ("S-12", "S-13", "S-21", "S-39"), _OPENING),
    "namespace": Check("Namespaces", probes.namespaces, ("S-25", "S-26", "S-34"), _OPEN),
    "upgrade": Check("Upgrade from polling", probes.upgrade, ("S-05", "S-12"), _OPEN),
    "heartbeat": Check("Heartbeat", probes.heartbeat, ("S-14",), _OPEN),
    "idle": Check("Quiet connections", probes.held, ("S-14", "S-15", "S-24"), (*_OPEN, "namespace")),
    "body": Check("Large request", probes.body, ("S-20",), _OPENING, on_request=True),
}
"""By id, in the order in which they run."""

_IN_A_SESSION = ("sticky", "namespace", "upgrade", "heartbeat", "idle", "body")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    target: Target
    namespaces: tuple[str, ...]
    token: str | None
    origin: str | None
    idle: float | None
    page: str | None
    timeout: float
    checks: frozenset[str]


async def examine(options: Options, reporter: Terminal | None, secrets: set[str]) -> Observations:
    """Run the chosen checks in their order; ``secrets`` gets what no output may show.

    A check that fails by itself is among the observations, and the others still run.
    """
    seen = Observations(options.target, options.origin or options.target.origin, options.origin is not None)
    network = Network(options.target, timeout=options.timeout)
    if options.token is not None:
        secrets.add(options.token)
    examination = Examination(
        network, seen, options.namespaces, options.token, options.idle, options.page, secrets=secrets
    )
    wanted = {"token": options.token, "page": options.page, "idle": options.idle}
    for name, check in CHECKS.items():
        if name not in options.checks or wanted.get(name, "") is None:
            continue
        if _hopeless(name, examination):
            break
        if reporter is not None:
            reporter.begin(check.title)
        try:
            line = await check.ask(examination)
        except Exception as problem:
            seen.crashes.append(Crash(name, f"{type(problem).__name__}: {problem}"))
            line = Line("bad", f"the check failed: {type(problem).__name__}")
        if reporter is not None:
            reporter.end(line)
    try:
        await examination.leave()
    except Exception as problem:
        seen.crashes.append(Crash("end", f"{type(problem).__name__}: {problem}"))
    return seen


def _hopeless(name: str, examination: Examination) -> bool:
    """Whether the checks from here on would only repeat what was seen."""
    seen = examination.seen
    if seen.network is not None or isinstance(seen.tls, Failure):
        return True
    return name in _IN_A_SESSION and not examination.opened and not opens(seen.polling)
