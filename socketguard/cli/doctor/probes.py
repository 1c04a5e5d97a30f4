"""The questions of the doctor: each fills its part of the observations and says in one line what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from websockets.exceptions import ConnectionClosed

from socketguard.cli.token import look

from .network import Channel, Joined, Network, PollingChannel, hold, join
from .observations import (
    Answer,
    Failure,
    Hold,
    Join,
    Meaning,
    Observations,
    Reply,
    Stickiness,
    Tls,
    Unsteady,
    Upgrade,
    describe,
    meaning,
    open_packet,
    opens,
    passing,
    server_of,
)
from .page import endpoint, read_page
from .rules import at_risk
from .target import same_origin_url

SESSIONS, REQUESTS = 3, 4
"""How many polling sessions are begun to see whether their requests meet the same process, and requests in each."""

AGAIN = 4
"""How often a request that failed is asked again: where one of two servers is dead, each time half of them answer."""

LARGEST = 2_000_000
"""Bytes of the oversized request at most."""

Mark = Literal["good", "note", "bad", "skipped"]


@dataclass(frozen=True, slots=True)
class Line:
    """What a check saw, in one line, and more of it."""

    mark: Mark
    text: str
    details: tuple[str, ...] = ()


@dataclass(slots=True)
class Examination:
    """One run of the doctor: what every question needs."""

    network: Network
    seen: Observations
    namespaces: Sequence[str] = ()  # to be joined; empty when nobody named one
    token: str | None = None
    idle: float | None = None  # seconds for which quiet connections are held; None leaves that out
    page_url: str | None = None
    secrets: set[str] = field(default_factory=set)  # what no output may show; grows while sessions are opened
    begun: list[str] = field(default_factory=list)  # the polling sessions that are still open

    async def leave(self) -> None:
        """End the polling sessions that are still open, or the server would wait for them."""
        while self.begun:
            await self.polling(self.begun.pop()).transmit("1")

    async def steadily(self, name: str, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Ask, and once more where it failed: what fails now and then is no answer to the question that was asked."""
        first = await ask()
        if not passing(first):
            return first
        # A request that gets no answer in time would take that time again and again.
        again = 1 if isinstance(first, Failure) and first.kind == "timeout" else AGAIN
        for tries in range(again):
            reply = await ask()
            if not passing(reply):
                self.seen.unsteady.append(Unsteady(name, first, tries + 2))
                return reply
        return first

    async def get(self, url: str, origin: str | None = None) -> Reply:
        """A GET that may begin a polling session."""
        reply = await self.steadily("GET", functools.partial(self.network.request, url, origin=origin))
        sid = self.remember(reply)
        if sid is not None:
            self.begun.append(sid)
        return reply

    async def open(self, origin: str | None, *, deflate: bool = False) -> Reply:
        """Open a WebSocket, and close it again; ``deflate`` offers permessage-deflate, as every browser does."""

        async def ask() -> Reply:
            async with self.network.open(origin=origin, deflate=deflate) as found:
                return found.answer if isinstance(found, Channel) else found

        reply = await self.steadily("WebSocket", ask)
        self.remember(reply)
        return reply

    def remember(self, reply: Reply) -> str | None:
        """Note the secrets of a reply, and give the session id."""
        self.secrets.update(value for value in self.network.cookies.values() if len(value) >= 8)
        data = open_packet(reply)
        if data is None:
            return None
        sid: str = data["sid"]
        self.secrets.add(sid)
        return sid

    async def begin(self) -> str | None:
        """Begin a polling session, without the cookies of any before; None when it doesn't open."""
        self.network.cookies.clear()
        url = self.network.target.url("polling")
        return self.remember(await self.network.request(url, origin=self.accepted_origin()))

    def polling(self, sid: str) -> PollingChannel:
        """The channel of a polling session."""
        return PollingChannel(self.network, sid, self.accepted_origin())

    def accepted_origin(self) -> str | None:
        """The origin for requests that are not about origins: as a browser, unless it is refused."""
        return self.seen.origin if opens(self.seen.polling_origin) else None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Channel | PollingChannel | None]:
        """A session over whichever transport opens; None when none does."""
        for reply, origin in ((self.seen.websocket_origin, self.seen.origin), (self.seen.websocket, None)):
            if opens(reply):
                async with self.network.open(origin=origin) as found:
                    self.remember(found.answer if isinstance(found, Channel) else found)
                    yield found if isinstance(found, Channel) else None
                return
        sid = await self.begin()
        if sid is None:
            yield None
            return
        polling = self.polling(sid)
        yield polling
        await polling.transmit("1")

    async def join(self, channel: Channel | PollingChannel, namespace: str) -> Joined:
        """Ask for a namespace, with the token where nobody else can read it."""
        return await join(channel, namespace, self.sent_token, self.network.timeout)

    @property
    def sent_token(self) -> str | None:
        """The token, but for a server whose certificate is not trusted."""
        return self.token if self.network.checks_certificate else None

    @property
    def opened(self) -> bool:
        """Whether a WebSocket opens, with or without Origin."""
        return opens(self.seen.websocket) or opens(self.seen.websocket_origin)

    def announced(self) -> dict[str, Any]:
        """The data of the first OPEN packet; empty when there was none."""
        replies = (self.seen.polling, self.seen.websocket, self.seen.websocket_origin)
        return next((data for reply in replies if (data := open_packet(reply)) is not None), {})

    def interval(self) -> float | None:
        """Seconds between two pings, as announced; None when there was no announcement."""
        interval = self.announced().get("pingInterval")
        return interval / 1000 if isinstance(interval, int | float) else None

    def joined(self) -> str | None:
        """A namespace in which a connection may stay: servers close one that joins none."""
        return next((join.namespace for join in self.seen.joins if join.outcome == "joined"), None)


