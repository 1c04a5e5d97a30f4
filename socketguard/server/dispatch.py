"""What a single event asks for: `SocketGuard.requires` on a handler.

``sio.on`` registers what it decorates. Written below `requires` it registers the handler without the checks; so they
are noted for the handler too, and the guard asks `required` what to run in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, Protocol, TypeVar

from socketguard.check import names
from socketguard.connection import Connection, Identity, OnRefresh, bound_connection, current_connection
from socketguard.deadline import Overdue, is_ours, run_until
from socketguard.errors import ConfigurationError, Refusal, RejectCode, new_ref
from socketguard.limits.expiry import Lifetime
from socketguard.limits.rates import Bucket, Rate
from socketguard.logs.report import Report

__all__ = ["EventRefused", "Refreshes", "bypassed", "required", "requires", "wait_for"]

Handler = TypeVar("Handler", bound=Callable[..., Any])
Check = Callable[[], None]

_DEEPEST = 32  # decorators on one handler


class EventRefused(Exception):
    """An event is not to be dispatched. The guard catches it and answers the client.

    Attributes:
        refusal: why.
    """

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
    """What to run for a registered handler: itself, or what checks first what `requires` has decorated it with.

    Args:
        handler: what python-socketio would call.
    """
    checks = _NEEDED.of(handler)
    # The decorator that stands highest asks first.
    return _checked(handler, checks[::-1]) if checks else handler


def bypassed(handlers: Iterable[Any]) -> list[Any]:
    """Those handlers that run without the checks of `requires`, where `required` can't know it for certain.

    So it is where a decorator between ``requires`` and ``sio.on`` does not say what it wraps: the handler is then one
    of the functions that it holds. One of them is reported when no handler at all has the checks.

    Args:
        handlers: all that are registered.
    """
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
    return Refusal(
        RejectCode.INSUFFICIENT_SCOPE, "scope_missing", {"required": sorted(needed), "missing": sorted(missing)}
    )


def _too_often(connection: Connection, key: object, rate: Rate | None) -> Refusal | None:
    wait = wait_for(connection, key, rate)
    if not wait:
        return None
    return Refusal(RejectCode.RATE_LIMITED, "rate", {"limit": str(rate), "retry_after": math.ceil(wait)})


def wait_for(connection: Connection, key: object, rate: Rate | None) -> float:
    """Take one of what a connection may do so often.

    Args:
        connection: the connection; its ``budgets`` hold what is left.
        key: what it does.
        rate: how often it may; None for any number.

    Returns:
        0.0 when it may, else the seconds until it may again.
    """
    if rate is None:
        return 0.0
    if connection.budgets is None:
        connection.budgets = {}
    bucket: Bucket = connection.budgets.setdefault(key, Bucket())
    return bucket.take(rate, time.monotonic())


_BUDGET = "socketguard:refresh"


class Decide(Protocol):
    """See `socketguard.admission.Admission.refresh`."""

    async def __call__(self, connection: Connection, token: object, deadline: float) -> Identity | Refusal: ...


class Refreshes:
    """Answers refreshes.

    Args:
        decide: decides on the token.
        report: told what happened.
        lifetime: told of the new end.
        rate: how many refreshes one connection may ask for.
        on_refresh: the application's own function.
        timeout: seconds for one refresh.
        log_claims: claims for log lines.
        on_revoked: ends a connection whose client has offered a revoked token.
    """

    def __init__(
        self,
        decide: Decide,
        report: Report,
        *,
        lifetime: Lifetime,
        rate: Rate | None,
        on_refresh: OnRefresh | None,
        timeout: float,
        log_claims: tuple[str, ...],
        on_revoked: Callable[[Connection], None],
    ) -> None:
        self._decide = decide
        self._report = report
        self._lifetime = lifetime
        self._rate = rate
        self._on_refresh = on_refresh
        self._timeout = timeout
        self._log_claims = log_claims
        self._on_revoked = on_revoked

    async def handle(self, connection: Connection, args: tuple[Any, ...]) -> dict[str, Any]:
        """Handle the event.

        Args:
            connection: who sent it.
            args: the Socket.IO session id, then what the client sent.

        Returns:
            The acknowledgement: ``{"ok": True, "expires_in": seconds}``, or ``{"ok": False, "code": …, "message": …,
            "retry": …}``. A refusal leaves the old token as it was.
        """
        if connection.refreshing:
            refusal: Refusal | None = Refusal(RejectCode.RATE_LIMITED, "refresh_running", {"retry_after": 1})
        else:
            connection.refreshing = True
            try:
                refusal = self._over_budget(connection) or await self._refresh(connection, args[1:])
            finally:
                connection.refreshing = False
                connection.offered = None
        if refusal is None:
            return {"ok": True, "expires_in": self._lifetime.seconds_left(connection)}
        ref = new_ref()
        self._report.refresh_rejected(connection, refusal, ref)
        if refusal.code is RejectCode.TOKEN_REVOKED:
            self._on_revoked(connection)
        return refusal.acknowledgement(ref)

    def _over_budget(self, connection: Connection) -> Refusal | None:
        wait = wait_for(connection, _BUDGET, self._rate)
        if not wait:
            return None
        return Refusal(RejectCode.RATE_LIMITED, "refreshes_per_connection", {"retry_after": int(wait) + 1})

    async def _refresh(self, connection: Connection, sent: tuple[Any, ...]) -> Refusal | None:
        deadline = asyncio.get_running_loop().time() + self._timeout
        payload = sent[0] if sent else None
        if payload is not None and not isinstance(payload, dict):
            return Refusal(RejectCode.TOKEN_MALFORMED, "not_an_object", {"received": type(payload).__name__})
        found = await self._decide(connection, (payload or {}).get("token"), deadline)
        if isinstance(found, Refusal):
            return found
        refusal = _has_ended(connection) or await self._tell(connection, found, deadline) or _has_ended(connection)
        if refusal is not None:
            return refusal
        previous = connection.identity.token_id
        connection.identity = found
        connection.refreshes += 1
        connection.bind_log_fields(self._log_claims)
        self._lifetime.renew(connection)
        self._report.refreshed(connection, self._lifetime.seconds_left(connection), previous)
        return None

    async def _tell(self, connection: Connection, new: Identity, deadline: float) -> Refusal | None:
        if self._on_refresh is None:
            return None
        token = bound_connection.set(connection)
        try:
            answer = self._on_refresh(connection, connection.identity, new)
            if inspect.isawaitable(answer):
                answer = await run_until(answer, deadline)
        except Overdue:
            return Refusal(RejectCode.ADMISSION_TIMEOUT, "on_refresh")
        except BaseException as exc:
            if not is_ours(exc):
                raise
            return Refusal(RejectCode.INTERNAL_ERROR, "on_refresh", error=exc)
        finally:
            bound_connection.reset(token)
        if answer is None or answer is True:
            return None
        return Refusal(RejectCode.INSUFFICIENT_SCOPE, "on_refresh_refused", {"received": type(answer).__name__})


def _has_ended(connection: Connection) -> Refusal | None:
    """Whether the connection was ended while the fresh token was looked at."""
    if connection.state is Connection.JOINED and connection.reason is None:
        return None
    return Refusal(RejectCode.TOKEN_EXPIRED, "connection_ended")
