"""Who may join, over each transport: namespaces, tokens and `authorize`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgpack
import pytest
import socketio

from socketguard import NamespacePolicy, current_connection
from socketguard.auth import quick
from socketguard.testing import FakeClock, Refused, join, make_auth, mint
from tests.scripted import (
    KINDS,
    Client,
    Clock,
    Events,
    Guarded,
    Packet,
    Pause,
    connect_packet,
    guarded,
    joined_client,
    lines,
    open_wire,
    serializer,
    until,
)


async def code_of(case: Guarded, namespace: str = "/messages", **options: Any) -> str | None:
    """The reject code of a CONNECT; None when it was accepted, the message when there is no code."""
    try:
        async with join(case.app, namespace, **options):
            return None
    except Refused as refused:
        return refused.code or refused.message


def anywhere(server: Any) -> None:
    server.on("echo", lambda sid: None, namespace="*")


TOKENS: list[tuple[Any, str | None]] = [
    (mint(), None),
    (None, "token_missing"),
    ("", "token_missing"),
    ("x", "token_malformed"),
    ("x.y.z", "token_malformed"),
    (mint(lifetime=-60), "token_expired"),
    (mint(key="0" * 32), "token_invalid"),
    (5, "token_malformed"),
    (["a"], "token_malformed"),
    (mint(subject=None), "token_invalid"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_answers_over_each_transport_and_serializer(kind: str) -> None:
    case = guarded(server_options=serializer(kind))
    for token, expected in TOKENS:
        client = await Client(case, kind).open()
        if kind == "upgraded":
            await client.upgrade()
        await client.send_packet(Packet(0, "/messages", {"token": token}))
        packet = await client.packet()
        assert packet.kind == (0 if expected is None else 4)
        assert expected is None or packet.data["data"]["code"] == expected
        await client.close()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (msgpack.ExtType(0, b"\0"), "token_missing"),  # how JavaScript's serializer writes undefined
        (None, "token_missing"),
        ({}, "token_missing"),
        (msgpack.ExtType(0, b"\1"), "connect_malformed"),
        (msgpack.ExtType(1, b"\0"), "connect_malformed"),
        *[(data, "connect_malformed") for data in (5, "text", ["a"], True, 1.5, b"bytes")],
    ],
    ids=repr,
)
async def test_an_auth_payload_that_is_no_object_over_msgpack(data: Any, expected: str) -> None:
    case = guarded(server_options=serializer("msgpack"))
    client = await Client(case, "msgpack").open()
    await client.send(msgpack.dumps({"type": 0, "nsp": "/messages", "data": data}))
    assert (await client.packet()).data["data"]["code"] == expected


# Policies


async def test_an_optional_token_may_be_missing_but_not_wrong() -> None:
    subjects: list[Any] = []

    def connect(sid: str, environ: Any, auth: Any) -> None:
        identity = current_connection().identity
        subjects.append((identity.subject, identity.is_authenticated))

    case = guarded(handlers={"connect": connect}, namespaces=[NamespacePolicy("/messages", token="optional")])
    assert await code_of(case) is None
    assert await code_of(case, token=mint("ann")) is None
    assert await code_of(case, token=mint(lifetime=-60)) == "token_expired"
    assert await code_of(case, token="nonsense") == "token_malformed"
    assert subjects == [(None, False), ("ann", True)]


async def test_without_a_token_nothing_of_it_is_looked_at() -> None:
    case = guarded(namespaces=[NamespacePolicy("/messages", token="none")])
    for token in (None, "nonsense", mint(lifetime=-60)):
        assert await code_of(case, token=token) is None


async def test_without_auth_everybody_joins_what_exists() -> None:
    case = guarded(auth=None)
    assert await code_of(case, token="nonsense") is None
    assert await code_of(case, "/other") == "Invalid namespace"


def _only_admin(server: Any) -> None:
    del server.handlers["/messages"]

    class InstrumentedAsyncServer:
        async def admin_connect(self, sid: str, environ: Any, auth: Any) -> None: ...

    server.on("connect", InstrumentedAsyncServer().admin_connect, namespace="/admin")


def _nothing(server: Any) -> None:
    server.handlers.clear()


@pytest.mark.parametrize(
    ("served", "prepare", "server_options", "options"),
    [
        (False, None, {}, {}),
        (False, lambda server: server.register_namespace(socketio.AsyncNamespace("/class")), {}, {}),
        (False, None, {"namespaces": ["/messages"]}, {}),
        (False, None, {}, {"namespaces": ["/messages"]}),
        (True, _nothing, {}, {}),
        (True, _only_admin, {}, {}),
        (True, anywhere, {}, {}),
        (True, lambda server: server.on("echo", print, namespace="/"), {}, {}),
        (True, lambda server: server.register_namespace(socketio.AsyncNamespace("/")), {}, {}),
        (True, None, {"namespaces": ["/messages", "/"]}, {}),
        (True, None, {"namespaces": "*"}, {}),
        (True, None, {}, {"namespaces": ["/messages", "/"]}),
    ],
)
async def test_a_client_that_names_no_namespace_joins_the_default_one_only_where_it_is_meant(
    served: bool, prepare: Any, server_options: Any, options: Any, events: Events
) -> None:
    case = guarded(prepare=prepare, server_options=server_options, **options)
    assert await code_of(case, "/", token=mint()) == (None if served else "Invalid namespace")
    if not served:
        (line,) = lines(events, "connection.rejected")
        assert line["hint"].startswith('No namespace given: write io("https://host/')
    if server_options.get("namespaces") != "*":
        assert ("/" in case.guard.describe()["namespaces"]) == served


async def test_scopes_and_claims_must_be_there() -> None:
    case = guarded(
        prepare=anywhere,
        namespaces=[
            NamespacePolicy("/messages", scopes={"read", "write"}),
            NamespacePolicy("/tenant-{tenant}", claims={"tenant_id": "{tenant}"}),
        ],
    )
    assert await code_of(case, token=mint(scope="read write more")) is None
    assert await code_of(case, token=mint(scope="read")) == "insufficient_scope"
    assert await code_of(case, "/tenant-acme", token=mint(tenant_id="acme")) is None
    assert await code_of(case, "/tenant-acme", token=mint(tenant_id="other")) == "insufficient_scope"
    assert await code_of(case, "/tenant-None", token=mint()) == "insufficient_scope"


@pytest.mark.parametrize("options", [{}, {"token": "nonsense"}, {"token": "expired"}, {"token": "good"}])
async def test_a_hidden_namespace_answers_byte_for_byte_as_an_unknown_one(options: Any, events: Events) -> None:
    tokens = {"expired": mint(lifetime=-60), "good": mint()}
    options = {name: tokens.get(value, value) for name, value in options.items()}
    case = guarded(namespaces=[NamespacePolicy("/messages", hidden=True, scopes={"admin"})])
    frames = []
    for name in ("/messages", "/nowhere"):
        wire = await open_wire(case.app, connect_packet(name, options.get("token")))
        frames.append(str(await wire.frame()))
        await wire.close()
    assert frames == ['44/messages,{"message":"Invalid namespace"}', '44/nowhere,{"message":"Invalid namespace"}']
    hidden, unknown = lines(events, "connection.rejected")
    assert hidden["detail"] == "hidden"
    assert hidden["hidden_reason"]
    assert "hidden_reason" not in unknown
    assert "registered" not in hidden
    assert await code_of(case, token=mint(scope="admin")) is None


async def test_an_authorize_that_raises_is_an_error_like_a_handler_that_does(events: Events) -> None:
    def authorize(identity: Any, connection: Any) -> bool:
        raise ValueError("broken")

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)])
    assert await code_of(case, token=mint()) == "internal_error"
    (line,) = lines(events, "connection.rejected")
    assert (line["level"], line["reason"]) == ("error", "internal_error")


async def test_an_authorize_that_raises_does_not_give_a_hidden_namespace_away(events: Events) -> None:
    def authorize(identity: Any, connection: Any) -> bool:
        raise ValueError("secret")

    case = guarded(namespaces=[NamespacePolicy("/messages", hidden=True, authorize=authorize)])
    assert await code_of(case, token=mint()) == "Invalid namespace"
    (line,) = lines(events, "connection.rejected")
    assert line["error"] == "ValueError"


async def test_debug_tells_a_refused_client_the_details() -> None:
    case = guarded(debug=True)
    wire = await open_wire(case.app, connect_packet("/mesages", None))
    body = json.loads(str(await wire.frame()).removeprefix("44/mesages,"))
    assert body["data"]["registered"] == ["/messages"]
    assert body["data"]["suggestion"] == "/messages"
    await wire.send(connect_packet(token=None, jwt="x"))
    body = json.loads(str(await wire.frame()).removeprefix("44/messages,"))
    assert body["data"]["detail"] == "no_token"
    assert body["data"]["received"] == ["jwt"]


async def test_a_wrong_name_is_explained_alike_each_time_and_anew_when_more_is_registered(events: Events) -> None:
    case = guarded()
    for _ in range(2):
        assert await code_of(case, "/mesages", token=mint()) == "Invalid namespace"
    case.server.on("echo", lambda sid: None, namespace="/mesage")
    assert await code_of(case, "/mesages", token=mint()) == "Invalid namespace"
    case.server.on("echo", lambda sid: None, namespace="/mesages")
    assert await code_of(case, "/mesages", token=mint()) is None
    first, second, third = lines(events, "connection.rejected")
    for name in ("requested", "registered", "suggestion", "hint"):
        assert first[name] == second[name]
    assert first["registered"] == ["/messages"]
    assert third["registered"] == ["/mesage", "/messages"]


# authorize


class Odd(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (None, "None"),
        (False, "False"),
        (1, "int"),
        ("yes", "str"),
        ([True], "list"),
        (object(), "object"),
        (ValueError(), "ValueError"),
        *[(kind, None) for kind in (ValueError, TypeError, asyncio.CancelledError, KeyError, Odd)],
    ],
)
async def test_authorize_admits_with_true_only(
    answer: Any, received: str | None, asynchronous: bool, events: Events
) -> None:
    def authorize(identity: Any, connection: Any) -> Any:
        if received is None:
            raise answer("secret")
        return answer

    async def authorize_later(identity: Any, connection: Any) -> Any:
        await asyncio.sleep(0)
        return authorize(identity, connection)

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize_later if asynchronous else authorize)])
    code = "internal_error" if received is None else "insufficient_scope"
    assert await code_of(case, token=mint()) == code
    (line,) = lines(events, "connection.rejected")
    assert line["reason"] == code
    if received is not None:
        assert (line["detail"], line["received"]) == ("authorize_refused", received)


@pytest.mark.parametrize("kind", ["function", "coroutine", "future"])
async def test_authorize_gets_the_identity_and_the_connection(kind: str) -> None:
    asked: list[Any] = []

    def authorize(identity: Any, connection: Any) -> bool:
        asked.append((identity.subject, connection.namespace, dict(connection.placeholders)))
        return True

    async def authorize_later(identity: Any, connection: Any) -> bool:
        return authorize(identity, connection)

    @quick  # in a thread there is no loop
    def authorize_by_future(identity: Any, connection: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(authorize(identity, connection))
        return future

    kinds: Any = {"function": authorize, "coroutine": authorize_later, "future": authorize_by_future}
    case = guarded(prepare=anywhere, namespaces=[NamespacePolicy("/t-{tenant}", authorize=kinds[kind])])
    assert await code_of(case, "/t-acme", token=mint("ann")) is None
    assert asked == [("ann", "/t-acme", {"tenant": "acme"})]


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_authorize_that_hangs_is_cut_off(swallows: bool) -> None:
    cancelled = []

    async def authorize(identity: Any, connection: Any) -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(identity.subject)
            if not swallows:
                raise
        return True

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)], admission_timeout=0.01)
    wire = await open_wire(case.app, connect_packet())
    # A stock client comes back by itself from a closed transport, and never from a CONNECT_ERROR.
    assert await wire.closed() == ([], 4504)
    assert cancelled == ["user-1"]


async def test_a_session_that_has_joined_another_namespace_goes_on(clock: Clock, events: Events) -> None:
    asked = asyncio.Event()

    async def authorize(identity: Any, connection: Any) -> bool:
        asked.set()
        return bool(await asyncio.Event().wait())

    policies = ["/messages", NamespacePolicy("/slow", authorize=authorize)]
    case = guarded("/messages", "/slow", namespaces=policies, admission_timeout=5)
    client, _ = await joined_client(case)
    await client.connect("/slow")
    await asked.wait()
    clock.passes(5)
    refusal = (await client.packet()).data["data"]
    assert (refusal["code"], refusal["retry"]) == ("admission_timeout", "backoff")
    assert await client.alive()


async def test_a_token_that_expires_while_authorize_waits_is_refused() -> None:
    clock = FakeClock()

    async def authorize(identity: Any, connection: Any) -> bool:
        clock.move(3600)
        return True

    case = guarded(auth=make_auth(clock=clock), namespaces=[NamespacePolicy("/messages", authorize=authorize)])
    assert await code_of(case, token=mint(lifetime=300)) == "token_expired"


async def test_an_anonymous_client_needs_no_time() -> None:
    async def authorize(identity: Any, connection: Any) -> bool:
        return not identity.is_authenticated

    case = guarded(namespaces=[NamespacePolicy("/messages", token="optional", authorize=authorize)])
    assert await code_of(case) is None
    free = guarded(auth=None, namespaces=[NamespacePolicy("/messages", authorize=authorize)])
    assert await code_of(free) is None


async def test_authorize_is_not_asked_when_the_token_is_refused() -> None:
    asked = []

    def authorize(identity: Any, connection: Any) -> bool:
        asked.append(identity)
        return True

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize, scopes={"admin"})])
    for token in (None, "nonsense", mint()):
        await code_of(case, token=token)
    assert asked == []


# The record


async def test_the_guard_knows_its_connections() -> None:
    case = guarded("/messages", "/scheduler")
    async with (
        join(case.app, "/messages", token=mint("ann")) as ann,
        join(case.app, "/scheduler", token=mint("bob", jti="t-1", iss="here")) as bob,
    ):
        assert case.guard.identity(ann.sid).subject == "ann"
        assert case.guard.identity(bob.sid, "/scheduler").token_id == "t-1"
        with pytest.raises(LookupError, match="/messages"):
            case.guard.identity(bob.sid, "/messages")
        with pytest.raises(LookupError):
            case.guard.identity("nobody")
        assert {connection.sid for connection in case.guard.connections()} == {ann.sid, bob.sid}
        assert [connection.sid for connection in case.guard.connections(subject="ann")] == [ann.sid]
        assert [connection.sid for connection in case.guard.connections(namespace="/scheduler")] == [bob.sid]
        assert case.guard.connections(subject="ann", namespace="/scheduler") == []
    assert case.guard.connections() == []


async def test_the_lines_of_a_connection_carry_who_it_was(events: Events) -> None:
    case = guarded(log_claims=("sub", "email", "grade"))
    headers = {"user-agent": "agent\nforged", "origin": "http://testserver"}
    async with join(
        case.app,
        "/messages",
        token=mint("ann\n", email="a@b\u202e", grade=5, iss="here", jti="t-1", headers={"kid": "k"}),
        headers=headers,
        client=("203.0.113.7", 4),
    ) as client:
        await client.call("echo")
        sid = client.sid
    accepted, closed = (event for event in events if event["event"].startswith("socketguard.connection."))
    common = {
        "namespace": "/messages",
        "sid": sid,
        "subject": "ann\\u000a",
        "email": "a@b\\u202e",
        "grade": 5,
        "issuer": "here",
        "token_id": "t-1",
        "key_id": "k",
        "client_address": "203.0.113.7",
        "user_agent": "agent\\u000aforged",
        "origin": "http://testserver",
        "transport": "websocket",
    }
    for line in (accepted, closed):
        assert {name: line[name] for name in common} == common
        assert line["session"]
        assert line["duration_s"] >= 0
    assert (closed["reason"], closed["events_in"], closed["packets_in"]) == ("transport close", 1, 1)


async def test_the_address_of_the_client_reaches_the_application() -> None:
    seen: list[Any] = []

    case = guarded(handlers={"connect": lambda sid, environ, auth: seen.append(environ["REMOTE_ADDR"])})
    async with join(case.app, "/messages", token=mint(), client=("203.0.113.7", 4)):
        pass
    # Behind a Unix socket there is no address.
    client, _ = await joined_client(case, kind="polling", client=None)
    await client.close()
    assert seen == ["203.0.113.7", "127.0.0.1"]


async def test_no_secret_in_any_line(events: Events) -> None:
    tokens = [mint(), mint(lifetime=-60), mint(key="0" * 32), "x" * 9000, "secret.secret.secret"]
    case = guarded()
    eio_sids = []
    for token in tokens:
        client = await Client(case.app, "polling", headers={"host": "testserver", "cookie": "c=cookie-value"}).open()
        eio_sids.append(client.sid)
        await client.post(connect_packet(token=token))
        await client.poll()
        await client.post("1")
        await client.post("3")
    text = json.dumps(events, default=repr)
    for secret in [*tokens, *eio_sids, "cookie-value", "secret.secret"]:
        assert secret not in text


async def test_pending_connections_are_not_listed() -> None:
    pause = Pause()
    case = guarded(handlers={"connect": pause.wait})
    await open_wire(case.app, connect_packet())
    await pause.entered.wait()
    assert case.guard.connections() == []
    pause.release.set()
    await until(case.guard.connections)


@pytest.mark.parametrize(
    ("claims", "policy", "read", "hint"),
    [
        ({"scope": "a b"}, {}, "scope", None),
        ({}, {}, "scope", None),
        ({"scp": "read", "roles": ["x"]}, {}, "scope", "'scp' and 'roles': JWTAuth(scope_claim='scp') reads it"),
        ({"realm_access": {"roles": ["read"]}}, {}, "scope", "JWTAuth(scope_claim='realm_access.roles')"),
        ({"scope": "a", "permissions": ["read"]}, {}, "scope", None),
        ({"roles": ["a"]}, {"scope_claim": "roles"}, "roles", None),
    ],
)
async def test_what_a_token_grants_is_said_where_a_scope_is_missing(
    claims: Any, policy: Any, read: str, hint: str | None, events: Events
) -> None:
    case = guarded(auth=make_auth(**policy), namespaces=[NamespacePolicy("/messages", scopes={"read"})])
    assert await code_of(case, token=mint(**claims)) == "insufficient_scope"
    (line,) = lines(events, "connection.rejected")
    assert (line["detail"], line["required"], line["scope_claim"]) == ("scope_missing", ["read"], read)
    assert line["granted"] == sorted(str(claims.get(read, "")).strip("[']").split() if read in claims else [])
    assert (hint in line["hint"]) if hint else "hint" not in line


async def test_a_token_in_another_place_is_named(events: Events) -> None:
    case = guarded()
    token = mint()
    wire = await open_wire(case.app, headers={"x-access-token": token})
    await wire.send("40/messages,")
    assert "token_missing" in str(await wire.frame())
    (line,) = lines(events, "connection.rejected")
    assert (line["detail"], token in str(line)) == ("no_token", False)
    assert "sources=('payload', 'header:x-access-token')" in line["hint"]
