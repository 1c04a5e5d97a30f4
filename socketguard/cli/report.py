"""``socketguard report``: reads log lines of a guard with ``report_only`` and says who would be kept out, and why."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

from socketguard.errors import RejectCode
from socketguard.text import neutralise

from . import CommandError
from .output import Printer, counted, print_json

__all__ = ["command", "read", "tally"]

_EVENTS = {
    "socketguard.connection.would_reject": "refused",
    "socketguard.connection.would_end": "ended",
}
_PREFIX = "socketguard."
"""Before the fields in lines that went through Python's logging."""

_LONGEST = 1_000_000
"""Characters of a line that is read."""

_LOGIN = "have these clients send what your authentication takes; see docs/authentication.md"
_ADVICE = {
    RejectCode.TOKEN_MISSING: (
        f"{_LOGIN}; until all of them do, write NamespacePolicy(name, token='optional') for their namespace"
    ),
    RejectCode.TOKEN_EXPIRED: (
        "let the client give auth as a function that fetches a fresh token: auth: (cb) => cb({ token: getToken() })"
    ),
    RejectCode.TOKEN_NOT_YET_VALID: "compare the clocks of this server and of whoever issues the tokens",
    RejectCode.TOKEN_MALFORMED: "look at what the client sends as token: the detail and the hint of the line say more",
    RejectCode.TOKEN_INVALID: "look at the detail of the line: key, issuer or audience differ from the configuration",
    RejectCode.CREDENTIAL_INVALID: "look at app_message of the line, which your authenticator gave",
    RejectCode.ACCOUNT_DISABLED: "these users are not there any more: they will be kept out",
    RejectCode.INVALID_NAMESPACE: "correct the namespace in the client, or declare it; the suggestion is in the line",
    RejectCode.INSUFFICIENT_SCOPE: "grant what the namespace asks for, or change its policy",
    RejectCode.CONNECT_MALFORMED: "let the client send auth as an object, such as { token }",
    RejectCode.KEYS_UNAVAILABLE: "see the lines that end in .unavailable: credentials could not be checked then",
    RejectCode.ADMISSION_TIMEOUT: "authenticate faster, or give admission_timeout more seconds",
    RejectCode.INTERNAL_ERROR: "see the exception in the line: a function of the application failed",
}


@dataclass
class Row:
    """Clients of one kind that would be kept out for one reason."""

    what: str
    reason: str
    detail: str
    namespace: str
    user_agent: str
    count: int = 0
    clients: set[tuple[str, str]] = field(default_factory=set)
    first: str = ""
    last: str = ""

    def as_json(self) -> dict[str, Any]:
        """In plain values."""
        names = ("what", "reason", "detail", "namespace", "user_agent", "count", "first", "last")
        return {**{name: getattr(self, name) for name in names}, "clients": len(self.clients)}


@click.command(epilog="Exit status: 0 nobody would be kept out, 1 somebody would, 2 wrong usage.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(files: Sequence[str], as_json: bool) -> int:
    """Read log lines (JSON) of a guard with report_only=True: who would be refused or ended, and what to do first.

    FILE may be '-' for stdin. What stands before the JSON in a line, as container engines write it, is passed over.
    """
    lines = 0
    found: list[Mapping[str, Any]] = []
    for name in files:
        with _opened(name) as stream:
            for line in stream:
                lines += 1
                if (event := read(line)) is not None:
                    found.append(event)
    rows = tally(found)
    if as_json:
        print_json({"lines": lines, "events": len(found), "rows": [row.as_json() for row in rows]})
    else:
        _print(rows, lines, len(found))
    return 1 if rows else 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    try:
        stream = open(name, encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below
    except OSError as exc:
        raise CommandError(f"{name!r} can't be read: {exc.strerror}") from None
    with stream:
        yield stream


def read(line: str) -> Mapping[str, Any] | None:
    """The event in a line of a log; None where there is none of these."""
    start = line.find("{")
    if start < 0 or len(line) > _LONGEST or "would_" not in line:
        return None
    try:
        event = json.loads(line[start:])
    except (ValueError, RecursionError):
        return None
    event = {name.removeprefix(_PREFIX): value for name, value in event.items()}
    return event if event.get("event") in _EVENTS else None


def tally(events: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row for each kind of clients that would be kept out, those of most attempts first."""
    rows: dict[tuple[str, str, str, str, str], Row] = {}
    for event in events:
        place = (
            _EVENTS[event["event"]],
            _text(event.get("reason")),
            _text(event.get("detail")),
            _text(event.get("requested", event.get("namespace"))),
            _text(event.get("user_agent")),
        )
        row = rows.setdefault(place, Row(*place))
        suppressed = event.get("suppressed")
        more = suppressed if isinstance(suppressed, int) else 0
        # A summary stands for lines that were held back; any other line for itself and for those before it.
        row.count += more if event.get("summary") else more + 1
        row.clients.add((_text(event.get("client_address")), _text(event.get("subject"))))
        moment = _text(event.get("timestamp"))
        row.first = min(filter(None, (row.first, moment)), default="")
        row.last = max(row.last, moment)
    return sorted(rows.values(), key=lambda row: (-row.count, row.reason, row.namespace, row.user_agent))


def _text(value: Any) -> str:
    return "" if value is None else neutralise(str(value), 160)


def _print(rows: Sequence[Row], lines: int, events: int) -> None:
    printer = Printer(sys.stdout)
    if not rows:
        if not lines:
            printer.heading("There are no lines to read.", good=False)
            return
        printer.heading(f"Nobody would be kept out: {counted(lines, 'line')} read.", good=True)
        printer.text("That holds for the clients of this time: read the logs of some days before you switch on.")
        return
    for row in rows:
        clients = f"{counted(len(row.clients), 'client')}, {counted(row.count, 'time')}"
        printer.heading(f"{row.reason} in {row.namespace or '/'}: {clients} would be {row.what}", good=False)
        printer.item("agent", row.user_agent or "none sent")
        if row.detail:
            printer.item("detail", row.detail)
        if row.first:
            printer.item("seen", row.first if row.first == row.last else f"{row.first} to {row.last}")
        printer.gap()
    printer.text(f"Before you take report_only out, of {counted(events, 'line')}:")
    reasons = Counter({row.reason: 0 for row in rows})
    for row in rows:
        reasons[row.reason] += row.count
    for reason, count in reasons.most_common():
        advice = {code.value: text for code, text in _ADVICE.items()}.get(reason, "see docs/troubleshooting.md")
        printer.item("do", f"{reason} ({counted(count, 'time')}): {advice}")
