"""What is known of each proxy and platform, as data: its time limits, its traces and its settings.

Only defaults with a source are here. They were collected in November 2026; a proxy that was set up otherwise has other
limits, which `Heartbeat.behind` takes as ``idle_timeout``. A new product is one row of `_ALL`.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from socketguard.errors import ConfigurationError
from socketguard.text import neutralise

__all__ = ["KNOWN", "PROFILES", "Limit", "LimitKind", "Profile", "Setting", "canonical_name", "number", "where"]

Setting = Literal["websocket", "forward", "sticky"]
"""What Socket.IO needs of a proxy: the upgrade, the Host and scheme of the client, and one server for a session."""


class LimitKind(enum.StrEnum):
    """What a limit measures: the time …"""

    IDLE = "idle"  # … without a byte. Every byte starts it again, so a heartbeat keeps the connection.
    FIRST_BYTE = "first_byte"  # … until an answer begins. Long polling holds a GET open for that long.
    RESPONSE_LIFETIME = "response_lifetime"  # … until an answer is complete.
    LIFETIME = "lifetime"  # … until the connection ends, busy or not. No heartbeat helps.
    REQUEST_READ = "request_read"  # … to read a whole request, with its body.
    KEEPALIVE = "keepalive"  # … between two requests on one connection.
    CONNECT = "connect"  # … to reach the server behind the proxy.
    NONE = "none"  # Said by the vendor to have no limit.


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
    """One time limit of one hop."""

    product: str  # The canonical name of the profile, or "configured" for what the operator gave.
    setting: str  # The product's own name for it.
    seconds: float | None  # The default; None when it is off or has no default.
    kind: LimitKind
    websocket: bool | None  # Whether it acts there; None where nobody knows.
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


_IDLE, _FIRST, _RESPONSE, _LIFE = LimitKind.IDLE, LimitKind.FIRST_BYTE, LimitKind.RESPONSE_LIFETIME, LimitKind.LIFETIME
_READ, _KEEP, _DIAL, _NONE = LimitKind.REQUEST_READ, LimitKind.KEEPALIVE, LimitKind.CONNECT, LimitKind.NONE
_LAB, _SRC, _DOC, _ISSUE = Confidence.MEASURED, Confidence.SOURCE, Confidence.DOCUMENTED, Confidence.REPORTED

_TRAEFIK_STATIC = "Traefik pkg/config/static/static_config.go"
_TRAEFIK_ENTRY = "Traefik documentation of entry points"
_TRAEFIK_TRANSPORT = "Traefik documentation of serversTransport"
_NGINX = "https://nginx.org/en/docs/http/ngx_http_proxy_module.html"
_HAPROXY = "HAProxy doc/configuration.txt"
_CADDY = "https://caddyserver.com/docs/caddyfile/directives/reverse_proxy"
_ENVOY = "Envoy docs/root/faq/configuration/timeouts.rst"
_ELB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/"
_ALB = f"{_ELB}application/edit-load-balancer-attributes.html"
_NLB = f"{_ELB}network/update-idle-timeout.md"
_APIGW = (
    "https://docs.aws.amazon.com/apigateway/latest/developerguide/"
    "apigateway-execution-service-websocket-limits-table.html"
)
_CLOUDFLARE = "https://developers.cloudflare.com/fundamentals/reference/connection-limits"
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

# One row of limits: setting, seconds, kind, acts on WebSocket, acts on polling, source, confidence.
_Row = tuple[str, float | None, LimitKind, bool | None, bool, str, Confidence]


class Profile:
    """A proxy, load balancer or platform: its name, then its aliases; without limits where no good source gives any."""

    def __init__(
        self,
        names: str,
        *limits: _Row,
        polling: bool = True,
        socketio: bool = True,
        note: str = "",
        requests: tuple[str, ...] = (),
        via: tuple[str, ...] = (),
        answers: tuple[str, ...] = (),
        error_pages: tuple[str, ...] = (),
        websocket: str = "",
        forward: str = "",
        sticky: str = "",
    ) -> None:
        self.name, *self.aliases = names.split()
        self.limits = tuple(Limit(self.name, *row) for row in limits)
        self.polling = polling
        """Whether Socket.IO's HTTP long-polling works there."""
        self.socketio = socketio
        """Whether Socket.IO works there at all."""
        self.note = note
        self.request_headers = tuple(frozenset(headers.encode().split()) for headers in requests)
        """Headers that it puts into a request by itself (``"x-this x-that"``); all of one set have to be there."""
        self.via = via
        """Words by which it is told in Via of a request (RFC 9110, section 7.6.3)."""
        split = (answer.partition(": ") for answer in answers)
        self.answer_headers = tuple((header, re.compile(value, re.IGNORECASE)) for header, _, value in split)
        """Headers of its answers, and what their values look like (``"name: pattern"``)."""
        self.error_pages = tuple(map(re.compile, error_pages))
        """What its error pages hold."""
        settings: dict[Setting, str] = {"websocket": websocket, "forward": forward, "sticky": sticky}
        self.settings = {setting: line for setting, line in settings.items() if line}
        """How it is told to give what Socket.IO needs."""


