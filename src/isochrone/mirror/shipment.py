"""A group that is sent from images: what is frozen for it, and how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from pyroaring import BitMap

from isochrone.errors import PeerFault
from isochrone.mirror import digests, images
from isochrone.mirror.conversation import HEARTBEAT_SECONDS
from isochrone.mirror.images import TRACK_BLOCKS
from isochrone.mirror.messages import (
    DIGESTS_MAX,
    Command,
    Compare,
    Digests,
    Partial,
    Reached,
)
from isochrone.mirror.resend import Changed, Pass, Step, Way, Work
from isochrone.mirror.sending import Sender
from isochrone.mirror.sidefile import Blocks
from isochrone.store import changes
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Group, Mark
from isochrone.store.pool import Pool
from isochrone.store.records import Position
from isochrone.store.tracks import LEAF_BLOCKS, Table, blocks_of
from isochrone.types import BLOCK, MIB

CAPABILITY: Final = "images"  # understands REACHED and answers COMPARE
PROGRESS_BYTES: Final = 64 * MIB  # sent again at most after a broken connection: seconds
PROGRESS_BYTES_MIN: Final = MIB  # each step is a record at the other side
PROGRESS_BYTES_MAX: Final = 1024 * MIB  # minutes again, on the slowest link that can be used
COPIES_MAX: Final = 1024  # in one resend: each pins a table of every volume, and is a walk of it


def starting_at(pool: Pool, group: Group, base: int, offered: Partial | None) -> Position | None:
    """Where images begin that lead a secondary on from a cut it has; 0: it has none.

    It goes on with the part that the secondary offers, if what changed since is known. A cut that
    is not remembered here is led on from by an older one of the same history: whatever differs
    changed since that one, too. None if nothing leads on from the base.
    """
    if offered is not None and _can_go_on(pool, group, base, offered):
        return Position(offered.floor, offered.begun, offered.step, offered.volume, offered.block)
    if base > group.cut:
        return None  # no cut of this history yet
    known = (mark.cut for mark in group.marks if mark.recorded and mark.cut <= base)
    floor = max(known, default=0)
    return Position(floor=floor) if floor or not base else None


def _can_go_on(pool: Pool, group: Group, base: int, offered: Partial) -> bool:
    theirs = (offered.pool, offered.lineage, offered.epoch, offered.base)
    if theirs != (pool.identity, group.lineage, group.epoch, base):
        return False
    # Of other volumes, or in another order: then a position means something else.
    known = list(offered.volumes) if offered.volumes or group.members_lsn else group.volumes
    if known != group.volumes:
        return False
    cuts = {offered.floor, offered.begun} - {0}
    return bool(cuts) and all(changes.since(pool.state, group, cut) is not None for cut in cuts)


class Shipment:
    """Made in the same step as the cut that it leads to; `close` lets go of what it froze."""

    def __init__(
        self,
        pool: Pool,
        group: Group,
        mark: Mark,
        start: Position,
        *,
        base: int = 0,
        seeded: bool = False,
        told: bool = False,
        diverged: Changed | None = None,
        progress_bytes: int = 0,
    ) -> None:
        self._pool = pool
        self._progress_bytes = progress_bytes or PROGRESS_BYTES
        self._seeded = seeded  # a first copy does not start from nothing
        self._told = told  # the other side understands how far it has come
        self._pins: list[Table] = []
        self._resumed = start.step > 0
        self.copies_left_out = 0  # older ones that the secondary will not get
        # Of a cut that is not remembered here copies are sent since an older one: once too often.
        older = [mark for mark in group.marks if mark.cut <= base]
        self._base = older[-1] if older and base else None
        steps = [*self._copies(group, mark, start), self._live(group, mark)]
        cuts = {start.floor, start.begun} - {0}
        known = {cut: _known(pool, group, cut) for cut in cuts}
        for id, tracks in (diverged or {}).items():  # changed there, and not by us
            for changed in known.values():
                changed[id] = changed.get(id, BitMap()) | tracks
        self._way = Way(steps, mark.cut, known, start)
        pool.state.pins.extend(self._pins)
        self.sent = 0  # blocks so far
        self._bounds = [[self._bound(work) for work in part.work] for part in self._way.passes]
        self._left = sum(map(sum, self._bounds))
        self._told_at = 0
        self._asked: Compare | None = None
        self._answer: asyncio.Future[bytes] | None = None

    def close(self) -> None:
        mine = set(map(id, self._pins))
        pins = self._pool.state.pins
        pins[:] = [pin for pin in pins if id(pin) not in mine]

    @property
    def phase(self) -> str:
        return "resend" if self._base is not None else "first copy"

    @property
    def resumed(self) -> bool:
        return self._resumed

    @property
    def todo(self) -> int:
        """Blocks that are still to come, at most."""
        return self._left

    # -- what is frozen

    def _freeze(self, id: int) -> Table:
        state = self._pool.state
        table = state.forest.clone(state.tables[id], passing=True)
        self._pins.append(table)
        return table

    def _live(self, group: Group, mark: Mark) -> Step:
        volumes = self._pool.state.volumes
        return Step(
            mark.lsn,
            {id: self._freeze(id) for id in group.volumes},
            {id: volumes[id].size for id in group.volumes},
            tuple(self._classified(group)),
        )

    def _classified(self, group: Group) -> Iterator[r.AnyRecord]:
        """What was said of copies, of those that are sent as of earlier ones."""
        if self._base is None and not self._resumed:
            return
        after = self._base.lsn if self._base is not None else 0
        for copy in _copies_of(self._pool, group):
            if copy.changed_lsn > after:
                name = copy.origin or copy.name
                yield r.CopyClassified(name=name, consistency=copy.consistency)

    def _copies(self, group: Group, mark: Mark, start: Position) -> Iterator[Step]:
        """Copies that the secondary has not got, the newest so many, in the order of the log."""
        after = start.step
        if not start.step and self._base is not None:
            after = self._base.lsn + 1
        if not after:
            return  # a first copy: what was copied before it stays here
        state = self._pool.state
        found = [copy for copy in _copies_of(self._pool, group) if after <= copy.lsn < mark.lsn]
        self.copies_left_out, mine = max(0, len(found) - COPIES_MAX), set(group.volumes)
        for copy in sorted(found, key=lambda copy: copy.lsn)[-COPIES_MAX:]:
            inside = [(source, m) for source, m in copy.members if source in mine]
            if any(state.volumes[m].changed_lsn != copy.lsn for _, m in inside):
                continue  # a clone that was written to: what it was at first nobody knows
            name = copy.origin or copy.name
            taken = r.CopyTaken(
                name=name, writable=copy.writable, stamp=copy.stamp, members=tuple(inside)
            )
            yield Step(
                copy.lsn,
                {source: self._freeze(m) for source, m in inside},
                {source: state.volumes[m].size for source, m in inside},
                (r.CopyDeleted(name=name), taken),  # an older one of this name is gone here
            )

    # -- sending

    async def send(self, out: Sender) -> None:
        for number, part in enumerate(self._way.passes):
            await self._tell(out, part.at(*part.start))
            for work in part.work:
                resized = r.VolumeResized(id=work.volume, size=work.size)
                if self._resumed or part.floor:  # BEGIN has the sizes of a first copy
                    await out.send(Command(body=r.encode(resized)))
            for work, bound in zip(part.work, self._bounds[number], strict=True):
                await self._send_volume(out, part, work, bound)
            for record in part.ending:
                await out.send(Command(body=r.encode(record)))

    async def _tell(self, out: Sender, at: Position) -> None:
        self._told_at = self.sent
        if self._told:
            await out.send(
                Reached(
                    floor=at.floor, begun=at.begun, step=at.step, volume=at.volume,
                    block=at.block, left=max(0, self._left),
                )
            )  # fmt: skip

    async def _send_volume(self, out: Sender, part: Pass, work: Work, bound: int) -> None:
        before, left = self.sent, self._left
        if self._seeded and work.marked is None and work.before is None:
            await self._send_compared(out, part, work)
        else:
            marked, holes = work.marked, work.holes
            if work.before is not None:
                marked = await self._difference(out, work)
                left += len(marked) * TRACK_BLOCKS
                bound = len(marked) * TRACK_BLOCKS
                self._left = left
            if holes is not None:
                await self._send_items(out, part, work, self._of(work, holes, data=False))
            items = self._everything(work) if marked is None else self._of(work, marked)
            await self._send_items(out, part, work, items)
        self._left = left - bound
        assert self.sent >= before

    async def _difference(self, out: Sender, work: Work) -> BitMap:
        assert work.before is not None
        forest = self._pool.state.forest
        looking = images.difference(forest, work.table, work.before, blocks_of(work.size))
        while True:
            try:
                next(looking)
            except StopIteration as end:
                found: BitMap = end.value
                return found
            await out.breathe()

    def _everything(self, work: Work) -> Iterator[images.Item | None]:
        forest = self._pool.state.forest
        stop = min(work.stop, blocks_of(work.size))
        return images.everything(forest, work.volume, work.table, work.start, stop)

    def _of(self, work: Work, marked: BitMap, *, data: bool = True) -> Iterator[images.Item | None]:
        forest, blocks = self._pool.state.forest, blocks_of(work.size)
        part = _between(marked, work.start, min(work.stop, blocks))
        return images.of_tracks(forest, work.volume, work.table, part, blocks, data=data)

    async def _send_items(
        self, out: Sender, part: Pass, work: Work, items: Iterator[images.Item | None]
    ) -> None:
        breathed = False  # whoever sends blocks lets others run by itself
        for item in items:
            if item is None:
                if not breathed:
                    await out.breathe()
                breathed = False
                continue
            breathed = isinstance(item, Blocks)
            count = await out.item(item)
            self.sent += count
            self._left -= count
            if count and (self.sent - self._told_at) * BLOCK >= self._progress_bytes:
                assert isinstance(item, Blocks)
                await self._tell(out, part.at(work.volume, item.blocks[-1] + 1))

    # -- seeds

    async def _send_compared(self, out: Sender, part: Pass, work: Work) -> None:
        """Tracks that are not what the secondary has in their place already."""
        forest = self._pool.state.forest
        blocks = min(work.stop, blocks_of(work.size))
        track, end = work.start // TRACK_BLOCKS, -(-blocks // TRACK_BLOCKS)
        while track < end:
            count = min(end - track, DIGESTS_MAX)
            theirs = await self._ask(out, Compare(volume=work.volume, track=track, count=count))
            mine = digests.of_range(forest, work.table, track, count)
            marked = digests.differing(mine, theirs, track, count)
            items = images.of_tracks(forest, work.volume, work.table, marked, blocks)
            await self._send_items(out, part, work, items)
            track += count

    async def _ask(self, out: Sender, question: Compare) -> bytes:
        self._asked = question
        self._answer = asyncio.get_running_loop().create_future()
        await out.send(question)
        while not self._answer.done():
            await out.wait(HEARTBEAT_SECONDS)
        return self._answer.result()

    def answered(self, answer: Digests) -> None:
        """Raises `PeerFault` for an answer that was not asked for."""
        asked, self._asked = self._asked, None
        if asked is None or self._answer is None:
            raise PeerFault("digests came that nobody asked for")
        if (answer.volume, answer.track) != (asked.volume, asked.track):
            raise PeerFault("digests came for other tracks than asked for")
        if len(answer.digests) not in (0, 8 * asked.count):
            raise PeerFault(f"{len(answer.digests)} bytes of digests for {asked.count} tracks")
        self._answer.set_result(answer.digests)

    # -- how much

    def _bound(self, work: Work) -> int:
        """Blocks that one piece of work may send, as far as it is known without looking."""
        stop = min(work.stop, blocks_of(work.size))
        if work.start >= stop or work.before is not None:
            return 0
        if work.marked is not None:
            return len(_between(work.marked, work.start, stop)) * TRACK_BLOCKS
        leaves = images.leaves_mapped(self._pool.state.forest, work.table)
        return min(leaves * LEAF_BLOCKS, stop - work.start)


def _known(pool: Pool, group: Group, cut: int) -> dict[int, BitMap]:
    found = changes.since(pool.state, group, cut)
    assert found is not None, cut  # nothing would be sent, and taken for all there is
    return found


def _between(marked: BitMap, start: int, stop: int) -> BitMap:
    """Tracks that have a block of this range."""
    low, high = start // TRACK_BLOCKS, -(-stop // TRACK_BLOCKS)
    return marked.intersection(BitMap(range(low, high))) if low < high else BitMap()


def _copies_of(pool: Pool, group: Group) -> list[Copy]:
    """Copies of a group's volumes that belong to its history: not what a secondary took itself."""
    state = pool.state
    members = {m for id in group.volumes for m in state.copied.get(id, ())}
    names = {state.volumes[m].copy for m in members}
    return [
        copy
        for name in sorted(names)
        if (copy := state.copies.get(name)) is not None
        and (group.role == "primary" or copy.group == group.name)
        and not copy.as_of_cut
        and not members.isdisjoint(m for _, m in copy.members)
    ]
