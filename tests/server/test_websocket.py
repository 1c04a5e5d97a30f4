"""WebSockets: frames, what they may hold, how they close, and upgrades from polling."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgpack
import pytest

from tests.scripted import (
    Client,
    Events,
    Socket,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    serializer,
    until,
)

# Frames


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_frame_of_a_stranger_above_16_kib_ends_the_session(extra: int) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    frame = connect_packet()[:-1]
    await wire.send(frame + " " * (16_383 - len(frame) + extra) + "}")
    if extra:
        assert await wire.closed() == ([], 1009)
    else:
        assert str(await wire.frame()).startswith('40/messages,{"sid":')


@pytest.mark.parametrize(("size", "code"), [(1, 1003), (16_384, 1003), (16_385, 1009)])
async def test_a_binary_frame_of_a_stranger_ends_the_session(size: int, code: int) -> None:
    case = guarded()
    wire = await open_wire(case.app, bytes(size))
    assert await wire.closed() == ([], code)


async def test_a_packet_of_a_stranger_with_many_values_is_refused_undecoded() -> None:
    case = guarded(server_options=serializer("msgpack"))
    packet = msgpack.dumps({"type": 0, "nsp": "/messages", "data": {"a": [[]] * 600}})
    client = await Client(case, "polling").open()
    answer = await client.post("b" + base64.b64encode(packet).decode())
    assert answer.json["code"] == "body_malformed"
    wire = await open_wire(case.app, packet)
    assert await wire.closed() == ([], 1003)


async def test_a_frame_of_a_member_above_the_servers_limit_ends_the_session_with_a_line(events: Events) -> None:
    case = guarded(server_options={"max_http_buffer_size": 20_000})
    wire, _ = await joined_wire(case.app)
    await wire.send('42/messages,["echo","' + "x" * 19_000 + '"]')
    await wire.send('42/messages,["echo","' + "x" * 20_000 + '"]')
    assert await wire.closed() == ([], 1009)
    await wire.close()
    (line,) = lines(events, "packet.rejected")
    assert line["reason"] == "packet_too_large"


async def test_a_member_that_left_its_last_namespace_is_a_stranger_again() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await wire.send("41/messages,")
    await wire.send("4" + "2" * 20_000)
    assert await wire.closed() == ([], 1009)


async def test_a_frame_without_text_or_bytes_ends_the_session() -> None:
    case = guarded()
    wire = await open_wire(case.app)
    wire.put("websocket.receive")
    with pytest.raises(ConnectionError):
        await wire.frame()


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
async def test_a_close_frame_that_can_not_be_sent_harms_nobody(error: type[BaseException]) -> None:
    case = guarded()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def failing(message: Any) -> None:
            if message["type"] == "websocket.close":
                raise error("gone")
            await send(message)

        await case.app(scope, receive, failing)

    await open_wire(app, "hello")


async def test_a_websocket_whose_peer_can_not_be_written_to_leaves_nothing() -> None:
    case = guarded()
    wire = Socket(case.app)
    events = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        raise OSError("gone")

    await case.app(wire.scope, receive, send)


# Upgrades


async def test_polling_then_upgrade(events: Events) -> None:
    case = guarded()
    client, sid = await joined_client(case, kind="polling")
    wire = await client.probe()
    await wire.send("5")
    await wire.send('42/messages,1["echo",5]')
    while (frame := await wire.frame()) == "6":
        pass
    assert frame == "43/messages,1[5]"
    assert case.guard.connections()[0].transport == "websocket"
    assert (await client.post("3")).status == 400
    await wire.close()
    (upgraded,) = lines(events, "transport.upgraded")
    (accepted,) = lines(events, "connection.accepted")
    (closed,) = lines(events, "connection.closed")
    assert upgraded["session"] == accepted["session"]
    assert (accepted["transport"], closed["transport"], closed["sid"]) == ("polling", "websocket", sid)
    assert lines(events, "transport.upgrade_failed") == []


async def test_an_upgrade_before_anybody_joined_knows_its_session(events: Events) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    wire = await client.probe()
    await wire.send("5")
    await until(lambda: lines(events, "transport.upgraded"))
    await wire.send(connect_packet())
    while str(frame := await wire.frame()) == "6":
        pass
    assert str(frame).startswith("40/messages")
    await wire.close()
    assert lines(events, "transport.upgraded")[0]["session"]


@pytest.mark.parametrize("sent", [[], ["2probe"]])
async def test_an_upgrade_that_is_cut_leaves_the_polling_session_as_it_was(sent: list[str], events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await Socket(case.app, query=f"&sid={client.sid}").open()
    for frame in sent:
        await wire.send(frame)
        await wire.frame()
    await wire.close()
    await client.post('42/messages,1["echo",5]')
    while (frame := await client.frame()) == "6":
        pass
    assert frame == "43/messages,1[5]"
    await client.close()
    assert len(lines(events, "transport.upgrade_failed")) == 1
    assert lines(events, "transport.upgraded") == []
    assert lines(events, "connection.closed")[0]["transport"] == "polling"


@pytest.mark.parametrize("first", ["5", "2", "3probe", '40/messages,{"token":"x"}'])
async def test_a_probe_that_is_none_is_no_upgrade(first: str, events: Events) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    wire = await Socket(case.app, query=f"&sid={client.sid}").open()
    await wire.send(first)
    assert wire.task is not None
    await wire.task
    await client.join()
    assert case.guard.connections()[0].transport == "polling"
    await client.close()
    assert lines(events, "transport.upgraded") == []
    assert len(lines(events, "transport.upgrade_failed")) == 1


@pytest.mark.parametrize("frame", ["hello", "", "٤0", "2prob", "5x"])
async def test_garbage_in_an_upgrade_ends_it(frame: str) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    wire = await Socket(case.app, query=f"&sid={client.sid}").open()
    await wire.send(frame)
    assert await wire.closed() == ([], 1003)
    await wire.close()
    await client.post("1")
