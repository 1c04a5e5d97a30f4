"""The setting of each proxy that forwards what Socket.IO needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .profiles import PROFILES, Setting

__all__ = ["Setting", "setting_for"]

# First those that lack it by default.
_LIKELIEST: Mapping[Setting, str] = {
    "websocket": "nginx apache envoy kong azure-front-door azure-app-service cloudfront ingress-nginx vercel haproxy "
    "caddy traefik cloudflare aws-alb gcp-global-alb heroku railway",
    "forward": "nginx apache haproxy envoy kong ingress-nginx traefik caddy cloudfront cloudflare",
    "sticky": "nginx apache haproxy traefik caddy envoy kong ingress-nginx aws-alb gcp-global-alb azure-app-service "
    "heroku vercel",
}


def setting_for(setting: Setting, proxies: Iterable[str]) -> str:
    """The setting of the proxy on the way that most likely lacks it; nginx is the example when none is known."""
    seen = set(proxies)
    for name in _LIKELIEST[setting].split():
        if name in seen:
            return f"{name}: {PROFILES[name].settings[setting]}"
    return f"for nginx: {PROFILES['nginx'].settings[setting]}"
