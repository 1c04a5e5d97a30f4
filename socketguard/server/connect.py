"""A CONNECT, from the decoded packet to its answer: decided, entered into python-socketio, and asked of the handler.

Each runs in a task of its own, which on Python 3.12 and newer is none as long as nobody waits: so whoever reads from
the client goes on reading, and a client that asks anew while it is being decided on is heard.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

import socketio

from socketguard.admission import Admission
from socketguard.connection import Connection, Pending, Session, bound_connection
from socketguard.deadline import Escaped, is_ours
from socketguard.errors import Refusal, RejectCode

from .context import Context
from .engine import items_of
from .handlers import ConnectHandlers, app_message, raised_by_the_call
from .requires import EventRefused

__all__ = ["Connects", "is_joined"]

Refused = socketio.exceptions.ConnectionRefusedError

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
_LEAVING = 0.02
"""Seconds after which it is looked again whether a client has left that comes back at once."""


class Connects:
    """Takes the CONNECT packets of one server.

    Attributes:
        accepted: how many clients have joined so far.
    """

    def __init__(self, context: Context, admission: Admission) -> None:
        self.accepted = 0
        # As they are now, before any is replaced.
        server = self._server = context.server
        self._hand_on = server._handle_connect
        self._disconnect = server.disconnect
        self._admission = admission
        self._context = context
        self._engine = context.engine
        self._sessions = context.sessions
        self._endings = context.endings
        self._refusals = context.refusals
        self._report = context.report
        self._handlers = ConnectHandlers(server)
        self._report_only = context.settings.report_only
        self._detached = False

    def detach(self) -> None:
        """Leave everything to python-socketio from now on."""
        self._detached = True
        self._handlers.restore()

    # The packet

    async def handle(self, eio_sid: str, namespace: Any, data: Any) -> None:
        """Take a decoded CONNECT: stands in for ``_handle_connect``."""
        if self._detached:
            await self._hand_on(eio_sid, namespace, data)
            return
        session = self._engine.session(eio_sid)
        if session is None or not self._engine.alive(eio_sid):
            return  # The session ended before its packet was read: python-socketio would keep such a client for ever.
        if self._context.drain.begun:
            self._endings.session(session, "draining")
            return
        name = namespace or "/"
        if not _is_name(name):
            raise ValueError("a CONNECT whose namespace is no text")
        connection = Connection(session, name)
        connection.rejoins = session.connects - len(session.connections)
        session.connects += 1
        earlier = session.connections.get(name)
        if earlier is not None and earlier.state is Connection.PENDING:
            # Whoever asks again has forgotten that it asked.
            self._withdraw(earlier)
            if session.ending is not None:
                return  # It has done so too often.
        elif (earlier is not None and earlier.lives) or (
            earlier is None and self._server.manager.sid_from_eio_sid(eio_sid, name) is not None
        ):
            self._endings.refuse(connection, Refusal(RejectCode.ALREADY_CONNECTED))
            return
        session.connections[name] = connection
        data = None if _is_undefined(data) else data
        decided: Refusal | Awaitable[Refusal | None] | None
        if earlier is not None and earlier.state is Connection.LEAVING:
            decided = self._decide_after(earlier, connection, data)
        else:
            decided = self._ask(connection, data)
        if isinstance(decided, Refusal):
            self._endings.refuse(connection, decided)
            return
        served = self._admission.served
        if self._report_only and not (served.wildcard or served.serves(name)):
            # As without the guard, whatever it would do.
            await self._leave_to_server(connection, decided, data)
            return
        pending = connection.pending = Pending(self._engine.queue_bytes)
        self._sessions.admitting[connection] = time.monotonic() + self._context.timeout
        self._endings.arm(self._context.timeout)
        pending.task = _start(self._decide(connection, decided, data))

    def _ask(self, connection: Connection, data: Any) -> Refusal | Awaitable[Refusal | None] | None:
        # Where the answer only goes into the log, the connect handler of the application still has to have its time.
        time_ = self._context.timeout / 2 if self._report_only else self._context.timeout
        deadline = asyncio.get_running_loop().time() + time_
        try:
            return self._admission.decide(connection, data, deadline, self._engine)
        except Exception as exc:
            return Refusal(RejectCode.INTERNAL_ERROR, "admission", error=exc)
        finally:
            self._context.service.tell()

    async def _leave_to_server(
        self, connection: Connection, decided: Awaitable[Refusal | None] | None, data: Any
    ) -> None:
        """Have python-socketio refuse a namespace that it does not serve, in its own words."""
        if decided is not None:
            await decided
        self._waived(connection)
        self._refusals.withdraw(connection)
        await self._hand_on(connection.session.eio_sid, connection.namespace, data)

    def _waived(self, connection: Connection) -> None:
        if connection.waived is not None:
            self._refusals.would(connection, connection.waived)

    async def _decide_after(self, earlier: Connection, connection: Connection, data: Any) -> Refusal | None:
        """Decide as soon as an earlier connection has ended, whose disconnect handler runs."""
        while earlier.state is Connection.LEAVING:  # noqa: ASYNC110 - seldom, and soon over
            await asyncio.sleep(_LEAVING)
        decided = self._ask(connection, data)
        return decided if decided is None or isinstance(decided, Refusal) else await decided

    def cancel(self, connection: Connection) -> None:
        """A client leaves a namespace that it has not joined yet."""
        self._withdraw(connection)

    def _withdraw(self, connection: Connection) -> None:
        connection.detail = "superseded"
        self._report.closed(connection, self._engine.server.reason.CLIENT_DISCONNECT)
        if self._refusals.withdraw(connection, attempt=True):
            self._endings.session(connection.session, "too_many_failures")

    async def _decide(self, connection: Connection, decided: Awaitable[Refusal | None] | None, data: Any) -> None:
        pending = connection.pending
        assert pending is not None  # noqa: S101 - narrows the type: who is withdrawn before this never gets here
        # It may run before whoever has begun it can say so.
        pending.task = asyncio.current_task()
        bound_connection.set(connection)
        refusal = answer = None
        try:
            if decided is not None:
                refusal = await decided
                self._context.service.tell()
            self._waived(connection)
            if refusal is None and self._engine.alive(connection.session.eio_sid):
                refusal, answer = await self._join(connection, data)
        except asyncio.CancelledError:
            refusal = self._cancelled(connection)
        except Exception as exc:
            refusal = Refusal(
                RejectCode.INTERNAL_ERROR, "python-socketio" if connection.sid else "admission", error=exc
            )
        if connection.state is not Connection.PENDING:
            self._sweep(connection)  # It was decided without this task.
        elif refusal is not None:
            self._endings.refuse(connection, refusal, answer)
        elif not connection.sid:
            # It went away before it was answered.
            self._report.closed(connection, connection.reason or connection.session.ending or "transport close")
            self._refusals.withdraw(connection)
        else:
            await self._joined(connection)

    def _cancelled(self, connection: Connection) -> Refusal:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type
        pending = connection.pending
        if pending is None or not pending.overdue:
            return Refusal(RejectCode.INTERNAL_ERROR, "cancelled")
        task.uncancel()
        return Refusal(RejectCode.ADMISSION_TIMEOUT, "connect_handler" if connection.sid else "admission")

    # The application's connect handler

    async def _join(self, connection: Connection, data: Any) -> tuple[Refusal | None, Any]:
        """Enter a client into python-socketio and ask the application; returns why not, and what it is told."""
        server, name = self._server, connection.namespace
        eio_sid = connection.session.eio_sid
        manager = server.manager
        # Before 5.13 python-socketio knew one step only.
        two_steps = hasattr(manager, "pre_connect")
        sid = await (manager.pre_connect if two_steps else manager.connect)(eio_sid, name)
        if sid is None:
            return Refusal(RejectCode.ALREADY_CONNECTED), None
        connection.sid = sid
        connection.bind_log_fields(self._context.settings.log_claims)
        self._sessions.connections[sid] = connection
        self._handlers.prepare(name)
        try:
            result = await self._call(name, (sid, server.environ[eio_sid], data or None))
        except (Refused, ConnectionRefusedError) as exc:
            return self._refused(exc, name)
        except Escaped as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            return Refusal(RejectCode.INTERNAL_ERROR, "cancelled", error=exc), None
        except EventRefused as exc:
            return exc.refusal, None
        except Exception as exc:
            return Refusal(RejectCode.INTERNAL_ERROR, "connect_handler", error=exc), None
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return Refusal(RejectCode.INTERNAL_ERROR, "cancelled", error=exc), None
        pending = connection.pending
        if connection.verdict is not None or pending is None:
            return connection.verdict, None
        if pending.overdue or pending.overflown:
            # Too late whatever it has said, or more than `queue_bytes` was emitted to it meanwhile.
            detail = "connect_handler" if pending.overdue else "emitted_meanwhile"
            return Refusal(RejectCode.ADMISSION_TIMEOUT, detail), None
        if pending.dropped or result is False:
            detail = "disconnect_called" if pending.dropped else "returned_false"
            return Refusal(RejectCode.REFUSED_BY_APP, detail), Refused().error_args
        if result is not None and result is not True and result is not server.not_handled:
            # python-socketio takes all but False for a yes, also what was meant for a no.
            received = {"received": type(result).__name__}
            unknown = Refusal(RejectCode.REFUSED_BY_APP, "returned_unknown", received)
            if not self._report_only:
                return unknown, Refused().error_args
            self._refusals.would(connection, unknown)
        await (manager.connect(sid, name) if two_steps else asyncio.sleep(0))
        return None, None

    async def _call(self, namespace: str, args: tuple[Any, ...]) -> Any:
        trigger = self._server._trigger_event
        try:
            return await trigger("connect", namespace, *args)
        except TypeError as exc:
            if not raised_by_the_call(exc):
                raise
        # A handler of the older kind, connect(sid, environ). python-socketio would try this only for clients that
        # send no auth payload, and would run a handler twice that raised a TypeError of its own.
        return await trigger("connect", namespace, *args[:2])

    def _refused(self, refusal: BaseException, namespace: str) -> tuple[Refusal, Any]:
        """What the application says to a client that it refuses."""
        # python-socketio before 5.13 knows no builtin one; the text is that of later ones.
        answer = getattr(refusal, "error_args", {"message": "Connection refused by server"})
        try:
            self._refusals.encode(namespace, answer)
        except Exception:
            return Refusal(RejectCode.INTERNAL_ERROR, "refusal_not_serializable", error=refusal), None
        return Refusal(RejectCode.REFUSED_BY_APP, "raised", {"app_message": app_message(refusal)}), answer

    async def _joined(self, connection: Connection) -> None:
        if self._detached:
            self._refusals.withdraw(connection)  # Its session was ended, as all of them.
            return
        session, pending = connection.session, connection.pending
        assert pending is not None  # noqa: S101 - narrows the type: it is there while the connection is pending
        connection.pending = None
        connection.state = Connection.JOINED
        del self._sessions.admitting[connection]
        self.accepted += 1
        self._sessions.joined(session)
        self._report.accepted(connection)
        socket = self._engine.socket(session.eio_sid)
        if socket is None or socket.closing:
            # It went away while its handler ran, and everybody else has been told already.
            connection.reason = session.ending or "transport close"
            await self._engine.disconnect(connection)
            return
        self._endings.arm(self._context.expiry.begin(connection))
        if self._context.users is not None:
            self._endings.arm(self._context.users.begin(connection))
        for item in (*self._accepting(connection), *pending.early):
            socket.put(item)
        for id, data, size in pending.late:
            session.done(size)
            session.arrived = size
            await self._server._handle_event(session.eio_sid, connection.namespace, id, data)

    def _accepting(self, connection: Connection) -> list[str | bytes]:
        """The answer to an accepted CONNECT."""
        name = connection.namespace
        if self._engine.strict_text:
            return [f'40{"" if name == "/" else name + ","}{{"sid":{_ENCODE(connection.sid)}}}']
        data = {"sid": connection.sid}
        return items_of(self._server.packet_class(socketio.packet.CONNECT, data, namespace=name))

    # Leaving

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Disconnect a client for the application: stands in for ``disconnect``."""
        connection = None if self._detached else self._sessions.connections.get(sid)
        if connection is not None and connection.pending is not None and connection.namespace == (namespace or "/"):
            # python-socketio does nothing for a client whose connect handler runs: here it is a refusal.
            connection.pending.dropped = True
            return
        await self._disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)

    def _sweep(self, connection: Connection) -> None:
        """Clean up once more, when a handler that ignored its cancellation has finished at last."""
        manager = self._server.manager
        if not connection.sid:
            return
        manager.basic_disconnect(connection.sid, connection.namespace)
        rooms = manager.rooms.get(connection.namespace, {})
        for room in [name for name, members in rooms.items() if not members]:
            del rooms[room]  # python-socketio makes the room before it finds that the client is gone.
        if not rooms:
            manager.rooms.pop(connection.namespace, None)


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task for work that may have to wait; on Python 3.12 and newer it runs at once until it does."""
    return asyncio.Task(work, loop=asyncio.get_running_loop(), **_EAGER)


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
