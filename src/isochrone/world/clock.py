"""Time. The wall clock only labels; the monotonic clock measures; order comes from the log."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def wall_ns(self) -> int:
        """Nanoseconds since 1970, for labels that people read. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some instant; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
