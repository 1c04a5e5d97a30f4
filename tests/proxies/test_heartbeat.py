from __future__ import annotations

import json
import math
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
from socketguard.findings import Finding
from socketguard.proxies.heartbeat import Heartbeat, findings_for_server, recommend
from socketguard.proxies.profiles import PROFILES, LimitKind

DOCUMENT = Path(__file__).parents[2] / "docs" / "heartbeat.md"


def ids(findings: list[Finding]) -> list[str]:
    return [finding.id for finding in findings]


def figures(heartbeat: Heartbeat) -> tuple[int, int]:
    return heartbeat.interval, heartbeat.timeout


# --- choosing

# Where it isn't 25 and 20 and nothing is found: interval, timeout, findings with both transports, over WebSocket only.
CHOSEN: dict[str, tuple[int, int, list[str], list[str]]] = {
    "envoy": (7, 5, [], []),
    "aws-apigw-ws": (25, 20, ["SG003", "SG009"], ["SG003", "SG009"]),
    "gcp-classic-alb": (10, 10, ["SG003"], ["SG003"]),
    "gcp-global-alb": (10, 10, [], []),
    "cloud-run": (25, 20, ["SG003"], ["SG003"]),
    "heroku": (10, 10, [], []),
    "vercel": (25, 20, ["SG003", "SG009"], ["SG003"]),
}


@pytest.mark.parametrize("name", PROFILES)
def test_chosen_for_a_profile(name: str) -> None:
    interval, timeout, both, websocket = CHOSEN.get(name, (25, 20, [], []))
    heartbeat = Heartbeat.behind(name)
    assert heartbeat == Heartbeat(interval, timeout, proxies=(name,))
    assert ids(heartbeat.findings()) == both
    assert ids(heartbeat.findings(transports=["websocket"])) == websocket


@given(st.lists(st.sampled_from(sorted(PROFILES)), min_size=1, max_size=4))
def test_chosen_figures_keep_the_rules_on_any_path(names: list[str]) -> None:
    heartbeat = Heartbeat.behind(*names)
    total = heartbeat.interval + heartbeat.timeout
    answers = {LimitKind.FIRST_BYTE, LimitKind.RESPONSE_LIFETIME, LimitKind.LIFETIME}
    for name in names:
        for limit in PROFILES[name].limits:
            if limit.seconds is not None and limit.kind is LimitKind.IDLE:
                assert heartbeat.interval < limit.seconds
                assert total <= limit.seconds - 5
            if limit.seconds is not None and limit.polling and limit.kind in answers:
                assert heartbeat.interval < limit.seconds
                assert total <= limit.seconds
    assert not {"SG001", "SG002", "SG007"} & set(ids(heartbeat.findings()))


@pytest.mark.parametrize(
    ("seconds", "interval", "timeout"),
    [
        *((5, 1, 2), (10, 3, 3), (14, 4, 5), (15, 5, 5), (20, 10, 5), (24.9, 10, 9), (25, 10, 10), (30, 10, 10)),
        *((31, 15, 11), (40, 20, 15), (49, 24, 20), (50, 25, 20), (55, 25, 20), (60, 25, 20), (100, 25, 20)),
        (3600, 25, 20),
    ],
)
def test_for_idle_timeout(seconds: float, interval: int, timeout: int) -> None:
    heartbeat = Heartbeat.for_idle_timeout(seconds)
    assert heartbeat == Heartbeat(interval, timeout, idle_timeout=seconds)


@given(st.one_of(st.integers(5, 86_400), st.floats(5, 9999)).filter(lambda p: p < 10_000 or p % 3600 == 0))
@example(5)
@example(15)
@example(math.nextafter(15, 0))
@example(math.nextafter(30, 31))
def test_any_idle_limit_is_survived(limit: float) -> None:
    heartbeat = Heartbeat.for_idle_timeout(limit)
    total = heartbeat.interval + heartbeat.timeout
    assert type(heartbeat.interval) is int
    assert type(heartbeat.timeout) is int
    assert 1 <= heartbeat.interval <= 25
    assert 1 <= heartbeat.timeout <= 20
    assert heartbeat.interval <= limit / 2
    assert total < limit
    if limit >= 15:
        assert total <= limit - 5
        assert heartbeat.timeout >= 5
    assert ids(heartbeat.findings()) == ([] if total <= limit - 5 else ["SG007"])


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [(15, (7, 5)), (19.9, (9, 5)), (20, (10, 10)), (30, (10, 10)), (31, (15, 16)), (55, (25, 20)), (100, (25, 20))],
)
def test_for_a_limit_of_answers(seconds: float, chosen: tuple[int, int]) -> None:
    assert recommend(math.inf, seconds) == chosen


