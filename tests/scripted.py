"""Clients without a network, for tests and benchmarks: they call an ASGI application with scripted messages.

`Client` speaks Socket.IO and is the same over each transport and serializer; `http` and `Socket` are one request and
one WebSocket. `guarded` makes a server with something to join, and `left` says what is still held of its clients.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack
import socketio

from socketguard import Limits, SocketGuard
from socketguard.connection import Identity
from socketguard.limits.revocation import Revocation
from socketguard.testing import FakeClock, Refused, make_auth, mint

ASGI = Callable[..., Awaitable[Any]]
Events = list[dict[str, Any]]
"""Log lines."""

OPEN = "EIO=4&transport=polling"
PATIENCE = 60.0
"""Seconds of real time after which something has not happened."""

UNLIMITED = Limits(**dict.fromkeys(each.name for each in dataclasses.fields(Limits)))  # type: ignore[arg-type]
"""For those who want to know what happens without limits."""

KINDS = ("websocket", "polling", "upgraded", "msgpack")
"""How a `Client` may be connected."""

STYLES = ("function", "class", "catch-all", "catch-all class", "pattern")
"""In which of python-socketio's ways the handlers of ``/messages`` may be registered."""

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = range(5)


# Servers


@dataclass
class Guarded:
    """A server, its guard and the application. What is left of its clients is looked at when a test has ended."""

    server: Any
    guard: SocketGuard
    app: ASGI
    leaves: bool = False
    """Whether a test leaves sessions open on purpose."""

    def __post_init__(self) -> None:
        made.append(self)

    @property
    def eio_sid(self) -> str:
        """The id of its only session."""
        (eio_sid,) = self.server.eio.sockets
        return str(eio_sid)


made: list[Guarded] = []
"""Those that were made in the test that runs."""
opened: list[Socket | Client] | None = None
"""Who was opened in the test that runs, to be closed at its end; None where whoever opens a client closes it."""


