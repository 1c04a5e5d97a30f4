"""Loads an application by its name and finds the guards and Socket.IO servers in it, without serving it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from socketguard.diagnosis.startup import Discovery, discover
from socketguard.errors import ConfigurationError
from socketguard.findings import Finding, finding
from socketguard.guard import Parts, SocketGuard
from socketguard.logs.redact import RedactFilter
from socketguard.namespaces.policy import NamespacePolicy
from socketguard.text import neutralise

from . import CommandError

__all__ = ["Application", "examine", "load", "parts_of", "policies_of"]

_SPEC = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<name>\w+(?:\.\w+)*)(?P<call>\(\))?")
_PACKAGE = Path(__file__).parents[1]
_TEXT_LIMIT = 800


@dataclass(slots=True)
class Application:
    """What was found: each guard once, servers without a guard, the paths of the endpoints, and what is wrong there.

    ``lost`` are mounts that no request seems to reach, by the path that they seem to have.
    """

    guards: list[SocketGuard] = field(default_factory=list)
    unguarded: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lost: dict[str, Finding] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def parts_of(guard: SocketGuard) -> Parts:
    """The parts of a guard: the one place where the command line looks behind its public face."""
    return guard._parts


def policies_of(guard: SocketGuard) -> list[NamespacePolicy]:
    """The policies of the namespaces that can be joined by one name, hidden ones among them."""
    parts = parts_of(guard)
    return [policy for policy in parts.registry.joinable(parts.served) if not policy.is_pattern]


def load(spec: str) -> tuple[object, ModuleType]:
    """Import an application, ``module:name``, ``module:factory()`` or ``file.py:name``, and give its module too.

    The current directory is searched first; what is printed meanwhile goes to stderr.
    """
    path, _, name = spec.partition(":")
    if path.endswith(".py"):  # a file, as people write it
        spec = path.removesuffix(".py").removeprefix("./").replace("/", ".") + ":" + (name or "app")
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise CommandError("the argument names no application; write module:app or module:create_app()")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    with _loading(match["module"]):
        module = importlib.import_module(match["module"])
    app: Any = module
    for name in match["name"].split("."):
        if not hasattr(app, name):
            raise CommandError(f"{match['module']} has no {match['name']}; write module:app with the name that it has")
        app = getattr(app, name)
    if match["call"]:
        with _loading(spec):
            app = app()
            if inspect.isawaitable(app):
                app = asyncio.run(_awaited(app))
    elif inspect.isfunction(app) and not inspect.signature(app).parameters:
        raise CommandError(f"{spec} is a function without parameters, so no application; write {spec}()")
    return app, module


def examine(app: object, module: ModuleType | None = None) -> Application:
    """Find the guards and servers in an application, a guard or a server; ``module`` is searched when nothing is there.

    Starlette builds middleware at its first request; a guard that is middleware is built here, so that it can be seen.
    """
    found = Application()
    with _loading("the middleware of the application"):
        found.findings += _build_guards(app)
    discovery = Discovery(servers=[app]) if _is_server(app) else discover(app)
    found.paths, found.lost = discovery.paths, discovery.lost
    found.findings += discovery.findings
    served = _unique([*discovery.servers, *([app.server] if isinstance(app, SocketGuard) else [])])
    if not discovery.servers and not (isinstance(app, SocketGuard) and app.app is None):
        found.findings.append(finding("SG026", application=type(app).__name__))
    named = [] if module is None else list(vars(module).values())
    guards = [value for value in named if isinstance(value, SocketGuard)]
    # Where nothing is found in the application, the module may still name what it serves.
    servers = served or _unique([guard.server for guard in guards] + [value for value in named if _is_server(value)])
    if not servers:
        what = "name the application that is served, or the server itself, module:sio"
        raise CommandError(f"no Socket.IO server is found in {type(app).__name__}: {what}")
    for server in servers:
        try:
            found.guards.append(SocketGuard.of(server))
        except LookupError:
            found.unguarded.append(server)
    if found.unguarded and discovery.servers:
        guards += [app] if isinstance(app, SocketGuard) else []
        if any(all(guard.server is not server for server in discovery.servers) for guard in guards):
            found.findings.append(finding("SG025"))
    return found


def _build_guards(app: object) -> Iterator[Finding]:
    for application, is_inner in _applications(app, False, set()):
        classes = [getattr(middleware, "cls", None) for middleware in application.user_middleware]
        guarded = any(isinstance(cls, type) and issubclass(cls, SocketGuard) for cls in classes)
        # OpenTelemetry puts its middleware in only when the stack is built.
        instrumented = getattr(application, "_is_instrumented_by_opentelemetry", False)
        if (guarded or instrumented) and application.middleware_stack is None:
            application.middleware_stack = application.build_middleware_stack()
        if guarded and is_inner:
            yield finding("SG025", "inner", application=type(application).__name__)


def _applications(app: Any, is_inner: bool, visited: set[int]) -> Iterator[tuple[Any, bool]]:
    """The Starlette and FastAPI applications, and whether they are inside a ``socketio.ASGIApp``."""
    if app is None or id(app) in visited or inspect.ismethod(app):
        return
    visited.add(id(app))
    if hasattr(app, "build_middleware_stack"):
        yield app, is_inner
    yield from _applications(getattr(app, "other_asgi_app", None), True, visited)
    for route in getattr(app, "routes", None) or ():
        yield from _applications(route, is_inner, visited)
    yield from _applications(getattr(app, "app", None), is_inner, visited)


def _is_server(value: object) -> bool:
    return not isinstance(value, type) and hasattr(value, "eio") and hasattr(value, "namespace_handlers")


def _unique(servers: list[Any]) -> list[Any]:
    return list({id(server): server for server in servers}.values())


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


@contextlib.contextmanager
def _loading(what: str) -> Iterator[None]:
    """Run code of the application: its prints don't mix with ours, and whatever it raises is told in one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ConfigurationError as exc:
        option = f" (option {exc.option})" if exc.option else ""
        raise CommandError(f"the guard refuses its configuration{option}{_place(exc.__traceback__)}: {exc}") from exc
    except (Exception, SystemExit) as exc:
        name = exc.name if isinstance(exc, ModuleNotFoundError) else None
        if name and (what == name or what.startswith(f"{name}.")):
            raise CommandError(f"there is no module {what} in {Path.cwd().name}/ or on sys.path") from exc
        # The text may quote settings; whatever looks like a secret is taken out.
        text = neutralise(RedactFilter().text(str(exc)), _TEXT_LIMIT)
        why = f"{_place(exc.__traceback__)}: {type(exc).__name__}: {text}"
        raise CommandError(f"{what} can't be loaded{why}") from exc


def _place(found: TracebackType | None) -> str:
    """The last line of the application's own code that ran."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(found)]
    own = [
        f" at {Path(name).name}:{line}"
        for name, line in frames
        if not (
            name.startswith("<") or "site-packages" in name or "/lib/python" in name or _PACKAGE in Path(name).parents
        )
    ]
    return own[-1] if own else ""
