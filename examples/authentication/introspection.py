"""Opaque tokens: their issuer is asked about each (RFC 7662).

INTROSPECTION_URL=https://login.example.com/introspect CLIENT_ID=… CLIENT_SECRET=… uvicorn introspection:app
"""

import os

import socketio

from socketguard import SocketGuard, current_connection
from socketguard.auth import IntrospectionAuth

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


app = SocketGuard(
    socketio.ASGIApp(sio),
    auth=IntrospectionAuth(
        os.environ["INTROSPECTION_URL"],
        client_id=os.environ["CLIENT_ID"],
        client_secret=os.environ["CLIENT_SECRET"],
        cache=float(os.environ.get("CACHE", "30")),
        timeout=float(os.environ.get("TIMEOUT", "5")),
        allow_http=True,  # of this machine only
    ),
)
