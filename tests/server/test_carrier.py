"""What python-engineio promises to applications stays: logs, cookies, compression, its own events and methods."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from typing import Any

import engineio
import pytest
import socketio

from socketguard.server.heartbeats import Heartbeats
from tests.scripted import (
    OPEN,
    Client,
    Clock,
    Events,
    Line,
    Pause,
    Socket,
    connect_packet,
    guarded,
    http,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    rest,
    until,
)

NS = "/messages"


@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_its_logger_has_each_packet(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test.engineio")
    log.setLevel(logging.INFO)
    case = guarded(server_options={"engineio_logger": log})
    client, _ = await joined_client(case, kind=kind)
    assert await client.alive()
    await case.server.emit("bytes", b"\1", namespace=NS)
    texts = [record.getMessage() for record in caplog.records]
    assert any("Received packet MESSAGE data 2/messages," in text for text in texts)
    assert any("Sending packet MESSAGE data 0/messages," in text for text in texts)
    assert any(text.endswith("data <binary>") for text in texts)


@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_its_admin_page_counts_packets(kind: str) -> None:
    class Page:
        def __init__(self) -> None:
            self.counted: dict[str, int] = {}
            self.event_buffer = self

        def push(self, what: str, number: int = 1) -> None:
            self.counted[what] = self.counted.get(what, 0) + number

        async def connect(self, eio_sid: str, environ: Any) -> Any:
            return await case.server._handle_eio_connect(eio_sid, environ)

        async def disconnect(self, eio_sid: str, reason: str) -> Any:
            return await case.server._handle_eio_disconnect(eio_sid, reason)

    page = Page()

    def prepare(server: Any) -> None:
        server.eio.on("connect", page.connect)
        server.eio.on("disconnect", page.disconnect)

    case = guarded(prepare=prepare)
    client, _ = await joined_client(case, kind=kind)
    assert await client.alive()
    await client.close()
    assert page.counted["packetsIn"] >= 2
    assert page.counted["bytesOut"] > page.counted["packetsOut"]


@pytest.mark.parametrize("encoding", ["gzip", "br", ""])
async def test_long_answers_are_compressed(encoding: str) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    await case.server.emit("news", "x" * 5000, namespace=NS)
    answer = await client.http("GET", headers={"accept-encoding": encoding})
    assert answer.header("content-encoding") == (["gzip"] if encoding == "gzip" else [])
    body = gzip.decompress(answer.body) if encoding == "gzip" else answer.body
    assert body.startswith(b'42/messages,["news","xxx')


@pytest.mark.parametrize("cookie", ["io", {"name": "io", "HttpOnly": True}])
async def test_a_cookie(cookie: Any) -> None:
    case = guarded(server_options={"cookie": cookie})
    case.leaves = True
    answer = await http(case.app, "GET", OPEN)
    assert answer.header("set-cookie")[0].startswith("io=")


async def test_answers_are_never_cached() -> None:
    case = guarded()
    case.leaves = True
    client, _ = await joined_client(case, kind="polling")
    for answer in (await http(case.app, "GET", OPEN), await client.post("3"), await http(case.app, "GET", "EIO=3")):
        assert answer.header("cache-control") == ["no-store"]


async def test_preflight_and_origins_of_a_function() -> None:
    case = guarded(server_options={"cors_allowed_origins": lambda origin: True})
    case.leaves = True
    headers = {"origin": "https://crm.example.com", "access-control-request-headers": "x-a"}
    answer = await http(case.app, "OPTIONS", OPEN, headers=headers)
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.header("access-control-allow-methods") == ["OPTIONS, GET, POST"]
    assert answer.header("access-control-allow-headers") == ["x-a"]
    assert (await http(case.app, "GET", OPEN)).status == 200


@pytest.mark.parametrize("query", ["EIO=4", "EIO=4&sid={sid}"])
async def test_a_transport_is_demanded(query: str, events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    answer = await http(case.app, "GET", query.format(sid=client.sid))
    assert (answer.status, answer.json["code"]) == (400, "transport_unknown")
    assert lines(events, "handshake.rejected")[0]["detail"] == "transport_missing"


async def test_milliseconds_are_true() -> None:
    case = guarded(server_options={"ping_interval": 0.3, "ping_timeout": 0.25})
    case.leaves = True
    opened = await http(case.app, "GET", OPEN)
    values = json.loads(opened.body[1:])
    assert (values["pingInterval"], values["pingTimeout"]) == (300, 250)


# Messages that an application takes itself


@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_an_application_may_take_messages_of_engine_io(kind: str) -> None:
    case = guarded()
    case.leaves = True

    async def echo(eio_sid: str, data: Any) -> None:
        await case.server.eio.send(eio_sid, data)

    case.server.eio.on("message", echo)
    client = await Client(case, kind).open()
    await client.send("4hello")
    assert await client.frame() == "4hello"
    await client.send(b"\1\2")
    assert await client.frame() in (b"\1\2", "bAQI=")
    await case.server.eio.send_packet(case.eio_sid, engineio.packet.Packet(engineio.packet.NOOP))
    assert (await client.wire.message())["text"] == "6" if client.wire else await client.poll() == ["6"]


# Ends


async def test_eio_disconnect_says_close_and_twice_is_once() -> None:
    pause = Pause()
    case = guarded(handlers={"disconnect": lambda *_: pause.wait()})
    wire, _ = await joined_wire(case.app)
    eio_sid = case.eio_sid
    first = asyncio.ensure_future(case.server.eio.disconnect(eio_sid))
    await pause.entered.wait()
    # What comes and what would go meanwhile is nothing any more.
    await case.server.eio.handlers["message"](eio_sid, '2/messages,["echo"]')
    await case.server.eio.disconnect(eio_sid)
    pause.release.set()
    await first
    assert await wire.closed() == (["1"], 1000)


async def test_a_session_that_the_application_disconnects_at_once_is_none() -> None:
    case = guarded()

    async def connect(eio_sid: str, environ: Any) -> None:
        await case.server.eio.disconnect(eio_sid)

    case.server.eio.on("connect", connect)
    assert (await http(case.app, "GET", OPEN)).status == 401
    assert not case.server.eio.sockets


async def test_a_client_that_can_not_be_written_to_has_left(events: Events) -> None:
    case = guarded()
    broken = False

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if broken:
                raise OSError("gone")
            await send(message)

        await case.app(scope, receive, sending)

    wire, _ = await joined_wire(failing)
    await rest()
    broken = True
    await case.server.emit("news", 1, namespace=NS)
    await until(lambda: lines(events, "connection.closed"))
    assert lines(events, "connection.closed")[0]["reason"] == "transport error"
    assert wire.task is not None
    await asyncio.wait((wire.task,))


async def test_a_client_that_can_not_be_written_to_while_it_is_served_has_left_afterwards(events: Events) -> None:
    pause = Pause()
    case = guarded(handlers={"slow": lambda sid: pause.wait()}, server_options={"async_handlers": False})
    broken = False

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if broken:
                raise OSError("gone")
            await send(message)

        await case.app(scope, receive, sending)

    wire, _ = await joined_wire(failing)
    await wire.send('42/messages,["slow"]')
    await pause.entered.wait()
    broken = True
    await case.server.emit("news", 1, namespace=NS)
    await rest()
    assert case.guard.connections()
    pause.release.set()
    wire.put("websocket.disconnect", code=1006)
    await until(lambda: lines(events, "connection.closed"))


async def test_an_upgrade_whose_client_has_gone_changes_nothing() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = Socket(case.app, query=f"&sid={client.sid}")
    wire.put("websocket.disconnect", code=1006)
    wire.start()
    assert wire.task is not None
    await wire.task
    assert await client.alive()


async def test_a_drain_cuts_off_who_reads_nothing() -> None:
    case = guarded()
    line = Line(case.app, all_of_it=True)
    wire, _ = await joined_wire(line)
    await rest()
    line.open.clear()
    await case.server.emit("news", 1, namespace=NS)
    await rest()
    (socket,) = case.server.eio.sockets.values()
    assert await case.guard.drain(0) == 1
    await until(lambda: socket.writer.done())
    line.open.set()
    await wire.close()


async def test_of_a_connection_that_is_to_be_ended_nothing_comes_any_more() -> None:
    case = guarded()
    wire, sid = await joined_wire(case.app)
    ending = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    await asyncio.sleep(0)
    await case.server.emit("late", 1, namespace=NS)
    assert await ending == 1
    assert await wire.frames() == ["41/messages,"]
    await wire.close()


async def test_nothing_goes_to_whom_nobody_has_admitted() -> None:
    case = guarded()
    case.leaves = True
    wire, _ = await joined_wire(case.app)
    case.server.manager.basic_enter_room("ghost", NS, None, eio_sid="ghost")
    await case.server.emit("news", 1, namespace=NS)
    packet = socketio.packet.Packet(socketio.packet.EVENT, ["x"], namespace="/other")
    await case.server._send_packet(case.eio_sid, packet)
    await case.server._send_packet("nobody", packet)
    await case.server._handle_connect("nobody", NS, {})
    await case.server._handle_event("nobody", NS, None, ["x"])
    assert await wire.frame() == '42/messages,["news",1]'
    assert await wire.alive()
    await wire.close()


async def test_kept_functions_of_a_guard_that_has_gone_lead_to_python_socketio() -> None:
    case = guarded()
    server = case.server
    kept = (server._send_packet, server._handle_event, server._handle_ack, server._handle_disconnect)
    gone = server._handle_eio_disconnect
    case.guard.detach()
    packet = socketio.packet.Packet(socketio.packet.EVENT, ["x"], namespace=NS)
    for function, args in zip(kept, ((packet,), (NS, None, ["x"]), (NS, 1, []), (NS,)), strict=True):
        await function("nobody", *args)
    await gone("nobody", "transport close")


# CONNECT


async def test_whom_the_manager_does_not_take_is_refused() -> None:
    case = guarded()
    wire = await open_wire(case.app)

    async def nobody(*args: Any) -> None:
        return None

    name = "pre_connect" if hasattr(case.server.manager, "pre_connect") else "connect"
    setattr(case.server.manager, name, nobody)
    await wire.send(connect_packet())
    assert '"already_connected"' in str(await wire.frame())
    await wire.close()


async def test_a_handler_that_takes_its_cancellation_for_a_yes_is_too_late(clock: Clock) -> None:
    entered = asyncio.Event()

    async def connect(*args: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    case = guarded(handlers={"connect": connect})
    wire = await open_wire(case.app, connect_packet())
    await entered.wait()
    clock.passes(10)
    assert await wire.closed() == ([], 4504)


# Heartbeats


def test_heartbeats_take_only_so_many_at_once() -> None:
    class Eio:
        ping_interval = ping_timeout = -1.0

    class Peer:
        beat: Any = None

        def __init__(self) -> None:
            self.got: list[str] = []

        def put(self, item: str) -> None:
            self.got.append(item)

    heartbeats = Heartbeats(Eio())
    peers = [Peer() for _ in range(3)]
    for peer in peers:
        heartbeats.begin(peer)
    heartbeats.ping(2)
    assert [peer.got for peer in peers] == [["2"], ["2"], []]
    assert list(heartbeats.silent(1)) == peers[:1]
    assert list(heartbeats.silent(9)) == peers[1:2]
