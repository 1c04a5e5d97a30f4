"""Very many clients for a while, of which a third expires, refreshes, is revoked or kicked; then nothing may be left.

It needs nothing but what the tests of the core need, and one of them runs it with fewer clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from socketguard import Limits, NamespacePolicy, current_connection
from socketguard.connection import Connection, Identity, Session
from socketguard.testing import capture_events, make_auth, mint
from tests.scripted import (
    Client,
    Clock,
    Closed,
    Guarded,
    Line,
    connect_packet,
    guarded,
    http,
    left,
    lines,
    made,
    moving,
    until,
)

from .table import Row

PATIENCE = 120.0
"""Seconds after which something has not happened."""

NOTICE, LEEWAY = 30, 10
STEP = 8
"""Seconds by which the clock is moved at once: less than the notice, so that nobody's end comes before it."""

LONG = 80_000
REVOKED = "a-token-that-was-revoked-before-it-was-used"

# What becomes of a client, and how many of a hundred. A third is ended or refreshes.
FATES = {
    "stays": 47,
    "leaves": 6,
    "is refused": 3,
    "vanishes while it joins": 3,
    "stops to read": 3,
    "stops in the middle of a body": 3,
    "stops in the middle of an upgrade": 2,
    "expires": 7,
    "refreshes": 7,
    "offers another's token": 3,
    "offers a revoked token": 3,
    "has its token revoked": 4,
    "has its subject revoked": 3,
    "is kicked": 4,
    "has its subject kicked": 2,
}
SHORT = {"expires", "refreshes", "offers another's token", "offers a revoked token"}
REFRESHING = SHORT - {"expires"}
VICTIMS = {"has its token revoked", "has its subject revoked", "is kicked", "has its subject kicked"}
STOPPING = {fate for fate in FATES if fate.startswith("stops")}
_LEFT = frozenset({"client disconnect", "transport close"})
_STAYED = _LEFT | {"draining"}
_TRANSPORTS = {
    "stops to read": (1, 1, 0),
    "stops in the middle of a body": (0, 1, 0),
    "stops in the middle of an upgrade": (0, 0, 1),
}
MUCH = 2 * Limits().queue_bytes
_STOPPED = {"ping timeout", "slow_consumer", "transport close", "transport error", "draining"}


