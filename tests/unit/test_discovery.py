from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from socketguard import ConfigurationError
from socketguard.diagnosis.startup import discover


def asgi_app(server: object = "server", path: str | None = "/socket.io/", inner: object = None) -> Any:
    return SimpleNamespace(engineio_server=server, engineio_path=path, other_asgi_app=inner)


def mount(path: str, app: object) -> Any:
    return SimpleNamespace(path=path, app=app)


def routes(*found: object) -> Any:
    return SimpleNamespace(routes=list(found))


def middleware(app: object) -> Any:
    return SimpleNamespace(app=app)


class _Router:
    """Like Starlette's: its ``app`` is a method."""

    def __init__(self, *found: object) -> None:
        self.routes = found

    async def app(self) -> None: ...


@pytest.mark.parametrize(
    ("app", "paths"),
    [
        (asgi_app(), ["/socket.io/"]),
        (asgi_app(path=None), ["/"]),
        (SimpleNamespace(engineio_app="server"), ["/"]),
        (middleware(middleware(asgi_app())), ["/socket.io/"]),
        (routes(mount("/socket.io", asgi_app())), ["/socket.io/"]),
        (routes(mount("", asgi_app())), ["/socket.io/"]),
        (routes(mount("/", asgi_app())), ["/socket.io/"]),
        (routes(mount("/ws", asgi_app(path=None))), ["/ws/"]),
        (routes(mount("/ws/", asgi_app(path="/ws/socket.io/"))), ["/ws/socket.io/"]),
        (routes(mount("/{tenant}", asgi_app(path="/acme/socket.io/"))), ["/acme/socket.io/"]),
        (routes(mount("/a", routes(mount("/b", asgi_app(path="/a/b/io/"))))), ["/a/b/io/"]),
        (_Router(mount("/x", _Router(mount("/y", asgi_app(path=None))))), ["/x/y/"]),
        (routes(SimpleNamespace(routes=[mount("/socket.io", asgi_app())])), ["/socket.io/"]),
        (asgi_app(inner=asgi_app(path="/second/")), ["/socket.io/", "/second/"]),
        (asgi_app(inner=routes(mount("/second", asgi_app(path="/second/")))), ["/socket.io/", "/second/"]),
    ],
)
def test_where_a_server_is_found(app: Any, paths: list[str]) -> None:
    found = discover(app)
    assert found.servers == ["server"]
    assert found.paths == paths
    assert found.findings == []
    assert found.server(app) == "server"


@pytest.mark.parametrize(
    "app", [None, object(), routes(), routes(SimpleNamespace(path="/x", endpoint=print)), _Router(), middleware(None)]
)
def test_no_server(app: Any) -> None:
    found = discover(app)
    assert (found.servers, found.paths, found.findings) == ([], [], [])
    with pytest.raises(ConfigurationError, match=type(app).__name__) as error:
        found.server(app)
    assert error.value.option == "server"


def test_two_servers() -> None:
    app = asgi_app("first", inner=asgi_app("second"))
    found = discover(app)
    assert found.servers == ["first", "second"]
    with pytest.raises(ConfigurationError, match=r"2 Socket\.IO servers"):
        found.server(app)


def test_circles_end() -> None:
    app = routes()
    app.routes.append(mount("/again", app))
    app.app = app
    assert discover(app).servers == []


def test_a_mount_where_nothing_matches() -> None:
    found = discover(routes(mount("/ws", asgi_app())))
    assert found.servers == ["server"]
    assert found.paths == []
    (finding,) = found.findings
    assert finding.id == "SG021"
    assert "Mount('/ws', ASGIApp(sio, socketio_path='/ws/socket.io'))" in finding.fix
    assert "'/ws/socket.io/'" in finding.fix


def test_inner_middleware() -> None:
    class Cors: ...

    inner = SimpleNamespace(user_middleware=[SimpleNamespace(cls=Cors), object()])
    (finding,) = discover(asgi_app(inner=inner)).findings
    assert finding.id == "SG020"
    assert finding.text.startswith("Cors, ?")
    assert discover(asgi_app(inner=SimpleNamespace(user_middleware=[]))).findings == []
