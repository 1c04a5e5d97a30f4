"""What carries a session over one WebSocket: a reader in the ASGI server's own task, and one writer."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.types import Message, Receive, Send

from socketguard.connection import Session
from socketguard.diagnosis.traffic import Patterns

from .answers import TOO_BIG, UNSUPPORTED_DATA, is_gone
from .context import Context
from .endings import CLOSE_CODES
from .incoming import MOST_EVENT_BYTES, MOST_EVENTS, Incoming, has_room
from .packets import DIGITS, count_parts, excess, packet_problem
from .socket import CLOSE_TIMEOUT, NORMAL, Socket

__all__ = ["UPGRADE_TIMEOUT", "WebSockets"]

UPGRADE_TIMEOUT = 10.0
"""Seconds that an upgrade may take, as in the reference server (``upgradeTimeout``)."""

_PROBE = "2probe"
_PROBE_ANSWER = "3probe"


class WebSockets:
    """Carries the sessions of one server over WebSockets."""

    def __init__(self, context: Context, incoming: Incoming, patterns: Patterns) -> None:
        self._incoming = incoming
        self._eio = context.server.eio
        self._engine = context.engine
        self._endings = context.endings
        self._report = context.report
        self._patterns = patterns

    # Beginnings

    async def open(self, socket: Socket, opening: str, receive: Receive, send: Send) -> None:
        """Carry a new session, whose client is told what it is."""
        socket.upgraded = True
        opened = False
        try:
            with contextlib.suppress(Exception):  # The client has gone.
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.send", "text": opening})
                opened = True
        finally:
            if not opened:
                await socket.end(self._eio.reason.TRANSPORT_ERROR)
        if opened:
            await self._carry(socket, receive, send)

    async def refuse(self, receive: Receive, send: Send) -> None:
        """Close a second upgrade; a refusal by HTTP would be an error of the session to its client."""
        if not is_gone(await receive()):
            await self.close(send)

    @staticmethod
    async def close(send: Send) -> None:
        """Accept a WebSocket that nobody needs, and close it."""
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": NORMAL})

    async def upgrade(self, socket: Socket, receive: Receive, send: Send) -> None:
        """Take over a session that is polled, if its client finishes the upgrade in time."""
        cause = (
            "the client opened a WebSocket but did not finish the upgrade: a proxy cut it, the client went away, or "
            "one of its polls reached another worker"
        )
        upgraded = False
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type: ASGI applications run in a task
        # Before anything is waited for: there is one upgrade at a time.
        socket.upgrade = asyncio.timeout(UPGRADE_TIMEOUT)
        try:
            async with socket.upgrade:
                upgraded = await self._exchange(socket, receive, send)
        except TimeoutError:
            cause = (
                f"the upgrade was not finished after {UPGRADE_TIMEOUT:g} s: something on the way opens WebSockets but "
                "lets no frames through; the session goes on over polling"
            )
        finally:
            socket.upgrade, socket.upgrading = None, False
            if not upgraded:
                code = NORMAL if socket.closing else UNSUPPORTED_DATA
                if not socket.closing:
                    self._patterns.upgrade_failed()
                    self._report.upgrade_failed(socket.record, cause)
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(send(_close(socket, code)), CLOSE_TIMEOUT)
        if upgraded:
            await self._carry(socket, receive, send)

    async def _exchange(self, socket: Socket, receive: Receive, send: Send) -> bool:
        """The probe, its answer and the upgrade; False when the client did something else."""
        if is_gone(await receive()):
            return False
        await send({"type": "websocket.accept"})
        if await self._probe(receive) != _PROBE or socket.closing:
            return False
        socket.upgrading = True
        await send({"type": "websocket.send", "text": _PROBE_ANSWER})
        # The client sends the last packet of the upgrade when its poll has been answered.
        socket.wake()
        while (text := await self._probe(receive)) == _PROBE:
            await send({"type": "websocket.send", "text": _PROBE_ANSWER})
        if text != "5":
            return False
        socket.upgraded = True
        socket.record.transport = "websocket"
        if not socket.closing:
            self._report.upgraded(socket.record)
            self._patterns.upgraded()
        return True

    async def _probe(self, receive: Receive) -> str | None:
        message = await receive()
        text = message.get("text")
        return text if isinstance(text, str) and len(text) <= len(_PROBE) else None

    # The way in

    async def _carry(self, socket: Socket, receive: Receive, send: Send) -> None:
        socket.carry(send)
        try:
            reason = await self._read(socket, receive)
        except BaseException:
            socket.broken = True  # The ASGI server gives it up.
            reason = self._eio.reason.TRANSPORT_CLOSE
            raise
        finally:
            # The ASGI server may wait no longer for what has ended anyway.
            with contextlib.suppress(asyncio.CancelledError):
                await self._endings.left(socket, reason)
                await self._finish(socket, send)

    async def _finish(self, socket: Socket, send: Send) -> None:
        """Say the last and close, if the client takes that in time; the request lasts as long as its session."""
        if (writer := socket.writer) is not None:
            try:
                if not socket.broken and not writer.done():
                    await asyncio.wait((writer,), timeout=CLOSE_TIMEOUT)
            finally:
                socket.writer = None  # A task and who holds it would be left to the garbage collector.
                if socket.size:
                    writer.cancel()  # Else it has been woken, and ends by itself.
        if not socket.broken:
            with contextlib.suppress(Exception):  # Gone: as good as closed.
                await asyncio.wait_for(send(_close(socket, socket.code)), CLOSE_TIMEOUT)
        if socket.leaving is not None and not socket.leaving.done():
            await asyncio.wait((socket.leaving,))

    async def _read(self, socket: Socket, receive: Receive) -> str:
        """Hand on what the client sends until its session ends, and return why."""
        record, engine, eio = socket.record, self._engine, self._eio
        message_of, sid = self._incoming.message, socket.sid
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type: ASGI applications run in a task
        try:
            while not socket.closing:
                # Only while it waits for the client may the end of the session interrupt it.
                socket.reader = task
                message = await receive()
                socket.reader = None
                text = message.get("text")
                if (
                    text is not None
                    and text[:1] == "4"
                    and text[1:2] in DIGITS
                    and record.joined
                    and len(text) <= eio.max_http_buffer_size
                ):
                    record.active = time.monotonic()
                    record.packets_in += 1
                    if engine.observed:
                        engine.note_in(sid, text)
                    await message_of(sid, text[1:])
                elif (reason := await self._take(socket, message, text)) is not None:
                    return reason
                if record.handling > MOST_EVENTS or record.handling_bytes > MOST_EVENT_BYTES:
                    await has_room(socket)
        except asyncio.CancelledError:
            if not socket.interrupted(task):
                raise
        finally:
            socket.reader = None
        return str(eio.reason.TRANSPORT_ERROR if socket.broken else eio.reason.SERVER_DISCONNECT)

    async def _take(self, socket: Socket, message: Message, text: str | None) -> str | None:
        """Take a frame that isn't a usual message; returns the reason when it ends the session."""
        record, engine = socket.record, self._engine
        if message["type"] != "websocket.receive":
            socket.broken = True
            return str(self._eio.reason.TRANSPORT_CLOSE)
        data: str | bytes = (message.get("bytes") or b"") if text is None else text
        problem = self._problem(record, data)
        if problem is not None:
            code, hint = problem
            self._report.packet_rejected(record, "packet_too_large" if code == TOO_BIG else "packet_malformed", hint)
            record.ending = "parse error"
            socket.code = code
            return record.ending
        record.active = time.monotonic()
        record.packets_in += 1
        if engine.observed:
            engine.note_in(socket.sid, data)
        if data == "1":
            record.ending = record.ending or str(self._eio.reason.CLIENT_DISCONNECT)
            return record.ending
        await self._incoming.take(socket, data)
        return None

    def _problem(self, record: Session, data: str | bytes) -> tuple[int, str] | None:
        """Say what is wrong with a frame, with the code to close for it, or None."""
        engine = self._engine
        strict_text = self._incoming.strict_text
        problem = packet_problem(data, strict_text=strict_text) if isinstance(data, str) else None
        if problem is not None:
            return UNSUPPORTED_DATA, problem
        if not record.joined:
            limit = engine.max_body_of_stranger
            if len(data) > limit:
                return (
                    TOO_BIG,
                    f"{len(data)} characters from a session that has joined no namespace; {limit} are allowed",
                )
            problem = excess(count_parts(data, strict_text=strict_text))
            if problem is not None:
                return UNSUPPORTED_DATA, problem
        if len(data) > engine.max_body:
            return TOO_BIG, f"{len(data)} characters; max_http_buffer_size is {engine.max_body}"
        return None


def _close(socket: Socket, code: int) -> Message:
    """The close frame; the reason of the end may have a code of its own."""
    reason = socket.record.ending or ""
    if reason not in CLOSE_CODES:
        return {"type": "websocket.close", "code": code}
    return {"type": "websocket.close", "code": CLOSE_CODES[reason], "reason": reason}
