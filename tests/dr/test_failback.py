"""Coming back after a forced failover: by delta, with nothing thrown away."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from isochrone.dr import failback, failover, switch
from isochrone.dr.reports import RejoinReport
from isochrone.errors import Conflict, Held, IsochroneError, NoSpace
from isochrone.mirror import groups, orphans
from isochrone.mirror.roles import Role, role_of
from isochrone.sim.loop import Crashed
from isochrone.store import copies, holds, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.types import BLOCK, MIB, TRACK
from tests.mirror.sites import GROUP, Host, Two, play, until

NAMES = ("db", "wal")


async def promote(host: Host) -> None:
    await host.call(failover.promote(host.pool, host.mirrors, GROUP, force=True))


async def rejoin(host: Host, source: str = "", **options: Any) -> RejoinReport:
    report = await host.call(
        failback.rejoin(host.pool, host.mirrors, GROUP, source=source, **options)
    )
    assert isinstance(report, RejoinReport)
    return report


async def take_over(host: Host) -> None:
    """As planned, from whom it follows."""
    await host.call(
        switch.switch(host.pool, host.mirrors, GROUP, address=host.address, force=False, timeout=30)
    )


async def fenced(two: Two) -> None:
    await until(lambda: two.a.group().role == "fenced")
    await until(lambda: not two.b.group().fence_pending)


async def disaster(two: Two, *, before: int = 200) -> None:
    """`a` is cut off and written to, `b` is promoted and written to, then the link is back."""
    two.a.write("db", 0, "base", count=before)
    await two.b.wait()
    two.fabric.cut("a", "b")
    two.a.write("db", 16, "lost", count=3)
    two.a.write("wal", 160, "lost")
    await two.a.call(two.a.pool.flush())
    await promote(two.b)
    two.b.write("db", 17, "new")
    two.b.write("db", 320, "new", count=2)
    two.fabric.heal_all()
    await fenced(two)


def says(host: Host, copy: str, volume: str, block: int) -> str:
    return host.says(f"{volume}@{copy}", block)


def test_failback_is_a_delta_and_the_tail_is_kept() -> None:
    async def scenario(two: Two) -> None:
        await disaster(two)
        tail = {name: two.a.image(name) for name in NAMES}
        size = await rejoin(two.a, two.b.address, dry_run=True)
        assert (size.done, size.first_copy, size.orphans) == (False, False, "")
        assert size.diverged == {"db": TRACK, "wal": TRACK}
        assert two.a.group().role == "fenced"
        received = two.a.status().bytes_received
        report = await rejoin(two.a)  # the fence said where the new primary is
        assert (report.source, report.orphans) == (two.b.address, "orphaned-g-1")
        assert report.diverged == size.diverged
        assert 0 < report.since < report.until
        await two.a.wait()
        assert two.same(*NAMES)
        assert two.a.says("db", 17) == "new"
        assert two.a.says("db", 16) == "base16"
        assert two.a.says("wal", 160) == ""
        moved = two.a.status().bytes_received - received
        # One track of db here, two of db there, one of wal here: of these, what is mapped.
        assert 18 * BLOCK <= moved < 3 * TRACK + (32 << 10)
        for name in NAMES:
            assert two.a.image(f"{name}@{report.orphans}") == tail[name]
        assert says(two.a, report.orphans, "db", 16) == "lost"
        with pytest.raises(Held, match="no other site has"):
            copies.delete(two.a.pool, report.orphans)
        assert role_of(two.a.group()) is Role.SECONDARY
        assert two.a.group().epoch == 2
        check_pool(two.a.pool)
        check_pool(two.b.pool)

    play(scenario)


def test_nobody_comes_between_what_is_kept_and_the_return() -> None:
    """A group that is deleted right then must not leave a record in the log that fits nothing."""

    async def scenario(two: Two) -> None:
        await disaster(two)
        refused: list[Conflict] = []

        def delete() -> None:
            try:
                groups.delete(two.a.pool, GROUP)
            except Conflict as e:
                refused.append(e)

        def told(lsn: int, record: r.AnyRecord) -> None:
            if isinstance(record, r.CopyHeld):
                asyncio.get_running_loop().call_soon(delete)

        two.a.pool.on_change.append(told)
        await rejoin(two.a)
        assert refused and not two.a.pool.failed
        await two.a.restart()
        await two.a.wait()
        assert two.same(*NAMES)

    play(scenario)


def test_and_then_back_as_planned() -> None:
    async def scenario(two: Two) -> None:
        await disaster(two)
        await rejoin(two.a)
        await two.a.wait()
        two.b.write("wal", 5, "still b")
        await take_over(two.a)
        two.a.write("wal", 6, "home")
        await two.b.wait()
        assert two.same(*NAMES)
        assert two.a.says("wal", 5) == "still b"
        assert (two.a.group().epoch, two.b.group().epoch) == (3, 3)
        assert not two.b.group().diverged

    play(scenario)


def test_nothing_to_keep_nothing_kept() -> None:
    async def scenario(two: Two) -> None:
        await two.b.wait()
        await promote(two.b)
        await fenced(two)
        report = await rejoin(two.a)
        assert (report.diverged, report.orphans) == ({}, "")
        two.b.write("db", 9, "x")
        await two.a.wait()
        assert two.same(*NAMES)
        assert not two.a.pool.state.copies

    play(scenario)


def test_sizes_that_differ_come_to_be_the_same() -> None:
    async def scenario(two: Two) -> None:
        await two.b.wait()
        two.fabric.cut("a", "b")
        volumes.resize(two.a.pool, "db", 8 * MIB)
        volumes.resize(two.a.pool, "wal", 8 * MIB)
        two.a.write("db", 1500, "behind the end")
        await two.a.call(two.a.pool.flush())
        await promote(two.b)
        volumes.resize(two.b.pool, "wal", 2 * MIB, shrink=True)
        two.fabric.heal_all()
        await fenced(two)
        report = await rejoin(two.a)
        await two.a.wait()
        assert (two.a.device("db").size, two.a.device("wal").size) == (4 * MIB, 2 * MIB)
        assert two.same(*NAMES)
        assert two.a.device(f"db@{report.orphans}").size == 8 * MIB

    play(scenario)


@pytest.mark.parametrize("who", ["a", "b", "both"])
@pytest.mark.parametrize("seed", range(5))
def test_power_cuts_while_it_comes_back(who: str, seed: int) -> None:
    async def scenario(two: Two) -> None:
        random = Random(seed)
        await disaster(two, before=700)
        tail = two.a.image("db")
        two.fabric.weather.bytes_per_s = 5e5
        await rejoin(two.a)
        for n in range(4):
            await asyncio.sleep(random.uniform(0, 0.6))
            for host in (two.a, two.b):
                if who in (host.site.name, "both"):
                    await host.restart()
            two.b.write("db", 500 + n, f"later {n}")
            assert two.a.group().role == "secondary"
            assert two.a.image("db@orphaned-g-1") == tail
        two.fabric.weather.bytes_per_s = 1e9
        await two.a.wait()
        assert two.same(*NAMES)
        check_pool(two.a.pool)

    play(scenario, seed=seed)


def test_a_power_cut_at_any_disk_call_of_it() -> None:
    """It has happened or not; the tail is there in both cases, once, and can be read."""
    roles = set()

    async def scenario(two: Two, at: int) -> None:
        await disaster(two)
        tail = two.a.image("db")
        platter, start = two.a.site.platter, two.a.site.platter.calls
        crashed: list[int] = []

        def watch(call: str, name: str) -> None:
            if platter.calls - start == at:
                crashed.append(at)
                two.a.crash()

        platter.watch = watch
        try:
            await rejoin(two.a)
        except Crashed:
            assert crashed
        platter.watch = None
        if crashed:
            await two.a.start()
        roles.add(two.a.group().role)
        if two.a.group().role == "fenced":
            assert two.a.image("db") == tail
            await rejoin(two.a)
        await two.a.wait()
        assert two.same(*NAMES)
        kept = [name for name in two.a.pool.state.copies if name.startswith("orphaned")]
        assert two.a.image(f"db@{kept[-1]}") == tail
        assert len(kept) == 1

    for at in range(1, 10):
        play(lambda two, at=at: scenario(two, at), seed=at)
    assert roles == {"fenced", "secondary"}


def test_it_cannot_be_promoted_before_anything_has_come() -> None:
    async def scenario(two: Two) -> None:
        await disaster(two)
        two.b.crash()
        await two.b.start()
        two.fabric.weather.bytes_per_s = 1e4
        await rejoin(two.a)
        two.fabric.cut("a", "b")
        assert role_of(two.a.group()) is Role.DIVERGED
        with pytest.raises(Conflict, match="nothing has come of it yet"):
            await promote(two.a)
        two.fabric.heal_all()
        two.fabric.weather.bytes_per_s = 1e9
        await two.a.wait()
        await promote(two.a)
        assert two.a.group().epoch == 3

    play(scenario)


def test_who_may_not_come_back_and_to_whom() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="is the primary here"):
            await rejoin(two.a, two.b.address)
        with pytest.raises(Conflict, match="not known where"):
            await rejoin(two.a)
        await disaster(two)
        c = await two.another()
        volumes.create(c.pool, "db", MIB)
        from isochrone.mirror import groups

        groups.create(c.pool, GROUP, ["db"])
        with pytest.raises(Conflict, match="another history"):
            await rejoin(two.a, c.address)
        with pytest.raises(IsochroneError):
            await rejoin(two.a, two.a.address)
        assert two.a.group().role == "fenced"

    play(scenario)


def test_a_secondary_that_follows_somebody_else_now() -> None:
    """Behind, level with, or ahead of the cut at which the new primary took over."""

    async def scenario(two: Two, where: str) -> None:
        c = await two.another()
        two.a.write("db", 0, "base", count=500)
        await c.call(c.mirrors.add(GROUP, two.a.address))
        await c.wait()
        for n in range(3):  # each has cuts of its own, in turns
            two.a.write("db", 590, f"all have it {n}")
            await two.b.wait()
            await c.wait()
        if where == "ahead":
            two.fabric.cut("a", "b")
        if where == "behind":
            two.fabric.cut("a", "c")
        for n in range(3):
            two.a.write("db", 600 + n, f"some have it {n}")
            await (c.wait() if where != "behind" else two.b.wait())
            if where == "level":
                await two.b.wait()
        cut = c.group().cut
        await promote(two.b)
        two.a.crash()
        two.b.write("wal", 3, "new")
        two.fabric.heal_all()
        mine = c.image("db")
        report = await rejoin(c, two.b.address)
        assert 0 < report.cut <= min(cut, two.b.group().kept_cut)
        assert not report.first_copy
        received = c.status().bytes_received
        await c.wait()
        assert c.image("db") == two.b.image("db")
        assert c.image("wal") == two.b.image("wal")
        assert c.status().bytes_received - received < 4 * TRACK
        if where == "ahead":
            assert report.diverged["db"] <= 2 * TRACK
            assert c.image(f"db@{report.orphans}") == mine
            assert c.says("db", 601) == ""
        else:
            assert report.orphans == ""

    for where in ("behind", "level", "ahead"):
        play(lambda two, where=where: scenario(two, where))


def test_a_cut_that_the_new_primary_never_had() -> None:
    """It went from one cut to the next but one. What differs is known all the same."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "base", count=500)
        c = await two.third()
        await two.b.wait()
        two.fabric.cut("a", "b")
        for n in range(3):
            two.a.write("db", 600 + 16 * n, f"with a cut of its own {n}")
            copies.take(two.a.pool, ["db"], name=f"c{n}")
            await c.wait()
        cut = c.group().cut
        holds.pin(c.pool, copies.find_copy(c.pool, "c1"))
        two.fabric.cut("a", "c")
        two.a.write("db", 700, "later")
        two.a.discard("db", 601, 1)
        two.fabric.heal("a", "b")
        await two.b.wait()
        await promote(two.b)
        two.a.crash()
        assert two.b.group().mark(cut) is None
        assert two.b.group().cut > cut
        two.b.write("wal", 3, "new")
        two.fabric.heal_all()
        report = await rejoin(c, two.b.address)
        assert (report.cut, report.first_copy, report.orphans) == (cut, False, "")
        received = c.status().bytes_received
        await c.restart()
        await c.wait()
        for name in ("db", "wal", "db@c0", "db@c1", "db@c2"):
            assert c.image(name) == two.b.image(name), name
        assert c.status().bytes_received - received < 12 * TRACK
        two.b.write("db", 1, "and on")
        await c.wait()
        assert c.says("db", 1) == "and on"

    play(scenario)


