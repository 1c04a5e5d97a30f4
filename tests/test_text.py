"""Text from clients is made harmless."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.text import neutralise

any_text = st.text(st.characters(exclude_categories=[]), max_size=60)


@pytest.mark.parametrize("text", ["", "/messages", "ünïcode — 漢字 🙂", "a'b\"c\\d"])
def test_harmless_text_is_the_same_object(text: str) -> None:
    assert neutralise(text, 100) is text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\nb", "a\\u000ab"),
        ("a\r\nb", "a\\u000d\\u000ab"),
        ("\x00", "\\u0000"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\x7f", "\\u007f"),
        ("\x9b31m", "\\u009b31m"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u202eevil", "\\u202eevil"),
        ("\u2066\u2069", "\\u2066\\u2069"),
        ("\u200b\u200f\u061c\u2060\ufeff", "\\u200b\\u200f\\u061c\\u2060\\ufeff"),
        ("\ud800x\udfff", "\\ud800x\\udfff"),
    ],
)
def test_what_could_forge_hide_or_break_a_line_is_escaped(hostile: str, shown: str) -> None:
    assert neutralise(hostile, 100) == shown


def test_long_text_is_cut_and_marked() -> None:
    assert neutralise("abcdef", 6) == "abcdef"
    assert neutralise("abcdefg", 6) == "abcdef…"


def test_the_limit_counts_before_escaping() -> None:
    assert neutralise("\n" * 9, 2) == "\\u000a\\u000a…"


@given(any_text, st.integers(0, 80))
def test_the_result_is_one_encodable_line_without_controls(text: str, limit: int) -> None:
    result = neutralise(text, limit)
    result.encode()
    assert len(result) <= 6 * limit + 1
    assert len(result.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in result)
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI") for c in result)
    assert json.loads(json.dumps(result)) == result


@given(any_text)
def test_doing_it_twice_changes_nothing(text: str) -> None:
    once = neutralise(text, 1000)
    assert neutralise(once, 1000) == once
