"""What log records of the standard library hold."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

__all__ = ["RECORD_ATTRIBUTES", "TRACEBACK_LIMIT", "traceback_text"]

RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""The attributes that each record has; no further field may be named so."""

TRACEBACK_LIMIT = 16_384
"""How many characters of a traceback are kept."""


def traceback_text(exc_info: Any) -> str | None:
    """The text of ``exc_info`` (an exception, a triple as of `sys.exc_info`, or true for the current exception)."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) else (sys.exc_info()[1] if exc_info else None)
    if error is None:
        return None
    # Not by ConsoleRenderer, which uses Rich where that is installed and prints local variables, tokens too.
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    # The end is the telling part: the exception itself and where it was raised.
    return text if len(text) <= TRACEBACK_LIMIT else "…" + text[-TRACEBACK_LIMIT:]
