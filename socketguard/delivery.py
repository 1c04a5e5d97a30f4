"""Messages that reach nobody: what is wrong with an emit or an event, and how often that is said. This module is pure.

python-socketio drops without a word an emit to a namespace or room without members, and an event without a handler:
people see messages "only after a reload". That nobody is there may be normal (a user who is offline), so an emit is
reported only where something that is there shows what was meant. Each reason is said once per place and counted after.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from .namespaces.policy import Served
from .recipients import ID, Found, Recipients, Rooms, malformed, nearest, shape, shown, unserved

__all__ = ["REASONS", "Delivery"]

REASONS = frozenset(
    {
        "namespace_malformed",
        "namespace_default",
        "namespace_unserved",
        "sid_elsewhere",
        "sid_of_transport",
        "room_misspelt",
        "room_elsewhere",
        "no_rooms_joined",
        "nobody",
        "no_message_queue",
        "no_listener",
    }
)
"""Why an emit of the application reaches nobody. ``nobody`` (and nothing more is known) is only said in full."""


_BURST = 20  # emits per second that are looked at before sampling begins: a quiet server is seen whole
_SCANS = 20  # per second; a scan takes up to 0.1 ms
_PLACES = 256  # places in a table
_STRANGE = 64  # places for names that clients made up
_SUMMARY = 600.0  # seconds between two lines about one place
_FORGET = 3600.0  # seconds without news after which a full table gives up a place
_LISTED = 20  # names in one log line
_CANDIDATES = 64  # names that are compared
_GUESSES = 10  # comparisons per second; one takes up to 0.3 ms

_ABOUT_SIDS = frozenset({"sid_elsewhere", "sid_of_transport"})
_NO_HANDLER = (
    "There is no handler for this event, so that python-socketio ignores it: register one with "
    "@sio.on(event, namespace=…), import the module that does, or correct the name in the client."
)


class _Place:
    __slots__ = ("count", "fields", "seen", "told")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.count = 0
        self.fields = fields
        self.seen = 0.0
        self.told: float | None = None


class _Places:
    """Where something was found. Bounded: what doesn't fit shares one place per reason."""

    __slots__ = ("_limit", "_places")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[tuple[str, ...], _Place] = {}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._places

    def note(self, key: tuple[str, ...], fields: dict[str, Any], now: float, times: int) -> dict[str, Any] | None:
        """Count something found; returns the fields of the line that is due, or None."""
        place = self._places.pop(key, None)
        if place is None and len(self._places) >= self._limit:
            oldest = next(iter(self._places))
            if now - self._places[oldest].seen > _FORGET:
                del self._places[oldest]
            else:
                key = key[:1]
                place = self._places.pop(key, None)
        if place is None:
            place = _Place(fields)
        self._places[key] = place  # At the end: the first one is that with the oldest news.
        place.seen = now
        place.count += 1
        if place.told is None:
            if place.count < times:
                return None
            place.told, place.count = now, 0
            return fields
        return self._summary(place, now) if now - place.told >= _SUMMARY else None

    @staticmethod
    def _summary(place: _Place, now: float) -> dict[str, Any]:
        fields = {**place.fields, "suppressed": place.count, "summary": True}
        place.told, place.count = now, 0
        return fields

    def flush(self, now: float) -> Iterator[dict[str, Any]]:
        """The lines for what was counted and not yet said."""
        for place in self._places.values():
            if place.told is not None and place.count:
                yield self._summary(place, now)


class _Budget:
    """So many in each second."""

    __slots__ = ("_ends", "_limit", "_spent")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ends = float("-inf")
        self._spent = 0

    def take(self, now: float) -> bool:
        if now >= self._ends:
            self._ends, self._spent = now + 1.0, 0
        self._spent += 1
        return self._spent <= self._limit


