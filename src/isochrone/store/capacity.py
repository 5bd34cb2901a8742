"""Where the space of a pool goes: whose each living block is, and what the rest is kept for.

Works on what a checkpoint wrote, in a thread, as marking does. A *holder* is what can be deleted by
itself: a volume, a copy with all its members, a group that is being received, an image that is
being read. A block that only one holder reaches is its own; deleting the holder frees exactly
those.

Nodes are read once for each window of the log, however many copies share them, so the work follows
the nodes and not the copies. In a window, two bytes for each slot say whose it is: nobody's, one
holder's, or several holders'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from isochrone.store.catalogue import Copy, Group, Volume
from isochrone.store.changes import log_pin
from isochrone.store.format import SLOT_BITS, SLOT_MASK
from isochrone.store.forward import Forwarding
from isochrone.store.mark import BATCH_LEAVES, Read
from isochrone.store.metadata import Item
from isochrone.store.state import State
from isochrone.store.tracks import CHUNK_LEAVES, LEAF_BLOCKS
from isochrone.types import BLOCK

TABLES_AT_ONCE: Final = 256  # roots merged at a time: 1 MiB of chunk ids of tables of 1 TiB
CHUNKS_AT_ONCE: Final = 256  # chunks merged at a time: half a MiB of leaf ids
WINDOW_SLOTS: Final = 1 << 27  # counted in one sweep: 512 GiB of log in 256 MiB of memory
_LAST: Final = np.iinfo(np.uint64).max
MANY: Final = -1  # reached by several holders

Kind = Literal["volume", "copy", "incoming", "image", "point", "reader"]
Words = NDArray[np.uint64]
Owners = NDArray[np.int32]
Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Holder:
    """What can be deleted, or let go of, by itself."""

    kind: Kind
    name: str


@dataclass(slots=True)
class Root:
    """The table of a volume or image, and which of the holders it belongs to."""

    holder: int
    words: bytes


@dataclass(slots=True)
class Usage:
    """What the tables reach, in blocks."""

    mapped: list[int]  # of each root; shared ones count in each
    own: list[int]  # of each holder
    living: int = 0  # each once
    by_segment: dict[int, Bits] = field(default_factory=dict)  # a bit for each slot of birth


def holders(items: Sequence[Item], tables: Sequence[int], images: int) -> list[Holder]:
    """The holder of each table, and of as many images that are being read behind them."""
    names = {item.id: item.name for item in items if isinstance(item, Volume)}
    whose: dict[int, Holder] = {}
    for item in items:
        if isinstance(item, Volume) and item.kind == "point":
            whose[item.id] = Holder("point", item.group)
        elif isinstance(item, Copy):
            whose.update((member, Holder("copy", item.name)) for _, member in item.members)
        elif isinstance(item, Group):
            image = Holder("image", item.name)
            whose.update((kept.image, image) for kept in item.images)
            if item.incoming is not None:
                holder = Holder("incoming", item.name)
                whose.update((volume.shadow, holder) for volume in item.incoming.volumes)
                for copy in item.incoming.copies:
                    whose.update((member, holder) for _, member in copy.members)
    found = [whose.get(id) or Holder("volume", names[id]) for id in tables]
    return found + [Holder("reader", "a first copy that is being sent")] * images


class Counter:
    """One sweep over frozen tables. `segments` are all that a block may have been born in."""

    def __init__(self, read: Read, segments: Iterable[int], segment_slots: int) -> None:
        self._read = read
        self._segments = np.array(sorted(segments), np.uint64)
        self._slots = segment_slots

    def count(self, roots: Sequence[Root], holder_count: int) -> Usage:
        usage = Usage([0] * len(roots), [0] * holder_count)
        tables = [np.frombuffer(root.words, np.uint64) for root in roots]
        chunks, owners = _chunks(tables, [root.holder for root in roots])
        leaves, owners = self._leaves(chunks, owners)
        counts = self._sweep(leaves, owners, usage)
        blocks = self._chunk_blocks(chunks, leaves, counts)
        usage.mapped = [
            int(blocks[np.searchsorted(chunks, table[table != 0])].sum()) for table in tables
        ]
        return usage

    def _leaves(self, chunks: Words, owners_of_chunks: Owners) -> tuple[Words, Owners]:
        """All leaves, ascending, and whose each is."""
        leaves, owners = np.zeros(0, np.uint64), np.zeros(0, np.int32)
        for at in range(0, len(chunks), CHUNKS_AT_ONCE):
            ids = chunks[at : at + CHUNKS_AT_ONCE].tolist()
            rows = np.concatenate([np.frombuffer(words, np.uint64) for words in self._read(ids)])
            mine = np.repeat(owners_of_chunks[at : at + CHUNKS_AT_ONCE], CHUNK_LEAVES)
            there = rows != 0
            leaves, owners = _merge(
                np.concatenate([leaves, rows[there]]), np.concatenate([owners, mine[there]])
            )
        return leaves, owners

    def _chunk_blocks(
        self, chunks: Words, leaves: Words, counts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Mapped blocks below each chunk."""
        found = np.zeros(len(chunks), np.int64)
        for n, words in enumerate(self._read(chunks.tolist())):
            row = np.frombuffer(words, np.uint64)
            found[n] = counts[np.searchsorted(leaves, row[row != 0])].sum()
        return found

    def _sweep(self, leaves: Words, owners: Owners, usage: Usage) -> NDArray[np.int64]:
        """Note whose each block is; the mapped blocks of each leaf."""
        counts = np.zeros(len(leaves), np.int64)
        # Segments between which the blocks of a leaf were born: most leaves are of one window.
        low, high = np.zeros(len(leaves), np.uint64), np.full(len(leaves), _LAST, np.uint64)
        step = max(1, WINDOW_SLOTS // self._slots)
        for start in range(0, len(self._segments), step):
            window = _Window(self._segments[start : start + step], self._slots, len(usage.own))
            here = (low <= window.segments[-1]) & (high >= window.segments[0])
            mine = np.flatnonzero(here)
            for at in range(0, len(mine), BATCH_LEAVES):
                some = mine[at : at + BATCH_LEAVES]
                words = self._read(leaves[some].tolist())
                rows = np.stack([np.frombuffer(w, np.uint64, LEAF_BLOCKS) for w in words])
                if not start:
                    counts[some] = np.count_nonzero(rows, axis=1)
                    # A hole minus one is the largest of all.
                    low[some] = ((rows - np.uint64(1)).min(axis=1)) >> np.uint64(SLOT_BITS)
                    high[some] = rows.max(axis=1) >> np.uint64(SLOT_BITS)
                window.note(rows.reshape(-1), np.repeat(owners[some], LEAF_BLOCKS))
            window.add_to(usage)
        return counts


def _chunks(tables: Sequence[Words], holders: Sequence[int]) -> tuple[Words, Owners]:
    """All chunks of the tables, ascending, and whose each is."""
    chunks, owners = np.zeros(0, np.uint64), np.zeros(0, np.int32)
    for at in range(0, len(tables), TABLES_AT_ONCE):
        some = tables[at : at + TABLES_AT_ONCE]
        mine = np.array(holders[at : at + TABLES_AT_ONCE], np.int32)
        rows, mine = np.concatenate(some), np.repeat(mine, [len(table) for table in some])
        there = rows != 0
        chunks, owners = _merge(
            np.concatenate([chunks, rows[there]]), np.concatenate([owners, mine[there]])
        )
    return chunks, owners


class _Window:
    """Whose the slots of some segments are: 0 nobody's, n + 1 holder n's, or `MANY`."""

    def __init__(self, segments: Words, slots: int, holders: int) -> None:
        self.segments = segments
        self._slots = slots
        narrow = holders < np.iinfo(np.int16).max
        size = len(segments) * slots
        self._owner: NDArray[np.signedinteger[Any]] = (
            np.zeros(size, np.int16) if narrow else np.zeros(size, np.int32)
        )

    def note(self, pointers: Words, holders: Owners) -> None:
        """Pointers and whose each is, in any order, also more than once; zeros are holes."""
        numbers = pointers >> np.uint64(SLOT_BITS)
        at = np.searchsorted(self.segments, numbers)
        at[at == len(self.segments)] = 0
        here = self.segments[at] == numbers  # a hole has no number either
        places = at[here] * self._slots + (pointers[here] & np.uint64(SLOT_MASK)).astype(np.int64)
        owners = np.where(holders == MANY, MANY, holders + 1)[here].astype(self._owner.dtype)
        before = self._owner[places]
        after = np.where((before == 0) | (before == owners), owners, MANY)
        self._owner[places] = after
        # Of several pointers to one place the last has won; the others see that it is not theirs.
        self._owner[places[self._owner[places] != after]] = MANY

    def add_to(self, usage: Usage) -> None:
        rows = self._owner.reshape(-1, self._slots)
        for number, row in zip(self.segments.tolist(), rows, strict=True):
            bits = row != 0
            blocks = int(np.count_nonzero(bits))
            if not blocks:
                continue
            usage.living += blocks
            usage.by_segment[number] = np.packbits(bits)
            sums = np.bincount(row[row > 0])
            for at in np.flatnonzero(sums).tolist():
                usage.own[at - 1] += int(sums[at])


def _merge(ids: Words, owners: Owners) -> tuple[Words, Owners]:
    """Ids once, ascending, and the owner of each, or `MANY`."""
    if not len(ids):
        return ids, owners
    order = np.argsort(ids, kind="stable")
    ids, owners = ids[order], owners[order]
    starts = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
    low, high = np.minimum.reduceat(owners, starts), np.maximum.reduceat(owners, starts)
    return ids[starts], np.where(low == high, low, MANY).astype(np.int32)


def live_blocks(usage: Usage, forwarding: Forwarding, segment_slots: int) -> dict[int, int]:
    """Living blocks of each segment, where they are now."""
    live = {n: int(np.bitwise_count(bits).sum()) for n, bits in usage.by_segment.items()}
    for segment in forwarding.segments():
        bits = usage.by_segment.get(segment)
        if bits is None:
            continue
        slots, places = forwarding.rows(segment)
        alive = np.unpackbits(bits, count=segment_slots)[slots] != 0
        live[segment] -= int(np.count_nonzero(alive))
        numbers, blocks = np.unique(places[alive] >> np.uint64(SLOT_BITS), return_counts=True)
        for number, count in zip(numbers.tolist(), blocks.tolist(), strict=True):
            live[number] = live.get(number, 0) + count
    return live


# -- what dead blocks are kept for


@dataclass(frozen=True, slots=True)
class Pin:
    """Why the cleaner leaves dead blocks where they are."""

    kind: Literal["mirror", "recovery"]
    what: str
    bytes: int  # dead ones; several pins may hold the same


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the log as the cleaner sees it."""

    number: int
    ended: int  # newest record it can hold
    bytes: int
    live: int  # blocks

    @property
    def garbage(self) -> int:
        return max(0, self.bytes - self.live * BLOCK)


def pins(segments: Sequence[Segment], position: int, state: State) -> tuple[list[Pin], int]:
    """What holds dead blocks, and how many bytes of them nothing holds.

    `position` is the segment where recovery begins.
    """
    replayed = sum(s.garbage for s in segments if s.number >= position)
    found = []
    if replayed:
        found.append(Pin("recovery", "the log since the last checkpoint", replayed))
    oldest = None
    for name, lsn, peers in _cuts(state):
        held = sum(s.garbage for s in segments if s.number < position and s.ended > lsn)
        found.append(Pin("mirror", f"group {name}, for {', '.join(peers)}", held))
        oldest = lsn if oldest is None else min(oldest, lsn)
    free = sum(
        s.garbage for s in segments if s.number < position and (oldest is None or s.ended <= oldest)
    )
    return found, free


def _cuts(state: State) -> Iterator[tuple[str, int, list[str]]]:
    """(group, oldest lsn it needs, the peers that need it)."""
    for group in state.groups.values():
        if (pin := log_pin(group)) is not None:
            yield group.name, *pin
