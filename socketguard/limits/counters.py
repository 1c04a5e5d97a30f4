"""How much one client, one subject or one address may take: `Limits`, and the counters behind them.

Nothing here grows with what strangers send: the number of addresses and names that are remembered is bounded, and what
is counted per connection goes when the connection goes. Belongs to one event loop. This module is pure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from socketguard.check import called, seconds
from socketguard.connection import address_key
from socketguard.errors import ConfigurationError

from .rates import Rate

__all__ = ["PENDING_SHARE", "Ledger", "Limits", "Refusals"]

_Key = TypeVar("_Key")
_NAMES_PER_SESSION = 64


@called("Limits")
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a guarded server bears. ``None`` turns one limit off. The defaults are choices of this package.

    They are meant never to be met by honest clients, also by many of them behind the one address of a company or a
    mobile network, and to keep a process of a few gigabytes alive under those that are not. Each process counts for
    itself.

    Attributes:
        connections: joined connections (sessions times namespaces) of this process.
        pending_sessions: sessions that have joined no namespace; one address may have as many as are still free.
        connections_per_subject: joined connections of one subject of one issuer.
        connections_per_address: joined connections of one address; an IPv6 address counts as its /64.
        sessions_per_address: sessions of one address, whether they joined or not.
        failures_per_address: refused attempts of one address, such as ``"30/minute"``; see `Refusals` for which.
        repeats_per_namespace: refusals of one namespace within one session.
        namespaces_per_session: namespaces that one session may join.
        connect_packet_bytes: bytes of a frame or body of a session that has joined no namespace.
        queue_bytes: bytes (characters of text) emitted to a client and not yet sent.
        send_timeout: seconds for which nothing of what waits for a client may have been sent.
        refreshes_per_connection: tokens that one connection may present after it joined, such as ``"10/minute"``.
        lookups: calls of ``load_user`` that run at a time.

    Raises:
        ConfigurationError: a value that is no such number or rate; its option is ``limits.<name>``.
    """

    connections: int | None = 20_000
    pending_sessions: int | None = 5_000
    connections_per_subject: int | None = 100
    connections_per_address: int | None = 5_000
    sessions_per_address: int | None = 5_000
    failures_per_address: str | None = "30/minute"
    repeats_per_namespace: int | None = 10
    namespaces_per_session: int | None = 16
    connect_packet_bytes: int | None = 16_384
    queue_bytes: int | None = 1_048_576
    send_timeout: float | None = 30.0
    refreshes_per_connection: str | None = "10/minute"
    lookups: int | None = 16

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), f"limits.{field.name}"
            unless = f"such as {field.default!r}, or None for no limit"
            if value is None:
                continue
            if isinstance(field.default, str):
                Rate.parse(value, option=option)
            elif isinstance(field.default, float):
                seconds(value, option, example=field.default, write=f"write seconds greater than 0, {unless}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"{option} is {value!r}; write a whole number of at least 1, {unless}", option=option
                )

    @property
    def failure_rate(self) -> Rate | None:
        """``failures_per_address`` as a `Rate`; parsed at each call."""
        text = self.failures_per_address
        return None if text is None else Rate.parse(text, option="limits.failures_per_address")

    @property
    def refresh_rate(self) -> Rate | None:
        """``refreshes_per_connection`` as a `Rate`; parsed at each call."""
        text = self.refreshes_per_connection
        return None if text is None else Rate.parse(text, option="limits.refreshes_per_connection")

    def describe(self) -> dict[str, Any]:
        """All limits by name, for a log line."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


PENDING_SHARE = "pending_sessions_per_address"
"""No limit of its own: as many of ``pending_sessions`` as are still free."""


class Ledger:
    """How many connections there are, by subject and by address, and how many sessions by address.

    What was not taken can't be released, so no count is ever negative, and an entry goes with the last that it counts.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.exempt: set[str] = set()
        """Addresses of proxies, or their `address_key`: counted, but no limit per address holds for them."""
        self.connections = 0
        self.sessions = 0
        # None stands for the anonymous, and for clients without an address: they have no limit of their own.
        self.by_subject: dict[tuple[str | None, str] | None, int] = {}
        self.by_address: dict[str | None, int] = {}
        self.sessions_by_address: dict[str | None, int] = {}
        self.pending = 0
        self.pending_by_address: dict[str | None, int] = {}

    def take(self, subject: tuple[str | None, str] | None, address: str | None) -> str | None:
        """Count a connection of a subject of an issuer (None: anonymous); when a limit is full, only give its name."""
        limits = self._limits
        key = _key(address)
        of_subject = self.by_subject.get(subject, 0)
        of_address = self.by_address.get(key, 0)
        if _full(self.connections, limits.connections):
            return "connections"
        if subject is not None and _full(of_subject, limits.connections_per_subject):
            return "connections_per_subject"
        if _full(of_address, limits.connections_per_address) and not self._is_exempt(address, key):
            return "connections_per_address"
        self.connections += 1
        self.by_subject[subject] = of_subject + 1
        self.by_address[key] = of_address + 1
        return None

    def release(self, subject: tuple[str | None, str] | None, address: str | None) -> None:
        """Forget a connection as it was taken; nothing happens when none like it is counted."""
        key = _key(address)
        if subject in self.by_subject and key in self.by_address:
            _decrease(self.by_subject, subject)
            _decrease(self.by_address, key)
            self.connections -= 1

    def open_session(self, address: str | None) -> None:
        """Count a session, whatever the limits are: ask `session_problem` before."""
        key = _key(address)
        self.sessions_by_address[key] = self.sessions_by_address.get(key, 0) + 1
        self.sessions += 1

    def close_session(self, address: str | None) -> None:
        """Forget a session as it was opened; nothing happens when none like it is counted."""
        key = _key(address)
        if key in self.sessions_by_address:
            _decrease(self.sessions_by_address, key)
            self.sessions -= 1

    def wait(self, address: str | None) -> None:
        """Count a session that has joined no namespace."""
        key = _key(address)
        self.pending_by_address[key] = self.pending_by_address.get(key, 0) + 1
        self.pending += 1

    def settle(self, address: str | None) -> None:
        """Forget such a session as it was counted: it has joined, or ended."""
        _decrease(self.pending_by_address, _key(address))
        self.pending -= 1

    def session_problem(self, address: str | None) -> str | None:
        """The name of the limit that forbids one more session, or None.

        Of the sessions that have joined nothing, an address may have as many as are still free: one alone gets half of
        them, and however many addresses take all that they can, something is left for another one (a dynamic
        threshold, as switches have for shared buffers: Choudhury and Hahne, 1998).
        """
        limits = self._limits
        if _full(self.connections, limits.connections):
            return "connections"
        most = limits.pending_sessions
        if _full(self.pending, most):
            return "pending_sessions"
        key = _key(address)
        if self._is_exempt(address, key):
            return None
        if _full(self.sessions_by_address.get(key, 0), limits.sessions_per_address):
            return "sessions_per_address"
        if most is not None and self.pending_by_address.get(key, 0) >= most - self.pending:
            return PENDING_SHARE
        return None

    def waiting(self, address: str | None) -> int:
        """How many sessions of an address have joined nothing."""
        return self.pending_by_address.get(_key(address), 0)

    def _is_exempt(self, address: str | None, key: str | None) -> bool:
        return key is None or key in self.exempt or address in self.exempt


