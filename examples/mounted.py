"""Socket.IO mounted under a prefix of a Starlette application, guarded where the server is made.

    uvicorn examples.mounted:app              (or: python examples/mounted.py)

Clients need the whole path:  io("https://host/messages", { path: "/realtime/socket.io" })
"""

import os
import secrets

import jwt
import socketio
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from socketguard import JWTAuth, SocketGuard, current_connection

secret = os.environ.get("JWT_SECRET")
if secret is None:  # so that the example runs at once; set JWT_SECRET for anything else
    secret = secrets.token_urlsafe(32)
    claims = {"sub": "ana", "aud": "crm", "exp": 4102444800}
    print("JWT_SECRET is not set. A token that is valid until this process ends:", jwt.encode(claims, secret))

sio = socketio.AsyncServer(async_mode="asgi")
guard = SocketGuard.protect(  # from this line on nobody joins without a token
    sio,
    auth=JWTAuth(secret, algorithms=["HS256"], audience="crm"),
    namespaces=["/messages"],
)


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


async def online(request):
    return PlainTextResponse(f"{len(guard.connections(namespace='/messages'))} online\n")


app = Starlette(
    routes=[
        Route("/online", online),
        # A mounted application sees the whole path, so socketio_path repeats the prefix.
        Mount("/realtime", socketio.ASGIApp(sio, socketio_path="/realtime/socket.io")),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
