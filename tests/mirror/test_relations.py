"""Volumes of a group that change without a write: their secondary follows, exactly and cheaply."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isochrone.dr.failover import promote
from isochrone.errors import ReadOnly
from isochrone.mirror.pairs import Pair
from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.mirrored import content_only
from isochrone.store.overwrite import Permission
from isochrone.store.relations import Span, Wish
from isochrone.store.revert import revert
from isochrone.types import BLOCK, MIB, TRACK
from tests.mirror.sites import GROUP, Host, Two, play, until

AGREED = Permission(mirror="none")


def establish(two: Two, source: str, target: str, *spans: Span) -> relations.Relation:
    (made,) = relations.establish(two.a.pool, [Wish(source, target, spans)], permission=AGREED)
    return made


def known(host: Host) -> list[tuple[object, ...]]:
    """The mirrored relations of a site, without what belongs to the site."""
    state = host.pool.state
    return sorted(
        (state.volumes[x.source].name, state.volumes[x.target].name, tuple(x.extents), x.stamp,
         x.generation, x.inhibit)
        for x in state.relations.values() if x.group
    )  # fmt: skip


def same_relations(two: Two) -> None:
    assert known(two.b) == known(two.a)


async def lose(two: Two) -> None:
    """The log is not kept for the secondary any more: what it lacks comes as images."""
    (peer,) = two.a.group().sessions
    now = two.a.pool.world.clock.wall_ns()
    two.a.pool.record(r.SessionSuspended(group=GROUP, peer=peer, cause="lost", stamp=now))
    two.a.pool.record(r.SessionResumed(group=GROUP, peer=peer))
    await two.a.call(two.a.pool.flush())


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
        (there,) = two.b.pool.state.relations.values()
        assert (there.group, there.origin, there.generation) == (GROUP, made.id, 3)
        same_relations(two)
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
        assert two.a.group().resend_before_lsn == 0, "the log tells all of it"
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


# -- relations are at both sites


Step = Callable[[Two], object]


def _some(two: Two) -> list[relations.Relation]:
    return list(two.a.pool.state.relations.values())


def _withdraw(two: Two, *, discard: bool, part: bool = False) -> None:
    ranges = ((0, TRACK),) if part else ()
    if found := [x for x in _some(two) if not part or x.extents[0][1] == 0]:
        relations.withdraw(two.a.pool, found, discard=discard, ranges=ranges, permission=AGREED)


# The source is overwritten right after each instant, the target right before.
STORY: list[Step] = [
    lambda two: two.a.write("wal", 3, "before"),
    lambda two: establish(two, "db", "wal", Span(0, 0, 3 * TRACK)),
    lambda two: two.a.write("db", 3, "after", count=20),
    lambda two: two.a.write("wal", 17, "host"),
    lambda two: relations.refresh(two.a.pool, _some(two), AGREED),
    lambda two: two.a.write("db", 4, "newer", count=30),
    lambda two: two.a.write("wal", 33, "host again"),
    lambda two: _withdraw(two, discard=True, part=True),
    lambda two: relations.restore(two.a.pool, _some(two), AGREED),
    lambda two: _withdraw(two, discard=False),
    lambda two: establish(two, "db", "wal", Span(TRACK, 0, 2 * TRACK)),
    lambda two: two.a.write("wal", 5, "last"),
]
NOTHING = -1


@pytest.mark.parametrize(
    ("connected", "lost"),
    [
        (connected, lost)
        for connected in range(0, len(STORY) + 1, 2)
        for lost in (NOTHING, *range(connected, len(STORY)))
    ],
)
def test_what_is_lost_at_any_place_is_settled(connected: int, lost: int) -> None:
    """The secondary has the story up to some step; then the link is cut, and the log dropped."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=64)
        for number, step in enumerate(STORY):
            if number == connected:
                await two.b.wait()
                same_relations(two)
                two.fabric.cut("a", "b")
            if number == lost:
                await lose(two)
            step(two)
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert two.same("db", "wal")
        same_relations(two)
        assert known(two.a)
        two.a.write("wal", 20, "behind it")
        _withdraw(two, discard=True)  # by command or by image, as it must be
        await two.b.wait()
        assert known(two.b) == []
        await end(two, "db", "wal")

    play(scenario)


