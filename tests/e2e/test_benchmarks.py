"""The benchmarks run and produce every row. What they measure is never a matter of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROWS = (
    "event with ack, 20 bytes",
    "the same, with a log line of the handler",
    "event with ack, over polling",
    "CONNECT accepted, HS256",
    "CONNECT accepted, RS256",
    "CONNECT accepted, APIKeyAuth",
    "CONNECT accepted, SessionAuth",
    "CONNECT refused, unknown namespace",
    "CONNECT refused, bad signature",
    "broadcast to 20 connections, for each recipient",
    "one leave with 40 connected",
    "40 that leave at once",
    "longest turn of the loop: 40 that leave at once",
    "reconnect storm, in process",
    "reconnect storm, over uvicorn",
    "memory of an idle connection",
    "memory for its timers and limits",
    "memory of an idle connection, over uvicorn",
    "heartbeats of idle connections",
    "CONNECT accepted, with default limits and revocations",
    "bad tokens in a flood, over WebSocket",
    "bad tokens in a flood, over polling",
    "longest turn of the loop: 20 timers fire at once",
    "longest turn of the loop: 20 tokens refreshed at once",
    "longest turn of the loop: drain of 20 sessions",
    "longest turn of the loop: 20 users asked for again",
    "longest turn of the loop: keys fetched slowly",
    "left after a soak",
    "longest stall by a stranger: 1 MB token",
    "longest stall by a stranger: 1 MB namespace name",
    "longest stall by a stranger: 1 MB of JSON as 4[…",
    "longest stall by a stranger: deep nesting",
    "longest stall by a stranger: 16 KiB over WebSocket",
    "longest stall by a stranger: 16 KiB over polling",
    "longest stall by a stranger: 16 KiB over WebSocket, msgpack",
    "longest stall by a stranger: 16 KiB over polling, msgpack",
)


def test_a_quick_run_prints_every_row_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--output", str(page)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split("\n\n")[0].splitlines()[1:]
    assert [next((row for row in reversed(ROWS) if line.startswith(row + "  ")), line) for line in printed] == list(
        ROWS
    )
    assert all(line.endswith(("pass", "over")) for line in printed)
    written = page.read_text(encoding="utf-8")
    assert [row for row in ROWS if f"| {row} |" not in written] == []
