"""Fetching keys from a real server on this machine that misbehaves in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gzip
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import socketguard
from socketguard.errors import ConfigurationError
from socketguard.tokens.fetch import BODY_LIMIT, FetchError, default_fetch
from socketguard.tokens.jwks import RemoteKeys
from socketguard.tokens.keys import Pending
from tests.tokens.minting import KeyServer, jwk, private, signature

PRIVATE = private("p256")
BODY = KeyServer(jwk(PRIVATE, "a", key_ops=["verify"])).jwks
LONG = 30.0  # seconds, for requests whose deadline must not come
SHORT = 0.2
PENDING = Pending("keys_pending", {}, 0)

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextlib.asynccontextmanager
async def served(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server that gives each request's head to ``handler``."""

    connections: set[asyncio.Task[Any] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handler(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{port}/jwks"
        finally:
            # The clients are gone by now, so that every handler comes to its end.
            await asyncio.gather(*filter(None, connections))


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "connection: close", "", ""]).encode()


def answering(
    body: bytes = BODY, *lines: str, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> Handler:
    async def handler(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(body) if length is None else length
        writer.write(head(f"content-type: {kind}", f"content-length: {size}", *lines, status=status) + body)
        await writer.drain()

    return handler


def remembering() -> tuple[list[bytes], Handler]:
    """The heads of the requests, in lower case, and what answers them."""
    asked: list[bytes] = []

    async def handler(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(request.lower())
        await answering()(request, reader, writer)

    return asked, handler


def raw(*data: bytes) -> Handler:
    async def handler(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in data:
            writer.write(each)

    return handler


async def silent(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client gives up


def dripping(start: bytes, drop: bytes) -> Handler:
    """A little every now and then, so that no single read takes long."""

    async def handler(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not reader.at_eof():
            writer.write(drop)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.01)

    return handler


DRIPPING_HEAD = dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")
DRIPPING_BODY = dripping(head("content-type: application/json", "content-length: 100000"), b" ")


async def fetched(handler: Handler, *, timeout: float = LONG, limit: int = BODY_LIMIT) -> bytes:
    async with served(handler) as url:
        return await default_fetch(timeout=timeout, limit=limit)(url)


async def refused(handler: Handler, **options: Any) -> str:
    with pytest.raises(FetchError) as caught:
        await fetched(handler, **options)
    return str(caught.value)


class TestAnswers:
    async def test_the_body_of_a_good_one(self) -> None:
        asked, handler = remembering()
        assert await fetched(handler) == BODY
        (sent,) = asked
        assert sent.startswith(b"get /jwks http/1.1\r\n")
        assert b"\r\naccept-encoding: identity\r\n" in sent
        assert b"\r\naccept: application/jwk-set+json, application/json" in sent
        assert b"\r\ncookie:" not in sent
        assert b"\r\nauthorization:" not in sent

    @pytest.mark.parametrize(
        "handler",
        [
            *(
                answering(kind=f"application/{kind}")
                for kind in ("jwk-set+json", "json; charset=utf-8", "octet-stream")
            ),
            answering(kind="text/plain"),
            raw(head() + BODY),  # without a type or a length
            raw(
                head("transfer-encoding: chunked"),
                *(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:])),
                b"0\r\n\r\n",
            ),
        ],
    )
    async def test_that_servers_give_for_json(self, handler: Handler) -> None:
        assert await fetched(handler) == BODY

    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
    async def test_redirects_are_not_followed(self, status: str) -> None:
        asked, elsewhere = remembering()
        async with served(elsewhere) as other:
            text = await refused(answering(BODY, f"location: {other}?key=secret", status=status))
        assert text == f"status {status[:3]}: redirects are not followed; use the address it leads to: {other}"
        assert asked == []

    async def test_a_server_is_told_who_asks(self) -> None:
        asked, handler = remembering()
        await fetched(handler)
        assert f"user-agent: socketguard/{socketguard.__version__}" in asked[0].decode().lower()

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            ("401 x", "look at the address"),
            ("403 x", "User-Agent"),
            ("404 x", "nothing is there"),
            ("429 x", "too often"),
        ],
    )
    async def test_what_to_do_about_a_status(self, status: str, advice: str) -> None:
        text = await refused(answering(status=status))
        assert text.startswith(f"status {status[:3]}: ")
        assert advice in text

    async def test_a_compressed_body_is_never_unpacked(self) -> None:
        bomb = gzip.compress(b" " * 100_000_000, 9)
        assert len(bomb) < 200_000
        text = await refused(answering(bomb, "content-encoding: gzip"))
        assert text == "the body is compressed (gzip) although that was not asked for"
        assert await fetched(answering(BODY, "content-encoding: identity")) == BODY

    async def test_the_size_of_a_body(self) -> None:
        assert await fetched(answering(), limit=len(BODY)) == BODY
        assert await refused(answering(), limit=len(BODY) - 1) == f"the body is larger than {len(BODY) - 1} bytes"

    async def test_a_body_of_50_megabytes_is_not_read_to_its_end(self) -> None:
        size = 50_000_000
        sent = 0

        async def handler(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(head("content-type: application/json", f"content-length: {size}"))
            for _ in range(size // 50_000):
                writer.write(b" " * 50_000)
                await writer.drain()
                sent += 50_000

        assert await refused(handler) == "the body is larger than 1048576 bytes"
        # What fits into the buffers of the sockets has left the server too.
        assert BODY_LIMIT <= sent < size

    async def test_nobody_there(self) -> None:
        async with served(silent) as url:
            pass
        with pytest.raises(httpx2.ConnectError):
            await default_fetch(timeout=LONG, limit=BODY_LIMIT)(url)

    async def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path) -> None:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        start = datetime.datetime(2020, 1, 1)
        builder = x509.CertificateBuilder(name, name, PRIVATE.public_key(), 1, start, start.replace(year=2099))
        file = tmp_path / "server.pem"
        file.write_bytes(
            PRIVATE.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + builder.sign(PRIVATE, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        asked, handler = remembering()
        async with served(handler, context) as url:
            with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                await default_fetch(timeout=LONG, limit=BODY_LIMIT)(url)
        assert asked == []


class TestKeys:
    """The same through the cache, whose state must be right after each."""

    async def test_from_a_good_answer(self) -> None:
        async with served(answering()) as url:
            keys = RemoteKeys(url, algorithms=("ES256",), allow_http=True, timeout=LONG)
            assert await keys.load(PENDING) is True
        found = keys.candidates("ES256", "a")
        assert isinstance(found, tuple)
        assert [key.verify(b"message", signature(PRIVATE, "ES256")) for key in found] == [True]

    @pytest.mark.parametrize(
        ("header", "least", "most"),
        [
            ("120", 119, 120),
            ("5", 25, 36),
            ("in 250 s", 100, 250),
            ("in -200 s", 25, 36),
            ("9" * 400, 299, 300),
            ("soon", 25, 36),
            ("", 25, 36),
        ],
    )
    async def test_a_server_that_asks_for_a_pause_gets_it(self, header: str, least: float, most: float) -> None:
        if match := re.fullmatch("in (-?[0-9]+) s", header):
            header = formatdate(time.time() + int(match[1]), usegmt=True)
        async with served(answering(b"", f"retry-after: {header}", status="429 x")) as url:
            keys = RemoteKeys(url, algorithms=("ES256",), allow_http=True, timeout=LONG)
            assert await keys.load(PENDING) is False
        outage = keys.outage()
        assert outage is not None
        assert least <= outage <= most

    @pytest.mark.parametrize(
        ("handler", "timeout", "reason"),
        [
            *((each, SHORT, "no complete answer within 0.2 s") for each in (silent, DRIPPING_BODY, DRIPPING_HEAD)),
            (answering(status="500 Internal Server Error"), LONG, "FetchError: status 500"),
            *((answering(b"", status=f"{code} x"), LONG, f"FetchError: status {code}") for code in (503, 404, 204)),
            (answering(b"", "location: https://x/", status="302 Found"), LONG, "FetchError: status 302: redirects"),
            (answering(b" " * 50_000_000), LONG, "FetchError: the body is larger than 1048576 bytes"),
            (answering(length=len(BODY) + 1), LONG, "RemoteProtocolError: "),
            (raw(b"220 smtp.example.com ESMTP\r\n"), LONG, "RemoteProtocolError: "),
            (answering(BODY[:-2]), LONG, "the answer is no JSON in UTF-8"),
            (
                answering(b"<html>", kind="Text/HTML; x=y"),
                LONG,
                "FetchError: the answer is a page (text/html), not JSON",
            ),
            (answering(b"<html>", kind="text/plain"), LONG, "the answer is no JSON in UTF-8"),
            (answering(gzip.compress(BODY), "content-encoding: gzip"), LONG, "FetchError: the body is compressed"),
        ],
    )
    async def test_every_bad_answer_is_an_outage(self, handler: Handler, timeout: float, reason: str) -> None:
        async with served(handler) as url:
            keys = RemoteKeys(url, algorithms=("ES256",), allow_http=True, timeout=timeout)
            assert await keys.load(PENDING) is False
        assert keys.status()["state"] == "unavailable"
        ((_, change),) = keys.changes()
        assert change.kind == "unavailable"
        assert change.fields["reason"].startswith(reason)


async def test_without_httpx2_the_application_must_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'socketguard\[jwks\]'") as caught:
        RemoteKeys("https://login.example.com/jwks", algorithms=("RS256",))
    assert caught.value.option == "fetch"
    server = KeyServer(jwk(PRIVATE, "a"))
    assert await RemoteKeys("https://login.example.com/jwks", algorithms=("ES256",), fetch=server).load(PENDING) is True
