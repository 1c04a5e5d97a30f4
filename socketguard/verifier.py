"""`JWTAuth`: verifies JSON Web Tokens (RFC 7519) as RFC 8725 advises, for Socket.IO and for HTTP routes alike.

PyJWT does the cryptography. The rules about headers and claims are here, because they are stricter than PyJWT's, and
because a token is then verified in a fraction of the time of ``jwt.decode``.
"""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from .findings import Finding
from .identity import Identity
from .keys import Key, KeySource, StaticKeys, check_algorithms
from .rejections import REPLIES, ConfigurationError, RejectCode, TokenError
from .text import neutralise
from .tokens import Found, TokenFinder, check_shape, decode_base64url, decode_json_object, names

__all__ = ["JWTAuth", "ScopeClaim"]

ScopeClaim: TypeAlias = str | Callable[[Mapping[str, Any]], Iterable[str] | None]
"""A claim's name, a dotted path to it, or a function of the claims."""

_REQUIRE = ("exp", "sub")
_MAX_LEEWAY = 60
_MAX_KEY_ID = 128
_CACHED_HEADERS = 128
_CACHED_HEADER_BYTES = 512
# The end of the year 9999, in seconds. Dates beyond it are what nobody can represent, and milliseconds by mistake.
_END_OF_TIME = 253_402_300_800
_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+")
_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


