"""What is refused of a token before anything is decoded, and what its JSON may be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.errors import RejectCode, TokenError
from socketguard.tokens.encoding import (
    MAX_DEPTH,
    MAX_HEADER_PARTS,
    MAX_TOKEN_LENGTH,
    check_shape,
    decode_base64url,
    decode_json_object,
)

TOKEN = "aaaa.bbbb.cccc"


def part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returned, or the TokenError that it raised; anything else it raises fails the test."""
    try:
        return call(*arguments)
    except TokenError as error:
        return error


class TestShape:
    @pytest.mark.parametrize("token", [TOKEN, "a.b.c", "-_.09.AZ", "a" * (MAX_TOKEN_LENGTH - 4) + ".b.c"])
    def test_good(self, token: str) -> None:
        assert check_shape(token) == token.encode()

    @pytest.mark.parametrize(
        ("token", "detail"),
        [
            ("", "not_three_parts"),
            ("a", "not_three_parts"),
            ("a.b", "not_three_parts"),
            ("a.b.c.d", "not_three_parts"),
            ("..", "not_three_parts"),
            ("a..c", "not_three_parts"),
            (".b.c", "not_three_parts"),
            ("a.b.", "not_three_parts"),
            ("a...c", "not_three_parts"),
            ("." * 8000, "not_three_parts"),
            ("a.b.c=", "not_base64url"),
            ("a=.b==.c", "not_base64url"),
            ("a.b.c%3D", "not_base64url"),
            ("a.b.c\n", "not_base64url"),
            (" a.b.c", "not_base64url"),
            ("a.b.c+", "not_base64url"),
            ("a.b.c/", "not_base64url"),
            ("a,b,c", "not_base64url"),
            ("a.b.c\x00", "not_base64url"),
            ("a.b.ｃ", "not_base64url"),
            ("a.b.٠", "not_base64url"),
            ("a.b.\ud800", "not_base64url"),
            ("\udfff" * 5, "not_base64url"),
            ("a.b\u2024c.d", "not_base64url"),
            ('{"payload":"","signatures":[]}', "not_base64url"),
            ("a" * (MAX_TOKEN_LENGTH - 3) + ".b.c", "too_long"),
            ("." * 1_000_000, "too_long"),
            ("\ud800" * 1_000_000, "too_long"),
        ],
    )
    def test_bad(self, token: str, detail: str) -> None:
        with pytest.raises(TokenError) as caught:
            check_shape(token)
        assert (caught.value.code, caught.value.detail) == (RejectCode.TOKEN_MALFORMED, detail)

    @pytest.mark.parametrize("token", [None, b"a.b.c", 5, ["a.b.c"]])
    def test_no_string(self, token: Any) -> None:
        with pytest.raises(TokenError) as caught:
            check_shape(token)
        assert caught.value.detail == "not_a_string"

    @pytest.mark.parametrize(
        ("token", "hint"),
        [("undefined", "'undefined'"), ("[object Object]", "'[object Object]'"), ("a.b.c.d.e", "JWE")],
    )
    def test_hints_for_common_mistakes(self, token: str, hint: str) -> None:
        with pytest.raises(TokenError) as caught:
            check_shape(token)
        assert hint in caught.value.fields["hint"]

    @given(st.text() | st.from_regex(r"[A-Za-z0-9_.=\-]{0,40}"))
    def test_any_text_is_three_parts_or_refused(self, text: str) -> None:
        result = outcome(check_shape, text)
        if isinstance(result, TokenError):
            assert result.code is RejectCode.TOKEN_MALFORMED
        else:
            parts = result.split(b".")
            assert len(parts) == 3
            assert all(parts)
            assert result.decode() == text


