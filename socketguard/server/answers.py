"""Answers of the guard's own to a request, in place of python-engineio's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from starlette.types import Message, Scope, Send

from socketguard.connection import HandshakeRequest, Session
from socketguard.errors import Refusal, new_ref
from socketguard.logs.report import Report

from .engine import Engine, origins_of
from .handshake import cors_headers, origin_is_allowed

__all__ = ["INTERNAL_ERROR", "NORMAL", "TOO_BIG", "UNSUPPORTED_DATA", "Answers", "answer", "is_gone", "lower_case"]

# Close codes of WebSockets (RFC 6455, section 7.4.1).
NORMAL, UNSUPPORTED_DATA, TOO_BIG, INTERNAL_ERROR = 1000, 1003, 1009, 1011


class Answers:
    """Answers requests to the endpoint, and has them logged."""

    def __init__(self, engine: Engine, report: Report) -> None:
        self._engine = engine
        self._report = report

    async def refuse(
        self,
        scope: Scope,
        request: HandshakeRequest,
        refusal: Refusal,
        send: Send,
        session: Session | None,
        *,
        quietly: bool = False,
    ) -> None:
        """Answer with a refusal, and write a line of it unless there is one already."""
        ref = new_ref()
        if session is not None:
            self._engine.identify(session)
        written = not quietly and self._report.handshake_rejected(request, refusal, ref, session)
        allowed = self._engine.allowed_origins
        # Where python-engineio decides by itself (a callable), the guard can't tell who is entitled.
        entitled = not callable(allowed) and allowed != [] and origin_is_allowed(request, origins_of(allowed))
        headers = cors_headers(request, allowed=entitled, credentials=self._engine.credentials)
        # uvicorn logs an ERROR for each refused WebSocket that has a body; in a flood the bare close must do.
        await answer(scope, send, refusal, ref, headers, body_over_websocket=written)


async def answer(
    scope: Scope,
    send: Send,
    refusal: Refusal,
    ref: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    body_over_websocket: bool = True,
) -> None:
    """Answer a request with a status and a JSON body, over WebSocket too where the ASGI server can do that."""
    reply, retry_after = refusal.reply, refusal.retry_after
    kind = "http.response"
    if scope["type"] == "websocket":
        if not body_over_websocket or "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": NORMAL, "reason": reply.message})
            return
        kind = "websocket.http.response"
    content: dict[str, Any] = {"code": refusal.code, "message": reply.message, "retry": reply.retry, "ref": ref}
    start = [(b"content-type", b"application/json"), *headers]
    if retry_after is not None:
        content["retry_after"] = retry_after
        start.append((b"retry-after", str(retry_after).encode()))
    body = json.dumps(content, separators=(",", ":")).encode()
    start.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": start})
    await send({"type": f"{kind}.body", "body": body})


def is_gone(message: Message) -> bool:
    """Whether a message says that the client has gone."""
    return message["type"] in ("http.disconnect", "websocket.disconnect")


def lower_case(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """Header names as ASGI wants them; with others an outer CORS middleware doubles instead of replacing."""
    for name, value in headers:
        name = name.lower()
        yield name, value
        if name == b"access-control-allow-origin":
            yield b"vary", b"Origin"
