"""Randomness: identities now, jitter later."""

from __future__ import annotations

import random
import secrets
from typing import Protocol


class Dice(Protocol):
    def identity(self) -> str:
        """A new 128-bit identity as 32 hex digits."""
        ...

    def between(self, low: float, high: float) -> float:
        """A number in a range, for jitter."""
        ...


class SystemDice:
    def identity(self) -> str:
        return secrets.token_hex(16)

    def between(self, low: float, high: float) -> float:
        return random.uniform(low, high)
