"""Rules for claims: dates, subject, issuer, audience, scopes, and further claims."""

from __future__ import annotations

import dataclasses
import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.auth import JWTAuth
from socketguard.tokens.claims import ANY, ClaimRules
from tests.tokens.minting import ISSUER, NOW, SECRET, claims, make, mint, raw_claims, refused

CODES = {
    "expired": RejectCode.TOKEN_EXPIRED,
    "not_before": RejectCode.TOKEN_NOT_YET_VALID,
    "issued_in_future": RejectCode.TOKEN_NOT_YET_VALID,
}
"""Of details whose code is not ``token_invalid``."""
NAMES = "a string or an array of strings"
NAME = "a non-empty string or an integer"
DATE = "a number of seconds"
SLASH = "they differ only by a trailing slash"
UTI = {"token_id_claim": "uti"}
EMAIL = {"subject_claim": "email"}
KINDS = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object", bytes: "bytes"}
Row = tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]
"""The options, the changed claims, the detail of the refusal, and all its fields."""


def shown(value: Any) -> str:
    return "null" if value is None else KINDS[type(value)]


def mistyped(options: dict[str, Any], claim: str, value: Any, expected: str, **good: Any) -> Row:
    fields = {"claim": claim, "expected": expected, "received": shown(value)}
    return options, {**good, claim: value}, "claim_type", fields


def mismatched(claim: str, value: Any, option: Any, **fields: Any) -> Row:
    """A wrong issuer or audience."""
    named, detail = ("issuer", "issuer_mismatch") if claim == "iss" else ("audience", "audience_mismatch")
    received = [value] if claim == "aud" and isinstance(value, str) else value
    expected = [] if option is None else [option] if isinstance(option, str) else sorted(option)
    return {named: option}, {claim: value}, detail, {"expected": expected, "received": received, **fields}


def vars_of(identity: Identity) -> dict[str, Any]:
    return {field.name: getattr(identity, field.name) for field in dataclasses.fields(identity)}


