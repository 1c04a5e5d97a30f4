"""What the tests of the command line share: a directory of their own, applications in it, and the command itself."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from socketguard import cli

NAMES = (f"an_application_of_a_test_{number}" for number in itertools.count())


class Ran(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]
Write = Callable[[str], str]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory of its own, a path that is put back, no variables, and releases without known weaknesses."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    fixed = {"python-socketio": "5.18.1", "python-engineio": "4.15.1", "PyJWT": "2.14.0", "starlette": "1.3.1"}
    monkeypatch.setattr("socketguard.server.facts.VERSIONS", fixed)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("an_application_of_a_test"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a module and returns its name."""

    def make(source: str) -> str:
        name = next(NAMES)
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        return name

    return make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``socketguard …``, which must end with this status."""

    def call(*arguments: str, status: int = 0) -> Ran:
        capsys.readouterr()
        found = Ran(cli.main(list(arguments)), *capsys.readouterr())
        assert found.status == status, found
        return found

    return call
