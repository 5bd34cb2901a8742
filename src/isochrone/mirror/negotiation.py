"""One command with all that comes before and after it: check, ask, check again, act, let go.

here  --no-->  refused; no message was sent
 | yes
what is known of the secondaries, and what they answer
 |  no, `required`: refused     no, `preferred`: it goes its way without a reservation
 | yes: each keeps room
here, again, and in the same step the record
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from isochrone.errors import Conflict, DeadlinePassed, InvalidInput, IsochroneError
from isochrone.mirror.asking import Asking, Plan, plans
from isochrone.mirror.query import ASK, Policy, Reason, Step, Way, allows, first_no, way
from isochrone.store.overwrite import Changes, Permission, Rehearsed, from_outside
from isochrone.store.pool import Pool

ANSWER_S: Final = 5.0  # a round trip around the world takes a third of a second
ANSWER_S_MAX: Final = 60.0  # whoever gave the command waits for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command went, or would go."""

    steps: tuple[Step, ...]
    way: Way


class Negotiation:
    """One command that changes volumes at once. `act` checks everything and appends one record."""

    def __init__(
        self,
        pool: Pool,
        asking: Asking,
        act: Callable[[Permission], object],
        permission: Permission,
        *,
        relations: int = 0,
        seconds: float = ANSWER_S,
    ) -> None:
        if not 0 < seconds <= ANSWER_S_MAX:
            raise InvalidInput(f"an answer is waited for at most {ANSWER_S_MAX:g} s")
        self._pool = pool
        self._asking = asking
        self._act = act
        self._permission = permission
        self._relations = relations  # that it leaves on record
        self._seconds = seconds
        self._op = pool.world.dice.identity()

    # -- only asked

    async def check(self) -> Outcome:
        """The whole chain, with nothing done and no room kept."""
        policy: Policy = self._permission.mirror
        # What would travel as data is told by the chain, not by the check of this site.
        permission = replace(self._permission, mirror="none")
        try:
            changes = self._rehearse(permission)
        except IsochroneError as e:
            no = Step("local", _HERE, ok=False, reason=Reason.LOCAL, detail=e.message)
            return Outcome((no,), Way.LOCAL)
        steps = [Step("local", _HERE, ok=True)]
        for plan in plans(self._pool, changes, self._relations):
            steps += await self._asking.ask(plan, self._op, seconds=self._seconds, dry=True)
            if first_no(steps) is not None and policy == "required":
                break
        return self._outcome(changes, steps)

    # -- done

    async def run(self) -> Outcome:
        """Do it as the policy says.

        Raises what the act raises, `Conflict` or `DeadlinePassed`. Then nothing has changed here,
        and reservations end by themselves where it cannot be told.
        """
        changes = self._allowed()
        if self._permission.mirror not in ASK:
            self._act(self._permission)
            return self._outcome(changes, [])
        steps = [Step("local", _HERE, ok=True)]
        asked: list[Plan] = []
        try:
            for plan in plans(self._pool, changes, self._relations):
                asked.append(plan)
                steps += await self._asking.ask(plan, self._op, seconds=self._seconds)
                if not allows(self._permission.mirror, steps):
                    raise _refused(steps)
            if self._allowed() != changes:
                raise Conflict("what the command would change has changed meanwhile: repeat it")
            self._act(self._permission)
        except BaseException:
            self._let_go(asked)
            raise
        if first_no(steps) is None:
            for plan in asked:
                self._asking.given(plan, self._op)
        else:
            self._let_go(asked)
        return self._outcome(changes, steps)

    def _let_go(self, asked: Sequence[Plan]) -> None:
        for plan in asked:
            self._asking.withdrawn(plan, self._op)

    def _allowed(self) -> Changes:
        """What the act would change. If it is refused, it is the act that says so, to the audit."""
        try:
            return self._rehearse(self._permission)
        except IsochroneError:
            self._act(self._permission)
            raise

    def _rehearse(self, permission: Permission) -> Changes:
        """What the act would change. Raises what it would raise."""
        try:
            self._act(replace(permission, rehearse=True))
        except Rehearsed as e:
            return {id: frozenset(sources) for id, sources in e.changes.items()}
        raise AssertionError("a rehearsed command came to its end")

    def _outcome(self, changes: Changes, steps: Sequence[Step]) -> Outcome:
        groups = self._pool.state.groups
        found = plans(self._pool, changes, 0)
        inside = all(not from_outside(groups[x.group], x.sources) for x in found)
        return Outcome(tuple(steps), way(steps, followed=bool(found), inside=inside))


_HERE: Final = "may it be done at this site?"


def _refused(steps: Sequence[Step]) -> IsochroneError:
    no = first_no(steps)
    assert no is not None
    where = f" at {no.site}" if no.site else ""
    words = f"refused{where} ({no.reason}): {no.detail}; nothing has changed"
    hint = "--mirror preferred does it anyway; see: isochrone relation check"
    if no.reason is Reason.DEADLINE:
        return DeadlinePassed(words, hint=hint)
    return Conflict(words, hint=hint)
