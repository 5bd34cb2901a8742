"""Walking a pool: does every pointer lead to the block it should?"""

from __future__ import annotations

from array import array

from isochrone.errors import Damaged
from isochrone.store.pool import Pool
from isochrone.store.tracks import LEAF_BLOCKS, blocks_of


def check_pool(pool: Pool) -> int:
    """Verify every mapped block of every volume and copy once; how many there are.

    Also that nothing is mapped beyond the end of a volume, and that names, copies and groups refer
    to volumes that exist. Raises `Damaged` at the first finding.
    """
    state = pool.state
    seen: dict[int, int] = {}
    for id, volume in state.volumes.items():
        end = blocks_of(volume.size)
        for index, words in state.forest.leaves(state.tables[id]):
            for at in range(LEAF_BLOCKS):
                if not words[at]:
                    continue
                if index * LEAF_BLOCKS + at >= end:
                    raise Damaged(f"{volume.name} maps a block beyond its end")
                expected = words[LEAF_BLOCKS + at]
                if seen.setdefault(words[at], expected) != expected:
                    raise Damaged(f"{volume.name} disagrees with another table about a block")
    for pointer, expected in seen.items():
        pool.log.read(pointer, array("Q", [expected]))
    _check_catalogue(pool)
    return len(seen)


def _check_catalogue(pool: Pool) -> None:
    state = pool.state
    if set(state.tables) != set(state.volumes):
        raise Damaged("tables and volumes do not match")
    for name, id in state.names.items():
        if state.volumes[id].name != name:
            raise Damaged(f"the name {name} leads to {state.volumes[id].name}")
    for copy in state.copies.values():
        for _, member in copy.members:
            if state.volumes[member].copy != copy.name:
                raise Damaged(f"{state.volumes[member].name} is not a member of {copy.name}")
    for group in state.groups.values():
        for id in group.volumes:
            if state.volumes[id].group != group.name:
                raise Damaged(f"{state.volumes[id].name} is not in group {group.name}")
