"""The application's own connect handlers: refusing, failing, hanging, and disconnecting the client themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Server, leave, new_address, wait_until

REJECTED = "socketguard.connection.rejected"
TOKEN = mint("u-1", tenant_id="acme")


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize(
    ("namespace", "detail", "message", "data"),
    [
        ("/returns-false", "returned_false", "Connection rejected by server", None),
        ("/refuses", "raised", "The trial is over", {"plan": "free", "days": 0}),
        ("/refuses-plainly", "raised", "Connection refused by server", None),
        ("/kicks", "disconnect_called", "Connection rejected by server", None),
    ],
)
def test_refusals_by_the_application_arrive_untouched(
    js: JavaScript,
    either: tuple[Server, bool],
    transports: str,
    namespace: str,
    detail: str,
    message: str,
    data: Any,
) -> None:
    server, msgpack = either
    address = new_address()
    error = js.outcome(server.url, namespace, transports=transports, token=TOKEN, address=address, msgpack=msgpack)
    assert error["kind"] == "connect_error"
    assert error["message"] == message
    assert error.get("data") == data
    line = server.wait_for_event(REJECTED, client_address=address)
    assert (line["reason"], line["detail"], line["level"]) == ("refused_by_app", detail, "warning")
    assert "exception" not in line


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(
    ("namespace", "told"),
    [
        ("/returns-false", {"message": "Connection rejected by server"}),
        ("/refuses", {"message": "The trial is over", "data": {"plan": "free", "days": 0}}),
        ("/kicks", {"message": "Connection rejected by server"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # of python-engineio's client
async def test_the_python_client_reads_refusals_by_the_application(
    either: tuple[Server, bool], transport: str, namespace: str, told: dict[str, Any]
) -> None:
    server, msgpack = either
    client = socketio.AsyncClient(serializer="msgpack" if msgpack else "default", reconnection=False)
    errors: asyncio.Queue[Any] = asyncio.Queue()
    client.on("connect_error", errors.put_nowait, namespace=namespace)
    await client.connect(
        server.url,
        headers={"X-Forwarded-For": new_address()},
        auth={"token": TOKEN},
        transports=[transport],
        namespaces=[namespace],
        wait=False,
    )
    assert await asyncio.wait_for(errors.get(), PATIENCE) == told
    await leave(client)


def test_a_defect_is_logged_and_not_told(js: JavaScript, crm: Server) -> None:
    address = new_address()
    error = js.outcome(crm.url, "/raises", token=TOKEN, address=address)
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert error["message"] == "Internal error"
    assert error["data"] == {"code": "internal_error", "retry": "backoff", "ref": line["ref"]}
    assert "hunter2" not in json.dumps(error)
    assert line["error"] == "RuntimeError"
    assert "hunter2" in line["exception"]


@pytest.fixture(scope="module")
def impatient(folder: Any) -> Any:
    with Server(folder, {"admission_timeout": 0.2}) as server:
        yield server


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("namespace", ["/hangs", "/stubborn"])
def test_a_handler_that_hangs_is_given_up(js: JavaScript, impatient: Server, namespace: str, transports: str) -> None:
    server = impatient
    server.post("/control/close")
    address = new_address()
    error = js.outcome(server.url, namespace, transports=transports, token=TOKEN, address=address)
    line = server.wait_for_event(REJECTED, client_address=address)
    assert error["message"] == "Authentication took too long"
    assert error["data"] == {"code": "admission_timeout", "retry": "backoff", "ref": line["ref"]}
    assert (line["reason"], line["detail"]) == ("admission_timeout", "connect_handler")
    assert json.loads(server.request("/control/entered")) == [namespace]
    assert bool(server.state().get("quarantine")) == (namespace == "/stubborn")
    # What it does after that lets nobody in, and leaves nothing behind.
    server.post("/control/open")
    server.wait_until_empty()
    assert not server.events("socketguard.connection.accepted", client_address=address)


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_a_handler_may_take_its_time(js: JavaScript, crm: Server, transports: str) -> None:
    crm.post("/control/close")
    welcome = mint("u-1", welcome=True)
    future = js.start(
        crm.url, "/waits", transports=transports, token=welcome, steps=[{"wait": "connect"}, {"call": ["whoami"]}]
    )
    wait_until(lambda: "/waits" in crm.request("/control/entered"), crm.output)
    crm.post("/control/open")
    assert future.result(60)["steps"][1]["subject"] == "u-1"


def test_a_client_that_goes_away_while_its_handler_runs(js: JavaScript, crm: Server) -> None:
    crm.post("/control/close")
    address = new_address()
    js.play(
        crm.url,
        "/waits",
        token=mint("u-1", welcome=True),
        address=address,
        steps=[{"wait": "open"}, {"request": {"url": crm.url + "/control/broadcast?namespace=/waits"}}],
    )
    wait_until(lambda: "/waits" in crm.request("/control/entered"), crm.output)
    crm.post("/control/open")
    line = crm.wait_for_event("socketguard.connection.closed", client_address=address)
    assert line["reason"] in ("transport close", "client disconnect")
    crm.wait_until_empty()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_joining_twice_is_refused(js: JavaScript, crm: Server, transports: str) -> None:
    address = new_address()
    result = js.play(
        crm.url,
        "/messages",
        transports=transports,
        token=TOKEN,
        address=address,
        steps=[
            {"wait": "connect"},
            {"packet": {"type": 0, "nsp": "/messages", "data": {"token": TOKEN}}},
            {"wait": "connect_error"},
        ],
    )
    error = result["steps"][2]
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert error["message"] == "Already connected to this namespace"
    assert error["data"] == {"code": "already_connected", "retry": "never", "ref": line["ref"]}


def test_a_client_that_is_disconnected_by_the_application(js: JavaScript, crm: Server) -> None:
    address = new_address()
    future = js.start(
        crm.url, "/messages", token=TOKEN, address=address, steps=[{"wait": "connect"}, {"wait": "disconnect"}]
    )
    sid = crm.wait_for_event("socketguard.connection.accepted", client_address=address)["sid"]
    crm.post(f"/control/kick?sid={sid}&namespace=/messages")
    end = future.result(60)["steps"][1]
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    line = crm.wait_for_event("socketguard.connection.closed", client_address=address)
    assert (line["reason"], line["sid"], line["subject"]) == ("server disconnect", sid, "u-1")


def test_an_event_handler_that_raises_ends_nothing(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(host_logging="basic")
    server.prints_tracebacks = True
    result = js.play(
        server.url,
        "/messages",
        token=TOKEN,
        steps=[{"wait": "connect"}, {"emit": ["boom"]}, {"call": ["echo", "still here"]}],
    )
    assert result["steps"][2] == "still here"
    wait_until(lambda: "RuntimeError: a defect of the application" in server.output(), server.output)
    server.wait_until_empty()
