"""Keys that an identity provider publishes as a JWK Set (RFC 7517): fetched without blocking, kept, and renewed.

The cache makes at most one request at a time and at most one attempt per cool-down, whatever tokens come. A removed key
is dead at the next refresh. In an outage the last keys serve for a while, then every token is refused. The algorithm is
the one of jwks-client (https://github.com/modern-python/jwks-client).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import ipaddress
import json
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from .deadline import Overdue, run_until
from .errors import ConfigurationError, RejectCode, TokenError
from .keys import KeysPending, PreparedKey
from .keyset import KeySet, Unusable
from .text import neutralise

__all__ = ["BODY_LIMIT", "Fetch", "KeysChange", "RemoteKeys"]

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""An async function of a URL that returns the body of the answer, and raises when there is none with status 200."""

BODY_LIMIT = 1_048_576
"""Bytes of a JWK Set or of a discovery document. Real ones have some kilobytes."""

_REFRESH_AT = 0.8
_JITTER = 0.2
_SHOWN = 10
_RELEASED = 25
_SHOWN_KEY_ID = 128


@dataclass(frozen=True, slots=True)
class KeysChange:
    """What happened to the keys, for the log.

    Attributes:
        kind: ``refreshed``: fetched for the first time, or different from before, or fetched again after an outage.
            ``unavailable``: they can't be fetched; once per outage, and once more when the old keys have become too
            old to serve.
        fields: ``url``; of refreshed ones ``keys``, ``key_ids`` and ``ignored`` (keys that can't be used, and why); of
            unavailable ones ``reason``, ``serving`` (``stale`` or ``none``) and ``serving_s`` (for how many seconds
            more).
    """

    kind: Literal["refreshed", "unavailable"]
    fields: dict[str, Any]


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
            from .fetch import default_fetch

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
