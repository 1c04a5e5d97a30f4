"""No byte of the application reaches a client before its token was accepted for that namespace, nor after a refusal."""

from __future__ import annotations

import asyncio

import pytest

from socketguard.testing import mint
from tests.e2e.support import Polling, Server, until, wire

TOKEN = mint("u-1", tenant_id="acme")
NEWS = 'for members only"]'
BARRIER = '44/barrier,{"message":"Invalid namespace"}'
"""The answer to a CONNECT. What is sent to a session keeps its order: everything before it would be here."""

REFUSED = [
    ("/messages", "", "token_missing"),
    ("/scheduler", f'{{"token":"{TOKEN}"}}', "insufficient_scope"),
    ("/raises", f'{{"token":"{TOKEN}"}}', "internal_error"),
    ("/kicks", f'{{"token":"{TOKEN}"}}', "Connection rejected by server"),
    ("/nowhere", f'{{"token":"{TOKEN}"}}', "Invalid namespace"),
]


async def broadcast(server: Server, namespace: str) -> None:
    await asyncio.to_thread(server.post, f"/control/broadcast?namespace={namespace}")


@pytest.mark.parametrize(("namespace", "auth", "why"), REFUSED)
async def test_a_refused_client_hears_nothing(crm: Server, namespace: str, auth: str, why: str) -> None:
    async with wire(crm.url) as session:
        await session.send(f"40{namespace},{auth}")
        answer = await session.frame()
        assert answer.startswith(f"44{namespace},")
        assert why in answer
        await broadcast(crm, namespace)
        await session.send(f'42{namespace},1["whoami"]')
        await session.send("40/barrier,")
        assert await session.frame() == BARRIER


@pytest.mark.parametrize(("namespace", "auth", "why"), REFUSED)
def test_a_refused_client_hears_nothing_over_polling(crm: Server, namespace: str, auth: str, why: str) -> None:
    session = Polling(crm)
    session.post(f"40{namespace},{auth}")
    assert why in session.get().body
    crm.post(f"/control/broadcast?namespace={namespace}")
    session.post(f'42{namespace},1["whoami"]')
    session.post("40/barrier,")
    assert session.get().body == BARRIER
    session.post("1")


async def test_a_member_hears_it_until_it_leaves(crm: Server) -> None:
    # The counterpart, without which the other tests of this file would show nothing.
    async with wire(crm.url) as session:
        await session.join(TOKEN, "/messages")
        await session.join(TOKEN, "/attendances")
        await broadcast(crm, "/messages")
        for _ in range(2):
            assert await session.frame() == f'42/messages,["news","{NEWS}'
        await session.send("41/messages,")
        await session.send("40/barrier,")
        assert await session.frame() == BARRIER
        await broadcast(crm, "/messages")
        await broadcast(crm, "/attendances")
        assert await session.frame() == f'42/attendances,["news","{NEWS}'


@pytest.mark.parametrize("welcome", [True, False])
@pytest.mark.parametrize("namespace", ["/asks", "/waits"])
async def test_a_client_that_is_being_checked(crm: Server, namespace: str, welcome: bool) -> None:
    await asyncio.to_thread(crm.post, "/control/close")
    async with wire(crm.url) as session:
        token = mint("u-1", tenant_id="acme", welcome=welcome)
        await session.send(f'40{namespace},{{"token":"{token}"}}')
        await until(lambda: namespace in crm.request("/control/entered"), crm.output)
        await broadcast(crm, namespace)
        await asyncio.to_thread(crm.post, "/control/open")
        answer = await session.frame()
        await session.send("40/barrier,")
        # Whoever is being asked of its connect handler is in the namespace already, but hears nothing before the yes.
        held = 2 if namespace == "/waits" and welcome else 0
        frames = [answer, *[await session.frame() for _ in range(1 + held)]]
    assert frames[0].startswith(f'40{namespace},{{"sid":' if welcome else f"44{namespace},{{")
    assert frames[1:-1] == [f'42/waits,["news","{NEWS}'] * held
    assert frames[-1] == BARRIER
