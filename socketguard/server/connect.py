"""A CONNECT: decided before python-socketio admits anybody, then handed on to it and to the application's handler."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import socketio

from socketguard.admission import Admission
from socketguard.connection import Connection, Session, bound_connection
from socketguard.deadline import Escaped, Overdue, run_until
from socketguard.errors import Refusal, RejectCode, new_ref
from socketguard.limits.counters import Refusals

from .context import Context
from .handlers import ConnectHandlers, app_message, raised_by_the_call
from .requires import EventRefused

__all__ = ["Connects", "is_joined"]

Refused = socketio.exceptions.ConnectionRefusedError

_ENCODE = json.JSONEncoder(separators=(",", ":"), default=str).encode

# Whose refusal is the client's own doing, and counts against its address. What the service or the application refuses
# for reasons of its own does not; nor does a limit, which would keep out who is out already.
_FAILURES = frozenset(
    {
        RejectCode.INVALID_NAMESPACE,
        RejectCode.CONNECT_MALFORMED,
        RejectCode.TOKEN_MISSING,
        RejectCode.TOKEN_MALFORMED,
        RejectCode.TOKEN_EXPIRED,
        RejectCode.TOKEN_NOT_YET_VALID,
        RejectCode.TOKEN_INVALID,
        RejectCode.TOKEN_REVOKED,
        RejectCode.INSUFFICIENT_SCOPE,
        RejectCode.ALREADY_CONNECTED,
    }
)


class _Pending:
    """What is known of a CONNECT while the application's connect handler runs."""

    __slots__ = ("deadline", "dropped", "ref", "refusal", "straggler", "vanished")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.dropped = False
        self.vanished = False
        self.ref = ""
        self.refusal: Refusal | None = None
        self.straggler: asyncio.Task[Any] | None = None


