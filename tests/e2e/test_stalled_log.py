"""A controller whose log nobody reads: it serves on, and ends in time."""

from __future__ import annotations

import fcntl
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.programs import isochrone

PIPE_BYTES = 4096  # the smallest there is: full after some thirty lines
LOGGED = 300  # lines that nobody takes


@pytest.fixture
def stalled(start: Start, folder: Path) -> Controller:
    """A controller with a volume; what it logs from now on fills a small pipe."""
    controller = start(folder / "s")
    assert controller.process.stderr is not None
    fcntl.fcntl(controller.process.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return controller


def make_it_log(controller: Controller, lines: int) -> None:
    """Each connection that ends without a word is a line of more than a hundred bytes."""
    for _ in range(lines):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(controller.address("link"))


def test_clients_are_served_while_nobody_reads_the_log(stalled: Controller) -> None:
    isochrone(stalled, "volume", "create", "v", "1MiB")
    make_it_log(stalled, LOGGED)
    began = time.monotonic()
    with Nbd(stalled.address("nbd"), "v") as nbd:
        for n in range(100):
            nbd.write(4096 * n, bytes([n]) * 4096)
        nbd.flush()
        assert nbd.read(4096 * 7, 4096) == bytes([7]) * 4096
    make_it_log(stalled, LOGGED)
    with Nbd(stalled.address("nbd"), "v") as nbd:
        assert nbd.read(4096 * 9, 4096) == bytes([9]) * 4096
    assert time.monotonic() - began < 10
    code, _, err = stalled.end()
    assert code == 0
    # It was not too much to keep: all of it is there once somebody reads.
    assert err.count("connection ended") == 2 * LOGGED
    assert "stopping" in err


def test_a_stop_does_not_wait_for_ever_for_a_reader(stalled: Controller) -> None:
    make_it_log(stalled, LOGGED)
    began = time.monotonic()
    stalled.process.send_signal(signal.SIGTERM)
    assert stalled.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 15
