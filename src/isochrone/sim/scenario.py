"""One seed: two sites, a mirrored group, a workload, faults, and a failover at the end.

    faults    power cuts and kills at either site, link cuts, stalls, duplicated and split messages
    calm      everything is healed; the mirror must catch up and equal the primary
    disaster  the primary is lost, or only cut off; the secondary is promoted, written to, crashed
    return    the old primary comes back and must give way
    rot       a bit of the new primary's log flips while it is down; it is reported, or harmless
    decay     blocks of the old primary rot while it is in use; a scrub finds them and no others

Everything random follows from the seed, the options printed with it included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from isochrone.dr.failover import promote
from isochrone.errors import Damaged
from isochrone.mirror import groups
from isochrone.mirror.service import Mirrors
from isochrone.mirror.status import PromoteReport
from isochrone.sim import checkers, decay
from isochrone.sim.checkers import Violation
from isochrone.sim.history import ZERO, History
from isochrone.sim.loop import Crashed
from isochrone.sim.loss import lose_store
from isochrone.sim.relating import adopt
from isochrone.sim.site import Site
from isochrone.sim.story import Story, tell
from isochrone.sim.workload import Mix, Workload
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.check import check_pool
from isochrone.store.format import segment_name
from isochrone.store.pool import Limits, Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, KIB

STORE_LOST: Final = 0.1  # of all crashes
GROUP: Final = "g"
LINK: Final = "a:7001"
CONVERGE_SECONDS: Final = 300.0  # virtual; far above any retry delay
LIFE_SECONDS_MAX: Final = 4000.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed decides before anything runs."""

    mirrored: int  # volumes in the group
    alone: int  # volumes beside it
    rounds: int  # faults
    changes: int  # steps of the workload between two faults
    interval: float  # between cuts
    duplicate: float
    pieces: float
    latency_max: float
    segment_bytes: int
    node_bytes: int
    sweep_nodes: int
    partition_only: bool  # the disaster is a cut link; the old primary lives on
    mix: Mix

    @staticmethod
    def of(random: Random) -> Options:
        return Options(
            mirrored=random.randint(1, 3),
            alone=random.randint(0, 1),
            rounds=random.randint(1, 5),
            changes=random.randint(5, 40),
            interval=random.choice((0.02, 0.2, 1.0)),
            duplicate=random.choice((0.0, 0.0, 0.05)),
            pieces=random.choice((0.0, 0.1, 0.5)),
            latency_max=random.choice((0.001, 0.02, 0.2)),
            segment_bytes=random.choice((256 * KIB, 1024 * KIB, 8192 * KIB)),
            node_bytes=random.choice((64 * KIB, 1024 * KIB)),
            sweep_nodes=random.choice((4, 1024)),
            partition_only=random.random() < 0.3,
            mix=Mix(
                small=random.choice((0, 15)),
                discard=random.choice((0, 8, 20)),
                copy=random.choice((0, 4, 15)),
                clone=random.choice((0, 3)),
                resize=random.choice((0, 2)),
                flush=random.choice((0, 5, 20)),
                checkpoint=random.choice((0, 2, 8)),
                clean=random.choice((0, 2, 10)),
                relate=(related := random.choice((0, 0, 4, 12))),
                refresh=related // 2,
                restore=related // 4,
                withdraw=related // 2,
                revert=random.choice((0, 0, 2)),
            ),
        )


class Controller:
    """A site's program: a pool and its mirror, as the daemon composes them."""

    def __init__(self, site: Site, options: Options) -> None:
        self.site = site
        self._options = options
        self.pool: Pool
        self.mirrors: Mirrors

    async def start(self, on_change: Callable[[int, r.AnyRecord], None]) -> None:
        o = self._options
        limits = Limits(
            segment_bytes=o.segment_bytes,
            node_bytes=o.node_bytes,
            checkpoint_bytes=1 << 40,  # the workload asks for them
            garbage_bytes=0,
            reserve_bytes=0,
            sweep_nodes=o.sweep_nodes,
        )
        self.pool = Pool.open(self.site.disk, self.site.world, limits)
        self.pool.on_change.append(on_change)
        self.mirrors = Mirrors(self.pool, self.site.world, interval=self._options.interval)
        if self.site.name == "a":
            await self.mirrors.listen(LINK)
        await self.mirrors.start()


