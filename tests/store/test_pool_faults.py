"""A pool on a disk that fails: syncs, appends, reads, and room."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from isochrone.errors import Damaged, IsochroneError, NoSpace, PoolFailed
from isochrone.store import copies, volumes
from isochrone.store.check import check_pool
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world.disk import FolderDisk
from tests.store.pools import (
    SMALL,
    Image,
    Rig,
    device,
    get,
    open_on,
    pattern,
    put,
    settle,
    shown,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    return pool


# -- a sync that fails


def test_a_failed_sync_makes_the_pool_read_only(rig: Rig, pool: Pool) -> None:
    put(pool, "disk", 0, pattern(1))
    settle(pool.flush())
    put(pool, "disk", BLOCK, pattern(2))
    rig.platter.faults.sync_error = 1.0

    async def three() -> list[object]:
        return await asyncio.gather(*(pool.flush() for _ in range(3)), return_exceptions=True)

    assert [type(e) for e in settle(three())] == [PoolFailed] * 3
    rig.platter.faults.sync_error = 0.0
    for call in (
        lambda: settle(pool.flush()),
        lambda: settle(pool.checkpoint()),
        lambda: device(pool, "disk").write(0, memoryview(b"x")),
        lambda: device(pool, "disk").discard(0, BLOCK),
        lambda: volumes.create(pool, "other", MIB),
        lambda: copies.take(pool, ["disk"]),
    ):
        with pytest.raises(PoolFailed, match=r"read-only: a sync failed|durable"):
            call()
    assert get(pool, "disk", 0, 2 * BLOCK) == pattern(1) + pattern(2)
    settle(pool.close())  # quietly: it has said so
    pool.disk.close()
    pool = rig.open()
    assert get(pool, "disk", 0, BLOCK) == pattern(1)


def test_closing_with_a_failing_disk_lets_go_of_it(rig: Rig, pool: Pool) -> None:
    put(pool, "disk", 0, pattern(1))
    rig.platter.faults.sync_error = 1.0
    with pytest.raises(PoolFailed):
        settle(pool.close())
    rig.platter.faults.sync_error = 0.0
    pool.disk.close()
    assert get(rig.open(), "disk", 0, BLOCK) == pattern(1)


@pytest.mark.parametrize("seed", range(30))
def test_after_a_failed_sync_the_next_life_does_not_believe_the_cache(seed: int) -> None:
    """What the kernel dropped still reads well until the power is cut."""
    rig = Rig(seed)
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    put(pool, "disk", 0, pattern(1))
    settle(pool.flush())
    put(pool, "disk", BLOCK, pattern(2))
    put(pool, "disk", 2 * BLOCK, pattern(3))
    rig.platter.faults.sync_error = 1.0
    with pytest.raises(PoolFailed):
        settle(pool.flush())
    rig.platter.faults.sync_error = 0.0
    pool = rig.kill()
    seen = get(pool, "disk", BLOCK, 2 * BLOCK)
    put(pool, "disk", 3 * BLOCK, pattern(4))
    settle(pool.flush())
    pool = rig.cut(seed)
    assert get(pool, "disk", 0, BLOCK) == pattern(1)
    assert get(pool, "disk", 3 * BLOCK, BLOCK) == pattern(4)
    assert get(pool, "disk", BLOCK, 2 * BLOCK) == seen


# -- errors of appends


@pytest.mark.parametrize("fault", ["write_error", "write_short"])
def test_an_append_that_fails_changes_nothing(rig: Rig, pool: Pool, fault: str) -> None:
    put(pool, "disk", 0, pattern(1, 3 * BLOCK))
    for n in range(40):
        setattr(rig.platter.faults, fault, 1.0)
        device(pool, "disk").write(BLOCK, memoryview(pattern(50 + n, 9 * BLOCK)))
        with pytest.raises(Damaged, match="refused an append"):
            pool.commit()
        with pytest.raises(Damaged):
            volumes.create(pool, "other", MIB)
        setattr(rig.platter.faults, fault, 0.0)
        assert get(pool, "disk", 0, 3 * BLOCK) == pattern(1, 3 * BLOCK)
        put(pool, "disk", 200 * BLOCK, pattern(n))
        if n % 7 == 0:
            settle(pool.flush())
            pool = rig.cut(n)
        assert get(pool, "disk", 3 * BLOCK) == (bytes(197 * BLOCK) + pattern(n) + bytes(55 * BLOCK))
    assert get(pool, "disk", 0, 3 * BLOCK) == pattern(1, 3 * BLOCK)
    assert "other" not in pool.state.names


def test_a_turn_that_fails_fails_to_its_end(rig: Rig, pool: Pool) -> None:
    """A later change that succeeded would overtake an earlier one that did not."""
    put(pool, "disk", 0, pattern(1))
    found = device(pool, "disk")
    found.write(0, memoryview(pattern(2)))
    rig.platter.faults.fail_at = 1
    assert b"".join(found.read(0, BLOCK)) == pattern(1)  # the append that failed
    found.write(0, memoryview(pattern(3)))
    assert b"".join(found.read(0, BLOCK)) == pattern(1)
    found.write(BLOCK, memoryview(pattern(4)))
    with pytest.raises(Damaged):
        pool.commit()
    assert get(pool, "disk", 0, 2 * BLOCK) == pattern(1) + bytes(BLOCK)
    put(pool, "disk", 0, pattern(5))
    assert get(pool, "disk", 0, BLOCK) == pattern(5)


def test_a_block_that_cannot_be_read_is_an_error_and_not_the_end(rig: Rig, pool: Pool) -> None:
    put(pool, "disk", 0, pattern(1))
    for fault in ("read_error", "read_flip"):
        setattr(rig.platter.faults, fault, 1.0)
        with pytest.raises(Damaged):
            get(pool, "disk", 0, BLOCK)
        setattr(rig.platter.faults, fault, 0.0)
        assert get(pool, "disk", 0, BLOCK) == pattern(1)


@pytest.mark.parametrize("fault", ["write_lost", "write_astray"])
def test_a_write_that_went_elsewhere_is_never_wrong_data(rig: Rig, pool: Pool, fault: str) -> None:
    put(pool, "disk", 0, pattern(1))
    setattr(rig.platter.faults, fault, 1.0)
    put(pool, "disk", BLOCK, pattern(2))
    setattr(rig.platter.faults, fault, 0.0)
    with contextlib.suppress(Damaged):
        assert get(pool, "disk", BLOCK, BLOCK) == pattern(2)
    with contextlib.suppress(Damaged):
        assert get(pool, "disk", 0, BLOCK) == pattern(1)


# -- a disk that is full


def full(pool: Pool, name: str = "disk") -> int:
    """Overwrite and fill until the disk is full; the number of the write that failed."""
    for n in range(10_000):
        try:
            put(pool, name, n % 200 * BLOCK, pattern(n, 5 * BLOCK))
        except NoSpace:
            return n
    raise AssertionError("it never was full")


def expected(upto: int) -> bytes:
    image = Image(MIB)
    for n in range(upto):
        image = image.put(n % 200 * BLOCK, pattern(n, 5 * BLOCK))
    return b"".join(image.blocks.get(b, bytes(BLOCK)) for b in range(256))


@pytest.mark.parametrize("reserve", [0, 2 * SMALL.segment_bytes])
@pytest.mark.parametrize("odd", [0, BLOCK, 5 * BLOCK + 700])
def test_a_full_disk_loses_nothing(reserve: int, odd: int) -> None:
    rig = Rig(capacity=3 * MIB + odd, limits=replace(SMALL, reserve_bytes=reserve))
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    failed = full(pool)
    image = expected(failed)
    assert get(pool, "disk") == image
    for n in range(3):
        with pytest.raises(NoSpace) as e:
            put(pool, "disk", n * BLOCK, pattern(99, 60 * BLOCK))
        assert e.value.errno == errno.ENOSPC
    settle(pool.flush())
    settle(pool.checkpoint())
    assert get(pool, "disk") == image
    pool = rig.cut(1)
    assert get(pool, "disk") == image
    full(pool)
    rig.platter.capacity = None
    put(pool, "disk", 0, pattern(7))
    settle(pool.flush())
    pool = rig.cut(2)
    assert get(pool, "disk", 0, BLOCK) == pattern(7)
    check_pool(pool)


@pytest.mark.parametrize("chance", range(12))
def test_a_disk_that_is_full_now_and_then(chance: int) -> None:
    """The room comes back at any moment; what followed the failure must be found again."""
    random = Random(chance)
    rig = Rig(chance, limits=replace(SMALL, reserve_bytes=0, segment_bytes=128 * KIB))
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    image = Image(MIB)
    for n in range(150):
        stored = sum(len(inode.data) for inode in rig.platter.names.values())
        tight = random.random() < 0.3
        rig.platter.capacity = stored + random.randrange(40_000) if tight else None
        offset, length = random.randrange(200) * BLOCK, random.randrange(1, 7) * BLOCK
        try:
            put(pool, "disk", offset, pattern(n, length))
        except NoSpace:
            assert tight
        else:
            image = image.put(offset, pattern(n, length))
        if random.random() < 0.1:
            rig.platter.capacity = None
            settle(pool.flush())
            pool = rig.cut(random.random()) if random.random() < 0.5 else rig.kill()
            assert shown(pool) == {"disk": image}


def test_a_real_file_system_that_is_full(tmp_path: Path) -> None:
    """The kernel's own limit on the size of a file stands in for a full one."""
    disk = FolderDisk(tmp_path)
    pool = open_on(disk, replace(SMALL, reserve_bytes=0, segment_bytes=MIB))
    volumes.create(pool, "disk", MIB)
    put(pool, "disk", 0, pattern(1, 9 * BLOCK))
    settle(pool.flush())
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, hard))
    try:
        with pytest.raises(IsochroneError):  # EFBIG after a short write
            put(pool, "disk", 0, pattern(2, 40 * BLOCK))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert get(pool, "disk", 0, 9 * BLOCK) == pattern(1, 9 * BLOCK)
    put(pool, "disk", 0, pattern(3, 40 * BLOCK))
    pool.abandon()
    pool = open_on(disk, SMALL)
    assert get(pool, "disk", 0, 40 * BLOCK) == pattern(3, 40 * BLOCK)
    pool.abandon()
    disk.close()


