from __future__ import annotations

import inspect
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import socketio
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util.http import parse_excluded_urls

from socketguard import ConfigurationError
from socketguard.diagnosis.startup import ServerFacts, check_server, discover

PACKAGES = {"python-socketio": "5.18.1", "python-engineio": "4.15.1", "PyJWT": "2.14.0", "starlette": "1.3.1"}
PLAIN = ServerFacts(
    versions=PACKAGES,
    ping_interval=25,
    ping_timeout=20,
    ping_grace=0,
    transports=("polling", "websocket"),
    cors_allowed_origins=None,
    cors_credentials=True,
    cookie=False,
    namespaces_text=None,
    catch_all_events=(),
    class_namespaces=(),
    admin_namespaces=(),
    packets_logged=False,
)


def ids(*, policies: Any = None, **changes: Any) -> list[str]:
    return [finding.id for finding in check_server(replace(PLAIN, **changes), policies=policies)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"policies": ["/messages"]}, []),
        ({"cors_allowed_origins": []}, ["SG022"]),
        ({"cors_allowed_origins": "*"}, ["SG024"]),
        ({"cors_allowed_origins": ["*"]}, ["SG024"]),
        ({"cors_allowed_origins": ("https://a", "*")}, ["SG024"]),
        ({"cors_allowed_origins": "*", "cors_credentials": False}, []),
        ({"cors_allowed_origins": "*", "cors_credentials": False, "cookie": True}, ["SG024"]),
        ({"cors_allowed_origins": ["https://a"]}, []),
        ({"cors_allowed_origins": "https://a"}, []),
        ({"cors_allowed_origins": lambda origin: True}, []),
        ({"namespaces_text": "/chat"}, ["SG013"]),
        ({"catch_all_events": ("message",)}, []),
        ({"class_namespaces": ("/a",)}, []),
        ({"catch_all_events": ("message",), "class_namespaces": ("/a",)}, ["SG015"]),
        ({"admin_namespaces": ("/admin",)}, ["SG016"]),
        ({"admin_namespaces": ("/admin",), "policies": ["/admin"]}, []),
        ({"admin_namespaces": ("/admin",), "policies": ["/messages"]}, ["SG016"]),
        ({"bypassed": (("/a", "save"), ("*", "save"))}, ["SG017", "SG017"]),
        ({"packets_logged": True}, ["SG041"]),
        # A manager that only emits is nothing for a server with clients.
        ({"write_only": True}, ["SG044"]),
    ],
)
def test_traps(changes: dict[str, Any], expected: list[str]) -> None:
    assert ids(**changes) == expected


def test_the_admin_namespace_needs_a_policy() -> None:
    (asked,) = check_server(replace(PLAIN, admin_namespaces=("/admin",)), policies=None)
    (lost,) = check_server(replace(PLAIN, admin_namespaces=("/admin",)), policies=[])
    assert "asks for a token" in asked.text
    assert "nobody can reach it" in lost.text
    assert "NamespacePolicy('/admin', token=\"none\")" in asked.fix


@pytest.mark.parametrize(
    ("versions", "packages"),
    [
        (("5.18.1", "4.15.1", "2.14.0", "1.3.1"), []),
        (("5.18.1", "4.15.1", "2.10.1", "0.40.0"), ["PyJWT", "starlette"]),
        (("5.18.1", "4.15.1"), []),
        (("5.19.0", "5.0.0"), []),
        (("5.18.1.post1", "4.15.10"), []),
        (("5.18.0", "4.15.1"), ["python-socketio"]),
        (("5.9.3", "4.11.0"), ["python-socketio", "python-engineio"]),
        (("5.18", "4.15.1rc1"), ["python-socketio"]),
        (("unknown", "4.15.1"), ["python-socketio"]),
    ],
)
def test_releases_with_published_weaknesses(versions: tuple[str, ...], packages: list[str]) -> None:
    facts = replace(PLAIN, versions=PACKAGES | dict(zip(PACKAGES, versions, strict=False)))
    found = check_server(facts, policies=None)
    assert [finding.id for finding in found] == ["SG040"] * len(packages)
    for finding, package in zip(found, packages, strict=True):
        assert finding.text.startswith(f"{package} {facts.versions[package]} ")
        assert re.search(r"CVE-\d{4}-\d+|GHSA-", finding.text)
        assert f"pip install '{package}>=" in finding.fix


# --- where an application has its server


def asgi_app(server: object = "server", path: str | None = "/socket.io/", inner: object = None) -> Any:
    return SimpleNamespace(engineio_server=server, engineio_path=path, other_asgi_app=inner)


