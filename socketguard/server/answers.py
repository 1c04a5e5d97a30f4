"""Answers of the guard's own to a request, in place of python-engineio's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from starlette.types import Message, Scope, Send

from socketguard.connection import HandshakeRequest, Session
from socketguard.errors import Refusal, RejectCode, new_ref
from socketguard.logs.report import Report

from .engine import Engine, origins_of
from .environ import environment
from .handshake import cors_headers, origin_is_allowed

__all__ = ["INTERNAL_ERROR", "NORMAL", "TOO_BIG", "UNSUPPORTED_DATA", "Answers", "answer", "is_gone"]

NO_STORE = (b"cache-control", b"no-store")
"""On every answer: a handshake that a cache keeps is a session that somebody else can read."""

# Close codes of WebSockets (RFC 6455, section 7.4.1).
NORMAL, UNSUPPORTED_DATA, TOO_BIG, INTERNAL_ERROR = 1000, 1003, 1009, 1011


class Answers:
    """Answers requests to the endpoint, and has them logged."""

    def __init__(self, engine: Engine, report: Report) -> None:
        self._engine = engine
        self._report = report

    async def succeed(
        self,
        scope: Scope,
        request: HandshakeRequest,
        send: Send,
        body: bytes,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        """Answer with 200, compressed where python-engineio would do it and the client can read it."""
        eio = self._engine.server.eio
        if len(body) >= eio.compression_threshold and eio.http_compression:
            body, encoding = self._compressed(body, request)
            if encoding is not None:
                headers.append((b"content-encoding", encoding.encode()))
        headers += self._cors(scope, request)
        headers += (NO_STORE, (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _compressed(self, body: bytes, request: HandshakeRequest) -> tuple[bytes, str | None]:
        eio = self._engine.server.eio
        accepted = b",".join([value for name, value in request.headers if name == b"accept-encoding"]).decode("latin-1")
        for each in accepted.split(","):
            encoding = each.partition(";")[0].strip()
            if encoding in eio.compression_methods:
                return getattr(eio, f"_{encoding}")(body), encoding
        return body, None

    def entitled(self, scope: Scope, request: HandshakeRequest) -> bool:
        """Whether pages of the origin may read answers, by ``cors_allowed_origins`` as it is now."""
        allowed = self._engine.allowed_origins
        if not callable(allowed):
            return origin_is_allowed(request, origins_of(allowed))
        if request.origin is None:
            return True
        environ = environment(scope, _nothing, _nothing, None)
        try:
            return request.origin in self._engine.server.eio._cors_allowed_origins(environ)
        except Exception as exc:
            self._report.handler_failed(None, "cors_allowed_origins", exc)
            return False

    def _cors(self, scope: Scope, request: HandshakeRequest) -> list[tuple[bytes, bytes]]:
        if request.origin is None or self._engine.allowed_origins == []:
            return []
        entitled = self.entitled(scope, request)
        headers = cors_headers(request, allowed=entitled, credentials=self._engine.credentials)
        if request.method == "OPTIONS":
            headers.append((b"access-control-allow-methods", b"OPTIONS, GET, POST"))
        asked = [value for name, value in request.headers if name == b"access-control-request-headers"]
        return [*headers, *((b"access-control-allow-headers", value) for value in asked)]

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
        written = not quietly and self._report.handshake_rejected(request, refusal, ref, session)
        headers = self._cors(scope, request)
        # uvicorn logs an ERROR for each refused WebSocket that has a body; in a flood the bare close must do. Not so
        # while draining: balancers try another worker after a 503, and not after the 403 that the close becomes.
        body = written or refusal.code is RejectCode.DRAINING
        await answer(scope, send, refusal, ref, headers, body_over_websocket=body)


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
    start = [(b"content-type", b"application/json"), *headers, NO_STORE]
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


async def _nothing(*args: Any) -> Any:
    """Stands in for ``receive`` and ``send`` where only the head of a request is looked at."""
