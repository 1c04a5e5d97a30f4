"""The command line: ``socketguard COMMAND …``.

A command is a module with ``main(arguments: list[str]) -> int``, imported when it is called. It reads its own
arguments, with whatever it likes, so that one command's parser or dependencies are no other command's business.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from socketguard import __version__

__all__ = ["COMMANDS", "Command", "main"]

MISSING = 2
"""The exit status for wrong usage, as argparse has it, and for packages that are not installed."""

INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


READER_GONE = 141
"""The exit status when nobody reads the output any more: 128 and the number of SIGPIPE."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        module: what is imported when the command is called.
        summary: one line for ``--help``.
        extra: the extra of this package that installs what is needed.
        needs: the packages that must be there, by the names under which they are imported.
    """

    module: str
    summary: str
    extra: str = ""
    needs: tuple[str, ...] = ()


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "demo": Command(
            "socketguard.cli.demo",
            "start a guarded server here and play clients against it, good and bad",
            "demo",
            ("uvicorn", "websockets", "aiohttp"),
        ),
        "doctor": Command(
            "socketguard.cli.doctor",
            "examine a deployed endpoint from outside, through its proxy",
            "cli",
            ("click", "rich", "httpx2", "websockets"),
        ),
        "check": Command("socketguard.cli.check", "look at an application's configuration, without serving it"),
        "token": Command("socketguard.cli.token", "make a token for development, or explain one"),
    }
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0 when all went well.

    Raises:
        SystemExit: by argparse, for ``--help``, ``--version`` and wrong usage.
    """
    name, arguments = _read(argv)
    command = COMMANDS[name]
    missing = [package for package in command.needs if importlib.util.find_spec(package) is None]
    if missing:
        print(
            f"socketguard {name} needs {', '.join(missing)}, not installed here. Install with:\n\n"
            f"  pip install 'socketguard[{command.extra}]'\n",
            file=sys.stderr,
        )
        return MISSING
    try:
        status: int = importlib.import_module(command.module).main(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `socketguard demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return READER_GONE
    return status


def _read(argv: list[str] | None) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser(
        prog="socketguard",
        usage="socketguard [--help] [--version] COMMAND [ARGUMENT …]",
        description="JWT, namespaces, heartbeats and readable logs for Socket.IO apps built on python-socketio.",
        epilog="\n".join(["commands:", *(f"  {name:<8}  {command.summary}" for name, command in COMMANDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"socketguard {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=tuple(COMMANDS), help="one of the commands below")
    # Everything after the command is the command's own, its --help too.
    rest = parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="see COMMAND --help")
    rest.required = False
    read = parser.parse_args(argv)
    return read.command, read.arguments
