"""The options of `SocketGuard`, validated. Two guards with equal ones may share a server."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, cast
from urllib.parse import urlsplit

from starlette.config import Config
from starlette.datastructures import CommaSeparatedStrings

from .check import _check_flag, listed, names, seconds
from .connection import OnRefresh
from .errors import ConfigurationError
from .limits.counters import Limits
from .limits.revocation import Store
from .logs import events
from .namespaces.policy import NamespacePolicy
from .namespaces.registry import EXAMPLE
from .proxies.heartbeat import Heartbeat
from .proxies.trusted import TrustedProxies
from .tokens.auth import ANY, JWTAuth, Verifier
from .tokens.issuers import Issuers

__all__ = [
    "VARIABLES",
    "Auth",
    "Options",
    "Settings",
    "admission_timeout",
    "check_origins",
    "name_of",
    "options_from_env",
    "read_options",
]

Auth: TypeAlias = JWTAuth | Issuers | Collection[JWTAuth] | None
"""What ``auth=`` takes: one verifier, or one for each issuer, or (written out) none."""

ADMISSION_TIMEOUT = 10.0
"""Seconds between a CONNECT and its answer, at most, unless the ping timeout asks for less."""


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


def check_origins(origins: object) -> str | tuple[str, ...] | None:
    """Validate ``allowed_origins``.

    Args:
        origins: None, ``"*"`` or a collection of origins as a browser sends them (RFC 6454): scheme, host and a port
            that isn't the scheme's own.

    Returns:
        None, ``"*"`` or a tuple.

    Raises:
        ConfigurationError: for anything that could never match an Origin header.
    """
    if origins is None or origins == "*":
        return "*" if origins else None
    result = listed(origins, "allowed_origins", example="['https://crm.example.com']")
    if result == ("*",):
        return "*"
    if not result:
        raise ConfigurationError(
            "allowed_origins is empty, so that no browser could connect; list the origins of your pages, "
            "such as 'https://crm.example.com', or leave the option out for same-origin only",
            option="allowed_origins",
        )
    for origin in result:
        _check_origin(origin)
    return result


def _check_origin(origin: object) -> None:
    problem = None
    if not isinstance(origin, str):
        problem = "is not a string; write one such as 'https://crm.example.com'"
    elif "*" in origin:
        problem = "holds a wildcard, which is not supported; list each origin"
    else:
        parts = urlsplit(origin)
        try:
            wanted = f"{parts.scheme}://{parts.netloc}".lower()
            default_port = (parts.scheme, parts.port) in (("https", 443), ("http", 80))
        except ValueError:
            wanted, default_port = "", False
        if not parts.scheme or not parts.netloc:
            problem = "is no origin; write scheme and host, such as 'https://crm.example.com'"
        elif default_port:
            problem = "names the scheme's own port, which browsers leave out"
        elif origin != wanted:
            problem = f"is not what a browser sends; write {wanted!r}"
    if problem:
        raise ConfigurationError(f"allowed_origins: {origin!r} {problem}", option="allowed_origins")


PREFIX = "SOCKETGUARD_"

VARIABLES: Mapping[str, str] = {
    "AUTH": "'none' for no token at all",
    "JWT_SECRET": "the shared secret, for HS256, HS384 and HS512",
    "JWT_PUBLIC_KEY": "the public key as PEM",
    "JWT_KEY_FILE": "the path of a file with the secret or the PEM",
    "JWKS_URL": "where the issuer publishes its keys",
    "OIDC_ISSUER": "the issuer whose OpenID Connect configuration names its keys",
    "JWT_ALGORITHMS": "comma-separated, such as RS256",
    "JWT_ISSUER": "the expected iss, or * for no check",
    "JWT_AUDIENCE": "the expected aud, comma-separated, or * for no check",
    "JWT_LEEWAY": "seconds",
    "JWT_MAX_LIFETIME": "seconds",
    "JWT_EXPIRY": "'disconnect' or 'ignore'",
    "NAMESPACES": "comma-separated; what is registered on the server when absent",
    "PROXY": "the proxies in front, comma-separated, such as cloudflare,traefik",
    "PING_INTERVAL": "whole seconds, instead of PROXY",
    "PING_TIMEOUT": "whole seconds, instead of PROXY",
    "ADMISSION_TIMEOUT": "seconds",
    "TRUSTED_PROXIES": "addresses and CIDR blocks, comma-separated",
    "ALLOWED_ORIGINS": "comma-separated, or *",
    "LOG_CLAIMS": "comma-separated",
    "DEBUG": "true or false",
    "LOG": "'off' for silence",
}

_SOURCES = ("JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_KEY_FILE", "JWKS_URL", "OIDC_ISSUER")
_ALGORITHMS = {"JWT_SECRET": ["HS256"], "OIDC_ISSUER": ["RS256"]}


def options_from_env(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The options that the environment names, ready for `SocketGuard`.

    Args:
        environ: the variables, ``os.environ`` by default.

    Raises:
        ConfigurationError: naming the variable.
    """
    environ = os.environ if environ is None else environ
    _refuse_misspelt(environ)
    config = Config(environ=environ, env_prefix=PREFIX)
    options: dict[str, Any] = {"auth": _auth(config)}
    heartbeat = _heartbeat(config)
    if heartbeat is not None:
        options["heartbeat"] = heartbeat
    for variable, option in (
        ("NAMESPACES", "namespaces"),
        ("TRUSTED_PROXIES", "trusted_proxies"),
        ("ALLOWED_ORIGINS", "allowed_origins"),
        ("LOG_CLAIMS", "log_claims"),
    ):
        values = _list(config, variable)
        if values is not None:
            options[option] = values
    if (timeout := _get(config, "ADMISSION_TIMEOUT", float)) is not None:
        options["admission_timeout"] = timeout
    if (debug := _get(config, "DEBUG", bool)) is not None:
        options["debug"] = debug
    return options


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    for name in environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in VARIABLES:
            close = difflib.get_close_matches(name, [PREFIX + known for known in VARIABLES], 1)
            advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(PREFIX + v for v in VARIABLES)}"
            raise ConfigurationError(f"{name} is no variable of socketguard; {advice}", option=name)


