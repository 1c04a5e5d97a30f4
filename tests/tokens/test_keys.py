"""Static keys: what is accepted, what is refused, and that key material never shows."""

from __future__ import annotations

import base64
import datetime
import functools
import json
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from jwt.algorithms import get_default_algorithms

from socketguard.errors import ConfigurationError
from socketguard.tokens.keys import ALGORITHMS, PreparedKey, StaticKeys, check_algorithms, fitting
from socketguard.tokens.templates import IssuerTemplate
from tests.tokens.minting import PUBLIC, private, signature

SECRET = "k9Zt-4vQ_7mB2xLwR8sYcN1pD6hJ3fGa"  # 32 bytes
Encoding, Public, Private = serialization.Encoding, serialization.PublicFormat, serialization.PrivateFormat


def pem(kind: str) -> str:
    return private(kind).public_key().public_bytes(Encoding.PEM, Public.SubjectPublicKeyInfo).decode()


def private_pem(kind: str, format_: Any = Private.PKCS8) -> str:
    return private(kind).private_bytes(Encoding.PEM, format_, serialization.NoEncryption()).decode()


def der(kind: str) -> bytes:
    return private(kind).public_key().public_bytes(Encoding.DER, Public.SubjectPublicKeyInfo)


@functools.cache
def certificate(kind: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, private(kind).public_key(), 1, start, start.replace(year=2021))
    return builder.sign(private(kind), hashes.SHA256())


def certificate_pem(kind: str) -> str:
    return certificate(kind).public_bytes(Encoding.PEM).decode()


def configuration_error(key: Any, *algorithms: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        StaticKeys(key, check_algorithms(algorithms))
    return caught.value


class TestAlgorithms:
    def test_all_that_may_be_allowed_exist_in_pyjwt(self) -> None:
        # Ed25519 is EdDSA with a key of that curve (RFC 9864 section 2.2).
        assert set(ALGORITHMS) - {"Ed25519"} < set(get_default_algorithms())
        assert check_algorithms(["ES256", "RS256", "ES256"]) == ("ES256", "RS256")
        assert check_algorithms({"HS512", "HS256"}) == ("HS256", "HS512")

    @pytest.mark.parametrize(
        ("algorithms", "text"),
        [
            ("HS256", r'write algorithms=\["HS256"\]'),
            ("XHS256Y", "must be a list"),
            (b"HS256", "not bytes"),
            (None, "not NoneType"),
            ({"HS256": 1}, "not dict"),
            ([], "is empty"),
            ([None], "non-empty strings"),
            ([""], "non-empty strings"),
            (["none"], "nobody signed"),
            (["HS256", "noNE"], "nobody signed"),
            (["hs256"], "did you mean 'HS256'"),
            (["eddsa"], "did you mean 'EdDSA'"),
            (["ed25519"], "did you mean 'Ed25519'"),
            (["Ed448"], "did you mean 'EdDSA'"),
            *(([name], "it may hold HS256") for name in ("RS265", "ES256K", "ES521")),
            *((names, "mixes") for names in (["HS256", "RS256"], ["EdDSA", "HS512"], ["Ed25519", "HS512"])),
        ],
    )
    def test_refused(self, algorithms: Any, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            check_algorithms(algorithms)
        assert caught.value.option == "algorithms"


def test_what_is_no_usable_public_key() -> None:
    assert [fitting(key) for key in (private("k256").public_key(), private("rsa"), "key")] == [None] * 3


class TestSecrets:
    @pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
    def test_at_least_as_long_as_the_hash(self, algorithm: str, size: int) -> None:
        assert StaticKeys(b"\xff" * size, (algorithm,)).kinds == ("shared secret",)
        error = configuration_error(b"\xff" * (size - 1), algorithm)
        assert "RFC 7518" in str(error) or "fits none" in str(error)

    def test_bytes_count_and_not_characters(self) -> None:
        assert StaticKeys("é" * 16, ("HS256",)).kinds == ("shared secret",)

    def test_a_secret_too_short_for_one_of_the_algorithms(self) -> None:
        error = configuration_error(SECRET, "HS256", "HS512")
        assert error.option == "algorithms"
        assert "HS512 (it needs a secret of 64 bytes)" in str(error)

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            *((key, "is empty") for key in ("", b"", [""])),
            ([], "empty list"),
            ([SECRET, None], "key 2 of 2 must be a secret .* environment variable"),
            (5, "not int"),
            ({"kty": "oct"}, "not dict"),
            (bytearray(40), "not bytearray"),
            ("short", "has 5 bytes, but HS256 needs at least 32"),
            (SECRET + "\n", "white space"),
            (" " + SECRET, "white space"),
            ("\ud800" * 40, "UTF-8"),
        ],
    )
    def test_refused(self, key: Any, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            StaticKeys(key, ("HS256",))
        assert caught.value.option == "key"
        assert SECRET not in str(caught.value)

    def test_white_space_in_bytes_may_be_meant(self) -> None:
        assert StaticKeys(SECRET.encode() + b"\n", ("HS256",)).candidates("HS256", None)

    @pytest.mark.parametrize(
        "key",
        [
            lambda: pem("rsa"),
            lambda: pem("rsa").encode(),
            lambda: "  \n" + pem("p256"),
            lambda: private_pem("rsa"),
            lambda: certificate_pem("rsa"),
            lambda: der("rsa"),
            lambda: certificate("rsa").public_bytes(Encoding.DER),
            lambda: private("p256").private_bytes(Encoding.DER, Private.PKCS8, serialization.NoEncryption()),
            # The bare base64 of keys.
            lambda: base64.b64encode(der("rsa")).decode(),
            lambda: base64.urlsafe_b64encode(der("rsa")).decode().rstrip("="),
            lambda: "\n".join(pem("rsa").splitlines()[1:-1]),
            lambda: base64.b64encode(der("ed25519")).decode(),
            lambda: base64.b64encode(pem("rsa").encode()).decode(),
            # SSH, whole and the body of it.
            lambda: private("rsa").public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode(),
            lambda: private("p256").public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).split()[1],
            # JWK, and a set of them.
            lambda: jwt.algorithms.RSAAlgorithm.to_jwk(private("rsa").public_key()),
            lambda: json.dumps({"keys": [jwt.algorithms.HMACAlgorithm.to_jwk(SECRET, as_dict=True)]}),
        ],
    )
    def test_what_is_no_secret_is_not_used_as_one(self, key: Any) -> None:
        assert "looks like an asymmetric key" in str(configuration_error(key(), "HS256"))

    @pytest.mark.parametrize(
        "key", [base64.b64encode(bytes(range(48))).decode(), "0" * 64, "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" + "A" * 20]
    )
    def test_a_secret_that_is_merely_base64_or_hex(self, key: str) -> None:
        assert StaticKeys(key, ("HS256",)).kinds == ("shared secret",)


