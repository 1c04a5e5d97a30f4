"""``socketguard check``: loads an application and says what its guard does and what is wrong with it.

Nothing is served and nothing is fetched. The exit status is 0 when all is good, 1 when something was found (warnings
count with ``--strict`` only; see `socketguard.findings`), and 2 for wrong usage and applications that can't be loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from socketguard.errors import ConfigurationError
from socketguard.findings import ERROR, KINDS, WARNING, Finding
from socketguard.logs.redact import RedactFilter
from socketguard.proxies.profiles import canonical_name

from .application import Application, LoadError, examine, load
from .audit import findings, workers_of
from .printer import Printer
from .rehearsal import Play, play
from .words import words

__all__ = ["SCHEMA_VERSION", "USAGE", "Parser", "main", "read_jwks", "read_token"]

SCHEMA_VERSION = 1
"""The version of what ``--json`` prints."""

USAGE = 2
TOKEN_BYTES = 65_536
"""The most that is read of a token, in bytes; the guard itself takes 8 KiB."""


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: those after ``check``.

    Returns:
        0, 1 or 2: see the module.

    Raises:
        SystemExit: by argparse, for ``--help`` and wrong usage.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.explain is not None:
        return _explain(options.explain, options.json)
    if options.app is None:
        parser.error("name the application: module:app (or ask with --explain SG012)")
    try:
        proxies = tuple(canonical_name(name) for name in options.proxy)
        token = None if options.play is None else read_token(options.play[0])
        keys = None if options.jwks_file is None else read_jwks(options.jwks_file)
        app, module = load(options.app)
        found = examine(app, module)
        if token is not None:
            return _play(found, token, options, keys)
        workers = workers_of(os.environ) if options.workers is None else options.workers
        listed = findings(found, proxies=proxies, workers=workers)
    except (LoadError, ConfigurationError) as exc:
        print(f"socketguard check: {RedactFilter().text(str(exc))}", file=sys.stderr)
        return USAGE
    errors = sum(finding.kind.severity == ERROR for finding in listed)
    configurations = [guard.describe() for guard in found.guards]
    for configuration in configurations:
        # A guard that was put on the server itself has not seen where the server is mounted.
        configuration["paths"] = configuration["paths"] or found.paths
    if options.json:
        _print_json(
            {
                "target": options.app,
                "guards": configurations,
                "findings": [_as_json(finding) for finding in listed],
            }
        )
    else:
        _print(Printer(sys.stdout), options.app, found, configurations, listed, errors)
    return 1 if errors or (options.strict and listed) else 0


def read_token(text: str) -> str:
    """Take a token from the command line, or from where it says.

    Args:
        text: the token; ``-`` for stdin, ``@FILE`` for a file. A word ``Bearer`` before it is taken off.

    Raises:
        LoadError: the file can't be read, or it is no text.
    """
    try:
        if text == "-":
            text = sys.stdin.read(TOKEN_BYTES)
        elif text.startswith("@"):
            with Path(text[1:]).open(encoding="utf-8") as stream:
                text = stream.read(TOKEN_BYTES)
    except (OSError, UnicodeDecodeError) as exc:
        raise LoadError(f"the token can't be read: {_reason(exc)}") from None
    text = text.strip()
    return text[7:].strip() if text[:7].lower() == "bearer " else text


def read_jwks(path: str) -> dict[str, Any]:
    """Read a JWK Set (RFC 7517 section 5).

    Raises:
        LoadError: the file can't be read, or holds something else.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise LoadError(f"the JWK Set can't be read: {_reason(exc)}") from None
    if not isinstance(document, dict):
        raise LoadError('a JWK Set is a JSON object with a list "keys"')
    return document


def _reason(exc: Exception) -> str:
    # Of what was in the file nothing is told.
    return exc.strerror or "no such file" if isinstance(exc, OSError) else "it is no text in UTF-8, or no JSON"


def _play(found: Application, token: str, options: argparse.Namespace, keys: dict[str, Any] | None) -> int:
    if not found.guards:
        raise LoadError("nobody guards this application, so that there is no admission to play")
    namespace = options.play[1]
    played = asyncio.run(
        play(found.guards[0], token, namespace, keys=keys, with_authorize=options.with_authorize),
    )
    answer = None if played.refusal is None else played.refusal.payload("(random)")
    if options.json:
        _print_json(
            {
                "target": options.app,
                "namespace": namespace,
                "admitted": played.admitted,
                "steps": [
                    {"number": step.number, "title": step.title, "state": step.state, "text": step.text}
                    for step in played.steps
                ],
                "answer": answer,
            }
        )
    else:
        _print_play(Printer(sys.stdout), namespace, played, answer)
    # Whatever hangs on a signature that nobody has checked is not good yet.
    return 0 if played.admitted else 1