@dataclass(eq=False)
class _Guest:
    """One client and what is to become of it."""

    soak: _Soak
    number: int
    fate: str
    transport: str
    namespaces: tuple[str, ...]
    sids: dict[str, str] = field(default_factory=dict)
    ends: float = float("inf")
    """By the clock of the tokens."""
    answered: set[str] = field(default_factory=set)
    """In which namespaces its refresh was answered."""
    gone: bool = False
    _client: Any = None
    _reading: asyncio.Task[None] | None = None

    @property
    def subject(self) -> str:
        return f"user-{self.number}"

    @property
    def token_id(self) -> str:
        return f"token-{self.number}"

    @property
    def options(self) -> dict[str, Any]:
        address = f"10.{self.number >> 16 & 255}.{self.number >> 8 & 255}.{self.number & 255}"
        return {"client": (address, 50000), "timeout": PATIENCE}

    async def arrive(self) -> None:
        """Open a session and join; a client that is refused or vanishes is gone afterwards."""
        soak = self.soak
        lifetime = soak.random.randrange(2 * NOTICE, 10 * NOTICE) if self.fate in SHORT else LONG
        token = mint(self.subject, now=soak.clock.now, lifetime=lifetime, jti=self.token_id)
        line = Line(soak.case.app)
        kind = "websocket" if self.transport == "websocket" else "polling"
        self._client = await Client(line, kind, **self.options).open()
        if self.fate == "vanishes while it joins":
            await self._say(connect_packet("/a", token))
            for _ in range(soak.random.randrange(4)):
                await asyncio.sleep(0)
            await self._leave()
            return
        if self.fate == "is refused":
            await self._client.refused("/a", f"{token[:-4]}AAAA")
            await self._leave()
            return
        for namespace in self.namespaces:
            self.sids[namespace] = await self._client.join(namespace, token)
        if self.fate in STOPPING:
            self._expect(*_STOPPED)
            return await self._stop(line)
        if self.transport == "upgraded":
            wire = await self._client.probe()
            await wire.send("5")
            self._client.wire = wire
        if self.fate in SHORT:
            self.ends = int(soak.clock.now) + lifetime + LEEWAY
            self._expect("token_expired")
        else:
            self._expect(*_STAYED)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _stop(self, line: Line) -> None:
        """Do nothing more, and wait for nothing, with a request or a frame that never ends."""
        self.gone = True
        if self.fate == "stops to read":
            line.open.clear()
            self.soak.lines.append(line)
            for namespace, sid in self.sids.items():
                await self.soak.case.server.emit("much", "x" * MUCH, to=sid, namespace=namespace)
        elif self.fate == "stops in the middle of a body":
            self.soak.stopped.append((await self._client.begin("POST", b"42/a,["))[0])
        else:
            await self._client.probe()
        if self.transport == "polling" and self.fate == "stops to read":
            self.soak.stopped.append(asyncio.ensure_future(self._client.http("GET")))
        if self._client.wire is not None:
            assert self._client.wire.task is not None
            self.soak.stopped.append(self._client.wire.task)

    async def _say(self, frame: str) -> None:
        if self._client.wire is None:
            await self._client.post(frame)  # refused once the session has ended, of which the next poll tells
        else:
            await self._client.send(frame)

    def _expect(self, *reasons: str, namespace: str | None = None) -> None:
        for name in self.namespaces if namespace is None else (namespace,):
            self.soak.expected[self.sids[name]] = frozenset(reasons)

    async def _read(self) -> None:
        """Do as the server says, until it ends the session or the last namespace."""
        inside = set(self.namespaces)
        with contextlib.suppress(Closed):
            while inside:
                frame = await self._client.frame()
                namespace = frame[2:].partition(",")[0]
                if '["socketguard:expiring"' in frame:
                    await self._refresh(namespace)
                elif frame.startswith("43"):
                    self._refreshed(namespace, frame)
                elif frame.startswith("41"):
                    inside.discard(namespace)
        self.gone = True
        await self._client.close()

    async def _refresh(self, namespace: str) -> None:
        now = self.soak.clock.now
        if self.fate == "expires":
            return
        subject = "somebody" if self.fate == "offers another's token" else self.subject
        revoked = {"jti": REVOKED} if self.fate == "offers a revoked token" else {}
        if revoked:
            self._expect("token_revoked", namespace=namespace)
        token = mint(subject, now=now, lifetime=LONG, **revoked)
        await self._say(f'42{namespace},7["socketguard:refresh",{{"token":"{token}"}}]')

    def _refreshed(self, namespace: str, answer: str) -> None:
        assert ('"ok":true' in answer) is (self.fate == "refreshes"), answer
        self.answered.add(namespace)
        if self.fate == "refreshes":
            self._expect(*_STAYED, namespace=namespace)
            if len(self.answered) == len(self.namespaces):
                self.ends = float("inf")

    def outlived(self) -> bool:
        """Whether something should have happened to it by now that hasn't."""
        now = self.soak.clock.now
        if self.gone or self.ends == float("inf"):
            return False
        if now >= self.ends:
            return True
        return self.fate in REFRESHING and now >= self.ends - NOTICE and len(self.answered) < len(self.namespaces)

    async def strike(self) -> None:
        """Let its fate come true."""
        guard = self.soak.case.guard
        if self.fate == "is kicked":
            sid = self.sids[self.namespaces[0]]
            self._expect("kicked", namespace=self.namespaces[0])
            assert await guard.disconnect(sid=sid) == 1
        elif self.fate == "has its subject kicked":
            self._expect("kicked")
            assert await guard.disconnect(subject=self.subject) == len(self.namespaces)
        else:
            self._expect("token_revoked")
            chosen = {"token_id": self.token_id} if "token" in self.fate else {"subject": self.subject}
            assert await guard.revoke(**chosen) == len(self.namespaces)

    async def leave(self) -> None:
        """Go away in one of the ways in which clients do."""
        if self.gone:
            return
        if self.soak.random.random() < 0.5:
            for namespace in self.namespaces:
                await self._say(f"41{namespace},")
        await self._leave()

    async def _leave(self) -> None:
        self.gone = True
        if self._client.wire is not None and self.soak.random.random() < 0.3:
            await self._say("1")
        if self._reading is not None and self._client.wire is not None:
            self._reading.cancel()
        await self._client.close()
        await self.finished()

    async def finished(self) -> None:
        if self._reading is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(self._reading, PATIENCE)


@dataclass(frozen=True)
class Soaked:
    """What came of it."""

    reasons: Counter[str]
    left: dict[str, Any]
    tasks: int
    records: int
    seconds: float


