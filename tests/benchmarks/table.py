"""The table, and the page that is made of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

_PACKAGES = [
    "python-socketio",
    "python-engineio",
    "PyJWT",
    "cryptography",
    "structlog",
    "orjson",
    "starlette",
    "msgpack",
    "uvloop",
]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    against: str
    figure: float
    limit: float
    unit: str
    note: str
    pair: tuple[float, float] | None = None
    """What one costs with the guard and in the other case: seconds, or KiB."""

    @property
    def verdict(self) -> str:
        return "pass" if self.figure <= self.limit else "over"

    def cells(self) -> tuple[str, str, str, str, str]:
        unit = f" {self.unit}" if self.unit else ""
        return self.what, self.against, f"{self.figure:.2f}{unit}", f"{self.limit:.2f}", self.verdict


_HEAD = ("what", "against", "measured", "limit", "")


def text(rows: Sequence[Row]) -> str:
    """For a terminal."""
    cells = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    notes = [f"{row.what}: {row.note}" for row in rows]
    return "\n".join([*lines, "", *notes])


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| What | Against | Measured | At most | |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines)


CLIENTS = 5000
"""For how many clients the page says what a figure means."""


def _core(of: str) -> Callable[[float], str]:
    return lambda seconds: f"{seconds * CLIENTS:.1%} of a core {of}"


def _all(of: str) -> Callable[[float], str]:
    return lambda seconds: f"{seconds * CLIENTS * 1e3:,.0f} ms of CPU time {of}"


def _pings(seconds: float) -> str:
    return f"{seconds * CLIENTS / 25:.1%} of a core, at the default interval of 25 s"


# The rows of the table that a user looks for: what it is called there, what it is, and what it means.
_FIRST: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("event with ack, 20 bytes", "a message, acknowledged", _core("where each client sends one a second")),
    ("event with ack, over polling", "the same over polling: a POST and a GET", _core("where each sends one a second")),
    ("CONNECT accepted, HS256", "a client that joins, HS256, with its log lines", _all("for all of them")),
    ("CONNECT accepted, RS256", "the same, RS256", _all("for all of them")),
    ("CONNECT refused, unknown namespace", "a client that asks for a wrong namespace", _all("for all of them")),
    ("CONNECT refused, bad signature", "a client with a bad token", _all("for all of them")),
    ("broadcast to 1,000 connections, for each recipient", "a broadcast, for each who gets it", _all("for one to all")),
    (
        "reconnect storm, over uvicorn",
        "everybody comes back at once, over uvicorn",
        lambda seconds: f"all are back after {seconds * CLIENTS:.1f} s",
    ),
    (
        "memory of an idle connection, over uvicorn",
        "memory of an idle connection, over uvicorn",
        lambda size: f"{size * CLIENTS / 1024:,.0f} MiB",
    ),
    ("heartbeats of idle connections", "the heartbeats of idle connections, over uvicorn", _pings),
)


def _first(rows: Sequence[Row]) -> str:
    """The rows that a user looks for."""
    found = {row.what: row for row in rows}
    lines = [
        f"| What | Costs, against without | For {CLIENTS:,} clients | Instead of |",
        "|---|---|---|---|",
    ]
    for name, what, means in _FIRST:
        row = found.get(name)
        if row is not None and row.pair is not None:
            own, other = row.pair
            against = " (a hand-written handler)" if "hand-written" in row.against else ""
            lines.append(f"| {what} | {row.figure:.2f}{against} | {means(own)} | {means(other).partition(' of ')[0]} |")
    return "\n".join(lines)


def _capacity(rows: Sequence[Row]) -> str:
    found = {row.what: row.pair[0] for row in rows if row.pair is not None}
    lines = []
    for name, what in (
        ("event with ack, 20 bytes", "messages with acknowledgement a second, without the ASGI server's share"),
        ("CONNECT accepted, RS256", "joins a second with an RS256 token, without the ASGI server's share"),
        ("reconnect storm, over uvicorn", "joins a second with an HS256 token, over uvicorn"),
    ):
        if name in found:
            lines.append(f"- {1 / found[name]:,.0f} {what}")
    if (size := found.get("memory of an idle connection, over uvicorn")) is not None:
        lines.append(f"- {1024 * 1024 / size:,.0f} idle connections in a GiB of memory, over uvicorn")
    return "\n".join(lines)


def page(rows: Sequence[Row], stalls: Sequence[tuple[str, float, float]], *, rounds: int) -> str:
    """docs/performance.md."""
    over = [row.what for row in rows if row.verdict == "over"]
    summary = f"Over its limit: {'; '.join(over)}." if over else "Every figure is within its limit."
    notes = "\n".join(f"- {row.what}: {row.note}." for row in rows)
    slowest = "\n".join(f"| {name} | {seconds * 1e6:.0f} | {turn * 1e6:.0f} |" for name, seconds, turn in stalls)
    versions = ", ".join(_version(package) for package in _PACKAGES)
    return f"""# Performance

