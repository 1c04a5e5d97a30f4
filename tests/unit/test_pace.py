from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from socketguard.server import endings as pace
from socketguard.server.endings import Pace


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pieces were begun in each turn."""
    found: list[int] = []
    turn = Pace._turn

    def watched(self: Pace) -> None:
        before = len(self._waiting)
        turn(self)
        found.append(before - len(self._waiting))

    monkeypatch.setattr(Pace, "_turn", watched)
    return found


async def test_everything_is_run_in_order() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        done.append(number)

    paced = Pace()
    futures = [paced.begin(work(number)) for number in range(100)]
    assert len(paced) == 100
    await asyncio.wait(futures)
    assert done == list(range(100))
    await asyncio.sleep(0)
    assert len(paced) == 0


async def test_cheap_work_is_begun_in_larger_and_larger_batches(
    batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_TURN", 1e9)

    async def work() -> None:
        pass

    paced = Pace()
    for _ in range(5000):
        paced.begin(work())
    await paced.settled(60)
    assert len(paced) == 0
    assert batches[0] == pace._FIRST
    assert max(batches) == pace._MOST
    assert sum(batches) == 5000


def test_the_batch_follows_the_longest_turn() -> None:
    paced = Pace()
    short, long = pace._LONGEST_TURN / 2, pace._LONGEST_TURN * 4
    for _ in range(8 * pace._DEPTH):
        paced._adapt(short)
    assert paced._batch == pace._FIRST + 8
    paced._adapt(long)
    assert paced._batch == (pace._FIRST + 8) // 4, "at once"
    for _ in range(pace._DEPTH - 1):
        paced._adapt(long)
    assert paced._batch == (pace._FIRST + 8) // 4, "what was begun before still costs its time"
    paced._adapt(long)
    assert paced._batch == 1
    for _ in range(pace._DEPTH):
        paced._adapt(short)
    assert paced._batch == 2


async def test_dear_work_is_begun_piece_by_piece(batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_LONGEST_TURN", -1.0)

    async def work() -> None:
        pass

    paced = Pace()
    await asyncio.wait([paced.begin(work()) for _ in range(20)])
    assert batches == [1] * 20


async def test_what_fails_is_reported_and_holds_nothing_up() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    async def fail() -> None:
        raise ValueError("no")

    async def work() -> None:
        pass

    paced = Pace()
    await asyncio.wait([paced.begin(fail()), paced.begin(work())])
    assert [type(context["exception"]) for context in reported] == [ValueError]


async def test_work_that_is_cancelled_counts_as_done() -> None:
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    paced = Pace()
    done = paced.begin(work())
    await started.wait()
    for task in tuple(paced._tasks):
        task.cancel()
    await done
    await asyncio.sleep(0)
    assert len(paced) == 0


async def test_nobody_waits_for_ever() -> None:
    paced = Pace()
    await paced.settled(60)  # nothing to wait for
    hanging = asyncio.Event()

    async def work() -> None:
        await hanging.wait()

    done = paced.begin(work())
    await paced.settled(0.001)
    await asyncio.sleep(0)
    await paced.settled(0.001)
    assert len(paced) == 1
    done.cancel()  # whoever waited has gone
    hanging.set()
    await paced.settled(60)
    await asyncio.sleep(0)
    assert len(paced) == 0


async def test_work_belongs_to_no_client() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")
    seen: list[str] = []

    async def work() -> None:
        seen.append(variable.get())

    variable.set("somebody")
    await Pace().begin(work())
    assert seen == ["nobody"]
