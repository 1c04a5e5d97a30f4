"""The rules: what the observations mean, the likeliest cause first. They ask nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlsplit

from socketguard.errors import ConfigurationError
from socketguard.proxies.heartbeat import Heartbeat
from socketguard.proxies.profiles import PROFILES, LimitKind

from .observations import (
    CHATTER,
    Answer,
    Failure,
    Hold,
    Join,
    Meaning,
    Observations,
    Reply,
    Server,
    Tls,
    meaning,
    open_packet,
    opens,
    readable,
    server_of,
)
from .symptoms import FORWARDING, PAGE, SYMPTOMS
from .target import parse_target, same_origin_url

__all__ = ["Finding", "at_risk", "judge", "reached", "unexamined"]

Severity = Literal["error", "warning"]

EXPIRY_WARNING = 14
"""Days of a certificate below which it is a finding: those of Let's Encrypt are renewed 30 days before their end."""

_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: an ``error`` when clients fail by it, a ``warning`` when some may."""

    id: str
    severity: Severity
    title: str
    evidence: str
    cause: str
    fix: str
    docs: str


def finding(symptom: str, evidence: str, severity: Severity = "error", **texts: str | None) -> Finding:
    """A finding with the title, cause and fix of its symptom, but for those that are given."""
    chosen = asdict(SYMPTOMS[symptom]) | {name: text for name, text in texts.items() if text}
    return Finding(symptom, severity, evidence=evidence, docs=f"{PAGE}#{symptom.lower()}", **chosen)


def warning(symptom: str, evidence: str, **texts: str | None) -> Finding:
    return finding(symptom, evidence, "warning", **texts)


def said(name: str, reply: Reply | None) -> str:
    """A reply as evidence."""
    if isinstance(reply, Failure):
        return f"{name}: {reply.kind}, {reply.text}"
    if reply is None:
        return f"{name}: not asked"
    return f"{name}: {reply.status}, {'the session opens' if opens(reply) else readable(reply.body) or 'empty body'}"


# --- what keeps an endpoint from opening at all


def network(seen: Observations) -> Iterator[Finding]:
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


def tls(seen: Observations) -> Iterator[Finding]:
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


def unsteady(seen: Observations) -> Iterator[Finding]:
    """What failed once and not again: it says nothing of what that request was about."""
    if seen.unsteady:
        asked = ", ".join(
            f"{said(each.asked, each.failed)}; at try {each.tries} it was answered" for each in seen.unsteady[:3]
        )
        yield finding("S-39", f"{len(seen.unsteady)} of the requests failed only now and then: {asked}")


def rate_limit(seen: Observations) -> Iterator[Finding]:
    """A limit of something in front, which this doctor runs into as a page full of clients would."""
    for reply in seen.answers():
        if reply.status == 429 and meaning(reply) is Meaning.OTHER:
            wait = reply.header("retry-after")
            evidence = said("one of the requests", reply) + (f"; Retry-After: {wait} s" if wait else "")
            title = "Something in front limits how often requests may come"
            cause = "polling makes many requests: a limit for pages is too low for it, all the more behind one address"
            fix = "raise the limit for this path, or let clients use transports: ['websocket']"
            yield finding("S-37", evidence, title=title, cause=cause, fix=fix)
            return


def lost_query(seen: Observations) -> Iterator[Finding]:
    """Whether the server sees the query at all, when it refuses what every client sends."""
    refused = meaning(seen.polling)
    nothing = seen.unread is not None and meaning(seen.unread) is refused
    both = meaning(seen.websocket) is refused
    if nothing and (refused is Meaning.VERSION or (both and refused is Meaning.TRANSPORT_OFF)):
        evidence = f"{said('polling with EIO=4', seen.polling)}; {said('a transport that does not exist', seen.unread)}"
        yield finding("S-41", evidence)


def cached(seen: Observations) -> Iterator[Finding]:
    """Two handshakes, one session."""
    replies = (seen.polling, seen.polling_origin, seen.polling_plain)
    packets = [data["sid"] for reply in replies if (data := open_packet(reply)) is not None]
    if len(set(packets)) < len(packets):
        signs = ("age", "x-cache", "cf-cache-status", "x-cache-status")
        answer = next(reply for reply in replies if isinstance(reply, Answer))
        shown = ", ".join(f"{name}: {answer.header(name)}" for name in signs if answer.header(name))
        yield finding("S-42", f"{len(packets)} handshakes gave the same session{f' ({shown})' if shown else ''}")


_BY_MEANING = {
    Meaning.OLD_SERVER: "S-23",
    Meaning.VERSION: "S-23",
    Meaning.WRONG_PATH: "S-09",
    Meaning.BUSY: "S-37",
    Meaning.FORBIDDEN: "S-38",
    Meaning.ORIGIN: "S-08",
}


def handshake(seen: Observations) -> Iterator[Finding]:
    """The handshake over polling, when it doesn't open."""
    reply, evidence, found = seen.polling, said("polling", seen.polling), meaning(seen.polling)
    if reply is None or found in (Meaning.OPEN, Meaning.TRANSPORT_OFF):
        return
    if isinstance(reply, Failure):
        symptom = {"timeout": "S-01", "reset": "S-11"}.get(reply.kind, "S-02")
        title = "The connection is closed without an answer" if reply.kind == "reset" else None
        yield finding(symptom, f"{evidence} after {reply.seconds:.1f} s", title=title)
    elif found in _BY_MEANING:
        if found in (Meaning.OLD_SERVER, Meaning.VERSION):
            who = "the server" if found is Meaning.OLD_SERVER else "something on the way, or the server,"
            evidence += f"; {who} does not speak Engine.IO 4"
        if found is Meaning.BUSY and (wait := reply.header("retry-after")):
            evidence += f"; Retry-After: {wait} s"
        yield finding(_BY_MEANING[found], evidence)
    else:
        yield _of_status(seen, reply, evidence)


