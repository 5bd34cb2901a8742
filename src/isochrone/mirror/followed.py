"""What is measured of a group that is followed here: how old it was, how fast it comes, how often.

The mover moves; here is looked at it once a second, so that the figures do not depend on when
somebody asks.
"""

from __future__ import annotations

from typing import Final

from isochrone.mirror.history import History, Rate
from isochrone.mirror.mover import Mover
from isochrone.types import BLOCK

FAST_SECONDS: Final = 10.0  # memory of the rate that people see
SLOW_SECONDS: Final = 180.0  # and of the one that an estimate falls back to
RATE_LEAST: Final = 1024.0  # bytes a second; at less, an estimate says nothing


class Followed:
    """The figures of one mover, over its connections."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self.history = History()
        self._fast = Rate(FAST_SECONDS)
        self._slow = Rate(SLOW_SECONDS)
        self.begun = 0  # consistency groups, since the start
        self.committed = 0

    def sample(self, now: float) -> None:
        """Look; `now` is monotonic, in seconds."""
        if self._mover.recovery_point_age >= 0:
            self.history.add(self._mover.recovery_point_age, now)
        payload = self._mover.shipped.blocks * BLOCK
        self._fast.add(payload, now)
        self._slow.add(payload, now)

    @property
    def failed(self) -> int:
        """Consistency groups that were begun and came to nothing."""
        open_now = self._mover.group.incoming is not None
        return max(0, self.begun - self.committed - open_now)

    @property
    def rate(self) -> float:
        """Bytes of blocks a second."""
        return self._fast.value

    @property
    def left(self) -> int:
        """Bytes that are still to come, as far as the primary said; -1 if it did not."""
        mover = self._mover
        if mover.phase and mover.todo_bytes:
            return max(0, mover.todo_bytes - mover.done_bytes)
        return -1 if mover.behind_bytes < 0 else max(0, mover.behind_bytes)

    def eta(self) -> tuple[float, float]:
        """Seconds until all is here, at best and at worst; -1 where nobody can tell."""
        left = self.left
        if left <= 0:
            return (0.0, 0.0) if left == 0 else (-1.0, -1.0)
        fast, slow = self._fast.value, min(self._slow.value, self._fast.value)
        best = left / fast if fast >= RATE_LEAST else -1.0
        worst = left / slow if slow >= RATE_LEAST else -1.0
        return round(best, 1), round(worst, 1)
