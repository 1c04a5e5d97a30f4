"""`Finding`: something that is wrong with an endpoint. This module is pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .fingerprints import Proxy
from .observations import Failure, Observations, Reply
from .symptoms import PAGE, SYMPTOMS
from .wire import Meaning, meaning, readable

__all__ = ["Finding", "Rule", "Severity", "finding", "said"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        id: of the symptom.
        severity: ``error`` when clients fail by it, ``warning`` when some may.
        title: one line.
        evidence: what was seen.
        cause: why it happens.
        fix: what to change.
        docs: where more is said.
    """

    id: str
    severity: Severity
    title: str
    evidence: str
    cause: str
    fix: str
    docs: str


def finding(
    symptom: str,
    evidence: str,
    *,
    severity: Severity = "error",
    title: str | None = None,
    cause: str | None = None,
    fix: str | None = None,
) -> Finding:
    known = SYMPTOMS[symptom]
    docs = f"{PAGE}#{symptom.lower()}"
    return Finding(symptom, severity, title or known.title, evidence, cause or known.cause, fix or known.fix, docs)


def said(name: str, reply: Reply | None) -> str:
    """A reply as evidence."""
    if isinstance(reply, Failure):
        return f"{name}: {reply.kind}, {reply.text}"
    if reply is None:
        return f"{name}: not asked"
    if meaning(reply) is Meaning.OPEN:
        return f"{name}: {reply.status}, the session opens"
    return f"{name}: {reply.status}, {readable(reply.body) or 'empty body'}"


Rule = Callable[[Observations, list[Proxy]], Iterable[Finding]]
