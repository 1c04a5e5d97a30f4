"""``socketguard check``: what it loads, what it finds, and how it plays an admission."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import AsyncMock

import jwt
import pytest
import socketio
from hypothesis import given
from hypothesis import strategies as st
from socketio.async_pubsub_manager import AsyncPubSubManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route

from socketguard import Heartbeat, JWTAuth, NamespacePolicy, SocketGuard, TokenError
from socketguard.cli import CommandError, check
from socketguard.cli.application import examine, load
from socketguard.cli.drive import drive
from socketguard.cli.trial import Trial, try_token
from socketguard.cli.verifier import read_jwks, read_token
from socketguard.errors import RejectCode
from socketguard.findings import KINDS
from socketguard.testing import TEST_SECRET, capture_events
from socketguard.testing import mint as mint_test
from tests.server.test_credentials import cookie
from tests.tokens.minting import RSA, RSA_NEXT, RSA_PEM, SECRET, jwk

Run = Callable[..., Any]
Write = Callable[[str], str]
HERE = "import socketio\nfrom socketguard import *\nfrom socketguard.proxies.heartbeat import Heartbeat\n"
AUTH = f"JWTAuth({SECRET!r}, algorithms=['HS256'])"
GOOD = (
    HERE
    + f"""
sio = socketio.AsyncServer(async_mode="asgi")

@sio.on("connect", namespace="/messages")
async def connect(sid, environ, auth): ...

