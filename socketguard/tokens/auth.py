"""`JWTAuth`: verifies JSON Web Tokens (RFC 7519) as RFC 8725 advises, for Socket.IO and for HTTP routes alike.

PyJWT does the cryptography. The rules about headers are here and those about claims in `claims`, because they are
stricter than PyJWT's, and because a token is then verified in a fraction of the time of ``jwt.decode``.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Self

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.check import called, listed, names, whole
from socketguard.connection import Identity, KeysChange, claim_value
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.findings import Finding, finding
from socketguard.text import neutralise

from .claims import ANY, REQUIRE, ClaimRules, Names, ScopeClaim, invalid, shown
from .encoding import MAX_TOKEN_LENGTH, check_shape, decode_base64url, decode_json_object, unverified
from .fetch import AllowHTTP, Fetch, checked_hosts
from .finder import Found, Source, TokenFinder
from .http import Backend
from .jwks import Discovery, RemoteKeys
from .keys import MAX_KEY_ID, Key, KeySource, Pending, StaticKeys, check_algorithms
from .providers import Presets

__all__ = ["ANY", "JWTAuth", "ScopeClaim", "Verifier"]

_TYPES = ("JWT", "at+jwt", None)
_MICROSOFT = ("https://sts.windows.net/", "https://login.microsoftonline.com/")
# Where providers put scopes, roles and the like.
_SCOPES = ("scope", "scp", "permissions", "roles", "realm_access.roles", "groups", "cognito:groups")
_CACHED_HEADERS = 128
_CACHED_HEADER_BYTES = 512
# Claims that every access token must have (RFC 9068 section 2.2).
_RFC9068 = ("iss", "exp", "aud", "sub", "client_id", "iat", "jti")


class Verifier(Backend, Authenticator):
    """What a guard asks of whatever verifies tokens: `JWTAuth`, or `issuers.Issuers` for several of it."""

    name = "jwt"
    local = True

    def __init__(self, finder: TokenFinder, sources: Sequence[KeySource]) -> None:
        self.finder = finder
        # An HTTP request has no payload: its standard place for a token is the header, whatever Socket.IO uses.
        others = [source for source in finder.sources if source not in ("payload", "header")]
        self.http_finder = TokenFinder(("header", *others), finder.payload_keys)
        self._sources = sources

    @property
    def places(self) -> list[str]:  # type: ignore[override]
        """Where tokens are looked for."""
        return self.finder.places

    def find(self, request: ConnectRequest, *, http: bool = False) -> Found | None:
        """The token of a request, that in a cookie last."""
        finder = self.http_finder if http else self.finder
        return finder.find(request) or finder.find_cookie(request)

    async def identify(self, request: ConnectRequest) -> Identity | None:
        """Say whose the token of a request is: see `Authenticator.identify`."""
        found = self.find(request)
        return None if found is None else await self.averify(found.token)

    async def identify_http(self, request: ConnectRequest) -> Identity | None:
        found = self.find(request, http=True)
        if found is None and self.http_finder.missed_cookie(request):
            raise TokenError(RejectCode.TOKEN_MISSING, "cookie_cross_origin")
        return None if found is None else await self.averify(found.token)

    def start(self) -> None:
        """Begin to fetch keys, when there are any to fetch. Needs a running event loop."""
        for source in self._sources:
            source.start()

    def hold(self) -> None:
        """Fetch no keys from now on, for whoever only looks."""
        for source in self._sources:
            source.hold()

    def outage(self) -> int | None:
        """Seconds after which to try again, when no token of anybody can be verified for want of keys; else None."""
        # Every one is asked, because being asked makes it try again.
        outages = [source.outage() for source in self._sources]
        waits = [seconds for seconds in outages if seconds is not None]
        return min(waits) if len(waits) == len(outages) else None

    def keys_status(self) -> list[dict[str, Any]]:
        """The state of fetched keys; empty when there are none to fetch."""
        return [status for source in self._sources if (status := source.status()) is not None]

    def changes(self, since: int) -> tuple[int, Sequence[KeysChange]]:
        """What happened to fetched keys after a position, and the position to ask from next; 0 asks for all."""
        found = sorted(entry for source in self._sources for entry in source.changes() if entry[0] > since)
        return (found[-1][0] if found else since), [change for _, change in found]

    @property
    def fetching(self) -> bool:
        """Whether keys are being fetched now."""
        return any(source.fetching for source in self._sources)

    async def close(self) -> None:
        """Stop fetching keys."""
        for source in self._sources:
            await source.close()

    @property
    def issuers(self) -> frozenset[str]:
        """The issuers that are accepted, templates as they were written; empty when ``iss`` is not checked."""
        return frozenset(issuer for auth in self.auths for issuer in auth.rules.issuers)

    @property
    def leeway(self) -> float:
        """How far clocks may differ at most, in seconds."""
        return max(auth.rules.leeway for auth in self.auths)

    def scopes_read(self, identity: Identity) -> dict[str, Any]:
        """For the log, what a token grants, from which claim that was read, and which others might have been meant."""
        claim = self._of(identity).rules.scopes_from
        fields: dict[str, Any] = {"granted": sorted(neutralise(scope, 64) for scope in identity.scopes)[:16]}
        others = [name for name in _SCOPES if name != claim and claim_value(identity.claims, name)]
        if others and not identity.scopes:
            found = " and ".join(map(repr, others))
            fields["hint"] = (
                f"{claim!r} grants nothing; the token has {found}: JWTAuth(scope_claim={others[0]!r}) reads it"
            )
        return {"scope_claim": claim, **fields}

    @property
    def moves_by_hand(self) -> bool:
        """Whether a clock is moved by hand, as `socketguard.testing.FakeClock` is."""
        return any(getattr(auth.rules.clock, "moves_by_hand", False) for auth in self.auths)

    def now(self) -> float:
        """The time by which tokens are judged, in seconds since the epoch: the clock of the first verifier."""
        return self.auths[0].rules.clock()

    @property
    @abstractmethod
    def auths(self) -> tuple[JWTAuth, ...]: ...
    @abstractmethod
    def verify(self, token: str) -> Identity: ...
    @abstractmethod
    async def averify(self, token: str) -> Identity: ...
    @abstractmethod
    def verify_now(self, token: str) -> Identity | None: ...
    @abstractmethod
    def _of(self, identity: Identity) -> JWTAuth: ...
    @abstractmethod
    def check_time(self, identity: Identity) -> None: ...
    @abstractmethod
    def ends_at(self, identity: Identity) -> float | None: ...
    @abstractmethod
    def max_lifetime_of(self, issuer: str | None) -> float | None: ...
    @abstractmethod
    def describe(self) -> dict[str, Any]: ...
    @abstractmethod
    def findings(self) -> list[Finding]: ...


class JWTAuth(Presets, Verifier):
    """Verifies tokens; one instance serves the Socket.IO server and the HTTP routes of a service.

    Besides `verify` it is a Starlette authentication backend (with `on_error`), and `requires` makes FastAPI
    dependencies. For well-known identity providers there are `keycloak`, `auth0`, `entra`, `supabase`, `cognito` and
    `firebase`; for others that speak OpenID Connect there is `discover`.

    Args:
        key: a shared secret (str or bytes), a public key or certificate (PEM text or an object of ``cryptography``),
            or a list of those while keys are being rotated.
        algorithms: the allowed algorithms, such as ``["HS256"]`` or ``["RS256", "ES256"]``. Never HS* together with
            others (RFC 8725 section 2.1).
        jwks_url: instead of ``key``, where the issuer publishes its keys (RFC 7517 section 5). Then ``issuer`` and
            ``audience`` must be given, because such keys often sign for many services. A key that is published with a
            member ``issuer`` verifies tokens of that issuer only; ``{tenantid}`` in it stands for the claim ``tid``,
            and any other name in braces for the claim of that name.
        issuer: the ``iss`` that tokens must have, or a collection of them. Compared exactly (RFC 7519 section 4.1.1).
            With ``jwks_url`` it may name claims in braces, as in ``https://login.example.com/{tid}/v2.0``: in their
            place must stand what the token itself says there, a non-empty string without a slash. `ANY` is no check.
        audience: the ``aud`` of this service, or a collection of them; one must match. Without it a token that
            *has* an audience is refused (RFC 7519 section 4.1.3). `ANY` is no check.
        leeway: how far clocks may differ, in seconds, 0 to 60.
        require: claims that must be there. The subject must be there always; a token without ``exp`` is taken only
            when ``require`` is written out without it. ``("exp", "sub")``, the default, follows ``subject_claim``.
        claims: values that further claims must have, such as ``{"token_use": "access"}``; a collection of values
            allows each of them.
        subject_claim: the claim that says who it is.
        token_id_claim: the claim that tells this token from all others of its issuer, by which it can be revoked;
            ``uti`` for Microsoft Entra ID. A token without it can only be revoked with all others of its subject.
        scope_claim: where the scopes are: a claim's name, a dotted path such as ``realm_access.roles`` (a claim with
            just that name goes first), or a function of the claims. A string is split on spaces (RFC 6749 section
            3.3); an array must hold strings.
        sources: where a Socket.IO client may put its token: ``"payload"``, ``"header"``, ``"header:NAME"``,
            ``"query:NAME"``, ``"cookie:NAME"`` (also in chunks, ``NAME_0`` or ``NAME.0`` and so on), and functions of
            the `ConnectRequest` that return the token or None. The payload goes first, then the header, then the others
            in their order, cookies last.
        payload_keys: under which keys of the payload; ``authorization`` holds ``Bearer …``, others the bare token.
        max_lifetime: the longest time from ``iat`` (from now, without ``iat``) to ``exp``, in seconds. Revoking all
            tokens of a subject needs it.
        types: the allowed ``typ`` headers, compared case-insensitively and without ``application/``; None stands for
            tokens without one.
        profile: ``"rfc9068"`` takes nothing but access tokens as RFC 9068 has them: with the type ``at+jwt`` and the
            claims of its section 2.2. Then ``issuer`` and ``audience`` must be given.
        expiry: ``"disconnect"`` ends a connection when its token expires, ``"ignore"`` lets it go on.
        fetch: gets the body of a URL, ``async (url) -> bytes``, instead of httpx2.
        jwks_lifetime: how old keys may become, in seconds. They are fetched again before that.
        stale_if_error: how much longer they serve while they can't be fetched, in seconds.
        jwks_cooldown: the time between two attempts to fetch them, in seconds.
        jwks_timeout: for one fetch, in seconds.
        allow_http: whether ``jwks_url`` may begin with ``http``: True for a loopback address of this machine only, or a
            list of the host names in one's own network for which it may, such as ``["keycloak"]``. Whoever can change
            the answer on its way can sign every token.
        max_token_length: characters of the longest token, 8,192 as a rule: servers and proxies take header lines of
            that length. Tokens with very many groups need more; those of the payload are bounded by
            ``limits.connect_packet_bytes`` too.
        clock: tells the time, in seconds since the epoch.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    @called("JWTAuth")
    def __init__(
        self,
        key: Key | Sequence[Key] | None = None,
        *,
        algorithms: Collection[str],
        jwks_url: str | None = None,
        issuer: Names = None,
        audience: Names = None,
        leeway: float = 10,
        require: Collection[str] = REQUIRE,
        claims: Mapping[str, Any] | None = None,
        subject_claim: str = "sub",
        token_id_claim: str = "jti",  # noqa: S107 - the name of a claim
        scope_claim: ScopeClaim = "scope",
        sources: Sequence[Source] = ("payload", "header"),
        payload_keys: Sequence[str] = ("token", "access_token", "authorization"),
        max_lifetime: float | None = None,
        types: Collection[str | None] = _TYPES,
        profile: Literal["rfc9068"] | None = None,
        expiry: Literal["disconnect", "ignore"] = "disconnect",
        fetch: Fetch | None = None,
        jwks_lifetime: float = 600,
        stale_if_error: float = 3600,
        jwks_cooldown: float = 30,
        jwks_timeout: float = 5,
        allow_http: AllowHTTP = False,
        max_token_length: int = MAX_TOKEN_LENGTH,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._algorithms = frozenset(check_algorithms(algorithms))
        self._most = whole(max_token_length, "max_token_length", example=MAX_TOKEN_LENGTH, most=1_000_000)
        allow_http = checked_hosts(allow_http)
        self._types, required = _profile(profile, _media_types(types), require)
        if expiry not in ("disconnect", "ignore"):
            raise ConfigurationError('expiry is "disconnect" or "ignore"', option="expiry")
        self._expiry = expiry
        self.rules = rules = ClaimRules(
            issuer=issuer,
            audience=audience,
            leeway=leeway,
            require=required,
            subject_claim=subject_claim,
            token_id_claim=token_id_claim,
            scope_claim=scope_claim,
            max_lifetime=max_lifetime,
            claims=claims,
            templates=jwks_url is not None and not isinstance(jwks_url, Discovery),
            clock=clock,
        )
        if profile is not None:
            _check_named(rules, f'profile="{profile}"', any_will_do=False)
        elif jwks_url is not None:
            _check_named(rules, "jwks_url", any_will_do=True)
        self._keys: KeySource
        if jwks_url is not None:
            if key is not None:
                raise ConfigurationError("key and jwks_url exclude each other; leave one of them out", option="key")
            self._keys = RemoteKeys(
                jwks_url,
                algorithms=tuple(sorted(self._algorithms)),
                fetch=fetch,
                lifetime=jwks_lifetime,
                stale_if_error=stale_if_error,
                cooldown=jwks_cooldown,
                timeout=jwks_timeout,
                allow_http=allow_http,
            )
        elif fetch is not None:
            raise ConfigurationError("fetch needs jwks_url; a key that is given is not fetched", option="fetch")
        elif key is None:
            raise ConfigurationError(
                "key is None (is the environment variable set?); give the secret, the public key, or jwks_url=…",
                option="key",
            )
        else:
            self._keys = StaticKeys(key, tuple(sorted(self._algorithms)))
        super().__init__(TokenFinder(sources, payload_keys), (self._keys,))
        # Only headers of tokens whose signature held get in here, so that a stranger can't fill it.
        self.known_headers: dict[bytes, tuple[str, str | None]] = {}
        said = (self._algorithms, self._types, self._most, expiry, self.finder.sources, self.finder.payload_keys)
        self._configuration = (said, self._keys.fingerprint, rules.configuration)

    @classmethod
    @called("JWTAuth.discover")
    def discover(
        cls, issuer: str, *, audience: Names, algorithms: Collection[str] = ("RS256",), **options: Any
    ) -> Self:
        """Take the keys that the OpenID Connect configuration of an issuer names.

        The configuration is read from ``{issuer}/.well-known/openid-configuration`` and must name the same issuer
        (OpenID Connect Discovery 1.0 section 4.3). Which algorithms are allowed never comes from it.

        Args:
            issuer: the issuer's URL, exactly as in ``iss``.
            audience: as for `JWTAuth`, and so is every other option.
            algorithms: as for `JWTAuth`. RS256 is what every provider must have (section 3 there).
        """
        if not isinstance(issuer, str):
            raise ConfigurationError(
                'discover needs one issuer; write JWTAuth.discover("https://login.example.com", …)', option="issuer"
            )
        return cls(jwks_url=Discovery(issuer), issuer=issuer, audience=audience, algorithms=algorithms, **options)

    def __eq__(self, other: object) -> bool:
        return self._configuration == other._configuration if isinstance(other, JWTAuth) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._configuration)

    def __repr__(self) -> str:
        return f"<JWTAuth {', '.join(sorted(self._algorithms))} ({', '.join(self._keys.kinds)})>"

    @property
    def auths(self) -> tuple[JWTAuth, ...]:
        """The verifiers, one for each issuer: this one."""
        return (self,)

    def _of(self, identity: Identity) -> JWTAuth:
        """Whoever verified a token: this one."""
        return self

    @property
    def fetches_keys(self) -> bool:
        """Whether its keys are on the network."""
        return isinstance(self._keys, RemoteKeys)

    def with_keys(self, keys: KeySource) -> JWTAuth:
        """The same rules with other keys: for telling people, never for letting anybody in."""
        twin = copy.copy(self)
        twin._keys, twin._sources, twin.known_headers = keys, (keys,), {}
        return twin

    def describe(self) -> dict[str, Any]:
        """The effective configuration for a log line, without secrets. Times are in seconds."""
        return {
            "algorithms": sorted(self._algorithms),
            "keys": list(self._keys.kinds),
            **self.rules.describe(),
            "sources": self.finder.named,
            "payload_keys": list(self.finder.payload_keys),
            "types": sorted(self._types, key=lambda name: name or ""),
            "expiry": self._expiry,
        }

    def findings(self) -> list[Finding]:
        """What a person should look at: SG033 (issuer, audience), SG034 (query), SG035 (``exp``)."""
        found: list[Finding] = []
        missing = self.rules.unnamed(any_will_do=True)
        if isinstance(self._keys, StaticKeys) and self._keys.is_public and missing:
            fix = "; ".join(f"add {name}=… to JWTAuth" for name in missing)
            found.append(finding("SG033", missing=" and no ".join(missing), fix=fix))
        if queries := [source for source in self.finder.named if source.startswith("query:")]:
            found.append(finding("SG034", queries=", ".join(queries)))
        if "exp" not in self.rules.require:
            found.append(finding("SG035"))
        return found

    def verify(self, token: str) -> Identity:
        """Verify a token.

        The order: shape, header, signature, claims; of the claims, the dates last. So ``token_expired`` means that
        nothing else was wrong. Fractions of a second of ``exp`` are dropped.

        Args:
            token: in compact serialisation, without ``Bearer``.

        Raises:
            TokenError: the token is refused; with ``keys_unavailable`` when it can't be verified now, or when keys have
                to be fetched first, which `averify` does. Nothing else is ever raised.
        """
        found = self._verify(token)
        if isinstance(found, Pending):
            raise TokenError(RejectCode.KEYS_UNAVAILABLE, found.detail, **found.fields)
        return found

    async def averify(self, token: str) -> Identity:
        """Verify a token, after fetching keys when that is needed.

        Args:
            token: in compact serialisation, without ``Bearer``.

        Raises:
            TokenError: the token is refused, or (``keys_unavailable``) it can't be verified now.
        """
        found = self._verify(token)
        if not isinstance(found, Pending):
            return found
        await self._keys.load(found)
        return self.verify(token)

    def verify_now(self, token: str) -> Identity | None:
        """As `verify`, but None when keys have to be fetched first, which `averify` does."""
        found = self._verify(token)
        return None if isinstance(found, Pending) else found

    def check_time(self, identity: Identity) -> None:
        """Refuse a token that has expired since it was verified; an anonymous identity never expires."""
        if identity.expires_at is not None:
            self.rules.check_end(identity.expires_at, self.rules.clock())

    def ends_at(self, identity: Identity) -> float | None:
        """When a connection must end, in seconds since the epoch; None when its token doesn't end it."""
        if identity.expires_at is None or self._expiry == "ignore":
            return None
        return identity.expires_at + self.rules.leeway

    def max_lifetime_of(self, issuer: str | None) -> float | None:
        """The longest lifetime of an issuer's tokens, in seconds; None when nobody knows."""
        return self.rules.max_lifetime

    def _verify(self, token: str) -> Identity | Pending:
        try:
            signing_input, _, signature_part = check_shape(token, self._most).rpartition(b".")
            header_part, _, payload_part = signing_input.partition(b".")
            header = self.known_headers.get(header_part)
            algorithm, key_id = self._read_header(header_part) if header is None else header
            signature = decode_base64url(signature_part, "signature")
            keys = self._keys.candidates(algorithm, key_id)
            if isinstance(keys, Pending):
                return keys
            for key in keys:
                if key.verify(signing_input, signature):
                    break
            else:
                fields: dict[str, Any] = {} if key_id is None else {"key_id": neutralise(key_id, MAX_KEY_ID)}
                raise invalid(
                    "signature_mismatch", algorithm=algorithm, **fields, **self._whose(header_part, payload_part)
                )
            if header is None and len(header_part) <= _CACHED_HEADER_BYTES:
                if len(self.known_headers) >= _CACHED_HEADERS:
                    self.known_headers.clear()
                self.known_headers[header_part] = algorithm, key_id
            return self.rules.identity(decode_json_object(payload_part, "payload"), key_id, key.issuer)
        except TokenError:
            raise
        except Exception as exc:
            # The exception's own text may quote the token, so that only its type goes on.
            raise TokenError(RejectCode.TOKEN_INVALID, "unexpected_error", exception=type(exc).__name__) from None

    def _whose(self, header_part: bytes, payload_part: bytes) -> dict[str, Any]:
        """Whose a token says that it is whose signature does not hold, for the log: nobody vouches for that."""
        try:
            claims = unverified(payload_part)
        except TokenError:
            return {}
        said = {name: shown(claims[name]) for name in ("iss", "aud") if name in claims}
        issuer = claims.get("iss")
        hint = "another key signed it, or it was changed on its way"
        of_microsoft = isinstance(issuer, str) and issuer.startswith(_MICROSOFT)
        if of_microsoft and "nonce" in decode_json_object(header_part, "header"):
            hint = (
                "a nonce in its header marks a token of Microsoft for its own Graph, which nobody else can verify: ask "
                "for a scope of your own API (api://…/…)"
            )
        elif self.rules.issuers and not (isinstance(issuer, str) and self.rules.accepts_issuer(issuer)):
            hint = "it says that it is of another issuer: a token of another service or environment"
        return {"unverified": said, "hint": hint}

    def _read_header(self, part: bytes) -> tuple[str, str | None]:
        """Check a header (RFC 7515 section 4.1). What could name a key (jku, jwk, x5u, x5c) is never looked at."""
        header = decode_json_object(part, "header")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            hint = {"hint": "a token with alg none is not signed, and never accepted"} if algorithm == "none" else {}
            raise invalid("algorithm_not_allowed", expected=sorted(self._algorithms), received=shown(algorithm), **hint)
        if "crit" in header or "b64" in header:
            raise invalid("crit_not_supported")
        type_, present = header.get("typ"), "typ" in header
        if (present and not isinstance(type_, str)) or _media_type(type_) not in self._types:
            received = shown(type_) if present else None
            raise invalid("type_not_allowed", expected=self.describe()["types"], received=received)
        key_id = header.get("kid")
        if "kid" in header and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID):
            raise invalid("key_id_malformed", expected=f"a string of at most {MAX_KEY_ID} characters")
        return algorithm, key_id


