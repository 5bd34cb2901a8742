"""Windows of a pool that has received cuts, as `mirror.apply` logs them."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.errors import Conflict, Damaged, InvalidInput
from isochrone.store import copies, holds, windows
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.points import DENSE_S, KEEP_S, POINTS_MAX, SECOND, VERSIONS_MAX, Point
from isochrone.store.windows import Shedding
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, get, pattern, settle


class Replica:
    """A pool that is secondary of a group with the volumes `db` and `wal`."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.pool = rig.open()
        self.pool.record(r.MirrorAdded(group="g", source="there:1"))
        self.commit({0: 1})

    @property
    def group(self) -> Any:
        return self.pool.state.groups["g"]

    @property
    def points(self) -> list[Point]:
        return self.pool.state.windows["g"].points

    def commit(self, blocks: dict[int, int], *, passed: float = 1.0) -> None:
        """A cut that writes patterns to blocks of `db`."""
        pool = self.pool
        clock: Any = pool.world.clock
        clock.now += int(passed * SECOND)
        first, cut = self.group.cut == 0, self.group.cut + 1
        ids = pool.state.new_ids(4)
        local = (ids[0], ids[1]) if first else tuple(self.group.volumes)
        new = tuple(
            r.IncomingVolume(7 + n, name, MIB, local[n], ids[2 + n])
            for n, name in enumerate(("db", "wal"))
        )
        pool.record(
            r.IncomingBegun(group="g", lineage="11" * 16, epoch=1, base=cut - 1, volumes=new)
        )
        for block, n in blocks.items():
            pool.stage_write(ids[2], block, memoryview(pattern(n)))
        pool.commit()
        stamp, kept_at = 1000 * cut, windows.keep(pool, self.group)
        pool.record(r.IncomingCommitted(group="g", cut=cut, stamp=stamp, kept_at=kept_at))

    def open(self, cut: int, name: str, *, writable: bool = False) -> Any:
        point = next(point for point in self.points if point.cut == cut)
        return windows.open_point(self.pool, self.group, point, name=name, writable=writable)

    def clean(self) -> Any:
        return settle(Cleaner(self.pool).round())


@pytest.fixture
def replica() -> Replica:
    return Replica(Rig())


def test_by_default_a_day_is_kept(replica: Replica) -> None:
    window = replica.pool.state.windows["g"]
    assert (window.keep_s, window.dense_s, window.bytes_max) == (KEEP_S, DENSE_S, 0)
    assert [point.cut for point in window.points] == [1]


def test_a_point_is_opened_whole(replica: Replica) -> None:
    for n in range(2, 6):
        replica.commit({0: n, n: n})
    copy = replica.open(3, "then", writable=True)
    pool = replica.pool
    assert get(pool, "db@then", 0, BLOCK) == pattern(3)
    assert get(pool, "db@then", 4 * BLOCK, BLOCK) == bytes(BLOCK)
    assert not any(get(pool, "wal@then"))
    assert (copy.stamp, copy.as_of_cut) == (3000, 3)
    assert get(pool, "db", 0, BLOCK) == pattern(5)
    assert replica.open(5, "").name == "g-as-of-5"
    assert replica.open(5, "").name == "g-as-of-5-2"
    check_pool(pool)


def test_points_are_there_after_each_kind_of_end(replica: Replica) -> None:
    for n in range(2, 12):
        replica.commit({0: n})
        if n % 3 == 0:
            settle(replica.pool.checkpoint())
        if n % 4 == 0:
            settle(replica.pool.flush())
            replica.pool.abandon()
            replica.pool = replica.rig.cut(n)
        if n % 5 == 0:
            replica.clean()
    for n in range(1, 12):
        replica.open(n, f"at-{n}")
        assert get(replica.pool, f"db@at-{n}", 0, BLOCK) == pattern(n)
    replica.pool = replica.rig.reopen(replica.pool)
    for n in range(1, 12):
        assert get(replica.pool, f"db@at-{n}", 0, BLOCK) == pattern(n)
    check_pool(replica.pool)


def test_thinning_drops_the_versions_and_gives_space_back(replica: Replica) -> None:
    many = dict.fromkeys(range(128), 0)
    for n in range(2, 40):
        replica.commit({block: n * 1000 + block for block in many})
    full = replica.clean().live_bytes
    assert full > 38 * 128 * BLOCK
    assert replica.pool.space.history["g"] > 37 * 128 * BLOCK
    windows.set_window(replica.pool, replica.group, 20, 5)
    assert windows.thin_all(replica.pool) > 20
    assert windows.thin_all(replica.pool) == 0
    windows.set_window(replica.pool, replica.group, 0)
    assert replica.clean().live_bytes == 128 * BLOCK
    assert replica.pool.space.history == {}
    assert replica.pool.log.bytes_on_disk < full / 4
    check_pool(replica.pool)


def test_a_copy_as_of_outlives_its_point_and_can_be_held(replica: Replica) -> None:
    replica.commit({0: 2})
    replica.commit({0: 3})
    copy = replica.open(2, "kept")
    holds.pin(replica.pool, copy)
    windows.set_window(replica.pool, replica.group, 0)
    replica.clean()
    assert get(replica.pool, "db@kept", 0, BLOCK) == pattern(2)
    with pytest.raises(Conflict, match="pinned"):
        copies.delete(replica.pool, "kept")


