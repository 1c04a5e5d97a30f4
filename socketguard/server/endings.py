"""How connections and sessions are ended by the guard, so that stock clients do what the reason asks of them.

After a Socket.IO disconnect a JavaScript client never comes back by itself; after its transport has closed it does, and
asks its ``auth`` function for a fresh token. So a reason that a client can mend closes the transport, unless another
namespace of the session lives on, and a reason that it can't mend disconnects.

One timer of the loop, the tick, pulls what is due from all who have something due.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any

from socketguard.auth.users import Group, Users
from socketguard.connection import Connection, Session
from socketguard.deadline import LATE
from socketguard.diagnosis.delivery import Delivery
from socketguard.diagnosis.traffic import Patterns
from socketguard.errors import REPLIES, Refusal, RejectCode, Retry
from socketguard.findings import finding
from socketguard.limits.expiry import Expiry
from socketguard.logs.report import Report

from .engine import Engine, items_of
from .heartbeats import Heartbeats
from .pace import Queue
from .refusals import Refusals
from .service import Service
from .sessions import Sessions
from .socket import Socket

__all__ = ["CLOSE_CODES", "CLOSING", "EXPIRING", "TICK", "Endings"]

CLOSING = "socketguard:closing"
EXPIRING = "socketguard:expiring"

CLOSE_CODES = {
    "token_expired": 4401,
    "connect_timeout": 4408,
    "too_many_failures": 4429,
    "slow_consumer": 4413,
    "keys_unavailable": 4503,
    "admission_timeout": 4504,
    "draining": 1012,
}
"""With which code a WebSocket is closed: 1012 is "service restart" (the IANA registry of close codes), the others are
private ones (RFC 6455, section 7.4.2) that end in the HTTP status of the same meaning."""

TOGETHER = 1.5
"""Tokens that end within so many seconds of each other end together: a page gets one for each of its namespaces."""

PATIENCE = 5.0
"""Seconds to wait for handlers of the application when many connections are ended."""

TICK = 1.0
"""Seconds after which the clocks are looked at again at the latest; so late a wall clock that was set is noticed."""

LENIENCE = 5.0
"""Seconds after the loop has stood in which no client is taken for silent, slow or late."""

PAUSE = 60.0
"""Seconds for which a client need not answer pings while its events are being handled and it isn't read from."""

REMINDER = 3600.0
"""Seconds after which it is said again that nobody is refused."""

_AT_ONCE = 10
"""How much that is due is taken from one source in one turn of the loop."""

_INLINE = 50
"""So many clients may leave in one turn of the loop; more of them wait for the next."""

_MANY = 200
"""The same for heartbeats, which cost microseconds."""

_SHORT = 0.05
"""Seconds after which it is looked whether keys that are being fetched have come."""

_OF_THE_SERVICE = frozenset({RejectCode.KEYS_UNAVAILABLE, RejectCode.ADMISSION_TIMEOUT})
"""Why somebody is refused who has done nothing wrong."""

# A clock that stands still just before a moment (a coarse one, or one under test) must not make the loop spin.
_SHORTEST = 0.001

# What is no code of a refused CONNECT has a text here.
_MESSAGES = {
    "connect_timeout": "No namespace was joined in time",
    "too_many_failures": "Too many attempts",
    "slow_consumer": "Too much waits to be read",
}

_HINTS = {
    "connect_timeout": "no namespace was joined in time: did its CONNECT get through, and was it refused?",
    "too_many_failures": "the same refused CONNECT came again and again within one session",
    "slow_consumer": "the client does not read what is sent to it",
    "keys_unavailable": "credentials can't be checked now; the client comes back by itself",
    "admission_timeout": "authorize, the connect handler or a look-up took too long; the client comes back by itself",
    "draining": "the server is being stopped",
}


