"""`SocketGuard`: what an application holds."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from .admission import Admission
from .check import seconds
from .config import Auth, Options, Settings, admission_timeout, name_of, options_from_env, read_options
from .connection import Connection, Identity
from .diagnosis.delivery import Delivery
from .diagnosis.startup import Discovery, check_server, discover
from .diagnosis.traffic import Patterns
from .errors import ConfigurationError, Refusal, RejectCode
from .findings import Finding, finding
from .limits.counters import Ledger
from .limits.expiry import Lifetime
from .limits.rates import AddressBudget
from .limits.revocation import MemoryStore, Revocation, Revocations, revocation_for
from .logs import events
from .logs.floods import Floods
from .logs.report import Report
from .logs.sink import EventLog
from .namespaces.registry import Registry
from .proxies.heartbeat import findings_for_server
from .server.attach import Seam, ServedNames, is_shared, require_server
from .server.bridge import Bridge
from .server.dispatch import Refreshes, requires
from .server.endings import LONGEST, Drain, Endings
from .server.endings import findings as drain_findings
from .server.endpoint import Endpoint, WrongPath
from .server.handshake import Gate
from .server.sessions import Sessions
from .text import neutralise
from .tokens.auth import Verifier

if TYPE_CHECKING:
    pass

__all__ = ["Core", "SocketGuard"]


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
        self.report = Report(self.log, Floods(self.log), settings.log_claims)
        self.registry = Registry(settings.namespaces)
        # Where a namespace can be joined without a token, a session is of use without keys.
        self._all_need_tokens = all(policy.token == "required" for policy in self.registry.policies or ())
        self.guards: list[SocketGuard] = []
        self.paths: list[str] = []
        self.mounts: list[Finding] = []
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
        self.delivery = Delivery(sample=1 if settings.debug else SAMPLE, shared=is_shared(server.manager))
        self.endings = Endings(self.report)
        heartbeat = settings.heartbeat
        self.patterns = Patterns(
            interval=server.eio.ping_interval if heartbeat is None else heartbeat.interval,
            timeout=server.eio.ping_timeout if heartbeat is None else heartbeat.timeout,
            transports=server.eio.transports,
        )
        self.bridge = Bridge(self.patterns, self.delivery, self.report)
        self.sessions = Sessions(
            limits,
            ledger,
            connect_timeout=settings.connect_timeout,
            overdue=self.endings.overdue,
            slow=self.endings.slow,
            watch=self.bridge,
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
        self.seam = self.endings.seam = self.bridge.seam = Seam(
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
        self.mounts += [one for one in found.findings if one not in self.mounts]

    def detach(self) -> None:
        """Take everything off the server again."""
        if self.seam.attached:
            self.seam.detach()
            self.bridge.close()

    def everybody(self) -> list[Connection]:
        """All connections, those that are being admitted among them."""
        return [*self.seam.connections.values(), *(each for each in self.seam.pending if not each.sid)]

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at."""
        settings, facts = self.settings, self.seam.facts()
        declared = None if settings.namespaces is None else [name_of(policy) for policy in settings.namespaces]
        found = [*self.mounts, *check_server(facts, policies=declared)]
        found += self.registry.findings(self.seam.served)
        if settings.heartbeat is None:
            found += findings_for_server(facts.ping_interval, facts.ping_timeout, facts.ping_grace)
        else:
            found += settings.heartbeat.findings(transports=facts.transports)
        if settings.auth is None:
            found.append(
                finding("SG030"),
            )
        else:
            found += settings.auth.findings()
        if isinstance(settings.store, MemoryStore):
            found.append(finding("SG051"))
        if settings.fail_open:
            found.append(finding("SG053"))
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
        for one in found:
            self.log.emit(events.CONFIG_WARNING, {"id": one.id, "text": one.text, "fix": one.fix})

    def warn_once(self, found: Finding) -> None:
        """Log a finding that something at run time has made true."""
        if found not in self._warned:
            self._warned.append(found)
            self.warn([found])

    def _outage(self) -> int | None:
        auth = self.settings.auth
        return None if auth is None or not self._all_need_tokens else auth.outage() or self.revocations.outage()

    def _store_changed(self, available: bool, error: BaseException | None) -> None:
        self.report.store_changed(available, error, fail_open=self.settings.fail_open)

    def _found_proxy(self, address: str) -> None:
        self.warn([finding("SG050", address=address)])

    def _on_request(self, scope: Scope, receive: Receive) -> bool:
        """The checks that need a request. Returns whether there is nothing more to learn from another one."""
        self.start()
        self.bridge.start()
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
            self.warn([finding("SG031", "served", host=host)])


