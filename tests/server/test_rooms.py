"""Rooms, leaves and broadcasts behave as python-socketio's own, and cost no more where there are more clients."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from socketguard import Limits
from socketguard.connection import Connection
from socketguard.server.rooms import Rooms
from tests.scripted import (
    KINDS,
    Client,
    Guarded,
    Pause,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    open_wire,
    rest,
    serializer,
    until,
)

NS = "/messages"


def state(manager: Any) -> Any:
    return {ns: {room: dict(members) for room, members in rooms.items()} for ns, rooms in manager.rooms.items()}


@pytest.mark.parametrize("seed", range(20))
def test_an_index_changes_nothing_that_can_be_seen(seed: int) -> None:
    chance = random.Random(seed)
    managers = []
    for indexed in (False, True):
        server: Any = SimpleNamespace(eio=SimpleNamespace(), packet_class=socketio.packet.Packet)
        manager = socketio.AsyncManager()
        manager.set_server(server)
        if indexed:
            for name, ours in Rooms(manager).replaces.items():
                setattr(manager, name, ours)
        managers.append(manager)
    clients = [f"sid{number}" for number in range(6)]
    for _ in range(300):
        what, sid = chance.choice(["join", "enter", "leave", "close", "go"]), chance.choice(clients)
        room = chance.choice(["a", "b", 3, "c"])
        results = []
        for manager in managers:
            joined = sid in manager.rooms.get(NS, {}).get(None, {})
            result: Any = None
            if what == "join" and not joined:
                manager.basic_enter_room(sid, NS, None, eio_sid=f"e{sid}")
                manager.basic_enter_room(sid, NS, sid, eio_sid=f"e{sid}")
            elif what == "enter" and joined:
                manager.basic_enter_room(sid, NS, room)
            elif what == "leave":
                manager.basic_leave_room(sid, NS, room)
            elif what == "close":
                manager.basic_close_room(room, NS)
            elif what == "go" and joined:
                manager.pre_disconnect(sid, NS)
                assert not manager.is_connected(sid, NS)
                manager.basic_disconnect(sid, NS)
            result = [sorted(map(str, manager.get_rooms(each, NS))) for each in clients]
            results.append((result, state(manager), {k: list(v) for k, v in manager.pending_disconnect.items()}))
        assert results[0] == results[1]
    for sid in clients:
        for manager in managers:
            if sid in manager.rooms.get(NS, {}).get(None, {}):
                manager.basic_disconnect(sid, NS)
    assert managers[1].rooms == {}


class Counting(dict[Any, Any]):
    """Rooms that count how often somebody looks at one of them."""

    looked = 0

    def get(self, *args: Any) -> Any:
        Counting.looked += 1
        return super().get(*args)

    def __getitem__(self, key: Any) -> Any:
        Counting.looked += 1
        return super().__getitem__(key)

    def items(self) -> Any:
        Counting.looked += len(self)
        return super().items()

    def copy(self) -> Any:
        Counting.looked += len(self)
        return self


@pytest.mark.parametrize("others", [10, 1000])
def test_a_leave_costs_what_the_rooms_of_the_client_cost(others: int) -> None:
    manager = socketio.AsyncManager()
    for name, ours in Rooms(manager).replaces.items():
        setattr(manager, name, ours)
    for number in range(others):
        manager.basic_enter_room(f"s{number}", NS, None, eio_sid=f"e{number}")
        manager.basic_enter_room(f"s{number}", NS, f"s{number}", eio_sid=f"e{number}")
    manager.basic_enter_room("s3", NS, "mine")
    manager.rooms[NS] = Counting(manager.rooms[NS])
    Counting.looked = 0
    manager.basic_disconnect("s3", NS)
    assert Counting.looked < 40
    assert "mine" not in manager.rooms[NS]


class Own(socketio.AsyncManager):
    """A manager with rooms of its own."""

    left = 0

    def basic_leave_room(self, sid: str, namespace: str, room: Any) -> None:
        self.left += 1
        super().basic_leave_room(sid, namespace, room)


async def test_a_manager_of_ones_own_keeps_its_ways() -> None:
    class Loud(Own):
        async def emit(self, event: str, *args: Any, **kwargs: Any) -> None:
            await super().emit(event.upper(), *args, **kwargs)

    case = guarded(server_options={"client_manager": Loud()})
    wire, sid = await joined_wire(case.app)
    await case.server.enter_room(sid, "r", namespace=NS)
    await case.server.emit("news", 1, room="r", namespace=NS)
    assert await wire.frame() == '42/messages,["NEWS",1]'
    await wire.close()
    assert case.server.manager.left == 3


# Broadcasts


@pytest.mark.parametrize("kind", KINDS)
async def test_everybody_gets_the_same_in_the_same_order(kind: str) -> None:
    case = guarded(server_options=serializer(kind))
    peers = [(await joined_client(case, kind=kind)) for _ in range(3)]
    await case.server.emit("text", "ä", namespace=NS)
    await case.server.emit("several", (1, [2], {"a": None}), namespace=NS)
    await case.server.emit("none", namespace=NS)
    await case.server.emit("skipped", 1, namespace=NS, skip_sid=peers[0][1])
    await case.server.emit("skipped", 2, namespace=NS, skip_sid=[peers[0][1], peers[1][1]])
    await case.server.enter_room(peers[0][1], "a", namespace=NS)
    await case.server.enter_room(peers[1][1], "b", namespace=NS)
    await case.server.emit("rooms", 1, room=["a", "b"], namespace=NS)
    await case.server.emit("alone", 1, to=peers[2][1], namespace=NS)
    await case.server.emit("nobody", 1, room="nowhere", namespace=NS)
    await case.server.emit("elsewhere", 1, namespace="/nowhere")
    common = [["text", "ä"], ["several", 1, [2], {"a": None}], ["none"]]
    expected = [
        [*common, ["rooms", 1]],
        [*common, ["skipped", 1], ["rooms", 1]],
        [*common, ["skipped", 1], ["skipped", 2], ["alone", 1]],
    ]
    for (peer, _), wanted in zip(peers, expected, strict=True):
        assert [(await peer.packet()).data for _ in wanted] == wanted


async def test_a_binary_event_reaches_both_transports() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    client, _ = await joined_client(case, kind="polling")
    await case.server.emit("bytes", {"a": b"\1\2"}, namespace=NS)
    assert str(await wire.frame()).startswith("451-/messages,")
    assert await wire.frame() == b"\1\2"
    assert (await client.poll())[1] == "bAQI="
    await wire.close()


async def test_each_is_asked_for_an_answer_of_its_own() -> None:
    answers: list[Any] = []
    case = guarded()
    peers = [(await joined_client(case))[0] for _ in range(2)]
    await case.server.emit("ask", 1, namespace=NS, room=None, callback=lambda *args: answers.append(args))
    for number, peer in enumerate(peers):
        frame = str(await peer.frame())
        assert frame == '42/messages,1["ask",1]'
        await peer.send(f"43/messages,1[{number}]")
    await until(lambda: len(answers) == 2)
    assert sorted(answers) == [(0,), (1,)]


class Queue(AsyncPubSubManager):
    """A client manager whose other processes are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Any] = []

    async def _publish(self, data: Any) -> None:
        self.published.append(data)

    async def _listen(self) -> Any:
        await asyncio.Event().wait()
        yield  # pragma: no cover


