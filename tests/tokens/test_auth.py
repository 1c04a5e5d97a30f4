"""`JWTAuth`: rules for headers, attacks, published keys, and nothing accepted that PyJWT refuses."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import math
import string
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jwt
import jwt.api_jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from socketguard.authenticator import ConnectRequest
from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.auth import ANY, JWTAuth, Verifier
from socketguard.tokens.finder import Found
from socketguard.tokens.keys import KeySource, Pending, StaticKeys
from tests.tokens.minting import (
    ALGORITHMS,
    DOWN,
    ISSUER,
    KEYS,
    KEYS_URL,
    NOW,
    OTHER_SECRET,
    P256,
    RSA,
    RSA_NEXT,
    RSA_PEM,
    SECRET,
    KeyServer,
    arefused,
    b64,
    claims,
    jwk,
    make,
    mint,
    outcome,
    publish,
    raw_claims,
    refused,
    seal,
    sign,
    signed,
)


class TestAccepting:
    def test_everything_a_token_says(self) -> None:
        auth = make(issuer=ISSUER, audience="crm")
        token = mint(
            {"kid": "key-1"}, iss=ISSUER, aud=["crm", "mail"], iat=NOW - 5, nbf=NOW - 5, jti="t-1", scope="a b", x=[1]
        )
        identity = auth.verify(token)
        assert identity == Identity(
            subject="ann",
            claims=jwt.decode(token, options={"verify_signature": False}),
            scopes=frozenset({"a", "b"}),
            issuer=ISSUER,
            token_id="t-1",
            key_id="key-1",
            issued_at=NOW - 5,
            expires_at=NOW + 60,
            credential="jwt",
        )
        assert identity.is_authenticated
        with pytest.raises(TypeError):
            identity.claims["sub"] = "eve"  # type: ignore[index]

    @pytest.mark.parametrize("algorithm", list(KEYS))
    def test_every_algorithm(self, algorithm: str) -> None:
        key = KEYS[algorithm]
        public = key if isinstance(key, str) else key.public_key()
        auth = make(public, algorithms=[algorithm])
        token = jwt.encode(claims(), key, algorithm)
        assert auth.verify(token).subject == "ann"
        head, _, signature = token.rpartition(".")
        assert refused(auth, f"{head}.{signature[:-8]}AAAAAAAA").detail == "signature_mismatch"
        assert refused(auth, f"{head}.AAAA").detail == "signature_mismatch"
        payload = b64(json.dumps(claims(sub="eve")))
        assert refused(auth, f"{head.partition('.')[0]}.{payload}.{signature}").detail == "signature_mismatch"

    def test_several_algorithms_with_their_keys(self) -> None:
        auth = make([RSA.public_key(), P256.public_key()], algorithms={"RS256", "PS256", "ES256"})
        for algorithm in ("RS256", "PS256", "ES256"):
            assert auth.verify(jwt.encode(claims(), KEYS[algorithm], algorithm)).subject == "ann"
        assert refused(auth, jwt.encode(claims(), RSA, "RS512")).detail == "algorithm_not_allowed"

    @pytest.mark.parametrize(
        ("algorithm", "keys"),
        [
            ("HS256", [(SECRET, SECRET), (OTHER_SECRET,) * 2]),
            ("RS256", [(key, key.public_key()) for key in (RSA, RSA_NEXT)]),
        ],
    )
    def test_rotation(self, algorithm: str, keys: list[tuple[Any, Any]]) -> None:
        both = make([public for _, public in keys], algorithms=[algorithm])
        old, new = (jwt.encode(claims(), key, algorithm) for key, _ in keys)
        assert both.verify(old) == both.verify(new)
        after = make(keys[1][1], algorithms=[algorithm])
        assert after.verify(new).subject == "ann"
        assert refused(after, old).detail == "signature_mismatch"


SAID: dict[str, str] = {}
CHANGED = "another key signed it, or it was changed on its way"
BAD_HEADERS: list[tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    # the options, the header, the detail, its fields
    *(
        ({}, {"alg": value}, "algorithm_not_allowed", {"expected": ["HS256"], "received": shown})
        for value, shown in [
            *((name, name) for name in ("None", "noNE", "", "hs256", "HS256 ", "HS512", "RS256", "\u2100")),
            *((None, "null"), (["HS256"], "array"), ({}, "object"), (True, "boolean"), (1, "number"), (1.5, "number")),
            *(("NONE", "NONE"), ("HMAC", "HMAC")),
            ("x\n\u202e" + "y" * 500, "x\\u000a\\u202e" + "y" * 253 + "…"),
        ]
    ),
    *(
        ({}, extra, "crit_not_supported", {})
        for extra in (
            *({"crit": value} for value in ([], ["b64"], None, "b64")),
            {"crit": ["exp"], "exp": 1},
            {"b64": True},
            {"b64": False},
            {"b64": False, "crit": ["b64"]},
        )
    ),
    *(
        ({}, {"typ": value}, "type_not_allowed", {"expected": [None, "at+jwt", "jwt"], "received": shown})
        for value, shown in [
            *((name, name) for name in ("logout+jwt", "dpop+jwt", "", "application/application/jwt", "text/jwt")),
            *((None, "null"), (["JWT"], "array"), ("a\nb", "a\\u000ab")),
        ]
    ),
    *(
        ({"types": types}, {"typ": value}, "type_not_allowed", {"expected": ["at+jwt"], "received": shown})
        for types, value, shown in (
            (("at+jwt",), "JWT", "JWT"),
            ({"at+jwt"}, ..., None),
            (["application/at+jwt"], "JWT", "JWT"),
        )
    ),
    *(
        ({}, {"kid": value}, "key_id_malformed", {"expected": "a string of at most 128 characters"})
        for value in (None, 5, ["a"], {}, True, "k" * 129)
    ),
    (
        {},
        {"alg": "none"},
        "algorithm_not_allowed",
        {"expected": ["HS256"], "received": "none", "hint": "a token with alg none is not signed, and never accepted"},
    ),
    (
        {"key": OTHER_SECRET},
        {"kid": "k\n1"},
        "signature_mismatch",
        {"algorithm": "HS256", "key_id": "k\\u000a1", "unverified": SAID, "hint": CHANGED},
    ),
    ({"key": OTHER_SECRET}, {}, "signature_mismatch", {"algorithm": "HS256", "unverified": SAID, "hint": CHANGED}),
]


class Keys(KeySource):
    """Keys that a test gives, and whether they were asked for."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def candidates(self, algorithm: str, key_id: str | None) -> Any:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class TestHeader:
    @pytest.mark.parametrize(("options", "header", "detail", "fields"), BAD_HEADERS)
    def test_refused(
        self, options: dict[str, Any], header: dict[str, Any], detail: str, fields: dict[str, Any]
    ) -> None:
        said = {name: value for name, value in {"alg": "HS256", **header}.items() if value is not ...}
        error = refused(make(**options), sign(said, claims()))
        assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_INVALID, detail, fields)

    @pytest.mark.parametrize(
        ("options", "header", "said", "hint"),
        [
            ({}, {}, {"iss": "https://a.example"}, CHANGED),
            ({"issuer": ISSUER}, {}, {"iss": ISSUER, "aud": "crm"}, CHANGED),
            ({"issuer": ISSUER}, {}, {"iss": "https://staging.example/"}, "of another issuer"),
            ({"issuer": ISSUER}, {}, {}, "of another issuer"),
            ({"issuer": ISSUER}, {"nonce": "x"}, {"iss": f"https://sts.windows.net/{'1' * 8}/"}, "Microsoft"),
            ({"issuer": ISSUER}, {"nonce": "x"}, {"iss": ISSUER}, CHANGED),
        ],
    )
    def test_whose_token_it_is_that_does_not_verify(
        self, options: dict[str, Any], header: dict[str, Any], said: dict[str, Any], hint: str
    ) -> None:
        error = refused(make(**options), sign({"alg": "HS256", **header}, claims(**said), OTHER_SECRET))
        assert error.detail == "signature_mismatch"
        assert error.fields["unverified"] == said
        assert hint in error.fields["hint"]

    def test_of_a_token_whose_payload_is_none_nothing_is_said(self) -> None:
        error = refused(make(), sign({"alg": "HS256"}, b"no json", OTHER_SECRET))
        assert error.fields == {"algorithm": "HS256"}

    def test_without_an_algorithm(self) -> None:
        assert refused(make(), sign({}, claims())).fields == {"expected": ["HS256"], "received": "null"}

    @pytest.mark.parametrize(
        "header",
        [
            *({"typ": name} for name in ("JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT")),
            {},
            # A key id is only a name.
            *({"kid": name} for name in ("", "k" * 128, "../../dev/null", "' OR 1=1 --")),
        ],
    )
    def test_accepted(self, header: dict[str, Any]) -> None:
        identity = make().verify(sign({"alg": "HS256", **header}, claims()))
        assert (identity.subject, identity.key_id) == ("ann", header.get("kid"))

    @pytest.mark.parametrize("type_", ["at+jwt", "application/at+jwt"])
    def test_types_are_written_in_any_way(self, type_: str) -> None:
        assert make(types=("application/AT+jwt",)).verify(mint({"typ": type_})).subject == "ann"

    def test_the_algorithm_is_checked_before_any_cryptography(self) -> None:
        keys = Keys()
        assert refused(make().with_keys(keys), sign({"alg": "none"}, claims())).detail == "algorithm_not_allowed"
        assert keys.asked == 0

    def test_the_last_of_two_members_counts(self) -> None:
        assert make().verify(sign(b'{"alg":"none","alg":"HS256"}', claims())).subject == "ann"
        assert refused(make(), sign(b'{"alg":"HS256","alg":"none"}', claims())).detail == "algorithm_not_allowed"
        assert make().verify(raw_claims('"sub": "bob"')).subject == "bob"
        assert refused(make(), raw_claims('"exp": 1')).code is RejectCode.TOKEN_EXPIRED

    @pytest.mark.parametrize(
        ("signature", "detail"),
        [("", "not_three_parts"), ("AAAA", "algorithm_not_allowed"), (b64(b"\0" * 32), "algorithm_not_allowed")],
    )
    def test_unsigned_tokens(self, signature: str, detail: str) -> None:
        token = ".".join([b64(json.dumps({"alg": "none"})), b64(json.dumps(claims())), signature])
        assert refused(make(), token).detail == detail

    @pytest.mark.parametrize("wanted", ["RS256", "ES256", "EdDSA"])
    def test_a_public_key_used_as_a_secret(self, wanted: str) -> None:
        key = KEYS[wanted].public_key()
        text = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        auth = make(key, algorithms=[wanted])
        for secret in (text, text.strip(), b"".join(text.splitlines()[1:-1])):
            for name in ("HS256", wanted):
                message = f"{b64(json.dumps({'alg': name}))}.{b64(json.dumps(claims()))}".encode()
                forged = f"{message.decode()}.{b64(ALGORITHMS['HS256'].sign(message, secret))}"
                detail = "signature_mismatch" if name == wanted else "algorithm_not_allowed"
                assert refused(auth, forged).detail == detail

    def test_keys_that_a_token_brings_along_are_ignored(self) -> None:
        attacker = rsa.generate_private_key(65537, 2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(attacker.public_key(), as_dict=True)
        brought = {"jwk": jwk, "jku": "https://evil.example/k", "x5u": "https://evil.example/c", "x5c": ["AA"]}
        auth = make(RSA_PEM, algorithms=["RS256"])
        with mock.patch("socket.socket.connect", side_effect=AssertionError("network")):
            forged = jwt.encode(claims(), attacker, "RS256", headers=brought)
            assert refused(auth, forged).detail == "signature_mismatch"
            assert auth.verify(jwt.encode(claims(), RSA, "RS256", headers=brought)).subject == "ann"


class TestKnownHeaders:
    def test_only_headers_of_verified_tokens_get_in(self) -> None:
        auth = make()
        assert refused(auth, mint({"kid": "a"}, OTHER_SECRET)).detail == "signature_mismatch"
        assert not auth.known_headers
        token = mint({"kid": "a"}, exp=NOW - 100)
        assert refused(auth, token).detail == "expired"
        assert auth.known_headers == {token.partition(".")[0].encode(): ("HS256", "a")}

    def test_a_known_header_does_not_make_a_signature_good(self) -> None:
        auth = make()
        for _ in range(2):
            assert auth.verify(mint({"kid": "a"})).key_id == "a"
            assert refused(auth, mint({"kid": "a"}, OTHER_SECRET)).detail == "signature_mismatch"

    def test_what_other_keys_have_verified_is_kept_apart(self) -> None:
        auth = make()
        assert auth.with_keys(StaticKeys(OTHER_SECRET, ("HS256",))).verify(mint({}, OTHER_SECRET)).subject == "ann"
        assert not auth.known_headers
        assert refused(auth, mint({}, OTHER_SECRET)).detail == "signature_mismatch"

    def test_there_are_not_many(self) -> None:
        auth = make()
        for number in range(300):
            assert auth.verify(mint({"kid": str(number)})).key_id == str(number)
        before = len(auth.known_headers)
        assert 0 < before <= 128
        assert auth.verify(mint({"kid": "a", "x": "x" * 600})).key_id == "a"
        assert len(auth.known_headers) == before


class TestShape:
    """What is refused of each part is in `test_encoding`; here is that all are looked at, and in which order."""

    @pytest.mark.parametrize(
        ("token", "detail", "fields"),
        [
            (None, "not_a_string", {"received": "NoneType"}),
            ("x" * 1_000_000, "too_long", {"received": 1_000_000, "limit": 8192}),
            (sign({"alg": "HS256"}, b""), "not_three_parts", {"hint": "one of its parts is empty"}),
            ("a.b.c", "not_base64url", {"part": "header"}),
            (f"{b64(b'x')}.AAAA.AAAA", "not_json", {"part": "header"}),
            (sign(b'["HS256"]', claims()), "not_an_object", {"part": "header"}),
            (mint().rpartition(".")[0] + ".AAB", "not_base64url", {"part": "signature"}),
            (sign({"alg": "HS256"}, b"[]"), "not_an_object", {"part": "payload"}),
            (seal(f"{b64(json.dumps({'alg': 'HS256'}))}.e31"), "not_base64url", {"part": "payload"}),  # e30 is {}
            (sign({"alg": "HS256"}, b'{"sub":"ann","exp":NaN}'), "not_json", {"part": "payload"}),
        ],
    )
    def test_refused(self, token: Any, detail: str, fields: dict[str, Any]) -> None:
        error = refused(make(), token)
        assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_MALFORMED, detail, fields)

    def test_claims_are_looked_at_only_after_the_signature(self) -> None:
        for payload in (b"no json", b'{"exp": 1}'):
            assert refused(make(), sign({"alg": "HS256"}, payload, OTHER_SECRET)).detail == "signature_mismatch"

    def test_one_token_has_one_spelling(self) -> None:
        token, alphabet = mint(), f"{string.ascii_letters}{string.digits}-_"
        accepted = [last for last in alphabet if isinstance(outcome(make(), token[:-1] + last), Identity)]
        assert accepted == [token[-1]]


