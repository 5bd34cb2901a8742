"""What a site has that the history it is to follow does not hold: found, kept, and told.

Before a site gives up writes that never arrived anywhere, it keeps its volumes as they are as a
pinned copy. Then it tells its new primary which tracks differ from the cut that both have; the
primary sends these as well as what it changed itself, and one commit makes both sites equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyroaring import BitMap

from isochrone.errors import PeerFault
from isochrone.mirror.messages import TRACKS_BYTES_MAX, Diverged
from isochrone.store import changes, copies, holds
from isochrone.store.catalogue import Catalogue, Copy, Group, Mark
from isochrone.store.changes import Tracks
from isochrone.store.names import NAME_CHARS_MAX
from isochrone.store.pool import Pool
from isochrone.types import TRACK

REASON = "writes that no other site has; let go of it with: isochrone copy unpin"


def last_common(state: Catalogue, group: Group, cut: int) -> Mark | None:
    """The newest mark here, not after a cut, since which the changed tracks are known."""
    known = (
        m
        for m in group.marks
        if m.cut <= cut and changes.count_since(state, group, m.cut) is not None
    )
    return max(known, key=lambda mark: mark.cut, default=None)


def diverged(state: Catalogue, group: Group, cut: int) -> Tracks | None:
    """Tracks that may differ from what they were at a cut, at least; None: nobody knows."""
    mark = last_common(state, group, cut) if cut else None
    return None if mark is None else changes.since(state, group, mark.cut)


def _parted(group: Group) -> int:
    """The cut at which a site that was overtaken stands apart from the new history; 0: unknown."""
    return group.superseded_cut if group.role == "fenced" else group.diverged


def not_arrived(state: Catalogue, group: Group) -> dict[str, int]:
    """What was changed here, in bytes by volume, and never arrived at the new primary."""
    cut = _parted(group)
    return bytes_by_volume(state, diverged(state, group, cut) or {}) if cut else {}


def since(state: Catalogue, group: Group) -> int:
    """Stamp of the cut since which that is counted; 0: not known."""
    mark = last_common(state, group, _parted(group))
    return mark.stamp if mark is not None else 0


def bytes_by_volume(state: Catalogue, tracks: Mapping[int, BitMap]) -> dict[str, int]:
    """How much these tracks cover, by the name of the volume."""
    return {
        state.volumes[id].name: len(bits) * TRACK for id, bits in sorted(tracks.items()) if bits
    }


def park(pool: Pool, group: Group) -> Copy:
    """Keep the group's volumes as they are, pinned. Flush before anything is overwritten.

    Asked again before anything was changed, it finds the copy that it made.
    """
    volumes = [pool.state.volumes[id] for id in group.volumes]
    base = name = f"orphaned-{group.name[: NAME_CHARS_MAX - 32]}-{group.epoch}"
    number = 1
    while (found := pool.state.copies.get(name)) is not None:
        same = {source for source, _ in found.members} == set(group.volumes)
        if same and not found.writable and found.lsn > max(v.changed_lsn for v in volumes):
            break
        number += 1
        name = f"{base}-{number}"
    if found is None:
        found = copies.take(pool, [volume.name for volume in volumes], name=name)
    if not found.pinned:
        holds.pin(pool, found, REASON)
    return found


def tell(state: Catalogue, group: Group) -> Iterator[Diverged]:
    """Messages to the new primary: none if nothing differs, at least one if something may."""
    if not group.diverged:
        return
    tracks = changes.since(state, group, group.diverged) or {}
    ids = group.remote_ids.items()
    yield from messages({remote: tracks.get(local, BitMap()) for remote, local in ids})


def messages(tracks: Tracks) -> Iterator[Diverged]:
    """The same for tracks by volume of the primary."""
    for remote, bits in sorted(tracks.items()):
        # A volume may differ in its size alone: that it is told of is enough.
        for piece in changes.encode(bits, TRACKS_BYTES_MAX) if bits else (bits.serialize(),):
            yield Diverged(volume=remote, tracks=piece)


def take(pool: Pool, group: Group, known: Tracks, message: Diverged) -> None:
    """At a primary: add what a secondary tells to what is known of it.

    Raises `PeerFault` for what cannot be tracks of this group, so it stays as large as its volumes.
    """
    if message.volume not in group.volumes:
        raise PeerFault(f"volume {message.volume} is not part of group {group.name}")
    try:
        bits = changes.decode(message.tracks, 1 << 32)
    except ValueError as e:
        raise PeerFault(f"the secondary told tracks that make no sense: {e}") from e
    # The volume may have been larger there; what lies behind its end here is not sent.
    end = -(-pool.state.volumes[message.volume].size // TRACK)
    known.setdefault(message.volume, BitMap()).update(bits & BitMap(range(end)))
