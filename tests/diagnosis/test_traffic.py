"""Patterns over time: which are told, with what advice, and what is none."""

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
from socketguard.diagnosis.traffic import Patterns, Told

PATTERNS = {
    *("same_idle_age", "same_total_age", "first_ping_unanswered", "never_upgraded", "upgrades_fail"),
    *("reconnect_loop", "mass_disconnect", "sessions_elsewhere"),
}


class Watched:
    """Patterns that are asked as time goes on, and what they have told."""

    def __init__(self, **options: Any) -> None:
        self.patterns = Patterns(**{"interval": 25, "timeout": 20, **options})
        self.told: list[Told] = []
        self.upgraded = self.patterns.upgraded
        self.upgrade_failed = self.patterns.upgrade_failed
        self.unknown_session = self.patterns.unknown_session

    @property
    def names(self) -> list[tuple[str, bool]]:
        return [(pattern, stands) for pattern, stands, _ in self.told]

    def tick(self, *seconds: float) -> None:
        for now in seconds:
            self.told += self.patterns.due(now)

    def opened(self, address: str | None = None, times: int = 1) -> None:
        for _ in range(times):
            self.patterns.opened(session(address=address))

    def closed(
        self,
        reason: str = "transport close",
        age: float = 1,
        idle: float = 0.1,
        transport: str = "websocket",
        *,
        pinged: bool = False,
        address: str | None = None,
        who: int | None = None,
        user_agent: str | None = None,
    ) -> None:
        ended = session(transport, address)
        ended.who, ended.user_agent = who, user_agent
        ended.ending = reason
        ended.started, ended.active = 1e6 - age, 1e6 - idle
        self.patterns.closed(ended, pinged=pinged, now=1e6)

    def cut(
        self, now: float, age: float, idle: float, reason: str = "transport close", *, pinged: bool = False
    ) -> None:
        """A WebSocket ends, and a second passes."""
        self.opened()
        self.closed(reason, age, idle, pinged=pinged)
        self.tick(now)

    def limited(self, start: int, idle: float, times: int = 20) -> None:
        """An idle limit cuts a connection in each second."""
        for second in range(times):
            self.cut(start + second, 400 + 37 * second, idle)


def session(transport: str = "websocket", address: str | None = None) -> Session:
    return Session(
        client_address=address, origin=None, user_agent=None, transport=transport, headers=[], query_string=b""
    )


def watch(**options: Any) -> Watched:
    """Patterns of a process that has just begun to serve."""
    watched = Watched(**options)
    watched.tick(0)
    return watched


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
        self.patterns = Watched(**options)
        self.told = self.patterns.told
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
            self.patterns.closed(reason, age, idle, transport, address=address)
        self.tick(second + 1)

    def tick(self, second: int) -> None:
        self.patterns.tick(second)
        if self.told and self.cuts_when_told is None:
            self.cuts_when_told = self.cuts


# Ages


@pytest.mark.parametrize(("runs", "first", "sessions"), [(1000, 0, 80), (25, 10_000, 1500)])
def test_no_warning_in_runs_of_random_lifetimes(runs: int, first: int, sessions: int) -> None:
    seeds = range(first, first + runs)
    assert {seed: run.patterns.names for seed in seeds if (run := Traffic(seed, sessions=sessions)).told} == {}


