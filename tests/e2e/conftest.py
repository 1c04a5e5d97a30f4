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
    driver = Driver("client.mjs")
    yield JavaScript(driver)
    driver.close()


@pytest.fixture(scope="session")
def _browser() -> Iterator[Driver]:
    driver = Driver("browser.mjs")
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def _crm(folder: Path) -> Iterator[Server]:
    with Server(folder, {}) as server:
        yield server


@pytest.fixture(scope="session")
def _packed_crm(folder: Path) -> Iterator[Server]:
    with Server(folder, {"serializer": "msgpack"}) as server:
        yield server


@pytest.fixture
def crm(_crm: Server) -> Iterator[Server]:
    """The application with the default serializer; after each test, nothing may be left of its clients."""
    yield _crm
    _crm.wait_until_empty()


@pytest.fixture
def packed_crm(_packed_crm: Server) -> Iterator[Server]:
    """The same with the msgpack serializer."""
    yield _packed_crm
    _packed_crm.wait_until_empty()


@pytest.fixture(params=["default", "msgpack"])
def either(request: pytest.FixtureRequest) -> Any:
    """Both of them, one after the other, and whether it is the one with msgpack."""
    name = "crm" if request.param == "default" else "packed_crm"
    return request.getfixturevalue(name), request.param == "msgpack"


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of one's own."""
    with contextlib.ExitStack() as servers:

        def start(*arguments: str, app: str = "tests.e2e.apps:app", **settings: Any) -> Server:
            return servers.enter_context(Server(folder, settings, arguments=arguments, app=app))

        yield start
