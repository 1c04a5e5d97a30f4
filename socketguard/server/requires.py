"""What a single event asks for: `SocketGuard.requires` on a handler.

``sio.on`` registers what it decorates. Written below `requires` it registers the handler without the checks; so they
are noted for the handler too, and the guard asks `required` what to run in its place.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, TypeVar

from socketguard.check import names
from socketguard.connection import Connection, current_connection
from socketguard.errors import ConfigurationError, Refusal, RejectCode
from socketguard.limits.rates import Bucket, Rate
from socketguard.text import neutralise

__all__ = ["CHECKED_CODES", "EventRefused", "bypassed", "required", "requires", "wait_for"]

Handler = TypeVar("Handler", bound=Callable[..., Any])
Check = Callable[[], None]

_DEEPEST = 32  # decorators on one handler


class EventRefused(Exception):
    """An event is not to be dispatched. The guard catches it and answers the client."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code.value)
        self.refusal = refusal


def requires(*scopes: str, rate: str | None = None) -> Callable[[Handler], Handler]:
    """Make a decorator for handlers of events, written above or below ``@sio.on(…)``.

    An event of a client that does not have the scopes, or sends too many, is never dispatched: it is acknowledged with
    ``{"ok": false, "code": …, "message": …, "retry": …}`` and logged as ``socketguard.event.rejected``. The scopes are
    those of the token that the client has now, which a refresh may have changed.

    A function that was decorated once asks for the same wherever else it is registered on a guarded server.

    Args:
        scopes: what the token must grant, all of it.
        rate: how many of these events one connection may send, such as ``"10/second"``; so many may come at once.

    Raises:
        ConfigurationError: a scope is empty, the rate can't be read, or neither is given.
    """
    needed = frozenset(names(scopes, "scopes", example='guard.requires("messages:write")'))
    allowed = None if rate is None else Rate.parse(rate, option="rate")
    if not needed and allowed is None:
        raise ConfigurationError(
            'requires() asks for nothing; write @guard.requires("messages:write") or '
            '@guard.requires(rate="10/second"), with the brackets',
            option="scopes",
        )

    def decorate(handler: Handler) -> Handler:
        if not callable(handler):
            raise ConfigurationError(f"requires() decorates a handler, not a {type(handler).__name__}", option="scopes")
        key = object()  # Each handler has a budget of its own.

        def check() -> None:
            connection = current_connection()
            # A disconnect handler cleans up, whatever the client may do.
            if connection.state in (Connection.PENDING, Connection.JOINED):
                refusal = _missing(connection, needed) or _too_often(connection, key, allowed)
                if refusal is not None:
                    raise EventRefused(refusal)

        _note(handler, check)
        return _checked(handler, (check,))

    return decorate


def required(handler: Any) -> Any:
    """What to run for a registered handler: itself, or what checks first what `requires` has decorated it with."""
    checks = _NEEDED.of(handler)
    # The decorator that stands highest asks first.
    return _checked(handler, checks[::-1]) if checks else handler


def bypassed(handlers: Iterable[Any]) -> list[Any]:
    """Those handlers that run without the checks of `requires`, where `required` can't know it for certain.

    So it is where a decorator between ``requires`` and ``sio.on`` does not say what it wraps: the handler is then one
    of the functions that it holds. One of them is reported when no handler at all has the checks."""
    handlers = list(handlers)
    present = {check for each in _held_by(handlers) for check in _NEEDED.of(each)}
    return [handler for handler in handlers if not present.issuperset(_HELD.of(handler))]


def _checked(handler: Handler, checks: Iterable[Check]) -> Handler:
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            for check in checks:
                check()
            return await handler(*args, **kwargs)

        return guarded  # type: ignore[return-value]

    @functools.wraps(handler)
    def guarded_function(*args: Any, **kwargs: Any) -> Any:
        for check in checks:
            check()
        return handler(*args, **kwargs)

    return guarded_function  # type: ignore[return-value]


async def _nothing() -> None:
    """A handler to look at the code of what `_checked` makes."""


CHECKED_CODES = (_checked(_nothing, ()).__code__, _checked(len, ()).__code__)
"""What stands in for a decorated handler: a TypeError that ends there never entered the handler."""


class _Notes:
    """Checks by the handler that they are for, by its identity and for as long as it lives."""

    def __init__(self) -> None:
        self._notes: dict[int, tuple[Any, list[tuple[Any, Check]]]] = {}

    def add(self, handler: Any, check: Check) -> None:
        function, instance = _parts(handler)
        owner = None if instance is None else weakref.ref(instance)
        key = id(function)
        if key not in self._notes:
            self._notes[key] = weakref.ref(function, functools.partial(self._notes.pop, key)), []
        notes = self._notes[key][1]
        notes[:] = [note for note in notes if note[0] is None or note[0]() is not None]
        notes.append((owner, check))

    def of(self, handler: Any) -> tuple[Check, ...]:
        function, instance = _parts(handler)
        found = self._notes.get(id(function))
        if found is None:
            return ()
        return tuple(check for owner, check in found[1] if owner is None or owner() is instance)


_NEEDED = _Notes()
_HELD = _Notes()


def _parts(handler: Any) -> tuple[Any, Any]:
    # A bound method is made anew each time that somebody asks for it.
    return (handler.__func__, handler.__self__) if isinstance(handler, MethodType) else (handler, None)


def _note(handler: Any, check: Check) -> None:
    try:
        _NEEDED.add(handler, check)
    except TypeError:
        raise ConfigurationError(
            f"requires() can't tell a {type(handler).__name__} from others, because it takes no weak references; write "
            "a function",
            option="scopes",
        ) from None
    known = [handler]
    with contextlib.suppress(TypeError):
        while len(known) < _DEEPEST and (inner := getattr(known[-1], "__wrapped__", None)) is not None:
            _NEEDED.add(inner, check)
            known.append(inner)
    for each in _held_by(known):
        with contextlib.suppress(TypeError):
            _HELD.add(each, check)


def _held_by(functions: Iterable[Any]) -> Iterator[Any]:
    """These functions and methods, and those that they hold: in closures, partials and attributes."""
    waiting, seen = list(functions), set[int]()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, type) and callable(function) and id(function) not in seen:
            seen.add(id(function))
            yield function
            waiting += _contents(function)


def _contents(function: Any) -> Iterator[Any]:
    own, instance = _parts(function)
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args)
    for each in (own, instance):
        yield from list(getattr(each, "__dict__", {}).values())
    for cell in getattr(own, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # Nothing is in it yet.
            yield cell.cell_contents


def _missing(connection: Connection, needed: frozenset[str]) -> Refusal | None:
    missing = needed - connection.identity.scopes
    if not missing:
        return None
    granted = sorted(neutralise(scope, 64) for scope in connection.identity.scopes)[:16]
    fields = {"required": sorted(needed), "missing": sorted(missing), "granted": granted}
    return Refusal(RejectCode.INSUFFICIENT_SCOPE, "scope_missing", fields)


def _too_often(connection: Connection, key: object, rate: Rate | None) -> Refusal | None:
    wait = wait_for(connection, key, rate)
    if not wait:
        return None
    return Refusal(RejectCode.RATE_LIMITED, "rate", {"limit": str(rate), "retry_after": math.ceil(wait)})


def wait_for(connection: Connection, key: object, rate: Rate | None) -> float:
    """Take one of what a connection may do so often: 0.0 when it may, else the seconds until it may again."""
    if rate is None:
        return 0.0
    if connection.budgets is None:
        connection.budgets = {}
    bucket: Bucket = connection.budgets.setdefault(key, Bucket())
    return bucket.take(rate, time.monotonic())
