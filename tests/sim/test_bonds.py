from __future__ import annotations

from isochrone.sim.bonds import Bond, Bonds, cut_out


def test_relations_have_lives() -> None:
    bonds = Bonds()
    bonds.put(7, Bond(3, "a", "b", ((0, 0, 16),), 3))
    bonds.put(7, Bond(5, "a", "b", ((0, 0, 16),), 5))
    bonds.put(7, Bond(8, "a", "b", (), 5))
    assert [sorted(bonds.at(op)) for op in (2, 3, 7, 8)] == [[], [7], [7], []]
    assert bonds.at(6)[7].since == 5


def test_a_recovered_pool_is_dated_by_its_relations() -> None:
    bonds = Bonds()
    bonds.put(7, Bond(3, "a", "b", ((0, 0, 16),), 3))
    bonds.put(7, Bond(6, "a", "b", (), 3))
    assert bonds.ops_with({7: ((0, 0, 16),)}, 9) == 0b111000
    assert bonds.ops_with({}, 9) == 0b1111000111
    assert bonds.ops_with({8: ((0, 0, 16),)}, 9) == 0


def test_what_was_lost_never_was() -> None:
    bonds = Bonds()
    bonds.put(7, Bond(3, "a", "b", ((0, 0, 16),), 3))
    bonds.put(7, Bond(6, "a", "b", (), 3))
    bonds.cut_off(5)
    assert sorted(bonds.at(9)) == [7]


def test_a_part_is_cut_out() -> None:
    inside, outside = cut_out(((100, 0, 48), (10, 64, 16)), 16, 32)
    assert inside == [(116, 16, 16)]
    assert outside == [(100, 0, 16), (132, 32, 16), (10, 64, 16)]
    assert cut_out(((100, 0, 48),), 0, 1 << 40) == ([(100, 0, 48)], [])


def test_only_those_inside_a_group_are_mirrored() -> None:
    bonds = Bonds()
    bonds.put(7, Bond(3, "a", "b", ((16, 0, 16), (0, 16, 16)), 3))
    bonds.put(8, Bond(4, "a", "c", ((0, 0, 16),), 4))
    assert bonds.within(["a", "b"], 4) == [("a", "b", [(0, 16, 16), (16, 0, 16)])]
    assert bonds.within(["a", "b"], 2) == []
