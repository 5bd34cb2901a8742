"""The side file is dropped, the connection breaks, the power goes: the secondary is never torn."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from isochrone.mirror import images, resend, shipment
from isochrone.mirror.messages import Begin, Data
from isochrone.mirror.resend import Step, Way
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.changes import count_since
from isochrone.store.check import check_pool
from isochrone.store.records import Position
from isochrone.types import BLOCK, KIB, MIB, TRACK
from tests.mirror.sites import GROUP, Two, play, until

assert resend.FROM_THE_START == (0, 0)


def drop_log(two: Two) -> None:
    """The primary does not keep the log for its secondary any more, and goes on serving it."""
    pool = two.a.pool
    peer = two.b.pool.identity
    pool.record(r.SessionFellBehind(group=GROUP, peer=peer))


def kinds(two: Two) -> list[tuple[int, bool, bool]]:
    """Watch what is begun: (base, from images, gone on with)."""
    found: list[tuple[int, bool, bool]] = []
    receive = two.b.mirrors.mover(GROUP)._begun

    def begun(message: Begin) -> None:
        found.append((message.base, message.images, message.resumed))
        receive(message)

    two.b.mirrors.mover(GROUP)._begun = begun  # type: ignore[method-assign]
    return found


# -- a way, without anything that is sent


def way(start: Position, steps: int, cut: int = 9) -> Way:
    at: Any = object()
    found = [Step(10 * n, {1: at, 2: at}, {1: MIB, 2: MIB}) for n in range(1, steps)]
    live = Step(100, {1: at, 2: at, 3: at}, {1: MIB, 2: MIB, 3: MIB})
    return Way([*found, live], cut, {5: {}, 6: {}}, start)


@pytest.mark.parametrize(
    ("start", "steps", "passes"),
    [
        (Position(), 1, [(0, 9, 100)]),
        (Position(floor=5), 1, [(5, 9, 100)]),
        (Position(floor=5), 3, [(5, 0, 10), (5, 0, 20), (5, 9, 100)]),
        (Position(5, 6, 8, 2, 7), 1, [(5, 6, 8), (6, 9, 100)]),
        (Position(5, 6, 8, 2, 7), 2, [(5, 6, 8), (6, 0, 10), (6, 9, 100)]),
        (Position(0, 6, 8, 2, 7), 1, [(0, 6, 8), (6, 9, 100)]),
        (Position(5, 0, 10, 2, 7), 2, [(5, 0, 10), (5, 9, 100)]),
        (Position(5, 0, 4, 2, 7), 2, [(5, 0, 10), (5, 9, 100)]),
    ],
)
def test_passes(start: Position, steps: int, passes: list[tuple[int, int, int]]) -> None:
    assert [(p.floor, p.begun, p.step) for p in way(start, steps).passes] == passes


def test_where_the_passes_go_on() -> None:
    first, again = way(Position(5, 6, 8, 2, 7), 1).passes
    assert [(w.volume, w.start) for w in first.work] == [(1, 1 << 62), (2, 7), (3, 0)]
    assert [(w.volume, w.start, w.stop) for w in again.work] == [
        (1, 0, 1 << 62), (2, 0, 7), (3, 0, 0),
    ]  # fmt: skip
    (same, _) = way(Position(5, 0, 10, 2, 7), 2).passes
    assert [(w.volume, w.start) for w in same.work] == [(1, 1 << 62), (2, 7)]
    (other, _) = way(Position(5, 0, 4, 2, 7), 2).passes
    assert [w.start for w in other.work] == [0, 0]
    assert [first.start, again.start] == [(2, 7), (0, 0)]
    assert [same.start, other.start] == [(2, 7), (0, 0)]


# -- two sites


def test_after_the_log_is_dropped_only_what_was_changed_is_sent() -> None:
    async def scenario(two: Two) -> None:
        two.a.bulk()
        await two.b.wait()
        begun, cut = kinds(two), two.b.group().cut
        two.fabric.cut("a", "b")
        dice = Random(1)
        for n in range(20):
            two.a.write("db", dice.randrange(64) * 16, f"changed {n}", count=16)
        two.a.discard("db", 0, 40)
        drop_log(two)
        changed = (count_since(two.a.pool.state, two.a.group(), cut) or 0) * TRACK
        await two.a.call(two.a.pool.flush())
        before = two.b.status().bytes_received
        two.fabric.heal_all()
        await two.b.wait()
        assert begun == [(cut, True, False)]
        assert two.same("db", "wal")
        received = two.b.status().bytes_received - before
        assert received <= 1.05 * changed, (received, changed)
        session = two.a.group().sessions[two.b.pool.identity]
        assert session.keeps_log
        assert session.whole_lsn == two.a.group().mark(two.b.group().cut).lsn
        two.a.write("db", 5, "by the log again")
        await two.b.wait()
        assert begun == [(cut, True, False), (cut + 1, False, False)]
        assert session.begun == []
        assert two.same("db", "wal")
        assert not [v for v in two.b.pool.state.volumes.values() if v.kind == "shadow"]
        check_pool(two.b.pool)

    play(scenario)


def test_what_is_written_during_a_resend_follows_by_the_log() -> None:
    async def scenario(two: Two) -> None:
        begun, mover = kinds(two), two.b.mirrors.mover(GROUP)
        drop_log(two)
        two.fabric.weather.bytes_per_s = 1e6
        two.a.bulk()
        await until(lambda: mover.done_bytes > MIB)
        assert (mover.phase, mover.state.value) == ("resend", "DUPLEX")
        assert mover.done_bytes < mover.todo_bytes <= 4 * MIB + 2 * TRACK
        (session,) = two.a.mirrors._sessions
        assert session.phase == "resend"
        assert session.todo_bytes == mover.todo_bytes
        old = two.b.image("db")
        two.a.write("db", 1000, "meanwhile")
        assert two.b.image("db") == old
        two.fabric.weather.bytes_per_s = 0
        await two.b.wait()
        assert two.same("db", "wal")
        assert [images for _, images, _ in begun] == [True, False]
        assert (mover.phase, session.phase, mover.todo_bytes) == ("", "", 0)

    play(scenario)


def test_copies_survive_a_resend() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="before")
        await two.b.wait()
        two.fabric.cut("a", "b")
        copies.take(two.a.pool, ["db", "wal"], name="unchanged")
        two.a.write("db", 1, "one", count=20)
        two.a.write("wal", 1, "one", count=20)
        copies.take(two.a.pool, ["db", "wal"], name="c1")
        two.a.write("db", 5, "two")
        two.a.discard("wal", 0, 16)
        two.a.pool.record(r.VolumeResized(id=two.a.pool.state.names["wal"], size=2 * MIB))
        copies.take(two.a.pool, ["wal"], name="c2")
        copies.classify(two.a.pool, "c2", "application")
        copies.classify(two.a.pool, "before", "filesystem")
        copies.take(two.a.pool, ["db"], name="gone")
        copies.delete(two.a.pool, "gone")
        copies.take(two.a.pool, ["db"], name="clone", writable=True)
        two.a.write("db@clone", 1, "it has changed")
        copies.take(two.a.pool, ["db"], name="clean-clone", writable=True)
        two.a.write("db", 900, "three")
        drop_log(two)
        await two.a.call(two.a.pool.flush())
        two.fabric.heal_all()
        await two.b.wait()
        found = two.b.pool.state.copies
        assert set(found) == {"before", "unchanged", "c1", "c2", "clean-clone"}
        for name in found:
            for source, _ in found[name].members:
                member = f"{two.b.pool.state.volumes[source].name}@{name}"
                assert two.same(member), member
            assert found[name].stamp == two.a.pool.state.copies[name].stamp
        assert found["c2"].consistency == "application"
        assert found["before"].consistency == "filesystem"
        assert two.same("db", "wal")
        check_pool(two.b.pool)

    play(scenario)


def test_a_copy_of_an_old_name_replaces_the_old_one() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="nightly")
        await two.b.wait()
        two.fabric.cut("a", "b")
        copies.delete(two.a.pool, "nightly")
        two.a.write("db", 7, "new")
        copies.take(two.a.pool, ["db"], name="nightly")
        drop_log(two)
        await two.a.call(two.a.pool.flush())
        two.fabric.heal_all()
        await two.b.wait()
        assert set(two.b.pool.state.copies) == {"nightly"}
        assert two.b.says("db@nightly", 7) == "new"

    play(scenario)


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipment, "PROGRESS_BYTES", 256 * KIB)
    monkeypatch.setattr(images, "DATA_BLOCKS_MAX", 16)


@pytest.mark.parametrize("first", [False, True], ids=["resend", "first copy"])
@pytest.mark.parametrize("lost", ["link", "primary", "secondary", "both"])
def test_it_goes_on_from_where_it_was(
    lost: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)

    async def scenario(two: Two) -> None:
        if not first:
            await two.mirror()
            two.fabric.cut("a", "b")
        two.a.bulk()
        await two.a.call(two.a.pool.flush())
        two.fabric.heal_all()
        two.fabric.weather.bytes_per_s = 1e6
        if first:
            await two.mirror(wait=False)
        else:
            drop_log(two)
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.bytes_incoming > 3 * MIB)
        received = mover.bytes_received
        await two.b.call(two.b.pool.flush())
        two.a.write("db", 3, "behind")
        two.a.write("db", 1020, "ahead")
        two.a.discard("db", 500, 100)
        copies.take(two.a.pool, ["db"], name="c1")
        two.a.write("db", 4, "after it")
        await two.a.call(two.a.pool.flush())
        if lost == "link":
            two.fabric.cut("a", "b")
            await asyncio.sleep(20)
            two.fabric.heal_all()
        for host in {"primary": [two.a], "secondary": [two.b], "both": [two.a, two.b]}.get(
            lost, []
        ):
            await host.restart()
        if lost in ("secondary", "both"):
            mover = two.b.mirrors.mover(GROUP)
            received += mover.bytes_received
        begun = kinds(two)
        await two.b.wait()
        assert begun[0][1:] == (True, True)
        assert two.same("db", "wal", "db@c1")
        assert two.b.says("db@c1", 4) != "after it"
        total = (received if lost in ("secondary", "both") else 0) + mover.bytes_received
        assert total < 1.3 * 4 * MIB, total / MIB
        assert not [v for v in two.b.pool.state.volumes.values() if v.kind == "shadow"]
        check_pool(two.b.pool)

    play(scenario, mirrored=False)


@pytest.mark.parametrize("first", [False, True], ids=["resend", "first copy"])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_never_torn(seed: int, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts and link cuts at random, hosts that write on, copies in between."""
    small_steps(monkeypatch)

    async def scenario(two: Two) -> None:
        dice = Random(seed)
        two.fabric.weather.bytes_per_s = 3e6
        two.a.bulk()
        await two.a.call(two.a.pool.flush())
        if not first:
            await two.mirror()
            old = {name: two.b.image(name) for name in ("db", "wal")}
            drop_log(two)
            for n in range(40):
                two.a.write("db", dice.randrange(1000), f"changed {n}", count=16)
        else:
            await two.mirror(wait=False)
        cut = two.b.group().cut
        for n in range(12):
            await asyncio.sleep(dice.uniform(0.05, 1.5))
            two.a.write(
                dice.choice(("db", "wal")), dice.randrange(1000), f"{n}", dice.choice((1, 16))
            )
            two.a.discard("db", dice.randrange(1000), 16)
            if dice.random() < 0.3:
                copies.take(two.a.pool, dice.choice((["db"], ["db", "wal"])), name=f"c{n}")
            await two.a.call(two.a.pool.flush())
            match dice.choice(("a", "b", "link", "")):
                case "a":
                    await two.a.restart()
                case "b":
                    await two.b.restart()
                case "link":
                    two.fabric.cut("a", "b")
                    await asyncio.sleep(dice.uniform(0.1, 3))
                    two.fabric.heal_all()
            if two.b.group().cut == cut:
                if first:
                    assert "db" not in two.b.pool.state.names
                else:
                    assert all(two.b.image(name) == old[name] for name in old)
        two.fabric.weather.bytes_per_s = 0
        await two.b.wait()
        assert two.same("db", "wal")
        for name, copy in two.b.pool.state.copies.items():
            assert name in two.a.pool.state.copies
            for source, _ in copy.members:
                assert two.same(f"{two.b.pool.state.volumes[source].name}@{name}"), name
        if not first:
            assert set(two.a.pool.state.copies) == set(two.b.pool.state.copies)
        assert not [v for v in two.b.pool.state.volumes.values() if v.kind == "shadow"]
        check_pool(two.a.pool)
        check_pool(two.b.pool)

    play(scenario, seed=seed, mirrored=False)


