"""Reads a request to the Engine.IO endpoint and says what is wrong with it, and why. This module is pure.

The rules are those of the Engine.IO v4 protocol and of python-engineio's own checks: whatever python-engineio would
refuse is found here first, with a reason that a person can act on.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from .connection import HandshakeRequest, Headers
from .diagnosis import handshake as hints
from .diagnosis.handshake import Hint, Issued
from .errors import REPLIES, HandshakeRefusal, RejectCode, Retry
from .proxies.traces import recognise
from .proxies.trusted import TrustedProxies
from .text import neutralise

__all__ = [
    "MAX_PARTS",
    "Issued",
    "body_problem",
    "cors_headers",
    "count_parts",
    "examine",
    "normalised_headers",
    "origin_is_allowed",
    "packet_problem",
    "read",
    "wrong_path",
]

_PLAIN_SCHEME = {"wss": "https", "ws": "http"}

# Engine.IO v4 packet types. ASCII only: int("٠") is 0 in Python, so other digits would pass further down.
PACKET_TYPES = frozenset("0123456")

# python-engineio's own limit (Payload.max_decode_packets): beyond it, it answers 200 and drops every packet.
MAX_PACKETS_PER_BODY = 16

# How many values a packet of a stranger may hold. An auth payload has a handful; 512 cost less than 0.1 ms.
MAX_PARTS = 512

# What a client sends over polling. On the other types python-engineio would wait for the session to end, for ever.
_POLLING_TYPES = frozenset("1345")


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


def body_problem(body: bytes, *, limit: int, strict_text: bool, stranger: bool) -> HandshakeRefusal | int:
    """Look at the body of a polling POST before python-engineio does.

    Args:
        body: all of it.
        limit: the largest size in bytes.
        strict_text: whether every text message must be a Socket.IO packet of the default serializer.
        stranger: whether the session has joined no namespace.

    Returns:
        The number of packets, or what is wrong. python-engineio answers most of these with 200 and drops the packets.
    """
    if len(body) > limit:
        return HandshakeRefusal(
            "body_too_large",
            413,
            "Payload too large",
            f"{len(body)} bytes in one POST, {limit} are allowed (a session that has joined no namespace may send "
            "far less than max_http_buffer_size)",
        )
    try:
        packets = body.decode().split("\x1e")
    except UnicodeDecodeError:
        return _malformed_body("it is not UTF-8")
    if len(packets) > MAX_PACKETS_PER_BODY:
        return HandshakeRefusal(
            "too_many_packets",
            400,
            "Too many packets",
            f"{len(packets)} packets in one POST, {MAX_PACKETS_PER_BODY} are allowed (python-engineio would answer 200 "
            "and drop them all): the client emitted a burst over polling; let it connect with transports: "
            "['websocket'], or emit fewer events",
            Retry.BACKOFF,
        )
    parts = 0
    for packet in packets:
        problem = packet_problem(packet, strict_text=strict_text, polling=True)
        if problem is None and stranger:
            found = count_parts(base64.b64decode(packet[1:]) if packet[0] == "b" else packet, strict_text=strict_text)
            parts = MAX_PARTS + 1 if found is None else parts + found
            problem = "more values than a session needs to join a namespace" if parts > MAX_PARTS else None
        if problem:
            return _malformed_body(problem)
    return len(packets)


def _malformed_body(problem: str) -> HandshakeRefusal:
    return HandshakeRefusal("body_malformed", 400, "Bad request", f"the body is no Engine.IO v4 payload: {problem}")


def packet_problem(packet: str, *, strict_text: bool, polling: bool = False) -> str | None:
    """Say what is wrong with the beginning of an Engine.IO text packet, or None.

    This refuses what no client sends; it never decides who may join.
    """
    first = packet[:1]
    if first not in (_POLLING_TYPES if polling else PACKET_TYPES):
        if polling and first == "b":
            return _base64_problem(packet)
        return "an empty packet" if not first else "a packet of a type that clients do not send"
    if first != "4":
        # python-engineio would decode what follows as JSON.
        return None if packet[1:] in ("", "probe") else "a packet with data of a type that has none"
    if strict_text and packet[1:2] not in PACKET_TYPES:
        # python-engineio would decode the rest as JSON, python-socketio then take it for a packet.
        return "a message that is no Socket.IO packet"
    return None


def count_parts(packet: str | bytes, *, strict_text: bool) -> int | None:
    """Count the values in a packet of a session that has joined no namespace, before anything is decoded.

    What makes JSON and msgpack dear is the number of values; an auth payload has a handful.

    Args:
        packet: a packet whose size is within the limit.
        strict_text: whether the server has the default serializer.

    Returns:
        A number to compare with `MAX_PARTS`; None for what such a session has no reason to send at all.
    """
    if isinstance(packet, str):
        return packet.count(",") + packet.count("[") + packet.count("{")
    if strict_text:
        return None
    # In msgpack each array, map, extension and large number begins with a byte beyond ASCII; a token has none.
    return len(packet) - len(packet.decode("ascii", "ignore"))


def _base64_problem(packet: str) -> str | None:
    try:
        base64.b64decode(packet[1:], validate=True)
    except ValueError:
        return "a binary packet that is not base64"
    return None


def cors_headers(request: HandshakeRequest, *, allowed: bool, credentials: bool) -> list[tuple[bytes, bytes]]:
    """The CORS headers for an answer of our own, so that the page can read it when its origin is entitled to."""
    if request.origin is None or not allowed:
        return []
    headers = [(b"access-control-allow-origin", request.origin.encode("latin-1")), (b"vary", b"Origin")]
    if credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers
