"""Imports run down from room to room, and each library stays in the rooms that know it: see docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import socketguard

ROOT = Path(socketguard.__file__).parent

# From the bottom up. Nobody imports from a higher row.
ROWS = (
    {"errors", "findings", "text"},
    {"authenticator", "check", "connection", "deadline", "proxies"},
    {"tokens", "namespaces", "limits", "logs"},
    {"auth", "control", "redis"},
    {"admission", "config", "diagnosis", "testing"},
    {"server"},
    {"guard"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
STRANGERS = ROWS[2]  # They never import each other.

# Who may import a library.
LIBRARIES = {
    "jwt": {"tokens", "testing", "cli"},
    "cryptography": {"tokens"},
    "structlog": {"logs"},
    "starlette": {"authenticator", "tokens", "config", "server", "guard"},
    "socketio": {"server", "cli"},
    "engineio": {"server", "cli"},
    # Of extras, imported when somebody asks for them.
    "httpx2": {"tokens", "cli"},
    "itsdangerous": {"auth"},
    "redis": {"redis"},
    "typing_extensions": {"connection"},
    **{name: {"cli"} for name in ("uvicorn", "websockets", "aiohttp", "click", "rich")},
}

TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def room_of(path: Path) -> str:
    return path.with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """What a module imports, anywhere in it: ``.room.module`` for its own package, and the names of libraries."""
    found = set()
    for node in ast.walk(TREES[path]):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = ["socketguard", *path.parts[:-1]][: len(path.parts) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = (
                [f"{module}.{alias.name}" for alias in node.names]
                if (ROOT.parent / module.replace(".", "/")).is_dir()
                else [module]
            )
        found |= {
            name.removeprefix("socketguard") if name.startswith("socketguard.") else name.partition(".")[0]
            for name in names
        }
    return found


def test_imports_run_down() -> None:
    row_of = {room: number for number, row in enumerate(ROWS) for room in row}
    assert {room_of(path) for path in TREES} == set(row_of)
    arrows = {(room_of(path), name.split(".")[1]) for path in TREES for name in imports(path) if name[0] == "."}
    wrong = [
        f"{room} imports {other}"
        for room, other in sorted(arrows)
        if other in row_of and room != other
        if row_of[room] < row_of[other] or {room, other} <= STRANGERS or (other, room) in arrows
    ]
    assert not wrong


def test_no_circle() -> None:
    graph = {
        path: {other for other in TREES if "." + ".".join(other.with_suffix("").parts) in imports(path)}
        for path in TREES
    }
    while leaves := {path for path, others in graph.items() if not others & set(graph)}:
        graph = {path: others for path, others in graph.items() if path not in leaves}
    assert not graph


def test_libraries_stay_in_their_rooms() -> None:
    known = {(room_of(path), name) for path in TREES for name in imports(path) if name[0] != "."}
    known = {
        (room, name) for room, name in known if name not in sys.stdlib_module_names | {"__future__", "socketguard"}
    }
    assert not [f"{room} imports {name}" for room, name in sorted(known) if room not in LIBRARIES.get(name, ())]


def test_importing_the_package_imports_no_extra() -> None:
    extras = sorted(name for name, rooms in LIBRARIES.items() if name in ("httpx2", "uvicorn", "websockets", "click"))
    program = (
        # python-socketio's own client imports aiohttp where it finds it, and structlog rich.
        "import sys; sys.modules['aiohttp'] = sys.modules['rich'] = None; "
        "import socketguard, socketguard.testing, socketguard.logs; "
        f"print([name for name in {extras!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(result.stdout) == []


def test_nothing_blocks_in_an_async_function() -> None:
    for path, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.AsyncFunctionDef):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                assert not called & {"time.sleep", "open", "subprocess.run", "input"}, (path, function.name)
