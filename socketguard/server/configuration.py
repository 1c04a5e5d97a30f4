"""The effective configuration of a guarded server: described, checked and logged at start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope

from socketguard.check import is_loopback
from socketguard.diagnosis.startup import Discovery, check_server
from socketguard.findings import Finding, finding
from socketguard.limits.revocation import MemoryStore, Store
from socketguard.namespaces.registry import Registry
from socketguard.proxies.heartbeat import findings_for_server

from .context import Context
from .facts import ServedNames, facts
from .handshake import is_unix
from .packets import ATTRIBUTE
from .workers import Workers

__all__ = ["Configuration"]


class Configuration:
    """What was chosen for one server, and what is known of where it is served.

    Attributes:
        paths: the URL paths of the endpoint.
        lost: what is wrong with a mount that no request reaches, by the path that it seems to have.
    """

    def __init__(
        self, context: Context, registry: Registry, served: ServedNames, store: Store, workers: Workers | None = None
    ) -> None:
        self.paths: list[str] = []
        self.lost: dict[str, Finding] = {}
        self._context = context
        self._server = context.server
        self._settings = context.settings
        self._report = context.report
        self._registry = registry
        self._served = served
        self._store = store
        self._workers = workers
        self._mounts: list[Finding] = []
        self._others: list[Any] = []
        self._started = self._addressed = self._seen_websocket = self._warned_of_memory = False

    def learn(self, found: Discovery) -> None:
        """Remember where the endpoint is mounted."""
        self.paths += [path for path in found.paths if path not in self.paths]
        self.lost |= found.lost
        self._mounts += [one for one in found.findings if one not in self._mounts]
        self._others += [server for server in found.servers if server is not self._server]

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at."""
        settings, known = self._settings, facts(self._server, self._served)
        policies = self._registry.policies
        declared = None if policies is None else [policy.name for policy in policies]
        found = [*self._mounts, *check_server(known, policies=declared), *self._unguarded()]
        found += self._registry.findings(self._served)
        if settings.heartbeat is None:
            found += findings_for_server(known.ping_interval, known.ping_timeout, known.ping_grace)
        else:
            found += settings.heartbeat.findings(transports=known.transports)
        if settings.auth is None:
            found.append(finding("SG030"))
        else:
            found += settings.auth.findings()
        if isinstance(settings.store, MemoryStore):
            found.append(finding("SG051"))
        if settings.report_only:
            found.append(finding("SG054"))
        if settings.fail_open:
            found.append(finding("SG053"))
        return found

    def _unguarded(self) -> Iterator[Finding]:
        """The other servers that reach the same clients, where they have no guard."""
        manager = self._server.manager
        managed = getattr(manager, "server", self._server)  # a manager knows the server that was made with it last
        others = {id(server): (server, " beside it") for server in self._others}
        if managed is not self._server:
            others[id(managed)] = managed, " with the same client manager"
        for server, where in others.values():
            if getattr(server, ATTRIBUTE, None) is None:
                yield finding("SG036", where=where)

    def describe(self) -> dict[str, Any]:
        """The configuration in plain values, without secrets."""
        settings, known = self._settings, facts(self._server, self._served)
        return {
            "auth": None if settings.auth is None else settings.auth.describe(),
            "namespaces": self._registry.describe(self._served),
            "heartbeat": {"interval_s": known.ping_interval, "timeout_s": known.ping_timeout},
            "transports": list(known.transports),
            "connect_timeout_s": settings.connect_timeout,
            "admission_timeout_s": self._context.timeout,
            "expiring_notice_s": settings.expiring_notice,
            "limits": settings.limits.describe(),
            "store": type(self._store).__name__,
            "allowed_origins": settings.allowed_origins or "same origin",
            "trusted_proxies": settings.trusted_proxies.describe(),
            "log_claims": list(settings.log_claims),
            "debug": settings.debug,
            **({"report_only": True} if settings.report_only else {}),
            "paths": self.paths,
            "versions": known.versions,
        }

    def start(self) -> None:
        """Log the configuration and what is wrong with it: once, when handlers and log handlers are there."""
        if self._started:
            return
        self._started = True
        self._report.started(self.describe())
        self._report.warn(self.check())
        if self._settings.auth is not None:
            # Now, so that the first client does not pay for it.
            self._settings.auth.start()
        if self._workers is not None:
            self._workers.start()
        self._context.drain.install()

    def seen(self, scope: Scope, receive: Receive) -> None:
        """Make the checks that need a request: of the first one, and of the first WebSocket."""
        if self._seen_websocket:
            return
        self.start()
        if not self._addressed:
            self._addressed = True
            self._check_address(scope)
        if scope["type"] != "websocket":
            return
        self._seen_websocket = True
        heartbeat = self._settings.heartbeat
        # uvicorn hands out bound methods of its protocol, which knows the server's settings.
        config: Any = getattr(getattr(receive, "__self__", None), "config", None)
        if heartbeat is not None and hasattr(config, "ws_ping_interval"):
            pings = {"ping_interval": config.ws_ping_interval, "ping_timeout": config.ws_ping_timeout}
            self._report.warn(heartbeat.server_ping_findings(**pings))

    def _check_address(self, scope: Scope) -> None:
        host = (scope.get("server") or ("", None))[0]
        # "testserver" is what the test clients of Starlette say.
        if self._settings.debug and host not in ("", "testserver") and not is_loopback(host):
            self._report.warn([finding("SG031", "served", host=host)])
        if is_unix(scope) and not self._settings.trusted_proxies.unix:
            self._report.warn([finding("SG050", "unix")])

    def warn_of_memory(self) -> None:
        """Say once that revocations are kept in the memory of this process, now that there is one."""
        if self._settings.store is None and not self._warned_of_memory:
            self._warned_of_memory = True
            self._report.warn([finding("SG051")])

    def warn_of_proxy(self, address: str) -> None:
        """Say that a proxy forwards without being trusted."""
        self._report.warn([finding("SG050", address=address)])
