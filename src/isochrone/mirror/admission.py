"""Who is served, and who has to give way: what a controller says to HELLO and FENCE."""

from __future__ import annotations

from isochrone.errors import Conflict, StaleEpoch
from isochrone.mirror.messages import Branching, Fence, Hello, Welcome
from isochrone.mirror.roles import Role, begun_by, role_of
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.types import Lineage


def check_serves(group: Group) -> None:
    """Whether somebody may follow a group here. Raises `StaleEpoch` or `Conflict`."""
    if group.role == "fenced":
        raise StaleEpoch(
            f"group {group.name} was taken over by epoch {group.superseded_by};"
            f" epoch {group.epoch} here is no longer served"
        )
    if group.role == "secondary" and role_of(group) is not Role.SECONDARY:
        raise Conflict(
            f"group {group.name} is a secondary here, and holds no cut of its primary yet",
            hint=f"wait for it there, or mirror it from {group.source}",
        )


def check_branch(group: Group, hello: Hello) -> None:
    """Two sites that took the same epoch over have different histories under one name."""
    mine = begun_by(group.takeovers, group.epoch)
    same = Lineage(hello.lineage, hello.epoch) == group.identity
    if same and mine and hello.branch and mine != hello.branch:
        raise Conflict(
            f"two sites took epoch {group.epoch} of group {group.name} over;"
            " the secondary follows the other one",
            hint=f"bring it over: isochrone mirror repoint {group.name} ADDRESS",
        )


def is_new(group: Group, hello: Hello) -> bool:
    """Whether what is on record of a secondary, if anything, says nothing of what it has now.

    One that followed another site meanwhile has relations under that site's numbers, and may not
    know any more what hosts wrote since.
    """
    session = group.sessions.get(hello.pool)
    return session is None or (bool(hello.cut) and hello.cut not in session.cuts)


def history(group: Group) -> tuple[Branching, ...]:
    """Where the epochs of a group begin, as messages tell it."""
    return tuple(Branching(t.epoch, t.cut, t.pool) for t in group.takeovers)


def cuts_known(group: Group) -> tuple[int, ...]:
    """Cuts since which it is known what has changed."""
    return tuple(mark.cut for mark in group.marks if mark.recorded)


def learned(told: tuple[Branching, ...]) -> r.Takeovers:
    """The same, as records keep it."""
    return tuple(r.Takeover(t.epoch, t.cut, t.pool) for t in told)


def note_welcome(pool: Pool, group: Group, welcome: Welcome) -> None:
    """Remember what the followed site says of the history, if this site is a part of it."""
    takeovers = learned(welcome.takeovers)
    known = tuple(group.takeovers), tuple(group.way)
    if (takeovers, welcome.way) != known:
        pool.record(r.HistoryLearned(group=group.name, takeovers=takeovers, way=welcome.way))


def fence_of(group: Group, source: str) -> Fence:
    """What a new primary says to the old one; who was overtaken itself passes on by what."""
    epoch, cut = group.epoch, group.superseded_cut
    if group.superseded_by > epoch:
        epoch = group.superseded_by
    else:
        cut = next((t.cut for t in group.takeovers if t.epoch == epoch), 0)
    return Fence(group=group.name, lineage=group.lineage, epoch=epoch, cut=cut, source=source)


async def give_way(pool: Pool, group: Group, epoch: int, fence: Fence | None = None) -> None:
    """Be read-only from now on: another site has taken the group over."""
    if group.role == "primary":
        pool.record(
            r.Fenced(
                group=group.name,
                epoch=epoch,
                cut=fence.cut if fence else 0,
                source=fence.source if fence else "",
                stamp=pool.world.clock.wall_ns(),
            )
        )
        await pool.flush()
