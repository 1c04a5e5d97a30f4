"""Everybody comes back at the same moment, as after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import apps
from .crowd import PATIENCE, Crowd
from .measure import Batch, Comparison, compare, no_collector
from .ratios import WARM_UP
from .table import Row

LIMIT_IN_PROCESS, LIMIT_SERVED = 1.10, 1.00
ADDRESS = "10.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
MASK = b"\x37\xfa\x21\x3d"


def _in_process(build: Callable[[], Any], frames: list[str]) -> Batch:
    async def batch() -> float:
        app = build()
        crowd = Crowd(app)
        await crowd.open(frames[:WARM_UP])
        with no_collector():
            began = time.process_time()
            crowd.arrive(frames, ADDRESS)
            await crowd.until("joined", WARM_UP + len(frames))
            seconds = time.process_time() - began
        assert crowd.seen == {"joined": WARM_UP + len(frames)}, crowd.seen
        await crowd.leave()
        await crowd.gone()
        return seconds / len(frames)

    return batch


# Over sockets


class _Client(asyncio.Protocol):
    """A WebSocket client that does no more than it must, so that the server is what takes the time."""

    def __init__(self, frame: str, joined: Callable[[bool], None]) -> None:
        self._frame = frame
        self._joined = joined
        self._read = bytearray()
        self._upgraded = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._read += data
        if not self._upgraded:
            head, found, rest = self._read.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._joined(False)
                return
            self._upgraded = True
            self._read = rest
        # RFC 6455, section 5.2: frames of a server are not masked, and those that are read here are short.
        while len(self._read) > 1:
            start, size = 2, self._read[1]
            if size == 126:
                start, size = 4, int.from_bytes(self._read[2:4], "big")
            if len(self._read) < start + size:
                return
            payload = bytes(self._read[start : start + size])
            del self._read[: start + size]
            self._take(payload)

    def _take(self, payload: bytes) -> None:
        if payload.startswith(b"0{"):
            frame = self._frame.encode()
            masked = bytes(byte ^ MASK[place % 4] for place, byte in enumerate(frame))
            self._transport.write(struct.pack(">BBH", 0x81, 0x80 | 126, len(frame)) + MASK + masked)
        elif payload == b"2":
            self._transport.write(b"\x81\x81" + MASK + bytes([b"3"[0] ^ MASK[0]]))
        elif payload[:2] in (b"40", b"44"):
            self._joined(payload[:2] == b"40")

    def close(self) -> None:
        self._transport.abort()


async def arrive(port: int, frames: list[str]) -> list[_Client]:
    """Let clients come, and wait until all have joined; they stay."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    answers: list[bool] = []

    def joined(well: bool) -> None:
        answers.append(well)
        if len(answers) == len(frames):
            done.set_result(None)

    clients = [_Client(frame, joined) for frame in frames]
    await asyncio.gather(*(loop.create_connection(lambda c=client: c, "127.0.0.1", port) for client in clients))
    await asyncio.wait_for(done, PATIENCE)
    assert all(answers), f"{answers.count(False)} of {len(answers)} were refused"
    return clients


async def _come(port: int, frames: list[str]) -> float:
    """Seconds until all have joined."""
    began = time.perf_counter()
    clients = await arrive(port, frames)
    seconds = time.perf_counter() - began
    for client in clients:
        client.close()
    return seconds


@contextlib.contextmanager
def _pinned() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Client and server on a core each, where there are two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield lambda process: None
        return
    os.sched_setaffinity(0, cores[1:2])
    try:
        yield lambda process: os.sched_setaffinity(process.pid, cores[:1])
    finally:
        os.sched_setaffinity(0, cores)


class Served:
    """An application under uvicorn in a process of its own."""

    def __init__(self, name: str, *, ping_interval: float = 25) -> None:
        self._name = name
        self._ping_interval = ping_interval
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Served:
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        pin = self._stack.enter_context(_pinned())
        command = [sys.executable, "-m", "tests.benchmarks.served", self._name, str(listener.fileno())]
        environment = {
            **os.environ,
            "BENCHMARK_SECRET": apps.HS256.key,
            "BENCHMARK_PING_INTERVAL": str(self._ping_interval),
        }
        self._process = self._stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdin=subprocess.PIPE)
        )
        pin(self._process)
        self.port = listener.getsockname()[1]
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._stack.close()

    def memory(self) -> float:
        """Resident bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _served(name: str, frames: list[str]) -> Callable[[asyncio.Runner], float]:
    """One storm on a new process with uvicorn; returns the seconds until all have joined."""

    def run(runner: asyncio.Runner) -> float:
        with Served(name) as server:
            runner.run(_come(server.port, frames[:WARM_UP]))
            return runner.run(_come(server.port, frames)) / len(frames)

    return run


def _row(what: str, found: Comparison, limit: float, note: str) -> Row:
    # Pairs: one storm takes seconds, in which the machine may be busy with something else.
    figure, method = found.ratio("guarded", "bare", limit)
    pairs = found.of_pairs("guarded", "bare")
    micro = f"{found.best('guarded') * 1e6:.0f} against {found.best('bare') * 1e6:.0f} µs for each"
    note = f"{micro}; {method}; paired medians {pairs:.3f}; {note}"
    return Row(what, "unguarded", figure, limit, "", note, (found.best("guarded"), found.best("bare")))


def measure_storms(runner: asyncio.Runner, *, rounds: int, count: int) -> list[Row]:
    """Rows for clients that come at once, all with valid tokens: all are accepted, with default limits."""
    lines = apps.Lines()
    frames = [apps.HS256.connect(f"user-{number}") for number in range(count)]
    variants = {
        "bare": _in_process(apps.bare, frames),
        "hand-written": _in_process(lambda: apps.hand_written(apps.HS256, lines), frames),
        "guarded": _in_process(lambda: apps.guarded(apps.HS256, lines), frames),
    }
    inside = compare(runner, variants, rounds)
    served = {name: _served(name, frames) for name in ("bare", "guarded")}
    samples: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(rounds):
        for name, run in served.items():
            samples[name].append(run(runner))
    by_hand = f"a hand-written connect handler {inside.of_minima('hand-written', 'bare'):.2f}"
    who = f"{count:,} clients of one address; each of them joined"
    return [
        _row("reconnect storm, in process", inside, LIMIT_IN_PROCESS, f"CPU time; {who}; {by_hand}"),
        _row(
            "reconnect storm, over uvicorn", Comparison(samples), LIMIT_SERVED, f"time until the last has joined; {who}"
        ),
    ]
