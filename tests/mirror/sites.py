"""Two sites in virtual time, each a pool with its mirror, as the daemon composes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

from isochrone.mirror import groups
from isochrone.mirror.mover import Mover
from isochrone.mirror.service import Mirrors
from isochrone.mirror.status import GroupStatus
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import volumes
from isochrone.store.pool import Limits, Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB

GROUP = "g"
LIMITS = Limits(segment_bytes=8 * MIB, node_bytes=4 * MIB, checkpoint_bytes=1 << 40)


def fill(text: str) -> bytes:
    """A block that says what it is, and does not shrink to nothing."""
    return Random(text).randbytes(BLOCK - 64) + text.encode().ljust(64)[:64]


class Host:
    """One site's program; it can be crashed and started again."""

    def __init__(self, name: str, fabric: SimFabric, seed: int = 1, interval: float = 0.2) -> None:
        self.site = Site(name, fabric, seed)
        self.interval = interval
        self.watchers: list[Callable[[int, Any], None]] = []  # told of each record, in every life
        self.pool: Pool
        self.mirrors: Mirrors

    @property
    def address(self) -> str:
        return f"{self.site.name}:7001"

    async def start(self) -> None:
        await self.call(self._start())

    async def _start(self) -> None:
        self.pool = Pool.open(self.site.disk, self.site.world, LIMITS)
        self.pool.on_change.extend(self.watchers)
        self.mirrors = Mirrors(self.pool, self.site.world, interval=self.interval)
        await self.mirrors.listen(self.address)
        await self.mirrors.start()

    async def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something as this site's own."""
        return await self.site.spawn(work)

    def crash(self, *, power: bool = True) -> None:
        self.site.crash(power=power)

    async def restart(self, *, power: bool = True) -> None:
        self.crash(power=power)
        await self.start()

    async def stop(self) -> None:
        """As the daemon ends: everything saved."""
        await self.call(self.mirrors.stop())
        await self.call(self.pool.close())
        self.crash(power=False)

    def group(self, name: str = GROUP) -> Any:
        return self.pool.state.groups[name]

    def status(self, group: str = GROUP) -> GroupStatus:
        return self.mirrors.status(group)

    def device(self, name: str) -> VolumeDevice:
        return VolumeDevice(self.pool, self.pool.state.names[name])

    def write(self, name: str, block: int, text: str, count: int = 1) -> None:
        data = b"".join(fill(f"{text}{n or ''}") for n in range(count))
        self.device(name).write(block * BLOCK, memoryview(data))
        self.pool.commit()

    def bulk(self, name: str = "db") -> None:
        """4 MiB, all of a volume: blocks 128 n and the 127 behind it say `bulk n`."""
        for n in range(8):
            self.write(name, 128 * n, f"bulk {n}", count=128)

    def discard(self, name: str, block: int, count: int) -> None:
        self.device(name).discard(block * BLOCK, count * BLOCK)
        self.pool.commit()

    def read(self, name: str, block: int) -> bytes:
        return b"".join(self.device(name).read(block * BLOCK, BLOCK))

    def says(self, name: str, block: int) -> str:
        """The text of a block that `write` wrote; empty for zeros."""
        return self.read(name, block)[-64:].strip(b" \0").decode()

    def image(self, name: str) -> bytes:
        device = self.device(name)
        return b"".join(device.read(0, device.size))

    async def wait(self, group: str = GROUP, *, copy: str = "", timeout: float = 120) -> Any:
        return await self.call(self.mirrors.wait(group, copy=copy, timeout=timeout))


class Two:
    """`a` is the primary of a group, `b` is to be its secondary."""

    def __init__(self, seed: int, interval: float) -> None:
        self.fabric = SimFabric(asyncio.get_running_loop(), Random(seed))
        self.a = Host("a", self.fabric, seed, interval)
        self.b = Host("b", self.fabric, seed, interval)

    async def make(self, names: tuple[str, ...] = ("db", "wal"), size: int = 4 * MIB) -> None:
        """A group at `a`, with something in its first volume."""
        for name in names:
            volumes.create(self.a.pool, name, size)
        groups.create(self.a.pool, GROUP, names)
        self.a.write(names[0], 0, "first")
        await self.a.call(self.a.pool.flush())

    async def mirror(self, *, wait: bool = True) -> None:
        await self.b.call(self.b.mirrors.add(GROUP, self.a.address))
        await self.b.call(self.b.pool.flush())  # as the API does before it answers
        if wait:
            await self.b.wait()

    async def copying(self) -> Mover:
        """A first copy of 4 MiB is on its way, slowly; the mover that takes it."""
        self.a.bulk()
        await self.a.call(self.a.pool.flush())
        self.fabric.weather.bytes_per_s = 1e6
        await self.mirror(wait=False)
        return self.b.mirrors.mover(GROUP)

    async def another(self, name: str = "c") -> Host:
        """One more site; it follows nobody."""
        host = Host(name, self.fabric)
        await host.start()
        return host

    async def third(self, source: Host | None = None, *, wait: bool = True) -> Host:
        """A site `c` that follows `a`, or another source."""
        host = await self.another()
        await host.call(host.mirrors.add(GROUP, (source or self.a).address))
        if wait:
            await host.wait()
        return host

    def same(self, *names: str) -> bool:
        return all(self.a.image(name) == self.b.image(name) for name in names)


Scenario = Callable[[Two], Awaitable[None]]


def play(
    scenario: Scenario, *, seed: int = 1, interval: float = 0.2, made: bool = True,
    mirrored: bool = True, seconds_max: float = 3600.0,
) -> None:  # fmt: skip
    """Run a scenario over two sites; by default with a group that is mirrored already."""

    async def main() -> None:
        two = Two(seed, interval)
        await two.a.start()
        await two.b.start()
        if made:
            await two.make()
            if mirrored:
                await two.mirror()
        await scenario(two)

    run(main(), seconds_max=seconds_max)


def play_duplex(scenario: Scenario, *, interval: float = 0.2) -> None:
    """The same once the primary knows that its secondary has everything."""

    async def whole(two: Two) -> None:
        asked, peer = two.a.mirrors.asking.requests, two.b.pool.identity
        await until(lambda: asked.duplex(two.a.group(), peer))
        await scenario(two)

    play(whole, interval=interval)


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < end, "it did not happen"
        await asyncio.sleep(0.01)
