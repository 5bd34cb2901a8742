"""What was seen of mirrors, kept beyond the life of the process: ages, and suspensions.

It decides nothing, so it is no part of the pool: one document beside it, replaced each minute and
at a stop. If it is lost, or makes no sense, what was seen begins anew.

The document is JSON and behind it, on a line of its own, the checksum of that (XXH3, hexadecimal).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
import structlog
from msgspec import Meta

from isochrone.mirror.history import BUCKET_SECONDS, DAY_BUCKETS, Bucket, History
from isochrone.mirror.sessions import SUSPENSIONS_KEPT, Trail
from isochrone.mirror.status import Suspension
from isochrone.store.catalogue import Catalogue
from isochrone.store.format import checksum
from isochrone.world import World
from isochrone.world.documents import Documents

NAME: Final = "mirror-history.json"
VERSION: Final = 1
SAVE_SECONDS: Final = 60.0  # of ages are lost with the process at most
SUSPENSIONS_MAX: Final = 4096  # saved in all, the newest: 2 MB
WHY_CHARS_MAX: Final = 300  # of a cause that is saved: two lines of a screen
SAVED_BYTES_MAX: Final = 64 << 20  # read at a start: a thousand groups and all suspensions

Suspensions = Annotated[list[Suspension], Meta(max_length=SUSPENSIONS_KEPT)]

log = structlog.get_logger()


class Seen(msgspec.Struct, kw_only=True):
    """Of a group that is followed. Minutes are those since 1970."""

    lineage: str  # of what was followed
    ages: Annotated[list[Bucket], Meta(max_length=DAY_BUCKETS)] = []
    suspensions: Suspensions = []


class Document(msgspec.Struct, kw_only=True):
    version: int = VERSION
    followed: dict[str, Seen] = {}  # by group
    served: dict[str, dict[str, Suspensions]] = {}  # by group and secondary


class Past:
    """What the last life of the controller left, until somebody takes it up; and what this leaves.

    Without documents nothing is kept, and nothing was.
    """

    def __init__(self, documents: Documents | None, world: World) -> None:
        self._documents = documents
        self._world = world
        self._left = _read(documents) if documents is not None else Document()
        self._writing: asyncio.Task[None] | None = None
        self._failing = False

    @property
    def kept(self) -> bool:
        return self._documents is not None

    # -- what was

    def take_up(self, group: str, lineage: str, history: History, trail: Trail) -> None:
        """What was seen of a group that is followed again."""
        seen = self._left.followed.pop(group, None)
        if seen is None or seen.lineage != lineage:
            return
        now = self._world.clock.monotonic()
        history.restore(seen.ages, self._ahead(now), now)
        trail.suspensions.extend(seen.suspensions)

    def of_session(self, group: str, peer: str) -> list[Suspension]:
        """What was seen of a secondary that is served."""
        return self._left.served.get(group, {}).pop(peer, [])

    def _ahead(self, now: float) -> int:
        """Minutes by which the wall clock is ahead of the one that is never set back."""
        wall = self._world.clock.wall_ns() // 10**9
        return int(wall // BUCKET_SECONDS) - int(now // BUCKET_SECONDS)

    # -- what is

    async def save(
        self,
        state: Catalogue,
        followed: Mapping[str, tuple[History, Trail]],
        served: Mapping[tuple[str, str], Trail],
    ) -> None:
        """Replace the document. If it cannot be written, that is logged and no more."""
        if self._documents is None:
            return
        document = Document()
        now = self._world.clock.monotonic()
        ahead = self._ahead(now)
        for group, (history, trail) in list(followed.items()):
            found = state.groups.get(group)
            if found is not None:
                document.followed[group] = Seen(
                    lineage=found.lineage, ages=history.saved(ahead),
                    suspensions=_copied(trail.suspensions),
                )  # fmt: skip
            await self._world.clock.sleep(0)  # some 100 us for each of perhaps a thousand
        for (group, peer), trail in list(served.items()):
            if trail.suspensions:
                document.served.setdefault(group, {})[peer] = _copied(trail.suspensions)
        self._keep_what_is_left(document, state)
        _thin_out(document)
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})  # whoever began it may have been cancelled
        self._writing = asyncio.get_running_loop().create_task(self._write(document))
        await asyncio.shield(self._writing)

    def _keep_what_is_left(self, document: Document, state: Catalogue) -> None:
        """Of groups and secondaries that nobody has looked at yet, and that still exist."""
        for name, seen in self._left.followed.items():
            if name in state.groups:
                document.followed.setdefault(name, seen)
        for name, peers in self._left.served.items():
            there = state.groups[name].sessions if name in state.groups else {}
            for peer, suspensions in peers.items():
                if peer in there:
                    document.served.setdefault(name, {}).setdefault(peer, suspensions)

    async def _write(self, document: Document) -> None:
        documents = self._documents
        assert documents is not None
        try:
            await self._world.work.run(lambda: documents.write(NAME, _encode(document)))
        except OSError as e:
            if not self._failing:
                log.warning("the history of mirrors cannot be saved", reason=str(e))
            self._failing = True
        else:
            self._failing = False


def _copied(suspensions: Iterable[Suspension]) -> list[Suspension]:
    return [msgspec.structs.replace(x, why=x.why[:WHY_CHARS_MAX]) for x in suspensions]


def _thin_out(document: Document) -> None:
    """Leave the oldest suspensions out, if there are too many."""
    lists = [seen.suspensions for seen in document.followed.values()]
    lists += [found for peers in document.served.values() for found in peers.values()]
    stamps = sorted(x.stamp for found in lists for x in found)
    if len(stamps) > SUSPENSIONS_MAX:
        least = stamps[-SUSPENSIONS_MAX]
        for found in lists:
            found[:] = [x for x in found if x.stamp >= least]


# -- the document


def _encode(document: Document) -> bytes:
    body = msgspec.json.encode(document)
    return body + b"\n%016x\n" % checksum(body)


def _read(documents: Documents) -> Document:
    try:
        content = documents.read(NAME)
        return Document() if content is None else _decode(content)
    except (OSError, ValueError) as e:
        log.warning("the history of mirrors begins anew", file=documents.path(NAME), reason=str(e))
        return Document()


def _decode(content: bytes) -> Document:
    """Raises `ValueError` for what this program has not written."""
    if len(content) > SAVED_BYTES_MAX:
        raise ValueError(f"it has {len(content)} bytes")
    body, _, seal = content.rstrip(b"\n").rpartition(b"\n")
    if seal != b"%016x" % checksum(body):
        raise ValueError("its checksum is wrong")
    version = msgspec.json.decode(body, type=dict[str, Any]).get("version")
    if version != VERSION:
        raise ValueError(f"it has version {version}; this program knows {VERSION}")
    return msgspec.json.decode(body, type=Document)
