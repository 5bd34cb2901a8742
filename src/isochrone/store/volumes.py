"""Commands on volumes: each checks, then appends one record."""

from __future__ import annotations

from isochrone.errors import Conflict, InvalidInput, NotFound, ReadOnly
from isochrone.store import records as r
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.store.state import Volume
from isochrone.types import BLOCK, MIB, TIB, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN

SECTOR = 512  # sizes are multiples of it, as every block client expects


def find(pool: Pool, name: str) -> Volume:
    """A volume or copy member by the name of its export. Raises `NotFound`."""
    id = pool.state.names.get(name)
    if id is None:
        raise NotFound(f"there is no volume {name!r}", hint="see: isochrone volume list")
    return pool.state.volumes[id]


def check_size(size: int) -> int:
    if not VOLUME_BYTES_MIN <= size <= VOLUME_BYTES_MAX:
        raise InvalidInput(
            f"a volume of {size} bytes is not possible",
            hint=f"choose {VOLUME_BYTES_MIN // MIB} MiB to {VOLUME_BYTES_MAX // TIB} TiB",
        )
    if size % SECTOR:
        raise InvalidInput(f"{size} is not a multiple of {SECTOR} bytes")
    return size


def create(pool: Pool, name: str, size: int) -> Volume:
    check_name("volume", name)
    check_size(size)
    if pool.state.reserved(name):
        raise Conflict(f"there is a volume {name!r} already")
    (id,) = pool.state.new_ids(1)
    pool.record(r.VolumeCreated(id=id, name=name, size=size))
    return pool.state.volumes[id]


def plain(pool: Pool, name: str, doing: str) -> Volume:
    """A volume that is not part of a copy. Raises `NotFound` or `Conflict`."""
    volume = find(pool, name)
    if volume.kind != "volume":
        raise Conflict(
            f"{name!r} belongs to the copy {volume.copy!r}; it cannot be {doing} by itself",
            hint=f"see: isochrone copy show {volume.copy}",
        )
    return volume


def resize(pool: Pool, name: str, size: int, *, shrink: bool = False) -> Volume:
    """Give a volume another size; to a smaller one only if `shrink` says that it is meant."""
    volume = plain(pool, name, "resized")
    check_size(size)
    if pool.state.read_only(volume):
        raise ReadOnly(f"{name!r} is read-only: {pool.state.describe(volume)}")
    if size < volume.size and not shrink:
        raise Conflict(
            f"{name!r} has {volume.size} bytes; {size} would cut off its end",
            hint="repeat it with --shrink if that is meant",
        )
    if size < volume.size and pool.attached.get(volume.id):
        raise in_use(pool, volume)
    if size > volume.size and volume.size % BLOCK:
        _clear_beyond(pool, volume)
    if size != volume.size:
        pool.record(r.VolumeResized(id=volume.id, size=size))
    return volume


def _clear_beyond(pool: Pool, volume: Volume) -> None:
    """Zeros behind the end, in its last block: an earlier shrinking may have left old bytes."""
    block, end = divmod(volume.size, BLOCK)
    data = bytearray(b"".join(pool.read(pool.state.tables[volume.id], block, 1)))
    if any(data[end:]):
        data[end:] = bytes(BLOCK - end)
        pool.stage_write(volume.id, block, memoryview(data))
        pool.commit()


def delete(pool: Pool, name: str) -> None:
    volume = plain(pool, name, "deleted")
    if volume.group:
        raise Conflict(
            f"{name!r} belongs to the group {volume.group!r}",
            hint=f"see: isochrone group show {volume.group}",
        )
    if pool.attached.get(volume.id):
        raise in_use(pool, volume)
    pool.record(r.VolumeDeleted(id=volume.id))


def in_use(pool: Pool, volume: Volume) -> Conflict:
    clients = sorted(pool.attached[volume.id])
    return Conflict(
        f"{volume.name!r} is in use by {', '.join(clients[:3])}"
        + (f" and {len(clients) - 3} more" if len(clients) > 3 else ""),
        hint="disconnect its clients first",
    )
