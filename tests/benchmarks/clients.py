"""Clients without a network: they call an ASGI application with scripted ``receive`` and ``send``.

They do as little as they can, so that what is measured is the application.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from tests.scripted import OPEN, scope

Message = MutableMapping[str, Any]
App = Callable[[dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[Any]]

_BROWSER = [
    (b"host", b"crm.example.com"),
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    ),
    (b"accept-language", b"en-GB,en;q=0.9"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"origin", b"http://crm.example.com"),
]
_UPGRADE = [
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
]


def address(number: int) -> str:
    """One of 16 million different client addresses."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _scope(client: str, kind: str, query: str, headers: list[tuple[bytes, bytes]], **more: Any) -> dict[str, Any]:
    # Made anew, as a server does that reads them from the wire.
    fresh = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers]
    return scope(kind, query, fresh, client=(client, 50000), server=("127.0.0.1", 8000), **more)


def websocket_scope(client: str) -> dict[str, Any]:
    """The scope of the WebSocket handshake of a client at this address."""
    return _scope(client, "websocket", "EIO=4&transport=websocket", _BROWSER + _UPGRADE)


class WebSocket:
    """A client that sends its frames in lockstep: each as soon as the one before was answered.

    The first frame follows the Engine.IO OPEN packet. After the last answer it disconnects, unless ``stay`` is set.
    """

    def __init__(
        self,
        frames: Sequence[str],
        *,
        client: str = "10.0.0.1",
        timed_from: int = 0,
        stay: bool = False,
        hold: asyncio.Event | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ):
        self.frames = frames
        self.answer = ""
        self.idle = asyncio.Event() if stay else None
        self._scope = websocket_scope(client)
        if headers:
            named = {name for name, _ in headers}
            self._scope["headers"] = [each for each in self._scope["headers"] if each[0] not in named] + list(headers)
        self._timed_from = timed_from
        self._hold = hold
        self._sent = -1
        self._answers = 0
        self._waiter: asyncio.Future[None] | None = None
        self._began = self._ended = 0.0

    @property
    def seconds(self) -> float:
        """CPU time of the process from the frame ``timed_from`` to the last answer."""
        return self._ended - self._began

    async def run(self, app: App) -> None:
        """The whole connection."""
        await app(self._scope, self.receive, self.send)

    def leave(self) -> None:
        """Disconnect."""
        self.idle = None
        self._wake()

    async def receive(self) -> Message:
        if self._sent < 0:
            self._sent = 0
            return {"type": "websocket.connect"}
        if self._answers <= self._sent:
            await self._wait()
        if self._sent == len(self.frames):
            self._ended = time.process_time()
            if self.idle is not None:
                self.idle.set()
                await self._wait()
            return {"type": "websocket.disconnect", "code": 1005}
        if self._hold is not None:
            await self._hold.wait()
        frame = self.frames[self._sent]
        if self._sent == self._timed_from:
            self._began = time.process_time()
        self._sent += 1
        return {"type": "websocket.receive", "text": frame}

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.answer = message["text"]
            self._answers += 1
            self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Polled:
    """A client that polls, one request after the other."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._query = OPEN
        self._body = self._answer = b""

    async def open(self, connect: bytes) -> None:
        """Make a session and join."""
        opened = await self.request("GET")
        self._query = f"{OPEN}&sid={json.loads(opened[1:])['sid']}"
        await self.request("POST", connect)
        answer = await self.request("GET")
        assert answer.startswith(b"40"), answer[:100]

    async def request(self, method: str, body: bytes = b"") -> bytes:
        """One request; returns the body of the answer."""
        self._body, self._answer = body, b""
        length = [(b"content-length", str(len(body)).encode())] if body else []
        await self._app(
            _scope("10.0.0.1", "http", self._query, _BROWSER + length, method=method), self._receive, self._send
        )
        return self._answer

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self._answer += message.get("body", b"")


class Attempt:
    """A handshake that is refused."""

    def __init__(self, client: str, *, polling: bool) -> None:
        if polling:
            self._scope = _scope(client, "http", OPEN, _BROWSER, method="GET")
            self._first: Message = {"type": "http.request", "body": b"", "more_body": False}
        else:
            self._scope = websocket_scope(client)
            self._first = {"type": "websocket.connect"}
        self.answers: list[str] = []
        self.status = 0

    async def run(self, app: App) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        return self._first

    async def _send(self, message: Message) -> None:
        self.answers.append(message["type"])
        self.status = message.get("status", self.status)


class Turns:
    """Watches the turns of the loop: how much CPU time the longest took, and all together.

    `blocked` is the longest turn by the wall clock: a call that waits takes no CPU time.
    """

    def __init__(self) -> None:
        self.seconds = self.longest = self.blocked = 0.0
        self._began = self._last = self._last_seen = 0.0
        self._running = False
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        self._running = True
        self._loop.call_soon(self._turn)
        self._began = self._last = time.process_time()
        self._last_seen = time.perf_counter()

    async def stop(self) -> None:
        """After what is still queued: the answer, the end of the session."""
        for _ in range(5):
            await asyncio.sleep(0)
        self._note()
        self._running = False
        self.seconds = self._last - self._began

    def _turn(self) -> None:
        self._note()
        if self._running:
            self._loop.call_soon(self._turn)

    def _note(self) -> None:
        now, seen = time.process_time(), time.perf_counter()
        if self._running:
            self.longest = max(self.longest, now - self._last)
            self.blocked = max(self.blocked, seen - self._last_seen)
            self._last, self._last_seen = now, seen


class Stall:
    """A stranger with one frame over a WebSocket; `seconds` is the CPU time until nothing is left to do.

    `longest` is that of the longest turn of the loop.
    """

    def __init__(self, frame: str | bytes, client: str) -> None:
        self._message = {"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame}
        self._scope = WebSocket((), client=client)._scope
        self._stage = 0
        self._opened = asyncio.Event()
        self._quiet = asyncio.Event()
        self._bye = asyncio.Event()
        self._turns = Turns()
        self.seconds = self.longest = 0.0

    async def run(self, app: App) -> None:
        task = asyncio.ensure_future(app(self._scope, self._receive, self._send))
        task.add_done_callback(lambda _: self._quiet.set())
        await self._quiet.wait()
        await self._turns.stop()
        self.seconds, self.longest = self._turns.seconds, self._turns.longest
        self._bye.set()
        await task

    async def _receive(self) -> Message:
        self._stage += 1
        if self._stage == 1:
            return {"type": "websocket.connect"}
        if self._stage == 2:
            await self._opened.wait()
            self._turns.start()
            return self._message
        self._quiet.set()
        await self._bye.wait()
        return {"type": "websocket.disconnect", "code": 1005}

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self._opened.set()


class Polling:
    """A stranger with one POST; `seconds` and `longest` as for `Stall`."""

    def __init__(self, body: bytes, client: str) -> None:
        self._body = body
        self._client = client
        self.seconds = self.longest = 0.0

    async def run(self, app: App) -> None:
        opened = await self._request(app, "GET", OPEN, b"", [])
        query = f"{OPEN}&sid={json.loads(opened[1:])['sid']}"
        headers = [(b"content-type", b"text/plain;charset=UTF-8"), (b"content-length", str(len(self._body)).encode())]
        turns = Turns()
        turns.start()
        await self._request(app, "POST", query, self._body, headers)
        await turns.stop()
        self.seconds, self.longest = turns.seconds, turns.longest

    async def _request(
        self, app: App, method: str, query: str, body: bytes, headers: list[tuple[bytes, bytes]]
    ) -> bytes:
        answer = bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            answer.extend(message.get("body", b""))

        await app(_scope(self._client, "http", query, _BROWSER + headers, method=method), receive, send)
        return bytes(answer)