class Connects:
    """Takes the CONNECT packets of one server, and runs the application's connect handlers.

    Attributes:
        accepted: how many clients have joined so far.
        refused: how many were refused, by code.
    """

    def __init__(self, context: Context, admission: Admission) -> None:
        self.accepted = 0
        self.refused: dict[str, int] = {}
        # As they are now, before any is replaced.
        server = self._server = context.server
        self._hand_on = server._handle_connect
        self._trigger = server._trigger_event
        self._disconnect = server.disconnect
        self._admission = admission
        self._context = context
        self._engine = context.engine
        self._sessions = context.sessions
        self._endings = context.endings
        self._report = context.report
        self._detached = False
        self._quarantine: set[asyncio.Task[Any]] = set()
        self._handlers = ConnectHandlers(server)

    def detach(self) -> None:
        """Leave everything to python-socketio from now on."""
        self._detached = True
        self._handlers.restore()

    # The packet

    async def handle(self, eio_sid: str, namespace: Any, data: Any) -> None:
        """Decide on a decoded CONNECT: stands in for ``_handle_connect``."""
        if self._detached:
            await self._hand_on(eio_sid, namespace, data)
            return
        session = self._engine.session(eio_sid)
        if session is None or not self._engine.alive(eio_sid):
            return  # The session ended before its packet was read: python-socketio would keep such a client for ever.
        if self._context.drain.begun:
            self._endings.session(session, "draining")
            return
        self._engine.identify(session)
        name = namespace or "/"
        if not _is_name(name):
            raise ValueError("a CONNECT whose namespace is no text")
        connection = Connection(session, name)
        if name in session.connections or self._server.manager.sid_from_eio_sid(eio_sid, name) is not None:
            await self._refuse(eio_sid, connection, Refusal(RejectCode.ALREADY_CONNECTED))
            return
        session.connections[name] = connection
        session.connects += 1
        self._sessions.admitting.add(connection)
        try:
            if session.connects > 1:
                # Sixteen of them fit into one body: the loop gets a turn between two.
                await asyncio.sleep(0)
            await self._admit(eio_sid, connection, namespace, None if _is_undefined(data) else data)
        finally:
            self._sessions.admitting.discard(connection)
            if connection.state is Connection.PENDING:
                self._sessions.forget(connection)

    async def _admit(self, eio_sid: str, connection: Connection, namespace: Any, data: Any) -> None:
        deadline = asyncio.get_running_loop().time() + self._context.timeout
        try:
            refusal = await self._admission.decide(connection, data, deadline, self._engine)
        except Exception as exc:
            refusal = Refusal(RejectCode.INTERNAL_ERROR, "admission", error=exc)
        finally:
            self._context.service.tell()
        if refusal is not None:
            await self._refuse(eio_sid, connection, refusal)
        elif not self._engine.alive(eio_sid):
            self._closed(connection)
        else:
            await self._join(eio_sid, connection, namespace, data, deadline)

    async def _join(self, eio_sid: str, connection: Connection, namespace: Any, data: Any, deadline: float) -> None:
        manager = self._server.manager
        if connection.client_address is not None:
            # python-engineio puts 127.0.0.1 there, whoever it is.
            self._server.environ[eio_sid]["REMOTE_ADDR"] = connection.client_address
        pending = connection.pending = _Pending(deadline)
        token = bound_connection.set(connection)
        failure: Exception | None = None
        try:
            await self._hand_on(eio_sid, namespace, data)
        except Exception as exc:
            failure = exc
        finally:
            bound_connection.reset(token)
            connection.pending = None
        if pending.refusal is not None:
            self._count(connection, pending.refusal, pending.ref)
            if pending.straggler is not None:
                self._sweep_later(connection, pending.straggler)
        elif failure is None and manager.is_connected(connection.sid, connection.namespace):
            await self._joined(eio_sid, connection)
            return
        elif not self._engine.alive(eio_sid):
            self._closed(connection)
        else:
            refusal = Refusal(RejectCode.INTERNAL_ERROR, "python-socketio", error=failure)
            await self._refuse(eio_sid, connection, refusal)
        # python-socketio has cleaned up after a refusal; after a failure of its own, or an answer that could not be
        # sent, it has not. No handler runs any more, and to do it twice is harmless.
        await manager.disconnect(connection.sid, connection.namespace, ignore_queue=True)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # python-engineio swallows it; the next frame that it waits for ends the session.
            connection.session.ending = connection.session.ending or "server disconnect"
            raise asyncio.CancelledError

    async def _joined(self, eio_sid: str, connection: Connection) -> None:
        if self._detached:
            self._sessions.forget(connection)  # Detached meanwhile: python-socketio keeps the client, nobody guards it.
            return
        connection.state = Connection.JOINED
        self.accepted += 1
        self._sessions.joined(connection.session)
        self._report.accepted(connection)
        self._endings.arm(self._context.expiry.begin(connection))
        if not self._engine.alive(eio_sid):
            # It went away while its handler ran, and python-engineio has told everybody else already.
            connection.reason = connection.session.ending or "transport close"
            await self._engine.disconnect(connection)

    def _closed(self, connection: Connection) -> None:
        """Log the end of a connection whose client went away before it was answered."""
        self._report.closed(connection, connection.reason or connection.session.ending or "transport close")

    # Refusals

    async def _refuse(self, eio_sid: str, connection: Connection, refusal: Refusal) -> None:
        ref = new_ref()
        self._count(connection, refusal, ref)
        session = connection.session
        if refusal.code is RejectCode.KEYS_UNAVAILABLE and not session.joined:
            # A CONNECT_ERROR is final to stock clients; from a closed transport they come back by themselves.
            self._endings.session(session, refusal.code.value)
        if session.ending is None and self._engine.alive(eio_sid):
            payload = refusal.payload(ref, debug=self._context.settings.debug)
            if self._engine.strict_text:
                # What the default serializer makes of it, without looking for binary data in what can have none.
                place = "" if connection.namespace == "/" else f"{connection.namespace},"
                packet = f"4{place}{_ENCODE(payload)}"
            else:
                packet = self._connect_error(connection.namespace, payload)
            await self._engine.send(eio_sid, packet)

    def _count(self, connection: Connection, refusal: Refusal, ref: str) -> None:
        """Log a refusal and count it."""
        self._report.rejected(connection, refusal, ref)
        code = refusal.code
        self.refused[code.value] = self.refused.get(code.value, 0) + 1
        session = connection.session
        if session.refusals is None:
            session.refusals = Refusals()
        costs, too_many = session.refusals.count(code.value, connection.namespace, self._sessions.limits)
        # A namespace may be hidden because of a limit. And anybody can make up an unknown key.
        real = refusal.fields.get("hidden_reason", code)
        unknown_key = "key_unknown" in (refusal.detail, refusal.fields.get("hidden_detail"))
        if costs and (real in _FAILURES or unknown_key):
            self._context.budget.fail(session.client_address)
        if too_many:
            self._endings.session(session, "too_many_failures")

    def _connect_error(self, namespace: str, payload: Any) -> Any:
        packet = self._server.packet_class(socketio.packet.CONNECT_ERROR, data=payload, namespace=namespace)
        return packet.encode()

    # The application's connect handler

    async def run_handler(self, namespace: str, args: tuple[Any, ...]) -> Any:
        """Run the connect handler for the connection that is being admitted, as python-socketio asks for it."""
        connection = bound_connection.get()
        if connection is None or connection.pending is None or connection.sid or connection.namespace != namespace:
            return False  # Nobody asked through the guard: python-socketio refuses.
        pending: _Pending = connection.pending
        connection.sid = args[0]
        connection.bind_log_fields(self._context.settings.log_claims)
        self._sessions.connections[connection.sid] = connection
        self._handlers.prepare(namespace)
        try:
            # Older releases of python-socketio leave out an auth payload that is empty.
            result = await run_until(self._call(namespace, (*args, None)[:3]), pending.deadline)
        except (Refused, ConnectionRefusedError) as exc:
            if not self._answerable(exc, namespace):
                return self._fail(pending, RejectCode.INTERNAL_ERROR, "refusal_not_serializable", exc)
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, "raised", {"app_message": app_message(exc)})
            if isinstance(exc, Refused):
                raise
            # python-socketio before 5.13 knows no other; the text is that of later ones.
            raise Refused("Connection refused by server") from exc
        except Overdue as exc:
            if not exc.task.done():
                pending.straggler = exc.task
            return self._fail(pending, RejectCode.ADMISSION_TIMEOUT, "connect_handler")
        except (Escaped, asyncio.CancelledError) as exc:
            # Of this very task too: python-socketio must clean up before it ends.
            return self._fail(pending, RejectCode.INTERNAL_ERROR, "cancelled", exc)
        except EventRefused as exc:
            return self._refuse_pending(pending, exc.refusal)
        except Exception as exc:
            return self._fail(pending, RejectCode.INTERNAL_ERROR, "connect_handler", exc)
        if connection.verdict is not None:
            return self._refuse_pending(pending, connection.verdict)
        if pending.vanished:
            return False  # python-socketio before 5.18 has run its disconnect handler already.
        if pending.dropped or result is False:
            detail = "disconnect_called" if pending.dropped else "returned_false"
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, detail)
            return False
        if result is not None and result is not True and result is not self._server.not_handled:
            # python-socketio takes all but False for a yes, also what was meant for a no.
            received = {"received": type(result).__name__}
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, "returned_unknown", received)
            return False
        return result

    async def _call(self, namespace: str, args: tuple[Any, ...]) -> Any:
        try:
            return await self._trigger("connect", namespace, *args)
        except TypeError as exc:
            if not raised_by_the_call(exc):
                raise
        # A handler of the older kind, connect(sid, environ). python-socketio would try this only for clients that
        # send no auth payload, and would run a handler twice that raised a TypeError of its own.
        return await self._trigger("connect", namespace, *args[:2])

    def _fail(self, pending: _Pending, code: RejectCode, detail: str, error: BaseException | None = None) -> Any:
        return self._refuse_pending(pending, Refusal(code, detail, error=error))

    def _refuse_pending(self, pending: _Pending, refusal: Refusal) -> Any:
        """Refuse, by way of python-socketio, so that it answers and cleans up by itself."""
        pending.refusal = refusal
        pending.ref = new_ref()
        payload = refusal.payload(pending.ref, debug=self._context.settings.debug)
        raise Refused(payload["message"], payload["data"])

    def _answerable(self, refusal: BaseException, namespace: str) -> bool:
        try:
            self._connect_error(namespace, getattr(refusal, "error_args", None))
        except Exception:
            return False
        return True

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Disconnect a client for the application: stands in for ``disconnect``."""
        connection = None if self._detached else self._sessions.connections.get(sid)
        if connection is not None and connection.pending is not None and connection.namespace == (namespace or "/"):
            # python-socketio does nothing for a client whose connect handler runs: here it is a refusal.
            connection.pending.dropped = True
            return
        await self._disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)

    # Handlers that ignore their cancellation

    def _sweep_later(self, connection: Connection, task: asyncio.Task[Any]) -> None:
        """Clean up once more when a handler that ignored its cancellation has finished at last."""
        self._quarantine.add(task)
        loop = asyncio.get_running_loop()

        def done(task: asyncio.Task[Any]) -> None:
            sweeping = loop.create_task(self._sweep(connection))
            self._quarantine.add(sweeping)
            sweeping.add_done_callback(self._quarantine.discard)
            self._quarantine.discard(task)

        task.add_done_callback(done)

    async def _sweep(self, connection: Connection) -> None:
        manager = self._server.manager
        await manager.disconnect(connection.sid, connection.namespace, ignore_queue=True)
        rooms = manager.rooms.get(connection.namespace, {})
        for room in [name for name, members in rooms.items() if not members]:
            del rooms[room]  # python-socketio makes the room before it finds that the client is gone.
        if not rooms:
            manager.rooms.pop(connection.namespace, None)


def is_joined(session: Session, namespace: Any) -> bool:
    """Whether a session has joined a namespace; msgpack hands over namespaces of any type."""
    connection = session.connections.get(namespace or "/") if isinstance(namespace or "/", str) else None
    return connection is not None and connection.state is Connection.JOINED


def _is_name(name: Any) -> bool:
    try:
        return isinstance(name, str) and name.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate: no answer could be sent
        return False


def _is_undefined(data: Any) -> bool:
    """Whether an auth payload is JavaScript's undefined, which the msgpack parser of socket.io sends for none."""
    return type(data).__name__ == "ExtType" and tuple(data) == (0, b"\0")
