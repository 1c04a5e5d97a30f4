"""Where the events go: the host's structlog, else the host's stdlib handlers, else stderr.

The library configures nobody's logging, and is never silent by accident: each event looks at what the host has set up
*then*, so a host may configure late. Emitting never raises.
"""

from __future__ import annotations

import contextlib
import functools
import json as jsonlib
import logging
import operator
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from socketguard.errors import ConfigurationError
from socketguard.text import neutralise

from .events import EVENTS, sentence
from .redact import RECORD_ATTRIBUTES, TRACEBACK_LIMIT, RedactFilter, traceback_text

__all__ = ["EventLog", "captured", "line_of", "write_line"]

_LOGGER_NAME = "socketguard"
_LEVEL_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
_METHODS = tuple(_LEVEL_NAMES.values())
# Keywords that structlog's logging methods have as parameters: in the fields they would be a TypeError.
_PARAMETERS = frozenset({"event", "self", "method_name"})
_TEXT_LIMIT = 2048

_captures: list[list[dict[str, Any]]] = []


@contextlib.contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """All events from now on, whatever logging is set up: a list of ``{"event": …, "level": …, **fields}``."""
    found: list[dict[str, Any]] = []
    _captures.append(found)
    try:
        yield found
    finally:
        _captures[:] = [other for other in _captures if other is not found]


# --- one line of text, as our own stderr and `configure` write it ----------------------------------------------------


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a value of the application, with whatever __repr__ it has
        text = f"<{type(value).__name__} without a repr>"
    return neutralise(text, _TEXT_LIMIT)


def _plain(value: object) -> object:
    """The value when JSON surely takes it, else its repr."""
    # The range leaves out NaN and infinities, which JSON has no words for, and integers that no reader could hold.
    number = isinstance(value, int | float) and -(2**63) <= value < 2**63
    return value if number or value is None or isinstance(value, str) else _repr(value)


def _json_line(record: Mapping[str, Any]) -> str:
    try:
        return jsonlib.dumps(record, default=_repr, allow_nan=False)
    except Exception:  # NaN, keys that are no strings, circles, integers beyond the digit limit
        return jsonlib.dumps({str(name): _plain(value) for name, value in record.items()})


@functools.cache
def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    try:
        return structlog.dev.ConsoleRenderer(0, colors=colors, sort_keys=False)
    except SystemError:  # colours on Windows need colorama
        return structlog.dev.ConsoleRenderer(colors=False, sort_keys=False)


def _console_line(record: Mapping[str, Any]) -> str:
    colors = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # ConsoleRenderer prints most strings as they are; a terminal obeys what is in them.
    safe = {neutralise(k, 64): neutralise(v, _TEXT_LIMIT) if isinstance(v, str) else v for k, v in record.items()}
    if (text := record.get("exception")) is not None:
        safe["exception"] = _lines(str(text), _TEXT_LIMIT)
    try:
        return str(_console(colors=colors)(None, "", dict(safe)))
    except Exception:  # a value of the application, with whatever __repr__ it has
        return str(_console(colors=colors)(None, "", {name: _plain(value) for name, value in safe.items()}))


def _lines(text: str, limit: int) -> str:
    return "\n".join(neutralise(line, limit) for line in text.split("\n"))


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def line_of(record: dict[str, Any], json: bool | None) -> str:
    """One line: JSON, or coloured and aligned for a terminal. ``json=None`` looks at what stderr is now."""
    if (text := traceback_text(record.pop("exc_info", None))) is not None:
        record["exception"] = text
    return _json_line(record) if json or (json is None and not _is_terminal()) else _console_line(record)


def write_line(line: str) -> None:
    """Write a line to stderr."""
    # Looked up for each line: test runners and servers replace sys.stderr.
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")


_REDACT = RedactFilter()


def told(error: BaseException) -> str:
    """The traceback of an error, as text: whoever has the object prints local variables, tokens and cookies too."""
    text = _REDACT.text(traceback_text(error) or "", limit=TRACEBACK_LIMIT + 1)
    return _lines(text, len(text))


# --- the three routes ------------------------------------------------------------------------------------------------


