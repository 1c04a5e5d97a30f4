from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketguard.connection import Session
from socketguard.diagnosis.traffic import (
    FIRST_PING_UNANSWERED,
    MASS_DISCONNECT,
    NEVER_UPGRADED,
    PATTERNS,
    RECONNECT_LOOP,
    SAME_IDLE_AGE,
    SAME_TOTAL_AGE,
    SESSIONS_ELSEWHERE,
    UPGRADES_FAIL,
    Patterns,
    Told,
)


class Watched:
    """Patterns that are asked as time goes on, and what they have told."""

    def __init__(self, **options: Any) -> None:
        self.patterns = Patterns(**{"interval": 25, "timeout": 20, **options})
        self.told: list[Told] = []
        self.upgraded = self.patterns.upgraded
        self.upgrade_failed = self.patterns.upgrade_failed
        self.unknown_session = self.patterns.unknown_session

    def tick(self, now: float) -> None:
        self.told += self.patterns.due(now)

    def opened(self, address: str | None) -> None:
        self.patterns.opened(ended(address=address))

    def closed(
        self,
        reason: str,
        transport: str,
        age: float,
        idle: float,
        upgraded: bool,
        *,
        pinged: bool = False,
        address: str | None = None,
    ) -> None:
        session = ended(reason, transport, upgraded, address)
        session.started, session.active = 1e6 - age, 1e6 - idle
        self.patterns.closed(session, pinged=pinged, now=1e6)


def ended(
    reason: str | None = None, transport: str = "websocket", upgraded: bool = True, address: str | None = None
) -> Session:
    session = Session(
        client_address=address, origin=None, user_agent=None, transport=transport, headers=[], query_string=b""
    )
    session.ending = reason
    session.carrier = object() if upgraded else None
    return session


def watch(**options: Any) -> tuple[Watched, list[Told]]:
    watched = Watched(**options)
    return watched, watched.told


def names(told: list[Told]) -> list[tuple[str, bool]]:
    return [(pattern, stands) for pattern, stands, _ in told]


class Traffic:
    """Random sessions of one server, in the order of time, with a tick for each second in which something happens."""

    def __init__(
        self,
        seed: int,
        *,
        sessions: int = 300,
        rate: float | None = None,
        mean_s: float | None = None,
        cut_s: float | None = None,
        life_s: float | None = None,
        **options: Any,
    ) -> None:
        self.random = random.Random(seed)
        options.setdefault("interval", self.random.choice([5, 25, 25, 75]))
        options.setdefault("timeout", self.random.choice([5, 20]))
        self.patterns, self.told = watch(**options)
        self.interval = options["interval"]
        self.mean_s = mean_s or self.random.choice([3, 8, 20, 60, 300, 3000])
        self.quiet_s = self.random.choice([2, 20, 200])
        self.shape = self.random.randrange(5)
        self.cut_s, self.life_s = cut_s, life_s
        self.cuts = 0
        self.cuts_when_told: int | None = None
        self.run(sessions, rate or self.random.choice([0.05, 0.5, 3, 30]))

    def lifetime(self) -> float:
        mean, one = self.mean_s, self.random
        shapes: list[Callable[[], float]] = [
            lambda: one.expovariate(1 / mean),
            lambda: one.uniform(0, 2 * mean),
            lambda: one.lognormvariate(math.log(mean), one.choice([0.5, 1])),
            lambda: mean * (one.paretovariate(1.5) - 1),
            lambda: one.gammavariate(2, mean / 2),
        ]
        return min(shapes[self.shape](), 90_000)

    def session(self) -> tuple[float, float, bool]:
        """Age and idle age at the end, and whether the path cut it."""
        age, last, cut = self.lifetime(), 0.0, False
        while True:
            gap = min(self.random.expovariate(1 / self.quiet_s), self.interval)
            if self.cut_s is not None and gap > self.cut_s and last + self.cut_s < age:
                age, cut = last + self.cut_s + self.random.uniform(0, 0.1), True
                break
            if last + gap > age:
                break
            last += gap
            if last > 5000:  # enough packets; only the rest of the last gap matters
                last = max(last, age - self.random.uniform(0, self.interval))
                break
        if self.life_s is not None and age > self.life_s:
            age, cut = self.life_s + self.random.uniform(0, 0.1), True
            last = max(0.0, age - self.random.uniform(0, self.interval))
        return age, age - last, cut

    def run(self, sessions: int, rate: float) -> None:
        events: list[tuple[Any, ...]] = []
        now = 0.0
        for number in range(sessions):
            now += self.random.expovariate(rate)
            address = f"192.0.2.{self.random.randrange(200)}"
            age, idle, cut = self.session()
            reason = "transport close" if cut or self.random.random() < 0.7 else "client disconnect"
            transport = "websocket" if cut or self.random.random() < 0.8 else "polling"
            events.append((now, number, address, None))
            events.append((now + age, number, address, (reason, transport, age, idle, cut)))
        events.sort(key=lambda event: event[:2])
        second = -200
        for when, _, address, end in events:
            for passing in range(max(second + 1, int(when) - 20), int(when) + 1):
                self.tick(passing)
                second = passing
            if end is None:
                self.patterns.opened(address)
                continue
            reason, transport, age, idle, cut = end
            self.cuts += cut
            upgraded = transport == "websocket"
            self.patterns.closed(reason, transport, age, idle, upgraded, pinged=False, address=address)
        self.tick(second + 1)

    def tick(self, second: int) -> None:
        self.patterns.tick(second)
        if self.told and self.cuts_when_told is None:
            self.cuts_when_told = self.cuts


