"""Decides a CONNECT: takes what the packet said and returns None (admitted) or a `Refusal`.

Cheap steps come before dear ones, and nothing dear is done for strangers. This module knows no python-socketio.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from .auth.credentials import Credentials
from .auth.users import Users
from .authenticator import ConnectRequest
from .connection import Connection, Identity, claim_value
from .deadline import Overdue, call, is_ours, run_until
from .errors import RETRY_AFTER, CredentialError, Refusal, RejectCode
from .limits.counters import Ledger, Limits
from .limits.rates import AddressBudget
from .limits.revocation import Revocations
from .namespaces.registry import Known, Registry, Served, authorise
from .namespaces.unknown import explain

__all__ = ["Admission", "subject_key", "tried"]

MAX_NAME = 256
"""The longest namespace, in characters, whose refusal is remembered."""

CACHED_NAMES = 256
"""How many unknown names are remembered; they are the clients' choice."""


_REPORTED = frozenset(
    {
        *(RejectCode.CONNECT_MALFORMED, RejectCode.INVALID_NAMESPACE, RejectCode.INSUFFICIENT_SCOPE),
        *(RejectCode.TOKEN_MISSING, RejectCode.TOKEN_MALFORMED, RejectCode.TOKEN_EXPIRED, RejectCode.TOKEN_INVALID),
        *(RejectCode.TOKEN_NOT_YET_VALID, RejectCode.CREDENTIAL_INVALID, RejectCode.ACCOUNT_DISABLED),
        *(RejectCode.KEYS_UNAVAILABLE, RejectCode.ADMISSION_TIMEOUT, RejectCode.INTERNAL_ERROR),
    }
)
"""For these nobody is refused with ``report_only``."""


class Engine(Protocol):
    """What is asked of the Engine.IO side of a server."""

    def alive(self, eio_sid: str) -> bool: ...


