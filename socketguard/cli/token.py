"""``socketguard token``: mints development tokens, and explains given ones. Nothing is ever sent anywhere.

The exit status is 0 when all is good, 1 for a token that is malformed or refused or whose signature could not be
checked, and 2 for wrong usage.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import click
import jwt
from jwt.algorithms import get_default_algorithms

from socketguard.errors import ConfigurationError, TokenError
from socketguard.logs.redact import RedactFilter
from socketguard.testing import TEST_SECRET
from socketguard.text import neutralise
from socketguard.tokens.auth import JWTAuth, Verifier
from socketguard.tokens.claims import ANY
from socketguard.tokens.encoding import check_shape, decode_base64url, decode_json_object
from socketguard.tokens.keys import ALGORITHMS, StaticKeys, fitting

from . import CommandError
from .application import examine, load, parts_of
from .output import Printer, duration, explain, print_json, words
from .verifier import PUBLIC, Offline, offline, read_jwks, read_keys, read_token

__all__ = ["LONGEST", "command", "look"]

LONGEST = 86_400
"""The longest lifetime of a development token, in seconds: a day. Whoever finds one can't use it for long."""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LIFETIME = re.compile(r"(-?\d{1,9})([smhd]?)")
_DATES = {"exp": ("expires", "expired"), "nbf": ("begins", "began"), "iat": ("issued", "issued")}
_DATES["auth_time"] = ("signed in", "signed in")
_END_OF_TIME = 253_402_300_800  # the end of the year 9999, in seconds
# Claims that options of their own or this command set.
_OWN = frozenset({"exp", "iat", "dev"})
_SECRETS = tuple(name for name in ALGORITHMS if name.startswith("HS"))
# Without Ed25519, which PyJWT knows by its older name EdDSA only.
_SIGNING = tuple(name for name in PUBLIC if name in get_default_algorithms())
_MEANINGS = {
    "alg": "how it is signed",
    "typ": "what kind of token it is",
    "kid": "which key signed it",
    "iss": "who issued it",
    "sub": "who it is about",
    "aud": "which service it is for",
    "jti": "its own id, by which it can be revoked",
    "azp": "the client that it was issued to",
    "client_id": "the client that it was issued to",
    "scope": "what it grants",
}
_NOTICE = (
    "NOTICE: signed with socketguard.testing.TEST_SECRET, which everybody can read in the source of the package. Only "
    "a server that was made for tests may take this token. Give --key-file or --secret-env for any other."
)


@click.group(no_args_is_help=False)
def command() -> None:
    """Mint a development token, or explain a given one. Nothing is ever sent anywhere."""


def _read_key(secret: str | None, secret_env: str | None, key_file: str | None, app: str | None = None) -> bytes | None:
    """The secret or the PEM; None when none is given, or an application has it."""
    named = {"--key-file": key_file, "--secret-env": secret_env, "--secret": secret, "--app": app}
    if len(given := [name for name, value in named.items() if value is not None]) > 1:
        raise click.UsageError(f"{' and '.join(given)} are ways to say the same; give one")
    if secret is not None:
        return secret.encode("utf-8", "surrogateescape")
    if secret_env is not None:
        text = os.environ.get(secret_env)
        if not text:
            raise CommandError(f"the variable {words(secret_env)} is not set, or is empty")
        return text.encode("utf-8", "surrogateescape")
    if key_file is not None:
        try:
            return Path(key_file).read_bytes().strip()
        except OSError as exc:
            raise CommandError(f"the key file can't be read: {exc.strerror}") from None
    return None


def _key_options(function: Any) -> Any:
    """The options for `_read_key`."""
    for name, metavar, text in (
        ("--secret", "S", "The secret itself (others on this machine can read the command line)."),
        ("--secret-env", "NAME", "The environment variable that holds the secret."),
        ("--key-file", "FILE", "A file with the secret, or with a key as PEM."),
    ):
        function = click.option(name, metavar=metavar, help=text)(function)
    return function


# --- mint


@command.command("mint")
@_key_options
@click.option("--subject", default="dev", metavar="SUB", help="The claim sub (dev).")
@click.option("--issuer", metavar="ISS", help="The claim iss.")
@click.option("--audience", metavar="AUD", help="The claim aud.")
@click.option("--scope", metavar="SCOPE", help="The claim scope, such as 'crm:read crm:write'.")
@click.option(
    "--claim", "extra", multiple=True, metavar="NAME=VALUE", help="Another claim; JSON where it is, else text."
)
@click.option(
    "--lifetime",
    default="1h",
    metavar="TIME",
    help="15m, 1h or seconds; at most a day; --lifetime=-1m is expired already (1h).",
)
@click.option("--algorithm", type=click.Choice([*_SECRETS, *_SIGNING]), help="HS256, or what fits the key.")
@click.option("--kid", metavar="KID", help="The kid of the header.")
@click.option("--yes", is_flag=True, help="Take an issuer that looks real.")
def _mint(
    *, lifetime: str, extra: tuple[str, ...], algorithm: str | None, kid: str | None, yes: bool, **given: Any
) -> None:
    """Print a development token."""
    seconds = _lifetime(lifetime)
    now = int(time.time())
    claims: dict[str, Any] = {"sub": given.pop("subject"), "iat": now, "exp": now + seconds}
    named = {"iss": given.pop("issuer"), "aud": given.pop("audience"), "scope": given.pop("scope")}
    claims |= {name: value for name, value in named.items() if value is not None}
    claims |= dict(map(_claim, extra))
    issuers = claims.get("iss")
    if isinstance(issuers, str) and issuers.lower().startswith("https:") and not yes:
        text = "the issuer looks like a real one, and so would the token; write --yes if that is what you want, or "
        raise ConfigurationError(f"{text}--issuer dev", option="issuer")
    key = _read_key(**given)
    if key is None:
        print(_NOTICE, file=sys.stderr)
        key = TEST_SECRET.encode()
    fits, signing = _signing_key(key, algorithm)
    headers = {} if kid is None else {"kid": kid}
    print(jwt.encode({**claims, "dev": True}, signing, algorithm=fits, headers=headers))


