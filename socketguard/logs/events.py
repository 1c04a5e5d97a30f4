"""The vocabulary of the log: one row for each event, with its name, its level and its sentence. This module is pure.

Event names have no dynamic parts, so that they can be counted and searched (OpenTelemetry, "Events": an event name
must not hold dynamic values). What varies is in the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from logging import DEBUG, ERROR, INFO, WARNING
from types import MappingProxyType
from typing import Any, NamedTuple

from socketguard.check import names
from socketguard.errors import REPLIES, ConfigurationError, RejectCode
from socketguard.text import neutralise

SCHEMA_VERSION = 1
"""Goes up when an event or a field is renamed, removed or changes its meaning; additions don't count."""

EVENT_REASONS = frozenset({"event_unhandled", "event_too_early"})
"""Why an event of a client reaches nobody."""

_OWN_FIELDS = """
    reason detail ref namespace sid session subject issuer token_id key_id log_claims client_address user_agent origin
    transport duration_s packets_in events_in suppressed summary hint message requested registered suggestion cause
    expected received claim error id text fix configuration schema_version status host handler part source limit limit_s
    lifetime_s expired_s valid_in_s required missing hidden_reason hidden_detail retry_after refreshes expires_in_s
    selector until ended sessions over_s url keys key_ids serving event_name fail_open previous ignored serving_s
    app_message algorithm room members connections
    proxies pattern stands blocked_s after_s cuts interval_s timeout_s count of living workers credential
"""
# What structlog and its processors give a meaning of their own, and the parameter names of its logging methods (a
# keyword of that name would be a TypeError there).
_OF_STRUCTLOG = """
    event level timestamp logger logger_name exc_info exception stack stack_info stacklevel positional_args
    self method_name _record _from_structlog _logger _name
"""

STRUCTLOG_FIELDS = frozenset(_OF_STRUCTLOG.split())
RESERVED_FIELDS = STRUCTLOG_FIELDS.union(_OWN_FIELDS.split())
"""Names that no claim may take in a log line."""


def check_log_claims(claims: Collection[str]) -> tuple[str, ...]:
    """The ``log_claims`` option, each name once; a `ConfigurationError` where a name is taken by another field."""
    checked = names(claims, "log_claims", example='("sub",)')
    for name in checked:
        if name in RESERVED_FIELDS:
            raise ConfigurationError(
                f"log_claims can't hold {name!r}: a log line already has a field of that name"
                + (' (for the subject write "sub")' if name == "subject" else ""),
                option="log_claims",
            )
    return checked


# --- the parts of a sentence -----------------------------------------------------------------------------------------

_MESSAGES: Mapping[str, str] = {code.value: reply.message for code, reply in REPLIES.items()}
_NAMES_SHOWN = 10
_DETAILS = ("claim", "part", "source", "limit", "expected", "received", "required", "missing", "handler", "app_message")
_LABELS = {"client_address": "client", "status": "HTTP status"}
_UNQUOTED = frozenset({"client_address", "ref", "status", "session"})


def _text(value: Any, limit: int = 256) -> str:
    return neutralise(str(value), limit)


def _quoted(value: Any) -> str:
    # The quote is escaped, so that a client can't end the quotation and go on in the words of the log.
    return "'" + _text(value).replace("'", "\\'") + "'"


def _quoted_list(values: Any) -> str:
    listed = [values] if isinstance(values, str) else list(values or ())
    if not listed:
        return "none"
    shown = ", ".join(_quoted(name) for name in listed[:_NAMES_SHOWN])
    return shown + (f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else "")


