"""Sites whose roles change: seeds, and proof that the checkers see what they must."""

from __future__ import annotations

from collections import Counter

import pytest

from isochrone.mirror import inventory, orphans
from isochrone.mirror.apply import Receiver
from isochrone.mirror.messages import Data
from isochrone.sim.checkers import Violation
from isochrone.sim.circling import circle_seed
from isochrone.store import records as r
from isochrone.store import state as applying
from isochrone.store.catalogue import Catalogue, Copy, Group, Place
from isochrone.store.pool import Pool

SEEDS = 12


def quiet(line: str) -> None:
    pass


def test_seeds() -> None:
    totals: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        try:
            totals.update(circle_seed(seed, quiet).counts)
        except BaseException:
            print(f"replay: python -m isochrone.sim --circling {seed}")
            raise
    # A run in which nothing happens proves nothing.
    for what in ("crashes", "cuts", "pauses", "promotes", "rejoins", "requested", "limits"):
        assert totals[what] > 0, what
    assert totals["by images"] > SEEDS
    assert totals["commits"] > 5 * SEEDS
    assert totals["opened"] > SEEDS


def test_the_same_seed_is_the_same_run() -> None:
    lines: list[list[str]] = [[], []]
    for each in lines:
        circle_seed(4, each.append)
    assert lines[0] == lines[1]
    assert len(lines[0]) > 10


def found(message: str, seeds: int = 12) -> bool:
    """Whether some of the first seeds ends with such a complaint."""
    for seed in range(1, seeds + 1):
        try:
            circle_seed(seed, quiet)
        except Violation as e:
            if message in str(e):
                return True
        except Exception:  # what the planted fault breaks besides
            continue
    return False


def test_a_block_that_is_lost_on_the_way_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Receiver.data

    def data(self: Receiver, message: Data) -> None:
        take(self, message)
        if len(message.blocks) > 2:
            shadow = self._shadows.of(message.volume)
            self._pool.stage_discard(shadow, message.blocks[0], 1)
            self._pool.commit()

    monkeypatch.setattr(Receiver, "data", data)
    assert found("(i)")


def test_two_primaries_of_one_epoch_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    promoted = applying._APPLY[r.Promoted]

    def keep(state: Catalogue, place: Place, record: r.Promoted) -> None:
        promoted(state, place, record)
        state.groups[record.group].epoch = 1
        state.groups[record.group].takeovers = []

    monkeypatch.setitem(applying._APPLY, r.Promoted, keep)
    assert found("(j)")


def test_changes_that_are_not_told_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "tell", lambda state, group: iter(()))
    assert found("(i)", 40)


def test_a_copy_that_should_be_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = inventory._copies

    def more(state: Catalogue, group: Group) -> set[str]:
        return everything(state, group) | {f"c{n}" for n in range(200)}

    monkeypatch.setattr(inventory, "_copies", more)
    assert found("(i)", 40)


def test_what_is_parked_too_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    park = orphans.park

    def late(pool: Pool, group: Group) -> Copy:
        pool.stage_discard(group.volumes[0], 0, 200)
        pool.commit()
        return park(pool, group)

    monkeypatch.setattr(orphans, "park", late)
    assert found("(l)", 40)