BAD_OPTIONS = [
    (option, value)
    for option, values in {
        "key": (None, "", "short"),
        "algorithms": ("HS256", ["none"], ["HS256", "RS256"], []),
        "issuer": ("", [], 5, [ISSUER, None], "https://login.example.com/{tid}"),
        "audience": ("", (), b"crm"),
        "leeway": (-1, 61, True, "10", None, math.nan, math.inf, datetime.timedelta(seconds=10)),
        "require": ("exp", None, [""]),
        "subject_claim": ("", None),
        "token_id_claim": ("", None, ["jti"]),
        "scope_claim": ("", None, ["scope"]),
        "sources": ((), ("body",)),
        "payload_keys": ((),),
        "max_lifetime": (0, True, math.inf),
        "types": ("JWT", (), None, ("",), (5,)),
        "clock": (None, NOW),
        "claims": (
            *("token_use", {"": "x"}, {5: "x"}),
            *({"token_use": value} for value in (None, "", [], ["access", 1.5], {"access": 1})),
            *({claim: 1} for claim in ("iss", "aud", "exp", "nbf", "iat")),
        ),
        "expiry": ("never", None),
        "profile": ("strict",),
        "fetch": (KeyServer(),),
    }.items()
    for value in values
]


class TestConfiguration:
    @pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
    def test_refused(self, option: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=option) as caught:
            make(**{option: value}) if option != "key" else make(value)
        assert caught.value.option == option

    def test_an_async_scope_function_is_refused(self) -> None:
        async def scopes(claims: Mapping[str, Any]) -> list[str]:
            raise AssertionError

        with pytest.raises(ConfigurationError, match="synchronous"):
            make(scope_claim=scopes)

    def test_a_longest_lifetime_needs_an_end(self) -> None:
        with pytest.raises(ConfigurationError, match='needs "exp"') as caught:
            make(max_lifetime=60, require=("sub",))
        assert caught.value.option == "require"

    def test_describe_and_repr_hold_no_secret(self) -> None:
        auth = make(issuer=ISSUER, audience=["hr", "crm"], max_lifetime=60)
        assert auth.describe() == {
            "algorithms": ["HS256"],
            "keys": ["shared secret"],
            "issuer": [ISSUER],
            "audience": ["crm", "hr"],
            "leeway": 10,
            "require": ["exp", "sub"],
            "subject_claim": "sub",
            "token_id_claim": "jti",
            "scope_claim": "scope",
            "sources": ["payload", "header"],
            "payload_keys": ["token", "access_token", "authorization"],
            "max_lifetime": 60,
            "claims": {},
            "types": [None, "at+jwt", "jwt"],
            "expiry": "disconnect",
        }
        json.dumps(auth.describe())
        assert repr(auth) == "<JWTAuth HS256 (shared secret)>"
        assert make(subject_claim="email").describe()["require"] == ["exp"]
        assert make(token_id_claim="uti").describe()["token_id_claim"] == "uti"
        assert all(make(leeway=leeway).leeway == leeway for leeway in (0, 0.5, 60))

    def test_describe_names_a_function(self) -> None:
        class Scopes:
            def __call__(self, claims: Mapping[str, Any]) -> list[str]:
                return ["x"]

        auth = make(scope_claim=Scopes())
        assert auth.describe()["scope_claim"].endswith("Scopes")
        assert auth.verify(mint()).scopes == {"x"}
        assert "<lambda>" in make(scope_claim=lambda claims: []).describe()["scope_claim"]

    def test_findings(self) -> None:
        def ids(**options: Any) -> list[str]:
            return [finding.id for finding in make(**options).findings()]

        assert ids() == []
        assert ids(require=("sub",)) == ["SG035"]
        assert ids(sources=("payload", "query:token")) == ["SG034"]
        public = {"key": RSA_PEM, "algorithms": ["RS256"]}
        assert ids(**public) == ["SG033"]
        assert ids(**public, issuer=ISSUER, audience="crm") == []
        assert ids(**public, issuer=ANY, audience=ANY) == []
        (finding,) = make(**public, issuer=ISSUER).findings()
        assert ("no audience" in finding.text, finding.fix) == (True, "add audience=… to JWTAuth")
        assert "no issuer and no audience" in make(**public).findings()[0].text

    def test_equal_by_configuration(self) -> None:
        def clock() -> float:
            return NOW

        same = {"clock": clock, "issuer": ["a", "b"]}
        auth = make(**same)
        assert auth == make(clock=clock, issuer={"b", "a"}, algorithms=("HS256",), require=["sub", "exp"])
        assert hash(auth) == hash(make(**same))
        assert auth != "auth"
        changes: list[tuple[str, Any]] = [
            *(("key", OTHER_SECRET), ("algorithms", ["HS512"]), ("issuer", "a"), ("issuer", ANY), ("audience", "crm")),
            *(("audience", ANY), ("leeway", 5), ("require", ()), ("subject_claim", "email"), ("token_id_claim", "uti")),
            *(("scope_claim", "scp"), ("sources", ("header",)), ("payload_keys", ("jwt",)), ("max_lifetime", 60)),
            *(("types", ("at+jwt",)), ("claims", {"level": 1}), ("claims", {"level": True}), ("expiry", "ignore")),
            ("clock", lambda: NOW),
        ]
        assert [change for change in changes if auth == make(**{**same, change[0]: change[1]})] == []
        assert make(**same, claims={"level": 1}) != make(**same, claims={"level": True})
        assert make(**same, claims={"a": 1, "b": "2"}) == make(**same, claims={"b": "2", "a": 1})

    async def test_it_is_an_authenticator_like_any_other(self) -> None:
        auth = make()
        found = await auth.identify(ConnectRequest([], b"", {}, {"token": mint()}))
        assert found is not None
        assert (found.subject, found.credential) == ("ann", "jwt")
        assert await auth.identify(ConnectRequest([], b"", {})) is None
        with pytest.raises(TokenError):
            await auth.identify(ConnectRequest([], b"", {}, {"token": "a.b.c"}))

    def test_what_it_uses_and_finds(self) -> None:
        auth = make(sources=("payload", "cookie:c"))
        assert (auth.finder.uses_cookie, make().finder.uses_cookie) == (True, False)
        assert auth.find(ConnectRequest([], b"", {}, {"token": "a.b.c"})) == Found("a.b.c", "payload")
        assert make().find(ConnectRequest([], b"token=a.b.c", {})) is None


