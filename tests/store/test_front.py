from __future__ import annotations

import pytest

from isochrone.errors import Conflict, NotFound
from isochrone.store import copies, volumes
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.types import MIB, ExportInfo
from tests.store.pools import Rig, settle


@pytest.fixture
def pool() -> Pool:
    pool = Rig().open()
    volumes.create(pool, "disk", MIB)
    return pool


@pytest.fixture
def backend(pool: Pool) -> PoolBackend:
    return PoolBackend(pool)


def test_exports_are_volumes_and_copies(pool: Pool, backend: PoolBackend) -> None:
    volumes.create(pool, "b", 2 * MIB)
    copies.take(pool, ["disk"], name="s")
    copies.take(pool, ["b"], name="w", writable=True)
    assert backend.exports() == [
        ExportInfo("b", 2 * MIB, False, "volume"),
        ExportInfo("b@w", 2 * MIB, False, "clone of b"),
        ExportInfo("disk", MIB, False, "volume"),
        ExportInfo("disk@s", MIB, True, "snapshot of disk"),
    ]


def test_the_only_volume_is_the_default(pool: Pool, backend: PoolBackend) -> None:
    copies.take(pool, ["disk"], name="s")  # copies do not count
    device = backend.attach("", "me")
    assert device.name == "disk"
    backend.detach(device, "me")
    volumes.create(pool, "other", MIB)
    with pytest.raises(NotFound, match="no default export"):
        backend.attach("", "me")
    for name in ("disk", "other"):
        volumes.delete(pool, name)
    with pytest.raises(NotFound, match="no default export"):
        backend.attach("", "me")


def test_who_has_what_open(pool: Pool, backend: PoolBackend) -> None:
    one = backend.attach("disk", "a")
    two = backend.attach("disk", "a")
    three = backend.attach("disk", "b")
    assert pool.attached == {1: {"a": 2, "b": 1}}
    backend.detach(one, "a")
    backend.detach(three, "b")
    with pytest.raises(Conflict, match="in use by a"):
        volumes.delete(pool, "disk")
    backend.detach(two, "a")
    assert pool.attached == {}
    volumes.delete(pool, "disk")


def test_letting_go_twice_is_no_harm(pool: Pool, backend: PoolBackend) -> None:
    device = backend.attach("disk", "a")
    other = backend.attach("disk", "b")
    backend.detach(device, "a")
    backend.detach(device, "a")
    assert pool.attached == {1: {"b": 1}}
    backend.detach(other, "b")
    assert pool.attached == {}


def test_commit_and_flush_are_the_pool_s(pool: Pool, backend: PoolBackend) -> None:
    device = backend.attach("disk", "a")
    device.write(0, memoryview(b"x"))
    lsn = pool.log.lsn
    backend.commit()
    assert pool.log.lsn == lsn + 1 > pool.log.durable
    settle(backend.flush())
    assert pool.log.durable == lsn + 1
