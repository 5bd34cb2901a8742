"""Walking a pool: does every pointer lead to the block it should?"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from isochrone.errors import Damaged
from isochrone.store.pool import Pool
from isochrone.store.tracks import LEAF_BLOCKS, blocks_of
from isochrone.types import BLOCK


def check_pool(pool: Pool) -> int:
    """Verify every mapped block of every volume and copy once; how many there are.

    Also that nothing is mapped beyond the end of a volume, and that names, copies and groups refer
    to volumes that exist. Raises `Damaged` at the first finding.
    """
    _check_catalogue(pool)
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
        try:
            pool.log.read(pointer, array("Q", [expected]))
        except OSError as e:
            raise Damaged(f"the disk cannot read a block: {e.strerror or e}") from e
    return len(seen)


@dataclass(frozen=True, slots=True)
class Finding:
    """Blocks that are not what was written, and who reads them."""

    cause: str
    exports: list[str]  # that share the blocks
    offset: int  # bytes, in each of them
    bytes: int


def findings(pool: Pool) -> Iterator[Finding]:
    """Every damaged range of every volume and copy; leaves that copies share are read once.

    Raises `Damaged` if the catalogue contradicts itself: then no range can be named.
    """
    _check_catalogue(pool)
    state, forest = pool.state, pool.state.forest
    owners: dict[tuple[int, int], list[str]] = {}
    for id, volume in sorted(state.volumes.items()):
        for index, leaf in forest.leaf_ids(state.tables[id]):
            owners.setdefault((index, leaf), []).append(volume.name)
    for (index, leaf), exports in owners.items():
        words = forest.node(leaf).words
        for at in range(LEAF_BLOCKS):
            if not words[at]:
                continue
            try:
                pool.log.read(words[at], words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + 1])
            except (Damaged, OSError) as e:
                yield Finding(str(e), exports, (index * LEAF_BLOCKS + at) * BLOCK, BLOCK)


def _check_catalogue(pool: Pool) -> None:
    state = pool.state
    if set(state.tables) != set(state.volumes):
        raise Damaged("tables and volumes do not match")
    for name, id in state.names.items():
        volume = state.volumes.get(id)
        if volume is None or volume.name != name:
            raise Damaged(f"the name {name} leads to {volume.name if volume else 'nothing'}")
    for copy in state.copies.values():
        for _, member in copy.members:
            volume = state.volumes.get(member)
            if volume is None or volume.copy != copy.name:
                raise Damaged(f"{volume.name if volume else member} is not a member of {copy.name}")
    for group in state.groups.values():
        for id in group.volumes:
            volume = state.volumes.get(id)
            if volume is None or volume.group != group.name:
                raise Damaged(f"{volume.name if volume else id} is not in group {group.name}")
