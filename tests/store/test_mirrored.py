"""What the record of a command on relations tells the secondaries of a group."""

from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.store import relations, volumes
from isochrone.store.mirrored import commands, content_only, group_of, settled
from isochrone.store.pool import Pool
from isochrone.store.relations import Span, Wish
from isochrone.types import MIB, TRACK
from tests.store.pools import Rig


@pytest.fixture
def pool() -> Pool:
    return Rig().open()


@pytest.fixture
def told(pool: Pool) -> list[r.AnyRecord]:
    """All that is told of a group of `a` and `b`, which somebody follows; `c` is beside it."""
    for name in ("a", "b", "c"):
        volumes.create(pool, name, MIB)
    ids = {pool.state.names[name] for name in ("a", "b")}
    pool.record(r.GroupCreated(name="g", lineage="ab" * 16, volumes=tuple(sorted(ids))))
    pool.record(r.SessionOpened(group="g", peer="p", site="far"))
    found: list[r.AnyRecord] = []

    def listen(_lsn: int, record: r.AnyRecord) -> None:
        match record:
            case (
                r.RelationsEstablished()
                | r.RelationsRefreshed()
                | r.RelationsRestored()
                | r.RelationsWithdrawn()
            ):
                found.extend(commands(record, ids))

    pool.on_change.append(listen)
    return found


def test_inside_the_group_the_whole_relation_is_told(pool: Pool, told: list[r.AnyRecord]) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b", (Span(0, TRACK, 2 * TRACK),))])
    assert made.group == "g"
    relations.refresh(pool, [made])
    relations.restore(pool, [made])
    relations.withdraw(pool, [made], discard=False, ranges=[(TRACK, TRACK)])
    relations.withdraw(pool, [made], discard=False, ranges=[(0, MIB)])
    acts = [(x.act, *x.parts) for x in told if isinstance(x, r.RelationsMirrored)]
    assert [(act, x.generation, x.extents, x.withdrawn) for act, x in acts] == [
        ("establish", 1, ((0, 16, 32),), ()),
        ("refresh", 2, ((0, 16, 32),), ()),
        ("restore", 3, ((0, 16, 32),), ()),
        ("keep", 1, (), ((16, 16),)),
        ("keep", 1, (), ()),  # nothing is left of it
    ]
    assert {x.id for _, x in acts} == {made.id}
    assert pool.state.groups["g"].images == []


def test_a_discard_that_nobody_is_sure_of_goes_as_an_image(
    pool: Pool, told: list[r.AnyRecord]
) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b")])
    assert not settled(pool.state, made)
    relations.withdraw(pool, [made], discard=True)
    assert [x.act for x in told if isinstance(x, r.RelationsMirrored)] == ["establish", "keep"]
    assert len(pool.state.groups["g"].images) == 1
    assert pool.state.groups["g"].discarded_lsn == 0


def test_a_discard_that_all_are_sure_of_is_told(pool: Pool, told: list[r.AnyRecord]) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b")])
    pool.record(r.CutPlaced(group="g", cut=1, stamp=1))
    pool.record(r.SessionHolds(group="g", peer="p"))
    pool.record(r.CutPlaced(group="g", cut=2, stamp=1, acked={"p": 1}))
    assert settled(pool.state, made)
    relations.withdraw(pool, [made], discard=True)
    assert [x.act for x in told if isinstance(x, r.RelationsMirrored)] == ["establish", "discard"]
    assert pool.state.groups["g"].images == []
    assert pool.state.groups["g"].discarded_lsn == pool.log.lsn


def test_what_reaches_out_of_the_group_is_of_this_site(pool: Pool, told: list[r.AnyRecord]) -> None:
    (out,) = relations.establish(pool, [Wish("a", "c")])
    relations.refresh(pool, [out])
    relations.withdraw(pool, [out], discard=True)
    assert told == []
    state = pool.state
    assert group_of(state, state.names["a"], state.names["b"]) == "g"
    assert group_of(state, state.names["a"], state.names["c"]) == ""
    assert group_of(state, state.names["c"], state.names["c"]) == ""


def test_once_is_content_alone(pool: Pool, told: list[r.AnyRecord]) -> None:
    relations.establish(pool, [Wish("a", "b")], once=True)
    (command,) = told
    assert isinstance(command, r.RelationsEstablished)
    assert command.once
    assert pool.state.relations == {}


def test_a_withdrawal_changes_what_a_cut_looks_at(pool: Pool, told: list[r.AnyRecord]) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b")])
    relations.withdraw(pool, [made], discard=False)
    assert pool.state.volumes[made.target].changed_lsn == pool.log.lsn


def test_where_only_the_content_is(pool: Pool, told: list[r.AnyRecord]) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b")])
    assert content_only(pool.state, made) == []
    pool.record(r.SessionHolds(group="g", peer="p", unheld=(made.id,)))
    assert content_only(pool.state, made) == ["far"]


def test_it_is_all_in_the_log(pool: Pool, told: list[r.AnyRecord]) -> None:
    """A record alone tells it, whatever became of the relation since."""
    (made,) = relations.establish(pool, [Wish("a", "b")])
    relations.refresh(pool, [made])
    record = r.RelationsRefreshed(
        ids=(made.id,), stamp=made.stamp, mirrored=(r.MirroredPart(
            made.id, made.source, made.target, tuple(made.extents), made.stamp, 2
        ),)
    )  # fmt: skip
    relations.withdraw(pool, [made], discard=False)
    again = r.decode(r.encode(record))
    assert isinstance(again, r.RelationsRefreshed)
    assert list(commands(again, {made.target})) == [told[1]]
