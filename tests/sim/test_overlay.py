"""Attaching and overlaying race in virtual time: a thousand tries, none wrong."""

from __future__ import annotations

import asyncio
from random import Random
from typing import cast

import pytest

from isochrone.errors import Conflict
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import VirtualLoop, run
from isochrone.sim.site import Site
from isochrone.store import relations, volumes
from isochrone.store.attachments import LEASE_S
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.store.relations import Wish
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB
from tests.store.pools import SMALL, client

TRIES = 250  # for each seed
HOSTS = [client(f"host {n}") for n in range(3)]


class Race:
    """Hosts that come and go, politely or not, and a copy onto what they use, all at random."""

    def __init__(self, seed: int) -> None:
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        self.dice = Random(seed)
        self.site = Site("a", SimFabric(loop, Random("fabric")), 1)
        self.pool = Pool.open(self.site.disk, self.site.world, SMALL)
        self.backend = PoolBackend(self.pool)
        self.source = volumes.create(self.pool, "a", MIB).id
        self.target = volumes.create(self.pool, "b", MIB).id
        self.copied = self.refused = 0
        self.counts: dict[str, float] = {}  # host -> until when it may come back

    def write(self, n: int) -> None:
        VolumeDevice(self.pool, self.source).write(0, memoryview(n.to_bytes(8, "big") * 512))
        self.pool.commit()

    def content(self) -> bytes:
        return b"".join(VolumeDevice(self.pool, self.target).read(0, BLOCK))

    async def pause(self) -> None:
        await asyncio.sleep(self.dice.choice((0, 0, 0, 0.001, 0.01, 1, LEASE_S)))

    async def host(self, n: int) -> None:
        me, loop = HOSTS[n], asyncio.get_running_loop()
        for _ in range(TRIES):
            await self.pause()
            device = self.backend.attach("b", me)
            self.counts[me.host] = float("inf")
            seen = self.content()
            await self.pause()
            assert self.content() == seen, "changed under a host that has it open"
            lost = self.dice.random() < 0.3
            self.backend.detach(device, me, lost=lost)
            self.counts[me.host] = loop.time() + LEASE_S if lost else 0.0

    async def copier(self) -> None:
        for n in range(1, TRIES + 1):
            self.write(n)
            await self.pause()
            now = asyncio.get_running_loop().time()
            anybody = any(until > now for until in self.counts.values())
            try:
                relations.establish(self.pool, [Wish("a", "b")], once=True)
            except Conflict:
                assert anybody, "nobody had it open"
                self.refused += 1
            else:
                assert not anybody, "a host had it open, or could come back to it"
                assert self.content() == n.to_bytes(8, "big") * 512
                self.copied += 1


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_tries(seed: int) -> None:
    async def main() -> None:
        race = Race(seed)
        tasks = [race.copier(), *(race.host(n) for n in range(len(HOSTS)))]
        await asyncio.gather(*(race.site.spawn(task) for task in tasks))
        assert race.refused > 10
        assert race.copied > 0

    run(main(), seconds_max=10**9)
