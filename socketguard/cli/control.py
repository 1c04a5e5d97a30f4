"""``socketguard revoke``, ``disconnect`` and ``workers``: for a person, by the Redis that the workers share."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from socketguard.control import Control
from socketguard.errors import SocketGuardError
from socketguard.limits.shared import Ended

from . import CommandError
from .output import Printer, counted, print_json, words

__all__ = ["disconnect", "revoke", "workers"]

_REDIS = click.option(
    "--redis",
    envvar="REDIS_URL",
    required=True,
    metavar="URL",
    help="The Redis of the workers, or the variable REDIS_URL (others on this machine can read the command line).",
)
_PREFIX = click.option("--prefix", default="socketguard", show_default=True, help="That of RedisStore.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_EPILOG = "Exit status: 0 all workers have confirmed, 1 some have not, 2 wrong usage or no Redis."


@contextlib.contextmanager
def _control(redis: str, prefix: str) -> Iterator[Control]:
    try:
        with Control(redis, prefix=prefix) as control:
            yield control
    except SocketGuardError:
        raise
    except Exception as exc:
        # The text may hold the URL, and that a password.
        raise CommandError(f"Redis does not answer as it should: {type(exc).__name__}") from None


def _say(ended: Ended, as_json: bool) -> int:
    if as_json:
        print_json({"ended": int(ended), "workers": ended.workers, "missing": list(ended.missing)})
    else:
        printer = Printer(sys.stdout)
        text = f"{counted(ended, 'connection')} ended, {counted(ended.workers, 'worker')} answered"
        printer.heading(text, good=not ended.missing)
        for worker in ended.missing:
            printer.item("missing", words(worker))
    return 1 if ended.missing else 0


@click.command(epilog=_EPILOG)
@_REDIS
@_PREFIX
@click.option("--token-id", metavar="ID", help="One token: its jti.")
@click.option("--subject", metavar="SUBJECT", help="All tokens of this subject that were issued until now.")
@click.option("--issuer", metavar="ISSUER", help="Whose tokens; by default of every issuer.")
@click.option("--for", "seconds", type=float, metavar="SECONDS", help="How long the tokens may still be valid.")
@_JSON
def revoke(
    redis: str,
    prefix: str,
    token_id: str | None,
    subject: str | None,
    issuer: str | None,
    seconds: float | None,
    as_json: bool,
) -> int:
    """Refuse a token, or all older tokens of a subject, at all workers, and disconnect who is connected with one."""
    options: dict[str, Any] = {"token_id": token_id, "subject": subject, "issuer": issuer}
    if seconds is None:
        raise click.UsageError("say with --for how many seconds the tokens may still be valid: their longest lifetime")
    if token_id is not None:
        options["expires_at"] = time.time() + seconds
    else:
        options["max_lifetime"] = seconds
    with _control(redis, prefix) as control:
        return _say(control.revoke(**options), as_json)


@click.command(epilog=_EPILOG)
@_REDIS
@_PREFIX
@click.option("--subject", metavar="SUBJECT", help="All connections of this subject.")
@click.option("--token-id", metavar="ID", help="Those with this token.")
@click.option("--sid", metavar="SID", help="The one with this Socket.IO session id.")
@click.option("--issuer", metavar="ISSUER", help="Only those of this issuer.")
@click.option("--namespace", metavar="NAME", help="Only those in this namespace.")
@click.option("--reason", metavar="TEXT", help="What the clients are told.")
@_JSON
def disconnect(redis: str, prefix: str, as_json: bool, **selector: str | None) -> int:
    """Disconnect clients of all workers. They may connect again."""
    with _control(redis, prefix) as control:
        return _say(control.disconnect(**selector), as_json)


@click.command(epilog="Exit status: 0 there are workers, 1 there is none, 2 wrong usage or no Redis.")
@_REDIS
@_PREFIX
@_JSON
def workers(redis: str, prefix: str, as_json: bool) -> int:
    """List the workers that live."""
    with _control(redis, prefix) as control:
        found = control.workers()
    if as_json:
        print_json({"workers": found})
    else:
        printer = Printer(sys.stdout)
        printer.heading(f"{counted(len(found), 'worker')} live", good=bool(found))
        for worker, said in sorted(found.items()):
            printer.item("–", f"{words(worker)}: {counted(int(said.get('connections', 0)), 'connection')}")
    return 0 if found else 1
