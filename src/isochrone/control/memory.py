"""How much memory a controller may use, and for what.

What grows with use are the tables of volumes, kept as long as they are hot, and what block clients
make us hold: received writes, replies that they do not take. Each gets half. The program itself,
its libraries and the API take some 120 MiB beside that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from isochrone.control.sizes import format_size
from isochrone.errors import InvalidInput
from isochrone.types import GIB, MIB

MEMORY_BYTES: Final = 1 * GIB  # hot tables of 128 GiB, and a thousand clients
MEMORY_BYTES_MIN: Final = 256 * MIB  # half of it holds the largest write, and as much beside it


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The parts of `serve --memory`, in bytes."""

    tables: int
    clients: int

    @property
    def total(self) -> int:
        return self.tables + self.clients


def split_memory(memory: int) -> MemoryPlan:
    """Split what there is. Raises `InvalidInput` where it cannot do."""
    if memory < MEMORY_BYTES_MIN:
        raise InvalidInput(
            f"--memory {format_size(memory)} is too little: a single client may send 64 MiB at"
            " once, and tables need as much as clients",
            hint=f"give at least --memory {MEMORY_BYTES_MIN // MIB}MiB",
        )
    return MemoryPlan(tables=memory - memory // 2, clients=memory // 2)
