"""What stands in for attributes of a server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

from socketguard.connection import Session, bound_connection
from socketguard.sessions import Sessions

__all__ = ["Admitted", "Environments", "SessionIds", "packet_class_for"]


class Environments(dict[str, Any]):
    """Stands in for ``server.environ``, which has an entry for exactly as long as a session is open."""

    def __init__(self, sessions: Sessions, *args: Any) -> None:
        super().__init__(*args)
        self._sessions = sessions

    def __setitem__(self, eio_sid: str, environ: Any) -> None:
        super().__setitem__(eio_sid, environ)
        session: Session | None = environ["asgi.scope"].get("socketguard")
        if session is not None:
            session.eio_sid = eio_sid
            self._sessions.opened(session)

    def __delitem__(self, eio_sid: str) -> None:
        session: Session | None = self[eio_sid]["asgi.scope"].get("socketguard")
        super().__delitem__(eio_sid)
        if session is not None:
            self._sessions.closed(session)


class SessionIds:
    """Stands in for python-engineio's generator of session ids: it knows its own again, without keeping any.

    An id is as long as before: 96 random bits, and 24 bits of a keyed digest of them in place of a counter. So an id of
    another process, or of this one before its restart, is told from one that has ended.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def new(self) -> str:
        """Make an id."""
        body = secrets.token_bytes(12)
        return base64.urlsafe_b64encode(body + self._digest(body)).decode()

    def issued(self, eio_sid: str) -> bool:
        """Whether an id was made here. One in 16 million others is taken for it."""
        try:
            made = base64.b64decode(eio_sid, altchars=b"-_", validate=True)
        except ValueError:
            return False
        return len(eio_sid) == 20 and hmac.compare_digest(made[12:], self._digest(made[:12]))

    def _digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=3).digest()


class Admitted:
    """Stands in for ``server.namespaces``: python-socketio admits what is being admitted by the guard right now.

    It is not ``"*"``: were the guard's wrapper ever lost, that would open every name to everybody.
    """

    def __contains__(self, name: object) -> bool:
        connection = bound_connection.get()
        return connection is not None and connection.pending is not None and connection.namespace == name


def packet_class_for(original: Any) -> Any:
    """The packet class to use instead of a server's own.

    With msgpack python-socketio writes a DISCONNECT with ``data: null``. JavaScript's parser takes that for an error,
    so that a client that was sent away comes back at once.
    """
    if getattr(original, "__module__", None) != "socketio.msgpack_packet" or not hasattr(original, "_to_dict"):
        return original

    class Packet(original):  # type: ignore[misc]
        def _to_dict(self) -> dict[str, Any]:
            found: dict[str, Any] = super()._to_dict()
            if found.get("data") is None:
                found.pop("data", None)
            return found

    return Packet