class Admission:
    """The policy of a guard, ready to be asked."""

    def __init__(
        self,
        registry: Registry,
        auth: Credentials | None,
        served: Served,
        paths: Sequence[str],
        *,
        limits: Limits,
        ledger: Ledger,
        budget: AddressBudget,
        revocations: Revocations | None = None,
        stable_claims: Sequence[str] = (),
        users: Users | None = None,
        report_only: bool = False,
    ) -> None:
        self.registry = registry
        self.auth = auth
        self.served = served
        self.paths = paths
        self.limits = limits
        self.ledger = ledger
        self.budget = budget
        self.revocations = revocations
        self.stable_claims = stable_claims
        self.users = users
        self.report_only = report_only
        self._unknown: dict[Any, Refusal] = {}

    def decide(
        self, connection: Connection, data: object, deadline: float, engine: Engine
    ) -> Refusal | Awaitable[Refusal | None] | None:
        """Decide one CONNECT, and write who it is into ``connection``.

        Returns:
            None to admit; where something has to be waited for, an awaitable of the same. Any exception on the way is
            a refusal too.
        """
        if not self.report_only:
            return self._decide(connection, data, deadline, engine)
        found = self._decide(connection, data, deadline, engine)
        return self._waived_later(connection, found) if inspect.isawaitable(found) else self._waived(connection, found)

    def _waived(self, connection: Connection, refusal: Refusal | None) -> Refusal | None:
        """A refusal that is only reported is none; limits, revocations and states of the service stay what they are."""
        if refusal is None or refusal.code not in _REPORTED:
            return refusal
        connection.waived = refusal
        return self._take(connection)

    async def _waived_later(self, connection: Connection, found: Awaitable[Refusal | None]) -> Refusal | None:
        return self._waived(connection, await found)

    def _decide(
        self, connection: Connection, data: object, deadline: float, engine: Engine
    ) -> Refusal | Awaitable[Refusal | None] | None:
        connection.session.tried = None
        if data is not None and not isinstance(data, dict):
            return self._limited(connection) or Refusal(
                RejectCode.CONNECT_MALFORMED, "auth_not_an_object", {"received": type(data).__name__}
            )
        known = self.registry.resolve(connection.namespace, self.served)
        if known is None:
            return self._limited(connection) or self.unknown(connection.namespace)
        try:
            found = self._check(connection, known, data, deadline, engine)
        except Exception as exc:
            found = _failed(exc)
        if isinstance(found, Refusal):
            if known.policy.hidden or not connection.identity.is_authenticated:
                return self._limited(connection) or _hidden(known, found)
            return found
        return found if found is None else self._later(known, found)

    def _limited(self, connection: Connection, *, again: bool = False) -> Refusal | None:
        """The refusal where the address has failed too often; ``again``: with what it tries here."""
        if not self.budget:
            return None
        address = connection.client_address
        wait = 0.0 if again else self.budget.wait(address)
        if (what := tried(connection)) is not None:
            wait = max(wait, self.budget.wait(address, what))
        return (
            Refusal(RejectCode.RATE_LIMITED, "failures_per_address", {"retry_after": math.ceil(wait)}) if wait else None
        )

    async def _later(self, known: Known, found: Awaitable[Refusal | None]) -> Refusal | None:
        try:
            refusal = await found
        except BaseException as exc:
            if not is_ours(exc):
                raise
            refusal = _failed(exc)
        return _hidden(known, refusal)

    def _check(
        self, connection: Connection, known: Known, data: Any, deadline: float, engine: Engine
    ) -> Refusal | Awaitable[Refusal | None] | None:
        connection.placeholders = known.placeholders
        most = self.limits.namespaces_per_session
        if most is not None and len(connection.session.connections) > most:
            return Refusal(
                RejectCode.CONNECTION_LIMIT, "namespaces_per_session", {"limit": most, "retry_after": RETRY_AFTER}
            )
        if self.auth is not None and known.policy.token != "none":
            request = self.auth.request(connection, data)
            try:
                # Before the budget of the address: what is genuine gets in, whoever else is behind the same address.
                found = self.auth.ask_now(request)
                if isinstance(found, int):
                    if request.waiting is None:
                        connection.session.tried = request.tried = self.auth.tried(request, found)
                        if limited := self._limited(connection):
                            return limited
                        found = self.auth.ask_now(request, found, all_quick=True)
                    if isinstance(found, int):
                        return self._check_slowly(connection, known, request, found, deadline, engine)
            except CredentialError as exc:
                connection.session.tried = request.tried
                return exc.refusal
            refusal = self._identified(connection, known, request, found)
            if refusal is not None:
                return refusal
        identity = connection.identity
        asks_for_anybody = known.policy.authorize is not None and not identity.is_authenticated
        if asks_for_anybody and (limited := self._limited(connection)):
            return limited
        revoked = None
        if self.revocations is not None and identity.is_authenticated:
            revoked = self.revocations.check(identity)
        if isinstance(revoked, Refusal):
            return revoked
        if revoked is not None or self._asks(known, identity):
            return self._check_who(connection, known, revoked, deadline, engine)
        return (
            self._authorised(known, identity) or self._expired(identity) or connection.verdict or self._take(connection)
        )

    def _identified(
        self, connection: Connection, known: Known, request: ConnectRequest, identity: Identity | None
    ) -> Refusal | None:
        """Whether the answer to who it is will do."""
        assert self.auth is not None  # noqa: S101 - narrows the type
        if identity is None:
            return None if known.policy.token == "optional" else self.auth.missing(request)
        connection.identity = identity
        return None if known.policy.hidden else self._limited(connection, again=True)

    async def _check_slowly(
        self,
        connection: Connection,
        known: Known,
        request: ConnectRequest,
        step: int,
        deadline: float,
        engine: Engine,
    ) -> Refusal | None:
        """Check a credential for which keys must be fetched, or that has to be looked up."""
        assert self.auth is not None  # noqa: S101 - narrows the type
        try:
            identity = await self.auth.ask_later(request, step, deadline)
        except CredentialError as exc:
            connection.session.tried = request.tried
            return exc.refusal
        except Overdue:
            return Refusal(RejectCode.ADMISSION_TIMEOUT, "keys", {"retry_after": RETRY_AFTER})
        refusal = self._identified(connection, known, request, identity)
        if refusal is not None:
            return refusal
        return await self._check_who(connection, known, self._revoked(connection.identity), deadline, engine)

    async def _check_who(
        self,
        connection: Connection,
        known: Known,
        revoked: Awaitable[Refusal | None] | None,
        deadline: float,
        engine: Engine,
    ) -> Refusal | None:
        """Check whose token it is, when a store or the application is to be asked."""
        identity, eio_sid = connection.identity, connection.session.eio_sid
        refusal = None
        if revoked is not None:
            refusal = await revoked
        if not engine.alive(eio_sid):
            return None  # Nobody waits for the answer any more.
        refusal = refusal or self._authorised(known, identity)
        if refusal is None and self._asks(known, identity):
            # They may take their time, in which the credential may have expired or been revoked.
            refusal = (
                await self._load_user(connection, identity, deadline)
                or await self._authorize(identity, connection, known, deadline)
                or self._expired(identity)
                or await self._revoked(identity)
            )
        return refusal or self._expired(identity) or connection.verdict or self._take(connection)

    def _asks(self, known: Known, identity: Identity) -> bool:
        """Whether the application has a word in it: about its user, or by ``authorize``."""
        return known.policy.authorize is not None or (self.users is not None and identity.is_authenticated)

    async def _load_user(self, connection: Connection, identity: Identity, deadline: float) -> Refusal | None:
        if self.users is None or not identity.is_authenticated:
            return None
        connection.user, refusal = await self.users.load(identity, deadline)
        return refusal

    async def _revoked(self, identity: Identity) -> Refusal | None:
        if self.revocations is None or not identity.is_authenticated:
            return None
        answer = self.revocations.check(identity)
        return answer if answer is None or isinstance(answer, Refusal) else await answer

    def _expired(self, identity: Identity) -> Refusal | None:
        try:
            if self.auth is not None:
                self.auth.check_time(identity)
        except CredentialError as exc:
            return exc.refusal
        return None

    def _authorised(self, known: Known, identity: Identity) -> Refusal | None:
        refusal = authorise(known, identity)
        if refusal is not None and refusal.detail == "scope_missing" and self.auth is not None:
            return replace(refusal, fields={**refusal.fields, **self.auth.scopes_read(identity)})
        return refusal

    def _take(self, connection: Connection) -> Refusal | None:
        identity = connection.identity
        full = self.ledger.take(subject_key(identity), connection.client_address)
        if full is not None:
            limit = getattr(self.limits, full)
            return Refusal(RejectCode.CONNECTION_LIMIT, full, {"limit": limit, "retry_after": RETRY_AFTER})
        connection.held = True
        return None

    async def refresh(self, connection: Connection, payload: dict[str, Any], deadline: float) -> Identity | Refusal:
        """Decide whether a fresh token, or what else is in the payload, may take the place of the old one.

        Returns:
            Whose it is, or why it is refused. Any exception on the way is a refusal too.
        """
        try:
            return await self._refresh(connection, payload, deadline)
        except CredentialError as exc:
            return exc.refusal
        except Overdue:
            return Refusal(RejectCode.ADMISSION_TIMEOUT, "keys", {"retry_after": RETRY_AFTER})
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return Refusal(RejectCode.INTERNAL_ERROR, "refresh", error=exc)

    async def _refresh(self, connection: Connection, payload: dict[str, Any], deadline: float) -> Identity | Refusal:
        known = self.registry.resolve(connection.namespace, self.served)
        if known is None:
            return self.unknown(connection.namespace)
        if self.auth is None:
            return Refusal(RejectCode.SUBJECT_MISMATCH, "no_auth")
        old = connection.identity
        if not old.is_authenticated:
            # Rooms and session data are those of a guest: who signs in begins anew.
            return Refusal(RejectCode.NOT_SIGNED_IN, "anonymous")
        found = await self.auth.refresh(connection, payload, deadline)
        if isinstance(found, Refusal):
            return found
        new = connection.offered = found
        refusal = (
            await self._revoked(new)
            or _someone_else(old, new, (*known.policy.claims, *self.stable_claims))
            or self._authorised(known, new)
        )
        if refusal is None:
            refusal = await self._authorize(new, connection, known, deadline) or await self._revoked(new)
        return refusal or self._expired(new) or new

    def unknown(self, name: str) -> Refusal:
        """The refusal of a namespace that does not exist, with all that helps a person to see why."""
        # The same page asks for the same wrong name again and again, and to find the nearest one is dear.
        key = (name, self.served.count, len(self.paths))
        refusal = self._unknown.get(key)
        if refusal is None:
            refusal = self._explain(name)
            if len(self._unknown) >= CACHED_NAMES:
                self._unknown.clear()
            if len(name) <= MAX_NAME:
                self._unknown[key] = refusal
        return refusal

    def _explain(self, name: str) -> Refusal:
        found = explain(self.registry, name, self.served, self.paths)
        return Refusal(
            RejectCode.INVALID_NAMESPACE,
            found.cause,
            {
                "requested": found.requested,
                "registered": list(found.registered),
                "suggestion": found.suggestion,
                "hint": found.hint,
            },
        )

    async def _authorize(
        self, identity: Identity, connection: Connection, known: Known, deadline: float
    ) -> Refusal | None:
        authorize = known.policy.authorize
        if authorize is None:
            return None
        answer = call(authorize, identity, connection)
        if inspect.isawaitable(answer):
            try:
                answer = await run_until(answer, deadline)
            except Overdue:
                return Refusal(RejectCode.ADMISSION_TIMEOUT, "authorize")
        if answer is True:
            return None
        received = repr(answer) if answer is None or answer is False else type(answer).__name__
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "authorize_refused", {"received": received})


