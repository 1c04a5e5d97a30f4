"""A revoked token opens nothing any more, and who is in with one is sent away; `disconnect` only sends away."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from socketguard import ConfigurationError, JWTAuth, MemoryStore, NamespacePolicy
from socketguard.connection import Connection, Identity
from socketguard.limits.revocation import Revocation, StoreFull, StoreUnavailable
from socketguard.testing import TEST_SECRET, Refused, make_auth, mint
from tests.scripted import (
    KINDS,
    UNLIMITED,
    Client,
    Clock,
    Events,
    Guarded,
    Pause,
    Store,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    refusal_in,
    rest,
    serializer,
    token_at,
    until,
)

MAX_LIFETIME = 7200
LEEWAY = 10


def a_guard(clock: Clock, *namespaces: str, **options: Any) -> Guarded:
    auth = make_auth(clock=clock, max_lifetime=MAX_LIFETIME)
    return guarded(*namespaces, **{"auth": auth, "expiring_notice": None, **options})


async def joined(case: Guarded, token: str, *namespaces: str) -> Client:
    peer = await Client(case).open()
    for namespace in namespaces or ("/messages",):
        await peer.join(namespace, token)
    return peer


async def sent_away(peer: Client, *namespaces: str) -> None:
    """Told that the token was revoked, and disconnected from these namespaces, in whatever order."""
    found = [await peer.packet() for _ in range(2 * len(namespaces))]
    for namespace in namespaces or ("/messages",):
        told, ended = [packet for packet in found if packet.namespace == namespace]
        assert told.data[0] == "socketguard:closing"
        assert (told.data[1]["code"], told.data[1]["retry"]) == ("token_revoked", "login")
        assert ended.kind == 1


async def close(case: Guarded, *peers: Client) -> None:
    for peer in peers:
        await peer.close()


class TestOneToken:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_it_is_refused_and_its_connections_end(self, kind: str, clock: Clock, events: Events) -> None:
        case = a_guard(clock, "/messages", "/b", server_options=serializer(kind))
        revoked, other = token_at(clock, jti="revoked"), token_at(clock, jti="other")
        peer, sid = await joined_client(case, "/messages", revoked, kind=kind)
        await peer.join("/b", other)
        assert await case.guard.revoke(token_id="revoked") == 1
        await sent_away(peer, "/messages")
        assert await peer.alive("/b")
        data = await peer.refused("/messages", revoked)
        assert (data["code"], data["retry"]) == ("token_revoked", "login")
        await peer.join("/messages", other)
        assert await peer.alive()
        [closed] = lines(events, "connection.closed")
        assert (closed["reason"], closed["sid"], closed["token_id"]) == ("token_revoked", sid, "revoked")
        [line] = lines(events, "token.revoked")
        assert (line["level"], line["selector"], line["ended"], line["until"]) == (
            "info",
            {"token_id": "revoked"},
            1,
            clock.now + 60 + LEEWAY,
        )
        assert lines(events, "connection.rejected", reason="token_revoked", detail="revoked")

    @pytest.mark.parametrize("days", [-1000, 0, 1000])
    async def test_nobody_has_it(self, days: int, clock: Clock, events: Events) -> None:
        """The store of the guard goes by the clock of its verifier."""
        clock.move(days * 86_400)
        case = a_guard(clock)
        assert await case.guard.revoke(token_id="stolen") == 0
        peer = await Client(case).open()
        assert (await peer.refused("/messages", token_at(clock, jti="stolen")))["code"] == "token_revoked"
        assert lines(events, "token.revoked")[0]["until"] == clock.now + MAX_LIFETIME + 2 * LEEWAY

    async def test_twice_is_no_error_and_the_transport_is_left_to_the_client(self, clock: Clock) -> None:
        """A stock client would come back over a new transport, again and again."""
        case = a_guard(clock)
        peer = await joined(case, token_at(clock, jti="a"))
        first, second = await asyncio.gather(case.guard.revoke(token_id="a"), case.guard.revoke(token_id="a"))
        assert first + second == 1
        await sent_away(peer, "/messages")
        assert await case.guard.revoke(token_id="a") == 0
        assert case.guard.status()["sessions"]["open"] == 1
        assert case.guard.status()["timers"] == {"expiry": 0, "connect": 1, "ending": 0}

    async def test_it_is_forgotten_once_the_token_has_expired(self, clock: Clock) -> None:
        store = MemoryStore(capacity=1, clock=clock)
        case = a_guard(clock, store=store)
        await case.guard.revoke(token_id="a", expires_at=clock.now + 60)
        clock.move(60 + LEEWAY - 1)
        with pytest.raises(StoreFull):
            await case.guard.revoke(token_id="b")
        clock.move(1)
        await case.guard.revoke(token_id="b")
        assert len(store) == 1

    async def test_every_session_that_uses_it(self, clock: Clock) -> None:
        case = a_guard(clock, "/a", "/b")
        token = token_at(clock, jti="a")
        one, two = await joined(case, token, "/a", "/b"), await joined(case, token, "/b")
        three = await joined(case, token_at(clock, jti="c"), "/a")
        assert await case.guard.revoke(token_id="a") == 3
        await sent_away(one, "/a", "/b")
        await sent_away(two, "/b")
        assert await three.alive("/a")

    @pytest.mark.parametrize(("seconds", "grows"), [(0, True), (0.01, False)])
    async def test_very_many_connections_leave_the_loop_its_turns(
        self, seconds: float, grows: bool, clock: Clock, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More and more are ended in one turn as long as it stays short."""

        async def disconnect(*args: Any) -> None:
            clock.passed += seconds

        def prepare(server: Any) -> None:
            for name in names:
                server.on("disconnect", disconnect, namespace=name)

        names = [f"/n{number}" for number in range(150)]
        case = a_guard(clock, *names, prepare=prepare, limits=UNLIMITED)
        peer = await joined(case, token_at(clock, jti="a"), *names)
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + clock.passed)
        revoking = asyncio.ensure_future(case.guard.revoke(token_id="a"))
        found = [len(names)]
        while found[-1]:
            await asyncio.sleep(0)
            found.append(len(case.guard.connections()))
        at_once = max(before - after for before, after in pairwise(found))
        assert 1 < at_once <= 25 if grows else at_once == 1
        assert await revoking == len(names)
        await sent_away(peer, *names)
        assert len(lines(events, "connection.closed", reason="token_revoked")) == len(names)

    async def test_a_handler_may_revoke_the_token_of_its_own_client(self, clock: Clock) -> None:
        async def logout(sid: str) -> int:
            token_id = case.guard.identity(sid).token_id
            return await case.guard.revoke(token_id=token_id)

        case = a_guard(clock, handlers={"logout": logout})
        peer = await joined(case, token_at(clock, jti="a"))
        await peer.emit("/messages", "logout")
        await sent_away(peer, "/messages")


