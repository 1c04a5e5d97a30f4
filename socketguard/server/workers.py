"""This worker among others that share a store: it says that it lives, and does what the others ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from socketguard.connection import Connection
from socketguard.deadline import run_until
from socketguard.errors import Refusal, RejectCode
from socketguard.limits.revocation import Revocation, Revocations
from socketguard.limits.shared import Beat, Ended, News, SharedStore, confirmations

from .endings import Endings
from .sessions import Sessions

__all__ = ["Workers", "is_covered", "selected"]

BEAT = 0.5
"""Seconds between two beats: how soon a worker hears of what others have revoked."""

_TIMEOUT = 2.0  # seconds for a beat
_LONGEST = 5.0  # seconds between two attempts while the store is out
_CONFIRMED = 2.0  # seconds that other workers have to confirm
_LOOK = 0.05  # seconds between two looks at whether they have
_REMEMBERED = 64  # entries of which it is remembered how many connections they have ended
_TOGETHER = 500  # identities that are rechecked at once


class Workers:
    """The beat of one worker.

    Attributes:
        id: which worker this is, among others.
        living: what every worker has said of itself, by its id.
    """

    def __init__(self, store: SharedStore, sessions: Sessions, endings: Endings, revocations: Revocations) -> None:
        self.id = f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.living: Mapping[str, Mapping[str, Any]] = {}
        self._store = store
        self._sessions = sessions
        self._endings = endings
        self._revocations = revocations
        self._position: str | None = None
        self._offset = 0.0  # from the monotonic clock to that of the store
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat. Needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Beat no more."""
        # A closed loop has dropped it already.
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def _run(self) -> None:
        wait = BEAT
        while True:
            try:
                # Whoever has asked waits for the answer, which goes with the next beat.
                wait = 0.0 if (await self._beat()).news else BEAT
            except Exception:
                # Whoever connects meanwhile asks the store as well, and that is where its outage is told.
                wait = min(max(wait, BEAT) * 2, _LONGEST)
            await asyncio.sleep(wait)

    async def _beat(self) -> Beat:
        status = {
            "v": 1,
            "position": self._position,
            "connections": len(self._sessions.connections),
            "ended": dict(self._ended),
        }
        began = time.monotonic()
        deadline = asyncio.get_running_loop().time() + _TIMEOUT
        beat: Beat = await run_until(self._store.beat(self.id, status, self._position), deadline)
        self._offset = beat.now - (began + time.monotonic()) / 2
        self.living = beat.workers
        self._position = beat.position
        for news in beat.news:
            if news.by != self.id:
                self._note(news.position, await self._do(news))
        if beat.lost:
            await self._recheck()
        return beat

    async def _do(self, news: News) -> int:
        if news.revocation is not None:
            revocation = news.revocation
            chosen = [each for each in self._sessions.everybody() if is_covered(each, revocation)]
            return await self._endings.end_all(chosen, "token_revoked", Refusal(RejectCode.TOKEN_REVOKED, "revoked"))
        # Whoever has come since is not meant: they may connect again.
        before = news.at - self._offset
        chosen = [each for each in selected(self._sessions.everybody(), news.selector) if each.started < before]
        reason = news.selector.get("told")
        verdict = Refusal(RejectCode.REFUSED_BY_APP, "disconnect_called", {"hint": reason})
        return await self._endings.end_all(chosen, "kicked", verdict, reason if isinstance(reason, str) else None)

    def _note(self, position: str, ended: int) -> None:
        self._ended[position] = ended
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    async def _recheck(self) -> None:
        """Ask of every connection whether it was revoked, since news may have been missed."""
        everybody = [each for each in self._sessions.everybody() if each.identity.is_authenticated]
        for start in range(0, len(everybody), _TOGETHER):
            some = everybody[start : start + _TOGETHER]
            refusals = await asyncio.gather(*map(self._asked, some))
            revoked = [each for each, refusal in zip(some, refusals, strict=True) if refusal is not None]
            await self._endings.end_all(revoked, "token_revoked", Refusal(RejectCode.TOKEN_REVOKED, "revoked"))

    async def _asked(self, connection: Connection) -> Refusal | None:
        """The refusal of a connection that was revoked; what can't be told now ends nobody."""
        answer = self._revocations.check(connection.identity)
        refusal = answer if answer is None or isinstance(answer, Refusal) else await answer
        return refusal if refusal is not None and refusal.code is RejectCode.TOKEN_REVOKED else None

    # For whoever revokes or disconnects here

    async def send(self, selector: Mapping[str, Any]) -> str:
        """Ask the others to disconnect somebody; returns the position in the log."""
        return await self._store.send(self.id, selector)

    async def confirmed(self, position: Any, ended: int) -> Ended:
        """How many connections all workers have ended for an entry, once they have, or after two seconds."""
        if not isinstance(position, str):
            return Ended(ended)
        end = time.monotonic() + _CONFIRMED
        while True:
            with contextlib.suppress(Exception):
                await self._beat()
            others = {name: said for name, said in self.living.items() if name != self.id}
            known = confirmations(others, position)
            if len(known) == len(others) or time.monotonic() > end:
                return Ended(ended + sum(known.values()), 1 + len(known), sorted(set(others) - set(known)))
            await asyncio.sleep(_LOOK)


def is_covered(connection: Connection, revocation: Revocation) -> bool:
    """Whether a client's token was revoked, or the fresh one that it has just offered."""
    offered = connection.offered
    return revocation.covers(connection.identity) or (offered is not None and revocation.covers(offered))


def selected(connections: Iterable[Connection], selector: Mapping[str, Any]) -> list[Connection]:
    """Those that the arguments of ``guard.disconnect`` choose."""
    of: dict[str, Callable[[Connection], Any]] = {
        "sid": lambda each: each.sid,
        "subject": lambda each: each.identity.subject,
        "token_id": lambda each: each.identity.token_id,
        "issuer": lambda each: each.identity.issuer,
        "namespace": lambda each: each.namespace,
    }
    asked = {name: selector[name] for name in of if selector.get(name) is not None}
    return [each for each in connections if asked and all(of[name](each) == asked[name] for name in asked)]
