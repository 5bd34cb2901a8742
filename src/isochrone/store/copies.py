"""Point-in-time copies: one record, any number of volumes, one instant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.store import records as r
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.store.state import Copy
from isochrone.store.volumes import find, in_use

MEMBERS_MAX = 4096  # volumes in one copy: keeps its record under 64 KiB


def take(pool: Pool, volumes: Sequence[str], *, name: str = "", writable: bool = False) -> Copy:
    """Copy volumes as they are at this instant; flush before telling anybody that it is done.

    The sources may be volumes, snapshots and clones. All or nothing.
    """
    stamp = pool.world.clock.wall_ns()
    name = check_name("copy", name) if name else _free_name(pool, stamp)
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
        )
    )
    return pool.state.copies[name]


def _free_name(pool: Pool, stamp: int) -> str:
    base = name = datetime.fromtimestamp(stamp // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
    n = 1
    while name in pool.state.copies:
        n += 1
        name = f"{base}-{n}"
    return name


def find_copy(pool: Pool, name: str) -> Copy:
    try:
        return pool.state.copies[name]
    except KeyError:
        raise NotFound(f"there is no copy {name!r}", hint="see: isochrone copy list") from None


def delete(pool: Pool, name: str) -> None:
    copy = find_copy(pool, name)
    for _, member in copy.members:
        if pool.attached.get(member):
            raise in_use(pool, pool.state.volumes[member])
    pool.record(r.CopyDeleted(name=name))
