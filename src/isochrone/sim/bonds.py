"""Relations as a plain model: which there are after an op, and what their commands change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from isochrone.types import BLOCK, TRACK

TRACK_BLOCKS = TRACK // BLOCK

Extent = tuple[int, int, int]  # (block of the source, block of the target, blocks)
Step = tuple[str, str, list[Extent]]  # name, name of what becomes it, where


@dataclass(frozen=True, slots=True)
class Bond:
    """A relation as one op left it; without extents it was withdrawn."""

    op: int
    source: str
    target: str
    extents: tuple[Extent, ...]
    since: int  # op of its instant


@dataclass(slots=True)
class Bonds:
    """All relations there ever were, each with what the ops made of it."""

    lives: dict[int, list[Bond]] = field(default_factory=dict)

    def put(self, number: int, bond: Bond) -> None:
        self.lives.setdefault(number, []).append(bond)

    def at(self, op: int) -> dict[int, Bond]:
        """Those on record after an op."""
        found = {}
        for number, bonds in self.lives.items():
            newest = [bond for bond in bonds if bond.op <= op]
            if newest and newest[-1].extents:
                found[number] = newest[-1]
        return found

    def within(self, members: Collection[str], op: int) -> list[tuple[str, str, list[Extent]]]:
        """Those on record after an op from members of a group to members of the same."""
        return sorted(
            (bond.source, bond.target, sorted(bond.extents))
            for bond in self.at(op).values()
            if bond.source in members and bond.target in members
        )

    def cut_off(self, op: int) -> None:
        for number, bonds in self.lives.items():
            self.lives[number] = [bond for bond in bonds if bond.op <= op]

    def ops_with(self, relations: dict[int, tuple[Extent, ...]], upto: int) -> int:
        """After which ops exactly these were on record, as a bit mask."""
        edges = sorted({0} | {bond.op for bonds in self.lives.values() for bond in bonds})
        mask = 0
        for start, end in zip(edges, [*edges[1:], upto + 1], strict=True):
            if {number: bond.extents for number, bond in self.at(start).items()} == relations:
                mask |= (1 << end) - (1 << start)
        return mask


def cut_out(extents: tuple[Extent, ...], low: int, high: int) -> tuple[list[Extent], list[Extent]]:
    """Blocks of the target from `low` to `high`: the extents inside, and those outside."""
    inside, outside = [], []
    for first, at, count in extents:
        end = at + count
        start, stop = max(at, min(low, end)), min(end, max(high, at))
        if start >= stop:
            outside.append((first, at, count))
            continue
        inside.append((first + start - at, start, stop - start))
        if at < start:
            outside.append((first, at, start - at))
        if stop < end:
            outside.append((first + stop - at, stop, end - stop))
    return inside, outside
