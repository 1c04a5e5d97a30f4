"""Reads a request to the Engine.IO endpoint and says what is wrong with it, and why. This module is pure.

The rules are those of the Engine.IO v4 protocol and of python-engineio's own checks: whatever python-engineio would
refuse is found here first, with a reason that a person can act on.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from socketguard.connection import HandshakeRequest, Headers
from socketguard.diagnosis import handshake as hints
from socketguard.diagnosis.handshake import Hint
from socketguard.errors import RETRY_AFTER, HandshakeCode, Refusal, RejectCode
from socketguard.findings import Finding
from socketguard.proxies.trusted import TrustedProxies
from socketguard.text import neutralise

from .engine import Engine

_PLAIN_SCHEME = {"wss": "https", "ws": "http"}
_FORWARDED = frozenset({b"x-forwarded-proto"})
# In a plain HTTP request python-engineio would take them for a WebSocket.
_FORWARDED_AND_UPGRADE = _FORWARDED | {b"upgrade"}

# In the order in which `read` takes them apart.
_WANTED = b"origin host x-forwarded-host x-forwarded-proto x-forwarded-for upgrade user-agent content-length".split()
_PLACES = {name: place for place, name in enumerate(_WANTED)}


def _query(query_string: bytes) -> Mapping[str, list[str]]:
    try:
        return parse_qs(query_string.decode())
    except ValueError:  # not UTF-8: python-engineio reads it as an empty query
        return {}


_common_query = functools.lru_cache(maxsize=64)(_query)


def read(scope: Mapping[str, Any], trusted: TrustedProxies) -> HandshakeRequest:
    """Read an ASGI HTTP or WebSocket scope. Never raises for what a client can send."""
    found: list[str | None] = [None] * len(_WANTED)
    for name, value in scope["headers"]:
        place = _PLACES.get(name)
        if place is not None:
            text = value.decode("latin-1")
            previous = found[place]
            found[place] = text if previous is None else f"{previous},{text}"
    origin, host, forwarded_host, proto, forwarded_for, upgrade, user_agent, content_length = found
    query_string = scope.get("query_string", b"")
    # Every handshake over WebSocket has the same query; one with a session id must not be kept.
    common = len(query_string) < 64 and b"sid=" not in query_string
    query = _common_query(query_string) if common else _query(query_string)
    websocket = scope["type"] == "websocket"
    scheme = (proto.split(",")[0].strip() if proto else scope.get("scheme", "http")).lower()
    peer = scope.get("client")
    peer_address = peer[0] if peer else None
    address = peer_address
    if forwarded_for is not None:
        address = trusted.client(peer_address, forwarded_for, unix=is_unix(scope))
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
        forwarded_by=trusted.stranger(peer_address, forwarded_for) if forwards else None,
        transport_given="transport" in query,
        headers=scope["headers"],
        http_version=scope.get("http_version"),
        root_path=scope.get("root_path", ""),
    )


def is_unix(scope: Mapping[str, Any]) -> bool:
    """Whether the server listens on a Unix socket (ASGI, "HTTP Connection Scope": then ``server`` has no port)."""
    server = scope.get("server")
    return server is not None and server[1] is None and not scope.get("client")


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


def _refusal(code: HandshakeCode | RejectCode, hint: Hint) -> Refusal:
    return Refusal(code, hint.detail, {"hint": hint.text})


def examine(
    request: HandshakeRequest,
    engine: Engine,
    *,
    session_known: bool,
    upgraded: bool,
    allowed_origins: str | Collection[str] | None,
    uptime_s: float,
) -> Refusal | None:
    """Say what is wrong with a request, or None."""
    if not origin_is_allowed(request, allowed_origins):
        return _refusal(RejectCode.ORIGIN_NOT_ALLOWED, hints.origin_refused(request, allowed_origins))
    if request.method == "OPTIONS":
        return None
    if request.method not in ("GET", "POST"):
        return Refusal(HandshakeCode.METHOD_NOT_ALLOWED, fields={"hint": "Engine.IO uses GET and POST only"})
    if request.jsonp:
        text = (
            "Engine.IO v4 clients never ask for JSONP, and its answers can be read by any page; remove the j parameter"
        )
        return Refusal(HandshakeCode.JSONP_NOT_SUPPORTED, fields={"hint": text})
    problem = _transport_problem(request, engine.transports)
    if problem is not None:
        return problem
    if request.sid is not None and not session_known:
        hint = hints.session_unknown(request, engine.issued(request.sid), uptime_s)
        return _refusal(HandshakeCode.SESSION_UNKNOWN, hint)
    return _session_problem(request, upgraded)


def _transport_problem(request: HandshakeRequest, transports: Collection[str]) -> Refusal | None:
    if request.transport not in ("polling", "websocket"):
        return _refusal(HandshakeCode.TRANSPORT_UNKNOWN, hints.transport_unknown(request))
    if request.transport not in transports:
        hint = (
            f"the server was made with transports={sorted(transports)!r}; "
            f"let the client use the same, or allow {request.transport!r}"
        )
        return Refusal(HandshakeCode.TRANSPORT_DISABLED, fields={"hint": hint})
    if request.websocket != (request.transport == "websocket"):
        if request.websocket:
            return _refusal(HandshakeCode.TRANSPORT_MISMATCH, hints.transport_mismatch(request))
        return _refusal(HandshakeCode.UPGRADE_MISSING, hints.upgrade_missing(request))
    return None


def _session_problem(request: HandshakeRequest, is_upgraded: bool) -> Refusal | None:
    if request.sid is None:
        if request.version != "4":
            return _refusal(HandshakeCode.PROTOCOL_VERSION, hints.protocol_version(request))
        if request.method == "POST":
            return Refusal(HandshakeCode.SESSION_MISSING, fields={"hint": "a session begins with a GET, not a POST"})
    if not request.transport_given:
        hint = "there is no transport parameter, which every client sends and the Engine.IO protocol demands"
        return Refusal(HandshakeCode.TRANSPORT_UNKNOWN, "transport_missing", {"hint": hint})
    return upgraded(request) if is_upgraded else None


def upgraded(request: HandshakeRequest) -> Refusal:
    """The refusal of a request for a session that a WebSocket carries."""
    hint = (
        f"a {'WebSocket' if request.websocket else request.method} for a session that a WebSocket carries already: "
        "a client that goes on polling after its upgrade has a defect, a proxy that repeats requests is one too, "
        "or somebody else uses the session id"
    )
    detail = "post_after_upgrade" if request.method == "POST" else None
    return Refusal(HandshakeCode.SESSION_UPGRADED, detail, {"hint": hint})


def wrong_path(request: HandshakeRequest, paths: Sequence[str], lost: Mapping[str, Finding]) -> Refusal:
    """The refusal of a Socket.IO client's request on a path that isn't the endpoint's."""
    return _refusal(HandshakeCode.WRONG_PATH, hints.wrong_path(request, paths, lost))


def cors_headers(request: HandshakeRequest, *, allowed: bool, credentials: bool) -> list[tuple[bytes, bytes]]:
    """The CORS headers for an answer of our own, so that the page can read it when its origin is entitled to."""
    if request.origin is None or not allowed:
        return []
    headers = [(b"access-control-allow-origin", request.origin.encode("latin-1")), (b"vary", b"Origin")]
    if credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers


def busy(code: RejectCode, retry_after: int, hint: str, status: int | None = None) -> Refusal:
    """A refusal that passes: with ``Retry-After``."""
    return Refusal(code, None, {"hint": hint, "retry_after": retry_after}, http_status=status)


DRAINING = busy(RejectCode.DRAINING, RETRY_AFTER, "the server is being stopped: see socketguard.drain")
ENDED = Refusal(HandshakeCode.SESSION_UNKNOWN, fields={"hint": "the session has ended"})
