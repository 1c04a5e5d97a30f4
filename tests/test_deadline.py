from __future__ import annotations

import asyncio
import gc
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest

from socketguard.deadline import LATE, Escaped, Overdue, is_ours, run_until, settled


def soon() -> float:
    return asyncio.get_running_loop().time() + 0.01


def later() -> float:
    return asyncio.get_running_loop().time() + 60


class Odd(BaseException):
    """What is no Exception."""


async def test_what_ends_in_time_counts() -> None:
    async def quick() -> str:
        await asyncio.sleep(0)
        return "result"

    assert await run_until(quick(), later()) == "result"


async def test_what_awaits_for_ever_is_left_alone_after_some_steps() -> None:
    async def endless() -> Any:
        return endless()

    rest = await settled(endless())
    rest.close()
    assert inspect.iscoroutine(rest)


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, RecursionError])
async def test_what_raises_in_time_raises(kind: type[Exception]) -> None:
    async def raising() -> None:
        raise kind("own")

    with pytest.raises(kind, match="own"):
        await run_until(raising(), later())


@pytest.mark.parametrize("kind", [Odd, asyncio.CancelledError, GeneratorExit])
async def test_what_is_no_exception_becomes_one(kind: type[BaseException]) -> None:
    async def raising() -> None:
        raise kind

    with pytest.raises(Escaped) as escaped:
        await run_until(raising(), later())
    assert type(escaped.value.__cause__) is kind


@pytest.mark.parametrize("result", ["returns", "raises", "stays cancelled"])
@pytest.mark.parametrize("deadline", [soon, lambda: 0.0], ids=["soon", "passed"])
async def test_what_is_late_does_not_count(result: str, deadline: Callable[[], float]) -> None:
    turns = []

    async def late() -> bool:
        turns.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if result == "raises":
                raise ValueError from None
            if result == "stays cancelled":
                raise
        return True

    with pytest.raises(Overdue) as overdue:
        await run_until(late(), deadline())
    assert overdue.value.task.done()
    assert turns, "a deadline in the past still gives one turn"


async def test_code_that_ignores_its_cancellation_is_left_alone() -> None:
    release = asyncio.Event()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("nobody waits for this any more")

    with pytest.raises(Overdue) as overdue:
        await run_until(stubborn(), soon(), grace=0.01)
    task = overdue.value.task
    assert not task.done()
    release.set()
    await asyncio.wait((task,))
    del overdue, task
    gc.collect()
    assert complaints == []


async def test_who_is_cancelled_while_waiting_takes_the_code_along() -> None:
    ended = []

    async def hanging() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    waiting = asyncio.ensure_future(run_until(hanging(), later()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


def test_what_ends_the_process_is_not_ours() -> None:
    assert is_ours(ValueError())
    assert is_ours(Odd())
    assert not is_ours(KeyboardInterrupt())
    assert not is_ours(SystemExit())


async def test_a_cancellation_is_ours_unless_somebody_cancels_this_task() -> None:
    assert is_ours(asyncio.CancelledError())

    async def cancelled() -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            return is_ours(exc)
        raise AssertionError

    task = asyncio.ensure_future(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    assert await task is False


def test_what_ends_the_process_goes_through() -> None:
    async def ending() -> None:
        raise SystemExit(3)

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(run_until(ending(), loop.time() + 60))
    for _ in range(2):  # out of the task, and then out of whoever waits for it
        with pytest.raises(SystemExit):
            loop.run_until_complete(waiting)
    assert isinstance(waiting.exception(), SystemExit)
    loop.close()


async def test_what_had_no_chance_because_the_loop_stood_gets_its_time_again() -> None:
    async def soon() -> str:
        await asyncio.sleep(0.05)
        return "done"

    loop = asyncio.get_running_loop()
    loop.call_later(0.01, time.sleep, LATE + 0.2)
    assert await run_until(soon(), loop.time() + 0.04) == "done"
