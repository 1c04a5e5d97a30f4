"""`Revocation`: which tokens are meant, and until when that has to be remembered. This module is pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from .connection import Identity
from .errors import ConfigurationError

__all__ = ["Revocation", "revocation_for"]

# The end of the year 9999, in seconds. Dates beyond it are what nobody can represent, and milliseconds by mistake.
_END_OF_TIME = 253_402_300_800
# September 2001, long before the first JSON Web Token. What is less is no date but a duration by mistake.
_FIRST_DATE = 1_000_000_000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revoked token, or all tokens of a subject up to a moment.

    Attributes:
        issuer: the ``iss`` of the tokens; None covers every issuer.
        token_id: the ``jti`` of the token; None when all tokens of ``subject`` are meant.
        subject: whose tokens; None when one token is meant.
        issued_before: of the subject's tokens those with an earlier ``iat``, in seconds since the epoch; a token
            without ``iat`` counts as earlier. None with ``token_id``.
        expires_at: until when it has to be kept, in seconds since the epoch: from then on the tokens are refused for
            their age.

    Raises:
        ConfigurationError: not exactly one of ``token_id`` and ``subject``, ``issued_before`` missing or out of
            place, or a time that is not finite.
    """

    issuer: str | None
    token_id: str | None
    subject: str | None
    issued_before: float | None
    expires_at: float

    def __post_init__(self) -> None:
        if (self.token_id is None) == (self.subject is None):
            raise ConfigurationError(
                "a Revocation is of one token_id or of one subject; give one of them and None for the other",
                option="token_id",
            )
        if (self.subject is None) != (self.issued_before is None):
            raise ConfigurationError(
                "issued_before goes with a subject: give both, or None for both", option="issued_before"
            )
        for option, value in (("issued_before", self.issued_before), ("expires_at", self.expires_at)):
            # Anything that is not ordered would break the order in which a store forgets.
            if value is not None and not math.isfinite(value):
                raise ConfigurationError(
                    f"{option} must be a finite number of seconds since the epoch, such as time.time() + 3600",
                    option=option,
                )

    def covers(self, identity: Identity) -> bool:
        """Tell whether the token of an identity is revoked by this, whatever the time is.

        Args:
            identity: what a verified token says. An anonymous one is never covered.
        """
        if self.issuer is not None and identity.issuer != self.issuer:
            return False
        if self.issued_before is None:
            return identity.token_id == self.token_id
        return identity.subject == self.subject and (
            identity.issued_at is None or identity.issued_at < self.issued_before
        )


