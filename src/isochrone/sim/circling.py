"""Three sites whose roles change: suspended and resumed, switched, promoted by force, brought back.

The checkers know nothing of logs, tracks or resends. They keep what the primary showed when it
placed a cut, and hold it against what another site shows when it commits that cut:

(i)   a site that commits a cut shows exactly what the primary of that epoch showed at the cut: all
      volumes, and the copies that came through the mirror; a copy never changes, at any site;
(j)   no epoch has two primaries; where two sites were promoted by force without knowing of each
      other, these are two branches, and a cut of one is never taken for one of the other;
(k)   who takes over, as planned or by force, begins with what was shown at the cut it names; who
      comes back and says that it is at a cut is at it;
(l)   what an old primary had when it gave way is in its parked copy, byte for byte, and pinned;
(m)   when the faults are over, every site follows the newest primary and all are equal: volumes,
      relations, the copies that were taken since that primary is one, and none that it deleted;
(n)   then every request for copies at several sites is finished, DONE where the copy is there, and
      EXPIRED only where it is not;
(p)   a point, also for a restore probe, opens as what its site showed when it committed that cut;
(q)   every restore probe ends, whatever crashed, and leaves no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Final

from isochrone.mirror import groups, shipment
from isochrone.mirror.probing import LOOK_SECONDS
from isochrone.sim.churn import PROBE_S_MAX, Churn, probes_over
from isochrone.sim.clock import SimClock
from isochrone.sim.loop import Crashed
from isochrone.sim.member import GROUP, Member, Options
from isochrone.sim.settling import CONVERGE_S, Settling
from isochrone.sim.site import Site
from isochrone.sim.story import Story, tell
from isochrone.sim.upsets import Upsets
from isochrone.sim.witness import Witness
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.check import check_pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

SITES: Final = ("a", "b", "c")
LIFE_S_MAX: Final = 20_000.0


class Circling(Story):
    """Two or three sites, none of which stays what it is."""

    def __init__(self, seed: int, log: Callable[[str], None]) -> None:
        super().__init__(seed, log)
        self.options = Options.of(self._random)
        self._witness = Witness(GROUP, self._say)
        self._churn = Churn(self.options, self._witness, log)

    async def _run(self) -> None:
        await self._prepare()
        for _ in range(self.options.rounds):
            await self._round()
        await self._calm()
        churn, counts = self._churn, self._upsets.counts + self._witness.counts
        counts["crashes"] = sum(member.crashes for member in self._members.values())
        counts["commits"], counts["ops"] = self._witness.commits, churn.ops
        counts["opened"], counts["requested"] = churn.opened, churn.requested
        counts["probed"] = churn.probed
        self.counts = dict(counts)

    async def _prepare(self) -> None:
        self._set_out(self.options)
        self._clock = SimClock(self._loop)
        self._members = {
            name: Member(Site(name, self._fabric, self.seed), self.options, self._say)
            for name in SITES[: self.options.sites]
        }
        self._upsets = Upsets(self._members, self._fabric, self._witness, self._random, self._say)
        for member in self._members.values():
            await self._start(member)
        a, b = self._members["a"], self._members["b"]
        names = [f"v{n}" for n in range(self.options.volumes)]
        for name in names:
            volumes.create(a.pool, name, self._random.choice(self.options.sizes) * BLOCK)
        groups.create(a.pool, GROUP, names)
        seeds = self._sow(a, b, names) if self.options.seeded else {}
        await a.site.spawn(a.pool.flush())
        await self._follow(b, "a", seeds)
        if "c" in self._members:
            if not self.options.early or self.options.cascade:
                await b.site.spawn(b.mirrors.wait(GROUP, timeout=CONVERGE_S))
            await self._follow(self._members["c"], "b" if self.options.cascade else "a")

    def _sow(self, a: Member, b: Member, names: list[str]) -> dict[str, str]:
        """Volumes at a site that are nearly what is about to be copied there."""
        for name in names:
            size = a.pool.state.volumes[a.pool.state.names[name]].size
            volumes.create(b.pool, f"old-{name}", size)
            for number in range(4):
                self._churn.write(a.pool, name, self._random)
                data = b"".join(VolumeDevice(a.pool, a.pool.state.names[name]).read(0, size))
                if number < 3:  # the last is at one site alone
                    old = VolumeDevice(b.pool, b.pool.state.names[f"old-{name}"])
                    old.write(0, memoryview(data))
            a.pool.commit()
            b.pool.commit()
        return {name: f"old-{name}" for name in names}

    async def _follow(
        self, member: Member, source: str, seeds: dict[str, str] | None = None
    ) -> None:
        address = self._members[source].address
        await member.site.spawn(member.mirrors.add(GROUP, address, seeds=seeds))
        await member.site.spawn(member.pool.flush())

    async def _start(self, member: Member) -> None:
        def watch(lsn: int, record: r.AnyRecord) -> None:
            with self._inside():
                self._witness.watch(member.name, member.pool, lsn, record)

        await member.site.spawn(member.start(watch))
        self._say(f"{member.site.life.name} is up at record {member.pool.log.lsn}")
        check_pool(member.pool)

    async def _round(self) -> None:
        """Work at all sites, and some things that happen in the middle of it."""
        random = self._random
        workers = [
            member.site.spawn(self._churn.work(member, Random(random.getrandbits(64))))
            for member in self._members.values()
            if member.up
        ]
        await self._clock.sleep(random.uniform(0, 0.05 * self.options.changes))
        await self._upsets.strike(random.randint(1, self.options.events_max))
        for worker in workers:
            with suppress(Crashed):
                await worker
        await self._clock.sleep(random.choice((0.0, 0.5, 5.0)))
        if random.random() < 0.6:
            self._fabric.heal_all()
        for member in self._members.values():
            if not member.up and random.random() < 0.8:
                await self._try_start(member)

    async def _try_start(self, member: Member) -> None:
        with suppress(Crashed):  # it may run into an ambush while it starts
            await self._start(member)

    async def _calm(self) -> None:
        self._fabric.heal_all()
        self._fabric.weather.duplicate = 0.0
        for member in self._members.values():
            member.ambush = None
            if not member.up:
                await self._start(member)
        settling = Settling(self._members, self._upsets, self._witness, self._follow, self._say)
        newest = await settling.gather()
        random = Random(self._random.getrandbits(64))
        await newest.site.spawn(self._churn.work(newest, random))
        await newest.site.spawn(newest.pool.flush())
        await settling.caught_up(newest)
        settling.check(newest)
        await self._clock.sleep(PROBE_S_MAX + 2 * LOOK_SECONDS)
        probes_over(self._members.values())


@contextmanager
def _small_steps(options: Options) -> Iterator[None]:
    """Volumes here are small: how far a resend has come is noted after as little as is drawn."""
    usual = shipment.PROGRESS_BYTES
    shipment.PROGRESS_BYTES = options.progress_bytes  # type: ignore[misc]
    try:
        yield
    finally:
        shipment.PROGRESS_BYTES = usual  # type: ignore[misc]


def circle_seed(seed: int, log: Callable[[str], None]) -> Circling:
    """Run one seed; raises what it finds."""
    circling = Circling(seed, log)
    with _small_steps(circling.options):
        return tell(circling, LIFE_S_MAX)
