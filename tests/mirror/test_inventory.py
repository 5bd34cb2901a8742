"""After an inventory both sites have the same relations and copies, whatever was there before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.mirror import commands, inventory
from isochrone.mirror.messages import LISTED_MAX, Begin, Cut, Holdings, Inventory, ListedRelation
from isochrone.mirror.wire import FRAME_BYTES_MAX, encode
from isochrone.store import copies, holds, relations, volumes
from isochrone.store import records as r
from isochrone.store.catalogue import Session
from isochrone.store.check import check_pool
from isochrone.store.mirrored import settled
from isochrone.store.overlaps import EXTENTS_MAX
from isochrone.store.relations import Span, Wish
from isochrone.types import MIB, TIB, TRACK
from tests.mirror.sites import GROUP, Two, play
from tests.mirror.test_apply import BOTH, Secondary, blocks_of, in_a_pool, taken
from tests.mirror.test_commands import done, known, part
from tests.mirror.test_relations import establish, lose, same_relations


def listed(id: int, *extents: tuple[int, int, int], **fields: Any) -> ListedRelation:
    named = {"source": 70, "target": 71, "stamp": 5, "generation": 1, **fields}
    return ListedRelation(id=id, extents=extents or ((0, 16, 16),), **named)


def group(there: Secondary, cut: int, *parts: Inventory, data: Any = ()) -> None:
    """A group on the cut before, that ends with an inventory."""
    there.send(Begin(base=cut - 1, cut=cut, volumes=BOTH), *data)
    for message in parts:
        there.receiver.inventory(message)
    blocks = sum(len(message.blocks) for message in data if hasattr(message, "blocks"))
    there.send(Cut(cut=cut, stamp=cut, blocks=blocks, token=0))


def exact(there: Secondary) -> dict[int, bool]:
    return {x.origin: not x.inexact for x in there.pool.state.relations.values() if x.group}


def test_what_is_missing_comes_and_what_is_not_listed_goes() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9, (0, 16, 16)), part(10, (0, 48, 16))))
        group(there, 3, Inventory(relations=(listed(9), listed(11, (0, 96, 16)))))
        assert known(there) == {9: [(0, 16, 16)], 11: [(0, 96, 16)]}
        assert exact(there) == {9: True, 11: False}
        group(there, 4, Inventory())
        assert known(there) == {}
        check_pool(there.pool)

    in_a_pool(act)


def test_after_images_nothing_is_sure() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9)))
        group(there, 3, Inventory(relations=(listed(9),), whole=True))
        assert exact(there) == {9: False}
        there.cut(4, 3, done("refresh", part(9, generation=2)))
        assert exact(there) == {9: True}

    in_a_pool(act)


@pytest.mark.parametrize("whole", [True, False])
def test_the_same_under_another_number_stays(whole: bool) -> None:
    """As after a change of primaries."""

    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9)))
        (before,) = there.pool.state.relations
        group(there, 3, Inventory(relations=(listed(77),), whole=whole))
        assert known(there) == {77: [(0, 16, 16)]}
        assert list(there.pool.state.relations) == [before]
        assert exact(there) == {77: not whole}

    in_a_pool(act)


@pytest.mark.parametrize("changed", [{"stamp": 6}, {"generation": 2}, {"inhibit": True}])
def test_one_that_was_made_again_is_another(changed: dict[str, Any]) -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, done("establish", part(9)))
        group(there, 3, Inventory(relations=(listed(9, **changed),)))
        (relation,) = there.pool.state.relations.values()
        assert all(getattr(relation, name) == value for name, value in changed.items())
        assert relation.inexact
        check_pool(there.pool)

    in_a_pool(act)


def test_without_room_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "RELATIONS_MAX", 1)

    def act(there: Secondary) -> None:
        group(there, 2, Inventory(relations=(listed(9), listed(10, (0, 48, 16))), whole=True))
        assert inventory.holdings(there.pool.state, there.group) == Holdings(
            unheld=(10,), inexact=(9,)
        )
        group(there, 3, Inventory(relations=(listed(11, (0, 96, 16)),)))
        assert known(there) == {}  # the place of the one that goes is not free before the commit
        assert there.group.unheld == [11]
        group(there, 4, Inventory(relations=(listed(11, (0, 96, 16)),)))
        assert known(there) == {11: [(0, 96, 16)]}
        assert there.group.unheld == []

    in_a_pool(act)


def test_copies_that_are_gone_go_and_held_ones_stay() -> None:
    def act(there: Secondary) -> None:
        there.cut(2, 1, taken("keep"), taken("gone"), taken("held"))
        volumes.create(there.pool, "own", MIB)
        copies.take(there.pool, ["own"], name="mine")
        holds.pin(there.pool, copies.find_copy(there.pool, "held"))
        group(there, 3, Inventory(copies=("keep",), last=False), Inventory(copies=("new",)),
              data=(taken("new"), taken("passing")))  # fmt: skip
        assert set(there.pool.state.copies) == {"keep", "new", "held", "mine"}
        assert there.pool.state.copies["held"].kept_from == "g"
        check_pool(there.pool)

    in_a_pool(act)


def test_it_comes_in_parts_that_fit() -> None:
    """The primary's side: as many as possible, with the longest of everything."""
    huge = 64 * TIB // (1 << 12)
    extents = tuple((huge - 16 * n, huge - 16 * n, 16) for n in range(1, EXTENTS_MAX + 1))
    most = [ListedRelation(1 << 62, 1, 2, extents, 1 << 62, 1 << 62, True)] * 20
    for piece in inventory._pieces(most):
        assert len(b"".join(encode(Inventory(relations=piece), 1))) < FRAME_BYTES_MAX / 4
    short = [ListedRelation(n, 1, 2, ((0, 0, 16),), 1, 1) for n in range(1, 4097)]
    pieces = list(inventory._pieces(short))
    assert sorted({len(piece) for piece in pieces}) == [LISTED_MAX]
    assert [x for piece in pieces for x in piece] == short
    names = Inventory(copies=("\U0001f600" * 256,) * LISTED_MAX)
    assert len(b"".join(encode(names, 1))) < FRAME_BYTES_MAX


