"""Which namespaces there are (`Registry`), who may enter them (`authorise`), and what is odd about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from socketguard.check import listed
from socketguard.connection import Identity, claim_value
from socketguard.errors import ConfigurationError, Refusal, RejectCode
from socketguard.findings import Finding, finding
from socketguard.text import neutralise

from .policy import NOTHING, PLACEHOLDER, NamespacePolicy, Served, is_plain

__all__ = ["EXAMPLE", "Known", "Registry", "Served", "authorise"]

EXAMPLE = '["/messages", NamespacePolicy("/admin", scopes={"admin"})]'
"""How ``namespaces`` is written, for errors."""

_CACHED = 1024  # default policies; more names than that on one server are made anew each time


@dataclass(frozen=True, slots=True)
class Known:
    """A namespace that can be joined, and what the placeholders of its pattern stand for."""

    policy: NamespacePolicy
    placeholders: Mapping[str, str] = field(default_factory=lambda: NOTHING)


class Registry:
    """All namespaces of a guard: those declared; else, with a token required, what is registered at each CONNECT."""

    def __init__(self, namespaces: Collection[str | NamespacePolicy] | None) -> None:
        self.policies = None if namespaces is None else _checked_policies(namespaces)
        """The policies as declared; None when the server is the truth."""
        self._of_server: dict[str, Known] = {}
        self._exact = {policy.name: Known(policy) for policy in self.policies or () if not policy.is_pattern}
        self._patterns = [policy for policy in self.policies or () if policy.is_pattern]

    def resolve(self, name: str, served: Served) -> Known | None:
        """The policy of a name that a client asks for; None when nobody can join it.

        An exact name goes before a pattern. A declared name needs a handler of its own, a handler for all namespaces,
        or a server that was made with ``namespaces="*"``.
        """
        if self.policies is None:
            # python-socketio serves "/" by itself, where a client that forgot its namespace would hear nothing.
            if served.serves(name) and (name != "/" or served.default):
                return self._registered(name)
            # Not cached: these names are the clients' choice.
            return Known(NamespacePolicy._of_server(name)) if served.wildcard and is_plain(name) else None
        known = self.cover(name)
        if known is not None and (served.serves(name) or served.catch_all or served.wildcard):
            return known
        return None

    def _registered(self, name: str) -> Known:
        known = self._of_server.get(name)
        if known is None:
            known = Known(NamespacePolicy._of_server(name))
            if len(self._of_server) < _CACHED:
                self._of_server[name] = known
        return known

    def cover(self, name: str) -> Known | None:
        """The declared policy for a name, whether or not there is a handler."""
        known = self._exact.get(name)
        if known is None:
            for policy in self._patterns:
                placeholders = policy.match(name)
                if placeholders is not None:
                    return Known(policy, placeholders)
        return known

    def joinable(self, served: Served) -> list[NamespacePolicy]:
        """The policies that somebody could join now, hidden ones among them."""
        if self.policies is None:
            names = [name for name in served.names() if name.startswith("/")]
            if "/" not in names and self.resolve("/", served) is not None:
                names.insert(0, "/")
            return [self._registered(name).policy for name in names]
        return [policy for policy in self.policies if self._has_handler(policy, served)]

    def _has_handler(self, policy: NamespacePolicy, served: Served) -> bool:
        if served.catch_all or served.wildcard:
            return True
        if not policy.is_pattern:
            return served.serves(policy.name)
        return any(name not in self._exact and policy.match(name) is not None for name in served.names())

    def findings(self, served: Served) -> list[Finding]:
        """What is odd between what is declared and what is registered by now."""
        found = []
        for policy in self.policies or ():
            if not self._has_handler(policy, served):
                handled = "*" if policy.is_pattern else policy.name
                found.append(finding("SG010", name=policy.name, handled=handled))
        for name in served.names():
            if not name.startswith("/"):
                found.append(finding("SG012", name=name))
            elif self.policies is not None and self.cover(name) is None:
                found.append(finding("SG011", name=name))
        if self.policies is None and served.catch_all and not served.wildcard:
            found.append(finding("SG014"))
        return found

    def describe(self, served: Served) -> list[str | dict[str, Any]]:
        """The policies for a log line, in plain values: those declared, or what can be joined now."""
        return [policy.describe() for policy in (self.policies or self.joinable(served))]


def authorise(known: Known, identity: Identity) -> Refusal | None:
    """What is missing when a namespace's scopes and claims are compared with what a token says; None for nothing.

    ``authorize`` of the policy is not called here. The fields of a refusal hold no more of the token than the one claim
    that does not fit.
    """
    policy = known.policy
    if not policy.scopes and not policy.claims:
        return None
    if not identity.is_authenticated:
        asked = {"required": sorted(policy.scopes), "claims": sorted(policy.claims)}
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "anonymous", asked)
    missing = policy.scopes - identity.scopes
    if missing:
        asked = {"required": sorted(policy.scopes), "missing": sorted(missing)}
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "scope_missing", asked)
    for claim, wanted in policy.claims.items():
        # One pass: what a client put into a placeholder is never looked at for placeholders again.
        expected = PLACEHOLDER.sub(lambda match: known.placeholders[match[1]], str(wanted))
        value = claim_value(identity.claims, claim)
        if _comparable(value) != expected:
            fields = {"claim": claim, "expected": neutralise(expected, 256), "received": _printable(value)}
            return Refusal(RejectCode.INSUFFICIENT_SCOPE, "claim_mismatch", fields)
    return None


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
            if _overlap(one.literals, other.literals):
                raise ConfigurationError(
                    f"{other.name!r} and {one.name!r} can match the same name: make what is outside the braces "
                    "different, such as another first word",
                    option="namespaces",
                )
    return policies


def _automaton(literals: tuple[str, ...]) -> list[str | None]:
    """One step per character; None is a placeholder's first character, an empty text its further ones."""
    steps: list[str | None] = [*literals[0]]
    for literal in literals[1:]:
        steps += [None, "", *literal]
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
