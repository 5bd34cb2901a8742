"""Numbered dependent writes over several volumes, and the check that what is left is a prefix.

Writing uses libnbd, the standard client library, from the system's Python:

    /usr/bin/python3 demo/ledger.py URI...      prints the newest acknowledged number

Write number n goes to volume n modulo their count, to a slot that follows from n alone, and is sent
only after write n-1 was acknowledged. So any honest image of all volumes is the state after some
number m: every slot holds the newest write up to m that went there.
"""

from __future__ import annotations

import struct
import sys
import time
import zlib
from collections.abc import Sequence

BLOCK = 4096
SLOTS = 2048  # 8 MiB at the end of each volume
FLUSH_EVERY = 256
RECORD = struct.Struct("<8sQII")  # magic, number, volume, slot; a CRC-32 of them ends the block
MAGIC = b"ISOLEDGR"


def place(number: int, volumes: int) -> tuple[int, int]:
    """(volume, slot) of a write."""
    return number % volumes, zlib.crc32(number.to_bytes(8, "little")) % SLOTS


def block(number: int, volumes: int) -> bytes:
    volume, slot = place(number, volumes)
    body = RECORD.pack(MAGIC, number, volume, slot)
    body = (body * (BLOCK // len(body) + 1))[: BLOCK - 4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def number_in(data: bytes, volume: int, slot: int) -> int:
    """The number of the write in a slot, 0 for none. Raises `ValueError` for anything else."""
    if not any(data):
        return 0
    magic, number, in_volume, in_slot = RECORD.unpack_from(data)
    intact = zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:]
    if magic != MAGIC or not intact or (in_volume, in_slot) != (volume, slot):
        raise ValueError(f"slot {slot} of volume {volume} holds something that was never written")
    return int(number)


def check(regions: Sequence[bytes]) -> int:
    """The number m that all volumes together stand at. Raises `ValueError` if there is none."""
    held = {
        (volume, slot): number_in(region[slot * BLOCK : (slot + 1) * BLOCK], volume, slot)
        for volume, region in enumerate(regions)
        for slot in range(SLOTS)
    }
    newest = max(held.values())
    expected = dict.fromkeys(held, 0)
    for number in range(1, newest + 1):
        expected[place(number, len(regions))] = number
    for where, number in held.items():
        if number != expected[where]:
            volume, slot = where
            raise ValueError(
                f"write {newest} is there, but slot {slot} of volume {volume} holds write {number}"
                f" instead of {expected[where]}: this is no prefix"
            )
    return newest


def write(uris: Sequence[str]) -> None:
    """Write until the server is gone."""
    import nbd  # type: ignore[import-not-found]

    handles = []
    for uri in uris:
        handle = nbd.NBD()
        handle.connect_uri(uri)
        handles.append(handle)
    starts = [handle.get_size() - SLOTS * BLOCK for handle in handles]
    number, told = 0, 0.0
    try:
        while True:
            number += 1
            volume, slot = place(number, len(handles))
            handles[volume].pwrite(block(number, len(handles)), starts[volume] + slot * BLOCK)
            if number % FLUSH_EVERY == 0:
                handles[volume].flush()
            if time.monotonic() - told > 0.05:
                told = time.monotonic()
                print(number, flush=True)
    except nbd.Error:
        print(number - 1, flush=True)


if __name__ == "__main__":
    write(sys.argv[1:])
