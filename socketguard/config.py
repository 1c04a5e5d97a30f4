"""The options of `SocketGuard`: each with its check, given as arguments or in the environment."""

# ruff: noqa: RUF009 - _option() makes a field, which is what the rule allows

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, cast
from urllib.parse import urlsplit

from starlette.config import Config
from starlette.datastructures import CommaSeparatedStrings

from .auth.credentials import Credentials
from .auth.users import LoadUser
from .authenticator import Authenticator, ConnectRequest
from .check import YEAR, flag, function, listed, names, seconds, unknown
from .connection import Identity, OnRefresh
from .errors import ConfigurationError
from .limits.counters import Limits
from .limits.revocation import Store
from .logs import events
from .namespaces.policy import NamespacePolicy
from .namespaces.registry import EXAMPLE
from .proxies.heartbeat import Heartbeat
from .proxies.trusted import TrustedProxies
from .tokens.auth import ANY, JWTAuth

__all__ = ["VARIABLES", "Auth", "Options", "Settings", "admission_timeout", "options_from_env", "read_options"]

Identify: TypeAlias = Callable[[ConnectRequest], Awaitable[Identity | None] | Identity | None]
Auth: TypeAlias = Authenticator | Identify | Collection[Authenticator | Identify] | None
"""What ``auth=`` takes: whoever says whose a credential is, or several of them, or (written out) none."""

ADMISSION_TIMEOUT = 10.0
"""Seconds between a CONNECT and its answer, at most, unless the ping timeout asks for less."""


class Options(TypedDict, total=False):
    """The options of `SocketGuard` beside ``auth``, as an application may write them."""

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
    load_user: LoadUser | None
    revalidate: float | None
    revalidate_stale: float
    bind_polling: Literal["address"] | None
    trusted_proxies: Collection[str]
    allowed_origins: Collection[str] | Literal["*"] | None
    log_claims: Collection[str]
    logger: Any
    debug: bool
    report_only: bool


# Each check takes a value and the name of its option, and returns what stands in `Settings`.


def _auth(auth: Any, _: str) -> Credentials | None:
    return None if auth is None else Credentials(auth)


def _namespaces(namespaces: Any, option: str) -> tuple[str | NamespacePolicy, ...] | None:
    if namespaces is None:
        return None
    if isinstance(namespaces, NamespacePolicy):
        raise ConfigurationError(f"namespaces is a list; write namespaces=[{namespaces!r}]", option=option)
    return listed(namespaces, option, example=EXAMPLE)


def _heartbeat(heartbeat: object, option: str) -> Heartbeat | None:
    if heartbeat is None or isinstance(heartbeat, Heartbeat):
        return heartbeat
    raise ConfigurationError(
        f"heartbeat is {heartbeat!r}; write Heartbeat(interval=25, timeout=20) or Heartbeat.behind('nginx')",
        option=option,
    )


def _limits(limits: object, option: str) -> Limits:
    if limits is None or isinstance(limits, Limits):
        return limits or Limits()
    raise ConfigurationError(
        f"limits is a {type(limits).__name__}; write limits=Limits(connections=1000, …)", option=option
    )


def _store(store: Any, option: str) -> Store | None:
    if isinstance(store, type):
        raise ConfigurationError(f"store is the class {store.__name__}; write store={store.__name__}()", option=option)
    if store is None or (callable(getattr(store, "revoke", None)) and callable(getattr(store, "is_revoked", None))):
        return cast("Store | None", store)
    raise ConfigurationError(
        f"store is a {type(store).__name__} without the methods revoke and is_revoked; write store=MemoryStore()",
        option=option,
    )


def _seconds(example: int, *, optional: bool = True, most: float = YEAR) -> Callable[[object, str], float | None]:
    def check(value: object, option: str) -> float | None:
        return None if optional and value is None else seconds(value, option, example=example, most=most)

    return check


def _on_refresh(hook: Any, option: str) -> OnRefresh | None:
    if hook is None:
        return None
    write = "write a function of (connection, old, new)"
    return cast("OnRefresh", function(hook, option, "connection", "old", "new", write=write))


def _load_user(load: Any, option: str) -> LoadUser | None:
    if load is None:
        return None
    write = "write a function of the identity that returns the user, or None when there is none any more"
    return cast("LoadUser", function(load, option, "identity", write=write))


