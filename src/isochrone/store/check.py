"""Walking a pool: does every pointer lead to the block it should?"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from isochrone.errors import Damaged
from isochrone.store.overlaps import contradiction
from isochrone.store.pool import Pool
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS, blocks_of
from isochrone.types import BLOCK


def check_pool(pool: Pool) -> int:
    """Verify every mapped block of every volume and copy once; how many there are.

    Also that nothing is mapped beyond the end of a volume, and that names, copies and groups refer
    to volumes that exist. Raises `Damaged` at the first finding.
    """
    check_catalogue(pool)
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
    segment: int = 0  # that holds the blocks now; 0: it is not a matter of one


def findings(pool: Pool) -> Iterator[Finding]:
    """Every damaged range of every volume and copy; nodes that copies share are read once.

    A node that is damaged costs all it covers, and its neighbours nothing. Raises `Damaged` if the
    catalogue contradicts itself: then no range can be named.
    """
    check_catalogue(pool)
    state, forest = pool.state, pool.state.forest
    chunks: dict[tuple[int, int], list[int]] = {}
    leaves: dict[tuple[int, int], list[int]] = {}
    for id in sorted(state.volumes):
        for at, chunk in enumerate(state.tables[id].root):
            if chunk:
                chunks.setdefault((at, chunk), []).append(id)
    for (at, chunk), owners in chunks.items():
        try:
            words = forest.node(chunk).words
        except Damaged as e:
            yield _unmapped(pool, e, owners, at * CHUNK_LEAVES * LEAF_BLOCKS, CHUNK_LEAVES)
            continue
        for low, leaf in enumerate(words):
            if leaf:
                leaves.setdefault((at * CHUNK_LEAVES + low, leaf), []).extend(owners)
    for (index, leaf), owners in leaves.items():
        try:
            words = forest.node(leaf).words
        except Damaged as e:
            yield _unmapped(pool, e, owners, index * LEAF_BLOCKS, 1)
            continue
        exports = [state.volumes[id].name for id in sorted(owners)]
        for at in range(LEAF_BLOCKS):
            if not words[at]:
                continue
            try:
                pool.log.read(words[at], words[LEAF_BLOCKS + at : LEAF_BLOCKS + at + 1])
            except (Damaged, OSError) as e:
                yield Finding(str(e), exports, (index * LEAF_BLOCKS + at) * BLOCK, BLOCK)


def _unmapped(pool: Pool, cause: Damaged, owners: list[int], block: int, leaves: int) -> Finding:
    """What cannot be found any more because a node is damaged."""
    volumes = [pool.state.volumes[id] for id in sorted(owners)]
    end = min(max(v.size for v in volumes), (block + leaves * LEAF_BLOCKS) * BLOCK)
    return Finding(
        f"{cause.message} ({cause.hint})",
        [v.name for v in volumes],
        block * BLOCK,
        end - block * BLOCK,
    )


def check_catalogue(pool: Pool) -> None:
    """Raises `Damaged` if names, tables, copies and groups do not fit together."""
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
    for id, owner in state.history().items():
        if owner not in state.windows:
            raise Damaged(f"volume {id} is kept for points of {owner}, which has none")
    if complaint := contradiction(state):
        raise Damaged(complaint)
    for group in state.groups.values():
        for id in group.volumes:
            volume = state.volumes.get(id)
            if volume is None or volume.group != group.name:
                raise Damaged(f"{volume.name if volume else id} is not in group {group.name}")
        for image in group.images:
            if image.image and image.image not in state.volumes:
                raise Damaged(f"group {group.name} waits for an image that does not exist")
