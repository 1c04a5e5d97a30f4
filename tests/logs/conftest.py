"""Hosts whose logging is set up in one way or the other; structlog's configuration and the loggers are global."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def _clean_logging() -> Iterator[None]:
    structlog.reset_defaults()
    logger = logging.getLogger("socketguard")
    before = (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
    yield
    structlog.reset_defaults()
    logger.setLevel(before[0])
    logger.propagate, logger.disabled = before[1], before[2]
    logger.handlers[:] = before[3]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A host that has set up nothing, and what it gets on its stderr, which is no terminal."""
    return _nothing_set_up(io.StringIO(), monkeypatch)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A host that has set up nothing, and what a person sees on the terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    return _nothing_set_up(Terminal(), monkeypatch)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Between a fixture and its test pytest puts its own stderr in place."""
    stream = pyfuncitem.funcargs.get("stderr") or pyfuncitem.funcargs.get("terminal")
    with contextlib.nullcontext() if stream is None else contextlib.redirect_stderr(stream):
        return (yield)


def _nothing_set_up(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    # pytest has handlers of its own on the loggers; the tests that run processes of their own show the real thing.
    monkeypatch.setattr(logging.getLogger("socketguard"), "hasHandlers", lambda: False)
    monkeypatch.setattr(sys, "stderr", stream)
    for name in ("SOCKETGUARD_LOG", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    return stream