def _of_status(seen: Observations, reply: Answer, evidence: str) -> Finding:
    status, body, proxies = reply.status, reply.body, seen.proxies()
    named = f" ({', '.join(f'{name}, by {trace}' for name, trace in proxies.items())})" if proxies else ""
    if "HTTP request was sent to HTTPS port" in body or "HTTP request to an HTTPS server" in body:
        return finding("S-30", evidence, title="http was asked for, but the port speaks TLS")
    if status in _REDIRECTS:
        return redirect(seen, reply)
    if status == 200:
        if body.strip():
            kind = reply.header("content-type") or "without a content type"
            return finding("S-03", f"{evidence[:160]} ({kind}){named}")
        cause = None if "caddy" in proxies else "a proxy or application has no route here"
        return finding("S-04", evidence + named, cause=cause)
    if status in (401, 407) or reply.header("www-authenticate"):
        return finding("S-27", f"{evidence}; WWW-Authenticate: {reply.header('www-authenticate') or 'not sent'}")
    if status == 403:
        return finding("S-27", evidence + named, title="Something in front refuses the request")
    if status == 404:
        if "traefik" in proxies:
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


# --- an endpoint that opens in some ways and not in others: transports, origins, methods, workers


def origins(seen: Observations) -> Iterator[Finding]:
    """The matrix of polling and WebSocket, without and with Origin."""
    polling, websocket = seen.polling_origin, seen.websocket_origin
    only_bare = opens(seen.websocket) and websocket is not None and not opens(websocket)
    if meaning(polling) is Meaning.ORIGIN or (only_bare and not opens(polling)):
        evidence = f"Origin {seen.origin}: {said('polling', polling)}; {said('WebSocket', websocket)}"
        if opens(seen.polling_plain):
            cause = (
                "the server takes the request for the other scheme: the proxy that ends TLS doesn't send "
                "X-Forwarded-Proto, or the next proxy drops it; without any proxy, python-engineio alone never looks "
                "at the scheme (SocketGuard does)"
            )
            yield finding("S-08", f"{evidence}; with the other of http and https it opens", cause=cause)
        elif seen.origin_given:
            yield finding("S-08", evidence)
        else:
            fix = "if your page lives elsewhere, examine again with --origin https://your-page; else "
            title = "The Origin of the server's own address is refused"
            yield warning("S-08", evidence, title=title, fix=fix + SYMPTOMS["S-08"].fix)
    elif only_bare:
        evidence = f"with Origin {seen.origin}: {said('polling', polling)}, {said('WebSocket', websocket)}"
        yield finding("S-07", f"{evidence}; without: {said('WebSocket', seen.websocket)}")
    elif isinstance(polling, Answer) and opens(seen.polling) and not opens(polling):
        yield finding("S-08", said(f"polling with Origin {seen.origin}", polling))


