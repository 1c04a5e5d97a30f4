"""``socketguard demo``: a guarded server on this machine, and what clients and the log see of it.

The server runs in this process on a free port of 127.0.0.1, the clients are python-socketio's, the sockets are real.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import socketio
import uvicorn

from .. import events
from ..guard import SocketGuard
from ..identity import current_connection
from ..namespaces import NamespacePolicy
from ..rejections import REPLIES, RejectCode
from ..testing import capture_events, mint
from ..verifier import JWTAuth

__all__ = ["main"]

PATIENCE = 10.0
"""Seconds that one answer may take; a machine that needs them is in trouble, and the demo then says so."""

WIDTH = 80
LABEL = "  client  "


@dataclass(frozen=True, slots=True)
class Case:
    """One client that asks to join.

    Attributes:
        title: what is wrong with it, or that nothing is.
        token: what it sends; None for nothing.
        namespace: where it wants to go.
        code: with what it must be refused; None when it must be let in.
        detail: what the log must give as the detail of the refusal.
    """

    title: str
    token: str | None
    namespace: str = "/messages"
    code: RejectCode | None = None
    detail: str | None = None


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    title: str
    client: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, expected: object, found: object) -> None:
        """Note it when something is not as it should be."""
        if found != expected:
            self.wrong.append(f"{what} should be {expected!r}, and is {found!r}")


def main(arguments: list[str]) -> int:
    """Play all cases and print what happened.

    Args:
        arguments: of the command line; there are none but ``--help``.

    Returns:
        0 when all went as it should, else 1.
    """
    argparse.ArgumentParser(
        prog="socketguard demo",
        description="Starts a guarded Socket.IO server on a free port of 127.0.0.1 and plays clients against it. "
        "For each it shows what the client saw and what the log said. Ends with 0 if all went as it should, else 1.",
    ).parse_args(arguments)
    return asyncio.run(_play(Printer(sys.stdout)))


async def _play(printer: Printer) -> int:
    secret = secrets.token_urlsafe(32)
    cases, tokens = _cases(secret)
    outcomes = []
    with capture_events() as log:
        async with _serve(_application(secret)) as url:
            printer.title(f"A guarded Socket.IO server on {url}, and real clients.")
            plays: list[Callable[[], Awaitable[Outcome]]] = [
                *(lambda case=case: _join(url, case, log) for case in cases),  # type: ignore[misc]
                lambda: _talk(url, tokens, log),
            ]
            for play in plays:
                outcomes.append(await play())
                printer.outcome(outcomes[-1])
        outcomes.append(_secrets(log, [secret, *filter(None, (case.token for case in cases))]))
        printer.outcome(outcomes[-1])
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    printer.summary(len(outcomes), failed)
    return 1 if failed else 0


def _cases(secret: str) -> tuple[list[Case], dict[str, str]]:
    def token(subject: str, tenant: str, *, key: str = secret, lifetime: float = 300, scope: str = "") -> str:
        return mint(subject, key=key, lifetime=lifetime, aud="crm", tenant_id=tenant, scope=scope)

    ana = token("ana", "acme", scope="scheduler:read")
    bruno = token("bruno", "globex")
    forged = token("ana", "acme", key=secrets.token_urlsafe(32))
    expired = token("ana", "acme", lifetime=-3600)
    cases = [
        Case("A valid token", ana),
        Case("No token", None, code=RejectCode.TOKEN_MISSING),
        Case("An expired token", expired, code=RejectCode.TOKEN_EXPIRED),
        Case("A forged signature", forged, code=RejectCode.TOKEN_INVALID, detail="signature_mismatch"),
        Case("A namespace that does not exist", ana, "/schedulr", code=RejectCode.INVALID_NAMESPACE),
        Case("A scope that the token lacks", bruno, "/scheduler", code=RejectCode.INSUFFICIENT_SCOPE),
    ]
    return cases, {"ana": ana, "bruno": bruno}


def _application(secret: str) -> Any:
    sio = socketio.AsyncServer(async_mode="asgi")

    @sio.on("connect", namespace="/messages")
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        tenant = current_connection().identity.claims["tenant_id"]
        await sio.enter_room(sid, f"tenant:{tenant}", namespace="/messages")

    @sio.on("message:new", namespace="/messages")
    async def message_new(sid: str, text: str) -> dict[str, str]:
        identity = current_connection().identity
        tenant = identity.claims["tenant_id"]
        message = {"from": identity.subject, "tenant": tenant, "text": text}
        await sio.emit("message:new", message, room=f"tenant:{tenant}", namespace="/messages")
        return {"delivered_to": tenant}

    sio.on("connect", lambda sid, environ, auth: None, namespace="/scheduler")
    return SocketGuard(
        socketio.ASGIApp(sio),
        auth=JWTAuth(secret, algorithms=["HS256"], audience="crm"),
        namespaces=["/messages", NamespacePolicy("/scheduler", scopes={"scheduler:read"})],
        log_claims=("sub", "tenant_id"),
        logger=False,  # the lines are captured, and shown with the client that caused them
    )


# --- the server ------------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: Ctrl-C ends the command, not the server alone."""
        yield


