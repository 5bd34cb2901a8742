"""Which contexts there are, which a query means, and what they say of a range."""

from __future__ import annotations

import pytest

from isochrone.nbd import contexts
from isochrone.types import BLOCK, MIB
from tests.nbd.memory import MemoryBackend

OFFERED = contexts.offered({"monday": 7, "tuesday": 9})


def names(*queries: str, listing: bool) -> list[str]:
    return [c.name for c in contexts.matching(OFFERED, queries, listing=listing)]


def test_what_is_offered() -> None:
    assert OFFERED == [
        (0, "base:allocation", 0),
        (1, "qemu:allocation-depth", 0),
        (2, "qemu:dirty-bitmap:monday", 7),
        (3, "qemu:dirty-bitmap:tuesday", 9),
    ]


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ((), [0, 1, 2, 3]),
        (("base:",), [0]),
        (("qemu:",), [1, 2, 3]),
        (("qemu:dirty-bitmap:",), [2, 3]),
        (("qemu:dirty-bitmap:", "base:allocation"), [0, 2, 3]),
        (("qemu:dirty-bitmap:mon",), []),
        (("base", "x-other:", ""), []),
    ],
)
def test_queries_of_a_list(queries, found) -> None:
    assert names(*queries, listing=True) == [OFFERED[i].name for i in found]


@pytest.mark.parametrize("query", ["base:", "qemu:", "qemu:dirty-bitmap:", "", "base:Allocation"])
def test_set_knows_no_wildcards(query) -> None:
    assert names(query, listing=False) == []


def test_set_takes_each_once_and_none_without_queries() -> None:
    assert names("base:allocation", "base:allocation", listing=False) == ["base:allocation"]
    assert names(listing=False) == []


def test_status() -> None:
    backend = MemoryBackend()
    device = backend.add("disk", MIB)
    device.content[BLOCK : 2 * BLOCK] = b"x" * BLOCK
    backend.take_copy("disk", "copy")
    device.content[:1] = b"y"
    base, depth, dirty = contexts.offered(device.copies())

    def told(context: contexts.Context) -> list[tuple[int, int]]:
        return contexts.status(device, context, 0, 3 * BLOCK, 9)

    assert told(base) == [(2 * BLOCK, 0), (BLOCK, 3)]
    assert told(depth) == [(2 * BLOCK, 1), (BLOCK, 0)]
    assert told(dirty) == [(BLOCK, 1), (2 * BLOCK, 0)]
    assert contexts.status(device, base, 0, 3 * BLOCK, 1) == [(2 * BLOCK, 0)]
