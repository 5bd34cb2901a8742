"""Two sites: what is mirrored is exact, complete, cheap, and survives what happens to either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from isochrone.errors import (
    Conflict,
    DeadlinePassed,
    InvalidInput,
    IsochroneError,
    NotFound,
    PeerFault,
    ReadOnly,
    Unavailable,
)
from isochrone.mirror import groups
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Hello, Refuse, Welcome
from isochrone.mirror.seats import OWN_MAX, SHARED_MAX, WAITING_OF_ONE_MAX
from isochrone.mirror.service import LEAVE_SECONDS_MAX
from isochrone.mirror.serving import Serving
from isochrone.mirror.source import SourceSession
from isochrone.sim.loop import Crashed
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.types import BLOCK, KIB, MIB
from tests.mirror.sites import GROUP, Two, play, until


class Link:
    """Bytes that the secondary got on the link since a moment."""

    def __init__(self, two: Two) -> None:
        self._mover = two.b.mirrors.mover(GROUP)
        self._start = (self._mover.bytes_received, self._mover.bytes_commands)

    @property
    def bytes(self) -> int:
        return self._mover.bytes_received - self._start[0]

    @property
    def commands(self) -> int:
        return self._mover.bytes_commands - self._start[1]


async def writes(two: Two, stop: asyncio.Event) -> int:
    """A host that writes until it is told to stop; one write depends on the one before."""
    n = 0
    while not stop.is_set():
        n += 1
        two.a.write("db", 10, f"{n}")
        two.a.write("wal", 10, f"{n}")
        if n % 10 == 0:
            await two.a.call(two.a.pool.flush())
        await asyncio.sleep(0.01)
    return n


def in_order(two: Two) -> tuple[int, int]:
    """How far each volume of the secondary is: db first, then wal, never more than one apart."""
    db, wal = int(two.b.says("db", 10) or 0), int(two.b.says("wal", 10) or 0)
    assert db - wal in (0, 1), f"db is at {db}, wal at {wal}: not one instant"
    return db, wal


# -- the first copy


def test_a_first_copy_while_writes_go_on() -> None:
    async def scenario(two: Two) -> None:
        for n in range(6):
            two.a.write("db", 100 * n + 20, f"bulk {n}", count=100)
        two.fabric.weather.bytes_per_s = 1e6
        stop = asyncio.Event()
        working = asyncio.ensure_future(writes(two, stop))
        await two.mirror(wait=False)
        mover = two.b.mirrors.mover(GROUP)
        seen = set()
        while not two.b.group().cut:
            seen.add(mover.state.value)
            assert "db" not in two.b.pool.state.names, "a part of the first copy is visible"
            await asyncio.sleep(0.05)
        assert "COPYING" in seen
        assert in_order(two)[0] > 0
        await asyncio.sleep(2)
        stop.set()
        n = await working
        await two.b.wait()
        assert in_order(two) == (n, n)
        assert two.same("db", "wal")
        check_pool(two.b.pool)

    play(scenario, mirrored=False)


def test_every_cut_is_one_instant_of_all_volumes() -> None:
    async def scenario(two: Two) -> None:
        seen: list[tuple[int, int]] = []

        def committed(lsn: int, record: Any) -> None:
            if isinstance(record, r.IncomingCommitted):
                seen.append(in_order(two))

        two.b.pool.on_change.append(committed)
        stop = asyncio.Event()
        working = asyncio.ensure_future(writes(two, stop))
        await asyncio.sleep(5)
        stop.set()
        await working
        assert len(seen) > 15
        assert seen == sorted(seen)

    play(scenario)


@pytest.mark.parametrize("lost", ["link", "primary", "secondary"])
def test_an_interrupted_first_copy_starts_over(lost: str) -> None:
    async def scenario(two: Two) -> None:
        mover = await two.copying()
        await until(lambda: mover.bytes_incoming > MIB)
        if lost == "link":
            two.fabric.cut("a", "b")
            await asyncio.sleep(20)
            two.fabric.heal_all()
        else:
            await (two.a if lost == "primary" else two.b).restart()
        assert "db" not in two.b.pool.state.names
        assert not two.b.group().cut
        two.a.write("db", 0, "the end")
        await two.b.wait()
        assert two.same("db", "wal")
        shadows = [v for v in two.b.pool.state.volumes.values() if v.kind == "shadow"]
        assert not shadows
        check_pool(two.b.pool)

    play(scenario, mirrored=False)


# -- going on


@pytest.mark.parametrize("lost", ["link", "primary", "secondary", "both", "clean stops"])
def test_it_goes_on_without_a_full_copy(lost: str) -> None:
    async def scenario(two: Two) -> None:
        two.a.bulk()
        await two.b.wait()
        cut = two.b.group().cut
        two.fabric.cut("a", "b")
        two.a.write("db", 5, "while it was down", count=3)
        await two.a.call(two.a.pool.flush())
        if lost in ("primary", "both"):
            await two.a.restart()
        if lost in ("secondary", "both"):
            await two.b.restart()
        if lost == "clean stops":
            await two.a.stop()
            await two.b.stop()
            await two.a.start()
            await two.b.start()
        await asyncio.sleep(30)
        assert two.b.group().cut == cut
        assert two.b.status().state == "SUSPENDED"
        link = Link(two)
        two.fabric.heal_all()
        await two.b.wait()
        assert two.b.status().state == "DUPLEX"
        assert two.same("db", "wal")
        assert link.bytes < 64 * KIB  # of 4 MiB

    play(scenario)


def test_it_survives_every_restart_of_either_side() -> None:
    async def scenario(two: Two) -> None:
        for n in range(20):
            two.a.write("db", n % 7, f"{n}")
            await two.a.call(two.a.pool.flush())
            await asyncio.sleep(0.1 * (n % 4))
            await (two.a if n % 2 else two.b).restart(power=n % 3 != 0)
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


def test_flapping_links() -> None:
    async def scenario(two: Two) -> None:
        stop = asyncio.Event()
        working = asyncio.ensure_future(writes(two, stop))
        for n in range(8):
            two.fabric.cut("a", "b", one_way=n % 3 == 0)
            await asyncio.sleep(1)
            two.fabric.heal_all()
            await asyncio.sleep(3)
        stop.set()
        n = await working
        await two.b.wait()
        assert in_order(two) == (n, n)

    play(scenario)


def test_only_what_is_durable_travels() -> None:
    """Cut the primary's power after each commit at the secondary: it still has all of that."""

    async def scenario(two: Two, at: int) -> None:
        crashed = asyncio.Event()
        commits = 0

        def committed(lsn: int, record: Any) -> None:
            nonlocal commits
            if isinstance(record, r.IncomingCommitted):
                commits += 1
                if commits == at and not crashed.is_set():
                    crashed.set()
                    asyncio.get_running_loop().call_soon(two.a.crash)

        two.b.pool.on_change.append(committed)
        stop = asyncio.Event()

        async def hurried() -> None:
            """Nobody flushes but the mirror."""
            for n in range(1000):
                two.a.write("db", 10, f"{n + 1}")
                two.a.write("wal", 10, f"{n + 1}")
                await asyncio.sleep(0.005)

        working = two.a.site.spawn(hurried())
        await crashed.wait()
        with pytest.raises(Crashed):
            await working
        stop.set()
        await two.a.start()
        there = in_order(two)
        here = int(two.a.says("db", 10) or 0), int(two.a.says("wal", 10) or 0)
        assert here >= there, "the secondary has what the primary has lost"
        await two.b.wait()
        assert two.same("db", "wal")

    for at in range(1, 9):
        for seed in range(3):
            play(lambda two, at=at: scenario(two, at), seed=100 * at + seed)


