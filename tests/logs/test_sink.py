"""Where the events go, in a host whose logging is set up in one way or the other."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
from socketguard.logs import events
from socketguard.logs.sink import EventLog, _console, captured, line_of
from socketguard.testing import mint
from tests.logs.processes import EMIT, FIELDS, JOINED, environment, run

STDLIB = logging.getLogger("socketguard")


def structlog_json(level: int = logging.INFO, **options: Any) -> io.StringIO:
    """A host with structlog; returns where its lines go."""
    stream = io.StringIO()
    of_structlog = structlog.processors
    options.setdefault("wrapper_class", structlog.make_filtering_bound_logger(level))
    options.setdefault("logger_factory", structlog.WriteLoggerFactory(stream))
    structlog.configure(
        processors=[of_structlog.add_log_level, of_structlog.format_exc_info, of_structlog.JSONRenderer()], **options
    )
    return stream


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def failing(*_: Any) -> Any:
    raise LookupError("the processor is broken")


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


class Plain:
    """A logger of nobody's library, which keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        if level not in ("debug", "info", "warning", "error"):
            raise AttributeError(level)
        return lambda event, **fields: self.lines.append((level, event, fields))


# --- structlog -------------------------------------------------------------------------------------------------------


def test_structlog_gets_the_fields_as_they_are_and_its_filter_is_obeyed() -> None:
    stream = structlog_json()
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert lines_of(stream) == [{"event": events.ACCEPTED, "level": "info", **FIELDS}]
    stream = structlog_json(logging.WARNING)
    log.emit(events.ACCEPTED, FIELDS)
    log.emit(events.REJECTED, {"reason": "token_expired"})
    assert [line["level"] for line in lines_of(stream)] == ["warning"]


def test_structlog_configured_late_or_anew_counts_from_the_next_event_on(stderr: io.StringIO) -> None:
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    streams = []
    for _ in range(2):
        streams.append(structlog_json())
        log.emit(events.ACCEPTED, FIELDS)
    structlog.reset_defaults()
    log.emit(events.ACCEPTED, FIELDS)
    assert [len(lines_of(stream)) for stream in (stderr, *streams)] == [2, 1, 1]


def test_the_bound_logger_is_kept_while_the_configuration_is_the_same() -> None:
    made = []

    def factory(*names: str) -> Any:
        made.append(names)
        return structlog.WriteLogger(io.StringIO())

    structlog_json(logger_factory=factory)
    log = EventLog()
    for _ in range(3):
        log.emit(events.ACCEPTED, FIELDS)
    assert made == [("socketguard",)]


def test_a_stream_that_was_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    structlog_json(logger_factory=lambda *_: structlog.PrintLogger(sys.stdout))
    log = EventLog()
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        log.emit(events.ACCEPTED, FIELDS)
        assert events.ACCEPTED in stream.getvalue()


def test_capture_logs_of_structlog_works() -> None:
    structlog_json()
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    with structlog.testing.capture_logs() as found:
        log.emit(events.ACCEPTED, FIELDS)
    assert found == [{"event": events.ACCEPTED, "log_level": "info", **FIELDS}]


def test_a_factory_without_arguments_and_a_wrapper_with_coroutines_lose_no_line(stderr: io.StringIO) -> None:
    structlog_json(logger_factory=lambda: structlog.WriteLogger(stderr))
    EventLog().emit(events.ACCEPTED, FIELDS)
    structlog_json(logger_factory=structlog.WriteLoggerFactory(stderr), wrapper_class=structlog.stdlib.AsyncBoundLogger)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert [line["event"] for line in lines_of(stderr)] == [events.ACCEPTED] * 2


