"""After a crash nothing of the old life runs, and nothing of it reaches outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from isochrone.errors import Unavailable
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import Complaint, Crashed, Deadlock, run
from isochrone.sim.site import Site
from isochrone.world.net import Channel


def play(scenario: Callable[[Site, Site], Awaitable[None]], seed: int = 1) -> None:
    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(seed))
        fabric.weather.pieces = 0.0
        await scenario(Site("tokyo", fabric, seed), Site("osaka", fabric, seed))

    run(main())


def test_what_a_site_runs_has_a_result() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        async def works() -> int:
            return await tokyo.world.work.run(lambda: 42)

        async def fails() -> None:
            raise ZeroDivisionError

        assert await tokyo.spawn(works()) == 42
        with pytest.raises(ZeroDivisionError):
            await tokyo.spawn(fails())
        endless = tokyo.spawn(asyncio.Event().wait())
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        tokyo.crash(power=False)

    play(scenario)


def test_a_failure_that_nobody_takes_fails_the_run() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        async def fails() -> None:
            raise ZeroDivisionError

        tokyo.spawn(fails())
        await asyncio.sleep(1)

    with pytest.raises(Complaint, match="ZeroDivisionError"):
        play(scenario)


@pytest.mark.parametrize("power", [False, True])
def test_nothing_of_the_old_life_runs(power: bool) -> None:
    """Not a task, its children, their `finally`, a callback, a timer, or work in a thread."""
    seen: list[str] = []

    async def sleeper(site: Site, name: str) -> None:
        try:
            while True:
                await site.world.clock.sleep(0.001)
                seen.append(name)
        except BaseException:
            seen.append(f"{name} caught")
            raise
        finally:
            seen.append(f"{name} ended")

    async def worker(site: Site) -> None:
        while True:
            await site.world.work.run(lambda: seen.append("work"))

    async def program(site: Site) -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            seen.append("tick")
            loop.call_later(0.001, tick)
            loop.call_soon(seen.append, "soon")

        tick()
        asyncio.create_task(sleeper(site, "child"))  # noqa: RUF006
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper(site, "grandchild"))
            group.create_task(worker(site))

    async def scenario(tokyo: Site, osaka: Site) -> None:
        outcome = tokyo.spawn(program(tokyo))
        asyncio.get_running_loop().call_later(0.05, lambda: None)
        await asyncio.sleep(0.05)
        assert {"tick", "soon", "child", "grandchild", "work"} <= set(seen)
        tokyo.crash(power=power)
        seen.clear()
        with pytest.raises(Crashed):
            await outcome
        await asyncio.sleep(10)
        assert seen == []
        assert await tokyo.spawn(alive()) == "alive"
        assert seen == []

    async def alive() -> str:
        return "alive"

    play(scenario)


def test_doors_of_the_old_life_stay_closed_to_all() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        old_world, old_disk = tokyo.world, tokyo.disk
        assert tokyo.disk is old_disk
        file = old_disk.create("a")
        ran: list[int] = []
        waiting = asyncio.ensure_future(old_world.work.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        tokyo.crash(power=False)
        with pytest.raises(OSError):
            file.write_at([b"x"], 0)
        with pytest.raises(OSError):
            old_disk.create("b")
        with pytest.raises(Crashed):
            await old_world.net.listen("tokyo:1", nobody)
        with pytest.raises(Crashed):
            await waiting
        assert ran == []
        assert tokyo.world is not old_world
        assert tokyo.disk.names() == ["a"]
        assert tokyo.world.clock is old_world.clock

    async def nobody(channel: Channel) -> None: ...

    play(scenario)


def test_a_connection_belongs_to_the_life_that_listened() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        seen: list[str] = []

        async def handler(channel: Channel) -> None:
            try:
                while data := await channel.read():
                    channel.write([data])
            finally:
                seen.append("handler ended")

        async def serve() -> str:
            return (await tokyo.world.net.listen("tokyo:7000", handler)).address

        address = await tokyo.spawn(serve())
        channel = await osaka.world.net.connect(address)
        channel.write([b"hi"])
        assert await channel.read() == b"hi"
        tokyo.crash(power=True)
        with pytest.raises(Unavailable):
            await osaka.world.net.connect(address)
        assert await channel.read() == b""
        assert seen == []
        await tokyo.spawn(serve())
        channel = await osaka.world.net.connect(address)
        channel.close()

    for seed in range(10):
        play(scenario, seed)


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_in_the_middle_of_a_call(power: bool) -> None:
    """A crash point: the call does not happen, and its caller does not go on."""
    seen: list[str] = []

    async def program(site: Site) -> None:
        file = site.disk.create("a")
        site.disk.sync_names()
        try:
            for n in range(5):
                file.write_at([bytes([n])], n)
                await site.world.work.run(file.sync)
        except Exception:
            seen.append("caught")
        seen.append("went on")

    async def scenario(tokyo: Site, osaka: Site, at: int) -> None:
        def watch(call: str, name: str) -> None:
            if tokyo.platter.calls == at:
                tokyo.crash(power=power)

        tokyo.platter.watch = watch
        with pytest.raises(Crashed):
            await tokyo.spawn(program(tokyo))
        await asyncio.sleep(10)
        tokyo.platter.watch = None
        names = tokyo.disk.names()
        if at > 2:
            assert names == ["a"]
            # calls: create, sync_names, then write and sync in turn
            synced = (at - 3) // 2
            assert tokyo.disk.open("a").read_at(synced, 0) == bytes(range(synced))

    for at in range(1, 13):
        play(lambda tokyo, osaka, at=at: scenario(tokyo, osaka, at), seed=at)
    assert seen == []


def test_a_paused_program_goes_on_later() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        loop = asyncio.get_running_loop()
        ticks: list[float] = []

        async def program() -> None:
            while True:
                await tokyo.world.clock.sleep(1)
                ticks.append(loop.time())

        tokyo.spawn(program())
        await asyncio.sleep(2.5)
        tokyo.pause()
        await asyncio.sleep(10)
        assert ticks == [1, 2]
        tokyo.resume()
        await asyncio.sleep(1.2)
        assert ticks == [1, 2, 12.5, 13.5]
        tokyo.pause()
        tokyo.crash(power=True)
        await asyncio.sleep(10)
        assert len(ticks) == 4

    play(scenario)


def test_waiting_for_a_paused_program_is_a_deadlock() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        outcome = tokyo.spawn(tokyo.world.clock.sleep(1))
        tokyo.pause()
        await outcome

    with pytest.raises(Deadlock):
        play(scenario)


def test_an_assertion_of_the_old_life_is_not_forgotten() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        async def broken() -> None:
            raise AssertionError("invariant")

        async def program() -> None:
            asyncio.create_task(broken())  # noqa: RUF006
            await asyncio.Event().wait()

        tokyo.spawn(program())
        await asyncio.sleep(1)
        tokyo.crash(power=False)

    with pytest.raises(Complaint, match="invariant"):
        play(scenario)


def test_hosts_have_their_own_time_and_luck() -> None:
    async def scenario(tokyo: Site, osaka: Site) -> None:
        assert tokyo.clock.monotonic() != osaka.clock.monotonic()
        ids = {tokyo.world.dice.identity(), osaka.world.dice.identity()}
        tokyo.crash(power=False)
        ids.add(tokyo.world.dice.identity())
        assert len(ids) == 3

    play(scenario)