# -- what it costs


def test_a_block_that_is_overwritten_costs_one_block() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("a", "b")
        await asyncio.sleep(0.5)
        link = Link(two)
        for n in range(500):
            two.a.write("db", 7, f"{n}")
        two.fabric.heal_all()
        await two.b.wait()
        assert two.b.says("db", 7) == "499"
        assert link.bytes < 2 * BLOCK + 4 * KIB

    play(scenario, interval=1.0)


def test_a_copy_costs_next_to_nothing_and_equals_its_origin() -> None:
    async def scenario(two: Two) -> None:
        two.a.bulk()
        await two.b.wait()
        link = Link(two)
        copies.take(two.a.pool, ["db", "wal"], name="c1")
        await two.b.wait(copy="c1")
        assert 0 < link.commands < KIB
        assert link.bytes < 4 * KIB  # heartbeats included
        assert two.b.status().state == "DUPLEX"
        assert two.same("db@c1", "wal@c1")
        assert two.b.status().bytes_commands < KIB

    play(scenario)


def test_a_copy_under_load_is_one_instant() -> None:
    async def scenario(two: Two) -> None:
        stop = asyncio.Event()
        working = asyncio.ensure_future(writes(two, stop))
        for n in range(5):
            await asyncio.sleep(0.33)
            copies.take(two.a.pool, ["wal", "db"], name=f"c{n}")
        stop.set()
        await working
        await two.b.wait()
        for n in range(5):
            assert two.same(f"db@c{n}", f"wal@c{n}")
            assert two.b.says(f"db@c{n}", 10) == two.a.says(f"wal@c{n}", 10) != ""
            assert two.b.pool.state.copies[f"c{n}"].stamp == two.a.pool.state.copies[f"c{n}"].stamp

    play(scenario)


