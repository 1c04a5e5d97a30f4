"""Events, acknowledgements and leaves: what decoded packets ask of the application, for those who have joined."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import socketio

from socketguard.admission import Admission
from socketguard.connection import Connection, Identity, bound_connection
from socketguard.deadline import Overdue, is_ours, run_until, settled
from socketguard.diagnosis.delivery import Delivery
from socketguard.errors import Refusal, RejectCode, new_ref

from .answers import UNSUPPORTED_DATA
from .connect import Connects, is_joined
from .context import Context
from .emits import event_names, handles
from .engine import items_of
from .handlers import callback_frames
from .packets import PARSERS_DIFFER
from .requires import EventRefused, required, wait_for
from .socket import Socket

__all__ = ["OWN_EVENTS", "Dispatch", "Refreshes"]

OWN_EVENTS = "socketguard:"
"""How the names of the guard's own events begin; the application never sees such an event from a client."""
REFRESH = "socketguard:refresh"

MOST_ATTACHMENTS = 64
"""Binary attachments of one packet. (The reference server's parser takes 10 by default.)"""

MOST_MESSAGE_BYTES = 8_000_000
"""Bytes (characters of text) of one packet with all its attachments."""

# What only those send and get who have joined.
_OF_MEMBERS = frozenset(
    {socketio.packet.EVENT, socketio.packet.ACK, socketio.packet.BINARY_EVENT, socketio.packet.BINARY_ACK}
)

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
        self._take_event = server._handle_event
        self._take_ack = server._handle_ack
        self._take_disconnect = server._handle_disconnect
        self._gone = server._handle_eio_disconnect
        self._send_packet = server._send_packet
        self._tasks: set[asyncio.Task[None]] = set()
        self._connects = connects
        self._refreshes = refreshes
        self._engine = context.engine
        self._sessions = context.sessions
        self._endings = context.endings
        self._expiry = context.expiry
        self._users = context.users
        self._report = context.report
        self._delivery = delivery
        self._detached = False
        # Events that have a handler: to look for one each time would cost each event.
        self._handled: set[tuple[str, str]] = set()

    def detach(self) -> None:
        """Leave everything to python-socketio from now on."""
        self._detached = True

    # Events

    async def handle_event(self, eio_sid: str, namespace: Any, id: Any, data: Any) -> None:
        """Take a decoded event: stands in for ``_handle_event``."""
        session = None if self._detached else self._engine.session(eio_sid)
        if session is None:
            await self._take_event(eio_sid, namespace, id, data)  # Nobody whom the guard knows.
            return
        size, session.arrived = session.arrived, 0
        name = namespace or "/"
        if not isinstance(data, list) or not data:
            raise ValueError("an event without a name")
        # msgpack hands over namespaces of any type.
        connection = session.connections.get(name) if isinstance(name, str) else None
        if connection is None:
            if isinstance(name, str):
                self._report.undelivered(self._delivery.too_early(name, data[0]))
        elif connection.pending is not None:
            if not connection.pending.wait((id, data, size), self._engine.max_body_of_stranger):
                raise ValueError("more events than may wait for an answer to their CONNECT")
            session.took(size)
        elif connection.lives:
            session.took(size)
            work = self._event(connection, id, data, size)
            if self._server.async_handlers:
                task = self._server.start_background_task(lambda: work)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                await work

    async def _event(self, connection: Connection, id: Any, data: list[Any], size: int) -> None:
        server, session = self._server, connection.session
        try:
            result = await server._trigger_event(data[0], connection.namespace, connection.sid, *data[1:])
            if id is not None and result is not server.not_handled:
                # A tuple stands for several arguments.
                answer = [] if result is None else list(result) if isinstance(result, tuple) else [result]
                packet = server.packet_class(socketio.packet.ACK, namespace=connection.namespace, id=id, data=answer)
                if data[0] == REFRESH:
                    # The answer to it is due even when it is what has ended the connection.
                    self._engine.put(session, packet)
                else:
                    await server._send_packet(session.eio_sid, packet)
        finally:
            session.done(size)

    async def handle_ack(self, eio_sid: str, namespace: Any, id: Any, data: Any) -> None:
        """Take an acknowledgement, for those who may send any: stands in for ``_handle_ack``."""
        if not self._detached:
            connection = self._connection(eio_sid, namespace)
            if connection is None or not connection.lives or self._expiry.is_over(connection):
                return
        await self._take_ack(eio_sid, namespace, id, data)

    async def handle_disconnect(self, eio_sid: str, namespace: Any, reason: Any = None) -> None:
        """Take the DISCONNECT of a client: stands in for ``_handle_disconnect``."""
        connection = None if self._detached else self._connection(eio_sid, namespace)
        if connection is not None and connection.pending is not None:
            self._connects.cancel(connection)
        else:
            await self._take_disconnect(eio_sid, namespace, reason)

    async def gone(self, eio_sid: str, reason: str) -> None:
        """Have a client leave whatever it is in: stands in for ``_handle_eio_disconnect``."""
        session = None if self._detached else self._engine.session(eio_sid)
        if session is None:
            await self._gone(eio_sid, reason)
            return
        try:
            # python-socketio would look through all namespaces there are.
            for connection in list(session.connections.values()):
                if connection.state is Connection.JOINED:
                    await self._take_disconnect(eio_sid, connection.namespace, reason)
        finally:
            self._server._binary_packet.pop(eio_sid, None)
            self._server.environ.pop(eio_sid, None)
            self._sessions.closed(session)

    def _connection(self, eio_sid: str, namespace: Any) -> Connection | None:
        session = self._engine.session(eio_sid)
        name = namespace or "/"
        return None if session is None or not isinstance(name, str) else session.connections.get(name)

    async def trigger(self, event: Any, namespace: str, *args: Any) -> Any:
        """Hand an event to the application: stands in for ``_trigger_event``."""
        if self._detached:
            return await self._run(event, namespace, *args)
        connection = self._sessions.connections.get(args[0])
        if connection is None:
            # Nobody admitted it: python-socketio's own way in is closed.
            return False if event == "connect" else self._server.not_handled
        if connection.pending is not None and event == "connect":
            return await settled(await self._run(event, namespace, *args))
        if type(event) is not str or event in _RESERVED or event.startswith(OWN_EVENTS):
            return await self._reserved(event, namespace, args, connection)
        if not connection.lives or self._expiry.is_over(connection):
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
            if connection.state is not Connection.JOINED:
                return self._server.not_handled
            connection.state = Connection.LEAVING
            connection.session.left_by = args[1]
            self._sessions.left(connection.session)
            self._expiry.end(connection)
            if self._users is not None:
                self._users.end(connection)
            return await self._leave(connection, namespace, args)
        if not connection.lives:
            return self._server.not_handled
        if event == REFRESH:
            return await self._refreshes.handle(connection, args)
        # python-socketio would run the application's connect or disconnect handler with the client's own data.
        self._report.packet_rejected(
            connection.session,
            "event_name_reserved",
            "the name of an event is a text, neither connect nor disconnect, and does not begin with 'socketguard:'",
        )
        return self._server.not_handled

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
            self._sessions.forget(connection)
            self._report.closed(connection, reason)

    # Packets

    async def message(self, eio_sid: str, data: Any) -> None:
        """Hand on a message, and contain what comes of it: stands in for the handler of Engine.IO messages."""
        socket = None if self._detached else self._engine.socket(eio_sid)
        if socket is None:
            if self._detached:
                await self._message(eio_sid, data)
            return
        session = socket.record
        if socket.closing or session.ending is not None:
            return
        session.arrived += len(data) if isinstance(data, str | bytes) else 0
        half = self._server._binary_packet
        try:
            if eio_sid in half and not isinstance(data, bytes | bytearray):
                raise ValueError("a text in the place of an attachment")
            await self._message(eio_sid, data)
            waiting = half.get(eio_sid)
            if waiting is None:
                session.arrived = 0
            elif not is_joined(session, waiting.namespace):
                # python-socketio before 5.16 would wait for its attachments.
                raise ValueError("a binary packet for a namespace not joined")
            elif waiting.attachment_count > MOST_ATTACHMENTS or session.arrived > MOST_MESSAGE_BYTES:
                raise ValueError("more attachments than a message may have")
        except Exception as exc:
            session.arrived = 0
            await self._failed(socket, data, exc)

    async def _failed(self, socket: Socket, data: Any, error: Exception) -> None:
        session = socket.record
        if callback := callback_frames(error):
            if callback[1:]:
                self._report.handler_failed(None, "acknowledgement", error)
            else:
                self._report.packet_rejected(
                    session, "acknowledgement_malformed", "an acknowledgement does not fit the callback", error
                )
            return
        self._server._binary_packet.pop(socket.sid, None)
        session.ending = "parse error"
        hint = "python-socketio could not process a packet; the session was ended"
        if isinstance(data, str) and not self._server.packet_class.uses_binary_events:
            hint += f"; it is text where the serializer is binary: {PARSERS_DIFFER}"
        self._report.packet_rejected(session, "packet_malformed", hint, error)
        socket.code = UNSUPPORTED_DATA
        await self._endings.left(socket, "parse error")

    async def send_packet(self, eio_sid: str, packet: Any) -> None:
        """Send a packet of Socket.IO, unless nothing may be sent there: stands in for ``_send_packet``."""
        if self._detached:
            await self._send_packet(eio_sid, packet)
            return
        socket = self._engine.socket(eio_sid)
        if socket is None:
            return
        if packet.packet_type in _OF_MEMBERS:
            connection = socket.record.connections.get(packet.namespace or "/")
            if connection is None or not connection.lives:
                if connection is not None:
                    connection.hold(items_of(packet))
                return
        for item in items_of(packet):
            socket.put(item)


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
            self._context.endings.one(connection, "token_revoked")
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
            found = await self._admission.refresh(connection, payload or {}, deadline)
        finally:
            self._context.service.tell()
        if isinstance(found, Refusal):
            return found
        user, users = connection.user, self._context.users
        refusal = None
        if users is not None:
            user, refusal = await users.load(found, deadline)
        refusal = refusal or _has_ended(connection)
        refusal = refusal or await self._tell(connection, found, deadline) or _has_ended(connection)
        if refusal is not None:
            return refusal
        previous = connection.identity.token_id
        connection.identity, connection.user = found, user
        connection.refreshes += 1
        connection.bind_log_fields(self._settings.log_claims)
        self._context.endings.arm(self._context.expiry.renew(connection))
        if users is not None:
            self._context.endings.arm(users.begin(connection))
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
