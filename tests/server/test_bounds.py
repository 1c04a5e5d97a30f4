"""What one session can make the server hold or do is bounded, whatever it sends, over each transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketguard.server.dispatch import MOST_ATTACHMENTS
from socketguard.server.incoming import MOST_EVENT_BYTES, MOST_EVENTS
from socketguard.server.socket import MOST_PACKETS
from tests.scripted import (
    Client,
    Clock,
    Events,
    Guarded,
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
HEADER = '1-/messages,["x",{"_placeholder":true,"num":0}]'


# One message


@pytest.mark.parametrize("announced", ["1000000000", str(MOST_ATTACHMENTS + 1)])
@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_more_attachments_than_a_message_may_have(kind: str, announced: str, events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind=kind)
    await client.send(f'45{announced}-/messages,["x",{{"_placeholder":true,"num":0}}]')
    await until(lambda: not case.server.eio.sockets)
    assert lines(events, "packet.rejected", reason="packet_malformed")
    assert not case.server._binary_packet


async def test_more_bytes_than_a_message_may_have(events: Events) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await wire.send('4520-/messages,["x",{"_placeholder":true,"num":0}]')
    for _ in range(10):
        await wire.send(b"\0" * 990_000)
    assert (await wire.closed())[1] == 1003
    assert lines(events, "packet.rejected")


async def test_a_text_in_the_place_of_an_attachment_ends_the_session() -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await wire.send("45" + HEADER)
    await wire.send('42/messages,["echo",1]')
    assert (await wire.closed())[1] == 1003


async def test_a_message_with_attachments_is_one_message() -> None:
    sizes: list[int] = []
    case = guarded(handlers={"x": lambda sid, data: sizes.append(len(data))})
    wire, _ = await joined_wire(case.app)
    for _ in range(12):
        await wire.send("45" + HEADER)
        await wire.send(b"\0" * 900_000)
    await until(lambda: len(sizes) == 12)
    await wire.close()


# Packets that mean nothing


@pytest.mark.parametrize("packet", ["5", "3"])
@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_what_means_nothing_leaves_nothing(kind: str, packet: str) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind=kind)
    for _ in range(20):
        await client.send(*[packet] * 16)
    await rest()
    (socket,) = case.server.eio.sockets.values()
    assert socket.waiting == []
    assert await client.alive()


@pytest.mark.parametrize("packet", ["2", "0", "6"])
async def test_a_websocket_is_not_ended_for_a_packet_that_clients_do_not_send(packet: str) -> None:
    wire, _ = await joined_wire(guarded().app)
    await wire.send(packet)
    assert await wire.alive()


# Requests


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_two_requests_at_once_end_the_session(method: str, events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    task, first = await client.begin(method, *[b"4"] * (method == "POST"))
    second = await http(case.app, method, client.query, b"3")
    assert (second.status, second.json["code"]) == (400, "requests_overlap")
    await task
    if method == "GET":
        assert first.answer.body == b"1"
    else:
        assert first.answer.status == 400
    assert not case.server.eio.sockets
    assert lines(events, "connection.closed")[0]["reason"] == "transport error"
    assert lines(events, "handshake.rejected", reason="requests_overlap")


async def test_of_two_upgrades_the_second_is_closed_and_the_first_goes_on() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    first = await client.probe()
    for _ in range(50):
        second = await Socket(case.app, query=f"&sid={client.sid}").open()
        assert (await second.closed())[1] == 1000
    gone = Socket(case.app, query=f"&sid={client.sid}")
    gone.put("websocket.disconnect", code=1006)
    gone.start()
    assert gone.task is not None
    await gone.task
    assert await client.poll() == ["6"]
    await first.send("5")
    client.wire = first
    assert await client.alive()
    third = await Socket(case.app, query=f"&sid={client.sid}").open()
    assert (await third.closed())[1] == 1000
    assert await client.alive()


@pytest.mark.parametrize("stage", ["opened", "probed"])
async def test_an_unfinished_upgrade_ends_with_its_session(stage: str, clock: Clock) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await Socket(case.app, query=f"&sid={client.sid}").open()
    if stage == "probed":
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
    assert (await client.post("1")).status == 200
    await until(lambda: not case.server.eio.sockets)
    clock.passes(2)
    assert (await wire.closed())[1] in (1000, None)
    await until(lambda: wire.task is None or wire.task.done())


async def test_an_upgrade_that_is_stuck_is_given_up(clock: Clock, events: Events) -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await Socket(case.app, query=f"&sid={client.sid}").open()
    # What was opened only is no upgrade yet: polls wait as ever.
    poll = await client.waiting()
    clock.passes(10)
    assert (await wire.closed())[1] == 1003
    (line,) = lines(events, "transport.upgrade_failed")
    assert "not finished after 10 s" in line["hint"]
    await case.server.emit("news", 1, namespace=NS)
    assert await poll == ['42/messages,["news",1]']
    assert await client.alive()


async def test_a_probe_may_come_twice() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await client.probe()
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    # A poll in between waits for a moment, and brings what there is: the WebSocket may never come about.
    assert await client.poll() == ["6"]
    await case.server.emit("news", 1, namespace=NS)
    assert await client.poll() == ['42/messages,["news",1]']
    await case.server.emit("news", 2, namespace=NS)
    await wire.send("5")
    client.wire = wire
    assert await client.frame() == '42/messages,["news",2]'


async def test_a_poll_whose_session_is_upgraded_meanwhile_is_refused() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = await client.probe()
    poll = asyncio.ensure_future(client.http("GET"))
    await asyncio.sleep(0)
    await wire.send("5")
    assert (await poll).json["code"] == "session_upgraded"
    client.wire = wire
    assert await client.alive()


# Events under way


async def hung(case: Guarded, kind: str) -> tuple[Client, Any]:
    client, _ = await joined_client(case, kind=kind)
    (session,) = [socket.record for socket in case.server.eio.sockets.values()]
    return client, session


@pytest.mark.parametrize("many", [True, False])
async def test_only_so_many_events_are_handled_at_once(many: bool, clock: Clock) -> None:
    running: list[int] = []
    release = asyncio.Event()

    async def slow(sid: str, data: str) -> None:
        running.append(len(data))
        await release.wait()

    case = guarded(handlers={"slow": slow}, server_options={"ping_interval": 3, "ping_timeout": 2})
    client, session = await hung(case, "websocket")
    size = 10 if many else 900_000
    count = MOST_EVENTS + 50 if many else 14
    for _ in range(count):
        await client.send('42/messages,["slow","' + "x" * size + '"]')
    await until(lambda: session.room is not None)
    await rest()
    assert len(running) <= MOST_EVENTS + 1
    assert sum(running) <= MOST_EVENT_BYTES + 1_000_000
    # It isn't read from, so that it can't be silent.
    for _ in range(5):
        clock.passes(3)
        await rest()
    assert not session.ending
    release.set()
    await until(lambda: len(running) == count)
    await until(lambda: not session.handling)
    assert (session.handling_bytes, session.room) == (0, None)
    await client.close()


async def test_a_post_waits_for_room() -> None:
    release = asyncio.Event()
    running: list[str] = []

    async def slow(sid: str, data: str) -> None:
        running.append(data)
        await release.wait()

    case = guarded(handlers={"slow": slow})
    client, session = await hung(case, "polling")
    for _ in range(MOST_EVENTS // 16):
        await client.post(*['42/messages,["slow",1]'] * 16)
    post = asyncio.ensure_future(client.post('42/messages,["slow",1]'))
    await until(lambda: session.room is not None)
    assert not post.done()
    release.set()
    assert (await post).status == 200
    assert len(running) == MOST_EVENTS + 1


async def test_a_session_that_waits_for_room_may_end() -> None:
    case = guarded(handlers={"slow": lambda sid: asyncio.Event().wait()})
    case.leaves = True  # Its handlers never end.
    client, session = await hung(case, "websocket")
    for _ in range(MOST_EVENTS + 5):
        await client.send('42/messages,["slow"]')
    await until(lambda: session.room is not None)
    assert await case.guard.drain(0) == 1
    assert client.wire is not None
    assert (await client.wire.closed())[1] == 1012


async def test_events_that_are_handled_in_turn_need_no_tasks() -> None:
    order: list[int] = []

    async def slow(sid: str, number: int) -> int:
        await asyncio.sleep(0)
        order.append(number)
        return number

    case = guarded(handlers={"slow": slow}, server_options={"async_handlers": False})
    wire, _ = await joined_wire(case.app)
    for number in range(5):
        await wire.send(f'42/messages,{number}["slow",{number}]')
    assert [await wire.frame() for _ in range(5)] == [f"43/messages,{number}[{number}]" for number in range(5)]
    assert order == list(range(5))
    await wire.close()


# What waits


async def test_so_many_packets_are_too_many_however_small(clock: Clock) -> None:
    case = guarded()
    await joined_client(case, kind="polling")
    for _ in range(MOST_PACKETS + 1):
        await case.server.eio.send(case.eio_sid, "2/messages,[1]")
    clock.passes(5)
    await until(lambda: not case.server.eio.sockets)


# Pings


@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_pings_come_and_who_is_silent_is_ended(kind: str, clock: Clock, events: Events) -> None:
    case = guarded(server_options={"ping_interval": 3, "ping_timeout": 2})
    client, _ = await joined_client(case, kind=kind)
    for _ in range(3):
        clock.passes(3)
        packet = str(await client.wire.message() if client.wire else (await client.poll())[0])
        assert "2" in packet
        await client.send("3")
        await rest()
    clock.passes(3)
    await rest()
    clock.passes(2.1)
    if kind == "polling":
        # It asks just before anybody has looked.
        assert (await client.http("GET")).status in (200, 400)
    await until(lambda: not case.server.eio.sockets)
    (closed,) = lines(events, "connection.closed")
    assert closed["reason"] == "ping timeout"


async def test_a_loop_that_stood_is_nobodys_fault(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    case = guarded(server_options={"ping_interval": 0.2, "ping_timeout": 0.3}, connect_timeout=0.6)
    wire, _ = await joined_wire(case.app)
    stranger = await open_wire(case.app)
    await until(lambda: any(socket.pinged for socket in case.server.eio.sockets.values()))
    time.sleep(1.6)  # noqa: ASYNC251 - what a handler does that should not
    await until(lambda: lines(events, "loop_blocked"))
    (line,) = lines(events, "loop_blocked")
    assert line["blocked_s"] >= 1
    assert len(case.server.eio.sockets) == 2
    assert await wire.alive()
    for each in (wire, stranger):
        await each.close()


# Acknowledgements and sessions of the one before


async def test_an_acknowledgement_of_whom_it_is_over_reaches_nobody() -> None:
    pause = Pause()
    answers: list[Any] = []
    case = guarded(handlers={"disconnect": lambda *_: pause.wait()})
    wire, sid = await joined_wire(case.app)
    await case.server.emit("ask", to=sid, namespace=NS, callback=lambda *args: answers.append(args))
    assert await wire.frame() == '42/messages,1["ask"]'
    kicking = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    await pause.entered.wait()
    await wire.send('43/messages,1["late"]')
    await rest()
    pause.release.set()
    await kicking
    assert answers == []
    await wire.close()


async def test_the_session_data_of_the_one_before_is_gone() -> None:
    case = guarded()
    wire, sid = await joined_wire(case.app)
    await case.server.save_session(sid, {"admin": True}, namespace=NS)
    assert await case.guard.disconnect(sid=sid) == 1
    assert await wire.frame() == "41/messages,"
    again = await wire.join()
    assert await case.server.get_session(again, namespace=NS) == {}
    await wire.close()


async def test_who_comes_back_while_it_leaves_is_let_in_afterwards() -> None:
    pause = Pause()
    case = guarded(handlers={"disconnect": lambda *_: pause.wait()})
    wire, sid = await joined_wire(case.app)
    kicking = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    await pause.entered.wait()
    assert await wire.frame() == "41/messages,"
    await wire.send(connect_packet())
    await rest()
    assert wire.outbox.empty()
    pause.release.set()
    await kicking
    assert str(await wire.frame()).startswith("40/messages,")
    assert len(case.guard.connections()) == 1
    await wire.close()


@pytest.mark.parametrize("kind", ["websocket", "polling"])
async def test_a_client_may_leave_before_it_is_answered(kind: str, events: Events) -> None:
    pause = Pause()
    case = guarded(handlers={"connect": pause.wait})
    client = await Client(case, kind).open()
    await client.send(connect_packet())
    await pause.entered.wait()
    await client.send("41/messages,")
    await until(lambda: lines(events, "connection.closed"))
    pause.release.set()
    await rest()
    assert not case.server.manager.rooms
    assert await client.join()


async def test_what_follows_a_packet_that_ends_the_session_is_not_taken() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    answer = await client.post('42/messages,["x"', '42/messages,1["echo",1]')
    assert (answer.status, answer.json["code"]) == (400, "session_unknown")
    assert not case.server.eio.sockets
