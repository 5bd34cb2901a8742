"""The only doors to the outside: clock, disk, net and dice.

Everything else in the program gets a `World` handed in and touches nothing else, so the simulation
can put a pretended one in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from isochrone.world.clock import Clock, SystemClock
from isochrone.world.dice import Dice, SystemDice
from isochrone.world.net import Net, SystemNet
from isochrone.world.work import ThreadWork, Work

__all__ = ["World", "system_world"]


@dataclass(frozen=True, slots=True)
class World:
    clock: Clock
    net: Net
    dice: Dice
    work: Work


def system_world() -> World:
    """The real one."""
    return World(clock=SystemClock(), net=SystemNet(), dice=SystemDice(), work=ThreadWork())
