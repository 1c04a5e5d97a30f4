"""Real servers, clients and proxies for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import socketio
import websockets
import websockets.exceptions

ROOT = Path(__file__).parents[2]
JS = ROOT / "tests" / "js"

PATIENCE = 240.0
"""Seconds after which something is given up, so that a run ends at all. Whatever is only slow gets there before."""

TRANSPORTS: dict[str, list[str]] = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}

ACCEPTED, REJECTED = "socketguard.connection.accepted", "socketguard.connection.rejected"
CLOSED, SESSION_ENDED = "socketguard.connection.closed", "socketguard.session.ended"
HANDSHAKE_REJECTED, UPGRADED = "socketguard.handshake.rejected", "socketguard.transport.upgraded"
CLOSING = "event:socketguard:closing"

_numbers = itertools.count(1)
_ports: set[int] = set()


def new_address() -> str:
    """An address that no other client of this run has: refusals are held back per address."""
    number = next(_numbers)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def wait_until(condition: Callable[[], Any], what: Callable[[], str] | str) -> Any:
    """Poll until ``condition`` returns something true, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


async def until(condition: Callable[[], Any], what: Callable[[], str] | str = "") -> Any:
    """The same beside clients that run in this loop."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {what() if callable(what) else what}"
        await asyncio.sleep(0.05)
    return found


def free_port() -> int:
    """A port for a program that can't choose one by itself; none that an outgoing connection may be given meanwhile."""
    while True:
        port = random.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _ports:
                _ports.add(port)
                return port


