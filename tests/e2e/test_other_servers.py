"""The same under other ASGI servers: what goes in, what is refused and why, and how a session is ended."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import websockets

from socketguard.cli import main
from socketguard.testing import mint
from tests.e2e.support import PATIENCE, ROOT, JavaScript, free_port

SERVERS = {
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:{port}", "tests.e2e.deployed:app"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "{port}", "tests.e2e.deployed:app"],
}


@pytest.fixture(scope="module", params=sorted(SERVERS))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    port = free_port()
    settings = {"guarded": True, "options": {"connect_timeout": 1}}
    process = subprocess.Popen(
        [sys.executable, *(word.format(port=port) for word in SERVERS[request.param])],
        cwd=ROOT,
        env={**os.environ, "E2E_SETTINGS": json.dumps(settings), "E2E_WORKER": "1", "SOCKETGUARD_LOG": "off"},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"{url}/socket.io/?EIO=4&transport=polling", timeout=1)
            except urllib.error.HTTPError:
                return
            return
        time.sleep(0.05)


@pytest.mark.parametrize("transports", ["websocket", "polling", "upgrade"])
def test_who_has_a_token_joins(url: str, js: JavaScript, transports: str) -> None:
    steps = [{"wait": "connect"}, *([{"wait": "upgrade"}] if transports == "upgrade" else [])]
    result = js.play(url, transports=transports, token=mint(), steps=steps)
    assert [step["kind"] for step in result["steps"]] == [step["wait"] for step in steps]


@pytest.mark.parametrize("transports", ["websocket", "polling"])
def test_who_is_refused_hears_why(url: str, js: JavaScript, transports: str) -> None:
    refused = js.outcome(url, transports=transports, token="nonsense")
    assert refused["data"]["code"] == "token_malformed"
    unknown = js.outcome(url, "/schedulr", transports=transports, token=mint())
    assert unknown["message"] == "Invalid namespace"


async def test_a_session_is_ended_with_its_code(url: str) -> None:
    async with websockets.connect(f"{url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket") as wire:
        begun = time.monotonic()
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await asyncio.wait_for(wire.recv(), PATIENCE)
        assert (wire.close_code, wire.close_reason) == (4408, "connect_timeout")
        # Not by some other deadline, such as that of the heartbeat.
        assert time.monotonic() - begun < 15


def test_the_doctor_finds_nothing(url: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(["doctor", url, "--namespace", "/messages", "--token", mint(), "--json"])
    assert (json.loads(out.getvalue())["findings"], status) == ([], 0)
