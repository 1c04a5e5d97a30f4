"""``socketguard check``: loads an application and says what its guard does and what is wrong with it.

Nothing is served and nothing is fetched; the application is asked in process, as a client would. The exit status is 0
when all is good, 1 when something was found (warnings count with ``--strict`` only), and 2 for wrong usage and
applications that can't be loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from socketguard.diagnosis.startup import ServerFacts, check_server
from socketguard.errors import ConfigurationError, TokenError
from socketguard.findings import ERROR, KINDS, WARNING, Finding, finding
from socketguard.guard import SocketGuard
from socketguard.limits.revocation import MemoryStore
from socketguard.proxies.heartbeat import Heartbeat, findings_for_server
from socketguard.proxies.profiles import canonical_name
from socketguard.server.emits import is_shared
from socketguard.server.facts import ServedNames, facts, require_server
from socketguard.testing import mint
from socketguard.tokens.auth import JWTAuth

from . import CommandError
from .application import Application, examine, load, parts_of, policies_of
from .drive import Driven, drive
from .output import Printer, counted, print_json, words
from .trial import Brings, Trial, try_token
from .verifier import read_jwks, read_token, verifiers

__all__ = ["command", "findings", "workers_of"]

_WORKERS = re.compile(r"(?:^|\s)(?:-w\s*|--workers[=\s]\s*)(\d{1,4})(?=\s|$)")
# They speak of what a guard would do.
_OF_A_GUARD = frozenset({"SG013", "SG015", "SG016"})
_IF_SIGNED = "if the signature holds, which was NOT checked: give --jwks-file."
# Details of a refusal before the claims are looked at: that key did not sign it, or was never asked.
_BEFORE_CLAIMS = frozenset({"signature_mismatch", "algorithm_not_allowed", "type_not_allowed"})


@click.command(
    epilog="Exit status: 0 good, 1 something was found, 2 wrong usage or an application that can't be loaded."
)
@click.argument("app", required=False, metavar="module:app")
@click.option(
    "--proxy", multiple=True, metavar="NAME", help="A proxy on the path, such as traefik; repeat it for every hop."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 9999),
    metavar="N",
    help="Processes on one port; by default what WEB_CONCURRENCY, UVICORN_WORKERS and GUNICORN_CMD_ARGS say.",
)
@click.option("--strict", is_flag=True, help="Let warnings count for the exit status too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--explain", metavar="ID", help="Say what a warning such as SG012 means; needs no application.")
@click.option(
    "--as",
    "joining",
    nargs=2,
    metavar="TOKEN NAMESPACE",
    help="Play the admission of a token, step by step, without a network; TOKEN is '-' for stdin, @FILE for a file "
    "(others on this machine can read the command line), '' for none.",
)
@click.option(
    "--drive",
    "further",
    is_flag=True,
    help="Ask for every namespace (with --as: for that one, with the token), although connect handlers run then. "
    "Without it only for those that refuse whoever has no token.",
)
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="With --as: a header that the client sends."
)
@click.option("--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="With --as: a cookie that it sends.")
@click.option(
    "--auth-json",
    metavar="JSON",
    help="With --as: its auth payload, '-' for stdin, @FILE for a file. With any of these three, authenticators of the "
    "application are asked, which may use a network.",
)
@click.option("--jwks-file", metavar="FILE", help="With --as: a JWK Set in place of what would be fetched.")
@click.option(
    "--with-authorize", is_flag=True, help="With --as: call authorize of the namespace; it may use a network."
)
def command(
    app: str | None,
    explain: str | None,
    joining: tuple[str, str] | None,
    as_json: bool,
    strict: bool,
    further: bool,
    **given: Any,
) -> int:
    """Load an application and say what its guard does and what is wrong with it. Nothing is served.

    The application is named as for uvicorn; a factory is module:create_app().
    """
    if explain is not None:
        return _explain(explain, as_json)
    if app is None:
        raise click.UsageError("name the application: module:app (or ask with --explain SG012)")
    proxies = tuple(map(canonical_name, given["proxy"]))
    token = None if joining is None else read_token(joining[0])
    keys = None if given["jwks_file"] is None else read_jwks(given["jwks_file"])
    loaded, module = load(app)
    found = examine(loaded, module)
    if joining is not None and token is not None and not further:
        if not found.guards:
            raise CommandError("nobody guards this application, so that there is no admission to play")
        brings = Brings.read(given["headers"], given["cookies"], given["auth_json"])
        trial = asyncio.run(
            try_token(found.guards[0], token, joining[1], brings, keys=keys, with_authorize=given["with_authorize"])
        )
        _print_trial(trial, app, joining[1], as_json)
        # Whatever hangs on a signature that nobody has checked is not good yet.
        return 0 if trial.admitted else 1
    names = None
    if further:
        everywhere = [policy.name for guard in found.guards for policy in policies_of(guard)]
        names = everywhere if joining is None else [joining[1]]
    # A guard that protects a server, and a server, are no applications.
    asks = callable(loaded) and not (isinstance(loaded, SocketGuard) and loaded.app is None)
    with contextlib.redirect_stdout(sys.stderr):  # for what handlers print
        driven, unanswered = asyncio.run(drive(loaded, found, token or None, names)) if asks else ([], [])
    found.findings += unanswered
    listed = findings(found, proxies=proxies, workers=given["workers"] or workers_of(os.environ))
    errors = sum(one.kind.severity == ERROR for one in listed)
    configurations = [guard.describe() for guard in found.guards]
    for configuration in configurations:
        # A guard that was put on the server itself has not seen where the server is mounted.
        configuration["paths"] = configuration["paths"] or found.paths
    if as_json:
        asked = [one._asdict() for one in driven]
        print_json({"target": app, "guards": configurations, "asked": asked, "findings": list(map(_as_json, listed))})
    else:
        _print(app, configurations, driven, listed, errors)
    return 1 if errors or (strict and listed) else 0


# --- what is wrong


def findings(found: Application, *, proxies: Sequence[str] = (), workers: int = 1) -> list[Finding]:
    """Everything that is wrong: what the guards say, and what only shows from outside of them; errors first."""
    listed = list(found.findings)
    for guard in found.guards:
        parts = parts_of(guard)
        known = facts(guard.server, parts.served)
        # The same of an unguarded server is said below, with its path.
        listed += [one for one in guard.check() if one.id != "SG036" or not found.unguarded]
        if any(map(_takes_test_tokens, verifiers(parts.settings.auth))):
            listed.append(finding("SG037"))
        if parts.settings.debug:
            listed.append(finding("SG031"))
        given = parts.settings.heartbeat
        listed += _of_heartbeat(known, proxies, given.idle_timeout if given else None)
        listed += _of_workers(guard.server, known, workers)
        if workers > 1 and guard.auth is not None and isinstance(parts.store, MemoryStore):
            listed.append(finding("SG051"))
    for server in found.unguarded:
        known = facts(server, ServedNames(server))
        listed.append(_no_guard(server, found.paths))
        listed += [one for one in check_server(known, policies=None) if one.id not in _OF_A_GUARD]
        listed += findings_for_server(known.ping_interval, known.ping_timeout, known.ping_grace)
        listed += _of_heartbeat(known, proxies, None)
        listed += _of_workers(server, known, workers)
    return sorted(dict.fromkeys(listed), key=lambda one: (one.kind.severity != ERROR, one.id))


def _takes_test_tokens(auth: JWTAuth) -> bool:
    for algorithm in (name for name in auth.describe()["algorithms"] if name.startswith("HS")):
        try:
            auth.verify(mint(algorithm=algorithm))
        except TokenError as exc:
            if exc.detail in _BEFORE_CLAIMS:
                continue
        return True
    return False


def _of_heartbeat(known: ServerFacts, proxies: Sequence[str], idle_timeout: float | None) -> list[Finding]:
    interval, timeout = known.ping_interval, known.ping_timeout
    if not proxies or findings_for_server(interval, timeout, known.ping_grace):
        return []  # They are no heartbeat that could be compared with anything; that is a finding of its own.
    heartbeat = Heartbeat(int(interval), int(timeout), proxies=tuple(proxies), idle_timeout=idle_timeout)
    return heartbeat.findings(transports=known.transports)


def _of_workers(server: Any, known: ServerFacts, workers: int) -> list[Finding]:
    found = []
    if workers > 1 and not is_shared(server.manager):
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
    """
    found = [environ.get(name, "") for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")]
    found += _WORKERS.findall(environ.get("GUNICORN_CMD_ARGS", ""))
    return max((int(text) for text in found if text.isascii() and text.isdigit()), default=1)


# --- output


def _print_trial(trial: Trial, app: str, namespace: str, as_json: bool) -> None:
    answer = None if trial.refusal is None else trial.refusal.payload("(random)")
    if as_json:
        steps = [{name: getattr(step, name) for name in ("number", "title", "state", "text")} for step in trial.steps]
        print_json(
            {"target": app, "namespace": namespace, "admitted": trial.admitted, "steps": steps, "answer": answer}
        )
        return
    printer = Printer(sys.stdout)
    for step in trial.steps:
        title = f"{step.number:>2}  {step.title}"
        if step.state == "skipped":
            printer.item("–", title)
        else:
            printer.heading(title, good=step.state == "passed")
        printer.item("", step.text)
    printer.gap()
    data = (answer or {}).get("data")
    if answer is not None:
        code = f", code {data['code']}, retry {data['retry']}" if data else ""
        end = f"refused. The client is told: {answer['message']}{code}."
    else:
        end = "joined" + ("." if trial.admitted else f" {_IF_SIGNED}")
    printer.text(f"{words(namespace)} would be {end}")


def _explain(id_: str, as_json: bool) -> int:
    kind = KINDS.get(id_.upper())
    if kind is None:
        raise CommandError(f"there is no such id; there are {', '.join(KINDS)}")
    if as_json:
        head = {name: getattr(kind, name) for name in ("id", "severity", "title", "why")}
        print_json({**head, "fix": kind.advice, "docs": kind.docs})
        return 0
    printer = Printer(sys.stdout)
    printer.text(f"{kind.id}, {kind.severity}: {kind.title}")
    for label, text in (("why", kind.why), ("fix", kind.advice), ("docs", kind.docs)):
        printer.item(label, text)
    return 0


def _as_json(found: Finding) -> dict[str, Any]:
    kind = found.kind
    head = {"id": found.id, "severity": kind.severity, "title": kind.title}
    return {**head, "evidence": found.text, "cause": kind.why, "fix": found.fix, "docs": kind.docs}


def _print(
    app: str,
    configurations: Sequence[Mapping[str, Any]],
    driven: Sequence[Driven],
    listed: Sequence[Finding],
    errors: int,
) -> None:
    printer = Printer(sys.stdout)
    for configuration in configurations:
        printer.text(f"The guard of {app}:")
        for name, value in configuration.items():
            printer.item("", f"{name}: {words(value)}")
        printer.gap()
    if driven:
        printer.text("Asked in this process, without a network:")
        for one in driven:
            text = f"{one.asked}: {one.answered}"
            printer.item("–", text) if one.good is None else printer.heading(text, good=one.good)
        printer.gap()
    for found in listed:
        kind = found.kind
        printer.heading(f"{found.id}, {kind.severity}: {kind.title}", good=False)
        for label, text in (("found", found.text), ("why", kind.why), ("fix", found.fix), ("docs", kind.docs)):
            printer.item(label, text)
        printer.gap()
    if listed:
        warnings = len(listed) - errors
        printer.text(f"{counted(errors, ERROR)}, {counted(warnings, WARNING)}.")
    else:
        printer.heading("Nothing to change.", good=True)
