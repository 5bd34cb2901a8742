"""Where frames wait for their turn: a budget, the clock, and whoever has to be told meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from isochrone.mirror.bandwidth import UNLIMITED, Budget, Limit, Urgency, parse_limit, rate_at
from isochrone.world.clock import Clock

LOOK_S: Final = 1.0  # between looks at the wall clock; also how soon a new limit is felt


class Valve:
    """The budget of one peer, over all its connections."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rules: Limit = ()
        self._looked_at = -1e9
        self.budget = Budget(clock.monotonic())
        self.waited_s = 0.0  # by frames, ever

    def set_rules(self, text: str) -> None:
        """Raises `InvalidInput`. Empty: unlimited."""
        self._rules = parse_limit(text) if text else ()
        self._looked_at = -1e9

    @property
    def rate(self) -> int:
        """Bytes a second that hold now; 0: unlimited."""
        self._look()
        return self.budget.rate

    async def enter(
        self, urgency: Urgency, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Wait until something may go. `meanwhile` is called once a second of waiting.

        What it was in bytes, once it is packed, is paid by `budget.pay`.
        """
        self._look()
        if self.budget.rate == UNLIMITED and not self.budget.waiting:
            return
        ticket = self.budget.ask(urgency, self._clock.monotonic())
        told = began = self._clock.monotonic()
        try:
            while seconds := self.budget.wait(ticket, self._clock.monotonic()):
                await self._clock.sleep(min(seconds, LOOK_S))
                self._look()
                if meanwhile is not None and self._clock.monotonic() - told >= LOOK_S:
                    told = self._clock.monotonic()
                    await meanwhile()
        finally:
            self.budget.give_up(ticket)
            self.waited_s += self._clock.monotonic() - began

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            rate = rate_at(self._rules, self._clock.wall_ns())
            if rate != self.budget.rate:
                self.budget.set_rate(rate, now)
