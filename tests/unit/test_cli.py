from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import socketguard
from socketguard import cli
from socketguard.cli.printer import Printer
from socketguard.tokens.auth import JWTAuth


@pytest.fixture
def demo() -> Any:
    for package in cli.COMMANDS["demo"].needs:
        pytest.importorskip(package, reason="needs the extra socketguard[demo]")
    from socketguard.cli import demo

    return demo


# --- the command line ------------------------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"socketguard {socketguard.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in printed
        assert command.summary in printed


@pytest.mark.parametrize("argv", [[], ["demon"], ["--nothing"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: socketguard" in capsys.readouterr().err


def test_without_arguments_those_of_the_process_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["socketguard", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out == f"socketguard {socketguard.__version__}\n"


@pytest.mark.parametrize("missing", ["uvicorn", "websockets", "aiohttp"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["demo"]) == 2
    printed = capsys.readouterr()
    assert "\n  pip install 'socketguard[demo]'\n" in printed.err
    assert missing in printed.err
    assert printed.out == ""


def test_a_command_gets_its_own_arguments_and_gives_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_command_of_a_test.py").write_text("def main(arguments):\n    return len(arguments)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", {"count": cli.Command("a_command_of_a_test", "counts")})
    assert cli.main(["count"]) == 0
    assert cli.main(["count", "--help", "-x", "y"]) == 3


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "an_interrupted_command.py").write_text("def main(arguments):\n    raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", {"wait": cli.Command("an_interrupted_command", "waits")})
    assert cli.main(["wait"]) == 130


def test_a_reader_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_command_in_a_pipe.py").write_text("def main(arguments):\n    raise BrokenPipeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", {"print": cli.Command("a_command_in_a_pipe", "prints")})
    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["print"]) == 141
        print("nobody reads this", flush=True)
    assert (tmp_path / "out").read_text() == ""


def test_a_command_and_what_it_needs_are_imported_only_when_called() -> None:
    script = """
import sys, socketguard.cli
found = {"uvicorn", "socketguard.cli.demo"} & set(sys.modules)
sys.exit(f"imported: {found}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- printing --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bytes_stream(encoding: str) -> tuple[io.BytesIO, io.TextIOWrapper]:
    raw = io.BytesIO()
    return raw, io.TextIOWrapper(raw, encoding=encoding)


def test_colours_on_a_terminal() -> None:
    stream = Terminal()
    printer = Printer(stream, environ={"TERM": "xterm"})
    printer.heading("fine", good=True)
    printer.heading("broken", good=False)
    printer.item("log", "a line")
    assert stream.getvalue() == (
        "\x1b[32m✓\x1b[0m \x1b[1mfine\x1b[0m\n\x1b[1;31m✗\x1b[0m \x1b[1mbroken\x1b[0m\n  \x1b[2mlog     \x1b[0ma line\n"
    )


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_they_are_not_wanted(environ: dict[str, str]) -> None:
    stream = Terminal()
    Printer(stream, environ=environ).heading("fine", good=True)
    assert stream.getvalue() == "✓ fine\n"


def test_no_colours_in_a_pipe() -> None:
    stream = io.StringIO()
    Printer(stream, environ={"TERM": "xterm"}).heading("fine", good=True)
    assert stream.getvalue().endswith(" fine\n")
    assert "\x1b" not in stream.getvalue()


def test_a_stream_that_knows_ascii_only() -> None:
    raw, stream = bytes_stream("ascii")
    printer = Printer(stream, environ={})
    printer.heading("fine", good=True)
    printer.heading("brøken", good=False)
    assert raw.getvalue() == b"ok fine\nFAILED br?ken\n"


def test_long_texts_stay_within_80_columns() -> None:
    raw, stream = bytes_stream("utf-8")
    printer = Printer(stream, environ={})
    printer.text("word " * 40)
    printer.item("log", "word " * 40)
    printer.item("", "")
    printer.gap()
    lines = raw.getvalue().decode().split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("word word")
    assert "  log     word word" in lines[4]
    assert lines[5].startswith(" " * 10 + "word")
    assert lines[-3:] == [" " * 10, "", ""]


# --- socketguard demo ------------------------------------------------------------------------------------------------

TITLES = [
    "A valid token",
    "No token",
    "An expired token",
    "A forged signature",
    "A namespace that does not exist: /schedulr",
    "A valid token without the scope of /scheduler",
    "A message to everybody of one's tenant, and to nobody else",
    "No token and no key in any line of the log",
]


def headings(printed: str, mark: str) -> list[str]:
    return re.findall(rf"^{mark} (.*)$", printed, re.MULTILINE)


def test_demo_shows_both_sides_of_each_case(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo"]) == 0
    printed, errors = capsys.readouterr()
    assert headings(printed, "✓") == TITLES
    assert headings(printed, "✗") == []
    assert errors == ""
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert "eyJ" not in printed
    text = " ".join(printed.split())
    assert "client refused: Token has expired code token_expired, retry refresh, ref " in text
    assert "log WARNING socketguard.connection.rejected Refused '/messages': Token has expired (token_expired" in text
    assert "client refused: Invalid namespace log WARNING" in text
    assert "asked '/schedulr', registered '/messages', '/scheduler'; did you mean '/scheduler'?" in text
    assert "ana sent 'hello from ana', answered with {'delivered_to': 'acme'} received ['hello from ana']" in text
    assert printed.endswith("All 8 went as they should.\n\n")


def test_demo_fails_when_good_tokens_are_refused(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "JWTAuth", lambda key, **options: JWTAuth(key, **{**options, "audience": "others"}))
    assert cli.main(["demo"]) == 1
    printed = capsys.readouterr().out
    assert "A valid token" in headings(printed, "✗")
    assert TITLES[6] in headings(printed, "✗")
    assert "No token" in headings(printed, "✓")
    assert "wrong   event: expected 'socketguard.connection.accepted', found" in printed
    assert "'BadNamespaceError'" in printed
    assert "of 8 went wrong.\n" in printed


def test_demo_fails_when_nobody_guards(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a guard the handler fails and the client gets no answer: all of it is waited for in vain.
    monkeypatch.setattr(demo, "PATIENCE", 0.2)
    monkeypatch.setattr(demo, "SocketGuard", lambda app, **options: app)
    assert cli.main(["demo"]) == 1
    assert set(TITLES[:7]) <= set(headings(capsys.readouterr().out, "✗"))


def test_demo_would_notice_a_token_in_the_log(demo: Any) -> None:
    lines = [{"event": "x", "level": "info", "user_agent": "agent eyJhbGciOi.e30.sig"}]
    assert demo._secrets(lines, ["the key", "eyJhbGciOi.e30.sig"]).wrong == [
        "secrets in the log: expected 0, found 1",
    ]
    assert demo._secrets(lines, ["the key"]).wrong == []


def test_demo_takes_no_arguments(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--port", "80"])
    assert ended.value.code == 2
    assert "usage: socketguard demo" in capsys.readouterr().err


async def test_a_client_that_reaches_no_server_says_so(demo: Any) -> None:
    async with demo._Client("/messages") as client:
        await client.join("http://127.0.0.1:9", None)
    assert client.error == "Cannot connect to host 127.0.0.1:9 ssl:default [Connect call failed ('127.0.0.1', 9)]"
