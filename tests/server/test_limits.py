"""Deadlines and limits on a whole server: what a client hears, what the log says, and nothing is left."""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

import pytest
import socketio

from socketguard import Limits, NamespacePolicy, SocketGuard
from socketguard.server.endpoint import ON_PROBATION
from socketguard.testing import Refused, make_auth, mint
from tests.scripted import (
    UNLIMITED,
    Answer,
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
    refusal_in,
    rest,
    sid_in,
    until,
    within,
)
from tests.server.keyserver import KeyServer, signed

OPEN = "EIO=4&transport=polling"
EXPIRED = {"now": 1_000_000_000.0}


async def ask(wire: Socket, namespace: str = "/messages", token: str | None = "") -> dict[str, Any]:
    """Send a CONNECT that is refused; what the client hears."""
    await wire.send(connect_packet(namespace, token))
    said = refusal_in(await wire.frame(), namespace)
    return {"message": said["message"], **said.get("data", {})}


async def may_fail(case: Guarded, address: str, rate: int) -> int:
    """How often this address may still fail, of so many times a day; afterwards it may no more."""
    for number in range(rate + 1):
        wire = await open_wire(case.app, client=(address, 1))
        code = (await ask(wire, token=f"nonsense-{number}"))["code"]
        await wire.close()
        if code == "rate_limited":
            return number
    raise AssertionError("without a limit")


# connect_timeout


@pytest.mark.parametrize("refused", [False, True])
async def test_a_websocket_that_joins_nothing_is_closed_with_its_reason(
    refused: bool, clock: Clock, events: Events
) -> None:
    case = guarded()
    wire = await open_wire(case.app)
    if refused:
        assert (await ask(wire, token=None))["code"] == "token_missing"
    clock.passes(14.9)
    await wire.send("3")
    await rest()
    assert wire.outbox.empty()
    clock.passes(0.1)
    assert await wire.closed() == (
        [
            '42["socketguard:closing",{"code":"connect_timeout","message":"No namespace was joined in time",'
            '"retry":"backoff"}]'
        ],
        4408,
    )
    assert wire.close_reason == "connect_timeout"
    await wire.close()
    (line,) = lines(events, "session.ended")
    assert (line["reason"], line["level"], line["transport"]) == ("connect_timeout", "warning", "websocket")
    assert line["client_address"] == "127.0.0.1"
    assert len(line["session"]) == 12
    assert "no namespace was joined in time" in line["hint"]


async def test_a_polling_session_that_joins_nothing_is_ended_with_its_reason(clock: Clock, events: Events) -> None:
    case = guarded()
    client = await Client(case.app, "polling").open()
    poll = await client.waiting()
    clock.passes(15)
    packets = await poll
    await until(lambda: not case.server.eio.sockets)
    (packet,) = packets  # after Engine.IO's CLOSE python-socketio's client would not come back
    assert packet.startswith('42["socketguard:closing",{"code":"connect_timeout"')
    (line,) = lines(events, "session.ended")
    assert (line["reason"], line["transport"]) == ("connect_timeout", "polling")
    answer = await http(case.app, "GET", client.query)
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (400, "session_unknown", "now")


async def test_a_session_that_left_its_last_namespace_has_the_same_time_again(clock: Clock) -> None:
    case = guarded("/messages", "/other")
    wire, _ = await joined_wire(case.app)
    await wire.join("/other")
    clock.passes(1000)
    await wire.send("41/messages,")
    await until(lambda: case.guard.status()["connections"]["open"] == 1)
    assert case.guard.status()["timers"]["connect"] == 0
    await wire.send("41/other,")
    await until(lambda: case.guard.status()["connections"]["open"] == 0)
    assert case.guard.status()["timers"]["connect"] == 1
    clock.passes(14.9)
    # It may come back.
    await wire.join()
    clock.passes(1000)
    await wire.send("41/messages,")
    await until(lambda: case.guard.status()["connections"]["open"] == 0)
    clock.passes(15)
    assert (await wire.closed())[1] == 4408


