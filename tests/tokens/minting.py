"""Keys, tokens good and bad, an identity provider, and verifiers: what the tests of tokens share."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from jwt.algorithms import get_default_algorithms

from socketguard.connection import Identity
from socketguard.errors import TokenError
from socketguard.tokens.auth import JWTAuth

NOW = 1_800_000_000
SECRET = "k9Zt-4vQ_7mB2xLwR8sYcN1pD6hJ3fGa-of-sixty-four-bytes-for-HS512-too"
OTHER_SECRET = SECRET[::-1]
ISSUER = "https://login.example.com/"
KEYS_URL = "https://keys.example.com/jwks"
ALGORITHMS = get_default_algorithms()
_MAKERS: Mapping[str, Any] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-small": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - it must be refused
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "x25519": x25519.X25519PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(2048),
}


@functools.cache
def private(name: str) -> Any:
    """A private key, made once: of this kind, or with a name after a colon another one of it."""
    return _MAKERS[name.partition(":")[0]]()


RSA, RSA_NEXT = private("rsa"), private("rsa:next")
RSA_PEM = (
    RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)
P256, P256_NEXT = private("p256"), private("p256:next")
KEYS: dict[str, Any] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": P256,
    "ES384": private("p384"),
    "ES512": private("p521"),
    "EdDSA": private("ed25519"),
}


PUBLIC = [
    # The kind of a key, its algorithms, and how it is shown.
    ("rsa", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA 2048"),
    ("p256", ("ES256",), "P-256"),
    ("p384", ("ES384",), "P-384"),
    ("p521", ("ES512",), "P-521"),
    ("ed25519", ("EdDSA", "Ed25519"), "Ed25519"),
    ("ed448", ("EdDSA",), "Ed448"),
]


def signature(key: Any, algorithm: str, message: bytes = b"message") -> bytes:
    implementation = ALGORITHMS["EdDSA" if algorithm == "Ed25519" else algorithm]
    return implementation.sign(message, implementation.prepare_key(key))


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; ``...`` takes a claim out."""
    merged = {"sub": "ann", "exp": NOW + 60, **changes}
    return {name: value for name, value in merged.items() if value is not ...}


def sign(header: Any, payload: Any, key: Any = SECRET, algorithm: str = "HS256") -> str:
    """A correctly signed token of anything at all: bytes go in as they are, the rest as JSON."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    return seal(".".join(map(b64, parts)), key, algorithm)


def seal(message: str, key: Any = SECRET, algorithm: str = "HS256") -> str:
    """Header and payload as they are, with a good signature."""
    return f"{message}.{b64(signature(key, algorithm, message.encode()))}"


def mint(header: Mapping[str, Any] = {}, key: Any = SECRET, **changes: Any) -> str:
    """A token with a secret, with good claims but for the changes, of any type whatever."""
    return sign({"alg": "HS256", "typ": "JWT", **header}, claims(**changes), key)


def raw_claims(text: str) -> str:
    """A signed token with good claims and the members of ``text``, as written."""
    return sign({"alg": "HS256"}, f'{{"sub": "ann", "exp": {NOW + 60}, {text}}}'.encode())


def signed(key: Any = RSA, key_id: str | None = "one", algorithm: str = "RS256", **changes: Any) -> str:
    """A token by an issuer that publishes its keys."""
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**{"iss": ISSUER, "aud": "crm", **changes}), key, algorithm, headers=headers)


def make(key: Any = SECRET, **options: Any) -> JWTAuth:
    return JWTAuth(key, **{"algorithms": ["HS256"], "clock": lambda: NOW, **options})


def refused(auth: Any, token: Any) -> TokenError:
    with pytest.raises(TokenError) as caught:
        auth.verify(token)
    return caught.value


async def arefused(auth: Any, token: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        await auth.averify(token)
    return caught.value


def outcome(auth: Any, token: str) -> Identity | TokenError:
    """What verification came to; an exception other than TokenError fails the test."""
    try:
        identity: Identity = auth.verify(token)
    except TokenError as error:
        return error
    return identity


@functools.cache
def _public_jwk(key: Any) -> str:
    name = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    algorithm = next((name[kind] for kind in name if isinstance(key, kind)), "EdDSA")
    published: dict[str, Any] = ALGORITHMS[algorithm].to_jwk(key.public_key(), as_dict=True)
    return json.dumps({name: value for name, value in published.items() if name != "key_ops"})


def jwk(key: Any, key_id: str | None = None, **members: Any) -> dict[str, Any]:
    """The public half of a key (or of the one with that name) as an identity provider publishes it."""
    named = {} if key_id is None else {"kid": key_id, "use": "sig"}
    return {**json.loads(_public_jwk(private(key) if isinstance(key, str) else key)), **named, **members}


class KeyServer:
    """An identity provider as a ``fetch`` function: serves a JWK Set, and an OpenID Connect configuration.

    With an `answer` it answers that, whatever it is asked: bytes, or a function; an exception is raised.
    """

    def __init__(self, *keys: dict[str, Any], issuer: str = ISSUER) -> None:
        self.keys = list(keys) or [jwk(RSA, "one")]
        self.document: Any = {"issuer": issuer, "jwks_uri": KEYS_URL}
        self.answer: Any = ...
        self.asked: list[str] = []

    @property
    def jwks(self) -> bytes:
        return json.dumps({"keys": self.keys}).encode()

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        answer = self.answer
        if answer is ...:
            answer = json.dumps(self.document).encode() if "/.well-known/openid" in url else self.jwks
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]


DOWN = OSError("connection refused")


def publish(server: KeyServer, **options: Any) -> JWTAuth:
    """A verifier with the keys of a server."""
    good = {"algorithms": ["RS256"], "jwks_url": KEYS_URL, "issuer": ISSUER, "audience": "crm", "clock": lambda: NOW}
    return JWTAuth(**{**good, "fetch": server, **options})
