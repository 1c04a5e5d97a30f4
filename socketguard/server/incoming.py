"""What comes from a client over either transport, and how much of it may be under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from engineio.packet import Packet

from .context import Context
from .dispatch import Dispatch
from .packets import DIGITS
from .socket import Socket

__all__ = ["MOST_EVENTS", "MOST_EVENT_BYTES", "Incoming", "has_room"]

MOST_EVENTS = 256
"""How many events of one session may be handled at once; then no more is read from it until some are done."""

MOST_EVENT_BYTES = 8_000_000
"""How many bytes (characters of text) of them, beyond which the same holds; one event may have more."""


class Incoming:
    """Hands packets of Engine.IO on.

    Attributes:
        ours: the handler of messages that is the guard's.
    """

    def __init__(self, context: Context, dispatch: Dispatch) -> None:
        self._eio = context.server.eio
        self._handlers = context.server.eio.handlers
        self._engine = context.engine
        self._heartbeats = context.heartbeats
        self._endings = context.endings
        self.ours = dispatch.message

    @property
    def strict_text(self) -> bool | None:
        """Whether a text message is a packet of python-socketio's default serializer; None where the application takes
        messages of Engine.IO itself, which may be anything."""
        return self._engine.strict_text if self._handlers["message"] is self.ours else None

    def message(self, eio_sid: str, data: Any) -> Awaitable[None]:
        """Hand on a message: to the guard, or to whom the application has put in its place."""
        if self._handlers["message"] is self.ours:
            taken: Awaitable[None] = self.ours(eio_sid, data)
            return taken
        trigger: Awaitable[None] = self._eio._trigger_event(
            "message", eio_sid, data, run_async=self._eio.async_handlers
        )
        return trigger

    async def take(self, socket: Socket, packet: str | bytes) -> None:
        """Take a packet that was found to be in order, but for CLOSE, which whoever reads knows how to answer."""
        if isinstance(packet, bytes):
            await self.message(socket.sid, packet)
        elif packet[0] == "4":
            # What does not begin with a digit, another serializer may have written; python-engineio decodes JSON then.
            data = packet[1:] if packet[1:2] in DIGITS else Packet(encoded_packet=packet).data
            await self.message(socket.sid, data)
        elif packet[0] == "3":
            self._endings.arm(self._heartbeats.pong(socket))


async def has_room(socket: Socket) -> None:
    """Wait until fewer events of a session are under way, or it has ended."""
    record = socket.record
    while not socket.closing and (record.handling > MOST_EVENTS or record.handling_bytes > MOST_EVENT_BYTES):
        record.room = asyncio.get_running_loop().create_future()
        await record.room
        record.room = None
