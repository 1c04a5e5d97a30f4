"""Keys, tokens good and bad, and verifiers for them: what the tests of the verifier share."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from socketguard.connection import Identity
from socketguard.errors import TokenError
from socketguard.tokens.auth import JWTAuth

NOW = 1_800_000_000
SECRET = "k9Zt-4vQ_7mB2xLwR8sYcN1pD6hJ3fGa-of-sixty-four-bytes-for-HS512-too"
OTHER_SECRET = SECRET[::-1]
ISSUER = "https://login.example.com/"
ALGORITHMS = get_default_algorithms()
RSA = rsa.generate_private_key(65537, 2048)
RSA_NEXT = rsa.generate_private_key(65537, 2048)
RSA_PEM = (
    RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)
P256_NEXT = ec.generate_private_key(ec.SECP256R1())
P256 = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, Any] = {
    "HS256": SECRET,
    "HS384": SECRET,
    "HS512": SECRET,
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": P256,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def make(key: Any = SECRET, **options: Any) -> JWTAuth:
    return JWTAuth(key, **{"algorithms": ["HS256"], "clock": lambda: NOW, **options})


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; ``...`` takes a claim out."""
    merged = {"sub": "ann", "exp": NOW + 60, **changes}
    return {name: value for name, value in merged.items() if value is not ...}


def b64(data: bytes | str) -> str:
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def sign(header: Any, payload: Any, key: Any = SECRET, algorithm: str = "HS256") -> str:
    """A correctly signed token of anything at all: bytes go in as they are, the rest as JSON."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    message = ".".join(map(b64, parts)).encode()
    implementation = ALGORITHMS[algorithm]
    signature = implementation.sign(message, implementation.prepare_key(key))
    return f"{message.decode()}.{b64(signature)}"


def mint(header: Mapping[str, Any] = {}, **changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, "HS256", headers=dict(header))


def raw_claims(text: str) -> str:
    """A signed token with good claims and the members of ``text``, as written."""
    return sign({"alg": "HS256"}, f'{{"sub": "ann", "exp": {NOW + 60}, {text}}}'.encode())


def refused(auth: JWTAuth, token: Any) -> TokenError:
    with pytest.raises(TokenError) as caught:
        auth.verify(token)
    return caught.value


def outcome(auth: JWTAuth, token: str) -> Identity | TokenError:
    """What verification came to; an exception other than TokenError fails the test."""
    try:
        return auth.verify(token)
    except TokenError as error:
        return error


def jwk(key: Any, key_id: str, **members: Any) -> dict[str, Any]:
    """The public half of a key as an identity provider publishes it."""
    implementation = ALGORITHMS["RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"]
    published: dict[str, Any] = implementation.to_jwk(key.public_key(), as_dict=True)
    return {**published, "kid": key_id, "use": "sig", **members}


class KeyServer:
    """Serves a JWK Set and, where asked, an OpenID Connect configuration, as a ``fetch`` function.

    Attributes:
        keys: what it publishes now.
        asked: the URLs that were fetched.
        down: whether every fetch fails.
    """

    def __init__(self, *keys: dict[str, Any], issuer: str = ISSUER) -> None:
        self.keys = list(keys) or [jwk(RSA, "one")]
        self.issuer = issuer
        self.asked: list[str] = []
        self.down = False

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        if self.down:
            raise OSError("connection refused")
        if url.endswith("/.well-known/openid-configuration"):
            return json.dumps({"issuer": self.issuer, "jwks_uri": "https://keys.example.com/jwks"}).encode()
        return json.dumps({"keys": self.keys}).encode()


def publish(server: KeyServer, **options: Any) -> JWTAuth:
    """A verifier with the keys of a server."""
    good = {
        "algorithms": ["RS256"],
        "jwks_url": "https://keys.example.com/jwks",
        "issuer": ISSUER,
        "audience": "crm",
        "clock": lambda: NOW,
    }
    return JWTAuth(**{**good, "fetch": server, **options})


def signed(key: Any = RSA, key_id: str | None = "one", algorithm: str = "RS256", **changes: Any) -> str:
    """A token by an issuer that publishes its keys."""
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**{"iss": ISSUER, "aud": "crm", **changes}), key, algorithm, headers=headers)


async def arefused(auth: Any, token: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        await auth.averify(token)
    return caught.value
