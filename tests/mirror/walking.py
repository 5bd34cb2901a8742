"""What every table of states promises, walked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

import pytest

from isochrone.errors import Conflict

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
Moves = Mapping[S, Mapping[E, S]]


def reachable(moves: Moves[S, E], start: S) -> set[S]:
    found, todo = {start}, [start]
    while todo:
        for state in moves[todo.pop()].values():
            if state not in found:
                found.add(state)
                todo.append(state)
    return found


def check_whole(moves: Moves[S, E], start: S, events: type[E]) -> None:
    """Every state has a row and is reached, and every event moves something."""
    assert set(moves) == set(type(start)) == reachable(moves, start)
    assert {event for row in moves.values() for event in row} == set(events)


def check_move(moves: Moves[S, E], move: Callable[[S, E], S], events: type[E]) -> None:
    """A move is what the table says, and where it says nothing, refused with both names."""
    for state, row in moves.items():
        for event in events:
            if event in row:
                assert move(state, event) is row[event]
                continue
            with pytest.raises(Conflict) as e:
                move(state, event)
            assert state.value in e.value.message
            assert event.value in e.value.message
