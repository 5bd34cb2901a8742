"""The table of session states: walked, and driven by whatever may be so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Conflict
from isochrone.mirror.pairs import Cause, Pair
from isochrone.mirror.sessions import (
    MOVES,
    SUSPENSIONS_KEPT,
    Event,
    Facts,
    SessionState,
    Trail,
    move,
    next_event,
    pair_of,
)
from tests.mirror.walking import check_move, check_whole


def test_every_state_can_be_reached_and_left() -> None:
    check_whole(MOVES, SessionState.NONE, Event)
    assert all(MOVES[state] for state in SessionState)


def test_what_the_table_does_not_have_is_refused() -> None:
    check_move(MOVES, move, Event)
    with pytest.raises(Conflict, match="NONE cannot be caught up"):
        move(SessionState.NONE, Event.CAUGHT_UP)


facts = st.builds(
    Facts,
    known=st.booleans(),
    fenced=st.booleans(),
    suspended=st.booleans(),
    connected=st.booleans(),
    copying=st.booleans(),
)


@given(st.lists(facts, max_size=20))
def test_a_state_follows_the_facts(seen: list[Facts]) -> None:
    """From any state to what is so, by moves of the table, in a few steps."""
    state = SessionState.NONE
    for each in seen:
        steps = 0
        while (event := next_event(state, each)) is not None:
            state = move(state, event)
            steps += 1
            assert steps < 6, "it does not come to rest"
        assert (state is SessionState.NONE) == (not each.known)
        if each.known and each.fenced:
            assert state is SessionState.RECOVERED
        elif each.known:
            assert (state is SessionState.SUSPENDED) == each.suspended
            moving = state in (SessionState.ACTIVE, SessionState.RECOVERY)
            assert moving == (each.connected and not each.suspended)


@pytest.mark.parametrize(
    ("state", "acked", "pair"),
    [
        (SessionState.NONE, 0, Pair.SIMPLEX),
        (SessionState.INACTIVE, 0, Pair.PENDING),
        (SessionState.INACTIVE, 3, Pair.SUSPENDED),
        (SessionState.RECOVERY, 3, Pair.COPYING),
        (SessionState.ACTIVE, 0, Pair.COPYING),
        (SessionState.ACTIVE, 3, Pair.DUPLEX),
        (SessionState.SUSPENDED, 3, Pair.SUSPENDED),
        (SessionState.RECOVERED, 3, Pair.SUSPENDED),
    ],
)
def test_the_pairs_of_a_session(state: SessionState, acked: int, pair: Pair) -> None:
    assert pair_of(state, acked) is pair


def test_a_trail_remembers_suspensions_once_and_not_for_ever() -> None:
    trail = Trail("session", group="g")
    assert trail.current is None
    trail.suspended(Cause.LINK, "down", 10)
    trail.suspended(Cause.LINK, "still down", 20)
    (first,) = trail.suspensions
    assert (first.cause, first.why, first.stamp, first.until) == ("link", "still down", 10, 0)
    trail.suspended(Cause.FENCED, "taken over", 30)
    assert [(s.stamp, s.until) for s in trail.suspensions] == [(10, 30), (30, 0)]
    trail.mended(40)
    trail.mended(50)
    assert trail.current is None
    assert trail.suspensions[-1].until == 40
    for n in range(100, 100 + 2 * SUSPENSIONS_KEPT):
        trail.suspended(Cause.LINK, "down", n)
        trail.mended(n)
    assert len(trail.suspensions) == SUSPENSIONS_KEPT
