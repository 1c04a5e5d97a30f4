"""`APIKeyAuth`: keys that an application has given out, of which it keeps digests only."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from socketguard.authenticator import Authenticator, ConnectRequest
from socketguard.check import called, function, seconds
from socketguard.connection import Identity
from socketguard.deadline import call, quick, settled
from socketguard.errors import ConfigurationError, CredentialError

__all__ = ["APIKeyAuth"]

Lookup: TypeAlias = Callable[[str], Awaitable[Identity | None] | Identity | None]

LONGEST = 512
"""Characters of the longest key."""


class APIKeyAuth(Authenticator):
    """Takes API keys.

    Args:
        lookup: gets the SHA-256 digest of a key, 64 characters of hex, and returns whose it is, or None when there is
            no such key. The key itself should be kept nowhere. An ``async def``, or an ordinary function, which runs in
            a thread unless it is marked with ``socketguard.auth.quick``.
        header: the header that holds the key; None for no header.
        payload_key: the key of the client's ``auth`` payload that holds it; None for none.
        max_lifetime: as for `Authenticator`.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    name = "api_key"

    @called("APIKeyAuth")
    def __init__(
        self,
        lookup: Lookup,
        *,
        header: str | None = "x-api-key",
        payload_key: str | None = "api_key",
        max_lifetime: float | None = None,
    ) -> None:
        write = "write a function of the digest that returns an Identity or None"
        self._lookup = function(lookup, "lookup", "digest", write=write)
        places = {"payload": ("payload_key", payload_key), "header": ("header", header)}
        for option, value in places.values():
            if value == "" or not isinstance(value, str | None):
                raise ConfigurationError(f'{option} is {value!r}; write {option}="x-api-key"', option=option)
        self.places = [f"{kind}:{value}" for kind, (_, value) in places.items() if value is not None]
        if not self.places:
            raise ConfigurationError(
                'header and payload_key are both None, so that no key is looked for; write header="x-api-key"',
                option="header",
            )
        self._header, self._payload_key = header, payload_key
        if max_lifetime is not None:
            self.max_lifetime = seconds(max_lifetime, "max_lifetime", example=86_400)

    def __repr__(self) -> str:
        return f"<APIKeyAuth {', '.join(self.places)}>"

    @quick
    def identify(self, request: ConnectRequest) -> Identity | Awaitable[Identity | None] | None:
        """Say whose the key is: see `Authenticator.identify`."""
        key: Any = request.auth.get(self._payload_key) if self._payload_key and request.auth is not None else None
        if (key is None or key == "") and self._header:
            key = request.header(self._header.lower().encode())
        if key is None or key == "":
            return None
        if not isinstance(key, str) or len(key) > LONGEST or not key.isascii():
            raise CredentialError(f"the key is no text of at most {LONGEST} characters of ASCII")
        found = call(self._lookup, hashlib.sha256(key.encode()).hexdigest())
        return _awaited(found) if inspect.isawaitable(found) else _known(found)


def _known(found: Any) -> Identity:
    if found is None:
        raise CredentialError("there is no such key")
    identity: Identity = found
    return identity


async def _awaited(found: Any) -> Identity:
    return _known(await settled(found))