def _lifetime(text: str) -> int:
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise ConfigurationError("lifetime is no time; write --lifetime 15m, 1h or 3600", option="lifetime")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not seconds:
        text = "lifetime is 0; write --lifetime 15m, or --lifetime=-1m for an expired token"
        raise ConfigurationError(text, option="lifetime")
    if abs(seconds) > LONGEST:
        text = "lifetime is more than a day, too long for a development token; write --lifetime 1d or less"
        raise ConfigurationError(text, option="lifetime")
    return seconds


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError("a claim has no value; write --claim tenant_id=acme", option="claim")
    if name in _OWN:
        why = "a development token says that it is one, and ends soon; see --lifetime"
        raise ConfigurationError(f"the claim {name} is this command's own: {why}", option="claim")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _signing_key(key: bytes, wanted: str | None) -> tuple[str, Any]:
    """The algorithm and the key to sign with."""
    if b"-----BEGIN" not in key:
        # It is as strict as the guard, that the token is of use.
        StaticKeys(key, (wanted or "HS256",))
        return wanted or "HS256", key
    for name in _SIGNING:
        try:
            private: Any = get_default_algorithms()[name].prepare_key(key)
        except (ValueError, TypeError, jwt.InvalidKeyError):
            continue
        known = fitting(private.public_key()) if hasattr(private, "private_bytes") else None
        if known is None:
            break
        _, fits = known
        if wanted is not None and wanted not in fits:
            raise ConfigurationError(f"the key fits {', '.join(fits)}; leave --algorithm out", option="algorithm")
        algorithm = wanted or fits[0]
        StaticKeys(private.public_key(), (algorithm,))
        return algorithm, private
    raise ConfigurationError(
        "the key file holds no private key that can be used without a password: RSA, EC on P-256, P-384 or P-521, "
        "Ed25519 or Ed448, as PEM",
        option="key_file",
    )


# --- inspect


@command.command("inspect")
@click.argument("token", required=False)
@click.option("--token-file", metavar="FILE", help="A file with the token.")
@_key_options
@click.option("--app", metavar="module:app", help="Try it against the guard of an application.")
@click.option("--jwks-file", metavar="FILE", help="A JWK Set, in place of what would be fetched.")
@click.option("--issuer", metavar="ISS", help="The expected iss.")
@click.option("--audience", metavar="AUD", help="The expected aud.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def _inspect(
    *, token: str | None, token_file: str | None, issuer: str | None, audience: str | None, as_json: bool, **given: Any
) -> int:
    """Explain a token: its header, its claims in words, and the rule that refuses it.

    TOKEN is the token, '-' for stdin, @FILE for a file (others can read the command line).
    """
    app, jwks_file = given["app"], given.pop("jwks_file")
    key = _read_key(**given)
    if (token is None) == (token_file is None):
        raise CommandError("give a token, '-' for stdin, or --token-file FILE")
    text = read_token(f"@{token_file}" if token is None else token)
    found = _verifier(app, jwks_file, key, issuer=issuer or ANY, audience=audience or ANY)
    shown: dict[str, Any] = {"header": None, "claims": None, "times": {}, "verdict": None}
    try:
        header_part, payload_part, signature_part = check_shape(text).split(b".")
        header = decode_json_object(header_part, "header")
        claims = decode_json_object(payload_part, "payload")
        decode_base64url(signature_part, "signature")
    except TokenError as exc:
        shown["verdict"] = _verdict(exc)
        _print(shown, [], as_json)
        return 1
    now = time.time() if found is None else found.auth.now()
    shown["header"] = {name: _safe(name, value) for name, value in header.items()}
    shown["claims"] = {name: _safe(name, value) for name, value in claims.items()}
    shown["times"] = {name: _date(name, claims[name], now) for name in _DATES if name in claims}
    if found is not None:
        try:
            found.auth.verify(text)
            # Whatever hangs on a signature that nobody has checked is not accepted yet.
            verdict: dict[str, Any] = {"accepted": None if found.unchecked else True}
        except TokenError as exc:
            verdict = _verdict(exc)
        shown["verdict"] = {**verdict, "signature_checked": not found.unchecked}
    missing = [] if app else [f"--{n}" for n, value in (("issuer", issuer), ("audience", audience)) if value is None]
    _print(shown, _remarks(header, claims, found, missing), as_json)
    return 0 if found is None or shown["verdict"]["accepted"] else 1


