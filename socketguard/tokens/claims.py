"""Rules for what a verified token says: dates, issuer, audience, subject, scopes, other claims. This module is pure.

PyJWT has such rules too. These are stricter: a date must be a number within reach, and nothing is checked by accident.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from socketguard.check import function, names
from socketguard.connection import Identity
from socketguard.errors import ConfigurationError, RejectCode, TokenError
from socketguard.text import neutralise

from .templates import IssuerTemplate


class Unchecked(enum.Enum):
    """The type of `ANY`."""

    ANY = "ANY"

    def __repr__(self) -> str:
        return self.value


ANY: Final = Unchecked.ANY
"""Written as ``issuer=ANY`` or ``audience=ANY``: that claim is not checked, and may be there or not."""

Names: TypeAlias = str | Collection[str] | Unchecked | None
"""What ``issuer`` and ``audience`` may be."""

ScopeClaim: TypeAlias = str | Callable[[Mapping[str, Any]], Iterable[str] | None]
"""A claim's name, a dotted path to it, or a function of the claims."""

REQUIRE = ("exp", "sub")
_MAX_LEEWAY = 60
# The end of the year 9999, in seconds. Dates beyond it are what nobody can represent, and milliseconds by mistake.
_END_OF_TIME = 253_402_300_800
_URL = re.compile(r"https?://[^/?#{}]+/")
_OWN_OPTION = {
    **{"iss": "issuer=…", "aud": "audience=…", "exp": 'require=("exp", …)'},
    **{"nbf": "leeway=…", "iat": "max_lifetime=…"},
}
_TYPES: dict[type, str] = {
    **{str: "string", bool: "boolean", int: "number", float: "number"},
    **{list: "array", dict: "object", type(None): "null"},
}


