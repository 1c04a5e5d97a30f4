"""Sends all clients away, so that they come back to whoever takes over, before the process ends."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from typing import Any

from starlette.types import Receive, Scope, Send

from socketguard.findings import Finding, finding
from socketguard.logs.report import Report

from .endings import Endings
from .sessions import Sessions

__all__ = ["LONGEST", "Drain", "Ready", "findings"]

LONGEST = 8.0
"""Seconds. Docker kills a container 10 s after its SIGTERM (docker stop), Kubernetes 30 s."""

_BATCH = 25
_LAST_WORDS = 0.2
"""Seconds that the last sessions have to end, and again after their connections were cut."""

_PATIENCE = 0.2
"""Seconds after the drain for which the ASGI server may wait for connections."""


class Drain:
    """Empties a server.

    Attributes:
        begun: whether nobody is let in any more.
    """

    def __init__(self, sessions: Sessions, endings: Endings, report: Report) -> None:
        self.begun = False
        self._sessions = sessions
        self._endings = endings
        self._report = report
        self._running: asyncio.Task[int] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._over: float | None = None
        self._installed = False

    async def run(self, over: float, server: Any = None) -> int:
        """End all sessions in random order over so many seconds, and count them; a second call waits for the first.

        With the ASGI server that is about to end, its listeners are closed before: balancers and sockets that several
        workers share would else send clients here again and again.
        """
        if self._running is None:
            self.begun = True
            _stop_listening(server)
            self._running = asyncio.get_running_loop().create_task(self._run(over))
        return await asyncio.shield(self._running)

    async def _run(self, over: float) -> int:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        sessions = list(self._sessions.open)
        sockets = list(self._sessions.open.values())
        random.shuffle(sessions)
        self._report.drain_started(len(sessions), over)
        ended, number = 0, len(sessions)
        while sessions:
            wait = begun + over * (1 - (len(sessions) - 1) / number) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif len(sessions) % _BATCH == 0:
                await asyncio.sleep(0)
            ended += self._endings.session(sessions.pop(), "draining")
        # Those that were being made when it began.
        ended += sum([self._endings.session(session, "draining") for session in list(self._sessions.open)])
        await self._endings.settled(_LAST_WORDS)
        # What ends here is freed here: very many at once would take a turn of their own.
        while sockets:
            socket = sockets.pop()
            if len(sockets) % _BATCH == 0:
                await asyncio.sleep(0)
            if socket.stuck:
                socket.cut()  # It was told, and does not even read that.
        await self._endings.settled(_LAST_WORDS)
        self._report.drain_finished(ended, loop.time() - begun)
        return ended

    # SIGTERM

    def on_sigterm(self, over: float) -> None:
        """Drain at SIGTERM, before the ASGI server's own handler of it; see `SocketGuard.drain_on_sigterm`."""
        self._over = over
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # When the application starts.
        self.install()

    def install(self) -> None:
        """Chain the handler of SIGTERM, where one was asked for and can be."""
        if self._over is None or self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._installed = True
        loop, over = asyncio.get_running_loop(), self._over
        previous = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            _hurry(previous)
            if self._running is not None or loop.is_closed():
                _call(previous, number, frame)  # Whoever asks twice doesn't want to wait.
                return
            loop.call_soon_threadsafe(begin)

        def begin() -> None:
            self._leaving = loop.create_task(self._leave(over, previous))

        signal.signal(signal.SIGTERM, handle)

    async def _leave(self, over: float, previous: Any) -> None:
        try:
            await self.run(over, getattr(previous, "__self__", None))
        finally:
            _call(previous, signal.SIGTERM, None)


class Ready:
    """Whether this worker takes clients, for the health check of a balancer: not while it drains, and only then.

    Called without arguments it is True or False; as an ASGI application it answers 200 or 503. What others need too (a
    key server, a store) plays no part: their outage must not take every worker out of the balancer at once.
    """

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def __call__(self, *asgi: Any) -> Any:
        return self._answer(*asgi) if asgi else not self._drain.begun

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        draining = self._drain.begun
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 503 if draining else 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"draining\n" if draining else b"ready\n"})


def _stop_listening(server: Any) -> None:
    """Close the listeners of uvicorn (also under gunicorn); no others can be reached."""
    for listener in getattr(server, "servers", None) or ():
        listener.close()


def _hurry(handler: Any) -> None:
    """Keep uvicorn from waiting for ever for a connection whose client reads nothing or has sent half of a request.

    It looks at this when it shuts down, cancels what is left, and then still ends the lifespan of the application.
    """
    config: Any = getattr(getattr(handler, "__self__", None), "config", None)
    if hasattr(config, "timeout_graceful_shutdown"):
        own = config.timeout_graceful_shutdown
        config.timeout_graceful_shutdown = _PATIENCE if own is None else min(own, _PATIENCE)


def _call(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def findings(over: float) -> list[Finding]:
    """What a person should know about the length of a drain."""
    if over <= LONGEST:
        return []
    return [finding("SG052", over=over, longest=LONGEST)]
