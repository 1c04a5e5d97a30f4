"""Who keeps revocations, and who asks: the `Store` protocol, `MemoryStore`, and `Revocations`, which fails closed."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import inspect
import itertools
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from socketguard.check import called, function
from socketguard.connection import Identity
from socketguard.deadline import Escaped, Overdue, is_ours, run_until
from socketguard.errors import RETRY_AFTER, ConfigurationError, Refusal, RejectCode, SocketGuardError

__all__ = [
    "MemoryStore",
    "Revocation",
    "Revocations",
    "Store",
    "StoreFull",
    "StoreUnavailable",
    "revocation_for",
    "united",
]

# The end of the year 9999, in seconds. Dates beyond it are what nobody can represent, and milliseconds by mistake.
_END_OF_TIME = 253_402_300_800
# September 2001, long before the first JSON Web Token. What is less is no date but a duration by mistake.
_FIRST_DATE = 1_000_000_000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")

_CAPACITY = 100_000
# How many expired revocations one call removes, so that 100,000 that expired overnight don't stall the loop.
_PURGED_AT_ONCE = 32

_Key: TypeAlias = tuple[str | None, str | None, str | None]


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
    unknown: Sequence[str] = (),
) -> Revocation:
    """The `Revocation` that the arguments of ``guard.revoke()`` ask for.

    ``issuers`` are those that are configured, with ``{placeholders}`` as they were written; ``max_lifetime`` is the
    longest time from ``iat`` to ``exp`` of the issuer's tokens, and ``unknown`` names the kinds of credentials of which
    it is not known; ``known_expiry`` is the ``exp`` of the token of an open connection. Of two ends the later one
    counts.
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
        if unknown or max_lifetime is None:
            raise ConfigurationError(_unknown_lifetime(unknown), option="max_lifetime")
        # By default all of the running second too, because iat mostly has whole seconds.
        before = math.floor(now) + 1 if issued_before is None else _moment(issued_before, "issued_before", now)
        return Revocation(issuer, None, subject, before, before + max_lifetime + leeway)
    token_id = _name(token_id, "token_id")
    if token_id.startswith("eyJ") and token_id.count(".") == 2:
        raise ConfigurationError(
            "token_id is a whole token; write its id, such as current_connection().identity.token_id", option="token_id"
        )
    if issued_before is not None:
        raise ConfigurationError(
            "issued_before goes with subject; a token_id is of one token already", option="issued_before"
        )
    if expires_at is not None:
        end = max(_moment(expires_at, "expires_at", now), known_expiry or 0)
    elif known_expiry is not None:
        end = known_expiry
    elif max_lifetime is not None and not unknown:
        # It may have been issued just now, by a clock that is ahead.
        end = now + leeway + max_lifetime
    else:
        raise ConfigurationError(
            "when the token ends is not known, because no open connection has it; write "
            "revoke(token_id=…, expires_at=…) with its exp, or JWTAuth(max_lifetime=…)",
            option="expires_at",
        )
    return Revocation(issuer, token_id, None, None, end + leeway)


def _unknown_lifetime(unknown: Sequence[str]) -> str:
    """What is missing for the revocation of a subject."""
    others = ", ".join(name for name in unknown if name != "jwt")
    if not others:
        return (
            "how long the tokens of a subject live is not known, and so not how long they stay revoked; write "
            "JWTAuth(max_lifetime=…) with the longest lifetime that the issuer gives, in seconds"
        )
    return (
        f"credentials of {others} have no known lifetime, so that nobody can tell how long they would stay revoked: "
        "give the authenticator max_lifetime, and its identities issued_at and expires_at; or delete the credential "
        "where it is kept and call disconnect(subject=…). With issuer=… only the tokens of that issuer are revoked"
    )


def _issuer(issuer: Any, issuers: frozenset[str]) -> str | None:
    """The issuer that is meant; None when none is configured and so none told apart."""
    # A template stands for any number of issuers.
    templates = [name for name in issuers if _PLACEHOLDER.search(name)]
    known = ", ".join(sorted(issuers))
    if issuer is None:
        if len(issuers) > 1 or templates:
            raise ConfigurationError(
                f"there are several issuers, so that revoke() needs issuer=…, one of: {known}", option="issuer"
            )
        return next(iter(issuers), None)
    if not isinstance(issuer, str) or not issuer:
        raise ConfigurationError('issuer must be a non-empty string; write issuer="https://…"', option="issuer")
    if not issuers or (issuer in issuers and issuer not in templates):
        return issuer
    if issuer in templates or not any(_fits(issuer, template) for template in templates):
        advice = " with its own values in place of the {placeholders}" if templates else ""
        raise ConfigurationError(
            f"issuer is none of those that are configured; write one of: {known}{advice}", option="issuer"
        )
    return issuer


