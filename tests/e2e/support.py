"""Real servers, clients and proxies for the tests."""

from __future__ import annotations

import contextlib
import gc
import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
JS = ROOT / "tests" / "js"

PATIENCE = 30.0
"""Seconds after which a condition is given up. Nothing is decided by it: a test that passes never waits so long."""

_addresses = itertools.count(1)


def new_address() -> str:
    """An address that no other client of this run has: refusals are held back per address."""
    number = next(_addresses)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def wait_until(condition: Callable[[], Any], what: Callable[[], str] | str) -> Any:
    """Poll until ``condition`` returns something true, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain: {what() if callable(what) else what}")
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A port that was free a moment ago, for programs that can't choose one by themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A uvicorn process with the application of `tests.e2e.apps`."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        arguments: Sequence[str] = (),
        app: str = "tests.e2e.apps:app",
    ) -> None:
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self.prints_tracebacks = False
        """Whether the test expects tracebacks of the application's own defects."""
        self.log_file = folder / f"server-{next(_addresses)}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SOCKETGUARD_")}
        environment |= {"E2E_SETTINGS": json.dumps(dict(settings)), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "0", "--no-proxy-headers"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,  # when it is closed, the application ends itself
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.port, self.url = self._address()
        except BaseException:
            self.process.kill()
            self._reap()
            raise

    def _address(self) -> tuple[int, str]:
        found = wait_until(
            lambda: (
                re.search(r"running on (https?)://127\.0\.0\.1:(\d+)", self.output()) or self.process.poll() is not None
            ),
            self.output,
        )
        assert isinstance(found, re.Match), self.output()
        return int(found[2]), f"{found[1]}://127.0.0.1:{found[2]}"

    def _reap(self) -> int:
        status = self.process.wait(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status

    def output(self) -> str:
        """Everything on stdout and stderr so far."""
        return self.log_file.read_text(errors="replace")

    def lines(self) -> list[str]:
        """The lines that are no JSON."""
        return [line for line in self.output().splitlines() if not line.startswith("{")]

    def events(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The JSON log lines whose fields have these values."""
        found = []
        text = self.output()
        for line in text[: text.rfind("\n") + 1].splitlines():
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if event in (None, record["event"]) and all(record.get(name) == value for name, value in fields.items()):
                found.append(record)
        return found

    def wait_for_event(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first log line with these values, when it is there."""
        found = wait_until(lambda: self.events(event, **fields), lambda: f"{event} {fields} in\n{self.output()}")
        return dict(found[0])

    def request(self, path: str, method: str = "GET") -> str:
        """Ask one of the application's own routes."""
        request = urllib.request.Request(self.url + path, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE, context=self._tls) as answer:
            return str(answer.read().decode())

    def post(self, path: str) -> str:
        """The same with POST."""
        return self.request(path, "POST")

    def state(self) -> dict[str, Any]:
        """What the server holds of its clients and is not empty."""
        return {name: value for name, value in json.loads(self.request("/control/state")).items() if value}

    def wait_until_empty(self) -> None:
        """Wait until nothing is left of any client."""
        wait_until(lambda: not self.state(), lambda: f"left behind: {self.state()}")

    def terminate(self) -> int:
        """Ask the process to end by SIGTERM, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.kill()
        self._reap()

    def memory(self) -> int:
        """The most memory that the process has ever held, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

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


class Driver:
    """A Node process that takes tasks as JSON lines."""

    def __init__(self, script: str) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
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

    def start(self, task: Mapping[str, Any]) -> Future[Any]:
        """Begin a task."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        self._waiting[number] = future
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **task}) + "\n")
        self._process.stdin.flush()
        return future

    def run(self, task: Mapping[str, Any]) -> Any:
        """Do a task."""
        return self.start(task).result(2 * PATIENCE)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


TRANSPORTS: dict[str, list[str]] = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}


class JavaScript:
    """The stock JavaScript client."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def signal(self, name: str) -> None:
        """Let all scenarios go on that wait for this signal, now or later; a name serves once in a run."""
        self._driver.run({"signal": name})

    def start(
        self,
        url: str,
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
        msgpack: bool = False,
        steps: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Future[Any]:
        """Begin a scenario; see ``tests/js/client.mjs``."""
        every = dict(headers or {})
        if address is not None:
            every["X-Forwarded-For"] = address
        settings: dict[str, Any] = {"transports": TRANSPORTS[transports], **options}
        if every:
            settings["extraHeaders"] = every
        if token is not None:
            auth = {"token": token}
        if auth is not None:
            settings["auth"] = auth
        scenario: dict[str, Any] = {"url": url, "namespace": namespace, "options": settings, "msgpack": msgpack}
        scenario |= {"tokenUrl": token_url, "refresh": refresh, "also": list(also), "localAddress": local_address}
        if tokens is not None:
            scenario["tokens"] = list(tokens)
        if steps is not None:
            scenario["steps"] = list(steps)
        return self._driver.start(scenario)

    def play(self, url: str, namespace: str = "/messages", **options: Any) -> dict[str, Any]:
        """Play a scenario to its end."""
        result: dict[str, Any] = self.start(url, namespace, **options).result(2 * PATIENCE)
        return result

    def outcome(self, url: str, namespace: str = "/messages", **options: Any) -> dict[str, Any]:
        """What the first answer to a CONNECT was."""
        found: dict[str, Any] = self.play(url, namespace, **options)["steps"][0]
        return found


class Polling:
    """A polling session by hand, in the namespace ``/messages``.

    Args:
        server: the server.
        token: for the CONNECT; None sends none.
    """

    def __init__(self, server: Server, token: str | None) -> None:
        self.port = server.port
        self.path = "/socket.io/?EIO=4&transport=polling"
        self.answer = self.get()
        """Status, headers and body of the handshake."""
        if self.answer[0] == 200:
            self.path += "&sid=" + json.loads(self.answer[2][1:])["sid"]
        if token is not None:
            assert self.post(f'40/messages,{{"token":"{token}"}}')[0] == 200

    def _request(self, method: str, body: str | None) -> tuple[int, Mapping[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, self.path, body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()

    def get(self) -> tuple[int, Mapping[str, str], str]:
        """Poll."""
        return self._request("GET", None)

    def post(self, body: str) -> tuple[int, Mapping[str, str], str]:
        """Send packets."""
        return self._request("POST", body)


def seen(result: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Everything of one kind that a client noticed."""
    return [note for note in result["seen"] if note["kind"] == kind]


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


async def leave(client: Any) -> None:
    """End a `socketio.AsyncClient`."""
    await client.disconnect()
    gc.collect()  # its POSTs leave connections to the garbage collector, which warns in whichever test runs then


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
