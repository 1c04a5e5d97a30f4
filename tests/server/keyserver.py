"""An identity provider that signs tokens, and its server of keys."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from socketguard import JWTAuth
from socketguard.testing import mint
from tests.scripted import Pause

ISSUER = "https://login.example.com/"
KEYS: dict[str, Any] = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two")}


class KeyServer:
    """What a `JWTAuth` fetches from: it answers, fails, or waits."""

    def __init__(self, *, fails: bool = False, pause: Pause | None = None) -> None:
        self.published = ["one"]
        self.fails = fails
        self.pause = pause
        self.calls = 0

    async def __call__(self, url: str) -> bytes:
        self.calls += 1
        if self.pause is not None:
            await self.pause.wait()
        if self.fails:
            raise OSError("no route to host")
        keys = {name: ECAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True) for name in self.published}
        return json.dumps({"keys": [{**key, "kid": name, "use": "sig"} for name, key in keys.items()]}).encode()

    def auth(self, **options: Any) -> JWTAuth:
        return JWTAuth(
            jwks_url=f"{ISSUER}keys", issuer=ISSUER, audience="crm", algorithms=["ES256"], fetch=self, **options
        )


def signed(kid: str = "one", **claims: Any) -> str:
    """A token that names this key."""
    key = KEYS.get(kid, KEYS["one"])
    return mint(key=key, algorithm="ES256", headers={"kid": kid}, iss=ISSUER, aud="crm", **claims)
