"""Two sites, a link that comes and goes, power cuts, and operators who do anything at any time.

Whatever happens: no two sites are writable under one epoch and branch, and no write that was
acknowledged and flushed is gone without a trace. It is in the history that goes on, or in a copy
of orphaned writes, or still in the volumes of a site that was overtaken.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.dr import failback, failover, switch
from isochrone.errors import Conflict, IsochroneError
from isochrone.mirror.roles import Role, branch_of, role_of
from isochrone.store.check import check_pool
from tests.mirror.sites import GROUP, Host, Two, play, until

BLOCKS = 60
ACTS = ("write", "write", "write", "rest", "cut", "heal", "crash", "promote", "switch", "rejoin")


class Walk:
    """A random walk. Each write has a place of its own, so nothing is overwritten by design."""

    def __init__(self, two: Two, seed: int) -> None:
        self.two = two
        self.random = Random(seed)
        self.hosts = [two.a, two.b]
        self.flushed: dict[int, str] = {}  # block -> text
        self.next = 0
        self.done: list[str] = []

    def check(self) -> None:
        live = [branch_of(h.group()) for h in self.hosts if h.group().writable]
        named = {(b.lineage, b.pool) for b in live}
        assert len(named) == len(live), f"two writers of one epoch after {self.done}"

    async def write(self, host: Host) -> None:
        if self.next >= BLOCKS or not host.group().writable:
            return
        block, self.next = self.next, self.next + 1
        text = f"w{block} at {host.site.name}"
        host.write("db", block * 16, text)  # a track of its own
        await host.call(host.pool.flush())
        self.flushed[block] = text

    async def act(self, name: str, host: Host) -> None:
        pool, mirrors = host.pool, host.mirrors
        other = self.hosts[1 - self.hosts.index(host)]
        match name:
            case "write":
                await self.write(host)
            case "rest":
                await asyncio.sleep(self.random.uniform(0, 3))
            case "cut":
                self.two.fabric.cut("a", "b")
            case "heal":
                self.two.fabric.heal_all()
            case "crash":
                await host.restart()
            case "promote":
                await host.call(failover.promote(pool, mirrors, GROUP, force=True))
            case "switch":
                await host.call(
                    switch.switch(pool, mirrors, GROUP, address=host.address, force=True, timeout=5)
                )
            case "rejoin":
                await host.call(failback.rejoin(pool, mirrors, GROUP, source=other.address))

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            name, host = self.random.choice(ACTS), self.random.choice(self.hosts)
            self.done.append(f"{name} {host.site.name}")
            try:
                await self.act(name, host)
            except IsochroneError as e:
                self.done[-1] += f" ({type(e).__name__})"
            self.check()
        await self.come_together()

    async def come_together(self) -> None:
        """Heal, finish what was begun, and let everybody follow one primary."""
        self.two.fabric.heal_all()
        await asyncio.sleep(20)
        for host in self.hosts:
            if role_of(host.group()) is Role.HANDING:
                switch.cancel(host.pool, GROUP)
                await host.call(host.pool.flush())
        if not any(host.group().writable for host in self.hosts):
            ready = [h for h in self.hosts if role_of(h.group()) is Role.SECONDARY]
            assert ready, f"nobody can take over after {self.done}"
            await self.act("promote", ready[0])
        best = max((h for h in self.hosts if h.group().writable), key=lambda h: h.group().epoch)
        other = self.hosts[1 - self.hosts.index(best)]
        self.check()
        if other.group().role != "secondary" or other.group().epoch != best.group().epoch:
            if other.group().role == "primary":
                await until(lambda: other.group().role == "fenced", 30)
            await self.act("rejoin", other)
        await other.wait()
        assert best.image("db") == other.image("db"), self.done
        self._account()
        for host in self.hosts:
            check_pool(host.pool)

    def _account(self) -> None:
        """Every flushed write is somewhere that an operator can name."""
        for block, text in self.flushed.items():
            found = any(
                host.says(volume, block * 16) == text
                for host in self.hosts
                for volume in host.pool.state.names
                if volume == "db" or volume.startswith("db@orphaned")
            )
            assert found, f"{text!r} is gone after {self.done}"


@pytest.mark.parametrize("seed", range(40))
def test_a_random_walk(seed: int) -> None:
    async def scenario(two: Two) -> None:
        await Walk(two, seed).run(25)

    play(scenario, seed=seed)


def test_the_walks_do_meet_what_they_are_about() -> None:
    """Forks, switches and returns do happen in them; otherwise they would prove nothing."""
    seen: set[str] = set()

    async def scenario(two: Two, seed: int) -> None:
        walk = Walk(two, seed)
        await walk.run(25)
        seen.update(step[:-2] for step in walk.done if "(" not in step)
        if any(v.startswith("db@orphaned") for h in walk.hosts for v in h.pool.state.names):
            seen.add("orphans")

    for seed in range(12):
        play(lambda two, seed=seed: scenario(two, seed), seed=seed)
    assert {"write", "cut", "crash", "promote", "switch", "rejoin", "orphans"} <= seen


def test_a_fence_does_not_go_round_between_two_sites_of_a_switch() -> None:
    """Each is a secondary of the other until one takes over: nobody is there who could be told."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        await two.b.wait()
        change = switch.PlannedSwitch(
            two.b.pool, two.b.mirrors, GROUP, address=two.b.address, force=False
        )

        async def stop() -> None:
            raise Conflict("the operator stops here")

        change._take_over = stop  # type: ignore[method-assign]
        with pytest.raises(Conflict, match="stops here"):
            await two.b.call(change.run(20))
        assert two.a.group().source == two.b.address
        assert two.b.group().source == two.a.address
        await c.call(failback.rejoin(c.pool, c.mirrors, GROUP, source=two.a.address))
        await c.call(failover.promote(c.pool, c.mirrors, GROUP, force=True))
        for _ in range(1500):
            await asyncio.sleep(0.01)
            assert max(len(host.mirrors._sessions) for host in (two.a, two.b)) < 5
        assert c.group().fence_pending
        # The one that may take over still can; then it is found, and gives way.
        await two.b.call(failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        await until(lambda: not c.group().fence_pending)
        assert role_of(two.b.group()) is Role.FENCED

    play(scenario)
