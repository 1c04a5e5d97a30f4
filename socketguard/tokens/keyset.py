"""A JWK Set (RFC 7517): which of its keys are used, for which algorithms, and why the others are not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from socketguard.text import neutralise

from .claims import invalid
from .keys import MAX_KEY_ID, RSA_BITS, PreparedKey, PublicKey, fitting
from .templates import IssuerTemplate

_MAX_KEYS = 100
_MAX_TRIED = 4  # keys, for one token: each costs a verification, and anybody can send tokens
_MAX_ISSUER = 512  # characters
_RSA_MAX_BITS = 16_384  # OpenSSL verifies with none that is larger
_SHOWN_KEYS = 10
_CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
_EDWARDS: dict[str, type[ed25519.Ed25519PublicKey] | type[ed448.Ed448PublicKey]] = {
    "Ed25519": ed25519.Ed25519PublicKey,
    "Ed448": ed448.Ed448PublicKey,
}
_SAME = frozenset({"EdDSA", "Ed25519"})  # what `alg` says of an Ed25519 key, before and since RFC 9864
# Placeholders of ``issuer`` that are no names of claims, in lower case: Microsoft writes {tenantid} and {tenantId}.
_PLACEHOLDERS = {"tenantid": "tid"}


class Unusable(Exception):
    """An answer or one of its keys can't be used; the text says why."""


class KeySet:
    """The usable keys of one JWK Set, and which are ignored and why. It never changes.

    Its `fingerprint` is equal for equal keys; its `ids` are safe to log.
    """

    def __init__(self, document: Mapping[str, Any], algorithms: Sequence[str]) -> None:
        given = document.get("keys")
        if not isinstance(given, list):
            raise Unusable('the answer has no list "keys"')
        if len(given) > _MAX_KEYS:
            raise Unusable(f"the set has {len(given)} keys; at most {_MAX_KEYS} are taken")
        self._all: dict[str, tuple[PreparedKey, ...]] = {}
        self._by_id: dict[tuple[str, str], tuple[PreparedKey, ...]] = {}
        self._fits: dict[str, set[str]] = {}
        self.ignored: list[str] = []
        self.count = 0
        fingerprint = set()
        for position, jwk in enumerate(given, 1):
            key_id: str | None = None
            try:
                key_id = _key_id(jwk)
                kind, fits, key = _read_key(jwk, algorithms)
                issuer = _issuer(jwk)
                self._add(key_id, kind, fits, key, issuer)
            except Unusable as refusal:
                label = f"key {position}" if key_id is None else f"key {neutralise(key_id, MAX_KEY_ID)}"
                self.ignored.append(f"{label}: {refusal}")
            else:
                self.count += 1
                form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                fingerprint.add((key_id, fits, issuer, hashlib.sha256(key.public_bytes(*form)).digest()))
        if not self.count:
            raise Unusable("; ".join(["no key of the set can be used", *self.ignored[:_SHOWN_KEYS]]))
        self.ids = tuple(neutralise(key_id, MAX_KEY_ID) for key_id in self._fits)
        self.fingerprint = frozenset(fingerprint)

    def _add(
        self, key_id: str | None, kind: str, fits: tuple[str, ...], key: PublicKey, issuer: IssuerTemplate | None
    ) -> None:
        if key_id is not None:
            if any(len(self._by_id.get((name, key_id), ())) >= _MAX_TRIED for name in fits):
                raise Unusable(f"more than {_MAX_TRIED} keys have this kid")
            self._fits.setdefault(key_id, set()).update(fits)
        for name in fits:
            prepared = (PreparedKey(name, kind, key, issuer=issuer),)
            self._all[name] = self._all.get(name, ()) + prepared
            if key_id is not None:
                self._by_id[name, key_id] = self._by_id.get((name, key_id), ()) + prepared

    def find(self, algorithm: str, key_id: str | None) -> tuple[PreparedKey, ...]:
        """The keys that may have signed a token; none when its key is not in the set.

        Refused is a token without ``kid`` that too many keys fit, and one whose key is for other algorithms.
        """
        if key_id is None:
            found = self._all.get(algorithm, ())
            if len(found) > _MAX_TRIED:
                raise invalid("key_id_missing", keys=len(found))
            return found
        found = self._by_id.get((algorithm, key_id), ())
        if not found and key_id in self._fits:
            fields = {"received": algorithm, "key_id": neutralise(key_id, MAX_KEY_ID)}
            raise invalid("algorithm_not_allowed", expected=sorted(self._fits[key_id]), **fields)
        return found


def _key_id(jwk: Any) -> str | None:
    if not isinstance(jwk, dict):
        raise Unusable(f"it must be an object, not {type(jwk).__name__}")
    key_id = jwk.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID):
        raise Unusable(f"kid must be a string of at most {MAX_KEY_ID} characters")
    return key_id


def _issuer(jwk: Mapping[str, Any]) -> IssuerTemplate | None:
    """The only issuer whose tokens a key may verify; None when it names none."""
    if "issuer" not in jwk:
        return None
    issuer = jwk["issuer"]
    if not isinstance(issuer, str) or not 0 < len(issuer) <= _MAX_ISSUER:
        raise Unusable(f"issuer must be a non-empty string of at most {_MAX_ISSUER} characters")
    # Here a placeholder may stand for the host too: this only ever narrows what JWTAuth(issuer=…) lets through.
    template = IssuerTemplate.parse(issuer, _PLACEHOLDERS)
    if template is None:
        raise Unusable("issuer has braces that name no claim, or iss")
    return template


def _read_key(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> tuple[str, tuple[str, ...], PublicKey]:
    """What a JWK is, the allowed algorithms that it serves, and the key (RFC 7517 section 4, RFC 7518 section 6)."""
    if jwk.get("kty") == "oct":
        raise Unusable("a shared secret is no secret when it is published")
    if jwk.get("use", "sig") != "sig":
        raise Unusable("use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise Unusable("key_ops has no verify")
    if "d" in jwk:
        raise Unusable("it holds its private part: whoever reads it can sign")
    try:
        key = _public_key(jwk)
    except Unusable:
        raise
    except Exception:
        # Whatever is wrong with one key, the others of its set count.
        raise Unusable("its numbers are missing or wrong") from None
    kind, fits = fitting(key) or ("", ())
    if isinstance(key, rsa.RSAPublicKey) and not RSA_BITS <= key.key_size <= _RSA_MAX_BITS:
        raise Unusable(f"RSA needs {RSA_BITS} to {_RSA_MAX_BITS} bits, this has {key.key_size}")
    named = jwk.get("alg")
    served = tuple(
        name
        for name in algorithms
        if name in fits and (named is None or named == name or (named in fits and {named, name} == _SAME))
    )
    if not served:
        own = f"{kind}, alg {neutralise(str(named), 32)}" if named is not None else kind
        raise Unusable(f"it fits none of the algorithms {', '.join(algorithms)} ({own})")
    return kind, served, key


def _public_key(jwk: Mapping[str, Any]) -> PublicKey:
    type_, curve = jwk.get("kty"), jwk.get("crv")
    if type_ == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    if type_ == "EC" and curve in _CURVES:
        return ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), _CURVES[curve]()).public_key()
    if type_ == "OKP" and curve in _EDWARDS:
        return _EDWARDS[curve].from_public_bytes(_octets(jwk["x"]))
    shown = " ".join(neutralise(str(part), 32) for part in (type_, curve) if part is not None)
    raise Unusable(f"keys of the kind {shown or 'without kty'} are unknown")


def _number(text: str) -> int:
    return int.from_bytes(_octets(text), "big")


def _octets(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
