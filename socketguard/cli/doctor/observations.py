"""What the probes have seen, as small frozen records. This module is pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .target import Target

__all__ = [
    "Answer",
    "Baked",
    "Crash",
    "Failure",
    "FailureKind",
    "Hold",
    "Join",
    "Observations",
    "PageSeen",
    "Reply",
    "Stickiness",
    "Tls",
    "Upgrade",
]

FailureKind = Literal["dns", "refused", "unreachable", "timeout", "certificate", "tls", "reset", "protocol"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, or a WebSocket that opened (status 101).

    Attributes:
        status: the HTTP status.
        headers: names in lower case, with repetitions.
        body: the beginning of the body; for a WebSocket the first frame, empty when none came.
        seconds: until the answer was there.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    seconds: float = 0.0

    def all(self, name: str) -> list[str]:
        """All values of a header, by its name in lower case."""
        return [value for header, value in self.headers if header == name]

    def header(self, name: str) -> str:
        """The first value of a header, by its name in lower case; empty when it isn't there."""
        return next(iter(self.all(name)), "")


@dataclass(frozen=True, slots=True)
class Failure:
    """No HTTP answer.

    Attributes:
        kind: which layer failed.
        text: what the library said.
        seconds: until it failed.
    """

    kind: FailureKind
    text: str
    seconds: float = 0.0


Reply = Answer | Failure


