"""Point-in-time copies: one record, any number of volumes, one instant."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.store import holds
from isochrone.store import records as r
from isochrone.store.attachments import hosts_of
from isochrone.store.catalogue import Consistency, Copy
from isochrone.store.fence import detach_hint
from isochrone.store.names import check_name, free_name, instant_name
from isochrone.store.overlaps import check_unrelated
from isochrone.store.pool import Pool
from isochrone.store.volumes import find

MEMBERS_MAX = 4096  # volumes in one copy: keeps its record under 64 KiB


def take(
    pool: Pool,
    volumes: Sequence[str],
    *,
    name: str = "",
    writable: bool = False,
    schedule: str = "",
    rules: Sequence[str] = (),
    expendable: bool = False,
    request: str = "",
) -> Copy:
    """Copy volumes as they are at this instant; flush before telling anybody that it is done.

    An `expendable` one is given up when space runs short. The sources may be volumes, snapshots
    and clones. All or nothing.
    """
    stamp = pool.world.clock.wall_ns()
    name = check_name("copy", name) if name else _free_name(pool, schedule, stamp)
    if name in pool.state.copies:
        raise Conflict(f"there is a copy {name!r} already")
    if not volumes:
        raise InvalidInput("a copy needs at least one volume")
    if len(set(volumes)) != len(volumes):
        raise InvalidInput("a volume is named twice")
    if len(volumes) > MEMBERS_MAX:
        raise InvalidInput(f"a copy has at most {MEMBERS_MAX} volumes")
    sources = [find(pool, volume) for volume in volumes]
    for source in sources:
        if f"{source.name}@{name}" in pool.state.names:
            raise Conflict(f"there is a copy {name!r} of {source.name!r} already")
    ids = pool.state.new_ids(len(sources))
    pool.record(
        r.CopyTaken(
            name=name,
            writable=writable,
            stamp=stamp,
            members=tuple(zip((source.id for source in sources), ids, strict=True)),
            schedule=schedule,
            rules=tuple(rules),
            expendable=expendable,
            request=request,
        )
    )
    return pool.state.copies[name]


def _free_name(pool: Pool, schedule: str, stamp: int) -> str:
    time = instant_name(stamp)
    return free_name(f"{schedule}-{time}" if schedule else time, pool.state.copies)


def find_copy(pool: Pool, name: str) -> Copy:
    try:
        return pool.state.copies[name]
    except KeyError:
        raise NotFound(f"there is no copy {name!r}", hint="see: isochrone copy list") from None


def classify(pool: Pool, name: str, consistency: Consistency) -> Copy:
    """Say what held still while a copy was taken; it was thought to be less until now."""
    copy = find_copy(pool, name)
    if copy.group:
        raise Conflict(
            f"the copy {name!r} came with the mirror of group {copy.group!r}",
            hint="what it is, is said where it was taken",
        )
    if copy.consistency != consistency:
        pool.record(r.CopyClassified(name=name, consistency=consistency))
    return copy


def delete(pool: Pool, name: str) -> None:
    """Every deletion that somebody asked for here goes through this."""
    copy = find_copy(pool, name)
    check_deletable(pool, copy)
    pool.record(r.CopyDeleted(name=name, stamp=copy.stamp))


def check_deletable(pool: Pool, copy: Copy, *, even_read: bool = False) -> None:
    """Raises `Held` or `Conflict`; who has it open does not matter if it may go `even_read`."""
    holds.check(pool, copy)
    for _, member in copy.members:
        volume = pool.state.volumes[member]
        if not even_read and (who := pool.attached.of(member)):
            raise Conflict(
                f"{volume.name!r} is in use by {hosts_of(who)}",
                hint=detach_hint(volume.name, who[0].host),
            )
        check_unrelated(pool.state, volume, "deleted")


def why_not_deletable(pool: Pool, copy: Copy, *, even_read: bool = False) -> str:
    """Why a deletion would be refused; empty: it would not."""
    try:
        check_deletable(pool, copy, even_read=even_read)
    except Conflict as e:
        return e.message
    return ""


def give_up(pool: Pool, copy: Copy) -> None:
    """Delete an expendable copy, also under who reads it."""
    assert copy.expendable
    check_deletable(pool, copy, even_read=True)
    pool.record(r.CopyDeleted(name=copy.name, stamp=copy.stamp))
