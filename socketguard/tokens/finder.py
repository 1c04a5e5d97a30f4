"""Where a token is, and what it must look like before anybody spends time on it. This module is pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from socketguard.check import names
from socketguard.errors import ConfigurationError, RejectCode, TokenError

from .encoding import malformed

_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_PARAMETERS = 256


@dataclass(frozen=True, slots=True)
class Found:
    """A token as it was sent, unchecked, and where: ``payload``, ``header``, ``query:NAME`` or ``cookie:NAME``."""

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
            if kind in ("query", "cookie") and name:
                self._others.append((source, kind, name))
            elif source not in ("payload", "header"):
                raise ConfigurationError(
                    f'sources has the unknown entry {source!r}; it may hold "payload", "header", "query:NAME" and '
                    '"cookie:NAME"',
                    option="sources",
                )
            if kind == "cookie" and not _COOKIE_NAME.fullmatch(name):
                raise ConfigurationError(
                    f"sources names the cookie {name!r}, which no cookie can be called (RFC 6265 section 4.1.1)",
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
            values = _query_values(query_string, name) if kind == "query" else _cookie_values(headers, name)
            if len(values) > 1:
                raise malformed("multiple_parameters" if kind == "query" else "multiple_cookies", source=source)
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


def _query_values(query_string: bytes, name: str) -> list[str]:
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise malformed("query_malformed", source=f"query:{name}") from None
    return [value for key, value in pairs if key == name]


def _cookie_values(headers: Sequence[tuple[bytes, bytes]], name: str) -> list[str]:
    values: list[str] = []
    for header, line in headers:
        if header.lower() == b"cookie":
            for pair in line.decode("latin-1").split(";"):
                key, equals, value = pair.strip(" \t").partition("=")
                if equals and key.rstrip(" \t") == name:
                    values.append(value.strip(' \t"'))
    return values
