from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

import socketguard
from socketguard.testing import capture_events
from tests import scripted

PACKAGE = str(Path(socketguard.__file__).parent)


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """A blocking call that socketguard makes on the event loop is an error in every test here."""
    with blockbuster_ctx("socketguard") as found:
        yield found


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """When a test has ended and its clients have gone, nothing is held of them, and nothing goes on for them."""
    scripted.made.clear()
    scripted.opened = []
    yield
    closed = await asyncio.gather(*(client.close() for client in scripted.opened), return_exceptions=True)
    assert not [error for error in closed if isinstance(error, Exception)]  # What the application has raised.
    for case in scripted.made:
        if case.guard.auth is not None:
            await case.guard.auth.close()  # Nothing of its fetches may go on.
    cases = [case for case in scripted.made if not case.leaves]
    with contextlib.suppress(TimeoutError):
        await scripted.until(lambda: not any(map(scripted.left, cases)) and not _tasks(), timeout=2)
    for case in cases:
        assert scripted.left(case) == {}
    assert not _tasks() or len(cases) < len(scripted.made)


def _tasks() -> list[asyncio.Task[Any]]:
    """The tasks in which code of the package runs."""
    found = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in found if getattr(task.get_coro(), "cr_code", None) and _is_ours(task.get_coro())]


def _is_ours(coroutine: Any) -> bool:
    return str(coroutine.cr_code.co_filename).startswith(PACKAGE)


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """All log lines of the test."""
    with capture_events() as captured:
        yield captured


@pytest.fixture
def clock() -> Iterator[scripted.Clock]:
    """A clock for tokens that moves the loop as well. To be asked for before a guard is made."""
    found = scripted.Clock()
    with scripted.moving(found):
        yield found