_ITSELF_HTTP1 = "it passes upgrades by itself (over HTTP/1.1): look at the hop behind it"

# The traces of each, the surest first, are from the documentation of the products. Traefik:
# pkg/middlewares/forwardedheaders/forwarded_header.go, which is the only one to send X-Forwarded-Server together with
# X-Real-Ip. Apache's mod_proxy sends X-Forwarded-Server and -Host.
_ALL = (
    Profile(
        "traefik easypanel",
        ("respondingTimeouts.readTimeout", 60, _READ, False, False, _TRAEFIK_STATIC, _SRC),
        ("respondingTimeouts.writeTimeout", None, _RESPONSE, False, True, _TRAEFIK_ENTRY, _SRC),
        ("respondingTimeouts.idleTimeout", 180, _KEEP, False, False, _TRAEFIK_STATIC, _SRC),
        ("forwardingTimeouts.responseHeaderTimeout", None, _FIRST, False, True, _TRAEFIK_TRANSPORT, _DOC),
        ("forwardingTimeouts.dialTimeout", 30, _DIAL, True, True, "Traefik pkg/config/dynamic/http_config.go", _SRC),
        note="readTimeout is 60 s in version 3 and from 2.11.2 on, and off up to 2.11.1; it measures the reading of a "
        "request, and ends with the upgrade. A writeTimeout or responseHeaderTimeout below the interval, set by you, "
        "cuts polling.",
        requests=("x-forwarded-server x-real-ip", "x-forwarded-server x-forwarded-port"),
        via=("traefik",),
        websocket="a plain router passes upgrades by itself: look for a headers or buffering middleware on it",
        forward="passHostHeader: true on the service; entryPoints.NAME.forwardedHeaders.trustedIPs for the proxy in "
        "front of Traefik",
        sticky="traefik.http.services.app.loadbalancer.sticky.cookie=true; "
        "traefik.http.services.app.loadbalancer.sticky.cookie.name=sio_srv",
    ),
    Profile(
        "nginx",
        ("proxy_read_timeout", 60, _IDLE, True, True, f"{_NGINX}#proxy_read_timeout", _LAB),
        ("proxy_send_timeout", 60, _IDLE, True, True, f"{_NGINX}#proxy_send_timeout", _DOC),
        via=("nginx",),
        answers=("server: ^(nginx|openresty)",),
        error_pages=(r"<hr><center>(nginx|openresty)",),
        websocket="proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
        "$connection_upgrade;",
        forward="proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;",
        sticky="upstream sio { hash $remote_addr consistent; server app1:8000; server app2:8000; }",
    ),
    Profile(
        "haproxy",
        ("timeout tunnel", None, _IDLE, True, False, f"{_HAPROXY}; falls back to timeout client and server", _LAB),
        ("timeout server", None, _FIRST, True, True, _HAPROXY, _LAB),
        note="There are no defaults for these, but nearly every configuration sets them: give the smallest of timeout "
        "client, timeout server and timeout tunnel as idle_timeout.",
        via=("haproxy",),
        error_pages=(
            r"No server is available to handle this request|The server didn't respond in time\.",
            r"<h1>\d{3} [^<]*</h1>\s*(Your browser sent an invalid request|A request in this conn)",
        ),
        websocket="no option httpclose and no http-request del-header Upgrade; timeout tunnel 1h",
        forward="http-request set-header X-Forwarded-Proto https if { ssl_fc }; and no set-header Host",
        sticky="cookie SRV insert indirect nocache; server a app1:8000 check cookie a",
    ),
    Profile(
        "caddy",
        ("stream_timeout", None, _LIFE, True, False, _CADDY, _DOC),
        note="A reload of the configuration closes WebSockets at once unless stream_close_delay is set.",
        via=("caddy",),
        answers=(r"via: \bcaddy\b", "server: ^Caddy"),
        websocket="reverse_proxy passes upgrades by itself: look for header_up -Upgrade or -Connection",
        forward="no header_up Host; trusted_proxies for the proxy in front of Caddy",
        sticky="reverse_proxy /socket.io/* app1:8000 app2:8000 { lb_policy cookie sio_lb }",
    ),
    Profile(
        "envoy",
        ("stream_idle_timeout", 300, _IDLE, True, True, _ENVOY, _DOC),
        ("route.timeout", 15, _RESPONSE, None, True, _ENVOY, _DOC),
        note="Set the timeout of the route to 0s for Socket.IO. Whether it acts on a WebSocket after the upgrade is "
        "not known.",
        requests=(
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-external-address",
            "x-envoy-internal",
            "x-envoy-attempt-count",
        ),
        via=("envoy",),
        answers=("server: ^envoy", "x-envoy-upstream-service-time"),
        websocket="upgrade_configs: [{upgrade_type: websocket}], and timeout: 0s for the route",
        forward="no host_rewrite on the route; use_remote_address: true, so that x-forwarded-proto is set",
        sticky="lb_policy: RING_HASH; hash_policy: [{cookie: {name: sio, ttl: 0s}}]",
    ),
    Profile(
        "apache apache2 apache-httpd httpd",
        ("max(Timeout, ProxyTimeout)", 60, _IDLE, True, True, "httpd modules/proxy/proxy_util.c", _LAB),
        requests=("x-forwarded-server x-forwarded-host",),
        answers=("server: ^Apache",),
        error_pages=(r"<address>Apache/",),
        websocket="ProxyPass /socket.io/ http://app:8000/socket.io/ upgrade=websocket (httpd 2.4.47 or newer)",
        forward="ProxyPreserveHost On; RequestHeader set X-Forwarded-Proto https",
        sticky='ProxySet stickysession=ROUTEID; Header add Set-Cookie "ROUTEID=.%{BALANCER_WORKER_ROUTE}e; path=/" '
        "env=BALANCER_ROUTE_CHANGED",
    ),
    Profile(
        "kong kong-gateway",
        ("service.read_timeout", 60, _IDLE, True, True, "Kong kong/db/schema/entities/services.lua", _SRC),
        note="Kong counts in milliseconds: 60000.",
        requests=("x-kong-request-id",),
        via=("kong",),
        answers=("x-kong-upstream-latency", "server: ^kong/", r"via: \bkong/"),
        websocket="protocols: [http, https] on the route, and no plugin that buffers the request",
        forward="preserve_host: true on the route; trusted_ips for the proxy in front of Kong",
        sticky="algorithm: consistent-hashing; hash_on: cookie; hash_on_cookie: sio",
    ),
    Profile(
        "ingress-nginx nginx-ingress",
        ("proxy-read-timeout", 60, _IDLE, True, True, "ingress-nginx docs/user-guide/miscellaneous.md", _DOC),
        requests=("x-real-ip x-scheme",),
        websocket='no snippet that sets Upgrade or Connection; nginx.ingress.kubernetes.io/proxy-http-version: "1.1"',
        forward='no upstream-vhost annotation; use-forwarded-headers: "true" behind another proxy',
        sticky="nginx.ingress.kubernetes.io/affinity: cookie; nginx.ingress.kubernetes.io/affinity-mode: persistent",
    ),
    Profile(
        "aws-alb alb",
        ("idle_timeout.timeout_seconds", 60, _IDLE, True, True, _ALB, _DOC),
        requests=("x-amzn-trace-id",),
        answers=("server: ^awselb/", "set-cookie: ^AWSALB"),
        websocket=_ITSELF_HTTP1,
        sticky="stickiness.enabled=true and stickiness.type=lb_cookie on the target group",
    ),
    Profile("aws-nlb nlb", ("tcp.idle_timeout.seconds", 350, _IDLE, True, True, _NLB, _DOC)),
    Profile(
        "aws-apigw-ws api-gateway aws-api-gateway apigw-ws",
        ("idle", 600, _IDLE, True, False, _APIGW, _DOC),
        ("connection duration", 7200, _LIFE, True, False, _APIGW, _DOC),
        polling=False,
        socketio=False,
        note="WebSocket APIs of API Gateway speak a protocol of their own.",
    ),
    Profile(
        "cloudfront aws-cloudfront",
        ("websocket idle", 600, _IDLE, True, False, "https://repost.aws/questions/QU05nkjxdfRC2E67FGICmP3g", _ISSUE),
        requests=("x-amz-cf-id",),
        via=("cloudfront",),
        answers=("x-amz-cf-id",),
        websocket="an origin request policy that forwards all headers of the viewer (AllViewer)",
        forward="an origin request policy that forwards Host, and CloudFront-Forwarded-Proto as X-Forwarded-Proto",
    ),
    Profile(
        "cloudflare",
        ("proxy read timeout", 120, _FIRST, None, True, _CLOUDFLARE, _DOC),
        ("websocket idle", 100, _IDLE, True, False, "https://github.com/buildbot/buildbot/issues/4078", _ISSUE),
        requests=("cf-ray",),
        answers=("cf-ray", "server: ^cloudflare"),
        websocket="Network, WebSockets: On",
        forward="SSL/TLS mode Full (strict) instead of Flexible",
    ),
    Profile("gcp-classic-alb gcp-classic", ("backend service timeout", 30, _LIFE, True, True, _GCP, _DOC)),
    Profile(
        "gcp-global-alb gcp gcp-alb gcp-regional-alb",
        ("backend service timeout", 30, _IDLE, True, True, _GCP, _DOC),
        note="The classic load balancer cuts busy WebSockets as well: name it gcp-classic-alb.",
        requests=("x-cloud-trace-context",),
        via=("google",),
        answers=(r"via: \b1\.1 google",),
        websocket=_ITSELF_HTTP1,
        sticky="sessionAffinity: GENERATED_COOKIE on the backend service",
    ),
    Profile(
        "cloud-run cloudrun gcp-cloud-run google-cloud-run",
        ("request timeout", 300, _LIFE, True, True, _CLOUD_RUN, _DOC),
        note="The request timeout can be raised to 3600 s.",
        answers=("server: ^Google Frontend",),
    ),
    Profile("azure-lb azure-load-balancer", ("idle", 240, _IDLE, True, True, _AZURE_LB, _DOC)),
    Profile(
        "azure-app-service app-service",
        ("idle request", 230, _FIRST, None, True, _APP_SERVICE, _ISSUE),
        note="WebSockets have to be switched on in its settings.",
        requests=("x-arr-log-id x-site-deployment-id", "x-arr-log-id was-default-hostname"),
        websocket="Configuration, General settings, Web sockets: On",
        sticky="ARR affinity: On",
    ),
    Profile(
        "azure-front-door azure-frontdoor front-door",
        ("websocket idle", 300, _IDLE, True, False, _FRONT_DOOR, _DOC),
        note="Caching on a route takes the Upgrade header away.",
        requests=("x-azure-fdid", "x-azure-ref"),
        answers=("x-azure-ref",),
        websocket="no caching on the route: caching takes the Upgrade header away",
    ),
    Profile(
        "heroku",
        ("H12 initial", 30, _FIRST, False, True, f"{_HEROKU}request-timeout", _DOC),
        ("H15 rolling", 55, _IDLE, True, True, f"{_HEROKU}http-routing", _DOC),
        requests=("x-request-start connect-time",),
        via=("heroku", "vegur"),
        answers=(r"via: \bvegur\b|heroku-router", "server: ^Heroku"),
        websocket="it passes upgrades by itself: look at the hop behind it",
        sticky="heroku features:enable http-session-affinity",
    ),
    Profile(
        "railway",
        ("websocket", None, _NONE, False, False, _RAILWAY, _DOC),
        ("http no data", 300, _IDLE, False, True, _RAILWAY, _DOC),
        requests=("x-railway-request-id", "x-railway-edge"),
        answers=("server: ^railway", "x-railway-request-id"),
        websocket=_ITSELF_HTTP1,
    ),
    Profile(
        "vercel",
        ("function max duration (WebSocket beta)", 1800, _LIFE, True, False, _VERCEL, _ISSUE),
        polling=False,
        note="Requests of one session reach different instances, so polling can't work.",
        requests=("x-vercel-id",),
        answers=("x-vercel-id", "server: ^Vercel"),
        websocket="clients with transports: ['websocket']; rewrites don't carry an upgrade",
        sticky="clients with transports: ['websocket']: there is no affinity between requests",
    ),
    Profile("fly fly.io fly-io", answers=("fly-request-id",)),
    Profile("render", answers=("rndr-id",)),
    Profile("digitalocean digital-ocean"),
    Profile("azure-app-gateway app-gateway"),
    Profile("istio", answers=("server: ^istio-envoy",)),
)

