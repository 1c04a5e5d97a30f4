"""The time limits of proxies and platforms, as data: what cuts a quiet connection or a long answer.

This module is pure.

Only defaults with a source are here. They were collected in November 2026; a proxy that was set up otherwise has other
limits, which `Heartbeat.behind` takes as ``idle_timeout``.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from socketguard.errors import ConfigurationError
from socketguard.text import neutralise

__all__ = [
    "PROFILES",
    "Confidence",
    "Limit",
    "LimitKind",
    "Profile",
    "canonical_name",
    "check_idle_timeout",
    "describe_path",
    "limits_on_path",
    "number",
    "where",
]


class LimitKind(enum.StrEnum):
    """What a limit measures."""

    IDLE = "idle"
    """Time without a byte. Every byte starts it again, so a heartbeat keeps the connection."""
    FIRST_BYTE = "first_byte"
    """Time until an answer begins. Long polling holds a GET open for that long."""
    RESPONSE_LIFETIME = "response_lifetime"
    """Time until an answer is complete."""
    LIFETIME = "lifetime"
    """Time until the connection ends, busy or not. No heartbeat helps."""
    REQUEST_READ = "request_read"
    """Time to read a whole request, with its body."""
    KEEPALIVE = "keepalive"
    """Time between two requests on one connection."""
    CONNECT = "connect"
    """Time to reach the server behind the proxy."""
    NONE = "none"
    """Said by the vendor to have no limit."""


class Confidence(enum.StrEnum):
    """What kind of source a figure has."""

    MEASURED = "measured"
    SOURCE = "source code"
    DOCUMENTED = "documentation"
    REPORTED = "forum or issue thread"
    GIVEN = "configuration"


def number(value: float) -> str:
    """A number as a person writes it: 25, not 25.0."""
    return str(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True, slots=True)
class Limit:
    """One time limit of one hop.

    Attributes:
        product: the canonical name of the profile, or ``configured`` for what the operator gave.
        setting: the product's own name for it.
        seconds: the default in seconds; None when it is off or has no default.
        kind: what is measured.
        websocket: whether it acts on a WebSocket after the upgrade; None when that is not known.
        polling: whether it acts on the GET of HTTP long-polling.
        source: where the figure was found.
        confidence: what kind of source that is.
    """

    product: str
    setting: str
    seconds: float | None
    kind: LimitKind
    websocket: bool | None
    polling: bool
    source: str
    confidence: Confidence

    def acts_on(self, transports: Iterable[str]) -> bool:
        """Whether this limit is on, and acts on one of the transports. What is not known counts as no."""
        if self.seconds is None:
            return False
        return any(self.polling if transport == "polling" else bool(self.websocket) for transport in transports)

    def __str__(self) -> str:
        seconds = "no limit by default" if self.seconds is None else f"{number(self.seconds)} s"
        acts = {True: "acts", False: "does not act", None: "not known whether it acts"}
        check = ", so check it" if self.confidence is Confidence.REPORTED else ""
        return (
            f"{self.setting}: {seconds}, {self.kind.value.replace('_', ' ')}; {acts[self.websocket]} on WebSocket, "
            f"{acts[self.polling]} on polling. From {self.source} ({self.confidence}{check})."
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A proxy, load balancer or platform with its limits.

    Attributes:
        name: the canonical name.
        limits: every limit that is known, also those that leave Socket.IO alone.
        aliases: other names for the same.
        polling: whether Socket.IO's HTTP long-polling works there.
        socketio: whether Socket.IO works there at all.
        note: what to know beside the figures.
    """

    name: str
    limits: tuple[Limit, ...]
    aliases: tuple[str, ...] = ()
    polling: bool = True
    socketio: bool = True
    note: str = ""


_IDLE, _FIRST, _RESPONSE, _LIFE = LimitKind.IDLE, LimitKind.FIRST_BYTE, LimitKind.RESPONSE_LIFETIME, LimitKind.LIFETIME
_READ, _KEEP, _DIAL, _NONE = LimitKind.REQUEST_READ, LimitKind.KEEPALIVE, LimitKind.CONNECT, LimitKind.NONE
_LAB, _SRC, _DOC, _ISSUE = Confidence.MEASURED, Confidence.SOURCE, Confidence.DOCUMENTED, Confidence.REPORTED

