"""Commands about relations that a secondary takes, refuses, or takes without the relation.

Those about copies and sizes are in `test_apply`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.mirror import commands as module
from isochrone.mirror import onto
from isochrone.mirror.commands import room
from isochrone.mirror.messages import COMMAND_BYTES_MAX, Begin, Cut
from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.mirrored import commands
from isochrone.store.overlaps import EXTENTS_MAX
from isochrone.types import BLOCK, KIB, MIB, TIB
from tests.mirror.sites import fill
from tests.mirror.test_apply import BOTH, Secondary, blocks_of, in_a_pool, record, taken


def part(id: int = 9, *extents: tuple[int, int, int], **fields: Any) -> r.MirroredPart:
    named = {"source": 70, "target": 71, "stamp": 5, **fields}
    return r.MirroredPart(id=id, extents=extents or ((0, 16, 16),), **named)


def done(act: Any, *parts: r.MirroredPart) -> Any:
    return record(r.RelationsMirrored(act=act, parts=parts))


def withdrawn(act: Any, id: int = 9, *ranges: tuple[int, int], target: int = 71) -> Any:
    return done(act, r.MirroredPart(id, 70, target, withdrawn=ranges))


def known(there: Secondary) -> dict[int, list[tuple[int, int, int]]]:
    """Extents by the number at the primary."""
    return {x.origin: x.extents for x in there.pool.state.relations.values() if x.group}


def wal(there: Secondary, block: int) -> bytes:
    return there.seen()["wal"][block * BLOCK : (block + 1) * BLOCK]


def test_a_relation_appears_with_its_group() -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=BOTH), done("establish", part()))
        assert known(there) == {}
        assert wal(there, 16) == bytes(BLOCK)
        there.send(blocks_of(70, [0], "after"), Cut(cut=2, stamp=2, blocks=1, token=0))
        assert known(there) == {9: [(0, 16, 16)]}
        (relation,) = there.pool.state.relations.values()
        state = there.pool.state
        assert [state.volumes[x].name for x in (relation.source, relation.target)] == ["db", "wal"]
        assert (relation.stamp, relation.generation, relation.inexact) == (5, 1, False)
        assert wal(there, 16) == fill("one 0")
        check_pool(there.pool)

    in_a_pool(act)


def test_what_is_withdrawn_in_the_group_that_made_it_leaves_nothing() -> None:
    def act(there: Secondary) -> None:
        there.cut(
            2, 1, done("establish", part()), blocks_of(71, [31], "host"), withdrawn("discard"),
        )  # fmt: skip
        assert known(there) == {}
        assert [wal(there, n) for n in (16, 31)] == [fill("one 0"), fill("host 31")]
        there.cut(3, 2, done("establish", part(10)), withdrawn("discard", 10))
        assert wal(there, 16) == bytes(BLOCK)
        check_pool(there.pool)

    in_a_pool(act)


def test_what_comes_and_goes_in_one_group_is_not_noted() -> None:
    """However often a primary does that, what is kept of the group stays small."""

    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=BOTH))
        for _ in range(50):
            there.send(done("establish", part()), withdrawn("keep"))
        group = there.group
        assert (group.incoming.withdrawn, group.incoming.relations) == (set(), {})
        there.send(Cut(cut=2, stamp=2, blocks=0, token=0))
        assert known(there) == {}

    in_a_pool(act)


@pytest.mark.parametrize("apart", [True, False])
def test_a_whole_life_in_one_group_or_in_many(apart: bool) -> None:
    """A relation is the same whether it is seen between its commands or not."""

    def act(there: Secondary) -> None:
        life = [
            done("establish", part(9, (0, 16, 48))),
            blocks_of(70, [1], "new"), blocks_of(71, [33], "host"),
            withdrawn("keep", 9, (48, 16)),
            done("refresh", part(9, (0, 16, 32), generation=2)),
            blocks_of(71, [34], "again"),
            done("restore", part(9, (0, 16, 32), generation=3)),
            withdrawn("discard", 9, (16, 16)),
        ]  # fmt: skip
        if apart:
            for number, step in enumerate(life):
                there.cut(2 + number, 1 + number, step)
        else:
            there.cut(2, 1, *life)
        assert known(there) == {9: [(16, 32, 16)]}
        (relation,) = there.pool.state.relations.values()
        assert relation.generation == 3
        assert wal(there, 16) == bytes(BLOCK)
        assert wal(there, 34) == fill("again 34")
        assert there.seen()["db"][BLOCK : 2 * BLOCK] == fill("new 1")
        assert there.seen()["db"][18 * BLOCK : 19 * BLOCK] == fill("again 34")
        check_pool(there.pool)

    in_a_pool(act)


def test_a_group_that_breaks_off_takes_its_relations_with_it() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part()))
        there.send(Begin(base=2, cut=3, volumes=BOTH), withdrawn("discard"),
                   done("establish", part(10, (0, 32, 16))))  # fmt: skip
        there.connect()
        there.send(Begin(base=2, cut=4, volumes=BOTH))
        there.send(Cut(cut=4, stamp=1, blocks=0, token=0))
        assert known(there) == {9: [(0, 16, 16)]}
        assert wal(there, 16) == fill("one 0")
        check_pool(there.pool)

    in_a_pool(act)


def test_without_room_only_the_content_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "RELATIONS_MAX", 2)

    def act(there: Secondary) -> None:
        assert room(there.pool) == 2
        there.cut(
            2, 1, done("establish", part(1, (0, 16, 16))), done("establish", part(2, (0, 32, 16)),
            part(3, (0, 48, 16))), done("establish", part(4, (0, 64, 16))),
        )  # fmt: skip
        assert known(there) == {1: [(0, 16, 16)], 2: [(0, 32, 16)]}
        assert there.group.unheld == [3, 4]
        assert [wal(there, n) for n in (16, 32, 48, 64)] == [fill("one 0")] * 4
        there.cut(3, 2, withdrawn("keep", 1), withdrawn("keep", 3), withdrawn("keep", 4, (64, 16)))
        assert there.group.unheld == [4]
        there.cut(4, 3, done("refresh", part(4, (0, 64, 16), generation=2)))
        assert there.group.unheld == []
        assert set(known(there)) == {2, 4}

    in_a_pool(act)


def test_what_contradicts_the_primary_goes() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9, (0, 16, 32))))
        there.cut(3, 2, done("establish", part(10, (0, 32, 32))))
        assert known(there) == {10: [(0, 32, 32)]}
        there.cut(4, 3, withdrawn("keep", 9))  # it is not here any more: nothing to do
        check_pool(there.pool)

    in_a_pool(act)


def test_a_target_that_is_cut_off_is_none_any_more() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9, (0, 128, 16)), part(10, (0, 16, 16))))
        there.cut(3, 2, record(r.VolumeResized(id=71, size=128 * BLOCK)))
        assert known(there) == {10: [(0, 16, 16)]}
        check_pool(there.pool)

    in_a_pool(act)


IMPOSSIBLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a volume of another": (lambda: done("establish", part(source=1)), "not part of the group"),
    "no relation": (lambda: done("establish"), "copied nothing"),
    "no extents": (lambda: done("establish", r.MirroredPart(9, 70, 71)), "with 0 extents"),
    "beyond the end": (lambda: done("refresh", part(9, (0, 256, 16))), "past the end"),
    "a source beyond": (lambda: done("establish", part(9, (256, 0, 16))), "past the end"),
    "between tracks": (lambda: done("establish", part(9, (0, 1, 16))), "do not exist"),
    "negative": (lambda: done("establish", part(9, (-16, 0, 16))), "do not exist"),
    "endless": (lambda: done("establish", part(9, (1 << 60, 0, 16))), "do not exist"),
    "twice the same place": (
        lambda: done("establish", part(9, (0, 16, 16)), part(10, (32, 16, 16))), "twice to one"
    ),
    "restored twice": (
        lambda: done("restore", part(9, (0, 16, 16)), part(10, (0, 32, 16))), "twice to one"
    ),
    "two onto one": (
        lambda: done("restore", part(9, (0, 16, 16)), part(10, (32, 16, 16))), "onto one place"
    ),
    "twice the same": (
        lambda: done("establish", part(9, (0, 16, 16)), part(9, (0, 32, 16))), "twice in one"
    ),
    "too much": (
        lambda: done("establish", part(9, *((n, n * 16, 1) for n in range(EXTENTS_MAX + 1)))),
        "extents",
    ),
    "no number": (lambda: done("establish", part(0)), "impossible number"),
    "a huge number": (lambda: done("establish", part(1 << 63)), "impossible number"),
    "no generation": (lambda: done("refresh", part(generation=0)), "impossible number"),
    "a huge time": (lambda: done("refresh", part(stamp=1 << 63)), "impossible time"),
    "withdrawn nothing": (lambda: done("keep"), "withdrew nothing"),
    "withdrawn twice": (lambda: withdrawn("keep", 9, (0, 16), (0, 16)), "one twice"),
    "withdrawn before": (lambda: withdrawn("keep", 9, (-16, 32)), "does not exist"),
    "withdrawn between": (lambda: withdrawn("keep", 9, (8, 16)), "does not exist"),
    "discarded unknown": (lambda: withdrawn("discard", 77), "not known here"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_primary_sends_is_refused(name: str) -> None:
    make, message = IMPOSSIBLE[name]

    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=BOTH))
        lsn = there.pool.log.lsn
        with pytest.raises(PeerFault, match=message):
            there.send(make())
        assert there.pool.log.lsn == lsn, "something was logged"

    in_a_pool(act)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: withdrawn("keep", n, (0, 16)),
        lambda n: done("establish", part(n)),
        lambda n: record(r.CopyDeleted(name=f"c{n}")),
        lambda n: taken(f"c{n}"),
    ],
    ids=["withdrawn", "established", "deleted", "taken"],
)
def test_what_is_noted_of_a_group_has_a_bound(
    make: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOTED_MAX", 8)

    def act(there: Secondary) -> None:
        for cut in range(2, 8):  # also over many cuts
            there.send(Begin(base=cut - 1, cut=cut, volumes=BOTH))
            for n in range(4):
                there.send(make(100 * cut + n))
            there.send(Cut(cut=cut, stamp=cut, blocks=0, token=0))
        there.send(Begin(base=7, cut=8, volumes=BOTH))
        for n in range(20):
            there.send(make(1000 + n))

    with pytest.raises(PeerFault, match="more than 8"):
        in_a_pool(act)


def test_commands_look_at_the_relations_of_a_group_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of commands beside thousands of relations must not hold up the loop."""
    looked: list[int] = []
    arriving = onto.arriving

    def counted(state: Any, group: Any) -> Any:
        looked.append(1)
        return arriving(state, group)

    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=BOTH))
        monkeypatch.setattr(onto, "arriving", counted)
        there.send(done("establish", *(part(n, (0, 16 * n, 16)) for n in range(1, 8))))
        there.send(done("establish", part(50, (0, 32, 32)), part(51, (0, 96, 16))))
        assert len(looked) == 1
        there.send(Cut(cut=2, stamp=2, blocks=0, token=0))
        assert sorted(known(there)) == [1, 4, 5, 7, 50, 51]
        check_pool(there.pool)

    in_a_pool(act)