JWKS_TIMES = ("jwks_lifetime", "stale_if_error", "jwks_cooldown", "jwks_timeout")


class TestPublishedKeys:
    async def test_fetched_when_the_first_token_comes(self) -> None:
        server = KeyServer()
        auth = publish(server)
        token = signed()
        error = refused(auth, token)
        assert (error.code, error.detail) == (RejectCode.KEYS_UNAVAILABLE, "keys_pending")
        assert error.fields == {"retry_after": 1}
        assert auth.verify_now(token) is None
        assert server.asked == []
        identity = await auth.averify(token)
        assert (identity.subject, identity.issuer, identity.key_id) == ("ann", ISSUER, "one")
        assert auth.verify(token) == auth.verify_now(token) == identity == await auth.averify(token)
        assert server.asked == [KEYS_URL]

    @pytest.mark.parametrize(
        ("token", "code", "detail"),
        [
            ("rubbish", RejectCode.TOKEN_MALFORMED, "not_three_parts"),
            (jwt.encode(claims(), SECRET, "HS256"), RejectCode.TOKEN_INVALID, "algorithm_not_allowed"),
            (signed(algorithm="PS256"), RejectCode.TOKEN_INVALID, "algorithm_not_allowed"),
            (sign({"alg": "none"}, claims()), RejectCode.TOKEN_INVALID, "algorithm_not_allowed"),
        ],
    )
    async def test_what_can_not_be_right_causes_no_fetch(self, token: str, code: RejectCode, detail: str) -> None:
        server = KeyServer()
        error = await arefused(publish(server), token)
        assert (error.code, error.detail, server.asked) == (code, detail, [])

    async def test_a_key_that_nobody_published(self) -> None:
        server = KeyServer()
        auth = publish(server)
        error = await arefused(auth, signed(RSA_NEXT, "k\n2"))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "key_unknown")
        assert error.fields == {"key_id": "k\\u000a2"}
        # Nobody is asked again so soon: a stranger's keys are no outage.
        error = await arefused(auth, signed(RSA_NEXT, "two"))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "key_unknown")
        assert len(server.asked) == 1

    @pytest.mark.parametrize(
        ("token", "code", "detail"),
        [
            (signed(RSA_NEXT, "one"), RejectCode.TOKEN_INVALID, "signature_mismatch"),
            (signed(exp=NOW - 60), RejectCode.TOKEN_EXPIRED, "expired"),
            (signed(iss="x"), RejectCode.TOKEN_INVALID, "issuer_mismatch"),
            (signed(aud="x"), RejectCode.TOKEN_INVALID, "audience_mismatch"),
        ],
    )
    async def test_everything_is_checked_after_a_fetch_too(self, token: str, code: RejectCode, detail: str) -> None:
        error = await arefused(publish(KeyServer()), token)
        assert (error.code, error.detail) == (code, detail)

    async def test_an_outage(self) -> None:
        server = KeyServer()
        server.answer = DOWN
        auth = publish(server)
        assert auth.outage() is None
        for _ in range(2):
            error = await arefused(auth, signed())
            assert (error.code, error.detail) == (RejectCode.KEYS_UNAVAILABLE, "keys_unavailable")
            assert error.fields["retry_after"] >= 1
        assert (auth.outage() or 0) >= 1
        assert auth.keys_status()[0]["state"] == "unavailable"
        assert len(server.asked) == 1

    async def test_it_starts_tells_and_ends(self) -> None:
        auth = publish(KeyServer())
        assert auth.changes(0) == (0, [])
        assert (auth.keys_status()[0]["state"], auth.fetching) == ("empty", False)
        auth.start()
        assert auth.fetching
        assert (await auth.averify(signed())).subject == "ann"
        position, (change,) = auth.changes(0)
        assert (change.kind, change.fields["key_ids"]) == ("refreshed", ["one"])
        assert (position > 0, auth.changes(position)) == (True, (position, []))
        assert (auth.keys_status()[0]["state"], auth.fetching) == ("fresh", False)
        assert auth.outage() is None
        await auth.close()
        assert auth.verify(signed()).subject == "ann"

    async def test_discovery(self) -> None:
        server = KeyServer(issuer="https://id.example.com")
        auth = JWTAuth.discover("https://id.example.com", audience="crm", fetch=server, clock=lambda: NOW)
        assert (await auth.averify(signed(iss="https://id.example.com"))).subject == "ann"
        assert server.asked == ["https://id.example.com/.well-known/openid-configuration", KEYS_URL]
        assert auth.issuers == {"https://id.example.com"}
        assert (await arefused(auth, signed(P256, "one", "ES256"))).fields["expected"] == ["RS256"]

    @pytest.mark.parametrize(
        "issuer", [None, ANY, ["https://a.example", "https://b.example"], "", "a", "https://a/{b}"]
    )
    def test_discovery_needs_one_issuer(self, issuer: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            JWTAuth.discover(issuer, audience="crm", fetch=KeyServer())
        assert caught.value.option == "issuer"

    @pytest.mark.parametrize(
        ("option", "changes", "text"),
        [
            ("issuer", {"issuer": None}, "or issuer=ANY"),
            ("audience", {"audience": None}, "or audience=ANY"),
            ("issuer", {"issuer": ANY, "profile": "rfc9068"}, "write issuer=…$"),
            ("audience", {"audience": ANY, "profile": "rfc9068"}, "write audience=…$"),
            ("key", {"key": RSA_PEM}, "exclude each other"),
            ("algorithms", {"algorithms": ["HS256"]}, "HS256"),
            ("jwks_url", {"jwks_url": "http://keys.example.com/jwks"}, "https"),
            *((name, {name: -1}, name) for name in JWKS_TIMES),
            ("fetch", {"fetch": 5}, "fetch"),
        ],
    )
    def test_configuration(self, option: str, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            publish(KeyServer(), **changes)
        assert caught.value.option == option

    def test_without_a_check_when_that_is_written_out(self) -> None:
        auth = publish(KeyServer(), issuer=ANY, audience=ANY)
        assert (auth.issuers, auth.findings()) == (frozenset(), [])
        assert (auth.describe()["issuer"], auth.describe()["audience"]) == ("ANY", "ANY")

    def test_equal_by_configuration(self) -> None:
        server = KeyServer()
        same: dict[str, Any] = {"clock": int}
        auth = publish(server, **same)
        assert auth == publish(server, **same)
        assert hash(auth) == hash(publish(server, **same))
        times = dict(zip(JWKS_TIMES, (700, 0, 20, 3), strict=True))
        changes = {
            "jwks_url": f"{KEYS_URL}2",
            "fetch": KeyServer(),
            "allow_http": True,
            "algorithms": ["ES256"],
            **times,
        }
        for option, value in changes.items():
            assert auth != publish(server, **{**same, option: value}), option
        assert repr(auth) == "<JWTAuth RS256 (JWKS https://keys.example.com/jwks)>"
        document = publish(server, **same, jwks_url=f"{ISSUER}.well-known/openid-configuration")
        assert JWTAuth.discover(ISSUER, audience="crm", fetch=server, **same) != document

    async def test_keys_that_are_given_are_never_fetched(self) -> None:
        auth = make()
        auth.start()
        assert (auth.outage(), auth.keys_status(), auth.changes(0), auth.fetching) == (None, [], (0, []), False)
        assert (await auth.averify(mint())).subject == "ann"
        assert (await arefused(auth, mint(exp=1))).code is RejectCode.TOKEN_EXPIRED
        await auth.close()


BOUND = "https://id.example.com/{tenantid}/v2.0"
ONE_TENANT = "https://id.example.com/acme/v2.0"


class TestKeysOfOneIssuer:
    """Published keys with a member ``issuer``, as Microsoft Entra ID has them."""

    def auth(self, key_issuer: str, **options: Any) -> JWTAuth:
        good = {"issuer": ["https://id.example.com/{tid}/v2.0", "https://id.example.com/{tid}/v1.0"]}
        return publish(KeyServer(jwk(RSA, "one", issuer=key_issuer), jwk(RSA_NEXT, "free")), **{**good, **options})

    @pytest.mark.parametrize("key_issuer", [BOUND, BOUND.replace("tenantid", "tenantId"), ONE_TENANT])
    async def test_its_tokens_are_taken(self, key_issuer: str) -> None:
        identity = await self.auth(key_issuer).averify(signed(iss=ONE_TENANT, tid="acme"))
        assert (identity.issuer, identity.key_id) == (ONE_TENANT, "one")

    @pytest.mark.parametrize("options", [{}, {"issuer": ANY}])
    @pytest.mark.parametrize(
        ("key_issuer", "issuer", "tid"),
        [
            (BOUND, "https://id.example.com/acme/v1.0", "acme"),
            (ONE_TENANT, "https://id.example.com/other/v2.0", "other"),
            (ONE_TENANT + "/", ONE_TENANT, "acme"),
            ("https://id.example.com/{org}/v2.0", ONE_TENANT, "acme"),
            ("{tid}", ONE_TENANT, "acme"),
        ],
    )
    async def test_tokens_of_others_are_refused(
        self, key_issuer: str, issuer: str, tid: str, options: dict[str, Any]
    ) -> None:
        auth = self.auth(key_issuer, **options)
        error = await arefused(auth, signed(iss=issuer, tid=tid))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "issuer_mismatch")
        assert error.fields == {
            "expected": [key_issuer.replace("tenantid", "tid")],
            "received": issuer,
            "hint": "the key that signed the token is published for that issuer only",
        }
        # The same token by a key that is bound to no issuer.
        assert (await auth.averify(signed(RSA_NEXT, "free", iss=issuer, tid=tid))).issuer == issuer

    @pytest.mark.parametrize("tid", [..., "", "other", "acme/", ["acme"], 5, None])
    async def test_the_claim_in_its_place_must_fit(self, tid: Any) -> None:
        auth = self.auth(BOUND, issuer=ANY)
        assert (await arefused(auth, signed(iss=ONE_TENANT, tid=tid))).detail == "issuer_mismatch"

    @pytest.mark.parametrize("key_issuer", [BOUND, "https://id.example.com/acme", "{tid}{sub}"])
    async def test_without_an_issuer_nothing_fits(self, key_issuer: str) -> None:
        error = await arefused(self.auth(key_issuer, issuer=ANY), signed(iss=...))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "claim_missing")
        assert error.fields == {"claim": "iss", "expected": [key_issuer.replace("tenantid", "tid")]}

    async def test_an_issuer_that_is_no_string(self) -> None:
        token = sign({"alg": "RS256", "kid": "one"}, claims(iss=None, aud="crm"), RSA, "RS256")
        error = await arefused(self.auth(BOUND, issuer=ANY), token)
        assert (error.detail, error.fields["claim"]) == ("claim_type", "iss")

    async def test_what_is_configured_comes_first_and_dates_last(self) -> None:
        auth = self.auth(BOUND, issuer=["https://a.example", ONE_TENANT])
        error = await arefused(auth, signed(iss="https://b.example", tid="acme"))
        assert error.fields["expected"] == ["https://a.example", ONE_TENANT]
        error = await arefused(auth, signed(iss="https://a.example", tid="acme", exp=NOW - 100))
        assert (error.detail, error.fields["received"]) == ("issuer_mismatch", "https://a.example")
        assert (await arefused(auth, signed(iss=ONE_TENANT, tid="acme", exp=NOW - 100))).detail == "expired"

    async def test_what_the_key_says_is_harmless_in_a_log(self) -> None:
        error = await arefused(self.auth("a\nb{c\n}", issuer=ANY), signed(iss="d\ne"))
        assert (error.fields["expected"], error.fields["received"]) == (["a\\u000ab{c\\u000a}"], "d\\u000ae")

    async def test_a_key_with_a_useless_issuer_is_no_key(self) -> None:
        server = KeyServer(jwk(RSA, "one", issuer=5), jwk(RSA_NEXT, "free"))
        error = await arefused(publish(server), signed())
        assert (error.detail, error.fields) == ("key_unknown", {"key_id": "one"})


