"""Why somebody is refused: codes, texts, advice, and the exceptions of the package.

The tree of exceptions::

    SocketGuardError
    ├── ConfigurationError (also a ValueError)   you set something up wrongly
    └── CredentialError                          a peer sent a credential that does not hold
        └── TokenError                           … and it is a token

A *code* is what the client may know and act on. A *detail* is what only the log may know. This module is pure.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .text import neutralise

RETRY_AFTER = 5  # seconds after which a refused client may try again, where nothing tells better


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
    CREDENTIAL_INVALID = "credential_invalid"
    ACCOUNT_DISABLED = "account_disabled"
    NOT_SIGNED_IN = "not_signed_in"
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


class HandshakeCode(enum.StrEnum):
    """Why a request does not become (or reach) a session, where no `RejectCode` says it."""

    METHOD_NOT_ALLOWED = "method_not_allowed"
    JSONP_NOT_SUPPORTED = "jsonp_not_supported"
    TRANSPORT_UNKNOWN = "transport_unknown"
    TRANSPORT_DISABLED = "transport_disabled"
    TRANSPORT_MISMATCH = "transport_mismatch"
    UPGRADE_MISSING = "upgrade_missing"
    PROTOCOL_VERSION = "protocol_version"
    SESSION_MISSING = "session_missing"
    SESSION_UNKNOWN = "session_unknown"
    SESSION_UPGRADED = "session_upgraded"
    ADDRESS_CHANGED = "address_changed"
    BODY_TOO_LARGE = "body_too_large"
    BODY_MALFORMED = "body_malformed"
    TOO_MANY_PACKETS = "too_many_packets"
    REQUESTS_OVERLAP = "requests_overlap"
    WRONG_PATH = "wrong_path"
    ENGINE_REFUSED = "engine_refused"


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes with a code: the fixed text, the advice, and the status of its twin over HTTP."""

    message: str
    retry: Retry | None
    http_status: int


