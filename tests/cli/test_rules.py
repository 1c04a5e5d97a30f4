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
    Unsteady,
    Upgrade,
)
from socketguard.cli.doctor.rules import judge, reached
from socketguard.cli.doctor.symptoms import SYMPTOMS, UNSEEN
from socketguard.cli.doctor.target import parse_target

UVICORN = (("server", "uvicorn"),)
NGINX = (("server", "nginx/1.22.1"),)
PYTHON_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingTimeout":20000,"pingInterval":25000,"maxPayload":1000000}'
NODE_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
OPEN = Answer(200, UVICORN, PYTHON_OPEN)
NODE = Answer(200, (), NODE_OPEN)
WS_OPEN = Answer(101, (), PYTHON_OPEN)
REFUSED = Answer(403)
SEND_OK = Stickiness(False, 8, 0)
BY_COOKIE = [Stickiness(False, 8, 4, ("srv",)), Stickiness(True, 8, 0)]
BAD_ORIGIN = Answer(400, UVICORN, '"https://crm.example.com is not an accepted origin."')
LOST = Answer(400, UVICORN, '"Invalid websocket upgrade"')
NO_POLLING = Answer(400, (), '{"code":0,"message":"Transport unknown"}')
NO_TRANSPORT = Answer(400, UVICORN, '"Invalid transport"')
OLD_VERSION = Answer(400, (), '"The client is using an unsupported version of the Socket.IO or Engine.IO protocols"')
TOO_MANY = Answer(429, (("retry-after", "9"),), "slow down")
PAGE_URL = "https://crm.example.com"


def nginx_page(status: int, text: str) -> Answer:
    body = f"<html>\r\n<body>\r\n<center><h1>{text}</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</html>"
    return Answer(status, NGINX, body)


def guarded(code: str, status: int, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, headers, json.dumps({"code": code, "message": "m", "retry": "never", "ref": "r"}))


def allowing(*origins: str, body: str = PYTHON_OPEN, credentials: str = "") -> Answer:
    """A session that opens, with these CORS headers."""
    headers = [("access-control-allow-origin", origin) for origin in origins]
    headers += [("access-control-allow-credentials", credentials)] if credentials else []
    return Answer(200, (*UVICORN, *headers), body)


def to(location: str, status: int = 302) -> Answer:
    return Answer(status, (("location", location),))


def seen(url: str = "https://crm.example.com", **changes: Any) -> Observations:
    """A good python-socketio server, but for the changes."""
    target = parse_target(url)
    found = Observations(
        target,
        target.origin,
        tls=Tls("TLSv1.3", "h2", 60.0) if target.tls else None,
        polling=OPEN,
        polling_origin=allowing(target.origin),
        preflight=Answer(200, UVICORN, "OK"),
        websocket=WS_OPEN,
        websocket_origin=WS_OPEN,
        sticky=[SEND_OK],
        joins=[Join("/", "joined", False)],
        upgrade=Upgrade("upgraded"),
    )
    cached = changes.pop("cached", False)
    found = replace(found, **changes)
    if isinstance(found.polling, Answer) and not cached:
        found.polling = replace(found.polling, body=found.polling.body.replace('"sid":"', '"sid":"first-'))
    return found


def for_page(
    polling_origin: Answer, url: str = PAGE_URL, origin: str = "https://o.example", **changes: Any
) -> Observations:
    """What a page of another origin gets."""
    return seen(url, origin=origin, polling_origin=polling_origin, **changes)


def held(idle: tuple[Any, ...], busy: tuple[Any, ...]) -> Observations:
    return seen(holds=[Hold("idle", *idle), Hold("busy", *busy)])


def page(*baked: Baked) -> PageSeen:
    return PageSeen(PAGE_URL, Answer(200), 1, 0, baked)


def ids(found: Observations) -> list[str]:
    return [finding.id for finding in judge(found)]


# --- nothing wrong ---------------------------------------------------------------------------------------------------

