"""A planned switch: nothing lost, nothing copied, never two writers, and it can stop anywhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from isochrone.dr import failover, switch
from isochrone.dr.plan import Step
from isochrone.dr.reports import SwitchReport
from isochrone.dr.switch import PlannedSwitch
from isochrone.errors import Conflict, DeadlinePassed, IsochroneError, PeerFault, ReadOnly
from isochrone.mirror.roles import Role, advice, role_of
from isochrone.sim.loop import Crashed
from isochrone.store import copies
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.types import MIB, Caller, Proof
from tests.mirror.sites import GROUP, Host, Two, play, until

NAMES = ("db", "wal")
CLIENT = Caller(Proof.ADDRESS, "10.0.0.9", "10.0.0.9:5555")


async def change(host: Host, *, force: bool = False, timeout: float = 30) -> SwitchReport:
    return await host.call(
        switch.switch(
            host.pool, host.mirrors, GROUP, address=host.address, force=force, timeout=timeout
        )
    )


def writers(two: Two) -> list[str]:
    return [h.site.name for h in (two.a, two.b) if h.group().writable]


def roles(two: Two) -> tuple[Role, Role]:
    return role_of(two.a.group()), role_of(two.b.group())


async def settle(two: Two) -> None:
    """Until `a` follows `b`, and is as new."""
    await until(lambda: two.a.group().role == "secondary")
    await two.a.wait()
    assert two.same(*NAMES)


def test_there_and_back() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        two.a.write("wal", 7, "y")
        report = await change(two.b)
        assert report.steps == ["hold", "catch up", "yield", "take over"]
        assert (report.epoch, report.old_primary) == (2, two.a.address)
        assert report.held_seconds < 2
        assert two.same(*NAMES)
        assert roles(two) == (Role.SECONDARY, Role.PRIMARY)
        assert writers(two) == ["b"]
        before = two.a.status().bytes_received
        two.b.write("db", 4, "from b")
        await settle(two)
        assert two.a.says("db", 4) == "from b"
        assert two.a.status().state == "DUPLEX"
        assert two.a.status().bytes_received - before < 64 << 10, "that was no delta"
        assert not two.b.group().fence_pending
        report = await change(two.a)
        assert report.epoch == 3
        assert writers(two) == ["a"]
        two.a.write("db", 5, "home")
        await two.b.wait()
        assert two.same(*NAMES)
        check_pool(two.a.pool)
        check_pool(two.b.pool)

    play(scenario)


def test_nothing_is_copied() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "x", count=1000)
        await two.b.wait()
        before = two.a.site.platter.calls
        await change(two.b)
        await until(lambda: two.a.status().state == "DUPLEX")
        assert two.a.status().bytes_received < 64 << 10
        assert before

    play(scenario)


def test_under_load_no_write_is_lost() -> None:
    async def scenario(two: Two) -> None:
        done = 0

        async def hosts() -> None:
            nonlocal done
            while True:
                two.a.write("db", done % 500, f"n{done}")
                two.a.write("wal", done % 500, f"n{done}")
                done += 1
                await asyncio.sleep(0.01)

        working = two.a.site.spawn(hosts())
        await asyncio.sleep(2)
        report = await change(two.b)
        with pytest.raises(ReadOnly, match="read-only"):
            await working
        assert two.b.says("db", (done - 1) % 500) == f"n{done - 1}"
        assert two.b.says("wal", (done - 1) % 500) == f"n{done - 1}"
        assert report.cut == two.a.group().cut
        await settle(two)

    play(scenario)


def test_another_secondary_that_has_the_newest_cut_is_not_in_the_way() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third()
        two.a.write("db", 3, "x")
        await two.b.wait()
        await c.wait()
        late, heir = sorted((two.b, c), key=lambda host: host.group().cut, reverse=True)
        assert late.group().cut > heir.group().cut
        report = await change(heir)
        assert report.held_seconds < 2
        assert heir.group().writable
        assert heir.says("db", 3) == "x"

    play(scenario)


def test_a_link_that_fails_meanwhile_is_waited_for() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")

        def held(lsn: int, record: Any) -> None:
            if isinstance(record, r.HandoverBegun):
                two.fabric.cut("a", "b")

        two.a.pool.on_change.append(held)
        switching = asyncio.ensure_future(change(two.b, timeout=60))
        await until(lambda: two.a.group().handover != "")
        await asyncio.sleep(5)
        assert writers(two) == []
        two.fabric.heal_all()
        report = await switching
        assert report.held_seconds > 4
        assert writers(two) == ["b"]
        await settle(two)

    play(scenario)


def test_hosts_that_have_it_open_are_named() -> None:
    async def scenario(two: Two) -> None:
        id = two.a.pool.state.names["db"]
        two.a.pool.attached.attach(id, CLIENT)
        with pytest.raises(PeerFault, match=r"10\.0\.0\.9") as e:
            await change(two.b)
        assert "--force" in e.value.hint
        assert roles(two) == (Role.PRIMARY, Role.SECONDARY)
        two.a.pool.attached.detach(id, CLIENT)
        two.a.pool.attached.attach(id, CLIENT, read_only=True)
        two.a.pool.attached.attach(two.a.pool.state.names["wal"], CLIENT)
        report = await change(two.b, force=True)
        assert report.hosts == ["wal: 10.0.0.9:5555"]

    play(scenario)


def test_a_copy_that_is_taken_meanwhile_needs_another_cut() -> None:
    async def scenario(two: Two) -> None:
        plan = PlannedSwitch(two.b.pool, two.b.mirrors, GROUP, address=two.b.address)
        await two.b.call(plan._do(Step.HOLD))
        await two.b.wait()
        copies.take(two.a.pool, list(NAMES), name="late")
        await two.b.call(plan._do(Step.YIELD))
        assert roles(two) == (Role.HANDING, Role.SECONDARY)
        await change(two.b)
        assert "late" in two.b.pool.state.copies

    play(scenario)


def test_where_it_is_not_the_way() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="no other site was asked"):
            await change(two.a)
        two.fabric.cut("a", "b")
        with pytest.raises(IsochroneError):
            await change(two.b)
        two.fabric.heal_all()
        await two.b.call(
            failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True)
        )  # fmt: skip
        await until(lambda: two.a.group().role == "fenced")
        with pytest.raises(Conflict, match="primary here already"):
            await change(two.b)
        with pytest.raises(Conflict, match="cannot take over as planned"):
            await change(two.a)

    play(scenario)


def test_a_controller_that_cannot_be_followed() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="listens nowhere"):
            await two.b.call(
                switch.switch(two.b.pool, two.b.mirrors, GROUP, address="", force=False, timeout=9)
            )

    play(scenario)


def test_what_takes_too_long_is_cancelled() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "x", count=1000)
        await two.b.wait()
        two.fabric.weather.bytes_per_s = 4e5
        two.a.write("db", 0, "y", count=1000)
        with pytest.raises(DeadlinePassed):
            await change(two.b, timeout=3)
        assert roles(two) == (Role.PRIMARY, Role.SECONDARY)
        two.a.write("db", 3, "on we go")
        two.fabric.weather.bytes_per_s = 1e8
        await change(two.b)
        assert two.b.says("db", 3) == "on we go"

    play(scenario)


@pytest.mark.parametrize("where", ["a", "b"])
def test_cancelling(where: str) -> None:
    async def scenario(two: Two) -> None:
        plan = PlannedSwitch(two.b.pool, two.b.mirrors, GROUP, address=two.b.address)
        await two.b.call(plan._do(Step.HOLD))
        assert writers(two) == []
        assert "switch g" in advice(two.a.group())
        with pytest.raises(ReadOnly, match="handed over"):
            two.a.write("db", 3, "x")
        await two.a.restart()
        assert roles(two)[0] is Role.HANDING
        if where == "a":
            switch.cancel(two.a.pool, GROUP)
            await two.a.call(two.a.pool.flush())
        else:
            await two.b.call(plan._ask("cancel"))
        await two.a.restart()
        two.a.write("db", 3, "x")
        with pytest.raises(Conflict, match="cannot be kept"):
            switch.cancel(two.a.pool, GROUP)

    play(scenario)


def test_what_was_yielded_and_not_taken_can_be_taken_back() -> None:
    """The new site is lost before it begins its epoch; the old one goes on, under a newer one."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        plan = PlannedSwitch(two.b.pool, two.b.mirrors, GROUP, address=two.b.address)
        for step in (Step.HOLD, Step.CATCH_UP, Step.YIELD):
            await two.b.call(plan._do(step))
        assert writers(two) == []
        two.b.crash()
        report = await two.a.call(failover.promote(two.a.pool, two.a.mirrors, GROUP))
        assert report.epoch == 3
        two.a.write("db", 4, "y")
        await two.b.start()
        assert writers(two) == ["a"]
        await asyncio.sleep(30)
        assert writers(two) == ["a"]

    play(scenario)


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("who", ["a", "b", "both"])
def test_power_cuts_between_the_steps(after: int, who: str) -> None:
    """Whatever crashes after whichever step: never two writers, and asking again ends it."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        two.a.write("wal", 4, "y")
        await two.a.call(two.a.pool.flush())
        plan = PlannedSwitch(two.b.pool, two.b.mirrors, GROUP, address=two.b.address)
        for step in [Step.HOLD, Step.CATCH_UP, Step.YIELD, Step.TAKE_OVER][:after]:
            await two.b.call(plan._do(step))
            assert len(writers(two)) <= 1
        for host in (two.a, two.b):
            if who in (host.site.name, "both"):
                host.crash()
        for host in (two.a, two.b):
            if who in (host.site.name, "both"):
                await host.start()
        assert len(writers(two)) <= 1
        if after < 4:
            await until(lambda: two.b.group().cut > 0)
            await change(two.b)
        assert writers(two) == ["b"]
        assert (two.b.says("db", 3), two.b.says("wal", 4)) == ("x", "y")
        await settle(two)

    play(scenario, seed=after)


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_power_cut_at_any_disk_call(who: str) -> None:
    """Found by the calls themselves, not by the names of steps."""
    ends = set()

    async def scenario(two: Two, at: int) -> None:
        two.a.write("db", 3, "x")
        await two.a.call(two.a.pool.flush())
        host = two.a if who == "a" else two.b
        platter, start = host.site.platter, host.site.platter.calls

        def watch(call: str, name: str) -> None:
            if platter.calls - start == at:
                crashed.append(at)
                host.crash()

        crashed: list[int] = []
        platter.watch = watch
        try:
            await change(two.b, timeout=20)
            ends.add("done")
        except (Crashed, IsochroneError):
            ends.add("broken")
        platter.watch = None
        if crashed:
            await host.start()
        assert len(writers(two)) <= 1
        if two.b.group().role != "primary":
            await change(two.b)
        assert writers(two) == ["b"]
        assert two.b.says("db", 3) == "x"
        await settle(two)

    for at in range(1, 33, 3):
        play(lambda two, at=at: scenario(two, at), seed=at)
    assert ends == {"done", "broken"}


@pytest.mark.parametrize("seed", range(6))
def test_the_link_fails_again_and_again(seed: int) -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x", count=50)

        async def weather() -> None:
            while True:
                await asyncio.sleep(0.05 * (1 + seed))
                two.fabric.cut("a", "b")
                await asyncio.sleep(0.3)
                two.fabric.heal_all()

        storm = asyncio.get_running_loop().create_task(weather())
        for _ in range(50):
            with contextlib.suppress(IsochroneError):
                await change(two.b, timeout=3)
            assert len(writers(two)) <= 1
            if two.b.group().role == "primary":
                break
        storm.cancel()
        two.fabric.heal_all()
        if two.b.group().role != "primary":
            await change(two.b)
        assert writers(two) == ["b"]
        await settle(two)

    play(scenario, seed=seed)


def test_the_report_is_a_document() -> None:
    fields: dict[str, Any] = {
        "group": "g", "cut": 7, "cut_stamp": 1, "epoch": 2, "old_primary": "a:1", "steps": [],
        "hosts": [], "held_seconds": 0.1,
    }  # fmt: skip
    assert SwitchReport(**fields).epoch == 2
    assert MIB


def test_a_copy_that_the_new_primary_never_had_stays() -> None:
    """A first copy brings no earlier copies, so a site that has none of them deleted none."""

    async def scenario(two: Two, restarted: bool) -> None:
        two.a.write("db", 5, "old")
        copies.take(two.a.pool, ["db"], name="early")
        await two.b.wait(copy="early")
        two.a.crash()
        await two.b.call(failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        c = await two.third(two.b)
        two.b.write("db", 5, "new")
        await change(c)
        if restarted:
            await two.b.restart()
        copies.take(c.pool, ["db"], name="late")
        await two.b.wait(copy="late")
        assert set(two.b.pool.state.copies) == {"early", "late"}
        assert (two.b.says("db@early", 5), two.b.says("db@late", 5)) == ("old", "new")
        copies.delete(c.pool, "late")
        await two.b.wait()
        assert set(two.b.pool.state.copies) == {"early"}
        check_pool(two.b.pool)

    for restarted in (False, True):
        play(lambda two, restarted=restarted: scenario(two, restarted))


def test_copies_of_before_are_mirrored_on_afterwards() -> None:
    """What the new primary has too is deleted here when it is deleted there."""

    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="early")
        await two.b.wait(copy="early")
        await change(two.b)
        await settle(two)
        await change(two.a)
        await two.b.wait()
        assert two.b.pool.state.copies["early"].group == GROUP
        copies.delete(two.a.pool, "early")
        await two.b.wait()
        assert not two.b.pool.state.copies

    play(scenario)
