"""Commands on schedules: what they find, what they refuse, what they prune."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror import groups
from isochrone.store import copies, schedules, volumes
from isochrone.store.pool import Pool
from isochrone.store.schedules import SCHEDULE_NAME_CHARS_MAX, SCHEDULES_MAX, Wanted
from isochrone.types import MIB
from tests.store.pools import Rig, client, get, pattern, put


@pytest.fixture
def pool() -> Pool:
    pool = Rig().open()
    for name in ("a", "b", "c"):
        volumes.create(pool, name, MIB, {"tier": "gold"} if name != "c" else None)
    return pool


def make(pool: Pool, name: str = "s", rules: str = "hourly keep 2", **wanted: object) -> None:
    schedules.put(pool, schedules.draft(pool, name, rules, Wanted(**wanted)))  # type: ignore[arg-type]


def found(pool: Pool, name: str = "s") -> list[str]:
    return [v.name for v in schedules.members(pool, pool.state.schedules[name])]


def test_by_name_by_group_by_label(pool: Pool) -> None:
    groups.create(pool, "g", ["b", "c"])
    make(pool, volumes=["c", "a"])
    assert found(pool) == ["a", "c"]
    make(pool, group="g")
    assert found(pool) == ["b", "c"]
    make(pool, labels={"tier": "gold"})
    assert found(pool) == ["a", "b"]


def test_a_label_finds_new_volumes_and_forgets_others(pool: Pool) -> None:
    make(pool, labels={"tier": "gold"})
    volumes.create(pool, "new", MIB, {"tier": "gold", "x": "y"})
    volumes.label(pool, "a", {"tier": "tin"})
    volumes.delete(pool, "b")
    assert found(pool) == ["new"]
    copies.take(pool, ["new"], name="k", writable=True)
    assert found(pool) == ["new"], "a clone has no labels of its source"


def test_what_is_gone_is_left_out_and_nothing_at_all_is_an_error(pool: Pool) -> None:
    make(pool, volumes=["a", "b"])
    volumes.delete(pool, "a")
    schedule = pool.state.schedules["s"]
    assert [m for m, _ in schedules.take(pool, schedule, ["hourly"]).members] == [
        pool.state.names["b"]
    ]
    volumes.delete(pool, "b")
    lsn = pool.log.lsn
    with pytest.raises(NotFound, match="finds no volume"):
        schedules.take(pool, schedule, ["hourly"])
    assert pool.log.lsn == lsn
    groups.create(pool, "g", ["c"])
    make(pool, group="g")
    groups.delete(pool, "g")
    assert found(pool) == []


def test_one_copy_is_one_instant(pool: Pool) -> None:
    make(pool, labels={"tier": "gold"})
    put(pool, "a", 0, pattern(1))
    put(pool, "b", 0, pattern(2))
    copy = schedules.take(pool, pool.state.schedules["s"], ["hourly"])
    put(pool, "a", 0, pattern(3))
    assert copy.name.startswith("s-2027")
    assert [get(pool, f"{v}@{copy.name}", 0, 4096) for v in "ab"] == [pattern(1), pattern(2)]


def test_what_is_refused(pool: Pool) -> None:
    copies.take(pool, ["a"], name="k")
    lsn = pool.log.lsn
    long = "s" * (SCHEDULE_NAME_CHARS_MAX + 1)
    for error, name, rules, wanted in (
        (InvalidInput, "a@b", "hourly keep 1", Wanted(volumes=["a"])),
        (InvalidInput, long, "hourly keep 1", Wanted(volumes=["a"])),
        (InvalidInput, "s", "hourly", Wanted(volumes=["a"])),
        (InvalidInput, "s", "hourly keep 1", Wanted()),
        (InvalidInput, "s", "hourly keep 1", Wanted(volumes=["a"], group="g")),
        (InvalidInput, "s", "hourly keep 1", Wanted(volumes=["a", "a"])),
        (InvalidInput, "s", "hourly keep 1", Wanted(volumes=["a"] * 5000)),
        (InvalidInput, "s", "hourly keep 1", Wanted(labels={"a b": ""})),
        (NotFound, "s", "hourly keep 1", Wanted(volumes=["no"])),
        (NotFound, "s", "hourly keep 1", Wanted(group="no")),
        (Conflict, "s", "hourly keep 1", Wanted(volumes=["a@k"])),
    ):
        with pytest.raises(error):
            schedules.draft(pool, name, rules, wanted)
    with pytest.raises(NotFound):
        schedules.delete(pool, "no")
    assert pool.log.lsn == lsn
    longest = "s" * SCHEDULE_NAME_CHARS_MAX
    make(pool, longest, volumes=["a"])
    for _ in range(12):  # all in one second: the last has `-12` behind its time
        name = schedules.take(pool, pool.state.schedules[longest], ["hourly"]).name
    assert copies.take(pool, ["b"], name=name[:-1] + "9").name


def test_how_many_there_can_be(pool: Pool) -> None:
    for n in range(SCHEDULES_MAX):
        make(pool, f"s{n}", volumes=["a"])
    with pytest.raises(Conflict, match="at most 1000 schedules"):
        make(pool, "more", volumes=["a"])
    make(pool, "s0", volumes=["b"])


def test_pruning_goes_by_what_is_in_use_and_from_the_oldest(pool: Pool) -> None:
    make(pool, volumes=["a"])
    schedule = pool.state.schedules["s"]
    names = [schedules.take(pool, schedule, ["hourly"]).name for _ in range(6)]
    copies.take(pool, ["a"], name="by-hand")
    open_one = pool.state.copies[names[1]].members[0][1]
    pool.attached.attach(open_one, client())
    gone, refused = schedules.prune(pool, schedule, at_most=1)
    assert (gone, refused) == ([names[0]], {})
    gone, refused = schedules.prune(pool, schedule, at_most=64)
    assert gone == names[2:4]
    assert list(refused) == [names[1]]
    assert "in use by client" in refused[names[1]]
    pool.attached.detach(open_one, client())
    assert schedules.prune(pool, schedule, at_most=64) == ([names[1]], {})
    assert set(pool.state.copies) == {"by-hand", *names[4:]}


def test_a_deleted_schedule_leaves_its_copies_and_a_new_one_takes_them_on(pool: Pool) -> None:
    make(pool, rules="hourly keep 5", volumes=["a"])
    names = [schedules.take(pool, pool.state.schedules["s"], ["hourly"]).name for _ in range(5)]
    schedules.delete(pool, "s")
    assert list(pool.state.copies) == names
    make(pool, rules="hourly keep 2", volumes=["a"])
    assert pool.state.schedules["s"].last == {}
    assert schedules.prune(pool, pool.state.schedules["s"], 64) == (names[:3], {})
