"""``report_only``: what the guard would do is logged, and nothing of it is done."""

from __future__ import annotations

from typing import Any

import pytest

from socketguard import ConfigurationError, Limits, NamespacePolicy, SocketGuard, current_connection
from socketguard.auth import CredentialError
from socketguard.testing import make_auth, mint
from tests.scripted import (
    CONNECT,
    CONNECT_ERROR,
    KINDS,
    Client,
    Clock,
    Events,
    Guarded,
    Packet,
    guarded,
    joined_client,
    lines,
    serializer,
    token_at,
    until,
)


def reporting(*namespaces: str, **options: Any) -> Guarded:
    return guarded(*namespaces, **{"report_only": True, "logger": None, **options})


def status_of(case: Guarded) -> Any:
    return case.guard.status()["report_only"]


async def answer(client: Client, namespace: str, data: Any) -> Packet:
    await client.send_packet(Packet(CONNECT, namespace, data))
    return await client.packet()


@pytest.mark.parametrize("transport", KINDS)
async def test_clients_that_send_nothing_join_as_before(transport: str, events: Events) -> None:
    case = reporting(server_options=serializer(transport))
    client, sid = await joined_client(case, token=None, kind=transport)
    assert not case.guard.identity(sid).is_authenticated
    assert await client.alive()
    (line,) = lines(events, "connection.would_reject")
    assert (line["reason"], line["namespace"], line["level"]) == ("token_missing", "/messages", "warning")
    assert line["message"] == "Authentication required"
    assert line["client_address"] == "127.0.0.1"
    assert len(lines(events, "connection.accepted")) == 1
    assert lines(events, "connection.rejected") == []
    assert status_of(case) == {"would_reject": {"token_missing": 1}, "would_end": {}}
    assert case.guard.status()["refused"] == {}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"token": "a.b.c"}, "token_malformed"),
        ({"token": mint(lifetime=-60)}, "token_expired"),
        ({"token": mint(key="another secret, which is long enough for it")}, "token_invalid"),
        ({"token": mint()}, "insufficient_scope"),
        ("a text", "connect_malformed"),
        ([1], "connect_malformed"),
    ],
)
async def test_what_would_be_refused(data: Any, code: str, events: Events) -> None:
    seen: list[Any] = []

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        seen.append((auth, current_connection().identity.subject))

    case = reporting(handlers={"connect": connect}, namespaces=[NamespacePolicy("/messages", scopes={"read"})])
    client = await Client(case).open()
    assert (await answer(client, "/messages", data)).kind == CONNECT
    assert seen == [(data, "user-1" if code == "insufficient_scope" else None)]
    assert [line["reason"] for line in lines(events, "connection.would_reject")] == [code]


async def test_a_verified_client_is_known(events: Events) -> None:
    case = reporting()
    _, sid = await joined_client(case, token=mint("ann"))
    assert case.guard.identity(sid).subject == "ann"
    assert lines(events, "connection.would_reject") == []


async def test_a_namespace_that_is_not_served_is_answered_as_python_socketio_does(events: Events) -> None:
    case = reporting()
    client = await Client(case).open()
    packet = await answer(client, "/mesages", {"token": mint()})
    assert (packet.kind, packet.namespace, packet.data) == (CONNECT_ERROR, "/mesages", "Unable to connect")
    (line,) = lines(events, "connection.would_reject")
    assert (line["reason"], line["suggestion"]) == ("invalid_namespace", "/messages")
    # Nor is one admitted that only the guard would admit.
    case = reporting("*", namespaces=["/messages"])
    client = await Client(case).open()
    assert (await answer(client, "/messages", {"token": mint()})).data == "Unable to connect"
    assert case.guard.connections() == []


async def test_what_is_served_and_not_declared_is_joined(events: Events) -> None:
    case = reporting("/messages", "/old", namespaces=["/messages", NamespacePolicy("/hidden", hidden=True)])
    await joined_client(case, "/old")
    assert [line["requested"] for line in lines(events, "connection.would_reject")] == ["/old"]


async def test_a_look_up_that_takes_its_time_is_awaited(events: Events) -> None:
    async def identify(request: Any) -> None:
        raise CredentialError("no")

    case = reporting(auth=identify)
    await joined_client(case, token=None)
    (line,) = lines(events, "connection.would_reject")
    assert (line["reason"], line["app_message"]) == ("credential_invalid", "no")

    async def broken(request: Any) -> None:
        raise OSError

    case = reporting(auth=broken)
    for _ in range(3):
        await joined_client(case, token=None)
    assert status_of(case)["would_reject"] == {"keys_unavailable": 3}
    client = await Client(case).open()
    assert (await answer(client, "/nowhere", None)).data == "Unable to connect"
    # What only the guard would admit is left to python-socketio as well, when the answer is there.
    case = reporting("*", auth=broken, namespaces=["/messages"])
    client = await Client(case).open()
    assert (await answer(client, "/messages", None)).data == "Unable to connect"
    assert status_of(case)["would_reject"] == {"keys_unavailable": 1}


