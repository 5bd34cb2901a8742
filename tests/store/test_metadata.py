from __future__ import annotations

from array import array
from pathlib import Path

import apsw
import pytest

from isochrone.errors import Damaged, NoSpace
from isochrone.store.catalogue import Copy, Group, Volume
from isochrone.store.metadata import (
    FORMAT,
    REBUILD,
    Change,
    Metadata,
    Position,
    item_bytes,
    item_of,
)
from isochrone.world.disk import METADATA_NAME, METADATA_PAGE_BYTES, FolderDisk

IDENTITY = "ab" * 16
SUM = 0xFEDC_BA98_7654_3210  # beyond SQLite's own integers


def change(lsn: int = 1, **fields) -> Change:
    values = {
        "position": Position(lsn, 2, 3, SUM),
        "next_id": 4,
        "next_node": 5,
        "items": {},
        "gone_items": [],
        "roots": {},
        "gone_roots": [],
        "nodes": [],
        "forwards": {},
    }
    return Change(**{**values, **fields})


@pytest.fixture
def disk(tmp_path: Path):
    disk = FolderDisk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def metadata(disk: FolderDisk):
    metadata = Metadata(disk)
    metadata.initialise(IDENTITY)
    yield metadata
    metadata.close()


def reopened(metadata: Metadata, disk: FolderDisk) -> Metadata:
    metadata.close()
    return Metadata(disk)


def test_a_new_one_is_empty(disk: FolderDisk) -> None:
    metadata = Metadata(disk)
    assert metadata.setting("pool") is None
    assert metadata.position() is None
    assert (metadata.items(), metadata.roots(), metadata.node_count()) == ([], {}, 0)
    metadata.close()


def test_a_pool_has_its_name_before_its_first_checkpoint(metadata: Metadata, disk) -> None:
    metadata = reopened(metadata, disk)
    assert (metadata.setting("pool"), metadata.setting("format")) == (IDENTITY, FORMAT)
    assert metadata.position() is None
    metadata.close()


def test_a_checkpoint_comes_back(metadata: Metadata, disk: FolderDisk) -> None:
    volume = Volume(id=3, name="disk", size=1 << 20)
    copy = Copy(name="c", writable=True, stamp=9, lsn=8, members=[(3, 4)])
    group = Group(name="g", role="primary", volumes=[3])
    leaf = array("Q", range(2048))
    metadata.commit(
        change(
            77,
            items={
                ("volume", "3"): item_bytes(volume),
                ("copy", "c"): item_bytes(copy),
                ("group", "g"): item_bytes(group),
            },
            roots={3: array("Q", [0, 9])},
            nodes=[(9, leaf), (10, array("Q", [2**64 - 1]))],
            forwards={6: (b"slots", b"places")},
        )
    )
    metadata = reopened(metadata, disk)
    assert metadata.position() == Position(77, 2, 3, SUM)
    assert (metadata.setting("next_id"), metadata.setting("next_node")) == (4, 5)
    assert metadata.items() == [copy, group, volume]
    assert metadata.roots() == {3: array("Q", [0, 9]).tobytes()}
    assert metadata.node(9) == leaf.tobytes()
    assert metadata.node(10) == b"\xff" * 8
    assert list(metadata.marked_nodes([10, 9])) == [b"\xff" * 8, leaf.tobytes()]
    assert metadata.forwards() == {6: (b"slots", b"places")}
    metadata.commit(
        change(
            78,
            gone_items=[("copy", "c")],
            gone_roots=[3],
            nodes=[(9, array("Q", [1]))],
            forwards={6: None},
        )
    )
    assert metadata.items() == [group, volume]
    assert (metadata.roots(), metadata.forwards()) == ({}, {})
    assert metadata.node(9) == array("Q", [1]).tobytes()
    metadata.close()


