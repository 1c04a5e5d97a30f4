"""Keys that an identity provider publishes as a JWK Set (RFC 7517): fetched without blocking, kept, and renewed.

The cache makes at most one request at a time and at most one attempt per cool-down, whatever tokens come. A removed key
is dead at the next refresh. In an outage the last keys serve for a while, then every token is refused. The algorithm is
the one of jwks-client (https://github.com/modern-python/jwks-client).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

from socketguard.check import function
from socketguard.connection import KeysChange
from socketguard.deadline import Overdue, run_until
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.text import neutralise

from .claims import invalid, seconds
from .fetch import BODY_LIMIT, AllowHTTP, Fetch, FetchError, checked_url, default_fetch, url_problem
from .keys import MAX_KEY_ID, KeySource, Pending, PreparedKey
from .keyset import KeySet, Unusable

_REFRESH_AT = 0.8
_JITTER = 0.2
_HELD = 86_400.0  # seconds: longer than any command runs
LONGEST_WAIT = 300.0
"""Seconds for which a ``Retry-After`` of a key server is heeded at most: one wrong answer must not keep keys out."""
_SHOWN = 10
_RELEASED = 25
_REMEMBERED = 64

# One numbering for all, so that whoever asks several sources needs to remember but one number.
_numbers = itertools.count(1)


class Discovery(str):
    """An issuer whose OpenID Connect configuration names the address of its keys; stands where a URL would."""

    __slots__ = ()

    def address(self, allow_http: AllowHTTP) -> str:
        """Where that configuration is (OpenID Connect Discovery 1.0 section 4.1)."""
        issuer = checked_url(str(self), "issuer", allow_http)
        if "?" in issuer:
            raise ConfigurationError(
                "issuer must have no query (OpenID Connect Discovery 1.0 section 3)", option="issuer"
            )
        return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


class RemoteKeys(KeySource):
    """The keys of one issuer. They belong to one event loop at a time.

    Times are in seconds: keys are fresh for `lifetime` and renewed in the background after 80 % of it; they serve for
    `stale_if_error` beyond that when they can't be fetched; `cooldown` lies between two attempts, failed ones included,
    and up to 20 % more at random; `timeout` is for one request. Error texts name the options of `JWTAuth`.
    """

    def __init__(
        self,
        url: str,
        *,
        algorithms: tuple[str, ...],
        fetch: Fetch | None = None,
        lifetime: float = 600.0,
        stale_if_error: float = 3600.0,
        cooldown: float = 30.0,
        timeout: float = 5.0,
        allow_http: AllowHTTP = False,
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
        self._issuer = str(url) if isinstance(url, Discovery) else None
        self._url = url.address(allow_http) if isinstance(url, Discovery) else checked_url(url, "jwks_url", allow_http)
        self._lifetime = seconds(lifetime, "jwks_lifetime", lowest=1, highest=86_400)
        self._stale = seconds(stale_if_error, "stale_if_error", lowest=0, highest=604_800)
        self._cooldown = seconds(cooldown, "jwks_cooldown", lowest=0.1, highest=3_600)
        self._timeout = seconds(timeout, "jwks_timeout", lowest=0.01, highest=60)
        if self._cooldown * (1 + _JITTER) > self._lifetime:
            raise ConfigurationError(
                f"jwks_cooldown ({cooldown:g}) is too long for jwks_lifetime ({lifetime:g}): keys could not be renewed "
                f"in time; write jwks_cooldown={self._lifetime / 2:g} or less",
                option="jwks_cooldown",
            )
        if fetch is not None:
            function(fetch, "fetch", "url", write="write an async function of the URL that returns bytes")
        self._fetch = default_fetch(timeout=self._timeout, limit=BODY_LIMIT) if fetch is None else fetch
        self._clock = clock
        self._jitter = jitter
        # A query may hold a key to the provider's API.
        self._shown_url = neutralise(self._url.partition("?")[0], 256)
        self.kinds = (f"{'JWKS' if self._issuer is None else 'discovery'} {self._shown_url}",)
        self.fingerprint: Hashable = (
            (self._url, self._issuer, fetch, allow_http),
            (self._lifetime, self._stale, self._cooldown, self._timeout, clock, jitter),
        )
        self._keys: KeySet | None = None
        self._loaded_at = -math.inf
        self._next = -math.inf  # before this no attempt is made
        self._attempts = 0
        self._successes = 0
        self._failing: Literal["stale", "none"] | None = None  # what served at the last attempt, if that failed
        self._task: asyncio.Task[None] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._changes: deque[tuple[int, KeysChange]] = deque(maxlen=_REMEMBERED)

    def __repr__(self) -> str:
        return f"<RemoteKeys {self._shown_url}>"

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey] | Pending:
        """The keys that may have signed a token. Begins a refresh in the background when it is time for one.

        Refused with ``retry_after`` when the keys, or this key, would have to be fetched and no attempt is allowed yet.
        """
        now = self._clock()
        keys = self._usable(now)
        if keys is None:
            return self._pending(now, "keys_pending", "keys_unavailable")
        age = now - self._loaded_at
        if age >= self._lifetime * _REFRESH_AT:
            # In an outage the old keys serve at once, rather than keep everybody waiting for each further attempt. But
            # an outage of long ago says nothing about now.
            known_outage = self._failing is not None and now < self._next + self._cooldown
            if age >= self._lifetime and not known_outage:
                return self._pending(now, "keys_pending", "keys_unavailable")
            self._begin(now)
        found = keys.find(algorithm, key_id)
        if not found:
            fields = {} if key_id is None else {"key_id": neutralise(key_id, MAX_KEY_ID)}
            if now < self._next and self._failing is None:
                # The keys are as fresh as can be, and this one is not among them: no outage, whoever waits.
                raise invalid("key_unknown", **fields)
            return self._pending(now, "key_unknown", "key_unknown", **fields)
        return found

    async def load(self, pending: Pending) -> bool:
        """Fetch the keys, or wait for the attempt that is under way. Never raises; False at once in the cool-down."""
        if self._successes == pending.fetches:
            task = self._begin(self._clock())
            if task is not None:
                # Unlike an await of the task, this leaves it alone when the waiting code is cancelled.
                waiter = task.get_loop().create_future()
                self._waiters.append(waiter)
                await waiter
        return self._successes > pending.fetches

    def start(self) -> None:
        if self._usable(self._clock()) is None:
            self._begin(self._clock())

    def hold(self) -> None:
        self._next = self._clock() + _HELD

    def outage(self) -> int | None:
        """As everywhere, in whole seconds. Another attempt is begun in the background when it is time for one."""
        now = self._clock()
        if self._usable(now) is not None:
            return None
        self._begin(now)
        return None if self._failing is None else self._retry_after(now)

    def status(self) -> dict[str, Any]:
        """The state for people: ``empty`` (no keys, and none refused), ``fresh``, ``stale`` or ``unavailable``."""
        now = self._clock()
        keys, age = self._usable(now), now - self._loaded_at
        if keys is None:
            state = "empty" if self._failing is None else "unavailable"
            return {"url": self._shown_url, "state": state, "age_s": None, "keys": 0, "key_ids": []}
        state = "fresh" if age < self._lifetime else "stale"
        known = {"age_s": round(age, 1), "keys": keys.count, "key_ids": list(keys.ids)}
        return {"url": self._shown_url, "state": state, **known}

    @property
    def fetching(self) -> bool:
        return self._in_flight() is not None

    def changes(self) -> Sequence[tuple[int, KeysChange]]:
        return self._changes

    async def close(self) -> None:
        """End the attempt that is under way. The keys stay, and it can be used again."""
        task, self._task = self._in_flight(), None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _usable(self, now: float) -> KeySet | None:
        return self._keys if now - self._loaded_at < self._lifetime + self._stale else None

    def _pending(self, now: float, pending: str, unavailable: str, **fields: Any) -> Pending:
        if now >= self._next:
            return Pending(pending, {**fields, "retry_after": 1}, self._successes)
        raise TokenError(RejectCode.KEYS_UNAVAILABLE, unavailable, **fields, retry_after=self._retry_after(now))

    def _retry_after(self, now: float) -> int:
        return math.ceil(self._timeout) if self.fetching else max(1, math.ceil(self._next - now))

    def _in_flight(self) -> asyncio.Task[None] | None:
        task = self._task
        if task is None or task.done():
            return None
        loop = _running_loop()
        if loop is None or task.get_loop() is loop:
            return task
        # Its loop runs no more, and nobody will ever hear of the answer.
        self._task = None
        return None

    def _begin(self, now: float) -> asyncio.Task[None] | None:
        """The attempt that is under way; a new one if it is time for one."""
        task = self._in_flight()
        loop = _running_loop()
        # Where a token is verified outside of any loop, whoever can wait will fetch.
        if task is not None or now < self._next or loop is None:
            return task
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
        # From the end of an attempt, so that a server that doesn't answer isn't asked without a pause.
        wait = self._cooldown * (1 + _JITTER * self._jitter())
        if isinstance(keys, FetchError) and keys.retry_after is not None:
            wait = max(wait, min(keys.retry_after, LONGEST_WAIT))
        self._next = self._clock() + wait
        if isinstance(keys, KeySet):
            self._succeeded(keys)
        else:
            self._failed(keys)

    def _succeeded(self, keys: KeySet) -> None:
        before, self._keys = self._keys, keys
        failing, self._failing = self._failing, None
        self._successes += 1
        self._loaded_at = self._clock()
        if before is None or failing is not None or before.fingerprint != keys.fingerprint:
            self._tell("refreshed", keys=keys.count, key_ids=list(keys.ids), ignored=keys.ignored[:_SHOWN])

    def _failed(self, error: Exception) -> None:
        now = self._clock()
        before, self._failing = self._failing, "none" if self._usable(now) is None else "stale"
        if before != self._failing:
            left = 0 if self._failing == "none" else math.floor(self._loaded_at + self._lifetime + self._stale - now)
            self._tell("unavailable", reason=_reason(error), serving=self._failing, serving_s=left)

    def _tell(self, kind: Literal["refreshed", "unavailable"], **fields: Any) -> None:
        self._changes.append((next(_numbers), KeysChange(kind, {"url": self._shown_url, **fields})))

    async def _fetch_keys(self) -> KeySet:
        document = _json_object(await self._get(self._url))
        if self._issuer is not None:
            # Whatever else a discovery document says counts for nothing.
            if document.get("issuer") != self._issuer:
                shown = neutralise(str(document.get("issuer")), 256)
                raise Unusable(f"the discovery document is of another issuer: {shown}")
            url: Any = document.get("jwks_uri")
            problem = url_problem(url, self._allow_http)
            if problem is not None:
                raise Unusable(f"jwks_uri in the discovery document {problem}")
            document = _json_object(await self._get(url))
        return KeySet(document, self._algorithms)

    async def _ask(self, url: str) -> object:
        return await self._fetch(url)

    async def _get(self, url: str) -> bytes:
        try:
            body = await run_until(self._ask(url), asyncio.get_running_loop().time() + self._timeout)
        except (Overdue, TimeoutError):
            raise Unusable(f"no complete answer within {self._timeout:g} s") from None
        if not isinstance(body, bytes):
            raise Unusable(f"fetch must return bytes, not {type(body).__name__}")
        if len(body) > BODY_LIMIT:
            raise Unusable(f"the body is larger than {BODY_LIMIT} bytes")
        return body


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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
