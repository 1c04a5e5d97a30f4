"""What the doctor reads: addresses, answers, proxies, tokens, pages."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.cli.doctor.observations import (
    Answer,
    Baked,
    Failure,
    Meaning,
    Observations,
    PageSeen,
    Reply,
    Server,
    meaning,
    open_packet,
    packets,
    readable,
    server_of,
)
from socketguard.cli.doctor.page import MAX_BAKED, endpoint, find_baked, read_page, scripts_of
from socketguard.cli.doctor.rules import at_risk
from socketguard.cli.doctor.target import parse_target, same_origin_url, web_origin
from socketguard.cli.token import look
from socketguard.errors import ConfigurationError

PYTHON_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingTimeout":20000,"pingInterval":25000,"maxPayload":1000000}'
NODE_OPEN = '0{"sid":"s1","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'


UNSUPPORTED = "unsupported version of the Socket.IO or Engine.IO protocols"

# --- the address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown", "namespace", "notes"),
    [
        ("https://crm.example.com", "https://crm.example.com/socket.io/", "/", 0),
        ("wss://crm.example.com:8443/", "https://crm.example.com:8443/socket.io/", "/", 0),
        ("ws://crm.example.com:80", "http://crm.example.com/socket.io/", "/", 0),
        ("crm.example.com", "https://crm.example.com/socket.io/", "/", 1),
        ("localhost:5000", "http://localhost:5000/socket.io/", "/", 1),
        ("[::1]:5000", "http://[::1]:5000/socket.io/", "/", 1),
        ("https://h/messages", "https://h/socket.io/", "/messages", 1),
        ("https://h/socket.io/?EIO=4&transport=polling", "https://h/socket.io/", "/", 1),
        ("https://h/api/socket.io", "https://h/api/socket.io/", "/", 1),
    ],
)
def test_the_url_is_read_as_a_client_reads_it(url: str, shown: str, namespace: str, notes: int) -> None:
    target = parse_target(url)
    assert (target.shown, target.namespace, len(target.notes)) == (shown, namespace, notes)


def test_the_path_that_is_given_counts() -> None:
    with pytest.raises(ConfigurationError, match="--path"):
        parse_target("https://h", path="/x?y")
    target = parse_target("https://h/socket.io/", path="ws/socket.io/")
    assert (target.path, target.namespace) == ("/ws/socket.io", "/")
    assert 'path: "ws/socket.io/"' in target.notes[0]
    assert "path" not in parse_target("https://h/socket.io/").notes[0]


def test_urls_of_requests() -> None:
    target = parse_target("https://h/?tenant=a+b&EIO=3&sid=stolen")
    assert target.url("polling") == "https://h/socket.io/?tenant=a+b&EIO=4&transport=polling"
    assert target.url("websocket", sid="x", websocket=True).startswith("wss://h/socket.io/?")
    assert target.url("websocket", sid="x").endswith("&transport=websocket&sid=x")
    assert "tenant" not in target.shown
    assert parse_target("http://h", slash=False).url("polling") == "http://h/socket.io?EIO=4&transport=polling"


@pytest.mark.parametrize(
    "url",
    ["ftp://h", "https://", "https://u:p@h", "https://h:99999", "https://h:0", "http://h /x", "http://[::1", "[::1"],
)
def test_no_such_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_target(url)
    assert caught.value.option == "URL"
    assert "u:p" not in str(caught.value)


def test_origins_and_loopback() -> None:
    assert web_origin("wss://H.example:443/x", option="--origin") == "https://h.example"
    assert same_origin_url("ws://h:80/x", "http://h")
    assert not same_origin_url("ws://other", "http://h")
    assert not same_origin_url("mailto:x", "http://h")
    local = ("http://localhost", "http://127.0.0.9", "http://[::1]", "http://a.localhost")
    assert all(parse_target(url).loopback for url in local)
    assert not parse_target("http://10.0.0.1").loopback


@given(st.text())
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):  # and nothing else
        assert parse_target(text).host


# --- the answers -----------------------------------------------------------------------------------------------------


def guard(code: str, status: int = 400) -> Answer:
    return Answer(status, (), json.dumps({"code": code, "message": "m", "retry": "never", "ref": "r"}))


@pytest.mark.parametrize(
    ("reply", "expected", "server"),
    [
        (Answer(200, (), PYTHON_OPEN), Meaning.OPEN, Server.PYTHON),
        (Answer(101, (), NODE_OPEN), Meaning.OPEN, Server.NODE),
        (Answer(200, (), '0{"sid":"x"}\x1e40'), Meaning.OPEN, None),
        (Answer(200, (), '96:0{"sid":"x"}2:40'), Meaning.OLD_SERVER, None),
        (Answer(200, (), "<html>"), Meaning.OTHER, None),
        (Answer(200, (), "0{]"), Meaning.OTHER, None),
        (Answer(200, (), '0{"sid":1}'), Meaning.OTHER, None),
        (Answer(101), Meaning.OTHER, None),
        (Answer(400, (), '{"code":0,"message":"Transport unknown"}'), Meaning.TRANSPORT_OFF, Server.NODE),
        (Answer(400, (), '{"code":1,"message":"Session ID unknown"}'), Meaning.SESSION_UNKNOWN, Server.NODE),
        (Answer(400, (), '{"code":3,"message":"Bad request"}'), Meaning.UPGRADE_LOST, Server.NODE),
        (Answer(403, (), '{"code":4,"message":"Forbidden"}'), Meaning.FORBIDDEN, Server.NODE),
        (Answer(400, (), '{"code":5,"message":"Unsupported protocol version"}'), Meaning.VERSION, Server.NODE),
        (Answer(400, (), '{"code":99,"message":"?"}'), Meaning.OTHER, None),
        (Answer(400, (), "Session ID unknown"), Meaning.SESSION_UNKNOWN, Server.NODE),
        (Answer(404, (), "Forbidden"), Meaning.OTHER, None),
        (Answer(400, (), '"Invalid session abc"'), Meaning.SESSION_UNKNOWN, Server.PYTHON),
        (Answer(400, (), "\"'Session is disconnected' abc\""), Meaning.SESSION_UNKNOWN, Server.PYTHON),
        (Answer(400, (), '"Invalid transport"'), Meaning.TRANSPORT_OFF, Server.PYTHON),
        (Answer(400, (), '"Invalid websocket upgrade"'), Meaning.UPGRADE_LOST, Server.PYTHON),
        (Answer(400, (), '"https://x is not an accepted origin."'), Meaning.ORIGIN, Server.PYTHON),
        (Answer(400, (), '"Bad Request"'), Meaning.BAD_REQUEST, Server.PYTHON),
        (Answer(400, (), f'"The client is using an {UNSUPPORTED}"'), Meaning.VERSION, Server.PYTHON),
        (Answer(400, (), '"something else"'), Meaning.OTHER, None),
        (Answer(400, (), "[1]"), Meaning.OTHER, None),
        (Answer(400, (), "[" * 100_000), Meaning.OTHER, None),
        (Answer(400, (), '{"error":"no"}'), Meaning.OTHER, None),
        (guard("origin_not_allowed", 403), Meaning.ORIGIN, Server.SOCKETGUARD),
        (guard("wrong_path", 404), Meaning.WRONG_PATH, Server.SOCKETGUARD),
        (guard("draining", 503), Meaning.BUSY, Server.SOCKETGUARD),
        (guard("something_new"), Meaning.BAD_REQUEST, Server.SOCKETGUARD),
        (Failure("timeout", ""), Meaning.OTHER, None),
        (None, Meaning.OTHER, None),
    ],
)
def test_what_an_answer_means(reply: Reply | None, expected: Meaning, server: Server | None) -> None:
    assert meaning(reply) is expected
    assert server_of(reply) is server


def test_packets_and_readable_bodies() -> None:
    assert packets("2\x1e40") == ["2", "40"]
    assert packets("") == []
    assert open_packet(Answer(200, (), PYTHON_OPEN + "\x1e40")) == json.loads(PYTHON_OPEN[1:])
    assert readable("<html>\n<h1 class=x>502  Bad</h1><!-- x --></html>") == "502 Bad"
    assert len(readable("x" * 5000)) == 200


@given(st.integers(100, 599), st.text())
def test_no_body_breaks_the_reading(status: int, body: str) -> None:
    reply = Answer(status, (), body)
    assert meaning(reply) in Meaning
    if server_of(reply) is not None:
        assert meaning(reply) is not Meaning.OTHER


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_the_proxies_of_all_answers_each_once() -> None:
    nginx = Answer(200, (("server", "nginx/1.22.1"),))
    seen = Observations(parse_target("https://h"), polling=nginx, preflight=nginx, resent=Answer(522, (), "x"))
    assert seen.proxies() == {"nginx": "server: nginx/1.22.1", "cloudflare": "the status 522"}
    seen = Observations(parse_target("https://h"), polling=Answer(200, (("server", "uvicorn"),), PYTHON_OPEN))
    assert seen.proxies() == {}


def test_the_heartbeat_against_the_proxies() -> None:
    for interval, proxy in ((25, "nginx"), (50, "nginx"), (75, "traefik"), (75, "istio"), (75_000, "nginx")):
        assert at_risk(interval, 20, [proxy]) == []
    (text,) = at_risk(75, 20, ["nginx"])
    assert "proxy_read_timeout of nginx (60 s)" in text


# --- tokens ----------------------------------------------------------------------------------------------------------


def token(claims: Any, header: Any = None) -> str:
    parts = [header or {"alg": "HS256"}, claims]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "c2lnbmF0dXJl"])


@pytest.mark.parametrize(
    ("text", "words", "problem"),
    [
        (token({"exp": 1600, "iss": "i", "aud": ["a"]}), 'algorithm "HS256", iss "i", aud ["a"], expires in 10', ""),
        (token({"exp": 820}), "expired 3 minutes ago", "it expired 3 minutes ago"),
        (token({"exp": 1000 - 7200 * 2}), "expired 4 hours ago", "it expired 4 hours ago"),
        (token({"exp": 1000 - 86_400 * 3}), "expired 3 days ago", "it expired 3 days ago"),
        (token({"exp": 1000}), "expired 0 seconds ago", "it expired 0 seconds ago"),
        (token({}), "no exp", ""),
        (token({"exp": True}), "no exp", ""),
        (token({"exp": 2000, "nbf": 1060}), "expires in", "it is not valid before 60 seconds from now (nbf)"),
        ("Bearer x", "spaces", "a token is the bare text, without Bearer, spaces and quotes"),
        ("a.b", "2 parts", "it is no JWT"),
        ("a.b.c", "can't be read", "it is no JWT"),
        (token([1]), "can't be read", "it is no JWT"),
    ],
)
def test_a_token_in_words(text: str, words: str, problem: str) -> None:
    found, wrong = look(text, 1000.0)
    assert words in found
    assert wrong == problem
    assert "c2lnbmF0dXJl" not in found


@given(st.text() | st.binary().map(lambda data: f"e30.{base64.urlsafe_b64encode(data).decode()}.x"))
def test_any_text_can_be_looked_at(text: str) -> None:
    words, _ = look(text, 0.0)
    assert words


# --- pages -----------------------------------------------------------------------------------------------------------

PAGE = "https://crm.example.com/app"


def test_the_scripts_of_a_page() -> None:
    page = """<base href="/static/"><script src="a.js#x"></script><script>inline</script><script src="a.js"></script>
    <link rel="modulepreload" href="/b.mjs?v=1"><link rel="preload" href="c.css"><link rel="stylesheet" href="d.js">
    <script src="https://cdn.example.net/e.js"></script><script src="http://[bad/f.js"></script><base href="/no/">"""
    assert scripts_of(page, PAGE) == [
        "https://crm.example.com/static/a.js",
        "https://crm.example.com/b.mjs?v=1",
        "https://cdn.example.net/e.js",
    ]


@pytest.mark.parametrize(
    ("script", "url", "namespace", "path"),
    [
        ('const s = io("https://api.example.com/scheduler")', "https://api.example.com/scheduler", "/scheduler", None),
        ("(0,r.io)('https://a.example',{auth:t,path:\"/ws/socket.io\"})", "https://a.example", "/", "/ws/socket.io"),
        ('(0,n.ZP)("http://localhost:5000")', "http://localhost:5000", "/", None),
        ('let u="wss://a.example/socket.io/?x=1"', "wss://a.example/socket.io/", "/", None),
        ('let u="wss://a.example/api/socket.io"', "wss://a.example/api/socket.io", "/", "/api/socket.io"),
        ('NEXT_PUBLIC_WS_URL:"https://old.example",path:"/x"', "https://old.example", "/", None),
        ('io("/messages")', "https://crm.example.com/messages", "/messages", None),
    ],
)
def test_addresses_in_scripts(script: str, url: str, namespace: str, path: str | None) -> None:
    (found,) = find_baked(script, "app.js", PAGE)
    assert found == Baked(url, namespace, path, "app.js")


def test_no_addresses_where_there_are_none() -> None:
    script = 'fetch("https://api.example.com/x"); studio("https://x.example"); let u="wss://u:p@h"; let v="wss://:0"'
    assert find_baked(script, "app.js", PAGE) == []
    many = "".join(f'io("https://h{number}.example");' for number in range(100))
    assert len(find_baked(many, "app.js", PAGE)) == MAX_BAKED
    assert endpoint(Baked("wss://a.example/x", "/x", "/ws", "s")).shown == "https://a.example/ws/"


class Web:
    """What answers at which address; an exception is raised."""

    def __init__(self, sites: dict[str, Any]) -> None:
        self.sites = sites
        self.asked: list[str] = []

    async def request(self, url: str, *, limit: int) -> Reply:
        self.asked.append(url)
        found = self.sites.get(url, Failure("dns", "unknown"))
        if isinstance(found, Exception):
            raise found
        return found


async def read(sites: dict[str, Any], url: str = PAGE) -> tuple[PageSeen, list[str]]:
    web = Web(sites)
    return await read_page(url, parse_target("https://crm.example.com"), web), web.asked  # type: ignore[arg-type]


async def test_a_page_is_read_with_its_scripts() -> None:
    html = '<script src="/a.js"></script><script src="/b.js"></script><script src="//cdn/x.js">'
    hosts = ("crm.example.com/m", "old.example", "b.example", "c.example", "d.example")
    script = ";".join(f'io("https://{host}")' for host in hosts)
    page, asked = await read({PAGE: Answer(200, (), html), "https://crm.example.com/a.js": Answer(200, (), script)})
    assert (page.scripts, page.left_out) == (1, 2)
    replies = [(item.url, item.source, item.reply) for item in page.baked]
    assert replies[0] == ("https://crm.example.com/m", "a.js", None)
    assert [reply for _, _, reply in replies[1:]] == [Failure("dns", "unknown")] * 3 + [None]
    assert "https://old.example/socket.io/?EIO=4&transport=polling" in asked
    assert not [url for url in asked if url.startswith("https://cdn")]


async def test_a_page_that_takes_too_long_or_is_not_there() -> None:
    script = "https://crm.example.com/a.js"
    page, _ = await read({PAGE: Answer(200, (), '<script src="/a.js"></script>'), script: TimeoutError()})
    assert (page.scripts, page.left_out, page.baked) == (0, 1, ())
    page, _ = await read({f"{PAGE}?secret=1": Answer(404)}, f"{PAGE}?secret=1")
    assert (page.url, page.reply) == (PAGE, Answer(404))
