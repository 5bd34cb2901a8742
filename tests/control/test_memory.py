"""How memory is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.control.memory import MEMORY_BYTES, MEMORY_BYTES_MIN, split_memory
from isochrone.errors import InvalidInput
from isochrone.nbd.limits import BUDGET_BYTES
from isochrone.nbd.transmission import PAYLOAD_BYTES_MAX
from isochrone.store.tracks import NODE_BYTES_BUDGET
from isochrone.types import TIB


def test_the_default_is_what_the_parts_have_by_themselves() -> None:
    parts = split_memory(MEMORY_BYTES)
    assert (parts.tables, parts.clients) == (NODE_BYTES_BUDGET, BUDGET_BYTES)


@given(st.integers(MEMORY_BYTES_MIN, TIB))
def test_nothing_is_lost_and_the_largest_write_always_fits(memory: int) -> None:
    parts = split_memory(memory)
    assert parts.total == memory
    assert parts.clients >= 2 * PAYLOAD_BYTES_MAX
    assert parts.tables >= parts.clients


@pytest.mark.parametrize("memory", [0, 1, MEMORY_BYTES_MIN - 1])
def test_too_little_is_refused_with_what_would_do(memory: int) -> None:
    with pytest.raises(InvalidInput, match="is too little") as caught:
        split_memory(memory)
    assert "--memory 256MiB" in caught.value.hint
