"""Events, acknowledgements and leaves: what decoded packets ask of the application, for those who have joined."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import socketio

from socketguard.admission import Admission
from socketguard.connection import Connection, Identity, Session, bound_connection
from socketguard.deadline import Overdue, is_ours, run_until, settled
from socketguard.diagnosis.delivery import Delivery
from socketguard.errors import Refusal, RejectCode, new_ref

from .connect import Connects, is_joined
from .context import Context
from .emits import event_names, handles
from .handlers import callback_frames
from .requires import EventRefused, required, wait_for

__all__ = ["OWN_EVENTS", "Dispatch", "Refreshes"]

OWN_EVENTS = "socketguard:"
"""How the names of the guard's own events begin; the application never sees such an event from a client."""
REFRESH = "socketguard:refresh"

_RESERVED = frozenset({"connect", "disconnect"})
_REASONS = frozenset(
    value for name, value in vars(socketio.AsyncServer.reason).items() if name.isupper() and isinstance(value, str)
)
# How many events that have a handler are remembered.
_REMEMBERED = 4096
# What handlers return that needs no second look.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})


class Dispatch:
    """Hands what clients send to the application."""

    def __init__(self, context: Context, connects: Connects, refreshes: Refreshes, delivery: Delivery) -> None:
        # As they are now, before any is replaced.
        server = self._server = context.server
        self._run = server._trigger_event
        self._find = server._get_event_handler
        self._message = server.eio.handlers["message"]
        self._send_packet = server.eio.send_packet
        self._connects = connects
        self._refreshes = refreshes
        self._engine = context.engine
        self._sessions = context.sessions
        self._endings = context.endings
        self._expiry = context.expiry
        self._report = context.report
        self._delivery = delivery
        self._detached = False
        # Events that have a handler: to look for one each time would cost each event.
        self._handled: set[tuple[str, str]] = set()

    def detach(self) -> None:
        """Leave everything to python-socketio from now on."""
        self._detached = True

    # Events

    async def trigger(self, event: Any, namespace: str, *args: Any) -> Any:
        """Hand an event to the application: stands in for ``_trigger_event``."""
        if self._detached:
            return await self._run(event, namespace, *args)
        connection = self._sessions.connections.get(args[0])
        if connection is None:
            # An event without a connection is one that nobody admitted.
            return await self._connects.run_handler(namespace, args) if event == "connect" else self._server.not_handled
        if connection.state is not Connection.JOINED:
            return await self._pending(event, namespace, args, connection)
        if type(event) is not str or event in _RESERVED or event.startswith(OWN_EVENTS):
            return await self._reserved(event, namespace, args, connection)
        if connection.reason is not None or self._expiry.is_over(connection):
            return self._server.not_handled  # Its authority has ended, and the client is being told so.
        connection.events_in += 1
        token = bound_connection.set(connection)
        try:
            result = await self._run(event, namespace, *args)
            if type(result) not in _PLAIN:
                result = await settled(result)
        except EventRefused as exc:
            ref = new_ref()
            self._report.event_rejected(connection, event, exc.refusal, ref)
            return exc.refusal.acknowledgement(ref)
        except BaseException as exc:
            if not is_ours(exc):
                raise
            # Whoever awaits this is python-socketio, or nobody: the task of this one event.
            self._report.handler_failed(connection, event, exc)
            return self._server.not_handled
        finally:
            bound_connection.reset(token)
        # A class-based namespace returns None for an event that it has no method for.
        if (result is None or result is self._server.not_handled) and (namespace, event) not in self._handled:
            self._look_for_handler(namespace, event)
        return result

    def find_handler(self, event: Any, namespace: str, args: Any) -> Any:
        """Find a handler with the checks of `requires`: stands in for ``_get_event_handler``."""
        handler, args = self._find(event, namespace, args)
        return required(handler), args

    def _look_for_handler(self, namespace: str, event: str) -> None:
        if not handles(self._server, namespace, event):
            self._report.undelivered(self._delivery.unhandled(namespace, event, event_names(self._server, namespace)))
        elif len(self._handled) < _REMEMBERED:
            self._handled.add((namespace, event))

    async def _reserved(self, event: Any, namespace: str, args: tuple[Any, ...], connection: Connection) -> Any:
        if event == "disconnect" and self._is_end(namespace, args):
            connection.state = Connection.LEAVING
            connection.session.left_by = args[1]
            self._sessions.left(connection.session)
            self._expiry.end(connection)
            return await self._leave(connection, namespace, args)
        if event == REFRESH:
            if connection.reason is not None:
                return self._server.not_handled
            return await self._refreshes.handle(connection, args)
        # python-socketio would run the application's connect or disconnect handler with the client's own data.
        self._report.packet_rejected(
            connection.session,
            "event_name_reserved",
            "the name of an event is a text, neither connect nor disconnect, and does not begin with 'socketguard:'",
        )
        return self._server.not_handled

    async def _pending(self, event: Any, namespace: str, args: tuple[Any, ...], connection: Connection) -> Any:
        if event == "disconnect" and connection.pending is not None and self._is_end(namespace, args):
            connection.pending.vanished = True
            return await self._leave(connection, namespace, args)
        return self._server.not_handled  # An event that overtook its CONNECT, or came after the end.

    def _is_end(self, namespace: str, args: tuple[Any, ...]) -> bool:
        """Whether a "disconnect" is python-socketio's, and no event of a client that is named so."""
        return len(args) == 2 and args[1] in _REASONS and not self._server.manager.is_connected(args[0], namespace)

    async def _leave(self, connection: Connection, namespace: str, args: tuple[Any, ...]) -> Any:
        reason = connection.reason or connection.session.ending or args[1]
        # Half of a binary event: python-socketio before 5.18 would keep it.
        self._server._binary_packet.pop(connection.session.eio_sid, None)
        token = bound_connection.set(connection)
        try:
            return await settled(await self._run("disconnect", namespace, *args))
        except BaseException as exc:
            # Whatever it is: were it to go on, python-socketio would keep the client in its rooms for ever.
            if is_ours(exc) or not isinstance(exc, asyncio.CancelledError):
                self._report.handler_failed(connection, "disconnect", exc)
            return None
        finally:
            bound_connection.reset(token)
            if connection.pending is None:
                self._sessions.forget(connection)
                self._report.closed(connection, reason)

    # Packets

    async def message(self, eio_sid: str, data: Any) -> None:
        """Hand on a message, and contain what comes of it: stands in for the handler of Engine.IO messages."""
        if self._detached:
            await self._message(eio_sid, data)
            return
        session = self._engine.session(eio_sid)
        if session is None or session.ending is not None:
            return
        try:
            await self._message(eio_sid, data)
        except Exception as exc:
            await self._failed(eio_sid, session, exc)
        else:
            waiting = self._server._binary_packet.get(eio_sid)
            if waiting is not None and not is_joined(session, waiting.namespace):
                # python-socketio before 5.16 would wait for its attachments.
                await self._failed(eio_sid, session, ValueError("a binary packet for a namespace not joined"))

    async def _failed(self, eio_sid: str, session: Session, error: Exception) -> None:
        self._engine.identify(session)
        if callback := callback_frames(error):
            if callback[1:]:
                self._report.handler_failed(None, "acknowledgement", error)
            else:
                self._report.packet_rejected(
                    session, "acknowledgement_malformed", "an acknowledgement does not fit the callback", error
                )
            return
        self._server._binary_packet.pop(eio_sid, None)
        session.ending = "parse error"
        self._report.packet_rejected(
            session, "packet_malformed", "python-socketio could not process a packet; the session was ended", error
        )
        if not self._engine.upgraded(eio_sid):
            await self._engine.end(eio_sid, "parse error")

    def send_packet(self, eio_sid: str, packet: Any) -> Any:
        """Count what waits for a client: stands in for ``send_packet``, which is called for each packet that goes out,
        and is no coroutine function for that reason."""
        session = None if self._detached else self._engine.session(eio_sid)
        if session is not None:
            data = packet.data
            size = len(data) if data.__class__ is str or data.__class__ is bytes else 0
            if self._sessions.handed(session, size):
                self._endings.session(session, "slow_consumer")
            if session.ending == "slow_consumer":
                return _nothing()
        return self._send_packet(eio_sid, packet)