def _verdict(exc: TokenError) -> dict[str, Any]:
    verdict = {"accepted": False, "code": exc.code.value, "detail": exc.detail}
    return {**verdict, "text": explain(exc.detail, exc.fields), "fields": dict(exc.fields)}


def _verifier(app: str | None, jwks_file: str | None, key: bytes | None, **claims: Any) -> Offline | None:
    """What the token is tried against; None when there is nothing."""
    keys = None if jwks_file is None else read_jwks(jwks_file)
    if app is not None:
        guards = examine(*load(app)).guards
        credentials = parts_of(guards[0]).settings.auth if guards else None
        auth: Verifier | None = None if credentials is None else credentials.jwt
        if auth is None:
            raise CommandError(f"{app} has no guard that verifies tokens")
        return offline(auth, keys)
    if keys is not None:
        read_keys(keys)
        # The address is never asked: the keys come from the file.
        auth = JWTAuth(jwks_url="https://file.invalid/", fetch=_never, algorithms=PUBLIC, **claims)
        return offline(auth, keys)
    return None if key is None else Offline(JWTAuth(key, algorithms=_fitting(key), **claims))


async def _never(url: str) -> bytes:
    raise OSError("nothing is fetched")  # pragma: no cover - the keys come from the file


def _fitting(key: bytes) -> list[str]:
    """The algorithms that a key can be used with."""
    found, names = [], PUBLIC if b"-----BEGIN" in key else _SECRETS
    for name in names:
        with contextlib.suppress(ConfigurationError):
            StaticKeys(key, (name,))
            found.append(name)
    if not found:
        StaticKeys(key, names[:1])  # says why
    return found


def _remarks(
    header: Mapping[str, Any], claims: Mapping[str, Any], found: Offline | None, not_given: Sequence[str]
) -> list[str]:
    remarks = []
    if found is None:
        remarks.append(
            "Nothing was verified: give --app module:app, --key-file, --secret-env or --jwks-file to see whether it "
            "would be accepted, and if not, by which rule."
        )
    elif found.unchecked:
        remarks.append("The signature was NOT checked: its keys are on the network. Give them with --jwks-file.")
    if found is not None and not_given:
        remarks.append(f"Not checked, since not given: {' and '.join(not_given)}.")
    if str(header.get("alg")).lower() == "none":
        remarks.append("alg is none: nobody has signed it, and no server may take it.")
    if "exp" not in claims:
        remarks.append("There is no exp: if it is stolen, it works for ever.")
    remote = [name for name in ("jku", "jwk", "x5u", "x5c") if name in header]
    if remote:
        remarks.append(f"The header names a key of its own ({', '.join(remote)}). socketguard never looks at that.")
    return remarks


def _safe(name: str, value: Any) -> Any:
    """A value to show: whatever looks like a secret within the token is taken out."""
    text = json.dumps({name: value}, ensure_ascii=False)
    return value if RedactFilter().text(text, limit=len(text)) == text else "[redacted]"


def _date(name: str, value: Any, now: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no number of seconds"
    if not 0 <= value < _END_OF_TIME:
        return "no date before the year 10000; is it in milliseconds?"
    moment = datetime.datetime.fromtimestamp(value, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    future, past = _DATES[name]
    when = f"{past} {duration(now - value)} ago" if value <= now else f"{future} in {duration(value - now)}"
    return f"{when}, {moment}"


def _print(shown: dict[str, Any], remarks: list[str], as_json: bool) -> None:
    if as_json:
        print_json({**shown, "remarks": remarks})
        return
    printer = Printer(sys.stdout)
    for part in ("header", "claims"):
        if shown[part] is None:
            continue
        printer.text(f"{part.capitalize()}:")
        for name, value in shown[part].items():
            text = shown["times"].get(name) or words(value)
            meaning = f"  ({_MEANINGS[name]})" if name in _MEANINGS else ""
            printer.item("", f"{neutralise(name, 64)}: {text}{meaning}")
        printer.gap()
    if (verdict := shown["verdict"]) is not None:
        if verdict["accepted"]:
            printer.heading("Accepted", good=True)
        elif verdict["accepted"] is None:
            printer.text("Nothing but the signature is left to check.")
        else:
            printer.heading(f"Refused: {verdict['code']}", good=False)
            printer.item("rule", verdict["text"])
        printer.gap()
    for remark in remarks:
        printer.text(remark)


# --- a look at a token, for the doctor


def look(token: str, now: float) -> tuple[str, str]:
    """What a token says about itself, without its secret parts, and what is wrong with it; nothing is verified."""
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
    if not _is_time(expires):
        words.append("no exp")
    elif expires > now:
        words.append(f"expires in {_span(expires - now)}")
    else:
        words.append(f"expired {_span(now - expires)} ago")
        problem = f"it {words[-1]}"
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


def _span(seconds: float) -> str:
    for name, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
