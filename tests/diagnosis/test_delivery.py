"""Messages that reach nobody: what is found, what is normal, and how often it is said."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from bidict import bidict
from hypothesis import given
from hypothesis import strategies as st

from socketguard.diagnosis.delivery import ID, Delivery, Line, nearest, shape, shown
from socketguard.logs.events import EVENT_REASONS
from socketguard.text import neutralise

REASONS = EVENT_REASONS.union(
    ("namespace_malformed", "namespace_default", "namespace_unserved", "sid_elsewhere", "sid_of_transport"),
    ("room_misspelt", "room_elsewhere", "no_rooms_joined", "nobody", "no_message_queue", "no_listener"),
)


@dataclass(frozen=True)
class Server:
    """What a server has handlers for; python-socketio serves ``/`` by itself."""

    exact: tuple[str, ...] = ("/messages", "/scheduler")
    catch_all: bool = False
    wildcard: bool = False

    def serves(self, name: str) -> bool:
        return name in self.exact or name == "/"

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.exact))

    @property
    def default(self) -> bool:
        return not self.exact or "/" in self.exact


def rooms_of(**namespaces: Mapping[str, Iterable[Any]]) -> dict[str, dict[Any, Any]]:
    """Rooms as python-socketio keeps them: for each namespace its connections, each with its own rooms."""
    found: dict[str, dict[Any, Any]] = {}
    for name, connections in namespaces.items():
        rooms: dict[Any, Any] = {}
        for sid, entered in connections.items():
            for room in (None, sid, *entered):
                rooms.setdefault(room, bidict())[sid] = f"eio-{name}-{sid}"
        found[f"/{name}"] = rooms
    return found


class Case:
    """A `Delivery`, what it has found to be told, and a clock of its own."""

    def __init__(self, *, sample: int = 1, shared: bool = False, server: Server | None = None) -> None:
        self.delivery = Delivery(sample=sample, shared=shared, clock=lambda: self.now)
        self.server = server or Server()
        self.now = 1000.0
        self.lines: list[dict[str, Any]] = []

    def take(self, lines: list[Line]) -> None:
        for reason, fields in lines:
            assert fields["reason"] == reason
            assert reason in REASONS
            assert None not in fields.values()
            self.lines.append(fields)

    def emit(
        self, namespace: str, room: Any = None, rooms: Mapping[str, Any] | None = None, event: Any = "message:new"
    ) -> None:
        self.take(self.delivery.emit(namespace, event, room, rooms or {}, self.server))

    def unhandled(self, event: Any, handlers: Iterable[str], namespace: str = "/messages") -> None:
        self.take(self.delivery.unhandled(namespace, event, handlers))

    def too_early(self, namespace: str, event: Any) -> None:
        self.take(self.delivery.too_early(namespace, event))

    def close(self) -> None:
        self.take(self.delivery.close())

    def watch(self, on: bool = True) -> None:
        self.take(self.delivery.watch(on))

    @property
    def reasons(self) -> list[str]:
        return self.all("reason")

    def all(self, field: str) -> list[Any]:
        return [line.get(field) for line in self.lines]


SAMPLED = 64


def sampled(**options: Any) -> Case:
    return Case(sample=SAMPLED, **options)


# What is normal

ONE = rooms_of(messages={"a": []})
LOBBY = rooms_of(messages={"a": ["lobby"]})
MANY = rooms_of(messages={f"sid{n}": [f"{chr(97 + n % 26)}{chr(97 + n // 26)}"] for n in range(600)} | {"z": []})
TENANTS = {"/tenant-1": rooms_of(x={"a": ["admins"]})["/x"], "/tenant-2": rooms_of(x={"b": ["lobby"]})["/x"]}
ALIKE = rooms_of(messages={"a": ["tenant:1"]}, scheduler={"b": ["tenant:2"], "c": []})
NO_ROOMS: list[Any] = [[], {}, [[]], ([],), {"a": 1}.values(), [{}]]


@pytest.mark.parametrize(
    ("options", "namespace", "room", "rooms"),
    [
        # Somebody receives it.
        *[
            ({"sample": 1}, "/messages", room, rooms_of(messages={"a": ["tenant:1"], "b": []}))
            for room in (None, "a", "tenant:1", ["tenant:1", "tenant:2"], ("tenant:2", "b"))
        ],
        # The default namespace may be meant: nobody is connected anywhere, it has handlers, or nobody knows.
        ({}, "/", None, {}),
        ({"server": Server(("/", "/messages"))}, "/", None, ONE),
        ({"server": Server(())}, "/", None, ONE),
        ({"server": Server(catch_all=True)}, "/", None, ONE),
        ({"server": Server(wildcard=True)}, "/", None, ONE),
        # Rooms that look like it have members, here or in another namespace of the same pattern.
        ({}, "/scheduler", "tenant:1", ALIKE),
        ({"server": Server((), catch_all=True)}, "/tenant-2", "admins", TENANTS),
        # Everybody is in some room, or there are more rooms than are looked through.
        ({}, "/messages", "tenant:1", rooms_of(messages={"a": ["lobby"], "b": ["lobby"]})),
        ({}, "/messages", "tenant:1", MANY),
        # Another process may have the members.
        ({"sample": 1, "shared": True}, "/messages", "tenant:1", rooms_of(messages={"a": [], "b": ["lobby"]})),
        ({"sample": 1, "shared": True}, "/messages", "tenant:1", {}),
        ({"sample": 1, "shared": True}, "/messages", None, {}),
        # What is no room is left to python-socketio.
        *[({}, "/messages", room, LOBBY) for room in NO_ROOMS],
    ],
)
def test_what_is_normal_is_not_told(
    options: dict[str, Any], namespace: str, room: Any, rooms: Mapping[str, Any]
) -> None:
    case = Case(**{"sample": SAMPLED, **options})
    for _ in range(5):
        case.emit(namespace, room, rooms)
    assert case.lines == []


# What is wrong with an emit


def test_a_namespace_without_its_slash() -> None:
    case = sampled(shared=True)
    case.emit("messages")
    assert case.lines == [
        {
            "reason": "namespace_malformed",
            "namespace": "messages",
            "event_name": "message:new",
            "suggestion": "/messages",
            "hint": "A namespace begins with a slash, so that nobody can join 'messages': write "
            'namespace="/messages".',
        }
    ]
    case.emit("schedulr")
    case.emit("billing")
    assert case.all("suggestion")[1:] == ["/scheduler", None]
    assert 'namespace="/billing"' in case.lines[2]["hint"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_forgotten_namespace(shared: bool) -> None:
    case = sampled(shared=shared)
    case.emit("/", "tenant:1", rooms_of(messages={"a": ["tenant:1"]}))
    case.emit("/", None, ONE)  # There are two.
    case.server = Server(("/messages",))
    case.emit("/", "lobby", ONE)
    assert case.reasons == ["namespace_default"] * 3
    assert case.all("suggestion") == ["/messages", None, "/messages"]
    assert 'write namespace="/messages"' in case.lines[0]["hint"]
    assert case.all("room") == ["tenant:1", None, "lobby"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_namespace_that_nobody_serves(shared: bool) -> None:
    case = sampled(shared=shared)
    case.emit("/mesages")
    case.emit("/reports", "team:1", rooms_of(scheduler={"a": ["team:1"]}))
    case.emit("/billing")
    # Another process may serve the last one.
    assert case.reasons == ["namespace_unserved"] * (2 if shared else 3)
    assert case.all("suggestion") == ["/messages", "/scheduler", None][: len(case.lines)]
    assert shared or "register handlers for it" in case.lines[2]["hint"]


@pytest.mark.parametrize("shared", [False, True])
def test_the_sid_of_another_namespace(shared: bool) -> None:
    case = sampled(shared=shared)
    rooms = rooms_of(messages={"a": []}, scheduler={"b": []})
    case.emit("/scheduler", "a", rooms)
    case.emit("/scheduler", "a", rooms)
    assert (case.reasons, case.all("suggestion"), case.all("room")) == (["sid_elsewhere"], ["/messages"], [None])


def test_the_secret_id_of_a_session_is_not_printed() -> None:
    case = Case()
    rooms = rooms_of(messages={"a": ["tenant:1"]})
    case.emit("/messages", "eio-messages-a", rooms)
    # The same where rooms are plain dictionaries.
    plain = {name: {room: dict(members) for room, members in each.items()} for name, each in rooms.items()}
    case.emit("/scheduler", "eio-messages-a", plain)
    # One of a session that has joined nothing: nobody can tell what it is, but what it looks like.
    case.emit("/messages", "q3Yw7cVbTz0Kd_1mAAAF", rooms)
    assert case.reasons == ["sid_of_transport", "sid_of_transport", "nobody"]
    assert case.lines[2]["room"] == ID
    assert re.search("eio-messages-a|q3Yw7cVbTz0Kd", json.dumps(case.lines)) is None


NUMBER = UUID(int=7)


@pytest.mark.parametrize(
    ("entered", "emitted", "words"),
    [
        ("5", 5, "'5' (of type str, not int)"),
        (5, "5", "'5' (of type int, not str)"),
        (NUMBER, str(NUMBER), "(of type UUID, not str)"),
        (str(NUMBER), NUMBER, "(of type str, not UUID)"),
        ("Tenant:1", "tenant:1", "There is a room 'Tenant:1' with 2 members"),
        ("tenant:1", "tenant:1 ", "There is a room 'tenant:1' with 2 members"),
    ],
)
def test_a_room_of_another_type_or_case(entered: Any, emitted: Any, words: str) -> None:
    case = sampled()
    case.emit("/messages", emitted, rooms_of(messages={"a": [entered], "b": [entered], "c": ["lobby"]}))
    assert (case.reasons, case.all("suggestion")) == (["room_misspelt"], [str(entered)])
    assert words in case.lines[0]["hint"]


@pytest.mark.parametrize("room", [1.5, True, object(), "", "x" * 300, 10**400, b"ab"])
def test_any_room_can_be_empty(room: Any) -> None:
    case = Case()
    case.emit("/messages", room, rooms_of(messages={"a": ["lobby"]}))
    assert set(case.reasons) <= {"nobody", "no_rooms_joined"}


def test_the_same_room_in_another_namespace() -> None:
    case = sampled()
    rooms = rooms_of(messages={"a": ["tenant:1"], "b": ["tenant:1"]}, scheduler={"c": ["lobby"]})
    case.emit("/scheduler", "tenant:1", rooms)
    case.emit("/scheduler", "tenant:1", rooms)
    assert case.lines == []  # Its connection may be on its way into the room.
    case.emit("/scheduler", "tenant:1", rooms)
    assert case.lines == [
        {
            "reason": "room_elsewhere",
            "namespace": "/scheduler",
            "event_name": "message:new",
            "room": "tenant:1",
            "members": 2,
            "suggestion": "/messages",
            "hint": "A room of this name has 2 members in '/messages', and none like it was seen in '/scheduler'; "
            "rooms belong to one namespace: write namespace=\"/messages\", or enter the room in '/scheduler' too.",
        }
    ]
    full = Case()
    full.emit("/scheduler", "tenant:1", rooms)
    assert full.reasons == ["room_elsewhere"]


def test_a_room_like_others_that_had_members_is_normal() -> None:
    case = sampled()
    case.emit("/scheduler", ["tenant:2", "lobby"], rooms_of(scheduler={"b": ["tenant:2"]}))
    for _ in range(5):
        case.emit("/scheduler", "tenant:1", rooms_of(messages={"a": ["tenant:1"]}, scheduler={"b": []}))
    assert case.lines == []
    # Only rooms are remembered, neither everybody nor one connection.
    case = sampled()
    for room in (None, "b", *"aaaaa"):
        case.emit("/scheduler", room, rooms_of(scheduler={"b": []}))
    assert case.reasons == ["no_rooms_joined"]


def test_where_too_many_rooms_were_seen_nothing_is_unusual() -> None:
    case = Case(shared=True)
    rooms = rooms_of(messages={"a": [f"{'x' * (n % 60)}{chr(65 + n // 60)}" for n in range(1500)]})
    for room in list(rooms["/messages"]):
        case.emit("/messages", room, rooms)
    case.emit("/messages", "never seen", rooms)
    assert case.lines == []


@pytest.mark.parametrize(
    ("case", "entered", "words"), [(sampled(), [], "2 connections"), (Case(), ["lobby"], "1 connection")]
)
def test_connections_without_a_room(case: Case, entered: list[str], words: str) -> None:
    for _ in range(3):
        case.emit("/messages", "tenant:1", rooms_of(messages={"a": [], "b": entered}))
    assert (case.reasons, case.all("connections")) == (["no_rooms_joined"], [2])
    assert f"{words} of 2 in '/messages' entered no room: call await sio.enter_room(" in case.lines[0]["hint"]


@pytest.mark.parametrize(
    ("room", "members"),
    [
        ("tenant:1", {"1": [], "2": [], "3": [], "4": [], "5": []}),  # no_rooms_joined, were they all
        ("Tenant:1", {"1": ["tenant:1"]}),  # room_misspelt
        ("7", {"1": [7]}),
    ],
)
def test_where_processes_share_the_clients_the_members_here_say_nothing(room: Any, members: Any) -> None:
    for shared, said in ((True, 0), (False, 1)):
        case = sampled(shared=shared)
        for _ in range(3):
            case.emit("/messages", room, rooms_of(messages=members))
        assert len(case.reasons) == said


def test_nobody_is_said_in_full_only() -> None:
    rooms = rooms_of(messages={"a": ["tenant:1"]})
    for case in (sampled(), Case()):
        case.emit("/messages", "tenant:2", rooms)
        case.emit("/scheduler", None, rooms)
    assert case.reasons == ["nobody", "nobody"]
    assert (case.all("connections"), case.all("room")) == ([1, 0], ["tenant:2", None])
    assert "with 1 connection in the namespace" in case.lines[0]["hint"]


# Which emits are looked at


def test_a_quiet_server_is_seen_whole() -> None:
    case = sampled()
    for _ in range(100):
        case.emit("/messages", "a", ONE)
        assert case.delivery.passing == 0
        case.now += 0.06


def test_a_busy_server_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randrange", random.Random(7).randrange)
    case = sampled()
    skipped = []
    for _ in range(5020):
        case.emit("/messages", "a", ONE)
        skipped.append(case.delivery.passing)
    assert set(skipped[:20]) == {0}
    assert min(skipped[20:]) >= 0
    assert max(skipped[20:]) <= 2 * SAMPLED - 2
    assert sum(skipped[20:]) / 5000 == pytest.approx(SAMPLED - 1, rel=0.05)
    case.now += 1.0
    case.emit("/messages", "a", ONE)
    assert case.delivery.passing == 0


def test_no_rhythm_hides_an_emit() -> None:
    case = sampled()
    passing = 0
    for number in range(20_000):
        if passing:
            passing -= 1
            continue
        # Each second one goes to a namespace that does not exist.
        case.emit("/messages" if number % 2 else "/mesages", "a" if number % 2 else None, ONE)
        passing = case.delivery.passing
        case.now += 0.0001
    assert case.reasons == ["namespace_unserved"]


def test_misses_are_looked_into_so_many_times_a_second() -> None:
    case = sampled()
    for number in range(100):
        case.emit(f"/x{'y' * number}")
    assert len(case.lines) == 20
    case.now += 1.0
    case.emit("/another")
    assert len(case.lines) == 21


def test_watching() -> None:
    case = sampled()
    case.emit("/mesages")
    case.emit("/mesages")
    for _ in range(30):
        case.emit("/messages", "a", ONE)
    case.delivery.passing = 50
    case.watch()
    assert case.lines[1]["suppressed"] == 1
    assert case.delivery.passing == 0
    case.emit("/mesages")
    assert len(case.lines) == 3  # Who looks now is told again.
    for _ in range(30):
        case.emit("/messages", "a", ONE)
        assert case.delivery.passing == 0
    case.watch()
    case.emit("/mesages")
    assert len(case.lines) == 3
    case.watch(False)
    assert not case.delivery.watched
    full = Case()
    full.watch(False)
    assert full.delivery.watched


# Events of clients


def test_an_event_without_a_handler() -> None:
    case = sampled()
    case.unhandled("mesage:send", ["*", "message:send", "typing"])
    case.unhandled("launch", ["message:send", "typing"])
    case.unhandled(5, ["message:send", "typing"])
    assert case.reasons == ["event_unhandled"] * 3
    assert case.lines[0] == {
        "reason": "event_unhandled",
        "namespace": "/messages",
        "event_name": "mesage:send",
        "suggestion": "message:send",
        "hint": "There is no handler for this event; is 'message:send' meant? Correct the name on either side.",
    }
    assert case.lines[1]["registered"] == ("message:send", "typing")
    assert case.all("suggestion") == ["message:send", None, None]
    assert case.lines[2]["event_name"] == "5"


def test_events_are_said_once_and_counted() -> None:
    case = sampled()
    for _ in range(4):
        for name in ("launch", "typping", "tping"):
            case.unhandled(name, ["typing"])
    case.close()
    assert case.all("event_name") == ["launch", "typping", "typping", "launch"]
    assert case.all("suppressed") == [None, None, 7, 3]


def test_the_names_of_handlers_are_read_only_when_needed() -> None:
    case = sampled()

    def never() -> Iterable[str]:
        raise AssertionError
        yield

    case.unhandled("launch", ["typing"])
    case.unhandled("launch", never())
    for number in range(20):
        case.unhandled(f"{chr(97 + number)}", ["typing"])
    # Ten comparisons in one second: then names that anybody can make up are only counted.
    case.unhandled("typin", never())
    assert case.lines[-1].keys() == {"reason", "namespace", "event_name", "hint"}


def test_a_flood_of_names_is_bounded_and_hides_no_misspelling() -> None:
    case = sampled()
    for number in range(10_000):
        case.unhandled(f"{number:x}" * 3, ["typing"])
    flooded = len(case.lines)
    assert flooded == 65
    case.now += 1.0
    case.unhandled("typng", ["typing"])
    assert case.all("event_name")[flooded:] == ["typng"]
    case.close()
    assert case.lines[-1]["suppressed"] == 10_000 - 65


def test_a_full_table_gives_up_what_is_old() -> None:
    case = sampled()
    for number in range(64):
        case.too_early(f"/{number}", "x")
    case.now += 3601.0
    for namespace in ("/0", "/new", "/1"):
        case.too_early(namespace, "x")
    assert case.all("namespace")[64:] == ["/0", "/new", "/1"]
    assert case.lines[64]["summary"] is True


def test_an_event_before_its_namespace_was_joined() -> None:
    case = sampled()
    case.too_early("/messages", "typing")
    case.too_early("/messages", "other")
    assert (case.reasons, case.all("event_name")) == (["event_too_early"], ["typing"])
    assert "after the client's connect event" in case.lines[0]["hint"]


@given(
    st.text() | st.integers() | st.none() | st.lists(st.integers()),
    st.text(max_size=400),
    st.lists(st.text(max_size=100), max_size=5),
)
def test_hostile_names_are_harmless(event: Any, namespace: str, handlers: list[str]) -> None:
    case = Case()
    case.unhandled(event, handlers, namespace)
    case.too_early(namespace, event)
    case.emit(namespace, namespace, rooms_of(messages={"a": handlers}), event)
    assert case.reasons[:2] == ["event_unhandled", "event_too_early"]
    for line in case.lines:
        for name in ("namespace", "event_name", "suggestion", "room"):
            text = line.get(name, "")
            assert len(text) <= 64 * 6 + 1
            assert neutralise(text, 1000) == text
        assert neutralise(line["hint"], 5000) == line["hint"]
        json.dumps(line).encode()


@given(
    st.text(max_size=8),
    st.none() | st.text(max_size=4) | st.integers() | st.lists(st.text(max_size=4), max_size=3),
    st.dictionaries(
        st.text(max_size=4),
        st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=4) | st.integers(), max_size=3), max_size=4),
        max_size=3,
    ),
    st.booleans(),
)
def test_whoever_is_there_is_seen(namespace: str, room: Any, clients: Any, shared: bool) -> None:
    rooms = rooms_of(**clients)
    case = Case(shared=shared)
    case.emit(f"/{namespace}", room, rooms)
    here = rooms.get(f"/{namespace}", {})
    wanted = room if isinstance(room, list) else [room]
    if any(here.get(each) for each in wanted) or room == []:
        assert case.lines == []
    elif not shared:
        assert len(case.lines) == 1


# How often it is said


def test_each_place_is_said_once_and_summed_up_from_time_to_time() -> None:
    case = sampled()
    for _ in range(4):
        case.emit("/mesages", event="first")
    assert len(case.lines) == 1
    case.now += 599.0
    case.emit("/mesages")
    assert len(case.lines) == 1
    case.now += 1.0
    case.emit("/mesages")
    assert case.lines[1] == {**case.lines[0], "suppressed": 5, "summary": True}
    case.close()
    assert len(case.lines) == 2
    case.emit("/mesages")
    case.close()
    assert case.all("suppressed") == [None, 5, 1]
    assert case.lines[0]["event_name"] == "first"


def test_rooms_that_look_alike_are_one_place() -> None:
    case = Case()
    for number in range(5):
        case.emit("/messages", f"user:{number}", rooms_of(messages={"a": ["user:77"]}))
    case.emit("/messages", "team:1", rooms_of(messages={"a": ["user:77"]}))
    assert case.all("room") == ["user:0", "team:1"]


def test_a_count_is_told_ten_minutes_later_though_nothing_more_comes() -> None:
    case = sampled()
    for _ in range(4):
        case.emit("/mesages")
    case.unhandled("launch", [])
    case.take(case.delivery.due(case.now + 599.9))
    assert len(case.lines) == 2
    case.take(case.delivery.due(case.now + 600))
    case.take(case.delivery.due(case.now + 1200))
    assert case.all("suppressed") == [None, None, 3]
    unconfirmed = sampled()
    unconfirmed.emit("/messages", "tenant:1", ONE)
    unconfirmed.close()
    assert unconfirmed.lines == []


# A process without clients


def test_a_process_that_only_emits() -> None:
    case = Case()
    names = ["/messages", "/scheduler"]
    case.take(case.delivery.emit_only("/messages", "x", names))
    case.take(case.delivery.emit_only("/anything", "x", None))
    assert case.lines == []
    for namespace, known in (("messages", None), ("schedulers", names), ("/scheduler2", names), ("/", names)):
        case.take(case.delivery.emit_only(namespace, "x", known))
    assert case.reasons == ["namespace_malformed"] * 2 + ["namespace_unserved"] * 2
    assert case.all("suggestion") == [None, "/scheduler", "/scheduler", None]
    case.take(case.delivery.no_message_queue("/messages", "x"))
    case.take(case.delivery.no_listener("/messages", "x", "socketio"))
    assert case.reasons[4:] == ["no_message_queue", "no_listener"]
    assert "AsyncRedisManager(url, write_only=True)" in case.lines[4]["hint"]
    assert "on the channel 'socketio', where no server listens" in case.lines[5]["hint"]


# Names


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("sendMessage", ["typing", "send_message"], "send_message"),
        ("SEND-MESSAGE", ["typing", "sendMessage"], "sendMessage"),
        ("new:message", ["message:old", "message:new"], "message:new"),
        ("nemwessage", ["message:new"], None),  # The same letters are not the same words.
        ("mesage", ["message", "massage"], "message"),
        ("launch", ["message", "typing"], None),
        ("room1", ["room2", "room3"], None),
        ("step_1", ["step1"], "step1"),
        ("", ["message"], None),
        ("::", ["message"], None),
        ("typing", [], None),
        ("typing", ["typing"], None),
        ("x" * 500, ["x" * 64, "y" * 500], None),
    ],
)
def test_nearest(name: str, names: list[str], expected: str | None) -> None:
    assert nearest(name, names) == expected


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ("tenant:42", "tenant:"),
        ("tenant:acme", "tenant:"),
        ("user-7", "user-"),
        ("lobby", "lobby"),
        ("room12", "room#"),
        ("550e8400-e29b-41d4-a716-446655440000", "#"),
        ("q3Yw7cVbTz0Kd_1mAAAF", ID),
        ("notifications-tenant", "notifications-"),
        (7, "<int>"),
        (None, "<NoneType>"),
    ],
)
def test_shape(room: Any, expected: str) -> None:
    assert shape(room) == expected


def test_shown() -> None:
    names: list[Any] = ["a\nb", "x" * 100, 7, 10**100, [1], NUMBER]
    assert [*map(shown, names)] == ["a\\u000ab", "x" * 64 + "…", "7", "<int>", "<list>", str(NUMBER)]