class TestASubject:
    async def test_all_older_tokens(self, clock: Clock, events: Events) -> None:
        case = a_guard(clock, "/a", "/b")
        token = token_at(clock, 600)
        peer, other = await joined(case, token, "/a", "/b"), await joined(case, token_at(clock, subject="user-2"), "/a")
        assert await case.guard.revoke(subject="user-1") == 2
        await sent_away(peer, "/a", "/b")
        assert await other.alive("/a")
        # Issued within the same second: nobody can tell whether before or after.
        for refused in (token, token_at(clock), token_at(clock, iat=None)):
            assert (await peer.refused("/a", refused))["code"] == "token_revoked"
        clock.move(1)
        await peer.join("/a", token_at(clock))
        assert (await peer.refused("/b", token))["code"] == "token_revoked"
        [line] = lines(events, "token.revoked")
        assert (line["selector"], line["ended"]) == ({"subject": "user-1"}, 2)

    async def test_issued_before(self, clock: Clock) -> None:
        case = a_guard(clock)
        old, new = token_at(clock, 600, iat=clock.now - 100), token_at(clock, 600, iat=clock.now - 50)
        one, two = await joined(case, old), await joined(case, new)
        assert await case.guard.revoke(subject="user-1", issued_before=clock.now - 50) == 1
        await sent_away(one, "/messages")
        assert await two.alive()
        assert (await one.refused("/messages", old))["code"] == "token_revoked"
        await one.join("/messages", new)

    async def test_who_has_no_token_is_no_subject(self, clock: Clock) -> None:
        class Asked(MemoryStore):
            def is_revoked(self, identity: Identity) -> bool:
                asked.append(identity)
                return super().is_revoked(identity)

        asked: list[Identity] = []
        policies = [NamespacePolicy("/messages", token="optional")]
        case = a_guard(clock, namespaces=policies, store=Asked(clock=clock))
        peer, _ = await joined_client(case, "/messages", None)
        assert await case.guard.revoke(subject="user-1") == 0
        assert await peer.alive()
        assert asked == []

    async def test_without_a_longest_lifetime_it_can_not_be_kept(self, clock: Clock) -> None:
        case = guarded(auth=make_auth(clock=clock))
        peer = await joined(case, token_at(clock))
        with pytest.raises(ConfigurationError) as caught:
            await case.guard.revoke(subject="user-1")
        assert caught.value.option == "max_lifetime"
        assert await peer.alive()


