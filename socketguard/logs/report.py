"""Turns what happened into log lines: one for each decision, one for each end.

Everything from a client was neutralised when it was taken into the record, or is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from socketguard.connection import Connection, HandshakeRequest, KeysChange, Session
from socketguard.errors import Refusal, RejectCode
from socketguard.findings import Finding
from socketguard.proxies.traces import recognise
from socketguard.text import neutralise

from . import events
from .events import EVENT_REASONS
from .floods import Floods
from .sink import EventLog

__all__ = ["Report"]


MANY_REJOINS = 32
"""Connections of one session that have ended, beyond which the lines of further ones are held back as refusals are."""


class Report:
    """Writes the log lines of one guard."""

    def __init__(self, log: EventLog, floods: Floods, log_claims: tuple[str, ...]) -> None:
        self.log = log
        self.floods = floods
        self.log_claims = log_claims

    def started(self, configuration: Mapping[str, Any]) -> None:
        """The guard begins to serve."""
        self.log.emit(events.STARTED, {"schema_version": events.SCHEMA_VERSION, "configuration": configuration})

    def warn(self, findings: Iterable[Finding]) -> None:
        """Something in the configuration should be looked at."""
        for finding in findings:
            self.log.emit(events.CONFIG_WARNING, {"id": finding.id, "text": finding.text, "fix": finding.fix})

    def handshake_rejected(
        self, request: HandshakeRequest, refusal: Refusal, ref: str, session: Session | None = None
    ) -> bool:
        """A request did not become a session, or did not reach one; False when the line was held back as too many."""
        fields: dict[str, Any] = {
            "reason": refusal.code.value,
            **_known(detail=refusal.detail),
            "status": refusal.status,
            "hint": refusal.fields["hint"],
            "ref": ref,
            "client_address": request.client_address,
            "transport": neutralise(request.transport, 16),
            **_known(
                proxies=list(recognise(request.headers, request.http_version)) or None,
                retry_after=refusal.retry_after,
                session=session and (session.digest or None),
                origin=_text(request.origin),
                host=_text(request.host),
                user_agent=_text(request.user_agent),
            ),
        }
        return self.floods.emit(events.HANDSHAKE_REJECTED, request.client_address, refusal.code.value, fields)

    def accepted(self, connection: Connection) -> None:
        """A client joined a namespace."""
        self._life(events.ACCEPTED, connection, self._fields(connection))

    def rejected(self, connection: Connection, refusal: Refusal, ref: str, event: str = events.REJECTED) -> None:
        """A CONNECT was refused."""
        # What a person looks for comes first.
        fields = {**_why(refusal, ref), **self._fields(connection)}
        if refusal.error is not None:
            # A defect of the server, not an attempt of a client: with its traceback.
            self._defect(event, fields, refusal.error)
            return
        key: str = fields["reason"]
        if refusal.code is RejectCode.INVALID_NAMESPACE:
            # A page that means one namespace must not hide another page that means another one.
            suggestion = refusal.fields.get("suggestion")
            key = f"{key}:{suggestion if suggestion in refusal.fields.get('registered', ()) else ''}"
        self.floods.emit(event, connection.client_address, key, fields)

    def would_reject(self, connection: Connection, refusal: Refusal) -> None:
        """A CONNECT would have been refused, were it not for ``report_only``."""
        self.rejected(connection, refusal, "", events.WOULD_REJECT)

    def would_end(self, connection: Connection, reason: str) -> None:
        """A connection would have been ended."""
        fields = {"reason": reason, **self._fields(connection)}
        self.floods.emit(events.WOULD_END, connection.client_address, f"would_end:{reason}", fields)

    def closed(self, connection: Connection, reason: str) -> None:
        """A client left a namespace: the canonical line."""
        fields = {"reason": reason, **_known(detail=connection.detail), **self._fields(connection)}
        fields |= {"packets_in": connection.packets_in, "events_in": connection.events_in}
        self._life(events.CLOSED, connection, fields | _known(refreshes=connection.refreshes or None))

    def _life(self, event: str, connection: Connection, fields: dict[str, Any]) -> None:
        """Write a line that each connection has, unless one session has very many of them."""
        if connection.rejoins <= MANY_REJOINS:
            self.log.emit(event, fields)
        else:
            self.floods.emit(event, connection.client_address, f"again:{event}", fields)

    def _defect(self, event: str, fields: dict[str, Any], error: BaseException) -> None:
        """Write a line with a traceback, unless the same place has raised the same very often."""
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        place = "" if last is None else f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
        self.floods.emit(event, None, f"defect:{type(error).__name__}:{place}", fields, exc_info=error)

    def session_ended(self, session: Session, reason: str, hint: str | None = None) -> None:
        """The guard ended a whole session."""
        fields = {"reason": reason, **_session_fields(session), **_known(origin=session.origin, hint=hint)}
        self.floods.emit(events.SESSION_ENDED, session.client_address, f"ended:{reason}", fields)

    def expiring(self, connection: Connection, seconds: int) -> None:
        """The client was told that its token expires."""
        self.log.emit(events.TOKEN_EXPIRING, {"expires_in_s": seconds, **self._fields(connection)})

    def refreshed(self, connection: Connection, expires_in: int | None, previous: str | None) -> None:
        """A fresh token took the place of the old one."""
        fields = _known(expires_in_s=expires_in, previous=_text(previous, 128))
        self.log.emit(events.REFRESHED, {**fields, **self._fields(connection), "refreshes": connection.refreshes})

    def refresh_rejected(self, connection: Connection, refusal: Refusal, ref: str) -> None:
        """A fresh token was refused."""
        fields = {**_why(refusal, ref), **self._fields(connection)}
        if refusal.error is not None:
            self._defect(events.REFRESH_REJECTED, fields, refusal.error)
            return
        self.floods.emit(events.REFRESH_REJECTED, connection.client_address, f"refresh:{refusal.code.value}", fields)

    def event_rejected(self, connection: Connection, event: str, refusal: Refusal, ref: str) -> None:
        """An event of a client was not dispatched."""
        fields = {**_why(refusal, ref), "event_name": neutralise(event, 64), **self._fields(connection)}
        key = f"event:{refusal.code.value}"
        self.floods.emit(events.EVENT_REJECTED, connection.client_address, key, fields)

    def upgraded(self, session: Session) -> None:
        """A session went from polling to WebSocket."""
        self.log.emit(events.UPGRADED, _session_fields(session))

    def upgrade_failed(self, session: Session, hint: str) -> None:
        """The probe of a WebSocket did not become an upgrade; the session goes on over polling."""
        fields = {**_session_fields(session), "hint": hint}
        self.floods.emit(events.UPGRADE_FAILED, session.client_address, "upgrade_failed", fields)

    def packet_rejected(self, session: Session, reason: str, hint: str, error: BaseException | None = None) -> None:
        """A packet of a session could not be processed."""
        fields = {**_session_fields(session), "reason": reason, "hint": hint}
        if error is not None:
            fields["error"] = type(error).__name__
        self.floods.emit(events.PACKET_REJECTED, session.client_address, reason, fields)

    def handler_failed(self, connection: Connection | None, event: str, error: BaseException) -> None:
        """A handler of the application raised."""
        fields = {} if connection is None else self._fields(connection)
        fields |= {"handler": neutralise(event, 64), "error": type(error).__name__}
        self._defect(events.HANDLER_FAILED, fields, error)

    def selected(self, event: str, selector: dict[str, Any], ended: int, **more: Any) -> None:
        """Somebody revoked tokens or disconnected a subject: a line of its own, whatever came of it."""
        shown = {name: neutralise(str(value), 256) for name, value in selector.items() if value is not None}
        self.log.emit(event, {"selector": shown, "ended": ended, **more})

    def keys_changed(self, change: KeysChange) -> None:
        """The keys of an issuer were fetched, or can't be."""
        event = events.KEYS_REFRESHED if change.kind == "refreshed" else events.KEYS_UNAVAILABLE
        self.log.emit(event, dict(change.fields))

    def credential_changed(self, credential: str, error: BaseException | None) -> None:
        """An authenticator answers again, or doesn't any more."""
        fields = {"credential": credential}
        if error is None:
            self.floods.emit(events.CREDENTIAL_RECOVERED, None, "recovered", fields)
        else:
            # One client for whom it fails must not fill the log with what comes and goes.
            fields["error"] = type(error).__name__
            self.floods.emit(events.CREDENTIAL_UNAVAILABLE, None, "unavailable", fields, exc_info=error)

    def users_changed(self, error: BaseException | None) -> None:
        """Users are found again, or can't be any more."""
        if error is None:
            self.floods.emit(events.USERS_RECOVERED, None, "users_recovered", {})
        else:
            fields = {"error": type(error).__name__}
            self.floods.emit(events.USERS_UNAVAILABLE, None, "users_unavailable", fields, exc_info=error)

    def store_changed(self, available: bool, error: BaseException | None, *, fail_open: bool) -> None:
        """The store of revocations answers again, or doesn't any more."""
        if available:
            self.log.emit(events.STORE_RECOVERED, {})
            return
        fields = {"error": type(error).__name__, "fail_open": fail_open}
        self.log.emit(events.STORE_UNAVAILABLE, fields, exc_info=error)

    def pattern(self, pattern: str, stands: bool, fields: Mapping[str, Any]) -> None:
        """What no single session shows: a warning when it begins to stand, and one when it has ended."""
        self.log.emit(events.PATTERN, {"pattern": pattern, "stands": stands, **fields})

    def undelivered(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Emits, or events of clients, reached nobody; see `socketguard.diagnosis.delivery`."""
        for reason, fields in lines:
            event = events.EVENT_UNHANDLED if reason in EVENT_REASONS else events.EMIT_UNDELIVERED
            self.log.emit(event, {"reason": reason, **fields})

    def loop_blocked(self, seconds: float) -> None:
        """The event loop has served nobody for so long."""
        hint = (
            "something in this process held it: a handler that does not await (a database driver without asyncio, "
            "time.sleep, heavy computing), or the machine itself; no client was ended for it"
        )
        self.log.emit(events.LOOP_BLOCKED, {"blocked_s": round(seconds, 1), "hint": hint})

    def drain_started(self, sessions: int, over: float) -> None:
        """The server sends its clients away."""
        self.log.emit(events.DRAIN_STARTED, {"sessions": sessions, "over_s": over})

    def drain_finished(self, ended: int, duration: float) -> None:
        """All clients have been sent away."""
        self.log.emit(events.DRAIN_FINISHED, {"ended": ended, "duration_s": round(duration, 3)})

    def _fields(self, connection: Connection) -> dict[str, Any]:
        if not connection.log_fields:
            connection.bind_log_fields(self.log_claims)
        session, identity = connection.session, connection.identity
        return {
            **connection.log_fields,
            **_known(
                credential=identity.credential,
                issuer=_text(identity.issuer),
                token_id=_text(identity.token_id, 128),
                key_id=_text(identity.key_id, 128),
            ),
            "session": session.digest,
            "client_address": session.client_address,
            **_known(user_agent=session.user_agent, origin=session.origin),
            "transport": session.transport,
            "duration_s": round(connection.duration, 3),
        }


def _why(refusal: Refusal, ref: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"reason": refusal.code.value, "detail": refusal.detail}
    fields |= _known(**refusal.fields) | _known(ref=ref or None)
    fields["message"] = refusal.reply.message
    if refusal.error is not None:
        fields["error"] = type(refusal.error).__name__
    return fields


def _session_fields(session: Session) -> dict[str, Any]:
    fields = {"session": session.digest, "client_address": session.client_address, "transport": session.transport}
    return fields | _known(user_agent=_text(session.user_agent))


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: str | None, limit: int = 256) -> str | None:
    return None if value is None else neutralise(value, limit)
