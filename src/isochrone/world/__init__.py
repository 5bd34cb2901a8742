"""The only doors to the outside: clock, disk, net and dice.

Everything else in the program gets a `World` handed in and touches nothing else, so the simulation
can put a pretended one in its place.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
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


def system_world(handed: Mapping[str, socket.socket] | None = None) -> World:
    """The real one; `handed` are listening sockets that were opened for us, by address."""
    return World(clock=SystemClock(), net=SystemNet(handed), dice=SystemDice(), work=ThreadWork())