def upgrades(seen: Observations) -> Iterator[Finding]:
    """WebSocket, when it opens in no way."""
    reply = seen.websocket
    if reply is None or opens(reply) or opens(seen.websocket_origin):
        return
    if Meaning.TRANSPORT_OFF in (meaning(reply), meaning(seen.resent)):
        return  # a choice of the server
    evidence = f"{said('polling', seen.polling)}; {said('WebSocket', reply)}"
    fixes = [FORWARDING[name] for name in seen.proxies() if name in FORWARDING]
    forward = ". ".join((SYMPTOMS["S-05"].fix, *fixes)) if fixes else None
    if isinstance(reply, Failure):
        title = "WebSockets get no answer" if reply.kind == "timeout" else "WebSockets are closed without an answer"
        yield finding("S-05", evidence, title=title, fix=forward)
    elif reply.status == 101:
        yield finding("S-01", evidence, title="The WebSocket opens, and then nothing comes")
    elif meaning(reply) is Meaning.UPGRADE_LOST:
        yield finding("S-05", evidence, fix=forward)
    elif meaning(reply) in (Meaning.BUSY, Meaning.FORBIDDEN, Meaning.VERSION):
        yield finding(_BY_MEANING[meaning(reply)], evidence)
    elif reply.status == 426:
        yield finding("S-28", evidence)
    elif reply.status in _REDIRECTS:
        yield redirect(seen, reply)
    elif reply.status == 404:
        yield finding("S-09", evidence, title="WebSockets are routed elsewhere than polling")
    elif reply.status in (502, 503, 504):
        cause = (
            "polling reaches the application, so that it runs; what is in front refuses WebSockets: it has no route "
            "for them, sends them to another upstream that is down, or has a limit for them"
        )
        yield finding(
            "S-11", evidence, title="WebSockets don't get through to the application", cause=cause, fix=forward
        )
    elif reply.status >= 500:
        yield finding("S-06", evidence)
    elif reply.status in (401, 403):
        evidence += f"; {said('the same URL as a plain GET', seen.resent)}"
        cause = "the server, or a firewall in front of it, refuses WebSockets whatever their Origin"
        fix = "look at the log of the server for a line about this request; if there is none, something in front "
        yield finding("S-05", evidence, title="WebSockets are refused", cause=cause, fix=f"{fix}refuses it")
    else:
        yield finding("S-05", evidence, fix=forward)


def methods(seen: Observations) -> Iterator[Finding]:
    """GET passes, and POST doesn't."""
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


def stickiness(seen: Observations) -> Iterator[Finding]:
    """Requests that meet a process which doesn't know their session."""
    if not seen.sticky or not seen.sticky[0].unknown:
        return
    bare = seen.sticky[0]
    evidence = f"{bare.unknown} of {bare.asked} requests met a process that doesn't know their session"
    again = seen.sticky[-1]
    if again.cookies and again.asked and not again.unknown:
        # Pages of the same origin send the cookie by themselves: that is how sticky sessions are meant.
        if seen.origin != seen.target.origin:
            names = ", ".join(bare.cookie_names)
            yield warning("S-13", f"{evidence}; none of {again.asked} with the cookies ({names})")
    else:
        yield finding("S-12", evidence + (f"; with cookies {again.unknown} of {again.asked}" if again.cookies else ""))


def compression(seen: Observations) -> Iterator[Finding]:
    if seen.deflated is not None:
        evidence = f"with permessage-deflate: {said('WebSocket', seen.deflated)}; without: the session opens"
        yield finding("S-40", evidence)


def cors(seen: Observations) -> Iterator[Finding]:
    reply = seen.polling_origin
    if not isinstance(reply, Answer) or not opens(reply):
        return
    allowed = reply.all("access-control-allow-origin")
    credentials = reply.header("access-control-allow-credentials")
    evidence = f"Origin {seen.origin}: Access-Control-Allow-Origin {', '.join(allowed) or 'is missing'}"
    if len(allowed) > 1 or any("," in value for value in allowed):
        yield finding("S-22", evidence, title="The CORS headers are doubled")
    elif allowed == ["*"] and credentials == "true":
        title = "CORS allows every origin together with credentials, which browsers refuse"
        yield warning("S-22", f"{evidence}, Access-Control-Allow-Credentials true", title=title)
    elif seen.origin == seen.target.origin:
        return  # a page of the same origin needs no CORS
    elif not allowed:
        yield finding("S-22", evidence, title="The answers have no CORS header for this page")
    elif allowed not in (["*"], [seen.origin]):
        yield finding("S-22", evidence, title="CORS allows another page, not this one")


