"""Processes of their own, in which nobody but the test has set up logging."""

from __future__ import annotations

import os
import subprocess
import sys

FIELDS = {"namespace": "/messages", "subject": "u-1", "client_address": "10.0.0.1", "transport": "websocket"}
JOINED = "Joined '/messages': subject 'u-1' from 10.0.0.1 over websocket"

EMIT = f"""
from socketguard.logs import events
from socketguard.logs.sink import EventLog
log = EventLog()
log.emit(events.ACCEPTED, {FIELDS!r})
log.emit(events.REJECTED, {{"reason": "token_missing", "namespace": "/messages", "client_address": "10.0.0.1"}})
"""


def environment() -> dict[str, str]:
    unwanted = ("SOCKETGUARD_LOG", "NO_COLOR", "FORCE_COLOR", "COV_CORE_SOURCE")
    return {**{k: v for k, v in os.environ.items() if k not in unwanted}, "TERM": "xterm"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
