"""What the workload does to the pool is what it writes into the history; it does all it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from isochrone.sim import checkers
from isochrone.sim.history import History
from isochrone.sim.workload import COPIES_MAX, Mix, Workload
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.store.check import check_pool
from isochrone.types import BLOCK, MIB
from tests.mirror.sites import Host, Two, play

NAMES = ("v", "w")


def on_a_pool(act: Callable[[Host, History], Awaitable[None]], seed: int = 1) -> None:
    async def scenario(two: Two) -> None:
        history = History()
        for name in NAMES:
            volumes.create(two.a.pool, name, MIB)
            history.create(name, MIB // BLOCK, two.a.site.clock.wall_ns())
        await act(two.a, history)

    play(scenario, seed=seed, made=False)


def working(host: Host, history: History, seed: int, **mix: int) -> Workload:
    return Workload(host.pool, history, Random(seed), Mix(**mix), NAMES)


@pytest.mark.parametrize("seed", range(8))
def test_the_history_is_what_the_pool_shows(seed: int) -> None:
    async def act(host: Host, history: History) -> None:
        for n in range(5):
            await host.call(working(host, history, 10 * seed + n, copy=10, resize=4).run(60))
            assert checkers.prefix(history, host.pool) == history.op
            assert len(host.pool.state.copies) <= COPIES_MAX
            check_pool(host.pool)
        await host.restart()
        assert history.flushed <= checkers.prefix(history, host.pool) <= history.op

    on_a_pool(act, seed)


def test_it_does_everything() -> None:
    """A workload that cannot make a state never finds the fault that needs it."""

    async def act(host: Host, history: History) -> None:
        made: Counter[str] = Counter()
        host.pool.on_change.append(lambda lsn, record: made.update([type(record).__name__]))
        writable = []
        host.pool.on_change.append(
            lambda lsn, record: (
                writable.append(record.writable) if isinstance(record, r.CopyTaken) else None
            )
        )
        segments = len(host.pool.log.first_lsns)
        await host.call(working(host, history, 1, resize=4).run(600))
        assert made.keys() >= {"CopyTaken", "CopyDeleted", "VolumeResized"}
        assert set(writable) == {True, False}
        assert 0 < history.flushed <= history.op
        assert host.pool.log.durable > 0
        assert len(host.pool.log.first_lsns) >= segments
        assert any(track.blocks for n, t in history.tracks.items() if "@" in n for track in t)

    on_a_pool(act)


@pytest.mark.parametrize("kind", Mix.__dataclass_fields__)
def test_each_kind_of_step_by_itself(kind: str) -> None:
    async def act(host: Host, history: History) -> None:
        nothing = dict.fromkeys(Mix.__dataclass_fields__, 0)
        await host.call(working(host, history, 3, **{**nothing, "write": 1}).run(3))
        op = history.op
        await host.call(working(host, history, 4, **{**nothing, kind: 1}).run(20))
        changes = kind in ("write", "small", "discard", "copy", "clone", "resize", "relate")
        assert (history.op > op) is changes
        assert checkers.prefix(history, host.pool) == history.op
        if kind == "flush":
            assert history.flushed == history.op

    on_a_pool(act)


def test_a_read_notices_wrong_data() -> None:
    async def act(host: Host, history: History) -> None:
        nothing = dict.fromkeys(Mix.__dataclass_fields__, 0)
        for at in range(200):
            host.write("v", at, "from nowhere")
            host.write("w", at, "from nowhere")
        with pytest.raises(AssertionError, match="block"):
            await host.call(working(host, history, 1, **{**nothing, "read": 1}).run(20))

    on_a_pool(act)


def test_writes_go_on_while_a_flush_is_under_way() -> None:
    async def act(host: Host, history: History) -> None:
        behind = []
        flush = host.pool.flush

        async def watched(*, alone: bool = False) -> None:
            wanted = host.pool.log.lsn
            await flush(alone=alone)
            behind.append(host.pool.log.lsn - wanted)

        host.pool.flush = watched  # type: ignore[method-assign]
        await host.call(working(host, history, 1, flush=30, checkpoint=0, clean=0).run(400))
        assert max(behind) > 0
        assert not all(behind)

    on_a_pool(act)
