"""How much one client, one subject or one address may take: `Limits`, and the counters behind them.

Nothing here grows with what strangers send: the number of addresses and names that are remembered is bounded, and what
is counted per connection goes when the connection goes. Belongs to one event loop. This module is pure.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from socketguard.connection import address_key
from socketguard.errors import ConfigurationError

from .rates import Rate

__all__ = ["Ledger", "Limits", "Refusals"]

_Key = TypeVar("_Key")
_NAMES_PER_SESSION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a guarded server bears. ``None`` turns one limit off. The defaults are choices of this package.

    They are meant never to be met by honest clients, also by many of them behind the one address of a company or a
    mobile network, and to keep a process of a few gigabytes alive under those that are not. Each process counts for
    itself.

    Attributes:
        connections: joined connections (sessions times namespaces) of this process.
        pending_sessions: sessions that have joined no namespace.
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            option = f"limits.{field.name}"
            if field.name in ("failures_per_address", "refreshes_per_connection"):
                Rate.parse(value, option=option)
            elif field.name == "send_timeout":
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                    raise ConfigurationError(
                        f"{option} is {value!r}; write seconds greater than 0, such as {field.default!r}, or None for "
                        "no limit",
                        option=option,
                    )
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"{option} is {value!r}; write a whole number of at least 1, such as {field.default!r}, or None "
                    "for no limit",
                    option=option,
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


class Ledger:
    """How many connections there are, by subject and by address, and how many sessions by address.

    What was not taken can't be released, so no count is ever negative, and an entry goes with the last that it counts.

    Attributes:
        exempt: addresses of proxies, or their `address_key`: counted, but no limit per address holds for them.
    """

    __slots__ = ("_by_address", "_by_subject", "_connections", "_limits", "_sessions", "_sessions_by_address", "exempt")

    def __init__(self, limits: Limits) -> None:
        """
        Args:
            limits: what must not be passed.
        """
        self._limits = limits
        self.exempt: set[str] = set()
        self._connections = 0
        self._sessions = 0
        # None stands for the anonymous, and for clients without an address: they have no limit of their own.
        self._by_subject: dict[tuple[str | None, str] | None, int] = {}
        self._by_address: dict[str | None, int] = {}
        self._sessions_by_address: dict[str | None, int] = {}

    @property
    def connections(self) -> int:
        """How many connections are taken."""
        return self._connections

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return self._sessions

    def take(self, subject: tuple[str | None, str] | None, address: str | None) -> str | None:
        """Count a connection that joins, unless a limit is full.

        Args:
            subject: issuer and subject of its token; None for the anonymous.
            address: of the client, or None.

        Returns:
            None when it is counted, else the name of the limit, and nothing is counted: ``connections``,
            ``connections_per_subject`` or ``connections_per_address``.
        """
        limits = self._limits
        key = None if address is None else address_key(address)
        of_subject = self._by_subject.get(subject, 0)
        of_address = self._by_address.get(key, 0)
        if _full(self._connections, limits.connections):
            return "connections"
        if subject is not None and _full(of_subject, limits.connections_per_subject):
            return "connections_per_subject"
        if _full(of_address, limits.connections_per_address) and not self._is_exempt(address, key):
            return "connections_per_address"
        self._connections += 1
        self._by_subject[subject] = of_subject + 1
        self._by_address[key] = of_address + 1
        return None

    def release(self, subject: tuple[str | None, str] | None, address: str | None) -> None:
        """Forget a connection that `take` has counted; nothing happens when it counts none like it.

        Args:
            subject: as it was taken.
            address: as it was taken.
        """
        key = None if address is None else address_key(address)
        if subject in self._by_subject and key in self._by_address:
            _decrease(self._by_subject, subject)
            _decrease(self._by_address, key)
            self._connections -= 1

    def open_session(self, address: str | None) -> None:
        """Count a session, whatever the limits are: ask `session_problem` before.

        Args:
            address: of the client, or None.
        """
        key = None if address is None else address_key(address)
        self._sessions_by_address[key] = self._sessions_by_address.get(key, 0) + 1
        self._sessions += 1

    def close_session(self, address: str | None) -> None:
        """Forget a session that `open_session` has counted; nothing happens when it counts none like it.

        Args:
            address: as it was opened.
        """
        key = None if address is None else address_key(address)
        if key in self._sessions_by_address:
            _decrease(self._sessions_by_address, key)
            self._sessions -= 1

    def session_problem(self, address: str | None, pending: int) -> str | None:
        """Ask whether one more session may be opened; nothing is counted.

        Args:
            address: of the client, or None.
            pending: how many sessions there are that have joined no namespace.

        Returns:
            The name of the limit that is full, ``connections``, ``pending_sessions`` or ``sessions_per_address``, or
            None.
        """
        limits = self._limits
        if _full(self._connections, limits.connections):
            return "connections"
        if _full(pending, limits.pending_sessions):
            return "pending_sessions"
        key = None if address is None else address_key(address)
        of_address = self._sessions_by_address.get(key, 0)
        if _full(of_address, limits.sessions_per_address) and not self._is_exempt(address, key):
            return "sessions_per_address"
        return None

    def _is_exempt(self, address: str | None, key: str | None) -> bool:
        return key is None or key in self.exempt or address in self.exempt


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

    __slots__ = ("_code", "_counts", "_total")

    def __init__(self) -> None:
        self._code: str | None = None
        # By hash of the name: as small for a name of 16 KiB as for a short one. Two names of one hash count as one,
        # which harms nobody but the client that made them.
        self._counts: dict[int | None, int] = {}
        self._total = 0

    def count(self, code: str, namespace: str, limits: Limits) -> tuple[bool, bool]:
        """Count one refusal.

        Args:
            code: the code of the refusal.
            namespace: the namespace that was asked for, as the client wrote it. 64 names are told apart; what comes
                beyond them shares one count, and each refusal of it counts as a repeat.
            limits: ``repeats_per_namespace`` and ``namespaces_per_session`` of them.

        Returns:
            Whether it counts against the address (the first of the session does, a further namespace refused for the
            same code for its first time doesn't, every other does), and whether the session has had too many: more
            than ``repeats_per_namespace`` of this namespace, or that times ``namespaces_per_session`` in all.
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
