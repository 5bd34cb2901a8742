from __future__ import annotations

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import SimDisk
from isochrone.sim.loss import lose_store
from isochrone.store import volumes
from isochrone.store.cleaner import Cleaner
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, get, pattern, put, settle


def test_a_lost_store_comes_back(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1))
    settle(pool.checkpoint())
    put(pool, "v", BLOCK, pattern(2))
    rig.platter.kill()
    disk = SimDisk(rig.platter)
    assert lose_store(rig.platter, disk) == "the log from its first record on"
    disk.close()
    pool = rig.open()
    assert get(pool, "v", 0, 2 * BLOCK) == pattern(1) + pattern(2)


def test_also_of_a_pool_that_gave_segments_back(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    for n in range(300):
        put(pool, "v", 0, pattern(n, 20 * BLOCK))
        if n % 20 == 19:
            settle(Cleaner(pool).round())
    assert min(pool.log.first_lsns) > 1
    rig.platter.kill()
    disk = SimDisk(rig.platter)
    assert lose_store(rig.platter, disk) == "the copy of the metadata store and the log"
    disk.close()
    assert get(rig.open(), "v", 0, 20 * BLOCK) == pattern(299, 20 * BLOCK)


def test_an_empty_pool_has_nothing_to_lose(rig: Rig) -> None:
    identity = rig.open().identity
    rig.platter.kill()
    disk = SimDisk(rig.platter)
    assert lose_store(rig.platter, disk) == ""
    disk.close()
    assert rig.open().identity == identity


def test_without_a_rebuild_it_would_be_refused(rig: Rig) -> None:
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    rig.platter.kill()
    rig.platter.forget_store()
    with pytest.raises(Damaged):
        rig.open()


@pytest.fixture
def rig() -> Rig:
    return Rig()
