"""What is known of a server before anything on it is replaced."""

from __future__ import annotations

import inspect
import logging
from importlib import metadata
from typing import Any

import engineio
import socketio

from socketguard.diagnosis.startup import ServerFacts
from socketguard.errors import ConfigurationError

from .handlers import bypassed_handlers
from .packets import ATTRIBUTE

__all__ = ["VERSIONS", "ServedNames", "facts", "require_server"]

# The private names, with the parameters that they have in every supported release.
_SIGNATURES = {
    "_handle_connect": ("eio_sid", "namespace", "data"),
    "_handle_event": ("eio_sid", "namespace", "id", "data"),
    "_handle_ack": ("eio_sid", "namespace", "id", "data"),
    "_handle_disconnect": ("eio_sid", "namespace", "reason"),
    "_handle_eio_disconnect": ("eio_sid", "reason"),
    "_send_packet": ("eio_sid", "pkt"),
    "_trigger_event": ("event", "namespace"),
}
_OF_ENGINE = ("_cors_allowed_origins", "_generate_sid_cookie", "_trigger_event", "_upgrades", "generate_id")
_EVENTS = ("connect", "message", "disconnect")


class ServedNames:
    """What python-socketio would admit, looked up live: see `socketguard.namespaces.Served`."""

    def __init__(self, server: Any) -> None:
        self._server = server
        declared = server.namespaces
        # A string would be searched for substrings by python-socketio; here it is the one name it was meant to be.
        self.text = declared if isinstance(declared, str) and declared != "*" else None
        self.wildcard: bool = declared == "*"
        self._listed = frozenset([declared] if isinstance(declared, str) else declared) - {"*"}

    def serves(self, name: str) -> bool:
        """Whether there are handlers for exactly this name, or the server was made with it."""
        server = self._server
        return name != "*" and (name in server.handlers or name in server.namespace_handlers or name in self._listed)

    @property
    def default(self) -> bool:
        """Whether ``/`` is meant: it was chosen, handlers for all names take it, or no other name has a handler.

        The admin interface of ``instrument()`` is no such name: an application may have nothing else and only emit.
        """
        server = self._server
        if "/" in server.handlers or "/" in server.namespace_handlers:
            return True
        if self._listed != {"/"}:
            return "/" in self._listed
        handled = {*server.handlers, *server.namespace_handlers}
        return self.catch_all or handled <= set(_admin_namespaces(server))

    @property
    def catch_all(self) -> bool:
        """Whether there are handlers for ``namespace="*"``."""
        return "*" in self._server.handlers or "*" in self._server.namespace_handlers

    def names(self) -> tuple[str, ...]:
        """All exact names that somebody chose: python-socketio lists ``/`` by itself when nothing else is listed."""
        server = self._server
        chosen = frozenset() if self._listed == {"/"} else self._listed
        return tuple(sorted({*server.handlers, *server.namespace_handlers, *chosen} - {"*"}))

    @property
    def count(self) -> int:
        """How many names and handlers there are: it grows when handlers come later."""
        return len(self._server.handlers) + len(self._server.namespace_handlers)


# Read when the module is: the metadata is on disk, and nothing may wait for a disk while the loop runs.
VERSIONS = {name: metadata.version(name) for name in ("python-socketio", "python-engineio", "PyJWT", "starlette")}


def require_server(server: object) -> Any:
    """Check that a server can be guarded.

    Raises:
        ConfigurationError: it isn't a `socketio.AsyncServer` for ASGI whose parts are as this release knows them.
    """
    if isinstance(server, socketio.Server):
        raise ConfigurationError(
            "found a synchronous socketio.Server; socketguard guards asynchronous ones: write "
            "socketio.AsyncServer(async_mode='asgi') and serve it with socketio.ASGIApp",
            option="server",
        )
    if isinstance(server, engineio.AsyncServer):
        raise ConfigurationError(
            "found an engineio.AsyncServer without Socket.IO; write socketio.AsyncServer(async_mode='asgi')",
            option="server",
        )
    if not isinstance(server, socketio.AsyncServer):
        raise ConfigurationError(
            f"server is a {type(server).__name__}; pass the socketio.AsyncServer of your application", option="server"
        )
    if server.async_mode != "asgi":
        raise ConfigurationError(
            f"the server runs in async_mode {server.async_mode!r} (python-socketio chooses it when the package is "
            "installed); write socketio.AsyncServer(async_mode='asgi')",
            option="server",
        )
    if server.always_connect:
        raise ConfigurationError(
            "the server was made with always_connect=True: it accepts clients before they are checked, and JavaScript "
            "clients that are refused afterwards reconnect for ever; leave always_connect out",
            option="server",
        )
    if getattr(server, ATTRIBUTE, None) is None:
        _check_parts(server)
    return server


def _check_parts(server: Any) -> None:
    missing = [name for name in ("handle_request", "disconnect") if not _is_async(server, name)]
    for name, expected in _SIGNATURES.items():
        if not _is_async(server, name):
            missing.append(name)
            continue
        parameters = tuple(inspect.signature(getattr(type(server), name)).parameters)[1 : 1 + len(expected)]
        if parameters != expected:
            missing.append(f"{name}{parameters}")
    find = getattr(server, "_get_event_handler", None)
    if find is None or tuple(inspect.signature(find).parameters) != ("event", "namespace", "args"):
        missing.append("_get_event_handler")
    missing += [f"eio.{name}" for name in _OF_ENGINE if not callable(getattr(server.eio, name, None))]
    missing += [f"eio.handlers[{name!r}]" for name in _EVENTS if name not in server.eio.handlers]
    for holder, name in ((server, "environ"), (server.eio, "sockets")):
        if type(getattr(holder, name, None)) is not dict:
            missing.append(name)
    if missing:
        found = ", ".join(f"{name} {VERSIONS[name]}" for name in ("python-socketio", "python-engineio"))
        raise ConfigurationError(
            f"this release of socketguard does not know this python-socketio: {', '.join(missing)} not as expected in "
            f"{found}; upgrade socketguard, or install a version that it supports",
            option="server",
        )


def _is_async(server: Any, name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(server, name, None))


def facts(server: Any, served: ServedNames) -> ServerFacts:
    """What the start-up checks look at."""
    eio = server.eio
    functions = server.handlers.get("*", {})
    return ServerFacts(
        versions=VERSIONS,
        ping_interval=eio.ping_interval,
        ping_timeout=eio.ping_timeout,
        ping_grace=eio.ping_interval_grace_period,
        transports=tuple(eio.transports),
        cors_allowed_origins=eio.cors_allowed_origins,
        cors_credentials=bool(eio.cors_credentials),
        cookie=eio.cookie is not None,
        namespaces_text=served.text,
        catch_all_events=tuple(sorted(functions)) if server.namespace_handlers else (),
        class_namespaces=tuple(sorted(set(server.namespace_handlers) - {"*"})),
        admin_namespaces=_admin_namespaces(server),
        packets_logged=eio.logger.isEnabledFor(logging.INFO),
        write_only=bool(getattr(server.manager, "write_only", False)),
        bypassed=tuple(bypassed_handlers(server)),
    )


def _admin_namespaces(server: Any) -> tuple[str, ...]:
    """Where ``instrument()`` put its admin interface."""
    return tuple(name for name, handlers in server.handlers.items() if _is_admin(handlers.get("connect")))


def _is_admin(handler: Any) -> bool:
    handler = getattr(handler, "__wrapped__", handler)
    return type(getattr(handler, "__self__", None)).__name__ == "InstrumentedAsyncServer"
