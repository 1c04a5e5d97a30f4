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
            *(
                (token, "not_three_parts")
                for token in ["", *["a", "a.b", "a.b.c.d", "..", "a..c", ".b.c", "a.b.", "a...c"], "." * 8000]
            ),
            *(
                (token, "not_base64url")
                for token in ["a.b.c=", "a=.b==.c", "a.b.c%3D", "a.b.c+", "a.b.c/", "a,b,c", "a.b.ｃ", "a.b.٠"]
            ),
            *((token, "not_base64url") for token in ("a.b.c\n", " a.b.c", "a.b.c\x00", "a.b.\ud800", "\udfff" * 5)),
            *((token, "not_base64url") for token in ("a.b\u2024c.d", '{"payload":"","signatures":[]}')),
            *((token, "too_long") for token in ("a" * (MAX_TOKEN_LENGTH - 3) + ".b.c", "." * 10**6, "\ud800" * 10**6)),
            *((token, "not_a_string") for token in (None, b"a.b.c", 5, ["a.b.c"])),
        ],
    )
    def test_bad(self, token: Any, detail: str) -> None:
        with pytest.raises(TokenError) as caught:
            check_shape(token)
        assert (caught.value.code, caught.value.detail) == (RejectCode.TOKEN_MALFORMED, detail)

    @pytest.mark.parametrize(
        ("token", "hint"),
        [
            ("undefined", "'undefined'"),
            ("[object Object]", "'[object Object]'"),
            ("a.b.c.d.e", "JWE"),
            ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..b.c.d", "NextAuth"),
            ("a.b.", "alg none"),
            ('"a.b.c"', "in quotes"),
            ("'a.b.c'", "in quotes"),
            ("a.b.c\n", "white space"),
            ("a.b c.d", "white space"),
            ("Bearer a.b.c", "more than one 'Bearer'"),
            ("bearer\ta.b.c", "more than one 'Bearer'"),
            ("Token a.b.c", "another scheme"),
            ("a%2Eb%2Ec", "encodeURIComponent"),
            (base64.b64encode(b'{"eyJ0eXAi').decode(), "opaque token"),
            (base64.b64encode(b"eyJ0eXAi.eyJz.abc").decode(), "without btoa"),
            ("a.b+.c/", "base64url"),
            ("5f2d3c1b-00aa-4711-9c7e-7f9cbdc24fd1", "opaque token"),
            ("a..c", "parts is empty"),
            (".b.c", "parts is empty"),
            ("a.b", "has 2 part(s)"),
            ("sk_live_51H.x.y.z", "has 4 part(s)"),
        ],
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
            *((text, "not_json") for text in (b"", b"{", b"{} {}", b"{}\x00", b"{}\x0b", b"{'a': 1}")),
            *(
                (b'{"a": %b}' % number, "not_json")
                for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999")
            ),
            (b'{"a": 1' + b"0" * 5000 + b"}", "not_json"),
            *(('{"a": 1}'.encode(encoding), "not_json") for encoding in ("utf-16-le", "utf-32-be", "utf-8-sig")),
            ('{"a": 1}'.encode("utf-16"), "not_utf8"),
            *((b'{"a": "%b"}' % text, "not_utf8") for text in (b"\xff", b"\xed\xa0\x80", rb"\ud800")),
            *((text, "not_utf8") for text in (rb'{"\udc00": 1}', rb'{"a": [{"b": ["x", "\uDEAD"]}]}')),
            *((text, "not_an_object") for text in (b"[]", b'"text"', b"1", b"null")),
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
