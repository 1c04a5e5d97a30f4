"""`Issuers`: several `JWTAuth` as one verifier; each token goes to the one that knows its issuer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from socketguard.connection import Identity
from socketguard.errors import ConfigurationError
from socketguard.findings import Finding

from .auth import JWTAuth, Verifier
from .claims import claim_type, invalid, issuer_mismatch
from .encoding import check_shape, decode_json_object, unverified


class Issuers(Verifier):
    """Verifies tokens of several issuers, each with its own keys and rules. A guard makes it of ``auth=[…, …]``.

    The ``iss`` of a token chooses who verifies it: an exact issuer first, then a template. It is read before the
    signature is checked, so it decides nothing but that; whoever is chosen checks it once more.
    """

    def __init__(self, *auths: JWTAuth) -> None:
        if not auths:
            raise ConfigurationError("auth is empty; write auth=[JWTAuth(…), …]", option="auth")
        self._by_issuer: dict[str, list[JWTAuth]] = {}
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
                for other in self._by_issuer.setdefault(issuer, []):
                    _check_told_apart(issuer, auth, other)
                self._by_issuer[issuer].append(auth)
            for option in ("sources", "payload_keys"):
                if getattr(auth.finder, option) != getattr(auths[0].finder, option):
                    raise ConfigurationError(
                        f"the verifiers in auth have different {option}, but a token is found before anybody knows "
                        f"whose it is; give all of them the same {option}",
                        option=option,
                    )
        self._auths = auths
        self._most = max(auth._most for auth in auths)
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
        header, payload, _ = check_shape(token, self._most).split(b".")
        claims = unverified(payload)
        issuer = claims.get("iss")
        if isinstance(issuer, str):
            auths = self._matching(issuer, claims)
            if not auths:
                raise issuer_mismatch(sorted(self._by_issuer), issuer)
            if len(auths) == 1:
                return auths[0]
            algorithm = decode_json_object(header, "header").get("alg")
            # Whoever is chosen says what is wrong with an algorithm of none of them.
            return next((auth for auth in auths if algorithm in auth._algorithms), auths[0])
        if issuer is None:
            raise invalid("claim_missing", claim="iss", expected=sorted(self._by_issuer))
        raise claim_type("iss", "a string", issuer)

    def _matching(self, issuer: str, claims: Mapping[str, Any]) -> Sequence[JWTAuth]:
        # A template is no issuer itself.
        auths = None if "{" in issuer else self._by_issuer.get(issuer)
        return auths or [each for each in self._auths if each.rules.matches_template(claims)]

    def _of(self, identity: Identity) -> JWTAuth:
        """Whoever verified a token. An anonymous identity ends nowhere, so anybody will do."""
        if identity.issuer is None:
            return self._auths[0]
        return (self._matching(identity.issuer, identity.claims) or self._auths)[0]


def _check_told_apart(issuer: str, one: JWTAuth, other: JWTAuth) -> None:
    """Two verifiers of one issuer (while its keys change from a secret to a key pair) differ by their algorithms."""
    both = one._algorithms & other._algorithms
    if both:
        raise ConfigurationError(
            f"two verifiers in auth have the issuer {issuer!r} and {', '.join(sorted(both))}, so that nothing tells "
            "their tokens apart; make one of them, or give them different algorithms",
            option="issuer",
        )
    for option, attribute in (("leeway", "leeway"), ("expiry", "_expiry")):
        if getattr(one, attribute) != getattr(other, attribute):
            raise ConfigurationError(
                f"two verifiers in auth have the issuer {issuer!r} and different {option}; give both the same",
                option=option,
            )
