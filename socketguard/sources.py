"""Finds misspelt options of a server in the source that made it.

python-socketio and python-engineio take any keyword and forget those that they do not know, so that the server object
can't tell. The source can: it is read when the guard is made, never while the application serves.
"""

from __future__ import annotations

import ast
import difflib
import functools
import linecache
import sys
from collections.abc import Collection, Iterator
from types import FrameType

from .errors import Finding

__all__ = ["find_misspelt_options"]

_CLASS = "AsyncServer"


def find_misspelt_options(server: object, known: Collection[str]) -> list[Finding]:
    """Look at the calls of ``AsyncServer(…)`` in the files that hold this server.

    Args:
        server: the server.
        known: the options that there are.

    Returns:
        A finding for each unknown option. Nothing when the source can't be read.
    """
    found: dict[str, Finding] = {}
    for filename in dict.fromkeys(_files_with(server)):
        for line, option in _options(filename):
            if option not in known:
                found[option] = _finding(option, known, f"{filename}:{line}")
    return list(found.values())


def _finding(option: str, known: Collection[str], place: str) -> Finding:
    close = difflib.get_close_matches(option, known, 1)
    fix = f"write {close[0]}=" if close else "remove it"
    return Finding("SG023", f"{_CLASS}({option}=…) at {place} is no option of python-socketio, which ignores it", fix)


def _files_with(server: object) -> Iterator[str]:
    """The files of the functions that are running and of the modules in which the server has a name."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if any(value is server for value in frame.f_locals.values()) and not _is_ours(frame):
            yield frame.f_code.co_filename
        frame = frame.f_back
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        filename = names.get("__file__")
        if isinstance(filename, str) and any(value is server for value in list(names.values())):
            yield filename


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == __package__


@functools.lru_cache(maxsize=64)
def _options(filename: str) -> tuple[tuple[int, str], ...]:
    """The line and the name of each keyword that a file gives to the class."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return ()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == _CLASS]
    return tuple((call.lineno, keyword.arg) for call in calls for keyword in call.keywords if keyword.arg)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else str(getattr(function, "id", ""))
