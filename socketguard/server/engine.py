"""What python-engineio knows of its sessions, and how one of them is told something and ended there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import engineio
import socketio

from socketguard.connection import Connection, Session

__all__ = ["Engine", "items_of", "origins_of"]

# How many polled sessions that were ended are remembered: their clients ask once more within a second or two.
_REMEMBERED = 4096
_DEFAULT = socketio.packet.Packet


class Engine:
    """The Engine.IO side of one `socketio.AsyncServer`."""

    def __init__(self, server: Any, connect_packet_bytes: int | None, queue_bytes: int | None = None) -> None:
        self.server = server
        # As it is now, before anybody replaces it.
        self._disconnect = server.disconnect
        # Fixed now: how large a frame or body may be from a session that has joined no namespace.
        self.max_body_of_stranger: int = (
            self.max_body if connect_packet_bytes is None else min(self.max_body, connect_packet_bytes)
        )
        self._ids_key = secrets.token_bytes(16)
        self.own_ids = getattr(server.eio.generate_id, "__func__", None) is not engineio.AsyncServer.generate_id
        self._gone: dict[str, None] = {}
        # Sessions for which too much waits; whoever looks at what is due takes them.
        self.overfull: deque[Any] = deque()
        self.queue_bytes = math.inf if queue_bytes is None else queue_bytes
        # The handlers of Engine.IO's events that are coroutine functions for certain.
        self.usual: dict[str, Callable[..., Awaitable[Any]]] = {}
        self.observed = self._log = False
        self._counters: Any = None
        # A serializer of one's own may put anything into a text message; python-socketio's default never does.
        packet_class = server.packet_class
        self.strict_text = (packet_class.decode, packet_class.encode) == (_DEFAULT.decode, _DEFAULT.encode)

    # The options, as they are now

    @property
    def transports(self) -> Sequence[str]:
        found: Sequence[str] = self.server.eio.transports
        return found

    @property
    def allowed_origins(self) -> Any:
        """``cors_allowed_origins``."""
        return self.server.eio.cors_allowed_origins

    @property
    def credentials(self) -> bool:
        """Whether answers allow credentials (CORS)."""
        return bool(self.server.eio.cors_credentials)

    @property
    def max_body(self) -> int:
        """``max_http_buffer_size``, in bytes."""
        found: int = self.server.eio.max_http_buffer_size
        return found

    # Session ids: 96 random bits, and 24 bits of a keyed digest of them in place of a counter. So an id of another
    # process, or of this one before its restart, is told from one that has ended, and none is kept for that.

    def new_id(self) -> str:
        """A session id, as long as python-engineio's own."""
        body = secrets.token_bytes(12)
        return base64.urlsafe_b64encode(body + self._id_digest(body)).decode()

    def issued(self, eio_sid: str) -> bool | None:
        """Whether this process has made an id; one in 16 million others is taken for it.

        None where the application makes ids of its own, which tell nothing.
        """
        if self.own_ids:
            return None
        try:
            made = base64.b64decode(eio_sid, altchars=b"-_", validate=True)
        except ValueError:
            return False
        return len(eio_sid) == 20 and hmac.compare_digest(made[12:], self._id_digest(made[:12]))

    def _id_digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._ids_key, digest_size=3).digest()

    async def trigger(self, event: str, *args: Any) -> Any:
        """Call the handler of an event of Engine.IO as python-engineio does, which looks anew each time what it is."""
        eio = self.server.eio
        handler = self.usual.get(event)
        if handler is None or handler is not eio.handlers.get(event):
            return await eio._trigger_event(event, *args, run_async=False)
        try:
            return await handler(*args)
        except asyncio.CancelledError:
            return None
        except BaseException:
            eio.logger.exception("%s async handler error", event)
            return False if event == "connect" else None

    # One session

    def socket(self, eio_sid: str | None) -> Any:
        """The `Socket` of a session that is open, or whose end the application is being told of."""
        found = self.server.eio.sockets.get(eio_sid)
        # One of python-engineio's own is from before the guard.
        return found if hasattr(found, "record") else None

    def session(self, eio_sid: str | None) -> Session | None:
        """What is known of the client of such a session."""
        socket = self.socket(eio_sid)
        found: Session | None = None if socket is None else socket.record
        return found

    def alive(self, eio_sid: str) -> bool:
        """Whether a session exists and its end has not begun."""
        socket = self.socket(eio_sid)
        return socket is not None and not socket.closing

    def tell(self, session: Session, namespace: str, event: str, data: dict[str, Any]) -> None:
        """Send an event of the guard's own."""
        self.put(session, self.event(namespace, event, data))

    def put(self, session: Session, packet: Any) -> None:
        """Send a packet of Socket.IO."""
        socket = self.socket(session.eio_sid)
        if socket is not None:
            for item in items_of(packet):
                socket.put(item)

    def event(self, namespace: str, event: str, data: dict[str, Any]) -> Any:
        """An event as a packet of Socket.IO."""
        return self.server.packet_class(socketio.packet.EVENT, data=[event, data], namespace=namespace)

    async def disconnect(self, connection: Connection) -> None:
        """Disconnect one namespace of a client; stock clients don't undo that."""
        await self._disconnect(connection.sid, connection.namespace, ignore_queue=True)

    # Polled sessions that have ended

    def remember(self, eio_sid: str) -> None:
        """Keep for a while that the guard has ended a polled session."""
        self._gone[eio_sid] = None
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def has_gone(self, eio_sid: str | None) -> bool:
        """Whether the guard has ended a polled session not long ago: its client is about to find that out."""
        return eio_sid in self._gone

    # Those who watch every packet: python-engineio's logger, and the counters of python-socketio's admin page

    def observe(self) -> None:
        """Look whether anybody does; at each new session."""
        eio = self.server.eio
        self._log = eio.logger.isEnabledFor(logging.INFO)
        self._counters = getattr(getattr(eio.handlers.get("connect"), "__self__", None), "event_buffer", None)
        self.observed = self._log or self._counters is not None

    def note_in(self, eio_sid: str, packet: str | bytes) -> None:
        """A packet has come."""
        self._note(eio_sid, packet, "Received", "In")

    def note_out(self, eio_sid: str, packet: str | bytes) -> None:
        """A packet goes."""
        self._note(eio_sid, packet, "Sending", "Out")

    def _note(self, eio_sid: str, packet: str | bytes, verb: str, way: str) -> None:
        if self._counters is not None:
            self._counters.push(f"packets{way}")
            self._counters.push(f"bytes{way}", len(packet))
        if self._log:
            text = isinstance(packet, str)
            kind = engineio.packet.packet_names[int(packet[0])] if text else "MESSAGE"
            self.server.eio.logger.info(
                "%s: %s packet %s data %s", eio_sid, verb, kind, packet[1:] if text else "<binary>"
            )


def items_of(packet: Any) -> list[str | bytes]:
    """An encoded packet of Socket.IO as packets of Engine.IO."""
    encoded = packet.encode()
    parts = encoded if isinstance(encoded, list) else [encoded]
    return [f"4{part}" if isinstance(part, str) else bytes(part) for part in parts]


def origins_of(allowed: Any) -> str | Collection[str] | None:
    """python-engineio's ``cors_allowed_origins`` as the handshake reads it.

    An empty list and a callable are python-engineio's own ways, which it decides by itself.
    """
    if allowed is None or allowed == "*":
        return allowed  # type: ignore[no-any-return]
    if isinstance(allowed, str):
        return (allowed,)
    return "*" if callable(allowed) or not allowed or "*" in allowed else allowed
