"""How the commands print: to 80 columns, with colours on a terminal only. This module is pure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import TextIO

__all__ = ["Printer"]

WIDTH = 80


class Printer:
    """Prints checked things, one below the other.

    Colours are for terminals, and only where ``NO_COLOR`` is not set (https://no-color.org); the marks become ASCII
    where the stream can't write others.
    """

    def __init__(self, stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> None:
        """
        Args:
            stream: where it goes.
            environ: the environment variables.
        """
        self._stream = stream
        self._colours = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._encoding = stream.encoding or "utf-8"  # streams in memory have none
        try:
            "✓✗".encode(self._encoding)
            self._good, self._bad = "✓", "✗"
        except UnicodeEncodeError:
            self._good, self._bad = "ok", "FAILED"

    def text(self, text: str) -> None:
        """Print a paragraph, and an empty line after it."""
        self._write(textwrap.fill(text, WIDTH, break_on_hyphens=False), "")

    def heading(self, text: str, *, good: bool) -> None:
        """Print what was checked, with a mark that says how it went."""
        mark = self._paint(self._good, "32") if good else self._paint(self._bad, "1;31")
        self._write(f"{mark} {self._paint(text, '1')}")

    def item(self, label: str, text: str) -> None:
        """Print a text beside its label, of up to 6 letters."""
        indent = " " * 10
        lines = textwrap.wrap(text, WIDTH - len(indent), break_on_hyphens=False) or [""]
        self._write(f"  {self._paint(f'{label:<8}', '2')}{lines[0]}", *(indent + line for line in lines[1:]))

    def gap(self) -> None:
        """Print an empty line."""
        self._write("")

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colours else text

    def _write(self, *lines: str) -> None:
        for line in lines:
            # What the stream has no character for must not end the command.
            self._stream.write(line.encode(self._encoding, "replace").decode(self._encoding) + "\n")
        self._stream.flush()
