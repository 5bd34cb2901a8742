"""One command from its first check to its record; the conversation is in `test_asking`."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.errors import Conflict, InvalidInput
from isochrone.mirror import groups
from isochrone.mirror.asking import Plan
from isochrone.mirror.negotiation import ANSWER_S_MAX, Negotiation
from isochrone.mirror.query import Policy, Step, Way
from isochrone.store import relations, volumes
from isochrone.store.overlay import Decision
from isochrone.store.overwrite import Permission
from isochrone.store.relations import Wish
from isochrone.types import Caller, Proof
from tests.mirror.sites import GROUP, Two, play, until

HOST = Caller(Proof.ADDRESS, "host", "host:1")


def negotiation(two: Two, mirror: Policy, *, seconds: float = 5.0) -> Negotiation:
    pool = two.a.pool
    return Negotiation(
        pool,
        two.a.mirrors.asking,
        lambda agreed: relations.establish(pool, [Wish("db", "wal")], permission=agreed),
        Permission(mirror=mirror),
        relations=1,
        seconds=seconds,
    )


@pytest.mark.parametrize("mirror", ["", "none", "preferred"])
def test_the_audit_hears_of_the_act_and_not_of_rehearsals(mirror: Policy) -> None:
    async def scenario(two: Two) -> None:
        told: list[Decision] = []
        two.a.pool.on_decision.append(told.append)
        await two.a.call(negotiation(two, mirror).check())
        assert told == []
        outcome = await two.a.call(negotiation(two, mirror).run())
        assert [(x.act, x.verdict.perform) for x in told] == [("copied onto", True)]
        assert outcome.way in (Way.COMMAND, Way.RESERVED)
        assert len(two.a.pool.state.relations) == 1

    play(scenario)


@pytest.mark.parametrize("mirror", ["", "required"])
def test_the_audit_hears_of_a_refusal_once(mirror: Policy) -> None:
    async def scenario(two: Two) -> None:
        told: list[Decision] = []
        two.a.pool.on_decision.append(told.append)
        wal = two.a.pool.state.names["wal"]
        two.a.pool.attached.attach(wal, HOST, role="host", read_only=False)
        with pytest.raises(Conflict, match="in use"):
            await two.a.call(negotiation(two, mirror).run())
        assert [x.verdict.perform for x in told] == [False]
        check = await two.a.call(negotiation(two, mirror).check())
        assert "in use" in check.steps[0].detail
        assert len(told) == 1

    play(scenario)


@pytest.mark.parametrize("seconds", [0.0, -1.0, ANSWER_S_MAX + 1, float("nan")])
def test_a_time_to_wait_that_is_none(seconds: float) -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(InvalidInput, match="waited for"):
            negotiation(two, "required", seconds=seconds)

    play(scenario, mirrored=False)


def test_a_group_that_is_deleted_while_its_secondary_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then nobody follows its volumes: the command is done, and nothing is left to promise."""

    async def scenario(two: Two) -> None:
        asking, peer = two.a.mirrors.asking, two.b.pool.identity
        await until(lambda: asking.requests.duplex(two.a.group(), peer))
        ask = asking.ask

        async def asked(*args: Any, **options: Any) -> list[Step]:
            steps = await ask(*args, **options)
            groups.delete(two.a.pool, GROUP)
            return steps

        monkeypatch.setattr(asking, "ask", asked)
        outcome = await two.a.call(negotiation(two, "required").run())
        assert outcome.way is Way.LOCAL
        assert [step.ok for step in outcome.steps] == [True] * len(outcome.steps)
        assert len(two.a.pool.state.relations) == 1

    play(scenario)


def test_a_volume_that_is_deleted_while_others_are_asked() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.a.pool, two.a.group()
        asking, db, wal = two.a.mirrors.asking, *group.volumes
        plan = Plan(GROUP, frozenset({db}), frozenset({wal}), 1)
        groups.delete(pool, GROUP)
        assert await two.a.call(asking.ask(plan, "op", seconds=1.0)) == []
        asking.given(plan, "op")
        groups.create(pool, GROUP, ["db"])
        volumes.delete(pool, "wal")
        assert await two.a.call(asking.ask(plan, "op", seconds=1.0)) == []

    play(scenario)
