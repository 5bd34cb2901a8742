"""Frames wait for their turn, and somebody is told meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from isochrone.mirror.bandwidth import Urgency
from isochrone.mirror.valve import Valve
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.types import MIB


def play(act: Callable[[Valve], Awaitable[None]]) -> None:
    async def main() -> None:
        site = Site("a", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        await act(Valve(site.world.clock))

    run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_without_a_limit_nobody_waits() -> None:
    async def act(valve: Valve) -> None:
        began = now()
        for _ in range(1000):
            await valve.enter(Urgency.COPY)
            valve.budget.pay(MIB)
        assert now() == began
        assert valve.rate == 0

    play(act)


def test_who_waits_is_heard_each_second_and_cuts_go_first() -> None:
    async def act(valve: Valve) -> None:
        valve.set_rules("1MiB/s")
        assert valve.rate == MIB
        valve.budget.pay(4 * MIB)
        told: list[float] = []
        went: list[str] = []

        async def tell() -> None:
            told.append(now())

        async def send(name: str, urgency: Urgency) -> None:
            await valve.enter(urgency, tell)
            valve.budget.pay(MIB)
            went.append(name)

        began = now()
        await asyncio.gather(send("copy", Urgency.COPY), send("cut", Urgency.CUT))
        assert went == ["cut", "copy"]
        assert 4.9 < now() - began < 5.2
        assert len(told) >= 6
        assert valve.waited_s > 8

    play(act)


def test_a_new_limit_is_felt_by_those_who_wait() -> None:
    async def act(valve: Valve) -> None:
        valve.set_rules("64KiB/s")
        await valve.enter(Urgency.CUT)
        valve.budget.pay(100 * MIB)
        waiting = asyncio.ensure_future(valve.enter(Urgency.CUT))
        await asyncio.sleep(10)
        assert not waiting.done()
        valve.set_rules("")
        await asyncio.wait_for(waiting, 1.5)

    play(act)


def test_who_gives_up_is_forgotten() -> None:
    async def act(valve: Valve) -> None:
        valve.set_rules("64KiB/s")
        await valve.enter(Urgency.CUT)
        valve.budget.pay(100 * MIB)
        waiting = asyncio.ensure_future(valve.enter(Urgency.CUT))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert valve.budget.waiting == 0

    play(act)