def guarded(
    *namespaces: str,
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    prepare: Callable[[Any], None] | None = None,
    server_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Guarded:
    """A guarded server with an echo in each of the namespaces, and with these handlers in ``/messages``."""
    # The task that looks for silent clients would outlive the test; a moved clock is no reason for a ping.
    defaults = {"monitor_clients": False, "ping_interval": 10**6}
    server = socketio.AsyncServer(async_mode="asgi", **{**defaults, **(server_options or {})})
    for namespace in namespaces or ("/messages",):
        server.on("echo", _echo, namespace=namespace)
    for event, handler in (handlers or {}).items():
        server.on(event, handler, namespace="/messages")
    if prepare is not None:
        prepare(server)
    guard = SocketGuard(socketio.ASGIApp(server), **{"auth": make_auth(), "logger": False, **options})
    return Guarded(server, guard, guard)


async def _echo(sid: str, *args: Any) -> Any:
    return args


def serializer(kind: str) -> dict[str, Any]:
    """The options of a server for clients of this kind."""
    return {"serializer": "msgpack"} if kind == "msgpack" else {}


def styled(style: str, seen: Callable[..., None], *, kind: str = "websocket", **options: Any) -> Guarded:
    """A server with handlers for ``/messages`` in one of python-socketio's ways."""

    async def any_event(event: str, sid: str, *args: Any) -> Any:
        seen(event, *args)
        return args[0] if args else None

    async def any_event_anywhere(event: str, namespace: str, sid: str, *args: Any) -> Any:
        assert namespace == "/messages"
        return await any_event(event, sid, *args)

    class Namespace(socketio.AsyncNamespace):
        async def trigger_event(self, event: str, *args: Any) -> Any:
            if args[0] == "/messages":
                args = args[1:]
            return None if event in ("connect", "disconnect") else await any_event(event, *args)

    def prepare(server: Any) -> None:
        if style == "function":
            server.on("*", any_event, namespace="/messages")
        elif style == "class":
            server.register_namespace(Namespace("/messages"))
        elif style == "catch-all class":
            server.register_namespace(Namespace("*"))
        else:
            server.on("*", any_event_anywhere, namespace="*")

    policies = {"pattern": ["/{name}"], "function": None, "class": None}.get(style, ["/messages"])
    options = {"namespaces": policies, **options}
    return guarded("/elsewhere", prepare=prepare, server_options=serializer(kind), **options)


def left(case: Guarded) -> dict[str, Any]:
    """What python-socketio, python-engineio and the guard hold of clients; empty values left out."""
    server, manager = case.server, case.server.manager
    everything = {
        "rooms": {ns: {room: dict(members) for room, members in rooms.items()} for ns, rooms in manager.rooms.items()},
        "pending_connect": getattr(manager, "pending_connect", None),
        "pending_disconnect": manager.pending_disconnect,
        "eio_to_sid": manager.eio_to_sid,
        "callbacks": manager.callbacks,
        "environ": set(server.environ),
        "sockets": {sid for sid, socket in server.eio.sockets.items() if not socket.closed},
        "binary": server._binary_packet,
    }
    everything |= _left_at_guard(case.guard)
    return {name: value for name, value in everything.items() if value}


def _left_at_guard(guard: SocketGuard) -> dict[str, Any]:
    try:
        SocketGuard.of(guard.server)
    except LookupError:
        return {}  # It was detached, and knows of nobody any more.
    status = guard.status()
    everything: dict[str, Any] = {"connections": guard.connections()}
    for what in ("sessions", "connections", "timers"):
        everything |= {f"{what} {name}": number for name, number in status[what].items()}
    return everything


def outside(case: Guarded) -> None:
    """Nobody is in a namespace, though sessions may be open."""
    open_sessions = {"environ", "sockets", "timers connect"}
    assert {name for name in left(case) if not name.startswith("sessions ")} <= open_sessions


async def gone(case: Guarded) -> None:
    """Wait until nothing is left of any client."""
    await until(lambda: not left(case))


# Time


class Clock(FakeClock):
    """The clock of the tokens, which stands at the beginning of a second, and that of the loop."""

    def __init__(self) -> None:
        super().__init__(float(int(time.time())))
        self.passed = 0.0

    def passes(self, seconds: float) -> None:
        """Let time pass for tokens and for timers; for the latter at least the second after which all is looked at."""
        self.now += seconds
        self.passed += min(max(seconds, 1.0), 3600.0)


@contextlib.contextmanager
def moving(clock: Clock) -> Iterator[None]:
    """Let the loop, and all who ask for the monotonic time, go by this clock."""
    monotonic = time.monotonic
    time.monotonic = lambda: monotonic() + clock.passed
    try:
        yield
    finally:
        time.monotonic = monotonic


def token_at(clock: FakeClock, lifetime: float = 60, subject: str | None = "user-1", **claims: Any) -> str:
    """A token that was issued now."""
    return mint(subject, now=clock.now, lifetime=lifetime, **claims)


async def within(work: Awaitable[Any], seconds: float = PATIENCE) -> Any:
    """Wait for something for so many seconds of real time, however the clock of the loop is moved meanwhile."""
    task = asyncio.ensure_future(work)
    end = time.perf_counter() + seconds
    try:
        while not task.done() and (more := end - time.perf_counter()) > 0:
            await asyncio.wait((task,), timeout=more)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,))
        raise
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
        raise TimeoutError(f"nothing in {seconds:g} s")
    return task.result()


async def until(condition: Callable[[], Any], *, timeout: float = PATIENCE) -> None:
    """Let the loop run until something is so."""
    end = time.perf_counter() + timeout
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError
        await asyncio.sleep(0 if timeout == PATIENCE else 0.001)


async def rest() -> None:
    """Let the loop run until everything has been done that can be done."""
    for _ in range(100):
        await asyncio.sleep(0)


