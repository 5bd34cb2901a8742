"""Copies that sites take in turn, by the same names: none is lost, mixed up, or in the way."""

from __future__ import annotations

import pytest

from isochrone.dr import failback
from isochrone.errors import PeerFault
from isochrone.mirror.commands import check_peer_name
from isochrone.store import copies, schedules
from isochrone.store.check import check_pool
from isochrone.store.scheduler import Scheduler
from isochrone.store.schedules import Wanted
from tests.mirror.sites import GROUP, Host, Two, play, sleep
from tests.mirror.test_inherited import change_over, come_back, overtake


def names(host: Host) -> dict[str, str]:
    """The copies of a site, and the group that each came through."""
    return {copy.name: copy.group for copy in host.pool.state.copies.values()}


async def level(primary: Host, secondary: Host) -> None:
    """Whatever came before, the mirror goes on."""
    primary.write("db", 1, "later")
    await secondary.wait()
    assert secondary.status().state == "DUPLEX"
    assert secondary.says("db", 1) == "later"


def test_names_that_are_taken_do_not_end_the_mirror() -> None:
    async def scenario(two: Two) -> None:
        a, b = two.a, two.b
        copies.take(b.pool, ["db"], name="x")
        a.write("db", 0, "of a")
        copies.take(a.pool, ["db"], name="x")
        await b.wait()
        (other,) = [name for name, group in names(b).items() if group == GROUP]
        assert other.startswith("x~")
        assert b.says(f"db@{other}", 0) == "of a"
        await change_over(b)
        await a.wait()
        copies.delete(b.pool, other)  # under a name that no command line could have given it
        copies.take(b.pool, ["db"], name=other[0] + "y")
        await level(b, a)
        assert names(a) == {"x": "", "xy": GROUP}, "what a site took itself is its own"
        copies.delete(b.pool, "x")
        await level(b, a)
        assert "x" in names(a)
        for host in (a, b):
            check_pool(host.pool)

    play(scenario)


def test_each_site_takes_the_same_name_in_its_turn() -> None:
    async def scenario(two: Two) -> None:
        primary, other = two.a, two.b
        for turn in range(4):
            primary.write("db", 0, f"turn {turn}")
            if "nightly" in names(primary):
                copies.delete(primary.pool, "nightly")
            copies.take(primary.pool, ["db", "wal"], name="nightly")
            await level(primary, other)
            assert primary.says("db@nightly", 0) == f"turn {turn}"
            found = [n for n in names(other) if other.says(f"db@{n}", 0) == f"turn {turn}"]
            assert len(found) == 1, names(other)
            await change_over(other)
            primary, other = other, primary
            await other.wait()
        for host in (primary, other):
            check_pool(host.pool)
            for name in list(names(host)):
                copies.delete(host.pool, name)
        await level(primary, other)
        assert names(primary) == {}

    play(scenario)


def test_a_name_means_another_copy_at_a_third_site() -> None:
    """Two sites took it in turn: what one deletes goes where it is, and the other one stays."""

    async def scenario(two: Two) -> None:
        a, b, c = two.a, two.b, await two.third()

        async def change(to: Host, other: Host) -> None:
            await change_over(to)
            await other.wait()
            await c.call(failback.rejoin(c.pool, c.mirrors, GROUP, source=to.address))
            await c.wait()

        copies.take(a.pool, ["db"], name="x")
        await level(a, b)
        await c.wait()
        await change(b, a)
        copies.delete(b.pool, "x")
        await level(b, a)
        await c.wait()
        b.write("db", 0, "of b")
        copies.take(b.pool, ["db"], name="x")
        await level(b, a)
        await change(a, b)
        (numbered,) = [name for name, group in names(a).items() if group == GROUP]
        assert (names(c), c.says("db@x", 0)) == ({"x": GROUP}, "of b")
        copies.delete(a.pool, "x")
        await level(a, b)
        await c.wait()
        assert c.says("db@x", 0) == "of b", "it is still at the primary, under another name"
        copies.delete(a.pool, numbered)
        copies.take(a.pool, ["db"], name="y")
        copies.delete(a.pool, "y")
        await level(a, b)
        await c.wait()
        assert names(c) == {}
        assert names(b) == {"x": ""}

    play(scenario)


def test_images_carry_copies_that_had_to_be_renamed() -> None:
    async def scenario(two: Two) -> None:
        a, b = two.a, two.b
        copies.take(b.pool, ["db"], name="x")
        copies.take(a.pool, ["db"], name="x")
        await b.wait()
        a.write("db", 2, "lost")
        await overtake(two)
        a.write("db", 3, "lost as well")
        b.write("db", 3, "kept")
        await come_back(two)
        await level(b, a)
        assert two.same("db", "wal")
        for name in [name for name in names(b) if "~" in name]:
            copies.delete(b.pool, name)
        await level(b, a)

    play(scenario)


def test_schedules_of_one_name_run_at_both_sites_over_switches() -> None:
    """Each prunes what it took itself, and nothing else; the names meet, the mirror goes on."""

    async def scenario(two: Two) -> None:
        kept = 3

        async def scheduled(host: Host) -> Scheduler:
            rules = f"every 10s keep {kept}"
            drafted = schedules.draft(host.pool, "often", rules, Wanted(group=GROUP))
            schedules.put(host.pool, drafted)
            scheduler = Scheduler(host.pool)
            host.site.spawn(scheduler.run())
            return scheduler

        for host in (two.a, two.b):
            await scheduled(host)
        copies.take(two.a.pool, ["db"], name="often-by-hand")
        primary, other = two.a, two.b
        for _ in range(3):
            for n in range(6):
                primary.write("db", n, f"at {n}")
                await sleep(10.0)
            await level(primary, other)
            for host in (two.a, two.b):
                mine = schedules.copies_of(host.pool, "often")
                assert 0 < len(mine) <= kept + 1
                assert all(not copy.group for copy in mine), (
                    "what came by the mirror is not counted"
                )
                assert "often-by-hand" in names(host)
            await change_over(other)
            primary, other = other, primary
            await other.wait()
        for host in (two.a, two.b):
            desk = Scheduler(host.pool).outlook(host.pool.state.schedules["often"])
            assert desk.error == ""
            check_pool(host.pool)
        await level(primary, other)

    play(scenario)


@pytest.mark.parametrize("name", ["x~9", "x~9~10", "nightly-20260101T000000Z~7"])
def test_a_numbered_name_is_one_that_a_site_gives(name: str) -> None:
    check_peer_name("copy", name)


@pytest.mark.parametrize("name", ["~9", "x~", "x~9~", "x~a", "x@y~1", "x" * 129, "x~" + "9" * 300])
def test_other_names_are_not(name: str) -> None:
    with pytest.raises(PeerFault):
        check_peer_name("copy", name)
