# ruff: noqa: E402 - what the extra installs is looked for first
"""The doctor against a scripted server: its probes, its output, its exit status."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

for package in ("click", "rich", "httpx2", "websockets"):
    pytest.importorskip(package, reason="needs the extra socketguard[cli]")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import ConnectionClosed

from socketguard.cli.doctor import checks, network, probes
from socketguard.cli.doctor.checks import CHECKS, Options, examine
from socketguard.cli.doctor.network import Channel, Network, failure, hold, join
from socketguard.cli.doctor.observations import Answer, Failure, Join, Observations, Tls, describe, opens
from socketguard.cli.doctor.probes import Examination, Line
from socketguard.cli.doctor.render import Redactor, Terminal, as_json
from socketguard.cli.doctor.rules import Finding, judge
from socketguard.cli.doctor.symptoms import SYMPTOMS
from socketguard.cli.doctor.target import parse_target
from socketguard.testing import mint
from tests.cli.scripted import OPEN, Asked, Engine, Script, Talk, answer, serving

ALL = frozenset(name for name, check in CHECKS.items() if not check.on_request)
NEVER = "127.0.0.1:1"
PATIENCE = 120.0
"""Seconds for what is to come: nothing is decided by it."""
DEADLINES = (0.3, 3.0, 30.0)
"""For what is to fail at a deadline, and only there: on a slow machine the first may come too early."""

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "GAP", 0.0)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def port(engine: Engine) -> Iterator[int]:
    with serving(engine) as port:
        yield port


def options(port: int, *only: str, scheme: str = "http", host: str = "127.0.0.1", **changes: Any) -> Options:
    chosen = frozenset(only).union(*(CHECKS[name].needs for name in only)) if only else ALL
    given: dict[str, Any] = {"namespaces": (), "token": None, "origin": None, "idle": None, "page": None}
    given |= {"timeout": PATIENCE, "checks": chosen, **changes}
    return Options(parse_target(f"{scheme}://{host}:{port}"), **given)


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self._title = ""

    def begin(self, title: str) -> None:
        self._title = title

    def end(self, line: Line) -> None:
        self.lines[self._title] = line


async def look(port: int, *only: str, **changes: Any) -> tuple[Observations, dict[str, Line]]:
    notes = Notes()
    return await examine(options(port, *only, **changes), notes, set()), notes.lines  # type: ignore[arg-type]


def reach(port: int, timeout: float = PATIENCE) -> Network:
    return Network(parse_target(f"http://127.0.0.1:{port}"), timeout=timeout)


def examination(port: int, **seen: Any) -> Examination:
    return Examination(reach(port), Observations(parse_target("http://h"), **seen))


# --- the whole ---


async def test_a_good_server(engine: Engine, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets: set[str] = set()
    notes = Notes()
    seen = await examine(options(port), notes, secrets)  # type: ignore[arg-type]
    assert {line.mark for line in notes.lines.values()} <= {"good", "skipped"}
    assert (seen.upgrade and seen.upgrade.outcome, [join.outcome for join in seen.joins]) == ("upgraded", ["joined"])
    assert (seen.sticky[0].asked, seen.sticky[0].unknown) == (12, 0)
    assert {secret.rstrip("-0123456789") for secret in secrets} == {"secret-session"}
    # A few requests a second, and under ten seconds for all of them.
    monkeypatch.undo()
    assert network.GAP == 0.2
    assert len(engine.asked) * network.GAP < 8
    # Nothing is left open: the two sessions of the handshakes are closed too.
    assert engine.bodies == ["3", "3", "3", "1"] * 3 + ["1", "1"]


def test_the_command_on_a_good_server(engine: Engine, port: int, run: Run) -> None:
    printed = run("doctor", f"http://127.0.0.1:{port}", "-v").out
    assert "✓ Handshake over polling  opens with and without Origin" in printed
    assert "    without Origin: 200, session opened" in printed
    assert printed.endswith("Nothing is wrong here.\n")
    assert "secret-session" not in printed
    shown = json.loads(run("doctor", f"http://127.0.0.1:{port}", "--json").out)
    target = f"http://127.0.0.1:{port}/socket.io/"
    assert shown == {"schema_version": 1, "target": target, "findings": [], "unexamined": ""}


def test_json_with_findings_and_without_secrets(engine: Engine, port: int, run: Run) -> None:
    token = mint("ana")
    engine.connect = '44/m,{"message":"No ' + token + '","data":{"code":"token_invalid"}}'
    engine.overrides["websocket"] = answer(400, '"Invalid session secret-session-1"', "Set-Cookie: io=cookie-value-1")
    engine.overrides["POST"] = answer(403, f"cookie-value-1 secret-session-1 {token}")
    command = ("doctor", f"http://127.0.0.1:{port}/m", "--token", token)
    for arguments in ([], ["-v"], ["--json"]):
        engine.asked.clear()  # so that the first session is always secret-session-1
        printed = run(*command, *arguments, status=1).out
        assert not [secret for secret in (token, "secret-session", "cookie-value-1") if secret in printed]
    content = json.loads(printed)
    assert [finding["id"] for finding in content["findings"]] == ["S-05", "S-21", "S-34"]
    assert set(content["findings"][0]) == {"id", "severity", "title", "evidence", "cause", "fix", "docs"}


def test_nothing_answers(engine: Engine, port: int, run: Run) -> None:
    printed = run("doctor", f"http://{NEVER}", status=3).out
    assert "✗ S-02  No connection to 127.0.0.1 port 1" in printed
    assert "    cause    " in printed
    assert "S-02" in run("doctor", f"http://{NEVER}", "--json", status=3).out
    engine.overrides = {"GET polling": None, "websocket": None, "OPTIONS": None}
    assert "S-11" in run("doctor", f"http://127.0.0.1:{port}", "--json", status=3).out


def test_a_check_that_fails_by_itself(engine: Engine, port: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(examination: Examination) -> Line:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(checks, "CHECKS", {**CHECKS, "preflight": replace(CHECKS["preflight"], ask=broken)})
    monkeypatch.setattr(Examination, "leave", broken)
    findings = json.loads(run("doctor", f"http://127.0.0.1:{port}", "--json", status=1).out)["findings"]
    evidence = [f"{name}: ValueError: nobody thought of this" for name in ("preflight", "end")]
    assert [finding["evidence"] for finding in findings] == evidence


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'URL'"),
        (["https://u:hunter2@h"], "user name or password"),
        (["https://h", "--namespace", "messages"], "begins with a slash"),
        (["https://h", "--token", "a", "--token-file", "b"], "give one"),
        (["https://h", "--token-file", "/nowhere/token"], "can't be read"),
        (["https://h", "--token", ""], "empty"),
        (["https://h", "--page", "crm.example.com"], "--page is"),
        (["https://h", "--page", "wss://crm.example.com"], "--page is"),
        (["https://h", "--origin", "ftp://x"], "--origin"),
        (["https://h", "--only", "S-99"], "--list-checks"),
        (["https://h", "--idle", "0"], "--idle"),
        (["https://h", "--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, run: Run) -> None:
    _, out, err = run("doctor", *arguments, status=2)
    assert said in err
    assert "hunter2" not in err
    assert out == ""


def test_the_lists(run: Run) -> None:
    printed = run("doctor", "--list-checks").out
    assert "body       Large request (only with --only): S-20" in printed
    assert "idle       Quiet connections (only with --idle)" in printed
    assert "S-31  not seen from outside" in printed
    assert all(name in printed for name in SYMPTOMS)
    assert {symptom for check in CHECKS.values() for symptom in check.symptoms} == set(SYMPTOMS) - {"S-00"}


def test_what_the_options_do(engine: Engine, port: int, run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    engine.connect = "40/m,{}"
    url, page = f"http://127.0.0.1:{port}", "https://crm.example.com/x"
    # The page isn't read, but it is the origin; no CORS header is there for it.
    printed = run("doctor", url, "--path", "/ws", "--no-trailing-slash", "--page", page, "--only", "s-07", status=1).out
    assert "S-22" in printed
    assert {asked.path for asked in engine.asked} == {"/ws"}
    assert {asked.headers.get("origin") for asked in engine.asked[:-2]} == {None, "https://crm.example.com"}
    assert [asked.method for asked in engine.asked] == ["GET"] * 4 + ["POST"] * 2
    # The path of the URL is the namespace; an origin goes before a page.
    file = ("--token-file", str(tmp_path / "token"))
    run("doctor", f"{url}/m", *file, "--page", page, "--origin", f"ws://127.0.0.1:{port}", "--only", "S-25")
    assert engine.heard == ['40/m,{"token": "from-a-file"}', "3", "41/m,"]
    assert engine.asked[-3].headers["origin"] == url
    engine.heard.clear()
    run("doctor", url, "--namespace", "/m", "--only", "namespace", "--only", "body")
    assert engine.heard[0] == "40/m,"
    assert 2000 in map(len, engine.bodies)


# --- below HTTP ---


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """One for localhost and 60 days, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=60, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, pem = serialization.Encoding.PEM, folder / "certificate.pem"
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, folder / "key.pem")
    context.set_alpn_protocols(["http/1.1"])
    return context, pem


