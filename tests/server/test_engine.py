"""Sessions that are gone already or end at an odd moment: nothing stumbles, and nothing is kept of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio

from socketguard.connection import Session
from socketguard.server.engine import Engine
from socketguard.testing import Refused
from tests.scripted import (
    OPEN,
    Client,
    Events,
    Line,
    Pause,
    Socket,
    guarded,
    http,
    joined_wire,
    lines,
    open_wire,
    rest,
    until,
)


async def test_a_session_that_is_gone_is_left_alone() -> None:
    engine = Engine(socketio.AsyncServer(async_mode="asgi"), None)
    session = Session(
        client_address=None, origin=None, user_agent=None, transport="polling", headers=[], query_string=b""
    )
    engine.tell(session, "/", "socketguard:closing", {})
    assert engine.socket("gone") is engine.session("gone") is None
    assert not engine.alive("gone")
    assert not engine.has_gone("gone")


async def test_a_few_sessions_that_were_let_go_are_remembered(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    monkeypatch.setattr("socketguard.server.engine._REMEMBERED", 1)
    case = guarded(connect_timeout=0.01)
    clients = [await Client(case, "polling").open() for _ in range(2)]
    await until(lambda: not case.guard.status()["sessions"]["open"])
    for client in clients:
        assert (await client.http("GET")).status == 400
    # That its client notices is no news of the one that is remembered.
    assert len(lines(events, "handshake.rejected", reason="session_unknown")) == 1


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


@pytest.mark.parametrize("answer", [False, "no", {"a": 1}])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_session_that_the_application_refuses_is_none(transport: str, answer: Any, events: Events) -> None:
    case = guarded()
    case.server.eio.on("connect", lambda sid, environ: answer)
    if transport == "polling":
        assert (await http(case.app, "GET", OPEN)).status == 401
    else:
        with pytest.raises(Refused) as caught:
            await open_wire(case.app)
        assert caught.value.status == 401
    assert not case.server.eio.sockets
    (line,) = lines(events, "handshake.rejected")
    assert line["reason"] == "engine_refused"


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


@pytest.mark.parametrize("error", [LookupError, SystemExit, asyncio.CancelledError])
async def test_a_handler_of_engineio_that_raises_is_contained(error: type[BaseException]) -> None:
    server = socketio.AsyncServer(async_mode="asgi")

    async def fail(*args: Any) -> None:
        raise error

    engine = Engine(server, None)
    server.eio.handlers = engine.usual = dict.fromkeys(("connect", "disconnect"), fail)
    refused = None if error is asyncio.CancelledError else False
    assert await engine.trigger("connect", "sid", {}) is refused
    assert await engine.trigger("disconnect", "sid", "reason") is None