def test_structlog_into_a_processor_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    std = structlog.stdlib
    formatter = std.ProcessorFormatter
    handler.setFormatter(formatter(processors=[formatter.remove_processors_meta, structlog.processors.JSONRenderer()]))
    STDLIB.addHandler(handler)
    STDLIB.setLevel(logging.INFO)
    structlog.configure(
        processors=[std.filter_by_level, std.add_logger_name, std.add_log_level, formatter.wrap_for_formatter],
        logger_factory=std.LoggerFactory(),
        wrapper_class=std.BoundLogger,
    )
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    STDLIB.setLevel(logging.WARNING)
    log.emit(events.ACCEPTED, FIELDS)
    assert lines_of(stream) == [{"event": events.ACCEPTED, "level": "info", "logger": "socketguard", **FIELDS}]
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
    assert (record.getMessage(), log.failures) == (events.REJECTED, 0)
    given = {"requested": "/x", "socketguard.message": "Invalid namespace", "socketguard.name": "Ada"}
    assert given.items() <= record.__dict__.items()


@pytest.mark.parametrize("wrapper", [structlog.make_filtering_bound_logger(0), structlog.stdlib.BoundLogger])
def test_fields_named_like_parameters_of_structlog_lose_no_line(wrapper: Any) -> None:
    stream = structlog_json(wrapper_class=wrapper)
    log = EventLog()
    log.emit(events.ACCEPTED, {"event": "a", "self": "b", "method_name": "c", "d": "e"})
    renamed = {"event_": "a", "self_": "b", "method_name_": "c", "d": "e"}
    assert lines_of(stream) == [{"event": events.ACCEPTED, "level": "info", **renamed}]
    assert log.failures == 0


# --- the standard library --------------------------------------------------------------------------------------------


def test_stdlib_handlers_get_a_sentence_and_prefixed_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    EventLog().emit(events.ACCEPTED, {**FIELDS, "message": "100 % %s"})
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("socketguard", logging.INFO, JOINED)
    given = {**FIELDS, "event": events.ACCEPTED, "message": "100 % %s"}
    assert {f"socketguard.{name}": value for name, value in given.items()}.items() <= record.__dict__.items()
    assert logging.Formatter("%(message)s %(socketguard.namespace)s").format(record) == f"{JOINED} /messages"
    own = "test_stdlib_handlers_get_a_sentence_and_prefixed_fields"
    assert (record.funcName, record.filename) == (own, "test_sink.py")
    caplog.clear()
    caplog.set_level(logging.WARNING)
    EventLog().emit(events.ACCEPTED, FIELDS)
    assert caplog.records == []


@pytest.mark.parametrize(("options", "shown"), [("level='INFO'", 2), ("", 1)])
def test_plain_basic_config(options: str, shown: int) -> None:
    done = run(f"import logging\nlogging.basicConfig({options})\n{EMIT}")
    refused = "WARNING:socketguard:Refused '/messages': Authentication required (token_missing), client 10.0.0.1"
    assert (done.stdout, done.stderr.splitlines()) == ("", [f"INFO:socketguard:{JOINED}", refused][-shown:])


# --- a logger that is given, or silence ------------------------------------------------------------------------------


def test_a_logger_that_is_given_goes_before_structlog(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = structlog_json()
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
    assert {"pod": "pod-7", "socketguard.namespace": "/messages"}.items() <= first.__dict__.items()
    assert second.__dict__["socketguard.namespace"] == "/messages"
    assert first.funcName == "test_adapters_keep_their_own_extra_and_ours"


def test_a_structlog_logger_that_is_given_is_used() -> None:
    stream = io.StringIO()
    renderer = structlog.processors.JSONRenderer()
    logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors=[renderer], pod=7)
    EventLog(logger).emit(events.ACCEPTED, FIELDS)
    assert lines_of(stream) == [{"event": events.ACCEPTED, "pod": 7, **FIELDS}]


def test_any_object_with_the_four_methods_is_a_logger() -> None:
    plain = Plain()
    log = EventLog(plain)
    error = ValueError("x")
    log.emit(events.ACCEPTED, FIELDS)
    log.emit(events.HANDLER_FAILED, {"error": "ValueError"}, exc_info=error)
    log.emit("socketguard.of.a.later.version", {})
    assert plain.lines == [
        ("info", events.ACCEPTED, FIELDS),
        ("error", events.HANDLER_FAILED, {"error": "ValueError", "exception": "ValueError: x"}),
        ("info", "socketguard.of.a.later.version", {}),
    ]


