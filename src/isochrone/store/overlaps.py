"""What relations forbid: two targets on one track, and volumes that end before their extents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from isochrone.errors import Conflict
from isochrone.store.catalogue import Catalogue, Relation, Volume
from isochrone.store.tracks import blocks_of
from isochrone.types import BLOCK

EXTENTS_MAX: Final = 1024  # of a command and of a relation: keeps the record under 64 KiB

Range = tuple[int, int]  # block, blocks


def overlap(ranges: Iterable[Range]) -> Range | None:
    """Blocks that two of the ranges share, if any do."""
    for (first, count), (second, more) in pairwise(sorted(ranges)):
        if first + count > second:
            return second, min(first + count - second, more)
    return None


def related(state: Catalogue, id: int) -> Iterator[Relation]:
    """Relations that a volume is the source or the target of."""
    return (state.relations[relation] for relation in state.related.get(id, ()))


def name_of(state: Catalogue, relation: Relation) -> str:
    source, target = state.volumes[relation.source].name, state.volumes[relation.target].name
    return f"relation {relation.id} ({source} to {target})"


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same blocks, without overlaps."""
    found: list[Range] = []
    for first, count in sorted(ranges):
        if found and first <= sum(found[-1]):
            last, _ = found[-1]
            found[-1] = last, max(sum(found[-1]), first + count) - last
        else:
            found.append((first, count))
    return found


def check_no_target(state: Catalogue, volume: Volume, ranges: Iterable[Range], doing: str) -> None:
    """Raises `Conflict` if any of the blocks belong to the target of a relation."""
    wanted = joined(ranges)
    for relation in related(state, volume.id):
        if relation.target != volume.id:
            continue
        found = next((x for _, at, n in relation.extents if (x := _shared(wanted, at, n))), None)
        if found is not None:
            raise Conflict(
                f"{volume.name!r} cannot be {doing}: {found[1] * BLOCK} bytes at"
                f" {found[0] * BLOCK} are the target of {name_of(state, relation)}",
                hint=f"withdraw it first: isochrone relation withdraw {relation.id} --keep",
            )


def _shared(ranges: Sequence[Range], block: int, count: int) -> Range | None:
    """Blocks that the first of some ranges has in common with one; they are sorted and apart."""
    at = bisect_right(ranges, block, key=sum)  # their ends are sorted, too
    if at == len(ranges) or ranges[at][0] >= block + count:
        return None
    first = max(block, ranges[at][0])
    return first, min(block + count, sum(ranges[at])) - first


def check_unrelated(state: Catalogue, volume: Volume, doing: str) -> None:
    """Raises `Conflict` if a volume is the source or the target of a relation."""
    for relation in related(state, volume.id):
        raise Conflict(
            f"{volume.name!r} cannot be {doing}: it is part of {name_of(state, relation)}",
            hint=f"withdraw it first: isochrone relation withdraw {relation.id} --keep",
        )


def check_fits(state: Catalogue, volume: Volume, size: int) -> None:
    """Raises `Conflict` if a volume of this size would end before an extent of it does."""
    if size >= volume.size:
        return
    for relation in related(state, volume.id):
        if _end(relation, volume.id) > size // BLOCK:
            raise Conflict(
                f"{volume.name!r} cannot be made smaller than {_end(relation, volume.id) * BLOCK}"
                f" bytes: it is part of {name_of(state, relation)}",
                hint=f"withdraw it first: isochrone relation withdraw {relation.id} --keep",
            )


def _end(relation: Relation, id: int) -> int:
    """The block behind the last extent on a volume."""
    ends = [first + count for first, _, count in relation.extents if relation.source == id]
    ends += [at + count for _, at, count in relation.extents if relation.target == id]
    return max(ends)


def contradiction(state: Catalogue) -> str:
    """What no command could have led to, in words; empty if there is nothing."""
    targets: dict[int, list[Range]] = {}
    for relation in state.relations.values():
        source, target = (state.volumes.get(id) for id in (relation.source, relation.target))
        if source is None or target is None:
            return f"relation {relation.id} names a volume that does not exist"
        if _end(relation, target.id) > blocks_of(target.size):
            return f"{name_of(state, relation)} ends behind the end of {target.name}"
        # A source may end earlier: one that was received may have been cut off at the other site.
        targets.setdefault(target.id, []).extend((at, n) for _, at, n in relation.extents)
    for id, ranges in targets.items():
        if overlap(ranges) is not None:
            return f"two relations have the same track of {state.volumes[id].name} as their target"
    return ""
