"""What the tests of the core share: a guarded server, a polling client, and what may be left when all have gone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import socketio

from socketguard import SocketGuard
from socketguard.connection import Session
from socketguard.limits.counters import Limits
from socketguard.testing import Wire, make_auth, mint

__all__ = [
    "UNLIMITED",
    "Answer",
    "Guarded",
    "Polling",
    "a_session",
    "connect_packet",
    "guarded",
    "held",
    "http",
    "joined_wire",
    "nothing_left",
    "open_wire",
    "until",
]

ASGI = Callable[..., Awaitable[None]]


class Inside:
    """The inside of a guard, for tests that still look at it."""

    def __init__(self, parts: Any) -> None:
        self.owner = parts
        self.sessions, self.lifetime, self.endings = parts.sessions, parts.expiry, parts.endings
        self.served, self.ledger, self.budget = parts.served, parts.ledger, parts.connects._context.budget
        self.connections, self.pending = parts.sessions.connections, parts.sessions.admitting
        self.quarantine, self.admission_timeout = parts.connects._quarantine, parts.timeout
        self.end = parts.endings.session
        engine = parts.connects._engine
        self.end_session, self._gone, self._handled = engine.end, engine._let_go, parts._dispatch._handled
        for name in ("session", "let_go", "drop_queue", "was_let_go", "tell", "has_queue", "abandon_upgrade"):
            setattr(self, name, getattr(engine, name))


@dataclass
class Guarded:
    """A server, its guard and the application."""

    server: Any
    guard: SocketGuard
    app: ASGI

    @property
    def seam(self) -> Any:
        return Inside(self.guard._parts)


def guarded(
    *namespaces: str,
    prepare: Callable[[Any], None] | None = None,
    server_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Guarded:
    """A guarded server with an echo in each of the namespaces.

    Args:
        *namespaces: where the echo is registered; ``/messages`` by default.
        prepare: registers further handlers before the guard is attached.
        server_options: for ``socketio.AsyncServer``.
        **options: for `SocketGuard`.
    """
    # The task that looks for silent clients would outlive the test.
    server = socketio.AsyncServer(async_mode="asgi", **{"monitor_clients": False, **(server_options or {})})
    for namespace in namespaces or ("/messages",):
        server.on("echo", _echo, namespace=namespace)
    if prepare is not None:
        prepare(server)
    app = socketio.ASGIApp(server)
    guard = SocketGuard(app, **{"auth": make_auth(), "logger": False, **options})
    return Guarded(server, guard, guard)


UNLIMITED = Limits(**dict.fromkeys(field.name for field in dataclasses.fields(Limits)))  # type: ignore[arg-type]
"""For tests that want to know what happens without limits."""


def a_session(**values: Any) -> Session:
    """The record of a session that nobody has opened."""
    defaults: dict[str, Any] = {
        "client_address": "127.0.0.1",
        "origin": None,
        "user_agent": None,
        "transport": "websocket",
        "headers": [],
        "query_string": b"",
    }
    return Session(**{**defaults, **values})


async def _echo(sid: str, *args: Any) -> Any:
    return args


async def until(condition: Callable[[], Any], *, timeout: float = 5.0) -> None:
    """Let the loop run until something is so."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - what it waits for tells nobody
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), timeout)


def connect_packet(namespace: str = "/messages", token: str | None = "", **auth: Any) -> str:
    """A CONNECT with a good token (``""``), another one, or none."""
    payload = dict(auth)
    if token is not None:
        payload["token"] = token or mint()
    prefix = "" if namespace == "/" else f"{namespace},"
    return f"40{prefix}{json.dumps(payload) if payload else ''}"


async def open_wire(app: ASGI, **options: Any) -> Wire:
    """A WebSocket with its OPEN packet read."""
    wire = Wire(app, **options)
    await wire.open()
    opened = await wire.frame()
    assert isinstance(opened, str)
    assert opened.startswith("0{")
    return wire


async def joined_wire(app: ASGI, namespace: str = "/messages", **options: Any) -> tuple[Wire, str]:
    """A WebSocket that has joined a namespace, and the Socket.IO session id."""
    wire = await open_wire(app, **options)
    await wire.send(connect_packet(namespace))
    answer = str(await wire.frame())
    prefix = "40" if namespace == "/" else f"40{namespace},"
    assert answer.startswith(prefix), answer
    return wire, json.loads(answer[len(prefix) :])["sid"]


