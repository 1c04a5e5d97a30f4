"""Messages that reach nobody: what is wrong with an emit or an event, and how often that is said.

python-socketio drops without a word an emit to a namespace or room without members, and an event without a handler:
people see messages "only after a reload". That nobody is there may be normal (a user who is offline), so an emit is
reported only where something that is there shows what was meant. Each reason is said once per place and counted after.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from socketguard.namespaces.policy import Served
from socketguard.text import neutralise

__all__ = ["ID", "Delivery", "Line", "Rooms", "nearest", "shape", "shown"]

Rooms: TypeAlias = Mapping[Any, Mapping[Any, Any]]
"""The rooms of a namespace, each with the sids in it; the room None holds all, and each sid has a room of its own."""

Line: TypeAlias = tuple[str, dict[str, Any]]
"""A reason, of a closed set, and the fields of a log line, all of them harmless to print."""

_CONFIRMED = 3  # how often something must be seen that a connection on its way into its rooms would explain as well
_SCANNED = 512  # rooms that are looked through
_NAMESPACES = 64  # likewise, namespaces
_ROOMS = 8  # rooms of one emit
_SHAPES = 1024
_SHOWN = 64  # characters of a name in a log line, and in a comparison
_CANDIDATES = 64  # names that are compared

ID = "<id>"
"""The shape of what looks like the id of a session."""

_ID = re.compile("(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_-]{20}")  # as made by engineio.BaseServer.generate_id
_CHANGING = re.compile("[a-fA-F0-9]{8,}|[0-9]+")
_SEPARATOR = re.compile(r"[^:/|#._ -]*[:/|#._ -]")
_NO_LETTER = re.compile(r"[\W_]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")


class Found(NamedTuple):
    """Why an emit or an event reaches nobody; ``times`` is how often it must be seen before it is said."""

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
    """Finds out why an emit reaches nobody, and remembers what rooms look like that have members, or had."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._seen: dict[tuple[str, str], None] = {}

    def find(
        self, namespace: str, names: tuple[Any, ...], rooms: Mapping[str, Rooms], served: Served, *, full: bool
    ) -> tuple[Found, Any] | None:
        """Why nobody is in any of the rooms (``(None,)`` is everybody), and in which; None when it may be normal.

        In ``full``, ``nobody`` is said where that is all that is known.
        """
        here = rooms.get(namespace) or {}
        for room in names[:_ROOMS]:
            found = self._find(namespace, room, here, rooms, served)
            if found is None and full and not self._shared:
                count = len(here.get(None, ()))
                hint = (
                    f"Nobody was there at that moment, with {_counted(count, 'connection')} in the namespace, and who "
                    "joins later does not get it: that is normal for a client that is offline; otherwise look where "
                    "it joins the namespace and enters the room."
                )
                found = Found("nobody", hint, None, {"connections": count})
            if found is not None:
                return found, room
        return None

    def _find(self, namespace: str, room: Any, here: Rooms, rooms: Mapping[str, Rooms], served: Served) -> Found | None:
        if not namespace.startswith("/"):
            return _malformed(namespace, served.names())
        elsewhere = None
        if room is not None:
            if _is_transport(room, rooms):
                return _SID_OF_TRANSPORT
            elsewhere = _room_elsewhere(_family(namespace, served), room, rooms, served)
            if elsewhere is not None and elsewhere.is_sid:
                there = shown(elsewhere.namespace)
                hint = (
                    f"The recipient is a connection in '{there}', and a sid belongs to one namespace: write "
                    f"namespace=\"{there}\", or take the sid that the same client has in '{shown(namespace)}'."
                )
                return Found("sid_elsewhere", hint, there)
        found = None
        if not here and not served.catch_all and not served.wildcard:
            found = self._nobody_can_join(namespace, elsewhere, bool(rooms), served)
        # Which rooms there are, and who is in them, nobody knows here where other processes have members too.
        if found is None and room is not None and not self._shared:
            found = self._missing(namespace, room, here, elsewhere, served)
        return found

    def _nobody_can_join(
        self, namespace: str, elsewhere: _Elsewhere | None, connected: bool, served: Served
    ) -> Found | None:
        names = served.names()
        if namespace == "/":
            # python-socketio serves it by itself. Where all handlers and all clients are elsewhere, it was not meant,
            # but namespace= was left out.
            if served.default or not connected:
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
        return _unserved(namespace, meant, "has no handlers in this process, so that nobody can join it")

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
                f"There is a room '{shown(other)}'{types} with {_counted(len(here[other]), 'member')}: if that was "
                "meant, the name must be the same in enter_room and emit, its type included; if not, nobody is in this "
                "one now."
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
            return Found("room_elsewhere", hint, there, {"members": elsewhere.members}, _CONFIRMED)
        rooms = len(here) - len(sids) - 1
        without = len(sids) if rooms <= 0 else self._without_rooms(here, scanned, rooms)
        if without < 1:
            return None
        hint = (
            f"{_counted(without, 'connection')} of {len(sids)} in '{where}' entered no room: call "
            f'await sio.enter_room(sid, room, namespace="{where}") in the connect handler.'
        )
        return Found("no_rooms_joined", hint, None, {"connections": len(sids)}, _CONFIRMED)

    def _without_rooms(self, here: Rooms, scanned: list[Any], rooms: int) -> int:
        """How many of the first connections are in no room; 0 where that isn't known."""
        if rooms > min(len(scanned), _NAMESPACES):
            return 0
        return sum(not any(sid in here[name] for name in scanned) for sid in islice(here[None], _NAMESPACES))

    def remember(self, namespace: str, names: tuple[Any, ...], here: Rooms, served: Served) -> None:
        """What rooms look like that have members: others that look like them are usual."""
        for room in names[:_ROOMS]:
            if room is not None and len(self._seen) < _SHAPES and here.get(room) and room not in here.get(None, ()):
                self._seen[_family(namespace, served), shape(room)] = None


