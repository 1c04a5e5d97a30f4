"""When the authority of a joined connection ends, and the notice before that."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Protocol

from socketguard.connection import Connection, Identity

from .timers import Timers

__all__ = ["Authority", "Expiry"]

# A notice that leaves no time to act on is no use.
_LEAST_NOTICE = 1.0
_BY_HAND = 0.01  # seconds


class Authority(Protocol):
    """What has verified an identity: its clock (seconds since the epoch), and until when it stands behind it."""

    @property
    def moves_by_hand(self) -> bool: ...
    def now(self) -> float: ...
    def ends_at(self, identity: Identity) -> float | None: ...


class Expiry:
    """The ends of joined connections, and the notices before them; `due` hands them out."""

    __slots__ = ("_authority", "_clock", "_notice", "_report_only", "_timers")

    def __init__(self, authority: Authority | None, notice: float | None, *, report_only: bool = False) -> None:
        self._authority = authority
        self._clock = time.time if authority is None else authority.now
        self._notice = None if report_only else notice
        self._report_only = report_only
        self._timers = Timers()

    def __len__(self) -> int:
        """How many connections have an end before them."""
        return len(self._timers)

    def begin(self, connection: Connection) -> float:
        """Watch over a connection that has joined, and return in how many seconds it is due for something.

        Its ``timer`` and ``ends_at`` belong to this object.
        """
        return self._watch(connection, self._notice)

    def renew(self, connection: Connection) -> float:
        """The same for a connection whose ``identity`` has been replaced by that of a fresh token.

        The next notice waits until half of what is left has passed, at least. Otherwise a client that answers each
        notice with a refresh would be told again at once, and refresh without end, when its tokens live for less than
        the notice or it sends the same token again.
        """
        notice = self._notice
        end = self._end_of(connection)
        if notice is not None and end is not None:
            notice = min(notice, (end - self._clock()) / 2)
            if notice < _LEAST_NOTICE:
                notice = None
        return self._watch(connection, notice)

    def end(self, connection: Connection) -> None:
        """Watch no longer; any number of times."""
        entry, connection.timer = connection.timer, None
        self._timers.cancel(entry)

    def is_over(self, connection: Connection) -> bool:
        """Whether the end has come by the clock, even if nobody has pulled it yet."""
        end = connection.ends_at
        # Written so that by a clock of NaN everything is over that has an end at all.
        return end is not None and not self._clock() < end

    def seconds_left(self, connection: Connection) -> int | None:
        """For how many whole seconds a connection may stay open: 0 once it is over, None when it never is."""
        end = self._end_of(connection)
        if end is None or end == math.inf:
            return None
        left = end - self._clock()
        return round(left) if left > 0 else 0

    def due(self, most: int) -> Iterator[tuple[Connection, int | None]]:
        """What has come, at most so much of it: a connection with the whole seconds left to it, which is its notice,
        or with None, which is its end."""
        for connection in self._timers.due(self._clock(), most):
            connection.timer = None
            end = self._end_of(connection)
            if end is None:
                continue
            left = end - self._clock()
            # Written so that a clock of NaN ends it.
            if not left > 0:
                yield connection, None
                continue
            # What comes before the end is the notice. The end is set first: a notice that fails prolongs nothing.
            connection.timer = self._timers.set(end, connection)
            if self._notice is not None:
                yield connection, round(left)

    @property
    def wait(self) -> float:
        """In how many seconds something is due at the earliest; infinity when nothing is."""
        return self._until(self._timers.next) if self._timers else math.inf

    def clear(self) -> None:
        """Watch over no connection any longer."""
        self._timers.clear()

    def _end_of(self, connection: Connection) -> float | None:
        return None if self._authority is None else self._authority.ends_at(connection.identity)

    def _watch(self, connection: Connection, notice: float | None) -> float:
        self.end(connection)
        end = self._end_of(connection)
        # Where its end is only reported, it is never over.
        connection.ends_at = None if self._report_only else end
        if end is None:
            return math.inf
        moment = end if notice is None else end - notice
        connection.timer = self._timers.set(moment, connection)
        return self._until(moment)

    def _until(self, moment: float) -> float:
        wait = moment - self._clock()
        # A clock that is moved by hand, in a test, tells nobody that it was.
        return min(wait, _BY_HAND) if self._authority is not None and self._authority.moves_by_hand else wait