def _media_type(name: str | None) -> str | None:
    """A ``typ`` in the form in which it is compared (RFC 7515 section 4.1.9)."""
    return None if name is None else name.lower().removeprefix("application/")


def _media_types(types: Any) -> frozenset[str | None]:
    """The option ``types``, as ``typ`` is compared with it."""
    example = '("JWT", "at+jwt", None)'
    types = listed(types, "types", example=example)
    if not types:
        raise ConfigurationError(f"types is empty, so that no token would fit; write types={example}", option="types")
    if not all(name is None or (isinstance(name, str) and name) for name in types):
        raise ConfigurationError('types must hold non-empty strings and None; write types=("at+jwt",)', option="types")
    return frozenset(_media_type(name) for name in types)


def _check_named(rules: ClaimRules, because: str, *, any_will_do: bool) -> None:
    """Issuer and audience must be given, or `ANY` where that will do."""
    for option in rules.unnamed(any_will_do=any_will_do):
        advice = f", or {option}=ANY for no check" if any_will_do else ""
        raise ConfigurationError(
            f"{because} needs {option}: the keys of an issuer sign for other services too; write {option}=…{advice}",
            option=option,
        )


def _profile(
    profile: Any, types: frozenset[str | None], require: Collection[str]
) -> tuple[frozenset[str | None], Collection[str]]:
    """The types and the required claims, as a profile wants them."""
    if profile is None:
        return types, require
    if profile != "rfc9068":
        raise ConfigurationError('profile must be "rfc9068", or left out', option="profile")
    required = names(require, "require", example='("exp", "sub")')
    strict = _media_types(("at+jwt",))
    if types not in (_media_types(_TYPES), strict):
        raise ConfigurationError('profile="rfc9068" takes the type at+jwt only; leave types out', option="types")
    return strict, [*_RFC9068, *(name for name in required if name not in _RFC9068)]
