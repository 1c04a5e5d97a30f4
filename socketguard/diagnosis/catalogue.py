"""Every configuration warning by its id: what it is about, why it matters, what to do. This module is pure.

The text of a `socketguard.findings.Finding` has the values of one case; an `Entry` is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

__all__ = ["CATALOGUE", "ERROR", "WARNING", "Entry", "Severity", "severity"]

Severity: TypeAlias = Literal["error", "warning"]

ERROR: Final = "error"
"""Clients can't connect or don't stay, messages are lost, or somebody gets in or reads what is not meant for them."""

WARNING: Final = "warning"
"""It works, at a price or with a risk that may be meant: a person should have decided it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One configuration warning.

    Attributes:
        id: such as ``SG012``; never reused.
        severity: `ERROR` or `WARNING`.
        title: what it is about, in one line.
        why: what happens when it stays.
        fix: what to do.
        docs: the page that says more, as a path in the repository.
    """

    id: str
    severity: Severity
    title: str
    why: str
    fix: str
    docs: str


_HEARTBEAT = "docs/heartbeat.md#what-is-checked"
_NAMESPACES = "docs/namespaces.md#which-exist"
_AUTHENTICATION = "docs/authentication.md"
_API = "docs/api.md#configuration-warnings"

_ENTRIES = (
    Entry(
        "SG001",
        ERROR,
        "The ping interval is not below an idle limit on the path",
        "A proxy cuts connections on which nothing is sent for a while. Between two pings nothing is sent, so that "
        "healthy clients are cut again and again, with 'transport close' as the reason.",
        "Use Heartbeat.behind(…) with every proxy on the path, or raise the proxy's limit above interval + timeout.",
        _HEARTBEAT,
    ),
    Entry(
        "SG002",
        WARNING,
        "A limit on the length of answers is too short for long-polling",
        "Over long-polling the server holds a GET open until the next ping. A proxy that answers before that with an "
        "error of its own ends the session.",
        'Use a shorter interval, raise the limit, or allow transports=["websocket"] only.',
        _HEARTBEAT,
    ),
    Entry(
        "SG003",
        WARNING,
        "A hop ends every connection after a fixed time",
        "The connection ends whether it is busy or not; no heartbeat helps.",
        "Raise the limit as far as the product allows, and let clients reconnect and take up their state again.",
        _HEARTBEAT,
    ),
    Entry(
        "SG004",
        WARNING,
        "A time of the heartbeat is a fraction of a second, or no number",
        "python-engineio announces the interval to clients in whole seconds, so that they expect pings sooner than "
        "they come.",
        "Write whole seconds, such as Heartbeat(25, 20).",
        _HEARTBEAT,
    ),
    Entry(
        "SG005",
        ERROR,
        "A time of the heartbeat is zero or negative",
        "Clients are pinged without a pause, or are given up at once.",
        "Write whole seconds above zero, such as Heartbeat(25, 20).",
        _HEARTBEAT,
    ),
    Entry(
        "SG006",
        ERROR,
        "A time of the heartbeat looks like milliseconds",
        "The JavaScript server counts in milliseconds, python-socketio in seconds: 25000 is seven hours without a "
        "ping, and every proxy cuts the connection before that.",
        "Write seconds: 25 instead of 25000.",
        _HEARTBEAT,
    ),
    Entry(
        "SG007",
        WARNING,
        "Interval and timeout together come too close to an idle limit",
        "A proxy may cut a dead connection before Engine.IO notices that it is dead. The log then says "
        "'transport close' where it should say 'ping timeout', and hides which of the two it was.",
        "Use Heartbeat.behind(…), which leaves 5 seconds, or raise the limit.",
        _HEARTBEAT,
    ),
    Entry(
        "SG008",
        WARNING,
        "uvicorn's own WebSocket pings end connections that the heartbeat would keep",
        "uvicorn pings every WebSocket too, and closes those whose pong is late by its own figures.",
        "Raise ws_ping_timeout or ws_ping_interval of uvicorn, or write ws_ping_interval=None.",
        "docs/heartbeat.md#uvicorns-own-pings",
    ),
    Entry(
        "SG009",
        ERROR,
        "A product on the path can't carry long-polling, or no Socket.IO at all",
        "Stock clients begin with long-polling. Where it can't pass, they never connect.",
        'Allow transports=["websocket"] at the server and in every client, or put another product there.',
        _HEARTBEAT,
    ),
    Entry(
        "SG010",
        ERROR,
        "A namespace is declared to the guard but has no handler",
        "python-socketio refuses namespaces without handlers, so that nobody can join it. Mostly the module with the "
        "handlers is not imported before the server starts.",
        "Import the module that registers the handlers, or take the name out of namespaces=.",
        _NAMESPACES,
    ),
    Entry(
        "SG011",
        WARNING,
        "A namespace has handlers but is not declared to the guard",
        "A list of namespaces is the truth: what is not in it can't be joined, and is answered as unknown.",
        "Add the name to namespaces=, or remove the handlers.",
        _NAMESPACES,
    ),
    Entry(
        "SG012",
        ERROR,
        "A namespace has no leading slash",
        "Clients always send names with a slash, so that handlers without one are never reached.",
        'Register the handlers with namespace="/name".',
        _NAMESPACES,
    ),
    Entry(
        "SG013",
        WARNING,
        "The server's namespaces option is one string",
        "python-socketio looks for the asked name within that string, so that parts of it are taken for namespaces.",
        'Write a list: AsyncServer(namespaces=["/messages"]).',
        _NAMESPACES,
    ),
    Entry(
        "SG014",
        ERROR,
        'Handlers for namespace="*", but nothing says for which names',
        "The guard admits no name that nobody has declared, so that no namespace can be joined through these handlers.",
        'Declare names or patterns: namespaces=["/messages", NamespacePolicy("/tenant-{tenant}", …)].',
        _NAMESPACES,
    ),
    Entry(
        "SG015",
        WARNING,
        'Function-style handlers for namespace="*" go before class-based namespaces',
        "python-socketio asks functions first: the methods of the classes never run for those events.",
        'Register a class AsyncNamespace("*") instead of functions, or name the namespaces.',
        _NAMESPACES,
    ),
    Entry(
        "SG016",
        WARNING,
        "The admin namespace of instrument() has no policy",
        "The admin interface has a login of its own, not a token. Without a policy nobody can reach it, or it asks for "
        "a token that its page doesn't send.",
        'Add NamespacePolicy("/admin", token="none") to namespaces, and give instrument() a login.',
        "docs/namespaces.md#the-admin-interface",
    ),
    Entry(
        "SG017",
        ERROR,
        "A handler runs without the requires() that was written for it",
        "sio.on registers what it decorates. A requires() above it reaches the handler all the same, but not through a "
        "decorator between them that does not say what it wraps: events are then dispatched to whoever sends them.",
        "Write requires() right below sio.on(), or use functools.wraps in the decorator between them.",
        "docs/limits.md#per-event",
    ),
    Entry(
        "SG020",
        WARNING,
        "Middleware of an inner application never sees Socket.IO requests",
        "socketio.ASGIApp(sio, other_asgi_app=app) takes the requests of Socket.IO before app and its middleware.",
        "Use the guard's own options (allowed_origins, trusted_proxies), or wrap the ASGIApp with the middleware.",
        _API,
    ),
    Entry(
        "SG021",
        ERROR,
        "Socket.IO is mounted where no request matches it",
        "Since Starlette 0.33 a mounted application sees the whole path, so that socketio_path must hold the prefix "
        "too. As it is, every client gets 404.",
        'Write Mount("/ws", ASGIApp(sio, socketio_path="/ws/socket.io")) and give clients path: "/ws/socket.io/".',
        _API,
    ),
    Entry(
        "SG022",
        ERROR,
        "cors_allowed_origins=[] switches the origin check of WebSockets off",
        "It looks like 'nobody', but python-engineio then looks at no Origin header: any page may connect.",
        'Write SocketGuard(…, allowed_origins=["https://your-page.example"]) and leave cors_allowed_origins out.',
        _API,
    ),
    Entry(
        "SG023",
        ERROR,
        "An option of AsyncServer does not exist",
        "python-socketio takes any keyword and forgets those that it doesn't know: what you meant to set is not set.",
        "Correct the name, or remove it.",
        _API,
    ),
    Entry(
        "SG024",
        ERROR,
        "Every origin is allowed, together with credentials",
        "Any page that a user visits may connect with that user's cookies, and read the answers.",
        "List the origins of your pages in allowed_origins, or leave cookies and cors_credentials out.",
        _API,
    ),
    Entry(
        "SG025",
        ERROR,
        "The guard is where it never sees the traffic",
        "It guards another server than the one that is served, or is built only when the inner application gets its "
        "first request: until then, or for ever, clients join without a token.",
        "Write SocketGuard.protect(sio, auth=…) right after the server is made, wherever it is mounted.",
        "docs/api.md#socketguard",
    ),
    Entry(
        "SG026",
        WARNING,
        "No Socket.IO endpoint is found in the application",
        "The server is mounted later, or behind something that can't be looked through, or not at all: then every "
        "client gets 404.",
        "Check that the application that is served mounts socketio.ASGIApp(sio) with this very server.",
        "docs/api.md#socketguard",
    ),
    Entry(
        "SG030",
        WARNING,
        "auth=None: no token is asked for",
        "Everybody may join every namespace.",
        "Write auth=JWTAuth(…).",
        "docs/authentication.md#without-a-token",
    ),
    Entry(
        "SG031",
        WARNING,
        "debug=True where others reach it",
        "Clients that are refused are told the details, the names of all namespaces among them.",
        "Leave debug out in production.",
        _API,
    ),
    Entry(
        "SG033",
        ERROR,
        "Tokens of a public key are accepted whoever they are for",
        "The owner of a private key mostly signs for several services. Without issuer and audience, a token for any "
        "of them opens this one (RFC 8725 sections 3.8 and 3.9).",
        "Add issuer=… and audience=… to JWTAuth.",
        f"{_AUTHENTICATION}#what-is-checked",
    ),
    Entry(
        "SG034",
        WARNING,
        "A token is taken from the query string",
        "URLs are written to the access logs of every proxy, and tokens in them too.",
        "Let clients send the token in the payload: io(url, { auth: { token } }).",
        f"{_AUTHENTICATION}#where-the-token-is",
    ),
    Entry(
        "SG035",
        WARNING,
        "Tokens without an end are accepted",
        "A stolen token without exp works for ever.",
        'Write require=("exp", "sub") and let the issuer set exp.',
        f"{_AUTHENTICATION}#what-is-checked",
    ),
    Entry(
        "SG036",
        ERROR,
        "A Socket.IO server has no guard",
        "Everybody may join every namespace without a token.",
        "Write SocketGuard.protect(sio, auth=JWTAuth(…)) right after the server is made.",
        "docs/quickstart.md",
    ),
    Entry(
        "SG037",
        ERROR,
        "The secret is the published one for tests",
        "socketguard.testing.TEST_SECRET stands in the source of this package: anybody can sign any token with it.",
        'Make a secret of your own: python -c "import secrets; print(secrets.token_urlsafe(48))"',
        f"{_AUTHENTICATION}#keys-and-algorithms",
    ),
    Entry(
        "SG040",
        ERROR,
        "A release of python-socketio or python-engineio has published weaknesses",
        "The advisories, by their ids, say what an attacker can do.",
        "Upgrade the package.",
        _API,
    ),
    Entry(
        "SG041",
        ERROR,
        "engineio_logger prints every packet",
        "The tokens and session ids of all clients are in the log then.",
        "Leave engineio_logger out in production, or add socketguard.logs.RedactFilter() to its handlers.",
        "docs/logs.md#other-peoples-lines",
    ),
    Entry(
        "SG042",
        ERROR,
        "Several workers without a client manager",
        "Each worker knows only its own clients: what one of them emits reaches nobody who is connected to another.",
        'Write AsyncServer(client_manager=socketio.AsyncRedisManager("redis://…")), or run one worker.',
        _API,
    ),
    Entry(
        "SG043",
        ERROR,
        "Several workers on one port, with long-polling",
        "The requests of a polling session must all reach the worker that opened it. Workers that share a port get "
        "them at random, so that most sessions break with 'Invalid session' (400).",
        'Run one worker for each port behind a proxy with sticky sessions, or allow transports=["websocket"] only.',
        _API,
    ),
    Entry(
        "SG044",
        ERROR,
        "A client manager that only emits",
        "With write_only=True the server does not listen to the queue: what other processes emit never reaches its "
        "clients.",
        "Leave write_only out where clients connect; it is for processes that only emit.",
        _API,
    ),
    Entry(
        "SG050",
        WARNING,
        "A proxy is not in trusted_proxies",
        "All clients behind it look like one, so that the limits per address are off for it.",
        "Add its address or network to trusted_proxies.",
        "docs/limits.md#behind-proxies",
    ),
    Entry(
        "SG051",
        WARNING,
        "Revocations are kept in the memory of one process",
        "They are lost at a restart, and other workers don't know them.",
        "Pass a store that the workers share, or run one worker with tokens that live for minutes.",
        "docs/lifetime.md#stores",
    ),
    Entry(
        "SG052",
        WARNING,
        "A drain takes longer than container runtimes wait",
        "docker stop and Compose kill a container 10 seconds after its SIGTERM; who is not sent away by then is cut.",
        "Write over=8 or less, or give the container more time.",
        "docs/draining.md#what-happens",
    ),
    Entry(
        "SG053",
        WARNING,
        "fail_open=True: without an answer of the store, revoked tokens are accepted",
        "Whoever can make the store unreachable can use a revoked token.",
        "Leave fail_open out: clients are then refused with keys_unavailable and come back by themselves.",
        "docs/lifetime.md#stores",
    ),
)

CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.id: entry for entry in _ENTRIES})
"""All entries by id, in their order."""


def severity(id_: str) -> Severity:
    """How grave a finding is.

    Args:
        id_: its id. One that is not in the catalogue counts as an error, so that nothing goes by unseen.
    """
    entry = CATALOGUE.get(id_)
    return ERROR if entry is None else entry.severity