# Ages


def test_no_warning_in_a_thousand_runs_of_random_lifetimes() -> None:
    told = {seed: names(run.told) for seed in range(1000) if (run := Traffic(seed, sessions=80)).told}
    assert told == {}


def test_no_warning_in_long_runs_of_random_lifetimes() -> None:
    told = {seed: names(run.told) for seed in range(25) if (run := Traffic(10_000 + seed, sessions=1500)).told}
    assert told == {}


@pytest.mark.parametrize("mean_s", [100, 300, 3000])
@pytest.mark.parametrize(
    ("interval", "limits", "pattern", "after"),
    [
        (75, {"cut_s": 60}, SAME_IDLE_AGE, 60),
        (300, {"cut_s": 100}, SAME_IDLE_AGE, 100),
        (25, {"life_s": 60}, SAME_TOTAL_AGE, 60),
        (25, {"life_s": 300}, SAME_TOTAL_AGE, 300),
        (25, {"life_s": 30}, SAME_TOTAL_AGE, 30),
    ],
)
def test_a_real_limit_is_found_within_20_cuts(
    interval: int, limits: dict[str, float], pattern: str, after: int, mean_s: float
) -> None:
    found: Counter[str] = Counter()
    late = 0
    for seed in range(20):
        run = Traffic(seed, sessions=200, rate=0.4, mean_s=mean_s, interval=interval, timeout=20, **limits)
        if run.cuts < 20:
            continue
        found.update(name for name, stands, _ in run.told if stands)
        late += run.cuts_when_told is None or run.cuts_when_told > 20
        for _, stands, fields in run.told:
            assert abs(fields["after_s"] - after) <= 2
            if stands:
                assert fields["cuts"] <= fields["connections"]
                assert (fields["interval_s"], fields["timeout_s"]) == (interval, 20)
    assert set(found) <= {pattern}
    assert late == 0


def cut(patterns: Watched, now: float, age: float, idle: float, reason: str = "transport close", **more: Any) -> None:
    """A WebSocket ends, and a second passes."""
    patterns.opened(None)
    patterns.closed(reason, "websocket", age, idle, True, **{"pinged": False, **more})
    patterns.tick(now)


def test_an_idle_limit_says_what_to_write() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for second in range(20):
        cut(patterns, 100 + second, 400 + 37 * second, 60.02)
    assert names(told) == [(SAME_IDLE_AGE, True)]
    fields = told[0][2]
    assert fields["text"] == (
        "13 of 13 connections that broke did so after 60 s without a packet: a proxy in front cuts idle connections "
        "after 60 s, and the interval of the heartbeat is 75 s"
    )
    assert fields["fix"].startswith(
        "write heartbeat=Heartbeat.for_idle_timeout(60), that is a ping every 25 s, or raise the limit of the proxy "
        "above 100 s. By default that is proxy_read_timeout of nginx (60 s), "
    )


def test_a_lifetime_says_that_no_heartbeat_helps() -> None:
    patterns, told = watch()
    patterns.tick(0)
    for second in range(20):
        cut(patterns, 400 + second, 300.1, second + 0.5)
    assert names(told) == [(SAME_TOTAL_AGE, True)]
    assert "at an age of 300 s, busy or not" in told[0][2]["text"]
    assert told[0][2]["fix"].endswith("By default that is request timeout of cloud-run (300 s)")


