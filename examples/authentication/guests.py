"""Guests who sign in later: by connecting again, with a token.

JWT_SECRET=… uvicorn guests:app
"""

import os

import socketio

from socketguard import JWTAuth, NamespacePolicy, SocketGuard, current_connection

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("connect", namespace="/shop")
async def connect(sid, environ, auth):
    identity = current_connection().identity
    await sio.enter_room(sid, f"user:{identity.subject}" if identity.is_authenticated else "guests", namespace="/shop")


@sio.on("keep", namespace="/shop")
async def keep(sid, value):
    async with sio.session(sid, namespace="/shop") as session:
        session["kept"] = value


@sio.on("whoami", namespace="/shop")
async def whoami(sid):
    session = await sio.get_session(sid, namespace="/shop")
    rooms = sorted(room for room in sio.rooms(sid, namespace="/shop") if room != sid)
    return {"subject": current_connection().identity.subject, "rooms": rooms, "kept": session.get("kept")}


app = SocketGuard(
    socketio.ASGIApp(sio),
    auth=JWTAuth(os.environ["JWT_SECRET"], algorithms=["HS256"]),
    namespaces=[NamespacePolicy("/shop", token="optional")],
)
