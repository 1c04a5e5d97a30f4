"""The applications that are compared: unguarded, with a connect handler as people write it, and guarded."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import itsdangerous
import jwt
import orjson
import socketio
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from socketguard import Authenticator, Identity, JWTAuth, SocketGuard, current_connection
from socketguard.auth import APIKeyAuth, SessionAuth, quick
from socketguard.logs.host import add_connection

NAMESPACE = "/messages"
AUDIENCE = "crm"
ISSUER = "https://login.example.com/"


class Algorithm:
    """An algorithm with a key pair (or a secret) of its own."""

    def __init__(self, name: str, signing_key: Any, verifying_key: str) -> None:
        self.name = name
        self._signing_key = signing_key
        self.key = verifying_key

    def token(self, subject: str = "user-1042", *, lifetime: int = 3600) -> str:
        """A token as an identity provider would issue it."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + lifetime,
            "jti": secrets.token_hex(8),
            "tenant_id": "acme",
            "email": "ada@example.com",
            "scope": "messages:read messages:write",
        }
        return jwt.encode(claims, self._signing_key, algorithm=self.name)

    def public_key(self) -> Any:
        """The public key, of an algorithm that has one."""
        return self._signing_key.public_key()

    def connect(self, subject: str = "user-1042", *, signature: bool = True) -> str:
        """The frame with which a client joins."""
        token = self.token(subject)
        if not signature:
            head, _, tail = token.rpartition(".")
            token = f"{head}.{'B' if tail[0] == 'A' else 'A'}{tail[1:]}"
        return f"40{NAMESPACE},{json.dumps({'token': token})}"


_SECRET = secrets.token_urlsafe(48)
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_PEM = _KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
HS256 = Algorithm("HS256", _SECRET, _SECRET)
RS256 = Algorithm("RS256", _KEY, _PEM.decode())


class Lines:
    """A file that log lines are written to, flushed one by one; it counts them."""

    _kept: ClassVar[list[Lines]] = []

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        self._kept.append(self)  # an application may write a line when its benchmark is long over

    def take(self) -> int:
        """How many lines there are since the last call."""
        self.file.seek(0)
        count = sum(1 for _ in self.file)
        self.file.seek(0)
        self.file.truncate()
        return count


def configure_structlog(lines: Lines) -> None:
    """What a host does that wants JSON lines: the chain of structlog's own documentation for production, with orjson
    and `add_connection`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_connection,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(file=lines.file.buffer),
        cache_logger_on_first_use=True,
    )


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when, level = datetime.fromtimestamp(record.created, UTC).isoformat(), record.levelname.lower()
        line = {"timestamp": when, "level": level, "logger": record.name, "event": record.getMessage()}
        return json.dumps({**line, **record.fields})  # type: ignore[attr-defined]


def _server(**options: Any) -> Any:
    server = socketio.AsyncServer(async_mode="asgi", **options)

    @server.on("message:new", namespace=NAMESPACE)
    async def message_new(sid: str, text: str) -> str:
        return "ok"

    log = structlog.get_logger("crm")

    @server.on("message:logged", namespace=NAMESPACE)
    async def message_logged(sid: str, text: str) -> str:
        log.info("message stored", size=len(text))
        return "ok"

    return server


def bare(**options: Any) -> Any:
    """No authentication at all."""
    server = _server(**options)

    @server.on("connect", namespace=NAMESPACE)
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        pass

    return socketio.ASGIApp(server)


def hand_written(algorithm: Algorithm, lines: Lines) -> Any:
    """The connect handler that people write: ``jwt.decode``, ``save_session``, one JSON line by stdlib logging."""
    server = _server()
    log = logging.getLogger("crm")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.StreamHandler(lines.file)
    handler.setFormatter(_JSONFormatter())
    log.handlers[:] = [handler]

    @server.on("connect", namespace=NAMESPACE)
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        try:
            claims = jwt.decode(
                auth["token"],
                algorithm.key,
                algorithms=[algorithm.name],
                audience=AUDIENCE,
                leeway=10,
                options={"require": ["exp", "sub"]},
            )
        except jwt.PyJWTError:
            raise socketio.exceptions.ConnectionRefusedError("Invalid token") from None
        await server.save_session(sid, {"subject": claims["sub"], "claims": claims}, namespace=NAMESPACE)
        fields = {
            "sid": sid,
            "namespace": NAMESPACE,
            "subject": claims["sub"],
            "tenant_id": claims["tenant_id"],
            "client_address": environ["asgi.scope"]["client"][0],
            "user_agent": environ.get("HTTP_USER_AGENT"),
        }
        log.info("connection accepted", extra={"fields": fields})

    return socketio.ASGIApp(server)


def guarded(
    algorithm: Algorithm,
    lines: Lines,
    *,
    auth: Authenticator | None = None,
    options: Mapping[str, Any] | None = None,
    **server_options: Any,
) -> SocketGuard:
    """The same application behind a guard, which writes two JSON lines by structlog: joined and left."""
    configure_structlog(lines)
    server = _server(**server_options)

    @server.on("connect", namespace=NAMESPACE)
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        assert current_connection().identity.subject

    return SocketGuard(
        socketio.ASGIApp(server),
        auth=auth or new_auth(algorithm),
        namespaces=[NAMESPACE],
        log_claims=("sub", "tenant_id"),
        **(options or {}),
    )


def new_auth(algorithm: Algorithm, **options: Any) -> JWTAuth:
    """A verifier for the key of an algorithm, with options of `JWTAuth`."""
    return JWTAuth(algorithm.key, algorithms=[algorithm.name], audience=AUDIENCE, **options)


KEY_FRAME = f'40{NAMESPACE},{{"api_key":"a-key-of-the-benchmarks"}}'
ORIGIN = "https://crm.example.com"
_CLAIMS = {"tenant_id": "acme", "email": "ada@example.com"}


def api_keys() -> APIKeyAuth:
    """API keys out of a dictionary."""
    known = {hashlib.sha256(b"a-key-of-the-benchmarks").hexdigest(): Identity("user-1042", _CLAIMS, token_id="key-1")}
    return APIKeyAuth(quick(known.get))


def sessions() -> SessionAuth:
    """Sessions as Starlette's middleware signs them."""
    return SessionAuth(_SECRET)


def session_cookie() -> bytes:
    """The cookie of one."""
    session = base64.b64encode(json.dumps({"user_id": "user-1042", **_CLAIMS}).encode())
    return b"session=" + itsdangerous.TimestampSigner(_SECRET).sign(session)
