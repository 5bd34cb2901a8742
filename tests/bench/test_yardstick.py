"""The yardstick of cleaning: formula and simulator are held against one another."""

from __future__ import annotations

import numpy as np
import pytest

from bench import yardstick
from bench.yardstick import Simulator, formula, hot_and_cold, simulated, uniform


# From the same equation in its other form, with Lambert's W.
@pytest.mark.parametrize(("fill", "expected"), [(0.5, 1.255), (0.8, 2.69), (1 / 1.28, 2.47)])
def test_the_formula(fill: float, expected: float) -> None:
    assert formula(fill) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("fill", [0.0, 1.0, 1.5])
def test_no_disk_is_fuller_than_full(fill: float) -> None:
    with pytest.raises(ValueError, match=str(fill)):
        formula(fill)


def run(draw: yardstick.Draw, blocks: int, *, aged: bool) -> float:
    return simulated(200, 64, blocks, draw, aged=aged, warm=40_000, measured=20_000)


def test_greedy_cleaning_comes_to_the_formula() -> None:
    blocks = int(198 * 64 * 0.7)
    found = run(uniform(np.random.default_rng(1), blocks), blocks, aged=False)
    assert found == pytest.approx(formula(0.7), rel=0.08)


def test_age_pays_where_writes_are_skewed() -> None:
    blocks = int(198 * 64 * 0.8)
    greedy, aged = (
        run(hot_and_cold(np.random.default_rng(1), blocks), blocks, aged=aged)
        for aged in (False, True)
    )
    assert 1 < aged < greedy


def test_every_block_lives_exactly_once() -> None:
    simulator = Simulator(20, 8, 100, aged=True)
    dice = np.random.default_rng(3)
    simulator.write(np.arange(100))
    simulator.write(dice.integers(0, 100, 2_000))
    owned = simulator._owner[simulator._owner >= 0].tolist()
    assert len(owned) == len(set(owned))
    assert set(owned) | set(simulator._open) == set(range(100))
    assert simulator._live.tolist() == (simulator._owner >= 0).sum(axis=1).tolist()
    assert simulator.written == 2_100


def test_more_blocks_than_room() -> None:
    with pytest.raises(ValueError, match="room"):
        Simulator(10, 8, 60, aged=False)


def test_hot_blocks_get_nine_of_ten_writes() -> None:
    drawn = hot_and_cold(np.random.default_rng(1), 1_000)(100_000)
    assert 0.89 < (drawn < 100).mean() < 0.91
    assert drawn.max() < 1_000
