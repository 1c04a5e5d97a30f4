"""What a host adds to its own lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from socketguard.connection import Connection, Identity, Session, bound_connection
from socketguard.errors import ConfigurationError
from socketguard.logs import ConnectionFilter, add_connection, configure, events
from socketguard.logs.sink import EventLog


def joined(**claims: Any) -> Connection:
    session = Session(
        client_address="10.0.0.1", origin=None, user_agent=None, transport="websocket", headers=[], query_string=b""
    )
    connection = Connection(session, "/messages", Identity(subject="u-1", claims={"sub": "u-1", **claims}))
    connection.sid = "sio-sid"
    connection.bind_log_fields(("sub", *claims))
    return connection


@pytest.fixture
def inside() -> Iterator[None]:
    token = bound_connection.set(joined(tenant_id="acme", name="Ada"))
    yield
    bound_connection.reset(token)


def filtered(**attributes: Any) -> str:
    record = logging.makeLogRecord({"name": "app", "msg": "saved", **attributes})
    assert ConnectionFilter(["sub", "tenant_id", "name"]).filter(record) is True
    shown = "%(name)s %(sid)s %(namespace)s %(subject)s %(tenant_id)s %(claim_name)s: %(message)s"
    return logging.Formatter(shown).format(record)


def test_inside_a_handler(inside: None) -> None:
    line = add_connection(None, "info", {"event": "saved", "namespace": "mine"})
    added = {"sid": "sio-sid", "subject": "u-1", "tenant_id": "acme", "name": "Ada"}
    assert line == {"event": "saved", "namespace": "mine", **added}
    assert filtered(namespace="mine") == "app sio-sid mine u-1 acme Ada: saved"


def test_outside_handlers() -> None:
    assert add_connection(None, "info", {"event": "saved"}) == {"event": "saved"}
    assert filtered() == "app - - - - -: saved"
    with pytest.raises(ConfigurationError):
        ConnectionFilter(["event"])


def test_configure_gives_the_same_look(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().debug("unseen")
    structlog.get_logger().info("saved", count=3)
    EventLog().emit(events.ACCEPTED, {"namespace": "/other"})
    out, err = capsys.readouterr()
    own, ours = map(json.loads, err.splitlines())
    assert out == ""
    assert list(own)[:3] == list(ours)[:3] == ["timestamp", "level", "event"]
    assert (own["event"], own["count"], own["sid"], own["tenant_id"]) == ("saved", 3, "sio-sid", "acme")
    assert (ours["event"], ours["namespace"]) == (events.ACCEPTED, "/other")


@pytest.mark.parametrize("json", [None, True, False])
@pytest.mark.parametrize("kind", ["terminal", "stderr"])
def test_configure_follows_the_terminal_or_what_it_is_told(
    kind: str, json: bool | None, request: pytest.FixtureRequest
) -> None:
    stream: io.StringIO = request.getfixturevalue(kind)
    configure(level="debug", json=json)
    structlog.get_logger().debug("saved")
    in_json = json or (json is None and kind == "stderr")
    assert stream.getvalue().startswith("{") is in_json
    assert ("\x1b[" in stream.getvalue()) is not in_json


def test_configure_writes_tracebacks_and_needs_no_level_or_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level=logging.INFO)
    log = structlog.get_logger()
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.exception("failed")
        log.warning("failed", exc_info=error)
        log.warning("failed", exc_info=sys.exc_info())
    nothing_raised: Any = True
    log.info("fine", exc_info=nothing_raised)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("exception", "").rpartition("\n")[2] for line in lines] == ["ValueError: broken"] * 3 + [""]


@pytest.mark.parametrize("level", ["LOUD", "", 7, "WARN ING"])
def test_configure_refuses_unknown_levels(level: Any) -> None:
    with pytest.raises(ConfigurationError, match="level must be one of DEBUG, INFO") as caught:
        configure(level=level)
    assert caught.value.option == "level"
    assert not structlog.is_configured()