ACCEPTED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # the options, the changed claims, what the identity says
    # Dates. Fractions of a second of exp are dropped, as PyJWT drops them.
    ({}, {"exp": NOW - 9}, {"expires_at": NOW - 9}),
    ({"leeway": 0}, {"exp": NOW + 1}, {"expires_at": NOW + 1}),
    ({"leeway": 0}, {"exp": NOW + 1.9, "iat": NOW - 0.5}, {"expires_at": NOW + 1, "issued_at": NOW - 0.5}),
    ({}, {"nbf": NOW + 10}, {}),
    ({}, {"iat": NOW + 10}, {"issued_at": NOW + 10}),
    ({}, {"exp": 253402300799, "iat": -1, "nbf": 0}, {"expires_at": 253402300799}),
    ({"max_lifetime": 3600}, {"exp": NOW + 3600}, {}),
    ({"max_lifetime": 3600}, {"exp": NOW + 3600, "iat": NOW}, {}),
    ({"max_lifetime": 3600}, {"exp": NOW + 1800, "iat": NOW - 1800}, {}),
    # Required claims. The end is left out only when that is written out.
    ({"require": ("exp", "sub", "jti", "tenant")}, {"jti": "1", "tenant": 0}, {"token_id": "1"}),
    ({"require": ()}, {"exp": ...}, {"expires_at": None}),
    ({"require": []}, {"exp": ...}, {"expires_at": None}),
    ({"require": {"sub"}}, {"exp": ...}, {"expires_at": None}),
    # Subject and token id: a text or a whole number.
    ({}, {"sub": 42}, {"subject": "42"}),
    ({}, {"sub": 0}, {"subject": "0"}),
    ({}, {"sub": -1}, {"subject": "-1"}),
    ({}, {"sub": " "}, {"subject": " "}),
    *((EMAIL, {"email": "ann@example.com", "sub": sub}, {"subject": "ann@example.com"}) for sub in ("x", ...)),
    ({}, {"jti": "t", "uti": "u"}, {"token_id": "t"}),
    ({}, {"jti": 7}, {"token_id": "7"}),
    ({}, {"uti": "u"}, {"token_id": None}),
    (UTI, {"uti": "u", "jti": "j"}, {"token_id": "u"}),
    (UTI, {"jti": "j"}, {"token_id": None}),
    # Issuer and audience.
    ({}, {}, vars_of(Identity("ann", claims(), expires_at=NOW + 60, credential="jwt"))),
    ({}, {"iss": "anybody"}, {"issuer": "anybody"}),
    ({"issuer": ISSUER}, {"iss": ISSUER}, {"issuer": ISSUER}),
    ({"issuer": {"a", ISSUER}}, {"iss": "a"}, {"issuer": "a"}),
    *(({"audience": ("crm", "hr")}, {"aud": value}, {}) for value in ("crm", ["crm"], ["mail", "crm"], "hr")),
    *(({"issuer": ANY, "audience": ANY}, {"aud": aud}, {}) for aud in (..., "mail", ["a", "b"], [])),
    ({"issuer": ANY, "audience": ANY}, {"iss": "anybody"}, {"issuer": "anybody"}),
    # Scopes. Claims are not united.
    ({}, {"scope": "a b"}, {"scopes": {"a", "b"}}),
    ({}, {"scope": "  a   b "}, {"scopes": {"a", "b"}}),
    ({}, {"scope": ""}, {"scopes": set()}),
    ({}, {"scope": "a\u2003b\tc"}, {"scopes": {"a\u2003b\tc"}}),
    ({}, {"scope": ["a", "b c"]}, {"scopes": {"a", "b c"}}),
    ({}, {"scope": []}, {"scopes": set()}),
    ({}, {"scope": None}, {"scopes": set()}),
    ({}, {"scope": ...}, {"scopes": set()}),
    ({"scope_claim": "scp"}, {"scope": "admin", "scp": ["a"], "roles": ["root"]}, {"scopes": {"a"}}),
    ({"scope_claim": "https://example.com/roles"}, {"https://example.com/roles": ["a"]}, {"scopes": {"a"}}),
    *(
        ({"scope_claim": "realm_access.roles"}, said, {"scopes": scopes})
        for said, scopes in (
            ({"realm_access": {"roles": ["a", "b"]}}, {"a", "b"}),
            ({"realm_access.roles": "c", "realm_access": {"roles": ["a"]}}, {"c"}),
            ({"realm_access.roles": None, "realm_access": {"roles": ["a"]}}, set()),
            ({"realm_access": {}}, set()),
            ({"realm_access": ["roles"]}, set()),
            ({"realm_access": "roles"}, set()),
            ({}, set()),
        )
    ),
    *(
        ({"scope_claim": function}, {"groups": ["a", "b"]}, {"scopes": scopes})
        for function, scopes in (
            (lambda claims: claims["groups"], {"a", "b"}),
            (lambda claims: {f"g:{group}" for group in claims["groups"]}, {"g:a", "g:b"}),
            (lambda claims: (group for group in claims["groups"]), {"a", "b"}),
            (lambda claims: "a b", {"a", "b"}),
            (lambda claims: None, set()),
        )
    ),
    # Other claims.
    *(({"claims": {"typ": ["Bearer", "DPoP"]}}, {"typ": value}, {}) for value in ("Bearer", "DPoP")),
    ({"claims": {"level": 1, "member": True}}, {"level": 1, "member": True}, {}),
]


@pytest.mark.parametrize(("options", "said", "expected"), ACCEPTED)
def test_accepted(options: dict[str, Any], said: dict[str, Any], expected: dict[str, Any]) -> None:
    identity = make(**options).verify(mint(**said))
    assert {name: getattr(identity, name) for name in expected} == expected
    assert identity.claims == claims(**said)