def test_a_secondary_that_is_ahead_of_the_one_it_is_to_follow() -> None:
    """It keeps what it has, which may be more than any other site has, until that one has it."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        for n in range(3):
            two.a.write("db", 90, f"all have it {n}")
            await two.b.wait()
            await c.wait()
        two.fabric.cut("a", "b")
        two.a.write("db", 7, "ahead")
        await c.wait()
        two.fabric.cut("a", "c")
        cut = c.group().cut
        assert two.b.group().cut < cut
        report = await rejoin(c, two.b.address)
        assert (report.cut, report.first_copy) == (cut, False)
        await until(lambda: "not as far" in c.status().cause)
        assert role_of(c.group()) is Role.SECONDARY
        two.fabric.heal_all()
        two.a.write("db", 8, "and on")
        await two.b.wait()
        await c.wait()
        assert (c.says("db", 7), c.says("db", 8)) == ("ahead", "and on")
        assert c.image("db") == two.a.image("db")

    play(scenario)


def test_two_sites_took_one_epoch_over() -> None:
    """Both are primary at epoch 2, of different branches: neither follows the other by mistake."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        await two.b.wait()
        two.a.crash()
        await promote(two.b)
        await promote(c)
        two.b.write("db", 3, "b")
        c.write("db", 3, "c")
        c.write("db", 40, "c")
        await asyncio.sleep(20)
        assert (two.b.says("db", 3), c.says("db", 3)) == ("b", "c")
        with pytest.raises(Conflict, match="two sites took it over"):
            await rejoin(c, two.b.address)
        report = await rejoin(c, two.b.address, force=True)
        await c.wait()
        assert c.image("db") == two.b.image("db")
        assert says(c, report.orphans, "db", 40) == "c"

    play(scenario)


