"""What passes costs no client its connection: a loop that stood, a CONNECT that is repeated before its answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
import uvicorn

from socketguard import SocketGuard
from socketguard.testing import capture_events, make_auth, mint
from tests.e2e.support import JavaScript, python_client, seen

PATIENCE = 60
BLOCKED = 2.2


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def served(app: Any, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """An application under uvicorn, in this process."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait((task,), timeout=PATIENCE)
        listener.close()


@contextlib.asynccontextmanager
async def sockets_left_behind() -> AsyncIterator[None]:
    """Whoever is cut off in the middle leaves sockets to the garbage collector, which says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        for _ in range(10):
            await asyncio.sleep(0.01)  # What is about to be closed is.
            gc.collect()


@contextlib.asynccontextmanager
async def swallowing(url: str, *, up: bool, down: bool) -> AsyncIterator[str]:
    """A proxy that opens WebSockets and lets no frame through, from the client (up) or to it (down)."""
    target = url.rpartition("/")[2].split(":")
    tasks: set[asyncio.Task[Any]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: bool) -> None:
        while data := await reader.read(65536):
            if not swallow:
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        to_server, of_server = await asyncio.open_connection(*target)
        writers.update((of_server, writer))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            of_server.write(head)
            opens = b"upgrade: websocket" in head.lower()
            if opens:
                writer.write(await to_server.readuntil(b"\r\n\r\n"))
            await asyncio.gather(pass_on(reader, of_server, opens and up), pass_on(to_server, writer, opens and down))
        except (OSError, asyncio.IncompleteReadError):
            pass  # One of the two has gone.
        finally:
            for each in (of_server, writer):
                each.transport.abort()

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks)


def make(prepare: Callable[[Any], None], options: dict[str, Any] | None = None, **guard: Any) -> SocketGuard:
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", **(options or {}))
    for namespace in ("/messages", "/other"):
        server.on("echo", lambda sid, value: value, namespace=namespace)
    prepare(server)
    return SocketGuard(socketio.ASGIApp(server), auth=make_auth(), logger=guard.pop("logger", False), **guard)


async def result_of(pending: Any) -> dict[str, Any]:
    found: dict[str, Any] = await asyncio.to_thread(pending.result)
    return found


@pytest.mark.parametrize("transports", ["polling", "websocket"])
async def test_who_connects_anew_before_the_answer_is_let_in(js: JavaScript, transports: str) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        entered.set()
        await release.wait()

    guard = make(lambda server: server.on("connect", connect, namespace="/messages"))
    async with served(guard) as url:
        name = f"{url} {transports}"
        steps = [{"signal": name}, {"disconnect": True}, {"connect": True}, {"signal": f"{name} again"}]
        steps += [{"wait": ["connect", "connect_error"]}, {"call": ["echo", 1]}]
        # The other namespace keeps the transport open.
        pending = js.start(url, also=["/other"], transports=transports, token=mint(), steps=steps)
        await asyncio.wait_for(entered.wait(), PATIENCE)
        await until(lambda: guard.connections(namespace="/other"))
        entered.clear()
        await asyncio.to_thread(js.signal, name)
        await asyncio.wait_for(entered.wait(), PATIENCE)
        await asyncio.to_thread(js.signal, f"{name} again")
        release.set()
        result = await result_of(pending)
    assert result["steps"][-1] == 1
    assert not seen(result, "connect_error")


@pytest.mark.parametrize("transports", ["polling", "websocket"])
async def test_a_handler_that_blocks_the_loop_ends_nobody(js: JavaScript, transports: str) -> None:
    blocking = asyncio.Event()

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if auth.get("late"):
            blocking.set()
        await asyncio.sleep(0.05)

    async def block(sid: str) -> str:
        await asyncio.wait_for(blocking.wait(), PATIENCE)
        time.sleep(BLOCKED)  # noqa: ASYNC251 - what this is about
        return "done"

    def prepare(server: Any) -> None:
        server.on("connect", connect, namespace="/messages")
        server.on("block", block, namespace="/messages")

    with capture_events() as events:
        guard = make(prepare, {"ping_interval": 2, "ping_timeout": 1}, admission_timeout=0.9, logger=None)
        async with served(guard) as url:
            steps: list[Any] = [{"wait": "connect"}, {"call": ["block"]}, {"call": ["echo", 1]}]
            first = js.start(url, transports=transports, token=mint("first"), steps=steps)
            await until(lambda: guard.connections(subject="first"))
            steps = [{"wait": "connect"}, {"call": ["echo", 2]}]
            second = js.start(url, transports=transports, auth={"token": mint("second"), "late": True}, steps=steps)
            results = [await result_of(first), await result_of(second)]
    assert [result["steps"][-1] for result in results] == [1, 2]
    for result in results:
        assert not seen(result, "connect_error")
        assert not seen(result, "disconnect")
    (line,) = [event for event in events if event["event"] == "socketguard.loop_blocked"]
    assert line["blocked_s"] >= 1
    assert not [event for event in events if event["event"] == "socketguard.connection.rejected"]


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True), (True, True)])
async def test_a_proxy_that_swallows_the_frames_of_websockets_costs_nothing(
    js: JavaScript, up: bool, down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketguard.server.websocket.UPGRADE_TIMEOUT", 1.0)
    with capture_events() as events:
        guard = make(lambda server: None, logger=None)
        async with sockets_left_behind(), served(guard) as server, swallowing(server, up=up, down=down) as url:
            steps: list[Any] = [{"wait": "connect"}, *({"call": ["echo", number]} for number in range(100))]
            steps.append({"signal": url})
            pending = js.start(url, transports="upgrade", token=mint(), steps=steps)
            failed = "socketguard.transport.upgrade_failed"
            await until(lambda: any(line["event"] == failed for line in events))
            await asyncio.to_thread(js.signal, url)
            result = await result_of(pending)
            await until(lambda: not guard.connections())
    assert result["steps"][1:101] == list(range(100))
    assert not seen(result, "disconnect")
    closed = [line for line in events if line["event"] == "socketguard.connection.closed"]
    assert {line["transport"] for line in closed} == {"polling"}


async def test_a_polled_python_client_comes_back_after_what_ended_its_session() -> None:
    """A body over the limit ends the session; this client stays away for good after a CLOSE packet."""
    guard = make(lambda server: None, {"max_http_buffer_size": 50_000})
    async with (
        sockets_left_behind(),
        served(guard) as url,
        python_client(url, transports="polling", token=mint(), reconnection=True) as client,
    ):
        await client.sio.emit("echo", "x" * 60_000, namespace="/messages")
        await until(lambda: len(client.of("connect")) == 2)
        assert await client.call("echo", 1) == 1


@pytest.mark.parametrize("trusted", [["unix"], []])
async def test_clients_behind_a_unix_socket_have_the_address_that_the_proxy_says(
    trusted: list[str], tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "app.sock"))
    with capture_events() as events:
        guard = make(lambda server: None, logger=None, trusted_proxies=trusted)
        async with (
            served(guard, listener),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "app.sock"))) as proxy,
        ):
            url = "http://crm.example.com/socket.io/?EIO=4&transport=polling"
            async with proxy.get(url, headers={"x-forwarded-for": "192.0.2.7"}) as answer:
                sid = json.loads((await answer.text())[1:])["sid"]
            packet = f'40/messages,{{"token":"{mint()}"}}'
            async with proxy.post(f"{url}&sid={sid}", data=packet, headers={"x-forwarded-for": "192.0.2.7"}):
                await until(lambda: guard.connections())
            assert guard.connections()[0].client_address == ("192.0.2.7" if trusted else None)
            async with proxy.post(f"{url}&sid={sid}", data="1"):
                await until(lambda: not guard.connections())
    warned = [line["id"] for line in events if line["event"] == "socketguard.config.warning"]
    assert warned.count("SG050") == (not trusted)
