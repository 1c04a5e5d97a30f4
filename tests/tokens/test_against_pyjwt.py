"""Nothing that PyJWT refuses is accepted, and nothing but a `TokenError` ever comes out."""

from __future__ import annotations

import datetime
import json
import math
import warnings
from typing import Any
from unittest import mock

import jwt
import jwt.api_jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketguard.connection import Identity
from socketguard.errors import TokenError
from socketguard.tokens.auth import JWTAuth
from tests.tokens.minting import ISSUER, NOW, OTHER_SECRET, P256, P256_NEXT, SECRET, claims, make, outcome, sign


class FrozenDatetime(datetime.datetime):
    """The clock that PyJWT reads."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> FrozenDatetime:
        return cls.fromtimestamp(NOW, tz)


def pyjwt_refuses(token: str, key: Any, algorithm: str, **checks: Any) -> Exception | None:
    """What PyJWT says to the same token under the same settings.

    Subjects and token ids that are whole numbers are the only thing in which PyJWT is stricter, so that its checks of
    those two are switched off where the claim is such a number.
    """
    options: dict[str, Any] = {"require": ["exp", "sub"]}
    try:
        said = jwt.decode(token, options={"verify_signature": False})
        for name in ("sub", "jti"):
            if type(said.get(name)) is int:
                options[f"verify_{name}"] = False
    except Exception:
        said = {}
    try:
        with mock.patch.object(jwt.api_jwt, "datetime", FrozenDatetime), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jwt.decode(token, key, algorithms=[algorithm], options=options, **checks)
    except Exception as exc:  # PyJWT lets more than its own exceptions out
        return exc
    return None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
dates = st.one_of(
    st.integers(NOW - 40, NOW + 40),
    st.floats(NOW - 40, NOW + 40),
    st.sampled_from([0, -1, 2**53, 10**400, 1e300, -1e300, math.inf, math.nan, str(NOW + 60), True, None, "", [NOW]]),
    junk,
)
texts = st.sampled_from(["ann", "", "crm", ISSUER, ISSUER[:-1], "\ud800", "é", "x" * 130, 7, 0, True, None])
members = {
    "sub": texts | junk,
    "exp": dates,
    "nbf": dates,
    "iat": dates,
    "iss": texts | junk,
    "aud": texts | st.lists(texts, max_size=3) | junk,
    "jti": texts | junk,
    "scope": texts | st.lists(texts, max_size=2) | junk,
}
header_members = {
    "alg": st.sampled_from(["HS256", "HS512", "none", "noNE", "hs256", "RS256", "", None, ["HS256"]]) | junk,
    "typ": st.sampled_from(["JWT", "at+jwt", "", None]) | junk,
    "kid": texts | junk,
    "crit": st.sampled_from([[], ["b64"], ["exp"], None]) | junk,
    "b64": st.booleans() | junk,
    "jku": texts,
}


@st.composite
def changed(draw: st.DrawFn, good: dict[str, Any], parts: dict[str, st.SearchStrategy[Any]], odd: bool) -> bytes:
    """A good JSON object with a few members replaced, removed, or repeated; when odd, perhaps in another encoding."""
    pairs = list(good.items())
    for name in draw(st.lists(st.sampled_from(list(parts)), min_size=1, max_size=2)):
        if draw(st.booleans()):
            pairs = [pair for pair in pairs if pair[0] != name]
        if draw(st.integers(0, 4)):
            pairs.append((name, draw(parts[name])))
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    encodings = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"] if odd else ["utf-8"]
    return text.encode(draw(st.sampled_from(encodings)))


@st.composite
def tokens(draw: st.DrawFn, key: Any, algorithm: str, other: Any) -> str:
    """Tokens around the border between good and bad: changed before signing, after signing, or signed by another key.

    Mostly one thing is changed at a time, because of two wrong things only the first would be seen.
    """
    kinds = ["claims"] * 8 + ["header"] * 3 + ["text"] * 3 + ["key", "encoding", "all"]
    kind = draw(st.sampled_from(kinds))
    good = {"sub": "ann", "exp": NOW + 60, "iss": ISSUER, "aud": "crm", "iat": NOW - 1, "jti": "1", "scope": "a"}
    header: Any = {"alg": algorithm, "typ": "JWT"}
    payload: Any = good
    if kind in ("claims", "encoding", "all"):
        payload = draw(changed(good, members, kind != "claims"))
    if kind in ("header", "encoding", "all"):
        header = draw(changed(header, header_members, kind != "header"))
    token = sign(header, payload, other if kind == "key" else key, algorithm)
    if kind in ("text", "all"):
        start = draw(st.integers(0, len(token)))
        end = draw(st.integers(start, min(len(token), start + 3)))
        token = token[:start] + draw(st.text("AQgwz-_.=+/ \n\u0660", max_size=3)) + token[end:]
    return token


# Mostly with an audience: without one every token that names an audience is refused, whatever else it says.
CHECKS = st.sampled_from(
    [
        {},
        {"issuer": ISSUER},
        {"audience": "crm"},
        {"audience": ["crm", "ann"]},
        {"issuer": [ISSUER, "ann"], "audience": ["crm", "é"]},
        {"issuer": ISSUER, "audience": "crm"},
        {"issuer": ISSUER, "audience": "crm", "leeway": 0},
        {"issuer": ISSUER, "audience": "crm", "leeway": 0.5},
    ]
)


def agree(token: str, auth: JWTAuth, key: Any, algorithm: str, **checks: Any) -> None:
    result = outcome(auth, token)
    refusal = pyjwt_refuses(token, key, algorithm, **{"leeway": 10, **checks})
    assert isinstance(result, TokenError) or refusal is None, f"accepted what PyJWT refuses: {refusal!r}"


@settings(max_examples=1000, deadline=None)
@given(token=tokens(SECRET, "HS256", OTHER_SECRET), checks=CHECKS)
def test_what_pyjwt_refuses_is_never_accepted(token: str, checks: dict[str, Any]) -> None:
    auth = make(**checks)
    agree(token, auth, SECRET, "HS256", **checks)
    # Once more with the header in the cache.
    auth.verify(sign({"alg": "HS256"}, claims(iss=ISSUER, **({"aud": "crm"} if "audience" in checks else {}))))
    agree(token, auth, SECRET, "HS256", **checks)


@settings(max_examples=150, deadline=None)
@given(token=tokens(P256, "ES256", P256_NEXT))
def test_what_pyjwt_refuses_is_never_accepted_with_public_keys(token: str) -> None:
    public = P256.public_key()
    checks = {"issuer": ISSUER, "audience": "crm"}
    agree(token, make(public, algorithms=["ES256"], **checks), public, "ES256", **checks)


@given(st.text() | st.binary() | st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\.[A-Za-z0-9_-]{1,20}\.[A-Za-z0-9_-]{1,20}\Z"))
def test_nothing_but_a_token_error_comes_out(token: Any) -> None:
    assert isinstance(outcome(make(), token), TokenError)


@settings(max_examples=300)
@given(payload=st.binary(max_size=100) | st.text('{}[]":,\\u0d8e1-tfn', max_size=100).map(str.encode))
def test_nothing_but_a_token_error_comes_out_of_signed_rubbish(payload: bytes) -> None:
    assert isinstance(outcome(make(), sign({"alg": "HS256"}, payload)), TokenError)


def test_the_comparison_can_fail() -> None:
    """The oracle refuses and accepts what it should, so that the agreement above means something."""
    good = claims(iss=ISSUER, aud="crm")
    assert pyjwt_refuses(jwt.encode(good, SECRET), SECRET, "HS256", audience="crm", leeway=10) is None
    assert pyjwt_refuses(sign({"alg": "HS256"}, {**good, "sub": 7}), SECRET, "HS256", audience="crm") is None
    for changes in ({"exp": NOW - 11}, {"nbf": NOW + 11}, {"aud": "x"}, {"sub": ["x"]}, {"sub": None}):
        token = sign({"alg": "HS256"}, {**good, **changes})
        assert pyjwt_refuses(token, SECRET, "HS256", audience="crm", leeway=10) is not None
        with pytest.raises(AssertionError, match="accepted what PyJWT refuses"):
            agree(token, mock.Mock(**{"verify.return_value": Identity("ann")}), SECRET, "HS256", audience="crm")
