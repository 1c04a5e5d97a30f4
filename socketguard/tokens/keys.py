"""What a key is and which algorithms it fits; keys that are given at construction, checked and prepared once.

Keys that an identity provider publishes are in `jwks`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from socketguard.check import listed, names
from socketguard.connection import KeysChange
from socketguard.errors import ConfigurationError

from .templates import IssuerTemplate

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
"""A public key of the ``cryptography`` package that a JWS algorithm can use."""

Key: TypeAlias = str | bytes | PublicKey | x509.Certificate
"""One key: a shared secret, a public key or certificate as PEM text, or an object of the ``cryptography`` package."""

# Smallest secrets: as long as the output of the hash (RFC 7518 section 3.2).
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
MAX_KEY_ID = 128  # characters of a ``kid``; tokens with a longer one are refused
RSA_BITS = 2048  # smallest RSA modulus (RFC 7518 sections 3.3 and 3.5)
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": ("P-256", "ES256"), "secp384r1": ("P-384", "ES384"), "secp521r1": ("P-521", "ES512")}

ALGORITHMS = (*_SECRET_BYTES, *_RSA, *(algorithm for _, algorithm in _CURVES.values()), "EdDSA", "Ed25519")
"""The algorithms that may be allowed (RFC 7518 section 3.1, RFC 8037, RFC 9864): neither ``none`` nor anything
experimental. ``EdDSA`` takes Ed25519 and Ed448 keys, ``Ed25519`` takes Ed25519 keys only; each stands for itself in the
header of a token, so that an issuer that changes from the one to the other needs both."""

# PyJWT has no Ed25519 of its own name; which keys it takes is decided by `fitting`.
_IMPLEMENTATIONS = (implementations := get_default_algorithms()) | {"Ed25519": implementations["EdDSA"]}
_SALT = secrets.token_bytes(32)
_ADVICE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'
_SSH = (b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-")


class PreparedKey:
    """One key, ready for one algorithm. Its ``repr`` never shows key material.

    `issuer` is the only issuer whose tokens it may verify; None for any.
    """

    def __init__(self, algorithm: str, kind: str, key: Any, *, issuer: IssuerTemplate | None = None) -> None:
        implementation = _IMPLEMENTATIONS[algorithm]
        self.algorithm = algorithm
        self.kind = kind
        self.issuer = issuer
        self._key = implementation.prepare_key(key)
        # PyJWT makes several objects for each signature (RFC 2104), where one call does.
        self._digest = f"sha{algorithm[2:]}" if algorithm in _SECRET_BYTES else None
        self._verify: Callable[[bytes, Any, bytes], bool] = implementation.verify

    def __repr__(self) -> str:
        return f"<PreparedKey {self.kind} for {self.algorithm}>"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's signature of ``message``."""
        if self._digest is not None:
            return hmac.compare_digest(hmac.digest(self._key, message, self._digest), signature)
        return self._verify(message, self._key, signature)


@dataclass(frozen=True, slots=True)
class Pending:
    """What there is in place of keys that have to be fetched first."""

    detail: str  # keys_pending (there are none, or they are too old) or key_unknown (the kid is not among them)
    fields: Mapping[str, Any]
    fetches: int  # successful ones until then


class KeySource:
    """Where keys come from. What is written here holds for keys that nobody has to fetch."""

    kinds: tuple[str, ...] = ()
    fingerprint: Hashable = None

    @abstractmethod
    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey] | Pending:
        """The keys that may have signed a token with this ``alg``, which is known to be allowed, and ``kid``."""

    async def load(self, pending: Pending) -> bool:
        """Fetch keys; whether any came since they were found to be pending."""
        return False

    def start(self) -> None:
        """Begin to fetch keys."""

    def hold(self) -> None:
        """Fetch nothing from now on."""

    def outage(self) -> int | None:
        """Seconds after which to try again, when no token can be verified for want of keys; else None."""
        return None

    def status(self) -> dict[str, Any] | None:
        """The state of fetched keys, for people."""
        return None

    @property
    def fetching(self) -> bool:
        """Whether keys are being fetched now."""
        return False

    def changes(self) -> Sequence[tuple[int, KeysChange]]:
        """What happened to the keys, each with a number that grows."""
        return ()

    async def close(self) -> None:
        """Stop fetching keys."""


