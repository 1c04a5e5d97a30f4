"""One run of the doctor: what every question needs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .network import Channel, Network
from .observations import Answer, Failure, Observations, Reply
from .sessions import PollingChannel
from .wire import Meaning, meaning, open_packet, readable

__all__ = ["Examination", "Line", "Mark", "describe"]

Mark = Literal["good", "note", "bad", "skipped"]


@dataclass(frozen=True, slots=True)
class Line:
    """What a check saw, in one line.

    Attributes:
        mark: how it went.
        text: the line.
        details: more of it.
    """

    mark: Mark
    text: str
    details: tuple[str, ...] = ()


def describe(reply: Reply | None) -> str:
    """A reply in a few words."""
    if reply is None:
        return "not asked"
    if isinstance(reply, Failure):
        return f"{reply.kind}: {reply.text}"
    found = meaning(reply)
    if found is Meaning.OPEN:
        return f"{reply.status}, session opened in {reply.seconds * 1000:.0f} ms"
    body = readable(reply.body)
    said = f", {found.value}" if found is not Meaning.OTHER else ""
    return f"{reply.status}{said}{f': {body}' if body else ', empty body'}"


@dataclass(slots=True)
class Examination:
    """One run of the doctor.

    Attributes:
        network: makes the requests.
        seen: where the observations go.
        namespaces: to be joined; empty when nobody named one.
        token: for the CONNECT; None sends none.
        idle: seconds for which quiet connections are held; None leaves that out.
        secrets: what no output may show; grows while sessions are opened.
        begun: the polling sessions that are still open.
    """

    network: Network
    seen: Observations
    namespaces: Sequence[str] = ()
    token: str | None = None
    idle: float | None = None
    secrets: set[str] = field(default_factory=set)
    begun: list[str] = field(default_factory=list)

    async def leave(self) -> None:
        """End the polling sessions that are still open, or the server would wait for them."""
        while self.begun:
            await PollingChannel(self.network, self.begun.pop(), self.accepted_origin()).transmit("1")

    async def get(self, url: str, origin: str | None = None) -> Reply:
        """A GET that may begin a polling session."""
        reply = await self.network.request(url, origin=origin)
        sid = self.remember(reply)
        if sid is not None:
            self.begun.append(sid)
        return reply

    async def open(self, origin: str | None) -> Reply:
        """Open a WebSocket, and close it again."""
        async with self.network.open(origin=origin) as found:
            reply = found.answer if isinstance(found, Channel) else found
        self.remember(reply)
        return reply

    def remember(self, reply: Reply) -> str | None:
        """Note the secrets of a reply, and give the session id."""
        self.secrets.update(value for value in self.network.cookies.values() if len(value) >= 8)
        data = open_packet(reply.body) if isinstance(reply, Answer) else None
        if data is None:
            return None
        sid: str = data["sid"]
        self.secrets.add(sid)
        return sid

    async def begin(self) -> str | None:
        """Begin a polling session, without the cookies of any before; None when it doesn't open."""
        self.network.cookies.clear()
        url = self.network.target.url("polling")
        return self.remember(await self.network.request(url, origin=self.accepted_origin()))

    def accepted_origin(self) -> str | None:
        """The origin for requests that are not about origins: as a browser, unless it is refused."""
        return self.seen.origin if meaning(self.seen.polling_origin) is Meaning.OPEN else None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Channel | PollingChannel | None]:
        """A session over whichever transport opens; None when none does."""
        for reply, origin in ((self.seen.websocket_origin, self.seen.origin), (self.seen.websocket, None)):
            if meaning(reply) is Meaning.OPEN:
                async with self.network.open(origin=origin) as found:
                    self.remember(found.answer if isinstance(found, Channel) else found)
                    yield found if isinstance(found, Channel) else None
                return
        sid = await self.begin()
        if sid is None:
            yield None
            return
        polling = PollingChannel(self.network, sid, self.accepted_origin())
        yield polling
        await polling.transmit("1")

    def announced(self) -> dict[str, Any]:
        """The data of the first OPEN packet; empty when there was none."""
        for reply in (self.seen.polling, self.seen.websocket, self.seen.websocket_origin):
            data = open_packet(reply.body) if isinstance(reply, Answer) else None
            if data is not None:
                return data
        return {}

    def interval(self) -> float | None:
        """Seconds between two pings, as announced; None when there was no announcement."""
        interval = self.announced().get("pingInterval")
        return interval / 1000 if isinstance(interval, int | float) else None

    def joined(self) -> str | None:
        """A namespace in which a connection may stay: servers close one that joins none."""
        return next((join.namespace for join in self.seen.joins if join.outcome == "joined"), None)
