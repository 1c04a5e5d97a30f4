"""Who keeps revocations, and who asks: the `Store` protocol, `MemoryStore`, and `Revocations`, which fails closed."""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .connection import Identity
from .deadline import Escaped, Overdue, is_ours, run_until
from .errors import RETRY_AFTER, ConfigurationError, RejectCode, Rejection, SocketGuardError
from .revocations import Revocation, revocation_for

__all__ = [
    "MemoryStore",
    "Revocation",
    "Revocations",
    "Store",
    "StoreFull",
    "StoreUnavailable",
    "revocation_for",
]

# Seconds. JavaScript clients wait in silence for as long; more is most likely milliseconds.
_MAX_TIMEOUT = 60

_CAPACITY = 100_000

_PURGED_AT_ONCE = 32
"""How many expired revocations one call removes, so that 100,000 that expired overnight don't stall the loop."""

_Key: TypeAlias = tuple[str | None, str | None, str | None]


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

    def revoke(self, revocation: Revocation) -> Awaitable[None] | None:
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

    __slots__ = ("_capacity", "_clock", "_count", "_due", "_kept")

    def __init__(self, capacity: int = _CAPACITY, clock: Callable[[], float] = time.time) -> None:
        number: Any = capacity
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigurationError(
                f"capacity must be a whole number of revocations, at least 1; write capacity={_CAPACITY}",
                option="capacity",
            )
        if not callable(clock):
            raise ConfigurationError("clock must be a function that returns seconds since the epoch", option="clock")
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
            self._kept[key] = _united(known, revocation)
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
        kept = self._kept
        if not kept:
            return False
        issuer, token_id, subject = identity.issuer, identity.token_id, identity.subject
        # There is no key without a token id and a subject, so that nothing is found for what an identity lacks.
        return (
            ((found := kept.get((issuer, token_id, None))) is not None and self._holds(found, identity))
            or ((found := kept.get((issuer, None, subject))) is not None and self._holds(found, identity))
            or ((found := kept.get((None, token_id, None))) is not None and self._holds(found, identity))
            or ((found := kept.get((None, None, subject))) is not None and self._holds(found, identity))
        )

    def _holds(self, revocation: Revocation, identity: Identity) -> bool:
        # Written so that a clock of NaN refuses.
        return not revocation.expires_at <= self._clock() and revocation.covers(identity)

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


class Revocations:
    """Asks a store whether a token was revoked; whatever the store does, there is an answer in time.

    Args:
        store: where revocations are kept.
        timeout: how long it may take for an answer, in seconds. When it ignores its cancellation after that, up to
            `socketguard.deadline.GRACE` seconds more pass.
        fail_open: whether a token is let through when the store gives no answer.
        on_change: called with ``(False, the error)`` when the store stops answering, and with ``(True, None)`` when it
            answers again; once for each change.
        clock: seconds, monotonic.

    Attributes:
        store: the store.
        available: whether it answers, as far as is known.

    Raises:
        ConfigurationError: an option is wrong; the text names it.
    """

    __slots__ = ("_clock", "_fail_open", "_failed_at", "_failures", "_on_change", "_timeout", "available", "store")

    def __init__(
        self,
        store: Store,
        *,
        timeout: float,
        fail_open: bool,
        on_change: Callable[[bool, BaseException | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(store, type) or not isinstance(store, Store):
            raise ConfigurationError(
                "store must be an object with the methods revoke() and is_revoked(); write store=MemoryStore()",
                option="store",
            )
        seconds: Any = timeout
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MAX_TIMEOUT:
            raise ConfigurationError(
                f"store_timeout must be a number of seconds above 0 and at most {_MAX_TIMEOUT}; write store_timeout=2",
                option="store_timeout",
            )
        if not isinstance(fail_open, bool):
            raise ConfigurationError("fail_open must be True or False", option="fail_open")
        self.store = store
        self.available = True
        self._timeout = timeout
        self._fail_open = fail_open
        self._on_change = on_change
        self._clock = clock
        self._failures = 0
        self._failed_at = 0.0

    def check(self, identity: Identity) -> Rejection | Awaitable[Rejection | None] | None:
        """Check a token that was verified.

        Args:
            identity: what it says.

        Returns:
            None when it may pass, ``token_revoked``, or ``keys_unavailable`` when the store gave no answer; or an
            awaitable of that, to be awaited, when the store is asynchronous.
        """
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

    async def _wait(self, awaitable: Awaitable[Any], failures: int) -> Rejection | None:
        try:
            answer = await self._until(awaitable)
        except Overdue:
            return self._failed(TimeoutError(f"the store gave no answer within {self._timeout:g} s"))
        except Escaped as exc:
            return self._failed(exc.__cause__ or exc)
        except Exception as exc:
            return self._failed(exc)
        return self._answered(answer, failures)

    async def revoke(self, revocation: Revocation) -> None:
        """Hand a revocation to the store.

        Args:
            revocation: what to keep.

        Raises:
            StoreUnavailable: the store did not confirm it in time.
            Exception: whatever the store raises, such as `StoreFull`.
        """
        answer: Any = self.store.revoke(revocation)
        if not inspect.isawaitable(answer):
            return
        try:
            await self._until(answer)
        except Overdue:
            raise StoreUnavailable(
                f"the store did not confirm the revocation within {self._timeout:g} s, so that it may be lost; "
                "revoke once more"
            ) from None
        except Escaped as exc:
            raise StoreUnavailable("the store gave up before it confirmed the revocation; revoke once more") from exc

    async def _until(self, awaitable: Awaitable[Any]) -> Any:
        return await run_until(awaitable, asyncio.get_running_loop().time() + self._timeout)

    def _answered(self, answer: Any, failures: int) -> Rejection | None:
        if answer is not True and answer is not False:
            return self._failed(TypeError(f"is_revoked() must return True or False, not {type(answer).__name__}"))
        # Answers to questions from before the last failure don't tell that it is over.
        if not self.available and failures == self._failures:
            self.available = True
            self._on_change(True, None)
        return Rejection(RejectCode.TOKEN_REVOKED, "revoked") if answer else None

    def outage(self) -> int | None:
        """Whether it is of use to let anybody in who would have to be checked.

        Returns:
            None when the store answers, or when it is time to ask it again. Else the whole seconds until then.
        """
        if self.available or self._fail_open:
            return None
        left = math.ceil(self._failed_at + RETRY_AFTER - self._clock())
        return left if left > 0 else None

    def _failed(self, error: BaseException) -> Rejection | None:
        self._failures += 1
        self._failed_at = self._clock()
        if self.available:
            self.available = False
            self._on_change(False, error)
        if self._fail_open:
            return None
        return Rejection(RejectCode.KEYS_UNAVAILABLE, "store_unavailable", {"retry_after": RETRY_AFTER})


def _united(first: Revocation, second: Revocation) -> Revocation:
    """One revocation for two with the same key, which revokes no less than either."""
    before = first.issued_before
    if before is not None and second.issued_before is not None:
        before = max(before, second.issued_before)
    expires_at = max(first.expires_at, second.expires_at)
    return Revocation(first.issuer, first.token_id, first.subject, before, expires_at)