def mount(path: str, app: object) -> Any:
    return SimpleNamespace(path=path, app=app)


def routes(*found: object) -> Any:
    return SimpleNamespace(routes=list(found))


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
        (asgi_app(path="/"), ["/"]),
        (routes(mount("/ws", asgi_app(path="/"))), ["/ws/"]),
        (routes(mount("/ws", asgi_app(path="/ws/"))), ["/ws/"]),
        (routes(mount("/api/ws", asgi_app(path="/api/"))), ["/api/ws/"]),
        (SimpleNamespace(engineio_app="server"), ["/"]),
        (SimpleNamespace(app=SimpleNamespace(app=asgi_app())), ["/socket.io/"]),  # middleware
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
    assert (found.servers, found.paths, found.findings) == (["server"], paths, [])
    assert found.server(app) == "server"


CIRCLE = routes()
CIRCLE.routes.append(mount("/again", CIRCLE))
CIRCLE.app = CIRCLE
NOTHING = [None, object(), routes(), routes(SimpleNamespace(path="/x", endpoint=print)), _Router(), CIRCLE]


@pytest.mark.parametrize("app", [*NOTHING, SimpleNamespace(app=None)])
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
    with pytest.raises(ConfigurationError, match=r"2 Socket\.IO servers") as error:
        found.server(app)
    assert error.value.option == "server"


def test_a_mount_where_nothing_matches() -> None:
    found = discover(routes(mount("/ws", asgi_app())))
    assert (found.servers, found.paths) == (["server"], [])
    (finding,) = found.findings
    assert finding.id == "SG021"
    assert found.lost == {"/ws/socket.io/": finding}
    assert "Mount('/ws', ASGIApp(sio, socketio_path='/ws/socket.io'))" in finding.fix
    assert "'/ws/socket.io/'" in finding.fix


class TestTelemetry:
    """FastAPI's own and OpenTelemetry's, as they are."""

    def ids(self, app: Any) -> list[str]:
        return [finding.id for finding in discover(app).findings]

    def guarded(self, **options: Any) -> Any:
        app = FastAPI(**options)
        app.mount("/socket.io", socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi")))
        return app

    @pytest.mark.skipif("telemetry" not in inspect.signature(FastAPI).parameters, reason="FastAPI before 0.165")
    def test_fastapis_own(self) -> None:
        provider = TracerProvider()
        assert self.ids(self.guarded()) == [], "no provider is configured"
        assert self.ids(self.guarded(telemetry={"tracer_provider": provider})) == ["SG045"]
        assert self.ids(self.guarded(telemetry={"auto_configure": True})) == ["SG045"]
        assert self.ids(self.guarded(telemetry={"tracer_provider": provider, "tracing": False})) == []
        assert self.ids(self.guarded(telemetry={"tracer_provider": provider, "exclude": self.is_ours})) == []
        elsewhere = {"tracer_provider": provider, "exclude": lambda scope: scope["path"] == "/health"}
        (found,) = discover(self.guarded(telemetry=elsewhere)).findings
        assert "scope['path'].startswith('/socket.io/')" in found.fix
        fails = {"tracer_provider": provider, "exclude": lambda scope: scope["nothing of the kind"]}
        assert self.ids(self.guarded(telemetry=fails)) == ["SG045"]
        # An application inside of the endpoint's never sees its requests.
        inner = FastAPI(telemetry={"tracer_provider": provider})
        assert "SG045" not in self.ids(socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"), other_asgi_app=inner))

    @staticmethod
    def is_ours(scope: Any) -> bool:
        found: bool = scope["path"].startswith("/socket.io/")
        return found

    @pytest.mark.parametrize(
        ("excluded", "expected"), [(None, ["SG045"]), ("/health", ["SG045"]), ("/health,/socket.io/", [])]
    )
    def test_opentelemetrys(self, excluded: str | None, expected: list[str]) -> None:
        provider = TracerProvider()
        app = self.guarded()
        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=excluded)
        app.middleware_stack = app.build_middleware_stack()
        assert self.ids(app) == expected
        urls = None if excluded is None else parse_excluded_urls(excluded)
        around = OpenTelemetryMiddleware(self.guarded(), excluded_urls=urls, tracer_provider=provider)
        assert self.ids(around) == expected


def test_inner_middleware() -> None:
    class Cors: ...

    inner = SimpleNamespace(user_middleware=[SimpleNamespace(cls=Cors), object()])
    (finding,) = discover(asgi_app(inner=inner)).findings
    assert finding.id == "SG020"
    assert finding.text.startswith("Cors, ?")
    assert discover(asgi_app(inner=SimpleNamespace(user_middleware=[]))).findings == []
