"""The questions up to the handshake. Each fills its part of the observations and says in one line what it saw."""

from __future__ import annotations

from .examination import Examination, Line, describe
from .observations import Answer, Failure, Reply, Stickiness, Tls
from .wire import Meaning, meaning

__all__ = ["dns", "polling", "preflight", "sticky", "tcp", "tls", "websocket"]

SESSIONS, REQUESTS = 3, 4
"""How many polling sessions are begun to see whether their requests meet the same process, and requests in each."""


async def dns(examination: Examination) -> Line:
    """The name."""
    found = await examination.network.addresses()
    if isinstance(found, Failure):
        examination.seen.network = found
        return Line("bad", describe(found))
    return Line("good", ", ".join(found[:4]))


async def tcp(examination: Examination) -> Line:
    """The port."""
    found = await examination.network.connects()
    if isinstance(found, Failure):
        examination.seen.network = found
        return Line("bad", describe(found))
    return Line("good", f"connected in {found * 1000:.0f} ms")


async def tls(examination: Examination) -> Line:
    """The certificate."""
    if not examination.network.target.tls:
        return Line("skipped", "the URL is not https")
    found = examination.seen.tls = await examination.network.tls()
    if isinstance(found, Failure):
        return Line("bad", describe(found))
    if found.problem:
        return Line("bad", found.problem, ("The rest is examined without checking it, and without the token.",))
    left = "" if found.days_left is None else f", certificate valid for {found.days_left:.0f} days"
    return Line("good", f"{found.version}, {found.alpn or 'no ALPN'}{left}")


async def polling(examination: Examination) -> Line:
    """The handshake over polling, without and with Origin."""
    url = examination.network.target.url("polling")
    examination.seen.polling = await examination.get(url)
    if isinstance(examination.seen.polling, Failure):
        if not examination.network.target.tls and examination.seen.polling.kind in ("reset", "protocol"):
            examination.seen.speaks_tls = isinstance(await examination.network.tls(), Tls)
        return Line("bad", describe(examination.seen.polling))
    examination.seen.polling_origin = await examination.get(url, examination.seen.origin)
    if meaning(examination.seen.polling_origin) is Meaning.ORIGIN and not examination.seen.origin_given:
        scheme, _, rest = examination.seen.origin.partition("://")
        examination.seen.polling_plain = await examination.get(
            url, f"{'http' if scheme == 'https' else 'https'}://{rest}"
        )
    return _pair(examination, examination.seen.polling, examination.seen.polling_origin)


async def preflight(examination: Examination) -> Line:
    """OPTIONS, as browsers send it before a POST with a header of its own."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    url = examination.network.target.url("polling")
    examination.seen.preflight = found = await examination.network.request(
        url, method="OPTIONS", origin=examination.seen.origin, headers=asked
    )
    fine = isinstance(found, Answer) and found.status < 300
    return Line("good" if fine else "note", f"{describe(found)}")


async def websocket(examination: Examination) -> Line:
    """The handshake over WebSocket, without and with Origin."""
    examination.seen.websocket = await examination.open(None)
    examination.seen.websocket_origin = await examination.open(examination.seen.origin)
    failed = next(
        (
            reply
            for reply in (examination.seen.websocket, examination.seen.websocket_origin)
            if meaning(reply) is not Meaning.OPEN
        ),
        None,
    )
    if isinstance(failed, Answer):
        # ASGI servers send a bare 403 for whatever reason; over plain HTTP the reason is in the body.
        refused = failed is examination.seen.websocket_origin
        examination.seen.resent = await examination.get(
            examination.network.target.url("websocket"), examination.seen.origin if refused else None
        )
    return _pair(examination, examination.seen.websocket, examination.seen.websocket_origin)


def _pair(examination: Examination, bare: Reply, with_origin: Reply) -> Line:
    details = (f"without Origin: {describe(bare)}", f"with Origin {examination.seen.origin}: {describe(with_origin)}")
    opened = [meaning(reply) is Meaning.OPEN for reply in (bare, with_origin)]
    if all(opened):
        return Line("good", f"opens with and without Origin ({with_origin.seconds * 1000:.0f} ms)", details)
    if meaning(bare) is Meaning.TRANSPORT_OFF:
        return Line("note", "switched off at the server", details)
    return Line("bad", describe(with_origin if opened[0] else bare), details)


async def sticky(examination: Examination) -> Line:
    """Whether the requests of a polling session meet the process that knows it."""
    if meaning(examination.seen.polling) is not Meaning.OPEN:
        return Line("skipped", "polling doesn't open")
    found = await _stickiness(examination, cookies=False)
    examination.seen.sticky.append(found)
    if found.unknown and found.cookie_names:
        examination.seen.sticky.append(await _stickiness(examination, cookies=True))
    last = examination.seen.sticky[-1]
    details = tuple(
        f"{'with' if seen.cookies else 'without'} cookies: {seen.unknown} of {seen.asked} requests met a process "
        "that doesn't know the session"
        for seen in examination.seen.sticky
    )
    if found.refused is not None:
        return Line("bad", f"POST: {describe(found.refused)}", details)
    if not found.unknown:
        return Line("good", f"{found.asked} requests over fresh connections found their session", details)
    if last is found or last.unknown:
        return Line("bad", details[0], details)
    return Line(
        "note", "sessions hold for clients that send cookies: pages of other sites and native ones do not", details
    )


async def _stickiness(examination: Examination, *, cookies: bool) -> Stickiness:
    asked = unknown = 0
    refused: Reply | None = None
    for _ in range(SESSIONS):
        sid = await examination.begin()
        if sid is None:
            continue
        url = examination.network.target.url("polling", sid=sid)
        # A pong that nobody asked for changes nothing; a close packet ends the session at the last. They come right
        # after each other, because of idle workers with one socket it is always the same that takes a connection.
        for body in ["3"] * (REQUESTS - 1) + ["1"]:
            reply = await examination.network.request(
                url, method="POST", origin=examination.accepted_origin(), body=body, cookies=cookies, at_once=True
            )
            asked += 1
            if meaning(reply) is Meaning.SESSION_UNKNOWN:
                unknown += 1
            elif isinstance(reply, Failure) or reply.status != 200:
                refused = reply
        if refused is not None:
            break
    return Stickiness(cookies, asked, unknown, tuple(sorted(examination.network.cookies)), refused)
