"""A volume as a block device: any byte range, checked, over whole blocks in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isochrone.errors import NotFound, OutOfRange, ReadOnly
from isochrone.store import extents
from isochrone.store.catalogue import Volume
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, Buffer, Extent


class VolumeDevice:
    """A volume, snapshot or clone of a pool, by id. Raises `NotFound` once it is deleted."""

    def __init__(self, pool: Pool, id: int) -> None:
        self._pool = pool
        self._id = id

    @property
    def volume(self) -> Volume:
        try:
            return self._pool.state.volumes[self._id]
        except KeyError:
            raise NotFound("this volume has been deleted") from None

    @property
    def name(self) -> str:
        return self.volume.name

    @property
    def size(self) -> int:
        return self.volume.size

    @property
    def read_only(self) -> bool:
        return self._pool.state.read_only(self.volume)

    @property
    def description(self) -> str:
        return self._pool.state.describe(self.volume)

    def _check(self, offset: int, length: int) -> Volume:
        volume = self.volume
        if offset < 0 or length < 0 or offset + length > volume.size:
            raise OutOfRange(
                f"{length} bytes at {offset} reach past the end of {volume.name} ({volume.size})"
            )
        return volume

    def _check_change(self, offset: int, length: int) -> None:
        volume = self._check(offset, length)
        if self._pool.state.read_only(volume):
            raise ReadOnly(f"{volume.name} is read-only: {self._pool.state.describe(volume)}")

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        self._check(offset, length)
        if not length:
            return ()
        head = offset % BLOCK
        tail = -(offset + length) % BLOCK
        pool = self._pool
        table = pool.state.tables[self._id]
        if length == BLOCK and not head:
            return (pool.read_one(table, offset // BLOCK),)
        pieces = pool.read(table, offset // BLOCK, (head + length + tail) // BLOCK)
        if head:
            pieces[0] = memoryview(pieces[0])[head:]
        if tail:
            pieces[-1] = memoryview(pieces[-1])[:-tail]
        return pieces

    def write(self, offset: int, data: memoryview) -> None:
        self._check_change(offset, len(data))
        if not data:
            return
        if not offset % BLOCK and not len(data) % BLOCK:
            self._pool.stage_write(self._id, offset // BLOCK, data)
            return
        end = offset + len(data)
        first, last = -(-offset // BLOCK) * BLOCK, end // BLOCK * BLOCK
        if first > last:  # inside one block
            self._patch(offset, data)
            return
        if offset < first:
            self._patch(offset, data[: first - offset])
        if first < last:
            self._pool.stage_write(self._id, first // BLOCK, data[first - offset : last - offset])
        if last < end:
            self._patch(last, data[last - offset :])

    def _patch(self, offset: int, data: memoryview) -> None:
        """Write a part of one block: read it as changed in this turn, and write it whole."""
        pool = self._pool
        block, at = divmod(offset, BLOCK)
        old = bytearray(pool.read_one(pool.state.tables[self._id], block))
        old[at : at + len(data)] = data
        pool.stage_write(self._id, block, memoryview(old))

    def discard(self, offset: int, length: int) -> None:
        self._check_change(offset, length)
        if not length:
            return
        end = offset + length
        first, last = -(-offset // BLOCK) * BLOCK, end // BLOCK * BLOCK
        if end == self.volume.size and first <= end:
            last = -(-end // BLOCK) * BLOCK  # the rest of the last block cannot be read anyway
        if first >= last:
            self._zero(offset, length)
            return
        if offset < first:
            self._zero(offset, first - offset)
        self._pool.stage_discard(self._id, first // BLOCK, (last - first) // BLOCK)
        if last < end:
            self._zero(last, end - last)

    def _zero(self, offset: int, length: int) -> None:
        """Zeros inside at most two blocks."""
        while length:
            n = min(length, BLOCK - offset % BLOCK)
            self._patch(offset, memoryview(bytes(n)))
            offset, length = offset + n, length - n

    def mapped(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        self._check(offset, length)
        state = self._pool.state
        first, count = _blocks(offset, length)
        runs = extents.mapped(state.forest, state.tables[self._id], first, count, limit)
        return _in_bytes(runs, offset, length)

    def copies(self) -> Mapping[str, int]:
        """Read-only copies of this volume; for a copy, also those its source had before it."""
        volume, state = self.volume, self._pool.state
        own = state.copies.get(volume.copy)
        found: dict[str, int] = {}
        for source in [volume.source, volume.id] if own is not None else [volume.id]:
            for member in state.copied.get(source, ()):
                copy = state.copies[state.volumes[member].copy]
                # A writable one may have been written: it does not say how we were.
                early = own is None or source == volume.id or copy.lsn <= own.lsn
                if early and not copy.writable:
                    found[copy.name] = member
        return found

    def changed(self, copy: int, offset: int, length: int, limit: int) -> Sequence[Extent]:
        self._check(offset, length)
        state = self._pool.state
        base = state.tables.get(copy)
        if base is None:
            raise NotFound("the copy to compare with has been deleted")
        first, count = _blocks(offset, length)
        runs = extents.changed(state.forest, state.tables[self._id], base, first, count, limit)
        return _in_bytes(runs, offset, length)


def _blocks(offset: int, length: int) -> tuple[int, int]:
    """First block of a range, and how many it touches."""
    first = offset // BLOCK
    return first, -(-(offset + length) // BLOCK) - first


def _in_bytes(runs: Sequence[Extent], offset: int, length: int) -> list[Extent]:
    """Runs of blocks as extents of a range that may begin and end inside a block."""
    found: list[Extent] = []
    before = offset % BLOCK
    for blocks, mark in runs:
        size = min(blocks * BLOCK - before, length)
        found.append((size, mark))
        length -= size
        before = 0
    return found
