"""Several workers on one Redis: what one revokes or disconnects is so at all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from socketguard import ConfigurationError, Identity, Revocation, StoreFull, StoreUnavailable
from socketguard.limits.shared import SharedStore
from socketguard.redis import RedisStore
from socketguard.testing import Refused, join, make_auth, mint
from tests.scripted import Client, Guarded, guarded, rest, until, within

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class Server:
    """A real Redis on a free port, with nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            self.port = random.randrange(12_000, 32_000)
            self.start()
            if self.answers():
                return

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)

    def answers(self) -> bool:
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            time.sleep(0.02)
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("redis"))
    yield found
    found.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Any]:
    found = redis.asyncio.Redis.from_url(server.url)
    await found.flushall()
    yield found
    await found.aclose()


@contextlib.asynccontextmanager
async def workers(server: Server, count: int, **options: Any) -> AsyncIterator[list[Guarded]]:
    """So many workers, each with a server and a store of its own."""
    stores = [RedisStore(server.url) for _ in range(count)]
    cases = [guarded(auth=make_auth(max_lifetime=7200), store=store, **options) for store in stores]
    for case in cases:
        case.guard._parts.start()
    await until(lambda: all(case.guard.status()["workers"] == count for case in cases))
    try:
        yield cases
    finally:
        for case in cases:
            case.guard.detach()
        await rest()
        for store in stores:
            await store.aclose()


async def joined(case: Guarded, **claims: Any) -> Client:
    client = await Client(case).open()
    await client.join("/messages", mint(**{"subject": "ann", **claims}))
    return client


async def test_a_revocation_reaches_every_worker(server: Server, client: Any) -> None:
    async with workers(server, 3) as (here, there, elsewhere):
        clients = [await joined(case, jti="t-1") for case in (here, there, there, elsewhere)]
        other = await joined(there, subject="bob")
        began = time.monotonic()
        ended = await here.guard.revoke(token_id="t-1")
        assert (ended, ended.workers, ended.missing) == (4, 3, ())
        assert time.monotonic() - began < 30
        for each in clients:
            await each.sent_away("/messages", "token_revoked")
        assert await other.alive()
        for case in (here, there, elsewhere):
            with pytest.raises(Refused) as caught:
                async with join(case.app, "/messages", token=mint("ann", jti="t-1")):
                    pass
            assert caught.value.code == "token_revoked"


async def test_all_tokens_of_a_subject(server: Server, client: Any) -> None:
    async with workers(server, 2) as (here, there):
        began = time.time()
        old = await joined(there)
        assert await here.guard.revoke(subject="ann") == 1
        await old.sent_away("/messages", "token_revoked")
        with pytest.raises(Refused):
            async with join(there.app, "/messages", token=mint("ann", now=began)):
                pass
        async with join(there.app, "/messages", token=mint("ann", now=time.time() + 5)):
            pass


async def test_a_disconnect_reaches_every_worker_and_spares_who_comes_afterwards(server: Server, client: Any) -> None:
    async with workers(server, 2) as (here, there):
        clients = [await joined(case) for case in (here, there)]
        ended = await here.guard.disconnect(subject="ann", reason="Goodbye")
        assert (ended, ended.workers) == (2, 2)
        for each in clients:
            await each.sent_away("/messages", "kicked")
        again = await joined(there)
        assert await again.alive()


async def test_a_pending_connection_is_refused_too(server: Server, client: Any) -> None:
    release, entered = asyncio.Event(), asyncio.Event()

    async def connect(sid: str, environ: Any) -> None:
        entered.set()
        await release.wait()

    async with workers(server, 2, handlers={"connect": connect}) as (here, there):
        pending = await Client(there).open()
        await pending.connect(token=mint("ann", jti="t-1"))
        await entered.wait()
        assert await here.guard.revoke(token_id="t-1", expires_at=time.time() + 3600) == 1
        release.set()
        assert (await pending.packet()).data["data"]["code"] == "token_revoked"


async def test_who_was_revoked_stays_out_when_redis_has_lost_everything(server: Server, client: Any) -> None:
    async with workers(server, 2) as (here, there):
        await here.guard.revoke(token_id="t-1", expires_at=time.time() + 3600)
        await client.flushall()
        outcomes: set[str | None] = set()

        async def attempt() -> str | None:
            wire = await Client(there).open()
            await wire.connect(token=mint("ann", jti="t-1"))
            try:
                return str((await wire.packet()).data["data"]["code"])
            except Exception:
                return None

        while "token_revoked" not in outcomes:
            with contextlib.suppress(Refused):
                outcomes.add(await attempt())
            await asyncio.sleep(0.05)
        # Nothing but "not now" before that.
        assert outcomes <= {None, "token_revoked"}
        good = await joined(there, subject="bob")
        assert await good.alive()