@pytest.mark.parametrize("discard", [True, False])
def test_withdrawing_is_a_command_once_both_sites_have_it(discard: bool) -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "much", count=900)
        made = establish(two, "db", "wal")
        await two.b.wait()
        two.a.write("wal", 300, "host")
        await two.b.wait()
        two.a.write("db", 900, "x")  # its cut says what the secondary has
        await two.b.wait()
        received = two.b.mirrors.mover(GROUP).bytes_received
        relations.withdraw(two.a.pool, [made], discard=discard)
        assert two.a.group().images == []
        await two.b.wait()
        assert two.b.mirrors.mover(GROUP).bytes_received - received < 2 * BLOCK
        assert known(two.b) == known(two.a) == []
        assert two.b.says("wal", 300) == "host"
        assert two.b.says("wal", 600) == ("" if discard else "much600")
        await end(two, "db", "wal")

    play(scenario)


def test_a_relation_whose_target_came_as_an_image_is_discarded_by_image() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=64)
        made = establish(two, "db", "wal")
        two.a.write("wal", 17, "host")
        await two.b.wait()
        await lose(two)
        two.a.write("wal", 40, "later")
        await two.b.wait()
        two.a.write("db", 70, "x")
        await two.b.wait()
        (session,) = two.a.group().sessions.values()
        assert session.reconciled
        assert session.inexact == [made.id]
        relations.withdraw(two.a.pool, [made], discard=True)
        assert len(two.a.group().images) == 1
        await two.b.wait()
        assert [two.b.says("wal", n) for n in (0, 17, 40)] == ["", "host", "later"]
        await end(two, "db", "wal")

    play(scenario)


def test_with_nothing_written_at_the_source_nothing_is_left() -> None:
    """Tracks that are holes at both sides, withdrawn while the log is lost."""

    async def scenario(two: Two) -> None:
        made = establish(two, "db", "wal", Span(MIB, MIB, MIB))
        await two.b.wait()
        same_relations(two)
        assert len(known(two.b)) == 1
        two.fabric.cut("a", "b")
        relations.withdraw(two.a.pool, [made], discard=False)
        await lose(two)
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert known(two.b) == []
        assert two.b.says("wal", MIB // BLOCK) == ""
        await end(two, "db", "wal")

    play(scenario)


@pytest.mark.parametrize("lost", [True, False])
def test_a_primary_that_dies_right_after_it_said_done(lost: bool) -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=64)
        made = establish(two, "db", "wal", Span(0, 0, 2 * TRACK))
        await two.b.wait()
        two.fabric.cut("a", "b")
        two.a.write("wal", 17, "host")
        relations.withdraw(two.a.pool, [made], discard=True, permission=AGREED)
        await two.a.call(two.a.pool.flush())
        await two.a.restart()
        assert known(two.a) == []
        if lost:
            await lose(two)
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert known(two.b) == []
        assert [two.b.says("wal", n) for n in (0, 17)] == ["", "host"]
        await end(two, "db", "wal")

    play(scenario)


def test_bytes_after_a_lost_withdrawal_are_those_of_its_tracks() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=1000)
        made = establish(two, "db", "wal")
        await two.b.wait()
        two.fabric.cut("a", "b")
        relations.withdraw(
            two.a.pool, [made], discard=True, ranges=[(0, 6 * TRACK)], permission=AGREED
        )
        two.a.write("db", 900, "really", count=32)
        await lose(two)
        mover = two.b.mirrors.mover(GROUP)
        received = mover.bytes_received
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert mover.bytes_received - received < 1.2 * (6 + 3) * TRACK
        same_relations(two)
        await end(two, "db", "wal")

    play(scenario)