def _bind_polling(bind: object, option: str) -> bool:
    if bind in (None, "address"):
        return bind is not None
    raise ConfigurationError(
        f'bind_polling is {bind!r}; write bind_polling="address" or leave it out (browsers send no token with the '
        "requests after the first)",
        option=option,
    )


def _origins(origins: object, option: str) -> str | tuple[str, ...] | None:
    """Origins as a browser sends them (RFC 6454): scheme, host and a port that isn't the scheme's own."""
    if origins is None or origins == "*":
        return "*" if origins else None
    result = listed(origins, option, example="['https://crm.example.com']")
    if result == ("*",):
        return "*"
    if not result:
        raise ConfigurationError(
            "allowed_origins is empty, so that no browser could connect; list the origins of your pages, "
            "such as 'https://crm.example.com', or leave the option out for same-origin only",
            option=option,
        )
    for origin in result:
        problem = _origin_problem(origin)
        if problem:
            raise ConfigurationError(f"allowed_origins: {origin!r} {problem}", option=option)
    return result


def _origin_problem(origin: object) -> str | None:
    if not isinstance(origin, str):
        return "is not a string; write one such as 'https://crm.example.com'"
    if "*" in origin:
        return "holds a wildcard, which is not supported; list each origin"
    parts = urlsplit(origin)
    try:
        wanted = f"{parts.scheme}://{parts.netloc}".lower()
        default_port = (parts.scheme, parts.port) in (("https", 443), ("http", 80))
    except ValueError:
        wanted, default_port = "", False
    if not parts.scheme or not parts.netloc:
        return "is no origin; write scheme and host, such as 'https://crm.example.com'"
    if default_port:
        return "names the scheme's own port, which browsers leave out"
    return None if origin == wanted else f"is not what a browser sends; write {wanted!r}"


def _option(check: Callable[[Any, str], Any], default: Any = None) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options with their checks and defaults, validated; two guards with equal ones may share a server."""

    auth: Credentials | None = _option(_auth)
    namespaces: tuple[str | NamespacePolicy, ...] | None = _option(_namespaces)
    heartbeat: Heartbeat | None = _option(_heartbeat)
    limits: Limits = _option(_limits)
    store: Store | None = _option(_store)
    # JavaScript clients wait in silence for as long as the store; more than a minute is most likely milliseconds.
    store_timeout: float = _option(_seconds(2, optional=False, most=60), 2.0)
    fail_open: bool = _option(flag, False)
    connect_timeout: float | None = _option(_seconds(15), 15.0)
    admission_timeout: float | None = _option(_seconds(10))
    expiring_notice: float | None = _option(_seconds(30), 30.0)
    stable_claims: tuple[str, ...] = _option(lambda claims, option: names(claims, option, example='("tenant_id",)'), ())
    on_refresh: OnRefresh | None = _option(_on_refresh)
    load_user: LoadUser | None = _option(_load_user)
    revalidate: float | None = _option(_seconds(60))
    revalidate_stale: float = _option(_seconds(300, optional=False), 300.0)
    bind_polling: bool = _option(_bind_polling)
    trusted_proxies: TrustedProxies = _option(lambda networks, _: TrustedProxies(networks), ())
    allowed_origins: str | tuple[str, ...] | None = _option(_origins)
    log_claims: tuple[str, ...] = _option(lambda claims, _: events.check_log_claims(claims), ("sub",))
    logger: Any = _option(lambda logger, _: logger)
    debug: bool = _option(flag, False)
    report_only: bool = _option(flag, False)


def read_options(auth: Auth, **options: Unpack[Options]) -> Settings:
    """The options of `SocketGuard`, validated; the one that can't work is named."""
    given: dict[str, Any] = {"auth": auth, **options}
    checked = {
        option.name: option.metadata["check"](given.pop(option.name, option.default), option.name)
        for option in dataclasses.fields(Settings)
    }
    for name in given:
        raise unknown(name, "SocketGuard", [option.name for option in dataclasses.fields(Settings)])
    settings = Settings(**checked)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    auth, origins = settings.auth, settings.allowed_origins
    if auth is not None:
        auth.origins = origins if isinstance(origins, tuple) else ()
        if auth.jwt is not None and auth.jwt.finder.uses_cookie:
            # Alone it is what HTTP routes ask.
            auth.jwt.origins = tuple(dict.fromkeys((*auth.jwt.origins, *auth.origins)))
        if auth.uses_cookie and not auth.origins:
            raise ConfigurationError(
                "a cookie is a credential, so any page could connect as its visitor: list the origins of your pages, "
                "allowed_origins=['https://…']",
                option="allowed_origins",
            )
    if settings.report_only and auth is None:
        raise ConfigurationError(
            "report_only says what would be refused for want of a credential, but auth is None; write auth=…, or leave "
            "it out",
            option="report_only",
        )
    if settings.revalidate is not None and settings.load_user is None:
        raise ConfigurationError(
            "revalidate says how often load_user is asked again, but there is none: write load_user=…, or leave it out",
            option="revalidate",
        )
    if settings.load_user is not None and auth is None:
        raise ConfigurationError(
            "load_user is asked for whoever has shown a credential, but auth is None; write auth=…", option="load_user"
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


def _texts(value: str) -> list[str]:
    return [text.strip() for text in CommaSeparatedStrings(value) if text.strip()]


# Variables that are one option each, of the same name, and how they are read.
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "NAMESPACES": _texts,
    "TRUSTED_PROXIES": _texts,
    "ALLOWED_ORIGINS": _texts,
    "LOG_CLAIMS": _texts,
    "ADMISSION_TIMEOUT": float,
    "DEBUG": bool,
}
_OPTIONS_OF_JWT: Mapping[str, Callable[[str], Any]] = {
    "JWT_LEEWAY": float,
    "JWT_MAX_LIFETIME": float,
    "JWT_EXPIRY": str.lower,
}