async def test_a_trusted_certificate(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with serving(engine, context) as port:
        seen, lines = await look(port, "websocket", scheme="https", host="localhost")
    assert isinstance(seen.tls, Tls)
    assert (seen.tls.alpn, seen.tls.problem, round(seen.tls.days_left or 0)) == ("http/1.1", "", 60)
    assert "valid for 60 days" in lines["TLS"].text
    assert lines["Handshake over WebSocket"].mark == "good"


async def test_without_a_trusted_certificate_the_token_stays_here(engine: Engine, tmp_path: Path) -> None:
    engine.connect = "40/m,{}"
    context, _ = certificate(tmp_path)
    with serving(engine, context) as port:
        seen, lines = await look(port, "namespace", scheme="https", token="the-token", namespaces=("/m",))
    assert isinstance(seen.tls, Tls)
    assert "self" in seen.tls.problem
    assert lines["TLS"].mark == "bad"
    assert [(join.outcome, join.with_token) for join in seen.joins] == [("joined", False)]
    assert engine.heard == ["40/m,", "3", "41/m,"]


async def test_http_and_tls_mixed_up(engine: Engine, port: int, tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    with serving(engine, context) as tls_port:
        seen, _ = await look(tls_port)
    assert seen.speaks_tls
    seen, lines = await look(port, scheme="https")
    assert isinstance(seen.tls, Failure)
    assert seen.polling is None
    assert lines["TLS"].mark == "bad"


@pytest.mark.parametrize(
    ("host", "kind", "title"), [("nothing.invalid", "dns", "Name"), ("127.0.0.1", "refused", "Port")]
)
async def test_no_connection(host: str, kind: str, title: str) -> None:
    seen, lines = await look(1, host=host)
    assert isinstance(seen.network, Failure)
    assert seen.network.kind == kind
    assert lines[title].mark == "bad"
    assert list(lines)[-1] == title


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (ssl.SSLCertVerificationError("x"), "certificate"),
        (ssl.SSLError("x"), "tls"),
        (socket.gaierror("x"), "dns"),
        (ConnectionRefusedError("x"), "refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1'), [Errno 111] Connect…"), "refused"),
        (OSError(113, "No route to host"), "unreachable"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError("x"), "reset"),
        (ValueError("x"), "protocol"),
    ],
)
def test_which_layer_failed(problem: Exception, kind: str) -> None:
    assert failure(problem, 1.5) == Failure(kind, str(problem) or type(problem).__name__, 1.5)  # type: ignore[arg-type]


