"""Asks each second what is due in the log and in the patterns of traffic, until the one tick of the server does."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING

from socketguard.connection import Session
from socketguard.diagnosis.delivery import Delivery
from socketguard.diagnosis.traffic import Patterns
from socketguard.logs.report import Report

if TYPE_CHECKING:
    from .attach import Seam

EVERY = 1.0


class Bridge:
    """One timer for `Floods.due`, `Patterns.due` and `Delivery.due`, from the first request or session on."""

    seam: Seam

    def __init__(self, patterns: Patterns, delivery: Delivery, report: Report) -> None:
        self.patterns = patterns
        self.delivery = delivery
        self.report = report
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def opened(self, session: Session) -> None:
        """A session was made."""
        self.patterns.opened(session)
        self.start()

    def closed(self, session: Session) -> None:
        """A session has ended."""
        self.patterns.closed(session, pinged=self.seam.pinged(session.eio_sid))

    def start(self) -> None:
        """Begin to ask, in the loop that runs."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._tick()

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None
        self.report.rejections.close()

    def _tick(self) -> None:
        now = time.monotonic()
        self.report.rejections.due(now)
        for pattern, stands, fields in self.patterns.due(now):
            self.report.pattern(pattern, stands, fields)
        for reason, more in self.delivery.due(now):
            self.report.undelivered(reason, more)
        if self._loop is not None:
            self._timer = self._loop.call_later(EVERY, self._tick, context=contextvars.Context())