@pytest.mark.parametrize("mean_s", [100, 300, 3000])
@pytest.mark.parametrize(
    ("interval", "limits", "pattern", "after"),
    [
        (75, {"cut_s": 60}, "same_idle_age", 60),
        (300, {"cut_s": 100}, "same_idle_age", 100),
        (25, {"life_s": 60}, "same_total_age", 60),
        (25, {"life_s": 300}, "same_total_age", 300),
        (25, {"life_s": 30}, "same_total_age", 30),
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


def test_an_idle_limit_says_what_to_write() -> None:
    watched = watch(interval=75)
    watched.limited(100, 60.02)
    assert watched.names == [("same_idle_age", True)]
    fields = watched.told[0][2]
    assert fields["text"] == (
        "13 of 13 connections that broke did so after 60 s without a packet: a proxy in front cuts idle connections "
        "after 60 s, and the interval of the heartbeat is 75 s"
    )
    assert fields["fix"].startswith(
        "write heartbeat=Heartbeat.for_idle_timeout(60), that is a ping every 25 s, or raise the limit of the proxy "
        "above 100 s. By default that is proxy_read_timeout of nginx (60 s), "
    )
    watched = watch(interval=75)
    watched.limited(100, 43)  # which nobody has by default
    assert watched.told[0][2]["fix"].endswith("above 100 s")


def test_a_lifetime_says_that_no_heartbeat_helps() -> None:
    watched = watch()
    for second in range(20):
        watched.cut(400 + second, 300.1, second + 0.5)
    assert watched.names == [("same_total_age", True)]
    assert "at an age of 300 s, busy or not" in watched.told[0][2]["text"]
    assert watched.told[0][2]["fix"].endswith("By default that is request timeout of cloud-run (300 s)")
    watched = watch()
    for second in range(40):  # of 60 s, with pings at 25 and 50, which align what is left: no idle limit
        watched.cut(100 + second, 60.1, 10.05)
    assert watched.names == [("same_total_age", True)]


def test_a_limit_that_is_gone_ends_the_pattern() -> None:
    watched = watch(interval=75)
    watched.limited(100, 60)
    chance = random.Random(1)
    second = 200
    while len(watched.told) == 1 and second < 400:
        watched.cut(second, chance.uniform(100, 4000), chance.uniform(0, 50))
        second += 1
    assert second < 250
    assert watched.told[1] == ("same_idle_age", False, {"after_s": 60, "cuts": 20})
    watched.limited(400, 60, times=10)
    assert len(watched.told) == 2
    watched.limited(410, 60, times=10)
    assert watched.names[2:] == [("same_idle_age", True)]
    # It ends as well when nobody is cut any more.
    watched.tick(2200)
    assert len(watched.told) == 3
    watched.tick(2220)
    assert watched.names[3:] == [("same_idle_age", False)]


def test_what_ends_together_has_one_cause_and_is_no_limit() -> None:
    watched = watch()
    for reload in range(0, 3000, 1000):  # of a proxy, with 300 clients that came and went together
        watched.opened(times=300)
        watched.tick(reload + 100)
        for number in range(300):
            watched.closed("transport close", 900 + number / 300, 12 + number / 300)
        watched.tick(reload + 101, reload + 106)
    assert {pattern for pattern, _ in watched.names} == {"mass_disconnect"}


def test_ends_in_the_first_minute_of_the_process_are_no_pattern_yet() -> None:
    watched = watch(interval=75)
    for second in range(75):
        watched.cut(second, 600 + 37 * second, 60)
    assert watched.told == []
    watched.cut(75, 50, 60)
    assert watched.names == [("same_idle_age", True)]


@pytest.mark.parametrize(
    ("reason", "age", "idle", "pinged"),
    [
        ("client disconnect", 400, 60, False),
        ("token_expired", 400, 60, False),
        ("ping timeout", 400, 20, True),
        ("transport close", 400, 60, True),
        ("transport close", 60, 60, True),
        ("transport close", 9, 9, False),
    ],
)
def test_ends_that_the_path_is_not_to_blame_for(reason: str, age: float, idle: float, pinged: bool) -> None:
    watched = watch(interval=75)
    for second in range(200):
        watched.cut(500 + second, age, idle, reason, pinged=pinged)
    assert watched.told == []


def test_polling_has_no_connection_that_could_be_cut() -> None:
    watched = watch(transports=["polling"], interval=75)
    for second in range(100):
        watched.closed("transport close", 400.0, 60.0, "polling")
        watched.tick(500 + second)
    assert watched.told == []


OTHERS = [*range(5, 53), *range(68, 116)]


@pytest.mark.parametrize(
    ("interval", "ends"),
    [
        # Neighbours can hide a peak.
        (75, [(500 + n, idle + n % 3) for n in range(200) for idle in (60, 64.6)]),
        # A heap that is no denser than what lies around it is chance.
        (200, [(500 + n, idle) for n in range(900) for idle in (OTHERS[n * 7 % 96], *([60] if n % 37 == 0 else []))]),
        # Old values are forgotten: five in each six hours.
        (75, [(100 + 4400 * n, 60) for n in range(30)]),
    ],
)
def test_what_is_no_idle_limit(interval: int, ends: list[tuple[float, float]]) -> None:
    watched = watch(interval=interval)
    watched.opened(times=300)
    for number, (second, idle) in enumerate(ends):
        watched.cut(second, 4000 + 37 * number, idle)
    assert watched.told == []


# Pings and upgrades


def test_clients_that_are_gone_at_their_first_ping() -> None:
    watched = watch()
    for second in range(19):
        watched.cut(second, 45, 20, "ping timeout", pinged=True)
    assert watched.told == []
    watched.cut(20, 46, 20.2, pinged=True)
    assert watched.names == [("first_ping_unanswered", True)]
    assert watched.told[0][2]["text"].startswith("20 of 20 WebSockets that broke were gone at the first ping")
    assert "Heartbeat.for_idle_timeout(25)" in watched.told[0][2]["fix"]
    for second in range(100):
        watched.cut(30 + second, 100 + 40 * second, second % 13)
    assert watched.names[1:] == [("first_ping_unanswered", False)]
    assert watched.told[1][2] == {"count": 20, "of": 50}


def test_sessions_that_never_leave_polling() -> None:
    watched = watch()
    for second in range(20):
        watched.closed("client disconnect", 30, 5, "polling")
        watched.tick(second)
    assert watched.names == [("never_upgraded", True)]
    assert watched.told[0][2]["text"].startswith("20 of 20 sessions stayed on polling")
    for second in range(20):
        watched.upgraded()
        watched.tick(20 + second)
    assert watched.told[1:] == [("never_upgraded", False, {"count": 20, "of": 40})]


@pytest.mark.parametrize(
    ("transports", "age", "names"),
    [(["polling"], 30, []), (["websocket"], 30, []), (["polling", "websocket"], 9, [("upgrades_fail", True)])],
)
def test_polling_that_is_meant_or_short_is_no_pattern(transports: list[str], age: float, names: list[Any]) -> None:
    watched = watch(transports=transports)
    for second in range(60):
        watched.closed("client disconnect", age, 5, "polling")
        watched.upgrade_failed()
        watched.tick(second)
    assert watched.names == names


def test_upgrades_that_fail() -> None:
    watched = watch()
    for second in range(30):
        watched.upgrade_failed()
        if second % 3 == 0:
            watched.upgraded()
        watched.tick(second)
    assert watched.told == []
    for second in range(200):
        watched.upgrade_failed()
        watched.tick(30 + second)
    assert watched.names == [("upgrades_fail", True)]
    assert "upgrades to WebSocket were begun and not finished" in watched.told[0][2]["text"]
    for second in range(200):
        watched.upgraded()
        watched.tick(230 + second)
    assert watched.names == [("upgrades_fail", True), ("upgrades_fail", False)]


# Loops


def again(watched: Watched, age: float = 1.0, address: str = "192.0.2.1") -> None:
    watched.opened(address)
    watched.closed("server disconnect", age, address=address)


def loop(watched: Watched, sessions: int, *, start: int = 0, age: float = 1.0, address: str = "192.0.2.1") -> None:
    for second in range(start, start + sessions):
        watched.tick(second)
        again(watched, age, address)
    watched.tick(start + sessions)


def test_a_client_in_a_reconnect_loop() -> None:
    watched = watch()
    loop(watched, 19)
    assert watched.told == []
    loop(watched, 10, start=20)
    assert watched.names == [("reconnect_loop", True)]
    fields = watched.told[0][2]
    assert (fields["client_address"], fields["count"]) == ("192.0.2.1", 20)
    assert "20 sessions one after the other, each shorter than 20 s" in fields["text"]
    watched.tick(60)
    assert len(watched.told) == 1
    watched.tick(100)
    assert watched.told[1:] == [("reconnect_loop", False, {"client_address": "192.0.2.1"})]


def test_a_session_that_lasts_ends_the_loop() -> None:
    watched = watch()
    loop(watched, 25)
    loop(watched, 1, start=30, age=25)
    assert watched.names == [("reconnect_loop", True), ("reconnect_loop", False)]


def test_what_is_no_loop() -> None:
    many_behind_one_address = watch()
    for second in range(100):
        many_behind_one_address.opened("192.0.2.1", times=2)
        for _ in range(2):
            many_behind_one_address.closed(address="192.0.2.1")
        many_behind_one_address.tick(second)
    takes_its_time = watch()
    for number in range(60):
        loop(takes_its_time, 1, start=number * 70)
    ended_before_the_tick = watch()
    for _ in range(20):
        again(ended_before_the_tick)
    ended_before_the_tick.tick(100)
    assert many_behind_one_address.told == takes_its_time.told == ended_before_the_tick.told == []


@pytest.mark.parametrize("people", [{"who": range(25)}, {"user_agent": [f"Browser {n}" for n in range(25)]}])
def test_an_office_whose_people_come_one_after_the_other_is_no_loop(people: dict[str, Any]) -> None:
    watched = watch()
    (field, values), *_ = people.items()
    for second in range(100):
        watched.tick(second)
        watched.opened("192.0.2.1")
        watched.closed("server disconnect", 1.0, address="192.0.2.1", **{field: values[second % 25]})
    assert watched.told == []
    for second in range(100, 125):
        watched.tick(second)
        watched.opened("192.0.2.1")
        watched.closed("server disconnect", 1.0, address="192.0.2.1", **{field: values[7]})
    assert watched.names == [("reconnect_loop", True)]


def test_the_table_of_addresses_and_the_loops_told_are_bounded() -> None:
    watched = watch()
    for number in range(12):
        loop(watched, 25, start=30 * number, address=f"192.0.2.{number}")
    assert sum(stands for _, stands in watched.names) == 12
    watched = watch()
    for second in range(25):
        watched.tick(second)
        for number in range(30):
            again(watched, address=f"192.0.2.{number}")
    watched.tick(25)
    assert watched.names == [("reconnect_loop", True)] * 8
    for number in range(5000):
        watched.opened(f"198.51.{number >> 8}.{number & 255}")
    watched.closed("server disconnect", address="192.0.2.1")
    watched.tick(26)
    assert watched.names[8:] == [("reconnect_loop", False)] * 8


# Mass disconnects


def test_a_mass_disconnect_and_the_return() -> None:
    watched = Watched()
    watched.closed()  # of which the beginning wasn't told
    watched.opened(times=100)
    watched.tick(*range(50))
    for number in range(90):
        watched.closed("transport close", 40 + number / 10, number / 4)
    watched.tick(*range(50, 60))
    assert watched.names == [("mass_disconnect", True)]
    assert watched.told[0][2]["text"].startswith("90 of 100 connections broke within 10 s")
    watched.opened(times=80)
    watched.tick(61)
    assert watched.told[1:] == [("mass_disconnect", False, {"count": 90, "of": 100, "living": 90})]
    watched.tick(62)
    assert len(watched.told) == 2


@pytest.mark.parametrize(
    ("living", "ends", "reason", "age", "told"),
    [
        # Nobody comes back.
        (30, 30, "transport close", 40, [("mass_disconnect", True), ("mass_disconnect", False)]),
        # It is none.
        (200, 90, "transport close", 40, []),
        (19, 19, "transport close", 40, []),
        (100, 100, "server disconnect", 40, []),
        (100, 100, "transport close", 2, []),
    ],
)
def test_mass_disconnects(living: int, ends: int, reason: str, age: float, told: list[tuple[str, bool]]) -> None:
    watched = Watched()
    watched.opened(times=living)
    watched.tick(0)
    for number in range(ends):
        watched.closed(reason, age + number % 8, 1)
    watched.tick(*range(1, 200))
    assert watched.names == told
    assert {fields["living"] for _, stands, fields in watched.told if not stands} <= {0}


def test_an_end_of_what_had_no_beginning_is_borne() -> None:
    watched = Watched()
    watched.closed(address="192.0.2.1")
    watched.tick(0)
    assert watched.told == []


# Sessions of other processes


def spread(watched: Watched, seconds: int, *, start: int, workers: int, seed: int = 1) -> None:
    """What one of so many workers sees when each request goes to any of them."""
    chance = random.Random(seed)
    for second in range(start, start + seconds):
        for _ in range(workers):  # handshakes of all of them
            here, posted_here = chance.randrange(workers) == 0, chance.randrange(workers) == 0
            if here:
                watched.opened()
            if posted_here and not here:
                watched.unknown_session(False)
            if here and not posted_here:
                watched.closed("server disconnect", 1, 1, "polling")
        watched.tick(second)


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_several_workers_without_stickiness(workers: int) -> None:
    for seed in range(10):
        watched = Watched()
        spread(watched, 600, start=0, workers=workers, seed=seed)
        assert watched.names == [("sessions_elsewhere", True)]
        fields = watched.told[0][2]
        assert fields["count"] / fields["of"] == pytest.approx((workers - 1) / workers, abs=0.35)
        assert fields.get("workers") is None or fields["workers"] >= 2
        assert "sticky sessions" in fields["fix"]


@pytest.mark.parametrize(("opened", "workers", "words"), [(2, 2, "about 2 workers"), (1, None, "several workers")])
def test_the_number_of_workers_is_told_where_it_can_be(opened: int, workers: int | None, words: str) -> None:
    watched = Watched()
    for second in range(300):
        watched.opened(times=opened)
        watched.unknown_session(False)
        watched.tick(second)
    assert watched.told[0][2].get("workers") == workers
    assert words in watched.told[0][2]["text"]


def unsteady(watched: Watched, second: int, unknown: int = 2, *, reason: str = "ping timeout") -> None:
    """What one of several workers sees in a second: what a lost poll does to sessions, and what nothing else did."""
    watched.opened(times=3)
    for _ in range(unknown):
        watched.unknown_session(False)
    watched.upgrade_failed()
    for _ in range(2 + 20 * (second % 40 == 20)):
        watched.closed(reason, 45, 45, "polling", address="192.0.2.2")
    again(watched)
    watched.tick(second)


@pytest.mark.parametrize("reason", ["ping timeout", "transport close"])
def test_lost_stickiness_is_blamed_on_nothing_else(reason: str) -> None:
    watched = Watched()
    for second in range(400):
        unsteady(watched, second, reason=reason)
    assert watched.names == [("sessions_elsewhere", True)]
    # Nor afterwards, for what was seen while it was so.
    for second in range(400, 700):
        watched.opened()
        watched.closed("client disconnect", 400, 5)
        watched.tick(second)
    assert watched.names == [("sessions_elsewhere", True), ("sessions_elsewhere", False)]


def test_a_few_sessions_of_others_hold_nothing_back() -> None:
    watched = Watched()
    for second in range(400):
        unsteady(watched, second, unknown=second % 10 == 0)
    assert {"never_upgraded", "upgrades_fail", "mass_disconnect", "reconnect_loop"} == {
        name for name, _ in watched.names
    }


def test_what_stood_before_goes_on_to_its_end() -> None:
    watched = watch()
    for second in range(60):
        watched.upgrade_failed()
        watched.tick(second)
    for second in range(60, 300):
        watched.unknown_session(False)
        watched.upgraded()
        watched.tick(second)
    assert watched.names == [("upgrades_fail", True), ("upgrades_fail", False)]


def test_a_limit_of_websockets_is_told_beside_lost_stickiness() -> None:
    watched = Watched()
    for second in range(400):
        watched.opened()
        watched.unknown_session(False)
        watched.cut(second, 400 + 37 * second, 15)
    assert {name for name, _ in watched.names} == {"same_idle_age", "sessions_elsewhere"}


def test_stickiness_that_is_switched_on_ends_the_pattern() -> None:
    watched = Watched()
    spread(watched, 300, start=0, workers=3)
    spread(watched, 300, start=300, workers=1)
    assert watched.names == [("sessions_elsewhere", True), ("sessions_elsewhere", False)]


@pytest.mark.parametrize("restart", [0, 7, 50, 63, 200])
def test_a_restart_is_no_lost_stickiness(restart: int) -> None:
    watched = Watched()
    for second in range(600):
        if restart <= second < restart + 45:
            for _ in range(10):
                watched.unknown_session(False)
                watched.opened()
        if second % 5 == 0:
            watched.opened()
        watched.tick(second)
    assert watched.told == []


@pytest.mark.parametrize(("unknown", "opened", "here"), [(1, 0, False), (1, 20, False), (1, 1, True), (9, 1, False)])
def test_other_unknown_sessions_are_no_pattern(unknown: int, opened: int, here: bool) -> None:
    watched = Watched()
    for second in range(600):
        for _ in range(unknown):
            watched.unknown_session(here)
        watched.opened(times=opened)
        watched.tick(second)
    assert watched.told == []


# All

times_s = st.floats(-1, 1e9)
reasons = st.sampled_from(["transport close", "ping timeout", "client disconnect", "x"])
endings = st.tuples(reasons, times_s, times_s, st.sampled_from(["polling", "websocket"]))
calls = st.one_of(
    st.tuples(st.just("opened"), st.tuples(st.none() | st.sampled_from("abc"))),
    st.tuples(st.just("closed"), endings),
    st.tuples(st.sampled_from(["upgraded", "upgrade_failed"]), st.just(())),
    st.tuples(st.just("unknown_session"), st.tuples(st.booleans())),
    st.tuples(st.just("tick"), st.tuples(st.floats(0, 1e9))),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(calls, st.integers(1, 30)), max_size=60))
def test_nothing_raises_and_each_pattern_begins_before_it_ends(sequence: list[Any]) -> None:
    watched = Watched()
    now = 0.0
    for (name, arguments), times in sequence:
        for _ in range(times):
            if name == "tick":
                now += arguments[0] / 30
                arguments = (now,)
            getattr(watched, name)(*arguments)
    standing: set[Any] = set()
    for pattern, stands, fields in watched.told:
        assert pattern in PATTERNS
        key = (pattern, fields.get("client_address"))
        assert (key in standing) is not stands
        (standing.add if stands else standing.discard)(key)
        assert ("text" in fields) is ("fix" in fields) is stands


def test_the_memory_is_bounded() -> None:
    watched = Watched()
    chance = random.Random(2)
    number = itertools.count()

    def storm() -> None:
        for second in range(100):
            for _ in range(40):
                age = chance.uniform(0, 1e6)
                address = f"198.51.{next(number)}"
                watched.opened(address)
                watched.closed("transport close", age, chance.uniform(0, age), address=address)
            if second % 20 < 10:
                watched.tick(next(number))

    tracemalloc.start()
    storm()
    before = tracemalloc.get_traced_memory()[0]
    storm()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
