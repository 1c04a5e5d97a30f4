"""What requests and answers tell of the proxies that they came through.

A proxy that leaves no trace in an answer, as Traefik and HAProxy do while all is well, can't be told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .profiles import KNOWN

__all__ = ["Headers", "recognise", "recognise_answer"]

Headers = Sequence[tuple[bytes, bytes]]

# All that are told by headers of their own.
_OUTERMOST_FIRST = [
    KNOWN[name]
    for name in (
        *("cloudflare", "cloudfront", "azure-front-door", "vercel", "railway", "fly", "render", "azure-app-service"),
        *("heroku", "aws-alb", "cloud-run", "gcp-global-alb", "kong", "istio", "envoy", "ingress-nginx", "traefik"),
        *("caddy", "nginx", "apache"),
    )
]
# Flat, since each refused handshake is looked at: 1 µs where two levels took 6.
_SIGNS = [(known.name, signs) for known in _OUTERMOST_FIRST for signs in known.request_headers]
_VIA = sorted((word, known.name) for known in KNOWN.values() for word in known.via)

# Go programs say some of these as well, but not without a Server header of their own.
_TRAEFIK = re.compile(
    r"\A(404 page not found|no available server|Bad Gateway|Gateway Timeout|Client Closed Request)\s*\Z"
)


def recognise(headers: Headers, http_version: str | None = None) -> tuple[str, ...]:
    """The proxies that a request came through, as far as its headers tell, the outermost usually first.

    nginx is also the guess for HTTP/1.0 (its default before 1.29.7) and a bare X-Real-IP (from the examples for it).
    """
    present = {name for name, _ in headers}
    found = [name for name, signs in _SIGNS if signs <= present]
    for name, value in headers:
        if name == b"via":
            text = value[:256].decode("latin-1").lower()
            found += [product for word, product in _VIA if word in text]
    if "traefik" in found:
        found = [name for name in found if name != "apache"]
    elif "ingress-nginx" not in found and (
        http_version == "1.0" or (b"x-real-ip" in present and "apache" not in found)
    ):
        found.append("nginx")
    return tuple(dict.fromkeys(found))


def recognise_answer(status: int, headers: Sequence[tuple[str, str]], body: str) -> list[tuple[str, str]]:
    """The proxies that left a trace in an answer, each once, and by what each was told; header names in lower case."""
    found: dict[str, str] = {}
    for known in _OUTERMOST_FIRST:
        for wanted, pattern in known.answer_headers:
            value = next((value for header, value in headers if header == wanted and pattern.search(value)), None)
            if value is not None:
                shown = f"{wanted}: {value[:40]}" if wanted in ("server", "via") else f"the header {wanted}"
                found.setdefault(known.name, shown)
    if status >= 400:
        for name, known in KNOWN.items():
            if any(page.search(body) for page in known.error_pages):
                found.setdefault(name, f"its error page for {status}")
        if not next((value for header, value in headers if header == "server"), "") and _TRAEFIK.match(body):
            found.setdefault("traefik", f"its answer for {status}")
    if 520 <= status <= 526:
        found.setdefault("cloudflare", f"the status {status}")
    return list(found.items())
