"""The command line: ``socketguard COMMAND …``.

A command is a module with a `click.Command` of the name ``command``. It is imported when it is called, because what it
needs may not be installed; then its help says what to install, and so does the command itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from socketguard import __version__
from socketguard.errors import ConfigurationError
from socketguard.logs.redact import RedactFilter

if TYPE_CHECKING:
    import click

__all__ = ["COMMANDS", "USAGE", "Command", "CommandError", "main"]

USAGE = 2
"""The exit status for wrong usage, and for packages that are not installed."""

INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""

READER_GONE = 141
"""The exit status when nobody reads the output any more: 128 and the number of SIGPIPE."""

MAX_SHOWN = 24
"""Characters of the longest unknown argument that is shown."""

_HELP = ("-h", "--help")


class CommandError(Exception):
    """A command can't do what it was asked for; the text says why, without secrets."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its module and its name there, a line for the help, and the packages that it needs, by the extra
    that brings them."""

    module: str
    summary: str
    usage: str
    extra: str = "cli"
    needs: tuple[str, ...] = ("click",)
    name: str = "command"

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


COMMANDS: Mapping[str, Command] = {
    "demo": Command(
        "socketguard.cli.demo",
        "start a guarded server here and play clients against it, good and bad",
        "",
        "demo",
        ("click", "uvicorn", "websockets", "aiohttp"),
    ),
    "doctor": Command(
        "socketguard.cli.doctor.command",
        "examine a deployed endpoint from outside, through its proxy",
        "[OPTIONS] URL",
        needs=("click", "rich", "httpx2", "websockets"),
    ),
    "check": Command(
        "socketguard.cli.check",
        "look at an application's configuration, without serving it",
        "[OPTIONS] module:app",
    ),
    "report": Command(
        "socketguard.cli.report",
        "read the log of a guard with report_only: who would be kept out, and why",
        "[OPTIONS] FILE…",
    ),
    "token": Command("socketguard.cli.token", "make a token for development, or explain one", "mint|inspect …"),
    **{
        name: Command("socketguard.cli.control", summary, "--redis URL …", "cli,redis", ("click", "redis"), name)
        for name, summary in (
            ("revoke", "refuse tokens at all workers that share a Redis"),
            ("disconnect", "disconnect clients of all workers"),
            ("workers", "list the workers that share a Redis"),
        )
    },
}
_SUMMARIES = "\n".join(f"  {name:<10}  {command.summary}" for name, command in COMMANDS.items())
_TEXT = f"""Usage: socketguard [--help] [--version] COMMAND [ARGUMENT …]

  JWT, namespaces, heartbeats and readable logs for Socket.IO apps built on python-socketio.

Commands:
{_SUMMARIES}

Each says more with --help."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line, with the arguments of the process by default, and give the exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in _HELP:
        print(_TEXT)
        return 0
    if name == "--version":
        print(f"socketguard {__version__}")
        return 0
    if name not in COMMANDS:
        said = f"there is no command {RedactFilter().text(name)!r}" if name else "name a command"
        print(f"{_TEXT}\n\nError: {said}.", file=sys.stderr)
        return USAGE
    command = COMMANDS[name]
    if command.missing():
        return _say_what_to_install(name, command, arguments)
    try:
        return _run(f"socketguard {name}", getattr(importlib.import_module(command.module), command.name), arguments)
    except (CommandError, ConfigurationError) as problem:
        print(f"socketguard {name}: {RedactFilter().text(str(problem))}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `socketguard demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return READER_GONE


def _say_what_to_install(name: str, command: Command, arguments: list[str]) -> int:
    text = f"socketguard {name} needs {', '.join(command.missing())}, not installed here. Install with:\n\n"
    text += f"  pip install 'socketguard[{command.extra}]'\n"
    if not any(argument in _HELP for argument in arguments):
        print(text, file=sys.stderr)
        return USAGE
    print(f"Usage: socketguard {name} {command.usage}".rstrip(), f"\n  {command.summary}\n", text, sep="\n")
    return 0


def _run(program: str, command: click.Command, arguments: list[str]) -> int:
    """Run a command by itself, since `click.Command.main` has its own ends for Ctrl-C and broken pipes."""
    import click

    try:
        with command.make_context(program, arguments, help_option_names=list(_HELP), max_content_width=100) as context:
            return command.invoke(context) or 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as problem:
        text = problem.format_message()
        if text.startswith("Got unexpected extra argument"):
            extra = text.partition("(")[2].removesuffix(")").split()
            # A long one may be a token.
            shown = [repr(one) if len(one) <= MAX_SHOWN else f"one of {len(one)} characters" for one in extra]
            text = f"there are arguments that this command doesn't know: {', '.join(shown)}"
        context = getattr(problem, "ctx", None) or click.Context(command, info_name=program)
        print(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", file=sys.stderr)
        print(f"Error: {RedactFilter().text(text)}", file=sys.stderr)
        return problem.exit_code