@pytest.mark.parametrize("logger", ["socketguard", True, object(), print, {}])
def test_what_is_no_logger_is_refused(logger: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"write logger=logging\.getLogger") as caught:
        EventLog(logger)
    assert caught.value.option == "logger"


@pytest.mark.parametrize("value", ["off", "OFF", " off "])
def test_silence_by_the_environment(value: str, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> None:
    plain = Plain()
    monkeypatch.setenv("SOCKETGUARD_LOG", value)
    silent = [EventLog(), EventLog(plain)]
    monkeypatch.delenv("SOCKETGUARD_LOG")
    for log in silent:
        log.emit(events.REJECTED, FIELDS)
    assert (plain.lines, stderr.getvalue()) == ([], "")
    EventLog().emit(events.REJECTED, FIELDS)
    assert stderr.getvalue() != ""


@pytest.mark.parametrize("value", ["on", "warning", "0", "x" * 100])
def test_another_word_for_silence_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKETGUARD_LOG", value)
    with pytest.raises(ConfigurationError, match=r"may be off only; for levels write logging\.getLogger") as caught:
        EventLog()
    assert caught.value.option == "SOCKETGUARD_LOG"


def test_silence_by_choice_in_which_tests_see_every_event(
    stderr: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    stream = structlog_json()
    error = ValueError("x")
    with captured() as found, captured() as other:
        EventLog(False).emit(events.REJECTED, FIELDS)
        EventLog(False).emit(events.HANDLER_FAILED, {}, exc_info=error)
    EventLog(False).emit(events.REJECTED, FIELDS)
    assert (stream.getvalue(), caplog.records, stderr.getvalue()) == ("", [], "")
    assert found == other
    assert found == [
        {"event": events.REJECTED, "level": "warning", **FIELDS},
        {"event": events.HANDLER_FAILED, "level": "error", "exc_info": error},
    ]


# --- our own stderr --------------------------------------------------------------------------------------------------


def test_json_on_a_stderr_that_is_no_terminal(stderr: io.StringIO) -> None:
    EventLog().emit(events.TOKEN_EXPIRING, FIELDS)  # below INFO
    EventLog().emit(events.ACCEPTED, FIELDS)
    (line,) = lines_of(stderr)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {"level": "info", "event": events.ACCEPTED, **FIELDS}


def test_the_level_of_the_logger_counts_on_our_stderr_too(stderr: io.StringIO) -> None:
    logger = logging.getLogger("socketguard")
    try:
        logger.setLevel("WARNING")
        EventLog().emit(events.ACCEPTED, FIELDS)
        EventLog().emit(events.REJECTED, FIELDS)
        logger.setLevel("DEBUG")
        EventLog().emit(events.UPGRADED, FIELDS)
    finally:
        logger.setLevel("NOTSET")
    EventLog().emit(events.UPGRADED, FIELDS)
    assert [line["event"] for line in lines_of(stderr)] == [events.REJECTED, events.UPGRADED]


def test_colours_and_columns_on_a_terminal(terminal: io.StringIO) -> None:
    EventLog().emit(events.ACCEPTED, {**FIELDS, "subject": "\x1b[2J\u202e", "session": "0123456789ab"})
    line = terminal.getvalue()
    assert "\x1b[" in line
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert "\x1b" not in plain
    assert "[info     ] Joined '/messages': subject '\\u001b[2J\\u202e'" in plain
    assert plain.endswith("session=0123456789ab\n")
    assert len(plain) < 160
    assert not structlog.is_configured()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "on Windows")])
