"""Options that take several values: one rule for all of them. This module is pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any

from .errors import ConfigurationError

__all__ = ["listed", "names", "seconds"]

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_TEXTS = (str, bytes, bytearray, memoryview)


def listed(value: Any, option: str, *, example: str, of: str = "") -> tuple[Any, ...]:
    """Check an option that takes several values: a list, tuple, set or another collection.

    Whatever Python would iterate otherwise than it was meant is refused: a text and bytes, of which each character
    would count; a mapping, whose values would be dropped; a generator, which may have been read already.

    Args:
        value: what the user gave.
        option: the name of the option, for the error.
        example: what to write instead: the value, or a whole call.
        of: whose option it is, where several have it.

    Returns:
        The values in the order given; texts without an order are sorted.

    Raises:
        ConfigurationError: it is something else.
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
        f"{option}{of} must be a list, not {type(value).__name__}{why}; {_write(option, example)}",
        option=option,
    )


def names(value: Any, option: str, *, example: str, of: str = "") -> tuple[str, ...]:
    """Check an option that takes several texts, none of them empty.

    Args:
        value: what the user gave.
        option: as for `listed`.
        example: likewise.
        of: likewise.

    Returns:
        The texts without repetitions, in the order given; sorted when the collection has no order.

    Raises:
        ConfigurationError: it is something else.
    """
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


# A year: whatever lasts longer is a mistake, and a loop can't count to any number.
_LONGEST = 31_536_000


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


def _check_flag(value: object, option: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{option} is {value!r}; write True or False", option=option)