class TestSeveralIssuers:
    @pytest.fixture
    def case(self, clock: Clock) -> Guarded:
        auth = [
            JWTAuth(TEST_SECRET, algorithms=["HS256"], issuer=name, clock=clock, max_lifetime=MAX_LIFETIME)
            for name in ("one", "two")
        ]
        return guarded(auth=auth)

    @pytest.mark.parametrize("selector", [{"subject": "user-1"}, {"token_id": "a"}])
    async def test_only_the_one_that_is_named(
        self, selector: dict[str, str], case: Guarded, clock: Clock, events: Events
    ) -> None:
        token = token_at(clock, iss="one", jti="a")
        one, two = await joined(case, token), await joined(case, token_at(clock, iss="two", jti="a"))
        assert await case.guard.revoke(**selector, issuer="one") == 1  # type: ignore[arg-type]
        await sent_away(one, "/messages")
        assert await two.alive()
        assert (await one.refused("/messages", token))["code"] == "token_revoked"
        assert lines(events, "token.revoked")[0]["selector"] == {**selector, "issuer": "one"}

    @pytest.mark.parametrize("issuer", [None, "three"])
    async def test_it_must_be_named_and_be_one_of_them(self, issuer: str | None, case: Guarded, clock: Clock) -> None:
        peer = await joined(case, token_at(clock, iss="one", jti="a"))
        with pytest.raises(ConfigurationError) as caught:
            await case.guard.revoke(token_id="a", issuer=issuer)
        assert caught.value.option == "issuer"
        assert await peer.alive()


class Held:
    """A guard whose application waits, in one of these places, while a client is admitted."""

    def __init__(self, place: str, clock: Clock) -> None:
        self.place = place
        self.pause = Pause()
        self.connected: list[str] = []
        self.left: list[str] = []
        self.store: Any = MemoryStore(clock=clock)
        if place == "store":
            self.store = Store()
            self.store.pause = self.pause
        self.case = a_guard(
            clock,
            handlers={"disconnect": self.disconnect, "connect": self.connect},
            namespaces=[NamespacePolicy("/messages", authorize=self.pause.wait if place == "authorize" else None)],
            store=self.store,
        )

    async def connect(self, sid: str, environ: Any, auth: Any) -> None:
        self.connected.append(sid)
        if self.place == "connect":
            await self.pause.wait()

    async def disconnect(self, sid: str, *_: Any) -> None:
        self.left.append(sid)

    async def joining(self, token: str) -> Client:
        """A client that is being admitted."""
        peer = await Client(self.case).open()
        await peer.connect("/messages", token)
        await self.pause.entered.wait()
        return peer

    async def goes_on(self, peer: Client, expected: str | None) -> None:
        """The application answers; the client hears this code, or is in."""
        self.pause.release.set()
        packet = await peer.packet()
        if expected is None:
            assert packet.kind == 0
        else:
            assert (packet.kind, packet.data["data"]["code"]) == (4, expected)