GOOD: Mapping[str, Observations] = {
    "python": seen(),
    "python on loopback without TLS": seen("http://localhost:5000"),
    "node, which sends no CORS headers for its own origin": seen(polling=NODE, polling_origin=NODE),
    "guarded, without a token": seen(
        joins=[
            Join("/", "refused", False, message="Invalid namespace"),
            Join("/m", "refused", message="Authentication required", data={"code": "token_missing"}),
        ]
    ),
    "guarded, with a token": seen(token="alg", joins=[Join("/m", "joined", with_token=True)]),
    "nobody named a namespace": seen(token="alg", joins=[Join("/", "refused", False, True, "Unable to connect")]),
    "refused by the application without a token": seen(joins=[Join("/", "refused", message="Connection rejected")]),
    "polling switched off": seen(polling=NO_POLLING, polling_origin=NO_POLLING, sticky=[], upgrade=None),
    "polling only, which says so of any transport": seen(websocket=NO_TRANSPORT, websocket_origin=NO_TRANSPORT),
    "polling switched off, and asked for a transport that there isn't": seen(
        polling=NO_POLLING, polling_origin=NO_POLLING, unread=NO_POLLING, sticky=[], upgrade=None
    ),
    "WebSocket switched off": seen(websocket=REFUSED, websocket_origin=REFUSED, resent=NO_TRANSPORT, upgrade=None),
    "every origin, echoed": for_page(allowing("https://o.example"), origin_given=True),
    "every origin, as a star": for_page(allowing("*", body=NODE_OPEN), origin_given=True),
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
    "the page": seen(page=page(Baked("wss://crm.example.com", "/", None, "a"))),
    "the page, with the path": seen(page=page(Baked("https://crm.example.com", "/", "/socket.io/", "a"))),
    "sticky by a cookie": seen(sticky=BY_COOKIE),
    "plain HTTP without a token": seen("http://10.0.0.1"),
}


@pytest.mark.parametrize("name", GOOD)
def test_no_finding_where_nothing_is_wrong(name: str) -> None:
    assert judge(GOOD[name]) == []


# --- one symptom each ------------------------------------------------------------------------------------------------


EXPIRED = Join("/m", "refused", True, True, "Token has expired", {"code": "token_expired"})


def blocked(reply: Answer | Failure, **changes: Any) -> Observations:
    """An endpoint whose polling handshake ends so, and where nothing else was asked any more."""
    rest = {"polling_origin": reply, "websocket": None, "websocket_origin": None, "sticky": [], "joins": []}
    return seen(**{"polling": reply, "upgrade": None, **rest, **changes})


