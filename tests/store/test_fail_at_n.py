"""Every call to the disk fails, once, and for ever from there on.

The story below is a thousand operations of a pool's life. Whatever call fails, the caller hears
errors of our own tree alone, nothing that was flushed is lost, and nothing is ever wrong.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from random import Random
from typing import Final

import pytest

from isochrone.errors import Damaged, IsochroneError, PoolFailed
from isochrone.sim.disk import SimDisk
from isochrone.store import copies, volumes
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, KIB, MIB
from tests.store.pools import SMALL, Image, Rig, State, device, pattern, settle, shown

EVERY: Final = bool(os.environ.get("ISOCHRONE_EVERY_CALL"))
OPERATIONS: Final = 1000
LIMITS: Final = replace(SMALL, segment_bytes=128 * KIB, garbage_bytes=256 * KIB)
# Every call takes an hour; in every run a sample of them, another one for each way to fail.
STRIDE: Final = 1 if EVERY else 151

States = list[State]


class Story:
    """The same operations every time, and what they must have led to.

    `states` are those the pool may show: one after each operation that was not refused, and both
    after one that was, since a change that was refused may have been made, or come back from the
    log after a crash.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.model: State = {}
        self.states: States = [{}]
        self.flushed = 0  # index of the newest state that must survive
        self.refused = 0

    def play(self, pool: Pool) -> None:
        """Raises nothing but broken promises."""
        random = Random("story")
        for n in range(OPERATIONS):
            self.step(pool, n, random.random(), Random(n))

    def step(self, pool: Pool, n: int, what: float, random: Random) -> None:
        if n < 3:
            self.change(pool, lambda: volumes.create(pool, f"v{n}", MIB), **{f"v{n}": Image(MIB)})
        elif what < 0.60:
            self.write(pool, n, random)
        elif what < 0.70:
            self.discard(pool, random)
        elif what < 0.75:
            self.copy(pool, n, random)
        elif what < 0.79:
            self.uncopy(pool)
        elif what < 0.81:
            self.resize(pool, random)
        elif what < 0.92:
            if self.run(lambda: settle(pool.flush())):
                self.flushed = len(self.states) - 1
        elif what < 0.97:
            self.run(lambda: settle(pool.checkpoint()))
        else:
            self.run(lambda: settle(Cleaner(pool).round()))

    def run(self, call) -> bool:
        try:
            call()
        except IsochroneError:
            self.refused += 1
            return False
        return True

    def change(self, pool: Pool, call, gone: list[str] | None = None, **images: Image) -> None:
        wanted = {n: i for n, i in {**self.model, **images}.items() if n not in (gone or ())}
        done = self.run(call)
        self.states.append(wanted)
        if done:
            self.model = wanted
            return
        # Refused: either it is as it was, or a first part was done.
        self.states.append(self.model)

    def names(self) -> list[str]:
        return sorted(name for name in self.model if "@" not in name)

    def write(self, pool: Pool, n: int, random: Random) -> None:
        """Whole blocks in one batch: all of it or nothing."""
        names = self.names()
        if not names:
            return
        name, block = random.choice(names), random.randrange(40)
        data = pattern(n, BLOCK * random.choice((1, 1, 3, 5)))

        def call() -> None:
            device(pool, name).write(block * BLOCK, memoryview(data))
            pool.commit()

        self.change(pool, call, **{name: self.model[name].put(block * BLOCK, data)})

    def discard(self, pool: Pool, random: Random) -> None:
        names = self.names()
        if not names:
            return
        name, block = random.choice(names), random.randrange(40)

        def call() -> None:
            device(pool, name).discard(block * BLOCK, 7 * BLOCK)
            pool.commit()

        self.change(pool, call, **{name: self.model[name].put(block * BLOCK, bytes(7 * BLOCK))})

    def copy(self, pool: Pool, n: int, random: Random) -> None:
        names = [name for name in self.names() if random.random() < 0.7]
        if names:
            members = {f"{name}@c{n}": self.model[name] for name in names}
            self.change(pool, lambda: copies.take(pool, names, name=f"c{n}"), **members)

    def uncopy(self, pool: Pool) -> None:
        if pool.state.copies:
            name = min(pool.state.copies)
            gone = [m for m in self.model if m.endswith(f"@{name}")]
            self.change(pool, lambda: copies.delete(pool, name), gone=gone)

    def resize(self, pool: Pool, random: Random) -> None:
        names = self.names()
        if names:
            name, size = random.choice(names), random.choice((MIB, 2 * MIB, 3 * MIB))
            resized = self.model[name].resized(size)
            self.change(
                pool, lambda: volumes.resize(pool, name, size, shrink=True), **{name: resized}
            )


