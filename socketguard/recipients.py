"""Why an emit reaches nobody, told by what is there instead. This module is pure.

That nobody is in a room may be normal: the client is offline. So an emit is only found wrong where its namespace can't
be joined, where the name of the recipient means something elsewhere, or where rooms like it never had members and
connections are there that entered none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from .namespaces.policy import Served
from .text import neutralise

__all__ = ["CONFIRMED", "ID", "Found", "Recipients", "Rooms", "malformed", "nearest", "shape", "shown", "unserved"]

Rooms = Mapping[Any, Mapping[Any, Any]]
"""The rooms of a namespace, each with the sids in it; the room None holds all, and each sid has a room of its own."""

CONFIRMED = 3
"""How often something must be seen that a connection on its way into its rooms would explain as well."""

ID = "<id>"
"""The shape of what looks like the id of a session."""

_CROWD = 5  # connections none of which is in a room; where processes share the clients, fewer may be chance
_SCANNED = 512  # rooms that are looked through
_NAMESPACES = 64  # likewise, namespaces
_ROOMS = 8  # rooms of one emit
_SHAPES = 1024
_SHOWN = 64  # characters of a name in a log line, and in a comparison
_CANDIDATES = 64

_ID = re.compile("(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_-]{20}")  # as made by engineio.BaseServer.generate_id
_CHANGING = re.compile("[a-fA-F0-9]{8,}|[0-9]+")
_SEPARATOR = re.compile(r"[^:/|#._ -]*[:/|#._ -]")
_NO_LETTER = re.compile(r"[\W_]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")


class Found(NamedTuple):
    """Why an emit or an event reaches nobody.

    Attributes:
        reason: a word of the closed sets in `socketguard.delivery`.
        hint: what to do about it.
        suggestion: the name that was probably meant.
        more: further fields of the line.
        times: how often it must be seen before it is said.
    """

    reason: str
    hint: str
    suggestion: str | None = None
    more: Mapping[str, Any] = MappingProxyType({})
    times: int = 1


class _Elsewhere(NamedTuple):
    namespace: str
    members: int
    is_sid: bool


class Recipients:
    """Finds out why an emit reaches nobody, and remembers what rooms look like that have members, or had.

    Args:
        shared: whether a client manager joins several processes: then a room without members here is normal.
    """

    __slots__ = ("_seen", "_shared")

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._seen: dict[tuple[str, str], None] = {}

    def find(
        self, namespace: str, names: tuple[Any, ...], rooms: Mapping[str, Rooms], served: Served, *, full: bool
    ) -> tuple[Found, Any] | None:
        """Find out why nobody is in any of the rooms.

        Args:
            namespace: where the emit goes.
            names: the rooms; ``(None,)`` for everybody.
            rooms: those that there are, of each namespace.
            served: what the server has handlers for.
            full: whether to say ``nobody`` where that is all that is known.

        Returns:
            What was found, and of which room; None when it may be normal.
        """
        here = rooms.get(namespace) or {}
        for room in names[:_ROOMS]:
            found = self._find(namespace, room, here, rooms, served)
            if found is None and full and not self._shared:
                found = _nobody(len(here.get(None, ())))
            if found is not None:
                return found, room
        return None

    def _find(self, namespace: str, room: Any, here: Rooms, rooms: Mapping[str, Rooms], served: Served) -> Found | None:
        if not namespace.startswith("/"):
            return malformed(namespace, served.names())
        elsewhere = None
        if room is not None:
            if _is_transport(room, rooms):
                return _SID_OF_TRANSPORT
            elsewhere = _elsewhere(_family(namespace, served), room, rooms, served)
            if elsewhere is not None and elsewhere.is_sid:
                return _sid_elsewhere(namespace, elsewhere)
        found = None
        if not here and not served.catch_all and not served.wildcard:
            found = self._nobody_can_join(namespace, elsewhere, bool(rooms), served)
        if found is None and room is not None:
            found = self._missing(namespace, room, here, elsewhere, served)
        return found

    def _nobody_can_join(
        self, namespace: str, elsewhere: _Elsewhere | None, connected: bool, served: Served
    ) -> Found | None:
        names = served.names()
        if namespace == "/":
            # python-socketio serves it by itself. Where all handlers and all clients are elsewhere, it was not meant,
            # but namespace= was left out.
            if "/" in names or not names or not connected:
                return None
            meant = elsewhere.namespace if elsewhere is not None else names[0] if len(names) == 1 else None
            hint = (
                "Without namespace= an emit goes to the default namespace '/', which has no handlers, and all clients "
                f'are in others: write namespace="{shown(meant or names[0])}".'
            )
            return Found("namespace_default", hint, meant and shown(meant))
        if served.serves(namespace):
            return None
        meant = nearest(namespace, names)
        if meant is None and elsewhere is not None:
            meant = elsewhere.namespace
        if meant is None and self._shared:
            return None  # Another process may serve it.
        return unserved(namespace, meant, "has no handlers in this process, so that nobody can join it")

    def _missing(
        self, namespace: str, room: Any, here: Rooms, elsewhere: _Elsewhere | None, served: Served
    ) -> Found | None:
        looks = shape(room)
        # Where the table is full, nobody can say what has never been.
        if (_family(namespace, served), looks) in self._seen or len(self._seen) >= _SHAPES:
            return None
        sids = here.get(None, {})
        scanned = [name for name in islice(here, _SCANNED) if name is not None and name not in sids]
        other = _same_but_for_type_or_case(room, here, scanned)
        if other is not None:
            types = "" if type(other) is type(room) else f" (of type {type(other).__name__}, not {type(room).__name__})"
            hint = (
                f"There is a room '{shown(other)}'{types} with {_counted(len(here[other]), 'member')}: the name must "
                "be the same in enter_room and emit, its type included."
            )
            return Found("room_misspelt", hint, shown(other))
        if any(shape(name) == looks for name in scanned):
            return None
        where = shown(namespace)
        if elsewhere is not None:
            there = shown(elsewhere.namespace)
            hint = (
                f"A room of this name has {_counted(elsewhere.members, 'member')} in '{there}', and none like it was "
                f"seen in '{where}'; rooms belong to one namespace: write namespace=\"{there}\", or enter the room in "
                f"'{where}' too."
            )
            return Found("room_elsewhere", hint, there, {"members": elsewhere.members}, CONFIRMED)
        rooms = len(here) - len(sids) - 1
        without = len(sids) if rooms <= 0 else self._without_rooms(here, scanned, rooms)
        if without < (_CROWD if self._shared else 1):
            return None
        hint = (
            f"{_counted(without, 'connection')} of {len(sids)} in '{where}' entered no room: call "
            f'await sio.enter_room(sid, room, namespace="{where}") in the connect handler.'
        )
        return Found("no_rooms_joined", hint, None, {"connections": len(sids)}, CONFIRMED)

    def _without_rooms(self, here: Rooms, scanned: list[Any], rooms: int) -> int:
        """How many of the first connections are in no room; 0 where that isn't known."""
        if self._shared or rooms > min(len(scanned), _NAMESPACES):
            return 0
        return sum(not any(sid in here[name] for name in scanned) for sid in islice(here[None], _NAMESPACES))

    # What is usual: rooms that look like others which have members, or had

    def remember(self, namespace: str, names: tuple[Any, ...], here: Rooms, served: Served) -> None:
        """Remember what rooms look like that have members.

        Args:
            namespace: where an emit goes.
            names: its rooms.
            here: all rooms of the namespace.
            served: what the server has handlers for.
        """
        for room in names[:_ROOMS]:
            if room is not None and len(self._seen) < _SHAPES and here.get(room) and room not in here.get(None, ()):
                self._seen[_family(namespace, served), shape(room)] = None


