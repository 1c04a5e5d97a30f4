"""Rules for claims: dates, subject, issuer, audience, scopes, and further claims."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.auth import JWTAuth
from socketguard.tokens.claims import ANY, ClaimRules
from tests.tokens.minting import (
    ISSUER,
    NOW,
    SECRET,
    claims,
    make,
    mint,
    outcome,
    raw_claims,
    refused,
    sign,
)


def rules(issuer: Any) -> ClaimRules:
    return ClaimRules(
        issuer=issuer,
        audience=None,
        leeway=10,
        require=("exp", "sub"),
        subject_claim="sub",
        token_id_claim="jti",
        scope_claim="scope",
        max_lifetime=None,
        claims=None,
        templates=True,
        clock=lambda: NOW,
    )


class TestDates:
    BAD = ('"9999999999"', "true", "false", "[]", "{}", "1e300", "-1e300", "1" + "0" * 400, "9007199254740992")

    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", [*BAD, "1800000060000", "253402300800"])
    def test_no_numeric_date(self, claim: str, value: str) -> None:
        error = refused(make(), raw_claims(f'"{claim}": {value}'))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "claim_type")
        assert error.fields["claim"] == claim
        assert ("milliseconds" in error.fields.get("hint", "")) is (error.fields["received"] == "number")

    @pytest.mark.parametrize("claim", ["nbf", "iat"])
    def test_null_is_no_date(self, claim: str) -> None:
        error = refused(make(), mint(**{claim: None}))
        assert (error.detail, error.fields["received"]) == ("claim_type", "null")

    def test_null_is_no_end(self) -> None:
        assert refused(make(), mint(exp=None)).fields == {"claim": "exp"}
        assert refused(make(require=()), mint(exp=None)).detail == "claim_type"

    @pytest.mark.parametrize(("exp", "ok"), [(NOW - 9, True), (NOW - 9.5, False), (NOW - 10, False), (1, False)])
    def test_expired_beyond_the_leeway(self, exp: float, ok: bool) -> None:
        result = outcome(make(), mint(exp=exp))
        assert isinstance(result, Identity) is ok

    def test_expired_says_since_when(self) -> None:
        error = refused(make(leeway=0), mint(exp=NOW - 3600))
        assert (error.code, error.detail, error.fields) == (
            RejectCode.TOKEN_EXPIRED,
            "expired",
            {"expired_s": 3600},
        )

    def test_at_the_very_second_it_is_over(self) -> None:
        assert refused(make(leeway=0), mint(exp=NOW)).detail == "expired"
        assert make(leeway=0).verify(mint(exp=NOW + 1)).expires_at == NOW + 1

    def test_fractions_of_a_second(self) -> None:
        assert make(leeway=0).verify(mint(exp=NOW + 1.9, iat=NOW - 0.5)) == Identity(
            "ann", claims(exp=NOW + 1.9, iat=NOW - 0.5), issued_at=NOW - 0.5, expires_at=NOW + 1
        )
        assert refused(make(leeway=0), mint(exp=NOW + 0.9)).detail == "expired"

    @pytest.mark.parametrize(("claim", "detail"), [("nbf", "not_before"), ("iat", "issued_in_future")])
    def test_not_yet(self, claim: str, detail: str) -> None:
        assert make().verify(mint(**{claim: NOW + 10})).subject == "ann"
        error = refused(make(), mint(**{claim: NOW + 11}))
        assert (error.code, error.detail) == (RejectCode.TOKEN_NOT_YET_VALID, detail)
        assert error.fields == {"valid_in_s": 11}

    def test_far_away_but_sane(self) -> None:
        assert make().verify(mint(exp=253402300799, iat=-1, nbf=0)).expires_at == 253402300799

    def test_a_broken_clock_lets_nobody_in(self) -> None:
        for changes in ({}, {"nbf": 1}, {"iat": 1}):
            assert refused(make(clock=lambda: math.nan), mint(**changes)).detail == "unexpected_error"
        for changes in ({"nbf": 1}, {"iat": 1}):
            auth = make(clock=lambda: math.nan, require=())
            assert refused(auth, mint(exp=..., **changes)).detail == "unexpected_error"
        assert refused(make(clock=lambda: 1 / 0), mint()).fields == {"exception": "ZeroDivisionError"}

    def test_the_default_clock_is_the_time_of_day(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"])
        now = datetime.datetime.now(datetime.UTC).timestamp()
        assert auth.verify(mint(exp=now + 3600)).subject == "ann"
        assert refused(auth, mint(exp=now - 3600)).detail == "expired"

    def test_the_longest_lifetime(self) -> None:
        auth = make(max_lifetime=3600)
        assert auth.verify(mint(exp=NOW + 3600)).subject == "ann"
        assert auth.verify(mint(exp=NOW + 3600, iat=NOW)).subject == "ann"
        assert auth.verify(mint(exp=NOW + 1800, iat=NOW - 1800)).subject == "ann"
        for changes in ({"exp": NOW + 3601}, {"exp": NOW + 3601, "iat": NOW}, {"exp": NOW + 1, "iat": NOW - 3600}):
            error = refused(auth, mint(**changes))
            assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "lifetime_too_long")
            assert error.fields == {"lifetime_s": 3601, "limit_s": 3600}


class TestRequired:
    @pytest.mark.parametrize("claim", ["exp", "sub"])
    @pytest.mark.parametrize("value", [..., None])
    def test_by_default(self, claim: str, value: Any) -> None:
        error = refused(make(), mint(**{claim: value}) if value is ... else raw_claims(f'"{claim}": null'))
        assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_INVALID, "claim_missing", {"claim": claim})

    def test_more_may_be_required(self) -> None:
        auth = make(require=("exp", "sub", "jti", "tenant"))
        assert refused(auth, mint(jti="1")).fields == {"claim": "tenant"}
        assert auth.verify(mint(jti="1", tenant=0)).token_id == "1"

    @pytest.mark.parametrize("require", [(), [], {"sub"}])
    def test_without_an_end_only_when_written_out(self, require: Any) -> None:
        auth = make(require=require)
        assert auth.verify(mint(exp=...)).expires_at is None
        assert refused(auth, mint(exp=NOW - 100)).detail == "expired"
        assert refused(auth, mint(exp="never")).detail == "claim_type"

    def test_the_subject_is_always_required(self) -> None:
        assert refused(make(require=()), mint(sub=...)).fields == {"claim": "sub"}
        assert refused(make(require=()), raw_claims('"sub": null')).fields == {"claim": "sub"}


class TestSubject:
    @pytest.mark.parametrize(("value", "subject"), [("ann", "ann"), (42, "42"), (0, "0"), (-1, "-1"), (" ", " ")])
    def test_text_or_a_whole_number(self, value: Any, subject: str) -> None:
        assert make().verify(sign({"alg": "HS256"}, claims(sub=value))).subject == subject

    @pytest.mark.parametrize("value", ["", True, False, 1.0, [], ["ann"], {}])
    def test_anything_else(self, value: Any) -> None:
        error = refused(make(), sign({"alg": "HS256"}, claims(sub=value)))
        assert (error.detail, error.fields["claim"]) == ("claim_type", "sub")

    def test_another_claim(self) -> None:
        auth = make(subject_claim="email")
        assert auth.verify(mint(email="ann@example.com")).subject == "ann@example.com"
        assert auth.verify(mint(email="ann@example.com", sub=...)).subject == "ann@example.com"
        assert refused(auth, mint()).fields == {"claim": "email"}
        assert refused(auth, mint(email="")).fields["claim"] == "email"
        assert refused(auth, sign({"alg": "HS256"}, claims(email="a", sub=["x"]))).fields["claim"] == "sub"

    def test_another_claim_and_sub_when_that_is_written_out(self) -> None:
        auth = make(subject_claim="email", require=("exp", "sub", "email"))
        assert refused(auth, mint(email="ann@example.com", sub=...)).fields == {"claim": "sub"}

    @pytest.mark.parametrize(("value", "token_id"), [("t", "t"), (7, "7"), (..., None)])
    def test_token_ids(self, value: Any, token_id: str | None) -> None:
        assert make().verify(sign({"alg": "HS256"}, claims(jti=value))).token_id == token_id

    @pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}])
    def test_malformed_token_ids(self, value: Any) -> None:
        error = refused(make(), sign({"alg": "HS256"}, claims(jti=value)))
        assert (error.detail, error.fields["claim"]) == ("claim_type", "jti")


class TestIssuer:
    def test_exact(self) -> None:
        assert make(issuer=ISSUER).verify(mint(iss=ISSUER)).issuer == ISSUER
        auth = make(issuer={"a", ISSUER})
        assert (auth.verify(mint(iss="a")).issuer, auth.issuers) == ("a", {"a", ISSUER})

    @pytest.mark.parametrize("issuer", ["https://evil.example/", ISSUER.upper(), ISSUER + "x", ISSUER[:-2], "", "h"])
    def test_others(self, issuer: str) -> None:
        error = refused(make(issuer=ISSUER), mint(iss=issuer))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "issuer_mismatch")
        assert error.fields == {"expected": [ISSUER], "received": issuer}

    def test_a_trailing_slash_is_said(self) -> None:
        for expected, received in ((ISSUER, ISSUER[:-1]), (ISSUER[:-1], ISSUER)):
            error = refused(make(issuer=[expected, "b"]), mint(iss=received))
            assert error.fields["hint"] == "they differ only by a trailing slash"

    def test_missing(self) -> None:
        assert refused(make(issuer=ISSUER), mint()).fields == {"claim": "iss", "expected": [ISSUER]}
        assert make().verify(mint()).issuer is None
        assert make().verify(mint(iss="anybody")).issuer == "anybody"

    @pytest.mark.parametrize("value", [None, 5, [ISSUER], {}, True])
    @pytest.mark.parametrize("issuer", [None, ISSUER])
    def test_no_text(self, issuer: str | None, value: Any) -> None:
        error = refused(make(issuer=issuer), sign({"alg": "HS256"}, claims(iss=value)))
        assert (error.detail, error.fields["claim"]) == ("claim_type", "iss")

    def test_what_was_received_is_harmless_in_a_log(self) -> None:
        assert refused(make(issuer=ISSUER), mint(iss="a\r\nb")).fields["received"] == "a\\u000d\\u000ab"


class TestAudience:
    @pytest.mark.parametrize("value", ["crm", ["crm"], ["mail", "crm"], "hr"])
    def test_one_must_match(self, value: Any) -> None:
        assert make(audience=("crm", "hr")).verify(mint(aud=value)).subject == "ann"

    @pytest.mark.parametrize("value", ["CRM", "crm2", "cr", ["mail"], [], "", ["c", "r", "m"]])
    def test_none_matches(self, value: Any) -> None:
        error = refused(make(audience="crm"), mint(aud=value))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "audience_mismatch")
        received = [value] if isinstance(value, str) else value
        assert error.fields == {"expected": ["crm"], "received": received}

    @pytest.mark.parametrize("value", ["crm", ["crm"], [], ""])
    def test_unexpected(self, value: Any) -> None:
        error = refused(make(), mint(aud=value))
        assert (error.detail, error.fields["expected"]) == ("audience_mismatch", [])
        assert "add audience=" in error.fields["hint"]

    def test_missing(self) -> None:
        assert refused(make(audience="crm"), mint()).fields == {"claim": "aud", "expected": ["crm"]}

    @pytest.mark.parametrize("value", [None, 5, True, {"crm": 1}, ["crm", 5], [None], [["crm"]]])
    @pytest.mark.parametrize("audience", [None, "crm"])
    def test_no_text(self, audience: str | None, value: Any) -> None:
        error = refused(make(audience=audience), sign({"alg": "HS256"}, claims(aud=value)))
        assert (error.detail, error.fields["claim"]) == ("claim_type", "aud")

    def test_hint_and_length_of_what_is_logged(self) -> None:
        error = refused(make(audience="https://api/"), mint(aud=["https://api", *map(str, range(50))]))
        assert error.fields["hint"] == "they differ only by a trailing slash"
        assert len(error.fields["received"]) == 8


class TestScopes:
    @pytest.mark.parametrize(
        ("value", "scopes"),
        [
            ("a b", {"a", "b"}),
            ("  a   b ", {"a", "b"}),
            ("", set()),
            ("a\u2003b\tc", {"a\u2003b\tc"}),
            (["a", "b c"], {"a", "b c"}),
            ([], set()),
            (None, set()),
            (..., set()),
        ],
    )
    def test_text_or_array(self, value: Any, scopes: set[str]) -> None:
        assert make().verify(mint(scope=value)).scopes == scopes

    @pytest.mark.parametrize("value", [5, True, {"a": 1}, ["a", 5], [None], [["a"]]])
    def test_anything_else(self, value: Any) -> None:
        error = refused(make(), mint(scope=value))
        assert (error.detail, error.fields["claim"]) == ("claim_type", "scope")

    def test_claims_are_not_united(self) -> None:
        assert make(scope_claim="scp").verify(mint(scope="admin", scp=["a"], roles=["root"])).scopes == {"a"}

    @pytest.mark.parametrize(
        ("extra", "scopes"),
        [
            ({"realm_access": {"roles": ["a", "b"]}}, {"a", "b"}),
            ({"realm_access.roles": "c", "realm_access": {"roles": ["a"]}}, {"c"}),
            ({"realm_access.roles": None, "realm_access": {"roles": ["a"]}}, set()),
            ({"realm_access": {}}, set()),
            ({"realm_access": ["roles"]}, set()),
            ({"realm_access": "roles"}, set()),
            ({}, set()),
        ],
    )
    def test_a_dotted_path(self, extra: dict[str, Any], scopes: set[str]) -> None:
        assert make(scope_claim="realm_access.roles").verify(mint(**extra)).scopes == scopes

    def test_a_name_that_happens_to_have_dots(self) -> None:
        name = "https://example.com/roles"
        assert make(scope_claim=name).verify(mint(**{name: ["a"]})).scopes == {"a"}

    @pytest.mark.parametrize(
        ("function", "scopes"),
        [
            (lambda claims: claims["groups"], {"a", "b"}),
            (lambda claims: {f"g:{group}" for group in claims["groups"]}, {"g:a", "g:b"}),
            (lambda claims: (group for group in claims["groups"]), {"a", "b"}),
            (lambda claims: "a b", {"a", "b"}),
            (lambda claims: None, set()),
        ],
    )
    def test_a_function(self, function: Callable[..., Any], scopes: set[str]) -> None:
        assert make(scope_claim=function).verify(mint(groups=["a", "b"])).scopes == scopes

    def test_a_function_that_fails_lets_nobody_in(self) -> None:
        error = refused(make(scope_claim=lambda claims: claims["groups"]), mint())
        assert (error.code, error.detail, error.fields) == (
            RejectCode.TOKEN_INVALID,
            "unexpected_error",
            {"exception": "KeyError"},
        )
        assert refused(make(scope_claim=lambda claims: [1]), mint()).detail == "claim_type"
        assert refused(make(scope_claim=lambda claims: 5), mint()).fields == {"exception": "TypeError"}


class TestAny:
    def test_nothing_is_checked_but_the_type(self) -> None:
        auth = make(issuer=ANY, audience=ANY)
        for changes in ({}, {"iss": "anybody"}, {"aud": "mail"}, {"aud": ["a", "b"]}, {"aud": []}):
            assert auth.verify(mint(**changes)).issuer == changes.get("iss")
        assert refused(auth, sign({"alg": "HS256"}, claims(iss=5))).fields["claim"] == "iss"
        assert refused(auth, mint(aud=[5])).fields["claim"] == "aud"
        assert refused(auth, mint(aud=5)).fields["claim"] == "aud"

    def test_it_shows_its_name(self) -> None:
        assert repr(ANY) == "ANY"


class TestTemplate:
    TEMPLATE = "https://login.example.com/{tid}/v2.0"

    def identity(self, template: Any = TEMPLATE, **said: Any) -> Identity:
        return rules(template).identity(claims(**said), None)

    @pytest.mark.parametrize("template", [TEMPLATE, [TEMPLATE, "https://other.example.com/"]])
    def test_with_the_claim_of_the_token(self, template: Any) -> None:
        issuer = "https://login.example.com/acme/v2.0"
        assert self.identity(template, iss=issuer, tid="acme").issuer == issuer

    def test_several_claims(self) -> None:
        template = "https://login.example.com/{region}/{tid}-{region}"
        issuer = "https://login.example.com/eu/acme-eu"
        assert self.identity(template, iss=issuer, tid="acme", region="eu").issuer == issuer
        with pytest.raises(TokenError, match="Invalid token"):
            self.identity(template, iss=issuer, tid="acme-eu", region="")

    @pytest.mark.parametrize(
        ("issuer", "tid"),
        [
            ("https://login.example.com/acme/v2.0", "other"),
            ("https://login.example.com/acme/v2.0", ...),
            ("https://login.example.com/None/v2.0", None),
            ("https://login.example.com/5/v2.0", 5),
            ("https://login.example.com/True/v2.0", True),
            ("https://login.example.com//v2.0", ""),
            ("https://login.example.com/a/b/v2.0", "a/b"),
            ("https://login.example.com/acme/v2.0/", "acme"),
            ("https://login.example.com/acme/v1.0", "acme"),
            ("https://evil.example.com/acme/v2.0", "acme"),
            (TEMPLATE, "acme"),
            (TEMPLATE, ...),
            ("https://login.example.com/{tid}/v2.0", ["{tid}"]),
        ],
    )
    def test_anything_else(self, issuer: str, tid: Any) -> None:
        with pytest.raises(TokenError) as caught:
            self.identity(iss=issuer, tid=tid)
        assert caught.value.detail == "issuer_mismatch"
        assert caught.value.fields["expected"] == [self.TEMPLATE]

    def test_missing(self) -> None:
        with pytest.raises(TokenError) as caught:
            self.identity(tid="acme")
        assert caught.value.fields == {"claim": "iss", "expected": [self.TEMPLATE]}

    @given(tid=st.text(max_size=6) | st.none() | st.integers() | st.booleans(), issuer=st.none() | st.text(max_size=6))
    def test_it_is_taken_exactly_when_it_should_be(self, tid: Any, issuer: str | None) -> None:
        iss = f"https://login.example.com/{tid if issuer is None else issuer}/v2.0"
        good = isinstance(tid, str) and tid != "" and "/" not in tid and iss == f"https://login.example.com/{tid}/v2.0"
        try:
            self.identity(iss=iss, tid=tid)
        except TokenError:
            assert not good
        else:
            assert good

    @pytest.mark.parametrize(
        "template",
        [
            "https://{tid}/v2.0",
            "https://{tid}.example.com/v2.0",
            "https://example.com{tid}/v2.0",
            "{tid}",
            "example.com/{tid}",
            "https://example.com/{}",
            "https://example.com/{iss}",
            "https://example.com/{tid",
            "https://example.com/tid}",
            "https://example.com/{{tid}}",
        ],
    )
    def test_templates_that_mean_nothing_or_everything(self, template: str) -> None:
        with pytest.raises(ConfigurationError, match="placeholder") as caught:
            rules(template)
        assert caught.value.option == "issuer"

    def test_the_form_of_an_issuer(self) -> None:
        some = rules([self.TEMPLATE, "https://b.example.com/"])
        assert some.accepts_issuer("https://b.example.com/")
        assert some.accepts_issuer("https://login.example.com/acme/v2.0")
        assert not some.accepts_issuer("https://login.example.com/a/b/v2.0")
        assert not some.accepts_issuer("https://loginXexample.com/acme/v2.0")
        assert rules(ANY).accepts_issuer("anybody")


class TestOtherClaims:
    @pytest.mark.parametrize("value", ["Bearer", "DPoP"])
    def test_as_expected(self, value: str) -> None:
        auth = make(claims={"typ": ["Bearer", "DPoP"], "level": 1, "member": True})
        assert auth.verify(mint(typ=value, level=1, member=True)).subject == "ann"

    @pytest.mark.parametrize(
        ("expected", "value"),
        [
            ("Bearer", "ID"),
            ("Bearer", "bearer"),
            ("Bearer", "Bearer "),
            ("Bearer", ["Bearer"]),
            ("Bearer", {"Bearer": 1}),
            ("Bearer", True),
            (1, True),
            (1, 1.0),
            (1, "1"),
            (True, 1),
            (True, "true"),
            (False, 0),
        ],
    )
    def test_anything_else(self, expected: Any, value: Any) -> None:
        error = refused(make(claims={"typ": expected}), mint(typ=value))
        assert (error.code, error.detail, error.fields["claim"]) == (RejectCode.TOKEN_INVALID, "claim_mismatch", "typ")
        assert error.fields["expected"] == [expected]

    def test_what_was_received_is_harmless_in_a_log(self) -> None:
        error = refused(make(claims={"typ": {"Bearer"}}), mint(typ="I\nD"))
        assert error.fields == {"claim": "typ", "expected": ["Bearer"], "received": "I\\u000aD"}

    @pytest.mark.parametrize("value", [..., None])
    def test_missing(self, value: Any) -> None:
        error = refused(make(claims={"typ": "Bearer"}), mint(typ=value))
        assert (error.detail, error.fields) == ("claim_missing", {"claim": "typ", "expected": ["Bearer"]})

    def test_described(self) -> None:
        assert make(claims={"typ": {"b", "a"}}).describe()["claims"] == {"typ": ["a", "b"]}
