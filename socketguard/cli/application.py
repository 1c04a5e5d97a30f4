"""Loads an application by its name and finds the guards and Socket.IO servers in it, without serving it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from socketguard.diagnosis.startup import Discovery, discover
from socketguard.errors import ConfigurationError
from socketguard.findings import Finding, finding
from socketguard.guard import Core, SocketGuard
from socketguard.logs.redact import RedactFilter
from socketguard.text import neutralise

__all__ = ["Application", "LoadError", "core_of", "examine", "load"]

_SPEC = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<name>\w+(?:\.\w+)*)(?P<call>\(\))?")
_PACKAGE = Path(__file__).parents[1]
_TEXT_LIMIT = 800


class LoadError(Exception):
    """An application can't be loaded; the text says why, without secrets."""


@dataclass
class Application:
    """What was found in an application.

    Attributes:
        guards: each guard once.
        unguarded: servers without a guard.
        paths: the URL paths of the endpoints.
        findings: what is wrong with the place of a guard or of an endpoint.
    """

    guards: list[SocketGuard] = field(default_factory=list)
    unguarded: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def core_of(guard: SocketGuard) -> Core:
    """The parts of a guard: the one place where the command line looks behind its public face."""
    return guard._core


def load(spec: str) -> tuple[object, ModuleType]:
    """Import an application; what it prints meanwhile goes to stderr.

    Args:
        spec: ``module:name`` as for uvicorn, or ``module:factory()``. The current directory is searched first.

    Returns:
        The application, and the module that was imported.

    Raises:
        LoadError: the text says why.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise LoadError("the argument names no application; write module:app or module:create_app()")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    with _loading(match["module"]):
        module = importlib.import_module(match["module"])
    app: Any = module
    for name in match["name"].split("."):
        if not hasattr(app, name):
            raise LoadError(f"{match['module']} has no {match['name']}; write module:app with the name that it has")
        app = getattr(app, name)
    if match["call"]:
        with _loading(spec):
            app = app()
            if inspect.isawaitable(app):
                app = asyncio.run(_result(app))
    elif inspect.isfunction(app) and not inspect.signature(app).parameters:
        raise LoadError(f"{spec} is a function without parameters, so no application; write {spec}()")
    return app, module


def examine(app: object, module: ModuleType | None = None) -> Application:
    """Find the guards and servers in an application.

    Starlette builds middleware at its first request; a guard that is middleware is built here, so that it can be seen.

    Args:
        app: the application, a guard, or a server.
        module: where to look for a server when there is none in ``app``.

    Raises:
        LoadError: there is no Socket.IO server, or a guard can't be built.
    """
    found = Application()
    with _loading("the middleware of the application"):
        for inner in _build_guards(app):
            found.findings.append(inner)
    discovery = Discovery(servers=[app]) if _is_server(app) else discover(app)
    found.paths = discovery.paths
    found.findings += discovery.findings
    served = _unique([*discovery.servers, *([app.server] if isinstance(app, SocketGuard) else [])])
    if not discovery.servers and not (isinstance(app, SocketGuard) and app.app is None):
        found.findings.append(_not_mounted(app))
    # Where nothing is found in the application, the module may still name what it serves.
    servers = served or _unique(
        [guard.server for guard in _named(module, _is_guard)] + _named(module, _is_server),
    )
    if not servers:
        raise LoadError(
            f"no Socket.IO server is found in {type(app).__name__}: name the application that is served, or the server "
            "itself, module:sio"
        )
    for server in servers:
        try:
            found.guards.append(SocketGuard.of(server))
        except LookupError:
            found.unguarded.append(server)
    if found.unguarded and discovery.servers:
        guards = [*([app] if isinstance(app, SocketGuard) else []), *_named(module, _is_guard)]
        if any(all(guard.server is not server for server in discovery.servers) for guard in guards):
            found.findings.append(finding("SG025"))
    return found


def _build_guards(app: object) -> Iterator[Finding]:
    for application, is_inner in _applications(app, False, set()):
        classes = [getattr(middleware, "cls", None) for middleware in application.user_middleware]
        if not any(isinstance(cls, type) and issubclass(cls, SocketGuard) for cls in classes):
            continue
        if application.middleware_stack is None:
            application.middleware_stack = application.build_middleware_stack()
        if is_inner:
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


def _not_mounted(app: object) -> Finding:
    return finding("SG026", application=type(app).__name__)


def _named(module: ModuleType | None, wanted: Callable[[object], bool]) -> list[Any]:
    return [] if module is None else [value for value in vars(module).values() if wanted(value)]


def _is_guard(value: object) -> bool:
    return isinstance(value, SocketGuard)


def _is_server(value: object) -> bool:
    return not isinstance(value, type) and hasattr(value, "eio") and hasattr(value, "namespace_handlers")


def _unique(servers: list[Any]) -> list[Any]:
    return list({id(server): server for server in servers}.values())


async def _result(awaitable: Any) -> Any:
    return await awaitable


@contextlib.contextmanager
def _loading(what: str) -> Iterator[None]:
    """Run code of the application: its prints don't mix with ours, and whatever it raises is told in one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ConfigurationError as exc:
        option = f" (option {exc.option})" if exc.option else ""
        raise LoadError(f"the guard refuses its configuration{option}{_place(exc.__traceback__)}: {exc}") from exc
    except ModuleNotFoundError as exc:
        if exc.name and (what == exc.name or what.startswith(f"{exc.name}.")):
            raise LoadError(f"there is no module {what} in {Path.cwd().name}/ or on sys.path") from exc
        raise _failed(what, exc) from exc
    except (Exception, SystemExit) as exc:
        raise _failed(what, exc) from exc


def _failed(what: str, exc: BaseException) -> LoadError:
    # The text may quote settings; whatever looks like a secret is taken out.
    text = neutralise(RedactFilter().text(str(exc)), _TEXT_LIMIT)
    return LoadError(f"{what} can't be loaded{_place(exc.__traceback__)}: {type(exc).__name__}: {text}")


def _place(found: TracebackType | None) -> str:
    """The last line of the application's own code that ran."""
    frames = [
        frame
        for frame in traceback.extract_tb(found)
        if not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