# --- sessions that have begun: namespaces, tokens, upgrades, heartbeats, lifetimes


def joins(seen: Observations) -> Iterator[Finding]:
    for join in seen.joins:
        asked = f"CONNECT {join.namespace}"
        if join.outcome == "silent":
            yield finding("S-26", f"{asked}: no answer in {join.seconds:.0f} s")
        elif join.outcome == "closed":
            title = "The connection is closed when a namespace is asked for"
            cause = "the server has another parser than the client (msgpack on one side only), or its connect handler "
            fix = "give client and server the same parser; look at the server's log for the moment of this check"
            evidence = f"{asked}: the connection was closed"
            yield finding("S-26", evidence, title=title, cause=f"{cause}failed", fix=fix)
        elif join.outcome == "refused" and join.message in ("Invalid namespace", "Unable to connect"):
            if not join.wanted:
                continue
            empty = " (a JavaScript client sees an empty message)" if join.message == "Unable to connect" else ""
            misspelt = (
                "the name is misspelt, or the server has no handler for it (python-socketio knows a namespace by its "
                "handlers); a guard answers so for namespaces that are hidden, too"
            )
            title = f"The server doesn't know the namespace {join.namespace}"
            cause = SYMPTOMS["S-25"].cause if join.namespace == seen.target.namespace else misspelt
            yield finding("S-25", f"{asked}: {join.message}{empty}", title=title, cause=cause)
        elif join.outcome == "refused" and join.with_token:
            yield _token_refused(join, seen)


_CODES = {
    "token_expired": ("the token has expired", "get a new one; let clients give auth as a function, so that they do"),
    "token_invalid": (
        "signature, issuer, audience or another claim is not what the server expects",
        "the server's log has the exact rule: look for the ref, or run socketguard token inspect",
    ),
    "token_malformed": ("what was sent is no JWT", "send the bare token, without Bearer and without quotes"),
    "token_not_yet_valid": ("the clock of the issuer is ahead, or nbf lies in the future", "look at the clocks"),
    "token_revoked": ("the token, or everything of its subject, was revoked", "log in again"),
    "insufficient_scope": ("the token is valid but may not enter here", "give it the scopes and claims of the policy"),
}


def _token_refused(join: Join, seen: Observations) -> Finding:
    evidence = f"CONNECT {join.namespace}: {join.message or 'refused without a message'}"
    evidence += (f" ({join.code})" if join.code else "") + (f"; {seen.token}" if seen.token else "")
    cause = seen.token_problem or "the server, or its connect handler, refuses this client"
    cause, fix = _CODES.get(join.code, (cause, "the server's log says more about the moment of this check"))
    title = f"{join.namespace} is refused: {join.message or 'no reason given'}"
    return finding("S-34", evidence, title=title, cause=cause, fix=fix)


def upgrade_of_session(seen: Observations) -> Iterator[Finding]:
    found = seen.upgrade
    if found is None or found.outcome in ("upgraded", "failed") or any(sticky.unknown for sticky in seen.sticky):
        return
    alone = opens(seen.websocket) or opens(seen.websocket_origin)
    refused = isinstance(found.reply, Answer) and found.reply.status in (400, 403)
    if meaning(found.reply) is Meaning.SESSION_UNKNOWN:
        yield finding("S-12", said("upgrade", found.reply))
    elif alone and refused and found.outcome == "refused":
        # ASGI servers refuse a WebSocket with a bare 403, whatever the reason.
        evidence = (
            f"a WebSocket opens by itself; with the session of polling it is refused: {said('upgrade', found.reply)}"
        )
        yield finding("S-12", evidence, title="WebSockets meet a process that doesn't know the session of polling")
    elif found.outcome == "silent":
        yield finding("S-05", "the probe (2probe) got no answer (3probe)", title="The upgrade from polling hangs")
    else:
        yield finding("S-05", said("upgrade", found.reply), title="The upgrade from polling is refused")


def at_risk(interval: float, timeout: float, proxies: Iterable[str]) -> list[str]:
    """Say where the announced heartbeat does not fit the idle limits that these proxies have by default.

    Only idle limits are judged, and only an interval that does not fit: the limits of a good deployment may have been
    raised, which nobody sees from outside.
    """
    known = tuple(name for name in proxies if name in PROFILES)
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
    return [found.text for found in heartbeat.findings(transports=["websocket"]) if found.id == "SG001"]


