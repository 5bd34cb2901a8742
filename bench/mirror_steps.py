"""Where the processor time of a first copy goes: each step of both ends alone, for a MiB.

The steps are our own functions, one after the other in this process, without a network in between.
Time of the kernel stands apart: on a virtual machine that gives free memory back to its host, new
pages of the page cache may cost ten times as much as on others, and the same machine may have them
at hand a minute later.
"""

from __future__ import annotations

import os
import socket
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mirror_sites import Pair
from yard import RANDOM, Section, median, scratch

from isochrone.mirror.link import Link
from isochrone.mirror.messages import Data
from isochrone.mirror.packing import Packing
from isochrone.mirror.wire import DATA_BLOCKS_MAX
from isochrone.store.format import checksum, checksums
from isochrone.types import BLOCK, MIB

ROUNDS: Final = 5
TIMES: Final = 256  # MiB of one round
BLOCKS: Final = array("Q", range(DATA_BLOCKS_MAX))
assert DATA_BLOCKS_MAX * BLOCK == MIB

Cost = tuple[float, float]  # microseconds of processor time for a MiB: program, kernel


def cost(step: Callable[[int], object], times: int = TIMES) -> Cost:
    """Median over some rounds of a step that takes a MiB at a time."""
    user, kernel = [], []
    for _ in range(ROUNDS):
        began, before = time.process_time(), os.times()
        for n in range(times):
            step(n)
        took, after = time.process_time() - began, os.times()
        inside = min(after.system - before.system, took)  # in ticks, and the sum is exact
        user.append((took - inside) / times * 1e6)
        kernel.append(inside / times * 1e6)
    return median(user), median(kernel)


def files(directory: Path) -> list[tuple[str, Cost]]:
    """What the page cache of this disk costs."""
    path, piece = directory / "steps", memoryview(RANDOM)[:MIB]
    fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def new(n: int) -> None:
        if not n:
            os.ftruncate(fd, 0)
        os.pwritev(fd, [piece], n * MIB)

    def hardened(n: int) -> None:
        new(n)
        if n % 64 == 63:
            os.fdatasync(fd)
            os.posix_fadvise(fd, (n - 63) * MIB, 64 * MIB, os.POSIX_FADV_DONTNEED)

    try:
        found = [
            ("write to new pages of a file", cost(new)),
            ("the same, synced and forgotten each 64 MiB", cost(hardened)),
        ]
        for n in range(TIMES):
            new(n)
        found += [
            ("write over pages that are there", cost(lambda n: os.pwritev(fd, [piece], n * MIB))),
            ("read, from the page cache", cost(lambda n: os.pread(fd, MIB, n * MIB))),
        ]
    finally:
        os.close(fd)
        path.unlink()
    return found


def wire() -> list[tuple[str, Cost]]:
    """Both ends of a socket, in turns: what the kernel takes for a MiB."""
    near, far = socket.socketpair()
    place, piece = memoryview(bytearray(MIB)), memoryview(RANDOM)[: 64 << 10]

    def both(n: int) -> None:
        for _ in range(MIB // len(piece)):
            near.sendall(piece)
            far.recv_into(place, len(piece), socket.MSG_WAITALL)

    with near, far:
        return [("send and receive, both ends", cost(both))]


def ours() -> list[tuple[str, Cost]]:
    """The functions of the link and of the log."""
    payload = RANDOM[:MIB]
    sums = array("Q", checksums(payload))
    data = Data(1, BLOCKS, sums, payload)
    sender, receiver, packing = Link(), Link(), Packing()

    def through(n: int) -> None:
        done = None
        for piece in map(memoryview, sender.send(data)):
            while piece:
                room = receiver.room()[: len(piece)]
                room[:] = piece[: len(room)]
                receiver.filled(len(room))
                piece = piece[len(room) :]
                done = receiver.next()
        assert done is not None

    return [
        ("checksum of a frame (each end)", cost(lambda n: checksum(payload))),
        ("checksums of 256 blocks (each end)", cost(lambda n: checksums(payload))),
        ("try whether it packs", cost(lambda n: packing.pack(payload))),
        ("a frame through both links, and one copy", cost(through)),
    ]


def disk(directory: Path, size: int) -> float:
    """Bytes a second that one program writes and syncs, a MiB at a time."""
    path, piece = directory / "bare", memoryview(RANDOM)[:MIB]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        began = time.monotonic()
        for n in range(size // MIB):
            os.pwritev(fd, [piece], n * MIB)
        os.fdatasync(fd)
        return size / (time.monotonic() - began)
    finally:
        os.close(fd)
        path.unlink()


def copying(directory: Path, size: int) -> list[tuple[str, float, float]]:
    """Both ends of a real first copy."""
    with scratch(directory, 12 * size) as path:
        sites = Pair(path.resolve(), size)
        try:
            sites.start()
            sites.fill()
            before = sites.times()
            sites.mirror()
            after = sites.times()
        finally:
            sites.stop()
    scale = MIB / size * 1e6
    return [
        (f"first copy, the {title}", (now[0] - was[0]) * scale, (now[1] - was[1]) * scale)
        for title, was, now in zip(("primary", "secondary"), before, after, strict=True)
    ]


def measure(directory: Path, size: int = 1024 * MIB) -> Section:
    section = Section("What bounds a first copy", ["µs for a MiB", "program", "kernel", "both"])
    with scratch(directory, 4 * size) as path:
        for title, (user, kernel) in [*ours(), *wire(), *files(path)]:
            section.rows.append([title, f"{user:.0f}", f"{kernel:.0f}", f"{user + kernel:.0f}"])
        bare = disk(path, size)
    for title, user, kernel in copying(directory, size):
        section.rows.append(
            [f"**{title}**", f"{user:.0f}", f"{kernel:.0f}", f"**{user + kernel:.0f}**"]
        )
    section.notes.append(
        f"Processor time, median of {ROUNDS} rounds of {TIMES} MiB; the two ends in bold are those"
        f" of one real first copy. One program that writes as much and syncs it once does"
        f" {bare / 1e6:,.0f} MB/s here: no copy to this disk is faster."
    )
    return section
