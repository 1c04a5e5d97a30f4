"""Plays what a guard would do with a token, without a network: verify it, and admit it to a namespace."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

from socketguard.admission import Admission
from socketguard.connection import Connection, Session
from socketguard.errors import ConfigurationError, Refusal, RejectCode, TokenError
from socketguard.guard import Parts, SocketGuard
from socketguard.limits.counters import Ledger
from socketguard.limits.rates import AddressBudget
from socketguard.limits.revocation import MemoryStore
from socketguard.namespaces.registry import Known, Registry, Served
from socketguard.text import neutralise
from socketguard.tokens.auth import JWTAuth, Verifier
from socketguard.tokens.issuers import Issuers
from socketguard.tokens.keys import ALGORITHMS, KeySource, PreparedKey
from socketguard.tokens.keyset import KeySet, Unusable

from .application import core_of
from .words import duration, explain

__all__ = ["Offline", "Play", "Step", "offline", "play", "read_keys", "verifiers"]

State: TypeAlias = Literal["passed", "refused", "skipped"]

_PUBLIC = tuple(name for name in ALGORITHMS if not name.startswith("HS"))
_TITLES = (
    "Size and shape of the packet",
    "The namespace is known",
    "Not joined already",
    "Limits and draining",
    "The token is found",
    "Length and alphabet of the token",
    "The token is verified",
    "The session is still there",
    "Not revoked",
    "Scopes, claims and authorize of the namespace",
    "Limits per subject and address",
    "Expiry and revocation once more",
    "Handed on to the application",
    "Joined, and the expiry timer is set",
)
_STEP_OF = {
    RejectCode.CONNECT_MALFORMED: 1,
    RejectCode.INVALID_NAMESPACE: 2,
    RejectCode.TOKEN_MISSING: 5,
    RejectCode.TOKEN_REVOKED: 9,
    RejectCode.INSUFFICIENT_SCOPE: 10,
    RejectCode.INTERNAL_ERROR: 10,
    RejectCode.CONNECTION_LIMIT: 11,
}
_ANONYMOUS = "there is none, and the policy takes anonymous clients"
_UNCHECKED = "The signature was NOT checked: its keys are on the network (--jwks-file has them)"
_SHAPE = frozenset({"too_long", "not_three_parts", "not_base64url"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an admission.

    Attributes:
        number: its place in the order, from 1.
        title: what is decided.
        state: how it went; ``skipped`` when it can't be played here or there is nothing to decide.
        text: the detail.
    """

    number: int
    title: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Play:
    """An admission that was played.

    Attributes:
        steps: the steps up to the refusal, or all of them.
        refusal: why it was refused; None when nothing that was looked at refuses it.
        unchecked: whether the signature was taken unseen, since its keys are on the network.
    """

    steps: tuple[Step, ...]
    refusal: Refusal | None
    unchecked: bool = False

    @property
    def admitted(self) -> bool | None:
        """Whether the client would be admitted; None when that hangs on a signature that was not checked."""
        if self.refusal is not None:
            return False
        return None if self.unchecked else True


class _AnyKey(KeySource):
    """Stands for keys that are on the network: it takes every signature, and says that it was asked to."""

    issuer = None

    def __init__(self) -> None:
        self.asked = False

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[Any]:
        return (self,)

    def verify(self, message: bytes, signature: bytes) -> bool:
        self.asked = True
        return True


