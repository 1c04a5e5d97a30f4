"""What stock clients are told when they are refused, over each transport, and what the one log line says of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import pytest
import websockets.exceptions

from socketguard.errors import REPLIES, RejectCode
from socketguard.testing import mint
from tests.e2e.support import (
    HANDSHAKE_REJECTED,
    REJECTED,
    TRANSPORTS,
    JavaScript,
    Server,
    new_address,
    python_client,
    wire,
)

TOKEN = mint("u-1", tenant_id="acme")
MEMBER = {"token": TOKEN}
EVIL = {"Origin": "https://evil.example"}


class Case(NamedTuple):
    """One way to be refused."""

    name: str
    namespace: str
    auth: Any
    code: RejectCode
    detail: str | None = None
    told: dict[str, Any] | None = None
    """What the client reads, where that is no data of the guard."""


REJECTED_BY_SERVER = {"message": "Connection rejected by server"}
CASES = [
    Case("no token", "/messages", None, RejectCode.TOKEN_MISSING, "no_token"),
    Case("no token, class-based", "/attendances", {}, RejectCode.TOKEN_MISSING, "no_token"),
    Case("a list for auth", "/messages", [1, 2], RejectCode.CONNECT_MALFORMED, "auth_not_an_object"),
    Case("garbage", "/messages", {"token": "garbage"}, RejectCode.TOKEN_MALFORMED, "not_three_parts"),
    Case("expired", "/messages", {"token": mint(lifetime=-60)}, RejectCode.TOKEN_EXPIRED),
    Case("another key", "/messages", {"token": mint(key="k" * 32)}, RejectCode.TOKEN_INVALID, "signature_mismatch"),
    Case("scopes", "/scheduler", MEMBER, RejectCode.INSUFFICIENT_SCOPE),
    Case("the handler raises", "/raises", MEMBER, RejectCode.INTERNAL_ERROR, "connect_handler"),
    Case("unknown", "/schedulr", MEMBER, RejectCode.INVALID_NAMESPACE, "typo", {"message": "Invalid namespace"}),
    Case("hidden", "/secret", MEMBER, RejectCode.INVALID_NAMESPACE, None, {"message": "Invalid namespace"}),
    Case("returns False", "/returns-false", MEMBER, RejectCode.REFUSED_BY_APP, "returned_false", REJECTED_BY_SERVER),
    Case(
        "refuses",
        "/refuses",
        MEMBER,
        RejectCode.REFUSED_BY_APP,
        "raised",
        {"message": "The trial is over", "data": {"plan": "free", "days": 0}},
    ),
    Case("disconnects", "/kicks", MEMBER, RejectCode.REFUSED_BY_APP, "disconnect_called", REJECTED_BY_SERVER),
]
over_each_transport = pytest.mark.parametrize("transports", TRANSPORTS)
in_each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(server: Server, address: str, case: Case, error: dict[str, Any]) -> None:
    """What the client read, and that exactly one line tells of it."""
    line = server.wait_for_event(REJECTED, client_address=address)
    assert [each for each in server.events(client_address=address) if "transport." not in each["event"]] == [line]
    if case.told is None:
        reply = REPLIES[case.code]
        data = {"code": case.code.value, "retry": reply.retry, "ref": line["ref"]}
        assert error == {"message": reply.message, "data": data}
    else:
        assert error == case.told
    level = "error" if case.code is RejectCode.INTERNAL_ERROR else "warning"
    assert (line["level"], line["reason"], line["namespace"]) == (level, case.code.value, case.namespace)
    if case.detail is not None:
        assert line["detail"] == case.detail
    if case.code is RejectCode.INTERNAL_ERROR:
        assert line["error"] == "RuntimeError"
        assert "hunter2" in line["exception"]
    else:
        assert "exception" not in line


@over_each_transport
@in_each_case
def test_a_javascript_client_is_told_why(js: JavaScript, either: Server, case: Case, transports: str) -> None:
    address = new_address()
    error = js.outcome(either, case.namespace, transports=transports, auth=case.auth, address=address)
    # Stock clients don't come back after it by themselves.
    assert (error["kind"], error["active"]) == ("connect_error", False)
    check(either, address, case, {name: error[name] for name in ("message", "data") if name in error})


@over_each_transport
@in_each_case
async def test_a_python_client_is_told_why(either: Server, case: Case, transports: str) -> None:
    address = new_address()
    headers = {"X-Forwarded-For": address}
    async with python_client(either, case.namespace, transports=transports, auth=case.auth, headers=headers) as client:
        pass
    [error] = client.of("connect_error")
    check(either, address, case, error)


def check_handshake(server: Server, address: str, body: str) -> None:
    """The JSON of a refused handshake, and that exactly one line tells of it."""
    line = server.wait_for_event(HANDSHAKE_REJECTED, client_address=address)
    assert [line] == server.events(client_address=address)
    assert (line["reason"], line["status"], line["level"]) == ("origin_not_allowed", 403, "warning")
    assert (line["origin"], line["host"]) == (EVIL["Origin"], f"127.0.0.1:{server.port}")
    told = {"code": "origin_not_allowed", "message": "Origin not allowed", "retry": "never", "ref": line["ref"]}
    assert json.loads(body) == told


@pytest.mark.parametrize("transports", ["polling", "upgrade"])
def test_a_foreign_origin_is_refused_at_the_handshake(js: JavaScript, either: Server, transports: str) -> None:
    address = new_address()
    error = js.outcome(either, transports=transports, token=TOKEN, headers=EVIL, address=address)
    assert (error["kind"], error["message"], error["description"]) == ("connect_error", "xhr poll error", 403)
    check_handshake(either, address, error["body"])


async def test_a_websocket_of_a_foreign_origin_has_a_status_and_a_body(js: JavaScript, crm: Server) -> None:
    # The JavaScript client hides the body, but it is there.
    error = await asyncio.to_thread(js.outcome, crm, headers=EVIL, token=TOKEN, address=new_address())
    assert (error["message"], error["description"]) == ("websocket error", "Unexpected server response: 403")
    address = new_address()
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with wire(crm.url, additional_headers={"X-Forwarded-For": address, **EVIL}):
            pass
    answer = refused.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/json")
    check_handshake(crm, address, answer.body.decode())


@over_each_transport
def test_joining_twice_is_refused(js: JavaScript, crm: Server, transports: str) -> None:
    address = new_address()
    again = {"packet": {"type": 0, "nsp": "/messages", "data": MEMBER}}
    steps = [{"wait": "connect"}, again, {"wait": "connect_error"}]
    error = js.play(crm, transports=transports, token=TOKEN, address=address, steps=steps)["steps"][2]
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert error["message"] == "Already connected to this namespace"
    assert error["data"] == {"code": "already_connected", "retry": "never", "ref": line["ref"]}


def test_a_refused_client_connects_again_with_a_fresh_token(js: JavaScript, crm: Server) -> None:
    steps = [{"wait": "connect_error"}, {"connect": True}, {"wait": "connect"}, {"call": ["whoami"]}]
    tokens = [mint("u-1", lifetime=-60), mint("u-1")]
    result = js.play(crm, tokens=tokens, address=new_address(), steps=steps)["steps"]
    assert (result[0]["data"]["code"], result[0]["data"]["retry"]) == ("token_expired", "refresh")
    assert result[3]["subject"] == "u-1"
