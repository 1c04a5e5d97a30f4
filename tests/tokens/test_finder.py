"""Where a token is found, and what is refused before anything is decoded."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.finder import Found, TokenFinder, names

TOKEN = "aaaa.bbbb.cccc"
OTHER = "dddd.eeee.ffff"


def part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returned, or the TokenError that it raised; anything else it raises fails the test."""
    try:
        return call(*arguments)
    except TokenError as error:
        return error


def refused(finder: TokenFinder, *arguments: Any) -> TokenError:
    with pytest.raises(TokenError) as caught:
        finder.find(*arguments)
    return caught.value


def bearer(token: str = TOKEN, scheme: str = "Bearer") -> tuple[bytes, bytes]:
    return b"authorization", f"{scheme} {token}".encode()


class TestPrecedence:
    def test_the_payload_goes_before_an_old_header(self) -> None:
        found = TokenFinder().find({"token": TOKEN}, [bearer(OTHER)], b"")
        assert found == Found(TOKEN, "payload")

    @pytest.mark.parametrize(
        "payload",
        [None, {}, {"token": None}, {"token": ""}, {"token": "", "access_token": None, "authorization": ""}, {"a": 1}],
    )
    def test_the_header_counts_when_the_payload_has_none(self, payload: dict[str, Any] | None) -> None:
        assert TokenFinder().find(payload, [bearer()], b"") == Found(TOKEN, "header")

    def test_order_in_sources_does_not_put_the_header_first(self) -> None:
        finder = TokenFinder(("header", "payload"))
        assert finder.find({"token": TOKEN}, [bearer(OTHER)], b"") == Found(TOKEN, "payload")

    def test_others_follow_in_their_order(self) -> None:
        headers = [(b"cookie", f"c={TOKEN}".encode()), (b"origin", b"https://a.example")]
        query = f"q={OTHER}".encode()
        assert TokenFinder(("query:q", "cookie:c", "header")).find(None, headers, query) == Found(OTHER, "query:q")
        assert TokenFinder(("cookie:c", "query:q", "header")).find(None, headers, query) == Found(TOKEN, "cookie:c")
        both = [*headers, bearer("x.y.z")]
        assert TokenFinder(("cookie:c", "query:q", "header")).find(None, both, query) == Found("x.y.z", "header")

    def test_only_named_sources_are_read(self) -> None:
        headers = [bearer(), (b"cookie", b"token=a.b.c"), (b"origin", b"https://a.example")]
        assert TokenFinder(("payload",)).find({}, headers, b"token=a.b.c") is None
        assert TokenFinder(("header",)).find({"token": OTHER}, [], b"token=a.b.c") is None
        assert TokenFinder().find(None, headers[1:], b"token=a.b.c") is None

    def test_the_first_key_with_a_value_counts(self) -> None:
        finder = TokenFinder(payload_keys=("jwt", "token"))
        assert finder.find({"token": OTHER, "jwt": TOKEN}, [], b"") == Found(TOKEN, "payload")
        assert finder.find({"token": OTHER, "jwt": ""}, [], b"") == Found(OTHER, "payload")
        assert finder.find({"access_token": OTHER}, [], b"") is None


class TestPayload:
    @pytest.mark.parametrize("value", [0, 1, False, True, 1.5, [], ["a.b.c"], {}, {"a": 1}, b"a.b.c"])
    @pytest.mark.parametrize("key", ["token", "access_token", "authorization"])
    def test_no_string_is_refused_without_falling_back(self, key: str, value: object) -> None:
        error = refused(TokenFinder(), {key: value}, [bearer()], b"")
        assert (error.code, error.detail) == (RejectCode.TOKEN_MALFORMED, "not_a_string")
        assert error.fields == {"source": "payload", "key": key, "received": type(value).__name__}

    @pytest.mark.parametrize("payload", ["a.b.c", [], 5, True])
    def test_a_payload_that_is_no_object_is_refused(self, payload: Any) -> None:
        assert refused(TokenFinder(), payload, [bearer()], b"").detail == "not_an_object"

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
    def test_authorization_needs_the_scheme(self, scheme: str) -> None:
        assert TokenFinder().find({"authorization": f"{scheme} {TOKEN}"}, [], b"") == Found(TOKEN, "payload")
        assert TokenFinder().find({"authorization": f" {scheme}   {TOKEN} "}, [], b"") == Found(TOKEN, "payload")

    @pytest.mark.parametrize("value", ["Basic dXNlcg==", TOKEN, "Bearer", "Bearer ", "Bearerx a.b.c", "Token a.b.c"])
    def test_authorization_of_another_scheme_is_absent(self, value: str) -> None:
        assert TokenFinder().find({"authorization": value}, [], b"") is None
        assert TokenFinder().find({"authorization": value}, [bearer(OTHER)], b"") == Found(OTHER, "header")

    @pytest.mark.parametrize("prefix", ["Bearer ", "bearer ", "BEARER "])
    def test_a_bare_key_must_not_hold_the_scheme(self, prefix: str) -> None:
        error = refused(TokenFinder(), {"token": prefix + TOKEN}, [bearer()], b"")
        assert (error.detail, error.fields["key"]) == ("bearer_prefix", "token")
        assert TOKEN not in str(error)
        assert TOKEN not in str(error.fields)

    def test_authorization_may_be_spelt_with_a_capital(self) -> None:
        finder = TokenFinder(payload_keys=("Authorization",))
        assert finder.find({"Authorization": f"Bearer {TOKEN}"}, [], b"") == Found(TOKEN, "payload")


