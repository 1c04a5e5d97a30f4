"""`Issuers`: several `JWTAuth` as one verifier; each token goes to the one that knows its issuer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError
from socketguard.findings import Finding

from .auth import JWTAuth, Verifier
from .claims import claim_type, invalid, issuer_mismatch
from .encoding import check_shape, decode_base64url, decode_json_object


class Issuers(Verifier):
    """Verifies tokens of several issuers, each with its own keys and rules. A guard makes it of ``auth=[…, …]``.

    The ``iss`` of a token chooses who verifies it: an exact issuer first, then a template. It is read before the
    signature is checked, so it decides nothing but that; whoever is chosen checks it once more.
    """

    def __init__(self, *auths: JWTAuth) -> None:
        if not auths:
            raise ConfigurationError("auth is empty; write auth=[JWTAuth(…), …]", option="auth")
        self._by_issuer: dict[str, JWTAuth] = {}
        for auth in auths:
            if not isinstance(auth, JWTAuth):
                raise ConfigurationError(
                    f"auth holds a {type(auth).__name__}; write auth=[JWTAuth(…), …]", option="auth"
                )
            if not auth.issuers:
                raise ConfigurationError(
                    "auth has several verifiers, and one of them has no issuer, by which tokens are told apart; "
                    "write JWTAuth(…, issuer=…)",
                    option="issuer",
                )
            for issuer in auth.issuers:
                if issuer in self._by_issuer:
                    raise ConfigurationError(
                        f"two verifiers in auth have the issuer {issuer!r}; make one of them", option="issuer"
                    )
                self._by_issuer[issuer] = auth
            for option in ("sources", "payload_keys"):
                if getattr(auth.finder, option) != getattr(auths[0].finder, option):
                    raise ConfigurationError(
                        f"the verifiers in auth have different {option}, but a token is found before anybody knows "
                        f"whose it is; give all of them the same {option}",
                        option=option,
                    )
        self._auths = auths
        super().__init__(auths[0].finder, [source for auth in auths for source in auth._sources])

    def __eq__(self, other: object) -> bool:
        return frozenset(self._auths) == frozenset(other._auths) if isinstance(other, Issuers) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._auths))

    def __repr__(self) -> str:
        return f"<Issuers {', '.join(sorted(self._by_issuer))}>"

    @property
    def auths(self) -> tuple[JWTAuth, ...]:
        """The verifiers, one for each issuer or more."""
        return self._auths

    def describe(self) -> dict[str, Any]:
        return {"issuers": [auth.describe() for auth in self._auths]}

    def findings(self) -> list[Finding]:
        """What a person should look at in any of them; the same thing once."""
        return list(dict.fromkeys(finding for auth in self._auths for finding in auth.findings()))

    def verify(self, token: str) -> Identity:
        return self._choose(token).verify(token)

    def verify_now(self, token: str) -> Identity | None:
        return self._choose(token).verify_now(token)

    async def averify(self, token: str) -> Identity:
        return await self._choose(token).averify(token)

    def check_time(self, identity: Identity) -> None:
        self._of(identity).check_time(identity)

    def ends_at(self, identity: Identity) -> float | None:
        return self._of(identity).ends_at(identity)

    def max_lifetime_of(self, issuer: str | None) -> float | None:
        """The longest lifetime of an issuer's tokens (None: of anybody's), in seconds; None when nobody knows."""
        lifetimes = [
            auth.rules.max_lifetime for auth in self._auths if issuer is None or auth.rules.accepts_issuer(issuer)
        ]
        return None if None in lifetimes else max(filter(None, lifetimes), default=None)

    def _choose(self, token: str) -> JWTAuth:
        claims = _unverified(check_shape(token).split(b".")[1])
        issuer = claims.get("iss")
        if isinstance(issuer, str):
            auth = self._matching(issuer, claims)
            if auth is None:
                raise issuer_mismatch(sorted(self._by_issuer), issuer)
            return auth
        if issuer is None:
            raise invalid("claim_missing", claim="iss", expected=sorted(self._by_issuer))
        raise claim_type("iss", "a string", issuer)

    def _matching(self, issuer: str, claims: Mapping[str, Any]) -> JWTAuth | None:
        # A template is no issuer itself.
        auth = None if "{" in issuer else self._by_issuer.get(issuer)
        return auth or next((each for each in self._auths if each.rules.matches_template(claims)), None)

    def _of(self, identity: Identity) -> JWTAuth:
        """Whoever verified a token. An anonymous identity ends nowhere, so anybody will do."""
        if identity.issuer is None:
            return self._auths[0]
        return self._matching(identity.issuer, identity.claims) or self._auths[0]


def _unverified(part: bytes) -> dict[str, Any]:
    """What a payload says, without the checks that a stranger could make dear; whoever verifies it has them."""
    try:
        claims = json.loads(decode_base64url(part, "payload").decode())
    except (ValueError, RecursionError):
        claims = None
    # The strict decoder knows what to say about the rest.
    return claims if isinstance(claims, dict) else decode_json_object(part, "payload")
