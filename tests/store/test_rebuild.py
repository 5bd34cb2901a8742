"""The metadata store is lost: what an older checkpoint and the log give back, and what they refuse.

All on real files: it is files that are lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import apsw
import pytest

from isochrone.errors import Conflict, Damaged
from isochrone.store import copies, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.format import segment_name, segment_number
from isochrone.store.metadata import REBUILD
from isochrone.store.pool import Limits, Pool
from isochrone.store.rebuild import rebuild
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world.disk import BACKUP_NAME, DAMAGED_NAME, METADATA_NAME, FolderDisk
from tests.store.pools import SMALL, State, catalogue, device, open_on, pattern, settle, shown

LIMITS = replace(SMALL, segment_bytes=128 * KIB, garbage_bytes=128 * KIB)


@dataclass
class Life:
    """A pool in a folder, closed as a crash does, and what it must show."""

    path: Path
    image: State
    items: dict[str, bytes]

    def opened(self) -> Pool:
        self.disk = FolderDisk(self.path)
        try:
            return open_on(self.disk, LIMITS)
        except BaseException:
            self.disk.close()
            raise

    def rebuilt(self) -> str:
        disk = FolderDisk(self.path)
        try:
            return rebuild(disk).source
        finally:
            disk.close()

    def is_back(self) -> None:
        pool = self.opened()
        try:
            check_pool(pool)
            assert shown(pool) == self.image
            assert catalogue(pool) == self.items
        finally:
            pool.abandon()
            self.disk.close()

    def segments(self) -> list[int]:
        return sorted(n for f in self.path.iterdir() if (n := segment_number(f.name)) is not None)

    def bytes(self) -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in self.path.glob("segment-*")}


def live(path: Path, *, steps: int, seed: object = 0, clean: bool = True) -> Life:
    """Writes, discards, copies, checkpoints and collections; the end is not in any checkpoint."""
    random = Random(f"rebuild {seed}")
    disk = FolderDisk(path)
    pool = open_on(disk, LIMITS)
    cleaner = Cleaner(pool)
    volumes.create(pool, "a", MIB)
    volumes.create(pool, "b", 8 * MIB)
    for n in range(steps):
        what = random.random()
        target = device(pool, random.choice("ab"))
        block = random.randrange(60)
        if what < 0.80:
            data = pattern(n, BLOCK * random.choice((1, 4, 12)))
            target.write(block * BLOCK, memoryview(data))
            pool.commit()
        elif what < 0.86:
            target.discard(block * BLOCK, 9 * BLOCK)
            pool.commit()
        elif what < 0.89:
            copies.take(pool, ["a", "b"], name=f"c{n}", writable=n % 2 == 0)
        elif what < 0.92 and pool.state.copies:
            copies.delete(pool, min(pool.state.copies))
        elif what < 0.96 and clean:
            settle(cleaner.round())
        elif clean:
            settle(pool.checkpoint())
    settle(pool.flush())
    life = Life(path, shown(pool), catalogue(pool))
    pool.abandon()
    disk.close()
    return life


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Life:
    life = live(tmp_path_factory.mktemp("pools") / "cleaned", steps=300)
    assert (life.path / BACKUP_NAME).exists()
    assert life.segments()[0] > 1, "nothing was given back"
    return life


@pytest.fixture
def life(template: Life, tmp_path: Path) -> Life:
    shutil.copytree(template.path, tmp_path / "pool")
    return replace(template, path=tmp_path / "pool")


def gone(store: Path) -> None:
    for name in (METADATA_NAME, METADATA_NAME + "-wal", METADATA_NAME + "-shm"):
        (store.parent / name).unlink(missing_ok=True)


def empty(store: Path) -> None:
    gone(store)
    store.write_bytes(b"")


def folded(store: Path) -> None:
    """Everything into the main file, so that damage to it is damage."""
    db = apsw.Connection(str(store))
    db.pragma("wal_checkpoint(truncate)")
    db.close()


def cut_short(store: Path) -> None:
    folded(store)
    store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])


def noise(store: Path) -> None:
    folded(store)
    store.write_bytes(Random(1).randbytes(store.stat().st_size))


def sql(*statements: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        db = apsw.Connection(str(store))
        for statement in statements:
            db.execute(statement)
        assert db.total_changes()
        db.close()

    damage.__name__ = statements[0].split(" WHERE")[0]
    return damage


LOST = [
    gone,
    empty,
    cut_short,
    noise,
    sql("DELETE FROM setting"),
    sql("DELETE FROM item WHERE kind = 'copy'"),
    sql("UPDATE item SET body = zeroblob(9)"),
    sql("UPDATE root SET body = zeroblob(8)"),
    sql("UPDATE forward SET places = zeroblob(length(places))"),
    sql("UPDATE setting SET value = value - 1 WHERE key = 'lsn'"),
]


@pytest.mark.parametrize("damage", LOST, ids=lambda d: d.__name__)
def test_a_lost_store_is_told_and_made_anew(life: Life, damage: Callable[[Path], None]) -> None:
    damage(life.path / METADATA_NAME)
    before = life.bytes()
    for _ in range(2):
        with pytest.raises(Damaged) as e:
            life.opened()
        assert e.value.hint == REBUILD
        assert life.bytes() == before
    assert life.rebuilt() == "the copy of the metadata store and the log"
    assert life.bytes() == before
    life.is_back()
    assert damage is gone or (life.path / DAMAGED_NAME).exists()


@pytest.mark.parametrize("statement", ["DELETE FROM node", "UPDATE node SET body = zeroblob(16)"])
def test_damaged_tables_are_made_anew(life: Life, statement: str) -> None:
    """A start does not read them all: the first read that needs one says what to do."""
    sql(statement)(life.path / METADATA_NAME)
    with pytest.raises(Damaged) as e:
        life.is_back()
    assert e.value.hint == REBUILD
    life.rebuilt()
    life.is_back()


def test_a_good_store_is_left_alone(life: Life) -> None:
    before = (life.path / METADATA_NAME).read_bytes()
    with pytest.raises(Conflict, match="nothing to rebuild"):
        life.rebuilt()
    assert (life.path / METADATA_NAME).read_bytes() == before
    life.is_back()


def test_an_older_store_put_back_is_told_and_replaced(tmp_path: Path) -> None:
    """As a slip does, or SQLite after damage to its write-ahead log; its segments are gone."""
    path = tmp_path / "pool"
    live(path, steps=20, clean=False)
    disk = FolderDisk(path)
    pool = open_on(disk, LIMITS)
    settle(pool.close())
    older = (path / METADATA_NAME).read_bytes()
    pool = open_on(disk, LIMITS)
    for n in range(300):
        device(pool, "a").write(0, memoryview(pattern(n, 12 * BLOCK)))
        pool.commit()
        if n % 20 == 19:
            settle(Cleaner(pool).round())
    settle(pool.flush())
    life = Life(path, shown(pool), catalogue(pool))
    pool.abandon()
    disk.close()
    gone(path / METADATA_NAME)
    (path / METADATA_NAME).write_bytes(older)
    with pytest.raises(Damaged):
        life.opened()
    assert life.rebuilt() == "the copy of the metadata store and the log"
    life.is_back()


def test_that_of_a_newer_version_is_not_damaged(life: Life) -> None:
    sql("UPDATE setting SET value = 3 WHERE key = 'format'")(life.path / METADATA_NAME)
    with pytest.raises(Conflict, match="format 3; this version knows 2"):
        life.rebuilt()


def test_a_pool_that_was_never_cleaned_needs_no_copy(tmp_path: Path) -> None:
    life = live(tmp_path / "pool", steps=60, clean=False)
    assert not (life.path / BACKUP_NAME).exists()
    gone(life.path / METADATA_NAME)
    assert life.rebuilt() == "the log from its first record on"
    life.is_back()


def test_without_copy_what_was_given_back_is_named(life: Life) -> None:
    gone(life.path / METADATA_NAME)
    (life.path / BACKUP_NAME).unlink()
    before = life.bytes()
    first = life.segments()[0]
    with pytest.raises(Damaged, match=rf"there is none.*begins with record \d+ in segment {first}"):
        life.rebuilt()
    assert life.bytes() == before
    with pytest.raises(Damaged):
        life.opened()


def test_a_damaged_copy_is_not_taken(life: Life) -> None:
    gone(life.path / METADATA_NAME)
    sql("UPDATE node SET body = zeroblob(16)")(life.path / BACKUP_NAME)
    with pytest.raises(Damaged, match="from its copy: node"):
        life.rebuilt()


def test_a_copy_whose_log_has_a_hole_is_not_taken(life: Life) -> None:
    db = apsw.Connection(str(life.path / BACKUP_NAME))
    row = db.execute("SELECT value FROM setting WHERE key = 'segment'").fetchone()
    db.close()
    assert row is not None
    later = [n for n in life.segments() if n > int(row[0])]
    assert later, "the copy is as new as the log"
    (life.path / segment_name(later[0] - 1)).unlink()
    gone(life.path / METADATA_NAME)
    with pytest.raises(Damaged, match="cannot be rebuilt"):
        life.rebuilt()


@pytest.mark.parametrize("seed", range(12))
def test_any_life_comes_back_from_the_copy(tmp_path: Path, seed: int) -> None:
    life = live(tmp_path / "pool", steps=40 + 30 * seed, seed=seed)
    gone(life.path / METADATA_NAME)
    life.rebuilt()
    life.is_back()
    # And it goes on: the next loss is no worse.
    pool = life.opened()
    device(pool, "a").write(0, memoryview(pattern(seed)))
    settle(Cleaner(pool).round())
    life.image, life.items = shown(pool), catalogue(pool)
    settle(pool.flush())
    pool.abandon()
    life.disk.close()
    gone(life.path / METADATA_NAME)
    life.rebuilt()
    life.is_back()


def test_what_a_rebuild_needs_is_not_given_back(tmp_path: Path) -> None:
    """Segments since the copy stay, until the next copy is worth its cost."""
    disk = FolderDisk(tmp_path)
    pool = open_on(disk, LIMITS)
    volumes.create(pool, "a", MIB)
    cleaner = Cleaner(pool)
    for n in range(200):
        device(pool, "a").write(0, memoryview(pattern(n, 8 * BLOCK)))
        pool.commit()
        if n % 10 == 9:
            settle(cleaner.round())
            kept = pool._checkpointer.backup.kept_from
            assert kept is not None
            assert set(range(max(kept, 1), pool.log.position[0] + 1)) <= set(pool.log.first_lsns)
    assert len(pool.log.first_lsns) < pool.log.position[0], "nothing was given back"
    pool.abandon()
    disk.close()


def test_a_full_disk_gives_the_copy_up_and_not_the_pool(tmp_path: Path) -> None:
    tight = Limits(
        segment_bytes=128 * KIB, garbage_bytes=128 * KIB, reserve_bytes=256 * KIB,
        checkpoint_bytes=4 * MIB, capacity_bytes=1536 * KIB,
    )  # fmt: skip

    class NoRoom(FolderDisk):
        def back_up_metadata(self, store: apsw.Connection) -> None:
            raise OSError(28, "No space left on device")

    disk = NoRoom(tmp_path)
    pool = open_on(disk, tight)
    volumes.create(pool, "a", MIB)
    cleaner = Cleaner(pool)
    for n in range(200):
        device(pool, "a").write(0, memoryview(pattern(n, 8 * BLOCK)))
        pool.commit()
        if n % 5 == 4:
            settle(cleaner.round())
    assert pool._checkpointer.backup.kept_from is None
    assert check_pool(pool) == 8
    settle(pool.flush())
    life = Life(tmp_path, shown(pool), catalogue(pool))
    pool.abandon()
    disk.close()
    gone(tmp_path / METADATA_NAME)
    with pytest.raises(Damaged, match="cannot be rebuilt"):
        life.rebuilt()
