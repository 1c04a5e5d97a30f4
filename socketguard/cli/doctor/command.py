"""The command line of the doctor: its options and exit status."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from socketguard.errors import ConfigurationError

from .checks import CHECKS, Options, examine
from .render import Redactor, Terminal, as_json
from .rules import judge, reached, unexamined
from .symptoms import SYMPTOMS, UNSEEN
from .target import parse_target, web_origin

__all__ = ["command"]

FINDINGS, UNREACHABLE = 1, 3
"""The exit statuses beside 0, for a good endpoint, and 2, for wrong usage."""


def _list_checks(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    for name, check in CHECKS.items():
        request = " (only with --only)" if check.on_request else " (only with --idle)" if name == "idle" else ""
        click.echo(f"{name:<10} {check.title}{request}: {', '.join(check.symptoms)}")
    click.echo("")
    titles = {name: symptom.title for name, symptom in SYMPTOMS.items()}
    for name, text in (titles | {name: f"not seen from outside: {text}" for name, text in UNSEEN.items()}).items():
        click.echo(f"{name}  {text}")
    context.exit(0)


def _explain(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is None or context.resilient_parsing:
        return
    name = value.upper()
    if name in UNSEEN:
        click.echo(f"{name}, not seen from outside\n  {UNSEEN[name]}")
    elif name in SYMPTOMS:
        symptom = SYMPTOMS[name]
        click.echo(f"{name}: {symptom.title}\n  cause  {symptom.cause}\n  fix    {symptom.fix}")
        found = [check for check in CHECKS.values() if name in check.symptoms]
        click.echo(f"  seen   {', '.join(check.title for check in found) or 'in any check'}")
    else:
        raise click.UsageError(f"--explain takes one of {', '.join(sorted({*SYMPTOMS, *UNSEEN}))}")
    context.exit(0)


@click.command()
@click.argument("url")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NS",
    help="A namespace to join, such as /messages; repeat it for more.",
)
@click.option(
    "--token",
    metavar="T",
    help="A token for the CONNECT. Others on this machine see it in the list of processes: --token-file hides it.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="F",
    help="A file with the token; - is the standard input.",
)
@click.option(
    "--origin",
    metavar="O",
    help="The origin of the page that uses the endpoint, as https://crm.example.com.  [default: the endpoint's own]",
)
@click.option("--path", metavar="P", help="The client's option path.  [default: /socket.io]")
@click.option(
    "--no-trailing-slash", "bare_path", is_flag=True, help="Ask as a client with addTrailingSlash: false does."
)
@click.option(
    "--idle",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Hold quiet connections so long, to see when something cuts them; at least the interval of pings and 5 s.",
)
@click.option(
    "--page", metavar="URL", help="A page that uses the endpoint: finds the addresses that were built into it."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    # More than a guard's own deadline for a CONNECT, whose refusal says more than silence.
    default=12.0,
    show_default=True,
    metavar="SECONDS",
    help="For one request.",
)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--list-checks",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_checks,
    help="List the checks and symptoms.",
)
@click.option(
    "--explain",
    metavar="ID",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Say what a symptom such as S-14 means; needs no URL.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="ID",
    help="Run only this check, or those that can find this symptom, with what they need; repeat it for more.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show details.")
def command(url: str, as_object: bool, verbose: bool, **given: Any) -> int:
    """Examine a Socket.IO endpoint from outside, through whatever stands in front of it.

    URL is what a client gives to io(). Ends with 0 when all is good, 1 for findings, 2 for wrong usage, 3 when nothing
    answered.
    """
    try:
        options = _read(url, **given)
    except ConfigurationError as problem:
        raise click.UsageError(str(problem)) from None
    return asyncio.run(_examine(options, as_object=as_object, verbose=verbose))


async def _examine(options: Options, *, as_object: bool, verbose: bool) -> int:
    """Examine, print, and give the exit status."""
    secrets: set[str] = set()
    redactor = Redactor(secrets)
    shown = options.target.shown
    if as_object:
        findings = judge(seen := await examine(options, None, secrets))
        click.echo(as_json(shown, findings, redactor, unexamined(seen)))
    else:
        with Terminal(sys.stdout, shown, redactor, verbose=verbose) as terminal:
            findings = judge(seen := await examine(options, terminal, secrets))
        terminal.findings(findings, unexamined(seen))
    return 0 if not findings else FINDINGS if reached(seen) else UNREACHABLE


def _read(
    url: str, *, namespaces: tuple[str, ...], token: str | None, origin: str | None, page: str | None, **given: Any
) -> Options:
    target = parse_target(url, path=given["path"], slash=not given["bare_path"])
    for namespace in namespaces:
        if not namespace.startswith("/") or "," in namespace:
            raise ConfigurationError("--namespace begins with a slash, such as /messages", option="--namespace")
    if token is not None and given["token_file"] is not None:
        raise ConfigurationError("--token and --token-file are two ways to say the same; give one", option="--token")
    if given["token_file"] is not None:
        try:
            with click.open_file(str(given["token_file"]), encoding="utf-8") as file:
                token = file.read(65_536).strip()
        except (OSError, UnicodeError):
            raise ConfigurationError("--token-file can't be read as text", option="--token-file") from None
    if token is not None and not token:
        raise ConfigurationError("the token is empty; leave the option out to go without", option="--token")
    if page is not None and not page.lower().startswith(("http://", "https://")):
        raise ConfigurationError("--page is the address of a page, such as https://crm.example.com", option="--page")
    of_page = None if page is None else web_origin(page, option="--page")
    shown_origin = of_page if origin is None else web_origin(origin, option="--origin")
    wanted = namespaces or ((target.namespace,) if target.namespace != "/" else ())
    return Options(target, wanted, token, shown_origin, given["idle"], page, given["timeout"], _chosen(given["only"]))


def _chosen(only: tuple[str, ...]) -> frozenset[str]:
    if not only:
        return frozenset(name for name, check in CHECKS.items() if not check.on_request)
    chosen: set[str] = set()
    for wanted in only:
        known = {name for name, check in CHECKS.items() if wanted == name or wanted.upper() in check.symptoms}
        if not known:
            raise ConfigurationError("--only takes an id that --list-checks shows", option="--only")
        chosen |= known
    return frozenset(chosen.union(*(CHECKS[name].needs for name in chosen)))