async def test_a_client_that_is_being_admitted_is_not_cut_off(clock: Clock, events: Events) -> None:
    pause = Pause()
    policy = NamespacePolicy("/messages", authorize=pause.wait)
    case = guarded(namespaces=[policy], server_options={"ping_timeout": 1000}, admission_timeout=500)
    wire = await open_wire(case.app, connect_packet())
    await pause.entered.wait()
    for _ in range(3):
        clock.passes(15)
        await rest()
    pause.release.set()
    sid_in(await wire.frame())
    assert not lines(events, "session.ended")
    assert case.guard.status()["timers"]["connect"] == 0


async def test_without_connect_timeout_nobody_is_ended(clock: Clock) -> None:
    case = guarded(connect_timeout=None)
    wire = await open_wire(case.app)
    assert case.guard.status()["timers"]["connect"] == 0
    clock.passes(1e9)
    await wire.join()


# Limits of sessions, at the handshake


@pytest.mark.parametrize(
    ("limit", "status"), [("pending_sessions", 503), ("sessions_per_address", 429), ("connections", 503)]
)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_session_that_is_one_too_many(limit: str, status: int, transport: str, events: Events) -> None:
    case = guarded(limits=Limits(**{limit: 1}))
    first = (await joined_wire(case.app))[0] if limit == "connections" else await open_wire(case.app)
    if transport == "polling":
        answer = await http(case.app, "GET", OPEN)
        assert answer.status == status
        assert answer.header("retry-after") == ["5"]
        said = answer.json
    else:
        with pytest.raises(Refused) as caught:
            await open_wire(case.app)
        assert caught.value.status == status
        said = caught.value.data
    (line,) = lines(events, "handshake.rejected")
    ref = line["ref"]
    assert said == {
        "code": "connection_limit",
        "message": "Too many connections",
        "retry": "backoff",
        "ref": ref,
        "retry_after": 5,
    }
    assert (line["reason"], line["status"], line["retry_after"]) == ("connection_limit", status, 5)
    assert limit in line["hint"]
    assert case.guard.status()["sessions"]["open"] == 1
    await first.close()
    await open_wire(case.app)


@pytest.mark.parametrize("limit", ["sessions_per_address", "pending_sessions"])
async def test_whose_sessions_are_counted(limit: str) -> None:
    case = guarded(limits=Limits(**{limit: 1}))
    first, second = ("203.0.113.1", 1), ("203.0.113.2", 1)
    if limit == "sessions_per_address":
        await open_wire(case.app, client=first)
    else:  # Who has joined is not pending.
        await joined_wire(case.app, client=first)
    await open_wire(case.app, client=second)
    with pytest.raises(Refused):
        await open_wire(case.app, client=("203.0.113.2", 2))


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_who_joins_nothing_keeps_nobody_else_out(transport: str, events: Events) -> None:
    case = guarded(limits=Limits(pending_sessions=10))
    stranger = ("203.0.113.1", 1)
    for _ in range(5):
        await Client(case, transport, client=stranger).open()
    if transport == "polling":
        assert (await http(case.app, "GET", OPEN, client=stranger)).status == 429
    else:
        with pytest.raises(Refused) as caught:
            await open_wire(case.app, client=stranger)
        assert caught.value.status in (403, 429)  # a status of its own only before there are many
    (line,) = lines(events, "handshake.rejected", reason="connection_limit")
    assert "as many sessions without a namespace as are still free of pending_sessions" in line["hint"]
    # Who joins gives the place back.
    for number in range(20):
        await joined_client(case, kind=transport, client=(f"198.51.100.{number}", 1))
    assert case.guard.status()["sessions"]["without_namespace"] == 5


# Limits of connections, at the CONNECT


@pytest.mark.parametrize(
    "limit", ["connections", "connections_per_subject", "connections_per_address", "namespaces_per_session"]
)
async def test_a_connection_that_is_one_too_many(limit: str, events: Events) -> None:
    case = guarded("/messages", "/other", limits=Limits(**{limit: 1}))
    wire, _ = await joined_wire(case.app)
    said = await ask(wire, "/other")
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"], line["limit"]) == ("connection_limit", limit, 1)
    assert line["namespace"] == "/other"
    assert said == {
        "message": "Too many connections",
        "code": "connection_limit",
        "retry": "backoff",
        "ref": line["ref"],
        "retry_after": 5,
    }
    assert case.guard.status()["refused"] == {"connection_limit": 1}
    await wire.send("41/messages,")
    await until(lambda: not case.guard.connections())
    await wire.join("/other")