@pytest.mark.parametrize(
    ("proxies", "idle_timeout", "chosen"),
    [
        (["cloudflare", "envoy"], None, (7, 5)),
        (["envoy", "cloudflare"], None, (7, 5)),
        (["nginx"], 30, (10, 10)),
        (["gcp"], 3600, (25, 20)),
        (["envoy"], 3600, (7, 5)),
        (["haproxy"], 50.5, (25, 20)),
    ],
)
def test_a_given_idle_timeout_goes_before_the_defaults(
    proxies: list[str], idle_timeout: float | None, chosen: tuple[int, int]
) -> None:
    assert figures(Heartbeat.behind(*proxies, idle_timeout=idle_timeout)) == chosen


# --- the constructor


def test_values() -> None:
    assert figures(Heartbeat()) == (25, 20)
    assert Heartbeat(25, 20) == Heartbeat(interval=25, timeout=20)
    assert Heartbeat(25, 20) != Heartbeat(25, 19)
    assert Heartbeat.behind("easypanel") == Heartbeat.behind("Traefik") == Heartbeat(25, 20, proxies=("traefik",))
    assert len({Heartbeat(), Heartbeat(25, 20), Heartbeat.behind("nginx")}) == 2
    assert figures(Heartbeat(1, 999)) == (1, 999)


def test_proxies_are_stored_once_under_their_names() -> None:
    heartbeat = Heartbeat(proxies=["ALB", "easypanel", "traefik"])  # type: ignore[arg-type]  # a list does no harm
    assert heartbeat.proxies == ("aws-alb", "traefik")
    assert hash(heartbeat) == hash(Heartbeat(proxies=("aws-alb", "traefik")))


