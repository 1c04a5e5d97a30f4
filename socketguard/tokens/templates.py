"""An issuer that names claims in braces, as in ``https://login.example.com/{tid}/v2.0``. This module is pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class IssuerTemplate:
    """Texts and names of claims in turn, text first and last. An issuer without placeholders is the only text."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, issuer: str, aliases: Mapping[str, str] = {}) -> Self | None:
        """None when a brace stands alone, or a placeholder is empty or names ``iss`` itself, which anything would fit.

        Aliases are placeholders, in lower case, that stand for a claim of another name.
        """
        parts = _PLACEHOLDER.split(issuer)
        if any("{" in text or "}" in text for text in parts[::2]) or {"", "iss"} & {*parts[1::2]}:
            return None
        parts[1::2] = [aliases.get(name.lower(), name) for name in parts[1::2]]
        return cls(tuple(parts))

    def __str__(self) -> str:
        return "".join(f"{{{part}}}" if index % 2 else part for index, part in enumerate(self.parts))

    def filled(self, claims: Mapping[str, Any]) -> str | None:
        """The issuer with a token's own claims in it; None when one of them doesn't fit into a path."""
        parts = list(self.parts)
        for index in range(1, len(parts), 2):
            value = claims.get(parts[index])
            if not isinstance(value, str) or not value or "/" in value:
                return None
            parts[index] = value
        return "".join(parts)

    def has_form(self, issuer: str) -> bool:
        """Whether an issuer is this one with something or other in it."""
        return re.fullmatch("[^/]+".join(map(re.escape, self.parts[::2])), issuer) is not None
