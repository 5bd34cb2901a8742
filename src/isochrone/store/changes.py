"""What changed in mirrored groups since their cuts: change recording.

A *generation* belongs to a mark and holds, for each volume of the group, a bitmap of the tracks
that changed after this cut and before the next one that is remembered. The record that changes a
table changes the bitmap too, live and in replay, and a checkpoint saves both: so a bitmap is as
durable as the log. It says nothing too little; it may say too much (a write of the same bytes).

What changed since a cut is the union of all generations from its mark on. Two things can bring a
secondary on from a mark: the log after it, while it is kept (`log_serves`), or the tracks that
changed since, from the tables as they are now (`since`). The log of a secondary does not hold the
writes of its volumes, so whoever follows a secondary is always served the second way.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from isochrone.types import BLOCK, TRACK

if TYPE_CHECKING:
    from isochrone.store.catalogue import Catalogue, Group, Mark, Session

TRACK_BLOCKS: Final = TRACK // BLOCK
TRACK_SHIFT: Final = TRACK_BLOCKS.bit_length() - 1  # from a block to its track
INCOMING: Final = 0  # in the place of a cut: what the shadows of a group have got so far
CONTAINER_TRACKS: Final = 1 << 16  # what one container of a bitmap covers: 4 GiB of a volume
CONTAINER_BYTES: Final = 8 * 1024 + 16  # at most, with its part of the header
PIECE_BYTES_MIN: Final = 2 * CONTAINER_BYTES  # of a piece of a bitmap: at least one container fits
assert TRACK_BLOCKS == 1 << TRACK_SHIFT

Tracks = dict[int, BitMap]  # by volume


class ChangedTracks(msgspec.Struct, kw_only=True):
    """One bitmap of a generation, as a checkpoint keeps it."""

    group: str
    cut: int  # of the mark it belongs to, or `INCOMING`
    volume: int  # with `INCOMING`, a shadow
    tracks: bytes  # portable format of roaring bitmaps

    @property
    def key(self) -> tuple[str, str]:
        return _key(self.group, self.cut, self.volume)


def _key(group: str, cut: int, volume: int) -> tuple[str, str]:
    return "changed", f"{group}/{cut:020d}/{volume:010d}"


class Generation:
    """Tracks by volume. A bitmap only grows while it is here: its count tells if it changed."""

    __slots__ = ("_saved", "cut", "tracks")

    def __init__(self, cut: int) -> None:
        self.cut = cut
        self.tracks: Tracks = {}
        self._saved: dict[int, tuple[int, bytes]] = {}  # volume -> tracks then, and the item

    def merge(self, tracks: Tracks) -> None:
        """Take these in; the bitmaps are ours from now on."""
        for volume, bits in tracks.items():
            mine = self.tracks.get(volume)
            if mine is None:
                self.tracks[volume] = bits
            else:
                mine |= bits

    def forget(self, volume: int) -> None:
        """Have nothing of a volume. Its bitmap may grow anew to a count that was saved before."""
        self.tracks.pop(volume, None)
        self._saved.pop(volume, None)

    def rows(self, group: str) -> Iterator[tuple[tuple[str, str], bytes]]:
        """Items for a checkpoint; the same object again for what has not changed."""
        for volume, bits in self.tracks.items():
            count, body = self._saved.get(volume, (0, b""))
            if count != len(bits):
                item = ChangedTracks(
                    group=group, cut=self.cut, volume=volume, tracks=bits.serialize()
                )
                body = msgspec.msgpack.encode(item)
                self._saved[volume] = len(bits), body
            if body:
                yield _key(group, self.cut, volume), body


class Changes:
    """The generations of all groups of a pool. Changed by apply steps and commits alone."""

    def __init__(self) -> None:
        self._generations: dict[str, list[Generation]] = {}  # of each group, ascending
        self._incoming: dict[str, Generation] = {}  # of groups that are being received
        # Volume or shadow -> where its changes are noted. Those of no group with a mark are absent.
        self._recording: dict[int, Tracks] = {}

    # -- noting

    def note(self, volume: int, block: int, count: int) -> None:
        """Blocks of a volume are written, discarded, or become others."""
        recording = self._recording.get(volume)
        if recording is None:
            return
        bits = recording.get(volume)
        if bits is None:
            bits = recording[volume] = BitMap()
        first, last = block >> TRACK_SHIFT, block + count - 1 >> TRACK_SHIFT
        if first == last:
            bits.add(first)  # the usual write: this is on its way, and costs less
        else:
            bits.add_range(first, last + 1)

    def note_blocks(self, volume: int, blocks: NDArray[np.uint64]) -> None:
        """The same for any blocks in any order."""
        recording = self._recording.get(volume)
        if recording is None or not len(blocks):
            return
        tracks = np.unique(blocks >> np.uint64(TRACK_SHIFT)).astype(np.uint32)
        recording.setdefault(volume, BitMap()).update(array("I", tracks.tobytes()))

    # -- generations

    def begin(self, group: str, cut: int, volumes: Iterable[int]) -> None:
        """From now on changes belong to this cut, the newest of the group."""
        generations = self._generations.setdefault(group, [])
        assert not generations or cut > generations[-1].cut, (group, cut)
        generations.append(newest := Generation(cut))
        self._recording.update(dict.fromkeys(volumes, newest.tracks))

    def join(self, group: str, volume: int) -> None:
        """A volume is new in a group that may have generations."""
        if generations := self._generations.get(group):
            self._recording[volume] = generations[-1].tracks

    def leave(self, group: str, volume: int) -> None:
        """A volume is not in a group any more: nothing of it is noted, and it may come again."""
        self._recording.pop(volume, None)
        for generation in self._generations.get(group, ()):
            generation.forget(volume)

    def keep(self, group: str, cuts: Collection[int]) -> None:
        """Forget all other cuts; what was noted for one belongs to the one before, if any."""
        kept: list[Generation] = []
        for generation in self._generations.get(group, ()):
            if generation.cut in cuts:
                kept.append(generation)
            elif kept:
                kept[-1].merge(generation.tracks)
        before = self._generations.pop(group, None)
        if not kept:
            self._stop(before[-1].tracks if before else None)
            return
        assert before is not None
        self._generations[group] = kept
        if kept[-1] is not before[-1]:
            self._redirect(before[-1].tracks, kept[-1].tracks)

    def _stop(self, tracks: Tracks | None) -> None:
        for volume in [v for v, found in self._recording.items() if found is tracks]:
            del self._recording[volume]

    def _redirect(self, old: Tracks, new: Tracks) -> None:
        for volume, found in self._recording.items():
            if found is old:
                self._recording[volume] = new

    def forget(self, group: str) -> None:
        """Nothing is known of any cut any more, and nothing recorded."""
        self.keep(group, ())

    def of(self, group: str) -> list[Generation]:
        """Generations of a group, ascending."""
        return self._generations.get(group, [])

    # -- what a secondary receives

    def begin_incoming(self, group: str, shadows: Iterable[int]) -> None:
        found = self._incoming[group] = Generation(INCOMING)
        self._recording.update(dict.fromkeys(shadows, found.tracks))

    def end_incoming(self, group: str) -> Tracks:
        """What changed in the shadows since `begin_incoming`, by shadow; it is not kept here."""
        found = self._incoming.pop(group, None)
        if found is None:
            return {}
        self._stop(found.tracks)
        return found.tracks

    def add(self, volume: int, tracks: BitMap) -> None:
        """A whole set of tracks of a volume changed at once; the bitmap is ours from now on."""
        recording = self._recording.get(volume)
        if recording is None:
            return
        if volume in recording:
            recording[volume] |= tracks
        else:
            recording[volume] = tracks

    def drop_volume(self, volume: int) -> None:
        """A volume is gone; what was noted of it stays, and is nobody's."""
        self._recording.pop(volume, None)

    # -- checkpoints

    def rows(self) -> dict[tuple[str, str], bytes]:
        """Everything, as items of the metadata store."""
        found: dict[tuple[str, str], bytes] = {}
        for group, generations in self._generations.items():
            for generation in generations:
                found.update(generation.rows(group))
        for group, incoming in self._incoming.items():
            found.update(incoming.rows(group))
        return found

    def load(self, groups: Iterable[Group], rows: Iterable[ChangedTracks]) -> None:
        """Fill this, which is empty, from a checkpoint. Raises `ValueError` for what is no bitmap.

        Marks of builds that recorded nothing have no generation: what changed since is not known.
        """
        found: dict[tuple[str, int], Tracks] = {}
        for row in rows:
            tracks = found.setdefault((row.group, row.cut), {})
            tracks[row.volume] = decode(row.tracks, 1 << 32)
        for group in groups:
            for mark in group.marks:
                if mark.recorded:
                    self.begin(group.name, mark.cut, group.volumes)
                    self.of(group.name)[-1].merge(found.get((group.name, mark.cut), {}))
            if group.incoming is not None and group.incoming.recorded:
                self.begin_incoming(group.name, (v.shadow for v in group.incoming.volumes))
                self._incoming[group.name].merge(found.get((group.name, INCOMING), {}))