async def test_what_comes_from_another_process_goes_the_same_way() -> None:
    case = guarded(server_options={"client_manager": Queue()}, handlers={})
    case.leaves = True  # Its thread listens for ever.
    wire, sid = await joined_wire(case.app)
    manager = case.server.manager
    await case.server.emit("one", (1, 2), namespace=NS)
    await case.server.emit("two", b"\0", namespace=NS)
    await case.server.emit("three", 3, namespace=NS, ignore_queue=True)
    assert await wire.frame() == '42/messages,["one",1,2]'
    assert str(await wire.frame()).startswith("451-")
    assert await wire.frame() == b"\0"
    assert await wire.frame() == '42/messages,["three",3]'
    assert [message["event"] for message in manager.published] == ["one", "two"]
    for message in manager.published:
        await manager._handle_emit(message)
    assert await wire.frame() == '42/messages,["one",1,2]'
    assert [str(await wire.frame())[:4], await wire.frame()] == ["451-", b"\0"]
    # As releases before 5.14 publish it.
    await manager._handle_emit({"event": "old", "data": [1, 2], "namespace": NS, "room": None, "skip_sid": None})
    assert await wire.frame() == '42/messages,["old",[1,2]]'
    callback = ("host", sid, 1)
    await manager._handle_emit({**manager.published[0], "callback": callback, "room": sid})
    assert str(await wire.frame()).endswith('["one",1,2]')
    await wire.close()
    manager.thread.cancel()