def options_from_env(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The options that the environment names, ready for `SocketGuard`; the variable that can't work is named."""
    environ = os.environ if environ is None else environ
    for name in environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in VARIABLES:
            raise unknown(name, "socketguard", [PREFIX + known for known in VARIABLES], kind="variable")
    config = Config(environ=environ, env_prefix=PREFIX)
    options = {
        "auth": _auth_from_env(config),
        "heartbeat": _heartbeat_from_env(config),
        **{name.lower(): _get(config, name, convert) for name, convert in _OPTIONS.items()},
    }
    return {name: value for name, value in options.items() if value is not None or name == "auth"}


def _get(config: Config, variable: str, convert: Callable[[str], Any] = str) -> Any:
    """The value of a variable; None when it is absent or empty."""
    if config.get(variable, default="") == "":
        return None
    try:
        return config.get(variable, cast=convert)
    except ValueError:
        raise ConfigurationError(
            f"{PREFIX}{variable} can't be read; expected: {VARIABLES[variable]}", option=PREFIX + variable
        ) from None


def _auth_from_env(config: Config) -> JWTAuth | None:
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
    algorithms = _get(config, "JWT_ALGORITHMS", _texts)
    if algorithms is None and source not in _ALGORITHMS:
        raise ConfigurationError(
            "SOCKETGUARD_JWT_ALGORITHMS is missing; name the algorithms of your tokens, such as RS256",
            option="SOCKETGUARD_JWT_ALGORITHMS",
        )
    audience, issuer = _get(config, "JWT_AUDIENCE", _texts), _get(config, "JWT_ISSUER")
    options: dict[str, Any] = {
        "algorithms": _ALGORITHMS[source] if algorithms is None else algorithms,
        "audience": ANY if audience == ["*"] else audience,
    }
    for variable, convert in _OPTIONS_OF_JWT.items():
        if (value := _get(config, variable, convert)) is not None:
            options[variable.removeprefix("JWT_").lower()] = value
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


def _heartbeat_from_env(config: Config) -> Heartbeat | None:
    proxies = _get(config, "PROXY", _texts)
    pings = {"interval": _get(config, "PING_INTERVAL", int), "timeout": _get(config, "PING_TIMEOUT", int)}
    given = {option: value for option, value in pings.items() if value is not None}
    if proxies is None:
        return Heartbeat(**given) if given else None
    if given:
        raise ConfigurationError(
            "set SOCKETGUARD_PROXY, or SOCKETGUARD_PING_INTERVAL and SOCKETGUARD_PING_TIMEOUT, not both",
            option="SOCKETGUARD_PROXY",
        )
    return Heartbeat.behind(*proxies)
