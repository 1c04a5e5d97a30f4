"""What an idle connection keeps in memory, and how much of it is for its timer and the limits."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tracemalloc
from collections.abc import Callable
from typing import Any

from tests.scripted import UNLIMITED

from . import apps
from .clients import WebSocket, address
from .measure import forget_tasks
from .table import Row

LIMIT = 0.88
LIFE_LIMIT_KIB = 1.0


async def _bytes_per_connection(app: Any, count: int) -> float:
    # The first ones pay for what is made once: caches, the bound logger, compiled patterns.
    early = await _open(app, 0, 5)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        idle = await _open(app, 5, count)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for client, _ in (*early, *idle):
        assert client.answer.startswith(f'40{apps.NAMESPACE},{{"sid"'), client.answer[:100]
        client.leave()
    await asyncio.gather(*(task for _, task in (*early, *idle)))
    await forget_tasks()
    return (after - before) / count


async def _open(app: Any, start: int, count: int) -> list[tuple[WebSocket, asyncio.Task[None]]]:
    opened = []
    for number in range(start, start + count):
        # Each with a token of its own: what is kept of it is not shared.
        token = apps.HS256.token(f"user-{number}")
        client = WebSocket([f'40{apps.NAMESPACE},{{"token":"{token}"}}'], client=address(number), stay=True)
        task = asyncio.ensure_future(client.run(app))
        assert client.idle is not None
        await client.idle.wait()
        client.frames = [""]  # a real client's frame lives no longer than it is being handled
        opened.append((client, task))
    return opened


def _endless(lines: apps.Lines) -> Any:
    """A guard whose connections have no end, no deadline and no limit."""
    options = {"limits": UNLIMITED, "connect_timeout": None}
    return apps.guarded(apps.HS256, lines, auth=apps.new_auth(apps.HS256, expiry="ignore"), options=options)


def measure_memory(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """Rows: the guarded connection against the unguarded one, and against one that nothing ends or limits."""
    lines = apps.Lines()
    builders: dict[str, Callable[[], Any]] = {
        "bare": apps.bare,
        "guarded": lambda: apps.guarded(apps.HS256, lines),
        "endless": lambda: _endless(lines),
    }
    found: dict[str, list[float]] = {name: [] for name in builders}
    for _ in range(rounds):
        for name, build in builders.items():
            found[name].append(runner.run(_bytes_per_connection(build(), count)) / 1024)
    bare, guarded, endless = (statistics.median(found[name]) for name in builders)
    how = f"{count} connections, tracemalloc{f', medians of {rounds}' if rounds > 1 else ''}"
    return [
        Row(
            "memory of an idle connection",
            "unguarded",
            guarded / bare,
            LIMIT,
            "",
            f"{guarded:.1f} against {bare:.1f} KiB, {how}",
        ),
        Row(
            "memory for its timers and limits",
            "guarded without them",
            guarded - endless,
            LIFE_LIMIT_KIB,
            "KiB more",
            f"{guarded:.2f} against {endless:.2f} KiB, {how}",
        ),
    ]
