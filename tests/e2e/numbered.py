"""Numbered dependent writes over several volumes of a real controller, and what is left of them.

Write n goes to volume n modulo their count, to a slot that follows from n, and is sent only after
write n-1 was acknowledged. So any honest image of all volumes is the state after some number.
"""

from __future__ import annotations

import bisect
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from tests.control.process import Nbd

BLOCK: Final = 4096
SLOTS: Final = 256  # of each volume: 1 MiB
SIZE: Final = SLOTS * BLOCK
_RECORD: Final = struct.Struct("<QII")


def place(number: int, volumes: int) -> tuple[int, int]:
    return number % volumes, zlib.crc32(number.to_bytes(8, "little")) % SLOTS


@lru_cache(4 * SLOTS)  # what is written is read and compared again and again
def block(number: int, volumes: int) -> bytes:
    """Different in each 16 bytes, so that a torn or mixed block cannot pass."""
    volume, slot = place(number, volumes)
    rows = (_RECORD.pack(number, volume << 16 | at, slot) for at in range(BLOCK // _RECORD.size))
    return b"".join(rows)


class Writer(threading.Thread):
    """Writes until it is told to stop or the server is gone."""

    def __init__(self, socket: Path, volumes: Sequence[str], first: int = 1) -> None:
        super().__init__(daemon=True)
        self._volumes = [Nbd(str(socket), name) for name in volumes]
        self._enough = threading.Event()
        self.done = first - 1  # newest that was acknowledged
        self.flushed = 0
        self.first = first
        self.acknowledged_ns: list[int] = []  # when, of each write from the first on
        self.error: OSError | None = None  # what ended it, unless it was told to stop

    def run(self) -> None:
        count = len(self._volumes)
        try:
            while not self._enough.is_set():
                number = self.done + 1
                volume, slot = place(number, count)
                self._volumes[volume].write(slot * BLOCK, block(number, count))
                self.acknowledged_ns.append(time.time_ns())
                self.done = number
                if number % 64 == 0:
                    self._volumes[volume].flush()
                    self.flushed = number
        except OSError as e:
            self.error = e

    def done_before(self, stamp: int) -> int:
        """The newest write that was acknowledged before an instant, in ns since 1970."""
        return self.first - 1 + bisect.bisect_left(self.acknowledged_ns, stamp)

    def stop(self) -> None:
        self._enough.set()
        self.join(30)
        for nbd in self._volumes:
            nbd.wire.close()


def standing_at(socket: Path, volumes: Sequence[str]) -> int:
    """The number that these volumes together stand at; fails if there is none."""
    held: dict[tuple[int, int], int] = {}
    for volume, name in enumerate(volumes):
        with Nbd(str(socket), name) as nbd:
            data = nbd.read(0, SIZE)
        for slot in range(SLOTS):
            part = data[slot * BLOCK : (slot + 1) * BLOCK]
            number = _RECORD.unpack_from(part)[0]
            if number:
                assert place(number, len(volumes)) == (volume, slot), f"write {number} is misplaced"
                assert part == block(number, len(volumes)), f"write {number} is torn"
            else:
                assert not any(part), f"{name}: slot {slot} holds what was never written"
            held[volume, slot] = number
    newest = max(held.values())
    expected = dict.fromkeys(held, 0)
    for number in range(1, newest + 1):
        expected[place(number, len(volumes))] = number
    wrong = {
        where: (held[where], expected[where]) for where in held if held[where] != expected[where]
    }
    assert not wrong, f"no prefix: write {newest} is there, but {wrong}"
    return newest
