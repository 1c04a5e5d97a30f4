"""Where the events go: the host's structlog, else the host's stdlib handlers, else stderr.

The library configures nobody's logging, and is never silent by accident: each event looks at what the host has set up
*then*, so a host may configure late. Emitting never raises.

For the host's own lines there are `add_connection` and `ConnectionFilter` (who is connected), `RedactFilter` (no
tokens and session ids in the lines of uvicorn and python-engineio) and `configure`, a one-liner for small apps.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import ipaddress
import json as jsonlib
import logging
import operator
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote

import structlog

from .events import LEVELS, REJECTED, check_log_claims, sentence
from .identity import bound_connection
from .rejections import ConfigurationError
from .text import neutralise

__all__ = [
    "ConnectionFilter",
    "EventLog",
    "RedactFilter",
    "RejectionLog",
    "Suppressor",
    "add_connection",
    "configure",
]

_LOGGER_NAME = "socketguard"
_LEVEL_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
_METHODS = tuple(_LEVEL_NAMES.values())
# Keywords that structlog's logging methods have as parameters: in the fields they would be a TypeError.
_PARAMETERS = frozenset({"event", "self", "method_name"})
_RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_TEXT_LIMIT = 2048
_TRACEBACK_LIMIT = 16_384

taps: list[list[dict[str, Any]]] = []
"""The lists to which every event is appended too: what ``socketguard.testing.capture_events`` uses."""


# --- one line of text, as our own stderr and `configure` write it ----------------------------------------------------


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a value of the application, with whatever __repr__ it has
        text = f"<{type(value).__name__} without a repr>"
    return neutralise(text, _TEXT_LIMIT)


def _plain(value: object) -> object:
    """The value when JSON surely takes it, else its repr."""
    if value is None or isinstance(value, bool | str):
        return value
    # False for NaN and infinities, which JSON has no words for, and for integers that no reader could hold.
    if isinstance(value, int | float) and -(2**63) <= value < 2**63:
        return value
    return _repr(value)


def _traceback(exc_info: Any) -> str | None:
    """The text of ``exc_info`` (an exception, a triple as of `sys.exc_info`, or true for the current exception)."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) else (sys.exc_info()[1] if exc_info else None)
    if error is None:
        return None
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    # The end is the telling part: the exception itself and where it was raised.
    return text if len(text) <= _TRACEBACK_LIMIT else "…" + text[-_TRACEBACK_LIMIT:]


def _json_line(record: Mapping[str, Any]) -> str:
    try:
        return jsonlib.dumps(record, default=_repr, allow_nan=False)
    except Exception:  # NaN, keys that are no strings, circles, integers beyond the digit limit
        return jsonlib.dumps({str(name): _plain(value) for name, value in record.items()})


