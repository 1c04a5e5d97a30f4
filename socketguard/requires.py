"""What a single event asks for: `SocketGuard.requires` on a handler."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .identity import Connection, current_connection
from .limits import Bucket, Rate
from .rejections import ConfigurationError, RejectCode, Rejection
from .tokens import names

__all__ = ["EventRefused", "requires", "wait_for"]

Handler = TypeVar("Handler", bound=Callable[..., Any])


class EventRefused(Exception):
    """An event is not to be dispatched. The guard catches it and answers the client.

    Attributes:
        rejection: why.
    """

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.code.value)
        self.rejection = rejection


def requires(*scopes: str, rate: str | None = None) -> Callable[[Handler], Handler]:
    """Make a decorator for handlers of events, written below ``@sio.on(…)``.

    An event of a client that does not have the scopes, or sends too many, is never dispatched: it is acknowledged with
    ``{"ok": false, "code": …, "message": …, "retry": …}`` and logged as ``socketguard.event.rejected``. The scopes are
    those of the token that the client has now, which a refresh may have changed.

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
                rejection = _missing(connection, needed) or _too_often(connection, key, allowed)
                if rejection is not None:
                    raise EventRefused(rejection)

        if inspect.iscoroutinefunction(handler):

            @functools.wraps(handler)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                check()
                return await handler(*args, **kwargs)

            return guarded  # type: ignore[return-value]

        @functools.wraps(handler)
        def guarded_function(*args: Any, **kwargs: Any) -> Any:
            check()
            return handler(*args, **kwargs)

        return guarded_function  # type: ignore[return-value]

    return decorate


def _missing(connection: Connection, needed: frozenset[str]) -> Rejection | None:
    missing = needed - connection.identity.scopes
    if not missing:
        return None
    return Rejection(
        RejectCode.INSUFFICIENT_SCOPE, "scope_missing", {"required": sorted(needed), "missing": sorted(missing)}
    )


def _too_often(connection: Connection, key: object, rate: Rate | None) -> Rejection | None:
    wait = wait_for(connection, key, rate)
    if not wait:
        return None
    return Rejection(RejectCode.RATE_LIMITED, "rate", {"limit": str(rate), "retry_after": math.ceil(wait)})


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
