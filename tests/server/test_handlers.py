"""The application's own handlers, whatever they do: the client gets an answer, and nothing of it is left."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from socketguard import JWTAuth, NamespacePolicy, current_connection
from socketguard.deadline import GRACE
from socketguard.testing import TEST_SECRET, join, mint
from tests.scripted import (
    Client,
    Clock,
    Events,
    Guarded,
    Pause,
    Socket,
    connect_packet,
    guarded,
    joined_client,
    joined_wire,
    left,
    lines,
    open_wire,
    outside,
    refusal_in,
    rest,
    sid_in,
    until,
)

Handler = Callable[..., Any]
Prepare = Callable[[Any], None]


class Odd(BaseException):
    """What is no Exception."""


def as_it_is(handler: Handler, style: str, event: str = "connect", **options: Any) -> Guarded:
    """A server with this very object as a handler. It gets the namespace first where it is for all of them."""

    def prepare(server: Any) -> None:
        name = "*" if style.startswith("catch-all") else "/messages"
        if style in ("function", "catch-all"):
            server.on(event, handler, namespace=name)
        else:
            space = socketio.AsyncNamespace(name)
            setattr(space, f"on_{event}", handler)
            server.register_namespace(space)

    return guarded("/other", prepare=prepare, namespaces=["/messages"], **options)


def connecting(handler: Handler, style: str = "function", **options: Any) -> Guarded:
    """A server whose connect handler is this one, registered in one of python-socketio's ways."""

    def without_namespace(namespace: str, sid: str, environ: Any, auth: Any) -> Any:
        assert namespace == "/messages"
        return handler(sid, environ, auth)

    async def without_namespace_later(namespace: str, sid: str, environ: Any, auth: Any) -> Any:
        return await without_namespace(namespace, sid, environ, auth)

    if style.startswith("catch-all"):
        asynchronous = inspect.iscoroutinefunction(handler)
        return as_it_is(without_namespace_later if asynchronous else without_namespace, style, **options)
    return as_it_is(handler, style, **options)


STYLES = ["function", "class", "catch-all", "catch-all class"]


async def answer_to(case: Guarded, packet: str | None = None) -> tuple[Socket, str]:
    wire = await open_wire(case.app, packet or connect_packet())
    return wire, str(await wire.frame())


async def still_outside(case: Guarded, wire: Socket) -> None:
    """The client is in nothing, gets nothing, and may ask again."""
    outside(case)
    await case.server.emit("news", 1, namespace="/messages")
    await wire.send("41/messages,")
    await wire.send('42/messages,["echo",1]')
    await wire.close()


# Raising