PLACES = ["connect", "authorize", "store"]
REVOKED: dict[str, Any] = {"token_id": "a"}
KICKED: dict[str, Any] = {"subject": "user-1", "reason": "fired\x1b"}


class TestWhileItIsAdmitted:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize(
        ("calls", "expected"),
        [
            ([REVOKED], "token_revoked"),
            ([{"subject": "user-1"}], "token_revoked"),
            ([KICKED], "refused_by_app"),
            ([KICKED, REVOKED], "token_revoked"),
            ([REVOKED, KICKED], "token_revoked"),
            ([REVOKED, REVOKED], "token_revoked"),
        ],
    )
    async def test_who_is_revoked_or_disconnected_does_not_get_in(
        self, calls: list[dict[str, Any]], expected: str, place: str, clock: Clock, events: Events
    ) -> None:
        held = Held(place, clock)
        guard, token = held.case.guard, token_at(clock, jti="a")
        peer = await held.joining(token)
        counts = [await (guard.disconnect(**call) if call is KICKED else guard.revoke(**call)) for call in calls]
        assert counts == [1, 0][: len(calls)]
        await held.goes_on(peer, expected)
        assert held.left == []
        assert len(held.connected) == (place == "connect")
        assert not lines(events, "connection.accepted")
        assert not lines(events, "connection.closed")
        [line] = lines(events, "connection.rejected", subject="user-1", token_id="a", namespace="/messages")
        assert line["reason"] == expected
        assert "\x1b" not in repr(line)
        if calls == [KICKED]:
            assert line["detail"] == "disconnect_called"
            assert any("fired" in str(value) for value in line.values())
            await peer.join("/messages", token)  # It was no revocation.

    async def test_another_worker_revokes_it_while_authorize_runs(self, clock: Clock) -> None:
        held = Held("authorize", clock)
        peer = await held.joining(token_at(clock, jti="a"))
        held.store.revoke(Revocation(None, "a", None, None, clock.now + 600))
        await held.goes_on(peer, "token_revoked")
        assert held.connected == []

    @pytest.mark.parametrize("place", PLACES)
    async def test_a_connect_whose_request_is_cancelled_leaves_nothing(self, place: str, clock: Clock) -> None:
        held = Held(place, clock)
        peer = await Client(held.case, "polling").open()
        posting = asyncio.ensure_future(peer.connect("/messages", token_at(clock)))
        await held.pause.entered.wait()
        posting.cancel()
        await asyncio.wait((posting,))
        # That is no business of the request that has brought it.
        assert held.case.guard.status()["connections"]["being_admitted"] == 1
        await peer.close()
        held.pause.release.set()
        nobody = {"open": 0, "being_admitted": 0, "by_namespace": {}, "by_transport": {}}
        await until(lambda: held.case.guard.status()["connections"] == nobody)

    async def test_the_connect_handler_may_do_it_itself(self, clock: Clock) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            await case.guard.disconnect(sid=sid, reason="not today")

        case = a_guard(clock, handlers={"connect": connect})
        peer = await Client(case).open()
        assert (await peer.refused("/messages", token_at(clock)))["code"] == "refused_by_app"

    async def test_the_disconnect_handler_has_nothing_left_to_disconnect(self, clock: Clock) -> None:
        counts: list[int] = []

        async def disconnect(sid: str, *_: Any) -> None:
            counts.append(await case.guard.disconnect(subject="user-1"))
            counts.append(await case.guard.revoke(subject="user-1"))

        case = a_guard(clock, handlers={"disconnect": disconnect})
        peer = await joined(case, token_at(clock))
        await close(case, peer)
        assert counts == [0, 0]