def _to_stdlib(logger: Any, level: int, event: str, fields: dict[str, Any], exception: str | None) -> None:
    if not logger.isEnabledFor(level):
        return
    message = sentence(event, fields)
    # Prefixed, because `name`, `message`, `args` and others are a KeyError in `extra`.
    extra = {f"socketguard.{name}": value for name, value in fields.items()}
    extra["socketguard.event"] = event
    options: MutableMapping[str, Any] = {"extra": extra, "stacklevel": 4}
    while isinstance(logger, logging.LoggerAdapter):
        # Done by hand because LoggerAdapter.process replaces `extra` by the adapter's own.
        message, options = logger.process(message, options)
        extra = {**extra, **(options.get("extra") or {})}
        options["extra"] = extra
        logger = logger.logger
    if exception is None:
        logger.log(level, message, **options)
        return
    # `exc_text` is what every formatter prints; there is no other way to give it.
    path, line, function, _ = logger.findCaller(stacklevel=4)
    record = logger.makeRecord(logger.name, level, path, line, message, (), None, function, options["extra"])
    record.exc_text = exception
    logger.handle(record)


def _to_structlog(method: Any, event: str, fields: dict[str, Any], exception: str | None) -> None:
    if exception is not None:
        fields = {**fields, "exception": exception}
    try:
        method(event, **fields)
    except TypeError:
        # A field with the name of a parameter; it fails before anything is written. Else it is the host's own failure.
        if _PARAMETERS.isdisjoint(fields):
            raise
        method(event, **{f"{name}_" if name in _PARAMETERS else name: value for name, value in fields.items()})
    except KeyError as error:
        # A host that ends its chain in structlog.stdlib.render_to_log_kwargs hands the fields to `extra`, where
        # `message` and others are refused before any handler has run. So the line can be given once more.
        if not str(error.args[0] if error.args else "").startswith("Attempt to overwrite"):
            raise
        method(event, **{f"socketguard.{k}" if k in RECORD_ATTRIBUTES else k: v for k, v in fields.items()})


