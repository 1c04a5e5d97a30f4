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
    """So many of something in so much time, and so many at once.

    Attributes:
        count: how many, from 1 to 9,999,999.
        seconds: in which time: 1, 60, 3600 or 86400.
    """

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
        """Read a rate as it is written in options.

        Args:
            text: a number, ``/`` and ``second``, ``minute``, ``hour`` or ``day``, such as ``"30/minute"``.
            option: the option that holds it, for the error.

        Raises:
            ConfigurationError: it is written otherwise.
        """
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

    __slots__ = ("_stamp", "_tokens")

    def __init__(self) -> None:
        self._tokens, self._stamp = _UNTOUCHED

    def take(self, rate: Rate, now: float) -> float:
        """Take one token.

        Args:
            rate: how fast tokens come, and how many there may be.
            now: seconds of any clock, always the same. Should it go back, nothing comes in for that step.

        Returns:
            0.0 when it was taken, else the seconds until one will be there; nothing was taken then.
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

    # The buckets are tuples, not Bucket: the garbage collector leaves tuples of numbers alone, while 65,536 objects
    # would cost it 20 ms at a time.
    __slots__ = ("_buckets", "_capacity", "_clock", "_exempt", "_rate")

    def __init__(
        self, rate: Rate | None, *, clock: Callable[[], float] = time.monotonic, capacity: int = 65_536
    ) -> None:
        """
        Args:
            rate: how many failures in how much time are borne; None for any number.
            clock: seconds, monotonic.
            capacity: how many addresses are remembered, at least 1. Each takes about 300 bytes.

        Raises:
            ConfigurationError: a capacity below 1.
        """
        if capacity < 1:
            raise ConfigurationError(f"capacity is {capacity!r}; write a whole number of at least 1", option="capacity")
        self._rate = rate
        self._clock = clock
        self._capacity = capacity
        # Tokens and the time at which there were as many; the address that failed last comes last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._exempt: set[str] = set()

    def __len__(self) -> int:
        """How many addresses are remembered, exempt ones not counted."""
        return len(self._buckets)

    def fail(self, address: str | None) -> None:
        """Count one failure.

        A budget that is used up stays so: further failures are not owed, so that whoever stops gets on again soon.

        Args:
            address: of the client; None when it has none, which is not counted.
        """
        rate = self._rate
        if rate is None or address is None:
            return
        key = address_key(address)
        if key in self._exempt:
            return
        now = self._clock()
        buckets = self._buckets
        tokens, stamp = buckets.pop(key, _UNTOUCHED)
        if len(buckets) >= self._capacity:
            buckets.popitem(last=False)
        buckets[key] = (max(_refill(tokens, stamp, rate, now) - 1.0, 0.0), now)
        self._forget(rate, now)

    def wait(self, address: str | None) -> float:
        """Ask whether an address is within its budget; nothing is counted.

        Args:
            address: of the client, or None.

        Returns:
            0.0 when it is, else the seconds until it is again.
        """
        rate = self._rate
        if rate is None or address is None or not self._buckets:
            return 0.0
        now = self._clock()
        self._forget(rate, now)
        key = address_key(address)
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        tokens, stamp = bucket
        if now < stamp:
            # The clock was set back: count on from here, or nothing would come in until it has caught up.
            self._buckets[key] = (tokens, now)
        return _wait(_refill(tokens, stamp, rate, now), rate)

    def exempt(self, address: str) -> bool:
        """Count nothing of this address any more: it is a proxy's, and many clients share it.

        Args:
            address: of the proxy; of an IPv6 address all of its /64 is meant.

        Returns:
            True when it became exempt just now. False when it was already, and when 4,096 others are: then it counts
            as an address like any other.
        """
        key = address_key(address)
        if key in self._exempt or len(self._exempt) >= _EXEMPT_LIMIT:
            return False
        self._exempt.add(key)
        self._buckets.pop(key, None)
        return True

    def _forget(self, rate: Rate, now: float) -> None:
        # Two at a time, one more than a call can add: after a flood they all go, and no call pays for it.
        for _ in range(2):
            key = next(iter(self._buckets), None)
            if key is None or now - self._buckets[key][1] < rate.seconds:
                return
            del self._buckets[key]
