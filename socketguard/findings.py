"""Every configuration warning: what it is about, why it matters, what to do. The one place for these texts.

A row of `KINDS` explains the warning (``socketguard check --explain SG012``) and holds the templates of the text and of
the fix for one case; `finding` fills them in. This module is pure.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

__all__ = ["ERROR", "KINDS", "WARNING", "Finding", "Kind", "Severity", "finding"]

Severity: TypeAlias = Literal["error", "warning"]

ERROR: Final = "error"
"""Clients can't connect or don't stay, messages are lost, or somebody gets in or reads what is not meant for them."""

WARNING: Final = "warning"
"""It works, at a price or with a risk that may be meant: a person should have decided it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: a stable id such as ``SG001``, what was found, and what to write instead."""

    id: str
    text: str
    fix: str

    @property
    def kind(self) -> Kind:
        """What is said of every finding of this id."""
        return KINDS[self.id]


def finding(id_: str, case: str = "", /, **values: object) -> Finding:
    """A finding of a kind, or of one of its cases, with the values of its templates."""
    kind = KINDS[id_]
    text, fix = kind.cases[case] if case else (kind.text, kind.fix)
    return Finding(id_, text.format_map(values), (fix or kind.fix).format_map(values))


@dataclass(frozen=True, slots=True)
class Kind:
    """One configuration warning, with the templates of its findings."""

    severity: Severity
    title: str
    why: str
    """What happens when it stays."""
    text: str = ""
    fix: str = ""
    docs: str = "docs/api.md#configuration-warnings"
    """The page that says more, as a path in the repository."""
    cases: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Templates of text and fix for what isn't the usual case; a fix of "" is the usual one."""
    general: str = ""
    """What to do, where ``fix`` says it only with values."""
    id: str = ""
    """The key in `KINDS`; never reused."""

    @property
    def advice(self) -> str:
        """What to do, in whatever case; names in braces stand for the values."""
        parts = string.Formatter().parse(self.general or self.fix)
        return "".join(literal + (f"{{{name}}}" if name else "") for literal, name, _, _ in parts)


_error, _warning = partial(Kind, ERROR), partial(Kind, WARNING)

_HEARTBEAT = "docs/heartbeat.md#what-is-checked"
_NAMESPACES = "docs/namespaces.md#which-exist"
_AUTHENTICATION = "docs/authentication.md"
_WHOLE_SECONDS = "Write whole seconds, such as 25."

