"""What docs/logs.md shows is true and runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from socketguard.logs import events
from tests.logs.processes import EMIT, JOINED, environment, run

ACCESS = '%s - "%s %s HTTP/%s" %d'
SID = "Vh3kQ9tLr2mXw8bNAAAB"
PAGE = Path(__file__).parents[2] / "docs" / "logs.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: str(code).strip().splitlines()[0])
def test_the_python_of_the_page_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(textwrap.dedent(code), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")


@pytest.mark.parametrize("text", blocks("json"))
def test_the_json_of_the_page_is_json(text: str) -> None:
    for part in text.strip().split("\n\n"):
        assert isinstance(json.loads(part), dict)


def test_the_log_config_of_the_page_works_with_uvicorn(tmp_path: Path) -> None:
    (config,) = [text for text in blocks("json") if '"handlers"' in text]
    path = tmp_path / "log.json"
    path.write_text(config, "utf-8")
    done = run(
        "import logging, uvicorn\n"
        f"uvicorn.Config('x:y', log_config={str(path)!r})\n"
        f"args = '10.0.0.1:5', 'GET', '/socket.io/?sid={SID}', '1.1', 200\n"
        f"logging.getLogger('uvicorn.access').info({ACCESS!r}, *args)\n"
        f"logging.getLogger('engineio.server').error('Invalid session {SID}')\n"
        f"{EMIT}"
    )
    written = done.stdout + done.stderr
    assert SID not in written
    assert "sid=[redacted]" in written
    assert "Invalid session [redacted]" in written
    assert JOINED in written


def test_the_page_names_every_event_and_field() -> None:
    text = PAGE.read_text("utf-8")
    for event in events.EVENTS:
        assert f"`{event}`" in text
    for field in sorted(events.RESERVED_FIELDS - events.STRUCTLOG_FIELDS):
        assert f"`{field}`" in text
