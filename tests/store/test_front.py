from __future__ import annotations

import pytest

from isochrone.errors import Conflict, NotFound
from isochrone.store import copies, volumes
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.types import MIB, ExportInfo
from tests.contract.device import durable
from tests.store.pools import Rig, client, settle

A, B, ME = client("a"), client("b"), client("me")


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
    device = backend.attach("", ME)
    assert device.name == "disk"
    backend.detach(device, ME)
    volumes.create(pool, "other", MIB)
    with pytest.raises(NotFound, match="no default export"):
        backend.attach("", ME)
    for name in ("disk", "other"):
        volumes.delete(pool, name)
    with pytest.raises(NotFound, match="no default export"):
        backend.attach("", ME)


def test_who_has_what_open(pool: Pool, backend: PoolBackend) -> None:
    one = backend.attach("disk", A)
    two = backend.attach("disk", A)
    three = backend.attach("disk", B)
    assert [(a.host, a.addresses) for a in pool.attached.of(1)] == [
        ("a", {"a": 2}),
        ("b", {"b": 1}),
    ]
    backend.detach(one, A)
    backend.detach(three, B)
    with pytest.raises(Conflict, match="in use by a"):
        volumes.delete(pool, "disk")
    backend.detach(two, A)
    assert pool.attached.of(1) == []
    volumes.delete(pool, "disk")


def test_who_only_looks_neither_comes_nor_goes(pool: Pool, backend: PoolBackend) -> None:
    backend.detach(backend.attach("disk", A), A, lost=True)
    assert backend.look("").name == "disk"
    (lost,) = pool.attached.of(1)
    assert pool.attached.lease_left(lost) > 0


def test_a_device_whose_volume_is_deleted_still_has_its_name(
    pool: Pool, backend: PoolBackend
) -> None:
    device = backend.attach("disk", A)
    volumes.delete(pool, "disk", force=True)
    assert device.name == "disk"
    with pytest.raises(NotFound):
        device.read(0, 1)
    backend.detach(device, A, lost=True)


def test_letting_go_twice_is_no_harm(pool: Pool, backend: PoolBackend) -> None:
    device = backend.attach("disk", A)
    other = backend.attach("disk", B)
    backend.detach(device, A)
    backend.detach(device, A)
    assert [each.host for each in pool.attached.of(1)] == ["b"]
    backend.detach(other, B)
    assert pool.attached.of(1) == []


def test_commit_and_flush_are_the_pool_s(pool: Pool, backend: PoolBackend) -> None:
    device = backend.attach("disk", A)
    device.write(0, memoryview(b"x"))
    lsn = pool.log.lsn
    backend.commit()
    assert pool.log.lsn == lsn + 1 > pool.log.durable
    settle(durable(backend))
    assert pool.log.durable == lsn + 1
