"""The vocabulary of the log: event names, levels and field names. This module is pure.

Event names have no dynamic parts, so that they can be counted and searched (OpenTelemetry, "Events": an event name
must not hold dynamic values). What varies is in the fields.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from socketguard.check import names
from socketguard.errors import REPLIES, ConfigurationError, RejectCode
from socketguard.text import neutralise

__all__ = [
    "ACCEPTED",
    "CLOSED",
    "CONFIG_WARNING",
    "DRAIN_FINISHED",
    "DRAIN_STARTED",
    "EMIT_UNDELIVERED",
    "EVENT_REASONS",
    "EVENT_REJECTED",
    "EVENT_UNHANDLED",
    "HANDLER_FAILED",
    "HANDSHAKE_REJECTED",
    "KEYS_REFRESHED",
    "KEYS_UNAVAILABLE",
    "LEVELS",
    "PACKET_REJECTED",
    "PATTERN",
    "REFRESHED",
    "REFRESH_REJECTED",
    "REJECTED",
    "RESERVED_FIELDS",
    "SCHEMA_VERSION",
    "SESSION_ENDED",
    "STARTED",
    "STORE_RECOVERED",
    "STORE_UNAVAILABLE",
    "SUBJECT_DISCONNECTED",
    "TOKEN_EXPIRING",
    "TOKEN_REVOKED",
    "UPGRADED",
    "UPGRADE_FAILED",
    "check_log_claims",
    "sentence",
]

SCHEMA_VERSION = 1
"""Goes up when an event or a field is renamed, removed or changes its meaning; additions don't count."""

STARTED = "socketguard.started"
CONFIG_WARNING = "socketguard.config.warning"
HANDSHAKE_REJECTED = "socketguard.handshake.rejected"
ACCEPTED = "socketguard.connection.accepted"
REJECTED = "socketguard.connection.rejected"
UPGRADED = "socketguard.transport.upgraded"
UPGRADE_FAILED = "socketguard.transport.upgrade_failed"
CLOSED = "socketguard.connection.closed"
PACKET_REJECTED = "socketguard.packet.rejected"
"""python-socketio could not process a packet of the client; the session was ended."""
HANDLER_FAILED = "socketguard.handler.failed"
"""A handler of the application raised."""
EVENT_REJECTED = "socketguard.event.rejected"
"""An event of a client was not dispatched: see `SocketGuard.requires`."""
EVENT_UNHANDLED = "socketguard.event.unhandled"
"""A client sent an event for which there is no handler, or before it had joined."""
EMIT_UNDELIVERED = "socketguard.emit.undelivered"
"""The application emitted to nobody."""
PATTERN = "socketguard.traffic.pattern"
"""What no single session shows began to stand, or has ended; see `socketguard.patterns`."""
SESSION_ENDED = "socketguard.session.ended"
"""The guard ended a whole Engine.IO session."""
TOKEN_EXPIRING = "socketguard.token.expiring"
REFRESHED = "socketguard.token.refreshed"
REFRESH_REJECTED = "socketguard.token.refresh_rejected"
TOKEN_REVOKED = "socketguard.token.revoked"
"""Somebody called `SocketGuard.revoke`."""
SUBJECT_DISCONNECTED = "socketguard.subject.disconnected"
"""Somebody called `SocketGuard.disconnect`."""
KEYS_REFRESHED = "socketguard.keys.refreshed"
KEYS_UNAVAILABLE = "socketguard.keys.unavailable"
STORE_UNAVAILABLE = "socketguard.store.unavailable"
STORE_RECOVERED = "socketguard.store.recovered"
DRAIN_STARTED = "socketguard.drain.started"
DRAIN_FINISHED = "socketguard.drain.finished"

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        STARTED: logging.INFO,
        CONFIG_WARNING: logging.WARNING,
        HANDSHAKE_REJECTED: logging.WARNING,
        ACCEPTED: logging.INFO,
        REJECTED: logging.WARNING,
        UPGRADED: logging.INFO,
        UPGRADE_FAILED: logging.WARNING,
        CLOSED: logging.INFO,
        PACKET_REJECTED: logging.WARNING,
        HANDLER_FAILED: logging.ERROR,
        EVENT_REJECTED: logging.WARNING,
        EVENT_UNHANDLED: logging.WARNING,
        PATTERN: logging.WARNING,
        EMIT_UNDELIVERED: logging.WARNING,
        SESSION_ENDED: logging.WARNING,
        TOKEN_EXPIRING: logging.DEBUG,
        REFRESHED: logging.INFO,
        REFRESH_REJECTED: logging.WARNING,
        TOKEN_REVOKED: logging.INFO,
        SUBJECT_DISCONNECTED: logging.INFO,
        KEYS_REFRESHED: logging.INFO,
        KEYS_UNAVAILABLE: logging.ERROR,
        STORE_UNAVAILABLE: logging.ERROR,
        STORE_RECOVERED: logging.INFO,
        DRAIN_STARTED: logging.INFO,
        DRAIN_FINISHED: logging.INFO,
    }
)

