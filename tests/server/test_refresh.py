"""A fresh token takes the place of the old one while the connection goes on, or is refused and changes nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from socketguard import JWTAuth, Limits, MemoryStore, NamespacePolicy, SocketGuard, current_connection
from socketguard.connection import Connection, Identity
from socketguard.limits.revocation import Revocation
from socketguard.testing import TEST_SECRET, make_auth, mint
from tests.scripted import (
    KINDS,
    STYLES,
    Client,
    Clock,
    Events,
    Guarded,
    Pause,
    Store,
    gone,
    guarded,
    joined_client,
    lines,
    rest,
    serializer,
    styled,
    token_at,
    until,
)
from tests.server.keyserver import KeyServer, signed

LEEWAY = 10
REFRESH = "socketguard:refresh"


def a_guard(clock: Clock, **options: Any) -> Guarded:
    return guarded(auth=make_auth(clock=clock, max_lifetime=7200), **{"expiring_notice": None, **options})


async def joined(case: Guarded, clock: Clock, namespace: str = "/messages", **claims: Any) -> tuple[Client, str]:
    """A client whose token lives for a minute."""
    peer = await Client(case).open()
    return peer, await peer.join(namespace, token_at(clock, 60, **claims))


async def ends_after(case: Guarded, clock: Clock, peer: Client, seconds: float, namespace: str = "/messages") -> None:
    """The connection lives for so many seconds from now on, and no longer."""
    clock.passes(seconds - 1)
    assert await peer.alive(namespace)
    clock.passes(1)
    await peer.told(namespace, "token_expired")
    await peer.closed()


async def offered(peer: Client, token: str, pausing: Pause) -> None:
    """A fresh token is looked at, and something waits."""
    await peer.emit("/messages", REFRESH, {"token": token}, number=1)
    await pausing.entered.wait()


async def unchanged(case: Guarded, clock: Clock, peer: Client) -> None:
    """The connection goes on with the old token until that ends, and had no other."""
    [connection] = case.guard.connections()
    assert (connection.identity.token_id, connection.refreshes) == ("old", 0)
    await ends_after(case, clock, peer, 70)


def of_refusal(answer: dict[str, Any]) -> tuple[Any, ...]:
    assert answer["ok"] is False
    assert set(answer) - {"retry_after"} == {"ok", "code", "message", "retry", "ref"}
    return answer["code"], answer["retry"]


class TestInEachWay:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_connection_goes_on_with_it(self, style: str, kind: str, clock: Clock, events: Events) -> None:
        seen: list[Any] = []
        case = styled(style, lambda *args: seen.append(args), kind=kind, auth=make_auth(clock=clock))
        peer, sid = await joined_client(case, "/messages", token_at(clock, 60, jti="o" * 200), kind=kind)
        clock.passes(45)
        assert await peer.event("/messages", "socketguard:expiring") == {"in": 25}

        assert await peer.refresh("/messages", token_at(clock, 100, jti="new", scope="more")) == {
            "ok": True,
            "expires_in": 100 + LEEWAY,
        }
        identity = case.guard.identity(sid, "/messages")
        assert (identity.token_id, identity.scopes) == ("new", {"more"})
        [line] = lines(events, "token.refreshed")
        assert {name: line[name] for name in ("sid", "token_id", "previous", "expires_in_s", "refreshes", "level")} == {
            "sid": sid,
            "token_id": "new",
            "previous": f"{'o' * 128}…",
            "expires_in_s": 110,
            "refreshes": 1,
            "level": "info",
        }

        clock.passes(80)  # Past the end of the old one, and at the next notice.
        assert await peer.event("/messages", "socketguard:expiring") == {"in": 30}
        assert await peer.alive()
        clock.passes(30)
        await peer.told("/messages", "token_expired")
        await peer.closed()
        assert seen == [("echo", "hello")]
        await gone(case)
        [closed] = lines(events, "connection.closed")
        assert (closed["refreshes"], closed["token_id"]) == (1, "new")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("style", STYLES)
    async def test_in_a_binary_event(self, style: str, kind: str, clock: Clock) -> None:
        seen: list[Any] = []
        case = styled(
            style, lambda *args: seen.append(args), kind=kind, auth=make_auth(clock=clock), expiring_notice=None
        )
        peer, sid = await joined_client(case, "/messages", token_at(clock, 60), kind=kind)
        fresh = {"token": token_at(clock, 100, jti="new")}
        assert await peer.call("/messages", REFRESH, fresh, b"\0binary\xff") == {"ok": True, "expires_in": 110}
        assert case.guard.identity(sid).token_id == "new"
        answer = await peer.call("/messages", REFRESH, {"token": token_at(clock, 100).encode()})
        assert of_refusal(answer) == ("token_malformed", "login")
        answer = await peer.call("/messages", REFRESH, b"bytes")
        assert of_refusal(answer) == ("token_malformed", "login")
        assert case.guard.identity(sid).token_id == "new"
        assert seen == []

    @pytest.mark.parametrize("kind", KINDS)
    async def test_without_an_acknowledgement(self, kind: str, clock: Clock) -> None:
        case = a_guard(clock, server_options=serializer(kind))
        peer, sid = await joined_client(case, "/messages", token_at(clock, 60), kind=kind)
        await peer.emit("/messages", REFRESH, {"token": token_at(clock, 100, jti="new")})
        await until(lambda: case.guard.identity(sid).token_id == "new")
        await peer.emit("/messages", REFRESH, {"token": "nonsense"})
        assert await peer.alive()  # And nothing was sent before.

    async def test_when_events_are_handled_one_after_the_other(self, clock: Clock) -> None:
        case = a_guard(clock, server_options={"async_handlers": False})
        peer, sid = await joined(case, clock)
        assert (await peer.refresh("/messages", token_at(clock, 100, jti="new")))["ok"] is True
        assert case.guard.identity(sid).token_id == "new"
        await ends_after(case, clock, peer, 110)

    async def test_each_namespace_has_a_token_of_its_own(self, clock: Clock) -> None:
        case = guarded("/a", "/b", auth=make_auth(clock=clock), expiring_notice=None)
        peer = await Client(case).open()
        for namespace in ("/a", "/b"):
            await peer.join(namespace, token_at(clock, 60))
        assert (await peer.refresh("/a", token_at(clock, 100)))["ok"] is True
        clock.passes(70)
        await peer.sent_away("/b", "token_expired")
        await ends_after(case, clock, peer, 40, "/a")

    async def test_in_the_root_namespace(self, clock: Clock) -> None:
        case = guarded("/", auth=make_auth(clock=clock), expiring_notice=None)
        peer, sid = await joined(case, clock, "/")
        assert (await peer.refresh("/", token_at(clock, 100, jti="new")))["ok"] is True
        assert case.guard.identity(sid, "/").token_id == "new"

    async def test_again_and_again(self, clock: Clock, events: Events) -> None:
        case = a_guard(clock, expiring_notice=30)
        peer, sid = await joined(case, clock)
        for number in range(1, 6):
            clock.passes(40)
            assert await peer.event("/messages", "socketguard:expiring") == {"in": 30}
            assert (await peer.refresh("/messages", token_at(clock, 60)))["expires_in"] == 70
            assert case.guard.connections()[0].refreshes == number
        assert len(lines(events, "token.expiring", sid=sid)) == 5

    async def test_a_token_that_lives_for_less_than_the_notice_asks_for_no_flood(self, clock: Clock) -> None:
        case = a_guard(clock, expiring_notice=30)
        peer, _ = await joined_client(case, "/messages", token_at(clock, 10))
        assert await peer.event("/messages", "socketguard:expiring") == {"in": 20}
        assert (await peer.refresh("/messages", token_at(clock, 10)))["expires_in"] == 20
        assert await peer.alive()
        clock.passes(10)
        assert await peer.event("/messages", "socketguard:expiring") == {"in": 10}

    async def test_a_shorter_token_ends_sooner(self, clock: Clock) -> None:
        case = a_guard(clock)
        peer, _ = await joined(case, clock)
        assert (await peer.refresh("/messages", token_at(clock, 5)))["expires_in"] == 15
        await ends_after(case, clock, peer, 15)


class TestWhatIsNoGoodToken:
    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            ([], ("token_missing", "login")),
            ([None], ("token_missing", "login")),
            ([{}], ("token_missing", "login")),
            ([{"token": None}], ("token_missing", "login")),
            ([{"token": ""}], ("token_missing", "login")),
            ([{"access_token": "x"}], ("token_missing", "login")),
            ([{"token": 5}], ("token_malformed", "login")),
            ([{"token": ["x"]}], ("token_malformed", "login")),
            ([{"token": True}], ("token_malformed", "login")),
            (["x"], ("token_malformed", "login")),
            ([["x"]], ("token_malformed", "login")),
            ([0], ("token_malformed", "login")),
            ([{"token": "nonsense"}], ("token_malformed", "login")),
            ([{"token": "a.b." + "c" * 100_000}], ("token_malformed", "login")),
            ([{"token": "\x1b[31m\n"}], ("token_malformed", "login")),
            ([{"token": mint(key="another-secret-that-is-long-enough-for-HS256")}], ("token_invalid", "login")),
            ([{"token": mint(lifetime=-3600)}], ("token_expired", "refresh")),
            ([{"token": mint(now=4_000_000_000, lifetime=60)}], ("token_invalid", "login")),
        ],
    )
    async def test_it_is_refused_and_the_old_one_goes_on(
        self, sent: list[Any], expected: tuple[str, str], clock: Clock, events: Events
    ) -> None:
        case = a_guard(clock)
        peer, sid = await joined(case, clock, jti="old")
        answer = await peer.call("/messages", REFRESH, *sent)
        if expected[0] == "token_invalid":
            assert answer["code"] in ("token_invalid", "token_not_yet_valid")
        else:
            assert of_refusal(answer) == expected
        [line] = lines(events, "token.refresh_rejected")
        assert {name: line[name] for name in ("reason", "ref", "sid", "level", "token_id")} == {
            "reason": answer["code"],
            "ref": answer["ref"],
            "sid": sid,
            "level": "warning",
            "token_id": "old",
        }
        assert line["detail"]
        assert "\x1b" not in repr(line)
        await unchanged(case, clock, peer)

    async def test_the_guards_other_names_are_no_way_around(self, clock: Clock) -> None:
        seen: list[Any] = []
        case = styled("function", lambda *args: seen.append(args), auth=make_auth(clock=clock))
        peer, sid = await joined(case, clock, jti="old")
        for name in ("socketguard:refresh ", "socketguard:expiring", "socketguard:closing", "socketguard:"):
            await peer.emit("/messages", name, {"token": token_at(clock, 100, jti="new")}, number=1)
        assert await peer.call("/messages", "Socketguard:refresh", "a name of the application's") == (
            "a name of the application's"
        )
        assert case.guard.identity(sid).token_id == "old"
        assert [name for name, *_ in seen] == ["Socketguard:refresh"]


class TestSomebodyElse:
    @pytest.mark.parametrize(
        ("old", "new", "detail"),
        [
            ({}, {"subject": "user-2"}, "subject"),
            ({"iss": "one"}, {"iss": "two"}, "issuer"),
            ({"iss": "one"}, {}, "issuer"),
            ({"tenant": "acme"}, {"tenant": "other"}, "claim_changed"),
            ({"tenant": "acme"}, {}, "claim_changed"),
            ({}, {"tenant": "acme"}, "claim_changed"),
            ({"tenant": 1}, {"tenant": True}, "claim_changed"),
            ({"tenant": 1}, {"tenant": "1"}, "claim_changed"),
            ({"tenant": ["a", "b"]}, {"tenant": ["b", "a"]}, "claim_changed"),
        ],
    )
    async def test_it_is_refused(
        self, old: dict[str, Any], new: dict[str, Any], detail: str, clock: Clock, events: Events
    ) -> None:
        case = a_guard(clock, stable_claims=("plan", "tenant"))
        peer, _ = await joined(case, clock, jti="old", plan="free", **old)
        answer = await peer.refresh("/messages", token_at(clock, 600, **{"plan": "free", **new}))
        assert of_refusal(answer) == ("subject_mismatch", "never")
        assert lines(events, "token.refresh_rejected")[0]["detail"] == detail
        await unchanged(case, clock, peer)

    @pytest.mark.parametrize("tenant", ["acme", 5, True, ["a", {"b": 1}], None])
    async def test_the_same_value_is_fine(self, tenant: Any, clock: Clock) -> None:
        case = a_guard(clock, stable_claims=("tenant",))
        peer, _ = await joined(case, clock, tenant=tenant, other="one")
        answer = await peer.refresh("/messages", token_at(clock, 600, tenant=tenant, other="two"))
        assert answer["ok"] is True

    @pytest.mark.parametrize(("tenant", "detail"), [("other", "claim_changed"), (5, "claim_changed"), ("5", None)])
    async def test_the_claims_of_a_pattern(self, tenant: Any, detail: str | None, clock: Clock, events: Events) -> None:
        def prepare(server: Any) -> None:
            server.on("echo", _echo_anywhere, namespace="*")

        policy = NamespacePolicy("/tenant-{tenant}", claims={"tenant_id": "{tenant}"})
        case = a_guard(clock, prepare=prepare, namespaces=[policy])
        peer, sid = await joined(case, clock, "/tenant-5", tenant_id="5")
        answer = await peer.refresh("/tenant-5", token_at(clock, 600, tenant_id=tenant, jti="new"))
        if detail is None:
            assert answer["ok"] is True
            assert case.guard.identity(sid).token_id == "new"
        else:
            # 5 would open the namespace as well as "5"; rooms may have been chosen by its type.
            assert of_refusal(answer) == ("subject_mismatch", "never")
            assert lines(events, "token.refresh_rejected")[0]["detail"] == detail
        assert await peer.alive("/tenant-5")

    async def test_nobody_becomes_somebody(self, clock: Clock) -> None:
        case = a_guard(clock, namespaces=[NamespacePolicy("/messages", token="optional")])
        peer, sid = await joined_client(case, "/messages", None)
        assert of_refusal(await peer.refresh("/messages", token_at(clock))) == ("not_signed_in", "now")
        assert not case.guard.identity(sid).is_authenticated

    async def test_where_there_are_no_tokens(self) -> None:
        case = guarded(auth=None)
        peer, _ = await joined_client(case, "/messages", None)
        assert of_refusal(await peer.refresh("/messages", mint())) == ("subject_mismatch", "never")


async def _echo_anywhere(namespace: str, sid: str, *args: Any) -> Any:
    return args


class TestThePolicyOfTheNamespace:
    async def test_a_scope_that_was_lost(self, clock: Clock, events: Events) -> None:
        case = a_guard(clock, namespaces=[NamespacePolicy("/messages", scopes={"read"})])
        peer, sid = await joined(case, clock, scope="read write")
        answer = await peer.refresh("/messages", token_at(clock, 600, scope="write"))
        assert of_refusal(answer) == ("insufficient_scope", "never")
        assert case.guard.identity(sid).scopes == {"read", "write"}
        assert lines(events, "token.refresh_rejected")[0]["missing"] == ["read"]
        await ends_after(case, clock, peer, 70)

    async def test_a_scope_that_was_gained_counts_at_once(self, clock: Clock) -> None:
        @SocketGuard.requires("write")
        async def write(sid: str) -> str:
            return "written"

        case = a_guard(clock, handlers={"write": write})
        peer, _ = await joined(case, clock, scope="read")
        assert (await peer.call("/messages", "write"))["code"] == "insufficient_scope"
        assert (await peer.refresh("/messages", token_at(clock, 600, scope="read write")))["ok"] is True
        assert await peer.call("/messages", "write") == "written"
        assert (await peer.refresh("/messages", token_at(clock, 600, scope="read")))["ok"] is True
        assert (await peer.call("/messages", "write"))["code"] == "insufficient_scope"

    @pytest.mark.parametrize("asynchronous", [False, True])
    @pytest.mark.parametrize("answer", [True, False, None, 1, "yes", RuntimeError("broken")])
    async def test_authorize_is_asked_about_the_fresh_token(
        self, answer: Any, asynchronous: bool, clock: Clock, events: Events
    ) -> None:
        asked: list[Any] = []

        def authorize(identity: Identity, connection: Connection) -> Any:
            asked.append((identity.token_id, connection.identity.token_id))
            if len(asked) == 1:
                return True
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def authorize_later(identity: Identity, connection: Connection) -> Any:
            return authorize(identity, connection)

        policy = NamespacePolicy("/messages", authorize=authorize_later if asynchronous else authorize)
        case = a_guard(clock, namespaces=[policy])
        peer, sid = await joined(case, clock, jti="old")
        found = await peer.refresh("/messages", token_at(clock, 600, jti="new"))
        assert asked == [("old", "old"), ("new", "old")]
        if answer is True:
            assert found["ok"] is True
        elif isinstance(answer, Exception):
            assert of_refusal(found) == ("internal_error", "backoff")
            [line] = lines(events, "token.refresh_rejected")
            assert (line["detail"], line["error"]) == ("refresh", "RuntimeError")
        else:
            assert of_refusal(found) == ("insufficient_scope", "never")
        assert case.guard.identity(sid).token_id == ("new" if answer is True else "old")

    @pytest.mark.parametrize("where", ["authorize", "on_refresh"])
    async def test_who_is_cancelled_with_all_the_rest(self, where: str, clock: Clock) -> None:
        entered, calls = asyncio.Event(), 0

        async def hang(*args: Any) -> bool:
            nonlocal calls
            calls += 1
            if calls == (2 if where == "authorize" else 1):
                entered.set()
                await asyncio.Event().wait()
            return True

        authorize, on_refresh = (hang, None) if where == "authorize" else (None, hang)
        case = a_guard(clock, namespaces=[NamespacePolicy("/messages", authorize=authorize)], on_refresh=on_refresh)
        peer, sid = await joined(case, clock, jti="old")
        fresh = {"token": token_at(clock, 600, jti="new")}
        await peer.emit("/messages", REFRESH, fresh, number=1)
        await entered.wait()
        (handling,) = [task for task in asyncio.all_tasks() if "_event" in task.get_coro().__qualname__]
        handling.cancel()
        await asyncio.wait((handling,))
        assert case.guard.identity(sid).token_id == "old"
        assert (await peer.refresh("/messages", fresh["token"]))["ok"] is True

    async def test_a_token_that_expires_while_authorize_runs(self, clock: Clock) -> None:
        calls = 0

        async def authorize(identity: Identity, connection: Connection) -> bool:
            nonlocal calls
            calls += 1
            if calls > 1:
                clock.move(30)
            return True

        case = a_guard(clock, namespaces=[NamespacePolicy("/messages", authorize=authorize)])
        peer, sid = await joined(case, clock, jti="old")
        answer = await peer.refresh("/messages", token_at(clock, 20))
        assert of_refusal(answer) == ("token_expired", "refresh")
        assert case.guard.identity(sid).token_id == "old"
        await ends_after(case, clock, peer, 40)

    async def test_a_namespace_that_is_not_served_any_more(self, clock: Clock) -> None:
        case = a_guard(clock)
        peer, _ = await joined(case, clock)
        del case.server.handlers["/messages"]
        answer = await peer.refresh("/messages", token_at(clock, 600))
        assert (answer["code"], answer["retry"]) == ("invalid_namespace", None)


class TestOnRefresh:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_it_sees_both_tokens_before_the_new_one_counts(self, asynchronous: bool, clock: Clock) -> None:
        called: list[Any] = []

        def on_refresh(connection: Connection, old: Identity, new: Identity) -> None:
            assert current_connection() is connection
            called.append((old.token_id, new.token_id, connection.identity.token_id, connection.refreshes))

        async def later(connection: Connection, old: Identity, new: Identity) -> None:
            await asyncio.sleep(0)
            on_refresh(connection, old, new)

        case = a_guard(clock, on_refresh=later if asynchronous else on_refresh)
        peer, sid = await joined(case, clock, jti="one")
        assert (await peer.refresh("/messages", token_at(clock, jti="two")))["ok"] is True
        assert (await peer.refresh("/messages", token_at(clock, jti="three", scope="x")))["ok"] is True
        assert (await peer.refresh("/messages", token_at(clock, subject="user-2")))["ok"] is False
        assert called == [("one", "two", "one", 0), ("two", "three", "two", 1)]
        assert case.guard.identity(sid).token_id == "three"

    @pytest.mark.parametrize("times", [0, 1, 2])
    @pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, GeneratorExit])
    async def test_what_it_raises_refuses_the_token(
        self, error: type[BaseException], times: int, clock: Clock, events: Events
    ) -> None:
        def on_refresh(*args: Any, times: int = times) -> Any:
            if times:
                return later(times - 1)
            raise error("secret-of-the-application")

        async def later(times: int) -> Any:
            return on_refresh(times=times)

        case = a_guard(clock, on_refresh=on_refresh)
        peer, _ = await joined(case, clock, jti="old")
        answer = await peer.refresh("/messages", token_at(clock, 600))
        assert of_refusal(answer) == ("internal_error", "backoff")
        assert "secret" not in json.dumps(answer)
        [line] = lines(events, "token.refresh_rejected")
        assert (line["detail"], line["ref"]) == ("on_refresh", answer["ref"])
        assert line["error"] in (error.__name__, "Escaped")
        await unchanged(case, clock, peer)

    @pytest.mark.parametrize("said", [False, 0, "no", [None]], ids=repr)
    @pytest.mark.parametrize("times", [0, 1, 2])
    async def test_anything_but_none_and_true_is_no_yes(
        self, said: Any, times: int, clock: Clock, events: Events
    ) -> None:
        def on_refresh(*args: Any, times: int = times) -> Any:
            return later(times - 1) if times else said

        async def later(times: int) -> Any:
            return on_refresh(times=times)

        case = a_guard(clock, on_refresh=on_refresh)
        peer, _ = await joined(case, clock, jti="old")
        assert of_refusal(await peer.refresh("/messages", token_at(clock, 600))) == ("insufficient_scope", "never")
        [line] = lines(events, "token.refresh_rejected")
        assert (line["detail"], line["received"]) == ("on_refresh_refused", type(said).__name__)
        await unchanged(case, clock, peer)

    @pytest.mark.parametrize("where", ["authorize", "on_refresh"])
    async def test_what_hangs_refuses_the_token(self, where: str, clock: Clock, events: Events) -> None:
        pausing, calls = Pause(), 0

        async def authorize(identity: Identity, connection: Connection) -> bool:
            nonlocal calls
            calls += 1
            return calls == 1 or await pausing.wait()

        policy = NamespacePolicy("/messages", authorize=authorize if where == "authorize" else None)
        on_refresh = pausing.wait if where == "on_refresh" else None
        case = a_guard(clock, namespaces=[policy], on_refresh=on_refresh, admission_timeout=0.05)
        peer, _ = await joined(case, clock, jti="old")
        answer = await peer.refresh("/messages", token_at(clock, 600))
        assert of_refusal(answer) == ("admission_timeout", "backoff")
        assert lines(events, "token.refresh_rejected")[0]["detail"] == where
        await unchanged(case, clock, peer)

    async def test_another_one_may_follow_one_that_hangs(self, clock: Clock) -> None:
        pausing = Pause()
        case = a_guard(clock, on_refresh=pausing.wait, admission_timeout=0.05)
        peer, _ = await joined(case, clock)
        assert (await peer.refresh("/messages", token_at(clock, 600)))["code"] == "admission_timeout"
        pausing.release.set()
        assert (await peer.refresh("/messages", token_at(clock, 600)))["ok"] is True


class TestTwoAtOnce:
    async def test_the_second_is_told_to_wait(self, clock: Clock) -> None:
        pausing = Pause()
        case = a_guard(clock, on_refresh=pausing.wait)
        peer, sid = await joined(case, clock, jti="old")
        await offered(peer, token_at(clock, 600, jti="first"), pausing)
        answer = await peer.refresh("/messages", token_at(clock, 900, jti="second"))
        assert of_refusal(answer) == ("rate_limited", "backoff")
        assert answer["retry_after"] == 1
        assert await peer.alive()  # Events go on meanwhile.
        assert case.guard.identity(sid).token_id == "old"
        pausing.release.set()
        assert (await peer.packet()).data == [{"ok": True, "expires_in": 610}]
        assert case.guard.identity(sid).token_id == "first"
        assert (await peer.refresh("/messages", token_at(clock, 900, jti="second")))["ok"] is True

    async def test_other_connections_are_no_concern_of_it(self, clock: Clock) -> None:
        pausing = Pause()
        case = guarded("/a", "/b", auth=make_auth(clock=clock), on_refresh=pausing.wait)
        peer = await Client(case).open()
        for namespace in ("/a", "/b"):
            await peer.join(namespace, token_at(clock, 600))
        await peer.emit("/a", REFRESH, {"token": token_at(clock, 600)}, number=1)
        await pausing.entered.wait()
        await peer.emit("/b", REFRESH, {"token": token_at(clock, 600)}, number=2)
        pausing.release.set()
        answers = [await peer.packet(), await peer.packet()]
        assert [(answer.number, answer.data[0]["ok"]) for answer in answers] == [(1, True), (2, True)]


class TestItsBudget:
    async def test_it_has_one_of_its_own(self, clock: Clock) -> None:
        @SocketGuard.requires(rate="1/day")
        async def rated(sid: str) -> str:
            return "done"

        case = a_guard(clock, handlers={"rated": rated}, limits=Limits(refreshes_per_connection="2/day"))
        peer, _ = await joined(case, clock)
        assert await peer.call("/messages", "rated") == "done"
        assert (await peer.call("/messages", "rated"))["code"] == "rate_limited"
        assert (await peer.refresh("/messages", token_at(clock)))["ok"] is True
        assert (await peer.refresh("/messages", "nonsense"))["code"] == "token_malformed"
        answer = await peer.refresh("/messages", token_at(clock))
        assert of_refusal(answer) == ("rate_limited", "backoff")
        assert 0 < answer["retry_after"] <= 12 * 3600 + 1
        assert await peer.alive()
        other, _ = await joined(case, clock)
        assert (await other.refresh("/messages", token_at(clock)))["ok"] is True

    async def test_it_can_be_turned_off(self, clock: Clock) -> None:
        case = a_guard(clock, limits=Limits(refreshes_per_connection=None))
        peer, _ = await joined(case, clock)
        for _ in range(50):
            assert (await peer.refresh("/messages", token_at(clock)))["ok"] is True


class TestRevokedTokens:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_who_offers_one_is_sent_away(self, kind: str, clock: Clock, events: Events) -> None:
        case = guarded(
            "/messages", "/b", server_options=serializer(kind), auth=make_auth(clock=clock, max_lifetime=7200)
        )
        peer, sid = await joined_client(case, "/messages", token_at(clock, 600, jti="old"), kind=kind)
        await peer.join("/b", token_at(clock, 600, jti="other"))
        assert await case.guard.revoke(token_id="stolen") == 0
        answer = await peer.refresh("/messages", token_at(clock, 600, jti="stolen"))
        assert of_refusal(answer) == ("token_revoked", "login")
        assert await peer.told("/messages", "token_revoked") == "login"
        await peer.disconnected("/messages")
        assert await peer.alive("/b")
        await until(lambda: lines(events, "connection.closed"))
        [closed] = lines(events, "connection.closed")
        assert (closed["reason"], closed["sid"], closed["token_id"]) == ("token_revoked", sid, "old")
        assert lines(events, "token.refresh_rejected")[0]["reason"] == "token_revoked"

    @pytest.mark.parametrize("where", ["on_refresh", "authorize", "authorize, by another worker", "store"])
    async def test_a_fresh_token_that_is_revoked_while_something_waits(self, where: str, clock: Clock) -> None:
        pausing, calls = Pause(), 0

        async def authorize(identity: Identity, connection: Connection) -> bool:
            nonlocal calls
            calls += 1
            return calls == 1 or await pausing.wait()

        store: Any = Store() if where == "store" else MemoryStore(clock=clock)
        case = a_guard(
            clock,
            store=store,
            namespaces=[NamespacePolicy("/messages", authorize=authorize if "authorize" in where else None)],
            on_refresh=pausing.wait if where == "on_refresh" else None,
        )
        peer, sid = await joined(case, clock, jti="old")
        if where == "store":
            store.pause = pausing
        await offered(peer, token_at(clock, 600, jti="new"), pausing)
        if "another worker" in where:
            store.revoke(Revocation(None, "new", None, None, clock.now + 600))
        else:
            await case.guard.revoke(token_id="new")
        pausing.release.set()
        # Once everything has come to rest, no connection is open with this token.
        await until(lambda: not any(each.sid == sid and each.refreshing for each in case.guard.connections()))
        await rest()
        assert [each for each in case.guard.connections() if each.identity.token_id == "new"] == []

    async def test_the_old_token_is_revoked_while_on_refresh_runs(self, clock: Clock, events: Events) -> None:
        pausing = Pause()
        case = a_guard(clock, on_refresh=pausing.wait)
        peer, _ = await joined(case, clock, jti="old")
        await offered(peer, token_at(clock, 600, jti="new"), pausing)
        assert await case.guard.revoke(token_id="old") == 1
        await peer.sent_away("/messages", "token_revoked")
        pausing.release.set()
        await peer.close()
        await gone(case)
        assert not lines(events, "token.refreshed")
        assert [line["reason"] for line in lines(events, "connection.closed")] == ["token_revoked"]

    @pytest.mark.parametrize("fail_open", [False, True])
    async def test_the_store_gives_no_answer(self, fail_open: bool, clock: Clock, events: Events) -> None:
        store = Store()
        case = a_guard(clock, store=store, fail_open=fail_open)
        peer, sid = await joined(case, clock, jti="old")
        store.error = ConnectionError("the store is down")
        answer = await peer.refresh("/messages", token_at(clock, 600, jti="new"))
        if fail_open:
            assert answer["ok"] is True
        else:
            assert of_refusal(answer) == ("keys_unavailable", "backoff")
            assert answer["retry_after"] > 0
        assert case.guard.identity(sid).token_id == ("new" if fail_open else "old")
        assert len(lines(events, "store.unavailable", level="error")) == 1
        store.error = None
        assert (await peer.refresh("/messages", token_at(clock, 600, jti="newer")))["ok"] is True
        assert len(lines(events, "store.recovered")) == 1


class TestWhoHasLeftMeanwhile:
    @pytest.mark.parametrize("way", ["client", "kicked", "server", "expired"])
    async def test_the_fresh_token_comes_too_late(self, way: str, clock: Clock, events: Events) -> None:
        pausing = Pause()
        patient = {"server_options": {"ping_timeout": 1000}, "admission_timeout": 500}
        case = a_guard(clock, on_refresh=pausing.wait, **patient)
        peer, sid = await joined(case, clock, jti="old")
        await offered(peer, token_at(clock, 600, jti="new"), pausing)
        if way == "client":
            await peer.close()
        elif way == "kicked":
            assert await case.guard.disconnect(sid=sid) == 1
        elif way == "server":
            await case.server.disconnect(sid, namespace="/messages")
        else:
            clock.passes(70)
            await peer.expired("/messages")
        await until(lambda: not case.guard.connections())
        pausing.release.set()
        await until(lambda: lines(events, "token.refresh_rejected"))
        await peer.close()
        await gone(case)
        assert not lines(events, "token.refreshed")
        [closed] = lines(events, "connection.closed")
        assert closed["token_id"] == "old"

    async def test_it_comes_while_the_disconnect_handler_hangs(self, clock: Clock, events: Events) -> None:
        pausing = Pause()
        case = guarded("/messages", "/b", handlers={"disconnect": pausing.wait}, auth=make_auth(clock=clock))
        peer, _ = await joined(case, clock)
        await peer.join("/b", token_at(clock, 600))
        kicking = asyncio.ensure_future(case.guard.disconnect(subject="user-1", namespace="/messages"))
        await pausing.entered.wait()
        await peer.disconnected("/messages")
        await peer.emit("/messages", REFRESH, {"token": token_at(clock, 600)}, number=1)
        assert await peer.alive("/b")
        pausing.release.set()
        assert await kicking == 1
        assert not lines(events, "token.refreshed")

    async def test_it_comes_while_the_connect_handler_runs(self, clock: Clock, events: Events) -> None:
        pausing = Pause()
        case = a_guard(clock, handlers={"connect": pausing.wait})
        peer = await Client(case, "polling").open()
        joining = asyncio.ensure_future(peer.connect("/messages", token_at(clock, jti="old")))
        await pausing.entered.wait()
        await peer.emit("/messages", REFRESH, {"token": token_at(clock, 600, jti="new")}, number=1)
        pausing.release.set()
        await joining
        packet = await peer.packet()
        assert packet.kind == 0
        # It has waited for its turn.
        assert (await peer.packet()).data[0]["ok"] is True
        assert case.guard.identity(packet.data["sid"]).token_id == "new"
        assert len(lines(events, "token.refreshed")) == 1

    async def test_it_comes_when_the_end_has_been_decided(self, clock: Clock, events: Events) -> None:
        """Many are ended one after the other, so that nothing has been sent to the last one yet."""
        names = [f"/n{number}" for number in range(50)]
        limits = Limits(namespaces_per_session=None, connections_per_subject=None)
        case = guarded(*names, auth=make_auth(clock=clock), limits=limits)
        peer = await Client(case).open()
        for name in names:
            await peer.join(name, token_at(clock))
        kicking = asyncio.ensure_future(case.guard.disconnect(subject="user-1"))
        await peer.emit(names[-1], REFRESH, {"token": token_at(clock, 600, jti="new")}, number=1)
        assert await kicking == len(names)
        for name in names:
            await peer.disconnected(name)
        await peer.close()
        assert not lines(events, "token.refreshed")
        assert not lines(events, "token.refresh_rejected")


async def test_expiry_ignore(clock: Clock) -> None:
    case = guarded(auth=make_auth(clock=clock, expiry="ignore"))
    peer, sid = await joined(case, clock)
    clock.passes(600)
    assert await peer.refresh("/messages", token_at(clock, 60, jti="new")) == {"ok": True, "expires_in": None}
    assert case.guard.identity(sid).token_id == "new"
    answer = await peer.refresh("/messages", token_at(clock, -600))
    assert of_refusal(answer) == ("token_expired", "refresh")


async def test_from_an_end_to_none_and_back(clock: Clock) -> None:
    case = guarded(auth=make_auth(clock=clock, require=("sub",)), expiring_notice=None)
    peer, _ = await joined(case, clock)
    assert await peer.refresh("/messages", token_at(clock, exp=None)) == {"ok": True, "expires_in": None}
    clock.passes(10_000)
    assert await peer.alive()
    assert await peer.refresh("/messages", token_at(clock, 60)) == {"ok": True, "expires_in": 70}
    await ends_after(case, clock, peer, 70)


async def test_log_claims_are_those_of_the_fresh_token(clock: Clock, events: Events) -> None:
    case = a_guard(clock, log_claims=("sub", "plan"))
    peer, _ = await joined(case, clock, plan="free")
    assert (await peer.refresh("/messages", token_at(clock, plan="paid")))["ok"] is True
    await peer.close()
    await gone(case)
    assert lines(events, "connection.accepted")[0]["plan"] == "free"
    assert lines(events, "token.refreshed")[0]["plan"] == "paid"
    assert lines(events, "connection.closed")[0]["plan"] == "paid"


async def test_several_issuers(clock: Clock, events: Events) -> None:
    auth = [
        JWTAuth(TEST_SECRET, algorithms=["HS256"], issuer="one", clock=clock, leeway=0),
        JWTAuth(TEST_SECRET, algorithms=["HS256"], issuer="two", clock=clock),
    ]
    case = guarded(auth=auth)
    peer, sid = await joined(case, clock, iss="one")
    answer = await peer.refresh("/messages", token_at(clock, 600, iss="two"))
    assert of_refusal(answer) == ("subject_mismatch", "never")
    assert lines(events, "token.refresh_rejected")[0]["detail"] == "issuer"
    assert (await peer.refresh("/messages", token_at(clock, 600, iss="three")))["code"] == "token_invalid"
    assert await peer.refresh("/messages", token_at(clock, 600, iss="one")) == {"ok": True, "expires_in": 600}
    assert case.guard.identity(sid).issuer == "one"


class TestKeys:
    """The fresh token is signed with a key that has to be fetched first."""

    def guard(self, clock: Clock, server: KeyServer, **options: Any) -> Guarded:
        return guarded(auth=server.auth(jwks_cooldown=0.1, clock=clock), expiring_notice=None, **options)

    def token(self, clock: Clock, name: str, **claims: Any) -> str:
        return signed(name, now=clock.now, lifetime=600, **claims)

    async def test_it_is_fetched(self, clock: Clock) -> None:
        server = KeyServer()
        case = self.guard(clock, server)
        peer, sid = await joined_client(case, "/messages", self.token(clock, "one"))
        server.published = ["two"]
        await cool_down(case)
        assert (await peer.refresh("/messages", self.token(clock, "two", jti="new")))["ok"] is True
        assert case.guard.identity(sid).key_id == "two"

    async def test_a_token_that_is_revoked_while_they_are_fetched(self, clock: Clock) -> None:
        server = KeyServer()
        case = self.guard(clock, server)
        peer, _ = await joined_client(case, "/messages", self.token(clock, "one"))
        server.published = ["two"]
        server.pause = pausing = Pause()
        await cool_down(case)
        await peer.emit("/messages", REFRESH, {"token": self.token(clock, "two", jti="new")}, number=1)
        await pausing.entered.wait()
        # Nobody knows yet whose token it is.
        assert await case.guard.revoke(token_id="new", expires_at=clock.now + 600) == 0
        pausing.release.set()
        assert of_refusal((await peer.packet()).data[0]) == ("token_revoked", "login")
        await peer.sent_away("/messages", "token_revoked")

    async def test_a_client_that_leaves_before_it_is_in(self, clock: Clock, events: Events) -> None:
        pausing = Pause()
        case = self.guard(clock, KeyServer(pause=pausing))
        # Over WebSocket nobody reads, while it waits, that the client has gone.
        peer = await Client(case, "polling").open()
        joining = asyncio.ensure_future(peer.connect("/messages", self.token(clock, "one", jti="a")))
        await until(lambda: case.guard.status()["connections"]["being_admitted"])
        await peer.close()
        pausing.release.set()
        await asyncio.gather(joining, return_exceptions=True)  # Whatever a client hears that has gone.
        await gone(case)
        assert not lines(events, "connection.accepted")
        assert [line["token_id"] for line in lines(events, "connection.closed")] == ["a"]

    async def test_the_key_server_hangs(self, clock: Clock, events: Events) -> None:
        server = KeyServer()
        case = self.guard(clock, server, admission_timeout=0.05)
        peer, sid = await joined_client(case, "/messages", self.token(clock, "one", jti="old"))
        server.pause = Pause()
        await cool_down(case)
        answer = await peer.refresh("/messages", self.token(clock, "two"))
        assert of_refusal(answer) == ("admission_timeout", "backoff")
        assert lines(events, "token.refresh_rejected")[0]["detail"] == "keys"
        assert case.guard.identity(sid).token_id == "old"
        assert await peer.alive()


async def cool_down(case: Guarded) -> None:
    """Wait until the key server may be asked again, by the real clock."""
    auth = case.guard.auth
    assert auth is not None
    await until(lambda: auth.keys_status()[0]["age_s"] > 0.11)