def _get(config: Config, variable: str, convert: Callable[[Any], Any] = str) -> Any:
    if config.get(variable, default="") == "":
        return None
    try:
        return config.get(variable, cast=convert)
    except ValueError:
        raise ConfigurationError(
            f"{PREFIX}{variable} can't be read; expected: {VARIABLES[variable]}", option=PREFIX + variable
        ) from None


def _list(config: Config, variable: str) -> list[str] | None:
    values = _get(config, variable, CommaSeparatedStrings)
    return None if values is None else [value.strip() for value in values if value.strip()]


def _auth(config: Config) -> JWTAuth | None:
    mode = _get(config, "AUTH")
    sources = [name for name in _SOURCES if _get(config, name) is not None]
    if mode is not None:
        if mode.lower() != "none" or sources:
            raise ConfigurationError(
                "SOCKETGUARD_AUTH is either 'none' or left out; with a key in SOCKETGUARD_JWT_*, or with "
                "SOCKETGUARD_JWKS_URL or SOCKETGUARD_OIDC_ISSUER, leave it out",
                option="SOCKETGUARD_AUTH",
            )
        return None
    if len(sources) != 1:
        found = " and ".join(PREFIX + name for name in sources) or "no key"
        raise ConfigurationError(
            f"found {found}: set exactly one of {', '.join(PREFIX + name for name in _SOURCES)}, "
            "or SOCKETGUARD_AUTH=none",
            option="SOCKETGUARD_JWT_SECRET",
        )
    return _jwt(config, sources[0])


def _jwt(config: Config, source: str) -> JWTAuth:
    algorithms = _list(config, "JWT_ALGORITHMS")
    if algorithms is None and source not in _ALGORITHMS:
        raise ConfigurationError(
            "SOCKETGUARD_JWT_ALGORITHMS is missing; name the algorithms of your tokens, such as RS256",
            option="SOCKETGUARD_JWT_ALGORITHMS",
        )
    audience, issuer = _list(config, "JWT_AUDIENCE"), _get(config, "JWT_ISSUER")
    options: dict[str, Any] = {
        "algorithms": _ALGORITHMS[source] if algorithms is None else algorithms,
        "audience": ANY if audience == ["*"] else audience,
    }
    for variable, option, convert in (
        ("JWT_LEEWAY", "leeway", float),
        ("JWT_MAX_LIFETIME", "max_lifetime", float),
        ("JWT_EXPIRY", "expiry", str.lower),
    ):
        if (value := _get(config, variable, convert)) is not None:
            options[option] = value
    if source == "OIDC_ISSUER":
        if issuer is not None:
            raise ConfigurationError(
                "SOCKETGUARD_OIDC_ISSUER is the expected iss too; leave SOCKETGUARD_JWT_ISSUER out",
                option="SOCKETGUARD_JWT_ISSUER",
            )
        _require(source, "JWT_AUDIENCE", audience)
        return JWTAuth.discover(_get(config, source), **options)
    options["issuer"] = ANY if issuer == "*" else issuer
    if source == "JWKS_URL":
        _require(source, "JWT_ISSUER", issuer)
        _require(source, "JWT_AUDIENCE", audience)
        return JWTAuth(jwks_url=_get(config, source), **options)
    return JWTAuth(_key(config, source), **options)


def _require(source: str, variable: str, value: object) -> None:
    if value is None:
        raise ConfigurationError(
            f"{PREFIX}{source} needs {PREFIX}{variable}: the keys of an issuer sign for other services too; "
            f"set it to {VARIABLES[variable]}",
            option=PREFIX + variable,
        )


def _key(config: Config, variable: str) -> Any:
    value: str = _get(config, variable)
    if variable != "JWT_KEY_FILE":
        # Panels and .env files often keep a PEM on one line.
        return value.replace("\\n", "\n") if variable == "JWT_PUBLIC_KEY" else value
    try:
        return Path(value).read_bytes().strip()
    except OSError as exc:
        raise ConfigurationError(
            f"SOCKETGUARD_JWT_KEY_FILE: {value!r} can't be read ({exc.strerror})", option="SOCKETGUARD_JWT_KEY_FILE"
        ) from None


def _heartbeat(config: Config) -> Heartbeat | None:
    proxies = _list(config, "PROXY")
    interval, timeout = _get(config, "PING_INTERVAL", int), _get(config, "PING_TIMEOUT", int)
    if proxies is None and interval is None and timeout is None:
        return None
    if proxies is not None:
        if interval is not None or timeout is not None:
            raise ConfigurationError(
                "set SOCKETGUARD_PROXY, or SOCKETGUARD_PING_INTERVAL and SOCKETGUARD_PING_TIMEOUT, not both",
                option="SOCKETGUARD_PROXY",
            )
        return Heartbeat.behind(*proxies)
    return Heartbeat(25 if interval is None else interval, 20 if timeout is None else timeout)
