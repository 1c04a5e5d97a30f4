"""What the parts of one guarded server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from socketguard.auth.users import Users
from socketguard.config import Settings
from socketguard.limits.expiry import Expiry
from socketguard.limits.rates import AddressBudget
from socketguard.logs.report import Report

from .drain import Drain
from .endings import Endings
from .engine import Engine
from .heartbeats import Heartbeats
from .refusals import Refusals
from .service import Service
from .sessions import Sessions

__all__ = ["Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """The server and what is known of it, handed down to whoever stands in for a method of it.

    Attributes:
        timeout: seconds for everything between a CONNECT, or a fresh token, and its answer.
    """

    server: Any
    settings: Settings
    timeout: float
    engine: Engine
    sessions: Sessions
    heartbeats: Heartbeats
    expiry: Expiry
    users: Users | None
    budget: AddressBudget
    service: Service
    refusals: Refusals
    endings: Endings
    drain: Drain
    report: Report
