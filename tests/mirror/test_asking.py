"""The secondary is asked first: who says what to whom, and what stays behind when it goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isochrone.errors import Conflict, DeadlinePassed
from isochrone.mirror.capabilities import ASKING
from isochrone.mirror.messages import Query, Release, Requests
from isochrone.mirror.negotiation import Negotiation, Outcome
from isochrone.mirror.query import Policy, Reason, Way
from isochrone.mirror.reservations import Replies
from isochrone.store import records as r
from isochrone.store import relations, volumes
from isochrone.store.overwrite import Permission
from isochrone.store.relations import Wish
from isochrone.types import MIB
from tests.mirror import sites
from tests.mirror.sites import GROUP, Scenario, Two, sleep, until


class Wire:
    """What the secondary is asked and told, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[Any] = []
        to = Replies.to

        async def noted(replies: Replies, question: Any) -> Any:
            if not isinstance(question, Requests):  # that comes with each connection
                self.heard.append(question)
            return await to(replies, question)

        monkeypatch.setattr(Replies, "to", noted)

    def queries(self) -> list[Query]:
        return [x for x in self.heard if isinstance(x, Query)]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def negotiation(
    two: Two, *pairs: str, mirror: Policy = "required", seconds: float = 5.0
) -> Negotiation:
    wishes = [Wish(*pair.split("=")) for pair in pairs or ("db=wal",)]
    pool = two.a.pool
    return Negotiation(
        pool,
        two.a.mirrors.asking,
        lambda agreed: relations.establish(pool, wishes, permission=agreed),
        Permission(mirror=mirror),
        relations=len(wishes),
        seconds=seconds,
    )


async def duplex(two: Two) -> None:
    """Until the primary, too, knows that the first copy is done."""
    requests, peer = two.a.mirrors.asking.requests, two.b.pool.identity
    await until(lambda: requests.duplex(two.a.group(), peer))


def play(scenario: Scenario, *, made: bool = True) -> None:
    async def whole(two: Two) -> None:
        if made:
            await duplex(two)
        await scenario(two)

    sites.play(whole, made=made)


async def establish(two: Two, *pairs: str, **options: Any) -> Outcome:
    outcome: Outcome = await two.a.call(negotiation(two, *pairs, **options).run())
    return outcome