async def test_a_store_alone(server: Server, client: Any) -> None:
    store = RedisStore(server.url, prefix="another")
    assert isinstance(store, SharedStore)
    beat = await store.beat("w-1", {"v": 1}, None)
    assert beat.workers == {"w-1": {"v": 1}}
    await store.revoke(Revocation("i", "t", None, None, time.time() + 60))
    await store.revoke(Revocation(None, None, "ann", 1000.5, time.time() + 60))
    await store.revoke(Revocation(None, None, "ann", 900.0, time.time() + 30))
    asked = [
        (Identity("x", token_id="t", issuer="i"), True),
        (Identity("x", token_id="t"), False),
        (Identity("ann", issued_at=1000.0), True),
        (Identity("ann", issued_at=1000.5), False),
        (Identity("ann", issuer="i"), True),
        (Identity("bob"), False),
    ]
    assert await asyncio.gather(*(store.is_revoked(identity) for identity, _ in asked)) == [one for _, one in asked]
    assert len((await store.beat("w-1", {"v": 1}, beat.position)).news) == 3
    keys = [key.decode() for key in await client.keys("*")]
    assert all(key.startswith("{another}:") for key in keys)
    assert 0 < await client.pttl(next(key for key in keys if ":r:" in key)) <= 60_001
    await store.aclose()
    mine = RedisStore(client)
    await mine.beat("w-2", {}, None)
    assert not await mine.is_revoked(Identity("ann"))


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((5,), {}, "redis is a int"),
        (("redis://x",), {"prefix": "a{b"}, "write prefix="),
        (("redis://x",), {"prefix": ""}, "write prefix="),
        (("http://user:secret@x",), {}, "can't be used"),
    ],
)
def test_what_can_not_work(arguments: tuple[Any, ...], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        RedisStore(*arguments, **options)
    assert "secret" not in str(caught.value)


def test_without_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        RedisStore("redis://127.0.0.1")


async def test_a_worker_that_was_killed_is_missed_until_its_lease_ends(
    server: Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketguard.redis.LEASE", 3.0)
    async with workers(server, 2) as (here, there):
        crashed = there.guard._parts.workers
        assert crashed is not None
        crashed.stop()
        ended = await here.guard.disconnect(subject="ann")
        assert (ended, ended.workers, ended.missing) == (0, 1, (crashed.id,))
        await until(lambda: here.guard.status()["workers"] == 1)
        assert (await here.guard.disconnect(subject="ann")).missing == ()


async def test_while_redis_is_out_nobody_gets_in_and_who_is_in_stays(tmp_path: Path) -> None:
    own = Server(tmp_path)
    try:
        async with workers(own, 1, store_timeout=1) as (case,):
            member = await joined(case)
            own.stop()
            late = await Client(case).open()
            await late.connect(token=mint("bob"))
            assert await late.closed() == 4503
            assert await member.alive()
            with pytest.raises(Exception, match=r".+"):
                await case.guard.revoke(token_id="t", expires_at=time.time() + 60)
            with pytest.raises(Exception, match=r".+"):
                await case.guard.disconnect(subject="bob")
            own.start()
            assert own.answers()
            found: list[Client] = []

            async def back() -> None:
                while not found:
                    with contextlib.suppress(Exception):
                        found.append(await joined(case, subject="bob"))
                    await asyncio.sleep(0.1)

            await within(back())
            assert await found[0].alive()
    finally:
        own.stop()


async def test_what_was_revoked_while_a_worker_heard_nothing_is_found_when_it_hears_again(
    server: Server, client: Any
) -> None:
    async with workers(server, 2) as (here, there):
        member = await joined(there, jti="t-1")
        other = await joined(there, subject="bob")
        deaf = there.guard._parts.workers
        assert deaf is not None
        deaf.stop()
        assert await here.guard.revoke(token_id="t-1") == 0
        # The log was cut off beyond what it knows.
        await client.xtrim("{socketguard}:log", maxlen=0)
        await here.guard.disconnect(subject="nobody")
        deaf.start()
        await member.sent_away("/messages", "token_revoked")
        assert await other.alive()


async def test_entries_that_nobody_understands_are_passed_over(server: Server, client: Any) -> None:
    async with workers(server, 2) as (here, there):
        member = await joined(there)
        for entry in ({"e": "no JSON"}, {"x": "1"}, {"e": "{}"}, {"e": '{"by":"x","revoke":[1]}'}, {"e": "[]"}):
            await client.xadd("{socketguard}:log", entry)
        await client.hset("{socketguard}:status", "broken", "no JSON")
        await client.zadd("{socketguard}:workers", {"broken": 2**42})
        await client.hset("{socketguard}:status", "odd", '{"ended": 5}')
        await client.zadd("{socketguard}:workers", {"odd": 2**42})
        ended = await here.guard.disconnect(subject="ann")
        assert (ended, ended.workers, ended.missing) == (1, 2, ("broken", "odd"))
        await member.disconnected("/messages")


async def test_more_news_than_one_beat_brings(server: Server, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketguard.redis._NEWS", 3)
    monkeypatch.setattr("socketguard.server.workers._REMEMBERED", 4)
    monkeypatch.setattr("socketguard.redis.LEASE", 1.0)
    store = RedisStore(server.url)
    beat = await store.beat("w", {}, None)
    async with workers(server, 2) as (_, there):
        member = await joined(there)
        for number in range(8):
            await store.send("w", {"subject": f"s-{number}"})
        await store.send("w", {"subject": "ann"})
        await member.disconnected("/messages")
    seen: list[Any] = []
    while more := (beat := await store.beat("w", {}, beat.position)).news:
        seen += [news.selector.get("subject") for news in more]
    assert seen == [*(f"s-{number}" for number in range(8)), "ann"]
    await store.aclose()


async def test_a_full_redis_says_so(tmp_path: Path) -> None:
    own = Server(tmp_path)
    try:
        store = RedisStore(own.url)
        await store.beat("w", {}, None)
        full = redis.asyncio.Redis.from_url(own.url)
        await full.config_set("maxmemory", "1")
        with pytest.raises(StoreFull, match="raise its maxmemory"):
            await store.revoke(Revocation("i", "t", None, None, time.time() + 60))
        await full.aclose()
        await store.aclose()
    finally:
        own.stop()


async def test_what_is_known_is_bounded_and_the_later_counts(
    server: Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketguard.redis._MIRRORED", 2)
    store = RedisStore(server.url)
    assert repr(store) == "<RedisStore {socketguard}>"
    assert store.describe() == {"kind": "redis", "prefix": "{socketguard}"}
    await store.beat("w", {}, None)
    end = time.time() + 60
    for before in (900.0, 1000.0, 950.0):
        await store.revoke(Revocation(None, None, "ann", before, end))
    for token in ("t-1", "t-2"):
        await store.revoke(Revocation(None, token, None, None, end))
    assert len(store._mirror) == 2
    assert await store.is_revoked(Identity("ann", issued_at=999.0))
    assert not await store.is_revoked(Identity("ann", issued_at=1000.0))
    await store.revoke(Revocation(None, "gone", None, None, time.time() - 60))
    assert not await store.is_revoked(Identity("x", token_id="gone"))
    await store.aclose()


async def test_who_asks_no_longer_gets_no_answer(server: Server, client: Any) -> None:
    store = RedisStore(server.url)
    with pytest.raises(StoreUnavailable):
        await store.is_revoked(Identity("ann"))  # before the first beat of any worker
    for state in ("before", "after"):
        if state == "after":
            await store.beat("w", {}, None)
        waiting = asyncio.ensure_future(store.is_revoked(Identity("ann")))
        waiting.cancel()
        await asyncio.sleep(0.1)
        assert waiting.cancelled()
    await store.aclose()


async def test_a_client_of_ones_own_that_gives_texts(server: Server, client: Any) -> None:
    texts = redis.asyncio.Redis.from_url(server.url, decode_responses=True)
    store = RedisStore(texts)
    beat = await store.beat("w", {"v": 1}, None)
    await store.revoke(Revocation("i", "t", None, None, time.time() + 60))
    assert await store.is_revoked(Identity("x", token_id="t", issuer="i"))
    assert len((await store.beat("w", {"v": 1}, beat.position)).news) == 1
    await store.aclose()


async def test_a_guard_that_has_never_begun_and_one_whose_loop_has_ended(server: Server, client: Any) -> None:
    stores = [RedisStore(server.url), RedisStore(server.url)]
    guarded(store=stores[0]).guard.detach()
    case = guarded(store=stores[1])

    def elsewhere() -> None:
        async def begin() -> None:
            case.guard._parts.start()
            await asyncio.sleep(0.05)
            await stores[1].aclose()

        asyncio.run(begin())

    await asyncio.to_thread(elsewhere)
    case.guard.detach()
    await stores[0].aclose()


async def test_a_store_that_gives_no_position(server: Server, client: Any) -> None:
    async with workers(server, 2) as (here, _):
        mine = here.guard._parts.workers
        assert mine is not None
        ended = await mine.confirmed(None, 3)
        assert (ended, ended.workers, ended.missing) == (3, 1, ())


async def test_a_worker_asks_before_its_own_first_beat(server: Server, client: Any) -> None:
    first, second = RedisStore(server.url), RedisStore(server.url)
    await first.beat("w-1", {}, None)
    await first.revoke(Revocation(None, "t", None, None, time.time() + 60))
    assert await second.is_revoked(Identity("ann", token_id="t"))
    for store in (first, second):
        await store.aclose()


async def test_it_beats_on_after_what_fails(server: Server, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with workers(server, 1) as (case,):
        beats: list[str] = []
        real = case.guard._parts.store.beat  # type: ignore[union-attr]

        async def beat(*args: Any) -> Any:
            beats.append("")
            if len(beats) == 1:
                raise OSError("cut off")
            return await real(*args)

        monkeypatch.setattr(case.guard._parts.store, "beat", beat)
        await until(lambda: len(beats) >= 2)
