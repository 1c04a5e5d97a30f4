"""The same under other ASGI servers: what goes in, what is refused and why, and how a session is ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketguard.cli import main
from socketguard.testing import mint
from tests.e2e.support import TRANSPORTS, JavaScript, Program, free_port, joining, wait_until, wire

SERVERS = {
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:{port}", "tests.e2e.deployed:app"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "{port}", "tests.e2e.deployed:app"],
}


@pytest.fixture(scope="module", params=sorted(SERVERS))
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    settings = {"guarded": True, "options": {"connect_timeout": 4}}
    env = {**os.environ, "E2E_SETTINGS": json.dumps(settings), "E2E_WORKER": "1", "SOCKETGUARD_LOG": "off"}

    def listening() -> tuple[Program, re.Match[str]] | None:
        """The server; None where somebody else was faster at its port."""
        words = (word.format(port=free_port()) for word in SERVERS[request.param])
        program = Program(folder, sys.executable, *words, env=env)
        with contextlib.suppress(AssertionError):
            # What connects before granian's worker has started is never answered.
            return program, program.find(r"(http://127\.0\.0\.1:\d+)(?: \(CTRL|[\s\S]*Started worker)")
        return None

    program, found = wait_until(listening, "a server")
    yield found[1]
    program.terminate()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_who_has_a_token_joins(url: str, js: JavaScript, transports: str) -> None:
    steps = joining(transports)
    result = js.play(url, transports=transports, token=mint(), steps=steps)
    assert [step["kind"] for step in result["steps"]] == [step["wait"] for step in steps]


@pytest.mark.parametrize("transports", ["websocket", "polling"])
def test_who_is_refused_hears_why(url: str, js: JavaScript, transports: str) -> None:
    refused = js.outcome(url, transports=transports, token="nonsense")
    assert refused["data"]["code"] == "token_malformed"
    unknown = js.outcome(url, "/schedulr", transports=transports, token=mint())
    assert unknown["message"] == "Invalid namespace"


async def test_a_session_is_ended_with_its_code(url: str) -> None:
    async with wire(url) as session:
        assert (await session.end())[1] == (4408, "connect_timeout")


def test_the_doctor_finds_nothing(url: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["doctor", url, "--namespace", "/messages", "--token", mint(), "--timeout", "300", "--json"])
    assert (json.loads(out.getvalue())["findings"], status) == ([], 0)
