"""The handlers of an application, and the tracebacks of what they raise."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from socketguard.deadline import Escaped
from socketguard.text import neutralise

from .dispatch import bypassed, required

__all__ = [
    "app_message",
    "bypassed_handlers",
    "callback_frames",
    "cancellation_proof",
    "connect_handler",
    "connect_holders",
    "is_shielded",
    "put_connect_handler",
    "raised_by_the_call",
    "unchecked_methods",
]


def frames_of(error: BaseException) -> list[Any]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def in_socketio(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "socketio"


def raised_by_the_call(error: TypeError) -> bool:
    """Whether a TypeError says that the handler takes other arguments: then no frame of the handler was entered."""
    frame = frames_of(error)[-1]
    wrapped = frame.f_code is _SHIELD_CODE or frame.f_globals.get("__name__") == "socketguard.server.dispatch"
    return wrapped or in_socketio(frame)


def callback_frames(error: Exception) -> list[Any]:
    """The frames from python-socketio's call of an acknowledgement's callback on; none when it called none."""
    frames = frames_of(error)
    for place, frame in enumerate(frames):
        if frame.f_code.co_name == "trigger_callback" and in_socketio(frame):
            # Where it has found no callback, the packet itself was wrong.
            return frames[place:] if frame.f_locals.get("callback") is not None else []
    return []


def app_message(refusal: BaseException) -> str | None:
    arguments = getattr(refusal, "error_args", None)
    message = arguments.get("message") if isinstance(arguments, dict) else None
    return None if message is None else neutralise(str(message), 256)


# A connect handler stands in a dictionary of functions, or is a method of a class-based namespace.


def connect_holders(server: Any, namespace: str) -> list[Any]:
    holders = [server.handlers.get(namespace), server.handlers.get("*")]
    holders += [server.namespace_handlers.get(namespace), server.namespace_handlers.get("*")]
    return [holder for holder in holders if holder is not None]


def connect_handler(holder: Any) -> Any:
    return holder.get("connect") if isinstance(holder, dict) else getattr(holder, "on_connect", None)


def put_connect_handler(holder: Any, handler: Any) -> None:
    if isinstance(holder, dict):
        holder["connect"] = handler
    else:
        holder.on_connect = handler


def cancellation_proof(handler: Any) -> Any:
    async def connect(*args: Any) -> Any:
        try:
            return await handler(*args)
        except asyncio.CancelledError as exc:
            raise Escaped("CancelledError") from exc

    connect.__wrapped__ = handler  # type: ignore[attr-defined]
    return connect


_SHIELD_CODE = cancellation_proof(None).__code__


def is_shielded(handler: Any) -> bool:
    return getattr(handler, "__code__", None) is _SHIELD_CODE


# Handlers that `SocketGuard.requires` has decorated after they were registered.


def methods_of(namespace: Any) -> list[tuple[str, Any]]:
    """The handlers of a class-based namespace."""
    names = [name for name in dir(namespace) if name.startswith("on_")]
    return [(name, getattr(namespace, name)) for name in names if callable(inspect.getattr_static(namespace, name))]


def unchecked_methods(namespace: Any) -> list[tuple[str, Any]]:
    return [(name, method) for name, method in methods_of(namespace) if required(method) is not method]


def bypassed_handlers(server: Any) -> list[tuple[str, str]]:
    """Namespaces and events whose handlers run without the checks that somebody has written for them."""
    found = []
    for name, handlers in server.handlers.items():
        for event, handler in handlers.items():
            found.append((handler.__wrapped__ if is_shielded(handler) else handler, (name, event)))
    for name, namespace in server.namespace_handlers.items():
        found += [(method, (name, event.removeprefix("on_"))) for event, method in methods_of(namespace)]
    ids = {id(handler) for handler in bypassed(handler for handler, _ in found)}
    return sorted(place for handler, place in found if id(handler) in ids)
