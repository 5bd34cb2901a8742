"""Healing damaged blocks in place, with data that somebody else still has.

A good copy is appended to the log as a move of the damaged block: its birth place leads to the copy
from then on. So everything that shares the block heals at once, volumes and copies, and no table is
touched. Data with the checksum of the block is the block; nothing else is taken.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from isochrone.errors import Damaged, NoSpace
from isochrone.store.catalogue import Catalogue
from isochrone.store.format import checksum
from isochrone.store.owners import Nodes, find
from isochrone.store.pool import Pool
from isochrone.store.reread import readable
from isochrone.store.verdict import names
from isochrone.types import BLOCK

MOVED_AT_ONCE: Final = 128  # blocks: half a MiB, under a millisecond
VERSIONS_MAX: Final = 256  # tables of a volume that are searched for a block

Spot = tuple[int, int]  # volume, block


@dataclass(slots=True)
class Lost:
    """A block that cannot be read, and all that is known of it."""

    birth: int
    sum: int
    block: int  # in its owners, or in one of them
    owners: list[str]  # who reads it
    spots: list[Spot] = field(default_factory=list)  # where it was in volumes of groups


def home(state: Catalogue, id: int) -> int:
    """The volume of a mirrored group that another one is a copy or version of; 0: none."""
    volume = state.volumes.get(id)
    if volume is not None and not volume.group:
        volume = state.volumes.get(volume.source)
    if volume is None or not volume.group or volume.id not in state.groups[volume.group].volumes:
        return 0
    return volume.id


def births(pool: Pool, spots: Iterable[Spot]) -> dict[int, tuple[int, Spot]]:
    """Birth place -> checksum, and one of the spots, of those blocks that cannot be read now."""
    found: dict[int, tuple[int, Spot]] = {}
    for id, block in spots:
        table = pool.state.tables.get(id)
        if table is None:
            continue
        with suppress(Damaged):  # a node of the table: no data helps against that
            pointer, sum = pool.state.forest.at(table, block)
            if pointer and pointer not in found and not readable(pool, pointer, sum):
                found[pointer] = sum, (id, block)
    return found


async def look_up(pool: Pool, damaged: Mapping[int, int]) -> list[Lost]:
    """Who has these blocks, and where. As dear as a mark: ask for many at once."""
    if not damaged:
        return []
    frozen, references = await pool.checkpoint_then(
        lambda frozen: find(frozen.roots, Nodes(pool.marked_nodes), damaged, ())
    )
    found: dict[int, Lost] = {}
    for reference in references:
        lost = found.get(reference.pointer)
        if lost is None:
            lost = Lost(reference.pointer, damaged[reference.pointer], reference.block, [])
            found[reference.pointer] = lost
        lost.owners = sorted({*lost.owners, *names(pool, frozen, reference)})
        for table in reference.tables:
            id = home(pool.state, frozen.volumes[table]) if table < len(frozen.volumes) else 0
            if id and (id, reference.block) not in lost.spots:
                lost.spots.append((id, reference.block))
    return list(found.values())


async def heal(pool: Pool, good: Mapping[int, tuple[int, bytes]]) -> set[int]:
    """Put data in the place of damaged blocks: birth -> (checksum, data); which are healed.

    They are durable and have been read again when this returns. Raises `Damaged` for data that is
    not the block, before anything is written, and pool errors.
    """
    for birth, (sum, data) in good.items():
        if len(data) != BLOCK or checksum(data) != sum:
            raise Damaged(f"what is to replace the block born at {birth} is not that block")
    todo = iter(sorted(good.items()))
    while part := list(islice(todo, MOVED_AT_ONCE)):
        pool.append_moves([(birth, data, array("Q", [sum])) for birth, (sum, data) in part])
        await pool.world.clock.sleep(0)
    await pool.flush()
    # Else one of them that rots makes the newest batch pass for a torn end.
    with suppress(NoSpace):  # there soon is some
        await pool.note_durable(at_once=True)
    return {birth for birth, (sum, _) in good.items() if readable(pool, birth, sum)}


def search(pool: Pool, volume: int, block: int, sum: int) -> bytes | None:
    """A block with a checksum that a volume has, or had at a cut or copy, in this place."""
    for id in islice(_versions(pool.state, volume), VERSIONS_MAX):
        table = pool.state.tables.get(id)
        if table is None:
            continue
        with suppress(Damaged, OSError):  # not here: then another version may share a good one
            pointer, has = pool.state.forest.at(table, block)
            if pointer and has == sum:
                return bytes(pool.log.read(pointer, array("Q", [sum])))
    return None


def _versions(state: Catalogue, volume: int) -> Iterator[int]:
    """A volume, what it was, and its copies, the newest first."""
    yield volume
    yield from reversed(state.versions.get(volume, {}))
    yield from reversed(state.copied.get(volume, {}))