async def test_subjects_and_issuers_are_counted_apart() -> None:
    case = guarded(limits=Limits(connections_per_subject=1))
    wires = [await open_wire(case.app) for _ in range(4)]
    await wires[0].send(connect_packet(token=mint("ann")))
    await wires[1].send(connect_packet(token=mint("bob")))
    await wires[2].send(connect_packet(token=mint("ann", iss="elsewhere")))
    for wire in wires[:3]:
        assert str(await wire.frame()).startswith("40/messages,")
    assert (await ask(wires[3], token=mint("ann")))["code"] == "connection_limit"


async def test_the_anonymous_are_no_subject() -> None:
    case = guarded(namespaces=[NamespacePolicy("/messages", token="none")], limits=Limits(connections_per_subject=1))
    [(await joined_wire(case.app))[0] for _ in range(3)]


@pytest.mark.parametrize("outcome", ["refuses", "fails", "leaves"])
async def test_a_place_that_was_not_taken_in_the_end_is_free_again(outcome: str) -> None:
    leave: list[Socket] = []

    async def connect(sid: str, environ: Any, auth: Any) -> Any:
        if outcome == "fails":
            raise RuntimeError("boom")
        return False if outcome == "refuses" else None

    case = guarded(handlers={"connect": connect}, limits=Limits(connections=1, connections_per_subject=1))
    for _ in range(3):
        wire = await open_wire(case.app, connect_packet())
        answer = str(await wire.frame())
        assert answer.startswith("40/messages," if outcome == "leaves" else "44/messages,")
        assert "connection_limit" not in answer
        leave.append(wire)
        await wire.close()


async def test_limits_that_are_turned_off() -> None:
    names = [f"/n{number}" for number in range(20)]
    case = guarded(*names, limits=UNLIMITED, connect_timeout=None)
    wire = await open_wire(case.app)
    for name in names:
        await wire.join(name)
    for _ in range(100):
        assert (await ask(wire, "/unknown"))["message"] == "Invalid namespace"
    # 16 KiB are no limit for a stranger either.
    stranger, _ = await joined_wire(case.app, "/n0", padding="x" * 20_000)
    for each in (wire, stranger):
        await each.close()
    await (await Client(case.app, "polling").open()).close()
    assert case.guard.status()["refused"] == {"invalid_namespace": 100}


# Failures of an address


async def failing(case: Guarded, *namespaces: str, token: str | None, client: tuple[str, int]) -> list[str]:
    """One session that asks for each of the namespaces in vain; the codes."""
    wire = await open_wire(case.app, client=client)
    codes = [(await ask(wire, namespace, token))["code"] for namespace in namespaces]
    await wire.close()
    return codes


@pytest.mark.parametrize(
    ("asked", "cost"),
    [
        (["/a"], 1),
        (["/a", "/b", "/c"], 1),  # one expired token for three namespaces
        (["/a", "/b", "/c", "/a", "/b"], 1),  # and again
        (["/a", "/b none"], 2),  # another code is another failure
        (["/a none", "/b none", "/a none", "/b none"], 3),  # without a token each repeat counts
        (["/a other", "/a"], 2),
        (["/a", "/b good"], 1),
        (["/a", "/a good"], 1),
    ],
)
async def test_what_several_refusals_of_one_session_cost(asked: list[str], cost: int) -> None:
    case = guarded("/messages", "/a", "/b", "/c", limits=Limits(failures_per_address="10/day"))
    wire = await open_wire(case.app, client=("203.0.113.1", 1))
    expired = {"": mint(**EXPIRED), "other": mint("other", **EXPIRED), "none": None}
    for each in asked:
        namespace, _, token = each.partition(" ")
        if token == "good":
            await wire.join(namespace)
        else:
            code = (await ask(wire, namespace, expired[token]))["code"]
            assert code == ("token_missing" if token == "none" else "token_expired")
    await wire.close()
    assert await may_fail(case, "203.0.113.1", 10) == 10 - cost


