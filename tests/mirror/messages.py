"""One example of every message, with each of its fields in use."""

from __future__ import annotations

from array import array
from random import Random

from pyroaring import BitMap

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
        pool="aa" * 16,
        group="g",
        lineage="bb" * 16,
        epoch=2,
        cut=7,
        purpose="probe",
        branch="aa" * 16,
    ),
    "hello-partial": messages.Hello(
        pool="aa" * 16,
        group="g",
        lineage="bb" * 16,
        epoch=2,
        cut=7,
        partial=messages.Partial(
            pool="cc" * 16,
            lineage="bb" * 16,
            epoch=2,
            base=7,
            floor=7,
            begun=9,
            step=1234,
            volume=4,
            block=4096,
            volumes=(3, 4),
        ),
    ),
    "welcome": messages.Welcome(
        pool="cc" * 16,
        lineage="bb" * 16,
        epoch=2,
        cut=9,
        resume=True,
        volumes=VOLUMES,
        takeovers=(messages.Branching(2, 5, "aa" * 16),),
        way=("aa" * 16, "cc" * 16),
        cuts=(7, 9),
    ),
    "refuse": messages.Refuse(code="Conflict", message="no", hint="ask elsewhere"),
    "pull": messages.Pull(cut=7, credit=16 * MIB),
    "credit": messages.Credit(bytes=BLOCK),
    "begin": messages.Begin(base=7, cut=9, volumes=VOLUMES),
    "begin-images": messages.Begin(
        base=7, cut=9, volumes=VOLUMES, images=True, resumed=True, todo=4096
    ),
    "reached": messages.Reached(floor=7, begun=9, step=1234, volume=4, block=4096, left=160),
    "compare": messages.Compare(volume=3, track=32768, count=128),
    "digests": messages.Digests(volume=3, track=32768, digests=bytes(range(16))),
    "data": data(3, [5, 900], NOISE),
    "holes": messages.Holes(ranges=((3, 0, 16), (4, 255, 1))),
    "command": messages.Command(
        body=r.encode(r.CopyTaken(name="c1", writable=False, stamp=10, members=((3, 8), (4, 9))))
    ),
    "cut": messages.Cut(cut=9, stamp=1_800_000_000 * 10**9, blocks=2, token=3),
    "heartbeat": messages.Heartbeat(stamp=1_800_000_001 * 10**9, clean=9, behind_bytes=-1, token=3),
    "sync": messages.Sync(token=3),
    "fence": messages.Fence(group="g", lineage="bb" * 16, epoch=3, cut=9, source="c:7001"),
    "fenced": messages.Fenced(epoch=3),
    "leave": messages.Leave(),
    "verify": messages.Verify(
        cut=9, volume=3, track=16, count=8, whole=b"12345678", sums=True, read=True, freeze=True
    ),
    "verified": messages.Verified(
        volume=3,
        track=16,
        size=8 * MIB,
        known=True,
        same=True,
        digests=b"d" * 64,
        unstable=b"\x80",
        damaged=(256, 259),
    ),
    "fetch": messages.Fetch(request=5, volume=3, blocks=(256, 259), sums=b"s" * 16),
    "fetched": messages.Fetched(request=5, found=(259,), data=NOISE[:BLOCK]),
    "inventory": messages.Inventory(
        relations=(
            messages.ListedRelation(9, 3, 4, ((0, 16, 32), (64, 96, 1)), 1_800_000_000 * 10**9, 2),
            messages.ListedRelation(11, 4, 3, ((128, 0, 16),), 1_800_000_001 * 10**9, 1, True),
        ),
        copies=("c1", "nightly-20270115T020000Z"),
        whole=True,
        last=False,
    ),
    "holdings": messages.Holdings(unheld=(9,), inexact=(11, 12)),
    "query": messages.Query(
        op="dd" * 16, volumes=VOLUMES, targets=(4,), relations=1, seconds=125.0, dry=True
    ),
    "answer": messages.Answer(op="dd" * 16, reason="relation-limit", detail="0 are left"),
    "release": messages.Release(op="dd" * 16),
    "copy-question": messages.CopyQuestion(
        request="r1", name="golden", stamp=1_800_000_000 * 10**9, withdraw=True
    ),
    "copy-answer": messages.CopyAnswer(
        request="r1", outcome="kept", name="golden~9", detail="it is held"
    ),
    "requests": messages.Requests(
        token=3,
        requests=(
            messages.ToldRequest(
                "r1",
                "golden",
                1_800_000_000 * 10**9,
                299.5,
                True,
                (
                    messages.ToldSite("aa" * 16, "EXPIRED", True),
                    messages.ToldSite("bb" * 16, "SENT"),
                ),
            ),
        ),
    ),
    "noted": messages.Noted(token=3),
    "renew": messages.Renew(certificate=b"DER", signature=b"s" * 70),
    "join": messages.Join(
        invitation="dd" * 16,
        site="west",
        id="ee" * 16,
        pool="aa" * 16,
        address="b:7001",
        certificate=b"DER",
    ),
    "challenge": messages.Challenge(nonce=b"n" * 32),
    "proof": messages.Proof(mac=b"m" * 32, signature=b"s" * 70),
    "joined": messages.Joined(site="east", id="ff" * 16, pool="cc" * 16, mac=b"m" * 32),
    "switch": messages.Switch(
        pool="aa" * 16,
        group="g",
        lineage="bb" * 16,
        epoch=2,
        act="yield",
        cut=9,
        force=True,
        source="b:7001",
        volumes=VOLUMES,
    ),
    "switched": messages.Switched(
        role="HANDING", epoch=2, cut=9, heir="aa" * 16, clean=True, hosts=("db: h1",)
    ),
    "diverged": messages.Diverged(volume=3, tracks=BitMap([0, 1, 65_536]).serialize()),
    "relayed": messages.Relayed(
        stamp=1_800_000_001 * 10**9, cut=9, point=1_800_000_000 * 10**9, behind_bytes=-1, token=3
    ),
}
