"""The sockets of the doctor: names, connections, TLS, and HTTP and WebSocket requests over fresh connections.

It connects directly: proxies of the environment (``HTTPS_PROXY``) are not used, because they would answer in place of
what is examined. Certificates are checked with OpenSSL's defaults, so ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.cookies
import json
import logging
import math
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal, cast

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Origin

from socketguard import __version__

from .observations import CHATTER, Answer, Failure, FailureKind, Hold, Reply, Tls, packets
from .target import Target

__all__ = ["Channel", "Network", "PollingChannel", "failure", "hold", "join"]

USER_AGENT = f"socketguard-doctor/{__version__}"
BODY_LIMIT = 16_384
"""Bytes of a body that are read: no answer of Engine.IO that matters here is longer."""

GAP = 0.2
"""Seconds between the beginnings of two requests, so that an examination is no load."""

# The websockets library writes refused handshakes, with their headers, to its logger at the level DEBUG.
_SILENT = logging.getLogger("socketguard.doctor.websockets")
_SILENT.addFilter(lambda _: False)


class _Connect(connect):
    """Follows no redirect: browsers don't either for a WebSocket."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Channel:
    """An open WebSocket; the body of ``answer`` is its first frame."""

    def __init__(self, socket: ClientConnection, answer: Answer) -> None:
        self._socket = socket
        self.answer = answer

    async def receive(self) -> str:
        """The next frame; a binary one as an empty text."""
        return await _text(self._socket)

    async def transmit(self, text: str) -> None:
        """Send a frame."""
        await self._socket.send(text)

    async def ping(self, answered: Callable[[], None]) -> None:
        """Send a ping of the WebSocket protocol; ``answered`` is called when the server's pong comes."""
        pong = cast("asyncio.Future[float]", await self._socket.ping())
        pong.add_done_callback(lambda done: None if done.cancelled() or done.exception() else answered())

    @property
    def close_code(self) -> int | None:
        """The code of the server's close frame; None when the connection ended without one."""
        received = self._socket.protocol.close_rcvd
        return None if received is None else int(received.code)


