"""The ASGI door: every request to the Engine.IO endpoint, and Socket.IO clients that ask elsewhere.

`Endpoint` stands in for ``server.handle_request``, so that it sees every Engine.IO request, wherever the application
is mounted. `WrongPath` watches an application from outside for Socket.IO clients that asked elsewhere.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Coroutine, MutableMapping
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from socketguard.connection import HandshakeRequest, Session, address_key
from socketguard.diagnosis.traffic import Patterns
from socketguard.errors import RETRY_AFTER, HandshakeCode, Refusal, RejectCode, new_ref
from socketguard.limits.counters import PENDING_SHARE, Ledger
from socketguard.logs.report import Report
from socketguard.proxies.trusted import TrustedProxies
from socketguard.text import neutralise

from .answers import Answers, answer, is_gone
from .configuration import Configuration
from .context import Context
from .endings import TICK
from .engine import origins_of
from .environ import environment
from .handshake import DRAINING, ENDED, busy, examine, normalised_headers, read, wrong_path
from .incoming import Incoming
from .polling import Polling
from .socket import Socket
from .websocket import WebSockets

__all__ = ["Endpoint", "WrongPath"]

_SEEN_KEY = "socketguard.seen"
_OF_CORS = (b"access-control-", b"vary")  # beginnings of the names of headers

ON_PROBATION = 8
"""So many sessions that have joined nothing may an address have while it is over its budget of failures."""

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class Endpoint:
    """Takes each Engine.IO request in python-engineio's place."""

    def __init__(
        self, context: Context, configuration: Configuration, ledger: Ledger, patterns: Patterns, incoming: Incoming
    ) -> None:
        # As it is now, before it is replaced.
        self._handle_request = context.server.handle_request
        self._eio = context.server.eio
        self._context = context
        self._engine = context.engine
        self._configuration = configuration
        self._ledger = ledger
        self._patterns = patterns
        self._answers = Answers(context.engine, context.report)
        self._polling = Polling(context, incoming, self._answers)
        self._websockets = WebSockets(context, incoming, patterns)
        self._began = time.monotonic()
        self._detached = False

    def detach(self) -> None:
        """Leave everything to python-engineio from now on."""
        self._detached = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        # No coroutine function: each open WebSocket would keep one more frame in memory.
        if self._detached:
            return cast("Coroutine[Any, Any, None]", self._handle_request(scope, receive, send))
        self._configuration.seen(scope, receive)
        # Whatever comes of it: a line may be held back, or keys be fetched.
        self._context.endings.arm(TICK)
        seen = scope.get(_SEEN_KEY)
        if seen is not None:
            seen.append(True)
        request = read(scope, self._context.settings.trusted_proxies)
        socket = None if request.sid is None else self._engine.socket(request.sid)
        session = None if socket is None else socket.record
        allowed = origins_of(self._engine.allowed_origins)
        if callable(self._engine.allowed_origins):
            allowed = "*" if self._answers.entitled(scope, request) else ()
        refusal = self._refusal(request, socket, allowed)
        if refusal is not None:
            return self._turn_away(scope, request, refusal, session, receive, send)
        return self._serve(scope, request, socket, receive, send)

    def _serve(
        self, scope: Scope, request: HandshakeRequest, socket: Socket | None, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None]:
        if request.method == "OPTIONS":
            return self._answers.succeed(scope, request, send, b"ok", [(b"content-type", b"text/html")])
        if socket is None:
            return self._open(scope, request, receive, send)
        socket.record.active = time.monotonic()
        if request.method == "POST" or request.websocket:
            socket.record.asked_from = request.origin
        if not request.websocket:
            return self._polling.serve(socket, scope, request, receive, send)
        if socket.upgrade is not None:
            return self._websockets.refuse(receive, send)
        return self._websockets.upgrade(socket, receive, send)

    async def _open(self, scope: Scope, request: HandshakeRequest, receive: Receive, send: Send) -> None:
        """Make a session, and serve the request that asks for it."""
        eio, engine, context = self._eio, self._engine, self._context
        record = Session(
            client_address=request.client_address,
            origin=None if request.origin is None else neutralise(request.origin, 256),
            user_agent=request.user_agent,
            transport=request.transport,
            headers=scope["headers"],
            query_string=scope.get("query_string", b""),
            scope=scope,
        )
        # For whoever reads the environment in a connect handler.
        scope["headers"] = normalised_headers(scope["headers"], request)
        if is_gone(await receive()):
            return
        environ = environment(scope, receive, send, record.client_address)
        record.eio_sid = eio.generate_id()
        socket = Socket(engine, record)
        engine.observe()
        eio.sockets[socket.sid] = socket
        refused: Any = False
        try:
            refused = await engine.trigger("connect", socket.sid, environ)
            if socket.closing:
                refused = False  # The application has disconnected it already.
        finally:
            if refused is not None and refused is not True:
                eio.sockets.pop(socket.sid, None)
                context.server.environ.pop(socket.sid, None)
        if refused is not None and refused is not True:
            hint = {"hint": "a handler of Engine.IO's connect event, eio.on('connect'), refused the session"}
            refusal = Refusal(HandshakeCode.ENGINE_REFUSED, fields=hint, http_status=401)
            await self._answers.refuse(scope, request, refusal, send, record)
            return
        context.endings.arm(min(context.sessions.opened(socket), context.heartbeats.begin(socket)))
        if request.websocket:
            await self._websockets.open(socket, self._opening(socket), receive, send)
        else:
            await self._polling.open(socket, self._opening(socket), scope, request, send)

    def _opening(self, socket: Socket) -> str:
        """The first packet of a session (Engine.IO v4, "Handshake")."""
        eio = self._eio
        upgrades = ",".join(map(_ENCODE, eio._upgrades(socket.sid, socket.record.transport)))
        timeout = int(eio.ping_timeout * 1000)
        interval = int((eio.ping_interval + eio.ping_interval_grace_period) * 1000)
        return (
            f'0{{"sid":{_ENCODE(socket.sid)},"upgrades":[{upgrades}],"pingTimeout":{timeout},"pingInterval":{interval},'
            f'"maxPayload":{int(eio.max_http_buffer_size)}}}'
        )

    def _refusal(
        self, request: HandshakeRequest, socket: Socket | None, allowed: str | Collection[str] | None
    ) -> Refusal | None:
        engine = self._engine
        gone = engine.has_gone(request.sid)
        refusal = (self._busy(request) if request.sid is None and request.method == "GET" else None) or examine(
            request,
            engine,
            session_known=socket is not None or gone,
            upgraded=socket is not None and socket.upgraded,
            allowed_origins=allowed,
            uptime_s=time.monotonic() - self._began,
        )
        if refusal is None and request.sid is not None and request.method != "OPTIONS":
            if socket is not None and not socket.upgraded:
                self._context.endings.asked(socket)
            if socket is None or socket.closing:
                # While handlers of the application are busy with its end, its client may still hear the last.
                listens = socket is not None and socket.waiting and request.method == "GET" and not request.websocket
                refusal = None if listens else ENDED
            elif self._context.settings.bind_polling:
                refusal = _moved(request, socket.record)
        if refusal is None:
            return None
        if socket is None and request.sid is not None and request.method == "POST" and not gone:
            # Beside each POST a client sends a GET; one of the two is enough to count.
            self._patterns.unknown_session(engine.issued(request.sid))
        return DRAINING if self._context.drain.begun and (socket is None or refusal is ENDED) else refusal

    def _busy(self, request: HandshakeRequest) -> Refusal | None:
        """Why no further session may be made now, asked while refusing costs next to nothing.

        A refused handshake is the only refusal after which the back-off of stock clients grows, so that states of the
        whole service are answered here.
        """
        if self._context.drain.begun:
            return DRAINING
        address = request.client_address
        if request.forwarded_by is not None and self._context.budget.exempt(request.forwarded_by):
            # Everybody behind it would share one budget, and one client could lock out all the others.
            self._ledger.exempt.add(address_key(request.forwarded_by))
            self._configuration.warn_of_proxy(request.forwarded_by)
        wait = self._context.budget.wait(address)
        # Some may try: who has a valid token behind the same address is not kept out by the others.
        if wait and self._ledger.waiting(address) >= ON_PROBATION:
            hint = (
                "this address was refused too often (failures_per_address): see the lines of "
                f"socketguard.connection.rejected before this one; {ON_PROBATION} of its sessions may try at a time"
            )
            return busy(RejectCode.RATE_LIMITED, math.ceil(wait), hint)
        outage = self._context.service.outage()
        self._context.service.tell()
        if outage is not None:
            hint = "credentials can't be checked now: see the line of level error that ends in .unavailable"
            return busy(RejectCode.KEYS_UNAVAILABLE, outage, hint)
        full = self._ledger.session_problem(address)
        if full is None:
            return None
        # What one address has too many of is its own business; a full server is everybody's.
        status = 429 if full.endswith("_per_address") else 503
        hint = f"the limit {full} is reached"
        if full == PENDING_SHARE:
            hint = "this address has as many sessions without a namespace as are still free of pending_sessions"
        return busy(RejectCode.CONNECTION_LIMIT, RETRY_AFTER, hint, status)

    async def _turn_away(
        self,
        scope: Scope,
        request: HandshakeRequest,
        refusal: Refusal,
        session: Session | None,
        receive: Receive,
        send: Send,
    ) -> None:
        # Over HTTP the first message may be a body, for which nobody waits here.
        if scope["type"] != "websocket" or not is_gone(await receive()):
            # The end of a session has a line already; that its client notices is no news.
            quietly = self._engine.has_gone(request.sid)
            if refusal.code is HandshakeCode.SESSION_UPGRADED and request.websocket:
                # As the reference server does; an answer by HTTP would be an error of the session to its client.
                self._context.report.handshake_rejected(request, refusal, new_ref(), session)
                await self._websockets.close(send)
                return
            await self._answers.refuse(scope, request, refusal, send, session, quietly=quietly)


