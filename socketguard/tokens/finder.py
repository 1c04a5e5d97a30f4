"""Where a token is, and what it must look like before anybody spends time on it. This module is pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from socketguard.authenticator import ConnectRequest, cookie_pairs
from socketguard.check import function, listed, names
from socketguard.errors import ConfigurationError, TokenError
from socketguard.text import neutralise

from .encoding import malformed

# Of a cookie (RFC 6265 section 4.1.1) and of a header (RFC 9110 section 5.1).
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_PARAMETERS = 256
_MAX_CHUNKS = 16  # browsers keep 4 KiB in a cookie, servers 64 KiB of headers
_EXAMPLE = '("payload", "header")'

Source: TypeAlias = str | Callable[[ConnectRequest], str | None]
"""Where a token may be: see `TokenFinder`."""

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
    other one the bare token; a ``Bearer`` before it is taken off. Cookies come last, whatever the order.
    """

    def __init__(
        self,
        sources: Sequence[Source] = ("payload", "header"),
        payload_keys: Sequence[str] = ("token", "access_token", "authorization"),
    ) -> None:
        listed_ = listed(sources, "sources", example=_EXAMPLE)
        if not listed_:
            raise ConfigurationError(f"sources is empty; write sources={_EXAMPLE}", option="sources")
        texts = names([one for one in listed_ if not callable(one)], "sources", example=_EXAMPLE)
        self.sources = given = tuple(dict.fromkeys(listed_))
        self.payload_keys = names(payload_keys, "payload_keys", example='("token",)')
        self._payload = "payload" in texts
        self._header = "header" in texts
        if self._payload and not self.payload_keys:
            raise ConfigurationError(
                'payload_keys is empty; write payload_keys=("token",), or leave "payload" out of sources',
                option="payload_keys",
            )
        self._others: list[tuple[str, str, Any]] = []
        self._cookies: list[tuple[str, str, Any]] = []
        for source in given:
            if not isinstance(source, str):
                write = "write a function of the request that returns the token, or None"
                self._others.append((_shown(source), "function", function(source, "sources", "request", write=write)))
                continue
            kind, _, name = source.partition(":")
            if kind in ("query", "cookie", "header") and name:
                (self._cookies if kind == "cookie" else self._others).append((source, kind, name))
            elif source not in ("payload", "header"):
                raise ConfigurationError(
                    f'sources has the unknown entry {source!r}; it may hold "payload", "header", "header:NAME", '
                    '"query:NAME", "cookie:NAME" and functions of the request',
                    option="sources",
                )
            if kind in ("cookie", "header") and name and not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"sources names the {kind} {name!r}, which no {kind} can be called; write its exact name",
                    option="sources",
                )
        self.uses_cookie = bool(self._cookies)

    @property
    def named(self) -> list[str]:
        """The sources for people."""
        return [source if isinstance(source, str) else _shown(source) for source in self.sources]

    @property
    def places(self) -> list[str]:
        """Where it looks, for telling whether somebody else looks there too."""
        found = self.named
        if self._payload:
            found[found.index("payload") : found.index("payload") + 1] = [f"payload:{key}" for key in self.payload_keys]
        return ["header:authorization" if place == "header" else place for place in found]

    def find(self, request: ConnectRequest) -> Found | None:
        """Find the token, without looking into it: in the client's ``auth``, or in the request of the session."""
        if self._payload and request.auth is not None and (token := self._from_payload(request.auth)):
            return Found(token, "payload")
        if self._header and (token := _from_header(request._raw_headers)):
            return Found(token, "header")
        return self._from(self._others, request) if self._others else None

    def find_cookie(self, request: ConnectRequest) -> Found | None:
        """Find the token in a cookie, where cookies count."""
        return self._from(self._cookies, request) if request.page_shown and self._cookies else None

    def missed_cookie(self, request: ConnectRequest) -> bool:
        """Whether there is a cookie that would be the token, if cookies counted."""
        return not request.page_shown and any(_values(kind, name, request) for _, kind, name in self._cookies)

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

    @staticmethod
    def _from(places: Sequence[tuple[str, str, Any]], request: ConnectRequest) -> Found | None:
        for source, kind, name in places:
            values = _values(kind, name, request)
            if len(values) > 1:
                raise malformed(_SEVERAL[kind], source=source)
            if token := _bare(values[0]) if values else "":
                return Found(token, source)
        return None


def _shown(source: Callable[..., Any]) -> str:
    """What a function among the sources is called."""
    return f"{getattr(source, '__name__', type(source).__name__)}()"


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


def stray(request: ConnectRequest) -> str | None:
    """What to do where no token was found, because the client has put one elsewhere; names only, never values."""
    places: list[tuple[str, Any, Any]] = [
        ("payload", *item) for item in list((request.auth or {}).items())[:_MAX_PARAMETERS]
    ]
    for header, line in request._raw_headers:
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
        places += [("query", *pair) for pair in _parameters(request._query_string, "query")]
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


def _values(kind: str, name: Any, request: ConnectRequest) -> list[str]:
    if kind == "query":
        return _query_values(request._query_string, name)
    if kind == "cookie":
        return cookie_values(request._raw_headers, name)
    if kind == "function":
        found = name(request)
        if found is not None and not isinstance(found, str):
            raise malformed("not_a_string", source=_shown(name), received=type(found).__name__)
        return [found] if found else []
    wanted = name.lower().encode()
    return [value.decode("latin-1").strip(" \t") for header, value in request._raw_headers if header.lower() == wanted]


def _query_values(query_string: bytes, name: str) -> list[str]:
    return [value for key, value in _parameters(query_string, f"query:{name}") if key == name]


def _parameters(query_string: bytes, source: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise malformed("query_malformed", source=source) from None


def cookie_values(headers: Sequence[tuple[bytes, bytes]], name: str) -> list[str]:
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
    found = (pair.strip(" \t").partition("=") for pair in cookie_pairs(headers))
    return [(key.rstrip(" \t"), value.strip(' \t"')) for key, equals, value in found if equals]
