"""The examples, each run as its text says, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from socketguard.testing import mint

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
SECRET = "the secret that the tests of the examples share"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Process:
    """An example in its own process, with its output in files."""

    def __init__(self, folder: Path, *command: str, cwd: Path = ROOT, **environment: str) -> None:
        self.files = {name: folder / name for name in ("out", "err")}
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        with self.files["out"].open("wb") as out, self.files["err"].open("wb") as err:
            self.popen = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self.files["out"].read_text()

    @property
    def err(self) -> str:
        return self.files["err"].read_text()

    def find(self, pattern: str) -> str:
        """Wait until the output matches, and return the first group."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            running = self.popen.poll() is None
            found = re.search(pattern, self.out + self.err)
            if found:
                return found[1]
            assert running, f"it ended with {self.popen.returncode}\n{self.out}\n{self.err}"
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in\n{self.out}\n{self.err}")

    def url(self) -> str:
        """Where it listens, once it does."""
        return self.find(r"(http://127\.0\.0\.1:\d+)\b")

    def events(self) -> list[dict[str, Any]]:
        """The guard's log lines so far."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    def interrupt(self) -> int:
        """What Ctrl-C does: a signal to everything that the terminal runs. Returns the exit status."""
        os.killpg(self.popen.pid, signal.SIGINT)
        return self.popen.wait(PATIENCE)

    def end(self) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait(PATIENCE)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def run(*command: str, **options: Any) -> Process:
            process = Process(tmp_path, *command, **options)
            stack.callback(process.end)
            return process

        yield run


class Client:
    """python-socketio's client, in some namespaces."""

    def __init__(self, http: aiohttp.ClientSession, *namespaces: str) -> None:
        self.sio = socketio.AsyncClient(reconnection=False, handle_sigint=False, http_session=http)
        self.errors: dict[str, Any] = {}
        self.messages: list[Any] = []
        self.sio.on("message:new", self.messages.append, namespace="/messages")
        for namespace in namespaces:
            self.sio.on("connect_error", functools.partial(self.errors.__setitem__, namespace), namespace=namespace)


@contextlib.asynccontextmanager
async def joined(url: str, *namespaces: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    auth = None if token is None else {"token": token}
    async with aiohttp.ClientSession() as http:
        client = Client(http, *namespaces)
        try:
            with contextlib.suppress(socketio.exceptions.ConnectionError):  # what was refused is in `errors`
                await client.sio.connect(url, auth=auth, namespaces=list(namespaces), wait_timeout=PATIENCE, **options)
            yield client
        finally:
            await client.sio.disconnect()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# --- the three small ones --------------------------------------------------------------------------------------------

EXAMPLES = ["starlette_app", "fastapi_app", "mounted"]
PATHS = {"mounted": "realtime/socket.io"}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_small_example_by_uvicorn_with_a_secret(example: str, start: Start) -> None:
    process = start(
        sys.executable, "-W", "error", "-m", "uvicorn", f"examples.{example}:app", "--port", "0", JWT_SECRET=SECRET
    )
    url = process.url()
    path = PATHS.get(example, "socket.io")
    token = mint("ana", key=SECRET, aud="crm")
    async with joined(url, "/messages", token=token, socketio_path=path) as client:
        assert await client.sio.call("whoami", namespace="/messages", timeout=PATIENCE) == "ana"
    async with joined(url, "/messages", socketio_path=path) as client:
        assert client.errors["/messages"]["data"]["code"] == "token_missing"
    async with joined(url, "/messages", token=mint(aud="crm"), socketio_path=path) as client:
        assert client.errors["/messages"]["data"]["code"] == "token_invalid"
    assert TOKEN.search(process.out + process.err) is None
    await until(lambda: any(line["event"] == "socketguard.connection.closed" for line in process.events()))
    assert [line for line in process.events() if line["event"] == "socketguard.config.warning"] == []
    assert "Traceback" not in process.err


@pytest.mark.parametrize("example", EXAMPLES)
async def test_small_example_as_a_script_with_the_token_that_it_prints(example: str, start: Start) -> None:
    process = start(sys.executable, "-W", "error", f"examples/{example}.py", PORT="0")
    url = process.url()
    token = process.find(f"JWT_SECRET is not set.*?({TOKEN.pattern})")
    async with joined(url, "/messages", token=token, socketio_path=PATHS.get(example, "socket.io")) as client:
        assert await client.sio.call("whoami", namespace="/messages", timeout=PATIENCE) == "ana"


@pytest.mark.parametrize("example", ["starlette_app", "fastapi_app"])
def test_http_route_takes_the_same_tokens(example: str, start: Start) -> None:
    url = start(sys.executable, f"examples/{example}.py", PORT="0", JWT_SECRET=SECRET).url()
    token = mint("ana", key=SECRET, aud="crm", scope="crm:read")
    status, body = get(f"{url}/contacts", Authorization=f"Bearer {token}")
    assert (status, json.loads(body)) == (200, {"owner": "ana", "contacts": []})
    assert get(f"{url}/contacts")[0] == 401
    assert get(f"{url}/contacts", Authorization=f"Bearer {mint('ana', aud='crm')}")[0] == 401


def test_http_route_of_fastapi_asks_for_the_scope(start: Start) -> None:
    url = start(sys.executable, "examples/fastapi_app.py", PORT="0", JWT_SECRET=SECRET).url()
    token = mint("ana", key=SECRET, aud="crm", scope="crm:write")
    assert get(f"{url}/contacts", Authorization=f"Bearer {token}")[0] == 403


async def test_mounted_counts_who_is_there(start: Start) -> None:
    url = start(sys.executable, "examples/mounted.py", PORT="0", JWT_SECRET=SECRET).url()
    assert get(f"{url}/online") == (200, "0 online\n")
    token = mint("ana", key=SECRET, aud="crm")
    async with joined(url, "/messages", token=token, socketio_path="realtime/socket.io"):
        assert await asyncio.to_thread(get, f"{url}/online") == (200, "1 online\n")


@pytest.mark.parametrize("example", EXAMPLES)
def test_small_examples_stay_small(example: str) -> None:
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) <= 60


