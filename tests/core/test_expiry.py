"""A connection ends when its token does: the client is told, and can come back with a fresh one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from socketguard import NamespacePolicy, current_connection
from socketguard.connection import Connection
from socketguard.testing import TEST_SECRET, FakeClock, Wire, capture_events, make_auth
from socketguard.tokens.auth import JWTAuth
from tests.core.driver import Guarded, guarded, http, until
from tests.core.peers import KINDS, STYLES, Closed, Peer, a_clock, gone, lines, move, styled, token_at

LEEWAY = 10
BEFORE_THE_END = 0.25
"""Seconds; exact in binary."""


@pytest.fixture
def clock() -> FakeClock:
    return a_clock()


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    with capture_events() as captured:
        yield captured


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


async def both_joined(
    clock: FakeClock, first: float, second: float, **options: Any
) -> tuple[Guarded, Peer, dict[str, str]]:
    """A client in /a and /b, with tokens of so many seconds."""
    case = guarded("/a", "/b", auth=make_auth(clock=clock), expiring_notice=None, **options)
    peer = await Peer(case).open()
    sids = {"/a": await peer.join("/a", token_at(clock, first)), "/b": await peer.join("/b", token_at(clock, second))}
    return case, peer, sids


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_is_warned_then_told_and_comes_back_with_a_fresh_token(
    kind: str, clock: FakeClock, events: list[dict[str, Any]]
) -> None:
    leaving = Leaving()
    options = {"serializer": "msgpack"} if kind == "msgpack" else {}
    case = guarded(prepare=leaving("/messages"), server_options=options, auth=make_auth(clock=clock))
    peer = await Peer(case, kind).open()
    sid = await peer.join("/messages", token_at(clock, 60, jti="first"))

    move(case, clock, 60 + LEEWAY - 30)
    assert await peer.event("/messages", "socketguard:expiring") == {"in": 30}
    assert await peer.alive()

    move(case, clock, 30)
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

    again = await Peer(case, kind).open()
    data = await again.refused("/messages", token_at(clock, -LEEWAY))
    assert (data["code"], data["retry"]) == ("token_expired", "refresh")
    if kind != "upgraded":
        assert await again.join("/messages", token_at(clock)) != sid
        assert await again.alive()
    await again.close()
    await gone(case)


@pytest.mark.parametrize("style", STYLES)
async def test_it_ends_at_the_moment_and_not_before(style: str, clock: FakeClock) -> None:
    seen: list[Any] = []
    case = styled(style, lambda *args: seen.append(args), auth=make_auth(clock=clock), expiring_notice=None)
    peer = await Peer(case).open()
    sid = await peer.join("/messages", token_at(clock, 60))
    move(case, clock, 60 + LEEWAY - BEFORE_THE_END)
    assert await peer.alive()
    # The clock has reached it, and no timer has noticed yet: after a jump, that may take half a minute.
    clock.move(BEFORE_THE_END)
    answer = await case.server._trigger_event("echo", "/messages", sid, "too late")
    assert answer is case.server.not_handled
    await peer.emit("/messages", "echo", "too late", number=1)
    await peer.emit("/messages", "socketguard:nonsense", number=2)
    case.guard._parts.endings.arm()  # type: ignore[union-attr]
    await peer.told("/messages", "token_expired")
    assert await peer.closed() == 4401
    assert seen == [("echo", "hello")]
    await gone(case)


async def test_while_another_namespace_lives_on_only_the_one_is_disconnected(
    clock: FakeClock, events: list[dict[str, Any]]
) -> None:
    case, peer, sids = await both_joined(clock, 60, 120)
    move(case, clock, 60 + LEEWAY)
    assert await peer.told("/a", "token_expired") == "refresh"
    await peer.disconnected("/a")
    assert await peer.alive("/b")
    await until(lambda: lines(events, "connection.closed"))
    assert [(line["reason"], line["sid"]) for line in lines(events, "connection.closed")] == [
        ("token_expired", sids["/a"])
    ]
    assert await peer.join("/a", token_at(clock, 10)) != sids["/a"]
    move(case, clock, 10 + LEEWAY)
    await peer.told("/a", "token_expired")
    await peer.disconnected("/a")
    move(case, clock, 120 + LEEWAY)
    await peer.told("/b", "token_expired")
    assert await peer.closed() == 4401
    await gone(case)


@pytest.mark.parametrize(("apart", "together"), [(0, True), (1, True), (2, False), (-1, True)])
async def test_tokens_that_a_page_got_one_after_the_other_end_together(
    apart: int, together: bool, clock: FakeClock, events: list[dict[str, Any]]
) -> None:
    case, peer, _ = await both_joined(clock, 60, 60 + apart)
    move(case, clock, 60 + min(apart, 0) + LEEWAY)
    first, second = ("/a", "/b") if apart >= 0 else ("/b", "/a")
    await peer.told(first, "token_expired")
    if together:
        await peer.told(second, "token_expired")
        assert await peer.closed() == 4401
        await until(lambda: len(lines(events, "connection.closed", reason="token_expired")) == 2)
        await gone(case)
        return
    await peer.disconnected(first)
    assert await peer.alive(second)
    await peer.close()
    await gone(case)


async def test_a_namespace_that_needs_no_token_keeps_the_session(clock: FakeClock) -> None:
    case = guarded(
        "/messages",
        "/news",
        auth=make_auth(clock=clock),
        namespaces=["/messages", NamespacePolicy("/news", token="none")],
        expiring_notice=None,
    )
    peer = await Peer(case).open()
    await peer.join("/messages", token_at(clock))
    await peer.join("/news", None)
    assert case.guard.status()["timers"]["expiry"] == 1
    move(case, clock, 60 + LEEWAY)
    await peer.told("/messages", "token_expired")
    await peer.disconnected("/messages")
    assert await peer.alive("/news")
    move(case, clock, 10**9)
    assert await peer.alive("/news")
    await peer.close()
    await gone(case)


@pytest.mark.parametrize("lifetime", [600, 20])
async def test_a_namespace_that_is_being_joined_keeps_the_session(
    lifetime: int, clock: FakeClock, events: list[dict[str, Any]]
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        entered.set()
        await go_on.wait()

    case = guarded(
        "/a", "/b", prepare=lambda server: server.on("connect", connect, namespace="/b"), auth=make_auth(clock=clock)
    )
    # Over WebSocket one packet is read after the other; two POSTs are not.
    peer = await Peer(case, "polling").open()
    await peer.join("/a", token_at(clock, 20))
    assert await peer.event("/a", "socketguard:expiring") == {"in": 30}
    joining = asyncio.ensure_future(peer.connect("/b", token_at(clock, lifetime)))
    await entered.wait()
    move(case, clock, 20 + LEEWAY)
    await peer.told("/a", "token_expired")
    await peer.disconnected("/a")
    go_on.set()
    await joining
    if lifetime == 600:
        assert (await peer.packet()).kind == 0
        assert await peer.alive("/b")
        await peer.close()
    # Otherwise its token has ended as well, and so does the session as soon as it is in.
    await gone(case)
    ends = [(line["namespace"], line["reason"]) for line in lines(events, "connection.closed")]
    assert ends == [("/a", "token_expired"), ("/b", "client disconnect" if lifetime == 600 else "token_expired")]


async def test_a_token_that_ends_while_the_connect_handler_runs(clock: FakeClock, events: list[dict[str, Any]]) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        clock.move(60 + LEEWAY)

    leaving = Leaving()

    def prepare(server: Any) -> None:
        server.on("connect", connect, namespace="/messages")
        leaving("/messages")(server)

    case = guarded(prepare=prepare, auth=make_auth(clock=clock))
    peer = await Peer(case).open()
    await peer.join("/messages", token_at(clock, 60))
    await peer.told("/messages", "token_expired")
    assert await peer.closed() == 4401
    await until(lambda: leaving.left)
    assert not lines(events, "token.expiring")
    await gone(case)


async def test_a_token_that_ends_while_authorize_runs_is_refused(clock: FakeClock) -> None:
    async def authorize(identity: Any, connection: Connection) -> bool:
        clock.move(60 + LEEWAY)
        return True

    case = guarded(
        auth=make_auth(clock=clock), namespaces=[NamespacePolicy("/messages", authorize=authorize)], limits=None
    )
    peer = await Peer(case).open()
    data = await peer.refused("/messages", token_at(clock, 60))
    assert data["code"] == "token_expired"
    await peer.close()
    await gone(case)


class TestWhatNeverEnds:
    async def test_expiry_ignore(self, clock: FakeClock, events: list[dict[str, Any]]) -> None:
        case = guarded(auth=make_auth(clock=clock, expiry="ignore"))
        peer = await Peer(case).open()
        await peer.join("/messages", token_at(clock, 60))
        assert case.guard.status()["timers"]["expiry"] == 0
        move(case, clock, 10**6)
        assert await peer.alive()
        assert not lines(events, "token.expiring")
        # Only who is in stays in.
        other = await Peer(case).open()
        assert (await other.refused("/messages", token_at(clock, -LEEWAY)))["code"] == "token_expired"
        await other.close()
        await peer.close()
        await gone(case)

    async def test_no_exp(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock, require=("sub",)))
        peer = await Peer(case).open()
        await peer.join("/messages", token_at(clock, exp=None))
        assert case.guard.status()["timers"]["expiry"] == 0
        move(case, clock, 10**6)
        assert await peer.alive()
        await peer.close()
        await gone(case)

    async def test_an_exp_thousands_of_years_ahead(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock))
        peer = await Peer(case).open()
        await peer.join("/messages", token_at(clock, exp=253_402_300_799))
        assert case.guard.status()["timers"]["expiry"] == 1
        move(case, clock, 10**9)
        assert await peer.alive()
        await peer.close()
        await gone(case)


async def test_a_clock_that_jumps_back_and_forth(clock: FakeClock) -> None:
    case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
    peer = await Peer(case).open()
    await peer.join("/messages", token_at(clock, 60))
    move(case, clock, -86_400)
    assert await peer.alive()
    move(case, clock, 86_400 + 60 + LEEWAY - BEFORE_THE_END)
    assert await peer.alive()
    move(case, clock, 86_400)
    await peer.told("/messages", "token_expired")
    assert await peer.closed() == 4401
    await gone(case)


@pytest.mark.parametrize(
    ("lifetime", "notice", "first"),
    [(60, 30.0, 30), (60, 0.5, None), (5, 30.0, 15), (60, None, None), (600, 120.0, 120)],
)
async def test_the_notice(lifetime: int, notice: float | None, first: int | None, clock: FakeClock) -> None:
    case = guarded(auth=make_auth(clock=clock), expiring_notice=notice)
    peer = await Peer(case).open()
    await peer.join("/messages", token_at(clock, lifetime))
    if notice is not None and lifetime + LEEWAY > notice:
        move(case, clock, lifetime + LEEWAY - notice - BEFORE_THE_END)
        assert await peer.alive()
        move(case, clock, BEFORE_THE_END)
    if first is not None:
        assert await peer.event("/messages", "socketguard:expiring") == {"in": first}
    elif notice is not None:
        assert await peer.event("/messages", "socketguard:expiring") == {"in": round(notice)}
    move(case, clock, lifetime + LEEWAY)
    await peer.told("/messages", "token_expired")
    assert await peer.closed() == 4401
    await gone(case)


async def test_a_notice_that_was_missed_is_not_made_up_for(clock: FakeClock, events: list[dict[str, Any]]) -> None:
    case = guarded(auth=make_auth(clock=clock))
    peer = await Peer(case).open()
    await peer.join("/messages", token_at(clock, 600))
    move(case, clock, 600 + LEEWAY)
    await peer.told("/messages", "token_expired")
    assert await peer.closed() == 4401
    assert not lines(events, "token.expiring")
    await gone(case)


async def test_who_has_left_is_not_ended_again(clock: FakeClock, events: list[dict[str, Any]]) -> None:
    case, peer, sids = await both_joined(clock, 60, 60)
    await case.server.disconnect(sids["/a"], namespace="/a")
    await peer.disconnected("/a")
    await peer.close()
    await gone(case)
    move(case, clock, 10**6)
    await asyncio.sleep(0)
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["server disconnect", "transport close"]


@pytest.mark.parametrize("moment", ["notice", "end"])
async def test_who_is_being_kicked_hears_of_nothing_else(
    moment: str, clock: FakeClock, events: list[dict[str, Any]]
) -> None:
    case = guarded(auth=make_auth(clock=clock))
    peer = await Peer(case).open()
    sid = await peer.join("/messages", token_at(clock, 600))
    kicking = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    # It runs in the next turn of the loop, and the timer right after it.
    move(case, clock, 590 if moment == "notice" else 610)
    await peer.disconnected("/messages")
    assert await kicking == 1
    # The next packet is the answer to this.
    await peer.join("/messages", token_at(clock, 600))
    assert not lines(events, "token.expiring")
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["kicked"]
    await peer.close()
    await gone(case)


async def test_one_token_for_many_namespaces(clock: FakeClock, events: list[dict[str, Any]]) -> None:
    names = [f"/n{number}" for number in range(16)]
    case = guarded(*names, auth=make_auth(clock=clock), expiring_notice=None)
    peer = await Peer(case).open()
    token = token_at(clock, 60)
    for name in names:
        await peer.join(name, token)
    assert case.guard.status()["timers"]["expiry"] == 16
    move(case, clock, 60 + LEEWAY)
    told = [await peer.packet() for _ in names]
    assert sorted(packet.namespace for packet in told) == sorted(names)
    assert await peer.closed() == 4401
    await until(lambda: len(lines(events, "connection.closed", reason="token_expired")) == 16)
    await gone(case)


async def test_an_end_that_is_waited_for_costs_no_task(clock: FakeClock) -> None:
    tasks = []
    for expiry in ("ignore", "disconnect"):
        case = guarded(auth=make_auth(clock=clock, expiry=expiry))
        peer = await Peer(case).open()
        before = asyncio.all_tasks()
        await peer.join("/messages", token_at(clock, 600))
        tasks.append(len(asyncio.all_tasks() - before))
        await peer.close()
        await gone(case)
    assert tasks[0] == tasks[1]


class TestDisconnectHandlers:
    async def test_one_that_hangs_holds_up_nobody_else(self, clock: FakeClock, events: list[dict[str, Any]]) -> None:
        leaving = Leaving()
        leaving.hold = {"/a"}
        case, peer, _ = await both_joined(clock, 60, 120, prepare=leaving("/a", "/b"))
        move(case, clock, 60 + LEEWAY)
        await peer.told("/a", "token_expired")
        await peer.disconnected("/a")
        await until(lambda: leaving.left)
        await peer.emit("/a", "echo", "too late", number=1)
        assert await peer.alive("/b")
        # The namespace that is still leaving does not count: nothing else lives on.
        move(case, clock, 60)
        await peer.told("/b", "token_expired")
        assert await peer.closed() == 4401
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
    async def test_one_that_hangs_keeps_no_transport_open(self, kind: str, clock: FakeClock) -> None:
        leaving = Leaving()
        leaving.hold = {"/messages"}
        case = guarded(prepare=leaving("/messages"), auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Peer(case, kind).open()
        await peer.join("/messages", token_at(clock, 60))
        move(case, clock, 60 + LEEWAY)
        await peer.told("/messages", "token_expired")
        assert await peer.closed() == (None if kind == "polling" else 4401)
        await until(lambda: leaving.left)
        leaving.release.set()
        await gone(case)

    async def test_one_that_raises(self, clock: FakeClock, events: list[dict[str, Any]]) -> None:
        async def disconnect(sid: str, *_: Any) -> None:
            raise RuntimeError("broken")

        case, peer, _ = await both_joined(
            clock, 60, 120, prepare=lambda server: server.on("disconnect", disconnect, namespace="/a")
        )
        move(case, clock, 60 + LEEWAY)
        await peer.told("/a", "token_expired")
        await peer.disconnected("/a")
        assert await peer.alive("/b")
        await until(lambda: lines(events, "connection.closed", reason="token_expired"))
        assert len(lines(events, "handler.failed", handler="disconnect", error="RuntimeError")) == 1
        await peer.close()
        await gone(case)


class TestPolling:
    async def test_who_does_not_poll_is_ended_all_the_same(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Peer(case, "polling").open()
        await peer.join("/messages", token_at(clock, 60))
        move(case, clock, 60 + LEEWAY)
        await gone(case)
        assert peer.polling is not None
        answer = await http(case.app, "GET", peer.polling.query)
        assert (answer.status, answer.json["code"], answer.json["retry"]) == (400, "session_unknown", "now")

    async def test_a_poll_that_waits_is_answered_at_once(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Peer(case, "polling").open()
        await peer.join("/messages", token_at(clock, 60))
        assert peer.polling is not None
        waiting = asyncio.ensure_future(peer.polling.poll())
        await asyncio.sleep(0)
        move(case, clock, 60 + LEEWAY)
        assert (await waiting)[0].startswith('42/messages,["socketguard:closing",{"code":"token_expired"')
        await gone(case)

    async def test_a_body_that_is_half_sent(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Peer(case, "polling").open()
        await peer.join("/messages", token_at(clock, 60))
        assert peer.polling is not None
        reading = asyncio.ensure_future(half_a_body(case, peer.polling.query))
        await until(lambda: any(session.reading for session in case.seam.sessions.open))
        move(case, clock, 60 + LEEWAY)
        assert await reading == 400
        await gone(case)

    async def test_an_upgrade_that_is_under_way(self, clock: FakeClock) -> None:
        case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Peer(case, "polling").open()
        await peer.join("/messages", token_at(clock, 60))
        assert peer.polling is not None
        wire = Wire(case.app, query=f"&sid={peer.polling.sid}")
        await wire.open()
        await wire.send("2probe")
        assert await wire.frame() == "3probe"
        move(case, clock, 60 + LEEWAY)
        with pytest.raises(ConnectionError):
            await wire.frame()
        await wire.close()
        await gone(case)


async def half_a_body(case: Guarded, query: str) -> int:
    """Begin a POST whose body never ends; returns the status of the answer."""
    first = {"type": "http.request", "body": b"4", "more_body": True}
    status = 0

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            message, first = first, {}
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = status or message["status"]

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/socket.io/",
        "raw_path": b"/socket.io/",
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"testserver")],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }
    await asyncio.wait_for(case.app(scope, receive, send), 5)
    return status


async def test_each_issuer_has_a_leeway_of_its_own(clock: FakeClock) -> None:
    def issued_by(name: str, **options: Any) -> JWTAuth:
        return JWTAuth(TEST_SECRET, algorithms=["HS256"], issuer=name, clock=clock, **options)

    auth = [issued_by("one", leeway=0), issued_by("two", leeway=60), issued_by("three", expiry="ignore")]
    case = guarded(auth=auth, expiring_notice=None)
    peers = {}
    for issuer in ("one", "two", "three"):
        peers[issuer] = await Peer(case).open()
        await peers[issuer].join("/messages", token_at(clock, 60, iss=issuer))
    assert case.guard.status()["timers"]["expiry"] == 2
    move(case, clock, 60)
    await peers["one"].told("/messages", "token_expired")
    assert await peers["one"].closed() == 4401
    assert await peers["two"].alive()
    move(case, clock, 60)
    await peers["two"].told("/messages", "token_expired")
    assert await peers["two"].closed() == 4401
    assert await peers["three"].alive()
    await peers["three"].close()
    await gone(case)


async def test_a_session_that_joins_nothing_is_told_so() -> None:
    with capture_events() as events:
        case = guarded(connect_timeout=0.01)
        peer = await Peer(case).open()
        data = await peer.event("/", "socketguard:closing")
        assert (data["code"], data["retry"]) == ("connect_timeout", "backoff")
        assert await peer.closed() == 4408
    assert len(lines(events, "session.ended", reason="connect_timeout")) == 1
    await gone(case)


async def test_a_closed_transport_says_nothing_more(clock: FakeClock) -> None:
    """What was under way when the client went: nothing is raised, and nothing is sent."""
    case, peer, _ = await both_joined(clock, 60, 60)
    closing = asyncio.ensure_future(peer.close())
    move(case, clock, 60 + LEEWAY)
    await closing
    await gone(case)
    with pytest.raises((Closed, TimeoutError)):
        peer.wire._timeout = 0.01  # type: ignore[union-attr]
        while True:
            packet = await peer.packet()
            assert packet.data[0] == "socketguard:closing"


async def test_a_session_is_ended_once(clock: FakeClock, events: list[dict[str, Any]]) -> None:
    case, peer, _ = await both_joined(clock, 60, 60)
    [session] = case.seam.sessions.open
    move(case, clock, 60 + LEEWAY)
    await until(lambda: session.ending is not None)
    case.seam.end(session, "keys_unavailable")
    for namespace in ("/a", "/b"):
        await peer.told(namespace, "token_expired")
    assert await peer.closed() == 4401
    await gone(case)
    assert {line["reason"] for line in lines(events, "connection.closed")} == {"token_expired"}
