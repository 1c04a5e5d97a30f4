"""``socketguard report``: what it reads of a log, and what it says of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from socketguard.cli import main
from socketguard.cli.report import read, tally

BROWSER = "Mozilla/5.0"


def line(event: str = "would_reject", **fields: Any) -> str:
    known = {"reason": "token_missing", "namespace": "/messages", "client_address": "10.0.0.1", "user_agent": BROWSER}
    return json.dumps({"event": f"socketguard.connection.{event}", "level": "warning", **known, **fields})


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["report", *arguments])
    found = capsys.readouterr()
    return status, found.out + found.err


def write(path: Path, *texts: str) -> str:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(
        tmp_path / "app.log",
        'INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK',
        "app-1  | " + line(timestamp="2026-11-27T10:00:00Z"),
        line(timestamp="2026-11-27T09:00:00Z", client_address="10.0.0.2"),
        line(timestamp="2026-11-27T11:00:00Z"),
        line(timestamp="2026-11-27T12:00:00Z", summary=True, suppressed=40),
        line("accepted", reason=None),
        line(reason="invalid_namespace", requested="/mesages", detail="misspelt", user_agent=None),
        line("would_end", reason="token_expired", subject="ann"),
        '{"event": "socketguard.connection.would_reject"',
        '["would_"]',
        "{" * 100_000 + "would_",
    )
    status, said = run(capsys, log)
    assert status == 1
    assert "token_missing in /messages: 2 clients, 43 times would be refused" in said
    assert "2026-11-27T09:00:00Z to 2026-11-27T12:00:00Z" in said
    assert "invalid_namespace in /mesages: 1 client, 1 time would be refused" in said
    assert "token_expired in /messages: 1 client, 1 time would be ended" in said
    assert "none sent" in said
    assert "misspelt" in said
    assert said.index("token_missing (43 times)") < said.index("token_expired (1 time)")
    assert "token='optional'" in said
    assert "auth as a function" in " ".join(said.split())


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write(tmp_path / "1.log", line()), write(tmp_path / "2.log", line(suppressed=3), "nothing")
    status, said = run(capsys, "--json", one, two)
    assert status == 1
    found = json.loads(said)
    assert (found["lines"], found["events"]) == (3, 2)
    (row,) = found["rows"]
    expected = {"what": "refused", "reason": "token_missing", "namespace": "/messages", "user_agent": BROWSER}
    assert {name: row[name] for name in expected} == expected
    assert (row["count"], row["clients"], row["first"]) == (5, 1, "")


def test_nobody_would_be_kept_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = run(capsys, write(tmp_path / "app.log", line("accepted")))
    assert (status, "Nobody would be kept out: 1 line read" in said) == (0, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, said = run(capsys, "-")
    assert (status, "no lines to read" in said) == (0, True)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, str(tmp_path / "none.log"))
    assert (status, "can't be read: No such file" in said) == (2, True)


def test_lines_that_went_through_the_logging_of_python() -> None:
    fields = {"socketguard.event": "socketguard.connection.would_reject", "socketguard.reason": "token_missing"}
    found = read(json.dumps({"message": "Only reported: …", **fields}))
    assert found is not None
    (row,) = tally([found])
    assert (row.reason, row.count) == ("token_missing", 1)


def test_what_clients_say_is_made_harmless() -> None:
    found = read(line(user_agent="\x1b[31mred\n", reason="new_reason", suppressed="many"))
    assert found is not None
    (row,) = tally([found])
    assert row.user_agent.isprintable()
    assert (row.reason, row.count) == ("new_reason", 1)
