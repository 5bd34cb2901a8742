from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, NotFound, ReadOnly
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB, TIB
from tests.store.pools import Rig, client, get, pattern, put


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    volumes.create(pool, "disk", 2 * MIB)
    return pool


def test_create(pool: Pool) -> None:
    volume = volumes.create(pool, "other", 64 * TIB)
    assert (volume.name, volume.size, volume.kind) == ("other", 64 * TIB, "volume")
    assert volumes.find(pool, "other") is volume
    assert volume.id != volumes.find(pool, "disk").id


@pytest.mark.parametrize("size", [0, -1, MIB - 512, 64 * TIB + 512, MIB + 1, MIB + 511])
def test_sizes_that_are_not_possible(pool: Pool, size: int) -> None:
    lsn = pool.log.lsn
    with pytest.raises(InvalidInput):
        volumes.create(pool, "other", size)
    with pytest.raises(InvalidInput):
        volumes.resize(pool, "disk", size, shrink=True)
    assert pool.log.lsn == lsn


@pytest.mark.parametrize("size", [MIB, MIB + 512, 64 * TIB - 512, 64 * TIB])
def test_sizes_that_are(pool: Pool, size: int) -> None:
    assert volumes.create(pool, "other", size).size == size


def test_names_are_taken_once(pool: Pool) -> None:
    with pytest.raises(Conflict, match="'disk' already"):
        volumes.create(pool, "disk", MIB)
    with pytest.raises(InvalidInput):
        volumes.create(pool, "disk@x", MIB)


def test_a_name_that_a_mirror_will_bring_is_taken(pool: Pool) -> None:
    pool.record(r.MirrorAdded(group="g", source="there:1"))
    incoming = r.IncomingVolume(remote=1, name="coming", size=MIB, local=50, shadow=51)
    pool.record(r.IncomingBegun(group="g", lineage="ab" * 16, epoch=1, base=0, volumes=(incoming,)))
    with pytest.raises(Conflict):
        volumes.create(pool, "coming", MIB)


def test_missing(pool: Pool) -> None:
    for call in (
        lambda: volumes.find(pool, "no"),
        lambda: volumes.resize(pool, "no", MIB),
        lambda: volumes.delete(pool, "no"),
    ):
        with pytest.raises(NotFound, match="there is no volume 'no'"):
            call()


def test_members_of_copies_are_not_volumes(pool: Pool) -> None:
    copies.take(pool, ["disk"], name="c")
    for call in (
        lambda: volumes.resize(pool, "disk@c", 4 * MIB),
        lambda: volumes.delete(pool, "disk@c"),
    ):
        with pytest.raises(Conflict, match="belongs to the copy 'c'"):
            call()


def test_delete_and_create_again_is_empty(pool: Pool, rig: Rig) -> None:
    put(pool, "disk", 0, pattern(1))
    volumes.delete(pool, "disk")
    volumes.create(pool, "disk", 2 * MIB)
    assert get(pool, "disk") == bytes(2 * MIB)
    pool = rig.kill()
    assert get(pool, "disk") == bytes(2 * MIB)


def test_shrinking_must_be_meant(pool: Pool) -> None:
    with pytest.raises(Conflict, match="would cut off its end") as e:
        volumes.resize(pool, "disk", MIB)
    assert "--shrink" in e.value.hint
    assert volumes.resize(pool, "disk", MIB, shrink=True).size == MIB


def test_the_same_size_is_no_record(pool: Pool) -> None:
    lsn = pool.log.lsn
    volumes.resize(pool, "disk", 2 * MIB)
    assert pool.log.lsn == lsn


@pytest.mark.parametrize("size", [MIB, MIB + 512, MIB + 5 * 512, 2 * MIB - 512])
@pytest.mark.parametrize("crash", [False, True])
def test_what_was_cut_off_is_zeros_when_it_grows_again(
    pool: Pool, rig: Rig, size: int, crash: bool
) -> None:
    """Also the rest of a block whose first part stays."""
    data = pattern(1, 2 * MIB)
    put(pool, "disk", 0, data)
    volumes.resize(pool, "disk", size, shrink=True)
    if crash:
        pool = rig.kill()
    assert get(pool, "disk") == data[:size]
    volumes.resize(pool, "disk", 4 * MIB)
    assert get(pool, "disk") == data[:size] + bytes(4 * MIB - size)
    assert get(rig.kill(), "disk") == data[:size] + bytes(4 * MIB - size)


def test_growing_a_volume_that_never_shrank_writes_nothing(pool: Pool) -> None:
    volumes.create(pool, "odd", MIB + 512)
    put(pool, "odd", MIB, pattern(1, 512))
    lsn = pool.log.lsn
    volumes.resize(pool, "odd", MIB + BLOCK)
    assert pool.log.lsn == lsn + 1
    assert get(pool, "odd", MIB) == pattern(1, 512) + bytes(BLOCK - 512)


def test_a_copy_keeps_its_size(pool: Pool) -> None:
    put(pool, "disk", 2 * MIB - 3, b"end")
    copies.take(pool, ["disk"], name="c")
    volumes.resize(pool, "disk", MIB, shrink=True)
    assert get(pool, "disk@c", 2 * MIB - 3) == b"end"


def test_volumes_in_use(pool: Pool) -> None:
    for name in ("10.0.0.9:1", "10.0.0.2:7", "10.0.0.2:7"):
        pool.attached.attach(1, client(name))
    with pytest.raises(Conflict, match=r"in use by 10\.0\.0\.2:7, 10\.0\.0\.9:1: it cannot be del"):
        volumes.delete(pool, "disk")
    with pytest.raises(Conflict, match="in use"):
        volumes.resize(pool, "disk", MIB, shrink=True)
    assert volumes.resize(pool, "disk", 3 * MIB).size == 3 * MIB
    for n in range(3):
        pool.attached.attach(1, client(f"c{n}"))
    with pytest.raises(Conflict, match="9:1, c0 and 2 more"):
        volumes.delete(pool, "disk")


def test_force_overlays_in_any_case(pool: Pool) -> None:
    pool.attached.attach(1, client())
    assert volumes.resize(pool, "disk", MIB, shrink=True, force=True).size == MIB
    volumes.delete(pool, "disk", force=True)
    assert "disk" not in pool.state.names


def test_volumes_of_groups(pool: Pool) -> None:
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1,)))
    with pytest.raises(Conflict, match="belongs to the group 'g'"):
        volumes.delete(pool, "disk")
    assert volumes.resize(pool, "disk", 3 * MIB).size == 3 * MIB
    pool.record(r.Fenced(group="g", epoch=2))
    with pytest.raises(ReadOnly):
        volumes.resize(pool, "disk", 4 * MIB)
