from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import HandshakeRequest
from socketguard.errors import HandshakeRefusal, Retry
from socketguard.proxies.trusted import TrustedProxies
from socketguard.server.handshake import cors_headers, examine, normalised_headers, origin_is_allowed, read, wrong_path
from socketguard.server.packets import MAX_PARTS, body_problem, count_parts, packet_problem
from socketguard.text import neutralise

NOBODY = TrustedProxies()
PAGE = "https://crm.example.com"


def scope(
    query: str | bytes = "EIO=4&transport=polling",
    *,
    kind: str = "http",
    headers: list[tuple[str, str]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers or []]
    return {
        "type": kind,
        "method": "GET",
        "path": "/socket.io/",
        "query_string": query if isinstance(query, bytes) else query.encode(),
        "headers": raw,
        "client": ("192.0.2.1", 5),
        **more,
    }


def request(query: str | bytes = "EIO=4&transport=polling", **options: Any) -> HandshakeRequest:
    return read(scope(query, **options), options.pop("trusted", NOBODY))


# Reading


def test_what_is_read_from_a_request() -> None:
    headers = [
        ("host", "crm.example.com"),
        ("origin", PAGE),
        ("x-forwarded-host", "a.example, b.example"),
        ("x-forwarded-proto", "WSS, http"),
        ("user-agent", "agent\r\n"),
        ("upgrade", "websocket"),
        ("content-length", "5"),
        ("x-other", "1"),
    ]
    found = request("EIO=4&transport=websocket&sid=abc&t=1", kind="websocket", headers=headers, http_version="1.1")
    assert found == HandshakeRequest(
        websocket=True,
        method="GET",
        path="/socket.io/",
        sid="abc",
        transport="websocket",
        version="4",
        jsonp=False,
        origin=PAGE,
        host="crm.example.com",
        forwarded_host="a.example",
        scheme="https",
        proxied=True,
        upgrade="websocket",
        content_length="5",
        client_address="192.0.2.1",
        user_agent="agent\\u000d\\u000a",
        transport_given=True,
        headers=[(name.encode(), value.encode()) for name, value in headers],
        http_version="1.1",
    )


def test_what_is_missing_is_none() -> None:
    found = read({"type": "http", "method": "POST", "path": "/", "headers": []}, NOBODY)
    assert (found.sid, found.version, found.transport, found.jsonp) == (None, None, "polling", False)
    assert (found.transport_given, found.headers, found.http_version) == (False, [], None)
    assert (found.origin, found.host, found.forwarded_host, found.upgrade) == (None, None, None, None)
    assert (found.client_address, found.user_agent, found.scheme) == (None, None, "http")


@pytest.mark.parametrize(
    ("query", "version", "sid", "jsonp"),
    [
        ("EIO=4&EIO=4", None, None, False),
        ("EIO=&sid=", None, None, False),
        ("sid=a&sid=b&EIO=3", "3", "a", False),
        ("j=0", None, None, True),
        (b"\xff\xfe", None, None, False),
    ],
)
def test_odd_queries(query: str | bytes, version: str | None, sid: str | None, jsonp: bool) -> None:
    found = request(query)
    assert (found.version, found.sid, found.jsonp) == (version, sid, jsonp)


def test_repeated_headers_are_joined_as_python_engineio_does() -> None:
    found = request(
        headers=[("origin", "https://a"), ("origin", "https://b"), ("content-length", "5"), ("content-length", "6")]
    )
    assert (found.origin, found.content_length) == ("https://a,https://b", "5,6")


@pytest.mark.parametrize(
    ("forwarded", "own", "expected"),
    [
        (None, "http", "http"),
        (None, "https", "https"),
        (None, "ws", "http"),
        (None, "wss", "https"),
        ("https", "http", "https"),
        ("wss", "ws", "https"),
        ("ws", "wss", "http"),
        ("HTTPS , http", "http", "https"),
        ("gopher", "http", "gopher"),
    ],
)
def test_the_scheme_as_the_browser_sees_it(forwarded: str | None, own: str, expected: str) -> None:
    headers = [] if forwarded is None else [("x-forwarded-proto", forwarded)]
    assert request(headers=headers, scheme=own).scheme == expected


header_pairs = st.lists(
    st.tuples(
        st.sampled_from(
            [b"origin", b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"user-agent", b"x"]
        )
        | st.binary(max_size=8),
        st.binary(max_size=40),
    ),
    max_size=8,
)


@given(
    query=st.binary(max_size=80),
    headers=header_pairs,
    kind=st.sampled_from(["http", "websocket"]),
    client=st.none() | st.tuples(st.text(max_size=20), st.integers()),
    known=st.booleans(),
    issued=st.sampled_from(["here", "elsewhere", "unknown"]),
    allowed=st.none() | st.just("*") | st.lists(st.text(max_size=20)),
)
def test_nothing_that_a_client_sends_raises(
    query: bytes, headers: list[tuple[bytes, bytes]], kind: str, client: Any, known: bool, issued: Any, allowed: Any
) -> None:
    raw = {**scope(query, kind=kind, client=client), "headers": headers}
    found = read(raw, TrustedProxies(["0.0.0.0/0", "::/0"]))
    refusal = examine(
        found,
        transports=["polling", "websocket"],
        session_known=known,
        upgraded=False,
        allowed_origins=allowed,
        session_issued=issued,
        uptime_s=5.0,
    )
    for one in filter(None, [refusal, wrong_path(found, ["/socket.io/"])]):
        assert one.status >= 400
        assert one.reason
        assert neutralise(one.hint, 2000) == one.hint
    for name, value in [*normalised_headers(headers, found), *cors_headers(found, allowed=True, credentials=True)]:
        assert isinstance(name, bytes)
        assert isinstance(value, bytes)


# Headers that are handed on


def test_the_normalised_scheme_replaces_what_a_proxy_wrote() -> None:
    headers = [(b"x-forwarded-proto", b"wss"), (b"host", b"h"), (b"x-forwarded-proto", b"http")]
    found = read({**scope(), "headers": headers}, NOBODY)
    assert normalised_headers(headers, found) == [(b"host", b"h"), (b"x-forwarded-proto", b"https")]


def test_the_scheme_of_the_scope_is_handed_on_for_tls_only() -> None:
    assert normalised_headers([], request(scheme="https")) == [(b"x-forwarded-proto", b"https")]
    assert normalised_headers([], request(scheme="http")) == []


def test_a_websocket_over_http2_gets_the_upgrade_that_python_engineio_asks_for() -> None:
    found = request("EIO=4&transport=websocket", kind="websocket")
    assert dict(normalised_headers([], found)) == {b"upgrade": b"websocket", b"connection": b"upgrade"}
    found = request("EIO=4&transport=websocket", kind="websocket", headers=[("upgrade", "websocket")])
    assert normalised_headers([(b"upgrade", b"websocket")], found) == [(b"upgrade", b"websocket")]


# Origins


@pytest.mark.parametrize(
    ("origin", "headers", "allowed", "expected"),
    [
        (None, [], None, True),
        (None, [], [PAGE], True),
        (PAGE, [], "*", True),
        (PAGE, [], [PAGE], True),
        (PAGE, [], ["https://other.example"], False),
        (PAGE, [("host", "crm.example.com")], None, False),
        (PAGE, [("host", "crm.example.com"), ("x-forwarded-proto", "wss")], None, True),
        (
            PAGE,
            [("host", "inner"), ("x-forwarded-host", "crm.example.com"), ("x-forwarded-proto", "https")],
            None,
            True,
        ),
        (PAGE, [], None, False),
        ("null", [("host", "null")], None, False),
    ],
)
def test_which_origins_may_connect(origin: str | None, headers: list[Any], allowed: Any, expected: bool) -> None:
    found = request(headers=[*headers, *([] if origin is None else [("origin", origin)])])
    assert origin_is_allowed(found, allowed) is expected


@pytest.mark.parametrize(
    ("headers", "allowed", "parts"),
    [
        ([("host", "api.example.com")], None, [f"allowed_origins={[PAGE]!r}", "X-Forwarded-Host", "'api.example.com'"]),
        ([("host", "a"), ("x-forwarded-host", "b")], None, [f"allowed_origins={[PAGE]!r}"]),
        ([], None, [f"allowed_origins={[PAGE]!r}"]),
        ([("host", "crm.example.com")], None, ["X-Forwarded-Proto", "the page is on https", "arrived as http"]),
        ([], ["https://a.example"], [f"allowed_origins={['https://a.example', PAGE]!r}"]),
    ],
)
def test_the_hint_for_a_refused_origin_can_be_pasted(headers: list[Any], allowed: Any, parts: list[str]) -> None:
    found = request(headers=[("origin", PAGE), *headers])
    refusal = examine(found, transports=["polling"], session_known=False, upgraded=False, allowed_origins=allowed)
    assert refusal is not None
    assert (refusal.reason, refusal.status, refusal.retry) == ("origin_not_allowed", 403, Retry.NEVER)
    for part in parts:
        assert part in refusal.hint


@pytest.mark.parametrize(
    ("origin", "allowed", "credentials", "expected"),
    [
        (None, True, True, {}),
        (PAGE, False, True, {}),
        (PAGE, True, False, {"access-control-allow-origin": PAGE, "vary": "Origin"}),
        (
            PAGE,
            True,
            True,
            {"access-control-allow-origin": PAGE, "vary": "Origin", "access-control-allow-credentials": "true"},
        ),
    ],
)
def test_cors_headers(origin: str | None, allowed: bool, credentials: bool, expected: dict[str, str]) -> None:
    found = request(headers=[] if origin is None else [("origin", origin)])
    headers = cors_headers(found, allowed=allowed, credentials=credentials)
    assert {name.decode(): value.decode() for name, value in headers} == expected


# Refusing


@pytest.mark.parametrize(
    ("query", "options", "known", "reason"),
    [
        ("EIO=4&transport=polling", {}, False, None),
        ("EIO=4", {}, False, None),
        ("EIO=4&transport=polling&sid=a", {}, True, None),
        ("transport=polling&sid=a", {}, True, None),
        ("EIO=4&transport=websocket", {"kind": "websocket"}, False, None),
        ("EIO=4&transport=polling", {"method": "OPTIONS"}, False, None),
        ("", {"method": "OPTIONS"}, False, None),
        ("EIO=4&transport=polling&sid=a", {"method": "POST"}, True, None),
        ("EIO=4", {"method": "PUT"}, False, "method_not_allowed"),
        ("EIO=4&j=1", {}, False, "jsonp_not_supported"),
        ("EIO=4&transport=x", {}, False, "transport_unknown"),
        ("EIO=4&transport=webtransport", {}, False, "transport_unknown"),
        ("EIO=4&transport=websocket", {}, False, "upgrade_missing"),
        ("EIO=4&transport=polling", {"kind": "websocket"}, False, "transport_mismatch"),
        ("EIO=3&transport=polling", {}, False, "protocol_version"),
        ("", {}, False, "protocol_version"),
        ("EIO=4", {"method": "POST"}, False, "session_missing"),
        ("EIO=4&sid=a", {}, False, "session_unknown"),
    ],
)
def test_what_is_wrong_with_a_request(query: str, options: dict[str, Any], known: bool, reason: str | None) -> None:
    refusal = examine(
        request(query, **options),
        transports=["polling", "websocket"],
        session_known=known,
        upgraded=False,
        allowed_origins=None,
    )
    assert (None if refusal is None else refusal.reason) == reason
    if refusal is not None:
        assert refusal.message
        assert refusal.hint
        assert refusal.status in (400, 405)


@pytest.mark.parametrize(
    ("query", "options", "known", "detail", "part"),
    [
        ("EIO=3&transport=polling", {}, False, "engineio_3", "Socket.IO 2"),
        ("transport=polling", {}, False, "engineio_missing", "EIO=4"),
        ("EIO=4&transport=websockets", {}, False, "transport_unknown", "did the client mean 'websocket'?"),
        ("EIO=4&transport=polling", {"kind": "websocket"}, False, "transport_mismatch", "transport=websocket"),
        ("EIO=4", {"kind": "websocket"}, False, "transport_missing", "plain WebSocket client"),
        (
            "EIO=4&transport=websocket",
            {"headers": [("x-forwarded-server", "t"), ("x-real-ip", "192.0.2.9")]},
            False,
            "upgrade_header_lost",
            "traefik: ",
        ),
        (
            "EIO=4&transport=websocket",
            {"http_version": "1.0", "headers": [("upgrade", "websocket")]},
            False,
            "connection_header_lost",
            "nginx: proxy_http_version 1.1",
        ),
        ("EIO=4&sid=a", {}, False, "session_unknown", "nginx: upstream"),
        ("EIO=4&sid=a", {"method": "POST"}, True, "post_after_upgrade", "a POST for a session"),
        ("EIO=4&sid=a", {}, True, None, "a GET for a session"),
        ("EIO=4&transport=websocket&sid=a", {"kind": "websocket"}, True, None, "a WebSocket for a session"),
    ],
)
def test_the_cause_of_a_refusal_is_told(
    query: str, options: dict[str, Any], known: bool, detail: str | None, part: str
) -> None:
    refusal = examine(
        request(query, **options),
        transports=["polling", "websocket"],
        session_known=known,
        upgraded=known,
        allowed_origins=None,
    )
    assert refusal is not None
    assert refusal.detail == detail
    assert part in refusal.hint


@pytest.mark.parametrize(
    ("issued", "uptime_s", "detail"),
    [
        ("here", 5.0, "session_ended"),
        ("elsewhere", None, "session_elsewhere"),
        ("elsewhere", 5.0, "session_before_restart"),
        ("elsewhere", 500.0, "session_elsewhere"),
        ("unknown", 5.0, "session_unknown"),
        (lambda sid: sid == "a", 5.0, "session_ended"),
        (lambda sid: sid != "a", None, "session_elsewhere"),
    ],
)
def test_what_became_of_an_unknown_session(issued: Any, uptime_s: float | None, detail: str) -> None:
    refusal = examine(
        request("EIO=4&sid=a"),
        transports=["polling"],
        session_known=False,
        upgraded=False,
        allowed_origins=None,
        session_issued=issued,
        uptime_s=uptime_s,
    )
    assert refusal is not None
    assert (refusal.reason, refusal.message, refusal.retry) == ("session_unknown", "Session ID unknown", Retry.NOW)
    assert refusal.detail == detail


def test_whether_a_session_was_issued_is_asked_for_unknown_sessions_only() -> None:
    def issued(sid: str) -> bool:
        raise AssertionError(sid)

    for query, known in (("EIO=4", False), ("EIO=4&sid=a", True)):
        assert (
            examine(
                request(query),
                transports=["polling"],
                session_known=known,
                upgraded=False,
                allowed_origins=None,
                session_issued=issued,
            )
            is None
        )


def test_a_wrong_path_is_refused_with_the_right_one() -> None:
    refusal = wrong_path(request("EIO=4", path="/api/socket.io/"), ["/socket.io/"])
    assert (refusal.reason, refusal.status, refusal.detail) == ("wrong_path", 404, "prefix_added")
    assert "'/socket.io/'" in refusal.hint


def test_a_transport_that_is_switched_off() -> None:
    refusal = examine(request(), transports=["websocket"], session_known=False, upgraded=False, allowed_origins=None)
    assert refusal is not None
    assert refusal.reason == "transport_disabled"
    assert "['websocket']" in refusal.hint


# Bodies and packets


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"3", 1),
        (b"40/messages,{}", 1),
        (b"3\x1e42[]\x1e1", 3),
        (b"bQUI=", "body_malformed"),
        ("4٠".encode(), "body_malformed"),
        ('42["é"]'.encode(), 1),
        (b"\xff", "body_malformed"),
        (b"", "body_malformed"),
        (b"3\x1e", "body_malformed"),
        (b"0", "body_malformed"),
        (b"2", "body_malformed"),
        (b"6", "body_malformed"),
        (b"7", "body_malformed"),
        (b"bQUJ", "body_malformed"),
        (b"b?", "body_malformed"),
        (b"\x1e".join([b"3"] * 16), 16),
        (b"\x1e".join([b"3"] * 17), "too_many_packets"),
        (b"4" * 101, "body_too_large"),
    ],
)
def test_bodies(body: bytes, expected: int | str) -> None:
    found = body_problem(body, limit=100, strict_text=True, stranger=True)
    assert (found.reason if isinstance(found, HandshakeRefusal) else found) == expected