_TRAEFIK_STATIC = "Traefik pkg/config/static/static_config.go"
_TRAEFIK_ENTRY = "Traefik documentation of entry points"
_TRAEFIK_TRANSPORT = "Traefik documentation of serversTransport"
_TRAEFIK_DYNAMIC = "Traefik pkg/config/dynamic/http_config.go"
_NGINX = "https://nginx.org/en/docs/http/ngx_http_proxy_module.html"
_HAPROXY = "HAProxy doc/configuration.txt"
_CADDY = "https://caddyserver.com/docs/caddyfile/directives/reverse_proxy"
_ENVOY = "Envoy docs/root/faq/configuration/timeouts.rst"
_KONG = "Kong kong/db/schema/entities/services.lua"
_INGRESS = "ingress-nginx docs/user-guide/miscellaneous.md"
_ELB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/"
_ALB = f"{_ELB}application/edit-load-balancer-attributes.html"
_NLB = f"{_ELB}network/update-idle-timeout.md"
_APIGW = (
    "https://docs.aws.amazon.com/apigateway/latest/developerguide/"
    "apigateway-execution-service-websocket-limits-table.html"
)
_CLOUDFRONT = "https://repost.aws/questions/QU05nkjxdfRC2E67FGICmP3g"
_CLOUDFLARE = "https://developers.cloudflare.com/fundamentals/reference/connection-limits"
_CLOUDFLARE_WS = "https://github.com/buildbot/buildbot/issues/4078"
_GCP = (
    "Socket.IO documentation, Behind a reverse proxy, quoting "
    "https://docs.cloud.google.com/load-balancing/docs/https/request-distribution#timeout-bes"
)
_CLOUD_RUN = "https://cloud.google.com/run/docs/configuring/request-timeout"
_AZURE_LB = "https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-idle-timeout"
_APP_SERVICE = "https://learn.microsoft.com/en-us/answers/questions/1465927"
_FRONT_DOOR = "https://learn.microsoft.com/azure/frontdoor/standard-premium/websocket"
_HEROKU = "https://devcenter.heroku.com/articles/"
_RAILWAY = "railwayapp/docs specs-and-limits.md"
_VERCEL = "https://vercel.com/docs/functions/websockets; ai-primer.com"

# One row: setting, seconds (None: off, or no default), kind, acts on WebSocket, acts on polling, source, confidence.
_Row = tuple[str, float | None, LimitKind, bool | None, bool, str, Confidence]


def _profile(
    name: str, *rows: _Row, aliases: tuple[str, ...] = (), polling: bool = True, socketio: bool = True, note: str = ""
) -> Profile:
    return Profile(name, tuple(Limit(name, *row) for row in rows), aliases, polling, socketio, note)


