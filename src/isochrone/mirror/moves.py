"""A state machine is a table: state -> event -> the state after it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from isochrone.errors import Conflict

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def moved(moves: Mapping[S, Mapping[E, S]], state: S, event: E, refusal: str) -> S:
    """The state after an event.

    Raises `Conflict` where the table has no entry. Its words have room for two values: that of the
    state and that of the event.
    """
    try:
        return moves[state][event]
    except KeyError:
        raise Conflict(refusal.format(state.value, event.value)) from None
