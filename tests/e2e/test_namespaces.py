"""Names of namespaces: unknown, hidden, written wrongly, with placeholders."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio
import websockets

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Server, leave, new_address

REJECTED = "socketguard.connection.rejected"
PUBLIC = ["/messages", "/scheduler", "/attendances"]


def websocket_url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"


async def answer_to(server: Server, frame: str, address: str) -> str:
    """The answer to one frame, as it is on the wire."""
    async with websockets.connect(
        websocket_url(server), additional_headers={"X-Forwarded-For": address}, proxy=None
    ) as wire:
        assert str(await wire.recv()).startswith("0{")
        await wire.send(frame)
        return str(await asyncio.wait_for(wire.recv(), PATIENCE))


async def test_an_unknown_namespace_on_the_wire(crm: Server) -> None:
    address = new_address()
    answer = await answer_to(crm, f'40/schedulr,{{"token":"{mint("u-1")}"}}', address)
    assert answer == '44/schedulr,{"message":"Invalid namespace"}'
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert line["message"] == "Invalid namespace"
    assert line["reason"] == "invalid_namespace"
    assert line["requested"] == "/schedulr"
    assert set(PUBLIC) <= set(line["registered"])
    assert line["suggestion"] == "/scheduler"
    assert line["hint"]
    assert len(line["ref"]) == 8


@pytest.mark.parametrize("auth", ["", '{"token":"garbage"}', f'{{"token":"{mint("u-1", tenant_id="acme")}"}}'])
async def test_a_hidden_namespace_answers_as_an_unknown_one(crm: Server, auth: str) -> None:
    address = new_address()
    assert await answer_to(crm, f"40/secret,{auth}", address) == '44/secret,{"message":"Invalid namespace"}'
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert line["reason"] == "invalid_namespace"
    assert line["hidden_reason"] in ("token_missing", "token_malformed", "insufficient_scope")


async def test_a_hidden_namespace_lets_in_who_may(crm: Server) -> None:
    answer = await answer_to(crm, f'40/secret,{{"token":"{mint("u-1", scope="admin")}"}}', new_address())
    assert answer.startswith('40/secret,{"sid":')


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_javascript_client_reads_invalid_namespace(
    js: JavaScript, either: tuple[Server, bool], transports: str
) -> None:
    server, msgpack = either
    address = new_address()
    error = js.outcome(
        server.url, "/schedulr", transports=transports, token=mint("u-1"), address=address, msgpack=msgpack
    )
    assert (error["kind"], error["message"], error["hasData"]) == ("connect_error", "Invalid namespace", False)
    assert server.wait_for_event(REJECTED, client_address=address)["suggestion"] == "/scheduler"


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # of python-engineio's client
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_a_python_client_reads_invalid_namespace(either: tuple[Server, bool], transports: str) -> None:
    server, msgpack = either
    client = socketio.AsyncClient(serializer="msgpack" if msgpack else "default", reconnection=False)
    errors: asyncio.Queue[Any] = asyncio.Queue()
    client.on("connect_error", errors.put_nowait, namespace="/schedulr")
    await client.connect(
        server.url,
        headers={"X-Forwarded-For": new_address()},
        auth={"token": mint("u-1")},
        transports=TRANSPORTS[transports],
        namespaces=["/schedulr"],
        wait=False,
    )
    assert await asyncio.wait_for(errors.get(), PATIENCE) == {"message": "Invalid namespace"}
    await leave(client)


@pytest.mark.parametrize(
    ("namespace", "suggestion", "words"),
    [
        ("/Messages", "/messages", "case"),
        ("/messages/", "/messages", "slash"),
        ("/socket.io", None, "path"),
        ("/api/", None, "path"),
        ("/ws", None, "path"),
        ("/zzzzzz", None, ""),
    ],
)
def test_the_log_says_what_was_probably_meant(
    js: JavaScript, crm: Server, namespace: str, suggestion: str | None, words: str
) -> None:
    address = new_address()
    assert js.outcome(crm.url, namespace, token=mint("u-1"), address=address)["message"] == "Invalid namespace"
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert line["requested"] == namespace
    assert line.get("suggestion") == suggestion
    assert words in line["hint"]


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_placeholder_is_tied_to_a_claim(js: JavaScript, either: tuple[Server, bool], transports: str) -> None:
    server, msgpack = either
    result = js.play(
        server.url,
        "/tenant-acme",
        transports=transports,
        token=mint("u-7", tenant_id="acme"),
        msgpack=msgpack,
        steps=[{"wait": ["connect", "connect_error"]}, {"call": ["whoami"]}],
    )
    whoami = result["steps"][1]
    assert whoami["same_sid"] is True
    assert whoami["placeholders"] == {"tenant": "acme"}
    assert (whoami["subject"], whoami["namespace"]) == ("u-7", "/tenant-acme")


def test_scopes_and_authorize_let_in_who_may(js: JavaScript, crm: Server) -> None:
    token = mint("u-1", tenant_id="acme", scope="scheduler:write scheduler:read", approved=True)
    for namespace in ("/scheduler", "/approved", "/attendances", "/lobby"):
        result = js.play(crm.url, namespace, token=token)
        assert result["steps"][0]["kind"] == "connect"


def test_no_token_where_none_is_needed(js: JavaScript, crm: Server) -> None:
    for namespace in ("/public", "/lobby"):
        result = js.play(crm.url, namespace, steps=[{"wait": "connect"}, {"call": ["whoami"]}])
        assert result["steps"][1]["subject"] is None
