"""What stands in front of python-engineio: refused requests, bodies, frames, origins, upgrades, wrong paths."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
import socketio

from socketguard import SocketGuard
from socketguard.server.websocket import CLOSE_TIMEOUT, WebSocket
from socketguard.testing import Refused, Wire, capture_events, join, make_auth, mint
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

OPEN = "EIO=4&transport=polling"
PAGE = "https://crm.example.com"


def lines(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == f"socketguard.{name}"]


# Requests that do not become a session

REFUSED = {
    "no version": ("GET", "transport=polling", {}, 400, "protocol_version"),
    "an old version": ("GET", "EIO=3&transport=polling", {}, 400, "protocol_version"),
    "two versions": ("GET", "EIO=4&EIO=4", {}, 400, "protocol_version"),
    "an unknown transport": ("GET", "EIO=4&transport=flash", {}, 400, "transport_unknown"),
    "a WebSocket that lost its upgrade": ("GET", "EIO=4&transport=websocket", {}, 400, "upgrade_missing"),
    "an unknown session": ("GET", f"{OPEN}&sid=x", {}, 400, "session_unknown"),
    "an unknown session, POST": ("POST", f"{OPEN}&sid=x", {}, 400, "session_unknown"),
    "a session that begins with a POST": ("POST", OPEN, {}, 400, "session_missing"),
    "a method": ("DELETE", OPEN, {}, 405, "method_not_allowed"),
    "HEAD": ("HEAD", OPEN, {}, 405, "method_not_allowed"),
    "JSONP": ("GET", f"{OPEN}&j=0", {}, 400, "jsonp_not_supported"),
    "an origin": ("GET", OPEN, {"origin": "https://evil.example"}, 403, "origin_not_allowed"),
    "an origin that is not ASCII": ("GET", OPEN, {"origin": "https://\xe9vil.example"}, 403, "origin_not_allowed"),
    "an origin of another port": ("GET", OPEN, {"origin": "http://testserver:81"}, 403, "origin_not_allowed"),
    "a null origin": ("GET", OPEN, {"origin": "null"}, 403, "origin_not_allowed"),
    "an origin for OPTIONS": ("OPTIONS", OPEN, {"origin": "https://evil.example"}, 403, "origin_not_allowed"),
}


@pytest.mark.parametrize(("method", "query", "headers", "status", "reason"), REFUSED.values(), ids=REFUSED)
async def test_a_request_that_can_not_become_a_session(
    method: str, query: str, headers: dict[str, str], status: int, reason: str
) -> None:
    with capture_events() as events:
        case = guarded()
        answer = await http(case.app, method, query, headers={"host": "testserver", **headers})
    assert answer.status == status
    assert answer.json["code"] == reason
    (line,) = lines(events, "handshake.rejected")
    assert (line["reason"], line["status"], line["ref"]) == (reason, status, answer.json["ref"])
    assert line["hint"]
    assert answer.header("access-control-allow-origin") == []
    nothing_left(case)


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("EIO=3&transport=websocket", {}, 400),
        ("EIO=4&transport=polling", {}, 400),
        ("EIO=4&transport=websocket&sid=x", {}, 400),
        ("EIO=4&transport=websocket", {"origin": "https://evil.example"}, 403),
    ],
)
async def test_a_websocket_that_is_refused(query: str, headers: dict[str, str], status: int, extension: bool) -> None:
    case = guarded()
    wire = Wire(case.app, headers=headers)
    wire.scope["query_string"] = query.encode()
    if not extension:
        wire.scope["extensions"] = {}
    with pytest.raises(Refused) as refused:
        await wire.open()
    assert refused.value.status == (status if extension else 403)
    assert bool(refused.value.data) is extension
    await wire.close()
    nothing_left(case)


async def test_refused_websockets_in_a_flood_get_a_plain_close() -> None:
    case = guarded()
    bodies = []
    for _ in range(40):
        wire = Wire(case.app, headers={"origin": "https://evil.example"})
        with pytest.raises(Refused) as refused:
            await wire.open()
        bodies.append(refused.value.data is not None)
        await wire.close()
    assert bodies[0]
    assert not bodies[-1]
    nothing_left(case)


async def test_transports_of_the_server_are_kept() -> None:
    case = guarded(server_options={"transports": ["websocket"]})
    answer = await http(case.app, "GET", OPEN)
    assert answer.json["code"] == "transport_disabled"
    wire, _ = await joined_wire(case.app)
    await wire.close()
    nothing_left(case)


async def test_what_python_engineio_refuses_is_reported() -> None:
    def prepare(server: Any) -> None:
        server.eio.on("connect", lambda sid, environ: False)

    with capture_events() as events:
        case = guarded(prepare=prepare)
        answer = await http(case.app, "GET", OPEN)
        assert answer.status == 401
        wire = Wire(case.app)
        with pytest.raises(Refused) as refused:
            await wire.open()
        await wire.close()
    assert [line["reason"] for line in lines(events, "handshake.rejected")][:1] == ["engine_refused"]
    assert refused.value.data["code"] == "engine_refused" or refused.value.status == 403
    nothing_left(case)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_client_that_has_gone_before_its_request_is_read(kind: str) -> None:
    case = guarded()
    sent: list[Any] = []
    wire = Wire(case.app)
    scope = {**wire.scope, "type": kind, "method": "GET", "query_string": OPEN.encode()}
    if kind == "websocket":
        scope["query_string"] = b"EIO=4&transport=websocket"

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.disconnect", "code": 1006}

    async def send(message: Any) -> None:
        sent.append(message)

    await case.app(scope, receive, send)
    assert sent == []
    nothing_left(case)


# Origins


async def test_the_origin_policy_holds_over_both_transports_and_for_preflights() -> None:
    case = guarded(allowed_origins=[PAGE])
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


async def test_our_own_refusals_can_be_read_by_a_page_that_is_entitled_to() -> None:
    case = guarded(allowed_origins=[PAGE])
    answer = await http(case.app, "GET", "EIO=3", headers={"host": "api.example.com", "origin": PAGE})
    assert answer.status == 400
    assert answer.header("access-control-allow-origin") == [PAGE]
    assert answer.header("vary") == ["Origin"]
    assert answer.header("access-control-allow-credentials") == ["true"]


@pytest.mark.parametrize("credentials", [True, False])
async def test_credentials_are_allowed_as_the_server_says(credentials: bool) -> None:
    case = guarded(server_options={"cors_credentials": credentials, "cors_allowed_origins": PAGE})
    answer = await http(case.app, "GET", "EIO=3", headers={"host": "api.example.com", "origin": PAGE})
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
        (lambda origin: origin == PAGE, PAGE, 400, False),
    ],
)
async def test_python_engineios_own_origin_policy_is_kept(
    allowed: Any, origin: str, status: int, readable: bool
) -> None:
    case = guarded(server_options={"cors_allowed_origins": allowed})
    answer = await http(case.app, "GET", "EIO=3", headers={"host": "testserver", "origin": origin})
    assert answer.status == status
    assert answer.header("access-control-allow-origin") == ([origin] if readable else [])


async def test_the_line_of_a_refused_origin_has_the_argument_to_paste() -> None:
    with capture_events() as events:
        case = guarded(allowed_origins=[PAGE])
        await http(case.app, "GET", OPEN, headers={"host": "h", "origin": "https://other.example"})
    (line,) = lines(events, "handshake.rejected")
    assert f"allowed_origins={[PAGE, 'https://other.example']!r}" in line["hint"]


@pytest.mark.parametrize("proto", ["https", "wss", "https,http", "WSS"])
async def test_a_page_behind_a_proxy_with_tls_is_of_the_same_origin(proto: str) -> None:
    headers = {"host": "crm.example.com", "origin": PAGE, "x-forwarded-proto": proto}
    case = guarded()
    assert (await http(case.app, "GET", OPEN, headers=headers)).status == 200
    async with join(case.app, "/messages", token=mint(), headers=headers):
        pass


async def test_a_page_with_tls_and_no_proxy_is_of_the_same_origin() -> None:
    case = guarded()
    headers = {"host": "crm.example.com", "origin": PAGE}
    assert (await http(case.app, "GET", OPEN, headers=headers, scheme="https")).status == 200
    assert (await http(case.app, "GET", OPEN, headers=headers, scheme="http")).status == 403


async def test_header_names_are_lower_case_so_that_an_outer_middleware_replaces_them() -> None:
    from starlette.middleware.cors import CORSMiddleware

    case = guarded(server_options={"cors_allowed_origins": [PAGE]})
    outer = CORSMiddleware(case.app, allow_origins=[PAGE], allow_credentials=True)
    answer = await http(outer, "GET", OPEN, headers={"host": "api.example.com", "origin": PAGE})
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == [PAGE]


async def test_the_address_is_read_through_trusted_proxies_only() -> None:
    with capture_events() as events:
        case = guarded(trusted_proxies=["10.0.0.0/8"])
        for peer in ("10.1.2.3", "198.51.100.1"):
            await http(
                case.app,
                "GET",
                "EIO=3",
                client=(peer, 5),
                headers={"host": "testserver", "x-forwarded-for": "203.0.113.9"},
            )
    assert [line["client_address"] for line in lines(events, "handshake.rejected")] == ["203.0.113.9", "198.51.100.1"]


# Bodies


@pytest.mark.parametrize("declared", ["5, 5", "-1", "x", "٥", "1" * 16, "", " "])
async def test_a_length_that_no_client_can_mean_is_malformed(declared: str) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    headers = [(b"host", b"testserver"), (b"content-length", declared.encode("utf-8"))]
    answer = await http(case.app, "POST", client.query, b"3", headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "body_malformed")
    nothing_left(case)


@pytest.mark.parametrize("how", ["declared", "sent", "chunked", "lie"])
async def test_a_body_of_a_stranger_above_16_kib_is_refused(how: str) -> None:
    large = b"4" + b"0" * 16_384
    with capture_events() as events:
        case = guarded()
        client = await Polling(case.app).open()
        headers: Any = {"host": "testserver"}
        body: Any = large
        if how == "declared":
            headers["content-length"] = "99999"
            body = b""
        elif how == "lie":
            headers["content-length"] = "5"
        elif how == "chunked":
            body = [large[:9000], large[9000:], b"never read"]
        answer = await http(case.app, "POST", client.query, body, headers=headers)
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert [line["reason"] for line in lines(events, "handshake.rejected")] == ["body_too_large"]
    nothing_left(case)


async def test_a_member_may_send_up_to_max_http_buffer_size() -> None:
    case = guarded(server_options={"max_http_buffer_size": 100_000})
    client = await Polling(case.app).open()
    await client.join()
    text = "x" * 50_000
    assert (await client.post(f'42/messages,1["echo","{text}"]')).status == 200
    assert await client.frame() == f'43/messages,1["{text}"]'
    answer = await client.post("4" * 100_001)
    assert answer.status == 413
    nothing_left(case)


async def test_a_server_with_a_smaller_limit_keeps_it_for_strangers_too() -> None:
    case = guarded(server_options={"max_http_buffer_size": 100})
    client = await Polling(case.app).open()
    assert (await client.post("4" * 101)).status == 413
    wire = await open_wire(case.app)
    await wire.send("4" * 101)
    with pytest.raises(ConnectionError):
        await wire.frame()
    await wire.close()


async def test_a_body_without_a_length_is_read() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    packet = connect_packet().encode()
    answer = await http(case.app, "POST", client.query, [packet[:10], packet[10:30], packet[30:]])
    assert answer.status == 200
    assert (await client.frame()).startswith('40/messages,{"sid":')
    await client.close()
    nothing_left(case)


async def test_a_client_that_goes_within_its_body_is_left_alone() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    answer = await http(case.app, "POST", client.query, [b"40/mess"], gone=True)
    assert answer.status == 0
    await client.join()
    await client.close()
    nothing_left(case)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff", "body_malformed"),
        (b"", "body_malformed"),
        (b"4" + b"\x1e", "body_malformed"),
        (b"b!!!", "body_malformed"),
        (b"bQUJ", "body_malformed"),
        (b"d=40", "body_malformed"),
        (b"hello", "body_malformed"),
        (b"\x1e".join([b"3"] * 17), "too_many_packets"),
    ],
)
async def test_a_body_that_python_engineio_would_drop_ends_the_session(body: bytes, reason: str) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    answer = await http(case.app, "POST", client.query, body)
    assert (answer.status, answer.json["code"]) == (400, reason)
    assert (await client.post("3")).json["code"] == "session_unknown"
    nothing_left(case)


async def test_sixteen_packets_in_one_body_are_allowed() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    assert (await client.post(*["3"] * 15, connect_packet())).status == 200
    assert (await client.frame()).startswith('40/messages,{"sid":')
    await client.close()


async def test_a_waiting_poll_is_answered_when_the_session_ends() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    waiting = asyncio.ensure_future(client.poll())
    await asyncio.sleep(0)
    assert (await client.post("hello")).status == 400
    assert await asyncio.wait_for(waiting, 5) == ["1"]
    nothing_left(case)


async def test_a_poll_that_claims_an_upgrade_is_a_poll() -> None:
    # python-engineio would begin to speak WebSocket within an HTTP request.
    case = guarded()
    client = await Polling(case.app).open()
    await client.post(connect_packet())
    frames = await client.poll(
        headers={"host": "testserver", "connection": "keep-alive, Upgrade", "upgrade": "websocket"}
    )
    assert frames[0].startswith('40/messages,{"sid":')
    await client.close()
    nothing_left(case)


async def test_nobody_ends_a_websocket_session_by_a_post() -> None:
    case = guarded()
    wire, sid = await joined_wire(case.app)
    stranger = Polling(case.app)
    stranger.sid = case.server.manager.eio_sid_from_sid(sid, "/messages")
    for packet in ("garbage", "1", "6", '42/messages,["echo"]'):
        assert (await stranger.post(packet)).status == 400
    assert (await http(case.app, "GET", stranger.query)).status == 400
    second = Wire(case.app, query=f"&sid={stranger.sid}")
    with pytest.raises(Refused):
        await second.open()
    await second.close()
    await wire.send('42/messages,1["echo",5]')
    assert await wire.frame() == "43/messages,1[5]"
    await wire.close()
    nothing_left(case)


# Frames


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_frame_of_a_stranger_above_16_kib_ends_the_session(extra: int) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    frame = connect_packet()[:-1]
    await wire.send(frame + " " * (16_383 - len(frame) + extra) + "}")
    if extra:
        with pytest.raises(ConnectionError):
            await wire.frame()
        assert wire.close_code == 1009
    else:
        assert str(await wire.frame()).startswith('40/messages,{"sid":')
    await wire.close()
    nothing_left(case)


@pytest.mark.parametrize(("size", "code"), [(1, 1003), (16_384, 1003), (16_385, 1009)])
async def test_a_binary_frame_of_a_stranger_ends_the_session(size: int, code: int) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    await wire.send(bytes(size))
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == code
    await wire.close()
    nothing_left(case)


async def test_a_packet_of_a_stranger_with_many_values_is_refused_undecoded() -> None:
    import msgpack

    case = guarded(server_options={"serializer": "msgpack"})
    for transport in ("websocket", "polling"):
        packet = msgpack.dumps({"type": 0, "nsp": "/messages", "data": {"a": [[]] * 600}})
        if transport == "polling":
            client = await Polling(case.app).open()
            answer = await client.post("b" + base64.b64encode(packet).decode())
            assert answer.json["code"] == "body_malformed"
        else:
            wire = await open_wire(case.app)
            await wire.send(packet)
            with pytest.raises(ConnectionError):
                await wire.frame()
            assert wire.close_code == 1003
            await wire.close()
        nothing_left(case)


async def test_a_frame_of_a_member_above_the_servers_limit_ends_the_session_with_a_line() -> None:
    with capture_events() as events:
        case = guarded(server_options={"max_http_buffer_size": 20_000})
        wire, _ = await joined_wire(case.app)
        await wire.send('42/messages,["echo","' + "x" * 19_000 + '"]')
        await wire.send('42/messages,["echo","' + "x" * 20_000 + '"]')
        with pytest.raises(ConnectionError):
            await wire.frame()
        assert wire.close_code == 1009
        await wire.close()
    (line,) = lines(events, "packet.rejected")
    assert line["reason"] == "packet_too_large"
    nothing_left(case)


async def test_a_member_that_left_its_last_namespace_is_a_stranger_again() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await wire.send("41/messages,")
    await wire.send("4" + "2" * 20_000)
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 1009
    await wire.close()
    nothing_left(case)


async def test_a_frame_without_text_or_bytes_ends_the_session() -> None:
    case = guarded()
    wire = await open_wire(case.app)
    wire._to_app.put_nowait({"type": "websocket.receive"})
    with pytest.raises(ConnectionError):
        await wire.frame()
    await wire.close()
    nothing_left(case)


async def test_a_close_frame_that_nobody_reads_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketguard.server.websocket.CLOSE_TIMEOUT", 0.01)
    assert CLOSE_TIMEOUT > 1
    case = guarded()
    wire = await open_wire(case.app)
    stuck = asyncio.Event()
    released = asyncio.Event()

    async def put(message: Any) -> None:
        if message["type"] == "websocket.close":
            stuck.set()
            await released.wait()

    monkeypatch.setattr(wire._from_app, "_put", lambda message: None)
    wire_send = case.app
    assert wire_send is not None
    frames = WebSocket.__new__(WebSocket)
    for name in WebSocket.__slots__:
        setattr(frames, name, None)
    frames._closing, frames._accepted, frames._send, frames._session = False, True, put, a_session()
    await frames.close(1000)
    assert stuck.is_set()
    released.set()
    await wire.close()


async def test_a_close_frame_that_can_not_be_sent_harms_nobody() -> None:
    async def send(message: Any) -> None:
        raise OSError("gone")

    frames = WebSocket.__new__(WebSocket)
    for name in WebSocket.__slots__:
        setattr(frames, name, None)
    frames._closing, frames._accepted, frames._send, frames._session = False, True, send, a_session()
    await frames.close(1000)
    await frames.close(1000)


async def test_a_websocket_whose_peer_can_not_be_written_to_leaves_nothing() -> None:
    case = guarded()
    wire = Wire(case.app)
    events = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        raise OSError("gone")

    await case.app(wire.scope, receive, send)
    nothing_left(case)


# Upgrades


async def upgrade(case: Any, client: Polling) -> Wire:
    wire = Wire(case.app, query=f"&sid={client.sid}")
    await wire.open()
    return wire


async def test_polling_then_upgrade() -> None:
    with capture_events() as events:
        case = guarded()
        client = await Polling(case.app).open()
        sid = await client.join()
        wire = await upgrade(case, client)
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
        await wire.send("5")
        await wire.send('42/messages,1["echo",5]')
        while (frame := await wire.frame()) == "6":
            pass
        assert frame == "43/messages,1[5]"
        assert case.guard.connections()[0].transport == "websocket"
        assert (await client.post("3")).status == 400
        await wire.close()
    nothing_left(case)
    (upgraded,) = lines(events, "transport.upgraded")
    (accepted,) = lines(events, "connection.accepted")
    (closed,) = lines(events, "connection.closed")
    assert upgraded["session"] == accepted["session"]
    assert (accepted["transport"], closed["transport"], closed["sid"]) == ("polling", "websocket", sid)
    assert lines(events, "transport.upgrade_failed") == []


async def test_an_upgrade_before_anybody_joined_knows_its_session() -> None:
    with capture_events() as events:
        case = guarded()
        client = await Polling(case.app).open()
        wire = await upgrade(case, client)
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
        await wire.send("5")
        await until(lambda: lines(events, "transport.upgraded"))
        await wire.send(connect_packet())
        while str(frame := await wire.frame()) == "6":
            pass
        assert str(frame).startswith("40/messages")
        await wire.close()
    assert lines(events, "transport.upgraded")[0]["session"]
    nothing_left(case)


@pytest.mark.parametrize("sent", [[], ["2probe"]])
async def test_an_upgrade_that_is_cut_leaves_the_polling_session_as_it_was(sent: list[str]) -> None:
    with capture_events() as events:
        case = guarded()
        client = await Polling(case.app).open()
        await client.join()
        wire = await upgrade(case, client)
        for frame in sent:
            await wire.send(frame)
            await wire.frame()
        await wire.close()
        await client.post('42/messages,1["echo",5]')
        while (frame := await client.frame()) == "6":
            pass
        assert frame == "43/messages,1[5]"
        await client.close()
    nothing_left(case)
    assert len(lines(events, "transport.upgrade_failed")) == 1
    assert lines(events, "transport.upgraded") == []
    assert lines(events, "connection.closed")[0]["transport"] == "polling"


@pytest.mark.parametrize("first", ["5", "2", "3probe", '40/messages,{"token":"x"}'])
async def test_a_probe_that_is_none_is_no_upgrade(first: str) -> None:
    with capture_events() as events:
        case = guarded()
        client = await Polling(case.app).open()
        wire = await upgrade(case, client)
        await wire.send(first)
        await asyncio.wait_for(asyncio.shield(wire._task), 5)  # type: ignore[arg-type]
        await client.join()
        assert case.guard.connections()[0].transport == "polling"
        await client.close()
    nothing_left(case)
    assert lines(events, "transport.upgraded") == []
    assert len(lines(events, "transport.upgrade_failed")) == 1


@pytest.mark.parametrize("frame", ["hello", "", "٤0", "2prob", "5x"])
async def test_garbage_in_an_upgrade_ends_it(frame: str) -> None:
    case = guarded()
    client = await Polling(case.app).open()
    wire = await upgrade(case, client)
    await wire.send(frame)
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 1003
    await wire.close()
    await client.post("1")
    nothing_left(case)


async def test_a_session_that_has_ended_takes_no_more_posts() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    session = case.seam.session(client.sid)
    assert session is not None
    session.ending = "kicked"
    assert (await client.post(connect_packet())).json["code"] == "session_unknown"
    nothing_left(case)


async def test_ending_a_session_that_is_not_there_does_nothing() -> None:
    case = guarded()
    await case.seam.end_session("nobody", "kicked")
    nothing_left(case)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_session_is_ended_with_its_reason(transport: str) -> None:
    with capture_events() as events:
        case = guarded()
        if transport == "polling":
            client: Any = await Polling(case.app).open()
            await client.join()
        else:
            client, _ = await joined_wire(case.app)
        (eio_sid,) = case.server.eio.sockets
        await case.seam.end_session(eio_sid, "kicked")
        await case.seam.end_session(eio_sid, "too late")
        await client.close()
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["kicked"]
    nothing_left(case)


# Wrong paths


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"Not ", "more_body": True})
        await send({"type": "http.response.body", "body": b"found"})
    else:
        await send({"type": "websocket.close"})


@pytest.mark.parametrize("inner", ["alone", "starlette", "own"])
async def test_a_socket_io_client_on_a_wrong_path_is_told_so(inner: str) -> None:
    from starlette.applications import Starlette

    other = {"alone": None, "starlette": Starlette(), "own": _not_found}[inner]
    with capture_events() as events:
        server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
        app = SocketGuard(socketio.ASGIApp(server, other_asgi_app=other), auth=make_auth(), logger=False)
        answer = await http(app, "GET", OPEN, path="/ws/")
        assert (answer.status, answer.json["code"]) == (404, "wrong_path")
        with pytest.raises(Refused) as refused:
            wire = Wire(app, path="/ws/")
            await wire.open()
        assert refused.value.status == 404
        await wire.close()
    for line in lines(events, "handshake.rejected"):
        assert "'/ws/'" in line["hint"]
        assert "'/socket.io/'" in line["hint"]


async def test_other_requests_are_not_touched() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        status = int(scope["path"].strip("/"))
        await send({"type": "http.response.start", "status": status, "headers": [(b"x", b"1")]})
        await send({"type": "http.response.body", "body": b"mine"})

    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    guard = SocketGuard(app, server=server, auth=make_auth(), logger=False)
    for path, query in (("/200/", ""), ("/404/", ""), ("/200/", OPEN), ("/500/", OPEN), ("/403/", OPEN)):
        answer = await http(guard, "GET", query, path=path)
        assert (answer.status, answer.body) == (int(path.strip("/")), b"mine")
    assert (await http(guard, "GET", OPEN, path="/404/")).json["code"] == "wrong_path"


async def test_a_websocket_that_is_somebody_elses_keeps_its_close_code() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 4000})

    with capture_events() as events:
        server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
        guard = SocketGuard(app, server=server, auth=make_auth(), logger=False)
        wire = Wire(guard, path="/other")
        await wire.open()
        assert await wire.frame() == "hello"
        with pytest.raises(ConnectionError):
            await wire.frame()
        assert wire.close_code == 4000
        await wire.close()
    assert lines(events, "handshake.rejected") == []


async def test_two_guards_in_one_application_keep_out_of_each_others_way() -> None:
    first = guarded("/messages")
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    inner = socketio.ASGIApp(server, other_asgi_app=first.app, socketio_path="second")
    outer = SocketGuard(inner, server=server, auth=make_auth(), logger=False)
    with capture_events() as events:
        wire, _ = await joined_wire(outer)
        await wire.send("hello")
        with pytest.raises(ConnectionError):
            await wire.frame()
        assert wire.close_code == 1003
        await wire.close()
        wire = Wire(outer, headers={"origin": "https://evil.example"})
        with pytest.raises(Refused) as refused:
            await wire.open()
        assert refused.value.data["code"] == "origin_not_allowed"
        await wire.close()
        assert (await http(outer, "GET", f"{OPEN}&sid=x")).json["code"] == "session_unknown"
        assert (await http(outer, "GET", OPEN, path="/nowhere/")).json["code"] == "wrong_path"
    assert [line["reason"] for line in lines(events, "handshake.rejected")] == [
        "origin_not_allowed",
        "session_unknown",
        "wrong_path",
    ]
    nothing_left(first)


async def test_a_path_that_is_not_known_is_said_to_be_unknown() -> None:
    with capture_events() as events:
        server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
        guard = SocketGuard(_not_found, server=server, auth=make_auth(), logger=False)
        await http(guard, "GET", OPEN, path="/x/")
    assert "unknown to the guard" in lines(events, "handshake.rejected")[0]["hint"]


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


async def test_what_is_held_by_a_session_that_only_waits() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    assert set(held(case)) == {"environ", "sockets"}
    await client.close()
    assert json.dumps(sorted(held(case))) == "[]"


async def test_a_session_that_joins_while_a_body_arrives_gets_none_of_it_cut_off() -> None:
    case = guarded()
    client = await Polling(case.app).open()
    received = 0

    async def joining_meanwhile(scope: Any, receive: Any, send: Any) -> None:
        async def slow() -> Any:
            nonlocal received
            received += 1
            if received == 2:
                await client.join()
            return await receive()

        await case.app(scope, slow, send)

    body = [b'42/messages,["echo","', b"x" * 20_000 + b'"]']
    answer = await http(joining_meanwhile, "POST", client.query, body)
    # It was too large when it began; half of it must never be taken for all.
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    nothing_left(case)
