"""How connections and sessions are ended by the guard, so that stock clients do what the reason asks of them.

After a Socket.IO disconnect a JavaScript client never comes back by itself; after its transport has closed it does, and
asks its ``auth`` function for a fresh token. So a reason that a client can mend closes the transport, unless another
namespace of the session lives on, and a reason that it can't mend disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from socketguard.connection import Connection, Session
from socketguard.errors import REPLIES, Refusal, RejectCode
from socketguard.findings import Finding, finding
from socketguard.logs.report import Report

if TYPE_CHECKING:
    from .attach import Seam
import contextvars
import random
import signal
import threading
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from .handshake import Gate

if TYPE_CHECKING:
    from .attach import Seam

__all__ = ["CLOSE_CODES", "CLOSING", "EXPIRING", "LONGEST", "Drain", "Endings", "Pace", "findings"]

_LONGEST_TURN = 0.005
"""Seconds: a turn of the loop that takes longer is followed by one with less to begin."""

_FIRST, _MOST = 1, 25

_DEPTH = 10
"""Turns of the loop until what was begun has shown what it costs: most pieces need some."""


class Pace:
    """Runs coroutines in tasks, and begins only as many in one turn of the loop as the last turns have borne.

    How dear a piece is depends on what it meets: python-socketio needs a time for each disconnect that grows with the
    number of clients, 0.2 ms at 1,000 of them and 2 ms at 10,000. It belongs to one event loop.
    """

    __slots__ = ("_batch", "_ended", "_handle", "_held", "_idle", "_longest", "_tasks", "_turns", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Coroutine[Any, Any, None], asyncio.Future[None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handle: asyncio.Handle | None = None
        self._batch = _FIRST
        self._idle: asyncio.Future[None] | None = None
        self._ended = 0.0
        self._turns, self._longest, self._held = 0, 0.0, False

    def __len__(self) -> int:
        """How many pieces are not done."""
        return len(self._waiting) + len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run something soon, in its turn.

        Args:
            work: what to run. What it raises goes to the exception handler of the loop.

        Returns:
            A future that is done when the work is.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((work, done))
        if self._handle is None:
            self._batch = _FIRST
            self._ended = loop.time()
            self._turns, self._longest, self._held = 0, 0.0, False
            self._call(loop)
        return done

    async def settled(self, timeout: float) -> None:
        """Wait until everything that was begun so far is done, or for so many seconds."""
        if not len(self):
            return
        if self._idle is None:
            self._idle = asyncio.get_running_loop().create_future()
        # One future, not one for each piece: to wait for 10,000 takes a turn of 40 ms.
        await asyncio.wait((self._idle,), timeout=timeout)

    def _ended_one(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._idle is not None and not len(self):
            self._idle.set_result(None)
            self._idle = None

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        # An empty context: that of a handler would make its connection the current one.
        self._handle = loop.call_soon(self._turn, context=contextvars.Context())

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        self._adapt(loop.time() - self._ended)
        for _ in range(min(self._batch, len(self._waiting))):
            work, done = self._waiting.popleft()
            task = loop.create_task(_run(work, done))
            self._tasks.add(task)
            task.add_done_callback(self._ended_one)
        self._handle = None
        self._ended = loop.time()
        if self._waiting:
            self._call(loop)

    def _adapt(self, turn: float) -> None:
        """Change the batch, and then not before what was begun with it has shown what it costs."""
        self._longest = max(self._longest, turn)
        self._turns += 1
        if self._turns < _DEPTH and self._longest <= _LONGEST_TURN:
            return
        if self._turns < _DEPTH and self._held:
            return
        if self._longest > _LONGEST_TURN:
            self._batch = max(1, int(self._batch * _LONGEST_TURN / self._longest))
            self._held = True
        else:
            self._batch = min(_MOST, self._batch + 1)
            self._held = False
        self._turns, self._longest = 0, 0.0


async def _run(work: Coroutine[Any, Any, None], done: asyncio.Future[None]) -> None:
    try:
        await work
    except Exception as exc:
        context = {"message": "socketguard could not end a connection", "exception": exc}
        asyncio.get_running_loop().call_exception_handler(context)
    finally:
        if not done.done():
            done.set_result(None)


CLOSING = "socketguard:closing"
EXPIRING = "socketguard:expiring"

CLOSE_CODES = {
    "token_expired": 4401,
    "connect_timeout": 4408,
    "too_many_failures": 4429,
    "slow_consumer": 4413,
    "keys_unavailable": 4503,
    "draining": 1012,
}
"""With which code a WebSocket is closed: 1012 is "service restart" (the IANA registry of close codes), the others are
private ones (RFC 6455, section 7.4.2) that end in the HTTP status of the same meaning."""

TOGETHER = 1.5
"""Tokens that end within so many seconds of each other end together: a page gets one for each of its namespaces."""

PATIENCE = 5.0
"""Seconds to wait for handlers of the application when many connections are ended."""

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
    "keys_unavailable": "no keys to verify tokens with; the client comes back by itself",
    "draining": "the server is being stopped",
}


class Endings:
    """Ends connections and sessions.

    Args:
        report: told what was ended.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self.pace = Pace()
        self.seam: Seam

    # One connection

    def notify(self, connection: Connection, seconds: int) -> None:
        """Tell a client that its token is about to expire."""
        if connection.state is Connection.JOINED and connection.reason is None:
            self._report.expiring(connection, seconds)
            self.pace.begin(self.seam.tell(connection.session, connection.namespace, EXPIRING, {"in": seconds}))

    def expire(self, connection: Connection) -> None:
        """End a connection whose token has expired."""
        if connection.state is not Connection.JOINED or connection.reason is not None:
            return
        session = connection.session
        others = [other for other in session.connections.values() if other is not connection and _lives(other)]
        if any(_outlives(other, connection) for other in others):
            connection.reason = "token_expired"
            self.pace.begin(self._disconnect(connection, RejectCode.TOKEN_EXPIRED))
            return
        for each in (connection, *others):
            each.reason = "token_expired"
        self._close(session, "token_expired", (connection, *others))

    def revoked(self, connection: Connection) -> None:
        """End a connection whose token was revoked."""
        if connection.state is Connection.JOINED and connection.reason is None:
            connection.reason = "token_revoked"
            self.pace.begin(self._disconnect(connection, RejectCode.TOKEN_REVOKED))

    async def _disconnect(self, connection: Connection, code: RejectCode | None) -> None:
        if code is not None:
            await self.seam.tell(connection.session, connection.namespace, CLOSING, _closing(code))
        await self.seam.leave(connection)

    # Several connections

    async def end_all(
        self, chosen: Iterable[Connection], reason: str, verdict: Refusal, detail: str | None = None
    ) -> int:
        """Disconnect connections, and refuse those that are being admitted.

        Args:
            chosen: which ones.
            reason: for the canonical line.
            verdict: for those that are being admitted.
            detail: the reason in other words.

        Returns:
            How many there were. Handlers of the application that take longer than `PATIENCE` are not waited for.
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
        code = verdict.code if verdict.code is RejectCode.TOKEN_REVOKED else None
        tasks = [self.pace.begin(self._disconnect(connection, code)) for connection in joined]
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        return count + len(joined)

    # Whole sessions

    def session(self, session: Session, reason: str) -> bool:
        """End a whole session for a reason that its client can mend.

        Returns:
            False when it has ended already.
        """
        if session.ending is not None or session not in self.seam.sessions.open:
            return False
        self._close(session, reason, [each for each in session.connections.values() if _lives(each)])
        return True

    def overdue(self, session: Session) -> None:
        """End a session that has joined no namespace."""
        self.session(session, "connect_timeout")

    def slow(self, session: Session) -> None:
        """End a session that does not read."""
        self.session(session, "slow_consumer")

    def cut(self, session: Session) -> None:
        """End a session at once whose client does not read that it is over."""
        self.seam.drop_queue(session.eio_sid)
        self.pace.begin(session.carrier.end(at_once=True))

    def _close(self, session: Session, reason: str, told: Iterable[Connection]) -> None:
        session.ending = reason
        told = tuple(told)
        for connection in told:
            connection.reason = connection.reason or reason
        if not any(connection.state is Connection.JOINED for connection in told):
            self.seam.identify(session)
            self._report.session_ended(session, reason, _HINTS.get(reason))
        self.pace.begin(self.close(session, reason, told))

    async def close(self, session: Session, reason: str, told: Iterable[Connection]) -> None:
        """Close the transport of a session.

        Args:
            session: the session; its ``ending`` is set.
            reason: why.
            told: the connections whose client is told why.
        """
        if reason == "slow_consumer":
            self.seam.drop_queue(session.eio_sid)
        else:
            closing = _closing_of(reason)
            namespaces = [each.namespace for each in told if each.state is Connection.JOINED]
            if not namespaces and reason == "connect_timeout":
                namespaces = ["/"]  # Where no client listens, a person who looks at the wire does.
            for namespace in namespaces:
                await self.seam.tell(session, namespace, CLOSING, closing)
        for task in tuple(session.reading or ()):
            task.cancel()
        carrier = session.carrier
        if carrier is None:
            await self.seam.let_go(session.eio_sid)
        else:
            await carrier.end(at_once=reason == "slow_consumer")


def _lives(connection: Connection) -> bool:
    return connection.state in (Connection.PENDING, Connection.JOINED) and connection.reason is None


def _outlives(other: Connection, connection: Connection) -> bool:
    """Whether one connection lives on when the authority of another has ended."""
    if other.state is Connection.PENDING:
        return True
    end, own = other.ends_at, connection.ends_at
    return end is None or own is None or end > own + TOGETHER


def _closing(code: RejectCode) -> dict[str, Any]:
    reply = REPLIES[code]
    return {"code": code.value, "message": reply.message, "retry": reply.retry}


def _closing_of(reason: str) -> dict[str, Any]:
    message = _MESSAGES.get(reason)
    return _closing(RejectCode(reason)) if message is None else {"code": reason, "message": message, "retry": "backoff"}


LONGEST = 8.0
"""Seconds. Docker kills a container 10 s after its SIGTERM (docker stop), Kubernetes 30 s."""

_BATCH = 25
_LAST_WORDS = 0.2
"""Seconds that the last sessions have to end, and again after their connections were cut."""

_PATIENCE = 0.2
"""Seconds after the drain for which the ASGI server may wait for connections."""


class Drain:
    """Empties a server.

    Args:
        seam: the server.
        gate: told to let nobody in.
        endings: ends the sessions.
        report: told when it begins and ends.
    """

    def __init__(self, seam: Seam, gate: Gate, endings: Endings, report: Report) -> None:
        self._seam = seam
        self._gate = gate
        self._endings = endings
        self._report = report
        self._running: asyncio.Task[int] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._over: float | None = None
        self._installed = False

    async def run(self, over: float) -> int:
        """End all sessions in random order; a second call waits for the first.

        Args:
            over: seconds over which they are spread.

        Returns:
            How many sessions were ended.
        """
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(over))
        return await asyncio.shield(self._running)

    async def _run(self, over: float) -> int:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._gate.draining = True
        sessions = list(self._seam.sessions.open)
        random.shuffle(sessions)
        self._report.drain_started(len(sessions), over)
        ended = 0
        for number, session in enumerate(sessions, 1):
            wait = begun + over * number / len(sessions) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % _BATCH == 0:
                await asyncio.sleep(0)
            ended += self._endings.session(session, "draining")
        # Those that were being made when it began.
        ended += sum([self._endings.session(session, "draining") for session in list(self._seam.sessions.open)])
        await self._endings.pace.settled(_LAST_WORDS)
        for session in [each for each in self._seam.sessions.open if each.carrier is not None and each.carrier.stopped]:
            # It was told, and does not even read that.
            self._endings.cut(session)
        await self._endings.pace.settled(_LAST_WORDS)
        self._report.drain_finished(ended, loop.time() - begun)
        return ended

    # SIGTERM

    def on_sigterm(self, over: float) -> None:
        """Drain at SIGTERM, before the ASGI server's own handler of it; see `SocketGuard.drain_on_sigterm`."""
        self._over = over
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # When the application starts.
        self.install()

    def install(self) -> None:
        """Chain the handler of SIGTERM, where one was asked for and can be."""
        if self._over is None or self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._installed = True
        loop, over = asyncio.get_running_loop(), self._over
        previous = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            _hurry(previous)
            if self._running is not None or loop.is_closed():
                _call(previous, number, frame)  # Whoever asks twice doesn't want to wait.
                return
            loop.call_soon_threadsafe(begin)

        def begin() -> None:
            self._leaving = loop.create_task(self._leave(over, previous))

        signal.signal(signal.SIGTERM, handle)

    async def _leave(self, over: float, previous: Any) -> None:
        try:
            await self.run(over)
        finally:
            _call(previous, signal.SIGTERM, None)


def _hurry(handler: Any) -> None:
    """Keep uvicorn from waiting for ever for a connection whose client reads nothing or has sent half of a request.

    It looks at this when it shuts down, cancels what is left, and then still ends the lifespan of the application.
    """
    config: Any = getattr(getattr(handler, "__self__", None), "config", None)
    if hasattr(config, "timeout_graceful_shutdown"):
        own = config.timeout_graceful_shutdown
        config.timeout_graceful_shutdown = _PATIENCE if own is None else min(own, _PATIENCE)


def _call(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def findings(over: float) -> list[Finding]:
    """What a person should know about the length of a drain."""
    if over <= LONGEST:
        return []
    return [finding("SG052", over=over, longest=LONGEST)]
