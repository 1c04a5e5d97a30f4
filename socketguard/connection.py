"""Who is connected: `Identity` (what a token says) and `Connection` (what one namespace of one client does).

This module is pure. `current_connection` hands the running handler its own `Connection`.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias

from .text import neutralise

if TYPE_CHECKING:
    # Type checkers know it without its being installed.
    from typing_extensions import TypeVar

    UserT = TypeVar("UserT", default=Any)
else:
    from typing import TypeVar

    UserT = TypeVar("UserT")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is: what a verified token says about its bearer (RFC 7519), or what an authenticator has found out.

    Attributes:
        subject: the ``sub`` claim, or the claim that ``subject_claim`` names; None for an anonymous client.
        claims: all claims, read-only.
        scopes: what the scope claim grants.
        issuer: the ``iss`` claim.
        token_id: the ``jti`` claim, or the claim that ``token_id_claim`` names; it stands in log lines.
        key_id: the ``kid`` of the token's header.
        issued_at: the ``iat`` claim, in seconds since the epoch.
        expires_at: the ``exp`` claim, in seconds since the epoch; None for a credential that ends nothing.
        credential: what was shown: ``jwt``, ``api_key``, ``session`` and so on. The guard fills it in.
    """

    subject: str | None
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    scopes: frozenset[str] = frozenset()
    issuer: str | None = None
    token_id: str | None = None
    key_id: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    credential: str | None = None

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


_DIGEST_KEY = secrets.token_bytes(16)
ANONYMOUS = Identity(subject=None)


