"""A state without a pool, and records that are applied to it one after the other."""

from __future__ import annotations

from array import array

from isochrone.store import records as r
from isochrone.store.catalogue import Place
from isochrone.store.state import State
from isochrone.store.tracks import Forest
from isochrone.types import MIB

SLOTS = 1 << 24  # pointers between two records of a story


def array_of(*words: int) -> array[int]:
    return array("Q", words)


def no_store(id: int) -> bytes:
    raise AssertionError(id)


class Story:
    """A state, and records that are applied one after the other."""

    def __init__(self) -> None:
        self.state = State(Forest(no_store))
        self.lsn = 0

    def __call__(self, *records: r.AnyRecord) -> None:
        for record in records:
            self.lsn += 1
            self.state.apply(Place(self.lsn, self.lsn * SLOTS), record)

    def map(self, name: str, block: int, pointer: int) -> None:
        table = self.state.tables[self.state.names[name]]
        self.state.forest.map(table, block, pointer, array_of(pointer))

    def pointer(self, name: str, block: int) -> int:
        table = self.state.tables[self.state.names[name]]
        (run,) = self.state.forest.runs(table, block, 1)
        return run.pointer


def two_volumes() -> Story:
    story = Story()
    story(r.VolumeCreated(id=1, name="a", size=8 * MIB), r.VolumeCreated(id=2, name="b", size=MIB))
    return story


def following() -> Story:
    """A group that has been received once: volume `x`, remote id 7, here 11."""
    story = Story()
    story(r.VolumeCreated(id=1, name="own", size=MIB), r.MirrorAdded(group="g", source="there:1"))
    story(begun(0, shadow=12))
    assert names(story) == ["own"]
    assert story.state.reserved("x")
    story.state.forest.map(story.state.tables[12], 0, 500, array_of(500))
    story(r.IncomingCommitted(group="g", cut=1, stamp=100))
    return story


def begun(base: int, shadow: int, size: int = MIB) -> r.IncomingBegun:
    volume = r.IncomingVolume(remote=7, name="x", size=size, local=11, shadow=shadow)
    return r.IncomingBegun(group="g", lineage="cd" * 16, epoch=3, base=base, volumes=(volume,))


def names(story: Story) -> list[str]:
    return sorted(story.state.names)
