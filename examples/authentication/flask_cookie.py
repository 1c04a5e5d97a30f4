"""Flask-Login's session cookie: a Flask application signs people in, and this service beside it takes its cookie.

    SECRET_KEY=… uvicorn flask_cookie:app

Both need the same ``SECRET_KEY`` and the same host name, whatever their ports.
"""

import os
from datetime import timedelta

import socketio
from flask import Flask
from itsdangerous import BadSignature

from socketguard import ConnectRequest, CredentialError, Identity, SocketGuard, current_connection
from socketguard.auth import quick

ORIGINS = os.environ.get("ORIGINS", "http://127.0.0.1:5000").split(",")
LIFETIME = timedelta(days=31)  # Flask's PERMANENT_SESSION_LIFETIME

# Only for its settings: which cookie, which key, how it is signed.
flask = Flask(__name__)
flask.config.update(SECRET_KEY=os.environ.get("SECRET_KEY", "only for this example"))
signer = flask.session_interface.get_signing_serializer(flask)


@quick
def flask_login(request: ConnectRequest) -> Identity | None:
    """Whose the session is: Flask-Login keeps the user's id as ``_user_id``."""
    cookie = request.cookies.get(flask.config["SESSION_COOKIE_NAME"])
    if not cookie:
        return None
    try:
        session, signed = signer.loads(cookie, max_age=LIFETIME.total_seconds(), return_timestamp=True)
    except BadSignature:  # and what is too old
        raise CredentialError("the cookie is not Flask's, or too old") from None
    if "_user_id" not in session:
        return None
    return Identity(session["_user_id"], issued_at=signed.timestamp(), expires_at=(signed + LIFETIME).timestamp())


sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return current_connection().identity.subject


app = SocketGuard(socketio.ASGIApp(sio), auth=flask_login, allowed_origins=ORIGINS)
