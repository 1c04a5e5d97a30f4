"""What accepted clients do: events, acknowledgements, files, rooms; and what the log says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    REJECTED,
    TRANSPORTS,
    UPGRADED,
    JavaScript,
    Server,
    new_address,
    python_client,
    wait_until,
)

TOKEN = mint("u-1", tenant_id="acme")
FILE = bytes(range(256)).hex()
BLOB = {"call": ["blob", {"$binary": FILE}]}
over_each_transport = pytest.mark.parametrize("transports", TRANSPORTS)


@over_each_transport
def test_events_with_acknowledgement(js: JavaScript, either: Server, transports: str) -> None:
    address = new_address()
    asked = [{"call": ["whoami"]}, {"call": ["send", "hello"]}, {"wait": "event:message:new"}]
    steps = [{"wait": "connect"}, *asked]
    result = js.play(either, transports=transports, token=TOKEN, address=address, steps=steps)
    connect, whoami, sent, message = result["steps"]
    assert whoami["sid"] == connect["sid"]
    assert (whoami["subject"], whoami["namespace"], whoami["client_address"]) == ("u-1", "/messages", address)
    assert sent == "sent"
    assert message["args"] == [{"text": "hello"}]
    either.wait_until_empty()
    [accepted] = either.events(ACCEPTED, client_address=address)
    [closed] = either.events(CLOSED, client_address=address)
    for line in (accepted, closed):
        assert line["level"] == "info"
        assert (line["sid"], line["namespace"]) == (connect["sid"], "/messages")
        assert (line["subject"], line["tenant_id"]) == ("u-1", "acme")
    assert closed["reason"] in ("client disconnect", "transport close")
    assert closed["events_in"] == 2
    assert closed["packets_in"] >= 2
    assert closed["duration_s"] >= 0
    assert len(either.events(UPGRADED, client_address=address)) == (transports == "upgrade")


@over_each_transport
@pytest.mark.parametrize("namespace", ["/messages", "/attendances", "/tenant-acme"])
def test_files_in_both_directions(js: JavaScript, either: Server, transports: str, namespace: str) -> None:
    steps = [{"wait": "connect"}, BLOB, {"wait": "event:blob"}]
    connect, answer, event = js.play(either, namespace, transports=transports, token=TOKEN, steps=steps)["steps"]
    assert (answer["is_bytes"], answer["size"], answer["back"]) == (True, 256, {"$binary": FILE})
    # The connection is bound for binary events as for others, whose packets come in pieces.
    assert (answer["sid"], answer["same_sid"]) == (connect["sid"], True)
    assert (answer["subject"], answer["namespace"]) == ("u-1", namespace)
    assert answer["placeholders"] == ({"tenant": "acme"} if namespace == "/tenant-acme" else {})
    assert event["args"] == [{"$binary": bytes.fromhex(FILE)[::-1].hex()}]


@over_each_transport
async def test_several_namespaces_of_a_python_client(either: Server, transports: str) -> None:
    names = ["/messages", "/attendances", "/tenant-acme", "/public"]
    async with python_client(either, *names, transports=transports, token=TOKEN) as client:
        answers = await asyncio.gather(*(client.call("whoami", namespace=name) for name in names * 3))
        for name, answer in zip(names * 3, answers, strict=True):
            assert (answer["sid"], answer["same_sid"]) == (client.sio.get_sid(name), True)
            assert (answer["namespace"], answer["subject"]) == (name, None if name == "/public" else "u-1")
        for name in names:
            answer = await client.call("blob", b"\0\1\2", namespace=name)
            assert (answer["back"], answer["namespace"]) == (b"\0\1\2", name)


def test_a_client_that_is_disconnected_by_the_application(js: JavaScript, crm: Server) -> None:
    address = new_address()
    client = js.start(crm, token=TOKEN, address=address, steps=[{"wait": "connect"}, {"wait": "disconnect"}])
    sid = crm.wait_for_event(ACCEPTED, client_address=address)["sid"]
    crm.post(f"/control/kick?sid={sid}&namespace=/messages")
    end = client.result()["steps"][1]
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    line = crm.wait_for_event(CLOSED, client_address=address)
    assert (line["reason"], line["sid"], line["subject"]) == ("server disconnect", sid, "u-1")


@over_each_transport
def test_a_connect_handler_may_take_its_time(js: JavaScript, crm: Server, transports: str) -> None:
    crm.post("/control/close")
    steps = [{"wait": "connect"}, {"call": ["whoami"]}]
    client = js.start(crm, "/waits", transports=transports, token=mint("u-1", welcome=True), steps=steps)
    wait_until(lambda: "/waits" in crm.request("/control/entered"), crm.output)
    crm.post("/control/open")
    assert client.result()["steps"][1]["subject"] == "u-1"


def test_a_client_that_goes_away_while_its_handler_runs(js: JavaScript, crm: Server) -> None:
    crm.post("/control/close")
    address = new_address()
    steps = [{"wait": "open"}, {"request": {"url": crm.url + "/control/broadcast?namespace=/waits"}}]
    js.play(crm, "/waits", token=mint("u-1", welcome=True), address=address, steps=steps)
    wait_until(lambda: "/waits" in crm.request("/control/entered"), crm.output)
    crm.post("/control/open")
    assert crm.wait_for_event(CLOSED, client_address=address)["reason"] in ("transport close", "client disconnect")


@over_each_transport
def test_connect_handlers_that_hang_are_given_up(js: JavaScript, serve: Callable[..., Server], transports: str) -> None:
    server = serve(admission_timeout=0.2)
    # A stock client comes back by itself, as it would not after a CONNECT_ERROR.
    again = {"reconnection": True, "reconnectionDelay": 100, "steps": [{"wait": "open"}, {"wait": "open"}]}
    for namespace in ("/hangs", "/stubborn"):
        result = js.play(server, namespace, transports=transports, token=TOKEN, **again)
        assert "Authentication took too long" not in [note.get("message") for note in result["seen"]]
        line = server.wait_for_event(REJECTED, namespace=namespace)
        assert (line["reason"], line["detail"]) == ("admission_timeout", "connect_handler")
    assert set(server.ask("/control/entered", "GET")) == {"/hangs", "/stubborn"}
    # What they do after that lets nobody in, and leaves nothing behind.
    status = "/control/status"
    wait_until(lambda: server.ask(status, "GET")["connections"]["being_admitted"] == 0, server.output)
    server.post("/control/open")
    server.wait_until_empty()
    assert not server.events(ACCEPTED)


# Hosts that log in their own way


def test_a_host_with_structlog(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="structlog")
    for transports in TRANSPORTS:
        steps = [{"wait": "connect"}, BLOB]
        sid = js.play(server, "/attendances", transports=transports, token=TOKEN, steps=steps)["steps"][0]["sid"]
        expected = {"sid": sid, "namespace": "/attendances", "subject": "u-1", "tenant_id": "acme"}
        line = server.wait_for_event("a file arrived", sid=sid)
        assert line == {"event": "a file arrived", "level": "info", **expected}
        server.wait_for_event("joining", **expected)
        # The guard's own lines go the host's way too.
        accepted = server.wait_for_event(ACCEPTED, **expected)
        assert accepted["level"] == "info"
        assert "timestamp" not in accepted


def test_a_host_that_prints_who_it_is(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="filtered")
    sid = js.play(server, token=TOKEN, steps=[{"wait": "connect"}, BLOB])["steps"][0]["sid"]
    assert f"a file arrived | {sid} /messages u-1 acme" in server.lines()
    assert server.events() == []


def test_a_host_with_basicconfig(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="basic")
    server.prints_tracebacks = True
    js.outcome(server, "/schedulr", token=TOKEN)
    js.outcome(server)
    # An event handler that raises ends nothing.
    steps: list[dict[str, Any]] = [{"wait": "connect"}, {"emit": ["boom"]}, {"call": ["echo", "still here"]}]
    assert js.play(server, token=TOKEN, steps=steps)["steps"][2] == "still here"
    wait_until(lambda: "RuntimeError: a defect of the application" in server.output(), server.output)
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
    assert server.events() == []
    server.wait_until_empty()
