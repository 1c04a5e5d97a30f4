"""A trial of one CONNECT: what a guard would do with a token, step by step, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

from socketguard.admission import Admission
from socketguard.auth.credentials import Credentials
from socketguard.connection import Connection, Session
from socketguard.errors import Refusal, RejectCode
from socketguard.guard import SocketGuard
from socketguard.limits.counters import Ledger
from socketguard.limits.rates import AddressBudget
from socketguard.limits.revocation import MemoryStore
from socketguard.namespaces.policy import NamespacePolicy
from socketguard.namespaces.registry import Known, Registry
from socketguard.text import neutralise

from . import CommandError
from .application import parts_of
from .output import duration, explain
from .verifier import Offline, offline, read_token, verifiers

__all__ = ["Step", "Trial", "try_token"]

State: TypeAlias = Literal["passed", "refused", "skipped"]

_TITLES = (
    "Size and shape of the packet",
    "The namespace is known",
    "Not joined already",
    "Limits and draining",
    "The credential is found",
    "Length and alphabet of the token",
    "The credential is verified",
    "The session is still there",
    "Not revoked",
    "Scopes, claims and authorize of the namespace",
    "Limits per subject and address",
    "Expiry and revocation once more",
    "Handed on to the application",
    "Joined, and the expiry timer is set",
)
# In the other steps nothing is refused here: nobody else is connected.
_STEP_OF = {
    RejectCode.CONNECT_MALFORMED: 1,
    RejectCode.INVALID_NAMESPACE: 2,
    RejectCode.TOKEN_MISSING: 5,
    RejectCode.TOKEN_REVOKED: 9,
    RejectCode.INSUFFICIENT_SCOPE: 10,
    RejectCode.INTERNAL_ERROR: 10,
    RejectCode.ADMISSION_TIMEOUT: 10,
}
_ANONYMOUS = "there is none, and the policy takes anonymous clients"
_UNCHECKED = "The signature was NOT checked: its keys are on the network (--jwks-file has them)"
_SHAPE = frozenset({"too_long", "not_three_parts", "not_base64url"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an admission; ``skipped`` when it can't be tried here or there is nothing to decide."""

    number: int
    title: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Trial:
    """The steps up to the refusal, or all of them; ``unchecked`` says that the signature was taken unseen."""

    steps: tuple[Step, ...]
    refusal: Refusal | None
    unchecked: bool = False

    @property
    def admitted(self) -> bool | None:
        """Whether the client would be admitted; None when that hangs on a signature that was not checked."""
        if self.refusal is not None:
            return False
        return None if self.unchecked else True


