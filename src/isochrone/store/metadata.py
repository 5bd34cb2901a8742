"""The metadata store: one SQLite file that holds a checkpoint of catalogue and track tables.

    setting(key, value)     format, pool (identity), lsn, segment, slot, sum, next_id,
                            next_node; scrub (how far a scrub is, JSON); durable; backup;
                            seal
    item(kind, key, sum, body)   volumes, copies, groups, changed tracks and more, MessagePack
    root(volume, sum, body)      chunk ids of a table, 8 bytes each
    forward(segment, sum, slots, places)  moved blocks: slots (4 bytes each), places (8 bytes each)
    node(id, sum, body)          words of a chunk or leaf, 8 bytes each

A checkpoint is one transaction. What it says about blocks is durable in the log before it commits.
SQLite does not checksum its pages, hence a sum on each row, and a *seal* over the settings and the
sums of all rows but nodes: a row that is lost is noticed as well. Nodes are missed when needed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Final, Protocol

import apsw
import msgspec

from isochrone.errors import Damaged, NoSpace
from isochrone.store.catalogue import Copy, Group, Relation, Schedule, TrustedTime, Volume
from isochrone.store.changes import ChangedTracks
from isochrone.store.format import checksum
from isochrone.store.points import Window
from isochrone.store.probes import Probes
from isochrone.world.disk import Disk

FORMAT: Final = 2
REBUILD: Final = "run: isochrone check DIR --rebuild-metadata"
_MASK: Final = (1 << 64) - 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS setting(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS item(
    kind TEXT, key TEXT, sum INTEGER, body BLOB, PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS root(volume INTEGER PRIMARY KEY, sum INTEGER, body BLOB);
CREATE TABLE IF NOT EXISTS forward(
    segment INTEGER PRIMARY KEY, sum INTEGER, slots BLOB, places BLOB);
CREATE TABLE IF NOT EXISTS node(id INTEGER PRIMARY KEY, sum INTEGER, body BLOB);
"""

_SEALED: Final = {"item": ("kind", "key"), "root": ("volume",), "forward": ("segment",)}

ITEM_KINDS: Final = {
    "volume": Volume, "copy": Copy, "group": Group, "relation": Relation, "schedule": Schedule,
    "clock": TrustedTime, "window": Window, "changed": ChangedTracks,
    "probes": Probes,
}  # fmt: skip
Item = Volume | Copy | Group | Relation | Schedule | TrustedTime | Window | ChangedTracks | Probes


@dataclass(slots=True)
class Position:
    """How far into the log a checkpoint reaches, and where replay starts."""

    lsn: int  # newest record in the checkpoint
    segment: int  # replay starts here,
    slot: int  # at this slot
    sum: int  # checksum of the last batch before it; 0: none


@dataclass(slots=True)
class Change:
    """What one checkpoint writes."""

    position: Position
    next_id: int
    next_node: int
    items: Mapping[tuple[str, str], bytes]
    gone_items: Iterable[tuple[str, str]]
    roots: Mapping[int, array[int]]
    gone_roots: Iterable[int]
    nodes: Sequence[tuple[int, array[int]]]
    forwards: Mapping[int, tuple[bytes, bytes] | None]  # None: nothing moved any more

    @property
    def size(self) -> int:
        """Bytes of tables, catalogue and moves that it writes."""
        rows = [*self.items.values()]
        rows += [part for moves in self.forwards.values() if moves for part in moves]
        words = sum(map(len, self.roots.values())) + sum(len(words) for _, words in self.nodes)
        return sum(map(len, rows)) + 8 * words


def item_bytes(item: Item) -> bytes:
    return msgspec.msgpack.encode(item)


def item_of(kind: str, body: bytes) -> Item:
    """Raises `Damaged` for what no item is."""
    try:
        item: Item = msgspec.msgpack.decode(body, type=ITEM_KINDS[kind])
        return item
    except (KeyError, msgspec.MsgspecError) as e:
        raise Damaged(
            f"an item of the metadata store cannot be understood: {e}", hint=REBUILD
        ) from e


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except apsw.FullError as e:
        raise NoSpace("the disk under the pool is full; the metadata store cannot grow") from e
    except apsw.Error as e:
        raise Damaged(f"the metadata store cannot be used: {e}", hint=REBUILD) from e


class Holder(Protocol):
    """What a metadata store is kept on: a disk."""

    def metadata(self) -> apsw.Connection: ...