def test_a_link_that_breaks_every_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)

    async def scenario(two: Two) -> None:
        mover = await two.copying()
        for n in range(60):
            if two.b.group().cut:
                break
            await until(lambda: mover.bytes_incoming > MIB or two.b.group().cut > 0)
            two.fabric.cut("a", "b")
            two.a.write("db", 37 * n % 1000, f"again {n}")
            await asyncio.sleep(0.5)
            two.fabric.heal_all()
        assert two.b.group().cut, "it does not get further"
        await two.b.wait()
        assert two.same("db", "wal")
        assert mover.bytes_received < 12 * MIB

    play(scenario, mirrored=False)


@pytest.mark.parametrize("broken", [False, True], ids=["at once", "broken off"])
def test_a_copy_that_starts_from_a_seed(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)

    async def scenario(two: Two) -> None:
        volumes.create(two.b.pool, "restored", 5 * MIB)
        for host, name in ((two.a, "db"), (two.b, "restored")):
            host.bulk(name)
        two.a.discard("db", 300, 50)
        for n in range(20):
            two.a.write("db", 50 * n, f"since {n}", count=8)
        two.b.write("restored", 1100, "behind the end")
        two.a.write("wal", 5, "without a seed")
        await two.a.call(two.a.pool.flush())
        await two.b.call(two.b.pool.flush())
        two.fabric.weather.bytes_per_s = 1e6
        adding = two.b.mirrors.add(GROUP, two.a.address, seeds={"db": "restored"})
        await two.b.call(adding)
        await two.b.call(two.b.pool.flush())
        mover = two.b.mirrors.mover(GROUP)
        if broken:
            await until(lambda: mover.bytes_incoming > MIB)
            two.a.write("db", 3, "meanwhile")
            await two.a.call(two.a.pool.flush())
            await two.b.call(two.b.pool.flush())
            await two.b.restart()
            mover = two.b.mirrors.mover(GROUP)
        begun = kinds(two)
        await two.b.wait()
        assert begun[0][:2] == (0, True)
        assert begun[0][2] is broken
        assert two.same("db", "wal")
        assert two.b.says("restored", 1) == "bulk 01"
        assert mover.bytes_received < (2 if broken else 3) * MIB
        assert two.b.group().seeds == {}
        check_pool(two.b.pool)

    play(scenario, mirrored=False)


