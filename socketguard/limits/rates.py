"""Rates and budgets: how often something may happen."""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from socketguard.connection import address_key
from socketguard.errors import ConfigurationError

__all__ = ["AddressBudget", "Bucket", "Rate"]

_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_NAMES = {seconds: name for name, seconds in _UNITS.items()}
_RATE = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour|day)")

_EXEMPT_LIMIT = 4096

# Parts of a token: how much of one may be missing, since (now + wait) - now is not quite wait in floating point. The
# missing part stays owed, so that the rate over time is kept.
_TOLERANCE = 0.001

_UNTOUCHED = (0.0, -math.inf)  # tokens, and the time at which there were as many: a full bucket, whatever its size


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of something in so much time, and so many at once."""

    count: int
    seconds: float

    def __post_init__(self) -> None:
        if self.seconds not in _NAMES or _RATE.fullmatch(str(self)) is None:
            raise ConfigurationError(
                f"Rate({self.count!r}, {self.seconds!r}): count is a whole number from 1 to 9999999, seconds is "
                "1, 60, 3600 or 86400",
                option="rate",
            )

    @classmethod
    def parse(cls, text: object, *, option: str) -> Self:
        """The rate that a text such as ``"30/minute"`` gives; the option is for the error."""
        match = _RATE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigurationError(
                f"{option} is {text!r}; write a whole number from 1 to 9999999, '/' and second, minute, hour or day: "
                "'30/minute'",
                option=option,
            )
        return cls(int(match[1]), _UNITS[match[2]])

    def __str__(self) -> str:
        return f"{self.count}/{_NAMES[self.seconds]}"


def _refill(tokens: float, stamp: float, rate: Rate, now: float) -> float:
    """The tokens that there are now, of those that there were at ``stamp``."""
    elapsed = now - stamp
    if elapsed > 0.0:
        tokens += elapsed * rate.count / rate.seconds
    return tokens if tokens < rate.count else float(rate.count)


def _wait(tokens: float, rate: Rate) -> float:
    missing = 1.0 - tokens
    return missing * rate.seconds / rate.count if missing > _TOLERANCE else 0.0


class Bucket:
    """A token bucket (RFC 3290, appendix A) of one place; it starts full and holds a whole ``rate.count``."""

    def __init__(self) -> None:
        self._tokens, self._stamp = _UNTOUCHED

    def take(self, rate: Rate, now: float) -> float:
        """0.0 when a token was taken, else the seconds until there is one.

        Should the clock go back, nothing comes in for that step.
        """
        tokens = _refill(self._tokens, self._stamp, rate, now)
        wait = _wait(tokens, rate)
        self._tokens = tokens if wait else tokens - 1.0
        self._stamp = now
        return wait


class AddressBudget:
    """How often an address may fail, in bounded memory.

    Each address that failed has a token bucket, until it is full again. When there are too many addresses, those go
    first that have not failed for the longest time: to forget errs on the side of the client, and nobody pays for the
    failures of another address. No call costs more than a constant number of look-ups, however many there are.
    """

    def __init__(
        self, rate: Rate | None, *, clock: Callable[[], float] = time.monotonic, capacity: int = 65_536
    ) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity is {capacity!r}; write a whole number of at least 1", option="capacity")
        self._rate = rate
        self._clock = clock
        self._capacity = capacity
        # Tokens and the time at which there were as many; the address that failed last comes last. They are tuples, not
        # Bucket: the garbage collector leaves tuples of numbers alone, while 65,536 objects would cost it 20 ms at a
        # time. An address takes about 300 bytes.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._exempt: set[str] = set()

    def __len__(self) -> int:
        """How many addresses are remembered, exempt ones not counted."""
        return len(self._buckets)

    def fail(self, address: str | None, tried: int | None = None) -> None:
        """Count one failure of an address, with what was ``tried``.

        What is tried again has a budget of its own, and counts for the address only once until that is full again: a
        page in a loop is one failure of its address. A budget that is used up stays so: further failures are not owed,
        so that whoever stops gets on again soon.
        """
        rate = self._rate
        if rate is None or address is None:
            return
        key = address_key(address)
        if key in self._exempt:
            return
        now = self._clock()
        if tried is not None:
            page = f"{key} {tried}"
            again = page in self._buckets
            self._count(page, rate, now)
            if again:
                return
        self._count(key, rate, now)

    def _count(self, key: str, rate: Rate, now: float) -> None:
        buckets = self._buckets
        tokens, stamp = buckets.pop(key, _UNTOUCHED)
        if len(buckets) >= self._capacity:
            buckets.popitem(last=False)
        buckets[key] = (max(_refill(tokens, stamp, rate, now) - 1.0, 0.0), now)
        self._forget(rate, now)

    def wait(self, address: str | None, tried: int | None = None) -> float:
        """0.0 when an address, or what was ``tried`` there, is within its budget, else the seconds until it is again.

        Nothing is counted.
        """
        rate = self._rate
        if rate is None or address is None or not self._buckets:
            return 0.0
        now = self._clock()
        self._forget(rate, now)
        key = address_key(address) if tried is None else f"{address_key(address)} {tried}"
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        tokens, stamp = bucket
        if now < stamp:
            # The clock was set back: count on from here, or nothing would come in until it has caught up.
            self._buckets[key] = (tokens, now)
        return _wait(_refill(tokens, stamp, rate, now), rate)

    def exempt(self, address: str) -> bool:
        """Count nothing of a proxy's address any more (of an IPv6 address all of its /64); whether that is news.

        Not so when 4,096 others are exempt: then it counts as an address like any other.
        """
        key = address_key(address)
        if key in self._exempt or len(self._exempt) >= _EXEMPT_LIMIT:
            return False
        self._exempt.add(key)
        self._buckets.pop(key, None)
        return True

    def _forget(self, rate: Rate, now: float) -> None:
        # Three at a time, one more than a call can add: after a flood they all go, and no call pays for it.
        for _ in range(3):
            key = next(iter(self._buckets), None)
            if key is None or now - self._buckets[key][1] < rate.seconds:
                return
            del self._buckets[key]
