"""`Users`: the application's user behind an identity, loaded with the CONNECT and asked for again while it lives."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

from socketguard.connection import Connection, Identity
from socketguard.deadline import Overdue, call, cause_of, is_ours, retrieve, run_until
from socketguard.errors import RETRY_AFTER, Refusal, RejectCode
from socketguard.limits.timers import Timers

__all__ = ["Group", "LoadUser", "Users"]

LoadUser: TypeAlias = Callable[[Identity], object | Awaitable[object | None] | None]
"""Gets an `Identity` and returns the user, or None when there is no such user any more."""

_OF_THE_TOKEN = frozenset({"exp", "iat", "nbf", "jti"})
"""Claims that differ from token to token of the same user."""

_VOUCH = 3
"""So many others are asked about before None is believed; a bulk deletion seldom hits as many of the last ones."""

_REMEMBERED = 16
"""So many identities that had a user are remembered for that."""

_DOUBT = 5.0
"""Seconds for which it is not asked again whether None is an answer about everybody."""


class Group:
    """The connections whose identities are alike, so that one look-up serves them all.

    Attributes:
        key: what is alike.
        identity: that of one of them.
        connections: they themselves.
        asked: when there was an answer last, in seconds of the monotonic clock.
    """

    __slots__ = ("asked", "connections", "identity", "key", "timer")

    def __init__(self, key: Any, identity: Identity, asked: float) -> None:
        self.key = key
        self.identity = identity
        self.asked = asked
        self.connections: set[Connection] = set()
        self.timer: Any = None


class Users:
    """Who is behind the connections of one guard.

    At most ``at_once`` look-ups run at a time; half of them, for connections that live already.

    Attributes:
        failing: whether the last look-up has failed, so that users can't be loaded now.
    """

    def __init__(
        self, load: LoadUser, *, every: float | None, stale: float, at_once: int | None, timeout: float
    ) -> None:
        self._load = load
        self._every = every
        self._stale = stale
        self._timeout = timeout
        self._again = 32 if at_once is None else max(1, at_once // 2)
        self._slots = asyncio.Semaphore(10**6 if at_once is None else at_once)
        self._asking = 0
        self._loading: dict[Any, asyncio.Task[object | None]] = {}
        self._groups: dict[Any, Group] = {}
        self._group_of: dict[Connection, Group] = {}
        self._timers = Timers()
        self._good: OrderedDict[Any, tuple[float, Identity]] = OrderedDict()
        self._doubted = self._good_at = -math.inf
        self.failing = False
        self._changes: list[BaseException | None] = []

    # With the CONNECT, or with a fresh credential

    async def load(self, identity: Identity, deadline: float) -> tuple[object | None, Refusal | None]:
        """The user of an identity, or why it is refused."""
        key = _alike(identity)
        task = self._loading.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            # Several namespaces of one page ask at once.
            task = self._loading[key] = asyncio.get_running_loop().create_task(self._look_up(key, identity))
            task.add_done_callback(retrieve)
        try:
            user = await run_until(asyncio.shield(task), deadline)
        except BaseException as exc:
            if not is_ours(exc):
                raise
            name = type(cause_of(exc)).__name__
            fields = {"error": name, "retry_after": RETRY_AFTER}
            return None, Refusal(RejectCode.KEYS_UNAVAILABLE, "load_user_failed", fields)
        return user, None if user is not None else Refusal(RejectCode.ACCOUNT_DISABLED, "no_user")

    async def _look_up(self, key: Any, identity: Identity) -> object | None:
        """What the application says. Raises what it raises, and where None seems to be no answer."""
        try:
            user = await self._called(identity)
            if user is None and not await self._believed((identity.issuer, identity.subject)):
                raise LookupError("load_user returns None for everybody who is asked about")
        except Exception as exc:
            self._set(cause_of(exc))
            raise
        finally:
            self._loading.pop(key, None)
        self._set(None)
        return user

    async def _called(self, identity: Identity) -> object | None:
        began = asyncio.get_running_loop().time()
        async with self._slots:
            try:
                user: object | None = await run_until(call(self._load, identity), began + self._timeout)
            except Overdue:
                raise TimeoutError("load_user gave no answer in time") from None
        if user is not None:
            key = identity.issuer, identity.subject
            self._good_at = time.monotonic()
            self._good[key] = self._good_at, identity
            self._good.move_to_end(key)
            if len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)
            self._doubted = -math.inf
        return user

    async def _believed(self, whose: Any) -> bool:
        """Whether None is an answer about one user, and not a database that has lost everybody for a moment."""
        now = time.monotonic()
        if now - self._doubted < _DOUBT:
            return False
        lately = [(each, other) for each, (at, other) in self._good.items() if each != whose and now - at < self._stale]
        for _, other in lately[: -_VOUCH - 1 : -1]:
            if self._good_at >= now or await self._called(other) is not None:
                break
        else:
            if lately:
                self._doubted = time.monotonic()
                return False
        self._good.pop(whose, None)
        return True

    # While it lives

    def begin(self, connection: Connection) -> float:
        """Watch over a connection that has joined, and return in how many seconds it is due to be asked about."""
        if self._every is None or not connection.identity.is_authenticated:
            return math.inf
        self.end(connection)
        key, now = _alike(connection.identity), time.monotonic()
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, connection.identity, now)
            # At first spread over half of the time: after a restart all of them have come at once.
            self._set_timer(group, self._every * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        group.connections.add(connection)
        self._group_of[connection] = group
        return self._every

    def end(self, connection: Connection) -> None:
        """Watch no longer; any number of times."""
        group = self._group_of.pop(connection, None)
        if group is None:
            return
        group.connections.discard(connection)
        if not group.connections and self._groups.get(group.key) is group:
            self._timers.cancel(group.timer)
            del self._groups[group.key]

    @property
    def wait(self) -> float:
        """In how many seconds somebody is to be asked about; infinity when nobody is, or when all slots are taken."""
        return math.inf if self._asking >= self._again else self._timers.next - time.monotonic()

    def due(self) -> Iterator[Group]:
        """Whose turn has come, as many as may be asked about now; each is to be handed to `ask`."""
        while self._asking < self._again:
            group = next(self._timers.due(time.monotonic(), 1), None)
            if group is None:
                return
            group.timer = None
            self._asking += 1
            yield group

    async def ask(self, group: Group) -> str | None:
        """Ask about a group again; returns why its connections are to end, if they are."""
        try:
            user = await self._look_up(group.key, group.identity)
        except Exception:
            user, reason = None, None
            if time.monotonic() - group.asked > self._stale:
                reason = RejectCode.KEYS_UNAVAILABLE.value
        else:
            reason = RejectCode.ACCOUNT_DISABLED.value if user is None else None
        finally:
            self._asking -= 1
        if user is not None:
            group.asked = time.monotonic()
            for connection in group.connections:
                connection.user = user
        if reason is None and group.connections and self._every is not None:
            self._set_timer(group, self._every * random.uniform(0.9, 1.0))  # noqa: S311 - no secret
        return reason

    def _set_timer(self, group: Group, seconds: float) -> None:
        group.timer = self._timers.set(time.monotonic() + seconds, group)

    # Its state

    def _set(self, error: BaseException | None) -> None:
        if self.failing != (error is not None):
            self.failing = error is not None
            self._changes.append(error)

    def changes(self) -> list[BaseException | None]:
        """What has changed since the last call: the error that is raised now, or None when users are found again."""
        changes, self._changes = self._changes, []
        return changes

    def clear(self) -> None:
        """Watch over nobody any longer."""
        self._timers.clear()
        self._groups.clear()
        self._group_of.clear()


def _alike(identity: Identity) -> Any:
    """What the identities of one user have in common, whatever token they come from."""
    claims = {name: value for name, value in identity.claims.items() if name not in _OF_THE_TOKEN}
    text = json.dumps(claims, sort_keys=True, default=repr)
    return identity.credential, identity.issuer, identity.subject, identity.scopes, text