class TestHeader:
    @pytest.mark.parametrize("name", [b"authorization", b"Authorization", b"AUTHORIZATION"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_found_whatever_its_case(self, name: bytes, scheme: str) -> None:
        assert TokenFinder().find(None, [(b"host", b"a"), (name, f"{scheme} {TOKEN}".encode())], b"") == Found(
            TOKEN, "header"
        )

    @pytest.mark.parametrize("value", [b"Basic dXNlcg==", b"Digest a=b", b"", b"Bearer", b"Bearer ", b"Bearer\ta.b.c"])
    def test_others_are_ignored(self, value: bytes) -> None:
        assert TokenFinder().find(None, [(b"authorization", value)], b"") is None

    def test_another_scheme_beside_it_is_ignored(self) -> None:
        headers = [(b"authorization", b"Basic dXNlcg=="), bearer(), (b"authorization", b"Negotiate abc")]
        assert TokenFinder().find(None, headers, b"") == Found(TOKEN, "header")

    @pytest.mark.parametrize("second", [TOKEN, OTHER, ""])
    def test_two_are_refused_even_when_equal(self, second: str) -> None:
        error = refused(TokenFinder(), None, [bearer(), bearer(second)], b"")
        assert (error.code, error.detail) == (RejectCode.TOKEN_MALFORMED, "multiple_headers")

    @pytest.mark.parametrize("value", [b"Bearer a.b.\xff", "Bearer ａ.b.c".encode(), b"Bearer \x80"])
    def test_bytes_beyond_ascii_are_refused(self, value: bytes) -> None:
        assert refused(TokenFinder(), None, [(b"authorization", value)], b"").detail == "not_base64url"

    def test_a_payload_token_keeps_a_bad_header_out_of_play(self) -> None:
        assert TokenFinder().find({"token": TOKEN}, [bearer(), bearer()], b"") == Found(TOKEN, "payload")


class TestQuery:
    finder = TokenFinder(("payload", "query:token"))

    @pytest.mark.parametrize("query", [b"token=a.b.c", b"EIO=4&token=a.b.c&transport=polling", b"%74oken=a%2Eb.c"])
    def test_found(self, query: bytes) -> None:
        assert self.finder.find(None, [], query) == Found("a.b.c", "query:token")

    @pytest.mark.parametrize("query", [b"", b"EIO=4", b"token=", b"Token=a.b.c", b"tokens=a.b.c", b"token"])
    def test_absent(self, query: bytes) -> None:
        assert self.finder.find(None, [], query) is None

    @pytest.mark.parametrize("query", [b"token=a&token=a", b"token=&token=a.b.c", b"token=a&%74oken=b"])
    def test_repeated(self, query: bytes) -> None:
        error = refused(self.finder, None, [], query)
        assert (error.detail, error.fields) == ("multiple_parameters", {"source": "query:token"})

    def test_too_many_parameters(self) -> None:
        assert refused(self.finder, None, [], b"a=1&" * 300 + b"token=a.b.c").detail == "query_malformed"

    def test_bearer_prefix(self) -> None:
        assert refused(self.finder, None, [], b"token=Bearer+a.b.c").detail == "bearer_prefix"


class TestCookie:
    finder = TokenFinder(("payload", "header", "cookie:session"))
    origin = (b"origin", b"https://app.example")

    @pytest.mark.parametrize(
        "line",
        [b"session=a.b.c", b"a=1; session=a.b.c; b=2", b"a;session=a.b.c", b'session="a.b.c"', b" session = a.b.c "],
    )
    def test_found_beside_an_origin(self, line: bytes) -> None:
        assert self.finder.find(None, [(b"cookie", line), self.origin], b"") == Found("a.b.c", "cookie:session")

    def test_found_in_the_second_header(self) -> None:
        headers = [(b"cookie", b"a=1"), (b"Cookie", b"session=a.b.c"), (b"Origin", b"https://app.example")]
        assert self.finder.find(None, headers, b"") == Found("a.b.c", "cookie:session")

    @pytest.mark.parametrize("line", [b"", b"session=", b"session", b"Session=a.b.c", b"xsession=a.b.c", b"=a.b.c"])
    def test_absent(self, line: bytes) -> None:
        assert self.finder.find(None, [(b"cookie", line), self.origin], b"") is None
        assert self.finder.find(None, [(b"cookie", line)], b"") is None

    @pytest.mark.parametrize("headers", [[], [(b"origin", b"")], [(b"referer", b"https://app.example/")]])
    def test_without_an_origin_it_does_not_count(self, headers: list[tuple[bytes, bytes]]) -> None:
        error = refused(self.finder, None, [(b"cookie", b"session=a.b.c"), *headers], b"")
        assert (error.code, error.detail) == (RejectCode.TOKEN_MISSING, "cookie_without_origin")

    def test_without_an_origin_another_source_still_counts(self) -> None:
        finder = TokenFinder(("cookie:session", "query:q"))
        assert finder.find(None, [(b"cookie", b"session=a.b.c")], b"q=d.e.f") == Found("d.e.f", "query:q")

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"cookie", b"session=a; session=b")],
            [(b"cookie", b"session=a"), (b"cookie", b"session=a")],
            [(b"cookie", b"session=; session=a.b.c")],
        ],
    )
    def test_repeated(self, headers: list[tuple[bytes, bytes]]) -> None:
        error = refused(self.finder, None, [*headers, self.origin], b"")
        assert (error.detail, error.fields) == ("multiple_cookies", {"source": "cookie:session"})


