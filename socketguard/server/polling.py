"""The HTTP requests of a polled session: one GET and one POST at a time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterable

from starlette.types import Message, Receive, Scope, Send

from socketguard.connection import HandshakeRequest
from socketguard.errors import HandshakeCode, Refusal

from .answers import Answers, is_gone
from .context import Context
from .handshake import DRAINING, ENDED, upgraded
from .incoming import Incoming, has_room
from .packets import packets_of
from .socket import Ended, Socket, interruptible, size_of

__all__ = ["TEXT", "Polling", "payload"]

_NOOP = "6"

_UPGRADING = 0.1
"""Seconds that a poll waits while an upgrade is being finished; to answer at once would have the client poll in a
loop."""

TEXT = (b"content-type", b"text/plain; charset=UTF-8")


class Polling:
    """Serves polled sessions of one server."""

    def __init__(self, context: Context, incoming: Incoming, answers: Answers) -> None:
        self._eio = context.server.eio
        self._engine = context.engine
        self._drain = context.drain
        self._endings = context.endings
        self._incoming = incoming
        self._answers = answers

    async def open(self, socket: Socket, opening: str, scope: Scope, request: HandshakeRequest, send: Send) -> None:
        """Answer the GET that has made a session."""
        cookie = self._eio.cookie
        headers = [TEXT]
        if cookie:
            options = cookie if isinstance(cookie, dict) else {"name": cookie, "path": "/", "SameSite": "Lax"}
            headers.append((b"set-cookie", self._eio._generate_sid_cookie(socket.sid, options).encode()))
        items = socket.take()
        await self._answers.succeed(scope, request, send, payload((opening, *items)), headers)
        socket.left(sum(map(size_of, items)))

    async def serve(
        self, socket: Socket, scope: Scope, request: HandshakeRequest, receive: Receive, send: Send
    ) -> None:
        """Answer a GET or a POST."""
        if request.method == "GET":
            if not socket.polling:
                await self._get(socket, scope, request, send)
                return
        elif not socket.posting:
            socket.posting = True
            await self._post(socket, scope, request, receive, send)
            return
        hint = {
            "hint": f"a {request.method} while another of the same session is under way: a client that asks twice, a "
            "proxy that repeats requests, or somebody else uses the session id; the session was ended"
        }
        refusal = Refusal(HandshakeCode.REQUESTS_OVERLAP, fields=hint)
        await self._answers.refuse(scope, request, refusal, send, socket.record)
        # Engine.IO's CLOSE, after which Python's client does not come back: no client asks twice by itself.
        await self._end(socket, str(self._eio.reason.TRANSPORT_ERROR), ("1",))

    async def _get(self, socket: Socket, scope: Scope, request: HandshakeRequest, send: Send) -> None:
        late = socket.upgrading
        socket.polling = True
        try:
            if late:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(socket.wait(), _UPGRADING)
            else:
                # An ASGI server that ends waits for its requests, then cancels them: that is an answer too.
                with contextlib.suppress(asyncio.CancelledError):
                    await socket.wait()
        finally:
            # From here on its client may have the answer, and ask again.
            socket.polling = False
        if late and socket.upgraded:
            await self._answers.refuse(scope, request, upgraded(request), send, socket.record)
            return
        items = [] if socket.upgraded else socket.take()
        await self._answers.succeed(scope, request, send, payload(items or (_NOOP,)), [TEXT])
        socket.left(sum(map(size_of, items)))

    async def _post(
        self, socket: Socket, scope: Scope, request: HandshakeRequest, receive: Receive, send: Send
    ) -> None:
        engine, record = self._engine, socket.record
        try:
            # Once: the session may join while its body is on the way, and what was cut off must not pass then.
            limit = engine.max_body if record.joined else engine.max_body_of_stranger
            body = await self._body(socket, request, limit, receive)
            if body is None:
                return
            found = packets_of(body, limit=limit, strict_text=self._incoming.strict_text, stranger=not record.joined)
            if isinstance(found, Refusal):
                await self._answers.refuse(scope, request, found, send, record)
                # What was in the body is lost, so that the session can't go on as if nothing had happened.
                await self._end(socket, "parse error")
                return
            await self._take(socket, found)
        except Ended:
            await self._answers.refuse(scope, request, DRAINING if self._drain.begun else ENDED, send, record)
            return
        finally:
            socket.posting = False  # As soon as its client has the answer, it may send more.
        await self._answers.succeed(scope, request, send, b"ok", [(b"content-type", b"text/html")])

    async def _take(self, socket: Socket, packets: Iterable[str | bytes]) -> None:
        record, engine = socket.record, self._engine
        for packet in packets:
            if socket.closing:
                raise Ended
            record.packets_in += 1
            if engine.observed:
                engine.note_in(socket.sid, packet)
            if packet == "1":
                await self._end(socket, str(self._eio.reason.CLIENT_DISCONNECT))
                return
            connects = record.connects
            await self._incoming.take(socket, packet)
            if record.connects > connects > 0:
                # Sixteen of them fit into one body: the loop gets a turn between two.
                await asyncio.sleep(0)
        await has_room(socket)

    async def _end(self, socket: Socket, reason: str, last: Iterable[str] = ()) -> None:
        socket.record.ending = socket.record.ending or reason
        await self._endings.left(socket, reason, last)

    async def _body(self, socket: Socket, request: HandshakeRequest, limit: int, receive: Receive) -> bytes | None:
        """The body, cut off one byte above the limit; None when the client has gone."""
        declared = request.content_length
        if declared is not None and (not declared.isascii() or not declared.isdigit() or len(declared) > 15):
            return b"\0"  # No length that a client can mean: refused as malformed.
        if declared is not None and int(declared) > limit:
            return bytes(limit + 1)
        body = bytearray()
        message: Message = {"more_body": True}
        while message.get("more_body") and len(body) <= limit:
            message = await interruptible(receive, socket)
            if is_gone(message):
                return None
            body += message.get("body", b"")
        return bytes(body[: limit + 1])


def payload(items: Iterable[str | bytes]) -> bytes:
    """Packets as the body of an answer."""
    return "\x1e".join(
        [item if isinstance(item, str) else "b" + base64.b64encode(item).decode() for item in items]
    ).encode()