class _GivenKeys(KeySource):
    """Published keys out of a file."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[PreparedKey]:
        found = self._keys.find(algorithm, key_id)
        if not found:
            shown = {} if key_id is None else {"key_id": neutralise(key_id, 128)}
            raise TokenError(RejectCode.TOKEN_INVALID, "key_unknown", **shown)
        return found


@dataclass
class Offline:
    """A verifier that needs no network. It is for telling people, never for letting anybody in.

    Attributes:
        auth: the verifier: the one that was given, where it has its keys.
        stand_in: takes the place of keys that would have to be fetched.
    """

    auth: Verifier
    stand_in: _AnyKey = field(default_factory=_AnyKey)

    @property
    def unchecked(self) -> bool:
        """Whether a signature was taken unseen, since the keys are on the network."""
        return self.stand_in.asked


def verifiers(auth: Verifier | None) -> tuple[JWTAuth, ...]:
    """The verifiers, one for each issuer."""
    return () if auth is None else auth.auths


def offline(auth: Verifier, keys: Mapping[str, Any] | None = None) -> Offline:
    """Copy a verifier so that it never fetches anything; the original is not changed.

    Args:
        auth: the verifier.
        keys: a JWK Set (RFC 7517 section 5) in place of what it would fetch. Without one every signature passes that
            would be checked with a fetched key, and `Offline.unchecked` says so.

    Raises:
        ConfigurationError: the set has no key that fits.
    """
    found = Offline(auth)
    twins = [_without_network(one, keys, found.stand_in) for one in verifiers(auth)]
    found.auth = Issuers(*twins) if isinstance(auth, Issuers) else twins[0]
    return found


def _without_network(auth: JWTAuth, keys: Mapping[str, Any] | None, stand_in: _AnyKey) -> JWTAuth:
    if not auth.fetches_keys:
        return auth
    return auth.with_keys(stand_in if keys is None else _GivenKeys(read_keys(keys, auth.describe()["algorithms"])))


def read_keys(document: Mapping[str, Any], algorithms: Sequence[str] = _PUBLIC) -> KeySet:
    """Take the keys out of a JWK Set.

    Args:
        document: the decoded JSON.
        algorithms: the allowed algorithms.

    Raises:
        ConfigurationError: there is no key that fits.
    """
    try:
        return KeySet(document, algorithms)
    except Unusable as exc:
        raise ConfigurationError(f"the JWK Set can't be used: {exc}", option="jwks_file") from None


class _Rehearsed(Registry):
    """The namespaces of a guard, without the functions of the application."""

    __slots__ = ("skipped",)

    def __init__(self, core: Parts) -> None:
        super().__init__(core.settings.namespaces)
        self.skipped = False

    def resolve(self, name: str, served: Served) -> Known | None:
        known = super().resolve(name, served)
        if known is None or known.policy.authorize is None:
            return known
        self.skipped = True
        policy = copy.copy(known.policy)
        object.__setattr__(policy, "authorize", None)
        return Known(policy, known.placeholders)


async def play(
    guard: SocketGuard,
    token: str,
    namespace: str,
    *,
    keys: Mapping[str, Any] | None = None,
    with_authorize: bool = False,
) -> Play:
    """Play the admission of one client to one namespace, on a copy of the guard's policy.

    The order is that of the guard itself, which decides here too. Nothing is fetched, no store but `MemoryStore` is
    asked, and no function of the application is called, save ``authorize`` when that is wanted.

    Args:
        guard: the guard.
        token: what the client would send; empty for none.
        namespace: what it asks for.
        keys: a JWK Set in place of what would be fetched.
        with_authorize: whether to call the ``authorize`` of the namespace.

    Raises:
        ConfigurationError: ``keys`` has no key that fits.
    """
    core = core_of(guard)
    settings = core.settings
    found = None if settings.auth is None else offline(settings.auth, keys)
    registry = Registry(settings.namespaces) if with_authorize else _Rehearsed(core)
    asks_store = isinstance(core.store, MemoryStore)
    admission = Admission(
        registry,
        None if found is None else found.auth,
        core.served,
        core.configuration.paths,
        limits=settings.limits,
        ledger=Ledger(settings.limits),
        budget=AddressBudget(settings.limits.failure_rate),
        revocations=core.revocations if asks_store and found is not None else None,
        stable_claims=settings.stable_claims,
    )
    payload, headers, query, place = _request(core, token)
    session = Session(
        client_address=None,
        origin=None,
        user_agent=None,
        transport="websocket",
        headers=headers,
        query_string=query,
    )
    connection = Connection(session, namespace)
    session.connections[namespace] = connection
    size = len(json.dumps(payload)) + len(namespace) + 4
    limit = settings.limits.connect_packet_bytes
    refusal: Refusal | None
    if limit is not None and size > limit:
        fields = {"received": size, "limit": limit}
        refusal = Refusal(RejectCode.CONNECT_MALFORMED, "packet_too_large", fields)
    else:
        deadline = asyncio.get_running_loop().time() + core.timeout
        refusal = await admission.decide(connection, payload, deadline, _MadeUp())
    texts = _texts(core, connection, token, place, found)
    if not asks_store and texts[9][0] == "passed":
        texts[9] = ("skipped", f"{type(core.store).__name__} is not asked without a network")
    texts[1] = ("passed", f"{size} bytes, an object")
    if isinstance(registry, _Rehearsed) and registry.skipped:
        texts[10] = (texts[10][0], f"{texts[10][1]}; authorize is not asked (--with-authorize calls it)")
    if refusal is None:
        passed = tuple(Step(number, _TITLES[number - 1], *text) for number, text in texts.items())
        return Play(passed, None, found is not None and found.unchecked)
    code, detail, fields = _seen(refusal)
    last = _step_of(code, detail, fields)
    rule = "nobody can join it" if code is RejectCode.INVALID_NAMESPACE else None
    text = explain(detail, fields, rule=rule)
    if last == 7 and found is not None and found.unchecked:
        text += f". {_UNCHECKED}"
    texts[last] = ("refused", text)
    steps = tuple(Step(number, _TITLES[number - 1], *texts[number]) for number in range(1, last + 1))
    return Play(steps, refusal)


class _MadeUp:
    """The Engine.IO side of a session that is made up: it never ends."""

    def alive(self, eio_sid: str) -> bool:
        return True


def _seen(refusal: Refusal) -> tuple[RejectCode, str, dict[str, Any]]:
    """The reason itself, also where the namespace is hidden and the client is told that it doesn't exist."""
    fields = dict(refusal.fields)
    if refusal.error is not None:
        fields["error"] = type(refusal.error).__name__
    if "hidden_reason" in fields:
        code = RejectCode(fields.pop("hidden_reason"))
        return code, str(fields.pop("hidden_detail")), {**fields, "hidden": True}
    return RejectCode(refusal.code), str(refusal.detail), fields