def revocation_for(
    *,
    token_id: str | int | None,
    subject: str | int | None,
    issued_before: float | None,
    issuer: str | None,
    expires_at: float | None,
    issuers: frozenset[str],
    max_lifetime: float | None,
    leeway: float,
    now: float,
    known_expiry: float | None,
) -> Revocation:
    """Make the `Revocation` that the arguments of ``guard.revoke()`` ask for.

    Times are in seconds since the epoch.

    Args:
        token_id: the ``jti`` of one token.
        subject: whose tokens.
        issued_before: of the subject's tokens those with an earlier ``iat``. By default all up to now, those of the
            running second included, because ``iat`` mostly has whole seconds.
        issuer: the ``iss`` of the tokens; may be left out when only one is configured, or none.
        expires_at: the ``exp`` of the one token. When an open connection has that token and its ``exp`` is later, the
            later one counts.
        issuers: the issuers that are configured, with ``{placeholders}`` as they were written.
        max_lifetime: the longest time from ``iat`` to ``exp`` of the issuer's tokens, in seconds.
        leeway: how far clocks may differ, in seconds.
        now: the time.
        known_expiry: the ``exp`` of the token of an open connection.

    Raises:
        ConfigurationError: the arguments are wrong; the text names the one.
    """
    if (token_id is None) == (subject is None):
        raise ConfigurationError(
            'revoke() takes exactly one of token_id and subject; write revoke(token_id="…") for one token or '
            'revoke(subject="…") for all of a subject',
            option="token_id" if subject is None else "subject",
        )
    issuer = _issuer(issuer, issuers)
    if subject is not None:
        subject = _name(subject, "subject")
        if expires_at is not None:
            raise ConfigurationError(
                "expires_at goes with token_id; how long a subject's revocation is kept follows from max_lifetime",
                option="expires_at",
            )
        if max_lifetime is None:
            raise ConfigurationError(
                "how long the tokens of a subject live is not known, and so not how long they stay revoked; write "
                "JWTAuth(max_lifetime=…) with the longest lifetime that the issuer gives, in seconds",
                option="max_lifetime",
            )
        before = math.floor(now) + 1 if issued_before is None else _moment(issued_before, "issued_before", now)
        return Revocation(issuer, None, subject, before, before + max_lifetime + leeway)
    token_id = _token_id(token_id)
    if issued_before is not None:
        raise ConfigurationError(
            "issued_before goes with subject; a token_id is of one token already", option="issued_before"
        )
    if expires_at is not None:
        end = max(_moment(expires_at, "expires_at", now), known_expiry or 0)
    elif known_expiry is not None:
        end = known_expiry
    elif max_lifetime is not None:
        # It may have been issued just now, by a clock that is ahead.
        end = now + leeway + max_lifetime
    else:
        raise ConfigurationError(
            "when the token ends is not known, because no open connection has it; write "
            "revoke(token_id=…, expires_at=…) with its exp, or JWTAuth(max_lifetime=…)",
            option="expires_at",
        )
    return Revocation(issuer, token_id, None, None, end + leeway)


def _issuer(issuer: Any, issuers: frozenset[str]) -> str | None:
    """The issuer that is meant; None when none is configured and so none told apart."""
    # A template stands for any number of issuers.
    templates = [name for name in issuers if _PLACEHOLDER.search(name)]
    if issuer is None:
        if len(issuers) > 1 or templates:
            raise ConfigurationError(
                f"there are several issuers, so that revoke() needs issuer=…, one of: {_listed(issuers)}",
                option="issuer",
            )
        return next(iter(issuers), None)
    if not isinstance(issuer, str) or not issuer:
        raise ConfigurationError('issuer must be a non-empty string; write issuer="https://…"', option="issuer")
    if not issuers or (issuer in issuers and issuer not in templates):
        return issuer
    if issuer in templates or not any(_fits(issuer, template) for template in templates):
        advice = " with its own values in place of the {placeholders}" if templates else ""
        raise ConfigurationError(
            f"issuer is none of those that are configured; write one of: {_listed(issuers)}{advice}", option="issuer"
        )
    return issuer


def _fits(issuer: str, template: str) -> bool:
    pattern = "[^/]+".join(re.escape(part) for part in _PLACEHOLDER.split(template))
    return re.fullmatch(pattern, issuer) is not None


def _listed(issuers: frozenset[str]) -> str:
    return ", ".join(sorted(issuers))


def _name(value: Any, option: str) -> str:
    """A subject or a token id; as in a token, an integer is made a string."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ConfigurationError(f"{option} must be a non-empty string or an integer", option=option)


def _token_id(value: Any) -> str:
    token_id = _name(value, "token_id")
    if token_id.startswith("eyJ") and token_id.count(".") == 2:
        raise ConfigurationError(
            "token_id is a whole token; write its id, such as current_connection().identity.token_id",
            option="token_id",
        )
    return token_id


def _moment(value: Any, option: str, now: float) -> float:
    if not _is_number(value) or not value >= 0:
        raise ConfigurationError(
            f"{option} must be a number of seconds since the epoch; write {option}=moment.timestamp() for a datetime",
            option=option,
        )
    if value >= _END_OF_TIME:
        raise ConfigurationError(
            f"{option} lies after the year 9999; is it in milliseconds? Write it in seconds", option=option
        )
    if value < _FIRST_DATE <= now:
        raise ConfigurationError(
            f"{option} lies before any token; is it a duration? Write time.time() + {value:g}", option=option
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
