"""What the headers of a request or an answer tell of the proxies that it came through."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Headers", "recognise"]


Headers = Sequence[tuple[bytes, bytes]]


# Headers that these products put into a request by themselves, the surest first; all of a row have to be there. From
# the documentation of each product; Traefik: pkg/middlewares/forwardedheaders/forwarded_header.go, which is the only
# one to send X-Forwarded-Server together with X-Real-Ip. Apache's mod_proxy sends X-Forwarded-Server and -Host.
_SIGNS: tuple[tuple[str, frozenset[bytes]], ...] = tuple(
    (name, frozenset(headers))
    for name, headers in (
        ("cloudflare", (b"cf-ray",)),
        ("cloudfront", (b"x-amz-cf-id",)),
        ("azure-front-door", (b"x-azure-fdid",)),
        ("azure-front-door", (b"x-azure-ref",)),
        ("vercel", (b"x-vercel-id",)),
        ("railway", (b"x-railway-request-id",)),
        ("railway", (b"x-railway-edge",)),
        ("azure-app-service", (b"x-arr-log-id",)),
        ("heroku", (b"x-request-start", b"connect-time")),
        ("aws-alb", (b"x-amzn-trace-id",)),
        ("gcp-global-alb", (b"x-cloud-trace-context",)),
        ("kong", (b"x-kong-request-id",)),
        ("envoy", (b"x-envoy-expected-rq-timeout-ms",)),
        ("envoy", (b"x-envoy-external-address",)),
        ("envoy", (b"x-envoy-internal",)),
        ("envoy", (b"x-envoy-attempt-count",)),
        ("ingress-nginx", (b"x-real-ip", b"x-scheme")),
        ("traefik", (b"x-forwarded-server", b"x-real-ip")),
        ("traefik", (b"x-forwarded-server", b"x-forwarded-port")),
        ("apache", (b"x-forwarded-server", b"x-forwarded-host")),
    )
)


# What they call themselves in Via (RFC 9110, section 7.6.3).
_VIA = {
    "caddy": "caddy",
    "cloudfront": "cloudfront",
    "envoy": "envoy",
    "google": "gcp-global-alb",
    "haproxy": "haproxy",
    "heroku": "heroku",
    "kong": "kong",
    "nginx": "nginx",
    "traefik": "traefik",
    "vegur": "heroku",
}


def recognise(headers: Headers, http_version: str | None = None) -> tuple[str, ...]:
    """The proxies that a request came through, as far as its headers tell.

    Args:
        headers: of the ASGI scope.
        http_version: of the ASGI scope.

    Returns:
        Names of `socketguard.proxies.PROFILES`, each once, the outermost usually first. ``nginx`` is also the guess
        for HTTP/1.0 (its default before 1.29.7) and for a bare ``X-Real-IP`` (from the examples for it).
    """
    present = {name for name, _ in headers}
    found = [name for name, signs in _SIGNS if signs <= present]
    for name, value in headers:
        if name == b"via":
            text = value[:256].decode("latin-1").lower()
            found += [product for word, product in _VIA.items() if word in text]
    if "traefik" in found:
        found = [name for name in found if name != "apache"]
    elif "ingress-nginx" not in found and (
        http_version == "1.0" or (b"x-real-ip" in present and "apache" not in found)
    ):
        found.append("nginx")
    return tuple(dict.fromkeys(found))


def _value(headers: Headers, wanted: bytes) -> str:
    return ",".join(value.decode("latin-1") for name, value in headers if name == wanted).lower()