@given(st.binary(max_size=200), st.booleans())
def test_any_body_is_counted_or_refused(body: bytes, stranger: bool) -> None:
    found = body_problem(body, limit=150, strict_text=True, stranger=stranger)
    if isinstance(found, HandshakeRefusal):
        assert found.status in (400, 413)
    else:
        assert 1 <= found <= 16


@pytest.mark.parametrize("packet", ["٠", "²", "7", "9", "x", "-", " 4", "\u06f4", "\x00", ""])
def test_packet_types_are_ascii_digits(packet: str) -> None:
    assert packet_problem(packet, strict_text=True)
    assert packet_problem(packet, strict_text=False)


@pytest.mark.parametrize("message", ["", "٠", "7", "{}", '"0"', "[]", "null", "x", "²", "-1"])
def test_a_text_message_is_a_socket_io_packet_of_the_default_serializer(message: str) -> None:
    assert packet_problem("4" + message, strict_text=True)
    assert packet_problem("4" + message, strict_text=False) is None


@pytest.mark.parametrize("packet", ["0", "1", "2probe", "3", "40", "41/a,", "42[]", "43", "44", "45", "46", "5", "6"])
def test_packets_of_known_types_pass_over_websocket(packet: str) -> None:
    assert packet_problem(packet, strict_text=True) is None


