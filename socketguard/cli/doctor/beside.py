"""Rules for what is wrong beside the connection: certificates, clear text, pages, tokens. This module is pure."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding, finding, said
from .fingerprints import Proxy
from .observations import Answer, Baked, Observations, Tls
from .target import parse_target, same_origin_url
from .wire import Meaning, meaning

__all__ = ["certificate", "clear_text", "crashes", "page", "token"]

EXPIRY_WARNING = 14
"""Days of a certificate below which it is a finding: those of Let's Encrypt are renewed 30 days before their end."""


def certificate(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    if isinstance(seen.tls, Tls):
        if seen.tls.problem:
            yield finding("S-02", f"TLS: {seen.tls.problem}", title="The certificate is not trusted")
        elif seen.tls.days_left is not None and seen.tls.days_left < EXPIRY_WARNING:
            yield finding("S-35", f"{seen.tls.days_left:.0f} days left", severity="warning")


def clear_text(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    if seen.target.tls or seen.target.loopback:
        return
    if seen.origin_given and seen.origin.startswith("https:"):
        yield finding("S-19", f"the page is {seen.origin}, the address {seen.target.origin}")
    elif seen.token or any(join.with_token for join in seen.joins):
        yield finding("S-36", f"a token was given for {seen.target.origin}", severity="warning")


def token(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    if seen.token_problem and not any(join.with_token and join.outcome == "refused" for join in seen.joins):
        yield finding(
            "S-34",
            seen.token or seen.token_problem,
            severity="warning",
            title="The token is not usable",
            cause=seen.token_problem,
            fix="give a token that is valid now, without Bearer and without quotes",
        )


def page(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    page = seen.page
    if page is None:
        return
    if not isinstance(page.reply, Answer) or page.reply.status != 200:
        yield finding("S-33", said(page.url, page.reply), severity="warning", title="The page can't be read")
        return
    for baked in page.baked:
        if (
            page.url.startswith("https:")
            and baked.url.startswith(("ws:", "http:"))
            and not parse_target(baked.url).loopback
        ):
            yield finding("S-19", f"{baked.url} in {baked.source}", fix=f"write {_secure(baked.url)}")
        elif not same_origin_url(baked.url, seen.target.origin):
            yield _other_address(seen, baked)
        elif baked.path is not None and baked.path.strip("/") != seen.target.path.strip("/"):
            yield finding(
                "S-33",
                f"{baked.source}: path {baked.path}; examined was {seen.target.path}",
                severity="warning",
                title="The page was built with another path",
            )


def _other_address(seen: Observations, baked: Baked) -> Finding:
    answered = f"; {said('there', baked.reply)}" if baked.reply is not None else ""
    works = meaning(baked.reply) is Meaning.OPEN
    return finding(
        "S-33",
        f"{baked.url} in {baked.source}, not {seen.target.origin}{answered}",
        severity="warning" if works else "error",
    )


def _secure(url: str) -> str:
    return url.replace("ws://", "wss://", 1).replace("http://", "https://", 1)


def crashes(seen: Observations, _: list[Proxy]) -> Iterator[Finding]:
    for crash in seen.crashes:
        yield finding("S-00", f"{crash.check}: {crash.text}", severity="warning")