def test_the_layer_is_found_behind_other_exceptions() -> None:
    outer = ValueError("outer")
    outer.__context__ = ConnectionRefusedError("inner")
    assert failure(outer, 0) == Failure("refused", "inner")
    several = ExceptionGroup("several", [ValueError("a"), ConnectionRefusedError("b")])
    assert failure(several, 0) == Failure("refused", "b")
    circle = ValueError("circle")
    circle.__context__ = circle
    assert failure(circle, 0).kind == "protocol"


def test_requests_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pace = reach(1)
    assert [round(pace.delay(now), 3) for now in (10.0, 10.0, 10.2, 15.4)] == [0, 0.2, 0.2, 0]
    # What does not wait is waited for later.
    assert [pace.delay(15.4, at_once=True) for _ in range(2)] == [0, 0]
    assert round(pace.delay(15.4), 3) == 0.6


async def test_what_fails_below_http_ends_the_examination() -> None:
    problem = Failure("timeout", "no answer", 8.0)

    class Down(Network):
        async def addresses(self) -> Failure:
            return problem

        async def connects(self) -> Failure:
            return problem

        async def shake_hands(self, *, checking: bool) -> Failure:
            return Failure("certificate", "self-signed") if checking else problem

        async def request(self, url: str, **_: Any) -> Failure:
            return problem

    seen = Observations(parse_target("https://h"))
    down = Examination(Down(seen.target, timeout=1), seen)
    for probe in (probes.dns, probes.tcp, probes.tls, probes.polling):
        line = await probe(down)
        assert (line.mark, line.text) == ("bad", "timeout: no answer")
    assert seen.network == seen.tls == seen.polling == problem
    assert not seen.speaks_tls


