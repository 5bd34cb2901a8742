"""Relations of a group that is being received, by number and by place on their targets.

A secondary may be told of thousands onto one volume, one after the other. Each is looked up here in
a few steps, and what a record has changed is noted here, so that all of them together take n log n.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from isochrone.store.apply_mirrored import arriving
from isochrone.store.catalogue import Catalogue, Group, Relation
from isochrone.store.overlaps import Range

PIECE: Final = 512  # places in a sorted piece: one more moves 2 KiB of memory, and no more

Entry = tuple[int, int, int]  # first block, the one behind the last, relation
_BEHIND: Final = 1 << 62  # every number


class Places:
    """Ranges of one volume that do not overlap, sorted, in pieces that stay short."""

    def __init__(self) -> None:
        self._pieces: list[list[Entry]] = []  # none is empty
        self._firsts: list[Entry] = []  # of each piece

    def add(self, entry: Entry) -> None:
        if not self._pieces:
            self._pieces, self._firsts = [[entry]], [entry]
            return
        at = max(0, bisect_right(self._firsts, entry) - 1)
        piece = self._pieces[at]
        piece.insert(bisect_right(piece, entry), entry)
        self._firsts[at] = piece[0]
        if len(piece) > PIECE:
            half = piece[PIECE // 2 :]
            del piece[PIECE // 2 :]
            self._pieces.insert(at + 1, half)
            self._firsts.insert(at + 1, half[0])

    def remove(self, entry: Entry) -> None:
        at = bisect_right(self._firsts, entry) - 1
        piece = self._pieces[at]
        del piece[bisect_left(piece, entry)]
        if piece:
            self._firsts[at] = piece[0]
        else:
            del self._pieces[at], self._firsts[at]

    def within(self, block: int, count: int) -> Iterator[int]:
        """Relations that have any of these blocks."""
        from_here = (block, _BEHIND, _BEHIND)
        at = max(0, bisect_right(self._firsts, from_here) - 1)
        # The one before may reach as far as here, and no other in front of it can.
        first = bisect_right(self._pieces[at], from_here) - 1 if self._pieces else 0
        for piece in self._pieces[at:]:
            for start in range(max(0, first), len(piece)):
                begins, ends, id = piece[start]
                if begins >= block + count:
                    return
                if ends > block:
                    yield id
            first = 0


class _Kept(NamedTuple):
    """A relation as it is in the tables below."""

    target: int
    origin: int
    entries: list[Entry]


class Arrivals:
    """The group's relations onto its volumes here, as they will be once the group is committed.

    It is right as long as everything that changes them is told to `note`.
    """

    def __init__(self, state: Catalogue, group: Group) -> None:
        self._state = state
        self._group = group
        self._known: dict[int, _Kept] = {}  # by number here
        self._places: dict[int, Places] = {}  # by target
        self._numbers: dict[tuple[int, int], dict[int, None]] = {}  # (target, number there) -> here
        self._of: dict[int, dict[int, None]] = {}  # target -> relations
        for relation in arriving(state, group):
            self._add(relation)

    def relation(self, id: int) -> Relation:
        """One that is on record, or waits for the commit."""
        incoming = self._group.incoming
        waiting = incoming.relations.get(id) if incoming is not None else None
        return waiting or self._state.relations[id]

    def find(self, target: int, origin: int) -> Relation | None:
        """The one onto a volume that has this number at the primary."""
        found = self.numbered(target, origin)
        return self.relation(found[0]) if found else None

    def numbered(self, target: int, origin: int) -> list[int]:
        """The same; there are two for a moment, while the primary tells new numbers."""
        return list(self._numbers.get((target, origin), ()))

    def at(self, target: int, ranges: Iterable[Range]) -> list[int]:
        """Those onto a volume that have any of these blocks."""
        places = self._places.get(target)
        if places is None:
            return []
        found = {id: None for block, count in ranges for id in places.within(block, count)}
        return list(found)

    def onto(self, targets: Iterable[int]) -> list[int]:
        """All onto some volumes."""
        return [id for target in targets for id in self._of.get(target, ())]

    def note(self, ids: Iterable[int]) -> None:
        """A record has just changed these, or taken them off, or brought them."""
        incoming = self._group.incoming
        assert incoming is not None
        for id in ids:
            self.forget(id)
            if id in incoming.relations:
                self._add(incoming.relations[id])

    def put(self, id: int, target: int, origin: int, ranges: Iterable[Range]) -> None:
        """One is soon to be so: a record will say it before anybody asks for it by `relation`."""
        self.forget(id)
        entries = [(at, at + count, id) for at, count in ranges]
        self._known[id] = _Kept(target, origin, entries)
        places = self._places.setdefault(target, Places())
        for entry in entries:
            places.add(entry)
        self._numbers.setdefault((target, origin), {})[id] = None
        self._of.setdefault(target, {})[id] = None

    def forget(self, id: int) -> None:
        """One is gone, or soon to be."""
        kept = self._known.pop(id, None)
        if kept is None:
            return
        places = self._places[kept.target]
        for entry in kept.entries:
            places.remove(entry)
        numbered = self._numbers[kept.target, kept.origin]
        del numbered[id]
        if not numbered:
            del self._numbers[kept.target, kept.origin]
        del self._of[kept.target][id]

    def _add(self, relation: Relation) -> None:
        ranges = [(at, count) for _, at, count in relation.extents]
        self.put(relation.id, relation.target, relation.origin, ranges)
