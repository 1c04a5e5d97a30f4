from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import Driver, JavaScript, Server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def js() -> Iterator[JavaScript]:
    with contextlib.closing(Driver("client.mjs")) as driver:
        yield JavaScript(driver)


@pytest.fixture(scope="session")
def browser() -> Iterator[Driver]:
    with contextlib.closing(Driver("browser.mjs")) as driver:
        yield driver


@pytest.fixture(scope="session")
def _servers(folder: Path) -> Iterator[dict[str, Server]]:
    with Server(folder, {}) as plain, Server(folder, {"serializer": "msgpack"}) as packed:
        yield {"default": plain, "msgpack": packed}


@pytest.fixture
def crm(_servers: dict[str, Server]) -> Iterator[Server]:
    """The application with the default serializer; after each test, nothing may be left of its clients."""
    yield _servers["default"]
    _servers["default"].wait_until_empty()


@pytest.fixture(params=["default", "msgpack"])
def either(request: pytest.FixtureRequest, _servers: dict[str, Server]) -> Iterator[Server]:
    """The same with each of the serializers."""
    yield _servers[request.param]
    _servers[request.param].wait_until_empty()


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of one's own."""
    with contextlib.ExitStack() as servers:

        def start(*arguments: str, port: int = 0, **settings: Any) -> Server:
            return servers.enter_context(Server(folder, settings, arguments=arguments, port=port))

        yield start