def _fits(issuer: str, template: str) -> bool:
    pattern = "[^/]+".join(re.escape(part) for part in _PLACEHOLDER.split(template))
    return re.fullmatch(pattern, issuer) is not None


def _name(value: Any, option: str) -> str:
    """A subject or a token id; as in a token, an integer is made a string."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ConfigurationError(f"{option} must be a non-empty string or an integer", option=option)


def _moment(value: Any, option: str, now: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
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


class StoreFull(SocketGuardError):
    """A store can't take another revocation without forgetting one that is still needed."""


class StoreUnavailable(SocketGuardError):
    """A store did not confirm a revocation in time. Whether it was kept is not known."""


@runtime_checkable
class Store(Protocol):
    """Keeps revocations. Both methods may be ordinary functions or ``async def``.

    What they raise, or take too long for, refuses the client (unless ``fail_open=True`` was written out). An ordinary
    function is called in the event loop and must not block it.
    """

    def revoke(self, revocation: Revocation) -> Awaitable[Any] | None:
        """Keep a revocation until its ``expires_at``.

        Args:
            revocation: what to keep. When there is one of the same issuer and token id, or the same issuer and
                subject, the later ``issued_before`` and the later ``expires_at`` hold.

        Raises:
            StoreFull: there is no room without forgetting another that is still needed.
        """
        ...

    def is_revoked(self, identity: Identity) -> Awaitable[bool] | bool:
        """Tell whether a revocation that is kept covers an identity; see `Revocation.covers`.

        Args:
            identity: what a verified token says.

        Returns:
            True or False; anything else counts as a failure of the store.
        """
        ...


class MemoryStore:
    """Keeps revocations in the memory of this process: they are lost at restart and unknown to other workers.

    A look-up takes the same short time however many there are. Expired ones make room when others are added, a few at
    a time. They go by the wall clock: when it jumps ahead and back again, those that seemed to expire in between
    may be gone.

    Args:
        capacity: how many revocations are kept at most; one takes about 500 bytes.
        clock: tells the time, in seconds since the epoch.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    @called("MemoryStore")
    def __init__(self, capacity: int = _CAPACITY, clock: Callable[[], float] = time.time) -> None:
        number: Any = capacity
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigurationError(
                f"capacity must be a whole number of revocations, at least 1; write capacity={_CAPACITY}",
                option="capacity",
            )
        function(clock, "clock", write="write a function that returns seconds since the epoch")
        self._capacity = capacity
        self._clock = clock
        self._kept: dict[_Key, Revocation] = {}
        # One entry for each revocation that is kept. It may be due too early, when that was prolonged since.
        self._due: list[tuple[float, int, _Key]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many are kept, with those that have expired and were not removed yet."""
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._kept)} of {self._capacity}>"

    def describe(self) -> dict[str, Any]:
        """What it is and how full, for a log line."""
        return {"kind": "memory", "capacity": self._capacity, "revocations": len(self._kept)}

    def revoke(self, revocation: Revocation) -> None:
        """Keep a revocation until its ``expires_at``; see `Store.revoke`.

        Args:
            revocation: what to keep. One that has expired already is not kept.

        Raises:
            StoreFull: ``capacity`` revocations are kept, and all of them are still needed.
        """
        now = self._clock()
        self._purge(now)
        if revocation.expires_at <= now:
            return
        key = (revocation.issuer, revocation.token_id, revocation.subject)
        known = self._kept.get(key)
        if known is not None and not known.expires_at <= now:
            self._kept[key] = united(known, revocation)
            return
        if known is None:
            if len(self._kept) >= self._capacity:
                raise StoreFull(
                    f"MemoryStore keeps {self._capacity} revocations and all of them are still needed, so that this "
                    f"one was not taken; write MemoryStore(capacity={self._capacity * 2}) or use a store that is shared"
                )
            heapq.heappush(self._due, (revocation.expires_at, next(self._count), key))
        self._kept[key] = revocation

    def is_revoked(self, identity: Identity) -> bool:
        """Tell whether a revocation that has not expired covers an identity; see `Revocation.covers`.

        Args:
            identity: what a verified token says.
        """
        issuer, token_id, subject = identity.issuer, identity.token_id, identity.subject
        # There is no key without a token id and a subject, so that nothing is found for what an identity lacks.
        for key in ((issuer, token_id, None), (issuer, None, subject), (None, token_id, None), (None, None, subject)):
            found = self._kept.get(key)
            # Written so that a clock of NaN refuses.
            if found is not None and not found.expires_at <= self._clock() and found.covers(identity):
                return True
        return False

    def _purge(self, now: float) -> None:
        """Remove some of what has expired, and more of it as long as there is no room for another."""
        due, kept = self._due, self._kept
        looked_at = 0
        while due and due[0][0] <= now and (looked_at < _PURGED_AT_ONCE or len(kept) >= self._capacity):
            looked_at += 1
            _, number, key = due[0]
            expires_at = kept[key].expires_at
            if expires_at <= now:
                heapq.heappop(due)
                del kept[key]
            else:
                heapq.heapreplace(due, (expires_at, number, key))


