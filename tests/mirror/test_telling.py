"""What is told of a group at either end."""

from __future__ import annotations

import asyncio

from isochrone.mirror.telling import tell_group
from isochrone.types import TRACK
from tests.control import examples
from tests.mirror.sites import Two, play, until


def test_the_worst_pair_speaks_for_the_group() -> None:
    async def scenario(two: Two) -> None:
        well = examples.peer(pair="DUPLEX")
        copying = examples.peer(pair="COPYING")
        lost = examples.peer(pair="SUSPENDED", cause="link", why="down")
        group = two.a.group()
        for peers, state in (
            ([], "SIMPLEX"),
            ([well], "DUPLEX"),
            ([well, copying], "COPYING"),
            ([well, lost, copying], "SUSPENDED"),
        ):
            status = tell_group(two.a.pool, group, peers, 1.0, 0.0)
            assert status.state == state
            assert status.cause_kind == ("link" if state == "SUSPENDED" else "")

    play(scenario)


def test_what_is_missing_is_told_by_volume() -> None:
    async def scenario(two: Two) -> None:
        await until(lambda: two.a.status().peers[0].acked_cut > 0)
        two.fabric.cut("a", "b")
        two.a.write("db", 1, "x")
        two.a.write("wal", 100, "x", count=20)
        (peer,) = two.a.status().peers
        assert peer.missing == {"db": TRACK, "wal": 2 * TRACK}
        assert peer.changed_bytes == 3 * TRACK

    play(scenario)


def test_both_times_of_a_secondary_are_one() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 1, "x")
        await two.b.wait()
        await asyncio.sleep(2)
        status = two.b.status()
        assert status.journal_stamp == status.consistency_stamp == status.cut_stamp > 0
        assert status.last_heard >= status.cut_stamp
        assert status.behind_bytes == 0
        assert status.eta == 0.0
        assert status.shipped.data > 0
        assert status.hour.samples > 0

    play(scenario)
