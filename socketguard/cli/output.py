"""How the commands print: to 80 columns, values in words, with colours on a terminal only."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping
from typing import Any, TextIO

from socketguard.text import neutralise

__all__ = ["RULES", "SCHEMA_VERSION", "Printer", "counted", "duration", "explain", "print_json", "words"]

WIDTH = 80
SCHEMA_VERSION = 1
"""The version of what ``--json`` prints."""
_LIMIT = 512


class Printer:
    """Prints checked things, one below the other.

    Colours are for terminals, and only where ``NO_COLOR`` is not set (https://no-color.org); the marks become ASCII
    where the stream can't write others.
    """

    def __init__(self, stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self._colours = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._encoding = stream.encoding or "utf-8"  # streams in memory have none
        self._good, self._bad = ("✓", "✗") if can_write(stream, "✓✗") else ("ok", "FAILED")

    def text(self, text: str) -> None:
        """A paragraph, and an empty line after it."""
        self._write(textwrap.fill(text, WIDTH, break_on_hyphens=False), "")

    def heading(self, text: str, *, good: bool) -> None:
        """What was checked, with a mark that says how it went."""
        mark = self._paint(self._good, "32") if good else self._paint(self._bad, "1;31")
        self._write(f"{mark} {self._paint(text, '1')}")

    def item(self, label: str, text: str) -> None:
        """A text beside its label, of up to 6 letters."""
        indent = " " * 10
        lines = textwrap.wrap(text, WIDTH - len(indent), break_on_hyphens=False) or [""]
        self._write(f"  {self._paint(f'{label:<8}', '2')}{lines[0]}", *(indent + line for line in lines[1:]))

    def gap(self) -> None:
        """An empty line."""
        self._write("")

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colours else text

    def _write(self, *lines: str) -> None:
        for line in lines:
            # What the stream has no character for must not end the command.
            self._stream.write(line.encode(self._encoding, "replace").decode(self._encoding) + "\n")
        self._stream.flush()


def can_write(stream: TextIO, text: str) -> bool:
    """Whether a stream has characters for a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def print_json(shown: Mapping[str, Any]) -> None:
    """Print one object, with the version of its schema."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **shown}, indent=2, default=str))


RULES: Mapping[str, str] = {
    # where the token is
    "no_token": "there is no token where the guard looks for one",
    "not_a_string": "the token is no string",
    "query_malformed": "the query string can't be read",
    "cookie_without_origin": "a token in a cookie counts only together with an Origin header",
    # its shape (RFC 7515 section 7.1)
    "too_long": "the token is too long",
    "not_base64url": "the token has characters that base64url doesn't know, or was cut",
    "not_three_parts": "a signed token has three parts with dots between them; this one doesn't",
    "not_utf8": "a part of the token is no UTF-8",
    "not_json": "a part of the token is no JSON",
    "nested_too_deeply": "the JSON in the token is nested too deeply",
    "not_an_object": "a part of the token is JSON, but no object",
    # its header (RFC 7515 section 4.1)
    "algorithm_not_allowed": "its alg is not among the allowed algorithms",
    "crit_not_supported": "its header has crit or b64, which nobody here understands",
    "type_not_allowed": "its typ is not among the allowed types",
    "key_id_malformed": "its kid is no short string",
    # keys and signature
    "signature_mismatch": "the signature is of no configured key: another key signed it, or it was changed since",
    "key_unknown": "no key with its kid is published",
    "key_id_missing": "it has no kid, and too many published keys could be the one",
    # its claims (RFC 7519 section 4.1)
    "claim_missing": "a claim that is required is missing",
    "claim_type": "a claim has the wrong type",
    "claim_mismatch": "a claim is not what is asked for",
    "issuer_mismatch": "its iss is not the expected issuer",
    "audience_mismatch": "its aud doesn't name this service",
    "not_before": "its nbf lies in the future",
    "issued_in_future": "its iat lies in the future: do the clocks agree?",
    "expired": "it has expired",
    "lifetime_too_long": "it lives longer than max_lifetime allows",
    "unexpected_error": "verifying it failed with an exception, which counts as a refusal",
    # the namespace
    "packet_too_large": "the packet is larger than limits.connect_packet_bytes",
    "anonymous": "the namespace asks for scopes or claims, which anonymous clients don't have",
    "scope_missing": "the token doesn't grant every scope that the namespace asks for",
    "authorize_refused": "authorize of the namespace did not return True",
    "authorize": "authorize of the namespace took too long",
    "admission": "a function of the application raised",
    "revoked": "the token was revoked",
}
"""What a detail of a refusal means."""

_FACTS = (
    *("claim", "part", "source", "key", "key_id", "required", "missing", "expected", "received", "limit", "error"),
    "registered",
)


def explain(detail: str, fields: Mapping[str, Any], *, rule: str | None = None) -> str:
    """Why something is refused: the rule (``rule`` where `RULES` has none), the detail, the facts, and the hint."""
    rule = RULES.get(detail, rule)
    text = detail if rule is None else f"{rule} ({detail})"
    text += f", {duration(fields['expired_s'])} ago" if "expired_s" in fields else ""
    text += f", by {duration(fields['valid_in_s'])}" if "valid_in_s" in fields else ""
    if "lifetime_s" in fields:
        text += f": {duration(fields['lifetime_s'])} instead of at most {duration(fields['limit_s'])}"
    facts = [f"{name} {words(fields[name])}" for name in _FACTS if fields.get(name) is not None]
    if facts:
        text += ": " + ", ".join(facts)
    if fields.get("hint") is not None:
        text += f". {neutralise(str(fields['hint']), _LIMIT)}"
    if fields.get("hidden"):
        text += ". The client is told only that there is no such namespace (hidden=True)"
    return text


def words(value: Any) -> str:
    """A plain value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{words(name)} {_inner(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_inner(item) for item in value) or "none"
    return neutralise(str(value), _LIMIT) or "''"


def _inner(value: Any) -> str:
    return f"({words(value)})" if isinstance(value, Mapping | list | tuple) and len(value) > 1 else words(value)


def duration(seconds: float) -> str:
    """A time in words, in the largest unit that fits; the sign plays no part."""
    left = abs(seconds)
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60))
    unit, count = next(((unit, int(left // size)) for unit, size in units if left >= size), ("second", round(left)))
    return counted(count, unit)


def counted(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