async def test_an_address_over_its_budget_lets_in_who_has_a_valid_token(events: Events) -> None:
    public = NamespacePolicy("/public", token="optional", authorize=lambda identity, connection: True)
    limits = Limits(failures_per_address="2/day")
    case = guarded("/messages", "/public", namespaces=["/messages", public], limits=limits)
    bad, good = ("203.0.113.1", 1), ("203.0.113.2", 1)
    joined_before, _ = await joined_wire(case.app, client=bad)
    for subject in "ab":
        expired = mint(subject, **EXPIRED)
        assert await failing(case, "/messages", token=expired, client=bad) == ["token_expired"]
    wire = await open_wire(case.app, client=bad)
    said = await ask(wire, token="nonsense")
    assert (said["code"], said["retry"]) == ("rate_limited", "backoff")
    assert 43_000 < said["retry_after"] <= 43_200
    # Nothing dear either: to find the nearest name, or to call authorize, which may ask a database.
    for refused in ("/nowhere", "/public"):
        assert (await ask(wire, refused, None))["code"] == "rate_limited"
    connect = lines(events, "connection.rejected")[-1]
    assert (connect["reason"], connect["detail"]) == ("rate_limited", "failures_per_address")
    await wire.send("40/messages,5")
    assert "rate_limited" in str(await wire.frame())
    await wire.join("/messages")
    await joined_wire(case.app, client=bad)

    # More than a few sessions that join nothing are answered before they exist.
    waiting = [await open_wire(case.app, client=bad) for _ in range(ON_PROBATION)]
    answer = await http(case.app, "GET", OPEN, client=bad)
    with pytest.raises(Refused) as caught:
        await open_wire(case.app, client=bad)
    assert answer.status == 429
    wait = int(answer.header("retry-after")[0])
    assert 43_000 < wait <= 43_200
    handshake = lines(events, "handshake.rejected")[0]
    assert answer.json == {
        "code": "rate_limited",
        "message": "Too many attempts",
        "retry": "backoff",
        "ref": handshake["ref"],
        "retry_after": wait,
    }
    assert caught.value.status in (403, 429)  # a status of its own only before there are many
    assert (handshake["reason"], handshake["status"]) == ("rate_limited", 429)
    assert "failures_per_address" in handshake["hint"]
    await waiting.pop().close()
    await joined_wire(case.app, client=bad)
    # Who is in stays in, and nobody pays for somebody else.
    assert await joined_before.alive()
    await joined_wire(case.app, client=good)


async def test_pages_in_a_loop_are_slowed_and_nobody_else_behind_their_address() -> None:
    office = ("203.0.113.1", 1)
    case = guarded(
        "/messages",
        "/admin",
        namespaces=["/messages", NamespacePolicy("/admin", scopes={"admin"})],
        limits=Limits(failures_per_address="12/day"),
    )
    tokens = {f"page {number}": mint(str(number), **EXPIRED) for number in range(10)}
    tokens["no scope"] = mint("wrong")
    for name, token in tokens.items():
        namespace = "/admin" if name == "no scope" else "/messages"
        codes = [(await failing(case, namespace, token=token, client=office))[0] for _ in range(15)]
        assert codes[:12] == [codes[0]] * 12 != ["rate_limited"] * 12, name
        assert codes[12:] == ["rate_limited"] * 3, name
    # Eleven pages, eleven failures: one is left, then only valid tokens are looked at.
    assert await may_fail(case, office[0], 12) == 1
    await joined_wire(case.app, client=office)
    wire = await open_wire(case.app, client=office)
    assert (await ask(wire, "/admin", mint("wrong")))["code"] == "rate_limited", "whom it names is what is tried"
    assert (await ask(wire, "/admin", mint("another")))["code"] == "insufficient_scope"
    await wire.join("/messages", mint("wrong"))


async def test_a_hidden_namespace_costs_what_an_unknown_one_costs() -> None:
    case = guarded(
        "/messages",
        "/secret",
        namespaces=["/messages", NamespacePolicy("/secret", hidden=True, scopes={"admin"})],
        limits=Limits(failures_per_address="3/day"),
    )
    for address, name in (("203.0.113.1", "/secret"), ("203.0.113.2", "/nowhere")):
        codes = []
        for _ in range(5):
            wire = await open_wire(case.app, client=(address, 1))
            codes.append((await ask(wire, name, mint())).get("code"))
            await wire.close()
        assert codes == [None, None, None, "rate_limited", "rate_limited"]
        # And the address has paid, so that what it may still do does not tell the two apart.
        wire = await open_wire(case.app, client=(address, 1))
        assert (await ask(wire, token="nonsense"))["code"] == "rate_limited"
        await wire.close()


