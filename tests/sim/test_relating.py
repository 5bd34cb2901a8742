"""Relations in the workload: all commands happen, and the history explains what they do."""

from __future__ import annotations

from collections import Counter

import pytest

from isochrone.sim import checkers
from isochrone.sim.checkers import Violation
from isochrone.sim.history import History
from isochrone.store import relations
from isochrone.store.check import check_pool
from isochrone.store.relations import Span, Wish
from isochrone.types import MIB
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