# --- the handshake ---


@pytest.mark.parametrize("kind", ["websocket", "websocket origin"])
async def test_a_refused_websocket_is_asked_again_as_it_was(
    kind: str, engine: Engine, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine.overrides[kind] = answer(403, "", "Set-Cookie: a=hush-hush")
    seen, lines = await look(port, "websocket")
    assert describe(seen.websocket_origin) == lines["Handshake over WebSocket"].text == "403, empty body"
    assert describe(seen.websocket)[:3] == ("403" if kind == "websocket" else "101")
    again = [asked for asked in engine.asked if asked.query.get("transport") == "websocket" and not asked.websocket]
    origins = [asked.headers.get("origin") for asked in again]
    assert origins == [None if kind == "websocket" else f"http://127.0.0.1:{port}"]
    # The websockets library would log what was refused, with its headers.
    assert not [record for record in caplog.records if "hush-hush" in record.getMessage()]


async def test_the_other_scheme_is_tried_when_a_guessed_origin_is_refused(engine: Engine, port: int) -> None:
    engine.overrides["GET polling origin"] = answer(400, '"http://x is not an accepted origin."')
    seen, _ = await look(port, "polling")
    assert [asked.headers.get("origin", "").partition(":")[0] for asked in engine.asked[:3]] == ["", "http", "https"]
    assert describe(seen.polling_plain).startswith("400, origin refused")
    seen, _ = await look(port, "polling", origin="https://crm.example.com")
    assert seen.polling_plain is None


async def test_transports_that_are_switched_off(engine: Engine, port: int) -> None:
    engine.overrides["GET polling"] = answer(400, '{"code":0,"message":"Transport unknown"}')
    seen, lines = await look(port)
    assert lines["Handshake over polling"].mark == "note"
    assert lines["Requests of one session"].mark == "skipped"
    assert lines["Upgrade from polling"].mark == "skipped"
    assert seen.joins[0].outcome == "joined"


async def test_a_closed_connection(engine: Engine, port: int) -> None:
    engine.overrides = {"GET polling": None, "websocket": None}
    seen, lines = await look(port)
    assert [getattr(reply, "kind", None) for reply in (seen.polling, seen.websocket)] == ["reset", "reset"]
    assert describe(seen.websocket) == "reset: the connection was closed without an answer"
    assert describe(None) == "not asked"
    assert "Namespaces" not in lines


async def test_a_websocket_that_opens_and_says_nothing(engine: Engine, port: int) -> None:
    async def silent(talk: Talk) -> None:
        await talk.hear()

    async def binary(talk: Talk) -> None:
        await talk.say(b"\x00")
        await talk.hear()

    engine.said = silent
    for deadline in DEADLINES:
        async with reach(port, deadline).open() as found:
            if isinstance(found, Answer):
                break
    assert isinstance(found, Answer)
    assert (found.status, found.body) == (101, "")
    engine.said = binary
    async with reach(port).open() as channel:
        assert isinstance(channel, Channel)
        assert channel.answer.body == ""


async def test_a_server_that_never_answers(engine: Engine, port: int) -> None:
    async def hang(asked: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    engine.handle = hang  # type: ignore[method-assign]
    reached = reach(port, DEADLINES[0])
    found = await reached.request(reached.target.url("polling"))
    async with reached.open() as channel:
        assert [getattr(reply, "kind", None) for reply in (found, channel)] == ["timeout", "timeout"]


async def test_cookies_are_those_of_the_target_and_long_bodies_are_cut(engine: Engine, port: int) -> None:
    body = OPEN + "x" * 100_000
    engine.overrides["GET polling"] = answer(200, body, "Set-Cookie: a=1; path=/", "Set-Cookie: b(c=2")
    reached = reach(port)
    found = await reached.request(reached.target.url("polling"), limit=1000)
    assert isinstance(found, Answer)
    assert found.body == body[:1000]
    await reached.request(reached.target.url("polling"), cookies=True)
    await reached.request(f"http://localhost:{port}/socket.io/", cookies=False)
    assert [asked.headers.get("cookie") for asked in engine.asked] == [None, "a=1", None]
    assert reached.cookies == {"a": "1"}
    elsewhere = reach(1)
    await elsewhere.request(reached.target.url("polling"))
    assert elsewhere.cookies == {}


# --- sessions ---


class Workers(Engine):
    """Two processes without a common memory, told apart by a cookie when there is one."""

    def __init__(self, *, cookie: bool) -> None:
        super().__init__()
        self._cookie = cookie

    async def handle(self, asked: Any) -> Any:
        if asked.method == "POST" and "cookie" not in asked.headers:
            return answer(400, '"Invalid session secret-session"')
        found = await super().handle(asked)
        if self._cookie and isinstance(found, bytes) and b'"sid"' in found:
            return found.replace(b"\r\n\r\n", b"\r\nSet-Cookie: srv=worker-one; path=/\r\n\r\n", 1)
        return found


@pytest.mark.parametrize(("cookie", "unknown"), [(True, [12, 0]), (False, [12])])
async def test_sessions_that_only_one_process_knows(cookie: bool, unknown: list[int]) -> None:
    with serving(Workers(cookie=cookie)) as port:
        seen, lines = await look(port, "sticky")
    assert [sticky.unknown for sticky in seen.sticky] == unknown
    line = lines["Requests of one session"]
    assert line.mark == ("note" if cookie else "bad")
    assert line.text.startswith("sessions hold for clients that send cookies" if cookie else "without cookies")


async def test_a_refused_post_and_sessions_that_do_not_begin_any_more(engine: Engine, port: int) -> None:
    engine.overrides["POST"] = answer(405, "no")
    seen, lines = await look(port, "sticky")
    assert seen.sticky[0].asked == 4
    assert lines["Requests of one session"].text == "POST: 405: no"
    engine.overrides["GET polling"] = answer(503)
    engine.overrides["websocket"] = answer(502)
    found = examination(port, polling=Answer(200, (), OPEN))
    assert (await probes.sticky(found)).mark == "good"
    assert found.seen.sticky[0].asked == 0
    assert (await probes.body(found)).mark == "skipped"
    assert (await probes.namespaces(found)).mark == "skipped"
    found.seen.websocket = Answer(101, (), OPEN)
    assert (await probes.upgrade(found)).text == "no polling session"
    assert (await probes.namespaces(found)).mark == "skipped"
    found.seen.joins = [Join("/", "joined")]
    found.idle = 1
    assert (await probes.held(found)).mark == "skipped"
    assert {hold.outcome for hold in found.seen.holds} == {"failed"}


@pytest.mark.parametrize(
    ("connect", "outcome", "mark", "text"),
    [
        ('44/m,{"message":"Invalid namespace"}', "refused", "bad", "/m: refused, Invalid namespace"),
        ('44/m,"Unable to connect"', "refused", "bad", "/m: refused, Unable to connect"),
        ("44/m,broken", "refused", "bad", "/m: refused, broken"),
        ("44/m,{}", "refused", "bad", "/m: refused, without a message"),
        ('44/m,{"message":"A","data":{"code":"token_missing"}}', "refused", "note", "/m: refused, A (token_missing)"),
        ("41/m,", "closed", "bad", "/m: the connection was closed"),
        ("", "closed", "bad", "/m: the connection was closed"),
    ],
)
async def test_a_namespace(engine: Engine, port: int, connect: str, outcome: str, mark: str, text: str) -> None:
    engine.connect = connect
    seen, lines = await look(port, "namespace", namespaces=("/m", "/m"))
    assert [join.outcome for join in seen.joins] == [outcome]
    assert (lines["Namespaces"].mark, lines["Namespaces"].text) == (mark, text)


async def test_the_token_is_sent_with_the_connect(engine: Engine, port: int) -> None:
    engine.overrides["websocket"] = answer(400)
    engine.connect = "40/m,{}"
    seen, _ = await look(port, "namespace", namespaces=("/m",), token="the-token")
    assert seen.joins[0].with_token
    # Over polling, because WebSockets don't open; a ping is answered, and the session is left and closed.
    assert engine.bodies[:4] == ['40/m,{"token": "the-token"}', "3", "41/m,", "1"]


async def test_a_connect_without_an_answer(engine: Engine, port: int) -> None:
    engine.connect = None
    async with reach(port).open() as channel:
        assert isinstance(channel, Channel)
        assert await join(channel, "/", None, 0.3) == ("silent", "", None)
    # A poll that fails ends the session.
    engine.overrides |= {"websocket": answer(400), "GET sid": answer(400, "gone")}
    seen, _ = await look(port, "namespace")
    assert seen.joins[0].outcome == "closed"


async def test_only_without_an_origin(engine: Engine, port: int) -> None:
    engine.overrides |= {"websocket origin": answer(403), "websocket sid origin": answer(403)}
    seen, _ = await look(port)
    assert (seen.joins[0].outcome, seen.upgrade and seen.upgrade.outcome) == ("joined", "upgraded")


async def test_upgrades_that_fail(engine: Engine, port: int) -> None:
    async def deaf(talk: Talk) -> None:
        await talk.hear()

    for reply, text in (
        (answer(400, "Session ID unknown"), "400, session unknown: Session ID unknown"),
        (deaf, "the probe got no answer"),
    ):
        engine.overrides["websocket sid"] = reply
        _, lines = await look(port, "upgrade")
        assert lines["Upgrade from polling"].text == text


# --- the heartbeat, and what is on request ---


async def test_the_heartbeat_line(engine: Engine, port: int) -> None:
    engine.overrides["GET polling"] = answer(200, OPEN.replace("25000", "75000"), "Server: nginx/1.22.1")
    _, lines = await look(port, "heartbeat")
    line = lines["Heartbeat"]
    assert (line.mark, line.text) == ("bad", "a ping every 75 s; nginx (by server: nginx/1.22.1)")
    assert line.details[0] == "the server is python-socketio"
    engine.overrides["GET polling"] = answer(200, '0{"sid":"x"}')
    _, lines = await look(port, "heartbeat")
    assert lines["Heartbeat"].text == "no session"


QUICK = OPEN.replace('"pingInterval":25000', '"pingInterval":-4900')


async def test_holding(engine: Engine, port: int) -> None:
    engine.overrides["GET polling"] = answer(200, QUICK)
    seen, lines = await look(port, "idle", idle=0.15)
    assert {hold.kind: hold.outcome for hold in seen.holds} == {"idle": "held", "busy": "held", "poll": "answered"}
    assert lines["Quiet connections"].mark == "good"


async def test_holding_what_is_cut_or_closed(engine: Engine, port: int) -> None:
    async def cut(talk: Talk) -> None:
        await talk.say(OPEN)
        await talk.hear()
        for packet in ('42["news"]', "40{}", '42["news"]', "2"):
            await talk.say(packet)
        await talk.hear()

    async def closed(talk: Talk) -> None:
        await talk.say(OPEN)
        await talk.hear()
        await talk.say("40{}")
        talk.end(4000)

    engine.said = cut
    engine.overrides["GET polling"] = answer(200, QUICK)
    seen, lines = await look(port, "idle", idle=30)
    idle = seen.holds[0]
    assert (idle.outcome, idle.pings, idle.code) == ("cut", 1, None)
    assert lines["Quiet connections"].mark == "bad"
    engine.said = closed
    seen, _ = await look(port, "idle", idle=30)
    assert [(hold.outcome, hold.code) for hold in seen.holds[:2]] == [("closed", 4000)] * 2


async def test_a_busy_connection_that_is_gone_when_it_talks() -> None:
    gone = ConnectionClosed(None, None, None)
    channel = AsyncMock(close_code=None)
    channel.receive.side_effect, channel.transmit.side_effect = [TimeoutError, gone], gone
    found = await hold(channel, "busy", PATIENCE)
    assert found.outcome == "cut"
    assert 0 < found.pause <= found.seconds


async def test_holding_needs_a_namespace(engine: Engine, port: int) -> None:
    engine.connect = '44{"message":"no"}'
    seen, lines = await look(port, "idle", idle=1)
    assert {hold.outcome for hold in seen.holds} == {"failed"}
    assert lines["Quiet connections"].mark == "skipped"
    assert "quiet WebSocket: not tried" in lines["Quiet connections"].details
    assert lines["Namespaces"].mark == "note"
    # The namespace was joined, and is closed meanwhile.
    opened = Answer(101, (), OPEN)
    found = examination(port, polling=Answer(200, (), OPEN), websocket=opened, joins=[Join("/", "joined")])
    assert (await probes.held(found)).text == "only with --idle SECONDS"
    found.idle = 1
    assert (await probes.held(found)).mark == "skipped"
    assert [hold.outcome for hold in found.seen.holds] == ["failed"] * 3
    found.seen.polling = found.seen.websocket = None
    assert (await probes.held(found)).text == "no session"


@pytest.mark.parametrize(
    ("opening", "status", "text"),
    [
        (OPEN, 200, "2000 bytes: 200: ok"),
        (OPEN.replace("2000}", "90000000}"), 413, "2000000 bytes: 413: ok"),
        ('0{"sid":"x"}', 200, "1000000 bytes: 200: ok"),
    ],
)
async def test_one_large_request(engine: Engine, port: int, opening: str, status: int, text: str) -> None:
    engine.overrides["GET polling"] = answer(200, opening)
    if status != 200:
        engine.overrides["POST"] = answer(status, "ok")
    _, lines = await look(port, "body")
    assert (lines["Large request"].mark, lines["Large request"].text) == ("good" if status == 200 else "bad", text)
    assert [len(body) for body in engine.bodies] in ([int(text.split()[0]), 1, 1, 1], [])


# --- the page and the token ---


async def test_the_page_names_the_namespaces(engine: Engine, port: int) -> None:
    class Site(Engine):
        async def handle(self, asked: Any) -> Any:
            pages = {"/app": '<script src="/a.js"></script>', "/a.js": f'io("http://127.0.0.1:{ports[0]}/m")'}
            if asked.path in pages:
                return answer(200, pages[asked.path])
            return await super().handle(asked)

    engine.overrides["GET polling"] = None
    site = Site(connect="40/m,{}")
    ports: list[int] = []
    with serving(site) as own:
        ports.append(own)
        page = f"http://127.0.0.1:{own}/app"
        seen, lines = await look(own, page=page)
        assert [join.namespace for join in seen.joins] == ["/m"]
        assert lines["Page"].text == "1 scripts read, 0 left out; 1 addresses found"
        site.connect = "40/x,{}"
        seen, _ = await look(own, "namespace", "page", page=page, namespaces=("/x",))
        assert [join.namespace for join in seen.joins] == ["/x"]
        _, lines = await look(own, "page", page=f"http://127.0.0.1:{port}/gone")
        assert lines["Page"].mark == "bad"


async def test_the_lines_of_the_token_and_the_url(port: int) -> None:
    for token, mark, problem in ((mint("ana"), "good", ""), ("no-token", "bad", "it is no JWT")):
        seen, lines = await look(port, "token", token=token)
        assert (lines["Token"].mark, seen.token_problem) == (mark, problem)
    for url, mark, details in (("http://h", "good", 0), ("h/m", "note", 1)):
        target = parse_target(url)
        line = await probes.url(Examination(Network(target, timeout=PATIENCE), Observations(target)))
        assert (line.mark, len(line.details)) == (mark, details)


# --- printing ---

FINDING = Finding("S-05", "error", "title", "evidence \x1b[31m sid=abc", "cause", "fix", "docs/x.md")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Screen()
    with Terminal(stream, "https://h", Redactor({"s3cret-value"}), verbose=True) as terminal:
        terminal.begin("First")
        terminal.end(Line("good", "fine s3cret-value", ("detail",)))
        terminal.begin("Second")
        terminal.end(Line("skipped", "no"))
    terminal.findings([FINDING])
    shown = stream.getvalue()
    assert [text for text in ("├──", "detail", "docs/x.md") if text not in shown] == []
    assert "s3cret-value" not in shown


def test_a_stream_that_knows_ascii_only() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    with Terminal(stream, "https://h", Redactor(set()), verbose=False) as terminal:
        terminal.begin("First")
        terminal.end(Line("bad", "broken", ("detail",)))
    terminal.findings([FINDING])
    stream.flush()
    text = raw.getvalue().decode()
    assert "X First  broken\n" in text
    assert "X S-05  title" in text
    assert "detail" not in text


@pytest.mark.parametrize(
    "text",
    [
        "key-of-the-session-1",
        "0{'sid': 'other', 'upgrades': []}".replace("'", '"'),
        "GET /socket.io/?EIO=4&sid=other",
        mint("ana"),
        "Set-Cookie: srv=other",
        "Authorization: Bearer other-token",
        "Bearer othertoken",
    ],
)
def test_secrets_are_taken_out_of_all_texts(text: str) -> None:
    redactor = Redactor({"key-of-the-session-1", ""})
    finding = Finding("S-05", "error", text, text, text, text, "docs/x.md")
    printed = as_json(text, [finding], redactor)
    assert "other" not in printed
    assert "key-of-the-session-1" not in printed
    assert mint("ana")[:20] not in printed
    # Nor does what a terminal would obey remain.
    assert "\x1b" not in json.loads(as_json("t", [FINDING], redactor))["findings"][0]["evidence"]


def test_explain(run: Run) -> None:
    printed = run("doctor", "--explain", "s-14").out
    assert printed.startswith("S-14: Quiet WebSockets are cut\n  cause  an idle limit of a proxy")
    assert "  seen   Heartbeat, Quiet connections\n" in printed
    assert run("doctor", "--explain", "S-32").out.startswith("S-32, not seen from outside\n")
    assert "  seen   in any check\n" in run("doctor", "--explain", "S-00").out
    assert "--explain takes one of S-00, S-01" in run("doctor", "--explain", "S-99", status=2).err


async def test_what_nobody_could_look_at_is_said(engine: Engine, port: int, run: Run) -> None:
    engine.connect = '44{"message":"Authentication required","data":{"code":"token_missing"}}'
    printed = await asyncio.to_thread(run, "doctor", f"http://127.0.0.1:{port}")
    assert "Nothing is wrong in what was examined.\n" in printed.out
    assert "Not examined: what happens inside a namespace" in printed.out
    assert "(/: token_missing)" in printed.out


@pytest.mark.parametrize("answers", [True, False])
async def test_a_busy_connection_is_busy_in_both_directions(answers: bool) -> None:
    async def ping(answered: Callable[[], None]) -> None:
        if answers:
            answered()

    gone = ConnectionClosed(None, None)
    channel = AsyncMock(close_code=None)

    async def receive() -> str:
        turns.append(await asyncio.sleep(0.02))
        raise gone if len(turns) > 5 else TimeoutError

    turns: list[None] = []
    channel.receive, channel.ping = receive, ping
    held = await hold(channel, "busy", 60)
    assert (held.outcome, held.pause < held.seconds) == ("cut", answers)


class NowAndThen(Engine):
    """Every other request is answered by a server that is dead."""

    async def handle(self, asked: Asked) -> bytes | Script | None:
        found = await super().handle(asked)
        return found if len(self.asked) % 2 else answer(502, "dead")


async def test_a_request_that_fails_now_and_then_is_asked_again() -> None:
    with serving(NowAndThen()) as port:
        seen, _ = await look(port, "sticky", "websocket")
    assert {each.asked for each in seen.unsteady} == {"GET", "POST", "WebSocket"}
    assert {each.tries for each in seen.unsteady} == {2}
    assert all(map(opens, (seen.polling, seen.polling_origin, seen.websocket, seen.websocket_origin)))
    assert seen.sticky[0].refused is None
    assert [finding.id for finding in judge(seen)] == ["S-39"]


async def test_what_always_fails_is_the_answer(engine: Engine, port: int) -> None:
    engine.overrides["GET polling"] = answer(502, "dead")
    seen, _ = await look(port, "polling")
    assert (seen.unsteady, len(engine.asked)) == ([], 2 * (1 + probes.AGAIN))
    engine.overrides["GET polling"] = answer(429, "slow down")
    engine.asked.clear()
    await look(port, "polling")
    assert len(engine.asked) == 2, "who asks for less is not asked for more"


async def test_a_question_without_an_answer_in_time_is_put_once_more(engine: Engine, port: int) -> None:
    async def silent() -> Failure:
        asked.append(1)
        return Failure("timeout", "nothing came")

    asked: list[int] = []
    found = examination(port)
    assert (await found.steadily("GET", silent)).kind == "timeout"  # type: ignore[union-attr]
    assert (len(asked), found.seen.unsteady) == (2, [])


async def test_compression_that_something_breaks(engine: Engine, port: int) -> None:
    class Breaks(Engine):
        async def handle(self, asked: Asked) -> bytes | Script | None:
            if asked.websocket and "sec-websocket-extensions" in asked.headers:
                return answer(400, "no extensions")
            return await super().handle(asked)

    with serving(Breaks()) as broken:
        seen, _ = await look(broken, "websocket")
    assert seen.deflated is not None
    assert opens(seen.websocket_origin)
    assert [finding.id for finding in judge(seen)] == ["S-40"]
    engine.overrides["websocket origin"] = answer(403)
    seen, _ = await look(port, "websocket")
    assert seen.deflated is None


async def test_a_server_that_refuses_the_version_is_asked_whether_it_sees_the_query(engine: Engine, port: int) -> None:
    engine.overrides["GET polling"] = answer(
        400, '"The client is using an unsupported version of the Socket.IO or Engine.IO protocols"'
    )
    seen, _ = await look(port, "polling")
    assert [asked.query["transport"] for asked in engine.asked] == ["polling", "doctor", "polling"]
    assert seen.unread is not None
