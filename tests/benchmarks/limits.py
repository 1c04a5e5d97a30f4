"""What limits and revocations cost honest clients, and what is left of a flood once its address is over its budget."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

from socketguard import MemoryStore
from socketguard.limits.revocation import Revocation
from socketguard.server.endpoint import ON_PROBATION
from tests.scripted import UNLIMITED

from . import apps
from .clients import Attempt, WebSocket, address
from .measure import Batch, compare, no_collector
from .ratios import WARM_UP, connects, ratio_row
from .table import Row

FLOODER = address(0)
# More than the 30 failures a minute that are borne, and than the lines that are written of a refusal.
FAILURES = 48
REVOKED = 1000
REPEATS = 10


def _limited(lines: apps.Lines) -> Any:
    """With all limits, and a store that keeps revocations of others."""
    store = MemoryStore()
    for number in range(REVOKED):
        store.revoke(Revocation(apps.ISSUER, f"{number:016x}", None, None, time.time() + 3600))
    return apps.guarded(apps.HS256, lines, options={"store": store})


def _unlimited(lines: apps.Lines) -> Any:
    """Without limits, and without anybody who asks a store."""
    guard = apps.guarded(apps.HS256, lines, options={"limits": UNLIMITED})
    admission: Any = guard._parts.admission
    assert admission.revocations is not None
    admission.revocations = None
    return guard


def measure_limits(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """One row: a CONNECT with all limits and a look at the revocations, against one without."""
    lines = apps.Lines()
    frame, joined = apps.HS256.connect(), f'40{apps.NAMESPACE},{{"sid"'
    variants = {
        "limited": connects(lambda: _limited(lines), frame, joined, count, lines, 2),
        "unlimited": connects(lambda: _unlimited(lines), frame, joined, count, lines, 2),
    }
    found = compare(runner, variants, rounds)
    what = "CONNECT accepted, with default limits and revocations"
    return [ratio_row(what, "guarded without them", 1.05, found, "limited", "unlimited")]


async def _use_up(app: Any) -> None:
    """Be refused, each time with another token, until nothing more is looked at."""
    for number in range(FAILURES):
        await WebSocket([apps.HS256.connect(f"user-{number}", signature=False)], client=FLOODER).run(app)


async def _opened(app: Any, frames: list[str], count: int) -> Callable[[], Awaitable[list[WebSocket]]]:
    """Open so many sessions; what is returned lets them send their frames, and waits for their ends."""
    hold = asyncio.Event()
    clients = [WebSocket(frames, client=FLOODER, hold=hold) for _ in range(count)]
    tasks = [asyncio.ensure_future(client.run(app)) for client in clients]
    while app.status()["sessions"]["open"] < count:  # noqa: ASYNC110 - the application tells nobody
        await asyncio.sleep(0)

    async def go_on() -> list[WebSocket]:
        hold.set()
        await asyncio.gather(*tasks)
        return clients

    return go_on


def _attempts(lines: apps.Lines, count: int, *, polling: bool) -> Batch:
    """A batch of handshakes of an address that is over its budget."""

    async def batch() -> float:
        app = apps.guarded(apps.HS256, lines)
        await _use_up(app)
        close = await _opened(app, [apps.HS256.connect(signature=False)], ON_PROBATION)
        for _ in range(WARM_UP):
            await Attempt(FLOODER, polling=polling).run(app)
        lines.take()
        attempts = [Attempt(FLOODER, polling=polling) for _ in range(count)]
        with no_collector():
            began = time.process_time()
            for attempt in attempts:
                await attempt.run(app)
            seconds = time.process_time() - began
        expected = (["http.response.start", "http.response.body"], 429) if polling else (["websocket.close"], 0)
        for attempt in attempts:
            assert (attempt.answers, attempt.status) == expected, (attempt.answers, attempt.status)
        assert lines.take() == 0
        await close()
        app.detach()  # or it would write later how many lines it has held back
        return seconds / count

    return batch


def _within_sessions(lines: apps.Lines, count: int) -> Batch:
    """A batch of CONNECTs within sessions that were open before their address used up its budget.

    A session ends after `REPEATS` of them.
    """
    bad = apps.HS256.connect(signature=False)
    sessions = max(1, count // REPEATS)

    async def batch() -> float:
        app = apps.guarded(apps.HS256, lines)
        go_on = await _opened(app, [bad] * REPEATS, sessions)
        await _use_up(app)
        with no_collector():
            began = time.process_time()
            clients = await go_on()
            seconds = time.process_time() - began
        for client in clients:
            assert '"code":"rate_limited"' in client.answer, client.answer[:200]
        app.detach()
        return seconds / (sessions * REPEATS)

    return batch


def measure_floods(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """Rows for a flood of bad tokens from one address that is over its budget."""
    lines = apps.Lines()
    frame, joined = apps.HS256.connect(), f'40{apps.NAMESPACE},{{"sid"'
    variants = {
        "bare": connects(apps.bare, frame, joined, count, lines, 0),
        "WebSocket": _attempts(lines, count, polling=False),
        "polling": _attempts(lines, count, polling=True),
        "session": _within_sessions(lines, count),
    }
    found = compare(runner, variants, rounds)
    accepted = "unguarded CONNECT, accepted"
    rows = [
        ratio_row(f"bad tokens in a flood, over {transport}", accepted, 0.30, found, transport, "bare")
        for transport in ("WebSocket", "polling")
    ]
    within = found.of_minima("session", "bare")
    note = f"within a session that was open before, which ends after {REPEATS} of them, {within:.2f}"
    return [dataclasses.replace(row, note=f"{row.note}; {note}") for row in rows]
