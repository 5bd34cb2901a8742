"""What happens to sites whose roles change."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.errors import Conflict
from isochrone.mirror.roles import Role
from isochrone.sim.checkers import Violation
from isochrone.sim.member import GROUP
from isochrone.store import holds
from isochrone.store.catalogue import Copy
from isochrone.store.pool import Pool
from tests.sim.several import Several, play


def test_several_at_once() -> None:
    async def scenario(several: Several) -> None:
        for _ in range(8):
            await several.upsets.strike(3)
            several.fabric.heal_all()
            for member in several.members.values():
                if not member.up:
                    member.ambush = None
                    await several.start(member)
        events = {line.split()[-1] for line in several.said if line.startswith("event: ")}
        assert len(events) > 5

    play(scenario, sites=3)


def test_roles_go_round() -> None:
    async def scenario(several: Several) -> None:
        upsets = several.upsets
        assert upsets.newest() is several.a
        await upsets.switch()
        assert upsets.newest() is several.b
        await several.a.site.clock.sleep(2.0)
        await upsets.promote()
        assert upsets.newest() is several.a
        await several.a.site.clock.sleep(2.0)
        await upsets.rejoin()
        await several.wait()
        assert several.b.role is Role.SECONDARY
        assert upsets.counts == {"switches": 1, "promotes": 1, "rejoins": 1}

    play(scenario)


def test_limits_are_tightened_and_relaxed() -> None:
    async def scenario(several: Several) -> None:
        upsets, group = several.upsets, several.a.pool.state.groups[GROUP]
        await upsets.tighten()
        (session,) = group.sessions.values()
        assert session.limit_bytes < 2 << 20
        await upsets.suspend()
        # Only the primary serves somebody; the other site may have been drawn.
        several.a.mirrors.suspend(GROUP, several.b.pool.identity)
        assert session.cause
        await upsets.relax()
        assert not session.cause
        assert (session.limit_bytes, session.limit_seconds) == (0, 0.0)

    play(scenario)


def test_links_are_whole_again_after_a_flap() -> None:
    async def scenario(several: Several) -> None:
        await several.upsets.flap()
        await several.wait()
        assert several.upsets.counts["cuts"] == 1

    play(scenario)


def test_nobody_in_a_role_is_refused() -> None:
    async def scenario(several: Several) -> None:
        several.b.crash(power=True)
        with pytest.raises(Conflict, match="no site"):
            await several.upsets.switch()
        await several.upsets.strike(1)

    play(scenario)


def test_what_was_parked_must_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(pool: Pool, copy: Copy, reason: str = "") -> Copy:
        return copy

    async def scenario(several: Several) -> None:
        several.fabric.cut("a", "b")
        several.churn.write(several.a.pool, "v0", Random(1))
        several.a.pool.commit()
        await several.upsets.promote()
        several.fabric.heal_all()
        await asyncio.sleep(30.0)
        assert several.a.role is Role.FENCED
        monkeypatch.setattr(holds, "pin", forget)
        with pytest.raises(Violation, match=r"\(l\)"):
            await several.upsets.rejoin()

    play(scenario)
