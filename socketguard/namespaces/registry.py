"""Which namespaces there are, who may enter them, and what is odd about them. This module is pure.

`NamespacePolicy` says what one namespace, or one family of namespaces, asks of a client. `Registry` holds the policies,
finds the one for a name (`Registry.resolve`) and tells why there is none (`Registry.explain`). `authorise` compares a
policy with what a token says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from socketguard.check import listed
from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, Refusal, RejectCode
from socketguard.findings import Finding, finding
from socketguard.text import neutralise

from .policy import _NOTHING, _PLACEHOLDER, NamespacePolicy, Served, is_plain
from .unknown import Question, Unknown, diagnose

__all__ = ["EXAMPLE", "Known", "Registry", "Served", "Unknown", "authorise", "claim_value"]

EXAMPLE = '["/messages", NamespacePolicy("/admin", scopes={"admin"})]'
"""How ``namespaces`` is written, for errors."""


_CACHED = 1024  # default policies; more names than that on one server are made anew each time


@dataclass(frozen=True, slots=True)
class Known:
    """A namespace that can be joined.

    Attributes:
        policy: what it asks of a client.
        placeholders: what the placeholders of a pattern stand for.
    """

    policy: NamespacePolicy
    placeholders: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


class Registry:
    """All namespaces of a guard.

    Args:
        namespaces: names, patterns and policies: the truth about what can be joined. None takes what is registered
            on the server at the time of each CONNECT, with a default policy: a token is required.

    Raises:
        ConfigurationError: a name is wrong or there twice, or two patterns can match the same name.
    """

    __slots__ = ("_cache", "_declared", "_exact", "_patterns")

    def __init__(self, namespaces: Collection[str | NamespacePolicy] | None) -> None:
        self._cache: dict[str, Known] = {}
        self._exact: dict[str, Known] = {}
        self._patterns: list[tuple[re.Pattern[str], NamespacePolicy]] = []
        self._declared: tuple[NamespacePolicy, ...] | None = None
        if namespaces is not None:
            self._declared = _checked_policies(namespaces)
            self._exact = {policy.name: Known(policy) for policy in self._declared if not policy.is_pattern}
            self._patterns = [(p._expression, p) for p in self._declared if p._expression is not None]

    @property
    def policies(self) -> tuple[NamespacePolicy, ...] | None:
        """The policies as declared; None when the server is the truth."""
        return self._declared

    def resolve(self, name: str, served: Served) -> Known | None:
        """Find the policy of a name that a client asks for; None when nobody can join it.

        An exact name goes before a pattern. A declared name needs a handler of its own, a handler for all namespaces,
        or a server that was made with ``namespaces="*"``.

        Args:
            name: the name, as the client sent it.
            served: what the server has.
        """
        if self._declared is None:
            if served.serves(name):
                return self._default(name)
            # Not cached: these names are the clients' choice.
            return Known(NamespacePolicy._default(name)) if served.wildcard and is_plain(name) else None
        known = self._cover(name)
        if known is not None and (served.serves(name) or served.catch_all or served.wildcard):
            return known
        return None

    def _default(self, name: str) -> Known:
        known = self._cache.get(name)
        if known is None:
            known = Known(NamespacePolicy._default(name))
            if len(self._cache) < _CACHED:
                self._cache[name] = known
        return known

    def _cover(self, name: str) -> Known | None:
        known = self._exact.get(name)
        if known is None and self._patterns and is_plain(name):
            for expression, policy in self._patterns:
                match = expression.fullmatch(name)
                if match is not None:
                    return Known(policy, MappingProxyType(match.groupdict()))
        return known

    def _has_handler(self, policy: NamespacePolicy, served: Served) -> bool:
        if served.catch_all or served.wildcard:
            return True
        if not policy.is_pattern:
            return served.serves(policy.name)
        return any(name not in self._exact and policy.match(name) is not None for name in served.names())

    def names(self, served: Served) -> tuple[str, ...]:
        """What can be joined now, sorted; patterns as written, ``*`` for any name, hidden ones included.

        Args:
            served: what the server has.
        """
        if self._declared is None:
            found = [name for name in served.names() if name.startswith("/")]
            return tuple(sorted(found) + (["*"] if served.wildcard else []))
        return tuple(sorted(policy.name for policy in self._declared if self._has_handler(policy, served)))

    def explain(self, name: str, served: Served, *, paths: Sequence[str] = ()) -> Unknown:
        """Say why a name can't be joined, for the log.

        Args:
            name: the name, as the client sent it.
            served: what the server has.
            paths: URL paths of the Socket.IO endpoint, such as ``/socket.io/``.

        Returns:
            Texts that are safe to log. Hidden namespaces appear in them only when the client asked for them by name.
        """

        def joinable(candidate: str) -> bool:
            known = self.resolve(candidate, served)
            return known is not None and not known.policy.hidden

        if self._declared is None:
            exact = tuple(name for name in served.names() if name.startswith("/"))
            patterns: dict[str, tuple[str, ...]] = {}
            cover = None
        else:
            visible = [p for p in self._declared if not p.hidden and self._has_handler(p, served)]
            exact = tuple(policy.name for policy in visible if not policy.is_pattern)
            patterns = {policy.name: policy.literals for policy in visible if policy.is_pattern}
            cover = self._cover(name)
        return diagnose(
            Question(
                asked=name,
                served=served,
                joinable=joinable,
                exact=exact,
                patterns=patterns,
                declared=None if self._declared is None else tuple(policy.name for policy in self._declared),
                covered_by=None if cover is None else cover.policy.name,
                hidden=cover is not None and cover.policy.hidden and self.resolve(name, served) is not None,
                paths=tuple(paths),
            )
        )

    def findings(self, served: Served) -> list[Finding]:
        """Compare what is declared with what is registered.

        Args:
            served: what the server has; ask again when handlers may have come later.
        """
        found = []
        for policy in self._declared or ():
            if not self._has_handler(policy, served):
                handled = "*" if policy.is_pattern else policy.name
                found.append(finding("SG010", name=policy.name, handled=handled))
        for name in served.names():
            if not name.startswith("/"):
                found.append(finding("SG012", name=name))
            elif self._declared is not None and self._cover(name) is None:
                found.append(finding("SG011", name=name))
        if self._declared is None and served.catch_all and not served.wildcard:
            found.append(finding("SG014"))
        return found

    def describe(self) -> list[str | dict[str, Any]] | None:
        """The policies for a log line, in plain values; None when the server is the truth."""
        return None if self._declared is None else [policy.describe() for policy in self._declared]


def authorise(known: Known, identity: Identity) -> Refusal | None:
    """Compare what a namespace asks for with what the token says: scopes, then claims.

    ``authorize`` of the policy is not called here.

    Args:
        known: the namespace.
        identity: who asks.

    Returns:
        None when nothing is missing. The fields of a refusal hold no more of the token than the one claim that
        does not fit.
    """
    policy = known.policy
    if not policy.scopes and not policy.claims:
        return None
    if not identity.is_authenticated:
        asked = {"required": sorted(policy.scopes), "claims": sorted(policy.claims)}
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "anonymous", asked)
    missing = policy.scopes - identity.scopes
    if missing:
        return Refusal(
            RejectCode.INSUFFICIENT_SCOPE,
            "scope_missing",
            {"required": sorted(policy.scopes), "missing": sorted(missing)},
        )
    for claim, wanted in policy.claims.items():
        # One pass: what a client put into a placeholder is never looked at for placeholders again.
        expected = _PLACEHOLDER.sub(lambda match: known.placeholders[match[1]], str(wanted))
        value = claim_value(identity.claims, claim)
        if _comparable(value) != expected:
            fields = {"claim": claim, "expected": neutralise(expected, 256), "received": _printable(value)}
            return Refusal(RejectCode.INSUFFICIENT_SCOPE, "claim_mismatch", fields)
    return None


def claim_value(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its name, or by the dotted path to it; None where there is none."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _comparable(value: object) -> str | None:
    # True is an int to Python, and str() of a huge int raises.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 256:
        return str(value)
    return value if isinstance(value, str) and value else None


def _printable(value: object) -> str | None:
    text = _comparable(value)
    if text is not None:
        return neutralise(text, 256)
    return None if value is None else f"({type(value).__name__} that counts for nothing)"


def _checked_policies(namespaces: object) -> tuple[NamespacePolicy, ...]:
    entries = listed(namespaces, "namespaces", example=EXAMPLE)
    policies = tuple(entry if isinstance(entry, NamespacePolicy) else NamespacePolicy(entry) for entry in entries)
    seen: set[str] = set()
    for policy in policies:
        if policy.name in seen:
            raise ConfigurationError(f"{policy.name!r} is declared twice: keep one of them", option="namespaces")
        seen.add(policy.name)
    patterns = [policy for policy in policies if policy.is_pattern]
    for index, one in enumerate(patterns):
        for other in patterns[:index]:
            if _overlap(one._pieces, other._pieces):
                raise ConfigurationError(
                    f"{other.name!r} and {one.name!r} can match the same name: make what is outside the braces "
                    "different, such as another first word",
                    option="namespaces",
                )
    return policies


def _automaton(pieces: tuple[str, ...]) -> list[str | None]:
    """One step per character; None is a placeholder's first character, an empty text its further ones."""
    steps: list[str | None] = []
    for index, piece in enumerate(pieces):
        steps.extend([None, ""] if index % 2 else piece)
    return steps


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two patterns can match the same name: whether the product of their automata reaches both ends."""
    left, right = _automaton(one), _automaton(other)
    waiting, seen = [(0, 0)], {(0, 0)}
    while waiting:
        i, j = waiting.pop()
        if i == len(left) and j == len(right):
            return True
        x = left[i] if i < len(left) else "end"
        y = right[j] if j < len(right) else "end"
        reached = []
        # Further characters of a placeholder may be none at all.
        if x == "":
            reached.append((i + 1, j))
        if y == "":
            reached.append((i, j + 1))
        if x != "end" and y != "end" and (x == y or (not x and y != "/") or (not y and x != "/")):
            reached.append((i + (x != ""), j + (y != "")))
        for state in reached:
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return False