# --- what is wrong, in words


def _malformed(namespace: str, names: Collection[str]) -> Found:
    """A namespace without its leading slash; ``names`` are those that there are."""
    right = f"/{namespace}"
    meant = right if right in names else nearest(right, names)
    hint = (
        f"A namespace begins with a slash, so that nobody can join '{shown(namespace)}': write "
        f'namespace="{shown(meant or right)}".'
    )
    return Found("namespace_malformed", hint, meant and shown(meant))


def _unserved(namespace: str, meant: str | None, why: str) -> Found:
    """A namespace that nobody can join; ``meant`` is the one that probably was, ``why`` goes on after the name."""
    fix = "register handlers for it, or correct the name" if meant is None else f'write namespace="{shown(meant)}"'
    return Found("namespace_unserved", f"'{shown(namespace)}' {why}: {fix}.", meant and shown(meant))


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


# --- where rooms are, and what their names look like


def _is_transport(room: Any, rooms: Mapping[str, Rooms]) -> bool:
    # python-socketio keeps them in a bidict.
    sids = (here.get(None, {}) for here in rooms.values())
    return any(room in (each.inverse if hasattr(each, "inverse") else each.values()) for each in sids)


def _room_elsewhere(family: str, room: Any, rooms: Mapping[str, Rooms], served: Served) -> _Elsewhere | None:
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
    """The name that was probably meant, among the first 64 of ``names``.

    Names that differ in case, in what separates words, or in their order (``sendMessage``, ``message:send``) are
    alike, then those that differ by a few letters.
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


# --- how often it is said

_BURST = 20  # emits per second that are looked at before sampling begins: a quiet server is seen whole
_SCANS = 20  # per second; a scan takes up to 0.1 ms
_PLACES = 256  # places in a table
_STRANGE = 64  # places for names that clients made up
_SUMMARY_S = 600.0  # between two lines about one place
_FORGET_S = 3600.0  # without news, after which a full table gives up a place
_LISTED = 20  # names in one log line
_GUESSES = 10  # comparisons per second; one takes up to 0.3 ms

_ABOUT_SIDS = frozenset({"sid_elsewhere", "sid_of_transport"})
_NO_HANDLER = (
    "There is no handler for this event, so that python-socketio ignores it: register one with "
    "@sio.on(event, namespace=…), import the module that does, or correct the name in the client."
)
_TOO_EARLY = Found(
    "event_too_early",
    "The client sent the event before the server had answered its CONNECT, or after it was refused or had left: send "
    "after the client's connect event of this namespace.",
)
_NO_MESSAGE_QUEUE = Found(
    "no_message_queue",
    "This process has no clients, and its server has no client manager that hands messages to the processes that do: "
    "emit with socketio.AsyncRedisManager(url, write_only=True) (RedisManager without asyncio), and give the server "
    "with the clients client_manager=socketio.AsyncRedisManager(url).",
)


class _Place:
    __slots__ = ("count", "fields", "seen", "told")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.count = 0
        self.fields = fields
        self.seen = 0.0
        self.told: float | None = None

    def summary(self, now: float) -> Line:
        fields = {**self.fields, "suppressed": self.count, "summary": True}
        self.told, self.count = now, 0
        return fields["reason"], fields


class _Places:
    """Where something was found. Bounded: what doesn't fit shares one place per reason."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[tuple[str, ...], _Place] = {}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._places

    def note(self, key: tuple[str, ...], fields: dict[str, Any], now: float, times: int) -> list[Line]:
        """Count something found; returns the line that is due, if one is."""
        place = self._places.pop(key, None)
        if place is None and len(self._places) >= self._limit:
            oldest = next(iter(self._places))
            if now - self._places[oldest].seen > _FORGET_S:
                del self._places[oldest]
            else:
                key = key[:1]
                place = self._places.pop(key, None)
        if place is None:
            place = _Place(fields)
        self._places[key] = place  # At the end: the first one is that with the oldest news.
        place.seen = now
        place.count += 1
        if place.told is not None:
            return [place.summary(now)] if now - place.told >= _SUMMARY_S else []
        if place.count < times:
            return []
        place.told, place.count = now, 0
        return [(fields["reason"], fields)]

    def due(self, now: float, since: float) -> list[Line]:
        """What was counted in places that were told of so long ago."""
        return [
            place.summary(now)
            for place in self._places.values()
            if place.told is not None and place.count and now - place.told >= since
        ]


