"""Another site that says whatever it likes: frames that are well formed, and what they mean is not.

Both ends of a session are attacked over a tape instead of a network, in virtual time. Nothing but
the product's own errors may come out, and what is held must stay small.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import msgspec

from isochrone.errors import IsochroneError
from isochrone.mirror import groups, wire
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import DATA_TYPE, TYPES, Data
from isochrone.mirror.mover import Mover
from isochrone.mirror.source import SourceSession
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.format import checksum
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, MIB, Buffer
from isochrone.world.net import READ_BYTES, Channel
from tests.mirror.messages import EXAMPLES
from tests.mirror.sites import LIMITS

SAID_TO_A_PRIMARY = (4, 18, 32, 33, *(5, 11, 12) * 8)
SAID_TO_A_SECONDARY = (6, 9, 10, 16, 17, *(7, 7, 8, 11) * 8)
FRAMES = 60  # of a session, at most
ODD = (0, 1, 2, 3, 255, 4096, 1 << 20, 1 << 32, 1 << 62, (1 << 62) + 1, -1)
GROUP = "g"


def sealed(kind: int, body: bytes, sequence: int, flags: int = 0) -> bytes:
    """A frame whose checksum is right, whatever is in it."""
    head = wire._HEAD.pack(wire.MAGIC, wire.VERSION, kind, flags, sequence, len(body))
    return head + wire._SUM.pack(checksum(body, checksum(head))) + body


class Hostile:
    """Frames of one attacker. `known` are values that mean something at the attacked site."""

    def __init__(self, seed: int, known: Sequence[Any]) -> None:
        self._random = Random(seed)
        self._known = list(known)
        self._oddness = 0.5
        self._likely: tuple[int, ...] = (1,)  # of the session that is made
        self._bodies = {
            wire.number_of(message): msgspec.to_builtins(message, builtin_types=(bytes,))
            for message in EXAMPLES.values()
            if not isinstance(message, Data)
        }

    def session(self, opening: Sequence[Any], likely: Sequence[int]) -> list[bytes]:
        """An opening that is mostly right, (type, fields) in turn, and then anything.

        `likely`: types that the attacked end expects. How odd the rest is differs by session.
        """
        self._oddness = self._random.choice((0.02, 0.1, 0.5))
        self._likely = tuple(kind for kind in likely if kind in self._bodies or kind == DATA_TYPE)
        frames: list[bytes] = []
        for at in range(0, len(opening), 2):
            kind, fields = opening[at], opening[at + 1]
            assert isinstance(kind, int)
            if self._random.random() < 0.05:
                fields = self._odd(fields)
            frames.append(sealed(kind, msgspec.msgpack.encode(fields), len(frames) + 1))
        for _ in range(self._random.randint(1, FRAMES)):
            frames.append(self._frame(len(frames) + 1))
        return frames

    def _frame(self, sequence: int) -> bytes:
        random, odd, flags = self._random, self._oddness, 0
        kind = random.choice(self._likely if random.random() > odd / 4 else [*self._bodies, 7])
        if kind == DATA_TYPE:
            body = self._data()
        else:
            body = msgspec.msgpack.encode(self._odd(self._bodies[kind]))
        if random.random() < odd / 20:
            broken = bytearray(body or b"x")
            broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
            body = bytes(broken)
        if random.random() < odd / 20:
            sequence += random.choice((-1, 1))
        if random.random() < odd / 20:
            kind, flags = random.randrange(256), random.randrange(4)
        return sealed(kind, body, max(sequence, 0), flags)

    def _data(self) -> bytes:
        count = self._random.choice((1, 1, 2, 256))
        odd = self._random.random() < self._oddness
        first = self._random.choice((256, 1 << 20, 1 << 61) if odd else (0, 0, 0, 1, 5))
        count = min(count, 200) if first and not odd else count
        block = bytes([self._random.randrange(256)]) * BLOCK
        total = checksum(block) if self._random.random() > odd / 4 else 7
        volume = self._random.choice((1, 2, 4, 0, 0xFFFFFFFF)) if odd else 3
        numbers = b"".join((first + n).to_bytes(8, "little") for n in range(count))
        return (
            wire._DATA.pack(volume, count)
            + numbers
            + total.to_bytes(8, "little") * count
            + (block * count)
        )

    def _odd(self, value: Any) -> Any:
        """The same shape, with other values in it."""
        random = self._random
        if isinstance(value, dict):
            changed = {key: self._odd(each) for key, each in value.items()}
            if changed and random.random() < self._oddness / 10:
                del changed[random.choice(list(changed))]
            return changed
        if isinstance(value, list | tuple):
            return [self._odd(each) for each in value] * (
                1 if random.random() > self._oddness / 4 else random.choice((0, 2))
            )
        if random.random() > self._oddness:
            return value
        same = [each for each in self._known if type(each) is type(value)]
        if same and random.random() < 0.7:
            return random.choice(same)
        if random.random() < 0.03:
            return random.choice((None, "x", b"x", -1, [], {}, 1.5))
        if isinstance(value, bool):
            return random.random() < 0.5
        if isinstance(value, int):
            return random.choice((*ODD, value + random.randint(-2, 2)))
        if isinstance(value, str):
            return random.choice(("", "x", "g", "v", "\0", "é" * 200, value[:-1]))
        if isinstance(value, bytes):
            return random.choice((b"", value[:-1], value + value, random.randbytes(64)))
        return value


class Tape:
    """A channel on which everything has been said already. Who listens to it hears it end."""

    peer = "hostile:1"

    def __init__(self, frames: Sequence[bytes], pause: Callable[[], Awaitable[None]]) -> None:
        self._frames = list(reversed(frames))
        self._rest = b""
        self._pause = pause
        self.taken = 0  # frames that the other side has read; the last one may be too much for it

    async def read(self) -> bytes:
        room = memoryview(bytearray(READ_BYTES))
        return bytes(room[: await self.read_into(room)])

    async def read_into(self, room: memoryview) -> int:
        await self._pause()
        if not self._rest and self._frames:
            self._rest = self._frames.pop()
            self.taken += 1
        count = min(len(room), len(self._rest))
        room[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def write(self, pieces: Sequence[Buffer]) -> None:
        pass

    async def drain(self) -> None:
        await self._pause()

    def close(self) -> None:
        pass


class Target:
    """A pool with a group it is primary of, and one it follows; both under attack."""

    def __init__(self, seed: int) -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(seed))
        self.site = Site("a", fabric, seed)
        self.pool = Pool.open(self.site.disk, self.site.world, LIMITS)
        volumes.create(self.pool, "v", MIB)
        volumes.create(self.pool, "other", MIB)
        groups.create(self.pool, GROUP, ["v"])
        for name in ("v", "other"):
            device = VolumeDevice(self.pool, self.pool.state.names[name])
            device.write(0, memoryview(b"mine" * (BLOCK // 4)))
        self.pool.commit()
        self.ends: Counter[str] = Counter()
        group = self.pool.state.groups[GROUP]
        self._hostile = Hostile(
            seed, [GROUP, group.lineage, self.pool.identity, 1, 2, *group.volumes, MIB, 4 * MIB]
        )

    def _tape(self, opening: Sequence[Any], likely: Sequence[int]) -> Tape:
        async def pause() -> None:
            await asyncio.sleep(0)

        return Tape(self._hostile.session(opening, likely), pause)

    async def attack_source(self) -> int:
        """One session against the primary's end; frames said."""
        group = self.pool.state.groups[GROUP]
        hello = {
            "pool": "ee" * 16, "group": GROUP, "lineage": group.lineage, "epoch": group.epoch,
            "cut": group.cut, "purpose": "follow",
        }  # fmt: skip
        opening = [1, hello, 4, {"cut": group.cut, "credit": 16 * MIB}]
        tape = self._tape(opening, SAID_TO_A_PRIMARY)
        await self._end(SourceSession(self.pool, Conversation(tape), 0.2).run(), "source")
        return tape.taken

    async def attack_mover(self) -> int:
        """One session against the secondary's end; frames said."""
        name = "followed"
        if name not in self.pool.state.groups:
            self.pool.record(r.MirrorAdded(group=name, source="hostile:1"))
        group = self.pool.state.groups[name]
        lineage, epoch = group.lineage or "bb" * 16, group.epoch or 1
        table = [[3, "hv", MIB]]
        welcome = {
            "pool": "cc" * 16, "lineage": lineage, "epoch": epoch, "cut": group.cut + 1,
            "resume": bool(group.cut), "volumes": table,
        }  # fmt: skip
        opening = [2, welcome, 6, {"base": group.cut, "cut": group.cut + 1, "volumes": table}]
        tape = self._tape(opening, SAID_TO_A_SECONDARY)

        class Net:
            async def connect(self, address: str) -> Channel:
                return tape

        real, self.pool.world = self.pool.world, replace(self.pool.world, net=Net())  # type: ignore[arg-type]
        try:
            await self._end(Mover(self.pool, name)._session(), "mover")
        finally:
            self.pool.world = real
        return tape.taken

    async def _end(self, session: Awaitable[None], side: str) -> None:
        try:
            await session
            self.ends[f"{side}: in peace"] += 1
        except IsochroneError as e:
            self.ends[f"{side}: {e.code}"] += 1

    def check(self) -> None:
        """What is not of the attacked groups is as it was."""
        device = VolumeDevice(self.pool, self.pool.state.names["other"])
        assert b"".join(device.read(0, BLOCK)) == b"mine" * (BLOCK // 4)
        assert not self.pool.failed


def attack(frames: int, seed: int) -> Counter[str]:
    """So many frames against both ends; how the sessions ended.

    A fresh pool now and then: a group that was fenced or dropped is attacked no more.
    """
    ends: Counter[str] = Counter()
    done = 0

    async def some() -> None:
        nonlocal done
        target = Target(seed + done)
        for _ in range(10):
            done += await target.attack_source()
            done += await target.attack_mover()
        target.check()
        ends.update(target.ends)

    assert set(TYPES) > {1, 2}
    while done < frames:
        run(some(), seconds_max=1e9, steps_max=1 << 40)
    return ends
