"""Clients that come and go in every way, all at the same time: afterwards nothing of them is left anywhere."""

from __future__ import annotations

import pytest
from socketio import AsyncManager

from tests import scripted
from tests.benchmarks.soak import soak


async def test_nothing_is_left_of_two_hundred_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "opened", None)
    found = await soak(200, seed=1, together=25, over=0.1, ping_interval=1)
    assert (found.left, found.tasks, found.records) == ({}, 0, 0)
    ended = {"draining", "token_expired", "token_revoked", "kicked", "slow_consumer"}
    assert set(found.reasons) == ended | {"client disconnect", "transport close"}


async def test_what_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncManager, "basic_leave_room", lambda manager, sid, namespace, room: None)
    monkeypatch.setattr(scripted, "opened", None)
    found = await soak(30, seed=1, together=30, over=0, ping_interval=1)
    assert "rooms" in found.left
    scripted.made.clear()
