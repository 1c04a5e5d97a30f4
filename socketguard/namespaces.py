"""Which namespaces there are, who may enter them, and what is odd about them. This module is pure.

`NamespacePolicy` says what one namespace, or one family of namespaces, asks of a client. `Registry` holds the policies,
finds the one for a name (`Registry.resolve`) and tells why there is none (`Registry.explain`). `authorise` compares a
policy with what a token says.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from .check import listed, names
from .connection import Connection, Identity
from .diagnosis import LONGEST_NAME, Question, Served, Unknown, diagnose, is_plain
from .errors import ConfigurationError, Finding, RejectCode, Rejection
from .text import neutralise

__all__ = ["EXAMPLE", "Known", "NamespacePolicy", "Registry", "Served", "Unknown", "authorise", "claim_value"]

EXAMPLE = '["/messages", NamespacePolicy("/admin", scopes={"admin"})]'
"""How ``namespaces`` is written, for errors."""

Authorize = Callable[[Identity, Connection], bool | Awaitable[bool]]

_REQUIRED: Final = "required"
_NONE: Final = "none"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CACHED = 1024  # default policies; more names than that on one server are made anew each time


@dataclass(frozen=True, slots=True, init=False, repr=False)
class NamespacePolicy:
    """What a namespace asks of a client.

    Args:
        name: an exact name such as ``"/messages"``, or a pattern such as ``"/tenant-{tenant}"``. A placeholder stands
            for one or more characters without a slash; of two in one segment the first takes as little as it can.
        token: ``"required"``; ``"optional"``: without a token the client is anonymous, an invalid one is still
            refused; ``"none"``: no token is looked for.
        scopes: what the token's scope claim must grant, all of it.
        claims: what claims of the token must be: a text, an integer, or a text with placeholders of ``name``, such as
            ``{"tenant_id": "{tenant}"}``. A claim is looked up by its exact name first, then as a dotted path.
        authorize: asked last, with the `Identity` and the `Connection`; may be async; anything but True refuses.
        hidden: answer whoever may not enter as if the namespace did not exist.

    Raises:
        ConfigurationError: something of it can't work or would not be safe.
    """

    name: str
    token: Literal["required", "optional", "none"]
    scopes: frozenset[str]
    claims: Mapping[str, str | int] = field(hash=False)
    authorize: Authorize | None
    hidden: bool
    _pieces: tuple[str, ...] = field(init=False, compare=False)
    _expression: re.Pattern[str] | None = field(init=False, compare=False)

    def __init__(
        self,
        name: str,
        *,
        token: Literal["required", "optional", "none"] = _REQUIRED,
        scopes: Collection[str] = (),
        claims: Mapping[str, object] = _NOTHING,
        authorize: Authorize | None = None,
        hidden: bool = False,
    ) -> None:
        pieces = _checked_name(name)
        if token not in (_REQUIRED, "optional", _NONE):
            raise ConfigurationError(
                f'token={token!r} of {name!r}: write "required", "optional" or "none"', option="token"
            )
        checked_scopes = frozenset(names(scopes, "scopes", example='{"messages:read"}', of=f" of {name!r}"))
        checked_claims = _checked_claims(name, claims, pieces[1::2])
        if token == _NONE and (checked_scopes or checked_claims):
            option = "scopes" if checked_scopes else "claims"
            raise ConfigurationError(
                f'{option} of {name!r} need a token, but token="none" looks for none: write token="required"',
                option=option,
            )
        if authorize is not None and not callable(authorize):
            raise ConfigurationError(
                f"authorize of {name!r} is no function: write authorize=check with "
                "def check(identity, connection) -> bool",
                option="authorize",
            )
        if not isinstance(hidden, bool):
            raise ConfigurationError(f"hidden={hidden!r} of {name!r}: write True or False", option="hidden")
        expression = _expression(pieces) if len(pieces) > 1 else None
        self._assign(name, token, checked_scopes, checked_claims, authorize, hidden, pieces, expression)

    def _assign(self, *values: object) -> None:
        for attribute, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, attribute, value)

    @classmethod
    def _default(cls, name: str) -> NamespacePolicy:
        # The server's own names are taken as they are: a brace in one is just a brace.
        policy = object.__new__(cls)
        policy._assign(name, "required", frozenset(), _NOTHING, None, False, (name,), None)
        return policy

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.token != _REQUIRED:
            parts.append(f"token={self.token!r}")
        if self.scopes:
            parts.append(f"scopes={{{', '.join(map(repr, sorted(self.scopes)))}}}")
        if self.claims:
            parts.append(f"claims={dict(self.claims)!r}")
        if self.authorize is not None:
            parts.append(f"authorize={_function_name(self.authorize)}")
        if self.hidden:
            parts.append("hidden=True")
        return f"NamespacePolicy({', '.join(parts)})"

    @property
    def is_pattern(self) -> bool:
        """Whether the name has placeholders."""
        return self._expression is not None

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of the placeholders, in their order."""
        return self._pieces[1::2]

    @property
    def literals(self) -> tuple[str, ...]:
        """The pieces of the name around the placeholders: always one more than there are placeholders."""
        return self._pieces[::2]

    def match(self, name: str) -> Mapping[str, str] | None:
        """What the placeholders stand for in a name; None when the policy is not for that name."""
        if self._expression is None:
            return _NOTHING if name == self.name else None
        if not is_plain(name):
            return None
        match = self._expression.fullmatch(name)
        return None if match is None else MappingProxyType(match.groupdict())

    def describe(self) -> str | dict[str, Any]:
        """The policy for a log line: its name, or what else was set, in plain values."""
        settings: dict[str, Any] = {}
        if self.token != _REQUIRED:
            settings["token"] = self.token
        if self.scopes:
            settings["scopes"] = sorted(self.scopes)
        if self.claims:
            settings["claims"] = dict(self.claims)
        if self.authorize is not None:
            settings["authorize"] = _function_name(self.authorize)
        if self.hidden:
            settings["hidden"] = True
        return {"name": self.name, **settings} if settings else self.name


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
                found.append(
                    Finding(
                        "SG010",
                        f"{policy.name!r} is declared to the guard, but python-socketio has no handler for it in this "
                        "process: nobody can join it",
                        f'import the module with @sio.on("connect", namespace="{handled}") before the server starts, '
                        "or remove the name from namespaces=",
                    )
                )
        for name in served.names():
            if not name.startswith("/"):
                found.append(
                    Finding(
                        "SG012",
                        f"handlers are registered for namespace={name!r}, which has no leading slash: no client can "
                        "reach them",
                        f'write namespace="/{name}" where the handlers are registered',
                    )
                )
            elif self._declared is not None and self._cover(name) is None:
                found.append(
                    Finding(
                        "SG011",
                        f"handlers are registered for {name!r}, but namespaces= does not declare it: nobody can join "
                        "it",
                        f'add it: namespaces=[…, "{name}"]',
                    )
                )
        if self._declared is None and served.catch_all and not served.wildcard:
            found.append(
                Finding(
                    "SG014",
                    'handlers are registered for namespace="*", but nothing says which names they are for: no name '
                    "can be joined through them",
                    'declare the names, such as namespaces=["/messages", NamespacePolicy("/tenant-{tenant}", '
                    'claims={"tenant_id": "{tenant}"})]',
                )
            )
        return found

    def describe(self) -> list[str | dict[str, Any]] | None:
        """The policies for a log line, in plain values; None when the server is the truth."""
        return None if self._declared is None else [policy.describe() for policy in self._declared]


