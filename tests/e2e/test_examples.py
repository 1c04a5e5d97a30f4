"""The examples, each run as its text says, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    PATIENCE,
    REJECTED,
    ROOT,
    Answer,
    Driver,
    Program,
    python_client,
    request,
    until,
)

SECRET = "the secret that the tests of the examples share"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
WARNING = "socketguard.config.warning"


class Example(Program):
    """An example in its own process, without the settings of this one."""

    def __init__(self, folder: Path, *command: str, cwd: Path = ROOT, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        super().__init__(folder, *command, cwd=cwd, env={**inherited, "PYTHONUNBUFFERED": "1", **environment})

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        return self.find(r"http://127\.0\.0\.1:\d+\b")[0]

    def tokens(self) -> dict[str, str]:
        """Those of the CRM's users, which it prints."""
        self.find("bruno of globex:\neyJ.*\n")
        return dict(re.findall(r"^(\w+) of \w+:\n(eyJ\S+)$", self.out, re.MULTILINE))


Start = Callable[..., Example]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        yield lambda *command, **options: stack.enter_context(Example(tmp_path, *command, **options))


def joined(example: Example, *namespaces: str, **options: Any) -> Any:
    """A client that no proxy is in front of."""
    return python_client(example, *namespaces, headers={}, **options)


def get(example: Example, path: str, **headers: str) -> Answer:
    return request(example.url, path, headers=headers)


def codes(client: Any) -> list[str]:
    """Why it was refused."""
    return [error["data"]["code"] for error in client.of("connect_error")]


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, **{"cwd": ROOT, **options}, capture_output=True, text=True, timeout=PATIENCE)


# --- the three small ones --------------------------------------------------------------------------------------------

EXAMPLES = ["starlette_app", "fastapi_app", "mounted"]
PATHS = {"mounted": "realtime/socket.io"}


@pytest.mark.parametrize("example", EXAMPLES)
async def test_small_example_by_uvicorn_with_a_secret(example: str, start: Start) -> None:
    command = [sys.executable, "-W", "error", "-m", "uvicorn", f"examples.{example}:app", "--port", "0"]
    process = start(*command, JWT_SECRET=SECRET)
    path = PATHS.get(example, "socket.io")
    async with joined(process, token=mint("ana", key=SECRET, aud="crm"), socketio_path=path) as client:
        assert await client.call("whoami") == "ana"
        if example == "mounted":
            assert get(process, "/online")[:2] == (200, "1 online\n")
    async with joined(process, socketio_path=path) as client:
        assert codes(client) == ["token_missing"]
    async with joined(process, token=mint(aud="crm"), socketio_path=path) as client:
        assert codes(client) == ["token_invalid"]
    assert TOKEN.search(process.output()) is None
    await process.event(CLOSED)
    assert process.events(WARNING) == []
    assert "Traceback" not in process.err
    if example == "mounted":
        assert get(process, "/online")[:2] == (200, "0 online\n")
        return
    # An HTTP route takes the same tokens.
    answer = get(process, "/contacts", Authorization=f"Bearer {mint('ana', key=SECRET, aud='crm', scope='crm:read')}")
    assert (answer.status, answer.json) == (200, {"owner": "ana", "contacts": []})
    assert get(process, "/contacts").status == 401
    assert get(process, "/contacts", Authorization=f"Bearer {mint('ana', aud='crm')}").status == 401
    if example == "fastapi_app":
        token = mint("ana", key=SECRET, aud="crm", scope="crm:write")
        assert get(process, "/contacts", Authorization=f"Bearer {token}").status == 403


@pytest.mark.parametrize("example", EXAMPLES)
async def test_small_example_as_a_script_with_the_token_that_it_prints(example: str, start: Start) -> None:
    process = start(sys.executable, "-W", "error", f"examples/{example}.py", PORT="0")
    token = process.find(f"JWT_SECRET is not set.*?({TOKEN.pattern})")[1]
    async with joined(process, token=token, socketio_path=PATHS.get(example, "socket.io")) as client:
        assert await client.call("whoami") == "ana"


@pytest.mark.parametrize("example", EXAMPLES)
def test_small_examples_stay_small(example: str) -> None:
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) <= 60


# --- the CRM ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def crm(start: Start) -> Example:
    return start(sys.executable, "-W", "error", "examples/crm/app.py", "--port", "0")


async def test_crm_three_namespaces_with_the_tokens_that_it_prints(crm: Example) -> None:
    tokens = crm.tokens()
    assert set(tokens) == {"ana", "bruno"}
    async with joined(crm, "/messages", "/scheduler", "/attendances", token=tokens["ana"]) as ana:
        assert codes(ana) == []
        assert await ana.call("list", namespace="/scheduler")
        assert await ana.call("list", namespace="/attendances")
    async with joined(crm, "/scheduler", token=tokens["bruno"]) as bruno:
        assert codes(bruno) == ["insufficient_scope"]
    accepted = crm.events(ACCEPTED)
    assert sorted(line["namespace"] for line in accepted) == ["/attendances", "/messages", "/scheduler"]
    assert {(line["subject"], line["email"], line["tenant_id"]) for line in accepted} == {
        ("ana", "ana@acme.example", "acme")
    }
    assert crm.events(WARNING) == []


