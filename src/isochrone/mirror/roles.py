"""What a site is to a group, as a table: who may write, what may happen next, what to do about it.

At most one site of a history is PRIMARY at one epoch and branch. The only ways to become it are a
birth and a takeover, which begins a new epoch; everybody else gets there by giving up what the new
epoch does not hold, and keeps that as a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isochrone.mirror.moves import moved
from isochrone.store.catalogue import Group
from isochrone.store.records import Takeover
from isochrone.types import Lineage


class Role(Enum):
    PRIMARY = "primary"  # hosts may write
    HANDING = "primary, being handed over"  # nobody may write; its secondary is to take over
    FENCED = "fenced"  # another site took over; what was written here is neither sent nor lost
    SECONDARY = "secondary"  # holds a cut of the history it follows
    DIVERGED = "secondary that has diverged"  # holds more or less than that, until a group comes


class Act(Enum):
    BEGIN_HANDOVER = "handed over"
    CANCEL_HANDOVER = "kept after all"
    YIELD = "made a secondary by a planned switch"
    TAKE_OVER = "promoted"
    FENCE = "fenced"
    REJOIN = "joined to its new primary"
    COMMIT = "brought to a cut"


MOVES: Final[dict[Role, dict[Act, Role]]] = {
    Role.PRIMARY: {
        Act.BEGIN_HANDOVER: Role.HANDING,
        Act.FENCE: Role.FENCED,
    },
    Role.HANDING: {
        Act.CANCEL_HANDOVER: Role.PRIMARY,
        Act.YIELD: Role.SECONDARY,
        Act.FENCE: Role.FENCED,
    },
    Role.FENCED: {Act.REJOIN: Role.DIVERGED, Act.FENCE: Role.FENCED},
    Role.SECONDARY: {
        Act.TAKE_OVER: Role.PRIMARY,
        Act.REJOIN: Role.DIVERGED,
        Act.COMMIT: Role.SECONDARY,
    },
    Role.DIVERGED: {Act.COMMIT: Role.SECONDARY, Act.REJOIN: Role.DIVERGED},
}


def role_of(group: Group) -> Role:
    """What this site is to a group now."""
    if group.role == "primary":
        return Role.HANDING if group.handover else Role.PRIMARY
    if group.role == "fenced":
        return Role.FENCED
    return Role.DIVERGED if group.diverged or not group.cut else Role.SECONDARY


def move(role: Role, act: Act) -> Role:
    """The role after an act. Raises `Conflict` where the table has no entry."""
    return moved(MOVES, role, act, "a group that is {} here cannot be {}")


# -- histories


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a site stands in a history: two sites that took one epoch over are two branches."""

    lineage: Lineage
    pool: str = ""  # that began the epoch; empty: the first epoch, or not known
    takeovers: tuple[Takeover, ...] = ()


def branch_of(group: Group) -> Branch:
    return Branch(group.identity, begun_by(group.takeovers, group.epoch), tuple(group.takeovers))


def begun_by(takeovers: Sequence[Takeover], epoch: int) -> str:
    """Identity of the pool that began an epoch; empty if it is not known."""
    return next((t.pool for t in takeovers if t.epoch == epoch), "")


def same_branch(one: Branch, other: Branch) -> bool:
    """Whether both are of one epoch of one history, and of one branch as far as is known."""
    known = bool(one.pool and other.pool)
    return one.lineage == other.lineage and (not known or one.pool == other.pool)


def shared_cut(mine: Branch, theirs: Branch, cut: int) -> int:
    """The newest cut not after `cut` of one history that is also in another one; 0: none is known.

    A cut of an epoch is in a later epoch's history if no takeover between them went back behind
    it. Epochs of which the takeover has been forgotten are not vouched for.
    """
    if mine.lineage.id != theirs.lineage.id:
        return 0
    if same_branch(mine, theirs):
        return cut
    parted = _parted(mine, theirs)
    for branch in (mine, theirs):
        if branch.lineage.epoch > parted:
            left = next((t.cut for t in branch.takeovers if t.epoch == parted + 1), 0)
            cut = min(cut, left)
    return cut


def _parted(mine: Branch, theirs: Branch) -> int:
    """The newest epoch that both have gone through, as far as is known."""
    here = {t.epoch: t.pool for t in mine.takeovers}
    there = {t.epoch: t.pool for t in theirs.takeovers}
    epoch = 1
    # The oldest takeovers are forgotten, and not at all sites at once. Nobody begins an epoch
    # twice: histories with one takeover in common have those before it in common, too.
    first = max(min(here), min(there)) if here and there else 0
    for number in sorted(n for n in here.keys() | there.keys() if n >= first):
        if here.get(number) != there.get(number):
            break
        epoch = number
    return min(epoch, mine.lineage.epoch, theirs.lineage.epoch)


# -- what to do


def advice(group: Group) -> str:
    """The next command, or empty if nothing needs to be done."""
    match role_of(group):
        case Role.HANDING:
            return f"isochrone group switch {group.name} at the other site, or here with --cancel"
        case Role.FENCED:
            return f"isochrone group rejoin {group.name} --from ADDRESS"
        case Role.DIVERGED if not group.takeovers and not group.diverged:
            return ""  # a mirror that was just added
        case Role.DIVERGED:
            return f"isochrone mirror wait {group.name}"
    return ""
