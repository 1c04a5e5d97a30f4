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


def test_no_profile_rests_on_an_unverified_figure_or_is_a_server() -> None:
    absent = {"azure-app-gateway", "fly", "istio", "render", "digitalocean", "uvicorn", "hypercorn", "gunicorn"}
    assert not absent & set(PROFILES)


def test_names_and_aliases_are_unique_and_already_canonical() -> None:
    names = [name for profile in PROFILES.values() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.casefold() and " " not in name and "_" not in name for name in names)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("nginx", "nginx"),
        ("  NGINX ", "nginx"),
        ("easypanel", "traefik"),
        ("EasyPanel", "traefik"),
        ("alb", "aws-alb"),
        ("AWS ALB", "aws-alb"),
        ("aws_alb", "aws-alb"),
        ("gcp", "gcp-global-alb"),
        ("GCP classic", "gcp-classic-alb"),
        ("Google Cloud Run", "cloud-run"),
        ("httpd", "apache"),
    ],
)
def test_names_are_forgiving(written: str, name: str) -> None:
    assert canonical_name(written) == name


def test_an_unknown_name_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(ConfigurationError) as caught:
        canonical_name("trafik")
    text = str(caught.value)
    assert "'trafik' is not a known proxy. Did you mean 'traefik'?" in text
    assert all(name in text for name in PROFILES)
    assert "for_idle_timeout(60)" in text
    assert caught.value.option == "proxies"


def test_a_name_that_resembles_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ConfigurationError) as caught:
        canonical_name("zzzzzzzz", option="hops")
    assert "Did you mean" not in str(caught.value)
    assert caught.value.option == "hops"


@pytest.mark.parametrize("name", ["uvicorn", "Hypercorn", "gunicorn", "granian", "daphne"])
def test_an_application_server_is_no_proxy(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is the application server, not a proxy"):
        canonical_name(name)


@pytest.mark.parametrize("name", ["fly", "Fly.io", "azure app gateway", "istio", "render", "digitalocean"])
def test_a_product_without_a_verified_limit_says_so(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no reliable source"):
        canonical_name(name)


@pytest.mark.parametrize("value", [None, 60, b"nginx", ["nginx"]])
def test_a_name_has_to_be_text(value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"not by a {type(value).__name__}"):
        canonical_name(value)


def test_a_long_name_is_cut() -> None:
    with pytest.raises(ConfigurationError, match=f"'{'y' * 60}…' is not a known proxy"):
        canonical_name("y" * 61)


@given(st.text(max_size=200))
def test_any_text_is_a_profile_or_a_configuration_error_of_one_line(text: str) -> None:
    try:
        outcome = canonical_name(text)
    except ConfigurationError as error:
        outcome = str(error)
    assert outcome in PROFILES or outcome.startswith("proxies: ")
    assert outcome.isprintable()
    assert len(outcome) < 1500


def test_limits_act_on_transports() -> None:
    idle = Limit("x", "s", 60, LimitKind.IDLE, True, False, "here", Confidence.DOCUMENTED)
    assert idle.acts_on(["websocket"])
    assert idle.acts_on(["polling", "websocket"])
    assert not idle.acts_on(["polling"])
    unknown = Limit("x", "s", 60, LimitKind.IDLE, None, True, "here", Confidence.DOCUMENTED)
    assert not unknown.acts_on(["websocket"])
    off = Limit("x", "s", None, LimitKind.IDLE, True, True, "here", Confidence.DOCUMENTED)
    assert not off.acts_on(["polling", "websocket"])


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


@pytest.mark.parametrize("value", [True, "60", None, b"60", 60j])
def test_idle_timeout_has_to_be_a_number(value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"is a {type(value).__name__}") as caught:
        check_idle_timeout(value)
    assert caught.value.option == "idle_timeout"


@pytest.mark.parametrize("value", [0, -1, 4.99, math.nan, math.inf, -math.inf, 365 * 86_400 + 1, 10**400])
def test_idle_timeout_out_of_range(value: float) -> None:
    with pytest.raises(ConfigurationError, match="between 5 s and a year"):
        check_idle_timeout(value)


@pytest.mark.parametrize(("value", "seconds"), [(60_000, "60"), (10_000, "10"), (300_000.0, "300")])
def test_idle_timeout_in_milliseconds(value: float, seconds: str) -> None:
    with pytest.raises(ConfigurationError, match=f"looks like milliseconds; write {seconds}, in seconds"):
        check_idle_timeout(value)
