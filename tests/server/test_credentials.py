"""What every credential gets, whatever it is: the same handshake, expiry, revocation, limits and log lines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import itsdangerous
import pytest

from socketguard import (
    Authenticator,
    ConnectRequest,
    CredentialError,
    Identity,
    Limits,
    NamespacePolicy,
)
from socketguard.auth import APIKeyAuth, IntrospectionAuth, SessionAuth, quick
from socketguard.testing import make_auth, mint
from tests.scripted import (
    CONNECT,
    CONNECT_ERROR,
    KINDS,
    Client,
    Clock,
    Closed,
    Events,
    Guarded,
    Packet,
    gone,
    guarded,
    lines,
    serializer,
    until,
    within,
)

ORIGIN = "https://crm.example.com"
SECRET = "the secret of the session middleware"
ROLES = frozenset({"read"})


@dataclass(frozen=True)
class Shown:
    """What a client shows."""

    payload: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of credential: how a guard takes it, and how clients show a good one and a bad one."""

    name: str
    auth: Callable[[Clock], Any]
    good: Callable[[Clock, str], Shown]
    bad: Shown
    code: str = "credential_invalid"
    revocable: bool = True  # by a token id


def identity(subject: str, clock: Clock, **more: Any) -> Identity:
    known = {"token_id": f"id-{subject}", "issued_at": clock.now, "expires_at": clock.now + 60}
    return Identity(subject, {"tenant": "acme"}, ROLES, **{**known, **more})


def keys(clock: Clock, mark: Callable[[Any], Any] = lambda lookup: lookup) -> APIKeyAuth:
    known = {hashlib.sha256(f"key-{name}".encode()).hexdigest(): name for name in ("ann", "bob")}
    start = identity("", clock)

    def lookup(digest: str) -> Identity | None:
        subject = known.get(digest)
        return None if subject is None else identity(subject, clock, expires_at=start.expires_at)

    auth = APIKeyAuth(mark(lookup))
    auth.clock = clock
    return auth


def later(lookup: Any) -> Any:
    async def asked(digest: str) -> Identity | None:
        await asyncio.sleep(0)
        found: Identity | None = lookup(digest)
        return found

    return asked


def cookie(session: dict[str, Any], at: float, secret: str = SECRET) -> str:
    """The cookie that Starlette's SessionMiddleware makes."""

    class Signer(itsdangerous.TimestampSigner):
        def get_timestamp(self) -> int:
            return int(at)

    return Signer(secret).sign(base64.b64encode(json.dumps(session).encode())).decode()


def session(clock: Clock, subject: str) -> Shown:
    return Shown(headers={"cookie": f"a=b; session={cookie({'user_id': subject}, clock.now)}", "origin": ORIGIN})


def introspection(clock: Clock) -> IntrospectionAuth:
    end = clock.now + 60

    async def ask(token: str) -> dict[str, Any]:
        kind, _, subject = token.partition("-")
        if kind != "opaque":
            return {"active": False}
        more = {"jti": f"id-{subject}", "iat": end - 60, "exp": end, "tenant": "acme"}
        return {"active": True, "sub": subject, "scope": "read", **more}

    return IntrospectionAuth(ask=ask, clock=clock)


class Tickets(Authenticator):
    """An authenticator of the application."""

    name = "ticket"
    places = ("payload:ticket", "query:ticket")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.end = clock.now + 60

    async def identify(self, request: ConnectRequest) -> Identity | None:
        ticket = (request.auth or {}).get("ticket")
        if ticket is None:
            return None
        if not ticket.startswith("ticket-"):
            raise CredentialError("no ticket of ours")
        return identity(ticket.removeprefix("ticket-"), self.clock, expires_at=self.end)


def function(clock: Clock) -> Any:
    tickets = Tickets(clock)

    def by_ticket(request: ConnectRequest) -> Any:
        return tickets.identify(request)

    by_ticket.clock = clock  # type: ignore[attr-defined]
    return by_ticket


