"""The only package that touches python-socketio and python-engineio.

It replaces, on one server object, what is named in `Seam.attach`. Decisions are taken on decoded packets, before
python-socketio admits anybody; what python-socketio then does is done by python-socketio.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from typing import Any, Protocol

import engineio
import socketio

from socketguard.admission import subject_key
from socketguard.connection import Connection, Session, bound_connection
from socketguard.diagnosis.delivery import Delivery
from socketguard.diagnosis.startup import ServerFacts
from socketguard.errors import ConfigurationError, Refusal, RejectCode, new_ref
from socketguard.limits.counters import Ledger, Refusals
from socketguard.limits.deadline import Escaped, Overdue, is_ours, run_until, settled
from socketguard.limits.expiry import Lifetime
from socketguard.limits.rates import AddressBudget
from socketguard.logs.report import Report

from .connect import (
    app_message,
    bypassed_handlers,
    callback_frames,
    cancellation_proof,
    connect_handler,
    connect_holders,
    is_shielded,
    put_connect_handler,
    raised_by_the_call,
    unchecked_methods,
)
from .dispatch import EventRefused, required
from .emits import event_names, handles, is_shared, watch_early_events, watch_server
from .handshake import Gate
from .packets import ATTRIBUTE
from .sessions import Sessions

__all__ = [
    "OWN_EVENTS",
    "Admitted",
    "Environments",
    "Seam",
    "ServedNames",
    "SessionIds",
    "facts",
    "is_shared",
    "packet_class_for",
    "require_server",
]


class Environments(dict[str, Any]):
    """Stands in for ``server.environ``, which has an entry for exactly as long as a session is open."""

    def __init__(self, sessions: Sessions, *args: Any) -> None:
        super().__init__(*args)
        self._sessions = sessions

    def __setitem__(self, eio_sid: str, environ: Any) -> None:
        super().__setitem__(eio_sid, environ)
        session: Session | None = environ["asgi.scope"].get("socketguard")
        if session is not None:
            session.eio_sid = eio_sid
            self._sessions.opened(session)

    def __delitem__(self, eio_sid: str) -> None:
        session: Session | None = self[eio_sid]["asgi.scope"].get("socketguard")
        super().__delitem__(eio_sid)
        if session is not None:
            self._sessions.closed(session)


class SessionIds:
    """Stands in for python-engineio's generator of session ids: it knows its own again, without keeping any.

    An id is as long as before: 96 random bits, and 24 bits of a keyed digest of them in place of a counter. So an id of
    another process, or of this one before its restart, is told from one that has ended.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def new(self) -> str:
        """Make an id."""
        body = secrets.token_bytes(12)
        return base64.urlsafe_b64encode(body + self._digest(body)).decode()

    def issued(self, eio_sid: str) -> bool:
        """Whether an id was made here. One in 16 million others is taken for it."""
        try:
            made = base64.b64decode(eio_sid, altchars=b"-_", validate=True)
        except ValueError:
            return False
        return len(eio_sid) == 20 and hmac.compare_digest(made[12:], self._digest(made[:12]))

    def _digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=3).digest()


class Admitted:
    """Stands in for ``server.namespaces``: python-socketio admits what is being admitted by the guard right now.

    It is not ``"*"``: were the guard's wrapper ever lost, that would open every name to everybody.
    """

    def __contains__(self, name: object) -> bool:
        connection = bound_connection.get()
        return connection is not None and connection.pending is not None and connection.namespace == name


def packet_class_for(original: Any) -> Any:
    """The packet class to use instead of a server's own.

    With msgpack python-socketio writes a DISCONNECT with ``data: null``. JavaScript's parser takes that for an error,
    so that a client that was sent away comes back at once.
    """
    if getattr(original, "__module__", None) != "socketio.msgpack_packet" or not hasattr(original, "_to_dict"):
        return original

    class Packet(original):  # type: ignore[misc]
        def _to_dict(self) -> dict[str, Any]:
            found: dict[str, Any] = super()._to_dict()
            if found.get("data") is None:
                found.pop("data", None)
            return found

    return Packet


# The two private names, with the parameters they had in every release from 5.8 to 5.18.1.
_SIGNATURES = {"_handle_connect": ("eio_sid", "namespace", "data"), "_trigger_event": ("event", "namespace")}


class ServedNames:
    """What python-socketio would admit, looked up live: see `socketguard.namespaces.Served`."""

    def __init__(self, server: Any) -> None:
        self._server = server
        declared = server.namespaces
        # A string would be searched for substrings by python-socketio; here it is the one name it was meant to be.
        self.text = declared if isinstance(declared, str) and declared != "*" else None
        self.wildcard: bool = declared == "*"
        self._listed = frozenset([declared] if isinstance(declared, str) else declared) - {"*"}

    def serves(self, name: str) -> bool:
        """Whether there are handlers for exactly this name, or the server was made with it."""
        server = self._server
        return name != "*" and (name in server.handlers or name in server.namespace_handlers or name in self._listed)

    @property
    def catch_all(self) -> bool:
        """Whether there are handlers for ``namespace="*"``."""
        return "*" in self._server.handlers or "*" in self._server.namespace_handlers

    def names(self) -> tuple[str, ...]:
        """All exact names that somebody chose: python-socketio lists ``/`` by itself when nothing else is listed."""
        server = self._server
        chosen = frozenset() if self._listed == {"/"} else self._listed
        return tuple(sorted({*server.handlers, *server.namespace_handlers, *chosen} - {"*"}))

    @property
    def count(self) -> int:
        """How many names and handlers there are: it grows when handlers come later."""
        return len(self._server.handlers) + len(self._server.namespace_handlers)


