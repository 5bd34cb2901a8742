"""May a command change a volume's content at once, under whoever uses or mirrors it?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from isochrone.errors import Conflict
from isochrone.store.catalogue import Group
from isochrone.store.fence import followed, pass_fence
from isochrone.store.pool import Pool

IMAGES_MAX: Final = 64  # commands on a group, not yet at every secondary: each keeps old blocks

# Volumes that change, with those that they become; nothing: they only lose something.
Changes = Mapping[int, Collection[int]]


@dataclass(frozen=True, slots=True)
class Permission:
    """What the operator has agreed to."""

    online_ok: bool = False  # hosts may have the volume open
    force: bool = False  # overlay it in any case
    # required: secondaries do the same by themselves, and were asked; preferred: if they can, else
    # they get the content as data, as with `none`; empty: they do it, or it is refused
    mirror: Literal["", "required", "preferred", "none"] = ""
    rehearse: bool = False  # raise `Rehearsed` instead of doing it


class Rehearsed(Exception):
    """Every check has passed, and nothing was done: that was only to be found out.

    It is raised where the act would begin, so the rehearsal runs through the checks of the act.
    """

    def __init__(self, changes: Changes) -> None:
        super().__init__("rehearsed")
        self.changes = changes


NOTHING_AGREED: Final = Permission()


def may_overwrite(pool: Pool, changes: Changes, doing: str, permission: Permission) -> None:
    """Raises `Conflict` if not. Call it last of all checks: what passes is noted as done.

    Raises `Rehearsed` if the permission is one to rehearse.
    """
    volumes = [pool.state.volumes[id] for id in changes]
    waits: dict[str, int] = {}  # a thousand targets of one group, and 64 images of each
    for volume in volumes:
        group = followed(pool, volume)
        if group is None:
            continue
        if permission.mirror in ("", "required") and from_outside(group, changes[volume.id]):
            raise Conflict(
                f"{volume.name!r} is mirrored with the group {group.name!r}, and what it is to"
                " become is not: it would travel as data",
                hint="repeat it with --mirror none if that is meant",
            )
        if group.name not in waits:
            waits[group.name] = len({image.lsn for image in group.images})
        waiting = waits[group.name]
        if waiting >= IMAGES_MAX:
            raise Conflict(
                f"{waiting} changes of the group {group.name!r} wait for its secondary",
                hint=f"see: isochrone group show {group.name}",
            )
    pass_fence(
        pool,
        volumes,
        doing,
        online_ok=permission.online_ok,
        force=permission.force,
        tell=not permission.rehearse,
    )
    if permission.rehearse:
        raise Rehearsed(changes)


def from_outside(group: Group, sources: Iterable[int]) -> bool:
    """Whether secondaries of a group do not have what is copied."""
    return any(id not in group.volumes for id in sources)


def images(pool: Pool, changes: Changes, first: int = 0) -> tuple[tuple[int, int], ...]:
    """Numbers for the hidden images of volumes that are followed.

    0 where secondaries can do the same themselves, because they have the sources.
    """
    numbers = count(first or pool.state.next_id)
    found = []
    for id, sources in changes.items():
        group = followed(pool, pool.state.volumes[id])
        if group is not None:
            by_itself = sources and not from_outside(group, sources)
            found.append((id, 0 if by_itself else next(numbers)))
    return tuple(found)
