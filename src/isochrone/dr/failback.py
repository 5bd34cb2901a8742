"""Coming back: a site that another one has overtaken becomes its secondary, and loses nothing.

The same for an old primary that was fenced, and for a secondary whose primary was replaced: the
newest cut that both sites have is found, what this site has beyond it is kept as a pinned copy and
told to the new primary, and one record makes this site a secondary at that cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from isochrone.dr.inquiry import Offer, ask_offer
from isochrone.dr.reports import RejoinReport
from isochrone.errors import Conflict, StaleEpoch
from isochrone.mirror import orphans
from isochrone.mirror.groups import find_group
from isochrone.mirror.roles import Role, branch_of, role_of, same_branch, shared_cut
from isochrone.mirror.service import Mirrors
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Decided:
    """How a site comes back."""

    offer: Offer
    cut: int
    diverged: int  # own mark since which it differs
    known: dict[str, int]
    since: int
    pairs: r.Pairs
    keep: bool  # something here is nowhere else


def decide(pool: Pool, group: Group, offer: Offer, *, force: bool = False) -> Decided:
    """How to follow what a site offers. Raises `Conflict` or `StaleEpoch` with what to do."""
    _check(group, offer, force=force, me=pool.identity)
    state = pool.state
    here = {state.volumes[id].name: id for id in group.volumes}
    # What only one of the sites has joins the group here, or leaves it, with the first commit.
    for name in sorted(offer.volumes.keys() - here.keys()):
        if state.reserved(name):
            raise Conflict(
                f"{offer.source} has a volume {name!r} in group {group.name}; here it is another",
                hint=f"delete the one here: isochrone volume delete {name}",
            )
    both = sorted(here.keys() & offer.volumes.keys())
    pairs = tuple((offer.volumes[name], here[name]) for name in both)
    shared = shared_cut(branch_of(group), offer.branch, group.cut)
    whole = role_of(group) is Role.SECONDARY and shared == group.cut  # nothing here is more
    # The new primary need not remember that very cut: what differs has changed since an older one.
    if whole and (shared == offer.cut or min(offer.cuts, default=shared + 1) <= shared):
        return Decided(offer, shared, 0, {}, group.cut_stamp, pairs, keep=False)
    # Both must know what they changed since a cut; what is told too much is sent once more.
    cut = max((known for known in offer.cuts if known <= shared), default=0)
    # One that has told its tracks and got no answer yet goes on telling them from its mark.
    mark = orphans.last_common(state, group, min(cut, group.diverged or cut))
    # What left here since that mark, the new primary believes to be here as of it.
    gone = mark is not None and group.left_lsn > mark.lsn and len(both) < len(offer.volumes)
    if mark is None or gone:
        return Decided(offer, 0, 0, {}, 0, pairs, keep=not whole)
    tracks = orphans.diverged(state, group, mark.cut) or {}
    known = orphans.bytes_by_volume(state, tracks)
    keep = bool(known) and not whole
    return Decided(offer, cut, mark.cut, known, mark.stamp, pairs, keep=keep)


def _check(group: Group, offer: Offer, *, force: bool, me: str) -> None:
    mine, theirs = branch_of(group), offer.branch
    role = role_of(group)
    if theirs.lineage.id != mine.lineage.id:
        raise Conflict(f"{offer.source} offers group {group.name} with another history")
    if mine.lineage.supersedes(theirs.lineage):
        raise StaleEpoch(
            f"{offer.source} offers group {group.name} at epoch {theirs.lineage.epoch};"
            f" epoch {mine.lineage.epoch} is here"
        )
    if group.superseded_by > theirs.lineage.epoch:
        raise StaleEpoch(
            f"epoch {group.superseded_by} took group {group.name} over; {offer.source} is at"
            f" epoch {theirs.lineage.epoch}"
        )
    # A handover that nobody ended is no reason to stay out of what has been taken over since.
    overtaken = theirs.lineage.supersedes(mine.lineage)
    if role is Role.HANDING and not (force or overtaken):
        raise Conflict(
            f"group {group.name} is being handed over",
            hint=f"isochrone group switch {group.name} --cancel",
        )
    if role is Role.PRIMARY and not force:
        clash = mine.lineage == theirs.lineage and not same_branch(mine, theirs)
        raise Conflict(
            f"group {group.name} is the primary here"
            + (", and there at the same epoch: two sites took it over" if clash else ""),
            hint="the one that is to give way: isochrone group rejoin GROUP --from ADDRESS --force",
        )
    if role in (Role.PRIMARY, Role.HANDING) and same_branch(mine, theirs):
        raise Conflict(f"{offer.source} follows group {group.name} of this controller")
    if me in offer.way:
        raise Conflict(f"{offer.source} gets group {group.name} from this controller")


async def rejoin(
    pool: Pool,
    mirrors: Mirrors,
    name: str,
    *,
    source: str = "",
    dry_run: bool = False,
    force: bool = False,
) -> RejoinReport:
    """Follow the group's new primary. When this returns, that survives a power cut."""
    group = find_group(pool, name)
    source = source or group.source
    if not source:
        raise Conflict(
            f"it is not known where group {name} is primary now",
            hint=f"isochrone group rejoin {name} --from ADDRESS of that controller's link",
        )
    decided = decide(pool, group, await ask_offer(pool, group, source), force=force)
    if dry_run:
        return _report(group, decided, "", done=False)
    async with mirrors.released(name):
        group = find_group(pool, name)
        decided = decide(pool, group, decided.offer, force=force)  # it may have changed meanwhile
        if role_of(group) in (Role.PRIMARY, Role.HANDING):
            pool.record(
                r.Fenced(
                    group=name, epoch=decided.offer.branch.lineage.epoch,
                    stamp=pool.world.clock.wall_ns(),
                )
            )  # fmt: skip
            decided = decide(pool, group, decided.offer)
        report = _report(group, decided, orphans.park(pool, group).name if decided.keep else "")
        # In one step: nobody can promote or delete the group in between. The log keeps the order,
        # so whatever survives, the copy is there before anything of it can be overwritten.
        pool.record(
            r.Rejoined(
                group=name,
                source=source,
                epoch=decided.offer.branch.lineage.epoch,
                cut=decided.cut,
                volumes=decided.pairs,
                takeovers=decided.offer.branch.takeovers,
                diverged=decided.diverged,
            )
        )
    await pool.flush()
    if group.to_fence:
        mirrors.fence(name)
    return report


def _report(group: Group, decided: Decided, kept: str, *, done: bool = True) -> RejoinReport:
    return RejoinReport(
        group=group.name,
        source=decided.offer.source,
        epoch=decided.offer.branch.lineage.epoch,
        cut=decided.cut,
        first_copy=not decided.cut,
        diverged=decided.known,
        since=decided.since,
        until=group.fenced_stamp,
        orphans=kept,
        done=done,
    )
