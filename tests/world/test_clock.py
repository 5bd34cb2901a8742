"""The real clock."""

from __future__ import annotations

from isochrone.world.clock import SystemClock


async def test_the_system_clock() -> None:
    clock = SystemClock()
    assert clock.wall_ns() > 1_700_000_000 * 10**9
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009