# Read when the module is: the metadata is on disk, and nothing may wait for a disk while the loop runs.
VERSIONS = {name: metadata.version(name) for name in ("python-socketio", "python-engineio")}


def require_server(server: object) -> Any:
    """Check that a server can be guarded.

    Raises:
        ConfigurationError: it isn't a `socketio.AsyncServer` for ASGI whose parts are as this release knows them.
    """
    if isinstance(server, socketio.Server):
        raise ConfigurationError(
            "found a synchronous socketio.Server; socketguard guards asynchronous ones: write "
            "socketio.AsyncServer(async_mode='asgi') and serve it with socketio.ASGIApp",
            option="server",
        )
    if isinstance(server, engineio.AsyncServer):
        raise ConfigurationError(
            "found an engineio.AsyncServer without Socket.IO; write socketio.AsyncServer(async_mode='asgi')",
            option="server",
        )
    if not isinstance(server, socketio.AsyncServer):
        raise ConfigurationError(
            f"server is a {type(server).__name__}; pass the socketio.AsyncServer of your application", option="server"
        )
    if server.async_mode != "asgi":
        raise ConfigurationError(
            f"the server runs in async_mode {server.async_mode!r} (python-socketio chooses it when the package is "
            "installed); write socketio.AsyncServer(async_mode='asgi')",
            option="server",
        )
    if server.always_connect:
        raise ConfigurationError(
            "the server was made with always_connect=True: it accepts clients before they are checked, and JavaScript "
            "clients that are refused afterwards reconnect for ever; leave always_connect out",
            option="server",
        )
    if getattr(server, ATTRIBUTE, None) is None:
        _check_parts(server)
    return server


def _check_parts(server: Any) -> None:
    missing = [name for name in ("handle_request", "disconnect") if not _is_async(server, name)]
    for name, expected in _SIGNATURES.items():
        if not _is_async(server, name):
            missing.append(name)
            continue
        parameters = tuple(inspect.signature(getattr(type(server), name)).parameters)[1 : 1 + len(expected)]
        if parameters != expected:
            missing.append(f"{name}{parameters}")
    find = getattr(server, "_get_event_handler", None)
    if find is None or tuple(inspect.signature(find).parameters) != ("event", "namespace", "args"):
        missing.append("_get_event_handler")
    if not inspect.iscoroutinefunction(getattr(server.eio, "send_packet", None)):
        missing.append("eio.send_packet")
    if type(server.environ) is not dict:
        missing.append("environ")
    missing += [f"eio.handlers[{name!r}]" for name in ("message",) if name not in server.eio.handlers]
    if missing:
        found = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
        raise ConfigurationError(
            f"this release of socketguard does not know this python-socketio: {', '.join(missing)} not as expected in "
            f"{found}; upgrade socketguard, or install a version that it supports",
            option="server",
        )


def _is_async(server: Any, name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(server, name, None))


def facts(server: Any, served: ServedNames) -> ServerFacts:
    """What the start-up checks look at."""
    eio = server.eio
    functions = server.handlers.get("*", {})
    return ServerFacts(
        versions=VERSIONS,
        ping_interval=eio.ping_interval,
        ping_timeout=eio.ping_timeout,
        ping_grace=eio.ping_interval_grace_period,
        transports=tuple(eio.transports),
        cors_allowed_origins=eio.cors_allowed_origins,
        cors_credentials=bool(eio.cors_credentials),
        cookie=eio.cookie is not None,
        namespaces_text=served.text,
        catch_all_events=tuple(sorted(functions)) if server.namespace_handlers else (),
        class_namespaces=tuple(sorted(set(server.namespace_handlers) - {"*"})),
        admin_namespaces=tuple(
            name for name, handlers in server.handlers.items() if _is_admin(handlers.get("connect"))
        ),
        packets_logged=eio.logger.isEnabledFor(logging.INFO),
        write_only=bool(getattr(server.manager, "write_only", False)),
        bypassed=tuple(bypassed_handlers(server)),
    )


def _is_admin(handler: Any) -> bool:
    handler = getattr(handler, "__wrapped__", handler)
    return type(getattr(handler, "__self__", None)).__name__ == "InstrumentedAsyncServer"


Refused = socketio.exceptions.ConnectionRefusedError
ASGIHandler = Callable[..., Awaitable[Any]]

_KEY = secrets.token_bytes(16)

_REASONS = frozenset(
    value for name, value in vars(socketio.AsyncServer.reason).items() if name.isupper() and isinstance(value, str)
)
_ENCODE = json.JSONEncoder(separators=(",", ":"), default=str).encode
_DEFAULT = socketio.packet.Packet
_RESERVED = frozenset({"connect", "disconnect"})
# What handlers mostly return, and nobody need await.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})
OWN_EVENTS = "socketguard:"
"""How the names of the guard's own events begin; the application never sees such an event from a client."""
REFRESH = "socketguard:refresh"

