from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import HandshakeRequest
from socketguard.diagnosis import handshake
from socketguard.diagnosis.handshake import Hint
from socketguard.findings import finding
from socketguard.text import neutralise

PAGE = "https://crm.example.com"


def asked(headers: dict[str, str] | None = None, **fields: Any) -> HandshakeRequest:
    absent = {name: fields.pop(name, None) for name in HandshakeRequest._fields if name != "headers"}
    absent["root_path"] = absent["root_path"] or ""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in (headers or {}).items()]
    return HandshakeRequest(**absent, **fields, headers=raw)


def says(hint: Hint, detail: str, part: str) -> str:
    assert hint.detail == detail
    assert part in hint.text
    assert neutralise(hint.text, 2000) == hint.text
    return hint.text


# Upgrades, versions, transports, sessions


@pytest.mark.parametrize(
    ("headers", "version", "detail", "part"),
    [
        ({}, "1.1", "upgrade_header_lost", "no Upgrade header arrived"),
        ({"connection": "upgrade"}, "1.1", "upgrade_header_lost", "for nginx: proxy_http_version 1.1"),
        ({"upgrade": "websocket"}, "1.1", "connection_header_lost", "no Connection: upgrade header"),
        ({"upgrade": "websocket", "connection": "close"}, "1.0", "connection_header_lost", "HTTP/1.0"),
        ({"upgrade": "h2c", "connection": "Upgrade"}, "1.1", "upgrade_header_lost", "no Upgrade header"),
        ({"x-forwarded-server": "a", "x-forwarded-host": "h"}, "1.1", "upgrade_header_lost", "upgrade=websocket"),
        (
            {"upgrade": "WebSocket", "connection": "keep-alive, Upgrade"},
            "1.1",
            "server_without_websocket",
            "uvicorn[standard]",
        ),
    ],
)
def test_who_lost_the_upgrade(headers: dict[str, str], version: str, detail: str, part: str) -> None:
    says(handshake.upgrade_missing(asked(headers, http_version=version)), detail, part)


@pytest.mark.parametrize(
    ("version", "detail", "part"),
    [
        ("2", "engineio_2", "one of Socket.IO 1;"),
        ("3", "engineio_3", "one of Socket.IO 2;"),
        (None, "engineio_missing", "health check"),
        ("5\n", "engineio_unknown", "5\\u000a;"),
    ],
)
def test_versions_that_are_not_spoken(version: str | None, detail: str, part: str) -> None:
    says(handshake.protocol_version(asked(version=version)), detail, part)


@pytest.mark.parametrize(
    ("transport", "part"),
    [
        ("webtransport", "no WebTransport"),
        ("WebSocket", "did the client mean 'websocket'?"),
        ("poling", "did the client mean 'polling'?"),
        ("x\u202e", "not 'x\\\\u202e'"),
    ],
)
def test_transports_that_do_not_exist(transport: str, part: str) -> None:
    says(handshake.transport_unknown(asked(transport=transport)), "transport_unknown", part)


@pytest.mark.parametrize(("given", "detail"), [(True, "transport_mismatch"), (False, "transport_missing")])
def test_a_websocket_must_say_so_in_its_query(given: bool, detail: str) -> None:
    says(handshake.transport_mismatch(asked(transport_given=given)), detail, "transport=websocket")


@pytest.mark.parametrize(
    ("issued_here", "uptime_s", "detail", "part"),
    [
        (True, 0.0, "session_ended", "a device that slept"),
        (None, 0.0, "session_gone", "don't tell which"),
        (False, 90.0, "session_elsewhere", "sticky.cookie=true"),
        (False, 5.4, "session_before_restart", "began to serve 5 s ago"),
    ],
)
def test_a_session_that_is_not_known(issued_here: bool, uptime_s: float, detail: str, part: str) -> None:
    behind_traefik = asked({"x_forwarded_server": "t", "x_real_ip": "192.0.2.9"}, http_version="1.1")
    text = says(handshake.session_unknown(behind_traefik, issued_here, uptime_s), detail, part)
    assert ("sticky" in text) is not issued_here


# Origins


def refused(origin: str = PAGE, allowed: Any = None, proto: str | None = None, **given: Any) -> Hint:
    fields = {"host": "crm.example.com", "scheme": "http", "http_version": "1.1"}
    fields |= {name: given.pop(name) for name in ("host", "forwarded_host", "scheme") if name in given}
    headers = given if proto is None else {**given, "x_forwarded_proto": proto}
    return handshake.origin_refused(asked(headers, origin=origin, **fields), allowed)


