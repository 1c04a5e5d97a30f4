"""What is said to a client that may not join, and what it costs its address."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import socketio

from socketguard.admission import tried
from socketguard.connection import Connection, Session
from socketguard.errors import CREDENTIAL_CODES, HandshakeCode, Refusal, RejectCode, new_ref
from socketguard.limits.counters import Refusals as Counted
from socketguard.limits.rates import AddressBudget
from socketguard.logs.report import Report

from .engine import Engine, items_of
from .sessions import Sessions

__all__ = ["Refusals"]

_ENCODE = json.JSONEncoder(separators=(",", ":"), default=str).encode

# Whose refusal is the client's own doing, and counts against its address. What the service or the application refuses
# for reasons of its own does not; nor does a limit, which would keep out who is out already.
_FAILURES = CREDENTIAL_CODES | {
    RejectCode.INVALID_NAMESPACE,
    RejectCode.CONNECT_MALFORMED,
    RejectCode.ALREADY_CONNECTED,
}


class Refusals:
    """Refuses the CONNECTs of one server.

    Attributes:
        refused: how many were refused, by code.
        reported: how many would have been, and how many connections would have been ended, by code.
    """

    def __init__(
        self, engine: Engine, sessions: Sessions, budget: AddressBudget, report: Report, *, debug: bool
    ) -> None:
        self.refused: dict[str, int] = {}
        self.reported: dict[str, dict[str, int]] = {"would_reject": {}, "would_end": {}}
        self._engine = engine
        self._sessions = sessions
        self._budget = budget
        self._report = report
        self._debug = debug

    def refuse(self, connection: Connection, refusal: Refusal, answer: Any = None) -> bool:
        """Answer a CONNECT, log and count the refusal.

        Args:
            connection: the one that asks.
            refusal: why it may not.
            answer: what the client is told in place of the refusal's own payload: the application's words.

        Returns:
            Whether the client has been refused too often within its session.
        """
        ref = new_ref() if answer is None else ""
        too_many = self.count(connection, refusal, ref)
        self.withdraw(connection)
        socket = self._engine.socket(connection.session.eio_sid)
        if too_many or socket is None or socket.closing:
            return too_many
        if answer is None:
            if self._engine.strict_text:
                # What the default serializer makes of it, without looking for binary data in what can have none.
                place = "" if connection.namespace == "/" else f"{connection.namespace},"
                text = _ENCODE(refusal.payload(ref, debug=True)) if self._debug else _text(refusal, ref)
                socket.put(f"44{place}{text}")
                return too_many
            answer = refusal.payload(ref, debug=self._debug)
        for item in self.encode(connection.namespace, answer):
            socket.put(item)
        return too_many

    def would(self, connection: Connection, refusal: Refusal) -> None:
        """Log a refusal that is only reported, and count it: for nobody's budget."""
        self._note("would_reject", refusal.code.value)
        self._report.would_reject(connection, refusal)

    def would_end(self, connection: Connection, reason: str) -> None:
        """Log the end of a connection that is only reported, and count it."""
        self._note("would_end", reason)
        self._report.would_end(connection, reason)

    def _note(self, kind: str, code: str) -> None:
        self.reported[kind][code] = self.reported[kind].get(code, 0) + 1

    def encode(self, namespace: str, answer: Any) -> list[str | bytes]:
        """The answer to a refused CONNECT as packets of Engine.IO."""
        packet_class = self._engine.server.packet_class
        return items_of(packet_class(socketio.packet.CONNECT_ERROR, data=answer, namespace=namespace))

    def withdraw(self, connection: Connection, *, attempt: bool = False) -> bool:
        """Have nobody hold anything of a connection that does not come about.

        Args:
            connection: it; nothing happens to one that has been withdrawn.
            attempt: whether that is one more attempt of its client.

        Returns:
            Whether there were too many of them.
        """
        pending, session = connection.pending, connection.session
        connection.pending = None
        if pending is not None:
            # Who has ignored one cancellation is asked no more.
            if pending.task is not asyncio.current_task() and not pending.overdue:
                pending.task.cancel()
            for _, _, size in pending.late:
                session.done(size)
        if connection.sid:
            self._engine.server.manager.basic_disconnect(connection.sid, connection.namespace)
        self._sessions.admitting.pop(connection, None)
        self._sessions.forget(connection)
        return attempt and self._count(session, "superseded", connection.namespace)[1]

    def _count(self, session: Session, code: str, namespace: str) -> tuple[bool, bool]:
        if session.refusals is None:
            session.refusals = Counted()
        counted: tuple[bool, bool] = session.refusals.count(code, namespace, self._sessions.limits)
        return counted

    def count(self, connection: Connection, refusal: Refusal, ref: str) -> bool:
        """Log a refusal and count it; returns whether there were too many of them within the session."""
        self._report.rejected(connection, refusal, ref)
        code = refusal.code
        name = code.value
        self.refused[name] = self.refused.get(name, 0) + 1
        session = connection.session
        costs, too_many = self._count(session, name, connection.namespace)
        # A namespace may be hidden because of a limit. And anybody can make up an unknown key.
        real = refusal.fields.get("hidden_reason", code)
        unknown_key = "key_unknown" in (refusal.detail, refusal.fields.get("hidden_detail"))
        if costs and (real in _FAILURES or unknown_key):
            # A hidden namespace costs what an unknown one does.
            what = None if code is RejectCode.INVALID_NAMESPACE else tried(connection)
            self._budget.fail(session.client_address, what)
        return too_many


@functools.cache
def _beginning(code: RejectCode | HandshakeCode) -> str:
    return _ENCODE(Refusal(code).payload("")).removesuffix('"}}')


def _text(refusal: Refusal, ref: str) -> str:
    """The payload of a refusal as JSON, of which only the last two values vary."""
    beginning = _beginning(refusal.code)
    if refusal.code is RejectCode.INVALID_NAMESPACE:
        return beginning
    again = "" if refusal.retry_after is None else f',"retry_after":{refusal.retry_after}'
    return f'{beginning}{ref}"{again}}}}}'