def _print_play(printer: Printer, namespace: str, played: Play, answer: Mapping[str, Any] | None) -> None:
    for step in played.steps:
        title = f"{step.number:>2}  {step.title}"
        if step.state == "skipped":
            printer.item("–", title)
            printer.item("", step.text)
        else:
            printer.heading(title, good=step.state == "passed")
            printer.item("", step.text)
    printer.gap()
    if answer is None:
        condition = "." if played.admitted else " if the signature holds, which was NOT checked: give --jwks-file."
        printer.text(f"{words(namespace)} would be joined{condition}")
    else:
        data = answer.get("data", {})
        code = f", code {data['code']}, retry {data['retry']}" if data else ""
        printer.text(f"{words(namespace)} would be refused. The client is told: {answer['message']}{code}.")


def _explain(id_: str, as_json: bool) -> int:
    kind = KINDS.get(id_.upper())
    if kind is None:
        print(f"socketguard check: there is no such id; there are {', '.join(KINDS)}", file=sys.stderr)
        return USAGE
    if as_json:
        head = {name: getattr(kind, name) for name in ("id", "severity", "title", "why")}
        _print_json({**head, "fix": kind.advice, "docs": kind.docs})
        return 0
    printer = Printer(sys.stdout)
    printer.text(f"{kind.id}, {kind.severity}: {kind.title}")
    printer.item("why", kind.why)
    printer.item("fix", kind.advice)
    printer.item("docs", kind.docs)
    return 0


def _as_json(finding: Finding) -> dict[str, Any]:
    kind = finding.kind
    return {
        "id": finding.id,
        "severity": kind.severity,
        "title": kind.title,
        "evidence": finding.text,
        "cause": kind.why,
        "fix": finding.fix,
        "docs": kind.docs,
    }


def _print_json(shown: Mapping[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **shown}, indent=2, default=str))


def _print(
    printer: Printer,
    target: str,
    found: Application,
    configurations: Sequence[Mapping[str, Any]],
    listed: Sequence[Finding],
    errors: int,
) -> None:
    for configuration in configurations:
        printer.text(f"The guard of {target}:")
        for name, value in configuration.items():
            printer.item("", f"{name}: {words(value)}")
        printer.gap()
    for finding in listed:
        kind = finding.kind
        printer.heading(f"{finding.id}, {kind.severity}: {kind.title}", good=False)
        printer.item("found", finding.text)
        printer.item("why", kind.why)
        printer.item("fix", finding.fix)
        printer.item("docs", kind.docs)
        printer.gap()
    if listed:
        warnings = len(listed) - errors
        printer.text(f"{_count(errors, ERROR)}, {_count(warnings, WARNING)}.")
    else:
        printer.heading("Nothing to change.", good=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Parser(argparse.ArgumentParser):
    """Quotes no token when it doesn't understand something, and takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Print the message without secrets, and end."""
        message = re.sub(
            r"(?s)unrecognized arguments: .*", "there are arguments that this command doesn't know", message
        )
        super().error(RedactFilter().text(message))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="socketguard check",
        description="Load an application and say what its guard does and what is wrong with it. Nothing is served.",
        epilog="Exit status: 0 good, 1 something was found, 2 wrong usage or an application that can't be loaded.",
    )
    parser.add_argument("app", nargs="?", metavar="module:app", help="as for uvicorn; a factory is module:create_app()")
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="NAME",
        help="a proxy on the path, such as traefik; repeat it for every hop",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="processes on one port; by default what WEB_CONCURRENCY, UVICORN_WORKERS and GUNICORN_CMD_ARGS say",
    )
    parser.add_argument("--strict", action="store_true", help="let warnings count for the exit status too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--explain", metavar="ID", help="say what a warning such as SG012 means; needs no application")
    parser.add_argument(
        "--as",
        dest="play",
        nargs=2,
        metavar=("TOKEN", "NAMESPACE"),
        help="play the admission of a token, step by step, without a network; TOKEN is '-' for stdin, @FILE for a file "
        "(others on this machine can read the command line), '' for none",
    )
    parser.add_argument("--jwks-file", metavar="FILE", help="with --as: a JWK Set in place of what would be fetched")
    parser.add_argument(
        "--with-authorize", action="store_true", help="with --as: call authorize of the namespace; it may use a network"
    )
    return parser


def _positive(text: str) -> int:
    if re.fullmatch("[1-9][0-9]{0,3}", text) is None:
        raise argparse.ArgumentTypeError("write a whole number of workers, at least 1")
    return int(text)
