from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.errors import ConfigurationError
from socketguard.proxies.heartbeat import Heartbeat
from socketguard.proxies.profiles import (
    PROFILES,
    Confidence,
    Limit,
    LimitKind,
    canonical_name,
    check_idle_timeout,
    describe_path,
    limits_on_path,
    number,
    where,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "heartbeat.md"


def table() -> str:
    """The table of profiles as it stands in the documentation."""
    acts = {True: "yes", False: "no", None: "?"}
    lines = [
        "| profile | also | limit | seconds | kind | WebSocket | polling | source | heartbeat |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for profile in PROFILES.values():
        heartbeat = Heartbeat.behind(profile.name)
        first = [
            f"`{profile.name}`",
            ", ".join(f"`{alias}`" for alias in profile.aliases),
            f"{heartbeat.interval}/{heartbeat.timeout}",
        ]
        for limit in profile.limits:
            cells = [
                *first[:2],
                f"`{limit.setting}`",
                "–" if limit.seconds is None else number(limit.seconds),
                limit.kind.value.replace("_", " "),
                acts[limit.websocket],
                acts[limit.polling],
                f"{limit.source} (*{limit.confidence}*)",
                first[2],
            ]
            lines.append(f"| {' | '.join(cells)} |")
            first = ["", "", ""]
    return "\n".join(lines) + "\n"


def notes() -> str:
    """The notes below it."""
    return "".join(f"- `{profile.name}`: {profile.note}\n" for profile in PROFILES.values() if profile.note)


def between(name: str) -> str:
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0]


def test_the_documented_table_is_the_data() -> None:
    assert between("profiles") == table()
    assert between("notes") == notes()


def test_every_limit_has_a_source() -> None:
    for profile in PROFILES.values():
        assert profile.limits
        for limit in profile.limits:
            assert limit.source
            assert limit.confidence in set(Confidence) - {Confidence.GIVEN}
            assert limit.seconds is None or (isinstance(limit.seconds, int) and limit.seconds > 0)


def test_names_and_aliases_are_unique_and_already_canonical() -> None:
    names = [name for profile in PROFILES.values() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.casefold() and " " not in name and "_" not in name for name in names)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *((written, "nginx") for written in ("nginx", "  NGINX ")),
        *((written, "traefik") for written in ("easypanel", "EasyPanel")),
        *((written, "aws-alb") for written in ("alb", "AWS ALB", "aws_alb")),
        *(("gcp", "gcp-global-alb"), ("GCP classic", "gcp-classic-alb")),
        *(("Google Cloud Run", "cloud-run"), ("httpd", "apache")),
    ],
)
def test_names_are_forgiving(written: str, name: str) -> None:
    assert canonical_name(written) == name


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("trafik", ["'trafik' is not a known proxy. Did you mean 'traefik'?", "for_idle_timeout(60)", *PROFILES]),
        ("zzzzzzzz", ["'zzzzzzzz' is not a known proxy. Known are "]),
        ("y" * 61, [f"'{'y' * 60}…' is not a known proxy"]),
        *((name, ["is the application server, not a proxy"]) for name in ("uvicorn", "Hypercorn", "gunicorn")),
        *((name, ["is the application server, not a proxy"]) for name in ("granian", "daphne")),
        *((name, ["no reliable source"]) for name in ("fly", "Fly.io", "azure app gateway", "istio", "render")),
        ("digitalocean", ["no reliable source"]),
        *((name, [f"not by a {type(name).__name__}"]) for name in (None, 60, b"nginx", ["nginx"])),
    ],
)
def test_a_name_that_is_none_of_a_known_proxy(name: object, texts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        canonical_name(name, option="hops")
    assert all(text in str(caught.value) for text in texts)
    assert caught.value.option == "hops"


@given(st.text(max_size=200))
def test_any_text_is_a_profile_or_a_configuration_error_of_one_line(text: str) -> None:
    try:
        outcome = canonical_name(text)
    except ConfigurationError as error:
        outcome = str(error)
    assert outcome in PROFILES or outcome.startswith("proxies: ")
    assert outcome.isprintable()
    assert len(outcome) < 1500


@pytest.mark.parametrize(
    ("seconds", "websocket", "polling", "acting"),
    [
        (60, True, False, [["websocket"], ["polling", "websocket"]]),
        (60, None, True, [["polling"], ["polling", "websocket"]]),
        (None, True, True, []),
    ],
)
def test_limits_act_on_transports(
    seconds: float | None, websocket: bool | None, polling: bool, acting: list[list[str]]
) -> None:
    limit = Limit("x", "s", seconds, LimitKind.IDLE, websocket, polling, "here", Confidence.DOCUMENTED)
    choices = [["websocket"], ["polling"], ["polling", "websocket"]]
    assert [each for each in choices if limit.acts_on(each)] == [each for each in choices if each in acting]


def test_a_given_idle_timeout_replaces_idle_limits_only() -> None:
    limits = limits_on_path(("envoy", "nginx"), 40)
    assert [(limit.product, limit.setting, limit.seconds) for limit in limits] == [
        ("configured", "idle_timeout", 40),
        ("envoy", "route.timeout", 15),
    ]
    assert limits_on_path(("nginx", "envoy")) == PROFILES["nginx"].limits + PROFILES["envoy"].limits


def test_where() -> None:
    nginx, envoy = PROFILES["nginx"].limits[0], limits_on_path((), 12.5)[0]
    assert where(nginx) == "proxy_read_timeout of nginx (60 s)"
    assert where(envoy) == "the idle limit that you gave (12.5 s)"
    assert where(PROFILES["haproxy"].limits[0]) == "none known"
    assert where(None) == "none known"


def test_describe_path() -> None:
    assert describe_path((), None) == ["Path: no proxy was named, so no limit is known."]
    assert describe_path((), 30) == [
        "Path: proxies without a name",
        "  You gave 30 s as its smallest idle limit, in place of the defaults.",
    ]
    assert describe_path(("cloudflare",), None) == [
        "Path: cloudflare",
        "  cloudflare",
        "    proxy read timeout: 120 s, first byte; not known whether it acts on WebSocket, acts on polling. From "
        "https://developers.cloudflare.com/fundamentals/reference/connection-limits (documentation).",
        "    websocket idle: 100 s, idle; acts on WebSocket, does not act on polling. From "
        "https://github.com/buildbot/buildbot/issues/4078 (forum or issue thread, so check it).",
    ]
    replaced = describe_path(("envoy",), 40)
    assert replaced[3].endswith("Replaced.")
    assert not replaced[4].endswith("Replaced.")
    assert replaced[5].startswith("    Set the timeout of the route to 0s")
    assert "timeout tunnel: no limit by default" in describe_path(("haproxy",), None)[2]


@pytest.mark.parametrize("value", [5, 5.5, 60, 2000, 3600, 10_800, 86_400, 9999, 12_345, 365 * 86_400])
def test_idle_timeouts(value: float) -> None:
    check_idle_timeout(value)
    assert Heartbeat(idle_timeout=value).idle_timeout == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((value, f"is a {type(value).__name__}") for value in (True, "60", None, b"60", 60j)),
        *((value, "between 5 s and a year") for value in (0, -1, 4.99, math.nan, math.inf, -math.inf)),
        *((value, "between 5 s and a year") for value in (365 * 86_400 + 1, 10**400)),
        *((value, f"looks like milliseconds; write {value // 1000}, in seconds") for value in (60_000, 10_000)),
        (300_000.0, "looks like milliseconds; write 300, in seconds"),
    ],
)
def test_what_is_no_idle_timeout(value: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        check_idle_timeout(value)
    assert caught.value.option == "idle_timeout"
