"""Thousands of clients that join, stay, and do what a server asks of them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from . import apps
from .clients import App, Message, websocket_scope

PATIENCE = 120.0
"""Seconds after which something has not happened. Nothing is measured by it."""

_TOGETHER = 500
_EXPIRING = f'42{apps.NAMESPACE},["socketguard:expiring"'
_NEWS = f'42{apps.NAMESPACE},["news"'
_CLOSED = {"type": "websocket.disconnect", "code": 1005}


class Crowd:
    """Clients of one application."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.seen: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._members: list[_Member] = []
        self._goal: tuple[str, int] = ("", 0)
        self._reached = asyncio.Event()

    def arrive(self, connects: Iterable[str], address: str, refreshes: Iterable[str | None] | None = None) -> None:
        """Let clients come, all at once."""
        loop = asyncio.get_running_loop()
        answers = iter(refreshes or ())
        for connect in connects:
            member = _Member(self, websocket_scope(address), connect, next(answers, None))
            self._members.append(member)
            self._tasks.append(loop.create_task(member.run()))

    async def open(self, connects: list[str], refreshes: list[str] | None = None) -> None:
        """Let clients come a few hundreds at a time, each of those from another address, and wait until all joined."""
        for start in range(0, len(connects), _TOGETHER):
            stop = start + _TOGETHER
            self.arrive(connects[start:stop], f"10.1.{start // _TOGETHER}.1", (refreshes or [])[start:stop])
            await self.until("joined", min(stop, len(connects)))

    async def until(self, what: str, number: int) -> None:
        """Wait until so many have been seen."""
        self._goal = (what, number)
        self._reached.clear()
        if self.seen[what] < number:
            await asyncio.wait_for(self._reached.wait(), PATIENCE)

    async def leave(self, together: int | None = None) -> None:
        """Let all of them disconnect, so many in each turn of the loop."""
        for number, member in enumerate(self._members, 1):
            member.leave()
            if together and number % together == 0:
                await asyncio.sleep(0)

    async def leave_singly(self, number: int) -> None:
        """Let some disconnect one after the other, and wait until the application is done with each."""
        for _ in range(number):
            self._members.pop().leave()
            await self._tasks.pop()

    async def gone(self) -> None:
        """Wait until the application is done with all of them."""
        tasks, self._tasks = deque(self._tasks), []
        self._members.clear()
        async with asyncio.timeout(PATIENCE):
            while tasks:
                # One after the other: to wait for all of them, and to free them, takes a turn of its own.
                await tasks.popleft()
                await asyncio.sleep(0)

    def count(self, what: str) -> None:
        self.seen[what] += 1
        if (what, self.seen[what]) == self._goal:
            self._reached.set()


class _Member:
    __slots__ = ("_connect", "_crowd", "_inbox", "_refresh", "_scope", "_waiter")

    def __init__(self, crowd: Crowd, scope: dict[str, Any], connect: str, refresh: str | None) -> None:
        self._crowd = crowd
        self._scope = scope
        self._connect = connect
        self._refresh = refresh
        self._inbox: list[Message] = [{"type": "websocket.connect"}]
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> None:
        await self._crowd.app(self._scope, self._receive, self._send)

    def leave(self) -> None:
        self._put(_CLOSED)

    async def _receive(self) -> Message:
        if not self._inbox:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._inbox.pop(0)

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self._read(message["text"])
        elif kind == "websocket.close":
            self._crowd.count("closed")
            self._put(_CLOSED)
        elif kind == "websocket.http.response.start":
            self._crowd.count("refused")

    def _read(self, text: str) -> None:
        head = text[:2]
        if head == "0{":
            self._say(self._connect)
        elif head == "40":
            self._crowd.count("joined")
        elif head == "42":
            if self._refresh is not None and text.startswith(_EXPIRING):
                self._say(self._refresh)
            elif text.startswith(_NEWS):
                self._crowd.count("told")
        elif head == "43":
            self._crowd.count("refreshed" if '"ok":true' in text else "refused")
        elif head == "44":
            self._crowd.count("refused")
        elif head == "2":
            self._say("3")

    def _say(self, text: str) -> None:
        self._put({"type": "websocket.receive", "text": text})

    def _put(self, message: Message) -> None:
        self._inbox.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
