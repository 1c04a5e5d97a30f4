"""The options of `SocketGuard`, validated. Two guards with equal ones may share a server."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, cast

from . import events
from .connection import OnRefresh
from .errors import ConfigurationError
from .handshake import check_origins
from .issuers import Issuers
from .limits import Limits
from .lists import listed, names
from .namespaces import EXAMPLE, NamespacePolicy
from .proxies.heartbeat import Heartbeat
from .proxies.trusted import TrustedProxies
from .store import Store
from .verifier import JWTAuth, Verifier

__all__ = ["Auth", "Options", "Settings", "admission_timeout", "name_of", "read_options"]

Auth: TypeAlias = JWTAuth | Issuers | Collection[JWTAuth] | None
"""What ``auth=`` takes: one verifier, or one for each issuer, or (written out) none."""

ADMISSION_TIMEOUT = 10.0
"""Seconds between a CONNECT and its answer, at most, unless the ping timeout asks for less."""


# A year: whatever lasts longer is a mistake, and a loop can't count to any number.
_LONGEST = 31_536_000


class Options(TypedDict, total=False):
    """The options of `SocketGuard` beside ``auth``."""

    namespaces: Collection[str | NamespacePolicy] | None
    heartbeat: Heartbeat | None
    limits: Limits | None
    store: Store | None
    store_timeout: float
    fail_open: bool
    connect_timeout: float | None
    admission_timeout: float | None
    expiring_notice: float | None
    stable_claims: Collection[str]
    on_refresh: OnRefresh | None
    bind_polling: Literal["address"] | None
    trusted_proxies: Collection[str]
    allowed_origins: Collection[str] | Literal["*"] | None
    log_claims: Collection[str]
    logger: Any
    debug: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options, validated; two guards with equal ones may share a server."""

    auth: Verifier | None
    namespaces: tuple[str | NamespacePolicy, ...] | None
    heartbeat: Heartbeat | None
    limits: Limits
    store: Store | None
    store_timeout: float
    fail_open: bool
    connect_timeout: float | None
    admission_timeout: float | None
    expiring_notice: float | None
    stable_claims: tuple[str, ...]
    on_refresh: OnRefresh | None
    bind_polling: bool
    trusted_proxies: TrustedProxies
    allowed_origins: str | tuple[str, ...] | None
    log_claims: tuple[str, ...]
    logger: Any
    debug: bool


def read_options(
    auth: Auth,
    *,
    namespaces: Collection[str | NamespacePolicy] | None = None,
    heartbeat: Heartbeat | None = None,
    limits: Limits | None = None,
    store: Store | None = None,
    store_timeout: float = 2.0,
    fail_open: bool = False,
    connect_timeout: float | None = 15.0,
    admission_timeout: float | None = None,
    expiring_notice: float | None = 30.0,
    stable_claims: Collection[str] = (),
    on_refresh: OnRefresh | None = None,
    bind_polling: Literal["address"] | None = None,
    trusted_proxies: Collection[str] = (),
    allowed_origins: Collection[str] | Literal["*"] | None = None,
    log_claims: Collection[str] = ("sub",),
    logger: Any = None,
    debug: bool = False,
) -> Settings:
    """Validate the options of `SocketGuard`, where they are described.

    Raises:
        ConfigurationError: for any option that can't work, by its name.
    """
    settings = Settings(
        auth=_check_auth(auth),
        namespaces=_check_namespaces(namespaces),
        heartbeat=_check_heartbeat(heartbeat),
        limits=_check_limits(limits),
        store=_check_store(store),
        store_timeout=seconds(store_timeout, "store_timeout", example=2),
        fail_open=_check_flag(fail_open, "fail_open"),
        connect_timeout=None if connect_timeout is None else seconds(connect_timeout, "connect_timeout", example=15),
        admission_timeout=(
            None if admission_timeout is None else seconds(admission_timeout, "admission_timeout", example=10)
        ),
        expiring_notice=None if expiring_notice is None else seconds(expiring_notice, "expiring_notice", example=30),
        stable_claims=names(stable_claims, "stable_claims", example='("tenant_id",)'),
        on_refresh=_check_on_refresh(on_refresh),
        bind_polling=_check_bind_polling(bind_polling),
        trusted_proxies=TrustedProxies(trusted_proxies),
        allowed_origins=check_origins(allowed_origins),
        log_claims=events.check_log_claims(log_claims),
        logger=logger,
        debug=_check_flag(debug, "debug"),
    )
    _check_together(settings)
    return settings