class TestDecoding:
    @given(st.binary(max_size=200))
    def test_round_trip(self, data: bytes) -> None:
        assert decode_base64url(part(data), "payload") == data

    @given(st.text("AZaz09-_", min_size=1, max_size=12))
    def test_each_value_has_one_spelling(self, text: str) -> None:
        result = outcome(decode_base64url, text.encode(), "payload")
        if isinstance(result, TokenError):
            assert (result.detail, result.fields) == ("not_base64url", {"part": "payload"})
        else:
            assert part(result) == text.encode()

    @pytest.mark.parametrize("text", [b"a", b"aaaaa", b"QR", b"QQR"])
    def test_impossible_lengths_and_stray_bits(self, text: bytes) -> None:
        with pytest.raises(TokenError, match="Malformed token") as caught:
            decode_base64url(text, "signature")
        assert caught.value.fields == {"part": "signature"}

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"{}", {}),
            (b' \r\n\t{"a": 1} \n', {"a": 1}),
            (b'{"a": 1, "a": 2}', {"a": 2}),
            ('{"a": "é😀"}'.encode(), {"a": "é😀"}),
            (rb'{"a": "\ud83d\ude00", "b": [{"c\u00e9": null}]}', {"a": "😀", "b": [{"cé": None}]}),
            (b'{"a": 1.5e3}', {"a": 1500.0}),
            (b'{"a": 1' + b"0" * 400 + b"}", {"a": 10**400}),
        ],
    )
    def test_objects(self, data: bytes, expected: dict[str, Any]) -> None:
        assert decode_json_object(part(data), "payload") == expected

    @pytest.mark.parametrize(
        ("data", "detail"),
        [
            (b"", "not_json"),
            (b"{", "not_json"),
            (b"{} {}", "not_json"),
            (b"{}\x00", "not_json"),
            (b"{}\x0b", "not_json"),
            (b'{"a": NaN}', "not_json"),
            (b'{"a": Infinity}', "not_json"),
            (b'{"a": -Infinity}', "not_json"),
            (b'{"a": 1e999}', "not_json"),
            (b'{"a": -1e999}', "not_json"),
            (b'{"a": 1' + b"0" * 5000 + b"}", "not_json"),
            (b"{'a': 1}", "not_json"),
            ('{"a": 1}'.encode("utf-16-le"), "not_json"),
            ('{"a": 1}'.encode("utf-16"), "not_utf8"),
            ('{"a": 1}'.encode("utf-32-be"), "not_json"),
            (b'\xef\xbb\xbf{"a": 1}', "not_json"),
            (b'{"a": "\xff"}', "not_utf8"),
            (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
            (rb'{"a": "\ud800"}', "not_utf8"),
            (rb'{"\udc00": 1}', "not_utf8"),
            (rb'{"a": [{"b": ["x", "\uDEAD"]}]}', "not_utf8"),
            (b"[]", "not_an_object"),
            (b'"text"', "not_an_object"),
            (b"1", "not_an_object"),
            (b"null", "not_an_object"),
            (b'{"a":' * 40 + b"1" + b"}" * 40, "nested_too_deeply"),
            (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", "nested_too_deeply"),
            (b"[" * 3000, "nested_too_deeply"),
        ],
    )
    def test_refused(self, data: bytes, detail: str) -> None:
        with pytest.raises(TokenError) as caught:
            decode_json_object(part(data), "header")
        assert (caught.value.code, caught.value.detail) == (RejectCode.TOKEN_MALFORMED, detail)
        assert caught.value.fields == {"part": "header"}

    @pytest.mark.parametrize("beside", [b"", b', "b": [' + b"[]," * 100 + b"[]]"])
    def test_the_limit_of_depth_is_exact(self, beside: bytes) -> None:
        def nested(depth: int) -> bytes:
            return part(b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + beside + b"}")

        assert decode_json_object(nested(MAX_DEPTH), "payload")
        with pytest.raises(TokenError):
            decode_json_object(nested(MAX_DEPTH + 1), "payload")

    def test_a_header_has_few_members(self) -> None:
        """It is decoded before anybody has vouched for it."""

        def members(count: int) -> bytes:
            return part(json.dumps({str(number): 1 for number in range(count)}).encode())

        assert len(decode_json_object(members(MAX_HEADER_PARTS), "header")) == MAX_HEADER_PARTS
        assert decode_json_object(members(MAX_HEADER_PARTS + 1), "payload")
        with pytest.raises(TokenError) as caught:
            decode_json_object(members(MAX_HEADER_PARTS + 1), "header")
        assert caught.value.detail == "nested_too_deeply"

    def test_many_brackets_side_by_side_are_fine(self) -> None:
        claims = {"a": [[] for _ in range(100)], "b": "[" * 100}
        assert decode_json_object(part(json.dumps(claims).encode()), "payload") == claims

    @given(st.binary(max_size=60) | st.text('[]{}":\\ud80, e19', max_size=60).map(str.encode))
    def test_any_bytes_give_an_object_or_are_refused(self, data: bytes) -> None:
        result = outcome(decode_json_object, part(data), "payload")
        if isinstance(result, TokenError):
            assert result.code is RejectCode.TOKEN_MALFORMED
        else:
            assert result == json.loads(data)
            json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