@cache
def calls_of_the_story() -> int:
    rig = Rig("story", limits=LIMITS)
    pool = rig.open()
    before = rig.platter.calls
    story = Story(rig)
    story.play(pool)
    calls = rig.platter.calls - before
    assert story.refused == 0
    assert shown(pool) == story.model
    return calls


def survive(n: int, *, for_ever: bool, power: bool) -> None:
    rig = Rig("story", limits=LIMITS)
    pool = rig.open()
    story = Story(rig)
    rig.platter.faults.fail_at, rig.platter.faults.fail_for_ever = n, for_ever
    story.play(pool)
    assert rig.platter.faults.fail_at == (1 if for_ever else 0), "no call failed"
    rig.platter.faults.fail_at, rig.platter.faults.fail_for_ever = 0, False
    assert not for_ever or story.refused
    assert shown(pool) == story.model, "reads go on"
    if pool.failed:
        with pytest.raises(PoolFailed):
            settle(pool.flush())
    pool = rig.cut(n) if power else rig.kill()
    found = shown(pool)
    assert found in (story.states[story.flushed :] if power else story.states[-2:])
    check_pool(pool)
    settle(pool.checkpoint())
    device(pool, "v0").write(0, memoryview(pattern(n))) if "v0" in found else None
    pool.commit()
    settle(pool.flush())
    after = shown(pool)
    assert shown(rig.cut(n + 1)) == after


def test_the_story_is_worth_it() -> None:
    """It meets every kind of call, and many segments."""
    rig = Rig("story", limits=LIMITS)
    kinds: dict[str, int] = {}
    rig.platter.watch = lambda call, name: kinds.update({call: kinds.get(call, 0) + 1})
    pool = rig.open()
    Story(rig).play(pool)
    assert {"write", "read", "sync", "sync_names", "create", "open"} <= set(kinds)
    assert kinds["sync"] > 20 and kinds["create"] > 10
    assert calls_of_the_story() > 600


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("for_ever", [False, True])
@pytest.mark.parametrize("start", range(4))
def test_every_call_fails(start: int, for_ever: bool, power: bool) -> None:
    calls = calls_of_the_story()
    first = 1 + start * calls // 4 + (for_ever + 2 * power) % STRIDE
    for n in range(first, 1 + (start + 1) * calls // 4, STRIDE):
        survive(n, for_ever=for_ever, power=power)


def opened(rig: Rig, n: int, for_ever: bool) -> Pool | IsochroneError:
    faults = rig.platter.faults
    faults.fail_at, faults.fail_for_ever = n, for_ever
    try:
        return rig.open()
    except IsochroneError as e:
        return e
    finally:
        faults.fail_at, faults.fail_for_ever = 0, False


@pytest.mark.parametrize("for_ever", [False, True])
def test_every_call_of_opening_fails(for_ever: bool) -> None:
    """The pool is refused or it is right; the next attempt finds all of it."""
    rig = Rig("story", limits=LIMITS)
    story = Story(rig)
    story.play(rig.open())
    n, calls = 0, 0
    while n <= calls:
        n += 1
        rig.platter.kill()
        before = rig.platter.calls
        found = opened(rig, n, for_ever)
        calls = rig.platter.calls - before
        if isinstance(found, Pool):
            assert shown(found) == story.model
        else:
            assert not isinstance(found, Damaged), "the bytes are good"
        rig.platter.kill()
        assert shown(rig.open()) == story.model
    assert n > 20


def test_a_dead_disk_is_told_as_such() -> None:
    rig = Rig("story", limits=LIMITS)
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    rig.platter.kill()  # the hold is dead, the process does not know
    device(pool, "v").write(0, memoryview(pattern(1)))
    with pytest.raises(Damaged):
        pool.commit()
    with pytest.raises(PoolFailed):
        settle(pool.flush())
    assert SimDisk(rig.platter).names() != []
