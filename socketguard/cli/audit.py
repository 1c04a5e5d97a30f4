"""Everything that is wrong with a loaded application: what its guards say, and what only shows from outside of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from socketguard.diagnosis.startup import ServerFacts, check_server
from socketguard.errors import ConfigurationError, TokenError
from socketguard.findings import ERROR, Finding, finding
from socketguard.limits.revocation import MemoryStore
from socketguard.proxies.heartbeat import Heartbeat, findings_for_server
from socketguard.server.attach import ServedNames, facts, require_server
from socketguard.testing import mint
from socketguard.tokens.auth import JWTAuth

from .application import Application, core_of
from .rehearsal import verifiers

__all__ = ["findings", "workers_of"]

_WORKERS = re.compile(r"(?:^|\s)(?:-w\s*|--workers[=\s]\s*)(\d{1,4})(?=\s|$)")
# They speak of what a guard would do.
_OF_A_GUARD = frozenset({"SG013", "SG015", "SG016"})
# Details of a refusal before the claims are looked at: that key did not sign it, or was never asked.
_BEFORE_CLAIMS = frozenset({"signature_mismatch", "algorithm_not_allowed", "type_not_allowed"})


def findings(found: Application, *, proxies: Sequence[str] = (), workers: int = 1) -> list[Finding]:
    """Everything that is wrong with an application, errors first.

    Args:
        found: what `socketguard.cli.application.examine` returned.
        proxies: canonical names of the proxies on the path.
        workers: how many processes serve it on one port.
    """
    listed = list(found.findings)
    for guard in found.guards:
        core = core_of(guard)
        listed += guard.check()
        listed += _of_tokens(verifiers(core.settings.auth))
        if core.settings.debug:
            listed.append(finding("SG031"))
        given = core.settings.heartbeat
        listed += _of_heartbeat(core.seam.facts(), proxies, given.idle_timeout if given else None)
        listed += _of_workers(guard.server, core.seam.facts(), workers)
        if workers > 1 and core.settings.auth is not None and isinstance(core.store, MemoryStore):
            listed.append(finding("SG051"))
    for server in found.unguarded:
        known = facts(server, ServedNames(server))
        listed.append(_no_guard(server, found.paths))
        listed += [one for one in check_server(known, policies=None) if one.id not in _OF_A_GUARD]
        listed += findings_for_server(known.ping_interval, known.ping_timeout, known.ping_grace)
        listed += _of_heartbeat(known, proxies, None)
        listed += _of_workers(server, known, workers)
    return sorted(dict.fromkeys(listed), key=lambda one: (one.kind.severity != ERROR, one.id))


def _of_tokens(auths: Iterable[JWTAuth]) -> list[Finding]:
    for auth in auths:
        for algorithm in auth.describe()["algorithms"]:
            if not algorithm.startswith("HS"):
                continue
            try:
                auth.verify(mint(algorithm=algorithm))
            except TokenError as exc:
                if exc.detail in _BEFORE_CLAIMS:
                    continue
            return [finding("SG037")]
    return []


def _of_heartbeat(known: ServerFacts, proxies: Sequence[str], idle_timeout: float | None) -> list[Finding]:
    interval, timeout = known.ping_interval, known.ping_timeout
    if not proxies or findings_for_server(interval, timeout, known.ping_grace):
        return []  # They are no heartbeat that could be compared with anything; that is a finding of its own.
    heartbeat = Heartbeat(int(interval), int(timeout), proxies=tuple(proxies), idle_timeout=idle_timeout)
    return heartbeat.findings(transports=known.transports)


def _of_workers(server: Any, known: ServerFacts, workers: int) -> list[Finding]:
    found = []
    if workers > 1 and type(server.manager).__name__ == "AsyncManager":
        found.append(finding("SG042", workers=workers))
    if workers > 1 and "polling" in known.transports:
        found.append(finding("SG043", workers=workers))
    return found


def _no_guard(server: Any, paths: Sequence[str]) -> Finding:
    where = f" at {', '.join(paths)}" if paths else ""
    try:
        require_server(server)
    except ConfigurationError as exc:
        return finding("SG036", "unfit", where=where, reason=str(exc))
    return finding("SG036", where=where)


def workers_of(environ: Mapping[str, str]) -> int:
    """How many workers uvicorn or gunicorn would start by these variables; 1 when they say nothing.

    uvicorn reads ``WEB_CONCURRENCY`` and ``UVICORN_WORKERS``, gunicorn the first and ``GUNICORN_CMD_ARGS``.

    Args:
        environ: the environment variables.
    """
    found = [environ.get(name, "") for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")]
    found += _WORKERS.findall(environ.get("GUNICORN_CMD_ARGS", ""))
    return max((int(text) for text in found if text.isascii() and text.isdigit()), default=1)
