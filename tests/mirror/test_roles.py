"""The table of roles, and which cuts two histories have in common."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.mirror.roles import (
    MOVES,
    Act,
    Branch,
    Role,
    advice,
    begun_by,
    move,
    role_of,
    same_branch,
    shared_cut,
)
from isochrone.store.catalogue import Group
from isochrone.store.records import Takeover
from isochrone.types import Lineage
from tests.mirror.walking import check_move, check_whole


def test_every_role_can_be_reached_and_left() -> None:
    for role in Role:
        check_whole(MOVES, role, Act)


def test_there_is_one_way_to_become_the_primary_of_another_site() -> None:
    ways = {(role, act) for role, row in MOVES.items() for act, to in row.items()
            if to is Role.PRIMARY}  # fmt: skip
    assert ways == {(Role.SECONDARY, Act.TAKE_OVER), (Role.HANDING, Act.CANCEL_HANDOVER)}


def test_what_has_diverged_can_only_be_brought_to_a_cut() -> None:
    assert set(MOVES[Role.DIVERGED]) == {Act.COMMIT, Act.REJOIN}


def test_the_table_is_all_there_is() -> None:
    check_move(MOVES, move, Act)


@pytest.mark.parametrize(
    ("group", "role", "next_command"),
    [
        (Group(name="g", role="primary"), Role.PRIMARY, ""),
        (Group(name="g", role="primary", handover="p"), Role.HANDING, "switch g"),
        (Group(name="g", role="fenced", cut=3), Role.FENCED, "rejoin g --from"),
        (Group(name="g", role="secondary", cut=3), Role.SECONDARY, ""),
        (Group(name="g", role="secondary"), Role.DIVERGED, ""),
        (Group(name="g", role="secondary", cut=3, diverged=2), Role.DIVERGED, "mirror wait g"),
    ],
)
def test_what_a_site_is_and_what_to_do(group: Group, role: Role, next_command: str) -> None:
    assert role_of(group) is role
    assert next_command in advice(group)
    assert bool(advice(group)) == bool(next_command)
    assert group.writable == (role is Role.PRIMARY)


# -- histories


def branch(epoch: int, *takeovers: tuple[int, int, str], id: str = "x") -> Branch:
    told = tuple(Takeover(*t) for t in takeovers)
    return Branch(Lineage(id, epoch), begun_by(told, epoch), told)


FIRST = branch(1)
SECOND = branch(2, (2, 10, "b"))
THIRD = branch(3, (2, 10, "b"), (3, 25, "a"))
RIVAL = branch(2, (2, 7, "c"))


@pytest.mark.parametrize(
    ("mine", "theirs", "cut", "shared"),
    [
        (FIRST, FIRST, 12, 12),
        (FIRST, SECOND, 12, 10),  # an old primary with a tail
        (FIRST, SECOND, 8, 8),  # another secondary, which was behind
        (FIRST, THIRD, 12, 10),
        (SECOND, THIRD, 30, 25),
        (SECOND, THIRD, 20, 20),
        (RIVAL, SECOND, 30, 7),  # two sites took one epoch over
        (SECOND, RIVAL, 30, 7),
        (RIVAL, THIRD, 30, 7),
        (THIRD, RIVAL, 30, 7),
        (branch(1, id="y"), SECOND, 12, 0),
        (FIRST, branch(3, (3, 25, "a")), 12, 0),  # the takeover of epoch 2 is forgotten
        (branch(2), branch(2), 5, 5),  # pools of builds that noted no takeovers
        (branch(2), SECOND, 5, 5),
    ],
)
def test_the_newest_cut_in_common(mine: Branch, theirs: Branch, cut: int, shared: int) -> None:
    assert shared_cut(mine, theirs, cut) == shared


def test_two_branches_of_one_epoch() -> None:
    assert same_branch(SECOND, SECOND)
    assert same_branch(SECOND, branch(2))  # nothing is known to be against it
    assert not same_branch(SECOND, RIVAL)
    assert not same_branch(FIRST, SECOND)


class Site:
    """A model: every cut has a name of its own, and a takeover keeps those up to its place."""

    def __init__(self, name: str, cuts: list[str], epoch: int, told: list[Takeover]) -> None:
        self.name, self.cuts, self.epoch, self.told = name, cuts, epoch, told

    def branch(self, kept: int = 64) -> Branch:
        told = tuple(self.told[-kept:])
        return Branch(Lineage("x", self.epoch), begun_by(self.told, self.epoch), told)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9)), max_size=12))
def test_it_is_in_both_histories_and_no_newer_one_is(moves: list[tuple[int, int, int]]) -> None:
    """Sites copy one another's history up to some cut, take over, and go on; in any order."""
    sites = [Site(str(n), ["0/1"], 1, []) for n in range(4)]
    names = 1
    for at, (who, whom, keep) in enumerate(moves):
        site, other = sites[who], sites[whom]
        cut = min(keep, len(other.cuts))
        began = [t for t in other.told if t.cut <= cut] if cut < len(other.cuts) else other.told
        # Who is behind a takeover is still of the epoch before.
        epoch = max((t.epoch for t in began), default=1)
        site.cuts, site.told = other.cuts[:cut], list(began)
        site.epoch = epoch + 1
        site.told.append(Takeover(site.epoch, cut, f"{site.name}.{at}"))
        for _ in range(keep):
            names += 1
            site.cuts.append(f"{site.name}/{names}")
    for one in sites:
        for other in sites:
            found = shared_cut(one.branch(), other.branch(), len(one.cuts))
            both = 0
            while both < min(len(one.cuts), len(other.cuts)) and one.cuts[both] == other.cuts[both]:
                both += 1
            assert min(found, len(other.cuts)) == both
            short = shared_cut(one.branch(kept=2), other.branch(kept=2), len(one.cuts))
            assert min(short, len(other.cuts)) in (0, both)  # too little, never too much


def test_a_long_history_is_told_from_some_takeover_on() -> None:
    """Two sites that take over from one another for years each forget the oldest."""
    told = tuple(Takeover(epoch, 10 * epoch, "ab"[epoch % 2]) for epoch in range(2, 90))
    old = Branch(Lineage("x", 88), "a", told[20:-1])
    new = Branch(Lineage("x", 89), "b", told[21:])
    assert shared_cut(old, new, 1000) == shared_cut(new, old, 1000) == 890
    before = Branch(Lineage("x", 15), "b", told[:14])
    assert shared_cut(before, new, 1000) == 0  # nobody remembers what became of it
