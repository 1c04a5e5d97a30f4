"""Each symptom from what was recorded when it was made on real servers, and no finding where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from socketguard.cli.doctor.observations import (
    Answer,
    Baked,
    Crash,
    Failure,
    Hold,
    Join,
    Observations,
    PageSeen,
    Stickiness,
    Tls,
    Upgrade,
)
from socketguard.cli.doctor.rules import Finding, judge, reached
from socketguard.cli.doctor.symptoms import SYMPTOMS, UNSEEN
from socketguard.cli.doctor.target import parse_target

UVICORN = (("server", "uvicorn"),)
NGINX = (("server", "nginx/1.22.1"),)
PYTHON_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingTimeout":20000,"pingInterval":25000,"maxPayload":1000000}'
NODE_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
OPEN = Answer(200, UVICORN, PYTHON_OPEN)
WS_OPEN = Answer(101, (), PYTHON_OPEN)
REFUSED = Answer(403)
SEND_OK = Stickiness(False, 8, 0)


def nginx_page(status: int, text: str) -> Answer:
    body = f"<html>\r\n<body>\r\n<center><h1>{text}</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</html>"
    return Answer(status, NGINX, body)


def guarded(code: str, status: int, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, headers, json.dumps({"code": code, "message": "m", "retry": "never", "ref": "r"}))


def seen(url: str = "https://crm.example.com", **changes: Any) -> Observations:
    """A good python-socketio server, but for the changes."""
    target = parse_target(url)
    allowed = Answer(200, (*UVICORN, ("access-control-allow-origin", target.origin)), PYTHON_OPEN)
    found = Observations(
        target,
        target.origin,
        tls=Tls("TLSv1.3", "h2", 60.0) if target.tls else None,
        polling=OPEN,
        polling_origin=allowed,
        preflight=Answer(200, UVICORN, "OK"),
        websocket=WS_OPEN,
        websocket_origin=WS_OPEN,
        sticky=[SEND_OK],
        joins=[Join("/", "joined", False)],
        upgrade=Upgrade("upgraded"),
    )
    return replace(found, **changes)


def ids(found: Observations) -> list[str]:
    return [finding.id for finding in judge(found)]


def only(found: Observations) -> Finding:
    (finding,) = judge(found)
    return finding


# --- nothing wrong ---------------------------------------------------------------------------------------------------

GOOD: Mapping[str, Observations] = {
    "python": seen(),
    "python on loopback without TLS": seen("http://localhost:5000"),
    "node, which sends no CORS headers for its own origin": seen(
        polling=Answer(200, (), NODE_OPEN), polling_origin=Answer(200, (), NODE_OPEN)
    ),
    "guarded, without a token": seen(
        joins=[
            Join("/", "refused", False, message="Invalid namespace"),
            Join("/m", "refused", message="Authentication required", data={"code": "token_missing"}),
        ]
    ),
    "guarded, with a token": seen(token="alg", joins=[Join("/m", "joined", with_token=True)]),
    "nobody named a namespace": seen(token="alg", joins=[Join("/", "refused", False, True, "Unable to connect")]),
    "refused by the application without a token": seen(joins=[Join("/", "refused", message="Connection rejected")]),
    "polling switched off": seen(
        polling=Answer(400, (), '{"code":0,"message":"Transport unknown"}'),
        polling_origin=Answer(400, (), '{"code":0,"message":"Transport unknown"}'),
        sticky=[],
        upgrade=None,
    ),
    "WebSocket switched off": seen(
        websocket=REFUSED, websocket_origin=REFUSED, resent=Answer(400, UVICORN, '"Invalid transport"'), upgrade=None
    ),
    "every origin, echoed": seen(
        origin="https://other.example",
        origin_given=True,
        polling_origin=Answer(200, (("access-control-allow-origin", "https://other.example"),), PYTHON_OPEN),
    ),
    "every origin, as a star": seen(
        origin="https://other.example",
        origin_given=True,
        polling_origin=Answer(200, (("access-control-allow-origin", "*"),), NODE_OPEN),
    ),
    "behind nginx": seen(polling=Answer(200, NGINX, PYTHON_OPEN)),
    "held": seen(
        polling=Answer(200, NGINX, PYTHON_OPEN.replace("25000", "75000")),
        holds=[Hold("idle", "held", 90.0, 1), Hold("busy", "held", 90.0, 1), Hold("poll", "answered", 75.0)],
    ),
    "nothing asked": Observations(parse_target("https://h")),
    "an announcement without a heartbeat": seen(
        polling=Answer(200, (), '0{"sid":"s"}'),
        polling_origin=Answer(200, (), '0{"sid":"s"}'),
        websocket=Answer(101, (), '0{"sid":"s","pingInterval":"?"}'),
        websocket_origin=Answer(101, (), '0{"sid":"s"}'),
    ),
    "a large request": seen(oversized=Answer(200, (), "OK")),
    "a large request to a guard": seen(oversized=guarded("body_too_large", 413)),
    "the upgrade could not begin": seen(upgrade=Upgrade("failed")),
    "the page": seen(
        page=PageSeen("https://crm.example.com", Answer(200), 1, 0, (Baked("wss://crm.example.com", "/", None, "a"),))
    ),
    "the page, with the path": seen(
        page=PageSeen(
            "https://crm.example.com", Answer(200), 1, 0, (Baked("https://crm.example.com", "/", "/socket.io/", "a"),)
        )
    ),
    "sticky by a cookie": seen(sticky=[Stickiness(False, 8, 4, ("srv",)), Stickiness(True, 8, 0)]),
    "plain HTTP without a token": seen("http://10.0.0.1"),
}


@pytest.mark.parametrize("name", GOOD)
def test_no_finding_where_nothing_is_wrong(name: str) -> None:
    assert judge(GOOD[name]) == []


# --- one symptom each ------------------------------------------------------------------------------------------------


def blocked(reply: Answer | Failure, **changes: Any) -> Observations:
    """An endpoint whose polling handshake ends so, and where nothing else was asked any more."""
    rest = {"polling_origin": reply, "websocket": None, "websocket_origin": None, "sticky": [], "joins": []}
    return seen(**{"polling": reply, "upgrade": None, **rest, **changes})


def matrix(polling: Answer, websocket: Any, websocket_origin: Any, /, **changes: Any) -> Observations:
    return seen(polling_origin=polling, websocket=websocket, websocket_origin=websocket_origin, upgrade=None, **changes)


BAD_ORIGIN = Answer(400, UVICORN, '"https://crm.example.com is not an accepted origin."')
NO_POLLING = Answer(400, UVICORN, '"Invalid transport"')
LOST = Answer(400, UVICORN, '"Invalid websocket upgrade"')
PAGE_URL = "https://crm.example.com"


def page(*baked: Baked, url: str = PAGE_URL) -> PageSeen:
    return PageSeen(url, Answer(200), 1, 0, baked)


CASES: list[tuple[str, Observations, str]] = [
    # below HTTP
    ("S-01", seen(network=Failure("timeout", "timed out", 8.0)), "no answer in 8 s"),
    ("S-02", seen(network=Failure("dns", "Name or service not known")), "Name or service not known"),
    ("S-02", seen(network=Failure("refused", "Connect call failed")), "crm.example.com port 443"),
    ("S-01", seen(tls=Failure("timeout", "x", 8.0)), "TLS: no answer"),
    ("S-30", seen(tls=Failure("tls", "[SSL: WRONG_VERSION_NUMBER] wrong version number")), "WRONG_VERSION"),
    ("S-02", seen(tls=Failure("reset", "Connection reset")), "TLS: Connection reset"),
    ("S-02", seen(tls=Tls("TLSv1.3", problem="self-signed certificate")), "self-signed"),
    ("S-35", seen(tls=Tls("TLSv1.3", None, 5.2)), "5 days"),
    ("S-30", blocked(Failure("reset", "x"), speaks_tls=True), "a TLS handshake on the same port succeeds"),
    # the polling handshake
    ("S-01", blocked(Failure("timeout", "timed out", 8.0)), "after 8.0 s"),
    ("S-11", blocked(Failure("reset", "Server disconnected")), "disconnected"),
    ("S-02", blocked(Failure("protocol", "illegal status line")), "illegal status line"),
    ("S-01", blocked(nginx_page(504, "504 Gateway Time-out")), "nginx"),
    ("S-03", blocked(Answer(200, (("content-type", "text/html"),), "<html>app</html>")), "text/html"),
    ("S-03", blocked(Answer(418, (), "teapot")), "418"),
    ("S-04", blocked(Answer(200, (("server", "Caddy"),))), "caddy"),
    ("S-04", blocked(Answer(200)), "empty body"),
    ("S-08", blocked(BAD_ORIGIN), "not an accepted origin"),
    ("S-09", blocked(Answer(404, UVICORN, "Not Found"), websocket=Answer(500, (), "Internal Server Error")), "500"),
    ("S-09", blocked(Answer(404, UVICORN, "Not Found")), "404"),
    ("S-09", blocked(guarded("wrong_path", 404)), "wrong_path"),
    ("S-10", blocked(Answer(404, (), "404 page not found\n")), "404 page not found"),
    ("S-11", blocked(nginx_page(502, "502 Bad Gateway")), "502 Bad Gateway"),
    ("S-11", blocked(Answer(522, (), "")), "cloudflare"),
    ("S-11", blocked(Answer(500, UVICORN, "Internal Server Error")), "500"),
    ("S-16", blocked(Answer(301, (("location", "https://crm.example.com/socket.io/?EIO=4"),))), "301 to https://crm"),
    ("S-16", blocked(Answer(302, (("location", "https://elsewhere.example/"),))), "elsewhere"),
    ("S-16", blocked(Answer(302, ())), "nowhere"),
    ("S-16", blocked(Answer(302, (("location", "http://[bad"),))), "bad"),
    ("S-17", blocked(Answer(308, (("location", "/socket.io?EIO=4"),))), "308 to /socket.io"),
    ("S-21", blocked(nginx_page(405, "405 Not Allowed")), "405"),
    ("S-23", blocked(Answer(200, (), '96:0{"sid":"x","upgrades":[]}2:40')), "Engine.IO 4"),
    ("S-23", blocked(Answer(400, (), '{"code":5,"message":"Unsupported protocol version"}')), "Engine.IO 4"),
    ("S-27", blocked(Answer(401, (*NGINX, ("www-authenticate", 'Basic realm="x"')), "401")), "Basic realm"),
    ("S-27", blocked(Answer(302, (("location", "https://sso.example/login?next=x"),))), "https://sso.example/login"),
    ("S-27", blocked(nginx_page(403, "403 Forbidden")), "403 Forbidden"),
    ("S-28", blocked(Answer(426, (("server", "istio-envoy"),), "Upgrade Required")), "istio"),
    ("S-30", blocked(nginx_page(400, "The plain HTTP request was sent to HTTPS port")), "HTTPS port"),
    ("S-37", blocked(guarded("draining", 503, (("retry-after", "7"),))), "Retry-After: 7 s"),
    ("S-37", blocked(guarded("rate_limited", 429)), "rate_limited"),
    ("S-38", blocked(Answer(403, (), '{"code":4,"message":"Forbidden"}')), "Forbidden"),
    # the matrix
    ("S-07", matrix(OPEN, WS_OPEN, REFUSED), "WebSocket: 403"),
    ("S-07", matrix(OPEN, WS_OPEN, Failure("reset", "closed")), "reset"),
    ("S-08", matrix(BAD_ORIGIN, WS_OPEN, REFUSED, origin_given=True), "not an accepted origin"),
    ("S-08", matrix(BAD_ORIGIN, WS_OPEN, REFUSED), "not an accepted origin"),
    ("S-08", matrix(BAD_ORIGIN, WS_OPEN, REFUSED, polling_plain=OPEN), "with the other of http and https it opens"),
    (
        "S-08",
        matrix(
            Answer(400, (), '"Invalid transport"'), WS_OPEN, REFUSED, polling=Answer(400, (), '"Invalid transport"')
        ),
        "403",
    ),
    ("S-08", matrix(REFUSED, WS_OPEN, WS_OPEN), "polling with Origin"),
    ("S-05", matrix(OPEN, LOST, LOST), "Invalid websocket upgrade"),
    ("S-05", matrix(OPEN, guarded("upgrade_missing", 400), guarded("upgrade_missing", 400)), "upgrade_missing"),
    ("S-05", matrix(OPEN, Failure("timeout", "t"), Failure("timeout", "t")), "timeout"),
    ("S-05", matrix(OPEN, Failure("reset", "t"), Failure("reset", "t")), "reset"),
    ("S-05", matrix(OPEN, REFUSED, REFUSED, resent=LOST), "the same URL as a plain GET: 400"),
    ("S-05", matrix(OPEN, Answer(200, (), "<html>"), Answer(200, (), "<html>")), "200"),
    ("S-01", matrix(OPEN, Answer(101), Answer(101)), "101"),
    ("S-06", matrix(OPEN, Answer(500, (), "Internal Server Error"), Answer(500)), "500"),
    ("S-09", matrix(OPEN, Answer(404), Answer(404)), "404"),
    ("S-11", matrix(OPEN, Answer(502), Answer(502)), "502"),
    ("S-16", matrix(OPEN, Answer(301, (("location", "https://h2/"),)), Answer(301)), "https://h2/"),
    ("S-28", matrix(OPEN, Answer(426), Answer(426)), "426"),
    ("S-37", matrix(OPEN, guarded("draining", 503), guarded("draining", 503)), "draining"),
    # sessions
    ("S-12", seen(sticky=[Stickiness(False, 8, 4)]), "4 of 8"),
    ("S-12", seen(sticky=[Stickiness(False, 8, 4, ("srv",)), Stickiness(True, 8, 3)]), "with cookies 3 of 8"),
    (
        "S-13",
        seen(
            sticky=[Stickiness(False, 8, 4, ("srv",)), Stickiness(True, 8, 0)],
            origin="https://o.example",
            polling_origin=Answer(200, (("access-control-allow-origin", "https://o.example"),), PYTHON_OPEN),
        ),
        "(srv)",
    ),
    ("S-12", seen(upgrade=Upgrade("refused", Answer(400, (), '"Invalid session x"'))), "upgrade: 400"),
    ("S-05", seen(upgrade=Upgrade("refused", REFUSED)), "upgrade: 403"),
    ("S-05", seen(upgrade=Upgrade("silent")), "2probe"),
    ("S-21", seen(sticky=[Stickiness(False, 1, 0, (), nginx_page(403, "403 Forbidden"))]), "POST: 403"),
    ("S-21", seen(sticky=[Stickiness(False, 1, 0, (), Failure("reset", "closed"))]), "POST: reset"),
    ("S-20", seen(sticky=[Stickiness(False, 1, 0, (), nginx_page(413, "413"))]), "413"),
    ("S-20", seen(oversized=nginx_page(413, "413 Request Entity Too Large")), "413"),
    ("S-20", seen(oversized=Failure("reset", "closed")), "reset"),
    ("S-25", seen(joins=[Join("/x", "refused", message="Unable to connect")]), "a JavaScript client sees an empty"),
    ("S-25", seen("https://h/api/", joins=[Join("/api/", "refused", message="Invalid namespace")]), "/api/"),
    ("S-26", seen(joins=[Join("/x", "silent", seconds=8.0)]), "no answer in 8 s"),
    ("S-26", seen(joins=[Join("/x", "closed")]), "the connection was closed"),
    (
        "S-34",
        seen(
            token="expired 3 minutes ago",
            token_problem="it expired 3 minutes ago",
            joins=[Join("/m", "refused", True, True, "Token has expired", {"code": "token_expired"})],
        ),
        "(token_expired); expired 3 minutes ago",
    ),
    ("S-34", seen(joins=[Join("/m", "refused", True, True, "", [1])]), "refused without a message"),
    ("S-34", seen(token="expired", token_problem="it expired"), "expired"),
    # CORS
    ("S-22", seen(polling_origin=Answer(200, (("access-control-allow-origin", "a"),) * 2, PYTHON_OPEN)), "a, a"),
    ("S-22", seen(polling_origin=Answer(200, (("access-control-allow-origin", "a, b"),), PYTHON_OPEN)), "a, b"),
    (
        "S-22",
        seen(
            polling_origin=Answer(
                200, (("access-control-allow-origin", "*"), ("access-control-allow-credentials", "true")), NODE_OPEN
            )
        ),
        "Credentials true",
    ),
    ("S-22", seen(origin="https://o.example", polling_origin=OPEN), "is missing"),
    (
        "S-22",
        seen(
            origin="https://o.example",
            polling_origin=Answer(200, (("access-control-allow-origin", "https://p.example"),), NODE_OPEN),
        ),
        "https://p.example",
    ),
    # time
    ("S-14", seen(polling=Answer(200, NGINX, PYTHON_OPEN.replace("25000", "75000"))), "proxy_read_timeout of nginx"),
    ("S-14", seen(polling=Answer(200, (), PYTHON_OPEN.replace("25000", "0"))), "pingInterval: 0 ms"),
    (
        "S-14",
        seen(holds=[Hold("idle", "cut", 60.2, 0, 60.0), Hold("busy", "held", 80.0), Hold("poll", "failed")]),
        "cut without a close frame after 60 s",
    ),
    ("S-14", seen(holds=[Hold("idle", "cut", 30.0, 1, 5.0), Hold("busy", "cut", 30.5, 1, 0.5)]), "at the same age"),
    # It was not busy: this machine was too slow to talk.
    (
        "S-14",
        seen(holds=[Hold("idle", "cut", 4.0, 0, 4.0), Hold("busy", "cut", 5.0, 0, 5.0, pause=4.5)]),
        "cut without a close frame after 4 s, 4 s after the last frame, 0 pings",
    ),
    (
        "S-24",
        seen(holds=[Hold("idle", "closed", 30.0, 0, 30.0, 1000), Hold("busy", "closed", 30.0, 0, 30.0, 1000)]),
        "with the code 1000",
    ),
    ("S-15", seen(holds=[Hold("poll", "cut", 4.0, reply=nginx_page(504, "504"))]), "after 4 s"),
    # beside
    (
        "S-19",
        seen(
            "http://10.0.0.1",
            origin="https://crm.example.com",
            origin_given=True,
            polling_origin=Answer(200, (("access-control-allow-origin", "https://crm.example.com"),), PYTHON_OPEN),
        ),
        "http://10.0.0.1",
    ),
    ("S-36", seen("http://10.0.0.1", token="alg"), "http://10.0.0.1"),
    ("S-36", seen("http://10.0.0.1", joins=[Join("/", "joined", with_token=True)]), "http://10.0.0.1"),
    ("S-19", seen(page=page(Baked("ws://crm.example.com", "/", None, "a.js"))), "ws://crm.example.com in a.js"),
    ("S-33", seen(page=page(Baked("http://localhost:5000", "/", None, "a.js"))), "http://localhost:5000 in a.js"),
    ("S-33", seen(page=page(Baked("https://old.example", "/", None, "a.js", REFUSED))), "there: 403"),
    ("S-33", seen(page=page(Baked("https://old.example", "/", None, "a.js", OPEN))), "the session opens"),
    ("S-33", seen(page=page(Baked("https://crm.example.com", "/", "/ws", "a.js"))), "path /ws"),
    ("S-33", seen(page=PageSeen(PAGE_URL, Answer(404))), "404"),
    ("S-33", seen(page=PageSeen(PAGE_URL, Failure("dns", "unknown"))), "unknown"),
    ("S-00", seen(crashes=[Crash("tls", "ValueError: x")]), "tls: ValueError: x"),
]


@pytest.mark.parametrize(("symptom", "found", "evidence"), CASES)
def test_the_symptom_is_named_first(symptom: str, found: Observations, evidence: str) -> None:
    findings = judge(found)
    assert [finding.id for finding in findings][:1] == [symptom]
    assert evidence in findings[0].evidence
    assert findings[0].docs == f"docs/troubleshooting.md#{symptom.lower()}"
    assert all((findings[0].title, findings[0].cause, findings[0].fix))


def test_causes_hide_what_only_follows_from_them() -> None:
    doubled = [(symptom, ids(found)) for symptom, found, _ in CASES if len(ids(found)) > 1]
    assert doubled == []


def test_every_symptom_has_a_case() -> None:
    # S-18 needs a client without the slash: see below.
    assert {symptom for symptom, _, _ in CASES} | {"S-18"} == set(SYMPTOMS)
    assert set(SYMPTOMS) & set(UNSEEN) == set()
    assert {f"S-{number:02}" for number in range(1, 33)} <= set(SYMPTOMS) | set(UNSEEN)


def test_a_client_without_the_slash() -> None:
    target = parse_target("https://crm.example.com", slash=False)
    reply = Answer(301, (("location", "https://crm.example.com/socket.io/"),))
    assert only(blocked(reply, target=target)).id == "S-18"


def test_the_redirect_to_https_says_which_address_to_use() -> None:
    reply = Answer(301, (("location", "https://crm.example.com/socket.io/"),))
    found = only(blocked(reply, target=parse_target("http://localhost")))
    assert found.fix == SYMPTOMS["S-16"].fix
    found = only(blocked(reply, target=parse_target("http://crm.example.com")))
    assert found.fix == "give clients https://crm.example.com"


def test_a_lifetime_is_told_from_an_idle_limit_only_by_a_busy_connection() -> None:
    idle = Hold("idle", "cut", 30.0, 1, 5.0)
    for pause, said in ((1.2, "WebSockets are ended at a fixed age"), (6.0, SYMPTOMS["S-14"].title)):
        assert only(seen(holds=[idle, Hold("busy", "cut", 30.5, 1, 0.5, pause=pause)])).title == said


def test_the_fix_names_the_proxy() -> None:
    behind = Answer(200, NGINX, PYTHON_OPEN)
    found = only(matrix(behind, LOST, LOST, polling=behind))
    assert "proxy_set_header Upgrade $http_upgrade" in found.fix
    assert "nginx: " not in only(matrix(OPEN, LOST, LOST)).fix


def test_an_untrusted_certificate_comes_first_and_the_rest_is_still_judged() -> None:
    tls = Tls("TLSv1.3", problem="expired")
    assert ids(blocked(nginx_page(502, "502"), tls=tls)) == ["S-02", "S-11"]


def test_errors_come_before_warnings() -> None:
    found = seen(tls=Tls("TLSv1.3", None, 3.0), sticky=[Stickiness(False, 8, 4)])
    assert ids(found) == ["S-12", "S-35"]
    assert [finding.severity for finding in judge(found)] == ["error", "warning"]


def test_a_guessed_origin_is_a_warning_only() -> None:
    assert only(matrix(BAD_ORIGIN, WS_OPEN, REFUSED)).severity == "warning"
    assert only(matrix(BAD_ORIGIN, WS_OPEN, REFUSED, origin_given=True)).severity == "error"


def test_a_failed_session_says_nothing() -> None:
    assert ids(seen(sticky=[Stickiness(False, 8, 4)], upgrade=Upgrade("refused", REFUSED))) == ["S-12"]
    assert ids(seen(sticky=[Stickiness(False, 1, 0, (), guarded("rate_limited", 429))])) == []


def test_reached() -> None:
    assert reached(seen())
    assert not reached(blocked(Failure("timeout", "t"), polling_origin=None, preflight=None))
