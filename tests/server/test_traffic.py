"""What the guard tells about sessions as a whole, and about emits of processes without clients."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import socketio

from socketguard.connection import Session
from socketguard.diagnosis.traffic import Patterns, Told
from socketguard.logs.floods import Floods
from socketguard.server.engine import Engine
from socketguard.testing import Refused
from tests.scripted import (
    OPEN,
    UNLIMITED,
    Client,
    Events,
    Socket,
    guarded,
    http,
    joined_wire,
    lines,
    open_wire,
    until,
)


class Recorder(Patterns):
    """Keeps what it is fed."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.asked = 0
        super().__init__(interval=25, timeout=20)

    def opened(self, session: Session) -> None:
        self.seen.append(("opened", session.client_address))

    def closed(self, session: Session, *, pinged: bool, now: float | None = None) -> None:
        reason = session.ending or session.left_by or "transport close"
        self.seen.append(("closed", reason, session.transport, pinged, session.client_address))

    def upgraded(self) -> None:
        self.seen.append(("upgraded",))

    def upgrade_failed(self) -> None:
        self.seen.append(("upgrade_failed",))

    def unknown_session(self, issued_here: bool) -> None:
        self.seen.append(("unknown_session", issued_here))

    def due(self, now: float) -> list[Told]:
        self.asked += 1
        return [("same_idle_age", True, {"text": "cut after 60 s", "fix": "raise it", "cuts": 9})]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr("socketguard.guard.Patterns", lambda *_, **__: found)
    return found


async def test_sessions_are_told_as_they_come_and_go(recorder: Recorder) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await wire.close()
    client = await Client(case.app, "polling").open()
    await client.close()
    assert recorder.seen == [
        ("opened", "127.0.0.1"),
        ("closed", "transport close", "websocket", False, "127.0.0.1"),
        ("opened", "127.0.0.1"),
        ("closed", "client disconnect", "polling", False, "127.0.0.1"),
    ]


async def test_upgrades_are_told(recorder: Recorder) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    cut = Socket(case.app, query=f"&sid={client.sid}")
    await cut.open()
    await cut.close()
    wire = Socket(case.app, query=f"&sid={client.sid}")
    await wire.open()
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    assert await client.poll() == ["6"]
    await wire.send("5")
    await until(lambda: ("upgraded",) in recorder.seen)
    await wire.close()
    assert [entry[0] for entry in recorder.seen] == ["opened", "upgrade_failed", "upgraded", "closed"]


async def test_a_session_that_nobody_knows_counts_once(recorder: Recorder, events: Events) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    await client.close()
    elsewhere = Engine(socketio.AsyncServer(async_mode="asgi"), None).new_id()
    for sid in (client.sid, elsewhere, "made-up"):
        for method in ("GET", "POST"):
            answer = await http(case.app, method, f"EIO=4&transport=polling&sid={sid}", b"3")
            assert answer.json["code"] == "session_unknown"
    unknown = [entry for entry in recorder.seen if entry[0] == "unknown_session"]
    assert unknown == [("unknown_session", True), ("unknown_session", False), ("unknown_session", False)]
    details = [event["detail"] for event in lines(events, "handshake.rejected")]
    assert details[0] == "session_ended"
    # This process has only just begun: it may have been the one before it.
    assert set(details[2:]) == {"session_before_restart"}


def test_ids_are_known_again_by_whoever_made_them() -> None:
    ids, others = (Engine(socketio.AsyncServer(async_mode="asgi"), None) for _ in range(2))
    made = {ids.new_id() for _ in range(100)}
    assert len(made) == 100
    assert {len(sid) for sid in made} == {20}
    assert all(ids.issued(sid) for sid in made)
    assert not any(others.issued(sid) for sid in made)
    strange = ["", "x", "made-up", "é" * 20, "A" * 20, "A" * 24, f"{made.pop()}==", f"{made.pop()}AAAA"]
    assert not any(ids.issued(sid) for sid in strange)


async def test_patterns_are_asked_again_and_again_and_told_with_their_evidence(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.001)
    case = guarded()
    wire, _ = await joined_wire(case.app)
    await until(lambda: recorder.asked >= 3)
    await wire.close()
    case.guard.detach()
    asked = recorder.asked
    await asyncio.sleep(0.01)
    assert recorder.asked == asked
    line = lines(events, "traffic.pattern")[0]
    assert (line["level"], line["pattern"], line["stands"]) == ("warning", "same_idle_age", True)
    assert (line["text"], line["fix"], line["cuts"]) == ("cut after 60 s", "raise it", 9)


