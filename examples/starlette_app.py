"""A Starlette application that mounts Socket.IO, wrapped by the guard as a whole.

    uvicorn examples.starlette_app:app        (or: python examples/starlette_app.py)

The HTTP route /contacts takes the same tokens, by Starlette's own AuthenticationMiddleware.
"""

import os
import secrets

import jwt
import socketio
import uvicorn
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from socketguard import JWTAuth, SocketGuard, current_connection

secret = os.environ.get("JWT_SECRET")
if secret is None:  # so that the example runs at once; set JWT_SECRET for anything else
    secret = secrets.token_urlsafe(32)
    claims = {"sub": "ana", "aud": "crm", "exp": 4102444800}
    print("JWT_SECRET is not set. A token that is valid until this process ends:", jwt.encode(claims, secret))

auth = JWTAuth(secret, algorithms=["HS256"], audience="crm")
sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


@requires("authenticated", status_code=401)
async def contacts(request):
    return JSONResponse({"owner": request.user.subject, "contacts": []})


app = SocketGuard(
    Starlette(
        routes=[
            Route(
                "/contacts",
                contacts,
                middleware=[Middleware(AuthenticationMiddleware, backend=auth, on_error=auth.on_error)],
            ),
            Mount("/socket.io", socketio.ASGIApp(sio)),
        ]
    ),
    auth=auth,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
