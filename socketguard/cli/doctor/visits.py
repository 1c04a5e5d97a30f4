"""The questions within a session: joining, upgrading, staying. Each says in one line what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Literal

from websockets.exceptions import ConnectionClosed

from .examination import Examination, Line, describe
from .fingerprints import at_risk, recognise
from .network import Channel
from .observations import Answer, Hold, Join, Upgrade
from .sessions import PollingChannel, hold, join
from .wire import Meaning, meaning, server_of

__all__ = ["body", "heartbeat", "held", "namespaces", "upgrade"]

CHATTER = 1.0
"""Seconds between two frames on the connection that is kept busy."""
LARGEST = 2_000_000
"""Bytes of the oversized request at most."""


async def namespaces(examination: Examination) -> Line:
    """The CONNECT of each namespace."""
    wanted = list(dict.fromkeys(examination.namespaces))
    for namespace in wanted or ["/"]:
        examination.seen.joins.append(await _join(examination, namespace, wanted=bool(wanted)))
    joins = examination.seen.joins
    details = tuple(_of_join(join) for join in joins)
    bad = [
        join
        for join in joins
        if join.outcome in ("silent", "closed") or (join.outcome == "refused" and (join.with_token or join.wanted))
    ]
    text = "; ".join(details)
    if any(join.outcome == "failed" for join in joins):
        return Line("skipped", "no transport opens", details)
    if not bad:
        return Line("good" if all(join.outcome == "joined" for join in joins) else "note", text, details)
    return Line("note" if all(join.code == "token_missing" for join in bad) else "bad", text, details)


async def _join(examination: Examination, namespace: str, *, wanted: bool) -> Join:
    token = examination.token if examination.network.checks_certificate else None
    async with examination.session() as channel:
        if channel is None:
            return Join(namespace, "failed", wanted)
        begin = time.monotonic()
        outcome, message, data = await join(channel, namespace, token, examination.network.timeout)
        seconds = time.monotonic() - begin
        if outcome == "joined":
            with contextlib.suppress(ConnectionClosed):
                await channel.transmit("41" if namespace == "/" else f"41{namespace},")
    return Join(namespace, outcome, wanted, token is not None, message, data, seconds)


async def upgrade(examination: Examination) -> Line:
    """From polling to WebSocket, as a client does by default."""
    if meaning(examination.seen.polling) is not Meaning.OPEN or Meaning.OPEN not in (
        meaning(examination.seen.websocket),
        meaning(examination.seen.websocket_origin),
    ):
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
    origin: str | None = examination.seen.origin
    if meaning(examination.seen.websocket_origin) is not Meaning.OPEN:
        origin = None
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


async def heartbeat(examination: Examination) -> Line:
    """The announced heartbeat against what is known of the proxies that answered."""
    interval = examination.interval()
    if interval is None:
        return Line("skipped", "no session")
    proxies = recognise(examination.seen.answers())
    server = next((found for answer in examination.seen.answers() if (found := server_of(answer))), None)
    names = ", ".join(f"{proxy.name} (by {proxy.evidence})" for proxy in proxies) or "no proxy left a trace"
    risks = at_risk(interval, 20, proxies)
    return Line(
        "bad" if risks else "good",
        f"a ping every {interval:g} s; {names}",
        (f"the server is {server.value if server else 'unknown'}", *risks),
    )


async def held(examination: Examination) -> Line:
    """Quiet connections, held to see when something cuts them."""
    interval = examination.interval()
    if examination.idle is None or interval is None:
        return Line("skipped", "only with --idle SECONDS" if examination.idle is None else "no session")
    seconds = max(examination.idle, interval + 5)
    examination.seen.holds += await asyncio.gather(
        _hold(examination, "idle", seconds), _hold(examination, "busy", seconds), _hold_poll(examination, interval + 5)
    )
    details = tuple(_of_hold(hold) for hold in examination.seen.holds)
    if all(hold.outcome == "failed" for hold in examination.seen.holds):
        return Line("skipped", "no namespace lets the doctor in; give --namespace and --token", details)
    fine = all(hold.outcome in ("held", "answered", "failed") for hold in examination.seen.holds)
    return Line("good" if fine else "bad", "; ".join(details), details)


async def _hold(examination: Examination, kind: Literal["idle", "busy"], seconds: float) -> Hold:
    namespace = examination.joined()
    token = examination.token if examination.network.checks_certificate else None
    async with examination.session() as channel:
        if namespace is None or not isinstance(channel, Channel):
            return Hold(kind, "failed")
        if (await join(channel, namespace, token, examination.network.timeout))[0] != "joined":
            return Hold(kind, "failed")
        return await hold(channel, kind, seconds, every=CHATTER)


async def _hold_poll(examination: Examination, seconds: float) -> Hold:
    namespace = examination.joined()
    if namespace is None or meaning(examination.seen.polling) is not Meaning.OPEN:
        return Hold("poll", "failed")
    token = examination.token if examination.network.checks_certificate else None
    sid = await examination.begin()
    if sid is None:
        return Hold("poll", "failed")
    polling = PollingChannel(examination.network, sid, examination.accepted_origin())
    try:
        if (await join(polling, namespace, token, examination.network.timeout))[0] != "joined":
            return Hold("poll", "failed")
        begin = time.monotonic()
        reply = await polling.poll(seconds + examination.network.timeout)
        fine = isinstance(reply, Answer) and reply.status == 200
        return Hold("poll", "answered" if fine else "cut", time.monotonic() - begin, reply=reply)
    finally:
        await polling.transmit("1")


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
    await PollingChannel(examination.network, sid, examination.accepted_origin()).transmit("1")
    fine = isinstance(found, Answer) and found.status == 200
    return Line("good" if fine else "bad", f"{size} bytes: {describe(found)}")


def _of_join(join: Join) -> str:
    if join.outcome == "joined":
        return f"{join.namespace}: joined in {join.seconds * 1000:.0f} ms"
    if join.outcome == "refused":
        code = f" ({join.code})" if join.code else ""
        return f"{join.namespace}: refused, {join.message or 'without a message'}{code}"
    said = {"silent": "no answer", "closed": "the connection was closed", "failed": "not asked"}
    return f"{join.namespace}: {said[join.outcome]}"


def _of_hold(hold: Hold) -> str:
    name = {"idle": "quiet WebSocket", "busy": "busy WebSocket", "poll": "waiting GET"}[hold.kind]
    if hold.outcome == "failed":
        return f"{name}: not tried"
    end = {"held": "open for", "cut": "cut after", "closed": "closed after", "answered": "answered after"}
    return f"{name}: {end[hold.outcome]} {hold.seconds:.0f} s"
