"""A small application that can be deployed well and badly: ``python -m uvicorn tests.e2e.deployed:app``.

The environment variable ``E2E_SETTINGS`` (JSON) says how it is set up; see `Settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import Any

import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from socketguard import Heartbeat, Limits, SocketGuard
from socketguard.testing import make_auth


@dataclass
class Settings:
    """How the application is set up; the heartbeat is in seconds."""

    guarded: bool = False
    interval: int = 25
    timeout: int = 20
    serializer: str = "default"
    age: float | None = None  # seconds after which each WebSocket ends, as in services that bound every request
    options: dict[str, Any] = field(default_factory=dict)  # further ones of `SocketGuard`


def end_with_the_tests() -> None:
    """End this process when the one that started it has gone, however that ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if "E2E_WORKER" not in os.environ:  # A worker process has another stdin.
    threading.Thread(target=end_with_the_tests, daemon=True).start()

SETTINGS = Settings(**json.loads(os.environ.get("E2E_SETTINGS", "{}")))
sio = socketio.AsyncServer(
    async_mode="asgi",
    serializer=SETTINGS.serializer,
    ping_interval=SETTINGS.interval,
    ping_timeout=SETTINGS.timeout,
)


async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    return None


async def connect_with_room(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.enter_room(sid, "tenant:acme", namespace="/scheduler")


async def hang(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await asyncio.Event().wait()


async def fail(sid: str, environ: dict[str, Any], auth: Any) -> None:
    raise ValueError("a handler that fails")


async def save(sid: str, text: str) -> str:
    return text


sio.on("connect", connect)
sio.on("connect", connect, namespace="/messages")
sio.on("message:save", save, namespace="/messages")
sio.on("connect", connect_with_room, namespace="/scheduler")
sio.on("connect", hang, namespace="/hangs")
sio.on("connect", fail, namespace="/fails")


async def emit(request: Request) -> PlainTextResponse:
    """Emit as the application itself would, from one of its routes."""
    asked = request.query_params
    await sio.emit(asked["event"], "text", namespace=asked["namespace"], room=asked.get("room"))
    return PlainTextResponse("emitted")


async def drain(request: Request) -> PlainTextResponse:
    await SocketGuard.of(sio).drain(0)
    return PlainTextResponse("drained")


web = Starlette(routes=[Route(f"/control/{route.__name__}", route, methods=["POST"]) for route in (emit, drain)])
app: Any = socketio.ASGIApp(sio)
if SETTINGS.guarded:
    app = SocketGuard(
        socketio.ASGIApp(sio, other_asgi_app=web),
        auth=make_auth(),
        namespaces=["/", "/messages", "/scheduler", "/hangs", "/fails"],
        heartbeat=Heartbeat(SETTINGS.interval, SETTINGS.timeout),
        # All that the tests break comes from one address.
        limits=Limits(failures_per_address=None),
        **{"trusted_proxies": ["127.0.0.1"], **SETTINGS.options},
    )

inner = app


async def mortal(scope: Any, receive: Any, send: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTINGS.age):
            await inner(scope, receive, send)


if SETTINGS.age is not None:
    app = mortal