@pytest.mark.parametrize(
    ("handler", "code"), [(lambda *_: False, "refused_by_app"), (lambda *_: 1 / 0, "internal_error")]
)
async def test_what_the_application_refuses_is_no_failure_of_the_address(handler: Any, code: str) -> None:
    case = guarded(handlers={"connect": handler}, limits=Limits(failures_per_address="1/day"))
    wire = await open_wire(case.app)
    for _ in range(3):
        await wire.send(connect_packet())
        assert str(await wire.frame()).startswith("44/messages,")
    assert case.guard.status()["refused"] == {code: 3}
    await wire.close()
    assert await may_fail(case, "127.0.0.1", 1) == 1


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_limit_that_is_full_is_no_failure_of_the_address(hidden: bool) -> None:
    case = guarded(
        "/messages",
        "/other",
        namespaces=["/messages", NamespacePolicy("/other", hidden=hidden)],
        limits=Limits(connections=1, connections_per_address=1, failures_per_address="1/day"),
    )
    wire, _ = await joined_wire(case.app)
    for _ in range(3):
        assert (await ask(wire, "/other")).get("code") == (None if hidden else "connection_limit")
    await wire.close()
    assert await may_fail(case, "127.0.0.1", 1) == 1


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_session_that_asks_for_the_same_again_and_again_is_ended(transport: str, events: Events) -> None:
    case = guarded(limits=Limits(repeats_per_namespace=3, failures_per_address=None))
    client = await Client(case, transport).open()
    for _ in range(3):
        assert (await client.refused(token=None))["code"] == "token_missing"
    await client.connect(token=None)
    if client.wire is not None:
        assert await client.wire.closed() == ([], 4429)
        await client.close()
    await until(lambda: not case.server.eio.sockets)
    (line,) = lines(events, "session.ended")
    assert (line["reason"], line["transport"]) == ("too_many_failures", transport)
    assert "again and again" in line["hint"]
    assert case.guard.status()["refused"] == {"token_missing": 4}


async def test_a_member_that_asks_again_and_again_is_told_why_it_is_ended(events: Events) -> None:
    case = guarded(limits=Limits(repeats_per_namespace=2, failures_per_address=None))
    wire, _ = await joined_wire(case.app)
    for _ in range(3):
        await wire.send(connect_packet("/unknown"))
    frames, code = await wire.closed()
    await wire.close()
    assert frames == [
        '44/unknown,{"message":"Invalid namespace"}',
        '44/unknown,{"message":"Invalid namespace"}',
        '42/messages,["socketguard:closing",{"code":"too_many_failures","message":"Too many attempts",'
        '"retry":"backoff"}]',
    ]
    assert code == 4429
    assert not lines(events, "session.ended"), "the canonical line of its connection says it"
    (line,) = lines(events, "connection.closed")
    assert line["reason"] == "too_many_failures"


async def test_many_names_are_too_many_too() -> None:
    case = guarded(limits=Limits(repeats_per_namespace=2, namespaces_per_session=3, failures_per_address=None))
    wire = await open_wire(case.app)
    for number in range(6):
        assert await ask(wire, f"/unknown-{number}") == {"message": "Invalid namespace"}
    await wire.send(connect_packet("/unknown-7"))
    assert await wire.closed() == ([], 4429)


# Proxies


async def test_a_proxy_that_is_not_trusted_switches_the_limits_per_address_off_and_is_named_once(
    events: Events,
) -> None:
    case = guarded(limits=Limits(failures_per_address="1/day", sessions_per_address=1, connections_per_address=1))
    proxy = {"client": ("10.0.0.1", 1), "headers": {"x-forwarded-for": "203.0.113.9"}}
    wires = [(await joined_wire(case.app, **proxy))[0] for _ in range(3)]
    for _ in range(3):
        wire = await open_wire(case.app, **proxy)
        assert (await ask(wire, token=None))["code"] == "token_missing"
        wires.append(wire)
    (line,) = [line for line in lines(events, "config.warning") if line["id"] == "SG050"]
    assert line["level"] == "warning"
    assert "10.0.0.1" in line["text"]
    assert line["fix"].startswith("write trusted_proxies=['10.0.0.1']")


