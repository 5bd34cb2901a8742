"""What differs between two copies, or a copy and a volume as it is now.

Volumes are compared that both have. Two images of different size are compared as if the smaller one
went on with zeros. Tables are compared as `extents` does it: in time that follows the difference,
block by block; a block that was written again with the same bytes is named as well.

Answers come in pages, so that neither side ever holds all ranges, and the loop is free between two
of them. A copy does not change, so its pages fit; a volume that is written meanwhile is compared,
page by page, as it is at that moment. Clones are volumes in this sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.store import extents
from isochrone.store.catalogue import Volume
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, TRACK

RANGES_MAX: Final = 4096  # of one page
LOOKS_MAX: Final = 256  # of `extents` for one page: 1 TiB without a change


@dataclass(frozen=True, slots=True)
class Pair:
    """A volume as two sides have it, by the ids of their tables."""

    name: str  # of the volume; of its export in the first side, if it is deleted
    before: Volume
    after: Volume

    @property
    def size(self) -> int:
        """Bytes to compare."""
        return max(self.before.size, self.after.size)


@dataclass(frozen=True, slots=True)
class Page:
    """Ranges that differ, from an offset on. `end` is where the next page begins.

    The first range of the next page may touch the last one of this.
    """

    ranges: list[tuple[int, int]]  # (offset, bytes), ascending, with a gap between any two
    end: int

    @property
    def changed(self) -> int:
        return sum(length for _, length in self.ranges)


def pairs(pool: Pool, before: str, after: str, volume: str = "") -> list[Pair]:
    """The volumes that two copies have in common, by name. Raises `NotFound` or `Conflict`."""
    one, other = _side(pool, before), _side(pool, after)
    common = [
        Pair(_name(pool, source, one[source]), one[source], other[source])
        for source in one
        if source in other
    ]
    if not common:
        raise Conflict(
            f"{before!r} and {after!r} have no volume in common",
            hint=f"see: isochrone copy show {before}",
        )
    if volume:
        common = [pair for pair in common if pair.name == volume]
        if not common:
            raise NotFound(f"{before!r} and {after!r} do not both have the volume {volume!r}")
    return sorted(common, key=lambda pair: pair.name)


def _side(pool: Pool, name: str) -> dict[int, Volume]:
    """Volume -> what a side has of it. A side is a copy, one member of it, or a volume."""
    state = pool.state
    if name in state.copies:
        return {source: state.volumes[member] for source, member in state.copies[name].members}
    if name not in state.names:
        raise NotFound(
            f"there is no copy {name!r}, and no volume of that name",
            hint="see: isochrone copy list",
        )
    volume = state.volumes[state.names[name]]
    return {volume.source if volume.copy else volume.id: volume}


def _name(pool: Pool, source: int, member: Volume) -> str:
    found = pool.state.volumes.get(source)
    return found.name if found is not None else member.name.rpartition("@")[0] or member.name


def check_unit(unit: int) -> int:
    if unit not in (BLOCK, TRACK):
        raise InvalidInput(f"differences are told in units of {BLOCK} or {TRACK} bytes")
    return unit


async def page(
    pool: Pool, pair: Pair, offset: int = 0, *, limit: int = RANGES_MAX, unit: int = BLOCK
) -> Page:
    """Up to `limit` ranges that differ, in whole blocks or tracks, from an offset on.

    The last range of a volume ends with it. Raises `NotFound` when a side was deleted meanwhile.
    """
    check_unit(unit)
    state, size = pool.state, pair.size
    if offset % unit or not 0 <= offset <= size:
        raise InvalidInput(f"no page begins at {offset}; go on from where the last one ended")
    end = -(-size // BLOCK)
    block = offset // BLOCK
    found: list[tuple[int, int]] = []
    for look in range(LOOKS_MAX):
        if block >= end:
            break
        if look:
            await pool.world.clock.sleep(0)
        tables = [state.tables.get(volume.id) for volume in (pair.after, pair.before)]
        if tables[0] is None or tables[1] is None:
            raise NotFound(f"one side of {pair.name!r} was deleted meanwhile")
        room = limit - len(found) + 1
        runs = extents.changed(state.forest, tables[0], tables[1], block, end - block, 2 * room)
        block, full = _collect(runs, block, unit, limit, found)
        if full:
            break
    stop = size
    if block < end:  # a whole number of units; nothing in it is told twice
        stop = max(block * BLOCK // unit * unit, sum(found[-1]) if found else 0)
    return Page([(at, min(at + length, size) - at) for at, length in found], stop)


def _collect(
    runs: Sequence[extents.Run], block: int, unit: int, limit: int, found: list[tuple[int, int]]
) -> tuple[int, bool]:
    """Add changed runs as ranges of units, joined; (block to go on from, whether it is full)."""
    for count, changed in runs:
        low, high = block * BLOCK, (block + count) * BLOCK
        if changed:
            low, high = low - low % unit, high + -high % unit
            if found and low <= found[-1][0] + found[-1][1]:
                found[-1] = (found[-1][0], high - found[-1][0])
            elif len(found) == limit:
                return low // BLOCK, True
            else:
                found.append((low, high - low))
        block += count
    return block, False
