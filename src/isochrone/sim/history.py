"""What was asked of a pool, in order, and what it must therefore contain.

A plain model that knows nothing of logs, tables or cuts. Every change has a number, the *op*; the
state after op m is a function of the changes up to m. The checkers compare what a pool shows with
these states.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from isochrone.sim.bonds import TRACK_BLOCKS, Bond, Bonds, Step, cut_out
from isochrone.types import BLOCK

ZERO = bytes(BLOCK)


@dataclass(slots=True)
class Track:
    """The life of one volume or copy member."""

    born: int  # op that made it
    size: int  # blocks, when it was made
    source: str = ""  # what it is a copy of, as of `born`
    died: int = 0  # op that deleted it, 0: alive
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (op, blocks)
    blocks: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)  # (op, content)
    hosts: dict[int, list[int]] = field(default_factory=dict)  # ops in which a host wrote a block


@dataclass(slots=True)
class CopyLife:
    born: int
    members: tuple[str, ...]  # names of the sources
    died: int = 0


class History:
    """All changes so far. `flushed` is the newest op that is promised to survive anything."""

    def __init__(self) -> None:
        self.op = 0
        self.flushed = 0
        self.tracks: dict[str, list[Track]] = {}
        self.copies: dict[str, list[CopyLife]] = {}
        self.bonds = Bonds()
        self.times: list[int] = [0]  # wall clock of each op, for the recovery point
        self.names: list[tuple[str, ...]] = [()]  # what each op changed or copied

    def _next(self, now: int, *names: str) -> int:
        self.op += 1
        self.times.append(now)
        self.names.append(names)
        return self.op

    # -- changes

    def create(self, name: str, blocks: int, now: int) -> None:
        op = self._next(now, name)
        self.tracks.setdefault(name, []).append(Track(op, blocks, sizes=[(op, blocks)]))

    def write(self, name: str, block: int, content: bytes, now: int) -> None:
        op = self._next(now, name)
        track = self.tracks[name][-1]
        self._put(track, block, op, content)
        track.hosts.setdefault(block, []).append(op)

    def discard(self, name: str, block: int, count: int, now: int) -> None:
        op = self._next(now, name)
        self._wipe(name, range(block, block + count), op)

    def _wipe(self, name: str, blocks: range, op: int) -> None:
        track = self.tracks[name][-1]
        for block in self.touched(track):
            if block in blocks:
                self._put(track, block, op, ZERO)

    def resize(self, name: str, blocks: int, now: int) -> None:
        op = self._next(now, name)
        track = self.tracks[name][-1]
        before = track.sizes[-1][1]
        if blocks < before:
            self._wipe(name, range(blocks, before), op)
        track.sizes.append((op, blocks))

    def copy(self, name: str, sources: tuple[str, ...], now: int) -> None:
        op = self._next(now, *sources)
        self.copies.setdefault(name, []).append(CopyLife(op, sources))
        for source in sources:
            blocks = self.size(source, op)
            track = Track(op, blocks, source=source, sizes=[(op, blocks)])
            self.tracks.setdefault(f"{source}@{name}", []).append(track)

    def delete_copy(self, name: str, now: int) -> None:
        op = self._next(now, *self.copies[name][-1].members)
        life = self.copies[name][-1]
        life.died = op
        for source in life.members:
            self.tracks[f"{source}@{name}"][-1].died = op

    def adopt_copy(self, name: str, sources: list[str]) -> None:
        """A copy whose members were created like volumes: it came from another history."""
        self.copies.setdefault(name, []).append(CopyLife(self.op, tuple(sources)))

    # -- relations, and reverting

    def become(self, steps: Sequence[Step], now: int) -> int:
        """Extents of volumes become those of others, each as it was before; the op."""
        op = self._next(now, *(target for _, target, _ in steps))
        found = []
        for source, target, extents in steps:
            origin, track = self.tracks[source][-1], self.tracks[target][-1]
            here, there = self.touched(origin), self.touched(track)
            for first, at, count in extents:
                for n in range(count):
                    if first + n in here or at + n in there:
                        content = self.content(origin, first + n, op - 1)
                        found.append((track, at + n, content))
        for track, block, content in found:
            self._put(track, block, op, content)
        return op

    def establish(self, steps: Sequence[Step], numbers: Sequence[int], now: int) -> None:
        """With numbers, the relations stay on record."""
        op = self.become(steps, now)
        for number, (source, target, extents) in zip(numbers, steps, strict=bool(numbers)):
            self.bonds.put(number, Bond(op, source, target, tuple(extents), op))

    def renew(self, numbers: Sequence[int], now: int, *, reverse: bool) -> None:
        """Refresh relations, or restore their sources."""
        there = self.bonds.at(self.op)
        bonds = [there[number] for number in numbers]
        op = self.become(
            [
                (bond.target, bond.source, [(at, first, n) for first, at, n in bond.extents])
                if reverse
                else (bond.source, bond.target, list(bond.extents))
                for bond in bonds
            ],
            now,
        )
        for number, bond in zip(numbers, bonds, strict=True):
            self.bonds.put(number, replace(bond, op=op, since=op))

    def withdraw(
        self, number: int, low: int, high: int, now: int, *, discard: bool, told: bool = True
    ) -> None:
        """A relation ends, for the blocks of its target from `low` to `high`.

        Without discarding nothing changes but the relation; is a secondary `told` of that?
        """
        bond = self.bonds.at(self.op)[number]
        op = self._next(now, *([bond.target] if discard or told else []))
        inside, outside = cut_out(bond.extents, low, high)
        track = self.tracks[bond.target][-1]
        for _, at, count in inside if discard else ():
            for start in range(at, at + count, TRACK_BLOCKS):
                blocks = range(start, min(at + count, start + TRACK_BLOCKS))
                if not any(self._written(track, block, bond.since) for block in blocks):
                    self._wipe(bond.target, blocks, op)
        self.bonds.put(number, replace(bond, op=op, extents=tuple(outside)))

    @staticmethod
    def _written(track: Track, block: int, since: int) -> bool:
        """Whether what a block holds was written by a host after an op."""
        hosts = track.hosts.get(block, [0])
        return max(hosts, default=0) > since and track.blocks[block][-1][0] == hosts[-1]

    def hosted(self, name: str, block: int, since: int, op: int) -> bool:
        """The same of a volume, as it was after an op."""
        track = self.alive(name, op)
        assert track is not None
        hosts = [written for written in track.hosts.get(block, ()) if written <= op]
        newest = [version for version, _ in track.blocks.get(block, ()) if version <= op]
        return bool(hosts) and hosts[-1] > since and newest[-1] == hosts[-1]

    def revert(self, name: str, sources: Sequence[str], undo: str, now: int) -> None:
        """Volumes become what they are in a copy, and are copied just before."""
        op = self._next(now, *sources)
        self.copies.setdefault(undo, []).append(CopyLife(op, tuple(sources)))
        for source in sources:
            track, then = self.tracks[source][-1], self.tracks[f"{source}@{name}"][-1]
            size, new_size = self.size(source, op - 1), self.size(f"{source}@{name}", op - 1)
            kept = Track(op, size, sizes=[(op, size)])
            self.tracks.setdefault(f"{source}@{undo}", []).append(kept)
            for block in self.touched(track):
                self._put(kept, block, op, self.content(track, block, op - 1))
            for block in self.touched(track) | self.touched(then):
                self._put(track, block, op, self.content(then, block, op - 1))
            track.sizes.append((op, new_size))

    @staticmethod
    def _put(track: Track, block: int, op: int, content: bytes) -> None:
        versions = track.blocks.setdefault(block, [])
        if versions and versions[-1][0] == op:
            versions[-1] = (op, content)
        else:
            versions.append((op, content))

    # -- states

    def alive(self, name: str, op: int) -> Track | None:
        """The volume of a name in the state after an op."""
        for track in self.tracks.get(name, ()):
            if track.born <= op and not 0 < track.died <= op:
                return track
        return None

    def size(self, name: str, op: int) -> int:
        track = self.alive(name, op)
        assert track is not None
        return track.sizes[bisect_right(track.sizes, op, key=lambda s: s[0]) - 1][1]

    def touched(self, track: Track) -> set[int]:
        """Blocks that can ever have been anything but zero."""
        found = set(track.blocks)
        if track.source:
            source = self.alive(track.source, track.born)
            assert source is not None
            found |= self.touched(source)
        return found

    def content(self, track: Track, block: int, op: int) -> bytes:
        versions = track.blocks.get(block, ())
        at = bisect_right(versions, op, key=lambda v: v[0])
        if at:
            return versions[at - 1][1]
        if not track.source:
            return ZERO
        source = self.alive(track.source, track.born)
        assert source is not None
        return self.content(source, block, track.born)

    def ops_with(self, track: Track, block: int, content: bytes, upto: int) -> int:
        """In which states a block has a content, as a bit mask over ops."""
        mask = 0
        start = track.born
        edges = [op for op, _ in track.blocks.get(block, ())] + [upto + 1]
        for edge in edges:
            if edge > start and self.content(track, block, start) == content:
                mask |= (1 << min(edge, upto + 1)) - (1 << start)
            start = max(start, edge)
        return mask

    def copies_at(self, op: int) -> dict[str, CopyLife]:
        return {
            name: life
            for name, lives in self.copies.items()
            for life in lives
            if life.born <= op and not 0 < life.died <= op
        }

    def cut_off(self, op: int) -> None:
        """Forget what came after an op: it was lost, and allowed to be."""
        self.op = self.flushed = op
        self.bonds.cut_off(op)
        del self.times[op + 1 :], self.names[op + 1 :]
        for name in list(self.tracks):
            kept = [track for track in self.tracks[name] if track.born <= op]
            for track in kept:
                track.died = track.died if track.died <= op else 0
                track.sizes = [s for s in track.sizes if s[0] <= op]
                for block in list(track.blocks):
                    track.blocks[block] = [v for v in track.blocks[block] if v[0] <= op]
                    if not track.blocks[block]:
                        del track.blocks[block]
                for block, ops in track.hosts.items():
                    track.hosts[block] = [written for written in ops if written <= op]
            self.tracks[name] = kept
        for name, lives in self.copies.items():
            self.copies[name] = [life for life in lives if life.born <= op]
            for life in self.copies[name]:
                life.died = life.died if life.died <= op else 0
