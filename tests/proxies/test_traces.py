from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard.proxies.profiles import KNOWN, PROFILES
from socketguard.proxies.settings import setting_for
from socketguard.proxies.traces import recognise, recognise_answer


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        ({"host": "h"}, "1.1", ()),
        ({"cf-ray": "8a", "cf-connecting-ip": "192.0.2.1"}, "1.1", ("cloudflare",)),
        ({"x-amz-cf-id": "x", "via": "2.0 abc.cloudfront.net (CloudFront)"}, "1.1", ("cloudfront",)),
        ({"x-azure-fdid": "x"}, "1.1", ("azure-front-door",)),
        ({"x-azure-ref": "x"}, "1.1", ("azure-front-door",)),
        ({"x-vercel-id": "x"}, "1.1", ("vercel",)),
        ({"x-railway-edge": "x"}, "1.1", ("railway",)),
        ({"x-arr-log-id": "x", "x-site-deployment-id": "crm"}, "1.1", ("azure-app-service",)),
        ({"x-arr-log-id": "x", "was-default-hostname": "crm"}, "1.1", ("azure-app-service",)),
        ({"x-arr-log-id": "x"}, "1.1", ()),  # any IIS with Application Request Routing
        ({"via": "1.1 vegur"}, "1.1", ("heroku",)),
        ({"x-request-start": "1", "connect-time": "0"}, "1.1", ("heroku",)),
        ({"x-request-start": "1"}, "1.1", ()),
        ({"x-amzn-trace-id": "Root=1"}, "1.1", ("aws-alb",)),
        ({"via": "1.1 google", "x-cloud-trace-context": "a/1"}, "1.1", ("gcp-global-alb",)),
        ({"x-kong-request-id": "x"}, "1.1", ("kong",)),
        ({"x-envoy-external-address": "192.0.2.1"}, "1.1", ("envoy",)),
        ({"x-envoy-attempt-count": "1"}, "1.1", ("envoy",)),
        ({"x-real-ip": "192.0.2.1", "x-scheme": "https"}, "1.1", ("ingress-nginx",)),
        ({"x-forwarded-server": "t", "x-real-ip": "192.0.2.1", "x-forwarded-host": "h"}, "1.1", ("traefik",)),
        ({"x-forwarded-server": "t", "x-forwarded-port": "443"}, "1.1", ("traefik",)),
        ({"x-forwarded-server": "a", "x-forwarded-host": "h"}, "1.1", ("apache",)),
        ({"x-real-ip": "192.0.2.1"}, "1.1", ("nginx",)),
        ({"host": "app"}, "1.0", ("nginx",)),
        ({"via": "1.1 Caddy"}, "1.1", ("caddy",)),
        ({"via": "1.1 proxy (haproxy)"}, "1.1", ("haproxy",)),
        ({"via": "1.1 unheard-of"}, "1.1", ()),
        ({"cf-ray": "8a", "x-real-ip": "192.0.2.1"}, "1.1", ("cloudflare", "nginx")),
        ({"cf-ray": "8a", "x-forwarded-server": "t", "x-real-ip": "192.0.2.1"}, "1.1", ("cloudflare", "traefik")),
    ],
)
def test_proxies_are_recognised(headers: dict[str, str], version: str, expected: tuple[str, ...]) -> None:
    assert recognise(raw(headers), version) == expected
    assert set(expected) <= set(PROFILES)


@given(st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=300)), max_size=10))
def test_any_headers_can_be_looked_at(headers: list[tuple[bytes, bytes]]) -> None:
    assert set(recognise(headers, "1.1")) <= set(PROFILES)


@pytest.mark.parametrize("setting", ["websocket", "forward", "sticky"])
def test_every_setting_that_is_known_of_a_proxy_is_told(setting: Any) -> None:
    found = {name for name in PROFILES if setting_for(setting, [name]).startswith(f"{name}: ")}
    assert {"nginx", "apache", "haproxy", "traefik", "caddy", "envoy"} <= found
    assert setting_for(setting, []).startswith("for nginx: ")
    assert setting_for(setting, ["unheard-of"]) == setting_for(setting, [])
    for name, known in KNOWN.items():
        told = setting_for(setting, [name])
        assert told == (f"{name}: {known.settings[setting]}" if setting in known.settings else setting_for(setting, []))


@pytest.mark.parametrize(
    ("setting", "proxies", "named"),
    [
        ("websocket", ["cloudflare", "nginx"], "nginx"),
        ("websocket", ["cloudflare", "traefik"], "traefik"),
        ("websocket", ["haproxy", "envoy"], "envoy"),
        ("forward", ["envoy", "haproxy"], "haproxy"),
        ("forward", ["haproxy", "apache"], "apache"),
        ("sticky", ["envoy", "caddy"], "caddy"),
    ],
)
def test_the_setting_is_of_the_hop_that_most_likely_lacks_it(setting: Any, proxies: list[str], named: str) -> None:
    assert setting_for(setting, proxies).startswith(f"{named}: ")


UVICORN = ("server", "uvicorn")

