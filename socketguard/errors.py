"""Why somebody is refused: codes, texts, advice, and the exceptions of the package.

The tree of exceptions::

    SocketGuardError
    ├── ConfigurationError (also a ValueError)   you set something up wrongly
    └── TokenError                               a peer sent a token that does not hold

A *code* is what the client may know and act on. A *detail* is what only the log may know. This module is pure.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = [
    "REPLIES",
    "RETRY_AFTER",
    "ConfigurationError",
    "HandshakeRefusal",
    "Refusal",
    "RejectCode",
    "Reply",
    "Retry",
    "SocketGuardError",
    "TokenError",
    "new_ref",
]

RETRY_AFTER = 5
"""Seconds after which a refused client may try again, where nothing tells better."""


class Retry(enum.StrEnum):
    """What a refused client should do next."""

    NEVER = "never"
    """A person has to change something first."""
    LOGIN = "login"
    """Sign in again, then connect."""
    REFRESH = "refresh"
    """Get a fresh token, then connect."""
    BACKOFF = "backoff"
    """Connect again later, waiting longer each time."""
    NOW = "now"
    """Connect again at once."""


class RejectCode(enum.StrEnum):
    """The closed set of codes with which a client is refused. Codes are never renamed within a major version."""

    INVALID_NAMESPACE = "invalid_namespace"
    CONNECT_MALFORMED = "connect_malformed"
    TOKEN_MISSING = "token_missing"
    TOKEN_MALFORMED = "token_malformed"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    TOKEN_INVALID = "token_invalid"
    TOKEN_REVOKED = "token_revoked"
    SUBJECT_MISMATCH = "subject_mismatch"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    KEYS_UNAVAILABLE = "keys_unavailable"
    CONNECTION_LIMIT = "connection_limit"
    RATE_LIMITED = "rate_limited"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    DRAINING = "draining"
    ADMISSION_TIMEOUT = "admission_timeout"
    ALREADY_CONNECTED = "already_connected"
    REFUSED_BY_APP = "refused_by_app"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes with a code: the fixed text, the advice, and the status of its twin over HTTP."""

    message: str
    retry: Retry | None
    http_status: int


