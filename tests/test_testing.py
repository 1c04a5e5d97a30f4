"""`socketguard.testing`, as the tests of an application use it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from socketguard import Connection, TokenError, current_connection
from socketguard.testing import (
    TEST_SECRET,
    FakeClock,
    Refused,
    Wire,
    as_client,
    capture_events,
    join,
    make_auth,
    mint,
)
from tests.scripted import connect_packet, guarded


def test_a_minted_token_is_taken() -> None:
    identity = make_auth().verify(mint("ann", tenant="acme", headers={"kid": "k-1"}))
    assert (identity.subject, identity.claims["tenant"], identity.key_id) == ("ann", "acme", "k-1")
    assert identity.expires_at is not None
    assert identity.expires_at > time.time() + 200


@pytest.mark.parametrize(
    "options",
    [{"lifetime": -60}, {"subject": None}, {"exp": None}, {"key": "x" * 40}, {"algorithm": "HS512"}],
)
def test_a_token_that_does_not_hold(options: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        make_auth().verify(mint(**options))


def test_the_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(1_000_000)
    auth = make_auth(clock=clock, leeway=0)
    token = mint(now=1_000_000, lifetime=10)
    assert auth.verify(token).expires_at == 1_000_010
    clock.move(11)
    with pytest.raises(TokenError, match="expired"):
        auth.verify(token)
    assert abs(FakeClock()() - time.time()) < 60


def test_options_of_the_verifier_can_be_given() -> None:
    auth = make_auth(issuer="https://id.example")
    assert auth.verify(mint(key=TEST_SECRET, iss="https://id.example")).issuer == "https://id.example"
    with pytest.raises(TokenError):
        auth.verify(mint())


async def test_events_are_captured_within_the_block_only() -> None:
    case = guarded()
    with capture_events() as outer:
        with capture_events() as inner:
            async with join(case.app, "/messages", token=mint()):
                pass
        count = len(inner)
        async with join(case.app, "/messages", token=mint()):
            pass
    assert len(inner) == count
    assert len(outer) > count > 0
    assert {"event", "level"} <= set(inner[0])
    async with join(case.app, "/messages", token=mint()):
        pass
    assert inner == outer[:count]


async def test_a_client_in_one_line() -> None:
    def prepare(server: Any) -> None:
        async def many(sid: str, *args: Any) -> tuple[Any, ...]:
            await server.emit("before", {"n": 1}, to=sid, namespace="/messages")
            return args

        async def question(sid: str) -> None:
            await server.emit("question", "really?", to=sid, namespace="/messages", callback=lambda *args: None)

        async def kick(sid: str) -> None:
            await server.disconnect(sid, namespace="/messages")

        server.on("many", many, namespace="/messages")
        server.on("question", question, namespace="/messages")
        server.on("kick", kick, namespace="/messages")
        server.on("none", lambda sid: None, namespace="/messages")
        server.on("echo", lambda sid, value: current_connection().sid, namespace="/")

    case = guarded(prepare=prepare)
    async with join(case.app, "/messages", token=mint()) as client:
        assert client.namespace == "/messages"
        assert await client.call("many", 1, "two") == [1, "two"]
        assert await client.call("many", 1) == 1
        assert await client.call("none") is None
        assert await client.receive() == ("before", [{"n": 1}])
        assert await client.receive() == ("before", [{"n": 1}])
        await client.emit("question")
        assert await client.receive() == ("question", ["really?"])
        await client.emit("kick")
        with pytest.raises(ConnectionError, match="disconnected this namespace"):
            await client.receive()
    case.server.on("echo", lambda sid, value: current_connection().sid, namespace="/")
    async with join(case.app, auth={"token": mint()}) as client:
        assert await client.call("echo", 1) == client.sid


async def test_a_refusal_has_what_a_client_sees() -> None:
    case = guarded()
    with pytest.raises(Refused) as refused:
        async with join(case.app, "/messages"):
            pass
    assert (refused.value.message, refused.value.code) == ("Authentication required", "token_missing")
    assert refused.value.status is None
    with pytest.raises(Refused) as refused:
        async with join(case.app, "/nowhere", token=mint()):
            pass
    assert (str(refused.value), refused.value.code, refused.value.data) == ("Invalid namespace", None, None)
    with pytest.raises(Refused) as refused:
        async with join(case.app, "/messages", token=mint(), headers={"Origin": "https://evil.example"}):
            pass
    assert (refused.value.status, refused.value.code) == (403, "origin_not_allowed")


async def test_the_wire_answers_pings_and_says_why_it_was_closed() -> None:
    wire = Wire(guarded(server_options={"ping_interval": 0.02}).app)
    await wire.close()  # which was never opened
    await wire.open()
    assert str(await wire.frame()).startswith("0{")
    await wire.send(connect_packet())
    assert str(await wire.frame()).startswith("40/messages,")
    await asyncio.sleep(0.03)
    await wire.send('42/messages,1["echo"]')
    assert await wire.frame() == "43/messages,1[]"
    await wire.send("hello")
    with pytest.raises(ConnectionError, match="1003"):
        await wire.frame()
    await wire.close()


async def test_a_frame_that_does_not_come() -> None:
    wire = Wire(guarded().app, timeout=0.1)
    await wire.open()
    await wire.frame()
    with pytest.raises(TimeoutError):
        await wire.frame()
    await wire.close()


async def test_events_that_come_before_the_answer_are_kept() -> None:
    """What a connect handler emits is sent before the answer to the CONNECT."""

    def prepare(server: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            await server.emit("hello", {"n": 1}, to=sid, namespace="/messages")
            await server.emit("hello", {"n": 2}, to=sid, namespace="/messages")

        server.on("connect", connect, namespace="/messages")

    case = guarded(prepare=prepare)
    async with join(case.app, "/messages", token=mint()) as client:
        assert await client.receive() == ("hello", [{"n": 1}])
        assert await client.receive() == ("hello", [{"n": 2}])


async def test_what_is_not_for_this_client_is_passed_over() -> None:
    case = guarded("/messages", "/scheduler")

    async def noisy(scope: Any, receive: Any, send: Any) -> None:
        async def more(message: Any) -> None:
            if str(message.get("text", ""))[:2] in ("42", "43"):
                for text in ('40/scheduler,{"sid":"x"}', "43/messages,77[]", '42/scheduler,["other"]'):
                    await send({"type": "websocket.send", "text": text})
            await send(message)

        await case.app(scope, receive, more)

    async with join(noisy, "/messages", token=mint()) as client:
        assert await client.call("echo", 5) == 5
        await client.call("echo", 6)
        await case.server.emit("news", 1, namespace="/messages")
        assert await client.receive() == ("news", [1])


async def test_an_application_that_closes_at_once() -> None:
    async def closing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "reason": "not here"})

    with pytest.raises(Refused, match="not here") as refused:
        await Wire(closing).open()
    assert refused.value.status == 403


async def test_a_stand_in_for_the_client_of_a_handler() -> None:
    async def handler(sid: str) -> tuple[Any, ...]:
        client = current_connection()
        identity = client.identity
        return client.sid == sid, identity.subject, identity.claims["tenant"], identity.scopes, client.placeholders

    with as_client(
        "/t-1", subject="ann", scopes={"read"}, placeholders={"t": "1"}, sid="s", user="Ann", tenant="acme"
    ) as client:
        assert current_connection().user == "Ann"
        assert await handler("s") == (True, "ann", "acme", frozenset({"read"}), {"t": "1"})
        assert (client.namespace, client.client_address, client.state) == ("/t-1", "127.0.0.1", Connection.JOINED)
        with as_client(subject=None):
            assert not current_connection().identity.is_authenticated
        assert current_connection() is client
    with pytest.raises(LookupError):
        current_connection()
