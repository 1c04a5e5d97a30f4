"""The sockets of the doctor: names, connections, TLS, and HTTP and WebSocket requests over fresh connections.

It connects directly: proxies of the environment (``HTTPS_PROXY``) are not used, because they would answer in place of
what is examined. Certificates are checked with OpenSSL's defaults, so ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count.
"""

from __future__ import annotations

import asyncio
import http.cookies
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, WebSocketException
from websockets.typing import Origin

from socketguard import __version__

from .observations import Answer, Failure, FailureKind, Reply, Tls
from .target import Target

__all__ = ["Channel", "Network", "Pace", "failure"]

USER_AGENT = f"socketguard-doctor/{__version__}"
BODY_LIMIT = 16_384
"""Bytes of a body that are read: no answer of Engine.IO that matters here is longer."""

GAP = 0.2
"""Seconds between the beginnings of two requests."""

# The websockets library writes refused handshakes, with their headers, to its logger at the level DEBUG.
_SILENT = logging.getLogger("socketguard.doctor.websockets")
_SILENT.addFilter(lambda _: False)


class Pace:
    """Keeps requests apart, so that an examination is no load.

    Args:
        gap: seconds between the beginnings of two requests.
        clock: seconds.
        sleep: how to wait.
    """

    def __init__(
        self,
        gap: float = GAP,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap, self._clock, self._sleep = gap, clock, sleep
        self._next = clock()

    async def turn(self, *, at_once: bool = False) -> None:
        """Wait until the next request may begin.

        Args:
            at_once: begins without waiting; the requests after it wait longer instead.
        """
        now = self._clock()
        begin = max(self._next, now)
        self._next = begin + self._gap
        if begin > now and not at_once:
            await self._sleep(begin - now)


class _Connect(connect):
    """Follows no redirect: browsers don't either for a WebSocket."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Channel:
    """An open WebSocket.

    Attributes:
        answer: the handshake; its body is the first frame.
    """

    def __init__(self, socket: ClientConnection, answer: Answer) -> None:
        self._socket = socket
        self.answer = answer

    async def receive(self) -> str:
        """The next frame; a binary one as an empty text.

        Raises:
            ConnectionClosed: there is none any more.
        """
        return await _text(self._socket)

    async def transmit(self, text: str) -> None:
        """Send a frame.

        Raises:
            ConnectionClosed: nobody takes it any more.
        """
        await self._socket.send(text)

    @property
    def close_code(self) -> int | None:
        """The code of the server's close frame; None when the connection ended without one."""
        received = self._socket.protocol.close_rcvd
        return None if received is None else int(received.code)


class Network:
    """Makes requests, each over a connection of its own.

    Args:
        target: what is examined.
        timeout: seconds for one request, with its connection.
        pace: keeps requests apart.
    """

    def __init__(self, target: Target, *, timeout: float, pace: Pace) -> None:
        self.target = target
        self.timeout = timeout
        self.cookies: dict[str, str] = {}
        """What the answers have set so far. Sent only where a probe asks for it."""
        self.checks_certificate = True
        self._pace = pace
        self._checking = ssl.create_default_context()
        self._unchecking = ssl.create_default_context()
        self._unchecking.check_hostname = False
        self._unchecking.verify_mode = ssl.CERT_NONE

    @property
    def _context(self) -> ssl.SSLContext:
        return self._checking if self.checks_certificate else self._unchecking

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
        """Connect by TCP alone.

        Returns:
            The seconds that it took.
        """
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
        found = await self._handshake(self._checking)
        if not isinstance(found, Failure) or found.kind != "certificate":
            return found
        unchecked = await self._handshake(self._unchecking)
        if isinstance(unchecked, Failure):
            return unchecked
        self.checks_certificate = False
        return Tls(unchecked.version, unchecked.alpn, None, found.text)

    async def _handshake(self, like: ssl.SSLContext) -> Tls | Failure:
        context = ssl.create_default_context()
        context.check_hostname = like.check_hostname
        context.verify_mode = like.verify_mode
        context.set_alpn_protocols(["h2", "http/1.1"])
        begin = time.monotonic()
        try:
            await self._pace.turn()
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
        """Make one HTTP request over a connection of its own; redirects are not followed.

        Args:
            url: where.
            method: of HTTP.
            origin: the ``Origin`` header; None for none.
            headers: further ones.
            body: of a POST.
            cookies: whether the cookies that were set so far are sent.
            timeout: seconds for the whole; those of the network by default.
            limit: bytes of the body that are read.
            at_once: whether it begins right after the one before it.
        """
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        sent |= self._identity(origin, cookies)
        if body is not None:
            sent["Content-Type"] = "text/plain;charset=UTF-8"
        begin = time.monotonic()
        try:
            await self._pace.turn(at_once=at_once)
            begin = time.monotonic()
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
        answer = Answer(
            response.status_code,
            tuple((name.lower(), value) for name, value in response.headers.multi_items()),
            b"".join(chunks)[:limit].decode("utf-8", "replace"),
            time.monotonic() - begin,
        )
        if url.startswith(f"{self.target.origin}/"):
            self._keep_cookies(answer)
        return answer

    @asynccontextmanager
    async def open(
        self, *, sid: str | None = None, origin: str | None = None, cookies: bool = False
    ) -> AsyncIterator[Channel | Reply]:
        """Open a WebSocket, and close it at the end of the block.

        Args:
            sid: of a polling session that is to be upgraded; then no first frame is waited for.
            origin: the ``Origin`` header; None for none.
            cookies: whether the cookies that were set so far are sent.

        Yields:
            The channel, or what came in its place.
        """
        url = self.target.url("websocket", sid=sid, websocket=True)
        sent = self._identity(None, cookies)
        begin = time.monotonic()
        opened: ClientConnection | None = None
        first = ""
        result: Channel | Reply
        try:
            await self._pace.turn()
            begin = time.monotonic()
            async with asyncio.timeout(self.timeout):
                opened = await _Connect(
                    url,
                    origin=None if origin is None else Origin(origin),
                    additional_headers=sent,
                    user_agent_header=USER_AGENT,
                    ssl=self._context if self.target.tls else None,
                    proxy=None,
                    compression=None,
                    open_timeout=None,
                    ping_interval=None,
                    close_timeout=1,
                    logger=_SILENT,
                )
                first = await _text(opened) if sid is None else ""
        except InvalidStatus as refused:
            response = refused.response
            result = _answer(response.status_code, response.headers.raw_items(), response.body, begin)
            self._keep_cookies(result)
        except TimeoutError as problem:
            # An open WebSocket on which nothing came is an answer, too.
            result = failure(problem, time.monotonic() - begin) if opened is None else Answer(101, seconds=self.timeout)
        except (OSError, WebSocketException) as problem:
            result = failure(problem, time.monotonic() - begin)
        else:
            headers = () if opened.response is None else opened.response.headers.raw_items()
            answer = _answer(101, headers, first.encode(), begin)
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


async def _text(socket: ClientConnection) -> str:
    frame = await socket.recv()
    return frame if isinstance(frame, str) else ""


def _answer(status: int, headers: Any, body: bytes | bytearray, begin: float) -> Answer:
    return Answer(
        status,
        tuple((name.lower(), value) for name, value in headers),
        bytes(body[:BODY_LIMIT]).decode("utf-8", "replace"),
        time.monotonic() - begin,
    )


_SAYS_REFUSED = re.compile(r"refused|Connect call failed|WinError 1225", re.IGNORECASE)


def failure(problem: BaseException, seconds: float) -> Failure:
    """Tell which layer an exception comes from, by the exceptions behind it."""
    kind: FailureKind = "protocol"
    text = str(problem) or type(problem).__name__
    for cause in _chain(problem):
        known = _kind(cause)
        if known is not None:
            kind = known
            text = str(cause) or text
            break
    if isinstance(problem, InvalidHandshake) and isinstance(problem.__cause__, EOFError):
        kind, text = "reset", "the connection was closed without an answer"
    return Failure(kind, text, seconds)


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
    if isinstance(problem, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(problem, ssl.SSLError):
        return "tls"
    if isinstance(problem, socket.gaierror):
        return "dns"
    if isinstance(problem, ConnectionRefusedError):
        return "refused"
    if isinstance(problem, (TimeoutError, httpx2.TimeoutException)):
        return "timeout"
    if isinstance(problem, (ConnectionError, httpx2.ReadError)):
        return "reset"
    if isinstance(problem, httpx2.RemoteProtocolError) and "without sending" in str(problem):
        return "reset"
    if isinstance(problem, InvalidMessage):
        return None  # its cause says more
    if isinstance(problem, OSError):  # for several addresses asyncio joins the texts into one, without a number
        return "refused" if _SAYS_REFUSED.search(str(problem)) else "unreachable"
    return None