@functools.cache
def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    # plain_traceback: the default becomes Rich's where that is installed, and prints local variables, tokens too.
    make = functools.partial(
        structlog.dev.ConsoleRenderer, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
    try:
        return make(colors=colors)
    except SystemError:  # colours on Windows need colorama
        return make(colors=False)


def _console_line(record: Mapping[str, Any]) -> str:
    colors = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # ConsoleRenderer prints most strings as they are; a terminal obeys what is in them.
    safe = {neutralise(k, 64): neutralise(v, _TEXT_LIMIT) if isinstance(v, str) else v for k, v in record.items()}
    if (text := record.get("exception")) is not None:
        safe["exception"] = "\n".join(neutralise(line, _TEXT_LIMIT) for line in str(text).split("\n"))
    try:
        return str(_console(colors=colors)(None, "", dict(safe)))
    except Exception:  # a value of the application, with whatever __repr__ it has
        return str(_console(colors=colors)(None, "", {name: _plain(value) for name, value in safe.items()}))


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _render(record: dict[str, Any], json: bool | None) -> str:
    """One line: JSON, or coloured and aligned for a terminal. ``json=None`` looks at what stderr is now."""
    if (text := _traceback(record.pop("exc_info", None))) is not None:
        record["exception"] = text
    return _json_line(record) if json or (json is None and not _is_terminal()) else _console_line(record)


def _write(line: str) -> None:
    # Looked up for each line: test runners and servers replace sys.stderr.
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")


# --- the three routes ------------------------------------------------------------------------------------------------


def _to_stdlib(logger: Any, level: int, event: str, fields: dict[str, Any], exc_info: BaseException | None) -> None:
    if not logger.isEnabledFor(level):
        return
    message = sentence(event, fields)
    # Prefixed, because `name`, `message`, `args` and others are a KeyError in `extra`.
    extra = {f"socketguard.{name}": value for name, value in fields.items()}
    extra["socketguard.event"] = event
    options: MutableMapping[str, Any] = {"extra": extra, "exc_info": exc_info, "stacklevel": 4}
    while isinstance(logger, logging.LoggerAdapter):
        # Done by hand because LoggerAdapter.process replaces `extra` by the adapter's own.
        message, options = logger.process(message, options)
        extra = {**extra, **(options.get("extra") or {})}
        options["extra"] = extra
        logger = logger.logger
    logger.log(level, message, **options)


def _to_structlog(method: Any, event: str, fields: dict[str, Any], exc_info: BaseException | None) -> None:
    if exc_info is not None:
        fields = {**fields, "exc_info": exc_info}
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
        taken = _RECORD_ATTRIBUTES - {"exc_info"}
        method(event, **{f"socketguard.{k}" if k in taken else k: v for k, v in fields.items()})


def _to_stderr(level: int, event: str, fields: dict[str, Any], exc_info: BaseException | None) -> None:
    if level < logging.INFO:
        return
    head = {"timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "level": _LEVEL_NAMES[level]}
    _write(_render({**head, "event": event, **fields, "exc_info": exc_info}, None))


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
    """Takes the events of a guard and hands each to the host's logging.

    Where an event goes is decided when it happens:

    1. ``logger=False``, or ``SOCKETGUARD_LOG=off`` in the environment at construction: nowhere.
    2. ``logger=`` given: to it.
    3. structlog is configured: to structlog, with the fields as they are.
    4. the stdlib logger ``socketguard`` or an ancestor has a handler: to that logger, as a sentence, with the fields
       as ``extra`` under ``socketguard.<name>``.
    5. else to stderr, from INFO up.

    Attributes:
        failures: how many events were lost because the host's logging raised.
    """

    __slots__ = ("_bound", "_bound_for", "_logger", "_silent", "failures")

    def __init__(self, logger: Any | Literal[False] | None = None) -> None:
        """
        Args:
            logger: a `logging.Logger` or `logging.LoggerAdapter`, a structlog logger or anything else with methods
                ``debug``, ``info``, ``warning`` and ``error`` that take an event and keywords; False for silence;
                None to follow what the host configures.

        Raises:
            ConfigurationError: ``logger`` is none of these.
        """
        _check_logger(logger)
        self._logger = logger
        self._silent = logger is False or os.environ.get("SOCKETGUARD_LOG", "").strip().lower() == "off"
        self._bound: Any = None
        self._bound_for: tuple[Any, ...] = ()
        self.failures = 0

    def emit(self, event: str, fields: dict[str, Any], *, exc_info: BaseException | None = None) -> None:
        """Write one event. It never raises.

        Args:
            event: one of the names in `socketguard.events`; it sets the level.
            fields: what goes with it; text of a client in it must have been neutralised. Not changed.
            exc_info: the exception whose traceback goes with it.
        """
        level = LEVELS.get(event, logging.INFO)
        for tap in taps:
            tap.append({"event": event, "level": _LEVEL_NAMES[level], **fields})
            if exc_info is not None:
                tap[-1]["exc_info"] = exc_info
        if self._silent:
            return
        try:
            self._send(level, event, fields, exc_info)
        except Exception as error:  # "failures in the logging processes must not prevent the application" (OWASP)
            self._failed(event, error)

    def _send(self, level: int, event: str, fields: dict[str, Any], exc_info: BaseException | None) -> None:
        logger = self._logger
        if logger is not None:
            if isinstance(logger, logging.Logger | logging.LoggerAdapter):
                _to_stdlib(logger, level, event, fields, exc_info)
            else:
                _to_structlog(getattr(logger, _LEVEL_NAMES[level]), event, fields, exc_info)
        elif structlog.is_configured():
            _to_structlog(getattr(self._structlog(), _LEVEL_NAMES[level]), event, fields, exc_info)
        # Not kept: logging.config may disable loggers that exist before it runs, so ours is made as late as possible.
        elif (stdlib := logging.getLogger(_LOGGER_NAME)).hasHandlers():
            _to_stdlib(stdlib, level, event, fields, exc_info)
        else:
            _to_stderr(level, event, fields, exc_info)

    def _structlog(self) -> Any:
        """The bound logger, assembled anew when the host has configured structlog anew.

        The lazy proxy that ``structlog.get_logger()`` gives costs 4 µs more per line. The standard streams belong to
        what is compared because a PrintLogger keeps the one that it found.
        """
        config = structlog.get_config()
        made_for = (
            config["processors"],
            config["wrapper_class"],
            config["context_class"],
            config["logger_factory"],
            sys.stdout,
            sys.stderr,
        )
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

    def _failed(self, event: str, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            with contextlib.suppress(Exception):
                _write(
                    f"socketguard: the logging of this application raised {type(error).__name__} for an event "
                    f"{event!r}, which is lost; further failures are only counted"
                )


# --- floods ----------------------------------------------------------------------------------------------------------

_Key = tuple[str | None, str]
OVERFLOW = "*"
"""Stands for the source where too many sources are refused at once to be told apart."""


_OVERFLOW_LIMIT = 64


class _Window:
    __slots__ = ("ends", "passed", "suppressed")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.passed = 1
        self.suppressed = 0


@functools.lru_cache(maxsize=1024)
def _group(source: str | None) -> str | None:
    """An IPv6 source as its /64, which is what one subscriber gets (RFC 6177): all of it is one source."""
    if source is None or ":" not in source:
        return source
    try:
        address = ipaddress.IPv6Address(source.partition("%")[0])
    except ValueError:
        return source
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


class Suppressor:
    """Decides which of many like lines are written, and counts the others.

    Logging must not exhaust the disk (OWASP Logging Cheat Sheet), and a flood of one kind must not hide another. So
    for each source and reason the first ``burst`` lines of a window pass and the rest is counted; the first line after
    the window carries the count. Memory is bounded whatever the number of sources.
    """

    __slots__ = ("_burst", "_clock", "_ended", "_max_sources", "_overflow", "_window", "_windows")

    def __init__(
        self,
        *,
        burst: int = 5,
        window: float = 60.0,
        max_sources: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            burst: how many lines of one source and reason pass within a window.
            window: its length in seconds, from the first line on.
            max_sources: how many pairs of source and reason are told apart; beyond that, and when no window has
                ended, everything new shares one count per reason.
            clock: seconds, monotonic.

        Raises:
            ConfigurationError: a number is not positive.
        """
        for option, value in (("burst", burst), ("window", window), ("max_sources", max_sources)):
            if not value > 0:
                raise ConfigurationError(f"{option} must be greater than 0, not {value!r}", option=option)
        self._burst = burst
        self._window = window
        self._max_sources = max_sources
        self._clock = clock
        # In the order in which the windows end: a window that begins anew goes to the end.
        self._windows: dict[_Key, _Window] = {}
        self._overflow: dict[_Key, _Window] = {}
        self._ended: dict[_Key, int] = {}

    def admit(self, source: str | None, reason: str) -> int | None:
        """Ask whether a line may be written.

        Args:
            source: who caused it, usually an address; IPv6 addresses count as their /64.
            reason: why, a word of a closed set, to which a part from the client may be joined by a colon.

        Returns:
            None when the line is to be suppressed (it is counted). Otherwise how many like it were suppressed before,
            usually 0.
        """
        now = self._clock()
        windows, key = self._place(source, reason)
        if windows is self._overflow and self._evict(now):
            windows, key = self._windows, (_group(source), reason)
        window = windows.get(key)
        if window is not None and now < window.ends:
            if window.passed < self._burst:
                window.passed += 1
                return 0
            window.suppressed += 1
            return None
        count = 0 if window is None else window.suppressed
        windows.pop(key, None)
        windows[key] = _Window(now + self._window)
        return count

    def bucket(self, source: str | None, reason: str) -> tuple[str | None, str]:
        """The source and reason under which a line just suppressed was counted, as `flush` names them."""
        return self._place(source, reason)[1]

    def _place(self, source: str | None, reason: str) -> tuple[dict[_Key, _Window], _Key]:
        key = (_group(source), reason)
        if key in self._windows or len(self._windows) < self._max_sources:
            return self._windows, key
        # Only the part before a colon counts now: what follows it may be from a client, hence without end.
        shared = (OVERFLOW, reason.partition(":")[0])
        if shared not in self._overflow and len(self._overflow) >= _OVERFLOW_LIMIT:
            shared = (OVERFLOW, OVERFLOW)
        return self._overflow, shared

    def _evict(self, now: float) -> bool:
        key, window = next(iter(self._windows.items()))
        if now < window.ends:
            return False
        del self._windows[key]
        if window.suppressed:
            if len(self._ended) >= self._max_sources:
                key = (OVERFLOW, key[1])
            self._ended[key] = self._ended.get(key, 0) + window.suppressed
        return True

    @property
    def has_ended(self) -> bool:
        """Whether counts wait whose window was given up for a newer one."""
        return bool(self._ended)

    def next_end(self) -> float | None:
        """In how many seconds the first window ends that has suppressed something; None when none has."""
        ends = [window.ends for window in self._all().values() if window.suppressed]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def flush(self) -> list[tuple[str | None, str, int]]:
        """Take out the counts of windows that have ended.

        Returns:
            Source (an IPv6 /64 for such addresses, ``*`` for the shared count), reason, and how many were suppressed.
        """
        return self._take(self._clock())

    def drain(self) -> list[tuple[str | None, str, int]]:
        """Take out all counts, also of windows that still run, and forget everything: for the end."""
        return self._take(float("inf"))

    def _all(self) -> dict[_Key, _Window]:
        return {**self._windows, **self._overflow}

    def _take(self, now: float) -> list[tuple[str | None, str, int]]:
        counts = self._ended
        self._ended = {}
        for key, window in self._all().items():
            if window.ends <= now:
                self._windows.pop(key, None)
                self._overflow.pop(key, None)
                if window.suppressed:
                    counts[key] = counts.get(key, 0) + window.suppressed
        return [(source, reason, count) for (source, reason), count in counts.items()]


class RejectionLog:
    """Writes refusals through a `Suppressor`, so that nobody can fill a disk with them.

    What was suppressed becomes visible even when nothing more comes: at the end of the window the last suppressed
    event is written with ``suppressed=<count>`` and ``summary=True``. Belongs to one event loop.
    """

    __slots__ = ("_last", "_log", "_loop", "_suppressor", "_timer")

    def __init__(self, log: EventLog, suppressor: Suppressor) -> None:
        """
        Args:
            log: where the lines go.
            suppressor: what decides which.
        """
        self._log = log
        self._suppressor = suppressor
        self._last: dict[_Key, tuple[str, dict[str, Any]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, event: str, source: str | None, reason: str, fields: dict[str, Any]) -> bool:
        """Write an event, unless its source has had its share of lines for this reason.

        Args:
            event: one of the names in `socketguard.events`.
            source: who caused it, usually the address of the client.
            reason: why, a word of a closed set.
            fields: what goes with it.

        Returns:
            True when a line was written.
        """
        suppressed = self._suppressor.admit(source, reason)
        key = self._suppressor.bucket(source, reason)
        if suppressed is None:
            self._last[key] = (event, fields)
            self._arm()
            return False
        self._last.pop(key, None)
        if self._suppressor.has_ended:
            self._flush(self._suppressor.flush())
        self._log.emit(event, {**fields, "suppressed": suppressed} if suppressed else fields)
        return True

    def close(self) -> None:
        """Cancel the timer and write what is pending."""
        self._disarm()
        self._flush(self._suppressor.drain())

    def _arm(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the counts come with the next line, or with close()
        if self._timer is not None and self._loop is loop:
            return
        self._disarm()
        delay = self._suppressor.next_end()
        if delay is not None:
            self._loop = loop
            self._timer = loop.call_later(
                # An empty context: the summary belongs to no connection, and must not keep one alive.
                max(delay, 0.001),
                self._ring,
                context=contextvars.Context(),
            )

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _ring(self) -> None:
        self._timer = None
        self._flush(self._suppressor.flush())
        self._arm()

    def _flush(self, counts: list[tuple[str | None, str, int]]) -> None:
        for source, reason, count in counts:
            unknown = (REJECTED, {"reason": reason, "client_address": source})
            event, fields = self._last.pop((source, reason), unknown)
            self._log.emit(event, {**fields, "suppressed": count, "summary": True})


# --- for the host's own lines ----------------------------------------------------------------------------------------


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

    def __init__(self, log_claims: Iterable[str] = ()) -> None:
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
        return f"claim_{name}" if name in _RECORD_ATTRIBUTES else name

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

    def msg(self, line: str) -> None:
        _write(line)

    log = debug = info = warn = warning = error = critical = fatal = exception = msg


def _make_stderr(*_: Any) -> _Stderr:
    return _Stderr()


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
        return _render({**head, **event_dict}, json)

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
        logger_factory=_make_stderr,
        cache_logger_on_first_use=False,
    )


# --- taking secrets out of other people's lines ----------------------------------------------------------------------

# The names of what must not be read, in lower case without - and _: in a query, as a quoted key, before "=".
_SENSITIVE_ENDS = ("token", "jwt", "bearer", "authorization", "cookie", "password", "passwd", "secret", "apikey")
_SENSITIVE_PARAMETERS = frozenset({"auth", "sid", "ticket", "code", "assertion", "signature"})
_SENSITIVE_KEYS = frozenset({"auth", "credentials"})
# Looking for these first makes the usual line, which holds none of them, ten times cheaper.
_SENSITIVE_HINTS = ("token", "jwt", "bearer", "auth", "cookie", "passw", "secret", "key", "credentials")
# The words of options such as NamespacePolicy(token="required"): no secrets.
_NO_SECRET = frozenset({"", "required", "optional", "none", "null", "true", "false"})

# A base64url text that begins as a JSON object does is a JWT or a part of one: `{"` is "eyJ". Spaces and newlines
# after the brace give the other beginnings, which stand in English words too, hence the second part. The lengths keep
# the work linear.
_DOT = r"(?:\.|%2[eE])"
_JWT = re.compile(
    rf"eyJ[\w-]{{8,}}+(?:{_DOT}[\w-]*+){{0,4}}+"
    rf"|e(?:yA|w[ok0])[\w-]{{4,256}}+{_DOT}e[yw][\w-]{{4,}}+(?:{_DOT}[\w-]*+){{0,3}}+",
    re.ASCII,
)
_QUERY = re.compile(r"([?&])([^=&?\s\"'#]{1,64}+)=([^&\s\"'#]*+)")
# "key": "value", 'key': 'value', \"key\":\"value\", ('key', 'value') and key=value, up to where the value begins.
_PAIR = re.compile(
    r"(?:(?<!\\)(?P<mark>\\*+[\"'])(?P<key>[\w-]{2,64}+)(?P=mark)\s*+(?P<between>[:,])\s*+"
    r"|(?<![\w?&%-])(?P<name>[\w-]{2,64}+)=)(?=b?(?P<quote>\\*+[\"'])?)"
)
_VALUE_END = {
    '"': re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]|\\.)*+", re.DOTALL),
    None: re.compile(r"[^\s\"'&,;)}]*+"),
}
_HEADER_NAMES = frozenset({"authorization", "proxyauthorization", "cookie", "setcookie", "xapikey"})
_HEADER_LINE = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-(?:access|auth)-token)(:\s++)([^\r\n\"']++)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer)(\s++|%20|\+)([\w.~+/=%-]{6,}+)", re.IGNORECASE | re.ASCII)
# python-engineio: "<sid>: Received packet …", "Invalid session <sid>"; its OPEN packet, which holds the session id.
_ENGINEIO_LINE = re.compile(
    r"\A\S{1,256}?(?=: (?:Received packet|Sending packet|Received request to upgrade|Client is gone"
    r"|Failed websocket upgrade|Upgrade to websocket))"
)
_ENGINEIO_SID = re.compile(r"((?:Invalid|for) session |Cannot send to sid |Session is disconnected' )(\S++)")
_ENGINEIO_OPEN = re.compile(r"([\"']sid[\"']: ?)([\"'])[^\"']*+\2(?=, ?[\"']upgrades[\"'])")
# A Socket.IO CONNECT: everything after the namespace is the `auth` of the client. python-socketio reads the type by
# int(), so every decimal digit of Unicode counts as one.
_CONNECT = re.compile(r"(packet MESSAGE data (?:0|(?=\d)[^0-9])(?:/[^,{]*+,?)?)(.++)", re.DOTALL)
_REFRESH = re.compile(r"([\"']socketguard:refresh\\*[\"']\s*+,\s*+)(.++)", re.DOTALL)

_LINE_LIMIT = 8192
_MESSAGE_LIMIT = 16_384
_WIDTH_LIMIT = 200


class RedactFilter(logging.Filter):
    """Takes tokens, cookies and Engine.IO session ids out of log records: put it on *handlers*.

    Made for the lines of ``uvicorn.access`` and ``uvicorn.error`` (whose paths carry ``?sid=…`` and ``?token=…``) and
    for the packet lines of python-engineio's and python-socketio's loggers; whatever looks like a JWT, a Bearer
    value or a cookie is taken out of any line. A text beyond 8 KiB is cut, so that one line can't cost the loop much.

    The record itself is changed, for all handlers that come later. Where a secret shows only in the finished message,
    that replaces ``msg`` and ``args``; the five arguments of ``uvicorn.access`` always stay five.
    """

    def __init__(self, replacement: str = "[redacted]") -> None:
        """
        Args:
            replacement: what stands where a secret was: letters, digits, ``_``, ``-`` and ``*``, which may be in
                ``[]`` or ``<>``.

        Raises:
            ConfigurationError: ``replacement`` holds something that would change the meaning of a line.
        """
        super().__init__()
        if not re.fullmatch(r"[\[<]?[\w*-]{1,40}[\]>]?", replacement, re.ASCII):
            raise ConfigurationError(
                "replacement must consist of letters, digits, _, - and *, up to 40, which may be in [] or <>; "
                'write replacement="[redacted]"',
                option="replacement",
            )
        self._replacement = replacement

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the secrets out; no record is dropped."""
        try:
            self._record(record)
        except Exception:
            # What can't be looked through must not go out as it is, and a filter must not raise into the application.
            record.msg, record.args = "a log line that can't be searched for secrets was left out", ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True

    def _record(self, record: logging.LogRecord) -> None:
        access = record.name == "uvicorn.access"
        if record.args:
            args: Any = record.args
            record.args = tuple(map(self._value, args)) if isinstance(args, tuple) else self._value(args)
            try:
                message = record.getMessage()
            except (TypeError, ValueError, KeyError):  # wrong format: logging reports it, with what is now harmless
                record.msg = self._value(record.msg)
            else:
                clean = self.text(message, limit=_MESSAGE_LIMIT)
                if clean != message and not access:
                    record.msg, record.args = clean, ()
                    record.__dict__.pop("color_message", None)  # uvicorn's variant of msg, which needs the arguments
        else:
            record.msg = self._value(record.msg)
        if record.exc_info and not record.exc_text:
            found = _traceback(record.exc_info)
            if found is not None and (clean := self.text(found, limit=_TRACEBACK_LIMIT)) != found:
                # Without exc_info no formatter can render the traceback again.
                record.exc_text, record.exc_info = clean, None
        elif record.exc_text:
            record.exc_text = self.text(record.exc_text, limit=_TRACEBACK_LIMIT)
        for name in record.__dict__.keys() - _RECORD_ATTRIBUTES:
            value = record.__dict__[name]
            # Other objects stay: a handler may need the object itself, as Django's needs `request`.
            if isinstance(value, str | bytes | dict | list | tuple):
                record.__dict__[name] = self._item(name.rpartition(".")[2], value)

    def _item(self, name: object, value: Any) -> Any:
        key = name.decode("latin-1") if isinstance(name, bytes) else name
        if isinstance(key, str) and _is_sensitive(key, _SENSITIVE_KEYS) and not self._is_no_secret(value):
            return self._replacement
        return self._value(value)

    @staticmethod
    def _is_no_secret(value: Any) -> bool:
        return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _NO_SECRET)

    def _value(self, value: Any) -> Any:
        """The value without secrets: the same object when there is none, a text when there is one in an object."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict) and len(value) <= _WIDTH_LIMIT:
            cleaned = {name: self._item(name, item) for name, item in value.items()}
            if "upgrades" in value and "sid" in value:
                cleaned["sid"] = self._replacement
            if all(cleaned[name] is value[name] for name in cleaned):
                return value
            # A copy keeps the type: the dictionaries of gunicorn's and hypercorn's access logs have default values.
            same_type = copy.copy(value)
            same_type.update(cleaned)
            return same_type
        shown = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        clean = self.text(shown)
        if clean == shown:
            return value
        return clean.encode("latin-1", "replace") if isinstance(value, bytes) else clean

    def text(self, text: str, *, limit: int = _LINE_LIMIT) -> str:
        """Take the secrets out of a text.

        Args:
            text: a log line or a part of one.
            limit: the number of characters beyond which the rest is cut off.

        Returns:
            ``text`` itself when there is nothing to take out.
        """
        if len(text) > limit:
            text = f"{text[:limit]}… [{len(text) - limit} more characters]"
        text = self._packets(text)
        if "ey" in text or "ew" in text:
            text = _JWT.sub(self._replacement, text)
        if "=" in text:
            text = _QUERY.sub(self._parameter, text)
        lower = text.lower()
        if any(hint in lower for hint in _SENSITIVE_HINTS):
            text = self._pairs(text)
            if ": " in text:
                text = _HEADER_LINE.sub(rf"\1\2{self._replacement}", text)
            if "bearer" in lower:
                text = _BEARER.sub(rf"\1\2{self._replacement}", text)
        return text

    def _packets(self, text: str) -> str:
        """The lines of python-engineio and python-socketio."""
        hidden = self._replacement
        if "packet " in text or "websocket" in text or "upgrade" in text or "Client is gone" in text:
            text = _ENGINEIO_LINE.sub(hidden, text)
            text = _ENGINEIO_OPEN.sub(rf"\1\2{hidden}\2", text)
            text = _CONNECT.sub(rf"\1{hidden}", text)
        if "session " in text or " sid " in text or "Session " in text:
            text = _ENGINEIO_SID.sub(rf"\1{hidden}", text)
        if "socketguard:refresh" in text:
            text = _REFRESH.sub(rf"\1{hidden}", text)
        return text

    def _parameter(self, match: re.Match[str]) -> str:
        mark, name, value = match.groups()
        plain_name = unquote(name) if "%" in name else name
        if not value or not _is_sensitive(plain_name, _SENSITIVE_PARAMETERS):
            return match[0]
        return f"{mark}{name}={self._replacement}"

    def _pairs(self, text: str) -> str:
        """Values that follow a name: a loop and no substitution, because a value may hold further pairs."""
        parts = []
        done = 0
        for match in _PAIR.finditer(text):
            key, name, quote = match["key"], match["name"], match["quote"]
            if match.start() < done or not _is_sensitive(key or name, _SENSITIVE_KEYS if key else frozenset()):
                continue
            if match["between"] == "," and (quote is None or _normal(key) not in _HEADER_NAMES):
                continue
            start = match.end() if quote is None else match.end("quote")
            if quote in _VALUE_END:
                ending = _VALUE_END[quote].match(text, start)
                end = start if ending is None else ending.end()
            else:  # JSON within JSON: the quotes are escaped themselves
                end = text.find(quote, start)
                end = len(text) if end < 0 else end
            # What begins an object or a list is no value itself: its own pairs come next.
            if text[start:end].lower() in _NO_SECRET or (quote is None and text[start] in "{["):
                continue
            parts += [text[done:start], self._replacement]
            done = end
        return "".join([*parts, text[done:]]) if parts else text


def _normal(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _is_sensitive(name: str, also: frozenset[str]) -> bool:
    normal = _normal(name)
    return normal.endswith(_SENSITIVE_ENDS) or normal in also