class Program:
    """A child process, with what it prints in files."""

    def __init__(self, folder: Path, *command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        self.files = [folder / f"program-{next(_numbers)}.{kind}" for kind in ("out", "err")]
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,  # when it is closed, the applications of the tests end themselves
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self.files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.files[1].read_text(errors="replace")

    def output(self) -> str:
        """Everything on stdout and stderr so far."""
        return self.out + self.err

    def find(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches."""
        ended = False
        while not (found := re.search(pattern, self.output())) and not ended:
            ended = self.process.poll() is not None  # it may have printed this at last
            time.sleep(0.01)
        assert found, self.output()
        return found

    def lines(self) -> list[str]:
        """The lines that are no JSON."""
        return [line for line in self.output().splitlines() if not line.startswith("{")]

    def events(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The JSON log lines whose fields have these values."""
        whole = (text[: text.rfind("\n") + 1] for text in (self.out, self.err))
        lines = (line for text in whole for line in text.splitlines() if line.startswith("{") and (event or "") in line)
        records = map(json.loads, lines)
        return [
            record
            for record in records
            if event in (None, record["event"]) and all(record.get(name) == value for name, value in fields.items())
        ]

    def wait_for_event(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first log line with these values, when it is there."""
        found = wait_until(lambda: self.events(event, **fields), lambda: f"{event} {fields} in\n{self.output()}")
        return dict(found[0])

    async def event(self, event: str, **fields: Any) -> dict[str, Any]:
        """The same beside clients that run in this loop."""
        found = await until(lambda: self.events(event, **fields), lambda: f"{event} {fields} in\n{self.output()}")
        return dict(found[0])

    def interrupt(self) -> int:
        """What Ctrl-C does: a signal to everything that the terminal runs. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self._reap()

    def terminate(self) -> int:
        """Ask the process to end by SIGTERM, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def kill(self) -> None:
        """End the process, and those that it started, as a crash does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> int:
        status = self.process.wait(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status

    def stop(self) -> None:
        """End the process in the way that suits it."""
        self.kill()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Program):
    """A uvicorn process with an application that ``E2E_SETTINGS`` describes, by default that of `tests.e2e.apps`."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        arguments: Sequence[str] = (),
        app: str = "tests.e2e.apps:app",
        port: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.packed = settings.get("serializer") == "msgpack"
        self.prints_tracebacks = False
        """Whether the test expects tracebacks of the application's own defects."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SOCKETGUARD_")}
        environment |= {"E2E_SETTINGS": json.dumps(dict(settings)), "PYTHONUNBUFFERED": "1", **(env or {})}
        command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--no-proxy-headers"]
        while True:
            super().__init__(folder, *command, "--port", str(port), *arguments, env=environment)
            try:
                found = self.find(r"running on (https?://127\.0\.0\.1:(\d+))|address already in use")
            except BaseException:
                self.kill()
                raise
            if found[1]:
                break
            self.kill()
        self.url, self.port = found[1], int(found[2])

    def request(self, path: str, method: str = "GET") -> str:
        """Ask one of the application's own routes."""
        answer = request(self.url, path, method)
        assert answer.status == 200, answer
        return answer.body

    def post(self, path: str) -> str:
        """The same with POST."""
        return self.request(path, "POST")

    def ask(self, path: str, method: str = "POST") -> Any:
        """The same, where the answer is JSON."""
        return json.loads(self.request(path, method))

    def state(self) -> dict[str, Any]:
        """What the server holds of its clients and is not empty."""
        return {name: value for name, value in self.ask("/control/state", "GET").items() if value}

    def wait_until_empty(self) -> None:
        """Wait until nothing is left of any client."""
        wait_until(lambda: not self.state(), lambda: f"left behind: {self.state()}")

    def memory(self) -> int:
        """The most memory that the process has ever held, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def ends_well(self) -> None:
        """End by SIGTERM, after which uvicorn raises the signal that it caught once more."""
        assert self.terminate() == -signal.SIGTERM, self.output()
        assert "Application shutdown complete" in self.output()

    def stop(self) -> None:
        """End the process, and check that nothing went wrong in it that nobody has seen."""
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the server did not stop:\n{self.output()}") from None
        strays = [line for line in self.lines() if "Traceback" in line or "never awaited" in line]
        assert self.prints_tracebacks or not strays, self.output()


@contextlib.contextmanager
def running(command: Sequence[str], log_file: Path, port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A foreground child process that listens on ``port``, until the block ends."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), lambda: log_file.read_text(errors="replace"))
        assert process.poll() is None, log_file.read_text(errors="replace")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
            return True
    except OSError:
        return False


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: str
    headers: http.client.HTTPMessage

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    url: str, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Make a request by hand; a body that is no text goes in chunks."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=PATIENCE, context=tls)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        whole = body.encode() if isinstance(body, str) else body
        chunked = body is not None and not isinstance(body, str)
        connection.request(method, path, whole, dict(headers or {}), encode_chunked=chunked)
        answer = connection.getresponse()
        return Answer(answer.status, "" if answer.status == 101 else answer.read().decode(), answer.headers)


class Polling:
    """A polling session by hand, behind a proxy that tells of an address unless the headers are others."""

    def __init__(self, server: Server, token: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.url = server.url
        self.address = new_address()
        self.headers = {"X-Forwarded-For": self.address} if headers is None else headers
        self.path = "/socket.io/?EIO=4&transport=polling"
        self.answer = self.get()
        """To the handshake."""
        if self.answer.status == 200:
            self.path += "&sid=" + json.loads(self.answer.body[1:])["sid"]
        self.sid = "" if token is None else self.join(token)

    def get(self) -> Answer:
        """Poll."""
        return request(self.url, self.path, headers=self.headers)

    def post(self, body: Any) -> Answer:
        """Send packets."""
        return request(self.url, self.path, "POST", body, self.headers)

    def join(self, token: str) -> str:
        """Join the namespace ``/messages``, and return the id there."""
        assert self.post(f'40/messages,{{"token":"{token}"}}').status == 200
        found = self.get().body
        assert found.startswith('40/messages,{"sid":'), found
        return str(json.loads(found.removeprefix("40/messages,"))["sid"])


class Wire:
    """A WebSocket session by hand."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def send(self, frame: str | bytes) -> None:
        await self.inner.send(frame)

    async def frame(self) -> str:
        """The next packet that is no ping."""
        while (found := await asyncio.wait_for(self.inner.recv(), PATIENCE)) == "2":
            await self.inner.send("3")
        return found if isinstance(found, str) else found.decode("latin-1")

    async def join(self, token: str, namespace: str = "/messages") -> str:
        """Join a namespace, and return the id there."""
        await self.send(f'40{namespace},{{"token":"{token}"}}')
        found = await self.frame()
        assert found.startswith(f'40{namespace},{{"sid":'), found
        return str(json.loads(found.removeprefix(f"40{namespace},"))["sid"])

    async def end(self) -> tuple[list[str], tuple[int, str] | None]:
        """The packets until the server closes, and the code and the reason with which it does."""
        found = []
        while True:
            try:
                found.append(await self.frame())
            except websockets.exceptions.ConnectionClosed as closed:
                return found, closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)


@contextlib.asynccontextmanager
async def wire(url: str, *, path: str = "/socket.io/", query: str = "", **options: Any) -> AsyncIterator[Wire]:
    """A WebSocket to a server or a proxy; with the id of a session in the query, one that it may move to."""
    address = f"{url.replace('http', 'ws', 1)}{path}?EIO=4&transport=websocket{query}"
    options.setdefault("additional_headers", {"X-Forwarded-For": new_address()})
    async with websockets.connect(address, proxy=None, open_timeout=PATIENCE, **options) as inner:
        found = Wire(inner)
        if not query:
            assert (await found.frame()).startswith("0{")
        yield found


class Python:
    """python-socketio's own client, and what it notices: the kind, the namespace, and what came with it."""

    def __init__(self, sio: Any, namespaces: Sequence[str]) -> None:
        self.sio = sio
        self.notes: list[tuple[Any, ...]] = []
        for namespace in namespaces:
            for kind in ("connect", "connect_error", "disconnect", "*"):
                sio.on(kind, functools.partial(self._note, kind, namespace), namespace=namespace)

    def _note(self, kind: str, namespace: str, *args: Any) -> None:
        if kind == "*":
            kind, args = f"event:{args[0]}", args[1:]
        self.notes.append((kind, namespace, *args))

    def of(self, kind: str) -> list[Any]:
        """What came with each thing of this kind."""
        return [args[0] if args else None for found, _, *args in self.notes if found == kind]

    async def call(self, event: str, *data: Any, namespace: str = "/messages") -> Any:
        return await self.sio.call(event, *data, namespace=namespace, timeout=PATIENCE)


@contextlib.asynccontextmanager
async def python_client(
    server: Program | str,
    *namespaces: str,
    transports: str = "websocket",
    token: str | None = None,
    reconnection: bool = False,
    **options: Any,
) -> AsyncIterator[Python]:
    """A client of python-socketio that each namespace has answered."""
    url = server if isinstance(server, str) else server.url  # type: ignore[attr-defined]
    serializer = "msgpack" if isinstance(server, Server) and server.packed else "default"
    names = namespaces or ("/messages",)
    options.setdefault("headers", {"X-Forwarded-For": new_address()})
    if token is not None:
        options["auth"] = {"token": token}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
        sio = socketio.AsyncClient(
            serializer=serializer, reconnection=reconnection, handle_sigint=False, http_session=session
        )
        client = Python(sio, names)
        try:
            # With `wait` it would wait for the whole of a timeout where some are refused.
            await sio.connect(url, transports=TRANSPORTS[transports], namespaces=list(names), wait=False, **options)
            answers = ("connect", "connect_error")
            await until(lambda: {name for kind, name, *_ in client.notes if kind in answers} == set(names))
            yield client
        finally:
            await sio.disconnect()
            # Where the server is the first to close, the client leaves its connection to the garbage collector.
            sio.eio.ws = None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


class Pending(Future[Any]):
    """What a Node process will answer."""

    def result(self, timeout: float | None = 2 * PATIENCE) -> Any:
        return super().result(timeout)


class Driver:
    """A Node process that takes tasks as JSON lines."""

    def __init__(self, script: str) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, Pending] = {}
        self._process = subprocess.Popen(
            ["node", script], cwd=JS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(AssertionError(answer["error"]))
            else:
                future.set_result(answer["result"])
        for future in self._waiting.values():
            future.set_exception(AssertionError("the Node process has ended"))

    def start(self, task: Mapping[str, Any]) -> Pending:
        """Begin a task."""
        future = Pending()
        number = next(self._numbers)
        self._waiting[number] = future
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **task}) + "\n")
        self._process.stdin.flush()
        return future

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


