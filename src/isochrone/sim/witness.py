"""What each site showed at each cut, held against what other sites show; and who was primary.

A plain memory of fingerprints: it knows nothing of logs, tracks, windows or resends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Final

import xxhash

from isochrone.mirror.roles import begun_by
from isochrone.sim.checkers import Violation
from isochrone.store import records as r
from isochrone.store.catalogue import Copy, Group
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

Branch = tuple[int, str]
Shown = dict[str, bytes]  # what a site shows: export -> fingerprint
ORPHANED: Final = "orphaned-"  # so begin the names of copies of what no other site has
PIECE_BLOCKS: Final = 16  # of an image: to take its blocks one by one costs a fifth of a run
FINGERPRINT: Final = 8  # bytes of each piece: a run keeps hundreds of images


def branch(group: Group) -> Branch:
    """The epoch, and the pool whose promotion began it."""
    return group.epoch, begun_by(group.takeovers, group.epoch)


def content(pool: Pool, name: str) -> bytes:
    """A fingerprint of each piece of an export, one behind the other."""
    device = VolumeDevice(pool, pool.state.names[name])
    data = memoryview(b"".join(device.read(0, device.size)))
    size, digest = PIECE_BLOCKS * BLOCK, xxhash.xxh3_64_digest
    return b"".join(digest(data[at : at + size]) for at in range(0, len(data), size))


def live(shown: Shown) -> Shown:
    """The volumes alone, without their copies."""
    return {name: data for name, data in shown.items() if "@" not in name}


def volumes_of(pool: Pool, group: Group) -> Shown:
    names = [pool.state.volumes[id].name for id in group.volumes]
    return {name: content(pool, name) for name in names}


def copied(pool: Pool, group: Group, copy: Copy) -> Shown:
    """What a copy shows of a group's volumes, by the names it has where it comes from."""
    volumes, name = pool.state.volumes, copy.origin or copy.name
    return {
        f"{volumes[source].name}@{name}": content(pool, volumes[member].name)
        for source, member in copy.members
        if source in group.volumes
    }


def copies_of(pool: Pool, group: Group) -> Iterator[Copy]:
    """What a site has of the group's copies: at a secondary, only what came through the mirror."""
    for copy in pool.state.copies.values():
        taken_there = copy.group != group.name and group.role == "secondary"
        if not taken_there and not copy.writable:
            yield copy


def shown(pool: Pool, group: Group) -> Shown:
    """The group's volumes, and its copies."""
    found = volumes_of(pool, group)
    for copy in copies_of(pool, group):
        found |= copied(pool, group, copy)
    return found


