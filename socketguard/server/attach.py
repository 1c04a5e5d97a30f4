"""What is replaced on a server object to guard it, and put back."""

from __future__ import annotations

from typing import Any

from socketguard.connection import Session, bound_connection
from socketguard.diagnosis.delivery import Delivery
from socketguard.errors import ConfigurationError

from .connect import Connects
from .context import Context
from .dispatch import Dispatch
from .emits import watch_early_events, watch_server
from .endings import Endings
from .endpoint import Endpoint
from .engine import SESSION_KEY
from .facts import ServedNames
from .packets import ATTRIBUTE
from .sessions import Sessions

__all__ = ["Attachment"]


class _Environments(dict[str, Any]):
    """Stands in for ``server.environ``, which has an entry for exactly as long as a session is open."""

    def __init__(self, sessions: Sessions, endings: Endings, *args: Any) -> None:
        super().__init__(*args)
        self._sessions = sessions
        self._endings = endings

    def __setitem__(self, eio_sid: str, environ: Any) -> None:
        super().__setitem__(eio_sid, environ)
        session: Session | None = environ["asgi.scope"].get(SESSION_KEY)
        if session is not None:
            session.eio_sid = eio_sid
            self._endings.arm(self._sessions.opened(session))

    def __delitem__(self, eio_sid: str) -> None:
        session: Session | None = self[eio_sid]["asgi.scope"].get(SESSION_KEY)
        super().__delitem__(eio_sid)
        if session is not None:
            self._sessions.closed(session)


class _Admitted:
    """Stands in for ``server.namespaces``: python-socketio admits what is being admitted by the guard right now.

    It is not ``"*"``: were the guard's wrapper ever lost, that would open every name to everybody.
    """

    def __contains__(self, name: object) -> bool:
        connection = bound_connection.get()
        return connection is not None and connection.pending is not None and connection.namespace == name


def _packet_class_for(original: Any) -> Any:
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


class Attachment:
    """What the guard has replaced on one server object; made last, when everything that stands in is there.

    Raises:
        ConfigurationError: clients are connected already; nobody has checked them.
    """

    def __init__(
        self,
        context: Context,
        owner: object,
        connects: Connects,
        dispatch: Dispatch,
        endpoint: Endpoint,
        delivery: Delivery,
        served: ServedNames,
    ) -> None:
        server = context.server
        if any(True for _ in server.manager.get_namespaces()):
            raise ConfigurationError(
                "clients are connected to this server already; attach the guard before the application serves",
                option="server",
            )
        eio, limits = server.eio, context.settings.limits
        self._server = server
        # Where somebody may have wrapped ours in turn, and where nobody can: the holder, the name, ours and the other.
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._set: list[tuple[Any, str, Any]] = []
        self._replace(server, "handle_request", endpoint)
        self._replace(server, "_handle_connect", connects.handle)
        self._replace(server, "_trigger_event", dispatch.trigger)
        self._replace(server, "_get_event_handler", dispatch.find_handler)
        self._replace(server, "disconnect", connects.disconnect)
        if limits.queue_bytes is not None or limits.send_timeout is not None:
            self._replace(eio, "send_packet", dispatch.send_packet)
        self._message = eio.handlers["message"]
        eio.on("message", dispatch.message)
        self.set(server, "packet_class", _packet_class_for(server.packet_class))
        self.set(eio, "generate_id", context.engine.new_id)
        self.set(server, "namespaces", _Admitted())
        server.environ = _Environments(context.sessions, context.endings, server.environ)
        self._undo = [
            watch_server(server, delivery, served, context.report),
            watch_early_events(server, delivery, context.report),
        ]
        setattr(server, ATTRIBUTE, owner)

    @staticmethod
    def of(server: Any) -> Any:
        """The owner of what is attached to a server; None when nothing is."""
        return getattr(server, ATTRIBUTE, None)

    def _replace(self, holder: Any, name: str, ours: Any) -> None:
        self._replaced.append((holder, name, ours, getattr(holder, name)))
        setattr(holder, name, ours)

    def set(self, holder: Any, name: str, value: Any) -> None:
        """Set an attribute until the end."""
        self._set.append((holder, name, getattr(holder, name)))
        setattr(holder, name, value)

    def undo(self) -> None:
        """Put everything back. Wrappers that somebody else has wrapped in turn stay, and let everything through."""
        server = self._server
        for undo in reversed(self._undo):
            undo()
        for holder, name, ours, other in self._replaced:
            if getattr(holder, name) == ours:
                setattr(holder, name, other)
        for holder, name, value in reversed(self._set):
            setattr(holder, name, value)
        server.eio.on("message", self._message)
        server.environ = dict(server.environ)
        delattr(server, ATTRIBUTE)
