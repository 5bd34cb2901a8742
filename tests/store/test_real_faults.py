"""Real files under a pool, and a loss of power under the files.

The folder forgets what was not synced (`forgetful.py`), so file system calls, SQLite and recovery
are the real ones. Each cut comes at some call of the pool to its disk. What the pool shows
afterwards is one of the states it went through, not older than the last flush.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest

from isochrone.errors import IsochroneError
from isochrone.store import copies, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Pool
from isochrone.store.rebuild import rebuild
from isochrone.types import BLOCK, KIB, MIB, Buffer
from isochrone.world.disk import METADATA_NAME, File, FolderDisk
from tests.store.forgetful import Forgetful
from tests.store.pools import SMALL, Image, State, device, open_on, pattern, settle, shown

CUTS: Final = int(os.environ.get("ISOCHRONE_CUTS", "60"))
LIMITS: Final = replace(SMALL, segment_bytes=128 * KIB, garbage_bytes=192 * KIB)


class Fuse:
    """Burns down with the calls to a disk; then the power is gone."""

    def __init__(self, folder: Forgetful, calls: int) -> None:
        self._folder = folder
        self.left = calls

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._folder.stop()


class FusedFile:
    def __init__(self, file: File, fuse: Fuse) -> None:
        self._file = file
        self._fuse = fuse
        self.read_at, self.size, self.close = file.read_at, file.size, file.close

    def write_at(self, pieces: Sequence[Buffer], offset: int) -> None:
        self._fuse.burn()
        self._file.write_at(pieces, offset)

    def sync(self) -> None:
        self._fuse.burn()
        self._file.sync()

    def truncate(self, size: int) -> None:
        self._fuse.burn()
        self._file.truncate(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


class FusedDisk(FolderDisk):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def create(self, name: str) -> File:
        self._fuse.burn()
        return FusedFile(super().create(name), self._fuse)

    def open(self, name: str) -> File:
        return FusedFile(super().open(name), self._fuse)

    def remove(self, name: str) -> None:
        self._fuse.burn()
        super().remove(name)

    def rename(self, old: str, new: str) -> None:
        self._fuse.burn()
        super().rename(old, new)

    def sync_names(self) -> None:
        self._fuse.burn()
        super().sync_names()


class Model:
    """The states a pool went through; a change that was refused may be there or not."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]
        self.flushed = 0

    @property
    def now(self) -> State:
        return self.states[-1]

    def becomes(self, **images: Image | None) -> None:
        self.states.append({n: i for n, i in {**self.now, **images}.items() if i is not None})

    def after_a_cut(self, found: State, why: object) -> None:
        assert found in self.states[self.flushed :], why
        self.states, self.flushed = [found], 0


def step(pool: Pool, cleaner: Cleaner, model: Model, n: int, random: Random) -> None:
    """One operation, in the model first: whatever the power lets through of it is allowed."""
    what = random.random()
    name = random.choice(sorted(n for n in model.now if "@" not in n) or [""])
    block = random.randrange(50)
    if len(model.now) < 2:
        model.becomes(**{f"v{n}": Image(MIB)})
        volumes.create(pool, f"v{n}", MIB)
        settle(pool.flush())
        model.flushed = len(model.states) - 1
    elif what < 0.66:
        data = pattern(n, BLOCK * random.choice((1, 1, 3, 7)))
        model.becomes(**{name: model.now[name].put(block * BLOCK, data)})
        device(pool, name).write(block * BLOCK, memoryview(data))
        pool.commit()
    elif what < 0.72:
        model.becomes(**{name: model.now[name].put(block * BLOCK, bytes(5 * BLOCK))})
        device(pool, name).discard(block * BLOCK, 5 * BLOCK)
        pool.commit()
    elif what < 0.76:
        model.becomes(**{f"{name}@c{n}": model.now[name]})
        copies.take(pool, [name], name=f"c{n}")
    elif what < 0.80:
        if pool.state.copies:
            gone = min(pool.state.copies)
            model.becomes(**{m: None for m in model.now if m.endswith(f"@{gone}")})
            copies.delete(pool, gone)
    elif what < 0.90:
        settle(pool.flush())
        model.flushed = len(model.states) - 1
    elif what < 0.95:
        settle(pool.checkpoint())
    else:
        settle(cleaner.round())


def let_live(pool: Pool, model: Model, first: int, random: Random) -> None:
    """Until the power goes, or long enough; then the process's hold on the files ends."""
    cleaner = Cleaner(pool)
    try:
        for n in range(first, first + 150):
            step(pool, cleaner, model, n, random)
    except (IsochroneError, OSError):
        pass
    pool.failed = pool.failed or "the power is gone"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Forgetful]:
    folder = Forgetful(tmp_path / "forgetful")
    yield folder
    folder.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_flushed_survives_every_cut(folder: Forgetful, seed: int) -> None:
    """Life after life of one pool; recovery itself is cut as well, and the store lost at times."""
    random = Random(f"cuts {seed}")
    model = Model()
    lost = names = 0
    for cut in range(CUTS // 4):
        fuse = Fuse(folder, random.choice((random.randrange(1, 30), random.randrange(1, 300))))
        disk = FusedDisk(folder.path, fuse)
        pool = None
        try:
            pool = open_on(disk, LIMITS)
            model.after_a_cut(shown(pool), f"{seed}.{cut}")
            check_pool(pool)
            model.flushed = 0
            let_live(pool, model, 1000 * cut, random)
        except IsochroneError:
            assert fuse.left <= 0, "refused though nothing failed"
        folder.stop()
        if pool is not None:
            pool.abandon()
        disk.close()
        told = folder.come_back(f"{seed}.{cut}")
        lost, names = lost + told["sectors"], names + told["names"]
        if model.now and cut % 5 == 4:
            lose_the_store(folder.path)
    pool = open_on(FolderDisk(folder.path), LIMITS)
    model.after_a_cut(shown(pool), seed)
    check_pool(pool)
    pool.abandon()
    pool.disk.close()
    assert lost > 100 and names > 5, "the cuts took nothing"


def lose_the_store(path: Path) -> None:
    """On top of the cut. What it held of the catalogue comes back from its copy and the log."""
    for found in path.glob(f"{METADATA_NAME}*"):
        if not found.name.endswith((".backup", ".damaged")):
            found.unlink()
    disk = FolderDisk(path)
    try:
        rebuild(disk)
    finally:
        disk.close()
