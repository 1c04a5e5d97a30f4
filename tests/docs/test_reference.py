"""The reference names everything that is public, and nothing that isn't there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import socketguard
from socketguard import errors as rejections
from socketguard import logs, testing
from socketguard.config import PREFIX, VARIABLES, Options
from socketguard.logs import events
from socketguard.tokens.auth import Verifier

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs" / "api.md").read_text()
README = (ROOT / "README.md").read_text()
DOCUMENTED = {"authenticate", "averify", "close", "keys_status", "on_error", "requires", "verify"}
"""What users call of a `Verifier`; the rest is the guard's."""


@pytest.mark.parametrize("module", [socketguard, testing])
def test_public_names_are_documented(module: object) -> None:
    assert [name for name in module.__all__ if name not in API] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "of",
    [socketguard.SocketGuard, socketguard.JWTAuth, socketguard.NamespacePolicy, socketguard.Limits],
)
def test_every_option_is_documented(of: type) -> None:
    options = [name for name in inspect.signature(of).parameters if name not in ("app", "name")]
    if of is socketguard.SocketGuard:
        assert options.pop() == "options"
        options += Options.__annotations__
    assert [name for name in options if f"`{name}`" not in API and f"{name}=" not in API] == []


@pytest.mark.parametrize("of", [socketguard.SocketGuard, socketguard.JWTAuth])
def test_every_method_is_documented(of: type) -> None:
    # What the guard asks of a verifier, and is no business of users, is in `Verifier`.
    internal = {name for name in dir(Verifier) if of is socketguard.JWTAuth} - DOCUMENTED
    internal |= {"fetches_keys", "known_headers", "with_keys"}
    assert [name for name in dir(of) if name[0] != "_" and name not in internal and name not in API] == []


def test_every_variable_is_documented() -> None:
    assert [name for name in VARIABLES if f"`{PREFIX}{name}`" not in API] == []
    assert {name for name in re.findall(rf"{PREFIX}(\w+)", API + README) if name} <= set(VARIABLES)


def test_every_warning_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "socketguard").rglob("*.py"))
    emitted = set(re.findall(r'"(SG\d{3})"', source))
    assert emitted == set(re.findall(r"^\| .*", API, re.MULTILINE) and re.findall(r"SG\d{3}", API))


@pytest.mark.parametrize("code", list(rejections.RejectCode))
def test_the_table_of_codes_is_true(code: rejections.RejectCode) -> None:
    reply = rejections.REPLIES[code]
    row = next(line for line in README.splitlines() if line.startswith(f"| `{code}` |"))
    if code is not rejections.RejectCode.REFUSED_BY_APP:
        assert f"| {reply.message} |" in row
        assert row.endswith(f"| {reply.http_status} |")
    if reply.retry is not None:
        assert f"| {reply.retry} |" in row


def test_the_version_has_a_changelog_entry() -> None:
    assert f"## {socketguard.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_event_and_field_is_documented() -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    short = {name.removeprefix("socketguard") for name in events.EVENTS}
    assert [name for name in short if f"`socketguard{name}`" not in page and f"`{name}`" not in page] == []
    assert sorted(name for name in events.RESERVED_FIELDS - events.STRUCTLOG_FIELDS if f"`{name}`" not in page) == []


def test_logs_names_are_documented() -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    assert [name for name in logs.__all__ if name not in page] == []
