from __future__ import annotations

import pytest

from socketguard.testing import FakeClock, Wire, make_auth, mint
from tests.core.driver import Guarded, Polling, guarded, nothing_left, until


async def upgrading(case: Guarded, clock: FakeClock) -> Wire:
    """A member of a namespace that has begun an upgrade, and has stopped polling for it."""
    client = await Polling(case.app).open()
    await client.join(token=mint(now=clock.now, lifetime=60))
    wire = Wire(case.app, query=f"&sid={client.sid}")
    await wire.open()
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    assert await client.poll() == ["6"]
    return wire


@pytest.mark.parametrize("finishes", [True, False])
async def test_an_upgrade_may_finish_before_its_session_is_closed(
    finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
    wire = await upgrading(case, clock)
    if not finishes:
        monkeypatch.setattr("socketguard.server.websocket.UPGRADE_PATIENCE", 0.01)
    clock.move(70)
    assert case.seam.lifetime is not None
    case.guard._parts.endings.arm()
    await until(lambda: not case.seam.connections)
    if finishes:
        await wire.send("5")
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 4401
    await wire.close()
    nothing_left(case)


async def test_an_upgrade_that_was_only_opened_is_closed_at_once() -> None:
    clock = FakeClock()
    case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
    client = await Polling(case.app).open()
    await client.join(token=mint(now=clock.now, lifetime=60))
    wire = Wire(case.app, query=f"&sid={client.sid}")
    await wire.open()
    clock.move(70)
    assert case.seam.lifetime is not None
    case.guard._parts.endings.arm()
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 4401
    await wire.close()
    nothing_left(case)


async def test_an_upgrade_whose_session_ends_between_two_of_its_frames() -> None:
    clock = FakeClock()
    case = guarded(auth=make_auth(clock=clock), expiring_notice=None)
    client = await Polling(case.app).open()
    await client.join(token=mint(now=clock.now, lifetime=60))
    session = case.seam.session(client.sid)
    assert session is not None
    wire = Wire(case.app, query=f"&sid={client.sid}")
    await wire.open()
    # What the endings set before they get their turn.
    session.ending = "token_expired"
    await wire.send("2probe")
    assert await wire.frame() == "3probe"
    await wire.send("5")
    with pytest.raises(ConnectionError):
        await wire.frame()
    assert wire.close_code == 4401
    await case.seam.let_go(client.sid)
    await wire.close()
    nothing_left(case)
