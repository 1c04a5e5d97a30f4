"""The application's users: loaded with the CONNECT, asked for again while they are connected."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from socketguard import Connection, Identity, Limits, NamespacePolicy, current_connection
from socketguard.auth import quick
from socketguard.testing import make_auth, mint
from tests.scripted import (
    KINDS,
    Client,
    Clock,
    Events,
    Guarded,
    gone,
    guarded,
    joined_client,
    lines,
    rest,
    serializer,
    until,
)


class Database:
    """The users of an application."""

    def __init__(self, *gone: str) -> None:
        self.gone = set(gone)
        self.asked: Counter[str] = Counter()
        self.fails: Exception | None = None
        self.nobody = False
        self.hold: asyncio.Event | None = None
        self.running = self.most = 0

    async def load(self, identity: Identity) -> dict[str, Any] | None:
        assert identity.subject is not None
        self.asked[identity.subject] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
            if self.fails is not None:
                raise self.fails
            return None if self.nobody or identity.subject in self.gone else {"name": identity.subject.title()}
        finally:
            self.running -= 1


def a_guard(database: Database, clock: Clock | None = None, **options: Any) -> Guarded:
    auth = make_auth() if clock is None else make_auth(clock=clock)
    return guarded(auth=auth, load_user=database.load, **options)


def user_of(case: Guarded, sid: str) -> Any:
    (found,) = [each for each in case.guard.connections() if each.sid == sid]
    return found.user


@pytest.mark.parametrize("transport", KINDS)
async def test_handlers_and_authorize_have_the_user(transport: str) -> None:
    seen: list[Any] = []

    async def connect(sid: str, environ: Any) -> None:
        connection: Connection[dict[str, Any]] = current_connection()
        assert connection.user is not None
        seen.append(connection.user["name"])

    def allowed(identity: Identity, connection: Connection) -> bool:
        seen.append(connection.user)
        return True

    policy = NamespacePolicy("/messages", authorize=allowed, token="optional")
    options = {"server_options": serializer(transport), "namespaces": [policy], "handlers": {"connect": connect}}
    case = a_guard(Database(), **options)
    _, sid = await joined_client(case, token=mint("ann"), kind=transport)
    assert seen == [{"name": "Ann"}, "Ann"]
    assert user_of(case, sid) == {"name": "Ann"}


@pytest.mark.parametrize("mark", [quick, lambda load: load], ids=["quick", "in a thread"])
async def test_a_synchronous_function(mark: Callable[[Any], Any]) -> None:
    case = guarded(load_user=mark(lambda identity: identity.subject.upper()))
    _, sid = await joined_client(case, token=mint("ann"))
    assert user_of(case, sid) == "ANN"


async def test_a_guest_has_none() -> None:
    database = Database()
    case = a_guard(database, namespaces=[NamespacePolicy("/messages", token="optional")], revalidate=60)
    _, sid = await joined_client(case, token=None)
    assert user_of(case, sid) is None
    assert not database.asked


async def test_who_is_not_there_is_refused(events: Events) -> None:
    case = a_guard(Database("ann"), logger=None)
    client = await Client(case).open()
    answer = await client.refused(token=mint("ann"))
    assert (answer["code"], answer["message"], answer["retry"]) == (
        "account_disabled",
        "Account is not active",
        "login",
    )
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"], line["subject"]) == ("account_disabled", "no_user", "ann")


async def test_a_page_of_several_namespaces_asks_once() -> None:
    database = Database()
    database.hold = asyncio.Event()
    case = guarded("/messages", "/a", "/b", load_user=database.load)
    client = await Client(case).open()
    token = mint("ann")
    for namespace in ("/messages", "/a", "/b"):
        await client.connect(namespace, token)
    await until(lambda: database.running)
    database.hold.set()
    for _ in range(3):
        assert (await client.packet()).kind == 0
    assert database.asked == {"ann": 1}


async def test_while_it_fails_clients_come_back_by_themselves(events: Events) -> None:
    database = Database()
    database.fails = OSError("no database")
    case = a_guard(database, logger=None)
    for _ in range(2):
        client = await Client(case).open()
        await client.connect(token=mint("ann"))
        assert await client.closed() == 4503
        await asyncio.sleep(0.06)
    # Some may try, so that it is found out; the others are told when to come.
    await Client(case).open()
    assert (await Client(case, "polling").http("GET", "EIO=4&transport=polling")).status == 503
    database.fails = None
    await asyncio.sleep(0.06)
    await joined_client(case, token=mint("ann"))
    await until(lambda: lines(events, "users.recovered"))
    (line,) = lines(events, "users.unavailable")
    assert line["error"] == "OSError"


class TestRevalidation:
    async def test_who_is_deleted_is_out_within_the_time(self, clock: Clock, events: Events) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60, logger=None)
        ann, _ = await joined_client(case, token=mint("ann", now=clock.now))
        bob, sid = await joined_client(case, token=mint("bob", now=clock.now))
        database.gone.add("ann")
        clock.passes(60)
        await ann.sent_away("/messages", "account_disabled")
        assert await bob.alive()
        await until(lambda: database.asked["bob"] >= 2)
        (line,) = lines(events, "connection.closed")
        assert (line["reason"], line["subject"]) == ("account_disabled", "ann")
        assert user_of(case, sid) == {"name": "Bob"}

    async def test_alike_ones_share_a_look_up(self, clock: Clock) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60)
        sids = [(await joined_client(case, token=mint("ann", now=clock.now, jti=str(n))))[1] for n in range(3)]
        other, _ = await joined_client(case, token=mint("ann", now=clock.now, role="admin"))
        asked = database.asked["ann"]
        for _ in range(3):
            clock.passes(60)
            await until(lambda asked=asked: database.asked["ann"] >= asked + 2)
            await rest()
            assert database.asked["ann"] == asked + 2
            asked += 2
        await other.close()
        await until(lambda: len(case.guard.connections()) == 3)
        await rest()
        clock.passes(60)
        await until(lambda: database.asked["ann"] == asked + 1)
        assert [user_of(case, sid) for sid in sids] == [{"name": "Ann"}] * 3

    async def test_an_outage_ends_nobody_until_it_has_lasted(self, clock: Clock, events: Events) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60, revalidate_stale=300, logger=None)
        client, _ = await joined_client(case, token=mint("ann", now=clock.now, lifetime=10_000))
        database.fails = OSError("no database")
        for minute in range(5):
            clock.passes(60)
            await until(lambda minute=minute: database.asked["ann"] >= 2 + minute)
            assert await client.alive()
        clock.passes(60)
        await client.told("/messages", "keys_unavailable")
        assert await client.closed() == 4503
        await gone(case)
        assert len(lines(events, "users.unavailable")) == 1
        # Nobody is locked out for good.
        database.fails = None
        await asyncio.sleep(0.06)
        await joined_client(case, token=mint("ann", now=clock.now))

    async def test_a_database_that_has_lost_everybody_for_a_minute(self, clock: Clock, events: Events) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60, logger=None)
        names = [f"user-{number}" for number in range(40)]
        clients = [(await joined_client(case, token=mint(name, now=clock.now)))[0] for name in names]
        database.nobody = True
        for _ in range(2):
            before = database.asked.total()
            clock.passes(60)
            await until(lambda before=before: database.asked.total() >= before + 40)
        for client in clients:
            assert await client.alive()
        late = await Client(case).open()
        await late.connect(token=mint("user-1", now=clock.now))
        assert await late.closed() == 4503
        database.nobody = False
        before = database.asked.total()
        clock.passes(60)
        await until(lambda: database.asked.total() >= before + 40)
        assert len(case.guard.connections()) == 40
        assert [line["error"] for line in lines(events, "users.unavailable")] == ["LookupError"]
        assert len(lines(events, "users.recovered")) == 1

    async def test_so_many_look_ups_at_a_time(self, clock: Clock) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60, limits=Limits(lookups=8))
        for number in range(50):
            await joined_client(case, token=mint(f"user-{number}", now=clock.now))
        database.most, database.hold = 0, asyncio.Event()
        clock.passes(60)
        await until(lambda: database.running == 4)
        # Who connects meanwhile finds a place.
        fresh = await Client(case).open()
        await fresh.connect(token=mint("late", now=clock.now))
        await until(lambda: database.running == 5)
        database.hold.set()
        assert (await fresh.packet()).kind == 0
        await until(lambda: database.asked.total() >= 101)
        assert database.most <= 8

    async def test_a_fresh_token_loads_the_user_again(self, clock: Clock) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60)
        client, sid = await joined_client(case, token=mint("ann", now=clock.now))
        assert (await client.refresh("/messages", mint("ann", now=clock.now, role="admin")))["ok"]
        assert database.asked["ann"] == 2
        database.gone.add("ann")
        answer = await client.refresh("/messages", mint("ann", now=clock.now))
        assert (answer["ok"], answer["code"]) == (False, "account_disabled")
        assert user_of(case, sid) == {"name": "Ann"}

    async def test_one_that_gives_no_answer_in_time(self, clock: Clock, events: Events) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60, admission_timeout=5, logger=None)
        client, _ = await joined_client(case, token=mint("ann", now=clock.now))
        database.hold = asyncio.Event()
        clock.passes(60)
        await until(lambda: database.running)
        clock.passes(5)
        await until(lambda: lines(events, "users.unavailable"))
        (line,) = lines(events, "users.unavailable")
        assert line["error"] == "TimeoutError"
        database.hold.set()
        assert await client.alive()

    async def test_who_goes_away_meanwhile(self, clock: Clock) -> None:
        database = Database()
        database.hold = asyncio.Event()
        case = a_guard(database, clock, revalidate=60)
        client = await Client(case).open()
        await client.connect(token=mint("ann", now=clock.now))
        await until(lambda: database.running)
        # Another CONNECT of the same takes its place, and waits for the same look-up.
        await client.connect(token=mint("ann", now=clock.now))
        await rest()
        database.hold.set()
        assert (await client.packet()).kind == 0
        assert database.asked["ann"] == 1
        database.hold.clear()
        clock.passes(60)
        await until(lambda: database.running)
        await client.close()
        await gone(case)
        database.gone.add("ann")
        database.hold.set()
        await rest()

    async def test_nobody_is_asked_about_when_the_guard_is_taken_off(self, clock: Clock) -> None:
        database = Database()
        case = a_guard(database, clock, revalidate=60)
        await joined_client(case, token=mint("ann", now=clock.now))
        case.leaves = True
        case.guard.detach()
        clock.passes(120)
        await rest()
        assert database.asked == {"ann": 1}