def test_a_healthy_mirror_is_asked_and_then_does_the_same(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        order: list[str] = []
        two.a.pool.on_change.append(lambda lsn, record: order.append(type(record).__name__))
        two.b.pool.on_change.append(lambda lsn, record: order.append(type(record).__name__))
        outcome = await establish(two)
        assert [step.stage for step in outcome.steps][:1] == ["local"]
        assert [(step.stage, step.ok) for step in outcome.steps[-1:]] == [("secondary", True)]
        assert outcome.way is Way.RESERVED
        assert order.index("ReservationMade") < order.index("RelationsEstablished")
        assert len(wire.queries()) == 1
        await two.b.wait()
        assert two.same("db", "wal")
        await until(lambda: two.b.group().reservations == [])
        assert [type(x) for x in wire.heard] == [Query, Release]
        assert two.b.status().state == "DUPLEX"

    play(scenario)


def test_a_local_no_asks_nobody(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        await establish(two)
        wire.heard.clear()
        with pytest.raises(Conflict, match="target"):
            await establish(two)
        check = await two.a.call(negotiation(two).check())
        assert [(step.stage, step.reason) for step in check.steps] == [("local", Reason.LOCAL)]
        assert wire.queries() == []

    play(scenario)


def test_what_the_primary_knows_is_not_asked(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await until(lambda: not two.a.mirrors._live(GROUP))
        with pytest.raises(Conflict, match="inaccessible"):
            await establish(two)
        assert two.a.pool.state.relations == {}
        outcome = await establish(two, mirror="preferred")
        assert (outcome.way, outcome.steps[-1].reason) == (Way.COMMAND, Reason.INACCESSIBLE)
        assert wire.queries() == []
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


def test_a_source_from_outside_is_refused_or_travels_as_data(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "spare", 4 * MIB)
        two.a.write("spare", 3, "from outside")
        with pytest.raises(Conflict, match="travel as data"):
            await establish(two, "spare=wal")
        assert wire.queries() == []
        outcome = await establish(two, "spare=wal", mirror="preferred")
        assert outcome.way is Way.DATA
        await two.b.wait()
        assert two.b.says("wal", 3) == "from outside"
        assert wire.queries() == []

    play(scenario)


def full(two: Two) -> None:
    """The secondary has no place left for a relation."""
    two.b.pool.record(
        r.ReservationMade(
            group=GROUP, op="another", relations=relations.RELATIONS_MAX,
            stamp=two.b.pool.world.clock.wall_ns(), seconds=500.0,
        )
    )  # fmt: skip


def test_a_no_of_the_secondary_rejects_or_not(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        full(two)
        lsn = two.a.pool.log.lsn
        with pytest.raises(Conflict, match="relation-limit"):
            await establish(two)
        assert two.a.pool.state.relations == {}
        assert two.a.pool.log.lsn == lsn
        assert [x.op for x in two.b.group().reservations] == ["another"]
        assert two.b.status().reservations == 1
        outcome = await establish(two, mirror="preferred")
        assert outcome.way is Way.COMMAND
        assert outcome.steps[-1].reason is Reason.RELATION_LIMIT
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


def test_what_is_on_its_way_needs_its_place_first(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        half = MIB // 2
        two.fabric.stall("a", "b", one_way=True)
        for n in range(3):
            span = relations.Span(n * half, n * half, half)
            relations.establish(two.a.pool, [Wish("db", "wal", (span,))])
        span = relations.Span(3 * half, 3 * half, half)
        act = Negotiation(
            two.a.pool,
            two.a.mirrors.asking,
            lambda agreed: relations.establish(
                two.a.pool, [Wish("db", "wal", (span,))], permission=agreed
            ),
            Permission(mirror="required"),
            relations=1,
            seconds=5.0,
        )
        task = two.a.site.spawn(act.run())
        await sleep(1.0)
        two.fabric.heal("a", "b", one_way=True)
        await task
        assert wire.queries()[0].relations == 4

    play(scenario)


def test_a_dry_question_keeps_no_room(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        outcome = await two.a.call(negotiation(two).check())
        assert all(step.ok for step in outcome.steps)
        assert wire.queries()[0].dry
        assert two.b.group().reservations == []
        assert two.a.pool.state.relations == {}
        full(two)
        outcome = await two.a.call(negotiation(two).check())
        assert outcome.steps[-1].reason is Reason.RELATION_LIMIT

    play(scenario)


def test_a_black_hole_ends_with_the_deadline(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        clock = asyncio.get_running_loop().time
        two.fabric.stall("b", "a", one_way=True)
        began = clock()
        with pytest.raises(DeadlinePassed, match="no answer"):
            await establish(two, seconds=2.0)
        assert clock() - began <= 2.1
        assert two.a.pool.state.relations == {}
        two.fabric.heal("a", "b")
        await two.b.wait()
        await until(lambda: two.b.group().reservations == [], seconds=200.0)

    play(scenario)


@pytest.mark.parametrize("power", [True, False])
def test_the_primary_dies_between_answer_and_execution(power: bool) -> None:
    async def scenario(two: Two) -> None:
        pool = two.a.pool

        def die(lsn: int, record: r.AnyRecord) -> None:
            if isinstance(record, r.ReservationMade):
                asyncio.get_running_loop().call_soon(two.a.crash)

        two.b.pool.on_change.append(die)
        task = two.a.site.spawn(negotiation(two).run())
        await asyncio.wait({task})
        await two.a.start()
        assert two.a.pool is not pool
        assert two.a.pool.state.relations == {}
        await two.b.wait()
        assert two.b.pool.state.relations == {}
        await two.b.restart(power=power)  # what it promised, it promises still
        assert len(two.b.group().reservations) == 1
        await until(lambda: two.b.group().reservations == [], seconds=150.0)

    play(scenario)


def test_one_of_sixteen_rejects_all(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        names = tuple(f"v{n}" for n in range(16))
        await two.make(names, size=MIB)
        await two.mirror()
        await duplex(two)
        pairs = [f"v{n}=v{n + 8}" for n in range(8)]
        volume = two.b.pool.state.volumes[two.b.pool.state.names["v13"]]
        volume.size += MIB  # as if a resize had not come yet
        with pytest.raises(Conflict, match="size") as e:
            await establish(two, *pairs)
        assert "v13" in e.value.message
        assert two.a.pool.state.relations == {}
        volume.size -= MIB
        assert (await establish(two, *pairs)).way is Way.RESERVED
        assert len(wire.queries()) == 2
        assert len(two.a.pool.state.relations) == 8

    play(scenario, made=False)


def test_nobody_writes_slower_while_somebody_asks() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("b", "a", one_way=True)
        task = two.a.site.spawn(negotiation(two, seconds=3.0).run())
        began = asyncio.get_running_loop().time()
        for n in range(50):
            two.a.write("db", n, f"w{n}")
            await sleep(0)
        assert asyncio.get_running_loop().time() == began
        with pytest.raises(DeadlinePassed):
            await task

    play(scenario)


def test_what_changed_meanwhile_is_seen(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        def steal(lsn: int, record: r.AnyRecord) -> None:
            if isinstance(record, r.ReservationMade):
                relations.establish(two.a.pool, [Wish("db", "wal")])

        two.b.pool.on_change.append(steal)
        with pytest.raises(Conflict, match="target"):
            await establish(two)
        assert len(two.a.pool.state.relations) == 1
        await two.b.wait()
        await until(lambda: two.b.group().reservations == [])

    play(scenario)


def test_an_older_version_is_not_asked(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        (session,) = two.a.mirrors._live(GROUP).values()
        session.talk.capabilities -= {ASKING}
        with pytest.raises(Conflict, match="version"):
            await establish(two)
        assert (await establish(two, mirror="preferred")).way is Way.COMMAND
        assert wire.heard == []

    play(scenario)


def test_a_secondary_that_is_promoted_owes_nothing() -> None:
    async def scenario(two: Two) -> None:
        full(two)
        two.b.pool.record(r.Promoted(group=GROUP, epoch=2, stamp=1))
        await until(lambda: two.b.group().reservations == [])

    play(scenario)


def test_an_unfollowed_target_asks_nobody(wire: Wire) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "one", MIB)
        volumes.create(two.a.pool, "two", MIB)
        assert (await establish(two, "one=two")).way is Way.LOCAL
        assert wire.queries() == []

    play(scenario)
