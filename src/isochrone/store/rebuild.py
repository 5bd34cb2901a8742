"""A new metadata store from the log, when the one a pool had is damaged or gone.

Replay from a checkpoint on gives all that the pool is. So a rebuild needs an older checkpoint whose
log is still there: the copy that the checkpointer keeps of the store, or none at all, if no segment
was given back since the pool was made. Nothing is replayed here: the old checkpoint becomes the
store, and the next start of the pool does the rest, as after a crash.

The log is only read. What the pool had for a store is kept beside the new one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from isochrone.errors import Conflict, Damaged
from isochrone.store.format import decode_segment_header, segment_name
from isochrone.store.log import segments
from isochrone.store.metadata import FORMAT, Metadata
from isochrone.store.recover import look_at_tail
from isochrone.types import BLOCK
from isochrone.world.disk import Disk


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a new store was made from."""

    source: str
    checkpoint_lsn: int  # of the older checkpoint; 0: replay begins with the first record
    lsn: int  # newest record of the log


@dataclass(frozen=True, slots=True)
class _Held:
    """A store that is on no disk."""

    opened: Callable[[], apsw.Connection]

    def metadata(self) -> apsw.Connection:
        return self.opened()


def rebuild(disk: Disk) -> Rebuilt:
    """Replace a damaged metadata store; a segment is never changed.

    Raises `Conflict` if the store is good, and `Damaged` with what is missing if nothing can be
    made of copy and log.
    """
    _refuse_newer(disk)
    if _is_good(disk):
        raise Conflict("the metadata store is good: there is nothing to rebuild")
    missing = []
    for attempt in (_from_copy, _from_birth):
        try:
            return attempt(disk)
        except Damaged as e:
            missing.append(e.message)
    raise Damaged(
        f"the metadata store cannot be rebuilt; from its copy: {missing[0]}; from the log alone:"
        f" {missing[1]}",
        hint="nothing was changed; restore the pool's files, or promote the mirror",
    )


def _refuse_newer(disk: Disk) -> None:
    """What another version wrote is not damaged."""
    try:
        db = disk.metadata()
        try:
            row = db.execute("SELECT value FROM setting WHERE key = 'format'").fetchone()
        finally:
            db.close()
    except apsw.Error:
        return
    if row is not None and isinstance(row[0], int) and row[0] > FORMAT:
        raise Conflict(
            f"the pool has metadata format {row[0]}; this version knows {FORMAT}",
            hint="start the version of isochrone that wrote it",
        )


def _is_good(disk: Disk) -> bool:
    try:
        metadata = Metadata(disk)
        try:
            verify(metadata)
            pool, noted = metadata.setting("pool"), int(metadata.setting("durable") or 0)
            if pool is None:
                return not segments(disk)  # beside a log it is a lost one; without, the pool is new
            # One that is older than the log it needs is no use either.
            look_at_tail(disk, bytes.fromhex(str(pool)), metadata.position(), noted)
            return True
        finally:
            metadata.close()
    except Damaged:
        return False


def verify(metadata: Metadata) -> None:
    """Read all that a checkpoint holds. Raises `Damaged`."""
    metadata.position()
    metadata.items()
    metadata.forwards()
    chunks = {id for root in metadata.roots().values() for id in _words(root)} - {0}
    leaves = {id for words in metadata.marked_nodes(sorted(chunks)) for id in _words(words)} - {0}
    for _ in metadata.marked_nodes(sorted(leaves)):
        pass


def _words(row: bytes) -> array[int]:
    if len(row) % 8:
        raise Damaged("a table in the metadata store ends in the middle of a word")
    return array("Q", row)


def _from_copy(disk: Disk) -> Rebuilt:
    if (store := disk.metadata_backup()) is None:
        raise Damaged("there is none")
    try:
        metadata = Metadata(_Held(lambda: disk.metadata_backup() or store))
        try:
            verify(metadata)
            start = metadata.position()
            if start is None:
                raise Damaged("it has no checkpoint")
            tail = look_at_tail(disk, bytes.fromhex(str(metadata.setting("pool"))), start)
        finally:
            metadata.close()
        disk.replace_metadata(store)
        return Rebuilt("the copy of the metadata store and the log", start.lsn, tail.lsn)
    finally:
        store.close()


def _from_birth(disk: Disk) -> Rebuilt:
    numbers = segments(disk)
    if not numbers:
        raise Damaged("there is none")
    file = disk.open(segment_name(numbers[0]))
    try:
        header = decode_segment_header(file.read_at(BLOCK, 0))
    finally:
        file.close()
    if header is None:
        raise Damaged(f"the header of segment {numbers[0]}, the oldest there is, is damaged")
    if (header.first_lsn, header.previous) != (1, 0):
        raise Damaged(
            f"it begins with record {header.first_lsn} in segment {numbers[0]}; older segments were"
            " given back, and what was written before can be found through the tables only"
        )
    tail = look_at_tail(disk, header.pool, None)
    disk.replace_metadata(None)
    new = Metadata(disk)
    try:
        new.initialise(header.pool.hex())
    finally:
        new.close()
    return Rebuilt("the log from its first record on", 0, tail.lsn)
