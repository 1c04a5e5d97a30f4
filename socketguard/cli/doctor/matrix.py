"""Rules for an endpoint that opens in some ways and not in others: transports, origins, methods, workers.

This module is pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding, finding, said
from .fingerprints import Proxy
from .observations import Answer, Failure, Observations
from .opening import redirect
from .symptoms import FORWARDING, SYMPTOMS
from .wire import Meaning, meaning

__all__ = ["cors", "methods", "origins", "stickiness", "upgrades"]


def origins(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    """The matrix of polling and WebSocket, without and with Origin."""
    polling, websocket = seen.polling_origin, seen.websocket_origin
    refused = meaning(polling) is Meaning.ORIGIN
    by_websocket = (
        meaning(seen.websocket) is Meaning.OPEN and websocket is not None and meaning(websocket) is not Meaning.OPEN
    )
    if refused or (by_websocket and meaning(polling) is not Meaning.OPEN):
        evidence = f"Origin {seen.origin}: {said('polling', polling)}; {said('WebSocket', websocket)}"
        if meaning(seen.polling_plain) is Meaning.OPEN:
            yield finding(
                "S-08",
                f"{evidence}; with the other of http and https it opens",
                cause="the server takes the request for the other scheme: the proxy that ends TLS doesn't send "
                "X-Forwarded-Proto, or the next proxy drops it; without any proxy, python-engineio alone never looks "
                "at the scheme (SocketGuard does)",
            )
        elif seen.origin_given:
            yield finding("S-08", evidence)
        else:
            yield finding(
                "S-08",
                evidence,
                severity="warning",
                title="The Origin of the server's own address is refused",
                fix=f"if your page lives elsewhere, examine again with --origin https://your-page; "
                f"else {SYMPTOMS['S-08'].fix}",
            )
    elif by_websocket:
        yield finding(
            "S-07",
            f"with Origin {seen.origin}: {said('polling', polling)}, {said('WebSocket', websocket)}; "
            f"without: {said('WebSocket', seen.websocket)}",
        )
    elif isinstance(polling, Answer) and meaning(seen.polling) is Meaning.OPEN and meaning(polling) is not Meaning.OPEN:
        yield finding("S-08", said(f"polling with Origin {seen.origin}", polling))


def upgrades(seen: Observations, proxies: list[Proxy]) -> Iterator[Finding]:
    """WebSocket, when it opens in no way."""
    reply = seen.websocket
    if reply is None or Meaning.OPEN in (meaning(reply), meaning(seen.websocket_origin)):
        return
    told = [found for found in (meaning(reply), meaning(seen.resent)) if found is not Meaning.OTHER]
    if Meaning.TRANSPORT_OFF in told:
        return  # a choice of the server
    evidence = f"{said('polling', seen.polling)}; {said('WebSocket', reply)}"
    fixes = [FORWARDING[proxy.name] for proxy in proxies if proxy.name in FORWARDING]
    forward = f"{SYMPTOMS['S-05'].fix}. {'. '.join(fixes)}" if fixes else None
    if isinstance(reply, Failure):
        title = "WebSockets get no answer" if reply.kind == "timeout" else "WebSockets are closed without an answer"
        yield finding("S-05", evidence, title=title, fix=forward)
    elif reply.status == 101:
        yield finding("S-01", evidence, title="The WebSocket opens, and then nothing comes")
    elif meaning(reply) is Meaning.UPGRADE_LOST:
        yield finding("S-05", evidence, fix=forward)
    elif (told_busy := meaning(reply)) in (Meaning.BUSY, Meaning.FORBIDDEN, Meaning.VERSION):
        symptom = {Meaning.BUSY: "S-37", Meaning.FORBIDDEN: "S-38", Meaning.VERSION: "S-23"}[told_busy]
        yield finding(symptom, evidence)
    elif reply.status == 426:
        yield finding("S-28", evidence)
    elif reply.status in (301, 302, 303, 307, 308):
        yield redirect(seen, reply)
    elif reply.status == 404:
        yield finding("S-09", evidence, title="WebSockets are routed elsewhere than polling")
    elif reply.status in (502, 503, 504):
        yield finding("S-11", evidence, title="The proxy can't open a WebSocket to the application", fix=forward)
    elif reply.status >= 500:
        yield finding("S-06", evidence)
    elif reply.status in (401, 403):
        yield finding(
            "S-05",
            f"{evidence}; {said('the same URL as a plain GET', seen.resent)}",
            title="WebSockets are refused",
            cause="the server, or a firewall in front of it, refuses WebSockets whatever their Origin",
            fix="look at the log of the server for a line about this request; if there is none, something in front "
            "refuses it",
        )
    else:
        yield finding("S-05", evidence, fix=forward)


def methods(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    for sticky in seen.sticky:
        if isinstance(sticky.refused, Answer):
            if sticky.refused.status == 413:
                yield finding("S-20", said("POST of 1 byte", sticky.refused))
            elif meaning(sticky.refused) in (Meaning.OTHER, Meaning.FORBIDDEN):
                yield finding("S-21", f"{said('GET', seen.polling)}; {said('POST', sticky.refused)}")
            return
        if isinstance(sticky.refused, Failure):
            yield finding("S-21", said("POST", sticky.refused), title="GET works, POST gets no answer")
            return


def stickiness(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    if not seen.sticky or not seen.sticky[0].unknown:
        return
    bare = seen.sticky[0]
    evidence = f"{bare.unknown} of {bare.asked} requests met a process that doesn't know their session"
    again = seen.sticky[-1]
    if again.cookies and again.asked and not again.unknown:
        # Pages of the same origin send the cookie by themselves: that is how sticky sessions are meant.
        if seen.origin != seen.target.origin:
            names = ", ".join(bare.cookie_names)
            yield finding("S-13", f"{evidence}; none of {again.asked} with the cookies ({names})", severity="warning")
    else:
        yield finding("S-12", evidence + (f"; with cookies {again.unknown} of {again.asked}" if again.cookies else ""))


def cors(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    reply = seen.polling_origin
    if not isinstance(reply, Answer) or meaning(reply) is not Meaning.OPEN:
        return
    allowed = reply.all("access-control-allow-origin")
    credentials = reply.header("access-control-allow-credentials")
    evidence = f"Origin {seen.origin}: Access-Control-Allow-Origin {', '.join(allowed) or 'is missing'}"
    if len(allowed) > 1 or any("," in value for value in allowed):
        yield finding("S-22", evidence, title="The CORS headers are doubled")
    elif allowed == ["*"] and credentials == "true":
        yield finding(
            "S-22",
            f"{evidence}, Access-Control-Allow-Credentials true",
            severity="warning",
            title="CORS allows every origin together with credentials, which browsers refuse",
        )
    elif seen.origin == seen.target.origin:
        return  # a page of the same origin needs no CORS
    elif not allowed:
        yield finding("S-22", evidence, title="The answers have no CORS header for this page")
    elif allowed not in (["*"], [seen.origin]):
        yield finding("S-22", evidence, title="CORS allows another page, not this one")