class Metadata:
    """An open metadata store.

    Raises `Damaged` when it is not what was written, `NoSpace` when it cannot grow.
    """

    @_our_errors()
    def __init__(self, disk: Holder) -> None:
        self._db = disk.metadata()  # used on the loop
        self._writer = disk.metadata()  # used by checkpoints, in a thread
        self._tallies = dict.fromkeys(_SEALED, (0, 0))  # rows of a table, and xor of their sums
        try:
            if self._check_format():  # first: what another version wrote stays as it is
                self._check_seal()
            else:
                self._db.execute(_SCHEMA)
        except BaseException:
            self.close()
            raise

    def _check_format(self) -> bool:
        """Whether there is one already. Raises `Damaged` for that of another version."""
        if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'setting'").fetchone():
            return False
        found = self.setting("format")
        if found is None:
            return False
        if found != FORMAT:
            raise Damaged(
                f"the pool has metadata format {found}; this version knows {FORMAT}",
                hint="start the version of isochrone that wrote it",
            )
        return True

    def _check_seal(self) -> None:
        for table in _SEALED:
            sums = [sum for (sum,) in self._writer.execute(f"SELECT sum FROM {table}")]
            self._tallies[table] = len(sums), reduce(xor, sums, 0)
        if self.setting("seal") != self._seal():
            raise Damaged(
                "the metadata store has lost or changed rows; what it says cannot be trusted",
                hint=REBUILD,
            )

    def _seal(self) -> int:
        """A checksum over the settings, and over the sums of all items, roots and forwards."""
        cells = self._writer.execute(
            "SELECT key, value FROM setting WHERE key <> 'seal' ORDER BY key"
        )
        parts: list[object] = [tuple(row) for row in cells]
        parts += self._tallies.values()
        return _signed(checksum(repr(parts).encode()))

    @_our_errors()
    def setting(self, key: str) -> int | str | None:
        row = self._db.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @_our_errors()
    def initialise(self, pool: str) -> None:
        """Name a new pool."""
        with self._transaction():
            self._set("format", FORMAT)
            self._set("pool", pool)

    @_our_errors()
    def keep_setting(self, key: str, value: str) -> None:
        """In a transaction of its own; in a thread, while no checkpoint is written."""
        with self._transaction():
            self._set(key, value)

    @_our_errors()
    def bytes_on_disk(self) -> int:
        """Size of the database, without what its write-ahead log holds."""
        row = self._db.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. On a full disk SQLite rolls back by itself, and apsw's own fails."""
        tallies = dict(self._tallies)
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._set("seal", self._seal())
            self._writer.execute("COMMIT")
        except BaseException:
            self._tallies = tallies
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _set(self, key: str, value: int | str) -> None:
        self._writer.execute("INSERT OR REPLACE INTO setting VALUES(?, ?)", (key, value))

    # -- writing

    @_our_errors()
    def commit(self, change: Change) -> None:
        with self._transaction():
            self._put_nodes(change.nodes)
            for key, body in change.items.items():
                self._put("item", key, body)
            for key in change.gone_items:
                self._delete("item", key)
            for volume, words in change.roots.items():
                self._put("root", (volume,), words.tobytes())
            for volume in change.gone_roots:
                self._delete("root", (volume,))
            for segment, moves in change.forwards.items():
                if moves is None:
                    self._delete("forward", (segment,))
                else:
                    self._put("forward", (segment,), *moves)
            self._set("lsn", change.position.lsn)
            self._set("segment", change.position.segment)
            self._set("slot", change.position.slot)
            self._set("sum", _signed(change.position.sum))
            self._set("next_id", change.next_id)
            self._set("next_node", change.next_node)

    def _put(self, table: str, key: tuple[int | str, ...], *cells: bytes) -> None:
        """Add or replace a row that the seal covers."""
        self._delete(table, key)
        sum = _row_sum(*key, *cells)
        row = (*key, sum, *cells)
        self._writer.execute(f"INSERT INTO {table} VALUES({', '.join('?' * len(row))})", row)
        rows, sums = self._tallies[table]
        self._tallies[table] = rows + 1, sums ^ sum

    def _delete(self, table: str, key: tuple[int | str, ...]) -> None:
        """Delete a row that the seal covers, if it is there.

        What the seal says goes by the sums of the rows that change: the others are not read, so a
        row that is lost meanwhile is missed by the next who opens the store.
        """
        where = " AND ".join(f"{name} = ?" for name in _SEALED[table])
        deleted = self._writer.execute(f"DELETE FROM {table} WHERE {where} RETURNING sum", key)
        for (sum,) in deleted:
            rows, sums = self._tallies[table]
            self._tallies[table] = rows - 1, sums ^ sum

    def _put_nodes(self, nodes: Iterable[tuple[int, array[int]]]) -> None:
        self._writer.executemany(
            "INSERT OR REPLACE INTO node VALUES(?, ?, ?)",
            ((id, _signed(checksum(words)), words.tobytes()) for id, words in nodes),
        )

    @_our_errors()
    def add_nodes(self, nodes: Iterable[tuple[int, array[int]]]) -> None:
        """Nodes that nothing leads to yet."""
        with self._transaction():
            self._put_nodes(nodes)

    @_our_errors()
    def node_count(self) -> int:
        row = self._writer.execute("SELECT count(*) FROM node").fetchone()
        return int(row[0]) if row else 0

    @_our_errors()
    def keep_nodes(self, live: set[int], below: int) -> int:
        """Delete every node under id `below` that is not live; how many went."""
        dead = [
            (id,)
            for (id,) in self._writer.execute("SELECT id FROM node WHERE id < ?", (below,))
            if id not in live
        ]
        with self._transaction():
            self._writer.executemany("DELETE FROM node WHERE id = ?", dead)
        return len(dead)

    # -- reading

    def node(self, id: int) -> bytes:
        return self._node(self._db, id)

    @staticmethod
    @_our_errors()
    def _node(db: apsw.Connection, id: int) -> bytes:
        row = db.execute("SELECT sum, body FROM node WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise Damaged(
                f"node {id} of the track tables is missing from the metadata store", hint=REBUILD
            )
        if _signed(checksum(row[1])) != row[0]:
            raise Damaged(
                f"node {id} of the track tables is damaged in the metadata store", hint=REBUILD
            )
        return bytes(row[1])

    def position(self) -> Position | None:
        """None before the first checkpoint."""
        lsn, segment, slot = (self.setting(key) for key in ("lsn", "segment", "slot"))
        if lsn is None or segment is None or slot is None:
            return None
        sum = self.setting("sum")
        if sum is None:
            raise Damaged(
                "the metadata store does not say which batch its checkpoint ends with", hint=REBUILD
            )
        return Position(int(lsn), int(segment), int(slot), int(sum) & _MASK)

    @_our_errors()
    def items(self) -> list[Item]:
        rows = self._db.execute("SELECT kind, key, sum, body FROM item ORDER BY kind, key")
        return [item_of(kind, _verified(sum, kind, key, body)) for kind, key, sum, body in rows]

    @_our_errors()
    def roots(self) -> dict[int, bytes]:
        rows = self._db.execute("SELECT volume, sum, body FROM root")
        return {volume: _verified(sum, volume, body) for volume, sum, body in rows}

    @_our_errors()
    def forwards(self) -> dict[int, tuple[bytes, bytes]]:
        found = {}
        for segment, sum, slots, places in self._db.execute("SELECT * FROM forward"):
            _verified(sum, segment, slots, places)
            found[segment] = (slots, places)
        return found

    def marked_nodes(self, ids: Iterable[int]) -> Iterator[bytes]:
        """Words of nodes, from the last checkpoint; for a thread: not by the loop's handle."""
        for id in ids:
            yield self._node(self._writer, id)

    # -- the copy of it

    @property
    def kept_from(self) -> int | None:
        """The log is kept from this segment on, for a rebuild; None if a rebuild was given up."""
        segment = int(self.setting("backup") or 0)
        return None if segment < 0 else segment

    @_our_errors()
    def bytes_used(self) -> int:
        """Size of the store without the pages that it keeps for later."""
        pages, free, size = (
            int(self._db.pragma(name)) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    @_our_errors()
    def back_up(self, disk: Disk, segment: int) -> None:
        """Copy the store, whose replay starts at a segment, to where its damage does not reach.

        Raises `OSError` or `NoSpace`; then the last copy is still there.
        """
        disk.back_up_metadata(self._writer)
        with self._transaction():
            self._set("backup", segment)

    @_our_errors()
    def give_up_backup(self) -> None:
        """Let segments go that a rebuild would need."""
        with self._transaction():
            self._set("backup", -1)

    def close(self) -> None:
        self._db.close()
        self._writer.close()


def _row_sum(*cells: int | str | bytes) -> int:
    """What the sum of a row must be: over its key, the lengths of its cells and their bytes."""
    head = repr([len(cell) if isinstance(cell, bytes) else cell for cell in cells]).encode()
    return _signed(checksum(head + b"".join(cell for cell in cells if isinstance(cell, bytes))))


def _verified(sum: int, *cells: int | str | bytes) -> bytes:
    """The last cell of a row that is what was written."""
    if _row_sum(*cells) != sum:
        raise Damaged("a row of the metadata store is not what was written", hint=REBUILD)
    last = cells[-1]
    assert isinstance(last, bytes)
    return last


def _signed(value: int) -> int:
    """SQLite's integers are signed."""
    return value - (1 << 64) if value >> 63 else value
