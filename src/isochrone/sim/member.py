"""One of several sites whose roles change: its program, and what a seed decides for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from isochrone.mirror.rewind import Keeper
from isochrone.mirror.roles import Role, role_of
from isochrone.mirror.service import Mirrors
from isochrone.sim.loop import Crashed
from isochrone.sim.loss import lose_store
from isochrone.sim.site import Site
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Limits, Pool
from isochrone.types import KIB

GROUP: Final = "g"
STORE_LOST: Final = 0.05  # of all crashes
SIZES: Final = (256, 257, 300)  # blocks of a volume
LARGE: Final = (2048, 3000)  # several messages, and several leaves of its table
AMBUSHES: Final = (
    *(r.CutPlaced, r.IncomingBegun, r.IncomingProgress, r.IncomingCommitted, r.Promoted),
    *(r.Fenced, r.Rejoined, r.HandoverBegun, r.SessionSuspended, r.SessionFellBehind),
    *(r.SessionOpened, r.CopyTaken, r.RequestMoved, r.CopyRequested, r.PeerFenced, r.CutRelayed),
)

Seen = Callable[[int, r.AnyRecord], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed decides before anything runs."""

    volumes: int
    rounds: int
    changes: int  # steps of the workload between two events
    interval: float
    sites: int  # two, or three
    cascade: bool  # the third follows the second
    latency_max: float
    duplicate: float
    segment_bytes: int
    node_bytes: int
    sizes: tuple[int, ...]
    progress_bytes: int  # sent between two notes of how far a resend has come
    seeded: bool  # the first copy to b starts from volumes that are there
    early: bool  # faults begin while the first copies are still under way
    events_max: int  # at once

    @staticmethod
    def of(random: Random) -> Options:
        large = random.random() < 0.2
        return Options(
            volumes=random.randint(1, 2 if large else 3),
            rounds=random.randint(3, 8 if large else 12),
            changes=random.randint(3, 25),
            interval=random.choice((0.02, 0.2, 1.0)),
            sites=random.choice((2, 3, 3)),
            cascade=random.random() < 0.5,
            latency_max=random.choice((0.001, 0.02, 0.2)),
            duplicate=random.choice((0.0, 0.0, 0.05)),
            segment_bytes=random.choice((256 * KIB, 1024 * KIB)),
            node_bytes=random.choice((64 * KIB, 1024 * KIB)),
            sizes=LARGE if large else SIZES,
            progress_bytes=random.choice((64 * KIB, 256 * KIB, 64 << 20)),
            seeded=random.random() < 0.3,
            early=random.random() < 0.3,
            events_max=random.choice((1, 2, 3)),
        )


@dataclass(slots=True)
class Ambush:
    """The site is to crash right after the n-th record of a kind from now on."""

    kind: type[r.AnyRecord]
    left: int
    power: bool


class Member:
    """One site's program, as the daemon composes it."""

    def __init__(self, site: Site, options: Options, say: Callable[[str], None]) -> None:
        self.site = site
        self._options = options
        self._say = say
        self.pool: Pool
        self.mirrors: Mirrors
        self.up = False
        self.paused = False
        self.ambush: Ambush | None = None
        self.crashes = 0

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def address(self) -> str:
        return f"{self.site.name}:7001"

    @property
    def group(self) -> Group | None:
        """The group as this site knows it; None while nobody could ask it."""
        awake = self.up and not self.paused
        return self.pool.state.groups.get(GROUP) if awake else None

    @property
    def role(self) -> Role | None:
        group = self.group
        return None if group is None else role_of(group)

    async def start(self, seen: Seen) -> None:
        """Call it as the site's own."""
        limits = Limits(
            segment_bytes=self._options.segment_bytes,
            node_bytes=self._options.node_bytes,
            checkpoint_bytes=1 << 40,
            garbage_bytes=0,
            reserve_bytes=0,
        )
        self.pool = Pool.open(self.site.disk, self.site.world, limits)
        self.pool.on_change.append(seen)
        self.pool.on_change.append(self._spring)
        self.mirrors = Mirrors(self.pool, self.site.world, interval=self._options.interval)
        await self.mirrors.listen(self.address)
        await self.mirrors.start()
        asyncio.get_running_loop().create_task(Keeper(self.pool).run())
        self.up = True

    def _spring(self, lsn: int, record: r.AnyRecord) -> None:
        ambush = self.ambush
        if ambush is None or type(record) is not ambush.kind:
            return
        ambush.left -= 1
        if ambush.left <= 0:
            self.ambush = None
            self._say(f"{self.name} crashes right after {ambush.kind.__name__} {lsn}")
            self.crash(power=ambush.power)
            # Whoever appended the record from outside of the site must not go on either.
            raise Crashed(f"{self.name} has crashed")

    def crash(self, *, power: bool) -> None:
        """End the program; does not return if it is called from within."""
        self.up = self.paused = False
        self.crashes += 1
        self._say(f"{self.name} {'loses power' if power else 'is killed'}")
        self.site.crash(power=power)

    def lose_store(self) -> None:
        """The metadata store of a site that is down is gone."""
        source = lose_store(self.site.platter, self.site.disk)
        self._say(f"{self.name} loses its metadata store too; rebuilt: {source}")

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while, unless it crashes meanwhile."""
        life = self.site.life
        self._say(f"{self.name} stands still for {seconds:.1f} s")
        self.paused = True
        self.site.pause()
        await self.site.clock.sleep(seconds)
        if self.site.life is life:
            self.site.resume()
            self.paused = False
