"""Runs code that isn't ours within a deadline, whatever it does with its cancellation."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable
from typing import Any

__all__ = ["GRACE", "LATE", "Escaped", "Overdue", "is_ours", "run_until", "settled"]

GRACE = 1.0
"""Seconds that cancelled code has to finish before nobody waits for it any more."""

LATE = 1.0
"""Seconds that a timer may be late on a busy machine; more than that and the loop stood still."""

_DEEPEST = 8


class Overdue(Exception):
    """The deadline passed; the task may still be running when it ignored its cancellation."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__("the deadline passed")
        self.task = task


class Escaped(Exception):
    """The code ended in something that is no Exception, such as a CancelledError that nobody here asked for (a task
    that it awaited was cancelled). Its cause is what it was."""


def is_ours(error: BaseException) -> bool:
    """Whether an exception out of code that isn't ours is to be handled here: all but what ends the process, and a
    cancellation of the running task by somebody else."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    return not isinstance(error, KeyboardInterrupt | SystemExit)


async def run_until(work: Awaitable[Any], deadline: float, *, grace: float = GRACE) -> Any:
    """What something returns in time (of the loop's clock), run in a task of its own; else `Overdue`, or `Escaped`."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(settled(work))
    # As asyncio.wait does it, for one task and at half of the cost.
    waiter = loop.create_future()
    task.add_done_callback(functools.partial(_wake, waiter))
    timer = _Alarm(loop, deadline, waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        await _abandon(task, grace)
        raise
    finally:
        timer.cancel()
    if not task.done():
        await _abandon(task, grace)
        raise Overdue(task)
    try:
        return task.result()
    except Exception:
        raise
    except BaseException as exc:
        if not is_ours(exc):
            raise
        raise Escaped(type(exc).__name__) from exc


async def settled(result: Any) -> Any:
    """What code that isn't ours has returned, awaited until it is no awaitable any more.

    Whether there is something to await can't be told before: a decorator without ``async``, an object with an
    asynchronous ``__call__`` and a function that hands on a task look synchronous.
    """
    # What goes on for ever without a pause would stop the loop.
    for _ in range(_DEEPEST):
        if not inspect.isawaitable(result):
            break
        result = await result
    return result


class _Alarm:
    """Wakes a waiter at a moment; where the loop has stood meanwhile, as long after it as it was ahead."""

    __slots__ = ("_due", "_loop", "_span", "_timer", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: float, waiter: asyncio.Future[None]) -> None:
        self._loop = loop
        self._span = max(deadline - loop.time(), 0.0)
        self._waiter = waiter
        self._set()

    def _set(self) -> None:
        # By a clock that nobody moves, as a test does with that of the loop.
        self._due = time.perf_counter() + self._span
        self._timer = self._loop.call_later(self._span, self._ring)

    def _ring(self) -> None:
        if time.perf_counter() - self._due > LATE:
            self._set()  # What is waited for had no chance either.
        else:
            _wake(self._waiter)

    def cancel(self) -> None:
        self._timer.cancel()


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _abandon(task: asyncio.Task[Any], grace: float) -> None:
    task.cancel()
    task.add_done_callback(_retrieve)
    await asyncio.wait((task,), timeout=grace)


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Whatever a task does after its deadline was reported already; asyncio must not report it as unretrieved.
    if not task.cancelled():
        task.exception()
