"""What was seen: small frozen records, and what an answer means in the words of Engine.IO.

The texts are those of engine.io 6.6 (Node), python-engineio 4.11 to 4.15 and this package's guard.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from socketguard.proxies.traces import recognise_answer

from .target import Target

CHATTER = 1.0
"""Seconds between two frames of the doctor on a connection that it keeps busy."""

FailureKind = Literal["dns", "refused", "unreachable", "timeout", "certificate", "tls", "reset", "protocol"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, or a WebSocket that opened (status 101), whose body is the first frame, empty when none came."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()  # names in lower case, with repetitions
    body: str = ""  # the beginning
    seconds: float = 0.0

    def all(self, name: str) -> list[str]:
        """All values of a header, by its name in lower case."""
        return [value for header, value in self.headers if header == name]

    def header(self, name: str) -> str:
        """The first value of a header, by its name in lower case; empty when it isn't there."""
        return next(iter(self.all(name)), "")


@dataclass(frozen=True, slots=True)
class Failure:
    """No HTTP answer: which layer failed, and what the library said."""

    kind: FailureKind
    text: str
    seconds: float = 0.0


Reply = Answer | Failure


@dataclass(frozen=True, slots=True)
class Tls:
    """A TLS handshake."""

    version: str
    alpn: str | None = None  # of h2 and http/1.1; None when the server chose none
    days_left: float | None = None  # of the certificate; None when it can't be read
    problem: str = ""  # why the certificate is not trusted


@dataclass(frozen=True, slots=True)
class Unsteady:
    """A request that failed and, asked again, did not."""

    asked: str
    failed: Reply
    tries: int  # until it was answered as Engine.IO answers


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Requests of polling sessions, each over a connection of its own."""

    cookies: bool  # whether the client sent back the cookies that it got
    asked: int
    unknown: int  # how many met a process that doesn't know the session
    cookie_names: tuple[str, ...] = ()
    refused: Reply | None = None  # an answer to a POST that is no Engine.IO answer


@dataclass(frozen=True, slots=True)
class Join:
    """The CONNECT of one namespace.

    ``silent``: no answer in time; ``closed``: the connection ended instead; ``failed``: there was no session to ask in.
    """

    namespace: str
    outcome: Literal["joined", "refused", "silent", "closed", "failed"]
    wanted: bool = True  # False for the "/" that is tried when nobody asked for any
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

    ``refused``: the WebSocket didn't open; ``silent``: no answer to the probe; ``failed``: no polling session.
    """

    outcome: Literal["upgraded", "refused", "silent", "failed"]
    reply: Reply | None = None  # what came in place of the WebSocket
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """A connection that was kept open to see when something cuts it.

    ``idle``: a WebSocket on which only pings are answered; ``busy``: one that also talks; ``poll``: a waiting GET.
    ``cut``: ended without a close frame or an answer; ``closed``: with one; ``failed``: it couldn't begin.
    """

    kind: Literal["idle", "busy", "poll"]
    outcome: Literal["held", "cut", "closed", "answered", "failed"]
    seconds: float = 0.0
    pings: int = 0
    quiet: float = 0.0  # seconds since the last frame of the server
    code: int | None = None  # of the close frame
    reply: Reply | None = None  # what ended a poll
    pause: float = 0.0  # the longest time, in seconds, for which the doctor or the server said nothing at all


@dataclass(frozen=True, slots=True)
class Baked:
    """An address that stands in a page or its scripts, as it is written there."""

    url: str
    namespace: str
    path: str | None  # the option beside it
    source: str  # the file in which it stands
    reply: Reply | None = None  # what answered there; the target itself is not asked


@dataclass(frozen=True, slots=True)
class PageSeen:
    """A page and its scripts; ``left_out`` are too many, too big, too slow, or from another origin."""

    url: str
    reply: Reply
    scripts: int = 0
    left_out: int = 0
    baked: tuple[Baked, ...] = ()


@dataclass(frozen=True, slots=True)
class Crash:
    """A check that failed by a defect of its own."""

    check: str
    text: str


