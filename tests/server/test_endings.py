"""The tick: it looks at what is due whatever one source does, in no connection's name, while the guard is there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from socketguard.connection import Connection, bound_connection
from socketguard.diagnosis.traffic import Patterns, Told
from socketguard.testing import make_auth
from tests.scripted import Client, Clock, guarded, token_at, until


async def test_what_one_source_stumbles_over_costs_the_others_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Patterns):
        def due(self, now: float) -> list[Told]:
            raise LookupError("no such pattern")

    monkeypatch.setattr("socketguard.guard.Patterns", Broken)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    case = guarded(auth=make_auth(clock=clock, leeway=0))
    client = await Client(case).open()
    await client.join("/messages", token_at(clock, 60))
    clock.passes(61)
    assert await client.told("/messages", "token_expired") == "refresh"
    assert await client.closed() == 4401
    await client.close()
    assert {type(error) for error in reported} == {LookupError}


async def test_the_tick_goes_by_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Connection | None] = []

    class Watching(Patterns):
        def due(self, now: float) -> list[Told]:
            seen.append(bound_connection.get())
            return []

    def prepare(server: Any) -> None:
        async def leave(sid: str) -> None:
            # Arms the tick within the handler of a connection.
            await case.guard.disconnect(sid=sid)

        server.on("leave", leave, namespace="/messages")

    monkeypatch.setattr("socketguard.guard.Patterns", Watching)
    monkeypatch.setattr("socketguard.server.endings.TICK", 0.001)
    case = guarded(prepare=prepare)
    client = await Client(case).open()
    await client.join()
    await client.emit("/messages", "leave")
    await client.disconnected("/messages")
    seen.clear()
    await until(lambda: len(seen) >= 3)
    await client.close()
    assert set(seen) == {None}
