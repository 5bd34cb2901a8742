"""The four checkers. They see a pool as a client does: names, sizes, bytes.

(a) a recovered image is a prefix of what was written, over all volumes, and holds all that was
    flushed;
(b) a secondary equals the primary at one cut over all volumes of its group;
(c) a mirrored copy equals its origin;
(d) nothing that was acknowledged before the reported recovery point is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from isochrone.sim.history import ZERO, History, Track
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK

GLANCE: Final = 16  # blocks that are compared with zeros in one go
ZEROS: Final = bytes(GLANCE * BLOCK)


class Violation(Exception):
    """A promise was broken. The seed replays it."""


def image(pool: Pool, name: str) -> bytes:
    """All bytes of an export."""
    device = VolumeDevice(pool, pool.state.names[name])
    return b"".join(device.read(0, device.size))


def block_of(data: bytes, block: int) -> bytes:
    """A block of an image."""
    return data[block * BLOCK : (block + 1) * BLOCK]


def prefix(history: History, pool: Pool) -> int:
    """Checker (a): the newest op the pool can be the state after. Raises `Violation`."""
    mask = (1 << (history.op + 1)) - (1 << history.flushed)
    relations = {x.id: tuple(x.extents) for x in pool.state.relations.values()}
    mask &= history.bonds.ops_with(relations, history.op)
    if not mask:
        raise Violation(f"(a) no state explains the relations {relations}")
    for name in sorted(history.tracks):
        mask &= _states(history, pool, name)
        if not mask:
            raise Violation(
                f"(a) no state from op {history.flushed} (flushed) to {history.op} explains {name}"
            )
    return mask.bit_length() - 1


def _states(history: History, pool: Pool, name: str) -> int:
    """After which ops a name was as the pool shows it, as a bit mask."""
    everything = (1 << (history.op + 1)) - 1
    if name not in pool.state.names:
        for track in history.tracks[name]:
            everything &= ~_life(history, track)
        return everything
    data = image(pool, name)
    mask = 0
    for track in history.tracks[name]:
        mask |= _matches(history, track, data)
    return mask


def _life(history: History, track: Track) -> int:
    return (1 << (track.died or history.op + 1)) - (1 << track.born)


def _matches(history: History, track: Track, data: bytes) -> int:
    """After which ops a volume had these bytes."""
    mask, blocks = 0, len(data) // BLOCK
    ends = [op for op, _ in track.sizes[1:]] + [history.op + 1]
    for (op, size), end in zip(track.sizes, ends, strict=True):
        if size == blocks:
            mask |= (1 << end) - (1 << op)
    mask &= _life(history, track)
    touched = history.touched(track)
    if _stray(touched, data) is not None:
        return 0
    for block in touched:
        if block < blocks and mask:
            mask &= history.ops_with(track, block, block_of(data, block), history.op)
    return mask


def _stray(touched: set[int], data: bytes) -> int | None:
    """The first block that was never touched and is not zero. Most of an image is such gaps."""
    blocks, first = len(data) // BLOCK, 0
    for end in (*sorted(block for block in touched if block < blocks), blocks):
        for at in range(first, end, GLANCE):
            until = min(at + GLANCE, end)
            if not data.startswith(ZEROS[: (until - at) * BLOCK], at * BLOCK):
                return next(n for n in range(at, until) if block_of(data, n) != ZERO)
        first = end + 1
    return None


def equals(
    history: History, op: int, pool: Pool, names: Iterable[str], what: str, *, suffix: str = ""
) -> None:
    """Whether exports are exactly what they were after an op. Raises `Violation`.

    `suffix` is what the pool had to put behind their names, because they were taken there.
    """
    for name in names:
        track = history.alive(name, op)
        if track is None or name + suffix not in pool.state.names:
            raise Violation(f"{what}: {name} is missing at op {op}")
        data = image(pool, name + suffix)
        blocks = len(data) // BLOCK
        if blocks != history.size(name, op):
            raise Violation(f"{what}: {name} has {blocks} blocks at op {op}")
        touched = history.touched(track)
        if (stray := _stray(touched, data)) is not None:
            raise Violation(f"block {stray} of {name} was never written and is not zero")
        for block in touched:
            if block < blocks and block_of(data, block) != history.content(track, block, op):
                raise Violation(f"{what}: block {block} of {name} is not that of op {op}")


def secondary(history: History, op: int, pool: Pool, group: str, since: int) -> None:
    """Checkers (b) and (c): volumes and mirrored copies at a secondary, after a commit.

    `since` is the op of its first copy; copies taken later must be there.
    """
    state = pool.state
    members = [state.volumes[id].name for id in state.groups[group].volumes]
    equals(history, op, pool, members, "(b) the secondary is not at its cut")
    related = sorted(
        (state.volumes[x.source].name, state.volumes[x.target].name, sorted(x.extents))
        for x in state.relations.values()
        if x.group == group
    )
    if related != history.bonds.within(members, op):
        raise Violation(f"(b) the secondary has other relations at op {op}: {related}")
    # By the names that they have at the primary: here one may have had to get another.
    came = {copy.origin or copy.name: copy for copy in state.copies.values() if copy.group == group}
    for name, life in history.copies_at(op).items():
        copy = came.get(name)
        sources = [source for source in life.members if source in members]
        if copy is None:
            if sources and life.born > since:
                raise Violation(f"(c) copy {name} did not come to the secondary")
            continue
        there = [f"{source}@{name}" for source in sources]
        suffix = copy.name.removeprefix(name)
        if sorted(state.volumes[m].name for _, m in copy.members) != sorted(
            export + suffix for export in there
        ):
            raise Violation(f"(c) copy {name} has other members at the secondary")
        if not copy.writable:
            what = "(c) a mirrored copy is not its origin"
            equals(history, op, pool, there, what, suffix=suffix)
    for name in came:
        if name not in history.copies_at(op):
            raise Violation(f"(c) copy {name} does not exist at its origin")


def nothing_hidden(pool: Pool) -> None:
    """After a commit all that takes space can be named. Raises `Violation`."""
    state = pool.state
    hidden = [
        v.name
        for v in state.volumes.values()
        if state.names.get(v.name) != v.id and v.kind != "point"
    ]
    if hidden and not any(group.incoming for group in state.groups.values()):
        raise Violation(f"{len(hidden)} volumes are left behind: {', '.join(hidden[:5])}")


def recovery_point(history: History, op: int, instant: int, group: Iterable[str]) -> None:
    """Checker (d): everything acknowledged before the reported instant is in the image."""
    members = frozenset(group)
    for later in range(op + 1, history.op + 1):
        if history.times[later] < instant and not members.isdisjoint(history.names[later]):
            raise Violation(
                f"(d) op {later} was acknowledged before the reported recovery point and is lost"
            )
