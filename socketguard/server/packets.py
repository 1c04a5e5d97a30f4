"""The packets and bodies that a client may send."""

from __future__ import annotations

import base64

from socketguard.errors import HandshakeCode, Refusal

__all__ = ["ATTRIBUTE", "DIGITS", "PARSERS_DIFFER", "count_parts", "excess", "packet_problem", "packets_of"]

ATTRIBUTE = "_socketguard"
"""Where a server keeps its seam."""
# Engine.IO v4 packet types. ASCII only: int("٠") is 0 in Python, so other digits would pass further down.
DIGITS = PACKET_TYPES = frozenset("0123456")
# What a client sends over polling. On the other types python-engineio would wait for the session to end, for ever.
_POLLING_TYPES = frozenset("1345")
PARSERS_DIFFER = (
    "client and server use different parsers, or it is no Socket.IO client: serializer='msgpack' of the server needs "
    "{parser: require('socket.io-msgpack-parser')} in the client, and the other way round"
)
# python-engineio's own limit (Payload.max_decode_packets): beyond it, it answers 200 and drops every packet.
MAX_PACKETS_PER_BODY = 16
# How many values a packet of a stranger may hold. An auth payload has a handful; 512 cost less than 0.1 ms.
MAX_PARTS = 512


def packets_of(body: bytes, *, limit: int, strict_text: bool | None, stranger: bool) -> Refusal | list[str | bytes]:
    """The packets in the body of a polling POST, or what is wrong with it.

    python-engineio would answer most of these with 200 and drop the packets.
    """
    if len(body) > limit:
        hint = (
            f"{len(body)} bytes in one POST, {limit} are allowed (a session that has joined no namespace may send "
            "far less than max_http_buffer_size)"
        )
        return Refusal(HandshakeCode.BODY_TOO_LARGE, fields={"hint": hint})
    try:
        texts = body.decode().split("\x1e")
    except UnicodeDecodeError:
        return _malformed_body("it is not UTF-8")
    if len(texts) > MAX_PACKETS_PER_BODY:
        hint = (
            f"{len(texts)} packets in one POST, {MAX_PACKETS_PER_BODY} are allowed (python-engineio would answer 200 "
            "and drop them all): the client emitted a burst over polling; let it connect with transports: "
            "['websocket'], or emit fewer events"
        )
        return Refusal(HandshakeCode.TOO_MANY_PACKETS, fields={"hint": hint})
    packets: list[str | bytes] = []
    parts = 0
    for text in texts:
        problem = packet_problem(text, strict_text=strict_text, polling=True)
        if problem is None:
            packets.append(base64.b64decode(text[1:]) if text[0] == "b" else text)
            if stranger:
                found = count_parts(packets[-1], strict_text=strict_text)
                parts += found or 0
                problem = excess(None if found is None else parts)
        if problem:
            return _malformed_body(problem)
    return packets


def _malformed_body(problem: str) -> Refusal:
    return Refusal(HandshakeCode.BODY_MALFORMED, fields={"hint": f"the body is no Engine.IO v4 payload: {problem}"})


def packet_problem(packet: str, *, strict_text: bool | None, polling: bool = False) -> str | None:
    """Say what is wrong with the beginning of an Engine.IO text packet, or None.

    This refuses what no client sends; it never decides who may join.
    """
    first = packet[:1]
    if polling and first == "b":
        try:
            base64.b64decode(packet[1:], validate=True)
        except ValueError:
            return "a binary packet that is not base64"
        return None
    if first not in (_POLLING_TYPES if polling else PACKET_TYPES):
        return "an empty packet" if not first else "a packet of a type that clients do not send"
    if first != "4":
        # python-engineio would decode what follows as JSON.
        return None if packet[1:] in ("", "probe") else "a packet with data of a type that has none"
    if strict_text and packet[1:2] not in PACKET_TYPES:
        # python-engineio would decode the rest as JSON, python-socketio then take it for a packet.
        return "a message that is no Socket.IO packet"
    return None


def excess(parts: int | None) -> str | None:
    """Say what is wrong with so many values (`count_parts`) from a session that has joined no namespace, or None."""
    if parts is None:
        return f"a binary message, which JSON clients don't begin with: {PARSERS_DIFFER}"
    return "more values than a session needs to join a namespace" if parts > MAX_PARTS else None


def count_parts(packet: str | bytes, *, strict_text: bool | None) -> int | None:
    """The number of values in a packet of a session that has joined no namespace, before anything is decoded.

    It is what makes JSON and msgpack dear. None for what such a session has no reason to send at all.
    """
    if strict_text is None:
        return 0  # Nothing is decoded.
    if isinstance(packet, str):
        return packet.count(",") + packet.count("[") + packet.count("{")
    if strict_text:
        return None
    # In msgpack each array, map, extension and large number begins with a byte beyond ASCII; a token has none.
    return len(packet) - len(packet.decode("ascii", "ignore"))
