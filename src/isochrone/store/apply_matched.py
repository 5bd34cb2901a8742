"""What each record about reservations and requests changes. Called by `State.apply` alone."""

from __future__ import annotations

from typing import Final

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Group, Place
from isochrone.store.promises import CopyRequest, Reservation, SiteState

FINISHED: Final = ("DONE", "MISSED", "REFUSED", "EXPIRED")
FINISHED_KEPT: Final = 64  # requests of a group; every checkpoint writes the group as a whole


def finished(request: CopyRequest) -> bool:
    """Whether nothing more will happen to it."""
    return all(site.state in FINISHED and not site.withdraw for site in request.sites)


def reservation_made(state: Catalogue, place: Place, record: r.ReservationMade) -> None:
    group = state.groups[record.group]
    group.reservations = [x for x in group.reservations if x.op != record.op]
    group.reservations.append(
        Reservation(record.op, record.relations, record.stamp, record.seconds)
    )


def reservation_released(state: Catalogue, place: Place, record: r.ReservationReleased) -> None:
    group = state.groups[record.group]
    group.reservations = [x for x in group.reservations if x.op != record.op]


def copy_requested(state: Catalogue, place: Place, record: r.CopyRequested) -> None:
    group = state.groups[record.group]
    group.requests.append(
        CopyRequest(
            id=record.request,
            name=record.name,
            volumes=list(record.volumes),
            writable=record.writable,
            stamp=record.stamp,
            seconds=record.seconds,
            keep_late=record.keep_late,
            sites=[SiteState(peer) for peer in record.sites],
        )
    )
    _prune(group)


def _prune(group: Group) -> None:
    """Forget the oldest of those that are finished."""
    over = [x.id for x in group.requests if finished(x)][:-FINISHED_KEPT]
    group.requests = [x for x in group.requests if x.id not in over]


def request_moved(state: Catalogue, place: Place, record: r.RequestMoved) -> None:
    for request in state.groups[record.group].requests:
        site = request.site(record.peer)
        if request.id == record.request and site is not None:
            site.state, site.detail = record.state, record.detail
            site.copy, site.withdraw = record.copy, record.withdraw


def note_requested(state: Catalogue, place: Place, record: r.CopyTaken) -> None:
    """The copy and what its request knows of it are one record: neither is without the other."""
    if not record.request or record.group:
        return  # nobody asked, or it came from the primary that was asked
    for group in state.groups.values():
        for request in group.requests:
            if request.id == record.request:
                request.name, request.taken, request.lsn = record.name, record.stamp, place.lsn
                for site in request.sites:
                    if site.state == "NEW":
                        site.state = "LOCAL_DONE"
