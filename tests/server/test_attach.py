"""How a guard finds its server and attaches to it, and what it says about the configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import engineio
import pytest
import socketio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router

from socketguard import ConfigurationError, Heartbeat, JWTAuth, NamespacePolicy, SocketGuard
from socketguard.testing import TEST_SECRET, Refused, join, make_auth, mint
from tests.scripted import Events, Socket, guarded, http, joined_wire


def make_server(**options: Any) -> Any:
    server = socketio.AsyncServer(async_mode="asgi", **{"monitor_clients": False, **options})
    server.on("echo", lambda sid, value: value, namespace="/messages")
    return server


async def works(app: Any, path: str = "/socket.io/") -> None:
    async with join(app, "/messages", token=mint(), path=path) as client:
        assert await client.call("echo", 7) == 7
    with pytest.raises(Refused, match="Authentication required"):
        async with join(app, "/messages", path=path):
            pass


# Styles


def _starlette(server: Any) -> Any:
    return Starlette(routes=[Mount("/socket.io", socketio.ASGIApp(server))])


def _fastapi(server: Any) -> Any:
    app = FastAPI()
    app.mount("/socket.io", socketio.ASGIApp(server))
    return app


def _outermost(server: Any) -> Any:
    return socketio.ASGIApp(server, other_asgi_app=FastAPI())


def _nested(server: Any) -> Any:
    return BaseHTTPMiddleware(socketio.ASGIApp(server), dispatch=lambda request, call_next: call_next(request))


def _twice_mounted(server: Any) -> Any:
    inner = Starlette(routes=[Mount("/socket.io", socketio.ASGIApp(server, socketio_path="/api/socket.io"))])
    return Starlette(routes=[Mount("/api", inner)])


def _sub_path(server: Any) -> Any:
    return Starlette(routes=[Mount("/api", socketio.ASGIApp(server, socketio_path="/api/socket.io"))])


def _no_path(server: Any) -> Any:
    return Starlette(routes=[Mount("/api", socketio.ASGIApp(server, socketio_path=None))])


def _router(server: Any) -> Any:
    return Router([Host("testserver", Router([Mount("/", socketio.ASGIApp(server))]))])


STYLES = {
    "ASGIApp": (socketio.ASGIApp, "/socket.io/"),
    "ASGIApp outermost": (_outermost, "/socket.io/"),
    "behind a middleware": (_nested, "/socket.io/"),
    "Starlette": (_starlette, "/socket.io/"),
    "FastAPI": (_fastapi, "/socket.io/"),
    "mounted twice": (_twice_mounted, "/api/socket.io/"),
    "mounted under a path": (_sub_path, "/api/socket.io/"),
    "mounted without a path": (_no_path, "/api/"),
    "router and host": (_router, "/socket.io/"),
}


@pytest.mark.parametrize(("style", "path"), STYLES.values(), ids=STYLES)
async def test_the_server_is_found_and_guarded(style: Any, path: str) -> None:
    server = make_server()
    guard = SocketGuard(style(server), auth=make_auth(), logger=False)
    assert guard.server is server
    await works(guard, path)
    assert guard.describe()["paths"] == [path]
    assert SocketGuard.of(server).connections() == []


@pytest.mark.parametrize(("style", "path"), STYLES.values(), ids=STYLES)
async def test_a_protected_server_is_guarded_wherever_it_is_mounted_later(style: Any, path: str) -> None:
    server = make_server()
    SocketGuard.protect(server, auth=make_auth(), logger=False)
    await works(style(server), path)


@pytest.mark.parametrize("added", [False, True], ids=["of Starlette", "added to FastAPI"])
async def test_as_middleware(added: bool) -> None:
    server = make_server()
    options = {"server": server, "auth": make_auth(), "logger": False}
    app: Any = FastAPI() if added else Starlette(middleware=[Middleware(SocketGuard, **options)])
    if added:
        app.add_middleware(SocketGuard, **options)
    app.mount("/socket.io", socketio.ASGIApp(server))
    with pytest.raises(LookupError, match="first request"):
        SocketGuard.of(server)
    await works(app)
    assert (await http(app, "GET", "EIO=4&transport=polling", path="/ws/")).json["code"] == "wrong_path"


async def test_the_guard_of_a_server_is_the_same_wherever_it_is_asked_for() -> None:
    case = guarded()
    _, sid = await joined_wire(case.app)
    other = SocketGuard.of(case.server)
    assert other.identity(sid).subject == "user-1"
    assert other.auth is case.guard.auth
    assert other.server is case.server
    assert other.check() == case.guard.check()


async def test_http_routes_are_not_touched() -> None:
    async def page(request: Any) -> PlainTextResponse:
        return PlainTextResponse("page")

    server = make_server()
    app = Starlette(routes=[Route("/page", page), Mount("/socket.io", socketio.ASGIApp(server))])
    guard = SocketGuard(app, auth=make_auth(), logger=False)
    answer = await http(guard, "GET", "", path="/page")
    assert (answer.status, answer.body) == (200, b"page")


# Lifespan


@pytest.mark.parametrize("fails", [False, True])
async def test_lifespan_passes_through_untouched(fails: bool, events: Events) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        if fails:
            raise RuntimeError("no database")
        lived.append("up")
        yield {"database": "ready"}
        lived.append("down")

    server = make_server()
    app = Starlette(routes=[Mount("/socket.io", socketio.ASGIApp(server))], lifespan=lifespan)
    guard = SocketGuard(app, auth=make_auth(), logger=False)
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope: dict[str, Any] = {"type": "lifespan", "state": {}, "asgi": {"version": "3.0"}}
    incoming.put_nowait({"type": "lifespan.startup"})
    incoming.put_nowait({"type": "lifespan.shutdown"})
    if fails:
        with pytest.raises(RuntimeError, match="no database"):
            await guard(scope, incoming.get, send)
        assert sent == ["lifespan.startup.failed"]
    else:
        await guard(scope, incoming.get, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert lived == ["up", "down"]
        assert scope["state"] == {"database": "ready"}
    assert [event["event"] for event in events].count("socketguard.started") == 1


async def test_the_start_is_logged_once_with_the_configuration_and_no_secret(events: Events) -> None:
    case = guarded(
        namespaces=["/messages", NamespacePolicy("/admin-{who}", claims={"who": "{who}"})],
        heartbeat=Heartbeat(interval=20, timeout=15),
        trusted_proxies=["10.0.0.0/8"],
        allowed_origins=["https://crm.example.com"],
    )
    for _ in range(3):
        async with join(case.app, "/messages", token=mint()):
            pass
    (line,) = [event for event in events if event["event"] == "socketguard.started"]
    configuration = line["configuration"]
    assert configuration["heartbeat"] == {"interval_s": 20, "timeout_s": 15}
    assert (configuration["paths"], configuration["trusted_proxies"]) == (["/socket.io/"], ["10.0.0.0/8"])
    assert configuration["admission_timeout_s"] == 7.5
    assert TEST_SECRET not in str(events)


# What can't be guarded


def fails(match: str) -> Any:
    return pytest.raises(ConfigurationError, match=match)


def _of_another_framework() -> Any:
    server = make_server()
    server.eio.async_mode = server.async_mode = "aiohttp"
    return server


async def test_what_is_no_server_that_can_be_guarded() -> None:
    threaded = socketio.Server(async_mode="threading")
    bare = engineio.AsyncServer(async_mode="asgi")
    connected = make_server()
    await connected.manager.connect("eio", "/messages")
    for server, text in (
        (threaded, "synchronous"),
        (bare, "without Socket.IO"),
        *((other, type(other).__name__) for other in (object(), "server", 5, socketio.ASGIApp)),
        (_of_another_framework(), "async_mode 'aiohttp'"),
        (make_server(always_connect=True), "always_connect=True"),
        (connected, "connected to this server already"),
    ):
        with fails(text):
            SocketGuard.protect(server, auth=make_auth())
    for app, text in ((socketio.WSGIApp(threaded), "synchronous"), (engineio.ASGIApp(bare), "without Socket.IO")):
        with fails(text):
            SocketGuard(app, auth=make_auth())


@pytest.mark.parametrize(
    "app", [None, FastAPI(), Starlette(), PlainTextResponse("x"), lambda scope, receive, send: None]
)
def test_no_server_at_all(app: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no Socket\.IO server was found") as found:
        SocketGuard(app, auth=make_auth())
    assert found.value.option == "server"


def test_several_servers_must_be_named() -> None:
    first, second = make_server(), make_server()
    app = Starlette(routes=[Mount("/a", socketio.ASGIApp(first)), Mount("/b", socketio.ASGIApp(second))])
    with fails("2 Socket.IO servers"):
        SocketGuard(app, auth=make_auth())
    guard = SocketGuard(app, server=second, auth=make_auth())
    assert guard.server is second
    with pytest.raises(LookupError):
        SocketGuard.of(first)


def _without(name: str) -> Any:
    def change(server: Any) -> None:
        setattr(server, name, None)

    return change


def _other_parameters(server: Any) -> None:
    class Changed(type(server)):  # type: ignore[misc]
        async def _handle_connect(self, eio_sid: str, request: Any) -> None:
            raise AssertionError

    server.__class__ = Changed


def _not_async(server: Any) -> None:
    server._trigger_event = lambda event, namespace, *args: None


def _no_message(server: Any) -> None:
    del server.eio.handlers["message"]


CHANGES = {
    "no _handle_connect": (_without("_handle_connect"), "_handle_connect"),
    "no _trigger_event": (_without("_trigger_event"), "_trigger_event"),
    "no _get_event_handler": (_without("_get_event_handler"), "_get_event_handler"),
    "no handle_request": (_without("handle_request"), "handle_request"),
    "no disconnect": (_without("disconnect"), "disconnect"),
    "other parameters": (_other_parameters, r"_handle_connect\('eio_sid', 'request'\)"),
    "not a coroutine": (_not_async, "_trigger_event"),
    "no _send_packet": (_without("_send_packet"), "_send_packet"),
    "no _upgrades": (lambda server: setattr(server.eio, "_upgrades", None), "eio._upgrades"),
    "other sockets": (lambda server: setattr(server.eio, "sockets", MappingProxyType({})), "sockets"),
    "another environ": (lambda server: setattr(server, "environ", MappingProxyType({})), "environ"),
    "no message handler": (_no_message, r"eio.handlers\['message'\]"),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_an_unknown_python_socketio_is_refused_with_both_versions(change: Any, named: str) -> None:
    server = make_server()
    change(server)
    with pytest.raises(ConfigurationError, match=named) as found:
        SocketGuard.protect(server, auth=make_auth())
    assert "python-socketio " in str(found.value)
    assert "python-engineio " in str(found.value)
    with pytest.raises(LookupError):
        SocketGuard.of(server)


async def test_a_session_from_before_the_guard_is_unknown_to_it() -> None:
    server = make_server()
    app = socketio.ASGIApp(server)
    opened = await http(app, "GET", "EIO=4&transport=polling", bare=True)
    sid = opened.body.decode().partition('"sid":"')[2].partition('"')[0]
    SocketGuard.protect(server, auth=make_auth(), logger=False)
    answer = await http(app, "POST", f"EIO=4&transport=polling&sid={sid}", b"40/messages,{}")
    assert answer.json["code"] == "session_unknown"
    # Even a packet that comes another way.
    await server.eio.handlers["message"](sid, "0/messages,{}")
    assert not server.manager.rooms


# Two guards


@pytest.mark.parametrize("shared", [True, False], ids=["one verifier", "equal verifiers"])
def test_equal_guards_share_a_server(shared: bool) -> None:
    server, auth = make_server(), make_auth()

    def options() -> dict[str, Any]:
        policies = [NamespacePolicy("/messages", scopes={"a"})]
        heartbeat = Heartbeat(interval=20, timeout=15)
        return {"auth": auth if shared else make_auth(), "namespaces": policies, "heartbeat": heartbeat}

    first = SocketGuard(socketio.ASGIApp(server), **options())
    second = SocketGuard.protect(server, **options())
    assert first.describe() == second.describe()
    assert first.describe()["paths"] == ["/socket.io/"]


@pytest.mark.parametrize(
    "other",
    [
        {"namespaces": ["/other"]},
        {"auth": None},
        {"auth": JWTAuth("another secret of thirty-two bytes!", algorithms=["HS256"])},
        {"heartbeat": Heartbeat(interval=10, timeout=5)},
        {"debug": True},
        {"allowed_origins": "*"},
        {"trusted_proxies": ["10.0.0.1"]},
        {"log_claims": ("sub", "email")},
        {"admission_timeout": 5},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_guard_is_refused_and_the_first_stays(other: dict[str, Any]) -> None:
    server, auth = make_server(), make_auth()
    SocketGuard.protect(server, auth=auth, logger=False)
    with fails("other options already"):
        SocketGuard.protect(server, **{"auth": auth, "logger": False, **other})
    await works(socketio.ASGIApp(server))


# Detaching


async def test_detaching_puts_everything_back() -> None:
    server = make_server(namespaces=["/messages"], cors_allowed_origins="https://x.example")
    before = {**vars(server)}, {**vars(server.eio)}, {**server.eio.handlers}
    guard = SocketGuard.protect(
        server,
        auth=make_auth(),
        logger=False,
        heartbeat=Heartbeat(interval=20, timeout=15),
        allowed_origins=["https://y.example"],
    )
    assert (server.eio.ping_interval, server.eio.cors_allowed_origins) == (20, ["https://y.example"])
    await works(socketio.ASGIApp(server))
    guard.detach()
    guard.detach()
    after = {**vars(server)}, {**vars(server.eio)}, {**server.eio.handlers}
    assert server.eio.ping_interval == before[1]["ping_interval"] == 25
    assert server.eio.ping_timeout == before[1]["ping_timeout"]
    assert server.eio.ping_interval_grace_period == before[1]["ping_interval_grace_period"]
    assert server.eio.cors_allowed_origins == "https://x.example"
    assert after[2] == before[2]
    assert server.namespaces == ["/messages"]
    for name in ("handle_request", "_handle_connect", "_trigger_event", "_get_event_handler", "disconnect"):
        assert getattr(server, name).__func__ is getattr(type(server), name)
    with pytest.raises(LookupError):
        SocketGuard.of(server)
    async with join(socketio.ASGIApp(server), "/messages") as client:
        assert await client.call("echo", 1) == 1
    # And a guard with other options may attach.
    again = SocketGuard.protect(server, auth=make_auth(), namespaces=["/messages"], logger=False)
    await works(socketio.ASGIApp(server))
    again.detach()


async def test_what_somebody_else_has_wrapped_stays_and_lets_through() -> None:
    server = make_server()
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    seen: list[Any] = []
    names = ("_handle_connect", "_trigger_event", "disconnect", "handle_request")
    ours = {name: getattr(server, name) for name in names}

    def wrap(name: str) -> Any:
        async def outer(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return await ours[name](*args, **kwargs)

        return outer

    for name in ours:
        setattr(server, name, wrap(name))
    wrapped = server.handle_request
    await works(socketio.ASGIApp(server))
    message = server.eio.handlers["message"]
    guard.detach()
    assert server.handle_request is wrapped
    seen.clear()
    server.eio.on("message", message)
    async with join(socketio.ASGIApp(server), "/messages") as client:
        assert await client.call("echo", 1) == 1
        await server.disconnect(client.sid, namespace="/messages")
    assert set(names) <= set(seen)
    assert not server.manager.rooms


async def test_whoever_is_being_disconnected_when_the_guard_goes_does_not_stay() -> None:
    case = guarded()
    wires = [(await joined_wire(case.app, token=mint(jti="stolen")))[0] for _ in range(20)]
    ending = asyncio.ensure_future(case.guard.disconnect(token_id="stolen"))
    await asyncio.sleep(0)
    case.guard.detach()
    assert await ending == len(wires)
    for wire in wires:
        assert (await wire.closed())[1] == 1012
    assert not case.server.manager.rooms


async def test_the_guard_disconnects_whatever_somebody_makes_of_disconnect_later() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    original = case.server.disconnect

    async def disconnect(sid: str, namespace: str | None = None) -> None:
        await original(sid, namespace=namespace)

    case.server.disconnect = disconnect
    assert await case.guard.disconnect(subject="user-1") == 1
    assert await wire.frame() == "41/messages,"
    await wire.close()


# Options


@pytest.mark.parametrize(
    ("options", "option", "text"),
    [
        ({"auth": "secret"}, "auth", "JWTAuth"),
        ({"auth": JWTAuth}, "auth", "JWTAuth"),
        ({"namespaces": "/messages"}, "namespaces", r'\["/messages"\]'),
        ({"namespaces": NamespacePolicy("/messages")}, "namespaces", "list"),
        ({"namespaces": 5}, "namespaces", "list"),
        ({"namespaces": ["messages"]}, None, "messages"),
        ({"heartbeat": 25}, "heartbeat", "Heartbeat"),
        ({"admission_timeout": 0}, "admission_timeout", "seconds"),
        ({"admission_timeout": -1}, "admission_timeout", "seconds"),
        ({"admission_timeout": True}, "admission_timeout", "seconds"),
        ({"admission_timeout": "5"}, "admission_timeout", "seconds"),
        ({"admission_timeout": float("nan")}, "admission_timeout", "seconds"),
        ({"admission_timeout": float("inf")}, "admission_timeout", "seconds"),
        ({"admission_timeout": 20}, "admission_timeout", "ping timeout"),
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies", "list"),
        ({"trusted_proxies": ["proxy"]}, "trusted_proxies", "CIDR"),
        ({"trusted_proxies": [5]}, "trusted_proxies", "CIDR"),
        ({"allowed_origins": "https://x.example"}, "allowed_origins", "list"),
        ({"allowed_origins": []}, "allowed_origins", "empty"),
        ({"log_claims": "sub"}, "log_claims", "list"),
        ({"logger": "name"}, "logger", "logger"),
        ({"debug": 1}, "debug", "True or False"),
        ({"auth": make_auth(sources=("payload", "cookie:t"))}, "allowed_origins", "cookie"),
        ({"auth": make_auth(sources=("payload", "cookie:t")), "allowed_origins": "*"}, "allowed_origins", "cookie"),
        ({"auth": None, "namespaces": [NamespacePolicy("/messages", scopes={"a"})]}, "auth", "scopes"),
        ({"auth": None, "namespaces": [NamespacePolicy("/m", claims={"a": "b"})]}, "auth", "claims"),
    ],
)
def test_an_option_that_can_not_work_is_named(options: dict[str, Any], option: str | None, text: str) -> None:
    server = make_server()
    with pytest.raises(ConfigurationError, match=text) as found:
        SocketGuard.protect(server, **{"auth": make_auth(), **options})
    assert found.value.option == option or option is None
    with pytest.raises(LookupError):
        SocketGuard.of(server)
    assert type(server).handle_request is server.handle_request.__func__


def test_auth_must_be_written() -> None:
    with pytest.raises(TypeError):
        SocketGuard.protect(make_server())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("ping_timeout", "asked", "expected"),
    [(20, None, 10.0), (6, None, 3.0), (60, None, 10.0), (20, 19, 19.0), (0, None, 10.0), ("x", 5, 5.0)],
)
def test_the_admission_timeout_stays_under_the_ping_timeout(ping_timeout: Any, asked: Any, expected: float) -> None:
    server = make_server()
    server.eio.ping_timeout = ping_timeout
    guard = SocketGuard.protect(server, auth=make_auth(), admission_timeout=asked)
    assert guard.describe()["admission_timeout_s"] == expected


async def test_from_the_environment() -> None:
    server = make_server()
    environ = {"SOCKETGUARD_JWT_SECRET": TEST_SECRET, "SOCKETGUARD_PING_INTERVAL": "20", "SOCKETGUARD_LOG": "off"}
    guard = SocketGuard.from_env(socketio.ASGIApp(server), environ=environ, namespaces=["/messages"])
    assert server.eio.ping_interval == 20
    await works(guard)
    other = make_server()
    SocketGuard.from_env(None, server=other, environ=environ, logger=False)
    await works(socketio.ASGIApp(other))


# Findings


def ids(guard: SocketGuard) -> set[str]:
    return {finding.id for finding in guard.check()}


def _admin(server: Any) -> None:
    class InstrumentedAsyncServer:
        async def admin_connect(self, sid: str, environ: Any, auth: Any) -> None: ...

    server.on("connect", InstrumentedAsyncServer().admin_connect, namespace="/admin")


def _catch_all(server: Any) -> None:
    server.on("message", lambda namespace, sid, data: None, namespace="*")
    server.register_namespace(socketio.AsyncNamespace("/class"))


@pytest.mark.parametrize(
    ("expected", "server_options", "prepare", "options"),
    [
        ("SG013", {"namespaces": "/messages"}, None, {}),
        ("SG015", {}, _catch_all, {}),
        ("SG016", {}, _admin, {}),
        ("SG016", {}, _admin, {"namespaces": ["/messages"]}),
        ("SG022", {"cors_allowed_origins": []}, None, {}),
        ("SG024", {"cors_allowed_origins": "*"}, None, {}),
        ("SG024", {}, None, {"allowed_origins": "*"}),
        ("SG030", {}, None, {"auth": None}),
        ("SG041", {"engineio_logger": logging.getLogger("tests.engineio")}, None, {}),
    ],
)
def test_a_trap_is_found(expected: str, server_options: Any, prepare: Any, options: Any) -> None:
    logging.getLogger("tests.engineio").setLevel(logging.INFO)
    assert expected not in ids(guarded().guard)
    guard = guarded(server_options=server_options, prepare=prepare, **options).guard
    assert expected in ids(guard)
    for finding in guard.check():
        assert finding.text
        assert finding.fix


def test_the_admin_namespace_with_a_policy_of_its_own_is_fine() -> None:
    guard = guarded(prepare=_admin, namespaces=["/messages", NamespacePolicy("/admin", token="none")]).guard
    assert "SG016" not in ids(guard)


def test_mounts_that_can_not_work_are_found() -> None:
    server = make_server()
    app = Starlette(routes=[Mount("/ws", socketio.ASGIApp(server))])
    guard = SocketGuard(app, auth=make_auth())
    (finding,) = [finding for finding in guard.check() if finding.id == "SG021"]
    assert "socketio_path='/ws/socket.io'" in finding.fix


def test_middleware_that_never_sees_socket_io_is_found() -> None:
    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    guard = SocketGuard(socketio.ASGIApp(make_server(), other_asgi_app=app), auth=make_auth())
    assert "SG020" in ids(guard)


@pytest.mark.parametrize("shared", ["application", "manager"])
def test_another_server_without_a_guard_is_found(shared: str) -> None:
    manager = socketio.AsyncManager()
    server = make_server(client_manager=manager)
    if shared == "manager":
        guard = SocketGuard.protect(server, auth=make_auth())
        assert "SG036" not in ids(guard)
        other = make_server(client_manager=manager)
    else:
        other = make_server()
        app = socketio.ASGIApp(server, other_asgi_app=socketio.ASGIApp(other, socketio_path="admin"))
        guard = SocketGuard(app, server=server, auth=make_auth())
    assert "SG036" in ids(guard)
    SocketGuard.protect(other, auth=make_auth())
    assert "SG036" not in ids(guard)


async def test_findings_are_logged_at_the_start(events: Events) -> None:
    case = guarded(auth=None)
    async with join(case.app, "/messages"):
        pass
    warnings = [event for event in events if event["event"] == "socketguard.config.warning"]
    assert {finding.id for finding in case.guard.check()} == {warning["id"] for warning in warnings}
    assert all(warning["text"] and warning["fix"] for warning in warnings)


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        (("127.0.0.1", 80), False),
        (("::1", 80), False),
        (("localhost", 80), False),
        (("testserver", 80), False),
        (None, False),
        (("0.0.0.0", 80), True),
        (("203.0.113.1", 80), True),
        (("/run/app.sock", None), True),
    ],
)
async def test_debug_on_another_address_than_loopback_is_warned_about(
    address: Any, warned: bool, events: Events
) -> None:
    case = guarded(debug=True)
    for _ in range(2):
        wire = Socket(case.app)
        wire.scope["server"] = address
        await wire.open()
        await wire.close()
    assert [event["id"] for event in events if event.get("id") == "SG031"] == ["SG031"] * warned


async def test_uvicorns_own_pings_are_compared_with_the_heartbeat(events: Events) -> None:
    class Config:
        ws_ping_interval = 20.0
        ws_ping_timeout = 1.0

    class Protocol:
        config = Config()

        def __init__(self, wire: Any) -> None:
            self.wire = wire

        async def receive(self) -> Any:
            return await self.wire.inbox.get()

    found: list[set[str]] = []
    for heartbeat in (None, Heartbeat(interval=25, timeout=20)):
        case = guarded(heartbeat=heartbeat)
        # An HTTP request first: it has no pings to look at.
        await http(case.app, "GET", "EIO=3")
        wire = Socket(case.app)
        wire.put("websocket.connect")
        wire.put("websocket.disconnect", code=1005)
        await case.app(wire.scope, Protocol(wire).receive, wire.outbox.put)
        found.append({event["id"] for event in events if event["event"] == "socketguard.config.warning"})
    assert heartbeat is not None
    expected = {f.id for f in heartbeat.server_ping_findings(ping_interval=20.0, ping_timeout=1.0)}
    assert expected
    assert expected <= found[1]
    assert not expected & found[0]


@pytest.mark.parametrize("replaced", [False, True])
async def test_detaching_gives_the_application_its_own_handlers_back(replaced: bool) -> None:
    async def first(sid: str, environ: Any, auth: Any) -> None: ...

    async def second(sid: str, environ: Any, auth: Any) -> None: ...

    class Namespace(socketio.AsyncNamespace):
        async def on_connect(self, sid: str, environ: Any, auth: Any) -> None: ...

    namespace = Namespace("/class")
    case = guarded(handlers={"connect": first}, prepare=lambda server: server.register_namespace(namespace))
    for name in ("/messages", "/class"):
        async with join(case.app, name, token=mint()):
            pass
    assert case.server.handlers["/messages"]["connect"] is not first
    if replaced:
        case.server.on("connect", second, namespace="/messages")
    case.guard.detach()
    assert case.server.handlers["/messages"]["connect"] is (second if replaced else first)
    assert namespace.on_connect.__func__ is Namespace.on_connect
