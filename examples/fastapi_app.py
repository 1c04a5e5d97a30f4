"""Socket.IO beside a FastAPI application; both take the same tokens.

    uvicorn examples.fastapi_app:app          (or: python examples/fastapi_app.py)

The HTTP route /contacts asks for the scope crm:read.
"""

import os
import secrets
from typing import Annotated

import jwt
import socketio
import uvicorn
from fastapi import Depends, FastAPI

from socketguard import Identity, JWTAuth, SocketGuard, current_connection

secret = os.environ.get("JWT_SECRET")
if secret is None:  # so that the example runs at once; set JWT_SECRET for anything else
    secret = secrets.token_urlsafe(32)
    claims = {"sub": "ana", "aud": "crm", "scope": "crm:read", "exp": 4102444800}
    print("JWT_SECRET is not set. A token that is valid until this process ends:", jwt.encode(claims, secret))

auth = JWTAuth(secret, algorithms=["HS256"], audience="crm")
api = FastAPI()
sio = socketio.AsyncServer(async_mode="asgi")


@api.get("/contacts")
async def contacts(identity: Annotated[Identity, Depends(auth.requires("crm:read"))]):
    return {"owner": identity.subject, "contacts": []}


@sio.on("connect", namespace="/messages")
async def connect(sid, environ, auth):
    await sio.emit("welcome", current_connection().identity.subject, to=sid, namespace="/messages")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


app = SocketGuard(socketio.ASGIApp(sio, other_asgi_app=api), auth=auth, namespaces=["/messages"])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
