"""What a secondary promises: kept over restarts, the same when asked again, and never for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import Conflict, PeerFault
from isochrone.mirror.messages import Answer, CopyAnswer, CopyQuestion, Query, Release, RemoteVolume
from isochrone.mirror.query import Reason
from isochrone.mirror.reservations import RESERVATIONS_MAX, Deadlines, Replies
from isochrone.store import copies, relations, volumes
from isochrone.store.relations import Wish
from isochrone.types import MIB
from tests.mirror.sites import GROUP, Two, play, sleep


def query(two: Two, op: str, count: int = 1, **more: Any) -> Query:
    pool = two.a.pool
    found = [pool.state.volumes[id] for id in pool.state.groups[GROUP].volumes]
    options: dict[str, Any] = {
        "op": op,
        "volumes": tuple(RemoteVolume(v.id, v.name, v.size) for v in found),
        "targets": (found[-1].id,),
        "relations": count,
        "seconds": 20.0,
    }
    return Query(**(options | more))


async def say(two: Two, replies: Replies, question: Any) -> Answer | CopyAnswer | None:
    answer: Answer | CopyAnswer | None = await two.b.call(replies.to(question))
    return answer


async def reason(two: Two, question: Query) -> str:
    answer = await say(two, Replies(two.b.pool, GROUP), question)
    assert isinstance(answer, Answer)
    assert answer.op == question.op
    return answer.reason


def test_a_promise_takes_places_from_everybody() -> None:
    async def scenario(two: Two) -> None:
        left = relations.RELATIONS_MAX
        assert await reason(two, query(two, "x", left - 1)) == Reason.YES
        assert await reason(two, query(two, "y", 2)) == Reason.RELATION_LIMIT
        assert await reason(two, query(two, "z", 1)) == Reason.YES
        volumes.create(two.b.pool, "one", MIB)
        volumes.create(two.b.pool, "two", MIB)
        with pytest.raises(Conflict, match="at most"):
            relations.establish(two.b.pool, [Wish("one", "two")])
        await say(two, Replies(two.b.pool, GROUP), Release(op="z"))
        relations.establish(two.b.pool, [Wish("one", "two")])

    play(scenario)


def test_the_same_question_has_the_same_answer() -> None:
    async def scenario(two: Two) -> None:
        replies = Replies(two.b.pool, GROUP)
        for count, op in ((1, "good"), (relations.RELATIONS_MAX + 1, "bad")):
            first = await say(two, replies, query(two, op, count))
            lsn = two.b.pool.log.lsn
            assert await say(two, replies, query(two, op, count)) == first
            assert two.b.pool.log.lsn == lsn
        # Also where the reasons are gone by now.
        again = await say(two, replies, query(two, "bad", 1))
        assert isinstance(again, Answer)
        assert again.reason == Reason.RELATION_LIMIT

    play(scenario)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"volumes": (RemoteVolume(999, "nix", MIB),)}, Reason.VOLUME),
        ({"dry": True}, Reason.YES),
    ],
)
def test_reasons(more: dict[str, Any], why: Reason) -> None:
    async def scenario(two: Two) -> None:
        assert await reason(two, query(two, "x", **more)) == why
        assert two.b.group().reservations == []

    play(scenario)


def test_nonsense_is_a_fault_of_the_peer() -> None:
    async def scenario(two: Two) -> None:
        for more in ({"op": ""}, {"volumes": ()}):
            with pytest.raises(PeerFault):
                await say(two, Replies(two.b.pool, GROUP), query(two, "x").__replace__(**more))

    play(scenario)


def test_space_and_number_are_bounded() -> None:
    async def scenario(two: Two) -> None:
        two.b.pool.space.tight = True
        assert await reason(two, query(two, "x")) == Reason.SPACE
        two.b.pool.space.tight = False
        for n in range(RESERVATIONS_MAX):
            assert await reason(two, query(two, f"op{n}")) == Reason.YES
        assert await reason(two, query(two, "one too many")) == Reason.BUSY

    play(scenario)


def test_a_held_copy_is_not_withdrawn() -> None:
    async def scenario(two: Two) -> None:
        copy = copies.take(two.a.pool, ["db"], name="c")
        await two.b.wait(copy="c")
        from isochrone.store import holds

        holds.pin(two.b.pool, two.b.pool.state.copies["c"], "kept")
        replies = Replies(two.b.pool, GROUP)
        question = CopyQuestion(request="x", name="c", stamp=copy.stamp, withdraw=True)
        answer = await say(two, replies, question)
        assert isinstance(answer, CopyAnswer)
        assert (answer.outcome, answer.name) == ("kept", "c")
        assert "c" in two.b.pool.state.copies

    play(scenario)


class Jumping:
    """A clock whose wall jumps."""

    def __init__(self) -> None:
        self.now, self.wall = 100.0, 10**18

    def wall_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("jump", [-(10**15), 0, 10**15])
def test_a_deadline_does_not_follow_a_jump(jump: int) -> None:
    clock = Jumping()
    deadlines = Deadlines(clock)
    assert deadlines.left(("g", "x"), 10**18, 20.0) == 20.0
    clock.wall += jump
    clock.now += 5.0
    assert deadlines.left(("g", "x"), 10**18, 20.0) == 15.0
    fresh = Deadlines(clock).left(("g", "x"), 10**18, 20.0)  # after a restart
    assert 0.0 <= fresh <= 20.0
    deadlines.keep([])
    assert deadlines.left(("g", "x"), clock.wall, 20.0) == 20.0


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.floats(0.1, 15.0)),
        st.tuples(st.sampled_from(["restart", "power", "commit"]), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(ACTS)
def test_nothing_leaks(acts: list[tuple[str, float]]) -> None:
    """A model: who was answered yes has its place until it lets go, or at most its time long."""

    async def scenario(two: Two) -> None:
        promised: dict[str, float] = {}  # op -> when it is gone at the latest
        now = 0.0
        for act, value in acts:
            match act:
                case "ask":
                    assert await reason(two, query(two, f"op{value}")) == Reason.YES
                    # A restart may give all of its time again; there are at most so many acts.
                    promised.setdefault(f"op{value}", now + 20.0)
                case "release":
                    await say(two, Replies(two.b.pool, GROUP), Release(op=f"op{value}"))
                    await two.b.call(two.b.pool.flush())
                    promised.pop(f"op{value}", None)
                case "pass":
                    await sleep(value)
                    now += value
                case "commit":
                    two.a.write("db", 1, f"at {now}")
                    await two.b.wait()
                case _:
                    await two.b.restart(power=act == "power")
            promised = {op: end for op, end in promised.items() if end > now - 1.0}
            held = {x.op for x in two.b.group().reservations}
            assert held <= set(promised)
            assert held >= {op for op, end in promised.items() if end > now + 1.5 + 0.1 * len(acts)}
            assert two.b.pool.state.reserved_relations() == len(held)
        await sleep(21.0)
        assert two.b.group().reservations == []

    play(scenario)