class Witness:
    """Told of every record at every site, right when it is applied."""

    def __init__(self, group: str, say: Callable[[str], None]) -> None:
        self._group = group
        self._say = say
        self._at_cut: dict[tuple[Branch, int], Shown] = {}  # what the primary showed at a cut
        self._primaries: dict[Branch, str] = {}  # site
        self._applied: dict[tuple[str, int], Shown] = {}  # site, lsn -> what it showed from then
        self._copies: dict[str, Shown] = {}  # by name: what it was when it was taken
        self._base: dict[str, int] = {}  # of the group that a site receives
        self._fenced: dict[str, Shown] = {}  # by site: what it showed when it was fenced
        self.born: dict[str, Branch] = {}  # copies that a primary took
        self.excused: dict[str, set[str]] = {}  # by site: copies that it need not have
        self._sites: dict[str, str] = {}  # by identity of the pool
        self.commits = 0
        self.counts: Counter[str] = Counter()

    def at(self, group: Group, cut: int) -> Shown | None:
        """What the primary of the group's branch showed at a cut.

        The cut at which an epoch begins was placed in the one before; a site may have it under the
        new epoch before whoever takes over has.
        """
        found = self._at_cut.get((branch(group), cut))
        begins = ((t.epoch, t.cut) == (group.epoch, cut) for t in group.takeovers)
        if found is None and any(begins):
            before = group.epoch - 1, begun_by(group.takeovers, group.epoch - 1)
            found = self._at_cut.get((before, cut))
        return found

    def placed(self, cut: int) -> bool:
        """Whether some primary placed a cut of this number."""
        return any(cut == number for _, number in self._at_cut)

    def ever(self, cut: int, volumes: Shown) -> bool:
        """Whether some primary showed these volumes at a cut of this number."""
        return any(n == cut and live(s) == volumes for (_, n), s in self._at_cut.items())

    def applied(self, site: str, lsn: int) -> Shown | None:
        """The volumes of a site right after a record with which it committed a cut."""
        return self._applied.get((site, lsn))

    def excuse(self, site: str, copies: Collection[str]) -> None:
        """These copies need not be at a site, for a reason that it is known to have."""
        self.excused.setdefault(site, set()).update(copies)

    def watch(self, site: str, pool: Pool, lsn: int, record: r.AnyRecord) -> None:
        """Raises `Violation`."""
        group = pool.state.groups.get(self._group)
        self._sites[pool.identity] = site
        if group is None:
            return
        self._count(record)
        match record:
            case r.CutPlaced(cut=cut):
                self._at_cut[branch(group), cut] = shown(pool, group)
            case r.IncomingBegun():
                self._base[site] = record.base
            case r.IncomingCommitted(cut=cut):
                self._committed(site, pool, group, lsn, cut)
            case r.GroupCreated():
                self._now_primary(site, group)
            case r.Promoted():
                self._promoted(site, pool, group)
            case r.Fenced():
                self._fenced[site] = volumes_of(pool, group)
            case r.Rejoined(cut=cut, diverged=0) if cut:
                if not self.ever(cut, volumes_of(pool, group)):
                    raise Violation(f"(k) {site} says that it is at cut {cut}; it is not")
            case r.RequestMoved(state="EXPIRED", request=id, peer=peer):
                # It is deleted where it comes late, or was dropped before.
                gone = {request.name for request in group.requests if request.id == id}
                self.excuse(self._sites.get(peer, ""), gone)
            case r.CopyTaken(group="", name=name):
                self._taken(site, pool, group, pool.state.copies[name])

    def _count(self, record: r.AnyRecord) -> None:
        """What a run must have in it, or it proves little."""
        match record:
            case r.SessionFellBehind() | r.SessionSuspended(kind="limit"):
                self.counts["limits"] += 1
            case r.IncomingBegun(pool=source) if source:
                self.counts["by images"] += 1
            case r.IncomingProgress(position=at) if at.volume:
                self.counts["part ways"] += 1

    def _taken(self, site: str, pool: Pool, group: Group, copy: Copy) -> None:
        if not copy.writable:
            self._copies[self._key(site, copy)] = found = copied(pool, group, copy)
            then = self._fenced.get(site)
            parked = {name.partition("@")[0]: data for name, data in found.items()}
            if copy.name.startswith(ORPHANED) and then is not None and parked != then:
                raise Violation(f"(l) {copy.name} at {site} is not what was there when it gave way")
        if group.role == "primary":
            self.born[copy.name] = branch(group)

    @staticmethod
    def _key(site: str, copy: Copy) -> str:
        """Names of copies that were asked for are of one site; others each site gives itself."""
        name = copy.origin or copy.name
        if not name.startswith(ORPHANED):
            return name
        return f"{site}/{name}" if name == copy.name and not copy.group else ""

    def _committed(self, site: str, pool: Pool, group: Group, lsn: int, cut: int) -> None:
        self.commits += 1
        self._fenced.pop(site, None)
        self._say(f"{site} committed cut {cut} of epoch {group.epoch}")
        found, expected = shown(pool, group), self.at(group, cut)
        self._applied[site, lsn] = live(found)
        self._compare(site, found, expected, f"cut {cut}")
        self.check_copies(site, pool, group)
        # What is not at the site it follows cannot come from there.
        self.excuse(site, self.excused.get(group.source.partition(":")[0], ()))
        if not self._base.get(site):
            names = {name.partition("@")[2] for name in expected or () if "@" in name}
            self.excuse(site, names)

    def check_copies(self, site: str, pool: Pool, group: Group) -> None:
        """Whether every copy at a site is what it was when it was taken, wherever that was."""
        for copy in pool.state.copies.values():
            then = self._copies.get(self._key(site, copy))
            if then is None or copy.writable:
                continue
            for name, data in copied(pool, group, copy).items():
                if data != then.get(name):
                    raise Violation(f"(i) {name} at {site} is not what was copied")

    def _now_primary(self, site: str, group: Group) -> None:
        first = self._primaries.setdefault(branch(group), site)
        if first != site:
            raise Violation(f"(j) {branch(group)} has two primaries: {first} and {site}")

    def _promoted(self, site: str, pool: Pool, group: Group) -> None:
        self._now_primary(site, group)
        self._fenced.pop(site, None)
        found = shown(pool, group)
        if not self.ever(group.cut, live(found)):
            raise Violation(f"(k) {site} took over at cut {group.cut}, and is not at it")
        self._at_cut[branch(group), group.cut] = found

    @staticmethod
    def _compare(site: str, found: Shown, expected: Shown | None, what: str) -> None:
        if expected is None:
            raise Violation(f"(i) {site} committed {what}, which nobody placed")
        for name, data in found.items():
            if name not in expected:
                raise Violation(f"(i) {site} shows {name} at {what}; the primary did not")
            if data != expected[name]:
                raise Violation(
                    f"(i) {name} at {site} is not that of {what}, from block"
                    f" {first_difference(data, expected[name])} on"
                )
        missing = [name for name in expected if name not in found and "@" not in name]
        if missing:
            raise Violation(f"(i) {site} lacks {missing} at {what}")


def first_difference(one: bytes, other: bytes) -> int:
    """The first block of the first piece in which two contents differ, by their fingerprints."""
    pieces = range(0, max(len(one), len(other)), FINGERPRINT)
    return next(
        n // FINGERPRINT * PIECE_BLOCKS
        for n in pieces
        if one[n : n + FINGERPRINT] != other[n : n + FINGERPRINT]
    )