@dataclass(slots=True)
class Observations:
    """Everything that was seen; what was not asked is None or empty."""

    target: Target
    origin: str = ""
    origin_given: bool = False  # otherwise it is the target's own
    network: Failure | None = None  # of DNS or TCP
    tls: Tls | Failure | None = None
    speaks_tls: bool = False  # for http://: whether the port speaks TLS
    polling: Reply | None = None  # without Origin
    polling_origin: Reply | None = None
    polling_plain: Reply | None = None  # with the Origin of the other scheme, when the right one is refused
    preflight: Reply | None = None
    websocket: Reply | None = None  # without Origin
    websocket_origin: Reply | None = None
    resent: Reply | None = None  # the URL of the refused WebSocket as a plain GET, which has the reason in words
    unsteady: list[Unsteady] = field(default_factory=list)
    deflated: Reply | None = None  # a WebSocket that failed with permessage-deflate and opened without
    unread: Reply | None = None  # a handshake with a transport that doesn't exist, when the version is refused
    sticky: list[Stickiness] = field(default_factory=list)  # without and, when that failed, with cookies
    joins: list[Join] = field(default_factory=list)
    upgrade: Upgrade | None = None
    holds: list[Hold] = field(default_factory=list)
    oversized: Reply | None = None
    page: PageSeen | None = None
    token: str = ""  # in words, without its secret parts
    token_problem: str = ""
    crashes: list[Crash] = field(default_factory=list)

    def answers(self) -> Iterator[Answer]:
        """Every HTTP answer, in the order of asking."""
        asked = (
            *(self.polling, self.polling_origin, self.polling_plain, self.preflight),
            *(self.websocket, self.websocket_origin, self.resent),
            *(seen.refused for seen in self.sticky),
            self.upgrade and self.upgrade.reply,
            *(hold.reply for hold in self.holds),
            self.oversized,
        )
        return (reply for reply in asked if isinstance(reply, Answer))

    def proxies(self) -> dict[str, str]:
        """The proxies that left a trace in an answer, and by what each was told."""
        found: dict[str, str] = {}
        for answer in self.answers():
            for name, evidence in recognise_answer(answer.status, answer.headers, answer.body):
                found.setdefault(name, evidence)
        return found


# --- what an answer means


class Meaning(enum.StrEnum):
    """What an Engine.IO server said."""

    OPEN = "open"
    OLD_SERVER = "old server"
    ORIGIN = "origin refused"
    VERSION = "protocol version refused"
    UPGRADE_LOST = "upgrade lost"
    TRANSPORT_OFF = "transport switched off"
    SESSION_UNKNOWN = "session unknown"
    FORBIDDEN = "refused by the application"
    BUSY = "refused for now"
    WRONG_PATH = "wrong path"
    BAD_REQUEST = "bad request"
    OTHER = "no Engine.IO answer"


class Server(enum.StrEnum):
    """Which implementation answered."""

    SOCKETGUARD = "socketguard"
    PYTHON = "python-socketio"
    NODE = "Socket.IO for Node"


_NODE = {
    0: Meaning.TRANSPORT_OFF,
    1: Meaning.SESSION_UNKNOWN,
    2: Meaning.BAD_REQUEST,
    3: Meaning.UPGRADE_LOST,
    4: Meaning.FORBIDDEN,
    5: Meaning.VERSION,
}
# Node answers a refused upgrade with the text alone.
_NODE_TEXTS = {
    "Transport unknown": Meaning.TRANSPORT_OFF,
    "Session ID unknown": Meaning.SESSION_UNKNOWN,
    "Unsupported protocol version": Meaning.VERSION,
    "Forbidden": Meaning.FORBIDDEN,
}
_PYTHON = (
    (re.compile(r"^'?(Invalid session|Session (not found|is disconnected))"), Meaning.SESSION_UNKNOWN),
    (re.compile(r"^Invalid transport$"), Meaning.TRANSPORT_OFF),
    (re.compile(r"^Invalid websocket upgrade$"), Meaning.UPGRADE_LOST),
    (re.compile(r"unsupported version of the Socket\.IO or Engine\.IO protocols"), Meaning.VERSION),
    (re.compile(r" is not an accepted origin\.$"), Meaning.ORIGIN),
    (re.compile(r"^(Bad Request|Not connected|Unexpected HTTP request)$"), Meaning.BAD_REQUEST),
)
_GUARD = {
    "origin_not_allowed": Meaning.ORIGIN,
    "protocol_version": Meaning.VERSION,
    "upgrade_missing": Meaning.UPGRADE_LOST,
    "transport_disabled": Meaning.TRANSPORT_OFF,
    "transport_unknown": Meaning.TRANSPORT_OFF,
    "session_unknown": Meaning.SESSION_UNKNOWN,
    "wrong_path": Meaning.WRONG_PATH,
    "draining": Meaning.BUSY,
    "rate_limited": Meaning.BUSY,
    "connection_limit": Meaning.BUSY,
    "keys_unavailable": Meaning.BUSY,
    "admission_timeout": Meaning.BUSY,
}
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_OLD = re.compile(r"^\d+:0\{")