def test_an_idle_mirror_places_no_cuts_and_its_recovery_point_advances() -> None:
    async def scenario(two: Two) -> None:
        await asyncio.sleep(2)
        lsns = two.a.pool.log.lsn, two.b.pool.log.lsn
        status = two.b.status()
        await asyncio.sleep(60)
        assert (two.a.pool.log.lsn, two.b.pool.log.lsn) == lsns
        later = two.b.status()
        assert later.cut == status.cut
        assert later.recovery_point - status.recovery_point > 58e9
        assert later.recovery_point_age < 2

    play(scenario)


def test_what_is_not_in_the_group_is_not_sent() -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "other", 4 * MIB)
        groups.create(two.a.pool, "h", ["other"])
        link = Link(two)
        two.a.write("other", 0, "x", count=500)
        copies.take(two.a.pool, ["other"], name="c1")
        await two.b.wait()
        await asyncio.sleep(5)
        assert "other" not in two.b.pool.state.names
        assert not two.b.pool.state.copies
        assert link.bytes < 10 * KIB
        copies.take(two.a.pool, ["other", "db"], name="c2")
        await two.b.wait(copy="c2")
        assert [two.b.pool.state.volumes[m].name for _, m in two.b.pool.state.copies["c2"].members]
        assert set(two.b.pool.state.names) == {"db", "wal", "db@c2"}

    play(scenario)


# -- copies and sizes


def test_deletions_of_copies_are_mirrored() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="c1")
        await two.b.wait(copy="c1")
        copies.delete(two.a.pool, "c1")
        await two.b.wait()
        assert not two.b.pool.state.copies
        assert "db@c1" not in two.b.pool.state.names

    play(scenario)


def test_a_copy_that_lives_between_two_cuts_only() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="c1")
        two.a.write("db", 1, "x")
        copies.delete(two.a.pool, "c1")
        copies.take(two.a.pool, ["db"], name="c1")
        two.a.write("db", 1, "y")
        copies.take(two.a.pool, ["wal"], name="c2")
        copies.delete(two.a.pool, "c2")
        await two.b.wait()
        assert set(two.b.pool.state.copies) == {"c1"}
        assert two.b.says("db@c1", 1) == "x"
        assert len(two.b.pool.state.volumes) - len(two.b.pool.state.history()) == 3

    play(scenario, interval=5.0)


