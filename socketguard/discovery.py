"""Finds the Socket.IO server inside an ASGI application, and where it is mounted.

It looks at attributes only and imports neither python-socketio nor a framework.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigurationError, Finding

__all__ = ["Discovery", "discover"]


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
            Finding(
                "SG021",
                f"a socketio.ASGIApp with socketio_path={path.strip('/')!r} is mounted at {prefix!r}, where no request "
                "matches it: since Starlette 0.33 a mounted application sees the whole path",
                f"write Mount({prefix!r}, ASGIApp(sio, socketio_path={prefix + path.rstrip('/')!r})) and give clients "
                f"path: {prefix + path!r}",
            )
        )


def _inner_middleware(inner: object, found: Discovery) -> None:
    names = [
        getattr(getattr(middleware, "cls", None), "__name__", "?")
        for middleware in getattr(inner, "user_middleware", None) or ()
    ]
    if names:
        found.findings.append(
            Finding(
                "SG020",
                f"{', '.join(names)} of the application inside socketio.ASGIApp(sio, other_asgi_app=app) never sees "
                "Socket.IO requests: ASGIApp takes them before",
                "for Socket.IO use the guard's own options (allowed_origins, trusted_proxies); wrap the ASGIApp "
                "itself with middleware that must see everything",
            )
        )