async def test_crm_messages_stay_with_the_tenant(crm: Example) -> None:
    tokens = crm.tokens()
    async with (
        joined(crm, token=tokens["ana"]) as ana,
        joined(crm, token=tokens["ana"]) as colleague,
        joined(crm, token=tokens["bruno"]) as bruno,
    ):
        for client, text in ((ana, "from acme"), (bruno, "from globex")):
            assert await client.call("message:new", {"text": text}) == {"ok": True}
        clients = ana, colleague, bruno
        await until(lambda: all(client.of("event:message:new") for client in clients))
        # Bruno's own came last, so one that was not for him would be there by now.
        assert bruno.of("event:message:new") == [{"from": "bruno", "text": "from globex"}]
        for client in (ana, colleague):
            assert client.of("event:message:new") == [{"from": "ana", "text": "from acme"}]
    for data in (None, "text", {}, {"text": ""}, {"text": 1}, {"text": "x" * 501}):
        async with joined(crm, token=tokens["ana"]) as ana:
            answer = await ana.call("message:new", data)
            assert answer == {"ok": False, "error": "text must have 1 to 500 characters"}


async def test_crm_wrong_namespace(crm: Example) -> None:
    async with joined(crm, "/schedulr", token=crm.tokens()["ana"]) as client:
        assert client.of("connect_error") == [{"message": "Invalid namespace"}]
    [line] = crm.events(REJECTED)
    assert (line["requested"], line["suggestion"]) == ("/schedulr", "/scheduler")


async def test_crm_gives_tokens_to_pages_of_this_machine_only(crm: Example) -> None:
    for kind, expected in (("valid", []), ("expired", ["token_expired"])):
        answer = get(crm, f"/demo-only/token?user=bruno&kind={kind}")
        assert answer.status == 200
        async with joined(crm, token=answer.body) as client:
            assert codes(client) == expected
    for query in ("", "?user=eve&kind=valid", "?user=ana&kind=eternal"):
        assert get(crm, "/demo-only/token" + query).status == 400
    answer = get(crm, "/demo-only/token?user=ana&kind=valid", Host="rebound.example")
    assert (answer.status, TOKEN.search(answer.body)) == (403, None)


@pytest.mark.parametrize("transports", ["polling", "websocket"])
async def test_crm_ends_at_ctrl_c_with_clients_connected(crm: Example, transports: str) -> None:
    async with joined(crm, token=crm.tokens()["ana"], transports=transports) as client:
        assert codes(client) == []
        assert await asyncio.to_thread(crm.interrupt) == 0
    assert "Traceback" not in crm.err


def test_crm_says_so_when_the_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(sys.executable, "examples/crm/app.py", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Can't listen on port {port} of 127.0.0.1: ")
    assert "Traceback" not in done.stderr


# --- the page of the CRM ---------------------------------------------------------------------------------------------

# Each click as a person would do it; then the table, once all of it has come to rest.
BUTTONS = """
async (browser, url) => {
  const found = { errors: [], foreign: [] };
  const pages = [];
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
    const page = await browser.newPage();
    pages.push(page);
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
    await Promise.all(pages.map((page) => page.close()));
  }
  return found;
}
"""


def test_page_of_the_crm_each_button(crm: Example, browser: Driver) -> None:
    tokens = crm.tokens()
    found = browser.start({"drive": BUTTONS.strip(), "argument": crm.url}).result()
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
    logged = {line.get("ref"): line["reason"] for line in crm.events() if "reason" in line}
    for case, reason in (("none", "token_missing"), ("expired", "token_expired")):
        assert [logged.get(row[5]) for row in found[case]] == [reason] * 3
    for token in [*tokens.values(), "eyJ"]:
        assert token not in crm.err


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
    crm = start("bash", "examples/run", "0", cwd=checkout, PYTHON=sys.executable, PYTHONPATH=str(checkout))
    async with joined(crm, token=crm.tokens()["bruno"]) as client:
        assert codes(client) == []
    assert await asyncio.to_thread(crm.interrupt) == 0


def test_run_says_so_when_the_port_is_taken(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("bash", "examples/run", str(port), cwd=checkout)
    assert done.returncode == 1
    assert done.stderr == f"Port {port} of 127.0.0.1 is taken. Choose another: examples/run {port + 1}\n"


@pytest.mark.parametrize("arguments", [["http"], ["-1"], ["65536"], ["8000", "8001"], [""]])
def test_run_wrong_usage(arguments: list[str]) -> None:
    done = run("bash", "examples/run", *arguments)
    assert (done.returncode, done.stderr) == (2, "usage: examples/run [PORT]\n")


# --- socketguard demo ------------------------------------------------------------------------------------------------

DEMO = "import sys; from socketguard.cli import main; sys.exit(main())", "demo"


def test_demo_in_a_pipe() -> None:
    done = run(sys.executable, "-W", "error", "-c", *DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("✓") == 8
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_demo_ends_at_ctrl_c(start: Start) -> None:
    process = start(sys.executable, "-c", *DEMO)
    process.find("✓ A valid token")
    status = process.interrupt()
    # It may have been done already, which then is no mistake.
    assert (status, process.err) in ((130, ""), (0, ""))
