from __future__ import annotations

import asyncio
import ipaddress
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketguard import Connection, Identity, current_connection
from socketguard.connection import ANONYMOUS, Session, address_key, bound_connection


def session() -> Session:
    known = {"client_address": "192.0.2.1", "origin": "https://crm.example.com", "user_agent": "agent"}
    return Session(**known, transport="polling", headers=[], query_string=b"")


def test_the_anonymous_identity() -> None:
    assert Identity(subject=None) == ANONYMOUS
    assert not ANONYMOUS.is_authenticated
    assert ANONYMOUS.display_name == ""
    assert (ANONYMOUS.claims, ANONYMOUS.scopes) == ({}, frozenset())


def test_an_identity_can_not_be_changed() -> None:
    identity = Identity(subject="ann", claims=MappingProxyType({"sub": "ann"}))
    assert identity.is_authenticated
    assert identity.display_name == identity.identity == "ann"
    with pytest.raises(AttributeError):
        identity.subject = "bob"  # type: ignore[misc]
    with pytest.raises(TypeError):
        identity.claims["sub"] = "bob"  # type: ignore[index]


def test_a_connection_tells_what_its_session_knows() -> None:
    of = session()
    connection = Connection(of, "/messages")
    assert (connection.client_address, connection.user_agent) == ("192.0.2.1", "agent")
    assert (connection.origin, connection.transport) == ("https://crm.example.com", "polling")
    of.transport = "websocket"
    assert connection.transport == "websocket"
    assert connection.identity is ANONYMOUS
    assert connection.placeholders == {}
    assert repr(connection) == "<Connection /messages subject=None pending>"


def test_packets_are_counted_from_the_connect_on() -> None:
    of = session()
    assert of.active == of.started
    of.packets_in = 5
    connection = Connection(of, "/messages", placeholders={"tenant": "acme"})
    of.packets_in = 7
    assert connection.packets_in == 2
    assert connection.duration >= 0
    assert connection.placeholders == {"tenant": "acme"}


def test_log_fields_are_neutralised_and_capped() -> None:
    claims = {"sub": "x", "email": "a\nb" + "c" * 500, "level": 5, "ok": True, "rate": 0.5, "roles": ["a\n"]}
    connection = Connection(session(), "/a\n", Identity(subject="ann\u202e", claims=claims))
    connection.sid = "sid"
    connection.bind_log_fields(("sub", "email", "level", "ok", "rate", "roles", "absent"))
    assert connection.log_fields == {
        "namespace": "/a\\u000a",
        "sid": "sid",
        "subject": "ann\\u202e",
        "email": "a\\u000ab" + "c" * 253 + "…",
        "level": 5,
        "ok": True,
        "rate": 0.5,
        "roles": "['a\\n']",
    }


def test_log_fields_of_nobody() -> None:
    connection = Connection(session(), "/a")
    connection.bind_log_fields(("sub", "email"))
    assert connection.log_fields == {"namespace": "/a"}


async def test_the_current_connection_is_that_of_the_running_task() -> None:
    with pytest.raises(LookupError, match=r"outside a Socket\.IO handler"):
        current_connection()
    connection = Connection(session(), "/a")

    async def handler() -> Connection:
        bound_connection.set(connection)
        return await asyncio.ensure_future(asyncio.to_thread(current_connection))

    assert await asyncio.ensure_future(handler()) is connection
    with pytest.raises(LookupError):
        current_connection()


@pytest.mark.parametrize(
    ("address", "key"),
    [
        *((address, "203.0.113.7") for address in ("203.0.113.7", "::ffff:203.0.113.7", "::ffff:cb00:7107")),
        *((address, "2001:db8:1:2::/64") for address in ("2001:db8:1:2:3:4:5:6", "2001:DB8:0001:2::")),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        *((name, name) for name in ("", "testclient", "unix:", "203.0.113.7:80")),
        (":" * 100, ":" * 64),
        ("x" * 100, "x" * 64),
        ("::1%" + "z" * 100, "::/64"),
    ],
)
def test_one_source_has_one_key(address: str, key: str) -> None:
    assert address_key(address) == key


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_the_network_of_an_ipv6_address_decides(address: ipaddress.IPv6Address, host: int) -> None:
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    stranger = ipaddress.IPv6Address(int(address) ^ 1 << 64)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert address_key(str(neighbour)) == address_key(address.exploded)
    assert address_key(str(stranger)) != address_key(str(address))


@given(st.text() | st.text(alphabet="0123456789abcdef:.%", max_size=80))
def test_any_text_has_a_short_key(address: str) -> None:
    assert len(address_key(address)) <= 64
