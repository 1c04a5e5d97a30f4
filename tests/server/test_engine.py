"""Sessions that are gone already or end at an odd moment: nothing stumbles, and nothing is kept of them."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
import socketio

from socketguard.connection import Session
from socketguard.proxies.trusted import TrustedProxies
from socketguard.server.engine import Engine
from socketguard.server.handshake import read
from socketguard.server.websocket import WebSocket
from tests.scripted import Client, Events, Line, Pause, Socket, guarded, joined_wire, lines, open_wire, rest, until


async def test_a_session_that_is_gone_is_left_alone() -> None:
    engine = Engine(socketio.AsyncServer(async_mode="asgi"), None)
    session = Session(
        client_address=None, origin=None, user_agent=None, transport="polling", headers=[], query_string=b""
    )
    engine.abandon_upgrade("gone")
    engine.drop_queue("gone")
    await engine.end("gone", "parse error")
    await engine.let_go("gone")
    await engine.tell(session, "/", "socketguard:closing", {})
    asked = (engine.was_let_go, engine.has_queue, engine.alive, engine.pinged, engine.upgraded)
    assert not any(ask("gone") for ask in asked)


async def test_a_few_sessions_that_were_let_go_are_remembered(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    monkeypatch.setattr("socketguard.server.engine._REMEMBERED", 1)
    case = guarded(connect_timeout=0.01)
    clients = [await Client(case, "polling").open() for _ in range(2)]
    await until(lambda: not case.guard.status()["sessions"]["open"])
    for client in clients:
        assert (await client.http("GET")).status == 400
    # That its client notices is no news of the one that is remembered.
    assert len(lines(events, "handshake.rejected", reason="session_unknown")) == 1


async def test_what_waits_for_a_client_that_is_ended_is_dropped_with_the_mark_of_its_end() -> None:
    server = socketio.AsyncServer(async_mode="asgi")
    engine = Engine(server, None)

    class Waiting:
        queue: asyncio.Queue[Any] = asyncio.Queue()

    for packet in ("first", None, "second"):
        Waiting.queue.put_nowait(packet)
    server.eio.sockets["full"] = Waiting
    engine.drop_queue("full")
    # python-engineio waits for its writer, which leaves when it finds the mark.
    assert [Waiting.queue.get_nowait() for _ in range(Waiting.queue.qsize())] == [None]


async def test_a_registry_that_fails_admits_nobody(events: Events) -> None:
    class Broken(dict[str, Any]):
        def __contains__(self, key: object) -> bool:
            raise RuntimeError("no such thing as handlers")

    case = guarded()
    wire = await open_wire(case.app)
    handlers, case.server.handlers = case.server.handlers, Broken(case.server.handlers)
    await wire.send("40/messages,{}")
    assert '"code":"internal_error"' in str(await wire.frame())
    case.server.handlers = handlers
    assert lines(events, "connection.rejected")[0]["detail"] == "admission"
    assert await wire.join()
    await wire.close()


async def test_nothing_is_left_of_a_leave_whose_task_is_cancelled(events: Events) -> None:
    pause = Pause()
    # python-socketio swallows the cancellation of what it awaits itself.
    case = guarded(handlers={"disconnect": lambda *_: pause.wait()}, connect_timeout=0.1)
    wire, _ = await joined_wire(case.app)
    await wire.send("41/messages,")
    await pause.entered.wait()
    assert wire.task is not None
    wire.task.cancel()
    await rest()
    pause.release.set()
    await asyncio.wait((wire.task,))
    assert case.guard.connections() == []
    assert len(lines(events, "connection.closed")) == 1
    assert not lines(events, "handler.failed")


async def test_a_websocket_that_python_engineio_fails_to_open_is_not_opened(events: Events) -> None:
    case = guarded()

    def fail() -> None:
        raise OSError("no queue")

    case.server.eio.create_queue = fail
    wire = Socket(case.app)
    wire.put("websocket.connect")
    wire.start()
    assert wire.task is not None
    await wire.task
    assert wire.outbox.empty()
    assert lines(events, "packet.rejected")[0]["error"] == "OSError"


async def test_a_close_that_is_cancelled_underway_is_as_good_as_closed() -> None:
    class Cancelling:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: dict[str, Any]) -> None:
                if message["type"] == "websocket.close":
                    raise asyncio.CancelledError
                await send(message)

            await self.app(scope, receive, sending)

    case = guarded()
    wire = await open_wire(Cancelling(case.app))
    await wire.send("abc")  # No packet of Engine.IO.
    assert wire.task is not None
    await asyncio.wait((wire.task,), timeout=30)
    assert wire.task.done()


async def test_a_websocket_that_is_ended_before_anybody_reads_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketguard.server.websocket.CLOSE_TIMEOUT", 0.01)
    sent: list[dict[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, Any]:
        raise AssertionError

    shared: Any = SimpleNamespace(engine=Engine(socketio.AsyncServer(async_mode="asgi"), None))
    session = Session(
        client_address=None, origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    scope = {"type": "websocket", "path": "/socket.io/", "headers": [], "query_string": b""}
    socket = WebSocket(shared, scope, read(scope, TrustedProxies()), session, receive, send)
    await socket.send({"type": "websocket.accept"})
    session.ending = "draining"
    await socket.end()
    assert sent == [
        {"type": "websocket.accept", "headers": []},
        {"type": "websocket.close", "code": 1012, "reason": "draining"},
    ]


async def test_a_session_may_end_while_its_first_packet_is_being_sent() -> None:
    case = guarded()
    line = Line(case.app)
    line.open.clear()
    wire = await Socket(line).open()
    await until(lambda: line.waiting)
    draining = asyncio.ensure_future(case.guard.drain(over=0))
    await until(lambda: case.guard.status()["timers"]["ending"])
    await rest()
    line.open.set()
    frames, code = await wire.closed()
    assert frames[0].startswith("0{")
    assert code == 1012
    assert await draining == 1
