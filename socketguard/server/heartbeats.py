"""The pings of all sessions, and until when each must be answered (Engine.IO v4: the server pings)."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

__all__ = ["Beat", "Heartbeats"]

_PING = "2"
# Pings that lie so many seconds ahead are sent along: one turn of the loop for many costs less than one for each.
_TOGETHER = 0.01


class Beat:
    """Where one session stands: in which of the two lines, and since when."""

    __slots__ = ("at", "pinged", "socket")

    def __init__(self, at: float, socket: Any) -> None:
        self.at = at
        self.pinged = False
        self.socket = socket


class Heartbeats:
    """Two lines of sessions, by the time of their last pong and by that of their last ping.

    Interval and timeout are the same for all and read as they are now, so that the one who waits longest is always in
    front: nothing is sorted, and nothing is looked for.
    """

    def __init__(self, eio: Any) -> None:
        self._eio = eio
        self._rested: deque[Beat] = deque()
        self._pinged: deque[Beat] = deque()

    def begin(self, socket: Any) -> float:
        """Watch over a session; returns in how many seconds its first ping is due."""
        beat = socket.beat = Beat(time.monotonic(), socket)
        self._rested.append(beat)
        return float(self._eio.ping_interval)

    def pong(self, socket: Any) -> float:
        """The session has answered; returns in how many seconds it is pinged again."""
        beat = socket.beat
        if beat is None or not beat.pinged:
            return math.inf
        beat.socket = None
        return self.begin(socket)

    @staticmethod
    def end(socket: Any) -> None:
        """Watch over a session no longer."""
        if socket.beat is not None:
            # It goes from its line with its turn, and holds nothing until then.
            socket.beat.socket = None
            socket.beat = None

    @property
    def wait(self) -> float:
        """In how many seconds something is due at the earliest; infinity when nothing is."""
        due = math.inf
        if self._rested:
            # Rather a little early than late: the client counts from its own end.
            due = self._rested[0].at + self._eio.ping_interval - _TOGETHER / 2
        if self._pinged:
            due = min(due, self._pinged[0].at + self._eio.ping_timeout)
        return due - time.monotonic()

    def ping(self, most: int) -> None:
        """Ping those whose turn it is, at most so many."""
        now = time.monotonic()
        rested, due = self._rested, now + _TOGETHER - self._eio.ping_interval
        for _ in range(most):
            if not rested or rested[0].at > due:
                return
            beat = rested.popleft()
            if beat.socket is not None:
                beat.at, beat.pinged = now, True
                self._pinged.append(beat)
                beat.socket.put(_PING)

    def silent(self, most: int) -> Iterator[Any]:
        """Those that have not answered in time, at most so many."""
        pinged, due = self._pinged, time.monotonic() - self._eio.ping_timeout
        for _ in range(most):
            if not pinged or pinged[0].at >= due:
                return
            socket = pinged.popleft().socket
            if socket is not None:
                yield socket

    def is_silent(self, socket: Any) -> bool:
        """Whether a session has not answered in time, and nobody has looked yet."""
        beat = socket.beat
        late = beat is not None and beat.pinged and time.monotonic() - beat.at > self._eio.ping_timeout
        return bool(late)

    def wait_again(self, socket: Any) -> None:
        """Give one that is silent as much time once more."""
        socket.beat.at = time.monotonic()
        self._pinged.append(socket.beat)

    def forgive(self) -> None:
        """Let all that were pinged answer once more from now on: the loop stood, so that nobody could be heard."""
        now = time.monotonic()
        for beat in self._pinged:
            beat.at = now
