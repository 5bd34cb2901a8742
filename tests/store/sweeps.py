"""Nodes of a forest, handed out as the metadata store does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from isochrone.errors import Damaged
from isochrone.store.tracks import Forest


class Reader:
    def __init__(self, forest: Forest, damaged: Iterable[int] = ()) -> None:
        self.count = 0
        self._forest = forest
        self._damaged = set(damaged)

    def __call__(self, ids: Iterable[int]) -> Iterator[bytes]:
        for id in ids:
            self.count += 1
            if id in self._damaged:
                raise Damaged(f"node {id} is damaged")
            yield self._forest.node(id).words.tobytes()
