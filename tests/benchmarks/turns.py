"""How long the loop stands while very much happens to very many connections at once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import jwt

from socketguard import Identity, JWTAuth
from socketguard.testing import FakeClock

from . import apps
from .clients import Turns
from .crowd import Crowd
from .measure import forget_tasks, no_collector
from .table import Row

LIMIT_MS = 20.0
NOTICE = 30
LIFETIME = 3600
DRAIN_OVER = 2.0


class _Case:
    """The longest turn of the loop while something happens; of several repetitions the least counts."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.longest = self.blocked = self.seconds = float("inf")

    async def watch(self, happening: Callable[[], Awaitable[Any]]) -> None:
        turns = Turns()
        # To look at thousands of connections takes the collector long, with or without a guard.
        with no_collector():
            turns.start()
            await happening()
            await turns.stop()
        self.longest = min(self.longest, turns.longest)
        self.blocked = min(self.blocked, turns.blocked)
        self.seconds = min(self.seconds, turns.seconds)

    def row(self, note: str) -> Row:
        clocks = f"{self.longest * 1e3:.1f} ms of CPU time, {self.blocked * 1e3:.1f} ms by the wall clock"
        note = f"{clocks}; {self.seconds:.2f} s of CPU time in all turns together; {note}"
        return Row(f"longest turn of the loop: {self.what}", "nothing", self.longest * 1e3, LIMIT_MS, "ms", note)


def _frames(count: int) -> list[str]:
    return [apps.HS256.connect(f"user-{number}") for number in range(count)]


def _refreshes(count: int) -> list[str]:
    tokens = (apps.HS256.token(f"user-{number}", lifetime=2 * LIFETIME) for number in range(count))
    return [f'42{apps.NAMESPACE},7["socketguard:refresh",{{"token":"{token}"}}]' for token in tokens]


async def _expiries(refreshed: _Case, expired: _Case, count: int, lines: apps.Lines) -> None:
    """All tokens end at the same moment: everybody is told, and refreshes. Then those tokens end, too."""
    clock = FakeClock()
    auth = apps.new_auth(apps.HS256, clock=clock)
    guard = apps.guarded(apps.HS256, lines, auth=auth, options={"expiring_notice": NOTICE}, ping_interval=LIFETIME)
    crowd = Crowd(guard)
    await crowd.open(_frames(count), _refreshes(count))

    async def refresh() -> None:
        clock.move(LIFETIME - NOTICE / 2)
        await crowd.until("refreshed", count)

    async def expire() -> None:
        clock.move(2 * LIFETIME)
        await crowd.until("closed", count)

    await refreshed.watch(refresh)
    await expired.watch(expire)
    await crowd.gone()
    assert crowd.seen == {"joined": count, "refreshed": count, "closed": count}, crowd.seen
    assert guard.status()["sessions"]["open"] == 0
    await forget_tasks()


async def _drain(drained: _Case, count: int, over: float, lines: apps.Lines) -> None:
    guard = apps.guarded(apps.HS256, lines, ping_interval=LIFETIME)
    crowd = Crowd(guard)
    await crowd.open(_frames(count))

    async def drain() -> None:
        assert await guard.drain(over) == count
        await crowd.until("closed", count)

    await drained.watch(drain)
    await crowd.gone()
    assert crowd.seen == {"joined": count, "closed": count}, crowd.seen
    await forget_tasks()


async def _slow_keys(fetched: _Case, count: int, seconds: float, lines: apps.Lines) -> None:
    """The key server takes its time, while clients come and wait for it."""
    number = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(apps.RS256.public_key()))
    body = json.dumps({"keys": [{**number, "use": "sig", "kid": "a"}]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    os.environ["NO_PROXY"] = "127.0.0.1"
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as keys:
        port = keys.sockets[0].getsockname()[1]
        auth = JWTAuth(
            algorithms=["RS256"],
            jwks_url=f"http://127.0.0.1:{port}/jwks",
            issuer=apps.ISSUER,
            audience=apps.AUDIENCE,
            allow_http=True,
            jwks_timeout=seconds * 2 + 1,
        )
        patient = {"ping_interval": LIFETIME, "ping_timeout": LIFETIME}
        guard = apps.guarded(apps.RS256, lines, auth=auth, options={"admission_timeout": seconds * 2 + 1}, **patient)
        crowd = Crowd(guard)
        frames = [apps.RS256.connect(f"user-{number}") for number in range(count)]

        async def come() -> None:
            for number, frame in enumerate(frames):
                crowd.arrive([frame], "10.0.0.1")
                await asyncio.sleep(seconds * 0.8 / count if number < count - 1 else 0)
            assert crowd.seen["joined"] == 0
            await crowd.until("joined", count)

        await fetched.watch(come)
        assert crowd.seen == {"joined": count}, crowd.seen
        assert fetched.blocked < seconds / 2, "the loop stood while the keys were fetched"
        await guard.drain(0)
        await crowd.gone()
    await forget_tasks()


async def _revalidation(asked: _Case, count: int, every: float, lines: apps.Lines) -> int:
    """The user behind every connection is asked for again; returns how many look-ups ran at a time."""
    running = most = 0
    looked_up: set[str | None] = set()
    everybody = asyncio.Event()

    async def load(identity: Identity) -> str | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        looked_up.add(identity.subject)
        running -= 1
        if len(looked_up) == count:
            everybody.set()
        return identity.subject

    options = {"load_user": load, "revalidate": every}
    guard = apps.guarded(apps.HS256, lines, options=options, ping_interval=LIFETIME)
    crowd = Crowd(guard)
    await crowd.open(_frames(count))

    async def ask() -> None:
        nonlocal most
        most = 0
        looked_up.clear()
        everybody.clear()
        await everybody.wait()

    await asked.watch(ask)
    assert crowd.seen == {"joined": count}, crowd.seen
    await guard.drain(0)
    await crowd.gone()
    await forget_tasks()
    return most


def measure_turns(
    runner: asyncio.Runner, *, repeats: int, count: int, waiting: int, over: float, fetch: float, every: float
) -> list[Row]:
    """Rows for the longest turn of the loop."""
    lines = apps.Lines()
    refreshed = _Case(f"{count:,} tokens refreshed at once")
    expired = _Case(f"{count:,} timers fire at once")
    drained = _Case(f"drain of {count:,} sessions")
    fetched = _Case("keys fetched slowly")
    asked = _Case(f"{count:,} users asked for again")
    for _ in range(repeats):
        runner.run(_expiries(refreshed, expired, count, lines))
        runner.run(_drain(drained, count, over, lines))
    # Once: the first fetch of a process has more to do than others.
    runner.run(_slow_keys(fetched, waiting, fetch, lines))
    most = runner.run(_revalidation(asked, count, every, lines))
    least = f"least of {repeats}"
    return [
        expired.row(f"tokens that expire, the transports are closed; {least}"),
        refreshed.row(f"each client is told that its token expires and sends another; {least}"),
        drained.row(f"over {over:g} s; {least}"),
        asked.row(f"all within {every:g} s (revalidate={every:g}), look-ups of 1 ms, {most} at a time; once"),
        fetched.row(f"the answer takes {fetch:g} s, {waiting} clients come meanwhile and wait; over HTTP, once"),
    ]
