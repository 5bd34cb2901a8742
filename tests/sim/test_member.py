"""A site of several: drawn options, crashes at chosen records, and standing still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from isochrone.mirror import groups
from isochrone.mirror.roles import Role
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import Crashed, VirtualLoop, run
from isochrone.sim.member import AMBUSHES, GROUP, Ambush, Member, Options
from isochrone.sim.site import Site
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.types import BLOCK


def play(scenario: Callable[[Member], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        site = Site("a", SimFabric(loop, Random(1)), 1)
        member = Member(site, Options.of(Random(1)), lambda text: None)
        await site.spawn(member.start(lambda lsn, record: None))
        volumes.create(member.pool, "v", 256 * BLOCK)
        groups.create(member.pool, GROUP, ["v"])
        await site.spawn(member.pool.flush())
        await scenario(member)

    run(main())


def test_options_follow_from_the_seed() -> None:
    assert Options.of(Random(5)) == Options.of(Random(5))
    drawn = [Options.of(Random(seed)) for seed in range(50)]
    assert {o.sites for o in drawn} == {2, 3}
    assert {o.seeded for o in drawn} == {o.early for o in drawn} == {False, True}
    assert {max(o.sizes) > 1000 for o in drawn} == {False, True}


def test_an_ambush_strikes_at_the_nth_record() -> None:
    async def scenario(member: Member) -> None:
        member.ambush = Ambush(r.CutPlaced, 2, power=False)

        async def place(cut: int) -> None:
            member.pool.record(r.CutPlaced(group=GROUP, cut=cut, stamp=1, acked={}))

        await member.site.spawn(place(1))
        assert member.up
        with pytest.raises(Crashed):
            await member.site.spawn(place(2))
        assert not member.up
        assert member.ambush is None
        assert member.group is None
        await member.site.spawn(member.start(lambda lsn, record: None))
        assert member.group is not None
        assert member.group.cut == 2

    play(scenario)


def test_whoever_appends_from_outside_does_not_go_on_either() -> None:
    async def scenario(member: Member) -> None:
        member.ambush = Ambush(r.CutPlaced, 1, power=True)
        with pytest.raises(Crashed):
            member.pool.record(r.CutPlaced(group=GROUP, cut=1, stamp=1, acked={}))
        member.lose_store()
        await member.site.spawn(member.start(lambda lsn, record: None))
        assert member.crashes == 1
        assert member.role is Role.PRIMARY

    play(scenario)


def test_who_stands_still_cannot_be_asked() -> None:
    async def scenario(member: Member) -> None:
        pausing = asyncio.get_running_loop().create_task(member.pause(2.0))
        await member.site.clock.sleep(1.0)
        assert member.up
        assert member.group is None
        await pausing
        assert member.group is not None

    play(scenario)


def test_a_crash_ends_a_pause() -> None:
    async def scenario(member: Member) -> None:
        pausing = asyncio.get_running_loop().create_task(member.pause(2.0))
        await member.site.clock.sleep(1.0)
        member.crash(power=False)
        await member.site.spawn(member.start(lambda lsn, record: None))
        await pausing
        assert member.group is not None

    play(scenario)


def test_ambushes_are_of_records() -> None:
    assert all(issubclass(kind, r.Record) for kind in AMBUSHES)
    assert len(set(AMBUSHES)) == len(AMBUSHES)
