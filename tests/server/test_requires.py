"""Rules of single events on a whole server: refused events are answered, logged and never dispatched."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard import ConfigurationError, NamespacePolicy, SocketGuard, current_connection
from socketguard.testing import join, make_auth, mint
from tests.scripted import (
    KINDS,
    Clock,
    Events,
    Guarded,
    connect_packet,
    guarded,
    joined_client,
    lines,
    open_wire,
    refusal_in,
    serializer,
    until,
)

Register = Callable[[Any, Any, list[Any]], None]
"""Registers a handler ``save`` that notes its arguments, with a scope that `requires` asks for."""


BOTH = slice(-2, None)


def saving(seen: list[Any], noted: Any = -1, *, synchronous: bool = False) -> Any:
    """A handler that notes what the client has sent last."""

    def save_now(*args: Any) -> str:
        seen.append(args[noted])
        return "saved"

    async def save(*args: Any) -> str:
        return save_now(*args)

    return save_now if synchronous else save


def namespace_of(handler: Any) -> Any:
    class Messages(socketio.AsyncNamespace):
        on_save = handler

    return Messages


def below(event: str, namespace: str, *, synchronous: bool = False, in_class: bool = False) -> Register:
    """Written below ``@sio.on``, or in a class."""

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        handler = requires("messages:write")(saving(seen, BOTH, synchronous=synchronous))
        if in_class:
            server.register_namespace(namespace_of(handler)(namespace))
        else:
            server.on(event, handler, namespace=namespace)

    return register


BELOW = {
    "asynchronous": below("save", "/messages"),
    "synchronous": below("save", "/messages", synchronous=True),
    "class": below("save", "/messages", in_class=True),
    "synchronous class": below("save", "/messages", synchronous=True, in_class=True),
    "any event": below("*", "/messages"),
    "any namespace": below("save", "*"),
}


def case_of(style: str, seen: list[Any], **options: Any) -> Guarded:
    def prepare(server: Any) -> None:
        BELOW[style](server, SocketGuard.requires, seen)

    return guarded("/other", prepare=prepare, **{"namespaces": ["/messages"], **options})


@pytest.mark.parametrize("style", BELOW)
@pytest.mark.parametrize("async_handlers", [True, False])
async def test_an_event_without_its_scope_is_answered_and_not_dispatched(
    style: str, async_handlers: bool, events: Events
) -> None:
    seen: list[Any] = []
    case = case_of(style, seen, server_options={"async_handlers": async_handlers})
    async with join(case.app, "/messages", token=mint(scope="messages:read")) as reader:
        said = await reader.call("save", "text")
        # Without an acknowledgement there is nobody to tell; the line is written all the same.
        await reader.emit("save", "more")
        assert (await reader.call("save", "again"))["ok"] is False
    async with join(case.app, "/messages", token=mint(scope="messages:read messages:write")) as writer:
        assert await writer.call("save", "text", 1) == "saved"
    assert seen == [("text", 1)]
    rejected = lines(events, "event.rejected")
    line = rejected[0]
    assert said == {
        "ok": False,
        "code": "insufficient_scope",
        "message": "Forbidden",
        "retry": "never",
        "ref": line["ref"],
    }
    assert len(rejected) == 3
    assert line["level"] == "warning"
    assert (line["reason"], line["detail"], line["event_name"]) == ("insufficient_scope", "scope_missing", "save")
    assert (line["required"], line["missing"]) == (["messages:write"], ["messages:write"])
    assert (line["namespace"], line["subject"], line["sid"]) == ("/messages", "user-1", reader.sid)
    assert not lines(events, "handler.failed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", ["text", b"\x00\x01"])
async def test_over_each_transport_and_serializer(sent: Any, kind: str) -> None:
    seen: list[Any] = []
    case = case_of("asynchronous", seen, server_options=serializer(kind))
    client, _ = await joined_client(case, token=mint(scope="messages:read"), kind=kind)
    said = await client.call("/messages", "save", sent)
    assert (said["ok"], said["code"]) == (False, "insufficient_scope")
    assert seen == []


async def test_the_name_of_a_hostile_event_is_neutralised_in_the_log(events: Events) -> None:
    case = case_of("any event", [])
    async with join(case.app, "/messages", token=mint()) as client:
        await client.call("\x1b[31m\n" + "x" * 500)
    (line,) = lines(events, "event.rejected")
    assert "\x1b" not in line["event_name"]
    assert "\n" not in line["event_name"]
    assert len(line["event_name"]) <= 80


async def test_many_refused_events_do_not_fill_the_log(events: Events) -> None:
    case = case_of("asynchronous", [])
    async with join(case.app, "/messages", token=mint()) as client:
        for _ in range(200):
            assert (await client.call("save"))["ok"] is False
    assert 0 < len(lines(events, "event.rejected")) < 100


async def test_a_rate_is_per_connection(events: Events) -> None:
    seen: list[Any] = []

    @SocketGuard.requires(rate="2/day")
    async def save(sid: str) -> str:
        seen.append(sid)
        return "saved"

    case = guarded("/messages", "/other", handlers={"save": save})
    async with join(case.app, "/messages", token=mint()) as first:
        assert [await first.call("save") for _ in range(2)] == ["saved", "saved"]
        said = await first.call("save")
        assert await first.call("echo", 1) == 1, "another handler"
        async with join(case.app, "/messages", token=mint()) as second:
            assert await second.call("save") == "saved"
    assert len(seen) == 3
    (line,) = lines(events, "event.rejected")
    assert (line["reason"], line["detail"], line["limit"]) == ("rate_limited", "rate", "2/day")
    wait = said.pop("retry_after")
    assert 43_000 < wait <= 43_200
    assert wait == line["retry_after"]
    assert said == {
        "ok": False,
        "code": "rate_limited",
        "message": "Too many attempts",
        "retry": "backoff",
        "ref": line["ref"],
    }


async def test_what_a_refresh_has_changed_holds_at_once() -> None:
    seen: list[Any] = []
    case = case_of("asynchronous", seen)
    async with join(case.app, "/messages", token=mint(scope="messages:write")) as client:
        assert await client.call("save", 1) == "saved"
        answer = await client.call("socketguard:refresh", {"token": mint(scope="messages:read")})
        assert answer["ok"] is True
        assert (await client.call("save", 2))["code"] == "insufficient_scope"
        answer = await client.call("socketguard:refresh", {"token": mint(scope="messages:write")})
        assert await client.call("save", 3) == "saved"
    assert [last for _, last in seen] == [1, 3]


async def test_the_anonymous_have_no_scopes() -> None:
    seen: list[Any] = []
    case = case_of("asynchronous", seen, namespaces=[NamespacePolicy("/messages", token="optional")])
    async with join(case.app, "/messages") as client:
        assert (await client.call("save"))["code"] == "insufficient_scope"
    assert seen == []


async def test_it_may_be_written_with_the_guard_at_hand() -> None:
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)

    @server.on("save", namespace="/messages")
    @guard.requires("messages:write", rate="1/day")
    async def save(sid: str) -> str:
        return str(current_connection().identity.subject)

    app = socketio.ASGIApp(server)
    async with join(app, "/messages", token=mint(scope="messages:write")) as client:
        assert await client.call("save") == "user-1"
        assert (await client.call("save"))["code"] == "rate_limited"
    await until(lambda: not guard.status()["connections"]["open"])


async def test_without_a_guard_the_handler_fails_closed() -> None:
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False, async_handlers=False)
    server.on("echo", lambda sid, value: value, namespace="/messages")
    seen: list[Any] = []
    BELOW["asynchronous"](server, SocketGuard.requires, seen)
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    app = socketio.ASGIApp(server)
    guard.detach()
    async with join(app, "/messages", token=mint(scope="messages:write")) as client:
        await client.emit("save", "text")
        # The next event is handled after it.
        assert await client.call("echo", 1) == 1
    assert seen == []


# Above sio.on


class Callback:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def save(self, *args: Any) -> str:
        self.seen.append(args[-1])
        return "saved"

    __call__ = save


def logged(handler: Any) -> Any:
    @functools.wraps(handler)
    async def save(*args: Any) -> Any:
        return await handler(*args)

    return save


def above_event(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.event(namespace="/messages")(saving(seen)))


def above_a_method(server: Any, requires: Any, seen: list[Any]) -> None:
    server.kept = handlers = Callback(seen)
    requires("messages:write")(Callback(seen).save)  # Another one's.
    server.on("save", handlers.save, namespace="/messages")
    requires("messages:write")(handlers.save)


def below_another_decorator(server: Any, requires: Any, seen: list[Any]) -> None:
    server.on("save", namespace="/messages")(logged(requires("messages:write")(saving(seen))))


def between_two(server: Any, requires: Any, seen: list[Any]) -> None:
    requires(rate="100/second")(server.on("save", namespace="/messages")(requires("messages:write")(saving(seen))))


def of_a_class(server: Any, requires: Any, seen: list[Any]) -> None:
    messages = namespace_of(saving(seen))
    requires("messages:write")(messages.on_save)
    server.register_namespace(messages("/messages"))


def of_an_instance(server: Any, requires: Any, seen: list[Any]) -> None:
    messages = namespace_of(saving(seen))("*")
    server.register_namespace(messages)
    requires("messages:write")(messages.on_save)


def above_on(make: Callable[[list[Any]], Any], event: str = "save", namespace: str = "/messages") -> Register:
    """Written above ``@sio.on``, whose handler this makes."""

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        requires("messages:write")(server.on(event, namespace=namespace)(make(seen)))

    return register


above_a_function = above_on(saving)
ABOVE: dict[str, Register] = {
    "a function": above_a_function,
    "a synchronous function": above_on(lambda seen: saving(seen, synchronous=True)),
    "event": above_event,
    "any event": above_on(saving, "*"),
    "any namespace": above_on(saving, "save", "*"),
    "anything": above_on(saving, "*", "*"),
    "a method": above_a_method,
    "an object": above_on(Callback),
    "a partial": above_on(lambda seen: functools.partial(saving(seen), "more")),
    "another decorator": lambda server, requires, seen: requires("messages:write")(
        logged(server.on("save", namespace="/messages")(saving(seen)))
    ),
    "below another decorator": below_another_decorator,
    "between two": between_two,
    "two": lambda server, requires, seen: requires(rate="100/second")(
        requires("messages:write")(server.on("save", namespace="/messages")(saving(seen)))
    ),
    "of a class": of_a_class,
    "of an instance": of_an_instance,
}


def above(register: Register, seen: list[Any], when: str) -> tuple[Any, SocketGuard]:
    """An application and its guard; the handlers are registered before or after that is made."""
    server = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)
    app = socketio.ASGIApp(server)
    if when == "before":
        register(server, SocketGuard.requires, seen)
    guard = SocketGuard.protect(server, auth=make_auth(), namespaces=["/messages"], logger=False)
    if when != "before":
        register(server, guard.requires, seen)
    return app, guard


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("register", ABOVE.values(), ids=ABOVE)
async def test_it_works_above_too(register: Register, when: str) -> None:
    seen: list[Any] = []
    app, guard = above(register, seen, when)
    async with join(app, "/messages", token=mint(scope="messages:read")) as reader:
        for _ in range(2):
            assert (await reader.call("save", "read"))["code"] == "insufficient_scope"
        async with join(app, "/messages", token=mint(scope="messages:write")) as writer:
            assert [await writer.call("save", "written") for _ in range(2)] == ["saved", "saved"]
        assert (await reader.call("save", "read"))["code"] == "insufficient_scope"
    assert seen == ["written", "written"]
    assert "SG017" not in {finding.id for finding in guard.check()}


async def test_a_handler_that_comes_late_is_checked_as_well() -> None:
    """Also when its event had another handler before."""
    seen: list[Any] = []
    app, guard = above(lambda server, requires, seen: server.on("save", saving(seen), namespace="/messages"), seen, "")
    async with join(app, "/messages", token=mint()) as client:
        assert await client.call("save", "open") == "saved"
        above_a_function(guard.server, guard.requires, seen)
        assert (await client.call("save", "text"))["code"] == "insufficient_scope"
    assert seen == ["open"]


async def test_each_of_several_counts_once() -> None:
    seen: list[Any] = []

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        save = server.on("save", namespace="/messages")(requires(rate="3/day")(saving(seen)))
        requires("messages:write")(requires("messages:more", rate="2/day")(save))

    app, _ = above(register, seen, "before")
    for scope in ("messages:write", "messages:more"):
        async with join(app, "/messages", token=mint(scope=scope)) as client:
            assert (await client.call("save"))["code"] == "insufficient_scope"
    async with join(app, "/messages", token=mint(scope="messages:write messages:more")) as client:
        assert [await client.call("save", 1) for _ in range(2)] == ["saved", "saved"]
        assert (await client.call("save", 1))["code"] == "rate_limited"
    assert seen == [1, 1]


async def test_another_instance_asks_for_nothing() -> None:
    seen: list[Any] = []

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        server.one, server.other = Callback(seen), Callback(seen)
        server.on("save", server.one.save, namespace="/messages")
        requires("messages:write")(server.other.save)

    app, _ = above(register, seen, "before")
    async with join(app, "/messages", token=mint()) as client:
        assert await client.call("save", 1) == "saved"


@pytest.mark.parametrize("where", ["above", "below"])
@pytest.mark.parametrize("style", ["function", "synchronous", "any namespace", "class", "instance"])
async def test_on_a_connect_handler_it_refuses_the_client(style: str, where: str, events: Events) -> None:
    seen: list[Any] = []

    def connect_now(*args: Any) -> None:
        seen.append(args)

    async def connect(*args: Any) -> None:
        seen.append(args)

    class Messages(socketio.AsyncNamespace):
        async def on_connect(self, sid: str, environ: Any) -> None:
            seen.append(sid)

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        decorate = requires("messages:write")
        handler = connect_now if style == "synchronous" else connect
        name = "*" if style == "any namespace" else "/messages"
        if style == "instance":
            messages = Messages("/messages")
            server.register_namespace(messages)
            decorate(messages.on_connect)
        elif style == "class":
            decorated = decorate(Messages.on_connect)
            if where == "below":
                Messages.on_connect = decorated  # type: ignore[method-assign]
            server.register_namespace(Messages("/messages"))
        elif where == "above":
            decorate(server.on("connect", namespace=name)(handler))
        else:
            server.on("connect", namespace=name)(decorate(handler))

    app, guard = above(register, seen, "before")
    wire = await open_wire(app)
    for number in (1, 2):
        await wire.send(connect_packet(token=mint(scope="messages:read")))
        said = refusal_in(await wire.frame())
        line = lines(events, "connection.rejected")[-1]
        assert said == {
            "message": "Forbidden",
            "data": {"code": "insufficient_scope", "retry": "never", "ref": line["ref"]},
        }
        assert (line["reason"], line["detail"]) == ("insufficient_scope", "scope_missing")
        assert line["missing"] == ["messages:write"]
        assert len(lines(events, "connection.rejected")) == number
    assert not lines(events, "event.rejected")
    assert seen == []
    await wire.join(token=mint(scope="messages:write"))
    assert len(seen) == 1
    assert guard.status()["refused"] == {"insufficient_scope": 2}


@pytest.mark.parametrize("where", ["above", "below"])
@pytest.mark.parametrize("older", [True, False])
async def test_a_disconnect_handler_runs_whatever_the_client_may_do(older: bool, where: str) -> None:
    seen: list[Any] = []

    async def disconnect(sid: str, reason: str) -> None:
        seen.append(sid)

    async def disconnect_without_a_reason(sid: str) -> None:
        seen.append(sid)

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        handler, on = (
            disconnect_without_a_reason if older else disconnect,
            server.on("disconnect", namespace="/messages"),
        )
        decorate = requires("messages:write")
        decorate(on(handler)) if where == "above" else on(decorate(handler))

    app, _ = above(register, seen, "before")
    async with join(app, "/messages", token=mint()) as client:
        sid = client.sid
    await until(lambda: seen == [sid])


def test_detaching_puts_the_methods_back() -> None:
    async def run() -> None:
        app, guard = above(of_an_instance, [], "before")
        namespace = guard.server.namespace_handlers["*"]
        before = namespace.on_save
        async with join(app, "/messages", token=mint()):
            assert namespace.on_save != before
        guard.detach()
        assert namespace.on_save == before

    asyncio.run(run())


# What hides a handler


def hidden(handler: Any) -> Any:
    async def anything(*args: Any) -> Any:
        return await handler(*args)

    return anything


class Hiding:
    def __init__(self, handler: Any) -> None:
        self.handler = handler

    async def __call__(self, *args: Any) -> Any:
        return await self.handler(*args)


@pytest.mark.parametrize("style", ["function", "class", "any"])
@pytest.mark.parametrize("by", [hidden, Hiding, functools.partial, lambda handler: hidden(Hiding(handler))])
def test_a_handler_that_a_decorator_hides_is_found(by: Any, style: str) -> None:
    seen: list[Any] = []

    class Messages(socketio.AsyncNamespace):
        async def on_save(self, *args: Any) -> None:
            """Saves."""

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        server.on("echo", saving(seen), namespace="/messages")
        if style == "class":
            server.register_namespace(messages := Messages("/messages"))
            server.kept = requires("messages:write")(by(messages.on_save))
        else:
            name = "*" if style == "any" else "/messages"
            requires("messages:write")(by(server.on("save", namespace=name)(saving(seen))))

    _, guard = above(register, seen, "before")
    (finding,) = [finding for finding in guard.check() if finding.id == "SG017"]
    assert f"'save' in {'*' if style == 'any' else '/messages'!r}" in finding.text
    assert "right below @sio.on" in finding.fix


def test_handlers_that_others_call_are_not_suspected() -> None:
    seen: list[Any] = []

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        notify = server.on("notify", namespace="/messages")(saving(seen))

        async def save(sid: str) -> None:
            await notify(sid)
            await later(sid)

        requires("a")(server.on("above", namespace="/messages")(save))

        @server.on("below", namespace="/messages")
        @requires("a")
        async def below(sid: str) -> None:
            await notify(sid)

        server.on("hidden", namespace="/messages")(hidden(requires("a")(hidden(notify))))

        class Messages(socketio.AsyncNamespace):
            @requires("a")
            async def on_read(self, sid: str) -> None:
                await notify(sid)

        server.register_namespace(Messages("/messages"))

        if "later" in server.handlers:

            async def later(sid: str) -> None:
                """Was never made: its cell is empty."""

    _, guard = above(register, seen, "before")
    assert "SG017" not in {finding.id for finding in guard.check()}


async def test_a_shielded_connect_handler_is_found_too() -> None:
    seen: list[Any] = []

    async def connect(*args: Any) -> None:
        """Lets everybody in."""

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        requires("messages:write")(hidden(server.on("connect", namespace="/messages")(connect)))

    app, guard = above(register, seen, "before")
    async with join(app, "/messages", token=mint()):
        (finding,) = [finding for finding in guard.check() if finding.id == "SG017"]
    assert "'connect' in '/messages'" in finding.text


# How it is written


@pytest.mark.parametrize(
    ("scopes", "options", "option", "text"),
    [
        ((), {}, "scopes", r"asks for nothing; write @guard\.requires\(\"messages:write\"\)"),
        (("",), {}, "scopes", "non-empty"),
        ((5,), {}, "scopes", "non-empty strings"),
        ((print,), {}, "scopes", "strings"),
        ((["a"],), {}, "scopes", "strings"),
        (("a",), {"rate": "often"}, "rate", "rate is 'often'"),
        (("a",), {"rate": 5}, "rate", "rate is 5"),
        ((), {"rate": "0/second"}, "rate", "30/minute"),
    ],
)
def test_what_can_not_be_asked_for(scopes: Any, options: Any, option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        SocketGuard.requires(*scopes, **options)
    assert caught.value.option == option


def test_only_handlers_are_decorated() -> None:
    with pytest.raises(ConfigurationError, match="decorates a handler, not a str") as caught:
        SocketGuard.requires("a")("handler")  # type: ignore[type-var]
    assert caught.value.option == "scopes"


def test_what_can_not_be_told_from_others_is_not_decorated() -> None:
    class Slots:
        __slots__ = ()

        def __call__(self) -> None: ...

    for wrong in (Slots(), Slots().__call__):
        with pytest.raises(ConfigurationError, match="takes no weak references; write a function"):
            SocketGuard.requires("a")(wrong)


async def test_odd_decorators_are_followed_to_their_end() -> None:
    seen: list[Any] = []

    class Slots:
        __slots__ = ()

        def __call__(self, *args: Any) -> str:
            return "saved"

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        async def strange(*args: Any) -> str:
            return "saved"

        strange.__wrapped__ = strange  # type: ignore[attr-defined]
        requires("messages:write")(server.on("save", namespace="/messages")(strange))
        wrapping = functools.partial(Slots())
        wrapping.__wrapped__ = Slots()  # type: ignore[attr-defined]
        requires("messages:write")(server.on("more", namespace="/messages")(wrapping))

    app, _ = above(register, seen, "before")
    async with join(app, "/messages", token=mint()) as client:
        for event in ("save", "more"):
            assert (await client.call(event))["code"] == "insufficient_scope"
    async with join(app, "/messages", token=mint(scope="messages:write")) as client:
        for event in ("save", "more"):
            assert await client.call(event) == "saved"


def test_the_handler_keeps_its_name_and_parameters() -> None:
    def save(sid: str, text: str = "") -> None:
        """Saves."""

    decorated = SocketGuard.requires("messages:write")(save)
    assert (decorated.__name__, decorated.__doc__) == ("save", "Saves.")
    assert inspect.signature(decorated) == inspect.signature(save)


def test_outside_a_handler_there_is_nobody_to_ask() -> None:
    with pytest.raises(LookupError, match=r"outside a Socket\.IO handler"):
        SocketGuard.requires("messages:write")(lambda sid: None)("s")


def test_nothing_is_kept_of_handlers_that_are_gone() -> None:
    def make() -> tuple[Any, ...]:
        class Space:
            def save(self) -> None: ...

        space = Space()

        def save() -> None:
            space.save()

        SocketGuard.requires("a")(save)
        SocketGuard.requires("a")(space.save)
        return weakref.ref(space), weakref.ref(save), weakref.ref(Space.save)

    kept = make()
    gc.collect()
    assert [each() for each in kept] == [None] * 3


async def test_a_rate_grows_again_per_handler_and_is_not_used_up_without_the_scope(clock: Clock) -> None:
    def prepare(server: Any) -> None:
        for name in ("save", "store"):
            server.on(name, SocketGuard.requires("write", rate="2/minute")(lambda sid: "done"), namespace="/messages")

    case = guarded(prepare=prepare)
    async with join(case.app, "/messages", token=mint()) as client:
        for _ in range(3):
            assert (await client.call("save"))["code"] == "insufficient_scope"
        assert (await client.call("socketguard:refresh", {"token": mint(scope="write")}))["ok"] is True
        for name in ("save", "store"):
            assert [await client.call(name) for _ in range(2)] == ["done", "done"]
        assert (await client.call("save"))["retry_after"] == 30
        clock.passes(29)
        assert (await client.call("save"))["retry_after"] == 1
        clock.passes(1)
        assert await client.call("save") == "done"
        assert (await client.call("save"))["code"] == "rate_limited"
