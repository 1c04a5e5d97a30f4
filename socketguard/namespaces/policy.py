"""Who may enter a namespace: `NamespacePolicy`, validated at construction."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from socketguard.check import called, flag, function, names
from socketguard.connection import Connection, Identity
from socketguard.errors import ConfigurationError
from socketguard.text import is_safe

__all__ = ["LONGEST_NAME", "NamespacePolicy", "Served", "is_plain"]

LONGEST_NAME = 256
"""Characters of the longest name that a pattern or a wildcard matches."""


class Served(Protocol):
    """What the python-socketio server has handlers for, as far as namespaces are concerned."""

    # Whether handlers, a class-based namespace or the server's own ``namespaces`` list this exact name.
    def serves(self, name: str) -> bool: ...

    # All exact names it serves, sorted, but for ``*`` and a ``/`` that python-socketio listed by itself.
    def names(self) -> tuple[str, ...]: ...

    @property  # Whether ``/`` is meant: it was chosen, or nothing else was.
    def default(self) -> bool: ...

    @property  # Whether there are handlers for ``namespace="*"``.
    def catch_all(self) -> bool: ...

    @property  # Whether the server was made with ``namespaces="*"``.
    def wildcard(self) -> bool: ...

    @property  # A number that grows when handlers are registered.
    def count(self) -> int: ...


def is_plain(name: str) -> bool:
    """Whether a name is short and printable enough to be matched by a pattern or a wildcard.

    What looks like another name, or like none at all, must not become a new namespace: control and invisible
    characters, marks that change the direction of text, and lone surrogates are refused. So are ``?`` and ``,``, which
    end a name in the default serializer and not in msgpack's: both must see the same names.
    """
    if len(name) > LONGEST_NAME or "?" in name or "," in name:
        return False
    return is_safe(name)


Authorize = Callable[[Identity, Connection], bool | Awaitable[bool]]
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
NOTHING: Mapping[str, Any] = MappingProxyType({})


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

    @called("NamespacePolicy")
    def __init__(
        self,
        name: str,
        *,
        token: Literal["required", "optional", "none"] = "required",  # noqa: S107 - no password
        scopes: Collection[str] = (),
        claims: Mapping[str, object] = NOTHING,
        authorize: Authorize | None = None,
        hidden: bool = False,
    ) -> None:
        pieces = _checked_name(name)
        if token not in ("required", "optional", "none"):
            raise ConfigurationError(
                f'token={token!r} of {name!r}: write "required", "optional" or "none"', option="token"
            )
        checked_scopes = frozenset(names(scopes, "scopes", example='{"messages:read"}', of=f" of {name!r}"))
        checked_claims = _checked_claims(name, claims, pieces[1::2])
        if token == "none" and (checked_scopes or checked_claims):
            option = "scopes" if checked_scopes else "claims"
            raise ConfigurationError(
                f'{option} of {name!r} need a token, but token="none" looks for none: write token="required"',
                option=option,
            )
        if authorize is not None:
            write = "write authorize=check with def check(identity, connection) -> bool"
            function(authorize, "authorize", "identity", "connection", write=write, of=f" of {name!r}")
        flag(hidden, "hidden", of=f" of {name!r}")
        expression = _expression(pieces) if len(pieces) > 1 else None
        self._assign(name, token, checked_scopes, checked_claims, authorize, hidden, pieces, expression)

    def _assign(self, *values: object) -> None:
        for attribute, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, attribute, value)

    @classmethod
    def _of_server(cls, name: str) -> NamespacePolicy:
        """The policy of a name that is registered and not declared, taken as it is: a brace in it is just a brace."""
        policy = object.__new__(cls)
        policy._assign(name, "required", frozenset(), NOTHING, None, False, (name,), None)
        return policy

    def __repr__(self) -> str:
        settings = self._settings()
        shown = {name: repr(value) for name, value in settings.items()}
        if self.scopes:
            shown["scopes"] = f"{{{', '.join(map(repr, settings['scopes']))}}}"
        if self.authorize is not None:
            shown["authorize"] = settings["authorize"]
        return f"NamespacePolicy({', '.join([repr(self.name), *(f'{name}={text}' for name, text in shown.items())])})"

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
            return NOTHING if name == self.name else None
        if not is_plain(name):
            return None
        match = self._expression.fullmatch(name)
        return None if match is None else MappingProxyType(match.groupdict())

    def describe(self) -> str | dict[str, Any]:
        """The policy for a log line: its name, or what else was set, in plain values."""
        settings = self._settings()
        return {"name": self.name, **settings} if settings else self.name

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if self.token != "required":
            settings["token"] = self.token
        if self.scopes:
            settings["scopes"] = sorted(self.scopes)
        if self.claims:
            settings["claims"] = dict(self.claims)
        if self.authorize is not None:
            settings["authorize"] = getattr(self.authorize, "__qualname__", type(self.authorize).__qualname__)
        if self.hidden:
            settings["hidden"] = True
        return settings


def _split(text: str) -> tuple[str, ...] | None:
    """Literal, placeholder, literal, …, literal; None when the braces are wrong."""
    pieces = tuple(PLACEHOLDER.split(text))
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
    def wrong(problem: str) -> ConfigurationError:
        return ConfigurationError(f"claims of {name!r} {problem}", option="claims")

    if not isinstance(claims, Mapping):
        raise ConfigurationError(
            f'claims={claims!r} of {name!r}: write a dict such as {{"tenant_id": "{{tenant}}"}}', option="claims"
        )
    for claim, wanted in claims.items():
        if not isinstance(claim, str) or not claim:
            raise wrong(f"name {claim!r}: write the name of a claim")
        if isinstance(wanted, bool) or not isinstance(wanted, str | int) or wanted == "":
            raise wrong(
                f"want {claim!r} to be {wanted!r}: write a text that is not empty, or an integer; anything else needs "
                "authorize="
            )
        pieces = _split(str(wanted))
        if pieces is None:
            raise wrong(
                f"want {claim!r} to be {wanted!r}, where braces are no placeholder or two placeholders have nothing "
                'between them: write one such as "{tenant}"'
            )
        for placeholder in pieces[1::2]:
            if placeholder not in placeholders:
                known = ", ".join(f"{{{word}}}" for word in placeholders) or "none"
                raise wrong(f"use {{{placeholder}}}, but the placeholders of the name are: {known}")
    return MappingProxyType(dict(claims))


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