@dataclass(frozen=True, slots=True)
class Tls:
    """A TLS handshake.

    Attributes:
        version: such as ``TLSv1.3``.
        alpn: the protocol that the server chose of ``h2`` and ``http/1.1``; None when it chose none.
        days_left: until the certificate expires; None when it can't be read.
        problem: why the certificate is not trusted; empty when it is.
    """

    version: str
    alpn: str | None = None
    days_left: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Requests of polling sessions, each over a connection of its own.

    Attributes:
        cookies: whether the client sent back the cookies that it got.
        asked: how many requests came after the handshakes.
        unknown: how many of them met a process that doesn't know the session.
        cookie_names: the cookies that the answers set.
        refused: an answer to a POST that is no Engine.IO answer.
    """

    cookies: bool
    asked: int
    unknown: int
    cookie_names: tuple[str, ...] = ()
    refused: Reply | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """The CONNECT of one namespace.

    Attributes:
        namespace: the name that was asked for.
        outcome: ``joined``; ``refused`` with a CONNECT_ERROR; ``silent`` for no answer in time; ``closed`` when the
            connection ended instead; ``failed`` when there was no session to ask in.
        wanted: whether somebody asked for this namespace; False for the ``/`` that is tried when nobody did.
        with_token: whether a token was sent.
        message: of the refusal.
        data: of the refusal.
        seconds: until the answer.
    """

    namespace: str
    outcome: Literal["joined", "refused", "silent", "closed", "failed"]
    wanted: bool = True
    with_token: bool = False
    message: str = ""
    data: Any = None
    seconds: float = 0.0

    @property
    def code(self) -> str:
        """The code of a guard's refusal; empty for others."""
        code = self.data.get("code") if isinstance(self.data, dict) else None
        return code if isinstance(code, str) else ""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The way from polling to WebSocket that a client takes by default.

    Attributes:
        outcome: ``upgraded``; ``refused`` when the WebSocket didn't open; ``silent`` when the probe had no answer;
            ``failed`` when there was no polling session to begin with.
        reply: what came in place of the WebSocket.
        seconds: between the probe and its answer.
    """

    outcome: Literal["upgraded", "refused", "silent", "failed"]
    reply: Reply | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """A connection that was kept open to see when something cuts it.

    Attributes:
        kind: ``idle``: a WebSocket on which only pings are answered; ``busy``: one that also talks every few seconds;
            ``poll``: a GET that waits for the next packet.
        outcome: ``held`` to the end; ``cut`` without a close frame or an answer; ``closed`` with a close frame;
            ``answered`` for a poll; ``failed`` when it couldn't begin.
        seconds: how long it was open.
        pings: how many pings of Engine.IO came.
        quiet: seconds since the last frame of the server when it ended.
        code: the close code.
        reply: what ended a poll.
    """

    kind: Literal["idle", "busy", "poll"]
    outcome: Literal["held", "cut", "closed", "answered", "failed"]
    seconds: float = 0.0
    pings: int = 0
    quiet: float = 0.0
    code: int | None = None
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Baked:
    """An address that stands in a page or its scripts.

    Attributes:
        url: as it is written there.
        namespace: the path part of it, which is the namespace for a Socket.IO client.
        path: the ``path`` option beside it; None when there is none.
        source: the file in which it stands.
        reply: what answered there; None when it was not asked because it is the target.
    """

    url: str
    namespace: str
    path: str | None
    source: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class PageSeen:
    """A page and its scripts.

    Attributes:
        url: of the page.
        reply: to the request for it.
        scripts: how many scripts were read.
        left_out: how many were not: too many, too big, too slow, or from another origin.
        baked: the addresses that stand in them.
    """

    url: str
    reply: Reply
    scripts: int = 0
    left_out: int = 0
    baked: tuple[Baked, ...] = ()


@dataclass(frozen=True, slots=True)
class Crash:
    """A check that failed by a defect of its own.

    Attributes:
        check: its id.
        text: the exception.
    """

    check: str
    text: str


@dataclass(slots=True)
class Observations:
    """Everything that was seen.

    Attributes:
        target: what was examined.
        origin: the ``Origin`` that was sent.
        origin_given: whether somebody named it; otherwise it is the target's own.
        network: the failure of DNS or TCP; None when TCP connects.
        tls: the TLS handshake; None without TLS.
        speaks_tls: for ``http://``: whether the port speaks TLS.
        polling: the handshake over polling, without ``Origin``.
        polling_origin: with ``Origin``.
        polling_plain: with the other scheme's ``Origin``, asked only when the right one is refused.
        preflight: the answer to OPTIONS.
        websocket: the handshake over WebSocket, without ``Origin``.
        websocket_origin: with ``Origin``.
        resent: the URL of the refused WebSocket as a plain GET, which has the reason in words.
        sticky: without and, when that failed, with cookies.
        joins: one for each namespace.
        upgrade: from polling to WebSocket.
        holds: how long connections lived.
        oversized: the answer to a POST as large as the server says it takes.
        page: the page that uses the endpoint.
        token: facts about the token, in words, without any of its secret parts.
        token_problem: what is wrong with it by itself; empty when nothing is.
        crashes: checks that failed by themselves.
    """

    target: Target
    origin: str = ""
    origin_given: bool = False
    network: Failure | None = None
    tls: Tls | Failure | None = None
    speaks_tls: bool = False
    polling: Reply | None = None
    polling_origin: Reply | None = None
    polling_plain: Reply | None = None
    preflight: Reply | None = None
    websocket: Reply | None = None
    websocket_origin: Reply | None = None
    resent: Reply | None = None
    sticky: list[Stickiness] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    upgrade: Upgrade | None = None
    holds: list[Hold] = field(default_factory=list)
    oversized: Reply | None = None
    page: PageSeen | None = None
    token: str = ""
    token_problem: str = ""
    crashes: list[Crash] = field(default_factory=list)

    def answers(self) -> Iterator[Answer]:
        """Every HTTP answer, in the order of asking."""
        asked = (
            self.polling,
            self.polling_origin,
            self.polling_plain,
            self.preflight,
            self.websocket,
            self.websocket_origin,
            self.resent,
            *(seen.refused for seen in self.sticky),
            self.upgrade.reply if self.upgrade else None,
            *(hold.reply for hold in self.holds),
            self.oversized,
        )
        return (reply for reply in asked if isinstance(reply, Answer))
