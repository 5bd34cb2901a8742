"""Real controllers that lose their power: killed, and all that was not synced is gone or torn.

The pool lies on a file system that forgets (`tests/store/forgetful.py`), so segments, the metadata
store and their names are cut alike. A client writes numbered blocks; what it saw flushed must be
there, and what is there must be a prefix of what it wrote.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.programs import isochrone, run
from tests.store.forgetful import Forgetful

CUTS: Final = int(os.environ.get("ISOCHRONE_SERVER_CUTS", "8"))
BLOCK: Final = 4096
SLOTS: Final = 200  # blocks of the volume that are written in turn


class Writer(threading.Thread):
    """Writes block n at n modulo SLOTS, in order, with flushes, until the server is gone."""

    def __init__(self, controller: Controller, first: int, random: Random) -> None:
        super().__init__()
        self._nbd = Nbd(str(controller.directory / "nbd.sock"), "v")
        self._random = random
        self.next = first  # the write that is under way
        self.flushed = 0  # newest that was answered before a flush that was answered
        self.enough = threading.Event()

    def run(self) -> None:
        try:
            with self._nbd as nbd:
                while True:
                    nbd.write(self.next % SLOTS * BLOCK, struct.pack("<Q", self.next) * 512)
                    self.next += 1
                    if self._random.random() < 0.05:
                        nbd.flush()
                        self.flushed = self.next - 1
                        self.enough.set()
        except OSError:
            self.enough.set()


def found(controller: Controller) -> list[int]:
    """The number in each block, 0 for a block of zeros; a mixed block fails."""
    numbers = []
    with Nbd(str(controller.directory / "nbd.sock"), "v") as nbd:
        for at in range(SLOTS):
            data = nbd.read(at * BLOCK, BLOCK)
            assert data == data[:8] * 512, "a block is torn"
            numbers.append(struct.unpack("<Q", data[:8])[0])
    return numbers


def newest(numbers: list[int]) -> int:
    """The last write; all blocks must be as they were right after it."""
    last = max(numbers)
    for at, number in enumerate(numbers):
        expected = last - (last - at) % SLOTS
        assert number == (expected if expected >= SLOTS else 0), f"block {at}: not a prefix"
    return last


@pytest.fixture
def mount(folder: Path) -> Iterator[Forgetful]:
    mount = Forgetful(folder / "pool")
    yield mount
    mount.close()


def test_flushed_data_survives_the_loss_of_power(mount: Forgetful, start: Start) -> None:
    random = Random("power")
    controller = start(mount.path)
    assert controller.ready, controller.wait()
    isochrone(controller, "volume", "create", "v", "1MiB")
    last, lost = SLOTS - 1, 0
    for cut in range(CUTS):
        writer = Writer(controller, last + 1, random)
        writer.start()
        assert writer.enough.wait(20)
        threading.Event().wait(random.random() * 0.4)
        mount.stop()
        controller.end(signal.SIGKILL)
        writer.join(20)
        lost += mount.come_back(f"server {cut}")["sectors"]
        controller = start(mount.path)
        assert controller.ready, controller.wait()
        now = newest(found(controller))
        assert writer.flushed <= now <= writer.next, "flushed writes are lost"
        last = now
    assert lost > 0, "the cuts took nothing"
    assert controller.end()[0] == 0
    told = run(sys.executable, "-m", "isochrone", "check", mount.path)
    assert "no damage" in told