def _to_stderr(level: int, event: str, fields: dict[str, Any], exception: str | None) -> None:
    # From INFO up, unless somebody has set the level of the logger, though no handler.
    if level < (logging.getLogger(_LOGGER_NAME).level or logging.INFO):
        return
    head = {"timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "level": _LEVEL_NAMES[level]}
    text = {} if exception is None else {"exception": exception}
    if _is_terminal():
        # For a person: the sentence instead of every field, and the session, by which lines belong together.
        head["timestamp"] = datetime.now().astimezone().strftime("%H:%M:%S")
        session = {"session": fields["session"]} if fields.get("session") else {}
        write_line(_console_line({**head, "event": sentence(event, fields), **session, **text}))
        return
    write_line(_json_line({**head, "event": event, **fields, **text}))


def _check_logger(logger: Any) -> None:
    if logger is None or logger is False or isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return
    # A structlog proxy is not touched: it would assemble itself now, perhaps before the host has configured it.
    if hasattr(type(logger), "bind") or all(callable(getattr(logger, name, None)) for name in _METHODS):
        return
    raise ConfigurationError(
        f"logger must be a logging.Logger, a structlog logger, False for silence, or None, not a "
        f"{type(logger).__name__}: write logger=logging.getLogger(…) or logger=structlog.get_logger()",
        option="logger",
    )


class EventLog:
    """Hands each event to the host's logging; where it goes is decided when it happens:

    1. ``logger=False``, or ``SOCKETGUARD_LOG=off`` in the environment at construction: nowhere.
    2. ``logger=`` given: to it, be it of the stdlib, of structlog or anything else with methods ``debug``, ``info``,
       ``warning`` and ``error`` that take an event and keywords.
    3. structlog is configured: to structlog, with the fields as they are.
    4. the stdlib logger ``socketguard`` or an ancestor has a handler: to that logger, as a sentence, with the fields
       as ``extra`` under ``socketguard.<name>``.
    5. else to stderr, from INFO up, or from the level of the logger ``socketguard`` where one is set.

    ``failures`` counts the events that were lost because the host's logging raised.
    """

    def __init__(self, logger: Any | Literal[False] | None = None) -> None:
        _check_logger(logger)
        self._logger = logger
        wanted = os.environ.get("SOCKETGUARD_LOG", "").strip()
        if wanted.lower() not in ("", "off"):
            raise ConfigurationError(
                f"SOCKETGUARD_LOG is {wanted[:64]!r}, and may be off only; for levels write "
                'logging.getLogger("socketguard").setLevel("WARNING")',
                option="SOCKETGUARD_LOG",
            )
        self._silent = logger is False or bool(wanted)
        self._bound: Any = None
        self._bound_for: tuple[Any, ...] = ()
        self.failures = 0

    def silence(self) -> None:
        """Hand nothing to the host's logging any more."""
        self._silent = True

    def emit(self, event: str, fields: dict[str, Any], *, exc_info: BaseException | None = None) -> None:
        """Write one event, whose name sets the level; it never raises. Text of a client must have been neutralised."""
        level = EVENTS[event].level if event in EVENTS else logging.INFO
        if exc_info is not None or "exception" in fields:
            level = max(level, logging.ERROR)  # a defect, whichever event it shows in
        for found in _captures:
            found.append({"event": event, "level": _LEVEL_NAMES[level], **fields})
            if exc_info is not None:
                found[-1]["exc_info"] = exc_info
        if self._silent:
            return
        try:
            self._send(level, event, fields, None if exc_info is None else told(exc_info))
        except Exception as error:  # "failures in the logging processes must not prevent the application" (OWASP)
            self.failures += 1
            if self.failures == 1:
                with contextlib.suppress(Exception):
                    write_line(
                        f"socketguard: the logging of this application raised {type(error).__name__} for an event "
                        f"{event!r}, which is lost; further failures are only counted"
                    )

    def _send(self, level: int, event: str, fields: dict[str, Any], exception: str | None) -> None:
        logger = self._logger
        if logger is not None:
            if isinstance(logger, logging.Logger | logging.LoggerAdapter):
                _to_stdlib(logger, level, event, fields, exception)
            else:
                _to_structlog(getattr(logger, _LEVEL_NAMES[level]), event, fields, exception)
        elif structlog.is_configured():
            _to_structlog(getattr(self._structlog(), _LEVEL_NAMES[level]), event, fields, exception)
        # Not kept: logging.config may disable loggers that exist before it runs, so ours is made as late as possible.
        elif (stdlib := logging.getLogger(_LOGGER_NAME)).hasHandlers():
            _to_stdlib(stdlib, level, event, fields, exception)
        else:
            _to_stderr(level, event, fields, exception)

    def _structlog(self) -> Any:
        """The bound logger, assembled anew when the host has configured structlog anew.

        The lazy proxy that ``structlog.get_logger()`` gives costs 4 µs more per line. The standard streams belong to
        what is compared because a PrintLogger keeps the one that it found.
        """
        config = structlog.get_config()
        settings = (config[name] for name in ("processors", "wrapper_class", "context_class", "logger_factory"))
        made_for = (*settings, sys.stdout, sys.stderr)
        if self._bound is None or not all(map(operator.is_, made_for, self._bound_for)):
            self._bound = self._assemble(config["wrapper_class"])
            self._bound_for = made_for
        return self._bound

    @staticmethod
    def _assemble(wrapper_class: Any) -> Any:
        # The methods of AsyncBoundLogger (deprecated) are coroutines, which nobody here could await.
        asynchronous = getattr(structlog.stdlib, "AsyncBoundLogger", None)
        if asynchronous is not None and isinstance(wrapper_class, type) and issubclass(wrapper_class, asynchronous):
            wrapper_class = structlog.stdlib.BoundLogger
        try:
            # With structlog.stdlib.LoggerFactory this is logging.getLogger("socketguard"), its level included.
            proxy = structlog.wrap_logger(None, wrapper_class=wrapper_class, logger_factory_args=(_LOGGER_NAME,))
            return proxy.bind()
        except TypeError:  # a factory of the host that takes no name
            return structlog.wrap_logger(None, wrapper_class=wrapper_class).bind()