def test_a_small_tmpfs_that_is_full(tmp_path: Path) -> None:
    """Log and metadata store share it, as they do in the field."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        fill_a_tmpfs(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill_a_tmpfs(path: Path) -> None:
    limits = replace(SMALL, reserve_bytes=0)
    disk = FolderDisk(path)
    pool = open_on(disk, limits)
    volumes.create(pool, "disk", MIB)
    volumes.create(pool, "far", 1 << 40)
    for n in range(20):
        put(pool, "far", n << 31, pattern(n))
    failed = full(pool)
    (path / "ballast").write_bytes(b"x" * 1)
    with contextlib.suppress(OSError):
        (path / "ballast").write_bytes(b"x" * (1 << 20))
    settle(pool.flush())
    with pytest.raises(NoSpace):
        settle(pool.checkpoint())
    assert get(pool, "disk") == expected(failed)
    pool.abandon()
    subprocess.run(["mount", "-o", "remount,size=16m", str(path)], check=True)
    pool = open_on(disk, limits)
    assert get(pool, "disk") == expected(failed)
    put(pool, "disk", 0, pattern(1))
    settle(pool.close())
    pool = open_on(disk, limits)
    assert get(pool, "disk", 0, BLOCK) == pattern(1)
    assert [get(pool, "far", n << 31, BLOCK) for n in range(20)] == [pattern(n) for n in range(20)]
    check_pool(pool)
    pool.abandon()
    disk.close()