def check_algorithms(algorithms: Any) -> tuple[str, ...]:
    """The allow-list of algorithms, checked and without repetitions (RFC 8725 sections 3.1 and 3.2).

    Refused are a single string (PyJWT would match substrings of it), an unknown name, ``none``, and HS* together with
    an asymmetric algorithm (a public key could then be used as a secret).
    """
    checked = names(algorithms, "algorithms", example='["HS256"]')
    if not checked:
        raise ConfigurationError('algorithms is empty; write algorithms=["HS256"]', option="algorithms")
    for name in checked:
        if name in ALGORITHMS:
            continue
        if name.lower() == "none":
            raise ConfigurationError(
                'algorithms must not hold "none": anybody can write a token that nobody signed', option="algorithms"
            )
        known = {other.lower(): other for other in ALGORITHMS} | {"ed448": "EdDSA"}
        suggestion = known.get(name.lower())
        advice = f"did you mean {suggestion!r}?" if suggestion else f"it may hold {', '.join(ALGORITHMS)}"
        raise ConfigurationError(f"algorithms has the unknown name {name!r}; {advice}", option="algorithms")
    if 0 < sum(name in _SECRET_BYTES for name in checked) < len(checked):
        raise ConfigurationError(
            f"algorithms mixes shared-secret and public-key algorithms ({', '.join(checked)}): whoever knows the "
            "public key could then sign with it as a secret (RFC 8725 section 2.1); name those of one kind only",
            option="algorithms",
        )
    return checked


def _unusable(text: str) -> ConfigurationError:
    return ConfigurationError(text, option="key")


class StaticKeys(KeySource):
    """Keys that are given: one, or several while they are being rotated. Texts never hold key material.

    Of a certificate only the key counts, not its dates or its issuer.
    """

    def __init__(self, key: Key | Sequence[Key], algorithms: tuple[str, ...]) -> None:
        several = isinstance(key, Iterable) and not isinstance(key, str | bytes | bytearray | Mapping)
        given = listed(key, "key", example="[NEW, OLD]") if several else (key,)
        if not given:
            raise _unusable("key is an empty list; give at least one key")
        self.is_public = algorithms[0] not in _SECRET_BYTES
        prepared: dict[bytes, tuple[str, tuple[str, ...], Any]] = {}
        for position, one in enumerate(given, 1):
            label = f"key {position} of {len(given)}" if len(given) > 1 else "key"
            kind, fits, value, material = _public(one, label) if self.is_public else _secret(one, label, algorithms)
            if not set(fits) & set(algorithms):
                raise _unusable(
                    f"{label} ({kind}) fits none of the algorithms {', '.join(algorithms)}; it fits {', '.join(fits)}"
                )
            prepared[hashlib.sha256(_SALT + material).digest()] = kind, fits, value
        # Salted: of use for a comparison within this process, and nowhere else.
        self.fingerprint = frozenset(prepared)
        self.kinds = tuple(kind for kind, _, _ in prepared.values())
        self._candidates = {
            name: tuple(PreparedKey(name, kind, value) for kind, fits, value in prepared.values() if name in fits)
            for name in algorithms
        }
        for algorithm, candidates in self._candidates.items():
            if not candidates:
                needs = f" (it needs a secret of {_SECRET_BYTES[algorithm]} bytes)" if not self.is_public else ""
                raise ConfigurationError(
                    f"algorithms allows {algorithm}{needs}, but no key fits it; "
                    f"leave {algorithm} out, or add such a key",
                    option="algorithms",
                )

    def __repr__(self) -> str:
        return f"<StaticKeys {', '.join(self.kinds)}>"

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey]:
        """The keys for this ``alg``; static keys have no ids, so that the ``kid`` plays no part."""
        return self._candidates[algorithm]


def _secret(key: Any, label: str, algorithms: tuple[str, ...]) -> tuple[str, tuple[str, ...], bytes, bytes]:
    if not isinstance(key, str | bytes):
        raise _unusable(
            f"{label} must be a secret (str or bytes) for {', '.join(algorithms)}, not {type(key).__name__}"
            + ("; is the environment variable set?" if key is None else "")
        )
    try:
        material = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise _unusable(f"{label} can't be encoded in UTF-8; give bytes") from None
    if not material:
        raise _unusable(f"{label} is empty; {_ADVICE}")
    if _looks_asymmetric(material):
        raise _unusable(
            f"{label} looks like an asymmetric key, a certificate or a JWK, but {', '.join(algorithms)} need a shared "
            "secret: a public key is known to everybody. "
            'For a public key write its algorithm, such as algorithms=["RS256"]'
        )
    if isinstance(key, str) and key != key.strip():
        raise _unusable(
            f"{label} begins or ends with white space (a file read with its last line break?); "
            "strip it, or give bytes if the secret really is so"
        )
    fits = tuple(name for name, size in _SECRET_BYTES.items() if len(material) >= size)
    if not fits:
        raise _unusable(
            f"{label} has {len(material)} bytes, but {algorithms[0]} needs at least {_SECRET_BYTES[algorithms[0]]} "
            f"(RFC 7518 section 3.2); {_ADVICE}"
        )
    return "shared secret", fits, material, material