def test_a_writable_clone() -> None:
    """It is mirrored as of its instant; what is written to it is its own affair."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 1, "before")
        copies.take(two.a.pool, ["db"], name="c1", writable=True)
        two.a.write("db@c1", 1, "own")
        await two.b.wait(copy="c1")
        assert two.a.says("db@c1", 1) == "own"
        assert two.b.says("db@c1", 1) == "before"
        two.b.write("db@c1", 2, "there")
        two.a.write("db", 2, "later")
        await two.b.wait()
        assert two.b.says("db@c1", 2) == "there"
        assert two.b.says("db", 2) == "later"
        with pytest.raises(ReadOnly):
            two.b.write("db", 2, "x")

    play(scenario)


def test_resizes_are_mirrored() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 1000, "end")
        volumes.resize(two.a.pool, "db", 8 * MIB)
        two.a.write("db", 2000, "beyond")
        await two.b.wait()
        assert two.b.device("db").size == 8 * MIB
        assert two.same("db", "wal")
        volumes.resize(two.a.pool, "db", 2 * MIB, shrink=True)
        volumes.resize(two.a.pool, "db", 4 * MIB)
        await two.b.wait()
        assert two.b.device("db").size == 4 * MIB
        assert two.b.says("db", 1000) == ""
        assert two.same("db", "wal")
        volumes.resize(two.a.pool, "wal", MIB + 512, shrink=True)
        copies.take(two.a.pool, ["wal"], name="c1")
        volumes.resize(two.a.pool, "wal", 3 * MIB)
        await two.b.wait(copy="c1")
        assert two.same("wal", "wal@c1")
        check_pool(two.b.pool)

    play(scenario)


# -- waiting


def test_waiting_for_a_copy_that_does_not_come() -> None:
    async def scenario(two: Two) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlinePassed, match="copy 'c9' did not come within 3 s") as e:
            await two.b.wait(copy="c9", timeout=3)
        assert 2.9 < loop.time() - began < 3.5
        assert "mirror status g" in e.value.hint
        copies.take(two.b.pool, ["db"], name="c9")  # one made here is not meant
        with pytest.raises(DeadlinePassed):
            await two.b.wait(copy="c9", timeout=1)

    play(scenario)


def test_waiting_over_a_broken_link() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        two.fabric.cut("a", "b")
        with pytest.raises(DeadlinePassed, match="did not catch up within 20 s"):
            await two.b.wait(timeout=20)
        waiting = asyncio.ensure_future(two.b.wait(timeout=100))
        await asyncio.sleep(5)
        two.fabric.heal_all()
        status = await waiting
        assert status.state == "DUPLEX"
        assert two.b.says("db", 3) == "x"

    play(scenario)


def test_waiting_covers_what_came_before_and_no_more() -> None:
    async def scenario(two: Two) -> None:
        loop = asyncio.get_running_loop()
        for n in range(20):
            two.a.write("db", 3, f"{n}")
            began = loop.time()
            await two.b.wait()
            assert two.b.says("db", 3) == f"{n}"
            assert loop.time() - began < 3, "it waited for the interval"

    play(scenario, interval=60.0)


def test_waiting_where_nothing_is_mirrored() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(NotFound):
            await two.b.wait("nobody")
        with pytest.raises(Conflict) as e:
            await two.a.wait()
        assert "at the secondary" in e.value.hint

    play(scenario)


# -- adding


def refusal(how: str) -> Callable[[Two], tuple[str, str, type[IsochroneError]]]:
    """(group, source, error) of an `add` at b that is refused."""
    cases: dict[str, Callable[[Two], tuple[str, str, type[IsochroneError]]]] = {
        "unknown group": lambda two: ("nobody", two.a.address, PeerFault),
        "itself": lambda two: ("own", two.b.address, PeerFault),
        "nobody listens": lambda two: (GROUP, "a:9", Unavailable),
        "no such host": lambda two: (GROUP, "nowhere:1", Unavailable),
        "no address": lambda two: (GROUP, "nonsense", InvalidInput),
        "a bad name": lambda two: ("a@b", two.a.address, InvalidInput),
        "a group of that name": lambda two: ("own", two.a.address, Conflict),
        "a volume of that name": lambda two: (GROUP, two.a.address, Conflict),
        "a secondary there": lambda two: (GROUP, "c:7001", PeerFault),
    }
    return cases[how]


@pytest.mark.parametrize(
    "how",
    [
        "unknown group", "itself", "nobody listens", "no such host", "no address", "a bad name",
        "a group of that name", "a volume of that name",
    ],
)  # fmt: skip
def test_an_addition_that_is_refused_changes_nothing(how: str) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.b.pool, "mine", MIB)
        if how == "a volume of that name":
            volumes.create(two.b.pool, "db", MIB)
        if how == "a group of that name":
            groups.create(two.b.pool, "own", ["mine"])
        group, source, error = refusal(how)(two)
        lsns = two.a.pool.log.lsn, two.b.pool.log.lsn
        with pytest.raises(error):
            await two.b.call(two.b.mirrors.add(group, source))
        await asyncio.sleep(1)
        assert (two.a.pool.log.lsn, two.b.pool.log.lsn) == lsns
        assert GROUP not in two.b.pool.state.groups
        with pytest.raises(NotFound):
            two.b.mirrors.mover(GROUP)

    play(scenario, mirrored=False)


def test_a_controller_does_not_mirror_itself() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="'g' here already, as primary"):
            await two.a.call(two.a.mirrors.add(GROUP, two.a.address))

    play(scenario, mirrored=False)


def test_the_same_mirror_twice() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="as secondary"):
            await two.b.call(two.b.mirrors.add(GROUP, two.a.address))
        assert two.b.status().state == "DUPLEX"

    play(scenario)


def test_two_additions_at_once() -> None:
    async def scenario(two: Two) -> None:
        both = [two.b.call(two.b.mirrors.add(GROUP, two.a.address)) for _ in range(2)]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Conflict", "GroupStatus"]
        await two.b.wait()

    play(scenario, mirrored=False)


def test_a_name_that_is_taken_later_suspends_and_comes_right() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("a", "b", one_way=True)
        adding = asyncio.ensure_future(two.b.call(two.b.mirrors.add(GROUP, two.a.address)))
        await asyncio.sleep(1)
        two.fabric.heal_all()
        await adding
        volumes.create(two.b.pool, "wal", MIB)
        await until(lambda: "'wal' here already" in two.b.status().cause)
        volumes.delete(two.b.pool, "wal")
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario, mirrored=False)


# -- removing


def test_after_a_removal_the_volumes_stay_and_the_primary_forgets() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        await two.b.wait()
        await two.b.call(two.b.mirrors.remove(GROUP))
        assert GROUP not in two.b.pool.state.groups
        assert two.b.says("db", 3) == "x"
        two.b.write("db", 4, "free now")
        await until(lambda: not two.a.group().sessions)
        await two.b.call(two.b.pool.flush())
        await two.b.restart()
        assert set(two.b.pool.state.names) == {"db", "wal"}
        for name in ("db", "wal"):
            volumes.delete(two.b.pool, name)
        await two.mirror()
        assert two.same("db", "wal")

    play(scenario)


def test_removing_without_the_primary() -> None:
    async def scenario(two: Two) -> None:
        loop = asyncio.get_running_loop()
        two.fabric.cut("a", "b")
        began = loop.time()
        await two.b.call(two.b.mirrors.remove(GROUP))
        assert loop.time() - began < LEAVE_SECONDS_MAX + 1
        assert GROUP not in two.b.pool.state.groups

    play(scenario)


def test_removing_a_mirror_that_is_suspended() -> None:
    """The primary keeps nothing for it, whoever suspended it and whether it may come back."""

    async def scenario(two: Two) -> None:
        two.a.mirrors.suspend(GROUP)
        await asyncio.sleep(1)
        assert two.b.status().state == "SUSPENDED"
        await two.b.call(two.b.mirrors.remove(GROUP))
        assert not two.a.group().sessions
        await two.a.restart()
        assert not two.a.group().sessions, "it was durable before it was answered"
        for name in ("db", "wal"):
            volumes.delete(two.b.pool, name)
        await two.mirror()
        assert two.same("db", "wal")

    play(scenario)


def test_removing_a_mirror_of_an_older_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know how to be left at once; whom it serves can still go."""

    async def unknown(self: SourceSession, hello: Hello) -> Welcome:
        raise PeerFault("the other side wants to 'leave', which is unknown here")

    monkeypatch.setattr(SourceSession, "_let_go", unknown)

    async def scenario(two: Two) -> None:
        await two.b.call(two.b.mirrors.remove(GROUP))
        await until(lambda: not two.a.group().sessions)

    play(scenario)