def open_packet(reply: Reply | None) -> dict[str, Any] | None:
    """The handshake data of an OPEN packet, also when more packets follow it; None for anything else."""
    if not isinstance(reply, Answer) or not reply.body.startswith("0{"):
        return None
    data = _json(reply.body.partition("\x1e")[0][1:])
    return data if isinstance(data, dict) and isinstance(data.get("sid"), str) else None


def packets(body: str) -> list[str]:
    """The packets of a polling body."""
    return body.split("\x1e") if body else []


def meaning(reply: Reply | None) -> Meaning:
    """Say what a reply means in the words of Engine.IO."""
    if not isinstance(reply, Answer):
        return Meaning.OTHER
    if reply.status in (101, 200) and open_packet(reply) is not None:
        return Meaning.OPEN
    if reply.status == 200:
        return Meaning.OLD_SERVER if _OLD.match(reply.body) else Meaning.OTHER
    data = _json(reply.body)
    if isinstance(data, dict):
        code = data.get("code")
        if isinstance(code, int) and isinstance(data.get("message"), str):
            return _NODE.get(code, Meaning.OTHER)
        return _GUARD.get(code, Meaning.BAD_REQUEST) if isinstance(code, str) and "ref" in data else Meaning.OTHER
    if isinstance(data, str):
        return next((found for pattern, found in _PYTHON if pattern.search(data)), Meaning.OTHER)
    return _NODE_TEXTS.get(reply.body.strip(), Meaning.OTHER) if reply.status in (400, 403) else Meaning.OTHER


def opens(reply: Reply | None) -> bool:
    """Whether a session opened."""
    return meaning(reply) is Meaning.OPEN


def passing(reply: Reply | None) -> bool:
    """Whether a reply may be of the moment, so that the request is to be repeated before it is taken for an answer.

    What no Engine.IO server says comes from something in front, or from one of several servers.
    """
    if isinstance(reply, Failure):
        return reply.kind in ("timeout", "reset", "refused", "unreachable", "protocol")
    return reply is not None and reply.status >= 400 and reply.status != 429 and meaning(reply) is Meaning.OTHER


def server_of(reply: Reply | None) -> Server | None:
    """Tell the implementation by an answer: by the shape of its errors, or the order of keys in its OPEN packet."""
    data: Any = open_packet(reply)
    if data is not None:
        order = tuple(key for key in data if key in ("pingInterval", "pingTimeout"))
        return {("pingInterval", "pingTimeout"): Server.NODE, ("pingTimeout", "pingInterval"): Server.PYTHON}.get(order)
    if not isinstance(reply, Answer) or meaning(reply) in (Meaning.OTHER, Meaning.OLD_SERVER):
        return None
    data = _json(reply.body)
    if isinstance(data, str):
        return Server.PYTHON
    return Server.SOCKETGUARD if isinstance(data, dict) and isinstance(data["code"], str) else Server.NODE


def readable(body: str) -> str:
    """The beginning of a body in one line, without the tags of HTML."""
    return " ".join(_TAG.sub(" ", body[:2000]).split())[:200]


def describe(reply: Reply | None) -> str:
    """A reply in a few words."""
    if reply is None:
        return "not asked"
    if isinstance(reply, Failure):
        return f"{reply.kind}: {reply.text}"
    found = meaning(reply)
    if found is Meaning.OPEN:
        return f"{reply.status}, session opened in {reply.seconds * 1000:.0f} ms"
    body = readable(reply.body)
    said = f", {found.value}" if found is not Meaning.OTHER else ""
    return f"{reply.status}{said}{f': {body}' if body else ', empty body'}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