def matrix(polling: Answer, websocket: Any, websocket_origin: Any, /, **changes: Any) -> Observations:
    return seen(polling_origin=polling, websocket=websocket, websocket_origin=websocket_origin, upgrade=None, **changes)


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
    ("S-16", blocked(to("https://crm.example.com/socket.io/?EIO=4", 301)), "301 to https://crm"),
    ("S-16", blocked(to("https://elsewhere.example/")), "elsewhere"),
    ("S-16", blocked(Answer(302, ())), "nowhere"),
    ("S-16", blocked(to("http://[bad")), "bad"),
    ("S-17", blocked(to("/socket.io?EIO=4", 308)), "308 to /socket.io"),
    ("S-21", blocked(nginx_page(405, "405 Not Allowed")), "405"),
    ("S-23", blocked(Answer(200, (), '96:0{"sid":"x","upgrades":[]}2:40')), "Engine.IO 4"),
    ("S-23", blocked(Answer(400, (), '{"code":5,"message":"Unsupported protocol version"}')), "Engine.IO 4"),
    ("S-27", blocked(Answer(401, (*NGINX, ("www-authenticate", 'Basic realm="x"')), "401")), "Basic realm"),
    ("S-27", blocked(to("https://sso.example/login?next=x")), "https://sso.example/login"),
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
    ("S-08", matrix(NO_TRANSPORT, WS_OPEN, REFUSED, polling=NO_TRANSPORT), "403"),
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
    ("S-16", matrix(OPEN, to("https://h2/", 301), Answer(301)), "https://h2/"),
    ("S-28", matrix(OPEN, Answer(426), Answer(426)), "426"),
    ("S-37", matrix(OPEN, guarded("draining", 503), guarded("draining", 503)), "draining"),
    # sessions
    ("S-12", seen(sticky=[Stickiness(False, 8, 4)]), "4 of 8"),
    ("S-12", seen(sticky=[Stickiness(False, 8, 4, ("srv",)), Stickiness(True, 8, 3)]), "with cookies 3 of 8"),
    ("S-13", for_page(allowing("https://o.example"), sticky=BY_COOKIE), "(srv)"),
    ("S-12", seen(upgrade=Upgrade("refused", Answer(400, (), '"Invalid session x"'))), "upgrade: 400"),
    ("S-05", seen(upgrade=Upgrade("refused", Answer(502))), "upgrade: 502"),
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
    ("S-34", seen(token="expired 3 h ago", token_problem="x", joins=[EXPIRED]), "(token_expired); expired 3 h ago"),
    ("S-34", seen(joins=[Join("/m", "refused", True, True, "", [1])]), "refused without a message"),
    ("S-34", seen(token="expired", token_problem="it expired"), "expired"),
    # CORS
    ("S-22", seen(polling_origin=allowing("a", "a")), "a, a"),
    ("S-22", seen(polling_origin=allowing("a, b")), "a, b"),
    ("S-22", seen(polling_origin=allowing("*", body=NODE_OPEN, credentials="true")), "Credentials true"),
    ("S-22", for_page(OPEN), "is missing"),
    ("S-22", for_page(allowing("https://p.example", body=NODE_OPEN)), "https://p.example"),
    # time
    ("S-14", seen(polling=Answer(200, NGINX, PYTHON_OPEN.replace("25000", "75000"))), "proxy_read_timeout of nginx"),
    ("S-14", seen(polling=Answer(200, (), PYTHON_OPEN.replace("25000", "0"))), "pingInterval: 0 ms"),
    ("S-14", held(("cut", 60.2, 0, 60.0), ("held", 80.0)), "cut without a close frame after 60 s"),
    ("S-14", held(("cut", 30.0, 1, 5.0), ("cut", 30.5, 1, 0.5)), "at the same age"),
    # It was not busy: this machine was too slow to talk.
    ("S-14", held(("cut", 4.0, 0, 4.0), ("cut", 5.0, 0, 5.0, None, None, 4.5)), "4 s after the last frame, 0 pings"),
    ("S-14", held(("closed", 20.0, 0, 20.0, 1000), ("closed", 20.0, 0, 20.0, 1000)), "at the same age"),
    ("S-24", held(("closed", 30.0, 0, 30.0, 1000), ("closed", 30.0, 0, 30.0, 1000)), "with the code 1000"),
    ("S-15", seen(holds=[Hold("poll", "cut", 4.0, reply=nginx_page(504, "504"))]), "after 4 s"),
    # beside
    ("S-19", for_page(allowing(PAGE_URL), "http://10.0.0.1", PAGE_URL, origin_given=True), "http://10.0.0.1"),
    ("S-36", seen("http://10.0.0.1", token="alg"), "http://10.0.0.1"),
    ("S-36", seen("http://10.0.0.1", joins=[Join("/", "joined", with_token=True)]), "http://10.0.0.1"),
    ("S-19", seen(page=page(Baked("ws://crm.example.com", "/", None, "a.js"))), "ws://crm.example.com in a.js"),
    ("S-33", seen(page=page(Baked("http://localhost:5000", "/", None, "a.js"))), "http://localhost:5000 in a.js"),
    ("S-33", seen(page=page(Baked("https://old.example", "/", None, "a.js", REFUSED))), "there: 403"),
    ("S-33", seen(page=page(Baked("https://old.example", "/", None, "a.js", OPEN))), "the session opens"),
    ("S-33", seen(page=page(Baked("https://crm.example.com", "/", "/ws", "a.js"))), "path /ws"),
    ("S-33", seen(page=PageSeen(PAGE_URL, Answer(404))), "404"),
    ("S-33", seen(page=PageSeen(PAGE_URL, Failure("dns", "unknown"))), "unknown"),
    ("S-39", seen(unsteady=[Unsteady("GET", nginx_page(502, "502 Bad Gateway"), 3)]), "at try 3 it was answered"),
    (
        "S-39",
        seen(unsteady=[Unsteady("POST", Failure("reset", "closed"), 2)], websocket=REFUSED, websocket_origin=REFUSED),
        "POST: reset, closed",
    ),
    ("S-40", seen(deflated=Failure("protocol", "reserved bits")), "with permessage-deflate: WebSocket: protocol"),
    ("S-41", seen(polling=OLD_VERSION, unread=OLD_VERSION, websocket=REFUSED), "a transport that does not exist: 400"),
    ("S-41", seen(polling=NO_POLLING, unread=NO_POLLING, websocket=NO_POLLING), "Transport unknown"),
    ("S-42", seen(cached=True, polling=Answer(200, (("age", "7"),), PYTHON_OPEN)), "(age: 7)"),
    ("S-42", seen(cached=True), "2 handshakes gave the same session"),
    ("S-37", seen(websocket=TOO_MANY, websocket_origin=TOO_MANY), "429, slow down; Retry-After: 9 s"),
    ("S-37", seen(polling=Answer(429), polling_origin=Answer(429)), "429, empty body"),
    (
        "S-12",
        seen(upgrade=Upgrade("refused", REFUSED)),
        "with the session of polling it is refused: upgrade: 403",
    ),
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


