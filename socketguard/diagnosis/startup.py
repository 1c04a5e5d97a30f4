"""The traps in a server's own settings, and where an application mounts it: what is found at start. Pure."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from socketguard.errors import ConfigurationError
from socketguard.findings import Finding, finding

__all__ = ["Discovery", "ServerFacts", "check_server", "discover"]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The settings of a python-socketio server."""

    versions: dict[str, str]  # of python-socketio, python-engineio, PyJWT and Starlette
    ping_interval: Any
    ping_timeout: Any
    ping_grace: Any
    transports: tuple[str, ...]
    cors_allowed_origins: Any
    cors_credentials: bool
    cookie: bool
    namespaces_text: str | None  # the ``namespaces`` option when it was one string
    catch_all_events: tuple[str, ...]  # of a function-style ``namespace="*"``, where there are class-based ones too
    class_namespaces: tuple[str, ...]
    admin_namespaces: tuple[str, ...]  # where ``instrument()`` put its admin interface
    packets_logged: bool  # by ``engineio_logger``
    write_only: bool = False  # the client manager never hears of what other processes emit
    bypassed: tuple[tuple[str, str], ...] = ()  # namespaces and events whose handlers run without ``requires``' checks


# Published advisories, and the first releases without them.
_FIXED = {
    "python-socketio": ((5, 18, 1), "CVE-2025-61765, CVE-2026-48804"),
    "python-engineio": ((4, 15, 1), "CVE-2026-48802, CVE-2026-48809"),
    "PyJWT": ((2, 14, 0), "GHSA-ffc3-869f-jxw9, CVE-2026-48526"),
    "starlette": ((1, 3, 1), "CVE-2026-48710, CVE-2026-54283"),
}


def check_server(facts: ServerFacts, *, policies: Collection[str] | None) -> list[Finding]:
    """The traps in a server's settings; ``policies`` are the declared names, None when what is registered counts."""
    return list(_traps(facts, policies))


def _traps(facts: ServerFacts, policies: Collection[str] | None) -> Iterator[Finding]:
    origins = facts.cors_allowed_origins
    any_origin = origins == "*" or (isinstance(origins, list | tuple | set) and "*" in origins)
    if origins == []:
        yield finding("SG022")
    elif any_origin and (facts.cookie or facts.cors_credentials):
        yield finding("SG024")
    if facts.namespaces_text is not None:
        yield finding("SG013", name=facts.namespaces_text)
    if facts.catch_all_events and facts.class_namespaces:
        events, namespaces = ", ".join(facts.catch_all_events), ", ".join(facts.class_namespaces)
        yield finding("SG015", events=events, namespaces=namespaces)
    for name in facts.admin_namespaces:
        if policies is None:
            yield finding("SG016", "undeclared", name=name)
        elif name not in policies:
            yield finding("SG016", name=name)
    for package, (fixed, advisories) in _FIXED.items():
        installed = facts.versions[package]
        if _version(installed) < fixed:
            release = ".".join(map(str, fixed))
            yield finding("SG040", package=package, installed=installed, advisories=advisories, fixed=release)
    for namespace, event in facts.bypassed:
        yield finding("SG017", event=event, namespace=namespace)
    if facts.packets_logged:
        yield finding("SG041")
    if facts.write_only:
        yield finding("SG044")


def _version(text: str) -> tuple[int, ...]:
    digits = ("".join(filter(str.isdigit, part)) for part in text.split(".")[:3])
    return tuple(int(part or 0) for part in digits)


_MOST_MIDDLEWARE = 64