def ticket(clock: Clock, subject: str) -> Shown:
    return Shown({"ticket": f"ticket-{subject}"})


KINDS_OF_CREDENTIALS = [
    Kind(
        "jwt",
        lambda clock: make_auth(clock=clock, max_lifetime=3600, leeway=0),
        lambda clock, subject: Shown(
            {"token": mint(subject, now=clock.now, lifetime=60, jti=f"id-{subject}", scope="read", tenant="acme")}
        ),
        Shown({"token": "a.b.c"}),
        "token_malformed",
    ),
    *(
        Kind(
            "api_key",
            lambda clock, mark=mark: keys(clock, mark),  # type: ignore[misc]
            (lambda clock, subject: Shown({"api_key": f"key-{subject}"}))
            if in_payload
            else (lambda clock, subject: Shown(headers={"x-api-key": f"key-{subject}"})),
            Shown({"api_key": "key-eve"}) if in_payload else Shown(headers={"x-api-key": "key-eve"}),
        )
        for mark, in_payload in ((quick, True), (later, False), (lambda lookup: lookup, True))
    ),
    Kind(
        "session",
        lambda clock: SessionAuth(SECRET, max_age=60, clock=clock),
        session,
        Shown(headers={"cookie": f"session={cookie({'user_id': 'eve'}, time.time(), 'another')}", "origin": ORIGIN}),
        revocable=False,
    ),
    Kind(
        "introspection",
        introspection,
        lambda clock, subject: Shown({"token": f"opaque-{subject}"}),
        Shown({"token": "stolen-ann"}),
        "token_invalid",
    ),
    Kind("ticket", Tickets, ticket, Shown({"ticket": "forged"})),
    Kind("by_ticket", function, ticket, Shown({"ticket": "forged"})),
]
every = pytest.mark.parametrize("kind", KINDS_OF_CREDENTIALS, ids=lambda kind: f"{kind.name}")
transports = pytest.mark.parametrize("transport", KINDS)


def case_of(kind: Kind, clock: Clock, transport: str = "websocket", **options: Any) -> Guarded:
    server_options = serializer(transport)
    return guarded(auth=kind.auth(clock), allowed_origins=[ORIGIN], server_options=server_options, **options)


async def client_of(case: Guarded, shown: Shown, transport: str = "websocket") -> Client:
    return await Client(case, transport, headers=dict(shown.headers)).open()


async def ask(client: Client, shown: Shown) -> Any:
    """Ask for /messages, and return the answer."""
    await client.send_packet(Packet(CONNECT, "/messages", dict(shown.payload) or None))
    packet = await client.packet()
    if client.kind == "upgraded" and packet.kind == CONNECT:
        await client.upgrade()
    return packet


async def join(client: Client, shown: Shown) -> str:
    packet = await ask(client, shown)
    assert packet.kind == CONNECT, packet
    sid: str = packet.data["sid"]
    return sid


async def joined(
    kind: Kind, case: Guarded, clock: Clock, subject: str = "ann", transport: str = "websocket"
) -> tuple[Client, str]:
    shown = kind.good(clock, subject)
    client = await client_of(case, shown, transport)
    return client, await join(client, shown)


async def refused(case: Guarded, shown: Shown, transport: str = "websocket") -> str:
    client = await client_of(case, shown, transport)
    packet = await ask(client, shown)
    assert packet.kind == CONNECT_ERROR, packet
    await client.close()
    code: str = packet.data["data"]["code"]
    return code


@every
@transports
async def test_who_shows_a_good_one_joins(kind: Kind, transport: str, clock: Clock, events: Events) -> None:
    case = case_of(kind, clock, transport, logger=None)
    client, sid = await joined(kind, case, clock, transport=transport)
    found = case.guard.identity(sid)
    assert (found.subject, found.credential) == ("ann", kind.name)
    assert await client.alive()
    (line,) = lines(events, "connection.accepted")
    assert (line["subject"], line["credential"]) == ("ann", kind.name)
    assert len(case.guard.connections(subject="ann")) == 1


