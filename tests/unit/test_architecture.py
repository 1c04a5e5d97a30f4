"""Imports run downwards only, and each outside library stays behind the modules that know it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import socketguard

ROOT = Path(socketguard.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# They import the standard library and each other.
PURE = {
    "text",
    "findings",
    "rejections",
    "lists",
    "identity",
    "tokens",
    "diagnosis",
    "namespaces",
    "proxies",
    "heartbeat",
    "handshake",
    "checks",
    "discovery",
    "events",
    "records",
    "redact",
    "sources",
    "claims",
    "gate",
    "limits",
    "lifetime",
    "presets",
    "sentences",
    "requires",
    "revocations",
    "sessions",
    "timers",
    "pace",
    "delivery",
    "recipients",
    "catalogue",
    "hints",
    "summaries",
    "patterns",
}

# From the bottom up; nobody imports from a higher row.
ROWS: list[set[str]] = [
    {"text", "findings", "records", "timers", "pace", "catalogue"},
    {"rejections"},
    {"lists"},
    {"identity"},
    {"proxies", "summaries"},
    {"hints"},
    {
        "tokens",
        "diagnosis",
        "handshake",
        "checks",
        "discovery",
        "sources",
        "events",
        "deadline",
        "redact",
        "limits",
        "lifetime",
        "revocations",
    },
    {"recipients"},
    {"delivery"},
    {"namespaces", "heartbeat", "keys", "claims", "fetch", "backend", "gate", "requires", "sessions", "store"},
    {"keyset", "presets", "sentences", "patterns"},
    {"jwks", "logs"},
    {"verifier", "suppression"},
    {"issuers", "admission", "report"},
    {"env", "refresh", "endings"},
    {"options", "seam.server", "seam.handlers", "seam.stand_ins"},
    {"seam.emits"},
    {"seam", "drain", "watch"},
    {"asgi", "watching"},
    {"core"},
    {"guard"},
    {"__init__"},
    {"testing", "cli.printer"},
    {"cli.words", "cli.application"},
    {"cli.rehearsal", "cli.audit"},
    {"cli.doctor.target", "cli.doctor.symptoms", "cli.doctor.looks"},
    {"cli.doctor.observations"},
    {"cli.doctor.wire", "cli.doctor.fingerprints", "cli.doctor.page"},
    {"cli.doctor.findings"},
    {"cli.doctor.opening", "cli.doctor.living", "cli.doctor.beside"},
    {"cli.doctor.matrix"},
    {"cli.doctor.verdict", "cli.doctor.network"},
    {"cli.doctor.sessions"},
    {"cli.doctor.examination"},
    {"cli.doctor.probes", "cli.doctor.visits", "cli.doctor.render"},
    {"cli.doctor.checks"},
    {"cli.doctor.command"},
    {"cli.doctor"},
    {"cli.demo", "cli.check", "cli.token"},
    {"cli"},
]

# Libraries, and who may import them at the top of the module.
KNOWN = {
    "socketio": {"seam", "seam.emits", "seam.server", "cli.demo"},
    "engineio": {"seam", "seam.server", "cli.demo"},
    "jwt": {"keys", "testing", "cli.demo", "cli.token"},
    "cryptography": {"keys", "keyset"},
    "structlog": {"logs"},
    "starlette": {"asgi", "backend", "core", "env", "guard"},
}

# What only the extras install: imported by their own modules, when somebody asks for them.
EXTRAS = {
    "uvicorn",
    "websockets",
    "aiohttp",
    "fastapi",
    "redis",
    "msgpack",
    "prometheus_client",
    "httpx2",
    "click",
    "rich",
}
OF_EXTRAS = {"cli.demo", "fetch"} | {
    f"cli.doctor.{name}" for name in ("network", "sessions", "visits", "render", "command")
}


def imports(module: str, *, top_level: bool = False) -> set[str]:
    """What a module imports when it runs: ``.name`` for its own package, and the names of libraries."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                depth = (
                    module.count(".")
                    + 2
                    - node.level
                    - (MODULES[module].name == "__init__.py" and module != "__init__")
                )
                prefix = module.split(".")[:depth] if depth > 0 else []
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found |= {"." + ".".join([*prefix, name]) for name in names}
            elif (node.module or "").startswith("socketguard."):
                found.add("." + str(node.module).removeprefix("socketguard."))
            else:
                found.add((node.module or "").partition(".")[0])
        else:
            stack += ast.iter_child_nodes(node)
    return found


