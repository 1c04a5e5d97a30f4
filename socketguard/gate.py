"""Whether a further session may be made at all: asked before one exists, while refusing costs next to nothing.

A refused handshake is the only refusal after which the back-off of stock clients grows, so that states of the whole
service are answered here. This module is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .connection import HandshakeRequest, address_key
from .errors import REPLIES, RETRY_AFTER, HandshakeRefusal, RejectCode
from .limits.counters import Ledger
from .limits.rates import AddressBudget

__all__ = ["Gate", "busy"]

_TOO_MANY_REQUESTS, _UNAVAILABLE = 429, 503


class Gate:
    """Decides on handshakes.

    Args:
        budget: what was refused to an address.
        ledger: how many sessions and connections there are.
        pending: tells how many sessions have joined no namespace.
        outage: tells in how many seconds tokens may be verified again; None when they can be now.
        on_proxy: called once for each private address that forwards others' requests without being trusted.
    """

    def __init__(
        self,
        budget: AddressBudget,
        ledger: Ledger,
        *,
        pending: Callable[[], int],
        outage: Callable[[], int | None],
        on_proxy: Callable[[str], None],
    ) -> None:
        self.draining = False
        self._budget = budget
        self._ledger = ledger
        self._pending = pending
        self._outage = outage
        self._on_proxy = on_proxy

    def refusal(self, request: HandshakeRequest) -> HandshakeRefusal | None:
        """Why this request may not become a session; None when it may."""
        if self.draining:
            return DRAINING
        address = request.client_address
        if request.forwarded_by is not None and self._budget.exempt(request.forwarded_by):
            # Everybody behind it would share one budget, and one client could lock out all the others.
            self._ledger.exempt.add(address_key(request.forwarded_by))
            self._on_proxy(request.forwarded_by)
        wait = self._budget.wait(address)
        if wait:
            return busy(
                RejectCode.RATE_LIMITED,
                _TOO_MANY_REQUESTS,
                math.ceil(wait),
                "this address was refused too often: see the lines of socketguard.connection.rejected before this one; "
                "the limit is failures_per_address",
            )
        outage = self._outage()
        if outage is not None:
            hint = "tokens can't be checked now: see socketguard.keys.unavailable and socketguard.store.unavailable"
            return busy(RejectCode.KEYS_UNAVAILABLE, _UNAVAILABLE, outage, hint)
        full = self._ledger.session_problem(address, self._pending())
        if full is None:
            return None
        # What one address has too many of is its own business; a full server is everybody's.
        status = _TOO_MANY_REQUESTS if full.endswith("_per_address") else _UNAVAILABLE
        return busy(RejectCode.CONNECTION_LIMIT, status, RETRY_AFTER, f"the limit {full} is reached")


def busy(code: RejectCode, status: int, retry_after: int, hint: str) -> HandshakeRefusal:
    """A refusal that passes: with ``Retry-After``."""
    reply = REPLIES[code]
    assert reply.retry is not None  # noqa: S101 - narrows the type: each of these codes has an advice
    return HandshakeRefusal(code.value, status, reply.message, hint, reply.retry, retry_after)


DRAINING = busy(RejectCode.DRAINING, _UNAVAILABLE, RETRY_AFTER, "the server is being stopped: see socketguard.drain")