# --- the CRM ---------------------------------------------------------------------------------------------------------


class CRM:
    """The CRM in its own process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = process.url()
        process.find("(bruno of globex:\neyJ.*\n)")
        self.tokens = dict(re.findall(r"^(\w+) of \w+:\n(eyJ\S+)$", process.out, re.MULTILINE))


@pytest.fixture
def crm(start: Start) -> CRM:
    return CRM(start(sys.executable, "-W", "error", "examples/crm/app.py", "--port", "0"))


async def test_crm_three_namespaces_with_the_tokens_that_it_prints(crm: CRM) -> None:
    assert set(crm.tokens) == {"ana", "bruno"}
    async with joined(crm.url, "/messages", "/scheduler", "/attendances", token=crm.tokens["ana"]) as ana:
        assert ana.errors == {}
        assert await ana.sio.call("list", namespace="/scheduler", timeout=PATIENCE)
        assert await ana.sio.call("list", namespace="/attendances", timeout=PATIENCE)
    async with joined(crm.url, "/scheduler", token=crm.tokens["bruno"]) as bruno:
        assert bruno.errors["/scheduler"]["data"]["code"] == "insufficient_scope"
    accepted = [line for line in crm.process.events() if line["event"] == "socketguard.connection.accepted"]
    assert sorted(line["namespace"] for line in accepted) == ["/attendances", "/messages", "/scheduler"]
    assert {(line["subject"], line["email"], line["tenant_id"]) for line in accepted} == {
        ("ana", "ana@acme.example", "acme")
    }
    assert [line for line in crm.process.events() if line["event"] == "socketguard.config.warning"] == []


async def test_crm_messages_stay_with_the_tenant(crm: CRM) -> None:
    async with (
        joined(crm.url, "/messages", token=crm.tokens["ana"]) as ana,
        joined(crm.url, "/messages", token=crm.tokens["ana"]) as colleague,
        joined(crm.url, "/messages", token=crm.tokens["bruno"]) as bruno,
    ):
        for client, text in ((ana, "from acme"), (bruno, "from globex")):
            sent = await client.sio.call("message:new", {"text": text}, namespace="/messages", timeout=PATIENCE)
            assert sent == {"ok": True}
        await until(lambda: ana.messages and colleague.messages and bruno.messages)
        # Bruno's own came last, so one that was not for him would be there by now.
        assert bruno.messages == [{"from": "bruno", "text": "from globex"}]
        assert ana.messages == colleague.messages == [{"from": "ana", "text": "from acme"}]


@pytest.mark.parametrize("data", [None, "text", {}, {"text": ""}, {"text": 1}, {"text": "x" * 501}])
async def test_crm_refuses_what_is_no_message(crm: CRM, data: Any) -> None:
    async with joined(crm.url, "/messages", token=crm.tokens["ana"]) as ana:
        answer = await ana.sio.call("message:new", data, namespace="/messages", timeout=PATIENCE)
        assert answer == {"ok": False, "error": "text must have 1 to 500 characters"}


async def test_crm_wrong_namespace(crm: CRM) -> None:
    async with joined(crm.url, "/schedulr", token=crm.tokens["ana"]) as client:
        assert client.errors == {"/schedulr": {"message": "Invalid namespace"}}
    (line,) = [line for line in crm.process.events() if line["event"] == "socketguard.connection.rejected"]
    assert line["requested"] == "/schedulr"
    assert line["suggestion"] == "/scheduler"


async def test_crm_gives_tokens_to_pages_of_this_machine_only(crm: CRM) -> None:
    route = f"{crm.url}/demo-only/token"
    status, token = await asyncio.to_thread(get, f"{route}?user=bruno&kind=valid")
    assert status == 200
    async with joined(crm.url, "/messages", token=token) as client:
        assert client.errors == {}
    status, token = await asyncio.to_thread(get, f"{route}?user=bruno&kind=expired")
    assert status == 200
    async with joined(crm.url, "/messages", token=token) as client:
        assert client.errors["/messages"]["data"]["code"] == "token_expired"
    for query in ("", "?user=eve&kind=valid", "?user=ana&kind=eternal"):
        assert (await asyncio.to_thread(get, route + query))[0] == 400
    status, body = await asyncio.to_thread(lambda: get(f"{route}?user=ana&kind=valid", Host="rebound.example"))
    assert (status, TOKEN.search(body)) == (403, None)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_crm_ends_at_ctrl_c_with_clients_connected(crm: CRM, transport: str) -> None:
    async with joined(crm.url, "/messages", token=crm.tokens["ana"], transports=[transport]) as client:
        assert client.errors == {}
        assert await asyncio.to_thread(crm.process.interrupt) == 0
    assert "Traceback" not in crm.process.err


def test_crm_says_so_when_the_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "examples/crm/app.py", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Can't listen on port {port} of 127.0.0.1: ")
    assert "Traceback" not in done.stderr


# --- the page of the CRM ---------------------------------------------------------------------------------------------

# Each click as a person would do it; then the table, once all of it has come to rest.
BUTTONS = """
import { chromium } from "playwright-core";
const [url, profile] = process.argv.slice(2);
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const found = { errors: [], foreign: [] };
const polling = 50;  // the default waits for frames, of which a page in the background has few
async function table(page, states, text = "") {
  await page.waitForFunction(([states, text]) => {
    const rows = [...document.querySelectorAll("#namespaces tr")];
    return rows.map((row) => row.dataset.state).join(" ") === states
      && rows.every((row) => row.textContent.includes(text));
  }, [states, text], { polling });
  return page.$$eval("#namespaces tr", (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
}
async function open() {
  const page = await context.newPage();
  page.on("pageerror", (error) => found.errors.push(error.message));
  page.on("request", (request) => { if (!request.url().startsWith(url)) found.foreign.push(request.url()); });
  await page.goto(url);
  await table(page, "connected connected connected");
  return page;
}
async function send(page, text) {
  await page.bringToFront();
  await page.fill("#text", text);
  await page.click("#send");
  await page.waitForFunction(() => document.querySelector("#answer").textContent !== "", undefined, { polling });
  return page.textContent("#answer");
}
const messages = (page) => page.$$eval("#messages li", (items) => items.map((item) => item.textContent));
try {
  const other = await open();
  await other.selectOption("#user", "bruno");
  found.bruno = await table(other, "connected refused connected");
  const page = await open();
  found.ack = await send(page, "<b>hello</b>");
  await page.waitForSelector("#messages li");
  await send(other, "for globex");
  await other.waitForSelector("#messages li");
  found.messages = { ana: await messages(page), bruno: await messages(other) };
  await page.bringToFront();
  await page.click("#wrong");
  found.wrong = await table(page, "connected connected connected refused");
  await page.click("#none");
  found.none = await table(page, "refused refused refused");
  found.unsent = await send(page, "nobody gets this");
  await page.click("#expired");
  found.expired = await table(page, "refused refused refused", "token_expired");
  await page.click("#valid");
  found.valid = await table(page, "connected connected connected");
} finally {
  await context.close();
}
console.log(JSON.stringify(found));
"""


def test_page_of_the_crm_each_button(crm: CRM, tmp_path: Path) -> None:
    folder = ROOT / "tests" / "js"  # where playwright-core is found
    command = ["node", "--input-type=module", "-", crm.url, str(tmp_path / "profile")]
    done = subprocess.run(command, cwd=folder, input=BUTTONS, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errors"] == []
    assert found["foreign"] == []  # no CDN
    names = ["/messages", "/scheduler", "/attendances"]
    assert found["messages"] == {"ana": ["ana: <b>hello</b>"], "bruno": ["bruno: for globex"]}
    assert (found["ack"], found["unsent"]) == ("acknowledged", "not connected to /messages")
    assert [row[:6] for row in found["valid"]] == [[name, "connected", "–", "–", "–", "–"] for name in names]
    assert found["wrong"][3][:6] == ["/schedulr", "refused", "Invalid namespace", "–", "–", "–"]
    assert [row[:5] for row in found["none"]] == [
        [name, "refused", "Authentication required", "token_missing", "login"] for name in names
    ]
    assert [row[:5] for row in found["expired"]] == [
        [name, "refused", "Token has expired", "token_expired", "refresh"] for name in names
    ]
    assert found["bruno"][1][:5] == ["/scheduler", "refused", "Forbidden", "insufficient_scope", "never"]
    # What a user reads out to support is in the log.
    logged = {line.get("ref"): line["reason"] for line in crm.process.events() if "reason" in line}
    for case, reason in (("none", "token_missing"), ("expired", "token_expired")):
        assert [logged.get(row[5]) for row in found[case]] == [reason] * 3
    for token in [*crm.tokens.values(), "eyJ"]:
        assert token not in crm.process.err


# --- examples/run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository in which everything is set up already, with the packages of these tests."""
    folder = tmp_path / "checkout"
    skipped = shutil.ignore_patterns("node_modules", "__pycache__")
    for part in ("examples", "socketguard"):
        shutil.copytree(ROOT / part, folder / part, ignore=skipped)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "setup.sh", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    installed = folder / "examples" / "crm" / "node_modules"
    shutil.copytree(ROOT / "examples" / "crm" / "node_modules", installed)
    (installed / ".installed").touch()
    scripts = folder / ".venv-examples" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (scripts / "python").chmod(0o755)
    version = subprocess.check_output([sys.executable, "--version"], text=True).strip()
    wanted = f"{version} -e .[demo] {(ROOT / 'pyproject.toml').read_text().rstrip()}\n"
    (folder / ".venv-examples" / ".installed").write_text(wanted)
    return folder


async def test_run_starts_the_crm_and_ends_with_0(checkout: Path, start: Start) -> None:
    process = start("bash", "examples/run", "0", cwd=checkout, PYTHON=sys.executable, PYTHONPATH=str(checkout))
    crm = CRM(process)
    async with joined(crm.url, "/messages", token=crm.tokens["bruno"]) as client:
        assert client.errors == {}
    assert await asyncio.to_thread(process.interrupt) == 0


def test_run_says_so_when_the_port_is_taken(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            ["bash", "examples/run", str(port)], cwd=checkout, capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 1
    assert done.stderr == f"Port {port} of 127.0.0.1 is taken. Choose another: examples/run {port + 1}\n"


@pytest.mark.parametrize("arguments", [["http"], ["-1"], ["65536"], ["8000", "8001"], [""]])
def test_run_wrong_usage(checkout: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        ["bash", "examples/run", *arguments], cwd=checkout, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (2, "usage: examples/run [PORT]\n")


# --- socketguard demo ------------------------------------------------------------------------------------------------


def test_demo_in_a_pipe() -> None:
    command = [sys.executable, "-W", "error", str(Path(sys.executable).with_name("socketguard")), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("✓") == 8
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_demo_ends_at_ctrl_c(start: Start) -> None:
    process = start(str(Path(sys.executable).with_name("socketguard")), "demo")
    process.find("(✓ A valid token)")
    status = process.interrupt()
    # It may have been done already, which then is no mistake.
    assert (status, process.err) in ((130, ""), (0, ""))
