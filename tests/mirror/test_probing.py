"""Restore probes over two sites in virtual time: forked, checked, gone, and on record."""

from __future__ import annotations

import pytest

from isochrone.dr.failover import promote
from isochrone.errors import Conflict, InvalidInput
from isochrone.mirror import groups
from isochrone.mirror.probing import LOOK_SECONDS, newest_point
from isochrone.store import copies, holds, volumes, windows
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.names import NAME_CHARS_MAX
from isochrone.store.probes import PROBES_MAX, SAID_CHARS_MAX, Probe
from isochrone.types import MIB
from tests.mirror.sites import GROUP, Host, Two, play, sleep


async def begin(host: Host, seconds: float = 600.0) -> Probe:
    point = newest_point(host.pool, GROUP)
    return await host.call(host.mirrors.prober.begin(GROUP, point, "fsck db", seconds))


async def end(host: Host, copy: str = "", *, good: bool = True, said: str = "clean") -> Probe:
    return await host.call(host.mirrors.prober.end(GROUP, copy, good=good, said=said))


def results(host: Host) -> list[str]:
    return [probe.result for probe in host.mirrors.prober.probes(GROUP).probes]


def test_a_fork_that_the_mirror_does_not_feel() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "then")
        await two.b.wait()
        assert two.b.status().probe_age == -1
        probe = await begin(two.b)
        name = f"db@{probe.copy}"
        assert probe.cut == two.b.group().cut
        two.a.write("db", 0, "now")
        two.b.write(name, 1, "a journal is replayed")
        await two.b.wait()
        assert (two.b.says(name, 0), two.b.says("db", 0)) == ("then", "now")
        assert two.b.says(name, 1) == "a journal is replayed"
        with pytest.raises(Conflict, match="is running on the copy"):
            await begin(two.b)
        assert (await end(two.b, probe.copy)).result == "good"
        assert name not in two.b.pool.state.names
        assert results(two.b) == ["good"]
        await sleep(20)
        assert 20 <= two.b.status().probe_age < 30
        assert not two.b.status().probe_failed
        with pytest.raises(Conflict, match="no probe"):
            await end(two.b, probe.copy)
        check_pool(two.b.pool)

    play(scenario)


def test_a_check_that_fails_is_told_and_the_last_good_one_still_counts() -> None:
    async def scenario(two: Two) -> None:
        await begin(two.b)
        await end(two.b)
        await begin(two.b)
        probe = await end(two.b, good=False, said="x" * 1000)
        assert (probe.result, len(probe.said)) == ("bad", SAID_CHARS_MAX)
        assert two.b.status().probe_failed
        assert two.b.status().probe_age >= 0

    play(scenario)


def test_who_died_leaves_nothing_behind() -> None:
    """Neither does the command line, nor the controller, nor both at any place."""

    async def scenario(two: Two) -> None:
        probe = await begin(two.b, seconds=30)
        await sleep(30 + 2 * LOOK_SECONDS)
        assert results(two.b) == ["expired"]
        assert two.b.pool.state.copies == {}
        assert two.b.status().probe_failed
        probe = await begin(two.b, seconds=30)
        await two.b.restart()
        assert probe.copy in two.b.pool.state.copies
        await sleep(30 + 2 * LOOK_SECONDS)
        assert results(two.b) == ["expired", "expired"]
        assert two.b.pool.state.copies == {}
        # Between the two records of a beginning, and of an end.
        prober, pool = two.b.mirrors.prober, two.b.pool
        begun = r.ProbeBegun(
            group=GROUP, copy="c", cut=1, stamp=1, check="fsck", began=1, seconds=30.0
        )
        pool.record(begun)
        await two.b.call(pool.flush())
        await two.b.restart()
        await sleep(30 + 2 * LOOK_SECONDS)
        assert results(two.b)[-1] == "expired"
        await begin(two.b)
        assert prober is not two.b.mirrors.prober

    play(scenario)


@pytest.mark.parametrize("somebody_ends_it", [True, False])
def test_a_mirror_that_is_removed_meanwhile(somebody_ends_it: bool) -> None:
    async def scenario(two: Two) -> None:
        probe = await begin(two.b, seconds=30)
        await two.b.call(two.b.mirrors.remove(GROUP))
        await two.b.call(two.b.pool.flush())
        assert probe.copy in two.b.pool.state.copies
        if somebody_ends_it:
            assert (await end(two.b, probe.copy)).result == "good"
        else:
            await two.b.restart()
            await sleep(30 + 2 * LOOK_SECONDS)
        assert two.b.pool.state.copies == {}
        assert two.b.pool.state.probes == {}

    play(scenario)