def _step_of(code: RejectCode, detail: str, fields: Mapping[str, Any]) -> int:
    if code is RejectCode.TOKEN_MALFORMED:
        if "source" in fields:
            return 5
        return 6 if detail in _SHAPE and "part" not in fields else 7
    if code is RejectCode.CONNECTION_LIMIT and detail == "namespaces_per_session":
        return 4
    if code is RejectCode.ADMISSION_TIMEOUT:
        return 10
    return _STEP_OF.get(code, 7)


def _texts(
    core: Parts, connection: Connection, token: str, place: str, found: Offline | None
) -> dict[int, tuple[State, str]]:
    """What to say of each step when it is passed."""
    known = core.registry.resolve(connection.namespace, core.served)
    identity = connection.identity
    looked_for = core.settings.auth is not None and not (known is not None and known.policy.token == "none")
    has_token = looked_for and bool(token)
    nothing: tuple[State, str] = ("skipped", "no token, so nothing to look at")
    verified, left = nothing, None
    if identity.is_authenticated and found is not None:
        who = f"subject {neutralise(str(identity.subject), 256)!r}"
        if identity.issuer is not None:
            who += f", issuer {neutralise(identity.issuer, 256)!r}"
        if identity.expires_at is not None:
            left = identity.expires_at - found.auth.now()
            who += (
                f", expires in {duration(left)}" if left > 0 else f", expired {duration(left)} ago, within the leeway"
            )
        verified = ("skipped", f"{who}. {_UNCHECKED}") if found.unchecked else ("passed", who)
    return {
        1: ("passed", ""),
        2: ("passed", _asked(known)),
        3: ("passed", "a new session"),
        4: ("passed", "nobody else is connected here"),
        5: ("passed", place or _ANONYMOUS) if looked_for else ("skipped", "no token is looked for here"),
        6: ("passed", f"{len(token)} characters") if has_token else nothing,
        7: verified,
        8: ("passed", "a session that is made up"),
        9: ("passed", "nothing is revoked in this process") if has_token else nothing,
        10: ("passed", _granted(known)),
        11: ("passed", "nobody else is connected here"),
        12: ("passed", "nothing has changed meanwhile"),
        13: ("skipped", "the connect handler of the application decides now; it is not called here"),
        14: ("skipped", "no end of its own" if left is None else f"the token ends it in {duration(left)}"),
    }


def _asked(known: Known | None) -> str:
    if known is None:
        return "unknown"
    policy = known.policy
    text = f"{policy.name!r}, token {policy.token}"
    if known.placeholders:
        text += ", " + ", ".join(f"{{{name}}} is {value!r}" for name, value in known.placeholders.items())
    return text


def _granted(known: Known | None) -> str:
    if known is None or not (known.policy.scopes or known.policy.claims):
        return "none are asked for"
    scopes, claims = known.policy.scopes, known.policy.claims
    parts = [f"scopes {', '.join(sorted(scopes))}"] if scopes else []
    parts += [f"claim {name} is {wanted}" for name, wanted in claims.items()]
    return "; ".join(parts)


def _request(core: Parts, token: str) -> tuple[dict[str, Any], list[tuple[bytes, bytes]], bytes, str]:
    """Where a client would put its token: payload, headers and query string, and the place in words."""
    auths = verifiers(core.settings.auth)
    if not auths or not token:
        return {}, [], b"", ""
    finder = auths[0].finder
    source = "payload" if "payload" in finder.sources else finder.sources[0]
    kind, _, name = source.partition(":")
    if kind == "payload":
        key = finder.payload_keys[0]
        value = f"Bearer {token}" if key.lower() == "authorization" else token
        return {key: value}, [], b"", f"in the payload, as {key!r}"
    raw = token.encode("utf-8", "replace")
    if kind == "header":
        return {}, [(b"authorization", b"Bearer " + raw)], b"", "in the Authorization header"
    if kind == "query":
        return {}, [], f"{quote_plus(name)}={quote_plus(token)}".encode(), f"in the query parameter {name!r}"
    headers = [(b"cookie", name.encode() + b"=" + raw), (b"origin", b"https://made-up.example")]
    return {}, headers, b"", f"in the cookie {name!r}"
