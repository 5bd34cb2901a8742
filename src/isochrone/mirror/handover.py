"""The old primary's side of a planned switch: each step is a question that may be asked again.

It runs on the secondary's word, and never lets two sites write: first nobody may write here, then
the last cut is at the other site, then this site becomes its secondary, and only after that is
durable does the other site hear that it may begin the next epoch.
"""

from __future__ import annotations

from isochrone.errors import Conflict, PeerFault, StaleEpoch
from isochrone.mirror import cuts
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import HOSTS_NAMED_MAX, TEXT_CHARS_MAX, Switch, Switched
from isochrone.mirror.roles import Act, Role, begun_by, move, role_of
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.types import Lineage


async def answer(pool: Pool, message: Switch) -> Switched:
    """Do one step, durably, and say how the group stands. Raises what is in the way."""
    group = find_group(pool, message.group)
    if message.lineage != group.lineage:
        raise Conflict(f"group {group.name} there has another history")
    match message.act:
        case "hold":
            _hold(pool, group, message)
        case "yield":
            _yield(pool, group, message)
        case "cancel":
            if group.handover == message.pool:
                cancel(pool, group.name)
    await pool.flush()
    return _standing(pool, group, message)


def cancel(pool: Pool, name: str) -> None:
    """Let hosts write here again. Safe: nobody has been told that it may take over."""
    group = find_group(pool, name)
    move(role_of(group), Act.CANCEL_HANDOVER)
    pool.record(r.HandoverCancelled(group=name))


def _standing(pool: Pool, group: Group, message: Switch) -> Switched:
    return Switched(
        role=role_of(group).name,
        epoch=group.epoch,
        cut=group.cut,
        heir=group.handover or begun_by(group.takeovers, group.epoch),
        clean=_clean(pool, group, message.cut),
        hosts=tuple(writers(pool, group)[:HOSTS_NAMED_MAX]),
    )


def _clean(pool: Pool, group: Group, cut: int) -> bool:
    """Whether a cut holds everything that there is."""
    mark = group.mark(cut) if cut == group.cut else None
    return mark is not None and not cuts.changed_since(pool, group, mark)


def writers(pool: Pool, group: Group) -> list[str]:
    """Hosts that have volumes of a group open for writing, in words."""
    return [
        f"{pool.state.volumes[id].name}: {host}"[:TEXT_CHARS_MAX]
        for id in group.volumes
        for host in pool.attached.of(id)
        if host.role == "app" and not host.read_only
    ]


def _check_epoch(group: Group, message: Switch) -> None:
    if Lineage(message.lineage, message.epoch) != group.identity:
        raise StaleEpoch(
            f"group {group.name} is at epoch {group.epoch} here, at {message.epoch} there"
        )


def _hold(pool: Pool, group: Group, message: Switch) -> None:
    if group.handover == message.pool:
        return
    if group.handover:
        raise Conflict(
            f"group {group.name} is being handed over to another site",
            hint=f"finish it there, or: isochrone group switch {group.name} --cancel",
        )
    _check_epoch(group, message)
    move(role_of(group), Act.BEGIN_HANDOVER)
    if message.pool not in group.sessions:
        raise Conflict(f"group {group.name} is not mirrored to that site")
    if (hosts := writers(pool, group)) and not message.force:
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        raise Conflict(
            f"hosts have volumes of group {group.name} open for writing:"
            f" {', '.join(hosts[:3])}{more}",
            hint="stop the applications and disconnect them first, or repeat it with --force",
        )
    stamp = pool.world.clock.wall_ns()
    pool.record(r.HandoverBegun(group=group.name, peer=message.pool, stamp=stamp))


def _yield(pool: Pool, group: Group, message: Switch) -> None:
    """Become the secondary of the site that asks, at the last cut."""
    if role_of(group) is Role.SECONDARY and _is_heir(group, message):
        return  # the answer was lost
    _check_epoch(group, message)
    move(role_of(group), Act.YIELD)
    if group.handover != message.pool:
        raise Conflict(f"group {group.name} is not being handed over to that site")
    if not _clean(pool, group, message.cut):
        return  # the answer says so
    pool.record(
        r.Rejoined(
            group=group.name,
            source=message.source,
            epoch=group.epoch + 1,
            cut=group.cut,
            volumes=_pairs(pool, group, message),
            takeovers=(
                *group.takeovers, r.Takeover(group.epoch + 1, group.cut, message.pool)
            ),
        )
    )  # fmt: skip


def _is_heir(group: Group, message: Switch) -> bool:
    return begun_by(group.takeovers, group.epoch) == message.pool


def _pairs(pool: Pool, group: Group, message: Switch) -> r.Pairs:
    """(id there, id here) of each volume. Raises `PeerFault` if they are not the same volumes."""
    here = {pool.state.volumes[id].name: id for id in group.volumes}
    there = {volume.name: volume.id for volume in message.volumes}
    if not message.source or here.keys() != there.keys() or len(set(there.values())) != len(here):
        raise PeerFault(f"the other site does not have the volumes of group {group.name}")
    return tuple((there[name], id) for name, id in sorted(here.items()))
