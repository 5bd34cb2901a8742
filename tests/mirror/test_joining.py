"""Volumes join and leave a group while it is mirrored and written to; the power goes meanwhile."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.dr import failback, failover, switch
from isochrone.errors import Conflict, PeerFault
from isochrone.mirror import capabilities, digests, groups, shipment
from isochrone.mirror.apply import Receiver, check_volume
from isochrone.mirror.messages import Begin, Partial, RemoteVolume
from isochrone.mirror.pairs import Pair
from isochrone.mirror.partial import part_of
from isochrone.store import changes, copies, points, relations, volumes, windows
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.records import Position
from isochrone.types import BLOCK, KIB, MIB
from tests.mirror.sites import GROUP, Host, Two, play, until


def names(host: Host) -> list[str]:
    return groups.members(host.pool, GROUP)


def create(host: Host, name: str, size: int = 4 * MIB) -> None:
    volumes.create(host.pool, name, size)


def change(host: Host, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
    groups.change(host.pool, GROUP, add, remove)


def check(two: Two) -> None:
    """Both sites are what one cut says, and neither keeps anything that nobody needs."""
    assert names(two.a) == names(two.b)
    assert two.same(*names(two.a))
    for host in (two.a, two.b):
        check_pool(host.pool)
        assert not [v for v in host.pool.state.volumes.values() if v.kind == "shadow"]
        noted = {id for g in host.pool.state.changes.of(GROUP) for id in g.tracks}
        assert noted <= set(host.group().volumes)


def test_a_volume_joins_with_all_it_holds_and_nothing_else_is_sent_again() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "bulk", count=900)
        create(two.a, "idx", 64 * MIB)
        two.a.write("idx", 5, "old", count=3)
        two.a.write("idx", 16000, "far")
        await two.b.wait()
        mover = two.b.mirrors.mover(GROUP)
        received, suspensions = mover.bytes_received, len(mover.trail.suspensions)
        change(two.a, add=("idx",))
        two.a.write("idx", 6, "new")
        two.a.write("db", 1, "new")
        await two.b.wait()
        check(two)
        assert names(two.b) == ["db", "idx", "wal"]
        assert two.b.says("idx", 6) == "new"
        assert two.b.says("idx", 7) == "old2"
        assert two.b.says("idx", 16000) == "far"
        assert mover.bytes_received - received < 5 * BLOCK + 2 * 16 * BLOCK + 16 * KIB
        # The session was not interrupted, and goes on by the log.
        assert len(mover.trail.suspensions) == suspensions
        session = two.a.group().sessions[two.b.pool.identity]
        mark = two.a.group().mark(two.b.group().cut)
        assert changes.log_serves(two.a.group(), session, mark)
        two.a.write("idx", 8, "by the log")
        await two.b.wait()
        assert two.b.says("idx", 8) == "by the log"
        for host in (two.a, two.b):
            await host.restart()
            await two.b.wait()
            check(two)

    play(scenario)


def test_a_volume_leaves_and_stays_at_both_sites() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("wal", 3, "last")
        copies.take(two.a.pool, ["wal"], name="only")
        copies.take(two.a.pool, ["db", "wal"], name="both")
        await two.b.wait()
        change(two.a, remove=("wal",))
        two.a.write("wal", 3, "not there")
        two.a.write("db", 3, "there")
        await two.b.wait()
        check(two)
        assert names(two.b) == ["db"]
        state = two.b.pool.state
        left = state.volumes[state.names["wal"]]
        assert (left.group, state.read_only(left)) == ("", False)
        assert two.b.says("wal", 3) == "last"
        assert two.a.says("wal", 3) == "not there"
        # Its own copies are this site's; one that it shares with the group goes on with it.
        assert (state.copies["only"].group, state.copies["only"].kept_from) == ("", GROUP)
        assert state.copies["both"].group == GROUP
        copies.delete(two.a.pool, "only")
        copies.delete(two.a.pool, "both")
        two.b.write("wal", 4, "mine")
        await two.b.wait()
        assert set(two.b.pool.state.copies) == {"only"}
        assert two.b.says("wal@only", 3) == "last"
        await two.b.restart()
        await two.b.wait()
        assert two.b.says("wal", 4) == "mine"
        volumes.delete(two.b.pool, "wal")
        check(two)

    play(scenario)


def test_a_member_that_is_deleted_is_not_deleted_elsewhere() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("wal", 3, "last")
        copies.take(two.a.pool, ["wal"], name="only")
        await two.b.wait()
        groups.delete_volume(two.a.pool, "wal")
        assert "wal" not in two.a.pool.state.names
        two.a.write("db", 3, "there")
        await two.a.restart(power=False)
        await two.b.wait()
        check(two)
        assert (names(two.a), two.b.says("wal", 3), two.b.says("wal@only", 3)) == (
            ["db"], "last", "last",
        )  # fmt: skip
        with pytest.raises(Conflict, match="nothing would be left"):
            groups.delete_volume(two.a.pool, "db")

    play(scenario)


def test_points_of_before_have_what_the_group_had() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("wal", 3, "then")
        await two.b.wait()
        then = two.b.group().cut
        create(two.a, "idx")
        two.a.write("idx", 1, "late")
        change(two.a, add=("idx",), remove=("wal",))
        await two.b.wait()
        two.b.write("wal", 3, "mine")
        volumes.delete(two.b.pool, "wal")
        await two.b.restart()
        await two.b.wait()
        window = two.b.pool.state.windows[GROUP]
        point = points.at_cut(window.points, then)
        assert point is not None
        windows.open_point(two.b.pool, two.b.group(), point, name="past")
        assert two.b.says("wal@past", 3) == "then"
        assert "idx@past" not in two.b.pool.state.names
        point = points.at_cut(window.points, two.b.group().cut)
        assert point is not None
        windows.open_point(two.b.pool, two.b.group(), point, name="now")
        assert {n for n in two.b.pool.state.names if n.endswith("@now")} == {"db@now", "idx@now"}
        check(two)

    play(scenario)


def test_a_name_that_is_taken_there_stops_the_mirror_and_nothing_else() -> None:
    async def scenario(two: Two) -> None:
        create(two.b, "idx")
        two.b.write("idx", 0, "somebody's")
        create(two.a, "idx")
        two.a.write("idx", 0, "ours")
        cut = two.b.group().cut
        change(two.a, add=("idx",))
        two.a.write("db", 0, "goes on")
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.state is Pair.SUSPENDED)
        assert "there is a volume 'idx' here already" in mover.cause
        with pytest.raises(Conflict) as e:
            check_volume(two.b.pool, two.b.group(), RemoteVolume(99, "idx", MIB))
        assert "delete it here" in e.value.hint
        assert "group remove g idx" in e.value.hint
        assert (two.b.group().cut, two.b.says("idx", 0)) == (cut, "somebody's")
        change(two.a, remove=("idx",))
        await two.b.wait()
        assert two.b.says("db", 0) == "goes on"
        change(two.a, add=("idx",))
        await until(lambda: mover.state is Pair.SUSPENDED)
        volumes.delete(two.b.pool, "idx")
        await two.b.wait()
        assert two.b.says("idx", 0) == "ours"
        check(two)

    play(scenario)


def test_a_part_is_gone_on_with_in_the_same_order_only() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.a.pool, two.a.group()
        cut = group.mark(two.b.group().cut)
        assert cut is not None
        one, other = group.volumes

        def start(*volumes: int) -> Position | None:
            part = Partial(
                pool=pool.identity, lineage=group.lineage, epoch=1, base=cut.cut, floor=cut.cut,
                begun=0, step=5, volume=one, block=7, volumes=volumes,
            )  # fmt: skip
            return shipment.starting_at(pool, group, cut.cut, part)

        on, anew = Position(cut.cut, 0, 5, one, 7), Position(floor=cut.cut)
        assert [start(one, other), start(other, one), start(one), start()] == [on, anew, anew, on]
        change(two.a, remove=("db",))
        change(two.a, add=("db",))  # in the other order from now on, and known to have changed
        assert [start(one, other), start(other, one), start()] == [anew, on, anew]

    play(scenario)


def test_leaving_and_joining_again_before_anybody_sees_it() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        two.a.write("wal", 7, "before")
        change(two.a, remove=("wal",))
        two.a.discard("wal", 0, 4)
        two.a.write("wal", 9, "outside")
        change(two.a, add=("wal",))
        two.fabric.heal_all()
        await two.b.wait()
        assert names(two.b) == ["db", "wal"]
        assert two.b.says("wal", 9) == "outside"
        check(two)

    play(scenario)


def test_relations_come_and_go_with_their_volumes() -> None:
    async def scenario(two: Two) -> None:
        for name in ("src", "dst"):
            create(two.a, name)
        two.a.write("src", 2, "content")
        made = relations.establish(two.a.pool, [relations.Wish("src", "dst")])[0]
        assert made.group == ""
        change(two.a, add=("src", "dst"))
        assert made.group == GROUP
        await two.b.wait()
        check(two)
        (there,) = two.b.pool.state.relations.values()
        assert (there.group, there.origin) == (GROUP, made.id)
        with pytest.raises(Conflict, match="is mirrored with it") as e:
            change(two.a, remove=("src",))
        assert f"relation withdraw {made.id} --keep" in e.value.hint
        change(two.a, remove=("src", "dst"))
        assert made.group == ""
        await two.b.wait()
        check(two)
        (there,) = two.b.pool.state.relations.values()
        assert (there.group, there.origin) == ("", 0)
        change(two.a, add=("src",))  # its name is taken there: it is the volume that left
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.state is Pair.SUSPENDED)

    play(scenario)


def test_a_cut_that_is_being_sent_by_the_log_is_given_up() -> None:
    async def scenario(two: Two) -> None:
        create(two.a, "idx")
        two.fabric.weather.bytes_per_s = MIB
        two.a.write("db", 0, "bulk", count=1000)
        await until(lambda: two.b.group().incoming is not None)
        cut = two.b.group().cut
        change(two.a, add=("idx",), remove=("wal",))
        two.a.write("idx", 0, "in")
        await two.b.wait()
        assert two.b.group().cut > cut + 1
        check(two)

    play(scenario)


def begun(two: Two) -> list[bool]:
    """Watch whether what is begun goes on with a part."""
    found: list[bool] = []

    def watch(lsn: int, record: object) -> None:
        if isinstance(record, r.IncomingBegun):
            found.append(False)
        if isinstance(record, r.IncomingProgress) and (not found or found[-1] is not True):
            found.append(True)

    two.b.watchers.append(watch)
    two.b.pool.on_change.append(watch)
    return found


@pytest.mark.parametrize("again", [False, True])
def test_a_join_that_breaks_off_goes_on_with_the_same_volumes(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """`again`: the group has changed once more when the secondary comes back."""
    monkeypatch.setattr(shipment, "PROGRESS_BYTES", 64 * BLOCK)

    async def scenario(two: Two) -> None:
        for name in ("idx", "more"):
            create(two.a, name)
            two.a.write(name, 0, name, count=1000)
        two.fabric.weather.bytes_per_s = MIB
        change(two.a, add=("idx",))
        await until(lambda: two.b.mirrors.mover(GROUP).done_bytes > 2 * MIB)
        await two.b.restart(power=False)
        assert part_of(two.b.pool, two.b.group()) is not None
        two.a.write("idx", 3, "meanwhile")
        if again:
            change(two.a, add=("more",), remove=("wal",))
        lives = begun(two)
        received = two.b.mirrors.mover(GROUP).bytes_received
        await two.b.wait()
        check(two)
        assert two.b.says("idx", 3) == "meanwhile"
        received = two.b.mirrors.mover(GROUP).bytes_received - received
        assert (False in lives) is again
        assert (received < 3 * MIB) is not again

    play(scenario)


def test_an_older_secondary_is_told_to_be_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(two: Two) -> None:
        create(two.a, "idx")
        change(two.a, add=("idx",))
        old = tuple(name for name in capabilities.OURS if name != "members")
        with pytest.raises(Conflict, match="needs members") as e:
            capabilities.check_secondary(old, two.a.pool.state, two.a.group())
        assert "upgrade the secondary first" in e.value.hint

    play(scenario, mirrored=False)


def test_the_log_cannot_bring_other_volumes() -> None:
    async def scenario(two: Two) -> None:
        group = two.b.group()
        receiver = Receiver(two.b.pool, group, group.identity)
        there = [RemoteVolume(id, f"v{id}", MIB) for id in group.remote_ids]
        base, cut = group.cut, group.cut + 1
        for others in (there[:1], [*there, RemoteVolume(99, "new", MIB)]):
            with pytest.raises(PeerFault, match="other volumes than there are here"):
                receiver.begin(Begin(base=base, cut=cut, volumes=tuple(others)))
        assert group.incoming is None

    play(scenario)


def test_after_a_switch_the_new_primary_changes_its_group() -> None:
    async def scenario(two: Two) -> None:
        create(two.a, "idx")
        two.a.write("idx", 1, "one")
        change(two.a, add=("idx",))
        work = switch.PlannedSwitch(two.b.pool, two.b.mirrors, GROUP, address=two.b.address)
        await two.b.call(work.run(60))
        with pytest.raises(Conflict, match="at its primary"):
            change(two.a, remove=("idx",))
        create(two.b, "more")
        two.b.write("more", 2, "two")
        change(two.b, add=("more",), remove=("wal",))
        await two.a.wait()
        assert names(two.a) == names(two.b) == ["db", "idx", "more"]
        assert two.a.says("more", 2) == "two"
        assert two.a.says("idx", 1) == "one"
        check(two)

    play(scenario)


@pytest.mark.parametrize("removed", [False, True])
def test_coming_back_after_both_sites_changed_the_group(removed: bool) -> None:
    """`removed`: the old primary also deleted a volume that the new one has as of their cut."""

    async def scenario(two: Two) -> None:
        create(two.a, "both")
        two.a.write("both", 1, "one", count=5)
        change(two.a, add=("both",))
        await two.b.wait()
        two.fabric.cut("a", "b")
        create(two.a, "mine")
        two.a.write("mine", 1, "kept")
        change(two.a, add=("mine",))
        if removed:
            groups.delete_volume(two.a.pool, "both")
        await two.a.call(two.a.pool.flush())
        await two.b.call(failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        create(two.b, "theirs")
        two.b.write("theirs", 2, "new")
        change(two.b, add=("theirs",), remove=("wal",))
        two.b.write("both", 3, "changed")
        two.fabric.heal_all()
        await until(lambda: two.a.group().role == "fenced")
        report = await two.a.call(
            failback.rejoin(two.a.pool, two.a.mirrors, GROUP, source=two.b.address)
        )
        assert report.first_copy is removed
        await two.a.wait()
        check(two)
        assert names(two.a) == ["both", "db", "theirs"]
        assert two.a.says("both", 2) == "one1"
        assert two.a.says("both", 3) == "changed"
        assert two.a.says("mine", 1) == "kept"  # it left, with all that was written
        assert not two.a.pool.state.volumes[two.a.pool.state.names["mine"]].group

    play(scenario)


def test_coming_back_where_a_name_means_something_else() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        change(two.a, remove=("wal",))
        await two.a.call(two.a.pool.flush())
        await two.b.call(failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        two.fabric.heal_all()
        await until(lambda: two.a.group().role == "fenced")
        work = failback.rejoin(two.a.pool, two.a.mirrors, GROUP, source=two.b.address)
        with pytest.raises(Conflict, match="a volume 'wal' in group g; here it is another"):
            await two.a.call(work)

    play(scenario)


def test_who_follows_a_secondary_gets_the_change_from_it() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third(two.b)
        create(two.a, "idx")
        two.a.write("idx", 1, "one")
        change(two.a, add=("idx",), remove=("wal",))
        await two.b.wait()
        await c.wait()
        assert names(c) == names(two.a) == ["db", "idx"]
        assert c.image("idx") == two.a.image("idx")
        assert not c.pool.state.volumes[c.pool.state.names["wal"]].group
        check_pool(c.pool)

    play(scenario)


def look(host: Host) -> dict[str, tuple[int, bytes]]:
    """Size and content of each volume of the group, as the tables have it."""
    state = host.pool.state
    found = (state.volumes[id] for id in host.group().volumes)
    return {
        v.name: (
            v.size,
            digests.of_range(state.forest, state.tables[v.id], 0, len(changes.whole(v.size))),
        )
        for v in found
    }


def watch_cuts(two: Two) -> list[int]:
    """Check at each commit that the secondary is what the primary was at that cut."""
    at: dict[int, dict[str, tuple[int, bytes]]] = {two.a.group().cut: look(two.a)}
    checked: list[int] = []

    def placed(lsn: int, record: object) -> None:
        if isinstance(record, r.CutPlaced):
            at[record.cut] = look(two.a)

    def committed(lsn: int, record: object) -> None:
        if isinstance(record, r.IncomingCommitted):
            checked.append(record.cut)
            assert look(two.b) == at[record.cut]

    for host, watch in ((two.a, placed), (two.b, committed)):
        host.watchers.append(watch)
        host.pool.on_change.append(watch)
    return checked


@pytest.mark.parametrize("seed", range(6))
def test_any_changes_with_power_cuts_at_both_sites(seed: int) -> None:
    """Whatever joins, leaves, is written and breaks off: each commit is one cut of the group."""
    dice = Random(seed)

    async def act(two: Two, free: list[str]) -> None:
        mine = names(two.a)
        match dice.randrange(8):
            case 0 if free:
                change(two.a, add=(free.pop(),))
            case 1 if len(mine) > 1:
                gone = dice.choice(mine)
                change(two.a, remove=(gone,))
                if dice.random() < 0.5:
                    change(two.a, add=(gone,))
                else:
                    two.a.write(gone, 0, "out of the group")
            case 2:
                copies.take(two.a.pool, mine, name=f"c{dice.randrange(1 << 30)}")
            case 3:
                name = f"n{dice.randrange(1 << 30)}"
                create(two.a, name, 2 * MIB)
                two.a.write(name, dice.randrange(500), name)
                free.append(name)
            case 4:
                pool = two.a.pool
                if two.b.pool.identity in two.a.group().sessions:
                    pool.record(r.SessionFellBehind(group=GROUP, peer=two.b.pool.identity))
            case _:
                name = dice.choice(mine)
                two.a.write(name, dice.randrange(500), f"w{dice.random()}", count=5)
                two.a.discard(dice.choice(mine), dice.randrange(300), 70)

    async def scenario(two: Two) -> None:
        free: list[str] = []
        checked = watch_cuts(two)
        for _ in range(12):
            for _ in range(dice.randrange(1, 6)):
                await act(two, free)
            await asyncio.sleep(dice.random())
            match dice.randrange(5):
                case 0:
                    await two.a.call(two.a.pool.flush())
                    await two.a.restart()
                    free = [n for n in free if n in two.a.pool.state.names]
                case 1:
                    await two.b.restart()
                case 2:
                    two.fabric.cut("a", "b")
                    await asyncio.sleep(0.3)
                    two.fabric.heal_all()
                case _:
                    pass
        await two.b.wait()
        check(two)
        assert checked
        for name, copy in two.a.pool.state.copies.items():
            for source, _ in copy.members:
                volume = two.a.pool.state.volumes.get(source)
                export = f"{volume.name}@{name}" if volume is not None else ""
                if export in two.b.pool.state.names:
                    assert two.a.image(export) == two.b.image(export), export

    play(scenario, seed=seed)
