"""Changes gathered in one turn of the loop, to be appended as one batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from isochrone.store.format import BODY, DISCARD, MOVE, WRITE, checksum, checksums, describe
from isochrone.types import BLOCK, MIB, Buffer

STAGE_BYTES_MAX: Final = 16 * MIB  # bounds what a turn holds, and how long its append takes
RECORDS_MAX: Final = 65536  # 1.5 MiB of descriptors


class Stage:
    """Descriptors, checksums and payload of the next batch, and the table updates it stands for."""

    __slots__ = ("blocks", "bodies", "bytes_max", "descriptors", "payload", "sums", "updates")

    def __init__(self, bytes_max: int = STAGE_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.descriptors: list[bytes] = []
        self.sums: array[int] = array("Q")
        self.bodies: list[bytes] = []
        self.payload: list[Buffer] = []
        self.updates: list[tuple[int, int, int, int]] = []  # kind, volume, block, count
        self.blocks = 0

    def __len__(self) -> int:
        return len(self.descriptors)

    @property
    def full(self) -> bool:
        return self.blocks * BLOCK >= self.bytes_max or len(self.descriptors) >= RECORDS_MAX

    def write(self, volume: int, block: int, data: memoryview) -> None:
        """Whole blocks. `data` must stay as it is until the batch is appended."""
        count = len(data) // BLOCK
        if count == 1:
            self.sums.append(checksum(data))
        else:
            self.sums.extend(checksums(data))
        self.descriptors.append(describe(WRITE, volume, block, count, 0))
        self.payload.append(data)
        self.updates.append((WRITE, volume, block, count))
        self.blocks += count

    def write_runs(
        self, volume: int, runs: Sequence[tuple[int, int]], data: memoryview, sums: array[int]
    ) -> None:
        """Runs of blocks, (block, count), one after the other in `data`, with their checksums."""
        self.sums.extend(sums)
        self.descriptors += [describe(WRITE, volume, block, n, 0) for block, n in runs]
        self.payload.append(data)
        self.updates += [(WRITE, volume, block, n) for block, n in runs]
        self.blocks += len(sums)

    def move(self, birth: int, data: memoryview, sums: array[int]) -> None:
        """Blocks born one after the other from `birth` on, to lie here from now on."""
        self.sums.extend(sums)
        self.descriptors.append(describe(MOVE, 0, birth, len(sums), 0))
        self.payload.append(data)
        self.updates.append((MOVE, 0, birth, len(sums)))
        self.blocks += len(sums)

    def discard(self, volume: int, block: int, count: int) -> None:
        self.descriptors.append(describe(DISCARD, volume, block, count, 0))
        self.updates.append((DISCARD, volume, block, count))

    def body(self, body: bytes) -> None:
        self.descriptors.append(describe(BODY, 0, 0, 0, len(body)))
        self.bodies.append(body)
