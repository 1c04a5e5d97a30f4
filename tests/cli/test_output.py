"""How the commands print: marks, colours, columns, values in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.cli.output import RULES, Printer, duration, explain, words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_on_a_terminal() -> None:
    stream = Terminal()
    printer = Printer(stream, environ={"TERM": "xterm"})
    printer.heading("fine", good=True)
    printer.heading("broken", good=False)
    printer.item("log", "a line")
    assert stream.getvalue() == (
        "\x1b[32m✓\x1b[0m \x1b[1mfine\x1b[0m\n\x1b[1;31m✗\x1b[0m \x1b[1mbroken\x1b[0m\n  \x1b[2mlog     \x1b[0ma line\n"
    )


def test_no_colours_where_they_are_not_wanted() -> None:
    for stream, environ in (
        (Terminal(), {"NO_COLOR": "1"}),
        (Terminal(), {"TERM": "dumb"}),
        (io.StringIO(), {"TERM": "xterm"}),
    ):
        Printer(stream, environ=environ).heading("fine", good=True)
        assert stream.getvalue() == "✓ fine\n"


def test_a_stream_that_knows_ascii_only() -> None:
    raw = io.BytesIO()
    printer = Printer(io.TextIOWrapper(raw, encoding="ascii"), environ={})
    printer.heading("fine", good=True)
    printer.heading("brøken", good=False)
    assert raw.getvalue() == b"ok fine\nFAILED br?ken\n"


def test_long_texts_stay_within_80_columns() -> None:
    raw = io.BytesIO()
    printer = Printer(io.TextIOWrapper(raw, encoding="utf-8"), environ={})
    printer.text("word " * 40)
    printer.item("log", "word " * 40)
    printer.item("", "")
    printer.gap()
    lines = raw.getvalue().decode().split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("word word")
    assert "  log     word word" in lines[4]
    assert lines[5].startswith(" " * 10 + "word")
    assert lines[-3:] == [" " * 10, "", ""]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (-59.4, "59 seconds"),
        (1.6, "2 seconds"),
        (60, "1 minute"),
        (3599, "59 minutes"),
        (3600, "1 hour"),
        (-172_800, "2 days"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (2.0, "2"),
        (2.5, "2.5"),
        ("", "''"),
        ([], "none"),
        ({}, "none"),
        (["a", ["b", "c"], ["d"]], "a, (b, c), d"),
        ({"a": {"b": 1, "c": None}}, "a (b 1, c none)"),
        ("a\nb", "a\\u000ab"),
    ],
)
def test_plain_values(value: Any, expected: str) -> None:
    assert words(value) == expected


@given(st.recursive(st.none() | st.text() | st.floats() | st.integers(), lambda inner: st.lists(inner), max_leaves=5))
def test_whatever_a_value_is_its_words_are_one_line(value: Any) -> None:
    assert "\n" not in words(value)
    assert "\x1b" not in words(value)


def test_an_unknown_detail_stands_for_itself() -> None:
    assert explain("brand_new", {"limit": 3}) == "brand_new: limit 3"
    assert explain("lifetime_too_long", {"lifetime_s": 7200, "limit_s": 3600}) == (
        f"{RULES['lifetime_too_long']} (lifetime_too_long): 2 hours instead of at most 1 hour"
    )
