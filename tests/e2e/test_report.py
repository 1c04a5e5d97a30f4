"""``report_only`` on a service whose clients send no token: nobody notices, and the report says who would."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import TEST_SECRET, mint
from tests.e2e.support import PATIENCE, JavaScript, Server, python_client

APP = """
import os
import jwt
import socketio
from socketguard import SocketGuard
from socketguard.testing import make_auth

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("connect", namespace="/messages")
async def connect(sid, environ, auth):
    # Written by hand: it lets everybody in, and looks at the token if there is one.
    try:
        claims = jwt.decode(auth["token"], os.environ["SECRET"], algorithms=["HS256"])
    except Exception:
        claims = {"sub": "somebody"}
    await sio.save_session(sid, claims, namespace="/messages")


@sio.on("whoami", namespace="/messages")
async def whoami(sid):
    return (await sio.get_session(sid, namespace="/messages"))["sub"]


app = socketio.ASGIApp(sio)
if os.environ.get("GUARDED"):
    app = SocketGuard(app, auth=make_auth(), report_only=True)
"""


def play(js: JavaScript, server: Server, transport: str) -> list[Any]:
    """What clients of several kinds see, but for ids and times."""
    seen = []
    expired, foreign = mint(lifetime=-60), mint(key="of another service, and long enough for it")
    for namespace, auth in (
        ("/messages", None),
        ("/messages", {"token": mint("ann")}),
        ("/messages", {"token": expired}),
        ("/messages", {"token": foreign}),
        ("/messages", {"token": 5}),
        ("/mesages", {"token": mint("ann")}),
    ):
        steps: list[dict[str, Any]] = [{"wait": ["connect", "connect_error"]}]
        if namespace == "/messages":
            steps.append({"call": ["whoami"]})
        options: dict[str, Any] = {} if auth is None else {"auth": auth}
        found = js.play(server, namespace, transports=transport, steps=steps, **options)
        # When an upgrade comes, and whether before the client has left again, is a matter of time.
        notes = [note for note in found["seen"] if note["kind"] not in ("open", "upgrade", "upgradeError")]
        changing = ("sid", "engine", "id", "transport")
        seen += [{name: value for name, value in note.items() if name not in changing} for note in notes]
        seen += found["steps"][1:]
    return seen


@pytest.mark.parametrize("transport", ["polling", "websocket", "upgrade"])
async def test_no_client_notices_and_the_report_says_who_would_be_kept_out(
    transport: str, folder: Path, tmp_path: Path, js: JavaScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "by_hand.py").write_text(APP, encoding="utf-8")
    monkeypatch.setenv("SECRET", TEST_SECRET)
    arguments = ["--app-dir", str(tmp_path)]
    with Server(folder, {}, app="by_hand:app", arguments=arguments) as bare:
        before = play(js, bare, transport)
        bare.kill()  # it would wait for polls that nobody reads any more
    with Server(folder, {}, app="by_hand:app", arguments=arguments, env={"GUARDED": "1"}) as guarded:
        assert play(js, guarded, transport) == before
        async with python_client(guarded, transports=transport) as client:
            assert await client.call("whoami") == "somebody"
        (tmp_path / "app.log").write_text(guarded.output(), encoding="utf-8")
    command = [sys.executable, "-m", "socketguard", "report", "--json", str(tmp_path / "app.log")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    counts: dict[str, int] = {}
    for row in json.loads(done.stdout)["rows"]:
        counts[row["reason"]] = counts.get(row["reason"], 0) + row["count"]
    assert counts == {
        "token_missing": 2,
        "token_expired": 1,
        "token_invalid": 1,
        "token_malformed": 1,
        "invalid_namespace": 1,
    }
    command.remove("--json")
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE)
    assert "token_missing in /messages: 1 client" in done.stdout, done.stdout
    assert "Python" in done.stdout