class TestTheStore:
    async def test_a_store_that_is_full(self, clock: Clock, events: Events) -> None:
        case = a_guard(clock, store=MemoryStore(capacity=1, clock=clock))
        first, second = token_at(clock, jti="first"), token_at(clock, jti="second")
        await case.guard.revoke(token_id="first")
        peer = await joined(case, second)
        with pytest.raises(StoreFull):
            await case.guard.revoke(token_id="second")
        # What can be done without the store is done, and what it has it keeps.
        await sent_away(peer, "/messages")
        assert (await peer.refused("/messages", first))["code"] == "token_revoked"
        line = lines(events, "token.revoked")[-1]
        assert (line["selector"], line["ended"], line["error"]) == ({"token_id": "second"}, 1, "StoreFull")
        await peer.join("/messages", second)

    @pytest.mark.parametrize("way", ["raises", "raises at once", "hangs"])
    async def test_a_store_that_does_not_take_it(self, way: str, clock: Clock) -> None:
        class Broken:
            def revoke(self, revocation: Revocation) -> Any:
                if way == "raises at once":
                    raise ConnectionError("gone")
                return self._later()

            async def _later(self) -> None:
                if way == "hangs":
                    await asyncio.Event().wait()
                raise ConnectionError("gone")

            def is_revoked(self, identity: Identity) -> bool:
                return False

        case = a_guard(clock, store=Broken(), store_timeout=0.05)
        peer = await joined(case, token_at(clock, jti="a"))
        with pytest.raises(StoreUnavailable if way == "hangs" else ConnectionError):
            await case.guard.revoke(token_id="a")
        await sent_away(peer, "/messages")

    async def test_whoever_shares_it_knows(self, clock: Clock) -> None:
        store = MemoryStore(clock=clock)
        here, there = a_guard(clock, store=store), a_guard(clock, store=store)
        token = token_at(clock, jti="a")
        peer = await joined(there, token)
        assert await here.guard.revoke(token_id="a") == 0
        assert await peer.alive()  # Until its client needs the store the next time.
        other = await Client(there).open()
        assert (await other.refused("/messages", token))["code"] == "token_revoked"
        await other.close()
        assert (await peer.call("/messages", "socketguard:refresh", {"token": token}))["code"] == "token_revoked"
        await sent_away(peer, "/messages")
        await close(there, peer)

    @pytest.mark.parametrize("explicit", [False, True])
    async def test_memory_is_warned_about_once(self, explicit: bool, clock: Clock, events: Events) -> None:
        case = a_guard(clock, **({"store": MemoryStore(clock=clock)} if explicit else {}))
        assert ("SG051" in {finding.id for finding in case.guard.check()}) is explicit
        for token_id in ("a", "b"):
            await case.guard.revoke(token_id=token_id)
        assert len(lines(events, "config.warning", id="SG051")) == (0 if explicit else 1)


