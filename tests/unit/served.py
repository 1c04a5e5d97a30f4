"""Stands in for what the seam knows of a server: see `socketguard.namespaces.Served`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """What a python-socketio server would have."""

    exact: tuple[str, ...] = ()
    catch_all: bool = False
    wildcard: bool = False

    def serves(self, name: str) -> bool:
        return name in self.exact

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.exact))
