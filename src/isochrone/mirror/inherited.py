"""Requests outlive their primary: each secondary knows them, and settles them if it takes over.

The primary tells the whole list whenever something of it matters to others: when a copy was taken,
when a site is finished with, when late copies must go again. A secondary has it on record, durably,
before it says so: the request is ARMED there. Taking over makes the list its own, in the record of
the takeover. The old primary, once it follows again, hears the same kind of list from its successor
and so learns what became of its requests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import structlog

from isochrone.errors import Conflict, IsochroneError, PeerFault
from isochrone.mirror.capabilities import REQUESTS
from isochrone.mirror.commands import check_peer_name
from isochrone.mirror.matched import FINAL, At, Event, move
from isochrone.mirror.messages import (
    REQUEST_S_MAX,
    REQUEST_SITES_TOLD_MAX,
    REQUESTS_TOLD_MAX,
    Noted,
    Requests,
    ToldRequest,
    ToldSite,
)
from isochrone.store import copies
from isochrone.store import records as r
from isochrone.store.apply_matched import finished
from isochrone.store.catalogue import Copy, Group
from isochrone.store.pool import Pool
from isochrone.store.promises import CopyRequest, SiteState, Told

if TYPE_CHECKING:
    from isochrone.mirror.asking import Served

Left = Callable[[Group, CopyRequest], float]  # seconds until a request is given up
Key = tuple[object, ...]
LISTS_UNDER_WAY_MAX: Final = 64  # to one secondary; who answers none of them is told no more

log = structlog.get_logger()


UNDER_WAY: Final = frozenset({At.LOCAL_DONE, At.SENT, At.ARMED})  # while it is primary

# -- at a primary


def list_of(group: Group, left: Left) -> tuple[ToldRequest, ...]:
    """The requests whose copies were taken: all that are open, and the newest of the others."""
    taken = [x for x in group.requests if x.taken]
    open_ = [x for x in taken if not finished(x)][-REQUESTS_TOLD_MAX:]
    room = REQUESTS_TOLD_MAX - len(open_)
    ended = [x for x in taken if finished(x)][-room:] if room else []
    told = {x.id for x in (*open_, *ended)}
    return tuple(_told(x, left(group, x)) for x in taken if x.id in told)


def _told(request: CopyRequest, left: float) -> ToldRequest:
    sites = request.sites[:REQUEST_SITES_TOLD_MAX]
    return ToldRequest(
        request.id,
        request.name,
        request.taken,
        min(max(left, 0.0), REQUEST_S_MAX),
        request.keep_late,
        tuple(ToldSite(x.peer, x.state, x.withdraw) for x in sites),
    )


def _key(requests: tuple[ToldRequest, ...] | list[Told]) -> Key:
    """What of a list matters to who may have to settle it; how far an open one has come does not.

    The sites are triples in a record, and structs in a message.
    """
    return tuple(
        (x.id, x.name, x.stamp, x.keep_late, tuple(_site_key(site) for site in x.sites))
        for x in requests
    )


def _site_key(site: ToldSite | tuple[str, str, bool]) -> Key:
    if isinstance(site, ToldSite):
        site = (site.peer, site.state, site.withdraw)
    peer, state, withdraw = site
    return (peer, state if state in FINAL else "", withdraw)


class _Sent:
    """What one connection was told."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.token = 0
        self.waiting: dict[int, tuple[str, ...]] = {}  # token -> requests in that list


class Telling:
    """The lists that go to the secondaries of a pool's groups."""

    def __init__(self, left: Left) -> None:
        self._left = left
        self._sent: WeakKeyDictionary[Served, _Sent] = WeakKeyDictionary()

    def tell(self, group: Group, session: Served) -> None:
        """Send the list if it says anything that this connection has not heard."""
        if group.role != "primary" or REQUESTS not in session.talk.capabilities:
            return
        sent = self._sent.setdefault(session, _Sent())
        requests = list_of(group, self._left)
        key = _key(requests)
        if sent.key == key or len(sent.waiting) >= LISTS_UNDER_WAY_MAX:
            return
        sent.key, sent.token = key, sent.token + 1
        sent.waiting[sent.token] = tuple(x.id for x in requests)
        with suppress(IsochroneError):  # the next connection is told anew
            session.talk.post(Requests(token=sent.token, requests=requests))

    def noted(self, session: Served, token: int) -> tuple[str, ...]:
        """The requests of a list that a secondary has on record now."""
        sent = self._sent.get(session)
        return sent.waiting.pop(token, ()) if sent is not None else ()


# -- at a secondary


