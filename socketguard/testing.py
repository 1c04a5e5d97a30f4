"""What the tests of a guarded application need: tokens, a client inside the process, captured log lines, a clock.

Nothing here opens a port or sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jwt

from .connection import ANONYMOUS, Connection, Identity, Session, bound_connection
from .errors import SocketGuardError
from .logs import sink
from .tokens.auth import JWTAuth

__all__ = [
    *("TEST_SECRET", "Client", "FakeClock", "Refused", "Wire", "as_client"),
    *("capture_events", "join", "make_auth", "mint"),
]

TEST_SECRET = "only-for-tests-and-known-to-everybody-who-has-read-this-line-of-the-package"
"""The secret of `mint` and `make_auth`. Anybody can read it here: never give it to a server that others reach."""


class FakeClock:
    """A clock that stands still until it is moved; pass it as ``JWTAuth(…, clock=clock)``.

    Args:
        now: seconds since the epoch; the real time by default.
    """

    moves_by_hand = True

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        """Move the clock forward by so many seconds."""
        self.now += seconds


def mint(
    subject: str | int | None = "user-1",
    *,
    key: Any = TEST_SECRET,
    algorithm: str = "HS256",
    lifetime: float = 3600.0,
    now: float | None = None,
    headers: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Make a token.

    Args:
        subject: the ``sub`` claim; None leaves it out.
        key: a secret or a private key.
        algorithm: such as ``HS256``.
        lifetime: seconds until ``exp``, long enough for a whole run of tests; a negative one makes an expired token.
        now: seconds since the epoch; the real time by default.
        headers: further fields of the header, such as ``kid``.
        **claims: further claims; one that is None is left out (``exp=None``).
    """
    issued = int(time.time() if now is None else now)
    payload = {"sub": subject, "iat": issued, "exp": issued + int(lifetime), **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers=dict(headers or {}))


def make_auth(**options: Any) -> JWTAuth:
    """A `JWTAuth` that takes the tokens of `mint`.

    Args:
        **options: as for `JWTAuth`.
    """
    return JWTAuth(TEST_SECRET, **{"algorithms": ["HS256"], **options})


@contextlib.contextmanager
def capture_events() -> Iterator[list[dict[str, Any]]]:
    """Collect what guards log, whatever logging is set up: a list of ``{"event": …, "level": …, **fields}``."""
    with sink.captured() as captured:
        yield captured


@contextlib.contextmanager
def as_client(
    namespace: str = "/",
    *,
    subject: str | None = "user-1",
    scopes: Collection[str] = (),
    placeholders: Mapping[str, str] | None = None,
    sid: str = "sid-1",
    client_address: str = "127.0.0.1",
    user: Any = None,
    **claims: Any,
) -> Iterator[Connection]:
    """A stand-in for the client whose handler runs, for unit tests that call a handler by itself.

    Inside the block `current_connection` gives it; no server, no token and no network are needed.

    Args:
        namespace: the namespace that it has joined.
        subject: who it is; None for an anonymous client.
        scopes: what its token grants.
        placeholders: what the placeholders of a pattern stand for.
        sid: its Socket.IO session id.
        client_address: from where it comes.
        user: what ``load_user`` would have returned.
        **claims: further claims of its token.

    Returns:
        The `Connection`.
    """
    view = MappingProxyType({**({} if subject is None else {"sub": subject}), **claims})
    session = Session(
        client_address=client_address,
        origin=None,
        user_agent=None,
        transport="websocket",
        headers=[],
        query_string=b"",
    )
    identity = ANONYMOUS if subject is None else Identity(subject, view, frozenset(scopes))
    connection: Connection = Connection(
        session, namespace, identity, dict(placeholders or {}), user=user, sid=sid, state=Connection.JOINED
    )
    bound = bound_connection.set(connection)
    try:
        yield connection
    finally:
        bound_connection.reset(bound)