REPLIES: Mapping[RejectCode, Reply] = MappingProxyType(
    {
        RejectCode.INVALID_NAMESPACE: Reply("Invalid namespace", None, 404),
        RejectCode.CONNECT_MALFORMED: Reply("Malformed connect packet", Retry.NEVER, 400),
        RejectCode.TOKEN_MISSING: Reply("Authentication required", Retry.LOGIN, 401),
        RejectCode.TOKEN_MALFORMED: Reply("Malformed token", Retry.LOGIN, 401),
        RejectCode.TOKEN_EXPIRED: Reply("Token has expired", Retry.REFRESH, 401),
        RejectCode.TOKEN_NOT_YET_VALID: Reply("Token is not valid yet", Retry.BACKOFF, 401),
        RejectCode.TOKEN_INVALID: Reply("Invalid token", Retry.LOGIN, 401),
        RejectCode.TOKEN_REVOKED: Reply("Token has been revoked", Retry.LOGIN, 401),
        RejectCode.SUBJECT_MISMATCH: Reply("Token belongs to someone else", Retry.NEVER, 403),
        RejectCode.INSUFFICIENT_SCOPE: Reply("Forbidden", Retry.NEVER, 403),
        RejectCode.KEYS_UNAVAILABLE: Reply("Authentication is temporarily unavailable", Retry.BACKOFF, 503),
        RejectCode.CONNECTION_LIMIT: Reply("Too many connections", Retry.BACKOFF, 429),
        RejectCode.RATE_LIMITED: Reply("Too many attempts", Retry.BACKOFF, 429),
        RejectCode.ORIGIN_NOT_ALLOWED: Reply("Origin not allowed", Retry.NEVER, 403),
        RejectCode.DRAINING: Reply("Server is restarting", Retry.BACKOFF, 503),
        RejectCode.ADMISSION_TIMEOUT: Reply("Authentication took too long", Retry.BACKOFF, 503),
        RejectCode.ALREADY_CONNECTED: Reply("Already connected to this namespace", Retry.NEVER, 409),
        RejectCode.REFUSED_BY_APP: Reply("Connection rejected by server", None, 403),
        RejectCode.INTERNAL_ERROR: Reply("Internal error", Retry.BACKOFF, 500),
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal, as it was decided.

    Attributes:
        code: what the client is told.
        detail: one word of a closed set that only the log gets, such as ``signature_mismatch``.
        fields: further fields for the log line, already free of secrets (expected and received values and the like).
            The client is told one of them: ``retry_after``, whole seconds.
        error: the exception behind it, when it is a defect of the server and no attempt of a client.
    """

    code: RejectCode
    detail: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = field(default=None, compare=False)

    def payload(self, ref: str, *, debug: bool = False) -> dict[str, Any]:
        """The object of the CONNECT_ERROR packet.

        Clients read it as ``err.message`` and ``err.data``. An unknown namespace is answered with exactly what the
        reference server sends, so that it can't be told from one that is hidden.

        Args:
            ref: the short random id that stands in the log line too.
            debug: whether the client may see the details, the namespaces among them.
        """
        reply = REPLIES[self.code]
        if debug:
            data = {"code": self.code.value, "retry": reply.retry, "ref": ref, "detail": self.detail, **self.fields}
            return {"message": reply.message, "data": data}
        if self.code is RejectCode.INVALID_NAMESPACE:
            return {"message": reply.message}
        data = {"code": self.code.value, "retry": reply.retry, "ref": ref}
        if "retry_after" in self.fields:
            data["retry_after"] = self.fields["retry_after"]
        return {"message": reply.message, "data": data}

    def acknowledgement(self, ref: str) -> dict[str, Any]:
        """What an event is acknowledged with that was refused.

        Args:
            ref: the short random id that stands in the log line too.
        """
        reply = REPLIES[self.code]
        answer = {"ok": False, "code": self.code.value, "message": reply.message, "retry": reply.retry, "ref": ref}
        if "retry_after" in self.fields:
            answer["retry_after"] = self.fields["retry_after"]
        return answer


def new_ref() -> str:
    """A short random id, for the client and for the log line."""
    return secrets.token_hex(4)


class SocketGuardError(Exception):
    """The base of every exception that socketguard raises on purpose."""


class ConfigurationError(SocketGuardError, ValueError):
    """Something was set up in a way that can't work or would not be safe.

    The text names the option, what was wrong and what to write instead.

    Attributes:
        option: the name of the option, such as ``algorithms``; None when no single option is at fault.
    """

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class TokenError(SocketGuardError):
    """A token was refused.

    ``str()`` of it is the fixed public text of the code and never holds anything of the token.

    Attributes:
        code: one of the ``token_*`` codes, ``insufficient_scope`` or ``keys_unavailable``.
        detail: one word of a closed set for the log, such as ``signature_mismatch`` or ``claim_missing``.
        fields: further fields for the log (``claim``, ``expected``, ``received`` …), without secrets.
    """

    def __init__(self, code: RejectCode, detail: str, **fields: Any) -> None:
        super().__init__(REPLIES[code].message)
        self.code = code
        self.detail = detail
        self.fields: Mapping[str, Any] = fields

    @property
    def refusal(self) -> Refusal:
        """The same as a `Refusal`."""
        return Refusal(self.code, self.detail, self.fields)


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """Why a request does not become (or reach) a session.

    Attributes:
        reason: one word of a closed set; the ``code`` of the answer and the ``reason`` of the log line.
        status: of the HTTP answer.
        message: for the client; holds nothing of the request.
        hint: for the log: what to do about it.
        retry: advice for the client.
        retry_after: seconds for which trying again is of no use.
        detail: for the log: which of the causes of this reason it was; one word of a closed set.
    """

    reason: str
    status: int
    message: str
    hint: str
    retry: Retry = Retry.NEVER
    retry_after: int | None = None
    detail: str | None = None