HOSTILE: dict[str, tuple[tuple[Inventory, ...], str]] = {
    "twice one number": ((Inventory(relations=(listed(9), listed(9, (0, 64, 16)))),), "twice"),
    "two onto one place": ((Inventory(relations=(listed(9), listed(10))),), "onto one place"),
    "another's volume": ((Inventory(relations=(listed(9, source=1),)),), "not part of the group"),
    "past the end": ((Inventory(relations=(listed(9, (0, 256, 16)),)),), "past the end"),
    "between tracks": ((Inventory(relations=(listed(9, (0, 3, 16)),)),), "do not exist"),
    "two for one place": (
        (Inventory(relations=(listed(9, (0, 16, 16), (32, 16, 16)),)),), "two sources"
    ),
    "no number": ((Inventory(relations=(listed(0),)),), "impossible number"),
    "after its end": ((Inventory(), Inventory()), "went on after its end"),
    "without an end": ((Inventory(last=False),), "before the end"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_primary_lists_is_refused(name: str) -> None:
    parts, message = HOSTILE[name]

    def act(there: Secondary) -> None:
        with pytest.raises(PeerFault, match=message):
            group(there, 2, *parts)
        there.connect()
        there.cut(2, 1)
        assert known(there) == {}
        check_pool(there.pool)

    in_a_pool(act)


def test_an_inventory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "COPIES_MAX", 10)
    monkeypatch.setattr(inventory, "RELATIONS_TOLD_MAX", 2)

    def act(there: Secondary) -> None:
        with pytest.raises(PeerFault, match="without a group"):
            there.receiver.inventory(Inventory())
        with pytest.raises(PeerFault, match="more than 10 copies"):
            group(there, 2, Inventory(copies=tuple(f"c{n}" for n in range(11))))
        many = tuple(listed(n, (0, 16 * n, 16)) for n in range(1, 4))
        with pytest.raises(PeerFault, match="more than 2 relations"):
            group(there, 2, Inventory(relations=many))

    in_a_pool(act)


def test_what_inventories_add_to_a_group_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that goes on over connections may get one by each of them."""
    monkeypatch.setattr(commands, "NOTED_MAX", 6)

    def act(there: Secondary) -> None:
        def flood() -> None:
            for number in range(1, 12):
                there.receiver._listing = None  # as another connection begins
                new = listed(number, (0, 16 * number, 16))
                there.receiver.inventory(Inventory(relations=(new,)))

        there.send(Begin(base=1, cut=2, volumes=BOTH))
        with pytest.raises(PeerFault, match="more than 6 copies, deletions or relations"):
            flood()

    in_a_pool(act)


SOME = st.dictionaries(
    st.integers(1, 6), st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 2)),
    max_size=4,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SOME, st.booleans()), min_size=1, max_size=5))
def test_whatever_was_there_it_is_equal_after(rounds: list[Any]) -> None:
    """Numbers, places and instants mixed up as no history can."""

    def act(there: Secondary) -> None:
        for cut, (wanted, whole) in enumerate(rounds, 2):
            places: dict[int, ListedRelation] = {}
            for id, (place, stamp, generation) in wanted.items():
                places.setdefault(
                    place, listed(id, (0, place * 16, 16), stamp=stamp, generation=generation)
                )
            group(there, cut, Inventory(relations=tuple(places.values()), whole=whole))
            found = {
                (x.origin, tuple(x.extents), x.stamp, x.generation)
                for x in there.pool.state.relations.values()
            }
            assert found == {(x.id, x.extents, x.stamp, x.generation) for x in places.values()}
            check_pool(there.pool)

    in_a_pool(act)


# -- with a primary


def test_holdings_count_once_they_answer_an_inventory() -> None:
    session = Session(cut=3)
    assert inventory.needed(session)
    assert inventory.needed(None)
    session.reconciled = True
    assert not inventory.needed(session)

    async def scenario(two: Two) -> None:
        await two.b.wait()
        (peer,) = two.a.group().sessions
        assert two.a.group().sessions[peer].reconciled, "the first copy ends with one"
        two.a.group().sessions[peer].reconciled = False
        told = Holdings(unheld=(5,))
        inventory.note_holdings(two.a.pool, two.a.group(), peer, told, listed=False)
        assert not two.a.group().sessions[peer].reconciled
        inventory.note_holdings(two.a.pool, two.a.group(), peer, told, listed=True)
        assert two.a.group().sessions[peer].unheld == [5]
        lsn = two.a.pool.log.lsn
        inventory.note_holdings(two.a.pool, two.a.group(), peer, told, listed=False)
        inventory.note_holdings(two.a.pool, two.a.group(), "nobody", told, listed=True)
        assert two.a.pool.log.lsn == lsn, "it said so already"

    play(scenario)


def test_a_discard_is_a_command_only_when_all_is_sure() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=40)
        made = establish(two, "db", "wal", Span(0, 0, TRACK))
        state = two.a.pool.state
        assert not settled(state, made), "nobody has it yet"
        await two.b.wait()
        two.a.write("db", 1, "x")
        await two.b.wait()
        assert settled(state, made)
        (session,) = two.a.group().sessions.values()
        for name, value in (
            ("reconciled", False), ("keeps_log", False), ("whole_lsn", made.lsn), ("cut", 0),
            ("unheld", [made.id]), ("inexact", [made.id]),
        ):  # fmt: skip
            before = getattr(session, name)
            setattr(session, name, value)
            assert not settled(state, made), name
            setattr(session, name, before)
        made.inexact = True
        assert not settled(state, made)

    play(scenario)


def test_a_copy_that_was_deleted_while_the_log_was_lost_is_gone() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="gone")
        copies.take(two.a.pool, ["db"], name="stays")
        await two.b.wait(copy="stays")
        two.fabric.cut("a", "b")
        copies.delete(two.a.pool, "gone")
        copies.take(two.a.pool, ["wal"], name="new")
        await lose(two)
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert set(two.b.pool.state.copies) == {"stays", "new"}
        check_pool(two.b.pool)

    play(scenario)


def test_a_group_made_around_relations_has_them_at_both_sites() -> None:
    async def scenario(two: Two) -> None:
        for name in ("db", "wal"):
            volumes.create(two.a.pool, name, 4 * MIB)
        two.a.write("db", 0, "db", count=40)
        relations.establish(two.a.pool, [Wish("db", "wal", (Span(0, 0, 2 * TRACK),))])
        two.a.pool.record(
            r.GroupCreated(name=GROUP, lineage="aa" * 16, volumes=tuple(two.a.pool.state.volumes))
        )
        await two.mirror()
        same_relations(two)
        assert len(two.b.pool.state.relations) == 1
        await two.a.restart()
        two.a.write("db", 3, "x")
        await two.b.wait()
        same_relations(two)

    play(scenario, made=False)


def test_a_link_that_breaks_in_the_inventory_begins_it_anew() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 0, "db", count=64)
        for n in range(8):
            establish(two, "db", "wal", Span(0, 2 * n * TRACK, TRACK))
        await two.b.wait()
        relations.withdraw(two.a.pool, list(two.a.pool.state.relations.values())[:3], discard=False)
        await lose(two)
        seen: list[r.AnyRecord] = []

        def cut(_lsn: int, record: Any) -> None:
            if isinstance(record, r.RelationsListed) and not seen:
                seen.append(record)
                two.fabric.cut("a", "b")

        two.b.pool.on_change.append(cut)
        two.a.write("db", 1, "x")
        for _ in range(200):
            if seen:
                break
            await two.a.call(two.a.pool.world.clock.sleep(0.05))
        assert seen
        two.fabric.heal("a", "b")
        await two.b.wait()
        same_relations(two)
        assert len(two.b.pool.state.relations) == 5
        check_pool(two.b.pool)

    play(scenario)


def test_blocks_before_an_inventory_are_its_group() -> None:
    def act(there: Secondary) -> None:
        group(there, 2, Inventory(relations=(listed(9),)), data=(blocks_of(70, [5], "x"),))
        assert there.group.cut == 2

    in_a_pool(act)
