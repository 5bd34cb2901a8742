"""Looking relations up by number and place, and in how many steps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.mirror import inventory, onto
from isochrone.mirror.messages import LISTED_MAX, Begin, Cut, Inventory, ListedRelation
from isochrone.mirror.onto import PIECE, Arrivals, Places
from isochrone.types import GIB
from tests.mirror.test_apply import DB, WAL, Secondary, in_a_pool
from tests.mirror.test_commands import done, part, withdrawn

Act = tuple[int, int, bool]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40), st.booleans()), max_size=120))
def test_places_are_what_a_plain_list_says(acts: list[Act]) -> None:
    onto.PIECE, before = 4, onto.PIECE  # type: ignore[misc]  # many pieces
    try:
        places, plain = Places(), dict[int, tuple[int, int]]()
        for number, (block, count, adds) in enumerate(acts, 1):
            found = {id for id, (at, end) in plain.items() if at < block + count and end > block}
            assert set(places.within(block, count)) == found
            if adds and not found:
                plain[number] = block, block + count
                places.add((block, block + count, number))
            for id in () if adds else found:
                places.remove((*plain.pop(id), id))
    finally:
        onto.PIECE = before  # type: ignore[misc]


def test_pieces_stay_short() -> None:
    places = Places()
    for n in range(5 * PIECE):
        places.add((2 * n, 2 * n + 1, n))
    assert len(list(places.within(0, 10 * PIECE))) == 5 * PIECE
    assert max(map(len, places._pieces)) <= PIECE


class Steps:
    """Counts what looking up costs: comparisons of the searches, and entries that are seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 0
        for name, search in (("bisect_left", bisect_left), ("bisect_right", bisect_right)):
            monkeypatch.setattr(onto, name, self._searching(search))
        monkeypatch.setattr(Places, "within", self._seeing(Places.within))
        arriving = onto.arriving
        monkeypatch.setattr(onto, "arriving", self._seeing(arriving))
        monkeypatch.setattr(inventory, "_definition", self._counting(inventory._definition))

    def _searching(self, search: Callable[..., int]) -> Callable[..., int]:
        def counted(found: list[Any], *args: Any) -> int:
            self.taken += len(found).bit_length()
            return search(found, *args)

        return counted

    def _seeing(self, look: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            for each in look(*args):
                self.taken += 1
                yield each

        return counted

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.taken += 1
            return call(*args)

        return counted


def listed(n: int, count: int, *, first: int = 1, shift: int = 0) -> list[Inventory]:
    relations = [
        ListedRelation(
            id=first + i, extents=((0, 16 * (i + 1) + shift, 16),), source=70, target=71, stamp=5,
            generation=1,
        )
        for i in range(n)
    ]  # fmt: skip
    parts = [
        Inventory(relations=tuple(relations[at : at + count]), last=False)
        for at in range(0, n, count)
    ]
    return [*parts, Inventory()]


LARGE = tuple(type(v)(id=v.id, name=v.name, size=GIB) for v in (DB, WAL))


def steps_of(monkeypatch: pytest.MonkeyPatch, n: int) -> list[int]:
    """Of inventories of so many relations onto one volume: new, the same, renamed, moved, gone."""
    found: list[int] = []

    def act(there: Secondary) -> None:
        there.cut(2, 1)
        cut = 2
        for parts in (
            listed(n, 64), listed(n, 64), listed(n, 64, first=10_000),
            listed(n, 64, first=10_000, shift=16), [Inventory()],
        ):  # fmt: skip
            cut += 1
            with monkeypatch.context() as inner:
                steps = Steps(inner)
                there.send(Begin(base=cut - 1, cut=cut, volumes=LARGE))
                for message in parts:
                    there.receiver.inventory(message)
                there.send(Cut(cut=cut, stamp=cut, blocks=0, token=0))
                found.append(steps.taken)
            assert len(there.pool.state.relations) == (0 if parts == [Inventory()] else n)

    with monkeypatch.context() as outer:
        outer.setattr("tests.mirror.test_apply.BOTH", LARGE)
        in_a_pool(act)
    return found


def test_an_inventory_takes_n_log_n_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen times the relations may take some twenty-odd times the steps, not 256 times."""
    few, many = steps_of(monkeypatch, 64), steps_of(monkeypatch, 1024)
    for one, other in zip(few, many, strict=True):
        assert 0 < other < 40 * one


def test_commands_one_by_one_take_n_log_n_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps_for(n: int) -> int:
        taken: list[int] = []

        def act(there: Secondary) -> None:
            there.cut(2, 1)
            with monkeypatch.context() as inner:
                steps = Steps(inner)
                there.send(Begin(base=2, cut=3, volumes=LARGE))
                for i in range(1, n + 1):
                    there.send(done("establish", part(i, (0, 16 * i, 16))))
                for i in range(1, n + 1):
                    there.send(withdrawn("keep", i))
                there.send(Cut(cut=3, stamp=3, blocks=0, token=0))
                taken.append(steps.taken)
            assert there.pool.state.relations == {}

        with monkeypatch.context() as outer:
            outer.setattr("tests.mirror.test_apply.BOTH", LARGE)
            in_a_pool(act)
        return taken[0]

    assert steps_for(512) < 16 * steps_for(64)


def test_a_part_of_an_inventory_with_too_many_extents_is_refused() -> None:
    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=(DB, WAL)))
        wide = tuple((0, 16 * i, 16) for i in range(1, 3))
        relations = tuple(
            ListedRelation(id=n, extents=wide, source=70, target=71, stamp=5, generation=1)
            for n in range(1, LISTED_MAX)
        )
        lsn = there.pool.log.lsn
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inventory, "EXTENTS_AT_ONCE", 100)
            with pytest.raises(PeerFault, match="more than 100 extents"):
                there.receiver.inventory(Inventory(relations=relations))
        assert there.pool.log.lsn == lsn

    in_a_pool(act)


def test_what_a_fault_interrupts_is_in_the_log_as_in_the_tables() -> None:
    """Whoever goes on after a fault must not be told of what is not there."""

    def act(there: Secondary) -> None:
        there.send(Begin(base=1, cut=2, volumes=(DB, WAL)))
        one = ListedRelation(
            id=1, extents=((0, 16, 16),), source=70, target=71, stamp=5, generation=1
        )
        with pytest.raises(PeerFault, match="twice"):
            there.receiver.inventory(Inventory(relations=(one, one), last=False))
        incoming = there.group.incoming
        assert incoming is not None
        assert [x.origin for x in incoming.relations.values()] == [1]
        arrivals = Arrivals(there.pool.state, there.group)
        (relation,) = incoming.relations.values()
        assert arrivals.at(relation.target, [(16, 1)]) == [relation.id]

    in_a_pool(act)