def test_nobody_leaves_another_history(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(two: Two) -> None:
        net = two.b.site.world.net
        for group, lineage in ((GROUP, "another"), ("nothing", "")):
            talk = Conversation(await net.connect(two.a.address))
            hello = Hello(
                pool=two.b.pool.identity, group=group, lineage=lineage, epoch=0, cut=0,
                purpose="leave",
            )  # fmt: skip
            await talk.send(hello)
            assert isinstance(await talk.receive(), Refuse)
            talk.close()
        assert two.b.pool.identity in two.a.group().sessions

    play(scenario)


def test_removing_in_the_middle_of_a_first_copy() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "x", count=900)
        two.fabric.weather.bytes_per_s = 1e6
        await two.mirror(wait=False)
        await until(lambda: two.b.mirrors.mover(GROUP).bytes_incoming > MIB)
        await two.b.call(two.b.mirrors.remove(GROUP))
        assert not two.b.pool.state.volumes
        assert not two.b.pool.state.groups
        check_pool(two.b.pool)

    play(scenario, mirrored=False)


def test_one_command_at_a_time_decides_who_is_followed() -> None:
    """And whoever is stopped in the middle leaves the group followed, with nothing to restart."""

    async def scenario(two: Two) -> None:
        mirrors = two.b.mirrors

        async def stuck() -> None:
            async with mirrors.released(GROUP):
                await asyncio.sleep(60)

        first = two.b.site.spawn(stuck())
        await asyncio.sleep(1)
        with pytest.raises(Conflict, match="another command"):
            await two.b.call(mirrors.remove(GROUP))
        first.cancel()
        two.a.write("db", 3, "followed again")
        await asyncio.sleep(0.1)
        await two.b.wait(timeout=20)
        assert two.b.says("db", 3) == "followed again"
        # Cancelled while the mover is still about to end.
        second = two.b.site.spawn(stuck())
        await asyncio.sleep(0)
        second.cancel()
        two.a.write("db", 3, "once more")
        await asyncio.sleep(0.1)
        await two.b.wait(timeout=20)
        assert two.b.says("db", 3) == "once more"
        await two.b.call(mirrors.remove(GROUP))
        assert not [name for name in mirrors._tasks if name.startswith("mover")]

    play(scenario)


