"""Emits and events that reach nobody, of real servers and client managers."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest
import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from socketguard import ConfigurationError, SocketGuard, watch_emits
from socketguard.server.emits import event_names, handles, is_shared
from socketguard.testing import make_auth
from tests.scripted import Events, Guarded, guarded, joined_wire, open_wire


class Lines:
    """The log lines about what reaches nobody, as they come."""

    def __init__(self, events: Events) -> None:
        self._events = events

    @property
    def all(self) -> Events:
        named = {"socketguard.emit.undelivered", "socketguard.event.unhandled"}
        return [event for event in self._events if event["event"] in named]

    @property
    def reasons(self) -> list[str]:
        return [line["reason"] for line in self.all]


@pytest.fixture
def lines(events: Events) -> Lines:
    return Lines(events)


def watched(*namespaces: str, **options: Any) -> Guarded:
    """A guarded server all of whose emits are looked at."""
    case = guarded(*(namespaces or ("/messages", "/scheduler")), **options)
    case.guard.watch_delivery()
    return case


async def test_an_emit_arrives_and_is_no_finding(lines: Lines) -> None:
    case = watched()
    wire, sid = await joined_wire(case.app)
    await case.server.enter_room(sid, "tenant:1", namespace="/messages")
    for to in (None, sid, "tenant:1", ["tenant:1"]):
        await case.server.emit("new", {"to": to}, to=to, namespace="/messages")
        assert str(await wire.frame()).startswith('42/messages,["new",')
    assert lines.reasons == []
    await wire.close()


async def test_what_reaches_nobody_is_told(lines: Lines) -> None:
    case = watched()
    server = case.server
    wire, sid = await joined_wire(case.app)
    await server.emit("new", to=sid)
    await server.emit("new", to=sid, namespace="/scheduler")
    await server.emit("new", to="tenant:1", namespace="/messages")
    await server.emit("new", namespace="/mesages")
    await server.emit("new", namespace="messages")
    expected = ["sid_elsewhere", "sid_elsewhere", "no_rooms_joined", "namespace_unserved", "namespace_malformed"]
    assert lines.reasons == expected
    await server.enter_room(sid, "tenant:1", namespace="/messages")
    await server.emit("new", room="tenant:1")
    await server.emit("new", room="tenant:1", namespace="/scheduler")
    assert lines.reasons[5:] == ["namespace_default", "room_elsewhere"]
    assert {line["suggestion"] for line in lines.all if "suggestion" in line} == {"/messages"}
    (eio_sid,) = server.environ
    await server.emit("new", to=eio_sid, namespace="/messages")
    await server.emit("new", to=eio_sid, namespace="/scheduler")
    assert lines.reasons[7:] == ["sid_of_transport"] * 2
    assert eio_sid not in str(lines.all)
    # What is no name at all is left to python-socketio.
    await server.emit("new", namespace=5)
    await wire.close()
    case.guard.detach()
    await server.emit("new", namespace="/another")
    assert len(lines.all) == 9


async def test_sampling_lets_emits_pass_until_somebody_watches(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randrange", lambda limit: 3)
    case = guarded("/messages")
    for number in range(21):
        await case.server.emit("new", namespace=f"/x{'y' * number}")
    assert len(lines.all) == 20
    for number in range(3):
        await case.server.emit("new", namespace=f"/passes-{number}")
    monkeypatch.setattr(random, "randrange", lambda limit: limit - 1)
    await case.server.emit("new", to="a", namespace="/messages")  # looked at
    for _ in range(60):
        await case.server.emit("new", namespace="/passes")
    assert len(lines.all) == 20
    case.guard.watch_delivery()
    await case.server.emit("new", namespace="/looked-at")
    assert [line["namespace"] for line in lines.all[20:]] == ["/looked-at"]
    case.guard.watch_delivery(False)


async def test_a_client_manager_with_other_parameters(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[Any] = []

    class Own(socketio.AsyncManager):
        async def emit(self, *args: Any, **kwargs: Any) -> None:
            emitted.append((args, kwargs))

    monkeypatch.setattr(random, "randrange", lambda limit: limit - 1)
    server = socketio.AsyncServer(async_mode="asgi", client_manager=Own())
    server.on("connect", _handler, namespace="/messages")
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    await server.emit("new", namespace="/a")
    await server.manager.emit("new", None, "/b", "room")
    assert [line["namespace"] for line in lines.all] == ["/a", "/b"]
    assert [args[:3] for args, _ in emitted] == [("new", None, "/a"), ("new", None, "/b")]
    assert emitted[0][1]["room"] is None
    for number in range(30):
        await server.emit("new", namespace=f"/x{'y' * number}")
    assert len(lines.all) == 20
    assert len(emitted) == 32
    guard.detach()
    assert "emit" not in vars(server.manager)


async def test_a_defect_here_costs_nobody_a_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError

    case = watched("/messages")
    wire, _ = await joined_wire(case.app)
    monkeypatch.setattr("socketguard.diagnosis.delivery.shape", broken)
    with caplog.at_level(logging.ERROR, logger="socketguard"):
        for _ in range(2):
            await case.server.emit("new", to="nowhere", namespace="/messages")
            await case.server.emit("new", namespace="/messages")
            assert await wire.frame() == '42/messages,["new"]'
    assert [record.message for record in caplog.records] == ["can't look at emits; they go on unwatched"]
    await wire.close()


async def test_who_wrapped_the_emit_keeps_it() -> None:
    case = watched()
    manager = case.server.manager
    ours = manager.emit

    async def theirs(*args: Any, **kwargs: Any) -> None:
        await ours(*args, **kwargs)

    manager.emit = theirs
    case.guard.detach()
    assert manager.emit is theirs
    # And the other way round: theirs comes back.
    undo = watch_emits(manager)
    assert manager.emit is not theirs
    undo()
    assert manager.emit is theirs


# Events of clients


async def test_events_before_their_namespace_was_joined(lines: Lines) -> None:
    case = guarded("/messages")
    wire = await open_wire(case.app)
    await wire.send('42/messages,["early",1]')
    await wire.send('42["default"]')
    joined, _ = await joined_wire(case.app)
    await joined.send('42/messages,1["echo",2]')
    assert await joined.frame() == "43/messages,1[2]"
    assert [(line["reason"], line["namespace"], line["event_name"]) for line in lines.all] == [
        ("event_too_early", "/messages", "early"),
        ("event_too_early", "/", "default"),
    ]
    await wire.close()
    await joined.close()
    case.guard.detach()
    assert case.server._handle_event.__func__ is type(case.server)._handle_event


class Chat(socketio.AsyncNamespace):
    async def on_connect(self, sid: str, environ: Any, auth: Any) -> None: ...

    async def on_typing(self, sid: str) -> None: ...


class Dispatching(socketio.AsyncNamespace):
    async def trigger_event(self, event: str, *args: Any) -> Any:
        return event


async def _handler(*_: Any) -> None: ...


def test_which_events_have_handlers() -> None:
    def handled(*events: tuple[str, str]) -> list[bool]:
        return [handles(server, namespace, event) for namespace, event in events]

    server = socketio.AsyncServer(async_mode="asgi")
    for namespace, event in (("/messages", "connect"), ("/messages", "send"), ("/any", "*")):
        server.on(event, _handler, namespace=namespace)
    server.register_namespace(Chat("/chat"))
    server.register_namespace(Dispatching("/own"))
    assert all(handled(("/messages", "send"), ("/any", "sent"), ("/chat", "typing"), ("/own", "typed")))
    assert not any(handled(("/messages", "sent"), ("/chat", "typed"), ("/nowhere", "send")))
    assert (list(event_names(server, "/messages")), list(event_names(server, "/chat"))) == (["send"], ["typing"])
    server.on("ping", _handler, namespace="*")
    server.register_namespace(Chat("*"))
    assert all(handled(("/nowhere", "ping"), ("/nowhere", "typing")))
    assert list(event_names(server, "/nowhere")) == ["ping", "typing"]


# Processes without clients


class Queue(socketio.PubSubManager):
    """A message queue that has so many listeners."""

    def __init__(self, listeners: Any = 1) -> None:
        super().__init__(write_only=True, channel="crm")
        self.listeners = listeners
        self.messages: list[Any] = []

    def _publish(self, data: Any) -> Any:
        self.messages.append(data)
        return self.listeners


class AsyncQueue(AsyncPubSubManager):
    def __init__(self, listeners: Any = 1) -> None:
        super().__init__(write_only=True, channel="crm")
        self.queue = Queue(listeners)

    async def _publish(self, data: Any) -> Any:
        return self.queue._publish(data)


def test_which_client_managers_join_several_processes() -> None:
    managers = AsyncQueue(), Queue(), socketio.AsyncManager(), socketio.Manager()
    assert [*map(is_shared, managers)] == [True, True, False, False]


async def test_emits_of_a_webhook(lines: Lines) -> None:
    manager = AsyncQueue()
    undo = watch_emits(manager, namespaces=["/messages", "/scheduler"], logger=False)
    await manager.emit("new", {"id": 1}, namespace="/messages", room="tenant:1")
    assert lines.reasons == []
    await manager.emit("new", {"id": 1}, namespace="/mesages", room="tenant:1")
    await manager.emit("new", {"id": 1})
    await manager.emit("new", {"id": 1}, "messages")
    assert [(line["reason"], line["namespace"]) for line in lines.all] == [
        ("namespace_unserved", "/mesages"),
        ("namespace_unserved", "/"),
        ("namespace_malformed", "messages"),
    ]
    assert len(manager.queue.messages) == 4
    undo()
    assert "emit" not in vars(manager)
    assert "_publish" not in vars(manager)


@pytest.mark.parametrize(("listeners", "found"), [(0, ["no_listener"]), (1, []), (None, []), (False, []), ("0", [])])
async def test_nobody_listens_to_the_queue(listeners: Any, found: list[str], lines: Lines) -> None:
    manager = AsyncQueue(listeners)
    watch_emits(manager, logger=False)
    await manager.emit("new", {"id": 1}, namespace="/messages")
    await manager.disconnect("sid", "/messages", ignore_queue=True)
    await manager.close_room("room", "/messages")  # No emit: nobody waits for it.
    assert lines.reasons == found
    if found:
        assert (lines.all[0]["namespace"], lines.all[0]["event_name"]) == ("/messages", "new")
        assert "channel 'crm'" in lines.all[0]["hint"]


@pytest.mark.parametrize(
    ("listeners", "found"), [(0, ["namespace_malformed", "no_listener"]), (2, ["namespace_malformed"])]
)
def test_emits_of_a_worker_without_asyncio(listeners: int, found: list[str], lines: Lines) -> None:
    manager = Queue(listeners)
    server = socketio.Server(client_manager=manager)
    undo = watch_emits(server, logger=False)
    server.emit("new", {"id": 1}, namespace="messages")
    assert lines.reasons == found
    assert len(manager.messages) == 1
    undo()
    server.emit("new", {"id": 1}, namespace="messages")
    assert lines.reasons == found


async def test_a_server_without_a_queue_reaches_nobody(lines: Lines) -> None:
    server = socketio.AsyncServer(async_mode="asgi")
    watch_emits(server, logger=False)
    await server.emit("new", namespace="/messages")
    assert lines.reasons == ["no_message_queue"]
    await server.manager.connect("eio", "/messages")
    sent = asyncio.get_running_loop().create_future()

    async def send(eio_sid: str, packet: Any) -> None:
        sent.set_result(eio_sid)

    server._send_eio_packet = send
    await server.emit("other", namespace="/messages")
    assert await sent == "eio"
    # It has clients of its own, after all.
    assert lines.reasons == ["no_message_queue"]


@pytest.mark.parametrize(
    ("target", "namespaces", "option", "words"),
    [
        (object(), None, "sio", "sio is a object"),
        (socketio.AsyncClient, None, "sio", "sio is a type"),
        (AsyncQueue(), "/messages", "namespaces", 'write namespaces=["/messages"]'),
    ],
)
def test_what_can_not_be_watched(target: Any, namespaces: Any, option: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        watch_emits(target, namespaces=namespaces)
    assert caught.value.option == option
    assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"guard\.watch_delivery"):
        watch_emits(guarded().server)