_OWN_FIELDS = """
    reason detail ref namespace sid session subject issuer token_id key_id log_claims client_address user_agent origin
    transport duration_s packets_in events_in suppressed summary hint message requested registered suggestion cause
    expected received claim error id text fix configuration schema_version status host handler part source limit limit_s
    lifetime_s expired_s valid_in_s required missing hidden_reason hidden_detail retry_after refreshes expires_in_s
    selector until ended sessions over_s url keys key_ids serving event_name fail_open previous ignored serving_s
    app_message algorithm room members connections
    proxies pattern stands after_s cuts interval_s timeout_s count of living workers
"""
# What structlog and its processors give a meaning of their own, and the parameter names of its logging methods (a
# keyword of that name would be a TypeError there).
_STRUCTLOG_FIELDS = """
    event level timestamp logger logger_name exc_info exception stack stack_info stacklevel positional_args
    self method_name _record _from_structlog _logger _name
"""

RESERVED_FIELDS = frozenset(_OWN_FIELDS.split() + _STRUCTLOG_FIELDS.split())
"""Names that no claim may take in a log line."""


def check_log_claims(claims: Collection[str]) -> tuple[str, ...]:
    """Validate the ``log_claims`` option.

    Args:
        claims: the claims that are to stand in the log lines; ``"sub"`` is the subject.

    Returns:
        The names, each once, in the order given.

    Raises:
        ConfigurationError: it is no list of claim names, or a name is taken by another field.
    """
    checked = names(claims, "log_claims", example='("sub",)')
    for name in checked:
        if name in RESERVED_FIELDS:
            raise ConfigurationError(
                f"log_claims can't hold {name!r}: a log line already has a field of that name"
                + (' (for the subject write "sub")' if name == "subject" else ""),
                option="log_claims",
            )
    return checked


EVENT_REASONS = frozenset({"event_unhandled", "event_too_early"})
"""Why an event of a client reaches nobody."""


_Fields = Mapping[str, Any]
_MESSAGES: Mapping[str, str] = {code.value: reply.message for code, reply in REPLIES.items()}
_NAMES_SHOWN = 10


def _text(value: Any, limit: int = 256) -> str:
    return neutralise(str(value), limit)


def _quoted(value: Any) -> str:
    # The quote is escaped, so that a client can't end the quotation and go on in the words of the log.
    return "'" + _text(value).replace("'", "\\'") + "'"