class Unreliable:
    """A store whose look-ups do what they are told to; an exception is raised, anything else answered."""

    HANG = object()

    def __init__(self, *, asynchronous: bool) -> None:
        self.answer: Any = False
        self.asynchronous = asynchronous

    def revoke(self, revocation: Revocation) -> None:
        raise AssertionError

    def is_revoked(self, identity: Identity) -> Any:
        return self._later() if self.asynchronous else self._now()

    def _now(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def _later(self) -> Any:
        if self.answer is self.HANG:
            await asyncio.Event().wait()
        return self._now()


NO_ANSWERS = [ConnectionError("gone"), asyncio.CancelledError(), GeneratorExit(), None, 0, 1, "", "false", []]
NO_ANSWERS.append(Unreliable.HANG)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("answer", NO_ANSWERS, ids=repr)
class TestAStoreThatGivesNoAnswer:
    async def test_nobody_gets_in_and_who_is_in_stays(
        self, answer: Any, asynchronous: bool, clock: Clock, events: Events
    ) -> None:
        store = Unreliable(asynchronous=asynchronous)
        case = a_guard(clock, "/messages", "/b", store=store, store_timeout=0.05)
        inside, outside = await joined(case, token_at(clock)), await Client(case).open()
        store.answer = answer

        data = await inside.refused("/b", token_at(clock))
        assert (data["code"], data["retry"], data["retry_after"]) == ("keys_unavailable", "backoff", 5)
        assert await inside.alive()
        # To a stock client a refused CONNECT is final; from a closed transport it comes back by itself.
        await outside.connect("/messages", token_at(clock))
        assert await outside.closed() == 4503
        with pytest.raises(Refused) as caught:
            await Client(case).open()
        assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
        assert case.guard.status()["store"]["available"] is False
        [line] = lines(events, "store.unavailable")
        assert (line["level"], line["fail_open"]) == ("error", False)

        store.answer = False
        await inside.join("/b", token_at(clock))
        assert case.guard.status()["store"]["available"] is True
        assert len(lines(events, "store.recovered")) == 1
        await joined(case, token_at(clock))

    async def test_fail_open(self, answer: Any, asynchronous: bool, clock: Clock, events: Events) -> None:
        store = Unreliable(asynchronous=asynchronous)
        case = a_guard(clock, "/messages", "/b", store=store, store_timeout=0.05, fail_open=True)
        assert "SG053" in {finding.id for finding in case.guard.check()}
        store.answer = answer
        peer = await joined(case, token_at(clock), "/messages", "/b")
        assert len(lines(events, "store.unavailable", fail_open=True)) == 1
        store.answer = True
        assert (await peer.call("/b", "socketguard:refresh", {"token": token_at(clock)}))["code"] == "token_revoked"
        assert len(lines(events, "store.recovered")) == 1


async def test_a_hidden_namespace_stays_hidden_without_the_store(clock: Clock, events: Events) -> None:
    store = Unreliable(asynchronous=False)
    policies = ["/messages", NamespacePolicy("/secret", hidden=True)]
    case = a_guard(clock, "/messages", "/secret", namespaces=policies, store=store)
    peer = await joined(case, token_at(clock))
    store.answer = None
    await peer.connect("/secret", token_at(clock))
    assert (await peer.packet()).data == {"message": "Invalid namespace"}
    [line] = lines(events, "connection.rejected")
    assert (line["detail"], line["hidden_reason"]) == ("hidden", "keys_unavailable")


class TestDisconnect:
    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            ({"subject": "user-1"}, {"first /a", "first /b", "second /a"}),
            ({"subject": "user-1", "namespace": "/a"}, {"first /a", "second /a"}),
            ({"subject": "user-1", "issuer": "one"}, {"first /a", "first /b"}),
            ({"token_id": "x"}, {"first /a", "first /b", "third /a"}),
            ({"token_id": "x", "namespace": "/b"}, {"first /b"}),
            ({"token_id": "x", "issuer": "two"}, set()),
            ({"sid": "third /a"}, {"third /a"}),
            ({"sid": "third /a", "namespace": "/b"}, set()),
            ({"subject": "nobody"}, set()),
            ({"token_id": "nothing"}, set()),
            ({"sid": "unknown"}, set()),
        ],
    )
    async def test_each_selector(
        self, selector: dict[str, str], expected: set[str], clock: Clock, events: Events
    ) -> None:
        case = a_guard(clock, "/a", "/b")
        tokens = {
            "first": token_at(clock, jti="x", iss="one"),
            "second": token_at(clock, jti="y", iss="two"),
            "third": token_at(clock, subject="user-2", jti="x", iss="one"),
        }
        peers = {name: await Client(case).open() for name in tokens}
        sids = {
            f"{name} {namespace}": await peers[name].join(namespace, tokens[name])
            for name, namespace in (("first", "/a"), ("first", "/b"), ("second", "/a"), ("third", "/a"))
        }
        names = {sid: name for name, sid in sids.items()}
        if "sid" in selector:
            selector = {**selector, "sid": sids.get(selector["sid"], selector["sid"])}
        assert await case.guard.disconnect(**selector) == len(expected)  # type: ignore[arg-type]
        assert {names[line["sid"]] for line in lines(events, "connection.closed", reason="kicked")} == expected
        assert {names[each.sid] for each in case.guard.connections()} == set(names.values()) - expected
        [line] = lines(events, "subject.disconnected")
        assert (line["selector"], line["ended"], line["level"]) == (selector, len(expected), "info")
        for name in sorted(expected):
            peer, namespace = peers[name.split()[0]], name.split()[1]
            await peer.disconnected(namespace)
        if expected:  # They may come again at once.
            peer, namespace = peers[min(expected).split()[0]], min(expected).split()[1]
            await peer.join(namespace, tokens[min(expected).split()[0]])

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_client_is_told_the_reason(self, kind: str, clock: Clock, events: Events) -> None:
        case = a_guard(clock, server_options=serializer(kind))
        peer, sid = await joined_client(case, "/messages", token_at(clock), kind=kind)
        assert await case.guard.disconnect(sid=sid, reason="moved to another\x1b[31m tenant") == 1
        said = {"code": "kicked", "message": "moved to another\\u001b[31m tenant", "retry": "never"}
        assert (await peer.packet()).data == ["socketguard:closing", said]
        await peer.disconnected("/messages")
        [line] = lines(events, "connection.closed")
        assert line["reason"] == "kicked"
        assert "moved to another" in line["detail"]
        assert "\x1b" not in repr(events)
        sid = await peer.join("/messages", token_at(clock))
        assert await case.guard.disconnect(sid=sid) == 1
        await peer.disconnected("/messages")

    @pytest.mark.parametrize(
        "selector",
        [
            {},
            {"subject": "a", "sid": "b"},
            {"subject": "a", "token_id": "b", "sid": "c"},
            {"subject": 5},
            {"sid": b"bytes"},
            {"sid": ""},
            {"subject": ""},
            {"token_id": ""},
            {"issuer": "one"},
            {"namespace": "/messages"},
        ],
    )
    async def test_disconnect_with_a_selector_that_can_not_work(self, selector: dict[str, Any], clock: Clock) -> None:
        held = Held("authorize", clock)
        peer = await held.joining(token_at(clock))
        with pytest.raises(ConfigurationError):
            await held.case.guard.disconnect(**selector)
        await held.goes_on(peer, None)

    @pytest.mark.parametrize("call", ["disconnect", "revoke"])
    async def test_a_disconnect_handler_that_hangs_is_not_waited_for(self, call: str, clock: Clock) -> None:
        pause = Pause()
        case = a_guard(clock, "/messages", "/b", handlers={"disconnect": pause.wait})
        peer = await joined(case, token_at(clock, 600), "/messages", "/b")
        if call == "disconnect":
            calling = asyncio.ensure_future(case.guard.disconnect(subject="user-1", namespace="/messages"))
        else:
            calling = asyncio.ensure_future(case.guard.revoke(subject="user-1"))
        await pause.entered.wait()
        await rest()
        assert not calling.done()
        clock.passes(5)
        assert await calling == (1 if call == "disconnect" else 2)
        # What its client sends meanwhile is for nobody.
        await peer.emit("/messages", "echo", "too late", number=1)
        # And a second call does not count it once more.
        assert await case.guard.disconnect(subject="user-1", namespace="/messages") == 0
        pause.release.set()

    async def test_one_that_raises(self, clock: Clock, events: Events) -> None:
        async def disconnect(sid: str, *_: Any) -> None:
            raise RuntimeError("broken")

        case = a_guard(clock, handlers={"disconnect": disconnect})
        peer = await joined(case, token_at(clock))
        assert await case.guard.disconnect(subject="user-1") == 1
        await peer.disconnected("/messages")
        assert lines(events, "handler.failed", error="RuntimeError")


