"""``socketguard COMMAND …``: its help, its ends, and what it says where something is not installed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import socketguard
from socketguard import cli

Run = Callable[..., Any]
Write = Callable[[str], str]


def test_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["socketguard", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("socketguard", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"socketguard {socketguard.__version__}\n"
    runpy.run_module("socketguard", run_name="imported")
    assert capsys.readouterr().out == ""


def test_help_and_version(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        printed = run(option).out
        for name, command in cli.COMMANDS.items():
            assert f"  {name} " in printed
            assert command.summary in printed
    assert run("--version").out == f"socketguard {socketguard.__version__}\n"
    # Without arguments those of the process count.
    monkeypatch.setattr(sys, "argv", ["socketguard", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"socketguard {socketguard.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"), [([], ""), (["demon"], "there is no command 'demon'"), (["--nothing"], "'--nothing'")]
)
def test_wrong_usage(argv: list[str], said: str, run: Run) -> None:
    _, out, err = run(*argv, status=2)
    assert out == ""
    assert "Usage: socketguard" in err
    assert said in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_each_command(name: str, run: Run) -> None:
    if cli.COMMANDS[name].missing():
        pytest.skip("needs an extra")
    for option in ("-h", "--help"):
        assert f"Usage: socketguard {name} " in run(name, option).out
    if name == "token":
        assert "--lifetime" in run(name, "mint", "-h").out


@pytest.mark.parametrize(
    ("name", "missing"), [(name, missing) for name, command in cli.COMMANDS.items() for missing in command.needs]
)
def test_without_the_extra_it_says_what_to_install(
    name: str, missing: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    install = f"\n  pip install 'socketguard[{cli.COMMANDS[name].extra}]'\n"
    _, out, err = run(name, "--whatever", status=2)
    assert out == ""
    assert missing in err
    assert install in err
    for option in ("-h", "--help"):
        _, out, err = run(name, "x", option)
        assert out.startswith(f"Usage: socketguard {name}")
        assert cli.COMMANDS[name].summary in out
        assert (install in out, err) == (True, "")


def make_command(write: Write, ends_with: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(f"import click\n\n@click.command()\n@click.option('-x')\ndef command(x):\n    {ends_with}\n")
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(cli, "COMMANDS", {"one": cli.Command(name, "is of a test", "")})


@pytest.mark.parametrize(
    ("ends_with", "status"), [("return 3", 3), ("return None", 0), ("raise KeyboardInterrupt", 130)]
)
def test_how_a_command_ends(
    ends_with: str, status: int, run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_command(write, ends_with, monkeypatch)
    run("one", "-x", "y", status=status)


def test_a_reader_that_has_gone(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_command(write, "raise BrokenPipeError", monkeypatch)
    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["one"]) == 141
        print("nobody reads this", flush=True)
    assert (tmp_path / "out").read_text() == ""


def test_a_command_and_what_it_needs_are_imported_only_when_called() -> None:
    script = """
import sys, socketguard.cli
found = {"click", "uvicorn", "socketguard.cli.demo"} & set(sys.modules)
sys.exit(f"imported: {found}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
