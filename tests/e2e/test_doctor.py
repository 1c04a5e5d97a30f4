"""`socketguard doctor` against real servers; what proxies do to it is tested elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from socketguard.cli.doctor import main
from socketguard.testing import mint
from tests.e2e.support import Server

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("connect", namespace="/messages")
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    return None


bare = socketio.ASGIApp(sio)


@pytest.fixture(scope="module")
def unguarded(folder: Path) -> Iterator[Server]:
    with Server(folder, {}, app="tests.e2e.test_doctor:bare") as server:
        yield server


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, str]], str]:
    status = main([*arguments, "--json"])
    printed = capsys.readouterr().out
    return status, json.loads(printed)["findings"], printed


def test_an_unguarded_server(unguarded: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(capsys, unguarded.url, "--namespace", "/messages")[:2] == (0, [])


def test_a_guarded_server_without_a_token(crm: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(capsys, f"{crm.url}/messages")[:2] == (0, [])


def test_a_guarded_server_with_a_token(crm: Server, capsys: pytest.CaptureFixture[str]) -> None:
    token = mint("ana", tenant_id="acme")
    assert examine(capsys, crm.url, "--namespace", "/messages", "--token", token)[:2] == (0, [])


def test_an_expired_token_is_told_and_not_shown(crm: Server, capsys: pytest.CaptureFixture[str]) -> None:
    token = mint("ana", tenant_id="acme", exp=time.time() - 180)
    status, (finding,), printed = examine(capsys, crm.url, "--namespace", "/messages", "--token", token)
    assert (status, finding["id"]) == (1, "S-34")
    assert "expired 3 minutes ago" in finding["evidence"]
    assert "eyJ" not in printed


def test_a_misspelt_namespace(unguarded: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, (finding,), _ = examine(capsys, f"{unguarded.url}/mesages")
    assert (status, finding["id"]) == (1, "S-25")


def test_a_wrong_path(crm: Server, unguarded: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for server in (crm, unguarded):
        status, (finding, *_), _ = examine(capsys, server.url, "--path", "/ws")
        assert (status, finding["id"]) == (1, "S-09")
    unguarded.prints_tracebacks = True  # python-engineio answers a WebSocket with HTTP
