"""`SocketGuard`: validates the options, builds the parts and wires them."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, Unpack, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from . import events
from .admission import Admission
from .asgi import Endpoint, WrongPath
from .checks import check_server
from .discovery import Discovery, discover
from .env import options_from_env
from .findings import Finding
from .handshake import TrustedProxies, check_origins
from .heartbeat import Heartbeat, findings_for_server
from .identity import Connection, Identity
from .logs import EventLog
from .namespaces import NamespacePolicy, Registry
from .rejections import ConfigurationError
from .report import Report
from .seam import Seam, ServedNames, known_options, require_server
from .sources import find_misspelt_options
from .suppression import RejectionLog, Suppressor
from .verifier import JWTAuth

__all__ = ["SocketGuard"]

ADMISSION_TIMEOUT = 10.0
"""Seconds between a CONNECT and its answer, at most, unless the ping timeout asks for less."""

CONNECT_PACKET_BYTES = 16_384
"""How large a frame or body may be from a session that has joined no namespace: room for a token of 8 KiB and some."""


class Options(TypedDict, total=False):
    """The options of `SocketGuard` beside ``auth``."""

    namespaces: Iterable[str | NamespacePolicy] | None
    heartbeat: Heartbeat | None
    admission_timeout: float | None
    trusted_proxies: Iterable[str]
    allowed_origins: Iterable[str] | Literal["*"] | None
    log_claims: Iterable[str]
    logger: Any
    debug: bool


@dataclass(frozen=True)
class _Settings:
    """The options, validated; two guards with equal ones may share a server."""

    auth: JWTAuth | None
    namespaces: tuple[str | NamespacePolicy, ...] | None
    heartbeat: Heartbeat | None
    admission_timeout: float | None
    trusted_proxies: tuple[Any, ...]
    allowed_origins: str | tuple[str, ...] | None
    log_claims: tuple[str, ...]
    logger: Any
    debug: bool


class SocketGuard:
    """Guards a Socket.IO server, and as ASGI middleware answers clients that ask on a wrong path.

    Args:
        app: the ASGI application that holds the server: a ``socketio.ASGIApp``, or a Starlette or FastAPI application
            that mounts one.
        auth: verifies tokens. None must be written out: everything of the guard but no token.
        server: the ``socketio.AsyncServer``, where it can't be found in ``app``.
        namespaces: what may be joined, names and `NamespacePolicy` objects. None takes what is registered on the
            server, with a token.
        heartbeat: ping interval and timeout; None leaves the server's own.
        admission_timeout: seconds for everything between a CONNECT and its answer: ``authorize`` and the connect
            handler of the application. 10, or half of the ping timeout if that is less. While it runs over
            WebSocket no pong is read, so it must stay under the ping timeout.
        trusted_proxies: addresses and CIDR blocks of the proxies whose ``X-Forwarded-For`` is believed.
        allowed_origins: the origins whose pages may connect, or ``"*"``. None leaves python-engineio's own setting,
            by default the same origin only.
        log_claims: claims of the token that go into each log line.
        logger: a structlog or stdlib logger to write to; False for silence.
        debug: whether refused clients are told the details, all namespaces among them. Never in production.

    Raises:
        ConfigurationError: for any option that can't work, by its name.
    """

    def __init__(
        self,
        app: ASGIApp | None,
        *,
        auth: JWTAuth | None,
        server: Any = None,
        namespaces: Iterable[str | NamespacePolicy] | None = None,
        heartbeat: Heartbeat | None = None,
        admission_timeout: float | None = None,
        trusted_proxies: Iterable[str] = (),
        allowed_origins: Iterable[str] | Literal["*"] | None = None,
        log_claims: Iterable[str] = ("sub",),
        logger: Any = None,
        debug: bool = False,
    ) -> None:
        found = discover(app)
        self.server = require_server(found.server(app) if server is None else server)
        trusted = TrustedProxies(trusted_proxies)
        settings = _Settings(
            auth=_check_auth(auth),
            namespaces=_check_namespaces(namespaces),
            heartbeat=_check_heartbeat(heartbeat),
            admission_timeout=_check_timeout(admission_timeout),
            trusted_proxies=trusted.networks,
            allowed_origins=check_origins(allowed_origins),
            log_claims=events.check_log_claims(log_claims),
            logger=logger,
            debug=_check_debug(debug),
        )
        _check_together(settings)
        self._core = _Core.on(self.server, settings, trusted)
        self._core.learn(found, self)
        self.app = app
        self._outer = None if app is None else WrongPath(app, self._core.report, self._core.paths, trusted)

    @classmethod
    def protect(cls, server: Any, *, auth: JWTAuth | None, **options: Unpack[Options]) -> Self:
        """Guard a server from this line on, wherever it is mounted.

        Args:
            server: the ``socketio.AsyncServer``.
            auth: as for `SocketGuard`.
            **options: as for `SocketGuard`.
        """
        return cls(None, server=server, auth=auth, **options)

    @classmethod
    def from_env(
        cls,
        app: ASGIApp | None,
        *,
        server: Any = None,
        environ: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Guard with options from environment variables ``SOCKETGUARD_*``; what is written here goes before them.

        Args:
            app: as for `SocketGuard`; None with ``server=`` guards as `protect` does.
            server: as for `SocketGuard`.
            environ: the variables, ``os.environ`` by default.
            **options: as for `SocketGuard`.

        Raises:
            ConfigurationError: a variable is misspelt or its value can't work.
        """
        read = options_from_env(environ)
        auth = read.pop("auth")
        return cls(app, server=server, auth=auth, **{**read, **options})

    @staticmethod
    def of(server: Any) -> SocketGuard:
        """The guard of a server, where one doesn't hold it oneself.

        Raises:
            LookupError: the server is not guarded.
        """
        seam = Seam.of(server)
        if seam is None:
            raise LookupError("this server has no guard (yet): Starlette builds middleware at its first request")
        return _Core.of(seam).guards[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._outer is None:
            raise RuntimeError("a guard made by protect() is no ASGI application; serve the application itself")
        if scope["type"] == "lifespan":
            self._core.start()
        app = self._outer if self._outer.concerns(scope) else self._outer.app
        await app(scope, receive, send)

    @property
    def auth(self) -> JWTAuth | None:
        """The verifier, for the HTTP routes of the same service."""
        return self._core.settings.auth

    def identity(self, sid: str, namespace: str | None = None) -> Identity:
        """Who a client is.

        Args:
            sid: the Socket.IO session id that handlers get.
            namespace: checked when given.

        Raises:
            LookupError: no such client is connected.
        """
        connection = self._core.seam.connections.get(sid)
        if connection is None or namespace not in (None, connection.namespace):
            raise LookupError("no connection with this sid" + (f" in {namespace!r}" if namespace else ""))
        return connection.identity

    def connections(self, *, subject: str | None = None, namespace: str | None = None) -> list[Connection]:
        """The clients that have joined a namespace of this process.

        Args:
            subject: only this subject's.
            namespace: only those in this namespace.
        """
        return [
            connection
            for connection in self._core.seam.connections.values()
            if connection.state is Connection.JOINED
            and subject in (None, connection.identity.subject)
            and namespace in (None, connection.namespace)
        ]

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at. It is logged at start too."""
        return self._core.check()

    def detach(self) -> None:
        """Take the guard off its server again. From then on nobody checks anybody."""
        self._core.detach()


class _Core:
    """The parts of a guard on one server; guards with equal settings share them."""

    def __init__(self, server: Any, settings: _Settings, trusted: TrustedProxies) -> None:
        self.settings = settings
        self.log = EventLog(settings.logger)
        self.report = Report(self.log, RejectionLog(self.log, Suppressor()), settings.log_claims)
        self.registry = Registry(settings.namespaces)
        self.guards: list[SocketGuard] = []
        self.paths: list[str] = []
        self.mounts: list[Finding] = []
        self.misspelt = find_misspelt_options(server, known_options())
        self.started = False
        self._addressed = False
        heartbeat = settings.heartbeat
        timeout = _admission_timeout(
            settings.admission_timeout, server.eio.ping_timeout if heartbeat is None else heartbeat.timeout
        )
        served = ServedNames(server)
        self.seam = Seam(
            server,
            served=served,
            decide=Admission(self.registry, settings.auth, served, self.paths).decide,
            report=self.report,
            admission_timeout=timeout,
            log_claims=settings.log_claims,
            debug=settings.debug,
            owner=self,
        )
        endpoint = Endpoint(
            self.seam,
            self.report,
            trusted,
            connect_packet_bytes=CONNECT_PACKET_BYTES,
            on_request=self._on_request,
        )
        self.seam.attach(endpoint)
        if heartbeat is not None:
            self.seam.set_heartbeat(heartbeat.interval, heartbeat.timeout)
        if settings.allowed_origins is not None:
            origins = settings.allowed_origins
            self.seam.set_origins(origins if isinstance(origins, str) else list(origins))

    @staticmethod
    def on(server: Any, settings: _Settings, trusted: TrustedProxies) -> _Core:
        """The parts on this server: those that are there, when they were made with equal settings."""
        seam = Seam.of(server)
        if seam is None:
            return _Core(server, settings, trusted)
        core = _Core.of(seam)
        if core.settings != settings:
            raise ConfigurationError(
                "this server has a guard with other options already: make one guard per server, or call detach() on "
                "the first",
                option="server",
            )
        return core

    @staticmethod
    def of(seam: Seam) -> _Core:
        """The parts that a seam belongs to."""
        return cast("_Core", seam.owner)

    def learn(self, found: Discovery, guard: SocketGuard) -> None:
        """Remember a guard that shares these parts, and where the endpoint is mounted for it."""
        self.guards.append(guard)
        self.paths += [path for path in found.paths if path not in self.paths]
        self.mounts += [finding for finding in found.findings if finding not in self.mounts]

    def detach(self) -> None:
        if self.seam.attached:
            self.seam.detach()
            self.report.rejections.close()

    def check(self) -> list[Finding]:
        settings, facts = self.settings, self.seam.facts()
        declared = None if settings.namespaces is None else [_name(policy) for policy in settings.namespaces]
        found = [*self.misspelt, *self.mounts, *check_server(facts, policies=declared)]
        found += self.registry.findings(self.seam.served)
        if settings.heartbeat is None:
            found += findings_for_server(facts.ping_interval, facts.ping_timeout, facts.ping_grace)
        else:
            found += settings.heartbeat.findings(transports=facts.transports)
        if settings.auth is None:
            found.append(
                Finding("SG030", "auth=None: everybody may join, without a token", "write auth=JWTAuth(…)"),
            )
        else:
            found += settings.auth.findings()
        return found

    def start(self) -> None:
        """Log the configuration and what is wrong with it: once, when handlers and log handlers are there."""
        if self.started:
            return
        self.started = True
        settings, facts = self.settings, self.seam.facts()
        configuration = {
            "auth": None if settings.auth is None else settings.auth.describe(),
            "namespaces": self.registry.describe() or list(self.seam.served.names()),
            "heartbeat": {"interval_s": facts.ping_interval, "timeout_s": facts.ping_timeout},
            "transports": list(facts.transports),
            "admission_timeout_s": self.seam.admission_timeout,
            "allowed_origins": settings.allowed_origins or "same origin",
            "trusted_proxies": [str(network) for network in settings.trusted_proxies],
            "log_claims": list(settings.log_claims),
            "debug": settings.debug,
            "paths": self.paths,
            "versions": facts.versions,
        }
        self.log.emit(events.STARTED, {"schema_version": events.SCHEMA_VERSION, "configuration": configuration})
        self.warn(self.check())

    def warn(self, found: Iterable[Finding]) -> None:
        for finding in found:
            self.log.emit(events.CONFIG_WARNING, {"id": finding.id, "text": finding.text, "fix": finding.fix})

    def _on_request(self, scope: Scope, receive: Receive) -> bool:
        """The checks that need a request. Returns whether there is nothing more to learn from another one."""
        self.start()
        if not self._addressed:
            self._addressed = True
            self._check_address(scope)
        if scope["type"] != "websocket":
            return False
        heartbeat = self.settings.heartbeat
        # uvicorn hands out bound methods of its protocol, which knows the server's settings.
        config: Any = getattr(getattr(receive, "__self__", None), "config", None)
        if heartbeat is not None and hasattr(config, "ws_ping_interval"):
            self.warn(
                heartbeat.server_ping_findings(
                    ping_interval=config.ws_ping_interval, ping_timeout=config.ws_ping_timeout
                )
            )
        return True

    def _check_address(self, scope: Scope) -> None:
        host = (scope.get("server") or ("", None))[0]
        if self.settings.debug and not _is_loopback(host):
            self.warn(
                [
                    Finding(
                        "SG031",
                        f"debug=True on {host!r}: refused clients are told the details and all namespaces",
                        "leave debug out, or serve on 127.0.0.1",
                    )
                ]
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "testserver", "")


def _name(policy: str | NamespacePolicy) -> str:
    return policy if isinstance(policy, str) else policy.name


def _check_auth(auth: object) -> JWTAuth | None:
    if auth is None or isinstance(auth, JWTAuth):
        return auth
    raise ConfigurationError(
        f"auth is a {type(auth).__name__}; write auth=JWTAuth(key, algorithms=[…]), or auth=None for no token at all",
        option="auth",
    )


def _check_namespaces(namespaces: Any) -> tuple[str | NamespacePolicy, ...] | None:
    if namespaces is None:
        return None
    if isinstance(namespaces, str | NamespacePolicy) or not isinstance(namespaces, Iterable):
        raise ConfigurationError(f"namespaces is a list; write namespaces=[{namespaces!r}]", option="namespaces")
    return tuple(namespaces)


def _check_heartbeat(heartbeat: object) -> Heartbeat | None:
    if heartbeat is None or isinstance(heartbeat, Heartbeat):
        return heartbeat
    raise ConfigurationError(
        f"heartbeat is {heartbeat!r}; write Heartbeat(interval=25, timeout=20) or Heartbeat.behind('nginx')",
        option="heartbeat",
    )


def _check_timeout(seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise ConfigurationError(
            f"admission_timeout is {seconds!r}; write seconds, such as 10", option="admission_timeout"
        )
    return float(seconds)


def _admission_timeout(seconds: float | None, ping_timeout: Any) -> float:
    limit = float(ping_timeout) if isinstance(ping_timeout, int | float) and ping_timeout > 0 else math.inf
    if seconds is None:
        return min(ADMISSION_TIMEOUT, limit / 2)
    if seconds >= limit:
        raise ConfigurationError(
            f"admission_timeout is {seconds:g} s, the ping timeout {limit:g} s: over WebSocket no pong is read while a "
            "client is admitted, so write less than the ping timeout",
            option="admission_timeout",
        )
    return seconds


def _check_debug(debug: object) -> bool:
    if isinstance(debug, bool):
        return debug
    raise ConfigurationError(f"debug is {debug!r}; write True or False", option="debug")


def _check_together(settings: _Settings) -> None:
    auth, origins = settings.auth, settings.allowed_origins
    if auth is not None and auth.uses_cookie and (origins is None or origins == "*"):
        raise ConfigurationError(
            "a cookie is a source of tokens, so any page could connect as its visitor: list the origins of your pages, "
            "allowed_origins=['https://…']",
            option="allowed_origins",
        )
    if auth is None:
        for policy in settings.namespaces or ():
            if isinstance(policy, NamespacePolicy) and (policy.scopes or policy.claims):
                raise ConfigurationError(
                    f"NamespacePolicy({policy.name!r}) asks for scopes or claims, but auth is None; write "
                    "auth=JWTAuth(…)",
                    option="auth",
                )
