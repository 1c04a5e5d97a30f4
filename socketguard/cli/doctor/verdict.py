"""What the observations mean: findings, the likeliest cause first. This module is pure."""

from __future__ import annotations

from . import beside, living, matrix, opening
from .findings import Finding, Rule
from .fingerprints import recognise
from .observations import Observations

__all__ = ["judge", "reached"]

# The first of these that finds something explains the rest.
_BLOCKING: tuple[Rule, ...] = (opening.network, opening.tls, opening.handshake)
_FURTHER: tuple[Rule, ...] = (
    matrix.origins,
    matrix.upgrades,
    matrix.methods,
    matrix.stickiness,
    living.joins,
    living.holds,
    living.upgrade_of_session,
    matrix.cors,
    living.heartbeat,
    living.oversized,
)
_ALWAYS: tuple[Rule, ...] = (beside.page, beside.token, beside.crashes)


def reached(seen: Observations) -> bool:
    """Whether anything answered by HTTP at all."""
    return next(seen.answers(), None) is not None


def judge(seen: Observations) -> list[Finding]:
    """Find the causes.

    Args:
        seen: what the probes saw; what was not asked is None or empty.

    Returns:
        The findings, the likeliest cause first; what only follows from a finding is left out.
    """
    proxies = recognise(seen.answers())
    # A browser stops at these, though the doctor went on.
    found = [*beside.certificate(seen, proxies), *beside.clear_text(seen, proxies)]
    for rule in _BLOCKING:
        blocking = list(rule(seen, proxies))
        found += blocking
        if blocking:
            break
    else:
        for rule in _FURTHER:
            found += rule(seen, proxies)
    for rule in _ALWAYS:
        found += rule(seen, proxies)
    unique = {(finding.id, finding.evidence): finding for finding in found}
    return sorted(unique.values(), key=lambda finding: finding.severity != "error")
