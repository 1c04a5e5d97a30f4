"""What is replaced on a server object to guard it, and put back."""

from __future__ import annotations

import inspect
from typing import Any

from socketguard.diagnosis.delivery import Delivery
from socketguard.errors import ConfigurationError

from .connect import Connects
from .context import Context
from .dispatch import Dispatch
from .emits import watch_server
from .endpoint import Endpoint
from .facts import ServedNames
from .incoming import Incoming
from .packets import ATTRIBUTE
from .rooms import Broadcasts, Rooms

__all__ = ["Attachment"]


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
        incoming: Incoming,
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
        eio, gone = server.eio, server._handle_eio_disconnect
        self._server = server
        # Where somebody may have wrapped ours in turn, and where nobody can: the holder, the name, ours and the other.
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._set: list[tuple[Any, str, Any]] = []
        self._replace(server, "handle_request", endpoint)
        self._replace(server, "_handle_connect", connects.handle)
        self._replace(server, "_handle_event", dispatch.handle_event)
        self._replace(server, "_handle_ack", dispatch.handle_ack)
        self._replace(server, "_handle_disconnect", dispatch.handle_disconnect)
        self._replace(server, "_handle_eio_disconnect", dispatch.gone)
        self._replace(server, "_send_packet", dispatch.send_packet)
        self._replace(server, "_trigger_event", dispatch.trigger)
        self._replace(server, "_get_event_handler", dispatch.find_handler)
        self._replace(server, "disconnect", connects.disconnect)
        for replaced in (Rooms(server.manager), Broadcasts(server, context.engine, context.sessions)):
            for name, ours in replaced.replaces.items():
                self._replace(server.manager, name, ours)
        self._handlers = dict(eio.handlers)
        eio.on("message", incoming.ours)
        if eio.handlers["disconnect"] == gone:
            # instrument() puts one of its own there, which calls the server's in turn.
            eio.on("disconnect", server._handle_eio_disconnect)
        context.engine.usual = {
            event: handler for event, handler in eio.handlers.items() if inspect.iscoroutinefunction(handler)
        }
        # Who is silent is seen by the guard's own tick.
        self.set(eio, "start_service_task", False)
        self.set(server, "packet_class", _packet_class_for(server.packet_class))
        if not context.engine.own_ids:
            self.set(eio, "generate_id", context.engine.new_id)
        # Were the guard's CONNECT ever lost, none of these would be served for being listed.
        self.set(server, "namespaces", frozenset())
        self._undo = [watch_server(server, delivery, served, context.report)]
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
        server.eio.handlers.update(self._handlers)
        delattr(server, ATTRIBUTE)