@pytest.mark.parametrize(
    ("client", "trusted", "others_may"),
    [("10.0.0.1", ["10.0.0.0/8"], True), ("203.0.113.1", (), False)],
    ids=["a trusted proxy", "an address of the internet"],
)
async def test_whose_limits_they_are(client: str, trusted: Any, others_may: bool, events: Events) -> None:
    case = guarded(trusted_proxies=trusted, limits=Limits(failures_per_address="1/day"))
    first, other = (
        {"client": (client, 1), "headers": {"x-forwarded-for": address}} for address in ("198.51.100.1", "198.51.100.2")
    )
    wire = await open_wire(case.app, **first)
    assert (await ask(wire, token=None))["code"] == "token_missing"
    assert (await ask(wire, token=None))["code"] == "rate_limited"
    wire = await open_wire(case.app, **other)
    assert (await ask(wire, token=None))["code"] == ("token_missing" if others_may else "rate_limited")
    assert not [line for line in lines(events, "config.warning") if line["id"] == "SG050"]


# Keys that can't be had


async def test_without_keys_no_session_is_made_and_with_them_it_is(events: Events) -> None:
    server = KeyServer(fails=True)
    case = guarded(auth=server.auth(jwks_cooldown=0.1))
    case.leaves = True  # The sessions that are opened while nothing is known yet.

    async def answered(status: int) -> Answer:
        while (answer := await http(case.app, "GET", OPEN)).status != status:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        return answer

    # The first request begins the first attempt, and the next one may begin another.
    await within(answered(503), 5)
    answer = await within(answered(503), 5)
    with pytest.raises(Refused) as caught:
        await open_wire(case.app)
    assert (answer.json["code"], answer.json["retry"]) == ("keys_unavailable", "backoff")
    assert answer.header("retry-after") == [str(answer.json["retry_after"])]
    assert answer.json["retry_after"] >= 1
    assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
    handshake = lines(events, "handshake.rejected")[0]
    assert handshake["reason"] == "keys_unavailable"
    assert "ends in .unavailable" in handshake["hint"]
    (line,) = lines(events, "keys.unavailable")
    assert line["level"] == "error"
    assert not lines(events, "keys.refreshed")
    assert case.guard.status()["keys"][0]["state"] == "unavailable"

    server.fails = False
    await within(answered(200), 5)
    wire, _ = await joined_wire(case.app, token=signed())
    await wire.close()
    assert len(lines(events, "keys.refreshed")) == 1
    assert case.guard.status()["keys"][0]["state"] == "fresh"


async def test_a_connect_that_finds_no_keys_ends_its_transport(events: Events) -> None:
    server = KeyServer(fails=True, pause=Pause())
    case = guarded(auth=server.auth(jwks_cooldown=300))
    # They were opened while nothing spoke against it.
    wire = await open_wire(case.app, connect_packet(token=signed()))
    client = await Client(case.app, "polling").open()
    assert server.pause is not None
    await server.pause.entered.wait()
    server.pause.release.set()
    assert await wire.closed() == ([], 4503)
    await client.post(connect_packet(token=signed()))
    await until(lambda: not case.server.eio.sockets)
    await wire.close()
    assert [line["reason"] for line in lines(events, "connection.rejected")] == ["keys_unavailable"] * 2
    assert [(line["reason"], line["transport"]) for line in lines(events, "session.ended")] == [
        ("keys_unavailable", "websocket"),
        ("keys_unavailable", "polling"),
    ]
    assert case.guard.status()["refused"] == {"keys_unavailable": 2}


async def test_lines_about_keys_belong_to_no_client() -> None:
    whose: contextvars.ContextVar[str | None] = contextvars.ContextVar("whose", default=None)
    seen: dict[str, str | None] = {}

    class Logger:
        def info(self, event: str, **_: Any) -> None:
            seen[event] = whose.get()

        debug = warning = error = info

    case = guarded(auth=KeyServer().auth(), logger=Logger())
    whose.set("a client's")
    wire = await open_wire(case.app)
    await wire.send(connect_packet(token=signed()))
    assert str(await wire.frame()).startswith("40/messages,")
    assert seen["socketguard.keys.refreshed"] is None
    assert seen["socketguard.connection.accepted"] == "a client's"
    await wire.close()