def united(first: Revocation, second: Revocation) -> Revocation:
    """One revocation for two with the same key, which revokes no less than either."""
    before = first.issued_before
    if before is not None and second.issued_before is not None:
        before = max(before, second.issued_before)
    expires_at = max(first.expires_at, second.expires_at)
    return Revocation(first.issuer, first.token_id, first.subject, before, expires_at)


class Revocations:
    """Asks a store whether a token was revoked; whatever the store does, there is an answer in time.

    A store that ignores its cancellation after ``timeout`` seconds takes `socketguard.deadline.GRACE` seconds more.
    """

    def __init__(
        self, store: Store, *, timeout: float, fail_open: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.available = True
        """Whether the store answers, as far as is known."""
        self._timeout = timeout
        self._fail_open = fail_open
        self._clock = clock
        self._changes: list[tuple[bool, BaseException | None]] = []
        self._under_way: list[Revocation] = []
        self._failures = 0
        self._failed_at = 0.0

    def changes(self) -> list[tuple[bool, BaseException | None]]:
        """What happened since the last call: (False, the error) when the store stopped answering, (True, None) when it
        answered again."""
        changes, self._changes = self._changes, []
        return changes

    def check(self, identity: Identity) -> Refusal | Awaitable[Refusal | None] | None:
        """None when a verified token may pass, ``token_revoked``, or ``keys_unavailable`` when there was no answer; an
        awaitable of that when the store is asynchronous."""
        if self._under_way and any(revocation.covers(identity) for revocation in self._under_way):
            return Refusal(RejectCode.TOKEN_REVOKED, "revoked")
        try:
            answer: Any = self.store.is_revoked(identity)
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return self._failed(exc)
        if answer is False and self.available:
            return None
        if inspect.isawaitable(answer):
            return self._wait(answer, self._failures)
        return self._answered(answer, self._failures)

    async def _wait(self, awaitable: Awaitable[Any], failures: int) -> Refusal | None:
        try:
            answer = await self._until(awaitable)
        except Overdue:
            return self._failed(TimeoutError(f"the store gave no answer within {self._timeout:g} s"))
        except Escaped as exc:
            return self._failed(exc.__cause__ or exc)
        except Exception as exc:
            return self._failed(exc)
        return self._answered(answer, failures)

    def _answered(self, answer: Any, failures: int) -> Refusal | None:
        if answer is not True and answer is not False:
            return self._failed(TypeError(f"is_revoked() must return True or False, not {type(answer).__name__}"))
        # Answers to questions from before the last failure don't tell that it is over.
        if not self.available and failures == self._failures:
            self.available = True
            self._changes.append((True, None))
        return Refusal(RejectCode.TOKEN_REVOKED, "revoked") if answer else None

    def _failed(self, error: BaseException) -> Refusal | None:
        self._failures += 1
        self._failed_at = self._clock()
        if self.available:
            self.available = False
            self._changes.append((False, error))
        if self._fail_open:
            return None
        return Refusal(RejectCode.KEYS_UNAVAILABLE, "store_unavailable", {"retry_after": RETRY_AFTER})

    def outage(self) -> int | None:
        """Whole seconds in which nobody need be let in who would have to be checked; None when the store answers, or
        when it is time to ask it again."""
        if self.available or self._fail_open:
            return None
        left = math.ceil(self._failed_at + RETRY_AFTER - self._clock())
        return left if left > 0 else None

    @contextlib.contextmanager
    def under_way(self, revocation: Revocation) -> Iterator[None]:
        """Refuse what a revocation covers while the store has not confirmed it yet."""
        self._under_way.append(revocation)
        try:
            yield
        finally:
            self._under_way.remove(revocation)

    async def revoke(self, revocation: Revocation) -> Any:
        """Hand a revocation to the store, and return what it returns. Raises what it raises; `StoreUnavailable` when it
        did not confirm in time."""
        answer: Any = self.store.revoke(revocation)
        if not inspect.isawaitable(answer):
            return answer
        try:
            return await self._until(answer)
        except Overdue:
            raise StoreUnavailable(
                f"the store did not confirm the revocation within {self._timeout:g} s, so that it may be lost; "
                "revoke once more"
            ) from None
        except Escaped as exc:
            raise StoreUnavailable("the store gave up before it confirmed the revocation; revoke once more") from exc

    async def _until(self, awaitable: Awaitable[Any]) -> Any:
        return await run_until(awaitable, asyncio.get_running_loop().time() + self._timeout)
