"""A forced failover: one instant, a new epoch, an honest report, and one writer at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isochrone.dr import failover
from isochrone.errors import Conflict, NotFound, PeerFault, ReadOnly
from isochrone.mirror import groups
from isochrone.mirror.status import PromoteReport
from isochrone.sim.loop import Crashed
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.types import BLOCK, MIB
from tests.mirror.sites import GROUP, Host, Two, play, until


async def promote(host: Host, group: str = GROUP) -> PromoteReport:
    return await host.call(failover.promote(host.pool, host.mirrors, group, force=True))


async def writes(two: Two) -> None:
    n = 0
    while True:
        n += 1
        two.a.write("db", 10, f"{n}")
        two.a.write("wal", 10, f"{n}")
        await asyncio.sleep(0.01)


def writable(host: Host, *names: str) -> bool:
    found = {host.device(name).read_only for name in names}
    assert len(found) == 1
    return not found.pop()


# -- what comes back


def test_the_group_stands_at_its_last_complete_cut() -> None:
    async def scenario(two: Two) -> None:
        loop = asyncio.get_running_loop()
        images: dict[int, tuple[bytes, bytes]] = {}

        def placed(lsn: int, record: Any) -> None:
            if isinstance(record, r.CutPlaced):
                images[record.cut] = two.a.image("db"), two.a.image("wal")

        two.a.pool.on_change.append(placed)
        working = two.a.site.spawn(writes(two))
        await asyncio.sleep(3.3)
        two.a.crash()
        with pytest.raises(Crashed):
            await working
        began = loop.time()
        report = await promote(two.b)
        assert loop.time() - began < 1
        assert (two.b.image("db"), two.b.image("wal")) == images[report.cut]
        assert writable(two.b, "db", "wal")
        assert two.b.group().cut == report.cut
        check_pool(two.b.pool)

    play(scenario)


def test_a_group_that_is_not_complete_is_dropped() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "old")
        await two.b.wait()
        cut = two.b.group().cut
        two.fabric.weather.bytes_per_s = 2e5
        for n in range(7):
            two.a.write("db", 128 * n, "new", count=128)
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.bytes_incoming > MIB)
        incoming = mover.bytes_incoming
        report = await promote(two.b)
        assert report.cut == cut
        assert report.incoming_bytes_dropped >= incoming
        assert two.b.says("db", 3) == "old"
        assert not [v for v in two.b.pool.state.volumes.values() if v.kind == "shadow"]
        assert two.b.group().incoming is None

    play(scenario)


def test_the_report() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="c1")
        await two.b.wait(copy="c1")
        copies.take(two.b.pool, ["db"], name="local")
        await asyncio.sleep(10)
        stamp = two.b.group().cut_stamp
        cut, lineage = two.b.group().cut, two.b.group().lineage
        two.a.crash()
        await asyncio.sleep(5)
        report = await promote(two.b)
        assert (report.group, report.cut, report.cut_stamp) == (GROUP, cut, stamp)
        assert (report.lineage, report.epoch) == (lineage, 2)
        assert report.recovery_point - stamp > 8e9, "an idle primary said that nothing was lost"
        assert 4 < report.recovery_point_age < 8
        assert report.last_heard >= report.recovery_point
        assert report.lost_bytes == 0
        assert report.incoming_bytes_dropped == 0
        assert report.volumes == ["db", "wal"]
        assert report.copies == ["c1"]
        assert 0 <= report.seconds < 1
        status = two.b.status()
        assert (status.role, status.epoch, status.fence_pending) == ("primary", 2, True)
        assert status.promoted_stamp
        assert two.b.group().lost == {"bytes": 0, "heard": report.last_heard}

    play(scenario)


def test_what_is_known_to_be_lost() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 1, "here")
        await two.b.wait()
        two.a.write("db", 100, "lost", count=25)
        await asyncio.sleep(3)  # the interval is long: heartbeats tell, no cut comes
        two.a.crash()
        report = await promote(two.b)
        assert report.lost_bytes == 25 * BLOCK
        assert two.b.says("db", 1) == "here"
        assert two.b.says("db", 100) == ""
        heard = two.b.site.clock.wall_ns() - report.last_heard
        assert 0 <= heard < 2e9

    play(scenario, interval=1000.0)


def test_what_came_after_the_cut_is_not_called_nothing() -> None:
    """A cut that took long to arrive says nothing about what was written meanwhile."""

    async def scenario(two: Two) -> None:
        await two.b.wait()
        two.fabric.weather.bytes_per_s = 1e6
        two.a.write("db", 0, "x", count=1000)
        cut = two.b.group().cut
        await until(lambda: two.a.group().cut > cut)  # it holds what was written up to here
        two.a.write("wal", 0, "after the cut", count=50)
        await until(lambda: two.b.group().cut == cut + 1)
        await until(lambda: two.b.mirrors.mover(GROUP).behind_bytes > 0)
        two.a.crash()
        report = await promote(two.b)
        assert report.cut == cut + 1
        assert report.lost_bytes == 50 * BLOCK

    play(scenario)


def test_nothing_is_claimed_that_is_not_known() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await two.b.restart()
        await asyncio.sleep(3)
        report = await promote(two.b)
        assert report.lost_bytes == -1
        assert report.last_heard == 0
        assert report.recovery_point == report.cut_stamp

    play(scenario)


# -- what is refused


def test_promoting_twice() -> None:
    async def scenario(two: Two) -> None:
        await promote(two.b)
        with pytest.raises(Conflict, match="is the primary here already"):
            await promote(two.b)
        assert two.b.group().epoch == 2

    play(scenario)


def test_two_at_once() -> None:
    async def scenario(two: Two) -> None:
        both = await asyncio.gather(promote(two.b), promote(two.b), return_exceptions=True)
        assert sorted(type(b).__name__ for b in both) == ["Conflict", "PromoteReport"]
        assert two.b.group().epoch == 2
        await two.b.call(two.b.pool.flush())
        await two.b.restart()
        assert two.b.group().epoch == 2

    play(scenario)


@pytest.mark.parametrize("first", ["promote", "remove"])
def test_promoting_and_removing_at_once(first: str) -> None:
    """One of them wins; the other is refused, and the log can be read again."""

    async def scenario(two: Two) -> None:
        two.fabric.stall("a", "b")
        removing = two.b.call(two.b.mirrors.remove(GROUP))
        promoting = promote(two.b)
        order = [promoting, removing] if first == "promote" else [removing, promoting]
        results = await asyncio.gather(*order, return_exceptions=True)
        assert sum(isinstance(result, Conflict | NotFound) for result in results) == 1
        await two.b.call(two.b.pool.flush())
        await two.b.restart()
        if GROUP in two.b.pool.state.groups:
            assert two.b.group().role == "primary"
        assert writable(two.b, "db", "wal")
        check_pool(two.b.pool)

    play(scenario)


def test_before_the_first_copy() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "x", count=900)
        two.fabric.weather.bytes_per_s = 1e6
        await two.mirror(wait=False)
        await until(lambda: two.b.mirrors.mover(GROUP).bytes_incoming > MIB)
        with pytest.raises(Conflict, match="no complete cut") as e:
            await promote(two.b)
        assert "mirror wait g" in e.value.hint
        await two.b.wait()  # it was not disturbed
        assert two.same("db", "wal")

    play(scenario, mirrored=False)


def test_where_nothing_is_mirrored() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="primary here already"):
            await promote(two.a)
        with pytest.raises(NotFound):
            await promote(two.b, "nobody")
        await promote(two.b)
        await until(lambda: two.a.group().role == "fenced")
        with pytest.raises(Conflict, match="taken over by epoch 2"):
            await promote(two.a)

    play(scenario)


# -- and power cuts


def test_it_survives_a_power_cut() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        await two.b.wait()
        report = await promote(two.b)
        image = two.b.image("db")
        await two.b.restart()
        assert two.b.group().role == "primary"
        assert two.b.group().epoch == report.epoch
        assert two.b.image("db") == image
        two.b.write("db", 4, "y")

    for seed in range(20):
        play(scenario, seed=seed)


def test_a_power_cut_at_any_disk_call_of_it() -> None:
    """It has happened or not; then it can be done again, to the same cut."""
    roles = set()

    async def scenario(two: Two, at: int) -> None:
        two.a.write("db", 3, "x")
        await two.b.wait()
        two.a.crash()
        cut, image = two.b.group().cut, two.b.image("db")
        platter, start = two.b.site.platter, two.b.site.platter.calls

        def watch(call: str, name: str) -> None:
            if platter.calls - start == at:
                two.b.crash()

        platter.watch = watch
        try:
            await promote(two.b)
        except Crashed:
            platter.watch = None
            await two.b.start()
            roles.add(two.b.group().role)
            if two.b.group().role == "secondary":
                await promote(two.b)
        platter.watch = None
        assert (two.b.group().role, two.b.group().epoch) == ("primary", 2)
        assert two.b.group().cut == cut
        assert two.b.image("db") == image

    for at in range(1, 6):
        for seed in range(8):
            play(lambda two, at=at: scenario(two, at), seed=seed)
    assert roles == {"primary", "secondary"}


# -- one writer


def test_the_old_primary_gives_way_at_once_when_it_can_be_reached() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        await two.b.wait()
        await promote(two.b)
        await until(lambda: not two.b.group().fence_pending)
        assert not writable(two.a, "db", "wal")
        with pytest.raises(ReadOnly, match="fenced"):
            two.a.write("db", 3, "y")
        assert two.a.says("db", 3) == "x"
        status = two.a.status()
        assert (status.role, status.superseded_by) == ("fenced", 2)
        await two.a.restart()
        assert not writable(two.a, "db", "wal")

    play(scenario)


def test_the_old_primary_refuses_to_serve() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third()
        await promote(two.b)
        await until(lambda: two.a.group().role == "fenced")
        await until(lambda: "taken over by epoch 2" in c.status().cause)
        assert c.status().state == "SUSPENDED"
        d = await two.another("d")
        with pytest.raises(PeerFault, match="taken over by epoch 2"):
            await d.call(d.mirrors.add(GROUP, two.a.address))

    play(scenario)


def test_a_stale_primary_cannot_feed_a_site_that_knows_better() -> None:
    """Also one that has not heard of it: greeting it is enough to tell it."""

    async def scenario(two: Two) -> None:
        c = await two.another()
        two.fabric.cut("a", "b")
        await promote(two.b)
        two.b.write("db", 3, "new history")
        await c.call(c.mirrors.add(GROUP, two.b.address))
        await c.wait()
        assert c.group().epoch == 2
        assert two.a.group().role == "primary"
        c.group().source = two.a.address  # somebody points it at the wrong site
        two.a.write("db", 3, "old history")
        two.fabric.cut("b", "c")
        await until(lambda: "epoch 2" in c.status().cause)
        assert two.a.group().role == "fenced"
        assert c.says("db", 3) == "new history"

    play(scenario)


def test_fencing_goes_on_after_a_restart_of_the_new_primary() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await promote(two.b)
        await asyncio.sleep(30)
        await two.b.restart()
        assert two.b.group().fence_pending
        assert writable(two.a, "db", "wal")
        two.fabric.heal_all()
        await until(lambda: two.a.group().role == "fenced")
        await until(lambda: not two.b.group().fence_pending)
        await two.b.call(two.b.pool.flush())
        await two.b.restart()
        assert not two.b.group().fence_pending
        assert not [name for name in two.b.mirrors._tasks if name.startswith("fence")]

    play(scenario)


def test_a_primary_that_was_dead_is_fenced_when_it_comes_back() -> None:
    async def scenario(two: Two) -> None:
        two.a.crash()
        await promote(two.b)
        await asyncio.sleep(100)
        await two.a.start()
        await until(lambda: two.a.group().role == "fenced", 30)
        assert not writable(two.a, "db", "wal")

    play(scenario)


def test_both_ends_alive() -> None:
    """A is cut off, alive, and its hosts write on; B is recovered. Then the link comes back."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "common")
        await two.b.wait()
        two.fabric.cut("a", "b")
        two.a.write("db", 3, "A alone")
        two.a.write("db", 4, "A alone")
        await two.a.call(two.a.pool.flush())
        report = await promote(two.b)
        two.b.write("db", 3, "B went on")
        two.a.write("wal", 9, "A still alone")
        await asyncio.sleep(60)
        two.fabric.heal_all()
        await until(lambda: two.a.group().role == "fenced", 30)
        assert (two.b.says("db", 3), two.b.says("db", 4)) == ("B went on", "")
        assert (two.a.says("db", 3), two.a.says("wal", 9)) == ("A alone", "A still alone")
        with pytest.raises(ReadOnly):
            two.a.write("db", 3, "x")
        assert two.b.status().epoch == report.epoch == 2
        await asyncio.sleep(60)
        assert two.b.says("db", 4) == "", "something of the old branch arrived"
        with pytest.raises(Conflict, match="as fenced"):
            await two.a.call(two.a.mirrors.add(GROUP, two.b.address))

    play(scenario)


