"""API keys of an application: digests in SQLite, the key itself nowhere.

uvicorn api_keys:app
"""

import asyncio
import hashlib
import os
import sqlite3

import socketio

from socketguard import Identity, SocketGuard, current_connection
from socketguard.auth import APIKeyAuth

DATABASE = os.environ.get("DATABASE", "keys.db")

with sqlite3.connect(DATABASE) as database:
    database.execute("CREATE TABLE IF NOT EXISTS keys (digest TEXT PRIMARY KEY, owner TEXT, scopes TEXT)")
    for key, owner in (pair.split(":") for pair in os.environ.get("KEYS", "").split(",") if pair):
        digest = hashlib.sha256(key.encode()).hexdigest()
        database.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, 'read write')", (digest, owner))


def lookup(digest: str) -> Identity | None:
    """Runs in a thread, since it waits for a database."""
    with sqlite3.connect(DATABASE) as database:
        row = database.execute("SELECT owner, scopes FROM keys WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else Identity(row[0], scopes=frozenset(row[1].split()), token_id=digest[:16])


sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    await asyncio.sleep(0)
    return current_connection().identity.subject


app = SocketGuard(socketio.ASGIApp(sio), auth=APIKeyAuth(lookup))
