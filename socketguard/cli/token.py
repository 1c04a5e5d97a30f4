"""``socketguard token``: mints development tokens, and explains given ones. Nothing is ever sent anywhere.

The exit status is 0 when all is good, 1 for a token that is malformed or refused or whose
signature could not be checked, and 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

from .application import LoadError, examine, load
from .check import SCHEMA_VERSION, USAGE, Parser, read_jwks, read_token
from .printer import Printer
from .rehearsal import Offline, offline, read_keys
from .words import duration, explain, words

__all__ = ["LONGEST", "main"]

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
_PUBLIC = tuple(name for name in ALGORITHMS if not name.startswith("HS"))
# Without Ed25519, which PyJWT knows by its older name EdDSA only.
_SIGNING = tuple(name for name in _PUBLIC if name in get_default_algorithms())
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


def main(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: those after ``token``.

    Returns:
        0, 1 or 2: see the module.

    Raises:
        SystemExit: by argparse, for ``--help`` and wrong usage.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (LoadError, ConfigurationError) as exc:
        print(f"socketguard token: {RedactFilter().text(str(exc))}", file=sys.stderr)
        return USAGE
    return status


# --- mint


def _mint(options: argparse.Namespace) -> int:
    lifetime = _lifetime(options.lifetime)
    now = int(time.time())
    claims: dict[str, Any] = {"sub": options.subject, "iat": now, "exp": now + lifetime}
    named = {"iss": options.issuer, "aud": options.audience, "scope": options.scope}
    claims |= {name: value for name, value in named.items() if value is not None}
    for text in options.claim:
        name, value = _claim(text)
        claims[name] = value
    issuers = claims.get("iss")
    if isinstance(issuers, str) and issuers.lower().startswith("https:") and not options.yes:
        raise ConfigurationError(
            "the issuer looks like a real one, and so would the token; write --yes if that is what you want, or "
            "--issuer dev",
            option="issuer",
        )
    key = _given_key(options)
    if key is None:
        print(_NOTICE, file=sys.stderr)
        key = TEST_SECRET.encode()
    algorithm, signing = _signing_key(key, options.algorithm)
    headers = {} if options.kid is None else {"kid": options.kid}
    print(jwt.encode({**claims, "dev": True}, signing, algorithm=algorithm, headers=headers))
    return 0


def _lifetime(text: str) -> int:
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise ConfigurationError("lifetime is no time; write --lifetime 15m, 1h or 3600", option="lifetime")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not seconds:
        raise ConfigurationError(
            "lifetime is 0; write --lifetime 15m, or --lifetime=-1m for an expired token", option="lifetime"
        )
    if abs(seconds) > LONGEST:
        raise ConfigurationError(
            "lifetime is more than a day, too long for a development token; write --lifetime 1d or less",
            option="lifetime",
        )
    return seconds


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError("a claim has no value; write --claim tenant_id=acme", option="claim")
    if name in _OWN:
        raise ConfigurationError(
            f"the claim {name} is this command's own: a development token says that it is one, and ends soon; see "
            "--lifetime",
            option="claim",
        )
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _signing_key(key: bytes, wanted: str | None) -> tuple[str, Any]:
    """The algorithm and the key to sign with."""
    if b"-----BEGIN" not in key:
        algorithm = wanted or "HS256"
        # It is as strict as the guard, that the token is of use.
        StaticKeys(key, (algorithm,))
        return algorithm, key
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


def _inspect(options: argparse.Namespace) -> int:
    if (options.token is None) == (options.token_file is None):
        raise LoadError("give a token, '-' for stdin, or --token-file FILE")
    token = read_token(options.token if options.token_file is None else f"@{options.token_file}")
    found = _verifier(options)
    shown: dict[str, Any] = {"header": None, "claims": None, "times": {}, "verdict": None}
    try:
        header_part, payload_part, signature_part = check_shape(token).split(b".")
        header = decode_json_object(header_part, "header")
        claims = decode_json_object(payload_part, "payload")
        decode_base64url(signature_part, "signature")
    except TokenError as exc:
        shown["verdict"] = _verdict(exc)
        _output(options, shown, [])
        return 1
    now = time.time() if found is None else found.auth.now()
    shown["header"] = {name: _safe(name, value) for name, value in header.items()}
    shown["claims"] = {name: _safe(name, value) for name, value in claims.items()}
    shown["times"] = {name: _date(name, claims[name], now) for name in _DATES if name in claims}
    if found is not None:
        try:
            found.auth.verify(token)
        except TokenError as exc:
            shown["verdict"] = {**_verdict(exc), "signature_checked": not found.unchecked}
        else:
            # Whatever hangs on a signature that nobody has checked is not accepted yet.
            accepted = None if found.unchecked else True
            shown["verdict"] = {"accepted": accepted, "signature_checked": not found.unchecked}
    _output(options, shown, _remarks(header, claims, found, options))
    return 0 if found is None or shown["verdict"]["accepted"] else 1


def _verdict(exc: TokenError) -> dict[str, Any]:
    return {
        "accepted": False,
        "code": exc.code.value,
        "detail": exc.detail,
        "text": explain(exc.detail, exc.fields),
        "fields": dict(exc.fields),
    }


def _verifier(options: argparse.Namespace) -> Offline | None:
    """What the token is tried against; None when there is nothing."""
    keys = None if options.jwks_file is None else read_jwks(options.jwks_file)
    if options.app is not None:
        app, module = load(options.app)
        guards = examine(app, module).guards
        auth: Verifier | None = guards[0].auth if guards else None
        if auth is None:
            raise LoadError(f"{options.app} has no guard that verifies tokens")
        return offline(auth, keys)
    claims: dict[str, Any] = {"issuer": options.issuer or ANY, "audience": options.audience or ANY}
    if keys is not None:
        read_keys(keys)
        # The address is never asked: the keys come from the file.
        auth = JWTAuth(jwks_url="https://file.invalid/", fetch=_never, algorithms=_PUBLIC, **claims)
        return offline(auth, keys)
    key = _given_key(options)
    return None if key is None else Offline(JWTAuth(key, algorithms=_fitting(key), **claims))


async def _never(url: str) -> bytes:
    raise OSError("nothing is fetched")


def _fitting(key: bytes) -> list[str]:
    """The algorithms that a key can be used with."""
    found, refusal = [], None
    for name in _PUBLIC if b"-----BEGIN" in key else _SECRETS:
        try:
            StaticKeys(key, (name,))
        except ConfigurationError as exc:
            refusal = refusal or exc
        else:
            found.append(name)
    if not found and refusal is not None:
        raise refusal
    return found


def _remarks(
    header: Mapping[str, Any], claims: Mapping[str, Any], found: Offline | None, options: argparse.Namespace
) -> list[str]:
    remarks = []
    if found is None:
        remarks.append(
            "Nothing was verified: give --app module:app, --key-file, --secret-env or --jwks-file to see whether it "
            "would be accepted, and if not, by which rule."
        )
    elif found.unchecked:
        remarks.append("The signature was NOT checked: its keys are on the network. Give them with --jwks-file.")
    if found is not None and options.app is None:
        open_ = [name for name in ("issuer", "audience") if getattr(options, name) is None]
        if open_:
            remarks.append(f"Not checked, since not given: {' and '.join(f'--{name}' for name in open_)}.")
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
    return (
        f"{past} {duration(now - value)} ago, {moment}"
        if value <= now
        else (f"{future} in {duration(value - now)}, {moment}")
    )


def _output(options: argparse.Namespace, shown: dict[str, Any], remarks: list[str]) -> None:
    if options.json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, **shown, "remarks": remarks}, indent=2, default=str))
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
    verdict = shown["verdict"]
    if verdict is not None:
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


# --- the command line


def _given_key(options: argparse.Namespace) -> bytes | None:
    """The secret or the PEM; None when none is given."""
    if options.secret is not None:
        key = str(options.secret).encode("utf-8", "surrogateescape")
    elif options.secret_env is not None:
        text = os.environ.get(options.secret_env)
        if not text:
            raise LoadError(f"the variable {words(options.secret_env)} is not set, or is empty")
        key = text.encode("utf-8", "surrogateescape")
    elif options.key_file is not None:
        try:
            key = Path(options.key_file).read_bytes().strip()
        except OSError as exc:
            raise LoadError(f"the key file can't be read: {exc.strerror}") from None
    else:
        return None
    return key


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="socketguard token",
        description="Mint a development token, or explain a given one. Nothing is ever sent anywhere.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    mint = commands.add_parser("mint", help="print a development token", description="Print a development token.")
    mint.set_defaults(run=_mint)
    _add_keys(mint)
    mint.add_argument("--subject", default="dev", help="the claim sub (dev)")
    mint.add_argument("--issuer", help="the claim iss")
    mint.add_argument("--audience", help="the claim aud")
    mint.add_argument("--scope", help="the claim scope, such as 'crm:read crm:write'")
    mint.add_argument(
        "--claim", action="append", default=[], metavar="NAME=VALUE", help="another claim; JSON where it is, else text"
    )
    mint.add_argument(
        "--lifetime", default="1h", help="15m, 1h or seconds; at most a day; --lifetime=-1m is expired already (1h)"
    )
    mint.add_argument("--algorithm", choices=(*_SECRETS, *_SIGNING), help="HS256, or what fits the key")
    mint.add_argument("--kid", help="the kid of the header")
    mint.add_argument("--yes", action="store_true", help="take an issuer that looks real")
    inspect = commands.add_parser(
        "inspect",
        help="explain a token",
        description="Explain a token: its header, its claims in words, and the rule that refuses it.",
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument(
        "token", nargs="?", help="the token, '-' for stdin, @FILE for a file (others can read the command line)"
    )
    inspect.add_argument("--token-file", metavar="FILE", help="a file with the token")
    against = _add_keys(inspect)
    against.add_argument("--app", metavar="module:app", help="try it against the guard of an application")
    inspect.add_argument("--jwks-file", metavar="FILE", help="a JWK Set, in place of what would be fetched")
    inspect.add_argument("--issuer", help="the expected iss")
    inspect.add_argument("--audience", help="the expected aud")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_keys(parser: argparse.ArgumentParser) -> Any:
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--key-file", metavar="FILE", help="a file with the secret, or with a key as PEM")
    keys.add_argument("--secret-env", metavar="NAME", help="the environment variable that holds the secret")
    keys.add_argument("--secret", help="the secret itself (others on this machine can read the command line)")
    return keys
