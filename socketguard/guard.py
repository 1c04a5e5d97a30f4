"""`SocketGuard`: what an application holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self, Unpack

from starlette.types import ASGIApp, Receive, Scope, Send

from .admission import Admission
from .auth.users import Users
from .check import seconds
from .config import Auth, Options, Settings, admission_timeout, options_from_env, read_options
from .connection import Connection, Identity
from .diagnosis.delivery import Delivery
from .diagnosis.startup import discover
from .diagnosis.traffic import Patterns
from .errors import ConfigurationError, Refusal, RejectCode
from .findings import Finding
from .limits.counters import Ledger
from .limits.expiry import Expiry
from .limits.rates import AddressBudget
from .limits.revocation import MemoryStore, Revocations, revocation_for
from .limits.shared import Ended, SharedStore, selector_of
from .logs import events
from .logs.floods import Floods
from .logs.report import Report
from .logs.sink import EventLog
from .namespaces.registry import Registry
from .server.attach import Attachment
from .server.configuration import Configuration
from .server.connect import Connects
from .server.context import Context
from .server.dispatch import Dispatch, Refreshes
from .server.drain import LONGEST, Drain, Ready
from .server.drain import findings as drain_findings
from .server.emits import is_shared
from .server.endings import Endings
from .server.endpoint import Endpoint, WrongPath
from .server.engine import Engine
from .server.facts import ServedNames, require_server
from .server.heartbeats import Heartbeats
from .server.incoming import Incoming
from .server.refusals import Refusals
from .server.requires import requires
from .server.service import Service
from .server.sessions import Sessions
from .server.workers import Workers, is_covered, selected
from .text import neutralise
from .tokens.http import Backend

__all__ = ["Parts", "SocketGuard"]

SAMPLE = 128
"""One in so many emits is looked at, beyond the first of each second: it costs under 1 % of an emit."""


class Parts:
    """The parts of the guard on one server, wired once, from top to bottom; guards with equal options share them."""

    def __init__(self, server: Any, settings: Settings) -> None:
        self.settings = settings
        self.guards: list[SocketGuard] = []
        auth, limits, heartbeat = settings.auth, settings.limits, settings.heartbeat
        interval = server.eio.ping_interval if heartbeat is None else heartbeat.interval
        ping_timeout = server.eio.ping_timeout if heartbeat is None else heartbeat.timeout
        self.timeout = admission_timeout(settings.admission_timeout, ping_timeout)
        self.store = settings.store
        if self.store is None:
            # By the same clock as the tokens.
            self.store = MemoryStore() if auth is None else MemoryStore(clock=auth.now)

        log = EventLog(settings.logger)
        self.report = Report(log, Floods(log), settings.log_claims)
        self.ledger = Ledger(limits)
        budget = AddressBudget(limits.failure_rate)
        self.revocations = Revocations(self.store, timeout=settings.store_timeout, fail_open=settings.fail_open)
        self.registry = Registry(settings.namespaces)
        self.served = ServedNames(server)
        self.delivery = Delivery(sample=1 if settings.debug else SAMPLE, shared=is_shared(server.manager))
        heard = [value if isinstance(value, int | float) else 0 for value in (interval, ping_timeout)]
        patterns = Patterns(interval=heard[0], timeout=heard[1], transports=server.eio.transports)

        engine = Engine(server, limits.connect_packet_bytes, limits.queue_bytes)
        self.sessions = Sessions(engine, limits, self.ledger, patterns, connect_timeout=settings.connect_timeout)
        self.expiry = Expiry(auth, settings.expiring_notice, report_only=settings.report_only)
        self.users = users = (
            None
            if settings.load_user is None
            else Users(
                settings.load_user,
                every=settings.revalidate,
                stale=settings.revalidate_stale,
                at_once=limits.lookups,
                timeout=self.timeout,
            )
        )
        service = Service(
            self.registry,
            auth,
            self.revocations,
            users,
            self.report,
            fail_open=settings.fail_open,
            report_only=settings.report_only,
        )
        self.refusals = Refusals(engine, self.sessions, budget, self.report, debug=settings.debug)
        heartbeats = Heartbeats(server.eio)
        self.endings = Endings(
            engine,
            self.sessions,
            heartbeats,
            self.expiry,
            users,
            service,
            self.refusals,
            patterns,
            self.delivery,
            self.report,
            report_only=settings.report_only,
        )
        self.drain = Drain(self.sessions, self.endings, self.report)
        self.ready = Ready(self.drain)
        context = Context(
            server,
            settings,
            self.timeout,
            engine,
            self.sessions,
            heartbeats,
            self.expiry,
            users,
            budget,
            service,
            self.refusals,
            self.endings,
            self.drain,
            self.report,
        )
        self.workers = None
        if isinstance(self.store, SharedStore):
            self.workers = Workers(self.store, self.sessions, self.endings, self.revocations)
        self.configuration = Configuration(context, self.registry, self.served, self.store, self.workers)
        self.admission = Admission(
            self.registry,
            auth,
            self.served,
            self.configuration.paths,
            limits=limits,
            ledger=self.ledger,
            budget=budget,
            revocations=None if auth is None else self.revocations,
            stable_claims=settings.stable_claims,
            users=users,
            report_only=settings.report_only,
        )
        self.connects = Connects(context, self.admission)
        self._dispatch = Dispatch(context, self.connects, Refreshes(context, self.admission), self.delivery)
        incoming = Incoming(context, self._dispatch)
        self._endpoint = Endpoint(context, self.configuration, self.ledger, patterns, incoming)
        self._attachment: Attachment | None = Attachment(
            context, self, self.connects, self._dispatch, incoming, self._endpoint, self.delivery, self.served
        )
        if heartbeat is not None:
            for name, value in (("interval", interval), ("timeout", ping_timeout), ("interval_grace_period", 0)):
                self._attachment.set(server.eio, f"ping_{name}", value)
        if settings.allowed_origins is not None:
            origins = settings.allowed_origins
            value = origins if isinstance(origins, str) else list(origins)
            self._attachment.set(server.eio, "cors_allowed_origins", value)

    @classmethod
    def on(cls, server: Any, settings: Settings) -> Parts:
        """The parts on this server: those that are there, when they were made with equal settings."""
        parts: Parts | None = Attachment.of(server)
        if parts is None:
            return cls(server, settings)
        if parts.settings != settings:
            raise ConfigurationError(
                "this server has a guard with other options already: make one guard per server, or call detach() on "
                "the first",
                option="server",
            )
        return parts

    def start(self) -> None:
        """Begin, with the application or with its first request."""
        self.configuration.start()
        self.endings.arm()

    def detach(self) -> None:
        """Take everything off the server again."""
        if self._attachment is None:
            return
        # Nobody but the guard can carry them; their clients come back by themselves.
        self.endings.everybody()
        for each in (self._endpoint, self._dispatch, self.connects):
            each.detach()
        self._attachment.undo()
        self._attachment = None
        self.report.undelivered(self.delivery.close())
        self.sessions.clear()
        self.expiry.clear()
        if self.users is not None:
            self.users.clear()
        if self.workers is not None:
            self.workers.stop()
        self.endings.stop()
        self.report.floods.close()


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
        load_user: called with the `Identity` at each CONNECT; what it returns is ``current_connection().user``, and
            None refuses with ``account_disabled``.
        revalidate: seconds after which ``load_user`` is asked again while a connection lives; None ends it. Connections
            whose claims are alike share one look-up, of which at most half of ``limits.lookups`` run at a time.
        revalidate_stale: seconds for which a connection goes on while ``load_user`` fails.
        bind_polling: ``"address"`` refuses requests of a session from another address than its first. A client that
            changes its network must then connect anew. Browsers send no header with the upgrade to WebSocket, so that a
            token can't be asked for there.
        trusted_proxies: addresses and CIDR blocks of the proxies whose ``X-Forwarded-For`` is believed.
        allowed_origins: the origins whose pages may connect, or ``"*"``. None leaves python-engineio's own setting,
            by default the same origin only.
        log_claims: claims of the token that go into each log line.
        logger: a structlog or stdlib logger to write to; False for silence.
        debug: whether refused clients are told the details, all namespaces among them. Never in production.
        report_only: log who would be refused or ended for a credential, a policy or its expiry, and do not do it. A
            client is anonymous unless it was verified. Limits, origins, ``requires``, ``revoke``, ``disconnect`` and
            ``drain`` stay in force.

    Raises:
        ConfigurationError: for any option that can't work, by its name.
    """

    def __init__(self, app: ASGIApp | None, *, auth: Auth, server: Any = None, **options: Unpack[Options]) -> None:
        found = discover(app)
        self.server = require_server(found.server(app) if server is None else server)
        self._parts = Parts.on(self.server, read_options(auth, **options))
        self._parts.guards.append(self)
        configuration = self._parts.configuration
        configuration.learn(found)
        self.app = app
        trusted = self._parts.settings.trusted_proxies
        self._outer = None if app is None else WrongPath(app, self._parts.report, configuration, trusted)

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
        parts: Parts | None = Attachment.of(server)
        if parts is None:
            raise LookupError("this server has no guard (yet): Starlette builds middleware at its first request")
        return parts.guards[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._outer is None:
            raise RuntimeError("a guard made by protect() is no ASGI application; serve the application itself")
        if scope["type"] == "lifespan":
            self._parts.start()
        if not self._outer.concerns(scope):
            await self._outer.app(scope, receive, send)
            return
        try:
            await self._outer(scope, receive, send)
        finally:
            self._parts.endings.arm()

    @property
    def auth(self) -> Backend | None:
        """Whoever says whose a credential is, for the HTTP routes of the same service; a lone `JWTAuth` is itself."""
        auth = self._parts.settings.auth
        return auth if auth is None or auth.others else auth.jwt

    def identity(self, sid: str, namespace: str | None = None) -> Identity:
        """Who a client is.

        Args:
            sid: the Socket.IO session id that handlers get.
            namespace: checked when given.

        Raises:
            LookupError: no such client is connected.
        """
        connection = self._parts.sessions.connections.get(sid)
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
            for connection in self._parts.sessions.connections.values()
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
    ) -> Ended:
        """Disconnect clients, with a shared store those of all workers. They may connect again: see `revoke`.

        Stock clients don't come back by themselves after this.

        Args:
            subject: all of this subject's connections.
            token_id: those with this token id: ``jti``, or the claim that ``JWTAuth(token_id_claim=…)`` names.
            sid: the one with this Socket.IO session id.
            issuer: with ``subject`` or ``token_id``: only those of this issuer.
            namespace: only those in this namespace.
            reason: if given, what the client is told, as the ``message`` of ``socketguard:closing`` (whose ``code`` is
                ``kicked``), and the ``detail`` of the canonical line.

        Returns:
            How many connections were ended, those that were just being admitted among them. With a shared store it
            knows ``.workers`` (how many have answered) and ``.missing`` (the ids of those that have not within 2 s).

        Raises:
            ConfigurationError: not exactly one of ``subject``, ``token_id`` and ``sid`` is given.
        """
        selector = selector_of(subject=subject, token_id=token_id, sid=sid)
        selector |= {"issuer": issuer, "namespace": namespace}
        chosen = selected(self._parts.sessions.everybody(), selector)
        more = {} if reason is None else {"detail": neutralise(str(reason), 256)}
        verdict = Refusal(RejectCode.REFUSED_BY_APP, "disconnect_called", {"hint": more.get("detail")})
        ending = self._parts.endings.end_all(chosen, "kicked", verdict, more.get("detail"))
        workers = self._parts.workers
        try:
            position = None if workers is None else await workers.send({**selector, "told": more.get("detail")})
        finally:
            ended = Ended(await ending)
        if workers is not None:
            ended = await workers.confirmed(position, ended)
        self._parts.report.selected(events.SUBJECT_DISCONNECTED, selector, ended, **more)
        return ended

    async def revoke(
        self,
        *,
        token_id: str | None = None,
        subject: str | None = None,
        issued_before: float | None = None,
        issuer: str | None = None,
        expires_at: float | None = None,
    ) -> Ended:
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
            How many connections were ended, as for `disconnect`.

        Raises:
            ConfigurationError: the selector can't work; the text says why.
            StoreFull: the store is full of live revocations. Connections of this process were ended all the same.
            SocketGuardError: the store did not answer; likewise.
        """
        parts = self._parts
        auth = parts.settings.auth
        if auth is None:
            raise ConfigurationError("auth is None, so that there is nothing to revoke", option="auth")
        lifetime, unknown = auth.lifetime(issuer)
        known = [each.identity for each in parts.sessions.everybody() if each.identity.token_id == token_id]
        revocation = revocation_for(
            token_id=token_id,
            subject=subject,
            issued_before=issued_before,
            issuer=issuer,
            expires_at=expires_at,
            # Without an issuer, whatever has none is meant too.
            issuers=auth.issuers if issuer is not None or not auth.others else frozenset(),
            max_lifetime=lifetime,
            unknown=unknown,
            leeway=auth.leeway,
            now=auth.now(),
            known_expiry=next((one.expires_at for one in known if token_id and issuer in (None, one.issuer)), None),
        )
        parts.configuration.warn_of_memory()
        failed: dict[str, Any] = {}
        with parts.revocations.under_way(revocation):
            # Before the store is asked, and whatever it says: nobody goes on here, and nobody gets in.
            ending = parts.endings.end_all(
                [each for each in parts.sessions.everybody() if is_covered(each, revocation)],
                "token_revoked",
                Refusal(RejectCode.TOKEN_REVOKED, "revoked"),
            )
            position: Any = None
            try:
                position = await parts.revocations.revoke(revocation)
            except Exception as exc:
                failed["error"] = type(exc).__name__
                raise
            finally:
                ended = Ended(await ending)
                if parts.workers is not None and not failed:
                    ended = await parts.workers.confirmed(position, ended)
                selector = {"token_id": token_id, "subject": subject, "issuer": issuer}
                until = math.ceil(revocation.expires_at)
                parts.report.selected(events.TOKEN_REVOKED, selector, ended, until=until, **failed)
        return ended

    def watch_delivery(self, on: bool = True) -> None:
        """Look at every emit of the application for whether it reaches anybody, not only at a sample.

        Without it the first 20 emits of a second are looked at, and one in 128 of the others; with ``debug=True`` all.

        Args:
            on: False to go back to the sample.
        """
        self._parts.report.undelivered(self._parts.delivery.watch(on))

    @property
    def ready(self) -> Ready:
        """Whether this worker takes clients, for a balancer: ``Route("/ready", guard.ready)``, or ``guard.ready()``.

        200 or True; 503 or False while it drains, and only then.
        """
        return self._parts.ready

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
        self._parts.report.warn(drain_findings(self._check_over(over)))
        return await self._parts.drain.run(over)

    def drain_on_sigterm(self, over: float = LONGEST) -> None:
        """Drain when the process is asked to end, then let the ASGI server end as ever.

        The handler of SIGTERM that is there when the application starts (uvicorn's) is called after the drain, or at
        once at the second SIGTERM. Its listeners are closed before anybody is sent away, so that nobody comes back
        here. Call it in the main thread, before or while the application starts.

        Args:
            over: as for `drain`.

        Raises:
            ConfigurationError: ``over`` is no number of seconds.
        """
        self._parts.report.warn(drain_findings(self._check_over(over)))
        self._parts.drain.on_sigterm(over)

    @staticmethod
    def _check_over(over: float) -> float:
        # At once is a period too.
        return 0.0 if type(over) in (int, float) and over == 0 else seconds(over, "over", example=LONGEST)

    requires = staticmethod(requires)

    def status(self) -> dict[str, Any]:
        """How things are in this process, for a health page or a metric; numbers, no secrets.

        Returns:
            ``sessions`` and ``connections`` (open now), ``accepted`` and ``refused`` (by code, since the start),
            ``report_only`` (who would have been refused or ended, by code; None without that option), ``timers``,
            ``store``, ``keys``, ``draining`` and ``workers``.
        """
        parts = self._parts
        connects, sessions = parts.connects, parts.sessions
        joined = [each for each in sessions.connections.values() if each.state is Connection.JOINED]
        return {
            "sessions": {
                "open": len(sessions.open),
                "without_namespace": self._parts.ledger.pending,
                "by_transport": dict(Counter(session.transport for session in sessions.open)),
            },
            "connections": {
                "open": len(joined),
                "being_admitted": len(sessions.admitting),
                "by_namespace": dict(Counter(each.namespace for each in joined)),
                "by_transport": dict(Counter(each.transport for each in joined)),
            },
            "accepted": connects.accepted,
            "refused": dict(parts.refusals.refused),
            "report_only": {kind: dict(counts) for kind, counts in parts.refusals.reported.items()}
            if parts.settings.report_only
            else None,
            "timers": {
                "expiry": len(parts.expiry),
                "connect": sessions.waiting,
                "ending": len(parts.endings),
            },
            "store": {"kind": type(parts.store).__name__, "available": parts.revocations.available},
            "keys": [] if parts.settings.auth is None else parts.settings.auth.keys_status(),
            "draining": parts.drain.begun,
            "workers": 1 if parts.workers is None else len(parts.workers.living),
        }

    def describe(self) -> dict[str, Any]:
        """The effective configuration, as it is logged at start; no secrets."""
        return self._parts.configuration.describe()

    def check(self) -> list[Finding]:
        """Everything in the configuration that a person should look at. It is logged at start too."""
        return self._parts.configuration.check()

    def detach(self) -> None:
        """Take the guard off its server again. From then on nobody checks anybody."""
        self._parts.detach()
