"""A pool's capacity in figures: counted when somebody asks, once for all who ask.

The cost follows the tables, not the data: every node that a checkpoint reaches is read once, in a
thread. The figures are those of the checkpoint that is made for them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from isochrone.store.capacity import (
    Counter,
    Holder,
    Pin,
    Root,
    Segment,
    Usage,
    holders,
    live_blocks,
    pins,
)
from isochrone.store.catalogue import Volume
from isochrone.store.checkpoint import Frozen
from isochrone.store.format import segment_name
from isochrone.store.pool import Pool
from isochrone.types import BLOCK


@dataclass(slots=True)
class Share:
    """What a holder uses, in bytes."""

    holder: Holder
    provisioned: int
    mapped: int  # shared blocks count in each holder, and in each member of a copy
    own: int  # what deleting it alone would free


@dataclass(slots=True)
class Capacity:
    """All figures of one instant, in bytes."""

    stamp: int  # when, ns since 1970
    shares: list[Share]
    living: int  # each block once
    log: int  # segment files
    spares: int
    spare_segments: int
    metadata: int
    garbage: int  # in the segment files: dead blocks, and what describes the living ones
    reclaimable: int  # the part of it that nothing holds
    pins: list[Pin]
    free: int  # of the file system
    reserve: int
    written: int  # payload of clients and mirrors, since the start
    moved: int  # by the cleaner, since the start
    appended: int  # to the log, all of it, since the start
    saved: int  # by checkpoints, since the start

    @property
    def own(self) -> int:
        return sum(share.own for share in self.shares)

    @property
    def shared(self) -> int:
        """Living blocks that several holders reach, each once."""
        return self.living - self.own

    @property
    def used(self) -> int:
        """What the pool takes on the disk."""
        return self.log + self.spares + self.metadata


class Gauge:
    """Counts when asked, one count for all who ask at a time; nothing changed, nothing counted."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sizes: dict[int, int] = {}  # of segment files that grow no more
        self._known: tuple[object, Capacity] | None = None
        self._counting: asyncio.Task[Capacity] | None = None

    async def read(self) -> Capacity:
        """Figures of now, or of the count that is going on. Makes a checkpoint.

        A task of its own: nobody who stops waiting may tear the checkpoint.
        """
        if self._counting is None:
            if self._known is not None and self._known[0] == self._state():
                known = self._known[1]
                known.free = self._pool.log.free_bytes  # others write to the file system too
                return known
            self._counting = asyncio.get_running_loop().create_task(self._count())
            self._counting.add_done_callback(self._counted)
        return await asyncio.shield(self._counting)

    async def close(self) -> None:
        """Wait for a count that is going on."""
        if self._counting is not None:
            await asyncio.wait({self._counting})

    def _counted(self, task: asyncio.Task[Capacity]) -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()  # who asked has heard of it

    def _state(self) -> object:
        """What changes whenever the figures may."""
        log = self._pool.log
        return log.lsn, len(log.spares), tuple(log.first_lsns), len(self._pool.state.pins)

    async def _count(self) -> Capacity:
        pool = self._pool
        born = {*pool.log.first_lsns, *pool.log.forwarding.segments()}
        frozen, (shares, usage) = await pool.checkpoint_then(lambda f: self._look(f, born))
        live = live_blocks(usage, pool.log.forwarding, pool.log.segment_slots)
        segments = self._segments(live)
        held, reclaimable = pins(segments, frozen.position.segment, pool.state)
        on_disk, saved = pool.metadata_bytes
        capacity = Capacity(
            stamp=pool.world.clock.wall_ns(),
            shares=shares,
            living=usage.living * BLOCK,
            log=sum(self._sizes.values()),
            spares=pool.log.spares.bytes_on_disk,
            spare_segments=len(pool.log.spares),
            metadata=on_disk,
            garbage=sum(segment.garbage for segment in segments),
            reclaimable=reclaimable,
            pins=held,
            free=pool.log.free_bytes,
            reserve=pool.limits.reserve_bytes,
            written=pool.bytes_written,
            moved=pool.bytes_moved,
            appended=pool.log.bytes_appended,
            saved=saved,
        )
        self._known = self._state(), capacity
        return capacity

    def _look(self, frozen: Frozen, born: set[int]) -> tuple[list[Share], Usage]:
        items = frozen.catalogue()
        images = len(frozen.roots) - len(frozen.volumes)
        whose = holders(items, frozen.volumes, images)
        numbers = {holder: n for n, holder in enumerate(dict.fromkeys(whose))}
        roots = [Root(numbers[h], r) for h, r in zip(whose, frozen.roots, strict=True)]
        # Segments that have begun since `born` was noted follow each other.
        born |= set(range(max(born, default=0) + 1, frozen.position.segment + 1))
        counter = Counter(self._pool.marked_nodes, born, self._pool.log.segment_slots)
        usage = counter.count(roots, len(numbers))
        sizes = {item.id: item.size for item in items if isinstance(item, Volume)}
        shares = [Share(holder, 0, 0, usage.own[n] * BLOCK) for holder, n in numbers.items()]
        for n, root in enumerate(roots):
            share = shares[root.holder]
            if share.holder.kind == "point":  # thousands of tables that nobody can name
                share.mapped = share.own
                continue
            share.mapped += usage.mapped[n] * BLOCK
            share.provisioned += sizes[frozen.volumes[n]] if n < len(frozen.volumes) else 0
        return shares, usage

    def _segments(self, live: dict[int, int]) -> list[Segment]:
        log = self._pool.log
        numbers = sorted(log.first_lsns)
        tail, slot = log.position
        self._sizes = {
            # An earlier process may have left one short; the newest may be a used file.
            number: (number != tail and self._sizes.get(number)) or self._file_size(number)
            for number in numbers
        }
        found = []
        for number, following in zip(numbers, [*numbers[1:], None], strict=False):
            ended = log.lsn if following is None else log.first_lsns[following] - 1
            size = min(self._sizes[number], slot * BLOCK) if number == tail else self._sizes[number]
            found.append(Segment(number, ended, size, live.get(number, 0)))
        return found

    def _file_size(self, number: int) -> int:
        file = self._pool.disk.open(segment_name(number))
        try:
            return file.size()
        finally:
            file.close()