class _Soak:
    def __init__(self, clients: int, seed: int, *, ping_interval: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.expected: dict[str, frozenset[str]] = {}
        self.stopped: list[asyncio.Future[Any]] = []
        """The requests of those who do nothing more."""
        self.lines: list[Line] = []
        """Those that are cut."""
        self._short: list[_Guest] = []  # whose token will end
        self.case: Guarded = guarded(
            "/a",
            "/b",
            prepare=_register,
            auth=make_auth(clock=self.clock, max_lifetime=2 * LONG, leeway=LEEWAY),
            namespaces=["/a", NamespacePolicy("/b", authorize=_after_a_while)],
            expiring_notice=NOTICE,
            server_options={"ping_interval": ping_interval, "ping_timeout": 60},
        )
        fates = self.random.choices(list(FATES), list(FATES.values()), k=clients)
        self.guests = [
            _Guest(
                self,
                number,
                fate,
                self.random.choices(("websocket", "polling", "upgraded"), _TRANSPORTS.get(fate, (70, 15, 15)))[0],
                self.random.choices((("/a",), ("/b",), ("/a", "/b")), (60, 20, 20))[0],
            )
            for number, fate in enumerate(fates)
        ]

    async def run(self, *, together: int, over: float) -> None:
        guard = self.case.guard
        await guard.revoke(token_id=REVOKED, expires_at=self.clock.now + LONG)
        victims: list[_Guest] = []
        for start in range(0, len(self.guests), together):
            arriving = self.guests[start : start + together]
            await asyncio.gather(*(guest.arrive() for guest in arriving))
            victims += [guest for guest in arriving if guest.fate in VICTIMS or guest.fate == "leaves"]
            self.random.shuffle(victims)
            half = len(victims) // 2
            await asyncio.gather(self._step(), *(self._meet(guest) for guest in victims[:half]))
            del victims[:half]
        await asyncio.gather(*(self._meet(guest) for guest in victims))
        while self._short:
            await self._step()
        rest = [guest for guest in self.guests if not guest.gone]
        assert rest
        self.random.shuffle(rest)
        await asyncio.gather(*(guest.leave() for guest in rest[: len(rest) // 2]))
        await guard.drain(over)
        await asyncio.gather(*(guest.finished() for guest in self.guests))
        for line in self.lines:
            line.open.set()  # As a server does whose client is gone: it waits for nobody.
        await asyncio.wait_for(asyncio.gather(*self.stopped), PATIENCE)
        refused = await http(self.case.app, "GET", "EIO=4&transport=polling")
        assert refused.status == 503, refused

    @staticmethod
    async def _meet(guest: _Guest) -> None:
        await (guest.leave() if guest.fate == "leaves" else guest.strike())

    async def _step(self) -> None:
        """Move the clock, and wait until everybody is where they should be."""
        self.clock.move(STEP - 1)
        self.clock.passes(1)
        self._short = [guest for guest in self.guests if guest.ends < float("inf") and not guest.gone]
        await until(lambda: not any(guest.outlived() for guest in self._short), timeout=PATIENCE)


def _register(server: Any) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        namespace = current_connection().namespace
        await server.enter_room(sid, f"room {sum(sid.encode()) % 20}", namespace=namespace)

    for namespace in ("/a", "/b"):
        server.on("connect", connect, namespace=namespace)


async def _after_a_while(identity: Identity, connection: Connection) -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return True


async def _more_tasks(before: set[asyncio.Task[Any]]) -> int:
    """How many tasks there are beyond those, once those that are about to end have ended."""
    deadline = time.monotonic() + PATIENCE
    # python-engineio has a task for each session that waits for its next ping, and ends then.
    while (more := asyncio.all_tasks() - before) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return len(more)


async def soak(clients: int, *, seed: int, together: int, over: float, ping_interval: int) -> Soaked:
    """Let clients come and go."""
    began = time.monotonic()
    earlier = _records()  # kept, so that no new record takes the place in memory of one of them
    with capture_events() as events:
        before = asyncio.all_tasks()
        running = _Soak(clients, seed, ping_interval=ping_interval)
        case, expected = running.case, running.expected
        with moving(running.clock):
            await running.run(together=together, over=over)
            tasks = await _more_tasks(before)
    accepted = Counter(line["sid"] for line in lines(events, "connection.accepted"))
    closed = Counter(line["sid"] for line in lines(events, "connection.closed") if "sid" in line)
    # Who vanishes while it joins may never have been accepted.
    assert accepted.keys() <= closed.keys()
    assert set(closed.values()) == {1}, [sid for sid, number in closed.items() if number > 1]
    assert expected.keys() <= accepted.keys()
    reasons: Counter[str] = Counter()
    for line in lines(events, "connection.closed"):
        reasons[line["reason"]] += 1
        allowed = expected.get(line.get("sid"), _LEFT)
        assert line["reason"] in allowed, (line, allowed)
    remains = left(case)
    case.guard.detach()
    events.clear()
    running.guests.clear()
    made.remove(case)
    del running, case
    known = {id(record) for record in earlier}
    records = sum(id(record) not in known for record in _records())
    return Soaked(reasons, remains, tasks, records, time.monotonic() - began)


def _records() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Session | Connection)]


def measure_soak(*, clients: int, together: int, ping_interval: int) -> list[Row]:
    """One row: how much is left."""
    with asyncio.Runner() as runner:  # uvloop goes by no clock that can be moved
        found = runner.run(
            soak(clients, seed=random.randrange(2**32), together=together, over=1.0, ping_interval=ping_interval)
        )
    assert not found.left, found.left
    assert not found.tasks, f"{found.tasks} tasks are left"
    assert not found.records, f"{found.records} records are left"
    ends = ", ".join(f"{number} {reason}" for reason, number in found.reasons.most_common())
    note = f"{clients:,} clients in {found.seconds:.0f} s; {ends}"
    return [Row("left after a soak", "nothing", 0, 0, "entries and tasks", note)]
