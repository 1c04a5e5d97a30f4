"""Drives a loaded application in process, as a client over polling would, and says what it answered.

No socket is opened, no key fetched, and no connect handler of the application called unless that is asked for: a
CONNECT without a token is refused before it, and is sent only to namespaces that need one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from socketguard.findings import Finding, finding
from socketguard.text import neutralise

from .application import Application, parts_of, policies_of
from .doctor.observations import Answer, open_packet, packets

__all__ = ["Driven", "drive"]

PATIENCE = 5.0
"""Seconds for each answer of the application."""

_TOO_LATE = f"no answer within {PATIENCE:g} s"
_HANDSHAKE = "EIO=4&transport=polling"
_ENDED = "the session was ended without an answer; keys, for one, are not fetched here"
_GOOD = frozenset({"token_missing", "joined"})


class Driven(NamedTuple):
    """One request and its answer; ``good`` is None where the answer doesn't say."""

    asked: str
    answered: str
    good: bool | None


async def drive(
    app: Any, found: Application, token: str | None = None, namespaces: Sequence[str] | None = None
) -> tuple[list[Driven], list[Finding]]:
    """Ask for a session on each path, and there for the namespaces.

    Mounts that were taken for dead and answer all the same are taken out of ``found``. The findings are of paths where
    nobody answers. ``namespaces`` are asked for even where their connect handlers run (with ``token``, if given); by
    default all that need a token are asked for without one.
    """
    for guard in found.guards:
        parts = parts_of(guard)
        parts.report.log.silence()
        if parts.settings.auth is not None:
            parts.settings.auth.hold()
    driven: list[Driven] = []
    wrong: list[Finding] = []
    names = _asked_for(found) if namespaces is None else dict.fromkeys(namespaces, _GOOD)
    for path in [*found.paths, *found.lost]:
        asked = f"a session at {path}"
        answer = await _ask(app, "GET", path, _HANDSHAKE)
        opened = None if isinstance(answer, str) else open_packet(answer)
        lost = found.lost.get(path)
        if opened is not None:
            if lost is not None:
                found.findings.remove(lost)
                found.paths.append(path)
            driven.append(Driven(asked, "opened", True))
            query = f"{_HANDSHAKE}&sid={opened['sid']}"
            driven += [await _connect(app, path, query, name, token, good) for name, good in names.items()]
            await _ask(app, "POST", path, query, b"1")
        elif lost is not None:
            continue  # as it was found to be
        elif isinstance(answer, Answer) and answer.status == 404:
            driven.append(Driven(asked, _text(answer), False))
            wrong.append(finding("SG027", path=path, answer=_text(answer)))
        else:
            driven.append(Driven(asked, answer if isinstance(answer, str) else _text(answer), None))
    for guard in found.guards:
        await parts_of(guard).endings.settled(PATIENCE)
    return driven, wrong


async def _connect(app: Any, path: str, query: str, name: str, token: str | None, good: frozenset[str]) -> Driven:
    place = "" if name == "/" else f"{name},"
    payload = "" if token is None else json.dumps({"token": token})
    asked = f"{name}, {'without a token' if token is None else 'with the token'}"
    answer = await _ask(app, "POST", path, query, f"40{place}{payload}".encode())
    if not isinstance(answer, str):
        answer = await _ask(app, "GET", path, query)
    if isinstance(answer, str):
        return Driven(asked, answer, None)
    said = _said(answer, place)
    return Driven(asked, said or _ENDED, None if said is None else said in good)


def _asked_for(found: Application) -> dict[str, frozenset[str]]:
    """The namespaces that refuse whoever has no token, before anything of the application is called, and how."""
    if found.unguarded or len(found.guards) != 1:
        return {}  # Nobody would refuse, or nobody knows which of them answers there.
    (guard,) = found.guards
    if guard.auth is None or not guard.server.packet_class.uses_binary_events:  # which msgpack's doesn't
        return {}
    needing = [policy for policy in policies_of(guard) if policy.token == "required"]
    return {policy.name: frozenset({"Invalid namespace" if policy.hidden else "token_missing"}) for policy in needing}


def _text(answer: Answer) -> str:
    return f"{answer.status} {neutralise(' '.join(answer.body.split()), 120)}".strip()


def _said(answer: Answer, place: str) -> str | None:
    """What a poll says of a namespace: ``joined``, or the code or the message of the refusal."""
    for packet in packets(answer.body):
        if packet.startswith(f"40{place}"):
            return "joined"
        if packet.startswith(f"44{place}"):
            told = json.loads(packet.removeprefix(f"44{place}"))
            return str(told.get("data", {}).get("code") or told["message"])
    return None


async def _ask(app: Any, method: str, path: str, query: str, body: bytes = b"") -> Answer | str:
    """The answer to one request; a text where there is none."""
    status, chunks = 0, []
    arrived = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        found = next(arrived, None)
        return found if found is not None else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        chunks.append(message.get("body", b""))

    headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers if method == "POST" else headers[:1],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            await app(scope, receive, send)
    except TimeoutError:
        return _TOO_LATE
    except Exception as exc:
        return f"the application raised {type(exc).__name__} (its lifespan is not run here)"
    # A poll that is given up is answered all the same.
    return _TOO_LATE if limit.expired() else Answer(status, body=b"".join(chunks).decode("utf-8", "replace"))
