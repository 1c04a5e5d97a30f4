"""Starlette's (and FastAPI's) signed session cookie: whoever signs in with the form is signed in for Socket.IO.

uvicorn starlette_session:app
"""

import os

import socketio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from socketguard import SocketGuard, current_connection
from socketguard.auth import SessionAuth

SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
ORIGINS = os.environ.get("ORIGINS", "http://127.0.0.1:8000").split(",")
PASSWORDS = {"ann": "secret"}
FORM = (
    "<form method=post action=/login><input name=user><input name=password type=password>"
    "<button>Sign in</button></form>"
)

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


async def home(request: Request) -> Response:
    user = request.session.get("user_id")
    return HTMLResponse(f"<p id=user>{user}</p>" if user else FORM)


async def login(request: Request) -> Response:
    body = dict(pair.split("=", 1) for pair in (await request.body()).decode().split("&"))
    if PASSWORDS.get(body.get("user", "")) != body.get("password"):
        return HTMLResponse(FORM, status_code=403)
    request.session["user_id"] = body["user"]
    return RedirectResponse("/", status_code=303)


async def logout(request: Request) -> Response:
    user = request.session.pop("user_id", None)
    if user is not None:
        # Connections that are open already.
        await guard.disconnect(subject=user, reason="You have signed out")
    return RedirectResponse("/", status_code=303)


guard = SocketGuard.protect(sio, auth=SessionAuth(SECRET_KEY), allowed_origins=ORIGINS, namespaces=["/messages"])
app = Starlette(
    routes=[
        Route("/", home),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Mount("/", socketio.ASGIApp(sio)),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY)],
)