class JWTAuth(AuthenticationBackend):
    """Verifies tokens; one instance serves the Socket.IO server and the HTTP routes of a service.

    Besides `verify` it is a Starlette authentication backend (with `on_error`), and `requires` makes FastAPI
    dependencies.

    Args:
        key: a shared secret (str or bytes), a public key or certificate (PEM text or an object of ``cryptography``),
            or a list of those while keys are being rotated.
        algorithms: the allowed algorithms, such as ``["HS256"]`` or ``["RS256", "ES256"]``. Never HS* together with
            others (RFC 8725 section 2.1).
        issuer: the ``iss`` that tokens must have, or a collection of them. Compared exactly (RFC 7519 section 4.1.1).
        audience: the ``aud`` of this service, or a collection of them; one must match. Without it a token that
            *has* an audience is refused (RFC 7519 section 4.1.3).
        leeway: how far clocks may differ, in seconds, 0 to 60.
        require: claims that must be there. The subject must be there always; a token without ``exp`` is taken only
            when ``require`` is written out without it. ``("exp", "sub")``, the default, follows ``subject_claim``.
        subject_claim: the claim that says who it is.
        scope_claim: where the scopes are: a claim's name, a dotted path such as ``realm_access.roles`` (a claim with
            just that name goes first), or a function of the claims. A string is split on spaces (RFC 6749 section
            3.3); an array must hold strings.
        sources: where a Socket.IO client may put its token; see `socketguard.tokens.TokenFinder`.
        payload_keys: under which keys of the payload.
        max_lifetime: the longest time from ``iat`` (from now, without ``iat``) to ``exp``, in seconds.
        types: the allowed ``typ`` headers, compared case-insensitively and without ``application/``; None stands for
            tokens without one. ``("at+jwt",)`` is the profile of RFC 9068.
        clock: tells the time, in seconds since the epoch.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    def __init__(
        self,
        key: Key | Sequence[Key] | None = None,
        *,
        algorithms: Collection[str],
        issuer: str | Collection[str] | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 10,
        require: Collection[str] = _REQUIRE,
        subject_claim: str = "sub",
        scope_claim: ScopeClaim = "scope",
        sources: Sequence[str] = ("payload", "header"),
        payload_keys: Sequence[str] = ("token", "access_token", "authorization"),
        max_lifetime: float | None = None,
        types: Collection[str | None] = ("JWT", "at+jwt", None),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._algorithms = frozenset(check_algorithms(algorithms))
        if key is None:
            raise ConfigurationError(
                "key is None (is the environment variable set?); give the secret or the public key", option="key"
            )
        static = StaticKeys(key, tuple(sorted(self._algorithms)))
        self._keys: KeySource = static
        self._key_kinds = static.kinds
        self._public = static.is_public
        self._issuers = _one_or_more(issuer, "issuer", "https://login.example.com/")
        self._audiences = _one_or_more(audience, "audience", "crm")
        self._leeway = _seconds(leeway, "leeway", lowest=0, highest=_MAX_LEEWAY)
        required = names(require, "require", example='("exp", "sub")')
        self._subject_claim = _claim_name(subject_claim)
        self._require = ("exp",) if required == _REQUIRE and subject_claim != "sub" else required
        self._scope_claim = scope_claim
        self._scope_path = _scope_path(scope_claim)
        self._finder = TokenFinder(sources, payload_keys)
        # An HTTP request has no payload: its standard place for a token is the header, whatever Socket.IO uses.
        others = [source for source in self._finder.sources if source not in ("payload", "header")]
        self._http_finder = TokenFinder(("header", *others), self._finder.payload_keys)
        self._max_lifetime = None if max_lifetime is None else _seconds(max_lifetime, "max_lifetime", lowest=1)
        if self._max_lifetime is not None and "exp" not in self._require:
            raise ConfigurationError('max_lifetime needs "exp" in require: nothing else ends a token', option="require")
        self._types = _types(types)
        if not callable(clock):
            raise ConfigurationError("clock must be a function that returns seconds since the epoch", option="clock")
        self._clock = clock
        # Only headers of tokens whose signature held get in here, so that a stranger can't fill it.
        self._headers: dict[bytes, tuple[str, str | None]] = {}
        self._configuration = (
            self._algorithms,
            static.fingerprints,
            self._issuers,
            self._audiences,
            self._leeway,
            frozenset(self._require),
            subject_claim,
            scope_claim,
            self._finder.sources,
            self._finder.payload_keys,
            self._max_lifetime,
            self._types,
            clock,
        )

    def __eq__(self, other: object) -> bool:
        return self._configuration == other._configuration if isinstance(other, JWTAuth) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._configuration)

    def __repr__(self) -> str:
        return f"<JWTAuth {', '.join(sorted(self._algorithms))} ({', '.join(self._key_kinds)})>"

    @property
    def issuers(self) -> frozenset[str]:
        """The issuers that are accepted; empty when ``iss`` is not checked."""
        return frozenset(self._issuers)

    @property
    def leeway(self) -> float:
        """How far clocks may differ, in seconds."""
        return self._leeway

    @property
    def uses_cookie(self) -> bool:
        """Whether a cookie is among the sources."""
        return self._finder.uses_cookie

    @property
    def uses_query(self) -> bool:
        """Whether a query parameter is among the sources."""
        return self._finder.uses_query

    def find(
        self, payload: Mapping[str, Any] | None, headers: Sequence[tuple[bytes, bytes]], query_string: bytes
    ) -> Found | None:
        """Find the token of a CONNECT; see `socketguard.tokens.TokenFinder.find`."""
        return self._finder.find(payload, headers, query_string)

    def describe(self) -> dict[str, Any]:
        """The effective configuration for a log line, without secrets. Times are in seconds."""
        scope = self._scope_claim
        return {
            "algorithms": sorted(self._algorithms),
            "keys": list(self._key_kinds),
            "issuer": list(self._issuers),
            "audience": list(self._audiences),
            "leeway": self._leeway,
            "require": list(self._require),
            "subject_claim": self._subject_claim,
            "scope_claim": scope
            if isinstance(scope, str)
            else getattr(scope, "__qualname__", type(scope).__qualname__),
            "sources": list(self._finder.sources),
            "payload_keys": list(self._finder.payload_keys),
            "max_lifetime": self._max_lifetime,
            "types": sorted(self._types, key=lambda name: name or ""),
        }

    def findings(self) -> list[Finding]:
        """What a person should look at: SG033 (issuer, audience), SG034 (query), SG035 (``exp``)."""
        found: list[Finding] = []
        missing = [name for name, value in (("issuer", self._issuers), ("audience", self._audiences)) if not value]
        if self._public and missing:
            found.append(
                Finding(
                    "SG033",
                    f"JWTAuth verifies with a public key but checks no {' and no '.join(missing)}: whoever owns the "
                    "private key also signs for other services, and their tokens are accepted here",
                    "; ".join(f"add {name}=… to JWTAuth" for name in missing),
                )
            )
        if self.uses_query:
            queries = ", ".join(source for source in self._finder.sources if source.startswith("query:"))
            found.append(
                Finding(
                    "SG034",
                    f"sources has {queries}: a token in the URL ends in access logs and browser histories "
                    "(RFC 6750 section 5.3)",
                    'let clients send it as auth: {token}, and write sources=("payload", "header")',
                )
            )
        if "exp" not in self._require:
            found.append(
                Finding(
                    "SG035",
                    "require leaves out exp: a stolen token without an end works for ever",
                    'write require=("exp", "sub") and let the issuer set exp',
                )
            )
        return found

    def verify(self, token: str) -> Identity:
        """Verify a token.

        The order: shape, header, signature, claims; of the claims, the dates last. So ``token_expired`` means that
        nothing else was wrong. Fractions of a second of ``exp`` are dropped.

        Args:
            token: in compact serialisation, without ``Bearer``.

        Raises:
            TokenError: the token is refused. Nothing else is ever raised.
        """
        try:
            return self._verify(token)
        except TokenError:
            raise
        except Exception as exc:
            # The exception's own text may quote the token, so that only its type goes on.
            raise TokenError(RejectCode.TOKEN_INVALID, "unexpected_error", exception=type(exc).__name__) from None

    def check_time(self, identity: Identity) -> None:
        """Check once more that a token that was verified has not expired since.

        Args:
            identity: what `verify` returned; an anonymous one never expires.

        Raises:
            TokenError: it has.
        """
        if identity.expires_at is not None:
            self._check_end(identity.expires_at, self._clock())

    def _verify(self, token: str) -> Identity:
        signing_input, _, signature_part = check_shape(token).rpartition(b".")
        header_part, _, payload_part = signing_input.partition(b".")
        header = self._headers.get(header_part)
        algorithm, key_id = self._read_header(header_part) if header is None else header
        signature = decode_base64url(signature_part, "signature")
        for key in self._keys.candidates(algorithm, key_id):
            if key.verify(signing_input, signature):
                break
        else:
            fields = {} if key_id is None else {"key_id": neutralise(key_id, _MAX_KEY_ID)}
            raise _invalid("signature_mismatch", algorithm=algorithm, **fields)
        if header is None and len(header_part) <= _CACHED_HEADER_BYTES:
            if len(self._headers) >= _CACHED_HEADERS:
                self._headers.clear()
            self._headers[header_part] = algorithm, key_id
        return self._identity(decode_json_object(payload_part, "payload"), key_id)

    def _read_header(self, part: bytes) -> tuple[str, str | None]:
        """Check a header (RFC 7515 section 4.1). What could name a key (jku, jwk, x5u, x5c) is never looked at."""
        header = decode_json_object(part, "header")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _invalid("algorithm_not_allowed", expected=sorted(self._algorithms), received=_shown(algorithm))
        if "crit" in header or "b64" in header:
            raise _invalid("crit_not_supported")
        type_ = header.get("typ")
        present = "typ" in header
        if (present and not isinstance(type_, str)) or _media_type(type_) not in self._types:
            received = _shown(type_) if present else None
            raise _invalid("type_not_allowed", expected=self.describe()["types"], received=received)
        key_id = header.get("kid")
        if "kid" in header and (not isinstance(key_id, str) or len(key_id) > _MAX_KEY_ID):
            raise _invalid("key_id_malformed", expected=f"a string of at most {_MAX_KEY_ID} characters")
        return algorithm, key_id

    def _identity(self, claims: dict[str, Any], key_id: str | None) -> Identity:
        for name in self._require:
            if claims.get(name) is None:
                raise _invalid("claim_missing", claim=name)
        # An exact match needs no closer look; whatever else there is gets one.
        if claims.get("iss") not in self._issuers and (self._issuers or "iss" in claims):
            self._check_issuer(claims)
        if claims.get("aud") not in self._audiences and (self._audiences or "aud" in claims):
            self._check_audience(claims)
        subject = claims.get(self._subject_claim)
        if subject is None:
            raise _invalid("claim_missing", claim=self._subject_claim)
        subject = _text(subject, self._subject_claim)
        if self._subject_claim != "sub" and "sub" in claims:
            _text(claims["sub"], "sub")
        token_id = _text(claims["jti"], "jti") if "jti" in claims else None
        view = MappingProxyType(claims)
        scopes = self._scopes(view)
        issued_at, expires_at = self._check_dates(claims)
        return Identity(subject, view, scopes, claims.get("iss"), token_id, key_id, issued_at, expires_at)

    def _check_issuer(self, claims: dict[str, Any]) -> None:
        if "iss" not in claims:
            raise _invalid("claim_missing", claim="iss", expected=list(self._issuers))
        issuer = claims["iss"]
        if not isinstance(issuer, str):
            raise _claim_type("iss", "a string", issuer)
        if self._issuers and issuer not in self._issuers:
            hint = _slash(self._issuers, (issuer,))
            raise _invalid("issuer_mismatch", expected=list(self._issuers), received=_shown(issuer), **hint)

    def _check_audience(self, claims: dict[str, Any]) -> None:
        if "aud" not in claims:
            raise _invalid("claim_missing", claim="aud", expected=list(self._audiences))
        audience = claims["aud"]
        values = [audience] if isinstance(audience, str) else audience
        if not isinstance(values, list):
            raise _claim_type("aud", "a string or an array of strings", audience)
        for value in values:
            if not isinstance(value, str):
                raise _claim_type("aud", "a string or an array of strings", audience)
        for value in values:
            if value in self._audiences:
                return
        if self._audiences:
            hint = _slash(self._audiences, values)
        else:
            hint = {"hint": "the token names an audience but JWTAuth has none; add audience=…"}
        received = [_shown(value) for value in values[:8]]
        raise _invalid("audience_mismatch", expected=list(self._audiences), received=received, **hint)

    def _check_dates(self, claims: dict[str, Any]) -> tuple[float | None, float | None]:
        """Check ``nbf``, ``iat`` and ``exp``. Each comparison is written so that a clock of NaN refuses."""
        now = self._clock()
        if "nbf" in claims:
            self._check_begin(_date(claims["nbf"], "nbf"), now, "not_before")
        issued_at: float | None = None
        if "iat" in claims:
            issued_at = _date(claims["iat"], "iat")
            self._check_begin(issued_at, now, "issued_in_future")
        if "exp" not in claims:
            return issued_at, None
        # Whole seconds, as PyJWT counts: a token must not end later here than elsewhere.
        expires_at = int(_date(claims["exp"], "exp"))
        self._check_end(expires_at, now)
        if self._max_lifetime is not None:
            lifetime = expires_at - (now if issued_at is None else issued_at)
            if not lifetime <= self._max_lifetime:
                raise _invalid("lifetime_too_long", lifetime_s=round(lifetime), limit_s=self._max_lifetime)
        return issued_at, expires_at

    def _check_end(self, end: float, now: float) -> None:
        if not end > now - self._leeway:
            raise TokenError(RejectCode.TOKEN_EXPIRED, "expired", expired_s=round(now - end))

    def _check_begin(self, begin: float, now: float, detail: str) -> None:
        if not begin <= now + self._leeway:
            raise TokenError(RejectCode.TOKEN_NOT_YET_VALID, detail, valid_in_s=round(begin - now))

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        claim = self._scope_claim
        if not isinstance(claim, str):
            name, value = "scope_claim", claim(claims)
            if value is not None and not isinstance(value, str):
                value = list(value)
        else:
            name, value = claim, claims.get(claim)
            if self._scope_path and claim not in claims:
                value = claims
                for step in self._scope_path:
                    value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            return frozenset()
        if isinstance(value, str):
            return frozenset(filter(None, value.split(" ")))
        if not isinstance(value, list) or not all(isinstance(scope, str) for scope in value):
            raise _claim_type(name, "a string or an array of strings", value)
        return frozenset(value)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Authenticate an HTTP or WebSocket request, for Starlette's ``AuthenticationMiddleware``.

        Give it `on_error` as well: ``Middleware(AuthenticationMiddleware, backend=auth, on_error=auth.on_error)``.

        Args:
            conn: the request.

        Returns:
            The scopes (with ``authenticated``) and the identity, or None when the request has no token.

        Raises:
            AuthenticationError: its only argument, and its cause, is the `TokenError`.
        """
        try:
            identity = self._authenticate(conn)
        except TokenError as error:
            raise AuthenticationError(error) from error
        if identity is None:
            return None
        # Identity has what Starlette reads of a user, without inheriting from it.
        return AuthCredentials([*sorted(identity.scopes), "authenticated"]), cast("BaseUser", identity)

    def _authenticate(self, conn: HTTPConnection) -> Identity | None:
        headers = conn.scope["headers"]
        found = self._http_finder.find(None, headers, conn.scope.get("query_string", b""))
        if found is None:
            return None
        if found.source.startswith("cookie:"):
            # Here nobody else compares origins, and a form on any page can post with the cookie of its victim.
            origin = next(value for name, value in headers if name.lower() == b"origin" and value)
            host = next((value for name, value in headers if name.lower() == b"host"), b"")
            if not host or origin.partition(b"://")[2].lower() != host.lower():
                raise TokenError(RejectCode.TOKEN_MISSING, "cookie_cross_origin")
        return self.verify(found.token)

    @staticmethod
    def on_error(conn: HTTPConnection, exc: Exception) -> Response:
        """Answer a refused request with its code and ``WWW-Authenticate`` (RFC 6750 section 3).

        Args:
            conn: the request.
            exc: what `authenticate` raised.
        """
        error = exc.args[0] if exc.args and isinstance(exc.args[0], TokenError) else _invalid("unexpected_error")
        reply = REPLIES[error.code]
        content = {"code": error.code.value, "message": reply.message, "retry": reply.retry}
        return JSONResponse(content, reply.http_status, _challenge(error))

    def requires(self, *scopes: str) -> Callable[[Request], Coroutine[Any, Any, Identity]]:
        """Make a dependency for HTTP routes: ``Depends(auth.requires("crm:read"))`` in FastAPI.

        Args:
            scopes: what the token must grant, all of it; without any, a valid token is enough.

        Returns:
            An async function from the request to the `Identity`. It raises Starlette's ``HTTPException``: 401 without
            a valid token, 403 when a scope is missing, with ``WWW-Authenticate``.

        Raises:
            ConfigurationError: a scope is no string, or empty.
        """
        needed = frozenset(names(scopes, "scopes", example='auth.requires("crm:read")'))

        async def dependency(request: Request) -> Identity:
            try:
                identity = self._authenticate(request)
                if identity is None:
                    raise TokenError(RejectCode.TOKEN_MISSING, "token_missing")
                if not needed <= identity.scopes:
                    raise TokenError(
                        RejectCode.INSUFFICIENT_SCOPE,
                        "scope_missing",
                        expected=sorted(needed),
                        missing=sorted(needed - identity.scopes),
                    )
            except TokenError as error:
                status = REPLIES[error.code].http_status
                raise HTTPException(status, str(error), _challenge(error)) from error
            return identity

        return dependency


