"""Reads a request to the Engine.IO endpoint and says what is wrong with it, and why. This module is pure.

The rules are those of the Engine.IO v4 protocol and of python-engineio's own checks: whatever python-engineio would
refuse is found here first, with a reason that a person can act on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from socketguard.connection import HandshakeRequest, Headers, address_key
from socketguard.diagnosis import handshake as hints
from socketguard.diagnosis.handshake import Hint, Issued
from socketguard.errors import REPLIES, RETRY_AFTER, HandshakeRefusal, RejectCode, Retry
from socketguard.limits.counters import Ledger
from socketguard.limits.rates import AddressBudget
from socketguard.proxies.traces import recognise
from socketguard.proxies.trusted import TrustedProxies
from socketguard.text import neutralise

__all__ = [
    "Gate",
    "Issued",
    "busy",
    "cors_headers",
    "examine",
    "normalised_headers",
    "origin_is_allowed",
    "read",
    "wrong_path",
]

_PLAIN_SCHEME = {"wss": "https", "ws": "http"}


_FORWARDED = frozenset({b"x-forwarded-proto"})
# In a plain HTTP request python-engineio would take them for a WebSocket.
_FORWARDED_AND_UPGRADE = _FORWARDED | {b"upgrade"}

_WANTED = {
    b"origin": 0,
    b"host": 1,
    b"x-forwarded-host": 2,
    b"x-forwarded-proto": 3,
    b"x-forwarded-for": 4,
    b"upgrade": 5,
    b"user-agent": 6,
    b"content-length": 7,
}


def _query(query_string: bytes) -> Mapping[str, list[str]]:
    try:
        return parse_qs(query_string.decode())
    except ValueError:  # not UTF-8: python-engineio reads it as an empty query
        return {}


_common_query = functools.lru_cache(maxsize=64)(_query)


def read(scope: Mapping[str, Any], trusted: TrustedProxies) -> HandshakeRequest:
    """Read an ASGI HTTP or WebSocket scope. Never raises for what a client can send."""
    found: list[str | None] = [None] * 8
    for name, value in scope["headers"]:
        place = _WANTED.get(name)
        if place is not None:
            text = value.decode("latin-1")
            previous = found[place]
            found[place] = text if previous is None else f"{previous},{text}"
    origin, host, forwarded_host, proto, forwarded_for, upgrade, user_agent, content_length = found
    query_string = scope.get("query_string", b"")
    # Every handshake over WebSocket has the same query; one with a session id must not be kept.
    query = (
        _common_query(query_string) if len(query_string) < 64 and b"sid=" not in query_string else _query(query_string)
    )
    websocket = scope["type"] == "websocket"
    scheme = (proto.split(",")[0].strip() if proto else scope.get("scheme", "http")).lower()
    peer = scope.get("client")
    peer_address = peer[0] if peer else None
    address = trusted.client(peer_address, forwarded_for)
    forwards = forwarded_for is not None or proto is not None or forwarded_host is not None
    return HandshakeRequest(
        websocket=websocket,
        method="GET" if websocket else scope["method"],
        path=scope["path"],
        sid=query["sid"][0] if "sid" in query else None,
        transport=query["transport"][0] if "transport" in query else "polling",
        version=query["EIO"][0] if query.get("EIO") and len(query["EIO"]) == 1 else None,
        jsonp="j" in query,
        origin=origin,
        host=host,
        forwarded_host=forwarded_host.split(",")[0].strip() if forwarded_host else None,
        scheme=_PLAIN_SCHEME.get(scheme, scheme),
        proxied=proto is not None,
        upgrade=upgrade,
        content_length=content_length,
        client_address=None if address is None else neutralise(address, 64),
        user_agent=None if user_agent is None else neutralise(user_agent, 256),
        forwarded_by=trusted.stranger(peer_address) if forwards else None,
        transport_given="transport" in query,
        headers=scope["headers"],
        http_version=scope.get("http_version"),
    )


def normalised_headers(headers: Headers, request: HandshakeRequest) -> list[tuple[bytes, bytes]]:
    """The headers to hand on to python-engineio.

    python-engineio compares ``X-Forwarded-Proto`` literally with the Origin and never looks at the scheme of the ASGI
    scope, so it gets the scheme as the browser sees it. Over HTTP/2 a WebSocket has no ``Upgrade`` header (RFC 8441),
    which python-engineio asks for; the server has already made it a WebSocket, so it is put in.
    """
    if request.scheme != "https" and not request.proxied and request.websocket == (request.upgrade is not None):
        return headers if isinstance(headers, list) else list(headers)
    dropped = _FORWARDED if request.websocket else _FORWARDED_AND_UPGRADE
    result = [header for header in headers if header[0] not in dropped]
    if request.scheme == "https" or request.proxied:
        result.append((b"x-forwarded-proto", request.scheme.encode("latin-1", "replace")))
    if request.websocket and request.upgrade is None:
        result += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    return result


def origin_is_allowed(request: HandshakeRequest, allowed: str | Collection[str] | None) -> bool:
    """Whether a page of this origin may connect and read answers; a request without an Origin is no page's."""
    if request.origin is None or allowed == "*":
        return True
    if allowed is not None:
        return request.origin in allowed
    scheme, separator, host = request.origin.partition("://")
    return bool(separator) and scheme == request.scheme and host in (request.host, request.forwarded_host)


