"""``socketguard demo``: a guarded server on this machine, and what clients and the log see of it.

The server runs in this process on a free port of 127.0.0.1, the clients are python-socketio's, the sockets are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import click
import socketio
import uvicorn

from socketguard.connection import Identity, current_connection
from socketguard.errors import REPLIES, RejectCode
from socketguard.guard import SocketGuard
from socketguard.logs import events
from socketguard.logs.events import sentence
from socketguard.namespaces.policy import NamespacePolicy
from socketguard.testing import capture_events, mint
from socketguard.tokens.auth import JWTAuth

from .output import Printer

__all__ = ["command", "play"]

PATIENCE = 10.0
"""Seconds that one answer may take; a machine that needs them is in trouble, and the demo then says so."""

_Lines = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """One client that asks to join; ``code`` and ``detail`` say how it must be refused, None that it must be let in."""

    title: str
    token: str | None
    namespace: str = "/messages"
    code: RejectCode | None = None
    detail: str | None = None


@dataclass(slots=True)
class Outcome:
    """What was tried, what was seen of it (labels and texts), and what is not as it should be."""

    title: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, expected: object, found: object) -> None:
        """Note it when something is not as it should be."""
        if found != expected:
            self.wrong.append(f"{what}: expected {expected!r}, found {found!r}")

    def logged(self, lines: _Lines) -> None:
        """Show lines of the log: level, event, and the sentence that a plain log would have."""
        for line in lines:
            self.seen.append(("log", f"{line['level'].upper()} {line['event']}"))
            self.seen.append(("", sentence(line["event"], line)))


@click.command()
def command() -> int:
    """Play clients against a guarded Socket.IO server, which is started on a free port of 127.0.0.1.

    For each it shows what the client saw and what the log said. Ends with 0 if all went as it should, else 1.
    """
    return asyncio.run(play(Printer(sys.stdout)))


async def play(printer: Printer, *, application: Callable[[str], Any] | None = None, patience: float = PATIENCE) -> int:
    """Play all cases against ``application(secret)`` and print what happened; 1 when something went wrong, else 0."""
    total = failed = 0
    # Closed whatever happens while printing, or the server would run on.
    async with contextlib.aclosing(_outcomes(printer, application or guarded, patience)) as outcomes:
        async for outcome in outcomes:
            total += 1
            failed += bool(outcome.wrong)
            printer.heading(outcome.title, good=not outcome.wrong)
            for label, text in [*outcome.seen, *(("wrong", text) for text in outcome.wrong)]:
                printer.item(label, text)
            printer.gap()
    printer.text(f"{failed} of {total} went wrong." if failed else f"All {total} went as they should.")
    return 1 if failed else 0


async def _outcomes(printer: Printer, application: Callable[[str], Any], patience: float) -> AsyncGenerator[Outcome]:
    secret = secrets.token_urlsafe(32)
    cases, tokens = _cases(secret)
    with capture_events() as log:
        async with _serve(application(secret), patience) as url:
            printer.text(f"A guarded Socket.IO server on {url}, and real clients:")
            for case in cases:
                yield await _join(url, case, log, patience)
            yield await _talk(url, tokens, log, patience)
        yield secrets_in(log, [secret, *(case.token for case in cases if case.token is not None)])


def _cases(secret: str) -> tuple[list[Case], dict[str, str]]:
    def token(subject: str, tenant: str, *, key: str = secret, lifetime: float = 300, scope: str = "") -> str:
        return mint(subject, key=key, lifetime=lifetime, aud="crm", tenant_id=tenant, scope=scope)

    ana = token("ana", "acme", scope="scheduler:read")
    bruno = token("bruno", "globex")
    expired = token("ana", "acme", lifetime=-3600)
    forged = token("ana", "acme", key=secrets.token_urlsafe(32))
    cases = [
        Case("A valid token", ana),
        Case("No token", None, code=RejectCode.TOKEN_MISSING),
        Case("An expired token", expired, code=RejectCode.TOKEN_EXPIRED),
        Case("A forged signature", forged, code=RejectCode.TOKEN_INVALID, detail="signature_mismatch"),
        Case("A namespace that does not exist: /schedulr", ana, "/schedulr", RejectCode.INVALID_NAMESPACE),
        Case("A valid token without the scope of /scheduler", bruno, "/scheduler", RejectCode.INSUFFICIENT_SCOPE),
    ]
    return cases, {"ana": ana, "bruno": bruno}


# --- the server ------------------------------------------------------------------------------------------------------


def guarded(secret: str) -> SocketGuard:
    """The application that is played against."""
    # No task that looks for silent clients: the demo is over before one could miss a ping.
    sio = socketio.AsyncServer(async_mode="asgi", monitor_clients=False)

    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        connection = current_connection()
        await sio.enter_room(sid, _room(connection.identity), namespace=connection.namespace)

    async def message_new(sid: str, text: str) -> dict[str, str]:
        identity = current_connection().identity
        await sio.emit("message:new", text, room=_room(identity), namespace="/messages")
        return {"delivered_to": identity.claims["tenant_id"]}

    for namespace in ("/messages", "/scheduler"):
        sio.on("connect", connect, namespace=namespace)
    sio.on("message:new", message_new, namespace="/messages")
    return SocketGuard(
        socketio.ASGIApp(sio),
        auth=JWTAuth(secret, algorithms=["HS256"], audience="crm"),
        namespaces=["/messages", NamespacePolicy("/scheduler", scopes={"scheduler:read"})],
        log_claims=("sub", "tenant_id"),
        logger=False,  # the lines are captured, and shown with the client that caused them
    )


def _room(identity: Identity) -> str:
    return f"tenant:{identity.claims['tenant_id']}"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: Ctrl-C ends the command, not the server alone."""
        yield