class _Fields:
    """The fields of an event, as parts of a sentence; what is absent or None is left out."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.all = fields

    def text(self, name: str, default: str = "", limit: int = 256) -> str:
        value = self.all.get(name)
        return default if value is None else _text(value, limit)

    def quoted(self, name: str, default: str | None = None) -> str:
        value = self.all.get(name)
        return _quoted(default if value is None else value)

    def part(self, before: str, name: str, limit: int = 256) -> str:
        return before + self.text(name, limit=limit) if self.all.get(name) is not None else ""

    def quoted_part(self, before: str, name: str) -> str:
        return before + self.quoted(name) if self.all.get(name) is not None else ""

    def count(self, name: str, noun: str) -> str:
        number = self.all.get(name, 0)
        return f"{_text(number)} {noun}" + ("" if number == 1 else "s")

    def whose(self, *keys: str) -> str:
        """Who it was, as a list that begins with a comma: for the end of a sentence."""
        parts = ((f", {_LABELS.get(key, key)} ", key) for key in keys)
        return "".join(self.part(*each) if each[1] in _UNQUOTED else self.quoted_part(*each) for each in parts)

    @property
    def namespace(self) -> str:
        return self.quoted("namespace", "/")

    @property
    def subject(self) -> str:
        return self.quoted_part("subject ", "subject") or "anonymous"

    @property
    def hint(self) -> str:
        return self.part(". ", "hint", 1024)

    @property
    def details(self) -> str:
        if self.all.get("expired_s") is not None:
            found = [f"expired {self.text('expired_s')} s ago"]
        elif self.all.get("valid_in_s") is not None:
            found = [f"valid in {self.text('valid_in_s')} s"]
        else:
            found = [self.text("detail")]
        for key in _DETAILS:
            value = self.all.get(key)
            if value is not None:
                found.append(f"{key} {_quoted_list(value) if isinstance(value, list | tuple) else _quoted(value)}")
        return ", ".join(part for part in [*found, self.text("error")] if part)

    @property
    def why(self) -> str:
        """The public text of the reason, then the reason and its details in brackets."""
        reason, details = self.text("reason", "unknown reason"), self.details
        message = _text(self.all.get("message") or _MESSAGES.get(reason, reason))
        if message != reason:
            details = f"{reason}: {details}" if details else reason
        return f"{message} ({details})" if details else message


# --- sentences that are more than a row ------------------------------------------------------------------------------


def _started(f: _Fields) -> str:
    configuration = f.all.get("configuration")
    if not isinstance(configuration, Mapping):
        return "socketguard has started"
    # The whole of it is in the fields; nobody reads forty settings in a sentence.
    listed = configuration.get("namespaces") or ()
    namespaces = _quoted_list([each.get("name") if isinstance(each, Mapping) else each for each in listed])
    checked = "" if configuration.get("auth") is not None else "; no token is checked"
    return (
        f"socketguard has started: namespaces {namespaces}; paths {_quoted_list(configuration.get('paths'))}{checked}"
    )


def _rejected(f: _Fields) -> str:
    if f.all.get("reason") != RejectCode.INVALID_NAMESPACE or f.all.get("requested") is None:
        return f"Refused {f.namespace}: {f.why}{f.whose('subject', 'client_address', 'ref')}{f.hint}"
    text = _text(f.all.get("message") or _MESSAGES[RejectCode.INVALID_NAMESPACE.value])
    text += f": asked {f.quoted('requested')}, registered {_quoted_list(f.all.get('registered'))}"
    if f.all.get("suggestion") is not None:
        text += f"; did you mean {f.quoted('suggestion')}?{f.part(' ', 'hint', 1024)}"
    else:
        text += f.hint or (f"{f.part(' (', 'cause')})" if f.all.get("cause") is not None else "")
    whose = f.whose("client_address", "ref")
    return text + (f" ({whose[2:]})" if whose else "")


def _upgrade_failed(f: _Fields) -> str:
    why = f.why if f.all.get("reason") is not None else f.details or "no reason known"
    return f"The upgrade to WebSocket failed: {why}{f.whose('session', 'client_address')}{f.hint}"


def _closed(f: _Fields) -> str:
    duration = f.all.get("duration_s")
    text = f"Left {f.namespace}: {f.subject}" + ("" if duration is None else f" after {float(duration):.1f} s")
    text += f.part(" over ", "transport") + f.quoted_part(", reason ", "reason")
    if f.all.get("packets_in") is not None and f.all.get("events_in") is not None:
        text += f", {f.count('packets_in', 'packet')} and {f.count('events_in', 'event')} in"
    return text


def _undelivered(f: _Fields) -> str:
    text = f"{f.quoted('event_name')} in {f.namespace}{f.quoted_part(' to ', 'room')}"
    text += f": {f.text('reason', 'no reason known')}"
    if f.all.get("suggestion") is None:
        return text + f.hint
    # The question ends the sentence.
    return f"{text}; did you mean {f.quoted('suggestion')}?{f.part(' ', 'hint', 1024)}"


def _pattern(f: _Fields) -> str:
    name = f.text("pattern", "unknown")
    if not f.all.get("stands"):
        return f"No longer so: {name}"
    return f.text("text", name, 1024).rstrip(".") + f.part(". ", "fix", 1024)


def _selected(f: _Fields) -> str:
    whom = ", ".join(f"{_text(name)} {_quoted(value)}" for name, value in dict(f.all["selector"]).items())
    text = f"{whom}: {f.count('ended', 'connection')} ended{f.part(', kept until ', 'until')}"
    if f.all.get("error") is not None:
        text += f"; the store failed ({f.text('error')}), so that it may be forgotten"
    return text


# --- the events ------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """One event of the log."""

    level: int
    sentence: Callable[[_Fields], str]


_events: dict[str, Event] = {}

EVENTS: Mapping[str, Event] = MappingProxyType(_events)
"""All events by name."""


def _event(name: str, level: int, sentence: Callable[[_Fields], str]) -> str:
    _events[name] = Event(level, sentence)
    return name


STARTED = _event("socketguard.started", INFO, _started)
CONFIG_WARNING = _event(
    "socketguard.config.warning",
    WARNING,
    lambda f: (
        f"{f.text('id', 'SG000')}: {f.text('text', 'something in the configuration needs a look', 1024).rstrip('.')}"
        f"{f.part('. ', 'fix', 1024)}"
    ),
)
HANDSHAKE_REJECTED = _event(
    "socketguard.handshake.rejected",
    WARNING,
    lambda f: f"Refused a handshake: {f.why}{f.whose('origin', 'client_address', 'status', 'ref')}{f.hint}",
)
ACCEPTED = _event(
    "socketguard.connection.accepted",
    INFO,
    lambda f: f"Joined {f.namespace}: {f.subject}{f.part(' from ', 'client_address')}{f.part(' over ', 'transport')}",
)
REJECTED = _event("socketguard.connection.rejected", WARNING, _rejected)
WOULD_REJECT = _event("socketguard.connection.would_reject", WARNING, lambda f: f"Only reported: {_rejected(f)}")
WOULD_END = _event(
    "socketguard.connection.would_end",
    WARNING,
    lambda f: (
        f"Would have ended {f.namespace}: {f.text('reason', 'no reason known')}, {f.subject}"
        f"{f.whose('client_address', 'session')}"
    ),
)
"""With ``report_only``: what a guard that refuses and ends would have done."""
UPGRADED = _event(
    "socketguard.transport.upgraded",
    DEBUG,
    lambda f: f"Upgraded to {f.text('transport', 'websocket')}{f.whose('session', 'client_address')}",
)
UPGRADE_FAILED = _event("socketguard.transport.upgrade_failed", WARNING, _upgrade_failed)
CLOSED = _event("socketguard.connection.closed", INFO, _closed)
PACKET_REJECTED = _event(
    "socketguard.packet.rejected",
    WARNING,
    lambda f: (
        "Ended a session that sent a packet which can't be processed: "
        f"{f.details or f.text('reason', 'no reason known')}"
        f"{f.whose('namespace', 'subject', 'client_address', 'session', 'ref')}{f.hint}"
    ),
)
"""python-socketio could not process a packet of the client; the session was ended."""
HANDLER_FAILED = _event(
    "socketguard.handler.failed",
    ERROR,
    lambda f: (
        f"A handler of the application failed in {f.namespace}: {f.details or 'an exception'}"
        f"{f.whose('subject', 'client_address', 'ref')}{f.hint}"
    ),
)
EVENT_REJECTED = _event(
    "socketguard.event.rejected",
    WARNING,
    lambda f: (
        f"Refused the event {f.quoted('event_name')} in {f.namespace}: {f.why}"
        f"{f.whose('subject', 'client_address')}{f.hint}"
    ),
)
"""An event of a client was not dispatched: see `SocketGuard.requires`."""
EVENT_UNHANDLED = _event(
    "socketguard.event.unhandled", WARNING, lambda f: f"Nobody handles the event {_undelivered(f)}"
)
"""A client sent an event for which there is no handler, or before it had joined."""
EMIT_UNDELIVERED = _event("socketguard.emit.undelivered", WARNING, lambda f: f"Nobody gets the event {_undelivered(f)}")
PATTERN = _event("socketguard.traffic.pattern", WARNING, _pattern)
"""What no single session shows began to stand, or has ended."""
SESSION_ENDED = _event(
    "socketguard.session.ended",
    WARNING,
    lambda f: f"Ended a session: {f.text('reason', 'no reason known')}{f.whose('client_address', 'session')}{f.hint}",
)
"""The guard ended a whole Engine.IO session."""
TOKEN_EXPIRING = _event(
    "socketguard.token.expiring",
    DEBUG,
    lambda f: f"Token expires in {f.text('expires_in_s', '?')} s in {f.namespace}: {f.subject}",
)
REFRESHED = _event(
    "socketguard.token.refreshed",
    INFO,
    lambda f: (
        f"Refreshed the token in {f.namespace}: {f.subject}"
        + (f"{f.part(', now for ', 'expires_in_s')} s" if f.all.get("expires_in_s") is not None else "")
    ),
)
REFRESH_REJECTED = _event(
    "socketguard.token.refresh_rejected",
    WARNING,
    lambda f: f"Refused to refresh the token in {f.namespace}: {f.why}{f.whose('subject', 'client_address', 'ref')}",
)
TOKEN_REVOKED = _event("socketguard.token.revoked", INFO, lambda f: f"Revoked {_selected(f)}")
SUBJECT_DISCONNECTED = _event("socketguard.subject.disconnected", INFO, lambda f: f"Disconnected {_selected(f)}")
KEYS_REFRESHED = _event(
    "socketguard.keys.refreshed",
    INFO,
    lambda f: f"Fetched keys from {f.text('url')}: {_quoted_list(f.all.get('key_ids'))}",
)
KEYS_UNAVAILABLE = _event(
    "socketguard.keys.unavailable",
    ERROR,
    lambda f: (
        f"Can't fetch keys from {f.text('url')}, "
        f"{'the old keys serve on' if f.all.get('serving') == 'stale' else 'nobody can be verified'}: "
        f"{f.text('reason', 'no reason known', 512)}{f.hint}"
    ),
)
CREDENTIAL_UNAVAILABLE = _event(
    "socketguard.credential.unavailable",
    ERROR,
    lambda f: (
        f"Nobody can tell whose a credential of kind {f.quoted('credential')} is: {f.text('error', 'unknown error')}; "
        "clients come back by themselves"
    ),
)
CREDENTIAL_RECOVERED = _event(
    "socketguard.credential.recovered",
    INFO,
    lambda f: f"Credentials of kind {f.quoted('credential')} are checked again",
)
USERS_UNAVAILABLE = _event(
    "socketguard.users.unavailable",
    ERROR,
    lambda f: (
        f"load_user can't tell who is there: {f.text('error', 'unknown error')}; who is connected goes on "
        "for a while, others come back"
    ),
)
USERS_RECOVERED = _event("socketguard.users.recovered", INFO, lambda f: "load_user finds users again")
STORE_UNAVAILABLE = _event(
    "socketguard.store.unavailable",
    ERROR,
    lambda f: (
        "The store of revocations does not answer, "
        f"{'tokens are accepted unchecked' if f.all.get('fail_open') else 'clients are refused'}: "
        f"{f.details or 'no reason known'}"
    ),
)
STORE_RECOVERED = _event("socketguard.store.recovered", INFO, lambda f: "The store of revocations answers again")
DRAIN_STARTED = _event(
    "socketguard.drain.started",
    INFO,
    lambda f: f"Draining {f.count('sessions', 'session')} over {f.text('over_s', '0')} s",
)
DRAIN_FINISHED = _event(
    "socketguard.drain.finished",
    INFO,
    lambda f: f"Drained {f.count('ended', 'session')} in {f.text('duration_s', '0')} s",
)
LOOP_BLOCKED = _event(
    "socketguard.loop_blocked",
    WARNING,
    lambda f: f"The event loop stood still for {f.text('blocked_s', '?')} s{f.hint}",
)


def sentence(event: str, fields: Mapping[str, Any]) -> str:
    """An event as an English sentence, for hosts whose log shows nothing but a message (``logging.basicConfig``).

    Of an event that isn't known, name and fields are listed. When the fields can't be shown, the event name alone: it
    never raises.
    """
    try:
        known = EVENTS.get(event)
        if known is not None:
            text = known.sentence(_Fields(fields))
        else:
            listed = ", ".join(f"{_text(name)} {_quoted(value)}" for name, value in fields.items())
            text = f"{_text(event)}: {listed}" if listed else _text(event)
        count = fields.get("suppressed")
        if not count:
            return text
        were = "was" if count == 1 else "were"
        if fields.get("summary"):
            return f"{text}; {_text(count)} like this {were} not logged, this one being the last"
        return f"{text}; {_text(count)} more like this {were} not logged"
    except Exception:  # whatever a field's own __str__ does, the line must come out
        return event
