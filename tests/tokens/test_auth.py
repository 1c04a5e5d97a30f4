"""`JWTAuth`: rules for headers, attacks, published keys, and nothing accepted that PyJWT refuses."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jwt
import jwt.api_jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448, rsa

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.tokens.auth import ANY, JWTAuth, Verifier
from socketguard.tokens.keys import KeySource, Pending
from tests.tokens.minting import (
    ALGORITHMS,
    DOWN,
    ISSUER,
    KEYS,
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
        )
        assert identity.is_authenticated
        with pytest.raises(TypeError):
            identity.claims["sub"] = "eve"  # type: ignore[index]

    def test_the_least_a_token_must_say(self) -> None:
        assert make().verify(mint()) == Identity("ann", claims(), expires_at=NOW + 60)

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

    def test_ed448(self) -> None:
        key = ed448.Ed448PrivateKey.generate()
        assert make(key.public_key(), algorithms=["EdDSA"]).verify(jwt.encode(claims(), key, "EdDSA")).subject == "ann"

    def test_several_algorithms_with_their_keys(self) -> None:
        auth = make([RSA.public_key(), P256.public_key()], algorithms={"RS256", "PS256", "ES256"})
        for algorithm in ("RS256", "PS256", "ES256"):
            assert auth.verify(jwt.encode(claims(), KEYS[algorithm], algorithm)).subject == "ann"
        assert refused(auth, jwt.encode(claims(), RSA, "RS512")).detail == "algorithm_not_allowed"

    def test_rotation(self) -> None:
        both = make([RSA.public_key(), RSA_NEXT.public_key()], algorithms=["RS256"])
        old, new = (jwt.encode(claims(), key, "RS256") for key in (RSA, RSA_NEXT))
        assert both.verify(old) == both.verify(new)
        after = make(RSA_NEXT.public_key(), algorithms=["RS256"])
        assert after.verify(new).subject == "ann"
        assert refused(after, old).detail == "signature_mismatch"

    def test_rotation_of_secrets(self) -> None:
        auth = make([OTHER_SECRET, SECRET])
        assert auth.verify(mint()).subject == "ann"
        assert auth.verify(jwt.encode(claims(), OTHER_SECRET, "HS256")).subject == "ann"
        assert refused(auth, jwt.encode(claims(), SECRET + "!", "HS256")).detail == "signature_mismatch"


class TestTokenId:
    def test_of_another_claim(self) -> None:
        auth = make(token_id_claim="uti")
        assert auth.verify(mint(uti="u-1", jti="j-1")).token_id == "u-1"
        assert auth.verify(mint(jti="j-1")).token_id is None
        assert auth.describe()["token_id_claim"] == "uti"
        assert make().verify(mint(uti="u-1")).token_id is None

    @pytest.mark.parametrize("name", ["uti", "jti"])
    @pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}])
    def test_malformed_ones_are_refused_and_so_is_a_malformed_jti_beside(self, name: str, value: Any) -> None:
        token = sign({"alg": "HS256"}, claims(**{"uti": "u-1", "jti": "j-1", name: value}))
        error = refused(make(token_id_claim="uti"), token)
        assert (error.code, error.detail, error.fields["claim"]) == (RejectCode.TOKEN_INVALID, "claim_type", name)


class TestHeader:
    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "NONE", "noNE", "", "hs256", "HS256 ", "HS512", "RS256", "HMAC", "\u2100"]
    )
    def test_other_algorithms(self, algorithm: str) -> None:
        error = refused(make(), sign({"alg": algorithm}, claims()))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "algorithm_not_allowed")
        assert error.fields == {"expected": ["HS256"], "received": algorithm}

    @pytest.mark.parametrize(
        ("header", "received"),
        [
            ({}, "null"),
            ({"alg": None}, "null"),
            ({"alg": ["HS256"]}, "array"),
            ({"alg": {}}, "object"),
            ({"alg": True}, "boolean"),
            ({"alg": 1}, "number"),
            ({"alg": 1.5}, "number"),
        ],
    )
    def test_no_algorithm(self, header: dict[str, Any], received: str) -> None:
        assert refused(make(), sign(header, claims())).fields["received"] == received

    def test_what_was_received_is_harmless_in_a_log(self) -> None:
        received = refused(make(), sign({"alg": "x\n\u202e" + "y" * 500}, claims())).fields["received"]
        assert received.startswith("x\\u000a\\u202eyyy")
        assert len(received) < 280

    @pytest.mark.parametrize(
        ("signature", "detail"),
        [
            ("", "not_three_parts"),
            ("AAAA", "algorithm_not_allowed"),
            (b64(b"\0" * 32), "algorithm_not_allowed"),
        ],
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
                assert refused(auth, forged).detail == (
                    "signature_mismatch" if name == wanted else "algorithm_not_allowed"
                )

    def test_the_algorithm_is_checked_before_any_cryptography(self) -> None:
        auth = make()
        with mock.patch.object(auth, "_keys") as keys:
            assert refused(auth, sign({"alg": "none"}, claims())).detail == "algorithm_not_allowed"
        keys.candidates.assert_not_called()

    def test_keys_that_a_token_brings_along_are_ignored(self) -> None:
        attacker = rsa.generate_private_key(65537, 2048)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(attacker.public_key(), as_dict=True)
        brought = {"jwk": jwk, "jku": "https://evil.example/k", "x5u": "https://evil.example/c", "x5c": ["AA"]}
        auth = make(RSA_PEM, algorithms=["RS256"])
        with mock.patch("socket.socket.connect", side_effect=AssertionError("network")):
            forged = jwt.encode(claims(), attacker, "RS256", headers=brought)
            assert refused(auth, forged).detail == "signature_mismatch"
            assert auth.verify(jwt.encode(claims(), RSA, "RS256", headers=brought)).subject == "ann"

    @pytest.mark.parametrize(
        "extra",
        [
            {"crit": []},
            {"crit": ["exp"], "exp": 1},
            {"crit": None},
            {"crit": "b64"},
            {"b64": True},
            {"b64": False},
            {"b64": False, "crit": ["b64"]},
        ],
    )
    def test_extensions(self, extra: dict[str, Any]) -> None:
        error = refused(make(), sign({"alg": "HS256", **extra}, claims()))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "crit_not_supported")

    @pytest.mark.parametrize("type_", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT", ...])
    def test_types_by_default(self, type_: Any) -> None:
        header = {"alg": "HS256"} if type_ is ... else {"alg": "HS256", "typ": type_}
        assert make().verify(sign(header, claims())).subject == "ann"

    @pytest.mark.parametrize(
        ("types", "type_"),
        [
            (("JWT", "at+jwt", None), "logout+jwt"),
            (("JWT", "at+jwt", None), "dpop+jwt"),
            (("JWT", "at+jwt", None), ""),
            (("JWT", "at+jwt", None), None),
            (("JWT", "at+jwt", None), ["JWT"]),
            (("JWT", "at+jwt", None), "application/application/jwt"),
            (("JWT", "at+jwt", None), "text/jwt"),
            (("at+jwt",), "JWT"),
            (("at+jwt",), ...),
            (["application/at+jwt"], "JWT"),
        ],
    )
    def test_other_types(self, types: Any, type_: Any) -> None:
        header = {"alg": "HS256"} if type_ is ... else {"alg": "HS256", "typ": type_}
        error = refused(make(types=types), sign(header, claims()))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "type_not_allowed")
        assert "at+jwt" in error.fields["expected"]

    def test_the_type_that_was_received(self) -> None:
        def received(header: dict[str, Any]) -> Any:
            return refused(make(types={"at+jwt"}), sign({"alg": "HS256", **header}, claims())).fields["received"]

        assert [received({}), received({"typ": None}), received({"typ": "a\nb"})] == [None, "null", "a\\u000ab"]

    def test_the_profile_of_rfc_9068(self) -> None:
        auth = make(types=("application/AT+jwt",))
        assert auth.verify(mint({"typ": "at+jwt"})).subject == "ann"
        assert auth.verify(mint({"typ": "application/at+jwt"})).subject == "ann"

    @pytest.mark.parametrize("key_id", [None, 5, ["a"], {}, True, "k" * 129])
    def test_malformed_key_ids(self, key_id: Any) -> None:
        error = refused(make(), sign({"alg": "HS256", "kid": key_id}, claims()))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "key_id_malformed")

    @pytest.mark.parametrize("key_id", ["", "k" * 128, "../../dev/null", "' OR 1=1 --"])
    def test_a_key_id_is_only_a_name(self, key_id: str) -> None:
        assert make().verify(sign({"alg": "HS256", "kid": key_id}, claims())).key_id == key_id

    def test_a_wrong_signature_names_the_key_id(self) -> None:
        error = refused(make(OTHER_SECRET), mint({"kid": "k\n1"}))
        assert error.fields == {"algorithm": "HS256", "key_id": "k\\u000a1"}
        assert refused(make(OTHER_SECRET), mint()).fields == {"algorithm": "HS256"}

    @pytest.mark.parametrize(
        ("header", "detail"),
        [
            (b"{", "not_json"),
            (b'["HS256"]', "not_an_object"),
            (b'"HS256"', "not_an_object"),
            ('{"alg":"HS256"}'.encode("utf-16"), "not_utf8"),
            ('{"alg":"HS256"}'.encode("utf-16-le"), "not_json"),
            (b'\xef\xbb\xbf{"alg":"HS256"}', "not_json"),
            (b'{"alg":"HS256","x":NaN}', "not_json"),
            (rb'{"alg":"HS256","kid":"\ud800"}', "not_utf8"),
            (b'{"alg":"HS256","x":' + b"[" * 2000 + b"]" * 2000 + b"}", "nested_too_deeply"),
        ],
    )
    def test_no_json_object(self, header: bytes, detail: str) -> None:
        error = refused(make(), sign(header, claims()))
        assert (error.code, error.detail, error.fields) == (RejectCode.TOKEN_MALFORMED, detail, {"part": "header"})

    def test_the_last_of_two_members_counts(self) -> None:
        assert make().verify(sign(b'{"alg":"none","alg":"HS256"}', claims())).subject == "ann"
        assert refused(make(), sign(b'{"alg":"HS256","alg":"none"}', claims())).detail == "algorithm_not_allowed"


class TestHeaderCache:
    def test_only_headers_of_verified_tokens_get_in(self) -> None:
        auth = make()
        header = mint({"kid": "a"}).partition(".")[0]
        for number in range(300):
            refused(auth, sign({"alg": "HS256", "kid": str(number)}, claims(), OTHER_SECRET))
        assert not auth._headers
        refused(auth, mint({"kid": "a"}, exp=NOW - 100))
        assert auth._headers == {header.encode(): ("HS256", "a")}

    def test_a_known_header_does_not_make_a_signature_good(self) -> None:
        auth = make()
        for _ in range(2):
            assert auth.verify(mint({"kid": "a"})).key_id == "a"
            assert refused(auth, jwt.encode(claims(), OTHER_SECRET, headers={"kid": "a"})).detail == (
                "signature_mismatch"
            )

    def test_it_is_bounded(self) -> None:
        auth = make()
        for number in range(300):
            assert auth.verify(mint({"kid": str(number)})).key_id == str(number)
        assert 0 < len(auth._headers) <= 128
        before = len(auth._headers)
        assert auth.verify(mint({"kid": "a", "x": "x" * 600})).key_id == "a"
        assert len(auth._headers) == before


class TestShape:
    @pytest.mark.parametrize(
        ("token", "detail"),
        [
            (None, "not_a_string"),
            (b"a.b.c", "not_a_string"),
            ("", "not_three_parts"),
            ("a.b", "not_three_parts"),
            ("a.b.c.d", "not_three_parts"),
            ("a..b", "not_three_parts"),
            ("\ud800.b.c", "not_base64url"),
            ("x" * 1_000_000, "too_long"),
            ("a.b.c", "not_base64url"),
        ],
    )
    def test_refused(self, token: Any, detail: str) -> None:
        error = refused(make(), token)
        assert (error.code, error.detail) == (RejectCode.TOKEN_MALFORMED, detail)

    @pytest.mark.parametrize("index", [0, 1, 2])
    @pytest.mark.parametrize("junk", ["=", "==", "\n", " ", "+", "é", "%3D"])
    def test_junk_in_a_part(self, index: int, junk: str) -> None:
        parts = mint().split(".")
        parts[index] += junk
        assert refused(make(), ".".join(parts)).detail == "not_base64url"

    def test_one_token_has_one_spelling(self) -> None:
        token = mint()
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        accepted = [last for last in alphabet if isinstance(outcome(make(), token[:-1] + last), Identity)]
        assert accepted == [token[-1]]

    def test_a_payload_with_stray_bits_under_a_good_signature(self) -> None:
        payload = b64(json.dumps(claims(pad=""))) + "A"
        while len(payload) % 4 != 3:
            payload += "A"
        message = f"{b64(json.dumps({'alg': 'HS256'}))}.{payload[:-1]}B".encode()
        token = f"{message.decode()}.{b64(ALGORITHMS['HS256'].sign(message, SECRET.encode()))}"
        error = refused(make(), token)
        assert (error.detail, error.fields) == ("not_base64url", {"part": "payload"})


class TestPayload:
    @pytest.mark.parametrize(
        ("payload", "detail"),
        [
            (b"", "not_three_parts"),
            (b"x", "not_json"),
            (b"[]", "not_an_object"),
            (b'"sub"', "not_an_object"),
            (json.dumps(claims()).encode("utf-16"), "not_utf8"),
            (json.dumps(claims()).encode("utf-16-be"), "not_json"),
            (json.dumps(claims()).encode("utf-32"), "not_utf8"),
            (b"\xef\xbb\xbf" + json.dumps(claims()).encode(), "not_json"),
            (json.dumps(claims()).encode() + b"x", "not_json"),
            (b'{"sub":"ann","exp":NaN}', "not_json"),
            (b'{"sub":"ann","exp":Infinity}', "not_json"),
            (b'{"sub":"ann","exp":1e999}', "not_json"),
            (b'{"sub":"ann","exp":1' + b"0" * 5000 + b"}", "not_json"),
            (rb'{"sub":"\ud800","exp":1900000000}', "not_utf8"),
            (b'{"sub":"ann","exp":1900000000,"x":' + b"[" * 2000 + b"]" * 2000 + b"}", "nested_too_deeply"),
            (b'{"a":' * 900 + b"1" + b"}" * 900, "nested_too_deeply"),
        ],
    )
    def test_malformed(self, payload: bytes, detail: str) -> None:
        error = refused(make(), sign({"alg": "HS256"}, payload))
        assert (error.code, error.detail) == (RejectCode.TOKEN_MALFORMED, detail)

    def test_claims_are_looked_at_only_after_the_signature(self) -> None:
        for payload in (b"no json", b'{"exp": 1}'):
            token = sign({"alg": "HS256"}, payload, OTHER_SECRET)
            assert refused(make(), token).detail == "signature_mismatch"

    def test_the_last_of_two_members_counts(self) -> None:
        assert make().verify(raw_claims('"sub": "bob"')).subject == "bob"
        assert refused(make(), raw_claims('"exp": 1')).code is RejectCode.TOKEN_EXPIRED


class TestConfiguration:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("key", None),
            ("key", ""),
            ("key", "short"),
            ("algorithms", "HS256"),
            ("algorithms", ["none"]),
            ("algorithms", ["HS256", "RS256"]),
            ("algorithms", []),
            ("issuer", ""),
            ("issuer", []),
            ("issuer", 5),
            ("issuer", [ISSUER, None]),
            ("audience", ""),
            ("audience", ()),
            ("audience", b"crm"),
            ("leeway", -1),
            ("leeway", 61),
            ("leeway", True),
            ("leeway", "10"),
            ("leeway", None),
            ("leeway", math.nan),
            ("leeway", math.inf),
            ("leeway", datetime.timedelta(seconds=10)),
            ("require", "exp"),
            ("require", None),
            ("require", [""]),
            ("subject_claim", ""),
            ("subject_claim", None),
            ("token_id_claim", ""),
            ("token_id_claim", None),
            ("token_id_claim", ["jti"]),
            ("scope_claim", ""),
            ("scope_claim", None),
            ("scope_claim", ["scope"]),
            ("sources", ()),
            ("sources", ("body",)),
            ("payload_keys", ()),
            ("max_lifetime", 0),
            ("max_lifetime", True),
            ("max_lifetime", math.inf),
            ("types", "JWT"),
            ("types", ()),
            ("types", None),
            ("types", ("",)),
            ("types", (5,)),
            ("clock", None),
            ("clock", NOW),
            ("claims", "token_use"),
            ("claims", {"": "x"}),
            ("claims", {5: "x"}),
            ("claims", {"token_use": None}),
            ("claims", {"token_use": ""}),
            ("claims", {"token_use": []}),
            ("claims", {"token_use": ["access", 1.5]}),
            ("claims", {"token_use": {"access": 1}}),
            ("claims", {"iss": "x"}),
            ("claims", {"aud": "x"}),
            ("claims", {"exp": 1}),
            ("claims", {"nbf": 1}),
            ("claims", {"iat": 1}),
            ("expiry", "never"),
            ("expiry", None),
            ("profile", "strict"),
            ("fetch", KeyServer()),
            ("issuer", "https://login.example.com/{tid}"),
        ],
    )
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

    @pytest.mark.parametrize("leeway", [0, 0.5, 60])
    def test_leeway(self, leeway: float) -> None:
        assert make(leeway=leeway).leeway == leeway

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

    def test_describe_names_a_function(self) -> None:
        class Scopes:
            def __call__(self, claims: Mapping[str, Any]) -> list[str]:
                return ["x"]

        assert "<lambda>" in make(scope_claim=lambda claims: []).describe()["scope_claim"]
        auth = make(scope_claim=Scopes())
        assert auth.describe()["scope_claim"].endswith("Scopes")
        assert auth.verify(mint()).scopes == {"x"}

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
        changes: list[dict[str, Any]] = [
            {"key": OTHER_SECRET},
            {"algorithms": ["HS512"]},
            {"issuer": "a"},
            {"audience": "crm"},
            {"leeway": 5},
            {"require": ()},
            {"subject_claim": "email"},
            {"token_id_claim": "uti"},
            {"scope_claim": "scp"},
            {"sources": ("header",)},
            {"payload_keys": ("jwt",)},
            {"max_lifetime": 60},
            {"types": ("at+jwt",)},
            {"claims": {"level": 1}},
            {"claims": {"level": True}},
            {"expiry": "ignore"},
            {"issuer": ANY},
            {"audience": ANY},
            {"clock": lambda: NOW},
        ]
        for change in changes:
            assert auth != make(**{**same, **change}), change

    def test_what_it_uses_and_finds(self) -> None:
        auth = make(sources=("payload", "cookie:c"))
        assert (auth.uses_cookie, auth.uses_query) == (True, False)
        found = auth.find({"token": "a.b.c"}, [], b"")
        assert found is not None
        assert (found.token, found.source) == ("a.b.c", "payload")
        assert make().find(None, [], b"token=a.b.c") is None


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
        assert server.asked == ["https://keys.example.com/jwks"]

    async def test_many_at_once_make_one_fetch(self) -> None:
        server = KeyServer()
        auth = publish(server)
        found = await asyncio.gather(*(auth.averify(signed(sub=f"u{number}")) for number in range(20)))
        assert [identity.subject for identity in found] == [f"u{number}" for number in range(20)]
        assert len(server.asked) == 1

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
        assert (error.code, error.detail, error.fields) == (
            RejectCode.TOKEN_INVALID,
            "key_unknown",
            {"key_id": "k\\u000a2"},
        )
        # From now on the keys may be older than the key of the token; but nobody is asked again so soon.
        error = await arefused(auth, signed(RSA_NEXT, "two"))
        assert (error.code, error.detail) == (RejectCode.KEYS_UNAVAILABLE, "key_unknown")
        assert error.fields["retry_after"] >= 1
        assert len(server.asked) == 1

    async def test_the_wrong_key_under_a_known_id(self) -> None:
        error = await arefused(publish(KeyServer()), signed(RSA_NEXT, "one"))
        assert (error.code, error.detail) == (RejectCode.TOKEN_INVALID, "signature_mismatch")

    async def test_several_algorithms(self) -> None:
        auth = publish(KeyServer(jwk(RSA, "r"), jwk(P256, "e")), algorithms=["RS256", "ES256"])
        assert (await auth.averify(signed(RSA, "r"))).key_id == "r"
        assert (await auth.averify(signed(P256, "e", "ES256"))).key_id == "e"

    async def test_an_outage(self) -> None:
        server = KeyServer()
        server.answer = DOWN
        auth = publish(server)
        assert auth.outage() is None
        for _ in range(2):
            error = await arefused(auth, signed())
            assert (error.code, error.detail) == (RejectCode.KEYS_UNAVAILABLE, "keys_unavailable")
            assert error.fields["retry_after"] >= 1
        outage = auth.outage()
        assert outage is not None
        assert outage >= 1
        assert auth.keys_status()[0]["state"] == "unavailable"
        assert len(server.asked) == 1

    async def test_keys_that_stay_away_are_a_refusal(self) -> None:
        """A source of keys that never has any, whatever is awaited."""

        class Never(KeySource):
            asked = 0

            def candidates(self, algorithm: str, key_id: str | None) -> Pending:
                self.asked += 1
                return Pending("keys_pending", {}, 0)

        keys = Never()
        error = await arefused(make().with_keys(keys), mint())
        assert error.code is RejectCode.KEYS_UNAVAILABLE
        assert keys.asked == 2

    async def test_claims_are_checked_after_a_fetch_too(self) -> None:
        error = await arefused(publish(KeyServer()), signed(exp=NOW - 60))
        assert error.code is RejectCode.TOKEN_EXPIRED
        assert (await arefused(publish(KeyServer()), signed(iss="x"))).detail == "issuer_mismatch"
        assert (await arefused(publish(KeyServer()), signed(aud="x"))).detail == "audience_mismatch"

    async def test_it_starts_tells_and_ends(self) -> None:
        auth = publish(KeyServer())
        assert auth.changes(0) == (0, [])
        assert auth.keys_status()[0]["state"] == "empty"
        auth.start()
        assert (await auth.averify(signed())).subject == "ann"
        position, (change,) = auth.changes(0)
        assert (change.kind, change.fields["key_ids"]) == ("refreshed", ["one"])
        assert (position > 0, auth.changes(position)) == (True, (position, []))
        assert auth.keys_status()[0]["state"] == "fresh"
        assert auth.outage() is None
        await auth.close()
        assert auth.verify(signed()).subject == "ann"

    async def test_discovery(self) -> None:
        server = KeyServer(issuer="https://id.example.com")
        auth = JWTAuth.discover("https://id.example.com", audience="crm", fetch=server, clock=lambda: NOW)
        assert (await auth.averify(signed(iss="https://id.example.com"))).subject == "ann"
        assert server.asked == [
            "https://id.example.com/.well-known/openid-configuration",
            "https://keys.example.com/jwks",
        ]
        assert auth.issuers == {"https://id.example.com"}
        assert (await arefused(auth, signed(P256, "one", "ES256"))).fields["expected"] == ["RS256"]

    async def test_discovery_of_somebody_else(self) -> None:
        server = KeyServer(issuer="https://evil.example.com")
        auth = JWTAuth.discover("https://id.example.com", audience="crm", fetch=server, clock=lambda: NOW)
        error = await arefused(auth, signed(iss="https://id.example.com"))
        assert error.code is RejectCode.KEYS_UNAVAILABLE

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
            ("jwks_url", {"jwks_url": ""}, "jwks_url"),
            ("jwks_lifetime", {"jwks_lifetime": 0}, "jwks_lifetime"),
            ("stale_if_error", {"stale_if_error": -1}, "stale_if_error"),
            ("jwks_cooldown", {"jwks_cooldown": "30"}, "jwks_cooldown"),
            ("jwks_timeout", {"jwks_timeout": 0}, "jwks_timeout"),
            ("fetch", {"fetch": 5}, "fetch"),
        ],
    )
    def test_configuration(self, option: str, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            publish(KeyServer(), **changes)
        assert caught.value.option == option

    def test_without_a_check_when_that_is_written_out(self) -> None:
        auth = publish(KeyServer(), issuer=ANY, audience=ANY)
        assert auth.issuers == frozenset()
        assert (auth.describe()["issuer"], auth.describe()["audience"]) == ("ANY", "ANY")
        assert auth.findings() == []

    def test_http_for_this_machine_only_when_asked(self) -> None:
        url = "http://127.0.0.1:8080/jwks"
        assert publish(KeyServer(), jwks_url=url, allow_http=True).describe()["keys"] == [f"JWKS {url}"]
        with pytest.raises(ConfigurationError, match="allow_http"):
            publish(KeyServer(), jwks_url=url)

    def test_equal_by_configuration(self) -> None:
        server = KeyServer()
        same: dict[str, Any] = {"clock": int}
        auth = publish(server, **same)
        assert auth == publish(server, **same)
        assert hash(auth) == hash(publish(server, **same))
        for change in (
            {"jwks_url": "https://keys.example.com/other"},
            {"fetch": KeyServer()},
            {"jwks_lifetime": 700},
            {"stale_if_error": 0},
            {"jwks_cooldown": 20},
            {"jwks_timeout": 3},
            {"allow_http": True},
        ):
            assert auth != publish(server, **{**same, **change}), change
        assert repr(auth) == "<JWTAuth RS256 (JWKS https://keys.example.com/jwks)>"

    async def test_keys_that_are_given_are_never_fetched(self) -> None:
        auth = make()
        auth.start()
        assert (auth.outage(), auth.keys_status(), auth.changes(0)) == (None, [], (0, []))
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

    @pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": None}])
    def test_other_types(self, header: dict[str, Any]) -> None:
        assert refused(self.auth(), mint(header, **self.GOOD)).detail == "type_not_allowed"

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
        end = auth.ends_at(identity)
        assert end is not None
        now[0] = math.nextafter(end, 0)
        auth.check_time(identity)
        now[0] = end
        with pytest.raises(TokenError):
            auth.check_time(identity)

    def test_never(self) -> None:
        assert make(require=()).ends_at(make(require=()).verify(mint(exp=...))) is None
        ignoring = make(expiry="ignore")
        assert ignoring.ends_at(ignoring.verify(mint())) is None
        assert refused(ignoring, mint(exp=NOW - 60)).code is RejectCode.TOKEN_EXPIRED
        assert make().ends_at(Identity(subject=None)) is None


class TestErrors:
    def test_whatever_goes_wrong_inside_is_a_refusal_without_details(self) -> None:
        auth = make()
        token = mint()
        with mock.patch.object(auth, "_keys") as keys:
            keys.candidates.side_effect = RuntimeError(f"while looking at {token}")
            error = refused(auth, token)
        assert (error.code, error.detail, error.fields) == (
            RejectCode.TOKEN_INVALID,
            "unexpected_error",
            {"exception": "RuntimeError"},
        )
        assert error.__suppress_context__
        assert error.__cause__ is None

    def test_without_a_key_nobody_gets_in(self) -> None:
        auth = make()
        with mock.patch.object(auth, "_keys") as keys:
            keys.candidates.return_value = ()
            assert refused(auth, mint()).detail == "signature_mismatch"

    def test_no_error_quotes_the_token(self) -> None:
        auth = make(issuer=ISSUER, audience="crm")
        good = mint(iss=ISSUER, aud="crm")
        header, payload, signature = good.split(".")
        tokens = [
            mint(iss="x"),
            mint(exp=1),
            f"{header}.{payload}.{signature[:-4]}AAAA",
            f"{payload}.{payload}.{signature}",
            good + "=",
            good + ".x",
        ]
        for token in tokens:
            error = refused(auth, token)
            shown = f"{error}{error!r}{error.fields}"
            assert not any(part in shown for part in token.split(".") if len(part) > 4)


def test_check_time_refuses_once_the_token_has_expired() -> None:
    now = [1_800_000_000.0]
    auth = JWTAuth("x" * 32, algorithms=["HS256"], clock=lambda: now[0])
    identity = auth.verify(jwt.encode({"sub": "u", "exp": now[0] + 60}, "x" * 32, algorithm="HS256"))
    now[0] += 69.9
    auth.check_time(identity)
    now[0] += 0.2
    with pytest.raises(TokenError) as caught:
        auth.check_time(identity)
    assert caught.value.code is RejectCode.TOKEN_EXPIRED


def test_check_time_lets_a_token_without_an_end_pass() -> None:
    auth = JWTAuth("x" * 32, algorithms=["HS256"], require=())
    auth.check_time(auth.verify(jwt.encode({"sub": "u"}, "x" * 32, algorithm="HS256")))