def own(module: str) -> set[str]:
    return {name[1:] for name in imports(module) if name.startswith(".") and name[1:] in MODULES}


def libraries(module: str, *, top_level: bool = False) -> set[str]:
    found = {name for name in imports(module, top_level=top_level) if not name.startswith(".")}
    return found - set(sys.stdlib_module_names) - {"__future__", "socketguard"}


def test_every_module_has_its_row() -> None:
    placed = [module for row in ROWS for module in row]
    assert len(placed) == len(set(placed))
    assert set(placed) == set(MODULES)


def test_imports_run_downwards_only() -> None:
    row_of = {module: number for number, row in enumerate(ROWS) for module in row}
    upwards = {
        (module, other)
        for module in MODULES
        for other in own(module)
        if other != module and (row_of[other] > row_of[module])
    }
    assert upwards == set()


def test_no_circle_within_a_row() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module not in finished:
            for other in own(module):
                visit(other, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_import_the_standard_library_and_each_other(module: str) -> None:
    assert libraries(module) == set()
    assert own(module) <= PURE


@pytest.mark.parametrize("library", sorted(KNOWN))
def test_each_library_stays_behind_the_modules_that_know_it(library: str) -> None:
    assert {module for module in MODULES if library in libraries(module)} <= KNOWN[library]


def test_nothing_else_is_imported() -> None:
    for module in MODULES:
        unknown = libraries(module) - set(KNOWN) - EXTRAS
        assert unknown == set(), module


def test_extras_are_imported_by_their_own_modules_only() -> None:
    assert {module for module in MODULES if libraries(module) & EXTRAS} <= OF_EXTRAS
    for module in set(MODULES) - OF_EXTRAS:
        assert not {f".{name}" for name in OF_EXTRAS} & imports(module, top_level=True), module


def test_importing_the_package_imports_no_extra() -> None:
    program = (
        "import sys; import socketguard, socketguard.testing, socketguard.logs; "
        f"print(sorted(name for name in {sorted(EXTRAS)!r} if name in sys.modules))"
    )
    # python-socketio's own client imports aiohttp where it finds it, and structlog rich.
    blocked = "import sys; sys.modules['aiohttp'] = sys.modules['rich'] = None; "
    result = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(result.stdout)) <= {"aiohttp", "rich"}


def calls_to(names: set[str], module: str) -> set[str]:
    """The functions of these names that a module calls."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return {
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names
    }


def test_asgi_messages_are_read_and_sent_in_one_module() -> None:
    """Whoever names an ASGI message type does ASGI input or output."""
    speaking = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("http.", "websocket.", "lifespan."))
        and " " not in node.value
    }
    assert speaking - {"testing"} == {"asgi"}
    clients = {"testing", "cli.demo", "cli.doctor.network", "cli.doctor.sessions", "cli.doctor.visits"}
    for module in set(MODULES) - {"asgi"} - clients:
        assert calls_to({"receive", "send"}, module) <= {"self.server.eio.send"}, module


def test_public_names_are_listed_and_there() -> None:
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed = [
            node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if module.rpartition(".")[2] != "__main__":
            assert listed, module


def test_nothing_blocks_in_an_async_function() -> None:
    for module in MODULES:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.AsyncFunctionDef):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                assert not called & {"time.sleep", "open", "subprocess.run", "input"}, (module, function.name)