async def test_where_there_are_no_tokens_there_is_nothing_to_revoke() -> None:
    case = guarded(auth=None)
    peer, sid = await joined_client(case, "/messages", None)
    with pytest.raises(ConfigurationError) as caught:
        await case.guard.revoke(token_id="a", expires_at=2_000_000_000)
    assert caught.value.option == "auth"
    assert await case.guard.disconnect(sid=sid) == 1
    await peer.disconnected("/messages")


async def test_what_comes_after_the_revocation_is_not_dispatched(clock: Clock) -> None:
    """From the moment of the call on, before anything has been sent."""
    seen: list[Any] = []

    async def order(sid: str, what: str) -> None:
        seen.append(what)

    case = a_guard(clock, handlers={"order": order})
    peer = await joined(case, token_at(clock, jti="a"))
    [connection] = case.guard.connections()
    revoking = asyncio.ensure_future(case.guard.revoke(token_id="a"))
    await asyncio.sleep(0)
    assert connection.state == Connection.JOINED
    await case.server._trigger_event("order", "/messages", connection.sid, "everything")
    assert await revoking == 1
    assert seen == []
    await sent_away(peer, "/messages")


async def test_it_expires_while_its_revocation_is_under_way(clock: Clock, events: Events) -> None:
    case = a_guard(clock)
    peer = await joined(case, token_at(clock, 60, jti="a"))
    revoking = asyncio.ensure_future(case.guard.revoke(token_id="a"))
    clock.passes(60 + LEEWAY)
    assert await revoking == 1
    await sent_away(peer, "/messages")
    await until(lambda: lines(events, "connection.closed"))
    assert [line["reason"] for line in lines(events, "connection.closed")] == ["token_revoked"]