class Scenario(Story):
    """Two sites, and a disaster at the end."""

    def __init__(self, seed: int, log: Callable[[str], None]) -> None:
        super().__init__(seed, log)
        self.options = Options.of(self._random)
        self._history = History()
        self._cuts: dict[int, int] = {}  # cut -> op after which the primary placed it
        self._since = 0  # op of the secondary's first copy
        self._base = 0  # cut that the group being received builds on
        self._hardened = 0  # newest cut that the primary was told to be safe at the secondary
        self.counts = dict.fromkeys(("crashes", "cuts", "commits", "copies", "ops"), 0)

    async def _run(self) -> None:
        await self._prepare()
        for _ in range(self.options.rounds):
            await self._round()
        await self._calm()
        report = await self._disaster()
        await self._afterlife(report)
        self.counts["ops"] += self._history.op

    async def _prepare(self) -> None:
        o = self.options
        self._set_out(o)
        self._fabric.weather.pieces = o.pieces
        self._a = Controller(Site("a", self._fabric, self.seed), o)
        self._b = Controller(Site("b", self._fabric, self.seed), o)
        await self._start(self._a)
        self._make_volumes()
        await self._a.site.spawn(self._a.pool.flush())
        self._history.flushed = self._history.op
        await self._start(self._b)
        await self._b.site.spawn(self._b.mirrors.add(GROUP, LINK))
        await self._b.site.spawn(self._b.pool.flush())

    # -- controllers

    async def _start(self, controller: Controller) -> None:
        on_change = self._primary_record if controller is self._a else self._secondary_record
        await controller.site.spawn(controller.start(on_change))
        self._say(f"{controller.site.life.name} is up at record {controller.pool.log.lsn}")

    def _primary_record(self, lsn: int, record: r.AnyRecord) -> None:
        if isinstance(record, r.CutPlaced):
            self._cuts[record.cut] = self._history.op
            self._hardened = max(self._hardened, *record.acked.values())

    def _secondary_record(self, lsn: int, record: r.AnyRecord) -> None:
        with self._inside():
            self._check_record(record)

    def _check_record(self, record: r.AnyRecord) -> None:
        group = self._b.pool.state.groups[GROUP]
        if isinstance(record, r.IncomingBegun) and group.cut and not record.base:
            raise Violation(f"cut {group.cut} is there, and everything is copied again")
        if isinstance(record, r.IncomingBegun):
            self._base = record.base
        if isinstance(record, r.IncomingCommitted):
            self.counts["commits"] += 1
            op = self._cuts[record.cut]
            if not self._base:
                self._since = op  # a first copy that a power cut took back is made again
            self._say(f"b committed cut {record.cut}, op {op}")
            checkers.secondary(self._history, op, self._b.pool, GROUP, self._since)
            checkers.nothing_hidden(self._b.pool)

    def _crash(self, controller: Controller) -> bool:
        """Whether the metadata store is lost, too."""
        power = self._random.random() < 0.7
        effect = controller.site.crash(power=power)
        self.counts["crashes"] += 1
        self._say(f"{controller.site.name} {'loses power' if power else 'is killed'}: {effect}")
        store_lost = self._random.random() < STORE_LOST
        if store_lost:
            source = lose_store(controller.site.platter, controller.site.disk)
            self._say(f"{controller.site.name} loses its metadata store too; rebuilt: {source}")
        return store_lost

    async def _restart(self, controller: Controller, history: History) -> None:
        """Open the pool again and check what it shows."""
        await self._start(controller)
        if controller is self._b and history is self._history:
            self._check_secondary()
            return
        op = checkers.prefix(history, controller.pool)
        self._say(f"recovered to op {op} of {history.op}, {history.flushed} flushed")
        there = self._b.pool.state.groups[GROUP].cut
        if history is self._history and there and self._cuts[there] > op:
            raise Violation(f"(a) the secondary has op {self._cuts[there]}, lost at the primary")
        history.cut_off(op)
        check_pool(controller.pool)

    def _check_secondary(self) -> None:
        cut = self._b.pool.state.groups[GROUP].cut
        if cut < self._hardened:
            raise Violation(f"(d) cut {self._hardened} was confirmed; cut {cut} is left")
        if cut:
            checkers.secondary(self._history, self._cuts[cut], self._b.pool, GROUP, self._since)
        self._check_read_only(self._b)
        check_pool(self._b.pool)

    def _check_read_only(self, controller: Controller) -> None:
        state = controller.pool.state
        for id in state.groups[GROUP].volumes:
            if not state.read_only(state.volumes[id]):
                raise Violation(f"{state.volumes[id].name} is writable at both sites")

    def _make_volumes(self) -> None:
        pool, now = self._a.pool, self._a.site.clock.wall_ns()
        mirrored = [f"v{n}" for n in range(self.options.mirrored)]
        self._names = mirrored + [f"w{n}" for n in range(self.options.alone)]
        for name in self._names:
            blocks = self._random.choice((256, 257, 300))
            self._history.create(name, blocks, now)
            volumes.create(pool, name, blocks * BLOCK)
        groups.create(pool, GROUP, mirrored)
        self._mirrored = mirrored

    # -- phases

    def _work(self, controller: Controller, history: History, changes: int) -> asyncio.Future[None]:
        names = self._names if controller is self._a else self._mirrored
        random = Random(self._random.getrandbits(64))
        work = Workload(controller.pool, history, random, self.options.mix, names)
        return controller.site.spawn(work.run(changes))

    async def _round(self) -> None:
        """Work, and one thing that goes wrong in the middle of it."""
        work = self._work(self._a, self._history, self.options.changes)
        await asyncio.sleep(self._random.uniform(0, 0.05 * self.options.changes))
        fault = self._random.choice(("crash a", "crash b", "crash both", "cut", "stall", "none"))
        if fault == "cut":
            self.counts["cuts"] += 1
            self._fabric.cut("a", "b", one_way=self._random.random() < 0.3)
        elif fault == "stall":
            self._fabric.stall("a", "b")
        self._say(f"fault: {fault}")
        if fault in ("crash a", "crash both"):
            self._crash(self._a)
        if fault in ("crash b", "crash both"):
            self._crash(self._b)
        await asyncio.sleep(self._random.choice((0.0, 0.5, 3.0, 15.0)))
        if fault in ("crash b", "crash both"):
            await self._restart(self._b, self._history)
        if fault in ("crash a", "crash both"):
            await self._restart(self._a, self._history)
        await self._ended(work)
        self._fabric.heal_all()
        await asyncio.sleep(self._random.choice((0.0, 0.1, 2.0)))

    async def _ended(self, work: asyncio.Future[Any]) -> None:
        try:
            await work
        except Crashed:
            self._say("the workload died with its site")

    async def _calm(self) -> None:
        """After the faults the mirror must converge, and be exact."""
        self._fabric.weather.duplicate = 0.0
        await self._ended(self._work(self._a, self._history, self.options.changes))
        wait = self._b.mirrors.wait(GROUP, timeout=CONVERGE_SECONDS)
        status = await self._b.site.spawn(wait)
        self._say(f"b caught up: {status.state} at cut {status.cut}")
        checkers.secondary(self._history, self._history.op, self._b.pool, GROUP, self._since)
        self._check_secondary()
        check_pool(self._a.pool)
        self.counts["copies"] += len(self._b.pool.state.copies)

    async def _disaster(self) -> PromoteReport:
        work = self._work(self._a, self._history, self.options.changes)
        await asyncio.sleep(self._random.uniform(0, 0.05 * self.options.changes))
        if self.options.partition_only:
            self._fabric.cut("a", "b")
            self._say("disaster: the link is cut, the primary lives on")
        else:
            self._crash(self._a)
        await asyncio.sleep(self._random.choice((0.0, 0.01, 2.0, 30.0)))
        if self._random.random() < 0.3:
            self._crash(self._b)
            await self._restart(self._b, self._history)
        if self._random.random() < 0.1:
            self._crash(self._b)
            await self._restart(self._b, self._history)
        report = await self._b.site.spawn(promote(self._b.pool, self._b.mirrors, GROUP, force=True))
        op = self._cuts[report.cut]
        self._say(f"b promoted at cut {report.cut}, op {op} of {self._history.op}: {report}")
        checkers.secondary(self._history, op, self._b.pool, GROUP, self._since)
        checkers.recovery_point(self._history, op, report.recovery_point, self._mirrored)
        if self.options.partition_only:
            await self._ended(work)
        return report

    async def _afterlife(self, report: PromoteReport) -> None:
        """The new primary works and crashes like any other; the old one gives way."""
        old = self._history
        new = self._fork(self._cuts[report.cut])
        await self._ended(self._work(self._b, new, self.options.changes))
        self._crash(self._b)
        await self._restart(self._b, new)
        group = self._b.pool.state.groups[GROUP]
        if group.role != "primary" or group.epoch != report.epoch:
            raise Violation(f"the promote did not survive: {group.role}, epoch {group.epoch}")
        self._fabric.heal_all()
        if not self.options.partition_only:
            await self._restart(self._a, old)
        await self._until(lambda: not self._b.pool.state.groups[GROUP].fence_pending)
        if self._random.random() < 0.5:
            self._crash(self._a)
            await self._restart(self._a, old)
        if self._a.pool.state.groups[GROUP].role != "fenced":
            raise Violation("the old primary may still be written to")
        self._check_read_only(self._a)
        await self._ended(self._work(self._b, new, 5))
        checkers.equals(new, new.op, self._b.pool, self._mirrored, "after the return")
        await self._rot(new)
        if self._random.random() < 0.5:
            await self._decay()

    async def _rot(self, history: History) -> None:
        """Flip a bit of what was durable, except in the last batch.

        A sync that is not followed by any record leaves no trace of itself: damage to the last
        batch cannot be told from a torn write.
        """
        pool = self._b.pool
        await self._b.site.spawn(pool.flush())
        segment, slot = pool.log.position
        now = self._b.site.clock.wall_ns()
        for _ in range(2):  # the first says that all before it was durable; the second keeps it
            content = bytes([1]) * BLOCK
            history.write(self._mirrored[0], 0, content, now)
            VolumeDevice(pool, pool.state.names[self._mirrored[0]]).write(0, memoryview(content))
            pool.commit()
            await self._b.site.spawn(pool.flush())
        history.flushed = history.op
        self._crash(self._b)
        name = segment_name(segment)
        if not self._flip(name, slot * BLOCK):
            return
        try:
            await self._start(self._b)
            checkers.prefix(history, self._b.pool)
        except Damaged as e:
            self._say(f"it is reported: {e}")

    async def _decay(self) -> None:
        """The old primary rots while it is in use, and is scrubbed; nobody needs it any more."""
        random = Random(f"{self.seed}/decay")
        pool = self._a.pool
        await self._a.site.spawn(decay.prepare(pool, random))
        rotten = decay.rot(pool, self._a.site.platter, random)
        bad = decay.wrong(pool)
        work = self._a.site.spawn(decay.scrub_among_writers(pool, random))
        store_lost = False
        if random.random() < 0.4:
            await asyncio.sleep(random.choice((0.001, 0.02, 0.1)))
            if not work.done():
                store_lost = self._crash(self._a)
                await self._ended(work)
                await self._start(self._a)
                bad = decay.wrong(self._a.pool)
                if not store_lost:  # with it goes the note of what is durable
                    decay.no_worse(rotten, bad)
                work = self._a.site.spawn(decay.scrub_among_writers(self._a.pool, random))
        worker = await work
        progress = worker.progress
        self._say(f"scrub: {len(rotten)} rot, {progress.damaged} ranges found")
        decay.judge(self._a.pool, rotten, bad, worker, store_lost=store_lost)

    def _flip(self, name: str, end: int) -> bool:
        """Flip a bit before a place of a file, mostly one that says what follows it."""
        inode = self._b.site.platter.names.get(name)
        end = min(end, len(inode.data)) if inode is not None else 0
        if end <= BLOCK:
            return False
        offset = self._random.randrange(BLOCK, end)
        if self._random.random() < 0.7:
            offset -= offset % BLOCK
            offset += self._random.randrange(128)
        self._b.site.platter.flip(name, offset, self._random.randrange(8))
        self._say(f"rot: a bit flips in byte {offset} of {name}")
        return True

    async def _until(self, done: Callable[[], bool]) -> None:
        end = self._loop.time() + CONVERGE_SECONDS
        while not done():
            if self._loop.time() > end:
                raise Violation("the sites did not come to rest")
            await asyncio.sleep(0.5)

    def _fork(self, op: int) -> History:
        """The history as the new primary has it: the group's part of the old one up to its cut."""
        new = self._history
        fork = History()
        state = self._b.pool.state
        now = self._b.site.clock.wall_ns()
        for name in sorted(state.names, key=lambda n: state.volumes[state.names[n]].id):
            data = checkers.image(self._b.pool, name)
            fork.create(name, len(data) // BLOCK, now)
            for at in range(len(data) // BLOCK):
                content = checkers.block_of(data, at)
                if content != ZERO:
                    fork.write(name, at, content, now)
        assert new.op >= op
        for copy in state.copies.values():
            names = [state.volumes[member].name for _, member in copy.members]
            fork.adopt_copy(copy.name, [name.rpartition("@")[0] for name in names])
        fork.flushed = fork.op
        adopt(self._b.pool, fork, self._history, op)
        return fork


def run_seed(seed: int, log: Callable[[str], None]) -> Scenario:
    """Run one seed; raises what it finds."""
    return tell(Scenario(seed, log), LIFE_SECONDS_MAX)
