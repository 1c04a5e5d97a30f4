"""What a server's own settings tell: the traps that are found at start. This module is pure."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import linecache
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from socketguard.errors import ConfigurationError
from socketguard.findings import Finding, finding

__all__ = ["Discovery", "ServerFacts", "check_server", "discover", "find_misspelt_options"]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The settings of a python-socketio server, read by the seam.

    Attributes:
        versions: of python-socketio and python-engineio.
        namespaces_text: the ``namespaces`` option when it was one string; None otherwise.
        catch_all_events: the events of a function-style ``namespace="*"``, when there are class-based namespaces too.
        class_namespaces: the names of class-based namespaces.
        admin_namespaces: where ``instrument()`` put its admin interface.
        packets_logged: whether ``engineio_logger`` prints each packet.
        bypassed: namespaces and events whose handlers run without the checks of ``requires``.
        write_only: whether the client manager only emits, and never hears of what other processes emit.
    """

    versions: dict[str, str]
    ping_interval: Any
    ping_timeout: Any
    ping_grace: Any
    transports: tuple[str, ...]
    cors_allowed_origins: Any
    cors_credentials: bool
    cookie: bool
    namespaces_text: str | None
    catch_all_events: tuple[str, ...]
    class_namespaces: tuple[str, ...]
    admin_namespaces: tuple[str, ...]
    packets_logged: bool
    write_only: bool = False
    bypassed: tuple[tuple[str, str], ...] = ()


# Published advisories, and the first releases without them.
_FIXED = {
    "python-socketio": ((5, 18, 1), "CVE-2025-61765, CVE-2026-48804"),
    "python-engineio": ((4, 15, 1), "CVE-2026-48802, CVE-2026-48809"),
}


def check_server(facts: ServerFacts, *, policies: Collection[str] | None) -> list[Finding]:
    """Look for the traps in a server's settings.

    Args:
        facts: the settings.
        policies: the names that are declared to the guard; None when it takes what is registered.
    """
    found = [*_origins(facts), *_namespaces(facts, policies), *_releases(facts)]
    found += [finding("SG017", event=event, namespace=namespace) for namespace, event in facts.bypassed]
    if facts.packets_logged:
        found.append(finding("SG041"))
    if facts.write_only:
        found.append(finding("SG044"))
    return found


def _origins(facts: ServerFacts) -> list[Finding]:
    allowed = facts.cors_allowed_origins
    if allowed == []:
        return [finding("SG022")]
    if (allowed == "*" or (isinstance(allowed, list | tuple | set) and "*" in allowed)) and (
        facts.cookie or facts.cors_credentials
    ):
        return [finding("SG024")]
    return []


def _namespaces(facts: ServerFacts, policies: Collection[str] | None) -> list[Finding]:
    found = []
    if facts.namespaces_text is not None:
        found.append(finding("SG013", name=facts.namespaces_text))
    if facts.catch_all_events and facts.class_namespaces:
        found.append(
            finding("SG015", events=", ".join(facts.catch_all_events), namespaces=", ".join(facts.class_namespaces))
        )
    found.extend(
        finding("SG016", "undeclared" if policies is None else "", name=name)
        for name in facts.admin_namespaces
        if policies is None or name not in policies
    )
    return found


def _releases(facts: ServerFacts) -> list[Finding]:
    found = []
    for package, (fixed, advisories) in _FIXED.items():
        installed = facts.versions[package]
        if _version(installed) < fixed:
            wanted = ".".join(map(str, fixed))
            found.append(finding("SG040", package=package, installed=installed, advisories=advisories, fixed=wanted))
    return found


def _version(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)


@dataclass
class Discovery:
    """What was found.

    Attributes:
        servers: each server once, in the order in which they were found.
        paths: the URL paths of the endpoints, with a slash at the end.
        findings: mounts that can't work.
    """

    servers: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def server(self, app: object) -> Any:
        """The one server.

        Raises:
            ConfigurationError: there is none, or more than one.
        """
        if not self.servers:
            raise ConfigurationError(
                f"no Socket.IO server was found in {type(app).__name__}: pass it, SocketGuard(app, server=sio, …), "
                "or write SocketGuard.protect(sio, …) where it is made",
                option="server",
            )
        if len(self.servers) > 1:
            raise ConfigurationError(
                f"{len(self.servers)} Socket.IO servers were found in {type(app).__name__}: guard each with "
                "SocketGuard.protect(sio, …), or name one with server=",
                option="server",
            )
        return self.servers[0]


def discover(app: object) -> Discovery:
    """Walk through an application: ``socketio.ASGIApp`` (also nested), Starlette and FastAPI routes and mounts,
    and middleware that keeps the inner application as ``.app``."""
    found = Discovery()
    _walk(app, "", found, set())
    return found


def _walk(app: object, prefix: str, found: Discovery, visited: set[int]) -> None:
    if app is None or id(app) in visited or inspect.ismethod(app):
        return
    visited.add(id(app))
    server = getattr(app, "engineio_server", None) or getattr(app, "engineio_app", None)
    if server is not None:
        _endpoint(app, server, prefix, found)
        inner = getattr(app, "other_asgi_app", None)
        _inner_middleware(inner, found)
        _walk(inner, prefix, found, visited)
        return
    for route in getattr(app, "routes", None) or ():
        path = getattr(route, "path", "")
        _walk(getattr(route, "app", None), f"{prefix}{path}".rstrip("/"), found, visited)
        _walk(route, prefix, found, visited) if not hasattr(route, "app") else None
    _walk(getattr(app, "app", None), prefix, found, visited)


def _endpoint(app: object, server: object, prefix: str, found: Discovery) -> None:
    if not any(server is other for other in found.servers):
        found.servers.append(server)
    path: str | None = getattr(app, "engineio_path", None)
    if path is None:
        found.paths.append(f"{prefix}/")
    elif "{" in prefix or path.startswith(f"{prefix}/"):
        found.paths.append(path)
    else:
        found.findings.append(
            finding(
                "SG021",
                path=path.strip("/"),
                prefix=prefix,
                full_path=prefix + path.rstrip("/"),
                client_path=prefix + path,
            )
        )


def _inner_middleware(inner: object, found: Discovery) -> None:
    names = [
        getattr(getattr(middleware, "cls", None), "__name__", "?")
        for middleware in getattr(inner, "user_middleware", None) or ()
    ]
    if names:
        found.findings.append(finding("SG020", middleware=", ".join(names)))


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
    return finding("SG023", option=option, place=place, fix=fix)


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
