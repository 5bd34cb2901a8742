"""Checking a pool whose controller is stopped, as an operator does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from isochrone.control import offline
from isochrone.errors import Conflict, Damaged, NotFound
from isochrone.store import copies, volumes
from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk


@pytest.fixture
def pool_folder(tmp_path: Path) -> tuple[Path, int]:
    """A closed pool with a volume and its copy, and the pointer of a block both share."""
    folder = tmp_path / "pool"

    async def make() -> int:
        disk = FolderDisk(folder)
        pool = Pool.open(disk, system_world())
        volumes.create(pool, "disk", 1 * MIB)
        device = VolumeDevice(pool, pool.state.names["disk"])
        device.write(4 * BLOCK, memoryview(b"x" * (2 * BLOCK)))
        pool.commit()
        copies.take(pool, ["disk"], name="c")
        run = next(pool.state.forest.runs(pool.state.tables[pool.state.names["disk"]], 4, 1))
        await pool.close()
        disk.close()
        return run.pointer

    return folder, asyncio.run(make())


def damage(folder: Path, pointer: int) -> None:
    with (folder / segment_name(pointer >> SLOT_BITS)).open("r+b") as f:
        f.seek((pointer & SLOT_MASK) * BLOCK + 100)
        f.write(b"!")


def test_a_good_pool(pool_folder: tuple[Path, int]) -> None:
    report = offline.check(pool_folder[0])
    assert report.damaged == 0
    assert report.lines == ["1 volumes, 1 copies: no damage"]


def test_damage_is_named_with_all_who_read_it(pool_folder: tuple[Path, int]) -> None:
    damage(*pool_folder)
    report = offline.check(pool_folder[0])
    assert report.damaged == 1
    assert report.lines[0].startswith(f"disk: {BLOCK} bytes at {4 * BLOCK}: ")
    assert report.lines[1].startswith(f"disk@c: {BLOCK} bytes at {4 * BLOCK}: ")


def test_no_pool_is_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        offline.check(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_an_open_pool_is_left_alone(pool_folder: tuple[Path, int]) -> None:
    disk = FolderDisk(pool_folder[0])
    with pytest.raises(Conflict):
        offline.check(pool_folder[0])
    disk.close()


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 9)])
def test_the_command(pool_folder: tuple[Path, int], broken: bool, code: int) -> None:
    folder, pointer = pool_folder
    if broken:
        damage(folder, pointer)
    command = [sys.executable, "-m", "isochrone", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("not what was written" in done.stdout) == broken


def command(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "isochrone", "check", *map(str, words)],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_lost_metadata_store_is_rebuilt(pool_folder: tuple[Path, int]) -> None:
    folder, _ = pool_folder
    assert command(folder, "--rebuild-metadata")[0] == Conflict.exit_code
    for file in folder.glob("metadata.sqlite*"):
        file.unlink()
    code, told = command(folder)
    assert code == Damaged.exit_code
    assert "isochrone check DIR --rebuild-metadata" in told
    code, told = command(folder, "--rebuild-metadata")
    assert code == 0, told
    assert "rebuilt from the log from its first record on" in told
    assert "1 volumes, 1 copies: no damage" in told


def test_what_cannot_be_rebuilt_is_said(pool_folder: tuple[Path, int]) -> None:
    folder, _ = pool_folder
    for file in [*folder.glob("metadata.sqlite*"), folder / segment_name(1)]:
        file.unlink()
    (folder / segment_name(2)).write_bytes(b"no header" * 1000)
    code, told = command(folder, "--rebuild-metadata")
    assert code == Damaged.exit_code
    assert "cannot be rebuilt" in told
    assert "segment 2, the oldest there is, is damaged" in told
    assert command(folder.parent, "--rebuild-metadata")[0] == NotFound.exit_code