def _challenge(error: TokenError) -> dict[str, str]:
    """The ``WWW-Authenticate`` of a refusal. A request without credentials gets no error (RFC 6750 section 3.1)."""
    if error.code is RejectCode.TOKEN_MISSING:
        return {"WWW-Authenticate": 'Bearer realm="api"'}
    if REPLIES[error.code].http_status not in (401, 403):
        return {}  # the service has a problem, not the token
    description = REPLIES[error.code].message
    if error.code is not RejectCode.INSUFFICIENT_SCOPE:
        return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{description}"'}
    scopes: list[str] = error.fields.get("expected", [])
    value = f'Bearer error="insufficient_scope", error_description="{description}"'
    if scopes and all(_SCOPE_TOKEN.fullmatch(scope) for scope in scopes):
        value += f', scope="{" ".join(scopes)}"'
    return {"WWW-Authenticate": value}


def _invalid(detail: str, **fields: Any) -> TokenError:
    return TokenError(RejectCode.TOKEN_INVALID, detail, **fields)


def _claim_type(claim: str, expected: str, received: Any, **fields: str) -> TokenError:
    kind = _TYPES.get(type(received), type(received).__name__)
    return _invalid("claim_type", claim=claim, expected=expected, received=kind, **fields)


def _shown(value: Any) -> str:
    """What a log line may show of a value out of a token."""
    return neutralise(value, 256) if isinstance(value, str) else _TYPES[type(value)]


