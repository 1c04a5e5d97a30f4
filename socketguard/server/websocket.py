"""One WebSocket between the ASGI server and python-engineio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from socketguard.connection import HandshakeRequest, Session
from socketguard.diagnosis.traffic import Patterns
from socketguard.errors import HandshakeCode, Refusal

from .answers import NORMAL, TOO_BIG, UNSUPPORTED_DATA, Answers, is_gone, lower_case
from .context import Context
from .endings import CLOSE_CODES
from .packets import MAX_PARTS, count_parts, packet_problem
from .polling import SessionEnded, interruptible

__all__ = ["CLOSE_TIMEOUT", "UPGRADE_PATIENCE", "WebSocket", "WebSockets"]

# How the frames begin that clients send all the time: messages and pongs.
_USUAL = frozenset({"3", *(f"4{digit}" for digit in "0123456")})

CLOSE_TIMEOUT = 5.0
"""Seconds that a close frame may take to a client that does not read."""

UPGRADE_PATIENCE = 2.0
"""Seconds that a client has to finish an upgrade that it has begun, when its session ends meanwhile."""


class WebSockets:
    """What all WebSockets of one server share."""

    def __init__(self, context: Context, answers: Answers, patterns: Patterns) -> None:
        self.handle_request = context.server.handle_request
        self.engine = context.engine
        self.report = context.report
        self.answers = answers
        self.patterns = patterns

    def serve(
        self, scope: Scope, request: HandshakeRequest, session: Session, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None]:
        """Serve one; no coroutine function, since each open WebSocket would keep one more frame in memory."""
        return WebSocket(self, scope, request, session, receive, send).run()


class WebSocket:
    """``receive`` and ``send`` of one WebSocket, as python-engineio gets them."""

    __slots__ = (
        "_accepted",
        "_closing",
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
        "_shared",
        "_writer",
        "stopped",
        "upgrading",
    )

    def __init__(
        self,
        shared: WebSockets,
        scope: Scope,
        request: HandshakeRequest,
        session: Session,
        receive: Receive,
        send: Send,
    ) -> None:
        self._shared = shared
        self._session = session
        self._first: Message | None = None
        self._receive = receive
        self._send = send
        self._max_body = shared.engine.max_body
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
        if is_gone(self._first):
            return
        try:
            assert self._scope is not None  # noqa: S101 - narrows the type: it is there until the WebSocket is accepted
            await self._shared.handle_request(self._scope, self.receive, self.send)
        except Exception as exc:
            await self._fail(exc)
        finally:
            self._finished()

    async def _fail(self, error: Exception) -> None:
        """A frame that python-engineio can't decode: it would leave the session to its ping timeout."""
        shared, session = self._shared, self._session
        shared.report.packet_rejected(session, "packet_malformed", "python-engineio could not decode a frame", error)
        await shared.engine.end(session.eio_sid, "parse error")
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
        if self._shared.engine.upgraded(session.eio_sid):
            self.upgrading = False
            session.carrier = self
            session.transport = "websocket"
            self._shared.engine.identify(session)
            self._shared.report.upgraded(session)
            self._shared.patterns.upgraded()
            self._reader = asyncio.current_task()
            message = await self._receive()
        else:
            # This is no task of its own yet.
            try:
                message = await interruptible(self._receive, session)
            except SessionEnded:
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
        if text is not None and (problem := packet_problem(text, strict_text=self._shared.engine.strict_text)):
            return await self._stop(UNSUPPORTED_DATA, "packet_malformed", problem)
        if not session.joined:
            limit = self._shared.engine.max_body_of_stranger
            if size > limit:
                hint = f"{size} characters from a session that has joined no namespace; {limit} are allowed"
                return await self._stop(TOO_BIG, "packet_too_large", hint)
            data = text if text is not None else message.get("bytes") or b""
            parts = count_parts(data, strict_text=self._shared.engine.strict_text)
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
            message = {**message, "headers": list(lower_case(message.get("headers", ())))}
        elif not self._accepted:
            self._closing = True
            hint = {"hint": "python-engineio refused the WebSocket; its own log has the reason"}
            refusal = Refusal(HandshakeCode.ENGINE_REFUSED, fields=hint)
            assert self._scope is not None and self._request is not None  # noqa: S101, PT018 - narrow the types
            await self._shared.answers.refuse(self._scope, self._request, refusal, self._send, self._session)
            return
        elif kind == "websocket.close":
            await self.close(message.get("code", NORMAL))
            return
        else:
            self._opened = True
            self._session.carrier = self
        await self._send(message)

    async def close(self, code: int) -> None:
        """Close the WebSocket from this side; the code counts unless the reason of the end has one of its own."""
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
        """End the session that this WebSocket carries; ``at_once`` when its client does not read what waits."""
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
        shared, session = self._shared, self._session
        if session.carrier is self:
            session.carrier = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self.upgrading and session.ending is None:
            shared.engine.abandon_upgrade(session.eio_sid)
            shared.patterns.upgrade_failed()
            shared.report.upgrade_failed(
                session,
                "the client opened a WebSocket but did not finish the upgrade: a proxy cut it, or the client went away",
            )

    async def _stop(self, code: int, reason: str, hint: str) -> Message:
        self._session.ending = "parse error"
        self._shared.engine.identify(self._session)
        self._shared.report.packet_rejected(self._session, reason, hint)
        return await self._end(code)

    async def _end(self, code: int) -> Message:
        await self.close(NORMAL if self._session.ending == "client disconnect" else code)
        return {"type": "websocket.disconnect", "code": code}