# What is wrong, in words


def malformed(namespace: str, names: Collection[str]) -> Found:
    """A namespace without its leading slash; ``names`` are those that there are."""
    right = f"/{namespace}"
    meant = right if right in names else nearest(right, names)
    hint = (
        f"A namespace begins with a slash, so that nobody can join '{shown(namespace)}': write "
        f'namespace="{shown(meant or right)}".'
    )
    return Found("namespace_malformed", hint, meant and shown(meant))


def unserved(namespace: str, meant: str | None, why: str) -> Found:
    """A namespace that nobody can join; ``meant`` is the one that probably was, ``why`` goes on after the name."""
    fix = "register handlers for it, or correct the name" if meant is None else f'write namespace="{shown(meant)}"'
    return Found("namespace_unserved", f"'{shown(namespace)}' {why}: {fix}.", meant and shown(meant))


def _nobody(connections: int) -> Found:
    hint = (
        f"Nobody was there at that moment, with {_counted(connections, 'connection')} in the namespace, and who joins "
        "later does not get it: that is normal for a client that is offline; otherwise look where it joins the "
        "namespace and enters the room."
    )
    return Found("nobody", hint, None, {"connections": connections})


def _sid_elsewhere(namespace: str, elsewhere: _Elsewhere) -> Found:
    there = shown(elsewhere.namespace)
    hint = (
        f"The recipient is a connection in '{there}', and a sid belongs to one namespace: write "
        f"namespace=\"{there}\", or take the sid that the same client has in '{shown(namespace)}'."
    )
    return Found("sid_elsewhere", hint, there)