def test_what_is_refused(replica: Replica) -> None:
    pool = replica.pool
    replica.open(1, "one")
    with pytest.raises(Conflict, match="there is a copy"):
        replica.open(1, "one")
    with pytest.raises(InvalidInput, match="longer"):
        windows.set_window(pool, replica.group, 60, 61)
    with pytest.raises(InvalidInput, match="90 days"):
        windows.set_window(pool, replica.group, 91 * 86400)
    pool.record(r.VolumeCreated(id=pool.state.next_id, name="own", size=MIB))
    own = pool.state.names["own"]
    pool.record(r.GroupCreated(name="mine", lineage="22" * 16, volumes=(own,)))
    with pytest.raises(Conflict, match="not mirrored to this controller"):
        windows.set_window(pool, pool.state.groups["mine"], 60)


def test_after_a_promote_hosts_write_and_points_stay(replica: Replica) -> None:
    replica.commit({0: 2})
    replica.pool.record(r.Promoted(group="g", epoch=2, stamp=1))
    db = replica.pool.state.names["db"]
    replica.pool.stage_write(db, 0, memoryview(pattern(99)))
    replica.pool.commit()
    for n in (1, 2):
        replica.open(n, f"at-{n}")
        assert get(replica.pool, f"db@at-{n}", 0, BLOCK) == pattern(n)
    assert get(replica.pool, "db", 0, BLOCK) == pattern(99)
    clock: Any = replica.pool.world.clock
    clock.now += KEEP_S * SECOND
    assert windows.thin_all(replica.pool) == 1  # the other is the first of its minute
    clock.now += 61 * SECOND
    assert windows.thin_all(replica.pool) == 1
    assert replica.points == []
    assert replica.pool.state.versions == {}


def test_a_primary_cannot_flood_a_window(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    assert windows.keep(replica.pool, replica.group) > 0
    monkeypatch.setattr("isochrone.store.points.POINTS_MAX", 1)
    assert windows.keep(replica.pool, replica.group) == 0
    monkeypatch.setattr("isochrone.store.points.POINTS_MAX", POINTS_MAX)
    monkeypatch.setattr("isochrone.store.points.VERSIONS_MAX", 0)
    assert windows.keep(replica.pool, replica.group) == 0
    assert VERSIONS_MAX > 0


def test_no_points_are_kept_while_space_is_tight(replica: Replica) -> None:
    replica.pool.space.tight = True
    replica.commit({0: 2})
    replica.commit({0: 3})
    assert [point.cut for point in replica.points] == [1]
    replica.pool.space.tight = False
    replica.commit({0: 4})
    assert [point.cut for point in replica.points] == [1, 4]
    replica.open(1, "one")
    assert get(replica.pool, "db@one", 0, BLOCK) == pattern(1)


def test_in_a_tight_pool_points_go_before_copies(replica: Replica) -> None:
    pool = replica.pool
    for n in range(2, 10):
        replica.commit({0: n})
    copies.take(pool, ["db"], name="work", expendable=True)
    cleaner = Cleaner(pool)
    pool.space.look = lambda: None  # type: ignore[method-assign]
    pool.space.tight = True
    left = [9]
    while "work" in pool.state.copies:
        cleaner._look()
        cleaner._look()  # nothing more before it was counted
        left.append(len(replica.points))
        pool.space.markings += 1
    assert left == [9, 4, 2, 1, 1]
    assert replica.points[-1].cut == 9


def test_a_window_that_keeps_too_much_becomes_shorter(replica: Replica) -> None:
    pool = replica.pool
    windows.set_window(pool, replica.group, 3600, 600, bytes_max=64 * BLOCK)
    shedding = Shedding(pool)
    for n in range(2, 34):
        replica.commit({block: 100 * n + block for block in range(16)})
    assert shedding.look() == 0  # nobody has counted
    assert shedding.unsure is False
    replica.commit(dict.fromkeys(range(65), 7))
    assert shedding.unsure
    for _ in range(40):
        replica.clean()
        left = len(replica.points)
        if not shedding.look():
            break
        assert shedding.look() == left - len(replica.points)  # once until it is counted again
    assert pool.space.history["g"] <= 64 * BLOCK
    assert replica.points[-1].cut == 34
    assert not shedding.unsure


def test_a_drop_of_very_many_is_several_records(replica: Replica) -> None:
    told: list[Any] = []
    window = replica.pool.state.windows["g"]
    replica.pool.on_change.append(lambda lsn, record: told.append(record))
    windows.drop(replica.pool, window, [Point(10**6 + n, n, 0, 0) for n in range(2500)])
    assert [len(record.lsns) for record in told] == [1024, 1024, 452]


def test_a_check_finds_what_no_window_leads_to(replica: Replica) -> None:
    replica.commit({0: 2})
    check_pool(replica.pool)
    del replica.pool.state.windows["g"]
    with pytest.raises(Damaged, match="kept for points of g, which has none"):
        check_pool(replica.pool)


def test_the_pool_says_what_points_keep(replica: Replica) -> None:
    from isochrone.store.gauge import Gauge

    replica.commit({0: 2, 1: 2})
    replica.commit({0: 3, 1: 3})
    capacity = settle(Gauge(replica.pool).read())
    (share,) = [share for share in capacity.shares if share.holder.kind == "point"]
    assert (share.holder.name, share.own) == ("g", 3 * BLOCK)
    assert (share.provisioned, share.mapped) == (0, 3 * BLOCK)