class Network:
    """Makes requests, each over a connection of its own; ``timeout`` seconds are for one, with its connection."""

    def __init__(self, target: Target, *, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self.cookies: dict[str, str] = {}  # what the answers have set; sent only where a probe asks for it
        self.checks_certificate = True
        self._next = -math.inf  # when the next request may begin
        self._contexts = {checking: _tls_context(checking=checking) for checking in (True, False)}

    @property
    def _context(self) -> ssl.SSLContext:
        return self._contexts[self.checks_certificate]

    def delay(self, now: float, *, at_once: bool = False) -> float:
        """Seconds until the next request may begin; one that begins at once makes those after it wait longer."""
        begin = max(self._next, now)
        self._next = begin + GAP
        return 0 if at_once else begin - now

    async def addresses(self) -> list[str] | Failure:
        """Resolve the host."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout):
                found = await asyncio.get_running_loop().getaddrinfo(
                    self.target.host, self.target.port, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError, TimeoutError) as problem:
            return Failure("dns", str(problem) or type(problem).__name__, time.monotonic() - begin)
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    async def connects(self) -> float | Failure:
        """Connect by TCP alone, and give the seconds that it took."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout):
                _, writer = await asyncio.open_connection(self.target.host, self.target.port)
        except (OSError, TimeoutError) as problem:
            return failure(problem, time.monotonic() - begin)
        writer.transport.abort()
        return time.monotonic() - begin

    async def tls(self) -> Tls | Failure:
        """Shake hands by TLS. When the certificate is not trusted, once more without checking it."""
        found = await self.shake_hands(checking=True)
        if not isinstance(found, Failure) or found.kind != "certificate":
            return found
        unchecked = await self.shake_hands(checking=False)
        if isinstance(unchecked, Failure):
            return unchecked
        self.checks_certificate = False
        return Tls(unchecked.version, unchecked.alpn, None, found.text)

    async def shake_hands(self, *, checking: bool) -> Tls | Failure:
        """Shake hands by TLS once, with or without a look at the certificate."""
        context = _tls_context(checking=checking)
        context.set_alpn_protocols(["h2", "http/1.1"])
        begin = time.monotonic()
        try:
            await asyncio.sleep(self.delay(begin))
            async with asyncio.timeout(self.timeout):
                _, writer = await asyncio.open_connection(
                    self.target.host, self.target.port, ssl=context, server_hostname=self.target.host
                )
        except (OSError, TimeoutError) as problem:
            return failure(problem, time.monotonic() - begin)
        shaken: ssl.SSLObject = writer.get_extra_info("ssl_object")
        # Empty where the certificate is not checked.
        expires = cast(dict[str, Any], shaken.getpeercert() or {}).get("notAfter")
        left = None if expires is None else (ssl.cert_time_to_seconds(expires) - time.time()) / 86_400
        found = Tls(shaken.version() or "TLS", shaken.selected_alpn_protocol(), left)
        writer.transport.abort()
        return found

    async def request(
        self,
        url: str,
        *,
        method: str = "GET",
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
        cookies: bool = False,
        timeout: float | None = None,
        limit: int = BODY_LIMIT,
        at_once: bool = False,
    ) -> Reply:
        """Make one HTTP request over a connection of its own; redirects are not followed."""
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        sent |= self._identity(origin, cookies)
        if body is not None:
            sent["Content-Type"] = "text/plain;charset=UTF-8"
        await asyncio.sleep(self.delay(time.monotonic(), at_once=at_once))
        begin = time.monotonic()
        try:
            async with (
                asyncio.timeout(self.timeout if timeout is None else timeout),
                httpx2.AsyncClient(verify=self._context, trust_env=False, timeout=None) as client,
                client.stream(method, url, headers=sent, content=body) as response,
            ):
                chunks, size = [], 0
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size >= limit:
                        break
        except (OSError, TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as problem:
            return failure(problem, time.monotonic() - begin)
        answer = _answer(response.status_code, response.headers.multi_items(), b"".join(chunks)[:limit], begin)
        if url.startswith(f"{self.target.origin}/"):
            self._keep_cookies(answer)
        return answer

    @contextlib.asynccontextmanager
    async def open(
        self, *, sid: str | None = None, origin: str | None = None, cookies: bool = False, deflate: bool = False
    ) -> AsyncIterator[Channel | Reply]:
        """Open a WebSocket, or yield what came in its place, and close it at the end of the block.

        With the ``sid`` of a polling session that is to be upgraded no first frame is waited for.
        """
        url = self.target.url("websocket", sid=sid, websocket=True)
        sent = self._identity(None, cookies)
        await asyncio.sleep(self.delay(time.monotonic()))
        begin = time.monotonic()
        opened: ClientConnection | None = None
        first = ""
        result: Channel | Reply
        try:
            async with asyncio.timeout(self.timeout):
                opened = await _Connect(
                    url,
                    origin=None if origin is None else Origin(origin),
                    additional_headers=sent,
                    user_agent_header=USER_AGENT,
                    ssl=self._context if self.target.tls else None,
                    proxy=None,
                    compression="deflate" if deflate else None,
                    open_timeout=None,
                    ping_interval=None,
                    close_timeout=1,
                    logger=_SILENT,
                )
                first = await _text(opened) if sid is None else ""
        except InvalidStatus as refused:
            response = refused.response
            result = _answer(response.status_code, response.headers.raw_items(), response.body[:BODY_LIMIT], begin)
            self._keep_cookies(result)
        except TimeoutError as problem:
            # An open WebSocket on which nothing came is an answer, too.
            result = failure(problem, time.monotonic() - begin) if opened is None else Answer(101, seconds=self.timeout)
        except (OSError, WebSocketException) as problem:
            result = failure(problem, time.monotonic() - begin)
        else:
            headers = () if opened.response is None else opened.response.headers.raw_items()
            answer = _answer(101, headers, first.encode()[:BODY_LIMIT], begin)
            self._keep_cookies(answer)
            result = Channel(opened, answer)
        try:
            yield result
        finally:
            if opened is not None:
                await opened.close()

    def _identity(self, origin: str | None, cookies: bool) -> dict[str, str]:
        sent = {} if origin is None else {"Origin": origin}
        if cookies and self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return sent

    def _keep_cookies(self, answer: Answer) -> None:
        for line in answer.all("set-cookie"):
            jar = http.cookies.SimpleCookie()
            try:
                jar.load(line)
            except http.cookies.CookieError:
                continue
            self.cookies |= {name: morsel.coded_value for name, morsel in jar.items()}


def _tls_context(*, checking: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not checking:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _text(socket: ClientConnection) -> str:
    frame = await socket.recv()
    return frame if isinstance(frame, str) else ""


def _answer(status: int, headers: Any, body: bytes | bytearray, begin: float) -> Answer:
    lower = tuple((name.lower(), value) for name, value in headers)
    return Answer(status, lower, body.decode("utf-8", "replace"), time.monotonic() - begin)


class PollingChannel:
    """A polling session, with the methods of a `Channel`."""

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
        """The next packet; ``ConnectionClosed`` when the session doesn't live any more."""
        while not self._waiting:
            reply = await self.poll(self._network.timeout)
            if isinstance(reply, Failure) or reply.status != 200:
                raise ConnectionClosed(None, None, None)
            self._waiting = packets(reply.body)
        return self._waiting.pop(0)


Joined = tuple[Literal["joined", "refused", "silent", "closed"], str, Any]


async def join(channel: Channel | PollingChannel, namespace: str, token: str | None, timeout: float) -> Joined:
    """Ask for a namespace and answer pings meanwhile: the outcome, and the message and data of a refusal."""
    prefix = "" if namespace == "/" else namespace
    auth = ("," if prefix else "") + ("" if token is None else json.dumps({"token": token}))
    try:
        async with asyncio.timeout(timeout):
            await channel.transmit(f"40{prefix}{auth}")
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


class Silence:
    """For how long one side said nothing at all, at most."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._longest = 0.0

    def broken(self) -> None:
        """It has said something."""
        now = time.monotonic()
        self._longest, self._last = self.longest(now), now

    def longest(self, now: float) -> float:
        """In seconds, the one that lasts now among them."""
        return max(self._longest, now - self._last)


async def hold(channel: Channel, kind: Literal["idle", "busy"], seconds: float) -> Hold:
    """Keep a WebSocket, which has joined a namespace, open and answer its pings; a busy one talks as well.

    It sends pings of the WebSocket protocol too, which every server answers by itself (RFC 6455 section 5.5.2): proxies
    count the two directions apart.
    """
    begin = last = time.monotonic()
    pings = 0
    ours, theirs = Silence(begin), Silence(begin)
    while (left := begin + seconds - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left if kind == "idle" else min(left, CHATTER)):
                packet = await channel.receive()
            last = time.monotonic()
            theirs.broken()
            if packet == "2":
                pings += 1
                await channel.transmit("3")
        except TimeoutError:
            if kind == "busy":
                with contextlib.suppress(ConnectionClosed):
                    await channel.transmit("3")
                    await channel.ping(theirs.broken)
                ours.broken()
        except ConnectionClosed:
            now = time.monotonic()
            outcome: Literal["cut", "closed"] = "cut" if channel.close_code is None else "closed"
            pause = max(ours.longest(now), theirs.longest(now))
            return Hold(kind, outcome, now - begin, pings, now - last, channel.close_code, pause=pause)
    return Hold(kind, "held", seconds, pings)


# --- which layer failed

_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], FailureKind], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "tls"),
    (socket.gaierror, "dns"),
    (ConnectionRefusedError, "refused"),
    ((TimeoutError, httpx2.TimeoutException), "timeout"),
    ((ConnectionError, httpx2.ReadError), "reset"),
)
_SAYS_REFUSED = re.compile(r"refused|Connect call failed|WinError 1225", re.IGNORECASE)


def failure(problem: BaseException, seconds: float) -> Failure:
    """Tell which layer an exception comes from, by the exceptions behind it."""
    if isinstance(problem, InvalidHandshake) and isinstance(problem.__cause__, EOFError):
        return Failure("reset", "the connection was closed without an answer", seconds)
    text = str(problem) or type(problem).__name__
    known = ((kind, str(cause) or text) for cause in _chain(problem) if (kind := _kind(cause)))
    return Failure(*next(known, ("protocol", text)), seconds)


def _chain(problem: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = problem
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            yield from cause.exceptions
        cause = cause.__cause__ or cause.__context__


def _kind(problem: BaseException) -> FailureKind | None:
    for types, kind in _KINDS:
        if isinstance(problem, types):
            return kind
    if isinstance(problem, httpx2.RemoteProtocolError) and "without sending" in str(problem):
        return "reset"
    if isinstance(problem, OSError):  # for several addresses asyncio joins the texts into one, without a number
        return "refused" if _SAYS_REFUSED.search(str(problem)) else "unreachable"
    return None