class ClaimRules:
    """The rules of one verifier. Their options, and what is said when one is wrong, are those of `JWTAuth`."""

    def __init__(
        self,
        *,
        issuer: Names,
        audience: Names,
        leeway: float,
        require: Collection[str],
        subject_claim: str,
        token_id_claim: str,
        scope_claim: ScopeClaim,
        max_lifetime: float | None,
        claims: Mapping[str, Any] | None,
        templates: bool,
        clock: Callable[[], float],
    ) -> None:
        self.any_issuer = issuer is ANY
        self.any_audience = audience is ANY
        self.issuers = _one_or_more(issuer, "issuer", "https://login.example.com/")
        self.audiences = _one_or_more(audience, "audience", "crm")
        self._templates = tuple(_template(name, templates) for name in self.issuers if "{" in name or "}" in name)
        self._exact = tuple(name for name in self.issuers if "{" not in name)
        self.leeway = seconds(leeway, "leeway", lowest=0, highest=_MAX_LEEWAY)
        required = names(require, "require", example='("exp", "sub")')
        self._subject_claim = _claim_name(subject_claim, "subject_claim", "sub")
        self._token_id_claim = _claim_name(token_id_claim, "token_id_claim", "jti")
        self.require = ("exp",) if required == REQUIRE and subject_claim != "sub" else required
        self._scope_claim = scope_claim
        self._scope_path = _scope_path(scope_claim)
        self.max_lifetime = None if max_lifetime is None else seconds(max_lifetime, "max_lifetime", lowest=1)
        if max_lifetime is not None and "exp" not in self.require:
            raise ConfigurationError('max_lifetime needs "exp" in require: nothing else ends a token', option="require")
        self._claims = _expected_claims(claims)
        self.clock = function(clock, "clock", write="write a function that returns seconds since the epoch")

    @property
    def configuration(self) -> Hashable:
        """What makes two sets of rules equal."""
        checked = (self.issuers, self.any_issuer, self.audiences, self.any_audience, self.leeway, self.max_lifetime)
        named = (frozenset(self.require), self._subject_claim, self._token_id_claim, self._scope_claim)
        # 1 and True are equal in Python but not in JSON.
        return checked, named, repr(sorted(self._claims)), self.clock

    def describe(self) -> dict[str, Any]:
        """The rules for a log line. Times are in seconds."""
        return {
            "issuer": "ANY" if self.any_issuer else list(self.issuers),
            "audience": "ANY" if self.any_audience else list(self.audiences),
            "leeway": self.leeway,
            "require": list(self.require),
            "subject_claim": self._subject_claim,
            "token_id_claim": self._token_id_claim,
            "scope_claim": self.scopes_from,
            "max_lifetime": self.max_lifetime,
            "claims": {name: list(allowed) for name, allowed in self._claims},
        }

    @property
    def scopes_from(self) -> str:
        """The claim that scopes are read from, or the function that reads them."""
        claim = self._scope_claim
        return claim if isinstance(claim, str) else getattr(claim, "__qualname__", type(claim).__qualname__)

    def identity(
        self, claims: dict[str, Any], key_id: str | None, key_issuer: IssuerTemplate | None = None
    ) -> Identity:
        """Who a token is of whose signature holds. Of the claims, the dates are checked last.

        `key_issuer` is the only issuer whose tokens its key may verify; None for any.
        """
        # An exact match needs no closer look; whatever else there is gets one.
        if claims.get("iss") not in self._exact and (self.issuers or "iss" in claims):
            self._check_issuer(claims)
        if key_issuer is not None:
            _check_key_issuer(claims, key_issuer)
        if claims.get("aud") not in self.audiences and (self.audiences or "aud" in claims):
            self._check_audience(claims)
        # Only now, since a token of somebody else need not have what ours have.
        for name in self.require:
            if claims.get(name) is None:
                raise invalid("claim_missing", claim=name)
        if self._claims:
            self._check_claims(claims)
        subject = claims.get(self._subject_claim)
        if subject is None:
            raise invalid("claim_missing", claim=self._subject_claim)
        subject = _name(subject, self._subject_claim)
        if self._subject_claim != "sub" and "sub" in claims:
            _name(claims["sub"], "sub")
        # Both are checked, whichever of them counts.
        named = {name: _name(claims[name], name) for name in (self._token_id_claim, "jti") if name in claims}
        view = MappingProxyType(claims)
        scopes = self._scopes(view)
        issued_at, expires_at = self._check_dates(claims)
        token_id = named.get(self._token_id_claim)
        return Identity(subject, view, scopes, claims.get("iss"), token_id, key_id, issued_at, expires_at, "jwt")

    def unnamed(self, *, any_will_do: bool) -> list[str]:
        """Which of issuer and audience are not given: as `ANY` neither, unless that will do."""
        issuer = self.issuers or (any_will_do and self.any_issuer)
        audience = self.audiences or (any_will_do and self.any_audience)
        return [name for name, given in (("issuer", issuer), ("audience", audience)) if not given]

    def accepts_issuer(self, issuer: str) -> bool:
        """Whether an issuer may be accepted: for a template counts only whether it has that form."""
        return (
            not self.issuers or issuer in self._exact or any(template.has_form(issuer) for template in self._templates)
        )

    def matches_template(self, claims: Mapping[str, Any]) -> bool:
        """Whether ``iss`` is what a template of the issuer becomes with the token's own claims."""
        return any(each.filled(claims) == claims["iss"] for each in self._templates)

    def check_end(self, end: float, now: float) -> None:
        """Refuse a token that has expired. A clock of NaN refuses, as in every comparison of dates."""
        if not end > now - self.leeway:
            raise TokenError(RejectCode.TOKEN_EXPIRED, "expired", expired_s=round(now - end))

    def _check_issuer(self, claims: dict[str, Any]) -> None:
        if "iss" not in claims:
            raise invalid("claim_missing", claim="iss", expected=list(self.issuers))
        issuer = claims["iss"]
        if not isinstance(issuer, str):
            raise claim_type("iss", "a string", issuer)
        if self.issuers and not self.matches_template(claims):
            raise issuer_mismatch(self.issuers, issuer)

    def _check_audience(self, claims: dict[str, Any]) -> None:
        if "aud" not in claims:
            raise invalid("claim_missing", claim="aud", expected=list(self.audiences))
        audience = claims["aud"]
        values = [audience] if isinstance(audience, str) else audience
        if not isinstance(values, list):
            raise claim_type("aud", "a string or an array of strings", audience)
        if not all(isinstance(value, str) for value in values):
            raise claim_type("aud", "a string or an array of strings", audience)
        if self.any_audience or any(value in self.audiences for value in values):
            return
        hint = {"hint": "the token names an audience but JWTAuth has none; add audience=…"}
        if self.audiences:
            hint = _slash_hint(self.audiences, values)
        received = [shown(value) for value in values[:8]]
        raise invalid("audience_mismatch", expected=list(self.audiences), received=received, **hint)

    def _check_claims(self, claims: dict[str, Any]) -> None:
        for name, allowed in self._claims:
            value = claims.get(name)
            if value is None:
                raise invalid("claim_missing", claim=name, expected=list(allowed))
            if not any(type(value) is type(one) and value == one for one in allowed):
                raise invalid("claim_mismatch", claim=name, expected=list(allowed), received=shown(value))

    def _check_dates(self, claims: dict[str, Any]) -> tuple[float | None, float | None]:
        """Check ``nbf``, ``iat`` and ``exp``. Each comparison is written so that a clock of NaN refuses."""
        now = self.clock()
        if "nbf" in claims:
            self._check_begin(_date(claims["nbf"], "nbf"), now, "not_before")
        issued_at: float | None = None
        if "iat" in claims:
            issued_at = _date(claims["iat"], "iat")
            self._check_begin(issued_at, now, "issued_in_future")
        if "exp" not in claims:
            return issued_at, None
        # Whole seconds, as PyJWT counts: a token must not end later here than elsewhere.
        expires_at = int(_date(claims["exp"], "exp"))
        self.check_end(expires_at, now)
        if self.max_lifetime is not None:
            lifetime = expires_at - (now if issued_at is None else issued_at)
            if not lifetime <= self.max_lifetime:
                raise invalid("lifetime_too_long", lifetime_s=round(lifetime), limit_s=self.max_lifetime)
        return issued_at, expires_at

    def _check_begin(self, begin: float, now: float, detail: str) -> None:
        if not begin <= now + self.leeway:
            raise TokenError(RejectCode.TOKEN_NOT_YET_VALID, detail, valid_in_s=round(begin - now))

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        claim = self._scope_claim
        if not isinstance(claim, str):
            name, value = "scope_claim", claim(claims)
            if isinstance(value, Mapping | bytes | bytearray):
                # A list of it would have the keys alone: {"admin": False} is no scope.
                raise claim_type(name, "a string or an array of strings", value)
            if value is not None and not isinstance(value, str):
                value = list(value)
        else:
            name, value = claim, claims.get(claim)
            if self._scope_path and claim not in claims:
                value = claims
                for step in self._scope_path:
                    value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            return frozenset()
        if isinstance(value, str):
            return frozenset(filter(None, value.split(" ")))
        if not isinstance(value, list) or not all(isinstance(scope, str) for scope in value):
            raise claim_type(name, "a string or an array of strings", value)
        return frozenset(value)


