"""The setting of each proxy that forwards what Socket.IO needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

__all__ = ["Setting", "setting_for"]


Setting = Literal["websocket", "forward", "sticky"]


_SETTINGS: Mapping[Setting, Mapping[str, str]] = MappingProxyType(
    {
        "websocket": MappingProxyType(
            {
                "nginx": "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "
                "$connection_upgrade;",
                "apache": "ProxyPass /socket.io/ http://app:8000/socket.io/ upgrade=websocket (httpd 2.4.47 or newer)",
                "envoy": "upgrade_configs: [{upgrade_type: websocket}], and timeout: 0s for the route",
                "kong": "protocols: [http, https] on the route, and no plugin that buffers the request",
                "azure-front-door": "no caching on the route: caching takes the Upgrade header away",
                "azure-app-service": "Configuration, General settings, Web sockets: On",
                "cloudfront": "an origin request policy that forwards all headers of the viewer (AllViewer)",
                "ingress-nginx": "no snippet that sets Upgrade or Connection; nginx.ingress.kubernetes.io/"
                'proxy-http-version: "1.1"',
                "vercel": "clients with transports: ['websocket']; rewrites don't carry an upgrade",
                "haproxy": "no option httpclose and no http-request del-header Upgrade; timeout tunnel 1h",
                "caddy": "reverse_proxy passes upgrades by itself: look for header_up -Upgrade or -Connection",
                "traefik": "a plain router passes upgrades by itself: look for a headers or buffering middleware on it",
                "cloudflare": "Network, WebSockets: On",
                "aws-alb": "it passes upgrades by itself (over HTTP/1.1): look at the hop behind it",
                "gcp-global-alb": "it passes upgrades by itself (over HTTP/1.1): look at the hop behind it",
                "heroku": "it passes upgrades by itself: look at the hop behind it",
                "railway": "it passes upgrades by itself (over HTTP/1.1): look at the hop behind it",
            }
        ),
        "forward": MappingProxyType(
            {
                "nginx": "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;",
                "apache": "ProxyPreserveHost On; RequestHeader set X-Forwarded-Proto https",
                "haproxy": "http-request set-header X-Forwarded-Proto https if { ssl_fc }; and no set-header Host",
                "envoy": "no host_rewrite on the route; use_remote_address: true, so that x-forwarded-proto is set",
                "kong": "preserve_host: true on the route; trusted_ips for the proxy in front of Kong",
                "ingress-nginx": 'no upstream-vhost annotation; use-forwarded-headers: "true" behind another proxy',
                "traefik": "passHostHeader: true on the service; entryPoints.NAME.forwardedHeaders.trustedIPs for the "
                "proxy in front of Traefik",
                "caddy": "no header_up Host; trusted_proxies for the proxy in front of Caddy",
                "cloudfront": "an origin request policy that forwards Host, and CloudFront-Forwarded-Proto as "
                "X-Forwarded-Proto",
                "cloudflare": "SSL/TLS mode Full (strict) instead of Flexible",
            }
        ),
        "sticky": MappingProxyType(
            {
                "nginx": "upstream sio { hash $remote_addr consistent; server app1:8000; server app2:8000; }",
                "apache": "ProxySet stickysession=ROUTEID; Header add Set-Cookie "
                '"ROUTEID=.%{BALANCER_WORKER_ROUTE}e; path=/" env=BALANCER_ROUTE_CHANGED',
                "haproxy": "cookie SRV insert indirect nocache; server a app1:8000 check cookie a",
                "traefik": "traefik.http.services.app.loadbalancer.sticky.cookie=true; "
                "traefik.http.services.app.loadbalancer.sticky.cookie.name=sio_srv",
                "caddy": "reverse_proxy /socket.io/* app1:8000 app2:8000 { lb_policy cookie sio_lb }",
                "envoy": "lb_policy: RING_HASH; hash_policy: [{cookie: {name: sio, ttl: 0s}}]",
                "kong": "algorithm: consistent-hashing; hash_on: cookie; hash_on_cookie: sio",
                "ingress-nginx": "nginx.ingress.kubernetes.io/affinity: cookie; "
                "nginx.ingress.kubernetes.io/affinity-mode: persistent",
                "aws-alb": "stickiness.enabled=true and stickiness.type=lb_cookie on the target group",
                "gcp-global-alb": "sessionAffinity: GENERATED_COOKIE on the backend service",
                "azure-app-service": "ARR affinity: On",
                "heroku": "heroku features:enable http-session-affinity",
                "vercel": "clients with transports: ['websocket']: there is no affinity between requests",
            }
        ),
    }
)


def setting_for(setting: Setting, proxies: Iterable[str]) -> str:
    """The setting of the proxy on the way that most likely lacks it, such as ``nginx: proxy_http_version 1.1; …``.

    Args:
        setting: ``websocket``, ``forward`` (Host and scheme) or ``sticky``.
        proxies: names as `recognise` gives them. When none is known to have the setting, nginx stands as the example.
    """
    settings = _SETTINGS[setting]
    seen = set(proxies)
    # In the order of the settings: first those that lack it by default.
    for name, lines in settings.items():
        if name in seen:
            return f"{name}: {lines}"
    return f"for nginx: {settings['nginx']}"
