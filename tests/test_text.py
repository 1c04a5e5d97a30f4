"""Text from clients is made harmless."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.testing import mint
from socketguard.text import REDACTED, is_safe, neutralise

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


INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u180b\u180e\u206a\u206f\u3164\ufe00\ufe0f\uffa0\ufff9"
    "\U000e0001\U000e0041\U000e007f\U000e0100"
)


@pytest.mark.parametrize("character", INVISIBLE)
def test_what_is_invisible_is_shown(character: str) -> None:
    code = ord(character)
    shown = f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
    assert neutralise(f"a{character}b", 10) == f"a{shown}b"
    assert not is_safe(character)


def test_a_format_control_of_unicode_is_never_shown_as_it_is() -> None:
    # Those that are part of a script have a shape or a meaning of their own.
    scripts = [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, *range(0x110BD, 0x13440)]
    for code in set(range(0x110000)) - set(scripts):
        if unicodedata.category(chr(code)) == "Cf":
            assert not is_safe(chr(code)), hex(code)


@pytest.mark.parametrize("text", ["/{}", "/m?token={}", "Bearer {}", "{}/x", "a {} b {}"])
def test_a_token_is_taken_out(text: str) -> None:
    token = mint("somebody")
    assert neutralise(text.format(token, token), 10_000) == text.format(REDACTED, REDACTED)
    assert token[:20] not in neutralise(text.format(token, token), 40)
