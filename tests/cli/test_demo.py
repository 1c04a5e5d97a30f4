# ruff: noqa: E402 - what the extra installs is looked for first
"""``socketguard demo``: real sockets, and what it says when something goes wrong."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard import JWTAuth, SocketGuard
from socketguard.cli.output import Printer

for package in ("uvicorn", "websockets", "aiohttp"):
    pytest.importorskip(package, reason="needs the extra socketguard[demo]")

from socketguard.cli.demo import Client, guarded, play, secrets_in

Run = Callable[..., Any]
TITLES = [
    "A valid token",
    "No token",
    "An expired token",
    "A forged signature",
    "A namespace that does not exist: /schedulr",
    "A valid token without the scope of /scheduler",
    "A message to everybody of one's tenant, and to nobody else",
    "No token and no key in any line of the log",
]


def headings(printed: str, mark: str) -> list[str]:
    return re.findall(rf"^{mark} (.*)$", printed, re.MULTILINE)


def test_both_sides_of_each_case(run: Run) -> None:
    _, printed, errors = run("demo")
    assert headings(printed, "✓") == TITLES
    assert headings(printed, "✗") == []
    assert errors == ""
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert "eyJ" not in printed
    text = " ".join(printed.split())
    assert "client refused: Token has expired code token_expired, retry refresh, ref " in text
    assert "log WARNING socketguard.connection.rejected Refused '/messages': Token has expired (token_expired" in text
    assert "client refused: Invalid namespace log WARNING" in text
    assert "asked '/schedulr', registered '/messages', '/scheduler'; did you mean '/scheduler'?" in text
    assert "ana sent 'hello from ana', answered with {'delivered_to': 'acme'} received ['hello from ana']" in text
    assert printed.endswith("All 8 went as they should.\n\n")


async def played(application: Callable[[str], Any], patience: float) -> str:
    """What is printed of an application with which something goes wrong."""
    stream = io.StringIO()
    assert await play(Printer(stream), application=application, patience=patience) == 1
    return stream.getvalue()


async def test_it_fails_when_good_tokens_are_refused() -> None:
    def of_others(secret: str) -> SocketGuard:
        server = guarded(secret).server
        SocketGuard.of(server).detach()
        auth = JWTAuth(secret, algorithms=["HS256"], audience="others")
        return SocketGuard(socketio.ASGIApp(server), auth=auth, logger=False)

    printed = await played(of_others, 60)
    assert "A valid token" in headings(printed, "✗")
    assert TITLES[6] in headings(printed, "✗")
    assert "No token" in headings(printed, "✓")
    assert "wrong   event: expected 'socketguard.connection.accepted', found" in printed
    assert "'BadNamespaceError'" in printed
    assert "of 8 went wrong.\n" in printed


async def test_it_fails_when_nobody_guards() -> None:
    # Without a guard the handler fails and the client gets no answer: all of it is waited for in vain.
    def unguarded(secret: str) -> Any:
        guard = guarded(secret)
        guard.detach()
        return socketio.ASGIApp(guard.server)

    assert set(TITLES[:7]) <= set(headings(await played(unguarded, 0.2), "✗"))


def test_it_would_notice_a_token_in_the_log() -> None:
    lines = [{"event": "x", "level": "info", "user_agent": "agent eyJhbGciOi.e30.sig"}]
    assert secrets_in(lines, ["the key", "eyJhbGciOi.e30.sig"]).wrong == ["secrets in the log: expected 0, found 1"]
    assert secrets_in(lines, ["the key"]).wrong == []


def test_it_takes_no_arguments(run: Run) -> None:
    assert "Usage: socketguard demo" in run("demo", "--port", "80", status=2).err


async def test_a_client_that_reaches_no_server_says_so() -> None:
    async with Client("/messages", 60) as client:
        await client.join("http://127.0.0.1:9", None)
    assert client.error == "Cannot connect to host 127.0.0.1:9 ssl:default [Connect call failed ('127.0.0.1', 9)]"
