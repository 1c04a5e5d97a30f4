"""What a host application adds to its own log lines: the connection of the handler that writes them."""

from __future__ import annotations

import logging
from collections.abc import Collection, MutableMapping
from typing import Any

import structlog

from socketguard.connection import bound_connection
from socketguard.errors import ConfigurationError

from .events import check_log_claims
from .redact import RECORD_ATTRIBUTES
from .sink import line_of, write_line

__all__ = ["ConnectionFilter", "add_connection", "configure"]


def add_connection(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that says who is connected, on every line written inside a Socket.IO handler.

    It adds ``sid``, ``namespace``, ``subject`` and the ``log_claims``, and never replaces a key that is there.

    Args:
        logger: not used.
        method_name: not used.
        event_dict: the line.

    Returns:
        ``event_dict``.
    """
    connection = bound_connection.get()
    if connection is not None:
        for name, value in connection.log_fields.items():
            event_dict.setdefault(name, value)
    return event_dict


class ConnectionFilter(logging.Filter):
    """The twin of `add_connection` for the stdlib: put it on a *handler*.

    Records get the attributes ``sid``, ``namespace`` and ``subject``, and one per log claim under its own name, or as
    ``claim_<name>`` where `logging.LogRecord` has an attribute of that name (``name``, ``module`` …). Those three, and
    the claims named here, are ``-`` outside handlers, so that a format such as ``%(sid)s`` never fails.
    """

    def __init__(self, log_claims: Collection[str] = ()) -> None:
        """
        Args:
            log_claims: the claims that the format string uses.

        Raises:
            ConfigurationError: as for the option ``log_claims`` of the guard.
        """
        super().__init__()
        claims = [name for name in check_log_claims(log_claims) if name != "sub"]
        self._defaults = {self._attribute(name): "-" for name in ("sid", "namespace", "subject", *claims)}

    @staticmethod
    def _attribute(name: str) -> str:
        return f"claim_{name}" if name in RECORD_ATTRIBUTES else name

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes; no record is dropped."""
        attributes = record.__dict__
        connection = bound_connection.get()
        if connection is not None:
            for name, value in connection.log_fields.items():
                attributes.setdefault(self._attribute(name), value)
        for name, value in self._defaults.items():
            attributes.setdefault(name, value)
        return True


class _Stderr:
    """What structlog calls a logger: takes the rendered line."""

    def __init__(self, *_: Any) -> None: ...

    def msg(self, line: str) -> None:
        write_line(line)

    log = debug = info = warn = warning = error = critical = fatal = exception = msg


def configure(*, level: str | int = "INFO", json: bool | None = None) -> None:
    """Configure structlog so that an app's own lines look like those of the guard: a one-liner for small apps.

    Lines go to stderr. Inside Socket.IO handlers they get ``sid``, ``namespace``, ``subject`` and the log claims.

    Args:
        level: the lowest level that is written, by name or number.
        json: True for one JSON object per line, False for coloured and aligned text, None for JSON unless stderr is a
            terminal.

    Raises:
        ConfigurationError: ``level`` is none of DEBUG, INFO, WARNING, ERROR, CRITICAL or their numbers.
    """
    numbers = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
    number = numbers.get(level.upper(), -1) if isinstance(level, str) else level
    if number not in numbers.values():
        raise ConfigurationError(f"level must be one of {', '.join(numbers)}, not {level!r}", option="level")

    def render(_: Any, __: str, event_dict: MutableMapping[str, Any]) -> str:
        head = {name: event_dict.pop(name) for name in ("timestamp", "level", "event") if name in event_dict}
        return line_of({**head, **event_dict}, json)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_connection,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        context_class=dict,
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )
