"""What accepted clients do: events, acknowledgements, files, rooms; and what the log says of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard.testing import mint
from tests.e2e.support import TRANSPORTS, JavaScript, Server, leave, new_address

TOKEN = mint("u-1", tenant_id="acme")
FILE = bytes(range(256)).hex()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_events_with_acknowledgement(js: JavaScript, either: tuple[Server, bool], transports: str) -> None:
    server, msgpack = either
    address = new_address()
    result = js.play(
        server.url,
        "/messages",
        transports=transports,
        token=TOKEN,
        address=address,
        msgpack=msgpack,
        steps=[
            {"wait": "connect"},
            {"call": ["whoami"]},
            {"call": ["send", "hello"]},
            {"wait": "event:message:new"},
        ],
    )
    connect, whoami, sent, message = result["steps"]
    assert whoami["sid"] == connect["sid"]
    assert (whoami["subject"], whoami["namespace"], whoami["client_address"]) == ("u-1", "/messages", address)
    assert sent == "sent"
    assert message["args"] == [{"text": "hello"}]
    server.wait_until_empty()
    [accepted] = server.events("socketguard.connection.accepted", client_address=address)
    [closed] = server.events("socketguard.connection.closed", client_address=address)
    for line in (accepted, closed):
        assert line["level"] == "info"
        assert (line["sid"], line["namespace"]) == (connect["sid"], "/messages")
        assert (line["subject"], line["tenant_id"]) == ("u-1", "acme")
    assert closed["reason"] in ("client disconnect", "transport close")
    assert closed["events_in"] == 2
    assert closed["packets_in"] >= 2
    assert closed["duration_s"] >= 0
    upgraded = server.events("socketguard.transport.upgraded", client_address=address)
    assert len(upgraded) == (transports == "upgrade")


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("namespace", ["/messages", "/attendances"])
def test_files_in_both_directions(js: JavaScript, either: tuple[Server, bool], transports: str, namespace: str) -> None:
    server, msgpack = either
    result = js.play(
        server.url,
        namespace,
        transports=transports,
        token=TOKEN,
        msgpack=msgpack,
        steps=[{"wait": "connect"}, {"call": ["blob", {"$binary": FILE}]}, {"wait": "event:blob"}],
    )
    connect, answer, event = result["steps"]
    assert answer["is_bytes"] is True
    assert answer["size"] == 256
    assert answer["back"] == {"$binary": FILE}
    # The connection is bound for binary events as for others, whose packets come in pieces.
    assert (answer["sid"], answer["subject"], answer["namespace"]) == (connect["sid"], "u-1", namespace)
    assert event["args"] == [{"$binary": bytes.fromhex(FILE)[::-1].hex()}]


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # of python-engineio's client
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_the_python_client(either: tuple[Server, bool], transports: str) -> None:
    server, msgpack = either
    client = socketio.AsyncClient(serializer="msgpack" if msgpack else "default", reconnection=False)
    await client.connect(
        server.url,
        auth={"token": TOKEN},
        transports=TRANSPORTS[transports],
        namespaces=["/messages", "/attendances"],
        wait_timeout=20,
    )
    for namespace in ("/messages", "/attendances"):
        answer = await client.call("blob", b"\0\1\2", namespace=namespace, timeout=20)
        assert answer["back"] == b"\0\1\2"
        assert (answer["subject"], answer["namespace"]) == ("u-1", namespace)
        assert answer["sid"] == client.get_sid(namespace)
    await leave(client)


async def test_several_namespaces_of_one_session_are_told_apart(crm: Server) -> None:
    client = socketio.AsyncClient(reconnection=False)
    names = ["/messages", "/attendances", "/tenant-acme", "/public"]
    await client.connect(crm.url, auth={"token": TOKEN}, transports=["websocket"], namespaces=names, wait_timeout=20)
    answers = await asyncio.gather(*(client.call("whoami", namespace=name, timeout=20) for name in names * 5))
    for name, answer in zip(names * 5, answers, strict=True):
        assert answer["namespace"] == name
        assert answer["same_sid"] is True
        assert answer["subject"] == (None if name == "/public" else "u-1")
    await client.disconnect()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_applications_own_lines_say_who(js: JavaScript, structlog_host: Server, transports: str) -> None:
    server, address = structlog_host, new_address()
    result = js.play(
        server.url,
        "/attendances",
        transports=transports,
        token=TOKEN,
        address=address,
        steps=[{"wait": "connect"}, {"call": ["blob", {"$binary": FILE}]}],
    )
    sid = result["steps"][0]["sid"]
    expected = {"sid": sid, "namespace": "/attendances", "subject": "u-1", "tenant_id": "acme"}
    line = server.wait_for_event("a file arrived", sid=sid)
    assert line == {"event": "a file arrived", "level": "info", **expected}
    server.wait_for_event("joining", **expected)
    # The guard's own lines go the host's way too.
    assert server.wait_for_event("socketguard.connection.accepted", **expected)["level"] == "info"
    assert "timestamp" not in server.events("socketguard.connection.accepted", **expected)[0]


@pytest.fixture(scope="module")
def structlog_host(folder: Any) -> Any:
    with Server(folder, {"host_logging": "structlog"}) as server:
        yield server


def test_stdlib_hosts_can_print_who_it_is(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="filtered")
    result = js.play(
        server.url,
        "/messages",
        token=TOKEN,
        steps=[{"wait": "connect"}, {"call": ["blob", {"$binary": FILE}]}],
    )
    sid = result["steps"][0]["sid"]
    assert f"a file arrived | {sid} /messages u-1 acme" in server.lines()
    assert not [line for line in server.output().splitlines() if line.startswith("{")]


def test_a_plain_basicconfig_host_prints_whole_sentences(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="basic")
    js.outcome(server.url, "/schedulr", token=TOKEN)
    js.outcome(server.url, "/messages")
    js.outcome(server.url, "/messages", token=TOKEN)
    lines = [line for line in server.lines() if line.startswith(("WARNING:socketguard:", "INFO:socketguard:"))]
    [invalid] = [line for line in lines if "Invalid namespace" in line]
    assert invalid.startswith("WARNING:socketguard:Invalid namespace: asked '/schedulr', registered '/")
    assert "'/scheduler'" in invalid
    assert "did you mean '/scheduler'?" in invalid
    [missing] = [line for line in lines if "Authentication required" in line]
    assert missing.startswith(
        "WARNING:socketguard:Refused '/messages': Authentication required (token_missing: no_token)"
    )
    assert any("Joined '/messages': subject 'u-1' from 127.0.0.1 over websocket" in line for line in lines)
    assert not [line for line in server.output().splitlines() if line.startswith("{")]


def test_started_says_the_whole_configuration_once(crm: Server) -> None:
    [line] = crm.events("socketguard.started")
    configuration = line["configuration"]
    assert line["schema_version"] == 1
    assert configuration["auth"]["algorithms"] == ["HS256"]
    assert configuration["heartbeat"] == {"interval_s": 25, "timeout_s": 20}
    assert configuration["paths"] == ["/socket.io/"]
    assert "only-for-tests" not in json.dumps(line)