def _key(address: str | None) -> str | None:
    """What an address is counted under; None for clients without one."""
    return None if address is None else address_key(address)


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _decrease(counts: dict[_Key, int], key: _Key) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]


class Refusals:
    """The refusals of one session: which of them count against the address, and when there are too many.

    A client with one expired token asks for three namespaces and is refused three times; that is one failure. To ask
    for the same namespace again is another.
    """

    def __init__(self) -> None:
        self._code: str | None = None
        # By hash of the name: as small for a name of 16 KiB as for a short one. Two names of one hash count as one,
        # which harms nobody but the client that made them.
        self._counts: dict[int | None, int] = {}
        self._total = 0

    def count(self, code: str, namespace: str, limits: Limits) -> tuple[bool, bool]:
        """Count one refusal: whether it counts against the address, and whether the session has had too many.

        The first of the session counts against the address; a further namespace refused for the same code for its first
        time doesn't; every other does. Too many are more than ``repeats_per_namespace`` of one namespace, or that times
        ``namespaces_per_session`` in all. Beyond 64 names the rest share one count, each of them a repeat.
        """
        counts = self._counts
        key: int | None = hash(namespace)
        if key not in counts and len(counts) >= _NAMES_PER_SESSION:
            key = None
        of_name = counts[key] = counts.get(key, 0) + 1
        self._total += 1
        if self._code is None:
            self._code = code
            costs = True
        else:
            costs = key is None or of_name > 1 or code != self._code
        repeats, names = limits.repeats_per_namespace, limits.namespaces_per_session
        if repeats is None:
            return costs, False
        return costs, of_name > repeats or (names is not None and self._total > repeats * names)