def test_a_part_is_dropped_when_its_primary_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)

    async def scenario(two: Two) -> None:
        mover = await two.copying()
        await until(lambda: mover.bytes_incoming > 2 * MIB)
        two.fabric.cut("a", "b")
        await asyncio.sleep(1)
        assert two.b.group().incoming.position is not None
        two.b.group().incoming.pool = "another"
        begun = kinds(two)
        two.fabric.heal_all()
        await two.b.wait()
        assert begun[0] == (0, True, False)
        assert two.same("db", "wal")

    play(scenario, mirrored=False)


def test_frames_are_full_where_marks_are_far_apart() -> None:
    """Few small frames would cost more in heads than 5 %."""

    async def scenario(two: Two) -> None:
        sizes: list[int] = []
        two.a.write("db", 0, "base", count=1000)
        await two.b.wait()
        drop_log(two)
        mover = two.b.mirrors.mover(GROUP)
        receiver = mover._begun

        def begun(message: Begin) -> None:
            receiver(message)

        mover._begun = begun  # type: ignore[method-assign]
        (session,) = two.a.mirrors._sessions
        send = session._talk.send

        async def sent(message: Any) -> None:
            if isinstance(message, Data):
                sizes.append(len(message.payload) // BLOCK)
            await send(message)

        session._talk.send = sent  # type: ignore[method-assign]
        for track in range(0, 60, 4):
            two.a.write("db", 16 * track, f"{track}")
        await two.b.wait()
        assert sum(sizes) == 15 * 16
        assert len(sizes) == 1

    play(scenario)
