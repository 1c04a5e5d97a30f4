"""``python -m tests.benchmarks [--quick] [--output FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path

from .limits import measure_floods, measure_limits
from .measure import new_runner
from .memory import measure_memory
from .ratios import measure_connects, measure_events
from .scale import measure_broadcasts, measure_leaves, measure_served
from .soak import measure_soak
from .stalls import Cost, measure_stalls
from .storm import measure_storms
from .table import Row, page, text
from .turns import measure_turns

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def _measure(runner: asyncio.Runner, *, quick: bool) -> tuple[list[Row], list[Cost], int]:
    rounds = 2 if quick else 30
    count = 3 if quick else 60
    rows = measure_events(runner, rounds=rounds, count=count * 5)
    rows += measure_connects(runner, rounds=rounds, count=count)
    rows += measure_broadcasts(runner, rounds=2 if quick else 10, count=20 if quick else 1000)
    rows += measure_leaves(runner, few=20 if quick else 100, many=40 if quick else 10_000)
    rows += measure_storms(runner, rounds=1 if quick else 3, count=20 if quick else 2000)
    rows += measure_memory(runner, rounds=1, count=5 if quick else 2000)
    rows += measure_served(
        runner, rounds=1, count=40 if quick else 5000, interval=1 if quick else 5, seconds=0.5 if quick else 15
    )
    rows += measure_limits(runner, rounds=2 if quick else 45, count=count)
    rows += measure_floods(runner, rounds=2 if quick else 20, count=10 if quick else count)
    if quick:
        rows += measure_turns(runner, repeats=1, count=20, waiting=3, over=0.1, fetch=0.2, every=1)
        rows += measure_soak(clients=40, together=20, ping_interval=1)
    else:
        rows += measure_turns(runner, repeats=1, count=10_000, waiting=400, over=2.0, fetch=5.0, every=10)
        rows += measure_soak(clients=5000, together=250, ping_interval=5)
    stalls, cases = measure_stalls(runner, repeats=1 if quick else 15)
    return rows + stalls, cases, rounds


def main() -> None:
    """Measure, print the table, write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measures what the guard costs.")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs; the figures mean nothing")
    parser.add_argument("--output", type=Path, help="where the page goes (docs/performance.md; with --quick nowhere)")
    arguments = parser.parse_args()
    with open(os.devnull, "w") as nowhere, new_runner() as runner:
        # What python-engineio logs about a malformed body costs what it costs, but stays out of the table.
        log = logging.getLogger("engineio.server")
        log.addHandler(logging.StreamHandler(nowhere))
        log.setLevel(logging.ERROR)
        log.propagate = False
        rows, cases, rounds = _measure(runner, quick=arguments.quick)
    print(text(rows))
    output = arguments.output or (None if arguments.quick else PAGE)
    if output is not None:
        output.write_text(page(rows, cases, rounds=rounds), encoding="utf-8")


if __name__ == "__main__":
    main()
