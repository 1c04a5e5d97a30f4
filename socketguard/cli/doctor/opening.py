"""Rules for what keeps an endpoint from opening at all. This module is pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from .findings import Finding, finding, said
from .fingerprints import Proxy
from .observations import Answer, Failure, Observations
from .wire import Meaning, meaning

__all__ = ["handshake", "network", "redirect", "tls"]


def network(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    problem = seen.network
    if problem is None:
        return
    where = f"{seen.target.host} port {seen.target.port}"
    if problem.kind == "timeout":
        yield finding("S-01", f"TCP to {where}: no answer in {problem.seconds:.0f} s", title="The port never answers")
    elif problem.kind == "dns":
        yield finding("S-02", f"DNS: {problem.text}", title=f"The name {seen.target.host} is not found")
    else:
        yield finding("S-02", f"TCP to {where}: {problem.text}", title=f"No connection to {where}")


def tls(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    if isinstance(seen.tls, Failure):
        if seen.tls.kind == "timeout":
            yield finding("S-01", f"TLS: no answer in {seen.tls.seconds:.0f} s", title="TLS never answers")
        elif seen.tls.kind == "tls" and ("WRONG_VERSION" in seen.tls.text or "RECORD_LAYER" in seen.tls.text):
            yield finding("S-30", f"TLS: {seen.tls.text}", title="https was asked for, but the port speaks plain HTTP")
        else:
            yield finding("S-02", f"TLS: {seen.tls.text}", title="TLS fails")
    if seen.speaks_tls:
        evidence = f"{said('polling', seen.polling)}; a TLS handshake on the same port succeeds"
        yield finding("S-30", evidence, title="http was asked for, but the port speaks TLS")


def handshake(seen: Observations, proxies: list[Proxy]) -> Iterator[Finding]:
    """The handshake over polling, when it doesn't open."""
    reply, evidence = seen.polling, said("polling", seen.polling)
    if reply is None or meaning(reply) in (Meaning.OPEN, Meaning.TRANSPORT_OFF):
        return
    if isinstance(reply, Failure):
        symptom = "S-01" if reply.kind == "timeout" else "S-11" if reply.kind == "reset" else "S-02"
        title = "The connection is closed without an answer" if reply.kind == "reset" else None
        yield finding(symptom, f"{evidence} after {reply.seconds:.1f} s", title=title)
        return
    yield _of_meaning(reply, evidence) or _of_status(seen, reply, evidence, proxies)


def _of_meaning(reply: Answer, evidence: str) -> Finding | None:
    found = meaning(reply)
    if found in (Meaning.OLD_SERVER, Meaning.VERSION):
        who = "the server" if found is Meaning.OLD_SERVER else "something on the way, or the server,"
        return finding("S-23", f"{evidence}; {who} does not speak Engine.IO 4")
    if found is Meaning.WRONG_PATH:
        return finding("S-09", evidence)
    if found is Meaning.BUSY:
        wait = reply.header("retry-after")
        return finding("S-37", evidence + (f"; Retry-After: {wait} s" if wait else ""))
    if found is Meaning.FORBIDDEN:
        return finding("S-38", evidence)
    if found is Meaning.ORIGIN:
        return finding("S-08", evidence)
    return None


def _of_status(seen: Observations, reply: Answer, evidence: str, proxies: list[Proxy]) -> Finding:
    status, body = reply.status, reply.body
    named = f" ({', '.join(f'{proxy.name}, by {proxy.evidence}' for proxy in proxies)})" if proxies else ""
    if "HTTP request was sent to HTTPS port" in body or "HTTP request to an HTTPS server" in body:
        return finding("S-30", evidence, title="http was asked for, but the port speaks TLS")
    if status in (301, 302, 303, 307, 308):
        return redirect(seen, reply)
    if status == 200:
        if body.strip():
            kind = reply.header("content-type") or "without a content type"
            return finding("S-03", f"{evidence[:160]} ({kind}){named}")
        by_caddy = any(proxy.name == "caddy" for proxy in proxies)
        return finding("S-04", evidence + named, cause=None if by_caddy else "a proxy or application has no route here")
    if status in (401, 407) or reply.header("www-authenticate"):
        return finding("S-27", f"{evidence}; WWW-Authenticate: {reply.header('www-authenticate') or 'not sent'}")
    if status == 403:
        return finding("S-27", evidence + named, title="Something in front refuses the request")
    if status == 404:
        if any(proxy.name == "traefik" for proxy in proxies):
            return finding("S-10", evidence)
        also = f"; {said('WebSocket', seen.websocket)}" if seen.websocket is not None else ""
        return finding("S-09", evidence + also + named)
    if status in (405, 501):
        return finding("S-21", evidence + named, title="GET is refused")
    if status == 426:
        return finding("S-28", evidence + named)
    if status == 504:
        return finding("S-01", evidence + named, title="The proxy gave up waiting for the application")
    if status in (502, 503) or 520 <= status <= 526:
        return finding("S-11", evidence + named)
    if status >= 500:
        return finding("S-11", evidence + named, title="The application fails", cause="an error in the application")
    return finding("S-03", evidence + named, title="No answer of a Socket.IO server")


def redirect(seen: Observations, reply: Answer) -> Finding:
    location = reply.header("location")
    evidence = f"{reply.status} to {location.partition('?')[0] or 'nowhere'}"
    parts = urlsplit(location) if location.isprintable() and "[" not in location else urlsplit("")
    asked = f"{seen.target.path}/"
    same_host = not parts.hostname or parts.hostname == seen.target.host
    same_scheme = not parts.scheme or parts.scheme == seen.target.scheme
    if same_host and same_scheme and seen.target.slash and parts.path == seen.target.path:
        return finding("S-17", evidence)
    if same_host and same_scheme and not seen.target.slash and parts.path == asked:
        return finding("S-18", evidence)
    if same_host and parts.path in (asked, seen.target.path, ""):
        where = parts.netloc.rpartition("@")[2] or seen.target.host
        return finding("S-16", evidence, fix=f"give clients {parts.scheme or seen.target.scheme}://{where}")
    if any(word in location.lower() for word in ("login", "signin", "sign-in", "auth", "sso", "cloudflareaccess")):
        return finding("S-27", evidence, title="A login page takes the request")
    return finding("S-16", evidence)