async def test_what_the_handler_returns_counts_as_python_socketio_counts_it(events: Events) -> None:
    async def connect(sid: str, environ: Any) -> str:
        return "no"

    case = reporting(handlers={"connect": connect})
    await joined_client(case)
    (line,) = lines(events, "connection.would_reject")
    assert (line["reason"], line["detail"]) == ("refused_by_app", "returned_unknown")

    async def refuse(sid: str, environ: Any) -> bool:
        return False

    case = reporting(handlers={"connect": refuse})
    client = await Client(case).open()
    assert (await answer(client, "/messages", None)).kind == CONNECT_ERROR


async def test_nobody_is_ended_when_a_token_expires(clock: Clock, events: Events) -> None:
    case = reporting(auth=make_auth(clock=clock, leeway=0))
    client, _ = await joined_client(case, token=token_at(clock, 60))
    clock.passes(61)
    await until(lambda: lines(events, "connection.would_end"))
    assert await client.alive()  # without a word about expiry before
    (line,) = lines(events, "connection.would_end")
    assert (line["reason"], line["subject"]) == ("token_expired", "user-1")
    assert status_of(case) == {"would_reject": {}, "would_end": {"token_expired": 1}}


async def test_nobody_is_ended_for_a_user_that_is_gone(clock: Clock, events: Events) -> None:
    users = {"ann": 1}

    async def load(identity: Any) -> Any:
        return users.get(identity.subject)

    case = reporting(auth=make_auth(clock=clock), load_user=load, revalidate=60)
    client, _ = await joined_client(case, token=token_at(clock, 600, "ann"))
    users.clear()
    clock.passes(60)
    await until(lambda: lines(events, "connection.would_end"))
    assert await client.alive()
    await joined_client(case, token=token_at(clock, 600, "ann"))
    assert status_of(case) == {"would_reject": {"account_disabled": 1}, "would_end": {"account_disabled": 1}}


async def test_a_page_in_a_loop_uses_up_no_budget(events: Events) -> None:
    case = reporting(limits=Limits(failures_per_address="3/minute"))
    for _ in range(20):
        client, _ = await joined_client(case, token=None)
        await client.close()
    assert status_of(case)["would_reject"] == {"token_missing": 20}
    assert len(lines(events, "connection.would_reject")) < 20  # held back, and counted


async def test_what_stays_in_force(events: Events) -> None:
    case = reporting(limits=Limits(connections_per_address=2), auth=make_auth(max_lifetime=7200))
    client, _ = await joined_client(case, token=mint("ann", jti="t-1"))
    other, _ = await joined_client(case, token=None)
    third = await Client(case).open()
    assert (await third.refused(token=None))["code"] == "connection_limit"
    assert await case.guard.revoke(token_id="t-1") == 1
    await client.sent_away("/messages", "token_revoked")
    fourth = await Client(case).open()
    assert (await fourth.refused(token=mint("ann", jti="t-1")))["code"] == "token_revoked"
    sid = case.guard.connections()[0].sid
    assert await case.guard.disconnect(sid=sid) == 1
    await other.disconnected("/messages")
    assert (
        await Client(case, "polling", headers={"origin": "https://evil.example"}).http("GET", "EIO=4")
    ).status == 403


async def test_it_is_said_at_start_and_each_hour(clock: Clock, events: Events) -> None:
    case = reporting(auth=make_auth(clock=clock))
    await joined_client(case, token=token_at(clock, 60))
    warnings = lines(events, "config.warning", id="SG054")
    assert len(warnings) == 1
    clock.passes(3600)
    await until(lambda: len(lines(events, "config.warning", id="SG054")) == 2)
    assert case.guard.describe()["report_only"] is True


def test_not_without_credentials_and_not_by_the_environment() -> None:
    with pytest.raises(ConfigurationError, match="auth is None") as caught:
        guarded(auth=None, report_only=True)
    assert caught.value.option == "report_only"
    with pytest.raises(ConfigurationError, match="is no variable"):
        SocketGuard.from_env(None, server=guarded().server, environ={"SOCKETGUARD_REPORT_ONLY": "1"})


def test_without_it_there_is_no_report() -> None:
    assert status_of(guarded()) is None