class Delivery:
    """Finds out which emits and events reach nobody, and why.

    Call `emit` for the first emit, then let `skip` of them pass before the next call, each time.

    Args:
        report: called with the reason (see `REASONS` and `EVENT_REASONS`) and the fields of a line; all harmless to
            print.
        sample: beyond the first 20 emits of a second, one in so many is looked at, on average and at random, so that
            no rhythm of the application hides anything. 1 looks at each, and also says ``nobody``.
        shared: whether a client manager joins several processes: then a room without members here is normal.
        clock: seconds, monotonic.
        randrange: as in `random`; chooses the distance to the next emit.
    """

    __slots__ = (
        "_clients",
        "_clock",
        "_emits",
        "_guesses",
        "_known",
        "_looks",
        "_randrange",
        "_recipients",
        "_report",
        "_sample",
        "_scans",
        "on_watch",
        "shared",
        "skip",
        "watched",
    )

    def __init__(
        self,
        report: Callable[[str, dict[str, Any]], object],
        *,
        sample: int,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
        randrange: Callable[[int], int] = random.randrange,
    ) -> None:
        self._report = report
        self._sample = sample
        self._clock = clock
        self._randrange = randrange
        self._emits = _Places(_PLACES)
        # Names that resemble a handler's have a table of their own: a flood of made-up names hides none of them.
        self._known = _Places(_PLACES)
        self._clients = _Places(_STRANGE)
        self._looks = _Budget(_BURST)
        self._scans = _Budget(_SCANS)
        self._guesses = _Budget(_GUESSES)
        self._recipients = Recipients(shared=shared)
        self.shared = shared
        self.watched = sample <= 1
        """Whether every emit is looked at."""
        self.skip = 0
        """How many emits to let pass before the next call of `emit`."""
        self.on_watch: Callable[[], None] | None = None
        """Called when emits that were to pass are to be looked at all the same."""

    def watch(self, on: bool = True) -> None:
        """Look at every emit from now on, or go back to sampling.

        Args:
            on: False to look at samples again (at every emit all the same when ``sample`` is 1).
        """
        if on and not self.watched:
            self.flush()
            self._emits = _Places(_PLACES)  # Whoever looks now is told again.
        self.watched = on or self._sample <= 1
        self.skip = 0
        if self.on_watch is not None:
            self.on_watch()

    def emit(self, namespace: str, event: object, room: object, rooms: Mapping[str, Rooms], served: Served) -> None:
        """Look at an emit, before it happens.

        Args:
            namespace: where it goes.
            event: its name.
            room: to whom; None for everybody, a list or tuple of rooms counts as all of them.
            rooms: the members of each room of each namespace, as python-socketio keeps them: the room None holds all
                connections of a namespace, and each connection has a room of its own, named like it.
            served: what the server has handlers for.
        """
        now = self._clock()
        if self.watched:
            self.skip = 0
        else:
            self.skip = 0 if self._looks.take(now) else self._randrange(2 * self._sample - 1)
        names: Any = [room] if isinstance(room, str) or not hasattr(room, "__len__") else room
        try:
            names = tuple(names)
            hash(names)
        except TypeError:
            return  # What can't be the name of a room: python-socketio raises.
        here = rooms.get(namespace) or {}
        if any(map(here.get, names)):
            self._recipients.remember(namespace, names, here, served)
        elif self.watched or self._scans.take(now):
            found = self._recipients.find(namespace, names, rooms, served, full=self.watched)
            if found is not None:
                self._tell_emit(*found, namespace, event, now)

    def emit_only(self, namespace: str, event: object, names: Collection[str] | None) -> None:
        """Look at an emit of a process that has no clients of its own.

        Args:
            namespace: where it goes.
            event: its name.
            names: the namespaces that the servers have, as far as somebody has said so.
        """
        found = None
        if not namespace.startswith("/"):
            found = malformed(namespace, names or ())
        elif names is not None and namespace not in names:
            found = unserved(namespace, nearest(namespace, names), "is not among the namespaces that were declared")
        if found is not None:
            self._tell_emit(found, None, namespace, event, self._clock())

    def no_message_queue(self, namespace: str, event: object) -> None:
        """An emit of a process without clients went through a server without a message queue."""
        hint = (
            "This process has no clients, and its server has no client manager that hands messages to the processes "
            "that do: emit with socketio.AsyncRedisManager(url, write_only=True) (RedisManager without asyncio), and "
            "give the server with the clients client_manager=socketio.AsyncRedisManager(url)."
        )
        self._tell_emit(Found("no_message_queue", hint), None, namespace, event, self._clock())

    def no_listener(self, namespace: str, event: object, channel: object) -> None:
        """An emit was published, and the message queue said that nobody listens.

        Args:
            namespace: where it went.
            event: its name.
            channel: the channel of the client manager.
        """
        hint = (
            f"The message was published on the channel '{shown(channel)}', where no server listens: start the server, "
            "and give its client manager the same URL and the same channel, without write_only."
        )
        self._tell_emit(Found("no_listener", hint), None, namespace, event, self._clock())

    def unhandled(self, namespace: str, event: object, handlers: Iterable[str]) -> None:
        """A client sent an event for which there is no handler; python-socketio ignores it.

        Args:
            namespace: where.
            event: its name, in the client's words.
            handlers: names of events that have a handler there; read only when it is needed.
        """
        now = self._clock()
        where, name = shown(namespace), shown(event)
        key = ("event_unhandled", where, name)
        found = Found("event_unhandled", _NO_HANDLER)
        # Comparing names is dear, and anybody can make them up.
        if key not in self._clients and self._guesses.take(now):
            listed = sorted(islice((each for each in handlers if each != "*"), _CANDIDATES))
            meant = nearest(name, listed) if isinstance(event, str) else None
            if meant is not None:
                key = ("event_unhandled", where, meant)
                hint = (
                    f"There is no handler for this event; is '{shown(meant)}' meant? Correct the name on either side."
                )
                self._tell(self._known, key, Found("event_unhandled", hint, shown(meant)), where, name, now)
                return
            found = found._replace(more={"registered": tuple(shown(each) for each in listed[:_LISTED])})
        self._tell(self._clients, key, found, where, name, now)

    def too_early(self, namespace: str, event: object) -> None:
        """A client sent an event to a namespace that it has not joined; python-socketio ignores it.

        Args:
            namespace: where, in the client's words.
            event: its name, in the client's words.
        """
        where, name = shown(namespace), shown(event)
        hint = (
            "The client sent the event before the server had answered its CONNECT, or after it was refused or had "
            "left: send after the client's connect event of this namespace."
        )
        found = Found("event_too_early", hint)
        self._tell(self._clients, ("event_too_early", where), found, where, name, self._clock())

    def flush(self) -> None:
        """Report what was counted and not yet said: for the end of a process."""
        now = self._clock()
        for places in (self._emits, self._known, self._clients):
            for fields in places.flush(now):
                self._report(fields["reason"], fields)

    # Lines

    def _tell_emit(self, found: Found, room: Any, namespace: str, event: object, now: float) -> None:
        where, looks = shown(namespace), ""
        if room is not None:
            looks = shape(room)
            # It may be the secret id of an Engine.IO session.
            if found.reason not in _ABOUT_SIDS:
                found = found._replace(more={"room": ID if looks == ID else shown(room), **found.more})
        self._tell(self._emits, (found.reason, where, looks), found, where, shown(event), now)

    def _tell(
        self, places: _Places, key: tuple[str, ...], found: Found, namespace: str, event: str, now: float
    ) -> None:
        fields = {"reason": found.reason, "namespace": namespace, "event_name": event, **found.more}
        if found.suggestion is not None:
            fields["suggestion"] = found.suggestion
        fields["hint"] = found.hint
        line = places.note(key, fields, now, 1 if self.watched else found.times)
        if line is not None:
            self._report(found.reason, line)
