"""Runs code that isn't ours: off the loop if it blocks, within a deadline, whatever it does with its cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

__all__ = [
    "GRACE",
    "LATE",
    "THREADS",
    "Escaped",
    "Overdue",
    "blocks",
    "call",
    "cause_of",
    "is_ours",
    "quick",
    "run_until",
    "settled",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

GRACE = 1.0
"""Seconds that cancelled code has to finish before nobody waits for it any more."""

LATE = 1.0
"""Seconds that a timer may be late on a busy machine; more than that and the loop stood still."""

THREADS = 16
"""So many functions of the application that may block run at a time: as many connections a database has to bear."""

_DEEPEST = 8


def quick(function: _Function) -> _Function:
    """Mark an ordinary function of the application as one that never waits: it is called without a thread.

    Args:
        function: what a guard is given as an authenticator, ``identify``, ``authorize``, ``lookup`` or ``load_user``.
            It must ask no database and no network: everybody else waits meanwhile.

    Returns:
        The same function; of a builtin or a bound method one that calls it.
    """
    marked: Any = function
    try:
        marked.__socketguard_quick__ = True
    except AttributeError:

        def marked(*args: Any) -> Any:
            return function(*args)

        marked.__socketguard_quick__ = True
    return cast("_Function", marked)


def blocks(function: Any) -> bool:
    """Whether a function may hold up the loop: an ordinary one that is not marked as quick."""
    if getattr(function, "__socketguard_quick__", False) or inspect.iscoroutinefunction(function):
        return False
    call = getattr(function, "__call__", None)  # noqa: B004 - an object may have an asynchronous one
    return not (getattr(call, "__socketguard_quick__", False) or inspect.iscoroutinefunction(call))


def call(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the application returns, or something to await: one that blocks is called in a thread.

    There are at most `THREADS` of these in a process; further calls wait for one.
    """
    if not blocks(function):
        return function(*args)
    # In the context of the caller, so that current_connection() is known there too.
    run = contextvars.copy_context().run
    return asyncio.get_running_loop().run_in_executor(_threads(), run, _without_stop, function, args)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="socketguard")


def _without_stop(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except StopIteration as exc:  # which no future can hold
        raise RuntimeError("StopIteration") from exc


class Overdue(Exception):
    """The deadline passed; the task may still be running when it ignored its cancellation."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__("the deadline passed")
        self.task = task


class Escaped(Exception):
    """The code ended in something that is no Exception, such as a CancelledError that nobody here asked for (a task
    that it awaited was cancelled). Its cause is what it was."""


def cause_of(error: BaseException) -> BaseException:
    """What code that isn't ours has raised, also where it is no Exception."""
    return (error.__cause__ or error) if isinstance(error, Escaped) else error


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
    task.add_done_callback(retrieve)
    await asyncio.wait((task,), timeout=grace)


def retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of how a task has ended, so that asyncio reports it to nobody: whoever waited for it has been told."""
    if not task.cancelled():
        task.exception()
