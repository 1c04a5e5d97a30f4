"""Tokens that live for three seconds: clients that come back by themselves, and clients that refresh them in band."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import socketio

from tests.e2e.issuing import Issuer
from tests.e2e.support import PATIENCE, TRANSPORTS, JavaScript, Server, free_port, leave, seen, wait_until

LIVES = 4
"""How often a client joins: after the first time, each is after an expiry."""

REFRESHES = 5
"""More than three lifetimes: a notice comes within two seconds before the end."""

NAMESPACES = ("/messages", "/attendances", "/tenant-acme")
JOINED = {"more": {"kind": "connect"}}
CLOSING = "event:socketguard:closing"
EXPIRING = "event:socketguard:expiring"
CYCLE = ("connect", CLOSING, "disconnect")
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # of python-engineio's client

SETTINGS: dict[str, Any] = {"auth": {"leeway": 0}, "options": {"expiring_notice": 2}}


class Case(NamedTuple):
    """One client."""

    kind: str
    transports: str
    serializer: str

    @property
    def subject(self) -> str:
        return "-".join(self)


CASES = [
    Case(*each) for each in itertools.product(["alone", "together", "refreshing"], TRANSPORTS, ["default", "msgpack"])
]
PYTHON_CASES = [
    Case(*each)
    for each in itertools.product(["python", "python-refreshing"], ["polling", "websocket"], ["default", "msgpack"])
]


class Lives:
    """All clients at once, since each takes its time."""

    def __init__(self, js: JavaScript, servers: dict[str, Server], issuer: Issuer, pool: ThreadPoolExecutor) -> None:
        self.servers = servers
        self.found: dict[Case, Future[Any]] = {case: self._start(js, case, issuer) for case in CASES}
        for case in PYTHON_CASES:
            live = live_in_python if case.kind == "python" else refresh_in_python
            self.found[case] = pool.submit(asyncio.run, live(servers[case.serializer], case, issuer))

    def _start(self, js: JavaScript, case: Case, issuer: Issuer) -> Future[Any]:
        wanted = ("refreshed", REFRESHES) if case.kind == "refreshing" else ("connect", LIVES)
        return js.start(
            self.servers[case.serializer].url,
            NAMESPACES[0],
            also=NAMESPACES[1:] if case.kind == "together" else (),
            transports=case.transports,
            token_url=issuer.url(case.subject, shared=case.kind == "together"),
            refresh=case.kind == "refreshing",
            msgpack=case.serializer == "msgpack",
            reconnection=True,
            steps=[{"more": {"kind": wanted[0], "times": wanted[1]}}],
        )

    def result(self, case: Case) -> tuple[Any, Server]:
        return self.found[case].result(3 * PATIENCE), self.servers[case.serializer]


@pytest.fixture(scope="module")
def lives(folder: Path, js: JavaScript) -> Iterator[Lives]:
    with (
        Issuer() as issuer,
        Server(folder, SETTINGS) as plain,
        Server(folder, {**SETTINGS, "serializer": "msgpack"}) as packed,
        ThreadPoolExecutor(len(PYTHON_CASES)) as pool,
    ):
        found = Lives(js, {"default": plain, "msgpack": packed}, issuer, pool)
        yield found
        for future in found.found.values():
            future.exception(3 * PATIENCE)
        plain.wait_until_empty()
        packed.wait_until_empty()


# Clients of python-socketio


@asynccontextmanager
async def python_client(server: Server, case: Case, issuer: Issuer) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A client of python-socketio with ``auth`` as a function, and what it notices."""
    client = socketio.AsyncClient(serializer=case.serializer)
    notes: list[Any] = []

    def note(kind: str, *args: Any) -> None:
        notes.append((kind, *args))

    for kind in ("connect", "disconnect", "connect_error", "socketguard:closing"):
        client.on(kind, functools.partial(note, kind), namespace=NAMESPACES[0])

    async def auth() -> dict[str, str]:
        return {"token": issuer.mint(case.subject)}

    await client.connect(
        server.url, auth=auth, transports=TRANSPORTS[case.transports], namespaces=[NAMESPACES[0]], wait_timeout=PATIENCE
    )
    try:
        yield client, notes
    finally:
        await leave(client)


async def enough(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2 * PATIENCE):
        while not condition():  # noqa: ASYNC110 - python-socketio tells nobody else
            await asyncio.sleep(0.02)


def kinds_of(notes: list[Any]) -> list[str]:
    return [note[0] for note in notes]


async def live_in_python(server: Server, case: Case, issuer: Issuer) -> list[Any]:
    async with python_client(server, case, issuer) as (_, notes):
        await enough(lambda: kinds_of(notes).count("connect") >= LIVES)
        return list(notes)


async def refresh_in_python(server: Server, case: Case, issuer: Issuer) -> list[Any]:
    async with python_client(server, case, issuer) as (client, notes):

        async def refresh(_: Any) -> None:
            answer = await client.call(
                "socketguard:refresh", {"token": issuer.mint(case.subject)}, namespace=NAMESPACES[0]
            )
            notes.append(("refreshed", answer))

        client.on("socketguard:expiring", refresh, namespace=NAMESPACES[0])
        await enough(lambda: kinds_of(notes).count("refreshed") >= REFRESHES)
        return list(notes)


