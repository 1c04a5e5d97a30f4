"""CONNECT and events: what the guard adds to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import apps
from .clients import Polled, WebSocket, address
from .measure import Batch, Comparison, compare, no_collector
from .table import Row

WARM_UP = 3
EVENT = f'42{apps.NAMESPACE},7["message:new","twenty bytes of text"]'
LOGGED_EVENT = EVENT.replace("message:new", "message:logged")


def connects(
    build: Callable[[], Any],
    frame: str,
    answer: str,
    count: int,
    lines: apps.Lines,
    expected: int,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Batch:
    """A batch of whole connections: handshake, CONNECT, answer, disconnect, each from another address."""

    async def batch() -> float:
        app = build()
        for number in range(WARM_UP):
            await WebSocket([frame], client=address(number), headers=headers).run(app)
        lines.take()
        clients = [WebSocket([frame], client=address(WARM_UP + number), headers=headers) for number in range(count)]
        with no_collector():
            began = time.process_time()
            for client in clients:
                await client.run(app)
            seconds = time.process_time() - began
        for client in clients:
            assert client.answer.startswith(answer), client.answer[:100]
        assert lines.take() == expected * count
        return seconds / count

    return batch


def _events(build: Callable[[], Any], frame: str, count: int) -> Batch:
    """A batch of events with acknowledgement on one connection."""
    connect = apps.HS256.connect()

    async def batch() -> float:
        # What is not timed: the connection itself, and the first events.
        client = WebSocket([connect, *[frame] * (WARM_UP + count)], timed_from=1 + WARM_UP)
        app = build()
        with no_collector():
            await client.run(app)
        assert client.answer == f'43{apps.NAMESPACE},7["ok"]', client.answer[:100]
        return client.seconds / count

    return batch


def _polled(build: Callable[[], Any], count: int) -> Batch:
    """A batch of events over polling: a POST, and the GET that brings the acknowledgement."""
    connect = apps.HS256.connect().encode()

    async def batch() -> float:
        client = Polled(build())
        await client.open(connect)
        with no_collector():
            began = time.process_time()
            for _ in range(count):
                await client.request("POST", EVENT.encode())
                answer = await client.request("GET")
            seconds = time.process_time() - began
        assert answer == f'43{apps.NAMESPACE},7["ok"]'.encode(), answer[:100]
        await client.request("POST", b"1")
        return seconds / count

    return batch


def ratio_row(what: str, against: str, limit: float, found: Comparison, name: str, reference: str) -> Row:
    figure, method = found.ratio(name, reference, limit)
    note = (
        f"{found.best(name) * 1e6:.0f} against {found.best(reference) * 1e6:.0f} µs; {method}; "
        f"minima {found.of_minima(name, reference):.3f}, paired medians {found.of_pairs(name, reference):.3f}, "
        f"halves differ by {found.spread(name, reference):.1%}"
    )
    return Row(what, against, figure, limit, "", note, (found.best(name), found.best(reference)))


def measure_connects(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """Rows for CONNECT, accepted and refused."""
    lines = apps.Lines()
    hs256, rs256 = apps.HS256, apps.RS256
    joined, refused = f'40{apps.NAMESPACE},{{"sid"', f'44{apps.NAMESPACE},{{"message":"Invalid token"'
    unknown = hs256.connect().replace(apps.NAMESPACE, "/mesages")

    def batch(build: Callable[[], Any], frame: str, answer: str, expected: int) -> Batch:
        return connects(build, frame, answer, count, lines, expected)

    def guarded() -> Any:
        return apps.guarded(hs256, lines)

    variants = {
        "bare": batch(apps.bare, hs256.connect(), joined, 0),
        "hand-written": batch(lambda: apps.hand_written(hs256, lines), hs256.connect(), joined, 1),
        "guarded": batch(guarded, hs256.connect(), joined, 2),
        "unknown namespace": batch(guarded, unknown, '44/mesages,{"message":"Invalid namespace"}', 1),
        "bad signature": batch(guarded, hs256.connect(signature=False), refused, 1),
    }
    found = compare(runner, variants, rounds)
    variants = {
        "hand-written": batch(lambda: apps.hand_written(rs256, lines), rs256.connect(), joined, 1),
        "guarded": batch(lambda: apps.guarded(rs256, lines), rs256.connect(), joined, 2),
    }
    found_rs256 = compare(runner, variants, rounds)
    origin = [(b"origin", apps.ORIGIN.encode())]
    variants = {
        "a token": batch(guarded, hs256.connect(), joined, 2),
        "an API key": batch(lambda: apps.guarded(hs256, lines, auth=apps.api_keys()), apps.KEY_FRAME, joined, 2),
        "a session": connects(
            lambda: apps.guarded(hs256, lines, auth=apps.sessions(), options={"allowed_origins": [apps.ORIGIN]}),
            f"40{apps.NAMESPACE},",
            joined,
            count,
            lines,
            2,
            [*origin, (b"cookie", apps.session_cookie())],
        ),
    }
    found_others = compare(runner, variants, rounds)
    token = "guarded CONNECT with an HS256 token"
    accepted = "unguarded CONNECT, accepted"
    return [
        ratio_row("CONNECT accepted, HS256", "hand-written connect handler", 0.85, found, "guarded", "hand-written"),
        ratio_row("CONNECT accepted, RS256", "hand-written, from a PEM", 0.85, found_rs256, "guarded", "hand-written"),
        ratio_row("CONNECT accepted, APIKeyAuth", token, 1.0, found_others, "an API key", "a token"),
        ratio_row("CONNECT accepted, SessionAuth", token, 1.0, found_others, "a session", "a token"),
        ratio_row("CONNECT refused, unknown namespace", accepted, 0.85, found, "unknown namespace", "bare"),
        ratio_row("CONNECT refused, bad signature", accepted, 0.95, found, "bad signature", "bare"),
    ]


def measure_events(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """Rows for an event with acknowledgement."""
    lines = apps.Lines()

    def bare() -> Any:
        apps.configure_structlog(lines)
        return apps.bare()

    def guarded() -> Any:
        return apps.guarded(apps.HS256, lines)

    rows = []
    for what, frame, limit in (
        ("event with ack, 20 bytes", EVENT, 0.65),
        ("the same, with a log line of the handler", LOGGED_EVENT, 0.75),
    ):
        variants = {"bare": _events(bare, frame, count), "guarded": _events(guarded, frame, count)}
        rows.append(ratio_row(what, "unguarded", limit, compare(runner, variants, rounds), "guarded", "bare"))
    variants = {"bare": _polled(bare, count), "guarded": _polled(guarded, count)}
    found = compare(runner, variants, rounds)
    rows.append(ratio_row("event with ack, over polling", "unguarded", 1.20, found, "guarded", "bare"))
    return rows
