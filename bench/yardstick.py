"""What cleaning must cost at the least that is known: a formula, and a small simulator.

Uniform random overwriting has a known answer. A segment is cleaned when it is the emptiest; by then
a share `e` of it still lives, and `e = exp(-(1 - e) / u)` where `u` is the living share of the disk
(Rosenblum and Ousterhout, "The design and implementation of a log-structured file system", 1992;
Desnoyers, "Analytic models of SSD write performance", 2014, who gives the same as a Lambert W, and
shows that greedy cleaning comes to it for large segments). Each cleaning gains `1 - e`, so one
block written is `1 / (1 - e)` blocks appended. For skewed writes there is the simulator, which has
no batches, no checkpoints, no other threads, and knows all at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Final

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[int], NDArray[np.int64]]  # so many blocks to be overwritten
FREE_MIN: Final = 2  # segments; one to be filled and one to move into


def formula(fill: float) -> float:
    """Appended over written, for uniform overwriting of a disk that is so full of living blocks."""
    if not 0 < fill < 1:
        raise ValueError(fill)
    share = 0.0
    for _ in range(10_000):
        share = exp(-(1 - share) / fill)
    return 1 / (1 - share)


def uniform(dice: np.random.Generator, blocks: int) -> Draw:
    return lambda count: dice.integers(0, blocks, count)


def hot_and_cold(dice: np.random.Generator, blocks: int) -> Draw:
    """Nine of ten writes go to a tenth of the blocks."""
    hot = blocks // 10

    def draw(count: int) -> NDArray[np.int64]:
        cold = dice.integers(hot, blocks, count)
        return np.where(dice.random(count) < 0.9, dice.integers(0, hot, count), cold)

    return draw


class Simulator:
    """Segments and blocks, and nothing else."""

    def __init__(self, segments: int, slots: int, blocks: int, *, aged: bool) -> None:
        if blocks > (segments - FREE_MIN - 1) * slots:
            raise ValueError("more blocks than room")
        self._slots = slots
        self._aged = aged
        self._owner = np.full((segments, slots), -1, np.int64)  # block that was written there
        self._live = np.zeros(segments, np.int64)
        self._filled = np.zeros(segments, np.int64)  # when
        self._where = np.full(blocks, -1, np.int64)  # segment * slots + slot
        self._free = list(range(segments))
        self._now = 0
        self._open: list[int] = []  # blocks of the segment that is being filled
        self.appended = self.written = 0

    def write(self, blocks: NDArray[np.int64]) -> None:
        self.written += len(blocks)
        for block in blocks.tolist():
            self._append(block)

    def _append(self, block: int) -> None:
        self._open.append(block)
        if len(self._open) < self._slots:
            return
        filled, self._open = np.array(self._open), []
        self._place(filled)
        while len(self._free) < FREE_MIN:
            self._clean()

    def _place(self, blocks: NDArray[np.int64]) -> None:
        """Fill a segment. Of a block that comes twice the later one lives."""
        segment = self._free.pop()
        self.appended += len(blocks)
        self._now += len(blocks)
        old = self._where[blocks]
        for at in np.unique(old[old >= 0]).tolist():
            self._live[at // self._slots] -= 1
            self._owner[at // self._slots, at % self._slots] = -1
        self._owner[segment] = -1
        self._where[blocks] = segment * self._slots + np.arange(len(blocks))
        last = self._where[blocks] == segment * self._slots + np.arange(len(blocks))
        self._owner[segment, : len(blocks)] = np.where(last, blocks, -1)
        self._live[segment] = int(last.sum())
        self._filled[segment] = self._now

    def _clean(self) -> None:
        """Empty the worthiest segment into the open one."""
        share = self._live / self._slots
        if self._aged:
            worth = (1 - share) * (1 + self._now - self._filled) / (1 + share)
        else:
            worth = 1 - share
        worth[self._free] = -1
        victim = int(worth.argmax())
        moved = self._owner[victim]
        moved = moved[moved >= 0]
        self._owner[victim] = -1
        self._live[victim] = 0
        self._where[moved] = -1
        self._free.append(victim)
        for block in moved.tolist():
            self._open.append(block)
            if len(self._open) == self._slots:
                filled, self._open = np.array(self._open), []
                self._place(filled)


def simulated(
    segments: int, slots: int, blocks: int, draw: Draw, *, aged: bool, warm: int, measured: int
) -> float:
    """Appended over written, after a fill in order and some warming up."""
    simulator = Simulator(segments, slots, blocks, aged=aged)
    simulator.write(np.arange(blocks))
    simulator.write(draw(warm))
    appended, written = simulator.appended, simulator.written
    simulator.write(draw(measured))
    return (simulator.appended - appended) / (simulator.written - written)
