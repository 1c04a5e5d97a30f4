"""A connection ends when its token does: the client is told, and can come back with a fresh one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from socketguard import JWTAuth, NamespacePolicy, current_connection
from socketguard.server.socket import UPGRADE_PATIENCE
from socketguard.testing import TEST_SECRET, make_auth
from tests.scripted import (
    KINDS,
    STYLES,
    Client,
    Clock,
    Events,
    Guarded,
    Pause,
    Socket,
    gone,
    guarded,
    http,
    joined_client,
    lines,
    serializer,
    styled,
    token_at,
    until,
)

LEEWAY = 10
BEFORE_THE_END = 0.25
"""Seconds; exact in binary."""


class Leaving:
    """Disconnect handlers that note who left, and wait when they are told to."""

    def __init__(self) -> None:
        self.left: list[tuple[str, str | None]] = []
        self.hold: set[str] = set()
        self.release = asyncio.Event()

    def __call__(self, *namespaces: str) -> Callable[[Any], None]:
        def prepare(server: Any) -> None:
            for namespace in namespaces:
                server.on("disconnect", self._handler(namespace), namespace=namespace)

        return prepare

    def _handler(self, namespace: str) -> Any:
        async def disconnect(sid: str, *_: Any) -> None:
            connection = current_connection()
            assert (connection.sid, connection.namespace) == (sid, namespace)
            self.left.append((namespace, connection.reason))
            if namespace in self.hold:
                await self.release.wait()

        return disconnect


async def one_joined(
    clock: Clock, lifetime: float = 60, kind: str = "websocket", **options: Any
) -> tuple[Guarded, Client, str]:
    """A client in /messages with a token of so many seconds."""
    case = guarded(auth=make_auth(clock=clock), **options)
    return case, *await joined_client(case, "/messages", token_at(clock, lifetime), kind=kind)


async def both_joined(
    clock: Clock, first: float, second: float, **options: Any
) -> tuple[Guarded, Client, dict[str, str]]:
    """A client in /a and /b, with tokens of so many seconds."""
    case = guarded("/a", "/b", auth=make_auth(clock=clock), expiring_notice=None, **options)
    peer = await Client(case).open()
    sids = {"/a": await peer.join("/a", token_at(clock, first)), "/b": await peer.join("/b", token_at(clock, second))}
    return case, peer, sids


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_is_warned_then_told_and_comes_back_with_a_fresh_token(
    kind: str, clock: Clock, events: Events
) -> None:
    leaving = Leaving()
    case = guarded(prepare=leaving("/messages"), server_options=serializer(kind), auth=make_auth(clock=clock))
    peer, sid = await joined_client(case, "/messages", token_at(clock, 60, jti="first"), kind=kind)

    clock.passes(60 + LEEWAY - 30)
    assert await peer.event("/messages", "socketguard:expiring") == {"in": 30}
    assert await peer.alive()

    clock.passes(30)
    assert await peer.told("/messages", "token_expired") == "refresh"
    assert await peer.closed() == (None if kind == "polling" else 4401)
    await until(lambda: leaving.left)
    assert leaving.left == [("/messages", "token_expired")]
    await gone(case)
    assert len(lines(events, "token.expiring", expires_in_s=30, level="debug", sid=sid)) == 1
    [closed] = lines(events, "connection.closed")
    assert {name: closed[name] for name in ("reason", "sid", "subject", "token_id", "events_in", "level")} == {
        "reason": "token_expired",
        "sid": sid,
        "subject": "user-1",
        "token_id": "first",
        "events_in": 1,
        "level": "info",
    }

    again = await Client(case, kind).open()
    data = await again.refused("/messages", token_at(clock, -LEEWAY))
    assert (data["code"], data["retry"]) == ("token_expired", "refresh")
    if kind != "upgraded":
        assert await again.join("/messages", token_at(clock)) != sid
        assert await again.alive()


@pytest.mark.parametrize("style", STYLES)
async def test_it_ends_at_the_moment_and_not_before(style: str, clock: Clock) -> None:
    seen: list[Any] = []
    case = styled(style, lambda *args: seen.append(args), auth=make_auth(clock=clock), expiring_notice=None)
    peer, _ = await joined_client(case, "/messages", token_at(clock, 60))
    clock.passes(60 + LEEWAY - BEFORE_THE_END)
    assert await peer.alive()
    # The clock has reached it, and no timer has noticed yet: after a jump, that may take half a minute.
    clock.move(BEFORE_THE_END)
    await peer.emit("/messages", "echo", "too late", number=1)
    await peer.emit("/messages", "socketguard:nonsense", number=2)
    clock.passes(0)
    await peer.expired()
    assert seen == [("echo", "hello")]


async def test_while_another_namespace_lives_on_only_the_one_is_disconnected(clock: Clock, events: Events) -> None:
    _, peer, sids = await both_joined(clock, 60, 120)
    clock.passes(60 + LEEWAY)
    assert await peer.told("/a", "token_expired") == "refresh"
    await peer.disconnected("/a")
    assert await peer.alive("/b")
    await until(lambda: lines(events, "connection.closed"))
    assert [(line["reason"], line["sid"]) for line in lines(events, "connection.closed")] == [
        ("token_expired", sids["/a"])
    ]
    assert await peer.join("/a", token_at(clock, 10)) != sids["/a"]
    clock.passes(10 + LEEWAY)
    await peer.sent_away("/a", "token_expired")
    clock.passes(120 + LEEWAY)
    await peer.expired("/b")


@pytest.mark.parametrize(("apart", "together"), [(0, True), (1, True), (2, False), (-1, True)])
async def test_tokens_that_a_page_got_one_after_the_other_end_together(
    apart: int, together: bool, clock: Clock, events: Events
) -> None:
    case, peer, _ = await both_joined(clock, 60, 60 + apart)
    clock.passes(60 + min(apart, 0) + LEEWAY)
    first, second = ("/a", "/b") if apart >= 0 else ("/b", "/a")
    await peer.told(first, "token_expired")
    if together:
        await peer.expired(second)
        await until(lambda: len(lines(events, "connection.closed", reason="token_expired")) == 2)
        await gone(case)
        return
    await peer.disconnected(first)
    assert await peer.alive(second)


async def test_a_namespace_that_needs_no_token_keeps_the_session(clock: Clock) -> None:
    case = guarded(
        "/messages",
        "/news",
        auth=make_auth(clock=clock),
        namespaces=["/messages", NamespacePolicy("/news", token="none")],
        expiring_notice=None,
    )
    peer, _ = await joined_client(case, "/messages", token_at(clock))
    await peer.join("/news", None)
    assert case.guard.status()["timers"]["expiry"] == 1
    clock.passes(60 + LEEWAY)
    await peer.sent_away("/messages", "token_expired")
    assert await peer.alive("/news")
    clock.passes(10**9)
    assert await peer.alive("/news")


@pytest.mark.parametrize("lifetime", [600, 20])
async def test_a_namespace_that_is_being_joined_keeps_the_session(lifetime: int, clock: Clock, events: Events) -> None:
    pause = Pause()
    case = guarded(
        "/a",
        "/b",
        prepare=lambda server: server.on("connect", pause.wait, namespace="/b"),
        auth=make_auth(clock=clock),
        server_options={"ping_timeout": 100},
        admission_timeout=90,
    )
    # Over WebSocket one packet is read after the other; two POSTs are not.
    peer, _ = await joined_client(case, "/a", token_at(clock, 20), kind="polling")
    assert await peer.event("/a", "socketguard:expiring") == {"in": 30}
    joining = asyncio.ensure_future(peer.connect("/b", token_at(clock, lifetime)))
    await pause.entered.wait()
    clock.passes(20 + LEEWAY)
    await peer.sent_away("/a", "token_expired")
    pause.release.set()
    await joining
    if lifetime == 600:
        assert (await peer.packet()).kind == 0
        assert await peer.alive("/b")
        await peer.close()
    # Otherwise its token has ended as well, and so does the session as soon as it is in.
    await gone(case)
    ends = [(line["namespace"], line["reason"]) for line in lines(events, "connection.closed")]
    assert ends == [("/a", "token_expired"), ("/b", "client disconnect" if lifetime == 600 else "token_expired")]


async def test_a_token_that_ends_while_the_connect_handler_runs(clock: Clock, events: Events) -> None:
    leaving = Leaving()
    _, peer, _ = await one_joined(
        clock, handlers={"connect": lambda *args: clock.move(60 + LEEWAY)}, prepare=leaving("/messages")
    )
    await peer.expired()
    await until(lambda: leaving.left)
    assert not lines(events, "token.expiring")


@pytest.mark.parametrize(
    ("options", "exp", "timers"),
    [({"expiry": "ignore"}, 60, 0), ({"require": ("sub",)}, None, 0), ({}, 253_402_300_799, 1)],
)
async def test_what_never_ends(
    options: dict[str, Any], exp: int | None, timers: int, clock: Clock, events: Events
) -> None:
    case = guarded(auth=make_auth(clock=clock, **options))
    if exp == 60:
        exp = int(clock.now) + 60
    peer, _ = await joined_client(case, "/messages", token_at(clock, exp=exp))
    assert case.guard.status()["timers"]["expiry"] == timers
    clock.passes(10**9 if timers else 10**6)
    assert await peer.alive()
    assert not lines(events, "token.expiring")
    if "expiry" in options:  # Only who is in stays in.
        other = await Client(case).open()
        assert (await other.refused("/messages", token_at(clock, -LEEWAY)))["code"] == "token_expired"


async def test_a_clock_that_jumps_back_and_forth(clock: Clock) -> None:
    _, peer, _ = await one_joined(clock, 60, expiring_notice=None)
    clock.passes(-86_400)
    assert await peer.alive()
    clock.passes(86_400 + 60 + LEEWAY - BEFORE_THE_END)
    assert await peer.alive()
    clock.passes(86_400)
    await peer.expired()


@pytest.mark.parametrize(
    ("lifetime", "notice", "first"),
    [(60, 30.0, 30), (60, 0.5, None), (5, 30.0, 15), (60, None, None), (600, 120.0, 120)],
)
async def test_the_notice(lifetime: int, notice: float | None, first: int | None, clock: Clock) -> None:
    _, peer, _ = await one_joined(clock, lifetime, expiring_notice=notice)
    if notice is not None and lifetime + LEEWAY > notice:
        clock.passes(lifetime + LEEWAY - notice - BEFORE_THE_END)
        assert await peer.alive()
        clock.passes(BEFORE_THE_END)
    if first is not None:
        assert await peer.event("/messages", "socketguard:expiring") == {"in": first}
    elif notice is not None:
        assert await peer.event("/messages", "socketguard:expiring") == {"in": round(notice)}
    clock.passes(lifetime + LEEWAY)
    await peer.expired()


async def test_a_notice_that_was_missed_is_not_made_up_for(clock: Clock, events: Events) -> None:
    _, peer, _ = await one_joined(clock, 600)
    clock.passes(600 + LEEWAY)
    await peer.expired()
    assert not lines(events, "token.expiring")


async def test_who_has_left_is_not_ended_again(clock: Clock, events: Events) -> None:
    case, peer, sids = await both_joined(clock, 60, 60)
    await case.server.disconnect(sids["/a"], namespace="/a")
    await peer.disconnected("/a")
    await peer.close()
    await gone(case)
    clock.passes(10**6)
    await asyncio.sleep(0)
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["server disconnect", "transport close"]


@pytest.mark.parametrize("moment", ["notice", "end"])
async def test_who_is_being_kicked_hears_of_nothing_else(moment: str, clock: Clock, events: Events) -> None:
    case, peer, sid = await one_joined(clock, 600)
    kicking = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    # It runs in the next turn of the loop, and the timer right after it.
    clock.passes(590 if moment == "notice" else 610)
    await peer.disconnected("/messages")
    assert await kicking == 1
    # The next packet is the answer to this.
    await peer.join("/messages", token_at(clock, 600))
    assert not lines(events, "token.expiring")
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["kicked"]


async def test_one_token_for_many_namespaces(clock: Clock, events: Events) -> None:
    names = [f"/n{number}" for number in range(16)]
    case = guarded(*names, auth=make_auth(clock=clock), expiring_notice=None)
    peer = await Client(case).open()
    token = token_at(clock, 60)
    for name in names:
        await peer.join(name, token)
    assert case.guard.status()["timers"]["expiry"] == 16
    clock.passes(60 + LEEWAY)
    told = [await peer.packet() for _ in names]
    assert sorted(packet.namespace for packet in told) == sorted(names)
    assert await peer.closed() == 4401
    await until(lambda: len(lines(events, "connection.closed", reason="token_expired")) == 16)


async def test_an_end_that_is_waited_for_costs_no_task(clock: Clock) -> None:
    tasks = []
    for expiry in ("ignore", "disconnect"):
        case = guarded(auth=make_auth(clock=clock, expiry=expiry))
        peer = await Client(case).open()
        before = asyncio.all_tasks()
        await peer.join("/messages", token_at(clock, 600))
        tasks.append(len(asyncio.all_tasks() - before))
        await peer.close()
        await gone(case)
    assert tasks[0] == tasks[1]


class TestDisconnectHandlers:
    async def test_one_that_hangs_holds_up_nobody_else(self, clock: Clock, events: Events) -> None:
        leaving = Leaving()
        leaving.hold = {"/a"}
        case, peer, _ = await both_joined(clock, 60, 120, prepare=leaving("/a", "/b"))
        clock.passes(60 + LEEWAY)
        await peer.sent_away("/a", "token_expired")
        await until(lambda: leaving.left)
        await peer.emit("/a", "echo", "too late", number=1)
        assert await peer.alive("/b")
        # The namespace that is still leaving does not count: nothing else lives on.
        clock.passes(60)
        await peer.expired("/b")
        await until(lambda: len(leaving.left) == 2)
        assert not lines(events, "connection.closed", namespace="/a")
        leaving.release.set()
        await gone(case)
        assert sorted(line["namespace"] for line in lines(events, "connection.closed", reason="token_expired")) == [
            "/a",
            "/b",
        ]
        assert sorted(leaving.left) == [("/a", "token_expired"), ("/b", "token_expired")]

    @pytest.mark.parametrize("kind", ["websocket", "polling", "upgraded"])
    async def test_one_that_hangs_keeps_no_transport_open(self, kind: str, clock: Clock) -> None:
        leaving = Leaving()
        leaving.hold = {"/messages"}
        case = guarded(prepare=leaving("/messages"), auth=make_auth(clock=clock), expiring_notice=None)
        peer, _ = await joined_client(case, "/messages", token_at(clock, 60), kind=kind)
        clock.passes(60 + LEEWAY)
        await peer.told("/messages", "token_expired")
        assert await peer.closed() == (None if kind == "polling" else 4401)
        await until(lambda: leaving.left)
        leaving.release.set()

    async def test_one_that_raises(self, clock: Clock, events: Events) -> None:
        async def disconnect(sid: str, *_: Any) -> None:
            raise RuntimeError("broken")

        _, peer, _ = await both_joined(
            clock, 60, 120, prepare=lambda server: server.on("disconnect", disconnect, namespace="/a")
        )
        clock.passes(60 + LEEWAY)
        await peer.sent_away("/a", "token_expired")
        assert await peer.alive("/b")
        await until(lambda: lines(events, "connection.closed", reason="token_expired"))
        assert len(lines(events, "handler.failed", handler="disconnect", error="RuntimeError")) == 1


class TestPolling:
    async def test_who_does_not_poll_is_ended_all_the_same(self, clock: Clock) -> None:
        case, peer, _ = await one_joined(clock, 60, "polling", expiring_notice=None)
        clock.passes(60 + LEEWAY)
        await gone(case)
        answer = await http(case.app, "GET", peer.query)
        assert (answer.status, answer.json["code"], answer.json["retry"]) == (400, "session_unknown", "now")

    async def test_a_poll_that_waits_is_answered_at_once(self, clock: Clock) -> None:
        _, peer, _ = await one_joined(clock, 60, "polling", expiring_notice=None)
        waiting = asyncio.ensure_future(peer.poll())
        await asyncio.sleep(0)
        clock.passes(60 + LEEWAY)
        assert (await waiting)[0].startswith('42/messages,["socketguard:closing",{"code":"token_expired"')

    async def test_a_body_that_is_half_sent(self, clock: Clock) -> None:
        _, peer, _ = await one_joined(clock, 60, "polling", expiring_notice=None)
        task, request = await peer.begin("POST", b"4")
        clock.passes(60 + LEEWAY)
        await task
        assert request.answer.status == 400

    @pytest.mark.parametrize("stage", ["opened", "probed", "probed, still polls", "finishes"])
    async def test_an_upgrade_that_is_under_way(self, stage: str, clock: Clock) -> None:
        case, peer, _ = await one_joined(clock, 60, "polling", expiring_notice=None)
        if stage == "opened":
            wire = await Socket(case.app, query=f"&sid={peer.sid}").open()
        else:
            wire = await peer.probe()
            if stage != "probed, still polls":
                assert await peer.poll() == ["6"]
        clock.passes(60 + LEEWAY)
        await until(lambda: not case.guard.connections())
        if stage == "finishes":
            await wire.send("5")
            assert "token_expired" in str(await wire.frame())
        elif stage != "opened":
            # It may finish for a while, since it listens there.
            assert await wire.frames() == []
            assert wire.close_code is None
            clock.passes(UPGRADE_PATIENCE)
        assert await wire.closed() == ([], 4401)


async def test_each_issuer_has_a_leeway_of_its_own(clock: Clock) -> None:
    def issued_by(name: str, **options: Any) -> JWTAuth:
        return JWTAuth(TEST_SECRET, algorithms=["HS256"], issuer=name, clock=clock, **options)

    auth = [issued_by("one", leeway=0), issued_by("two", leeway=60), issued_by("three", expiry="ignore")]
    case = guarded(auth=auth, expiring_notice=None)
    peers = {}
    for issuer in ("one", "two", "three"):
        peers[issuer] = await Client(case).open()
        await peers[issuer].join("/messages", token_at(clock, 60, iss=issuer))
    assert case.guard.status()["timers"]["expiry"] == 2
    clock.passes(60)
    await peers["one"].expired()
    assert await peers["two"].alive()
    clock.passes(60)
    await peers["two"].expired()
    assert await peers["three"].alive()
    await peers["three"].close()


async def test_a_closed_transport_says_nothing_more(clock: Clock) -> None:
    """What was under way when the client went: nothing is raised, and nothing is sent."""
    case, peer, _ = await both_joined(clock, 60, 60)
    closing = asyncio.ensure_future(peer.close())
    clock.passes(60 + LEEWAY)
    await closing
    await gone(case)
    assert peer.wire is not None
    assert all("socketguard:closing" in str(frame) for frame in await peer.wire.frames())


async def test_a_session_is_ended_once(clock: Clock, events: Events) -> None:
    case, peer, _ = await both_joined(clock, 60, 60)
    clock.passes(60 + LEEWAY)
    await peer.told("/a", "token_expired")
    assert await case.guard.drain(0) == 0
    await peer.expired("/b")
    await gone(case)
    assert {line["reason"] for line in lines(events, "connection.closed")} == {"token_expired"}


async def test_a_clock_that_fails_for_a_while_delays_and_keeps_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.01)
    time = Clock()
    failing = False

    def clock() -> float:
        if failing:
            raise OSError("no time")
        return time.now

    case = guarded(auth=make_auth(clock=clock), expiring_notice=None, connect_timeout=0.2)
    peer = await Client(case).open()
    await peer.join(token=token_at(time, 60))
    stranger = await Client(case).open()
    failing = True
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    assert await stranger.told("/", "connect_timeout") == "backoff"
    assert await stranger.closed() == 4408
    assert {type(each["exception"]) for each in errors} == {OSError}
    failing = False
    time.passes(60 + LEEWAY)
    assert await peer.told("/messages", "token_expired") == "refresh"
    assert await peer.closed() == 4401
