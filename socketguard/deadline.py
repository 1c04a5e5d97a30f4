"""Runs code that isn't ours within a deadline, whatever it does with its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["GRACE", "Cancelled", "Overdue", "run_until"]

GRACE = 1.0
"""Seconds that cancelled code has to finish before nobody waits for it any more."""


class Overdue(Exception):
    """The deadline passed.

    Attributes:
        task: the task, which may still be running when it ignored its cancellation.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__("the deadline passed")
        self.task = task


class Cancelled(Exception):
    """The code ended in a cancellation that nobody here asked for (an awaited task of its own was cancelled)."""


async def run_until(coroutine: Coroutine[Any, Any, Any], deadline: float, *, grace: float = GRACE) -> Any:
    """Run ``coroutine`` in a task of its own and return what it returns.

    Args:
        coroutine: what to run.
        deadline: in seconds of the loop's clock.
        grace: seconds to wait for a cancelled task.

    Raises:
        Overdue: the deadline passed. What the coroutine returned or raised after that does not count.
        Cancelled: the coroutine ended in a CancelledError of its own.
        Exception: whatever the coroutine raised in time.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    try:
        await asyncio.wait((task,), timeout=max(0.0, deadline - loop.time()))
    except asyncio.CancelledError:
        await _abandon(task, grace)
        raise
    if not task.done():
        await _abandon(task, grace)
        raise Overdue(task)
    if task.cancelled():
        raise Cancelled
    return task.result()


async def _abandon(task: asyncio.Task[Any], grace: float) -> None:
    task.cancel()
    task.add_done_callback(_retrieve)
    await asyncio.wait((task,), timeout=grace)


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Whatever a task does after its deadline was reported already; asyncio must not report it as unretrieved.
    if not task.cancelled():
        task.exception()
