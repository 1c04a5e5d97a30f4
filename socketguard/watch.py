"""Emits of a process that has no clients of its own: a webhook, a worker of a task queue."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .diagnosis.delivery import Delivery
from .logs.floods import RejectionLog, Suppressor
from .logs.report import Report
from .logs.sink import EventLog
from .seam.emits import watch_emits as wrap

__all__ = ["watch_emits"]


def watch_emits(sio: Any, *, namespaces: Collection[str] | None = None, logger: Any = None) -> Callable[[], None]:
    """Look at each emit of this process, and log those that can't reach anybody as ``socketguard.emit.undelivered``.

    Args:
        sio: the client manager that it emits through, such as ``socketio.AsyncRedisManager(url, write_only=True)``, or
            a server.
        namespaces: the namespaces that the servers have; without them, names are not compared.
        logger: as for `SocketGuard`.

    Returns:
        A function that undoes it.

    Raises:
        ConfigurationError: it is neither; or a guarded server, whose guard does this.
    """
    log = EventLog(logger)
    report = Report(log, RejectionLog(log, Suppressor()), ())
    return wrap(sio, Delivery(report.undelivered, sample=1), namespaces)
