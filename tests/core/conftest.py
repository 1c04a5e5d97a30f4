from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    """A blocking call that socketguard makes on the event loop is an error in every test here."""
    with blockbuster_ctx("socketguard") as found:
        yield found