REPLIES: Mapping[RejectCode | HandshakeCode, Reply] = MappingProxyType(
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
        RejectCode.CREDENTIAL_INVALID: Reply("Invalid credentials", Retry.LOGIN, 401),
        RejectCode.ACCOUNT_DISABLED: Reply("Account is not active", Retry.LOGIN, 403),
        RejectCode.NOT_SIGNED_IN: Reply("Connect again to sign in", Retry.NOW, 401),
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
        HandshakeCode.METHOD_NOT_ALLOWED: Reply("Method not allowed", Retry.NEVER, 400),
        HandshakeCode.JSONP_NOT_SUPPORTED: Reply("JSONP is not supported", Retry.NEVER, 400),
        HandshakeCode.TRANSPORT_UNKNOWN: Reply("Transport unknown", Retry.NEVER, 400),
        HandshakeCode.TRANSPORT_DISABLED: Reply("Transport not available", Retry.NEVER, 400),
        HandshakeCode.TRANSPORT_MISMATCH: Reply("Bad request", Retry.NEVER, 400),
        HandshakeCode.UPGRADE_MISSING: Reply("Bad request", Retry.NEVER, 400),
        HandshakeCode.PROTOCOL_VERSION: Reply("Unsupported protocol version", Retry.NEVER, 400),
        HandshakeCode.SESSION_MISSING: Reply("Bad request", Retry.NEVER, 400),
        HandshakeCode.SESSION_UNKNOWN: Reply("Session ID unknown", Retry.NOW, 400),
        HandshakeCode.SESSION_UPGRADED: Reply("Bad request", Retry.NEVER, 400),
        HandshakeCode.ADDRESS_CHANGED: Reply("Session ID unknown", Retry.NOW, 400),
        HandshakeCode.BODY_TOO_LARGE: Reply("Payload too large", Retry.NEVER, 413),
        HandshakeCode.BODY_MALFORMED: Reply("Bad request", Retry.NEVER, 400),
        HandshakeCode.TOO_MANY_PACKETS: Reply("Too many packets", Retry.BACKOFF, 400),
        HandshakeCode.REQUESTS_OVERLAP: Reply("Only one request of a kind at a time", Retry.BACKOFF, 400),
        HandshakeCode.WRONG_PATH: Reply("Not found", Retry.NEVER, 404),
        HandshakeCode.ENGINE_REFUSED: Reply("Bad request", Retry.NEVER, 403),
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal, as it was decided: of a request, a CONNECT, an event or a fresh token.

    The client is told the `code`. The log gets the `detail` too, one word of a closed set, and the `fields`, which are
    free of secrets; of these the client is told one: ``retry_after``, in whole seconds.
    """

    code: RejectCode | HandshakeCode
    detail: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = field(default=None, compare=False)  # a defect of the server, no attempt of a client
    http_status: int | None = None  # of the answer, where it is not that of the code

    @property
    def reply(self) -> Reply:
        """What goes with the code."""
        return REPLIES[self.code]

    @property
    def status(self) -> int:
        """The status of an answer over HTTP."""
        return self.reply.http_status if self.http_status is None else self.http_status

    @property
    def retry_after(self) -> int | None:
        """Seconds for which trying again is of no use."""
        found: int | None = self.fields.get("retry_after")
        return found

    def payload(self, ref: str, *, debug: bool = False) -> dict[str, Any]:
        """The object of the CONNECT_ERROR packet, which clients read as ``err.message`` and ``err.data``.

        An unknown namespace is answered with exactly what the reference server sends, so that it can't be told from
        one that is hidden. With `debug` the client sees the details, the namespaces among them.
        """
        message, data = self.reply.message, self._told(ref)
        if debug:
            return {"message": message, "data": {**data, "detail": self.detail, **self.fields}}
        return {"message": message} if self.code is RejectCode.INVALID_NAMESPACE else {"message": message, "data": data}

    def acknowledgement(self, ref: str) -> dict[str, Any]:
        """What an event is acknowledged with that was refused."""
        return {"ok": False, "code": self.code.value, "message": self.reply.message, **self._told(ref)}

    def _told(self, ref: str) -> dict[str, Any]:
        """What every answer says; `ref` is the short random id that stands in the log line too."""
        again = {"retry_after": self.fields["retry_after"]} if "retry_after" in self.fields else {}
        return {"code": self.code.value, "retry": self.reply.retry, "ref": ref, **again}


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


class CredentialError(SocketGuardError):
    """A credential was refused: an authenticator raises it when there is one, and it is bad.

    ``str()`` of it is the fixed public text of the code: the client is told that, and never the detail.

    Args:
        detail: why, in a word or a sentence for the log; nothing secret.
        code: what the client is told: ``credential_invalid``, ``account_disabled``, ``insufficient_scope`` or one of
            the ``token_*`` codes, such as ``RejectCode.TOKEN_EXPIRED``.

    Attributes:
        code: the code.
        detail: the word for the log.
        fields: further fields for the log, without secrets.

    Raises:
        ConfigurationError: the code is none of these.
    """

    def __init__(self, detail: str = "", *, code: RejectCode = RejectCode.CREDENTIAL_INVALID) -> None:
        if code not in CREDENTIAL_CODES:
            allowed = ", ".join(sorted(CREDENTIAL_CODES))
            raise ConfigurationError(f"CredentialError(code={str(code)!r}); write one of {allowed}", option="code")
        told = {"app_message": neutralise(str(detail), 256)} if detail else {}
        self._set(RejectCode(code), "credential_refused", told)

    def _set(self, code: RejectCode, detail: str, fields: Mapping[str, Any]) -> None:
        super().__init__(REPLIES[code].message)
        self.code = code
        self.detail = detail
        self.fields = fields

    @property
    def refusal(self) -> Refusal:
        """The same as a `Refusal`."""
        return Refusal(self.code, self.detail, self.fields)


class TokenError(CredentialError):
    """A token was refused.

    ``str()`` of it is the fixed public text of the code and never holds anything of the token.

    Attributes:
        code: one of the ``token_*`` codes, ``insufficient_scope`` or ``keys_unavailable``.
        detail: one word of a closed set for the log, such as ``signature_mismatch`` or ``claim_missing``.
        fields: further fields for the log (``claim``, ``expected``, ``received`` …), without secrets.
    """

    def __init__(self, code: RejectCode, detail: str, **fields: Any) -> None:
        self._set(code, detail, fields)


# The refusals that speak of the credential itself: what an authenticator may refuse with, and what costs an address.
CREDENTIAL_CODES = frozenset(
    {
        RejectCode.CREDENTIAL_INVALID,
        RejectCode.ACCOUNT_DISABLED,
        RejectCode.INSUFFICIENT_SCOPE,
        RejectCode.TOKEN_MISSING,
        RejectCode.TOKEN_MALFORMED,
        RejectCode.TOKEN_EXPIRED,
        RejectCode.TOKEN_NOT_YET_VALID,
        RejectCode.TOKEN_INVALID,
        RejectCode.TOKEN_REVOKED,
    }
)
