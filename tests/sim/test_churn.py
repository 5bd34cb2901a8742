"""What goes on at sites whose roles change, and what it checks itself."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.mirror.probing import LOOK_SECONDS, newest_point
from isochrone.sim.checkers import Violation
from isochrone.sim.churn import probes_over, requests_kept
from isochrone.sim.member import GROUP
from isochrone.store import copies, windows
from isochrone.store import records as r
from tests.sim.several import Several, play


def test_a_primary_is_changed_and_what_follows_it_is_looked_at() -> None:
    async def scenario(several: Several) -> None:
        churn, pool = several.churn, several.a.pool
        before = pool.state.volumes[pool.state.names["v0"]].changed_lsn
        for seed in range(6):
            for member in (several.a, several.b):
                await member.site.spawn(churn.work(member, Random(seed)))
        assert churn.ops > 20
        assert churn.opened > 0
        assert pool.state.volumes[pool.state.names["v0"]].changed_lsn > before

    play(scenario)


def test_content_is_never_repeated() -> None:
    async def scenario(several: Several) -> None:
        numbers = [several.churn.next() for _ in range(5)]
        assert len(set(numbers)) == 5

    play(scenario)


def test_a_point_that_opens_as_something_else_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(several: Several) -> None:
        for block in range(3):
            several.churn.write(several.a.pool, "v0", Random(block))
            several.a.pool.commit()
            await several.wait()
        right = windows.members_at
        pool = several.b.pool
        newest = pool.state.windows[GROUP].points[-1]
        monkeypatch.setattr(
            windows, "members_at", lambda pool, group, point: right(pool, group, newest)
        )

        async def look_back() -> None:
            for seed in range(200):
                await several.b.site.spawn(several.churn.work(several.b, Random(seed)))

        with pytest.raises(Violation, match=r"\(p\)"):
            await look_back()

    play(scenario)


def test_a_copy_that_is_done_and_not_there_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        a, b = several.a, several.b
        await a.site.clock.sleep(1.0)
        requests = a.mirrors.asking.requests
        asked = requests.request(GROUP, name="c1", seconds=60, wait_duplex=True)
        await a.site.spawn(requests.wait(asked.id, 60))
        found = {b.pool.identity: b}
        requests_kept(a, found, several.witness)
        b.pool.record(r.CopyDeleted(name="c1"))
        with pytest.raises(Violation, match="DONE"):
            requests_kept(a, found, several.witness)
        several.witness.excuse("b", {"c1"})
        requests_kept(a, found, several.witness)
        several.witness.excused.clear()
        copies.take(b.pool, ["v0"], name="mine")  # as one that was held there when it was deleted
        kept = b.pool.state.copies["mine"]
        kept.origin, kept.kept_from = "c1", GROUP
        requests_kept(a, found, several.witness)

    play(scenario)


def test_a_copy_that_is_expired_and_there_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        a, b = several.a, several.b
        copies.take(a.pool, ["v0"], name="c1")
        await several.wait()
        asked = r.CopyRequested(
            group=GROUP, request="q", name="c1", volumes=(1,), sites=(b.pool.identity,),
            stamp=1, seconds=1.0,
        )  # fmt: skip
        a.pool.record(asked)
        a.pool.state.groups[GROUP].requests[-1].lsn = 5
        moved = r.RequestMoved(group=GROUP, request="q", peer=b.pool.identity, state="EXPIRED")
        a.pool.record(moved)
        with pytest.raises(Violation, match="EXPIRED"):
            requests_kept(a, {b.pool.identity: b}, several.witness)

    play(scenario)


def test_a_probe_that_does_not_end_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        await several.wait()
        b = several.b
        probes_over([several.a, b])
        point = newest_point(b.pool, GROUP)
        await b.site.spawn(b.mirrors.prober.begin(GROUP, point, "look", 5.0))
        with pytest.raises(Violation, match="does not end"):
            probes_over([several.a, b])
        await b.site.clock.sleep(5.0 + 2 * LOOK_SECONDS)
        probes_over([several.a, b])

    play(scenario)