async def test_a_key_of_another_realm_is_no_outage() -> None:
    server = KeyServer()
    case = guarded("/messages", "/other", auth=server.auth(jwks_cooldown=300))
    wire, _ = await joined_wire(case.app, token=signed())
    for _ in range(3):
        said = await ask(wire, "/other", signed("another"))
        assert (said["code"], said["retry"]) == ("token_invalid", "login")
    # Nor is one asked for, for each of them, and whoever has a good token gets in.
    assert server.calls == 1
    await joined_wire(case.app, token=signed())


async def test_a_member_hears_that_there_are_no_keys_for_another_namespace() -> None:
    server = KeyServer()
    case = guarded("/messages", "/other", auth=server.auth(jwks_cooldown=0.1))
    wire, _ = await joined_wire(case.app, token=signed())
    server.fails = True
    await asyncio.sleep(0.15)  # The cool-down with its jitter.
    said = await ask(wire, "/other", signed("another"))
    assert (said["code"], said["retry"]) == ("keys_unavailable", "backoff")
    assert said["retry_after"] >= 1
    # Its namespace lives on.
    assert await wire.alive()


async def test_keys_that_take_too_long_are_an_admission_timeout(events: Events) -> None:
    case = guarded(auth=KeyServer(pause=Pause()).auth(), admission_timeout=0.02)
    wire = await open_wire(case.app, connect_packet(token=signed()))
    assert await wire.closed() == ([], 4504)
    assert lines(events, "connection.rejected")[0]["detail"] == "keys"


@pytest.mark.parametrize("token", ["optional", "none"])
async def test_where_a_namespace_needs_no_token_sessions_are_made_without_keys(token: Any) -> None:
    auth = KeyServer(fails=True).auth(jwks_cooldown=300)
    case = guarded(auth=auth, namespaces=[NamespacePolicy("/messages", token=token)])
    assert auth.outage() is None
    await until(lambda: auth.outage() is not None)
    await joined_wire(case.app, token=None)


# bind_polling


@pytest.mark.parametrize("how", ["poll", "post", "upgrade"])
async def test_a_request_from_another_address_is_refused(how: str, events: Events) -> None:
    case = guarded(bind_polling="address")
    client, _ = await joined_client(case, kind="polling", client=("203.0.113.1", 1))
    thief = ("203.0.113.2", 1)
    if how == "upgrade":
        with pytest.raises(Refused) as caught:
            await Socket(case.app, client=thief, query=f"&sid={client.sid}").open()
        status, said = caught.value.status, caught.value.data
    else:
        method, body = ("GET", b"") if how == "poll" else ("POST", b'42/messages,["echo"]')
        answer = await http(case.app, method, client.query, body, client=thief)
        status, said = answer.status, answer.json
    assert status == 400
    assert (said["code"], said["message"], said["retry"]) == ("address_changed", "Session ID unknown", "now")
    (line,) = lines(events, "handshake.rejected")
    assert (line["reason"], line["client_address"]) == ("address_changed", "203.0.113.2")
    assert "bind_polling" in line["hint"]
    assert len(line["session"]) == 12
    assert client.sid not in json.dumps(line)
    # The session goes on where it began; ports change with each request.
    client.options = {"client": ("203.0.113.1", 2)}
    await client.post('42/messages,1["echo",1]')
    assert await client.frame() == "43/messages,1[1]"


async def test_the_address_is_that_behind_the_proxies() -> None:
    case = guarded(bind_polling="address", trusted_proxies=["10.0.0.0/8"])
    headers = {"x-forwarded-for": "203.0.113.1"}
    client = await Client(case.app, "polling", client=("10.0.0.1", 1), headers=headers).open()
    client.options = {"client": ("10.0.0.2", 1), "headers": headers}
    await client.join()
    client.options = {"client": ("10.0.0.1", 1), "headers": {"x-forwarded-for": "203.0.113.2"}}
    assert (await client.post("3")).status == 400
    client.options = {"client": ("10.0.0.1", 1), "headers": headers}


async def test_without_bind_polling_a_phone_may_change_its_network() -> None:
    case = guarded()
    client = await Client(case.app, "polling", client=("203.0.113.1", 1)).open()
    client.options = {"client": ("203.0.113.2", 1)}
    await client.join()


