"""Relations in the workload: all commands happen, and the history explains what they do."""

from __future__ import annotations

from collections import Counter

import pytest

from isochrone.sim import checkers
from isochrone.sim.checkers import Violation
from isochrone.sim.history import History
from isochrone.sim.relating import adopt
from isochrone.store import relations
from isochrone.store.check import check_pool
from isochrone.store.relations import Span, Wish
from isochrone.types import BLOCK, MIB, TRACK
from tests.mirror.sites import Host
from tests.sim.test_workload import on_a_pool, working

MIX = {"relate": 12, "refresh": 6, "restore": 4, "withdraw": 8, "revert": 12, "copy": 6, "clone": 4}


@pytest.mark.parametrize("seed", range(6))
def test_the_history_is_what_the_pool_shows(seed: int) -> None:
    async def act(host: Host, history: History) -> None:
        for n in range(4):
            await host.call(working(host, history, 10 * seed + n, resize=4, **MIX).run(60))
            assert checkers.prefix(history, host.pool) == history.op
            check_pool(host.pool)
        await host.restart()
        op = checkers.prefix(history, host.pool)
        assert history.flushed <= op <= history.op
        history.cut_off(op)
        await host.call(working(host, history, seed, **MIX).run(60))
        assert checkers.prefix(history, host.pool) == history.op

    on_a_pool(act, seed)


def test_it_does_everything() -> None:
    async def act(host: Host, history: History) -> None:
        made: Counter[str] = Counter()
        host.pool.on_change.append(lambda lsn, record: made.update([type(record).__name__]))
        host.pool.on_change.append(
            lambda lsn, record: made.update(
                [word for word in ("once", "discard") if getattr(record, word, False)]
            )
        )
        await host.call(working(host, history, 1, **MIX).run(3000))
        wanted = ("Established", "Refreshed", "Restored", "Withdrawn")
        assert all(made[f"Relations{word}"] > 3 for word in wanted), made
        assert min(made["VolumesReverted"], made["once"], made["discard"]) > 3, made

    on_a_pool(act)


def test_a_command_that_did_something_else_is_noticed() -> None:
    async def act(host: Host, history: History) -> None:
        await host.call(working(host, history, 1, flush=0, pause=0, resize=0).run(50))
        relations.establish(host.pool, [Wish("v", "w", (Span(0, 0, MIB),))], once=True)
        with pytest.raises(Violation, match="no state"):
            checkers.prefix(history, host.pool)
        history.establish([("v", "w", [(0, 0, 256)])], [], 0)
        assert checkers.prefix(history, host.pool) == history.op
        relations.establish(host.pool, [Wish("v", "w", (Span(0, 0, MIB),))])
        with pytest.raises(Violation, match="explains the relations"):
            checkers.prefix(history, host.pool)

    on_a_pool(act)


@pytest.mark.parametrize("inexact", [True, False])
def test_a_history_goes_on_with_the_relations_of_another(inexact: bool) -> None:
    """As at a site that took over: what hosts had written by then is known, or nothing is done."""

    async def act(host: Host, old: History) -> None:
        pool, one, two = host.pool, b"\1" * BLOCK, b"\2" * BLOCK
        names = [name for name in old.tracks if pool.state.names.get(name)][:2]
        source, target = names
        for name, block, content in ((source, 0, one), (source, 16, one)):
            host.device(name).write(block * BLOCK, memoryview(content))
            old.write(name, block, content, 1)
        spans = (Span(0, 0, 2 * TRACK),)
        (made,) = relations.establish(pool, [Wish(source, target, spans)])
        old.establish([(source, target, [(0, 0, 32)])], [99], 1)
        host.device(target).write(17 * BLOCK, memoryview(two))
        old.write(target, 17, two, 1)
        made.inexact = inexact
        fork = History()
        for name in names:
            data = checkers.image(pool, name)
            fork.create(name, len(data) // BLOCK, 1)
            for at in range(len(data) // BLOCK):
                fork.write(name, at, checkers.block_of(data, at), 1)
        adopt(pool, fork, old, old.op)
        assert checkers.prefix(fork, pool) == fork.op
        assert bool(pool.state.relations) is not inexact
        if not inexact:
            relations.withdraw(pool, [made], discard=True)
            fork.withdraw(made.id, 0, 1 << 40, 1, discard=True)
            assert checkers.prefix(fork, pool) == fork.op

    on_a_pool(act, 1)
