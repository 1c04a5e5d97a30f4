"""How it is measured: alternating batches, the garbage collector off within each, CPU time of the process.

Figures of one variant alone move with the machine by a quarter; ratios of batches that run side by side don't.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

NOISE = 0.05
"""Two runs agree within this. Where the limit is nearer to the figure than that, medians of paired rounds decide."""

Batch = Callable[[], Awaitable[float]]
"""Builds its application, does its work and returns the CPU seconds per operation."""


def new_runner() -> asyncio.Runner:
    """A runner of uvloop, or of asyncio where that is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@contextmanager
def no_collector() -> Iterator[None]:
    """Turn the garbage collector off, after it has done its work."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def forget_tasks() -> None:
    """Cancel what python-engineio leaves behind: a task per session that waits for its next ping."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=10)
        assert not stuck, stuck


@dataclass(frozen=True)
class Comparison:
    """What the rounds gave, in CPU seconds per operation."""

    samples: Mapping[str, list[float]]

    def best(self, name: str) -> float:
        """The fastest round of a variant."""
        return min(self.samples[name])

    def of_minima(self, name: str, against: str) -> float:
        return self.best(name) / self.best(against)

    def of_pairs(self, name: str, against: str) -> float:
        """The median of the ratios of the rounds."""
        return statistics.median(a / b for a, b in zip(self.samples[name], self.samples[against], strict=True))

    def spread(self, name: str, against: str) -> float:
        """By how much the figure of the odd rounds differs from that of the even ones, as a fraction."""
        halves = [
            min(self.samples[name][start::2] or [1.0]) / min(self.samples[against][start::2] or [1.0])
            for start in (0, 1)
        ]
        return abs(halves[0] / halves[1] - 1)

    def ratio(self, name: str, against: str, limit: float) -> tuple[float, str]:
        """The figure, and how it was taken."""
        figure = self.of_minima(name, against)
        if abs(figure / limit - 1) > NOISE:
            return figure, "minima"
        return self.of_pairs(name, against), "paired medians"


def compare(runner: asyncio.Runner, variants: Mapping[str, Batch], rounds: int) -> Comparison:
    """Run the variants in turn, so many rounds; each round begins with another one."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(runner.run(_one(variants[name])))
    return Comparison(samples)


async def _one(batch: Batch) -> float:
    try:
        return await batch()
    finally:
        await forget_tasks()
