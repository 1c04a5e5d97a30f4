"""When the authority of a joined connection ends, and the notice before that.

This module is pure: it knows identities and clocks, and leaves to its callbacks what is sent and what is closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from socketguard.connection import Connection, Identity

from .timers import Timers

__all__ = ["Lifetime"]

# A notice that leaves no time to act on is no use.
_LEAST_NOTICE = 1.0


class Lifetime:
    """Expiry and notice of joined connections, with one timer of the loop for all of them.

    The callbacks run in a turn of the loop of their own, never from within `begin` or `renew`.
    """

    __slots__ = ("_clock", "_ends_at", "_expire", "_notice", "_notify", "_timers")

    def __init__(
        self,
        *,
        ends_at: Callable[[Identity], float | None],
        clock: Callable[[], float],
        notice: float | None,
        notify: Callable[[Connection, int], None],
        expire: Callable[[Connection], None],
    ) -> None:
        """
        Args:
            ends_at: tells when a connection of this identity must end, in seconds of the clock; None: never.
            clock: the clock by which tokens are verified, in seconds since the epoch.
            notice: how many seconds before the end ``notify`` is called; None: not at all.
            notify: called with the connection and the whole seconds that are left. By then the end is set already: a
                notice that fails doesn't prolong anything.
            expire: called once the end has come.
        """
        self._ends_at = ends_at
        self._clock = clock
        self._notice = notice
        self._notify = notify
        self._expire = expire
        self._timers = Timers(self._fire, clock=clock)

    def __len__(self) -> int:
        """How many connections have an end before them."""
        return len(self._timers)

    def begin(self, connection: Connection) -> None:
        """Watch over a connection that has joined.

        The notice is given at once when less than ``notice`` seconds are left; a connection whose end has passed
        expires at once, without notice.

        Args:
            connection: the connection; its ``timer`` belongs to this object.

        Raises:
            RuntimeError: no event loop is running.
            ValueError: the end is NaN.
        """
        self._watch(connection, self._notice)

    def renew(self, connection: Connection) -> None:
        """Watch over a connection whose ``identity`` has been replaced by that of a fresh token.

        The next notice waits until half of what is left has passed, at least. Otherwise a client that answers each
        notice with a refresh would be told again at once, and refresh without end, when its tokens live for less than
        ``notice`` seconds or it sends the same token again.

        Args:
            connection: the connection.

        Raises:
            RuntimeError: no event loop is running.
            ValueError: the end is NaN.
        """
        notice = self._notice
        end = self._ends_at(connection.identity)
        if notice is not None and end is not None:
            notice = min(notice, (end - self._clock()) / 2)
            if notice < _LEAST_NOTICE:
                notice = None
        self._watch(connection, notice)

    def end(self, connection: Connection) -> None:
        """Watch no longer; any number of times.

        Args:
            connection: the connection.
        """
        entry, connection.timer = connection.timer, None
        self._timers.cancel(entry)

    def is_over(self, connection: Connection) -> bool:
        """Whether the end has come by the clock, even if the timer has not fired yet; it reads the clock only.

        Args:
            connection: the connection, which is or was watched.
        """
        end = connection.ends_at
        # Written so that by a clock of NaN everything is over that has an end at all.
        return end is not None and not self._clock() < end

    def seconds_left(self, connection: Connection) -> int | None:
        """How long the connection may stay open.

        Args:
            connection: the connection, watched or not.

        Returns:
            Whole seconds, rounded as for ``notify``; 0 once it is over, None when it never is.
        """
        end = self._ends_at(connection.identity)
        if end is None or end == math.inf:
            return None
        left = end - self._clock()
        return round(left) if left > 0 else 0

    def wake(self) -> None:
        """Look at the clock now, after it was moved by hand.

        Raises:
            RuntimeError: no event loop is running.
        """
        self._timers.wake()

    def close(self) -> None:
        """Watch over no connection any longer; new ones may begin afterwards."""
        self._timers.close()

    def _watch(self, connection: Connection, notice: float | None) -> None:
        self.end(connection)
        end = connection.ends_at = self._ends_at(connection.identity)
        if end is not None:
            connection.timer = self._timers.set(end if notice is None else end - notice, connection)

    def _fire(self, connection: Connection) -> None:
        connection.timer = None
        end = self._ends_at(connection.identity)
        if end is None:
            return
        left = end - self._clock()
        # Written so that a clock of NaN ends it.
        if not left > 0:
            self._expire(connection)
            return
        # What comes before the end is the notice.
        connection.timer = self._timers.set(end, connection)
        if self._notice is not None:
            self._notify(connection, round(left))