def _looks_asymmetric(material: bytes) -> bool:
    """PEM, DER, SSH, JWK, and the bare base64 of them (what Keycloak's realm page shows as the public key)."""
    try:
        decoded = base64.b64decode(re.sub(rb"\s", b"", material).translate(bytes.maketrans(b"-_", b"+/")) + b"==")
    except binascii.Error:
        decoded = b""
    return any(
        b"-----BEGIN" in data
        or b'"kty"' in data
        or data.lstrip().startswith(_SSH)
        or data[4:].startswith(_SSH)  # the body of an SSH key begins with a length of four bytes
        or _is_der(data)
        for data in (material, decoded)
    )


def _is_der(data: bytes) -> bool:
    if not data.startswith(b"\x30"):
        return False
    loaders: tuple[Callable[[bytes], object], ...] = (
        serialization.load_der_public_key,
        x509.load_der_x509_certificate,
        lambda der: serialization.load_der_private_key(der, None),
    )
    for load in loaders:
        try:
            load(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return True
    return False


def fitting(key: object) -> tuple[str, tuple[str, ...]] | None:
    """What a public key (an RSA key of any size) is, such as ``P-256``, and what it fits; None for anything else."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}", _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        kind, algorithm = _CURVES[key.curve.name]
        return kind, (algorithm,)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519", ("EdDSA", "Ed25519")
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448", ("EdDSA",)
    return None


def _public(key: Any, label: str) -> tuple[str, tuple[str, ...], PublicKey, bytes]:
    loaded: Any = _load_pem(key, label) if isinstance(key, str | bytes) else key
    if isinstance(loaded, x509.Certificate):
        loaded = loaded.public_key()
    if known := fitting(loaded):
        kind, fits = known
        if isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size < RSA_BITS:
            raise _unusable(
                f"{label} is an RSA key of {loaded.key_size} bits; at least {RSA_BITS} are needed "
                "(RFC 7518 section 3.3)"
            )
    elif hasattr(loaded, "private_bytes"):
        raise _unusable(
            f"{label} is a private key; only its issuer should have it. Give the public key: key.public_key()"
        )
    else:
        curve = f" on the curve {loaded.curve.name}" if isinstance(loaded, ec.EllipticCurvePublicKey) else ""
        raise _unusable(
            f"{label} must be a public key (PEM text or an object of the cryptography package; RSA, EC on P-256, P-384 "
            f"or P-521, Ed25519 or Ed448), not {type(loaded).__name__}{curve}"
            + ("; is the environment variable set?" if loaded is None else "")
        )
    material = loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return kind, fits, loaded, material


def _load_pem(key: str | bytes, label: str) -> object:
    try:
        text = key if isinstance(key, str) else key.decode("ascii")
        # Files with environment variables hold a PEM on one line, with "\n" spelt out.
        pem = text.replace("\\n", "\n").strip().encode("ascii")
    except UnicodeError:
        pem = b""
    if b"PRIVATE KEY-----" in pem:
        raise _unusable(
            f"{label} is a private key; only its issuer should have it. Give the public key: "
            "openssl pkey -in private.pem -pubout"
        )
    if pem.count(b"-----BEGIN") > 1:
        raise _unusable(f"{label} holds more than one PEM block; give a list with one each")
    if b"-----BEGIN" not in pem:
        raise _unusable(
            f"{label} is no PEM text, which public-key algorithms need: it begins with -----BEGIN PUBLIC KEY----- "
            "(put a bare base64 key between such lines; load a JWK with jwt.PyJWK(jwk).key; "
            "convert an SSH key with ssh-keygen -e -m PKCS8)"
        )
    try:
        if b"CERTIFICATE-----" in pem:
            return x509.load_pem_x509_certificate(pem)
        return serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(f"{label} is PEM text that can't be read as a public key or certificate; was it cut?") from None