def _refusal(
    reason: str, message: str, hint: Hint, *, status: int = 400, retry: Retry = Retry.NEVER
) -> HandshakeRefusal:
    return HandshakeRefusal(reason, status, message, hint.text, retry, detail=hint.detail)


def _origin_refusal(request: HandshakeRequest, allowed: str | Collection[str] | None) -> HandshakeRefusal:
    reply = REPLIES[RejectCode.ORIGIN_NOT_ALLOWED]
    hint = hints.origin_refused(
        request.origin or "",
        host=request.host,
        forwarded_host=request.forwarded_host,
        scheme=request.scheme,
        allowed=allowed,
        headers=request.headers,
        proxies=recognise(request.headers, request.http_version),
    )
    return _refusal("origin_not_allowed", reply.message, hint, status=reply.http_status)


def examine(
    request: HandshakeRequest,
    *,
    transports: Collection[str],
    session_known: bool,
    upgraded: bool,
    allowed_origins: str | Collection[str] | None,
    session_issued: Issued | Callable[[str], bool] = "unknown",
    uptime_s: float | None = None,
) -> HandshakeRefusal | None:
    """Say what is wrong with a request, or None.

    Args:
        request: what was read.
        transports: those that the server offers.
        session_known: whether the ``sid`` of the request is a living session of this process.
        upgraded: whether that session is carried by a WebSocket.
        allowed_origins: ``"*"``, a collection, or None for same-origin only.
        session_issued: whether this process ever issued the ``sid``: ``here``, ``elsewhere`` or ``unknown``, or a
            function of the ``sid`` that says it. It is called only for a session that isn't known.
        uptime_s: seconds since this process began to serve, for the hint; None when that isn't known.
    """
    if not origin_is_allowed(request, allowed_origins):
        return _origin_refusal(request, allowed_origins)
    if request.method == "OPTIONS":
        return None
    if request.method not in ("GET", "POST"):
        return HandshakeRefusal("method_not_allowed", 405, "Method not allowed", "Engine.IO uses GET and POST only")
    if request.jsonp:
        return HandshakeRefusal(
            "jsonp_not_supported",
            400,
            "JSONP is not supported",
            "Engine.IO v4 clients never ask for JSONP, and its answers can be read by any page; remove the j parameter",
        )
    problem = _transport_problem(request, transports)
    if problem is not None:
        return problem
    if request.sid is not None and not session_known:
        if callable(session_issued):
            session_issued = "here" if session_issued(request.sid) else "elsewhere"
        hint = hints.session_unknown(session_issued, recognise(request.headers, request.http_version), uptime_s)
        return _refusal("session_unknown", "Session ID unknown", hint, retry=Retry.NOW)
    return _session_problem(request, upgraded)


def _transport_problem(request: HandshakeRequest, transports: Collection[str]) -> HandshakeRefusal | None:
    if request.transport not in ("polling", "websocket"):
        return _refusal("transport_unknown", "Transport unknown", hints.transport_unknown(request.transport))
    if request.transport not in transports:
        return HandshakeRefusal(
            "transport_disabled",
            400,
            "Transport not available",
            f"the server was made with transports={sorted(transports)!r}; "
            f"let the client use the same, or allow {request.transport!r}",
        )
    if request.websocket != (request.transport == "websocket"):
        if request.websocket:
            return _refusal("transport_mismatch", "Bad request", hints.transport_mismatch(request.transport_given))
        hint = hints.upgrade_missing(
            request.headers, request.http_version, recognise(request.headers, request.http_version)
        )
        return _refusal("upgrade_missing", "Bad request", hint)
    return None


