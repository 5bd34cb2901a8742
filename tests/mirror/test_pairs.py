"""The table of states: no dead ends, no state that nothing leads to, no move outside it."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, Damaged, NoSpace, PeerFault, StaleEpoch, Unavailable
from isochrone.mirror.pairs import MOVES, Cause, Event, Pair, cause_of, move
from tests.mirror.walking import check_move, check_whole, reachable


def test_every_state_can_be_reached_and_every_event_moves_something() -> None:
    check_whole(MOVES, Pair.SIMPLEX, Event)


def test_every_state_has_a_way_out_and_back() -> None:
    for state in Pair:
        assert set(MOVES[state].values()) - {state}
        assert Pair.SIMPLEX in reachable(MOVES, state)


def test_a_mirror_can_be_lost_and_removed_from_every_state_but_simplex() -> None:
    for state in set(Pair) - {Pair.SIMPLEX}:
        assert move(state, Event.LOST) is Pair.SUSPENDED
        assert move(state, Event.REMOVED) is Pair.SIMPLEX


def test_only_a_complete_cut_makes_a_first_copy_duplex() -> None:
    assert [e for e, to in MOVES[Pair.COPYING].items() if to is Pair.DUPLEX] == [Event.COMMITTED]
    assert Event.COMMITTED not in MOVES[Pair.SUSPENDED]


def test_the_table_is_all_there_is() -> None:
    check_move(MOVES, move, Event)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unavailable("nobody answers"), Cause.LINK),
        (PeerFault("the other side refuses"), Cause.REFUSED),
        (Conflict("another history"), Cause.REFUSED),
        (StaleEpoch("taken over"), Cause.FENCED),
        (NoSpace("full"), Cause.ERROR),
        (Damaged("a node"), Cause.ERROR),
        (AssertionError(), Cause.ERROR),
    ],
)
def test_who_has_to_act(error: BaseException, cause: Cause) -> None:
    assert cause_of(error) is cause
