"""Requests to the endpoint before there is a session: what is refused and why, origins, wrong paths."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import msgpack
import pytest
import socketio

from socketguard import SocketGuard
from socketguard.testing import Refused, join, make_auth, mint
from tests.scripted import (
    OPEN,
    Client,
    Clock,
    Events,
    Guarded,
    Request,
    Socket,
    guarded,
    http,
    joined_wire,
    lines,
    open_wire,
    serializer,
)

PAGE = "https://crm.example.com"


# Requests that do not become a session

LOST = "GET EIO=4&transport=websocket"
TRAEFIK = {"x-forwarded-server": "t", "x-real-ip": "192.0.2.9"}
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # the request, more of it, what is answered (status, code, detail), a part of the hint
    "no version": ("GET transport=polling", {}, "400 protocol_version engineio_missing", "EIO=4"),
    "an old version": ("GET EIO=3&transport=polling", {}, "400 protocol_version engineio_3", "Socket.IO 2"),
    "two versions": ("GET EIO=4&EIO=4", {}, "400 protocol_version engineio_missing", ""),
    "no query at all": ("GET ", {}, "400 protocol_version engineio_missing", ""),
    "a query that is not UTF-8": ("GET \udcff\udcfe", {}, "400 protocol_version engineio_missing", ""),
    "an empty session": ("GET EIO=3&sid=", {}, "400 protocol_version engineio_3", ""),
    "an unknown transport": ("GET EIO=4&transport=flash", {}, "400 transport_unknown transport_unknown", ""),
    "a typo": ("GET EIO=4&transport=websockets", {}, "400 transport_unknown transport_unknown", "mean 'websocket'?"),
    "a WebSocket that lost its upgrade": (LOST, {}, "400 upgrade_missing upgrade_header_lost", ""),
    "the same behind Traefik": (LOST, {"headers": TRAEFIK}, "400 upgrade_missing upgrade_header_lost", "traefik: "),
    "a WebSocket that lost its connection header": (
        LOST,
        {"headers": {"upgrade": "websocket"}, "http_version": "1.0"},
        "400 upgrade_missing connection_header_lost",
        "nginx: proxy_http_version 1.1",
    ),
    "an unknown session": (f"GET {OPEN}&sid=x", {}, "400 session_unknown session_before_restart", "nginx: upstream"),
    "a POST to one": (f"POST {OPEN}&sid=x&sid=y", {}, "400 session_unknown session_before_restart", ""),
    "a session that begins with a POST": (f"POST {OPEN}", {}, "400 session_missing", ""),
    "a method": (f"DELETE {OPEN}", {}, "400 method_not_allowed", ""),
    "HEAD": (f"HEAD {OPEN}", {}, "400 method_not_allowed", ""),
    "JSONP": (f"GET {OPEN}&j=0", {}, "400 jsonp_not_supported", ""),
}
ORIGINS: dict[str, tuple[dict[str, str], str]] = {
    "another site": ({"origin": PAGE}, f"allowed_origins={[PAGE]!r}"),
    "another host than the server's": ({"origin": PAGE, "host": "api.example.com"}, "'api.example.com'"),
    "another host in front": ({"origin": PAGE, "host": "a", "x-forwarded-host": "b"}, f"allowed_origins={[PAGE]!r}"),
    "TLS that was lost": ({"origin": PAGE, "host": "crm.example.com"}, "the page is on https"),
    "not ASCII": ({"origin": "https://\xe9vil.example"}, ""),
    "another port": ({"origin": "http://testserver:81"}, ""),
    "null": ({"origin": "null", "host": "null"}, ""),
    "twice": ({"origin": "http://testserver,http://testserver"}, ""),
}


async def refused(request: str, options: dict[str, Any], answered: str, part: str, events: Events) -> None:
    case = guarded()
    method, _, query = request.partition(" ")
    answer = await http(case.app, method, query, **options)
    status, reason, *detail = answered.split()
    assert (answer.status, answer.json["code"]) == (int(status), reason)
    assert answer.json["message"]
    (line,) = lines(events, "handshake.rejected")
    assert (line["reason"], line["status"], line["ref"]) == (reason, int(status), answer.json["ref"])
    if reason != "origin_not_allowed":
        assert line.get("detail") == (detail[0] if detail else None)
    assert line["hint"]
    assert part in line["hint"]
    assert answer.header("access-control-allow-origin") == []


@pytest.mark.parametrize(("request_line", "options", "answered", "part"), REFUSED.values(), ids=REFUSED)
async def test_a_request_that_can_not_become_a_session(
    request_line: str, options: dict[str, Any], answered: str, part: str, events: Events
) -> None:
    await refused(request_line, options, answered, part, events)


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize(("headers", "part"), ORIGINS.values(), ids=ORIGINS)
async def test_an_origin_that_is_not_allowed(headers: dict[str, str], part: str, method: str, events: Events) -> None:
    await refused(f"{method} {OPEN}", {"headers": headers}, "403 origin_not_allowed", part, events)


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize(
    ("query", "headers", "answered", "part"),
    [
        ("EIO=4&transport=polling", {}, "400 transport_mismatch transport_mismatch", "transport=websocket"),
        ("EIO=4", {}, "400 transport_mismatch transport_missing", "plain WebSocket client"),
        ("EIO=3&transport=websocket", {}, "400 protocol_version engineio_3", "Socket.IO 2"),
        ("EIO=4&transport=websocket&sid=x", {}, "400 session_unknown session_before_restart", ""),
        ("EIO=4&transport=websocket", {"origin": PAGE}, "403 origin_not_allowed host_rewritten", ""),
    ],
)
async def test_a_websocket_that_is_refused(
    query: str, headers: dict[str, str], answered: str, part: str, extension: bool, events: Events
) -> None:
    status, reason, detail = answered.split()
    wire = Socket(guarded().app, headers=headers)
    wire.scope["query_string"] = query.encode()
    if not extension:
        wire.scope["extensions"] = {}
    with pytest.raises(Refused) as refused:
        await wire.open()
    await wire.close()
    assert refused.value.status == (int(status) if extension else 403)
    assert bool(refused.value.data) is extension
    (line,) = lines(events, "handshake.rejected")
    assert (line["reason"], line["detail"]) == (reason, detail)
    assert part in line["hint"]


@pytest.mark.parametrize(
    ("whose", "seconds", "detail"),
    [("ended", 0, "session_ended"), ("other", 0, "session_before_restart"), ("other", 500, "session_elsewhere")],
)
async def test_what_became_of_an_unknown_session(
    whose: str, seconds: float, detail: str, clock: Clock, events: Events
) -> None:
    case = guarded()
    client = await Client(case if whose == "ended" else guarded(), "polling").open()
    await client.close()
    await http(case.app, "GET", "EIO=3")
    clock.passes(seconds)
    answer = await http(case.app, "GET", client.query)
    assert (answer.json["message"], answer.json["retry"]) == ("Session ID unknown", "now")
    assert lines(events, "handshake.rejected")[-1]["detail"] == detail


async def test_the_cause_of_a_request_for_an_upgraded_session_is_told(events: Events) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    query = f"&sid={case.eio_sid}"
    await http(case.app, "POST", OPEN + query, b"3")
    await http(case.app, "GET", OPEN + query)
    second = await Socket(case.app, query=query).open()
    assert await second.closed() == ([], 1000)
    told = lines(events, "handshake.rejected")
    found = [(line["reason"], line.get("detail"), line["hint"].partition(" for a session")[0]) for line in told]
    expected = [("post_after_upgrade", "a POST"), (None, "a GET"), (None, "a WebSocket")]
    assert found == [("session_upgraded", *each) for each in expected]
    await wire.close()


async def test_refused_websockets_in_a_flood_get_a_plain_close() -> None:
    case = guarded()
    bodies = []
    for _ in range(40):
        wire = Socket(case.app, headers={"origin": "https://evil.example"})
        with pytest.raises(Refused) as refused:
            await wire.open()
        bodies.append(refused.value.data is not None)
        await wire.close()
    assert bodies[0]
    assert not bodies[-1]


async def test_transports_of_the_server_are_kept() -> None:
    case = guarded(server_options={"transports": ["websocket"]})
    answer = await http(case.app, "GET", OPEN)
    assert answer.json["code"] == "transport_disabled"
    wire, _ = await joined_wire(case.app)
    await wire.close()


async def test_what_python_engineio_refuses_is_reported(events: Events) -> None:
    def prepare(server: Any) -> None:
        server.eio.on("connect", lambda sid, environ: False)

    case = guarded(prepare=prepare)
    assert (await http(case.app, "GET", OPEN)).status == 401
    wire = Socket(case.app)
    with pytest.raises(Refused) as refused:
        await wire.open()
    await wire.close()
    assert [line["reason"] for line in lines(events, "handshake.rejected")][:1] == ["engine_refused"]
    assert refused.value.data["code"] == "engine_refused" or refused.value.status == 403


@pytest.mark.parametrize(
    ("kind", "query"),
    [("http", OPEN), ("websocket", "EIO=4&transport=websocket"), ("websocket", "EIO=3")],  # the last one is refused
)
async def test_a_client_that_has_gone_before_its_request_is_read(kind: str, query: str, events: Events) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.disconnect", "code": 1006}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": "/socket.io/", "headers": [], "query_string": query.encode()}
    await guarded().app(scope, receive, send)
    assert (sent, lines(events, "handshake.rejected")) == ([], [])


# Origins


async def test_the_origin_policy_holds_over_both_transports_and_for_preflights(events: Events) -> None:
    case = guarded(allowed_origins=[PAGE])
    case.leaves = True  # An answer of 200 opens a session.
    for method in ("GET", "OPTIONS"):
        answer = await http(case.app, method, OPEN, headers={"host": "api.example.com", "origin": PAGE})
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") == [PAGE]
        assert answer.header("access-control-allow-credentials") == ["true"]
        assert "Origin" in answer.header("vary")
    async with join(case.app, "/messages", token=mint(), headers={"origin": PAGE}):
        pass
    answer = await http(case.app, "GET", OPEN, headers={"host": "testserver", "origin": "http://testserver"})
    assert answer.status == 403
    (line,) = lines(events, "handshake.rejected")
    assert f"allowed_origins={[PAGE, 'http://testserver']!r}" in line["hint"]


@pytest.mark.parametrize("credentials", [True, False])
async def test_our_own_refusals_can_be_read_by_a_page_that_is_entitled_to(credentials: bool) -> None:
    case = guarded(server_options={"cors_credentials": credentials}, allowed_origins=[PAGE])
    answer = await http(case.app, "GET", "EIO=3", headers={"host": "api.example.com", "origin": PAGE})
    assert (answer.status, answer.header("access-control-allow-origin")) == (400, [PAGE])
    assert answer.header("vary") == ["Origin"]
    assert answer.header("access-control-allow-credentials") == (["true"] if credentials else [])


@pytest.mark.parametrize(
    ("allowed", "origin", "status", "readable"),
    [
        (None, "http://testserver", 400, True),
        ("*", "https://anything.example", 400, True),
        (["*"], "https://anything.example", 400, True),
        (PAGE, PAGE, 400, True),
        ([PAGE], PAGE, 400, True),
        ([PAGE], "https://evil.example", 403, False),
        ([], "https://evil.example", 400, False),
        (lambda origin: origin == PAGE, PAGE, 400, True),
        (lambda origin: origin == PAGE, "https://evil.example", 403, False),
        (lambda origin: 1 / 0, PAGE, 403, False),
    ],
)
async def test_python_engineios_own_origin_policy_is_kept(
    allowed: Any, origin: str, status: int, readable: bool
) -> None:
    case = guarded(server_options={"cors_allowed_origins": allowed})
    answer = await http(case.app, "GET", "EIO=3", headers={"host": "testserver", "origin": origin})
    assert answer.status == status
    assert answer.header("access-control-allow-origin") == ([origin] if readable else [])


@pytest.mark.parametrize("proto", ["https", "wss", "https,http", "WSS"])
async def test_a_page_with_tls_is_of_the_same_origin(proto: str) -> None:
    headers = {"host": "crm.example.com", "origin": PAGE, "x-forwarded-proto": proto}
    case = guarded()
    case.leaves = True  # An answer of 200 opens a session.
    assert (await http(case.app, "GET", OPEN, headers=headers)).status == 200
    async with join(case.app, "/messages", token=mint(), headers=headers):
        pass
    del headers["x-forwarded-proto"]
    assert (await http(case.app, "GET", OPEN, headers=headers, scheme="https")).status == 200
    assert (await http(case.app, "GET", OPEN, headers=headers, scheme="http")).status == 403


async def test_header_names_are_lower_case_so_that_an_outer_middleware_replaces_them() -> None:
    from starlette.middleware.cors import CORSMiddleware

    case = guarded(server_options={"cors_allowed_origins": [PAGE]})
    case.leaves = True  # An answer of 200 opens a session.
    outer = CORSMiddleware(case.app, allow_origins=[PAGE], allow_credentials=True)
    answer = await http(outer, "GET", OPEN, headers={"host": "api.example.com", "origin": PAGE})
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == [PAGE]


async def test_the_address_is_read_through_trusted_proxies_only(events: Events) -> None:
    case = guarded(trusted_proxies=["10.0.0.0/8"])
    for peer in ("10.1.2.3", "198.51.100.1"):
        await http(case.app, "GET", "EIO=3", client=(peer, 5), headers={"x-forwarded-for": "203.0.113.9"})
    assert [line["client_address"] for line in lines(events, "handshake.rejected")] == ["203.0.113.9", "198.51.100.1"]


# Parsers and ids


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("kind", ["default", "msgpack"])
async def test_another_parser_than_the_servers_is_named(kind: str, transport: str, events: Events) -> None:
    case = guarded(server_options=serializer(kind))
    packet: Any = msgpack.packb({"type": 0, "data": {"token": mint()}, "nsp": "/messages"})
    if kind == "msgpack":
        packet = "40/messages," + json.dumps({"token": mint()})
    if transport == "websocket":
        wire = await open_wire(case.app, packet)
        assert await wire.closed() == ([], 1003)
        await wire.close()
    else:
        client = await Client(case.app, "polling").open()
        body = packet if kind == "msgpack" else "b" + base64.b64encode(packet).decode()
        await client.post(body)
    (line,) = [event for event in events if event["event"].endswith((".packet.rejected", ".handshake.rejected"))]
    assert "client and server use different parsers" in line["hint"]
    assert len(line["session"]) == 12, "a line names its session, whatever became of it"


async def test_session_ids_of_the_application_are_kept(events: Events) -> None:
    def prepare(server: Any) -> None:
        server.eio.generate_id = lambda: f"own-{next(numbers)}-{'x' * 40}"

    numbers = itertools.count()
    case = guarded(prepare=prepare)
    client = await Client(case.app, "polling").open()
    assert client.sid.startswith("own-0-")
    async with join(case.app, "/messages", token=mint()) as joined:
        assert await joined.call("echo", 1) == 1
    assert (await http(case.app, "GET", f"{OPEN}&sid=own-7")).status == 400
    (line,) = lines(events, "handshake.rejected")
    assert line["detail"] == "session_gone"


# Wrong paths


def around(app: Any = None, **options: Any) -> SocketGuard:
    """A guard around an application of any kind, beside which there is a server."""
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    inner = socketio.ASGIApp(server, **options) if app is None else app
    return SocketGuard(inner, server=server, auth=make_auth(), logger=False)


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"Not ", "more_body": True})
        await send({"type": "http.response.body", "body": b"found"})
    else:
        await send({"type": "websocket.close"})


@pytest.mark.parametrize("inner", ["alone", "starlette", "own"])
async def test_a_socket_io_client_on_a_wrong_path_is_told_so(inner: str, events: Events) -> None:
    from starlette.applications import Starlette

    app = around(other_asgi_app={"alone": None, "starlette": Starlette(), "own": _not_found}[inner])
    answer = await http(app, "GET", OPEN, path="/ws/")
    assert (answer.status, answer.json["code"]) == (404, "wrong_path")
    with pytest.raises(Refused) as refused:
        wire = Socket(app, path="/ws/")
        await wire.open()
    assert refused.value.status == 404
    await wire.close()
    hints = [line["hint"] for line in lines(events, "handshake.rejected")]
    assert ["'/ws/'" in hint and "'/socket.io/'" in hint for hint in hints] == [True, True]


async def test_a_wrong_path_keeps_the_cors_headers_of_the_application() -> None:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware

    cors = Middleware(CORSMiddleware, allow_origins=[PAGE], allow_credentials=True)
    app = around(other_asgi_app=Starlette(middleware=[cors]))
    answer = await http(app, "GET", OPEN, headers={"origin": PAGE}, path="/ws/")
    assert (answer.status, answer.json["code"]) == (404, "wrong_path")
    assert answer.header("access-control-allow-origin") == [PAGE]
    assert answer.header("access-control-allow-credentials") == ["true"]
    assert answer.header("vary") == ["Origin"]


async def test_a_socket_io_client_below_a_mount_that_nothing_reaches(events: Events) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    guard = SocketGuard(Starlette(routes=[Mount("/ws", socketio.ASGIApp(server))]), auth=make_auth(), logger=False)
    for path in ("/ws/socket.io/", "/socket.io/"):
        assert (await http(guard, "GET", OPEN, path=path)).json["code"] == "wrong_path"
    for line in lines(events, "handshake.rejected"):
        assert line["detail"] == "mount_lost"
        assert "ASGIApp(sio, socketio_path='/ws/socket.io')" in line["hint"]


async def test_other_requests_are_not_touched() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        status = int(scope["path"].strip("/"))
        await send({"type": "http.response.start", "status": status, "headers": [(b"x", b"1")]})
        await send({"type": "http.response.body", "body": b"mine"})

    guard = around(app)
    for path, query in (("/200/", ""), ("/404/", ""), ("/200/", OPEN), ("/500/", OPEN), ("/403/", OPEN)):
        answer = await http(guard, "GET", query, path=path)
        assert (answer.status, answer.body) == (int(path.strip("/")), b"mine")
    assert (await http(guard, "GET", OPEN, path="/404/")).json["code"] == "wrong_path"


async def test_a_websocket_that_is_somebody_elses_keeps_its_close_code(events: Events) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 4000})

    wire = Socket(around(app), path="/other")
    await wire.open()
    assert await wire.closed() == (["hello"], 4000)
    await wire.close()
    assert lines(events, "handshake.rejected") == []


async def test_two_guards_in_one_application_keep_out_of_each_others_way(events: Events) -> None:
    outer = around(other_asgi_app=guarded("/messages").app, socketio_path="second")
    wire, _ = await joined_wire(outer)
    await wire.send("hello")
    assert await wire.closed() == ([], 1003)
    await wire.close()
    wire = Socket(outer, headers={"origin": "https://evil.example"})
    with pytest.raises(Refused) as refused:
        await wire.open()
    assert refused.value.data["code"] == "origin_not_allowed"
    await wire.close()
    assert (await http(outer, "GET", f"{OPEN}&sid=x")).json["code"] == "session_unknown"
    assert (await http(outer, "GET", OPEN, path="/nowhere/")).json["code"] == "wrong_path"
    found = [line["reason"] for line in lines(events, "handshake.rejected")]
    assert found == ["origin_not_allowed", "session_unknown", "wrong_path"]


async def test_a_protected_server_needs_no_wrapper() -> None:
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    server.on("echo", lambda sid, value: value, namespace="/messages")
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    app = socketio.ASGIApp(server)
    async with join(app, "/messages", token=mint()) as client:
        assert await client.call("echo", 3) == 3
    with pytest.raises(Refused, match="Authentication required"):
        async with join(app, "/messages"):
            pass
    with pytest.raises(RuntimeError, match="protect"):
        await guard({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


async def test_an_endpoint_whose_path_is_not_known_is_not_taken_for_a_wrong_one(events: Events) -> None:
    await http(around(_not_found), "GET", OPEN, path="/x/")
    assert "unknown to the guard" in lines(events, "handshake.rejected")[0]["hint"]
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False, namespaces=["/messages"])
    inner = socketio.ASGIApp(server)

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "path": "/socket.io/"}, receive, send)

    guard = SocketGuard(opaque, server=server, auth=make_auth(), logger=False)
    assert Guarded(server, guard, guard).guard.describe()["paths"] == []
    assert (await http(guard, "GET", f"{OPEN}&sid=x", path="/x/")).json["code"] == "session_unknown"
    wire, _ = await joined_wire(guard, path="/x/")
    await wire.send("hello")
    assert (await wire.closed())[1] == 1003
    await wire.close()


# What is handed on to python-engineio


@pytest.mark.parametrize(
    ("headers", "scheme", "expected"),
    [
        ([("x-forwarded-proto", "WSS, http")], "http", "https"),
        ([("x-forwarded-proto", "wss"), ("x-forwarded-proto", "http")], "http", "https"),
        ([("x-forwarded-proto", "ws")], "https", "http"),
        ([("x-forwarded-proto", "gopher")], "http", "gopher"),
        ([], "https", "https"),
        ([], "wss", "https"),
        ([], "http", None),
        ([], "ws", None),
    ],
)
async def test_the_scheme_is_handed_on_as_the_browser_sees_it(
    headers: list[tuple[str, str]], scheme: str, expected: str | None
) -> None:
    case = guarded()
    wire = Socket(case.app, scheme=scheme)
    wire.scope["headers"] += [(name.encode(), value.encode()) for name, value in headers]
    await wire.open()
    assert case.server.environ[case.eio_sid].get("HTTP_X_FORWARDED_PROTO") == expected
    await wire.close()


async def test_a_binary_packet_as_of_polling_ends_a_websocket(events: Events) -> None:
    wire, _ = await joined_wire(guarded().app)
    await wire.send("bAAAA")
    assert await wire.closed() == ([], 1003)
    assert lines(events, "packet.rejected")[0]["hint"] == "a packet of a type that clients do not send"
    await wire.close()


async def test_a_websocket_over_http2_needs_no_upgrade_header() -> None:
    case = guarded()
    wire = Socket(case.app)
    wire.scope["headers"] = [(b"host", b"testserver")]
    await wire.open()
    assert case.server.environ[case.eio_sid]["HTTP_UPGRADE"] == "websocket"
    await wire.close()


async def test_a_request_without_anything_that_may_be_missing(events: Events) -> None:
    request = Request([b""], more="end")
    await guarded().app(
        {"type": "http", "method": "POST", "path": "/socket.io/", "headers": []}, request.receive, request.send
    )
    assert request.answer.json["code"] == "protocol_version"
    (line,) = lines(events, "handshake.rejected")
    assert line.get("client_address") is None


async def test_an_answer_that_depends_on_the_origin_says_so() -> None:
    case = guarded(allowed_origins=[PAGE])
    for headers, named, vary in (({"origin": PAGE}, [PAGE], ["Origin"]), ({}, [], [])):
        answer = await http(case.app, "GET", OPEN, headers=headers)
        assert (answer.header("access-control-allow-origin"), answer.header("vary")) == (named, vary)
        sid = json.loads(answer.body[1:])["sid"]
        assert (await http(case.app, "POST", f"{OPEN}&sid={sid}", b"1")).status == 200