@contextlib.asynccontextmanager
async def _serve(app: Any, patience: float) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _until(lambda: server.started or task.done(), patience)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def _until(condition: Callable[[], object], patience: float) -> None:
    """Wait until something is so, or the patience is at its end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not condition():  # noqa: ASYNC110 - nobody tells when the log or uvicorn has got there
                await asyncio.sleep(0.01)


# --- the clients -----------------------------------------------------------------------------------------------------


class Client:
    """A Socket.IO client that notes what it is told."""

    def __init__(self, namespace: str, patience: float) -> None:
        self.namespace = namespace
        self.patience = patience
        self.error: Any = None
        self.received: list[Any] = []

    async def __aenter__(self) -> Self:
        # Its own HTTP session, so that it is closed whatever becomes of the client.
        self.http = aiohttp.ClientSession()
        self.sio = socketio.AsyncClient(reconnection=False, handle_sigint=False, http_session=self.http)
        self.sio.on("connect_error", self._failed, namespace=self.namespace)
        self.sio.on("message:new", self.received.append, namespace=self.namespace)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            # python-engineio's client awaits None when Ctrl-C came in the middle of its connect().
            with contextlib.suppress(TypeError):
                await self.sio.disconnect()
        finally:
            await self.http.close()

    def _failed(self, error: Any) -> None:
        self.error = error

    async def join(self, url: str, token: str | None) -> None:
        auth = None if token is None else {"token": token}
        try:
            await self.sio.connect(url, auth=auth, namespaces=[self.namespace], wait_timeout=self.patience)
        except socketio.exceptions.ConnectionError as error:
            self.error = self.error or str(error)

    async def call(self, text: str) -> Any:
        try:
            return await self.sio.call("message:new", text, namespace=self.namespace, timeout=self.patience)
        except socketio.exceptions.SocketIOError as error:
            return type(error).__name__


async def _join(url: str, case: Case, log: _Lines, patience: float) -> Outcome:
    outcome = Outcome(case.title)
    before = len(log)
    async with Client(case.namespace, patience) as client:
        await client.join(url, case.token)
        await _until(lambda: _named(log[before:], events.ACCEPTED, events.REJECTED), patience)
    # The client's report is a stranger's word too: anything may be in it.
    error = client.error if isinstance(client.error, dict) else {"message": client.error}
    message, data = error.get("message"), error.get("data") or {}
    outcome.seen.append(("client", f"joined {case.namespace}" if message is None else f"refused: {message}"))
    if data:
        outcome.seen.append(("", ", ".join(f"{name} {value}" for name, value in data.items())))
    lines = _named(log[before:], events.ACCEPTED, events.REJECTED)
    outcome.logged(lines)
    line = lines[0] if lines else {}
    code = None if case.code is None else case.code.value
    outcome.expect("event", events.ACCEPTED if code is None else events.REJECTED, line.get("event"))
    outcome.expect("reason in the log", code, line.get("reason"))
    outcome.expect("message to the client", None if case.code is None else REPLIES[case.code].message, message)
    # An unknown namespace is answered as the reference server does: with the message alone.
    bare = code is None or case.code is RejectCode.INVALID_NAMESPACE
    outcome.expect("code to the client", None if bare else code, data.get("code"))
    outcome.expect("ref to the client", None if bare else line.get("ref"), data.get("ref"))
    if case.detail is not None:
        outcome.expect("detail in the log", case.detail, line.get("detail"))
    return outcome


async def _talk(url: str, tokens: dict[str, str], log: _Lines, patience: float) -> Outcome:
    outcome = Outcome("A message to everybody of one's tenant, and to nobody else")
    texts = {name: f"hello from {name}" for name in tokens}
    before = len(log)
    async with contextlib.AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client("/messages", patience)) for name in tokens}
        for name, client in clients.items():
            await client.join(url, tokens[name])
        answers = {name: await client.call(texts[name]) for name, client in clients.items()}
        joined = [client for client in clients.values() if client.error is None]
        # Ana's message, had it gone astray, would have reached Bruno before his own.
        await _until(lambda: all(client.received for client in joined), patience)
    await _until(lambda: len(_named(log[before:], events.CLOSED)) >= len(joined), patience)
    for name, client in clients.items():
        outcome.seen.append((name, f"sent {texts[name]!r}, answered with {answers[name]!r}"))
        outcome.seen.append(("", f"received {client.received!r}"))
        outcome.expect(f"what {name} received", [texts[name]], client.received)
    outcome.expect("answers", [{"delivered_to": "acme"}, {"delivered_to": "globex"}], list(answers.values()))
    lines = _named(log[before:], events.CLOSED)
    outcome.logged(lines)
    outcome.expect("who left", sorted(tokens), sorted(str(line.get("subject")) for line in lines))
    return outcome


def secrets_in(log: _Lines, hidden: list[str]) -> Outcome:
    """Whether any of these texts is in a line of the log."""
    outcome = Outcome("No token and no key in any line of the log")
    written = repr(log)
    found = sum(secret in written for secret in hidden)
    outcome.seen.append(("log", f"{len(log)} lines searched for the key and {len(hidden) - 1} tokens, {found} found"))
    outcome.expect("secrets in the log", 0, found)
    return outcome


def _named(log: _Lines, *names: str) -> _Lines:
    return [line for line in log if line["event"] in names]
