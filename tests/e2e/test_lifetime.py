"""Tokens that live for few seconds: clients that come back by themselves, and clients that refresh them in band."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.issuing import Issuer
from tests.e2e.support import (
    ACCEPTED,
    CLOSED,
    CLOSING,
    PATIENCE,
    REJECTED,
    TRANSPORTS,
    JavaScript,
    Server,
    free_port,
    python_client,
    seen,
    until,
    wait_until,
)

LIVES = 4
"""How often a client joins: after the first time, each is after an expiry."""

REFRESHES = 5
"""How often a client refreshes, which takes longer than the first token lives: each time two seconds."""

LIFETIME, REFRESHED_LIFETIME = 4, 6
"""In seconds. By so much a busy machine may be late with the use of a token, or with the answer to a notice."""

NAMESPACES = ("/messages", "/attendances", "/tenant-acme")
JOINED = {"more": {"kind": "connect"}}
EXPIRING = "event:socketguard:expiring"
CYCLE = ("connect", CLOSING, "disconnect")

SETTINGS: dict[str, Any] = {"auth": {"leeway": 0}, "options": {"expiring_notice": 4}}


class Case(NamedTuple):
    """One client."""

    kind: str
    transports: str
    serializer: str

    @property
    def subject(self) -> str:
        return "-".join(self)

    @property
    def refreshes(self) -> bool:
        return self.kind.endswith("refreshing")


CASES = [
    Case(*each) for each in itertools.product(["alone", "together", "refreshing"], TRANSPORTS, ["default", "msgpack"])
]
PYTHON_CASES = [
    Case(*each)
    for each in itertools.product(["python", "python-refreshing"], ["polling", "websocket"], ["default", "msgpack"])
]


class Lives:
    """All clients at once, since each takes its time."""

    def __init__(
        self, js: JavaScript, servers: dict[str, Server], issuers: dict[bool, Issuer], pool: ThreadPoolExecutor
    ) -> None:
        self.servers = servers
        self.found: dict[Case, Any] = {case: self._start(js, case, issuers[case.refreshes]) for case in CASES}
        for case in PYTHON_CASES:
            live = live_in_python(servers[case.serializer], case, issuers[case.refreshes])
            self.found[case] = pool.submit(asyncio.run, live)

    def _start(self, js: JavaScript, case: Case, issuer: Issuer) -> Any:
        wanted = ("refreshed", REFRESHES) if case.refreshes else ("connect", LIVES)
        return js.start(
            self.servers[case.serializer],
            NAMESPACES[0],
            also=NAMESPACES[1:] if case.kind == "together" else (),
            transports=case.transports,
            token_url=issuer.url(case.subject, shared=case.kind == "together"),
            refresh=case.refreshes,
            reconnection=True,
            steps=[{"more": {"kind": wanted[0], "times": wanted[1]}}],
        )

    def result(self, case: Case) -> tuple[Any, Server]:
        return self.found[case].result(2 * PATIENCE), self.servers[case.serializer]


@pytest.fixture(scope="module")
def lives(folder: Path, js: JavaScript) -> Iterator[Lives]:
    with (
        contextlib.closing(Issuer(LIFETIME)) as issuer,
        contextlib.closing(Issuer(REFRESHED_LIFETIME)) as longer,
        Server(folder, SETTINGS) as plain,
        Server(folder, {**SETTINGS, "serializer": "msgpack"}) as packed,
        ThreadPoolExecutor(len(PYTHON_CASES)) as pool,
    ):
        found = Lives(js, {"default": plain, "msgpack": packed}, {False: issuer, True: longer}, pool)
        yield found
        for future in found.found.values():
            future.exception(2 * PATIENCE)
        plain.wait_until_empty()
        packed.wait_until_empty()


async def live_in_python(server: Server, case: Case, issuer: Issuer) -> list[dict[str, Any]]:
    """What a client of python-socketio noticed, with ``auth`` as a function."""

    async def auth() -> dict[str, str]:
        return {"token": issuer.mint(case.subject)}

    async with python_client(server, NAMESPACES[0], transports=case.transports, auth=auth, reconnection=True) as client:

        async def refresh(_: Any) -> None:
            answer = await client.call("socketguard:refresh", {"token": issuer.mint(case.subject)})
            client.notes.append(("refreshed", NAMESPACES[0], answer))

        if case.refreshes:
            client.sio.on("socketguard:expiring", refresh, namespace=NAMESPACES[0])
        await until(lambda: len(client.of("refreshed")) >= REFRESHES or len(client.of("connect")) >= LIVES)
        return [{"kind": kind, "answer": args[0] if args else None} for kind, _, *args in client.notes]


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
    closed = server.events(CLOSED, subject=case.subject, reason="token_expired")
    assert len(closed) >= (LIVES - 1) * len(namespaces)


@of_kind("python")
def test_a_python_client_joins_again_after_each_expiry(lives: Lives, case: Case) -> None:
    notes, server = lives.result(case)
    check_lives([note["kind"] for note in notes if note["kind"] != EXPIRING])
    closed = server.events(CLOSED, subject=case.subject, reason="token_expired")
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
    assert [note["kind"] for note in notes] == ["connect", *["refreshed"] * REFRESHES]
    check_refreshes([note["answer"] for note in notes if note["kind"] == "refreshed"], server, case)


def check_refreshes(answers: list[Any], server: Server, case: Case) -> None:
    assert len(answers) >= REFRESHES
    for answer in answers:
        assert answer.keys() == {"ok", "expires_in"}
        assert answer["ok"] is True
        assert 1 <= answer["expires_in"] <= REFRESHED_LIFETIME
    closed = server.wait_for_event(CLOSED, subject=case.subject)
    # python-socketio's client closes its WebSocket without a word.
    assert closed["reason"] in ("client disconnect", "transport close")
    assert closed["refreshes"] == len(answers)
    lines = server.events("socketguard.token.refreshed", subject=case.subject)
    assert len(lines) == len(answers)
    # Each token took the place of the one before.
    for before, after in itertools.pairwise(lines):
        assert after["previous"] == before["token_id"]


def test_everybody_is_back_after_the_server_has_crashed(js: JavaScript, serve: Callable[..., Server]) -> None:
    server = serve(port=free_port())
    with contextlib.closing(Issuer(lifetime=3600)) as issuer:
        steps = [JOINED, {"request": {"url": issuer.url("joined"), "method": "GET"}}, JOINED]
        clients = [
            js.start(
                server,
                NAMESPACES[0],
                also=NAMESPACES[1:],
                transports=transports,
                token_url=issuer.url(transports),
                reconnection=True,
                steps=steps,
            )
            for transports in TRANSPORTS
        ]
        wait_until(lambda: issuer.asked.count("joined") == len(clients), server.output)
        server.kill()
        after = serve(port=server.port)
        for client in clients:
            result = client.result()
            for namespace in NAMESPACES:
                kinds = [each["kind"] for each in result["seen"] if each.get("namespace") == namespace]
                # In between nobody was there to answer.
                assert [kind for kind in kinds if kind != "connect_error"] == ["connect", "disconnect", "connect"]
        assert len(after.events(ACCEPTED)) == 9
        assert after.events(REJECTED) == []
        after.wait_until_empty()