@pytest.mark.parametrize(
    ("hint", "detail", "part"),
    [
        (refused(), "scheme_lost", "proxy_set_header X-Forwarded-Proto"),
        (refused(x_forwarded_server="a", x_forwarded_host="b"), "scheme_lost", "RequestHeader set X-Forwarded-Proto"),
        (refused(host="app:8000", forwarded_host="crm.example.com"), "scheme_lost", "arrived as http"),
        (refused(proto="http"), "scheme_differs", "X-Forwarded-Proto: http"),
        (refused(proto="http", cf_ray="1"), "scheme_differs", "Full (strict)"),
        (
            refused("http://crm.example.com", scheme="https", proto="wss"),
            "scheme_differs",
            "as Traefik writes it for WebSockets",
        ),
        (refused(host="app:8000"), "host_rewritten", "Host arrived as 'app:8000'"),
        (refused(host="10.0.0.5"), "host_rewritten", "proxy_set_header Host $http_host"),
        (refused(host="[::1]:80"), "host_rewritten", "X-Forwarded-Host"),
        (refused(host="web.crm.svc"), "host_rewritten", "X-Forwarded-Host"),
        (refused(host="api.example.com"), "origin_foreign", "if a proxy rewrote it"),
        (refused(host="192.0.2.1.example"), "origin_foreign", "if a proxy rewrote it"),
        (refused(host="a.example", forwarded_host="b.example"), "origin_foreign", "from another origin"),
        (refused(host=None), "origin_foreign", "from another origin"),
        (refused("https://crm.example.com:8443"), "port_lost", "proxy_set_header Host $http_host"),
        (refused("http://localhost:8160", host="localhost:8101"), "port_differs", "if both are yours"),
        (refused("http://localhost", host="localhost:8101"), "port_differs", "asked 'localhost:8101'"),
        (refused("http://localhost", host="localhost:8101", x_real_ip="192.0.2.1"), "port_lost", "If a proxy lost"),
        (refused("http://localhost", host="localhost:8101", forwarded_host="a"), "port_lost", "If a proxy lost"),
        (refused("wss://crm.example.com"), "origin_of_websocket", "native clients"),
        (refused("ws://crm.example.com:80", allowed=[PAGE]), "origin_of_websocket", "'ws://crm.example.com:80'"),
        (refused("null"), "origin_opaque", "a sandboxed frame"),
        (refused(allowed=["wss://crm.example.com"]), "origin_listed_as_websocket", "Traefik"),
        (refused(allowed=["http://crm.example.com"]), "origin_listed_differently", "'http://crm.example.com'"),
        (refused(allowed=["https://www.crm.example.com"]), "origin_listed_differently", "have to be the same"),
        (refused(allowed="https://a.example"), "origin_foreign", "not listed"),
        (refused(allowed=["https://a.example", "ws://b.example"]), "origin_foreign", "not listed"),
    ],
)
def test_which_of_the_causes_an_origin_was_refused_for(hint: Hint, detail: str, part: str) -> None:
    assert "allowed_origins=[" in says(hint, detail, part)


@given(
    st.text(max_size=60),
    st.none() | st.text(max_size=60),
    st.none() | st.text(max_size=60),
    st.none() | st.lists(st.text(max_size=60)),
    st.text(max_size=60),
)
def test_any_origin_gives_a_printable_hint(
    origin: str, host: str | None, forwarded_host: str | None, allowed: list[str] | None, proto: str
) -> None:
    proto = proto.encode("utf-8", "replace").decode()
    hint = refused(origin, allowed, proto, host=host, forwarded_host=forwarded_host)
    says(hint, hint.detail, "")


# Paths


@pytest.mark.parametrize(
    ("path", "paths", "detail", "part"),
    [
        ("/socket.io/", ["/api/socket.io/"], "prefix_stripped", "took '/api' away"),
        ("/api/socket.io", ["/socket.io/"], "prefix_added", "take '/api' away"),
        ("/ws/", ["/socket.io/"], "path_differs", "'/ws/'"),
        ("/", ["/socket.io/"], "prefix_stripped", "a proxy took '/socket.io' away"),
        ("/x", ["/"], "path_differs", "'/x'"),
        ("/socket.io", ["/socket.io/"], "path_differs", "'/socket.io'"),
        ("/a\x1b", ["/b/", "/c/"], "path_differs", "'/b/' or '/c/'"),
        ("/a", [], "path_differs", "unknown to the guard"),
        ("//socket.io/", ["/socket.io/"], "slash_doubled", "both or neither"),
        ("/api//socket.io", ["/ws/", "/api/socket.io/"], "slash_doubled", "proxy doubles a slash"),
        ("//", ["/socket.io/"], "prefix_stripped", "took '/socket.io' away"),
        ("/api/v2/socket.io", ["/socket.io/"], "prefix_added", "take '/api/v2' away"),
    ],
)
def test_wrong_paths(path: str, paths: list[str], detail: str, part: str) -> None:
    says(handshake.wrong_path(asked(path=path), paths, {}), detail, part)


@pytest.mark.parametrize(
    ("path", "paths", "detail"),
    [
        ("/ws/socket.io/", [], "mount_lost"),
        ("/ws/socket.io", ["/socket.io/"], "mount_lost"),
        ("/elsewhere/", [], "mount_lost"),
        ("/elsewhere/", ["/socket.io/"], "path_differs"),
    ],
)
def test_a_mount_that_nothing_reaches_is_named(path: str, paths: list[str], detail: str) -> None:
    lost = finding("SG021", prefix="/ws", path="socket.io", full_path="/ws/socket.io", client_path="/ws/socket.io/")
    hint = handshake.wrong_path(asked(path=path), paths, {"/ws/socket.io/": lost})
    assert hint.detail == detail
    assert ("SG021" in hint.text) == (detail == "mount_lost")


@pytest.mark.parametrize("root_path", ["/api", "/api/", "api"])
def test_a_path_with_the_root_path_of_the_server_before_it(root_path: str) -> None:
    request = asked(path="/api/socket.io/", root_path=root_path)
    part = "socketio_path='api/socket.io'"
    says(handshake.wrong_path(request, ["/other/", "/socket.io/"], {}), "root_path", part)


@given(st.text(max_size=300), st.lists(st.just("/socket.io/") | st.just("/")))
def test_any_path_gives_a_printable_hint(path: str, paths: list[str]) -> None:
    hint = handshake.wrong_path(asked(path=path), paths, {})
    says(hint, hint.detail, "")
