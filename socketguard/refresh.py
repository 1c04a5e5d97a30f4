"""A fresh token in place of the old one, without a gap: the event ``socketguard:refresh`` of a client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from .connection import Connection, Identity, OnRefresh, bound_connection
from .errors import RejectCode, Rejection, new_ref
from .limits.deadline import Overdue, is_ours, run_until
from .limits.expiry import Lifetime
from .limits.rates import Rate
from .logs.report import Report
from .requires import wait_for

__all__ = ["Refreshes"]

_BUDGET = "socketguard:refresh"


class Decide(Protocol):
    """See `socketguard.admission.Admission.refresh`."""

    async def __call__(self, connection: Connection, token: object, deadline: float) -> Identity | Rejection: ...


class Refreshes:
    """Answers refreshes.

    Args:
        decide: decides on the token.
        report: told what happened.
        lifetime: told of the new end.
        rate: how many refreshes one connection may ask for.
        on_refresh: the application's own function.
        timeout: seconds for one refresh.
        log_claims: claims for log lines.
        on_revoked: ends a connection whose client has offered a revoked token.
    """

    def __init__(
        self,
        decide: Decide,
        report: Report,
        *,
        lifetime: Lifetime,
        rate: Rate | None,
        on_refresh: OnRefresh | None,
        timeout: float,
        log_claims: tuple[str, ...],
        on_revoked: Callable[[Connection], None],
    ) -> None:
        self._decide = decide
        self._report = report
        self._lifetime = lifetime
        self._rate = rate
        self._on_refresh = on_refresh
        self._timeout = timeout
        self._log_claims = log_claims
        self._on_revoked = on_revoked

    async def handle(self, connection: Connection, args: tuple[Any, ...]) -> dict[str, Any]:
        """Handle the event.

        Args:
            connection: who sent it.
            args: the Socket.IO session id, then what the client sent.

        Returns:
            The acknowledgement: ``{"ok": True, "expires_in": seconds}``, or ``{"ok": False, "code": …, "message": …,
            "retry": …}``. A refusal leaves the old token as it was.
        """
        if connection.refreshing:
            rejection: Rejection | None = Rejection(RejectCode.RATE_LIMITED, "refresh_running", {"retry_after": 1})
        else:
            connection.refreshing = True
            try:
                rejection = self._over_budget(connection) or await self._refresh(connection, args[1:])
            finally:
                connection.refreshing = False
                connection.offered = None
        if rejection is None:
            return {"ok": True, "expires_in": self._lifetime.seconds_left(connection)}
        ref = new_ref()
        self._report.refresh_rejected(connection, rejection, ref)
        if rejection.code is RejectCode.TOKEN_REVOKED:
            self._on_revoked(connection)
        return rejection.acknowledgement(ref)

    def _over_budget(self, connection: Connection) -> Rejection | None:
        wait = wait_for(connection, _BUDGET, self._rate)
        if not wait:
            return None
        return Rejection(RejectCode.RATE_LIMITED, "refreshes_per_connection", {"retry_after": int(wait) + 1})

    async def _refresh(self, connection: Connection, sent: tuple[Any, ...]) -> Rejection | None:
        deadline = asyncio.get_running_loop().time() + self._timeout
        payload = sent[0] if sent else None
        if payload is not None and not isinstance(payload, dict):
            return Rejection(RejectCode.TOKEN_MALFORMED, "not_an_object", {"received": type(payload).__name__})
        found = await self._decide(connection, (payload or {}).get("token"), deadline)
        if isinstance(found, Rejection):
            return found
        rejection = _has_ended(connection) or await self._tell(connection, found, deadline) or _has_ended(connection)
        if rejection is not None:
            return rejection
        previous = connection.identity.token_id
        connection.identity = found
        connection.refreshes += 1
        connection.bind_log_fields(self._log_claims)
        self._lifetime.renew(connection)
        self._report.refreshed(connection, self._lifetime.seconds_left(connection), previous)
        return None

    async def _tell(self, connection: Connection, new: Identity, deadline: float) -> Rejection | None:
        if self._on_refresh is None:
            return None
        token = bound_connection.set(connection)
        try:
            answer = self._on_refresh(connection, connection.identity, new)
            if inspect.isawaitable(answer):
                answer = await run_until(answer, deadline)
        except Overdue:
            return Rejection(RejectCode.ADMISSION_TIMEOUT, "on_refresh")
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return Rejection(RejectCode.INTERNAL_ERROR, "on_refresh", error=exc)
        finally:
            bound_connection.reset(token)
        if answer is None or answer is True:
            return None
        return Rejection(RejectCode.INSUFFICIENT_SCOPE, "on_refresh_refused", {"received": type(answer).__name__})


def _has_ended(connection: Connection) -> Rejection | None:
    """Whether the connection was ended while the fresh token was looked at."""
    if connection.state is Connection.JOINED and connection.reason is None:
        return None
    return Rejection(RejectCode.TOKEN_EXPIRED, "connection_ended")
