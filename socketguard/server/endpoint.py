"""The only ASGI I/O: what stands in front of python-engineio, on every request to it.

`Endpoint` replaces ``server.handle_request``, so that it sees every Engine.IO request, wherever the application is
mounted. `WrongPath` watches an application from outside for Socket.IO clients that asked elsewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, MutableMapping, Sequence
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from socketguard.connection import HandshakeRequest, Session
from socketguard.diagnosis.traffic import Patterns
from socketguard.errors import HandshakeRefusal, Retry, new_ref
from socketguard.logs.report import Report
from socketguard.proxies.trusted import TrustedProxies
from socketguard.text import neutralise

from .attach import Seam
from .endings import CLOSE_CODES
from .handshake import DRAINING, Gate, cors_headers, examine, normalised_headers, origin_is_allowed, read, wrong_path
from .packets import body_problem
from .websocket import NORMAL, _Ended, _Frames, _interruptible, _is_gone, _lower_case

__all__ = ["Endpoint", "WrongPath"]

SESSION_KEY = "socketguard"
SEEN_KEY = "socketguard.seen"


ENDED = HandshakeRefusal("session_unknown", 400, "Session ID unknown", "the session has ended", Retry.NOW)


class Endpoint:
    """Takes each Engine.IO request before python-engineio does.

    Args:
        seam: the server.
        report: told what was refused.
        trusted: the proxies whose ``X-Forwarded-For`` is believed.
        gate: asked before a session is made.
        bind_polling: whether each request of a session must come from the address of the first.
        patterns: told of upgrades and of sessions that nobody knows.
        connect_packet_bytes: how large a frame or body may be from a session that has joined no namespace.
        on_request: called with the scope and ``receive`` of each request until it returns True: the start-up checks.
    """

    def __init__(
        self,
        seam: Seam,
        report: Report,
        trusted: TrustedProxies,
        gate: Gate,
        *,
        bind_polling: bool,
        connect_packet_bytes: int | None,
        patterns: Patterns,
        on_request: Callable[[Scope, Receive], bool],
    ) -> None:
        self.seam = seam
        self.report = report
        self.trusted = trusted
        self.gate = gate
        self.bind_polling = bind_polling
        self.patterns = patterns
        self._began = time.monotonic()
        self.connect_packet_bytes = seam.max_body if connect_packet_bytes is None else connect_packet_bytes
        self._on_request = on_request
        self._started = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        # No coroutine function: each open WebSocket would keep one more frame in memory.
        if not self.seam.attached:
            return cast("Coroutine[Any, Any, None]", self.seam.handle_request(scope, receive, send))
        if not self._started:
            self._started = self._on_request(scope, receive)
        seen = scope.get(SEEN_KEY)
        if seen is not None:
            seen.append(True)
        now = time.monotonic()
        request = read(scope, self.trusted)
        seam = self.seam
        session = None if request.sid is None else seam.session(request.sid)
        refusal = (self.gate.refusal(request) if request.sid is None and request.method == "GET" else None) or examine(
            request,
            transports=seam.transports,
            session_known=session is not None,
            upgraded=session is not None and seam.upgraded(request.sid),
            allowed_origins=_policy(seam.allowed_origins),
            session_issued=seam.issued,
            uptime_s=now - self._began,
        )
        if refusal is None and session is not None:
            if seam.was_let_go(request.sid) and not seam.has_queue(session.eio_sid):
                refusal = ENDED  # Its client has been told; handlers of the application may still be busy with it.
            elif self.bind_polling:
                refusal = _moved(request, session)
        if refusal is not None:
            if session is None and request.sid is not None and request.method == "POST":
                # Beside each POST a client sends a GET; one of the two is enough to count.
                self.patterns.unknown_session(seam.issued(request.sid))
            if self.gate.draining and (session is None or refusal is ENDED):
                refusal = DRAINING
            return self._turn_away(scope, request, refusal, session, receive, send)
        if session is None:
            session = Session(
                client_address=request.client_address,
                origin=None if request.origin is None else neutralise(request.origin, 256),
                user_agent=request.user_agent,
                transport=request.transport,
                headers=scope["headers"],
                query_string=scope.get("query_string", b""),
            )
        # In the scope itself, as Starlette does with its own keys: a copy would cost every open connection memory.
        scope[SESSION_KEY] = session
        session.active = now
        scope["headers"] = normalised_headers(scope["headers"], request)
        if request.websocket:
            return _Frames(self, request, session, receive, send, scope).run()
        return self._http(scope, request, session, receive, send)

    async def _turn_away(
        self,
        scope: Scope,
        request: HandshakeRequest,
        refusal: HandshakeRefusal,
        session: Session | None,
        receive: Receive,
        send: Send,
    ) -> None:
        # Over HTTP the first message may be a body, for which nobody waits here.
        if scope["type"] != "websocket" or not _is_gone(await receive()):
            await self._refuse(scope, request, refusal, send, session, quietly=self.seam.was_let_go(request.sid))

    # HTTP

    async def _http(
        self, scope: Scope, request: HandshakeRequest, session: Session, receive: Receive, send: Send
    ) -> None:
        try:
            first = await (receive() if request.sid is None else _interruptible(receive, session))
            if _is_gone(first):
                return  # python-engineio would stumble over a client that has gone.
            if request.method == "POST":
                # Once: the session may join while its body is on the way, and what was cut off must not pass then.
                limit = self._limit(session)
                body = await self._body(request, limit, first, receive, session)
                if body is None:
                    return
                found = body_problem(body, limit=limit, strict_text=self.seam.strict_text, stranger=not session.joined)
                if session.ending is not None:
                    raise _Ended
                if isinstance(found, HandshakeRefusal):
                    await self._refuse(scope, request, found, send, session)
                    # What was in the body is lost, so that the session can't go on as if nothing had happened.
                    await self.seam.end_session(request.sid or "", "parse error")
                    return
                session.packets_in += found
                first = {"type": "http.request", "body": body, "more_body": False}
                # The length may be missing (chunked), and python-engineio reads exactly so many bytes.
                scope["headers"] = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
                scope["headers"].append((b"content-length", str(len(body)).encode()))
        except _Ended:
            await self._refuse(scope, request, DRAINING if self.gate.draining else ENDED, send, session)
            if session.ending not in CLOSE_CODES:
                await self.seam.end_session(request.sid or "", "parse error")
            return

        async def replay() -> Message:
            return first

        taken = 0

        async def lower_case(message: Message) -> None:
            nonlocal taken
            if message["type"] == "http.response.start":
                self._note_status(request, session, message["status"])
                message = {**message, "headers": list(_lower_case(message.get("headers", ())))}
                if request.method == "GET" and not self.seam.has_queue(session.eio_sid):
                    taken = session.handed  # All that waited is in this answer.
            await send(message)
            if taken and message["type"] == "http.response.body":
                session.done = max(session.done, taken)

        await self.seam.handle_request(scope, replay, lower_case)
        if request.method == "POST":
            self.seam.release_poll(request.sid or "")

    def _limit(self, session: Session) -> int:
        largest = self.seam.max_body
        return largest if session.joined else min(largest, self.connect_packet_bytes)

    async def _body(
        self, request: HandshakeRequest, limit: int, message: Message, receive: Receive, session: Session
    ) -> bytes | None:
        """The body, cut off one byte above the limit; None when the client has gone."""
        declared = request.content_length
        if declared is not None and (not declared.isascii() or not declared.isdigit() or len(declared) > 15):
            return b"\0"  # No length that a client can mean: refused as malformed.
        if declared is not None and int(declared) > limit:
            return bytes(limit + 1)
        body = bytearray(message.get("body", b""))
        while message.get("more_body"):
            message = await _interruptible(receive, session)
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                break
        return bytes(body[: limit + 1])

    def _note_status(self, request: HandshakeRequest, session: Session, status: int) -> None:
        if status >= 400:
            refusal = HandshakeRefusal(
                "engine_refused", status, "", "python-engineio refused the request; its own log has the reason"
            )
            self.report.handshake_rejected(request, refusal, new_ref(), session)

    # Answers of our own

    async def _refuse(
        self,
        scope: Scope,
        request: HandshakeRequest,
        refusal: HandshakeRefusal,
        send: Send,
        session: Session | None,
        *,
        quietly: bool = False,
    ) -> None:
        ref = new_ref()
        if session is not None:
            self.seam.identify(session)
        # The end of a session has a line already; that its client notices is no news.
        written = not quietly and self.report.handshake_rejected(request, refusal, ref, session)
        allowed = self.seam.allowed_origins
        # Where python-engineio decides by itself (a callable), the guard can't tell who is entitled.
        entitled = not callable(allowed) and allowed != [] and origin_is_allowed(request, _policy(allowed))
        await answer(
            scope,
            send,
            refusal,
            ref,
            cors_headers(request, allowed=entitled, credentials=self.seam.credentials),
            # uvicorn logs an ERROR for each refused WebSocket that has a body; in a flood the bare close must do.
            body_over_websocket=written,
        )


async def answer(
    scope: Scope,
    send: Send,
    refusal: HandshakeRefusal,
    ref: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    body_over_websocket: bool = True,
) -> None:
    """Answer a request with a status and a JSON body, over WebSocket too where the ASGI server can do that."""
    content: dict[str, Any]
    kind = "http.response"
    if scope["type"] == "websocket":
        if not body_over_websocket or "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": NORMAL, "reason": refusal.message})
            return
        kind = "websocket.http.response"
    content = {"code": refusal.reason, "message": refusal.message, "retry": refusal.retry, "ref": ref}
    start = [(b"content-type", b"application/json"), *headers]
    if refusal.retry_after is not None:
        content["retry_after"] = refusal.retry_after
        start.append((b"retry-after", str(refusal.retry_after).encode()))
    body = json.dumps(content, separators=(",", ":")).encode()
    start.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": start})
    await send({"type": f"{kind}.body", "body": body})


class WrongPath:
    """Answers Socket.IO clients that ask an application where no Socket.IO endpoint is.

    Args:
        app: the application.
        report: told about them.
        paths: where the endpoint really is.
    """

    def __init__(self, app: ASGIApp, report: Report, paths: Sequence[str], trusted: TrustedProxies) -> None:
        self.app = app
        self.report = report
        self.paths = paths
        self.trusted = trusted

    def concerns(self, scope: Scope) -> bool:
        """Whether a request looks like one of Socket.IO, on a path where the endpoint isn't known to be."""
        if scope["type"] == "lifespan" or b"EIO=" not in scope.get("query_string", b""):
            return False
        path = scope["path"]
        return not any(path.startswith(known) for known in self.paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Guards may be nested; the endpoint is seen by all of them.
        seen: list[bool] = scope.get(SEEN_KEY, [])
        scope = {**scope, SEEN_KEY: seen}
        state = "waiting"

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal state
            if state == "waiting":
                # The first message tells whether anybody is there.
                state = "passing" if seen or not _is_not_found(scope, message) else "answered"
                if state == "answered":
                    seen.append(True)
                    await self._refuse(scope, send)
            if state == "passing":
                await send(message)

        await self.app(scope, receive, watch)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        request = read(scope, self.trusted)
        refusal = wrong_path(request, self.paths)
        ref = new_ref()
        written = self.report.handshake_rejected(request, refusal, ref)
        await answer(scope, send, refusal, ref, body_over_websocket=written)


def _is_not_found(scope: Scope, message: MutableMapping[str, Any]) -> bool:
    kind: str = message["type"]
    if scope["type"] == "websocket":
        # Starlette closes; python-engineio answers with a response for HTTP, which no server lets pass.
        return kind in ("websocket.close", "http.response.start")
    return kind == "http.response.start" and bool(message["status"] == 404)


def _moved(request: HandshakeRequest, session: Session) -> HandshakeRefusal | None:
    """Whether a request comes from another address than the first of its session."""
    if request.client_address == session.client_address:
        return None
    return HandshakeRefusal(
        "address_changed",
        400,
        ENDED.message,
        "the session began at another address (bind_polling): a phone that changed its network, a proxy that is not in "
        "trusted_proxies, or somebody else",
        Retry.NOW,
    )


def _policy(allowed: Any) -> str | Collection[str] | None:
    """python-engineio's ``cors_allowed_origins`` as the handshake reads it.

    An empty list and a callable are python-engineio's own ways, which it decides by itself.
    """
    if allowed is None or allowed == "*":
        return allowed  # type: ignore[no-any-return]
    if isinstance(allowed, str):
        return (allowed,)
    return "*" if callable(allowed) or not allowed or "*" in allowed else allowed
