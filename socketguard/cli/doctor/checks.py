"""The checks in their order, and how they are run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import probes, visits
from .examination import Examination, Line, describe
from .looks import look
from .network import Network, Pace
from .observations import Answer, Crash, Failure, Observations, Reply
from .page import endpoint, read_page
from .render import Reporter
from .target import Target, same_origin_url
from .wire import Meaning, meaning

__all__ = ["CHECKS", "Check", "Options", "examine"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        title: for people.
        symptoms: what it can find.
        needs: the checks that come before it.
        on_request: whether it runs only when it is named.
    """

    title: str
    symptoms: tuple[str, ...]
    needs: tuple[str, ...] = ()
    on_request: bool = False


_OPENING = ("dns", "tcp", "tls", "polling")

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "url": Check("URL", ("S-19", "S-36")),
        "token": Check("Token", ("S-34",)),
        "dns": Check("Name", ("S-02",)),
        "tcp": Check("Port", ("S-01", "S-02"), ("dns",)),
        "tls": Check("TLS", ("S-02", "S-30", "S-35"), ("dns", "tcp")),
        "page": Check("Page", ("S-19", "S-33"), ("dns", "tcp", "tls")),
        "polling": Check(
            "Handshake over polling",
            (
                *("S-01", "S-03", "S-04", "S-08", "S-09", "S-10", "S-11", "S-16", "S-17", "S-18"),
                *("S-22", "S-23", "S-27", "S-28", "S-30", "S-37", "S-38"),
            ),
            ("dns", "tcp", "tls"),
        ),
        "preflight": Check("Preflight of CORS", ("S-22",), _OPENING),
        "websocket": Check("Handshake over WebSocket", ("S-05", "S-06", "S-07", "S-08", "S-09", "S-28"), _OPENING),
        "sticky": Check("Requests of one session", ("S-12", "S-13", "S-21"), _OPENING),
        "namespace": Check("Namespaces", ("S-25", "S-26", "S-34"), (*_OPENING, "websocket")),
        "upgrade": Check("Upgrade from polling", ("S-05", "S-12"), (*_OPENING, "websocket")),
        "heartbeat": Check("Heartbeat", ("S-14",), (*_OPENING, "websocket")),
        "idle": Check("Quiet connections", ("S-14", "S-15", "S-24"), (*_OPENING, "websocket", "namespace")),
        "body": Check("Large request", ("S-20",), _OPENING, on_request=True),
    }
)
"""By id, in the order in which they run."""


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


async def examine(options: Options, reporter: Reporter, secrets: set[str], *, pace: Pace | None = None) -> Observations:
    """Run the chosen checks in their order.

    Args:
        options: what to examine.
        reporter: hears of each check.
        secrets: gets what no output may show.
        pace: keeps requests apart.

    Returns:
        What was seen. A check that fails by itself is among the observations, and the others still run.
    """
    seen = Observations(options.target, options.origin or options.target.origin, options.origin is not None)
    network = Network(options.target, timeout=options.timeout, pace=pace or Pace())
    if options.token is not None:
        secrets.add(options.token)
    examination = Examination(network, seen, options.namespaces, options.token, options.idle, secrets)
    steps: dict[str, Callable[[], Awaitable[Line]]] = {
        "url": lambda: _url(options),
        "token": lambda: _token(options.token or "", seen),
        "dns": lambda: probes.dns(examination),
        "tcp": lambda: probes.tcp(examination),
        "tls": lambda: probes.tls(examination),
        "page": lambda: _page(options.page or "", examination),
        "polling": lambda: probes.polling(examination),
        "preflight": lambda: probes.preflight(examination),
        "websocket": lambda: probes.websocket(examination),
        "sticky": lambda: probes.sticky(examination),
        "namespace": lambda: visits.namespaces(examination),
        "upgrade": lambda: visits.upgrade(examination),
        "heartbeat": lambda: visits.heartbeat(examination),
        "idle": lambda: visits.held(examination),
        "body": lambda: visits.body(examination),
    }
    for name, check in CHECKS.items():
        if name not in options.checks or _left_out(name, options):
            continue
        if _hopeless(name, seen):
            break
        reporter.begin(check.title)
        try:
            line = await steps[name]()
        except Exception as problem:
            seen.crashes.append(Crash(name, f"{type(problem).__name__}: {problem}"))
            line = Line("bad", f"the check failed: {type(problem).__name__}")
        reporter.end(line)
    try:
        await examination.leave()
    except Exception as problem:
        seen.crashes.append(Crash("end", f"{type(problem).__name__}: {problem}"))
    return seen


def _left_out(name: str, options: Options) -> bool:
    wanted = {"token": options.token, "page": options.page, "idle": options.idle}
    return name in wanted and wanted[name] is None


def _hopeless(name: str, seen: Observations) -> bool:
    """Whether the checks from here on would only repeat what was seen."""
    if seen.network is not None or isinstance(seen.tls, Failure):
        return True
    opened = Meaning.OPEN in (meaning(seen.polling), meaning(seen.websocket), meaning(seen.websocket_origin))
    return name in ("sticky", "namespace", "upgrade", "heartbeat", "idle", "body") and not opened


async def _url(options: Options) -> Line:
    notes = options.target.notes
    return Line("note", notes[0], notes[1:]) if notes else Line("good", options.target.shown)


async def _token(token: str, seen: Observations) -> Line:
    seen.token, seen.token_problem = look(token, time.time())
    return Line("bad" if seen.token_problem else "good", seen.token)


async def _page(url: str, examination: Examination) -> Line:
    network, target = examination.network, examination.seen.target

    async def get(url: str, limit: int) -> Reply:
        return await network.request(url, limit=limit)

    examination.seen.page = page = await read_page(url, target, get)
    if not isinstance(page.reply, Answer) or page.reply.status != 200:
        return Line("bad", describe(page.reply))
    baked = [item for item in page.baked if same_origin_url(item.url, target.origin)]
    if not examination.namespaces:
        examination.namespaces = [
            item.namespace for item in baked if item.namespace != "/" and endpoint(item).path == target.path
        ]
    details = tuple(f"{item.source}: {item.url}" for item in page.baked)
    text = f"{page.scripts} scripts read, {page.left_out} left out; {len(page.baked)} addresses found"
    return Line("good" if len(baked) == len(page.baked) else "bad", text, details)
