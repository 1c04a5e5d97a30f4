"""What a verifier and an admission decide, in words for people. This module is pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from socketguard.text import neutralise

__all__ = ["RULES", "duration", "explain", "words"]

_LIMIT = 512

RULES: Mapping[str, str] = MappingProxyType(
    {
        # where the token is
        "no_token": "there is no token where the guard looks for one",
        "bearer_prefix": "the token has 'Bearer ' before it, which belongs into a header only",
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
)
"""What a detail of a refusal means."""

_FACTS = (
    "claim",
    "part",
    "source",
    "key",
    "key_id",
    "required",
    "missing",
    "expected",
    "received",
    "limit",
    "error",
    "registered",
)


def explain(detail: str, fields: Mapping[str, Any], *, rule: str | None = None) -> str:
    """Why something is refused.

    Args:
        detail: the detail of the refusal.
        fields: its fields, which hold no secrets.
        rule: what the detail means, when it is none of `RULES`.

    Returns:
        The rule in words, the detail in brackets, the facts, and the hint where there is one.
    """
    rule = RULES.get(detail, rule)
    text = detail if rule is None else f"{rule} ({detail})"
    if "expired_s" in fields:
        text += f", {duration(fields['expired_s'])} ago"
    if "valid_in_s" in fields:
        text += f", by {duration(fields['valid_in_s'])}"
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
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if left >= length:
            count = int(left // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    count = round(left)
    return f"{count} second{'' if count == 1 else 's'}"