def test_a_promoted_secondary_works_with_its_relations() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=40)
        establish(two, "db", "wal", Span(0, 0, 3 * TRACK))
        await two.b.wait()
        (there,) = two.b.pool.state.relations.values()
        attempts: list[Callable[[], object]] = [
            lambda: relations.refresh(two.b.pool, [there]),
            lambda: relations.restore(two.b.pool, [there]),
            lambda: relations.withdraw(two.b.pool, [there], discard=False),
        ]
        for attempt in attempts:
            with pytest.raises(ReadOnly, match="mirrored with the group"):
                attempt()
        with pytest.raises(ReadOnly):
            relations.establish(two.b.pool, [Wish("db", "wal")])
        two.a.crash()
        await two.b.call(promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        two.b.write("db", 5, "of b")
        relations.refresh(two.b.pool, [there])
        assert two.b.says("wal", 5) == "of b"
        two.b.write("wal", 20, "kept")
        relations.restore(two.b.pool, [there])
        assert two.b.says("db", 20) == "kept"
        two.b.write("wal", 20, "host")
        relations.withdraw(two.b.pool, [there], discard=True)
        assert [two.b.says("wal", n) for n in (0, 20)] == ["", "host"]
        await two.b.restart()
        check_pool(two.b.pool)

    play(scenario)


def test_without_room_the_content_comes_and_the_mirror_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relations, "RELATIONS_MAX", 3)

    async def scenario(two: Two) -> None:
        for name in ("one", "two", "three"):
            volumes.create(two.b.pool, name, 4 * MIB)
        for name in ("two", "three"):
            relations.establish(two.b.pool, [Wish("one", name)])
        two.a.write("db", 0, "db", count=64)
        first = establish(two, "db", "wal", Span(0, 0, TRACK))
        second = establish(two, "db", "wal", Span(TRACK, TRACK, TRACK))
        await two.b.wait()
        assert two.b.mirrors.mover(GROUP).state is Pair.DUPLEX
        assert two.same("db", "wal")
        assert [x.origin for x in two.b.pool.state.relations.values() if x.group] == [first.id]
        assert two.b.group().unheld == [second.id]
        two.a.write("db", 20, "new")
        relations.refresh(two.a.pool, [second])
        two.a.write("wal", 20, "host")
        await two.b.wait()
        assert two.same("db", "wal")
        assert content_only(two.a.pool.state, second) == list(two.a.group().sessions)
        assert content_only(two.a.pool.state, first) == []
        relations.withdraw(two.a.pool, [first, second], discard=True)
        await two.b.wait()
        assert known(two.b) == []
        assert two.b.group().unheld == []
        assert [two.b.says("wal", n) for n in (0, 16, 20)] == ["", "db16", "host"]
        await end(two, "db", "wal")

    play(scenario)


@pytest.mark.parametrize("point", range(8))
def test_a_secondary_that_dies_while_commands_arrive(point: int) -> None:
    """Power cuts all over a group with relations and copies in it; each image is right."""

    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=200)
        await two.b.wait()
        two.fabric.weather.bytes_per_s = 1e6
        two.fabric.cut("a", "b")
        for number in range(4):
            two.a.write("wal", 0, f"before {number}", count=40)
            if number:
                relations.refresh(two.a.pool, _some(two))
            else:
                establish(two, "db", "wal", Span(0, 0, 4 * TRACK))
            copies.take(two.a.pool, ["db", "wal"], name=f"c{number}")
            two.a.write("db", 0, f"after {number}", count=60)
        await two.a.call(two.a.pool.flush())
        two.fabric.heal("a", "b")
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.bytes_incoming >= 40 * point * BLOCK)
        await two.b.restart()
        if two.b.group().cut < two.a.group().cut:
            assert two.b.says("wal", 0) == "", "a part of the group is visible"
            assert known(two.b) == []
        if point % 2:
            await lose(two)
        await end(two, "db", "wal", *(f"{v}@c{n}" for v in ("db", "wal") for n in range(4)))
        same_relations(two)
        assert known(two.b)

    play(scenario, seed=point)


def test_very_many_in_a_minute_leave_no_trace() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=64)
        for number in range(25):
            for track in range(10):
                establish(two, "db", "wal", Span(0, track * TRACK, TRACK))
            assert two.b.mirrors.mover(GROUP).state is Pair.DUPLEX
            if number % 3 == 0:
                await two.b.wait()
                same_relations(two)
            relations.withdraw(two.a.pool, _some(two), discard=number % 2 > 0, permission=AGREED)
        await two.b.wait()
        assert known(two.b) == known(two.a) == []
        await end(two, "db", "wal")

    play(scenario)
