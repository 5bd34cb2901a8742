"""The replica as of any kept cut: against a model, over two sites, and through what breaks."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.dr.failover import promote
from isochrone.errors import Conflict, NotFound
from isochrone.mirror.messages import Holes
from isochrone.mirror.rewind import LOOK_SECONDS, Keeper, find_cut, find_time, find_window
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import copies, holds, windows
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.revert import revert
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Two, play, sleep
from tests.mirror.test_apply import Secondary, blocks_of, record, taken

Seen = dict[str, bytes]


class Model:
    """A secondary outside any connection, and all that each cut was."""

    def __init__(self, there: Secondary, dice: Random) -> None:
        self.there = there
        self.dice = dice
        self.cuts: dict[int, Seen] = {}
        self.opened = 0

    def volumes(self) -> Seen:
        return {name: data for name, data in self.there.seen().items() if "@" not in name}

    def commit(self) -> None:
        there, dice, base = self.there, self.dice, self.there.group.cut
        messages: list[Any] = []
        for _ in range(dice.randint(0, 3)):
            volume = dice.choice([70, 71])
            blocks = sorted(dice.sample(range(256), dice.randint(1, 20)))
            messages.append(blocks_of(volume, blocks, f"cut {base + 1}"))
        if dice.random() < 0.3:
            messages.append(Holes(ranges=((70, dice.randrange(256), dice.randint(1, 256)),)))
        first = base == 0 or dice.random() < 0.1
        there.cut(base + 1, 0 if first else base, *messages)
        self.cuts[base + 1] = self.volumes()

    async def step(self) -> None:
        pool = self.there.pool
        match self.dice.randrange(8):
            case 0:
                await pool.checkpoint()
            case 1:
                await Cleaner(pool).round()
            case 2:
                await pool.flush()
                pool.abandon()
                self.there.site.crash(power=True)
                self.there.open()
            case 3:
                windows.thin_all(pool)
            case 4:
                self.open()
            case _:
                self.commit()
        await asyncio.sleep(self.dice.choice([0.1, 1, 7]))

    def kept(self) -> list[int]:
        return [point.cut for point in self.there.pool.state.windows["g"].points]

    def open(self) -> None:
        pool, cut = self.there.pool, self.dice.choice(self.kept())
        self.opened += 1
        name = f"open-{self.opened}"
        windows.open_point(pool, self.there.group, find_cut(pool, "g", cut), name=name)
        for volume, data in self.cuts[cut].items():
            device = VolumeDevice(pool, pool.state.names[f"{volume}@{name}"])
            assert b"".join(device.read(0, device.size)) == data, f"{volume} as of cut {cut}"


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 32))
def test_each_kept_cut_is_what_it_was(seed: int) -> None:
    async def main() -> None:
        site = Site("b", SimFabric(asyncio.get_running_loop(), Random(seed)), seed)
        model = Model(Secondary(site), Random(seed))
        model.commit()
        windows.set_window(model.there.pool, model.there.group, 60, 10)
        for _ in range(25):
            await model.step()
        for _ in range(3):
            model.open()
        assert model.kept()[-1] == model.there.group.cut
        check_pool(model.there.pool)
        windows.set_window(model.there.pool, model.there.group, 0)
        assert model.there.pool.state.versions == {}

    run(main())


def opened(host: Any, cut: int, name: str, **options: Any) -> Any:
    point = find_cut(host.pool, GROUP, cut)
    return windows.open_point(host.pool, host.group(), point, name=name, **options)


async def story(two: Two, length: int) -> dict[int, bytes]:
    """Writes and cuts; what `db` was at each cut."""
    found: dict[int, bytes] = {}
    for n in range(length):
        two.a.write("db", n, f"write {n}")
        two.a.write("wal", n, f"write {n}")
        await two.b.wait()
        found[two.b.group().cut] = two.a.image("db")
    return found


def test_every_cut_of_the_last_minutes_can_be_opened() -> None:
    async def scenario(two: Two) -> None:
        images = await story(two, 12)
        await two.b.restart()
        images.update(await story(two, 3))
        for cut, image in images.items():
            opened(two.b, cut, f"at-{cut}")
            assert two.b.image(f"db@at-{cut}") == image
        two.a.write("db", 200, "the mirror goes on")
        await two.b.wait()
        assert two.b.says("db", 200) == "the mirror goes on"
        check_pool(two.b.pool)

    play(scenario)


def test_a_time_means_the_newest_cut_before_it() -> None:
    async def scenario(two: Two) -> None:
        await story(two, 3)
        _, window = find_window(two.b.pool, GROUP)
        first, last = window.points[0], window.points[-1]
        assert find_time(two.b.pool, GROUP, last.stamp) == last
        assert find_time(two.b.pool, GROUP, last.stamp - 1) == window.points[-2]
        assert find_time(two.b.pool, GROUP, last.stamp + 10**12) == last
        with pytest.raises(NotFound, match=f"the nearest: cut {first.cut} of "):
            find_time(two.b.pool, GROUP, first.stamp - 1)
        with pytest.raises(NotFound, match=f"the nearest: cut {last.cut} of "):
            find_cut(two.b.pool, GROUP, last.cut + 1)
        windows.drop(two.b.pool, window, window.points[1:2])
        with pytest.raises(NotFound, match=r"the nearest: cut \d+ of \S+ and cut \d+ of "):
            find_cut(two.b.pool, GROUP, first.cut + 1)

    play(scenario)


def test_who_has_no_points_hears_where_they_are() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="not mirrored to this controller") as e:
            find_window(two.a.pool, GROUP)
        assert "secondary" in (e.value.hint or "")
        with pytest.raises(NotFound, match="no group"):
            find_window(two.a.pool, "other")
        two.b.pool.record(r.MirrorAdded(group="new", source="a:7001"))
        with pytest.raises(Conflict, match="no cut of group 'new'"):
            find_window(two.b.pool, "new")
        windows.set_window(two.b.pool, two.b.group(), 0)
        with pytest.raises(NotFound, match="has no points"):
            find_cut(two.b.pool, GROUP, 1)

    play(scenario)


def test_the_primary_cannot_shorten_what_is_kept_here() -> None:
    """Deletions of copies with the names of ours, and of all it has, touch nothing of ours."""

    async def scenario(two: Two) -> None:
        await story(two, 3)
        cut = two.b.group().cut
        image = two.b.image("db")
        mine = opened(two.b, cut, "mine")
        holds.pin(two.b.pool, mine)
        before = [point.cut for point in find_window(two.b.pool, GROUP)[1].points]
        copies.take(two.a.pool, ["db", "wal"], name="mine")
        await two.b.wait()
        copies.delete(two.a.pool, "mine")
        two.a.discard("db", 0, 1024)
        await two.b.wait()
        assert two.b.image("db@mine") == image
        after = [point.cut for point in find_window(two.b.pool, GROUP)[1].points]
        assert after[: len(before)] == before
        opened(two.b, cut, "again")
        assert two.b.image("db@again") == image

    play(scenario)


def test_a_message_cannot_reach_points_or_windows() -> None:
    async def main() -> None:
        site = Site("b", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        there = Secondary(site)
        there.cut(1, 0, blocks_of(70, [0], "one"))
        there.cut(2, 1, blocks_of(70, [0], "two"), taken())
        point = find_cut(there.pool, "g", 1)
        windows.open_point(there.pool, there.group, point, name="ours")
        there.cut(3, 2, record(r.CopyDeleted(name="ours")), record(r.CopyDeleted(name="c1")))
        assert set(there.pool.state.copies) == {"ours"}
        assert len(there.pool.state.windows["g"].points) == 3

    run(main())


def test_the_window_is_thinned_meanwhile_and_a_clock_that_jumps_changes_nothing() -> None:
    async def scenario(two: Two) -> None:
        task = asyncio.get_running_loop().create_task(Keeper(two.b.pool).run())
        windows.set_window(two.b.pool, two.b.group(), 60, 10)
        await story(two, 20)
        window = find_window(two.b.pool, GROUP)[1]
        before = len(window.points)
        await sleep(10 + 2 * LOOK_SECONDS)
        assert len(window.points) < before
        assert window.points[-1].cut == two.b.group().cut
        left = list(window.points)
        clock: Any = two.b.site.world.clock
        wall = clock.wall_ns
        clock.wall_ns = lambda: wall() + 10**9 * 86400 * 365
        await sleep(LOOK_SECONDS + 1)
        assert window.points == left
        assert len(left) > 1
        await sleep(120)
        assert window.points == left[-1:]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scenario)


def test_removing_the_mirror_drops_its_points() -> None:
    async def scenario(two: Two) -> None:
        await story(two, 5)
        opened(two.b, two.b.group().cut - 1, "kept")
        await two.b.call(two.b.mirrors.remove(GROUP))
        assert two.b.pool.state.windows == {}
        assert not any(v.kind == "point" for v in two.b.pool.state.volumes.values())
        assert "db@kept" in two.b.pool.state.names
        check_pool(two.b.pool)

    play(scenario)


def test_after_a_takeover_the_way_back_is_two_steps() -> None:
    """What was destroyed at the primary has come here; the points from before it have, too."""

    async def scenario(two: Two) -> None:
        images = await story(two, 6)
        good = max(images)
        two.a.discard("db", 0, 1024)
        await two.b.wait()
        two.a.crash()
        await two.b.call(promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        assert not any(two.b.image("db"))
        two.b.write("db", 9, "a host goes on")
        opened(two.b, good, "good")
        assert two.b.image("db@good") == images[good]
        undo = revert(two.b.pool, "good")
        assert two.b.image("db") == images[good]
        assert two.b.says(f"db@{undo.name}", 9) == "a host goes on"
        await two.b.restart()
        opened(two.b, min(images), "older")
        assert two.b.image("db@older") == images[min(images)]
        check_pool(two.b.pool)

    play(scenario)


def test_a_writable_point_is_a_playground() -> None:
    async def scenario(two: Two) -> None:
        images = await story(two, 4)
        cut = min(images)
        opened(two.b, cut, "lab", writable=True)
        device = two.b.device("db@lab")
        device.write(0, memoryview(b"x" * BLOCK))
        two.b.pool.commit()
        opened(two.b, cut, "pure")
        assert two.b.image("db@pure") == images[cut]
        assert two.same("db", "wal")

    play(scenario)
