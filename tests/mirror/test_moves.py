"""A move of a table, and one that it does not have."""

from __future__ import annotations

from enum import Enum

import pytest

from isochrone.errors import Conflict
from isochrone.mirror.moves import moved


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"


class Push(Enum):
    HARD = "pushed hard"
    SOFT = "pushed softly"


MOVES = {Door.OPEN: {Push.HARD: Door.SHUT, Push.SOFT: Door.OPEN}, Door.SHUT: {Push.HARD: Door.OPEN}}


def test_a_move_of_the_table() -> None:
    assert moved(MOVES, Door.OPEN, Push.HARD, "{} {}") is Door.SHUT
    assert moved(MOVES, Door.OPEN, Push.SOFT, "{} {}") is Door.OPEN


def test_what_is_not_in_the_table_is_refused_with_both_names() -> None:
    with pytest.raises(Conflict) as e:
        moved(MOVES, Door.SHUT, Push.SOFT, "a door that is {} cannot be {}")
    assert e.value.message == "a door that is shut cannot be pushed softly"


def test_a_state_without_a_row_has_no_moves() -> None:
    with pytest.raises(Conflict, match="open not"):
        moved({}, Door.OPEN, Push.HARD, "{} not")
