"""`SocketGuard.status`: how things are in this process, without a secret."""

from __future__ import annotations

import asyncio
import json

from socketguard import Limits, MemoryStore, NamespacePolicy
from socketguard.testing import make_auth, mint
from tests.scripted import (
    Client,
    Guarded,
    Pause,
    Socket,
    Store,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    open_wire,
    until,
    within,
)
from tests.server.keyserver import KeyServer

IDLE = {
    "sessions": {"open": 0, "without_namespace": 0, "by_transport": {}},
    "connections": {"open": 0, "being_admitted": 0, "by_namespace": {}, "by_transport": {}},
    "accepted": 0,
    "refused": {},
    "report_only": None,
    "timers": {"expiry": 0, "connect": 0, "ending": 0},
    "store": {"kind": "MemoryStore", "available": True},
    "keys": [],
    "draining": False,
    "workers": 1,
}


async def test_a_server_without_clients() -> None:
    assert guarded().guard.status() == IDLE


async def test_sessions_and_connections_by_namespace_and_transport() -> None:
    case = guarded("/messages", "/other")
    status = case.guard.status
    wire = await open_wire(case.app)
    client = await Client(case.app, "polling").open()
    assert status()["sessions"] == {"open": 2, "without_namespace": 2, "by_transport": {"websocket": 1, "polling": 1}}
    assert status()["timers"] == {"expiry": 0, "connect": 2, "ending": 0}
    for namespace in ("/messages", "/other"):
        await wire.join(namespace)
    await client.join()
    assert status()["sessions"]["without_namespace"] == 0
    assert status()["connections"] == {
        "open": 3,
        "being_admitted": 0,
        "by_namespace": {"/messages": 2, "/other": 1},
        "by_transport": {"websocket": 2, "polling": 1},
    }
    assert status()["timers"] == {"expiry": 3, "connect": 0, "ending": 0}
    assert status()["accepted"] == 3
    await wire.send("41/other,")
    await until(lambda: status()["connections"]["open"] == 2)
    assert status()["connections"]["by_namespace"] == {"/messages": 2}
    await wire.close()
    await client.close()
    assert status() == {**IDLE, "accepted": 3}


async def test_an_upgrade_moves_a_session_to_the_other_transport() -> None:
    case = guarded()
    client, _ = await joined_client(case, kind="polling")
    wire = Socket(case.app, query=f"&sid={client.sid}")
    await wire.open()
    await wire.send("2probe")
    await wire.frame()
    assert await client.poll() == ["6"]
    assert case.guard.status()["sessions"]["by_transport"] == {"polling": 1}
    await wire.send("5")
    await until(lambda: case.guard.status()["sessions"]["by_transport"] == {"websocket": 1})
    assert case.guard.status()["connections"]["by_transport"] == {"websocket": 1}


async def test_those_that_are_being_admitted_or_are_leaving_are_not_open() -> None:
    pause = Pause()
    case = guarded(
        "/messages",
        "/slow",
        handlers={"disconnect": pause.wait},
        prepare=lambda server: server.on("connect", pause.wait, namespace="/slow"),
    )
    status = case.guard.status
    wire, _ = await joined_wire(case.app)
    other = await open_wire(case.app, connect_packet("/slow"))
    await within(pause.entered.wait())
    assert status()["connections"]["being_admitted"] == 1
    assert status()["connections"]["open"] == 1
    assert status()["accepted"] == 1
    assert status()["sessions"]["without_namespace"] == 1
    pause.entered.clear()
    await wire.send("41/messages,")
    await within(pause.entered.wait())
    assert status()["connections"] == {"open": 0, "being_admitted": 1, "by_namespace": {}, "by_transport": {}}
    assert status()["timers"]["expiry"] == 0
    pause.release.set()
    assert str(await other.frame()).startswith("40/slow,")