def test_the_new_primary_is_mirrored_in_its_turn() -> None:
    async def scenario(two: Two) -> None:
        await promote(two.b)
        two.b.write("db", 3, "second life")
        volumes.resize(two.b.pool, "wal", 8 * MIB)
        c = await two.third(two.b)
        assert (c.group().lineage, c.group().epoch) == (two.b.group().lineage, 2)
        report = await promote(c)
        assert report.epoch == 3
        await until(lambda: two.b.group().role == "fenced")
        assert c.image("db") == two.b.image("db")
        assert c.device("wal").size == 8 * MIB

    play(scenario)


def test_a_site_that_followed_the_old_primary_follows_the_new_one_from_the_beginning() -> None:
    """Its cut may be newer than any of the new history, and the volumes there have other ids."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        two.fabric.cut("a", "b")
        for n in range(30):
            two.a.write("db", 3, f"only c has it {n}")
            await asyncio.sleep(0.3)
        report = await promote(two.b)
        assert c.group().cut > report.cut + 10
        two.a.crash()
        c.group().source = two.b.address  # its address is taken over, too
        await until(lambda: "after a failover" in c.status().cause)
        assert c.says("db", 3).startswith("only c has it")
        await c.call(c.mirrors.remove(GROUP))
        for name in ("db", "wal"):
            volumes.delete(c.pool, name)
        await c.call(c.mirrors.add(GROUP, two.b.address))
        await c.wait()
        assert c.group().epoch == 2
        assert c.image("db") == two.b.image("db")

    play(scenario)


def test_a_group_that_is_deleted_while_the_old_primary_is_told() -> None:
    """What the old primary answers then is of no group any more, and is not written down."""

    async def scenario(two: Two) -> None:
        two.a.pool.on_change.append(
            lambda lsn, record: groups.delete(two.b.pool, GROUP)
            if isinstance(record, r.Fenced) else None
        )  # fmt: skip
        await promote(two.b)
        await until(lambda: two.a.group().role == "fenced")
        await asyncio.sleep(30)
        volumes.create(two.b.pool, "more", MIB)
        await two.b.call(two.b.pool.flush())
        await two.b.restart()
        assert GROUP not in two.b.pool.state.groups

    play(scenario)
