"""What a token says about itself, without any of its secret parts. Nothing is verified here. This module is pure."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeGuard

from socketguard.text import neutralise

__all__ = ["look"]


def look(token: str, now: float) -> tuple[str, str]:
    """Describe a token.

    Args:
        token: as it was given.
        now: seconds since 1970.

    Returns:
        What is in it, in words, and what is wrong with it by itself; that is empty when nothing is.
    """
    if token != token.strip() or any(character in token for character in " \"'"):
        return "the token has spaces or quotes in it", "a token is the bare text, without Bearer, spaces and quotes"
    parts = token.split(".")
    if len(parts) != 3:
        return f"the token has {len(parts)} parts, a JWT has 3", "it is no JWT"
    header, claims = _read(parts[0]), _read(parts[1])
    if header is None or claims is None:
        return "the token's header or claims can't be read", "it is no JWT"
    words = [f"algorithm {_short(header.get('alg'))}"]
    words += [f"{name} {_short(claims[name])}" for name in ("iss", "aud") if name in claims]
    problem = ""
    expires, begins = claims.get("exp"), claims.get("nbf")
    if _is_time(expires):
        words.append(_when("expires", "expired", expires - now))
        if expires <= now:
            problem = f"it {_when('expires', 'expired', expires - now)}"
    else:
        words.append("no exp")
    if _is_time(begins) and begins > now:
        problem = f"it is not valid before {_span(begins - now)} from now (nbf)"
    return ", ".join(words), problem


def _read(part: str) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _short(value: object) -> str:
    return neutralise(json.dumps(value, ensure_ascii=False), 80)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _when(future: str, past: str, seconds: float) -> str:
    return f"{future} in {_span(seconds)}" if seconds > 0 else f"{past} {_span(abs(seconds))} ago"


def _span(seconds: float) -> str:
    for name, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
