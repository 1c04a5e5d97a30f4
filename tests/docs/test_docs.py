"""The code blocks of the documentation run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

SAMPLE = """
import asyncio, socketio
from socketguard import SocketGuard
from socketguard.testing import *

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
sio.on("echo", lambda sid, data: data, namespace="/messages")
sio.on("echo", lambda sid, data: data, namespace="/scheduler")
app = SocketGuard(socketio.ASGIApp(sio), auth=make_auth(), log_claims=("sub", "tenant_id"))

async def main():
    async with join(app, "/messages", token=mint("u-1", tenant_id="acme")) as client:
        await client.call("echo", 1)
    for namespace, token in (("/schedulr", mint()), ("/messages", None), ("/messages", mint(lifetime=-99))):
        try:
            async with join(app, namespace, token=token):
                pass
        except Refused:
            pass

asyncio.run(main())
"""


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(page.read_text()) if language in languages]


def pages(*languages: str) -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, *languages)]


@pytest.mark.parametrize("page", pages("python"))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks(page, "python")))
    environ = {**os.environ, "JWT_SECRET": "a-secret-that-is-long-enough-for-hs256-and-more"}
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", pages("js", "javascript"))
def test_javascript_blocks_are_javascript(page: Path, tmp_path: Path) -> None:
    for number, code in enumerate(blocks(page, "js", "javascript")):
        module = tmp_path / f"{number}.mjs"
        module.write_text(code)
        done = subprocess.run(["node", "--check", module], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    done = subprocess.run([sys.executable, "-c", SAMPLE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    # As under uvicorn, whose own lines are between those of the guard.
    uvicorn = "INFO:     Started server process [1]\n"
    (folder / "app.log").write_text(uvicorn + done.stderr.replace("\n", f"\n{uvicorn}", 1))
    return folder


@pytest.mark.parametrize("page", pages("sh"))
def test_jq_recipes_find_something(page: Path, log_file: Path) -> None:
    parts = [part for code in blocks(page, "sh") for part in re.split(r"^#.*\n|\n\n", code, flags=re.MULTILINE)]
    helpers = "".join(part for part in parts if part.startswith("lines() "))
    for recipe in (helpers + part.strip() for part in parts if part.startswith(("jq ", "lines | "))):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", recipe], cwd=log_file, capture_output=True, text=True)
        assert done.returncode == 0, (recipe, done.stderr)
        if ".ref ==" not in recipe:  # that line is only in that user's log
            assert done.stdout.strip(), recipe


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target
