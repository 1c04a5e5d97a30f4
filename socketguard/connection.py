"""Who is connected: `Identity` (what a token says) and `Connection` (what one namespace of one client does).

This module is pure. `current_connection` hands the running handler its own `Connection`.
"""

from __future__ import annotations

import contextvars
import functools
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from .text import neutralise

__all__ = [
    "ANONYMOUS",
    "Connection",
    "HandshakeRequest",
    "Headers",
    "Identity",
    "KeysChange",
    "OnRefresh",
    "Session",
    "address_key",
    "bound_connection",
    "current_connection",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says about its bearer (RFC 7519).

    Attributes:
        subject: the ``sub`` claim, or the claim that ``subject_claim`` names; None for an anonymous client.
        claims: all claims, read-only.
        scopes: what the scope claim grants.
        issuer: the ``iss`` claim.
        token_id: the ``jti`` claim, or the claim that ``token_id_claim`` names.
        key_id: the ``kid`` of the token's header.
        issued_at: the ``iat`` claim, in seconds since the epoch.
        expires_at: the ``exp`` claim, in seconds since the epoch.
    """

    subject: str | None
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    scopes: frozenset[str] = frozenset()
    issuer: str | None = None
    token_id: str | None = None
    key_id: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None

    @property
    def is_authenticated(self) -> bool:
        """False only for the anonymous identity (a policy with ``token="optional"`` or ``"none"``)."""
        return self.subject is not None

    @property
    def identity(self) -> str:
        """The subject, or an empty string: what Starlette expects of ``request.user``."""
        return self.display_name

    @property
    def display_name(self) -> str:
        """The subject, or an empty string: what Starlette expects of ``request.user``."""
        return self.subject or ""


ANONYMOUS = Identity(subject=None)


class Session:
    """One Engine.IO session: what was known of the client when it arrived, and the namespaces it is in.

    It lives in the ASGI scope of the handshake (``scope["socketguard"]``), hence exactly as long as python-socketio
    keeps the session.

    Texts in it are capped and free of control characters.
    """

    __slots__ = (
        "active",
        "carrier",
        "client_address",
        "connections",
        "connects",
        "digest",
        "done",
        "eio_sid",
        "ending",
        "handed",
        "headers",
        "joined",
        "largest",
        "left_by",
        "origin",
        "packets_in",
        "query_string",
        "reading",
        "refusals",
        "started",
        "timer",
        "transport",
        "user_agent",
        "watched",
    )

    def __init__(
        self,
        *,
        client_address: str | None,
        origin: str | None,
        user_agent: str | None,
        transport: str,
        headers: list[tuple[bytes, bytes]],
        query_string: bytes,
    ) -> None:
        self.client_address = client_address
        self.origin = origin
        self.user_agent = user_agent
        self.transport = transport
        self.headers = headers
        self.query_string = query_string
        self.eio_sid = ""
        self.digest = ""
        self.packets_in = 0
        self.connects = 0
        self.joined = 0
        self.connections: dict[str, Connection] = {}
        self.ending: str | None = None
        # The WebSocket that carries it; None while it is polled.
        self.carrier: Any = None
        # Tasks that read a body of it: a slow client can keep them for as long as it likes.
        self.reading: set[Any] | None = None
        # Bytes (characters of text) that were given to python-engineio, and those of them that have left.
        self.handed = 0
        self.done = 0
        self.largest = 0
        self.watched = False
        self.timer: Any = None
        self.refusals: Any = None
        # When it began and when something last came or went, in seconds of the monotonic clock; and in which of
        # python-socketio's words it left a namespace.
        self.started = self.active = time.monotonic()
        self.left_by: str | None = None


class Connection:
    """One client in one namespace, from its CONNECT to its end.

    Attributes:
        namespace: the Socket.IO namespace, such as ``/messages``.
        sid: the Socket.IO session id that handlers get; an empty string until the connect handler runs.
        identity: who it is.
        placeholders: what the ``{placeholders}`` of a pattern matched, such as ``{"tenant": "acme"}``.
        started: when the CONNECT arrived, in seconds of the monotonic clock.
        events_in: events received and dispatched so far.
        refreshes: how often its token was replaced by a fresh one.
    """

    __slots__ = (
        "_packets_before",
        "budgets",
        "detail",
        "ends_at",
        "events_in",
        "held",
        "identity",
        "log_fields",
        "namespace",
        "offered",
        "pending",
        "placeholders",
        "reason",
        "refreshes",
        "refreshing",
        "session",
        "sid",
        "started",
        "state",
        "timer",
        "verdict",
    )

    PENDING = "pending"
    JOINED = "joined"
    LEAVING = "leaving"
    ENDED = "ended"

    def __init__(
        self,
        session: Session,
        namespace: str,
        identity: Identity = ANONYMOUS,
        placeholders: Mapping[str, str] | None = None,
    ) -> None:
        self.session = session
        self.namespace = namespace
        self.sid = ""
        self.identity = identity
        self.placeholders: Mapping[str, str] = placeholders or {}
        self.started = time.monotonic()
        self.events_in = 0
        self.state = self.PENDING
        self.reason: str | None = None
        # The reason in the words of whoever disconnected it.
        self.detail: str | None = None
        self.pending: Any = None
        self.log_fields: dict[str, Any] = {}
        self.refreshes = 0
        self.refreshing = False
        # Who a fresh token says it is, while that is being decided.
        self.offered: Identity | None = None
        self.timer: Any = None
        # When its authority ends, in seconds of the clock by which tokens are verified.
        self.ends_at: float | None = None
        # Whether it counts in the ledger.
        self.held = False
        # The refusal that somebody has decided on while it was being admitted.
        self.verdict: Any = None
        # What is left of its rates, by handler.
        self.budgets: dict[Any, Any] | None = None
        self._packets_before = session.packets_in

    def __repr__(self) -> str:
        return f"<Connection {self.namespace} subject={self.identity.subject!r} {self.state}>"

    @property
    def client_address(self) -> str | None:
        """The address of the client, behind the proxies that ``trusted_proxies`` names."""
        return self.session.client_address

    @property
    def user_agent(self) -> str | None:
        """The ``User-Agent`` of the handshake."""
        return self.session.user_agent

    @property
    def origin(self) -> str | None:
        """The ``Origin`` of the handshake."""
        return self.session.origin

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``: what carries the session now."""
        return self.session.transport

    @property
    def packets_in(self) -> int:
        """Engine.IO packets that the session received since this CONNECT, heartbeats included."""
        return self.session.packets_in - self._packets_before

    @property
    def duration(self) -> float:
        """Seconds since the CONNECT."""
        return time.monotonic() - self.started

    def bind_log_fields(self, log_claims: tuple[str, ...]) -> None:
        """Prepare what `socketguard.logs.add_connection` adds to every line that is written inside a handler.

        Args:
            log_claims: the claims to take along.
        """
        fields: dict[str, Any] = {"namespace": neutralise(self.namespace, 128)}
        if self.sid:
            fields["sid"] = self.sid
        if self.identity.subject is not None:
            fields["subject"] = neutralise(self.identity.subject, 256)
        claims = self.identity.claims
        for name in log_claims:
            if name != "sub" and name in claims:
                value = claims[name]
                fields[name] = value if isinstance(value, bool | int | float) else neutralise(str(value), 256)
        self.log_fields = fields


bound_connection: contextvars.ContextVar[Connection | None] = contextvars.ContextVar(
    "socketguard_connection", default=None
)


def current_connection() -> Connection:
    """The `Connection` whose handler is running.

    It works in ``connect``, ``disconnect`` and every event handler, and in the tasks that they start.

    Raises:
        LookupError: outside a Socket.IO handler of a guarded server.
    """
    connection = bound_connection.get()
    if connection is None:
        raise LookupError(
            "current_connection() was called outside a Socket.IO handler of a guarded server; "
            "elsewhere use guard.identity(sid, namespace)"
        )
    return connection


_ADDRESS_LIMIT = 64  # characters; the longest IPv6 address with an IPv4 part has 45, and a zone may follow


@functools.lru_cache(maxsize=4096)
def _ipv6_key(address: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"


def address_key(address: str) -> str:
    """What counts as one source.

    Args:
        address: the address of a client as text, or whatever stands in its place.

    Returns:
        An IPv4 address as it is, an IPv4-mapped one (RFC 4291, section 2.5.5.2) as IPv4, an IPv6 address as its /64
        (one link, RFC 4291, section 2.5.1: whoever has an address there has all of them), anything else as it is, cut
        off after 64 characters.
    """
    if len(address) > _ADDRESS_LIMIT:
        address = address[:_ADDRESS_LIMIT]
    return _ipv6_key(address) if ":" in address else address


OnRefresh: TypeAlias = Callable[[Connection, Identity, Identity], Awaitable[None] | None]
"""Called with the connection, the old and the new identity, before the new one counts. What it raises refuses the
new one, and so does anything that it returns but None and True."""


Headers = Sequence[tuple[bytes, bytes]]


class HandshakeRequest(NamedTuple):
    """What a request to the Engine.IO endpoint asks for. Texts are as they came, except where said otherwise.

    Attributes:
        websocket: whether it is a WebSocket (the type of the ASGI scope).
        sid: the Engine.IO session id it names; a secret.
        transport: the ``transport`` parameter, ``polling`` when absent.
        version: the ``EIO`` parameter.
        scheme: ``http`` or ``https``, as the browser sees it: ``X-Forwarded-Proto`` where there is one, with
            ``ws``/``wss`` (which Traefik sends for upgrades) put back to what an Origin says.
        proxied: whether there was an ``X-Forwarded-Proto``.
        client_address: of the client, behind trusted proxies.
        forwarded_by: a private address that isn't trusted and yet forwards: most likely a proxy.
        transport_given: whether there was a ``transport`` parameter.
        headers: all of them as they came, for hints; they hold secrets.
        http_version: ``1.0``, ``1.1``, ``2`` or ``3``.
    """

    websocket: bool
    method: str
    path: str
    sid: str | None
    transport: str
    version: str | None
    jsonp: bool
    origin: str | None
    host: str | None
    forwarded_host: str | None
    scheme: str
    proxied: bool
    upgrade: str | None
    content_length: str | None
    client_address: str | None
    user_agent: str | None
    forwarded_by: str | None = None
    transport_given: bool = True
    headers: Headers = ()
    http_version: str | None = None


@dataclass(frozen=True, slots=True)
class KeysChange:
    """What happened to the keys, for the log.

    Attributes:
        kind: ``refreshed``: fetched for the first time, or different from before, or fetched again after an outage.
            ``unavailable``: they can't be fetched; once per outage, and once more when the old keys have become too
            old to serve.
        fields: ``url``; of refreshed ones ``keys``, ``key_ids`` and ``ignored`` (keys that can't be used, and why); of
            unavailable ones ``reason``, ``serving`` (``stale`` or ``none``) and ``serving_s`` (for how many seconds
            more).
    """

    kind: Literal["refreshed", "unavailable"]
    fields: dict[str, Any]
