"""The Engine.IO sessions that are open: how many, which have joined nothing for too long, which don't read.

It knows no python-socketio: what is to be done about a session is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from socketguard.connection import Session
from socketguard.limits.counters import Ledger, Limits
from socketguard.limits.timers import Timers

__all__ = ["GRACE", "Sessions"]

GRACE = 5.0
"""Seconds for which a client may take nothing while more than ``queue_bytes`` wait for it: the time of some megabytes
on a slow line, during which a packet is not done."""

BURST = 4
"""So many times ``queue_bytes`` are too much at once, whether the client reads or not."""

SWEEPS = 3
"""How many times within ``send_timeout`` it is looked whether anything was sent."""


class Watch(Protocol):
    """See `socketguard.server.bridge.Bridge`."""

    def opened(self, session: Session) -> None: ...

    def closed(self, session: Session) -> None: ...


class Sessions:
    """The open sessions of one server.

    Args:
        limits: the limits.
        ledger: counts sessions by address.
        connect_timeout: seconds that a session may be without a namespace; None for ever.
        overdue: called with a session that was without a namespace for that long.
        slow: called with a session that does not read what is sent to it.
        watch: told of each session that is opened and closed.
    """

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        *,
        connect_timeout: float | None,
        overdue: Callable[[Session], None],
        slow: Callable[[Session], None],
        watch: Watch | None = None,
    ) -> None:
        self.limits = limits
        self.ledger = ledger
        self.connect_timeout = connect_timeout
        self.open: set[Session] = set()
        self.pending = 0
        self._overdue = overdue
        self._slow = slow
        self._watch = watch
        self._timers = Timers(self._expire, clock=time.monotonic)
        self._sweeper: asyncio.TimerHandle | None = None
        self._queue_bytes = math.inf if limits.queue_bytes is None else limits.queue_bytes

    @property
    def timers(self) -> int:
        """How many sessions have a deadline for joining a namespace."""
        return len(self._timers)

    def opened(self, session: Session) -> None:
        """A session was made."""
        self.open.add(session)
        self.ledger.open_session(session.client_address)
        if self._watch is not None:
            self._watch.opened(session)
        self._wait(session)
        if self._sweeper is None and self.limits.send_timeout is not None:
            self._sweeper = self._later(self.limits.send_timeout / SWEEPS, self._sweep, self.limits.send_timeout, {})

    def closed(self, session: Session) -> None:
        """A session has ended."""
        if session not in self.open:
            return
        self.open.discard(session)
        if self._watch is not None:
            self._watch.closed(session)
        self.ledger.close_session(session.client_address)
        if not session.joined:
            self._settle(session)

    def joined(self, session: Session) -> None:
        """A session has joined a namespace."""
        if not session.joined:
            self._settle(session)
        session.joined += 1

    def left(self, session: Session, *, alive: bool = True) -> None:
        """A session has left a namespace.

        Args:
            session: the session.
            alive: whether it goes on; otherwise it is about to be closed.
        """
        session.joined -= 1
        if session.joined or session not in self.open:
            return
        if alive:
            self._wait(session)
        else:
            self.pending += 1

    def clear(self) -> None:
        """Forget all sessions."""
        for session in list(self.open):
            self.closed(session)
        self._timers.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _wait(self, session: Session) -> None:
        self.pending += 1
        if self.connect_timeout is not None:
            session.timer = self._timers.set(time.monotonic() + self.connect_timeout, session)

    def _settle(self, session: Session) -> None:
        self.pending -= 1
        self._timers.cancel(session.timer)
        session.timer = None

    def _expire(self, session: Session) -> None:
        session.timer = None
        if session.connections and self.connect_timeout is not None:
            # A CONNECT is being decided, which has a deadline of its own.
            session.timer = self._timers.set(time.monotonic() + self.connect_timeout, session)
        else:
            self._overdue(session)

    # Clients that don't read

    def too_much(self, session: Session, size: int) -> bool:
        """Whether a session that holds more than ``queue_bytes`` holds too much.

        The largest packet that waits does not count: alone, a packet may be as large as it likes, and the header of
        a binary event goes before its attachment.

        Args:
            session: the session; its ``handed`` holds the packet already.
            size: of the packet that was just handed over, in bytes.

        Returns:
            True when it is to be ended at once. Otherwise it has `GRACE` seconds to take something.
        """
        if not session.watched:
            session.watched = True
            session.largest = 0
            self._later(GRACE, self._look_again, session, session.done)
        session.largest = max(session.largest, size)
        return session.handed - session.done - session.largest > self._queue_bytes * BURST

    def _look_again(self, session: Session, done: int) -> None:
        waiting = session.handed - session.done
        if session.ending is not None or session not in self.open or waiting <= self._queue_bytes:
            session.watched = False
        elif session.done == done and waiting - session.largest > self._queue_bytes:
            self._slow(session)
        else:
            self._later(GRACE, self._look_again, session, session.done)

    @staticmethod
    def _later(seconds: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        # An empty context: that of a handler would keep its connection in memory.
        return asyncio.get_running_loop().call_later(seconds, callback, *args, context=contextvars.Context())

    def _sweep(self, send_timeout: float, before: dict[Session, tuple[int, int]]) -> None:
        """Find sessions from which nothing has left since the last rounds. A round is a fraction of a millisecond per
        thousand sessions."""
        found: dict[Session, tuple[int, int]] = {}
        for session in self.open:
            if session.handed > session.done and session.ending is None:
                done, rounds = before.get(session, (-1, 0))
                found[session] = (session.done, rounds + 1 if done == session.done else 0)
        for session, (_, rounds) in found.items():
            if rounds >= SWEEPS:
                self._slow(session)
        self._sweeper = None
        if self.open:
            self._sweeper = self._later(send_timeout / SWEEPS, self._sweep, send_timeout, found)
