"""Begins many pieces of work at once, without the event loop standing still for any of them."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Coroutine
from typing import Any

__all__ = ["Pace"]

_LONGEST_TURN = 0.005
"""Seconds: a turn of the loop that takes longer is followed by one with less to begin."""

_FIRST, _MOST = 1, 25

_DEPTH = 10
"""Turns of the loop until what was begun has shown what it costs: most pieces need some."""


class Pace:
    """Runs coroutines in tasks, and begins only as many in one turn of the loop as the last turns have borne.

    How dear a piece is depends on what it meets: python-socketio needs a time for each disconnect that grows with the
    number of clients, 0.2 ms at 1,000 of them and 2 ms at 10,000. It belongs to one event loop.
    """

    __slots__ = ("_batch", "_ended", "_handle", "_held", "_idle", "_longest", "_tasks", "_turns", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Coroutine[Any, Any, None], asyncio.Future[None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handle: asyncio.Handle | None = None
        self._batch = _FIRST
        self._idle: asyncio.Future[None] | None = None
        self._ended = 0.0
        self._turns, self._longest, self._held = 0, 0.0, False

    def __len__(self) -> int:
        """How many pieces are not done."""
        return len(self._waiting) + len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run something soon, in its turn.

        Args:
            work: what to run. What it raises goes to the exception handler of the loop.

        Returns:
            A future that is done when the work is.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((work, done))
        if self._handle is None:
            self._batch = _FIRST
            self._ended = loop.time()
            self._turns, self._longest, self._held = 0, 0.0, False
            self._call(loop)
        return done

    async def settled(self, timeout: float) -> None:
        """Wait until everything that was begun so far is done, or for so many seconds."""
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

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        # An empty context: that of a handler would make its connection the current one.
        self._handle = loop.call_soon(self._turn, context=contextvars.Context())

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        self._adapt(loop.time() - self._ended)
        for _ in range(min(self._batch, len(self._waiting))):
            work, done = self._waiting.popleft()
            task = loop.create_task(_run(work, done))
            self._tasks.add(task)
            task.add_done_callback(self._ended_one)
        self._handle = None
        self._ended = loop.time()
        if self._waiting:
            self._call(loop)

    def _adapt(self, turn: float) -> None:
        """Change the batch, and then not before what was begun with it has shown what it costs."""
        self._longest = max(self._longest, turn)
        self._turns += 1
        if self._turns < _DEPTH and self._longest <= _LONGEST_TURN:
            return
        if self._turns < _DEPTH and self._held:
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
        if not done.done():
            done.set_result(None)