def test_what_cannot_be_removed() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="not mirrored to this controller"):
            await two.a.call(two.a.mirrors.remove(GROUP))
        with pytest.raises(NotFound):
            await two.b.call(two.b.mirrors.remove("nobody"))

    play(scenario)


# -- the rest


def test_volumes_of_a_secondary_are_read_only() -> None:
    async def scenario(two: Two) -> None:
        for name in ("db", "wal"):
            assert two.b.device(name).read_only
            with pytest.raises(ReadOnly, match="secondary"):
                two.b.write(name, 0, "x")
            with pytest.raises(ReadOnly):
                two.b.discard(name, 0, 1)
            with pytest.raises(ReadOnly):
                volumes.resize(two.b.pool, name, 8 * MIB)
            with pytest.raises(Conflict):
                volumes.delete(two.b.pool, name)
        assert all(info.read_only for info in two.b.pool.state.exports())

    play(scenario)


def test_connections_that_say_nothing_are_few() -> None:
    async def scenario(two: Two) -> None:
        net = two.b.site.world.net
        count = WAITING_OF_ONE_MAX + 5
        talks = [Conversation(await net.connect(two.a.address)) for _ in range(count)]
        await asyncio.sleep(1)
        assert len(two.a.mirrors._sessions) == WAITING_OF_ONE_MAX
        turned_away = 0
        for talk in talks:
            try:
                await talk.send(
                    Hello(pool="x", group=GROUP, lineage="", epoch=0, cut=0, purpose="probe")
                )
                await talk.receive()
            except Unavailable:
                turned_away += 1
            talk.close()
        assert turned_away == 5
        await until(lambda: not two.a.mirrors._sessions)
        await two.mirror()

    play(scenario, mirrored=False)


def test_one_site_does_not_get_all_connections() -> None:
    """Each is told so; another site still gets in."""

    async def scenario(two: Two) -> None:
        net, most = two.b.site.world.net, OWN_MAX + SHARED_MAX // 2
        hello = Hello(pool="x", group=GROUP, lineage="", epoch=0, cut=0, purpose="verify")
        answers = []
        talks = []
        with capture_logs() as lines:
            for _ in range(most + 3):
                talks.append(Conversation(await net.connect(two.a.address)))
                await talks[-1].send(hello)
                answers.append(await talks[-1].receive())
        refused = [x.message for x in answers if isinstance(x, Refuse)]
        assert len(refused) == 3
        assert f"b has {most} connections open there" in refused[0]
        assert sum("ended" in line["event"] for line in lines) <= 3
        await two.a.call(_probe(two.a.site.world.net, two.a.address))
        for talk in talks:
            talk.close()
        await until(lambda: not two.a.mirrors._sessions)
        await two.mirror()

    play(scenario, mirrored=False)


async def _probe(net: Any, address: str) -> None:
    talk = Conversation(await net.connect(address))
    await talk.send(Hello(pool="y", group=GROUP, lineage="", epoch=0, cut=0, purpose="probe"))
    await talk.expect(Welcome)
    talk.close()


