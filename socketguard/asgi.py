"""The only ASGI I/O: what stands in front of python-engineio, on every request to it.

`Endpoint` replaces ``server.handle_request``, so that it sees every Engine.IO request, wherever the application is
mounted. `WrongPath` watches an application from outside for Socket.IO clients that asked elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, MutableMapping, Sequence
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .connection import HandshakeRequest, Session
from .diagnosis.traffic import Patterns
from .endings import CLOSE_CODES
from .errors import HandshakeRefusal, Retry, new_ref
from .gate import DRAINING, Gate
from .handshake import (
    MAX_PARTS,
    body_problem,
    cors_headers,
    count_parts,
    examine,
    normalised_headers,
    origin_is_allowed,
    packet_problem,
    read,
    wrong_path,
)
from .logs.report import Report
from .proxies.trusted import TrustedProxies
from .seam import Seam
from .text import neutralise

__all__ = ["Endpoint", "WrongPath"]

SESSION_KEY = "socketguard"
SEEN_KEY = "socketguard.seen"

# Close codes of WebSockets (RFC 6455, section 7.4.1).
NORMAL, UNSUPPORTED_DATA, TOO_BIG, INTERNAL_ERROR = 1000, 1003, 1009, 1011

# How the frames begin that clients send all the time: messages and pongs.
_USUAL = frozenset({"3", *(f"4{digit}" for digit in "0123456")})

ENDED = HandshakeRefusal("session_unknown", 400, "Session ID unknown", "the session has ended", Retry.NOW)

CLOSE_TIMEOUT = 5.0
"""Seconds that a close frame may take to a client that does not read."""


UPGRADE_PATIENCE = 2.0
"""Seconds that a client has to finish an upgrade that it has begun, when its session ends meanwhile."""


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


class _Frames:
    """``receive`` and ``send`` of one WebSocket, between the ASGI server and python-engineio."""

    __slots__ = (
        "_accepted",
        "_closing",
        "_endpoint",
        "_first",
        "_gone",
        "_max_body",
        "_opened",
        "_probed",
        "_reader",
        "_receive",
        "_request",
        "_scope",
        "_send",
        "_session",
        "_writer",
        "stopped",
        "upgrading",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        request: HandshakeRequest,
        session: Session,
        receive: Receive,
        send: Send,
        scope: Scope,
    ) -> None:
        self._endpoint = endpoint
        self._session = session
        self._first: Message | None = None
        self._receive = receive
        self._send = send
        self._max_body = endpoint.seam.max_body
        self._accepted = False
        self._closing = False
        self._reader: asyncio.Task[Any] | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._gone: asyncio.Future[None] | None = None
        self.stopped = False
        self._probed = False
        self.upgrading = request.sid is not None
        self._opened = self.upgrading
        # Needed until the WebSocket is accepted.
        self._request: HandshakeRequest | None = request
        self._scope: Scope | None = scope

    async def run(self) -> None:
        """Serve the WebSocket; with few variables, since each of them takes memory for as long as it is open."""
        self._first = await self._receive()
        if _is_gone(self._first):
            return
        try:
            await self._endpoint.seam.handle_request(self._scope, self.receive, self.send)
        except Exception as exc:
            await self._fail(exc)
        finally:
            self._finished()

    async def _fail(self, error: Exception) -> None:
        """A frame that python-engineio can't decode: it would leave the session to its ping timeout."""
        endpoint, session = self._endpoint, self._session
        endpoint.report.packet_rejected(session, "packet_malformed", "python-engineio could not decode a frame", error)
        await endpoint.seam.end_session(session.eio_sid, "parse error")
        await self.close(UNSUPPORTED_DATA)

    async def receive(self) -> Message:
        session = self._session
        if self._first is not None or self.upgrading or session.ending is not None:
            return await self._receive_specially()
        # Whoever ends the session interrupts it here: to wait for two things at once would cost each message more.
        self._reader = asyncio.current_task()
        message = await self._receive()
        text = message.get("text")
        if text is not None and session.joined and text[:2] in _USUAL and len(text) <= self._max_body:
            session.active = time.monotonic()
            session.packets_in += 1
            return message
        return await self._examine(message, text)

    async def _receive_specially(self) -> Message:
        session = self._session
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if session.ending in CLOSE_CODES and not self.upgrading:
            if not self.stopped:
                # What the client is to be told must be in the queue before the writer leaves: `end` interrupts this.
                self._reader = asyncio.current_task()
                await asyncio.sleep(CLOSE_TIMEOUT)
            return {"type": "websocket.disconnect", "code": NORMAL}  # python-engineio sends what waits, and closes.
        if session.ending is not None:
            return await self._end_upgrade()
        if self._endpoint.seam.upgraded(session.eio_sid):
            self.upgrading = False
            session.carrier = self
            session.transport = "websocket"
            self._endpoint.seam.identify(session)
            self._endpoint.report.upgraded(session)
            self._endpoint.patterns.upgraded()
            self._reader = asyncio.current_task()
            message = await self._receive()
        else:
            # This is no task of its own yet.
            try:
                message = await _interruptible(self._receive, session)
            except _Ended:
                return await self._end_upgrade()
            self._probed = True  # Once it is asked for the next message, python-engineio has answered this one.
        return await self._examine(message, message.get("text"))

    async def _end_upgrade(self) -> Message:
        if self._probed and self._session.ending in CLOSE_CODES:
            # The client has stopped polling by now. From a WebSocket that it listens on it learns at once that it was
            # closed; from one that failed to become its transport it would learn nothing until its ping timeout.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._receive(), UPGRADE_PATIENCE)
        return await self._end(UNSUPPORTED_DATA)

    async def _examine(self, message: Message, text: str | None) -> Message:
        if message["type"] != "websocket.receive":
            self._closing = True  # There is nobody left to send anything to.
            return message
        session = self._session
        session.active = time.monotonic()
        size = len(message.get("bytes") or b"") if text is None else len(text)
        if text is not None and (problem := packet_problem(text, strict_text=self._endpoint.seam.strict_text)):
            return await self._stop(UNSUPPORTED_DATA, "packet_malformed", problem)
        if not session.joined:
            limit = self._endpoint.connect_packet_bytes
            if size > limit:
                hint = f"{size} characters from a session that has joined no namespace; {limit} are allowed"
                return await self._stop(TOO_BIG, "packet_too_large", hint)
            data = text if text is not None else message.get("bytes") or b""
            parts = count_parts(data, strict_text=self._endpoint.seam.strict_text)
            if parts is None or parts > MAX_PARTS:
                hint = "more values than a session needs to join a namespace"
                return await self._stop(UNSUPPORTED_DATA, "packet_malformed", hint)
        if size > self._max_body:
            hint = f"{size} characters; max_http_buffer_size is {self._max_body}"
            return await self._stop(TOO_BIG, "packet_too_large", hint)
        session.packets_in += 1
        if text is not None and text[:1] == "1" and not self.upgrading:
            # python-engineio forgets the session but would keep the socket open until its timeouts.
            session.ending = "client disconnect"
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if self._opened and self._accepted and not self._closing and message["type"] == "websocket.send":
            return self._send_frame(message)
        return self._send_specially(message)

    async def _send_frame(self, message: Message) -> None:
        text = message.get("text")
        size = len(message.get("bytes") or b"") if text is None else len(text) - 1
        self._writer = asyncio.current_task()
        await self._send(message)
        self._writer = None
        session = self._session
        session.active = time.monotonic()
        done = session.done + size
        session.done = done if done < session.handed else session.handed

    async def _send_specially(self, message: Message) -> None:
        if self._closing:
            return
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self._scope = self._request = None
            message = {**message, "headers": list(_lower_case(message.get("headers", ())))}
        elif not self._accepted:
            self._closing = True
            refusal = HandshakeRefusal(
                "engine_refused",
                403,
                "Bad request",
                "python-engineio refused the WebSocket; its own log has the reason",
            )
            assert self._scope is not None and self._request is not None  # noqa: S101, PT018 - narrow the types
            await self._endpoint._refuse(self._scope, self._request, refusal, self._send, self._session)
            return
        elif kind == "websocket.close":
            await self.close(message.get("code", NORMAL))
            return
        else:
            self._opened = True
            self._session.carrier = self
        await self._send(message)

    async def close(self, code: int) -> None:
        """Close the WebSocket from this side; nothing is sent after it.

        Args:
            code: unless the session was ended for a reason that has a code of its own.
        """
        if self._closing:
            return
        self._closing = True
        if not self._accepted:
            return
        reason = self._session.ending or ""
        message = {"type": "websocket.close", "code": CLOSE_CODES.get(reason, code)}
        if reason in CLOSE_CODES:
            message["reason"] = reason
        sending = asyncio.ensure_future(self._send(message))
        await asyncio.wait((sending,), timeout=CLOSE_TIMEOUT)
        if not sending.done():
            sending.cancel()
        elif not sending.cancelled():
            sending.exception()  # Gone already: as good as closed.

    async def end(self, *, at_once: bool = False) -> None:
        """End the session that this WebSocket carries; its ``ending`` says why.

        Args:
            at_once: don't wait for what is still to be sent: the client does not read.
        """
        self.stopped = True
        if self._reader is not None:
            # python-engineio sends what waits, closes, and tells everybody.
            self._reader.cancel()
        if not at_once:
            self._gone = self._gone or asyncio.get_running_loop().create_future()
            await asyncio.wait((self._gone,), timeout=CLOSE_TIMEOUT)
            if self._gone.done():
                return
        if self._writer is not None:
            self._writer.cancel()
        await self.close(NORMAL)

    def _finished(self) -> None:
        """The application has returned."""
        endpoint, session = self._endpoint, self._session
        if session.carrier is self:
            session.carrier = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self.upgrading and session.ending is None:
            endpoint.seam.abandon_upgrade(session.eio_sid)
            endpoint.patterns.upgrade_failed()
            endpoint.report.upgrade_failed(
                session,
                "the client opened a WebSocket but did not finish the upgrade: a proxy cut it, or the client went away",
            )

    async def _stop(self, code: int, reason: str, hint: str) -> Message:
        self._session.ending = "parse error"
        self._endpoint.seam.identify(self._session)
        self._endpoint.report.packet_rejected(self._session, reason, hint)
        return await self._end(code)

    async def _end(self, code: int) -> Message:
        await self.close(NORMAL if self._session.ending == "client disconnect" else code)
        return {"type": "websocket.disconnect", "code": code}


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