def invalid(detail: str, **fields: Any) -> TokenError:
    """A refusal with the code ``token_invalid``."""
    return TokenError(RejectCode.TOKEN_INVALID, detail, **fields)


def claim_type(claim: str, expected: str, received: Any, **fields: str) -> TokenError:
    """The refusal of a claim that has the wrong type."""
    kind = _TYPES.get(type(received), type(received).__name__)
    return invalid("claim_type", claim=claim, expected=expected, received=kind, **fields)


def issuer_mismatch(expected: Collection[str], received: str) -> TokenError:
    """The refusal of a token by somebody else."""
    return invalid(
        "issuer_mismatch", expected=list(expected), received=shown(received), **_slash_hint(expected, (received,))
    )


def shown(value: Any) -> str:
    """What a log line may show of a value out of a token."""
    return neutralise(value, 256) if isinstance(value, str) else _TYPES[type(value)]


def seconds(value: Any, option: str, *, lowest: float, highest: float | None = None) -> float:
    """An option that is a number of seconds within limits."""
    most = sys.float_info.max if highest is None else highest
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= most:
        limits = f"of at least {lowest:g}, such as {option}=3600"
        if highest is not None:
            limits = f"from {lowest:g} to {highest:,g}; write {option}={highest:g} or less"
        raise ConfigurationError(f"{option} must be a number of seconds {limits}", option=option)
    return value


