"""The primary's side of asking: it asks its secondaries before it acts, and counts the answers.

Nobody waits for this but who gave the command: writers are not held. What the primary itself can
see is checked before, and again after, the round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from isochrone.errors import IsochroneError
from isochrone.mirror.capabilities import ASKING
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import (
    GROUP_VOLUMES_MAX,
    RESERVATION_SECONDS_MAX,
    Answer,
    CopyAnswer,
    Noted,
    Query,
    Release,
    RemoteVolume,
)
from isochrone.mirror.query import Link, Reason, Step, configuration
from isochrone.mirror.requests import Requests
from isochrone.mirror.reservations import Deadlines, expire
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.overwrite import Changes
from isochrone.store.pool import Pool

ASKED_AT_ONCE_MAX: Final = 16  # commands; each waits for a round trip, the next wait their turn
PROMISES_MAX: Final = 256  # reservations to let go of once the command has arrived
RESERVED_S: Final = 120.0  # beyond the deadline: a mirror that lags more carries it out unreserved
LOOK_S: Final = 0.25  # between looks while anything is open: a quarter of the usual interval
FAILED_S: Final = 30.0  # to the next try after the pool refused a record

log = structlog.get_logger()


class Served(Protocol):
    """A connection of a secondary that follows a group of ours."""

    peer: str

    @property
    def acked(self) -> int:
        """Newest cut that it has hardened."""
        ...

    @property
    def phase(self) -> str:
        """Of a first copy or a resend; empty: only cuts go to it."""
        ...

    @property
    def talk(self) -> Conversation: ...


Live = Callable[[str], Mapping[str, Served]]  # the connections of a group, by peer


@dataclass(slots=True)
class _Promise:
    """A command was given: its reservations end when all have it."""

    op: str
    group: str
    lsn: int
    peers: set[str]


@dataclass(slots=True)
class _Open:
    """A query that waits for its answers."""

    waiting: set[str]
    answers: dict[str, Answer] = field(default_factory=dict)
    all_here: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one command would do to volumes of one group."""

    group: str
    sources: frozenset[int]
    targets: frozenset[int]
    relations: int  # that it leaves on record


def plans(pool: Pool, changes: Changes, relations: int) -> list[Plan]:
    """What a command does to each group that is followed; the relations count for each of them."""
    found: dict[str, tuple[set[int], set[int]]] = {}
    for target, sources in changes.items():
        group = pool.state.groups.get(pool.state.volumes[target].group)
        if group is not None and group.sessions:
            read, written = found.setdefault(group.name, (set(), set()))
            read.update(sources)
            written.add(target)
    return [
        Plan(name, frozenset(read), frozenset(written), relations)
        for name, (read, written) in sorted(found.items())
    ]


