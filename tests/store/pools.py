"""Pools on a pretended disk, and a plain model of what a pool must show.

The model knows names, sizes and blocks; nothing of logs, tables or checkpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any, Final, cast

from isochrone.sim.clock import SimDice
from isochrone.sim.disk import Platter, SimDisk
from isochrone.sim.loop import run as settle
from isochrone.store.metadata import item_bytes
from isochrone.store.pool import Limits, Pool
from isochrone.store.tracks import LEAF_BLOCKS, Forest, Table
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, KIB, MIB, Caller, Proof
from isochrone.world import World
from isochrone.world.disk import Disk
from isochrone.world.net import Net

__all__ = ["settle"]

SIZE: Final = 1 * MIB  # of most volumes: the smallest there is
SMALL: Final = Limits(
    segment_bytes=512 * KIB,
    node_bytes=128 * KIB,
    checkpoint_bytes=4 * MIB,
    garbage_bytes=512 * KIB,
    reserve_bytes=1 * MIB,
    sweep_nodes=8,
)


class Clock:
    """One nanosecond a look."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * 10**9

    def wall_ns(self) -> int:
        self.now += 1
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9

    async def sleep(self, seconds: float) -> None:
        """No time passes here, but others may run."""
        await asyncio.sleep(0)


class Inline:
    """Work runs at once; `before` and `after` may change the pool meanwhile, as the loop would."""

    def __init__(self) -> None:
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None
        self.runs = 0
        self.brief = 0  # of these, how many might run on the loop

    async def run(self, work: Callable[[], Any]) -> Any:
        self.runs += 1
        if self.before is not None:
            self.before()
        result = work()
        if self.after is not None:
            self.after()
        return result

    def start(
        self,
        work: Callable[[], None],
        done: Callable[[BaseException | None], None],
        *,
        brief: bool = False,
    ) -> None:
        self.runs += 1
        self.brief += brief

        def run() -> None:
            try:
                if self.before is not None:
                    self.before()
                work()
                if self.after is not None:
                    self.after()
            except BaseException as error:  # a test may end the world in there
                done(error)
            else:
                done(None)

        if brief:
            run()
        else:
            asyncio.get_running_loop().call_soon(run)


def make_world(seed: object = 0, work: Any = None) -> World:
    return World(Clock(), cast(Net, None), SimDice(Random(f"dice {seed}")), work or Inline())


class Rig:
    """One pretended disk, and the pools that are opened on it one after the other."""

    def __init__(
        self, seed: object = 0, *, capacity: int | None = None, limits: Limits = SMALL
    ) -> None:
        self.platter = Platter(Random(f"platter {seed}"), capacity=capacity)
        self.work = Inline()
        self.world = make_world(seed, self.work)
        self.limits = limits

    def open(self) -> Pool:
        return Pool.open(SimDisk(self.platter), self.world, self.limits)

    def reopen(self, pool: Pool) -> Pool:
        """Close in good order, and open again."""
        settle(pool.close())
        pool.disk.close()
        return self.open()

    def kill(self) -> Pool:
        """As `kill -9` does, and open again."""
        self.platter.kill()
        return self.open()

    def cut(self, seed: object = None) -> Pool:
        """As a power cut does, and open again."""
        self.platter.power_cut(None if seed is None else Random(f"cut {seed}"))
        return self.open()


def open_on(disk: Disk, limits: Limits = SMALL, work: Any = None) -> Pool:
    return Pool.open(disk, make_world(work=work), limits)


def device(pool: Pool, name: str) -> VolumeDevice:
    return VolumeDevice(pool, pool.state.names[name])


def put(pool: Pool, name: str, offset: int, data: bytes) -> None:
    """Write and commit."""
    device(pool, name).write(offset, memoryview(data))
    pool.commit()


def get(pool: Pool, name: str, offset: int = 0, length: int | None = None) -> bytes:
    found = device(pool, name)
    return b"".join(found.read(offset, found.size - offset if length is None else length))


def mapped_blocks(forest: Forest, table: Table) -> int:
    """How many blocks of a table lead anywhere."""
    return sum(LEAF_BLOCKS - words[:LEAF_BLOCKS].count(0) for _, words in forest.leaves(table))


def pattern(n: int, length: int = BLOCK) -> bytes:
    """Bytes that differ from one another by number."""
    return Random(n).randbytes(length)


def catalogue(pool: Pool) -> dict[str, bytes]:
    """Everything but bytes of volumes."""
    state = pool.state
    items = [
        *(*state.volumes.values(), *state.copies.values(), *state.groups.values()),
        *state.relations.values(),
    ]
    found = {f"{type(item).__name__} {item_id(item)}": item_bytes(item) for item in items}
    found["names"] = repr(sorted(state.names.items())).encode()
    found["next id"] = str(state.next_id).encode()
    return found


def item_id(item: Any) -> object:
    return getattr(item, "id", None) or item.name


# -- the model

_ZEROS: Final = bytes(MIB)
_ZERO: Final = bytes(BLOCK)


@dataclass(frozen=True)
class Image:
    size: int
    blocks: dict[int, bytes] = field(default_factory=dict)  # those that are not zero

    def put(self, offset: int, data: bytes) -> Image:
        blocks = dict(self.blocks)
        end = offset + len(data)
        for block in range(offset // BLOCK, -(-end // BLOCK)):
            low, high = max(offset, block * BLOCK), min(end, (block + 1) * BLOCK)
            old = bytearray(blocks.get(block, bytes(BLOCK)))
            old[low - block * BLOCK : high - block * BLOCK] = data[low - offset : high - offset]
            if old != _ZERO:
                blocks[block] = bytes(old)
            else:
                blocks.pop(block, None)
        return replace(self, blocks=blocks)

    def resized(self, size: int) -> Image:
        cut = self.put(size, bytes(self.size - size)) if size < self.size else self
        return replace(cut, size=size)


State = dict[str, Image]


def shown(pool: Pool) -> State:
    """What a pool shows, in the terms of the model."""
    found = {}
    for export in pool.state.exports():
        blocks = {}
        for start in range(0, export.size, MIB):
            data = get(pool, export.name, start, min(MIB, export.size - start))
            if data == _ZEROS[: len(data)]:
                continue
            for at in range(0, len(data), BLOCK):
                piece = data[at : at + BLOCK].ljust(BLOCK, b"\0")
                if piece != _ZERO:
                    blocks[(start + at) // BLOCK] = piece
        found[export.name] = Image(export.size, blocks)
    return found


def pieces(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """What a change of any alignment may be torn into by a crash: head, whole blocks, tail."""
    end = offset + len(data)
    edges = sorted(
        {offset, min(end, -(-offset // BLOCK) * BLOCK), max(offset, end // BLOCK * BLOCK), end}
    )
    return [(low, data[low - offset : high - offset]) for low, high in pairwise(edges)]


def client(name: str = "client") -> Caller:
    """A host with one connection."""
    return Caller(Proof.ADDRESS, name, name)