SAMPLE = 128
"""One in so many emits is looked at, beyond the first of each second: it costs under 1 % of an emit."""


def _never(identity: Identity) -> None:
    """When the authority of somebody ends who needs no token."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "testserver", "")


class SocketGuard:
    """Guards a Socket.IO server, and as ASGI middleware answers clients that ask on a wrong path.

    Args:
        app: the ASGI application that holds the server: a ``socketio.ASGIApp``, or a Starlette or FastAPI application
            that mounts one.
        auth: verifies tokens; a list has one for each issuer. None must be written out: everything of the guard but no
            token.
        server: the ``socketio.AsyncServer``, where it can't be found in ``app``.
        namespaces: what may be joined, names and `NamespacePolicy` objects. None takes what is registered on the
            server, with a token.
        heartbeat: ping interval and timeout; None leaves the server's own.
        limits: how many connections, failures, bytes; None for the defaults of `Limits`.
        store: where revocations are kept; None for the memory of this process.
        store_timeout: seconds that the store may take.
        fail_open: whether tokens are accepted unchecked while the store does not answer. Never, unless being refused
            costs more than a revoked token.
        connect_timeout: seconds that a session may be without a namespace; None for ever.
        admission_timeout: seconds for everything between a CONNECT and its answer: ``authorize`` and the connect
            handler of the application. 10, or half of the ping timeout if that is less. While it runs over
            WebSocket no pong is read, so it must stay under the ping timeout.
        expiring_notice: how many seconds before its end a client gets ``socketguard:expiring``; None for no notice.
        stable_claims: claims that a fresh token must share with the old one; rooms were chosen by them. The subject,
            the issuer and what the policy of the namespace names are always among them.
        on_refresh: called with the connection, the old and the new identity, before the new one counts.
        bind_polling: ``"address"`` refuses requests of a session from another address than its first. A client that
            changes its network must then connect anew. Browsers send no header with the upgrade to WebSocket, so that a
            token can't be asked for there.
        trusted_proxies: addresses and CIDR blocks of the proxies whose ``X-Forwarded-For`` is believed.
        allowed_origins: the origins whose pages may connect, or ``"*"``. None leaves python-engineio's own setting,
            by default the same origin only.
        log_claims: claims of the token that go into each log line.
        logger: a structlog or stdlib logger to write to; False for silence.
        debug: whether refused clients are told the details, all namespaces among them. Never in production.

    Raises:
        ConfigurationError: for any option that can't work, by its name.
    """

    def __init__(self, app: ASGIApp | None, *, auth: Auth, server: Any = None, **options: Unpack[Options]) -> None:
        found = discover(app)
        self.server = require_server(found.server(app) if server is None else server)
        self._core = Core.on(self.server, read_options(auth, **options))
        self._core.learn(found, self)
        self.app = app
        trusted = self._core.settings.trusted_proxies
        self._outer = None if app is None else WrongPath(app, self._core.report, self._core.paths, trusted)

    @classmethod
    def protect(cls, server: Any, *, auth: Auth, **options: Unpack[Options]) -> Self:
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
        return Core.of(seam).guards[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._outer is None:
            raise RuntimeError("a guard made by protect() is no ASGI application; serve the application itself")
        if scope["type"] == "lifespan":
            self._core.start()
        app = self._outer if self._outer.concerns(scope) else self._outer.app
        await app(scope, receive, send)

    @property
    def auth(self) -> Verifier | None:
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

    async def disconnect(
        self,
        *,
        subject: str | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        issuer: str | None = None,
        namespace: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Disconnect clients of this process. They may connect again: see `revoke`.

        Stock clients don't come back by themselves after this.

        Args:
            subject: all of this subject's connections.
            token_id: those with this token id: ``jti``, or the claim that ``JWTAuth(token_id_claim=…)`` names.
            sid: the one with this Socket.IO session id.
            issuer: with ``subject`` or ``token_id``: only those of this issuer.
            namespace: only those in this namespace.
            reason: for the ``detail`` of the canonical line, whose ``reason`` is ``kicked``.

        Returns:
            How many connections were ended, those that were just being admitted among them.

        Raises:
            ConfigurationError: not exactly one of ``subject``, ``token_id`` and ``sid`` is given.
        """
        selector = {"subject": subject, "token_id": token_id, "sid": sid}
        given: list[Any] = [value for value in selector.values() if value is not None]
        if len(given) != 1 or not isinstance(given[0], str) or not given[0]:
            raise ConfigurationError(
                "disconnect() takes one of subject, token_id and sid, a string that is not empty; "
                'write disconnect(subject="user-1")',
                option="subject",
            )
        chosen = [
            connection
            for connection in self._core.everybody()
            if (sid is None or connection.sid == sid)
            and (subject is None or connection.identity.subject == subject)
            and (token_id is None or connection.identity.token_id == token_id)
            and (issuer is None or connection.identity.issuer == issuer)
            and (namespace is None or connection.namespace == namespace)
        ]
        more = {} if reason is None else {"detail": neutralise(str(reason), 256)}
        verdict = Refusal(RejectCode.REFUSED_BY_APP, "disconnect_called", {"hint": more.get("detail")})
        ended = await self._core.endings.end_all(chosen, "kicked", verdict, more.get("detail"))
        selector |= {"issuer": issuer, "namespace": namespace}
        self._core.report.selected(events.SUBJECT_DISCONNECTED, selector, ended, **more)
        return ended

    async def revoke(
        self,
        *,
        token_id: str | None = None,
        subject: str | None = None,
        issued_before: float | None = None,
        issuer: str | None = None,
        expires_at: float | None = None,
    ) -> int:
        """Refuse a token, or all older tokens of a subject, from now on, and disconnect who is connected with one.

        The revocation is kept until the tokens could no longer be valid.

        Args:
            token_id: the token id of one token: ``jti``, or the claim that ``JWTAuth(token_id_claim=…)`` names.
            subject: all tokens of this subject that were issued before ``issued_before``; one without ``iat`` counts as
                older. Needs ``JWTAuth(max_lifetime=…)``.
            issued_before: in seconds since the epoch. By default the end of this second, since ``iat`` counts in whole
                seconds: a token that is issued within the same second is refused too.
            issuer: whose token; needed where several issuers are configured.
            expires_at: with ``token_id``: the ``exp`` of the token, in seconds since the epoch. Not needed with
                ``JWTAuth(max_lifetime=…)``, or while a client is connected with it.

        Returns:
            How many connections of this process were ended.

        Raises:
            ConfigurationError: the selector can't work; the text says why.
            StoreFull: the store is full of live revocations. Connections of this process were ended all the same.
            SocketGuardError: the store did not answer; likewise.
        """
        core = self._core
        auth = core.settings.auth
        if auth is None:
            raise ConfigurationError("auth is None, so that there are no tokens to revoke", option="auth")
        known = [each.identity for each in core.everybody() if each.identity.token_id == token_id]
        revocation = revocation_for(
            token_id=token_id,
            subject=subject,
            issued_before=issued_before,
            issuer=issuer,
            expires_at=expires_at,
            issuers=auth.issuers,
            max_lifetime=auth.max_lifetime_of(issuer),
            leeway=auth.leeway,
            now=auth.now(),
            known_expiry=next((one.expires_at for one in known if token_id and issuer in (None, one.issuer)), None),
        )
        if core.settings.store is None:
            core.warn_once(finding("SG051"))
        failed: dict[str, Any] = {}
        try:
            await core.revocations.revoke(revocation)
        except Exception as exc:
            failed["error"] = type(exc).__name__
            raise
        finally:
            # Whatever the store says: nobody goes on here.
            ended = await core.endings.end_all(
                [each for each in core.everybody() if _is_covered(each, revocation)],
                "token_revoked",
                Refusal(RejectCode.TOKEN_REVOKED, "revoked"),
            )
            selector = {"token_id": token_id, "subject": subject, "issuer": issuer}
            until = math.ceil(revocation.expires_at)
            core.report.selected(events.TOKEN_REVOKED, selector, ended, until=until, **failed)
        return ended

    def watch_delivery(self, on: bool = True) -> None:
        """Look at every emit of the application for whether it reaches anybody, not only at a sample.

        Without it the first 20 emits of a second are looked at, and one in 128 of the others; with ``debug=True`` all.

        Args:
            on: False to go back to the sample.
        """
        core = self._core
        for reason, fields in core.delivery.watch(on):
            core.report.undelivered(reason, fields)

    async def drain(self, over: float = LONGEST) -> int:
        """Send all clients away, before the process ends; they come back by themselves to whoever takes over.

        From now on new sessions are refused with 503 and ``Retry-After``. There is no way back.

        Args:
            over: seconds over which the sessions are ended, in random order.

        Returns:
            How many sessions were ended.

        Raises:
            ConfigurationError: ``over`` is no number of seconds.
        """
        self._core.warn(drain_findings(self._check_over(over)))
        return await self._core.drain.run(over)

    def drain_on_sigterm(self, over: float = LONGEST) -> None:
        """Drain when the process is asked to end, then let the ASGI server end as ever.

        The handler of SIGTERM that is there when the application starts (uvicorn's) is called after the drain, or at
        once at the second SIGTERM. Call it in the main thread, before or while the application starts.

        Args:
            over: as for `drain`.

        Raises:
            ConfigurationError: ``over`` is no number of seconds.
        """
        self._core.warn(drain_findings(self._check_over(over)))
        self._core.drain.on_sigterm(over)

    @staticmethod
    def _check_over(over: float) -> float:
        # At once is a period too.
        return 0.0 if type(over) in (int, float) and over == 0 else seconds(over, "over", example=LONGEST)

    requires = staticmethod(requires)

    def status(self) -> dict[str, Any]:
        """How things are in this process, for a health page or a metric; numbers, no secrets.

        Returns:
            ``sessions`` and ``connections`` (open now), ``accepted`` and ``refused`` (by code, since the start),
            ``timers``, ``store``, ``keys`` and ``draining``.
        """
        core = self._core
        seam, sessions = core.seam, core.sessions
        joined = [each for each in seam.connections.values() if each.state is Connection.JOINED]
        return {
            "sessions": {
                "open": len(sessions.open),
                "without_namespace": sessions.pending,
                "by_transport": dict(Counter(session.transport for session in sessions.open)),
            },
            "connections": {
                "open": len(joined),
                "being_admitted": len(seam.pending),
                "by_namespace": dict(Counter(each.namespace for each in joined)),
                "by_transport": dict(Counter(each.transport for each in joined)),
            },
            "accepted": seam.accepted,
            "refused": dict(seam.refused),
            "timers": {
                "expiry": len(core.lifetime),
                "connect": sessions.timers,
                "ending": len(core.endings.pace),
            },
            "store": {"kind": type(core.store).__name__, "available": core.revocations.available},
            "keys": [] if core.settings.auth is None else core.settings.auth.keys_status(),
            "draining": core.gate.draining,
        }

    def describe(self) -> dict[str, Any]:
        """The effective configuration, as it is logged at start; no secrets."""
        return self._core.describe()

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at. It is logged at start too."""
        return self._core.check()

    def detach(self) -> None:
        """Take the guard off its server again. From then on nobody checks anybody."""
        self._core.detach()


def _is_covered(connection: Connection, revocation: Revocation) -> bool:
    """Whether a client's token was revoked, or the fresh one that it has just offered."""
    offered = connection.offered
    return revocation.covers(connection.identity) or (offered is not None and revocation.covers(offered))
