"""From suspects to findings."""

from __future__ import annotations

from isochrone.store import copies, volumes
from isochrone.store.check import Finding
from isochrone.store.format import SLOT_BITS, SLOT_MASK, pointer, segment_name
from isochrone.store.forward import Forwarding
from isochrone.store.pool import Pool
from isochrone.store.verdict import Wrong, births_of, confirm, ranges
from isochrone.store.walk import Suspect
from isochrone.types import BLOCK, MIB
from tests.store.pools import Rig, device, pattern, put, settle


def test_births() -> None:
    forwarding = Forwarding()
    forwarding.move(pointer(1, 5), 2, pointer(7, 3))
    places = [pointer(1, 5), pointer(1, 9), pointer(7, 3), pointer(7, 4)]
    assert births_of(forwarding, places) == {
        pointer(1, 9): pointer(1, 9),  # never moved
        pointer(7, 3): pointer(7, 3),  # it may be a birth place too: the tables know
        pointer(7, 4): pointer(7, 4),
        pointer(1, 5): pointer(7, 3),
        pointer(1, 6): pointer(7, 4),
    }


def rotten(rig: Rig) -> tuple[Pool, dict[int, Suspect]]:
    """A pool with one rotten block, and suspicion of it and of its neighbour."""
    pool = rig.open()
    volumes.create(pool, "v", MIB)
    put(pool, "v", 0, pattern(1, 4 * BLOCK))
    copies.take(pool, ["v"], name="c")
    birth, _ = pool.state.forest.at(pool.state.tables[1], 2)
    rig.platter.flip(segment_name(birth >> SLOT_BITS), (birth & SLOT_MASK) * BLOCK)
    suspects = {}
    for at in (birth, birth + 1):
        suspects[at] = Suspect(at >> SLOT_BITS, at & SLOT_MASK, "block")
    return pool, suspects


def test_only_what_is_wrong_again_and_read_by_somebody() -> None:
    pool, suspects = rotten(Rig())
    (wrong,) = settle(confirm(pool, suspects, lambda: False))
    assert (wrong.exports, wrong.block) == (["v", "v@c"], 2)
    device(pool, "v").discard(0, 4 * BLOCK)
    pool.commit()
    (wrong,) = settle(confirm(pool, suspects, lambda: False))
    assert wrong.exports == ["v@c"]
    copies.delete(pool, "c")
    assert settle(confirm(pool, suspects, lambda: False)) == []


def test_a_segment_that_goes_while_it_is_looked_up_is_no_damage() -> None:
    """Its blocks have died since they were suspected; one that had gone before is missed."""
    rig = Rig()
    pool, suspects = rotten(rig)
    (segment,) = {suspect.segment for suspect in suspects.values()}
    at = pointer(segment, 0)
    suspects[at] = Suspect(segment, 0, "header")
    first = pool.log.first_lsns[segment]

    def empty() -> None:
        rig.platter.names.pop(segment_name(segment), None)
        pool.log.first_lsns.pop(segment, None)

    rig.work.after = empty
    assert settle(confirm(pool, suspects, lambda: False)) == []
    rig.work.after = None
    wrong = settle(confirm(pool, suspects, lambda: False))
    assert {(w.block, w.cause) for w in wrong} == {
        (block, f"segment {segment} of the log is missing") for block in (2, 3)
    }
    pool.log.first_lsns[segment] = first


def test_the_same_block_at_two_places_of_a_volume() -> None:
    rig = Rig()
    pool, suspects = rotten(rig)
    forest, table = pool.state.forest, pool.state.tables[1]
    birth, sum = forest.at(table, 2)
    from array import array

    forest.map(table, 77, birth, array("Q", [sum]))
    found = settle(confirm(pool, suspects, lambda: False))
    assert {(w.block, tuple(w.exports)) for w in found} == {(2, ("v", "v@c")), (77, ("v",))}


def test_ranges_join_what_follows_in_the_same_volumes() -> None:
    def wrong(names: list[str], block: int, place: int) -> Wrong:
        return Wrong(names, block, pointer(1, place), "block", f"slot {place}")

    found = list(
        ranges(
            [
                wrong(["v"], 4, 12),
                wrong(["v"], 3, 11),
                wrong(["v"], 6, 13),
                wrong(["v", "w"], 5, 14),
                Wrong(["v"], 7, pointer(2, 1), "block", "other segment"),
                Wrong([], 0, pointer(1, 0), "header", "header"),
                Wrong([], 0, pointer(2, 0), "header", "header of 2"),
            ]
        )
    )
    assert Finding("slot 11", ["v"], 3 * BLOCK, 2 * BLOCK, 1) in found
    assert Finding("header", [], 0, 0, 1) in found
    assert len(found) == 6
    assert list(ranges([])) == []
