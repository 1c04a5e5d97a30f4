"""The text of a token: its length, its alphabet, its base64url and its JSON."""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, NoReturn

from socketguard.errors import RejectCode, TokenError

MAX_TOKEN_LENGTH = 8192  # characters; servers take header lines of 8 KiB or less (nginx's large_client_header_buffers)
MAX_DEPTH = 32  # of objects and arrays within each other (the ``realm_access`` of Keycloak needs three)
MAX_HEADER_PARTS = 64  # members and elements of a token's header: it is decoded before the signature is checked
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"", b"==", b"=")

# What a JavaScript or Python client sends whose variable is not what its author thinks. None of it is a secret.
_NO_TOKENS = frozenset(
    {"undefined", "null", "None", "NaN", "true", "false", "[object Object]", "[object Promise]", "Bearer"}
)

# What a text looks like that is no token, the most telling first, and what to do.
_LOOKS = (
    (
        r"\AeyJhbGciOiJkaXIi[^.]*(\.[^.]*){4}\Z",
        "five parts are an encrypted token (JWE), such as the session cookie of NextAuth (Auth.js): sign a token for "
        "this server in a route of your own, which reads that cookie",
    ),
    (r"\A[^.]*(\.[^.]*){4}\Z", "five parts are an encrypted token (JWE); a signed one (JWS) is expected"),
    (r"\A[^.]+\.[^.]+\.\Z", "the signature is empty, as with alg none: such a token is never accepted"),
    (r"\A\.|\.\.", "one of its parts is empty"),
    (r"\A[\"']|[\"']\Z", "it is in quotes: send the text itself, not JSON.stringify of it"),
    (r"(?i)\Abearer\b", "there is more than one 'Bearer' before the token"),
    (r"(?i)\A(basic|token|jwt|apikey) ", "the name of another scheme stands before it: send the token alone"),
    (r"\s", "it has white space in it: a line break at the end of a file or of a variable, perhaps"),
    (r"%[0-9A-Fa-f]{2}", "it is percent-encoded: send it without encodeURIComponent"),
    (r"\AZXlK[A-Za-z0-9+/=_-]+\Z", "it is base64 of a token: send the token without btoa"),
    (
        r"\A[A-Za-z0-9.=_-]*[+/][A-Za-z0-9+/.=_-]*\Z",
        "it is base64 where a JWT is base64url (- and _ for + and /)",
    ),
)

# The last character of a part that is no whole number of 24-bit groups has bits that belong to no byte. RFC 4648
# section 3.5 wants them zero; otherwise one token has several spellings.
_CANONICAL_END = (_ALPHABET, b"", b"AQgw", b"AEIMQUYcgkosw048")


def malformed(detail: str, **fields: Any) -> TokenError:
    """A refusal with the code ``token_malformed``."""
    return TokenError(RejectCode.TOKEN_MALFORMED, detail, **fields)


def check_shape(token: str, most: int = MAX_TOKEN_LENGTH) -> bytes:
    """A token as bytes: three parts of base64url characters, none empty, with two dots between them.

    This is compact serialisation (RFC 7515 section 7.1); nothing is decoded yet.
    """
    if not isinstance(token, str):
        raise malformed("not_a_string", received=type(token).__name__)
    if len(token) > most:
        raise malformed("too_long", received=len(token), limit=most)
    try:
        raw = token.encode("ascii")
    except UnicodeEncodeError:
        raise malformed("not_base64url") from None
    others = raw.translate(None, _ALPHABET)
    if b"=" in others:
        # RFC 7515 section 2 has no padding, but some write it, and sign it too (load balancers of AWS do).
        bare = b".".join(_unpadded(part) for part in raw.split(b"."))
        others = bare.translate(None, _ALPHABET)
    else:
        bare = raw
    if others == b".." and b".." not in bare and bare[0] != 0x2E and bare[-1] != 0x2E:
        return raw
    detail = "not_base64url" if others.strip(b".") else "not_three_parts"
    hint = next((hint for pattern, hint in _LOOKS if re.search(pattern, token)), None)
    if token in _NO_TOKENS:
        hint = f"the client sent the text {token!r} instead of a token"
    elif hint is None and detail == "not_three_parts":
        hint = (
            f"it has {token.count('.') + 1} part(s) where a JWT has three: an opaque token, a session id or an API key "
            "perhaps; ask the provider for a JWT (Auth0: with the audience of your API)"
        )
    raise malformed(detail, **({} if hint is None else {"hint": hint}))


def _unpadded(part: bytes) -> bytes:
    """A part without the padding of RFC 4648 section 3.2, where it has as much as belongs there."""
    return part.rstrip(b"=") if len(part) % 4 == 0 and part[-3:] != b"===" else part


def decode_base64url(part: bytes, name: str) -> bytes:
    """Decode a part of a token that `check_shape` let pass: base64url (RFC 7515 section 2).

    `name` is the part's for the log: ``header``, ``payload`` or ``signature``. Refused are an impossible length, and
    bits at the end that belong to no byte.
    """
    if part[-1:] == b"=":
        part = _unpadded(part)
    rest = len(part) % 4
    if rest and part[-1] not in _CANONICAL_END[rest]:
        raise malformed("not_base64url", part=name)
    return binascii.a2b_base64(part.translate(_TO_STANDARD) + _PADDING[rest])


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number beyond every float")
    return number


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).raw_decode


def _check_tree(root: Any) -> None:
    """Refuse what parses but breaks whoever handles it later: lone surrogates, and depth."""
    stack = [(root, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise RecursionError
            children: Iterable[Any] = chain(value, value.values()) if isinstance(value, dict) else value
            stack.extend((child, depth + 1) for child in children)


def decode_json_object(part: bytes, name: str) -> dict[str, Any]:
    """Decode a part of a token that must be a JSON object in UTF-8 (RFC 7519 section 7.2).

    Of members with the same name the last one counts, as RFC 7519 section 4 allows. Refused are other encodings, a
    byte order mark, ``NaN`` and ``Infinity``, numbers beyond a float's range, lone surrogates, and more than
    `MAX_DEPTH` levels.
    """
    data = decode_base64url(part, name)
    try:
        text = data.decode().strip(" \t\r\n")
        if name == "header" and text.count("[") + text.count("{") + text.count(",") > MAX_HEADER_PARTS:
            # Nobody has vouched for the header yet; a real one has a handful of fields.
            raise malformed("nested_too_deeply", part=name)
        value, end = _decode_json(text)
        if end != len(text):
            raise malformed("not_json", part=name)
        # Only a token with an escape or with many brackets can hold what _check_tree looks for.
        if "\\u" in text or text.count("{") + text.count("[") > MAX_DEPTH:
            _check_tree(value)
    except UnicodeError:
        raise malformed("not_utf8", part=name) from None
    except ValueError:
        raise malformed("not_json", part=name) from None
    except RecursionError:
        raise malformed("nested_too_deeply", part=name) from None
    if not isinstance(value, dict):
        raise malformed("not_an_object", part=name)
    return value


def unverified(part: bytes) -> dict[str, Any]:
    """What a payload says, without the checks that a stranger could make dear; whoever verifies it has them."""
    try:
        claims = json.loads(decode_base64url(part, "payload").decode())
    except (ValueError, RecursionError):
        claims = None
    # The strict decoder knows what to say about the rest.
    return claims if isinstance(claims, dict) else decode_json_object(part, "payload")