def _announced(seen: Observations) -> dict[str, float]:
    """``pingInterval`` and ``pingTimeout`` of the first handshake that has both, in ms; empty where none has."""
    for answer in seen.answers():
        data = open_packet(answer) or {}
        interval, timeout = data.get("pingInterval"), data.get("pingTimeout")
        if isinstance(interval, int | float) and isinstance(timeout, int | float):
            return {"pingInterval": interval, "pingTimeout": timeout}
    return {}


def heartbeat(seen: Observations) -> Iterator[Finding]:
    announced = _announced(seen)
    if not announced:
        return
    interval, timeout = announced["pingInterval"], announced["pingTimeout"]
    if interval < 1000:
        cause = "python-engineio cuts fractions of a second off, and its figures are seconds where Node's are ms"
        texts = {"cause": cause, "fix": "whole seconds: ping_interval=25, ping_timeout=20"}
        yield warning("S-14", f"pingInterval: {interval} ms", title="The announced heartbeat can't be right", **texts)
        return
    if any(hold.kind == "idle" and hold.outcome == "held" for hold in seen.holds):
        return  # seen with one's own eyes
    for text in at_risk(interval / 1000, timeout / 1000, seen.proxies()):
        title = "The heartbeat is slower than the default limit of a proxy in front"
        fix = f"{SYMPTOMS['S-14'].fix}; to see whether the limit was raised: --idle {interval / 1000 + 10:.0f}"
        yield warning("S-14", text, title=title, fix=fix)


def holds(seen: Observations) -> Iterator[Finding]:
    by_kind = {hold.kind: hold for hold in seen.holds}
    idle, busy, poll = by_kind.get("idle"), by_kind.get("busy"), by_kind.get("poll")
    if idle is not None and idle.outcome in ("cut", "closed"):
        end = "without a close frame" if idle.code is None else f"with the code {idle.code}"
        evidence = f"cut {end} after {idle.seconds:.0f} s, {idle.quiet:.0f} s after the last frame, {idle.pings} pings"
        both = busy is not None and _was_busy(busy, idle) and abs(busy.seconds - idle.seconds) <= 3
        pings_due = idle.seconds * 1000 > (_announced(seen).get("pingInterval") or 0)
        if both and idle.outcome == "closed" and not idle.pings and pings_due:
            yield finding("S-24", evidence)
        elif both:
            evidence += "; a busy connection ended at the same age"
            cause = "a limit on the lifetime of a connection, busy or not: no heartbeat helps"
            fix = "raise the limit, and let clients take up their state again after each reconnect"
            yield finding("S-14", evidence, title="WebSockets are ended at a fixed age", cause=cause, fix=fix)
        else:
            fix = f"raise the limit, or heartbeat=Heartbeat.for_idle_timeout({max(5, int(idle.quiet))})"
            yield finding("S-14", evidence, fix=fix)
    if poll is not None and poll.outcome == "cut":
        yield finding("S-15", f"{said('GET', poll.reply)} after {poll.seconds:.0f} s")


def _was_busy(busy: Hold, idle: Hold) -> bool:
    """Whether a busy connection was cut that had really been busy: this machine may have been too slow to talk."""
    return busy.outcome in ("cut", "closed") and (busy.pause <= 2 * CHATTER or busy.pause < idle.quiet)


def oversized(seen: Observations) -> Iterator[Finding]:
    reply = seen.oversized
    if reply is None or (isinstance(reply, Answer) and reply.status == 200):
        return
    if isinstance(reply, Answer) and server_of(reply) is Server.SOCKETGUARD:
        return  # a guard takes little from a session that has joined nothing
    yield warning("S-20", said("a POST as large as the server announces", reply))


# --- what is wrong beside the connection: certificates, clear text, pages, tokens


def certificate(seen: Observations) -> Iterator[Finding]:
    if isinstance(seen.tls, Tls):
        if seen.tls.problem:
            yield finding("S-02", f"TLS: {seen.tls.problem}", title="The certificate is not trusted")
        elif seen.tls.days_left is not None and seen.tls.days_left < EXPIRY_WARNING:
            yield warning("S-35", f"{seen.tls.days_left:.0f} days left")


def clear_text(seen: Observations) -> Iterator[Finding]:
    if seen.target.tls or seen.target.loopback:
        return
    if seen.origin_given and seen.origin.startswith("https:"):
        yield finding("S-19", f"the page is {seen.origin}, the address {seen.target.origin}")
    elif seen.token or any(join.with_token for join in seen.joins):
        yield warning("S-36", f"a token was given for {seen.target.origin}")