def test_a_checkpoint_is_all_or_nothing(metadata: Metadata, disk: FolderDisk) -> None:
    metadata.commit(change(1, roots={1: array("Q", b"old root")}, nodes=[(1, array("Q", [1]))]))

    def breaks_off():
        yield 2, array("Q", [2])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        metadata.commit(change(2, roots={1: array("Q", b"new root")}, nodes=breaks_off()))
    metadata = reopened(metadata, disk)
    assert metadata.position() == Position(1, 2, 3, SUM)
    assert (metadata.roots(), metadata.node_count()) == ({1: b"old root"}, 1)
    metadata.commit(change(3))
    assert metadata.position() == Position(3, 2, 3, SUM)
    metadata.close()


def test_nodes_that_are_not_kept_go_unless_they_are_younger(metadata: Metadata) -> None:
    metadata.commit(change(nodes=[(id, array("Q", [id])) for id in range(1, 11)]))
    assert metadata.keep_nodes({2, 5, 9}, 8) == 5
    assert metadata.node_count() == 5
    for id in (2, 5, 8, 9, 10):
        assert metadata.node(id) == array("Q", [id]).tobytes()
    with pytest.raises(Damaged, match="node 3 of the track tables is missing"):
        metadata.node(3)


def test_a_changed_node_is_damage(metadata: Metadata, disk: FolderDisk) -> None:
    metadata.commit(change(nodes=[(1, array("Q", range(2048)))]))
    db = disk.metadata()
    body = bytearray(metadata.node(1))
    body[1000] ^= 4
    db.execute("UPDATE node SET body = ?", (bytes(body),))
    db.close()
    with pytest.raises(Damaged, match="node 1 of the track tables is damaged"):
        metadata.node(1)


def read_all(disk: FolderDisk) -> None:
    """As a start does."""
    metadata = Metadata(disk)
    try:
        metadata.items()
        metadata.roots()
        metadata.forwards()
    finally:
        metadata.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE item SET kind = 'painting'",
        "UPDATE item SET key = '2'",
        "UPDATE item SET body = x'c1'",
        "UPDATE root SET volume = 2",
        "UPDATE root SET body = x'00'",
        "UPDATE forward SET segment = 5",
        "UPDATE forward SET slots = x'0000000001', places = x'00000000000000'",
        "UPDATE setting SET value = 4 WHERE key = 'slot'",
        "UPDATE setting SET value = value + 1 WHERE key = 'next_id'",
    ],
)
def test_a_row_that_is_not_what_was_written_is_damage(metadata: Metadata, disk, sql: str) -> None:
    metadata.commit(
        change(
            items={("volume", "1"): item_bytes(Volume(id=1, name="a", size=1))},
            roots={1: array("Q", [0])},
            forwards={4: (bytes(4), bytes(8))},
        )
    )
    db = disk.metadata()
    db.execute(sql)
    db.close()
    with pytest.raises(Damaged, match=r"not what was written|lost or changed rows") as e:
        read_all(disk)
    assert e.value.hint == REBUILD


@pytest.mark.parametrize("table", ["item", "root", "forward"])
def test_a_row_that_is_lost_is_damage(metadata: Metadata, disk, table: str) -> None:
    metadata.commit(
        change(
            items={("volume", "1"): item_bytes(Volume(id=1, name="a", size=1))},
            roots={1: array("Q", [0])},
            forwards={4: (bytes(4), bytes(8))},
        )
    )
    db = disk.metadata()
    db.execute(f"DELETE FROM {table}")
    db.close()
    with pytest.raises(Damaged, match="lost or changed rows"):
        Metadata(disk)


@pytest.mark.parametrize(
    ("kind", "body"), [("painting", b"\x80"), ("copy", b"\xc1"), ("copy", b"\x80")]
)
def test_an_item_that_is_not_understood_is_damage(kind: str, body: bytes) -> None:
    with pytest.raises(Damaged, match="cannot be understood"):
        item_of(kind, body)


