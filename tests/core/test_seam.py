"""What the seam does when python-socketio, a handler or a session behaves as none should."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from socketguard import NamespacePolicy
from socketguard.connection import Connection
from socketguard.server.websocket import WebSocket
from socketguard.testing import capture_events, mint
from tests.core.driver import (
    Polling,
    a_session,
    connect_packet,
    guarded,
    held,
    http,
    joined_wire,
    nothing_left,
    open_wire,
    until,
)


def rejected(events: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [
        (event["reason"], event["detail"]) for event in events if event["event"] == "socketguard.connection.rejected"
    ]


async def test_a_decision_that_fails_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def decide(*args: Any) -> None:
        raise RuntimeError("unforeseen")

    with capture_events() as events:
        case = guarded()
        monkeypatch.setattr(case.seam, "decide", decide)
        wire = await open_wire(case.app)
        await wire.send(connect_packet())
        assert json.loads(str(await wire.frame()).removeprefix("44/messages,"))["message"] == "Internal error"
        await wire.close()
    assert rejected(events) == [("internal_error", "admission")]
    nothing_left(case)


@pytest.mark.parametrize("alive", [True, False])
async def test_a_failure_of_python_socketio_itself_is_answered_and_cleaned_up(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_events() as events:
        case = guarded()
        original = case.server.packet_class
        client = await Polling(case.app).open()

        async def connect(sid: str, environ: Any, auth: Any) -> None:
            if not alive:
                await case.seam.end_session(client.sid, "kicked")

        class Broken(original):  # type: ignore[misc, valid-type]
            def __init__(self, packet_type: int = 2, *args: Any, **options: Any) -> None:
                if packet_type == 0 and "encoded_packet" not in options:
                    raise RuntimeError("no answer can be made")
                super().__init__(packet_type, *args, **options)

        case.server.on("connect", connect, namespace="/messages")
        monkeypatch.setattr(case.server, "packet_class", Broken)
        await client.post(connect_packet())
        if alive:
            assert (await client.frame()).startswith('44/messages,{"message":"Internal error"')
            assert set(held(case)) == {"environ", "sockets"}
            await client.close()
    nothing_left(case)
    assert rejected(events) == ([("internal_error", "python-socketio")] if alive else [])
    closed = [event["reason"] for event in events if event["event"] == "socketguard.connection.closed"]
    assert closed == ([] if alive else ["kicked"])


async def test_a_refusal_of_a_session_that_has_ended_is_logged_only() -> None:
    async def authorize(identity: Any, connection: Any) -> bool:
        await case.seam.end_session(client.sid, "kicked")
        return False

    with capture_events() as events:
        case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)])
        client = await Polling(case.app).open()
        await client.post(connect_packet())
    assert rejected(events) == [("insufficient_scope", "authorize_refused")]
    nothing_left(case)


@pytest.mark.parametrize("outcome", ["returns", "raises"])
async def test_a_client_that_leaves_while_its_connect_handler_runs_in_an_older_release(outcome: str) -> None:
    """python-socketio before 5.18 runs the disconnect handler of a client whose connect handler is not done."""
    gate, waiting = asyncio.Event(), asyncio.Event()
    sids: list[str] = []
    left: list[str] = []

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        sids.append(sid)
        waiting.set()
        await gate.wait()
        if outcome == "raises":
            raise ValueError

    def prepare(server: Any) -> None:
        server.on("connect", connect, namespace="/messages")
        server.on("disconnect", lambda sid, reason: left.append(reason), namespace="/messages")

    case = guarded(prepare=prepare)
    client = await Polling(case.app).open()
    posting = asyncio.ensure_future(client.post(connect_packet()))
    await waiting.wait()
    manager = case.server.manager
    getattr(manager, "pending_connect", {}).clear()
    manager.pre_disconnect(sids[0], "/messages")
    await case.server._trigger_event("disconnect", "/messages", sids[0], "client disconnect")
    assert left == ["client disconnect"]
    gate.set()
    await posting
    assert case.guard.connections() == []
    await client.close()
    nothing_left(case)
    assert left == ["client disconnect"]


async def test_what_ends_the_process_is_not_held_up() -> None:
    def leave(sid: str, reason: str) -> None:
        raise SystemExit(3)

    def authorize(identity: Any, connection: Any) -> bool:
        raise SystemExit(4)

    def prepare(server: Any) -> None:
        server.on("disconnect", leave, namespace="/messages")

    case = guarded(prepare=prepare)
    wire, sid = await joined_wire(case.app)
    with pytest.raises(SystemExit):
        await case.server.disconnect(sid, namespace="/messages")
    case.server.handlers["/messages"].pop("disconnect")
    await wire.close()

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)])
    wire = await open_wire(case.app)
    (eio_sid,) = case.server.eio.sockets
    session = case.seam.session(eio_sid)
    assert session is not None
    with pytest.raises(SystemExit):
        await case.seam.decide(Connection(session, "/messages"), {"token": mint()}, 0.0, lambda: True)
    await wire.close()
    nothing_left(case)


async def test_an_acknowledgement_that_does_not_fit_is_the_clients_fault() -> None:
    with capture_events() as events:
        case = guarded()
        wire, sid = await joined_wire(case.app)
        await case.server.emit("question", to=sid, namespace="/messages", callback=lambda: None)
        number = str(await wire.frame()).removeprefix("42/messages,").partition("[")[0]
        await wire.send(f"43/messages,{number}[1,2,3]")
        await wire.send('42/messages,1["echo",1]')
        assert await wire.frame() == "43/messages,1[1]"
        await wire.close()
    names = [event["event"] for event in events]
    assert names.count("socketguard.packet.rejected") == 1
    assert "socketguard.handler.failed" not in names
    nothing_left(case)


async def test_forgetting_and_looking_for_what_is_not_there() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    (connection,) = case.guard.connections()
    other = Connection(connection.session, "/messages")
    case.seam._forget(other)
    assert case.guard.connections() == [connection]
    case.seam.abandon_upgrade("nobody")
    await wire.close()
    nothing_left(case)


# The ASGI side


def frames(**values: Any) -> tuple[WebSocket, list[Any]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    found = WebSocket.__new__(WebSocket)
    for name in WebSocket.__slots__:
        setattr(found, name, values.get(name))
    found._session = a_session()
    found._send = send
    return found, sent


async def test_a_websocket_that_python_engineio_closes_before_it_says_a_word() -> None:
    found, sent = frames(_accepted=True, _opened=False, _closing=False)
    await found.send({"type": "websocket.close"})
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_nothing_is_sent_after_the_close() -> None:
    found, sent = frames(_accepted=True, _opened=True, _closing=False)
    await found.close(1000)
    await found.close(1000)
    await found.send({"type": "websocket.send", "text": "x"})
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_a_websocket_that_was_not_accepted_is_not_closed() -> None:
    found, sent = frames(_accepted=False, _opened=False, _closing=False)
    await found.close(1000)
    assert sent == []


async def test_a_refused_websocket_whose_client_has_gone_is_not_answered() -> None:
    with capture_events() as events:
        case = guarded()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.disconnect", "code": 1006}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/socket.io/", "headers": [], "query_string": b"EIO=3"}
        await case.app(scope, receive, send)
    assert sent == []
    assert [event for event in events if event["event"] == "socketguard.handshake.rejected"] == []


async def test_an_endpoint_whose_path_is_not_known_is_not_taken_for_a_wrong_one() -> None:
    inner = guarded()

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner.guard.app({**scope, "path": "/socket.io/"}, receive, send)  # type: ignore[misc]

    from socketguard import SocketGuard

    outer = SocketGuard(opaque, server=inner.server, auth=inner.guard.auth, logger=False)
    outer._parts.configuration.paths.clear()
    assert (await http(outer, "GET", "EIO=4&transport=polling&sid=x", path="/x/")).json["code"] == "session_unknown"
    wire, _ = await joined_wire(outer, path="/x/")
    await wire.send("hello")
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 1003
    await wire.close()
    await until(lambda: not held(inner))


async def test_what_is_dropped_for_a_client_that_does_not_read_leaves_the_writer_its_end() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    queue = case.server.eio.sockets[client.sid].queue
    for waiting in ("one", None):
        queue.put_nowait(waiting)
    case.seam.drop_queue(client.sid)
    assert queue.get_nowait() is None
    assert queue.empty()
    case.seam.drop_queue("nobody")
    await client.close()
    nothing_left(case)