app = SocketGuard(socketio.ASGIApp(sio), auth={AUTH}, namespaces=["/messages"])
"""
)


def mint(**options: Any) -> str:
    return mint_test(key=SECRET, **options)


def server(*namespaces: str, **options: Any) -> Any:
    sio = socketio.AsyncServer(async_mode="asgi", **options)
    for namespace in namespaces:
        sio.on("connect", lambda *_: None, namespace=namespace)
    return sio


def guard(sio: Any, **options: Any) -> SocketGuard:
    given = {"auth": JWTAuth(SECRET, algorithms=["HS256"]), "namespaces": ["/messages"], **options}
    return SocketGuard(socketio.ASGIApp(sio), **given)


def ids(app: object, module: ModuleType | None = None, **options: Any) -> list[str]:
    return [finding.id for finding in check.findings(examine(app, module), **options)]


def module_with(**named: Any) -> ModuleType:
    module = ModuleType("module")
    vars(module).update(named)
    return module


def refused_to_load(spec: str) -> str:
    with pytest.raises(CommandError) as caught:
        load(spec)
    return str(caught.value)


# --- loading


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("class Inner:\n    app = 'the app'\ninner = Inner()\n", "inner.app", "the app"),
        ("def make(): return 'made'", "make()", "made"),
        ("async def make(): return 'made'", "make()", "made"),
    ],
)
def test_load(write: Write, source: str, name: str, expected: str) -> None:
    module = write(source)
    app, found = load(f"{module}:{name}")
    assert (app, found.__name__) == (expected, module)


def test_load_by_the_name_of_a_file(write: Write) -> None:
    module = write("app = 'the app'\nother = 'another'\n")
    for spec, expected in (
        (f"{module}.py:other", "another"),
        (f"./{module}.py:app", "the app"),
        (f"{module}.py", "the app"),
    ):
        assert load(spec)[0] == expected
    with pytest.raises(CommandError, match="no_such"):
        load("no_such/place.py:app")


@pytest.mark.parametrize(
    "spec", ["", "app", "module:", ":app", "module:app(1)", "module:app()()", "../app:app", "a b:c"]
)
def test_what_names_no_application(spec: str) -> None:
    assert "write module:app or module:create_app()" in refused_to_load(spec)


@given(st.text(max_size=40))
def test_no_text_is_an_application_by_accident(text: str) -> None:
    refused_to_load(text + "\n:")


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        # What is missing is something else than what was asked for.
        ("import no_such_module_here\n", "app", "{0} can't be loaded at {0}.py:1: ModuleNotFoundError"),
        ("app = 1", "ap", "{0} has no ap;"),
        ("def create_app(): ...", "create_app", "without parameters, so no application; write {0}:create_app()"),
        ("raise ValueError('broken')", "app", ".py:1: ValueError: broken"),
        ("import sys\nsys.exit('set DATABASE_URL')", "app", ".py:2: SystemExit: set DATABASE_URL"),
        ("def", "app", "SyntaxError: "),
        ("raise ValueError('a\\nb\\x1b[31m')", "app", "a\\u000ab\\u001b[31m"),
        (
            HERE + "app = JWTAuth('short', algorithms=['HS256'])",
            "app",
            "the guard refuses its configuration (option key) at {0}.py:4: key has 5 bytes",
        ),
    ],
)
def test_an_application_that_can_not_be_loaded(write: Write, source: str, name: str, expected: str) -> None:
    module = write(source)
    assert expected.format(module) in refused_to_load(f"{module}:{name}")


def test_what_a_failing_application_prints_and_its_secrets_are_not_told(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_to_load("no_such_module_here:app").startswith("there is no module no_such_module_here in ")
    token = mint()
    name = write(f"print(1)\nraise ValueError({{'jwt_secret': 'hush-hush', 'seen': {token!r}}})")
    text = refused_to_load(f"{name}:app")
    assert "hush-hush" not in text
    assert token not in text
    assert capsys.readouterr() == ("", "1\n")


# --- finding the guard


def test_a_guard_around_the_application_or_made_by_protect() -> None:
    guarded = guard(server("/messages"))
    found = examine(guarded)
    assert (found.guards, found.unguarded, found.paths, found.findings) == ([guarded], [], ["/socket.io/"], [])
    sio = server("/messages")
    protected = SocketGuard.protect(sio, auth=None)
    inner = socketio.ASGIApp(sio)
    for app in (protected, sio, inner, Starlette(routes=[Mount("/socket.io", inner)])):
        found = examine(app)
        assert (found.guards, found.unguarded, found.findings) == ([protected], [], [])


def test_a_guard_as_middleware_is_built() -> None:
    sio = server("/messages")
    app = Starlette(
        routes=[Mount("/socket.io", socketio.ASGIApp(sio))], middleware=[Middleware(SocketGuard, server=sio, auth=None)]
    )
    found = examine(app)
    assert (len(found.guards), found.unguarded, found.findings) == (1, [], [])
    assert examine(app).guards == found.guards
    app = Starlette(middleware=[Middleware(SocketGuard, server=server(), auth="secret")])
    with pytest.raises(CommandError, match=r"the guard refuses its configuration \(option auth\)"):
        examine(app)


def test_middleware_that_is_no_guard_is_not_built() -> None:
    def explode(app: object) -> None:
        raise AssertionError("nobody asked for it")

    app = Starlette(
        routes=[Mount("/socket.io", socketio.ASGIApp(server()))],
        middleware=[Middleware(explode)],  # type: ignore[arg-type]
    )
    assert ids(app) == ["SG036"]


def test_a_guard_within_the_inner_application_comes_too_late() -> None:
    sio = server("/messages")
    inner = Starlette(middleware=[Middleware(SocketGuard, server=sio, auth=None)])
    found = examine(socketio.ASGIApp(sio, other_asgi_app=inner))
    assert [finding.id for finding in found.findings] == ["SG025", "SG020"]
    assert len(found.guards) == 1


def test_a_guard_of_another_server() -> None:
    other, served = server("/messages"), server("/messages")
    app = SocketGuard(socketio.ASGIApp(served), server=other, auth=None)
    assert ids(app) == ["SG025", "SG036", "SG030"]
    module = module_with(guard=SocketGuard.protect(server(), auth=None))
    assert ids(socketio.ASGIApp(served), module) == ["SG025", "SG036"]


def test_several_applications_of_one_module() -> None:
    one, other = guard(server("/messages")), guard(server("/messages"))
    found = examine(one, module_with(one=one, other=other))
    assert (found.guards, found.findings) == ([one], [])
    sio, bare = server("/messages"), server("/messages")
    protected = SocketGuard.protect(sio, auth=JWTAuth(SECRET, algorithms=["HS256"]))
    app = Starlette(
        routes=[Mount("/a", socketio.ASGIApp(sio, socketio_path=None)), Mount("/b", socketio.ASGIApp(bare))]
    )
    found = examine(app, module_with(guard=protected))
    assert (found.guards, found.unguarded) == ([protected], [bare])
    assert [finding.id for finding in check.findings(found)] == ["SG021", "SG036"]


def test_an_application_that_can_not_be_looked_through() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    for module in (None, module_with()):
        with pytest.raises(CommandError, match=r"no Socket\.IO server is found in function"):
            examine(app, module)
    sio = server("/messages")
    assert ids(app, module_with(sio=sio)) == ["SG036", "SG026"]
    protected = SocketGuard.protect(sio, auth=None)
    assert examine(app, module_with(sio=sio, guard=protected)).guards == [protected]
    outer = SocketGuard(app, server=sio, auth=None)
    assert [finding.id for finding in examine(outer).findings] == ["SG026"]


# --- what is wrong


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"namespaces": ["/messages", "/scheduler"]}, ["SG010"]),
        ({"namespaces": []}, ["SG011"]),
        ({"auth": None}, ["SG030"]),
        ({"debug": True}, ["SG031"]),
        ({"auth": JWTAuth(RSA_PEM, algorithms=["RS256"])}, ["SG033"]),
        ({"auth": JWTAuth(TEST_SECRET, algorithms=["HS256"])}, ["SG037"]),
        ({"auth": JWTAuth(TEST_SECRET, algorithms=["HS256"], audience="crm")}, ["SG037"]),
        ({"auth": JWTAuth([SECRET, TEST_SECRET], algorithms=["HS512"])}, ["SG037"]),
        ({"auth": [JWTAuth(key, algorithms=["HS256"], issuer=key[:4]) for key in (SECRET, TEST_SECRET)]}, ["SG037"]),
    ],
)
def test_what_the_guard_says_and_what_only_shows_here(options: dict[str, Any], expected: list[str]) -> None:
    assert ids(guard(server("/messages"), **options)) == expected


def test_errors_come_first_and_each_finding_once() -> None:
    app = guard(server("/messages", ping_interval=75), auth=None, namespaces=["/messages", "/x"])
    assert ids(app, proxies=["nginx", "nginx"]) == ["SG001", "SG010", "SG030"]
    assert ids(Starlette(routes=[Mount("/a", app), Mount("/b", app)])).count("SG030") == 1


def test_the_heartbeat_against_proxies() -> None:
    assert ids(guard(server("/messages")), proxies=["traefik", "nginx"]) == []
    assert "SG001" in ids(guard(server("/messages", ping_interval=75)), proxies=["nginx"])
    assert ids(guard(server("/messages", ping_interval=75))) == []
    # What is no number of seconds can't be compared.
    assert ids(guard(server("/messages", ping_interval=25000)), proxies=["nginx"]) == ["SG006"]
    assert "SG001" in ids(server(ping_interval=75), proxies=["nginx"])
    heartbeat = Heartbeat(25, 20, idle_timeout=30)
    assert "SG007" in ids(guard(server("/messages"), heartbeat=heartbeat), proxies=["nginx"])


def test_several_workers() -> None:
    app = guard(server("/messages"))
    assert ids(app, workers=2) == ["SG042", "SG043", "SG051"]
    assert ids(guard(server("/messages", transports=["websocket"]), auth=None), workers=2) == ["SG042", "SG030"]
    manager = AsyncPubSubManager()
    assert ids(guard(server("/messages", client_manager=manager), auth=None), workers=2) == ["SG043", "SG030"]
    assert ids(server("/messages"), workers=2) == ["SG036", "SG042", "SG043"]


@pytest.mark.parametrize(
    ("environ", "workers"),
    [
        ({}, 1),
        ({"WEB_CONCURRENCY": "4"}, 4),
        ({"UVICORN_WORKERS": "3", "WEB_CONCURRENCY": "2"}, 3),
        ({"GUNICORN_CMD_ARGS": "--bind=0.0.0.0 --workers=5 --threads 9"}, 5),
        ({"GUNICORN_CMD_ARGS": "-w 6"}, 6),
        ({"GUNICORN_CMD_ARGS": "--worker-class x"}, 1),
        ({"WEB_CONCURRENCY": "", "UVICORN_WORKERS": "many"}, 1),
        ({"WEB_CONCURRENCY": "٤"}, 1),
    ],
)
def test_how_many_workers(environ: dict[str, str], workers: int) -> None:
    assert check.workers_of(environ) == workers


def test_an_unguarded_server_has_findings_of_its_own() -> None:
    (finding,) = check.findings(examine(server(always_connect=True)))
    assert finding.id == "SG036"
    assert "leave always_connect out" in finding.fix
    assert ids(server(cors_allowed_origins=[], ping_interval=0.5)) == ["SG022", "SG036", "SG004"]
    # What a guard would make of it is not said where there is none.
    assert ids(server(namespaces="/chat")) == ["SG036"]


# --- the command


def test_a_good_application(write: Write, run: Run) -> None:
    name = write(GOOD)
    printed = run("check", f"{name}:app", "--strict", "--proxy", "easypanel").out
    assert f"The guard of {name}:app:" in printed
    assert "  namespaces: /messages\n" in printed
    assert "heartbeat: interval_s 25, timeout_s 20" in printed
    assert printed.endswith("✓ Nothing to change.\n")
    assert SECRET not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_findings_are_told_with_why_and_fix(write: Write, run: Run) -> None:
    name = write(GOOD.replace('["/messages"]', '["/messages", "/scheduler"]').replace(AUTH, "None"))
    printed = run("check", f"{name}:app", status=1).out
    assert "✗ SG010, error: A namespace is declared to the guard but has no handler\n" in printed
    assert "  found   '/scheduler' is declared to the guard" in printed
    assert "  docs    docs/namespaces.md#which-exist\n" in printed
    assert printed.rstrip().endswith("1 error, 1 warning.")
    name = write(GOOD.replace(AUTH, "None"))
    assert run("check", f"{name}:app").out.rstrip().endswith("0 errors, 1 warning.")
    run("check", f"{name}:app", "--strict", status=1)


def test_json(write: Write, run: Run) -> None:
    name = write(GOOD + "print('noise')")
    printed = run("check", f"{name}:app", "--json", "--workers", "2", status=1).out
    shown = json.loads(printed)
    assert list(shown) == ["schema_version", "target", "guards", "asked", "findings"]
    assert shown["asked"][0] == {"asked": "a session at /socket.io/", "answered": "opened", "good": True}
    assert (shown["schema_version"], shown["target"]) == (1, f"{name}:app")
    assert shown["guards"][0]["auth"]["algorithms"] == ["HS256"]
    assert [finding["id"] for finding in shown["findings"]] == ["SG042", "SG043", "SG051"]
    assert list(shown["findings"][0]) == ["id", "severity", "title", "evidence", "cause", "fix", "docs"]
    assert SECRET not in printed


def test_the_workers_of_the_environment_and_where_a_server_is_mounted(
    write: Write, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(GOOD)
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert "SG042" in run("check", f"{name}:app", status=1).out
    run("check", f"{name}:app", "--workers", "1")
    monkeypatch.delenv("WEB_CONCURRENCY")
    source = f"{HERE}sio = socketio.AsyncServer(async_mode='asgi')\nSocketGuard.protect(sio, auth={AUTH})\n"
    name = write(f"{source}app = socketio.ASGIApp(sio, socketio_path='/realtime')")
    assert json.loads(run("check", f"{name}:app", "--json").out)["guards"][0]["paths"] == ["/realtime/"]


async def test_the_configuration_is_the_one_that_is_logged_at_start() -> None:
    app = guard(server("/messages"), namespaces=["/messages", NamespacePolicy("/x", scopes={"x"})])
    receive = AsyncMock(side_effect=[{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    with capture_events() as lines:
        await app({"type": "lifespan"}, receive, AsyncMock())
    assert app.describe() == lines[0]["configuration"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no_such_module_here:app"], "there is no module no_such_module_here"),
        (["x:app", "--proxy", "ngnix"], "nginx"),
        (["x:app", "--as", "@nothing-here", "/"], "the token can't be read: No such file or directory"),
        (["x:app", "--as", "t", "/", "--jwks-file", "nothing-here"], "the JWK Set can't be read: No such file"),
        (["--explain", "SG999"], "there is no such id; there are SG001, "),
    ],
)
def test_what_can_not_be_done(arguments: list[str], expected: str, run: Run) -> None:
    _, out, err = run("check", *arguments, status=2)
    assert (out, err.startswith("socketguard check: ")) == ("", True)
    assert expected in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--strict"], ["a:b", "--workers", "0"], ["a:b", "--workers", "x"], ["a:b", "--as", "x"], ["a:b", "--js"]],
)
def test_wrong_arguments(arguments: list[str], run: Run) -> None:
    assert "Usage: socketguard check" in run("check", *arguments, status=2).err


@pytest.mark.parametrize(
    "arguments",
    [["a:b", "TOKEN"], ["a:b", "--workers", "TOKEN"], ["TOKEN"], ["--explain", "TOKEN"], ["a:b", "--proxy", "TOKEN"]],
)
def test_a_token_in_the_wrong_place_is_not_repeated(arguments: list[str], run: Run) -> None:
    token = mint()
    _, out, err = run("check", *[token if argument == "TOKEN" else argument for argument in arguments], status=2)
    assert out == ""
    assert err != ""
    assert token.split(".")[1] not in err


def test_explain(run: Run) -> None:
    said = run("check", "a:b", "hush-hush", status=2).err
    assert said.endswith("there are arguments that this command doesn't know: 'hush-hush'\n")
    said = run("check", "a:b", "x" * 24, "y" * 25, status=2).err
    assert said.endswith(f"know: '{'x' * 24}', one of 25 characters\n")
    printed = run("check", "--explain", "sg012").out
    assert printed.startswith("SG012, error: A namespace has no leading slash\n")
    assert "  why     Clients always send names with a slash" in printed
    assert json.loads(run("check", "--explain", "SG012", "--json").out)["why"] == KINDS["SG012"].why


# --- reading tokens and keys


@pytest.mark.parametrize("text", ["a.b.c", " a.b.c\n", "Bearer a.b.c", "bearer   a.b.c"])
def test_a_token_from_anywhere(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(text) == "a.b.c"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert read_token("-") == "a.b.c"
    (tmp_path / "token").write_text(text)
    assert read_token("@token") == "a.b.c"


def test_a_file_that_holds_no_keys(tmp_path: Path) -> None:
    for content in (b"[]", b"", b"{", b"[" * 100_000, b"\xff\xfe"):
        (tmp_path / "keys").write_bytes(content)
        expected = "the JWK Set can't be read: it is no text in UTF-8, or no JSON"
        with pytest.raises(CommandError, match=expected if content != b"[]" else "a JWK Set is a JSON object"):
            read_jwks("keys")
    with pytest.raises(CommandError, match="it is no text in UTF-8"):
        read_token("@keys")


# --- playing an admission

POLICIES = [
    "/messages",
    NamespacePolicy("/scheduler", scopes={"scheduler:read"}),
    NamespacePolicy("/tenant-{tenant}", claims={"tenant_id": "{tenant}"}),
    NamespacePolicy("/open", token="none"),
    NamespacePolicy("/lobby", token="optional"),
    NamespacePolicy("/secret", scopes={"secret"}, hidden=True),
]


def many() -> Any:
    return server("/messages", "/scheduler", "/tenant-acme", "/open", "/lobby", "/secret", "/asked")


def states(played: Trial) -> str:
    """One character for each step: + passed, - refused, . skipped."""
    return "".join({"passed": "+", "refused": "-", "skipped": "."}[step.state] for step in played.steps)


async def test_a_good_token_is_admitted() -> None:
    played = await try_token(guard(many(), namespaces=POLICIES), mint(), "/messages")
    assert (states(played), played.refusal) == ("++++++++++++..", None)
    assert [step.number for step in played.steps] == list(range(1, 15))
    texts = {step.number: step.text for step in played.steps}
    assert texts[5] == "in the payload, as 'token'"
    assert texts[7].startswith("subject 'user-1', expires in ")
    assert texts[14].startswith("the token ends it in ")


@pytest.mark.parametrize(
    ("namespace", "token", "expected", "text"),
    [
        ("/messages", {}, "++++++++++++..", "none are asked for"),
        ("/schedulr", {}, "+-", "nobody can join it (typo): registered "),
        ("/messages", None, "++++-", "there is no token where the guard looks for one (no_token)"),
        ("/messages", "a.b", "+++++-", "(not_three_parts)"),
        ("/messages", "undefined", "+++++-", "the client sent the text 'undefined' instead of a token"),
        ("/messages", "e30.e30.e", "++++++-", "its alg is not among the allowed algorithms"),
        ("/messages", "ew.e30.c2ln", "++++++-", "a part of the token is no JSON (not_json): part header"),
        ("/messages", {"lifetime": -180}, "++++++-", "it has expired (expired), 3 minutes ago"),
        ("/messages", {"exp": None}, "++++++-", "a claim that is required is missing (claim_missing): claim exp"),
        ("/messages", {"nbf": 4_000_000_000}, "++++++-", "its nbf lies in the future (not_before), by "),
        ("/messages", {"aud": "other"}, "++++++-", "the token names an audience but JWTAuth has none"),
        ("/scheduler", {}, "+++++++++-", "(scope_missing): required scheduler:read, missing scheduler:read"),
        ("/scheduler", {"scope": "scheduler:read"}, "++++++++++++..", "scopes scheduler:read"),
        ("/tenant-acme", {"tenant_id": "acme"}, "++++++++++++..", "claim tenant_id is {tenant}"),
        ("/tenant-acme", {"tenant_id": "evil"}, "+++++++++-", "claim tenant_id, expected acme, received evil"),
        ("/open", None, "++++...+.+++..", "no credential is looked for here"),
        ("/lobby", None, "+++++..+.+++..", "there is none, and the policy takes anonymous clients"),
        ("/lobby", "a.b", "+++++-", "(not_three_parts)"),
        ("/secret", {}, "+++++++++-", "The client is told only that there is no such namespace (hidden=True)"),
        ("/messages", "x" * 20_000, "-", "the packet is larger than limits.connect_packet_bytes"),
        ("/messages", "x" * 9_000, "+++++-", "the token is too long (too_long): received 9000, limit 8192"),
    ],
)
async def test_each_step_can_refuse(namespace: str, token: Any, expected: str, text: str) -> None:
    given_token = mint(**token) if isinstance(token, dict) else token or ""
    app = guard(many(), namespaces=POLICIES)
    played = await try_token(app, given_token, namespace)
    assert states(played) == expected
    assert (played.refusal is None) == ("-" not in expected)
    assert any(text in step.text for step in played.steps)
    # A play leaves nothing behind.
    assert app.status()["refused"] == {}
    assert app.connections() == []
    if len(given_token) > 10:
        assert not any(given_token in step.text for step in played.steps)


@pytest.mark.parametrize(
    ("options", "origins", "text"),
    [
        ({"payload_keys": ("authorization",)}, None, "in the payload, as 'authorization'"),
        ({"sources": ("header",)}, None, "in the Authorization header"),
        ({"sources": ("query:access",)}, None, "in the query parameter 'access'"),
        ({"sources": ("cookie:jwt",)}, ["https://a.example"], "in the cookie 'jwt'"),
    ],
)
async def test_the_token_is_where_the_guard_looks(options: dict[str, Any], origins: Any, text: str) -> None:
    auth = JWTAuth(SECRET, algorithms=["HS256"], **options)
    played = await try_token(guard(server("/messages"), auth=auth, allowed_origins=origins), mint(), "/messages")
    assert played.refusal is None
    assert played.steps[4].text == text


class Remote:
    """A store that must not be asked."""

    def revoke(self, revocation: Any) -> None: ...

    def is_revoked(self, identity: Any) -> bool:
        raise AssertionError("it was asked")


LENIENT = JWTAuth(SECRET, algorithms=["HS256"], issuer="dev", leeway=60)
BY_HEADER = JWTAuth(SECRET, algorithms=["HS256"], sources=("header",))
ENDLESS = JWTAuth(SECRET, algorithms=["HS256"], require=("sub",))


@pytest.mark.parametrize(
    ("options", "token", "expected", "step", "pattern"),
    [
        ({}, "Bearer a.b.c", "++++++-", 7, r".*base64url.*"),
        ({"auth": BY_HEADER}, "ü.b.c", "++++-", 5, r".*\(not_base64url\): source header"),
        ({"auth": None}, {}, "++++...+.+++..", 5, "no credential is looked for here"),
        ({"namespaces": None}, {}, "++++++++++++..", 2, "'/messages', token required"),
        (
            {"auth": LENIENT},
            {"lifetime": -5, "iss": "dev"},
            "++++++++++++..",
            7,
            r".*, issuer 'dev', expired .* ago, within the leeway",
        ),
        ({"auth": ENDLESS}, {"exp": None}, "++++++++++++..", 14, "no end of its own"),
        ({"store": Remote()}, {}, "++++++++.+++..", 9, "Remote is not asked without a network"),
    ],
)
async def test_what_the_options_of_the_guard_do(
    options: dict[str, Any], token: Any, expected: str, step: int, pattern: str
) -> None:
    given_token = token if isinstance(token, str) else mint(**token)
    played = await try_token(guard(server("/messages"), **options), given_token, "/messages")
    assert states(played) == expected
    assert re.fullmatch(pattern, played.steps[step - 1].text)


async def test_authorize_is_asked_only_when_that_is_wanted() -> None:
    asked = []

    async def never(identity: Any, connection: Any) -> bool:
        asked.append(identity.subject)
        return False

    def broken(identity: Any, connection: Any) -> bool:
        raise RuntimeError("a secret")

    async def slow(identity: Any, connection: Any) -> bool:
        await asyncio.Event().wait()
        return True

    for function, timeout, text in (
        (never, 8, "(authorize_refused)"),
        (broken, 8, "(admission): error RuntimeError"),
        (slow, 0.01, "(authorize)"),
    ):
        policies = [NamespacePolicy("/asked", authorize=function)]
        app = guard(server("/asked"), namespaces=policies, admission_timeout=timeout)
        played = await try_token(app, mint(), "/asked")
        assert (states(played), asked) == ("++++++++++++..", [])
        assert "authorize is not asked" in played.steps[9].text
        played = await try_token(app, mint(), "/asked", with_authorize=True)
        assert states(played) == "+++++++++-"
        assert text in played.steps[9].text
        assert "secret" not in played.steps[9].text
        asked.clear()


async def test_what_was_revoked_in_this_process_is_refused() -> None:
    app = guard(server("/messages"), auth=JWTAuth(SECRET, algorithms=["HS256"], max_lifetime=86_400))
    await app.revoke(subject="user-1")
    played = await try_token(app, mint(), "/messages")
    assert (states(played), played.steps[-1].text) == ("++++++++-", "the token was revoked (revoked)")


# --- keys that are published

CLAIMS = {"iss": "https://login.example.com/", "aud": "crm"}


def signed(key: Any = RSA, key_id: str | None = "one", **claims: Any) -> str:
    return mint_test(key=key, algorithm="RS256", headers={"kid": key_id} if key_id else {}, **{**CLAIMS, **claims})


async def _never(url: str) -> bytes:
    raise AssertionError("something was fetched")


def published(**options: Any) -> JWTAuth:
    good: dict[str, Any] = {"issuer": CLAIMS["iss"], "audience": "crm", "fetch": _never}
    return JWTAuth(jwks_url="https://keys.example.com/", **{**good, "algorithms": ["RS256"], **options})


async def test_without_the_keys_everything_but_the_signature_is_checked() -> None:
    app = guard(server("/messages"), auth=published())
    played = await try_token(app, signed(), "/messages")
    assert (states(played), played.refusal, played.admitted) == ("++++++.+++++..", None, None)
    assert "The signature was NOT checked" in played.steps[6].text
    played = await try_token(app, signed(aud="other"), "/messages")
    assert states(played) == "++++++-"
    assert "(audience_mismatch)" in played.steps[6].text
    assert "The signature was NOT checked" in played.steps[6].text
    # The guard itself goes on as before: a forged signature is not taken.
    assert app.auth is not None
    with pytest.raises(TokenError) as refused:
        app.auth.verify(signed(RSA_NEXT))
    assert refused.value.code is RejectCode.KEYS_UNAVAILABLE


@pytest.mark.parametrize(
    ("token", "expected", "text"),
    [
        (signed(), "++++++++++++..", "subject 'user-1', issuer 'https://login.example.com/', expires in"),
        (signed(RSA_NEXT), "++++++-", "(signature_mismatch)"),
        (signed(key_id="two"), "++++++-", "no key with its kid is published (key_unknown): key_id two"),
        (signed(key_id=None), "++++++++++++..", "subject 'user-1'"),
    ],
)
async def test_with_the_keys_the_signature_is_checked_too(token: str, expected: str, text: str) -> None:
    other = JWTAuth(SECRET, algorithms=["HS256"], issuer="own")
    for auth in (published(), [published(), other]):
        played = await try_token(
            guard(server("/messages"), auth=auth), token, "/messages", keys={"keys": [jwk(RSA, "one")]}
        )
        assert states(played) == expected
        assert text in played.steps[6].text


async def test_a_set_without_a_key_for_a_token_without_kid() -> None:
    keys = {"keys": [jwk(RSA, "one", alg="RS512")]}
    app = guard(server("/messages"), auth=published(algorithms=["RS256", "RS512"]))
    played = await try_token(app, signed(key_id=None), "/messages", keys=keys)
    assert played.steps[-1].text == "no key with its kid is published (key_unknown)"


def test_a_trial_from_the_command_line(write: Write, run: Run, tmp_path: Path) -> None:
    app, token = f"{write(GOOD)}:app", mint()
    printed = run("check", app, "--as", token, "/messages").out
    assert "✓  7  The credential is verified\n" in printed
    assert "  –       13  Handed on to the application\n" in printed
    assert printed.rstrip().endswith("/messages would be joined.")
    assert token not in printed
    (tmp_path / "token").write_text(mint(lifetime=-60))
    assert " ".join(run("check", app, "--as", "@token", "/messages", status=1).out.split()).endswith(
        "/messages would be refused. The client is told: Token has expired, code token_expired, retry refresh."
    )
    printed = run("check", app, "--as", "", "/message", status=1).out
    assert printed.rstrip().endswith("The client is told: Invalid namespace.")
    shown = json.loads(run("check", app, "--as", "", "/messages", "--json", status=1).out)
    assert (shown["schema_version"], shown["admitted"], shown["namespace"]) == (1, False, "/messages")
    assert shown["steps"][-1]["state"] == "refused"
    assert shown["answer"]["data"]["code"] == "token_missing"


def test_a_trial_without_the_keys_is_not_good_yet(write: Write, run: Run, tmp_path: Path) -> None:
    auth = f"JWTAuth(jwks_url='https://k.example/', algorithms=['RS256'], issuer={CLAIMS['iss']!r}, audience='crm', "
    app = write("async def fetch(url): ...\n" + GOOD.replace(AUTH, f"{auth} fetch=fetch)")) + ":app"
    forged = signed(RSA_NEXT)
    printed = run("check", app, "--as", forged, "/messages", status=1).out
    assert "/messages would be joined if the signature holds, which was NOT checked" in printed
    assert json.loads(run("check", app, "--as", forged, "/messages", "--json", status=1).out)["admitted"] is None
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk(RSA, "one")]}))
    keys = ["--jwks-file", "keys"]
    run("check", app, "--as", signed(), "/messages", *keys)
    assert "(signature_mismatch)" in run("check", app, "--as", forged, "/messages", *keys, status=1).out
    (tmp_path / "keys").write_text('{"keys": []}')
    said = run("check", app, "--as", signed(), "/messages", *keys, status=2).err
    assert "the JWK Set can't be used: no key of the set can be used" in said
    name = write(f"{HERE}app = socketio.ASGIApp(socketio.AsyncServer(async_mode='asgi'))")
    assert "nobody guards this application" in run("check", f"{name}:app", "--as", "x", "/", status=2).err


# --- asking the application


class Ran(list[str]):
    """The namespaces whose connect handlers ran."""

    async def connect(self, namespace: str, sid: str, environ: Any, auth: Any) -> None:
        print("noise of a handler")
        self.append(namespace)


def asking(path: str = "/socket.io", socketio_path: str = "socket.io", **options: Any) -> tuple[Any, Ran]:
    """A guarded Starlette application with the endpoint mounted somewhere, and whose handlers ran."""
    ran = Ran()
    sio = socketio.AsyncServer(async_mode="asgi", **options.pop("server", {}))
    for namespace in ("/messages", "/public", "/t-1"):
        sio.on("connect", functools.partial(ran.connect, namespace), namespace=namespace)
    options = {
        "auth": JWTAuth(SECRET, algorithms=["HS256"]),
        "namespaces": ["/messages", NamespacePolicy("/public", token="none"), NamespacePolicy("/t-{x}")],
        **options,
    }
    routes = [*options.pop("before", []), Mount(path, socketio.ASGIApp(sio, socketio_path=socketio_path))]
    return SocketGuard(Starlette(routes=routes), **options), ran


def asked(app: Any, token: str | None = None, names: list[str] | None = None) -> tuple[list[Any], list[str]]:
    """What was asked and answered, and the ids of all that is wrong."""
    found = examine(app)
    driven, wrong = asyncio.run(drive(app, found, token, names))
    found.findings += wrong
    return [(one.asked, one.answered, one.good) for one in driven], [one.id for one in check.findings(found)]


MISSING = ("/messages, without a token", "token_missing", True)


@pytest.mark.parametrize(("path", "socketio_path"), [("/socket.io", "socket.io"), ("/ws", ""), ("/ws", "ws")])
def test_the_application_is_asked_and_no_handler_runs(
    path: str, socketio_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app, ran = asking(path, socketio_path)
    assert asked(app) == ([(f"a session at {path}/", "opened", True), MISSING], [])
    assert ran == []
    assert app.status()["sessions"]["open"] == 0
    assert capsys.readouterr().err == "", "the guard's own lines are about nobody"


def test_the_command_asks_too(write: Write, run: Run) -> None:
    name = write(GOOD.replace("auth): ...", "auth): print('the handler ran')"))
    printed = run("check", f"{name}:app").out
    assert "✓ a session at /socket.io/: opened\n✓ /messages, without a token: token_missing\n" in printed
    server_only = write("import socketio\napp = socketio.AsyncServer(async_mode='asgi')\n")
    printed = run("check", f"{server_only}:app", status=1).out
    assert "Asked in this process" not in printed, "a server is no application"
    ran = run("check", f"{name}:app", "--drive")
    assert "✓ /messages, without a token: token_missing\n" in ran.out
    ran = run("check", f"{name}:app", "--drive", "--as", mint(), "/messages")
    assert "✓ /messages, with the token: joined\n" in ran.out
    assert "the handler ran" in ran.err
    name = write(
        "from starlette.responses import PlainTextResponse\napp = None\n"
        + GOOD.replace("app = ", "inner = ")
        + """
