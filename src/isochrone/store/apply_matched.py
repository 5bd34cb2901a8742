"""What each record about reservations and requests changes. Called by `State.apply` alone."""

from __future__ import annotations

from typing import Final

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Copy, Group, Place
from isochrone.store.promises import CopyRequest, Reservation, SiteState, Told

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


def requests_told(state: Catalogue, place: Place, record: r.RequestsTold) -> None:
    group = state.groups[record.group]
    group.told, group.told_stamp = list(record.requests), record.stamp


def taken_over(state: Catalogue, place: Place, record: r.Promoted) -> None:
    """What the old primary was asked for is this site's to settle from here on."""
    group = state.groups[record.group]
    told, group.told = group.told, []
    here = {(c.origin or c.name, c.stamp): c for c in _came(state, group)} if told else {}
    known = {request.id for request in group.requests}
    for each in told:
        if each.id not in known:
            copy = here.get((each.name, each.stamp))
            group.requests.append(_inherited(state, place, group, each, copy, record.pool))
    _prune(group)


def _came(state: Catalogue, group: Group) -> list[Copy]:
    return [c for c in state.copies.values() if group.name in (c.group, c.kept_from)]


def _inherited(
    state: Catalogue, place: Place, group: Group, told: Told, copy: Copy | None, me: str
) -> CopyRequest:
    sites = []
    for peer, was, withdraw in told.sites:
        site = SiteState(peer, was, withdraw=withdraw)
        if peer == me and copy is not None:
            site.copy = copy.name
        if was not in FINISHED and copy is None:
            site.state, site.withdraw = "EXPIRED", peer != me and not told.keep_late
            site.detail = "the takeover came before the copy"
        elif was not in FINISHED:
            site.state = "DONE" if peer == me else "SENT"
        sites.append(site)
    return CopyRequest(
        id=told.id,
        name=told.name,
        volumes=[source for source, _ in copy.members] if copy is not None else [],
        writable=copy is not None and copy.writable,
        stamp=group.told_stamp,
        seconds=told.left,
        keep_late=told.keep_late,
        sites=sites,
        lsn=copy.lsn if copy is not None else 0,
        taken=told.stamp,
        inherited=True,
        behind=place.lsn - 1,
    )
