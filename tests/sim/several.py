"""Some sites of the simulation with changing roles, in a good state, for tests of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

from isochrone.mirror import groups
from isochrone.sim.churn import Churn
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import VirtualLoop, run
from isochrone.sim.member import GROUP, SIZES, Member, Options
from isochrone.sim.settling import Settling
from isochrone.sim.site import Site
from isochrone.sim.upsets import Upsets
from isochrone.sim.witness import Witness
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.types import BLOCK


class Several:
    """`a` is the primary of two volumes, the others follow it."""

    def __init__(self, sites: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.options = replace(Options.of(Random(1)), sizes=SIZES, interval=0.2, changes=20)
        self.fabric = SimFabric(loop, Random(1))
        self.said: list[str] = []
        self.witness = Witness(GROUP, self.said.append)
        self.members = {
            name: Member(Site(name, self.fabric, 1), self.options, self.said.append)
            for name in "abc"[:sites]
        }
        self.a, self.b = self.members["a"], self.members["b"]
        self.churn = Churn(self.options, self.witness, self.said.append)
        self.upsets = Upsets(self.members, self.fabric, self.witness, Random(1), self.said.append)
        self.settling = Settling(
            self.members, self.upsets, self.witness, self.follow, self.said.append
        )

    async def start(self, member: Member) -> None:
        def seen(lsn: int, record: r.AnyRecord) -> None:
            self.witness.watch(member.name, member.pool, lsn, record)

        await member.site.spawn(member.start(seen))

    async def follow(self, member: Member, source: str) -> None:
        address = self.members[source].address
        await member.site.spawn(member.mirrors.add(GROUP, address))
        await member.site.spawn(member.pool.flush())

    async def wait(self) -> None:
        for member in self.members.values():
            if member is not self.a:
                await member.site.spawn(member.mirrors.wait(GROUP, timeout=60))

    async def begin(self) -> None:
        for member in self.members.values():
            await self.start(member)
        for name in ("v0", "v1"):
            volumes.create(self.a.pool, name, 256 * BLOCK)
        groups.create(self.a.pool, GROUP, ["v0", "v1"])
        await self.a.site.spawn(self.a.pool.flush())
        for member in self.members.values():
            if member is not self.a:
                await self.follow(member, "a")
        await self.wait()


def play(scenario: Callable[[Several], Awaitable[None]], sites: int = 2) -> None:
    async def main() -> None:
        several = Several(sites)
        await several.begin()
        await scenario(several)

    run(main(), seconds_max=5000.0)
