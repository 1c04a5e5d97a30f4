"""Where a token is, and what it must look like before anybody spends time on it. This module is pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from socketguard.check import names
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.text import neutralise

from .encoding import malformed

# Of a cookie (RFC 6265 section 4.1.1) and of a header (RFC 9110 section 5.1).
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_PARAMETERS = 256
_MAX_CHUNKS = 16  # browsers keep 4 KiB in a cookie, servers 64 KiB of headers
_LIKE_JWT = re.compile(r"(?i:bearer )?eyJ[\w-]+\.[\w-]+\.[\w-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """A token as it was sent, unchecked, and where: ``payload``, ``header``, ``header:NAME`` and the like."""

    token: str = field(repr=False)
    source: str


def _bearer(value: str) -> str | None:
    """The token of a ``Bearer`` credential (scheme case-insensitive, RFC 9110 section 11.1); None for other schemes."""
    scheme, _, token = value.strip(" \t").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None


def _bare(value: str) -> str:
    """A token without a ``Bearer`` before it, which many clients write where none belongs."""
    return value if value[:7].lower() != "bearer " else value[7:].strip(" ")


class TokenFinder:
    """Finds the token of a request.

    The payload of the CONNECT packet counts first. Only when it has none (absent, null or an empty string under every
    key) does the ``Authorization`` header, and then the other sources in their order. The header is that of the
    *first* request of a session, so an old header beside a fresh payload is normal and no conflict. A payload token
    that is no string is refused, without falling back. The payload key ``authorization`` holds ``Bearer …``, every
    other one the bare token; a ``Bearer`` before it is taken off.
    """

    def __init__(
        self,
        sources: Sequence[str] = ("payload", "header"),
        payload_keys: Sequence[str] = ("token", "access_token", "authorization"),
    ) -> None:
        self.sources = names(sources, "sources", example='("payload", "header")')
        self.payload_keys = names(payload_keys, "payload_keys", example='("token",)')
        if not self.sources:
            raise ConfigurationError('sources is empty; write sources=("payload", "header")', option="sources")
        self._payload = "payload" in self.sources
        self._header = "header" in self.sources
        if self._payload and not self.payload_keys:
            raise ConfigurationError(
                'payload_keys is empty; write payload_keys=("token",), or leave "payload" out of sources',
                option="payload_keys",
            )
        self._others: list[tuple[str, str, str]] = []
        for source in self.sources:
            kind, _, name = source.partition(":")
            if kind in ("query", "cookie", "header") and name:
                self._others.append((source, kind, name))
            elif source not in ("payload", "header"):
                raise ConfigurationError(
                    f'sources has the unknown entry {source!r}; it may hold "payload", "header", "header:NAME", '
                    '"query:NAME" and "cookie:NAME"',
                    option="sources",
                )
            if kind in ("cookie", "header") and name and not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"sources names the {kind} {name!r}, which no {kind} can be called; write its exact name",
                    option="sources",
                )
        self.uses_cookie = any(kind == "cookie" for _, kind, _ in self._others)

    def find(
        self, payload: Mapping[str, Any] | None, headers: Sequence[tuple[bytes, bytes]], query_string: bytes
    ) -> Found | None:
        """Find the token, without looking into it: in the client's ``auth``, or in the request of the session."""
        if self._payload and payload is not None and (token := self._from_payload(payload)):
            return Found(token, "payload")
        if self._header and (token := _from_header(headers)):
            return Found(token, "header")
        return self._from_others(headers, query_string) if self._others else None

    def _from_payload(self, payload: Mapping[str, Any]) -> str | None:
        if not isinstance(payload, Mapping):
            raise malformed("not_an_object", source="payload", received=type(payload).__name__)
        for key in self.payload_keys:
            value = payload.get(key)
            if value is None or value == "":
                continue
            if not isinstance(value, str):
                raise malformed("not_a_string", source="payload", key=key, received=type(value).__name__)
            if key.lower() == "authorization":
                if token := _bearer(value):
                    return token
            elif token := _bare(value):
                return token
        return None

    def _from_others(self, headers: Sequence[tuple[bytes, bytes]], query_string: bytes) -> Found | None:
        cookie_without_origin = False
        for source, kind, name in self._others:
            values = _values(kind, name, headers, query_string)
            if len(values) > 1:
                raise malformed(_SEVERAL[kind], source=source)
            token = _bare(values[0]) if values else ""
            if not token:
                continue
            # A browser adds cookies to requests that any page makes; without its Origin header nobody can tell which.
            if kind == "cookie" and not any(name.lower() == b"origin" and value for name, value in headers):
                cookie_without_origin = True
                continue
            return Found(token, source)
        if cookie_without_origin:
            raise TokenError(RejectCode.TOKEN_MISSING, "cookie_without_origin")
        return None


