"""Sites in virtual time whose links have a lock, as the daemon composes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from isochrone.mirror.enrolment import Enrolment
from isochrone.mirror.peers import Peers, Role
from isochrone.mirror.secure import SecuredNet
from isochrone.mirror.service import Mirrors
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.store.pool import Pool
from isochrone.world.documents import FolderDocuments
from tests.mirror.sites import LIMITS, Host, Two


class LockedHost(Host):
    """Its files about peers are real ones, in a folder of the test."""

    def __init__(
        self, name: str, fabric: SimFabric, seed: int, interval: float, folder: Path
    ) -> None:
        super().__init__(name, fabric, seed, interval)
        self._folder = folder
        self.named = True  # it has a certificate
        folder.mkdir()

    async def _start(self) -> None:
        world = self.site.world
        self.peers = Peers(FolderDocuments(self._folder))
        self.net = SecuredNet(world.net, self.peers, world.clock)
        world = replace(world, net=self.net)
        self.pool = Pool.open(self.site.disk, world, LIMITS)
        self.pool.on_change.extend(self.watchers)
        self.enrolment = Enrolment(self.peers, self.net, world, self.pool.identity)
        self.mirrors = Mirrors(self.pool, world, interval=self.interval)
        if self.named and not self.peers.enrolled:
            self.peers.init(self.site.name, world.dice.identity())
        await self.mirrors.listen(self.address)
        await self.mirrors.start()

    async def join(self, other: LockedHost, role: Role = Role.TAKEOVER) -> None:
        """Enrol with another site."""
        token = other.enrolment.invite(role, 60, "")
        await self.call(self.enrolment.join(token.text(), Role.TAKEOVER, ""))


class LockedTwo(Two):
    a: LockedHost
    b: LockedHost

    def __init__(self, folder: Path, seed: int, interval: float) -> None:
        self.fabric = SimFabric(asyncio.get_running_loop(), Random(seed))
        self.a = LockedHost("a", self.fabric, seed, interval, folder / "a")
        self.b = LockedHost("b", self.fabric, seed, interval, folder / "b")


LockedScenario = Callable[[LockedTwo], Awaitable[None]]


def play_locked(
    folder: Path, scenario: LockedScenario, *, joined: bool = True, mirrored: bool = True,
    role: Role = Role.TAKEOVER,
) -> None:  # fmt: skip
    """Run a scenario over two sites with certificates; by default enrolled, with a mirror."""

    async def main() -> None:
        two = LockedTwo(folder, 1, 0.2)
        await two.a.start()
        await two.b.start()
        await two.make()
        if joined:
            await two.b.join(two.a, role)
            if mirrored:
                await two.mirror()
        await scenario(two)

    run(main())