async def app(scope, receive, send):
    await PlainTextResponse("teapot", 418)(scope, receive, send)
app.app = inner
"""
    )
    assert "–  a session at /socket.io/: 418 teapot" in re.sub(" +", " ", run("check", f"{name}:app").out).replace(
        "– ", "–  "
    )


def test_asked_further_the_handlers_run() -> None:
    app, ran = asking()
    driven, _ = asked(app, names=["/messages", "/public"])
    assert driven[1:] == [MISSING, ("/public, without a token", "joined", True)]
    assert ran == ["/public"]
    driven, _ = asked(app, mint(), ["/messages", "/nowhere"])
    assert driven[1:] == [
        ("/messages, with the token", "joined", True),
        ("/nowhere, with the token", "Invalid namespace", False),
    ]
    assert ran == ["/public", "/messages"]


def test_who_does_not_answer_is_found() -> None:
    async def gone(request: Any) -> Any:
        return PlainTextResponse("gone\x1b", 404)

    async def broken(request: Any) -> Any:
        raise ValueError("needs its lifespan")

    async def redirected(request: Any) -> Any:
        return RedirectResponse("https://crm.example.com/")

    app, _ = asking(before=[Route("/socket.io/", gone)])
    assert asked(app) == ([("a session at /socket.io/", "404 gone\\u001b", False)], ["SG027"])
    app, _ = asking(before=[Route("/socket.io/", broken)])
    said = "the application raised ValueError (its lifespan is not run here)"
    assert asked(app) == ([("a session at /socket.io/", said, None)], [])
    app, _ = asking(before=[Route("/socket.io/", redirected)])
    assert asked(app) == ([("a session at /socket.io/", "307", None)], [])


def test_an_application_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(request: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("socketguard.cli.drive.PATIENCE", 0.05)
    app, _ = asking(before=[Route("/socket.io/", silent)])
    assert asked(app)[0] == [("a session at /socket.io/", "no answer within 5 s", None)]


async def _waits(identity: Any, connection: Any) -> bool:
    await asyncio.Event().wait()
    return True


def test_a_namespace_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = asking(namespaces=[NamespacePolicy("/public", token="none", authorize=_waits)])
    monkeypatch.setattr("socketguard.cli.drive.PATIENCE", 0.05)
    driven, _ = asked(app, names=["/public"])
    assert driven[1] == ("/public, without a token", "no answer within 5 s", None)


def test_an_application_that_fails_at_the_second_request() -> None:
    app, _ = asking()

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("method") == "POST":
            raise ValueError("no bodies here")
        await app(scope, receive, send)

    found = examine(app)
    driven, _ = asyncio.run(drive(fails, found))
    assert driven[1].answered == "the application raised ValueError (its lifespan is not run here)"
    assert driven[1].good is None


def test_a_mount_that_works_in_spite_of_its_form_is_no_error() -> None:
    class Stripping(Mount):
        """As of frameworks that hand on what is left of the path."""

        async def handle(self, scope: Any, receive: Any, send: Any) -> None:
            await super().handle({**scope, "path": scope["path"].removeprefix("/ws")}, receive, send)

    make = server
    guarded = guard(make("/messages")).server
    app = Starlette(routes=[Stripping("/ws", socketio.ASGIApp(guarded))])
    assert "SG021" in ids(app)
    assert asked(app) == ([("a session at /ws/socket.io/", "opened", True), MISSING], [])
    plain = Starlette(routes=[Mount("/ws", socketio.ASGIApp(guard(make("/messages")).server))])
    assert asked(plain) == ([], ["SG021"])


@pytest.mark.parametrize(
    ("options", "answered"),
    [
        ({"auth": None, "namespaces": None}, [("a session at /socket.io/", "opened", True)]),
        ({"server": {"serializer": "msgpack"}}, [("a session at /socket.io/", "opened", True)]),
    ],
)
def test_where_nobody_would_refuse_or_it_speaks_another_language_only_the_session_is_asked_for(
    options: dict[str, Any], answered: list[Any]
) -> None:
    app, ran = asking(**options)
    assert asked(app)[0] == answered
    assert ran == []


def test_a_server_for_websockets_only_is_not_called_wrong() -> None:
    app, _ = asking(server={"transports": ["websocket"]})
    ((_, said, good),), found = asked(app)
    assert said.startswith("400 ")
    assert (good, found) == (None, [])


def test_of_a_server_without_a_guard_only_the_session_is_asked_for() -> None:
    sio = server("/messages")
    app = socketio.ASGIApp(sio)
    assert asked(app) == ([("a session at /socket.io/", "opened", True)], ["SG036"])


def test_no_keys_are_fetched() -> None:
    fetched = []

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        return b"{}"

    auth = JWTAuth(jwks_url="https://id.example.com/jwks", algorithms=["RS256"], issuer="a", audience="b", fetch=fetch)
    app, _ = asking(auth=auth)
    driven, _ = asked(app)
    assert (driven[1], fetched) == (MISSING, [])
    token = jwt.encode({"sub": "u", "iss": "a", "aud": "b", "exp": 2**33}, RSA, "RS256", headers={"kid": "one"})
    driven, _ = asked(app, token, ["/messages"])
    assert driven[1][1].startswith("the session was ended without an answer; keys")
    assert (driven[1][2], fetched) == (None, [])


def test_a_hidden_namespace_that_hides_itself_is_good() -> None:
    app, _ = asking(namespaces=["/messages", NamespacePolicy("/public", hidden=True)])
    assert asked(app)[0][1:] == [MISSING, ("/public, without a token", "Invalid namespace", True)]


OF_KEYS = """
import hashlib
import socketio
from socketguard import Identity, NamespacePolicy, SocketGuard
from socketguard.auth import APIKeyAuth, SessionAuth
from socketguard.testing import make_auth