NUMBERS = st.one_of(st.integers(0, 40), st.integers(-(1 << 63), (1 << 64) - 1))
EXTENTS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=3).map(tuple)
PARTS = st.builds(
    r.MirroredPart, NUMBERS, st.sampled_from([70, 71, 72]), st.sampled_from([70, 71, 1]), EXTENTS,
    NUMBERS, NUMBERS, st.booleans(), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=2).map(tuple),
    NUMBERS,
)  # fmt: skip
ACTS = st.sampled_from(["establish", "refresh", "restore", "keep", "discard"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTS, st.lists(PARTS, max_size=3)), max_size=6))
def test_no_command_can_bring_a_pool_out_of_order(sent: list[Any]) -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=BOTH))
        for act, parts in sent:
            try:
                command = done(act, *parts)
            except OverflowError:
                continue
            try:
                there.send(command)
            except PeerFault:
                continue
        there.send(Cut(cut=2, stamp=2, blocks=0, token=0))
        check_pool(there.pool)

    in_a_pool(act)


# -- what is sent


HUGE = 64 * TIB // BLOCK


def largest() -> list[r.AnyRecord]:
    """The longest of each kind of command, for the largest volumes."""
    many = tuple((HUGE - 16 * n, HUGE - 16 * n, 16) for n in range(1, EXTENTS_MAX + 1))
    whole = r.MirroredPart(1 << 40, 1 << 40, 1 << 40, many, 1 << 62, 1 << 40, True)
    ranges = tuple((at, n) for _, at, n in many)
    gone = r.MirroredPart(1 << 40, 1 << 40, 1 << 40, withdrawn=ranges)
    member = tuple(((1 << 40) + n, (1 << 41) + n) for n in range(1024))
    return [
        r.RelationsMirrored(act="establish", parts=(whole,)),
        r.RelationsMirrored(act="restore", parts=(whole,)),
        r.RelationsMirrored(act="discard", parts=(gone,)),
        r.CopyTaken(name="n" * 128, writable=False, stamp=1 << 62, members=member),
        r.CopyDeleted(name="n" * 128),
        r.VolumeResized(id=1 << 40, size=64 * TIB),
    ]


