"""Whatever bytes arrive: no exception leaves the guard, nobody is accepted, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from socketguard.testing import mint
from tests.scripted import Client, Guarded, Socket, connect_packet, guarded, http, open_wire, within

EXAMPLES = settings(max_examples=60)

any_text = st.text(st.characters(exclude_categories=[]), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(any_text, children, max_size=4),
    max_leaves=12,
)
token_like = st.sampled_from(["", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "Bearer x", "\ud800", "x" * 9000]) | any_text
auth_payloads = json_values | st.dictionaries(
    st.sampled_from(["token", "access_token", "authorization", "Token", "x"]), token_like | json_values, max_size=3
)
prefixes = st.sampled_from(
    ["", "4", "40", "40/", "40/messages", "40/messages,", "40/messages?x,", "41/messages,", "42", "42/messages,"]
) | st.sampled_from(
    [
        "42/messages,1",
        "43/messages,1",
        "44",
        "451-",
        "460-",
        "4٠",
        "4\x1e",
        "2probe",
        "0",
        "1",
        "3",
        "5",
        "6",
        "b",
        "b4",
    ]
)
text_frames = st.builds(lambda prefix, value: prefix + json.dumps(value), prefixes, json_values) | st.builds(
    str.__add__, prefixes, any_text
)
frames = text_frames | st.binary(max_size=40)
packets = st.fixed_dictionaries(
    {},
    optional={
        "type": st.integers(-1, 8) | st.sampled_from([0.0, False, True, "0", None, []]),
        "nsp": st.sampled_from(["/messages", "/", "", None, 0, "/other"]) | any_text | json_values,
        "data": auth_payloads,
        "id": json_values,
    },
)


def observed(**options: Any) -> tuple[Guarded, list[str]]:
    """A guarded server that notes every call of a handler."""
    called: list[str] = []

    def prepare(server: Any) -> None:
        for namespace in ("/messages", "/"):
            server.on("connect", lambda sid, environ, auth: called.append("connect"), namespace=namespace)
            server.on("*", lambda event, sid, *args: called.append(event), namespace=namespace)
            server.on("disconnect", lambda sid, reason: called.append("disconnect"), namespace=namespace)

    return guarded("/messages", "/", prepare=prepare, **options), called


def nobody(case: Guarded, called: list[str]) -> None:
    assert called == []
    assert not case.server.manager.rooms
    assert not case.guard.connections()


async def send_all(wire: Socket, sent: list[str | bytes]) -> None:
    for frame in sent:
        await wire.send(frame)
    await wire.close()  # raises what the application raised


@EXAMPLES
@given(sent=st.lists(frames, max_size=6))
@example(sent=["4٠/messages,{}"])
@example(sent=["1", connect_packet()])
async def test_any_frames_of_a_stranger(sent: list[str | bytes]) -> None:
    if connect_packet() in sent and "1" not in sent:
        return
    case, called = observed()
    wire = await open_wire(case.app)
    await send_all(wire, sent)
    nobody(case, called)


@EXAMPLES
@given(sent=st.lists(packets | st.binary(max_size=30), max_size=5))
@example(sent=[{"type": 5, "nsp": [None]}])
async def test_any_msgpack_of_a_stranger(sent: list[Any]) -> None:
    case, called = observed(server_options={"serializer": "msgpack"})
    wire = await open_wire(case.app)
    encoded: list[str | bytes] = []
    for packet in sent:
        with contextlib.suppress(UnicodeEncodeError, OverflowError, ValueError):
            encoded.append(packet if isinstance(packet, bytes) else msgpack.dumps(packet))
    await send_all(wire, encoded)
    nobody(case, called)


@EXAMPLES
@given(bodies=st.lists(st.lists(text_frames, max_size=4) | st.binary(max_size=40), max_size=5))
async def test_any_bodies_of_a_stranger(bodies: list[Any]) -> None:
    case, called = observed()
    client = await Client(case.app, "polling").open()
    for body in bodies:
        raw = body if isinstance(body, bytes) else "\x1e".join(body).encode("utf-8", "surrogatepass")
        answer = await http(case.app, "POST", client.query, raw)
        assert answer.status in (200, 400, 413)
    nobody(case, called)
    await client.close()


@EXAMPLES
@given(payload=auth_payloads, polling=st.booleans())
@example(payload={"token": "\ud800"}, polling=False)
@example(payload={"token": 10**400}, polling=True)
@example(payload={"token": float("nan")}, polling=False)
async def test_any_auth_payload(payload: Any, polling: bool) -> None:
    case, called = observed()
    packet = f"40/messages,{json.dumps(payload)}"
    if polling:
        client = await Client(case.app, "polling").open()
        await client.post(packet)
        await client.close()
    else:
        wire = await open_wire(case.app)
        await send_all(wire, [packet])
    nobody(case, called)


@EXAMPLES
@given(depth=st.integers(1, 8000), kind=st.sampled_from(["[", '{"a":', '[{"a":']), closed=st.booleans())
async def test_any_depth(depth: int, kind: str, closed: bool) -> None:
    case, called = observed()
    closing = "".join({"[": "]", "{": "}"}[letter] for letter in reversed(kind) if letter in "[{")
    wire = await open_wire(case.app)
    await send_all(wire, ['40/messages,{"token":' + kind * depth + "1" + (closing * depth + "}" if closed else "")])
    nobody(case, called)


header_names = st.sampled_from(
    ["origin", "host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "authorization"]
) | st.sampled_from(
    ["upgrade", "connection", "content-length", "user-agent", "sec-websocket-protocol", "transfer-encoding"]
)
headers = st.lists(st.tuples(header_names.map(str.encode), st.binary(max_size=30)), max_size=8)
queries = st.binary(max_size=40) | st.lists(
    st.tuples(
        st.sampled_from(["EIO", "transport", "sid", "j", "t", "b64"]),
        st.sampled_from(["4", "3", "polling", "websocket", "x", "0", ""]) | any_text,
    ),
    max_size=6,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode("utf-8", "surrogatepass"))


@EXAMPLES
@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS", "PUT", "HEAD", "get"]),
    query=queries,
    sent=headers,
    body=st.binary(max_size=30),
    origins=st.sampled_from([None, "*", ["https://a.example"]]),
    trusted=st.booleans(),
)
async def test_any_http_request(
    method: str, query: bytes, sent: list[tuple[bytes, bytes]], body: bytes, origins: Any, trusted: bool
) -> None:
    case, called = observed(allowed_origins=origins, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"] if trusted else [])
    text = query.decode("utf-8", "surrogateescape")
    answer = await http(case.app, method, text, [body], headers=sent)
    assert 200 <= answer.status < 500
    nobody(case, called)


@EXAMPLES
@given(query=queries, sent=headers, origins=st.sampled_from([None, "*"]), extension=st.booleans())
async def test_any_websocket_handshake(
    query: bytes, sent: list[tuple[bytes, bytes]], origins: Any, extension: bool
) -> None:
    case, called = observed(allowed_origins=origins)
    wire = Socket(case.app)
    wire.scope["query_string"] = query
    wire.scope["headers"] = sent
    if not extension:
        wire.scope["extensions"] = {}
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1005}]
    outgoing: list[str] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        outgoing.append(message["type"])

    await within(case.app(wire.scope, receive, send))
    assert outgoing[0] in ("websocket.accept", "websocket.close", "websocket.http.response.start")
    nobody(case, called)


@EXAMPLES
@given(sent=st.lists(frames, max_size=6), asynchronous=st.booleans())
async def test_any_frames_of_a_member(sent: list[str | bytes], asynchronous: bool) -> None:
    case, called = observed(server_options={"async_handlers": asynchronous})
    wire = await open_wire(case.app)
    await wire.send(connect_packet())
    await wire.frame()
    await send_all(wire, sent)
    # However it went, it came once and it left once, and its own packets did not call those handlers.
    assert called.count("connect") == called.count("disconnect") == 1
    assert called[0] == "connect"


@EXAMPLES
@given(sent=st.lists(packets, max_size=5))
async def test_any_msgpack_of_a_member(sent: list[Any]) -> None:
    case, called = observed(server_options={"serializer": "msgpack"})
    wire = await open_wire(case.app)
    encoded: list[str | bytes] = [msgpack.dumps({"type": 0, "nsp": "/messages", "data": {"token": mint()}})]
    for packet in sent:
        with contextlib.suppress(UnicodeEncodeError, OverflowError, ValueError):
            encoded.append(msgpack.dumps(packet))
    await wire.send(encoded[0])
    await wire.frame()
    await send_all(wire, encoded[1:])
    assert called.count("connect") == called.count("disconnect")
    assert called[0] == "connect"
