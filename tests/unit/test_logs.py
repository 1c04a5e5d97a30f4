"""Where the events go, what holds back floods, and what is taken out of other people's lines."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter, DefaultFormatter

from socketguard.connection import Connection, Identity, Session, bound_connection
from socketguard.errors import ConfigurationError
from socketguard.logs import events
from socketguard.logs import sink as logs
from socketguard.logs.host import ConnectionFilter, add_connection, configure
from socketguard.logs.sink import EventLog, RedactFilter

FIELDS = {"namespace": "/messages", "subject": "u-1", "client_address": "10.0.0.1", "transport": "websocket"}
JOINED = "Joined '/messages': subject 'u-1' from 10.0.0.1 over websocket"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1LTEifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
SID = "Vh3kQ9tLr2mXw8bNAAAB"


@pytest.fixture(autouse=True)
def _clean_logging() -> Iterator[None]:
    """structlog's configuration and the loggers are global."""
    structlog.reset_defaults()
    logger = logging.getLogger("socketguard")
    before = (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
    yield
    structlog.reset_defaults()
    logger.setLevel(before[0])
    logger.propagate, logger.disabled = before[1], before[2]
    logger.handlers[:] = before[3]


@pytest.fixture
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest puts handlers of its own on the loggers; the tests that run processes of their own show the real thing."""
    monkeypatch.setattr(logging.getLogger("socketguard"), "hasHandlers", lambda: False)


@pytest.fixture
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOCKETGUARD_LOG", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def structlog_json(stream: io.StringIO, *, level: int = logging.INFO, **options: Any) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        **options,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def failing(*_: Any) -> Any:
    raise LookupError("the processor is broken")


# --- the three routes ------------------------------------------------------------------------------------------------


def test_structlog_gets_the_fields_as_they_are() -> None:
    stream = io.StringIO()
    structlog_json(stream)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert json.loads(stream.getvalue()) == {"event": events.ACCEPTED, "level": "info", **FIELDS}


def test_structlog_that_filters_is_obeyed() -> None:
    stream = io.StringIO()
    structlog_json(stream, level=logging.WARNING)
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert stream.getvalue() == ""
    log.emit(events.REJECTED, {"reason": "token_expired"})
    assert json.loads(stream.getvalue())["level"] == "warning"


def test_structlog_configured_late_or_anew_counts_from_the_next_event_on(nothing_configured: None) -> None:
    log = EventLog()
    first, second = io.StringIO(), io.StringIO()
    log.emit(events.ACCEPTED, FIELDS)
    structlog_json(first)
    log.emit(events.ACCEPTED, FIELDS)
    structlog_json(second)
    log.emit(events.ACCEPTED, FIELDS)
    structlog.reset_defaults()
    log.emit(events.ACCEPTED, FIELDS)
    assert len(first.getvalue().splitlines()) == 1
    assert len(second.getvalue().splitlines()) == 1


def test_the_bound_logger_is_kept_while_the_configuration_is_the_same() -> None:
    made = []

    def factory(*names: str) -> Any:
        made.append(names)
        return structlog.WriteLogger(io.StringIO())

    structlog.configure(logger_factory=factory, processors=[structlog.processors.JSONRenderer()])
    log = EventLog()
    for _ in range(3):
        log.emit(events.ACCEPTED, FIELDS)
    assert made == [("socketguard",)]


def test_a_stream_that_was_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=lambda *_: structlog.PrintLogger(sys.stdout)
    )
    log = EventLog()
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        log.emit(events.ACCEPTED, FIELDS)
        assert events.ACCEPTED in stream.getvalue()


def test_capture_logs_of_structlog_works() -> None:
    structlog_json(io.StringIO())
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    with structlog.testing.capture_logs() as captured:
        log.emit(events.ACCEPTED, FIELDS)
    assert captured == [{"event": events.ACCEPTED, "log_level": "info", **FIELDS}]


def test_a_logger_factory_without_arguments_works() -> None:
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=lambda: structlog.WriteLogger(stream)
    )
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert json.loads(stream.getvalue())["event"] == events.ACCEPTED


def test_the_coroutine_methods_of_async_bound_logger_are_not_used() -> None:
    stream = io.StringIO()
    structlog_json(stream)
    structlog.configure(wrapper_class=structlog.stdlib.AsyncBoundLogger)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert json.loads(stream.getvalue())["event"] == events.ACCEPTED


def test_structlog_into_a_processor_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    logger = logging.getLogger("socketguard")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    line = json.loads(stream.getvalue())
    assert line == {"event": events.ACCEPTED, "level": "info", "logger": "socketguard", **FIELDS}
    logger.setLevel(logging.WARNING)
    log.emit(events.ACCEPTED, FIELDS)
    assert len(stream.getvalue().splitlines()) == 1
    assert capsys.readouterr() == ("", "")
    logging.setLoggerClass(logging.Logger)


def test_render_to_log_kwargs_gets_fields_that_a_log_record_has_itself(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=lambda *names: logging.getLogger(*names),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    log = EventLog()
    log.emit(events.REJECTED, {"message": "Invalid namespace", "name": "Ada", "requested": "/x"})
    (record,) = caplog.records
    assert record.getMessage() == events.REJECTED
    assert record.requested == "/x"  # type: ignore[attr-defined]
    assert record.__dict__["socketguard.message"] == "Invalid namespace"
    assert record.__dict__["socketguard.name"] == "Ada"
    assert log.failures == 0


def test_another_key_error_of_the_host_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def processor(*_: Any) -> Any:
        calls.append(1)
        raise KeyError

    structlog.configure(processors=[processor])
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert (log.failures, len(calls)) == (1, 1)
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("wrapper", [structlog.make_filtering_bound_logger(0), structlog.stdlib.BoundLogger])
def test_fields_named_like_parameters_of_structlog_lose_no_line(wrapper: Any) -> None:
    stream = io.StringIO()
    structlog_json(stream)
    structlog.configure(wrapper_class=wrapper)
    log = EventLog()
    log.emit(events.ACCEPTED, {"event": "a", "self": "b", "method_name": "c", "d": "e"})
    assert json.loads(stream.getvalue()) == {
        "event": events.ACCEPTED,
        "level": "info",
        "event_": "a",
        "self_": "b",
        "method_name_": "c",
        "d": "e",
    }
    assert log.failures == 0


def test_stdlib_handlers_get_a_sentence_and_prefixed_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    EventLog().emit(events.ACCEPTED, {**FIELDS, "message": "100 % %s"})
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("socketguard", logging.INFO, JOINED)
    assert record.__dict__["socketguard.event"] == events.ACCEPTED
    assert record.__dict__["socketguard.message"] == "100 % %s"
    assert {k: record.__dict__[f"socketguard.{k}"] for k in FIELDS} == FIELDS
    assert logging.Formatter("%(message)s %(socketguard.namespace)s").format(record) == f"{JOINED} /messages"
    assert (record.funcName, record.filename) == (
        "test_stdlib_handlers_get_a_sentence_and_prefixed_fields",
        "test_logs.py",
    )


def test_the_level_of_the_stdlib_logger_is_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert caplog.records == []


def test_a_logger_that_is_given_goes_before_structlog(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = io.StringIO()
    structlog_json(stream)
    EventLog(logging.getLogger("my.app")).emit(events.ACCEPTED, FIELDS)
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("my.app", JOINED)]
    assert stream.getvalue() == ""


def test_adapters_keep_their_own_extra_and_ours(caplog: pytest.LogCaptureFixture) -> None:
    class Prefixing(logging.LoggerAdapter[Any]):
        def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
            return f"[pod-7] {msg}", kwargs

    caplog.set_level(logging.INFO)
    inner = logging.LoggerAdapter(logging.getLogger("my.app"), {"pod": "pod-7"})
    EventLog(Prefixing(inner)).emit(events.ACCEPTED, FIELDS)  # type: ignore[arg-type]
    EventLog(logging.LoggerAdapter(logging.getLogger("my.app"), None)).emit(events.ACCEPTED, FIELDS)
    first, second = caplog.records
    assert first.getMessage() == f"[pod-7] {JOINED}"
    assert (first.pod, first.__dict__["socketguard.namespace"]) == ("pod-7", "/messages")  # type: ignore[attr-defined]
    assert second.__dict__["socketguard.namespace"] == "/messages"
    assert first.funcName == "test_adapters_keep_their_own_extra_and_ours"


def test_a_structlog_logger_that_is_given_is_used() -> None:
    stream = io.StringIO()
    bound = structlog.wrap_logger(
        structlog.WriteLogger(stream), processors=[structlog.processors.JSONRenderer()], pod=7
    )
    EventLog(bound).emit(events.ACCEPTED, FIELDS)
    assert json.loads(stream.getvalue()) == {"event": events.ACCEPTED, "pod": 7, **FIELDS}


class Plain:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))


def test_any_object_with_the_four_methods_is_a_logger() -> None:
    plain = Plain()
    log = EventLog(plain)
    error = ValueError("x")
    log.emit(events.ACCEPTED, FIELDS)
    log.emit(events.HANDLER_FAILED, {"error": "ValueError"}, exc_info=error)
    log.emit("socketguard.of.a.later.version", {})
    assert plain.lines == [
        ("info", events.ACCEPTED, FIELDS),
        ("error", events.HANDLER_FAILED, {"error": "ValueError", "exc_info": error}),
        ("info", "socketguard.of.a.later.version", {}),
    ]


@pytest.mark.parametrize("logger", ["socketguard", True, object(), print, {}])
def test_what_is_no_logger_is_refused(logger: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"write logger=logging\.getLogger") as caught:
        EventLog(logger)
    assert caught.value.option == "logger"


@pytest.mark.parametrize("value", ["off", "OFF", " off "])
def test_silence_by_the_environment(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nothing_configured: None
) -> None:
    plain = Plain()
    monkeypatch.setenv("SOCKETGUARD_LOG", value)
    logs_ = [EventLog(), EventLog(plain)]
    monkeypatch.setenv("SOCKETGUARD_LOG", "on")
    for log in logs_:
        log.emit(events.REJECTED, FIELDS)
    assert plain.lines == []
    assert capsys.readouterr() == ("", "")
    EventLog().emit(events.REJECTED, FIELDS)
    assert capsys.readouterr().err != ""


def test_silence_by_choice(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    structlog_json(stream)
    EventLog(False).emit(events.REJECTED, FIELDS)
    assert (stream.getvalue(), caplog.records, capsys.readouterr().err) == ("", [], "")


def test_taps_see_every_event_even_in_silence() -> None:
    tap: list[dict[str, Any]] = []
    error = ValueError("x")
    logs.taps.append(tap)
    try:
        EventLog(False).emit(events.REJECTED, FIELDS)
        EventLog(False).emit(events.HANDLER_FAILED, {}, exc_info=error)
    finally:
        logs.taps.remove(tap)
    EventLog(False).emit(events.REJECTED, FIELDS)
    assert tap == [
        {"event": events.REJECTED, "level": "warning", **FIELDS},
        {"event": events.HANDLER_FAILED, "level": "error", "exc_info": error},
    ]


# --- our own stderr --------------------------------------------------------------------------------------------------


def test_json_on_a_stderr_that_is_no_terminal(nothing_configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().emit(events.ACCEPTED, FIELDS)
    line = json.loads(capsys.readouterr().err)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {"level": "info", "event": events.ACCEPTED, **FIELDS}


@pytest.mark.usefixtures("nothing_configured", "clear_environment")
def test_colours_and_columns_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    EventLog().emit(events.ACCEPTED, {**FIELDS, "user_agent": "\x1b[2J\u202e", "registered": ["/a"]})
    line = terminal.getvalue()
    assert "\x1b[" in line
    assert "\x1b[2J" not in line
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert "[info     ] socketguard.connection.accepted" in plain
    assert "namespace=/messages" in plain
    assert "user_agent=\\u001b[2J\\u202e" in plain
    assert "registered=['/a']" in plain
    assert not structlog.is_configured()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
@pytest.mark.usefixtures("nothing_configured", "clear_environment")
def test_no_colours_where_they_are_not_wanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv(name, value)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert "\x1b" not in terminal.getvalue()
    assert "[info     ] socketguard.connection.accepted" in terminal.getvalue()


@pytest.mark.usefixtures("nothing_configured", "clear_environment")
def test_windows_without_colorama_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    real = structlog.dev.ConsoleRenderer

    def renderer(*, colors: bool, **options: Any) -> Any:
        if colors:
            raise SystemError("colorama is missing")
        return real(colors=False, **options)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(structlog.dev, "ConsoleRenderer", renderer)
    logs._console.cache_clear()
    try:
        EventLog().emit(events.ACCEPTED, FIELDS)
    finally:
        logs._console.cache_clear()
    assert "\x1b" not in terminal.getvalue()
    assert events.ACCEPTED in terminal.getvalue()


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_tracebacks_in_json(nothing_configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().emit(events.HANDLER_FAILED, {"error": "ValueError"}, exc_info=raised("broken"))
    line = json.loads(capsys.readouterr().err)
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert line["exception"].endswith("ValueError: broken")
    assert "exc_info" not in line


@pytest.mark.usefixtures("nothing_configured", "clear_environment")
def test_tracebacks_on_a_terminal_have_no_controls_and_no_local_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    EventLog().emit(events.HANDLER_FAILED, {}, exc_info=raised("a\x1b[2Jb"))
    lines = terminal.getvalue().splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: a\\u001b[2Jb"
    assert "text = " not in terminal.getvalue()


def test_long_tracebacks_keep_their_end(nothing_configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().emit(events.HANDLER_FAILED, {}, exc_info=raised("x" * 100_000 + "END"))
    text = json.loads(capsys.readouterr().err)["exception"]
    assert text.startswith("…xxx")
    assert text.endswith("END")
    assert len(text) == 16_385


def test_below_info_nothing_is_written(nothing_configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().emit(events.TOKEN_EXPIRING, FIELDS)
    assert capsys.readouterr().err == ""


def test_without_any_stderr_nothing_fails(nothing_configured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert log.failures == 0


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


ODD = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge": 10**5000,
    "surrogate": "\ud800",
    "bytes": b"\xff",
    "set": {1},
    "tuple_keys": {(1, 2): 3},
    "circle": circle(),
    "unprintable": Unprintable(),
    "long": ["x" * 10] * 10_000,
    "number": 1.5,
    "flag": True,
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("name", sorted(ODD))
def test_any_value_comes_out_somehow(
    name: str, terminal: bool, nothing_configured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = EventLog()
    log.emit(events.ACCEPTED, {name: ODD[name], "namespace": "/messages"})
    assert log.failures == 0
    assert "/messages" in stream.getvalue()
    stream.getvalue().encode()
    if not terminal:
        line = json.loads(stream.getvalue(), parse_constant=failing)
        assert line["namespace"] == "/messages"
        assert name in line


def test_values_that_json_has_no_words_for(nothing_configured: None, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().emit(events.ACCEPTED, dict(ODD))
    line = json.loads(capsys.readouterr().err)
    assert (line["nan"], line["infinity"], line["number"], line["flag"]) == ("nan", "inf", 1.5, True)
    assert line["unprintable"] == "<Unprintable without a repr>"
    assert line["huge"] == "<int without a repr>"
    assert line["bytes"] == "b'\\xff'"
    assert len(line["long"]) == 2049


# --- emitting never raises -------------------------------------------------------------------------------------------


def test_a_failing_processor_is_counted_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.configure(processors=[failing])
    log = EventLog()
    log.emit(events.ACCEPTED, {"namespace": "/private"})
    log.emit(events.ACCEPTED, {"namespace": "/private"})
    out, err = capsys.readouterr()
    assert log.failures == 2
    assert out == ""
    assert err.splitlines() == [
        "socketguard: the logging of this application raised LookupError for an event "
        "'socketguard.connection.accepted', which is lost; further failures are only counted"
    ]


def test_a_serializer_that_takes_no_surrogate_is_survived(capsys: pytest.CaptureFixture[str]) -> None:
    def like_orjson(value: dict[str, Any], **_: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TypeError("str is not valid UTF-8: surrogates not allowed") from None
        return text

    structlog.configure(processors=[structlog.processors.JSONRenderer(serializer=like_orjson)])
    log = EventLog()
    log.emit(events.ACCEPTED, {"namespace": "/\ud800"})
    assert log.failures == 1
    assert "raised TypeError" in capsys.readouterr().err


def test_a_failing_filter_of_the_stdlib_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("socketguard")
    logger.addFilter(failing)
    try:
        log = EventLog()
        log.emit(events.ACCEPTED, FIELDS)
    finally:
        logger.removeFilter(failing)
    assert log.failures == 1


def test_a_broken_stderr_is_survived(nothing_configured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert log.failures == 1


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=[]), max_size=12),
        st.one_of(
            st.text(st.characters(exclude_categories=[])),
            st.floats(),
            st.integers(),
            st.binary(),
            st.builds(Unprintable),
            st.dictionaries(st.integers(), st.none()),
        ),
        max_size=5,
    )
)
def test_no_fields_make_it_raise(fields: dict[str, Any]) -> None:
    structlog.reset_defaults()
    stdlib = logging.getLogger("socketguard.test")
    structlog_json(io.StringIO())
    for log in (EventLog(), EventLog(stdlib)):
        log.emit(events.REJECTED, fields, exc_info=ValueError("\ud800"))
    structlog.reset_defaults()
    for stream in (io.StringIO(), Terminal()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.getLogger("socketguard"), "hasHandlers", lambda: False)
            patch.setattr(sys, "stderr", stream)
            log = EventLog()
            log.emit(events.REJECTED, fields)
        assert log.failures == 0
        assert stream.getvalue().endswith("\n")
        stream.getvalue().encode()


# --- in processes of their own ---------------------------------------------------------------------------------------

EMIT = f"""
from socketguard.logs import events
from socketguard.logs.sink import EventLog
log = EventLog()
log.emit(events.ACCEPTED, {FIELDS!r})
log.emit(events.REJECTED, {{"reason": "token_missing", "namespace": "/messages", "client_address": "10.0.0.1"}})
"""


def environment() -> dict[str, str]:
    unwanted = ("SOCKETGUARD_LOG", "NO_COLOR", "FORCE_COLOR", "COV_CORE_SOURCE")
    return {**{k: v for k, v in os.environ.items() if k not in unwanted}, "TERM": "xterm"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )


def test_plain_basic_config() -> None:
    done = run(f"import logging\nlogging.basicConfig(level='INFO')\n{EMIT}")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"INFO:socketguard:{JOINED}",
        "WARNING:socketguard:Refused '/messages': Authentication required (token_missing), client 10.0.0.1",
    ]


def test_basic_config_without_a_level_shows_warnings_only() -> None:
    done = run(f"import logging\nlogging.basicConfig()\n{EMIT}")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["WARNING"]


def test_nothing_configured_and_stderr_a_pipe() -> None:
    done = run(EMIT)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", events.ACCEPTED),
        ("warning", events.REJECTED),
    ]


def test_nothing_configured_and_stderr_a_terminal() -> None:
    ours, theirs = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(ours, 65536):
                written.append(chunk)
        except OSError:  # how a pty says that the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        subprocess.run([sys.executable, "-c", EMIT], stderr=theirs, check=True, env=environment(), timeout=60)
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    text = b"".join(written).decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert "[info     ] socketguard.connection.accepted" in plain[0]
    assert "[warning  ] socketguard.connection.rejected" in plain[1]
    assert "reason=token_missing" in plain[1]


def test_importing_configures_nothing() -> None:
    done = run(
        "import logging, sys, structlog\n"
        "import socketguard.logs\n"
        "assert not structlog.is_configured()\n"
        "assert not logging.getLogger().handlers\n"
        "assert 'socketguard' not in logging.Logger.manager.loggerDict\n"
        "assert logging.getLoggerClass() is logging.Logger\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


# --- the host's own lines --------------------------------------------------------------------------------------------


def joined(**claims: Any) -> Connection:
    session = Session(
        client_address="10.0.0.1", origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    connection = Connection(session, "/messages", Identity(subject="u-1", claims={"sub": "u-1", **claims}))
    connection.sid = "sio-sid"
    connection.bind_log_fields(("sub", *claims))
    return connection


@pytest.fixture
def inside() -> Iterator[None]:
    token = bound_connection.set(joined(tenant_id="acme", name="Ada"))
    yield
    bound_connection.reset(token)


def test_add_connection_inside_a_handler(inside: None) -> None:
    line = add_connection(None, "info", {"event": "saved", "namespace": "mine"})
    assert line == {
        "event": "saved",
        "namespace": "mine",
        "sid": "sio-sid",
        "subject": "u-1",
        "tenant_id": "acme",
        "name": "Ada",
    }


def test_add_connection_outside_handlers() -> None:
    assert add_connection(None, "info", {"event": "saved"}) == {"event": "saved"}


def record(msg: object, *args: Any, name: str = "app", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, "app.py", 1, msg, args, None)
    made.__dict__.update(extra)
    return made


FORMAT = "%(name)s %(sid)s %(namespace)s %(subject)s %(tenant_id)s %(claim_name)s: %(message)s"


def test_connection_filter_inside_a_handler(inside: None) -> None:
    one = record("saved %s", 7, namespace="mine")
    assert ConnectionFilter(["sub", "tenant_id", "name"]).filter(one) is True
    assert logging.Formatter(FORMAT).format(one) == "app sio-sid mine u-1 acme Ada: saved 7"


def test_connection_filter_outside_handlers() -> None:
    one = record("saved")
    assert ConnectionFilter(["sub", "tenant_id", "name"]).filter(one) is True
    assert logging.Formatter(FORMAT).format(one) == "app - - - - -: saved"


def test_connection_filter_refuses_reserved_names() -> None:
    with pytest.raises(ConfigurationError):
        ConnectionFilter(["event"])


def test_configure_gives_the_same_look(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().debug("unseen")
    structlog.get_logger().info("saved", count=3)
    EventLog().emit(events.ACCEPTED, {"namespace": "/other"})
    out, err = capsys.readouterr()
    own, ours = map(json.loads, err.splitlines())
    assert out == ""
    assert list(own)[:3] == list(ours)[:3] == ["timestamp", "level", "event"]
    assert (own["event"], own["count"], own["sid"], own["tenant_id"]) == ("saved", 3, "sio-sid", "acme")
    assert (ours["event"], ours["namespace"]) == (events.ACCEPTED, "/other")


@pytest.mark.usefixtures("clear_environment")
def test_configure_follows_the_terminal_or_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(stream: io.StringIO, json: bool | None) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        configure(level="debug", json=json)
        structlog.get_logger().debug("saved")
        return stream.getvalue()

    assert "\x1b[" in line(Terminal(), None)
    assert line(io.StringIO(), None).startswith("{")
    assert line(Terminal(), True).startswith("{")
    assert "\x1b[" in line(io.StringIO(), False)


def test_configure_writes_tracebacks_and_needs_no_level_or_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level=logging.INFO)
    log = structlog.get_logger()
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.exception("failed")
        log.warning("failed", exc_info=error)
        log.warning("failed", exc_info=sys.exc_info())
    nothing_raised: Any = True
    log.info("fine", exc_info=nothing_raised)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("exception", "").rpartition("\n")[2] for line in lines] == ["ValueError: broken"] * 3 + [""]


@pytest.mark.parametrize("level", ["LOUD", "", 7, "WARN ING"])
def test_configure_refuses_unknown_levels(level: Any) -> None:
    with pytest.raises(ConfigurationError, match="level must be one of DEBUG, INFO") as caught:
        configure(level=level)
    assert caught.value.option == "level"
    assert not structlog.is_configured()


# --- secrets ---------------------------------------------------------------------------------------------------------

ACCESS = '%s - "%s %s HTTP/%s" %d'
PATH = f"/socket.io/?EIO=4&transport=polling&sid={SID}&t=abc"


def shown(one: logging.LogRecord, formatter: logging.Formatter | None = None) -> str:
    assert RedactFilter().filter(one) is True
    return (formatter or logging.Formatter()).format(one)


def test_the_access_log_of_uvicorn() -> None:
    one = record(ACCESS, "127.0.0.1:5", "GET", PATH, "1.1", 200, name="uvicorn.access")
    text = shown(one, AccessFormatter('%(client_addr)s - "%(request_line)s" %(status_code)s', use_colors=False))
    path = "/socket.io/?EIO=4&transport=polling&sid=[redacted]&t=abc"
    assert text == f'127.0.0.1:5 - "GET {path} HTTP/1.1" 200 OK'
    assert one.args == ("127.0.0.1:5", "GET", path, "1.1", 200)
    assert one.msg == ACCESS


def test_the_arguments_of_the_access_log_stay_five_whatever_is_in_them() -> None:
    one = record(ACCESS, "Cookie: a=b", "token=x", "/?%74oken=y", "Bearer abcdefgh", 200, name="uvicorn.access")
    AccessFormatter('%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False).format(one)
    RedactFilter().filter(one)
    assert one.args == ("Cookie: [redacted]", "token=[redacted]", "/?%74oken=[redacted]", "Bearer [redacted]", 200)


def test_websocket_lines_of_uvicorn() -> None:
    one = record('%s - "WebSocket %s" [accepted]', "10.0.0.1:5", f"/socket.io/?token={JWT}", name="uvicorn.error")
    assert shown(one) == '10.0.0.1:5 - "WebSocket /socket.io/?token=[redacted]" [accepted]'
    assert one.args == ("10.0.0.1:5", "/socket.io/?token=[redacted]")


def test_uvicorns_coloured_variant_of_a_message_goes_with_the_arguments() -> None:
    one = record("token=%s", "opaque", color_message="\x1b[1mtoken=%s", name="uvicorn.error")
    assert shown(one, DefaultFormatter("%(levelprefix)s %(message)s", use_colors=True)).endswith("token=[redacted]")


def test_records_without_secrets_are_left_alone() -> None:
    numbers = [1, 2, 3]
    mapping = {"a": 1, "token": None}
    error = ValueError("x")
    one = record("%s %s %d %s", "a", numbers, 3, error)
    two = record("%(a)d %(token)s", mapping)
    three = record("Joined '/m': the token_id is t-1, code=7, auth=required; Invalid token: signature_mismatch")
    for each in (one, two, three):
        before = dict(each.__dict__)
        RedactFilter().filter(each)
        assert {k: v for k, v in each.__dict__.items() if v is not before[k] and v != before[k]} == {}
    assert one.args[1] is numbers  # type: ignore[index]


@pytest.mark.parametrize(
    ("msg", "args", "expected"),
    [
        ("%s: Received packet %s data %s", (SID, "MESSAGE", '0{"token":"x y"}'), "packet MESSAGE data 0[redacted]"),
        ("%s: Received packet %s data %s", (SID, "MESSAGE", '0/ns,{"t":"opaque"}'), "data 0/ns,[redacted]"),
        ("%s: Received packet %s data %s", (SID, "MESSAGE", '٠{"t":"opaque"}'), "data ٠[redacted]"),
        ("%s: Received packet %s data %s", (SID, "MESSAGE", '2["chat","hi"]'), 'data 2["chat","hi"]'),
        (
            "%s: Received packet %s data %s",
            (SID, "MESSAGE", '2["socketguard:refresh","opaque"]'),
            '2["socketguard:refresh",[redacted]',
        ),
        (
            "%s: Sending packet %s data %s",
            (SID, "OPEN", {"sid": SID, "upgrades": ["websocket"], "pingTimeout": 1}),
            "{'sid': '[redacted]', 'upgrades': ['websocket'], 'pingTimeout': 1}",
        ),
        ("%s: Client is gone, closing socket", (SID,), "[redacted]: Client is gone"),
        ("%s: Received request to upgrade to %s", (SID, "websocket"), "[redacted]: Received request"),
        ("%s: Failed websocket upgrade, no PING packet", (SID,), "[redacted]: Failed websocket"),
        ("%s: Upgrade to websocket successful", (SID,), "[redacted]: Upgrade to websocket successful"),
        ("Cannot send to sid %s", (SID,), "Cannot send to sid [redacted]"),
        (f"Invalid session {SID}", (), "Invalid session [redacted]"),
        (
            f"Invalid session {SID} (further occurrences of this error will be logged with level INFO)",
            (),
            "session [redacted] (further",
        ),
        (f"Socket for session {SID} is not connected", (), "for session [redacted] is not"),
        (f"'Session is disconnected' {SID}", (), "'Session is disconnected' [redacted]"),
        (f'0{{"sid":"{SID}","upgrades":[]}}', (), '"sid":"[redacted]","upgrades"'),
        ("< TEXT '%s' [%d bytes]", ('40/ns,{"t":"opaque"}', 21), "< TEXT '40/ns,[redacted]"),
        ('emitting event "%s" to %s [%s]', ("chat", "room-1", "/"), 'emitting event "chat" to room-1 [/]'),
    ],
)
def test_the_lines_of_engineio_and_socketio(msg: str, args: tuple[Any, ...], expected: str) -> None:
    text = shown(record(msg, *args, name="engineio.server"))
    assert expected in text
    assert SID not in text
    assert "opaque" not in text


SECRET = "s3cr3t-Opaque.Value"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /socket.io/?EIO=4&access_token={SECRET}&t=1",
        f"/?jwt={SECRET}",
        f"/?auth={SECRET}#x",
        f"/?authorization=Bearer%20{SECRET}",
        f"/?AUTHORIZATION=Bearer+{SECRET}",
        f"/?a=b&s%69d={SECRET}",
        f"/ns?ticket={SECRET}",
        f'{{"token":"{SECRET}"}}',
        f'{{"a":{{"refreshToken" : "{SECRET}"}}}}',
        f'{{"id_token":"a\\"{SECRET}"}}',
        f'data \'{{"token":"{SECRET}"}}\'',
        f"'data': '{{\"token\":\"{SECRET}\"}}'",
        f'{{\\"token\\":\\"{SECRET}\\"}}',
        f'{{\\"token\\":\\"{SECRET}',
        f'{{"token":"{SECRET}',
        f"{{'password': '{SECRET}'}}",
        f'{{"auth": "{SECRET}"}}',
        f"[(b'host', b'x'), (b'authorization', b'Basic {SECRET}')]",
        f'["x", "cookie", "sid={SECRET}"]',
        f"token={SECRET}",
        f"token='{SECRET}'",
        f'x (api_key="{SECRET}")',
        f"client-secret={SECRET}, next",
        f"> Authorization: Basic {SECRET}",
        f"< Cookie: a=b; io={SECRET}\r\n< Host: x",
        f"Set-Cookie: io={SECRET}; HttpOnly",
        f"X-API-Key: {SECRET}",
        f"sent bearer {SECRET} away",
    ],
)
def test_secrets_by_their_names(text: str) -> None:
    for one in (record(text), record("%s", text), record("seen: %(what)s", {"what": text}), record("%s %d", text, 1)):
        assert SECRET not in shown(one)
        assert "[redacted]" in logging.Formatter().format(one)


@pytest.mark.parametrize("header", ["eyJhbGciOiJIUzI1NiJ9", "eyAiYWxnIjoiSFMyNTYifQ", "ewogICJhbGciOiAiSFMyNTYiCn0"])
@pytest.mark.parametrize("before", ["", " ", "%20", "x", "/", "'", "Bearer%20"])
def test_a_jwt_anywhere(before: str, header: str) -> None:
    text = shown(record("got %s!", f"{before}{header}.eyJzdWIiOiJ1LTEifQ.c2lnbmF0dXJl"))
    assert "eyJzdWIi" not in text
    assert "c2lnbmF0dXJl" not in text
    assert text.endswith("[redacted]!")


@pytest.mark.parametrize("text", ["framework_core.middleware.auth", "ewo", "eyJ", "they.eyed.eggs", "ewok.eye.test"])
def test_words_are_no_jwt(text: str) -> None:
    assert shown(record(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"token":"required"}',
        "token='optional'",
        "token=none, next",
        '{"token":null}',
        '{"token":{"a":1}}',
        "auth: {'issuer': 'x'}",
        "?sid=",
        "the cookie: a story",
        'the event "token", then "x"',
        "payload_keys=('token', 'access_token', 'jwt')",
        "max_tokens=7 token_id=t-1",
        "'Invalid token' and 'secret'",
    ],
)
def test_words_that_are_no_secrets_stay(text: str) -> None:
    expected = text.replace("a story", "[redacted]")
    assert shown(record(text)) == expected


def test_a_number_can_be_a_secret() -> None:
    assert shown(record('{"password": 12345, "n": 1}')) == '{"password": [redacted], "n": 1}'


def test_arguments_of_every_kind() -> None:
    class Request:
        def __str__(self) -> str:
            return f"<Request /?token={SECRET}>"

    text = shown(
        record("%s %s %s %s", Request(), f"token={SECRET}".encode(), [f"token={SECRET}"], {1: {"token": SECRET}})
    )
    assert SECRET not in text
    text = shown(record("%(token)s %(n)d", {"token": SECRET, b"auth": SECRET, "n": 7}))
    assert text == "[redacted] 7"


def test_access_log_dictionaries_keep_their_type() -> None:
    class Atoms(dict[str, Any]):
        def __missing__(self, key: str) -> str:
            return "-"

    atoms = Atoms(r=f"GET /?sid={SID} HTTP/1.1", s=200)
    one = record("%(r)s %(s)s %({x-missing}i)s", atoms)
    assert shown(one) == "GET /?sid=[redacted] HTTP/1.1 200 -"
    assert isinstance(one.args, Atoms)
    assert SID in atoms["r"]


def test_large_dictionaries_are_searched_as_text() -> None:
    large = {f"k{n}": n for n in range(300)}
    one = record("%s", large)
    assert shown(one) == str(large)
    assert SECRET not in shown(record("%s", {"token": SECRET, **large}))


def test_a_secret_that_shows_only_in_the_whole_message() -> None:
    one = record("token=%s for %s", SECRET, "u-1")
    assert shown(one) == "token=[redacted] for u-1"
    assert one.args == ()


def test_structlog_event_dictionaries_as_messages() -> None:
    event = {"event": "x", "token": SECRET, "sid": "sio-sid", "nested": {"token": SECRET}, "n": 1}
    one = record(event)
    RedactFilter().filter(one)
    assert one.msg == {  # type: ignore[comparison-overlap]
        "event": "x",
        "token": "[redacted]",
        "sid": "sio-sid",
        "nested": {"token": "[redacted]"},
        "n": 1,
    }
    assert event["token"] == SECRET


def test_extra_attributes() -> None:
    request = object()
    one = record("x", token=SECRET, detail=f"token={SECRET}", request=request, **{"socketguard.token_id": "t-1"})
    RedactFilter().filter(one)
    assert (one.token, one.detail, one.request) == ("[redacted]", "token=[redacted]", request)  # type: ignore[attr-defined]
    assert one.__dict__["socketguard.token_id"] == "t-1"


def with_exception(text: str) -> logging.LogRecord:
    error = raised(text)
    made = record("failed")
    made.exc_info = (type(error), error, error.__traceback__)
    return made


def test_tracebacks() -> None:
    text = shown(with_exception(f"bad token={SECRET}"))
    assert text.startswith("failed\nTraceback (most recent call last)")
    assert text.endswith("ValueError: bad token=[redacted]")


def test_tracebacks_without_secrets_stay_as_they_are() -> None:
    one = with_exception("harmless")
    RedactFilter().filter(one)
    assert one.exc_info is not None
    assert one.exc_text is None


def test_tracebacks_already_rendered_and_absent() -> None:
    one = with_exception("x")
    one.exc_text = f"ValueError: token={SECRET}"
    assert shown(one) == "failed\nValueError: token=[redacted]"
    two = record("fine")
    two.exc_info = (None, None, None)
    assert shown(two).startswith("fine")


def test_a_wrong_format_is_left_to_logging_but_without_the_secret() -> None:
    one = record("%s %s", f"token={SECRET}")
    RedactFilter().filter(one)
    assert one.args == ("token=[redacted]",)
    with pytest.raises(TypeError):
        one.getMessage()


def test_what_cannot_be_searched_is_left_out() -> None:
    one = record(Unprintable())
    one.exc_text = "x"
    assert shown(one) == "a log line that can't be searched for secrets was left out"


def test_lines_of_a_megabyte_are_cut() -> None:
    text = shown(record("%s: Received packet %s data %s", SID, "MESSAGE", "2" + "x" * 1_000_000))
    assert len(text) < 20_000
    assert "991809 more characters]" in text


@pytest.mark.parametrize("before", range(8192 - len(JWT) - 1, 8194, 3))
def test_a_cut_leaves_no_half_of_a_token(before: int) -> None:
    assert JWT[:12] not in shown(record("%s", "." * before + JWT))


@pytest.mark.parametrize("replacement", ["***", "<hidden>", "REDACTED", "[x-1]"])
def test_the_replacement_can_be_chosen(replacement: str) -> None:
    one = record(f"/?token={SECRET}&sid={SID} Bearer {SECRET} token={SECRET}")
    for _ in range(2):
        RedactFilter(replacement).filter(one)
        assert one.msg == f"/?token={replacement}&sid={replacement} Bearer {replacement} token={replacement}"


@pytest.mark.parametrize("replacement", ["", "a b", "%s", "\\1", "'", "a\n", "x" * 41])
def test_replacements_that_change_a_line_are_refused(replacement: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedactFilter(replacement)
    assert caught.value.option == "replacement"


alphabet = st.sampled_from([*"\"'\\{}[]:,=&?; \r\n%ab0-_", "token", "cookie", "eyJ", "bearer ", ": ", "sid"])


@given(st.lists(alphabet, max_size=40).map("".join))
def test_filtering_twice_changes_nothing(text: str) -> None:
    redact = RedactFilter()
    once = redact.text(text)
    assert redact.text(once) == once


@given(
    st.lists(alphabet, max_size=15).map("".join),
    st.sampled_from(["/?token={}", '{{"token":"{}"}}', "Cookie: {}", "Bearer {}", " token={}", "/?x=1&sid={}"]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.", min_size=16, max_size=40),
)
@example(before="bearer ", shape="Bearer {}", secret="0000000000000000")
def test_a_secret_is_found_in_any_neighbourhood(before: str, shape: str, secret: str) -> None:
    text = shown(record("%s", f"{before} \n{shape.format(secret)}"))
    assert secret not in text


# --- the page about all this -----------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: str(code).strip().splitlines()[0])
def test_the_python_of_the_page_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(textwrap.dedent(code), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")


@pytest.mark.parametrize("text", blocks("json"))
def test_the_json_of_the_page_is_json(text: str) -> None:
    for part in text.strip().split("\n\n"):
        assert isinstance(json.loads(part), dict)


def test_the_log_config_of_the_page_works_with_uvicorn(tmp_path: Path) -> None:
    (config,) = [text for text in blocks("json") if '"handlers"' in text]
    path = tmp_path / "log.json"
    path.write_text(config, "utf-8")
    done = run(
        "import logging, uvicorn\n"
        f"uvicorn.Config('x:y', log_config={str(path)!r})\n"
        f"logging.getLogger('uvicorn.access').info({ACCESS!r}, '10.0.0.1:5', 'GET', {PATH!r}, '1.1', 200)\n"
        f"logging.getLogger('engineio.server').error('Invalid session {SID}')\n"
        f"{EMIT}"
    )
    written = done.stdout + done.stderr
    assert SID not in written
    assert "sid=[redacted]" in written
    assert "Invalid session [redacted]" in written
    assert JOINED in written


def test_the_page_names_every_event_and_field() -> None:
    text = PAGE.read_text("utf-8")
    for event in events.EVENTS:
        assert f"`{event}`" in text
    for field in events._OWN_FIELDS.split():
        assert f"`{field}`" in text
