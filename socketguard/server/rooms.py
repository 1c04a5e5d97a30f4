"""What python-socketio's client manager does more slowly the more clients there are, done at a constant cost.

Its rooms are dictionaries of members, so that it looks through all of them for those of one client; who is about to
join or to leave stands in lists; and a broadcast is a task for each recipient. Only attributes of the one manager are
replaced, and only methods that are python-socketio's own: what an application has made of them stays as it is.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Iterator
from typing import Any

import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager
from socketio.base_manager import BaseManager

from socketguard.connection import Connection

from .engine import Engine, items_of
from .sessions import Sessions

__all__ = ["Broadcasts", "Rooms"]


class _Waiting(dict[str, None]):
    """Stands in for a list of clients, in which python-socketio looks for one and from which it takes one."""

    def append(self, sid: str) -> None:
        self[sid] = None

    def remove(self, sid: str) -> None:
        del self[sid]


class _ByNamespace(dict[str, Any]):
    """Stands in for ``pending_connect`` and ``pending_disconnect``."""

    def __setitem__(self, namespace: str, waiting: Iterable[str]) -> None:
        super().__setitem__(namespace, _Waiting.fromkeys(waiting))


class Rooms:
    """An index of the rooms of each client, kept beside those of a manager.

    The two that python-socketio gives to everybody are not in it: most clients need no entry.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._index: dict[tuple[str, str], set[Any]] = {}
        # As they are now: whoever has replaced them before is asked, whoever does so later asks us.
        self._enter = manager.basic_enter_room
        self._leave = manager.basic_leave_room
        self.replaces: dict[str, Any] = {}
        own = type(manager)
        if all(
            getattr(own, name) is getattr(BaseManager, name)
            for name in ("basic_enter_room", "basic_leave_room", "basic_disconnect", "basic_close_room", "get_rooms")
        ):
            self.replaces = {
                "basic_enter_room": self.enter,
                "basic_leave_room": self.leave,
                "basic_disconnect": self.disconnect,
                "get_rooms": self.of,
            }
        # Before 5.13 python-socketio had the second only.
        self._pending = [name for name in ("pending_connect", "pending_disconnect") if hasattr(manager, name)]
        for name in self._pending:
            before = getattr(manager, name)
            if type(before) is dict:
                # For good: somebody may stand in it when the guard goes.
                waiting = {namespace: _Waiting.fromkeys(sids) for namespace, sids in before.items()}
                setattr(manager, name, _ByNamespace(waiting))

    def enter(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> Any:
        """Have a client in a room: stands in for ``basic_enter_room``."""
        result = self._enter(sid, namespace, room, eio_sid)
        if room is not None and room != sid:
            self._index.setdefault((namespace, sid), set()).add(room)
        return result

    def leave(self, sid: str, namespace: str, room: Any) -> Any:
        """Have a client in a room no longer: stands in for ``basic_leave_room``."""
        rooms = self._index.get((namespace, sid))
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                del self._index[namespace, sid]
        return self._leave(sid, namespace, room)

    def disconnect(self, sid: str, namespace: str, **kwargs: Any) -> None:
        """Have a client in no room: stands in for ``basic_disconnect``."""
        manager = self._manager
        for room in (*self._index.get((namespace, sid), ()), sid, None):
            if sid in manager.rooms.get(namespace, {}).get(room, ()):
                # As it is by then: somebody may want to see each of them.
                manager.basic_leave_room(sid, namespace, room)
        manager.callbacks.pop(sid, None)
        for name in self._pending:
            waiting = getattr(manager, name)
            sids = waiting.get(namespace)
            if sids is not None and sid in sids:
                sids.remove(sid)
                if not sids:
                    del waiting[namespace]

    def of(self, sid: str, namespace: str) -> list[Any]:
        """The rooms of a client: stands in for ``get_rooms``."""
        rooms = self._manager.rooms.get(namespace, {})
        return [room for room in (sid, *self._index.get((namespace, sid), ())) if sid in rooms.get(room, ())]


class Broadcasts:
    """Sends what is emitted without an acknowledgement straight into the queues of those whom it is for."""

    def __init__(self, server: Any, engine: Engine, sessions: Sessions) -> None:
        manager = server.manager
        self._server = server
        self._manager = manager
        self._engine = engine
        self._sessions = sessions
        # As they are now.
        self._emit = manager.emit
        self._handle_emit: Any = getattr(manager, "_handle_emit", None)
        self._participants = manager.get_participants
        own = type(manager)
        self.replaces: dict[str, Any] = {"get_participants": self.participants}
        if own.emit is socketio.AsyncManager.emit:
            self.replaces["emit"] = self.emit
        elif (
            issubclass(own, AsyncPubSubManager)
            and own.emit is AsyncPubSubManager.emit
            and own._handle_emit is AsyncPubSubManager._handle_emit
        ):
            self.replaces |= {"emit": self.publish, "_handle_emit": self.received}

    def participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        """The members of a room to whom something may be sent: stands in for ``get_participants``."""
        connections = self._sessions.connections
        for sid, eio_sid in self._participants(namespace, room):
            connection = connections.get(sid)
            if connection is None or connection.lives:
                yield sid, eio_sid

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Any = None,
        to: Any = None,
        **kwargs: Any,
    ) -> None:
        """Send an event to whoever may get it now, or later: stands in for ``emit``."""
        room = to or room
        if namespace not in self._manager.rooms:
            return
        arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        skipped = skip_sid if isinstance(skip_sid, list) else [skip_sid]
        packet_class, values = self._server.packet_class, [event, *arguments]
        members = [(sid, eio_sid) for sid, eio_sid in self._participants(namespace, room) if sid not in skipped]
        if callback:
            # Each gets a number of its own to answer with.
            for sid, eio_sid in members:
                number = self._manager._generate_ack_id(sid, callback)
                packet = packet_class(socketio.packet.EVENT, namespace=namespace, data=values, id=number)
                await self._server._send_packet(eio_sid, packet)
        else:
            self._send(items_of(packet_class(socketio.packet.EVENT, namespace=namespace, data=values)), members)
        # Whoever emits in a loop lets others have their turn.
        await asyncio.sleep(0)

    def _send(self, items: list[str | bytes], members: list[tuple[str, str]]) -> None:
        connections, sockets = self._sessions.connections, self._server.eio.sockets
        for sid, eio_sid in members:
            connection = connections.get(sid)
            if connection is None:
                continue  # Nobody has admitted it.
            if connection.state is Connection.JOINED:
                socket = sockets.get(eio_sid)
                if connection.reason is None and socket is not None:
                    for item in items:
                        socket.put(item)
            else:
                connection.hold(items)

    def publish(self, event: Any, data: Any, namespace: Any = None, room: Any = None, **kwargs: Any) -> Any:
        """Send an event here and to other processes: stands in for the ``emit`` of a client manager of several."""
        if kwargs.get("ignore_queue"):
            return self.emit(event, data, namespace, room, **kwargs)
        return self._emit(event, data, namespace, room, **kwargs)

    async def received(self, message: Any) -> None:
        """Send what this or another process has published: stands in for ``_handle_emit``."""
        if message.get("callback") is not None:
            await self._handle_emit(message)
            return
        data = message["data"]
        if "binary" in message:
            # Since python-socketio 5.14 it is a list, with the attachments behind it.
            if message["binary"]:
                attachments = [base64.b64decode(each) for each in data[1:]]
                data = socketio.packet.Packet.reconstruct_binary(data[0], attachments)
            data = data[0] if len(data) == 1 else tuple(data)
        skip = message.get("skip_sid")
        await self.emit(message["event"], data, message.get("namespace"), message.get("room"), skip)
