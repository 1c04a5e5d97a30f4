"""Text from a client, made harmless before it reaches a log line. This module is pure.

Every text of a client that becomes a field goes through `neutralise`.
"""

from __future__ import annotations

import re

__all__ = ["JWT", "REDACTED", "is_safe", "neutralise"]

REDACTED = "[redacted]"

# A base64url text that begins as a JSON object does is a JWT or a part of one: `{"` is "eyJ". Spaces and newlines
# after the brace give the other beginnings, which stand in English words too, hence the second part. The lengths keep
# the work linear.
_DOT = r"(?:\.|%2[eE])"
JWT = re.compile(
    rf"eyJ[\w-]{{8,}}+(?:{_DOT}[\w-]*+){{0,4}}+"
    rf"|e(?:yA|w[ok0])[\w-]{{4,256}}+{_DOT}e[yw][\w-]{{4,}}+(?:{_DOT}[\w-]*+){{0,3}}+",
    re.ASCII,
)

# C0 and C1 controls and DEL, the separators that some viewers take for a new line, everything that changes the
# direction of text or is invisible in it (Unicode's Default_Ignorable_Code_Point and format controls), and lone
# surrogates (which no encoder takes).
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
# Everything of the above but surrogates, which the encoder replaces.
_TABLE = {
    code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    for code in (*range(0xD800), *range(0xE000, 0x10000), *range(0x1BCA0, 0x1D180), *range(0xE0000, 0xE1000))
    if _UNSAFE.match(chr(code))
}


def is_safe(text: str) -> bool:
    """Whether a text has nothing that forges or hides."""
    return _UNSAFE.search(text) is None


def neutralise(text: str, limit: int) -> str:
    """A text without what could forge, hide or break a log line, and without tokens (JWT).

    ``…`` stands for what is beyond the limit.
    """
    if len(text) > limit:
        text = text[:limit] + "…"
    if "ey" in text or "ew" in text:
        text = JWT.sub(REDACTED, text)
    if is_safe(text):
        return text
    # Not by a function for each match: that would make a name full of them dear.
    return text.encode("utf-8", "backslashreplace").decode().translate(_TABLE)