# -- what others ask


def since(state: Catalogue, group: Group, cut: int) -> Tracks | None:
    """Tracks of each volume that may differ from what it was at a cut; None: it is not known.

    None means that everything may differ, so a first copy is needed. Volumes without a change are
    left out. After a shrinking there may be tracks behind the end of a volume. The bitmaps belong
    to the caller.
    """
    parts = _parts(state, group, cut)
    if parts is None:
        return None
    return {volume: BitMap.union(*bits) for volume, bits in parts.items()}


def count_since(state: Catalogue, group: Group, cut: int) -> int | None:
    """How many tracks `since` would name; times `TRACK`, the bytes that they cover.

    Bitmaps are counted and not copied where two generations hold all there is of a volume, so it
    can be asked for every second: 2 MiB are looked at for each TiB that is written all over.
    """
    parts = _parts(state, group, cut)
    return None if parts is None else sum(map(_count, parts.values()))


def _parts(state: Catalogue, group: Group, cut: int) -> dict[int, list[BitMap]] | None:
    generations = state.changes.of(group.name)
    at = next((n for n, generation in enumerate(generations) if generation.cut == cut), None)
    if at is None:
        return None
    parts: dict[int, list[BitMap]] = {}
    for generation in generations[at:]:
        for volume, bits in generation.tracks.items():
            if bits:
                parts.setdefault(volume, []).append(bits)
    return parts


