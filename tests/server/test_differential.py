"""What a well-behaved client sees of a guarded server is what it sees of an unguarded one, whatever others send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import socketio
from hypothesis import given, settings
from hypothesis import strategies as st

from socketguard import SocketGuard
from socketguard.testing import make_auth
from tests import scripted
from tests.scripted import ACK, ASGI, CONNECT, CONNECT_ERROR, DISCONNECT, EVENT, Client, Clock, Packet, moving, rest

NAMESPACES = ("/", "/messages", "/scheduler")
INTERVAL = 25

namespaces = st.sampled_from(NAMESPACES)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5) | st.binary(min_size=1, max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=4,
)
arguments = st.lists(values, max_size=3)
events = st.sampled_from(
    ["echo", "tell", "later", "ask", "enter", "leave", "all", "others", "fail", "unheard", "kick", "session"]
)
good_steps = st.one_of(
    st.tuples(st.just("join"), namespaces | st.just("/nowhere")),
    st.tuples(st.just("join"), namespaces),
    st.tuples(st.just("part"), namespaces),
    st.tuples(st.just("event"), namespaces, events, arguments, st.none() | st.integers(0, 99)),
    st.tuples(st.just("event"), namespaces, events, arguments, st.none() | st.integers(0, 99)),
    st.tuples(st.just("upgrade")),
    st.tuples(st.just("silence")),
    st.tuples(st.just("reopen")),
)
bad_steps = good_steps | st.tuples(
    st.just("raw"),
    st.sampled_from(
        ["4", "40/x,{", "42/messages,[", "42[]", '42["echo"', "9", "2probe", "5", "43/messages,1[]", "4٠", "44"]
    )
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.just('451-["echo",{"_placeholder":true,"num":0}]')
    | st.binary(max_size=5),
)
programs = st.lists(
    st.tuples(st.just(0), good_steps) | st.tuples(st.just(0), good_steps) | st.tuples(st.just(1), bad_steps),
    max_size=12,
)


def plain(args: Any) -> Any:
    """Arguments that an unguarded server can broadcast to clients over different transports."""
    return json.loads(json.dumps(args, default=repr))


def server(**options: Any) -> Any:
    """An application with handlers of each sort."""
    sio = socketio.AsyncServer(async_mode="asgi", monitor_clients=False, ping_interval=INTERVAL, **options)

    def handlers(namespace: str) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            await sio.save_session(sid, {"joined": namespace, "auth": auth}, namespace=namespace)

        async def tell(sid: str, *args: Any) -> int:
            await sio.emit("told", args, to=sid, namespace=namespace)
            await sio.send(list(args), to=sid, namespace=namespace)
            return len(args)

        async def later(sid: str, *args: Any) -> Any:
            await asyncio.sleep(0)
            return args

        async def ask(sid: str, *args: Any) -> None:
            async def answered(*found: Any) -> None:
                await sio.emit("answered", found, to=sid, namespace=namespace)

            await sio.emit("question", args, to=sid, namespace=namespace, callback=answered)

        async def enter(sid: str, *args: Any) -> None:
            await sio.enter_room(sid, "room", namespace=namespace)

        async def leave(sid: str, *args: Any) -> list[str]:
            await sio.leave_room(sid, "room", namespace=namespace)
            return sorted(room for room in sio.rooms(sid, namespace=namespace) if room != sid)

        async def everybody(sid: str, *args: Any) -> None:
            await sio.emit("all", plain(args), namespace=namespace)

        async def others(sid: str, *args: Any) -> None:
            await sio.emit("others", plain(args), room="room", skip_sid=sid, namespace=namespace)

        async def fail(sid: str, *args: Any) -> None:
            raise LookupError

        async def kick(sid: str, *args: Any) -> None:
            await sio.disconnect(sid, namespace=namespace)

        async def session(sid: str, *args: Any) -> Any:
            async with sio.session(sid, namespace=namespace) as kept:
                kept["seen"] = kept.get("seen", 0) + 1
                return dict(kept)

        async def gone(sid: str, *reason: Any) -> None:
            entered = "room" in sio.rooms(sid, namespace=namespace)
            # To others: a guard sends nothing any more to the connection that ends.
            await sio.emit("gone", entered, room="room", skip_sid=sid, namespace=namespace)

        found: dict[str, Callable[..., Any]] = {
            "connect": connect,
            "disconnect": gone,
            "echo": lambda sid, *args: args,
            "tell": tell,
            "later": later,
            "ask": ask,
            "enter": enter,
            "leave": leave,
            "all": everybody,
            "others": others,
            "fail": fail,
            "kick": kick,
            "session": session,
        }
        for event, handler in found.items():
            sio.on(event, handler, namespace=namespace)

    for namespace in NAMESPACES:
        handlers(namespace)
    return sio


@dataclass
class Player:
    """One client that keeps to the protocol, and what it has seen."""

    app: ASGI
    kind: str
    seen: list[Any] = field(default_factory=list)
    members: set[str] = field(default_factory=set)
    client: Client | None = None
    _poll: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        self.client = await Client(self.app, self.kind, bare=True).open()

    async def step(self, what: str, *args: Any) -> None:
        client = self.client
        assert client is not None
        if what == "join":
            (namespace,) = args
            if namespace not in self.members:
                await client.send_packet(Packet(CONNECT, namespace, {"who": "me"}))
        elif what == "part":
            (namespace,) = args
            if namespace in self.members:
                self.members.discard(namespace)
                await client.send_packet(Packet(DISCONNECT, namespace))
        elif what == "event":
            namespace, event, data, number = args
            if event == "kick":
                number = None  # A guard sends nothing to a connection that has ended, not even this.
            if namespace in self.members:
                await client.send_packet(Packet(EVENT, namespace, [event, *data], number))
        elif what == "upgrade":
            if self.kind == "upgraded" and client.wire is None:
                if self._poll is None:
                    self._poll = asyncio.ensure_future(client.http("GET"))
                    await rest()
                wire = await client.probe()
                answer, self._poll = await self._poll, None  # Which is let go at once.
                await self.take_all(answer.body.decode().split("\x1e"))
                await wire.send("5")
                client.wire = wire
        elif what == "reopen":
            await self.close()
            await self.open()
        elif what == "raw":
            await self.raw(*args)

    async def raw(self, frame: str | bytes) -> None:
        """What is against the protocol, from somebody who has joined nothing and goes away after it."""
        assert self.client is not None
        if self.members:
            return
        if self.client.wire is not None:
            await self.client.wire.send(frame)
        elif isinstance(frame, str) and frame != "2probe":  # To which an unguarded server gives no answer.
            await self.client.post(frame)
        await rest()
        await self.step("reopen")

    async def read(self) -> None:
        """Take all that has come, and answer what is to be answered."""
        for _ in range(20):
            await rest()
            client = self.client
            assert client is not None
            frames: list[str | bytes] = []
            if client.wire is None:
                if self._poll is None:
                    self._poll = asyncio.ensure_future(client.http("GET"))
                    await rest()
                if not self._poll.done():
                    return
                answer = self._poll.result()
                self._poll = None
                if answer.status != 200:
                    return await self.lost()
                frames += answer.body.decode().split("\x1e")
            else:
                while not client.wire.outbox.empty():
                    message = client.wire.outbox.get_nowait()
                    if message["type"] != "websocket.send":
                        return await self.lost()
                    text = message.get("text")
                    frames.append(text if text is not None else message["bytes"])
                if not frames:
                    return
            await self.take_all(frames)
        raise AssertionError("it does not end")

    async def lost(self) -> None:
        """The server has ended the connection: a client comes back."""
        self.seen.append("closed")
        await self.close()
        await self.open()

    async def close(self) -> None:
        client, self.client = self.client, None
        assert client is not None
        self.members.clear()
        if client.wire is not None:
            with contextlib.suppress(ValueError):  # What an unguarded server does not catch.
                await client.wire.close()
        else:
            await client.post("1")
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.cancel()
            await asyncio.wait((poll,))

    async def take_all(self, frames: list[Any]) -> None:
        for frame in frames:
            await self.take(frame)

    async def take(self, frame: str | bytes) -> None:
        client = self.client
        assert client is not None
        if frame == "2":
            self.seen.append("ping")
            await client.send("3")
        elif frame in ("6", "1"):
            pass
        elif isinstance(frame, bytes):
            if self.kind == "msgpack":
                found = msgpack.loads(frame)
                await self.packet(Packet(found["type"], found["nsp"], found.get("data"), found.get("id")))
            else:
                self.seen.append(frame)
        elif frame.startswith("b"):
            self.seen.append(base64.b64decode(frame[1:]))
        else:
            packet = socketio.packet.Packet(encoded_packet=frame[1:])
            await self.packet(Packet(packet.packet_type, packet.namespace or "/", packet.data, packet.id))

    async def packet(self, packet: Packet) -> None:
        assert self.client is not None
        data = packet.data
        if packet.kind == CONNECT:
            self.members.add(packet.namespace)
            data = sorted(data)
        elif packet.kind == CONNECT_ERROR:
            data = None
        elif packet.kind == DISCONNECT:
            self.members.discard(packet.namespace)
        elif packet.kind == EVENT and packet.number is not None:
            await self.client.send_packet(Packet(ACK, packet.namespace, ["yes"], packet.number))
        self.seen.append((packet.kind, packet.namespace, json.loads(json.dumps(data, default=repr)), packet.number))


async def seen(app: ASGI, kinds: tuple[str, str], program: Any, clock: Clock) -> list[Any]:
    """What the first client sees while this is done."""
    players = [Player(app, kind) for kind in kinds]
    for player in players:
        await player.open()
    for who, (what, *args) in program:
        if what == "silence":
            clock.passes(INTERVAL + 1)
        else:
            await players[who].step(what, *args)
        for _ in range(2):
            for player in players:
                await player.read()
        players[0].seen.append("-")
    for player in players:
        await player.close()
    await rest()
    scripted.opened = []  # They have gone, whatever an unguarded server has raised.
    return players[0].seen


KINDS = st.sampled_from(["websocket", "polling", "upgraded", "msgpack"])


@settings(max_examples=200)
@given(kind=KINDS, other=KINDS, program=programs)
async def test_a_client_that_keeps_to_the_protocol(kind: str, other: str, program: Any) -> None:
    if "msgpack" in (kind, other):
        kind = other = "msgpack"
    options = {"serializer": "msgpack"} if kind == "msgpack" else {}
    found = []
    # With report_only nobody is refused for the tokens that these clients don't have.
    for wrap in (
        socketio.ASGIApp,
        lambda sio: SocketGuard(socketio.ASGIApp(sio), auth=None, connect_timeout=None, logger=False),
        lambda sio: SocketGuard(
            socketio.ASGIApp(sio), auth=make_auth(), report_only=True, connect_timeout=None, logger=False
        ),
    ):
        clock = Clock()
        with moving(clock):
            found.append(await seen(wrap(server(**options)), (kind, other), program, clock))
    unguarded, with_guard, reporting = found
    assert with_guard == unguarded
    assert reporting == unguarded
