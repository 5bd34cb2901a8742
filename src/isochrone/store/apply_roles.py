"""What records about the roles of a group change: takeovers, switches, and coming back.

Called by `State.apply` alone. `promoted`, `fenced` and `incoming_committed` do what `apply_groups`
does, and note what it means for the history of the group.
"""

from __future__ import annotations

from typing import Final

from isochrone.store import apply_groups, apply_matched
from isochrone.store import records as r
from isochrone.store.catalogue import UNFENCED_MAX, Catalogue, Group, Place

TAKEOVERS_KEPT: Final = 64  # of a history; who comes back from before them copies everything


def _learn(group: Group, takeovers: r.Takeovers) -> None:
    group.takeovers = list(takeovers[-TAKEOVERS_KEPT:])


def promoted(state: Catalogue, place: Place, record: r.Promoted) -> None:
    apply_groups.promoted(state, place, record)
    group = state.groups[record.group]
    _learn(group, (*group.takeovers, r.Takeover(record.epoch, group.cut, record.pool)))
    group.diverged, group.way, group.rejoined = 0, [], False
    apply_matched.taken_over(state, place, record)


def fenced(state: Catalogue, place: Place, record: r.Fenced) -> None:
    apply_groups.fenced(state, place, record)
    group = state.groups[record.group]
    _leave_to_tell(group, record.source)
    group.handover = ""
    group.fenced_stamp = record.stamp
    group.superseded_cut = record.cut
    group.source = record.source


def _leave_to_tell(group: Group, source: str) -> None:
    """Remember whom this site was to fence, now that it follows another one: nobody else knows."""
    waiting = [address for address in group.to_fence if address != source]
    group.unfenced, group.fence_pending = list(dict.fromkeys(waiting))[-UNFENCED_MAX:], False


def handover_begun(state: Catalogue, place: Place, record: r.HandoverBegun) -> None:
    state.groups[record.group].handover = record.peer


def handover_cancelled(state: Catalogue, place: Place, record: r.HandoverCancelled) -> None:
    state.groups[record.group].handover = ""


def rejoined(state: Catalogue, place: Place, record: r.Rejoined) -> None:
    """The volumes keep what they hold until the first group of the new primary is committed."""
    apply_groups.incoming_dropped(state, place, r.IncomingDropped(group=record.group))
    group = state.groups[record.group]
    state.drop_images(group, place.lsn)
    group.role = "secondary"
    _leave_to_tell(group, record.source)
    group.source, group.epoch, group.cut = record.source, record.epoch, record.cut
    group.remote_ids = dict(record.volumes)
    group.diverged, group.handover, group.rejoined = record.diverged, "", True
    group.told = []  # by whom it followed before
    group.superseded_by = group.superseded_cut = group.fenced_stamp = group.promoted_stamp = 0
    group.lost, group.sessions, group.kept_cut = {}, {}, 0
    # Later cuts are of a branch that ends here: the new primary uses their numbers again.
    newest = record.diverged or record.cut
    mark = group.mark(newest)
    group.cut_stamp = mark.stamp if mark is not None else 0
    group.marks = [mark for mark in group.marks if mark.cut <= newest]
    state.changes.keep(group.name, {mark.cut for mark in group.marks})
    _learn(group, record.takeovers)


def cut_relayed(state: Catalogue, place: Place, record: r.CutRelayed) -> None:
    session = state.groups[record.group].sessions.get(record.peer)
    if session is not None:
        session.cut, session.sent_cut = record.acked, record.cut
        session.begun = list(record.begun)


def history_learned(state: Catalogue, place: Place, record: r.HistoryLearned) -> None:
    group = state.groups[record.group]
    _learn(group, record.takeovers)
    group.way = list(record.way)


def incoming_committed(state: Catalogue, place: Place, record: r.IncomingCommitted) -> None:
    apply_groups.incoming_committed(state, place, record)
    group = state.groups[record.group]
    group.diverged, group.rejoined = 0, False
