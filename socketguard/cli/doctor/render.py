"""How the doctor prints: a tree of checks while it works, then the findings; or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from socketguard.cli.output import SCHEMA_VERSION, can_write
from socketguard.logs.redact import RedactFilter
from socketguard.text import neutralise

from .probes import Line, Mark
from .rules import Finding

__all__ = ["Redactor", "Terminal", "as_json"]

TEXT_LIMIT = 600
"""Characters of one text of a finding or check that are shown."""

_TEXTS = ("title", "evidence", "cause", "fix", "docs")
_MARKS: dict[Mark, tuple[str, str, str]] = {
    "good": ("✓", "ok", "green"),
    "note": ("!", "!", "yellow"),
    "bad": ("✗", "X", "bold red"),
    "skipped": ("-", "-", "dim"),
}


class Redactor:
    """Takes secrets out of everything that is printed, and what a terminal would obey: the one place for it.

    The set of known secrets may grow.
    """

    def __init__(self, secrets: set[str]) -> None:
        self._secrets = secrets
        self._filter = RedactFilter()

    def clean(self, text: str) -> str:
        """A text that may be shown."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if secret:
                text = text.replace(secret, "[redacted]")
        return neutralise(self._filter.text(text), TEXT_LIMIT)

    def finding(self, finding: Finding) -> Finding:
        """A finding that may be shown."""
        return Finding(**asdict(finding) | {name: self.clean(getattr(finding, name)) for name in _TEXTS[:-1]})


class Terminal:
    """Where an examination says what it does: a tree that grows on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO, target: str, redactor: Redactor, *, verbose: bool) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
        self._redactor = redactor
        self._verbose = verbose
        self._ascii = not can_write(stream, "✓✗")
        root = redactor.clean(target)
        self._tree = Tree(Text(root, style="bold"))
        self._title = ""
        self._live = Live(self._tree, console=self._console, refresh_per_second=8, transient=True)
        if not self._console.is_terminal:
            self._console.print(Text(root))

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._tree)

    def begin(self, title: str) -> None:
        """A check begins."""
        self._title = title
        self._tree.add(Spinner("line" if self._ascii else "dots", Text(title)))

    def end(self, line: Line) -> None:
        """It has ended."""
        symbol, plain, style = _MARKS[line.mark]
        shown = Text.assemble(
            (plain if self._ascii else symbol, style),
            " ",
            (self._title, "dim" if line.mark == "skipped" else "bold" if line.mark == "bad" else ""),
            "  ",
            (self._redactor.clean(line.text), "dim"),
        )
        details = [Text(self._redactor.clean(text), style="dim") for text in line.details] if self._verbose else []
        if self._console.is_terminal:
            self._tree.children.pop()
            branch = self._tree.add(shown)
            for text in details:
                branch.add(text)
        else:
            self._console.print(shown)
            for text in details:
                self._console.print(Text.assemble("    ", text))

    def findings(self, findings: Sequence[Finding], unexamined: str = "") -> None:
        """Print the findings, the likeliest cause first, and what could not be examined."""
        for finding in map(self._redactor.finding, findings):
            symbol, plain, style = _MARKS["bad" if finding.severity == "error" else "note"]
            self._console.print()
            self._console.print(
                Text.assemble((plain if self._ascii else symbol, style), f" {finding.id}  ", (finding.title, "bold"))
            )
            grid = Table.grid(padding=(0, 1), pad_edge=False)
            grid.add_column(no_wrap=True, style="dim")
            grid.add_column(overflow="fold")
            for name in _TEXTS[1:]:
                if self._console.is_terminal:
                    grid.add_row(f"    {name}", Text(getattr(finding, name)))
                else:  # whole lines, for those who search in them
                    self._console.print(Text(f"    {name:<8} {getattr(finding, name)}"))
            if self._console.is_terminal:
                self._console.print(grid)
        if findings:
            self._console.print()
            self._console.print(Text(f"More about one: socketguard doctor --explain {findings[0].id}", style="dim"))
        else:
            self._console.print()
            text = "Nothing is wrong in what was examined." if unexamined else "Nothing is wrong here."
            self._console.print(Text(text, style="green"))
        if unexamined:
            self._console.print(Text(self._redactor.clean(unexamined), style="dim"))


def as_json(target: str, findings: Iterable[Finding], redactor: Redactor, unexamined: str = "") -> str:
    """One JSON object."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "target": redactor.clean(target),
        "findings": [asdict(redactor.finding(finding)) for finding in findings],
        "unexamined": redactor.clean(unexamined),
    }
    return json.dumps(content, ensure_ascii=False, indent=2)
