"""What an answer of an Engine.IO endpoint means, whoever gave it. This module is pure.

The texts are those of engine.io 6.6 (Node), python-engineio 4.11 to 4.15 and this package's guard.
"""

from __future__ import annotations

import enum
import json
import re
from typing import Any

from .observations import Answer, Reply

__all__ = ["Meaning", "Server", "meaning", "open_packet", "packets", "readable", "server_of"]


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


def open_packet(body: str) -> dict[str, Any] | None:
    """The handshake data of an OPEN packet, also when more packets follow it; None for anything else."""
    if not body.startswith("0{"):
        return None
    data = _json(body.partition("\x1e")[0][1:])
    return data if isinstance(data, dict) and isinstance(data.get("sid"), str) else None


def packets(body: str) -> list[str]:
    """The packets of a polling body."""
    return body.split("\x1e") if body else []


def meaning(reply: Reply | None) -> Meaning:
    """Say what a reply means in the words of Engine.IO."""
    if not isinstance(reply, Answer):
        return Meaning.OTHER
    if reply.status in (101, 200) and open_packet(reply.body) is not None:
        return Meaning.OPEN
    if reply.status == 200:
        return Meaning.OLD_SERVER if _OLD.match(reply.body) else Meaning.OTHER
    data = _json(reply.body)
    if isinstance(data, dict):
        return _of_object(data)
    if isinstance(data, str):
        return next((found for pattern, found in _PYTHON if pattern.search(data)), Meaning.OTHER)
    return _NODE_TEXTS.get(reply.body.strip(), Meaning.OTHER) if reply.status in (400, 403) else Meaning.OTHER


def _of_object(data: dict[str, Any]) -> Meaning:
    code = data.get("code")
    if isinstance(code, int) and isinstance(data.get("message"), str):
        return _NODE.get(code, Meaning.OTHER)
    if isinstance(code, str) and "ref" in data:
        return _GUARD.get(code, Meaning.BAD_REQUEST)
    return Meaning.OTHER


def server_of(reply: Reply | None) -> Server | None:
    """Tell the implementation by an answer: by the shape of its errors, or the order of keys in its OPEN packet."""
    if not isinstance(reply, Answer):
        return None
    data: Any = open_packet(reply.body)
    if data is not None:
        keys = list(data)
        if {"pingInterval", "pingTimeout"} <= set(keys):
            node = keys.index("pingInterval") < keys.index("pingTimeout")
            return Server.NODE if node else Server.PYTHON
        return None
    found = meaning(reply)
    if found in (Meaning.OTHER, Meaning.OLD_SERVER):
        return None
    data = _json(reply.body)
    if isinstance(data, str):
        return Server.PYTHON
    return Server.SOCKETGUARD if isinstance(data, dict) and isinstance(data["code"], str) else Server.NODE


def readable(body: str) -> str:
    """The beginning of a body in one line, without the tags of HTML."""
    return " ".join(_TAG.sub(" ", body[:2000]).split())[:200]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
