"""Copies at several sites: takes them here, watches them arrive, and asks whether they did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from isochrone.errors import Conflict, DeadlinePassed, InvalidInput, IsochroneError, NotFound
from isochrone.mirror.capabilities import ASKING
from isochrone.mirror.groups import find_group
from isochrone.mirror.inherited import Telling, note_state, withdraw
from isochrone.mirror.matched import ARRIVING, FINAL, At, Event, Seen, look, move, to_ask
from isochrone.mirror.messages import REQUEST_S_MAX, CopyAnswer, CopyQuestion
from isochrone.mirror.reservations import Deadlines
from isochrone.mirror.terms import served
from isochrone.store import copies
from isochrone.store import records as r
from isochrone.store.apply_matched import finished
from isochrone.store.catalogue import Group
from isochrone.store.changes import log_serves
from isochrone.store.names import check_name
from isochrone.store.pool import Pool
from isochrone.store.promises import CopyRequest, SiteState
from isochrone.store.volumes import find

if TYPE_CHECKING:
    from isochrone.mirror.asking import Live, Served

OPEN_REQUESTS_MAX: Final = 32  # of a group: each is looked at all the time until it is finished
REQUEST_S: Final = 300.0  # a mirror that lags more than this is not one to wait for
SETTLED_S: Final = 86400.0  # after a takeover: time for the other sites to come to the new primary
ASK_AGAIN_S: Final = 2.0  # an answer takes a round trip; asking twice does no harm

_TAKEOVER: Final = "takeover of "  # beside the names of groups, as keys of deadlines

log = structlog.get_logger()


class Requests:
    """Of one pool."""

    def __init__(self, pool: Pool, live: Live) -> None:
        self._pool = pool
        self._live = live
        self._deadlines = Deadlines(pool.world.clock)
        self._telling = Telling(self._left)
        self._asked: dict[tuple[str, str, str], float] = {}  # group, request, peer -> when
        self.changed = asyncio.Event()  # set and replaced whenever a request has moved

    # -- asking for one

    def request(
        self,
        group: str,
        volumes: Sequence[str] = (),
        *,
        at: Sequence[str] = (),
        id: str = "",
        name: str = "",
        writable: bool = False,
        seconds: float = REQUEST_S,
        wait_duplex: bool = False,
        keep_late: bool = False,
    ) -> CopyRequest:
        """Take a copy that is to exist at sites, too; without `at`, at all of them.

        An `id` that is known gives the request that has it: it can be repeated without harm. Flush
        before telling. Raises `Conflict`, `InvalidInput` or `NotFound`; then there is no copy.
        """
        found = find_group(self._pool, group)
        for owner, known in self.listed() if id else ():
            if known.id == id and owner is found:
                return known
            if known.id == id:
                raise Conflict(
                    f"the request {id!r} is of group {owner.name!r}; choose another name"
                )
        self._check(found, name, seconds)
        if id:
            check_name("request", id)
        peers, sources = self.chosen(found, volumes, at)
        if not wait_duplex:
            for peer in peers:
                if not self.duplex(found, peer):
                    site = found.sessions[peer].site or peer
                    raise Conflict(
                        f"the mirror of group {group!r} to {site} is not DUPLEX: a copy there"
                        " could not be of this instant",
                        hint="repeat it with --wait-duplex, or see: isochrone mirror status",
                    )
        for peer in peers:
            self._check_understood(found, peer)
        made = id or self._pool.world.dice.identity()
        self._pool.record(
            r.CopyRequested(
                group=group,
                request=made,
                name=name,
                volumes=tuple(sources),
                sites=tuple(peers),
                stamp=self._pool.world.clock.wall_ns(),
                seconds=seconds,
                writable=writable,
                keep_late=keep_late,
            )
        )
        self._take_next(found)
        self._tell_sites(found)  # before the cut with the copy in it can be begun
        request = self.find(made)[1]
        if request.sites[0].state == At.REFUSED:
            raise Conflict(request.sites[0].detail)
        return request

    def chosen(
        self, group: Group, volumes: Sequence[str], at: Sequence[str]
    ) -> tuple[list[str], list[int]]:
        """The sites and the volumes that are meant. Raises `InvalidInput` or `NotFound`."""
        peers = {peer for site in at or ("",) for peer in served(self._pool, group.name, site)}
        sources = [find(self._pool, volume).id for volume in volumes] or list(group.volumes)
        if not set(sources) <= set(group.volumes) or len(set(sources)) < len(sources):
            raise InvalidInput(f"the volumes must be of the group {group.name!r}, each named once")
        return sorted(peers), sources

    def _check(self, group: Group, name: str, seconds: float) -> None:
        if not group.writable:
            raise Conflict(
                f"group {group.name!r} is {group.standing} here; such a copy is asked for at its"
                " primary"
            )
        if not 0 < seconds <= REQUEST_S_MAX:
            raise InvalidInput(f"a deadline lies at most {REQUEST_S_MAX:g} s ahead")
        if name:
            check_name("copy", name)
            if name in self._pool.state.copies:
                raise Conflict(f"there is a copy {name!r} already")
        # Inherited ones are bounded by the list they came in; they may wait for a site for a day.
        mine = (x for x in group.requests if not x.inherited)
        if sum(not finished(x) for x in mine) >= OPEN_REQUESTS_MAX:
            raise Conflict(
                f"{OPEN_REQUESTS_MAX} requests of group {group.name!r} are not finished",
                hint="see: isochrone copy requests",
            )

    def _check_understood(self, group: Group, peer: str) -> None:
        """Raises `Conflict` if a connected secondary could never confirm a copy."""
        live = self._live(group.name).get(peer)
        if live is not None and ASKING not in live.talk.capabilities:
            raise Conflict(
                f"{group.sessions[peer].site or peer} cannot confirm copies: its version is older",
                hint="run the same version of isochrone at both sites",
            )

    def duplex(self, group: Group, peer: str) -> bool:
        """Whether nothing but cuts lies between a secondary and the present."""
        session, live = group.sessions[peer], self._live(group.name).get(peer)
        if live is None or session.cause or live.phase or not live.acked:
            return False
        mark = group.mark(live.acked)
        return mark is not None and log_serves(group, session, mark)

    def find(self, id: str) -> tuple[Group, CopyRequest]:
        """Raises `NotFound`."""
        for group in self._pool.state.groups.values():
            for request in group.requests:
                if request.id == id:
                    return group, request
        raise NotFound(f"there is no request {id!r}", hint="see: isochrone copy requests")

    # -- moving them on

    def look(self) -> int:
        """Move all requests on as far as they can be; how many are not finished."""
        groups = [group for group in self._pool.state.groups.values() if group.requests]
        keys, asked = [], {}
        for group in groups:
            for request in [x for x in group.requests if not finished(x)]:
                keys += [(group.name, request.id), (_TAKEOVER + group.name, request.id)]
                for site in list(request.sites):
                    self._look_at(group, request, site)
                    key = (group.name, request.id, site.peer)
                    if key in self._asked:
                        asked[key] = self._asked[key]
            if group.writable:
                self._take_next(group)
            self._tell_sites(group)
        self._deadlines.keep(keys)
        self._asked = asked
        return len(keys)

    def followed(self, session: Served, group: str) -> None:
        """A secondary has come: it knows what was asked for before anything else is sent to it."""
        found = self._pool.state.groups.get(group)
        if found is not None:
            self._telling.tell(found, session)

    def _tell_sites(self, group: Group) -> None:
        for session in self._live(group.name).values():
            self._telling.tell(group, session)

    def _left(self, group: Group, request: CopyRequest) -> float:
        """Seconds until a request is given up."""
        return self._deadlines.left((group.name, request.id), request.stamp, request.seconds)

    def _look_at(self, group: Group, request: CopyRequest, site: SiteState) -> None:
        if site.peer == self._pool.identity:
            self._settle_here(group, request, site)
            return
        seen = self._seen(group, request, site)
        while (found := look(seen)) is not None:
            event, why = found
            self._move(group, request, site, event, why, withdraw=not request.keep_late)
            seen = self._seen(group, request, site)
        if site.withdraw and not seen.follows and not self._may_come(group, request):
            self._note(group, request, site, site.state, site.detail)  # it cannot be told any more
        live = self._live(group.name).get(site.peer)
        if live is not None and to_ask(seen, withdraw=site.withdraw):
            self._ask(group, request, site, live)

    def _settle_here(self, group: Group, request: CopyRequest, site: SiteState) -> None:
        """This site was asked by the old primary, and has taken over: what came late goes."""
        if site.withdraw:
            kept, what = withdraw(self._pool, group, request)
            detail = "; ".join(text for text in (site.detail, what) if text)
            self._note(group, request, site, site.state, detail, kept)

    def _may_come(self, group: Group, request: CopyRequest) -> bool:
        """Whether sites that followed the old primary may still come to this one."""
        if not request.inherited or group.role != "primary":
            return False
        key = (_TAKEOVER + group.name, request.id)
        return self._deadlines.left(key, group.promoted_stamp, SETTLED_S) > 0

    def _seen(self, group: Group, request: CopyRequest, site: SiteState) -> Seen:
        session = group.sessions.get(site.peer)
        live = self._live(group.name).get(site.peer)
        acked = max(session.cut if session else 0, live.acked if live else 0)
        mark = group.mark(acked)
        keeps = session is not None and session.keeps_log and (mark is not None or not acked)
        after = request.lsn or request.behind
        behind = (m.cut for m in group.marks if after and m.lsn > after)
        return Seen(
            state=At(site.state),
            follows=session is not None and group.role == "primary",
            keeps_log=keeps,
            late=self._left(group, request) <= 0,
            cut_behind=min(behind, default=0),
            placed=max(session.sent_cut if session else 0, acked),
            acked=acked,
            overtaken=group.role != "primary",
            inherited=self._may_come(group, request),
        )

    def _ask(self, group: Group, request: CopyRequest, site: SiteState, live: Served) -> None:
        key, now = (group.name, request.id, site.peer), self._pool.world.clock.monotonic()
        if (
            now - self._asked.get(key, -ASK_AGAIN_S) < ASK_AGAIN_S
            or ASKING not in live.talk.capabilities
        ):
            return
        self._asked[key] = now
        question = CopyQuestion(
            request=request.id, name=request.name, stamp=request.taken, withdraw=site.withdraw
        )
        with suppress(IsochroneError):
            live.talk.post(question)

    def hear(self, group: str, peer: str, said: CopyAnswer) -> None:
        """What a site says of a copy. It is believed about itself, and only when it was asked."""
        found = self._pool.state.groups.get(group)
        request = next((x for x in found.requests if x.id == said.request), None) if found else None
        site = request.site(peer) if request else None
        if found is None or request is None or site is None:
            return
        if (group, request.id, peer) not in self._asked:
            return
        match said.outcome:
            case "here" if site.state in ARRIVING:
                self._move(found, request, site, Event.CONFIRMED, copy=said.name)
            case "absent" if site.state in ARRIVING:
                why = "the site went past the instant without this copy: it was deleted, or the"
                self._move(found, request, site, Event.ABSENT, f"{why} mirror began anew")
            case "withdrawn" | "kept" if site.withdraw:
                late = "it came late and was deleted there"
                if said.outcome == "kept":
                    late = f"it came late, and stays there: {said.detail}"
                self._note(found, request, site, site.state, f"{site.detail}; {late}", said.name)

    def noted(self, group: str, session: Served, token: int) -> None:
        """A site has a list of requests on record. Those that are on their way are ARMED there."""
        found = self._pool.state.groups.get(group)
        ids = self._telling.noted(session, token)
        for request in list(found.requests) if found is not None else ():
            site = request.site(session.peer)
            on_its_way = site is not None and site.state in (At.LOCAL_DONE, At.SENT)
            if found is not None and site is not None and request.id in ids and on_its_way:
                self._move(found, request, site, Event.NOTED)

    def cancel(self, id: str) -> CopyRequest:
        """Give a request up wherever it is not done; what still comes there goes again.

        The copy here stays. Flush before telling. Raises `NotFound`, or `Conflict` if another site
        took the group over.
        """
        group, request = self.find(id)
        if group.role != "primary":
            raise Conflict(
                f"group {group.name!r} is {group.standing} here: the request is not this site's",
                hint="cancel it at the primary",
            )
        for site in [x for x in request.sites if At(x.state) not in FINAL]:
            self._move(group, request, site, Event.CANCELLED, "cancelled", withdraw=True)
        return request

    def _move(
        self, group: Group, request: CopyRequest, site: SiteState, event: Event, why: str = "",
        copy: str = "", *, withdraw: bool = False,
    ) -> None:  # fmt: skip
        before = At(site.state)
        state = move(before, event)
        # What was never taken cannot come late.
        owed = withdraw and state is At.EXPIRED and before is not At.NEW
        owed = owed and (site.peer in group.sessions or self._may_come(group, request))
        log.info(
            f"request {before} -> {state}",
            group=group.name, request=request.id, site=site.peer, why=why or str(event),
        )  # fmt: skip
        self._note(group, request, site, state, why, copy, withdraw=owed)

    def _note(
        self, group: Group, request: CopyRequest, site: SiteState, state: str, why: str,
        copy: str = "", *, withdraw: bool = False,
    ) -> None:  # fmt: skip
        note_state(self._pool, group, request, site, state, why, copy, withdraw=withdraw)
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for a request."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _take_next(self, group: Group) -> None:
        """Take the copies that wait, in the order in which they were asked for.

        One that waits for a site does not keep those waiting that are not for that site.
        """
        for request in group.requests:
            if request.lsn or request.inherited or finished(request):
                continue  # what was inherited without its copy never comes
            open_at = [site for site in request.sites if site.state == At.NEW]
            followed = all(site.peer in group.sessions for site in open_at)
            if not followed or not all(self.duplex(group, site.peer) for site in open_at):
                continue
            names = [self._pool.state.volumes[id].name for id in request.volumes]
            try:
                for site in open_at:
                    self._check_understood(group, site.peer)
                copies.take(
                    self._pool, names,
                    name=request.name, writable=request.writable, request=request.id,
                )  # fmt: skip
            except IsochroneError as e:
                for site in open_at:
                    self._move(group, request, site, Event.DENIED, e.message)
            self.tell()

    # -- waiting

    async def wait(self, id: str, seconds: float) -> CopyRequest:
        """Until every site is done.

        Raises `DeadlinePassed`, or `Conflict` if a site will never be.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(At(x.state) not in FINAL for x in self.find(id)[1].sites):
                    await self.changed.wait()
        group, request = self.find(id)
        bad = [x for x in request.sites if x.state != At.DONE]
        if not bad:
            await self._pool.flush()  # what was heard must not be forgotten once it is told
            return request
        names = {site.peer: group.sessions[site.peer].site or site.peer
                 for site in bad if site.peer in group.sessions}  # fmt: skip
        words = "; ".join(
            f"{names.get(x.peer, x.peer)}: {x.state}" + (f", {x.detail}" if x.detail else "")
            for x in bad
        )
        copy = f"the copy {request.name!r} is not at all sites" if request.lsn else "no copy yet"
        hint = "see: isochrone copy requests"
        if all(At(x.state) in FINAL for x in bad) and not any(x.state == At.EXPIRED for x in bad):
            raise Conflict(f"{copy}: {words}", hint=hint)
        raise DeadlinePassed(f"{copy}: {words}", hint=hint)

    def listed(self) -> Iterator[tuple[Group, CopyRequest]]:
        """All requests, the oldest of a group first."""
        for name in sorted(self._pool.state.groups):
            group = self._pool.state.groups[name]
            for request in group.requests:
                yield group, request
