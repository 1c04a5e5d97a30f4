"""One Engine.IO session: what waits for its client, what carries it, and its end.

It takes the place of python-engineio's own, so that its end is a state and no request to others: from the moment on
that it is `closing`, nothing is sent and nothing is taken; then whoever waits for something of it is released, the
application is told, and it is gone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from engineio import AsyncServer
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE
from starlette.types import Message, Receive, Send

from socketguard.connection import Session

from .engine import Engine
from .heartbeats import Heartbeats

__all__ = ["CLOSE_TIMEOUT", "MOST_PACKETS", "Ended", "Socket", "interruptible", "size_of"]

CLOSE_TIMEOUT = 5.0
"""Seconds that what is left to say, and the close frame, may take to a client that does not read."""

UPGRADE_PATIENCE = 2.0
"""Seconds that a client has to finish an upgrade that it has begun, when its session ends meanwhile: JavaScript's has
paused its polling by then, and would notice nothing."""

MOST_PACKETS = 10_000
"""So many packets may wait for a client, however small they are."""

BURST = 16
"""So many times ``queue_bytes`` are never held for one client; what is more is dropped, and its session ends."""

_REASONS = frozenset(
    value for name, value in vars(AsyncServer.reason).items() if name.isupper() and isinstance(value, str)
)
NORMAL = 1000  # a close code of WebSockets (RFC 6455, section 7.4.1)


def size_of(item: str | bytes) -> int:
    """What an encoded packet counts, in bytes (characters of text): without its type, so that a ping counts nothing."""
    return len(item) - (item.__class__ is str)


class Ended(Exception):
    """The session has ended while something of its client was waited for."""


class Socket(AsyncSocket):  # type: ignore[misc]
    """One session.

    Attributes:
        record: what is known of the client.
        waiting: encoded packets that wait for it.
        size: how much that is in bytes (characters of text), with what is being sent.
        sent: how much has left so far.
        watched: 1 while more waits than should, 2 once so much waits that packets are dropped and it is to end.
        polling, posting: whether a GET or a POST is being served.
        write, writer: how something is sent over its WebSocket, and the task that does it, once there was something.
        reader, poster: the tasks that wait for a frame or for a body of the client, as long as they do.
        upgrade: the deadline of an upgrade that is under way.
        leaving: what is done when the application has been told of the end, where somebody else tells it.
        broken: whether its WebSocket can't be written to any more.
    """

    __slots__ = (
        "_waiter",
        "beat",
        "broken",
        "closed",
        "closing",
        "code",
        "connected",
        "engine",
        "largest",
        "last_ping",
        "leaving",
        "polling",
        "poster",
        "posting",
        "reader",
        "record",
        "sent",
        "server",
        "session",
        "sid",
        "size",
        "upgrade",
        "upgraded",
        "upgrading",
        "waiting",
        "watched",
        "write",
        "writer",
    )

    def __init__(self, engine: Engine, record: Session) -> None:
        # Not python-engineio's own: it would make a queue that nobody uses.
        self.engine = engine
        self.server = engine.server.eio
        self.sid = record.eio_sid
        self.record = record
        self.session: dict[str, Any] = {}
        self.connected = True
        self.upgrading = self.upgraded = self.closing = self.closed = False
        self.last_ping = None
        self.beat: Any = None
        self.waiting: list[str | bytes] = []
        self.size = self.sent = self.largest = 0
        self.watched = 0
        self.polling = self.posting = self.broken = False
        self.upgrade: asyncio.Timeout | None = None
        self.reader: asyncio.Task[Any] | None = None
        self.poster: asyncio.Task[Any] | None = None
        self.write: Send | None = None
        self.writer: asyncio.Task[Any] | None = None
        self.code = NORMAL
        self.leaving: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What is sent

    def put(self, item: str | bytes) -> None:
        """Have an encoded packet sent; once the session has ended, nothing happens."""
        if self.closing:
            return
        size = size_of(item)
        self.size += size
        if self.full:
            self.largest = max(self.largest, size) if self.watched else size
            if not self.watched:
                self.watched = 1
                self.engine.overfull.append((self, time.monotonic(), self.sent))
            elif (
                self.size - self.largest > self.engine.queue_bytes * BURST or len(self.waiting) >= MOST_PACKETS * BURST
            ):
                self.size -= size
                if self.watched == 1:
                    self.watched = 2
                    self.engine.overfull.append((self, -math.inf, self.sent))
                return
        self._push(item)

    @property
    def full(self) -> bool:
        """Whether more waits than a client should have to read at any time."""
        return self.size > self.engine.queue_bytes or len(self.waiting) >= MOST_PACKETS

    @property
    def blocked(self) -> bool:
        """Whether that holds without the largest packet: alone, one may be as large as it likes."""
        return self.size - self.largest > self.engine.queue_bytes or len(self.waiting) >= MOST_PACKETS

    @property
    def pinged(self) -> bool:
        """Whether it has been sent a ping that it did not answer."""
        return self.beat is not None and self.beat.pinged

    def _push(self, item: str | bytes) -> None:
        self.waiting.append(item)
        if self.engine.observed:
            self.engine.note_out(self.sid, item)
        if self._waiter is not None:
            self.wake()
        elif self.write is not None and self.writer is None:
            self.writer = asyncio.get_running_loop().create_task(self._write_all(self.write))

    async def _write_all(self, send: Send) -> None:
        """Send over the WebSocket what waits, until the session has ended."""
        record = self.record
        try:
            while True:
                for item in self.take():
                    if item.__class__ is str:
                        await send({"type": "websocket.send", "text": item})
                    else:
                        await send({"type": "websocket.send", "bytes": item})
                    self.left(size_of(item))
                record.active = time.monotonic()
                if self.waiting:
                    continue
                if self.closing:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        except Exception:
            self.break_off()

    def carry(self, send: Send) -> None:
        """Send over this WebSocket from now on, first of all what waits."""
        self.write = send
        if self.waiting:
            self.writer = asyncio.get_running_loop().create_task(self._write_all(send))

    def put_last(self, items: Iterable[str | bytes]) -> None:
        """Say something after the end has begun."""
        for item in items:
            self.size += size_of(item)
            self._push(item)

    def take(self) -> list[str | bytes]:
        """Everything that waits; what has left is to be counted by `left`."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def left(self, size: int) -> None:
        """So much has been sent."""
        self.size -= size
        self.sent += size

    def drop(self) -> None:
        """Forget what waits for a client that does not read."""
        self.size -= sum(map(size_of, self.take()))

    async def wait(self) -> None:
        """Wait for the next poll's answer: until something is to be sent, or nothing ever will be over polling."""
        if self.closing or self.waiting:
            return
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def wake(self) -> None:
        """Release whoever waits for packets, with or without any."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def send(self, pkt: Any) -> None:
        """Send a packet of python-engineio."""
        data = pkt.data
        if pkt.packet_type != MESSAGE:
            self.put(pkt.encode())
        elif isinstance(data, str):
            self.put("4" + data)
        else:
            # Its cache holds whatever form it was encoded in first, and here it may be meant for two transports.
            self.put(bytes(data) if isinstance(data, bytes | bytearray) else pkt.encode())

    # Its end

    async def close(self, wait: bool = True, abort: bool = False, reason: Any = None) -> None:
        """End the session for the application: what ``eio.disconnect`` and ``shutdown`` call."""
        await self.end(reason or self.server.reason.SERVER_DISCONNECT, () if abort else ("1",))

    def begin_to_end(self, last: Iterable[str | bytes] = ()) -> bool:
        """Mute the session, say the last, and release whatever waits for its client. Returns False the second time."""
        if self.closing:
            return False
        self.closing = True
        self.put_last(last)
        self.wake()
        for task in (self.reader, self.poster):
            if task is not None:
                task.cancel()
        if self.record.room is not None and not self.record.room.done():
            self.record.room.set_result(None)
        if self.upgrade is not None:
            later = UPGRADE_PATIENCE if self.upgrading else 0.0
            self.upgrade.reschedule(asyncio.get_running_loop().time() + later)
        return True

    async def end(self, reason: str, last: Iterable[str | bytes] = ()) -> None:
        """End the session, and tell the application why; the handlers of it run here."""
        if self.begin_to_end(last):
            await self.leave(reason)

    async def leave(self, reason: str) -> None:
        """Have the application told, and then be gone."""
        # An application knows python-engineio's reasons only; what the guard ends, the server has ended.
        told = reason if reason in _REASONS else self.server.reason.SERVER_DISCONNECT
        try:
            await self.engine.trigger("disconnect", self.sid, told)
        finally:
            Heartbeats.end(self)
            self.closed = True
            if not self.upgraded and self.record.ending is not None and told != AsyncServer.reason.CLIENT_DISCONNECT:
                self.engine.remember(self.sid)
            self.server.sockets.pop(self.sid, None)
            self.engine.server.environ.pop(self.sid, None)

    @property
    def stuck(self) -> bool:
        """Whether the client of an ended session doesn't even read that it has ended."""
        return self.closing and self.writer is not None and not self.writer.done()

    def cut(self) -> None:
        """Give up what is left to say."""
        self.drop()
        if self.writer is not None:
            self.writer.cancel()

    # Who waits for its client

    def interrupted(self, task: asyncio.Task[Any]) -> bool:
        """Whether a cancellation of a task that waits for the client is only the end of the session."""
        return (self.closing or self.broken) and not task.uncancel()

    def break_off(self) -> None:
        """Nothing can be sent to its client any more, over its WebSocket."""
        self.broken = True
        if self.reader is not None:
            self.reader.cancel()


async def interruptible(receive: Receive, socket: Socket) -> Message:
    """Receive a part of a body, for which a client can let us wait; the end of its session interrupts it.

    Raises:
        Ended: that is what has happened.
    """
    task = socket.poster = asyncio.current_task()
    assert task is not None  # noqa: S101 - narrows the type: ASGI applications run in a task
    try:
        return await receive()
    except asyncio.CancelledError:
        if socket.interrupted(task):
            raise Ended from None
        raise
    finally:
        socket.poster = None