class JavaScript:
    """The stock JavaScript client."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def signal(self, name: str) -> None:
        """Let all scenarios go on that wait for this signal, now or later; a name serves once in a run."""
        self._driver.start({"signal": name}).result()

    def start(
        self,
        server: Server | str,
        namespace: str = "/messages",
        *,
        transports: str = "websocket",
        address: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Any = None,
        token: str | None = None,
        tokens: Sequence[str] | None = None,
        token_url: str | None = None,
        refresh: bool = False,
        also: Sequence[str] = (),
        local_address: str | None = None,
        steps: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Pending:
        """Begin a scenario; see ``tests/js/client.mjs``."""
        every = {**(headers or {}), **({} if address is None else {"X-Forwarded-For": address})}
        settings = {"transports": TRANSPORTS[transports], **options}
        if every:
            settings["extraHeaders"] = every
        if token is not None or auth is not None:
            settings["auth"] = {"token": token} if auth is None else auth
        scenario = {
            "url": server if isinstance(server, str) else server.url,
            "msgpack": isinstance(server, Server) and server.packed,
            "namespace": namespace,
            "options": settings,
            "tokens": tokens,
            "tokenUrl": token_url,
            "refresh": refresh,
            "also": list(also),
            "localAddress": local_address,
            "steps": steps,
        }
        return self._driver.start(scenario)

    def play(self, server: Server | str, namespace: str = "/messages", **options: Any) -> dict[str, Any]:
        """Play a scenario to its end."""
        result: dict[str, Any] = self.start(server, namespace, **options).result()
        return result

    def outcome(self, server: Server | str, namespace: str = "/messages", **options: Any) -> dict[str, Any]:
        """What the first answer to a CONNECT was."""
        found: dict[str, Any] = self.play(server, namespace, **options)["steps"][0]
        return found


def joining(transports: str) -> list[dict[str, Any]]:
    """The steps of a scenario until it has joined over the transport that is meant."""
    return [{"wait": "connect"}, *([{"wait": "upgrade"}] if transports == "upgrade" else [])]


def wait_until_joined(server: Server, transports: str, **fields: Any) -> dict[str, Any]:
    """The log line of a client that has joined over the transport that is meant."""
    line = server.wait_for_event(ACCEPTED, **fields)
    if transports == "upgrade":
        server.wait_for_event(UPGRADED, session=line["session"])
    return line


def seen(result: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """Everything of some kinds that a client noticed."""
    return [note for note in result["seen"] if note["kind"] in kinds]
