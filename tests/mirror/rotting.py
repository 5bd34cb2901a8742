"""Bits that rot at one of two sites, and tables that go wrong."""

from __future__ import annotations

from isochrone.store.format import SLOT_BITS, SLOT_MASK, segment_name
from isochrone.types import BLOCK
from tests.mirror.sites import Host, fill, until


def place_of(host: Host, name: str, block: int) -> int:
    state = host.pool.state
    pointer, _ = state.forest.at(state.tables[state.names[name]], block)
    assert pointer, f"block {block} of {name} has no data"
    return host.pool.log.forwarding.place(pointer)


def rot(host: Host, name: str, *blocks: int) -> None:
    """Flip a bit in the file where each block lies."""
    for block in blocks:
        place = place_of(host, name, block)
        offset = (place & SLOT_MASK) * BLOCK + 77
        host.site.platter.flip(segment_name(place >> SLOT_BITS), offset, 3)


def go_wrong(host: Host, name: str, block: int, text: str) -> None:
    """What no correct program does: a replica that gets a write of its own."""
    pool = host.pool
    pool.stage_write(pool.state.names[name], block, memoryview(fill(text)))
    pool.commit()


async def verified(host: Host, *, read: bool = False, repair: bool = False, seconds: float = 300):
    """Run a pass over the group to its end."""
    verifier = host.mirrors.verifier
    await host.call(verifier.start("g", read=read, repair=repair))
    await until(lambda: verifier.progress("g").state != "running", seconds)
    return verifier.progress("g")
