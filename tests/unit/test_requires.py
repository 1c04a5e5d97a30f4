"""What a single event asks for."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from socketguard.connection import Connection, Identity, Session, bound_connection
from socketguard.errors import ConfigurationError, RejectCode
from socketguard.server import requires as module
from socketguard.server.requires import EventRefused, required, requires


def make_connection(*scopes: str) -> Connection:
    session = Session(
        client_address="127.0.0.1", origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    connection = Connection(session, "/messages", Identity("ann", scopes=frozenset(scopes)))
    connection.state = Connection.JOINED
    return connection


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = make_connection("messages:read")
    token = bound_connection.set(made)
    yield made
    bound_connection.reset(token)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def handler(sid: str, *args: Any, **options: Any) -> Any:
    """What the application does."""
    return sid, args, options


def test_who_has_the_scopes_is_dispatched(connection: Connection) -> None:
    assert requires("messages:read")(handler)("s", 1, a=2) == ("s", (1,), {"a": 2})


@pytest.mark.parametrize("scopes", [("messages:write",), ("messages:read", "messages:write"), ("b", "a", "b")])
def test_who_lacks_one_is_not(connection: Connection, scopes: tuple[str, ...]) -> None:
    with pytest.raises(EventRefused) as caught:
        requires(*scopes)(handler)("s")
    refusal = caught.value.refusal
    assert (refusal.code, refusal.detail) == (RejectCode.INSUFFICIENT_SCOPE, "scope_missing")
    assert refusal.fields == {
        "required": sorted(set(scopes)),
        "missing": sorted(set(scopes) - {"messages:read"}),
    }
    assert str(caught.value) == "insufficient_scope"


async def test_asynchronous_handlers(connection: Connection) -> None:
    async def add(sid: str, number: int) -> int:
        return number + 1

    allowed = requires("messages:read")(add)
    assert inspect.iscoroutinefunction(allowed)
    assert await allowed("s", 1) == 2
    with pytest.raises(EventRefused):
        await requires("messages:write")(add)("s", 1)


def test_the_scopes_are_those_of_the_token_that_the_client_has_now(connection: Connection) -> None:
    guarded = requires("messages:write")(handler)
    with pytest.raises(EventRefused):
        guarded("s")
    connection.identity = Identity("ann", scopes=frozenset({"messages:write"}))
    assert guarded("s") == ("s", (), {})


def test_a_rate(connection: Connection, clock: SimpleNamespace) -> None:
    guarded = requires(rate="2/minute")(handler)
    guarded("s")
    guarded("s")
    with pytest.raises(EventRefused) as caught:
        guarded("s")
    refusal = caught.value.refusal
    assert (refusal.code, refusal.detail) == (RejectCode.RATE_LIMITED, "rate")
    assert refusal.fields == {"limit": "2/minute", "retry_after": 30}
    clock.now += 29.0
    with pytest.raises(EventRefused) as caught:
        guarded("s")
    assert caught.value.refusal.fields["retry_after"] == 1
    clock.now += 1.0
    guarded("s")


def test_the_rate_is_per_handler_and_per_connection(connection: Connection, clock: SimpleNamespace) -> None:
    first, second = requires(rate="1/minute")(handler), requires(rate="1/minute")(handler)
    first("s")
    second("s")
    for each in (first, second):
        with pytest.raises(EventRefused):
            each("s")
    other = make_connection()
    token = bound_connection.set(other)
    first("s")
    bound_connection.reset(token)
    assert other.budgets is not None
    assert len(other.budgets) == 1


def test_an_event_without_the_scope_does_not_use_up_the_rate(connection: Connection, clock: SimpleNamespace) -> None:
    guarded = requires("messages:write", rate="1/minute")(handler)
    for _ in range(3):
        with pytest.raises(EventRefused) as caught:
            guarded("s")
        assert caught.value.refusal.code is RejectCode.INSUFFICIENT_SCOPE
    connection.identity = Identity("ann", scopes=frozenset({"messages:write"}))
    guarded("s")
    with pytest.raises(EventRefused) as caught:
        guarded("s")
    assert caught.value.refusal.code is RejectCode.RATE_LIMITED


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (Connection.PENDING, True),
        (Connection.JOINED, True),
        (Connection.LEAVING, False),
        (Connection.ENDED, False),
    ],
)
def test_a_disconnect_handler_always_runs(connection: Connection, state: str, asked: bool) -> None:
    connection.state = state
    guarded = requires("messages:write")(handler)
    if asked:
        with pytest.raises(EventRefused):
            guarded("s")
    else:
        assert guarded("s") == ("s", (), {})


def test_outside_a_handler_there_is_nobody_to_ask() -> None:
    with pytest.raises(LookupError, match=r"outside a Socket\.IO handler"):
        requires("messages:write")(handler)("s")


def test_the_handler_keeps_its_name_and_parameters(connection: Connection) -> None:
    guarded = requires("messages:read")(handler)
    assert guarded.__name__ == "handler"
    assert guarded.__doc__ == handler.__doc__
    assert inspect.signature(guarded) == inspect.signature(handler)
    partial = requires("messages:read")(functools.partial(handler, "s"))
    assert partial(1) == ("s", (1,), {})


class Space:
    """Like a class-based namespace."""

    @requires("messages:read")
    def on_read(self, sid: str) -> Any:
        return self, sid

    @requires("messages:write")
    async def on_write(self, sid: str) -> Any:
        raise AssertionError("dispatched")


async def test_methods(connection: Connection) -> None:
    space = Space()
    assert space.on_read("s") == (space, "s")
    with pytest.raises(EventRefused):
        await space.on_write("s")


@pytest.mark.parametrize(
    ("scopes", "options", "option", "text"),
    [
        ((), {}, "scopes", r"asks for nothing; write @guard\.requires\(\"messages:write\"\)"),
        (("",), {}, "scopes", "non-empty"),
        ((5,), {}, "scopes", "non-empty strings"),
        ((handler,), {}, "scopes", "strings"),
        ((["a"],), {}, "scopes", "strings"),
        (("a",), {"rate": "often"}, "rate", "rate is 'often'"),
        (("a",), {"rate": 5}, "rate", "rate is 5"),
        ((), {"rate": "0/second"}, "rate", "30/minute"),
    ],
)
def test_what_can_not_be_asked_for(scopes: Any, options: Any, option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        requires(*scopes, **options)
    assert caught.value.option == option


def test_only_handlers_are_decorated() -> None:
    with pytest.raises(ConfigurationError, match="decorates a handler, not a str") as caught:
        requires("a")("handler")  # type: ignore[type-var]
    assert caught.value.option == "scopes"


def test_what_can_not_be_told_from_others_is_not_decorated() -> None:
    class Slots:
        __slots__ = ()

        def __call__(self) -> None: ...

    for wrong in (Slots(), Slots().__call__):
        with pytest.raises(ConfigurationError, match="takes no weak references; write a function"):
            requires("a")(wrong)
    # Whoever wraps such a thing is told apart.
    wrapping = functools.partial(Slots())
    wrapping.__wrapped__ = Slots()  # type: ignore[attr-defined]
    assert required(requires("a")(wrapping)) is not None
    assert required(wrapping) is not wrapping


def test_what_wraps_itself_comes_to_an_end() -> None:
    def strange() -> None: ...

    strange.__wrapped__ = strange  # type: ignore[attr-defined]
    assert required(requires("a")(strange)) is not strange


def test_nothing_is_kept_of_handlers_that_are_gone() -> None:
    def make() -> Any:
        class Space:
            def save(self) -> None: ...

        return Space

    def decorate(space: Any) -> None:
        def save() -> None:
            space.save()

        requires("a")(save)
        requires("a")(space.save)

    gc.collect()
    kept = len(module._NEEDED._notes), len(module._HELD._notes)
    made = make()
    for _ in range(10):
        decorate(made())
        gc.collect()
    assert len(module._NEEDED._notes[id(made.save)][1]) == 1
    del made
    gc.collect()
    assert (len(module._NEEDED._notes), len(module._HELD._notes)) == kept
