"""The parts of a guard on one server, wired; guards with equal options share them."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from starlette.types import Receive, Scope

from .admission import Admission
from .config import Settings, admission_timeout, name_of
from .connection import Connection, Identity
from .diagnosis.delivery import Delivery
from .diagnosis.startup import Discovery, check_server, find_misspelt_options
from .diagnosis.traffic import Patterns, PatternWatch
from .errors import ConfigurationError, Finding
from .limits.counters import Ledger
from .limits.expiry import Lifetime
from .limits.rates import AddressBudget
from .limits.revocation import MemoryStore, Revocations
from .logs import events
from .logs.floods import RejectionLog, Suppressor
from .logs.report import Report
from .logs.sink import EventLog
from .namespaces.registry import Registry
from .proxies.heartbeat import findings_for_server
from .server.attach import Seam, ServedNames, is_shared, known_options
from .server.dispatch import Refreshes
from .server.endings import Drain, Endings
from .server.endpoint import Endpoint
from .server.handshake import Gate
from .server.sessions import Sessions

if TYPE_CHECKING:
    from .guard import SocketGuard

__all__ = ["Core"]


class Core:
    """The parts.

    Args:
        server: a server that `socketguard.seam.require_server` let pass.
        settings: the options.
    """

    def __init__(self, server: Any, settings: Settings) -> None:
        self.settings = settings
        auth, limits = settings.auth, settings.limits
        self.log = EventLog(settings.logger)
        self.report = Report(self.log, RejectionLog(self.log, Suppressor()), settings.log_claims)
        self.registry = Registry(settings.namespaces)
        # Where a namespace can be joined without a token, a session is of use without keys.
        self._all_need_tokens = all(policy.token == "required" for policy in self.registry.policies or ())
        self.guards: list[SocketGuard] = []
        self.paths: list[str] = []
        self.mounts: list[Finding] = []
        self.misspelt = find_misspelt_options(server, known_options())
        self.started = False
        self._addressed = False
        self._warned: list[Finding] = []
        timeout = admission_timeout(
            settings.admission_timeout,
            server.eio.ping_timeout if settings.heartbeat is None else settings.heartbeat.timeout,
        )
        self.store = settings.store
        if self.store is None:
            # By the same clock as the tokens.
            self.store = MemoryStore() if auth is None else MemoryStore(clock=auth.now)
        self.revocations = Revocations(
            self.store, timeout=settings.store_timeout, fail_open=settings.fail_open, on_change=self._store_changed
        )
        ledger = Ledger(limits)
        budget = AddressBudget(limits.failure_rate)
        served = ServedNames(server)
        admission = Admission(
            self.registry,
            auth,
            served,
            self.paths,
            limits=limits,
            ledger=ledger,
            budget=budget,
            revocations=None if auth is None else self.revocations,
            stable_claims=settings.stable_claims,
        )
        self.delivery = Delivery(
            self.report.undelivered, sample=1 if settings.debug else SAMPLE, shared=is_shared(server.manager)
        )
        self.endings = Endings(self.report)
        heartbeat = settings.heartbeat
        self.patterns = Patterns(
            self.report.pattern,
            interval=server.eio.ping_interval if heartbeat is None else heartbeat.interval,
            timeout=server.eio.ping_timeout if heartbeat is None else heartbeat.timeout,
            transports=server.eio.transports,
        )
        self.watch = PatternWatch(self.patterns, lambda eio_sid: self.seam.pinged(eio_sid))
        self.sessions = Sessions(
            limits,
            ledger,
            connect_timeout=settings.connect_timeout,
            overdue=self.endings.overdue,
            slow=self.endings.slow,
            watch=self.watch,
        )
        self.lifetime = Lifetime(
            ends_at=_never if auth is None else auth.ends_at,
            clock=time.time if auth is None else auth.now,
            notice=settings.expiring_notice,
            notify=self.endings.notify,
            expire=self.endings.expire,
        )
        self.gate = Gate(
            budget,
            ledger,
            pending=lambda: self.sessions.pending,
            outage=self._outage,
            on_proxy=self._found_proxy,
        )
        refreshes = Refreshes(
            admission.refresh,
            self.report,
            lifetime=self.lifetime,
            rate=limits.refresh_rate,
            on_refresh=settings.on_refresh,
            timeout=timeout,
            log_claims=settings.log_claims,
            on_revoked=self.endings.revoked,
        )
        self.seam = self.endings.seam = Seam(
            server,
            served=served,
            decide=admission.decide,
            refresh=refreshes.handle,
            end=self.endings.session,
            sessions=self.sessions,
            lifetime=self.lifetime,
            ledger=ledger,
            budget=budget,
            gate=self.gate,
            report=self.report,
            delivery=self.delivery,
            admission_timeout=timeout,
            log_claims=settings.log_claims,
            debug=settings.debug,
            owner=self,
        )
        self.drain = Drain(self.seam, self.gate, self.endings, self.report)
        endpoint = Endpoint(
            self.seam,
            self.report,
            settings.trusted_proxies,
            self.gate,
            bind_polling=settings.bind_polling,
            connect_packet_bytes=limits.connect_packet_bytes,
            patterns=self.patterns,
            on_request=self._on_request,
        )
        self.seam.attach(endpoint)
        if settings.heartbeat is not None:
            self.seam.set_heartbeat(settings.heartbeat.interval, settings.heartbeat.timeout)
        if settings.allowed_origins is not None:
            origins = settings.allowed_origins
            self.seam.set_origins(origins if isinstance(origins, str) else list(origins))
        if auth is not None:
            auth.listen(self.report.keys_changed)

    @staticmethod
    def on(server: Any, settings: Settings) -> Core:
        """The parts on this server: those that are there, when they were made with equal settings."""
        seam = Seam.of(server)
        if seam is None:
            return Core(server, settings)
        core = Core.of(seam)
        if core.settings != settings:
            raise ConfigurationError(
                "this server has a guard with other options already: make one guard per server, or call detach() on "
                "the first",
                option="server",
            )
        return core

    @staticmethod
    def of(seam: Seam) -> Core:
        """The parts that a seam belongs to."""
        return cast("Core", seam.owner)

    def learn(self, found: Discovery, guard: SocketGuard) -> None:
        """Remember a guard that shares these parts, and where the endpoint is mounted for it."""
        self.guards.append(guard)
        self.paths += [path for path in found.paths if path not in self.paths]
        self.mounts += [finding for finding in found.findings if finding not in self.mounts]

    def detach(self) -> None:
        """Take everything off the server again."""
        if self.seam.attached:
            self.seam.detach()
            self.watch.close()
            self.report.rejections.close()

    def everybody(self) -> list[Connection]:
        """All connections, those that are being admitted among them."""
        return [*self.seam.connections.values(), *(each for each in self.seam.pending if not each.sid)]

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at."""
        settings, facts = self.settings, self.seam.facts()
        declared = None if settings.namespaces is None else [name_of(policy) for policy in settings.namespaces]
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
        if isinstance(settings.store, MemoryStore):
            found.append(MEMORY)
        if settings.fail_open:
            found.append(
                Finding(
                    "SG053",
                    "fail_open=True: while the store of revocations does not answer, revoked tokens are accepted",
                    "leave fail_open out; clients are then refused with keys_unavailable and come back by themselves",
                )
            )
        return found

    def describe(self) -> dict[str, Any]:
        """The effective configuration in plain values, without secrets."""
        settings, facts = self.settings, self.seam.facts()
        return {
            "auth": None if settings.auth is None else settings.auth.describe(),
            "namespaces": self.registry.describe() or list(self.seam.served.names()),
            "heartbeat": {"interval_s": facts.ping_interval, "timeout_s": facts.ping_timeout},
            "transports": list(facts.transports),
            "connect_timeout_s": settings.connect_timeout,
            "admission_timeout_s": self.seam.admission_timeout,
            "expiring_notice_s": settings.expiring_notice,
            "limits": settings.limits.describe(),
            "store": type(self.store).__name__,
            "allowed_origins": settings.allowed_origins or "same origin",
            "trusted_proxies": [str(network) for network in settings.trusted_proxies.networks],
            "log_claims": list(settings.log_claims),
            "debug": settings.debug,
            "paths": self.paths,
            "versions": facts.versions,
        }

    def start(self) -> None:
        """Log the configuration and what is wrong with it: once, when handlers and log handlers are there."""
        if self.started:
            return
        self.started = True
        settings = self.settings
        self.log.emit(events.STARTED, {"schema_version": events.SCHEMA_VERSION, "configuration": self.describe()})
        self.warn(self.check())
        if settings.auth is not None:
            # Now, so that the first client does not pay for it.
            settings.auth.start()
        self.drain.install()

    def warn(self, found: Iterable[Finding]) -> None:
        """Log findings."""
        for finding in found:
            self.log.emit(events.CONFIG_WARNING, {"id": finding.id, "text": finding.text, "fix": finding.fix})

    def warn_once(self, finding: Finding) -> None:
        """Log a finding that something at run time has made true."""
        if finding not in self._warned:
            self._warned.append(finding)
            self.warn([finding])

    def _outage(self) -> int | None:
        auth = self.settings.auth
        return None if auth is None or not self._all_need_tokens else auth.outage() or self.revocations.outage()

    def _store_changed(self, available: bool, error: BaseException | None) -> None:
        self.report.store_changed(available, error, fail_open=self.settings.fail_open)

    def _found_proxy(self, address: str) -> None:
        self.warn(
            [
                Finding(
                    "SG050",
                    f"{address} forwards the requests of others (X-Forwarded-…) but is not in trusted_proxies: all "
                    "clients behind it look like one, so that the limits per address are off for it",
                    f"write trusted_proxies=[{address!r}], or its network",
                )
            ]
        )

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


SAMPLE = 128
"""One in so many emits is looked at, beyond the first of each second: it costs under 1 % of an emit."""

MEMORY = Finding(
    "SG051",
    "revocations are kept in the memory of this process: they are lost at a restart, and other workers don't know them",
    "run one worker with tokens that live for minutes, or pass a store that the workers share",
)


def _never(identity: Identity) -> None:
    """When the authority of somebody ends who needs no token."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "testserver", "")
