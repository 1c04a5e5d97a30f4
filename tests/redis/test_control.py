"""Revoking and disconnecting from outside of the workers: `Control`, and the commands."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from socketguard import ConfigurationError, StoreFull
from socketguard.cli import main
from socketguard.control import Control
from tests.redis.test_workers import Server, joined, workers
from tests.redis.test_workers import client as client
from tests.redis.test_workers import pytestmark as pytestmark
from tests.redis.test_workers import server as server
from tests.scripted import within

redis = pytest.importorskip("redis")


async def test_it_reaches_every_worker(server: Server, client: Any) -> None:
    def act() -> tuple[Any, ...]:
        with Control(server.url) as control:
            living = control.workers()
            revoked = control.revoke(token_id="t-1", expires_at=time.time() + 3600)
            ended = control.disconnect(subject="bob", reason="Goodbye")
            everybody = control.revoke(subject="cy", max_lifetime=3600)
        return len(living), (revoked, revoked.workers, revoked.missing), (ended, ended.workers), (everybody,)

    async with workers(server, 2) as (here, there):
        anns = [await joined(case, jti="t-1") for case in (here, there)]
        bob = await joined(there, subject="bob")
        cy = await joined(here, subject="cy")
        assert await asyncio.to_thread(act) == (2, (2, 2, ()), (1, 2), (1,))
        for each in anns:
            await each.sent_away("/messages", "token_revoked")
        await bob.sent_away("/messages", "kicked")
        await cy.sent_away("/messages", "token_revoked")


async def test_who_does_not_confirm_is_named(server: Server, client: Any) -> None:
    await client.zadd("{socketguard}:workers", {"silent": 2**42})
    own = redis.Redis.from_url(server.url, decode_responses=True)

    def act() -> Any:
        with Control(own) as control:
            return control.disconnect(sid="nobody")

    ended = await asyncio.to_thread(act)
    assert (ended, ended.workers, ended.missing) == (0, 0, ("silent",))


def test_what_can_not_work(server: Server) -> None:
    for arguments, options in (((5,), {}), ((server.url,), {"prefix": "}"}), (("http://x",), {})):
        with pytest.raises(ConfigurationError):
            Control(*arguments, **options)
    with Control(server.url) as control:
        for selector in ({}, {"subject": "a", "sid": "b"}, {"subject": ""}):
            with pytest.raises(ConfigurationError, match="takes one of"):
                control.disconnect(**selector)
        with pytest.raises(ConfigurationError, match="max_lifetime"):
            control.revoke(subject="ann")


def test_a_full_redis(server: Server) -> None:
    class Full:
        def __init__(self, text: str) -> None:
            self.text = text

        def eval(self, *_: Any) -> Any:
            raise RuntimeError(self.text)

    with pytest.raises(StoreFull):
        Control(Full("OOM command not allowed")).revoke(token_id="t", expires_at=time.time() + 60)
    with pytest.raises(RuntimeError):
        Control(Full("something else")).revoke(token_id="t", expires_at=time.time() + 60)


async def test_the_commands(
    server: Server, client: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)

    async def said(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(main, list(arguments)) == status
        found = capsys.readouterr()
        return " ".join((found.out + found.err).split())

    assert "0 workers live" in await said("workers", status=1)
    async with workers(server, 1) as (case,):
        ann = await joined(case, jti="t-1")
        assert "1 worker live" in await said("workers")

        async def counted() -> None:
            while "1 connection" not in await said("workers"):  # it is said with the next beat
                pass

        await within(counted())
        assert len(json.loads(await said("workers", "--json"))["workers"]) == 1
        found = json.loads(await said("revoke", "--token-id", "t-1", "--for", "3600", "--json"))
        assert (found["ended"], found["workers"], found["missing"]) == (1, 1, [])
        await ann.sent_away("/messages", "token_revoked")
        await joined(case, subject="bob")
        text = await said("disconnect", "--subject", "bob", "--reason", "Goodbye")
        assert "1 connection ended, 1 worker answered" in text
        assert "0 connections ended" in await said("revoke", "--subject", "cy", "--for", "60")
        assert "--for how many seconds" in await said("revoke", "--subject", "cy", status=2)
        assert "takes one of" in await said("disconnect", status=2)
        await client.zadd("{socketguard}:workers", {"silent": 2**42})
        assert "missing silent" in await said("disconnect", "--sid", "x", status=1)
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    text = await said("workers", status=2)
    assert "does not answer" in text
    assert "secret" not in text
