"""Keys that an identity provider publishes as a JWK Set (RFC 7517): fetched without blocking, kept, and renewed.

The cache makes at most one request at a time and at most one attempt per cool-down, whatever tokens come. A removed key
is dead at the next refresh. In an outage the last keys serve for a while, then every token is refused. The algorithm is
the one of jwks-client (https://github.com/modern-python/jwks-client).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import functools
import hashlib
import importlib
import ipaddress
import json
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from socketguard.connection import KeysChange
from socketguard.deadline import Overdue, run_until
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.text import neutralise

from .claims import template_parts
from .keys import RSA_BITS, KeysPending, PreparedKey, PublicKey, fitting

if TYPE_CHECKING:
    import httpx2

__all__ = ["BODY_LIMIT", "Fetch", "FetchError", "KeySet", "RemoteKeys", "Unusable", "default_fetch"]

_HEADERS = {
    "Accept": "application/jwk-set+json, application/json;q=0.9, */*;q=0.1",
    # A small compressed body can expand to any size; what is sent compressed all the same is refused.
    "Accept-Encoding": "identity",
}


class FetchError(Exception):
    """There was an answer, but none that may be used. The text says why."""


def default_fetch(*, timeout: float, limit: int) -> Callable[[str], Awaitable[bytes]]:
    """Make a function that fetches the body of a URL.

    It follows no redirect, takes no other status than 200 and no compressed body, and stops reading at the limit.
    Proxies are taken from the environment (``HTTPS_PROXY``, ``NO_PROXY``), and so are ``SSL_CERT_FILE`` and
    ``SSL_CERT_DIR``.

    Args:
        timeout: seconds for the whole of it: connecting, sending and reading.
        limit: bytes of body.

    Returns:
        An async function of the URL. It raises `TimeoutError`, `FetchError` and the exceptions of httpx2.

    Raises:
        ConfigurationError: httpx2 is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise ConfigurationError(
            "fetching keys over HTTP needs httpx2: pip install 'socketguard[jwks]'; "
            "or give your own async function of the URL that returns bytes: fetch=…",
            option="fetch",
        ) from None
    # Made here and not for each fetch: reading the certificates takes tens of milliseconds, in which the loop stands.
    context = httpx2.create_ssl_context()
    # Which httpx2 would import at the first fetch, for 20 ms.
    with contextlib.suppress(ImportError):
        importlib.import_module("anyio._backends._asyncio")

    async def fetch(url: str) -> bytes:
        # A client of its own for each fetch: there are minutes between them, and nothing is then tied to one loop.
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(verify=context, timeout=None, follow_redirects=False, headers=_HEADERS) as client,
            client.stream("GET", url) as response,
        ):
            _check(response)
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise FetchError(f"the body is larger than {limit} bytes")
            return bytes(body)

    return fetch


