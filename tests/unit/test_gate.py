"""Whether a further session may be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from socketguard.connection import HandshakeRequest
from socketguard.errors import REPLIES, RETRY_AFTER, HandshakeRefusal, RejectCode, Retry
from socketguard.limits.counters import Ledger, Limits
from socketguard.limits.rates import AddressBudget, Rate
from socketguard.server.handshake import DRAINING, Gate, busy

ADDRESS = "203.0.113.7"


def a_request(**changes: Any) -> HandshakeRequest:
    values: dict[str, Any] = {
        "websocket": False,
        "method": "GET",
        "path": "/socket.io/",
        "sid": None,
        "transport": "polling",
        "version": "4",
        "jsonp": False,
        "origin": None,
        "host": "testserver",
        "forwarded_host": None,
        "scheme": "http",
        "proxied": False,
        "upgrade": None,
        "content_length": None,
        "client_address": ADDRESS,
        "user_agent": None,
    }
    return HandshakeRequest(**{**values, **changes})


@dataclass
class Service:
    """A gate, and everything that it asks."""

    limits: Limits = field(default_factory=lambda: Limits(failures_per_address="2/minute"))
    now: float = 1000.0
    pending: int = 0
    outage: int | None = None
    proxies: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.budget = AddressBudget(self.limits.failure_rate, clock=lambda: self.now)
        self.ledger = Ledger(self.limits)
        self.gate = Gate(
            self.budget,
            self.ledger,
            pending=lambda: self.pending,
            outage=lambda: self.outage,
            on_proxy=self.proxies.append,
        )

    def refusal(self, **changes: Any) -> HandshakeRefusal | None:
        return self.gate.refusal(a_request(**changes))


def test_a_session_may_be_made_as_a_rule() -> None:
    service = Service()
    assert service.refusal() is None
    assert service.refusal(client_address=None) is None
    assert service.proxies == []


def test_an_address_over_its_budget_hears_when_it_may_come_back() -> None:
    service = Service()
    service.budget.fail(ADDRESS)
    assert service.refusal() is None
    service.budget.fail(ADDRESS)
    found = service.refusal()
    assert found is not None
    assert (found.reason, found.status, found.message) == ("rate_limited", 429, "Too many attempts")
    assert found.retry is Retry.BACKOFF
    assert found.retry_after == 30
    assert "failures_per_address" in found.hint
    assert service.refusal(client_address="203.0.113.8") is None
    service.now += 29.5
    again = service.refusal()
    assert again is not None
    assert again.retry_after == 1, "rounded up: to come back earlier is of no use"
    service.now += 0.5
    assert service.refusal() is None


def test_no_session_is_made_without_keys() -> None:
    service = Service(outage=7)
    found = service.refusal()
    assert found is not None
    assert (found.reason, found.status, found.retry_after) == ("keys_unavailable", 503, 7)
    assert found.retry is Retry.BACKOFF
    assert "socketguard.keys.unavailable" in found.hint
    service.outage = None
    assert service.refusal() is None


@pytest.mark.parametrize(
    ("limit", "status", "fill"),
    [
        ("connections", 503, lambda service: service.ledger.take(None, None)),
        ("pending_sessions", 503, lambda service: setattr(service, "pending", 1)),
        ("sessions_per_address", 429, lambda service: service.ledger.open_session(ADDRESS)),
    ],
)
def test_a_full_server_refuses_sessions(limit: str, status: int, fill: Callable[[Service], Any]) -> None:
    service = Service(limits=Limits(**{limit: 1}))
    assert service.refusal() is None
    fill(service)
    found = service.refusal()
    assert found is not None
    assert (found.reason, found.status, found.retry_after) == ("connection_limit", status, RETRY_AFTER)
    assert found.message == REPLIES[RejectCode.CONNECTION_LIMIT].message
    assert limit in found.hint
    unlimited = Service(limits=Limits(**{limit: None}))
    fill(unlimited)
    assert unlimited.refusal() is None


def test_draining_goes_before_everything_else() -> None:
    service = Service(outage=7, limits=Limits(failures_per_address="1/minute"))
    service.budget.fail(ADDRESS)
    service.gate.draining = True
    found = service.refusal(forwarded_by=ADDRESS)
    assert found is DRAINING
    assert (found.reason, found.status, found.retry_after) == ("draining", 503, RETRY_AFTER)
    assert service.proxies == [], "nothing is looked at any more"


@pytest.mark.parametrize("proxy", ["10.0.0.1", "fd00::1"])
def test_a_proxy_that_is_not_trusted_has_no_limits_of_its_own_and_is_named_once(proxy: str) -> None:
    service = Service(limits=Limits(failures_per_address="1/minute", sessions_per_address=1, connections_per_address=1))
    service.budget.fail(proxy)
    service.ledger.open_session(proxy)
    direct = service.refusal(client_address=proxy)
    assert direct is not None
    for _ in range(3):
        assert service.refusal(client_address=proxy, forwarded_by=proxy) is None
    assert service.proxies == [proxy]
    service.budget.fail(proxy)
    assert service.refusal(client_address=proxy) is None, "also without the header: it is the proxy's own check then"
    assert service.ledger.take(None, proxy) is None
    assert service.ledger.take(None, proxy) is None


def test_proxies_of_one_network_are_all_without_limits() -> None:
    # An IPv6 address counts as its /64, in which all replicas of a proxy are.
    service = Service(limits=Limits(sessions_per_address=1, connections_per_address=1))
    for proxy in ("fd00::1", "fd00::2"):
        assert service.refusal(client_address=proxy, forwarded_by=proxy) is None
        service.ledger.open_session(proxy)
    assert service.refusal(client_address="fd00::2", forwarded_by="fd00::2") is None
    assert service.proxies == ["fd00::1"]


def test_the_server_may_be_full_for_those_behind_a_proxy_too() -> None:
    service = Service(limits=Limits(pending_sessions=1), pending=1)
    found = service.refusal(client_address="10.0.0.1", forwarded_by="10.0.0.1")
    assert found is not None
    assert found.reason == "connection_limit"


def test_so_many_proxies_that_further_ones_are_not_remembered() -> None:
    service = Service(limits=Limits(failures_per_address="1/minute"))
    for number in range(4096):
        assert service.budget.exempt(f"10.0.{number >> 8}.{number & 255}")
    service.budget.fail("10.9.9.9")
    found = service.refusal(client_address="10.9.9.9", forwarded_by="10.9.9.9")
    assert found is not None
    assert found.reason == "rate_limited"
    assert service.proxies == []


@pytest.mark.parametrize(
    "code",
    [RejectCode.RATE_LIMITED, RejectCode.KEYS_UNAVAILABLE, RejectCode.CONNECTION_LIMIT, RejectCode.DRAINING],
)
def test_what_passes_says_when(code: RejectCode) -> None:
    found = busy(code, 503, 9, "why")
    assert found == HandshakeRefusal(code.value, 503, REPLIES[code].message, "why", Retry.BACKOFF, 9)


def test_a_budget_that_is_turned_off() -> None:
    service = Service(limits=Limits(failures_per_address=None))
    assert service.limits.failure_rate is None
    assert Limits().failure_rate == Rate(30, 60.0)
    for _ in range(100):
        service.budget.fail(ADDRESS)
    assert service.refusal() is None
