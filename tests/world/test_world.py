"""The real world is complete."""

from __future__ import annotations

from isochrone.world import system_world


async def test_the_system_world() -> None:
    world = system_world()
    assert len(world.dice.identity()) == 32
    assert world.clock.monotonic() > 0
    assert await world.work.run(lambda: 42) == 42