# What they saw


def of_kind(*kinds: str) -> Any:
    cases = [case for case in CASES + PYTHON_CASES if case.kind in kinds]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.subject)


def check_lives(kinds: list[str]) -> None:
    """Joined, told, closed, joined again, and nothing else in between; each expiry was followed by a join."""
    assert kinds == [CYCLE[place % 3] for place in range(len(kinds))]
    assert kinds.count("connect") >= LIVES


@of_kind("alone", "together")
def test_a_stock_client_joins_again_after_each_expiry(lives: Lives, case: Case) -> None:
    result, server = lives.result(case)
    namespaces = NAMESPACES if case.kind == "together" else NAMESPACES[:1]
    for namespace in namespaces:
        notes = [each for each in result["seen"] if each.get("namespace") == namespace and each["kind"] != EXPIRING]
        check_lives([each["kind"] for each in notes])
        for each in notes:
            if each["kind"] == CLOSING:
                assert each["args"] == [{"code": "token_expired", "message": "Token has expired", "retry": "refresh"}]
            elif each["kind"] == "disconnect":
                # A poll may come just after its session has ended, and is refused.
                assert each["reason"] in ("transport close", "transport error")
                assert each["active"] is True
                if case.transports == "websocket":
                    assert each["code"] == 4401
    closed = server.events("socketguard.connection.closed", subject=case.subject, reason="token_expired")
    assert len(closed) >= (LIVES - 1) * len(namespaces)


@pytest.mark.parametrize(
    "case", [case for case in PYTHON_CASES if case.kind == "python"], ids=lambda case: case.subject
)
def test_a_python_client_joins_again_after_each_expiry(lives: Lives, case: Case) -> None:
    notes, server = lives.result(case)
    check_lives([kind.replace("socketguard:closing", CLOSING) for kind in kinds_of(notes)])
    closed = server.events("socketguard.connection.closed", subject=case.subject, reason="token_expired")
    assert len(closed) >= LIVES - 1


@of_kind("refreshing")
def test_a_client_that_refreshes_in_band_is_never_disconnected(lives: Lives, case: Case) -> None:
    result, server = lives.result(case)
    kinds = [each["kind"] for each in result["seen"]]
    assert kinds.count("connect") == 1
    assert "disconnect" not in kinds
    assert CLOSING not in kinds
    check_refreshes([each["answer"] for each in seen(result, "refreshed")], server, case)


@of_kind("python-refreshing")
def test_a_python_client_that_refreshes_in_band_is_never_disconnected(lives: Lives, case: Case) -> None:
    notes, server = lives.result(case)
    assert kinds_of(notes) == ["connect", *["refreshed"] * REFRESHES]
    check_refreshes([answer for kind, *rest in notes if kind == "refreshed" for answer in rest], server, case)


def check_refreshes(answers: list[Any], server: Server, case: Case) -> None:
    assert len(answers) >= REFRESHES
    for answer in answers:
        assert answer.keys() == {"ok", "expires_in"}
        assert answer["ok"] is True
        assert 1 <= answer["expires_in"] <= 3
    closed = server.wait_for_event("socketguard.connection.closed", subject=case.subject)
    # python-socketio's client closes its WebSocket without a word.
    assert closed["reason"] in ("client disconnect", "transport close")
    assert closed["refreshes"] == len(answers)
    lines = server.events("socketguard.token.refreshed", subject=case.subject)
    assert len(lines) == len(answers)
    # Each token took the place of the one before.
    for before, after in itertools.pairwise(lines):
        assert after["previous"] == before["token_id"]


def test_everybody_is_back_after_the_server_has_crashed(js: JavaScript, serve: Callable[..., Server]) -> None:
    port = str(free_port())
    server = serve("--port", port)
    with Issuer(lifetime=3600) as issuer:
        clients = [
            js.start(
                server.url,
                NAMESPACES[0],
                also=NAMESPACES[1:],
                transports=transports,
                token_url=issuer.url(transports),
                reconnection=True,
                steps=[JOINED, {"request": {"url": issuer.url("joined"), "method": "GET"}}, JOINED],
            )
            for transports in TRANSPORTS
        ]
        wait_until(lambda: issuer.asked.count("joined") == len(clients), server.output)
        server.kill()
        after = serve("--port", port)
        for client in clients:
            result = client.result(3 * PATIENCE)
            for namespace in NAMESPACES:
                kinds = [each["kind"] for each in result["seen"] if each.get("namespace") == namespace]
                # In between nobody was there to answer.
                assert [kind for kind in kinds if kind != "connect_error"] == ["connect", "disconnect", "connect"]
        assert len(after.events("socketguard.connection.accepted")) == 9
        assert after.events("socketguard.connection.rejected") == []
        after.wait_until_empty()