async def _nothing() -> None:
    """Sends a packet to a client that is being dropped because it does not read."""


class Refreshes:
    """Answers the event ``socketguard:refresh``: a fresh token in place of the old one, without a gap."""

    def __init__(self, context: Context, admission: Admission) -> None:
        self._context = context
        self._settings = context.settings
        self._admission = admission

    async def handle(self, connection: Connection, args: tuple[Any, ...]) -> dict[str, Any]:
        """Handle the event of a client (its sid, then what it sent), and return the acknowledgement.

        That is ``{"ok": True, "expires_in": seconds}``, or ``{"ok": False, "code": …, "message": …, "retry": …}``. A
        refusal leaves the old token as it was.
        """
        if connection.refreshing:
            refusal: Refusal | None = Refusal(RejectCode.RATE_LIMITED, "refresh_running", {"retry_after": 1})
        else:
            connection.refreshing = True
            try:
                refusal = self._over_budget(connection) or await self._refresh(connection, args[1:])
            finally:
                connection.refreshing = False
                connection.offered = None
        if refusal is None:
            return {"ok": True, "expires_in": self._context.expiry.seconds_left(connection)}
        ref = new_ref()
        self._context.report.refresh_rejected(connection, refusal, ref)
        if refusal.code is RejectCode.TOKEN_REVOKED:
            self._context.endings.revoked(connection)
        return refusal.acknowledgement(ref)

    def _over_budget(self, connection: Connection) -> Refusal | None:
        wait = wait_for(connection, REFRESH, self._settings.limits.refresh_rate)
        if not wait:
            return None
        return Refusal(RejectCode.RATE_LIMITED, "refreshes_per_connection", {"retry_after": int(wait) + 1})

    async def _refresh(self, connection: Connection, sent: tuple[Any, ...]) -> Refusal | None:
        deadline = asyncio.get_running_loop().time() + self._context.timeout
        payload = sent[0] if sent else None
        if payload is not None and not isinstance(payload, dict):
            return Refusal(RejectCode.TOKEN_MALFORMED, "not_an_object", {"received": type(payload).__name__})
        try:
            found = await self._admission.refresh(connection, (payload or {}).get("token"), deadline)
        finally:
            self._context.service.tell()
        if isinstance(found, Refusal):
            return found
        refusal = _has_ended(connection) or await self._tell(connection, found, deadline) or _has_ended(connection)
        if refusal is not None:
            return refusal
        previous = connection.identity.token_id
        connection.identity = found
        connection.refreshes += 1
        connection.bind_log_fields(self._settings.log_claims)
        self._context.endings.arm(self._context.expiry.renew(connection))
        self._context.report.refreshed(connection, self._context.expiry.seconds_left(connection), previous)
        return None

    async def _tell(self, connection: Connection, new: Identity, deadline: float) -> Refusal | None:
        if self._settings.on_refresh is None:
            return None
        token = bound_connection.set(connection)
        try:
            answer = self._settings.on_refresh(connection, connection.identity, new)
            if inspect.isawaitable(answer):
                answer = await run_until(answer, deadline)
        except Overdue:
            return Refusal(RejectCode.ADMISSION_TIMEOUT, "on_refresh")
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return Refusal(RejectCode.INTERNAL_ERROR, "on_refresh", error=exc)
        finally:
            bound_connection.reset(token)
        if answer is None or answer is True:
            return None
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "on_refresh_refused", {"received": type(answer).__name__})


def _has_ended(connection: Connection) -> Refusal | None:
    """Whether the connection was ended while the fresh token was looked at."""
    if connection.state is Connection.JOINED and connection.reason is None:
        return None
    return Refusal(RejectCode.TOKEN_EXPIRED, "connection_ended")
