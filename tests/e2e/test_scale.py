"""Several uvicorn workers on one real Redis, as ``docs/scale.md`` has it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketguard.testing import TEST_SECRET, mint
from tests.e2e.support import CLOSED, JavaScript, Server, free_port, request, wait_until

WORKERS = 4
APP = """
import os
import socketio
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from socketguard import SocketGuard
from socketguard.redis import RedisStore
from socketguard.testing import make_auth

REDIS = os.environ["REDIS_URL"]
sio = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(REDIS))
guard = SocketGuard.protect(
    sio, auth=make_auth(max_lifetime=7200), store=RedisStore(REDIS), namespaces=["/messages"]
)
guard.drain_on_sigterm(over=1)
sio.on("echo", lambda sid, data: data, namespace="/messages")


async def revoke(request):
    ended = await guard.revoke(**request.query_params)
    return JSONResponse({"ended": ended, "workers": ended.workers, "missing": ended.missing})


async def disconnect(request):
    ended = await guard.disconnect(**request.query_params)
    return JSONResponse({"ended": ended, "workers": ended.workers, "missing": ended.missing})


async def status(request):
    return JSONResponse(guard.status())


routes = [
    Route("/revoke", revoke, methods=["POST"]),
    Route("/disconnect", disconnect, methods=["POST"]),
    Route("/status", status),
    Route("/ready", guard.ready),
    Mount("/", socketio.ASGIApp(sio)),
]
app = Starlette(routes=routes)
"""


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    log = folder / "redis.log"
    while True:
        port = free_port()
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--logfile", str(log)]
        process = subprocess.Popen(["redis-server", *words])
        wait_until(lambda p=process: p.poll() is not None or "Ready to accept" in _text(log), "Redis")
        if process.poll() is None:
            break
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def server(folder: Path, tmp_path: Path, redis: str) -> Iterator[Server]:
    (tmp_path / "scaled.py").write_text(APP, encoding="utf-8")
    arguments = ["--app-dir", str(tmp_path), "--workers", str(WORKERS)]
    env = {"REDIS_URL": redis, "SECRET": TEST_SECRET}
    with Server(folder, {}, app="scaled:app", arguments=arguments, port=free_port(), env=env) as found:
        wait_until(lambda: len(re.findall("Application startup complete", found.output())) == WORKERS, found.output)
        # A worker begins with its first request.
        wait_until(lambda: workers_seen(found) == WORKERS, found.output)
        yield found


def workers_seen(server: Server) -> int:
    request(server.url, "/socket.io/?EIO=4&transport=polling&nothing=1", "OPTIONS")
    return int(request(server.url, "/status").json["workers"])


def test_what_one_worker_is_asked_happens_at_all(server: Server, js: JavaScript) -> None:
    steps = [{"wait": "connect"}, {"wait": "disconnect"}]
    clients = [js.start(server, token=mint("ann", jti="t-1"), steps=steps) for _ in range(12)]
    others = [js.start(server, token=mint("bob", jti=f"b-{number}"), steps=steps) for number in range(6)]

    def joined() -> bool:
        return len(server.events("socketguard.connection.accepted")) == 18

    wait_until(joined, server.output)
    began = time.monotonic()
    answer = request(server.url, "/revoke?token_id=t-1", "POST").json
    assert answer == {"ended": 12, "workers": WORKERS, "missing": []}, answer
    for client in clients:
        (told,) = [note["args"][0] for note in client.result()["seen"] if note["kind"] == "event:socketguard:closing"]
        assert told["code"] == "token_revoked"
    assert time.monotonic() - began < 200
    for _ in range(6):
        assert js.outcome(server, token=mint("ann", jti="t-1"))["data"]["code"] == "token_revoked"
    answer = request(server.url, "/disconnect?subject=bob&reason=Goodbye", "POST").json
    assert answer == {"ended": 6, "workers": WORKERS, "missing": []}, answer
    for client in others:
        (told,) = [note["args"][0] for note in client.result()["seen"] if note["kind"] == "event:socketguard:closing"]
        assert (told["code"], told["message"]) == ("kicked", "Goodbye")
    reasons = [line["reason"] for line in server.events(CLOSED)]
    assert sorted(reasons) == ["kicked"] * 6 + ["token_revoked"] * 12
    assert json.loads(json.dumps(answer))
    server.process.send_signal(signal.SIGTERM)
