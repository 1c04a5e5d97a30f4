"""What python-engineio knows of its sessions, and how one of them is told something and ended there."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import engineio
import socketio

from socketguard.connection import Connection, Session

__all__ = ["SESSION_KEY", "Engine", "origins_of"]

SESSION_KEY = "socketguard"
"""Where the ASGI scope of a handshake keeps its `Session`, so that it lives as long as python-socketio's environ."""

# How many sessions that were let go are remembered: their clients ask once more within a second or two.
_REMEMBERED = 4096
_DEFAULT = socketio.packet.Packet
_DIGEST_KEY = secrets.token_bytes(16)


class Engine:
    """The Engine.IO side of one `socketio.AsyncServer`."""

    def __init__(self, server: Any, connect_packet_bytes: int | None) -> None:
        self.server = server
        # As it is now, before anybody replaces it.
        self._disconnect = server.disconnect
        # Fixed now: how large a frame or body may be from a session that has joined no namespace.
        self.max_body_of_stranger: int = (
            self.max_body if connect_packet_bytes is None else min(self.max_body, connect_packet_bytes)
        )
        self._ids_key = secrets.token_bytes(16)
        self._let_go: dict[str, None] = {}
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

    def issued(self, eio_sid: str) -> bool:
        """Whether this process has made an id; one in 16 million others is taken for it."""
        try:
            made = base64.b64decode(eio_sid, altchars=b"-_", validate=True)
        except ValueError:
            return False
        return len(eio_sid) == 20 and hmac.compare_digest(made[12:], self._id_digest(made[:12]))

    def _id_digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._ids_key, digest_size=3).digest()

    @staticmethod
    def identify(session: Session) -> None:
        """Give a session the short keyed digest that stands for its secret id in log lines."""
        if not session.digest and session.eio_sid:
            session.digest = hashlib.blake2b(session.eio_sid.encode(), key=_DIGEST_KEY, digest_size=6).hexdigest()

    # One session

    def session(self, eio_sid: str | None) -> Session | None:
        """The record of a living session."""
        environ = self.server.environ.get(eio_sid)
        if environ is None:
            return None
        found: Session | None = environ["asgi.scope"].get(SESSION_KEY)
        return found

    def _socket(self, eio_sid: str | None) -> Any:
        return self.server.eio.sockets.get(eio_sid)

    def alive(self, eio_sid: str) -> bool:
        """Whether a session exists and isn't about to end."""
        socket = self._socket(eio_sid)
        return socket is not None and not socket.closed and not socket.closing and eio_sid in self.server.environ

    def upgraded(self, eio_sid: str | None) -> bool:
        """Whether a session is carried by a WebSocket now."""
        socket = self._socket(eio_sid)
        return socket is not None and bool(socket.upgraded)

    def pinged(self, eio_sid: str) -> bool:
        """Whether a session has been sent a ping that it did not answer."""
        socket = self._socket(eio_sid)
        return socket is not None and bool(socket.last_ping)

    def abandon_upgrade(self, eio_sid: str) -> None:
        """Let a session go on over polling after an upgrade that was cut; python-engineio would wait for it."""
        socket = self._socket(eio_sid)
        if socket is not None and not socket.upgraded:
            socket.upgrading = False

    async def send(self, eio_sid: str, packet: Any) -> None:
        """Send an encoded packet: a text, or the parts of a binary one."""
        await self.server.eio.send(eio_sid, packet)

    async def tell(self, session: Session, namespace: str, event: str, data: dict[str, Any]) -> None:
        """Send an event of the guard's own."""
        if self.alive(session.eio_sid):
            packet = self.server.packet_class(socketio.packet.EVENT, data=[event, data], namespace=namespace)
            await self.send(session.eio_sid, packet.encode())

    async def disconnect(self, connection: Connection) -> None:
        """Disconnect one namespace of a client; stock clients don't undo that."""
        await self._disconnect(connection.sid, connection.namespace, ignore_queue=True)

    # The end of a session

    def has_queue(self, eio_sid: str) -> bool:
        """Whether packets wait for the next poll of a client."""
        socket = self._socket(eio_sid)
        return socket is not None and not socket.queue.empty()

    def drop_queue(self, eio_sid: str) -> None:
        """Forget what waits for a client that does not read."""
        socket = self._socket(eio_sid)
        if socket is None:
            return
        ends = False
        while not socket.queue.empty():
            ends |= socket.queue.get_nowait() is None
            socket.queue.task_done()
        if ends:
            # With it python-engineio unlocks its writer, and then waits for that.
            socket.queue.put_nowait(None)

    async def end(self, eio_sid: str, reason: str) -> None:
        """End a session: handlers of the application run, a waiting poll is answered at once."""
        session = self.session(eio_sid)
        if session is not None and session.ending is None:
            session.ending = reason
        socket = self._socket(eio_sid)
        if socket is not None:
            await socket.close(wait=False, reason=self.server.reason.SERVER_DISCONNECT)
            self.release_poll(eio_sid)

    async def let_go(self, eio_sid: str) -> None:
        """End a polled session so that its client comes back by itself.

        After Engine.IO's CLOSE packet python-socketio's client does not, and JavaScript's hears what else is in the
        answer only at its next connection. So the poll is answered without it, and the next one finds no session.
        """
        socket = self._socket(eio_sid)
        if socket is not None:
            self._let_go[eio_sid] = None
            if len(self._let_go) > _REMEMBERED:
                del self._let_go[next(iter(self._let_go))]
            # At once: the handlers of the application may take their time.
            self._answer_poll(socket)
            await socket.close(wait=False, abort=True, reason=self.server.reason.SERVER_DISCONNECT)
            self.release_poll(eio_sid)

    def was_let_go(self, eio_sid: str | None) -> bool:
        """Whether `let_go` has ended this session not long ago: then its client is about to find that out."""
        return eio_sid in self._let_go

    def release_poll(self, eio_sid: str) -> None:
        """Forget a client that has left, and answer its waiting poll.

        python-engineio would hold the poll for a ping interval, and the session until its next round of checks.
        """
        socket = self._socket(eio_sid)
        if socket is not None and socket.closed and not socket.upgraded:
            self._answer_poll(socket)
            socket.queue.put_nowait(None)
            del self.server.eio.sockets[eio_sid]

    @staticmethod
    def _answer_poll(socket: Any) -> None:
        if socket.queue.empty():
            # No client expects an empty answer.
            socket.queue.put_nowait(engineio.packet.Packet(engineio.packet.NOOP))


def origins_of(allowed: Any) -> str | Collection[str] | None:
    """python-engineio's ``cors_allowed_origins`` as the handshake reads it.

    An empty list and a callable are python-engineio's own ways, which it decides by itself.
    """
    if allowed is None or allowed == "*":
        return allowed  # type: ignore[no-any-return]
    if isinstance(allowed, str):
        return (allowed,)
    return "*" if callable(allowed) or not allowed or "*" in allowed else allowed