def test_a_limit_that_nobody_has_by_default_has_no_examples() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for second in range(20):
        cut(patterns, 100 + second, 400 + 37 * second, 43)
    assert told[0][2]["fix"].endswith("above 100 s")


def test_a_lifetime_is_no_idle_limit_although_pings_align_what_is_left() -> None:
    patterns, told = watch()
    patterns.tick(0)
    for second in range(40):  # of 60 s, with pings at 25 and 50
        cut(patterns, 100 + second, 60.1, 10.05)
    assert names(told) == [(SAME_TOTAL_AGE, True)]


def test_a_limit_that_is_gone_ends_the_pattern() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for second in range(20):
        cut(patterns, 100 + second, 400 + 37 * second, 60)
    chance = random.Random(1)
    second = 200
    while len(told) == 1 and second < 400:
        cut(patterns, second, chance.uniform(100, 4000), chance.uniform(0, 50))
        second += 1
    assert second < 250
    assert told[1] == (SAME_IDLE_AGE, False, {"after_s": 60, "cuts": 20})
    for second in range(400, 410):
        cut(patterns, second, 400 + 37 * second, 60)
    assert len(told) == 2
    for second in range(410, 420):
        cut(patterns, second, 400 + 37 * second, 60)
    assert names(told[2:]) == [(SAME_IDLE_AGE, True)]


def test_a_pattern_ends_when_nobody_is_cut_any_more() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for second in range(20):
        cut(patterns, 100 + second, 400 + 37 * second, 60)
    patterns.tick(1900)
    assert len(told) == 1
    patterns.tick(1920)
    assert names(told[1:]) == [(SAME_IDLE_AGE, False)]


def test_what_ends_together_has_one_cause_and_is_no_limit() -> None:
    patterns, told = watch()
    patterns.tick(0)
    for reload in range(3):  # of a proxy, with 300 clients that came and went together
        for _ in range(300):
            patterns.opened(None)
        patterns.tick(1000 * reload + 100)
        for number in range(300):
            patterns.closed("transport close", "websocket", 900 + number / 300, 12 + number / 300, True, pinged=False)
        patterns.tick(1000 * reload + 101)
        patterns.tick(1000 * reload + 106)
    assert {pattern for pattern, _ in names(told)} == {MASS_DISCONNECT}


def test_ends_in_the_first_minute_of_the_process_are_no_pattern_yet() -> None:
    patterns, told = watch(interval=75)
    for second in range(75):
        cut(patterns, second, 600 + 37 * second, 60)
    assert told == []
    cut(patterns, 75, 50, 60)
    assert names(told) == [(SAME_IDLE_AGE, True)]


@pytest.mark.parametrize(
    ("reason", "age", "idle", "more"),
    [
        ("client disconnect", 400, 60, {}),
        ("token_expired", 400, 60, {}),
        ("ping timeout", 400, 20, {"pinged": True}),
        ("transport close", 400, 60, {"pinged": True}),
        ("transport close", 60, 60, {"pinged": True}),
        ("transport close", 9, 9, {}),
    ],
)
def test_ends_that_the_path_is_not_to_blame_for(reason: str, age: float, idle: float, more: dict[str, Any]) -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for second in range(200):
        cut(patterns, 500 + second, age, idle, reason, **more)
    assert told == []


def test_polling_has_no_connection_that_could_be_cut() -> None:
    patterns, told = watch(transports=["polling"], interval=75)
    patterns.tick(0)
    for second in range(100):
        patterns.closed("transport close", "polling", 400.0, 60.0, False, pinged=False)
        patterns.tick(500 + second)
    assert told == []


def test_neighbours_can_hide_a_peak() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for _ in range(300):
        patterns.opened(None)
    for second in range(200):
        cut(patterns, 500 + second, 400 + 37 * second, 60 + second % 3)
        cut(patterns, 500 + second, 400 + 37 * second, 64.6 + second % 3)
    assert told == []


def test_a_heap_that_is_no_denser_than_what_lies_around_is_chance() -> None:
    patterns, told = watch(interval=200)
    patterns.tick(0)
    for _ in range(300):
        patterns.opened(None)
    others = [*range(5, 53), *range(68, 116)]
    for number in range(900):
        cut(patterns, 500 + number, 4000 + 37 * number, others[number * 7 % 96])
        if number % 37 == 0:
            cut(patterns, 500 + number, 4000 + 37 * number, 60)
    assert told == []


