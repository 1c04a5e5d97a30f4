"""Who asks (`ConnectRequest`), and who says whose a credential is (`Authenticator`).

Here too is the one rule about cookies: a browser adds them to requests that any page makes, so they count only where
the handshake shows that the page may.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, QueryParams
from starlette.requests import cookie_parser

from .connection import Identity
from .findings import Finding

__all__ = ["Authenticator", "ConnectRequest", "cookie_pairs", "http_request", "shows_page"]

RawHeaders = Sequence[tuple[bytes, bytes]]

_USUAL = frozenset({b"authorization", b"cookie", b"x-api-key"})
_MOST_PARAMETERS = 256
_MOST_COOKIES = 200  # Chromium keeps 180 for a domain; to take many thousands apart would hold up the loop
_SAFE = ("GET", "HEAD")  # methods (RFC 9110 section 9.2.1)


class ConnectRequest:
    """What an authenticator may look at: the request of the session, and the ``auth`` payload of the CONNECT.

    Nothing is parsed until it is asked for. Cookies are there only where ``allowed_origins`` is a list and the
    handshake shows a page of that list.

    Attributes:
        auth: the payload that came with the CONNECT; None when there was none, and for an HTTP route.
        namespace: the namespace that is asked for; an empty string for an HTTP route.
        client_address: where the client is, behind the proxies that ``trusted_proxies`` names.
    """

    # Those of the class cost nothing until they are needed.
    page_shown = False  # whether cookies may count
    tried: int | None = None  # stands for the credential
    waiting: Any = None  # what an authenticator has begun
    _with_cookies = False
    _headers: Headers | None = None
    _cookies: dict[str, str] | None = None
    _query: QueryParams | None = None

    def __init__(
        self,
        raw_headers: RawHeaders,
        query_string: bytes,
        scope: Mapping[str, Any],
        auth: Mapping[str, Any] | None = None,
        namespace: str = "",
        client_address: str | None = None,
    ) -> None:
        self._raw_headers = raw_headers
        self._query_string = query_string
        self._scope = scope
        self.auth = auth
        self.namespace = namespace
        self.client_address = client_address

    def __repr__(self) -> str:
        return f"<ConnectRequest {self.namespace}>"

    @property
    def headers(self) -> Headers:
        """The headers of the session's first request, by their names in any case."""
        if self._headers is None:
            self._headers = Headers(raw=self._without_cookies())
        return self._headers

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; empty where none counts."""
        if self._cookies is None:
            pairs = cookie_pairs(self._without_cookies())
            self._cookies = cookie_parser(";".join(pairs)) if pairs else {}
        return self._cookies

    @property
    def query_params(self) -> QueryParams:
        """The query string of the session's first request; empty where it has more than 256 parameters."""
        if self._query is None:
            text = self._query_string.decode("latin-1")
            try:
                self._query = QueryParams(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
            except ValueError:
                self._query = QueryParams()
        return self._query

    @property
    def scope(self) -> Mapping[str, Any]:
        """The ASGI scope of the session's first request."""
        return {**self._scope, "headers": self._without_cookies()}

    def show_cookies(self) -> None:
        """From now on cookies are there, where they count."""
        if self.page_shown and not self._with_cookies:
            self._with_cookies = True
            self._headers = self._cookies = None

    def _without_cookies(self) -> list[tuple[bytes, bytes]]:
        return [header for header in self._raw_headers if self._with_cookies or header[0].lower() != b"cookie"]

    def header(self, wanted: bytes) -> str | None:
        """The first header of a name in lower case."""
        return next((value.decode("latin-1") for name, value in self._raw_headers if name.lower() == wanted), None)

    @property
    def usual(self) -> list[str]:
        """What stands where credentials mostly are."""
        return [value.decode("latin-1") for name, value in self._raw_headers if name.lower() in _USUAL]


class Authenticator(ABC):
    """Says whose a credential is. Give one, or several, as ``auth=``; a function of the request will do as well.

    Attributes:
        name: what the log calls the credential.
        places: where it looks, such as ``"payload:api_key"``, ``"header:x-api-key"`` and ``"cookie:session"``: two of
            one list must not look in the same place. One that names cookies only is asked after all others; one that
            names nothing is asked without cookies first, then with them.
        max_lifetime: the longest time from ``issued_at`` to ``expires_at`` of its identities, in seconds; without it
            ``guard.revoke(subject=…)`` can't cover them.
        clock: tells the time by which identities expire, in seconds since the epoch.
        local: whether it verifies a signature here, without a network or a database: then it is asked before the budget
            of the client's address.
    """

    name: str = ""
    places: Sequence[str] = ()
    max_lifetime: float | None = None
    clock: Callable[[], float] = time.time
    local: bool = False

    @abstractmethod
    def identify(self, request: ConnectRequest) -> Identity | Awaitable[Identity | None] | None:
        """Say who asks. Mostly an ``async def``; an ordinary one runs in a thread, unless it is marked as `quick`.

        Args:
            request: what was asked, and with what.

        Returns:
            Who it is; None when no credential of this kind is there.

        Raises:
            CredentialError: there is one, and it is bad. No other authenticator is asked then.
        """

    def describe(self) -> dict[str, Any]:
        """The effective configuration for a log line, without secrets."""
        return {"credential": self.name or type(self).__name__, "places": list(self.places)}

    def findings(self) -> list[Finding]:
        """What a person should look at."""
        return []


def cookie_pairs(headers: RawHeaders) -> list[str]:
    """The ``NAME=VALUE`` of all cookies, as many of them as browsers send at most."""
    lines = [value.decode("latin-1") for name, value in headers if name.lower() == b"cookie"]
    return ";".join(lines).split(";", _MOST_COOKIES)[:_MOST_COOKIES] if lines else []


def shows_page(request: ConnectRequest, origins: Collection[str], asked_from: str | None) -> bool:
    """Whether a handshake shows a page that may bring its visitor's cookies.

    Its ``Origin`` is on the list; or it is a same-origin GET, which carries none, and says so (Fetch Metadata,
    ``Sec-Fetch-Site``), or the request that carries the CONNECT (``asked_from`` is its Origin) does.
    """
    if not origins:
        return False
    origin = request.header(b"origin")
    if origin is not None:
        return origin in origins
    return asked_from in origins or request.header(b"sec-fetch-site") == "same-origin"


def http_request(scope: Mapping[str, Any], origins: Collection[str] = ()) -> ConnectRequest:
    """The request of an HTTP route or a plain WebSocket.

    Nobody else compares origins there, and a form on any page can post with the cookie of its visitor. So cookies count
    from the service's own pages and those of the list; without a word about the page, only in a GET.
    """
    client = scope.get("client")
    address = client[0] if client else None
    request = ConnectRequest(scope["headers"], scope.get("query_string", b""), scope, client_address=address)
    origin, site = request.header(b"origin"), request.header(b"sec-fetch-site")
    if origin is not None:
        own = request.header(b"host")
        shown = origin in origins or (bool(own) and origin.partition("://")[2].lower() == str(own).lower())
    elif site is not None:
        shown = site in ("same-origin", "none")  # none: a person has typed the address
    else:
        shown = scope["type"] == "http" and scope["method"] in _SAFE
    request.page_shown = shown
    return request
