"""What these tests share: a server in place of python-socketio's, as far as namespaces are concerned."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from hypothesis import strategies as st

from socketguard.connection import Connection, Identity
from socketguard.namespaces.registry import Registry


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

    @property
    def default(self) -> bool:
        return "/" in self.exact

    @property
    def count(self) -> int:
        return len(self.exact)


ANY_HANDLER = Server(catch_all=True)


def allow(identity: Identity, connection: Connection) -> bool:
    return True


def resolved(pattern: str, name: str) -> dict[str, str] | None:
    known = Registry([pattern]).resolve(name, ANY_HANDLER)
    return None if known is None else dict(known.placeholders)


TEMPLATES = st.lists(st.sampled_from(["/", "a", "-", "--", "aa", "/a", "{}"]), max_size=6).map(
    lambda parts: "/" + "".join(parts)
)


def numbered(template: str) -> str:
    """Placeholders with names, with something between neighbours."""
    counter = itertools.count()
    while "{}{}" in template:
        template = template.replace("{}{}", "{}-{}")
    return re.sub(r"\{\}", lambda _: f"{{p{next(counter)}}}", template)