class TestProfile:
    GOOD: Mapping[str, Any] = {"iss": ISSUER, "aud": "crm", "client_id": "spa", "iat": NOW, "jti": "1"}

    def auth(self, **options: Any) -> JWTAuth:
        return make(**{"profile": "rfc9068", "issuer": ISSUER, "audience": "crm", **options})

    @pytest.mark.parametrize("type_", ["at+jwt", "application/AT+JWT"])
    def test_an_access_token(self, type_: str) -> None:
        assert self.auth().verify(mint({"typ": type_}, **self.GOOD)).subject == "ann"

    @pytest.mark.parametrize("claim", ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"])
    def test_every_claim_must_be_there(self, claim: str) -> None:
        error = refused(self.auth(), mint({"typ": "at+jwt"}, **{**self.GOOD, claim: ...}))
        assert (error.detail, error.fields["claim"]) == ("claim_missing", claim)

    @pytest.mark.parametrize("type_", ["JWT", None])
    def test_other_types(self, type_: str | None) -> None:
        assert refused(self.auth(), mint({"typ": type_}, **self.GOOD)).detail == "type_not_allowed"

    def test_more_may_be_required(self) -> None:
        auth = self.auth(require=["exp", "tenant"], types={"at+jwt"})
        assert refused(auth, mint({"typ": "at+jwt"}, **self.GOOD)).fields == {"claim": "tenant"}
        assert auth.describe()["require"] == ["iss", "exp", "aud", "sub", "client_id", "iat", "jti", "tenant"]

    @pytest.mark.parametrize(
        ("option", "value"),
        [("types", ("JWT",)), ("types", ("at+jwt", "x")), ("require", "exp"), ("issuer", None), ("audience", None)],
    )
    def test_what_goes_against_it(self, option: str, value: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.auth(**{option: value})
        assert caught.value.option == option


class TestEnd:
    def test_with_the_leeway(self) -> None:
        auth: Verifier = make(leeway=7, max_lifetime=60)
        identity = auth.verify(mint())
        assert auth.ends_at(identity) == NOW + 67
        assert (auth.now(), auth.max_lifetime_of(None), auth.max_lifetime_of("x")) == (NOW, 60, 60)

    def test_it_is_the_moment_from_which_it_is_refused(self) -> None:
        now = [float(NOW)]
        auth = make(clock=lambda: now[0])
        identity = auth.verify(mint())
        end = auth.ends_at(identity) or 0
        now[0] = math.nextafter(end, 0)
        auth.check_time(identity)
        now[0] = end
        with pytest.raises(TokenError):
            auth.check_time(identity)

    @pytest.mark.parametrize(
        ("options", "said"), [({"require": ()}, {"exp": ...}), ({"expiry": "ignore"}, {}), ({}, None)]
    )
    def test_never(self, options: dict[str, Any], said: dict[str, Any] | None) -> None:
        auth = make(**options)
        identity = Identity(subject=None) if said is None else auth.verify(mint(**said))
        assert auth.ends_at(identity) is None
        auth.check_time(identity)
        assert refused(auth, mint(exp=NOW - 60)).code is RejectCode.TOKEN_EXPIRED


class TestErrors:
    def test_whatever_goes_wrong_inside_is_a_refusal_without_details(self) -> None:
        token = mint()
        error = refused(make().with_keys(Keys(RuntimeError(f"while looking at {token}"))), token)
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "unexpected_error")
        assert error.fields == {"exception": "RuntimeError"}
        assert (error.__suppress_context__, error.__cause__) == (True, None)

    def test_without_a_key_nobody_gets_in(self) -> None:
        assert refused(make().with_keys(Keys(())), mint()).detail == "signature_mismatch"

    async def test_keys_that_stay_away_are_a_refusal(self) -> None:
        keys = Keys(*[Pending("keys_pending", {}, 0)] * 2)
        error = await arefused(make().with_keys(keys), mint())
        assert (error.code, keys.asked) == (RejectCode.KEYS_UNAVAILABLE, 2)

    async def test_a_key_that_could_not_be_looked_for_may_be_good(self) -> None:
        unknown = TokenError(RejectCode.KEYS_UNAVAILABLE, "key_unknown", key_id="k", retry_after=5)
        auth = make().with_keys(Keys(Pending("key_unknown", {"key_id": "k"}, 1), unknown))
        error = await arefused(auth, mint({"kid": "k"}))
        assert (error.code, error.fields) == (RejectCode.KEYS_UNAVAILABLE, {"key_id": "k", "retry_after": 5})

    def test_no_error_quotes_the_token(self) -> None:
        good = mint(iss=ISSUER, aud="crm")
        header, payload, signature = good.split(".")
        changed = [
            f"{header}.{payload}.{signature[:-4]}AAAA",
            f"{payload}.{payload}.{signature}",
            good + "===",
            good + ".x",
        ]
        for token in [mint(iss="x"), mint(exp=1), *changed]:
            error = refused(make(issuer=ISSUER, audience="crm"), token)
            shown = f"{error}{error!r}{error.fields}"
            assert not any(part in shown for part in token.split(".") if len(part) > 4)


class TestPadding:
    @pytest.mark.parametrize("signed_with_it", [True, False])
    def test_is_taken_where_it_belongs(self, signed_with_it: bool) -> None:
        """Load balancers of AWS pad the parts of their tokens, and sign them so."""
        for subject in ("u", "u1", "u12", "u123"):
            head, payload, signature = mint(sub=subject).split(".")
            padded = [part + "=" * (-len(part) % 4) for part in (head, payload)]
            if signed_with_it:
                mac = hmac.digest(SECRET.encode(), ".".join(padded).encode(), "sha256")
                signature = base64.urlsafe_b64encode(mac).decode()
                assert make().verify(".".join([*padded, signature])).subject == subject
            else:
                token = f"{head}.{payload}.{signature}{'=' * (-len(signature) % 4)}"
                assert make().verify(token).subject == subject

    @pytest.mark.parametrize("change", ["{}=", "{}==", "{}====", "={}", "{}=.", "{}=x"])
    def test_anywhere_else_it_is_malformed(self, change: str) -> None:
        head, payload, signature = mint().split(".")
        whole = f"{signature}{'=' * (-len(signature) % 4)}"
        assert refused(make(), f"{head}.{payload}.{change.format(whole)}").code is RejectCode.TOKEN_MALFORMED


class TestLength:
    def test_a_longer_token_by_choice(self) -> None:
        token = mint(groups=["g" * 36] * 400)
        assert len(token) > 16_384
        assert refused(make(), token).fields == {"received": len(token), "limit": 8192}
        assert make(max_token_length=32_768).verify(token).claims["groups"]
        assert make(max_token_length=len(token)).verify(token)
        assert refused(make(max_token_length=len(token) - 1), token).detail == "too_long"
        assert make() != make(max_token_length=9000)

    @pytest.mark.parametrize("value", [0, -1, True, "9000", 9000.0, None, 10**7])
    def test_what_is_no_length(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="write a whole number from 1 to 1000000") as caught:
            make(max_token_length=value)
        assert caught.value.option == "max_token_length"


class TestHostsOfHTTP:
    def test_named_hosts_may_serve_keys_over_http(self) -> None:
        for url in ("http://keycloak:8080/keys", "http://KEYCLOAK/keys"):
            publish(KeyServer(), jwks_url=url, allow_http=["keycloak"])
        for url in ("http://keycloak.example.com/keys", "http://key/keys", "http://127.0.0.1/keys"):
            with pytest.raises(ConfigurationError, match="must begin with https://"):
                publish(KeyServer(), jwks_url=url, allow_http=["keycloak"])
        with pytest.raises(ConfigurationError, match=r"write allow_http=\['keycloak'\]"):
            publish(KeyServer(), jwks_url="http://keycloak:8080/keys", allow_http=True)

    @pytest.mark.parametrize("hosts", ["keycloak", ["http://keycloak"], ["keycloak:8080"], ["*"], [""], [5], {"a": 1}])
    def test_what_names_no_host(self, hosts: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            publish(KeyServer(), allow_http=hosts)
        assert caught.value.option == "allow_http"
