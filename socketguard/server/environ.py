"""The environment of a handshake, as applications know it from python-engineio (``sio.get_environ``, connect handlers).

python-engineio's own is as long as the rest of a handshake together: it makes a class for each request.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import MutableMapping
from typing import Any

from starlette.types import Receive, Send

__all__ = ["environment"]

_SAME = {
    "wsgi.version": (1, 0),
    "wsgi.async": True,
    "wsgi.multithread": False,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "SERVER_SOFTWARE": "asgi",
    "SCRIPT_NAME": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "0",
    "SERVER_NAME": "asgi",
    "SERVER_PORT": "0",
}


class _Nothing:
    """The body of a handshake."""

    async def read(self, length: int | None = None) -> bytes:
        return b""


_NOTHING = _Nothing()


def environment(
    scope: MutableMapping[str, Any], receive: Receive, send: Send, client_address: str | None
) -> dict[str, Any]:
    """The environment of a request; ``REMOTE_ADDR`` is the client's address where it is known."""
    try:
        query = scope.get("query_string", b"").decode()
    except UnicodeDecodeError:
        query = ""
    path = scope["path"]
    environ: dict[str, Any] = {
        "wsgi.input": _NOTHING,
        "wsgi.errors": sys.stderr,
        **_SAME,
        "REQUEST_METHOD": scope.get("method", "GET"),
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": f"{path}?{query}" if query else path,
        "asgi.receive": receive,
        "asgi.send": send,
        "asgi.scope": scope,
    }
    if client_address is not None:
        environ["REMOTE_ADDR"] = client_address
    for name, value in scope["headers"]:
        key = _key(name)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            continue
        if key is not None:
            # Only of these two the last one counts.
            once = key in environ and key.startswith("HTTP_")
            environ[key] = f"{environ[key]},{text}" if once else text
    environ["wsgi.url_scheme"] = environ.get("HTTP_X_FORWARDED_PROTO", "http")
    return environ


@functools.lru_cache(maxsize=256)
def _key(name: bytes) -> str | None:
    """Under which key a header stands; None where its name is no text."""
    try:
        text = name.upper().decode()
    except UnicodeDecodeError:
        return None
    if text in ("CONTENT-TYPE", "CONTENT-LENGTH"):
        return text.replace("-", "_")
    return "HTTP_" + text.replace("-", "_")
