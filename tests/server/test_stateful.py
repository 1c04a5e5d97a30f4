"""Clients that come, are refused, crash, hang and leave in any order: only who is joined is held, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import socketio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from socketguard import Limits, NamespacePolicy
from socketguard.testing import mint
from tests.scripted import PATIENCE, Client, guarded, left, until

NAMESPACES = ["/a", "/b", "/"]
OUTCOMES = ["accept", "False", "refuse", "raise", "cancel", "disconnect", "unserializable"]

PLACES = 100
"""More than come in one run."""
PLACES_OF = ("connections", "connections_per_subject", "connections_per_address", "sessions_per_address")

namespaces = st.sampled_from(NAMESPACES)


@dataclass(eq=False)
class Visitor:
    """One Engine.IO session, as it should be."""

    client: Any
    eio_sid: str
    websocket: bool
    alive: bool = True
    joined: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    posts: list[asyncio.Future[Any]] = field(default_factory=list)


@dataclass
class Hanging:
    """A connect handler, or an `authorize`, that waits to be told how to end."""

    sid: str | None
    outcome: asyncio.Future[str]


class Visits(RuleBasedStateMachine):
    visitors = Bundle("visitors")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.tags = itertools.count()
        self.hanging: dict[int, Hanging] = {}
        self.everybody: list[Visitor] = []
        self.token = mint()
        self.run(self.start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))

    async def start(self) -> None:
        async def authorize(identity: Any, connection: Any) -> bool:
            claim = identity.claims.get("hang")
            if claim is not None:
                return await self.wait(claim, None) == "accept"
            return True

        async def connect(sid: str, environ: Any, auth: Any) -> Any:
            namespace = auth["namespace"]
            await self.case.server.enter_room(sid, "everybody", namespace=namespace)
            outcome = auth["do"]
            if outcome == "hang":
                outcome = await self.wait(auth["tag"], sid)
            if outcome == "False":
                return False
            if outcome == "refuse":
                raise socketio.exceptions.ConnectionRefusedError("no", {"a": 1})
            if outcome == "unserializable":
                raise socketio.exceptions.ConnectionRefusedError("no", object())
            if outcome == "raise":
                raise ValueError
            if outcome == "cancel":
                raise asyncio.CancelledError
            if outcome == "disconnect":
                await self.case.server.disconnect(sid, namespace=namespace)
            return None

        async def disconnect(sid: str, reason: str) -> None:
            await asyncio.sleep(0)
            if reason == "client disconnect":
                raise ValueError

        def prepare(server: Any) -> None:
            for namespace in NAMESPACES:
                server.on("connect", connect, namespace=namespace)
                server.on("disconnect", disconnect, namespace=namespace)

        policies = [NamespacePolicy(name, authorize=authorize) for name in NAMESPACES]
        limits = Limits(**dict.fromkeys(PLACES_OF, PLACES), failures_per_address=None)
        self.case = guarded(prepare=prepare, namespaces=policies, limits=limits)

    async def wait(self, tag: int, sid: str | None) -> str:
        self.hanging[tag] = Hanging(sid, asyncio.get_running_loop().create_future())
        return await self.hanging[tag].outcome

    # What clients do

    @rule(target=visitors, websocket=st.booleans())
    def open(self, websocket: bool) -> Visitor:
        return self.run(self._open(websocket))

    async def _open(self, websocket: bool) -> Visitor:
        before = set(self.case.server.eio.sockets)
        client = await Client(self.case, "websocket" if websocket else "polling").open()
        (eio_sid,) = set(self.case.server.eio.sockets) - before
        visitor = Visitor(client, eio_sid, websocket)
        self.everybody.append(visitor)
        return visitor

    def can_send(self, visitor: Visitor) -> bool:
        return visitor.alive

    async def send(self, visitor: Visitor, packet: str) -> None:
        if visitor.websocket:
            await visitor.client.send(packet)
        else:
            await visitor.client.post(packet)

    @rule(visitor=visitors, namespace=namespaces, outcome=st.sampled_from(OUTCOMES), token=st.booleans())
    def connect(self, visitor: Visitor, namespace: str, outcome: str, token: bool) -> None:
        if self.can_send(visitor):
            self.run(self._connect(visitor, namespace, outcome, token))

    def packet(self, namespace: str, outcome: str, tag: int = 0, token: str | None = None) -> str:
        auth: dict[str, Any] = {"namespace": namespace, "do": outcome, "tag": tag}
        if token is not None:
            auth["token"] = token
        return f"40{namespace},{json.dumps(auth)}"

    async def _connect(self, visitor: Visitor, namespace: str, outcome: str, token: bool) -> None:
        # Whoever asks anew while it is being decided on takes the place of the one before.
        self.forget(visitor, namespace)
        await self.send(visitor, self.packet(namespace, outcome, token=self.token if token else None))
        taken = namespace in visitor.joined
        sid = await self.answer(visitor, namespace)
        assert (sid is not None) == (token and not taken and outcome == "accept")
        if sid is not None:
            visitor.joined[namespace] = sid

    def forget(self, visitor: Visitor, namespace: str) -> None:
        tag = visitor.waiting.pop(namespace, None)
        if tag is not None:
            del self.hanging[tag]

    async def answer(self, visitor: Visitor, namespace: str) -> str | None:
        prefix = "" if namespace == "/" else f"{namespace},"
        while True:
            frame = str(await visitor.client.frame())
            if frame.startswith(f"40{prefix}{{"):
                return str(json.loads(frame[2 + len(prefix) :])["sid"])
            if frame.startswith(f"44{prefix}{{"):
                return None

    @rule(visitor=visitors, namespace=namespaces, in_handler=st.booleans())
    def hang(self, visitor: Visitor, namespace: str, in_handler: bool) -> None:
        if self.can_send(visitor) and namespace not in {**visitor.joined, **visitor.waiting}:
            self.run(self._hang(visitor, namespace, in_handler))

    async def _hang(self, visitor: Visitor, namespace: str, in_handler: bool) -> None:
        tag = next(self.tags)
        if in_handler:
            packet = self.packet(namespace, "hang", tag, self.token)
        else:
            packet = self.packet(namespace, "accept", tag, mint(hang=tag))
        if visitor.websocket:
            await visitor.client.send(packet)
        else:
            visitor.posts.append(asyncio.ensure_future(visitor.client.post(packet)))
        await until(lambda: tag in self.hanging)
        visitor.waiting[namespace] = tag

    @rule(visitor=visitors, namespace=namespaces, outcome=st.sampled_from(OUTCOMES))
    def release(self, visitor: Visitor, namespace: str, outcome: str) -> None:
        if namespace in visitor.waiting:
            self.run(self._release(visitor, namespace, outcome))

    async def _release(self, visitor: Visitor, namespace: str, outcome: str) -> None:
        hanging = self.hanging.pop(visitor.waiting.pop(namespace))
        hanging.outcome.set_result(outcome)
        if visitor.alive:
            sid = await self.answer(visitor, namespace)
            assert sid is None or outcome == "accept"
            if sid is not None:
                visitor.joined[namespace] = sid

    @rule(visitor=visitors, namespace=namespaces)
    def leave(self, visitor: Visitor, namespace: str) -> None:
        if self.can_send(visitor):
            self.forget(visitor, namespace)
            self.run(self.send(visitor, f"41{namespace},"))
            visitor.joined.pop(namespace, None)

    @rule(visitor=visitors, namespace=namespaces)
    def kick(self, visitor: Visitor, namespace: str) -> None:
        sid = visitor.joined.pop(namespace, None)
        if sid is not None:
            self.run(self.case.server.disconnect(sid, namespace=namespace))

    @rule(visitor=visitors, namespace=namespaces, name=st.sampled_from(["connect", "disconnect", "x"]))
    def event(self, visitor: Visitor, namespace: str, name: str) -> None:
        if self.can_send(visitor):
            self.run(self.send(visitor, f'42{namespace},["{name}"]'))

    @rule(visitor=visitors, namespace=namespaces)
    def half_a_binary_event_then_the_end(self, visitor: Visitor, namespace: str) -> None:
        if self.can_send(visitor) and namespace in visitor.joined:
            self.run(self.send(visitor, f'451-{namespace},["x",{{"_placeholder":true,"num":0}}]'))
            self.run(self._end(visitor, "close"))

    @rule(visitor=visitors, namespace=namespaces)
    def ask_for_an_acknowledgement(self, visitor: Visitor, namespace: str) -> None:
        sid = visitor.joined.get(namespace)
        if sid is not None:
            emit = self.case.server.emit("question", to=sid, namespace=namespace, callback=lambda *args: None)
            self.run(emit)

    @rule(visitor=consumes(visitors), how=st.sampled_from(["close", "garbage", "engine", "gone"]))
    def end(self, visitor: Visitor, how: str) -> None:
        if visitor.alive:
            self.run(self._end(visitor, how))

    async def _end(self, visitor: Visitor, how: str) -> None:
        if not visitor.websocket and how == "gone":
            how = "close"  # Whoever polls goes by not polling any more; python-engineio notices by time.
        visitor.joined.clear()
        if how == "engine" and visitor.websocket:
            await self.case.server.eio.disconnect(visitor.eio_sid)
        elif how == "gone":
            await visitor.client.close()
        else:
            await self.send(visitor, "1" if how == "close" else "hello")
            if visitor.websocket:
                await until(visitor.client.wire.task.done)
        visitor.alive = False

    # What must be true

    @invariant()
    def only_who_is_joined_is_held(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.run(until(lambda: self.difference() is None, timeout=10))
        assert self.difference() is None

    def difference(self) -> Any:
        server, manager = self.case.server, self.case.server.manager
        alive = {visitor.eio_sid for visitor in self.everybody if visitor.alive}
        joined = {(ns, sid) for v in self.everybody for ns, sid in v.joined.items()}
        waiting = {
            (ns, self.hanging[tag].sid)
            for v in self.everybody
            for ns, tag in v.waiting.items()
            if self.hanging[tag].sid is not None
        }
        members = {(ns, sid) for ns, rooms in manager.rooms.items() for sid in rooms[None]}
        everywhere = {(ns, sid) for ns, rooms in manager.rooms.items() for room in rooms.values() for sid in room}
        sids = {sid for _, sid in joined | waiting}
        checks = {
            "members": joined <= members <= joined | waiting,
            "rooms": everywhere == members,
            "empty rooms": all(room for rooms in manager.rooms.values() for room in rooms.values()),
            "pending_connect": {
                (ns, sid) for ns, sids in getattr(manager, "pending_connect", {}).items() for sid in sids
            }
            <= waiting,
            "pending_disconnect": not manager.pending_disconnect,
            "callbacks": set(manager.callbacks) <= sids,
            "environ": set(server.environ) == alive,
            "sockets": {sid for sid, socket in server.eio.sockets.items() if not socket.closed} == alive,
            "binary": not server._binary_packet,
            "listed": {(c.namespace, c.sid) for c in self.case.guard.connections()} == joined,
            "sessions": self.case.guard.status()["sessions"]["open"] == len(alive),
            "being admitted": sum(len(v.waiting) for v in self.everybody if v.alive)
            <= self.case.guard.status()["connections"]["being_admitted"]
            <= sum(len(v.waiting) for v in self.everybody),
            "timers": self.case.guard.status()["timers"]["expiry"] == len(joined),
        }
        wrong = [name for name, holds in checks.items() if not holds]
        return (wrong, joined, waiting, members, left(self.case)) if wrong else None

    def teardown(self) -> None:
        try:
            self.run(self._teardown())
        finally:
            pings = asyncio.all_tasks(self.loop)  # python-engineio has planned them.
            for ping in pings:
                ping.cancel()
            if pings:
                self.loop.run_until_complete(asyncio.wait(pings))
            self.loop.close()

    async def _teardown(self) -> None:
        for visitor in self.everybody:
            if visitor.alive:
                await self._end(visitor, "gone")
        for hanging in self.hanging.values():
            hanging.outcome.set_result("accept")
        for visitor in self.everybody:
            await asyncio.gather(*visitor.posts)
            if visitor.websocket:
                await visitor.client.close()
        await until(lambda: not left(self.case))
        await self._all_places_are_free()

    async def _all_places_are_free(self) -> None:
        """What a limit counts was given back: as many as may come at most can come again."""
        clients = [await Client(self.case, "polling").open() for _ in range(PLACES)]
        for client in clients:
            await client.send(self.packet("/a", "accept", token=self.token))
            assert await self.answer(Visitor(client, "", websocket=False), "/a")
        for client in clients:
            await client.close()


TestVisits = Visits.TestCase
TestVisits.settings = settings(max_examples=60, stateful_step_count=40)