def claim_value(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its name, or by the dotted path to it; None where there is none."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Session:
    """One Engine.IO session: what was known of the client when it arrived, and the namespaces it is in.

    Texts in it are capped and free of control characters.
    """

    client_address: str | None
    origin: str | None
    user_agent: str | None
    transport: str
    headers: list[tuple[bytes, bytes]]
    query_string: bytes
    scope: Mapping[str, Any] = field(default_factory=dict)  # of its first request
    asked_from: str | None = None  # the Origin of the request that brings what comes from the client now
    eio_sid: str = ""
    packets_in: int = 0
    connects: int = 0
    joined: int = 0
    connections: dict[str, Connection] = field(default_factory=dict)
    ending: str | None = None
    # Events whose handlers run or wait, the bytes of them, and those of the message that is on its way in.
    handling: int = 0
    handling_bytes: int = 0
    arrived: int = 0
    room: Any = None  # what is waited for before more is read
    timer: Any = None
    refusals: Any = None
    started: float = field(default_factory=time.monotonic)  # in seconds of the monotonic clock
    active: float = field(init=False)  # when something last came or went
    tried: int | None = None  # stands for the last token that was refused
    who: int | None = None  # stands for the subject of the last connection that has ended
    left_by: str | None = None  # in which of python-socketio's words it left a namespace
    _digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.active = self.started

    @property
    def digest(self) -> str:
        """The short keyed digest that stands for the secret id in log lines; empty before there is an id."""
        if not self._digest and self.eio_sid:
            self._digest = hashlib.blake2b(self.eio_sid.encode(), key=_DIGEST_KEY, digest_size=6).hexdigest()
        return self._digest

    def took(self, size: int) -> None:
        """An event of so many bytes is to be handled."""
        self.handling += 1
        self.handling_bytes += size

    def done(self, size: int) -> None:
        """It has been, or never will be."""
        self.handling -= 1
        self.handling_bytes -= size
        if self.room is not None and not self.room.done():
            self.room.set_result(None)


MOST_LATE = 16
"""So many events of a client may wait for the answer to its CONNECT; as many packets fit into one body."""


class Pending:
    """What a connection needs only until its CONNECT has been answered.

    Attributes:
        early: what was emitted to it meanwhile, encoded; it is sent after the answer, and dropped with a refusal.
        early_size: bytes (characters of text) of that.
        late: events that came from it meanwhile: id, data and bytes.
        task: in which it is decided.
        overdue: how often the deadline has passed, that of the grace among them.
        dropped: whether the application called ``disconnect`` for it.
        overflown: whether more was emitted to it than is held.
    """

    __slots__ = ("_most", "dropped", "early", "early_size", "late", "overdue", "overflown", "task")

    def __init__(self, most: float) -> None:
        self._most = most
        self.early: list[str | bytes] = []
        self.early_size = 0
        self.late: list[tuple[Any, Any, int]] = []
        self.task: Any = None
        self.overdue = 0
        self.dropped = self.overflown = False

    def wait(self, event: tuple[Any, Any, int], most: int) -> bool:
        """Keep an event that came from it; False when there would be too many, or more bytes than that."""
        if len(self.late) >= MOST_LATE or sum(size for _, _, size in (*self.late, event)) > most:
            return False
        self.late.append(event)
        return True

    def hold(self, items: Sequence[str | bytes]) -> None:
        """Keep what is emitted to it, within bounds."""
        self.early_size += sum(map(len, items))
        if self.early_size > self._most:
            self.overflown = True
            self.early.clear()
        else:
            self.early += items


@dataclass(slots=True, eq=False, repr=False)
class Connection(Generic[UserT]):
    """One client in one namespace, from its CONNECT to its end.

    Attributes:
        namespace: the Socket.IO namespace, such as ``/messages``.
        sid: the Socket.IO session id that handlers get; an empty string until the connect handler runs.
        identity: who it is.
        user: what ``load_user`` returned for it; None without one, and for an anonymous client. For type checkers
            ``Connection[User]`` says of which type it is.
        placeholders: what the ``{placeholders}`` of a pattern matched, such as ``{"tenant": "acme"}``.
        started: when the CONNECT arrived, in seconds of the monotonic clock.
        events_in: events received and dispatched so far.
        refreshes: how often its token was replaced by a fresh one.
        rejoins: how many connections of its session had ended before it.
    """

    PENDING: ClassVar = "pending"
    JOINED: ClassVar = "joined"
    LEAVING: ClassVar = "leaving"
    ENDED: ClassVar = "ended"

    session: Session
    namespace: str
    identity: Identity = ANONYMOUS
    placeholders: Mapping[str, str] = field(default_factory=dict)
    _: KW_ONLY
    user: UserT | None = None
    sid: str = ""
    started: float = field(default_factory=time.monotonic)
    events_in: int = 0
    state: str = PENDING
    reason: str | None = None
    detail: str | None = None  # the reason in the words of whoever disconnected it
    pending: Pending | None = None
    log_fields: dict[str, Any] = field(default_factory=dict)
    refreshes: int = 0
    rejoins: int = 0
    refreshing: bool = False
    offered: Identity | None = None  # who a fresh token says it is, while that is being decided
    timer: Any = None
    ends_at: float | None = None  # when its authority ends, in seconds of the clock by which tokens are verified
    held: bool = False  # whether it counts in the ledger
    waived: Any = None  # the refusal that is only reported
    verdict: Any = None  # the refusal that somebody has decided on while it was being admitted
    budgets: dict[Any, Any] | None = None  # what is left of its rates, by handler
    _packets_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._packets_before = self.session.packets_in

    def __repr__(self) -> str:
        return f"<Connection {self.namespace} subject={self.identity.subject!r} {self.state}>"

    @property
    def lives(self) -> bool:
        """Whether it has joined and its end has not begun: only then anything is sent to it or taken from it."""
        return self.state is Connection.JOINED and self.reason is None

    def hold(self, items: Sequence[str | bytes]) -> None:
        """Keep what was emitted to it until its CONNECT has been answered."""
        if self.pending is not None:
            self.pending.hold(items)

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
        """Prepare what `socketguard.logs.add_connection` adds to every line that is written inside a handler."""
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
    """What counts as one source: the address of a client, or whatever stands in its place, cut off after 64 characters.

    An IPv4-mapped address (RFC 4291 section 2.5.5.2) counts as IPv4, and an IPv6 address as its /64: one link (section
    2.5.1 there), and whoever has an address in it has all of them.
    """
    if len(address) > _ADDRESS_LIMIT:
        address = address[:_ADDRESS_LIMIT]
    return _ipv6_key(address) if ":" in address else address


OnRefresh: TypeAlias = Callable[[Connection, Identity, Identity], Awaitable[None] | None]
"""Called with the connection, the old and the new identity, before the new one counts. What it raises refuses the
new one, and so does anything that it returns but None and True."""


Headers = Sequence[tuple[bytes, bytes]]


class HandshakeRequest(NamedTuple):
    """What a request to the Engine.IO endpoint asks for. Texts are as they came, except where said otherwise."""

    websocket: bool  # the type of the ASGI scope
    method: str
    path: str
    sid: str | None  # the Engine.IO session id it names; a secret
    transport: str  # ``polling`` when there is no such parameter
    version: str | None  # the ``EIO`` parameter
    jsonp: bool
    origin: str | None
    host: str | None
    forwarded_host: str | None
    # ``http`` or ``https``, as the browser sees it: ``X-Forwarded-Proto`` where there is one, with ``ws``/``wss``
    # (which Traefik sends for upgrades) put back to what an Origin says.
    scheme: str
    proxied: bool  # whether there was an ``X-Forwarded-Proto``
    upgrade: str | None
    content_length: str | None
    client_address: str | None  # of the client, behind trusted proxies
    user_agent: str | None
    forwarded_by: str | None = None  # a private address that isn't trusted and yet forwards: most likely a proxy
    transport_given: bool = True
    headers: Headers = ()  # all of them as they came, for hints; they hold secrets
    http_version: str | None = None  # ``1.0``, ``1.1``, ``2`` or ``3``
    root_path: str = ""  # what the application is mounted below, by the server or an outer application; part of `path`


@dataclass(frozen=True, slots=True)
class KeysChange:
    """What happened to the keys, for the log, each with its ``url``.

    ``refreshed``: fetched for the first time, or different from before, or fetched again after an outage; with
    ``keys``, ``key_ids`` and ``ignored`` (keys that can't be used, and why). ``unavailable``: they can't be fetched;
    once per outage, and once more when the old keys have become too old to serve; with ``reason``, ``serving``
    (``stale`` or ``none``) and ``serving_s`` (for how many seconds more).
    """

    kind: Literal["refreshed", "unavailable"]
    fields: dict[str, Any]
