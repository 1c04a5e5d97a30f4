"""What stands in for two attributes of a server."""

from __future__ import annotations

from typing import Any

from socketguard.identity import Session, bound_connection
from socketguard.sessions import Sessions

__all__ = ["Admitted", "Environments"]


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


class Admitted:
    """Stands in for ``server.namespaces``: python-socketio admits what is being admitted by the guard right now.

    It is not ``"*"``: were the guard's wrapper ever lost, that would open every name to everybody.
    """

    def __contains__(self, name: object) -> bool:
        connection = bound_connection.get()
        return connection is not None and connection.pending is not None and connection.namespace == name
