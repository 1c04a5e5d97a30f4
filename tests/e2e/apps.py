"""A small CRM behind the guard, as real servers run it: ``python -m uvicorn tests.e2e.apps:app``.

The environment variable ``E2E_SETTINGS`` (JSON) says how it is set up; see `Settings`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import Any

import socketio
import structlog
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from socketguard import Heartbeat, JWTAuth, Limits, NamespacePolicy, SocketGuard, current_connection
from socketguard.logs import ConnectionFilter, add_connection
from socketguard.testing import make_auth


@dataclass
class Settings:
    """How the application is set up."""

    serializer: str = "default"
    host_logging: str = "none"
    admission_timeout: float = 200.0
    allowed_origins: Any = None
    trusted_proxies: list[str] = field(default_factory=lambda: ["127.0.0.1"])
    sources: list[str] = field(default_factory=lambda: ["payload", "header"])
    outside: str = "nothing"
    packets_logged: bool = False
    namespaces: list[str] | None = None
    """Only these, with a token."""
    auth: dict[str, Any] = field(default_factory=lambda: {"max_lifetime": 7200})
    """Options of `JWTAuth`; with ``jwks_url`` among them, the keys are fetched."""
    limits: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Further ones of `SocketGuard`. No deadline ends anything unless a test shortens it."""
    drain_on_sigterm: float | None = None


