"""Who is served and who is not, whatever message asks."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, StaleEpoch
from isochrone.mirror import admission
from isochrone.mirror.messages import Branching, Fence, Hello, Welcome
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Session
from tests.mirror.sites import GROUP, Two, play


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (Group(name="g", role="primary"), None),
        (Group(name="g", role="primary", handover="x"), None),  # its last cut has to get over
        (Group(name="g", role="secondary", cut=3), None),
        (Group(name="g", role="secondary"), Conflict),
        (Group(name="g", role="secondary", cut=3, diverged=2), Conflict),
        (Group(name="g", role="fenced", cut=3, superseded_by=2), StaleEpoch),
    ],
)
def test_who_serves(group: Group, error: type[Exception] | None) -> None:
    if error is None:
        admission.check_serves(group)
    else:
        with pytest.raises(error):
            admission.check_serves(group)


def hello(epoch: int, branch: str) -> Hello:
    return Hello(pool="p", group="g", lineage="x", epoch=epoch, cut=7, branch=branch)


def test_another_branch_of_the_same_epoch() -> None:
    mine = Group(name="g", role="primary", lineage="x", epoch=2, takeovers=[r.Takeover(2, 5, "b")])
    admission.check_branch(mine, hello(2, "b"))
    admission.check_branch(mine, hello(2, ""))  # a build that did not say
    admission.check_branch(mine, hello(1, ""))
    with pytest.raises(Conflict, match="two sites took epoch 2") as e:
        admission.check_branch(mine, hello(2, "c"))
    assert "repoint" in e.value.hint


def test_who_comes_with_a_cut_that_was_not_sent_from_here_was_elsewhere() -> None:
    group = Group(name="g", role="primary", lineage="x", sessions={"p": Session(cut=5, sent_cut=7)})
    assert not admission.is_new(group, hello(1, ""))
    group.sessions["p"] = Session(cut=5, sent_cut=6)
    assert admission.is_new(group, hello(1, ""))
    group.sessions["p"].begun = [7]
    assert not admission.is_new(group, hello(1, ""))
    del group.sessions["p"]
    assert admission.is_new(group, hello(1, ""))
    nothing = Hello(pool="p", group="g", lineage="", epoch=0, cut=0)
    group.sessions["p"] = Session()
    assert not admission.is_new(group, nothing)


def test_a_hello_of_another_branch_is_refused_by_a_primary() -> None:
    async def scenario(two: Two) -> None:
        group = two.a.group()
        group.epoch, group.takeovers = 2, [r.Takeover(2, 1, "b")]
        two.b.group().epoch, two.b.group().takeovers = 2, [r.Takeover(2, 1, "c")]
        two.fabric.cut("a", "b")
        two.fabric.heal_all()
        from tests.mirror.sites import until

        await until(lambda: "two sites took epoch 2" in two.b.status().cause)

    play(scenario)


def test_what_is_told_of_the_history_is_learned_once() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.b.pool, two.b.group()
        assert group.way == [two.a.pool.identity]
        told = Welcome(
            pool="p", lineage="x", epoch=2, cut=9, resume=True, volumes=(),
            takeovers=(Branching(2, 7, "b"),), way=("p", "q"),
        )  # fmt: skip
        admission.note_welcome(pool, group, told)
        lsn = pool.log.lsn
        assert (group.takeovers, group.way) == ([r.Takeover(2, 7, "b")], ["p", "q"])
        assert admission.history(group) == told.takeovers
        admission.note_welcome(pool, group, told)
        assert pool.log.lsn == lsn
        await two.b.call(pool.flush())
        await two.b.restart()
        assert two.b.group().takeovers == [r.Takeover(2, 7, "b")]

    play(scenario)


def test_what_a_fence_says_is_remembered() -> None:
    async def scenario(two: Two) -> None:
        group = two.a.group()
        fence = Fence(group=GROUP, lineage=group.lineage, epoch=2, cut=1, source="b:7001")
        await two.a.call(admission.give_way(two.a.pool, group, 2, fence))
        await two.a.restart()
        group = two.a.group()
        assert (group.role, group.superseded_by, group.superseded_cut) == ("fenced", 2, 1)
        assert group.source == "b:7001"
        assert group.fenced_stamp
        lsn = two.a.pool.log.lsn
        await two.a.call(admission.give_way(two.a.pool, group, 3, fence))
        assert two.a.pool.log.lsn == lsn

    play(scenario)


def test_the_fence_of_a_promoted_group() -> None:
    group = Group(
        name="g", role="primary", lineage="x", epoch=3, cut=12,
        takeovers=[r.Takeover(2, 5, "b"), r.Takeover(3, 9, "c")],
    )  # fmt: skip
    assert admission.fence_of(group, "here:1") == Fence(
        group="g", lineage="x", epoch=3, cut=9, source="here:1"
    )
    assert admission.cuts_known(group) == ()