# Whose refusal is the client's own doing, and counts against its address. What the service or the application refuses
# for reasons of its own does not; nor does a limit, which would keep out who is out already.
_FAILURES = frozenset(
    {
        RejectCode.INVALID_NAMESPACE,
        RejectCode.CONNECT_MALFORMED,
        RejectCode.TOKEN_MISSING,
        RejectCode.TOKEN_MALFORMED,
        RejectCode.TOKEN_EXPIRED,
        RejectCode.TOKEN_NOT_YET_VALID,
        RejectCode.TOKEN_INVALID,
        RejectCode.TOKEN_REVOKED,
        RejectCode.INSUFFICIENT_SCOPE,
        RejectCode.ALREADY_CONNECTED,
    }
)
# How many sessions that were let go are remembered (their clients ask once more within a second or two), and how many
# events that have a handler.
_REMEMBERED = 4096
_HEARTBEAT = ("ping_interval", "ping_timeout", "ping_interval_grace_period")


class Decide(Protocol):
    """What the seam asks for each CONNECT: see `socketguard.admission.Admission.decide`."""

    async def __call__(
        self, connection: Connection, data: object, deadline: float, alive: Callable[[], bool]
    ) -> Refusal | None: ...


class Refresh(Protocol):
    """What the seam asks when a client sends a fresh token: see `socketguard.refresh.Refreshes.handle`."""

    async def __call__(self, connection: Connection, args: tuple[Any, ...]) -> dict[str, Any]: ...


class End(Protocol):
    """How the seam has a whole session ended: see `socketguard.endings.Endings.session`."""

    def __call__(self, session: Session, reason: str) -> object: ...


class _Pending:
    """What is known of a CONNECT while the application's connect handler runs."""

    __slots__ = ("deadline", "dropped", "ref", "refusal", "straggler", "vanished")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.dropped = False
        self.vanished = False
        self.ref = ""
        self.refusal: Refusal | None = None
        self.straggler: asyncio.Task[Any] | None = None


