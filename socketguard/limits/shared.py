"""What several workers share: the `SharedStore` protocol, and what travels through it.

State is the truth, a log says what has changed, and every worker polls: nothing depends on a message that arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from socketguard.errors import ConfigurationError

from .revocation import Revocation, Store

__all__ = ["Beat", "Ended", "News", "SharedStore", "confirmations", "selector_of"]


@dataclass(frozen=True, slots=True)
class News:
    """One entry of the log.

    Attributes:
        position: where it stands; later ones compare greater by `after`.
        at: when it was written, in seconds since the epoch of the store's clock.
        by: the worker that has written it.
        revocation: what was revoked; None where somebody is to be disconnected.
        selector: who is to be disconnected, by the arguments of ``guard.disconnect``.
    """

    position: str
    at: float
    by: str
    revocation: Revocation | None = None
    selector: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker learns with each beat.

    Attributes:
        now: by the store's clock, in seconds since the epoch.
        position: of the last entry of the log.
        news: the entries since the position that the worker gave.
        workers: what every living worker has said of itself, by its id.
        lost: whether entries may have been missed, so that living connections are to be checked once more.
    """

    now: float
    position: str
    news: Sequence[News]
    workers: Mapping[str, Mapping[str, Any]]
    lost: bool = False


@runtime_checkable
class SharedStore(Store, Protocol):
    """A `Store` that several workers share, and through which they hear of each other."""

    async def beat(self, worker: str, status: Mapping[str, Any], position: str | None) -> Beat:
        """Say that this worker lives, and ask for news.

        Args:
            worker: its id.
            status: what it says of itself, plain values of at most 4 KiB as JSON.
            position: up to where it knows the log; None at its first beat, which brings no news.
        """
        ...

    async def send(self, worker: str, selector: Mapping[str, Any]) -> str:
        """Ask all workers to disconnect somebody; returns the position in the log."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the store."""
        ...


class Ended(int):
    """How many connections were ended, of all workers that have answered.

    Attributes:
        workers: how many workers have answered, this one among them.
        missing: the ids of those that have not, in time.
    """

    workers: int
    missing: tuple[str, ...]

    def __new__(cls, number: int, workers: int = 1, missing: Sequence[str] = ()) -> Ended:
        self = super().__new__(cls, number)
        self.workers = workers
        self.missing = tuple(missing)
        return self


def selector_of(*, subject: Any, token_id: Any, sid: Any) -> dict[str, Any]:
    """Who is to be disconnected: exactly one of these, checked."""
    selector = {"subject": subject, "token_id": token_id, "sid": sid}
    given = [value for value in selector.values() if value is not None]
    if len(given) != 1 or not isinstance(given[0], str) or not given[0]:
        raise ConfigurationError(
            "disconnect() takes one of subject, token_id and sid, a string that is not empty; "
            'write disconnect(subject="user-1")',
            option="subject",
        )
    return selector


def confirmations(workers: Mapping[str, Mapping[str, Any]], position: str) -> dict[str, int]:
    """How many connections each worker says that it has ended for an entry of the log; not those that say nothing."""
    said = {name: status.get("ended") for name, status in workers.items()}
    counts = {name: ended.get(position) for name, ended in said.items() if isinstance(ended, Mapping)}
    return {name: count for name, count in counts.items() if isinstance(count, int)}