def note(pool: Pool, group: Group, message: Requests) -> Noted:
    """Put what the primary tells on record, and learn from it. Flush before saying so.

    Raises `PeerFault` for what no sane primary tells.
    """
    _check(message)
    if _key(message.requests) != _key(group.told):
        told = tuple(
            Told(x.id, x.name, x.stamp, x.left, x.keep_late, [_known(site) for site in x.sites])
            for x in message.requests
        )
        stamp = pool.world.clock.wall_ns()
        pool.record(r.RequestsTold(group=group.name, stamp=stamp, requests=told))
    _learn(pool, group)
    return Noted(token=message.token)


def _check(message: Requests) -> None:
    """People will read it, and copies may be named so."""
    if len({x.id for x in message.requests}) < len(message.requests):
        raise PeerFault("the primary told of one request twice")
    for request in message.requests:
        check_peer_name("request", request.id)
        check_peer_name("copy", request.name)
        if not all(site.peer.isalnum() for site in request.sites):
            raise PeerFault("the primary told of a site without an identity")
        if len({site.peer for site in request.sites}) < len(request.sites):
            raise PeerFault("the primary told of one site twice")


def _known(site: ToldSite) -> tuple[str, str, bool]:
    """A state that a newer version has is one that is not final."""
    state = site.state if site.state in At.__members__ else At.SENT.value
    return (site.peer, state, site.withdraw)


def _learn(pool: Pool, group: Group) -> None:
    """What became of the requests that were made here while this site was the primary."""
    told = {x.id: x for x in group.told}
    for request in group.requests:
        successor = told.get(request.id)
        if successor is not None and successor.stamp != request.taken:
            successor = None  # the name was used again there
        states = {peer: state for peer, state, _ in successor.sites} if successor else {}
        for site in list(request.sites):
            if At(site.state) in UNDER_WAY:
                why = "another site took the group over"
                move_on(pool, group, request, site, Event.OVERTAKEN, why)
            found = _outcome(At(site.state), states.get(site.peer), known=successor is not None)
            if found is not None:
                event, why = found
                move_on(pool, group, request, site, event, why)


def _outcome(state: At, there: str | None, *, known: bool) -> tuple[Event, str] | None:
    """What the word of the site that took over means for a request of the old primary."""
    if state is At.EXPIRED and there == At.DONE:
        return Event.FOUND, "the site that took over says that it is there"
    if state is not At.OVERTAKEN:
        return None
    if not known:
        return Event.DROPPED, "it had not arrived at the site that took over; the copy here stays"
    match there:
        case At.DONE:
            return Event.CONFIRMED, "the site that took over says so"
        case At.MISSED:
            return Event.ABSENT, "the site that took over says so"
        case At.EXPIRED | At.REFUSED:
            return Event.DROPPED, "the site that took over gave it up; the copy here stays"
    return None


# -- both


def move_on(
    pool: Pool, group: Group, request: CopyRequest, site: SiteState, event: Event, why: str
) -> None:
    """Note what another site says of a request; nothing is to be withdrawn from here any more."""
    state = move(At(site.state), event)
    log.info(
        f"request {site.state} -> {state}",
        group=group.name, request=request.id, site=site.peer, why=why,
    )  # fmt: skip
    found = request.name if event in (Event.FOUND, Event.CONFIRMED) else ""
    note_state(pool, group, request, site, state, why, site.copy or found)


def note_state(
    pool: Pool, group: Group, request: CopyRequest, site: SiteState, state: str, why: str,
    copy: str = "", *, withdraw: bool = False,
) -> None:  # fmt: skip
    """Put on record how far a request is at a site."""
    pool.record(
        r.RequestMoved(
            group=group.name,
            request=request.id,
            peer=site.peer,
            state=state,
            detail=why,
            copy=copy,
            withdraw=withdraw,
        )
    )


def find_copy(pool: Pool, group: str, name: str, stamp: int) -> Copy | None:
    """What the primary of a group means by a copy: it came with the mirror, as of that instant."""
    for copy in pool.state.copies.values():
        came = group in (copy.group, copy.kept_from)
        if came and (copy.origin or copy.name) == name and copy.stamp == stamp:
            return copy
    return None


def withdraw(pool: Pool, group: Group, request: CopyRequest) -> tuple[str, str]:
    """Delete a late copy here: its name if it stays, and what became of it in words."""
    copy = find_copy(pool, group.name, request.name, request.taken)
    if copy is None:
        return "", ""
    try:
        copies.delete(pool, copy.name)
    except Conflict as e:
        return copy.name, f"it came late, and stays here: {e.message}"
    return "", "it came late and was deleted here"
