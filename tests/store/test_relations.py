"""The commands: what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isochrone.errors import Conflict, InvalidInput, IsochroneError, NotFound, ReadOnly
from isochrone.store import copies, relations, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.front import PoolBackend
from isochrone.store.pool import Pool
from isochrone.store.relations import EXTENTS_MAX, Span, Wish
from isochrone.types import BLOCK, GIB, KIB, MIB, TRACK, Caller, Proof
from tests.store.pools import Rig, get, pattern, put, settle

HOST = Caller(Proof.ADDRESS, "10.0.0.9", "10.0.0.9:1234")


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def pool(rig: Rig) -> Pool:
    pool = rig.open()
    for name in "abc":
        volumes.create(pool, name, 2 * MIB)
    put(pool, "a", 0, pattern(1, 2 * MIB))
    put(pool, "b", 0, pattern(2, 2 * MIB))
    return pool


def one(pool: Pool, source: str = "a", target: str = "b", *spans: Span) -> relations.Relation:
    (made,) = relations.establish(pool, [Wish(source, target, spans)])
    return made


def test_a_relation_survives_a_crash_and_a_checkpoint(rig: Rig, pool: Pool) -> None:
    made = one(pool)
    settle(pool.flush())
    pool = rig.cut()
    assert pool.state.relations == {made.id: made}
    put(pool, "b", 0, pattern(3))
    pool = rig.reopen(pool)
    assert pool.state.relations[made.id].first_node == made.first_node
    relations.withdraw(pool, relations.select(pool, [made.id]), discard=True)
    assert get(pool, "b") == pattern(3) + pattern(1, 2 * MIB)[BLOCK:TRACK] + bytes(2 * MIB - TRACK)
    assert rig.reopen(pool).state.relations == {}


def test_several_targets_of_one_source_have_one_instant(pool: Pool) -> None:
    made = relations.establish(pool, [Wish("a", "b"), Wish("a", "c")])
    assert len({x.lsn for x in made}) == 1
    assert get(pool, "b") == get(pool, "c") == get(pool, "a")
    assert [relations.difference(pool, x) for x in made] == [(0, True), (0, True)]
    put(pool, "a", 100 * KIB, bytes(200))
    assert [relations.difference(pool, x) for x in made] == [(1, True), (1, True)]
    assert [relations.tracks(x) for x in made] == [32, 32]


def test_extents_of_a_pair_are_one_relation(pool: Pool) -> None:
    spans = [Span(0, MIB, TRACK), Span(MIB, 0, 2 * TRACK)]
    wishes = [Wish("a", "b", (spans[0],)), Wish("a", "b", (spans[1],))]
    (made,) = relations.establish(pool, wishes)
    assert made.extents == [(0, 256, 16), (256, 0, 32)]
    assert get(pool, "b", MIB, TRACK) == get(pool, "a", 0, TRACK)
    assert get(pool, "b", 0, 2 * TRACK) == get(pool, "a", MIB, 2 * TRACK)


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ([], InvalidInput, "needs a source"),
        ([Wish("a", "nothing")], NotFound, "no volume 'nothing'"),
        ([Wish("a", "s@copy")], ReadOnly, "'s@copy' cannot be copied onto"),
        ([Wish("a", "a")], InvalidInput, "overlap on 'a'"),
        ([Wish("a", "a", (Span(0, TRACK, 2 * TRACK),))], InvalidInput, "overlap on 'a'"),
        ([Wish("a", "s")], InvalidInput, "'s' has 1048576 bytes; 'a' has 2097152"),
        ([Wish("a", "b"), Wish("c", "b")], InvalidInput, "overlap on 'b'"),
        ([Wish("a", "b", (Span(0, 4096, TRACK),))], InvalidInput, "begin at tracks"),
        ([Wish("a", "b", (Span(0, 0, 4096),))], InvalidInput, "no multiple of 64 KiB"),
        ([Wish("a", "b", (Span(0, 0, 0),))], InvalidInput, "has a length"),
        ([Wish("a", "b", (Span(0, -TRACK, TRACK),))], InvalidInput, "at or behind 0"),
        ([Wish("a", "b", (Span(2 * MIB, 0, TRACK),))], InvalidInput, "past the end of 'a'"),
        ([Wish("a", "s", (Span(0, MIB, TRACK),))], InvalidInput, "past the end of 's'"),
        ([Wish("odd", "b")], InvalidInput, "'odd' ends inside a block"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pool: Pool, wishes: list[Wish], kind: type[IsochroneError], words: str
) -> None:
    volumes.create(pool, "s", MIB)
    volumes.create(pool, "odd", MIB + 512)
    copies.take(pool, ["s"], name="copy")
    lsn = pool.log.lsn
    with pytest.raises(kind, match=words):
        relations.establish(pool, wishes)
    assert pool.log.lsn == lsn


def test_volumes_of_an_odd_size_are_copied_whole(pool: Pool) -> None:
    for name in ("x", "y"):
        volumes.create(pool, name, MIB + 512)
        put(pool, name, MIB, pattern(5 if name == "x" else 6, 512))
    made = one(pool, "x", "y")
    assert get(pool, "y") == get(pool, "x")
    volumes.resize(pool, "y", 2 * MIB)
    assert get(pool, "y", MIB) == pattern(5, 512) + bytes(MIB - 512)
    with pytest.raises(Conflict, match="another size now"):
        relations.refresh(pool, [made])


def test_a_shorter_source_ends_between_tracks(pool: Pool) -> None:
    volumes.create(pool, "x", MIB + 3 * BLOCK)
    put(pool, "x", MIB, pattern(5, 3 * BLOCK))
    made = one(pool, "x", "b")
    assert get(pool, "b", MIB) == pattern(5, 3 * BLOCK) + pattern(2, 2 * MIB)[MIB + 3 * BLOCK :]
    relations.withdraw(pool, [made], discard=True)
    assert get(pool, "b") == bytes(MIB + 3 * BLOCK) + pattern(2, 2 * MIB)[MIB + 3 * BLOCK :]


def test_a_track_is_the_target_of_one_relation(pool: Pool) -> None:
    made = one(pool, "a", "b", Span(0, MIB, TRACK))
    one(pool, "c", "b", Span(0, 0, MIB))
    with pytest.raises(Conflict, match=rf"relation {made.id} \(a to b\)") as refused:
        one(pool, "c", "b", Span(0, MIB, TRACK))
    assert f"relation withdraw {made.id} --keep" in refused.value.hint


def test_a_target_is_not_restored_or_deleted_or_cut_off(pool: Pool) -> None:
    one(pool)
    down = one(pool, "b", "c")
    with pytest.raises(Conflict, match="cannot be restored"):
        relations.restore(pool, [down])
    for name in "abc":
        with pytest.raises(Conflict, match="cannot be deleted"):
            volumes.delete(pool, name)
        with pytest.raises(Conflict, match="cannot be made smaller"):
            volumes.resize(pool, name, MIB, shrink=True)
        volumes.resize(pool, name, 3 * MIB)


def test_a_copy_that_is_a_source_is_not_deleted(pool: Pool) -> None:
    copies.take(pool, ["a"], name="p")
    made = one(pool, "a@p", "c")
    with pytest.raises(Conflict, match="'a@p' cannot be deleted"):
        copies.delete(pool, "p")
    with pytest.raises(ReadOnly, match="'a@p' cannot be copied onto"):
        relations.restore(pool, [made])
    relations.withdraw(pool, [made], discard=False)
    copies.delete(pool, "p")
    assert get(pool, "c") == pattern(1, 2 * MIB)


def test_two_targets_are_not_restored_to_one_place(pool: Pool) -> None:
    made = relations.establish(pool, [Wish("a", "b"), Wish("a", "c")])
    with pytest.raises(Conflict, match="same place of 'a'"):
        relations.restore(pool, made)


def test_who_is_attached_keeps_a_target(pool: Pool) -> None:
    PoolBackend(pool).attach("b", HOST)
    with pytest.raises(Conflict, match="'b' is in use"):
        one(pool)
    agreed = relations.Permission(online_ok=True)
    (made,) = relations.establish(pool, [Wish("a", "b")], permission=agreed)
    for act in (
        lambda: relations.refresh(pool, [made]),
        lambda: relations.withdraw(pool, [made], discard=True),
    ):
        with pytest.raises(Conflict, match="'b' is in use"):
            act()
    relations.restore(pool, [made])  # nobody has the source open
    relations.withdraw(pool, [made], discard=False)  # changes nothing


def test_inhibit_stops_hosts_but_not_refresh(pool: Pool) -> None:
    (made,) = relations.establish(pool, [Wish("a", "b")], inhibit=True)
    with pytest.raises(ReadOnly, match="inhibit option"):
        put(pool, "b", 0, bytes(BLOCK))
    with pytest.raises(ReadOnly):
        volumes.resize(pool, "b", 3 * MIB)
    put(pool, "a", 0, bytes(BLOCK))
    relations.refresh(pool, [made])
    assert get(pool, "b", 0, BLOCK) == bytes(BLOCK)
    relations.withdraw(pool, [made], discard=False)
    put(pool, "b", 0, pattern(3))
    with pytest.raises(InvalidInput, match="inhibit"):
        relations.establish(pool, [Wish("a", "b")], inhibit=True, once=True)


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (lambda pool, made: relations.select(pool, [made[1].id, made[0].id]), [0, 1]),
        (lambda pool, made: relations.select(pool, source="a"), [0, 1]),
        (lambda pool, made: relations.select(pool, target="c"), [1, 2]),
        (lambda pool, made: relations.select(pool, source="a", target="c"), [1]),
    ],
)
def test_relations_are_chosen(
    pool: Pool, choose: Callable[..., object], expected: list[int]
) -> None:
    made = [
        one(pool, "a", "b"),
        one(pool, "a", "c", Span(0, 0, TRACK)),
        one(pool, "b", "c", Span(0, TRACK, TRACK)),
    ]
    assert choose(pool, made) == [made[n] for n in expected]


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda p: relations.select(p, [99]), NotFound, "no relation 99"),
        (lambda p: relations.select(p), InvalidInput, "which relations"),
        (lambda p: relations.select(p, [1], source="a"), InvalidInput, "not both"),
        (lambda p: relations.select(p, source="c"), NotFound, "no such relation"),
        (lambda p: relations.refresh(p, []), InvalidInput, "which relations"),
        (lambda p: relations.withdraw(p, [], discard=False), InvalidInput, "which relations"),
    ],
)
def test_a_wrong_choice_is_refused(
    pool: Pool, act: Callable[[Pool], object], kind: type[IsochroneError], words: str
) -> None:
    one(pool)
    with pytest.raises(kind, match=words):
        act(pool)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([(4096, TRACK)], "begin at tracks"),
        ([(0, 4096)], "no multiple of 64 KiB"),
        ([(0, TRACK), (0, TRACK)], "overlap"),
        ([(8 * MIB, TRACK)], "no relation has a target there"),
        ([(n * 2 * TRACK, TRACK) for n in range(EXTENTS_MAX + 1)], "at most 1024 extents"),
    ],
)
def test_a_wrong_part_is_refused(pool: Pool, ranges: list[tuple[int, int]], words: str) -> None:
    made = one(pool)
    with pytest.raises(InvalidInput, match=words):
        relations.withdraw(pool, [made], discard=True, ranges=ranges)


def test_limits_keep_a_command_short(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = tuple(Span(0, n * TRACK, TRACK) for n in range(EXTENTS_MAX + 1))
    for name in ("x", "y"):
        volumes.create(pool, name, 16 * GIB)
    with pytest.raises(InvalidInput, match="at most 1024 extents"):
        relations.establish(pool, [Wish("x", "y", spans)])
    with pytest.raises(InvalidInput, match="no multiple of 1 MiB"):
        relations.establish(pool, [Wish("x", "y", (Span(0, TRACK, 5 * GIB),))])
    monkeypatch.setattr(relations, "RELATIONS_MAX", 1)
    one(pool)
    with pytest.raises(Conflict, match="at most 1 relations"):
        one(pool, "x", "y")
    relations.establish(pool, [Wish("x", "y")], once=True)


def test_the_longest_record_stays_below_64_kib() -> None:
    huge = 2**34 - 1
    new = tuple(
        r.NewRelation(2**32 - 1, 2**32 - 1, 2**32 - 1, ((huge, huge, huge),), True)
        for _ in range(EXTENTS_MAX)
    )
    assert len(r.encode(r.RelationsEstablished(relations=new, stamp=2**62))) < 64 * KIB
    parts = tuple(r.WithdrawnPart(2**32 - 1, ((huge, huge),)) for _ in range(EXTENTS_MAX))
    assert len(r.encode(r.RelationsWithdrawn(parts=parts, discard=True))) < 64 * KIB


def test_the_check_of_a_pool_looks_at_relations(pool: Pool) -> None:
    made = one(pool)
    check_pool(pool)
    made.extents = [(0, 0, 513)]
    with pytest.raises(IsochroneError, match="behind the end"):
        check_pool(pool)


def test_withdrawing_looks_at_each_relation_a_few_times(pool: Pool) -> None:
    """Thousands in one command are one step of the loop: no part of it may look at all for each."""

    class Counting(dict[int, relations.Relation]):
        looked = 0

        def __getitem__(self, id: int) -> relations.Relation:
            Counting.looked += 1
            return super().__getitem__(id)

        def values(self) -> Any:
            for value in super().values():
                Counting.looked += 1
                yield value

        def __iter__(self) -> Any:
            for id in super().__iter__():
                Counting.looked += 1
                yield id

    volumes.resize(pool, "c", 64 * MIB)
    for n in range(300):
        one(pool, "a", "c", Span(TRACK * (n % 32), TRACK * n, TRACK))
    found = relations.select(pool, target="c")
    pool.state.relations = Counting(pool.state.relations)
    Counting.looked = 0
    relations.withdraw(pool, found, discard=True)
    assert not pool.state.relations
    assert 300 <= Counting.looked < 300 * 10
    check_pool(pool)


def test_a_target_is_inhibited_until_the_last_that_says_so_is_gone(pool: Pool) -> None:
    volumes.resize(pool, "c", 64 * MIB)
    made = [
        relations.establish(pool, [Wish("a", "c", (Span(0, n * TRACK, TRACK),))], inhibit=True)[0]
        for n in range(3)
    ]
    target = pool.state.names["c"]
    for relation in made:
        assert pool.state.read_only(pool.state.volumes[target])
        relations.withdraw(pool, [relation], discard=False)
    assert not pool.state.read_only(pool.state.volumes[target])
    assert not pool.state.inhibited