BEHIND = Answer(200, NGINX, PYTHON_OPEN)
TO_HTTPS = to("https://crm.example.com/socket.io/", 301)
CUT = ("cut", 30.0, 1, 5.0)


@pytest.mark.parametrize(
    ("found", "name", "text"),
    [
        (blocked(TO_HTTPS, target=parse_target(PAGE_URL, slash=False)), "id", "S-18"),
        # The redirect to https says which address to use.
        (blocked(TO_HTTPS, target=parse_target("http://localhost")), "fix", SYMPTOMS["S-16"].fix),
        (blocked(TO_HTTPS, target=parse_target("http://crm.example.com")), "fix", f"give clients {PAGE_URL}"),
        # A lifetime is told from an idle limit only by a busy connection.
        (held(CUT, ("cut", 30.5, 1, 0.5, None, None, 1.2)), "title", "WebSockets are ended at a fixed age"),
        (held(CUT, ("cut", 30.5, 1, 0.5, None, None, 6.0)), "title", SYMPTOMS["S-14"].title),
        (matrix(OPEN, Answer(502), Answer(502)), "fix", SYMPTOMS["S-11"].fix),
        (
            seen("https://h/x", joins=[Join("/x", "refused", message="Invalid namespace")]),
            "cause",
            SYMPTOMS["S-25"].cause,
        ),
        (seen(page=page(Baked("https://old.example", "/", None, "a.js", OPEN))), "severity", "warning"),
        (seen(page=page(Baked("https://old.example", "/", None, "a.js", REFUSED))), "severity", "error"),
        # A guessed origin is a warning only.
        (matrix(BAD_ORIGIN, WS_OPEN, REFUSED), "severity", "warning"),
        (matrix(BAD_ORIGIN, WS_OPEN, REFUSED, origin_given=True), "severity", "error"),
    ],
)
def test_what_the_only_finding_says(found: Observations, name: str, text: str) -> None:
    (finding,) = judge(found)
    assert getattr(finding, name) == text


def test_the_fix_names_the_proxy() -> None:
    fixes = [judge(matrix(first, LOST, LOST, polling=first))[0].fix for first in (BEHIND, OPEN)]
    assert "proxy_set_header Upgrade $http_upgrade" in fixes[0]
    assert "nginx: " not in fixes[1]


def test_errors_come_before_warnings_and_what_is_not_to_blame_says_nothing() -> None:
    # An untrusted certificate comes first, and the rest is still judged.
    tls = Tls("TLSv1.3", problem="expired")
    assert ids(blocked(nginx_page(502, "502"), tls=tls)) == ["S-02", "S-11"]
    found = judge(seen(tls=Tls("TLSv1.3", None, 3.0), sticky=[Stickiness(False, 8, 4)]))
    assert [(finding.id, finding.severity) for finding in found] == [("S-12", "error"), ("S-35", "warning")]
    assert ids(seen(sticky=[Stickiness(False, 8, 4)], upgrade=Upgrade("refused", REFUSED))) == ["S-12"]
    assert ids(seen(sticky=[Stickiness(False, 1, 0, (), guarded("rate_limited", 429))])) == []


def test_reached() -> None:
    assert reached(seen())
    assert not reached(blocked(Failure("timeout", "t"), polling_origin=None, preflight=None))