# Who may hear


async def test_who_is_being_asked_of_its_handler_hears_it_after_the_answer() -> None:
    pause = Pause()

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        await case.server.emit("own", 1, to=sid, namespace=NS)
        await pause.wait()

    case = guarded(handlers={"connect": connect})
    wire = await open_wire(case.app, connect_packet())
    await pause.entered.wait()
    await case.server.emit("all", b"\1", namespace=NS)
    await case.server.emit("asked", 2, namespace=NS, callback=lambda *args: None)
    await rest()
    assert wire.outbox.empty()
    pause.release.set()
    assert str(await wire.frame()).startswith("40/messages,")
    assert await wire.frame() == '42/messages,["own",1]'
    assert [str(await wire.frame())[:4], await wire.frame()] == ["451-", b"\1"]
    assert await wire.frame() == '42/messages,1["asked",2]'
    await wire.close()


async def test_who_is_refused_hears_nothing_of_it() -> None:
    pause = Pause()

    async def connect(sid: str, environ: Any, auth: Any) -> bool:
        await pause.wait()
        return False

    case = guarded(handlers={"connect": connect})
    wire = await open_wire(case.app, connect_packet())
    await pause.entered.wait()
    await case.server.emit("secret", 1, namespace=NS)
    pause.release.set()
    assert str(await wire.frame()).startswith("44/messages,")
    await case.server.emit("secret", 2, namespace=NS)
    await rest()
    assert wire.outbox.empty()
    await wire.close()


async def test_only_so_much_is_held() -> None:
    pause = Pause()
    case = guarded(handlers={"connect": pause.wait}, limits=Limits(queue_bytes=1000))
    wire = await open_wire(case.app, connect_packet())
    await pause.entered.wait()
    for _ in range(3):
        await case.server.emit("much", "x" * 900, namespace=NS)
    (pending,) = [each.pending for each in case.guard._parts.sessions.admitting]
    assert pending is not None
    assert pending.early == []
    assert pending.overflown
    pause.release.set()
    refusal = str(await wire.frame())
    assert '"admission_timeout"' in refusal
    await wire.close()


def test_nothing_is_held_for_whom_nobody_decides_on(case: Guarded) -> None:
    session: Any = SimpleNamespace(packets_in=0)
    connection = Connection(session, NS)
    connection.hold(["42x"])
    assert connection.pending is None


@pytest.fixture
def case() -> Guarded:
    return guarded()


async def test_nobody_is_a_participant_whose_end_has_begun() -> None:
    pause = Pause()
    case = guarded(handlers={"disconnect": lambda *_: pause.wait()})
    wire, sid = await joined_wire(case.app)
    peer = await Client(case).open()
    await peer.join()
    assert len(list(case.server.manager.get_participants(NS, None))) == 2
    kicking = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    await pause.entered.wait()
    assert sid not in dict(case.server.manager.get_participants(NS, None))
    assert case.server.rooms(sid, namespace=NS) == [sid]
    await case.server.emit("late", 1, namespace=NS)
    pause.release.set()
    await kicking
    assert await wire.frames() == ["41/messages,"]
    await wire.close()
