"""`Refreshes` by itself: what no client and no application can bring about by ordinary means."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import Any

import pytest

from socketguard.connection import Connection, Identity, OnRefresh, Session, bound_connection
from socketguard.errors import Refusal, RejectCode
from socketguard.limits.expiry import Lifetime
from socketguard.limits.rates import Rate
from socketguard.logs.floods import Floods
from socketguard.logs.report import Report
from socketguard.logs.sink import EventLog
from socketguard.server.dispatch import Refreshes
from socketguard.testing import capture_events

OLD = Identity("user-1", MappingProxyType({"plan": "free"}), token_id="old")
NEW = Identity("user-1", MappingProxyType({"plan": "paid"}), token_id="new")


def a_connection() -> Connection:
    session = Session(
        client_address="192.0.2.1",
        origin=None,
        user_agent=None,
        transport="websocket",
        headers=[],
        query_string=b"",
    )
    connection = Connection(session, "/messages", OLD)
    connection.state, connection.sid = Connection.JOINED, "sid-1"
    return connection


class Asked:
    """Decides as it is told to, and notes what it was asked."""

    def __init__(self, answer: Identity | Refusal | BaseException = NEW) -> None:
        self.answer = answer
        self.tokens: list[object] = []
        self.deadlines: list[float] = []

    async def __call__(self, connection: Connection, token: object, deadline: float) -> Identity | Refusal:
        self.tokens.append(token)
        self.deadlines.append(deadline)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def refreshes(
    decide: Asked,
    *,
    rate: Rate | None = None,
    on_refresh: OnRefresh | None = None,
    revoked: list[Connection] | None = None,
) -> Refreshes:
    log = EventLog(False)
    return Refreshes(
        decide,
        Report(log, Floods(log), ("plan",)),
        lifetime=Lifetime(
            ends_at=lambda identity: None,
            clock=lambda: 0.0,
            notice=None,
            notify=lambda connection, seconds: None,
            expire=lambda connection: None,
        ),
        rate=rate,
        on_refresh=on_refresh,
        timeout=5.0,
        log_claims=("plan",),
        on_revoked=[].append if revoked is None else revoked.append,
    )


async def test_where_no_authority_ends_there_is_nothing_to_tell() -> None:
    connection = a_connection()
    decide = Asked()
    with capture_events() as events:
        answer = await refreshes(decide).handle(connection, ("sid-1", {"token": "t", "more": 1}, "ignored"))
    assert answer == {"ok": True, "expires_in": None}
    assert (connection.identity, connection.refreshes, connection.refreshing) == (NEW, 1, False)
    assert connection.log_fields["plan"] == "paid"
    assert decide.tokens == ["t"]
    assert 0 < decide.deadlines[0] - asyncio.get_running_loop().time() <= 5
    [line] = events
    assert (line["event"], line["previous"], line["token_id"]) == ("socketguard.token.refreshed", "old", "new")
    assert "expires_in_s" not in line


@pytest.mark.parametrize("sent", [(), (None,), ({},), ({"token": None},), ({"Token": "t"},)])
async def test_a_token_that_is_not_there_is_asked_about_too(sent: tuple[Any, ...]) -> None:
    decide = Asked(Refusal(RejectCode.TOKEN_MISSING, "no_token"))
    answer = await refreshes(decide).handle(a_connection(), ("sid-1", *sent))
    assert (answer["ok"], answer["code"]) == (False, "token_missing")
    assert decide.tokens == [None]


@pytest.mark.parametrize("sent", ["token", b"token", 5, 0, False, [], ["token"], ()])
async def test_what_is_no_object_is_not_asked_about(sent: object) -> None:
    decide = Asked()
    answer = await refreshes(decide).handle(a_connection(), ("sid-1", sent))
    assert (answer["ok"], answer["code"]) == (False, "token_malformed")
    assert decide.tokens == []


async def test_only_a_revoked_token_ends_the_connection() -> None:
    for code in RejectCode:
        connection, revoked = a_connection(), []
        answer = await refreshes(Asked(Refusal(code, "detail")), revoked=revoked).handle(
            connection, ("sid-1", {"token": "t"})
        )
        assert (answer["ok"], answer["code"]) == (False, code.value)
        assert revoked == ([connection] if code is RejectCode.TOKEN_REVOKED else [])
        assert (connection.identity, connection.refreshes, connection.refreshing) == (OLD, 0, False)


async def test_who_is_over_the_budget_is_not_asked_about() -> None:
    decide = Asked()
    handler, connection = refreshes(decide, rate=Rate.parse("1/day", option="rate")), a_connection()
    assert (await handler.handle(connection, ("sid-1", {"token": "t"})))["ok"] is True
    answer = await handler.handle(connection, ("sid-1", {"token": "t"}))
    assert (answer["code"], answer["retry_after"]) == ("rate_limited", 86_400)
    assert decide.tokens == ["t"]
    # It is one connection's.
    assert (await handler.handle(a_connection(), ("sid-1", {"token": "t"})))["ok"] is True


@pytest.mark.parametrize("state", [Connection.PENDING, Connection.LEAVING, Connection.ENDED])
async def test_on_refresh_is_not_called_for_who_has_left(state: str) -> None:
    called: list[Any] = []
    connection = a_connection()
    connection.state = state
    answer = await refreshes(Asked(), on_refresh=lambda *args: called.append(args)).handle(
        connection, ("sid-1", {"token": "t"})
    )
    assert answer["ok"] is False
    assert called == []
    assert connection.identity is OLD


async def test_a_cancellation_by_somebody_else_goes_on() -> None:
    """python-socketio's task may be cancelled when the server stops: nobody waits for an answer then."""
    entered = asyncio.Event()

    async def on_refresh(connection: Connection, old: Identity, new: Identity) -> None:
        entered.set()
        await asyncio.Event().wait()

    connection = a_connection()
    task = asyncio.ensure_future(
        refreshes(Asked(), on_refresh=on_refresh).handle(connection, ("sid-1", {"token": "t"}))
    )
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (connection.identity, connection.refreshes, connection.refreshing) == (OLD, 0, False)
    assert bound_connection.get() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_goes_on(error: type[BaseException]) -> None:
    def on_refresh(connection: Connection, old: Identity, new: Identity) -> None:
        raise error

    connection = a_connection()
    with pytest.raises(error):
        await refreshes(Asked(), on_refresh=on_refresh).handle(connection, ("sid-1", {"token": "t"}))
    assert (connection.identity, connection.refreshing) == (OLD, False)
    assert bound_connection.get() is None


async def test_a_failure_to_decide_leaves_the_way_free_for_the_next() -> None:
    decide = Asked(RuntimeError("broken"))
    handler, connection = refreshes(decide), a_connection()
    with pytest.raises(RuntimeError):
        await handler.handle(connection, ("sid-1", {"token": "t"}))
    decide.answer = NEW
    assert (await handler.handle(connection, ("sid-1", {"token": "t"})))["ok"] is True
