"""Where a token is found, and what is refused of the places where it may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.authenticator import ConnectRequest, shows_page
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.finder import Found, TokenFinder, stray

TOKEN = "aaaa.bbbb.cccc"
OTHER = "dddd.eeee.ffff"
PAYLOAD = Found(TOKEN, "payload")
HEADER = Found(TOKEN, "header")
EVERYWHERE = ("payload", "header", "query:q", "cookie:c")
ORIGIN = (b"origin", b"https://app.example")
Pairs = list[tuple[bytes, bytes]]


def bearer(token: str = TOKEN, scheme: str = "Bearer", name: bytes = b"authorization") -> tuple[bytes, bytes]:
    return name, f"{scheme} {token}".encode()


def cookie(line: str, name: bytes = b"cookie") -> tuple[bytes, bytes]:
    return name, line.encode()


COOKIE = cookie("c=a.b.c")
IN_COOKIE = Found("a.b.c", "cookie:c")


def find(sources: Any, payload: Any, headers: Pairs, query: bytes, *keys: str) -> Found | TokenError | None:
    """What is found, or the TokenError; anything else that is raised fails the test."""
    finder = TokenFinder(*filter(None, (sources, keys)))
    request = asked(payload, headers, query)
    request.page_shown = shows_page(request, ["https://app.example"], None)
    try:
        return finder.find(request) or finder.find_cookie(request)
    except TokenError as error:
        return error


def asked(payload: Any, headers: Pairs, query: bytes) -> ConnectRequest:
    return ConnectRequest(headers, query, {}, payload)


@pytest.mark.parametrize(
    ("sources", "payload", "headers", "query", "found"),
    [
        # The payload goes before an old header, whatever the order of the sources.
        ((), {"token": TOKEN}, [bearer(OTHER)], b"", PAYLOAD),
        (("header", "payload"), {"token": TOKEN}, [bearer(OTHER)], b"", PAYLOAD),
        ((), {"token": TOKEN}, [bearer(), bearer()], b"", PAYLOAD),
        # The header counts when the payload has none.
        *(
            ((), payload, [bearer()], b"", HEADER)
            for payload in (
                *(None, {}, {"token": None}, {"token": ""}, {"a": 1}),
                {"token": "", "access_token": None, "authorization": ""},
            )
        ),
        # Others follow in their order, and only named sources are read.
        (("query:q", "cookie:c", "header"), None, [COOKIE, ORIGIN], b"q=d.e.f", Found("d.e.f", "query:q")),
        (("cookie:c", "query:q", "header"), None, [COOKIE, ORIGIN], b"q=d.e.f", Found("d.e.f", "query:q")),
        (("cookie:c", "query:q", "header"), None, [COOKIE, ORIGIN, bearer()], b"q=d.e.f", HEADER),
        (("payload",), {}, [bearer(), cookie("token=a.b.c"), ORIGIN], b"token=a.b.c", None),
        (("header",), {"token": OTHER}, [], b"token=a.b.c", None),
        ((), None, [cookie("token=a.b.c"), ORIGIN], b"token=a.b.c", None),
        # In the payload, authorization needs the scheme; another scheme is none.
        *(
            ((), {"authorization": written}, [], b"", PAYLOAD)
            for scheme in ("Bearer", "bearer", "BEARER", "bEaReR")
            for written in (f"{scheme} {TOKEN}", f" {scheme}   {TOKEN} ")
        ),
        *(
            ((), {"authorization": value}, headers, b"", found)
            for value in ("Basic dXNlcg==", TOKEN, "Bearer", "Bearer ", "Bearerx a.b.c", "Token a.b.c")
            for headers, found in (([], None), ([bearer(OTHER)], Found(OTHER, "header")))
        ),
        # So it is in headers, of which others are ignored.
        *(
            ((), None, [(b"host", b"a"), bearer(scheme=scheme, name=name)], b"", HEADER)
            for name in (b"authorization", b"Authorization", b"AUTHORIZATION")
            for scheme in ("Bearer", "bearer", "BEARER")
        ),
        *(
            ((), None, [(b"authorization", value)], b"", None)
            for value in (b"Basic dXNlcg==", b"Digest a=b", b"", b"Bearer", b"Bearer ", b"Bearer\ta.b.c")
        ),
        ((), None, [bearer("dXNlcg==", "Basic"), bearer(), bearer("abc", "Negotiate")], b"", HEADER),
        # Query.
        *(
            (EVERYWHERE, None, [], query, Found("a.b.c", "query:q"))
            for query in (b"q=a.b.c", b"EIO=4&q=a.b.c&transport=polling", b"%71=a%2Eb.c")
        ),
        *((EVERYWHERE, None, [], query, None) for query in (b"", b"EIO=4", b"q=", b"Q=a.b.c", b"qs=a.b.c", b"q")),
        # Cookies, beside an origin.
        *(
            (EVERYWHERE, None, [cookie(line), ORIGIN], b"", IN_COOKIE)
            for line in ("c=a.b.c", "a=1; c=a.b.c; b=2", "a;c=a.b.c", 'c="a.b.c"', " c = a.b.c ")
        ),
        (
            EVERYWHERE,
            None,
            [cookie("a=1"), cookie("c=a.b.c", b"Cookie"), (b"Origin", b"https://app.example")],
            b"",
            IN_COOKIE,
        ),
        *(
            (EVERYWHERE, None, [cookie(line), *origin], b"", None)
            for line in ("", "c=", "c", "C=a.b.c", "xc=a.b.c", "=a.b.c")
            for origin in ([], [ORIGIN])
        ),
        # Without one, another source still counts.
        (("cookie:c", "query:q"), None, [COOKIE], b"q=d.e.f", Found("d.e.f", "query:q")),
    ],
)
def test_found(sources: Any, payload: Any, headers: Pairs, query: bytes, found: Found | None) -> None:
    assert find(sources, payload, headers, query) == found


def in_payload(**fields: str) -> dict[str, str]:
    return {"source": "payload", **fields}


@pytest.mark.parametrize(
    ("payload", "headers", "query", "detail", "fields"),
    [
        # What is no text is refused without falling back.
        *(
            ({key: value}, [bearer()], b"", "not_a_string", in_payload(key=key, received=type(value).__name__))
            for key in ("token", "access_token", "authorization")
            for value in (0, 1, False, True, 1.5, [], ["a.b.c"], {}, {"a": 1}, b"a.b.c")
        ),
        *(
            (payload, [bearer()], b"", "not_an_object", in_payload(received=type(payload).__name__))
            for payload in ("a.b.c", [], 5, True)
        ),
        # Two are refused even when they are equal.
        *(
            (None, [bearer(), bearer(second)], b"", "multiple_headers", {"source": "header"})
            for second in (TOKEN, OTHER, "")
        ),
        *(
            (None, [], query, "multiple_parameters", {"source": "query:q"})
            for query in (b"q=a&q=a", b"q=&q=a.b.c", b"q=a&%71=b")
        ),
        *(
            (None, [*cookies, ORIGIN], b"", "multiple_cookies", {"source": "cookie:c"})
            for cookies in ([cookie("c=a; c=b")], [cookie("c=a"), cookie("c=a")], [cookie("c=; c=a.b.c")])
        ),
        *(
            (None, [(b"authorization", value)], b"", "not_base64url", {"source": "header"})
            for value in (b"Bearer a.b.\xff", "Bearer ａ.b.c".encode(), b"Bearer \x80")
        ),
        (None, [], b"a=1&" * 300 + b"q=a.b.c", "query_malformed", {"source": "query:q"}),
    ],
)
def test_refused(payload: Any, headers: Pairs, query: bytes, detail: str, fields: dict[str, Any]) -> None:
    error = find(EVERYWHERE, payload, headers, query)
    assert isinstance(error, TokenError)
    assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_MALFORMED, detail, fields)
    assert TOKEN not in f"{error}{error.fields}"


@pytest.mark.parametrize("headers", [[], [(b"origin", b"")], [(b"referer", b"https://app.example/")]])
def test_a_cookie_without_an_origin_does_not_count(headers: Pairs) -> None:
    assert find(EVERYWHERE, None, [cookie("c=a.b.c"), *headers], b"") is None
    assert TokenFinder(EVERYWHERE).missed_cookie(asked(None, [cookie("c=a.b.c"), *headers], b""))


@pytest.mark.parametrize(
    ("keys", "payload", "token"),
    [
        (("jwt", "token"), {"token": OTHER, "jwt": TOKEN}, TOKEN),
        (("jwt", "token"), {"token": OTHER, "jwt": ""}, OTHER),
        (("jwt", "token"), {"access_token": OTHER}, None),
        (("Authorization",), {"Authorization": f"Bearer {TOKEN}"}, TOKEN),
    ],
)
def test_the_first_key_with_a_value_counts(keys: tuple[str, ...], payload: dict[str, Any], token: str | None) -> None:
    assert find(("payload",), payload, [], b"", *keys) == (None if token is None else Found(token, "payload"))


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([cookie(f"c.0={TOKEN[:5]}; c.1={TOKEN[5:]}"), ORIGIN], TOKEN),
        ([cookie(f"c_1={TOKEN[5:]}; c_0={TOKEN[:5]}"), ORIGIN], TOKEN),
        ([cookie(f"c_0={TOKEN[:5]}"), cookie(f"c_1={TOKEN[5:]}"), ORIGIN], TOKEN),
        ([cookie(f"c_0={OTHER}; c={TOKEN}"), ORIGIN], TOKEN),  # the whole one counts
        ([cookie(f"c_0={TOKEN}; c_2=x"), ORIGIN], TOKEN),
        ([cookie(f"c_1={TOKEN}"), ORIGIN], None),
        ([cookie(f"c-0={TOKEN}"), ORIGIN], None),
        ([cookie("; ".join(f"c.{n}=a" for n in range(99))), ORIGIN], "a" * 16),
    ],
)
def test_a_cookie_in_chunks(headers: Pairs, token: str | None) -> None:
    assert find(("cookie:c",), None, headers, b"") == (None if token is None else Found(token, "cookie:c"))


@pytest.mark.parametrize("line", [f"c_0={TOKEN}; c_0={TOKEN}", f"c_0={TOKEN}; c.0={TOKEN}"])
def test_a_cookie_in_chunks_that_is_there_twice(line: str) -> None:
    error = find(("cookie:c",), None, [cookie(line), ORIGIN], b"")
    assert isinstance(error, TokenError)
    assert error.detail == "multiple_cookies"


def test_a_header_of_ones_own() -> None:
    sources = ("payload", "header:X-Access-Token")
    for value in (TOKEN, f" Bearer {TOKEN} ", f"bearer {TOKEN}"):
        headers = [bearer(OTHER), (b"x-access-token", value.encode())]
        assert find(sources, None, headers, b"") == Found(TOKEN, "header:X-Access-Token")
        assert find(sources, {"token": OTHER}, headers, b"") == Found(OTHER, "payload")
    error = find(sources, None, [(b"x-access-token", b"a.b.c"), (b"X-Access-Token", b"d.e.f")], b"")
    assert isinstance(error, TokenError)
    assert (error.detail, error.fields) == ("multiple_headers", {"source": "header:X-Access-Token"})


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"


@pytest.mark.parametrize(
    ("payload", "headers", "query", "hint"),
    [
        ({"jwt": JWT}, [], b"", "payload_keys=('jwt',)"),
        ({"bearer": f"Bearer {JWT}"}, [], b"", "payload:bearer"),
        (None, [(b"x-access-token", JWT.encode())], b"", "'header:x-access-token'"),
        (None, [cookie(f"lang=en; session={JWT}")], b"", "'cookie:session'"),
        (None, [], f"EIO=4&token={JWT}".encode(), "'query:token'"),
        (None, [bearer(JWT, "Token")], b"", "came with 'Token' before the token"),
        (None, [(b"authorization", JWT.encode())], b"", "came with nothing before"),
        (None, [bearer(JWT, "x" * 99)], b"", f"{'x' * 15}"),
        ({"a\x1b\u202e": JWT}, [], b"", "payload:a\\u001b\\u202e"),
        (None, [bearer("dXNlcjpwYXNz", "Basic")], b"", None),  # a proxy's
        (None, [bearer("", "Negotiate")], b"", None),
        (None, [], b"&".join([b"a=1"] * 999), None),
        ({"token": 5, "user": "eyJ"}, [(b"x", b"eyJ.a"), cookie("a")], b"EIO=4", None),
        (None, [], b"", None),
    ],
)
def test_a_token_that_is_elsewhere_is_named(payload: Any, headers: Pairs, query: bytes, hint: str | None) -> None:
    said = stray(asked(payload, headers, query))
    if hint is None:
        assert said is None
    else:
        assert said is not None
        assert hint in said
        assert JWT not in said


class TestConfiguration:
    @pytest.mark.parametrize(
        ("sources", "text"),
        [
            ("payload", "must be a list, not str"),
            ((), "is empty"),
            *((entries, "non-empty strings") for entries in (("",), (1,))),
            *(
                (("payload", entry), f"unknown entry '{entry}'")
                for entry in ("Header", "query", "query:", "cookie:", "header:", "body:token")
            ),
            *((entries, "no cookie can be called") for entries in (("cookie:a b",), ("cookie:a;b",))),
            (("header:x token",), "no header can be called"),
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
        assert TokenFinder(("header",), ()).find(asked({"token": TOKEN}, [], b"")) is None

    @pytest.mark.parametrize("sources", [("payload", "header"), ("query:a",), ("cookie:a",), ("cookie:a", "query:a")])
    def test_whether_it_uses_cookies(self, sources: tuple[str, ...]) -> None:
        assert TokenFinder(sources).uses_cookie is ("cookie:a" in sources)

    def test_sources_are_named_once_and_sorted_where_they_have_no_order(self) -> None:
        assert TokenFinder(["query:b", "header", "query:b"]).sources == ("query:b", "header")
        assert TokenFinder({"query:b", "header"}).sources == ("header", "query:b")  # type: ignore[arg-type]

    def test_a_token_is_not_in_the_repr(self) -> None:
        assert repr(HEADER) == "Found(source='header')"


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
            st.binary(max_size=20) | st.sampled_from([b"Bearer a.b.c", b"Basic x", b"c=a.b.c", b"https://a.example"]),
        ),
        max_size=4,
    ),
    query=st.binary(max_size=20) | st.sampled_from([b"q=a.b.c", b"q=a&q=b", b"%71=a.b.c"]),
)
def test_nothing_but_a_token_error_comes_out(payload: Any, headers: Pairs, query: bytes) -> None:
    result = find(EVERYWHERE, payload, headers, query)
    if isinstance(result, TokenError):
        assert result.code in {RejectCode.TOKEN_MALFORMED, RejectCode.TOKEN_MISSING}
    else:
        assert result is None or (result.token and result.source in EVERYWHERE)


@pytest.mark.parametrize("prefix", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_taken_off_where_none_belongs(prefix: str) -> None:
    assert find(EVERYWHERE, {"token": prefix + TOKEN}, [], b"") == Found(TOKEN, "payload")
    assert find(EVERYWHERE, None, [], f"q={prefix}{TOKEN}".replace(" ", "+").encode()) == Found(TOKEN, "query:q")
    # Without anything after it, it is none.
    assert find(EVERYWHERE, {"token": prefix}, [bearer()], b"") == Found(TOKEN, "header")


class TestFunctions:
    """Functions of the request among the sources."""

    def test_what_it_returns_is_the_token(self) -> None:
        def from_path(request: ConnectRequest) -> str | None:
            return request.query_params.get("ticket")

        finder = TokenFinder(("payload", from_path))
        assert finder.find(asked({"token": TOKEN}, [], b"ticket=d.e.f")) == PAYLOAD
        assert finder.find(asked(None, [], b"ticket=Bearer%20d.e.f")) == Found("d.e.f", "from_path()")
        assert finder.find(asked(None, [], b"")) is None
        assert finder.named == ["payload", "from_path()"]

    def test_what_is_no_token(self) -> None:
        finder = TokenFinder((lambda request: 5,))  # type: ignore[arg-type, return-value]
        with pytest.raises(TokenError) as caught:
            finder.find(asked(None, [], b""))
        assert (caught.value.detail, caught.value.fields["source"]) == ("not_a_string", "<lambda>()")

    @pytest.mark.parametrize("source", [lambda: None, lambda a, b: None])
    def test_what_is_no_function_of_a_request(self, source: Any) -> None:
        with pytest.raises(ConfigurationError, match="write a function of the request"):
            TokenFinder((source,))