def end_with_the_tests() -> None:
    """End this process when the one that started it has gone, however that ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=end_with_the_tests, daemon=True).start()

SETTINGS = Settings(**json.loads(os.environ.get("E2E_SETTINGS", "{}")))

logging.getLogger("socketguard").setLevel(logging.DEBUG)
if SETTINGS.host_logging == "basic":
    logging.basicConfig(level=logging.INFO)
elif SETTINGS.host_logging == "filtered":
    handler = logging.StreamHandler()
    handler.addFilter(ConnectionFilter(log_claims=("tenant_id",)))
    handler.setFormatter(logging.Formatter("%(message)s | %(sid)s %(namespace)s %(subject)s %(tenant_id)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
elif SETTINGS.host_logging == "structlog":
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_connection,
            structlog.processors.add_log_level,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(),
    )

packets: Any = logging.getLogger("packets") if SETTINGS.packets_logged else False
sio = socketio.AsyncServer(
    async_mode="asgi",
    serializer=SETTINGS.serializer,
    logger=packets,
    engineio_logger=packets,
)
gate = asyncio.Event()
entered: list[str] = []


def say(event: str) -> None:
    """A log line of the application itself."""
    if SETTINGS.host_logging == "structlog":
        structlog.get_logger().info(event)
    else:
        logging.getLogger("crm").info(event)


# What every namespace does, so that a client can look at itself from the server's side.


async def whoami(sid: str) -> dict[str, Any]:
    connection = current_connection()
    return {
        "sid": sid,
        "same_sid": sid == connection.sid,
        "namespace": connection.namespace,
        "subject": connection.identity.subject,
        "placeholders": dict(connection.placeholders),
        "client_address": connection.client_address,
        "transport": connection.transport,
    }


async def echo(sid: str, *args: Any) -> Any:
    return args


async def blob(sid: str, data: bytes) -> dict[str, Any]:
    say("a file arrived")
    await sio.emit("blob", data[::-1], to=sid, namespace=current_connection().namespace)
    return {"is_bytes": isinstance(data, bytes), "size": len(data), "back": data, **(await whoami(sid))}


async def send(sid: str, text: str) -> str:
    connection = current_connection()
    tenant = connection.identity.claims["tenant_id"]
    await sio.emit("message:new", {"text": text}, room=f"tenant:{tenant}", namespace=connection.namespace)
    return "sent"


async def boom(sid: str) -> None:
    raise RuntimeError("a defect of the application")


async def join_tenant(sid: str, environ: dict[str, Any], auth: Any) -> None:
    connection = current_connection()
    say("joining")
    await sio.enter_room(sid, f"tenant:{connection.identity.claims.get('tenant_id')}", namespace=connection.namespace)


async def leave(sid: str, reason: str) -> None:
    say("leaving")


async def plain(sid: str, environ: dict[str, Any], auth: Any) -> None:
    return None


# Connect handlers that go wrong in every way.


async def raises(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.enter_room(sid, "tenant:acme", namespace="/raises")
    raise RuntimeError("the database password is hunter2")


async def returns_false(sid: str, environ: dict[str, Any], auth: Any) -> bool:
    return False


async def refuses(sid: str, environ: dict[str, Any], auth: Any) -> None:
    raise socketio.exceptions.ConnectionRefusedError("The trial is over", {"plan": "free", "days": 0})


async def hangs(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.enter_room(sid, "tenant:acme", namespace="/hangs")
    entered.append("/hangs")
    await asyncio.Event().wait()


async def stubborn(sid: str, environ: dict[str, Any], auth: Any) -> bool:
    entered.append("/stubborn")
    while not gate.is_set():
        try:
            await gate.wait()
        except asyncio.CancelledError:
            continue
    return True


async def waits(sid: str, environ: dict[str, Any], auth: Any) -> bool:
    await sio.enter_room(sid, "tenant:acme", namespace="/waits")
    entered.append("/waits")
    await gate.wait()
    return current_connection().identity.claims.get("welcome") is True


async def kicks(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.disconnect(sid, namespace="/kicks")


async def ask(identity: Any, connection: Any) -> bool:
    entered.append("/asks")
    await gate.wait()
    return identity.claims.get("welcome") is True


class Attendances(socketio.AsyncNamespace):
    """A class-based namespace."""

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        await join_tenant(sid, environ, auth)

    async def on_whoami(self, sid: str) -> dict[str, Any]:
        return await whoami(sid)

    async def on_blob(self, sid: str, data: bytes) -> dict[str, Any]:
        return await blob(sid, data)


GOING_WRONG = {
    "/raises": raises,
    "/returns-false": returns_false,
    "/refuses": refuses,
    "/hangs": hangs,
    "/stubborn": stubborn,
    "/waits": waits,
    "/kicks": kicks,
}
JOINED = {"/messages": join_tenant, "/scheduler": join_tenant, "/public": plain, "/secret": plain, "/asks": plain}
for name, handler in {**JOINED, **GOING_WRONG}.items():
    sio.on("connect", handler, namespace=name)
    sio.on("disconnect", leave, namespace=name)
    for event in (whoami, echo, blob, send, boom):
        sio.on(event.__name__, event, namespace=name)
sio.register_namespace(Attendances("/attendances"))


class Tenant(socketio.AsyncNamespace):
    """Takes every name that no other namespace has. As functions its handlers would go before `Attendances`."""

    async def on_connect(self, namespace: str, sid: str, environ: dict[str, Any], auth: Any) -> None:
        await sio.enter_room(sid, "everybody", namespace=namespace)

    async def on_whoami(self, namespace: str, sid: str) -> dict[str, Any]:
        return await whoami(sid)

    async def on_blob(self, namespace: str, sid: str, data: bytes) -> dict[str, Any]:
        return await blob(sid, data)


sio.register_namespace(Tenant("*"))

POLICIES: list[str | NamespacePolicy] = [
    "/messages",
    "/attendances",
    NamespacePolicy("/scheduler", scopes={"scheduler:read"}),
    NamespacePolicy("/tenant-{tenant}", claims={"tenant_id": "{tenant}"}),
    NamespacePolicy("/public", token="none"),
    NamespacePolicy("/secret", scopes={"admin"}, hidden=True),
    NamespacePolicy("/asks", authorize=ask),
    *GOING_WRONG,
]


# What a test asks for from outside.

routes = []


def control(name: str, *methods: str) -> Any:
    """Put what a function returns, a text or something for JSON, behind ``/control/<name>``."""

    def decorate(function: Any) -> Any:
        async def endpoint(request: Request) -> PlainTextResponse | JSONResponse:
            found = await function(**request.query_params)
            return PlainTextResponse(found) if isinstance(found, str) else JSONResponse(found)

        routes.append(Route(f"/control/{name}", endpoint, methods=methods or ("POST",)))
        return function

    return decorate


@control("state", "GET")
async def state() -> dict[str, Any]:
    """What the server still holds of its clients: everything is empty or 0 when all have gone."""
    manager, status = sio.manager, SocketGuard.of(sio).status()
    return {
        "rooms": {name: sorted(map(str, rooms)) for name, rooms in manager.rooms.items() if rooms},
        "engine_sids": sum(map(len, getattr(manager, "eio_to_sid", {}).values())),
        "pending_disconnect": sum(map(len, manager.pending_disconnect.values())),
        "pending_connect": sum(map(len, getattr(manager, "pending_connect", {}).values())),
        "callbacks": sum(map(len, manager.callbacks.values())),
        "environ": len(sio.environ),
        "sockets": len(sio.eio.sockets),
        "binary_packets": len(sio._binary_packet),
        "sessions": status["sessions"]["open"],
        "connections": status["connections"]["open"] + status["connections"]["being_admitted"],
        "timers": sum(status["timers"].values()),
    }


@control("status", "GET")
async def status() -> dict[str, Any]:
    return SocketGuard.of(sio).status()


@control("entered", "GET")
async def who_entered() -> list[str]:
    return entered


@control("open")
async def open_gate() -> str:
    gate.set()
    return "open"


@control("close")
async def close_gate() -> str:
    gate.clear()
    entered.clear()
    return "closed"


@control("broadcast")
async def broadcast(namespace: str) -> str:
    await sio.emit("news", "for members only", namespace=namespace)
    await sio.emit("news", "for members only", namespace=namespace, room="tenant:acme")
    return "sent"


@control("kick")
async def kick(sid: str, namespace: str) -> str:
    await sio.disconnect(sid, namespace=namespace)
    return "gone"


@control("revoke")
async def revoke(**asked: str) -> int:
    return await SocketGuard.of(sio).revoke(**asked)


@control("disconnect")
async def disconnect(**asked: str) -> int:
    return await SocketGuard.of(sio).disconnect(**asked)


@control("drain")
async def drain(over: str) -> int:
    return await SocketGuard.of(sio).drain(float(over))


@control("pour")
async def pour(namespace: str, sid: str, size: str, times: str) -> str:
    """Emit much to one client, and a little to everybody in between."""
    text = "x" * int(size)
    for number in range(int(times)):
        await sio.emit("pour", text, namespace=namespace, room=sid)
        await sio.emit("tick", number, namespace=namespace)
        await asyncio.sleep(0.001)
    return "poured"


async def health(request: Request) -> PlainTextResponse:
    return PlainTextResponse("well")


web = Starlette(routes=[Route("/health", health), *routes])

make: Any = JWTAuth if "jwks_url" in SETTINGS.auth else make_auth

guarded = SocketGuard(
    socketio.ASGIApp(sio, other_asgi_app=web),
    auth=make(sources=SETTINGS.sources, **SETTINGS.auth),
    namespaces=SETTINGS.namespaces or POLICIES,
    heartbeat=Heartbeat(25, 240),
    admission_timeout=SETTINGS.admission_timeout,
    trusted_proxies=SETTINGS.trusted_proxies,
    allowed_origins=SETTINGS.allowed_origins,
    log_claims=("sub", "tenant_id"),
    limits=Limits(**SETTINGS.limits),
    **{"connect_timeout": 240, **SETTINGS.options},
)
if SETTINGS.drain_on_sigterm is not None:
    guarded.drain_on_sigterm(over=SETTINGS.drain_on_sigterm)

app: Any = guarded
if SETTINGS.outside == "cors":
    app = CORSMiddleware(
        guarded,
        allow_origins=SETTINGS.allowed_origins,
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
