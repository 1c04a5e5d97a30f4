"""Where clients put their token, and how they come back with another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import ACCEPTED, CLOSED, TRANSPORTS, JavaScript, Server, joining, new_address, seen

ASK = [{"wait": ["connect", "connect_error"]}, {"call": ["whoami"]}]
HEADER = {"Authorization": f"Bearer {mint('header')}"}
over_each_transport = pytest.mark.parametrize("transports", TRANSPORTS)


def subject(result: dict[str, Any]) -> Any:
    return result["steps"][1]["subject"]


@over_each_transport
def test_the_header_and_the_payload(js: JavaScript, either: Server, transports: str) -> None:
    assert subject(js.play(either, transports=transports, headers=HEADER, steps=ASK)) == "header"
    assert subject(js.play(either, transports=transports, headers=HEADER, auth={"token": ""}, steps=ASK)) == "header"
    # The payload goes before the header, even when it is no good.
    stale = {"Authorization": f"Bearer {mint('header', lifetime=-60)}"}
    assert subject(js.play(either, transports=transports, headers=stale, token=mint("payload"), steps=ASK)) == "payload"
    error = js.outcome(either, transports=transports, headers=HEADER, token="garbage", address=new_address())
    assert error["data"]["code"] == "token_malformed"


@over_each_transport
def test_auth_as_a_function(js: JavaScript, crm: Server, transports: str) -> None:
    assert subject(js.play(crm, transports=transports, tokens=[mint("function")], steps=ASK)) == "function"


@pytest.mark.parametrize("transports", ["websocket", "upgrade"])
def test_coming_back_after_the_transport_was_lost(js: JavaScript, crm: Server, transports: str) -> None:
    steps = [*joining(transports), {"cut": True}, {"wait": "disconnect"}, {"wait": "connect"}, {"call": ["whoami"]}]
    address = new_address()
    result = js.play(
        crm,
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
    closed = crm.wait_for_event(CLOSED, client_address=address, sid=first["sid"])
    assert (closed["reason"], closed["subject"]) == ("transport close", "first")
    crm.wait_for_event(ACCEPTED, client_address=address, subject="second")


def test_a_query_and_a_cookie_where_they_are_named(js: JavaScript, serve: Callable[..., Server]) -> None:
    origin = "https://crm.example.com"
    server = serve(sources=["payload", "query:token", "cookie:session"], allowed_origins=[origin])
    cookie = {"Cookie": f"theme=dark; session={mint('cookie')}"}
    for transports in TRANSPORTS:
        found = js.play(server, transports=transports, query={"token": mint("query")}, steps=ASK)
        assert subject(found) == "query"
        found = js.play(server, transports=transports, headers={**cookie, "Origin": origin}, steps=ASK)
        assert subject(found) == "cookie"
    # Without an Origin nobody knows which page rides on the cookie; and the header is not named.
    assert js.outcome(server, headers=cookie, address=new_address())["data"]["code"] == "token_missing"
    assert js.outcome(server, headers=HEADER, address=new_address())["data"]["code"] == "token_missing"