sio = socketio.AsyncServer(async_mode="asgi")
sio.on("echo", lambda sid: None, namespace="/messages")

async def lookup(digest):
    return Identity("ann") if digest == hashlib.sha256(b"key-of-ann").hexdigest() else None

auth = [APIKeyAuth(lookup), SessionAuth("a secret"), make_auth()]
app = SocketGuard(socketio.ASGIApp(sio), auth=auth, allowed_origins=["https://crm.example.com"])
keys_server = socketio.AsyncServer(async_mode="asgi")
keys_server.on("echo", lambda sid: None)
only_keys = SocketGuard(socketio.ASGIApp(keys_server), auth=APIKeyAuth(lookup))
"""


def test_any_credential_can_be_tried(run: Run, write: Write, tmp_path: Path) -> None:
    app = f"{write(OF_KEYS)}:app"

    def said(*arguments: str, status: int = 0) -> str:
        return " ".join(run("check", app, "--as", "", "/messages", *arguments, status=status).out.split())

    assert "subject 'ann'" in said("--header", "X-API-Key: key-of-ann")
    assert "/messages would be joined" in said("--auth-json", '{"api_key": "key-of-ann"}')
    assert "credential_invalid" in said("--header", "X-API-Key: another", status=1)
    (tmp_path / "auth.json").write_text('{"api_key": "key-of-ann"}')
    said("--auth-json", "@auth.json")
    session = cookie({"user_id": "bob"}, time.time(), "a secret")
    assert "subject 'bob'" in said("--cookie", f"session={session}")
    evil = ("--header", "Origin: https://evil.example")
    assert "token_missing" in said("--cookie", f"session={session}", *evil, status=1)
    # With a token alone no authenticator of the application is asked.
    assert "subject 'user-1'" in " ".join(run("check", app, "--as", mint_test(), "/messages").out.split())
    assert "token_missing" in said(status=1)
    for wrong in (
        ("--header", "X-API-Key"),
        ("--header", "ü: 1"),
        ("--cookie", "session"),
        ("--auth-json", "[]"),
        ("--auth-json", "{"),
    ):
        run("check", app, "--as", "", "/messages", *wrong, status=2)
    other = app.replace(":app", ":only_keys")
    run("check", other, "--as", "", "/", "--header", "x-api-key: key-of-ann")
    run("check", other, "--as", mint_test(), "/", status=1)
    assert "credential api_key" in " ".join(run("check", other).out.split())