class TestPublicKeys:
    @pytest.mark.parametrize(("kind", "algorithms", "shown"), PUBLIC)
    def test_every_form_of_a_key_is_the_same_key(self, kind: str, algorithms: tuple[str, ...], shown: str) -> None:
        text = pem(kind)
        forms: list[Any] = [text, text.encode(), private(kind).public_key(), f" {text} ", text.replace("\n", "\\n")]
        if not kind.startswith("ed"):
            forms += [certificate(kind), certificate_pem(kind)]
        made = [StaticKeys(form, algorithms) for form in forms]
        assert {keys.kinds for keys in made} == {(shown,)}
        assert len({keys.fingerprint for keys in made}) == 1
        assert all(keys.is_public for keys in made)
        for algorithm in algorithms:
            good = signature(private(kind), algorithm)
            (candidate,) = made[0].candidates(algorithm, None)
            assert candidate.verify(b"message", good) is True
            assert candidate.verify(b"messagE", good) is False
            assert candidate.verify(b"message", good[:-1]) is candidate.verify(b"message", b"") is False

    def test_pkcs1(self) -> None:
        text = private("rsa").public_key().public_bytes(Encoding.PEM, Public.PKCS1)
        assert StaticKeys(text, ("RS256",)).fingerprint == StaticKeys(pem("rsa"), ("RS256",)).fingerprint

    @pytest.mark.parametrize(
        ("key", "algorithm", "text"),
        [
            (lambda: None, "RS256", "environment variable"),
            (lambda: "", "RS256", "no PEM text"),
            (lambda: SECRET, "RS256", "no PEM text"),
            (lambda: "ｋ" + pem("rsa"), "RS256", "no PEM text"),
            (lambda: b"\xff\xfe", "RS256", "no PEM text"),
            (lambda: der("rsa"), "RS256", "no PEM text"),
            (lambda: base64.b64encode(der("rsa")), "RS256", "bare base64 key between such lines"),
            (lambda: {"kty": "RSA"}, "RS256", "not dict"),
            (lambda: private_pem("rsa"), "RS256", "is a private key"),
            (lambda: private_pem("rsa", Private.TraditionalOpenSSL), "RS256", "is a private key"),
            (lambda: private_pem("ed25519", Private.OpenSSH), "EdDSA", "is a private key"),
            (lambda: private("rsa"), "RS256", r"key\.public_key\(\)"),
            (lambda: private("p256"), "ES256", r"key\.public_key\(\)"),
            (lambda: private("ed25519"), "EdDSA", r"key\.public_key\(\)"),
            (lambda: pem("rsa") + pem("p256"), "RS256", "more than one PEM block"),
            (lambda: pem("rsa")[:200], "RS256", "was it cut"),
            (lambda: certificate_pem("rsa")[:-200], "RS256", "was it cut"),
            (lambda: pem("rsa-small"), "RS256", "RSA key of 1024 bits; at least 2048"),
            (lambda: certificate("rsa-small"), "PS256", "RSA key of 1024 bits"),
            (lambda: pem("k256"), "ES256", "on the curve secp256k1"),
            (lambda: private("x25519").public_key(), "EdDSA", "not X25519PublicKey"),
            (lambda: pem("dsa"), "RS256", "not DSAPublicKey"),
            (lambda: pem("rsa"), "ES256", r"key \(RSA 2048\) fits none of the algorithms ES256; it fits RS256"),
            (lambda: pem("p256"), "ES384", r"key \(P-256\) fits none of the algorithms ES384; it fits ES256"),
            (lambda: pem("p384"), "ES256", "fits none"),
            (lambda: pem("ed25519"), "RS256", "fits none"),
            (lambda: pem("ed448"), "Ed25519", r"key \(Ed448\) fits none of the algorithms Ed25519; it fits EdDSA"),
            (lambda: [pem("rsa"), pem("p256")], "RS256", r"key 2 of 2 \(P-256\) fits none"),
        ],
    )
    def test_refused(self, key: Any, algorithm: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=text) as caught:
            StaticKeys(key(), (algorithm,))
        assert caught.value.option == "key"

    def test_ed448_is_no_ed25519(self) -> None:
        keys = StaticKeys([pem("ed448"), pem("ed25519")], ("EdDSA", "Ed25519"))
        assert [key.kind for key in keys.candidates("EdDSA", None)] == ["Ed448", "Ed25519"]
        assert [key.kind for key in keys.candidates("Ed25519", None)] == ["Ed25519"]

    def test_an_algorithm_without_a_key(self) -> None:
        error = configuration_error(pem("rsa"), "RS256", "ES256")
        assert (error.option, "allows ES256, but no key fits it" in str(error)) == ("algorithms", True)


