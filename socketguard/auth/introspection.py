"""`IntrospectionAuth`: opaque tokens, whose issuer is asked about each (RFC 7662)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import quote_plus

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.check import called, function, names, seconds
from socketguard.connection import Identity
from socketguard.deadline import quick, retrieve
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.encoding import MAX_TOKEN_LENGTH
from socketguard.tokens.fetch import AllowHTTP, FetchError, checked_hosts, checked_url, default_fetch
from socketguard.tokens.finder import Source, TokenFinder

__all__ = ["IntrospectionAuth"]

Ask: TypeAlias = Callable[[str], Awaitable[Mapping[str, Any]]]

LONGEST_CACHE = 30.0
"""Seconds for which an answer serves at most: so long a token that was revoked there may still connect."""

_BODY = 65_536  # bytes of an answer
_CACHED = 4096  # answers


class IntrospectionAuth(Authenticator):
    """Takes tokens that only their issuer can read, and asks its introspection endpoint whose they are.

    Answers are kept for a moment, and equal questions are asked once. Needs httpx2, the extra ``jwks``, unless ``ask``
    is given.

    Args:
        url: the introspection endpoint.
        client_id: with which this service shows itself there (HTTP Basic, RFC 6749 section 2.3.1).
        client_secret: its secret.
        ask: asks in another way: ``async (token) -> mapping``, the answer as RFC 7662 section 2.2 has it.
        audience: the ``aud`` of this service; the answer must name it. None for no check.
        sources: where a client may put its token, as for `JWTAuth`.
        payload_keys: as for `JWTAuth`.
        cache: seconds for which an answer serves, at most 30, and never beyond ``exp``; 0 for none.
        timeout: for one question, in seconds.
        allow_http: as for `JWTAuth`: whoever can read the question has the token.
        max_lifetime: as for `Authenticator`.
        clock: tells the time, in seconds since the epoch.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    name = "introspection"

    @called("IntrospectionAuth")
    def __init__(
        self,
        url: str | None = None,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        ask: Ask | None = None,
        audience: str | Sequence[str] | None = None,
        sources: Sequence[Source] = ("payload", "header"),
        payload_keys: Sequence[str] = ("token", "access_token", "authorization"),
        cache: float = LONGEST_CACHE,
        timeout: float = 5,
        allow_http: AllowHTTP = False,
        max_lifetime: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if (url is None) == (ask is None):
            raise ConfigurationError("write url=… with client_id and client_secret, or ask=…", option="url")
        if ask is not None:
            self._ask: Ask = function(ask, "ask", "token", write="write async (token) -> mapping")
        else:
            for option, value in (("client_id", client_id), ("client_secret", client_secret)):
                if not isinstance(value, str) or not value:
                    raise ConfigurationError(f"{option} is missing; write {option}=…", option=option)
            checked = checked_url(url, "url", checked_hosts(allow_http))
            within = seconds(timeout, "timeout", example=5, most=60)
            self._ask = _over_http(checked, str(client_id), str(client_secret), within)
        self._finder = TokenFinder(sources, payload_keys)
        self.places = [place for place in self._finder.places if not place.endswith("()")]
        given = [audience] if isinstance(audience, str) else () if audience is None else audience
        self._audience = frozenset(names(given, "audience", example='"crm"'))
        self._cache = 0.0 if cache == 0 else seconds(cache, "cache", example=LONGEST_CACHE, most=LONGEST_CACHE)
        if max_lifetime is not None:
            self.max_lifetime = seconds(max_lifetime, "max_lifetime", example=3600)
        self.clock = function(clock, "clock", write="write a function that returns seconds since the epoch")
        self._known: OrderedDict[bytes, tuple[float, Identity | TokenError]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Identity | TokenError]] = {}

    def __repr__(self) -> str:
        return f"<IntrospectionAuth {', '.join(self.places)}>"

    @quick
    def identify(self, request: ConnectRequest) -> Identity | Awaitable[Identity | None] | None:
        """Say whose the token is: see `Authenticator.identify`."""
        found = self._finder.find(request) or self._finder.find_cookie(request)
        if found is None:
            return None
        token = found.token
        # RFC 6750 section 2.1 has fewer characters yet.
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
            raise TokenError(RejectCode.TOKEN_MALFORMED, "not_a_token")
        key = hashlib.sha256(token.encode()).digest()
        until, known = self._known.get(key, (-math.inf, None))
        if known is not None and self.clock() < until:
            if isinstance(known, TokenError):
                raise known.with_traceback(None)  # else it would grow with each
            return known
        return self._wait(key, token)

    async def _wait(self, key: bytes, token: str) -> Identity:
        task = self._asked.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._asked[key] = asyncio.get_running_loop().create_task(self._look_up(key, token))
            task.add_done_callback(retrieve)
        # Whoever waits no longer takes it from nobody else.
        found = await asyncio.shield(task)
        if isinstance(found, TokenError):
            raise found.with_traceback(None)
        return found

    async def _look_up(self, key: bytes, token: str) -> Identity | TokenError:
        try:
            answer = await self._ask(token)
            found = self._read(answer)
        finally:
            self._asked.pop(key, None)
        until = self.clock() + self._cache
        if isinstance(found, Identity) and found.expires_at is not None:
            until = min(until, found.expires_at)
        if self._cache:
            self._known[key] = until, found
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return found

    def _read(self, answer: Any) -> Identity | TokenError:
        """What an answer says (RFC 7662 section 2.2)."""
        if not isinstance(answer, Mapping) or not isinstance(answer.get("active"), bool):
            raise FetchError("the answer has no member active, true or false: is that an introspection endpoint?")
        if not answer["active"]:
            return TokenError(RejectCode.TOKEN_INVALID, "not_active")
        expires_at, issued_at = _date(answer, "exp"), _date(answer, "iat")
        if expires_at is not None and not self.clock() < expires_at:
            return TokenError(RejectCode.TOKEN_EXPIRED, "expired")
        if self._audience:
            named = answer.get("aud")
            if not self._audience.intersection([named] if isinstance(named, str) else named or ()):
                return TokenError(RejectCode.TOKEN_INVALID, "audience_mismatch", expected=sorted(self._audience))
        subject = answer.get("sub") or answer.get("username") or answer.get("client_id")
        if not isinstance(subject, str):
            return TokenError(RejectCode.TOKEN_INVALID, "claim_missing", claim="sub")
        scope = answer.get("scope") or ""
        scopes = frozenset(scope.split()) if isinstance(scope, str) else frozenset()
        texts = {name: answer[name] for name in ("iss", "jti") if isinstance(answer.get(name), str)}
        return Identity(
            subject,
            MappingProxyType(dict(answer)),
            scopes,
            texts.get("iss"),
            texts.get("jti"),
            issued_at=issued_at,
            expires_at=expires_at,
            credential=self.name,
        )


def _date(answer: Mapping[str, Any], claim: str) -> float | None:
    value = answer.get(claim)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise FetchError(f"the answer has a {claim} that is no number of seconds")
    return float(value)


def _over_http(url: str, client_id: str, client_secret: str, timeout: float) -> Ask:
    fetch: Any = default_fetch(timeout=timeout, limit=_BODY)
    credentials = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()
    authorization = f"Basic {base64.b64encode(credentials).decode()}"

    async def ask(token: str) -> Mapping[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        body = await fetch(url, form=form, authorization=authorization)
        try:
            answer: Mapping[str, Any] = json.loads(body)
        except (ValueError, RecursionError):
            raise FetchError("the answer is no JSON") from None
        return answer

    return ask