def token(seen: Observations) -> Iterator[Finding]:
    if seen.token_problem and not any(join.with_token and join.outcome == "refused" for join in seen.joins):
        texts = {"title": "The token is not usable", "cause": seen.token_problem}
        fix = "give a token that is valid now, without Bearer and without quotes"
        yield warning("S-34", seen.token or seen.token_problem, fix=fix, **texts)


def page(seen: Observations) -> Iterator[Finding]:
    page = seen.page
    if page is None:
        return
    if not isinstance(page.reply, Answer) or page.reply.status != 200:
        cause = "the page itself does not answer here; of the endpoint that says nothing"
        fix = "give --page an address that this machine can read, or leave it out"
        yield warning("S-33", said(page.url, page.reply), title="The page can't be read", cause=cause, fix=fix)
        return
    for baked in page.baked:
        where = f"{baked.url} in {baked.source}"
        clear = page.url.startswith("https:") and baked.url.startswith(("ws:", "http:"))
        if clear and not parse_target(baked.url).loopback:
            secure = baked.url.replace("ws://", "wss://", 1).replace("http://", "https://", 1)
            yield finding("S-19", where, fix=f"write {secure}")
        elif not same_origin_url(baked.url, seen.target.origin):
            answered = f"; {said('there', baked.reply)}" if baked.reply is not None else ""
            severity: Severity = "warning" if opens(baked.reply) else "error"
            yield finding("S-33", f"{where}, not {seen.target.origin}{answered}", severity)
        elif baked.path is not None and baked.path.strip("/") != seen.target.path.strip("/"):
            evidence = f"{baked.source}: path {baked.path}; examined was {seen.target.path}"
            yield warning("S-33", evidence, title="The page was built with another path")


def crashes(seen: Observations) -> Iterator[Finding]:
    for crash in seen.crashes:
        yield warning("S-00", f"{crash.check}: {crash.text}")


# --- all of them

Rule = Callable[[Observations], Iterable[Finding]]

# A browser stops at these, though the doctor went on.
_FIRST: tuple[Rule, ...] = (certificate, clear_text)
# The first of these that finds something explains the rest.
_BLOCKING: tuple[Rule, ...] = (network, tls, lost_query, cached, handshake)
_FURTHER: tuple[Rule, ...] = (
    compression,
    origins,
    upgrades,
    methods,
    stickiness,
    joins,
    holds,
    upgrade_of_session,
    cors,
    heartbeat,
    oversized,
)
# What a request that fails now and then may look like.
_OF_FAILURES = frozenset({"S-01", "S-03", "S-05", "S-06", "S-07", "S-08", "S-09", "S-11", "S-21"})
_ALWAYS: tuple[Rule, ...] = (page, token, crashes)


def unexamined(seen: Observations) -> str:
    """What nobody could look at, and why; empty when there is no such thing."""
    outside = [join for join in seen.joins if join.outcome == "refused"]
    if not outside or any(join.outcome == "joined" for join in seen.joins):
        return ""
    why = ", ".join(dict.fromkeys(f"{join.namespace}: {join.code or join.message or 'refused'}" for join in outside))
    return (
        f"Not examined: what happens inside a namespace, since none let the doctor in ({why}). Give --namespace and "
        "--token-file to see it."
    )


def reached(seen: Observations) -> bool:
    """Whether anything answered by HTTP at all."""
    return next(seen.answers(), None) is not None


def judge(seen: Observations) -> list[Finding]:
    """The findings, the likeliest cause first; what only follows from a finding is left out."""
    blocking = next(filter(None, (list(rule(seen)) for rule in _BLOCKING)), [])
    others = [*_ALWAYS] if blocking else [*_FURTHER, *_ALWAYS]
    # A lost query or a cache breaks whatever else is asked.
    broken = any(each.id in ("S-41", "S-42") for each in blocking)
    now_and_then = [] if broken else [*rate_limit(seen), *unsteady(seen)]
    found = [found for rule in _FIRST for found in rule(seen)] + now_and_then + blocking
    found += [found for rule in others for found in rule(seen)]
    if now_and_then:
        found = [each for each in found if each.id not in _OF_FAILURES]
    unique = {(finding.id, finding.evidence): finding for finding in found}
    return sorted(unique.values(), key=lambda finding: finding.severity != "error")
