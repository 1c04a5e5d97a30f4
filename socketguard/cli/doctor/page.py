"""The addresses that were put into a page and its scripts when it was built."""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from socketguard.errors import ConfigurationError

from .observations import Answer, Baked, PageSeen
from .target import Target, parse_target, same_origin_url, web_origin

if TYPE_CHECKING:
    from .network import Network

__all__ = ["MAX_SCRIPTS", "endpoint", "find_baked", "read_page", "scripts_of"]

MAX_SCRIPTS = 20
MAX_BYTES = 3_000_000
"""Bytes of the page, and of each script, that are read."""
MAX_SECONDS = 20.0
MAX_BAKED = 20
MAX_ASKED = 3
"""How many other addresses are asked whether something answers there."""

_WEBSOCKET = re.compile(r"""["'`](wss?://[^"'`\s<>\\$]{1,200})["'`]""")
# io("https://…") as written, and as bundlers write it: (0,r.io)("https://…"), (0,n.ZP)("https://…").
_CALL = re.compile(
    r"""(?:\bio|\bconnect|\.io\)|\.[A-Za-z_$]{1,4}\))\(\s*["'`]((?:https?://[^"'`\s<>\\$]{1,200})|/[\w/.{}-]{0,100})["'`]"""
)
# A constant beside a name that says what it is for: NEXT_PUBLIC_WS_URL:"https://…", socketUrl="https://…".
_NAMED = re.compile(
    r"""(?:ws|socket)[\w.]{0,24}["'`]?\s{0,2}[:=]\s{0,2}["'`](https?://[^"'`\s<>\\$]{1,200})["'`]""", re.IGNORECASE
)
_PATH = re.compile(r"""\bpath["'`]?\s{0,2}:\s{0,2}["'`](/[^"'`\s<>\\$]{0,100})["'`]""")
_OPTIONS = 300
"""Characters after an address in which its options are looked for."""


class _Scripts(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "script" and attributes.get("src"):
            self.sources.append(str(attributes["src"]))
        elif tag == "link" and attributes.get("href") and attributes.get("rel") in ("modulepreload", "preload"):
            href = str(attributes["href"])
            if href.partition("?")[0].endswith((".js", ".mjs")):
                self.sources.append(href)
        elif tag == "base" and self.base is None:
            self.base = attributes.get("href")


def scripts_of(page: str, url: str) -> list[str]:
    """The addresses of a page's scripts, each once."""
    parser = _Scripts()
    parser.feed(page)
    base = urljoin(url, parser.base) if parser.base else url
    found: dict[str, None] = {}
    for source in parser.sources:
        with contextlib.suppress(ValueError):
            found[urljoin(base, source).partition("#")[0]] = None
    return list(found)


def find_baked(text: str, source: str, page: str) -> list[Baked]:
    """What looks like an address for ``io()`` in a script: a guess, because a bundle keeps no names.

    ``page`` is the URL of the page, to whose origin ``io("/name")`` belongs.
    """
    origin = web_origin(page, option="--page")
    found: dict[tuple[str, str, str | None], Baked] = {}
    for pattern in (_CALL, _WEBSOCKET, _NAMED):
        for match in pattern.finditer(text):
            url = match[1] if "://" in match[1] else origin + match[1]
            try:
                target = parse_target(url)
            except ConfigurationError:
                continue
            options = _PATH.search(text, match.end(), match.end() + _OPTIONS)
            path = options[1] if options and pattern is not _NAMED else None
            if path is None and target.path != "/socket.io":
                path = target.path
            shown = url.partition("?")[0]
            found.setdefault((shown, target.namespace, path), Baked(shown, target.namespace, path, source))
    return list(found.values())[:MAX_BAKED]


def endpoint(baked: Baked) -> Target:
    """What a client with this address connects to."""
    return parse_target(baked.url, path=baked.path)


async def read_page(url: str, target: Target, network: Network) -> PageSeen:
    """Read a page and its scripts of the same origin, and ask the other addresses in them."""
    reply = await network.request(url, limit=MAX_BYTES)
    if not isinstance(reply, Answer) or reply.status != 200:
        return PageSeen(url.partition("?")[0], reply)
    origin = web_origin(url, option="--page")
    scripts = scripts_of(reply.body, url)
    own = [script for script in scripts if same_origin_url(script, origin)][:MAX_SCRIPTS]
    baked = {(item.url, item.path): item for item in find_baked(reply.body, "the page", url)}
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MAX_SECONDS):
            for script in own:
                answer = await network.request(script, limit=MAX_BYTES)
                if isinstance(answer, Answer) and answer.status == 200:
                    read += 1
                    name = urlsplit(script).path.rpartition("/")[2] or script
                    for item in find_baked(answer.body, name, url):
                        baked.setdefault((item.url, item.path), item)
    kept = list(baked.values())[:MAX_BAKED]
    elsewhere = [number for number, item in enumerate(kept) if not same_origin_url(item.url, target.origin)]
    for number in elsewhere[:MAX_ASKED]:
        there = await network.request(endpoint(kept[number]).url("polling"), limit=4096)
        kept[number] = replace(kept[number], reply=there)
    short = replace(reply, body=reply.body[:200])
    return PageSeen(url.partition("?")[0], short, read, len(scripts) - read, tuple(kept))
