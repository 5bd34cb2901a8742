"""Volumes of a group that change without a write: their secondary follows, exactly and cheaply."""

from __future__ import annotations

import pytest

from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.overwrite import Permission
from isochrone.store.relations import Span, Wish
from isochrone.store.revert import revert
from isochrone.types import BLOCK, MIB, TRACK
from tests.mirror.sites import GROUP, Two, play, until

AGREED = Permission(mirror="none")


def establish(two: Two, source: str, target: str, *spans: Span) -> relations.Relation:
    (made,) = relations.establish(two.a.pool, [Wish(source, target, spans)], permission=AGREED)
    return made


async def end(two: Two, *names: str) -> None:
    """All is there, nothing is kept for it any more, and both pools are in order."""
    await two.b.wait()
    assert two.same(*names)
    two.a.write("db", 9, "one more")
    await two.b.wait()
    two.a.write("db", 9, "and another")
    await two.b.wait()
    assert two.a.group().images == []
    assert not [v for v in two.a.pool.state.volumes.values() if v.kind == "image"]
    check_pool(two.a.pool)
    check_pool(two.b.pool)


def test_what_a_volume_became_is_sent_and_nothing_else() -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.a.write("spare", 16, "from outside", count=3)
        two.a.write("wal", 0, "stays", count=200)
        two.a.write("wal", 300, "goes")
        await two.b.wait()
        received = two.b.mirrors.mover(GROUP).bytes_received
        establish(two, "spare", "wal", Span(TRACK, 300 // 16 * TRACK, TRACK))
        await two.b.wait()
        assert two.b.mirrors.mover(GROUP).bytes_received - received < 8 * BLOCK
        assert two.b.says("wal", 288) == "from outside"
        assert two.b.says("wal", 300) == ""
        await end(two, "db", "wal")

    play(scenario)


def test_what_a_secondary_has_is_copied_there() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "much", count=900)
        await two.b.wait()
        mover = two.b.mirrors.mover(GROUP)
        received, commands = mover.bytes_received, mover.bytes_commands
        (made,) = relations.establish(two.a.pool, [Wish("db", "wal")])  # no word needed
        await two.b.wait()
        assert two.b.says("wal", 899) == "much899"
        two.a.write("db", 5, "new")
        relations.refresh(two.a.pool, [made])
        two.a.write("wal", 6, "back")
        relations.restore(two.a.pool, [made])
        await two.b.wait()
        assert mover.bytes_received - received < 16 * BLOCK
        assert 0 < mover.bytes_commands - commands < 2000
        assert [two.b.says("db", n) for n in (5, 6)] == ["new", "back"]
        assert two.b.pool.state.relations == {}, "they are of the primary's site"
        await end(two, "db", "wal")

    play(scenario)


def test_sources_within_and_outside_of_the_group_are_one_instant() -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.a.write("spare", 0, "outside", count=16)
        two.a.write("db", 0, "inside", count=16)
        two.a.write("wal", 0, "wal", count=16)
        part = (Span(0, 0, TRACK),)
        wishes = [
            Wish("spare", "db", part),
            Wish("db", "wal", part),
            Wish("wal", "db", (Span(0, MIB, TRACK),)),
        ]
        relations.establish(two.a.pool, wishes, permission=AGREED)
        await two.b.wait()
        assert [two.b.says("db", 1), two.b.says("wal", 1)] == ["outside1", "inside1"]
        assert two.b.says("db", MIB // BLOCK + 1) == "wal1"
        await end(two, "db", "wal")

    play(scenario)


@pytest.mark.parametrize("inside", [True, False])
def test_everything_keeps_its_place_in_the_order(inside: bool) -> None:
    """Writes and copies before and after, all between the same two cuts."""

    async def scenario(two: Two) -> None:
        source = "db" if inside else "spare"
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.fabric.cut("a", "b")
        two.a.write(source, 0, "old", count=20)
        two.a.write("wal", 0, "own", count=4)
        copies.take(two.a.pool, ["wal"], name="before")
        made = establish(two, source, "wal", Span(0, 0, 2 * TRACK))
        two.a.write("wal", 1, "after")
        copies.take(two.a.pool, ["wal"], name="between")
        two.a.write(source, 2, "newer")
        relations.refresh(two.a.pool, [made], AGREED)
        copies.take(two.a.pool, ["wal"], name="refreshed")
        two.a.write("wal", 17, "kept")
        relations.withdraw(two.a.pool, [made], discard=True, permission=AGREED)
        two.fabric.heal("a", "b")
        await two.b.wait()
        names = ["wal@before", "wal@between", "wal@refreshed"]
        assert two.same("db", "wal", *names)
        assert [two.b.says(name, 1) for name in names] == ["own1", "after", "old1"]
        assert [two.b.says("wal", n) for n in (0, 2, 16, 17)] == ["", "", "old16", "kept"]
        await end(two, "db", "wal", *names)

    play(scenario)


def test_a_revert_takes_its_undo_copy_and_its_size_along() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db", "wal"], name="p")
        volumes.resize(two.a.pool, "wal", 6 * MIB)
        two.a.write("wal", 1200, "beyond")
        two.a.write("db", 0, "second")
        await two.b.wait()
        undo = revert(two.a.pool, "p", undo_name="undo", permission=AGREED)
        await two.b.wait()
        assert two.b.device("wal").size == 4 * MIB
        assert two.b.says("db", 0) == "first"
        assert two.b.says("wal@undo", 1200) == "beyond"
        revert(two.a.pool, undo.name, undo_name="redo", permission=AGREED)
        await end(two, "db", "wal", "db@undo", "wal@undo", "db@redo", "wal@redo")
        assert two.b.says("wal", 1200) == "beyond"

    play(scenario)


@pytest.mark.parametrize("source", ["db", "spare"])
@pytest.mark.parametrize("power", [True, False])
def test_a_primary_that_crashed_still_knows_what_to_send(power: bool, source: str) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.fabric.cut("a", "b")
        two.a.write(source, 0, "old", count=20)
        establish(two, source, "wal", Span(0, 0, 2 * TRACK))
        two.a.write(source, 0, "new", count=20)
        await two.a.call(two.a.pool.flush())
        if not power:
            await two.a.call(two.a.pool.checkpoint())
        await two.a.restart(power=power)
        two.fabric.heal("a", "b")
        await end(two, "db", "wal")
        assert two.b.says("wal", 19) == "old19"

    play(scenario)


@pytest.mark.parametrize("lost", ["primary", "secondary"])
def test_what_breaks_in_the_middle_starts_again(lost: str) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.a.write("spare", 0, "much", count=900)
        await two.b.wait()
        two.fabric.weather.bytes_per_s = 1e6
        establish(two, "spare", "wal")
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.bytes_incoming > 100 * BLOCK)
        await two.a.call(two.a.pool.flush())
        await (two.a if lost == "primary" else two.b).restart()
        assert two.b.says("wal", 5) == "", "a part of the group is visible"
        await end(two, "db", "wal")

    play(scenario)


def test_who_is_gone_costs_nothing_and_begins_anew() -> None:
    async def scenario(two: Two) -> None:
        await two.b.call(two.b.mirrors.remove(GROUP))
        await until(lambda: not two.a.group().sessions)
        made = relations.establish(two.a.pool, [Wish("db", "wal")])  # no word needed
        assert two.a.group().images == []
        assert two.a.group().marks == []
        relations.withdraw(two.a.pool, made, discard=False)
        for name in ("db", "wal"):
            volumes.delete(two.b.pool, name)
        await two.mirror()
        await end(two, "db", "wal")

    play(scenario)


def test_a_mirrored_copy_can_be_worked_with_at_the_secondary() -> None:
    """Its members are sources like any; what comes of them is of this site alone."""

    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="p")
        await two.b.wait(copy="p")
        volumes.create(two.b.pool, "lab", 4 * MIB)
        relations.establish(two.b.pool, [Wish("db@p", "lab")])
        assert two.b.says("lab", 0) == "first"
        copies.delete(two.a.pool, "p")
        await two.b.wait()
        await until(lambda: "db@p" not in two.b.pool.state.names)
        assert two.b.pool.state.relations == {}
        assert two.b.says("lab", 0) == "first"
        two.b.write("lab", 0, "mine")
        check_pool(two.b.pool)

    play(scenario)


def test_a_side_file_names_an_image_only_at_its_record() -> None:
    async def scenario(two: Two) -> None:
        await two.b.wait()
        volumes.create(two.a.pool, "spare", 4 * MIB)
        seen: list[r.AnyRecord] = []
        two.b.pool.on_change.append(lambda lsn, record: seen.append(record))
        establish(two, "spare", "wal")
        await two.b.wait()
        two.a.write("db", 1, "x")
        await two.b.wait()
        assert sum(isinstance(record, r.VolumeResized) for record in seen) == 1

    play(scenario)