async def test_patterns_count_by_the_second_however_much_is_due(recorder: Recorder) -> None:
    case = guarded(limits=UNLIMITED)
    peers = [await Client(case).open() for _ in range(20)]
    for peer in peers:
        await peer.join()
    begun = time.monotonic()
    await case.guard.disconnect(subject="user-1")
    assert recorder.asked <= 2 + (time.monotonic() - begun) / 0.9
    for peer in peers:
        await peer.close()


async def test_a_guard_that_was_taken_off_looks_at_nothing_more(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.001)
    case = guarded()
    case.guard.detach()
    # Its middleware is still there.
    assert (await http(case.app, "GET", OPEN, path="/elsewhere/")).status == 404
    await asyncio.sleep(0.01)
    assert recorder.asked == 0


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_what_a_function_of_the_application_refuses_is_told_as_well_when_its_time_comes(
    transport: str, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.001)
    monkeypatch.setattr("socketguard.guard.Floods", lambda log: Floods(log, burst=1, window=0.05))
    case = guarded(server_options={"cors_allowed_origins": lambda origin, *_: False})
    for _ in range(3):
        headers = {"origin": "https://elsewhere.example"}
        if transport == "http":
            assert (await http(case.app, "GET", OPEN, headers=headers)).status == 403
        else:
            with pytest.raises(Refused):
                await Socket(case.app, headers=headers).open()
    await until(lambda: any("summary" in event for event in events))
    case.guard.detach()
    assert {line["reason"] for line in lines(events, "handshake.rejected")} == {"origin_not_allowed"}


async def test_what_was_held_back_is_told_when_its_time_comes(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.001)
    monkeypatch.setattr("socketguard.guard.Floods", lambda log: Floods(log, burst=1, window=0.05))
    case = guarded()
    for _ in range(3):
        await http(case.app, "GET", "EIO=3&transport=polling")
    await until(lambda: any("summary" in event for event in events))
    case.guard.detach()
    refused = lines(events, "handshake.rejected")
    # A summary stands for those before it; on a slow machine each line may have a window of its own.
    assert sum(event.get("suppressed", 0) + ("summary" not in event) for event in refused) == 3


async def test_emits_of_a_guarded_server_are_looked_at(events: Events) -> None:
    case = guarded()
    wire, _ = await joined_wire(case.app)
    case.guard.watch_delivery()
    await case.server.emit("new", {}, namespace="/message")
    await wire.send('42/messages,["ecco"]')
    await until(lambda: lines(events, "event.unhandled"))
    case.guard.watch_delivery(False)
    assert [line["suggestion"] for line in lines(events, "emit.undelivered")] == ["/messages"]
    assert [line["suggestion"] for line in lines(events, "event.unhandled")] == ["echo"]
    await wire.close()


async def test_a_refused_handshake_names_the_proxies_that_it_came_through(events: Events) -> None:
    headers = {"cf-ray": "8a1b2c3d4e5f-GRU", "x-forwarded-for": "203.0.113.7"}
    answer = await http(guarded().app, "GET", "EIO=3&transport=polling", headers=headers)
    (line,) = lines(events, "handshake.rejected")
    assert (answer.status, line["detail"], line["proxies"]) == (400, "engineio_3", ["cloudflare"])


async def test_a_session_that_the_guard_ends_is_told_with_its_origin(events: Events) -> None:
    case = guarded(connect_timeout=0.01)
    wire = await open_wire(case.app, headers={"origin": "http://testserver"})
    await wire.closed()
    (line,) = lines(events, "session.ended")
    assert (line["reason"], line["origin"]) == ("connect_timeout", "http://testserver")
    await wire.close()


async def test_handlers_that_answer_nothing_are_remembered_within_bounds(
    monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    def prepare(server: Any) -> None:
        async def quiet(sid: str) -> None: ...

        for name in ("one", "two"):
            server.on(name, quiet, namespace="/messages")

    monkeypatch.setattr("socketguard.server.dispatch._REMEMBERED", 1)
    case = guarded(prepare=prepare)
    wire, _ = await joined_wire(case.app)
    for number in range(2):
        for name in ("one", "two"):
            await wire.send(f'42/messages,{number}["{name}"]')
            assert await wire.frame() == f"43/messages,{number}[]"
    assert not lines(events, "event.unhandled")
    await wire.close()
