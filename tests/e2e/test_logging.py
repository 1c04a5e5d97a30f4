"""No token, cookie or Engine.IO session id in what is logged, whatever the client did with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socketguard.testing import TEST_SECRET, mint
from tests.e2e.support import ACCEPTED, REJECTED, TRANSPORTS, JavaScript, Server, new_address, seen

LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"redact": {"()": "socketguard.logs.RedactFilter"}},
    "formatters": {
        "default": {"()": "uvicorn.logging.DefaultFormatter", "fmt": "%(levelprefix)s %(message)s"},
        "access": {
            "()": "uvicorn.logging.AccessFormatter",
            "fmt": '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
        },
    },
    "handlers": {
        "default": {"class": "logging.StreamHandler", "formatter": "default", "filters": ["redact"]},
        "access": {"class": "logging.StreamHandler", "formatter": "access", "filters": ["redact"]},
    },
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "DEBUG", "propagate": False},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        "packets": {"handlers": ["default"], "level": "DEBUG", "propagate": False},
    },
}

COOKIE = "c00kie-of-a-session"


@pytest.mark.parametrize("packets_logged", [False, True])
@pytest.mark.parametrize("msgpack", [False, True])
def test_secrets_are_in_no_line(
    js: JavaScript, serve: Callable[..., Server], tmp_path: Path, packets_logged: bool, msgpack: bool
) -> None:
    config = tmp_path / "log.json"
    config.write_text(json.dumps(LOG_CONFIG))
    server = serve(
        "--log-config",
        str(config),
        sources=["payload", "header", "query:token"],
        packets_logged=packets_logged,
        serializer="msgpack" if msgpack else "default",
    )
    tokens = [mint(f"u-{number}", tenant_id="acme") for number in range(5)]
    expired = mint("u-1", lifetime=-60)
    engines: set[str] = set()
    for transports in TRANSPORTS:
        ways: list[dict[str, Any]] = [
            {"token": tokens[0]},
            {"headers": {"Authorization": f"Bearer {tokens[1]}", "Cookie": f"session={COOKIE}"}, "auth": {}},
            {"query": {"token": tokens[2]}, "auth": {}},
            {"auth": {"authorization": f"Bearer {tokens[3]}"}},
            {"token": expired},
            {"token": tokens[4], "namespace": "/nowhere"},
            {"token": tokens[4], "namespace": "/raises"},
        ]
        for way in ways:
            result = js.play(server, transports=transports, address=new_address(), **way)
            engines |= {note["engine"] for note in seen(result, "open", "connect")}
    error = js.outcome(server, path="/socket.io", query={"sid": "made-up", "token": tokens[0]}, transports="polling")
    assert error["kind"] == "connect_error"
    server.wait_until_empty()
    server.terminate()
    output = server.output()
    assert len(engines) >= 21
    for secret in (*tokens, expired, COOKIE, TEST_SECRET, *engines):
        assert secret not in output
        # Nor a part of it that would do: the signature of a token.
        assert secret.rpartition(".")[2] not in output
    assert not re.search(r"eyJ[\w-]{20,}", output)
    # The lines themselves are there.
    assert output.count("/socket.io/?EIO=4") > 21
    assert "sid=[redacted]" in output
    assert len(server.events(ACCEPTED)) == 12
    assert ("Received packet" in output) == packets_logged


def test_what_a_client_sends_breaks_no_line(js: JavaScript, crm: Server) -> None:
    address = new_address()
    evil = '/x\n{"event": "socketguard.connection.accepted"}\x1b[31m\u202e'
    js.outcome(crm, evil, auth={"token": mint("u-1")}, address=address)
    line = crm.wait_for_event(REJECTED, client_address=address)
    assert "\n" not in line["requested"]
    assert "\x1b" not in line["requested"]
    assert "\u202e" not in line["requested"]
    assert not crm.events(ACCEPTED, client_address=address)