def _from_header(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    found: str | None = None
    for name, value in headers:
        if len(name) == 13 and name.lower() == b"authorization":
            token = _bearer(value.decode("latin-1"))
            if token is None:
                continue
            if found is not None:
                raise malformed("multiple_headers", source="header")
            if not token.isascii():
                raise malformed("not_base64url", source="header")
            found = token
    return found


def stray(payload: Mapping[str, Any] | None, headers: Sequence[tuple[bytes, bytes]], query_string: bytes) -> str | None:
    """What to do where no token was found, because the client has put one elsewhere; names only, never values."""
    places: list[tuple[str, Any, Any]] = [
        ("payload", *item) for item in list((payload or {}).items())[:_MAX_PARAMETERS]
    ]
    for header, line in headers:
        name, value = header.decode("latin-1").lower(), line.decode("latin-1")
        if name == "cookie":
            places += [("cookie", *pair) for pair in _cookies([(header, line)])]
        elif name == "authorization" and _bearer(value) is None:
            # Other schemes belong to a proxy, unless what follows is a token.
            scheme, _, rest = value.strip().partition(" ")
            if _LIKE_JWT.fullmatch(rest.strip() or scheme):
                found = repr(neutralise(scheme, 16)) if rest else "nothing"
                return f"the Authorization header came with {found} before the token: write 'Bearer ' there"
        else:
            places.append(("header", name, value))
    with contextlib.suppress(TokenError):
        places += [("query", *pair) for pair in _parameters(query_string, "query")]
    for kind, name, value in places:
        if isinstance(value, str) and _LIKE_JWT.fullmatch(value):
            shown = neutralise(str(name), 32)
            allow = f"payload_keys=({shown!r},)" if kind == "payload" else f"sources=('payload', '{kind}:{shown}')"
            return (
                f"a JWT came as {kind}:{shown}, where none is looked for: send it as auth.token, or write "
                f"JWTAuth({allow})"
            )
    return None


_SEVERAL = {"query": "multiple_parameters", "cookie": "multiple_cookies", "header": "multiple_headers"}


def _values(kind: str, name: str, headers: Sequence[tuple[bytes, bytes]], query_string: bytes) -> list[str]:
    if kind == "query":
        return _query_values(query_string, name)
    if kind == "cookie":
        return _cookie_values(headers, name)
    wanted = name.lower().encode()
    return [value.decode("latin-1").strip(" \t") for header, value in headers if header.lower() == wanted]


def _query_values(query_string: bytes, name: str) -> list[str]:
    return [value for key, value in _parameters(query_string, f"query:{name}") if key == name]


def _parameters(query_string: bytes, source: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise malformed("query_malformed", source=source) from None


def _cookie_values(headers: Sequence[tuple[bytes, bytes]], name: str) -> list[str]:
    """The values of a cookie; of one in chunks (``NAME_0``, ``NAME_1`` … or ``NAME.0`` …) what they are together."""
    pairs = _cookies(headers)
    values = [value for key, value in pairs if key == name]
    for separator in "" if values else "_.":
        chunks: list[str] = []
        while len(chunks) < _MAX_CHUNKS:
            found = [value for key, value in pairs if key == f"{name}{separator}{len(chunks)}"]
            if not found:
                break
            if len(found) > 1:
                return found
            chunks += found
        values += ["".join(chunks)] if chunks else []
    return values


def _cookies(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for header, line in headers:
        if header.lower() == b"cookie":
            for pair in line.decode("latin-1").split(";"):
                key, equals, value = pair.strip(" \t").partition("=")
                if equals:
                    pairs.append((key.rstrip(" \t"), value.strip(' \t"')))
    return pairs
