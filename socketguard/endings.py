"""How connections and sessions are ended by the guard, so that stock clients do what the reason asks of them.

After a Socket.IO disconnect a JavaScript client never comes back by itself; after its transport has closed it does, and
asks its ``auth`` function for a fresh token. So a reason that a client can mend closes the transport, unless another
namespace of the session lives on, and a reason that it can't mend disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .connection import Connection, Session
from .errors import REPLIES, RejectCode, Rejection
from .logs.report import Report
from .pace import Pace

if TYPE_CHECKING:
    from .seam import Seam

__all__ = ["CLOSE_CODES", "CLOSING", "EXPIRING", "Endings"]

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
        self, chosen: Iterable[Connection], reason: str, verdict: Rejection, detail: str | None = None
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
