"""What thousands of connections cost: a broadcast, a leave, all leaves at once, memory and heartbeats over uvicorn."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from . import apps
from .clients import Turns
from .crowd import Crowd
from .measure import Batch, compare, forget_tasks, no_collector
from .ratios import ratio_row
from .storm import Served, arrive
from .table import Row

BROADCASTS = 10
LEAVES = 50
TOGETHER = 500
"""So many leave in each turn of the loop, as a server reads them from its sockets."""


def _frames(count: int) -> list[str]:
    return [apps.HS256.connect(f"user-{number}") for number in range(count)]


# In process


def _broadcasts(build: Callable[[], tuple[Any, Any]], count: int) -> Batch:
    async def batch() -> float:
        app, server = build()
        crowd = Crowd(app)
        await crowd.open(_frames(count))
        with no_collector():
            began = time.process_time()
            for number in range(1, BROADCASTS + 1):
                await server.emit("news", "twenty bytes of text", namespace=apps.NAMESPACE)
                await crowd.until("told", number * count)
            seconds = time.process_time() - began
        await crowd.leave()
        await crowd.gone()
        await forget_tasks()
        return seconds / (BROADCASTS * count)

    return batch


async def _leave(lines: apps.Lines, counts: tuple[int, int]) -> tuple[float, float]:
    """CPU seconds of one leave, with so many and with so many connected: the least of several alternating rounds."""
    crowds = []
    for count in counts:
        crowd = Crowd(apps.guarded(apps.HS256, lines))
        await crowd.open(_frames(count))
        crowds.append(crowd)
    best = [float("inf")] * 2
    rounds = max(1, min(counts) // 2 // LEAVES)
    for _ in range(rounds):
        for place, crowd in enumerate(crowds):
            with no_collector():
                began = time.process_time()
                await crowd.leave_singly(min(LEAVES, min(counts) // 2))
                best[place] = min(best[place], (time.process_time() - began) / min(LEAVES, min(counts) // 2))
    for crowd in crowds:
        await crowd.leave()
        await crowd.gone()
    return best[0], best[1]


async def _all_leave(lines: apps.Lines, count: int) -> tuple[float, float]:
    """CPU seconds in all and of the longest turn while everybody leaves."""
    crowd = Crowd(apps.guarded(apps.HS256, lines))
    await crowd.open(_frames(count))
    turns = Turns()
    with no_collector():
        turns.start()
        await crowd.leave(TOGETHER)
        await crowd.gone()
        await turns.stop()
    return turns.seconds, turns.longest


# Over sockets


def _served(name: str, frames: list[str], interval: float, seconds: float) -> Callable[[asyncio.Runner], Any]:
    """KiB of memory for each idle connection, and CPU seconds for the heartbeats of all in so long."""

    def run(runner: asyncio.Runner) -> tuple[float, float]:
        with Served(name, ping_interval=interval) as server:

            async def measure() -> tuple[float, float]:
                early = await arrive(server.port, frames[:20])
                before = server.memory()
                # They come from one address, which has at most half of the pending sessions at a time.
                clients = []
                for first in range(20, len(frames), 2000):
                    clients += await arrive(server.port, frames[first : first + 2000])
                grown = (server.memory() - before) / len(clients)
                began = server.cpu()
                await asyncio.sleep(seconds)
                used = server.cpu() - began
                for client in (*early, *clients):
                    client.close()
                return grown, used

            return runner.run(measure())

    return run


def measure_broadcasts(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """The row for a broadcast."""
    lines = apps.Lines()

    def bare() -> tuple[Any, Any]:
        app = apps.bare()
        return app, app.engineio_server

    def guarded() -> tuple[Any, Any]:
        guard = apps.guarded(apps.HS256, lines)
        return guard, guard.server

    variants = {"bare": _broadcasts(bare, count), "guarded": _broadcasts(guarded, count)}
    found = compare(runner, variants, rounds)
    what = f"broadcast to {count:,} connections, for each recipient"
    return [ratio_row(what, "unguarded", 0.30, found, "guarded", "bare")]


def measure_leaves(runner: asyncio.Runner, *, few: int, many: int) -> list[Row]:
    """Rows for clients that leave, one after the other and all at once."""
    lines = apps.Lines()
    with_many, with_few = runner.run(_leave(lines, (many, few)))
    total, longest = runner.run(_all_leave(lines, many))
    each = f"{with_many * 1e6:.0f} against {with_few * 1e6:.0f} µs"
    return [
        Row(f"one leave with {many:,} connected", f"with {few} connected", with_many / with_few, 1.5, "", each),
        Row(f"{many:,} that leave at once", "nothing", total, 5.0, "s", f"CPU time in all; {TOGETHER} in each turn"),
        Row(f"longest turn of the loop: {many:,} that leave at once", "nothing", longest * 1e3, 20.0, "ms", "CPU time"),
    ]


def measure_served(runner: asyncio.Runner, *, rounds: int, count: int, interval: float, seconds: float) -> list[Row]:
    """Rows for idle connections over uvicorn."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * count + 1000), hard))
    frames = _frames(count)
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "guarded": []}
    for _ in range(rounds):
        for name, samples in found.items():
            samples.append(_served(name, frames, interval, seconds)(runner))
    memory = {name: statistics.median(sample[0] for sample in samples) / 1024 for name, samples in found.items()}
    cpu = {name: min(sample[1] for sample in samples) for name, samples in found.items()}
    who = f"{count:,} connections over uvicorn"
    return [
        Row(
            "memory of an idle connection, over uvicorn",
            "unguarded",
            memory["guarded"] / memory["bare"],
            0.95,
            "",
            f"{memory['guarded']:.1f} against {memory['bare']:.1f} KiB resident, {who}",
            (memory["guarded"], memory["bare"]),
        ),
        Row(
            "heartbeats of idle connections",
            "unguarded",
            cpu["guarded"] / max(cpu["bare"], 1 / os.sysconf("SC_CLK_TCK")),
            0.50,
            "",
            f"{cpu['guarded']:.2f} against {cpu['bare']:.2f} s of CPU time in {seconds:g} s, "
            f"a ping each {interval:g} s; {who}",
            tuple(cpu[name] * interval / seconds / count for name in ("guarded", "bare")),
        ),
    ]
