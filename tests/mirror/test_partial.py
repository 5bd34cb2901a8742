"""What is offered to go on with, and what a copy may start from. More of it is in `test_apply`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from isochrone.errors import InvalidInput, NotFound
from isochrone.mirror.messages import RemoteVolume, Welcome
from isochrone.mirror.partial import find_seeds, part_of, seeded
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.catalogue import Copy, Incoming
from isochrone.store.pool import Pool
from isochrone.types import MIB
from tests.mirror.sites import LIMITS

POSITION = r.Position(3, 5, 70, 1, 9)


def in_a_pool(act: Callable[[Pool], None]) -> None:
    async def main() -> None:
        site = Site("b", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        pool = Pool.open(site.disk, site.world, LIMITS)
        pool.record(r.MirrorAdded(group="g", source="a:1"))
        act(pool)

    run(main())


def incoming(**more: object) -> Incoming:
    fields = {"base": 3, "lineage": "x", "epoch": 1, "volumes": [], "pool": "p"}
    return Incoming(**{**fields, "position": POSITION, "position_lsn": 10, **more})  # type: ignore[arg-type]


def copy(lsn: int) -> Copy:
    return Copy(name="c", writable=False, stamp=1, lsn=lsn, members=[], group="g")


def test_nothing_is_offered_of_a_group_from_the_log() -> None:
    def act(pool: Pool) -> None:
        group = pool.state.groups["g"]
        assert part_of(pool, group) is None
        for without in ({"position": None}, {"pool": ""}):
            group.incoming = incoming(**without)
            assert part_of(pool, group) is None
        group.incoming = incoming(copies=[copy(9)])
        part = part_of(pool, group)
        assert part is not None
        assert (part.floor, part.begun, part.step, part.volume, part.block) == (3, 5, 70, 1, 9)

    in_a_pool(act)


def test_a_copy_where_none_can_be_expected_ends_the_part() -> None:
    def act(pool: Pool) -> None:
        group = pool.state.groups["g"]
        group.incoming = incoming(copies=[copy(11)])
        assert part_of(pool, group) is None

    in_a_pool(act)


def test_seeds() -> None:
    def act(pool: Pool) -> None:
        volumes.create(pool, "restored", MIB)
        there = (RemoteVolume(7, "db", MIB), RemoteVolume(8, "wal", MIB))
        welcome = Welcome(pool="p", lineage="x", epoch=1, cut=1, resume=False, volumes=there)
        found = find_seeds(pool, welcome, {"db": "restored"})
        assert found == {"db": pool.state.names["restored"]}
        with pytest.raises(InvalidInput, match="'dB'") as e:
            find_seeds(pool, welcome, {"dB": "restored"})
        assert "db, wal" in e.value.hint
        with pytest.raises(NotFound):
            find_seeds(pool, welcome, {"db": "nothing"})
        group = pool.state.groups["g"]
        assert not seeded(group)
        group.seeds = found
        assert seeded(group)
        group.seeds = {}
        group.incoming = incoming(volumes=[r.IncomingVolume(7, "db", MIB, 5, 6, 1)])
        assert seeded(group)

    in_a_pool(act)
