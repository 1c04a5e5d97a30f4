"""The environment of a handshake is python-engineio's own, made at a third of the cost."""

from __future__ import annotations

import io
from typing import Any

import pytest
from engineio.async_drivers.asgi import translate_request
from hypothesis import given
from hypothesis import strategies as st

from socketguard.server.environ import environment
from tests.scripted import guarded, joined_wire

NAMES = [b"host", b"cookie", b"x-forwarded-proto", b"content-type", b"content-length", b"x-a", b"\xff", b"user-agent"]


def values(environ: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environ.items() if name != "wsgi.input"}


@given(
    headers=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=4)), max_size=8),
    query=st.sampled_from([b"", b"EIO=4&transport=polling", b"\xff"]),
    method=st.sampled_from(["GET", None]),
)
async def test_it_says_the_same(headers: list[tuple[bytes, bytes]], query: bytes, method: str | None) -> None:
    scope: dict[str, Any] = {"type": "http", "path": "/socket.io/", "query_string": query, "headers": headers}
    if method:
        scope["method"] = method

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    theirs = await translate_request(scope, receive, send)
    ours = environment(scope, receive, send, None)
    assert values(ours) == values(theirs)
    assert await ours["wsgi.input"].read() == await theirs["wsgi.input"].read()


@pytest.mark.parametrize("address", ["203.0.113.7", None])
async def test_applications_get_it(address: str | None) -> None:
    seen: list[Any] = []
    case = guarded(handlers={"connect": lambda sid, environ, auth: seen.append(environ)})
    wire, sid = await joined_wire(case.app, client=(address, 1) if address else None)
    assert seen == [case.server.get_environ(sid, namespace="/messages")]
    assert seen[0]["REMOTE_ADDR"] == (address or "127.0.0.1")
    assert seen[0]["HTTP_HOST"] == "testserver"
    assert not isinstance(seen[0]["wsgi.input"], io.IOBase)
    await wire.close()