def _slash_hint(expected: Iterable[str], received: Iterable[str]) -> dict[str, str]:
    """The commonest mistake with URLs as names: a slash too many or too few."""
    stripped = {name.rstrip("/") for name in expected}
    if any(name.rstrip("/") in stripped for name in received):
        return {"hint": "they differ only by a trailing slash"}
    return {}


def _name(value: Any, claim: str) -> str:
    """A claim that names somebody or something; issuers also write numbers."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise claim_type(claim, "a non-empty string or an integer", value)


def _date(value: Any, claim: str) -> float:
    """A NumericDate (RFC 7519 section 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise claim_type(claim, "a number of seconds", value)
    if not -_END_OF_TIME < value < _END_OF_TIME:
        hint = "it lies after the year 9999; is it in milliseconds?"
        raise claim_type(claim, "a number of seconds", value, hint=hint)
    return value


def _one_or_more(value: Any, option: str, example: str) -> tuple[str, ...]:
    if value is None or value is ANY:
        return ()
    if isinstance(value, str):
        value = (value,)
    checked = names(value, option, example=f'"{example}"')
    if not checked:
        raise ConfigurationError(
            f'{option} is empty, so that no token would fit; write {option}="{example}", or {option}=ANY for no check',
            option=option,
        )
    return tuple(sorted(checked))


def _template(issuer: str, allowed: bool) -> IssuerTemplate:
    if not allowed:
        raise ConfigurationError(
            f"issuer {issuer!r} has a placeholder, which needs jwks_url; write the issuer out", option="issuer"
        )
    template = IssuerTemplate.parse(issuer)
    # A placeholder in the place of the host, or of iss itself, would let anybody be the issuer.
    if template is None or not _URL.match(template.parts[0]):
        raise ConfigurationError(
            f"issuer {issuer!r} has placeholders that can't be used: they stand in braces after the host and name a "
            'claim other than iss; write issuer="https://login.example.com/{tid}/v2.0"',
            option="issuer",
        )
    return template


def _check_key_issuer(claims: Mapping[str, Any], key_issuer: IssuerTemplate) -> None:
    """Check that the key of a token may verify tokens of its issuer. That ``iss`` is a string, if there, is known."""
    if "iss" in claims and key_issuer.filled(claims) == claims["iss"]:
        return
    expected = [shown(str(key_issuer))]
    if "iss" not in claims:
        raise invalid("claim_missing", claim="iss", expected=expected)
    hint = "the key that signed the token is published for that issuer only"
    raise invalid("issuer_mismatch", expected=expected, received=shown(claims["iss"]), hint=hint)


def _expected_claims(claims: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if claims is None:
        return ()
    example = 'write claims={"token_use": "access"}'
    if not isinstance(claims, Mapping) or not all(isinstance(name, str) and name for name in claims):
        raise ConfigurationError(f"claims must map names of claims to values; {example}", option="claims")
    rules = []
    for name, value in claims.items():
        if name in _OWN_OPTION:
            raise ConfigurationError(
                f"claims must not hold {name!r}, which has an option of its own; write {_OWN_OPTION[name]}",
                option="claims",
            )
        allowed = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
        if not allowed or not all(isinstance(one, str | int) and one != "" for one in allowed):
            raise ConfigurationError(
                f"claims has for {name!r} something else than a non-empty string, an integer, a boolean or a "
                f"collection of those; {example}",
                option="claims",
            )
        rules.append((name, tuple(sorted(allowed, key=repr))))
    return tuple(rules)


def _claim_name(claim: Any, option: str, example: str) -> str:
    if not isinstance(claim, str) or not claim:
        raise ConfigurationError(f'{option} must be the name of a claim; write {option}="{example}"', option=option)
    return claim


def _scope_path(claim: Any) -> tuple[str, ...]:
    """The steps of a dotted path; empty when there is no path to follow."""
    if isinstance(claim, str) and claim:
        return tuple(claim.split(".")) if "." in claim else ()
    write = 'write scope_claim="scope", a dotted path, or a synchronous function of the claims'
    if inspect.iscoroutinefunction(claim):
        raise ConfigurationError(f"scope_claim is an async function; {write}", option="scope_claim")
    function(claim, "scope_claim", "claims", write=write)
    return ()
