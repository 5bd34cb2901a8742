"""Blocking work beside the loop: sync, checkpoints, hashing. Each releases the interpreter lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Work(Protocol):
    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` off the loop and return its result; its exceptions are raised here."""
        ...


class ThreadWork:
    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work)
