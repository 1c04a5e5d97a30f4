"""What happens in a session: joining a namespace, and staying."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any, Literal

from websockets.exceptions import ConnectionClosed

from .network import Channel, Network
from .observations import Failure, Hold, Reply
from .wire import packets

__all__ = ["PollingChannel", "hold", "join"]


class PollingChannel:
    """A polling session, with the methods of a `Channel`.

    Args:
        network: makes the requests.
        sid: of the Engine.IO session.
        origin: the ``Origin`` header; None for none.
    """

    def __init__(self, network: Network, sid: str, origin: str | None) -> None:
        self._network = network
        self._url = network.target.url("polling", sid=sid)
        self._origin = origin
        self._waiting: list[str] = []

    async def transmit(self, text: str) -> None:
        """Send a packet."""
        await self._network.request(self._url, method="POST", body=text, origin=self._origin, cookies=True)

    async def poll(self, timeout: float) -> Reply:
        """One GET, as long as it takes."""
        return await self._network.request(self._url, origin=self._origin, cookies=True, timeout=timeout)

    async def receive(self) -> str:
        """The next packet.

        Raises:
            ConnectionClosed: the session doesn't live any more.
        """
        while not self._waiting:
            reply = await self.poll(self._network.timeout)
            if isinstance(reply, Failure) or reply.status != 200:
                raise ConnectionClosed(None, None, None)
            self._waiting = packets(reply.body)
        return self._waiting.pop(0)


async def join(
    channel: Channel | PollingChannel, namespace: str, token: str | None, timeout: float
) -> tuple[Literal["joined", "refused", "silent", "closed"], str, Any]:
    """Ask for a namespace, and wait for the answer; pings are answered meanwhile.

    Returns:
        The outcome, and the message and data of a refusal.
    """
    prefix = "" if namespace == "/" else namespace
    auth = "" if token is None else json.dumps({"token": token})
    between = "," if prefix else ""
    try:
        async with asyncio.timeout(timeout):
            await channel.transmit(f"40{prefix}{between}{auth}")
            while True:
                packet = await channel.receive()
                if packet == "2":
                    await channel.transmit("3")
                elif packet.startswith(f"40{prefix}"):
                    return "joined", "", None
                elif packet.startswith(f"44{prefix}"):
                    return "refused", *_refusal(packet[2 + len(prefix) :].removeprefix(","))
                elif packet.startswith(("1", "41")):
                    return "closed", "", None
    except TimeoutError:
        return "silent", "", None
    except ConnectionClosed:
        return "closed", "", None


def _refusal(text: str) -> tuple[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text[:200], None
    if isinstance(content, dict):
        return str(content.get("message", ""))[:200], content.get("data")
    return str(content)[:200], None


async def hold(channel: Channel, kind: Literal["idle", "busy"], seconds: float, *, every: float) -> Hold:
    """Keep a WebSocket open and answer its pings.

    Args:
        channel: has joined a namespace.
        kind: ``busy`` talks as well.
        seconds: for how long.
        every: seconds between two frames of a busy one.
    """
    begin = last = time.monotonic()
    pings = 0
    while True:
        left = begin + seconds - time.monotonic()
        if left <= 0:
            return Hold(kind, "held", seconds, pings)
        try:
            async with asyncio.timeout(left if kind == "idle" else min(left, every)):
                packet = await channel.receive()
            last = time.monotonic()
            if packet == "2":
                pings += 1
                await channel.transmit("3")
        except TimeoutError:
            if kind == "busy":
                with contextlib.suppress(ConnectionClosed):
                    await channel.transmit("3")
        except ConnectionClosed:
            now = time.monotonic()
            outcome: Literal["cut", "closed"] = "cut" if channel.close_code is None else "closed"
            return Hold(kind, outcome, now - begin, pings, now - last, channel.close_code)