_SID_OF_TRANSPORT = Found(
    "sid_of_transport",
    "The recipient is the id of an Engine.IO session, which is no room and must stay secret: use the sid that the "
    "handlers of the namespace are given.",
)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def shown(value: object) -> str:
    """A name as it may stand in a log line, whatever it is."""
    if isinstance(value, str):
        return neutralise(value, _SHOWN)
    short = type(value) is UUID or (type(value) is int and value.bit_length() <= _SHOWN)
    # Of anything else, printing might raise, or never end.
    return str(value) if short else f"<{type(value).__name__}>"


# Where rooms are, and what their names look like


def _is_transport(room: Any, rooms: Mapping[str, Rooms]) -> bool:
    # python-socketio keeps them in a bidict.
    sids = (here.get(None, {}) for here in rooms.values())
    return any(room in (each.inverse if hasattr(each, "inverse") else each.values()) for each in sids)


def _elsewhere(family: str, room: Any, rooms: Mapping[str, Rooms], served: Served) -> _Elsewhere | None:
    """Where a room of this name has the most members."""
    best = None
    for namespace, there in islice(rooms.items(), _NAMESPACES):
        members = len(there.get(room, ()))
        if members > (0 if best is None else best.members) and _family(namespace, served) != family:
            best = _Elsewhere(namespace, members, room in there.get(None, ()))
    return best


def _same_but_for_type_or_case(room: Any, here: Rooms, scanned: list[Any]) -> Any:
    text = _text(room)
    if text is None:
        return None
    if isinstance(room, str) and room.isdecimal() and len(room) < _SHOWN and int(room) in here:
        return int(room)
    folded = text.strip().casefold()
    return next((name for name in scanned if (plain := _text(name)) and plain.strip().casefold() == folded), None)


def _text(room: Any) -> str | None:
    # Nothing else: its __str__ may do anything.
    return room if isinstance(room, str) else shown(room) if type(room) in (int, UUID) else None


def _family(namespace: str, served: Served) -> str:
    """A namespace, or what those have in common that come from one pattern."""
    return namespace if namespace == "/" or served.serves(namespace) else f"/{shape(namespace.lstrip('/'))}"


def shape(room: Any) -> str:
    """What rooms that are made in the same way have in common: ``tenant:`` of ``tenant:42``."""
    if not isinstance(room, str):
        return f"<{type(room).__name__}>"
    if _ID.fullmatch(room):
        return ID
    text = _CHANGING.sub("#", room[:_SHOWN])
    begin = _SEPARATOR.match(text)
    return text if begin is None else begin[0]


def _letters(name: str) -> str:
    return _NO_LETTER.sub("", name).casefold()


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant.

    Names that differ in case, in what separates words, or in their order (``sendMessage``, ``message:send``) are
    alike, then those that differ by a few letters.

    Args:
        name: the name that was used, from anybody.
        names: those that there are; at most 64 of them are compared.
    """
    name = name[:_SHOWN]
    listed = [each for each in islice(names, _CANDIDATES) if each != name and len(each) <= _SHOWN]
    letters = _letters(name)
    if not letters:
        return None
    # Counting letters is cheap, and leaves few names to compare.
    likely = [each for each in listed if len(letters) == len(plain := _letters(each)) and set(letters) == set(plain)]
    words = sorted(word.casefold() for word in _WORD.findall(name))
    for each in likely:
        if _letters(each) == letters or sorted(word.casefold() for word in _WORD.findall(each)) == words:
            return each
    # room1 is no misspelt room2.
    pattern = _CHANGING.sub("#", name)
    listed = [each for each in listed if _CHANGING.sub("#", each) != pattern]
    close = nlargest(4, listed, key=lambda each: len(set(letters).intersection(each.casefold())))
    found = get_close_matches(name, close, n=1, cutoff=0.75)
    return found[0] if found else None
