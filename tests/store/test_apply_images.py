"""A cut that is sent as images: from when the log is kept, and which marks stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import records as r
from isochrone.store.catalogue import MARKS_MAX
from isochrone.store.changes import log_pin, log_serves, since
from isochrone.store.pool import Pool
from isochrone.types import MIB
from tests.mirror.sites import LIMITS


def with_group(act: Callable[[Pool], None]) -> None:
    async def main() -> None:
        site = Site("a", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        pool = Pool.open(site.disk, site.world, LIMITS)
        pool.record(r.VolumeCreated(id=1, name="db", size=MIB))
        pool.record(r.GroupCreated(name="g", lineage="x", volumes=(1,)))
        pool.record(r.SessionOpened(group="g", peer="p"))
        act(pool)

    run(main())


def place(pool: Pool, cut: int, acked: int, whole: str = "", begun: tuple[int, ...] = ()) -> None:
    pool.record(
        r.CutPlaced(group="g", cut=cut, stamp=cut, acked={"p": acked}, whole=whole, begun=begun)
    )


def test_the_log_is_kept_from_the_cut_that_is_sent_on() -> None:
    def act(pool: Pool) -> None:
        group = pool.state.groups["g"]
        session = group.sessions["p"]
        place(pool, 1, 0)
        pool.record(r.SessionFellBehind(group="g", peer="p"))
        place(pool, 2, 1)
        assert log_pin(group) is None
        place(pool, 3, 1, "p", (1, 3))
        third = group.mark(3)
        assert third is not None
        assert (session.keeps_log, session.whole_lsn) == (True, third.lsn)
        assert log_pin(group) == (third.lsn, ["p"])
        first = group.mark(1)
        assert first is not None
        assert not log_serves(group, session, first)
        assert log_serves(group, session, third)

    with_group(act)


def test_marks_that_a_broken_copy_needs_outlive_those_of_others() -> None:
    def act(pool: Pool) -> None:
        group = pool.state.groups["g"]
        pool.record(r.SessionOpened(group="g", peer="q"))
        place(pool, 1, 0)
        place(pool, 2, 1)
        place(pool, 3, 1, "p", (1, 2, 3))
        for cut in range(4, 3 * MARKS_MAX):
            pool.record(r.CutPlaced(group="g", cut=cut, stamp=cut, acked={"q": cut - 1}))
        assert len(group.marks) <= MARKS_MAX
        assert all(since(pool.state, group, cut) is not None for cut in (1, 2, 3))
        place(pool, group.cut + 1, 3)
        assert group.sessions["p"].begun == []
        assert group.mark(2) is None

    with_group(act)


def test_who_has_left_is_no_matter() -> None:
    def act(pool: Pool) -> None:
        pool.record(r.SessionClosed(group="g", peer="p"))
        place(pool, 1, 0, "p", (1,))
        assert pool.state.groups["g"].sessions == {}

    with_group(act)
