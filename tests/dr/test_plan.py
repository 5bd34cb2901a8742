"""The plan of a planned switch: stopped after any step, it comes to the same end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest

from isochrone.dr.plan import Seen, Step, next_step
from isochrone.errors import Conflict
from isochrone.mirror.roles import Act, Role, move

WRITABLE = {Role.PRIMARY}


@dataclass(frozen=True)
class World:
    """Two sites as the steps change them; what is written needs a cut to get over."""

    there: Role = Role.PRIMARY
    here: Role = Role.SECONDARY
    there_epoch: int = 1
    here_epoch: int = 1
    there_cut: int = 7
    here_cut: int = 7
    dirty: bool = True
    heir: bool = False

    def seen(self) -> Seen:
        clean = not self.dirty and self.here_cut == self.there_cut
        return Seen(
            self.here, self.here_epoch, self.here_cut,
            self.there, self.there_epoch, self.there_cut, self.heir, clean,
        )  # fmt: skip

    def do(self, step: Step) -> World:
        match step:
            case Step.HOLD:
                return replace(self, there=move(self.there, Act.BEGIN_HANDOVER), heir=True)
            case Step.CATCH_UP:
                cut = self.there_cut + self.dirty
                return replace(self, dirty=False, there_cut=cut, here_cut=cut)
            case Step.YIELD:
                there = move(self.there, Act.YIELD)
                return replace(self, there=there, there_epoch=self.there_epoch + 1)
            case Step.TAKE_OVER:
                here = move(self.here, Act.TAKE_OVER)
                return replace(self, here=here, here_epoch=self.here_epoch + 1)
        raise AssertionError(step)

    def check(self) -> None:
        assert len({self.here, self.there} & WRITABLE) <= 1
        assert not (self.here in WRITABLE and self.there in WRITABLE)
        if self.here is Role.PRIMARY:
            assert not self.dirty, "something was lost"
            assert self.here_cut == self.there_cut


def finish(world: World, most: int = 10) -> World:
    for _ in range(most):
        world.check()
        step = next_step(world.seen())
        if step is Step.DONE:
            return world
        world = world.do(step)
    raise AssertionError("it does not end")


def test_the_whole_way() -> None:
    end = finish(World())
    assert (end.here, end.there) == (Role.PRIMARY, Role.SECONDARY)
    assert end.here_epoch == end.there_epoch == 2


@pytest.mark.parametrize("stop", range(5))
@pytest.mark.parametrize("disturbed", [False, True])
def test_it_may_stop_after_any_step(stop: int, disturbed: bool) -> None:
    world = World()
    for _ in range(stop):
        step = next_step(world.seen())
        if step is not Step.DONE:
            world = world.do(step)
        world.check()
    if disturbed and world.there is Role.HANDING:
        world = replace(world, dirty=True)  # a copy was taken meanwhile: another cut is needed
    end = finish(world)
    assert (end.here, end.there, end.here_epoch) == (Role.PRIMARY, Role.SECONDARY, 2)


@pytest.mark.parametrize("stop", range(3))
def test_until_it_has_yielded_it_can_be_cancelled(stop: int) -> None:
    world = World()
    for _ in range(stop):
        world = world.do(next_step(world.seen()))
    if world.there is Role.HANDING:
        world = replace(world, there=move(world.there, Act.CANCEL_HANDOVER), heir=False)
    assert (world.there, world.here) == (Role.PRIMARY, Role.SECONDARY)
    assert finish(world).here is Role.PRIMARY


def test_what_has_yielded_can_be_taken_back_by_a_promotion() -> None:
    world = World()
    for _ in range(3):
        world = world.do(next_step(world.seen()))
    assert world.there is Role.SECONDARY
    assert move(world.there, Act.TAKE_OVER) is Role.PRIMARY


def test_it_never_makes_two_writable_sites_whatever_is_seen() -> None:
    """Every state of both sites: what is planned is refused, or leaves at most one writable."""
    for here, there, heir, clean, epoch in itertools.product(
        Role, Role, [False, True], [False, True], [1, 2, 3]
    ):
        seen = Seen(here, 1, 7, there, epoch, 7, heir, clean)
        try:
            step = next_step(seen)
        except Conflict:
            continue
        if step is Step.TAKE_OVER:
            assert there not in WRITABLE | {Role.HANDING}
            assert heir
        if step is Step.YIELD:
            assert clean