def test_a_stale_epoch_is_refused_whatever_is_asked() -> None:
    async def scenario(two: Two) -> None:
        await disaster(two)
        await rejoin(two.a)
        await two.a.wait()
        await take_over(two.a)
        await two.b.wait()
        two.fabric.cut("a", "b")
        await promote(two.b)  # epoch 4, while a stays at 3
        two.fabric.heal_all()
        await fenced(two)
        c = await two.another()
        with pytest.raises(IsochroneError, match="taken over"):
            await c.call(c.mirrors.add(GROUP, two.a.address))
        with pytest.raises(IsochroneError, match="taken over"):
            await rejoin(two.b, two.a.address, force=True)

    play(scenario)


async def ahead(two: Two) -> Host:
    """Another secondary, with a cut that `b`, which takes over, has not got."""
    c = await two.third(wait=False)
    for n in range(3):  # each has cuts of its own, in turns
        two.a.write("db", 90, f"all have it {n}")
        await two.b.wait()
        await c.wait()
    two.fabric.cut("a", "b")
    two.a.write("db", 100, "only c has it")
    await c.wait()
    await promote(two.b)
    return c


def test_what_fails_leaves_a_secondary_following(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(two: Two) -> None:
        c = await ahead(two)

        def full(*_: object) -> None:
            raise NoSpace("there is no place for another copy")

        with monkeypatch.context() as patched:
            patched.setattr(orphans, "park", full)
            with pytest.raises(NoSpace):
                await rejoin(c, two.b.address)
        two.a.write("db", 101, "it goes on")
        await c.wait(timeout=20)
        assert c.says("db", 101) == "it goes on"
        assert role_of(c.group()) is Role.SECONDARY

    play(scenario)


def test_a_promotion_in_the_middle_of_it() -> None:
    """One of them happens: no host has a write acknowledged that is given up unseen."""

    async def scenario(two: Two, when: type[Any]) -> None:
        c = await ahead(two)
        second: list[Any] = []

        def watch(lsn: int, record: Any) -> None:
            if isinstance(record, when) and not second:
                second.append(c.site.spawn(failover.promote(c.pool, c.mirrors, GROUP, force=True)))

        c.pool.on_change.append(watch)
        report = await rejoin(c, two.b.address)
        with pytest.raises(Conflict):
            await second[0]
        await c.wait()
        assert c.image("db") == two.b.image("db")
        assert says(c, report.orphans, "db", 100) == "only c has it"

    for when in (r.CopyTaken, r.CopyHeld, r.Rejoined):
        play(lambda two, when=when: scenario(two, when))


def test_no_instant_is_promised_that_was_given_up() -> None:
    """Until something comes of the new primary, the age is that of what both have."""

    async def scenario(two: Two) -> None:
        c = await ahead(two)
        given_up = c.group().cut_stamp
        two.fabric.weather.bytes_per_s = 1e4
        report = await rejoin(c, two.b.address)
        assert role_of(c.group()) is Role.DIVERGED
        assert c.mirrors.mover(GROUP).recovery_point < given_up
        assert c.mirrors.mover(GROUP).recovery_point == report.since > 0

    play(scenario)


@pytest.mark.parametrize("crash", [False, True])
def test_an_old_primary_is_fenced_over_two_takeovers(crash: bool) -> None:
    """Who took over from it gave way in its turn before it came back; nobody else knows it."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        two.a.crash()
        await promote(c)
        await rejoin(two.b, c.address)
        await two.b.wait()
        await promote(two.b)
        await rejoin(c, two.b.address)
        await c.wait()
        assert c.group().to_fence == [two.a.address]
        assert c.status().fence_pending
        if crash:
            await c.restart()
        await two.a.start()
        await until(lambda: two.a.group().role == "fenced", 60)
        assert not two.a.group().writable
        assert two.a.group().superseded_by == two.b.group().epoch
        await until(lambda: not c.status().fence_pending, 60)
        await rejoin(two.a, two.b.address)
        await two.a.wait()
        assert two.same("db", "wal")

    play(scenario)


@pytest.mark.parametrize("force", [False, True])
def test_a_handover_that_nobody_ended_does_not_keep_it_out(force: bool) -> None:
    """The heir follows somebody else by now, who took over: no cancelling is needed first."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        two.a.write("db", 3, "common")
        await two.b.wait()
        await c.wait()
        two.fabric.cut("a", "c")
        two.a.pool.record(r.HandoverBegun(group=GROUP, peer=two.b.pool.identity, stamp=1))
        await two.a.call(two.a.pool.flush())
        assert role_of(two.a.group()) is Role.HANDING
        with pytest.raises(Conflict, match="being handed over"):
            await rejoin(two.a, two.b.address)
        await promote(c)
        two.fabric.heal_all()
        await rejoin(two.a, c.address, force=force)
        await two.a.wait()
        assert role_of(two.a.group()) is Role.SECONDARY
        assert two.a.image("db") == c.image("db")

    play(scenario)
