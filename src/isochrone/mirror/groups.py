"""Groups: the volumes that are mirrored and recovered together."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror.messages import GROUP_VOLUMES_MAX
from isochrone.store import records as r
from isochrone.store.apply_matched import FINISHED
from isochrone.store.catalogue import Group, Relation, Volume
from isochrone.store.fence import pass_fence
from isochrone.store.names import check_name
from isochrone.store.overlaps import check_unrelated, name_of, related
from isochrone.store.pool import Pool
from isochrone.store.volumes import delete as delete_plain
from isochrone.store.volumes import find, plain


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
    members = _free(pool, volumes)
    pool.record(
        r.GroupCreated(
            name=name,
            lineage=pool.world.dice.identity(),
            volumes=tuple(volume.id for volume in members),
        )
    )
    return pool.state.groups[name]


def _free(pool: Pool, names: Sequence[str]) -> list[Volume]:
    """Volumes that are in no group yet."""
    if not names or len(set(names)) != len(names):
        raise InvalidInput("a group needs volumes, each named once")
    if len(names) > GROUP_VOLUMES_MAX:
        raise _too_many()
    found = [plain(pool, name, "put into a group") for name in names]
    for volume in found:
        if volume.group:
            raise Conflict(f"{volume.name!r} belongs to the group {volume.group!r} already")
    return found


def _too_many() -> InvalidInput:
    return InvalidInput(f"a group has at most {GROUP_VOLUMES_MAX} volumes")


# -- other volumes


def change(
    pool: Pool, name: str, joining: Sequence[str] = (), leaving: Sequence[str] = ()
) -> Group:
    """Give a group other volumes, while it is mirrored and written. All or nothing.

    Secondaries get what joins with the next cut, whole. What leaves stays as it is, here and at
    each secondary: there as of the last cut that had it.
    """
    group = _changeable(pool, name)
    if not joining and not leaving:
        raise InvalidInput("name volumes that are to join the group, or to leave it")
    joined = _free(pool, joining) if joining else []
    left = _members(pool, group, leaving)
    _check_leaves(pool, group, left, others=len(joined))
    if len(group.volumes) + len(joined) - len(left) > GROUP_VOLUMES_MAX:
        raise _too_many()
    pool.record(
        r.GroupChanged(
            group=name, joined=tuple(v.id for v in joined), left=tuple(v.id for v in left)
        )
    )
    return group


def _members(pool: Pool, group: Group, names: Sequence[str]) -> list[Volume]:
    if len(set(names)) != len(names):
        raise InvalidInput("name each volume of the group once")
    found = [find(pool, volume) for volume in names]
    for volume in found:
        if volume.id not in group.volumes:
            raise Conflict(
                f"{volume.name!r} is not in the group {group.name!r}",
                hint=f"see: isochrone group show {group.name}",
            )
    return found


def delete_volume(pool: Pool, name: str, *, force: bool = False) -> None:
    """Delete a volume; if it is mirrored from here, in one step with taking it out of its group.

    Secondaries keep theirs: what is deleted by mistake here is not lost with it there.
    """
    volume = plain(pool, name, "deleted")
    group = pool.state.groups.get(volume.group)
    if group is None or group.role != "primary":
        delete_plain(pool, name, force=force)  # or says why not
        return
    _changeable(pool, group.name)
    check_unrelated(pool.state, volume, "deleted")
    _check_leaves(pool, group, [volume])
    pass_fence(pool, [volume], "deleted", force=force)
    pool.record(r.GroupChanged(group=group.name, left=(volume.id,), deleted=(volume.id,)))


def _changeable(pool: Pool, name: str) -> Group:
    """A group that is written here. Raises `Conflict` or `NotFound`."""
    group = find_group(pool, name)
    if group.role != "primary":
        raise Conflict(
            f"group {name!r} is {group.standing} here: its volumes are chosen at its primary",
            hint="do it there; it gets here with the next cut",
        )
    if group.handover:
        raise Conflict(
            f"group {name!r} is being handed over to another site",
            hint=f"do it there, or: isochrone group switch {name} --cancel",
        )
    return group


def _check_leaves(pool: Pool, group: Group, gone: Sequence[Volume], *, others: int = 0) -> None:
    """Raises `Conflict` if something needs a volume in its group. `others`: that join it."""
    ids = {volume.id for volume in gone}
    if not others and ids.issuperset(group.volumes):
        raise Conflict(
            f"nothing would be left of the group {group.name!r}",
            hint=f"forget the group as a whole first: isochrone group delete {group.name}",
        )
    state = pool.state
    for volume in gone:
        for relation in related(state, volume.id):
            if relation.group == group.name and not ids.issuperset(_ends(relation)):
                raise Conflict(
                    f"{volume.name!r} cannot leave the group {group.name!r}:"
                    f" {name_of(state, relation)} is mirrored with it",
                    hint=f"withdraw it first: isochrone relation withdraw {relation.id} --keep",
                )
    for request in group.requests:
        if not ids.isdisjoint(request.volumes) and any(
            site.state not in FINISHED for site in request.sites
        ):
            raise Conflict(
                f"a copy of volumes that would leave the group {group.name!r} is on its way to"
                " other sites",
                hint=f"wait for it: isochrone copy requests; its id is {request.id}",
            )


def _ends(relation: Relation) -> tuple[int, int]:
    return relation.source, relation.target
