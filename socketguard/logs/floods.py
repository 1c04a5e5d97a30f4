"""Holds back refusals that repeat, and counts them: nobody can fill a disk, or hide one attack behind another."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Any

from socketguard.connection import address_key
from socketguard.errors import ConfigurationError

from .events import REJECTED
from .sink import EventLog

__all__ = ["RejectionLog", "Suppressor"]

_Key = tuple[str | None, str]
OVERFLOW = "*"
"""Stands for the source where too many sources are refused at once to be told apart."""


_OVERFLOW_LIMIT = 64


class _Window:
    __slots__ = ("ends", "passed", "suppressed")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.passed = 1
        self.suppressed = 0


def _group(source: str | None) -> str | None:
    return None if source is None else address_key(source)


class Suppressor:
    """Decides which of many like lines are written, and counts the others.

    Logging must not exhaust the disk (OWASP Logging Cheat Sheet), and a flood of one kind must not hide another. So
    for each source and reason the first ``burst`` lines of a window pass and the rest is counted; the first line after
    the window carries the count. Memory is bounded whatever the number of sources.
    """

    __slots__ = ("_burst", "_clock", "_ended", "_max_sources", "_overflow", "_window", "_windows")

    def __init__(
        self,
        *,
        burst: int = 5,
        window: float = 60.0,
        max_sources: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            burst: how many lines of one source and reason pass within a window.
            window: its length in seconds, from the first line on.
            max_sources: how many pairs of source and reason are told apart; beyond that, and when no window has
                ended, everything new shares one count per reason.
            clock: seconds, monotonic.

        Raises:
            ConfigurationError: a number is not positive.
        """
        for option, value in (("burst", burst), ("window", window), ("max_sources", max_sources)):
            if not value > 0:
                raise ConfigurationError(f"{option} must be greater than 0, not {value!r}", option=option)
        self._burst = burst
        self._window = window
        self._max_sources = max_sources
        self._clock = clock
        # In the order in which the windows end: a window that begins anew goes to the end.
        self._windows: dict[_Key, _Window] = {}
        self._overflow: dict[_Key, _Window] = {}
        self._ended: dict[_Key, int] = {}

    def admit(self, source: str | None, reason: str) -> int | None:
        """Ask whether a line may be written.

        Args:
            source: who caused it, usually an address; IPv6 addresses count as their /64.
            reason: why, a word of a closed set, to which a part from the client may be joined by a colon.

        Returns:
            None when the line is to be suppressed (it is counted). Otherwise how many like it were suppressed before,
            usually 0.
        """
        now = self._clock()
        windows, key = self._place(source, reason)
        if windows is self._overflow and self._evict(now):
            windows, key = self._windows, (_group(source), reason)
        window = windows.get(key)
        if window is not None and now < window.ends:
            if window.passed < self._burst:
                window.passed += 1
                return 0
            window.suppressed += 1
            return None
        count = 0 if window is None else window.suppressed
        windows.pop(key, None)
        windows[key] = _Window(now + self._window)
        return count

    def bucket(self, source: str | None, reason: str) -> tuple[str | None, str]:
        """The source and reason under which a line just suppressed was counted, as `flush` names them."""
        return self._place(source, reason)[1]

    def _place(self, source: str | None, reason: str) -> tuple[dict[_Key, _Window], _Key]:
        key = (_group(source), reason)
        if key in self._windows or len(self._windows) < self._max_sources:
            return self._windows, key
        # Only the part before a colon counts now: what follows it may be from a client, hence without end.
        shared = (OVERFLOW, reason.partition(":")[0])
        if shared not in self._overflow and len(self._overflow) >= _OVERFLOW_LIMIT:
            shared = (OVERFLOW, OVERFLOW)
        return self._overflow, shared

    def _evict(self, now: float) -> bool:
        key, window = next(iter(self._windows.items()))
        if now < window.ends:
            return False
        del self._windows[key]
        if window.suppressed:
            if len(self._ended) >= self._max_sources:
                key = (OVERFLOW, key[1])
            self._ended[key] = self._ended.get(key, 0) + window.suppressed
        return True

    @property
    def has_ended(self) -> bool:
        """Whether counts wait whose window was given up for a newer one."""
        return bool(self._ended)

    def next_end(self) -> float | None:
        """In how many seconds the first window ends that has suppressed something; None when none has."""
        ends = [window.ends for window in self._all().values() if window.suppressed]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def flush(self) -> list[tuple[str | None, str, int]]:
        """Take out the counts of windows that have ended.

        Returns:
            Source (an IPv6 /64 for such addresses, ``*`` for the shared count), reason, and how many were suppressed.
        """
        return self._take(self._clock())

    def drain(self) -> list[tuple[str | None, str, int]]:
        """Take out all counts, also of windows that still run, and forget everything: for the end."""
        return self._take(float("inf"))

    def _all(self) -> dict[_Key, _Window]:
        return {**self._windows, **self._overflow}

    def _take(self, now: float) -> list[tuple[str | None, str, int]]:
        counts = self._ended
        self._ended = {}
        for key, window in self._all().items():
            if window.ends <= now:
                self._windows.pop(key, None)
                self._overflow.pop(key, None)
                if window.suppressed:
                    counts[key] = counts.get(key, 0) + window.suppressed
        return [(source, reason, count) for (source, reason), count in counts.items()]