# --- up to the handshake


async def url(examination: Examination) -> Line:
    target = examination.seen.target
    return Line("note", target.notes[0], target.notes[1:]) if target.notes else Line("good", target.shown)


async def token(examination: Examination) -> Line:
    seen = examination.seen
    seen.token, seen.token_problem = look(examination.token or "", time.time())
    return Line("bad" if seen.token_problem else "good", seen.token)


async def dns(examination: Examination) -> Line:
    found = await examination.network.addresses()
    if isinstance(found, Failure):
        examination.seen.network = found
        return Line("bad", describe(found))
    return Line("good", ", ".join(found[:4]))


async def tcp(examination: Examination) -> Line:
    found = await examination.network.connects()
    if isinstance(found, Failure):
        examination.seen.network = found
        return Line("bad", describe(found))
    return Line("good", f"connected in {found * 1000:.0f} ms")


async def tls(examination: Examination) -> Line:
    if not examination.network.target.tls:
        return Line("skipped", "the URL is not https")
    found = examination.seen.tls = await examination.network.tls()
    if isinstance(found, Failure):
        return Line("bad", describe(found))
    if found.problem:
        return Line("bad", found.problem, ("The rest is examined without checking it, and without the token.",))
    left = "" if found.days_left is None else f", certificate valid for {found.days_left:.0f} days"
    return Line("good", f"{found.version}, {found.alpn or 'no ALPN'}{left}")


async def page(examination: Examination) -> Line:
    """The addresses that were built into a page."""
    target = examination.seen.target
    examination.seen.page = found = await read_page(examination.page_url or "", target, examination.network)
    if not isinstance(found.reply, Answer) or found.reply.status != 200:
        return Line("bad", describe(found.reply))
    own = [item for item in found.baked if same_origin_url(item.url, target.origin)]
    named = [item.namespace for item in own if item.namespace != "/" and endpoint(item).path == target.path]
    examination.namespaces = examination.namespaces or named
    details = tuple(f"{item.source}: {item.url}" for item in found.baked)
    text = f"{found.scripts} scripts read, {found.left_out} left out; {len(found.baked)} addresses found"
    return Line("good" if len(own) == len(found.baked) else "bad", text, details)