# Sessions that are let go


async def test_that_a_client_finds_its_session_gone_is_no_news(clock: Clock, events: Events) -> None:
    case = guarded()
    clients = [await Client(case, "polling").open() for _ in range(3)]
    clock.passes(15)
    await until(lambda: not case.server.eio.sockets)
    for client in clients:
        answer = await client.http("GET")
        assert (answer.status, answer.json["code"], answer.json["retry"]) == (400, "session_unknown", "now")
    assert len(lines(events, "session.ended")) == 3
    assert not lines(events, "handshake.rejected")


async def test_a_session_that_went_around_the_guard_joins_nothing() -> None:
    # Somebody has kept the server's own function from before.
    kept: list[Any] = []
    case = guarded(prepare=lambda server: kept.append(server.handle_request), connect_timeout=None)
    for app, joins in ((kept[0], False), (case.app, True)):
        wire = await open_wire(app)
        assert case.guard.status()["sessions"]["open"] == joins
        await wire.send(connect_packet())
        if joins:
            assert str(await wire.frame()).startswith("40/messages,")
        else:
            assert await wire.frames() == []
        await wire.close()
        assert case.guard.status()["accepted"] == joins


# detach


async def test_detaching_ends_all_sessions_and_checks_nobody_any_more() -> None:
    left: list[str] = []
    case = guarded("/messages", handlers={"disconnect": lambda sid, reason: left.append(reason)})
    joined, _ = await joined_wire(case.app)
    waiting = await open_wire(case.app)
    client, _ = await joined_client(case, kind="polling")
    case.guard.detach()
    status = case.guard.status()
    assert status["sessions"] == {"open": 0, "without_namespace": 0, "by_transport": {}}
    # Nobody but the guard could carry them; from a closed transport their clients come back by themselves.
    assert [(await wire.closed())[1] for wire in (joined, waiting)] == [1012, 1012]
    await until(lambda: not case.server.eio.sockets)
    assert left == ["server disconnect"] * 2
    assert not case.server.environ
    assert not case.server.manager.rooms
    assert case.guard.status()["timers"] == {"expiry": 0, "connect": 0, "ending": 0}
    client.options = {"bare": True}
    assert (await client.http("GET")).status == 400
    again, _ = await joined_wire(case.app, token=None)
    assert await again.alive()
    await again.close()


@pytest.mark.parametrize("where", ["authorize", "handler"])
async def test_detaching_while_somebody_is_admitted_leaves_nothing_behind(where: str) -> None:
    pause = Pause()
    case = guarded(
        handlers={"connect": pause.wait} if where == "handler" else {},
        namespaces=[NamespacePolicy("/messages", authorize=pause.wait if where == "authorize" else None)],
    )
    wire = await open_wire(case.app, connect_packet())
    await within(pause.entered.wait())
    case.guard.detach()
    pause.release.set()
    assert (await wire.closed())[1] == 1012
    await until(lambda: not case.guard.status()["connections"]["being_admitted"])
    assert not case.server.environ
    assert not case.server.manager.rooms
    status = case.guard.status()
    assert status["sessions"] == {"open": 0, "without_namespace": 0, "by_transport": {}}
    assert status["timers"] == {"expiry": 0, "connect": 0, "ending": 0}


async def test_a_session_from_before_the_guard_ends_as_ever() -> None:
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False, namespaces=["/messages"])
    app = socketio.ASGIApp(server)
    wire = await open_wire(app)
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    assert guard.status()["sessions"]["open"] == 0
    await wire.close()
    assert not server.environ
    assert guard.status()["sessions"] == {"open": 0, "without_namespace": 0, "by_transport": {}}


async def test_a_guard_may_be_attached_anew_while_sessions_are_open() -> None:
    case = guarded()
    wire = await open_wire(case.app)
    case.guard.detach()
    again = type(case.guard).protect(case.server, auth=make_auth(), logger=False)
    # The old session is nobody's: the new guard did not see it begin.
    assert again.status()["sessions"]["open"] == 0
    await wire.close()
    other, _ = await joined_wire(case.app)
    assert again.status()["sessions"]["open"] == 1
    await other.close()
    assert again.status()["sessions"]["open"] == 0
    assert not case.server.manager.rooms