class Seam:
    """One guarded server.

    Args:
        server: a server that `require_server` let pass.
        served: what python-socketio would admit, read before anything is replaced.
        decide: asked for each CONNECT.
        refresh: asked for each fresh token.
        end: ends a session that the seam itself finds fault with.
        sessions: told which sessions there are.
        lifetime: told which connections there are.
        ledger: gets back what admission has taken.
        budget: told of refusals that count against an address.
        gate: knows whether the server is being emptied.
        report: told what happened.
        delivery: told of emits and events that may reach nobody.
        admission_timeout: seconds for everything between a CONNECT and its answer.
        log_claims: claims for log lines.
        debug: whether a refused client is told the details too.
        owner: what a second guard on the same server compares itself with.
    """

    def __init__(
        self,
        server: Any,
        *,
        served: ServedNames,
        decide: Decide,
        refresh: Refresh,
        end: End,
        sessions: Sessions,
        lifetime: Lifetime,
        ledger: Ledger,
        budget: AddressBudget,
        gate: Gate,
        report: Report,
        delivery: Delivery,
        admission_timeout: float,
        log_claims: tuple[str, ...],
        debug: bool = False,
        owner: object = None,
    ) -> None:
        self.server = server
        self.decide = decide
        self.refresh = refresh
        self.end = end
        self.sessions = sessions
        self.lifetime = lifetime
        self.ledger = ledger
        self.budget = budget
        self.gate = gate
        self.report = report
        self.delivery = delivery
        self.admission_timeout = admission_timeout
        self.log_claims = log_claims
        self.debug = debug
        self.owner = owner
        self.attached = False
        self.connections: dict[str, Connection] = {}
        self.pending: set[Connection] = set()
        self.accepted = 0
        self.refused: dict[str, int] = {}
        self.quarantine: set[asyncio.Task[Any]] = set()
        self._gone: dict[str, None] = {}
        self.served = served
        # A serializer of one's own may put anything into a text message; python-socketio's default never does.
        packet_class = server.packet_class
        self.strict_text = (packet_class.decode, packet_class.encode) == (_DEFAULT.decode, _DEFAULT.encode)
        self.handle_request = server.handle_request
        self._endpoint: ASGIHandler | None = None
        self._original_connect = server._handle_connect
        self._original_trigger = server._trigger_event
        self._original_find = server._get_event_handler
        self._original_disconnect = server.disconnect
        self._original_message = server.eio.handlers["message"]
        self._original_send = server.eio.send_packet
        self._original_namespaces = server.namespaces
        limit = sessions.limits.queue_bytes
        self._queue_bytes = math.inf if limit is None else limit
        self._shields: list[tuple[Any, Any]] = []
        self._class_namespaces: dict[int, Any] = {}
        self._restore: list[tuple[Any, str, Any]] = []
        self._undo: list[Callable[[], None]] = []
        self._ids = SessionIds()
        # Events that have a handler: to look for one each time would cost each event.
        self._handled: set[tuple[str, str]] = set()

    # Attaching

    @staticmethod
    def of(server: Any) -> Seam | None:
        """The seam of a server that is guarded."""
        found: Seam | None = getattr(server, ATTRIBUTE, None)
        return found

    def attach(self, endpoint: ASGIHandler) -> None:
        """Replace what the guard needs on the server object.

        Raises:
            ConfigurationError: clients are connected already; nobody has checked them.
        """
        server = self.server
        if any(True for _ in server.manager.get_namespaces()):
            raise ConfigurationError(
                "clients are connected to this server already; attach the guard before the application serves",
                option="server",
            )
        self._endpoint = server.handle_request = endpoint
        server._handle_connect = self._handle_connect
        server._trigger_event = self._trigger_event
        server._get_event_handler = self._get_event_handler
        server.disconnect = self._disconnect
        server.eio.on("message", self._handle_message)
        if self.sessions.limits.queue_bytes is not None or self.sessions.limits.send_timeout is not None:
            server.eio.send_packet = self._send_packet
        self._restore.append((server, "packet_class", server.packet_class))
        server.packet_class = packet_class_for(server.packet_class)
        self._restore.append((server.eio, "generate_id", server.eio.generate_id))
        server.eio.generate_id = self._ids.new
        server.environ = Environments(self.sessions, server.environ)
        server.namespaces = Admitted()
        self._undo = [
            watch_server(server, self.delivery, self.served, self.report),
            watch_early_events(server, self.delivery, self.report),
        ]
        setattr(server, ATTRIBUTE, self)
        self.attached = True

    def detach(self) -> None:
        """Put everything back. Wrappers that somebody else has wrapped in turn stay, and let everything through."""
        server = self.server
        self.attached = False
        for undo in reversed(self._undo):
            undo()
        for reason, fields in self.delivery.close():
            self.report.undelivered(reason, fields)
        for holder, name, ours, original in (
            (server, "handle_request", self._endpoint, self.handle_request),
            (server, "_handle_connect", self._handle_connect, self._original_connect),
            (server, "_trigger_event", self._trigger_event, self._original_trigger),
            (server, "_get_event_handler", self._get_event_handler, self._original_find),
            (server, "disconnect", self._disconnect, self._original_disconnect),
            (server.eio, "send_packet", self._send_packet, self._original_send),
        ):
            if getattr(holder, name) == ours:
                setattr(holder, name, original)
        server.eio.on("message", self._original_message)
        server.environ = dict(server.environ)
        self.sessions.clear()
        self.lifetime.close()
        server.namespaces = self._original_namespaces
        for holder, name, value in reversed(self._restore):
            setattr(holder, name, value)
        self._restore.clear()
        for holder, handler in self._shields:
            if is_shielded(connect_handler(holder)):
                put_connect_handler(holder, handler)
        self._shields.clear()
        delattr(server, ATTRIBUTE)

    def set_heartbeat(self, interval: int, timeout: int) -> None:
        """Set the heartbeat, in seconds; python-engineio reads it live."""
        eio = self.server.eio
        self._restore += [(eio, name, getattr(eio, name)) for name in _HEARTBEAT]
        eio.ping_interval, eio.ping_timeout, eio.ping_interval_grace_period = interval, timeout, 0

    def set_origins(self, origins: Any) -> None:
        """Set the origin policy of python-engineio."""
        eio = self.server.eio
        self._restore.append((eio, "cors_allowed_origins", eio.cors_allowed_origins))
        eio.cors_allowed_origins = origins

    def facts(self) -> ServerFacts:
        """What the start-up checks look at."""
        return facts(self.server, self.served)

    # What the endpoint needs to know

    @property
    def transports(self) -> Sequence[str]:
        """The transports that the server offers."""
        found: Sequence[str] = self.server.eio.transports
        return found

    @property
    def allowed_origins(self) -> Any:
        """python-engineio's own origin policy, as it is now."""
        return self.server.eio.cors_allowed_origins

    @property
    def credentials(self) -> bool:
        """Whether answers allow credentials (CORS)."""
        return bool(self.server.eio.cors_credentials)

    @property
    def max_body(self) -> int:
        """``max_http_buffer_size``, in bytes."""
        found: int = self.server.eio.max_http_buffer_size
        return found

    def session(self, eio_sid: str | None) -> Session | None:
        """The record of a living Engine.IO session."""
        environ = self.server.environ.get(eio_sid)
        if environ is None:
            return None
        found: Session | None = environ["asgi.scope"].get("socketguard")
        return found

    def issued(self, eio_sid: str) -> bool:
        """Whether this process has ever made this session id."""
        return self._ids.issued(eio_sid)

    def pinged(self, eio_sid: str) -> bool:
        """Whether a session has been sent a ping that it did not answer."""
        socket = self.server.eio.sockets.get(eio_sid)
        return socket is not None and bool(socket.last_ping)

    def alive(self, eio_sid: str) -> bool:
        """Whether a session exists and isn't about to end."""
        socket = self.server.eio.sockets.get(eio_sid)
        return socket is not None and not socket.closed and not socket.closing and eio_sid in self.server.environ

    def upgraded(self, eio_sid: str | None) -> bool:
        """Whether a session is carried by a WebSocket now."""
        socket = self.server.eio.sockets.get(eio_sid)
        return socket is not None and bool(socket.upgraded)

    def abandon_upgrade(self, eio_sid: str) -> None:
        """Let a session go on over polling after an upgrade that was cut; python-engineio would wait for it."""
        socket = self.server.eio.sockets.get(eio_sid)
        if socket is not None and not socket.upgraded:
            socket.upgrading = False

    def release_poll(self, eio_sid: str) -> None:
        """Forget a client that has left, and answer its waiting poll.

        python-engineio would hold the poll for a ping interval, and the session until its next round of checks.
        """
        socket = self.server.eio.sockets.get(eio_sid)
        if socket is not None and socket.closed and not socket.upgraded:
            self._answer_poll(socket)
            socket.queue.put_nowait(None)
            del self.server.eio.sockets[eio_sid]

    @staticmethod
    def _answer_poll(socket: Any) -> None:
        if socket.queue.empty():
            # No client expects an empty answer.
            socket.queue.put_nowait(engineio.packet.Packet(engineio.packet.NOOP))

    async def end_session(self, eio_sid: str, reason: str) -> None:
        """End a session at python-engineio: handlers of the application run, a waiting poll is answered at once."""
        session = self.session(eio_sid)
        if session is not None and session.ending is None:
            session.ending = reason
        socket = self.server.eio.sockets.get(eio_sid)
        if socket is not None:
            await socket.close(wait=False, reason=self.server.reason.SERVER_DISCONNECT)
            self.release_poll(eio_sid)

    async def let_go(self, eio_sid: str) -> None:
        """End a polled session so that its client comes back by itself.

        After Engine.IO's CLOSE packet python-socketio's client does not, and JavaScript's hears what else is in the
        answer only at its next connection. So the poll is answered without it, and the next one finds no session.
        """
        socket = self.server.eio.sockets.get(eio_sid)
        if socket is not None:
            self._gone[eio_sid] = None
            if len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
            # At once: the handlers of the application may take their time.
            self._answer_poll(socket)
            await socket.close(wait=False, abort=True, reason=self.server.reason.SERVER_DISCONNECT)
            self.release_poll(eio_sid)

    def was_let_go(self, eio_sid: str | None) -> bool:
        """Whether `let_go` has ended this session not long ago: then its client is about to find that out."""
        return eio_sid in self._gone

    def drop_queue(self, eio_sid: str) -> None:
        """Forget what waits for a client that does not read."""
        socket = self.server.eio.sockets.get(eio_sid)
        if socket is None:
            return
        ends = False
        while not socket.queue.empty():
            ends |= socket.queue.get_nowait() is None
            socket.queue.task_done()
        if ends:
            # With it python-engineio unlocks its writer, and then waits for that.
            socket.queue.put_nowait(None)

    def has_queue(self, eio_sid: str) -> bool:
        """Whether packets wait for the next poll of a client."""
        socket = self.server.eio.sockets.get(eio_sid)
        return socket is not None and not socket.queue.empty()

    async def tell(self, session: Session, namespace: str, event: str, data: dict[str, Any]) -> None:
        """Send an event of the guard's own."""
        if not self.alive(session.eio_sid):
            return
        packet = self.server.packet_class(socketio.packet.EVENT, data=[event, data], namespace=namespace)
        await self.server.eio.send(session.eio_sid, packet.encode())

    async def leave(self, connection: Connection) -> None:
        """Disconnect one namespace of a client; stock clients don't undo that."""
        await self._original_disconnect(connection.sid, connection.namespace, ignore_queue=True)

    def _send_packet(self, eio_sid: str, packet: Any) -> Awaitable[None]:
        # No coroutine function: it is called for each packet that goes to a client.
        environ = self.server.environ.get(eio_sid)
        session: Session | None = None if environ is None else environ["asgi.scope"].get("socketguard")
        if session is not None:
            data = packet.data
            size = len(data) if data.__class__ is str or data.__class__ is bytes else 0
            session.handed += size
            if session.handed - session.done > self._queue_bytes and self.sessions.too_much(session, size):
                self.end(session, "slow_consumer")
            if session.ending == "slow_consumer":
                return _nothing()
        sending: Awaitable[None] = self._original_send(eio_sid, packet)
        return sending

    # CONNECT

    async def _handle_connect(self, eio_sid: str, namespace: Any, data: Any) -> None:
        if not self.attached:
            await self._original_connect(eio_sid, namespace, data)
            return
        session = self.session(eio_sid)
        if session is None or not self.alive(eio_sid):
            return  # The session ended before its packet was read: python-socketio would keep such a client for ever.
        if self.gate.draining:
            self.end(session, "draining")
            return
        self.identify(session)
        name = namespace or "/"
        if not _is_name(name):
            raise ValueError("a CONNECT whose namespace is no text")
        connection = Connection(session, name)
        if name in session.connections or self.server.manager.sid_from_eio_sid(eio_sid, name) is not None:
            await self._refuse(eio_sid, connection, Refusal(RejectCode.ALREADY_CONNECTED))
            return
        if _is_undefined(data):
            data = None
        session.connections[name] = connection
        session.connects += 1
        self.pending.add(connection)
        try:
            if session.connects > 1:
                # Sixteen of them fit into one body: the loop gets a turn between two.
                await asyncio.sleep(0)
            await self._admit(eio_sid, connection, namespace, data)
        finally:
            self.pending.discard(connection)
            if connection.state is Connection.PENDING:
                self._forget(connection)

    async def _admit(self, eio_sid: str, connection: Connection, namespace: Any, data: Any) -> None:
        deadline = asyncio.get_running_loop().time() + self.admission_timeout
        try:
            refusal = await self.decide(connection, data, deadline, lambda: self.alive(eio_sid))
        except Exception as exc:
            refusal = Refusal(RejectCode.INTERNAL_ERROR, "admission", error=exc)
        if refusal is not None:
            await self._refuse(eio_sid, connection, refusal)
        elif not self.alive(eio_sid):
            self.report.closed(connection, self._end_reason(connection, "transport close"))
        else:
            await self._join(eio_sid, connection, namespace, data, deadline)

    async def _join(self, eio_sid: str, connection: Connection, namespace: Any, data: Any, deadline: float) -> None:
        server = self.server
        environ = server.environ[eio_sid]
        if connection.client_address is not None:
            # python-engineio puts 127.0.0.1 there, whoever it is.
            environ["REMOTE_ADDR"] = connection.client_address
        pending = connection.pending = _Pending(deadline)
        token = bound_connection.set(connection)
        failure: Exception | None = None
        try:
            await self._original_connect(eio_sid, namespace, data)
        except Exception as exc:
            failure = exc
        finally:
            bound_connection.reset(token)
            connection.pending = None
        if pending.refusal is not None:
            self._count(connection, pending.refusal, pending.ref)
            if pending.straggler is not None:
                self._sweep_later(connection, pending.straggler)
        elif failure is None and server.manager.is_connected(connection.sid, connection.namespace):
            await self._joined(eio_sid, connection)
            return
        elif not self.alive(eio_sid):
            self.report.closed(connection, self._end_reason(connection, "transport close"))
        else:
            refusal = Refusal(RejectCode.INTERNAL_ERROR, "python-socketio", error=failure)
            await self._refuse(eio_sid, connection, refusal)
        # python-socketio has cleaned up after a refusal; after a failure of its own, or an answer that could not be
        # sent, it has not. No handler runs any more, and to do it twice is harmless.
        await server.manager.disconnect(connection.sid, connection.namespace, ignore_queue=True)
        if _is_cancelled():
            # python-engineio swallows it; the next frame that it waits for ends the session.
            connection.session.ending = connection.session.ending or "server disconnect"
            raise asyncio.CancelledError

    async def _joined(self, eio_sid: str, connection: Connection) -> None:
        if not self.attached:
            self._forget(connection)  # Detached meanwhile: python-socketio keeps the client, nobody guards it.
            return
        connection.state = Connection.JOINED
        self.accepted += 1
        self.sessions.joined(connection.session)
        self.report.accepted(connection)
        self.lifetime.begin(connection)
        if not self.alive(eio_sid):
            # It went away while its handler ran, and python-engineio has told everybody else already.
            connection.reason = connection.session.ending or "transport close"
            await self._original_disconnect(connection.sid, connection.namespace, ignore_queue=True)

    async def _refuse(self, eio_sid: str, connection: Connection, refusal: Refusal) -> None:
        ref = new_ref()
        self._count(connection, refusal, ref)
        session = connection.session
        if refusal.code is RejectCode.KEYS_UNAVAILABLE and not session.joined:
            # A CONNECT_ERROR is final to stock clients; from a closed transport they come back by themselves.
            self.end(session, refusal.code.value)
        if session.ending is None and self.alive(eio_sid):
            payload = refusal.payload(ref, debug=self.debug)
            if self.strict_text:
                # What the default serializer makes of it, without looking for binary data in what can have none.
                place = "" if connection.namespace == "/" else f"{connection.namespace},"
                packet = f"4{place}{_ENCODE(payload)}"
            else:
                packet = self._connect_error(connection.namespace, payload)
            await self.server.eio.send(eio_sid, packet)

    def _count(self, connection: Connection, refusal: Refusal, ref: str) -> None:
        """Log a refusal and count it."""
        self.report.rejected(connection, refusal, ref)
        code = refusal.code
        self.refused[code.value] = self.refused.get(code.value, 0) + 1
        session = connection.session
        if session.refusals is None:
            session.refusals = Refusals()
        costs, too_many = session.refusals.count(code.value, connection.namespace, self.sessions.limits)
        # A namespace may be hidden because of a limit. And anybody can make up an unknown key.
        real = refusal.fields.get("hidden_reason", code)
        unknown_key = "key_unknown" in (refusal.detail, refusal.fields.get("hidden_detail"))
        if costs and (real in _FAILURES or unknown_key):
            self.budget.fail(session.client_address)
        if too_many:
            self.end(session, "too_many_failures")

    def _connect_error(self, namespace: str, payload: Any) -> Any:
        packet = self.server.packet_class(socketio.packet.CONNECT_ERROR, data=payload, namespace=namespace)
        return packet.encode()

    def identify(self, session: Session) -> None:
        """Give a session the short keyed digest that stands for its secret id in log lines."""
        if not session.digest and session.eio_sid:
            session.digest = hashlib.blake2b(session.eio_sid.encode(), key=_KEY, digest_size=6).hexdigest()

    def _forget(self, connection: Connection) -> None:
        connection.state = Connection.ENDED
        if connection.held:
            self.ledger.release(subject_key(connection.identity), connection.client_address)
            connection.held = False
        if connection.session.connections.get(connection.namespace) is connection:
            del connection.session.connections[connection.namespace]
        self.connections.pop(connection.sid, None)

    def _end_reason(self, connection: Connection, reason: str) -> str:
        return connection.reason or connection.session.ending or reason

    # Dispatch to the application

    async def _trigger_event(self, event: Any, namespace: str, *args: Any) -> Any:
        if not self.attached:
            return await self._original_trigger(event, namespace, *args)
        connection = self.connections.get(args[0])
        if connection is None:
            # An event without a connection is one that nobody admitted.
            return await self._run_connect(namespace, args) if event == "connect" else self.server.not_handled
        if connection.state is not Connection.JOINED:
            return await self._trigger_pending(event, namespace, args, connection)
        if type(event) is not str or event in _RESERVED or event.startswith(OWN_EVENTS):
            return await self._trigger_reserved(event, namespace, args, connection)
        if connection.reason is not None or self.lifetime.is_over(connection):
            return self.server.not_handled  # Its authority has ended, and the client is being told so.
        connection.events_in += 1
        token = bound_connection.set(connection)
        try:
            result = await self._original_trigger(event, namespace, *args)
            if type(result) not in _PLAIN:
                result = await settled(result)
        except EventRefused as exc:
            return self._refuse_event(connection, event, exc.refusal)
        except BaseException as exc:
            if not is_ours(exc):
                raise
            # Whoever awaits this is python-socketio, or nobody: the task of this one event.
            self.report.handler_failed(connection, event, exc)
            return self.server.not_handled
        finally:
            bound_connection.reset(token)
        # A class-based namespace returns None for an event that it has no method for.
        if (result is None or result is self.server.not_handled) and (namespace, event) not in self._handled:
            self._look_for_handler(namespace, event)
        return result

    def _get_event_handler(self, event: Any, namespace: str, args: Any) -> Any:
        handler, args = self._original_find(event, namespace, args)
        return required(handler), args

    def _look_for_handler(self, namespace: str, event: str) -> None:
        if not handles(self.server, namespace, event):
            for reason, fields in self.delivery.unhandled(namespace, event, event_names(self.server, namespace)):
                self.report.undelivered(reason, fields)
        elif len(self._handled) < _REMEMBERED:
            self._handled.add((namespace, event))

    async def _trigger_reserved(self, event: Any, namespace: str, args: tuple[Any, ...], connection: Connection) -> Any:
        if event == "disconnect" and self._is_end(namespace, args):
            connection.state = Connection.LEAVING
            connection.session.left_by = args[1]
            self.sessions.left(connection.session, alive=self.alive(connection.session.eio_sid))
            self.lifetime.end(connection)
            return await self._leave(connection, namespace, args)
        if event == REFRESH:
            return self.server.not_handled if connection.reason is not None else await self.refresh(connection, args)
        # python-socketio would run the application's connect or disconnect handler with the client's own data.
        self.report.packet_rejected(
            connection.session,
            "event_name_reserved",
            "the name of an event is a text, neither connect nor disconnect, and does not begin with 'socketguard:'",
        )
        return self.server.not_handled

    def _refuse_event(self, connection: Connection, event: str, refusal: Refusal) -> dict[str, Any]:
        ref = new_ref()
        self.report.event_rejected(connection, event, refusal, ref)
        return refusal.acknowledgement(ref)

    async def _trigger_pending(self, event: Any, namespace: str, args: tuple[Any, ...], connection: Connection) -> Any:
        if event == "disconnect" and connection.pending is not None and self._is_end(namespace, args):
            connection.pending.vanished = True
            return await self._leave(connection, namespace, args)
        return self.server.not_handled  # An event that overtook its CONNECT, or came after the end.

    def _is_end(self, namespace: str, args: tuple[Any, ...]) -> bool:
        """Whether a "disconnect" is python-socketio's, and no event of a client that is named so."""
        return len(args) == 2 and args[1] in _REASONS and not self.server.manager.is_connected(args[0], namespace)

    async def _run_connect(self, namespace: str, args: tuple[Any, ...]) -> Any:
        connection = bound_connection.get()
        if connection is None or connection.pending is None or connection.sid or connection.namespace != namespace:
            return False  # Nobody asked through the guard: python-socketio refuses.
        pending: _Pending = connection.pending
        connection.sid = args[0]
        connection.bind_log_fields(self.log_claims)
        self.connections[connection.sid] = connection
        self._shield(namespace)
        try:
            # Older releases of python-socketio leave out an auth payload that is empty.
            result = await run_until(self._call_connect(namespace, (*args, None)[:3]), pending.deadline)
        except (Refused, ConnectionRefusedError) as exc:
            if not self._answerable(exc, namespace):
                return self._fail(pending, RejectCode.INTERNAL_ERROR, "refusal_not_serializable", exc)
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, "raised", {"app_message": app_message(exc)})
            if isinstance(exc, Refused):
                raise
            # python-socketio before 5.13 knows no other; the text is that of later ones.
            raise Refused("Connection refused by server") from exc
        except Overdue as exc:
            if not exc.task.done():
                pending.straggler = exc.task
            return self._fail(pending, RejectCode.ADMISSION_TIMEOUT, "connect_handler")
        except (Escaped, asyncio.CancelledError) as exc:
            # Of this very task too: python-socketio must clean up before it ends.
            return self._fail(pending, RejectCode.INTERNAL_ERROR, "cancelled", exc)
        except EventRefused as exc:
            return self._refuse_pending(pending, exc.refusal)
        except Exception as exc:
            return self._fail(pending, RejectCode.INTERNAL_ERROR, "connect_handler", exc)
        if connection.verdict is not None:
            return self._refuse_pending(pending, connection.verdict)
        if pending.vanished:
            return False  # python-socketio before 5.18 has run its disconnect handler already.
        if pending.dropped or result is False:
            detail = "disconnect_called" if pending.dropped else "returned_false"
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, detail)
            return False
        if result is not None and result is not True and result is not self.server.not_handled:
            # python-socketio takes all but False for a yes, also what was meant for a no.
            received = {"received": type(result).__name__}
            pending.refusal = Refusal(RejectCode.REFUSED_BY_APP, "returned_unknown", received)
            return False
        return result

    def _fail(self, pending: _Pending, code: RejectCode, detail: str, error: BaseException | None = None) -> Any:
        return self._refuse_pending(pending, Refusal(code, detail, error=error))

    def _refuse_pending(self, pending: _Pending, refusal: Refusal) -> Any:
        """Refuse, by way of python-socketio, so that it answers and cleans up by itself."""
        pending.refusal = refusal
        pending.ref = new_ref()
        payload = pending.refusal.payload(pending.ref, debug=self.debug)
        raise Refused(payload["message"], payload["data"])

    async def _call_connect(self, namespace: str, args: tuple[Any, ...]) -> Any:
        try:
            return await self._original_trigger("connect", namespace, *args)
        except TypeError as exc:
            if not raised_by_the_call(exc):
                raise
        # A handler of the older kind, connect(sid, environ). python-socketio would try this only for clients that
        # send no auth payload, and would run a handler twice that raised a TypeError of its own.
        return await self._original_trigger("connect", namespace, *args[:2])

    def _answerable(self, refusal: BaseException, namespace: str) -> bool:
        try:
            self._connect_error(namespace, getattr(refusal, "error_args", None))
        except Exception:
            return False
        return True

    def _shield(self, namespace: str) -> None:
        """Keep python-socketio from taking a CancelledError out of a connect handler for an acceptance."""
        for holder in connect_holders(self.server, namespace):
            if not isinstance(holder, dict) and id(holder) not in self._class_namespaces:
                # Its methods are looked up by python-socketio itself, and nobody joins before this.
                self._class_namespaces[id(holder)] = holder
                for name, method in unchecked_methods(holder):
                    self._restore.append((holder, name, method))
                    setattr(holder, name, required(method))
            handler = connect_handler(holder)
            if not is_shielded(handler) and inspect.iscoroutinefunction(handler):
                put_connect_handler(holder, cancellation_proof(required(handler)))
                self._shields.append((holder, handler))

    async def _leave(self, connection: Connection, namespace: str, args: tuple[Any, ...]) -> Any:
        reason = self._end_reason(connection, args[1])
        # Half of a binary event: python-socketio before 5.18 would keep it.
        self.server._binary_packet.pop(connection.session.eio_sid, None)
        token = bound_connection.set(connection)
        try:
            return await settled(await self._original_trigger("disconnect", namespace, *args))
        except BaseException as exc:
            # Were it to go on, python-socketio would keep the client in its rooms for ever.
            if not is_ours(exc):
                raise
            self.report.handler_failed(connection, "disconnect", exc)
            return None
        finally:
            bound_connection.reset(token)
            if connection.pending is None:
                self._forget(connection)
                self.report.closed(connection, reason)

    async def _disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        connection = self.connections.get(sid) if self.attached else None
        if connection is not None and connection.pending is not None and connection.namespace == (namespace or "/"):
            # python-socketio does nothing for a client whose connect handler runs: here it is a refusal.
            connection.pending.dropped = True
            return
        await self._original_disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)

    def _sweep_later(self, connection: Connection, task: asyncio.Task[Any]) -> None:
        """Clean up once more when a handler that ignored its cancellation has finished at last."""
        self.quarantine.add(task)
        loop = asyncio.get_running_loop()

        def done(task: asyncio.Task[Any]) -> None:
            sweeping = loop.create_task(self._sweep(connection))
            self.quarantine.add(sweeping)
            sweeping.add_done_callback(self.quarantine.discard)
            self.quarantine.discard(task)

        task.add_done_callback(done)

    async def _sweep(self, connection: Connection) -> None:
        manager = self.server.manager
        await manager.disconnect(connection.sid, connection.namespace, ignore_queue=True)
        rooms = manager.rooms.get(connection.namespace, {})
        for room in [name for name, members in rooms.items() if not members]:
            del rooms[room]  # python-socketio makes the room before it finds that the client is gone.
        if not rooms:
            manager.rooms.pop(connection.namespace, None)

    # Packets

    async def _handle_message(self, eio_sid: str, data: Any) -> None:
        if not self.attached:
            await self._original_message(eio_sid, data)
            return
        server = self.server
        environ = server.environ.get(eio_sid)
        session: Session | None = None if environ is None else environ["asgi.scope"].get("socketguard")
        if session is None or session.ending is not None:
            return
        try:
            await self._original_message(eio_sid, data)
        except Exception as exc:
            await self._packet_failed(eio_sid, session, exc)
        else:
            waiting = server._binary_packet.get(eio_sid)
            if waiting is not None and not self._has_joined(session, waiting.namespace):
                # python-socketio before 5.16 would wait for its attachments.
                await self._packet_failed(eio_sid, session, ValueError("a binary packet for a namespace not joined"))

    @staticmethod
    def _has_joined(session: Session, namespace: Any) -> bool:
        # msgpack hands over namespaces of any type.
        connection = session.connections.get(namespace or "/") if isinstance(namespace or "/", str) else None
        return connection is not None and connection.state is Connection.JOINED

    async def _packet_failed(self, eio_sid: str, session: Session, error: Exception) -> None:
        self.identify(session)
        if callback := callback_frames(error):
            if callback[1:]:
                self.report.handler_failed(None, "acknowledgement", error)
            else:
                self.report.packet_rejected(
                    session, "acknowledgement_malformed", "an acknowledgement does not fit the callback", error
                )
            return
        self.server._binary_packet.pop(eio_sid, None)
        session.ending = "parse error"
        self.report.packet_rejected(
            session, "packet_malformed", "python-socketio could not process a packet; the session was ended", error
        )
        if not self.upgraded(eio_sid):
            await self.end_session(eio_sid, "parse error")


async def _nothing() -> None:
    """Sends a packet to a client that is being dropped because it does not read."""


def _is_name(name: Any) -> bool:
    try:
        return isinstance(name, str) and name.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate: no answer could be sent
        return False


def _is_undefined(data: Any) -> bool:
    """Whether an auth payload is JavaScript's undefined, which the msgpack parser of socket.io sends for none."""
    return type(data).__name__ == "ExtType" and tuple(data) == (0, b"\0")


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
