"""Feeds `socketguard.patterns`, and tells what it finds: once a second, for as long as the guard is there."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable

from .connection import Session
from .patterns import Patterns

__all__ = ["PatternWatch"]

_EVERY = 1.0


class PatternWatch:
    """Watches the sessions of a server together.

    Args:
        patterns: what is fed.
        pinged: tells whether a session has been sent a ping that it did not answer.
    """

    def __init__(self, patterns: Patterns, pinged: Callable[[str], bool]) -> None:
        self.patterns = patterns
        self._pinged = pinged
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def opened(self, session: Session) -> None:
        """A session was made."""
        self.patterns.opened(session.client_address)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._later(loop)

    def closed(self, session: Session) -> None:
        """A session has ended."""
        now = time.monotonic()
        self.patterns.closed(
            session.ending or session.left_by or "transport close",
            session.transport,
            now - session.started,
            now - session.active,
            session.carrier is not None,
            pinged=self._pinged(session.eio_sid),
            address=session.client_address,
        )

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_EVERY, self._tick, loop, context=contextvars.Context())

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.patterns.tick(time.monotonic())
        self._later(loop)
