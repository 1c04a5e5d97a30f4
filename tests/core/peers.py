"""A Socket.IO client that is the same over each transport and serializer, for tests of what comes after a join."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import socketio

from socketguard.testing import FakeClock, Wire, mint
from tests.core.driver import Guarded, Polling, guarded, held, http, nothing_left, open_wire, until

__all__ = ["KINDS", "STYLES", "Closed", "Packet", "Peer", "a_clock", "gone", "lines", "move", "styled", "token_at"]

KINDS = ("websocket", "polling", "upgraded", "msgpack")
"""How a client may be connected."""

STYLES = ("function", "class", "catch-all", "catch-all class", "pattern")
"""In which of python-socketio's ways the handlers of ``/messages`` may be registered."""

EVENT, ACK, CONNECT_ERROR, DISCONNECT = 2, 3, 4, 1


class Closed(Exception):
    """The transport was closed; the first argument is the close code of a WebSocket."""


@dataclass(frozen=True)
class Packet:
    """A Socket.IO packet."""

    kind: int
    namespace: str
    data: Any = None
    number: int | None = None


class Peer:
    """A client.

    Args:
        case: the server.
        kind: one of `KINDS`; for ``msgpack`` the server must have that serializer.
    """

    def __init__(self, case: Guarded, kind: str = "websocket", **options: Any) -> None:
        self.case = case
        self.kind = kind
        self.wire: Wire | None = None
        self.polling: Polling | None = None
        self._options = options
        self._frames_in: list[str] = []

    async def open(self) -> Peer:
        if self.kind in ("websocket", "msgpack"):
            self.wire = await open_wire(self.case.app, **self._options)
        else:
            self.polling = await Polling(self.case.app, **self._options).open()
        return self

    async def upgrade(self) -> None:
        assert self.polling is not None
        wire = Wire(self.case.app, query=f"&sid={self.polling.sid}")
        await wire.open()
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
        polling = asyncio.ensure_future(self.polling.poll())
        assert (await polling)[-1] == "6"
        await wire.send("5")
        session = self.case.seam.session(self.polling.sid)
        assert session is not None
        await until(lambda: session.carrier is not None)
        self.wire, self.polling = wire, None

    async def join(self, namespace: str, token: str | None, **payload: Any) -> str:
        """Join a namespace and return the Socket.IO session id. Over ``upgraded`` the first join is over polling."""
        await self.connect(namespace, token, **payload)
        packet = await self.packet()
        assert (packet.kind, packet.namespace) == (0, namespace), packet
        if self.kind == "upgraded" and self.polling is not None:
            await self.upgrade()
        sid: str = packet.data["sid"]
        return sid

    async def connect(self, namespace: str, token: str | None, **payload: Any) -> None:
        data = payload if token is None else {"token": token, **payload}
        await self._send(Packet(0, namespace, data or None))

    async def refused(self, namespace: str, token: str | None) -> dict[str, Any]:
        """Ask for a namespace that is refused, and return the data of the answer."""
        await self.connect(namespace, token)
        packet = await self.packet()
        assert (packet.kind, packet.namespace) == (CONNECT_ERROR, namespace), packet
        data: dict[str, Any] = packet.data["data"]
        return data

    async def emit(self, namespace: str, *data: Any, number: int | None = None) -> None:
        await self._send(Packet(EVENT, namespace, list(data), number))

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

    async def closed(self) -> int | None:
        """The close code of the transport, which must be what comes next; None over polling."""
        try:
            packet = await self.packet()
        except Closed as exc:
            code: int | None = exc.args[0]
            return code
        raise AssertionError(packet)

    async def packet(self) -> Packet:
        """The next packet.

        Raises:
            Closed: the transport was closed.
        """
        if self.polling is not None:
            frame: str | bytes = await self._polled()
        else:
            assert self.wire is not None
            try:
                # What was to release the poll before the upgrade may come after it.
                while (frame := await self.wire.frame()) == "6":
                    pass
            except ConnectionError:
                raise Closed(self.wire.close_code) from None
        if isinstance(frame, bytes):
            found = msgpack.loads(frame)
            return Packet(found["type"], found["nsp"], found.get("data"), found.get("id"))
        assert frame[0] == "4", frame
        packet = socketio.packet.Packet(encoded_packet=frame[1:])
        return Packet(packet.packet_type, packet.namespace or "/", packet.data, packet.id)

    async def _polled(self) -> str:
        assert self.polling is not None
        while not self._frames_in:
            answer = await http(self.case.app, "GET", self.polling.query)
            if answer.status == 400:
                assert answer.json["code"] == "session_unknown", answer
                raise Closed(None)
            assert answer.status == 200, answer
            for frame in answer.body.decode().split("\x1e"):
                if frame == "2":
                    await self.polling.post("3")
                elif frame != "6":
                    self._frames_in.append(frame)
        frame = self._frames_in.pop(0)
        if frame == "1":
            raise Closed(None)
        return frame

    async def close(self) -> None:
        """Go away without a word; over polling with one, since nobody would notice."""
        if self.wire is not None:
            await self.wire.close()
        elif self.polling is not None:
            await self.polling.close()

    async def _send(self, packet: Packet) -> None:
        if self.kind == "msgpack":
            content = {"type": packet.kind, "nsp": packet.namespace, "data": packet.data, "id": packet.number}
            await self._frames(msgpack.dumps({name: value for name, value in content.items() if value is not None}))
            return
        attachments: list[bytes] = []
        text = "" if packet.data is None else json.dumps(_taken_out(packet.data, attachments), separators=(",", ":"))
        kind = f"{packet.kind + 3}{len(attachments)}-" if attachments else str(packet.kind)
        place = "" if packet.namespace == "/" else f"{packet.namespace},"
        await self._frames(f"4{kind}{place}{'' if packet.number is None else packet.number}{text}", *attachments)

    async def _frames(self, *frames: str | bytes) -> None:
        if self.polling is not None:
            packets = [frame if isinstance(frame, str) else f"b{base64.b64encode(frame).decode()}" for frame in frames]
            assert (await self.polling.post(*packets)).status == 200
            return
        assert self.wire is not None
        for frame in frames:
            await self.wire.send(frame)


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