def test_a_copy_that_is_gone_or_kept() -> None:
    async def scenario(two: Two) -> None:
        probe = await begin(two.b)
        copies.delete(two.b.pool, probe.copy)
        ended = await end(two.b)
        assert ended.result == "bad"
        assert "given up for space or deleted" in ended.said
        probe = await begin(two.b)
        holds.pin(two.b.pool, copies.find_copy(two.b.pool, probe.copy))
        assert (await end(two.b)).result == "good"
        assert probe.copy in two.b.pool.state.copies, "somebody wants to look at it"
        assert (await begin(two.b)).copy == f"{probe.copy}-2"

    play(scenario)


def test_space_goes_before_a_probe() -> None:
    async def scenario(two: Two) -> None:
        probe = await begin(two.b)
        copies.give_up(two.b.pool, copies.find_copy(two.b.pool, probe.copy))
        assert (await end(two.b)).result == "bad"

    play(scenario)


def test_what_is_refused() -> None:
    async def scenario(two: Two) -> None:
        prober, point = two.b.mirrors.prober, newest_point(two.b.pool, GROUP)
        for check, seconds in (("", 60.0), ("x" * 2000, 60.0), ("true", 0.0), ("true", 1e6)):
            with pytest.raises(InvalidInput):
                await two.b.call(prober.begin(GROUP, point, check, seconds))
        with pytest.raises(Conflict, match="not mirrored to this controller"):
            two.a.mirrors.prober.probes(GROUP)
        windows.set_window(two.b.pool, two.b.group(), 0)
        with pytest.raises(Conflict, match="no point"):
            newest_point(two.b.pool, GROUP)
        assert results(two.b) == []
        # A point that cannot be opened, though it was there when it was looked up.
        group = two.b.group()
        group.volumes, kept = [], group.volumes
        with pytest.raises(Conflict, match="none of the volumes"):
            await two.b.call(prober.begin(GROUP, point, "true", 60.0))
        group.volumes = kept
        assert results(two.b) == ["bad"]
        assert prober.probes(GROUP).running is None

    play(scenario)


def test_it_outlives_a_takeover_and_ends_with_the_group() -> None:
    async def scenario(two: Two) -> None:
        probe = await begin(two.b)
        two.a.crash()
        await two.b.call(promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        assert (await end(two.b, probe.copy)).result == "good"
        for _ in range(PROBES_MAX + 2):
            await begin(two.b)
            await end(two.b)
        assert len(results(two.b)) == PROBES_MAX
        await two.b.restart()
        assert len(results(two.b)) == PROBES_MAX
        groups.delete(two.b.pool, GROUP)
        assert two.b.pool.state.probes == {}

    play(scenario)


def test_a_copy_that_only_has_the_name() -> None:
    """The fork went for space, and somebody took a copy that is called the same: it stays."""

    async def scenario(two: Two) -> None:
        probe = await begin(two.b, seconds=30)
        copies.give_up(two.b.pool, two.b.pool.state.copies[probe.copy])
        copies.take(two.b.pool, ["db"], name=probe.copy)
        await sleep(30 + 2 * LOOK_SECONDS)
        assert results(two.b) == ["expired"]
        assert probe.copy in two.b.pool.state.copies
        probe = await begin(two.b)
        copies.give_up(two.b.pool, two.b.pool.state.copies[probe.copy])
        copies.take(two.b.pool, ["db"], name=probe.copy, expendable=True)
        assert (await end(two.b)).result == "bad"
        assert probe.copy in two.b.pool.state.copies

    play(scenario)


def test_a_group_with_a_long_name() -> None:
    name = "g" * NAME_CHARS_MAX

    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "db", MIB)
        groups.create(two.a.pool, name, ["db"])
        await two.b.call(two.b.mirrors.add(name, two.a.address))
        await two.b.wait(name)
        prober, point = two.b.mirrors.prober, newest_point(two.b.pool, name)
        probe = await two.b.call(prober.begin(name, point, "true", 60.0))
        assert probe.copy.endswith(f"-{probe.cut}")
        await two.b.call(prober.end(name, probe.copy, good=True, said=""))
        assert two.b.pool.state.copies == {}

    play(scenario, made=False)