def authorise(known: Known, identity: Identity) -> Rejection | None:
    """Compare what a namespace asks for with what the token says: scopes, then claims.

    ``authorize`` of the policy is not called here.

    Args:
        known: the namespace.
        identity: who asks.

    Returns:
        None when nothing is missing. The fields of a rejection hold no more of the token than the one claim that
        does not fit.
    """
    policy = known.policy
    if not policy.scopes and not policy.claims:
        return None
    if not identity.is_authenticated:
        asked = {"required": sorted(policy.scopes), "claims": sorted(policy.claims)}
        return Rejection(RejectCode.INSUFFICIENT_SCOPE, "anonymous", asked)
    missing = policy.scopes - identity.scopes
    if missing:
        return Rejection(
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
            return Rejection(RejectCode.INSUFFICIENT_SCOPE, "claim_mismatch", fields)
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


def _function_name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _split(text: str) -> tuple[str, ...] | None:
    """Literal, placeholder, literal, …, literal; None when the braces are wrong."""
    pieces = tuple(_PLACEHOLDER.split(text))
    literals = pieces[::2]
    if any("{" in literal or "}" in literal for literal in literals) or not all(literals[1:-1]):
        return None
    return pieces


def _checked_name(name: object) -> tuple[str, ...]:
    def wrong(problem: str, instead: str) -> ConfigurationError:
        return ConfigurationError(f"the namespace {name!r} {problem}: write {instead}", option="namespaces")

    if not isinstance(name, str):
        raise wrong("is no text", '"/messages" or NamespacePolicy("/messages", scopes={"messages:read"})')
    if "*" in name:
        raise wrong(
            'has a "*", which matches nothing here',
            'placeholders such as "/{name}", or leave namespaces= out to take what is registered',
        )
    if "?" in name or "," in name:
        raise wrong('has a "?" or a ",", where python-socketio ends the name', "the name without it")
    if len(name) > LONGEST_NAME:
        raise ConfigurationError(
            f"a namespace has {len(name)} characters: write at most {LONGEST_NAME}", option="namespaces"
        )
    if not is_plain(name) or any(character.isspace() for character in name):
        raise wrong("has a space, a control character or an invisible character", "the name without it")
    if not name.startswith("/"):
        raise wrong("has no leading slash", f'"/{name}"')
    pieces = _split(name)
    if pieces is None:
        raise wrong(
            "has braces that are no placeholder, or two placeholders with nothing between them",
            '"/tenant-{tenant}", with a word of A-Z, a-z, 0-9 and _ in the braces',
        )
    if len(set(pieces[1::2])) < len(pieces[1::2]):
        raise wrong("has the same placeholder twice", "different words in the braces")
    return pieces


def _checked_claims(name: str, claims: object, placeholders: tuple[str, ...]) -> Mapping[str, str | int]:
    if not isinstance(claims, Mapping):
        raise ConfigurationError(
            f'claims={claims!r} of {name!r}: write a dict such as {{"tenant_id": "{{tenant}}"}}', option="claims"
        )
    checked: dict[str, str | int] = {}
    for claim, wanted in claims.items():
        if not isinstance(claim, str) or not claim:
            raise ConfigurationError(f"claims of {name!r} name {claim!r}: write the name of a claim", option="claims")
        if isinstance(wanted, bool) or not isinstance(wanted, str | int) or wanted == "":
            raise ConfigurationError(
                f"claims of {name!r} want {claim!r} to be {wanted!r}: write a text that is not empty, or an integer; "
                "anything else needs authorize=",
                option="claims",
            )
        pieces = _split(str(wanted))
        if pieces is None:
            raise ConfigurationError(
                f"claims of {name!r} want {claim!r} to be {wanted!r}, where braces are no placeholder or two "
                'placeholders have nothing between them: write one such as "{tenant}"',
                option="claims",
            )
        for placeholder in pieces[1::2]:
            if placeholder not in placeholders:
                known = ", ".join(f"{{{word}}}" for word in placeholders) or "none"
                raise ConfigurationError(
                    f"claims of {name!r} use {{{placeholder}}}, but the placeholders of the name are: {known}",
                    option="claims",
                )
        checked[claim] = wanted
    return MappingProxyType(checked)


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


def _expression(pieces: tuple[str, ...]) -> re.Pattern[str]:
    """The regular expression of a pattern; it takes time in proportion to the length of a name.

    A placeholder before another one of the same segment ends where the literal after it first begins, so there is
    never a second way to match and nothing to try again.
    """
    parts = [re.escape(pieces[0])]
    for index in range(1, len(pieces), 2):
        literal = re.escape(pieces[index + 1])
        ends_segment = "/" in literal or index + 2 == len(pieces)
        text = "[^/]+" if ends_segment else f"[^/](?:(?!{literal})[^/])*"
        parts.append(f"(?P<{pieces[index]}>{text}){literal}")
    return re.compile("".join(parts))


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
