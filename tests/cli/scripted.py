"""A server that answers by a script, for the doctor's own tests: real sockets, in a thread of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

OPEN = '0{"sid":"secret-session","upgrades":["websocket"],"pingTimeout":20000,"pingInterval":25000,"maxPayload":2000}'


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str

    @property
    def websocket(self) -> bool:
        return "upgrade" in self.headers


class Talk:
    """The server's end of a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, text: str | bytes) -> None:
        opcode, data = (1, text.encode()) if isinstance(text, str) else (2, text)
        length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
        self._writer.write(bytes([0x80 | opcode]) + length + data)
        await self._writer.drain()

    async def hear(self) -> str | None:
        """The next text; None when the client has gone."""
        try:
            while True:
                first, second = await self._reader.readexactly(2)
                size = second & 127
                if size == 126:
                    size = int.from_bytes(await self._reader.readexactly(2), "big")
                mask = await self._reader.readexactly(4)
                data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await self._reader.readexactly(size)))
                if first & 15 == 8:
                    self._writer.write(b"\x88" + bytes([len(data)]) + data)
                    return None
                if first & 15 == 1:
                    return data.decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def end(self, code: int) -> None:
        """Send a close frame."""
        self._writer.write(b"\x88\x02" + code.to_bytes(2, "big"))


Script = Callable[[Talk], Awaitable[None]]


def answer(status: int, body: str = "", *headers: str) -> bytes:
    """An HTTP answer as bytes."""
    data = body.encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


@dataclass
class Engine:
    """A small Engine.IO server, and what it was asked.

    The ``overrides`` come instead of the usual answer to ``"GET polling"``, ``"POST"``, ``"GET sid"``, ``"OPTIONS"``,
    ``"websocket"``, ``"websocket sid"``, each with ``" origin"`` behind it when only those with an Origin are meant:
    bytes to be sent, what a WebSocket does, or None to close the connection.
    """

    overrides: dict[str, bytes | Script | None] = field(default_factory=dict)
    connect: str | None = "40{}"  # the answer to a CONNECT; None for silence, empty to close
    said: Script | None = None  # what a WebSocket says after it has opened; the usual when None
    asked: list[Asked] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)  # of the POSTs
    heard: list[str] = field(default_factory=list)  # on WebSockets, as long as they say the usual

    async def handle(self, asked: Asked) -> bytes | Script | None:
        self.asked.append(asked)
        sid = " sid" if "sid" in asked.query and asked.method != "POST" else ""
        kind = "websocket" if asked.websocket else asked.method if asked.method != "GET" or sid else "GET polling"
        for key in (f"{kind}{sid} origin", f"{kind}{sid}"):
            if key in self.overrides and (not key.endswith("origin") or "origin" in asked.headers):
                return self.overrides[key]
        if asked.websocket:
            return self.said or (self._upgraded if sid else self._live)
        if asked.method == "POST":
            self.bodies.append(asked.body)
            return answer(200, "ok")
        if asked.method == "OPTIONS":
            return answer(200, "OK")
        if sid:
            return answer(200, f"2\x1e{self.connect}")
        return answer(200, OPEN.replace("secret-session", f"secret-session-{len(self.asked)}"))

    async def _upgraded(self, talk: Talk) -> None:
        if await talk.hear() == "2probe":
            await talk.say("6")
            await talk.say("3probe")
        while await talk.hear() is not None:
            pass

    async def _live(self, talk: Talk) -> None:
        await talk.say(OPEN)
        while (heard := await talk.hear()) is not None:
            self.heard.append(heard)
            if not heard.startswith("40"):
                continue
            await talk.say("2")
            if self.connect == "":
                return
            if self.connect is not None:
                await talk.say(self.connect)


async def _serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        begin = await reader.readexactly(1)
        if not begin.isalpha():  # a TLS handshake, for example
            writer.write(answer(400, "no HTTP"))
            return
        head = (begin + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        found = await engine.handle(Asked(method, parts.path, query, headers, body.decode()))
        if isinstance(found, bytes):
            writer.write(found)
        elif found is not None:
            digest = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())  # noqa: S324
            accepted = base64.b64encode(digest.digest()).decode()
            lines = ["HTTP/1.1 101 X", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accepted}"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await found(Talk(reader, writer))
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


@contextlib.contextmanager
def serving(engine: Engine, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    ready = threading.Event()
    ports: list[int] = []
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: _serve(engine, r, w), "127.0.0.1", 0, ssl=tls)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield ports[0]
    finally:
        stop[0]()
        thread.join(30)
