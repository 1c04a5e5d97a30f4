"""Checks of options, each said once: of a call, of lists, names, seconds, flags and functions, of addresses."""

from __future__ import annotations

import difflib
import functools
import inspect
import ipaddress
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from typing import Any, TypeVar, cast

from .errors import ConfigurationError

__all__ = ["YEAR", "called", "flag", "function", "is_loopback", "listed", "names", "seconds", "unknown", "whole"]

_Called = TypeVar("_Called", bound=Callable[..., Any])

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_TEXTS = (str, bytes, bytearray, memoryview)

# Seconds: whatever lasts longer is a mistake, and a loop can't count to any number.
YEAR = 31_536_000


def unknown(name: str, what: str, known: Collection[str], *, kind: str = "option") -> ConfigurationError:
    """The error for a name that is no option of something, with the one that was meant."""
    close = difflib.get_close_matches(name, known, 1)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return ConfigurationError(f"{name} is no {kind} of {what}; {advice}", option=name)


def called(what: str) -> Callable[[_Called], _Called]:
    """A decorator for what users call: wrong arguments are a `ConfigurationError`, and name what users wrote.

    ``what`` is the name of the call, such as ``JWTAuth.keycloak``. Over a class it is for what makes one.
    """

    def decorate(call: _Called) -> _Called:
        if isinstance(call, type):
            call.__init__ = decorate(call.__init__)  # type: ignore[misc]
            return call
        signature = inspect.signature(call)

        @functools.wraps(call)
        def checked(*args: Any, **options: Any) -> Any:
            try:
                signature.bind(*args, **options)
            except TypeError as exc:
                raise _wrong_call(what, signature, len(args), options, exc) from None
            return call(*args, **options)

        return cast("_Called", checked)

    return decorate


def _wrong_call(
    what: str, signature: inspect.Signature, given: int, options: Mapping[str, Any], error: TypeError
) -> ConfigurationError:
    # Without self or cls, which nobody has written.
    parameters = list(signature.parameters.values())[1:]
    placed = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    known = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    for name in options:
        if name not in known and not open_ended:
            return unknown(name, what, known)
    for each in placed[: given - 1]:
        if each.name in options:
            return ConfigurationError(f"{each.name} is given to {what} twice; write it once", option=each.name)
    for each in parameters:
        lacks = each.name in known and each.default is each.empty and each.name not in options
        if lacks and each not in placed[: given - 1]:
            return ConfigurationError(f"{what} needs {each.name}; write {each.name}=…", option=each.name)
    names_ = ", ".join(f"{each.name}=…" for each in parameters if each.kind is each.KEYWORD_ONLY)
    return ConfigurationError(f"{what}: {error}; write the options by their names: {names_}", option=what)


def function(value: _Called, option: str, *arguments: str, write: str, of: str = "") -> _Called:
    """A function that can be called with so many arguments."""
    given: Any = value
    problem = "" if callable(given) else f"is a {type(value).__name__}"
    if not problem:
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):
            return value  # A builtin that says nothing of its arguments.
        try:
            signature.bind(*arguments)
        except TypeError:
            problem = f"can't be called with ({', '.join(arguments)})"
    if problem:
        raise ConfigurationError(f"{option}{of} {problem}; {write}", option=option)
    return value


def listed(value: Any, option: str, *, example: str, of: str = "") -> tuple[Any, ...]:
    """The values of an option that takes several, in the order given; texts without an order are sorted.

    Whatever Python would iterate otherwise than it was meant is refused: a text and bytes, of which each character
    would count; a mapping, whose values would be dropped; a generator, which may have been read already. The example is
    a value or a whole call; ``of`` says whose option it is where several have it.
    """
    if isinstance(value, Collection) and not isinstance(value, (*_TEXTS, Mapping)):
        texts_of_a_set = isinstance(value, Set) and all(isinstance(one, str) for one in value)
        return tuple(sorted(value)) if texts_of_a_set else tuple(value)
    why = ""
    if isinstance(value, _TEXTS):
        why = ", of which each character would count"
        parts = value.replace(",", " ").split() if isinstance(value, str) else []
        if parts and parts != ["*"]:
            example = _like(example, parts)
    elif isinstance(value, Mapping):
        why = ", whose values would be dropped"
    elif isinstance(value, Iterator):
        why = ", which can be read only once"
    raise ConfigurationError(
        f"{option}{of} must be a list, not {type(value).__name__}{why}; {_write(option, example)}", option=option
    )


def names(value: Any, option: str, *, example: str, of: str = "") -> tuple[str, ...]:
    """The texts of an option that takes several, none of them empty, without repetitions; else as `listed`."""
    found = listed(value, option, example=example, of=of)
    for one in found:
        if not isinstance(one, str) or not one:
            what = "one is empty" if isinstance(one, str) else f"one is of type {type(one).__name__}"
            raise ConfigurationError(
                f"{option}{of} must hold non-empty strings only, but {what}; {_write(option, example)}", option=option
            )
    return tuple(dict.fromkeys(found))


def _like(example: str, values: list[str]) -> str:
    """These values, written in the brackets of the example."""
    opening = example[0] if example[0] in _BRACKETS else "["
    texts = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
    comma = "," if opening == "(" and len(values) == 1 else ""
    return f"{opening}{texts}{comma}{_BRACKETS[opening]}"


def _write(option: str, example: str) -> str:
    return f"write {example}" if example[:1].isalpha() else f"write {option}={example}"


def seconds(value: object, option: str, *, example: float, most: float = YEAR, write: str = "") -> float:
    """A time in seconds, greater than 0 and at most ``most``; ``write`` is said instead of the example."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
        return float(value)
    # Python refuses to write out integers of more than 4,300 digits.
    shown = "too large" if isinstance(value, int) and value.bit_length() > 10_000 else repr(value)
    bound = "" if most == YEAR else f", at most {most:g}"
    write = write or f"write seconds, such as {option}={example}{bound}"
    raise ConfigurationError(f"{option} is {shown}; {write}", option=option)


def whole(value: object, option: str, *, example: int, most: int) -> int:
    """A whole number of at least 1 and at most ``most``."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    # Python refuses to write out integers of more than 4,300 digits.
    shown = "too large" if isinstance(value, int) and value.bit_length() > 10_000 else repr(value)
    raise ConfigurationError(
        f"{option} is {shown}; write a whole number from 1 to {most}, such as {option}={example}", option=option
    )


def flag(value: object, option: str, *, of: str = "") -> bool:
    """A value that is True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{option}{of} is {value!r}; write True or False", option=option)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost``, or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
