"""Reads the options of a guard from environment variables ``SOCKETGUARD_*``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.config import Config
from starlette.datastructures import CommaSeparatedStrings

from .errors import ConfigurationError
from .proxies.heartbeat import Heartbeat
from .verifier import ANY, JWTAuth

__all__ = ["VARIABLES", "options_from_env"]

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


def _get(config: Config, variable: str, cast: Callable[[Any], Any] = str) -> Any:
    if config.get(variable, default="") == "":
        return None
    try:
        return config.get(variable, cast=cast)
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
    for variable, option, cast in (
        ("JWT_LEEWAY", "leeway", float),
        ("JWT_MAX_LIFETIME", "max_lifetime", float),
        ("JWT_EXPIRY", "expiry", str.lower),
    ):
        if (value := _get(config, variable, cast)) is not None:
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