class Asking:
    """Asks the secondaries of a pool's groups, and keeps what was promised either way in order."""

    def __init__(self, pool: Pool, live: Live) -> None:
        self._pool = pool
        self._live = live
        self._open: dict[str, _Open] = {}
        self._turn = asyncio.Semaphore(ASKED_AT_ONCE_MAX)
        self._promises: list[_Promise] = []
        self._deadlines = Deadlines(pool.world.clock)
        self._news = asyncio.Event()
        self.requests = Requests(pool, live)
        pool.on_change.append(self._changed)

    # -- asking

    async def ask(
        self, plan: Plan, op: str, *, seconds: float, dry: bool = False, only: Sequence[str] = ()
    ) -> list[Step]:
        """What is known, and what the secondaries (`only` these) answer, up to the first no.

        No message is sent if what is known here says no already. Never raises for a peer.
        """
        group = self._pool.state.groups.get(plan.group)
        volumes, involved = self._pool.state.volumes, sorted(plan.sources | plan.targets)
        if group is None or not group.sessions or not all(id in volumes for id in involved):
            return []  # gone while other sites were asked: what is checked next says so
        names = {volumes[id].name: id for id in plan.sources}
        peers = [peer for peer in group.sessions if not only or peer in only]
        steps = configuration(group.name, group.volumes, names, self._links(group, peers))
        if not all(step.ok for step in steps) or len(involved) > GROUP_VOLUMES_MAX:
            return steps
        query = Query(
            op=op,
            volumes=tuple(RemoteVolume(id, volumes[id].name, volumes[id].size) for id in involved),
            targets=tuple(sorted(plan.targets)),
            relations=plan.relations and plan.relations + self._on_the_way(group),
            seconds=min(seconds + RESERVED_S, RESERVATION_SECONDS_MAX),
            dry=dry,
        )
        answers: dict[str, Answer] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._turn:
                answers = await self._answers(group.name, peers, query, answers)
        no = any(answer.reason != Reason.YES for answer in answers.values())
        for peer in peers:
            if peer in answers or not no:  # after a no, the others were not waited for
                steps.append(_answered(self._site(group, peer), answers.get(peer)))
        return steps

    async def ask_for_copy(
        self, group: str, volumes: Sequence[str], at: Sequence[str], *, seconds: float
    ) -> list[Step]:
        """Whether sites could have a copy of volumes of a group now; no room is kept for it.

        Raises `NotFound` or `InvalidInput`, but nothing for what is in the way.
        """
        found = find_group(self._pool, group)
        peers, sources = self.requests.chosen(found, volumes, at)
        question = "may it be taken at this site?"
        if not found.writable:
            detail = f"group {group!r} is {found.standing} here"
            return [Step("local", question, ok=False, reason=Reason.LOCAL, detail=detail)]
        plan = Plan(group, frozenset(sources), frozenset(), 0)
        op = self._pool.world.dice.identity()
        steps = await self.ask(plan, op, seconds=seconds, dry=True, only=peers)
        return [Step("local", question, ok=True), *steps]

    async def _answers(
        self, group: str, peers: Sequence[str], query: Query, answers: dict[str, Answer]
    ) -> dict[str, Answer]:
        """Fills `answers` as they come, so that those before a timeout count."""
        waiting = self._open[query.op] = _Open(set(peers), answers)
        try:
            for peer, session in self._live(group).items():
                if peer in waiting.waiting:
                    with suppress(IsochroneError):
                        session.talk.post(query)
            await waiting.all_here.wait()
        finally:
            del self._open[query.op]
        return answers

    def _links(self, group: Group, peers: Sequence[str]) -> list[Link]:
        live = self._live(group.name)
        return [
            Link(
                self._site(group, peer),
                connected=peer in live,
                suspended=group.sessions[peer].cause,
                duplex=self.requests.duplex(group, peer),
                knows=peer in live and ASKING in live[peer].talk.capabilities,
            )
            for peer in peers
        ]

    def _on_the_way(self, group: Group) -> int:
        """Relations that a secondary may not have yet: they need places before this one.

        One whose reservation still stands is counted twice; that matters only near the limit.
        """
        acked = [session.acked for session in self._live(group.name).values()]
        mark = group.mark(min(acked, default=0))
        since = mark.lsn if mark is not None else 0
        relations = self._pool.state.relations.values()
        return sum(x.group == group.name and x.lsn > since for x in relations)

    def _site(self, group: Group, peer: str) -> str:
        session = group.sessions.get(peer)
        return (session.site if session else "") or peer

    def followed(self, session: Served, group: str) -> None:
        """A secondary has come to follow a group."""
        self.requests.followed(session, group)

    def hear(self, group: str, peer: str, said: Answer | CopyAnswer | Noted) -> None:
        """An answer came. What nobody asked, or not any more, is ignored."""
        if isinstance(said, Noted):
            session = self._live(group).get(peer)
            if session is not None:
                self.requests.noted(group, session, said.token)
            return
        if isinstance(said, CopyAnswer):
            self.requests.hear(group, peer, said)
            return
        asked = self._open.get(said.op)
        if asked is not None and peer in asked.waiting:
            asked.waiting.discard(peer)
            asked.answers[peer] = said
            # One no is enough: whoever asked may be told at once.
            if not asked.waiting or said.reason != Reason.YES:
                asked.all_here.set()

    # -- afterwards

    def given(self, plan: Plan, op: str) -> None:
        """The command is on record: its reservations end where it has arrived."""
        group = self._pool.state.groups.get(plan.group)
        if group is None:
            return
        peers = set(group.sessions)
        self._promises.append(_Promise(op, plan.group, self._pool.log.lsn, peers))
        del self._promises[:-PROMISES_MAX]  # the oldest end by themselves
        self._news.set()

    def withdrawn(self, plan: Plan, op: str) -> None:
        """The command will not come: let go at once where that can be told."""
        for session in self._live(plan.group).values():
            _release(session, op)

    def _changed(self, lsn: int, record: r.AnyRecord) -> None:
        if isinstance(record, _NEWS):
            self._news.set()

    async def run(self) -> None:
        """Until cancelled. Looks only while something is open."""
        while True:
            self._news.clear()
            try:
                left = expire(self._pool, self._deadlines)
                self._settle()
                left += len(self._promises) + self.requests.look()
            except IsochroneError as e:  # the pool takes no records now; it may again
                log.warning("promises between sites are not looked after", reason=e.message)
                await self._pool.world.clock.sleep(FAILED_S)
                continue
            if left:
                await self._pool.world.clock.sleep(LOOK_S)
            else:
                await self._news.wait()

    def _settle(self) -> None:
        for promise in list(self._promises):
            group = self._pool.state.groups.get(promise.group)
            if group is None or group.role != "primary":
                self._promises.remove(promise)
                continue
            promise.peers &= set(group.sessions)
            for peer, session in self._live(promise.group).items():
                mark = group.mark(session.acked)
                if peer in promise.peers and mark is not None and mark.lsn >= promise.lsn:
                    _release(session, promise.op)
                    promise.peers.discard(peer)
            if not promise.peers:
                self._promises.remove(promise)


_NEWS: Final = (
    r.ReservationMade, r.CopyRequested, r.RequestMoved, r.Promoted, r.Fenced, r.Rejoined
)  # fmt: skip


def _release(session: Served, op: str) -> None:
    """If it cannot be told, the reservation ends by itself."""
    if ASKING in session.talk.capabilities:
        with suppress(IsochroneError):
            session.talk.post(Release(op=op))


def _answered(site: str, answer: Answer | None) -> Step:
    question = "can the secondary do the same, and keep room for it?"
    if answer is None:
        return Step("secondary", question, ok=False, reason=Reason.DEADLINE, site=site,
                    detail="no answer in time")  # fmt: skip
    try:
        reason = Reason(answer.reason)
    except ValueError:  # of a newer version
        reason = Reason.VERSION
    return Step("secondary", question, ok=reason is Reason.YES, reason=reason, site=site,
                detail=answer.detail)  # fmt: skip