@dataclass
class Answer:
    """An HTTP answer."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key == name.encode()]


async def http(
    app: ASGI,
    method: str,
    query: str,
    body: bytes | list[bytes] = b"",
    *,
    path: str = "/socket.io/",
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    gone: bool = False,
    scheme: str = "http",
    timeout: float = 5.0,
    root_path: str = "",
    bare: bool = False,
) -> Answer:
    """One HTTP request.

    Args:
        body: several pieces are sent as a chunked body, without a length.
        gone: the client disconnects after the pieces, before the body is complete.
        bare: no guard lowers the names of headers.
    """
    pieces = body if isinstance(body, list) else [body]
    if isinstance(headers, list):
        raw = list(headers)
    else:
        raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in {"host": "testserver", **(headers or {})}.items()]
    if not isinstance(body, list) and method == "POST" and all(name != b"content-length" for name, _ in raw):
        raw.append((b"content-length", str(len(body)).encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query.encode("utf-8", "surrogateescape"),
        "headers": raw,
        "client": client,
        "server": ("testserver", 80),
        "state": {},
    }
    events: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": gone or number + 1 < len(pieces)}
        for number, piece in enumerate(pieces)
    ]
    if gone:
        events.append({"type": "http.disconnect"})
    answer = Answer()
    complete = False

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal complete
        assert not complete
        if message["type"] == "http.response.start":
            assert not answer.status
            assert bare or all(name == name.lower() for name, _ in message["headers"])
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            assert message["type"] == "http.response.body", message
            assert answer.status
            answer.body += message.get("body", b"")
            complete = not message.get("more_body")

    await asyncio.wait_for(app(scope, receive, send), timeout)
    assert complete or gone
    return answer


class Polling:
    """An Engine.IO client over polling."""

    def __init__(self, app: ASGI, **options: Any) -> None:
        self.app = app
        self.sid = ""
        self.options = options
        self._frames: list[str] = []

    async def open(self) -> Polling:
        answer = await http(self.app, "GET", "EIO=4&transport=polling", **self.options)
        assert answer.status == 200, answer
        self.sid = json.loads(answer.body.decode().split("\x1e")[0][1:])["sid"]
        return self

    @property
    def query(self) -> str:
        return f"EIO=4&transport=polling&sid={self.sid}"

    async def post(self, *packets: str, **options: Any) -> Answer:
        body = "\x1e".join(packets).encode("utf-8", "surrogatepass")
        return await http(self.app, "POST", self.query, body, **{**self.options, **options})

    async def poll(self, **options: Any) -> list[str]:
        answer = await http(self.app, "GET", self.query, **{**self.options, **options})
        assert answer.status == 200, answer
        return answer.body.decode().split("\x1e")

    async def frame(self) -> str:
        """The next packet; pings are answered on the way."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame != "2":
                    return frame
                await self.post("3")
            self._frames += await self.poll()

    async def join(self, namespace: str = "/messages", token: str | None = "") -> str:
        assert (await self.post(connect_packet(namespace, token))).status == 200
        frame = await self.frame()
        prefix = "40" if namespace == "/" else f"40{namespace},"
        assert frame.startswith(prefix), frame
        return str(json.loads(frame[len(prefix) :])["sid"])

    async def close(self) -> None:
        """Close the Engine.IO session."""
        await self.post("1")


def held(case: Guarded) -> dict[str, Any]:
    """Everything that python-socketio, python-engineio and the guard hold of clients; empty values left out."""
    server, seam = case.server, case.seam
    manager = server.manager
    eio_sids = {sid for sid, socket in server.eio.sockets.items() if not socket.closed}
    everything = {
        "rooms": {ns: {room: dict(members) for room, members in rooms.items()} for ns, rooms in manager.rooms.items()},
        "pending_connect": getattr(manager, "pending_connect", None),
        "pending_disconnect": manager.pending_disconnect,
        "eio_to_sid": manager.eio_to_sid,
        "callbacks": manager.callbacks,
        "environ": set(server.environ),
        "sockets": eio_sids,
        "binary": server._binary_packet,
        "connections": dict(seam.connections),
        "quarantine": set(seam.quarantine),
        "admitting": set(seam.pending),
        "sessions": set() if server.environ else set(seam.sessions.open),
        "ledger": 0 if seam.connections else seam.ledger.connections,
        "expiry": 0 if seam.connections or seam.lifetime is None else len(seam.lifetime),
        "deadlines": 0 if server.environ else seam.sessions.waiting,
    }
    return {name: value for name, value in everything.items() if value}


def nothing_left(case: Guarded) -> None:
    assert held(case) == {}
