from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import Any

import pytest

from socketguard import Connection, Identity, current_connection
from socketguard.connection import ANONYMOUS, Session, bound_connection


def session(**options: Any) -> Session:
    return Session(
        **{
            "client_address": "192.0.2.1",
            "origin": "https://crm.example.com",
            "user_agent": "agent",
            "transport": "polling",
            "headers": [],
            "query_string": b"",
            **options,
        }
    )


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
    assert connection.client_address == "192.0.2.1"
    assert connection.origin == "https://crm.example.com"
    assert connection.user_agent == "agent"
    assert connection.transport == "polling"
    of.transport = "websocket"
    assert connection.transport == "websocket"
    assert connection.identity is ANONYMOUS
    assert connection.placeholders == {}
    assert repr(connection) == "<Connection /messages subject=None pending>"


def test_packets_are_counted_from_the_connect_on() -> None:
    of = session()
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