async def polling(examination: Examination) -> Line:
    """The handshake over polling, without and with Origin."""
    seen, network = examination.seen, examination.network
    url = network.target.url("polling")
    seen.polling = await examination.get(url)
    if isinstance(seen.polling, Failure):
        if not network.target.tls and seen.polling.kind in ("reset", "protocol"):
            seen.speaks_tls = isinstance(await network.tls(), Tls)
        return Line("bad", describe(seen.polling))
    if meaning(seen.polling) in (Meaning.VERSION, Meaning.TRANSPORT_OFF):
        # Servers look at the transport before the version: of one that doesn't exist they say so, if they see it.
        seen.unread = await examination.get(url.replace("transport=polling", "transport=doctor"))
    seen.polling_origin = await examination.get(url, seen.origin)
    if meaning(seen.polling_origin) is Meaning.ORIGIN and not seen.origin_given:
        scheme, _, rest = seen.origin.partition("://")
        seen.polling_plain = await examination.get(url, f"{'http' if scheme == 'https' else 'https'}://{rest}")
    return _pair(seen.origin, seen.polling, seen.polling_origin)


async def preflight(examination: Examination) -> Line:
    """OPTIONS, as browsers send it before a POST with a header of its own."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    network, seen = examination.network, examination.seen
    url = network.target.url("polling")
    seen.preflight = found = await network.request(url, method="OPTIONS", origin=seen.origin, headers=asked)
    fine = isinstance(found, Answer) and found.status < 300
    return Line("good" if fine else "note", describe(found))


async def websocket(examination: Examination) -> Line:
    """The handshake over WebSocket, without and with Origin."""
    seen = examination.seen
    seen.websocket = await examination.open(None)
    seen.websocket_origin = await examination.open(seen.origin, deflate=True)
    if opens(seen.websocket) and not opens(seen.websocket_origin):
        plain = await examination.open(seen.origin)
        if opens(plain):
            seen.deflated, seen.websocket_origin = seen.websocket_origin, plain
    bare_opens = opens(seen.websocket)
    failed = seen.websocket_origin if bare_opens else seen.websocket
    if isinstance(failed, Answer) and not opens(failed):
        # ASGI servers send a bare 403 for whatever reason; over plain HTTP the reason is in the body.
        url = examination.network.target.url("websocket")
        seen.resent = await examination.get(url, seen.origin if bare_opens else None)
    return _pair(seen.origin, seen.websocket, seen.websocket_origin)


def _pair(origin: str, bare: Reply, with_origin: Reply) -> Line:
    details = (f"without Origin: {describe(bare)}", f"with Origin {origin}: {describe(with_origin)}")
    opened = [opens(reply) for reply in (bare, with_origin)]
    if all(opened):
        return Line("good", f"opens with and without Origin ({with_origin.seconds * 1000:.0f} ms)", details)
    if meaning(bare) is Meaning.TRANSPORT_OFF:
        return Line("note", "switched off at the server", details)
    return Line("bad", describe(with_origin if opened[0] else bare), details)


# --- within a session


async def sticky(examination: Examination) -> Line:
    """Whether the requests of a polling session meet the process that knows it."""
    seen = examination.seen
    if not opens(seen.polling):
        return Line("skipped", "polling doesn't open")
    found = await _stickiness(examination, cookies=False)
    seen.sticky.append(found)
    if found.unknown and found.cookie_names:
        seen.sticky.append(await _stickiness(examination, cookies=True))
    last = seen.sticky[-1]
    met = "requests met a process that doesn't know the session"
    tries = ((f"{each.unknown} of {each.asked} {met}", each.cookies) for each in seen.sticky)
    details = tuple(f"{'with' if cookies else 'without'} cookies: {text}" for text, cookies in tries)
    if found.refused is not None:
        return Line("bad", f"POST: {describe(found.refused)}", details)
    if not found.unknown:
        return Line("good", f"{found.asked} requests over fresh connections found their session", details)
    if last is found or last.unknown:
        return Line("bad", details[0], details)
    text = "sessions hold for clients that send cookies: pages of other sites and native ones do not"
    return Line("note", text, details)


async def _stickiness(examination: Examination, *, cookies: bool) -> Stickiness:
    network = examination.network
    asked = unknown = 0
    refused: Reply | None = None
    for _ in range(SESSIONS):
        sid = await examination.begin()
        if sid is None:
            continue
        url = network.target.url("polling", sid=sid)
        # A pong that nobody asked for changes nothing; a close packet ends the session at the last. They come right
        # after each other, because of idle workers with one socket it is always the same that takes a connection.
        for text in ["3"] * (REQUESTS - 1) + ["1"]:
            origin = examination.accepted_origin()
            post = functools.partial(network.request, url, method="POST", origin=origin, body=text, cookies=cookies)
            post = functools.partial(post, at_once=True)
            # The end of a session can't be asked for twice.
            reply = await (post() if text == "1" else examination.steadily("POST", post))
            asked += 1
            if meaning(reply) is Meaning.SESSION_UNKNOWN:
                unknown += 1
            elif (isinstance(reply, Failure) or reply.status != 200) and not (text == "1" and passing(reply)):
                refused = reply
        if refused is not None:
            break
    return Stickiness(cookies, asked, unknown, tuple(sorted(network.cookies)), refused)


async def namespaces(examination: Examination) -> Line:
    """The CONNECT of each namespace."""
    wanted = list(dict.fromkeys(examination.namespaces))
    joins = examination.seen.joins
    for namespace in wanted or ["/"]:
        joins.append(await _join(examination, namespace, wanted=bool(wanted)))
    details = tuple(_of_join(join) for join in joins)
    if any(join.outcome == "failed" for join in joins):
        return Line("skipped", "no transport opens", details)
    marks = {_mark(join) for join in joins}
    return Line("bad" if "bad" in marks else "note" if "note" in marks else "good", "; ".join(details), details)


def _mark(join: Join) -> Mark:
    if join.outcome == "joined":
        return "good"
    expected = join.outcome == "refused" and (join.code == "token_missing" or not (join.with_token or join.wanted))
    return "note" if expected else "bad"


async def _join(examination: Examination, namespace: str, *, wanted: bool) -> Join:
    async with examination.session() as channel:
        if channel is None:
            return Join(namespace, "failed", wanted)
        begin = time.monotonic()
        outcome, message, data = await examination.join(channel, namespace)
        seconds = time.monotonic() - begin
        if outcome == "joined":
            with contextlib.suppress(ConnectionClosed):
                await channel.transmit("41" if namespace == "/" else f"41{namespace},")
    return Join(namespace, outcome, wanted, examination.sent_token is not None, message, data, seconds)


def _of_join(join: Join) -> str:
    if join.outcome == "joined":
        return f"{join.namespace}: joined in {join.seconds * 1000:.0f} ms"
    if join.outcome == "refused":
        code = f" ({join.code})" if join.code else ""
        return f"{join.namespace}: refused, {join.message or 'without a message'}{code}"
    said = {"silent": "no answer", "closed": "the connection was closed", "failed": "not asked"}
    return f"{join.namespace}: {said[join.outcome]}"


async def upgrade(examination: Examination) -> Line:
    """From polling to WebSocket, as a client does by default."""
    if not opens(examination.seen.polling) or not examination.opened:
        return Line("skipped", "needs polling and WebSocket")
    examination.seen.upgrade = found = await _upgrade(examination)
    if found.outcome == "upgraded":
        return Line("good", f"probe answered in {found.seconds * 1000:.0f} ms")
    said = {"silent": "the probe got no answer", "failed": "no polling session"}
    return Line("bad", said.get(found.outcome) or describe(found.reply))


async def _upgrade(examination: Examination) -> Upgrade:
    sid = await examination.begin()
    if sid is None:
        return Upgrade("failed")
    seen = examination.seen
    origin = seen.origin if opens(seen.websocket_origin) else None
    async with examination.network.open(sid=sid, origin=origin, cookies=True) as channel:
        if not isinstance(channel, Channel):
            return Upgrade("refused", channel)
        begin = time.monotonic()
        try:
            async with asyncio.timeout(examination.network.timeout):
                await channel.transmit("2probe")
                while await channel.receive() != "3probe":
                    pass
            seconds = time.monotonic() - begin
            await channel.transmit("5")
            await channel.transmit("1")
        except (TimeoutError, ConnectionClosed):
            return Upgrade("silent")
    return Upgrade("upgraded", seconds=seconds)


# --- time and size


async def heartbeat(examination: Examination) -> Line:
    """The announced heartbeat against what is known of the proxies that answered."""
    interval = examination.interval()
    if interval is None:
        return Line("skipped", "no session")
    proxies = examination.seen.proxies()
    server = next(filter(None, map(server_of, examination.seen.answers())), None)
    names = ", ".join(f"{name} (by {evidence})" for name, evidence in proxies.items()) or "no proxy left a trace"
    risks = at_risk(interval, 20, proxies)
    details = (f"the server is {server.value if server else 'unknown'}", *risks)
    return Line("bad" if risks else "good", f"a ping every {interval:g} s; {names}", details)


async def held(examination: Examination) -> Line:
    """Quiet connections, held to see when something cuts them."""
    interval = examination.interval()
    if examination.idle is None or interval is None:
        return Line("skipped", "only with --idle SECONDS" if examination.idle is None else "no session")
    seconds = max(examination.idle, interval + 5)
    holds = await asyncio.gather(
        _hold(examination, "idle", seconds), _hold(examination, "busy", seconds), _hold_poll(examination, interval + 5)
    )
    examination.seen.holds += holds
    details = tuple(_of_hold(each) for each in holds)
    if all(each.outcome == "failed" for each in holds):
        return Line("skipped", "no namespace lets the doctor in; give --namespace and --token", details)
    fine = all(each.outcome in ("held", "answered", "failed") for each in holds)
    return Line("good" if fine else "bad", "; ".join(details), details)


async def _hold(examination: Examination, kind: Literal["idle", "busy"], seconds: float) -> Hold:
    namespace = examination.joined()
    async with examination.session() as channel:
        if namespace and isinstance(channel, Channel) and (await examination.join(channel, namespace))[0] == "joined":
            return await hold(channel, kind, seconds)
    return Hold(kind, "failed")


async def _hold_poll(examination: Examination, seconds: float) -> Hold:
    namespace = examination.joined()
    sid = await examination.begin() if namespace and opens(examination.seen.polling) else None
    if namespace is None or sid is None:
        return Hold("poll", "failed")
    channel = examination.polling(sid)
    try:
        if (await examination.join(channel, namespace))[0] != "joined":
            return Hold("poll", "failed")
        begin = time.monotonic()
        reply = await channel.poll(seconds + examination.network.timeout)
        fine = isinstance(reply, Answer) and reply.status == 200
        return Hold("poll", "answered" if fine else "cut", time.monotonic() - begin, reply=reply)
    finally:
        await channel.transmit("1")


def _of_hold(hold: Hold) -> str:
    name = {"idle": "quiet WebSocket", "busy": "busy WebSocket", "poll": "waiting GET"}[hold.kind]
    if hold.outcome == "failed":
        return f"{name}: not tried"
    end = {"held": "open for", "cut": "cut after", "closed": "closed after", "answered": "answered after"}
    return f"{name}: {end[hold.outcome]} {hold.seconds:.0f} s"


async def body(examination: Examination) -> Line:
    """One POST as large as the server says it takes."""
    sid = await examination.begin()
    if sid is None:
        return Line("skipped", "polling doesn't open")
    announced = examination.announced().get("maxPayload")
    size = min(announced if isinstance(announced, int) and announced > 1 else 1_000_000, LARGEST)
    url = examination.network.target.url("polling", sid=sid)
    # A pong with a long text: no application sees it.
    examination.seen.oversized = found = await examination.network.request(
        url, method="POST", body="3" + "x" * (size - 1), cookies=True, origin=examination.accepted_origin()
    )
    await examination.polling(sid).transmit("1")
    fine = isinstance(found, Answer) and found.status == 200
    return Line("good" if fine else "bad", f"{size} bytes: {describe(found)}")