@dataclass(frozen=True, slots=True)
class Brings:
    """What a client brings beside a token."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    payload: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.headers or self.payload)

    @classmethod
    def read(cls, headers: Sequence[str], cookies: Sequence[str], payload: str | None) -> Brings:
        """What the command line says of it."""
        found = []
        for text in headers:
            name, colon, value = text.partition(":")
            if not colon or not name.strip().isascii() or not name.strip():
                raise CommandError("a header is given as 'NAME: VALUE'")
            found.append((name.strip().lower().encode(), value.strip().encode("utf-8", "replace")))
        if not all("=" in text for text in cookies):
            raise CommandError("a cookie is given as NAME=VALUE")
        if cookies:
            found.append((b"cookie", "; ".join(cookies).encode("utf-8", "replace")))
        try:
            data = {} if payload is None else json.loads(read_token(payload))
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise CommandError('--auth-json is no JSON object, such as \'{"api_key": "…"}\'')
        return cls(tuple(found), data)


async def try_token(
    guard: SocketGuard,
    token: str,
    namespace: str,
    brings: Brings | None = None,
    *,
    keys: Mapping[str, Any] | None = None,
    with_authorize: bool = False,
) -> Trial:
    """Try the admission of one client to one namespace.

    The order is that of `Admission`, which decides here too, with the options of the guard and empty counters. Nothing
    is fetched, no store but `MemoryStore` is asked, and no function of the application is called, save ``authorize``
    when that is wanted, and authenticators when the client brings something for them.
    """
    parts = parts_of(guard)
    settings, limits = parts.settings, parts.settings.limits
    auth = settings.auth
    found = None if auth is None or auth.jwt is None else offline(auth.jwt, keys)
    known = parts.registry.resolve(namespace, parts.served)
    asks_store = isinstance(parts.store, MemoryStore)
    admission = Admission(
        parts.registry if with_authorize else Registry(_without_authorize(parts.registry.policies)),
        None if auth is None else auth.only(None if found is None else found.auth, others=bool(brings)),
        parts.served,
        parts.configuration.paths,
        limits=limits,
        ledger=Ledger(limits),
        budget=AddressBudget(limits.failure_rate),
        revocations=parts.revocations if asks_store and auth is not None else None,
        stable_claims=settings.stable_claims,
    )
    payload, headers, query, place = _request(auth, token)
    if brings:
        payload |= brings.payload
        headers += brings.headers
    sent = {name for name, _ in headers}
    if b"cookie" in sent and b"origin" not in sent and auth is not None and auth.origins:
        headers.append((b"origin", next(iter(auth.origins)).encode()))  # as a page of the list would
    session = Session(
        client_address=None,
        origin=None,
        user_agent=None,
        transport="websocket",
        headers=headers,
        query_string=query,
        scope={"type": "websocket", "headers": headers, "query_string": query},
    )
    connection = session.connections[namespace] = Connection(session, namespace)
    size = len(json.dumps(payload)) + len(namespace) + 4
    limit = limits.connect_packet_bytes
    refusal: Refusal | None
    if limit is not None and size > limit:
        refusal = Refusal(RejectCode.CONNECT_MALFORMED, "packet_too_large", {"received": size, "limit": limit})
    else:
        deadline = asyncio.get_running_loop().time() + parts.timeout
        decided = admission.decide(connection, payload, deadline, _MadeUp())
        refusal = decided if decided is None or isinstance(decided, Refusal) else await decided
    if connection.identity.credential not in (None, "jwt"):
        token, place = "", f"a credential of kind {connection.identity.credential}"
    texts = _texts(known, connection, token, place, found, None if auth is None else auth.now())
    texts[1] = ("passed", f"{size} bytes, an object")
    if not asks_store and texts[9][0] == "passed":
        texts[9] = ("skipped", f"{type(parts.store).__name__} is not asked without a network")
    if not with_authorize and known is not None and known.policy.authorize is not None:
        texts[10] = (texts[10][0], f"{texts[10][1]}; authorize is not asked (--with-authorize calls it)")
    last = len(_TITLES)
    if refusal is not None:
        code, detail, fields = _reason_of(refusal)
        last = _step_of(code, detail, fields)
        text = explain(detail, fields, rule="nobody can join it" if code is RejectCode.INVALID_NAMESPACE else None)
        if last == 7 and found is not None and found.unchecked:
            text += f". {_UNCHECKED}"
        texts[last] = ("refused", text)
    steps = tuple(Step(number, _TITLES[number - 1], *texts[number]) for number in range(1, last + 1))
    return Trial(steps, refusal, refusal is None and found is not None and found.unchecked)


class _MadeUp:
    """The Engine.IO side of a session that is made up: it never ends."""

    def alive(self, eio_sid: str) -> bool:
        return True


def _without_authorize(policies: tuple[NamespacePolicy, ...] | None) -> list[NamespacePolicy] | None:
    """The same policies, but no function of the application among them."""
    return None if policies is None else [replace(policy, authorize=None) for policy in policies]


def _reason_of(refusal: Refusal) -> tuple[RejectCode, str, dict[str, Any]]:
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
    return _STEP_OF.get(code, 7)


def _texts(
    known: Known | None,
    connection: Connection,
    token: str,
    place: str,
    found: Offline | None,
    now: float | None,
) -> dict[int, tuple[State, str]]:
    """What to say of each step when it is passed."""
    identity = connection.identity
    looked_for = now is not None and not (known is not None and known.policy.token == "none")
    has_token = looked_for and bool(token)
    nothing: tuple[State, str] = ("skipped", "no token, so nothing to look at")
    verified, left = nothing, None
    if identity.is_authenticated and now is not None:
        who = f"subject {neutralise(str(identity.subject), 256)!r}"
        if identity.issuer is not None:
            who += f", issuer {neutralise(identity.issuer, 256)!r}"
        if identity.expires_at is not None:
            left = identity.expires_at - now
            who += (
                f", expires in {duration(left)}" if left > 0 else f", expired {duration(left)} ago, within the leeway"
            )
        unchecked = has_token and found is not None and found.unchecked
        verified = ("skipped", f"{who}. {_UNCHECKED}") if unchecked else ("passed", who)
    return {
        1: ("passed", ""),
        2: ("passed", _asked(known)),
        3: ("passed", "a new session"),
        4: ("passed", "nobody else is connected here"),
        5: ("passed", place or _ANONYMOUS) if looked_for else ("skipped", "no credential is looked for here"),
        6: ("passed", f"{len(token)} characters") if has_token else nothing,
        7: verified,
        8: ("passed", "a session that is made up"),
        9: ("passed", "nothing is revoked in this process") if identity.is_authenticated else nothing,
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


def _request(auth: Credentials | None, token: str) -> tuple[dict[str, Any], list[tuple[bytes, bytes]], bytes, str]:
    """Where a client would put its token: payload, headers and query string, and the place in words."""
    auths = verifiers(auth)
    if not auths or not token:
        return {}, [], b"", ""
    finder = auths[0].finder
    source = "payload" if "payload" in finder.sources else finder.named[0]
    kind, _, name = source.partition(":")
    if kind == "payload":
        key = finder.payload_keys[0]
        value = f"Bearer {token}" if key.lower() == "authorization" else token
        return {key: value}, [], b"", f"in the payload, as {key!r}"
    raw = token.encode("utf-8", "replace")
    if kind == "header" and not name:
        return {}, [(b"authorization", b"Bearer " + raw)], b"", "in the Authorization header"
    if kind == "query":
        return {}, [], f"{quote_plus(name)}={quote_plus(token)}".encode(), f"in the query parameter {name!r}"
    return {}, [(b"cookie", name.encode() + b"=" + raw)], b"", f"in the cookie {name!r}"
