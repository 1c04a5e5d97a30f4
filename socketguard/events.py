"""The vocabulary of the log: event names, levels and field names. This module is pure.

Event names have no dynamic parts, so that they can be counted and searched (OpenTelemetry, "Events": an event name
must not hold dynamic values). What varies is in the fields.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType

from .check import names
from .errors import ConfigurationError

__all__ = [
    "ACCEPTED",
    "CLOSED",
    "CONFIG_WARNING",
    "DRAIN_FINISHED",
    "DRAIN_STARTED",
    "EMIT_UNDELIVERED",
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