def _check(response: httpx2.Response) -> None:
    if response.is_redirect:
        raise FetchError(f"status {response.status_code}: redirects are not followed; use the address it leads to")
    if response.status_code != 200:
        raise FetchError(f"status {response.status_code}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise FetchError(f"the body is compressed ({neutralise(encoding, 32)}) although that was not asked for")
    # Any other type may hold JSON: servers of static files don't know better. This one is a login page or a portal.
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise FetchError("the answer is a page (text/html), not JSON")


_MAX_KEYS = 100
_MAX_TRIED = 4
"""How many keys are tried for one token: each costs a verification, and anybody can send tokens."""

_MAX_KEY_ID = 128  # characters; tokens with a longer one are refused
_MAX_ISSUER = 512  # characters
_RSA_MAX_BITS = 16_384  # OpenSSL verifies with none that is larger
_SHOWN_KEYS = 10
_CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
_EDWARDS: dict[str, type[ed25519.Ed25519PublicKey] | type[ed448.Ed448PublicKey]] = {
    "Ed25519": ed25519.Ed25519PublicKey,
    "Ed448": ed448.Ed448PublicKey,
}
_SAME = frozenset({"EdDSA", "Ed25519"})  # what `alg` says of an Ed25519 key, before and since RFC 9864
_PLACEHOLDERS = {"tenantid": "tid"}
"""Placeholders of ``issuer`` that are no names of claims, in lower case: Microsoft writes {tenantid} and {tenantId}."""


class Unusable(Exception):
    """An answer or one of its keys can't be used; the text says why."""


class KeySet:
    """The usable keys of one JWK Set. It never changes.

    Args:
        document: the decoded JSON.
        algorithms: the allowed algorithms. The set never adds to them.

    Raises:
        Unusable: there is no key that can be used; the text says why.

    Attributes:
        count: how many keys can be used.
        ids: their ``kid``, neutralised.
        ignored: which keys can't be used, and why.
        fingerprint: equal for equal keys.
    """

    __slots__ = ("_all", "_by_id", "_fits", "count", "fingerprint", "ids", "ignored")

    def __init__(self, document: Mapping[str, Any], algorithms: Sequence[str]) -> None:
        given = document.get("keys")
        if not isinstance(given, list):
            raise Unusable('the answer has no list "keys"')
        if len(given) > _MAX_KEYS:
            raise Unusable(f"the set has {len(given)} keys; at most {_MAX_KEYS} are taken")
        self._all: dict[str, tuple[PreparedKey, ...]] = {}
        self._by_id: dict[tuple[str, str], tuple[PreparedKey, ...]] = {}
        self._fits: dict[str, set[str]] = {}
        self.ignored: list[str] = []
        self.count = 0
        fingerprint = set()
        for position, jwk in enumerate(given, 1):
            key_id: str | None = None
            try:
                key_id = _key_id(jwk)
                kind, fits, key = _read_key(jwk, algorithms)
                issuer = _issuer(jwk)
                self._add(key_id, kind, fits, key, issuer)
            except Unusable as refusal:
                label = f"key {position}" if key_id is None else f"key {neutralise(key_id, _MAX_KEY_ID)}"
                self.ignored.append(f"{label}: {refusal}")
            else:
                self.count += 1
                form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                fingerprint.add((key_id, fits, issuer, hashlib.sha256(key.public_bytes(*form)).digest()))
        if not self.count:
            raise Unusable("; ".join(["no key of the set can be used", *self.ignored[:_SHOWN_KEYS]]))
        self.ids = tuple(neutralise(key_id, _MAX_KEY_ID) for key_id in self._fits)
        self.fingerprint = frozenset(fingerprint)

    def _add(
        self, key_id: str | None, kind: str, fits: tuple[str, ...], key: PublicKey, issuer: tuple[str, ...] | None
    ) -> None:
        if key_id is not None:
            if any(len(self._by_id.get((name, key_id), ())) >= _MAX_TRIED for name in fits):
                raise Unusable(f"more than {_MAX_TRIED} keys have this kid")
            self._fits.setdefault(key_id, set()).update(fits)
        for name in fits:
            prepared = (PreparedKey(name, kind, key, issuer=issuer),)
            self._all[name] = self._all.get(name, ()) + prepared
            if key_id is not None:
                self._by_id[name, key_id] = self._by_id.get((name, key_id), ()) + prepared

    def find(self, algorithm: str, key_id: str | None) -> tuple[PreparedKey, ...]:
        """The keys that may have signed a token; none when its key is not in the set.

        Args:
            algorithm: its ``alg``.
            key_id: its ``kid``.

        Raises:
            TokenError: it has no ``kid`` and too many keys fit, or its key is for other algorithms.
        """
        if key_id is None:
            found = self._all.get(algorithm, ())
            if len(found) > _MAX_TRIED:
                raise TokenError(RejectCode.TOKEN_INVALID, "key_id_missing", keys=len(found))
            return found
        found = self._by_id.get((algorithm, key_id), ())
        if not found and key_id in self._fits:
            shown = neutralise(key_id, _MAX_KEY_ID)
            expected = sorted(self._fits[key_id])
            raise TokenError(
                RejectCode.TOKEN_INVALID, "algorithm_not_allowed", expected=expected, received=algorithm, key_id=shown
            )
        return found


def _key_id(jwk: Any) -> str | None:
    if not isinstance(jwk, dict):
        raise Unusable(f"it must be an object, not {type(jwk).__name__}")
    key_id = jwk.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > _MAX_KEY_ID):
        raise Unusable(f"kid must be a string of at most {_MAX_KEY_ID} characters")
    return key_id