def _count(parts: list[BitMap]) -> int:
    if len(parts) == 1:
        return len(parts[0])
    large = max(parts, key=len)
    others = [bits for bits in parts if bits is not large]
    small = others[0] if len(others) == 1 else BitMap.union(*others)
    return large.union_cardinality(small)


def log_serves(group: Group, session: Session, mark: Mark) -> bool:
    """Whether the log after a mark is kept, and holds all that a session lacks that is at it.

    If not, only `since` can bring it on: the log may be given back already, or a record changed a
    volume without any data in the log and without an image of it (`Group.resend_before_lsn`).
    """
    return (
        group.role == "primary"
        and session.keeps_log
        and mark.lsn >= max(group.resend_before_lsn, session.whole_lsn)
        # What it has had already is not kept for it, be it that it was set back to an older image.
        and mark.cut >= (session.cut or session.sent_cut)
        # What hosts wrote since a relation was made, it may not know: `mirrored.settled`.
        and (session.reconciled or mark.lsn >= group.discarded_lsn)
    )


def log_pin(group: Group) -> tuple[int, list[str]] | None:
    """(lsn, peers): records after this one are still to be sent to these; None: to nobody."""
    if group.role != "primary":
        return None
    pins: dict[str, int] = {}
    for peer, session in group.sessions.items():
        marks = (mark.lsn for mark in group.marks if log_serves(group, session, mark))
        if (lsn := min(marks, default=None)) is not None:
            pins[peer] = lsn
    if not pins:
        return None
    least = min(pins.values())
    return least, sorted(peer for peer, lsn in pins.items() if lsn == least)


# -- bitmaps as bytes


def encode(tracks: BitMap, bytes_max: int) -> Iterator[bytes]:
    """A bitmap in pieces of at most so many bytes, for `decode`; their union is the bitmap."""
    assert bytes_max >= PIECE_BYTES_MIN
    step = bytes_max // CONTAINER_BYTES * CONTAINER_TRACKS
    end, at = (tracks.max() + 1 if tracks else 0), 0
    while at < end:
        at = tracks.next_set_bit(at) // CONTAINER_TRACKS * CONTAINER_TRACKS
        piece = tracks & BitMap(range(at, at + step))
        piece.run_optimize()
        yield piece.serialize()
        at += step


def decode(body: bytes, tracks_max: int) -> BitMap:
    """A bitmap of tracks below a bound, from anybody: raises `ValueError` for what is none.

    The bytes are bounded by whoever received them; a bitmap needs about as many. CRoaring reads
    them within their bounds, and its validation refuses what would not be a bitmap.
    """
    if not body:
        raise ValueError("a set of tracks has no bytes")
    tracks = BitMap.deserialize(body)
    if tracks and tracks.max() >= tracks_max:
        raise ValueError(f"track {tracks.max()} of a volume with {tracks_max}")
    return tracks


def whole(size: int) -> BitMap:
    """Every track of a volume of so many bytes."""
    return BitMap(range(-(-size // TRACK)))


def size_of(changed: Mapping[int, BitMap]) -> int:
    """Bytes that tracks cover."""
    return sum(map(len, changed.values())) * TRACK