@every
@transports
async def test_who_shows_none_or_a_bad_one_does_not(kind: Kind, transport: str, clock: Clock, events: Events) -> None:
    case = case_of(kind, clock, transport, logger=None)
    assert await refused(case, Shown(), transport) == "token_missing"
    assert await refused(case, kind.bad, transport) == kind.code
    assert [line["reason"] for line in lines(events, "connection.rejected")] == ["token_missing", kind.code]
    text = json.dumps(events)
    for secret in (*kind.bad.payload.values(), *kind.bad.headers.values()):
        assert secret == ORIGIN or secret not in text
    assert case.guard.connections() == []


@every
async def test_it_ends_when_it_expires_and_is_refused_afterwards(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock, expiring_notice=None)
    shown = kind.good(clock, "ann")
    client = await client_of(case, shown)
    await join(client, shown)
    clock.passes(59.75)
    assert await client.alive()
    clock.passes(0.25)
    await client.expired()
    await gone(case)
    # An expired session is none at all.
    code = "token_missing" if kind.name == "session" else "token_expired"
    assert await refused(case, shown) == code


@every
async def test_disconnect_and_revoke(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock)
    client, _ = await joined(kind, case, clock)
    other, _ = await joined(kind, case, clock, "bob")
    assert await case.guard.disconnect(subject="ann", reason="Goodbye") == 1
    await client.sent_away("/messages", "kicked")
    client, _ = await joined(kind, case, clock)
    if kind.revocable:
        assert await case.guard.revoke(token_id="id-ann") == 1
        await client.sent_away("/messages", "token_revoked")
        assert await refused(case, kind.good(clock, "ann")) == "token_revoked"
    assert await other.alive()


@every
async def test_the_limit_of_a_subject(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock, limits=Limits(connections_per_subject=1))
    await joined(kind, case, clock)
    assert await refused(case, kind.good(clock, "ann")) == "connection_limit"
    await joined(kind, case, clock, "bob")


@every
async def test_policies_ask_of_it_what_they_ask_of_a_token(kind: Kind, clock: Clock) -> None:
    scopes: set[str] = set() if kind.name == "session" else {"read"}
    policy = NamespacePolicy("/messages", scopes=scopes, claims={} if not scopes else {"tenant": "acme"})
    case = case_of(kind, clock, namespaces=[policy])
    await joined(kind, case, clock)
    case = case_of(kind, clock, namespaces=[NamespacePolicy("/messages", scopes={"write"})])
    assert await refused(case, kind.good(clock, "ann")) == "insufficient_scope"


@every
async def test_guests_of_an_optional_namespace(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock, namespaces=[NamespacePolicy("/messages", token="optional")])
    guest = await client_of(case, Shown())
    sid = await join(guest, Shown())
    assert not case.guard.identity(sid).is_authenticated
    assert (await guest.refresh("/messages", "a.b.c"))["code"] == "not_signed_in"
    assert await refused(case, kind.bad) == kind.code


@every
async def test_an_address_over_its_budget_costs_no_look_up(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock, limits=Limits(failures_per_address="3/minute"))
    bad = [Shown({**kind.bad.payload, "n": number}, kind.bad.headers) for number in range(4)]
    for shown in bad:
        await refused(case, shown)
    # The same again and again is one failure of its address; what nobody has shown before still may.
    for number in range(3):
        await refused(case, Shown(headers={"x-api-key": f"k{number}"}))
    code = await refused(case, kind.good(clock, "ann")) if kind.name not in ("jwt", "session") else "rate_limited"
    assert code == "rate_limited"
    if kind.name in ("jwt", "session"):
        await joined(kind, case, clock)


