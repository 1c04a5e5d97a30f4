"""Revoking and disconnecting through a route of the application: what stock clients see of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import TRANSPORTS, JavaScript, Server, new_address

ACCEPTED, CLOSED = "socketguard.connection.accepted", "socketguard.connection.closed"
CLOSING = "event:socketguard:closing"
NAMESPACES = ("/messages", "/attendances", "/tenant-acme")


@pytest.fixture(scope="module")
def _servers(folder: Path) -> Iterator[dict[str, Server]]:
    settings: dict[str, Any] = {"auth": {"max_lifetime": 7200}}
    with Server(folder, settings) as plain, Server(folder, {**settings, "serializer": "msgpack"}) as packed:
        yield {"default": plain, "msgpack": packed}


@pytest.fixture(params=["default", "msgpack"])
def either(request: pytest.FixtureRequest, _servers: dict[str, Server]) -> Iterator[tuple[Server, bool]]:
    """The server, and whether it speaks msgpack."""
    found = _servers[request.param]
    yield found, request.param == "msgpack"
    found.wait_until_empty()


def begin(transports: str) -> list[dict[str, Any]]:
    """Join, by the transport that is meant."""
    return [{"wait": "connect"}, *([{"wait": "upgrade"}] if transports == "upgrade" else [])]


def when_joined(server: Server, transports: str, subject: str) -> None:
    joined = server.wait_for_event(ACCEPTED, subject=subject)
    if transports == "upgrade":
        server.wait_for_event("socketguard.transport.upgraded", session=joined["session"])


@pytest.mark.parametrize("by", ["subject", "token_id"])
@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_revoked_client_is_sent_away_and_stays_away(
    js: JavaScript, either: tuple[Server, bool], transports: str, by: str
) -> None:
    subject, other = f"u-{transports}-{by}", f"other-{transports}-{by}"
    token = mint(subject, tenant_id="acme", jti=f"id-of-{subject}")
    server, packed = either
    bystander = js.start(
        server.url,
        token=mint(other, jti=f"id-of-{other}"),
        msgpack=packed,
        steps=[{"wait": "connect"}, {"signal": f"{server.port}-{subject}"}, {"call": ["whoami"]}],
    )
    future = js.start(
        server.url,
        transports=transports,
        token=token,
        address=new_address(),
        msgpack=packed,
        reconnection=True,
        steps=[*begin(transports), {"wait": "disconnect"}, {"connect": True}, {"wait": ["connect", "connect_error"]}],
    )
    try:
        when_joined(server, transports, subject)
        server.wait_for_event(ACCEPTED, subject=other)
        selector = subject if by == "subject" else f"id-of-{subject}"
        assert json.loads(server.post(f"/control/revoke?{by}={selector}")) == 1
        result = future.result(60)
    finally:
        js.signal(f"{server.port}-{subject}")
    # Nobody else noticed anything.
    assert bystander.result(60)["steps"][-1]["subject"] == other
    kinds = [note["kind"] for note in result["seen"] if note["kind"] not in ("open", "upgrade")]
    assert kinds == ["connect", CLOSING, "disconnect", "connect_error"]
    notes = {note["kind"]: note for note in result["seen"]}
    assert notes[CLOSING]["args"] == [{"code": "token_revoked", "message": "Token has been revoked", "retry": "login"}]
    # Although it may reconnect, it doesn't.
    assert (notes["disconnect"]["reason"], notes["disconnect"]["active"]) == ("io server disconnect", False)
    assert notes["connect_error"]["message"] == "Token has been revoked"
    assert notes["connect_error"]["data"]["code"] == "token_revoked"
    assert notes["connect_error"]["data"]["retry"] == "login"
    assert server.events(CLOSED, subject=subject)[0]["reason"] == "token_revoked"
    line = server.wait_for_event("socketguard.token.revoked", selector={by: selector})
    assert line["ended"] == 1
    refused = server.wait_for_event("socketguard.connection.rejected", ref=notes["connect_error"]["data"]["ref"])
    assert (refused["reason"], refused["detail"]) == ("token_revoked", "revoked")


def test_all_namespaces_of_a_revoked_client_end(js: JavaScript, either: tuple[Server, bool]) -> None:
    server, packed = either
    future = js.start(
        server.url,
        also=NAMESPACES[1:],
        token=mint("u-many", tenant_id="acme"),
        transports="polling",
        msgpack=packed,
        reconnection=True,
        steps=[{"more": {"kind": "connect"}}, {"more": {"kind": "disconnect"}}],
    )
    for namespace in NAMESPACES:
        server.wait_for_event(ACCEPTED, subject="u-many", namespace=namespace)
    assert json.loads(server.post("/control/revoke?subject=u-many")) == 3
    seen = future.result(60)["seen"]
    ends = {note["namespace"]: note["reason"] for note in seen if note["kind"] == "disconnect"}
    assert ends == dict.fromkeys(NAMESPACES, "io server disconnect")
    assert {note["namespace"] for note in seen if note["kind"] == CLOSING} == set(NAMESPACES)


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_who_is_disconnected_may_come_again(js: JavaScript, either: tuple[Server, bool], transports: str) -> None:
    server, packed = either
    subject = f"kicked-{transports}"
    future = js.start(
        server.url,
        transports=transports,
        token=mint(subject),
        msgpack=packed,
        reconnection=True,
        steps=[*begin(transports), {"wait": "disconnect"}, {"connect": True}, {"wait": ["connect", "connect_error"]}],
    )
    when_joined(server, transports, subject)
    assert json.loads(server.post(f"/control/disconnect?subject={subject}&reason=maintenance")) == 1
    result = future.result(60)
    kinds = [note["kind"] for note in result["seen"] if note["kind"] not in ("open", "upgrade")]
    assert kinds == ["connect", "disconnect", "connect"]
    [end] = [note for note in result["seen"] if note["kind"] == "disconnect"]
    # It comes back only because the page says so.
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    closed = server.events(CLOSED, subject=subject)[0]
    assert (closed["reason"], closed["detail"]) == ("kicked", "maintenance")
    line = server.wait_for_event("socketguard.subject.disconnected", selector={"subject": subject})
    assert line["ended"] == 1
