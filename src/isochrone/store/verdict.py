"""From suspects to findings: what is wrong, looked at once more, and whose it is.

A suspect was met in a file that may have been emptied or used again meanwhile. It is damage only if
a table leads to its place now, and the block that lies there now is not what the table says. A
table that leads into a segment which was gone before the table was looked at is damage, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from isochrone.store.check import Finding
from isochrone.store.checkpoint import Frozen
from isochrone.store.format import SLOT_BITS, SLOT_MASK, checksum, pointer, segment_name
from isochrone.store.forward import Forwarding
from isochrone.store.owners import Nodes, Reference, find
from isochrone.store.pool import Pool
from isochrone.store.walk import Suspect
from isochrone.types import BLOCK
from isochrone.world.disk import Disk


class Wrong(NamedTuple):
    """A block, or a part of a segment, that is not what was written."""

    exports: list[str]  # who reads it; nobody, if no block of a volume is concerned
    block: int  # in each of them
    place: int
    kind: str  # neighbours of one kind are one finding
    cause: str


async def confirm(
    pool: Pool, suspects: Mapping[int, Suspect], stopped: Callable[[], bool]
) -> list[Wrong]:
    """Those of the suspects, by place, that are wrong now. As dear as a mark."""
    forwarding, here = pool.log.forwarding, pool.log.first_lsns
    births = births_of(forwarding, suspects)
    # What these had was moved or dead before the checkpoint that follows: none of it is reached.
    gone = {suspect.segment for suspect in suspects.values()} - here.keys()
    frozen, references = await pool.checkpoint_then(
        lambda frozen: find(frozen.roots, Nodes(pool.marked_nodes, stopped), births, ())
    )
    causes = await pool.world.work.run(
        lambda: [_cause(pool.disk, r, births[r.pointer], suspects) for r in references]
    )
    wrong, met = [], set()
    for reference, cause in zip(references, causes, strict=True):
        place = births[reference.pointer]
        exports = names(pool, frozen, reference)
        # Looked at last: while the block was read, it may have been moved.
        segment = place >> SLOT_BITS
        at_home = forwarding.place(reference.pointer) == place
        if cause and exports and at_home and (segment in here or segment in gone):
            met.add(place)
            kind = suspects[place].cause
            wrong.append(Wrong(exports, reference.block, place, kind, cause))
    left = await pool.world.work.run(lambda: _left(pool.disk, gone))
    for place, suspect in suspects.items():
        there = suspect.segment in here or suspect.segment in left
        if suspect.cause in ("header", "gap") and there:
            wrong.append(Wrong([], 0, place, suspect.cause, _structure(suspect)))
    return wrong


def births_of(forwarding: Forwarding, places: Iterable[int]) -> dict[int, int]:
    """Birth place -> place, for the blocks that lie at these places now."""
    wanted = np.fromiter(places, np.uint64)
    births = {place: place for place in wanted.tolist() if forwarding.place(place) == place}
    for segment in forwarding.segments():
        slots, now = forwarding.rows(segment)
        for at in np.flatnonzero(np.isin(now, wanted)).tolist():
            births[pointer(segment, int(slots[at]))] = int(now[at])
    return births


def _cause(disk: Disk, reference: Reference, place: int, suspects: Mapping[int, Suspect]) -> str:
    """What is wrong with a block, read once more; empty if nothing is. In a thread."""
    segment, slot = place >> SLOT_BITS, place & SLOT_MASK
    try:
        file = disk.open_uncached(segment_name(segment))
        try:
            data = file.read_at(BLOCK, slot * BLOCK)
        finally:
            file.close()
    except FileNotFoundError:
        return f"segment {segment} of the log is missing"
    except OSError as e:
        return f"the disk cannot read a block: {e.strerror or e}"
    if checksum(data) != reference.sum:
        return f"block at slot {slot} of segment {segment} is not what was written"
    if suspects[place].cause == "batch":
        return (
            f"the batch of slot {slot} of segment {segment} is damaged; its blocks can be read,"
            " but not be moved or mirrored"
        )
    return ""


def _left(disk: Disk, segments: set[int]) -> set[int]:
    """Which have files, though the log has them not: their headers are damaged. In a thread."""
    names = set(disk.names()) if segments else set()
    return {segment for segment in segments if segment_name(segment) in names}


def _structure(suspect: Suspect) -> str:
    """Damage that no client meets, but the cleaner, a mirror, or the next start."""
    if suspect.cause == "header":
        return f"the header of segment {suspect.segment} is damaged"
    return f"the batch at slot {suspect.slot} of segment {suspect.segment} is damaged"


def names(pool: Pool, frozen: Frozen, reference: Reference) -> list[str]:
    """Who reads the blocks, of those that are still there."""
    found = set()
    for table in reference.tables:
        if table >= len(frozen.volumes):
            found.add("(a first copy that is being sent)")
        elif (volume := pool.state.volumes.get(frozen.volumes[table])) is not None:
            found.add(f"{volume.name} (arriving)" if volume.kind == "shadow" else volume.name)
    return sorted(found)


def ranges(wrong: Sequence[Wrong]) -> Iterator[Finding]:
    """Findings: blocks that follow each other in the same volumes are one."""
    whole: Finding | None = None
    before: Wrong | None = None
    for each in sorted(wrong):
        segment, offset = each.place >> SLOT_BITS, each.block * BLOCK
        if whole is not None and before is not None and _follows(before, each):
            whole = Finding(whole.cause, whole.exports, whole.offset, whole.bytes + BLOCK, segment)
        else:
            if whole is not None:
                yield whole
            length = BLOCK if each.exports else 0
            whole = Finding(each.cause, each.exports, offset, length, segment)
        before = each
    if whole is not None:
        yield whole


def _follows(one: Wrong, other: Wrong) -> bool:
    return (
        bool(other.exports)
        and (one.exports, one.kind, one.block + 1) == (other.exports, other.kind, other.block)
        and one.place >> SLOT_BITS == other.place >> SLOT_BITS
    )
