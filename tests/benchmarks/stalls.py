"""What one frame or body of a stranger costs: of a session that has joined no namespace."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import struct
from collections.abc import Iterator
from typing import Any

from . import apps
from .clients import Polling, Stall, address
from .measure import forget_tasks
from .table import Row

LIMIT_MS = 1.0
SIZE = 16_384
MEGABYTE = 1_000_000
PATIENCE = 30.0
CONNECT = f"40{apps.NAMESPACE},"
SEPARATOR = "\x1e"

Case = tuple[str, str | bytes]
Cost = tuple[str, float, float]
"""A case, its CPU seconds, and those of its longest turn of the loop."""


def _filled(head: str, unit: str, tail: str, size: int = SIZE) -> str:
    """``unit`` as often as it fits."""
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def _megabytes() -> Iterator[Case]:
    yield "1 MB token", f"{CONNECT}{json.dumps({'token': 'a' * MEGABYTE})}"
    yield "1 MB namespace name", f"40/{'a' * MEGABYTE},"
    yield "1 MB of JSON as 4[…", _filled("4[", "1,", "1]", MEGABYTE)


def _deep() -> Iterator[Case]:
    yield "deep nesting", CONNECT + "[" * (SIZE - len(CONNECT))
    yield "deep nesting that is valid", f"{CONNECT}{'[' * 900}{']' * 900}"
    yield "deep nesting in a heartbeat", "3" + "[" * (SIZE - 1)
    deep = base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=")
    yield "deep nesting in the header of a token", CONNECT + json.dumps({"token": f"{deep}.AAAA.AAAA"})


def _texts() -> Iterator[Case]:
    # python-engineio gives each integer of a JSON text to a Python function.
    for name, unit in (
        ("integers", "1,"),
        ("negative integers", "-1,"),
        ("floats", "1E9,"),
        ("hard floats", "2.2250738585072011e-308,"),
        ("NaN", "NaN,"),
        ("arrays", "[],"),
        ("arrays of one integer", "[1],"),
        ("objects", '{"":1},'),
        ("strings", '"",'),
        ("escapes", '"\\n",'),
    ):
        yield f"CONNECT, auth with {name}", _filled(f'{CONNECT}{{"x":[', unit, "0]}")
    # As many values as a stranger may send, each as dear as can be.
    yield "CONNECT, auth with 500 hard floats", f"{CONNECT}[{','.join(['2.2250738585072011360e-308'] * 500)}]"
    yield "CONNECT, auth with 22 floats of 700 digits", f"{CONNECT}[{','.join(['1.' + '7' * 700 + 'e-290'] * 22)}]"
    yield "CONNECT, auth with 500 integers of 25 digits", f"{CONNECT}[{','.join(['9' * 25] * 500)}]"
    yield "CONNECT, auth is an array of integers", _filled(f"{CONNECT}[", "1,", "0]")
    yield "CONNECT, auth with many keys", CONNECT + json.dumps({f"{n:x}": 1 for n in range(1500)})
    yield "CONNECT, auth with one key many times", _filled(f"{CONNECT}{{", '"a":1,', '"a":1}')
    yield "CONNECT, 16 KiB of escapes as token", _filled(f'{CONNECT}{{"token":"', "\\n", '"}')
    yield "CONNECT, 16 KiB of name", "40/" + "a" * (SIZE - 3)
    yield "CONNECT, name of invisible characters", "40/" + "\u202e" * (SIZE - 3)
    yield "CONNECT, unknown name of 256 characters", "40/" + "messages" * 31
    for name, member in (("integers", b"1,"), ("arrays", b"[],")):
        header = b'{"alg":"HS256","x":[' + member * (5700 // len(member)) + b"1]}"
        token = f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.AAAA.AAAA"
        yield f"CONNECT, header of the token with {name}", CONNECT + json.dumps({"token": token})
    yield "EVENT before CONNECT, integers", _filled(f'42{apps.NAMESPACE},["a",', "1,", "0]")
    yield "ACK before CONNECT, integers", _filled(f"43{apps.NAMESPACE},1[", "1,", "1]")
    yield "CONNECT_ERROR, integers", _filled("44[", "1,", "1]")
    yield "heartbeat with integers", _filled("3[", "1,", "0]")


def _packets() -> Iterator[Case]:
    """Bodies with as many packets as one may have."""
    bad = apps.HS256.connect(signature=False)
    integers = "1," * 480 + "1]"
    for name, unit in (
        ("unknown namespaces", "40/mesage{}"),
        ("unknown namespaces of 200 characters", "40/{}" + "mesages" * 28),
        ("unknown namespaces of 1,000 characters", "40/{}" + "me" * 500),
        ("unknown namespaces of invisible characters", "40/{}" + "\u202e" * 330),
        ("unknown namespaces with integers", '40/mesage{},{{"x":[' + integers + "}}"),
        ("bad signatures", bad.replace("{", "{{").replace("}", "}}")),
        ("CONNECT without a token", CONNECT),
        ("CONNECT with integers", CONNECT + '{{"x":[' + integers + "}}"),
        ("CONNECT with hard floats", CONNECT + "[" + "2.2250738585072011e-308," * 40 + "0]"),
        ("heartbeats with integers", "3[" + integers),
        ("upgrades", "5"),
    ):
        yield f"16 packets: {name}", SEPARATOR.join(unit.format(number) for number in range(16))


def _msgpack() -> Iterator[Case]:
    head = b"\x84\xa4type\x00\xa3nsp\xa9" + apps.NAMESPACE.encode() + b"\xa2id\xc0\xa4data"
    for name, unit in (
        ("integers", b"\x01"),
        ("arrays", b"\x90"),
        ("empty maps", b"\x80"),
        ("extension types", b"\xd4\x05a"),
        ("timestamps", b"\xd6\xff\0\0\0\1"),
    ):
        count = (SIZE - len(head) - 3) // len(unit)
        yield f"msgpack, {name}", head + b"\xdc" + struct.pack(">H", count) + unit * count
    some = head + b"\xdc" + struct.pack(">H", 490) + b"\xd4\x05a" * 490
    yield "msgpack, 490 extension types", some
    few = head + b"\xdc" + struct.pack(">H", 240) + b"\xd4\x05a" * 240
    packet = "b" + base64.b64encode(few).decode()
    yield "16 packets: msgpack, extension types", SEPARATOR.join([packet] * 16)
    yield "msgpack, deep nesting", head + b"\x91" * (SIZE - len(head))
    yield "msgpack, JSON as 4[…", _filled("4[", "1,", "0]")


class _Case:
    """One frame or body with an application of its own, whose counts of refusals begin anew: every line is written."""

    def __init__(self, name: str, frame: str | bytes, *, polling: bool, lines: apps.Lines, options: dict[str, Any]):
        self.name = f"{name}, {'polling' if polling else 'WebSocket'}"
        self.seconds = self.longest = float("inf")
        self._frame = frame
        self._polling = polling
        self._clients = 0
        self._app = apps.guarded(apps.HS256, lines, **options)

    async def warm_up(self) -> None:
        for _ in range(2):
            await asyncio.wait_for(self._client("40/x").run(self._app), PATIENCE)

    async def run(self) -> None:
        """Once more, from another address; the least counts."""
        client = self._client(self._frame)
        gc.collect()
        await asyncio.wait_for(client.run(self._app), PATIENCE)
        self.seconds = min(self.seconds, client.seconds)
        self.longest = min(self.longest, client.longest)

    def _client(self, frame: str | bytes) -> Stall | Polling:
        self._clients += 1
        if not self._polling:
            return Stall(frame, address(self._clients))
        body = frame.encode() if isinstance(frame, str) else b"b" + base64.b64encode(frame)
        return Polling(body, address(self._clients))


def _cases(lines: apps.Lines) -> Iterator[tuple[str, _Case]]:
    groups = {
        "1 MB": list(_megabytes()),
        "deep": list(_deep()),
        "16 KiB": [*_texts(), *_packets()],
        "msgpack": list(_msgpack()),
    }
    for group, cases in groups.items():
        options = {"serializer": "msgpack"} if group == "msgpack" else {}
        for name, frame in cases:
            size = len(frame.encode()) if isinstance(frame, str) else len(frame) * 4 // 3 + 5
            for polling in (False, True):
                if not polling and isinstance(frame, str) and SEPARATOR in frame:
                    continue  # only a body has several packets
                if polling and group != "1 MB" and size > SIZE:
                    continue  # refused unread
                yield group, _Case(name, frame, polling=polling, lines=lines, options=options)


async def _costs(repeats: int) -> dict[str, list[Cost]]:
    lines = apps.Lines()
    cases = list(_cases(lines))
    for _, case in cases:
        await case.warm_up()
    await forget_tasks()
    gc.collect()
    gc.freeze()  # the collector is on, as in a server, but has only what a frame makes to look at
    try:
        # All cases in turn: a busy moment of the machine spoils one repetition of some, not all of one.
        for _ in range(repeats):
            for _, case in cases:
                await case.run()
            await forget_tasks()
    finally:
        gc.unfreeze()
    costs: dict[str, list[Cost]] = {}
    for group, case in cases:
        costs.setdefault(group, []).append((case.name, case.seconds, case.longest))
    return costs


def measure_stalls(runner: asyncio.Runner, *, repeats: int) -> tuple[list[Row], list[Cost]]:
    """Rows for what one frame costs at most, and every case, the dearest first."""
    costs = runner.run(_costs(repeats))
    rows = []

    def row(what: str, cases: list[Cost]) -> None:
        name, seconds, _ = max(cases, key=lambda case: case[1])
        stalled, _, longest = max(cases, key=lambda case: case[2])
        note = f"{stalled}; the most CPU time in all turns together {seconds * 1e3:.2f} ms ({name}); least of {repeats}"
        rows.append(Row(what, "nothing", longest * 1e3, LIMIT_MS, "ms", note))

    for name, _ in _megabytes():
        row(f"longest stall by a stranger: {name}", [case for case in costs["1 MB"] if case[0].startswith(name)])
    row("longest stall by a stranger: deep nesting", costs["deep"])
    for what, group, transport in (
        ("16 KiB over WebSocket", "16 KiB", "WebSocket"),
        ("16 KiB over polling", "16 KiB", "polling"),
        ("16 KiB over WebSocket, msgpack", "msgpack", "WebSocket"),
        ("16 KiB over polling, msgpack", "msgpack", "polling"),
    ):
        row(f"longest stall by a stranger: {what}", [case for case in costs[group] if case[0].endswith(transport)])
    cases = sorted((case for group in costs.values() for case in group), key=lambda case: -case[1])
    return rows, cases