class TestConfiguration:
    @pytest.mark.parametrize(
        ("sources", "text"),
        [
            ("payload", "must be a list, not str"),
            ((), "is empty"),
            (("",), "non-empty strings"),
            ((1,), "non-empty strings"),
            (("Header",), "unknown entry 'Header'"),
            (("payload", "query"), "unknown entry 'query'"),
            (("query:",), "unknown entry 'query:'"),
            (("cookie:",), "unknown entry 'cookie:'"),
            (("body:token",), "unknown entry 'body:token'"),
            (("cookie:a b",), "no cookie can be called"),
            (("cookie:a;b",), "no cookie can be called"),
        ],
    )
    def test_bad_sources(self, sources: Any, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            TokenFinder(sources)
        assert caught.value.option == "sources"

    @pytest.mark.parametrize("keys", ["token", (), ("",), (None,), {"token": 1}])
    def test_bad_payload_keys(self, keys: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            TokenFinder(payload_keys=keys)
        assert caught.value.option == "payload_keys"

    def test_no_payload_keys_are_needed_without_the_payload(self) -> None:
        assert TokenFinder(("header",), ()).find({"token": TOKEN}, [], b"") is None

    def test_what_it_uses(self) -> None:
        def uses(*sources: str) -> tuple[bool, bool]:
            finder = TokenFinder(sources)
            return finder.uses_cookie, finder.uses_query

        assert uses("payload", "header") == (False, False)
        assert uses("query:a") == (False, True)
        assert uses("cookie:a") == (True, False)
        assert uses("cookie:a", "query:a") == (True, True)

    def test_names(self) -> None:
        assert names(["b", "a", "b"], "x", example="…") == ("b", "a")
        assert names({"b", "a"}, "x", example="…") == names(frozenset("ab"), "x", example="…") == ("a", "b")

    def test_a_token_is_not_in_the_repr(self) -> None:
        assert repr(Found(TOKEN, "header")) == "Found(source='header')"


text_or_junk = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just(TOKEN) | st.just(f"Bearer {TOKEN}")
)


@given(
    payload=st.none()
    | st.dictionaries(st.sampled_from(["token", "access_token", "authorization", "x"]), text_or_junk)
    | text_or_junk,
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"Authorization", b"cookie", b"origin", b"host"]),
            st.binary(max_size=20) | st.sampled_from([b"Bearer a.b.c", b"Basic x", b"s=a.b.c", b"https://a.example"]),
        ),
        max_size=4,
    ),
    query=st.binary(max_size=20) | st.sampled_from([b"q=a.b.c", b"q=a&q=b", b"%71=a.b.c"]),
)
def test_nothing_but_a_token_error_comes_out(payload: Any, headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    finder = TokenFinder(("payload", "header", "query:q", "cookie:s"))
    result = outcome(finder.find, payload, headers, query)
    if isinstance(result, TokenError):
        assert result.code in {RejectCode.TOKEN_MALFORMED, RejectCode.TOKEN_MISSING}
    else:
        assert result is None or (result.token and result.source in finder.sources)