@every
async def test_a_refresh(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock)
    client, sid = await joined(kind, case, clock)
    shown = kind.good(clock, "bob")
    answer = await client.call("/messages", "socketguard:refresh", dict(shown.payload))
    expected = {"token_missing"} if not shown.payload and kind.name == "session" else {"subject_mismatch"}
    if kind.name == "api_key" and not shown.payload:
        expected = set()  # the key of the handshake is asked once more
    assert {answer.get("code")} - {None} == expected
    if kind.name != "session":
        shown = kind.good(clock, "ann")
        answer = await client.call("/messages", "socketguard:refresh", dict(shown.payload))
        assert answer["ok"], answer
    assert case.guard.identity(sid).subject == "ann"


# The guarantees, for each of them

ODD = [
    *(None, True, 0, -1, 1.5, "", " ", "\x00", "é" * 9, "x" * 9000, "\ud800", [], [[]], {}, {"a": {}}, ["token"]),
    *({"$gt": ""}, "' OR 1=1 --", "null", "Bearer ", "Bearer  ", "a.b.c", "..", "eyJ", "٠", "\u202e"),
]


def place_of(kind: Kind, clock: Clock) -> str:
    payload = kind.good(clock, "ann").payload
    return next(iter(payload), "token")


@every
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:20])
async def test_nothing_that_a_client_sends_in_its_place_lets_it_in(kind: Kind, odd: Any, clock: Clock) -> None:
    case = case_of(kind, clock)
    client = await client_of(case, Shown())
    packet = Packet(CONNECT, "/messages", {place_of(kind, clock): odd})
    await client.send_packet(packet)
    try:
        answer = await client.packet()
    except Closed:
        return  # not even an answer
    assert answer.kind == CONNECT_ERROR
    assert answer.data["data"]["code"] in ("token_missing", kind.code, "token_malformed", "credential_invalid")
    assert case.guard.connections() == []


@every
async def test_nothing_is_sent_to_it_before_it_has_joined_and_after_it_was_ended(kind: Kind, clock: Clock) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def connect(sid: str, environ: Any) -> None:
        asked.set()
        await case.server.emit("news", "while it joins", namespace="/messages")
        await release.wait()

    case = case_of(kind, clock, handlers={"connect": connect})
    shown = kind.good(clock, "ann")
    client = await client_of(case, shown)
    await client.send_packet(Packet(CONNECT, "/messages", dict(shown.payload) or None))
    await within(asked.wait())
    await case.server.emit("news", "to all", namespace="/messages")
    release.set()
    kinds = [(await client.packet()).kind for _ in range(3)]
    assert kinds[0] == CONNECT
    await case.guard.disconnect(subject="ann")
    await case.server.emit("news", "too late", namespace="/messages")
    await client.disconnected("/messages")
    stranger = await client_of(case, kind.bad)
    await case.server.emit("news", "for members", namespace="/messages")
    packet = await ask(stranger, kind.bad)
    assert packet.kind == CONNECT_ERROR


@every
async def test_who_vanishes_at_any_moment_leaves_nothing(kind: Kind, clock: Clock) -> None:
    case = case_of(kind, clock)
    for turns in range(8):
        shown = kind.good(clock, "ann")
        client = await client_of(case, shown)
        await client.send_packet(Packet(CONNECT, "/messages", dict(shown.payload) or None))
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
    await gone(case)
    assert case.guard.connections() == []


@every
async def test_an_event_after_its_end_is_not_dispatched(kind: Kind, clock: Clock) -> None:
    heard: list[Any] = []

    async def say(sid: str, text: str) -> None:
        heard.append(text)

    case = case_of(kind, clock, handlers={"say": say}, expiring_notice=None)
    client, _ = await joined(kind, case, clock)
    await client.emit("/messages", "say", "in time")
    await until(lambda: heard == ["in time"])
    clock.now += 61  # its end has come, and nobody has looked yet
    await client.emit("/messages", "say", "too late")
    clock.passes(1)
    await client.expired()
    assert heard == ["in time"]
