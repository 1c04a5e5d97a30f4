"""The handlers of an application, and the tracebacks of what they raise."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from typing import Any

from socketguard.deadline import Escaped
from socketguard.text import neutralise

from .requires import CHECKED_CODES, bypassed, required

__all__ = ["ConnectHandlers", "app_message", "bypassed_handlers", "callback_frames", "raised_by_the_call"]


def _frames_of(error: BaseException) -> list[Any]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _in_socketio(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "socketio"


def raised_by_the_call(error: TypeError) -> bool:
    """Whether a TypeError says that the handler takes other arguments: then no frame of the handler was entered."""
    frame = _frames_of(error)[-1]
    return frame.f_code in (_SHIELD_CODE, *CHECKED_CODES) or _in_socketio(frame)


def callback_frames(error: Exception) -> list[Any]:
    """The frames from python-socketio's call of an acknowledgement's callback on; none when it called none."""
    frames = _frames_of(error)
    for place, frame in enumerate(frames):
        if frame.f_code.co_name == "trigger_callback" and _in_socketio(frame):
            # Where it has found no callback, the packet itself was wrong.
            return frames[place:] if frame.f_locals.get("callback") is not None else []
    return []


def app_message(refusal: BaseException) -> str | None:
    arguments = getattr(refusal, "error_args", None)
    message = arguments.get("message") if isinstance(arguments, dict) else None
    return None if message is None else neutralise(str(message), 256)


class ConnectHandlers:
    """The connect handlers of a server, changed so that only a yes of theirs is taken for one; `restore` undoes it.

    A connect handler stands in a dictionary of functions, or is a method of a class-based namespace.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._classes: dict[int, Any] = {}
        self._replaced: list[tuple[Any, str, Any]] = []
        self._shielded: list[tuple[Any, Any]] = []

    def prepare(self, namespace: str) -> None:
        """Keep python-socketio from taking a CancelledError out of a connect handler for an acceptance, and put in the
        checks of `requires` where a class-based namespace lacks them."""
        server = self._server
        holders = [server.handlers.get(namespace), server.handlers.get("*")]
        holders += [server.namespace_handlers.get(namespace), server.namespace_handlers.get("*")]
        for holder in holders:
            if holder is None:
                continue
            if not isinstance(holder, dict) and id(holder) not in self._classes:
                # Its methods are looked up by python-socketio itself, and nobody joins before this.
                self._classes[id(holder)] = holder
                for name, method in _methods_of(holder):
                    if required(method) is not method:
                        self._replaced.append((holder, name, method))
                        setattr(holder, name, required(method))
            handler = _connect_handler(holder)
            if not _is_shielded(handler) and inspect.iscoroutinefunction(handler):
                _put_connect_handler(holder, _cancellation_proof(required(handler)))
                self._shielded.append((holder, handler))

    def restore(self) -> None:
        """Put the handlers back that were there."""
        for holder, handler in self._shielded:
            if _is_shielded(_connect_handler(holder)):
                _put_connect_handler(holder, handler)
        for holder, name, method in self._replaced:
            setattr(holder, name, method)
        self._shielded.clear()
        self._replaced.clear()


def _connect_handler(holder: Any) -> Any:
    return holder.get("connect") if isinstance(holder, dict) else getattr(holder, "on_connect", None)


def _put_connect_handler(holder: Any, handler: Any) -> None:
    if isinstance(holder, dict):
        holder["connect"] = handler
    else:
        holder.on_connect = handler


def _cancellation_proof(handler: Any) -> Any:
    async def connect(*args: Any) -> Any:
        try:
            return await handler(*args)
        except asyncio.CancelledError as exc:
            raise Escaped("CancelledError") from exc

    connect.__wrapped__ = handler  # type: ignore[attr-defined]
    return connect


_SHIELD_CODE = _cancellation_proof(None).__code__


def _is_shielded(handler: Any) -> bool:
    return getattr(handler, "__code__", None) is _SHIELD_CODE


def _methods_of(namespace: Any) -> list[tuple[str, Any]]:
    """The handlers of a class-based namespace."""
    names = [name for name in dir(namespace) if name.startswith("on_")]
    return [(name, getattr(namespace, name)) for name in names if callable(inspect.getattr_static(namespace, name))]


def bypassed_handlers(server: Any) -> list[tuple[str, str]]:
    """Namespaces and events whose handlers run without the checks that somebody has written for them."""
    found = [
        (handler.__wrapped__ if _is_shielded(handler) else handler, (name, event))
        for name, handlers in server.handlers.items()
        for event, handler in handlers.items()
    ]
    for name, namespace in server.namespace_handlers.items():
        found += [(method, (name, event.removeprefix("on_"))) for event, method in _methods_of(namespace)]
    ids = {id(handler) for handler in bypassed(handler for handler, _ in found)}
    return sorted(place for handler, place in found if id(handler) in ids)
