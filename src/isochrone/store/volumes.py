"""Commands on volumes: each checks, then appends one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isochrone.errors import Conflict, InvalidInput, NotFound, ReadOnly
from isochrone.store import records as r
from isochrone.store.catalogue import Volume
from isochrone.store.fence import pass_fence
from isochrone.store.labels import check_labels
from isochrone.store.names import check_name
from isochrone.store.overlaps import check_fits, check_unrelated
from isochrone.store.pool import Pool
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


def create(pool: Pool, name: str, size: int, labels: Mapping[str, str] | None = None) -> Volume:
    check_name("volume", name)
    check_size(size)
    labels = check_labels(labels or {})
    if pool.state.reserved(name):
        raise Conflict(f"there is a volume {name!r} already")
    (id,) = pool.state.new_ids(1)
    pool.record(r.VolumeCreated(id=id, name=name, size=size, labels=labels))
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


def resize(
    pool: Pool, name: str, size: int, *, shrink: bool = False, force: bool = False
) -> Volume:
    """Give a volume another size; to a smaller one only if `shrink` says that it is meant.

    A smaller one is refused while hosts have it open, unless `force` says that this is meant too.
    """
    volume = plain(pool, name, "resized")
    check_size(size)
    if pool.state.read_only(volume):
        raise ReadOnly(f"{name!r} is read-only: {pool.state.describe(volume)}")
    if size < volume.size and not shrink:
        raise Conflict(
            f"{name!r} has {volume.size} bytes; {size} would cut off its end",
            hint="repeat it with --shrink if that is meant",
        )
    check_fits(pool.state, volume, size)
    if size < volume.size:
        pass_fence(pool, [volume], "made smaller", force=force)
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


def label(pool: Pool, name: str, put: Mapping[str, str], remove: Sequence[str] = ()) -> Volume:
    """Give a volume labels, and take others away."""
    volume = plain(pool, name, "labelled")
    for key in remove:
        if key not in volume.labels:
            raise NotFound(f"{name!r} has no label {key!r}")
        if key in put:
            raise InvalidInput(f"the label {key!r} cannot be put and removed at once")
    kept = {key: value for key, value in volume.labels.items() if key not in remove}
    labels = check_labels(kept | dict(put))
    if labels != volume.labels:
        pool.record(r.VolumeLabelled(id=volume.id, labels=labels))
    return volume


def delete(pool: Pool, name: str, *, force: bool = False) -> None:
    """Delete a volume; while hosts have it open only if `force` says that this is meant."""
    volume = plain(pool, name, "deleted")
    if volume.group:
        raise Conflict(
            f"{name!r} belongs to the group {volume.group!r}",
            hint=f"see: isochrone group show {volume.group}",
        )
    check_unrelated(pool.state, volume, "deleted")
    pass_fence(pool, [volume], "deleted", force=force)
    pool.record(r.VolumeDeleted(id=volume.id))