KNOWN: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
"""Every product by its canonical name, with those whose limits no reliable source gives. A guess would be worse."""

PROFILES: Mapping[str, Profile] = MappingProxyType({name: known for name, known in KNOWN.items() if known.limits})
"""Those with limits."""

_NAMES = {name: profile.name for profile in PROFILES.values() for name in (profile.name, *profile.aliases)}
_WITHOUT_LIMITS = {name for known in _ALL if not known.limits for name in (known.name, *known.aliases)}
_SERVERS = frozenset({"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})
_MIN_IDLE = 5  # seconds
_MAX_IDLE = 365 * 86_400  # seconds


def canonical_name(name: object, *, option: str = "proxies") -> str:
    """The name of the profile for what somebody wrote: ``"AWS ALB"`` is ``aws-alb``."""
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
        problem = (
            "is the application server, not a proxy before it: leave it out. uvicorn's own pings are checked by "
            "Heartbeat.server_ping_findings()."
        )
    elif key in _WITHOUT_LIMITS:
        problem = (
            "has no profile, because no reliable source gives its limits. Leave the name out, and give the smallest "
            "idle limit on the path: Heartbeat.for_idle_timeout(60)."
        )
    else:
        near = difflib.get_close_matches(key, _NAMES, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        problem = (
            f"is not a known proxy.{guess} Known are {', '.join(sorted(_NAMES))}. For any other, give its idle limit "
            "in seconds: Heartbeat.for_idle_timeout(60)."
        )
    raise ConfigurationError(f"{shown} {problem}", option=option)


def limits_on_path(proxies: Iterable[str], idle_timeout: float | None = None) -> tuple[Limit, ...]:
    """All limits of all hops in their order; an idle limit that was given stands for all of kind idle."""
    limits = tuple(limit for name in proxies for limit in PROFILES[name].limits)
    if idle_timeout is None:
        return limits
    given = Limit("configured", "idle_timeout", idle_timeout, _IDLE, True, True, "you", Confidence.GIVEN)
    return (given, *(limit for limit in limits if limit.kind is not _IDLE))


def where(limit: Limit | None) -> str:
    """A limit in half a sentence, such as ``proxy_read_timeout of nginx (60 s)``."""
    if limit is None or limit.seconds is None:
        return "none known"
    name = "the idle limit that you gave" if limit.product == "configured" else f"{limit.setting} of {limit.product}"
    return f"{name} ({number(limit.seconds)} s)"


def describe_path(proxies: tuple[str, ...], idle_timeout: float | None) -> list[str]:
    """Lines of text about every hop: all its limits, where they were found, and what else to know."""
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
    """Refuse what can't be an idle limit in seconds."""
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
