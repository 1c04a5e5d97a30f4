"""Decides a CONNECT: takes what the packet said and returns None (admitted) or a `Rejection`.

Cheap steps come before dear ones, and nothing dear is done for strangers. This module knows no python-socketio.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .deadline import Overdue, is_ours, run_until
from .identity import Connection
from .namespaces import Known, Registry, Served, authorise
from .rejections import RejectCode, Rejection, TokenError
from .text import neutralise

if TYPE_CHECKING:
    from .verifier import JWTAuth

__all__ = ["Admission"]

MAX_NAME = 256
"""The longest namespace, in characters, whose refusal is remembered."""

CACHED_NAMES = 256
"""How many unknown names are remembered; they are the clients' choice."""


class Counted(Served, Protocol):
    """`Served` that tells cheaply whether it is still what it was."""

    @property
    def count(self) -> int:
        """Grows when handlers are registered."""
        ...


class Admission:
    """The policy of a guard, ready to be asked.

    Args:
        registry: which namespaces there are, and who may enter.
        auth: verifies tokens; None admits without any.
        served: what python-socketio serves, looked up at each CONNECT.
        paths: the URL paths of the Socket.IO endpoint, for hints.
    """

    def __init__(self, registry: Registry, auth: JWTAuth | None, served: Counted, paths: Sequence[str]) -> None:
        self.registry = registry
        self.auth = auth
        self.served = served
        self.paths = paths
        self._unknown: dict[Any, Rejection] = {}

    async def decide(
        self, connection: Connection, data: object, deadline: float, alive: Callable[[], bool]
    ) -> Rejection | None:
        """Decide one CONNECT, and write who it is into ``connection``.

        Args:
            connection: the pending connection.
            data: the decoded ``auth`` payload of the CONNECT packet.
            deadline: for everything in here that may wait, in seconds of the loop's clock.
            alive: tells whether the session is still there.

        Returns:
            None to admit. Any exception on the way is a refusal too.
        """
        if data is not None and not isinstance(data, dict):
            return Rejection(RejectCode.CONNECT_MALFORMED, "auth_not_an_object", {"received": type(data).__name__})
        known = self.registry.resolve(connection.namespace, self.served)
        if known is None:
            return self.unknown(connection.namespace)
        try:
            rejection = await self._check(connection, known, data, deadline, alive)
        except BaseException as exc:
            if not is_ours(exc):
                raise
            rejection = Rejection(RejectCode.INTERNAL_ERROR, "admission", error=exc)
        if rejection is not None and known.policy.hidden:
            return Rejection(
                RejectCode.INVALID_NAMESPACE,
                "hidden",
                {**rejection.fields, "hidden_reason": rejection.code.value, "hidden_detail": rejection.detail},
                rejection.error,
            )
        return rejection

    async def _check(
        self, connection: Connection, known: Known, data: Any, deadline: float, alive: Callable[[], bool]
    ) -> Rejection | None:
        connection.placeholders = known.placeholders
        rejection = self._authenticate(connection, known, data) or authorise(known, connection.identity)
        if rejection is None and known.policy.authorize is not None and alive():
            return await self._ask(connection, known, deadline)
        return rejection

    def unknown(self, name: str) -> Rejection:
        """The refusal of a namespace that does not exist, with all that helps a person to see why."""
        # The same page asks for the same wrong name again and again, and to find the nearest one is dear.
        key = (name, self.served.count, len(self.paths))
        rejection = self._unknown.get(key)
        if rejection is None:
            rejection = self._explain(name)
            if len(self._unknown) >= CACHED_NAMES:
                self._unknown.clear()
            if len(name) <= MAX_NAME:
                self._unknown[key] = rejection
        return rejection

    def _explain(self, name: str) -> Rejection:
        found = self.registry.explain(name, self.served, paths=self.paths)
        return Rejection(
            RejectCode.INVALID_NAMESPACE,
            found.cause,
            {
                "requested": found.requested,
                "registered": list(found.registered),
                "suggestion": found.suggestion,
                "hint": found.hint,
            },
        )

    def _authenticate(self, connection: Connection, known: Known, data: Mapping[str, Any] | None) -> Rejection | None:
        if self.auth is None or known.policy.token == "none":
            return None
        session = connection.session
        try:
            found = self.auth.find(data, session.headers, session.query_string)
            if found is not None:
                connection.identity = self.auth.verify(found.token)
                return None
        except TokenError as exc:
            return exc.rejection
        if known.policy.token == "optional":
            return None
        return Rejection(RejectCode.TOKEN_MISSING, "no_token", _what_was_sent(data))

    async def _ask(self, connection: Connection, known: Known, deadline: float) -> Rejection | None:
        authorize = known.policy.authorize
        assert authorize is not None  # noqa: S101 - narrows the type; the caller has looked
        answer = authorize(connection.identity, connection)
        if inspect.isawaitable(answer):
            try:
                answer = await run_until(_as_coroutine(answer), deadline)
            except Overdue:
                return Rejection(RejectCode.ADMISSION_TIMEOUT, "authorize")
            # Time has passed: the token must still hold.
            try:
                if self.auth is not None:
                    self.auth.check_time(connection.identity)
            except TokenError as exc:
                return exc.rejection
        if answer is True:
            return None
        received = repr(answer) if answer is None or answer is False else type(answer).__name__
        return Rejection(RejectCode.INSUFFICIENT_SCOPE, "authorize_refused", {"received": received})


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def _what_was_sent(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which keys came instead of a token: names only, never values."""
    if not data:
        return {}
    return {"received": [neutralise(str(key), 32) for key in list(data)[:8]]}
