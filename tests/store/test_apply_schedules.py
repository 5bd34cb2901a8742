"""What records about schedules, labels and holds leave in the catalogue, live and after replay."""

from __future__ import annotations

from isochrone.store import copies, holds, schedules, volumes
from isochrone.store.pool import Pool
from isochrone.types import MIB
from tests.store.pools import Rig, item_id

RULES = "every 5m keep 2, hourly keep 3"


def catalogue(pool: Pool) -> dict[object, object]:
    state = pool.state
    items = [*state.volumes.values(), *state.copies.values(), *state.schedules.values()]
    return {(type(item).__name__, item_id(item)): item for item in items} | {0: state.trusted}


def fill(pool: Pool) -> None:
    volumes.create(pool, "a", MIB, {"tier": "gold"})
    volumes.create(pool, "b", MIB)
    volumes.label(pool, "b", {"tier": "gold", "x": "y"})
    volumes.label(pool, "b", {"z": ""}, ["x"])
    wanted = schedules.Wanted(labels={"tier": "gold"})
    schedule = schedules.put(pool, schedules.draft(pool, "s", RULES, wanted))
    schedules.take(pool, schedule, ["every 5m", "hourly"])
    schedules.take(pool, schedule, ["every 5m"])
    schedules.put(pool, schedules.draft(pool, "gone", RULES, schedules.Wanted(volumes=["a"])))
    schedules.delete(pool, "gone")
    copies.take(pool, ["a"], name="by-hand")
    holds.pin(pool, pool.state.copies["by-hand"], "why")


def test_what_they_leave() -> None:
    pool = Rig().open()
    fill(pool)
    state = pool.state
    assert state.volumes[state.names["b"]].labels == {"tier": "gold", "z": ""}
    schedule = state.schedules["s"]
    first, second, by_hand = sorted(state.copies.values(), key=lambda copy: copy.lsn)
    assert schedule.last == {"hourly": first.stamp, "every 5m": second.stamp}
    assert schedule.last_copy == second.name
    assert (first.schedule, first.rules) == ("s", ["every 5m", "hourly"])
    assert (by_hand.schedule, by_hand.rules, by_hand.pinned) == ("", [], True)
    assert list(state.schedules) == ["s"]


def test_a_changed_schedule_remembers_when_it_was_last() -> None:
    pool = Rig().open()
    fill(pool)
    last = dict(pool.state.schedules["s"].last)
    schedules.put(pool, schedules.draft(pool, "s", "daily keep 1", schedules.Wanted(volumes=["a"])))
    schedule = pool.state.schedules["s"]
    assert (schedule.last, schedule.rules, schedule.labels) == (last, "daily keep 1", {})


def test_replay_and_checkpoint_bring_the_same_back() -> None:
    rig = Rig()
    pool = rig.open()
    fill(pool)
    before = catalogue(pool)
    pool = rig.kill()
    assert catalogue(pool) == before
    pool = rig.reopen(pool)
    assert catalogue(pool) == before
    schedules.delete(pool, "s")
    pool = rig.reopen(pool)
    assert pool.state.schedules == {}