@contextlib.asynccontextmanager
async def _serve(app: Any) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _until(lambda: server.started or task.done())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def _until(condition: Callable[[], object]) -> None:
    """Wait until something is so, or the patience is at its end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)


# --- the clients -----------------------------------------------------------------------------------------------------


class Client:
    """One client in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.error: Any = None
        self.messages: list[Any] = []
        self.sio = socketio.AsyncClient(reconnection=False)
        self.sio.on("connect_error", self._failed, namespace=namespace)
        self.sio.on("message:new", self.messages.append, namespace=namespace)

    def _failed(self, error: Any) -> None:
        self.error = error

    async def join(self, url: str, token: str | None) -> None:
        """Join, or have ``error`` say why not."""
        auth = None if token is None else {"token": token}
        try:
            await self.sio.connect(url, auth=auth, namespaces=[self.namespace], wait_timeout=PATIENCE)
        except socketio.exceptions.ConnectionError as error:
            self.error = self.error or {"message": str(error)}

    async def call(self, text: str) -> Any:
        """Send a message and return the acknowledgement, or the name of what went wrong."""
        try:
            return await self.sio.call("message:new", text, namespace=self.namespace, timeout=PATIENCE)
        except socketio.exceptions.SocketIOError as error:
            return type(error).__name__


async def _join(url: str, case: Case, log: list[dict[str, Any]]) -> Outcome:
    outcome = Outcome(case.title)
    client = Client(case.namespace)
    before = len(log)
    try:
        await client.join(url, case.token)
        joined = client.error is None
        wanted = events.ACCEPTED if joined else events.REJECTED
        await _until(lambda: _find(log[before:], wanted))
    finally:
        await client.sio.disconnect()
    line = _find(log[before:], wanted) or {}
    outcome.log = [line] if line else []
    data = {} if joined else client.error.get("data") or {}
    message = None if joined else client.error.get("message")
    outcome.client.append(f"joined {case.namespace}" if joined else f"refused: {message}")
    outcome.client += [f"{name}: {value}" for name, value in data.items()]
    outcome.expect("the client's message", REPLIES[case.code].message if case.code else None, message)
    outcome.expect("the event", events.REJECTED if case.code else events.ACCEPTED, line.get("event"))
    outcome.expect("the logged reason", case.code.value if case.code else None, line.get("reason"))
    if case.code and case.code is not RejectCode.INVALID_NAMESPACE:
        outcome.expect("the client's code", case.code.value, data.get("code"))
        outcome.expect("the client's ref", line.get("ref"), data.get("ref"))
    if case.detail:
        outcome.expect("the logged detail", case.detail, line.get("detail"))
    return outcome


async def _talk(url: str, tokens: dict[str, str], log: list[dict[str, Any]]) -> Outcome:
    outcome = Outcome("A message to everybody of one's tenant, and to nobody else")
    clients = {name: Client("/messages") for name in tokens}
    before = len(log)
    texts = {name: f"hello from {name}" for name in tokens}
    try:
        for name, client in clients.items():
            await client.join(url, tokens[name])
        answers = {name: await client.call(texts[name]) for name, client in clients.items()}
        # A message of the first that went astray would have come before the second one's own.
        await _until(lambda: all(client.messages for client in clients.values()))
    finally:
        for client in clients.values():
            await client.sio.disconnect()
    await _until(lambda: len(_all(log[before:], events.CLOSED)) >= len(clients))
    outcome.log = _all(log[before:], events.CLOSED)
    for name, client in clients.items():
        got = [message["text"] for message in client.messages]
        outcome.client.append(f"{name} sent {texts[name]!r}, answer {answers[name]!r}, received {got!r}")
        outcome.expect(f"what {name} received", [texts[name]], got)
    outcome.expect("the answers", ["acme", "globex"], [_delivered(answer) for answer in answers.values()])
    outcome.expect("who left", sorted(tokens), sorted(line["subject"] for line in outcome.log))
    return outcome


def _delivered(answer: Any) -> Any:
    return answer.get("delivered_to") if isinstance(answer, dict) else answer


def _secrets(log: list[dict[str, Any]], hidden: list[str]) -> Outcome:
    outcome = Outcome("No token and no secret in any line of the log")
    written = repr(log)
    found = sum(secret in written for secret in hidden)
    outcome.client.append(f"{len(log)} lines searched for {len(hidden)} secrets, {found} found")
    outcome.expect("the number of secrets in the log", 0, found)
    return outcome


def _all(log: Sequence[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in log if line["event"] == event]


def _find(log: Sequence[dict[str, Any]], event: str) -> dict[str, Any] | None:
    return next(iter(_all(log, event)), None)
