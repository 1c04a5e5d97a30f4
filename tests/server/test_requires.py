"""Rules of single events on a whole server: refused events are answered, logged and never dispatched."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard import ConfigurationError, NamespacePolicy, SocketGuard, current_connection
from socketguard.testing import Refused, join, make_auth, mint
from tests.scripted import (
    Clock,
    Events,
    Guarded,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    lines,
    open_wire,
    until,
)

Register = Callable[[Any, list[Any]], None]


def asynchronous(server: Any, seen: list[Any]) -> None:
    @server.on("save", namespace="/messages")
    @SocketGuard.requires("messages:write")
    async def save(sid: str, *args: Any) -> str:
        seen.append(args)
        return "saved"


def synchronous(server: Any, seen: list[Any]) -> None:
    @server.on("save", namespace="/messages")
    @SocketGuard.requires("messages:write")
    def save(sid: str, *args: Any) -> str:
        seen.append(args)
        return "saved"


def class_based(server: Any, seen: list[Any]) -> None:
    class Messages(socketio.AsyncNamespace):
        @SocketGuard.requires("messages:write")
        async def on_save(self, sid: str, *args: Any) -> str:
            seen.append(args)
            return "saved"

    server.register_namespace(Messages("/messages"))


def class_based_synchronous(server: Any, seen: list[Any]) -> None:
    class Messages(socketio.AsyncNamespace):
        @SocketGuard.requires("messages:write")
        def on_save(self, sid: str, *args: Any) -> str:
            seen.append(args)
            return "saved"

    server.register_namespace(Messages("/messages"))


def any_event(server: Any, seen: list[Any]) -> None:
    @server.on("*", namespace="/messages")
    @SocketGuard.requires("messages:write")
    async def anything(event: str, sid: str, *args: Any) -> str:
        seen.append(args)
        return "saved"


def any_namespace(server: Any, seen: list[Any]) -> None:
    @server.on("save", namespace="*")
    @SocketGuard.requires("messages:write")
    async def save(namespace: str, sid: str, *args: Any) -> str:
        seen.append(args)
        return "saved"


STYLES = [asynchronous, synchronous, class_based, class_based_synchronous, any_event, any_namespace]


def case_of(style: Register, seen: list[Any], **options: Any) -> Guarded:
    return guarded("/other", prepare=lambda server: style(server, seen), namespaces=["/messages"], **options)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("async_handlers", [True, False])
async def test_an_event_without_its_scope_is_answered_and_not_dispatched(
    style: Register, async_handlers: bool, events: Events
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


async def test_over_polling() -> None:
    seen: list[Any] = []
    case = case_of(asynchronous, seen)
    client, _ = await joined_client(case, token=mint(scope="messages:read"), kind="polling")
    await client.post('42/messages,3["save","text"]')
    frame = await client.frame()
    assert frame.startswith("43/messages,3[")
    assert json.loads(frame[len("43/messages,3") :])[0]["code"] == "insufficient_scope"
    assert seen == []


async def test_binary_events() -> None:
    seen: list[Any] = []
    case = case_of(asynchronous, seen)
    wire, _ = await joined_wire(case.app, token=mint(scope="messages:read"))
    await wire.send('451-/messages,4["save",{"_placeholder":true,"num":0}]')
    await wire.send(b"\x00\x01")
    assert str(await wire.frame()).startswith('43/messages,4[{"ok":false,"code":"insufficient_scope"')
    assert seen == []


async def test_the_name_of_a_hostile_event_is_neutralised_in_the_log(events: Events) -> None:
    case = case_of(any_event, [])
    async with join(case.app, "/messages", token=mint()) as client:
        await client.call("\x1b[31m\n" + "x" * 500)
    (line,) = lines(events, "event.rejected")
    assert "\x1b" not in line["event_name"]
    assert "\n" not in line["event_name"]
    assert len(line["event_name"]) <= 80


async def test_many_refused_events_do_not_fill_the_log(events: Events) -> None:
    case = case_of(asynchronous, [])
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


@pytest.mark.parametrize("style", ["function", "synchronous", "class"])
async def test_on_a_connect_handler_it_refuses_the_client(style: str, events: Events) -> None:
    seen: list[str] = []

    def prepare(server: Any) -> None:
        if style == "function":

            @server.on("connect", namespace="/messages")
            @SocketGuard.requires("messages:write")
            async def connect(sid: str, environ: Any, auth: Any) -> None:
                seen.append(sid)

        elif style == "synchronous":

            @server.on("connect", namespace="/messages")
            @SocketGuard.requires("messages:write")
            def connect_now(sid: str, environ: Any) -> None:
                seen.append(sid)

        else:

            class Messages(socketio.AsyncNamespace):
                @SocketGuard.requires("messages:write")
                async def on_connect(self, sid: str, environ: Any) -> None:
                    seen.append(sid)

            server.register_namespace(Messages("/messages"))

    case = guarded("/other", prepare=prepare, namespaces=["/messages"])
    wire = await open_wire(case.app, connect_packet(token=mint(scope="messages:read")))
    said = json.loads(str(await wire.frame()).removeprefix("44/messages,"))
    (line,) = lines(events, "connection.rejected")
    assert said == {
        "message": "Forbidden",
        "data": {"code": "insufficient_scope", "retry": "never", "ref": line["ref"]},
    }
    assert (line["reason"], line["detail"]) == ("insufficient_scope", "scope_missing")
    assert line["missing"] == ["messages:write"]
    assert not lines(events, "event.rejected")
    assert seen == []
    await wire.join(token=mint(scope="messages:write"))
    assert len(seen) == 1
    assert case.guard.status()["refused"] == {"insufficient_scope": 1}


async def test_a_disconnect_handler_runs_whatever_the_client_may_do() -> None:
    seen: list[str] = []

    @SocketGuard.requires("messages:write")
    async def disconnect(sid: str, reason: str) -> None:
        seen.append(sid)

    case = guarded("/messages", handlers={"disconnect": disconnect})
    wire, sid = await joined_wire(case.app)
    await wire.close()
    assert seen == [sid]


async def test_what_a_refresh_has_changed_holds_at_once() -> None:
    seen: list[Any] = []
    case = case_of(asynchronous, seen)
    async with join(case.app, "/messages", token=mint(scope="messages:write")) as client:
        assert await client.call("save", 1) == "saved"
        answer = await client.call("socketguard:refresh", {"token": mint(scope="messages:read")})
        assert answer["ok"] is True
        assert (await client.call("save", 2))["code"] == "insufficient_scope"
        answer = await client.call("socketguard:refresh", {"token": mint(scope="messages:write")})
        assert await client.call("save", 3) == "saved"
    assert seen == [(1,), (3,)]


async def test_the_anonymous_have_no_scopes() -> None:
    seen: list[Any] = []
    case = guarded(
        "/other",
        prepare=lambda server: asynchronous(server, seen),
        namespaces=[NamespacePolicy("/messages", token="optional")],
    )
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
    asynchronous(server, seen)
    guard = SocketGuard.protect(server, auth=make_auth(), logger=False)
    app = socketio.ASGIApp(server)
    async with join(app, "/messages", token=mint(scope="messages:write")) as client:
        guard.detach()
        await client.emit("save", "text")
        # The next event is handled after it.
        assert await client.call("echo", 1) == 1
    assert seen == []


# Above sio.on

Registered = Callable[[Any, Any, list[Any]], None]


def saving(seen: list[Any]) -> Any:
    async def save(*args: Any) -> str:
        seen.append(args[-1])
        return "saved"

    return save


def above_a_function(server: Any, requires: Any, seen: list[Any]) -> None:
    @requires("messages:write")
    @server.on("save", namespace="/messages")
    async def save(sid: str, *args: Any) -> str:
        seen.append(args[-1])
        return "saved"


def above_a_synchronous_function(server: Any, requires: Any, seen: list[Any]) -> None:
    @requires("messages:write")
    @server.on("save", namespace="/messages")
    def save(sid: str, *args: Any) -> str:
        seen.append(args[-1])
        return "saved"


def above_event(server: Any, requires: Any, seen: list[Any]) -> None:
    @requires("messages:write")
    @server.event(namespace="/messages")
    async def save(sid: str, *args: Any) -> str:
        seen.append(args[-1])
        return "saved"


def above_any_event(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.on("*", namespace="/messages")(saving(seen)))


def above_any_namespace(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.on("save", namespace="*")(saving(seen)))


def above_anything(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.on("*", namespace="*")(saving(seen)))


class Callback:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def save(self, *args: Any) -> str:
        self.seen.append(args[-1])
        return "saved"

    __call__ = save


def above_a_method(server: Any, requires: Any, seen: list[Any]) -> None:
    handlers = Callback(seen)
    requires("messages:write")(Callback(seen).save)  # Another one's.
    server.on("save", handlers.save, namespace="/messages")
    requires("messages:write")(handlers.save)
    server.keep = handlers


def above_an_object(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.on("save", namespace="/messages")(Callback(seen)))


def above_a_partial(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(server.on("save", namespace="/messages")(functools.partial(saving(seen), "more")))


def logged(handler: Any) -> Any:
    @functools.wraps(handler)
    async def save(*args: Any) -> Any:
        return await handler(*args)

    return save


def above_another_decorator(server: Any, requires: Any, seen: list[Any]) -> None:
    requires("messages:write")(logged(server.on("save", namespace="/messages")(saving(seen))))


def below_another_decorator(server: Any, requires: Any, seen: list[Any]) -> None:
    server.on("save", namespace="/messages")(logged(requires("messages:write")(saving(seen))))


def between_two(server: Any, requires: Any, seen: list[Any]) -> None:
    save = requires("messages:write")(saving(seen))
    requires(rate="100/second")(server.on("save", namespace="/messages")(save))


def two_above(server: Any, requires: Any, seen: list[Any]) -> None:
    save = server.on("save", namespace="/messages")(saving(seen))
    requires(rate="100/second")(requires("messages:write")(save))


def of_a_class(server: Any, requires: Any, seen: list[Any]) -> None:
    class Messages(socketio.AsyncNamespace):
        async def on_save(self, *args: Any) -> str:
            seen.append(args[-1])
            return "saved"

    requires("messages:write")(Messages.on_save)
    server.register_namespace(Messages("/messages"))


def of_an_instance(server: Any, requires: Any, seen: list[Any]) -> None:
    class Messages(socketio.AsyncNamespace):
        async def on_save(self, *args: Any) -> str:
            seen.append(args[-1])
            return "saved"

    messages = Messages("*")
    server.register_namespace(messages)
    requires("messages:write")(messages.on_save)


ABOVE: list[Registered] = [
    above_a_function,
    above_a_synchronous_function,
    above_event,
    above_any_event,
    above_any_namespace,
    above_anything,
    above_a_method,
    above_an_object,
    above_a_partial,
    above_another_decorator,
    below_another_decorator,
    between_two,
    two_above,
    of_a_class,
    of_an_instance,
]


def above(register: Registered, seen: list[Any], when: str) -> tuple[Any, SocketGuard]:
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
@pytest.mark.parametrize("register", ABOVE)
async def test_it_works_above_too(register: Registered, when: str) -> None:
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


@pytest.mark.parametrize("style", ["function", "synchronous", "any namespace", "class", "instance"])
async def test_above_a_connect_handler_it_refuses_the_client(style: str) -> None:
    seen: list[Any] = []

    class Messages(socketio.AsyncNamespace):
        async def on_connect(self, *args: Any) -> None:
            seen.append(args[0])

    async def connect(*args: Any) -> None:
        seen.append(args[0])

    def connect_now(*args: Any) -> None:
        seen.append(args[0])

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        decorate = requires("messages:write")
        if style == "class":
            decorate(Messages.on_connect)
            server.register_namespace(Messages("/messages"))
        elif style == "instance":
            messages = Messages("/messages")
            server.register_namespace(messages)
            decorate(messages.on_connect)
        else:
            handler = connect_now if style == "synchronous" else connect
            decorate(server.on("connect", namespace="*" if style == "any namespace" else "/messages")(handler))

    app, guard = above(register, seen, "before")
    for _ in range(2):
        with pytest.raises(Refused, match="Forbidden"):
            async with join(app, "/messages", token=mint(scope="messages:read")):
                pass
    assert seen == []
    async with join(app, "/messages", token=mint(scope="messages:write")):
        assert len(seen) == 1
    assert guard.status()["refused"] == {"insufficient_scope": 2}


async def test_a_disconnect_handler_below_it_runs() -> None:
    seen: list[Any] = []

    def register(server: Any, requires: Any, seen: list[Any]) -> None:
        @requires("messages:write")
        @server.on("disconnect", namespace="/messages")
        async def disconnect(sid: str) -> None:  # The older signature.
            seen.append(sid)

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