def test_another_format_is_refused_and_stays_as_it_is(metadata: Metadata, disk, tmp_path) -> None:
    metadata.close()
    db = disk.metadata()
    db.execute("UPDATE setting SET value = 3 WHERE key = 'format'; DROP TABLE root")
    db.close()
    before = (tmp_path / METADATA_NAME).read_bytes()
    with pytest.raises(Damaged, match="metadata format 3; this version knows 2") as e:
        Metadata(disk)
    assert "version of isochrone that wrote it" in e.value.hint
    assert (tmp_path / METADATA_NAME).read_bytes() == before


@pytest.mark.parametrize("data", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_foreign_bytes_are_refused_in_our_own_words(disk, tmp_path, data: bytes) -> None:
    (tmp_path / METADATA_NAME).write_bytes(data)
    with pytest.raises(Damaged, match="metadata store cannot be used"):
        Metadata(disk)
    assert (tmp_path / METADATA_NAME).read_bytes() == data


def test_what_sqlite_finds_damaged_is_damaged(metadata: Metadata, disk, tmp_path) -> None:
    metadata.commit(change(nodes=[(id, array("Q", range(2048))) for id in range(1, 50)]))
    metadata.close()
    data = bytearray((tmp_path / METADATA_NAME).read_bytes())
    data[8 * METADATA_PAGE_BYTES :] = bytes(len(data) - 8 * METADATA_PAGE_BYTES)
    (tmp_path / METADATA_NAME).write_bytes(data)
    metadata = Metadata(disk)
    found = []
    for id in range(1, 50):
        try:
            found.append(metadata.node(id) == array("Q", range(2048)).tobytes())
        except Damaged:
            found.append(False)
    assert False in found
    metadata.close()


def test_a_full_disk_is_no_space_and_no_checkpoint(metadata: Metadata) -> None:
    metadata.commit(change(1, nodes=[(1, array("Q", range(2048)))]))
    metadata._writer.pragma("max_page_count", 10)
    with pytest.raises(NoSpace):
        metadata.commit(change(2, nodes=[(id, array("Q", range(2048))) for id in range(2, 20)]))
    assert metadata.position() == Position(1, 2, 3, SUM)
    assert metadata.node_count() == 1
    metadata._writer.pragma("max_page_count", 2000)
    metadata.commit(change(2, nodes=[(id, array("Q", range(2048))) for id in range(2, 20)]))
    assert metadata.position() == Position(2, 2, 3, SUM)


def test_reading_goes_on_while_a_checkpoint_is_written(metadata: Metadata) -> None:
    metadata.commit(change(1, nodes=[(1, array("Q", [1]))]))
    seen = []

    def nodes():
        yield 1, array("Q", [2])
        seen.append(metadata.node(1))

    metadata.commit(change(2, nodes=nodes()))
    assert seen == [array("Q", [1]).tobytes()]
    assert metadata.node(1) == array("Q", [2]).tobytes()


def test_a_closed_one_says_so_in_our_words(disk: FolderDisk) -> None:
    metadata = Metadata(disk)
    metadata.close()
    with pytest.raises(Damaged) as e:
        metadata.setting("pool")
    assert isinstance(e.value.__cause__, apsw.Error)


def test_a_setting_beside_the_checkpoints(metadata: Metadata, disk: FolderDisk) -> None:
    metadata.commit(change(7))
    metadata.keep_setting("scrub", "one")
    metadata.keep_setting("scrub", "two")
    metadata = reopened(metadata, disk)
    assert metadata.setting("scrub") == "two"
    position = metadata.position()
    assert position is not None and position.lsn == 7
    metadata.close()


def test_what_it_takes_on_the_disk(metadata: Metadata) -> None:
    before = metadata.bytes_on_disk()
    nodes = [(n, array("Q", range(2048))) for n in range(1, 101)]
    forwards = {1: (bytes(4), bytes(8)), 2: None}
    wanted = change(nodes=nodes, roots={1: array("Q", [0])}, forwards=forwards)
    assert wanted.size == 100 * 16384 + 8 + 12
    metadata.commit(wanted)
    assert metadata.bytes_on_disk() - before > 100 * 16384
