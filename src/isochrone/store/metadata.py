"""The metadata store: one SQLite file that holds a checkpoint of catalogue and track tables.

    setting(key, value)     format, pool (identity), lsn, segment, slot, next_id, next_node
    item(kind, key, body)   volumes, copies and groups, MessagePack
    root(volume, body)      chunk ids of a table, 8 bytes each
    forward(segment, slots, places)  moved blocks: slots (4 bytes each), places (8 bytes each)
    node(id, sum, body)     words of a chunk or leaf, 8 bytes each, with their xxh3-64

A checkpoint is one transaction. What it says about blocks is durable in the log before it commits.
SQLite does not checksum its pages, hence the sums on nodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import apsw
import msgspec

from isochrone.errors import Damaged, NoSpace
from isochrone.store.format import checksum
from isochrone.store.state import Copy, Group, Volume
from isochrone.world.disk import Disk

FORMAT: Final = 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS setting(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS item(
    kind TEXT, key TEXT, body BLOB, PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS root(volume INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE IF NOT EXISTS forward(segment INTEGER PRIMARY KEY, slots BLOB, places BLOB);
CREATE TABLE IF NOT EXISTS node(id INTEGER PRIMARY KEY, sum INTEGER, body BLOB);
"""

_TYPES: Final = {"volume": Volume, "copy": Copy, "group": Group}
Item = Volume | Copy | Group


@dataclass(slots=True)
class Position:
    """How far into the log a checkpoint reaches, and where replay starts."""

    lsn: int  # newest record in the checkpoint
    segment: int  # replay starts here,
    slot: int  # at this slot


@dataclass(slots=True)
class Change:
    """What one checkpoint writes."""

    position: Position
    next_id: int
    next_node: int
    items: Mapping[tuple[str, str], bytes]
    gone_items: Iterable[tuple[str, str]]
    roots: Mapping[int, bytes]
    gone_roots: Iterable[int]
    nodes: Iterable[tuple[int, array[int]]]
    forwards: Mapping[int, tuple[bytes, bytes] | None]  # None: nothing moved any more


def item_bytes(item: Item) -> bytes:
    return msgspec.msgpack.encode(item)


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except apsw.FullError as e:
        raise NoSpace("the disk under the pool is full; the metadata store cannot grow") from e
    except apsw.Error as e:
        raise Damaged(f"the metadata store cannot be used: {e}") from e


class Metadata:
    """An open metadata store.

    Raises `Damaged` when it is not what was written, `NoSpace` when it cannot grow.
    """

    @_our_errors()
    def __init__(self, disk: Disk) -> None:
        self._db = disk.metadata()  # used on the loop
        self._writer = disk.metadata()  # used by checkpoints, in a thread
        try:
            self._check_format()  # first: what another version wrote stays as it is
            self._db.execute(_SCHEMA)
        except BaseException:
            self.close()
            raise

    def _check_format(self) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'setting'").fetchone():
            return  # a new one
        found = self.setting("format")
        if found is not None and found != FORMAT:
            raise Damaged(
                f"the pool has metadata format {found}; this version knows {FORMAT}",
                hint="start the version of isochrone that wrote it",
            )

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. On a full disk SQLite rolls back by itself, and apsw's own fails."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _set(self, key: str, value: int | str) -> None:
        self._writer.execute("INSERT OR REPLACE INTO setting VALUES(?, ?)", (key, value))

    # -- writing

    @_our_errors()
    def commit(self, change: Change) -> None:
        with self._transaction():
            self._writer.executemany(
                "INSERT OR REPLACE INTO node VALUES(?, ?, ?)",
                ((id, _signed(checksum(words)), words.tobytes()) for id, words in change.nodes),
            )
            self._writer.executemany(
                "INSERT OR REPLACE INTO item VALUES(?, ?, ?)",
                ((kind, key, body) for (kind, key), body in change.items.items()),
            )
            self._writer.executemany(
                "DELETE FROM item WHERE kind = ? AND key = ?", change.gone_items
            )
            self._writer.executemany(
                "INSERT OR REPLACE INTO root VALUES(?, ?)", change.roots.items()
            )
            self._writer.executemany(
                "DELETE FROM root WHERE volume = ?", ((v,) for v in change.gone_roots)
            )
            for segment, moves in change.forwards.items():
                if moves is None:
                    self._writer.execute("DELETE FROM forward WHERE segment = ?", (segment,))
                else:
                    row = (segment, *moves)
                    self._writer.execute("INSERT OR REPLACE INTO forward VALUES(?, ?, ?)", row)
            self._set("lsn", change.position.lsn)
            self._set("segment", change.position.segment)
            self._set("slot", change.position.slot)
            self._set("next_id", change.next_id)
            self._set("next_node", change.next_node)

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
            raise Damaged(f"node {id} of the track tables is missing from the metadata store")
        if _signed(checksum(row[1])) != row[0]:
            raise Damaged(f"node {id} of the track tables is damaged in the metadata store")
        return bytes(row[1])

    def position(self) -> Position | None:
        """None before the first checkpoint."""
        lsn, segment, slot = (self.setting(key) for key in ("lsn", "segment", "slot"))
        if lsn is None or segment is None or slot is None:
            return None
        return Position(int(lsn), int(segment), int(slot))

    @_our_errors()
    def items(self) -> list[Item]:
        rows = self._db.execute("SELECT kind, body FROM item ORDER BY kind, key")
        try:
            return [msgspec.msgpack.decode(body, type=_TYPES[kind]) for kind, body in rows]
        except (KeyError, msgspec.MsgspecError) as e:
            raise Damaged(f"an item of the metadata store cannot be understood: {e}") from e

    @_our_errors()
    def roots(self) -> dict[int, bytes]:
        return dict(self._db.execute("SELECT volume, body FROM root"))

    @_our_errors()
    def forwards(self) -> dict[int, tuple[bytes, bytes]]:
        rows = self._db.execute("SELECT segment, slots, places FROM forward")
        return {segment: (slots, places) for segment, slots, places in rows}

    def marked_nodes(self, ids: Iterable[int]) -> Iterator[bytes]:
        """Words of nodes, from the last checkpoint; for a thread: not by the loop's handle."""
        for id in ids:
            yield self._node(self._writer, id)

    def close(self) -> None:
        self._db.close()
        self._writer.close()


def _signed(value: int) -> int:
    """SQLite's integers are signed."""
    return value - (1 << 64) if value >> 63 else value
