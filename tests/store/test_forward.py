"""Forwarding against a plain dict."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.format import pointer
from isochrone.store.forward import LONG, Forwarding, neighbours

moves = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 40),
        st.integers(1, 6),
        st.integers(4, 9),
        st.integers(1, 99),
    ),
    max_size=30,
)


def apply(steps: list[tuple[int, int, int, int, int]]) -> tuple[Forwarding, dict[int, int]]:
    forwarding, model = Forwarding(), {}
    for segment, slot, count, to_segment, to_slot in steps:
        birth, place = pointer(segment, slot), pointer(to_segment, to_slot)
        forwarding.move(birth, count, place)
        model.update({birth + n: place + n for n in range(count)})
    return forwarding, model


@given(moves)
def test_a_block_is_where_it_was_moved_last(steps: list[tuple[int, int, int, int, int]]) -> None:
    forwarding, model = apply(steps)
    assert len(forwarding) == len(model)
    for segment in range(1, 5):
        for slot in range(60):
            birth = pointer(segment, slot)
            assert forwarding.place(birth) == model.get(birth, birth)


@given(moves, st.integers(1, 4), st.integers(1, 50), st.integers(1, 20))
def test_runs_cover_a_range_in_order_and_join_what_lies_together(
    steps: list[tuple[int, int, int, int, int]], segment: int, slot: int, count: int
) -> None:
    forwarding, model = apply(steps)
    first = pointer(segment, slot)
    runs = list(forwarding.runs(first, count))
    flat = [place + n for place, length in runs for n in range(length)]
    assert flat == [model.get(first + n, first + n) for n in range(count)]
    ends = [place + length for place, length in runs]
    starts = [place for place, _ in runs[1:]]
    assert all(end != start for end, start in zip(ends, starts, strict=False))


@given(
    st.lists(
        st.tuples(st.just(0) | st.integers(100, 140), st.integers(1, 2 * LONG)),
        min_size=1,
        max_size=6,
    )
)
def test_neighbours_cover_all_places_and_join_what_lies_together(
    stretches: list[tuple[int, int]],
) -> None:
    places = array("Q")
    for first, count in stretches:
        places.extend(first + n if first else 0 for n in range(count))
    found = neighbours(places)
    flat = [place + n if place else 0 for place, count in found for n in range(count)]
    assert flat == places.tolist()
    ends = [place + count if place else 0 for place, count in found]
    assert all(end != start for end, (start, _) in zip(ends, found[1:], strict=False))


@given(moves, st.randoms(use_true_random=False))
def test_dead_moves_are_forgotten_and_the_rest_is_kept(
    steps: list[tuple[int, int, int, int, int]], random: object
) -> None:
    forwarding, model = apply(steps)
    forwarding.changed.clear()
    for segment in forwarding.segments():
        slots, _ = forwarding.rows(segment)
        alive = np.array([random.random() < 0.5 for _ in slots], bool)  # type: ignore[attr-defined]
        for slot, lives in zip(slots.tolist(), alive.tolist(), strict=True):
            if not lives:
                del model[pointer(segment, slot)]
        forwarding.keep(segment, alive)
        assert (segment in forwarding.changed) == (not alive.all())
    assert len(forwarding) == len(model)
    assert all(forwarding.place(birth) == place for birth, place in model.items())
    assert bool(forwarding) == bool(model)


@given(moves)
def test_what_is_saved_is_what_is_loaded(steps: list[tuple[int, int, int, int, int]]) -> None:
    forwarding, model = apply(steps)
    loaded = Forwarding()
    loaded.load({s: forwarding.saved_form(s) for s in forwarding.segments()})  # type: ignore[misc]
    assert len(loaded) == len(model)
    assert all(loaded.place(birth) == place for birth, place in model.items())
    assert forwarding.saved_form(99) is None
