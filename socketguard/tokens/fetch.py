"""How published keys are fetched: from which addresses, and with httpx2 where the application has no way of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from socketguard.check import is_loopback, names
from socketguard.errors import ConfigurationError
from socketguard.text import neutralise

if TYPE_CHECKING:
    import httpx2

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""An async function of a URL that returns the body of the answer, and raises when there is none with status 200."""

BODY_LIMIT = 1_048_576  # bytes of a JWK Set or of a discovery document; real ones have some kilobytes
_HEADERS = {
    "Accept": "application/jwk-set+json, application/json;q=0.9, */*;q=0.1",
    # A small compressed body can expand to any size; what is sent compressed all the same is refused.
    "Accept-Encoding": "identity",
}


_ADVICE = {
    401: "it asks for credentials, which keys never need: look at the address",
    403: "a firewall or the provider refuses this server: let its address and User-Agent through",
    404: "nothing is there: look at the address",
    429: "it was asked too often, by this server or others behind its address",
}


class FetchError(Exception):
    """There was an answer, but none that may be used. The text says why.

    Attributes:
        retry_after: seconds for which the server asks to be left alone, or None.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def default_fetch(*, timeout: float, limit: int) -> Fetch:
    """A function that fetches a body with httpx2, within so many seconds for the whole of it and so many bytes.

    With a form it posts that, with the value of an ``Authorization`` header. It follows no redirect and takes no other
    status than 200. Proxies are taken from the environment (``HTTPS_PROXY``, ``NO_PROXY``), and so are
    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
    """
    try:
        import httpx2
    except ImportError:
        raise ConfigurationError(
            "asking over HTTP needs httpx2: pip install 'socketguard[jwks]'; or give an async function of your own: "
            "fetch=… or ask=…",
            option="fetch",
        ) from None
    # Made here and not for each fetch: reading the certificates takes tens of milliseconds, in which the loop stands.
    context = httpx2.create_ssl_context()
    # Firewalls refuse the name of a library.
    headers = {**_HEADERS, "User-Agent": f"socketguard/{metadata.version('socketguard')}"}
    # Which httpx2 would import at the first fetch, for 20 ms.
    with contextlib.suppress(ImportError):
        importlib.import_module("anyio._backends._asyncio")

    async def fetch(url: str, form: Mapping[str, str] | None = None, authorization: str | None = None) -> bytes:
        method, more = ("GET", {}) if authorization is None else ("POST", {"Authorization": authorization})
        # A client of its own for each fetch: there are minutes between them, and nothing is then tied to one loop.
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(verify=context, timeout=None, follow_redirects=False, headers=headers) as client,
            client.stream(method, url, data=form, headers=more) as response,
        ):
            _check_head(response)
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise FetchError(f"the body is larger than {limit} bytes")
            return bytes(body)

    return fetch


def _check_head(response: httpx2.Response) -> None:
    if response.is_redirect:
        # A query may hold anything.
        leads_to = neutralise(response.headers.get("location", "nowhere").partition("?")[0], 256)
        raise FetchError(
            f"status {response.status_code}: redirects are not followed; use the address it leads to: {leads_to}"
        )
    if response.status_code != 200:
        advice = _ADVICE.get(response.status_code)
        text = f"status {response.status_code}" + (f": {advice}" if advice else "")
        raise FetchError(text, _seconds(response.headers.get("retry-after", "")))
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise FetchError(f"the body is compressed ({neutralise(encoding, 32)}) although that was not asked for")
    # Any other type may hold JSON: servers of static files don't know better. This one is a login page or a portal.
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise FetchError("the answer is a page (text/html), not JSON")


def _seconds(retry_after: str) -> float | None:
    """``Retry-After`` (RFC 9110 section 10.2.3), of seconds or a date, in seconds from now."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    return None


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|[0-9a-fA-F:]{2,39}")

AllowHTTP: TypeAlias = bool | Collection[str]
"""Whether keys may come over http: from this machine, or from these hosts."""


def checked_hosts(allow_http: Any) -> bool | tuple[str, ...]:
    """The option ``allow_http``."""
    if isinstance(allow_http, bool):
        return allow_http
    hosts = names(allow_http, "allow_http", example='["keycloak"]')
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ConfigurationError(
                f'allow_http has {host!r}, which is no host name; write allow_http=["keycloak"], without scheme and '
                "port",
                option="allow_http",
            )
    return tuple(host.lower() for host in hosts)


def checked_url(url: Any, option: str, allow_http: AllowHTTP) -> str:
    """An address that keys may come from."""
    problem = url_problem(url, allow_http)
    if problem is not None:
        raise ConfigurationError(f'{option} {problem}; write {option}="https://login.example.com/…"', option=option)
    return str(url)


def url_problem(url: Any, allow_http: AllowHTTP) -> str | None:
    """Why keys can't come from an address; None when they can."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return "must be a URL in ASCII without spaces"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "can't be read as a URL"
    if parts.username is not None or parts.password is not None:
        return "must hold no credentials; send them from a fetch=… of your own"
    if "#" in url:
        return "must have no fragment"
    if parts.scheme == "https" and host:
        return None
    if parts.scheme != "http" or not host:
        return "must begin with https:// and name a host"
    if not isinstance(allow_http, bool) and host in allow_http:
        return None
    if not is_loopback(host):
        return (
            "must begin with https://: whoever can change the answer on its way could sign every token; for a host in "
            f"a network of your own write allow_http=[{host!r}]"
        )
    if allow_http is True:
        return None
    return "must begin with https://; for this machine http is taken with allow_http=True"
