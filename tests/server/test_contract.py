"""What the guard relies on in python-socketio and python-engineio beyond their documented interface.

When one of these fails with a new release, the seam has to be looked at before that release is supported.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import engineio
import msgpack
import pytest
import socketio

from socketguard.testing import mint
from tests.scripted import connect_packet, guarded, joined_wire, open_wire


def server(**options: Any) -> Any:
    return socketio.AsyncServer(async_mode="asgi", monitor_clients=False, **options)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_handle_connect", ["eio_sid", "namespace", "data"]),
        ("_trigger_event", ["event", "namespace", "args"]),
        ("handle_request", ["args", "kwargs"]),
        ("disconnect", ["sid", "namespace", "ignore_queue"]),
    ],
)
def test_what_is_replaced_is_a_coroutine_function_with_these_parameters(name: str, expected: list[str]) -> None:
    assert inspect.iscoroutinefunction(getattr(server(), name))
    assert parameters(getattr(server(), name)) == expected


def test_how_handlers_are_found() -> None:
    async def handler() -> None: ...

    found = server()
    found.on("x", handler, namespace="*")
    assert parameters(found._get_event_handler) == ["event", "namespace", "args"]
    assert found._get_event_handler("x", "/a", ("sid",)) == (handler, ("/a", "sid"))
    assert found._get_event_handler("y", "/a", ("sid",)) == (None, ("sid",))


def test_the_attributes_that_are_read() -> None:
    found = server()
    assert found.async_mode == "asgi"
    assert found.always_connect is False
    assert found.async_handlers is True
    assert found.environ == {}
    assert found._binary_packet == {}
    assert found.handlers == {}
    assert found.namespace_handlers == {}
    assert found.namespaces == ["/"]
    assert server(namespaces="*").namespaces == "*"
    assert found.not_handled is not None
    assert found.packet_class is socketio.packet.Packet
    assert found.reason.SERVER_DISCONNECT == "server disconnect"
    eio = found.eio
    assert isinstance(eio, engineio.AsyncServer)
    assert eio.sockets == {}
    assert set(eio.transports) == {"polling", "websocket"}
    assert (eio.ping_interval, eio.ping_timeout, eio.ping_interval_grace_period) == (25, 20, 0)
    assert eio.max_http_buffer_size == 1_000_000
    assert eio.cors_allowed_origins is None
    assert eio.cors_credentials is True
    assert eio.cookie is None
    assert eio.logger.isEnabledFor(50)
    assert eio.async_handlers is False, "packets of one session are handled one after another"
    assert inspect.iscoroutinefunction(eio.handlers["message"])
    assert inspect.iscoroutinefunction(eio.send)
    assert parameters(eio._upgrades) == ["sid", "transport"]
    assert parameters(eio._generate_sid_cookie) == ["sid", "attributes"]
    assert type(eio.sockets) is dict
    assert type(found.environ) is dict


def test_a_disconnect_in_msgpack_has_no_data() -> None:
    plain = server(serializer="msgpack")
    written = msgpack.loads(plain.packet_class(socketio.packet.DISCONNECT, namespace="/a").encode())
    assert written == {"type": 1, "data": None, "nsp": "/a"}, "mended in python-socketio: packet_class_for can go"
    case = guarded(server_options={"serializer": "msgpack"})
    packets = case.server.packet_class
    assert msgpack.loads(packets(socketio.packet.DISCONNECT, namespace="/a").encode()) == {"type": 1, "nsp": "/a"}
    event = packets(socketio.packet.EVENT, namespace="/a", data=["x"], id=1)
    assert msgpack.loads(event.encode()) == {"type": 2, "data": ["x"], "nsp": "/a", "id": 1}
    case.guard.detach()
    assert case.server.packet_class is plain.packet_class


def test_the_manager() -> None:
    manager = server().manager
    assert (manager.rooms, manager.callbacks, manager.pending_disconnect) == ({}, {}, {})
    assert list(manager.get_namespaces()) == []
    assert manager.sid_from_eio_sid("nobody", "/") is None
    assert manager.is_connected("nobody", "/") is False
    assert inspect.iscoroutinefunction(manager.disconnect)
    assert parameters(manager.disconnect)[:2] == ["sid", "namespace"]
    asyncio.run(manager.disconnect("nobody", "/", ignore_queue=True))


def test_the_packet() -> None:
    packet = socketio.packet
    assert (packet.CONNECT, packet.CONNECT_ERROR) == (0, 4)
    encoded = packet.Packet(packet.CONNECT_ERROR, data={"message": "x"}, namespace="/a").encode()
    assert encoded == '4/a,{"message":"x"}'
    assert packet.Packet(packet.CONNECT_ERROR, data={"message": "x"}, namespace="/").encode() == '4{"message":"x"}'
    assert packet.Packet(encoded_packet="0/a,{}").packet_type == packet.CONNECT


def test_the_refusal() -> None:
    refused = socketio.exceptions.ConnectionRefusedError
    assert refused("text").error_args == {"message": "text"}
    assert refused("text", {"a": 1}).error_args == {"message": "text", "data": {"a": 1}}
    assert issubclass(refused, Exception)


async def test_a_session_in_the_server() -> None:
    case = guarded()
    wire, sid = await joined_wire(case.app)
    ((eio_sid, socket),) = case.server.eio.sockets.items()
    assert socket.sid == eio_sid
    assert (socket.closed, socket.closing, socket.upgraded) == (False, False, True)
    assert case.server.environ[eio_sid]["asgi.scope"] is not None
    manager = case.server.manager
    assert manager.rooms["/messages"][None][sid] == eio_sid
    assert manager.sid_from_eio_sid(eio_sid, "/messages") == sid
    assert manager.is_connected(sid, "/messages")
    assert parameters(socket.close) == ["wait", "abort", "reason"]
    await wire.close()
    assert socket.closed


async def test_every_packet_goes_through_the_replaced_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    found = server()
    found.on("echo", lambda sid, value: value, namespace="/messages")
    for name in ("_handle_connect", "_trigger_event"):
        original = getattr(found, name)

        def note(*args: Any, _name: str = name, _original: Any = original) -> Any:
            passed.append((_name, args[0] if _name == "_trigger_event" else args[1]))
            return _original(*args)

        monkeypatch.setattr(found, name, note)
    wire = await open_wire(socketio.ASGIApp(found))
    for frame in ("40/messages,{}", '42/messages,1["echo",1]', '451-/messages,2["echo",{"_placeholder":true,"num":0}]'):
        await wire.send(frame)
    await wire.send(b"x")
    frames = [await wire.frame() for _ in range(4)]
    assert frames[3] == b"x"
    await wire.close()
    assert passed == [
        ("_handle_connect", "/messages"),
        ("_trigger_event", "connect"),
        ("_trigger_event", "echo"),
        ("_trigger_event", "echo"),
        ("_trigger_event", "disconnect"),
    ]


async def test_the_asgi_application_looks_the_request_handler_up_each_time() -> None:
    found = server()
    app = socketio.ASGIApp(found)
    seen: list[str] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    found.handle_request = endpoint
    for kind in ("http", "websocket"):
        await app({"type": kind, "path": "/socket.io/"}, None, None)
    assert seen == ["http", "websocket"]


async def test_the_admitted_names_are_asked_by_membership_only() -> None:
    asked: list[Any] = []

    class Names:
        def __contains__(self, name: object) -> bool:
            asked.append(name)
            return False

    found = server()
    found.namespaces = Names()
    wire = await open_wire(socketio.ASGIApp(found), "40/nowhere,{}")
    assert await wire.frame() == '44/nowhere,"Unable to connect"'
    await wire.close()
    assert asked == ["/nowhere"]


async def test_a_refusal_by_exception_is_answered_and_cleaned_up() -> None:
    found = server()

    def connect(sid: str, environ: Any, auth: Any) -> None:
        raise socketio.exceptions.ConnectionRefusedError("no", {"a": 1})

    found.on("connect", connect, namespace="/messages")
    wire = await open_wire(socketio.ASGIApp(found), connect_packet(token=mint()))
    assert await wire.frame() == '44/messages,{"message":"no","data":{"a":1}}'
    assert not found.manager.rooms
    await wire.close()
