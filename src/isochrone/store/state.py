"""The state of a pool, and how each record changes it.

`State.apply` is the only place that changes the catalogue: live operation and recovery go through
the same code, in log order. It never refuses; whoever appends a record has checked it before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from isochrone.store import (
    apply_groups,
    apply_images,
    apply_matched,
    apply_members,
    apply_mirrored,
    apply_points,
    apply_probes,
    apply_relations,
    apply_roles,
    apply_schedules,
    apply_sessions,
    apply_volumes,
)
from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Place


class State(Catalogue):
    """The catalogue of a pool, as its log says it is."""

    def apply(self, place: Place, record: r.AnyRecord) -> None:
        """Change the catalogue as a record says. Order of calls = order of the log."""
        self.forest.place = place.pointer
        _APPLY[type(record)](self, place, record)


_APPLY: Final[dict[type[r.Record], Callable[[Catalogue, Place, Any], None]]] = {
    r.VolumeCreated: apply_volumes.volume_created,
    r.VolumeResized: apply_volumes.volume_resized,
    r.VolumeDeleted: apply_volumes.volume_deleted,
    r.CopyTaken: apply_volumes.copy_taken,
    r.ReservationMade: apply_matched.reservation_made,
    r.ReservationReleased: apply_matched.reservation_released,
    r.CopyRequested: apply_matched.copy_requested,
    r.RequestMoved: apply_matched.request_moved,
    r.RequestsTold: apply_matched.requests_told,
    r.CopyClassified: apply_volumes.copy_classified,
    r.CopyDeleted: apply_volumes.copy_deleted,
    r.RelationsEstablished: apply_relations.relations_established,
    r.RelationsRefreshed: apply_relations.relations_refreshed,
    r.RelationsRestored: apply_relations.relations_restored,
    r.RelationsWithdrawn: apply_relations.relations_withdrawn,
    r.RelationsMirrored: apply_mirrored.relations_mirrored,
    r.RelationsListed: apply_mirrored.relations_listed,
    r.SessionHolds: apply_mirrored.session_holds,
    r.VolumesReverted: apply_relations.volumes_reverted,
    r.GroupCreated: apply_groups.group_created,
    r.GroupChanged: apply_members.group_changed,
    r.GroupDeleted: apply_groups.group_deleted,
    r.SessionOpened: apply_groups.session_opened,
    r.SessionSuspended: apply_groups.session_suspended,
    r.SessionResumed: apply_groups.session_resumed,
    r.SessionSet: apply_sessions.session_set,
    r.SessionFellBehind: apply_sessions.session_fell_behind,
    r.GroupTuned: apply_sessions.group_tuned,
    r.SessionClosed: apply_groups.session_closed,
    r.CutPlaced: apply_groups.cut_placed,
    r.Fenced: apply_roles.fenced,
    r.MirrorAdded: apply_groups.mirror_added,
    r.IncomingBegun: apply_groups.incoming_begun,
    r.IncomingProgress: apply_images.incoming_progress,
    r.IncomingDropped: apply_groups.incoming_dropped,
    r.IncomingCommitted: apply_roles.incoming_committed,
    r.HandoverBegun: apply_roles.handover_begun,
    r.HandoverCancelled: apply_roles.handover_cancelled,
    r.Rejoined: apply_roles.rejoined,
    r.CutRelayed: apply_roles.cut_relayed,
    r.HistoryLearned: apply_roles.history_learned,
    r.Promoted: apply_roles.promoted,
    r.PeerFenced: apply_groups.peer_fenced,
    r.WindowSet: apply_points.window_set,
    r.PointsDropped: apply_points.points_dropped,
    r.PointOpened: apply_points.point_opened,
    r.ProbeBegun: apply_probes.probe_begun,
    r.ProbeEnded: apply_probes.probe_ended,
    r.VolumeLabelled: apply_schedules.volume_labelled,
    r.CopyHeld: apply_schedules.copy_held,
    r.ClockSeen: apply_schedules.clock_seen,
    r.ScheduleSet: apply_schedules.schedule_set,
    r.ScheduleDeleted: apply_schedules.schedule_deleted,
}