REFUSED: list[Row] = [
    # Dates.
    ({}, {"exp": NOW - 9.5}, "expired", {"expired_s": 10}),
    ({}, {"exp": NOW - 10}, "expired", {"expired_s": 10}),
    ({}, {"exp": 1}, "expired", {"expired_s": NOW - 1}),
    ({"leeway": 0}, {"exp": NOW - 3600}, "expired", {"expired_s": 3600}),
    *(({"leeway": 0}, {"exp": end}, "expired", {"expired_s": 0}) for end in (NOW, NOW + 0.9)),
    ({"require": ()}, {"exp": NOW - 100}, "expired", {"expired_s": 100}),
    *(mistyped({"require": ()}, "exp", value, DATE) for value in ("never", None)),
    *(mistyped({}, claim, None, DATE) for claim in ("nbf", "iat")),
    ({}, {"nbf": NOW + 11}, "not_before", {"valid_in_s": 11}),
    ({}, {"iat": NOW + 11}, "issued_in_future", {"valid_in_s": 11}),
    *(
        ({"max_lifetime": 3600}, said, "lifetime_too_long", {"lifetime_s": 3601, "limit_s": 3600})
        for said in ({"exp": NOW + 3601}, {"exp": NOW + 3601, "iat": NOW}, {"exp": NOW + 1, "iat": NOW - 3600})
    ),
    # A clock that is broken lets nobody in.
    *(
        ({"clock": lambda: math.nan, "require": ()}, said, "unexpected_error", {"exception": "ValueError"})
        for said in ({}, {"nbf": 1}, {"iat": 1}, {"exp": ..., "nbf": 1}, {"exp": ..., "iat": 1})
    ),
    ({"clock": lambda: 1 / 0}, {}, "unexpected_error", {"exception": "ZeroDivisionError"}),
    # Required claims. The subject is one always.
    *(({}, {claim: value}, "claim_missing", {"claim": claim}) for claim in ("exp", "sub") for value in (..., None)),
    ({"require": ("exp", "sub", "jti", "tenant")}, {"jti": "1"}, "claim_missing", {"claim": "tenant"}),
    *(({"require": ()}, {"sub": value}, "claim_missing", {"claim": "sub"}) for value in (..., None)),
    (EMAIL, {}, "claim_missing", {"claim": "email"}),
    ({**EMAIL, "require": ("sub", "email")}, {"email": "a", "sub": ...}, "claim_missing", {"claim": "sub"}),
    # Names of subjects and tokens; sub and jti also where another claim counts.
    *(
        mistyped(options, claim, value, NAME, **good)
        for options, claim, good in (
            ({}, "sub", {}),
            (EMAIL, "email", {}),
            (EMAIL, "sub", {"email": "a"}),
            ({}, "jti", {}),
            (UTI, "uti", {}),
            (UTI, "jti", {"uti": "u"}),
        )
        for value in ("", True, False, 1.0, [], ["ann"], {})
    ),
    *(mistyped(options, claim, None, NAME) for options, claim in (({}, "jti"), (UTI, "uti"), (UTI, "jti"))),
    # The issuer.
    ({"issuer": ISSUER}, {}, "claim_missing", {"claim": "iss", "expected": [ISSUER]}),
    *(
        mismatched("iss", issuer, ISSUER)
        for issuer in ("https://evil.example/", ISSUER.upper(), ISSUER + "x", ISSUER[:-2], "", "h")
    ),
    ({"issuer": ISSUER}, {"iss": "a\r\nb"}, "issuer_mismatch", {"expected": [ISSUER], "received": "a\\u000d\\u000ab"}),
    mismatched("iss", ISSUER[:-1], [ISSUER, "b"], hint=SLASH),
    mismatched("iss", ISSUER, [ISSUER[:-1], "b"], hint=SLASH),
    *(
        mistyped({"issuer": issuer}, "iss", value, "a string")
        for issuer in (None, ISSUER, ANY)
        for value in (None, 5, [ISSUER], {}, True)
    ),
    # The audience.
    ({"audience": "crm"}, {}, "claim_missing", {"claim": "aud", "expected": ["crm"]}),
    *(mismatched("aud", value, "crm") for value in ("CRM", "crm2", "cr", ["mail"], [], "", ["c", "r", "m"])),
    *(
        mismatched("aud", value, None, hint="the token names an audience but JWTAuth has none; add audience=…")
        for value in ("crm", ["crm"], [], "")
    ),
    *(
        mistyped({"audience": audience}, "aud", value, NAMES)
        for audience in (None, "crm", ANY)
        for value in (None, 5, True, {"crm": 1}, ["crm", 5], [None], [["crm"]])
    ),
    (
        {"audience": "https://api/"},
        {"aud": ["https://api", *map(str, range(50))]},
        "audience_mismatch",
        {"expected": ["https://api/"], "received": ["https://api", *map(str, range(7))], "hint": SLASH},
    ),
    # Scopes.
    *(mistyped({}, "scope", value, NAMES) for value in (5, True, {"a": 1}, ["a", 5], [None], [["a"]])),
    ({"scope_claim": lambda claims: claims["groups"]}, {}, "unexpected_error", {"exception": "KeyError"}),
    ({"scope_claim": lambda claims: 5}, {}, "unexpected_error", {"exception": "TypeError"}),
    *(
        mistyped({"scope_claim": lambda claims: claims["scope_claim"]}, "scope_claim", value, NAMES)
        for value in ([1], {"admin": False})
    ),
    (
        {"scope_claim": lambda claims: b"admin"},
        {},
        "claim_type",
        {"claim": "scope_claim", "expected": NAMES, "received": "bytes"},
    ),
    # Other claims: of the same type too.
    *(
        ({"claims": {"typ": wanted}}, {"typ": value}, "claim_mismatch", {"expected": [wanted], "received": received})
        for wanted, value, received in (
            *(("Bearer", value, value) for value in ("ID", "bearer", "Bearer ")),
            *(("Bearer", value, shown(value)) for value in (["Bearer"], {"Bearer": 1}, True)),
            *((1, True, "boolean"), (1, 1.0, "number"), (1, "1", "1")),
            *((True, 1, "number"), (True, "true", "true"), (False, 0, "number")),
            ("Bearer", "I\nD", "I\\u000aD"),
        )
    ),
    *(
        ({"claims": {"typ": {"Bearer"}}}, {"typ": value}, "claim_missing", {"claim": "typ", "expected": ["Bearer"]})
        for value in (..., None)
    ),
]


