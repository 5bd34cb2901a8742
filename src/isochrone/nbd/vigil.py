"""Staying awake for a moment after a turn, for clients that wait for each answer before the next.

A loop with nothing to do sleeps in the kernel, and the processor under it goes idle. To wake both
takes longer than to serve a small request, and at depth 1 every request would pay it. So after
small turns the loop looks for the next request a little longer before it sleeps, as qemu's
iothreads and the kernel's halt polling do. Bounds, so that this costs nobody else anything:

- Only while requests follow closely, each within QUICK_S of the answer before it, and only if it
  paid to look lately: each time in vain doubles how many such requests in a row it takes to look
  again, each success takes one off. A client that stops costs QUICK_S once; an idle one nothing.
- Only after a row of turns of one small request: in larger ones much shares one waking, and to be
  early for a client with many requests under way would make its turns smaller.
- Not while others want the processor: whoever looks uses up its share, and is put off when it has
  work to do. Being put off while looking counts as often in vain.
- Not while a thread of ours works: it would wait for the interpreter's lock.
- Not where there is only one processor: the client needs it.
- Every look is a round of the loop that does not wait: timers and other sockets are served as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from isochrone.types import KIB
from isochrone.world.clock import Clock
from isochrone.world.work import Work

QUICK_S: Final = 100e-6  # a client takes 20 to 60 to read an answer and ask on; qemu polls for 32
FEW_REQUESTS: Final = 1  # in one turn
SMALL_BYTES: Final = 64 * KIB  # of them together; more takes longer to move than to wake up
PUT_OFF_S: Final = 500e-6  # between two looks; alone they are 2 apart
NEEDED_LEAST: Final = 8  # a client that has many requests under way sends one alone at times
NEEDED_MOST: Final = 64  # some milliseconds of a quick client; an interfering task runs as long


class Vigil:
    """Whether the loop should look again instead of going to sleep."""

    def __init__(self, clock: Clock, work: Work, processors: int) -> None:
        self._now = clock.monotonic
        self._work = work
        self._possible = processors > 1
        self._answered_s = -inf  # when the last turn ended
        self._looked_s = -inf  # when we looked last
        self._looking = False
        self._small = False  # whether the last turn was
        self._close = 0  # turns in a row that came soon after the one before
        self._needed = NEEDED_LEAST  # of them, to look again

    def turn_begins(self, lengths: Sequence[int]) -> None:
        """With the lengths of its requests; none of them if it only goes on with earlier ones."""
        now = self._now()
        self._small = 0 < len(lengths) <= FEW_REQUESTS and sum(lengths) <= SMALL_BYTES
        if now - self._answered_s <= QUICK_S:
            self._close = self._close + 1 if self._small else 0
            if self._looking and self._needed > NEEDED_LEAST:
                self._needed -= 1
        else:
            self._close = 0
            if self._looking and now - self._looked_s > PUT_OFF_S:
                self._needed = NEEDED_MOST
        self._looking = False

    def turn_ends(self) -> None:
        self._answered_s = self._looked_s = self._now()

    def begins(self) -> bool:
        """Whether to look again after this turn."""
        likely = self._small and self._close >= self._needed
        self._looking = self._possible and likely and not self._work.running
        return self._looking

    def goes_on(self) -> bool:
        """Whether to look again, when there was nothing."""
        now = self._now()
        if now - self._looked_s > PUT_OFF_S:
            self._needed = NEEDED_MOST
        elif now - self._answered_s > QUICK_S:
            self._needed = min(2 * self._needed, NEEDED_MOST)
        elif not self._work.running:
            self._looked_s = now
            return True
        self._looking = False
        return False