What a service costs with the guard, against the same service without it (1.00 would be the same). Below 1.00 the guard
saves more than it takes: it carries the WebSockets of python-engineio itself.

{_first(rows)}

What one core can do, measured as said at the end:

{_capacity(rows)}

## All figures

`python -m tests.benchmarks` measures everything in one run and writes this page.

{_markdown(rows)}

{summary}

## In detail

{notes}

## What one frame of a stranger costs

CPU time of one frame or body of a session that has joined no namespace, until nothing is left to do, and
of the longest turn of the event loop among it: for so long nobody else is served. Larger frames and bodies than 16,384
characters are refused unread.

| Frame or body | µs | longest turn of the loop, µs |
|---|---|---|
{slowest}

## How it was measured

- One process without a network: scripted clients call the ASGI application (`receive` and `send`), with the headers of
  a browser. A connection is handshake, OPEN, CONNECT, answer and disconnect, over WebSocket.
- Batches alternate between the variants (unguarded, hand-written, guarded, unguarded, …), each with a new application
  and a few connections to warm up, the garbage collector off within a batch, {rounds} rounds as a rule. Counted is the
  CPU time of the process. A ratio is that of the fastest rounds; where it is within 5 % of its limit, the median
  of the ratios of the rounds. "Halves" compares the odd with the even rounds.
- The hand-written handler calls `jwt.decode` (audience, `exp` and `sub` required), `save_session`, and writes one JSON
  line by stdlib logging. The guarded application writes two by structlog with orjson (joined and left), with all
  their fields.
  Lines go to a file and are counted; each refusal comes from another address, so that none is held back.
- "Without limits and revocations" is the same guard with every limit set to None and without a store; with them, a
  `MemoryStore` keeps 1,000 revocations of other tokens.
- A flood comes from one address that has used up `failures_per_address` and has as many sessions as may still try: each
  attempt is a handshake that is refused with 429 (over WebSocket: closed), and none writes a log line. It is compared
  with a whole unguarded connection.
- In a storm all clients come in the same moment, with default limits, from one address, each with a subject of its own.
  In process the CPU time counts; over uvicorn (a process of its own, on a core of its own where there are two) the time
  until the last client has its answer. The guarded application writes a log line for each, the unguarded none.
- Memory is what `tracemalloc` counts after a garbage collection; each connection has a token of its own. "Without
  timers and limits" is a guard with `expiry="ignore"`, no `connect_timeout`, and every limit set to None.
- The longest turn of the loop is measured with all connections in one namespace of one process, with the garbage
  collector off: to look at 10,000 connections takes it longer than 20 ms, with or without a guard.
- In the soak, clients over WebSocket, polling and upgrades come and go by chance; a third expires, refreshes, is
  revoked or kicked, the last are drained. Then python-socketio, python-engineio and the guard are asked what they hold.
- For the cost of one frame, the least of several sessions counts, with the garbage collector on.

Measured with CPython {platform.python_version()}, {versions}; {os.cpu_count()} cores.
"""
