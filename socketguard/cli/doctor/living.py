"""Rules for sessions that have begun: namespaces, tokens, upgrades, heartbeats, lifetimes. This module is pure."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding, finding, said
from .fingerprints import Proxy, at_risk
from .observations import Answer, Observations
from .symptoms import SYMPTOMS
from .wire import Meaning, Server, meaning, open_packet, server_of

__all__ = ["heartbeat", "holds", "joins", "oversized", "upgrade_of_session"]


def joins(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    for join in seen.joins:
        asked = f"CONNECT {join.namespace}"
        if join.outcome == "silent":
            yield finding("S-26", f"{asked}: no answer in {join.seconds:.0f} s")
        elif join.outcome == "closed":
            yield finding(
                "S-26",
                f"{asked}: the connection was closed",
                title="The connection is closed when a namespace is asked for",
                cause="the server has another parser than the client (msgpack on one side only), or its connect "
                "handler failed",
                fix="give client and server the same parser; look at the server's log for the moment of this check",
            )
        elif join.outcome == "refused" and join.wanted and _unknown_namespace(join.message):
            empty = " (a JavaScript client sees an empty message)" if join.message == "Unable to connect" else ""
            from_url = join.namespace == seen.target.namespace
            yield finding(
                "S-25",
                f"{asked}: {join.message}{empty}",
                title=f"The server doesn't know the namespace {join.namespace}",
                cause=None
                if from_url
                else "the name is misspelt, or the server has no handler for it (python-socketio "
                "knows a namespace by its handlers); a guard answers so for namespaces that are hidden, too",
            )
        elif join.outcome == "refused" and join.with_token and not _unknown_namespace(join.message):
            yield _token_refused(join.namespace, join.message, join.code, seen)


def _unknown_namespace(message: str) -> bool:
    return message in ("Invalid namespace", "Unable to connect")


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


def _token_refused(namespace: str, message: str, code: str, seen: Observations) -> Finding:
    evidence = f"CONNECT {namespace}: {message or 'refused without a message'}" + (f" ({code})" if code else "")
    if seen.token:
        evidence += f"; {seen.token}"
    cause, fix = _CODES.get(
        code,
        (
            seen.token_problem or "the server, or its connect handler, refuses this client",
            "the server's log says more about the moment of this check",
        ),
    )
    return finding(
        "S-34", evidence, title=f"{namespace} is refused: {message or 'no reason given'}", cause=cause, fix=fix
    )


def upgrade_of_session(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    found = seen.upgrade
    if found is None or found.outcome in ("upgraded", "failed") or any(sticky.unknown for sticky in seen.sticky):
        return
    if meaning(found.reply) is Meaning.SESSION_UNKNOWN:
        yield finding("S-12", said("upgrade", found.reply))
    elif found.outcome == "silent":
        yield finding("S-05", "the probe (2probe) got no answer (3probe)", title="The upgrade from polling hangs")
    else:
        yield finding("S-05", said("upgrade", found.reply), title="The upgrade from polling is refused")


def heartbeat(seen: Observations, proxies: list[Proxy]) -> Iterator[Finding]:
    announced = next(
        (data for answer in seen.answers() if (data := open_packet(answer.body)) and "pingInterval" in data), None
    )
    if announced is None:
        return
    interval, timeout = announced.get("pingInterval"), announced.get("pingTimeout")
    if not isinstance(interval, int | float) or not isinstance(timeout, int | float):
        return
    if interval < 1000:
        yield finding(
            "S-14",
            f"pingInterval: {interval} ms",
            severity="warning",
            title="The announced heartbeat can't be right",
            cause="python-engineio cuts fractions of a second off, and its figures are seconds where Node's are ms",
            fix="whole seconds: ping_interval=25, ping_timeout=20",
        )
        return
    if any(hold.kind == "idle" and hold.outcome == "held" for hold in seen.holds):
        return  # seen with one's own eyes
    for text in at_risk(interval / 1000, timeout / 1000, proxies):
        yield finding(
            "S-14",
            text,
            severity="warning",
            title="The heartbeat is slower than the default limit of a proxy in front",
            fix=f"{SYMPTOMS['S-14'].fix}; to see whether the limit was raised: --idle {interval / 1000 + 10:.0f}",
        )


def holds(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    by_kind = {hold.kind: hold for hold in seen.holds}
    idle, busy, poll = by_kind.get("idle"), by_kind.get("busy"), by_kind.get("poll")
    if idle is not None and idle.outcome in ("cut", "closed"):
        end = "without a close frame" if idle.code is None else f"with the code {idle.code}"
        evidence = f"cut {end} after {idle.seconds:.0f} s, {idle.quiet:.0f} s after the last frame, {idle.pings} pings"
        both = busy is not None and busy.outcome in ("cut", "closed") and abs(busy.seconds - idle.seconds) <= 3
        if both and idle.outcome == "closed" and not idle.pings:
            yield finding("S-24", evidence)
        elif both:
            yield finding(
                "S-14",
                f"{evidence}; a busy connection ended at the same age",
                title="WebSockets are ended at a fixed age",
                cause="a limit on the lifetime of a connection, busy or not: no heartbeat helps",
                fix="raise the limit, and let clients take up their state again after each reconnect",
            )
        else:
            fit = max(5, int(idle.quiet))
            yield finding(
                "S-14",
                evidence,
                fix=f"raise the limit, or heartbeat=Heartbeat.for_idle_timeout({fit})",
            )
    if poll is not None and poll.outcome == "cut":
        yield finding("S-15", f"{said('GET', poll.reply)} after {poll.seconds:.0f} s")


def oversized(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    reply = seen.oversized
    if reply is None or (isinstance(reply, Answer) and reply.status == 200):
        return
    if isinstance(reply, Answer) and server_of(reply) is Server.SOCKETGUARD:
        return  # a guard takes little from a session that has joined nothing
    yield finding("S-20", said("a POST as large as the server announces", reply), severity="warning")
