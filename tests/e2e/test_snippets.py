"""The snippets for clients in the README, as printed, against a real server; only its address is put in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import mint
from tests.e2e.support import JS, PATIENCE, ROOT, Server, free_port

README = (ROOT / "README.md").read_text(encoding="utf-8")
(SNIPPET,) = re.findall(r"```js\n(.*?)```", README, re.DOTALL)
(PYTHON,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "AsyncClient" in code]
GOOD = mint("u-1", tenant_id="acme")

# What the snippet leaves to the page: where tokens come from, where to show an error. A second of it takes 10 ms.
PAGE = """
const notes = [], real = setTimeout, tokens = {tokens};
const note = (kind, text) => {{ notes.push([kind, text]); }};
let fetched = 0;
globalThis.setTimeout = (run, ms, ...more) => {{ note("wait", ms); return real(run, ms / 100, ...more); }};
const getToken = async () => {{
  const token = tokens[Math.min(fetched++, tokens.length - 1)];
  if (token === null) throw new Error("the token source fails");
  return token;
}};
const refreshToken = async () => {{ note("refresh", fetched); {refresh} }};
const location = {{ assign: (to) => end("login", to) }};
const showError = (text) => end("error", text);
const end = (kind, text) => {{ note(kind, text); console.log(JSON.stringify(notes)); process.exit(0); }};
console.warn = (...said) => note("warn", said.join(" "));
"""
ENDS = """
socket.on("connect", () => end("connected", socket.id));
"""


def play(tmp_path: Path, url: str, tokens: list[str | None], refresh: str = "", more: str = ENDS) -> list[Any]:
    """What the page of the snippet has noted when it has come to an end."""
    client = (JS / "node_modules/socket.io-client/build/esm/index.js").as_uri()
    code = SNIPPET.replace('"socket.io-client"', json.dumps(client)).replace("https://api.example.com", url)
    assert code.count(url) == 1
    head, _, body = code.partition("\n")
    page = PAGE.format(tokens=json.dumps(tokens), refresh=refresh)
    module = tmp_path / "page.mjs"
    module.write_text("\n".join((head, page, body, more)), encoding="utf-8")
    done = subprocess.run(["node", module], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return list(json.loads(done.stdout))


def kinds(notes: list[Any]) -> list[str]:
    return [kind for kind, _ in notes if kind not in ("wait", "warn")]


def test_a_good_token(serve: Callable[..., Server], tmp_path: Path) -> None:
    assert kinds(play(tmp_path, serve().url, [GOOD])) == ["connected"]


def test_a_token_that_has_expired_is_refreshed(serve: Callable[..., Server], tmp_path: Path) -> None:
    notes = play(tmp_path, serve().url, [mint("u-1", lifetime=-60), GOOD])
    assert kinds(notes) == ["refresh", "connected"]


@pytest.mark.parametrize("refresh", ["", "throw new Error('down');"])
def test_a_token_that_stays_expired_is_given_up(serve: Callable[..., Server], tmp_path: Path, refresh: str) -> None:
    notes = play(tmp_path, serve().url, [mint("u-1", lifetime=-60)], refresh)
    assert kinds(notes) == ["refresh"] * 6 + ["error"]
    assert "Token has expired (ref " in notes[-1][1]
    # Longer each time: of 2, 4, 8 … 64 s the half to one and a half.
    waits = [ms for kind, ms in notes if kind == "wait" and ms >= 1000]
    assert len(waits) >= 6
    assert max(waits) >= 32_000


def test_a_source_of_tokens_that_fails_leads_to_the_login(serve: Callable[..., Server], tmp_path: Path) -> None:
    notes = play(tmp_path, serve().url, [None])
    assert kinds(notes) == ["login"]


def test_a_namespace_that_is_not_there_is_shown(serve: Callable[..., Server], tmp_path: Path) -> None:
    url = serve().url
    notes = play(tmp_path, f"{url}/nowhere#", [GOOD])
    assert notes[-1] == ["error", "Invalid namespace (ref none)"]


def test_a_server_that_is_down_is_left_to_the_client(tmp_path: Path) -> None:
    tries = 'let failed = 0; socket.io.on("reconnect_attempt", () => { if (++failed === 4) end("still", failed); });'
    notes = play(tmp_path, f"http://127.0.0.1:{free_port()}", [GOOD], more=tries)
    assert kinds(notes) == ["still"]


EXPIRED = r"\('Token has expired', 'token_expired'\)\n"
# What is around the snippet in Python: a source of tokens, sleeps that take no time, and an end when it has connected.
PROGRAM = """
real = asyncio.sleep
tokens = iter({tokens!r})
last = {tokens!r}[-1]
slept = []

async def token():
    return next(tokens, last)

async def sleep(seconds, *more):
    slept.append(seconds)
    await real(0)

async def wait(self):
    print("connected", len(slept))
    await self.disconnect()

asyncio.sleep = sleep
socketio.AsyncClient.wait = wait
asyncio.run(main(token))
"""


@pytest.mark.parametrize(
    ("tokens", "down", "status", "said"),
    [
        ([GOOD], False, 0, r"connected 0\n"),
        (
            [mint("u-1", lifetime=-60), GOOD],
            False,
            0,
            r"\('Token has expired', 'token_expired'\)\nconnected [1-9]\d*\n",
        ),
        ([mint("u-1", lifetime=-60)], False, 1, r"(\('Token has expired', 'token_expired'\)\n){6}"),
        ([GOOD], True, 1, r"(Cannot connect to host .*\n){6}"),
    ],
)
def test_the_client_in_python(
    serve: Callable[..., Server], tokens: list[str], down: bool, status: int, said: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}" if down else serve().url
    code = PYTHON.replace("https://api.example.com", url) + PROGRAM.format(tokens=tokens)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == status, done.stderr
    assert re.fullmatch(said, done.stdout), done.stdout
    assert ("no connection: see the lines above" in done.stderr) == (status == 1)