class Endings:
    """Ends connections and sessions, by itself when they are due."""

    def __init__(
        self,
        engine: Engine,
        sessions: Sessions,
        heartbeats: Heartbeats,
        expiry: Expiry,
        users: Users | None,
        service: Service,
        refusals: Refusals,
        patterns: Patterns,
        delivery: Delivery,
        report: Report,
        *,
        report_only: bool = False,
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._heartbeats = heartbeats
        self._expiry = expiry
        self._users = users
        self._asking: set[asyncio.Task[None]] = set()
        self._service = service
        self._refusals = refusals
        self._report = report
        self._patterns = patterns
        self._delivery = delivery
        self._report_only = report_only
        self._remind_at = time.monotonic() + REMINDER
        self._queue = Queue()
        self._looks = (
            *(self._beat, self._end_connections, self._end_sessions),
            *(self._ask_about_users, service.tell, self._look_seldom),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.Handle | None = None
        self._at = self._expected = math.inf
        self._stopped = False
        self._left = 0
        self._seldom_at = self._lenient_until = -math.inf

    def __len__(self) -> int:
        """How many endings are under way."""
        return len(self._queue)

    # The tick

    def arm(self, due_in: float = 0.0) -> None:
        """Have what is due looked at in time; to be called when something has come that is due in so many seconds."""
        if self._stopped and not self._queue.waiting:
            return
        loop = asyncio.get_running_loop()
        if self._handle is not None and loop is self._loop and self._at <= loop.time() + due_in:
            return
        wait = self._wait()
        at = -math.inf if wait <= 0 else loop.time() + max(wait, _SHORTEST)
        if self._handle is not None:
            if loop is self._loop and self._at <= at:
                return
            self._cancel()
        self._loop, self._at = loop, at
        # By a clock that nobody moves: whether the loop has stood is no matter of what time it is said to be.
        self._expected = time.perf_counter() + (0.0 if at == -math.inf else at - loop.time())
        # An empty context: that of a handler would make its connection the current one, and keep it in memory.
        context = contextvars.Context()
        self._handle = (
            loop.call_soon(self._turn, context=context)
            if at == -math.inf
            else loop.call_at(at, self._turn, context=context)
        )

    def _wait(self) -> float:
        """For how many seconds nothing can be due."""
        if self._queue.waiting:
            return 0.0
        try:
            expiry = self._expiry.wait
        except Exception:  # The clock is the application's.
            expiry = TICK
        soon = _SHORT if self._service.fetching else TICK
        users = math.inf if self._users is None else self._users.wait
        return min(self._sessions.wait, self._heartbeats.wait, expiry, soon, users)

    def _turn(self) -> None:
        self._handle = None
        late = time.perf_counter() - self._expected
        if late > LATE and self._sessions.open:
            self._loop_stood(late)
        try:
            # What fails keeps nothing else from being looked at.
            for look in self._looks:
                if self._stopped:
                    break
                try:
                    look()
                except Exception as exc:
                    context = {"message": "socketguard could not look at what is due", "exception": exc}
                    asyncio.get_running_loop().call_exception_handler(context)
            self._queue.turn()
        finally:
            self.arm()

    def _loop_stood(self, late: float) -> None:
        """The loop has done something else for so long that nobody could be heard, which is no client's fault."""
        self._report.loop_blocked(late)
        self._lenient_until = time.monotonic() + LENIENCE
        self._heartbeats.forgive()

    def _beat(self) -> None:
        """Ping, and end sessions whose clients are silent."""
        self._heartbeats.ping(_MANY)
        for socket in self._heartbeats.silent(_MANY):
            record = socket.record
            if record.room is not None and time.monotonic() - record.active < PAUSE:
                # It isn't read from: its answer may have come long ago.
                self._heartbeats.wait_again(socket)
            else:
                self.silent(socket)

    def asked(self, socket: Socket) -> None:
        """A client polls: too late, if its time is over and only nobody has looked yet."""
        if self._heartbeats.is_silent(socket) and time.perf_counter() - self._expected <= LATE:
            self.silent(socket)

    def silent(self, socket: Socket) -> None:
        """End a session whose client has not answered a ping."""
        if socket.begin_to_end():
            self._leave(socket, "ping timeout")

    def _end_connections(self) -> None:
        for connection, left in self._expiry.due(_AT_ONCE):
            if left is None:
                self._expire(connection)
            else:
                self._notify(connection, left)

    def _end_sessions(self) -> None:
        if time.monotonic() < self._lenient_until:
            return
        for connection in self._sessions.overdue(_AT_ONCE):
            pending = connection.pending
            assert pending is not None  # noqa: S101 - narrows the type: it is there while nothing is decided
            pending.overdue += 1
            if pending.overdue > 1:
                # Its handler ignores that it was cancelled.
                self.refuse(connection, Refusal(RejectCode.ADMISSION_TIMEOUT, "connect_handler"))
            elif connection.sid:
                # Until then, whatever is waited for has the same deadline itself.
                pending.task.cancel()
        for session, reason in self._sessions.due(_AT_ONCE):
            self.session(session, reason)

    def _ask_about_users(self) -> None:
        """Ask whether the users of living connections are still there; a task for each look-up, of which few run."""
        for group in self._users.due() if self._users is not None else ():
            task = asyncio.get_running_loop().create_task(self._ask_about(group))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask_about(self, group: Group) -> None:
        assert self._users is not None  # noqa: S101 - narrows the type
        reason = await self._users.ask(group)
        for connection in list(group.connections) if reason is not None else ():
            if self._report_only:
                self._refusals.would_end(connection, str(reason))
            elif reason == RejectCode.ACCOUNT_DISABLED:
                self.one(connection, "account_disabled")
            else:
                self.session(connection.session, str(reason))
        self.arm()

    def _look_seldom(self) -> None:
        """Look at what counts by the second, and would cost each turn too much."""
        now = time.monotonic()
        if now < self._seldom_at:
            return
        # A turn that comes a moment early must not leave it to the one after it.
        self._seldom_at = now + 0.9 * TICK
        self._report.floods.due(now)
        for pattern, stands, fields in self._patterns.due(now):
            self._report.pattern(pattern, stands, fields)
        self._report.undelivered(self._delivery.due(now))
        if self._report_only and now >= self._remind_at:
            self._remind_at = now + REMINDER
            self._report.warn([finding("SG054")])

    def stop(self) -> None:
        """Look at nothing more, but finish what has begun: nobody stays who was to be disconnected."""
        self._stopped = True
        if not self._queue.waiting:
            self._cancel()

    def _cancel(self) -> None:
        # A closed loop has dropped its handles already.
        if self._handle is not None and self._loop is not None and not self._loop.is_closed():
            self._handle.cancel()
        self._handle = None

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        done = self._queue.put(work)
        self.arm()
        return done

    async def settled(self, timeout: float) -> None:
        """Wait until every ending that has begun is done, or for so many seconds."""
        await self._queue.settled(timeout)

    # One connection

    def _notify(self, connection: Connection, seconds: int) -> None:
        """Tell a client that its token is about to expire."""
        if connection.state is Connection.JOINED and connection.reason is None:
            self._report.expiring(connection, seconds)
            self._begin(self._tell(connection, EXPIRING, {"in": seconds}))

    async def _tell(self, connection: Connection, event: str, data: dict[str, Any]) -> None:
        self._engine.tell(connection.session, connection.namespace, event, data)

    def _expire(self, connection: Connection) -> None:
        """End a connection whose token has expired."""
        if connection.state is not Connection.JOINED or connection.reason is not None:
            return
        if self._report_only:
            self._refusals.would_end(connection, "token_expired")
            return
        session = connection.session
        others = [other for other in session.connections.values() if other is not connection and _lives(other)]
        if any(_outlives(other, connection) for other in others):
            connection.reason = "token_expired"
            self._begin(self._disconnect(connection, _closing("token_expired")))
            return
        for each in (connection, *others):
            each.reason = "token_expired"
        self._close(session, "token_expired", (connection, *others))

    def one(self, connection: Connection, reason: str) -> None:
        """End a connection whose token was revoked, or whose user is there no more."""
        if connection.lives:
            connection.reason = reason
            self._begin(self._disconnect(connection, _closing(reason)))

    async def _disconnect(self, connection: Connection, closing: dict[str, Any] | None) -> None:
        if closing is not None:
            self._engine.tell(connection.session, connection.namespace, CLOSING, closing)
        await self._engine.disconnect(connection)

    def refuse(self, connection: Connection, refusal: Refusal, answer: Any = None) -> None:
        """Refuse a CONNECT, and end the session that has been refused too often; see `Refusals.refuse`.

        A CONNECT_ERROR is final to stock clients, and from a closed transport they come back by themselves: so what the
        service can't help just now closes it, where no other namespace lives on.
        """
        session = connection.session
        if refusal.code in _OF_THE_SERVICE and refusal.detail != "emitted_meanwhile" and not session.joined:
            self.session(session, refusal.code.value)
        if self._refusals.refuse(connection, refusal, answer):
            self.session(connection.session, "too_many_failures")

    # Several connections

    def end_all(
        self, chosen: Iterable[Connection], reason: str, verdict: Refusal, detail: str | None = None
    ) -> Awaitable[int]:
        """Disconnect connections, refuse those that are being admitted with the verdict, and count them.

        Nobody goes on from the call on. Handlers of the application that take longer than `PATIENCE` are not waited
        for by whoever awaits it.
        """
        joined = []
        count = 0
        # First of all nobody may go on, then one after the other is told.
        for connection in chosen:
            if connection.state is Connection.PENDING:
                count += connection.verdict is None
                if connection.verdict is None or verdict.code is RejectCode.TOKEN_REVOKED:
                    connection.verdict = verdict
            elif _lives(connection):
                connection.reason, connection.detail = reason, detail
                joined.append(connection)
        if reason == "kicked":  # whose client is told what the application says, if anything
            closing = None if detail is None else {"code": reason, "message": detail, "retry": Retry.NEVER}
        else:
            closing = _closing(reason)
        endings = [self._begin(self._disconnect(connection, closing)) for connection in joined]
        return self._counted(count + len(joined), endings)

    @staticmethod
    async def _counted(number: int, endings: list[asyncio.Future[None]]) -> int:
        if endings:
            await asyncio.wait(endings, timeout=PATIENCE)
        return number

    # Whole sessions

    def session(self, session: Session, reason: str) -> bool:
        """End a whole session for a reason that its client can mend. Returns False when it has ended already."""
        socket = self._sessions.open.get(session)
        if session.ending is not None or socket is None or socket.closing:
            return False
        self._close(session, reason, [each for each in session.connections.values() if _lives(each)])
        return True

    def everybody(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.open):
            self.session(session, "draining")

    async def left(self, socket: Socket, reason: str, last: Iterable[str] = ()) -> None:
        """A client has left, or is taken to have: have the application told, at a pace that the loop bears."""
        if not socket.begin_to_end(last):
            return
        loop = asyncio.get_running_loop()
        if not self._left:
            loop.call_soon(self._next_turn)
        self._left += 1
        if self._queue.waiting or self._left > _INLINE:
            await self._leave(socket, reason)
        else:
            await self._go(socket, reason)

    def _next_turn(self) -> None:
        self._left = 0

    def _close(self, session: Session, reason: str, told: Iterable[Connection]) -> None:
        socket = self._sessions.open[session]
        session.ending = reason
        told = tuple(told)
        for connection in told:
            connection.reason = connection.reason or reason
        if not any(connection.state is Connection.JOINED for connection in told):
            self._report.session_ended(session, reason, _HINTS.get(reason))
        if reason == "slow_consumer":
            socket.drop()
        last: list[str | bytes] = []
        if reason != "slow_consumer":
            namespaces = [each.namespace for each in told if each.state is Connection.JOINED]
            if not namespaces and reason == "connect_timeout":
                namespaces = ["/"]  # Where no client listens, a person who looks at the wire does.
            for namespace in namespaces:
                last += items_of(self._engine.event(namespace, CLOSING, _closing(reason)))
        socket.begin_to_end(last)
        if reason == "slow_consumer":
            socket.cut()
        self._leave(socket, reason)

    def _leave(self, socket: Socket, reason: str) -> asyncio.Future[None]:
        socket.leaving = self._begin(self._go(socket, reason))
        return socket.leaving

    async def _go(self, socket: Socket, reason: str) -> None:
        try:
            await socket.leave(reason)
        finally:
            self._sessions.closed(socket.record)


def _lives(connection: Connection) -> bool:
    return connection.state in (Connection.PENDING, Connection.JOINED) and connection.reason is None


def _outlives(other: Connection, connection: Connection) -> bool:
    """Whether one connection lives on when the authority of another has ended."""
    if other.state is Connection.PENDING:
        return True
    end, own = other.ends_at, connection.ends_at
    return end is None or own is None or end > own + TOGETHER


def _closing(reason: str) -> dict[str, Any]:
    message = _MESSAGES.get(reason)
    if message is not None:
        return {"code": reason, "message": message, "retry": "backoff"}
    reply = REPLIES[RejectCode(reason)]
    return {"code": str(reason), "message": reply.message, "retry": reply.retry}
