"""The state of a pool, and how each record changes it.

`State.apply` is the only place that changes the catalogue: live operation and recovery go through
the same code, in log order. It never refuses; whoever appends a record has checked it before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from isochrone.store import apply_groups, apply_relations, apply_schedules, apply_volumes
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
    r.CopyClassified: apply_volumes.copy_classified,
    r.CopyDeleted: apply_volumes.copy_deleted,
    r.RelationsEstablished: apply_relations.relations_established,
    r.RelationsRefreshed: apply_relations.relations_refreshed,
    r.RelationsRestored: apply_relations.relations_restored,
    r.RelationsWithdrawn: apply_relations.relations_withdrawn,
    r.VolumesReverted: apply_relations.volumes_reverted,
    r.GroupCreated: apply_groups.group_created,
    r.GroupDeleted: apply_groups.group_deleted,
    r.SessionOpened: apply_groups.session_opened,
    r.SessionSuspended: apply_groups.session_suspended,
    r.SessionResumed: apply_groups.session_resumed,
    r.SessionClosed: apply_groups.session_closed,
    r.CutPlaced: apply_groups.cut_placed,
    r.Fenced: apply_groups.fenced,
    r.MirrorAdded: apply_groups.mirror_added,
    r.IncomingBegun: apply_groups.incoming_begun,
    r.IncomingDropped: apply_groups.incoming_dropped,
    r.IncomingCommitted: apply_groups.incoming_committed,
    r.Promoted: apply_groups.promoted,
    r.PeerFenced: apply_groups.peer_fenced,
    r.VolumeLabelled: apply_schedules.volume_labelled,
    r.CopyHeld: apply_schedules.copy_held,
    r.ClockSeen: apply_schedules.clock_seen,
    r.ScheduleSet: apply_schedules.schedule_set,
    r.ScheduleDeleted: apply_schedules.schedule_deleted,
}
