"""One example of every message, with each of its fields in use."""

from __future__ import annotations

from array import array
from random import Random

from isochrone.mirror import wire
from isochrone.mirror.wire import AnyMessage, Data, RemoteVolume
from isochrone.store import records as r
from isochrone.store.format import checksum
from isochrone.types import BLOCK, MIB

VOLUMES = (RemoteVolume(3, "db", 8 * MIB), RemoteVolume(4, "wal", MIB))


def data(volume: int, blocks: list[int], payload: bytes) -> Data:
    """DATA as a sane primary sends it."""
    assert len(payload) == len(blocks) * BLOCK
    sums = [checksum(payload[at : at + BLOCK]) for at in range(0, len(payload), BLOCK)]
    return Data(volume, array("Q", blocks), array("Q", sums), payload)


NOISE = Random(1).randbytes(2 * BLOCK)  # does not shrink, so its frame is the same for every LZ4

EXAMPLES: dict[str, AnyMessage] = {
    "hello": wire.Hello(pool="aa" * 16, group="g", lineage="bb" * 16, epoch=2, cut=7, probe=True),
    "welcome": wire.Welcome(
        pool="cc" * 16, lineage="bb" * 16, epoch=2, cut=9, resume=True, volumes=VOLUMES
    ),
    "refuse": wire.Refuse(code="Conflict", message="no", hint="ask elsewhere"),
    "pull": wire.Pull(cut=7, credit=16 * MIB),
    "credit": wire.Credit(bytes=BLOCK),
    "begin": wire.Begin(base=7, cut=9, volumes=VOLUMES),
    "data": data(3, [5, 900], NOISE),
    "holes": wire.Holes(ranges=((3, 0, 16), (4, 255, 1))),
    "command": wire.Command(
        body=r.encode(r.CopyTaken(name="c1", writable=False, stamp=10, members=((3, 8), (4, 9))))
    ),
    "cut": wire.Cut(cut=9, stamp=1_800_000_000 * 10**9, blocks=2, token=3),
    "heartbeat": wire.Heartbeat(stamp=1_800_000_001 * 10**9, clean=9, behind_bytes=-1, token=3),
    "sync": wire.Sync(token=3),
    "fence": wire.Fence(group="g", lineage="bb" * 16, epoch=3),
    "fenced": wire.Fenced(epoch=3),
    "leave": wire.Leave(),
}
