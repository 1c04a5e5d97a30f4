"""Holds back refusals that repeat, and counts them: nobody can fill a disk, or hide one attack behind another."""

from __future__ import annotations

import math
import time
from typing import Any, TypeAlias

from socketguard.connection import address_key

from .sink import EventLog, told

__all__ = ["Floods"]

_Key: TypeAlias = tuple[str | None, str]
_OVERFLOW = "*"  # stands for the source where too many sources are refused at once to be told apart
_OVERFLOW_LIMIT = 64


class Window:
    """The lines of one source and reason within a time: how many passed, and the last one that did not."""

    __slots__ = ("ends", "last", "passed", "suppressed")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.passed = 1
        self.suppressed = 0
        self.last: tuple[str, dict[str, Any], str | None] = ("", {}, None)


_Windows: TypeAlias = dict[_Key, Window]


class Floods:
    """Writes lines of which there may be many alike, and counts what is too many.

    Logging must not exhaust the disk (OWASP Logging Cheat Sheet), and a flood of one kind must not hide another. So
    for each source and reason the first ``burst`` lines within ``window`` seconds from the first one on pass, and the
    rest is counted. The first line after the window carries the count; when none comes, the last line that was held
    back is written by `due`, with ``suppressed=<count>`` and ``summary=True``. Memory is bounded: beyond
    ``max_sources`` pairs, and when no window has ended, everything new shares one count per reason.
    """

    def __init__(self, log: EventLog, *, burst: int = 5, window: float = 60.0, max_sources: int = 1024) -> None:
        self._log = log
        self._burst = burst
        self._window = window
        self._max_sources = max_sources
        # In the order in which they end: a window that begins anew goes to the end.
        self._windows: _Windows = {}
        self._overflow: _Windows = {}

    def emit(
        self,
        event: str,
        source: str | None,
        reason: str,
        fields: dict[str, Any],
        *,
        exc_info: BaseException | None = None,
        now: float | None = None,
    ) -> bool:
        """Write an event, unless its source has had its share of lines for this reason; True when it was written.

        IPv6 addresses count as their /64. The reason is made of words of our own, never of a client's: whoever chose it
        could have as many lines as he likes. ``now`` is in seconds of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        windows, key = self._place(source, reason, now)
        window = windows.get(key)
        if window is not None and now < window.ends:
            if window.passed >= self._burst:
                window.suppressed += 1
                # Its text: an exception would keep alive all that was there when it was raised.
                window.last = (event, fields, None if exc_info is None else told(exc_info))
                return False
            window.passed += 1
            self._log.emit(event, fields, exc_info=exc_info)
            return True
        if window is not None:
            del windows[key]
            if window.suppressed:
                fields = {**fields, "suppressed": window.suppressed}
        windows[key] = Window(now + self._window)
        self._log.emit(event, fields, exc_info=exc_info)
        return True

    @property
    def held_back(self) -> bool:
        """Whether there are lines of which only the count is known yet."""
        return any(window.suppressed for windows in (self._windows, self._overflow) for window in windows.values())

    def due(self, now: float) -> None:
        """Write what was held back in windows that have ended, and forget them."""
        for windows in (self._windows, self._overflow):
            while windows and self._close_first(windows, now):
                pass

    def close(self) -> None:
        """Write all that was held back, and forget everything."""
        self.due(math.inf)

    def _place(self, source: str | None, reason: str, now: float) -> tuple[_Windows, _Key]:
        key = (None if source is None else address_key(source), reason)
        if key in self._windows or len(self._windows) < self._max_sources or self._close_first(self._windows, now):
            return self._windows, key
        # Only the part before a colon counts now.
        shared = (_OVERFLOW, reason.partition(":")[0])
        if shared not in self._overflow and len(self._overflow) >= _OVERFLOW_LIMIT:
            shared = (_OVERFLOW, _OVERFLOW)
        return self._overflow, shared

    def _close_first(self, windows: _Windows, now: float) -> bool:
        key, window = next(iter(windows.items()))
        if now < window.ends:
            return False
        del windows[key]
        if window.suppressed:
            event, fields, exception = window.last
            summary = {**fields, "suppressed": window.suppressed, "summary": True}
            self._log.emit(event, summary if exception is None else {**summary, "exception": exception})
        return True
