"""Looks at the emits of a server or of a client manager, and at which events have handlers."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias

import socketio

from socketguard.check import names
from socketguard.diagnosis.delivery import Delivery, Line
from socketguard.errors import ConfigurationError
from socketguard.logs.floods import Floods
from socketguard.logs.report import Report
from socketguard.logs.sink import EventLog
from socketguard.namespaces.policy import Served

from .packets import ATTRIBUTE

__all__ = ["event_names", "handles", "is_shared", "watch_emits", "watch_server"]

Undo: TypeAlias = Callable[[], None]
"""Takes something off again."""

# Of the emit of every client manager of python-socketio.
_PARAMETERS = ("event", "data", "namespace", "room", "skip_sid", "callback", "to")
_PREFIX = "on_"
_NOT_EVENTS = frozenset({"connect", "disconnect"})


def is_shared(manager: Any) -> bool:
    """Whether a client manager joins the clients of several processes."""
    return callable(getattr(manager, "_publish", None))


# --- emits -----------------------------------------------------------------------------------------------------------


def watch_server(server: Any, delivery: Delivery, served: Served, report: Report) -> Undo:
    """Look at what the application emits through a server that has clients.

    What other processes publish does not come this way: it was looked at where it was emitted.
    """
    manager = server.manager

    def look(event: Any, namespace: str, room: Any) -> list[Line]:
        return delivery.emit(namespace, event, room, manager.rooms, served)

    return _wrap_emit(manager, delivery, report, look)


def watch_emits(sio: Any, *, namespaces: Collection[str] | None = None, logger: Any = None) -> Callable[[], None]:
    """Look at each emit of this process, and log those that can't reach anybody as ``socketguard.emit.undelivered``.

    For a process that has no clients of its own: a webhook, a worker of a task queue. Several threads may emit.

    Args:
        sio: the client manager that it emits through, such as ``socketio.AsyncRedisManager(url, write_only=True)`` (or
            any other, also without asyncio), or a server.
        namespaces: the namespaces that the servers have; without them, names are not compared.
        logger: as for `SocketGuard`.

    Returns:
        A function that undoes it.

    Raises:
        ConfigurationError: it is neither; or a guarded server, whose guard does this.
    """
    if getattr(sio, ATTRIBUTE, None) is not None:
        raise ConfigurationError(
            "this server is guarded, and the guard looks at its emits: write guard.watch_delivery()", option="sio"
        )
    manager = sio.manager if isinstance(sio, socketio.AsyncServer | socketio.Server) else sio
    if not isinstance(manager, socketio.Manager | socketio.AsyncManager):
        raise ConfigurationError(
            f"sio is a {type(sio).__name__}; pass the server or the client manager that this process emits through, "
            "such as socketio.AsyncRedisManager(url, write_only=True)",
            option="sio",
        )
    if namespaces is not None:
        namespaces = names(namespaces, "namespaces", example='["/messages"]')
    log = EventLog(logger)
    report = Report(log, Floods(log), ())
    delivery = Delivery(sample=1)
    shared = is_shared(manager)
    lock = threading.Lock()

    def look(event: Any, namespace: str, room: Any) -> list[Line]:
        with lock:
            lines = delivery.emit_only(namespace, event, namespaces)
            if not shared and not manager.rooms:
                lines += delivery.no_message_queue(namespace, event)
            return lines

    undo = [_wrap_emit(manager, delivery, report, look)]
    if shared:
        undo.append(_wrap_publish(manager, delivery, report, lock))
    return lambda: [each() for each in undo].clear()


def _wrap_emit(manager: Any, delivery: Delivery, report: Report, look: Callable[[Any, str, Any], list[Line]]) -> Undo:
    original = manager.emit
    broken = False

    # No coroutine functions: they are called for each emit, and one more coroutine would cost more than the look.
    def emit(
        event: Any,
        data: Any,
        namespace: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        callback: Any = None,
        to: Any = None,
        ignore_queue: Any = False,
    ) -> Any:
        if delivery.passing:
            delivery.passing -= 1
        else:
            examine(event, namespace, to or room)
        return original(event, data, namespace, room, skip_sid, callback, to, ignore_queue=ignore_queue)

    def emit_otherwise(*args: Any, **kwargs: Any) -> Any:
        if delivery.passing:
            delivery.passing -= 1
        else:
            given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
            examine(given.get("event"), given.get("namespace"), given.get("to") or given.get("room"))
        return original(*args, **kwargs)

    def examine(event: Any, namespace: Any, room: Any) -> None:
        nonlocal broken
        if broken or not isinstance(namespace or "/", str):
            return
        try:
            report.undelivered(look(event, namespace or "/", room))
        except Exception:
            # No defect of these diagnostics costs anybody a message, nor a traceback for each.
            broken = True
            logging.getLogger("socketguard").exception("can't look at emits; they go on unwatched")

    # Named parameters are handed on in a third of the time, but a client manager of one's own may have others.
    usual = tuple(inspect.signature(original).parameters) == (*_PARAMETERS, "kwargs")
    return _replace(manager, "emit", emit if usual else emit_otherwise)


def _wrap_publish(manager: Any, delivery: Delivery, report: Report, lock: threading.Lock) -> Undo:
    original = manager._publish

    def look(message: Any, listeners: Any) -> None:
        # Redis answers with the number of subscribers; of other queues nothing is known.
        if type(listeners) is int and listeners == 0 and isinstance(message, dict) and message.get("method") == "emit":
            with lock:
                lines = delivery.no_listener(str(message.get("namespace")), message.get("event"), manager.channel)
            report.undelivered(lines)

    def publish(message: Any) -> Any:
        listeners = original(message)
        look(message, listeners)
        return listeners

    async def publish_async(message: Any) -> Any:
        listeners = await original(message)
        look(message, listeners)
        return listeners

    return _replace(manager, "_publish", publish_async if isinstance(manager, socketio.AsyncManager) else publish)


# --- events of clients -----------------------------------------------------------------------------------------------


def handles(server: Any, namespace: str, event: str) -> bool:
    """Whether the application has a handler for an event of a client (neither ``connect`` nor ``disconnect``)."""
    for name in (namespace, "*"):
        handlers = server.handlers.get(name)
        if handlers is not None and (event in handlers or "*" in handlers):
            return True
    for name in (namespace, "*"):
        found = server.namespace_handlers.get(name)
        if found is not None:
            # Whoever dispatches by himself may take any event.
            own = type(found).trigger_event is not socketio.AsyncNamespace.trigger_event
            return own or hasattr(found, _PREFIX + event)
    return False


def event_names(server: Any, namespace: str) -> Iterator[str]:
    """The names of the events that have a handler in a namespace; looked up as they are asked for."""
    for name in (namespace, "*"):
        yield from (event for event in server.handlers.get(name, ()) if event not in _NOT_EVENTS)
        found = server.namespace_handlers.get(name)
        if found is not None:
            methods = (each.removeprefix(_PREFIX) for each in dir(found) if each.startswith(_PREFIX))
            yield from (event for event in methods if event not in _NOT_EVENTS)


def _replace(holder: Any, name: str, ours: Any) -> Undo:
    before = vars(holder).get(name)
    setattr(holder, name, ours)

    def restore() -> None:
        # Who has wrapped ours in turn keeps it.
        if vars(holder).get(name) is not ours:
            return
        if before is None:
            delattr(holder, name)
        else:
            setattr(holder, name, before)

    return restore
