"""Client: bodies, what they may hold, and polls that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.scripted import (
    Client,
    Events,
    Pause,
    Socket,
    connect_packet,
    guarded,
    http,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    within,
)


@pytest.mark.parametrize("declared", ["5, 5", "-1", "x", "٥", "1" * 16, "", " "])
async def test_a_length_that_no_client_can_mean_is_malformed(declared: str) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    headers = [(b"host", b"testserver"), (b"content-length", declared.encode("utf-8"))]
    answer = await http(case.app, "POST", client.query, b"3", headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "body_malformed")


@pytest.mark.parametrize("how", ["declared", "sent", "chunked", "lie"])
async def test_a_body_of_a_stranger_above_16_kib_is_refused(how: str, events: Events) -> None:
    large = b"4" + b"0" * 16_384
    case = guarded()
    client = await Client(case.app, "polling").open()
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


async def test_a_member_may_send_up_to_max_http_buffer_size() -> None:
    case = guarded(server_options={"max_http_buffer_size": 100_000})
    client, _ = await joined_client(case, kind="polling")
    text = "x" * 50_000
    assert (await client.post(f'42/messages,1["echo","{text}"]')).status == 200
    assert await client.frame() == f'43/messages,1["{text}"]'
    answer = await client.post("4" * 100_001)
    assert answer.status == 413


async def test_a_server_with_a_smaller_limit_keeps_it_for_strangers_too() -> None:
    case = guarded(server_options={"max_http_buffer_size": 100})
    client = await Client(case.app, "polling").open()
    assert (await client.post("4" * 101)).status == 413
    wire = await open_wire(case.app, "4" * 101)
    with pytest.raises(ConnectionError):
        await wire.frame()


async def test_a_body_without_a_length_is_read() -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    packet = connect_packet().encode()
    answer = await http(case.app, "POST", client.query, [packet[:10], packet[10:30], packet[30:]])
    assert answer.status == 200
    assert (await client.frame()).startswith('40/messages,{"sid":')


async def test_a_client_that_goes_within_its_body_is_left_alone() -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    answer = await http(case.app, "POST", client.query, [b"40/mess"], gone=True)
    assert answer.status == 0
    await client.join()


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
        ("4٠".encode(), "body_malformed"),
        *[(packet, "body_malformed") for packet in (b"0", b"2", b"6", b"7", b"b?", b"3\x1e", b"3{}", b"1x", b"5[]")],
        (b"40/a," + b"[" * 513, "body_malformed"),
        (b"\x1e".join([b"40/a," + b"[" * 257] * 2), "body_malformed"),
        (b"\x1e".join([b"3"] * 17), "too_many_packets"),
    ],
)
async def test_a_body_that_python_engineio_would_drop_ends_the_session(body: bytes, reason: str) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    answer = await http(case.app, "POST", client.query, body)
    assert (answer.status, answer.json["code"]) == (400, reason)
    assert (await client.post("3")).json["code"] == "session_unknown"


async def test_sixteen_packets_in_one_body_are_allowed() -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    assert (await client.post(*["3"] * 15, connect_packet())).status == 200
    assert (await client.frame()).startswith('40/messages,{"sid":')


async def test_a_waiting_poll_is_answered_when_the_session_ends() -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    waiting = asyncio.ensure_future(client.poll())
    await asyncio.sleep(0)
    assert (await client.post("hello")).status == 400
    # Python's client would never come back after a CLOSE packet.
    assert await within(waiting) == ["6"]


async def test_a_poll_that_claims_an_upgrade_is_a_poll() -> None:
    # python-engineio would begin to speak WebSocket within an HTTP request.
    case = guarded()
    client = await Client(case.app, "polling").open()
    await client.post(connect_packet())
    frames = await client.poll(
        headers={"host": "testserver", "connection": "keep-alive, Upgrade", "upgrade": "websocket"}
    )
    assert frames[0].startswith('40/messages,{"sid":')


async def test_nobody_ends_a_websocket_session_by_a_post() -> None:
    case = guarded()
    wire, sid = await joined_wire(case.app)
    stranger = Client(case.app, "polling")
    stranger.sid = case.server.manager.eio_sid_from_sid(sid, "/messages")
    for packet in ("garbage", "1", "6", '42/messages,["echo"]'):
        assert (await stranger.post(packet)).status == 400
    assert (await http(case.app, "GET", stranger.query)).status == 400
    second = await Socket(case.app, query=f"&sid={stranger.sid}").open()
    assert await second.closed() == ([], 1000)
    assert await wire.alive()


async def test_a_session_that_joins_while_a_body_arrives_gets_none_of_it_cut_off() -> None:
    pause = Pause()
    case = guarded(handlers={"connect": pause.wait})
    client = await Client(case.app, "polling").open()
    await client.post(connect_packet())
    await pause.entered.wait()
    received = 0

    async def joining_meanwhile(scope: Any, receive: Any, send: Any) -> None:
        async def slow() -> Any:
            nonlocal received
            received += 1
            if received == 2:
                pause.release.set()
                assert str(await client.frame()).startswith("40/messages,")
            return await receive()

        await case.app(scope, slow, send)

    body = [b'42/messages,["echo","', b"x" * 20_000 + b'"]']
    answer = await http(joining_meanwhile, "POST", client.query, body)
    # It was too large when it began; half of it must never be taken for all.
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
