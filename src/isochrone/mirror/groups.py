"""Groups: the volumes that are mirrored and recovered together."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror.messages import GROUP_VOLUMES_MAX
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.store.volumes import plain


def find_group(pool: Pool, name: str) -> Group:
    try:
        return pool.state.groups[name]
    except KeyError:
        raise NotFound(f"there is no group {name!r}", hint="see: isochrone group list") from None


def members(pool: Pool, name: str) -> list[str]:
    """Names of a group's volumes; none before the first copy of a mirrored one."""
    volumes = pool.state.volumes
    return sorted(volumes[id].name for id in find_group(pool, name).volumes)


def delete(pool: Pool, name: str) -> None:
    """Forget a group; its volumes stay, as plain volumes that can be written to.

    Secondaries that follow it are not served any more, and nothing is kept for them.
    """
    group = find_group(pool, name)
    if group.role == "secondary":
        raise Conflict(
            f"group {name!r} is mirrored to this controller",
            hint=f"end that here: isochrone mirror remove {name}",
        )
    pool.record(r.GroupDeleted(name=name))


def create(pool: Pool, name: str, volumes: Sequence[str]) -> Group:
    """Make a group of volumes of this controller; it is their primary. All or nothing."""
    check_name("group", name)
    if name in pool.state.groups:
        raise Conflict(f"there is a group {name!r} already")
    if not volumes or len(set(volumes)) != len(volumes):
        raise InvalidInput("a group needs volumes, each named once")
    if len(volumes) > GROUP_VOLUMES_MAX:
        raise InvalidInput(f"a group has at most {GROUP_VOLUMES_MAX} volumes")
    members = [plain(pool, volume, "put into a group") for volume in volumes]
    for volume in members:
        if volume.group:
            raise Conflict(f"{volume.name!r} belongs to the group {volume.group!r} already")
    pool.record(
        r.GroupCreated(
            name=name,
            lineage=pool.world.dice.identity(),
            volumes=tuple(volume.id for volume in members),
        )
    )
    return pool.state.groups[name]