class Pause:
    """Something of the application that waits, once it was entered, until it is released."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.times = 0

    async def wait(self, *args: Any) -> bool:
        self.times += 1
        self.entered.set()
        await self.release.wait()
        return True


class Store:
    """A store of revocations that answers with what was so when it was asked, later or not at all."""

    def __init__(self) -> None:
        self.kept: list[Revocation] = []
        self.pause: Pause | None = None
        self.error: Exception | None = None

    async def revoke(self, revocation: Revocation) -> None:
        self.kept.append(revocation)

    async def is_revoked(self, identity: Identity) -> bool:
        found = any(revocation.covers(identity) for revocation in self.kept)
        if self.error is not None:
            raise self.error
        if self.pause is not None:
            await self.pause.wait()
        return found


# Requests


def scope(
    kind: str,
    query: str | bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    path: str = "/socket.io/",
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    **more: Any,
) -> dict[str, Any]:
    """An ASGI scope, ``http`` or ``websocket``."""
    found = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query if isinstance(query, bytes) else query.encode("utf-8", "surrogateescape"),
        "headers": headers,
        "client": client,
        "server": ("testserver", 80),
        "state": {},
    }
    if kind == "websocket":
        found |= {"subprotocols": [], "extensions": {"websocket.http.response": {}}}
    return {**found, **more}


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


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


class Request:
    """An HTTP request of which only so much has arrived as a test says."""

    def __init__(self, pieces: list[bytes], *, more: str = "", bare: bool = False) -> None:
        self.answer = Answer()
        self.complete = False
        self.read = asyncio.Event()
        """Set when everything that has arrived was read."""
        self._bare = bare
        self._events: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": more != "end" or number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        if more == "http.disconnect":
            self._events.append({"type": more})

    async def receive(self) -> dict[str, Any]:
        if self._events:
            return self._events.pop(0)
        self.read.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        assert not self.complete
        answer = self.answer
        if message["type"] == "http.response.start":
            assert not answer.status
            assert self._bare or all(name == name.lower() for name, _ in message["headers"])
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            assert message["type"] == "http.response.body", message
            assert answer.status
            answer.body += message.get("body", b"")
            self.complete = not message.get("more_body")


async def http(
    app: ASGI,
    method: str,
    query: str,
    body: bytes | list[bytes] = b"",
    *,
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
    gone: bool = False,
    timeout: float = PATIENCE,
    bare: bool = False,
    **more: Any,
) -> Answer:
    """One HTTP request."""
    request = Request(body if isinstance(body, list) else [body], more="http.disconnect" if gone else "end", bare=bare)
    raw = list(headers) if isinstance(headers, list) else raw_headers({"host": "testserver", **(headers or {})})
    if not isinstance(body, list) and method == "POST" and all(name != b"content-length" for name, _ in raw):
        raw.append((b"content-length", str(len(body)).encode()))
    await within(app(scope("http", query, raw, method=method, **more), request.receive, request.send), timeout)
    assert request.complete or gone
    return request.answer


class Socket:
    """A WebSocket: raw Engine.IO frames."""

    def __init__(
        self,
        app: ASGI,
        *,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        timeout: float = PATIENCE,
        **more: Any,
    ) -> None:
        self.app = app
        self.timeout = timeout
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """What the application receives."""
        self.outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """What it has sent."""
        self.task: asyncio.Future[Any] | None = None
        self.close_code: int | None = None
        self.close_reason: str | None = None
        every = {"host": "testserver", "upgrade": "websocket", "connection": "Upgrade", **(headers or {})}
        self.scope = scope("websocket", f"EIO=4&transport=websocket{query}", raw_headers(every), **more)

    def start(self) -> None:
        """Let the request arrive, without its first message."""
        self.task = asyncio.ensure_future(self.app(self.scope, self.inbox.get, self.outbox.put))
        if opened is not None:
            opened.append(self)

    async def open(self) -> Socket:
        """Shake hands."""
        self.put("websocket.connect")
        if self.task is None:
            self.start()
        message = await self.message()
        if message["type"] == "websocket.accept":
            return self
        assert self.task is not None
        if message["type"] == "websocket.http.response.start":
            body = json.loads((await self.message())["body"])
            await within(self.task)
            raise Refused(body["message"], body, message["status"])
        await within(self.task)
        raise Refused(message.get("reason", ""), None, 403)

    def put(self, kind: str, **values: Any) -> None:
        """Let the application receive any message."""
        self.inbox.put_nowait({"type": kind, **values})

    async def send(self, frame: str | bytes) -> None:
        self.put("websocket.receive", **{"text" if isinstance(frame, str) else "bytes": frame})

    async def message(self) -> dict[str, Any]:
        found: dict[str, Any] = await within(self.outbox.get(), self.timeout)
        return found

    async def frame(self) -> str | bytes:
        """The next frame of the server; its pings are answered on the way."""
        while True:
            message = await self.message()
            if message["type"] == "websocket.close":
                self.close_code, self.close_reason = message.get("code", 1000), message.get("reason")
                raise ConnectionError(f"the server closed with {self.close_code}")
            text: str | None = message.get("text")
            if text == "2":
                await self.send("3")
                continue
            data: bytes | None = message.get("bytes")
            return data if text is None and data is not None else str(text)

    async def frames(self) -> list[str | bytes]:
        """All frames until the server closes, or until nothing more comes."""
        found = []
        try:
            while True:
                if self.outbox.empty():
                    await rest()
                    if self.outbox.empty():
                        return found
                found.append(await self.frame())
        except ConnectionError:
            return found

    async def closed(self) -> tuple[list[str], int | None]:
        """The frames until the server closes the WebSocket, and the code."""
        found: list[str] = []
        try:
            while True:
                found.append(str(await self.frame()))
        except ConnectionError:
            return found, self.close_code

    async def join(self, namespace: str = "/messages", token: str | None = "", **auth: Any) -> str:
        """Join a namespace and return the Socket.IO session id."""
        await self.send(connect_packet(namespace, token, **auth))
        return sid_in(await self.frame(), namespace)

    async def alive(self) -> bool:
        """Whether an event in ``/messages`` is answered, with nothing before the answer."""
        await self.send('42/messages,99["echo","hello"]')
        return await self.frame() == '43/messages,99["hello"]'

    async def close(self, code: int = 1005) -> None:
        """Go away without a word, and wait until the application has noticed."""
        if self.task is not None:
            self.put("websocket.disconnect", code=code)
            await within(self.task)


class Line:
    """An application behind a line that can be cut: what is sent then waits, and nothing is lost."""

    def __init__(self, app: Any, *, all_of_it: bool = False) -> None:
        self.app = app
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0
        self._kinds = ("websocket.send", "http.response.body", *["websocket.close"] * all_of_it)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: dict[str, Any]) -> None:
            if message["type"] in self._kinds:
                self.waiting += 1
                await self.open.wait()
                self.waiting -= 1
            await send(message)

        await self.app(scope, receive, slowly)


async def open_wire(app: ASGI, *frames: str | bytes, **options: Any) -> Socket:
    """A WebSocket with its OPEN packet read, and with these frames sent."""
    wire = await Socket(app, **options).open()
    assert str(await wire.frame()).startswith("0{")
    for frame in frames:
        await wire.send(frame)
    return wire


async def joined_wire(
    app: ASGI, namespace: str = "/messages", token: str | None = "", **options: Any
) -> tuple[Socket, str]:
    """A WebSocket that has joined a namespace, and the Socket.IO session id."""
    wire = await open_wire(app, **options)
    return wire, await wire.join(namespace, token)


def connect_packet(namespace: str = "/messages", token: str | None = "", **auth: Any) -> str:
    """A CONNECT with a good token (``""``), another one, or none."""
    payload = {**auth, **({} if token is None else {"token": token or mint()})}
    return f"40{_place(namespace)}{json.dumps(payload) if payload else ''}"


def sid_in(frame: str | bytes, namespace: str = "/messages") -> str:
    """The Socket.IO session id in the answer to a CONNECT that was accepted."""
    head = f"40{_place(namespace)}"
    assert str(frame).startswith(head), frame
    return str(json.loads(str(frame)[len(head) :])["sid"])


def refusal_in(frame: str | bytes, namespace: str = "/messages") -> Any:
    """What a CONNECT_ERROR says."""
    head = f"44{_place(namespace)}"
    assert str(frame).startswith(head), frame
    return json.loads(str(frame)[len(head) :])


def _place(namespace: str) -> str:
    return "" if namespace == "/" else f"{namespace},"


# Socket.IO


class Closed(Exception):
    """The transport was closed; the first argument is the close code of a WebSocket."""


@dataclass(frozen=True)
class Packet:
    """A Socket.IO packet."""

    kind: int
    namespace: str
    data: Any = None
    number: int | None = None


class Client:
    """A Socket.IO client."""

    def __init__(self, case: Guarded | ASGI, kind: str = "websocket", **options: Any) -> None:
        self.case = case
        self.app: ASGI = case.app if isinstance(case, Guarded) else case
        self.kind = kind
        self.options = options
        self.sid = ""
        self.wire: Socket | None = None
        self._frames: list[str] = []

    async def open(self) -> Client:
        if self.kind in ("websocket", "msgpack"):
            self.wire = await open_wire(self.app, **self.options)
        else:
            answer = await self.http("GET", OPEN)
            assert answer.status == 200, answer
            self.sid = json.loads(answer.body.decode().split("\x1e")[0][1:])["sid"]
            if opened is not None:
                opened.append(self)
        return self

    # Over polling

    @property
    def query(self) -> str:
        return f"{OPEN}&sid={self.sid}"

    async def http(self, method: str, query: str = "", body: bytes | list[bytes] = b"", **options: Any) -> Answer:
        return await http(self.app, method, query or self.query, body, **{**self.options, **options})

    async def post(self, *packets: str, **options: Any) -> Answer:
        return await self.http("POST", body="\x1e".join(packets).encode("utf-8", "surrogatepass"), **options)

    async def poll(self, **options: Any) -> list[str]:
        answer = await self.http("GET", **options)
        assert answer.status == 200, answer
        return answer.body.decode().split("\x1e")

    async def begin(self, method: str, *pieces: bytes) -> tuple[asyncio.Future[Any], Request]:
        """A request of which only so much arrives, and which is read up to there."""
        request = Request(list(pieces))
        headers = raw_headers({"host": "testserver", "content-length": "1000"})
        found = scope("http", self.query, headers, method=method, **self.options)
        task = asyncio.ensure_future(self.app(found, request.receive, request.send))
        if method == "GET":
            await rest()  # Its body is of no interest.
        else:
            await within(request.read.wait())
        return task, request

    async def waiting(self) -> asyncio.Future[list[str]]:
        """A poll that waits for packets."""
        poll = asyncio.ensure_future(self.poll())
        await rest()
        assert not poll.done()
        return poll

    async def probe(self) -> Socket:
        """Begin to upgrade: the WebSocket on which the probe was answered."""
        wire = await Socket(self.app, query=f"&sid={self.sid}", **self.options).open()
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
        return wire

    async def upgrade(self) -> Socket:
        wire = await self.probe()
        assert (await self.poll())[-1] == "6"
        await wire.send("5")
        await rest()
        self.wire = wire
        return wire

    # Frames

    async def send(self, *frames: str | bytes) -> None:
        if self.wire is None:
            packets = [frame if isinstance(frame, str) else f"b{base64.b64encode(frame).decode()}" for frame in frames]
            assert (await self.post(*packets)).status == 200
        else:
            for frame in frames:
                await self.wire.send(frame)

    async def frame(self) -> str | bytes:
        """The next packet of Engine.IO; pings are answered on the way."""
        if self.wire is not None:
            try:
                # What was to release the poll before the upgrade may come after it.
                while (found := await self.wire.frame()) == "6":
                    pass
            except ConnectionError:
                raise Closed(self.wire.close_code) from None
            return found
        while not self._frames:
            answer = await self.http("GET")
            if answer.status in (400, 503):
                assert answer.json["code"] in ("session_unknown", "draining"), answer
                raise Closed(None)
            assert answer.status == 200, answer
            for frame in answer.body.decode().split("\x1e"):
                if frame == "2":
                    await self.post("3")
                elif frame != "6":
                    self._frames.append(frame)
        frame = self._frames.pop(0)
        if frame == "1":
            raise Closed(None)
        return frame

    async def close(self) -> None:
        """Go away without a word; over polling with one, since nobody would notice."""
        if self.wire is not None:
            await self.wire.close()
        else:
            await self.post("1")
            if opened is not None and self in opened:
                opened.remove(self)

    # Packets

    async def packet(self) -> Packet:
        """The next packet of Socket.IO."""
        frame = await self.frame()
        if isinstance(frame, bytes):
            found = msgpack.loads(frame)
            return Packet(found["type"], found["nsp"], found.get("data"), found.get("id"))
        assert frame[0] == "4", frame
        packet = socketio.packet.Packet(encoded_packet=frame[1:])
        return Packet(packet.packet_type, packet.namespace or "/", packet.data, packet.id)

    async def send_packet(self, packet: Packet) -> None:
        if self.kind == "msgpack":
            content = {"type": packet.kind, "nsp": packet.namespace, "data": packet.data, "id": packet.number}
            await self.send(msgpack.dumps({name: value for name, value in content.items() if value is not None}))
            return
        attachments: list[bytes] = []
        text = "" if packet.data is None else json.dumps(_taken_out(packet.data, attachments), separators=(",", ":"))
        kind = f"{packet.kind + 3}{len(attachments)}-" if attachments else str(packet.kind)
        number = "" if packet.number is None else packet.number
        await self.send(f"4{kind}{_place(packet.namespace)}{number}{text}", *attachments)

    async def connect(self, namespace: str = "/messages", token: str | None = "", **payload: Any) -> None:
        data = payload if token is None else {"token": token or mint(), **payload}
        await self.send_packet(Packet(CONNECT, namespace, data or None))

    async def join(self, namespace: str = "/messages", token: str | None = "", **payload: Any) -> str:
        """Join a namespace and return the Socket.IO session id. Over ``upgraded`` the first join is over polling."""
        await self.connect(namespace, token, **payload)
        packet = await self.packet()
        assert (packet.kind, packet.namespace) == (CONNECT, namespace), packet
        if self.kind == "upgraded" and self.wire is None:
            await self.upgrade()
        sid: str = packet.data["sid"]
        return sid

    async def refused(self, namespace: str = "/messages", token: str | None = "") -> dict[str, Any]:
        """Ask for a namespace that is refused, and return the data of the answer."""
        await self.connect(namespace, token)
        packet = await self.packet()
        assert (packet.kind, packet.namespace) == (CONNECT_ERROR, namespace), packet
        return {"message": packet.data["message"], **packet.data.get("data", {})}

    async def emit(self, namespace: str, *data: Any, number: int | None = None) -> None:
        await self.send_packet(Packet(EVENT, namespace, list(data), number))

    async def call(self, namespace: str, *data: Any, number: int = 7) -> Any:
        """Emit an event, and return its acknowledgement, which must be the next packet."""
        await self.emit(namespace, *data, number=number)
        packet = await self.packet()
        assert (packet.kind, packet.namespace, packet.number) == (ACK, namespace, number), packet
        return packet.data[0] if len(packet.data) == 1 else packet.data

    async def refresh(self, namespace: str, token: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.call(namespace, "socketguard:refresh", {"token": token})
        return answer

    async def alive(self, namespace: str = "/messages") -> bool:
        """Whether an event is answered, with nothing before the answer."""
        return bool(await self.call(namespace, "echo", "hello", number=99) == "hello")

    async def event(self, namespace: str, name: str) -> Any:
        """The payload of the next packet, which must be this event."""
        packet = await self.packet()
        assert (packet.kind, packet.namespace, packet.data[0]) == (EVENT, namespace, name), packet
        return packet.data[1]

    async def disconnected(self, namespace: str) -> None:
        """The next packet must be the end of this namespace."""
        packet = await self.packet()
        assert (packet.kind, packet.namespace) == (DISCONNECT, namespace), packet

    async def told(self, namespace: str, code: str) -> str:
        """The next packet must say that the namespace ends, and why. Returns the advice."""
        data = await self.event(namespace, "socketguard:closing")
        assert data["code"] == code
        advice: str = data["retry"]
        return advice

    async def sent_away(self, namespace: str, code: str) -> None:
        """The next packets must say why this namespace ends, and end it."""
        await self.told(namespace, code)
        await self.disconnected(namespace)

    async def expired(self, namespace: str = "/messages") -> None:
        """The next packet must say that the token has expired, and the WebSocket be closed."""
        await self.told(namespace, "token_expired")
        assert await self.closed() == 4401

    async def closed(self) -> int | None:
        """The close code of the transport, which must be what comes next; None over polling."""
        try:
            packet = await self.packet()
        except Closed as exc:
            code: int | None = exc.args[0]
            return code
        raise AssertionError(packet)


async def joined_client(
    case: Guarded | ASGI,
    namespace: str = "/messages",
    token: str | None = "",
    *,
    kind: str = "websocket",
    **options: Any,
) -> tuple[Client, str]:
    """A client that has joined a namespace, and the Socket.IO session id."""
    client = await Client(case, kind, **options).open()
    return client, await client.join(namespace, token)


def _taken_out(value: Any, attachments: list[bytes]) -> Any:
    """JSON in which bytes are placeholders, as the protocol of Socket.IO has it."""
    if isinstance(value, bytes):
        attachments.append(value)
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, list):
        return [_taken_out(each, attachments) for each in value]
    if isinstance(value, dict):
        return {name: _taken_out(each, attachments) for name, each in value.items()}
    return value


# The log


def lines(events: Iterable[dict[str, Any]], event: str, **fields: Any) -> list[dict[str, Any]]:
    """The log lines of this event, or those of them that have these fields."""
    return [
        line
        for line in events
        if line["event"] == f"socketguard.{event}" and all(line.get(name) == value for name, value in fields.items())
    ]