@dataclass
class Discovery:
    """What was found in an application: each server once, and mounts that can't work."""

    servers: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # of the endpoints' URLs, with a slash at the end
    lost: dict[str, Finding] = field(default_factory=dict)  # by the path that it seems to have: mounts nobody reaches
    findings: list[Finding] = field(default_factory=list)

    def server(self, app: object) -> Any:
        """The one server of ``app``; a `ConfigurationError` when there is none, or more than one."""
        if len(self.servers) == 1:
            return self.servers[0]
        if self.servers:
            text = (
                f"{len(self.servers)} Socket.IO servers were found in {type(app).__name__}: guard each with "
                "SocketGuard.protect(sio, …), or name one with server="
            )
        else:
            text = (
                f"no Socket.IO server was found in {type(app).__name__}: pass it, SocketGuard(app, server=sio, …), "
                "or write SocketGuard.protect(sio, …) where it is made"
            )
        raise ConfigurationError(text, option="server")


def discover(app: object) -> Discovery:
    """The servers and endpoints of an application: ``socketio.ASGIApp`` (also nested), Starlette and FastAPI routes
    and mounts, and middleware that keeps the inner application as ``.app``."""
    found = Discovery()
    _walk(app, "", found, set())
    return found


def _walk(app: object, prefix: str, found: Discovery, visited: set[int]) -> None:
    if app is None or id(app) in visited or inspect.ismethod(app):
        return
    visited.add(id(app))
    before = len(found.paths)
    _look_into(app, prefix, found, visited)
    recorded = [path for path in found.paths[before:] if _records(app, path)]
    if recorded and not any(each.id == "SG045" for each in found.findings):
        found.findings.append(finding("SG045", application=type(app).__name__, path=recorded[0]))


def _look_into(app: object, prefix: str, found: Discovery, visited: set[int]) -> None:
    server = getattr(app, "engineio_server", None) or getattr(app, "engineio_app", None)
    if server is not None:
        _add_endpoint(app, server, prefix, found)
        inner = getattr(app, "other_asgi_app", None)
        middleware = [getattr(each, "cls", None) for each in getattr(inner, "user_middleware", None) or ()]
        if middleware:
            names = ", ".join(getattr(each, "__name__", "?") for each in middleware)
            found.findings.append(finding("SG020", middleware=names))
        _walk(inner, prefix, found, visited)
        return
    for route in getattr(app, "routes", None) or ():
        if hasattr(route, "app"):
            _walk(route.app, f"{prefix}{getattr(route, 'path', '')}".rstrip("/"), found, visited)
        else:
            _walk(route, prefix, found, visited)
    _walk(getattr(app, "app", None), prefix, found, visited)


def _records(app: Any, path: str) -> bool:
    """Whether telemetry around an application puts the queries of a path into its spans, as far as can be seen.

    FastAPI has telemetry of its own; OpenTelemetry's middleware is in the stack, once that is built.
    """
    own, native = getattr(app, "_telemetry", None), getattr(app, "_native_telemetry", None)
    if isinstance(own, Mapping) and native is not None and own.get("tracing"):
        exclude, excluded = own.get("exclude"), False
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b"", "headers": []}
        with contextlib.suppress(Exception):  # a function of the application, which may want more than a path
            excluded = exclude is not None and bool(exclude(scope))
        if not excluded and (own.get("auto_configure") or native.enabled()):
            return True
    middleware = getattr(app, "middleware_stack", None) or app
    for _ in range(_MOST_MIDDLEWARE):
        if type(middleware).__name__ == "OpenTelemetryMiddleware":
            excluded = middleware.excluded_urls
            return not (excluded and excluded.url_disabled(f"http://localhost{path}"))
        middleware = getattr(middleware, "app", None)
    return False


def _add_endpoint(app: object, server: object, prefix: str, found: Discovery) -> None:
    if not any(server is other for other in found.servers):
        found.servers.append(server)
    path: str | None = getattr(app, "engineio_path", None)
    # python-engineio takes what begins with its path: all below a mount, or a part of it.
    if path is None or f"{prefix}/".startswith(path):
        found.paths.append(f"{prefix}/")
    elif "{" in prefix or path.startswith(f"{prefix}/"):
        found.paths.append(path)
    else:
        full_path = prefix + path
        lost = finding(
            "SG021", prefix=prefix, path=path.strip("/"), full_path=full_path.rstrip("/"), client_path=full_path
        )
        found.lost[full_path] = lost
        found.findings.append(lost)