_ALL = (
    _profile(
        "traefik",
        ("respondingTimeouts.readTimeout", 60, _READ, False, False, _TRAEFIK_STATIC, _SRC),
        ("respondingTimeouts.writeTimeout", None, _RESPONSE, False, True, _TRAEFIK_ENTRY, _SRC),
        ("respondingTimeouts.idleTimeout", 180, _KEEP, False, False, _TRAEFIK_STATIC, _SRC),
        ("forwardingTimeouts.responseHeaderTimeout", None, _FIRST, False, True, _TRAEFIK_TRANSPORT, _DOC),
        ("forwardingTimeouts.dialTimeout", 30, _DIAL, True, True, _TRAEFIK_DYNAMIC, _SRC),
        aliases=("easypanel",),
        note="readTimeout is 60 s in version 3 and from 2.11.2 on, and off up to 2.11.1; it measures the reading of a "
        "request, and ends with the upgrade. A writeTimeout or responseHeaderTimeout below the interval, set by you, "
        "cuts polling.",
    ),
    _profile(
        "nginx",
        ("proxy_read_timeout", 60, _IDLE, True, True, f"{_NGINX}#proxy_read_timeout", _LAB),
        ("proxy_send_timeout", 60, _IDLE, True, True, f"{_NGINX}#proxy_send_timeout", _DOC),
    ),
    _profile(
        "haproxy",
        ("timeout tunnel", None, _IDLE, True, False, f"{_HAPROXY}; falls back to timeout client and server", _LAB),
        ("timeout server", None, _FIRST, True, True, _HAPROXY, _LAB),
        note="There are no defaults for these, but nearly every configuration sets them: give the smallest of timeout "
        "client, timeout server and timeout tunnel as idle_timeout.",
    ),
    _profile(
        "caddy",
        ("stream_timeout", None, _LIFE, True, False, _CADDY, _DOC),
        note="A reload of the configuration closes WebSockets at once unless stream_close_delay is set.",
    ),
    _profile(
        "envoy",
        ("stream_idle_timeout", 300, _IDLE, True, True, _ENVOY, _DOC),
        ("route.timeout", 15, _RESPONSE, None, True, _ENVOY, _DOC),
        note="Set the timeout of the route to 0s for Socket.IO. Whether it acts on a WebSocket after the upgrade is "
        "not known.",
    ),
    _profile(
        "apache",
        ("max(Timeout, ProxyTimeout)", 60, _IDLE, True, True, "httpd modules/proxy/proxy_util.c", _LAB),
        aliases=("apache2", "apache-httpd", "httpd"),
    ),
    _profile(
        "kong",
        ("service.read_timeout", 60, _IDLE, True, True, _KONG, _SRC),
        aliases=("kong-gateway",),
        note="Kong counts in milliseconds: 60000.",
    ),
    _profile(
        "ingress-nginx",
        ("proxy-read-timeout", 60, _IDLE, True, True, _INGRESS, _DOC),
        aliases=("nginx-ingress",),
    ),
    _profile("aws-alb", ("idle_timeout.timeout_seconds", 60, _IDLE, True, True, _ALB, _DOC), aliases=("alb",)),
    _profile("aws-nlb", ("tcp.idle_timeout.seconds", 350, _IDLE, True, True, _NLB, _DOC), aliases=("nlb",)),
    _profile(
        "aws-apigw-ws",
        ("idle", 600, _IDLE, True, False, _APIGW, _DOC),
        ("connection duration", 7200, _LIFE, True, False, _APIGW, _DOC),
        aliases=("api-gateway", "aws-api-gateway", "apigw-ws"),
        polling=False,
        socketio=False,
        note="WebSocket APIs of API Gateway speak a protocol of their own.",
    ),
    _profile(
        "cloudfront",
        ("websocket idle", 600, _IDLE, True, False, _CLOUDFRONT, _ISSUE),
        aliases=("aws-cloudfront",),
    ),
    _profile(
        "cloudflare",
        ("proxy read timeout", 120, _FIRST, None, True, _CLOUDFLARE, _DOC),
        ("websocket idle", 100, _IDLE, True, False, _CLOUDFLARE_WS, _ISSUE),
    ),
    _profile(
        "gcp-classic-alb",
        ("backend service timeout", 30, _LIFE, True, True, _GCP, _DOC),
        aliases=("gcp-classic",),
    ),
    _profile(
        "gcp-global-alb",
        ("backend service timeout", 30, _IDLE, True, True, _GCP, _DOC),
        aliases=("gcp", "gcp-alb", "gcp-regional-alb"),
        note="The classic load balancer cuts busy WebSockets as well: name it gcp-classic-alb.",
    ),
    _profile(
        "cloud-run",
        ("request timeout", 300, _LIFE, True, True, _CLOUD_RUN, _DOC),
        aliases=("cloudrun", "gcp-cloud-run", "google-cloud-run"),
        note="The request timeout can be raised to 3600 s.",
    ),
    _profile("azure-lb", ("idle", 240, _IDLE, True, True, _AZURE_LB, _DOC), aliases=("azure-load-balancer",)),
    _profile(
        "azure-app-service",
        ("idle request", 230, _FIRST, None, True, _APP_SERVICE, _ISSUE),
        aliases=("app-service",),
        note="WebSockets have to be switched on in its settings.",
    ),
    _profile(
        "azure-front-door",
        ("websocket idle", 300, _IDLE, True, False, _FRONT_DOOR, _DOC),
        aliases=("azure-frontdoor", "front-door"),
        note="Caching on a route takes the Upgrade header away.",
    ),
    _profile(
        "heroku",
        ("H12 initial", 30, _FIRST, False, True, f"{_HEROKU}request-timeout", _DOC),
        ("H15 rolling", 55, _IDLE, True, True, f"{_HEROKU}http-routing", _DOC),
    ),
    _profile(
        "railway",
        ("websocket", None, _NONE, False, False, _RAILWAY, _DOC),
        ("http no data", 300, _IDLE, False, True, _RAILWAY, _DOC),
    ),
    _profile(
        "vercel",
        ("function max duration (WebSocket beta)", 1800, _LIFE, True, False, _VERCEL, _ISSUE),
        polling=False,
        note="Requests of one session reach different instances, so polling can't work.",
    ),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
"""Every profile by its canonical name."""

_NAMES = {name: profile.name for profile in _ALL for name in (profile.name, *profile.aliases)}
_MIN_IDLE = 5  # seconds
_MAX_IDLE = 365 * 86_400  # seconds
_SERVERS = frozenset({"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})
# Known products for whose defaults no source could be found. A guess would be worse than a question.
_UNVERIFIED = frozenset(
    {"app-gateway", "azure-app-gateway", "digitalocean", "digital-ocean", "fly", "fly.io", "fly-io", "istio", "render"}
)


def canonical_name(name: object, *, option: str = "proxies") -> str:
    """Turn what somebody wrote for a proxy into the name of its profile.

    Case, spaces and underscores don't matter: ``"AWS ALB"`` is ``aws-alb``.

    Args:
        name: a name or alias.
        option: the option that an error names.

    Raises:
        ConfigurationError: there is no such profile. The text says which there are and which is the nearest.
    """
    if not isinstance(name, str):
        raise ConfigurationError(
            f'{option}: a proxy is given by its name, not by a {type(name).__name__}; write "nginx", or several names '
            'separated by commas: behind("cloudflare", "nginx").',
            option=option,
        )
    key = "-".join(name.strip().casefold().replace("_", " ").split())
    if key in _NAMES:
        return _NAMES[key]
    shown = f"{option}: {neutralise(name, 60)!r}"
    if key in _SERVERS:
        raise ConfigurationError(
            f"{shown} is the application server, not a proxy before it: leave it out. uvicorn's own pings are checked "
            "by Heartbeat.server_ping_findings().",
            option=option,
        )
    if key in _UNVERIFIED:
        raise ConfigurationError(
            f"{shown} has no profile, because no reliable source gives its limits. Leave the name out, and give the "
            "smallest idle limit on the path: Heartbeat.for_idle_timeout(60).",
            option=option,
        )
    near = difflib.get_close_matches(key, _NAMES, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(
        f"{shown} is not a known proxy.{guess} Known are {', '.join(sorted(_NAMES))}. For any other, give its idle "
        "limit in seconds: Heartbeat.for_idle_timeout(60).",
        option=option,
    )


def limits_on_path(proxies: Iterable[str], idle_timeout: float | None = None) -> tuple[Limit, ...]:
    """All limits of all hops, in the order of the path.

    Args:
        proxies: canonical names.
        idle_timeout: the smallest idle limit that is really configured on the path, in seconds. It replaces the
            defaults of kind idle, and no others.
    """
    limits = [limit for name in proxies for limit in PROFILES[name].limits]
    if idle_timeout is None:
        return tuple(limits)
    given = Limit("configured", "idle_timeout", idle_timeout, _IDLE, True, True, "you", Confidence.GIVEN)
    return (given, *(limit for limit in limits if limit.kind is not _IDLE))


def where(limit: Limit | None) -> str:
    """A limit in half a sentence, such as ``proxy_read_timeout of nginx (60 s)``."""
    if limit is None or limit.seconds is None:
        return "none known"
    name = "the idle limit that you gave" if limit.product == "configured" else f"{limit.setting} of {limit.product}"
    return f"{name} ({number(limit.seconds)} s)"


def describe_path(proxies: tuple[str, ...], idle_timeout: float | None) -> list[str]:
    """Lines of text about every hop: all its limits, where they were found, and what else to know.

    Args:
        proxies: canonical names.
        idle_timeout: as for `limits_on_path`.
    """
    if not proxies and idle_timeout is None:
        return ["Path: no proxy was named, so no limit is known."]
    lines = [f"Path: {', '.join(proxies) or 'proxies without a name'}"]
    if idle_timeout is not None:
        lines.append(f"  You gave {number(idle_timeout)} s as its smallest idle limit, in place of the defaults.")
    used = limits_on_path(proxies, idle_timeout)
    for name in proxies:
        profile = PROFILES[name]
        lines.append(f"  {name}")
        lines += [f"    {limit}{'' if limit in used else ' Replaced.'}" for limit in profile.limits]
        if profile.note:
            lines.append(f"    {profile.note}")
    return lines


def check_idle_timeout(value: object) -> None:
    """Refuse what can't be an idle limit in seconds.

    Raises:
        ConfigurationError: no number, too small for any heartbeat, more than a year, or most likely milliseconds.
    """
    option = "idle_timeout"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(
            f"{option} is a {type(value).__name__}; write the limit in seconds, such as 60.", option=option
        )
    # Long limits are usual for WebSockets, but then they are whole hours.
    if 10_000 <= value <= _MAX_IDLE and value % 1000 == 0 and value % 3600 != 0:
        raise ConfigurationError(
            f"{option}: {number(value)} looks like milliseconds; write {number(value / 1000)}, in seconds.",
            option=option,
        )
    if not _MIN_IDLE <= value <= _MAX_IDLE:
        raise ConfigurationError(
            f"{option} has to be between {_MIN_IDLE} s and a year. When the limit of the proxy is shorter, raise it: "
            "no heartbeat is sane there. When there is no limit, leave it out.",
            option=option,
        )
