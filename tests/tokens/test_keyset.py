"""JWK Sets: which keys are used, for which algorithms, and which are ignored, each for its own reason."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from socketguard.errors import RejectCode, TokenError
from socketguard.tokens.keys import ALGORITHMS
from socketguard.tokens.keyset import KeySet, Unusable
from socketguard.tokens.templates import IssuerTemplate
from tests.tokens.minting import PUBLIC, jwk, private, signature

ASYMMETRIC = tuple(name for name in ALGORITHMS if not name.startswith("HS"))


def key_set(*keys: Any, algorithms: tuple[str, ...] = ASYMMETRIC) -> KeySet:
    return KeySet({"keys": list(keys)}, algorithms)


def reasons(*keys: Any) -> list[str]:
    """Why each of these keys is ignored; a good one beside them is used all the same."""
    found = key_set(*keys, jwk("p384", key_id="good"))
    assert (found.ids[-1], found.count) == ("good", 1)
    return found.ignored


class TestUsableKeys:
    @pytest.mark.parametrize(("kind", "algorithms", "shown"), PUBLIC)
    def test_every_kind_verifies_with_its_own_algorithms_only(
        self, kind: str, algorithms: tuple[str, ...], shown: str
    ) -> None:
        keys = key_set(jwk(kind, key_id="1"))
        for algorithm in set(ASYMMETRIC) - set(algorithms):
            with pytest.raises(TokenError) as caught:
                keys.find(algorithm, "1")
            assert (caught.value.code, caught.value.detail) == (RejectCode.TOKEN_INVALID, "algorithm_not_allowed")
            assert caught.value.fields == {"expected": sorted(algorithms), "received": algorithm, "key_id": "1"}
        for algorithm in algorithms:
            (key,) = keys.find(algorithm, "1")
            assert (key.kind, key.algorithm) == (shown, algorithm)
            assert key.verify(b"message", signature(private(kind), algorithm)) is True
            assert key.verify(b"messagE", signature(private(kind), algorithm)) is False

    def test_only_allowed_algorithms_are_served(self) -> None:
        keys = key_set(jwk("rsa", key_id="1"), jwk("p256", key_id="2"), algorithms=("RS256",))
        assert (keys.count, keys.ids) == (1, ("1",))
        assert keys.ignored == ["key 2: it fits none of the algorithms RS256 (P-256)"]
        assert keys.find("ES256", None) == ()

    @pytest.mark.parametrize(
        ("kind", "named", "served"),
        [
            ("rsa", "RS256", {"RS256"}),
            ("rsa", "PS512", {"PS512"}),
            ("ed25519", "EdDSA", {"EdDSA", "Ed25519"}),
            ("ed25519", "Ed25519", {"EdDSA", "Ed25519"}),
            ("ed448", "EdDSA", {"EdDSA"}),
        ],
    )
    def test_a_key_with_an_algorithm_serves_that_one_only(self, kind: str, named: str, served: set[str]) -> None:
        keys = key_set(jwk(kind, alg=named))
        assert {name for name in ASYMMETRIC if keys.find(name, None)} == served

    @pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
    @pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
    def test_the_two_names_of_ed25519_do_not_widen_what_is_allowed(self, algorithm: str, named: str) -> None:
        keys = key_set(jwk("ed25519", alg=named), algorithms=(algorithm,))
        assert {name for name in ASYMMETRIC if keys.find(name, None)} == {algorithm}

    def test_members_that_change_nothing(self) -> None:
        members = {"use": "sig", "key_ops": ["verify"], "x5c": ["x"], "x5u": "http://x", "extra": [1], "kid": None}
        assert len(key_set(jwk("rsa", **members)).find("RS256", None)) == 1

    @pytest.mark.parametrize(
        ("issuer", "parts"),
        [
            ("https://id.example.com", ("https://id.example.com",)),
            ("https://id.example.com/{tid}/v2.0", ("https://id.example.com/", "tid", "/v2.0")),
            ("https://id.example.com/{tenantid}/v2.0", ("https://id.example.com/", "tid", "/v2.0")),
            ("https://{tenantId}.example.com/{org}", ("https://", "tid", ".example.com/", "org", "")),
            ("tenantid", ("tenantid",)),
            ("i", ("i",)),
            ("i" * 512, ("i" * 512,)),
        ],
    )
    def test_an_issuer_goes_with_its_key_for_every_algorithm(self, issuer: str, parts: tuple[str, ...]) -> None:
        keys = key_set(jwk("rsa", key_id="1", issuer=issuer), jwk("rsa:other", key_id="2"))
        template = IssuerTemplate(parts)
        for algorithm in ("RS256", "PS512"):
            assert [key.issuer for key in keys.find(algorithm, "1")] == [template]
            assert [key.issuer for key in keys.find(algorithm, "2")] == [None]
            assert [key.issuer for key in keys.find(algorithm, None)] == [template, None]

    def test_keys_of_the_same_id_are_all_tried_but_no_more_than_four(self) -> None:
        keys = key_set(jwk("rsa", key_id="1"), jwk("rsa:other", key_id="1"), jwk("p256", key_id="1"))
        assert [key.kind for key in keys.find("RS256", "1")] == ["RSA 2048", "RSA 2048"]
        assert [key.kind for key in keys.find("ES256", "1")] == ["P-256"]
        assert keys.ids == ("1",)
        keys = key_set(*[jwk("p256", key_id="1") for _ in range(6)])
        assert len(keys.find("ES256", "1")) == 4
        assert keys.ignored == ["key 1: more than 4 keys have this kid"] * 2

    def test_equal_keys_have_equal_fingerprints(self) -> None:
        one = key_set(jwk("rsa", key_id="1"), jwk("p256", key_id="2")).fingerprint
        assert one == key_set(jwk("p256", key_id="2"), jwk("rsa", key_id="1"), jwk("k256")).fingerprint
        others = [
            key_set(jwk("rsa", key_id="1")),
            key_set(jwk("rsa", key_id="1"), jwk("p256", key_id="3")),
            key_set(jwk("rsa", key_id="1", alg="RS256"), jwk("p256", key_id="2")),
            key_set(jwk("rsa:other", key_id="1"), jwk("p256", key_id="2")),
            key_set(jwk("rsa", key_id="1", issuer="https://a.example"), jwk("p256", key_id="2")),
            key_set(jwk("rsa", key_id="1", issuer="https://b.example"), jwk("p256", key_id="2")),
        ]
        assert len({one, *(other.fingerprint for other in others)}) == 1 + len(others)


class TestTokensWithoutAKeyId:
    def test_every_key_that_fits_is_tried(self) -> None:
        keys = key_set(*[jwk("p256", key_id=str(number)) for number in range(3)], jwk("p256"), jwk("rsa"))
        assert len(keys.find("ES256", None)) == 4

    def test_too_many_fit(self) -> None:
        keys = key_set(*[jwk("p256", key_id=str(number)) for number in range(5)])
        with pytest.raises(TokenError) as caught:
            keys.find("ES256", None)
        assert (caught.value.code, caught.value.detail) == (RejectCode.TOKEN_INVALID, "key_id_missing")
        assert caught.value.fields == {"keys": 5}
        assert len(keys.find("ES256", "4")) == 1

    def test_a_key_without_id_is_found_by_no_id(self) -> None:
        assert key_set(jwk("rsa")).find("RS256", "1") == ()
        assert key_set(jwk("rsa")).ids == ()


class TestIgnoredKeys:
    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            (lambda: HMACAlgorithm.to_jwk("s" * 64, as_dict=True), "a shared secret is no secret"),
            (lambda: {"kty": "oct", "k": "c2VjcmV0", "alg": "RS256"}, "a shared secret is no secret"),
            (lambda: jwk("rsa", use="enc"), "use is not sig"),
            (lambda: jwk("rsa", use=None), "use is not sig"),
            (lambda: jwk("rsa", key_ops=["encrypt"]), "key_ops has no verify"),
            (lambda: jwk("rsa", key_ops="verify"), "key_ops has no verify"),
            (lambda: RSAAlgorithm.to_jwk(private("rsa"), as_dict=True) | {"key_ops": ["verify"]}, "private part"),
            (lambda: OKPAlgorithm.to_jwk(private("ed25519"), as_dict=True), "private part"),
            (lambda: jwk("rsa-small"), "RSA needs 2048 to 16384 bits, this has 1024"),
            (lambda: jwk("rsa", n=base64.urlsafe_b64encode(b"\xff" * 2049).decode()), "this has 16392"),
            (lambda: jwk("rsa", alg="ES256"), r"fits none of the algorithms .* \(RSA 2048, alg ES256\)"),
            (lambda: jwk("rsa", alg="none"), "alg none"),
            (lambda: jwk("rsa", alg="HS256"), "alg HS256"),
            (lambda: jwk("rsa", alg="RSA-OAEP"), "alg RSA-OAEP"),
            (lambda: jwk("rsa", alg=["RS256"]), "fits none"),
            (lambda: jwk("rsa", alg="\x1b[2J"), r"alg \\u001b\[2J"),
            (lambda: jwk("ed448", alg="Ed25519"), r"Ed448, alg Ed25519"),
            (lambda: jwk("k256"), "kind EC secp256k1 are unknown"),
            (lambda: {"kty": "OKP", "crv": "X25519", "x": "AA"}, "kind OKP X25519 are unknown"),
            (lambda: {"kty": "\u202eRSA"}, r"kind \\u202eRSA are unknown"),
            (dict, "kind without kty are unknown"),
            (lambda: {"kty": ["RSA"]}, "unknown"),
            (lambda: jwk("p256", crv=["P-256"]), "numbers are missing or wrong"),
            (lambda: jwk("p256", crv="P-521"), "numbers are missing or wrong"),
            (lambda: jwk("p256", x=jwk("p256")["y"]), "numbers are missing or wrong"),
            (lambda: jwk("ed25519", x="AAAA"), "numbers are missing or wrong"),
            (lambda: jwk("ed25519", crv="Ed448"), "numbers are missing or wrong"),
            *((lambda n=n: jwk("rsa", n=n), "numbers are missing or wrong") for n in (None, [1], "", "a b", "é")),
            (lambda: jwk("rsa", e="AQ"), "numbers are missing or wrong"),
            (lambda: {"kty": "RSA"}, "numbers are missing or wrong"),
            (lambda: jwk("rsa", kid=5), "kid must be a string of at most 128 characters"),
            (lambda: jwk("rsa", key_id="k" * 129), "kid must be a string of at most 128 characters"),
            *(
                (lambda issuer=issuer: jwk("rsa", issuer=issuer), "be a non-empty string of at most 512 characters")
                for issuer in (None, "", ["https://a.example"], True, "i" * 513)
            ),
            *(
                (lambda issuer=issuer: jwk("rsa", issuer=issuer), "issuer has braces that name no claim, or iss")
                for issuer in (
                    "https://a.example/{",
                    "https://a.example/{tid",
                    "https://a.example/{}",
                    "{{tid}}",
                    "{iss}",
                )
            ),
            (lambda: None, "must be an object, not NoneType"),
            (lambda: "key", "must be an object, not str"),
            (lambda: [], "must be an object, not list"),
        ],
    )
    def test_one_bad_key_spoils_no_other(self, key: Any, reason: str) -> None:
        (ignored,) = reasons(key())
        assert ignored.startswith("key 1: ")
        with pytest.raises(Unusable, match=reason) as caught:
            key_set(key())
        assert str(caught.value) == f"no key of the set can be used; {ignored}"

    def test_ids_are_shown_harmlessly(self) -> None:
        assert reasons(jwk("rsa", kid="a\nb", use="enc")) == ["key a\\u000ab: use is not sig"]
        assert key_set(jwk("rsa", kid="a\nb")).ids == ("a\\u000ab",)


class TestSets:
    @pytest.mark.parametrize(
        ("document", "reason"),
        [
            *((document, 'no list "keys"') for document in ({}, {"keys": None}, {"keys": {"1": {}}})),
            ({"keys": []}, "no key of the set can be used"),
            ({"keys": [{}] * 101}, "the set has 101 keys; at most 100 are taken"),
        ],
    )
    def test_without_a_usable_key(self, document: dict[str, Any], reason: str) -> None:
        with pytest.raises(Unusable, match=reason):
            KeySet(document, ASYMMETRIC)

    def test_a_hundred_keys(self) -> None:
        assert key_set(*[jwk("p256", key_id=str(number)) for number in range(100)]).count == 100

    def test_the_text_stays_short(self) -> None:
        with pytest.raises(Unusable) as caught:
            key_set(*[{"kty": "x" * 1000}] * 100)
        assert len(str(caught.value)) < 1500


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.text("{}tidss", max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
MEMBERS = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "alg", "use", "key_ops", "kid", "d", "k", "issuer"])


# Keys are made at the first example, which takes longer than the others.


@given(st.sampled_from(["rsa", "p256", "ed25519", "ed448"]), st.dictionaries(MEMBERS, JSON, max_size=4))
def test_whatever_a_key_holds_it_is_used_or_ignored(kind: str, members: dict[str, Any]) -> None:
    keys = key_set(jwk(kind, **members), jwk("p521", key_id="good"))
    assert len(keys.find("ES512", "good")) == 1
    assert keys.count + len(keys.ignored) == 2


@given(st.dictionaries(st.just("keys") | st.text(max_size=5), JSON))
def test_whatever_a_document_holds_it_is_unusable_with_a_reason(document: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="key"):
        KeySet(document, ASYMMETRIC)
