"""The end of a run of sites whose roles change: that it is reached, and what it must not accept."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.mirror.roles import Role
from isochrone.sim.checkers import Violation
from isochrone.store import copies, relations
from isochrone.store import records as r
from tests.sim.several import Several, play


async def settle(several: Several) -> None:
    newest = await several.settling.gather()
    await several.settling.caught_up(newest)
    several.settling.check(newest)


def test_all_end_equal() -> None:
    async def scenario(several: Several) -> None:
        several.churn.write(several.a.pool, "v1", Random(1))
        copies.take(several.a.pool, ["v0"], name="c1")
        several.a.pool.commit()
        await settle(several)

    play(scenario, sites=3)


def test_from_two_primaries_there_is_one() -> None:
    async def scenario(several: Several) -> None:
        several.fabric.cut("a", "b")
        await several.upsets.promote()
        several.churn.write(several.a.pool, "v1", Random(1))
        several.a.pool.commit()
        several.fabric.heal_all()
        await settle(several)
        assert several.b.role is Role.PRIMARY
        assert several.a.role is Role.SECONDARY

    play(scenario)


def test_a_volume_that_differs_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        await settle(several)
        several.churn.write(several.a.pool, "v1", Random(1))
        several.a.pool.commit()
        with pytest.raises(Violation, match=r"\(m\).*v1"):
            several.settling.check(several.a)

    play(scenario)


def test_a_copy_that_is_missing_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        await settle(several)
        copies.take(several.a.pool, ["v0"], name="c1")
        with pytest.raises(Violation, match="lacks the copies"):
            several.settling.check(several.a)
        several.witness.excuse("b", {"c1"})
        several.settling.check(several.a)

    play(scenario)


def test_a_copy_that_is_left_over_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        copies.take(several.a.pool, ["v0"], name="c1")
        await settle(several)
        several.a.pool.record(r.CopyDeleted(name="c1"))
        with pytest.raises(Violation, match="still has the copies"):
            several.settling.check(several.a)

    play(scenario)


def test_a_relation_that_is_missing_is_a_violation() -> None:
    async def scenario(several: Several) -> None:
        await settle(several)
        relations.establish(several.a.pool, [relations.Wish("v0", "v1")])
        with pytest.raises(Violation, match=r"\(m\).*relations"):
            several.settling.check(several.a)

    play(scenario)