def a_clock() -> FakeClock:
    """A clock that stands at the beginning of this second, so that tokens end where one expects it."""
    return FakeClock(float(int(time.time())))


def token_at(clock: FakeClock, lifetime: float = 60, subject: str | None = "user-1", **claims: Any) -> str:
    """A token that was issued now."""
    return mint(subject, now=clock.now, lifetime=lifetime, **claims)


def move(case: Guarded, clock: FakeClock, seconds: float) -> None:
    """Move the clock, and let the guard look at it."""
    clock.move(seconds)
    assert case.seam.lifetime is not None
    case.guard._parts.endings.arm()


def lines(events: list[dict[str, Any]], event: str, **fields: Any) -> list[dict[str, Any]]:
    """The log lines of this event, or those of them that have these fields."""
    return [
        line
        for line in events
        if line["event"] == f"socketguard.{event}" and all(line.get(name) == value for name, value in fields.items())
    ]


def styled(style: str, seen: Callable[..., None], *, kind: str = "websocket", **options: Any) -> Guarded:
    """A server with handlers for ``/messages`` in one of python-socketio's ways.

    Args:
        style: one of `STYLES`; ``pattern`` is a declared pattern with a catch-all handler.
        seen: called with the name of each event that reaches the application and its arguments.
        kind: of the client, for the serializer.
        **options: for `SocketGuard`.
    """

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
            if event not in ("connect", "disconnect"):
                return await any_event(event, *args)
            return None

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
    server_options = {"serializer": "msgpack"} if kind == "msgpack" else {}
    return guarded("/elsewhere", prepare=prepare, server_options=server_options, **{"namespaces": policies, **options})


async def gone(case: Guarded) -> None:
    """Wait until nothing is left of any client, or say what is."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: not held(case) and not case.guard.status()["timers"]["ending"])
    nothing_left(case)
    assert case.guard.status()["timers"]["ending"] == 0