def _slash(expected: Iterable[str], received: Iterable[str]) -> dict[str, str]:
    """The commonest mistake with URLs as names: a slash too many or too few."""
    stripped = {name.rstrip("/") for name in expected}
    if any(name.rstrip("/") in stripped for name in received):
        return {"hint": "they differ only by a trailing slash"}
    return {}


def _text(value: Any, claim: str) -> str:
    """A claim that names somebody or something; issuers also write numbers."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _claim_type(claim, "a non-empty string or an integer", value)


def _date(value: Any, claim: str) -> float:
    """A NumericDate (RFC 7519 section 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _claim_type(claim, "a number of seconds", value)
    if not -_END_OF_TIME < value < _END_OF_TIME:
        hint = "it lies after the year 9999; is it in milliseconds?"
        raise _claim_type(claim, "a number of seconds", value, hint=hint)
    return value


def _media_type(name: str | None) -> str | None:
    """A ``typ`` in the form in which it is compared (RFC 7515 section 4.1.9)."""
    return None if name is None else name.lower().removeprefix("application/")


def _types(types: Any) -> frozenset[str | None]:
    if not isinstance(types, list | tuple | set | frozenset) or not types:
        raise ConfigurationError(
            'types must be a non-empty collection of strings and None; write types=("JWT", "at+jwt", None)',
            option="types",
        )
    if not all(name is None or (isinstance(name, str) and name) for name in types):
        raise ConfigurationError('types must hold non-empty strings and None; write types=("at+jwt",)', option="types")
    return frozenset(_media_type(name) for name in types)


def _one_or_more(value: Any, option: str, example: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = (value,)
    checked = names(value, option, example=f'"{example}"')
    if not checked:
        raise ConfigurationError(
            f'{option} is empty, so that no token would fit; write {option}="{example}"', option=option
        )
    return tuple(sorted(checked))


def _seconds(value: Any, option: str, *, lowest: float, highest: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError(f"{option} must be a finite number of seconds, such as {option}=10", option=option)
    if not lowest <= value <= highest:
        limits = f"from {lowest} to {highest}" if math.isfinite(highest) else f"of at least {lowest}"
        raise ConfigurationError(f"{option} must be a number of seconds {limits}, not {value}", option=option)
    return value


def _claim_name(claim: Any) -> str:
    if not isinstance(claim, str) or not claim:
        raise ConfigurationError(
            'subject_claim must be the name of a claim; write subject_claim="sub"', option="subject_claim"
        )
    return claim


def _scope_path(claim: Any) -> tuple[str, ...]:
    """The steps of a dotted path; empty when there is no path to follow."""
    if isinstance(claim, str) and claim:
        return tuple(claim.split(".")) if "." in claim else ()
    if not callable(claim) or inspect.iscoroutinefunction(claim):
        raise ConfigurationError(
            "scope_claim must be the name of a claim, a dotted path or a synchronous function of the claims; "
            'write scope_claim="scope"',
            option="scope_claim",
        )
    return ()
