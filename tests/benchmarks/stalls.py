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

__all__ = ["measure_stalls"]

LIMIT_MS = 1.0
SIZE = 16_384
MEGABYTE = 1_000_000
PATIENCE = 30.0
CONNECT = f"40{apps.NAMESPACE},"
SEPARATOR = "\x1e"

Case = tuple[str, str | bytes]


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
    yield "CONNECT, auth is an array of integers", _filled(f"{CONNECT}[", "1,", "0]")
    yield "CONNECT, auth with many keys", CONNECT + json.dumps({f"{n:x}": 1 for n in range(1500)})
    yield "CONNECT, auth with one key many times", _filled(f"{CONNECT}{{", '"a":1,', '"a":1}')
    yield "CONNECT, 16 KiB of escapes as token", _filled(f'{CONNECT}{{"token":"', "\\n", '"}')
    yield "CONNECT, 16 KiB of name", "40/" + "a" * (SIZE - 3)
    yield "CONNECT, name of invisible characters", "40/" + "\u202e" * (SIZE - 3)
    yield "CONNECT, unknown name of 256 characters", "40/" + "messages" * 31
    for name, unit in (("integers", b"1,"), ("arrays", b"[],")):
        header = b'{"alg":"HS256","x":[' + unit * (5700 // len(unit)) + b"1]}"
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
    yield "msgpack, deep nesting", head + b"\x91" * (SIZE - len(head))
    yield "msgpack, JSON as 4[…", _filled("4[", "1,", "0]")


async def _cost(app: Any, case: str | bytes, *, polling: bool, start: int, repeats: int) -> float:
    """CPU seconds: the least of several sessions, each from an address of its own."""
    best = float("inf")
    for number in range(start, start + repeats):
        client: Stall | Polling
        if polling:
            data = case.encode() if isinstance(case, str) else b"b" + base64.b64encode(case)
            client = Polling(data, address(number))
        else:
            client = Stall(case, address(number))
        gc.collect()
        await asyncio.wait_for(client.run(app), PATIENCE)
        best = min(best, client.seconds)
    return best


async def _costs(repeats: int) -> dict[str, list[tuple[str, float]]]:
    groups = {
        "1 MB": list(_megabytes()),
        "deep": list(_deep()),
        "16 KiB": [*_texts(), *_packets()],
        "msgpack": list(_msgpack()),
    }
    costs: dict[str, list[tuple[str, float]]] = {}
    for group, cases in groups.items():
        lines = apps.Lines()
        options = {"serializer": "msgpack"} if group == "msgpack" else {}
        app = apps.guarded(apps.HS256, lines, **options)
        for warm_up in range(5):
            for polling in (False, True):
                await _cost(app, "40/x", polling=polling, start=warm_up, repeats=1)
        costs[group] = []
        for name, case in cases:
            for polling in (False, True):
                if polling is False and isinstance(case, str) and SEPARATOR in case:
                    continue  # bodies only
                if polling and group in ("16 KiB", "msgpack"):
                    size = len(case.encode()) if isinstance(case, str) else len(case) * 4 // 3 + 5
                    if size > SIZE:
                        continue  # refused unread
                # A new guard for each: its counts of refusals begin anew, so that lines are written.
                app = apps.guarded(apps.HS256, lines, **options)
                await _cost(app, "40/x", polling=polling, start=0, repeats=2)
                seconds = await _cost(app, case, polling=polling, start=100, repeats=repeats)
                costs[group].append((f"{name}, {'polling' if polling else 'WebSocket'}", seconds))
                await asyncio.wait_for(forget_tasks(), PATIENCE)
        lines.take()
    return costs


def measure_stalls(runner: asyncio.Runner, *, repeats: int) -> tuple[list[Row], list[tuple[str, float]]]:
    """Rows for what one frame costs at most, and every case with its CPU seconds, the longest first.

    Args:
        runner: where the application runs.
        repeats: sessions per case.
    """
    costs = runner.run(_costs(repeats))
    rows = []

    def row(what: str, cases: list[tuple[str, float]]) -> None:
        name, seconds = max(cases, key=lambda case: case[1])
        rows.append(Row(what, "nothing", seconds * 1e3, LIMIT_MS, "ms", f"{name}; least of {repeats}"))

    for name, _ in _megabytes():
        row(f"one frame of a stranger: {name}", [case for case in costs["1 MB"] if case[0].startswith(name)])
    row("one frame of a stranger: deep nesting", costs["deep"])
    for what, group, transport in (
        ("16 KiB over WebSocket", "16 KiB", "WebSocket"),
        ("16 KiB over polling", "16 KiB", "polling"),
        ("16 KiB over WebSocket, msgpack", "msgpack", "WebSocket"),
        ("16 KiB over polling, msgpack", "msgpack", "polling"),
    ):
        row(f"one frame of a stranger: {what}", [case for case in costs[group] if case[0].endswith(transport)])
    cases = sorted((case for group in costs.values() for case in group), key=lambda case: -case[1])
    return rows, cases
