"""One HTTP request of a polled session, between the ASGI server and python-engineio."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from socketguard.connection import HandshakeRequest, Session
from socketguard.errors import HandshakeCode, Refusal, new_ref

from .answers import Answers, is_gone, lower_case
from .context import Context
from .endings import CLOSE_CODES
from .handshake import DRAINING, ENDED
from .packets import body_problem

__all__ = ["Polling", "SessionEnded", "interruptible"]


class SessionEnded(Exception):
    """The session was ended while a request of it was read."""


class Polling:
    """Serves HTTP requests."""

    def __init__(self, context: Context, answers: Answers) -> None:
        self._handle_request = context.server.handle_request
        self._engine = context.engine
        self._drain = context.drain
        self._report = context.report
        self._answers = answers

    async def serve(
        self, scope: Scope, request: HandshakeRequest, session: Session, receive: Receive, send: Send
    ) -> None:
        """Serve a request."""
        engine, sid = self._engine, request.sid or ""
        try:
            first = await (receive() if request.sid is None else interruptible(receive, session))
            if is_gone(first):
                return  # python-engineio would stumble over a client that has gone.
            if request.method == "POST":
                # Once: the session may join while its body is on the way, and what was cut off must not pass then.
                limit = engine.max_body if session.joined else engine.max_body_of_stranger
                body = await self._body(request, limit, first, receive, session)
                if body is None:
                    return
                found = body_problem(body, limit=limit, strict_text=engine.strict_text, stranger=not session.joined)
                if session.ending is not None:
                    raise SessionEnded
                if isinstance(found, Refusal):
                    await self._answers.refuse(scope, request, found, send, session)
                    # What was in the body is lost, so that the session can't go on as if nothing had happened.
                    await engine.end(sid, "parse error")
                    return
                session.packets_in += found
                first = {"type": "http.request", "body": body, "more_body": False}
                # The length may be missing (chunked), and python-engineio reads exactly so many bytes.
                scope["headers"] = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
                scope["headers"].append((b"content-length", str(len(body)).encode()))
        except SessionEnded:
            await self._answers.refuse(scope, request, DRAINING if self._drain.begun else ENDED, send, session)
            if session.ending not in CLOSE_CODES:
                await engine.end(sid, "parse error")
            return

        async def replay() -> Message:
            return first

        taken = 0

        async def pass_on(message: Message) -> None:
            nonlocal taken
            if message["type"] == "http.response.start":
                self._note_status(request, session, message["status"])
                message = {**message, "headers": list(lower_case(message.get("headers", ())))}
                if request.method == "GET" and not engine.has_queue(session.eio_sid):
                    taken = session.handed  # All that waited is in this answer.
            await send(message)
            if taken and message["type"] == "http.response.body":
                session.done = max(session.done, taken)

        await self._handle_request(scope, replay, pass_on)
        if request.method == "POST":
            engine.release_poll(sid)

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
            message = await interruptible(receive, session)
            if is_gone(message):
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                break
        return bytes(body[: limit + 1])

    def _note_status(self, request: HandshakeRequest, session: Session, status: int) -> None:
        if status >= 400:
            hint = {"hint": "python-engineio refused the request; its own log has the reason"}
            refusal = Refusal(HandshakeCode.ENGINE_REFUSED, fields=hint, http_status=status)
            self._report.handshake_rejected(request, refusal, new_ref(), session)


async def interruptible(receive: Receive, session: Session) -> Message:
    """Receive a message for which a client can let us wait; whoever ends the session interrupts it.

    Raises:
        SessionEnded: the session was ended.
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
        raise SessionEnded from None
    finally:
        reading.discard(task)
        if not reading:
            session.reading = None