def subject_key(identity: Identity) -> tuple[str | None, str] | None:
    """Whose a connection is for the ledger; a refresh changes neither."""
    return None if identity.subject is None else (identity.issuer, identity.subject)


def tried(connection: Connection) -> int | None:
    """What stands for the credential of a client that is refused: whom it names, and where; else the token itself."""
    if connection.identity.is_authenticated:
        return hash((subject_key(connection.identity), connection.namespace))
    return connection.session.tried


def _failed(error: BaseException) -> Refusal:
    """The refusal that an exception on the way is."""
    if isinstance(error, CredentialError):
        return error.refusal
    return Refusal(RejectCode.INTERNAL_ERROR, "admission", error=error)


def _hidden(known: Known, refusal: Refusal | None) -> Refusal | None:
    """A refusal as that of an unknown namespace, where the policy wants it so."""
    if refusal is None or not known.policy.hidden:
        return refusal
    return Refusal(
        RejectCode.INVALID_NAMESPACE,
        "hidden",
        {**refusal.fields, "hidden_reason": refusal.code.value, "hidden_detail": refusal.detail},
        refusal.error,
    )


def _someone_else(old: Identity, new: Identity, stable_claims: Sequence[str]) -> Refusal | None:
    """Whether a fresh token is somebody else's: rooms were chosen by the subject and these claims."""
    if old.credential != new.credential:
        return Refusal(RejectCode.SUBJECT_MISMATCH, "credential")
    if (old.issuer, old.subject) != (new.issuer, new.subject):
        return Refusal(RejectCode.SUBJECT_MISMATCH, "issuer" if old.issuer != new.issuer else "subject")
    for claim in stable_claims:
        before, after = claim_value(old.claims, claim), claim_value(new.claims, claim)
        if type(before) is not type(after) or before != after:  # True and 1 are equal to Python
            return Refusal(RejectCode.SUBJECT_MISMATCH, "claim_changed", {"claim": claim})
    return None
