"""Every refusal that a client can cause: what stock clients are told, and what the one log line says."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import socketio
import websockets

from socketguard.errors import REPLIES, RejectCode
from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Server, leave, new_address

REJECTED = "socketguard.connection.rejected"


def member(**claims: Any) -> str:
    return mint("u-1", tenant_id="acme", **claims)


@dataclass(frozen=True)
class Case:
    """One way to be refused."""

    name: str
    namespace: str
    auth: Any
    code: RejectCode
    detail: str | None
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def cases() -> list[Case]:
    good = member()
    header, _, signature = good.split(".")
    return [
        Case("no token", "/messages", None, RejectCode.TOKEN_MISSING, "no_token"),
        Case("a list for auth", "/messages", [1, 2], RejectCode.CONNECT_MALFORMED, "auth_not_an_object"),
        Case("garbage", "/messages", {"token": "garbage"}, RejectCode.TOKEN_MALFORMED, "not_three_parts"),
        Case("a number", "/messages", {"token": 12}, RejectCode.TOKEN_MALFORMED, "not_a_string"),
        Case("broken", "/messages", {"token": f"{header}.e30.{signature}"}, RejectCode.TOKEN_INVALID, None),
        Case("expired", "/messages", {"token": member(lifetime=-60)}, RejectCode.TOKEN_EXPIRED, None),
        Case(
            "not yet valid",
            "/messages",
            {"token": member(nbf=int(time.time()) + 3600)},
            RejectCode.TOKEN_NOT_YET_VALID,
            None,
        ),
        Case(
            "another key",
            "/messages",
            {"token": member(key="somebody-else-made-this-token-with-it")},
            RejectCode.TOKEN_INVALID,
            "signature_mismatch",
        ),
        Case(
            "another algorithm",
            "/messages",
            {"token": member(algorithm="HS384", key="x" * 48)},
            RejectCode.TOKEN_INVALID,
            "algorithm_not_allowed",
        ),
        Case("no exp", "/messages", {"token": member(exp=None)}, RejectCode.TOKEN_INVALID, "claim_missing"),
        Case("a class-based namespace", "/attendances", {}, RejectCode.TOKEN_MISSING, "no_token"),
        Case("scopes", "/scheduler", {"token": good}, RejectCode.INSUFFICIENT_SCOPE, None),
        Case("another tenant", "/tenant-globex", {"token": good}, RejectCode.INSUFFICIENT_SCOPE, None),
        Case("authorize says no", "/approved", {"token": good}, RejectCode.INSUFFICIENT_SCOPE, "authorize_refused"),
        Case("authorize raises", "/crash", {"token": good}, RejectCode.INTERNAL_ERROR, "admission"),
        Case("optional, but wrong", "/lobby", {"token": "garbage"}, RejectCode.TOKEN_MALFORMED, "not_three_parts"),
        Case("the handler raises", "/raises", {"token": good}, RejectCode.INTERNAL_ERROR, "connect_handler"),
        Case("the handler is cancelled", "/cancelled", {"token": good}, RejectCode.INTERNAL_ERROR, "cancelled"),
    ]


CASES = cases()


def the_line(server: Server, address: str) -> dict[str, Any]:
    """The log line about a refusal, which must be the only line about this client."""
    line = server.wait_for_event(REJECTED, client_address=address)
    decisions = [event for event in server.events(client_address=address) if "transport." not in event["event"]]
    assert decisions == [line]
    return line


def check_line(line: dict[str, Any], case: Case, data: dict[str, Any]) -> None:
    reply = REPLIES[case.code]
    assert data == {"code": case.code.value, "retry": reply.retry, "ref": line["ref"]}
    assert line["level"] == "warning"
    assert line["reason"] == case.code.value
    assert line["message"] == reply.message
    assert line["namespace"] == case.namespace
    if case.detail is not None:
        assert line["detail"] == case.detail
    assert ("exception" in line) == (case.code is RejectCode.INTERNAL_ERROR)


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_javascript_client_is_told_why(
    js: JavaScript, either: tuple[Server, bool], case: Case, transports: str
) -> None:
    server, msgpack = either
    address = new_address()
    result = js.play(
        server.url, case.namespace, transports=transports, auth=case.auth, address=address, msgpack=msgpack
    )
    [answer] = result["steps"]
    assert answer["kind"] == "connect_error"
    assert answer["message"] == REPLIES[case.code].message
    # Stock clients don't come back after it by themselves.
    assert answer["active"] is False
    check_line(the_line(server, address), case, answer["data"])


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_foreign_origin_is_refused_at_the_handshake(
    js: JavaScript, either: tuple[Server, bool], transports: str
) -> None:
    server, msgpack = either
    address = new_address()
    headers = {"Origin": "https://evil.example"}
    error = js.outcome(
        server.url, transports=transports, token=member(), headers=headers, address=address, msgpack=msgpack
    )
    assert error["kind"] == "connect_error"
    line = server.wait_for_event("socketguard.handshake.rejected", client_address=address)
    assert [line] == server.events(client_address=address)
    assert (line["reason"], line["status"], line["level"]) == ("origin_not_allowed", 403, "warning")
    assert (line["origin"], line["host"]) == ("https://evil.example", f"127.0.0.1:{server.port}")
    if transports == "websocket":
        # This client hides the body, but it is there; see the test below.
        assert (error["message"], error["description"]) == ("websocket error", "Unexpected server response: 403")
    else:
        assert (error["message"], error["description"]) == ("xhr poll error", 403)
        assert json.loads(error["body"]) == handshake_refusal(line)


def handshake_refusal(line: dict[str, Any]) -> dict[str, Any]:
    reply = REPLIES[RejectCode(line["reason"])]
    return {"code": line["reason"], "message": reply.message, "retry": reply.retry, "ref": line["ref"]}


async def test_a_refused_websocket_has_a_status_and_a_body(crm: Server) -> None:
    address = new_address()
    headers = {"X-Forwarded-For": address, "Origin": "https://evil.example"}
    url = crm.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await websockets.connect(url, additional_headers=headers, proxy=None)
    answer = refused.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/json")
    line = crm.wait_for_event("socketguard.handshake.rejected", client_address=address)
    assert json.loads(answer.body) == handshake_refusal(line)


def python_client(namespace: str, *, msgpack: bool) -> tuple[Any, asyncio.Queue[Any]]:
    """python-socketio's own client, and what its connect_error handler gets."""
    client = socketio.AsyncClient(serializer="msgpack" if msgpack else "default", reconnection=False)
    errors: asyncio.Queue[Any] = asyncio.Queue()
    client.on("connect_error", errors.put_nowait, namespace=namespace)
    return client, errors


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # of python-engineio's client
@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_python_client_is_told_why(either: tuple[Server, bool], case: Case, transports: str) -> None:
    server, msgpack = either
    address = new_address()
    client, errors = python_client(case.namespace, msgpack=msgpack)
    await client.connect(
        server.url,
        headers={"X-Forwarded-For": address},
        auth=case.auth,
        transports=TRANSPORTS[transports],
        namespaces=[case.namespace],
        wait=False,  # it would wait for the whole of wait_timeout, refused or not
    )
    error = await asyncio.wait_for(errors.get(), PATIENCE)
    await leave(client)
    assert errors.empty()
    assert error["message"] == REPLIES[case.code].message
    check_line(the_line(server, address), case, error["data"])