@pytest.mark.parametrize("packet", ["0{}", "1x", "2x", "3{}", "5x", "6[]"])
def test_packets_of_types_without_data_have_none(packet: str) -> None:
    assert packet_problem(packet, strict_text=True)


@pytest.mark.parametrize(
    ("packet", "strict_text", "parts"),
    [
        ("40", True, 0),
        ('40/a,{"token":"x","b":[1,{"c":2}]}', True, 6),
        ("40" + "x" * 9000, True, 0),
        (b"x", True, None),
        (b"", True, None),
        (b"x" * 9000, False, 0),
        (b"\x91" * 513, False, 513),
        ("40[[", False, 2),
    ],
)
def test_the_values_of_a_strangers_packet_are_counted(
    packet: str | bytes, strict_text: bool, parts: int | None
) -> None:
    assert count_parts(packet, strict_text=strict_text) == parts


@pytest.mark.parametrize(("strict_text", "stranger", "expected"), [(True, False, 1), (False, True, 1)])
def test_binary_packets_over_polling(strict_text: bool, stranger: bool, expected: int) -> None:
    for body in (b"bQUI=", b"b"):
        assert body_problem(body, limit=100, strict_text=strict_text, stranger=stranger) == expected


@pytest.mark.parametrize("stranger", [True, False])
def test_the_values_in_a_strangers_body_are_counted(stranger: bool) -> None:
    half = b"40" + b"[" * (MAX_PARTS // 2 + 1)
    for body in (b"40" + b"[" * 513, b"b" + base64.b64encode(b"\x91" * 513), half + b"\x1e" + half):
        found = body_problem(body, limit=10_000, strict_text=False, stranger=stranger)
        assert isinstance(found, HandshakeRefusal) is stranger
