"""`SessionAuth`: the signed cookie of Starlette's ``SessionMiddleware``."""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.check import called, function, names, seconds
from socketguard.connection import Identity
from socketguard.deadline import call, quick, settled
from socketguard.errors import ConfigurationError, CredentialError

__all__ = ["SessionAuth"]

Whose: TypeAlias = str | Callable[[Mapping[str, Any]], Awaitable[Identity | None] | Identity | None]

FORTNIGHT = 14 * 24 * 3600  # seconds: the default of Starlette's SessionMiddleware
_LONGEST = 16_384  # characters of a cookie


class SessionAuth(Authenticator):
    """Takes the session of Starlette's ``SessionMiddleware``, which FastAPI has too, from its signed cookie.

    The signature is checked here, without a database. Whoever signs in over HTTP is so signed in for Socket.IO; a
    session without the subject is no credential. ``allowed_origins`` must list the origins of the pages.

    Args:
        secret_key: the ``secret_key`` of the middleware; a list while it is being changed, the oldest first.
        identity: the key of the session that holds the subject, or a function of the session that returns an `Identity`
            or None (marked with ``socketguard.auth.quick``, or it runs in a thread).
        cookie: the ``session_cookie`` of the middleware.
        max_age: the ``max_age`` of the middleware, in seconds: how long a cookie is good after it was signed. The
            middleware signs it anew with each answer, so that ``revoke(subject=…)`` ends connections and refuses the
            cookies of before; the application has to end the session itself.
        clock: tells the time, in seconds since the epoch.

    Raises:
        ConfigurationError: an option is wrong, or itsdangerous is not installed; the text says so.
    """

    name = "session"
    local = True

    @called("SessionAuth")
    def __init__(
        self,
        secret_key: str | Sequence[str],
        *,
        identity: Whose = "user_id",
        cookie: str = "session",
        max_age: float = FORTNIGHT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            import itsdangerous
        except ImportError:
            raise ConfigurationError(
                "SessionAuth needs itsdangerous, as SessionMiddleware does: pip install itsdangerous",
                option="secret_key",
            ) from None
        keys = [secret_key] if isinstance(secret_key, str) else secret_key
        checked = names(keys, "secret_key", example='["…"]')
        if not checked:
            raise ConfigurationError("secret_key is empty; write that of SessionMiddleware", option="secret_key")
        if not isinstance(identity, str):
            write = "write a function of the session that returns an Identity or None"
            function(identity, "identity", "session", write=write)
        for option, value in (("cookie", cookie), ("identity", identity)):
            if value == "" or not (isinstance(value, str) or (option == "identity" and callable(value))):
                raise ConfigurationError(f"{option} is {value!r}; write a name", option=option)
        self.clock = function(clock, "clock", write="write a function that returns seconds since the epoch")
        self.max_lifetime = seconds(max_age, "max_age", example=FORTNIGHT)
        self.places = [f"cookie:{cookie}"]
        self._cookie = cookie
        self._whose = identity
        # As SessionMiddleware has it.
        self._signer = itsdangerous.TimestampSigner(list(checked))
        self._bad = itsdangerous.BadData

    def __repr__(self) -> str:
        return f"<SessionAuth {self.places[0]}>"

    @quick
    def identify(self, request: ConnectRequest) -> Identity | Awaitable[Identity | None] | None:
        """Say whose the session is: see `Authenticator.identify`."""
        value = request.cookies.get(self._cookie)
        if not value:
            return None
        if len(value) > _LONGEST:
            raise CredentialError("the cookie is too long")
        try:
            signed, at = self._signer.unsign(value, return_timestamp=True)
            session = json.loads(base64.b64decode(signed))
        except (self._bad, binascii.Error, ValueError, RecursionError):
            raise CredentialError("the cookie is not signed with secret_key") from None
        issued_at = at.timestamp()
        expires_at = issued_at + (self.max_lifetime or 0.0)
        if not isinstance(session, dict) or not session or not self.clock() < expires_at:
            return None
        if isinstance(self._whose, str):
            subject = session.get(self._whose)
            if subject is None or subject == "":
                return None
            return Identity(
                subject, MappingProxyType(session), issued_at=issued_at, expires_at=expires_at, credential="session"
            )
        found: Any = call(self._whose, MappingProxyType(session))
        if inspect.isawaitable(found):
            return _awaited(found, issued_at, expires_at)
        identity: Identity | None = _bounded(found, issued_at, expires_at)
        return identity


async def _awaited(found: Any, issued_at: float, expires_at: float) -> Any:
    return _bounded(await settled(found), issued_at, expires_at)


def _bounded(found: Any, issued_at: float, expires_at: float) -> Any:
    """An identity that ends with its cookie at the latest."""
    if not isinstance(found, Identity):
        return found
    end = expires_at if found.expires_at is None else min(found.expires_at, expires_at)
    return replace(found, issued_at=found.issued_at or issued_at, expires_at=end)