def recursion() -> None:
    recursion()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "kind", [ValueError, TypeError, KeyError, RecursionError, TimeoutError, StopIteration, Odd, asyncio.CancelledError]
)
async def test_a_connect_handler_that_raises(
    kind: type[BaseException], asynchronous: bool, style: str, events: Events
) -> None:
    calls = []

    def raising(sid: str, environ: Any, auth: Any = None) -> Any:
        calls.append(sid)
        if kind is RecursionError:
            recursion()
        raise kind("secret of the application")

    async def raising_later(sid: str, environ: Any, auth: Any = None) -> Any:
        await asyncio.sleep(0)
        if kind is asyncio.CancelledError:
            # Not ours: python-socketio takes it out of an asynchronous handler for an acceptance.
            calls.append(sid)
            other = asyncio.ensure_future(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(other.cancel)
            await other
        raising(sid, environ, auth)

    case = connecting(raising_later if asynchronous else raising, style)
    wire, answer = await answer_to(case)
    data = refusal_in(answer)
    ref = data["data"].pop("ref")
    assert data == {"message": "Internal error", "data": {"code": "internal_error", "retry": "backoff"}}
    await still_outside(case, wire)
    assert len(calls) == 1
    (line,) = lines(events, "connection.rejected")
    assert (line["ref"], line["reason"]) == (ref, "internal_error")
    if kind is asyncio.CancelledError:
        assert line["detail"] == "cancelled"
    else:
        assert isinstance(line["exc_info"], BaseException)


async def test_a_type_error_of_the_handlers_own_does_not_call_it_twice() -> None:
    calls: list[Any] = []

    async def connect(sid: str, environ: Any, auth: Any = None) -> None:
        calls.append(auth)
        await case.server.emit("x", room={"unhashable": 1}, namespace="/messages")

    case = connecting(connect)
    wire, answer = await answer_to(case, connect_packet(auth_extra=1))
    assert refusal_in(answer)["data"]["code"] == "internal_error"
    assert len(calls) == 1
    await still_outside(case, wire)


# The older signature


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("style", ["function", "class"])
async def test_a_connect_handler_without_auth_works_with_and_without_a_payload(style: str, asynchronous: bool) -> None:
    calls = []

    def connect(sid: str, environ: Any) -> None:
        calls.append(current_connection().identity.subject)

    async def connect_later(sid: str, environ: Any) -> None:
        connect(sid, environ)

    case = as_it_is(connect_later if asynchronous else connect, style)
    async with join(case.app, "/messages", token=mint("ann")):
        pass
    async with join(case.app, "/messages", headers={"authorization": f"Bearer {mint('bob')}"}):
        pass
    assert calls == ["ann", "bob"]


async def test_a_handler_that_takes_nothing_is_an_internal_error() -> None:
    case = connecting(lambda: None)
    for packet in (connect_packet(), connect_packet(token=None)):
        wire, answer = await answer_to(case, packet)
        assert refusal_in(answer)["message"] in ("Internal error", "Authentication required")
        await still_outside(case, wire)


# Refusing

REFUSALS: dict[str, tuple[Any, Any]] = {
    "False": (False, {"message": "Connection rejected by server"}),
    "without a text": (socketio.exceptions.ConnectionRefusedError(), {"message": "Connection rejected by server"}),
    "with a text": (socketio.exceptions.ConnectionRefusedError("full"), {"message": "full"}),
    "with data": (
        socketio.exceptions.ConnectionRefusedError("full", {"room": 5}),
        {"message": "full", "data": {"room": 5}},
    ),
    "with more data": (socketio.exceptions.ConnectionRefusedError("full", 1, 2), {"message": "full", "data": [1, 2]}),
    "with an object": (socketio.exceptions.ConnectionRefusedError({"code": "E"}), {"message": "{'code': 'E'}"}),
    "the builtin": (ConnectionRefusedError("secret"), {"message": "Connection refused by server"}),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("outcome", "expected"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_of_the_application_is_passed_on_untouched(
    outcome: Any, expected: Any, style: str, events: Events
) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> Any:
        await case.server.enter_room(sid, "room", namespace="/messages")
        if outcome is False:
            return False
        raise outcome

    case = connecting(connect, style)
    wire, answer = await answer_to(case)
    assert refusal_in(answer) == expected
    await still_outside(case, wire)
    (line,) = lines(events, "connection.rejected")
    assert line["reason"] == "refused_by_app"
    assert "secret" not in json.dumps(line, default=str)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("data", [{1, 2}, object(), b"bytes", {"a": b"bytes"}, float], ids=repr)
async def test_a_refusal_that_can_not_be_sent_is_an_internal_error(data: Any, style: str, events: Events) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        raise socketio.exceptions.ConnectionRefusedError("full", data)

    case = connecting(connect, style)
    wire, answer = await answer_to(case)
    assert refusal_in(answer)["data"]["code"] == "internal_error"
    await still_outside(case, wire)
    assert [line["detail"] for line in lines(events, "connection.rejected")] == ["refusal_not_serializable"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [None, True], ids=repr)
async def test_a_handler_that_returns_none_or_true_admits(value: Any, style: str) -> None:
    case = connecting(lambda sid, environ, auth: value, style)
    async with join(case.app, "/messages", token=mint()):
        pass


class Endless:
    """What is awaited gives the same again."""

    def __await__(self) -> Any:
        yield from ()
        return self


def a_generator() -> Any:
    yield True


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: 0,
        lambda: 1,
        lambda: "",
        lambda: "no",
        lambda: [],
        lambda: {"ok": False},
        lambda: (False, "banned"),
        object,
        a_generator,
        Endless,
        lambda: NotImplemented,
    ],
)
async def test_whatever_else_a_handler_returns_is_no_yes(make: Callable[[], Any], style: str, events: Events) -> None:
    case = as_it_is(lambda *args: make(), style)
    wire, answer = await answer_to(case)
    assert refusal_in(answer) == {"message": "Connection rejected by server"}
    await still_outside(case, wire)
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"]) == ("refused_by_app", "returned_unknown")
    assert line["received"] == type(make()).__name__
    assert case.guard.status()["refused"] == {"refused_by_app": 1}


# Handlers that do not look asynchronous, but are


def handed_on(handler: Handler) -> Handler:
    def connect(*args: Any) -> Any:
        return handler(*args)

    return connect


class Called:
    """An object with an asynchronous ``__call__``."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, *args: Any) -> Any:
        return await self.handler(*args)


def as_a_task(handler: Handler) -> Handler:
    return lambda *args: asyncio.ensure_future(handler(*args))


def twice(handler: Handler) -> Handler:
    async def connect(*args: Any) -> Any:
        return handler(*args)

    return connect


SHAPES: dict[str, Callable[[Handler], Handler]] = {
    "plain": lambda handler: handler,
    "handed on": handed_on,
    "called": Called,
    "partial": functools.partial,
    "partial of an object": lambda handler: functools.partial(Called(handler)),
    "task": as_a_task,
    "twice": twice,
    "method": lambda handler: Called(handler).__call__,
}
UNCLEAR = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


LATER = {
    "False": "returned_false",
    "no": "returned_unknown",
    "raises": "connect_handler",
    "cancelled": "cancelled",
    "hangs": "connect_handler",
    "yes": None,
}


@UNCLEAR
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("answer", "detail"), LATER.items(), ids=LATER)
async def test_what_a_connect_handler_says_later_counts(
    answer: str, detail: str | None, style: str, shape: Callable[[Handler], Handler], clock: Clock, events: Events
) -> None:
    ran: list[str | None] = []

    async def connect(*args: Any) -> Any:
        await asyncio.sleep(0)
        ran.append(current_connection().identity.subject)
        if answer == "raises":
            raise PermissionError("secret")
        if answer == "cancelled":
            raise asyncio.CancelledError
        if answer == "hangs":
            try:
                await asyncio.Event().wait()
            finally:
                ran.append("cut off")
        return {"False": False, "no": "no"}.get(answer)

    case = as_it_is(shape(connect), style)
    asking = asyncio.ensure_future(answer_to(case))
    await until(lambda: ran)
    if answer == "hangs":
        clock.passes(10)
    if answer == "hangs":
        # A stock client comes back by itself from a closed transport, and never from a CONNECT_ERROR.
        with pytest.raises(ConnectionError, match="4504"):
            await asking
        assert ran == ["user-1", "cut off"]
        (line,) = lines(events, "connection.rejected")
        assert (line["reason"], line["detail"]) == ("admission_timeout", detail)
        outside(case)
        return
    wire, said = await asking
    assert ran == ["user-1"]
    if detail is None:
        sid_in(said)
        await wire.close()
        return
    codes = {"raises": "internal_error", "cancelled": "internal_error"}
    data = refusal_in(said).get("data", {})
    assert (data.get("code"), data.get("retry")) == (codes.get(answer), "backoff" if answer in codes else None)
    await still_outside(case, wire)
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"]) == (codes.get(answer, "refused_by_app"), detail)


@pytest.mark.parametrize("style", STYLES)
async def test_a_future_that_says_no(style: str) -> None:
    def connect(*args: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(False)
        return future

    case = as_it_is(connect, style)
    wire, said = await answer_to(case)
    assert refusal_in(said) == {"message": "Connection rejected by server"}
    await still_outside(case, wire)


@UNCLEAR
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("async_handlers", [True, False])
async def test_what_an_event_handler_returns_later_is_the_acknowledgement(
    async_handlers: bool, style: str, shape: Callable[[Handler], Handler], events: Events
) -> None:
    async def save(*args: Any) -> Any:
        await asyncio.sleep(0)
        if args[-1] == "raise":
            raise ValueError
        if args[-1] == "cancel":
            raise asyncio.CancelledError
        return args[-1]

    case = as_it_is(shape(save), style, "save", server_options={"async_handlers": async_handlers})
    async with join(case.app, "/messages", token=mint()) as client:
        assert await client.call("save", "text") == "text"
        await client.emit("save", "raise")
        await client.emit("save", "cancel")
        assert await client.call("save", [1]) == [1]
    # Where python-socketio sees that it is asynchronous, it takes a cancellation for a return.
    assert len(lines(events, "handler.failed")) in (1, 2)


@UNCLEAR
@pytest.mark.parametrize("style", STYLES)
async def test_what_a_disconnect_handler_does_later_is_done(style: str, shape: Callable[[Handler], Handler]) -> None:
    done: list[Any] = []

    async def disconnect(*args: Any) -> None:
        await asyncio.sleep(0)
        done.append(current_connection().identity.subject)

    case = as_it_is(shape(disconnect), style, "disconnect")
    async with join(case.app, "/messages", token=mint("ann")):
        pass
    await until(lambda: done == ["ann"])


async def test_a_cancellation_by_somebody_else_ends_what_an_event_handler_does_later(events: Events) -> None:
    """As at the end of the server: nobody waits for it any more."""
    entered = asyncio.Event()
    tasks: list[Any] = []

    async def save(*args: Any) -> None:
        tasks.append(asyncio.current_task())
        entered.set()
        await asyncio.Event().wait()

    case = as_it_is(handed_on(save), "function", "save")
    async with join(case.app, "/messages", token=mint()) as client:
        await client.emit("save", 1)
        await entered.wait()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
    assert not lines(events, "handler.failed")


# Hanging


@pytest.mark.parametrize("style", STYLES)
async def test_a_handler_that_swallows_its_cancellation_is_refused_whatever_it_returns(style: str) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return True
        raise AssertionError

    case = connecting(connect, style, admission_timeout=0.01)
    with pytest.raises(ConnectionError, match="4504"):
        await answer_to(case)
    outside(case)


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another client"])
async def test_a_handler_that_finishes_much_later_leaves_no_ghost(others: bool, clock: Clock) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()
    errors: list[str] = []
    first: list[str] = []
    cancelled: list[str] = []

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if others and not first:
            first.append(sid)
            return
        entered.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                cancelled.append(sid)
                if len(cancelled) > 1:
                    raise  # The test has failed and its loop is to end.
        server = case.server
        for action in (
            server.enter_room(sid, "late", namespace="/messages"),
            server.save_session(sid, {"a": 1}, namespace="/messages"),
            server.emit("late", to=sid, namespace="/messages"),
            server.disconnect(sid, namespace="/messages"),
        ):
            try:
                await action
            except Exception as exc:
                errors.append(type(exc).__name__)
        raise ValueError("too late to matter")

    case = connecting(connect, admission_timeout=5)
    if others:
        companion, _ = await joined_wire(case.app)
    before = left(case)
    wire = await open_wire(case.app, connect_packet())
    await entered.wait()
    clock.passes(5)
    await until(lambda: cancelled)
    clock.passes(GRACE)
    assert await wire.closed() == ([], 4504)
    assert left(case) == before
    gate.set()
    await until(lambda: errors)
    await rest()
    assert left(case) == before
    if others:
        await companion.close()


# Ending it


@pytest.mark.parametrize("style", STYLES)
async def test_a_handler_that_disconnects_its_client_refuses_it(style: str, events: Events) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        await case.server.disconnect(sid, namespace="/messages")

    case = connecting(connect, style)
    wire, answer = await answer_to(case)
    assert refusal_in(answer) == {"message": "Connection rejected by server"}
    await still_outside(case, wire)
    assert [line["detail"] for line in lines(events, "connection.rejected")] == ["disconnect_called"]


async def test_disconnecting_a_pending_client_in_another_namespace_does_nothing() -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        await case.server.disconnect(sid, namespace="/elsewhere")

    case = connecting(connect)
    async with join(case.app, "/messages", token=mint()):
        pass


@pytest.mark.parametrize(
    ("transport", "how"),
    [
        ("websocket", "gone"),
        ("websocket", "eio.disconnect"),
        ("polling", "1"),
        ("polling", "hello"),
        ("polling", "eio.disconnect"),
    ],
)
@pytest.mark.parametrize("finish", ["returns", "raises", "refuses", "disconnects"])
@pytest.mark.parametrize("where", ["authorize", "connect"])
async def test_a_session_that_ends_while_it_is_admitted(
    transport: str, where: str, finish: str, how: str, events: Events
) -> None:
    pause = Pause()
    left: list[str] = []

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if where == "connect":
            await pause.wait()
        if finish == "raises":
            raise ValueError
        if finish == "refuses":
            raise socketio.exceptions.ConnectionRefusedError("no")
        if finish == "disconnects":
            await case.server.disconnect(sid, namespace="/messages")

    policy = NamespacePolicy("/messages", authorize=pause.wait if where == "authorize" else None)
    handlers = {"connect": connect, "disconnect": lambda sid, reason: left.append(reason)}
    case = guarded(handlers=handlers, namespaces=[policy])
    client = await Client(case, transport).open()
    joining = asyncio.ensure_future(client.connect())
    await pause.entered.wait()
    if how == "eio.disconnect":
        ending = asyncio.ensure_future(case.server.eio.disconnect(case.eio_sid))
        await asyncio.sleep(0)
    elif client.wire is not None:
        client.wire.put("websocket.disconnect", code=1006)
    else:
        await client.post(how)
    pause.release.set()
    await asyncio.gather(joining, return_exceptions=True)  # Whatever a client hears that has gone.
    if client.wire is not None:
        await client.close()
    elif how == "eio.disconnect":
        await ending
    await until(lambda: not case.guard.status()["connections"]["being_admitted"])
    accepted, closed = lines(events, "connection.accepted"), lines(events, "connection.closed")
    assert len(closed) + len(lines(events, "connection.rejected")) == 1
    assert len(accepted) <= len(closed)
    # Whoever was told of a client is told that it left.
    if accepted:
        assert len(left) == 1


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_server_that_cancels_its_requests_leaves_nothing(transport: str) -> None:
    pause = Pause()
    case = connecting(pause.wait)
    client = await Client(case, transport).open()
    task: Any = asyncio.ensure_future(client.connect())
    await pause.entered.wait()
    if client.wire is not None:
        task = client.wire.task
    task.cancel()
    await asyncio.wait((task,))
    if client.wire is None:
        await client.close()
    # The handler may finish; then its client is let go.
    pause.release.set()
    await until(lambda: not case.server.manager.rooms)
    outside(case)


# Leaving


@pytest.mark.parametrize("style", ["function", "class"])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, Odd, None])
async def test_a_disconnect_handler_that_raises_keeps_nobody(
    kind: type[BaseException] | None, asynchronous: bool, style: str, events: Events
) -> None:
    reasons: list[str] = []

    def leave(sid: str, reason: str) -> None:
        reasons.append(reason)
        assert current_connection().namespace == "/messages"
        if kind is not None:
            raise kind("secret")

    async def leave_later(sid: str, reason: str) -> None:
        await asyncio.sleep(0)
        leave(sid, reason)

    case = as_it_is(leave_later if asynchronous else leave, style, "disconnect")
    wire, _ = await joined_wire(case.app)
    await wire.send("41/messages,")
    await wire.close()
    wire, sid = await joined_wire(case.app)
    await case.server.disconnect(sid, namespace="/messages")
    await wire.close()
    wire, sid = await joined_wire(case.app)
    await wire.close()
    expected = ["client disconnect", "server disconnect", "transport close"]
    assert reasons == expected
    assert [line["reason"] for line in lines(events, "connection.closed")] == expected
    if kind in (ValueError, Odd):
        assert [line["handler"] for line in lines(events, "handler.failed")] == ["disconnect"] * 3


async def test_the_older_disconnect_handler_without_a_reason_works() -> None:
    left: list[str] = []

    case = guarded(handlers={"disconnect": lambda sid: left.append(sid)})
    async with join(case.app, "/messages", token=mint()) as client:
        sid = client.sid
    assert left == [sid]


async def test_a_disconnect_handler_that_disconnects_again_runs_once() -> None:
    left: list[str] = []

    async def disconnect(sid: str, reason: str) -> None:
        left.append(sid)
        await case.server.disconnect(sid, namespace="/messages")

    case = guarded(handlers={"disconnect": disconnect})
    wire, sid = await joined_wire(case.app)
    await case.server.disconnect(sid, namespace="/messages")
    await wire.close()
    assert left == [sid]


# Events


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_event_handler_that_raises_harms_nobody(asynchronous: bool, events: Events) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["exception"]))

    async def broken(sid: str) -> None:
        raise ValueError("secret")

    case = guarded(handlers={"broken": broken}, server_options={"async_handlers": asynchronous})
    async with join(case.app, "/messages", token=mint()) as client:
        await client.emit("broken")
        assert await client.call("echo", 1) == 1
    (line,) = lines(events, "handler.failed")
    assert (line["handler"], line["error"], line["subject"]) == ("broken", "ValueError", "user-1")
    assert complaints == []


@pytest.mark.parametrize("kind", ["raises", "raises later", "does not fit"])
async def test_an_acknowledgement_that_fails_is_the_fault_of_the_callback_or_of_the_client(
    kind: str, events: Events
) -> None:
    def callback(*args: Any) -> None:
        raise ValueError("secret")

    async def callback_later(*args: Any) -> None:
        await asyncio.sleep(0)
        callback()

    callbacks = {"raises": callback, "raises later": callback_later, "does not fit": lambda: None}
    case = guarded()
    client, sid = await joined_client(case)
    await case.server.emit("question", to=sid, namespace="/messages", callback=callbacks[kind])
    question = await client.packet()
    await client.send(f"43/messages,{question.number}[1,2,3]")
    assert await client.alive()
    await client.close()
    if kind == "does not fit":
        assert len(lines(events, "packet.rejected")) == 1
        assert not lines(events, "handler.failed")
    else:
        (line,) = lines(events, "handler.failed")
        assert (line["handler"], line["error"]) == ("acknowledgement", "ValueError")


async def test_the_connection_is_known_in_every_handler() -> None:
    seen: list[tuple[str, str, str | None]] = []

    def note(where: str) -> None:
        connection = current_connection()
        seen.append((where, connection.sid, connection.identity.subject))

    case = guarded(
        handlers={
            "connect": lambda sid, environ, auth: note("connect"),
            "event": lambda sid: note("event"),
            "binary": lambda sid, data: note("binary"),
            "disconnect": lambda sid, reason: note("disconnect"),
        }
    )
    wire, sid = await joined_wire(case.app)
    await wire.send('42/messages,["event"]')
    await wire.send('451-/messages,1["binary",{"_placeholder":true,"num":0}]')
    await wire.send(b"x")
    assert await wire.frame() == "43/messages,1[]"
    await wire.close()
    assert seen == [(where, sid, "user-1") for where in ("connect", "event", "binary", "disconnect")]
    with pytest.raises(LookupError):
        current_connection()


async def test_a_handler_that_is_registered_later_is_protected_too() -> None:
    async def cancelled(sid: str, environ: Any, auth: Any) -> None:
        raise asyncio.CancelledError

    case = connecting(lambda sid, environ, auth: None)
    async with join(case.app, "/messages", token=mint()):
        pass
    case.server.on("connect", cancelled, namespace="/messages")
    wire, answer = await answer_to(case)
    assert refusal_in(answer)["data"]["code"] == "internal_error"
    await still_outside(case, wire)


# What goes wrong beneath


async def test_a_decision_that_fails_is_a_refusal(events: Events) -> None:
    class Broken(JWTAuth):
        def check_time(self, identity: Any) -> None:
            raise RuntimeError("unforeseen")

    case = guarded(auth=Broken(TEST_SECRET, algorithms=["HS256"]))
    wire = await open_wire(case.app, connect_packet())
    assert refusal_in(await wire.frame())["message"] == "Internal error"
    await wire.close()
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"]) == ("internal_error", "admission")


async def test_a_failure_of_python_socketio_itself_is_answered_and_cleaned_up(events: Events) -> None:
    case = guarded()
    client = await Client(case, "polling").open()

    async def connect(*args: Any) -> None:
        raise RuntimeError("nobody can be entered")

    case.server.manager.connect = connect
    await client.post(connect_packet())
    assert refusal_in(await client.frame())["message"] == "Internal error"
    outside(case)
    await client.close()
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["error"]) == ("internal_error", "RuntimeError")


async def test_a_refusal_of_a_session_that_has_ended_is_logged_only(events: Events) -> None:
    async def authorize(identity: Any, connection: Any) -> bool:
        await client.post("hello")
        return False

    case = guarded(namespaces=[NamespacePolicy("/messages", authorize=authorize)])
    client = await Client(case, "polling").open()
    await client.post(connect_packet())
    await until(lambda: lines(events, "connection.rejected"))
    (line,) = lines(events, "connection.rejected")
    assert (line["reason"], line["detail"]) == ("insufficient_scope", "authorize_refused")
