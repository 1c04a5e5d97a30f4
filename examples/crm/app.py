"""A small CRM over Socket.IO, guarded by socketguard. Start it with `examples/run`, or with

    python examples/crm/app.py --port 8000

Two users of two tenants, three namespaces, and a page that tries what a client can do right and wrong, and what can
happen to a connection later: its token ends, is refreshed, is revoked; the server is stopped. The lines that appear in
the terminal are the guard's: nothing is configured for them.
"""

import argparse
import contextlib
import secrets
import signal
import socket
import sys
import time
import uuid
from pathlib import Path

import jwt
import socketio
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from socketguard import JWTAuth, NamespacePolicy, SocketGuard, current_connection

HERE = Path(__file__).parent
CLIENT = HERE / "node_modules" / "socket.io-client" / "dist"
SECRET = secrets.token_urlsafe(32)  # a new one at each start; a real service reads it from its environment

USERS = {
    "ana": {"email": "ana@acme.example", "tenant_id": "acme", "scope": "scheduler:read"},
    "bruno": {"email": "bruno@globex.example", "tenant_id": "globex", "scope": ""},
}

HOUR, SHORT = 3600, 25  # seconds that a token lives; a connection ends 10 s later, for clocks that differ

sio = socketio.AsyncServer(async_mode="asgi")


# --- the application: no line below looks at a token ------------------------------------------------------------------


def tenant_room() -> str:
    return f"tenant:{current_connection().identity.claims['tenant_id']}"


@sio.on("connect", namespace="/messages")
async def connect(sid, environ, auth):
    await sio.enter_room(sid, tenant_room(), namespace="/messages")


@sio.on("message:new", namespace="/messages")
@SocketGuard.requires(rate="5/second")  # of one connection; what is too much never gets here
async def message_new(sid, data=None):  # a client may send anything, and nothing
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= 500:
        return {"ok": False, "error": "text must have 1 to 500 characters"}
    message = {"from": current_connection().identity.subject, "text": text}
    await sio.emit("message:new", message, room=tenant_room(), namespace="/messages")
    return {"ok": True}  # the acknowledgement: the last argument of the client's emit() is called with it


@sio.on("list", namespace="/scheduler")
async def appointments(sid):
    return ["10:00 demo call", "15:30 contract"]


@sio.on("list", namespace="/attendances")
async def attendances(sid):
    return ["waiting: 2", "in progress: 1"]


# --- the page, and tokens for it --------------------------------------------------------------------------------------


def mint(user: str, *, lifetime: float = HOUR) -> str:
    now = int(time.time())
    claims = {"sub": user, "aud": "crm", "jti": uuid.uuid4().hex, "iat": now, "exp": now + lifetime, **USERS[user]}
    return jwt.encode(claims, SECRET, algorithm="HS256")


LIFETIMES = {"valid": HOUR, "short": SHORT, "expired": -HOUR}


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, and from no page of another site whose name points here or that asks here."""
    own = f"{request.url.scheme}://{request.url.netloc}"
    return request.url.hostname in ("127.0.0.1", "localhost") and request.headers.get("origin", own) == own


async def demo_token(request: Request) -> Response:
    """DEMO ONLY: gives a token to whoever asks. A real service does that after a login."""
    user, kind = request.query_params.get("user"), request.query_params.get("kind")
    if not is_local(request):
        return PlainTextResponse("only on this machine\n", 403)
    if user not in USERS or kind not in LIFETIMES:
        return PlainTextResponse("ask with ?user=ana&kind=valid\n", 400)
    return PlainTextResponse(mint(user, lifetime=LIFETIMES[kind]), headers={"Cache-Control": "no-store"})


async def demo_end(request: Request) -> Response:
    """DEMO ONLY: what an administrator's page would do."""
    user, how = request.query_params.get("user"), request.path_params["how"]
    if not is_local(request):
        return PlainTextResponse("only on this machine\n", 403)
    if how == "stop":
        return PlainTextResponse("draining\n", background=BackgroundTask(signal.raise_signal, signal.SIGTERM))
    if user not in USERS or how not in ("revoke", "disconnect"):
        return PlainTextResponse("ask with ?user=ana\n", 400)
    if how == "revoke":  # every token of the user that was issued until now, on every connection
        ended = await app.revoke(subject=user)
    else:  # they may connect again
        ended = await app.disconnect(subject=user, reason="button of the demo")
    return PlainTextResponse(f"{ended} connections ended\n")


async def page(request: Request) -> Response:
    return FileResponse(HERE / "index.html")


async def refresh_script(request: Request) -> Response:
    return FileResponse(HERE / "refresh.js", media_type="text/javascript")


site = Starlette(
    routes=[
        Route("/", page),
        Route("/refresh.js", refresh_script),
        Route("/demo-only/token", demo_token),
        Route("/demo-only/{how}", demo_end, methods=["POST"]),
        Mount("/client", StaticFiles(directory=CLIENT, check_dir=False)),
    ]
)


# --- the guard --------------------------------------------------------------------------------------------------------

app = SocketGuard(
    socketio.ASGIApp(sio, other_asgi_app=site),
    auth=JWTAuth(SECRET, algorithms=["HS256"], audience="crm", max_lifetime=HOUR),
    namespaces=["/messages", NamespacePolicy("/scheduler", scopes={"scheduler:read"}), "/attendances"],
    stable_claims=("tenant_id",),  # rooms were chosen by it, so a fresh token must have the same
    log_claims=("sub", "email", "tenant_id"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="A small CRM over Socket.IO, guarded by socketguard.")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    port = parser.parse_args().port
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        print(f"Can't listen on port {port} of 127.0.0.1: {error}. Choose another with --port.", file=sys.stderr)
        return 1
    if not CLIENT.is_dir():
        print("The page lacks its JavaScript client: run `npm ci` in examples/crm.", file=sys.stderr)
    print(f"The CRM is on  http://127.0.0.1:{listener.getsockname()[1]}  (Ctrl-C ends it)\n")
    print("Tokens, valid for an hour:\n")
    for user, claims in USERS.items():
        print(f"{user} of {claims['tenant_id']}:\n{mint(user)}\n", flush=True)
    app.drain_on_sigterm(over=3)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
