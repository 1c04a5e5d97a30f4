"""Verifiers that need no network, and the tokens and keys that are given on a command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from socketguard.auth.credentials import Credentials
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.text import neutralise
from socketguard.tokens.auth import JWTAuth, Verifier
from socketguard.tokens.issuers import Issuers
from socketguard.tokens.keys import ALGORITHMS, KeySource, PreparedKey
from socketguard.tokens.keyset import KeySet, Unusable

from . import CommandError

__all__ = ["PUBLIC", "Offline", "offline", "read_jwks", "read_keys", "read_token", "verifiers"]

PUBLIC = tuple(name for name in ALGORITHMS if not name.startswith("HS"))
"""The algorithms whose keys may be published."""

TOKEN_BYTES = 65_536
"""The most that is read of a token, in bytes; the guard itself takes 8 KiB."""


def read_token(text: str) -> str:
    """A token, or ``-`` for stdin and ``@FILE`` for a file. A word ``Bearer`` before it is taken off."""
    try:
        if text == "-":
            text = sys.stdin.read(TOKEN_BYTES)
        elif text.startswith("@"):
            with Path(text[1:]).open(encoding="utf-8") as stream:
                text = stream.read(TOKEN_BYTES)
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"the token can't be read: {_reason(exc)}") from None
    text = text.strip()
    return text[7:].strip() if text[:7].lower() == "bearer " else text


def read_jwks(path: str) -> dict[str, Any]:
    """A JWK Set (RFC 7517 section 5) from a file."""
    try:
        document = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise CommandError(f"the JWK Set can't be read: {_reason(exc)}") from None
    if not isinstance(document, dict):
        raise CommandError('a JWK Set is a JSON object with a list "keys"')
    return document


def _reason(exc: Exception) -> str:
    # Of what was in the file nothing is told.
    return exc.strerror or "no such file" if isinstance(exc, OSError) else "it is no text in UTF-8, or no JSON"


def read_keys(document: Mapping[str, Any], algorithms: Sequence[str] = PUBLIC) -> KeySet:
    """The keys of a JWK Set that fit these algorithms."""
    try:
        return KeySet(document, algorithms)
    except Unusable as exc:
        raise ConfigurationError(f"the JWK Set can't be used: {exc}", option="jwks_file") from None


class _AnyKey(KeySource):
    """Stands for keys that are on the network: it takes every signature, and says that it was asked to."""

    issuer = None

    def __init__(self) -> None:
        self.asked = False

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[Any]:
        return (self,)

    def verify(self, message: bytes, signature: bytes) -> bool:
        self.asked = True
        return True


class _GivenKeys(KeySource):
    """Published keys out of a file."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey]:
        found = self._keys.find(algorithm, key_id)
        if not found:
            shown = {} if key_id is None else {"key_id": neutralise(key_id, 128)}
            raise TokenError(RejectCode.TOKEN_INVALID, "key_unknown", **shown)
        return found


@dataclass
class Offline:
    """A verifier that needs no network: for telling people, never for letting anybody in."""

    auth: Verifier
    stand_in: _AnyKey = field(default_factory=_AnyKey)

    @property
    def unchecked(self) -> bool:
        """Whether a signature was taken unseen, since the keys are on the network."""
        return self.stand_in.asked


def verifiers(auth: Credentials | None) -> tuple[JWTAuth, ...]:
    """The verifiers of tokens, one for each issuer."""
    return () if auth is None or auth.jwt is None else auth.jwt.auths


def offline(auth: Verifier, keys: Mapping[str, Any] | None = None) -> Offline:
    """A copy of a verifier that takes its published keys from a JWK Set, or without one takes every signature."""
    found = Offline(auth)

    def twin(one: JWTAuth) -> JWTAuth:
        if not one.fetches_keys:
            return one
        given = None if keys is None else _GivenKeys(read_keys(keys, one.describe()["algorithms"]))
        return one.with_keys(given or found.stand_in)

    twins = [twin(one) for one in auth.auths]
    found.auth = Issuers(*twins) if isinstance(auth, Issuers) else twins[0]
    return found
