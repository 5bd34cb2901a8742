"""The secondary's answers: whether a command could be carried out here, and whether a copy came.

A yes is kept: a *reservation* on record holds places in the table of relations until the command
has come, the primary lets go, or the time is over. The time is measured here, by a clock that does
not jump; after a restart what is left of it by the wall clock counts, never more than all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from isochrone.errors import Conflict, PeerFault
from isochrone.mirror.inherited import find_copy, note
from isochrone.mirror.messages import (
    TEXT_CHARS_MAX,
    Answer,
    CopyAnswer,
    CopyQuestion,
    Noted,
    Query,
    Release,
    Requests,
)
from isochrone.mirror.query import Asked, Reason, Standing, verdict
from isochrone.store import copies
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.store.relations import RELATIONS_MAX
from isochrone.world.clock import Clock

RESERVATIONS_MAX: Final = 64  # of a group: each checkpoint writes them; a command takes seconds
REFUSALS_KEPT: Final = 64  # of a group, so that who asks again hears the same; only in memory

Question = Query | Release | CopyQuestion | Requests


class Deadlines:
    """When things on record are over, by a clock that does not jump."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[tuple[str, str], float] = {}

    def left(self, key: tuple[str, str], stamp: int, seconds: float) -> float:
        """Seconds that are left to something made at a wall-clock stamp, for so many seconds."""
        now = self._clock.monotonic()
        if key not in self._ends:
            passed = (self._clock.wall_ns() - stamp) / 1e9
            self._ends[key] = now + min(seconds, max(0.0, seconds - passed))
        return self._ends[key] - now

    def keep(self, keys: Iterable[tuple[str, str]]) -> None:
        """Forget all others."""
        live = set(keys)
        self._ends = {key: end for key, end in self._ends.items() if key in live}


class Replies:
    """What one followed group answers its primary."""

    def __init__(self, pool: Pool, group: str) -> None:
        self._pool = pool
        self._name = group
        self._refused: OrderedDict[str, Answer] = OrderedDict()

    @property
    def _group(self) -> Group:
        return self._pool.state.groups[self._name]

    async def to(self, question: Question) -> Answer | CopyAnswer | Noted | None:
        """The answer; what it promises is durable. Raises `PeerFault` for nonsense."""
        match question:
            case Query():
                answer = self._consider(question)
                if answer.reason == Reason.YES and not question.dry:
                    await self._pool.flush()
                return answer
            case Release(op=op):
                release(self._pool, self._group, op)
                return None
            case CopyQuestion():
                found = self._look_for(question)
                await self._pool.flush()
                return found
            case Requests():
                noted = note(self._pool, self._group, question)
                await self._pool.flush()
                return noted

    # -- commands

    def _consider(self, query: Query) -> Answer:
        if not query.op or not query.volumes:
            raise PeerFault("the primary asks about a command without a name, or without volumes")
        if any(x.op == query.op for x in self._group.reservations):
            return Answer(op=query.op, reason=Reason.YES)
        if query.op in self._refused:
            return self._refused[query.op]
        reason, detail = verdict(self._standing(query), query.relations)
        answer = Answer(op=query.op, reason=reason, detail=detail[:TEXT_CHARS_MAX])
        if query.dry:
            return answer
        if reason is not Reason.YES:
            self._refused[query.op] = answer
            while len(self._refused) > REFUSALS_KEPT:
                self._refused.popitem(last=False)
            return answer
        self._pool.record(
            r.ReservationMade(
                group=self._name,
                op=query.op,
                relations=query.relations,
                stamp=self._pool.world.clock.wall_ns(),
                seconds=query.seconds,
            )
        )
        return answer

    def _standing(self, query: Query) -> Standing:
        state, group, space = self._pool.state, self._group, self._pool.space
        volumes = []
        for volume in query.volumes:
            id = group.remote_ids.get(volume.id, 0)
            here = state.volumes.get(id)
            volumes.append(
                Asked(
                    volume.name,
                    here=here is not None,
                    same_size=here is not None and here.size == volume.size,
                    inhibited=volume.id in query.targets and _protected(self._pool, group, id),
                )
            )
        return Standing(
            volumes=volumes,
            duplex=group.role == "secondary"
            and group.cut > 0
            and (group.incoming is None or group.incoming.base > 0),
            relations_left=RELATIONS_MAX - len(state.relations) - state.reserved_relations(),
            reservations_left=RESERVATIONS_MAX - len(group.reservations),
            tight=space.tight or space.full,
            failed=self._pool.failed,
        )

    # -- copies

    def _look_for(self, question: CopyQuestion) -> CopyAnswer:
        copy = find_copy(self._pool, self._name, question.name, question.stamp)
        if copy is None:
            return CopyAnswer(
                request=question.request, outcome="withdrawn" if question.withdraw else "absent"
            )
        if not question.withdraw:
            return CopyAnswer(request=question.request, outcome="here", name=copy.name)
        try:
            copies.delete(self._pool, copy.name)
        except Conflict as e:
            detail = e.message[:TEXT_CHARS_MAX]
            return CopyAnswer(
                request=question.request, outcome="kept", name=copy.name, detail=detail
            )
        return CopyAnswer(request=question.request, outcome="withdrawn")


def _protected(pool: Pool, group: Group, volume: int) -> bool:
    """Whether a relation that belongs to this site forbids a change of a volume."""
    state = pool.state
    return any(
        state.relations[id].target == volume
        and state.relations[id].inhibit
        and state.relations[id].group != group.name
        for id in state.related.get(volume, ())
    )


def release(pool: Pool, group: Group, op: str) -> bool:
    """Let go of a reservation; whether there was one."""
    if not any(x.op == op for x in group.reservations):
        return False
    pool.record(r.ReservationReleased(group=group.name, op=op))
    return True


def expire(pool: Pool, deadlines: Deadlines) -> int:
    """Let go of all reservations whose time is over; how many are left."""
    keys = []
    for group in pool.state.groups.values():
        for x in group.reservations:
            key = (f"reservation of {group.name}", x.op)
            if deadlines.left(key, x.stamp, x.seconds) <= 0 or group.role != "secondary":
                release(pool, group, x.op)
            else:
                keys.append(key)
    deadlines.keep(keys)
    return len(keys)