def seconds(value: object, option: str, *, example: float, lowest: float = 0.0) -> float:
    """Check a time in seconds.

    Args:
        value: what was given.
        option: its name.
        example: what might stand there.
        lowest: what it must be greater than.

    Raises:
        ConfigurationError: it is no finite number, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest < value <= _LONGEST:
        # Python refuses to write out integers of more than 4,300 digits.
        shown = "too large" if isinstance(value, int) and value.bit_length() > 10_000 else repr(value)
        raise ConfigurationError(f"{option} is {shown}; write seconds, such as {option}={example}", option=option)
    return float(value)


def name_of(policy: str | NamespacePolicy) -> str:
    """The name of a policy."""
    return policy if isinstance(policy, str) else policy.name


def _check_auth(auth: Any) -> Verifier | None:
    if auth is None or isinstance(auth, JWTAuth | Issuers):
        return cast("Verifier | None", auth)
    given: tuple[Any, ...] = ()
    what = f"a {type(auth).__name__}"
    # A text may be a secret, which stands in no error.
    if isinstance(auth, Iterable) and not isinstance(auth, str):
        given = listed(auth, "auth", example="[JWTAuth(…), JWTAuth(…)]")
        what = f"{what} of something else" if given else f"an empty {type(auth).__name__}"
    if given and all(isinstance(one, JWTAuth) for one in given):
        return given[0] if len(given) == 1 else Issuers(*given)
    raise ConfigurationError(
        f"auth is {what}; write auth=JWTAuth(key, algorithms=[…]), a list with one for each issuer, or auth=None for "
        "no token at all",
        option="auth",
    )


def _check_namespaces(namespaces: Any) -> tuple[str | NamespacePolicy, ...] | None:
    if namespaces is None:
        return None
    if isinstance(namespaces, NamespacePolicy):
        raise ConfigurationError(f"namespaces is a list; write namespaces=[{namespaces!r}]", option="namespaces")
    return listed(namespaces, "namespaces", example=EXAMPLE)


def _check_heartbeat(heartbeat: object) -> Heartbeat | None:
    if heartbeat is None or isinstance(heartbeat, Heartbeat):
        return heartbeat
    raise ConfigurationError(
        f"heartbeat is {heartbeat!r}; write Heartbeat(interval=25, timeout=20) or Heartbeat.behind('nginx')",
        option="heartbeat",
    )


def _check_limits(limits: object) -> Limits:
    if limits is None:
        return Limits()
    if isinstance(limits, Limits):
        return limits
    raise ConfigurationError(
        f"limits is a {type(limits).__name__}; write limits=Limits(connections=1000, …)", option="limits"
    )


def _check_store(store: Any) -> Store | None:
    if store is None or (callable(getattr(store, "revoke", None)) and callable(getattr(store, "is_revoked", None))):
        return cast("Store | None", store)
    raise ConfigurationError(
        f"store is a {type(store).__name__} without the methods revoke and is_revoked; write store=MemoryStore()",
        option="store",
    )


def _check_on_refresh(function: Any) -> OnRefresh | None:
    if function is None or callable(function):
        return cast("OnRefresh | None", function)
    raise ConfigurationError(
        f"on_refresh is a {type(function).__name__}; write a function of (connection, old, new)", option="on_refresh"
    )


def _check_bind_polling(bind: object) -> bool:
    if bind in (None, "address"):
        return bind is not None
    raise ConfigurationError(
        f'bind_polling is {bind!r}; write bind_polling="address" or leave it out (browsers send no token with the '
        "requests after the first)",
        option="bind_polling",
    )


def admission_timeout(seconds: float | None, ping_timeout: Any) -> float:
    """The seconds for everything between a CONNECT and its answer, against the ping timeout of the server."""
    limit = float(ping_timeout) if isinstance(ping_timeout, int | float) and ping_timeout > 0 else math.inf
    if seconds is None:
        return min(ADMISSION_TIMEOUT, limit / 2)
    if seconds >= limit:
        raise ConfigurationError(
            f"admission_timeout is {seconds:g} s, the ping timeout {limit:g} s: over WebSocket no pong is read while a "
            "client is admitted, so write less than the ping timeout",
            option="admission_timeout",
        )
    return seconds


def _check_flag(value: object, option: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{option} is {value!r}; write True or False", option=option)


def _check_together(settings: Settings) -> None:
    auth, origins = settings.auth, settings.allowed_origins
    if auth is not None and auth.uses_cookie and (origins is None or origins == "*"):
        raise ConfigurationError(
            "a cookie is a source of tokens, so any page could connect as its visitor: list the origins of your pages, "
            "allowed_origins=['https://…']",
            option="allowed_origins",
        )
    if settings.fail_open and settings.store is None:
        raise ConfigurationError(
            "fail_open says what happens when the store fails, but there is none: write store=…, or leave it out",
            option="fail_open",
        )
    if auth is None:
        for policy in settings.namespaces or ():
            if isinstance(policy, NamespacePolicy) and (policy.scopes or policy.claims):
                raise ConfigurationError(
                    f"NamespacePolicy({policy.name!r}) asks for scopes or claims, but auth is None; write "
                    "auth=JWTAuth(…)",
                    option="auth",
                )
