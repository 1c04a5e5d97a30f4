"""`Finding`: something in a configuration that a person should look at. This module is pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes:
        id: a stable id such as ``SG001``; ids are never reused.
        text: what was found, with the values.
        fix: what to write instead.
    """

    id: str
    text: str
    fix: str