def test_old_values_are_forgotten() -> None:
    patterns, told = watch(interval=75)
    patterns.tick(0)
    for number in range(30):  # five in each six hours
        cut(patterns, 100 + 4400 * number, 400 + 37 * number, 60)
    assert told == []


# Pings and upgrades


def test_clients_that_are_gone_at_their_first_ping() -> None:
    patterns, told = watch()
    for second in range(19):
        cut(patterns, second, 45, 20, "ping timeout", pinged=True)
    assert told == []
    cut(patterns, 20, 46, 20.2, "transport close", pinged=True)
    assert names(told) == [(FIRST_PING_UNANSWERED, True)]
    assert told[0][2]["text"].startswith("20 of 20 WebSockets that broke were gone at the first ping")
    assert "Heartbeat.for_idle_timeout(25)" in told[0][2]["fix"]
    for second in range(100):
        cut(patterns, 30 + second, 100 + 40 * second, second % 13)
    assert names(told)[1:] == [(FIRST_PING_UNANSWERED, False)]
    assert set(told[1][2]) == {"count", "of"}


def test_sessions_that_never_leave_polling() -> None:
    patterns, told = watch()
    for second in range(20):
        patterns.closed("client disconnect", "polling", 30, 5, False)
        patterns.tick(second)
    assert names(told) == [(NEVER_UPGRADED, True)]
    assert told[0][2]["text"].startswith("20 of 20 sessions stayed on polling")
    for second in range(20):
        patterns.upgraded()
        patterns.tick(20 + second)
    assert names(told)[1:] == [(NEVER_UPGRADED, False)]


@pytest.mark.parametrize(("transports", "age"), [(["polling"], 30), (["websocket"], 30), (["polling", "websocket"], 9)])
def test_polling_that_is_meant_or_short_is_no_pattern(transports: list[str], age: float) -> None:
    patterns, told = watch(transports=transports)
    for second in range(60):
        patterns.closed("client disconnect", "polling", age, 5, False)
        patterns.upgrade_failed()
        patterns.tick(second)
    assert {pattern for pattern, _ in names(told)} <= ({UPGRADES_FAIL} if len(transports) == 2 else set())


def test_upgrades_that_fail() -> None:
    patterns, told = watch()
    for second in range(30):
        patterns.upgrade_failed()
        if second % 3 == 0:
            patterns.upgraded()
        patterns.tick(second)
    assert told == []
    for second in range(200):
        patterns.upgrade_failed()
        patterns.tick(30 + second)
    assert names(told) == [(UPGRADES_FAIL, True)]
    assert "upgrades to WebSocket were begun and not finished" in told[0][2]["text"]
    for second in range(200):
        patterns.upgraded()
        patterns.tick(230 + second)
    assert names(told) == [(UPGRADES_FAIL, True), (UPGRADES_FAIL, False)]


# Loops


def loop(patterns: Watched, sessions: int, *, start: int = 0, age: float = 1.0, address: str = "192.0.2.1") -> None:
    for second in range(start, start + sessions):
        patterns.tick(second)
        patterns.opened(address)
        patterns.closed("server disconnect", "websocket", age, 0.1, False, address=address)
    patterns.tick(start + sessions)


def test_a_client_in_a_reconnect_loop() -> None:
    patterns, told = watch()
    loop(patterns, 19)
    assert told == []
    loop(patterns, 10, start=20)
    assert names(told) == [(RECONNECT_LOOP, True)]
    assert told[0][2]["client_address"] == "192.0.2.1"
    assert told[0][2]["count"] == 20
    assert "20 sessions one after the other, each shorter than 20 s" in told[0][2]["text"]
    patterns.tick(60)
    assert len(told) == 1
    patterns.tick(100)
    assert told[1:] == [(RECONNECT_LOOP, False, {"client_address": "192.0.2.1"})]


def test_a_session_that_lasts_ends_the_loop() -> None:
    patterns, told = watch()
    loop(patterns, 25)
    loop(patterns, 1, start=30, age=25)
    assert names(told) == [(RECONNECT_LOOP, True), (RECONNECT_LOOP, False)]


def test_many_clients_behind_one_address_are_no_loop() -> None:
    patterns, told = watch()
    for second in range(100):
        patterns.opened("192.0.2.1")
        patterns.opened("192.0.2.1")
        patterns.closed("transport close", "websocket", 1, 0.1, False, pinged=False, address="192.0.2.1")
        patterns.closed("transport close", "websocket", 1, 0.1, False, pinged=False, address="192.0.2.1")
        patterns.tick(second)
    assert told == []


