"""Which proxies answered, told by their headers and error pages.

A proxy that leaves no trace in an answer, as Traefik and HAProxy do while all is well, can't be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from socketguard.errors import ConfigurationError
from socketguard.proxies.heartbeat import Heartbeat
from socketguard.proxies.profiles import PROFILES, LimitKind

from .observations import Answer

__all__ = ["Proxy", "at_risk", "recognise"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that was recognised, and by what."""

    name: str
    evidence: str


# Header, what its value begins with or holds, and the proxy.
_HEADERS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (header, re.compile(pattern, re.IGNORECASE), name)
    for header, pattern, name in (
        ("cf-ray", "", "cloudflare"),
        ("server", "^cloudflare", "cloudflare"),
        ("x-amz-cf-id", "", "cloudfront"),
        ("server", "^awselb/", "aws-alb"),
        ("set-cookie", "^AWSALB", "aws-alb"),
        ("server", "^istio-envoy", "istio"),
        ("server", "^envoy", "envoy"),
        ("x-envoy-upstream-service-time", "", "envoy"),
        ("x-kong-upstream-latency", "", "kong"),
        ("server", "^kong/", "kong"),
        ("via", r"\bkong/", "kong"),
        ("x-azure-ref", "", "azure-front-door"),
        ("server", "^Google Frontend", "cloud-run"),
        ("via", r"\b1\.1 google", "gcp-global-alb"),
        ("via", r"\bvegur\b|heroku-router", "heroku"),
        ("server", "^Heroku", "heroku"),
        ("server", "^railway", "railway"),
        ("x-railway-request-id", "", "railway"),
        ("x-vercel-id", "", "vercel"),
        ("server", "^Vercel", "vercel"),
        ("fly-request-id", "", "fly"),
        ("rndr-id", "", "render"),
        ("via", r"\bcaddy\b", "caddy"),
        ("server", "^Caddy", "caddy"),
        ("server", "^(nginx|openresty)", "nginx"),
        ("server", "^Apache", "apache"),
    )
)
_BODIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"<hr><center>(nginx|openresty)", "nginx"),
        (r"No server is available to handle this request|The server didn't respond in time\.", "haproxy"),
        (r"<h1>\d{3} [^<]*</h1>\s*(Your browser sent an invalid request|A request in this conn)", "haproxy"),
        (r"<address>Apache/", "apache"),
    )
)
# Go programs say some of these as well, but not without a Server header of their own.
_TRAEFIK = re.compile(
    r"\A(404 page not found|no available server|Bad Gateway|Gateway Timeout|Client Closed Request)\s*\Z"
)


def recognise(answers: Iterable[Answer]) -> list[Proxy]:
    """Name the proxies that left a trace in the answers, each once."""
    found: dict[str, Proxy] = {}
    for answer in answers:
        for header, pattern, name in _HEADERS:
            value = next((value for value in answer.all(header) if pattern.search(value)), None)
            if value is not None:
                shown = f"{header}: {value[:40]}" if header in ("server", "via") else f"the header {header}"
                found.setdefault(name, Proxy(name, shown))
        for pattern, name in _BODIES:
            if answer.status >= 400 and pattern.search(answer.body):
                found.setdefault(name, Proxy(name, f"its error page for {answer.status}"))
        if answer.status >= 400 and not answer.header("server") and _TRAEFIK.match(answer.body):
            found.setdefault("traefik", Proxy("traefik", f"its answer for {answer.status}"))
        if 520 <= answer.status <= 526:
            found.setdefault("cloudflare", Proxy("cloudflare", f"the status {answer.status}"))
    return list(found.values())


def at_risk(interval: float, timeout: float, proxies: Iterable[Proxy]) -> list[str]:
    """Say where the announced heartbeat does not fit the idle limits that these proxies have by default.

    Only idle limits are judged, and only an interval that does not fit: the limits of a good deployment may have been
    raised, which nobody sees from outside.
    """
    known = tuple(proxy.name for proxy in proxies if proxy.name in PROFILES)
    try:
        heartbeat = Heartbeat(max(1, round(interval)), max(1, round(timeout)), proxies=known)
    except ConfigurationError:  # a server may announce anything
        return []
    smallest = [
        limit.seconds
        for name in known
        for limit in PROFILES[name].limits
        if limit.kind is LimitKind.IDLE and limit.websocket and limit.seconds is not None
    ]
    if not smallest or interval < min(smallest):
        return []
    return [finding.text for finding in heartbeat.findings(transports=["websocket"]) if finding.id == "SG001"]