ANSWERS: list[tuple[int, list[tuple[str, str]], str, list[tuple[str, str]]]] = [
    (200, [("server", "nginx/1.22.1")], "", [("nginx", "server: nginx/1.22.1")]),
    (200, [("server", "OpenResty")], "", [("nginx", "server: OpenResty")]),
    (200, [UVICORN, ("server", "Caddy")], "", [("caddy", "server: Caddy")]),
    (200, [("via", "1.1 Caddy")], "", [("caddy", "via: 1.1 Caddy")]),
    (200, [("cf-ray", "8f"), ("server", "cloudflare")], "", [("cloudflare", "the header cf-ray")]),
    (200, [("server", "cloudflare")], "", [("cloudflare", "server: cloudflare")]),
    (200, [("x-amz-cf-id", "x")], "", [("cloudfront", "the header x-amz-cf-id")]),
    (200, [("set-cookie", "AWSALB=secret; path=/")], "", [("aws-alb", "the header set-cookie")]),
    (200, [("server", "awselb/2.0")], "", [("aws-alb", "server: awselb/2.0")]),
    (200, [("server", "istio-envoy")], "", [("istio", "server: istio-envoy")]),
    (200, [("server", "envoy")], "", [("envoy", "server: envoy")]),
    (200, [("x-envoy-upstream-service-time", "1")], "", [("envoy", "the header x-envoy-upstream-service-time")]),
    (200, [("x-kong-upstream-latency", "1")], "", [("kong", "the header x-kong-upstream-latency")]),
    (200, [("server", "kong/3.9")], "", [("kong", "server: kong/3.9")]),
    (200, [("via", "1.1 kong/3.9")], "", [("kong", "via: 1.1 kong/3.9")]),
    (200, [("x-azure-ref", "x")], "", [("azure-front-door", "the header x-azure-ref")]),
    (200, [("server", "Google Frontend")], "", [("cloud-run", "server: Google Frontend")]),
    (200, [("via", "1.1 google")], "", [("gcp-global-alb", "via: 1.1 google")]),
    (200, [("via", "1.1 vegur")], "", [("heroku", "via: 1.1 vegur")]),
    (200, [("via", "2.0 heroku-router")], "", [("heroku", "via: 2.0 heroku-router")]),
    (200, [("server", "Heroku")], "", [("heroku", "server: Heroku")]),
    (200, [("server", "railway-edge")], "", [("railway", "server: railway-edge")]),
    (200, [("x-railway-request-id", "x")], "", [("railway", "the header x-railway-request-id")]),
    (200, [("x-vercel-id", "x")], "", [("vercel", "the header x-vercel-id")]),
    (200, [("server", "Vercel")], "", [("vercel", "server: Vercel")]),
    (200, [("fly-request-id", "x")], "", [("fly", "the header fly-request-id")]),
    (200, [("rndr-id", "x")], "", [("render", "the header rndr-id")]),
    (200, [("server", "Apache/2.4" + "x" * 90)], "", [("apache", "server: Apache/2.4" + "x" * 30)]),
    (200, [UVICORN, ("x-served-by", "nginx")], "<hr><center>nginx", []),
    (502, [], "<hr><center>nginx/1.22.1</center>", [("nginx", "its error page for 502")]),
    (503, [], "<h1>503</h1>\nNo server is available to handle this request", [("haproxy", "its error page for 503")]),
    (504, [], "The server didn't respond in time.", [("haproxy", "its error page for 504")]),
    (
        400,
        [],
        "<h1>400 Bad request</h1>\nYour browser sent an invalid request",
        [("haproxy", "its error page for 400")],
    ),
    (404, [], "<address>Apache/2.4 Server</address>", [("apache", "its error page for 404")]),
    (404, [], "404 page not found\n", [("traefik", "its answer for 404")]),
    (404, [("server", "")], "404 page not found", [("traefik", "its answer for 404")]),
    (404, [UVICORN], "404 page not found\n", []),
    (200, [], "404 page not found\n", []),
    (503, [], "no available server\n", [("traefik", "its answer for 503")]),
    (502, [], "Bad Gateway of ours", []),
    (522, [], "x", [("cloudflare", "the status 522")]),
    (527, [], "x", []),
    # The outermost first, then what error pages tell.
    (
        502,
        [("server", "nginx"), ("cf-ray", "8f")],
        "<address>Apache/",
        [("cloudflare", "the header cf-ray"), ("nginx", "server: nginx"), ("apache", "its error page for 502")],
    ),
]


@pytest.mark.parametrize(("status", "headers", "body", "expected"), ANSWERS)
def test_proxies_are_recognised_by_their_answers(
    status: int, headers: list[tuple[str, str]], body: str, expected: list[tuple[str, str]]
) -> None:
    found = recognise_answer(status, headers, body)
    assert found == expected
    assert {name for name, _ in found} <= KNOWN.keys()


def test_whatever_has_traces_is_looked_for() -> None:
    told = {
        (name, evidence.removeprefix("the header ").partition(":")[0]) for row in ANSWERS for name, evidence in row[3]
    }
    for name, known in KNOWN.items():
        assert {(name, header) for header, _ in known.answer_headers} <= told
        assert all(name in recognise([(sign, b"x") for sign in signs]) for signs in known.request_headers)