@pytest.mark.parametrize(("options", "said", "detail", "fields"), REFUSED)
def test_refused(options: dict[str, Any], said: dict[str, Any], detail: str, fields: dict[str, Any]) -> None:
    error = refused(make(**options), mint(**said))
    assert (error.code, error.detail) == (CODES.get(detail, RejectCode.TOKEN_INVALID), detail)
    assert error.fields == ({"claim": "typ", **fields} if detail == "claim_mismatch" else fields)


BAD_DATES = ('"9999999999"', "true", "false", "[]", "{}", "1e300", "-1e300", "1" + "0" * 400, "9007199254740992")


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [*BAD_DATES, "1800000060000", "253402300800"])
def test_no_numeric_date(claim: str, value: str) -> None:
    error = refused(make(), raw_claims(f'"{claim}": {value}'))
    assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "claim_type")
    assert error.fields["claim"] == claim
    assert ("milliseconds" in error.fields.get("hint", "")) is (error.fields["received"] == "number")


def test_the_default_clock_is_the_time_of_day() -> None:
    auth = JWTAuth(SECRET, algorithms=["HS256"])
    now = datetime.datetime.now(datetime.UTC).timestamp()
    assert auth.verify(mint(exp=now + 3600)).subject == "ann"
    assert refused(auth, mint(exp=now - 3600)).detail == "expired"


def test_how_rules_are_shown() -> None:
    assert repr(ANY) == "ANY"
    assert make(claims={"typ": {"b", "a"}}).describe()["claims"] == {"typ": ["a", "b"]}


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


