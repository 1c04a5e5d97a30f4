"""Where clients put their token, and how they come back with a fresh one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import TRANSPORTS, JavaScript, Server, new_address, seen

ASK = [{"wait": ["connect", "connect_error"]}, {"call": ["whoami"]}]


def subject(result: dict[str, Any]) -> Any:
    return result["steps"][1]["subject"]


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_header_of_the_handshake(js: JavaScript, crm: Server, transports: str) -> None:
    headers = {"Authorization": f"Bearer {mint('header')}"}
    assert subject(js.play(crm.url, transports=transports, headers=headers, steps=ASK)) == "header"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_header_of_the_handshake_with_msgpack(js: JavaScript, packed_crm: Server, transports: str) -> None:
    headers = {"Authorization": f"Bearer {mint('header')}"}
    result = js.play(
        packed_crm.url, transports=transports, headers=headers, msgpack=True, address=new_address(), steps=ASK
    )
    assert subject(result) == "header"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_payload_goes_before_the_header(js: JavaScript, either: tuple[Server, bool], transports: str) -> None:
    server, msgpack = either
    headers = {"Authorization": f"Bearer {mint('header', lifetime=-60)}"}
    result = js.play(
        server.url, transports=transports, headers=headers, token=mint("payload"), msgpack=msgpack, steps=ASK
    )
    assert subject(result) == "payload"


def test_a_bad_payload_does_not_fall_back_to_the_header(js: JavaScript, crm: Server) -> None:
    headers = {"Authorization": f"Bearer {mint('header')}"}
    error = js.outcome(crm.url, headers=headers, auth={"token": "garbage"}, address=new_address())
    assert error["data"]["code"] == "token_malformed"


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_token_in_the_payload_counts_as_none(js: JavaScript, crm: Server, nothing: str | None) -> None:
    headers = {"Authorization": f"Bearer {mint('header')}"}
    assert subject(js.play(crm.url, headers=headers, auth={"token": nothing}, steps=ASK)) == "header"


@pytest.mark.parametrize(
    "auth", [{"token": mint("u-1")}, {"access_token": mint("u-1")}, {"authorization": f"Bearer {mint('u-1')}"}]
)
def test_the_keys_of_the_payload(js: JavaScript, crm: Server, auth: dict[str, str]) -> None:
    assert subject(js.play(crm.url, auth=auth, steps=ASK)) == "u-1"


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_auth_as_a_function(js: JavaScript, crm: Server, transports: str) -> None:
    assert subject(js.play(crm.url, transports=transports, tokens=[mint("function")], steps=ASK)) == "function"


def test_a_refused_client_connects_again_with_a_fresh_token(js: JavaScript, crm: Server) -> None:
    address = new_address()
    result = js.play(
        crm.url,
        tokens=[mint("u-1", lifetime=-60), mint("u-1")],
        address=address,
        steps=[{"wait": "connect_error"}, {"connect": True}, {"wait": "connect"}, {"call": ["whoami"]}],
    )
    assert result["steps"][0]["data"]["code"] == "token_expired"
    assert result["steps"][0]["data"]["retry"] == "refresh"
    assert result["steps"][3]["subject"] == "u-1"


@pytest.mark.parametrize("transports", ["websocket", "upgrade"])
def test_coming_back_after_the_transport_was_lost(js: JavaScript, crm: Server, transports: str) -> None:
    steps: list[dict[str, Any]] = [{"wait": "connect"}]
    if transports == "upgrade":
        steps.append({"wait": "upgrade"})
    steps += [{"cut": True}, {"wait": "disconnect"}, {"wait": "connect"}, {"call": ["whoami"]}]
    address = new_address()
    result = js.play(
        crm.url,
        transports=transports,
        tokens=[mint("first"), mint("second")],
        address=address,
        reconnection=True,
        reconnectionDelay=10,
        steps=steps,
    )
    assert result["steps"][-3]["reason"] == "transport close"
    assert result["steps"][-1]["subject"] == "second"
    first, second = seen(result, "connect")
    assert first["sid"] != second["sid"]
    closed = crm.wait_for_event("socketguard.connection.closed", client_address=address, sid=first["sid"])
    assert (closed["reason"], closed["subject"]) == ("transport close", "first")
    crm.wait_for_event("socketguard.connection.accepted", client_address=address, subject="second")


def test_a_token_in_the_query_where_it_is_named(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(sources=["payload", "query:token"])
    assert subject(js.play(server.url, query={"token": mint("query")}, steps=ASK)) == "query"
    error = js.outcome(server.url, headers={"Authorization": f"Bearer {mint('header')}"})
    assert error["data"]["code"] == "token_missing"


def test_a_token_in_a_cookie_where_it_is_named(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(
        sources=["payload", "cookie:session"],
        allowed_origins=["https://crm.example.com"],
    )
    headers = {"Cookie": f"theme=dark; session={mint('cookie')}", "Origin": "https://crm.example.com"}
    for transports in TRANSPORTS:
        assert subject(js.play(server.url, transports=transports, headers=headers, steps=ASK)) == "cookie"
    # Without an Origin nobody knows which page rides on the cookie.
    del headers["Origin"]
    assert js.outcome(server.url, headers=headers)["data"]["code"] == "token_missing"