def _moved(request: HandshakeRequest, session: Session) -> Refusal | None:
    """Whether a request comes from another address than the first of its session."""
    if request.client_address == session.client_address:
        return None
    hint = (
        "the session began at another address (bind_polling): a phone that changed its network, a proxy that is not in "
        "trusted_proxies, or somebody else"
    )
    return Refusal(HandshakeCode.ADDRESS_CHANGED, fields={"hint": hint})


class WrongPath:
    """Answers Socket.IO clients that ask an application where no Socket.IO endpoint is."""

    def __init__(self, app: ASGIApp, report: Report, configuration: Configuration, trusted: TrustedProxies) -> None:
        self.app = app
        self._report = report
        self._paths = configuration.paths
        self._lost = configuration.lost
        self._trusted = trusted

    def concerns(self, scope: Scope) -> bool:
        """Whether a request looks like one of Socket.IO, on a path where the endpoint isn't known to be."""
        if scope["type"] == "lifespan" or b"EIO=" not in scope.get("query_string", b""):
            return False
        path = scope["path"]
        return not any(path.startswith(known) for known in self._paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Guards may be nested; the endpoint is seen by all of them.
        seen: list[bool] = scope.get(_SEEN_KEY, [])
        scope = {**scope, _SEEN_KEY: seen}
        state = "waiting"

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal state
            if state == "waiting":
                # The first message tells whether anybody is there.
                state = "passing" if seen or not _is_not_found(scope, message) else "answered"
                if state == "answered":
                    seen.append(True)
                    await self._refuse(scope, send, message)
            if state == "passing":
                await send(message)

        await self.app(scope, receive, watch)

    async def _refuse(self, scope: Scope, send: Send, found: MutableMapping[str, Any]) -> None:
        request = read(scope, self._trusted)
        refusal = wrong_path(request, self._paths, self._lost)
        ref = new_ref()
        written = self._report.handshake_rejected(request, refusal, ref)
        # A page reads the answer only with the headers that the application's own middleware has put there.
        kept = [header for header in found.get("headers", ()) if header[0].lower().startswith(_OF_CORS)]
        await answer(scope, send, refusal, ref, kept, body_over_websocket=written)


def _is_not_found(scope: Scope, message: MutableMapping[str, Any]) -> bool:
    kind: str = message["type"]
    if scope["type"] == "websocket":
        # Starlette closes; python-engineio answers with a response for HTTP, which no server lets pass.
        return kind in ("websocket.close", "http.response.start")
    return kind == "http.response.start" and bool(message["status"] == 404)