def _session_problem(request: HandshakeRequest, upgraded: bool) -> HandshakeRefusal | None:
    if request.sid is None:
        if request.version != "4":
            hint = hints.protocol_version(request.version)
            return _refusal("protocol_version", "Unsupported protocol version", hint)
        if request.method == "POST":
            return HandshakeRefusal("session_missing", 400, "Bad request", "a session begins with a GET, not a POST")
        return None
    if upgraded:
        return HandshakeRefusal(
            "session_upgraded",
            400,
            "Bad request",
            f"a {'WebSocket' if request.websocket else request.method} for a session that a WebSocket carries already: "
            "a client that goes on polling after its upgrade has a defect, a proxy that repeats requests is one too, "
            "or somebody else uses the session id",
            detail="post_after_upgrade" if request.method == "POST" else None,
        )
    return None


def wrong_path(request: HandshakeRequest, paths: Sequence[str]) -> HandshakeRefusal:
    """The refusal of a Socket.IO client's request on a path that isn't the endpoint's.

    Args:
        request: what was read.
        paths: of the endpoint, such as ``/socket.io/``; may be empty when they aren't known.
    """
    return _refusal("wrong_path", "Not found", hints.wrong_path(request.path, paths), status=404)


def cors_headers(request: HandshakeRequest, *, allowed: bool, credentials: bool) -> list[tuple[bytes, bytes]]:
    """The CORS headers for an answer of our own, so that the page can read it when its origin is entitled to."""
    if request.origin is None or not allowed:
        return []
    headers = [(b"access-control-allow-origin", request.origin.encode("latin-1")), (b"vary", b"Origin")]
    if credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers


_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503


class Gate:
    """Decides on handshakes.

    Args:
        budget: what was refused to an address.
        ledger: how many sessions and connections there are.
        pending: tells how many sessions have joined no namespace.
        outage: tells in how many seconds tokens may be verified again; None when they can be now.
        on_proxy: called once for each private address that forwards others' requests without being trusted.
    """

    def __init__(
        self,
        budget: AddressBudget,
        ledger: Ledger,
        *,
        pending: Callable[[], int],
        outage: Callable[[], int | None],
        on_proxy: Callable[[str], None],
    ) -> None:
        self.draining = False
        self._budget = budget
        self._ledger = ledger
        self._pending = pending
        self._outage = outage
        self._on_proxy = on_proxy

    def refusal(self, request: HandshakeRequest) -> HandshakeRefusal | None:
        """Why this request may not become a session; None when it may."""
        if self.draining:
            return DRAINING
        address = request.client_address
        if request.forwarded_by is not None and self._budget.exempt(request.forwarded_by):
            # Everybody behind it would share one budget, and one client could lock out all the others.
            self._ledger.exempt.add(address_key(request.forwarded_by))
            self._on_proxy(request.forwarded_by)
        wait = self._budget.wait(address)
        if wait:
            return busy(
                RejectCode.RATE_LIMITED,
                _TOO_MANY_REQUESTS,
                math.ceil(wait),
                "this address was refused too often: see the lines of socketguard.connection.rejected before this one; "
                "the limit is failures_per_address",
            )
        outage = self._outage()
        if outage is not None:
            hint = "tokens can't be checked now: see socketguard.keys.unavailable and socketguard.store.unavailable"
            return busy(RejectCode.KEYS_UNAVAILABLE, _UNAVAILABLE, outage, hint)
        full = self._ledger.session_problem(address, self._pending())
        if full is None:
            return None
        # What one address has too many of is its own business; a full server is everybody's.
        status = _TOO_MANY_REQUESTS if full.endswith("_per_address") else _UNAVAILABLE
        return busy(RejectCode.CONNECTION_LIMIT, status, RETRY_AFTER, f"the limit {full} is reached")


def busy(code: RejectCode, status: int, retry_after: int, hint: str) -> HandshakeRefusal:
    """A refusal that passes: with ``Retry-After``."""
    reply = REPLIES[code]
    assert reply.retry is not None  # noqa: S101 - narrows the type: each of these codes has an advice
    return HandshakeRefusal(code.value, status, reply.message, hint, reply.retry, retry_after)


DRAINING = busy(RejectCode.DRAINING, _UNAVAILABLE, RETRY_AFTER, "the server is being stopped: see socketguard.drain")