TEMPLATE = "https://login.example.com/{tid}/v2.0"
OF_TWO = "https://login.example.com/{region}/{tid}-{region}"


class TestTemplate:
    def outcome(self, template: Any = TEMPLATE, **said: Any) -> Identity | TokenError:
        try:
            return rules(template).identity(claims(**said), None)
        except TokenError as error:
            return error

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            (TEMPLATE, {"iss": "https://login.example.com/acme/v2.0", "tid": "acme"}),
            ([TEMPLATE, "https://b.example"], {"iss": "https://login.example.com/acme/v2.0", "tid": "acme"}),
            ([TEMPLATE, "https://b.example"], {"iss": "https://b.example"}),
            (OF_TWO, {"iss": "https://login.example.com/eu/acme-eu", "tid": "acme", "region": "eu"}),
        ],
    )
    def test_with_the_claims_of_the_token(self, template: Any, said: dict[str, Any]) -> None:
        found = self.outcome(template, **said)
        assert isinstance(found, Identity)
        assert found.issuer == said["iss"]

    @pytest.mark.parametrize(
        ("issuer", "tid"),
        [
            *(("https://login.example.com/acme/v2.0", tid) for tid in ("other", ...)),
            *((f"https://login.example.com/{tid}/v2.0", tid) for tid in (None, 5, True, "", "a/b")),
            *((f"https://{path}", "acme") for path in ("login.example.com/acme/v1.0", "evil.example.com/acme/v2.0")),
            ("https://login.example.com/acme/v2.0/", "acme"),
            *((TEMPLATE, tid) for tid in ("acme", ..., ["{tid}"])),
        ],
    )
    def test_anything_else(self, issuer: str, tid: Any) -> None:
        error = self.outcome(iss=issuer, tid=tid)
        assert isinstance(error, TokenError)
        assert (error.detail, error.fields["expected"]) == ("issuer_mismatch", [TEMPLATE])

    def test_each_claim_must_be_there_and_fit(self) -> None:
        error = self.outcome(tid="acme")
        assert isinstance(error, TokenError)
        assert error.fields == {"claim": "iss", "expected": [TEMPLATE]}
        error = self.outcome(OF_TWO, iss="https://login.example.com/eu/acme-eu", tid="acme-eu", region="")
        assert isinstance(error, TokenError)
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "issuer_mismatch")

    @given(tid=st.text(max_size=6) | st.none() | st.integers() | st.booleans(), issuer=st.none() | st.text(max_size=6))
    def test_it_is_taken_exactly_when_it_should_be(self, tid: Any, issuer: str | None) -> None:
        iss = f"https://login.example.com/{tid if issuer is None else issuer}/v2.0"
        good = isinstance(tid, str) and tid != "" and "/" not in tid and iss == f"https://login.example.com/{tid}/v2.0"
        assert isinstance(self.outcome(iss=iss, tid=tid), Identity) is good

    @pytest.mark.parametrize(
        "template",
        [
            *("https://{tid}/v2.0", "https://{tid}.example.com/v2.0", "https://example.com{tid}/v2.0"),
            *("{tid}", "example.com/{tid}"),
            *(f"https://example.com/{path}" for path in ("{}", "{iss}", "{tid", "tid}", "{{tid}}")),
        ],
    )
    def test_templates_that_mean_nothing_or_everything(self, template: str) -> None:
        with pytest.raises(ConfigurationError, match="placeholder") as caught:
            rules(template)
        assert caught.value.option == "issuer"

    def test_the_form_of_an_issuer(self) -> None:
        some = rules([TEMPLATE, "https://b.example.com/"])
        assert some.accepts_issuer("https://b.example.com/")
        assert some.accepts_issuer("https://login.example.com/acme/v2.0")
        assert not some.accepts_issuer("https://login.example.com/a/b/v2.0")
        assert not some.accepts_issuer("https://loginXexample.com/acme/v2.0")
        assert rules(ANY).accepts_issuer("anybody")
