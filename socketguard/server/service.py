"""Whether credentials can be checked now, and what has changed about that."""

from __future__ import annotations

import contextvars
import math
import time

from socketguard.auth.credentials import Credentials
from socketguard.auth.users import Users
from socketguard.errors import RETRY_AFTER
from socketguard.limits.revocation import Revocations
from socketguard.logs.report import Report
from socketguard.namespaces.registry import Registry

__all__ = ["Service"]

_TRIES = 0.05
"""Seconds between two sessions that may try while every authenticator fails, or `load_user` does: enough to find out,
too few to storm."""


class Service:
    """The keys, the authenticators, the users and the store of one guard."""

    def __init__(
        self,
        registry: Registry,
        auth: Credentials | None,
        revocations: Revocations,
        users: Users | None,
        report: Report,
        *,
        fail_open: bool,
        report_only: bool = False,
    ) -> None:
        # Where a namespace can be joined without a token, a session is of use without keys.
        self._needed = not report_only and all(policy.token == "required" for policy in registry.policies or ())
        self._auth = auth
        # Nothing ever changes about keys that are not fetched; to ask would cost each CONNECT.
        self._fetched = auth if auth is not None and auth.keys_status() else None
        # Nor do those who only verify tokens fail.
        self._asked = auth if auth is not None and auth.others else None
        self._tried = -math.inf
        self._revocations = revocations
        self._users = users
        self._report = report
        self._fail_open = fail_open
        self._told = 0 if auth is None else auth.changes(0)[0]

    def outage(self) -> int | None:
        """In how many seconds credentials may be checked again; None when they can be now, or need not be."""
        if self._auth is None or not self._needed:
            return None
        wait = self._auth.outage() or self._revocations.outage()
        if wait is not None or not (self._auth.failing or (self._users is not None and self._users.failing)):
            return wait
        # Whether what the application has written works again is only known when it is asked: some may try.
        now = time.monotonic()
        if now - self._tried < _TRIES:
            return RETRY_AFTER
        self._tried = now
        return None

    @property
    def fetching(self) -> bool:
        """Whether keys are being fetched, so that a change is to be expected."""
        return self._fetched is not None and self._fetched.fetching

    def tell(self) -> None:
        """Log what has changed since the last time."""
        if self._fetched is not None:
            self._told, changes = self._fetched.changes(self._told)
            for change in changes:
                # In an empty context: the keys are no business of the client for whom it was asked.
                contextvars.Context().run(self._report.keys_changed, change)
        if self._asked is not None:
            for name, failure in self._asked.unavailable():
                contextvars.Context().run(self._report.credential_changed, name, failure)
        if self._users is not None:
            for failure in self._users.changes():
                contextvars.Context().run(self._report.users_changed, failure)
        for available, error in self._revocations.changes():
            self._report.store_changed(available, error, fail_open=self._fail_open)
