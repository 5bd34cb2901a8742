"""A directory with a short path, and real controllers that end with their test."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from isochrone.store.pool import Pool
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk
from tests.control.process import Connect, Nbd, Start, controllers


@pytest.fixture(scope="module")
def short_dir() -> Iterator[Path]:
    """Socket paths are short; pytest's own folders are not."""
    path = Path(tempfile.mkdtemp(prefix="iso-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def fresh(short_dir: Path) -> Path:
    """A directory that no test has used; it does not exist yet."""
    for n in range(1000):
        if not (short_dir / str(n)).exists():
            return short_dir / str(n)
    raise AssertionError


@pytest.fixture
def start() -> Iterator[Start]:
    with controllers() as begin:
        yield begin


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Start]:
    with controllers() as begin:
        yield begin


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Block clients that hang up at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda controller, export: stack.enter_context(Nbd(controller.address("nbd"), export))


@pytest.fixture
async def pool(fresh: Path) -> AsyncIterator[Pool]:
    disk = FolderDisk(fresh)
    pool = Pool.open(disk, system_world())
    yield pool
    pool.abandon()
    disk.close()
