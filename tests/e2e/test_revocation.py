"""Revoking and disconnecting through a route of the application: what stock clients see of it."""

from __future__ import annotations

import pytest

from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    CLOSING,
    REJECTED,
    TRANSPORTS,
    JavaScript,
    Server,
    joining,
    new_address,
    seen,
    wait_until_joined,
)

NAMESPACES = ("/messages", "/attendances", "/tenant-acme")


@pytest.mark.parametrize("by", ["subject", "token_id"])
@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_revoked_client_is_sent_away_and_stays_away(js: JavaScript, either: Server, transports: str, by: str) -> None:
    subject, other = f"u-{transports}-{by}", f"other-{transports}-{by}"
    signal = f"{either.port}-{subject}"
    steps = [{"wait": "connect"}, {"signal": signal}, {"call": ["whoami"]}]
    bystander = js.start(either, token=mint(other, jti=f"id-of-{other}"), steps=steps)
    steps = [*joining(transports), {"wait": "disconnect"}, {"connect": True}, {"wait": ["connect", "connect_error"]}]
    token = mint(subject, tenant_id="acme", jti=f"id-of-{subject}")
    client = js.start(either, transports=transports, token=token, address=new_address(), reconnection=True, steps=steps)
    try:
        wait_until_joined(either, transports, subject=subject)
        either.wait_for_event(ACCEPTED, subject=other)
        selector = subject if by == "subject" else f"id-of-{subject}"
        assert either.ask(f"/control/revoke?{by}={selector}") == 1
        result = client.result()
    finally:
        js.signal(signal)
    # Nobody else noticed anything.
    assert bystander.result()["steps"][-1]["subject"] == other
    # Who is refused closes its transport, in the middle of an upgrade perhaps.
    transport = ("open", "upgrade", "upgradeError")
    joined, closing, end, refusal = (note for note in result["seen"] if note["kind"] not in transport)
    assert (joined["kind"], closing["kind"], end["kind"]) == ("connect", CLOSING, "disconnect")
    assert closing["args"] == [{"code": "token_revoked", "message": "Token has been revoked", "retry": "login"}]
    # Although it may reconnect, it doesn't.
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    assert (refusal["kind"], refusal["message"]) == ("connect_error", "Token has been revoked")
    assert (refusal["data"]["code"], refusal["data"]["retry"]) == ("token_revoked", "login")
    assert either.events(CLOSED, subject=subject)[0]["reason"] == "token_revoked"
    assert either.wait_for_event("socketguard.token.revoked", selector={by: selector})["ended"] == 1
    refused = either.wait_for_event(REJECTED, ref=refusal["data"]["ref"])
    assert (refused["reason"], refused["detail"]) == ("token_revoked", "revoked")


def test_all_namespaces_of_a_revoked_client_end(js: JavaScript, either: Server) -> None:
    client = js.start(
        either,
        also=NAMESPACES[1:],
        token=mint("u-many", tenant_id="acme"),
        transports="polling",
        reconnection=True,
        steps=[{"more": {"kind": "connect"}}, {"more": {"kind": "disconnect"}}],
    )
    for namespace in NAMESPACES:
        either.wait_for_event(ACCEPTED, subject="u-many", namespace=namespace)
    assert either.ask("/control/revoke?subject=u-many") == 3
    result = client.result()
    ends = {note["namespace"]: note["reason"] for note in seen(result, "disconnect")}
    assert ends == dict.fromkeys(NAMESPACES, "io server disconnect")
    assert {note["namespace"] for note in seen(result, CLOSING)} == set(NAMESPACES)


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_who_is_disconnected_may_come_again(js: JavaScript, either: Server, transports: str) -> None:
    subject = f"kicked-{transports}"
    steps = [*joining(transports), {"wait": "disconnect"}, {"connect": True}, {"wait": ["connect", "connect_error"]}]
    client = js.start(either, transports=transports, token=mint(subject), reconnection=True, steps=steps)
    wait_until_joined(either, transports, subject=subject)
    assert either.ask(f"/control/disconnect?subject={subject}&reason=maintenance") == 1
    _, told, end, _ = found = [note for note in client.result()["seen"] if note["kind"] not in ("open", "upgrade")]
    assert [note["kind"] for note in found] == ["connect", "event:socketguard:closing", "disconnect", "connect"]
    assert told["args"] == [{"code": "kicked", "message": "maintenance", "retry": "never"}]
    # It comes back only because the page says so.
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    closed = either.events(CLOSED, subject=subject)[0]
    assert (closed["reason"], closed["detail"]) == ("kicked", "maintenance")
    assert either.wait_for_event("socketguard.subject.disconnected", selector={"subject": subject})["ended"] == 1