@pytest.mark.parametrize("option", ["interval", "timeout"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "is a bool"),
        (None, "is a NoneType"),
        ("25", "is a str"),
        (math.nan, "is nan"),
        (math.inf, "is inf"),
        (0, "is zero"),
        (-1, "is negative"),
        (-(10**400), "is negative"),
        (25_000, "25000 looks like milliseconds. Write 25, in seconds"),
        (1000, "looks like milliseconds. Write 1, in seconds"),
        (1500.5, "looks like milliseconds. Write 2, in seconds"),
        (10**400, "is more than a day, even in milliseconds"),
        (12.5, "is 12.5; write whole seconds as an int, such as 12"),
        (0.3, "such as 1: python-engineio cuts fractions off"),
        (25.0, "is 25.0; write whole seconds as an int, such as 25"),
    ],
)
def test_values_that_are_refused(option: str, value: int, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Heartbeat(**{option: value})
    assert text in str(caught.value)
    assert str(caught.value).startswith(option)
    assert caught.value.option == option


# --- findings


@pytest.mark.parametrize(
    ("make", "option", "text"),
    [
        (Heartbeat.behind, "proxies", "without any proxy write Heartbeat"),
        *((partial(Heartbeat, proxies=value), "proxies", "write proxies=") for value in ("nginx", {"nginx": 60}, None)),
        *(
            (partial(Heartbeat.for_idle_timeout, value), "idle_timeout", "idle_timeout")
            for value in (None, "60", True, 4, 60_000)
        ),
        *(
            (partial(Heartbeat().findings, transports=value), "transports", "transports")
            for value in ((), "websocket", ["webtransport"], ["polling", "sse"])
        ),
    ],
)
def test_arguments_that_are_refused(make: Callable[[], object], option: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        make()
    assert caught.value.option == option


POLLING, WEBSOCKET, BOTH = ["polling"], ["websocket"], ["polling", "websocket"]


@pytest.mark.parametrize(
    ("heartbeat", "transports", "found"),
    [
        # Without a path nothing is found.
        (Heartbeat(999, 999), BOTH, []),
        (Heartbeat(60, 20, proxies=("nginx",)), BOTH, ["SG001"]),
        (Heartbeat(61, 1, proxies=("nginx",)), BOTH, ["SG001"]),
        (Heartbeat(59, 1, proxies=("nginx",)), BOTH, ["SG007"]),
        (Heartbeat(36, 20, proxies=("nginx",)), BOTH, ["SG007"]),
        (Heartbeat(35, 20, proxies=("nginx",)), BOTH, []),
        (Heartbeat(25, 20, proxies=("nginx",)), BOTH, []),
        # Limits of a transport that is off do not count.
        (Heartbeat(300, proxies=("railway",)), BOTH, ["SG001"]),
        (Heartbeat(300, proxies=("railway",)), WEBSOCKET, []),
        (Heartbeat(119, 1, proxies=("cloudflare",)), BOTH, ["SG001"]),
        (Heartbeat(119, 1, proxies=("cloudflare",)), POLLING, []),
        (Heartbeat(proxies=("envoy",)), WEBSOCKET, []),
        (Heartbeat(10, 5, proxies=("envoy",)), BOTH, []),
        (Heartbeat(10, 6, proxies=("envoy",)), BOTH, ["SG002"]),
        (Heartbeat(proxies=("heroku",)), POLLING, ["SG002"]),
        # A lifetime also ends a GET that is held.
        (Heartbeat(proxies=("gcp-classic",)), BOTH, ["SG002", "SG003"]),
        (Heartbeat(proxies=("gcp-classic",)), WEBSOCKET, ["SG003"]),
        (Heartbeat(300, proxies=("vercel", "cloud-run", "nginx")), BOTH, ["SG001", "SG002", "SG003", "SG003", "SG009"]),
        (Heartbeat(40, proxies=("nginx", "cloud-run")), BOTH, ["SG003", "SG007"]),
    ],
)
def test_what_is_found(heartbeat: Heartbeat, transports: list[str], found: list[str]) -> None:
    assert ids(heartbeat.findings(transports=transports)) == found


@pytest.mark.parametrize(
    ("heartbeat", "expected"),
    [
        (
            Heartbeat(75, proxies=("cloudflare", "nginx")),
            Finding(
                "SG001",
                "The interval of 75 s is not below the smallest idle limit: proxy_read_timeout of nginx (60 s) cuts "
                "healthy connections between two pings. Over WebSocket, pings of the application server may hide that.",
                "Heartbeat(25, 20), or raise proxy_read_timeout of nginx to 100 s or more.",
            ),
        ),
        (
            Heartbeat(30, idle_timeout=30),
            Finding(
                "SG001",
                "The interval of 30 s is not below the smallest idle limit: the idle limit that you gave (30 s) cuts "
                "healthy connections between two pings. Over WebSocket, pings of the application server may hide that.",
                "Heartbeat(10, 10), or raise the limit to 55 s or more.",
            ),
        ),
        (
            # Figures that can't be better.
            Heartbeat.for_idle_timeout(10),
            Finding(
                "SG007",
                "interval + timeout is 6 s, which leaves less than 5 s to the smallest idle limit: the idle limit that "
                'you gave (10 s). A dead connection may be cut there first, and is then logged as "transport close" '
                'instead of "ping timeout".',
                "Raise the limit to 11 s or more.",
            ),
        ),
        (
            Heartbeat(proxies=("envoy",)),
            Finding(
                "SG002",
                "The interval of 25 s is not below the smallest limit of answers: route.timeout of envoy (15 s) cuts "
                "the GET that long-polling holds open until the next ping.",
                "Heartbeat(7, 5), or raise route.timeout of envoy to 45 s or more. Or allow transports=['websocket'] "
                "only.",
            ),
        ),
        (
            Heartbeat(10, 6, proxies=("envoy",)),
            Finding(
                "SG002",
                "interval + timeout is 16 s, above the smallest limit of answers: route.timeout of envoy (15 s). "
                "Healthy clients don't meet it, but a GET whose client has stopped answering is held that long, and "
                "ends as an error of the proxy.",
                "Heartbeat(7, 5), or raise route.timeout of envoy to 16 s or more.",
            ),
        ),
        (
            Heartbeat.behind("cloud-run"),
            Finding(
                "SG003",
                "request timeout of cloud-run (300 s) ends connections whether or not they are busy. No heartbeat "
                "helps against it.",
                "Raise request timeout as far as cloud-run allows, and let clients reconnect and take up their state "
                "again.",
            ),
        ),
        (
            Heartbeat.behind("vercel"),
            Finding(
                "SG009",
                "vercel can't carry HTTP long-polling. Requests of one session reach different instances, so polling "
                "can't work.",
                "transports=['websocket'], at the server and in every client.",
            ),
        ),
        (
            Heartbeat.behind("api-gateway"),
            Finding(
                "SG009",
                "aws-apigw-ws can't carry Socket.IO. WebSocket APIs of API Gateway speak a protocol of their own.",
                "Put a load balancer that forwards WebSockets in its place; transports=['websocket'] is no help.",
            ),
        ),
    ],
)
def test_the_texts_of_findings(heartbeat: Heartbeat, expected: Finding) -> None:
    assert [found for found in heartbeat.findings() if found.id == expected.id] == [expected]


def test_sg003_names_every_lifetime() -> None:
    findings = Heartbeat.behind("gcp-classic", "cloud-run").findings()
    assert [finding.text.partition(" ends ")[0] for finding in findings] == [
        "backend service timeout of gcp-classic-alb (30 s)",
        "request timeout of cloud-run (300 s)",
    ]


# --- uvicorn's pings


@pytest.mark.parametrize(
    ("interval", "timeout", "ping_interval", "ping_timeout", "text"),
    [
        *(
            (25, 20, every, wait, None)
            for every, wait in ((20, 20), (None, 20), (0, 20), (0.0, 1), (-1, 1), (20, None))
        ),
        *((interval, interval, 20.0, 20.0, None) for interval in (7, 10)),
        (25, 20, 1, 20, "ws_ping_interval + ws_ping_timeout = 21 s"),
        (25, 20, 5, 20, "ws_ping_interval + ws_ping_timeout = 25 s"),
        (25, 20, 5.5, 20, None),
        (25, 20, 20, 19.5, "longer than ws_ping_timeout=19.5 s"),
        (25, 20, 20, 0, "ws_ping_timeout=0 makes uvicorn close every WebSocket"),
        (25, 20, 20, -1, "ws_ping_timeout=-1 makes uvicorn close every WebSocket"),
        (40, 20, 20, 20, "= 40 s, before the first ping of the heartbeat at 40 s"),
        (39, 20, 20, 20, None),
        (25, 21, 20, 20, "so the timeout of 21 s never counts"),
    ],
)
def test_server_pings(
    interval: int, timeout: int, ping_interval: float | None, ping_timeout: float | None, text: str | None
) -> None:
    findings = Heartbeat(interval, timeout).server_ping_findings(ping_interval=ping_interval, ping_timeout=ping_timeout)
    if text is None:
        assert findings == []
    else:
        (finding,) = findings
        assert finding.id == "SG008"
        assert text in finding.text
        assert "ws_ping_interval=None" in finding.fix


@given(st.integers(1, 999), st.integers(1, 999), st.integers(1, 999), st.integers(1, 999))
def test_sg008_exactly_when_uvicorn_is_first(interval: int, timeout: int, every: int, wait: int) -> None:
    findings = Heartbeat(interval, timeout).server_ping_findings(ping_interval=every, ping_timeout=wait)
    assert bool(findings) == (wait < timeout or every + wait <= interval)


# --- raw values of a server


@pytest.mark.parametrize(
    ("interval", "timeout", "grace", "found"),
    [
        # The timeout is announced to the millisecond, and the interval with the grace period.
        *((*values, []) for values in ((25, 20, 0), (25.0, 20.0, 0), (25, 20, 5), (25, 20.5, 0), (24.5, 20, 0.5))),
        *((*values, ["SG004"]) for values in ((12.5, 20, 0), (25, 20, 0.5), (25, 0.9, 0))),
        (0.3, 0.5, 0, ["SG004", "SG004"]),
        *((*values, ["SG005"]) for values in ((0, 20, 0), (25, 0, 0))),
        *((*values, ["SG005", "SG005"]) for values in ((0, 0, 0), (-1, 20, -2))),
        *((*values, ["SG006"]) for values in ((25_000, 20, 0), (10**400, 20, 0))),
        (25_000, 20_000, 5000, ["SG006", "SG006", "SG006"]),
        ("25", None, True, ["SG004", "SG004", "SG004"]),
        ((25, 5), 20, 0, ["SG004"]),
        (math.nan, math.inf, 0, ["SG004", "SG004"]),
    ],
)
def test_findings_for_server(interval: object, timeout: object, grace: object, found: list[str]) -> None:
    assert ids(findings_for_server(interval, timeout, grace)) == found


def test_texts_for_a_server() -> None:
    assert findings_for_server(0.3, 20) == [
        Finding(
            "SG004",
            "ping_interval is 0.3 s, but python-engineio announces whole seconds: clients are told 0 s, and expect "
            "pings sooner than they come.",
            "ping_interval=1, without a grace period; or heartbeat=Heartbeat().",
        )
    ]
    assert "12.5 s with a grace of 0.2 s" in findings_for_server(12.5, 20, 0.2)[0].text
    assert findings_for_server(25, 20_000) == [
        Finding("SG006", "ping_timeout: 20000 looks like milliseconds.", "Write 20, in seconds.")
    ]
    assert findings_for_server(0, 20)[0].text == "ping_interval is zero."
    assert findings_for_server(25, 20, None)[0].text == "the grace period of ping_interval is a NoneType."


RAW = st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.tuples(st.integers()))


@given(RAW, RAW, RAW)
def test_raw_values_never_raise(interval: object, timeout: object, grace: object) -> None:
    assert {finding.id for finding in findings_for_server(interval, timeout, grace)} <= {"SG004", "SG005", "SG006"}


@given(st.integers(1, 999), st.integers(1, 999))
def test_what_the_constructor_takes_is_right_for_a_server(interval: int, timeout: int) -> None:
    heartbeat = Heartbeat(interval, timeout)
    assert findings_for_server(heartbeat.interval, heartbeat.timeout) == []


# --- words


def test_explain_says_what_was_chosen_and_why() -> None:
    text = Heartbeat.behind("cloudflare", "envoy").explain()
    assert text.startswith("Heartbeat: a ping every 7 s, and 5 s for its pong.\n")
    assert "Path: cloudflare, envoy" in text
    assert "route.timeout: 15 s, response lifetime" in text
    assert "https://github.com/buildbot/buildbot/issues/4078 (forum or issue thread, so check it)" in text
    assert "P, smallest idle limit: websocket idle of cloudflare (100 s)" in text
    assert "F, smallest limit of an answer over polling: route.timeout of envoy (15 s)" in text
    assert "L, smallest lifetime of a connection: none known" in text
    assert "  interval 7 < P 100: holds" in text
    assert "  interval + timeout 12 <= P - 5 = 95: holds" in text
    assert "  interval 7 < F 15: holds" in text
    assert "  interval + timeout 12 <= F 15: holds" in text
    assert "These are the recommended values for this path." in text
    assert "With transports=['websocket'] it would be Heartbeat(25, 20)." in text
    assert "A client gives up a dead server 12 s after the last ping." in text
    assert "12 s after its last packet over WebSocket, and within 17 s over polling" in text
    assert "closed by uvicorn (1011) after 40 s and by the heartbeat after 12 s" in text
    assert "SG0" not in text


def test_explain_of_a_heartbeat_made_by_hand() -> None:
    text = Heartbeat(75, proxies=("nginx",)).explain()
    assert "  interval 75 < P 60: does not hold" in text
    assert "  interval + timeout 95 <= P - 5 = 55: does not hold" in text
    assert "Recommended for this path: Heartbeat(25, 20)." in text
    assert "With these defaults, SG008: uvicorn gives up a silent WebSocket" in text
    assert "\nSG001: The interval of 75 s" in text
    assert "\n  Fix: Heartbeat(25, 20), or raise" in text
    assert "With transports" not in text


def test_explain_without_a_pathrecommends_nothing() -> None:
    text = Heartbeat(10, 10).explain()
    assert "no proxy was named" in text
    assert "ecommended" not in text
    assert "none known" in text


def test_explain_marks_what_was_replaced() -> None:
    text = Heartbeat.behind("nginx", idle_timeout=30).explain()
    assert "You gave 30 s as its smallest idle limit" in text
    assert text.count("Replaced.") == 2


def test_explain_says_everything_about_every_profile() -> None:
    for profile in PROFILES.values():
        text = Heartbeat.behind(profile.name).explain()
        assert all(f"{limit.setting}: " in text and limit.source in text for limit in profile.limits)
        assert profile.note in text


def test_describe_is_plain() -> None:
    described = Heartbeat.behind("heroku", "cloud-run").describe()
    assert described == {
        "interval": 10,
        "timeout": 10,
        "proxies": ["heroku", "cloud-run"],
        "idle_limit": 55,
        "response_limit": 30,
        "lifetime_limit": 300,
        "detection_websocket": 20,
        "detection_polling": 30,
    }
    assert json.loads(json.dumps(described)) == described
    assert Heartbeat().describe()["idle_limit"] is None


def test_the_example_in_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = DOCUMENT.read_text(encoding="utf-8").split("```python\n")[1:]
    assert blocks
    for block in blocks:
        script = tmp_path / "example.py"
        script.write_text(block.split("```")[0], encoding="utf-8")
        runpy.run_path(str(script))
    assert capsys.readouterr().out == Heartbeat.behind("cloudflare", "traefik").explain() + "\n"


def test_the_documented_figures_are_those_that_are_chosen() -> None:
    for seconds, interval, timeout in ((15, 5, 5), (20, 10, 5), (30, 10, 10), (40, 20, 15)):
        assert figures(Heartbeat.for_idle_timeout(seconds)) == (interval, timeout)
        assert f"| {seconds} s | {interval} | {timeout} |" in DOCUMENT.read_text(encoding="utf-8")