_KINDS = {
    "SG001": _error(
        "The ping interval is not below an idle limit on the path",
        "A proxy cuts connections on which nothing is sent for a while. Between two pings nothing is sent, so that "
        "healthy clients are cut again and again, with 'transport close' as the reason.",
        "The interval of {interval} s is not below the smallest idle limit: {limit} cuts healthy connections between "
        "two pings. Over WebSocket, pings of the application server may hide that.",
        "{fix}",
        docs=_HEARTBEAT,
        general="Use Heartbeat.behind(…) with every proxy on the path, or raise the proxy's limit above "
        "interval + timeout.",
    ),
    "SG002": _warning(
        "A limit on the length of answers is too short for long-polling",
        "Over long-polling the server holds a GET open until the next ping. A proxy that answers before that with an "
        "error of its own ends the session.",
        "The interval of {interval} s is not below the smallest limit of answers: {limit} cuts the GET that "
        "long-polling holds open until the next ping.",
        "{fix} Or allow transports=['websocket'] only.",
        docs=_HEARTBEAT,
        cases={
            "timeout": (
                "interval + timeout is {total} s, above the smallest limit of answers: {limit}. Healthy clients don't "
                "meet it, but a GET whose client has stopped answering is held that long, and ends as an error of the "
                "proxy.",
                "{fix}",
            )
        },
        general='Use a shorter interval, raise the limit, or allow transports=["websocket"] only.',
    ),
    "SG003": _warning(
        "A hop ends every connection after a fixed time",
        "The connection ends whether it is busy or not; no heartbeat helps.",
        "{limit} ends connections whether or not they are busy. No heartbeat helps against it.",
        "Raise {setting} as far as {product} allows, and let clients reconnect and take up their state again.",
        docs=_HEARTBEAT,
        general="Raise the limit as far as the product allows, and let clients reconnect and take up their state "
        "again.",
    ),
    "SG004": _warning(
        "A time of the heartbeat is a fraction of a second, or no number",
        "python-engineio announces the interval to clients in whole seconds, so that they expect pings sooner than "
        "they come.",
        "{name} is {value}.",
        _WHOLE_SECONDS,
        docs=_HEARTBEAT,
        cases={
            "interval": (
                "ping_interval is {told}, but python-engineio announces whole seconds: clients are told {announced} s, "
                "and expect pings sooner than they come.",
                "ping_interval={whole}, without a grace period; or heartbeat=Heartbeat().",
            ),
            "timeout": (
                "ping_timeout is {timeout} s: a fraction of a second is less than a mobile network may take.",
                "ping_timeout=20, or heartbeat=Heartbeat().",
            ),
        },
        general="Write whole seconds, such as Heartbeat(25, 20).",
    ),
    "SG005": _error(
        "A time of the heartbeat is zero or negative",
        "Clients are pinged without a pause, or are given up at once.",
        "{name} is {value}.",
        _WHOLE_SECONDS,
        docs=_HEARTBEAT,
        general="Write whole seconds above zero, such as Heartbeat(25, 20).",
    ),
    "SG006": _error(
        "A time of the heartbeat looks like milliseconds",
        "The JavaScript server counts in milliseconds, python-socketio in seconds: 25000 is seven hours without a "
        "ping, and every proxy cuts the connection before that.",
        "{name}: {value} looks like milliseconds.",
        "Write {seconds}, in seconds.",
        docs=_HEARTBEAT,
        cases={"day": ("{name} is more than a day, even in milliseconds.", "Write seconds, such as 25.")},
        general="Write seconds: 25 instead of 25000.",
    ),
    "SG007": _warning(
        "Interval and timeout together come too close to an idle limit",
        "A proxy may cut a dead connection before Engine.IO notices that it is dead. The log then says "
        "'transport close' where it should say 'ping timeout', and hides which of the two it was.",
        "interval + timeout is {total} s, which leaves less than {margin} s to the smallest idle limit: {limit}. A "
        'dead connection may be cut there first, and is then logged as "transport close" instead of "ping timeout".',
        "{fix}",
        docs=_HEARTBEAT,
        general="Use Heartbeat.behind(…), which leaves 5 seconds, or raise the limit.",
    ),
    "SG008": _warning(
        "uvicorn's own WebSocket pings end connections that the heartbeat would keep",
        "uvicorn pings every WebSocket too, and closes those whose pong is late by its own figures.",
        fix="ws_ping_timeout={timeout} or higher, or ws_ping_interval=None to leave the pings to the heartbeat.",
        docs="docs/heartbeat.md#uvicorns-own-pings",
        cases={
            "zero": (
                "ws_ping_timeout={ping_timeout} makes uvicorn close every WebSocket at its first ping; it does not "
                "switch the pings off.",
                "",
            ),
            "impatient": (
                "uvicorn closes a WebSocket whose pong takes longer than ws_ping_timeout={ping_timeout} s, so the "
                'timeout of {timeout} s never counts; the reason in the log is "transport close".',
                "",
            ),
            "early": (
                "uvicorn gives up a silent WebSocket after ws_ping_interval + ws_ping_timeout = {total} s, before the "
                'first ping of the heartbeat at {interval} s; the reason in the log is "transport close".',
                "ws_ping_interval={interval} or higher, or ws_ping_interval=None to leave the pings to the heartbeat.",
            ),
        },
        general="Raise ws_ping_timeout or ws_ping_interval of uvicorn, or write ws_ping_interval=None.",
    ),
    "SG009": _error(
        "A product on the path can't carry long-polling, or no Socket.IO at all",
        "Stock clients begin with long-polling. Where it can't pass, they never connect.",
        "{product} can't carry HTTP long-polling. {note}",
        "transports=['websocket'], at the server and in every client.",
        docs=_HEARTBEAT,
        cases={
            "socketio": (
                "{product} can't carry Socket.IO. {note}",
                "Put a load balancer that forwards WebSockets in its place; transports=['websocket'] is no help.",
            )
        },
        general='Allow transports=["websocket"] at the server and in every client, or put another product there.',
    ),
    "SG010": _error(
        "A namespace is declared to the guard but has no handler",
        "python-socketio refuses namespaces without handlers, so that nobody can join it. Mostly the module with the "
        "handlers is not imported before the server starts.",
        "{name!r} is declared to the guard, but python-socketio has no handler for it in this process: nobody can "
        "join it",
        'import the module with @sio.on("connect", namespace="{handled}") before the server starts, or remove the name '
        "from namespaces=",
        docs=_NAMESPACES,
    ),
    "SG011": _warning(
        "A namespace has handlers but is not declared to the guard",
        "A list of namespaces is the truth: what is not in it can't be joined, and is answered as unknown.",
        "handlers are registered for {name!r}, but namespaces= does not declare it: nobody can join it",
        'add it: namespaces=[…, "{name}"]',
        docs=_NAMESPACES,
    ),
    "SG012": _error(
        "A namespace has no leading slash",
        "Clients always send names with a slash, so that handlers without one are never reached.",
        "handlers are registered for namespace={name!r}, which has no leading slash: no client can reach them",
        'write namespace="/{name}" where the handlers are registered',
        docs=_NAMESPACES,
    ),
    "SG013": _warning(
        "The server's namespaces option is one string",
        "python-socketio looks for the asked name within that string, so that parts of it are taken for namespaces.",
        "the server was made with namespaces={name!r}, one string, in which python-socketio looks for parts; the guard "
        "takes it for that one name",
        "write namespaces=[{name!r}]",
        docs=_NAMESPACES,
        general='Write a list: AsyncServer(namespaces=["/messages"]).',
    ),
    "SG014": _error(
        'Handlers for namespace="*", but nothing says for which names',
        "The guard admits no name that nobody has declared, so that no namespace can be joined through these handlers.",
        'handlers are registered for namespace="*", but nothing says which names they are for: no name can be joined '
        "through them",
        'declare the names, such as namespaces=["/messages", NamespacePolicy("/tenant-{{tenant}}", '
        'claims={{"tenant_id": "{{tenant}}"}})]',
        docs=_NAMESPACES,
    ),
    "SG015": _warning(
        'Function-style handlers for namespace="*" go before class-based namespaces',
        "python-socketio asks functions first: the methods of the classes never run for those events.",
        'the handlers of namespace="*" ({events}) get those events before the class-based namespaces {namespaces} do',
        'register a class-based AsyncNamespace("*") instead of functions, or name the namespaces',
        docs=_NAMESPACES,
    ),
    "SG016": _warning(
        "The admin namespace of instrument() has no policy",
        "The admin interface has a login of its own, not a token. Without a policy nobody can reach it, or it asks for "
        "a token that its page doesn't send.",
        "instrument() put its admin interface at {name!r}, with a login of its own; without a policy nobody can reach "
        "it",
        'add NamespacePolicy({name!r}, token="none") to namespaces and give instrument() a login, or NamespacePolicy('
        '{name!r}, scopes={{"admin"}}) where its clients send a token',
        docs="docs/namespaces.md#the-admin-interface",
        cases={
            "undeclared": (
                "instrument() put its admin interface at {name!r}, with a login of its own; without a policy the guard "
                "asks for a token there too",
                "",
            )
        },
        general='Add NamespacePolicy("/admin", token="none") to namespaces, and give instrument() a login.',
    ),
    "SG017": _error(
        "A handler runs without the requires() that was written for it",
        "sio.on registers what it decorates. A requires() above it reaches the handler all the same, but not through a "
        "decorator between them that does not say what it wraps: events are then dispatched to whoever sends them.",
        "the handler of {event!r} in {namespace!r} runs without what requires() asks for: it was registered before, "
        "and a decorator between the two hides it",
        "write @guard.requires(…) right below @sio.on(…), or functools.wraps into the decorator between them",
        docs="docs/limits.md#per-event",
    ),
    "SG020": _warning(
        "Middleware of an inner application never sees Socket.IO requests",
        "socketio.ASGIApp(sio, other_asgi_app=app) takes the requests of Socket.IO before app and its middleware.",
        "{middleware} of the application inside socketio.ASGIApp(sio, other_asgi_app=app) never sees Socket.IO "
        "requests: ASGIApp takes them before",
        "for Socket.IO use the guard's own options (allowed_origins, trusted_proxies); wrap the ASGIApp itself with "
        "middleware that must see everything",
    ),
    "SG021": _error(
        "Socket.IO is mounted where no request matches it",
        "Since Starlette 0.33 a mounted application sees the whole path, so that socketio_path must hold the prefix "
        "too. As it is, every client gets 404.",
        "a socketio.ASGIApp with socketio_path={path!r} is mounted at {prefix!r}, where no request matches it: since "
        "Starlette 0.33 a mounted application sees the whole path",
        "write Mount({prefix!r}, ASGIApp(sio, socketio_path={full_path!r})) and give clients path: {client_path!r}",
        general='Write Mount("/ws", ASGIApp(sio, socketio_path="/ws/socket.io")) and give clients '
        'path: "/ws/socket.io/".',
    ),
    "SG022": _error(
        "cors_allowed_origins=[] switches the origin check of WebSockets off",
        "It looks like 'nobody', but python-engineio then looks at no Origin header: any page may connect.",
        "cors_allowed_origins=[] switches the origin check of WebSockets off: any page may connect",
        'write SocketGuard(…, allowed_origins=["https://your-page.example"]) and leave cors_allowed_origins out',
    ),
    "SG024": _error(
        "Every origin is allowed, together with credentials",
        "Any page that a user visits may connect with that user's cookies, and read the answers.",
        'every origin ("*") is allowed together with credentials: any page may connect with the cookies of its visitor '
        "and read the answers",
        "list the origins of your pages in allowed_origins, or make the server with cors_credentials=False and without "
        "a cookie",
    ),
    "SG025": _error(
        "The guard is where it never sees the traffic",
        "It guards another server than the one that is served, or is built only when the inner application gets its "
        "first request: until then, or for ever, clients join without a token.",
        "a SocketGuard guards another AsyncServer than the one that the application serves: it sees none of its "
        "clients",
        "make the server once, import it wherever it is needed, and pass the same one to the guard and to the ASGIApp",
        docs="docs/api.md#socketguard",
        cases={
            "inner": (
                "SocketGuard is middleware of the {application} inside socketio.ASGIApp(sio, other_asgi_app=app): it "
                "is built only when that application is called first, and until then everybody may join without a "
                "token",
                "write SocketGuard.protect(sio, auth=…) where the server is made, and take the middleware out",
            )
        },
        general="Write SocketGuard.protect(sio, auth=…) right after the server is made, wherever it is mounted.",
    ),
    "SG026": _warning(
        "No Socket.IO endpoint is found in the application",
        "The server is mounted later, or behind something that can't be looked through, or not at all: then every "
        "client gets 404.",
        "no socketio.ASGIApp is found in {application}, so that it can't be seen where clients reach it",
        "check that the application that is served mounts socketio.ASGIApp(sio) with this very server",
        docs="docs/api.md#socketguard",
    ),
    "SG027": _error(
        "Nobody answers where the endpoint is mounted",
        "Something in front of it in the application takes the requests: every client gets 404.",
        "the application was asked for a session at {path} and answered {answer}",
        "look for a route or a mount of the same path before it, or a middleware that answers itself",
        docs="docs/api.md#socketguard",
    ),
    "SG030": _warning(
        "auth=None: no token is asked for",
        "Everybody may join every namespace.",
        "auth=None: everybody may join, without a token",
        "write auth=JWTAuth(…)",
        docs="docs/authentication.md#without-a-token",
    ),
    "SG031": _warning(
        "debug=True where others reach it",
        "Clients that are refused are told the details, the names of all namespaces among them.",
        "debug=True: refused clients are told the details and all namespaces",
        "leave debug out wherever others reach the server",
        cases={
            "served": (
                "debug=True on {host!r}: refused clients are told the details and all namespaces",
                "leave debug out, or serve on 127.0.0.1",
            )
        },
    ),
    "SG033": _error(
        "Tokens of a public key are accepted whoever they are for",
        "The owner of a private key mostly signs for several services. Without issuer and audience, a token for any "
        "of them opens this one (RFC 8725 sections 3.8 and 3.9).",
        "JWTAuth verifies with a public key but checks no {missing}: whoever owns the private key also signs for other "
        "services, and their tokens are accepted here",
        "{fix}",
        docs=f"{_AUTHENTICATION}#what-is-checked",
        general="Add issuer=… and audience=… to JWTAuth.",
    ),
    "SG034": _warning(
        "A token is taken from the query string",
        "URLs are written to the access logs of every proxy, and tokens in them too.",
        "sources has {queries}: a token in the URL ends in access logs and browser histories (RFC 6750 section 5.3)",
        'let clients send it as auth: {{token}}, and write sources=("payload", "header")',
        docs=f"{_AUTHENTICATION}#where-the-token-is",
    ),
    "SG035": _warning(
        "Tokens without an end are accepted",
        "A stolen token without exp works for ever.",
        "require leaves out exp: a stolen token without an end works for ever",
        'write require=("exp", "sub") and let the issuer set exp',
        docs=f"{_AUTHENTICATION}#what-is-checked",
    ),
    "SG036": _error(
        "A Socket.IO server has no guard",
        "Everybody may join every namespace without a token.",
        "the Socket.IO server{where} has no guard: everybody may join without a token",
        "write SocketGuard.protect(sio, auth=JWTAuth(…)) right after the server is made",
        docs="docs/quickstart.md",
        cases={"unfit": ("the Socket.IO server{where} has no guard: everybody may join without a token", "{reason}")},
    ),
    "SG037": _error(
        "The secret is the published one for tests",
        "socketguard.testing.TEST_SECRET stands in the source of this package: anybody can sign any token with it.",
        "JWTAuth verifies with socketguard.testing.TEST_SECRET: anybody can sign tokens with it",
        "read a secret of your own, JWTAuth(os.environ['JWT_SECRET'], …)",
        docs=f"{_AUTHENTICATION}#keys-and-algorithms",
        general='Make a secret of your own: python -c "import secrets; print(secrets.token_urlsafe(48))"',
    ),
    "SG040": _warning(
        "A package that the service stands on has published weaknesses",
        "The advisories, by their ids, say what an attacker can do.",
        "{package} {installed} has known weaknesses ({advisories}, and others fixed up to {fixed})",
        "pip install '{package}>={fixed}'",
        general="Upgrade the package.",
    ),
    "SG041": _error(
        "engineio_logger prints every packet",
        "The tokens and session ids of all clients are in the log then.",
        "engineio_logger prints every packet, and with them the tokens and session ids of all clients",
        "leave engineio_logger out in production, or add socketguard.logs.RedactFilter() to its handlers",
        docs="docs/logs.md#other-peoples-lines",
    ),
    "SG042": _error(
        "Several workers without a client manager",
        "Each worker knows only its own clients: what one of them emits reaches nobody who is connected to another.",
        "{workers} workers, but the server has no client manager that joins them: what one emits reaches none of the "
        "clients of the others",
        "write AsyncServer(client_manager=socketio.AsyncRedisManager('redis://…')), or run one worker",
    ),
    "SG043": _error(
        "Several workers on one port, with long-polling",
        "The requests of a polling session must all reach the worker that opened it. Workers that share a port get "
        "them at random, so that most sessions break with 'Invalid session' (400).",
        "{workers} workers on one port, and long-polling is allowed: the requests of a session reach workers that "
        "don't know it",
        "run one worker for each port behind a proxy with sticky sessions, or write "
        "AsyncServer(transports=['websocket'])",
    ),
    "SG044": _error(
        "A client manager that only emits",
        "With write_only=True the server does not listen to the queue: what other processes emit never reaches its "
        "clients.",
        "the client manager was made with write_only=True, but this server has clients: what other processes emit "
        "never reaches them",
        "leave write_only out here; it is for processes that only emit",
    ),
    "SG045": _warning(
        "Telemetry records the session ids of Socket.IO",
        "The query of each request goes into its span, and with it the id of the Engine.IO session: whoever reads the "
        "traces can read and write in the name of a client that is connected by polling, and has a token that was sent "
        "in the query.",
        "the telemetry of the {application} puts the query of each request below {path} into its spans, and with it "
        "the secret id of the session",
        "leave the endpoint out: OTEL_PYTHON_EXCLUDED_URLS={path} for OpenTelemetry's middleware, or "
        "FastAPI(telemetry={{'exclude': lambda scope: scope['path'].startswith({path!r})}}) for FastAPI's own",
        docs="docs/logs.md#traces",
    ),
    "SG050": _warning(
        "A proxy is not in trusted_proxies",
        "All clients behind it look like one, so that the limits per address are off for it.",
        "{address} forwards the requests of others (X-Forwarded-…) but is not in trusted_proxies: all clients behind "
        "it look like one, so that the limits per address are off for it",
        "write trusted_proxies=[{address!r}], or its network",
        docs="docs/limits.md#behind-proxies",
        cases={
            "unix": (
                "the server listens on a Unix socket, where no client has an address: the limits per address are off",
                "write trusted_proxies=['unix'], and let the proxy set X-Forwarded-For",
            )
        },
    ),
    "SG051": _warning(
        "Revocations are kept in the memory of one process",
        "They are lost at a restart, and other workers don't know them.",
        "revocations are kept in the memory of this process: they are lost at a restart, and other workers don't know "
        "them",
        "run one worker with tokens that live for minutes, or pass a store that the workers share",
        docs="docs/lifetime.md#stores",
    ),
    "SG052": _warning(
        "A drain takes longer than container runtimes wait",
        "docker stop and Compose kill a container 10 seconds after its SIGTERM; who is not sent away by then is cut.",
        "a drain over {over:g} s: container runtimes kill a container 10 s after its SIGTERM",
        "write over={longest:g} or less, or give the container more time (stop_grace_period in Compose, "
        "terminationGracePeriodSeconds in Kubernetes)",
        docs="docs/draining.md#what-happens",
    ),
    "SG053": _warning(
        "fail_open=True: without an answer of the store, revoked tokens are accepted",
        "Whoever can make the store unreachable can use a revoked token.",
        "fail_open=True: while the store of revocations does not answer, revoked tokens are accepted",
        "leave fail_open out; clients are then refused with keys_unavailable and come back by themselves",
        docs="docs/lifetime.md#stores",
    ),
    "SG054": _warning(
        "report_only=True: nobody is refused for a credential",
        "What the guard would do is logged and not done: everybody joins as without it.",
        "report_only=True: no credential, namespace policy or expiry keeps anybody out",
        "look at socketguard report app.log, and take report_only out when it shows nobody any more",
        docs="docs/migration.md#look-first",
    ),
}

KINDS: Mapping[str, Kind] = MappingProxyType({id_: replace(kind, id=id_) for id_, kind in _KINDS.items()})
"""All kinds by id, in their order."""
