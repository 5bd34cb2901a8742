"""Metadata contexts: what a client may ask of a range beyond its bytes.

    base:allocation            0 = data, HOLE + ZERO = nothing was written: reads zeros
    qemu:allocation-depth      1 = data, 0 = nothing; a copy has all its data itself, whomever it
                               shares the blocks with, so there is no deeper layer
    qemu:dirty-bitmap:COPY     1 = may differ from COPY, a copy of this export; 0 = is the same

A copy is kept by its id, not by its name: if it is deleted and another one gets its name, a client
is told so, and not what changed since a moment it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from isochrone.types import Device

ALLOCATION: Final = "base:allocation"
DEPTH: Final = "qemu:allocation-depth"
DIRTY: Final = "qemu:dirty-bitmap:"

HOLE_AND_ZERO: Final = 3
DIRTY_FLAG: Final = 1

# A query that ends here asks for everything of its kind. It means so in LIST only: SET must name.
WILDCARDS: Final = ("base:", "qemu:", DIRTY)

CONTEXTS_MAX: Final = 64  # of one session; a backup needs two
EXTENTS_MAX: Final = 8192  # in one reply, over all its contexts: 128 KiB and some milliseconds


class Context(NamedTuple):
    id: int
    name: str
    copy: int = 0  # for DIRTY: the id of the copy


def offered(copies: Mapping[str, int]) -> list[Context]:
    """Everything an export can be asked for, given the copies it can be compared with."""
    dirty = (Context(2 + n, DIRTY + name, id) for n, (name, id) in enumerate(copies.items()))
    return [Context(0, ALLOCATION), Context(1, DEPTH), *dirty]


def matching(
    contexts: Sequence[Context], queries: Sequence[str], *, listing: bool
) -> list[Context]:
    """The contexts that queries ask for, each once. What is not known is passed over."""
    if listing and not queries:
        return list(contexts)
    wanted = frozenset(queries)
    kinds = tuple(wanted.intersection(WILDCARDS)) if listing else ()
    return [c for c in contexts if c.name in wanted or c.name.startswith(kinds)]


def status(
    device: Device, context: Context, offset: int, length: int, limit: int
) -> list[tuple[int, int]]:
    """(length, flags) of the extents of a range, from its beginning on."""
    if context.name == ALLOCATION:
        mapped = device.mapped(offset, length, limit)
        return [(n, 0 if data else HOLE_AND_ZERO) for n, data in mapped]
    if context.name == DEPTH:
        return [(n, int(data)) for n, data in device.mapped(offset, length, limit)]
    changed = device.changed(context.copy, offset, length, limit)
    return [(n, DIRTY_FLAG if differs else 0) for n, differs in changed]