async def test_refusals_by_code() -> None:
    case = guarded(
        "/messages",
        "/admin",
        namespaces=["/messages", NamespacePolicy("/admin", scopes={"admin"})],
        limits=Limits(repeats_per_namespace=None),
    )
    wire = await open_wire(case.app)
    for packet in (
        connect_packet(token=None),
        connect_packet(token=None),
        connect_packet(token="no.token.this"),
        connect_packet(token=mint(lifetime=-100)),
        connect_packet("/admin"),
        connect_packet("/unknown"),
    ):
        await wire.send(packet)
        assert str(await wire.frame()).startswith("44")
    assert case.guard.status()["refused"] == {
        "token_missing": 2,
        "token_malformed": 1,
        "token_expired": 1,
        "insufficient_scope": 1,
        "invalid_namespace": 1,
    }
    assert case.guard.status()["accepted"] == 0


async def test_a_client_that_went_while_it_was_admitted_was_neither_accepted_nor_refused() -> None:
    pause = Pause()
    case = guarded(handlers={"connect": pause.wait})
    client = await Client(case.app, "polling").open()
    posting = asyncio.ensure_future(client.post(connect_packet()))
    await within(pause.entered.wait())
    await client.close()
    pause.release.set()
    await posting
    await until(lambda: not case.guard.status()["connections"]["being_admitted"])
    assert case.guard.status()["refused"] == {}
    assert case.guard.status()["connections"]["open"] == 0


async def test_the_store() -> None:
    store = Store()
    case = guarded(store=store)
    assert case.guard.status()["store"] == {"kind": "Store", "available": True}
    store.error = OSError("no route to host")
    await open_wire(case.app, connect_packet())
    await until(lambda: not case.guard.status()["sessions"]["open"])
    assert case.guard.status()["store"] == {"kind": "Store", "available": False}
    assert guarded(store=MemoryStore()).guard.status()["store"]["kind"] == "MemoryStore"


async def test_keys() -> None:
    auth = KeyServer(fails=True).auth()
    case = guarded(auth=auth)
    (keys,) = case.guard.status()["keys"]
    assert (keys["state"], keys["keys"], keys["key_ids"]) == ("empty", 0, [])
    assert auth.outage() is None
    await until(lambda: case.guard.status()["keys"][0]["state"] == "unavailable")
    both = guarded(auth=[auth, make_auth(issuer="https://other.example.com/")])
    assert len(both.guard.status()["keys"]) == 1, "a shared secret is always there"


async def test_without_auth() -> None:
    case = guarded(auth=None)
    await joined_wire(case.app)
    status = case.guard.status()
    assert status["connections"]["open"] == 1
    assert status["timers"] == {"expiry": 0, "connect": 0, "ending": 0}
    assert status["keys"] == []


async def test_endings_that_are_on_their_way() -> None:
    pause = Pause()
    case = guarded(handlers={"disconnect": pause.wait})
    _, sid = await joined_wire(case.app)
    task = asyncio.ensure_future(case.guard.disconnect(sid=sid))
    await within(pause.entered.wait())
    assert case.guard.status()["timers"]["ending"] == 1
    pause.release.set()
    assert await task == 1
    await until(lambda: case.guard.status()["timers"]["ending"] == 0)


async def test_it_is_json_without_a_secret() -> None:
    case: Guarded = guarded()
    token = mint("somebody", jti="token-1")
    wire = await open_wire(case.app, connect_packet(token=token))
    sid = json.loads(str(await wire.frame()).removeprefix("40/messages,"))["sid"]
    text = json.dumps(case.guard.status())
    for secret in (token, sid, case.eio_sid, "somebody", "token-1"):
        assert secret not in text


async def test_what_is_handed_out_is_a_copy() -> None:
    case = guarded()
    case.guard.status()["refused"]["made_up"] = 5
    case.guard.status()["sessions"]["by_transport"]["made_up"] = 5
    assert case.guard.status() == IDLE
