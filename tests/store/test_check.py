from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from isochrone.errors import Damaged
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool, findings
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, MIB
from isochrone.world.disk import FolderDisk
from tests.store.pools import Rig, device, get, open_on, pattern, put, settle


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    """Four blocks in a volume, one more in its clone, and a group."""
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    volumes.create(pool, "other", MIB)
    put(pool, "disk", 0, pattern(1, 4 * BLOCK))
    copies.take(pool, ["disk"], name="c", writable=True)
    put(pool, "disk@c", 0, pattern(2))
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)))
    return pool


def test_a_good_pool(pool: Pool, rig: Rig) -> None:
    assert check_pool(pool) == 5  # shared ones once
    device(pool, "disk").discard(0, 2 * BLOCK)
    pool.commit()
    assert check_pool(pool) == 4  # the first is the clone's own, the second still shared
    settle(pool.checkpoint())
    assert check_pool(rig.kill()) == 4


def test_an_empty_pool(rig: Rig) -> None:
    assert check_pool(rig.open()) == 0


@pytest.mark.parametrize("block", range(4))
def test_every_rotten_block_is_found(pool: Pool, rig: Rig, block: int) -> None:
    first = next(pool.state.forest.runs(pool.state.tables[1], block, 1)).pointer & 0xFFFFFF
    for bit in (0, 8 * BLOCK - 1):
        rig.platter.flip("segment-0000000000000001", first * BLOCK + bit // 8, bit % 8)
        with pytest.raises(Damaged, match=f"slot {first} of segment 1"):
            check_pool(pool)
        rig.platter.flip("segment-0000000000000001", first * BLOCK + bit // 8, bit % 8)
    assert check_pool(pool) == 5


def test_a_disk_that_cannot_read(pool: Pool, rig: Rig) -> None:
    rig.platter.faults.read_error = 1.0
    with pytest.raises(Damaged, match="cannot read"):
        check_pool(pool)


def test_a_block_beyond_the_end(pool: Pool) -> None:
    pool.state.forest.map(pool.state.tables[2], MIB // BLOCK, 77, array("Q", [1]))
    with pytest.raises(Damaged, match="other maps a block beyond its end"):
        check_pool(pool)


def test_two_tables_that_disagree(pool: Pool) -> None:
    run = next(pool.state.forest.runs(pool.state.tables[1], 3, 1))
    pool.state.forest.map(pool.state.tables[2], 0, run.pointer, array("Q", [run.sums[0] ^ 1]))
    with pytest.raises(Damaged, match="disagrees"):
        check_pool(pool)


def break_names(pool: Pool) -> None:
    pool.state.names["disk"] = 2


def break_names_of_nothing(pool: Pool) -> None:
    pool.state.names["ghost"] = 99


def break_tables(pool: Pool) -> None:
    del pool.state.tables[2]


def break_copy(pool: Pool) -> None:
    pool.state.volumes[3].copy = "d"


def break_copy_member(pool: Pool) -> None:
    pool.state.copies["c"].members.append((1, 99))


def break_group(pool: Pool) -> None:
    pool.state.volumes[2].group = ""


def break_group_member(pool: Pool) -> None:
    pool.state.groups["g"].volumes.append(99)


@pytest.mark.parametrize(
    "break_it",
    [
        break_names,
        break_names_of_nothing,
        break_tables,
        break_copy,
        break_copy_member,
        break_group,
        break_group_member,
    ],
)
def test_a_catalogue_that_contradicts_itself(pool: Pool, break_it) -> None:
    assert check_pool(pool) == 5
    break_it(pool)
    with pytest.raises(Damaged):
        check_pool(pool)


def test_a_damaged_table_costs_what_it_maps_and_not_its_neighbours(tmp_path: Path) -> None:
    """A leaf costs 1 MiB, a chunk 512 MiB; both with all copies that share them."""
    disk = FolderDisk(tmp_path)
    pool = open_on(disk)
    volumes.create(pool, "v", GIB)
    volumes.create(pool, "w", MIB)
    for at in (0, MIB, GIB // 2):
        put(pool, "v", at, pattern(at))
    put(pool, "w", 0, pattern(1))
    copies.take(pool, ["v"], name="c")
    settle(pool.checkpoint())
    chunk, other = pool.state.tables[1].root
    leaf = pool.state.forest.node(chunk).words[1]
    store = disk.metadata()
    store.execute("DELETE FROM node WHERE id IN (?, ?)", (leaf, other))
    store.close()
    pool.abandon()
    pool = open_on(disk)
    found = [(f.exports, f.offset, f.bytes) for f in findings(pool)]
    assert found == [
        (["v", "v@c"], GIB // 2, GIB // 2),
        (["v", "v@c"], MIB, MIB),
    ]
    assert get(pool, "v", 0, BLOCK) == pattern(0)
    assert get(pool, "w", 0, BLOCK) == pattern(1)
    pool.abandon()
    disk.close()
