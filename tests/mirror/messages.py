"""One example of every message, with each of its fields in use."""

from __future__ import annotations

from array import array
from random import Random

from isochrone.mirror import messages
from isochrone.mirror.messages import AnyMessage, Data, RemoteVolume
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
    "hello": messages.Hello(
        pool="aa" * 16, group="g", lineage="bb" * 16, epoch=2, cut=7, purpose="probe"
    ),
    "welcome": messages.Welcome(
        pool="cc" * 16, lineage="bb" * 16, epoch=2, cut=9, resume=True, volumes=VOLUMES
    ),
    "refuse": messages.Refuse(code="Conflict", message="no", hint="ask elsewhere"),
    "pull": messages.Pull(cut=7, credit=16 * MIB),
    "credit": messages.Credit(bytes=BLOCK),
    "begin": messages.Begin(base=7, cut=9, volumes=VOLUMES),
    "data": data(3, [5, 900], NOISE),
    "holes": messages.Holes(ranges=((3, 0, 16), (4, 255, 1))),
    "command": messages.Command(
        body=r.encode(r.CopyTaken(name="c1", writable=False, stamp=10, members=((3, 8), (4, 9))))
    ),
    "cut": messages.Cut(cut=9, stamp=1_800_000_000 * 10**9, blocks=2, token=3),
    "heartbeat": messages.Heartbeat(stamp=1_800_000_001 * 10**9, clean=9, behind_bytes=-1, token=3),
    "sync": messages.Sync(token=3),
    "fence": messages.Fence(group="g", lineage="bb" * 16, epoch=3),
    "fenced": messages.Fenced(epoch=3),
    "leave": messages.Leave(),
}