class RejectionLog:
    """Writes refusals through a `Suppressor`, so that nobody can fill a disk with them.

    What was suppressed becomes visible even when nothing more comes: at the end of the window the last suppressed
    event is written with ``suppressed=<count>`` and ``summary=True``. Belongs to one event loop.
    """

    __slots__ = ("_last", "_log", "_loop", "_suppressor", "_timer")

    def __init__(self, log: EventLog, suppressor: Suppressor) -> None:
        """
        Args:
            log: where the lines go.
            suppressor: what decides which.
        """
        self._log = log
        self._suppressor = suppressor
        self._last: dict[_Key, tuple[str, dict[str, Any]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, event: str, source: str | None, reason: str, fields: dict[str, Any]) -> bool:
        """Write an event, unless its source has had its share of lines for this reason.

        Args:
            event: one of the names in `socketguard.events`.
            source: who caused it, usually the address of the client.
            reason: why, a word of a closed set.
            fields: what goes with it.

        Returns:
            True when a line was written.
        """
        suppressed = self._suppressor.admit(source, reason)
        key = self._suppressor.bucket(source, reason)
        if suppressed is None:
            self._last[key] = (event, fields)
            self._arm()
            return False
        self._last.pop(key, None)
        if self._suppressor.has_ended:
            self._flush(self._suppressor.flush())
        self._log.emit(event, {**fields, "suppressed": suppressed} if suppressed else fields)
        return True

    def close(self) -> None:
        """Cancel the timer and write what is pending."""
        self._disarm()
        self._flush(self._suppressor.drain())

    def _arm(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the counts come with the next line, or with close()
        if self._timer is not None and self._loop is loop:
            return
        self._disarm()
        delay = self._suppressor.next_end()
        if delay is not None:
            self._loop = loop
            self._timer = loop.call_later(
                # An empty context: the summary belongs to no connection, and must not keep one alive.
                max(delay, 0.001),
                self._ring,
                context=contextvars.Context(),
            )

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _ring(self) -> None:
        self._timer = None
        self._flush(self._suppressor.flush())
        self._arm()

    def _flush(self, counts: list[tuple[str | None, str, int]]) -> None:
        for source, reason, count in counts:
            unknown = (REJECTED, {"reason": reason, "client_address": source})
            event, fields = self._last.pop((source, reason), unknown)
            self._log.emit(event, {**fields, "suppressed": count, "summary": True})
