"""A directory with a short path, and real controllers that end with their test."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from isochrone.control.api import make_app
from isochrone.mirror.service import Mirrors
from isochrone.store.pool import Pool
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk
from tests.control.process import Connect, Controller, Nbd, Start, controllers
from tests.control.shell import Shell


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


@pytest.fixture(scope="module")
def site(start_for_module: Start, short_dir: Path) -> Iterator[Controller]:
    """One controller for all tests of a module."""
    controller = start_for_module(short_dir / "site")
    assert controller.ready, controller.wait()
    yield controller
    code, _, err = controller.end()
    assert (code, "Traceback" in err) == (0, False), err


@pytest.fixture
def at(
    site: Controller, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Commands for that one."""
    return Shell(site.directory, capsys, monkeypatch)


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


@pytest.fixture
async def http(pool: Pool, fresh: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The API of that pool, without a process around it."""
    mirrors = Mirrors(pool, pool.world)
    transport = httpx2.ASGITransport(make_app(pool, mirrors, fresh), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http
    await mirrors.stop()