class Slow(MemoryStore):
    """A store on the far side of a slow network."""

    def __init__(self, pause: Pause) -> None:
        super().__init__()
        self._pause = pause

    async def revoke(self, revocation: Revocation) -> None:  # type: ignore[override]
        await self._pause.wait()
        super().revoke(revocation)


class TestBeforeTheStoreHasConfirmed:
    async def test_nobody_goes_on_and_nobody_gets_in(self) -> None:
        pause = Pause()
        case = guarded(store=Slow(pause), store_timeout=30.0)
        token = mint("u-1", jti="t-1")
        wire, _ = await joined_wire(case.app, token=token)
        revoking = asyncio.ensure_future(case.guard.revoke(token_id="t-1"))
        await pause.entered.wait()
        assert not [each for each in case.guard.connections() if each.reason is None]
        await wire.send('42/messages,1["echo",1]')
        await case.server.emit("news", 1, namespace="/messages")
        assert not [frame for frame in await wire.frames() if str(frame).startswith(("43", '42/messages,["news"'))]
        other = await open_wire(case.app, connect_packet(token=token))
        assert refusal_in(await other.frame())["data"]["code"] == "token_revoked"
        late, _ = await joined_wire(case.app, token=mint("u-1", jti="t-2"))
        await late.send(f'42/messages,7["socketguard:refresh",{{"token":"{token}"}}]')
        frames = await late.frames()
        assert '"code":"token_revoked"' in str(frames[0])
        pause.release.set()
        assert await revoking == 1
        again = await open_wire(case.app, connect_packet(token=token))
        assert refusal_in(await again.frame())["data"]["code"] == "token_revoked"

    async def test_a_store_that_fails_leaves_nothing_behind(self) -> None:
        store = Store()
        case = guarded(store=store)
        wire, _ = await joined_wire(case.app, token=mint("u-1", jti="t-1"))

        async def fail(revocation: Revocation) -> None:
            raise OSError("no route to host")

        store.revoke = fail  # type: ignore[method-assign]
        with pytest.raises(OSError, match="no route"):
            await case.guard.revoke(token_id="t-1")
        assert [frame for frame in await wire.frames() if "token_revoked" in str(frame)]
        assert not case.guard._parts.revocations._under_way
