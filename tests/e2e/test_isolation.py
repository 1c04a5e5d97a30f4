"""No byte of the application reaches a client before its token was accepted for that namespace, nor after a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgpack
import pytest
import websockets

from socketguard.testing import mint
from tests.e2e.support import PATIENCE, Server, new_address, wait_until

TOKEN = mint("u-1", tenant_id="acme")
NEWS = "for members only"


class Raw(Protocol):
    """A session without any Socket.IO client on top."""

    async def send(self, frame: str | bytes) -> None: ...
    async def frame(self) -> str | bytes: ...


class RawWebSocket:
    def __init__(self, wire: Any) -> None:
        self.wire = wire

    async def send(self, frame: str | bytes) -> None:
        await self.wire.send(frame)

    async def frame(self) -> str | bytes:
        async with asyncio.timeout(PATIENCE):
            while True:
                found: str | bytes = await self.wire.recv()
                if found != "2":
                    return found
                await self.wire.send("3")


class RawPolling:
    def __init__(self, url: str, address: str) -> None:
        self.url = url
        self.headers = {"X-Forwarded-For": address}
        self.frames: list[str | bytes] = []

    def _request(self, body: bytes | None = None) -> str:
        request = urllib.request.Request(self.url, body, self.headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    async def open(self) -> None:
        opened = await asyncio.to_thread(self._request)
        self.url += "&sid=" + opened.split('"sid":"')[1].split('"')[0]

    async def send(self, frame: str | bytes) -> None:
        assert isinstance(frame, str)
        assert await asyncio.to_thread(self._request, frame.encode()) == "OK"

    async def frame(self) -> str | bytes:
        async with asyncio.timeout(PATIENCE):
            while not self.frames:
                body = await asyncio.to_thread(self._request)
                self.frames += [frame for frame in body.split("\x1e") if frame != "2"]
                if "2" in body.split("\x1e"):
                    await self.send("3")
        return self.frames.pop(0)


@contextlib.asynccontextmanager
async def raw(server: Server, transport: str) -> AsyncIterator[Raw]:
    query = f"/socket.io/?EIO=4&transport={transport}"
    address = new_address()
    if transport == "polling":
        session = RawPolling(server.url + query, address)
        await session.open()
        try:
            yield session
        finally:
            await session.send("1")
        return
    url = server.url.replace("http", "ws") + query
    async with websockets.connect(url, additional_headers={"X-Forwarded-For": address}, proxy=None) as wire:
        assert str(await wire.recv()).startswith("0{")
        yield RawWebSocket(wire)


async def broadcast(server: Server, namespace: str) -> None:
    await asyncio.to_thread(server.post, f"/control/broadcast?namespace={namespace}")


REFUSED = [
    ("/messages", "", "token_missing"),
    ("/messages", '{"token":"garbage"}', "token_malformed"),
    ("/messages", f'{{"token":"{mint("u-1", lifetime=-60)}"}}', "token_expired"),
    ("/scheduler", f'{{"token":"{TOKEN}"}}', "insufficient_scope"),
    ("/tenant-globex", f'{{"token":"{TOKEN}"}}', "insufficient_scope"),
    ("/crash", f'{{"token":"{TOKEN}"}}', "internal_error"),
    ("/raises", f'{{"token":"{TOKEN}"}}', "internal_error"),
    ("/cancelled", f'{{"token":"{TOKEN}"}}', "internal_error"),
    ("/returns-false", f'{{"token":"{TOKEN}"}}', "Connection rejected by server"),
    ("/kicks", f'{{"token":"{TOKEN}"}}', "Connection rejected by server"),
    ("/nowhere", f'{{"token":"{TOKEN}"}}', "Invalid namespace"),
]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(("namespace", "auth", "why"), REFUSED)
async def test_a_refused_client_hears_nothing(crm: Server, transport: str, namespace: str, auth: str, why: str) -> None:
    async with raw(crm, transport) as session:
        await session.send(f"40{namespace},{auth}")
        answer = str(await session.frame())
        assert answer.startswith(f"44{namespace},")
        assert why in answer
        await broadcast(crm, namespace)
        await session.send(f'42{namespace},1["whoami"]')
        # What is sent to a session keeps its order: with the answer to this, everything before it would be here.
        await session.send("40/barrier,")
        assert await session.frame() == '44/barrier,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_member_hears_it(crm: Server, transport: str) -> None:
    # The counterpart, without which the other tests of this file would show nothing.
    async with raw(crm, transport) as session:
        await session.send(f'40/messages,{{"token":"{TOKEN}"}}')
        assert str(await session.frame()).startswith('40/messages,{"sid":')
        await broadcast(crm, "/messages")
        for _ in range(2):
            assert await session.frame() == f'42/messages,["news","{NEWS}"]'


async def while_it_waits(crm: Server, session: Raw, namespace: str, token: str) -> list[str]:
    """Join a namespace that waits for its gate, broadcast meanwhile, and return the first two frames."""
    # Over polling the answer to a POST comes when its packets have been processed.
    sending = asyncio.create_task(session.send(f'40{namespace},{{"token":"{token}"}}'))
    await asyncio.to_thread(wait_until, lambda: namespace in crm.request("/control/entered"), crm.output)
    await broadcast(crm, namespace)
    await asyncio.to_thread(crm.post, "/control/open")
    await sending
    await session.send("40/barrier,")
    return [str(await session.frame()) for _ in range(2)]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("welcome", [True, False])
async def test_a_client_that_is_being_checked_hears_nothing(crm: Server, transport: str, welcome: bool) -> None:
    await asyncio.to_thread(crm.post, "/control/close")
    async with raw(crm, transport) as session:
        frames = await while_it_waits(crm, session, "/asks", mint("u-1", welcome=welcome))
    assert frames[0].startswith('40/asks,{"sid":' if welcome else "44/asks,{")
    assert frames[1] == '44/barrier,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("welcome", [True, False])
async def test_once_its_token_was_accepted_a_client_hears_broadcasts(
    crm: Server, transport: str, welcome: bool
) -> None:
    # As the documentation says: python-socketio enters it into the namespace while its connect handler runs.
    await asyncio.to_thread(crm.post, "/control/close")
    async with raw(crm, transport) as session:
        frames = await while_it_waits(crm, session, "/waits", mint("u-1", tenant_id="acme", welcome=welcome))
    assert frames == [f'42/waits,["news","{NEWS}"]'] * 2


async def test_refused_and_pending_clients_with_msgpack(packed_crm: Server) -> None:
    def packet(kind: int, namespace: str, data: Any = None) -> bytes:
        packed: bytes = msgpack.packb({"type": kind, "nsp": namespace, "data": data})
        return packed

    async with raw(packed_crm, "websocket") as session:
        await session.send(packet(0, "/messages", {"token": "garbage"}))
        first = msgpack.unpackb(await session.frame())
        await broadcast(packed_crm, "/messages")
        await session.send(packet(0, "/barrier"))
        second = msgpack.unpackb(await session.frame())
        assert (first["type"], first["nsp"], first["data"]["data"]["code"]) == (4, "/messages", "token_malformed")
        assert (second["type"], second["nsp"]) == (4, "/barrier")
        assert second["data"] == {"message": "Invalid namespace"}


async def test_a_client_that_has_left_a_namespace_hears_nothing(crm: Server) -> None:
    async with raw(crm, "websocket") as session:
        for namespace in ("/messages", "/attendances"):
            await session.send(f'40{namespace},{{"token":"{TOKEN}"}}')
            await session.frame()
        await session.send("41/messages,")
        await session.send("40/barrier,")
        await session.frame()
        await broadcast(crm, "/messages")
        await broadcast(crm, "/attendances")
        assert await session.frame() == f'42/attendances,["news","{NEWS}"]'