def test_the_longest_commands_are_short() -> None:
    for command in largest():
        assert len(r.encode(command)) < 64 * KIB < COMMAND_BYTES_MAX


def test_a_withdrawal_of_very_many_is_sent_one_by_one() -> None:
    parts = tuple(r.MirroredPart(n, 1, 2) for n in range(1, 4097))
    record = r.RelationsWithdrawn(
        parts=tuple(r.WithdrawnPart(x.id) for x in parts), discard=True, mirrored=parts,
        images=((2, 50),),
    )  # fmt: skip
    sent = list(commands(record, {1, 2}))
    assert len(sent) == 4096
    assert all(isinstance(x, r.RelationsMirrored) and x.act == "keep" for x in sent)
    assert list(commands(record, {1})) == []


def test_local_relations_and_copies_are_left_alone() -> None:
    def act(there: Secondary) -> None:
        volumes.create(there.pool, "lab", MIB)
        relations.establish(there.pool, [relations.Wish("db", "lab")])
        copies.take(there.pool, ["lab"], name="mine")
        there.cut(2, 1, taken(), done("establish", part()))
        assert len(there.pool.state.relations) == 2
        there.cut(3, 2, withdrawn("keep"))
        (left,) = there.pool.state.relations.values()
        assert (left.group, left.origin) == ("", 0)

    in_a_pool(act)