class _Budget:
    """So many in each second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ends = -math.inf
        self._spent = 0

    def take(self, now: float) -> bool:
        if now >= self._ends:
            self._ends, self._spent = now + 1.0, 0
        self._spent += 1
        return self._spent <= self._limit


class Delivery:
    """Finds out which emits and events reach nobody, and why; each method returns the lines that are to be written.

    Call `emit` for the first emit, then let `passing` of them pass before the next call, each time, counting down.
    Beyond the first 20 emits of a second, one in ``sample`` is looked at, on average and at random, so that no rhythm
    of the application hides anything; 1 looks at each, and also says ``nobody``. ``shared`` says that a client manager
    joins several processes: then a room without members here is normal.
    """

    def __init__(
        self, *, sample: int, shared: bool = False, clock: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        self._sample = sample
        self._clock = clock
        self._emits = _Places(_PLACES)
        # Names that resemble a handler's have a table of their own: a flood of made-up names hides none of them.
        self._known = _Places(_PLACES)
        self._clients = _Places(_STRANGE)
        self._looks = _Budget(_BURST)
        self._scans = _Budget(_SCANS)
        self._guesses = _Budget(_GUESSES)
        self._recipients = Recipients(shared=shared)
        self.watched = sample <= 1
        self.passing = 0

    def watch(self, on: bool = True) -> list[Line]:
        """Look at every emit from now on, or go back to sampling (which looks at each where ``sample`` is 1)."""
        lines = []
        if on and not self.watched:
            lines = self.close()
            self._emits = _Places(_PLACES)  # Whoever looks now is told again.
        self.watched = on or self._sample <= 1
        self.passing = 0
        return lines

    def emit(
        self, namespace: str, event: object, room: object, rooms: Mapping[str, Rooms], served: Served
    ) -> list[Line]:
        """Look at an emit, before it happens: to a room, to each of a list or tuple, or with None to everybody."""
        now = self._clock()
        if self.watched or self._looks.take(now):
            self.passing = 0
        else:
            self.passing = random.randrange(2 * self._sample - 1)  # noqa: S311 - a sample, no secret
        names: Any = [room] if isinstance(room, str) or not hasattr(room, "__len__") else room
        try:
            names = tuple(names)
            hash(names)
        except TypeError:
            return []  # What can't be the name of a room: python-socketio raises.
        here = rooms.get(namespace) or {}
        if any(map(here.get, names)):
            self._recipients.remember(namespace, names, here, served)
        elif self.watched or self._scans.take(now):
            found = self._recipients.find(namespace, names, rooms, served, full=self.watched)
            if found is not None:
                return self._of_emit(*found, namespace, event)
        return []

    def emit_only(self, namespace: str, event: object, names: Collection[str] | None) -> list[Line]:
        """Look at an emit of a process without clients; ``names`` are the namespaces of the servers, where known."""
        if not namespace.startswith("/"):
            found = _malformed(namespace, names or ())
        elif names is not None and namespace not in names:
            found = _unserved(namespace, nearest(namespace, names), "is not among the namespaces that were declared")
        else:
            return []
        return self._of_emit(found, None, namespace, event)

    def no_message_queue(self, namespace: str, event: object) -> list[Line]:
        """An emit of a process without clients went through a server without a message queue."""
        return self._of_emit(_NO_MESSAGE_QUEUE, None, namespace, event)

    def no_listener(self, namespace: str, event: object, channel: object) -> list[Line]:
        """An emit was published on a channel, and the message queue said that nobody listens."""
        hint = (
            f"The message was published on the channel '{shown(channel)}', where no server listens: start the server, "
            "and give its client manager the same URL and the same channel, without write_only."
        )
        return self._of_emit(Found("no_listener", hint), None, namespace, event)

    def unhandled(self, namespace: str, event: object, handlers: Iterable[str]) -> list[Line]:
        """A client sent an event for which there is no handler; python-socketio ignores it.

        ``handlers`` are the names of events that have one there, read only when it is needed.
        """
        where, name = shown(namespace), shown(event)
        key = ("event_unhandled", where, name)
        found = Found("event_unhandled", _NO_HANDLER)
        # Comparing names is dear, and anybody can make them up.
        if key not in self._clients and self._guesses.take(self._clock()):
            listed = sorted(islice((each for each in handlers if each != "*"), _CANDIDATES))
            meant = nearest(name, listed) if isinstance(event, str) else None
            if meant is not None:
                key = ("event_unhandled", where, meant)
                shown_name = shown(meant)
                hint = f"There is no handler for this event; is '{shown_name}' meant? Correct the name on either side."
                return self._note(self._known, key, Found("event_unhandled", hint, shown_name), where, name)
            found = found._replace(more={"registered": tuple(shown(each) for each in listed[:_LISTED])})
        return self._note(self._clients, key, found, where, name)

    def too_early(self, namespace: str, event: object) -> list[Line]:
        """A client sent an event to a namespace that it has not joined; python-socketio ignores it."""
        where = shown(namespace)
        return self._note(self._clients, (_TOO_EARLY.reason, where), _TOO_EARLY, where, shown(event))

    def due(self, now: float, *, since: float = _SUMMARY_S) -> list[Line]:
        """What was counted and not said for so long."""
        return [line for places in (self._emits, self._known, self._clients) for line in places.due(now, since)]

    def close(self) -> list[Line]:
        """What was counted and not yet said: for the end."""
        return self.due(self._clock(), since=-math.inf)

    def _of_emit(self, found: Found, room: Any, namespace: str, event: object) -> list[Line]:
        where, looks = shown(namespace), ""
        if room is not None:
            looks = shape(room)
            # It may be the secret id of an Engine.IO session.
            if found.reason not in _ABOUT_SIDS:
                found = found._replace(more={"room": ID if looks == ID else shown(room), **found.more})
        return self._note(self._emits, (found.reason, where, looks), found, where, shown(event))

    def _note(self, places: _Places, key: tuple[str, ...], found: Found, namespace: str, event: str) -> list[Line]:
        fields = {"reason": found.reason, "namespace": namespace, "event_name": event, **found.more}
        if found.suggestion is not None:
            fields["suggestion"] = found.suggestion
        fields["hint"] = found.hint
        return places.note(key, fields, self._clock(), 1 if self.watched else found.times)