class Refused(SocketGuardError):
    """The server refused.

    Attributes:
        message: what JavaScript reads as ``err.message``.
        data: what JavaScript reads as ``err.data``.
        code: the reject code, where there is one.
        status: the HTTP status, when the handshake was refused.
    """

    def __init__(self, message: str, data: Any = None, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data
        self.code: str | None = data.get("code") if isinstance(data, dict) else None
        self.status = status


class Wire:
    """A WebSocket to an ASGI application, without a network: raw Engine.IO frames.

    Args:
        app: the ASGI application.
        headers: of the handshake.
        path: of the Socket.IO endpoint.
        query: of the handshake, beside ``EIO`` and ``transport``.
        client: address and port that the application sees.
        timeout: seconds that a frame may take.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/socket.io/",
        query: str = "",
        client: tuple[str, int] = ("127.0.0.1", 50000),
        timeout: float = 5.0,
    ) -> None:
        self._app = app
        self._timeout = timeout
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.close_code: int | None = None
        every = {"host": "testserver", "upgrade": "websocket", "connection": "Upgrade", **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": ("EIO=4&transport=websocket" + query).encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in every.items()],
            "client": client,
            "server": ("testserver", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }

    async def open(self) -> None:
        """Shake hands.

        Raises:
            Refused: with the status of the answer.
        """
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(self._app(self.scope, self._to_app.get, self._from_app.put))
        message = await self._message()
        if message["type"] == "websocket.accept":
            return
        if message["type"] == "websocket.http.response.start":
            body = json.loads((await self._message())["body"])
            raise Refused(body["message"], body, message["status"])
        raise Refused(message.get("reason", ""), None, 403)

    async def send(self, frame: str | bytes) -> None:
        """Send one frame."""
        kind = "text" if isinstance(frame, str) else "bytes"
        self._to_app.put_nowait({"type": "websocket.receive", kind: frame})

    async def frame(self) -> str | bytes:
        """The next frame of the server; its pings are answered on the way.

        Raises:
            ConnectionError: the server closed; ``close_code`` has the code.
            TimeoutError: nothing came.
        """
        while True:
            message = await self._message()
            if message["type"] == "websocket.close":
                self.close_code = message.get("code", 1000)
                raise ConnectionError(f"the server closed with {self.close_code}")
            text: str | None = message.get("text")
            if text == "2":
                await self.send("3")
                continue
            data: bytes | None = message.get("bytes")
            return data if text is None and data is not None else str(text)

    async def _message(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._from_app.get(), self._timeout)

    async def close(self) -> None:
        """Go away without a word, and wait until the application has noticed."""
        if self._task is not None:
            self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1005})
            await asyncio.wait_for(self._task, self._timeout)


class Client:
    """A Socket.IO client in one namespace, inside the process; `join` makes one.

    Attributes:
        sid: the Socket.IO session id.
    """

    def __init__(self, wire: Wire, namespace: str) -> None:
        self._wire = wire
        self._prefix = "" if namespace == "/" else f"{namespace},"
        self._acknowledgements = 0
        self._events: list[tuple[str, list[Any]]] = []
        self.namespace = namespace
        self.sid = ""

    async def _opened(self) -> dict[str, Any]:
        """What the server answers to the CONNECT; nothing comes before it."""
        answer: dict[str, Any] = json.loads((await self._packet())[1])
        return answer

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event."""
        await self._wire.send(f"42{self._prefix}{json.dumps([event, *args])}")

    async def call(self, event: str, *args: Any) -> Any:
        """Send an event and return its acknowledgement: one value, None for none, a list for several."""
        number = self._acknowledgements
        self._acknowledgements += 1
        await self._wire.send(f"42{self._prefix}{number}{json.dumps([event, *args])}")
        while True:
            kind, body = await self._packet()
            if kind == "3" and body.startswith(f"{number}["):
                values = json.loads(body[len(str(number)) :])
                return values[0] if len(values) == 1 else values or None
            self._keep(kind, body)

    async def receive(self) -> tuple[str, list[Any]]:
        """The next event from the server: its name and its arguments."""
        while not self._events:
            self._keep(*await self._packet())
        return self._events.pop(0)

    def _keep(self, kind: str, body: str) -> None:
        if kind == "1":
            raise ConnectionError("the server disconnected this namespace")
        if kind == "2":
            name, *args = json.loads(body.lstrip("0123456789"))
            self._events.append((name, args))

    async def _packet(self) -> tuple[str, str]:
        while True:
            frame = await self._wire.frame()
            if isinstance(frame, str) and frame.startswith("4") and frame[2:].startswith(self._prefix):
                return frame[1], frame[2 + len(self._prefix) :]


@contextlib.asynccontextmanager
async def join(
    app: Callable[..., Any],
    namespace: str = "/",
    *,
    token: str | None = None,
    auth: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Join a namespace: ``async with join(app, "/messages", token=mint()) as client``.

    Args:
        app: the ASGI application.
        namespace: the namespace to join.
        token: goes into the auth payload as ``token``.
        auth: the auth payload, when there is more in it.
        **options: as for `Wire`.

    Raises:
        Refused: the server refused, with the code, the message and the data that a client sees.
    """
    wire = Wire(app, **options)
    await wire.open()
    try:
        await wire.frame()  # the OPEN packet
        payload = {**(auth or {}), **({} if token is None else {"token": token})}
        client = Client(wire, namespace)
        await wire.send(f"40{client._prefix}{json.dumps(payload) if payload else ''}")
        answer = await client._opened()
        if "sid" not in answer:
            raise Refused(answer.get("message", ""), answer.get("data"))
        client.sid = answer["sid"]
        yield client
    finally:
        await wire.close()