def test_no_colours_where_they_are_not_wanted_or_windows_lacks_colorama(
    name: str, value: str, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = structlog.dev.ConsoleRenderer

    def renderer(*given: Any, colors: bool, **options: Any) -> Any:
        if colors:
            raise SystemError("colorama is missing")
        return real(*given, colors=False, **options)

    monkeypatch.setenv(name, value)
    _console.cache_clear()
    if value == "on Windows":
        monkeypatch.setattr(structlog.dev, "ConsoleRenderer", renderer)
    EventLog().emit(events.ACCEPTED, FIELDS)
    _console.cache_clear()
    assert "\x1b" not in terminal.getvalue()
    assert "[info     ] Joined '/messages'" in terminal.getvalue()


def test_tracebacks_in_json(stderr: io.StringIO) -> None:
    EventLog().emit(events.HANDLER_FAILED, {"error": "ValueError"}, exc_info=raised("broken"))
    EventLog().emit(events.HANDLER_FAILED, {}, exc_info=raised("x" * 100_000 + "END"))
    line, long = lines_of(stderr)
    assert re.fullmatch(r"(?s)Traceback \(most recent call last\).*ValueError: broken", line["exception"])
    assert "exc_info" not in line
    assert re.fullmatch("…x+END", long["exception"])
    assert len(long["exception"]) == 16_385


def test_tracebacks_on_a_terminal_have_no_controls_and_no_local_variables(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    EventLog().emit(events.HANDLER_FAILED, {}, exc_info=raised("a\x1b[2Jb"))
    lines = terminal.getvalue().splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: a\\u001b[2Jb"
    assert "text = " not in terminal.getvalue()


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
    "minus": float("-inf"),
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


@pytest.mark.parametrize("kind", ["terminal", "stderr"])
@pytest.mark.parametrize("name", sorted(ODD))
def test_any_value_comes_out_somehow(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    stream: io.StringIO = request.getfixturevalue(kind)
    log = EventLog()
    log.emit(events.ACCEPTED, {name: ODD[name], "namespace": "/messages"})
    assert log.failures == 0
    assert "/messages" in stream.getvalue()
    stream.getvalue().encode()
    if kind == "stderr":
        line = json.loads(stream.getvalue(), parse_constant=failing)
        assert line["namespace"] == "/messages"
        assert name in line


@pytest.mark.parametrize("name", sorted(ODD))
def test_any_value_of_the_hosts_own_lines_comes_out_on_a_terminal(name: str) -> None:
    line = line_of({"event": "an event", name: ODD[name], "number": 7}, False)
    assert "an event" in line
    assert "number" in line
    line.encode()


def test_values_that_json_has_no_words_for(stderr: io.StringIO) -> None:
    EventLog().emit(events.ACCEPTED, dict(ODD))
    (line,) = lines_of(stderr)
    expected = {"nan": "nan", "infinity": "inf", "minus": "-inf", "number": 1.5, "flag": True, "bytes": "b'\\xff'"}
    expected |= {"unprintable": "<Unprintable without a repr>", "huge": "<int without a repr>"}
    assert {name: line[name] for name in expected} == expected
    assert len(line["long"]) == 2049


def test_nothing_set_up_and_stderr_a_pipe() -> None:
    done = run(EMIT)
    assert done.stdout == ""
    found = [(line["level"], line["event"]) for line in map(json.loads, done.stderr.splitlines())]
    assert found == [("info", events.ACCEPTED), ("warning", events.REJECTED)]


def test_nothing_set_up_and_stderr_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", EMIT], stderr=theirs, check=True, env=environment(), timeout=60)
        text = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert "[info     ] Joined '/messages'" in plain[0]
    assert "[warning  ] Refused '/messages'" in plain[1]
    assert "token_missing" in plain[1]


def test_importing_configures_nothing() -> None:
    done = run(
        "import logging, structlog, socketguard.logs\n"
        "assert not structlog.is_configured() and not logging.getLogger().handlers\n"
        "assert 'socketguard' not in logging.Logger.manager.loggerDict\n"
        "assert logging.getLoggerClass() is logging.Logger\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


# --- emitting never raises -------------------------------------------------------------------------------------------


def like_orjson(value: dict[str, Any], **_: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TypeError("str is not valid UTF-8: surrogates not allowed") from None
    return text


def key_error(*_: Any) -> Any:
    raise KeyError


ORJSON = structlog.processors.JSONRenderer(serializer=like_orjson)


@pytest.mark.parametrize(
    ("processor", "error"), [(failing, "LookupError"), (key_error, "KeyError"), (ORJSON, "TypeError")]
)
def test_a_failing_processor_is_counted_and_told_once(
    processor: Any, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return processor(*arguments)

    structlog.configure(processors=[counted])
    log = EventLog()
    for _ in range(2):
        log.emit(events.ACCEPTED, {"namespace": "/private\ud800"})
    assert (log.failures, len(calls)) == (2, 2)
    expected = (
        f"socketguard: the logging of this application raised {error} for an event "
        "'socketguard.connection.accepted', which is lost; further failures are only counted\n"
    )
    assert capsys.readouterr() == ("", expected)


def test_a_failing_filter_of_the_stdlib_is_survived(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(STDLIB, "filters", [failing])
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert log.failures == 1


def test_a_broken_stderr_is_survived_and_none_is_no_failure(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr.close()
    log = EventLog()
    log.emit(events.ACCEPTED, FIELDS)
    assert log.failures == 1
    monkeypatch.setattr(sys, "stderr", None)
    log.emit(events.ACCEPTED, FIELDS)
    assert log.failures == 1


any_text = st.text(st.characters(exclude_categories=[]), max_size=12)
plain = st.text(st.characters(exclude_categories=[])) | st.floats() | st.integers() | st.binary()
any_value = plain | st.builds(Unprintable) | st.dictionaries(st.integers(), st.none())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(any_text, any_value, max_size=5))
@pytest.mark.parametrize("kind", ["terminal", "stderr"])
def test_no_fields_make_it_raise(kind: str, fields: dict[str, Any], request: pytest.FixtureRequest) -> None:
    stream: io.StringIO = request.getfixturevalue(kind)
    structlog_json()
    for log in (EventLog(), EventLog(logging.getLogger("socketguard.test"))):
        log.emit(events.REJECTED, fields, exc_info=ValueError("\ud800"))
    structlog.reset_defaults()
    before = len(stream.getvalue())
    log = EventLog()
    log.emit(events.REJECTED, fields)
    assert log.failures == 0
    written = stream.getvalue()[before:]
    assert written.endswith("\n")
    written.encode()


def failed_with_secrets() -> Exception:
    token, cookie = mint("somebody"), "session=0123456789abcdef"
    try:
        raise LookupError(f"no user for {token}\r\x1b[2J\u00ad\U000e0041 {len(cookie)}")
    except LookupError as error:
        return error


def secrets_in(text: str) -> list[str]:
    """What of it must be nowhere: a token's parts, control characters, and the local variables of the handler."""
    return [part for part in ("eyJ", "\x1b", "\r", "\u00ad", "\U000e0041", "0123456789abcdef") if part in text]


# What structlog 24 says of every text of a traceback, where it would rather print the exception itself.
@pytest.mark.filterwarnings("ignore:Remove .format_exc_info. from your processor chain:UserWarning")
@pytest.mark.parametrize("route", ["structlog", "rich locals", "stdlib", "rich handler", "stderr"])
def test_a_traceback_hands_out_no_secret_whoever_prints_it(
    route: str, stderr: io.StringIO, request: pytest.FixtureRequest
) -> None:
    error, stream = failed_with_secrets(), io.StringIO()
    logger: Any = None
    if route == "structlog":
        processors: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors=processors)
    elif route == "rich locals":
        formatter = structlog.dev.RichTracebackFormatter(show_locals=True)
        console = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=formatter)
        logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors=[console])
    elif route in ("stdlib", "rich handler"):
        logger = logging.getLogger("an application whose handlers raise")
        logger.propagate = False
        handler: logging.Handler = logging.StreamHandler(stream)
        if route == "rich handler":
            rich = pytest.importorskip("rich.logging")
            console = pytest.importorskip("rich.console").Console(file=stream, width=200)
            handler = rich.RichHandler(rich_tracebacks=True, tracebacks_show_locals=True, console=console)
        logger.handlers[:] = [handler]
    EventLog(logger).emit(events.HANDLER_FAILED, {"error": "LookupError", "handler": "order"}, exc_info=error)
    text = stream.getvalue() or stderr.getvalue()
    assert "failed" in text
    assert "LookupError: no user for [redacted]" in text
    assert "failed_with_secrets" in text
    assert not secrets_in(text.replace("\\r", "").replace("\\u001b", ""))