class TestSets:
    def test_each_key_is_tried_for_its_own_algorithms_only(self) -> None:
        keys = StaticKeys([pem("rsa"), pem("p256"), pem("rsa:other")], ("RS256", "ES256"))
        assert [key.kind for key in keys.candidates("RS256", "any")] == ["RSA 2048", "RSA 2048"]
        assert [key.kind for key in keys.candidates("ES256", None)] == ["P-256"]
        assert keys.candidates("ES256", None)[0].algorithm == "ES256"
        assert {key.issuer for name in ("RS256", "ES256") for key in keys.candidates(name, None)} == {None}

    def test_a_key_may_be_bound_to_an_issuer(self) -> None:
        template = IssuerTemplate(("https://id.example.com/", "tid", ""))
        key = PreparedKey("HS256", "shared secret", SECRET, issuer=template)
        assert (key.issuer, str(template)) == (template, "https://id.example.com/{tid}")
        good = signature(SECRET, "HS256")
        assert (key.verify(b"message", good), key.verify(b"messagE", good)) == (True, False)
        assert repr(key) == "<PreparedKey shared secret for HS256>"

    def test_the_same_key_twice_is_one_key(self) -> None:
        keys = StaticKeys((pem("rsa"), private("rsa").public_key()), ("RS256",))
        assert (keys.kinds, len(keys.candidates("RS256", None))) == (("RSA 2048",), 1)

    def test_secrets_of_different_length(self) -> None:
        keys = StaticKeys([SECRET, SECRET * 2], ("HS256", "HS512"))
        assert (len(keys.candidates("HS256", None)), len(keys.candidates("HS512", None))) == (2, 1)
        assert keys.is_public is False

    def test_nothing_of_a_key_is_shown(self) -> None:
        keys = StaticKeys([SECRET, SECRET * 2], ("HS256",))
        assert repr(keys) == "<StaticKeys shared secret, shared secret>"
        assert repr(keys.candidates("HS256", None)[0]) == "<PreparedKey shared secret for HS256>"
        assert SECRET.encode() not in b"".join(keys.fingerprint)