def _lower_case(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """ASGI wants header names in lower case; with others an outer CORS middleware doubles instead of replacing."""
    for name, value in headers:
        name = name.lower()
        yield name, value
        if name == b"access-control-allow-origin":
            yield b"vary", b"Origin"


class _Ended(Exception):
    """The session was ended while a request of it was read."""


async def _interruptible(receive: Receive, session: Session) -> Message:
    """Receive a message for which a client can let us wait; whoever ends the session interrupts it.

    Raises:
        _Ended: the session was ended.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - narrows the type: ASGI applications run in a task
    reading = session.reading
    if reading is None:
        reading = session.reading = set()
    reading.add(task)
    try:
        return await receive()
    except asyncio.CancelledError:
        if session.ending is None or task.uncancel():
            raise
        raise _Ended from None
    finally:
        reading.discard(task)
        if not reading:
            session.reading = None


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


def _is_gone(message: Message) -> bool:
    return message["type"] in ("http.disconnect", "websocket.disconnect")


def _policy(allowed: Any) -> str | Collection[str] | None:
    """python-engineio's ``cors_allowed_origins`` as the handshake reads it.

    An empty list and a callable are python-engineio's own ways, which it decides by itself.
    """
    if allowed is None or allowed == "*":
        return allowed  # type: ignore[no-any-return]
    if isinstance(allowed, str):
        return (allowed,)
    return "*" if callable(allowed) or not allowed or "*" in allowed else allowed
