"""Bounds over all connections, without connections."""

from __future__ import annotations

from isochrone.nbd.limits import LINES_AT_ONCE, OWN_BYTES, STALL_S, Budget, Lines
from isochrone.types import MIB


def test_it_gets_tight_and_relaxes_with_a_margin() -> None:
    budget: Budget[str] = Budget(8 * MIB)
    assert not budget.weigh("a", 5 * MIB)
    assert budget.weigh("b", 4 * MIB)
    assert budget.tight
    assert not budget.weigh("b", 3 * MIB)  # just at the budget: no flutter
    assert budget.tight
    assert budget.weigh("b", 0)
    assert (budget.tight, budget.used) == (False, 5 * MIB)


def test_only_large_holders_are_named_the_largest_first() -> None:
    budget: Budget[str] = Budget(MIB)
    budget.weigh("quiet", OWN_BYTES)
    budget.weigh("large", OWN_BYTES + 1)
    budget.weigh("larger", MIB)
    assert budget.large() == ["larger", "large"]
    assert not budget.is_large("quiet")
    assert not budget.is_large("unknown")


def test_who_does_not_come_down_has_to_go() -> None:
    budget: Budget[str] = Budget(8 * MIB)
    budget.weigh("dead", 6 * MIB)
    budget.weigh("slow", 4 * MIB)
    assert budget.stalled(0.0) == []
    budget.weigh("slow", 3 * MIB)
    assert budget.stalled(STALL_S - 1) == []
    assert budget.stalled(STALL_S) == ["dead"]
    assert budget.forget("dead")
    assert not budget.tight


def test_no_more_go_than_needed() -> None:
    budget: Budget[int] = Budget(8 * MIB)
    for client in range(9):
        budget.weigh(client, MIB)
    assert budget.stalled(0.0) == []
    assert len(budget.stalled(STALL_S)) == 3  # down to three quarters


def test_a_client_that_went_small_starts_anew() -> None:
    budget: Budget[str] = Budget(MIB)
    budget.weigh("a", 2 * MIB)
    assert budget.stalled(0.0) == []
    budget.weigh("b", 2 * MIB)
    budget.weigh("a", 0)
    assert budget.stalled(STALL_S / 2) == []
    budget.weigh("a", 2 * MIB)
    assert budget.stalled(STALL_S) == []
    assert budget.stalled(STALL_S * 1.5) == ["b"]


def test_lines_are_counted_when_they_are_not_said() -> None:
    lines = Lines()
    said = [lines.take(100.0) for _ in range(LINES_AT_ONCE + 7)]
    assert said == [0] * LINES_AT_ONCE + [None] * 7
    assert lines.take(103.0) == 7
    assert lines.take(103.0) is None
    assert [lines.take(9999.0) for _ in range(LINES_AT_ONCE)] == [1] + [0] * (LINES_AT_ONCE - 1)
    assert lines.take(9999.0) is None