def test_a_client_that_takes_its_time_is_no_loop() -> None:
    patterns, told = watch()
    for number in range(60):
        loop(patterns, 1, start=number * 70)
    assert told == []


def test_a_loop_that_has_ended_before_the_tick_is_not_told() -> None:
    patterns, told = watch()
    patterns.tick(0)
    for _ in range(20):
        patterns.opened("192.0.2.1")
        patterns.closed("server disconnect", "websocket", 1, 0.1, False, address="192.0.2.1")
    patterns.tick(100)
    assert told == []


def test_the_table_of_addresses_and_the_loops_told_are_bounded() -> None:
    patterns, told = watch()
    for number in range(12):
        loop(patterns, 25, start=30 * number, address=f"192.0.2.{number}")
    assert sum(stands for _, stands, _ in told) == 12
    patterns, told = watch()
    for second in range(25):
        patterns.tick(second)
        for number in range(30):
            patterns.opened(f"192.0.2.{number}")
            patterns.closed("server disconnect", "websocket", 1, 0.1, False, address=f"192.0.2.{number}")
    patterns.tick(25)
    assert names(told) == [(RECONNECT_LOOP, True)] * 8
    for number in range(5000):
        patterns.opened(f"198.51.{number >> 8}.{number & 255}")
    patterns.closed("server disconnect", "websocket", 1, 0.1, False, address="192.0.2.1")
    patterns.tick(26)
    assert names(told)[8:] == [(RECONNECT_LOOP, False)] * 8


# Mass disconnects


def test_a_mass_disconnect_and_the_return() -> None:
    patterns, told = watch()
    patterns.closed("transport close", "websocket", 1, 1, True)  # of which the beginning wasn't told
    for _ in range(100):
        patterns.opened(None)
    for second in range(50):
        patterns.tick(second)
    for number in range(90):
        patterns.closed("transport close", "websocket", 40 + number / 10, number / 4, True, pinged=False)
    for second in range(50, 60):
        patterns.tick(second)
    assert names(told) == [(MASS_DISCONNECT, True)]
    assert told[0][2]["text"].startswith("90 of 100 connections broke within 10 s")
    for _ in range(80):
        patterns.opened(None)
    patterns.tick(61)
    assert told[1:] == [(MASS_DISCONNECT, False, {"count": 90, "of": 100, "living": 90})]
    patterns.tick(62)
    assert len(told) == 2


def test_a_mass_disconnect_from_which_nobody_comes_back() -> None:
    patterns, told = watch()
    for _ in range(30):
        patterns.opened(None)
    patterns.tick(0)
    for number in range(30):
        patterns.closed("transport close", "websocket", 40 + number, 1, True, pinged=False)
    for second in range(1, 200):
        patterns.tick(second)
    assert names(told) == [(MASS_DISCONNECT, True), (MASS_DISCONNECT, False)]
    assert told[1][2]["living"] == 0


@pytest.mark.parametrize(
    ("living", "ends", "reason", "age"),
    [
        (200, 90, "transport close", 40),
        (19, 19, "transport close", 40),
        (100, 100, "server disconnect", 40),
        (100, 100, "transport close", 2),
    ],
)
def test_what_is_no_mass_disconnect(living: int, ends: int, reason: str, age: float) -> None:
    patterns, told = watch()
    for _ in range(living):
        patterns.opened(None)
    patterns.tick(0)
    for number in range(ends):
        patterns.closed(reason, "websocket", age + number % 8, 1, True, pinged=False)
    for second in range(1, 30):
        patterns.tick(second)
    assert told == []


def test_an_end_of_what_had_no_beginning_is_borne() -> None:
    patterns, told = watch()
    patterns.closed("transport close", "websocket", 1, 1, True, address="192.0.2.1")
    patterns.tick(0)
    assert told == []


# Sessions of other processes