def _quoted_list(values: Any) -> str:
    names = [values] if isinstance(values, str) else list(values or ())
    if not names:
        return "none"
    shown = ", ".join(_quoted(name) for name in names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def _counted(count: Any, noun: str) -> str:
    return f"{_text(count)} {noun}" + ("" if count == 1 else "s")


def _details(fields: _Fields) -> list[str]:
    found = []
    if fields.get("expired_s") is not None:
        found.append(f"expired {_text(fields['expired_s'])} s ago")
    elif fields.get("valid_in_s") is not None:
        found.append(f"valid in {_text(fields['valid_in_s'])} s")
    elif fields.get("detail") is not None:
        found.append(_text(fields["detail"]))
    for key in ("claim", "part", "source", "limit", "expected", "received", "required", "missing", "handler"):
        value = fields.get(key)
        if value is not None:
            found.append(f"{key} {_quoted_list(value) if isinstance(value, list | tuple) else _quoted(value)}")
    if fields.get("error") is not None:
        found.append(_text(fields["error"]))
    return found


def _whose(fields: _Fields, *keys: str) -> str:
    """Who it was, as a list that begins with a comma: for the end of a sentence."""
    labels = {"client_address": "client", "status": "HTTP status"}
    plain = {"client_address", "ref", "status", "session"}
    found = [
        f"{labels.get(key, key)} {_text(fields[key]) if key in plain else _quoted(fields[key])}"
        for key in keys
        if fields.get(key) is not None
    ]
    return "".join(f", {one}" for one in found)


def _subject(fields: _Fields) -> str:
    return "anonymous" if fields.get("subject") is None else f"subject {_quoted(fields['subject'])}"


def _why(fields: _Fields) -> str:
    """The public text of the reason, then the reason and its details in brackets."""
    reason = fields.get("reason")
    reason_text = "unknown reason" if reason is None else _text(reason)
    message = _text(fields.get("message") or _MESSAGES.get(reason_text, reason_text))
    details = _details(fields)
    if message == reason_text:
        return message + (f" ({', '.join(details)})" if details else "")
    return f"{message} ({': '.join([reason_text, ', '.join(details)]) if details else reason_text})"


def _hint(fields: _Fields) -> str:
    return "" if fields.get("hint") is None else ". " + _text(fields["hint"], 1024)


def _started(fields: _Fields) -> str:
    configuration = fields.get("configuration")
    if not isinstance(configuration, Mapping):
        return "socketguard has started"
    settings = "; ".join(f"{_text(name)}: {_text(value, 512)}" for name, value in configuration.items())
    return f"socketguard has started with {settings}"


def _config_warning(fields: _Fields) -> str:
    text = _text(fields.get("text", "something in the configuration needs a look"), 1024).rstrip(".")
    fix = "" if fields.get("fix") is None else ". " + _text(fields["fix"], 1024)
    return f"{_text(fields.get('id', 'SG000'))}: {text}{fix}"


def _handshake_rejected(fields: _Fields) -> str:
    whose = _whose(fields, "origin", "client_address", "status", "ref")
    return f"Refused a handshake: {_why(fields)}{whose}{_hint(fields)}"


def _accepted(fields: _Fields) -> str:
    client = f" from {_text(fields['client_address'])}" if fields.get("client_address") is not None else ""
    transport = f" over {_text(fields['transport'])}" if fields.get("transport") is not None else ""
    return f"Joined {_quoted(fields.get('namespace', '/'))}: {_subject(fields)}{client}{transport}"


def _invalid_namespace(fields: _Fields) -> str:
    text = _text(fields.get("message") or _MESSAGES[RejectCode.INVALID_NAMESPACE.value])
    text += f": asked {_quoted(fields['requested'])}, registered {_quoted_list(fields.get('registered'))}"
    if fields.get("suggestion") is not None:
        text += f"; did you mean {_quoted(fields['suggestion'])}?"
        text += "" if fields.get("hint") is None else " " + _text(fields["hint"], 1024)
    else:
        text += _hint(fields) or (f" ({_text(fields['cause'])})" if fields.get("cause") is not None else "")
    whose = _whose(fields, "client_address", "ref")
    return text + (f" ({whose[2:]})" if whose else "")


def _rejected(fields: _Fields) -> str:
    if fields.get("reason") == RejectCode.INVALID_NAMESPACE and fields.get("requested") is not None:
        return _invalid_namespace(fields)
    whose = _whose(fields, "subject", "client_address", "ref")
    return f"Refused {_quoted(fields.get('namespace', '/'))}: {_why(fields)}{whose}{_hint(fields)}"


def _upgraded(fields: _Fields) -> str:
    return f"Upgraded to {_text(fields.get('transport', 'websocket'))}{_whose(fields, 'session', 'client_address')}"


def _upgrade_failed(fields: _Fields) -> str:
    why = _why(fields) if fields.get("reason") is not None else ", ".join(_details(fields)) or "no reason known"
    return f"The upgrade to WebSocket failed: {why}{_whose(fields, 'session', 'client_address')}{_hint(fields)}"


def _closed(fields: _Fields) -> str:
    duration = fields.get("duration_s")
    text = f"Left {_quoted(fields.get('namespace', '/'))}: {_subject(fields)}"
    text += "" if duration is None else f" after {float(duration):.1f} s"
    text += f" over {_text(fields['transport'])}" if fields.get("transport") is not None else ""
    text += f", reason {_quoted(fields['reason'])}" if fields.get("reason") is not None else ""
    packets, events = fields.get("packets_in"), fields.get("events_in")
    if packets is not None and events is not None:
        text += f", {_counted(packets, 'packet')} and {_counted(events, 'event')} in"
    return text


def _packet_rejected(fields: _Fields) -> str:
    why = ", ".join(_details(fields)) or _text(fields.get("reason", "no reason known"))
    whose = _whose(fields, "namespace", "subject", "client_address", "session", "ref")
    return f"Ended a session that sent a packet which can't be processed: {why}{whose}{_hint(fields)}"


def _event_rejected(fields: _Fields) -> str:
    whose = _whose(fields, "subject", "client_address")
    where = f"{_quoted(fields.get('event_name'))} in {_quoted(fields.get('namespace', '/'))}"
    return f"Refused the event {where}: {_why(fields)}{whose}{_hint(fields)}"


def _undelivered(what: str) -> Callable[[_Fields], str]:
    def build(fields: _Fields) -> str:
        where = f"{_quoted(fields.get('event_name'))} in {_quoted(fields.get('namespace', '/'))}"
        room = "" if fields.get("room") is None else f" to {_quoted(fields['room'])}"
        meant = "" if fields.get("suggestion") is None else f"; did you mean {_quoted(fields['suggestion'])}?"
        hint = _hint(fields)
        if meant:
            hint = hint.removeprefix(".")  # The question ends the sentence.
        return f"{what} {where}{room}: {_text(fields.get('reason', 'no reason known'))}{meant}{hint}"

    return build


def _pattern(fields: _Fields) -> str:
    name = _text(fields.get("pattern", "unknown"))
    if not fields.get("stands"):
        return f"No longer so: {name}"
    fix = "" if fields.get("fix") is None else ". " + _text(fields["fix"], 1024)
    return f"{_text(fields.get('text', name), 1024).rstrip('.')}{fix}"


def _session_ended(fields: _Fields) -> str:
    whose = _whose(fields, "client_address", "session")
    reason = _text(fields.get("reason", "no reason known"))
    return f"Ended a session: {reason}{whose}{_hint(fields)}"


def _token_expiring(fields: _Fields) -> str:
    seconds = _text(fields.get("expires_in_s"))
    return f"Token expires in {seconds} s in {_quoted(fields.get('namespace', '/'))}: {_subject(fields)}"


def _refreshed(fields: _Fields) -> str:
    seconds = fields.get("expires_in_s")
    until = "" if seconds is None else f", now for {_text(seconds)} s"
    return f"Refreshed the token in {_quoted(fields.get('namespace', '/'))}: {_subject(fields)}{until}"


def _refresh_rejected(fields: _Fields) -> str:
    whose = _whose(fields, "subject", "client_address", "ref")
    return f"Refused to refresh the token in {_quoted(fields.get('namespace', '/'))}: {_why(fields)}{whose}"


def _failure(fields: _Fields) -> str:
    error = fields.get("error")
    return "" if error is None else f"; the store failed ({_text(error)}), so that it may be forgotten"


def _selected(done: str) -> Callable[[_Fields], str]:
    def build(fields: _Fields) -> str:
        whom = ", ".join(f"{_text(name)} {_quoted(value)}" for name, value in dict(fields["selector"]).items())
        until = "" if fields.get("until") is None else f", kept until {_text(fields['until'])}"
        return f"{done} {whom}: {_counted(fields.get('ended', 0), 'connection')} ended{until}{_failure(fields)}"

    return build


def _keys_refreshed(fields: _Fields) -> str:
    return f"Fetched keys from {_text(fields.get('url'))}: {_quoted_list(fields.get('key_ids'))}"


def _keys_unavailable(fields: _Fields) -> str:
    serving = "the old keys serve on" if fields.get("serving") == "stale" else "nobody can be verified"
    why = _text(fields.get("reason", "no reason known"), 512)
    return f"Can't fetch keys from {_text(fields.get('url'))}, {serving}: {why}{_hint(fields)}"


def _store_unavailable(fields: _Fields) -> str:
    effect = "tokens are accepted unchecked" if fields.get("fail_open") else "clients are refused"
    why = ", ".join(_details(fields)) or "no reason known"
    return f"The store of revocations does not answer, {effect}: {why}"


def _store_recovered(fields: _Fields) -> str:
    return "The store of revocations answers again"


def _drain_started(fields: _Fields) -> str:
    return f"Draining {_counted(fields.get('sessions', 0), 'session')} over {_text(fields.get('over_s', 0))} s"


def _drain_finished(fields: _Fields) -> str:
    return f"Drained {_counted(fields.get('ended', 0), 'session')} in {_text(fields.get('duration_s', 0))} s"


def _handler_failed(fields: _Fields) -> str:
    why = ", ".join(_details(fields)) or "an exception"
    whose = _whose(fields, "subject", "client_address", "ref")
    return (
        f"A handler of the application failed in {_quoted(fields.get('namespace', '/'))}: {why}{whose}{_hint(fields)}"
    )


_SENTENCES: Mapping[str, Callable[[_Fields], str]] = {
    STARTED: _started,
    CONFIG_WARNING: _config_warning,
    HANDSHAKE_REJECTED: _handshake_rejected,
    ACCEPTED: _accepted,
    REJECTED: _rejected,
    UPGRADED: _upgraded,
    UPGRADE_FAILED: _upgrade_failed,
    CLOSED: _closed,
    PACKET_REJECTED: _packet_rejected,
    HANDLER_FAILED: _handler_failed,
    EVENT_REJECTED: _event_rejected,
    EVENT_UNHANDLED: _undelivered("Nobody handles the event"),
    EMIT_UNDELIVERED: _undelivered("Nobody gets the event"),
    PATTERN: _pattern,
    SESSION_ENDED: _session_ended,
    TOKEN_EXPIRING: _token_expiring,
    REFRESHED: _refreshed,
    REFRESH_REJECTED: _refresh_rejected,
    TOKEN_REVOKED: _selected("Revoked"),
    SUBJECT_DISCONNECTED: _selected("Disconnected"),
    KEYS_REFRESHED: _keys_refreshed,
    KEYS_UNAVAILABLE: _keys_unavailable,
    STORE_UNAVAILABLE: _store_unavailable,
    STORE_RECOVERED: _store_recovered,
    DRAIN_STARTED: _drain_started,
    DRAIN_FINISHED: _drain_finished,
}


def _suppressed(fields: _Fields) -> str:
    count = fields.get("suppressed")
    if not count:
        return ""
    were = "was" if count == 1 else "were"
    if fields.get("summary"):
        return f"; {_text(count)} like this {were} not logged, this one being the last"
    return f"; {_text(count)} more like this {were} not logged"


def sentence(event: str, fields: Mapping[str, Any]) -> str:
    """An event as an English sentence, for hosts whose log shows nothing but a message (``logging.basicConfig``).

    Args:
        event: one of the names of this module; of any other, name and fields are listed.
        fields: the fields of the event. Fields that are absent or None are left out.

    Returns:
        One line. When the fields can't be shown, the event name alone: it never raises.
    """
    try:
        build = _SENTENCES.get(event)
        if build is not None:
            text = build(fields)
        else:
            listed = ", ".join(f"{_text(name)} {_quoted(value)}" for name, value in fields.items())
            text = f"{_text(event)}: {listed}" if listed else _text(event)
        return text + _suppressed(fields)
    except Exception:  # whatever a field's own __str__ does, the line must come out
        return event
