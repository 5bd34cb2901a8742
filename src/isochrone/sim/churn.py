"""What goes on at sites whose roles change: writers and operators, at the primary and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from isochrone.errors import IsochroneError
from isochrone.mirror.matched import At
from isochrone.mirror.probing import newest_point
from isochrone.sim.checkers import Violation
from isochrone.sim.member import GROUP, Member, Options
from isochrone.sim.witness import Witness, branch, content
from isochrone.store import copies, holds, relations, volumes, windows
from isochrone.store.catalogue import Copy, Group
from isochrone.store.cleaner import Cleaner
from isochrone.store.points import Point
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

COPIES_MAX: Final = 6
OPENED_MAX: Final = 2  # points that are open at once
RUN_BLOCKS: Final = (1, 1, 3, 20)
RUN_BLOCKS_LARGE: Final = (1, 20, 300, 1500)
DEADLINES_S: Final = (1.0, 10.0, 60.0)
PROBE_S_MAX: Final = 60.0


class Churn:
    """Works at any site. All that it writes is new: no block ever has the same content again."""

    def __init__(self, options: Options, witness: Witness, log: Callable[[str], None]) -> None:
        self._options = options
        self._witness = witness
        self._log = log
        self._number = 0  # of the next content, or copy
        large = max(options.sizes) > 1000
        self._runs = RUN_BLOCKS_LARGE if large else RUN_BLOCKS
        self.ops = 0
        self.opened = 0
        self.probed = 0
        self.requested = 0

    def next(self) -> int:
        self._number += 1
        return self._number

    async def work(self, member: Member, random: Random) -> None:
        """Some steps, by whatever role the site has at each; what is refused is no fault."""
        clock = member.site.clock
        for _ in range(random.randint(1, self._options.changes)):
            group = member.group
            if group is None or not group.volumes:
                return
            try:
                await self._step(member, group, random)
            except IsochroneError as e:
                self._log(f"            {member.name}: {e.message}")
            await clock.sleep(random.uniform(0, random.choice((0.002, 0.05))))

    async def _step(self, member: Member, group: Group, random: Random) -> None:
        pool = member.pool
        self.ops += 1
        kind = random.random()
        if kind < 0.05:
            await pool.checkpoint()
        elif kind < 0.1:
            await Cleaner(pool).round()
        elif kind < 0.2:
            await pool.flush()
        elif group.role == "primary":
            name = pool.state.volumes[random.choice(group.volumes)].name
            await member.site.clock.sleep(member.mirrors.pace(name))
            if member.group is group and name in pool.state.names:
                self._change(member, group, name, random)
        elif kind < 0.5:
            await self._look_back(member, group, random)

    # -- at a primary

    def _change(self, member: Member, group: Group, name: str, random: Random) -> None:
        pool, state = member.pool, member.pool.state
        device = VolumeDevice(pool, state.names[name])
        blocks = device.size // BLOCK
        match random.choice("wwwwwwwwddzccxrstq"):
            case "d":
                at = random.randrange(blocks)
                device.discard(at * BLOCK, random.randint(1, blocks - at) * BLOCK)
            case "z":
                size = random.choice(self._options.sizes) * BLOCK
                if size != device.size:
                    volumes.resize(pool, name, size, shrink=True)
            case "c" | "x":
                self._copy(member, group, random)
            case "r" | "s" | "t":
                self._relate(pool, group, random)
            case "q":
                self._request(member, group, random)
            case _:
                self.write(pool, name, random)
        pool.commit()

    def write(self, pool: Pool, name: str, random: Random) -> None:
        """Some blocks in a row, all of the same new content."""
        device = VolumeDevice(pool, pool.state.names[name])
        blocks = device.size // BLOCK
        at = random.randrange(blocks)
        count = min(random.choice(self._runs), blocks - at)
        data = self.next().to_bytes(8, "little") * (BLOCK // 8) * count
        device.write(at * BLOCK, memoryview(data))

    def _copy(self, member: Member, group: Group, random: Random) -> None:
        pool = member.pool
        mine = [c for c in pool.state.copies.values() if self._ours(c)]
        if mine and random.random() < 0.4:
            gone = random.choice(mine)
            copies.delete(pool, gone.name)
            self._witness.excuse(member.name, {gone.origin or gone.name})
        elif len(mine) < COPIES_MAX:
            names = [pool.state.volumes[id].name for id in group.volumes]
            some = random.sample(names, random.randint(1, len(names)))
            copies.take(pool, some, name=f"c{self.next()}")

    @staticmethod
    def _ours(copy: Copy) -> bool:
        return copy.name.startswith("c")

    def _relate(self, pool: Pool, group: Group, random: Random) -> None:
        names = [pool.state.volumes[id].name for id in group.volumes]
        found = list(pool.state.relations.values())
        act = random.random()
        if act < 0.4 or not found:
            source, target = random.choice(names), random.choice(names)
            if source != target:
                relations.establish(pool, [relations.Wish(source, target)])
        elif act < 0.7:
            relations.refresh(pool, [random.choice(found)])
        else:
            relations.withdraw(pool, [random.choice(found)], discard=random.random() < 0.5)

    def _request(self, member: Member, group: Group, random: Random) -> None:
        """A copy that is to be at all sites."""
        mine = [c for c in member.pool.state.copies.values() if self._ours(c)]
        if not group.sessions or len(mine) >= 2 * COPIES_MAX:
            return
        member.mirrors.asking.requests.request(
            GROUP,
            name=f"c{self.next()}",
            seconds=random.choice(DEADLINES_S),
            wait_duplex=random.random() < 0.7,
            keep_late=random.random() < 0.3,
        )
        self.requested += 1

    # -- at a secondary

    async def _look_back(self, member: Member, group: Group, random: Random) -> None:
        """Points, probes, and copies that are held here whatever the primary does to them."""
        pool = member.pool
        window = pool.state.windows.get(GROUP)
        opened = [c for c in pool.state.copies.values() if c.as_of_cut]
        come = [c for c in pool.state.copies.values() if c.group == GROUP]
        act = random.random()
        if act < 0.2 and come:
            copy = random.choice(come)
            holds.unpin(pool, copy) if copy.pinned else holds.pin(pool, copy, "an exercise")
        elif act > 0.9:
            await self._probe(member, random)
        elif opened and (len(opened) > OPENED_MAX or act < 0.4):
            copies.delete(pool, random.choice(opened).name)
        elif window is not None and window.points:
            point = random.choice(window.points)
            copy = windows.open_point(pool, group, point, writable=act > 0.8)
            self.opened += 1
            self._is_what_was(member, copy, point)

    async def _probe(self, member: Member, random: Random) -> None:
        """Begin a restore probe, or end one; some nobody ends."""
        pool, prober = member.pool, member.mirrors.prober
        running = prober.probes(GROUP).running
        if running is None:
            point = newest_point(pool, GROUP)
            begun = await prober.begin(GROUP, point, "look", random.choice((0.5, PROBE_S_MAX)))
            self.probed += 1
            copy = pool.state.copies.get(begun.copy)
            if copy is not None:  # somebody may have deleted it meanwhile
                self._is_what_was(member, copy, point)
        elif random.random() < 0.7:
            await prober.end(GROUP, running.copy, good=True, said="as it was")

    def _is_what_was(self, member: Member, copy: Copy, point: Point) -> None:
        pool = member.pool
        expected = self._witness.applied(member.name, point.lsn)
        if expected is None:
            raise Violation(f"(p) {member.name} has a point of a cut that it never committed")
        for source, opened_as in copy.members:
            name = pool.state.volumes[source].name
            if content(pool, pool.state.volumes[opened_as].name) != expected.get(name):
                raise Violation(f"(p) {name} at {member.name} was not so at cut {point.cut}")
        if len(copy.members) != len(expected):
            raise Violation(f"(p) {member.name} does not open all volumes of cut {point.cut}")


def probes_over(members: Iterable[Member]) -> None:
    """Whether every restore probe has ended and left nothing. Call it after their deadline.

    Raises `Violation`.
    """
    for member in members:
        state = member.pool.state
        running = [name for name, probes in state.probes.items() if probes.running is not None]
        left = [name for name in state.copies if name.startswith("probe-")]
        if running or left:
            raise Violation(f"(q) {member.name} has a probe that does not end: {running} {left}")


def requests_kept(primary: Member, members: dict[str, Member], witness: Witness) -> None:
    """Whether copies that were asked for at several sites are where their requests say.

    `members` are the secondaries by pool identity. Call it when all have caught up, and nothing
    is open any more. Raises `Violation`.
    """
    here = primary.pool.state
    for request in here.groups[GROUP].requests:
        if request.name not in here.copies:
            continue  # deleted since, or never taken
        for site in request.sites:
            member = members.get(site.peer)
            if member is None:
                continue
            come = _come(member.pool, request.name)
            excused = witness.excused.get(member.name, ())
            there = come is not None or _kept(member.pool, request.name)
            if At(site.state) is At.DONE and not there and request.name not in excused:
                raise Violation(f"(n) {request.name} is DONE at {member.name}, and not there")
            gone = At(site.state) is At.EXPIRED and not request.keep_late and request.lsn
            # A site that left, or follows another primary since, could not be told.
            told = "does not follow" not in site.detail and "stays there" not in site.detail
            told = told and witness.born.get(request.name) == branch(here.groups[GROUP])
            if gone and told and come is not None:
                raise Violation(
                    f"(n) {request.name} is EXPIRED at {member.name}, and there: {site.detail}"
                )


def _kept(pool: Pool, name: str) -> bool:
    """Whether a copy is there because it was held when a primary of another branch had it not."""
    found = (c for c in pool.state.copies.values() if name in (c.name, c.origin))
    return any(c.kept_from == GROUP for c in found)


def _come(pool: Pool, name: str) -> Copy | None:
    found = (c for c in pool.state.copies.values() if name in (c.name, c.origin))
    return next((c for c in found if c.group == GROUP), None)