def spread(patterns: Watched, seconds: int, *, start: int, workers: int, seed: int = 1) -> None:
    """What one of so many workers sees when each request goes to any of them."""
    chance = random.Random(seed)
    for second in range(start, start + seconds):
        for _ in range(workers):  # handshakes of all of them
            here, posted_here = chance.randrange(workers) == 0, chance.randrange(workers) == 0
            if here:
                patterns.opened(None)
            if posted_here and not here:
                patterns.unknown_session(False)
            if here and not posted_here:
                patterns.closed("server disconnect", "polling", 1, 1, False)
        patterns.tick(second)


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_several_workers_without_stickiness(workers: int) -> None:
    for seed in range(10):
        patterns, told = watch()
        spread(patterns, 600, start=0, workers=workers, seed=seed)
        assert names(told) == [(SESSIONS_ELSEWHERE, True)]
        fields = told[0][2]
        assert fields["count"] / fields["of"] == pytest.approx((workers - 1) / workers, abs=0.35)
        assert fields.get("workers") is None or fields["workers"] >= 2
        assert "sticky sessions" in fields["fix"]


def test_the_number_of_workers_is_told_where_it_can_be() -> None:
    patterns, told = watch()
    for second in range(300):
        patterns.opened(None)
        patterns.opened(None)
        patterns.unknown_session(False)
        patterns.tick(second)
    assert told[0][2]["workers"] == 2
    assert "about 2 workers" in told[0][2]["text"]
    patterns, told = watch()
    for second in range(300):
        patterns.opened(None)
        patterns.unknown_session(False)
        patterns.tick(second)
    assert "workers" not in told[0][2]
    assert "several workers" in told[0][2]["text"]


def test_stickiness_that_is_switched_on_ends_the_pattern() -> None:
    patterns, told = watch()
    spread(patterns, 300, start=0, workers=3)
    spread(patterns, 300, start=300, workers=1)
    assert names(told) == [(SESSIONS_ELSEWHERE, True), (SESSIONS_ELSEWHERE, False)]


@pytest.mark.parametrize("restart", [0, 7, 50, 63, 200])
def test_a_restart_is_no_lost_stickiness(restart: int) -> None:
    patterns, told = watch()
    for second in range(600):
        if restart <= second < restart + 45:
            for _ in range(10):
                patterns.unknown_session(False)
                patterns.opened(None)
        if second % 5 == 0:
            patterns.opened(None)
        patterns.tick(second)
    assert told == []


@pytest.mark.parametrize(("unknown", "opened", "here"), [(1, 0, False), (1, 20, False), (1, 1, True), (9, 1, False)])
def test_other_unknown_sessions_are_no_pattern(unknown: int, opened: int, here: bool) -> None:
    patterns, told = watch()
    for second in range(600):
        for _ in range(unknown):
            patterns.unknown_session(here)
        for _ in range(opened):
            patterns.opened(None)
        patterns.tick(second)
    assert told == []


# All


calls = st.one_of(
    st.tuples(st.just("opened"), st.tuples(st.none() | st.sampled_from("abc"))),
    st.tuples(
        st.just("closed"),
        st.tuples(
            st.sampled_from(["transport close", "ping timeout", "client disconnect", "x"]),
            st.sampled_from(["polling", "websocket"]),
            st.floats(-1, 1e9),
            st.floats(-1, 1e9),
            st.booleans(),
        ),
    ),
    st.tuples(st.just("upgraded"), st.just(())),
    st.tuples(st.just("upgrade_failed"), st.just(())),
    st.tuples(st.just("unknown_session"), st.tuples(st.booleans())),
    st.tuples(st.just("tick"), st.tuples(st.floats(0, 1e9))),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(calls, st.integers(1, 30)), max_size=60))
def test_nothing_raises_and_each_pattern_begins_before_it_ends(sequence: list[Any]) -> None:
    patterns, told = watch()
    now = 0.0
    for (name, arguments), times in sequence:
        for _ in range(times):
            if name == "tick":
                now += arguments[0] / 30
                arguments = (now,)
            getattr(patterns, name)(*arguments)
    standing: set[Any] = set()
    for pattern, stands, fields in told:
        assert pattern in PATTERNS
        key = (pattern, fields.get("client_address"))
        assert (key in standing) is not stands
        (standing.add if stands else standing.discard)(key)
        assert ("text" in fields) is ("fix" in fields) is stands


def test_the_memory_is_bounded() -> None:
    patterns, _ = watch()
    chance = random.Random(2)
    number = itertools.count()

    def storm() -> None:
        for second in range(100):
            for _ in range(40):
                age = chance.uniform(0, 1e6)
                address = f"198.51.{next(number)}"
                patterns.opened(address)
                patterns.closed("transport close", "websocket", age, chance.uniform(0, age), True, address=address)
            if second % 20 < 10:
                patterns.tick(next(number))

    tracemalloc.start()
    storm()
    before = tracemalloc.get_traced_memory()[0]
    storm()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
