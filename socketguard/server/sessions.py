"""The open sessions and connections: how many, which have joined nothing for too long, which don't read."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator

from socketguard.admission import subject_key
from socketguard.connection import Connection, Session
from socketguard.diagnosis.traffic import Patterns
from socketguard.limits.counters import Ledger, Limits
from socketguard.limits.timers import Timers

from .engine import Engine
from .socket import Socket

__all__ = ["GRACE", "Sessions"]

GRACE = 5.0
"""Seconds for which a client may take nothing while more than ``queue_bytes`` wait for it: the time of some megabytes
on a slow line, during which a packet is not done. Slow is who doesn't read for so long, not who has much to read."""

GRACE_OF_HANDLERS = 1.0
"""Seconds that a connect handler has to end after it was cancelled."""

SWEEPS = 3
"""How many times within ``send_timeout`` it is looked whether anything was sent. A round is a fraction of a
millisecond per thousand sessions."""


class Sessions:
    """The open sessions of one server, and the connections in them; `due` hands out those that are to be ended.

    Attributes:
        open: the sessions.
        pending: how many of them have joined no namespace.
        connections: those whose connect handler runs, that have joined, or whose disconnect handler runs, by their sid.
        admitting: those whose CONNECT has not been answered yet, with the moment at which that is due.
    """

    def __init__(
        self, engine: Engine, limits: Limits, ledger: Ledger, patterns: Patterns, *, connect_timeout: float | None
    ) -> None:
        self.limits = limits
        self.open: dict[Session, Socket] = {}
        self.connections: dict[str, Connection] = {}
        self.admitting: dict[Connection, float] = {}
        self._engine = engine
        self._ledger = ledger
        self._patterns = patterns
        self._connect_timeout = connect_timeout
        # Of a session that has joined nothing, and of one that holds too much (with what it had taken by then).
        self._timers = Timers()
        self._sweep_at = math.inf
        self._swept: dict[Session, tuple[int, int]] = {}

    def everybody(self) -> list[Connection]:
        """All connections, those that are being admitted among them."""
        return [*self.connections.values(), *(each for each in self.admitting if not each.sid)]

    @property
    def waiting(self) -> int:
        """How many sessions have a deadline for joining a namespace."""
        return sum(session.timer is not None for session in self.open)

    # Sessions

    def opened(self, socket: Socket) -> float:
        """A session was made. Returns in how many seconds that makes something due."""
        session = socket.record
        self.open[session] = socket
        self._ledger.open_session(session.client_address)
        self._patterns.opened(session)
        self._wait(session)
        if self._sweep_at == math.inf and self.limits.send_timeout is not None:
            self._sweep_at = time.monotonic() + self.limits.send_timeout / SWEEPS
        return math.inf if self._connect_timeout is None else self._connect_timeout

    def closed(self, session: Session) -> None:
        """A session has ended."""
        if session not in self.open:
            return
        socket = self.open.pop(session)
        self._patterns.closed(session, pinged=socket.pinged)
        self._ledger.close_session(session.client_address)
        if not session.joined:
            self._settle(session)
        if not self.open:
            self._sweep_at = math.inf
            self._swept = {}

    def joined(self, session: Session) -> None:
        """A session has joined a namespace; it may have ended while the connect handler ran."""
        if not session.joined and session in self.open:
            self._settle(session)
        session.joined += 1

    def left(self, session: Session) -> None:
        """A session has left a namespace: it goes on, or is about to be closed."""
        session.joined -= 1
        if session.joined or session not in self.open:
            return
        if self._engine.alive(session.eio_sid):
            self._wait(session)
        else:
            self._ledger.wait(session.client_address)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        connection.state = Connection.ENDED
        session, subject = connection.session, subject_key(connection.identity)
        if subject is not None:
            session.who = hash(subject)
        if connection.held:
            self._ledger.release(subject, connection.client_address)
            connection.held = False
        if session.connections.get(connection.namespace) is connection:
            del session.connections[connection.namespace]
            if (socket := self.open.get(session)) is not None:
                # What the application kept of it is no business of whoever joins next.
                socket.session.pop(connection.namespace, None)
        self.connections.pop(connection.sid, None)

    def clear(self) -> None:
        """Forget all sessions."""
        for session in list(self.open):
            self.closed(session)
        self._timers.clear()

    def _wait(self, session: Session) -> None:
        self._ledger.wait(session.client_address)
        self._set_deadline(session)

    def _set_deadline(self, session: Session) -> None:
        if self._connect_timeout is not None:
            session.timer = self._timers.set(time.monotonic() + self._connect_timeout, (session, None))

    def _settle(self, session: Session) -> None:
        self._ledger.settle(session.client_address)
        self._timers.cancel(session.timer)
        session.timer = None

    # What is due

    @property
    def wait(self) -> float:
        """In how many seconds something is due at the earliest; infinity when nothing is."""
        due = min(self._timers.next, self._sweep_at)
        if self.admitting:
            due = min(due, next(iter(self.admitting.values())))
        return due - time.monotonic()

    def due(self, most: int) -> Iterator[tuple[Session, str]]:
        """Sessions that are to be ended, and why: at most so many, but for those that a round finds."""
        now = time.monotonic()
        self._watch_overfull()
        for session, taken in self._timers.due(now, most):
            if taken is None:
                session.timer = None
                if session.connections:
                    # A CONNECT is being decided, which has a deadline of its own.
                    self._set_deadline(session)
                else:
                    yield session, "connect_timeout"
            elif self._still_too_much(self.open.get(session), taken):
                yield session, "slow_consumer"
        if now >= self._sweep_at:
            for session in self._sweep(now):
                yield session, "slow_consumer"

    def overdue(self, most: int) -> Iterator[Connection]:
        """Connections that are not decided in time, at most so many; each once, and once more after a grace."""
        now = time.monotonic()
        for connection in list(itertools.islice(self.admitting, most)):
            if self.admitting[connection] > now:
                return
            # To the end of the line: all have the same time.
            del self.admitting[connection]
            self.admitting[connection] = now + GRACE_OF_HANDLERS
            yield connection

    # Clients that don't read

    def _watch_overfull(self) -> None:
        """Have those looked at again for which too much has come to wait since the last time."""
        overfull = self._engine.overfull
        while overfull:
            socket, since, sent = overfull.popleft()
            self._timers.set(since + GRACE, (socket.record, sent))

    def _still_too_much(self, socket: Socket | None, sent: int) -> bool:
        if socket is None or socket.closing:
            return False
        if socket.watched == 2:
            return True
        if not socket.full:
            socket.watched = 0
            return False
        if socket.sent == sent and socket.blocked:
            return True
        self._timers.set(time.monotonic() + GRACE, (socket.record, socket.sent))
        return False

    def _sweep(self, now: float) -> list[Session]:
        """The sessions from which nothing has left in the last rounds though something waits."""
        before, self._swept = self._swept, {}
        for session, socket in self.open.items():
            if socket.size and not socket.closing:
                sent, rounds = before.get(session, (-1, 0))
                self._swept[session] = (socket.sent, rounds + 1 if sent == socket.sent else 0)
        self._sweep_at = now + (self.limits.send_timeout or math.inf) / SWEEPS
        return [session for session, (_, rounds) in self._swept.items() if rounds >= SWEEPS]
