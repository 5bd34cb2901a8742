"""The steps of a planned switch, decided from what is seen; nothing here acts or waits.

    step       what it does                                       who may write after it
    HOLD       the primary stops its hosts                        nobody
    CATCH_UP   the secondary takes the last cut                   nobody
    YIELD      the primary becomes a secondary of the other site  nobody
    TAKE_OVER  the secondary begins the next epoch                the new primary
    DONE

It may stop after any step, at either site: what is seen then leads to the next one. Until YIELD it
can be cancelled; after it the old primary can take the group back by a promotion of its own, which
begins yet another epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from isochrone.errors import Conflict
from isochrone.mirror.roles import Role


class Step(Enum):
    HOLD = "hold"
    CATCH_UP = "catch up"
    YIELD = "yield"
    TAKE_OVER = "take over"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Seen:
    """A group at the site that is to take over (here) and at its primary (there)."""

    here: Role
    here_epoch: int
    here_cut: int
    there: Role
    there_epoch: int
    there_cut: int
    heir: bool  # there: this site is to take over, or did
    clean: bool  # there: the cut that is here holds everything


def next_step(seen: Seen) -> Step:
    """What is to be done. Raises `Conflict` where a switch is not the way."""
    if seen.here is Role.PRIMARY:
        if seen.heir and seen.there is not Role.PRIMARY and seen.there_epoch == seen.here_epoch:
            return Step.DONE
        raise Conflict(
            "the group is the primary here already", hint="run it at the site that is to take over"
        )
    if seen.here is not Role.SECONDARY:
        raise Conflict(f"a group that is {seen.here.value} here cannot take over as planned")
    match seen.there:
        case Role.PRIMARY:
            return Step.HOLD
        case Role.HANDING if seen.heir:
            same = seen.clean and seen.here_cut == seen.there_cut
            return Step.YIELD if same else Step.CATCH_UP
        case Role.SECONDARY if seen.heir and seen.there_epoch == seen.here_epoch + 1:
            return Step.TAKE_OVER
    raise Conflict(
        f"the group is {seen.there.value} at the other site, epoch {seen.there_epoch}",
        hint="see there: isochrone group show GROUP",
    )