def test_three_sites() -> None:
    """Two secondaries of one group, each at its own pace."""

    async def scenario(two: Two) -> None:
        c = await two.third(wait=False)
        for n in range(100):
            two.a.write("db", n % 9, f"{n}")
            await asyncio.sleep(0.05)
            if n == 50:
                two.fabric.cut("a", "c")
            if n == 90:
                two.fabric.heal_all()
        await c.wait()
        await two.b.wait()
        assert two.a.image("db") == two.b.image("db") == c.image("db")
        assert {peer.peer for peer in two.a.status().peers} == {
            two.b.pool.identity, c.pool.identity,
        }  # fmt: skip

    play(scenario)


def test_stopping_ends_what_is_served_and_followed() -> None:
    async def scenario(two: Two) -> None:
        assert two.a.mirrors._sessions
        await two.a.call(two.a.mirrors.stop())
        await until(lambda: not two.a.mirrors._sessions, 2)
        lsn = two.a.pool.log.lsn
        two.a.write("db", 1, "x")
        await asyncio.sleep(3)
        assert two.a.pool.log.lsn == lsn + 1, "a cut was placed by a mirror that is stopped"
        await two.b.call(two.b.mirrors.stop())
        assert not two.b.mirrors._tasks
        with pytest.raises(Unavailable):
            await two.b.site.world.net.connect(two.a.address)

    play(scenario)


def test_status_of_both_sides() -> None:
    async def scenario(two: Two) -> None:
        await asyncio.sleep(1)
        a, b = two.a.status(), two.b.status()
        assert (a.role, a.state, b.role, b.state) == ("primary", "DUPLEX", "secondary", "DUPLEX")
        assert a.volumes == b.volumes == ["db", "wal"]
        assert (a.lineage, a.epoch, a.cut) == (b.lineage, b.epoch, b.cut)
        assert a.recovery_point == 0
        assert a.recovery_point_age == -1.0
        assert b.source == "a:7001"
        (peer,) = a.peers
        assert (peer.peer, peer.connected, peer.acked_cut) == (two.b.pool.identity, True, b.cut)
        assert peer.bytes_sent > BLOCK
        assert two.a.mirrors.statuses() == [two.a.status()]
        two.b.crash()
        await until(lambda: not two.a.status().peers[0].connected)
        assert two.a.status().peers[0].acked_cut <= b.cut
        assert two.a.status().state == "SUSPENDED"

    async def states(two: Two) -> None:
        """The state at the primary, which hears of its secondaries from them alone."""
        assert two.a.status().state == "SIMPLEX"
        two.a.write("db", 0, "x", count=900)
        two.fabric.weather.bytes_per_s = 1e6
        await two.mirror(wait=False)
        await until(lambda: two.a.status().state == "COPYING")
        await two.b.wait()
        await until(lambda: two.a.status().state == "DUPLEX")
        await two.b.call(two.b.mirrors.remove(GROUP))
        await until(lambda: two.a.status().state == "SIMPLEX")

    play(scenario)
    play(states, mirrored=False)


def test_a_group_that_is_deleted_is_not_served_any_more() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 3, "x")
        await two.b.wait()
        groups.delete(two.a.pool, GROUP)
        await until(lambda: "no group 'g'" in two.b.status().cause)
        assert two.b.status().state == "SUSPENDED"
        two.a.write("db", 3, "y")
        await asyncio.sleep(5)
        assert two.b.says("db", 3) == "x"
        groups.create(two.a.pool, GROUP, ["db"])  # of the same name, with a history of its own
        await until(lambda: "another history" in two.b.status().cause)

    play(scenario)


def test_a_connection_that_breaks_for_no_known_reason_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(two: Two) -> None:
        broken = [True]
        run = Serving.run

        async def run_once(serving: Serving) -> None:
            if broken.pop():
                broken.append(False)
                raise KeyError("a broken invariant")
            broken.append(False)
            await run(serving)

        monkeypatch.setattr(Serving, "run", run_once)
        with capture_logs() as logs:
            await two.mirror()
        (entry,) = [x for x in logs if "broke" in x["event"]]
        assert (entry["log_level"], entry["exc_info"]) == ("error", True)
        assert two.same("db", "wal")

    play(scenario, mirrored=False)
