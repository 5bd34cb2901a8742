"""Groups are made of plain volumes, all or nothing."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror import groups
from isochrone.mirror.messages import GROUP_VOLUMES_MAX
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.types import MIB
from tests.mirror.sites import Two, play


def in_a_pool(act) -> None:
    async def scenario(two: Two) -> None:
        for name in ("a", "b", "c"):
            volumes.create(two.a.pool, name, MIB)
        copies.take(two.a.pool, ["a"], name="c1", writable=True)
        lsn = two.a.pool.log.lsn
        if await act(two):
            assert two.a.pool.log.lsn == lsn, "a refusal left a record"
            assert not two.a.pool.state.groups

    play(scenario, made=False)


def test_a_group_is_born_with_a_history_of_its_own() -> None:
    async def act(two: Two) -> None:
        one = groups.create(two.a.pool, "g", ["a", "b"])
        other = groups.create(two.a.pool, "h", ["c"])
        assert groups.find_group(two.a.pool, "g") is one
        assert (one.role, one.epoch, one.cut, one.writable) == ("primary", 1, 0, True)
        assert one.lineage != other.lineage
        assert len(one.lineage) == 32
        names = [two.a.pool.state.volumes[id].name for id in one.volumes]
        assert names == ["a", "b"]
        await two.a.restart(power=False)
        assert two.a.group() == one

    in_a_pool(act)


def test_deleting_a_group_leaves_its_volumes() -> None:
    async def act(two: Two) -> None:
        groups.create(two.a.pool, "g", ["a", "b"])
        groups.delete(two.a.pool, "g")
        assert not two.a.pool.state.groups
        volumes.delete(two.a.pool, "b")
        groups.create(two.a.pool, "g", ["a"])
        with pytest.raises(NotFound):
            groups.delete(two.a.pool, "h")

    async def secondary(two: Two) -> None:
        with pytest.raises(Conflict) as e:
            groups.delete(two.b.pool, "g")
        assert "mirror remove g" in e.value.hint

    in_a_pool(act)
    play(secondary)


@pytest.mark.parametrize(
    ("name", "members", "error", "words"),
    [
        ("g@1", ["a"], InvalidInput, "g@1"),
        ("", ["a"], InvalidInput, "name"),
        ("g", [], InvalidInput, "needs volumes"),
        ("g", ["a", "a"], InvalidInput, "once"),
        ("g", ["v"] * 2000, InvalidInput, "once"),
        ("g", [f"v{n}" for n in range(GROUP_VOLUMES_MAX + 1)], InvalidInput, "at most 1024"),
        ("g", ["a", "nobody"], NotFound, "nobody"),
        ("g", ["a@c1"], Conflict, "copy 'c1'"),
    ],
)
def test_refusals_change_nothing(name: str, members: list[str], error, words: str) -> None:
    async def act(two: Two) -> bool:
        with pytest.raises(error, match=words):
            groups.create(two.a.pool, name, members)
        return True

    in_a_pool(act)


def test_a_volume_is_in_one_group_and_a_name_is_used_once() -> None:
    async def act(two: Two) -> None:
        groups.create(two.a.pool, "g", ["a"])
        with pytest.raises(Conflict, match="'a' belongs to the group 'g'"):
            groups.create(two.a.pool, "h", ["b", "a"])
        assert not two.a.pool.state.volumes[two.a.pool.state.names["b"]].group
        with pytest.raises(Conflict, match="'g' already"):
            groups.create(two.a.pool, "g", ["c"])
        with pytest.raises(NotFound, match="'h'"):
            groups.find_group(two.a.pool, "h")

    in_a_pool(act)


# -- other volumes


def test_a_change_of_volumes_is_one_record_and_outlives_the_process() -> None:
    async def act(two: Two) -> None:
        pool = two.a.pool
        group = groups.create(pool, "g", ["a", "b"])
        lsn = pool.log.lsn
        groups.change(pool, "g", ["c"], ["a"])
        assert pool.log.lsn == lsn + 1
        assert groups.members(pool, "g") == ["b", "c"]
        groups.create(pool, "h", ["a"])
        await two.a.restart(power=False)
        assert two.a.group() == group
        groups.delete_volume(two.a.pool, "c")
        assert groups.members(two.a.pool, "g") == ["b"]
        assert "c" not in two.a.pool.state.names

    in_a_pool(act)


@pytest.mark.parametrize(
    ("add", "remove", "error", "words"),
    [
        ([], [], InvalidInput, "name volumes"),
        (["c", "c"], [], InvalidInput, "once"),
        ([], ["a", "a"], InvalidInput, "once"),
        (["a"], [], Conflict, "belongs to the group 'g' already"),
        (["a@c1"], [], Conflict, "copy 'c1'"),
        (["c", "nobody"], [], NotFound, "nobody"),
        (["c"], ["nobody"], NotFound, "nobody"),
        ([], ["c"], Conflict, "'c' is not in the group 'g'"),
        ([], ["a", "b"], Conflict, "nothing would be left"),
        ([f"v{n}" for n in range(GROUP_VOLUMES_MAX + 1)], [], InvalidInput, "at most 1024"),
    ],
)
def test_a_refused_change_changes_nothing(add, remove, error, words: str) -> None:
    async def act(two: Two) -> None:
        pool = two.a.pool
        groups.create(pool, "g", ["a", "b"])
        lsn = pool.log.lsn
        with pytest.raises(error, match=words):
            groups.change(pool, "g", add, remove)
        assert pool.log.lsn == lsn

    in_a_pool(act)


def test_volumes_are_chosen_where_the_group_is_written() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="secondary here: its volumes are chosen at its primary"):
            groups.change(two.b.pool, "g", [], ["db"])
        with pytest.raises(Conflict, match="belongs to the group 'g'"):
            groups.delete_volume(two.b.pool, "db")
        two.a.pool.record(r.HandoverBegun(group="g", peer=two.b.pool.identity, stamp=1))
        for refused in (
            lambda: groups.change(two.a.pool, "g", [], ["db"]),
            lambda: groups.delete_volume(two.a.pool, "db"),
        ):
            with pytest.raises(Conflict, match="being handed over") as e:
                refused()
            assert "group switch g --cancel" in e.value.hint

    play(scenario)


def test_a_copy_that_is_on_its_way_needs_its_volumes() -> None:
    async def scenario(two: Two) -> None:
        pool = two.a.pool
        ids = (pool.state.names["wal"],)
        peer = two.b.pool.identity
        pool.record(
            r.CopyRequested(
                group="g", request="op", name="", volumes=ids, sites=(peer,), stamp=1, seconds=60.0
            )
        )
        with pytest.raises(Conflict, match="is on its way") as e:
            groups.change(pool, "g", [], ["wal"])
        assert "its id is op" in e.value.hint

    play(scenario)
