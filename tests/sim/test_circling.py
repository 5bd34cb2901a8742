"""Sites whose roles change: seeds, and proof that the checkers see what they must."""

from __future__ import annotations

import pytest

from isochrone.mirror import inventory, orphans
from isochrone.mirror.apply import Receiver
from isochrone.mirror.messages import Data
from isochrone.store import records as r
from isochrone.store import state as applying
from isochrone.store.catalogue import Catalogue, Copy, Group, Place
from isochrone.store.pool import Pool
from tests.sim.seeds import digest, found, totals

SEEDS = 12


def test_seeds() -> None:
    did = totals("circling", range(1, SEEDS + 1))
    # A run in which nothing happens proves nothing.
    for what in ("crashes", "cuts", "pauses", "promotes", "rejoins", "requested", "limits"):
        assert did[what] > 0, what
    assert did["by images"] > SEEDS
    assert did["commits"] > 5 * SEEDS
    assert did["opened"] > SEEDS


def test_the_same_seed_is_the_same_run() -> None:
    assert digest("circling", 4) == digest("circling", 4) != digest("circling", 5)


def test_a_block_that_is_lost_on_the_way_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Receiver.data

    def data(self: Receiver, message: Data) -> None:
        take(self, message)
        if len(message.blocks) > 2:
            shadow = self._shadows.of(message.volume)
            self._pool.stage_discard(shadow, message.blocks[0], 1)
            self._pool.commit()

    monkeypatch.setattr(Receiver, "data", data)
    assert found("circling", "(i)", 12)


def test_two_primaries_of_one_epoch_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    promoted = applying._APPLY[r.Promoted]

    def keep(state: Catalogue, place: Place, record: r.Promoted) -> None:
        promoted(state, place, record)
        state.groups[record.group].epoch = 1
        state.groups[record.group].takeovers = []

    monkeypatch.setitem(applying._APPLY, r.Promoted, keep)
    assert found("circling", "(j)", 12)


def test_changes_that_are_not_told_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "tell", lambda state, group: iter(()))
    assert found("circling", "(i)", 40)


def test_a_copy_that_should_be_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = inventory._copies

    def more(state: Catalogue, group: Group) -> set[str]:
        return everything(state, group) | {f"c{n}" for n in range(200)}

    monkeypatch.setattr(inventory, "_copies", more)
    assert found("circling", "(i)", 40)


def test_what_is_parked_too_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    park = orphans.park

    def late(pool: Pool, group: Group) -> Copy:
        pool.stage_discard(group.volumes[0], 0, 200)
        pool.commit()
        return park(pool, group)

    monkeypatch.setattr(orphans, "park", late)
    assert found("circling", "(l)", 40)
