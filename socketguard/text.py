"""Text from a client, made harmless before it reaches a log line. This module is pure."""

from __future__ import annotations

import re

__all__ = ["neutralise"]

# C0 and C1 controls and DEL, the separators that some viewers take for a new line, everything that changes the
# direction of text or is invisible in it, and lone surrogates (which no encoder takes).
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# Everything of the above but surrogates, which the encoder replaces.
_TABLE = {code: f"\\u{code:04x}" for code in range(0xD800) if _UNSAFE.match(chr(code))} | {0xFEFF: "\\ufeff"}


def neutralise(text: str, limit: int) -> str:
    """A text without what could forge, hide or break a log line; ``…`` stands for what is beyond the limit."""
    if len(text) > limit:
        text = text[:limit] + "…"
    if _UNSAFE.search(text) is None:
        return text
    # Not by a function for each match: that would make a name full of them dear.
    return text.encode("utf-8", "backslashreplace").decode().translate(_TABLE)
