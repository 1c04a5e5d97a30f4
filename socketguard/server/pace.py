"""Many pieces of work, so many in each turn of the loop as it bears."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

__all__ = ["Queue"]

_LONGEST_TURN = 0.005
"""Seconds: a turn of the loop that takes longer is followed by one with less to begin."""

_FIRST, _MOST = 1, 25

_DEPTH = 10
"""Turns of the loop until what was begun has shown what it costs: most pieces need some."""


class Queue:
    """Work that waits for its turn: each turn of the loop begins only as much as the last turns have borne.

    How dear a piece is depends on what it meets: python-socketio needs a time for each disconnect that grows with the
    number of clients, 0.2 ms at 1,000 of them and 2 ms at 10,000.
    """

    __slots__ = ("_batch", "_ended", "_held", "_idle", "_longest", "_tasks", "_turns", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Coroutine[Any, Any, None], asyncio.Future[None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._batch = _FIRST
        self._idle: asyncio.Future[None] | None = None
        self._ended = 0.0
        self._turns, self._longest, self._held = 0, 0.0, False

    def __len__(self) -> int:
        """How many pieces are not done."""
        return len(self.waiting) + len(self._tasks)

    def put(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Add a piece and return a future that is done when it is; what it raises goes to the loop's handler."""
        loop = asyncio.get_running_loop()
        if not self.waiting:
            self._batch = _FIRST
            self._ended = loop.time()
            self._turns, self._longest, self._held = 0, 0.0, False
        done = loop.create_future()
        self.waiting.append((work, done))
        return done

    def turn(self) -> None:
        """Begin what this turn of the loop may bear."""
        if not self.waiting:
            return
        loop = asyncio.get_running_loop()
        self._adapt(loop.time() - self._ended)
        for _ in range(min(self._batch, len(self.waiting))):
            work, done = self.waiting.popleft()
            task = loop.create_task(_run(work, done))
            self._tasks.add(task)
            task.add_done_callback(self._ended_one)
        self._ended = loop.time()

    async def settled(self, timeout: float) -> None:
        """Wait until everything that was put in so far is done, or for so many seconds."""
        if not len(self):
            return
        if self._idle is None:
            self._idle = asyncio.get_running_loop().create_future()
        # One future, not one for each piece: to wait for 10,000 takes a turn of 40 ms.
        await asyncio.wait((self._idle,), timeout=timeout)

    def _ended_one(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._idle is not None and not len(self):
            self._idle.set_result(None)
            self._idle = None

    def _adapt(self, turn: float) -> None:
        """Change the batch, and then not before what was begun with it has shown what it costs."""
        self._longest = max(self._longest, turn)
        self._turns += 1
        if self._turns < _DEPTH and (self._held or self._longest <= _LONGEST_TURN):
            return
        if self._longest > _LONGEST_TURN:
            self._batch = max(1, int(self._batch * _LONGEST_TURN / self._longest))
            self._held = True
        else:
            self._batch = min(_MOST, self._batch + 1)
            self._held = False
        self._turns, self._longest = 0, 0.0


async def _run(work: Coroutine[Any, Any, None], done: asyncio.Future[None]) -> None:
    try:
        await work
    except Exception as exc:
        context = {"message": "socketguard could not end a connection", "exception": exc}
        asyncio.get_running_loop().call_exception_handler(context)
    finally:
        done.set_result(None)
