"""How a JWK Set is fetched when the user gives no `fetch` function: with httpx2, which the extra ``jwks`` installs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .text import neutralise

if TYPE_CHECKING:
    import httpx2

__all__ = ["FetchError", "default_fetch"]

_HEADERS = {
    "Accept": "application/jwk-set+json, application/json;q=0.9, */*;q=0.1",
    # A small compressed body can expand to any size; what is sent compressed all the same is refused.
    "Accept-Encoding": "identity",
}


class FetchError(Exception):
    """There was an answer, but none that may be used. The text says why."""


def default_fetch(*, timeout: float, limit: int) -> Callable[[str], Awaitable[bytes]]:
    """Make a function that fetches the body of a URL.

    It follows no redirect, takes no other status than 200 and no compressed body, and stops reading at the limit.
    Proxies are taken from the environment (``HTTPS_PROXY``, ``NO_PROXY``), and so are ``SSL_CERT_FILE`` and
    ``SSL_CERT_DIR``.

    Args:
        timeout: seconds for the whole of it: connecting, sending and reading.
        limit: bytes of body.

    Returns:
        An async function of the URL. It raises `TimeoutError`, `FetchError` and the exceptions of httpx2.

    Raises:
        ConfigurationError: httpx2 is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise ConfigurationError(
            "fetching keys over HTTP needs httpx2: pip install 'socketguard[jwks]'; "
            "or give your own async function of the URL that returns bytes: fetch=…",
            option="fetch",
        ) from None
    # Made here and not for each fetch: reading the certificates takes tens of milliseconds, in which the loop stands.
    context = httpx2.create_ssl_context()
    # Which httpx2 would import at the first fetch, for 20 ms.
    with contextlib.suppress(ImportError):
        importlib.import_module("anyio._backends._asyncio")

    async def fetch(url: str) -> bytes:
        # A client of its own for each fetch: there are minutes between them, and nothing is then tied to one loop.
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(verify=context, timeout=None, follow_redirects=False, headers=_HEADERS) as client,
            client.stream("GET", url) as response,
        ):
            _check(response)
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise FetchError(f"the body is larger than {limit} bytes")
            return bytes(body)

    return fetch


def _check(response: httpx2.Response) -> None:
    if response.is_redirect:
        raise FetchError(f"status {response.status_code}: redirects are not followed; use the address it leads to")
    if response.status_code != 200:
        raise FetchError(f"status {response.status_code}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise FetchError(f"the body is compressed ({neutralise(encoding, 32)}) although that was not asked for")
    # Any other type may hold JSON: servers of static files don't know better. This one is a login page or a portal.
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise FetchError("the answer is a page (text/html), not JSON")
