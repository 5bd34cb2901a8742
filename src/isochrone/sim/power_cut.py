"""A file that remembers what was not synced, and what a power cut does to that.

A file is the bytes that readers see, and the list of its changes since the last sync, each with the
bytes it replaced. Nothing is copied while all goes well; a power cut takes the changes back, newest
first, and does again those that the cut lets through:

- any of them whole, dropped, or torn at 512 bytes, each by itself (a disk's cache knows no order),
- or everything up to some instant over all files, or all of it, or nothing of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from isochrone.types import Buffer

SECTOR: Final = 512  # bytes; what a disk writes whole or not at all
MODES: Final = ("any", "any", "prefix", "prefix", "all", "nothing")  # the last two find little


class Fate(Enum):
    """What a power cut does to a change that was not synced."""

    KEPT = "kept"
    DROPPED = "dropped"
    TORN = "torn"


@dataclass(slots=True)
class Change:
    """A write (`length` > 0) or a new size, and what it takes to undo it."""

    serial: int
    offset: int  # of a write; the new size otherwise
    length: int
    old: bytes  # what the write replaced, or what the new size cut off
    stored: int  # bytes stored before
    size: int  # size before
    hardened: bool = False  # synced, yet behind a change that a failed sync lost
    lost: bool = False  # a failed sync: later ones do not make it durable any more


class Inode:
    """The bytes of one file. Those from `len(data)` to `size` are zeros and take no memory."""

    __slots__ = ("changes", "data", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.changes: list[Change] = []

    def write(self, pieces: Sequence[Buffer], offset: int, serial: int) -> None:
        length = sum(map(len, pieces))
        if length == 0:
            return
        stored, size = len(self.data), self.size
        old = b"" if offset >= stored else bytes(self.data[offset : offset + length])
        self.changes.append(Change(serial, offset, length, old, stored, size))
        for piece in pieces:
            self._put(piece, offset)
            offset += len(piece)

    def resize(self, size: int, serial: int) -> None:
        cut = bytes(self.data[size:])
        self.changes.append(Change(serial, size, 0, cut, len(self.data), self.size))
        self._cut(size)

    def harden(self) -> None:
        """What was changed so far survives."""
        if any(change.lost for change in self.changes):
            for change in self.changes:
                change.hardened = not change.lost
        else:
            self.changes.clear()

    def lose(self) -> None:
        """A sync failed: readers still see the changes, and no later sync makes them durable."""
        for change in self.changes:
            change.lost = not change.hardened

    def power_cut(self, fates: Callable[[int], Fate], random: Random) -> None:
        for change, new in self._take_back():
            fate = Fate.KEPT if change.hardened else fates(change.serial)
            if fate is Fate.DROPPED:
                continue
            if change.length == 0:
                if fate is Fate.KEPT or random.random() < 0.5:
                    self._cut(change.offset)
            elif fate is Fate.KEPT:
                self._put(new, change.offset)
            else:
                self._tear(change.offset, new, random)
        self.changes.clear()

    def _put(self, piece: Buffer, offset: int) -> None:
        data = self.data
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        end = offset + len(piece)
        if offset == len(data):
            data += piece
        else:
            data[offset:end] = piece
        self.size = max(self.size, end)

    def _cut(self, size: int) -> None:
        del self.data[size:]
        self.size = size

    def _take_back(self) -> list[tuple[Change, bytes]]:
        """Undo all changes; each with the bytes it had written, oldest first."""
        again = []
        for change in reversed(self.changes):
            if change.length:
                end = change.offset + change.length
                again.append((change, bytes(self.data[change.offset : end])))
                self.data[change.offset : change.offset + len(change.old)] = change.old
                del self.data[change.stored :]
            else:
                again.append((change, b""))
                del self.data[change.offset :]
                self.data += change.old
            self.size = change.size
        again.reverse()
        return again

    def _tear(self, offset: int, new: bytes, random: Random) -> None:
        """Some sectors of a write reach the disk: any, or those before some point."""
        first, end = offset // SECTOR, offset + len(new)
        sectors = -(-end // SECTOR) - first
        if random.random() < 0.5:
            kept = random.getrandbits(sectors)
        else:
            kept = (1 << random.randrange(sectors + 1)) - 1
        if end > self.size and random.random() < 0.25:
            self.size = end  # the new size went ahead of the data: a tail of zeros
        for sector in range(sectors):
            if kept >> sector & 1:
                low = max(offset, (first + sector) * SECTOR)
                high = min(end, (first + sector + 1) * SECTOR)
                self._put(new[low - offset : high - offset], low)


def lottery(serials: list[int], random: Random) -> tuple[str, Callable[[int], Fate]]:
    """How one power cut treats unsynced changes: (its name, serial -> fate)."""
    mode = random.choice(MODES)
    if mode == "any":
        fates = tuple(Fate)
        weights = (random.random(), random.random(), random.random() / 2)
        return mode, lambda _: random.choices(fates, weights)[0]
    if mode == "prefix":
        last = random.choice([0, *serials])
        following = next(iter(serials[bisect_right(serials, last) :]), 0)

        def fate(serial: int) -> Fate:
            if serial <= last:
                return Fate.KEPT
            return Fate.TORN if serial == following else Fate.DROPPED

        return mode, fate
    only = Fate.KEPT if mode == "all" else Fate.DROPPED
    return mode, lambda _: only