def _issuer(jwk: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The only issuer whose tokens a key may verify, in parts; None when it names none."""
    if "issuer" not in jwk:
        return None
    issuer = jwk["issuer"]
    if not isinstance(issuer, str) or not 0 < len(issuer) <= _MAX_ISSUER:
        raise Unusable(f"issuer must be a non-empty string of at most {_MAX_ISSUER} characters")
    # Here a placeholder may stand for the host too: this only ever narrows what JWTAuth(issuer=…) lets through.
    parts = template_parts(issuer)
    if parts is None:
        raise Unusable("issuer has braces that name no claim, or iss")
    return tuple(_PLACEHOLDERS.get(part.lower(), part) if index % 2 else part for index, part in enumerate(parts))


def _read_key(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> tuple[str, tuple[str, ...], PublicKey]:
    """What a JWK is, the allowed algorithms it serves, and the key (RFC 7517 section 4, RFC 7518 section 6)."""
    if jwk.get("kty") == "oct":
        raise Unusable("a shared secret is no secret when it is published")
    if jwk.get("use", "sig") != "sig":
        raise Unusable("use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise Unusable("key_ops has no verify")
    if "d" in jwk:
        raise Unusable("it holds its private part: whoever reads it can sign")
    try:
        key = _public_key(jwk)
    except Unusable:
        raise
    except Exception:
        # Whatever is wrong with one key, the others of its set count.
        raise Unusable("its numbers are missing or wrong") from None
    kind, fits = fitting(key) or ("", ())
    if isinstance(key, rsa.RSAPublicKey) and not RSA_BITS <= key.key_size <= _RSA_MAX_BITS:
        raise Unusable(f"RSA needs {RSA_BITS} to {_RSA_MAX_BITS} bits, this has {key.key_size}")
    named = jwk.get("alg")
    served = tuple(
        name
        for name in algorithms
        if name in fits and (named is None or named == name or (named in fits and {named, name} == _SAME))
    )
    if not served:
        own = f"{kind}, alg {neutralise(str(named), 32)}" if named is not None else kind
        raise Unusable(f"it fits none of the algorithms {', '.join(algorithms)} ({own})")
    return kind, served, key


def _public_key(jwk: Mapping[str, Any]) -> PublicKey:
    type_, curve = jwk.get("kty"), jwk.get("crv")
    if type_ == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    if type_ == "EC" and curve in _CURVES:
        return ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), _CURVES[curve]()).public_key()
    if type_ == "OKP" and curve in _EDWARDS:
        return _EDWARDS[curve].from_public_bytes(_octets(jwk["x"]))
    shown = " ".join(neutralise(str(part), 32) for part in (type_, curve) if part is not None)
    raise Unusable(f"keys of the kind {shown or 'without kty'} are unknown")


def _number(text: str) -> int:
    return int.from_bytes(_octets(text), "big")


def _octets(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""An async function of a URL that returns the body of the answer, and raises when there is none with status 200."""

BODY_LIMIT = 1_048_576
"""Bytes of a JWK Set or of a discovery document. Real ones have some kilobytes."""

_REFRESH_AT = 0.8
_JITTER = 0.2
_SHOWN = 10
_RELEASED = 25
_SHOWN_KEY_ID = 128


class RemoteKeys:
    """The keys of one issuer, from a JWK Set on the web. It belongs to one event loop at a time.

    The names of the options in error texts are those of `socketguard.JWTAuth`.

    Args:
        url: the address of the JWK Set: https, without credentials.
        algorithms: what `socketguard.keys.check_algorithms` returned; public-key algorithms only.
        issuer: whose keys these are; needed with `discover`.
        discover: ask the issuer's discovery document for the address (OpenID Connect Discovery 1.0 section 4).
        fetch: fetches a URL; with httpx2 when None. Must follow no redirect.
        lifetime: seconds for which keys are fresh. They are renewed in the background after 80 % of it.
        stale_if_error: seconds for which they serve beyond that, when they can't be fetched.
        cooldown: seconds between two attempts, failed ones included, and up to 20 % more at random.
        timeout: seconds for one request, connecting and reading included.
        allow_http: allow http, for this very machine only (localhost, 127.0.0.1, ::1).
        clock: seconds that never go backwards.
        jitter: a random number from 0 to 1.

    Raises:
        ConfigurationError: an option is wrong, or httpx2 is not installed and there is no `fetch`.

    Attributes:
        listeners: are told every `KeysChange`.
        kinds: what the keys are, for a log line.
        fingerprint: equal for equal configurations.
    """

    def __init__(
        self,
        url: str | None,
        *,
        algorithms: tuple[str, ...],
        issuer: str | None = None,
        discover: bool = False,
        fetch: Fetch | None = None,
        lifetime: float = 600.0,
        stale_if_error: float = 3600.0,
        cooldown: float = 30.0,
        timeout: float = 5.0,
        allow_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        shared = [name for name in algorithms if name.startswith("HS")]
        if shared:
            raise ConfigurationError(
                f"algorithms has {', '.join(shared)}, but a published key can't be a shared secret; "
                'write algorithms=["RS256"]',
                option="algorithms",
            )
        self._algorithms = algorithms
        self._allow_http = allow_http
        self._discovers = discover
        self._issuer = issuer
        self._url = _discovery_url(issuer, allow_http) if discover else _checked_url(url, "jwks_url", allow_http)
        if discover and url is not None:
            raise ConfigurationError("jwks_url is what discovery finds out; leave it out", option="jwks_url")
        self._lifetime = _seconds(lifetime, "jwks_lifetime", lowest=1, highest=86_400)
        self._stale = _seconds(stale_if_error, "stale_if_error", lowest=0, highest=604_800)
        self._cooldown = _seconds(cooldown, "jwks_cooldown", lowest=0.1, highest=3_600)
        self._timeout = _seconds(timeout, "jwks_timeout", lowest=0.01, highest=60)
        if self._cooldown * (1 + _JITTER) > self._lifetime:
            raise ConfigurationError(
                f"jwks_cooldown ({cooldown:g}) is too long for jwks_lifetime ({lifetime:g}): keys could not be renewed "
                f"in time; write jwks_cooldown={self._lifetime / 2:g} or less",
                option="jwks_cooldown",
            )
        if fetch is not None and not callable(fetch):
            raise ConfigurationError("fetch must be an async function of the URL that returns bytes", option="fetch")
        if fetch is None:
            # Only here, so that nobody else needs httpx2.
            pass

            self._fetch: Fetch = default_fetch(timeout=self._timeout, limit=BODY_LIMIT)
        else:
            self._fetch = fetch
        self._clock = clock
        self._jitter = jitter
        # A query may hold a key to the provider's API.
        self._shown_url = neutralise(self._url.partition("?")[0], 256)
        self.kinds: tuple[str, ...] = (f"{'discovery' if discover else 'JWKS'} {self._shown_url}",)
        self.fingerprint: Hashable = (
            (self._url, issuer, discover, frozenset(algorithms), fetch, allow_http),
            (self._lifetime, self._stale, self._cooldown, self._timeout, clock, jitter),
        )
        self.listeners: list[Callable[[KeysChange], None]] = []
        self._keys: KeySet | None = None
        self._loaded_at = -math.inf
        self._next = -math.inf  # before this no attempt is made
        self._attempts = 0
        self._successes = 0
        self._failing: Literal["stale", "none"] | None = None  # what served at the last attempt, if that failed
        self._task: asyncio.Task[None] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<RemoteKeys {self._shown_url}>"

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey]:
        """The keys that may have signed a token. Begins a refresh in the background when it is time for one.

        Args:
            algorithm: the ``alg`` of its header, already known to be allowed.
            key_id: the ``kid`` of its header.

        Raises:
            KeysPending: the keys are to be fetched first, or the key is not among those that are here.
            TokenError: ``keys_unavailable`` with ``retry_after`` when that is so and no attempt is allowed yet;
                ``token_invalid`` when the token has no ``kid`` and too many keys fit, or its key is for another
                algorithm.
        """
        now = self._clock()
        keys = self._usable(now)
        if keys is None:
            raise self._pending(now, "keys_pending", "keys_unavailable")
        age = now - self._loaded_at
        if age >= self._lifetime * _REFRESH_AT:
            # In an outage the old keys serve at once, rather than keep everybody waiting for each further attempt. But
            # an outage of long ago says nothing about now.
            known_outage = self._failing is not None and now < self._next + self._cooldown
            if age >= self._lifetime and not known_outage and self._may_wait(now):
                raise self._pending(now, "keys_pending", "keys_unavailable")
            self._begin(now)
        found = keys.find(algorithm, key_id)
        if not found:
            fields = {} if key_id is None else {"key_id": neutralise(key_id, _SHOWN_KEY_ID)}
            raise self._pending(now, "key_unknown", "key_unknown", **fields)
        return found

    async def load(self) -> bool:
        """Fetch the keys, or wait for the attempt that is under way.

        Returns:
            Whether keys have been fetched since the call. False at once while the cool-down lasts.
        """
        return await self._load(self._successes)

    def start(self) -> None:
        """Begin the first fetch in the background. Needs a running loop."""
        if self._usable(self._clock()) is None:
            self._begin(self._clock())

    def outage(self) -> int | None:
        """Whether every token would be refused now because the keys can't be had.

        Returns:
            None when tokens can be verified, or when nothing speaks against it yet. Else the whole seconds after which
            to try again; another attempt is begun in the background when it is time for one.
        """
        now = self._clock()
        if self._usable(now) is not None:
            return None
        self._begin(now)
        return None if self._failing is None else self._retry_after(now)

    def status(self) -> dict[str, Any]:
        """The state for people: ``url``, ``state``, ``age_s``, ``keys`` and ``key_ids``.

        The state is ``empty`` (no keys, and none refused), ``fresh``, ``stale`` or ``unavailable``.
        """
        now = self._clock()
        keys = self._usable(now)
        if keys is None:
            state = "empty" if self._failing is None else "unavailable"
            return {"url": self._shown_url, "state": state, "age_s": None, "keys": 0, "key_ids": []}
        age = now - self._loaded_at
        state = "fresh" if age < self._lifetime else "stale"
        return {
            "url": self._shown_url,
            "state": state,
            "age_s": round(age, 1),
            "keys": keys.count,
            "key_ids": list(keys.ids),
        }

    async def close(self) -> None:
        """End the attempt that is under way. The keys stay, and it can be used again."""
        task, self._task = self._in_flight(), None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _usable(self, now: float) -> KeySet | None:
        return self._keys if now - self._loaded_at < self._lifetime + self._stale else None

    def _may_wait(self, now: float) -> bool:
        return now >= self._next or self._in_flight() is not None

    def _pending(self, now: float, pending: str, unavailable: str, **fields: Any) -> TokenError:
        if self._may_wait(now):
            load = functools.partial(self._load, self._successes)
            return KeysPending(load, pending, **fields, retry_after=1)
        return TokenError(RejectCode.KEYS_UNAVAILABLE, unavailable, **fields, retry_after=self._retry_after(now))

    def _retry_after(self, now: float) -> int:
        if self._in_flight() is not None:
            return math.ceil(self._timeout)
        return max(1, math.ceil(self._next - now))

    def _in_flight(self) -> asyncio.Task[None] | None:
        task = self._task
        if task is None or task.done():
            return None
        try:
            other = task.get_loop() is not asyncio.get_running_loop()
        except RuntimeError:
            return task
        if other:
            # Its loop runs no more, and nobody will ever hear of the answer.
            self._task = None
            return None
        return task

    async def _load(self, since: int) -> bool:
        if self._successes == since:
            task = self._begin(self._clock())
            if task is not None:
                # Unlike an await of the task, this leaves it alone when the waiting code is cancelled.
                waiter = task.get_loop().create_future()
                self._waiters.append(waiter)
                await waiter
        return self._successes > since

    def _begin(self, now: float) -> asyncio.Task[None] | None:
        """The attempt that is under way; a new one if it is time for one."""
        task = self._in_flight()
        if task is not None or now < self._next:
            return task
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a token is verified outside of any loop; whoever can wait will fetch
            return None
        # In a context of its own: what is logged in it belongs to no client.
        self._attempts += 1
        attempt = self._attempt(self._attempts)
        self._task = loop.create_task(attempt, name="socketguard-jwks", context=contextvars.Context())
        self._waiters = deque()
        self._task.add_done_callback(functools.partial(_release, self._waiters))
        return self._task

    async def _attempt(self, number: int) -> None:
        keys: KeySet | Exception
        try:
            keys = await self._fetch_keys()
        except Exception as exc:
            keys = exc
        if number != self._attempts:
            return  # an attempt of another loop, overtaken by one of this
        if isinstance(keys, KeySet):
            self._succeeded(keys)
        else:
            self._failed(keys)

    def _succeeded(self, keys: KeySet) -> None:
        before, self._keys = self._keys, keys
        failing, self._failing = self._failing, None
        self._successes += 1
        self._loaded_at = self._clock()
        self._rest()
        if before is None or failing is not None or before.fingerprint != keys.fingerprint:
            fields = {"keys": keys.count, "key_ids": list(keys.ids), "ignored": keys.ignored[:_SHOWN]}
            self._tell(KeysChange("refreshed", {"url": self._shown_url, **fields}))

    def _failed(self, error: Exception) -> None:
        self._rest()
        now = self._clock()
        serving: Literal["stale", "none"] = "none" if self._usable(now) is None else "stale"
        before, self._failing = self._failing, serving
        if before != serving:
            left = 0 if serving == "none" else math.floor(self._loaded_at + self._lifetime + self._stale - now)
            fields = {"reason": _reason(error), "serving": serving, "serving_s": left}
            self._tell(KeysChange("unavailable", {"url": self._shown_url, **fields}))

    def _rest(self) -> None:
        # From the end of an attempt, so that a server that doesn't answer isn't asked without a pause.
        self._next = self._clock() + self._cooldown * (1 + _JITTER * self._jitter())

    def _tell(self, change: KeysChange) -> None:
        for listener in self.listeners:
            try:
                listener(change)
            except Exception as exc:
                context = {"message": "a listener for changes of keys failed", "exception": exc}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _fetch_keys(self) -> KeySet:
        document = _json_object(await self._get(self._url))
        if self._discovers:
            document = _json_object(await self._get(self._jwks_uri(document)))
        return KeySet(document, self._algorithms)

    def _jwks_uri(self, document: Mapping[str, Any]) -> str:
        """The address in a discovery document; whatever else it says counts for nothing."""
        if document.get("issuer") != self._issuer:
            shown = neutralise(str(document.get("issuer")), 256)
            raise Unusable(f"the discovery document is of another issuer: {shown}")
        url = document.get("jwks_uri")
        problem = _url_problem(url, self._allow_http)
        if problem is not None or not isinstance(url, str):
            raise Unusable(f"jwks_uri in the discovery document {problem}")
        return url

    async def _get(self, url: str) -> bytes:
        async def call() -> object:
            return await self._fetch(url)

        try:
            body = await run_until(call(), asyncio.get_running_loop().time() + self._timeout)
        except (Overdue, TimeoutError):
            raise Unusable(f"no complete answer within {self._timeout:g} s") from None
        if not isinstance(body, bytes):
            raise Unusable(f"fetch must return bytes, not {type(body).__name__}")
        if len(body) > BODY_LIMIT:
            raise Unusable(f"the body is larger than {BODY_LIMIT} bytes")
        return body


def _release(waiters: deque[asyncio.Future[None]], task: asyncio.Task[None]) -> None:
    """Let those who wait for an attempt go on, a few in each turn of the loop: each will verify its token at once."""
    for _ in range(min(_RELEASED, len(waiters))):
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
    if waiters:
        task.get_loop().call_soon(_release, waiters, task)


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Unusable("the answer is no JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise Unusable(f"the answer must be a JSON object, not {type(document).__name__}")
    return document


def _reason(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, Unusable):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return neutralise(text, 500)


def _url_problem(url: Any, allow_http: bool) -> str | None:
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return "must be a URL in ASCII without spaces"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "can't be read as a URL"
    if parts.username is not None or parts.password is not None:
        return "must hold no credentials; send them from a fetch=… of your own"
    if "#" in url:
        return "must have no fragment"
    if parts.scheme == "https" and host:
        return None
    if parts.scheme != "http" or not host:
        return "must begin with https:// and name a host"
    if not _is_loopback(host):
        return "must begin with https://: whoever can change the answer on its way could sign every token"
    return None if allow_http else "must begin with https://; for this machine http is taken with allow_http=True"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked_url(url: Any, option: str, allow_http: bool) -> str:
    problem = _url_problem(url, allow_http)
    if problem is not None:
        raise ConfigurationError(f'{option} {problem}; write {option}="https://login.example.com/…"', option=option)
    return str(url)


def _discovery_url(issuer: Any, allow_http: bool) -> str:
    """Where a discovery document is (OpenID Connect Discovery 1.0 section 4.1)."""
    checked = _checked_url(issuer, "issuer", allow_http)
    if "?" in checked:
        raise ConfigurationError("issuer must have no query (OpenID Connect Discovery 1.0 section 3)", option="issuer")
    return f"{checked.removesuffix('/')}/.well-known/openid-configuration"


def _seconds(value: Any, option: str, *, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise ConfigurationError(
            f"{option} must be a number of seconds from {lowest:g} to {highest:,g}; write {option}={highest:g} or less",
            option=option,
        )
    return value
