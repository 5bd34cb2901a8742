"""The states of a request: every one is reached, none is a trap, and each look is explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isochrone.errors import Conflict
from isochrone.mirror.matched import FINAL, MOVES, At, Event, Seen, look, move, to_ask
from isochrone.store.apply_matched import FINISHED
from tests.mirror.walking import check_move, check_whole


def test_every_state_is_reached_and_has_an_end() -> None:
    check_whole(MOVES, At.NEW, Event)
    for state in At:
        assert state in FINAL or Event.LATE in MOVES[state], "the deadline ends everything"


def test_the_store_knows_the_same_ends() -> None:
    assert set(FINISHED) == FINAL


def test_what_is_not_in_the_table_is_refused() -> None:
    check_move(MOVES, move, Event)
    with pytest.raises(Conflict, match="DONE cannot be late"):
        move(At.DONE, Event.LATE)


SEEN = Seen(At.LOCAL_DONE, follows=True, keeps_log=True, late=False)


@pytest.mark.parametrize(
    ("seen", "event"),
    [
        (SEEN, None),
        (replace(SEEN, cut_behind=5, placed=4), None),
        (replace(SEEN, cut_behind=5, placed=5), Event.PLACED),
        (replace(SEEN, late=True), Event.LATE),
        (replace(SEEN, keeps_log=False), Event.DROPPED),
        (replace(SEEN, follows=False, late=True), Event.DROPPED),
        # The log is not needed any more for what has arrived.
        (replace(SEEN, state=At.SENT, keeps_log=False, cut_behind=5, acked=5), None),
        (replace(SEEN, state=At.SENT, keeps_log=False, cut_behind=5, acked=4), Event.DROPPED),
        (replace(SEEN, state=At.NEW, keeps_log=False), None),
        (replace(SEEN, state=At.NEW, late=True), Event.LATE),
        (replace(SEEN, state=At.ARMED, keeps_log=False), Event.DROPPED),
        (replace(SEEN, overtaken=True, late=True), Event.OVERTAKEN),
        (replace(SEEN, state=At.ARMED, overtaken=True, follows=False), Event.OVERTAKEN),
        (replace(SEEN, state=At.NEW, overtaken=True), Event.DROPPED),
        (replace(SEEN, state=At.OVERTAKEN, overtaken=True, follows=False), None),
        (replace(SEEN, state=At.OVERTAKEN, overtaken=True, late=True), Event.LATE),
        # It is the primary again, and nobody else was.
        (replace(SEEN, state=At.OVERTAKEN, follows=False), None),
        (replace(SEEN, state=At.OVERTAKEN, keeps_log=False), Event.DROPPED),
        # Others that followed the old primary may yet come.
        (replace(SEEN, state=At.SENT, follows=False, inherited=True), None),
        (replace(SEEN, state=At.SENT, follows=False, inherited=True, late=True), Event.LATE),
        *((replace(SEEN, state=state, late=True, follows=False), None) for state in FINAL),
    ],
)
def test_what_happens_by_itself(seen: Seen, event: Event | None) -> None:
    found = look(seen)
    assert (found and found[0]) == event
    if event is not None:
        move(seen.state, event)


def test_who_can_be_asked() -> None:
    sent = replace(SEEN, state=At.SENT, cut_behind=5, acked=5)
    assert to_ask(sent, withdraw=False)
    assert to_ask(replace(sent, state=At.ARMED), withdraw=False)
    assert to_ask(replace(sent, state=At.OVERTAKEN), withdraw=False)
    assert not to_ask(replace(sent, acked=4), withdraw=False)
    assert not to_ask(replace(sent, cut_behind=0), withdraw=False)
    assert not to_ask(replace(sent, state=At.EXPIRED), withdraw=False)
    assert to_ask(replace(sent, state=At.EXPIRED), withdraw=True)
    assert not to_ask(replace(sent, follows=False), withdraw=True)
